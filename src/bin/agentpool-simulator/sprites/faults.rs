//! Faults of the Sprites API (sprites.md 5.2): which are known, what they take, when they fire.

use crate::rng::Random;
use crate::rules::{Trigger, kind_of, refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Every kind: its parameters, and the operations it is about when the rule names none.
pub const KINDS: &[(&str, &[&str], &[&str])] = &[
    ("token_revoked", &[], &[]),
    ("gone", &[], &[]),
    ("route_gone", &[], &[]),
    ("create_conflict", &["status", "labels"], &["create"]),
    ("timeout", &["seconds", "applied"], &[]),
    ("rate_limit", &["seconds"], &[]),
    ("capacity", &[], &["create", "wake"]),
    ("http_5xx", &["status", "html", "applied"], &[]),
    ("reset", &["applied"], &[]),
    ("slow", &["seconds"], &[]),
    ("exec_fails", &["code", "stderr"], EXECS),
    ("exec_cut", &["code", "frames", "kill"], EXECS),
    ("exec_silent", &["seconds", "pong"], &["exec"]),
    ("pause", &["seconds"], EXECS),
    ("stream_cut", &["lines"], STREAMS),
    ("checkpoint_error", &["message"], &["checkpoint"]),
    ("restore_dead", &["message"], &["restore"]),
    ("service_flap", &["code"], &["serviceStart"]),
    ("url_refuses", &[], &["url"]),
    ("url_hangs", &[], &["url"]),
    ("short_list", &["keep"], &["list"]),
];

const EXECS: &[&str] = &["exec", "execHttp"];
const STREAMS: &[&str] = &[
    "checkpoint",
    "restore",
    "putService",
    "startService",
    "stopService",
    "restartService",
    "serviceLogs",
    "kill",
];

/// Every operation a rule may name. `wake` and `serviceStart` happen within others.
pub const OPERATIONS: &[&str] = &[
    "create",
    "list",
    "get",
    "update",
    "delete",
    "upgrade",
    "restart",
    "check",
    "organization",
    "exec",
    "execHttp",
    "sessions",
    "probe",
    "attach",
    "kill",
    "control",
    "services",
    "service",
    "putService",
    "startService",
    "stopService",
    "restartService",
    "serviceLogs",
    "signalService",
    "deleteService",
    "fsRead",
    "fsWrite",
    "fsList",
    "fsDelete",
    "fsRename",
    "fsCopy",
    "fsChmod",
    "fsChown",
    "checkpoint",
    "checkpoints",
    "checkpointGet",
    "restore",
    "policyGet",
    "policyPut",
    "proxy",
    "url",
    "wake",
    "serviceStart",
];

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Match {
    /// A part of the sprite's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    sprite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    #[serde(skip_serializing)]
    nth: Option<u64>,
    #[serde(skip_serializing)]
    probability: Option<f64>,
}

/// An armed fault.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    id: String,
    #[serde(rename = "match")]
    matches: Match,
    fault: Map<String, Value>,
    trigger: Trigger,
}

/// All armed faults of the Sprites API.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    #[serde(default, rename = "match")]
    matches: Match,
    #[serde(default)]
    count: Option<u64>,
    fault: Map<String, Value>,
}

impl Rules {
    /// Arms a fault; what is not known is refused with the list of what is.
    pub fn arm(&mut self, body: &Value, rng: &mut Random) -> Result<Rule, Value> {
        let refuse = |why: String| {
            let mut refusal = refusal(&why, KINDS.iter().map(|(k, p, _)| (*k, *p)));
            refusal["operations"] = json!(OPERATIONS);
            refusal
        };
        let arm = Arm::deserialize(body).map_err(|e| refuse(e.to_string()))?;
        let known = |kind: &str| KINDS.iter().find(|(k, _, _)| *k == kind);
        let kind = kind_of(&arm.fault, |kind| known(kind).map(|(_, p, _)| *p));
        let kind = kind.map_err(refuse)?;
        let about = known(kind).map_or(&[][..], |(_, _, about)| *about);
        if let Some(named) = arm.matches.operation.as_deref() {
            if !OPERATIONS.contains(&named) {
                return Err(refuse(format!("unknown operation {named:?}")));
            }
            if !about.is_empty() && !about.contains(&named) {
                return Err(refuse(format!(
                    "fault {kind:?} is about {about:?}, not {named:?}"
                )));
            }
        }
        let rule = Rule {
            id: rng.hex(8),
            trigger: Trigger {
                nth: arm.matches.nth,
                probability: arm.matches.probability,
                count: arm.count,
                ..Trigger::default()
            },
            matches: arm.matches,
            fault: arm.fault,
        };
        self.0.push(rule.clone());
        Ok(rule)
    }

