//! Faults of agents (runtime.md 19.3): which are known, which parameters they take, when they fire.

use crate::clock::Ms;
use crate::rng::Random;
use crate::rules::{Trigger, kind_of, refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Every kind with the parameters it takes; times in seconds, latencies in `ms`.
pub const KINDS: &[(&str, &[&str])] = &[
    ("neverReady", &[]),
    ("slowBoot", &["ms"]),
    ("flappingHealth", &[]),
    ("htmlStatus", &[]),
    ("badJson", &["route"]),
    ("emptyBody", &["route"]),
    ("missingFields", &["route"]),
    ("create500Before", &[]),
    ("create500After", &[]),
    ("createSlow", &["ms"]),
    ("join500", &[]),
    ("joinBadInvite", &[]),
    ("alreadyBound", &[]),
    ("boundInBetween", &[]),
    ("dirty", &[]),
    ("dirtyAfterReset", &[]),
    ("reset500", &[]),
    ("resetHang", &[]),
    ("lateBind", &["seconds"]),
    ("hang", &["route"]),
    ("reset", &["route", "at"]),
    ("halfAnswer", &["route"]),
    ("stalePooledConnection", &[]),
    ("unauthorized", &["sharedKey"]),
    ("gateway502", &["route", "applied"]),
    ("504", &["route", "applied"]),
    ("dieIdle", &["code", "seconds"]),
    ("dieClaiming", &["code", "at"]),
    ("dieClaimed", &["code", "seconds"]),
    ("oom", &["seconds"]),
    ("restartForgets", &[]),
    ("wrongConversation", &[]),
    ("streamDown", &[]),
    ("pending", &[]),
    ("pendingForever", &[]),
    ("pendingThenAccepted", &["seconds"]),
    ("pendingThenFailed", &["seconds"]),
    ("acceptedWithoutCallback", &["seconds"]),
    ("callbackWithoutState", &["seconds"]),
    ("callbackTwice", &["seconds"]),
    ("selfDestruct", &["seconds", "lost", "wrongToken", "twice"]),
    ("attestBlackhole", &[]),
    ("sleep", &[]),
    ("wakeSlow", &["ms"]),
    ("wrongKind", &[]),
    ("wrongDialect", &[]),
    ("versionChanges", &["version"]),
    ("duplicateRequest", &[]),
];

/// Kinds of the pending family: a join is not accepted within its time.
pub const PENDING: &[&str] = &[
    "pending",
    "pendingForever",
    "pendingThenAccepted",
    "pendingThenFailed",
    "acceptedWithoutCallback",
    "callbackWithoutState",
    "callbackTwice",
];

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Match {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
}

/// An armed fault.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    id: String,
    #[serde(rename = "match")]
    matches: Match,
    fault: Map<String, Value>,
    trigger: Trigger,
    #[serde(skip)]
    done: BTreeSet<String>,
}

/// All armed faults of agents.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

/// Which agent asks, and in which phase it is.
pub struct Place<'a> {
    /// Its hosts.
    pub hosts: &'a [String],
    /// `booting`, `idle`, `claiming`, `claimed`, `pending` or `dead`.
    pub phase: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    #[serde(default, rename = "match")]
    matches: Match,
    #[serde(default)]
    when: Value,
    #[serde(default)]
    count: Option<u64>,
    fault: Map<String, Value>,
}

impl Rules {
    /// Arms a fault; unknown kinds and parameters are refused with the list of the known ones.
    pub fn arm(&mut self, body: &Value, rng: &mut Random) -> Result<Rule, Value> {
        let refuse = |why: String| refusal(&why, KINDS.iter().copied());
        let arm = Arm::deserialize(body).map_err(|e| refuse(e.to_string()))?;
        let parameters = |kind: &str| KINDS.iter().find(|(k, _)| *k == kind).map(|(_, p)| *p);
        kind_of(&arm.fault, parameters).map_err(refuse)?;
        let mut trigger = Trigger {
            count: arm.count,
            ..Trigger::default()
        };
        match &arm.when {
            Value::Null => {}
            Value::String(always) if always == "always" => {}
            Value::Object(when) if when.len() == 1 => {
                match (when.get("first"), when.get("probability")) {
                    (Some(first), None) if first.is_u64() => trigger.count = first.as_u64(),
                    (None, Some(p)) if p.is_number() => trigger.probability = p.as_f64(),
                    _ => return Err(refuse(format!("unknown when {}", arm.when))),
                }
            }
            other => return Err(refuse(format!("unknown when {other}"))),
        }
        let rule = Rule {
            id: rng.hex(8),
            matches: arm.matches,
            fault: arm.fault,
            trigger,
            done: BTreeSet::new(),
        };
        self.0.push(rule.clone());
        Ok(rule)
    }

