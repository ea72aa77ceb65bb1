//! When an armed fault fires: the part of a fault rule that is the same for every peer.

use crate::rng::Random;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How often a rule fires among the requests that match it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// Fires at the nth match only, counted from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Fires with this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Fires at most this often; absent: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Matches seen so far.
    #[serde(default)]
    pub seen: u64,
    /// Times fired so far.
    #[serde(default)]
    pub fired: u64,
}

impl Trigger {
    /// One more match: does the rule fire?
    pub fn fires(&mut self, rng: &mut Random) -> bool {
        self.seen += 1;
        if self.count.is_some_and(|count| self.fired >= count)
            || self.nth.is_some_and(|nth| self.seen != nth)
            || self.probability.is_some_and(|p| !rng.chance(p))
        {
            return false;
        }
        self.fired += 1;
        true
    }
}

/// The kind of a fault to be armed, whose parameters `parameters` knows; Err: why it is refused.
pub fn kind_of(
    fault: &Map<String, Value>,
    parameters: impl Fn(&str) -> Option<&'static [&'static str]>,
) -> Result<&str, String> {
    let kind = fault.get("kind").and_then(Value::as_str);
    let kind = kind.unwrap_or_default();
    let Some(known) = parameters(kind) else {
        return Err(format!("unknown or not simulated fault kind {kind:?}"));
    };
    let odd = |k: &&String| *k != "kind" && !known.contains(&k.as_str());
    match fault.keys().find(odd) {
        Some(odd) => Err(format!("fault {kind:?} has no parameter {odd:?}")),
        None => Ok(kind),
    }
}

/// A refusal with every known kind and its parameters.
pub fn refusal(
    why: &str,
    kinds: impl Iterator<Item = (&'static str, &'static [&'static str])>,
) -> Value {
    let known: Map<String, Value> = kinds.map(|(k, p)| (k.to_owned(), json!(p))).collect();
    json!({"error": why, "known": known})
}

#[cfg(test)]
mod tests {
    use super::Trigger;
    use crate::rng::Random;

    fn pattern(mut trigger: Trigger) -> Vec<bool> {
        let mut rng = Random::new(1);
        (0..4).map(|_| trigger.fires(&mut rng)).collect()
    }

    #[test]
    fn a_rule_fires_by_count_nth_and_probability() {
        let count = Trigger {
            count: Some(2),
            ..Trigger::default()
        };
        assert_eq!(pattern(count), [true, true, false, false]);
        let nth = Trigger {
            nth: Some(2),
            ..Trigger::default()
        };
        assert_eq!(pattern(nth), [false, true, false, false]);
        let never = Trigger {
            probability: Some(0.0),
            ..Trigger::default()
        };
        assert_eq!(pattern(never), [false; 4]);
        assert_eq!(pattern(Trigger::default()), [true; 4]);
    }
}
