//! Who waits for an agent, per pool and in order, as the watch of unfinished AgentClaims knows it; and the one signal
//! that something changed for those who wait.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use kube::ResourceExt;
use tokio::sync::watch;

use crate::api::AgentClaim;
use crate::domain::agent_claim::{self as judgement, Place};

/// Namespace and name of a pool.
pub type PoolKey = (String, String);

/// The queue of every pool. Kept by the watch; read by whoever waits, and by the pool controller as demand.
#[derive(Default)]
pub struct Queue {
    pools: Mutex<HashMap<PoolKey, BTreeSet<Place>>>,
    /// Told of claims alone.
    claims: watch::Sender<()>,
    /// Told of claims and of the stock.
    all: watch::Sender<()>,
}

/// The pool that a claim is about.
pub fn pool_of(claim: &AgentClaim) -> PoolKey {
    (
        claim.namespace().unwrap_or_default(),
        claim.spec.pool_ref.name.clone(),
    )
}

impl Queue {
    /// A claim came or changed.
    pub fn seen(&self, claim: &AgentClaim) {
        self.with(|pools| {
            let pool = pools.entry(pool_of(claim)).or_default();
            if judgement::waits(claim) {
                pool.insert(judgement::place(claim));
            } else {
                pool.remove(&judgement::place(claim));
            }
        });
        self.claims_changed();
    }

    /// A claim went, or is finished.
    pub fn gone(&self, claim: &AgentClaim) {
        self.with(|pools| {
            if let Some(pool) = pools.get_mut(&pool_of(claim)) {
                pool.remove(&judgement::place(claim));
            }
        });
        self.claims_changed();
    }

    /// A new list is about to come.
    pub fn forget_all(&self) {
        self.with(HashMap::clear);
    }

    /// Claims came, changed or went.
    pub fn claims_changed(&self) {
        self.claims.send_replace(());
        self.all.send_replace(());
    }

    /// The stock changed.
    pub fn stock_changed(&self) {
        self.all.send_replace(());
    }

    /// Hears of every change of claims from now on.
    pub fn hear_claims(&self) -> watch::Receiver<()> {
        self.claims.subscribe()
    }

    /// Hears of every change of claims and of the stock from now on.
    pub fn hear_all(&self) -> watch::Receiver<()> {
        self.all.subscribe()
    }

    /// How many wait before a place, and who is the first of them.
    pub fn before(&self, pool: &PoolKey, place: &Place) -> (usize, Option<Place>) {
        self.with(|pools| {
            let Some(pool) = pools.get(pool) else {
                return (0, None);
            };
            let first = pool.iter().next().filter(|p| *p < place).cloned();
            (pool.range(..place.clone()).count(), first)
        })
    }

    /// How many wait, those left out that have an agent already.
    pub fn waiting(&self, pool: &PoolKey, served: &HashSet<&str>) -> usize {
        self.with(|pools| {
            pools.get(pool).map_or(0, |pool| {
                pool.iter()
                    .filter(|(_, name)| !served.contains(name.as_str()))
                    .count()
            })
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<PoolKey, BTreeSet<Place>>) -> T) -> T {
        work(&mut self.pools.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, micros: i64, pool: &str, done: bool) -> AgentClaim {
        let at = jiff::Timestamp::from_microsecond(micros).unwrap();
        let object = serde_json::json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentClaim",
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"poolRef": {"name": pool}, "agentName": "a", "instructions": "i", "origin": "HTTP",
                "waitSeconds": 5, "enqueuedAt": at.to_string()},
            "status": {"done": done},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_order_is_by_arrival_then_by_name_and_per_pool() {
        let queue = Queue::default();
        let pool: PoolKey = ("n".into(), "p".into());
        let (b, a, c) = (
            claim("b", 5, "p", false),
            claim("a", 5, "p", false),
            claim("c", 4, "p", false),
        );
        for seen in [&b, &a, &c, &claim("x", 1, "q", false)] {
            queue.seen(seen);
        }
        let before = |claim: &AgentClaim| queue.before(&pool, &judgement::place(claim)).0;
        assert_eq!((before(&c), before(&a), before(&b)), (0, 1, 2));
        assert_eq!(queue.before(&pool, &judgement::place(&a)).1.unwrap().1, "c");
        assert_eq!(queue.waiting(&pool, &HashSet::new()), 3);
        assert_eq!(queue.waiting(&pool, &HashSet::from(["a"])), 2);
        queue.gone(&c);
        queue.seen(&claim("a", 5, "p", true));
        assert_eq!(before(&b), 0, "who is finished or gone waits no more");
        queue.forget_all();
        assert_eq!(queue.waiting(&pool, &HashSet::new()), 0);
    }

    #[test]
    fn whoever_listens_hears_what_it_listens_to() {
        let queue = Queue::default();
        let (claims, all) = (queue.hear_claims(), queue.hear_all());
        queue.stock_changed();
        assert!(!claims.has_changed().unwrap() && all.has_changed().unwrap());
        queue.seen(&claim("a", 1, "p", false));
        assert!(claims.has_changed().unwrap());
    }
}
