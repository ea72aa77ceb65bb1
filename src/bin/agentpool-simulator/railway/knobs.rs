//! Railway's timings and switches, by name, as the control port sets them.

use crate::clock::Ms;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Seconds by name; defaults of railway.md 6.
const TIMINGS: &[(&str, f64)] = &[
    ("initializing", 0.6),
    ("queued", 0.0),
    ("building", 90.0),
    ("container_created", 1.5),
    ("container_running", 3.0),
    ("deploying", 7.0),
    ("healthcheck", 2.0),
    ("app_boot", 5.0),
    ("removing", 0.6),
    ("removed", 1.8),
    ("stop_visible", 1.5),
    ("restart_visible", 0.0),
    ("restart", 0.9),
    ("image_unresolvable", 2.0),
    ("crash_restart_backoff", 1.0),
    ("sleep_after_idle", 480.0),
    ("wake", 1.5),
    ("list_lag_create", 0.0),
    ("list_lag_delete", 0.0),
    ("service_delete", 3.0),
    ("project_cooldown", 30.0),
    ("volume_cooldown", 3.0),
    ("patch_apply", 1.0),
    ("latency_read", 0.0),
    ("latency_mutation", 0.0),
];

/// Switches by name, all off by default except the status of validation errors.
const SWITCHES: &[(&str, i64)] = &[
    ("validation_errors_status", 400),
    ("deploy_on_image_create", 0),
    ("deploy_on_source_update", 0),
    ("reset_replicas_on_update", 0),
    ("logs_limit_plus_one", 0),
];

/// How long things take.
#[derive(Clone, Debug)]
pub struct Timings(BTreeMap<&'static str, f64>);

impl Default for Timings {
    fn default() -> Self {
        Self(TIMINGS.iter().copied().collect())
    }
}

impl Timings {
    /// A timing in simulated milliseconds.
    pub fn ms(&self, name: &str) -> Ms {
        debug_assert!(self.0.contains_key(name), "no timing is called {name}");
        self.0
            .get(name)
            .map_or(0, |seconds| (seconds * 1000.0) as Ms)
    }

    /// Sets what `given` names; refuses unknown names and anything but seconds.
    pub fn set(&mut self, given: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in given {
            let Some((known, _)) = TIMINGS.iter().find(|(known, _)| known == name) else {
                let names: Vec<&str> = TIMINGS.iter().map(|(n, _)| *n).collect();
                return Err(format!(
                    "unknown timing {name:?}; known: {}",
                    names.join(", ")
                ));
            };
            let seconds = value.as_f64().filter(|s| *s >= 0.0);
            let seconds = seconds.ok_or_else(|| format!("timing {name:?} must be seconds"))?;
            self.0.insert(known, seconds);
        }
        Ok(())
    }

    /// All of them.
    pub fn to_json(&self) -> Value {
        json!(self.0)
    }
}

/// Behaviours that can be switched.
#[derive(Clone, Debug)]
pub struct Switches(BTreeMap<&'static str, i64>);

impl Default for Switches {
    fn default() -> Self {
        Self(SWITCHES.iter().copied().collect())
    }
}

impl Switches {
    /// The switch's number.
    pub fn number(&self, name: &str) -> i64 {
        debug_assert!(self.0.contains_key(name), "no switch is called {name}");
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Whether it is on.
    pub fn on(&self, name: &str) -> bool {
        self.number(name) != 0
    }

    /// Sets what `given` names; refuses unknown names.
    pub fn set(&mut self, given: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in given {
            let Some((known, _)) = SWITCHES.iter().find(|(known, _)| known == name) else {
                let names: Vec<&str> = SWITCHES.iter().map(|(n, _)| *n).collect();
                return Err(format!(
                    "unknown switch {name:?}; known: {}",
                    names.join(", ")
                ));
            };
            let number = value.as_i64().or(value.as_bool().map(i64::from));
            let number =
                number.ok_or_else(|| format!("switch {name:?} must be a number or a bool"))?;
            self.0.insert(known, number);
        }
        Ok(())
    }

    /// All of them.
    pub fn to_json(&self) -> Value {
        json!(self.0)
    }
}
