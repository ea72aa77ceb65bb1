//! Which instances are claimable, per pool and by age, as the watch knows it.
//!
//! Kept up to date event by event, because a claim must not sort the whole cache. It holds names only: the object is
//! taken from the cache when it is wanted, and judged again there.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;

use crate::api::AgentInstance;
use crate::api::agent_pool::ClaimOrder;
use crate::domain::instance::phase;
use crate::domain::resource::Liveness;

/// Namespace and name of a pool.
type PoolKey = (String, String);

/// How soon a claimable instance can answer: one that is paused has to wake first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// At once.
    Awake,
    /// It is paused with its memory.
    Warm,
    /// It boots.
    Cold,
}

impl Rank {
    const ALL: [Rank; 3] = [Rank::Awake, Rank::Warm, Rank::Cold];

    /// Of an instance, by what its provider's listing said last.
    pub fn of(instance: &AgentInstance) -> Self {
        let provider = instance.status.as_ref().and_then(|s| s.provider.as_ref());
        match provider.and_then(|p| p.state.as_deref()) {
            Some(state) if state == Liveness::Warm.as_str() => Self::Warm,
            Some(state) if state == Liveness::Cold.as_str() => Self::Cold,
            _ => Self::Awake,
        }
    }
}

/// One claimable instance; those that are awake come first, and then they go by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    created: Option<jiff::Timestamp>,
    /// `spec.id`.
    pub id: String,
    /// The object's name.
    pub name: String,
    /// The object's UID.
    pub uid: String,
}

/// The claimable instances of every pool.
#[derive(Default)]
pub struct Stock {
    pools: Mutex<HashMap<PoolKey, ByRank>>,
}

/// The entries of a pool, one set for each rank.
type ByRank = [BTreeSet<Arc<Entry>>; 3];

impl Stock {
    /// An instance came or changed.
    pub fn seen(&self, instance: &AgentInstance) {
        let claimable = phase::is_claimable(instance);
        self.with(|pools| {
            let pool = pools.entry(pool_of(instance)).or_default();
            let (entry, rank) = (entry(instance), Rank::of(instance));
            for (set, of) in pool.iter_mut().zip(Rank::ALL) {
                if claimable && of == rank {
                    set.insert(Arc::new(entry.clone()));
                } else {
                    set.remove(&entry);
                }
            }
        });
    }

    /// An instance went.
    pub fn gone(&self, instance: &AgentInstance) {
        self.with(|pools| {
            let key = pool_of(instance);
            if let Some(pool) = pools.get_mut(&key) {
                let entry = entry(instance);
                for set in pool.iter_mut() {
                    set.remove(&entry);
                }
                if pool.iter().all(BTreeSet::is_empty) {
                    pools.remove(&key);
                }
            }
        });
    }

    /// A new list is about to come: what went while nobody watched is not told by an event.
    pub fn forget_all(&self) {
        self.with(HashMap::clear);
    }

    /// How many are claimable.
    pub fn count(&self, pool: &PoolKey) -> usize {
        self.with(|pools| {
            pools
                .get(pool)
                .map_or(0, |p| p.iter().map(BTreeSet::len).sum())
        })
    }

