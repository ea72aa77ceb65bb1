//! Watches: what changed since a version, in order, as lines of JSON; held back or cut by whoever carries them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::store::{Resource, Seen};
use super::{ApiServer, Refusal};

/// How one client's watches are carried: late, held, cut. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct Reins(Arc<Mutex<Held>>);

#[derive(Clone, Copy, Default)]
struct Held {
    delay: Duration,
    until: Option<Instant>,
    cuts: u64,
}

impl Reins {
    fn with<T>(&self, work: impl FnOnce(&mut Held) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every change arrives so much later.
    pub fn delay(&self, delay: Duration) {
        self.with(|h| h.delay = delay);
    }

    /// Nothing arrives before that moment.
    pub fn hold_until(&self, until: Instant) {
        self.with(|h| h.until = Some(until));
    }

    /// Ends the watches that are open now.
    pub fn cut(&self) {
        self.with(|h| h.cuts += 1);
    }
}

type Scope = (&'static Resource, Option<String>);

struct Open {
    server: ApiServer,
    scope: Scope,
    position: u64,
    ends: Instant,
    reins: Reins,
    cuts: u64,
    over: bool,
}

/// The changes of a scope after `from`; a last line tells how far it came, so that the next watch goes on there.
pub(super) fn stream(
    server: ApiServer,
    scope: Scope,
    from: u64,
    lasts: Duration,
    reins: Reins,
) -> impl Stream<Item = Result<Vec<u8>, Infallible>> + Send + 'static {
    #[allow(
        clippy::disallowed_methods,
        reason = "virtual time is the subject here"
    )]
    let ends = Instant::now() + lasts;
    let open = Open {
        cuts: reins.with(|h| h.cuts),
        server,
        scope,
        position: from,
        ends,
        reins,
        over: false,
    };
    futures::stream::unfold(open, |mut open| async move {
        let line = open.line().await?;
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        Some((Ok(bytes), open))
    })
}

impl Open {
    async fn line(&mut self) -> Option<Value> {
        let changed = self.server.changed.clone();
        loop {
            let changed = changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.over {
                return None;
            }
            let held = self.reins.with(|h| *h);
            if held.cuts != self.cuts {
                return None;
            }
            let next =
                self.server
                    .store()
                    .after(self.scope.0, self.scope.1.as_deref(), self.position);
            #[allow(
                clippy::disallowed_methods,
                reason = "virtual time is the subject here"
            )]
            let now = Instant::now();
            let wait = match next {
                Seen::Gone => {
                    self.over = true;
                    let gone = Refusal::new(410, "Expired", "too old resource version");
                    return Some(json!({"type": "ERROR", "object": gone.to_json()}));
                }
                Seen::Change(change) => {
                    let due = held.until.map_or(change.at, |u| u.max(change.at)) + held.delay;
                    if due <= now {
                        self.position = change.version;
                        return Some(json!({"type": change.kind.word(), "object": *change.object}));
                    }
                    due.min(self.ends)
                }
                Seen::Nothing(version) => {
                    if now >= self.ends {
                        self.over = true;
                        return Some(self.bookmark(version));
                    }
                    self.ends
                }
            };
            if now >= self.ends {
                return None;
            }
            // Err: the time is over; either way it looks again.
            let _ = tokio::time::timeout_at(wait, changed).await;
        }
    }

    fn bookmark(&self, version: u64) -> Value {
        json!({"type": "BOOKMARK", "object": {
            "apiVersion": self.scope.0.api_version, "kind": self.scope.0.kind,
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        }})
    }
}