    /// Disarms all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All armed rules.
    pub fn to_json(&self) -> Value {
        json!({"rules": self.0})
    }

    /// The parameters of a fault of this kind that fires for the operation on the sprite.
    pub fn fires(
        &mut self,
        kind: &str,
        (operation, sprite): (&str, &str),
        rng: &mut Random,
    ) -> Option<Value> {
        let about = self
            .0
            .iter_mut()
            .filter(|r| r.is_about(kind, operation, sprite));
        for rule in about {
            if rule.trigger.fires(rng) {
                return Some(Value::Object(rule.fault.clone()));
            }
        }
        None
    }
}

impl Rule {
    fn is_about(&self, kind: &str, operation: &str, sprite: &str) -> bool {
        let natural = KINDS
            .iter()
            .find(|(known, _, _)| *known == kind)
            .map(|(_, _, about)| *about);
        let natural = natural.unwrap_or_default();
        let operation_fits = match self.matches.operation.as_deref() {
            Some(named) => named == operation,
            None if natural.is_empty() => operation != "wake" && operation != "serviceStart",
            None => natural.contains(&operation),
        };
        let sprite_fits = self
            .matches
            .sprite
            .as_deref()
            .is_none_or(|part| sprite.contains(part));
        self.fault.get("kind").and_then(Value::as_str) == Some(kind)
            && operation_fits
            && sprite_fits
    }
}

/// A number parameter, or what it is without one.
pub fn number(fault: &Value, name: &str, default: i64) -> i64 {
    fault[name].as_f64().map_or(default, |n| n as i64)
}

/// A duration parameter `seconds` in simulated milliseconds.
pub fn seconds(fault: &Value, default: f64) -> i64 {
    (fault["seconds"].as_f64().unwrap_or(default) * 1000.0) as i64
}

#[cfg(test)]
mod tests {
    use super::{OPERATIONS, Rules};
    use crate::rng::Random;
    use serde_json::json;

    #[test]
    fn a_rule_fires_for_its_operation_sprite_and_count() {
        let (mut rng, mut rules) = (Random::new(1), Rules::default());
        let rule = json!({"match": {"operation": "fsWrite", "sprite": "a-"}, "count": 1, "fault": {"kind": "reset"}});
        assert!(rules.arm(&rule, &mut rng).is_ok());
        assert!(rules.fires("reset", ("fsRead", "a-1"), &mut rng).is_none());
        assert!(rules.fires("reset", ("fsWrite", "b-1"), &mut rng).is_none());
        assert!(rules.fires("reset", ("fsWrite", "a-1"), &mut rng).is_some());
        assert!(rules.fires("reset", ("fsWrite", "a-1"), &mut rng).is_none());
    }

    #[test]
    fn a_fault_without_an_operation_is_about_what_it_makes_sense_for() {
        let (mut rng, mut rules) = (Random::new(1), Rules::default());
        assert!(
            rules
                .arm(&json!({"fault": {"kind": "checkpoint_error"}}), &mut rng)
                .is_ok()
        );
        let hit: Vec<&str> = OPERATIONS
            .iter()
            .filter(|o| {
                rules
                    .fires("checkpoint_error", (o, "x"), &mut rng)
                    .is_some()
            })
            .copied()
            .collect();
        assert_eq!(hit, ["checkpoint"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut rules = Rules::default();
        for bad in [
            json!({"fault": {"kind": "nope"}}),
            json!({"fault": {"kind": "reset", "ms": 1}}),
            json!({"match": {"operation": "nope"}, "fault": {"kind": "reset"}}),
            json!({"match": {"operation": "get"}, "fault": {"kind": "exec_cut"}}),
        ] {
            assert!(rules.arm(&bad, &mut Random::new(1)).is_err(), "{bad}");
        }
    }
}
