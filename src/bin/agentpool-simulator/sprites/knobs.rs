//! Times, limits and switches of the Sprites API (sprites.md 5.1), all numbers.

use crate::clock::Ms;
use crate::knobs::named;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Names end in their unit; those without one are limits or switches (0 or 1).
const DEFAULTS: &[(&str, i64)] = &[
    ("create_ms", 1500),
    ("delete_ms", 200),
    ("cold_wake_ms", 1500),
    ("warm_wake_ms", 300),
    ("idle_to_warm_s", 30),
    ("warm_to_cold_s", 600),
    ("exec_connect_ms", 100),
    ("exit_linger_ms", 5000),
    ("nontty_orphan_s", 10),
    ("checkpoint_ms", 600),
    ("restore_ms", 15_000),
    ("restore_settle_ms", 2000),
    ("service_stream_s", 5),
    ("service_stop_timeout_s", 10),
    ("url_hang_s", 25),
    ("create_limit", 10),
    ("create_window_s", 60),
    ("running_limit", 100),
    ("warm_limit", 100),
    ("page_size_max", 50),
    // The list's view is that old for new and for deleted sprites.
    ("list_lag_create_ms", 0),
    ("list_lag_delete_ms", 0),
    // The status of a create under a name that is taken: 400, 409 or 422.
    ("duplicate_status", 400),
    // List items of three fields, as the documentation shows them.
    ("list_short", 0),
    // The pseudo entry `Current` among the checkpoints.
    ("list_current", 0),
];

/// All knobs.
#[derive(Clone, Debug, Default)]
pub struct Knobs(BTreeMap<&'static str, i64>);

impl Knobs {
    /// Sets what `given` names; none below zero.
    pub fn set(&mut self, given: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in given {
            let (known, _) = named(DEFAULTS, name)?;
            let number = value.as_i64().filter(|n| *n >= 0);
            let number = number.ok_or_else(|| format!("knob {name:?} must be a whole number"))?;
            self.0.insert(known, number);
        }
        Ok(())
    }

    /// A knob as it is.
    pub fn get(&self, name: &str) -> i64 {
        let default = named(DEFAULTS, name);
        debug_assert!(default.is_ok(), "{name} is a knob");
        let default = default.map_or(0, |(_, n)| n);
        self.0.get(name).copied().unwrap_or(default)
    }

    /// A switch.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name) != 0
    }

    /// A time in simulated milliseconds, whatever its unit.
    pub fn ms(&self, name: &str) -> Ms {
        if name.ends_with("_s") {
            self.get(name) * 1000
        } else {
            self.get(name)
        }
    }

    /// All knobs with their present values.
    pub fn to_json(&self) -> Value {
        let all: BTreeMap<&str, i64> = DEFAULTS.iter().map(|(n, _)| (*n, self.get(n))).collect();
        json!(all)
    }
}

#[cfg(test)]
mod tests {
    use super::Knobs;
    use serde_json::json;

    #[test]
    fn seconds_become_milliseconds_and_unknown_names_are_refused() {
        let mut knobs = Knobs::default();
        assert_eq!(
            (knobs.ms("idle_to_warm_s"), knobs.ms("create_ms")),
            (30_000, 1500)
        );
        knobs
            .set(json!({"idle_to_warm_s": 2}).as_object().expect("object"))
            .expect("known");
        assert_eq!(knobs.ms("idle_to_warm_s"), 2000);
        for bad in [
            json!({"idle": 2}),
            json!({"create_ms": -1}),
            json!({"create_ms": "1"}),
        ] {
            assert!(
                knobs.set(bad.as_object().expect("object")).is_err(),
                "{bad}"
            );
        }
    }
}
