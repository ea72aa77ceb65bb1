//! Latencies of agents in simulated milliseconds, each fixed or a range (runtime.md 19.2).

use crate::clock::Ms;
use crate::knobs::named;
use crate::rng::Random;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A fixed time or a range.
type Range = (Ms, Ms);

const DEFAULTS: &[(&str, Ms)] = &[
    ("boot", 3000),
    ("convosLoad", 500),
    ("status", 2),
    ("create", 3000),
    ("join", 5000),
    ("joinWait", 60_000),
    ("reset", 200),
    ("restart", 2000),
    ("wake", 6000),
    // The wrapper's own, for `strict: false`.
    ("attempts", 30),
];

/// All knobs, with overrides on top of a base.
#[derive(Clone, Debug, Default)]
pub struct Knobs(BTreeMap<&'static str, Range>);

impl Knobs {
    /// Sets what `given` names: milliseconds or `[low, high]`.
    pub fn set(&mut self, given: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in given {
            let (known, _) = named(DEFAULTS, name)?;
            let range = match value {
                Value::Array(ends) if ends.len() == 2 => ends[0].as_i64().zip(ends[1].as_i64()),
                fixed => fixed.as_i64().map(|ms| (ms, ms)),
            };
            let range = range.filter(|(low, high)| *low >= 0 && low <= high);
            let range = range
                .ok_or_else(|| format!("knob {name:?} must be milliseconds or [low, high]"))?;
            self.0.insert(known, range);
        }
        Ok(())
    }

    /// A time drawn for this use; `base` answers for what is not overridden here.
    pub fn draw(&self, base: &Knobs, name: &str, rng: &mut Random) -> Ms {
        let default = default_of(name);
        let set = self.0.get(name).or_else(|| base.0.get(name));
        let (low, high) = set.copied().unwrap_or((default, default));
        rng.between(low, high)
    }

    /// The overrides.
    pub fn to_json(&self) -> Value {
        json!(self.0)
    }
}

/// The default of a knob.
pub fn default_of(name: &str) -> Ms {
    named(DEFAULTS, name).map_or(0, |(_, ms)| ms)
}

#[cfg(test)]
mod tests {
    use super::Knobs;
    use crate::rng::Random;
    use serde_json::json;

    #[test]
    fn an_instance_overrides_the_defaults_and_unknown_names_are_refused() {
        let mut rng = Random::new(1);
        let (mut base, mut own) = (Knobs::default(), Knobs::default());
        assert_eq!(own.draw(&base, "create", &mut rng), 3000);
        let given = json!({"create": 10});
        base.set(given.as_object().expect("object")).expect("known");
        let given = json!({"create": [20, 30]});
        own.set(given.as_object().expect("object")).expect("known");
        assert!((20..=30).contains(&own.draw(&base, "create", &mut rng)));
        assert_eq!(Knobs::default().draw(&base, "create", &mut rng), 10);
        assert!(
            own.set(json!({"creat": 1}).as_object().expect("object"))
                .is_err()
        );
    }
}
