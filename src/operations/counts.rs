//! A pool's members by phase, in the HTTP API's words, and the samples for the metrics. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::reflector::Store;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::api::{AgentInstance, AgentPool};
use crate::domain::drift::{self, Present};
use crate::domain::instance::phase::{Phase, phase_of};
use crate::telemetry::metrics::PoolSample;

/// How many instances are in each phase. Serialises with every key always present; `provisioning` equals `starting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    by_phase: [i64; Phase::ALL.len()],
}

impl Counts {
    /// Counts instances by their derived phase.
    pub fn of<'a>(instances: impl IntoIterator<Item = &'a AgentInstance>) -> Self {
        let mut counts = Self::default();
        for instance in instances {
            counts.add(phase_of(instance));
        }
        counts
    }

    /// How many are in the phase.
    pub fn get(&self, phase: Phase) -> i64 {
        Phase::ALL
            .iter()
            .position(|p| *p == phase)
            .map_or(0, |index| self.by_phase[index])
    }

    /// Every phase with its number.
    pub fn iter(&self) -> impl Iterator<Item = (Phase, i64)> {
        Phase::ALL.into_iter().zip(self.by_phase)
    }

    fn add(&mut self, phase: Phase) {
        if let Some(index) = Phase::ALL.iter().position(|p| *p == phase) {
            self.by_phase[index] += 1;
        }
    }
}

/// The keys of the wire, in the documented order.
const KEYS: [(&str, Phase); 12] = [
    ("provisioning", Phase::Provisioning),
    ("starting", Phase::Provisioning),
    ("idle", Phase::Idle),
    ("claiming", Phase::Claiming),
    ("claimed", Phase::Claimed),
    ("recycling", Phase::Recycling),
    ("crashed", Phase::Crashed),
    ("pending_acceptance", Phase::PendingAcceptance),
    ("tainted", Phase::Tainted),
    ("sleeping", Phase::Sleeping),
    ("dead", Phase::Dead),
    ("terminating", Phase::Terminating),
];

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(KEYS.len()))?;
        for (key, phase) in KEYS {
            map.serialize_entry(key, &self.get(phase))?;
        }
        map.end()
    }
}

/// A source of the pools' gauges for [`crate::telemetry::Metrics::set_pool_source`]: every pool of the cache, and the
/// pools that only instances remember.
pub fn pool_source(
    pools: Store<AgentPool>,
    instances: Store<AgentInstance>,
) -> impl Fn() -> Vec<PoolSample> + Send + Sync {
    move || samples(&pools, &instances)
}

fn samples(pools: &Store<AgentPool>, instances: &Store<AgentInstance>) -> Vec<PoolSample> {
    let mut found: BTreeMap<(String, String), Known> = BTreeMap::new();
    for pool in pools.state() {
        let key = (
            text(pool.metadata.namespace.as_deref()),
            text(pool.metadata.name.as_deref()),
        );
        found.entry(key).or_default().pool = Some(pool);
    }
    for instance in instances.state() {
        let key = (
            text(instance.metadata.namespace.as_deref()),
            instance.spec.pool_ref.name.clone(),
        );
        let known = found.entry(key).or_default();
        let phase = phase_of(&instance);
        known.counts.add(phase);
        let present = known.pool.as_deref().and_then(Present::of_pool);
        let drifted = present.and_then(|present| drift::drift(&instance, &present));
        known.drifted += i64::from(phase == Phase::Idle && drifted.is_some());
    }
    let sample = |((namespace, name), known): (_, Known)| PoolSample {
        namespace,
        pool: name,
        min_idle: known.pool.as_ref().map(|p| i64::from(p.spec.min_idle)),
        max_total: known
            .pool
            .as_ref()
            .and_then(|p| p.spec.max_total)
            .map(i64::from),
        instances: known
            .counts
            .iter()
            .map(|(phase, n)| (phase.as_str(), n))
            .collect(),
        drifted: known.drifted,
    };
    found.into_iter().map(sample).collect()
}

/// A pool and its members, either of which may be all that is left.
#[derive(Default)]
struct Known {
    pool: Option<Arc<AgentPool>>,
    counts: Counts,
    drifted: i64,
}

fn text(name: Option<&str>) -> String {
    name.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About: D04
    #[test]
    fn every_key_is_there_and_every_phase_has_one() {
        let mut counts = Counts::default();
        for phase in Phase::ALL {
            counts.add(phase);
        }
        counts.add(Phase::Provisioning);
        let json = serde_json::to_value(counts).unwrap();
        let map = json.as_object().unwrap();
        assert_eq!(map.len(), 12);
        assert_eq!(map["provisioning"], 2);
        assert_eq!(map["provisioning"], map["starting"]);
        assert!(
            map.iter().all(|(key, n)| n
                == if key == "provisioning" || key == "starting" {
                    2
                } else {
                    1
                }),
            "{json}"
        );
        assert!(
            Phase::ALL
                .iter()
                .all(|p| KEYS.iter().any(|(_, known)| known == p))
        );
    }
}