    /// Disarms all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All armed rules.
    pub fn to_json(&self) -> Value {
        json!({"rules": self.0})
    }

    /// The parameters of a fault of this kind that fires now.
    pub fn fires(&mut self, kind: &str, place: &Place, rng: &mut Random) -> Option<Value> {
        let mut about = self.0.iter_mut().filter(|r| r.is_about(kind, place));
        about.find_map(|r| r.trigger.fires(rng).then(|| Value::Object(r.fault.clone())))
    }

    /// The same for requests, where a fault may be about one route only.
    pub fn fires_on(
        &mut self,
        kind: &str,
        place: &Place,
        route: &str,
        rng: &mut Random,
    ) -> Option<Value> {
        let mut about = self.0.iter_mut().filter(|r| {
            let only = r.fault.get("route").and_then(Value::as_str);
            r.is_about(kind, place) && only.is_none_or(|only| only == route)
        });
        about.find_map(|r| r.trigger.fires(rng).then(|| Value::Object(r.fault.clone())))
    }

    /// For what happens without a request: a rule that lasted long enough, once in the life of
    /// each `who`. `lasted`: how long its present phase has.
    pub fn falls_due(
        &mut self,
        kind: &str,
        place: &Place,
        (who, lasted): (&str, Ms),
        rng: &mut Random,
    ) -> Option<Value> {
        let mut about = self.0.iter_mut().filter(|r| {
            let seconds = r.fault.get("seconds").and_then(Value::as_f64);
            let after = (seconds.unwrap_or(0.0) * 1000.0) as Ms;
            r.is_about(kind, place) && lasted >= after && !r.done.contains(who)
        });
        about.find_map(|r| {
            r.done.insert(who.to_owned());
            r.trigger.fires(rng).then(|| Value::Object(r.fault.clone()))
        })
    }
}

impl Rule {
    fn is_about(&self, kind: &str, place: &Place) -> bool {
        let host_fits = self
            .matches
            .host
            .as_ref()
            .is_none_or(|host| place.hosts.contains(host));
        let phase_fits = self
            .matches
            .phase
            .as_deref()
            .is_none_or(|phase| phase == place.phase);
        self.fault.get("kind").and_then(Value::as_str) == Some(kind) && host_fits && phase_fits
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Rules};
    use crate::rng::Random;
    use serde_json::json;

    #[test]
    fn a_rule_fires_for_its_host_phase_and_route() {
        let mut rng = Random::new(1);
        let mut rules = Rules::default();
        let rule = json!({"match": {"host": "a", "phase": "idle"}, "when": {"first": 1},
            "fault": {"kind": "hang", "route": "/pool/health"}});
        assert!(rules.arm(&rule, &mut rng).is_ok());
        let hosts = ["a".to_owned()];
        let idle = Place {
            hosts: &hosts,
            phase: "idle",
        };
        let claimed = Place {
            hosts: &hosts,
            phase: "claimed",
        };
        assert!(
            rules
                .fires_on("hang", &claimed, "/pool/health", &mut rng)
                .is_none()
        );
        assert!(rules.fires_on("hang", &idle, "/other", &mut rng).is_none());
        assert!(
            rules
                .fires_on("hang", &idle, "/pool/health", &mut rng)
                .is_some()
        );
        assert!(
            rules
                .fires_on("hang", &idle, "/pool/health", &mut rng)
                .is_none()
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut rules = Rules::default();
        for bad in [
            json!({"fault": {"kind": "nope"}}),
            json!({"fault": {"kind": "dirty", "ms": 1}}),
            json!({"fault": {"kind": "dirty"}, "when": "sometimes"}),
            json!({"fault": {"kind": "dirty"}, "whne": "always"}),
        ] {
            assert!(rules.arm(&bad, &mut Random::new(1)).is_err(), "{bad}");
        }
    }
}
