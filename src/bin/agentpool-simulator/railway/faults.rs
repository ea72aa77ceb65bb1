//! Railway's armed faults: rules, and what those that fire mean for one request (railway.md 7).

use crate::railway::deploy::Status;
use crate::railway::effects::Effects;
use crate::rng::Random;
use crate::rules::Trigger;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Mutations that make a deployment.
const DEPLOYING: &[&str] = &[
    "serviceInstanceDeployV2",
    "serviceInstanceDeploy",
    "serviceInstanceRedeploy",
    "deploymentRedeploy",
    "deploymentRollback",
    "environmentTriggersDeploy",
    "environmentPatchCommit",
    "serviceConnect",
];

/// Which requests a rule is about.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Root field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Token of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Part of the name of the service it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The nth match only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// With this probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

fn seconds_120() -> f64 {
    120.0
}
fn seconds_60() -> f64 {
    60.0
}
fn seconds_5() -> f64 {
    5.0
}
fn twice() -> u32 {
    2
}
fn status_502() -> u16 {
    502
}
fn deploying() -> Status {
    Status::Deploying
}

/// A fault. `applied`: whether the operation takes effect all the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    RateLimit {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    RateLimitBare {},
    EdgeBlock {
        #[serde(default = "seconds_60")]
        seconds: f64,
        #[serde(default)]
        html: bool,
    },
    #[serde(rename = "http_5xx")]
    Http5xx {
        #[serde(default = "status_502")]
        status: u16,
        #[serde(default)]
        html: bool,
        #[serde(default)]
        applied: bool,
    },
    Timeout {
        #[serde(default = "seconds_120")]
        seconds: f64,
        #[serde(default)]
        applied: bool,
    },
    Reset {
        #[serde(default)]
        applied: bool,
    },
    GqlError {
        message: String,
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        applied: bool,
        #[serde(default)]
        data: Value,
    },
    NoData {
        #[serde(default)]
        applied: bool,
    },
    Cooldown {},
    Quota {},
    Slow {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    Lag {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    FreshNotFound {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    Stuck {
        #[serde(default = "deploying")]
        status: Status,
    },
    FailAt {
        at: FailPoint,
    },
    CrashAfter {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    NeedsApproval {},
    Skipped {},
    UnpromptedDeploy {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    StopUnreported {},
    RemovedExternally {
        #[serde(default)]
        what: Target,
        #[serde(default)]
        seconds: f64,
        #[serde(default)]
        rename: Option<String>,
    },
    UnknownStatus {
        status: String,
    },
    TokenRevoked {},
    /// A webhook that never comes, or comes more than once, late, behind the next one, with a wrong secret, in the form of
    /// former times, in another spelling, without details, or about something that is not there.
    WebhookDrop {},
    WebhookDuplicate {
        #[serde(default = "twice")]
        times: u32,
    },
    WebhookDelay {
        #[serde(default = "seconds_5")]
        seconds: f64,
    },
    WebhookReorder {},
    WebhookWrongSecret {},
    WebhookLegacy {},
    WebhookCamelCase {},
    WebhookEmptyDetails {},
    WebhookForeign {},
    /// The listing of an environment's services ends after so many, and says that this is all.
    ShortList {
        #[serde(default)]
        keep: usize,
    },
}

/// What is removed from outside.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    #[default]
    Service,
    Volume,
    Domain,
    Project,
}

/// Where a deployment fails.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailPoint {
    Build,
    Pull,
    Start,
    Healthcheck,
}

impl FailPoint {
    /// As in a deployment's shape.
    pub fn name(self) -> &'static str {
        match self {
            FailPoint::Build => "build",
            FailPoint::Pull => "pull",
            FailPoint::Start => "start",
            FailPoint::Healthcheck => "healthcheck",
        }
    }
}

/// Every kind that can be armed.
pub const KINDS: &[&str] = &[
    "rate_limit",
    "rate_limit_bare",
    "edge_block",
    "http_5xx",
    "timeout",
    "reset",
    "gql_error",
    "no_data",
    "cooldown",
    "quota",
    "slow",
    "lag",
    "fresh_not_found",
    "stuck",
    "fail_at",
    "crash_after",
    "needs_approval",
    "skipped",
    "unprompted_deploy",
    "stop_unreported",
    "removed_externally",
    "unknown_status",
    "token_revoked",
    "short_list",
    "webhook_drop",
    "webhook_duplicate",
    "webhook_delay",
    "webhook_reorder",
    "webhook_wrong_secret",
    "webhook_legacy",
    "webhook_camel_case",
    "webhook_empty_details",
    "webhook_foreign",
];

impl Fault {
    /// It is about deliveries, not about requests.
    fn is_of_webhooks(&self) -> bool {
        matches!(
            self,
            Fault::WebhookDrop {}
                | Fault::WebhookDuplicate { .. }
                | Fault::WebhookDelay { .. }
                | Fault::WebhookReorder {}
                | Fault::WebhookWrongSecret {}
                | Fault::WebhookLegacy {}
                | Fault::WebhookCamelCase {}
                | Fault::WebhookEmptyDetails {}
                | Fault::WebhookForeign {}
        )
    }

    /// The root fields it is about when the rule names none; empty: all.
    fn fields(&self) -> &'static [&'static str] {
        match self {
            Fault::Stuck { .. }
            | Fault::FailAt { .. }
            | Fault::CrashAfter { .. }
            | Fault::NeedsApproval {}
            | Fault::Skipped {}
            | Fault::UnpromptedDeploy { .. }
            | Fault::UnknownStatus { .. } => DEPLOYING,
            Fault::StopUnreported {} => &["deploymentStop"],
            Fault::ShortList { .. } => &["environment"],
            Fault::FreshNotFound { .. } | Fault::RemovedExternally { .. } => &["serviceCreate"],
            Fault::Cooldown {} => &["projectCreate", "environmentCreate", "volumeCreate"],
            Fault::Quota {} => &["serviceCreate", "projectCreate", "volumeCreate"],
            _ => &[],
        }
    }
}

