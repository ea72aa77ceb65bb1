//! NDJSON answers: one object per line, flushed; a fault may cut them short.

use crate::sprites::answer::Answer;
use crate::sprites::ask::Ask;
use crate::sprites::faults::number;
use crate::world::{Sim, World};
use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// The sending end of an NDJSON answer. The work behind it goes on when nobody reads.
pub struct Lines {
    pieces: Option<UnboundedSender<Bytes>>,
    /// Lines until the cut.
    left: Option<i64>,
}

impl Lines {
    /// Both ends; whether it is cut is settled now.
    pub fn new(sim: &Sim, ask: &Ask) -> (Self, Answer) {
        let mut guard = sim.world();
        let World { sprites, rng, .. } = &mut *guard;
        let fault = sprites
            .rules
            .fires("stream_cut", (ask.operation, &ask.name), rng);
        let (sender, pieces) = unbounded_channel();
        let mut lines = Self {
            pieces: Some(sender),
            left: fault.map(|f| number(&f, "lines", 1)),
        };
        lines.cut_if_due();
        let content_type = "application/x-ndjson";
        (
            lines,
            Answer::Stream {
                content_type,
                pieces,
            },
        )
    }

    fn cut_if_due(&mut self) {
        if self.left == Some(0) {
            self.pieces = None;
        }
    }

    /// Sends one line.
    pub fn send(&mut self, line: &Value) {
        if let Some(pieces) = &self.pieces {
            let _ = pieces.send(Bytes::from(format!("{line}\n")));
        }
        self.left = self.left.map(|n| n - 1);
        self.cut_if_due();
    }
}
