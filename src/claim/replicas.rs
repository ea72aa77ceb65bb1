//! Which replicas claim at this moment: learnt from the holders of reservations that the watch shows anyway.
//!
//! No list of pods, no lease, no right more. Who has not claimed for a while is in nobody's way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::api::AgentInstance;
use crate::clock::{Clock, Monotonic};
use crate::domain::candidates::Preference;
use crate::domain::instance::phase::{Phase, phase_of};

/// A replica counts as long as a reservation of it was seen within this time.
const RECENT: Duration = Duration::from_secs(10);
/// More than so many are forgotten: a preference need not be right.
const MOST: usize = 64;

/// The replicas that claim, as this one sees it.
pub struct Replicas {
    me: String,
    clock: Clock,
    seen: Mutex<HashMap<String, Monotonic>>,
}

impl Replicas {
    /// As `me` sees it: the holder in this process's own claims.
    pub fn new(me: String, clock: Clock) -> Self {
        Self {
            me,
            clock,
            seen: Mutex::default(),
        }
    }

    /// An instance changed: its reservation, where it is in flight, tells of a replica.
    pub fn seen(&self, instance: &AgentInstance) {
        let Some(claim) = &instance.spec.claim else {
            return;
        };
        if claim.holder == self.me || phase_of(instance) != Phase::Claiming {
            return;
        }
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = seen.get_mut(&claim.holder) {
            *at = now;
            return;
        }
        if seen.len() >= MOST {
            seen.clear();
        }
        seen.insert(claim.holder.clone(), now);
    }

    /// Which candidates this replica prefers now.
    pub fn preference(&self) -> Preference {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| now.saturating_sub(*at) < RECENT);
        Preference::new(&self.me, seen.keys().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(holder: &str, is_settled: bool) -> AgentInstance {
        let outcome = is_settled.then(|| serde_json::json!({"id": "c", "outcome": "Bound"}));
        let object = serde_json::json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": "a"},
            "spec": {"id": "a", "poolRef": {"name": "p"}, "providerName": "a", "turn": 1,
                "template": {"revision": "r", "hash": "h"},
                "claim": {"id": "c", "holder": holder, "deadline": "2026-01-01T00:00:00Z",
                    "requestedAt": "2026-01-01T00:00:00Z", "agentName": "A"}},
            "status": {"turn": 1, "claim": outcome},
        });
        serde_json::from_value(object).unwrap()
    }

    fn share(replicas: &Replicas) -> usize {
        let preference = replicas.preference();
        let ids = (0..1_000).map(|i| format!("agent{i:07}"));
        ids.filter(|id| preference.is_mine(id)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_counts_while_its_reservations_are_seen() {
        let clock = Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH);
        let replicas = Replicas::new("me".to_owned(), clock.clone());
        // What is settled says nothing of now, and our own say nothing new.
        replicas.seen(&instance("long-ago", true));
        replicas.seen(&instance("me", false));
        assert_eq!(share(&replicas), 1_000);
        replicas.seen(&instance("other", false));
        assert!((400..600).contains(&share(&replicas)));
        clock.sleep(RECENT - Duration::from_secs(1)).await;
        replicas.seen(&instance("third", false));
        assert!((250..420).contains(&share(&replicas)));
        clock.sleep(Duration::from_secs(1)).await;
        assert!(
            (400..600).contains(&share(&replicas)),
            "the other is silent"
        );
        clock.sleep(RECENT - Duration::from_secs(2)).await;
        replicas.seen(&instance("third", false));
        clock.sleep(RECENT - Duration::from_secs(1)).await;
        assert!((400..600).contains(&share(&replicas)), "the third is not");
        clock.sleep(RECENT).await;
        assert_eq!(share(&replicas), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn holders_are_bounded() {
        let clock = Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH);
        let replicas = Replicas::new("me".to_owned(), clock);
        for i in 0..10 * MOST {
            replicas.seen(&instance(&format!("other-{i}"), false));
            assert!(replicas.seen.lock().unwrap().len() <= MOST);
        }
    }
}