/// An armed fault.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// For the one who armed it.
    pub id: String,
    #[serde(rename = "match")]
    matches: Match,
    fault: Fault,
    trigger: Trigger,
}

/// All armed faults.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

/// A request, as rules see it.
pub struct Asked<'a> {
    /// Its root fields.
    pub fields: &'a [String],
    /// Its token.
    pub token: &'a str,
    /// Names of the services it is about.
    pub names: &'a [String],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    #[serde(default, rename = "match")]
    matches: Match,
    #[serde(default)]
    count: Option<u64>,
    fault: Value,
}

impl Rules {
    /// Arms a fault; unknown kinds are refused with the list of the known ones.
    pub fn arm(&mut self, body: &Value, rng: &mut Random) -> Result<Rule, Value> {
        let refuse = |why: String| json!({"error": why, "known": KINDS});
        let arm = Arm::deserialize(body).map_err(|e| refuse(e.to_string()))?;
        let kind = arm
            .fault
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !KINDS.contains(&kind) {
            return Err(refuse(format!(
                "unknown or not simulated fault kind {kind:?}"
            )));
        }
        let fault = Fault::deserialize(&arm.fault).map_err(|e| refuse(e.to_string()))?;
        let is_name =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if let Fault::UnknownStatus { status } = &fault
            && !is_name(status)
        {
            return Err(refuse("status must be upper-case letters and _".to_owned()));
        }
        let trigger = Trigger {
            nth: arm.matches.nth,
            probability: arm.matches.probability,
            count: arm.count,
            ..Trigger::default()
        };
        let rule = Rule {
            id: rng.hex(8),
            matches: arm.matches,
            fault,
            trigger,
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

    /// Which faults fire for a request.
    pub fn effects(&mut self, asked: &Asked, rng: &mut Random) -> Effects {
        let mut effects = Effects::default();
        for rule in self.0.iter_mut().filter(|r| !r.fault.is_of_webhooks()) {
            for field in asked.fields {
                if rule.is_about(field, asked) && rule.trigger.fires(rng) {
                    effects.add(&rule.fault, field);
                }
            }
        }
        effects
    }

    /// Which faults fire for the delivery of an event, called `Deployment.crashed`, about the service of that name.
    pub fn of_delivery(&mut self, kind: &str, name: &str, rng: &mut Random) -> Vec<Fault> {
        let mut fired = vec![];
        for rule in self.0.iter_mut().filter(|r| r.fault.is_of_webhooks()) {
            let matches = &rule.matches;
            let fits = matches.field.as_ref().is_none_or(|f| f == kind)
                && matches
                    .name
                    .as_ref()
                    .is_none_or(|n| name.contains(n.as_str()));
            if fits && rule.trigger.fires(rng) {
                fired.push(rule.fault.clone());
            }
        }
        fired
    }
}

impl Rule {
    fn is_about(&self, field: &str, asked: &Asked) -> bool {
        let of_kind = self.fault.fields();
        let field_fits = match &self.matches.field {
            Some(wanted) => wanted == field,
            None => of_kind.is_empty() || of_kind.contains(&field),
        };
        let token_fits = self
            .matches
            .token
            .as_deref()
            .is_none_or(|t| t == asked.token);
        let name = self.matches.name.as_deref();
        field_fits && token_fits && name.is_none_or(|n| asked.names.iter().any(|x| x.contains(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Rules};
    use crate::rng::Random;
    use serde_json::json;

    fn effects(rules: &mut Rules, field: &str, name: &str) -> super::Effects {
        let (fields, names) = ([field.to_owned()], [name.to_owned()]);
        let asked = Asked {
            fields: &fields,
            token: "t",
            names: &names,
        };
        rules.effects(&asked, &mut Random::new(1))
    }

    #[test]
    fn a_rule_fires_for_its_field_and_name_only() {
        let mut rules = Rules::default();
        let rule = json!({"match": {"field": "serviceCreate", "name": "ab"}, "count": 1,
            "fault": {"kind": "timeout", "applied": true}});
        assert!(rules.arm(&rule, &mut Random::new(1)).is_ok());
        assert!(effects(&mut rules, "serviceDelete", "abc").front.is_none());
        assert!(effects(&mut rules, "serviceCreate", "xyz").front.is_none());
        let fired = effects(&mut rules, "serviceCreate", "xabx");
        assert!(fired.front.is_some() && fired.runs());
        assert!(
            effects(&mut rules, "serviceCreate", "xabx").front.is_none(),
            "count is used up"
        );
    }

    #[test]
    fn unknown_kinds_and_unknown_parameters_are_refused() {
        let mut rules = Rules::default();
        for fault in [
            json!({"kind": "webhook_burn"}),
            json!({"kind": "slow", "minutes": 1}),
            json!({}),
        ] {
            let refused = rules.arm(&json!({"fault": fault}), &mut Random::new(1));
            assert!(refused.is_err_and(|e| e["known"][0] == "rate_limit"));
        }
    }
}
