//! Looks after the unfinished claims: serves manifests, and settles what a replica left behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::{Durable, Inner, deadline_of};
use crate::api::agent_claim::{AgentClaim, Driver};
use crate::clock::Monotonic;
use crate::domain::agent_claim::{self as judgement, Duty};

/// All are looked at again after this time at the latest.
const RESYNC: Duration = Duration::from_secs(60);
/// A claim that could not be worked on is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What this replica remembers of claims, by UID.
#[derive(Default)]
pub struct Memory {
    seen: Mutex<HashMap<String, Seen>>,
}

struct Seen {
    driver: Option<Driver>,
    /// Since when its driver stands still, as far as this process saw.
    since: Monotonic,
    busy: bool,
    not_before: Monotonic,
}

impl Durable {
    /// Looks after unfinished claims until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut changes = self.inner.parts.queue.hear_claims();
        while !stop.is_cancelled() {
            changes.borrow_and_update();
            let next = pass(&self.inner);
            tokio::select! {
                _ = changes.changed() => {}
                () = self.inner.parts.clock.sleep(next) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// One look at all of them; when the next is due.
fn pass(inner: &Arc<Inner>) -> Duration {
    let all = inner.parts.unfinished.state();
    inner.keeper.keep_only(&all);
    let mut next = RESYNC;
    for claim in all {
        let now = inner.parts.clock.monotonic();
        let Some(still) = inner.keeper.notice(&claim, now) else {
            continue;
        };
        let deadline = deadline_of(inner.pool_of(&claim).as_deref());
        match judgement::duty(&claim, still, deadline) {
            Duty::None => {}
            Duty::Leave(left) => next = next.min(left),
            Duty::Take => match inner.keeper.begin(&claim, now) {
                Ok(()) => spawn(inner, claim),
                Err(left) => next = next.min(left),
            },
        }
    }
    next
}

fn spawn(inner: &Arc<Inner>, claim: Arc<AgentClaim>) {
    let shared = inner.clone();
    inner.parts.tasks.spawn(async move {
        if let Err(error) = shared.take(&claim).await {
            if error.is_conflict() || error.is_gone() {
                tracing::debug!(claim = %claim.name_any(), %error, "somebody else has it");
            } else {
                tracing::warn!(claim = %claim.name_any(), %error, "not settled; coming back");
            }
        }
        let now = shared.parts.clock.monotonic();
        shared.keeper.end(&claim, now + AGAIN);
        shared.parts.queue.claims_changed();
    });
}

impl Memory {
    /// Notes who drives a claim; for how long that has stood still. `None`: this process works on it.
    fn notice(&self, claim: &AgentClaim, now: Monotonic) -> Option<Duration> {
        self.with(|all| {
            let driver = judgement::driver(claim);
            let seen = all.entry(uid(claim)).or_insert_with(|| Seen {
                driver: driver.clone(),
                since: now,
                busy: false,
                not_before: Duration::ZERO,
            });
            if seen.driver != driver {
                seen.driver = driver;
                seen.since = now;
            }
            (!seen.busy).then(|| now.saturating_sub(seen.since))
        })
    }

    /// Begins to work on a claim; Err: it is too early after the last time.
    fn begin(&self, claim: &AgentClaim, now: Monotonic) -> Result<(), Duration> {
        self.with(|all| match all.get_mut(&uid(claim)) {
            Some(seen) if seen.not_before > now => Err(seen.not_before - now),
            Some(seen) => {
                seen.busy = true;
                Ok(())
            }
            None => Err(AGAIN),
        })
    }

    fn end(&self, claim: &AgentClaim, not_before: Monotonic) {
        self.with(|all| {
            if let Some(seen) = all.get_mut(&uid(claim)) {
                seen.busy = false;
                seen.not_before = not_before;
            }
        });
    }

    fn keep_only(&self, claims: &[Arc<AgentClaim>]) {
        self.with(|all| {
            if all.len() > claims.len() {
                all.retain(|known, seen| seen.busy || claims.iter().any(|c| uid(c) == *known));
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Seen>) -> T) -> T {
        work(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn uid(claim: &AgentClaim) -> String {
    claim.metadata.uid.clone().unwrap_or_default()
}
