//! The WebSocket of a command: frames, keep-alive, and the faults of a connection (sprites.md 3.2).

use crate::sprites::faults::{number, seconds};
use crate::sprites::life::Status;
use crate::sprites::machine::Machine;
use crate::sprites::power::{self, Hold};
use crate::sprites::sessions::{Event, Session, signal_name};
use crate::world::Sim;
use axum::body::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

/// What faults have in store.
#[derive(Default)]
pub struct Plan {
    /// Closed without an exit frame.
    pub cut: Option<Value>,
    /// No frames for a while.
    pub silent: Option<Value>,
    /// The sprite pauses under the client.
    pub pause: Option<Value>,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Sink = SplitSink<Socket, Message>;

struct Line {
    sink: Sink,
    source: SplitStream<Socket>,
}

/// Serves one connection to its end.
pub async fn serve(
    sim: &Arc<Sim>,
    hold: Hold,
    connection: Upgraded,
    (session, mut events): (Arc<Session>, UnboundedReceiver<Event>),
    plan: Plan,
) {
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await;
    let (sink, source) = socket.split();
    let mut line = Line { sink, source };
    let info = json!({
        "type": "session_info", "session_id": session.id, "command": session.command,
        "created": sim.clock.wall(session.created).as_second(), "cols": 0, "rows": 0, "is_owner": true, "tty": session.tty,
    });
    if line.text(&info).await.is_err() {
        return;
    }
    if let Some(fault) = &plan.silent {
        silent(sim, &mut line, &session, fault).await;
    }
    if let Some(fault) = &plan.pause {
        let (task_sim, id, after) = (sim.clone(), hold.id.clone(), seconds(fault, 0.0));
        sim.spawn(async move {
            task_sim.clock.sleep(after).await;
            power::force(&task_sim, &id, Status::Warm);
        });
    }
    if talk(
        sim,
        &hold,
        &mut line,
        (&session, &mut events),
        plan.cut.as_ref(),
    )
    .await
    {
        drop(hold);
        line.linger(sim).await;
    }
}

/// No frame goes out; pings are answered only if the fault says so.
async fn silent(sim: &Sim, line: &mut Line, session: &Session, fault: &Value) {
    let lasts = seconds(fault, 60.0);
    if fault["pong"].as_bool().unwrap_or(true) {
        let reads = async {
            while let Some(Ok(message)) = line.source.next().await {
                hear(sim, "", session, message);
            }
        };
        sim.clock.timeout(lasts, reads).await;
    } else {
        sim.clock.sleep(lasts).await;
    }
}

/// Output out, input in; true: the exit frame has gone out.
async fn talk(
    sim: &Sim,
    hold: &Hold,
    line: &mut Line,
    (session, events): (&Session, &mut UnboundedReceiver<Event>),
    cut: Option<&Value>,
) -> bool {
    let frames = cut.map(|fault| number(fault, "frames", 0));
    let mut sent = 0;
    loop {
        if let Some(fault) = cut.filter(|_| frames.is_some_and(|most| sent >= most)) {
            line.cut(session, fault).await;
            return false;
        }
        let event = tokio::select! {
            event = events.recv() => event,
            message = line.source.next() => match message {
                Some(Ok(message)) if !message.is_close() => {
                    hear(sim, &hold.id, session, message);
                    continue;
                }
                _ => return false,
            },
        };
        let sending = match event {
            Some(Event::Output(stream, bytes)) => line.output(session.tty, stream, &bytes).await,
            Some(Event::Exit(_)) if cut.is_some() => {
                sent = i64::MAX;
                Ok(())
            }
            Some(Event::Exit(code)) if session.tty => {
                let _ = line.text(&json!({"type": "exit", "exit_code": code})).await;
                return false;
            }
            Some(Event::Exit(code)) => {
                let exit = Message::Binary(Bytes::from(vec![3, code]));
                return line.sink.send(exit).await.is_ok();
            }
            Some(Event::Cut) | None => {
                line.close(CloseCode::Away).await;
                return false;
            }
        };
        if sending.is_err() {
            return false;
        }
        sent = sent.saturating_add(1);
    }
}

impl Line {
    async fn text(&mut self, value: &Value) -> Result<(), ()> {
        let message = Message::Text(value.to_string().into());
        self.sink.send(message).await.map_err(|_| ())
    }

    async fn output(&mut self, tty: bool, stream: u8, bytes: &[u8]) -> Result<(), ()> {
        let frame = if tty {
            bytes.to_vec()
        } else {
            [&[stream], bytes].concat()
        };
        self.sink
            .send(Message::Binary(Bytes::from(frame)))
            .await
            .map_err(|_| ())
    }

    async fn close(&mut self, code: CloseCode) {
        let frame = CloseFrame {
            code,
            reason: "".into(),
        };
        let _ = self.sink.send(Message::Close(Some(frame))).await;
    }

    /// Ends without an exit frame; 1006 is the lack of a close frame.
    async fn cut(&mut self, session: &Session, fault: &Value) {
        if fault["kill"].as_bool().unwrap_or(false) {
            session.signal("KILL");
        }
        let code = number(fault, "code", 1006) as u16;
        if code != 1006 {
            self.close(CloseCode::from(code)).await;
        }
    }

    /// Stays open after the exit frame, as the real one does, then closes.
    async fn linger(&mut self, sim: &Sim) {
        let lasts = sim.world().sprites.knobs.ms("exit_linger_ms");
        let reads = async {
            while let Some(Ok(message)) = self.source.next().await {
                if message.is_close() {
                    break;
                }
            }
        };
        if sim.clock.timeout(lasts, reads).await.is_none() {
            self.close(CloseCode::Normal).await;
        }
    }
}

/// What the client sent.
fn hear(sim: &Sim, sprite: &str, session: &Session, message: Message) {
    match message {
        Message::Binary(bytes) if session.tty => session.feed(Some(bytes.to_vec())),
        Message::Binary(bytes) => match bytes.split_first() {
            Some((0, data)) => session.feed(Some(data.to_vec())),
            Some((4, _)) => session.feed(None),
            _ => {}
        },
        Message::Text(text) => {
            let value: Value = serde_json::from_str(text.as_str()).unwrap_or_default();
            match value["type"].as_str() {
                Some("signal") => {
                    if let Some(signal) = value["signal"].as_str().and_then(signal_name) {
                        session.signal(signal);
                    }
                }
                Some("resize") => resize(sim, sprite, session, &value),
                _ => {}
            }
        }
        _ => {}
    }
}

fn resize(sim: &Sim, sprite: &str, session: &Session, value: &Value) {
    let size = |key: &str| value[key].as_u64().filter(|n| (1..=1000).contains(n));
    let (Some(rows), Some(cols)) = (size("rows"), size("cols")) else {
        return;
    };
    let Ok(machine) = Machine::of(sim, sprite) else {
        return;
    };
    let place = machine.run().join(format!("tty.{}", session.pid));
    let Ok(terminal) = std::fs::read_to_string(place) else {
        return;
    };
    let (rows, cols) = (rows.to_string(), cols.to_string());
    let mut command = Command::new("stty");
    command.args(["-F", terminal.trim(), "rows", &rows, "cols", &cols]);
    let _ = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
}