    /// What is there, those that are awake first and in the pool's order, until `enough` says so of the one it is given.
    pub fn walk(
        &self,
        pool: &PoolKey,
        order: ClaimOrder,
        mut enough: impl FnMut(Rank, &Arc<Entry>) -> bool,
    ) {
        self.with(|pools| {
            let Some(pool) = pools.get(pool) else { return };
            // True for the first that is enough: the walk ends there.
            pool.iter().zip(Rank::ALL).any(|(set, rank)| match order {
                ClaimOrder::Oldest => set.iter().any(|e| enough(rank, e)),
                ClaimOrder::Newest => set.iter().rev().any(|e| enough(rank, e)),
            });
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<PoolKey, ByRank>) -> T) -> T {
        work(&mut self.pools.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pool_of(instance: &AgentInstance) -> PoolKey {
    (
        instance.namespace().unwrap_or_default(),
        instance.spec.pool_ref.name.clone(),
    )
}

fn entry(instance: &AgentInstance) -> Entry {
    Entry {
        created: instance.metadata.creation_timestamp.as_ref().map(|t| t.0),
        id: instance.spec.id.clone(),
        name: instance.name_any(),
        uid: instance.metadata.uid.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LABEL_PROTECTED;

    fn instance(id: &str, day: u32, status_turn: i64, protected: bool) -> AgentInstance {
        let object = serde_json::json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
            "metadata": {"name": id, "namespace": "n", "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z"),
                "labels": {LABEL_PROTECTED: protected.to_string()}},
            "spec": {"id": id, "poolRef": {"name": "p"}, "providerName": id, "turn": 2,
                "template": {"revision": "r", "hash": "h"}},
            "status": {"turn": status_turn},
        });
        serde_json::from_value(object).unwrap()
    }

    fn names(stock: &Stock, order: ClaimOrder) -> Vec<String> {
        let mut all = vec![];
        stock.walk(&("n".into(), "p".into()), order, |_, entry| {
            all.push(entry.name.clone());
            false
        });
        all
    }

    #[test]
    fn candidates_are_proven_unprotected_and_in_the_pool_s_order() {
        let stock = Stock::default();
        for seen in [
            instance("young", 9, 2, false),
            instance("unproven", 1, 1, false),
            instance("kept", 1, 2, true),
            instance("b", 3, 2, false),
            instance("a", 3, 2, false),
        ] {
            stock.seen(&seen);
        }
        assert_eq!(names(&stock, ClaimOrder::Oldest), ["a", "b", "young"]);
        assert_eq!(names(&stock, ClaimOrder::Newest), ["young", "b", "a"]);
        let mut walked = 0;
        stock.walk(&("n".into(), "p".into()), ClaimOrder::Oldest, |_, entry| {
            walked += 1;
            entry.name == "b"
        });
        assert_eq!(walked, 2, "it ends where it is told to");
        assert_eq!(stock.count(&("n".into(), "p".into())), 3);
        assert_eq!(stock.count(&("n".into(), "other".into())), 0);
    }

    #[test]
    fn those_that_are_awake_come_first_in_either_order() {
        let stock = Stock::default();
        let of = |id: &str, day, state: &str| {
            let mut instance = instance(id, day, 2, false);
            let status = instance.status.get_or_insert_default();
            status.provider.get_or_insert_default().state = Some(state.into());
            instance
        };
        let all = [
            of("cold", 1, "Cold"),
            of("warm", 2, "Warm"),
            of("old", 3, "Running"),
            of("young", 4, "Running"),
        ];
        all.iter().for_each(|i| stock.seen(i));
        assert_eq!(
            names(&stock, ClaimOrder::Oldest),
            ["old", "young", "warm", "cold"]
        );
        assert_eq!(
            names(&stock, ClaimOrder::Newest),
            ["young", "old", "warm", "cold"]
        );
        // It fell asleep: once in it all the same.
        stock.seen(&of("old", 3, "Warm"));
        assert_eq!(
            names(&stock, ClaimOrder::Oldest),
            ["young", "warm", "old", "cold"]
        );
        assert_eq!(stock.count(&("n".into(), "p".into())), 4);
        stock.gone(&all[3]);
        assert_eq!(stock.count(&("n".into(), "p".into())), 3);
    }

    #[test]
    fn what_changed_went_or_was_missed_is_no_longer_in_it() {
        let stock = Stock::default();
        let all = [
            instance("a", 1, 2, false),
            instance("b", 2, 2, false),
            instance("c", 3, 2, false),
        ];
        all.iter().for_each(|i| stock.seen(i));
        let mut claimed = all[0].clone();
        claimed.spec.turn = 3;
        stock.seen(&claimed);
        stock.gone(&all[1]);
        assert_eq!(names(&stock, ClaimOrder::Oldest), ["c"]);
        stock.forget_all();
        assert!(names(&stock, ClaimOrder::Oldest).is_empty());
        stock.seen(&all[0]);
        assert_eq!(names(&stock, ClaimOrder::Oldest), ["a"]);
    }
}
