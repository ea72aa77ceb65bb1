//! How the claims of a pool are served.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How claims are served.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimPolicy {
    /// Which idle agent goes first. Default Oldest.
    #[serde(default)]
    pub order: ClaimOrder,
    /// The time limit of the one call to an agent, in seconds; also never longer than what is left of the deadline. Default 75:
    /// an agent may take more than a minute to say that a join waits for acceptance.
    #[serde(default = "default_call_timeout")]
    #[schemars(range(min = 70, max = 600))]
    pub call_timeout_seconds: i32,
    /// The time limit of the whole claim, further agents included, in seconds. Default 150.
    #[serde(default = "default_deadline")]
    #[schemars(range(min = 5, max = 3600))]
    pub deadline_seconds: i32,
    /// How long a join may wait for a person to accept, in seconds, before its agent is replaced. Default 4500: an agent
    /// that watches for it gives up after 68 minutes.
    #[serde(default = "default_pending_timeout")]
    #[schemars(range(min = 10, max = 604800))]
    pub pending_timeout_seconds: i32,
    /// Whether a second claim with the same join link is refused: Active (default) while the first is in flight or its
    /// agent lives, InFlight while it is in flight, "Off" (in quotes: YAML takes the bare word for a boolean) never.
    #[serde(default)]
    pub dedupe_join_url: DedupeJoinUrl,
    /// When agent name and instructions are required. Default CreateOnly.
    #[serde(default)]
    pub require_fields: RequireFields,
    /// The HTTP status for a duplicate join, 409 (default) or 503.
    #[serde(default = "default_duplicate_status")]
    #[schemars(range(min = 409, max = 503))]
    #[x_kube(validation = Rule::new("self == 409 || self == 503").message("claim.duplicateStatus is 409 or 503"))]
    pub duplicate_status: i32,
    /// How join links are checked. Env (default) refuses links of the other environment; Strict also checks their form.
    #[serde(default)]
    pub validate_join_url: ValidateJoinUrl,
    /// Whether the provider's resource is renamed after the agent, so that a person recognises it. Default true.
    #[serde(default = "yes")]
    pub rename_on_claim: bool,
    /// Fields of a claim's body over HTTP that are handed to the agent in its claim call unchanged, beside those that the
    /// product knows: what the agent and its callers agree on without us. Together at most 16 KiB as JSON. `metadata` and
    /// `profileImage`, listed here, also reach agents of dialect Gateway. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[A-Za-z_][A-Za-z0-9_-]*$")
        )
    )]
    #[x_kube(validation = Rule::new("self.all(f, !(f in ['agentName', 'env', 'instructions', 'inviteUrl', 'joinUrl', 'name', 'pool', 'profileName', 'runtime', 'waitSeconds']))").message("claim.passThroughFields cannot name agentName, env, instructions, inviteUrl, joinUrl, name, pool, profileName, runtime or waitSeconds: these are read or set by the product itself"))]
    pub pass_through_fields: Vec<String>,
    /// After how long a claimed agent is ended, in seconds, protected ones excepted. No default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31_536_000))]
    pub max_lifetime_seconds: Option<i64>,
    /// After how long without a message a claimed agent is ended, in seconds, where the runtime can tell. No known one
    /// can: the field is accepted, has no effect, and the pool's Ready condition says so. No default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub idle_timeout_seconds: Option<i64>,
}

fn default_call_timeout() -> i32 {
    75
}
fn default_deadline() -> i32 {
    150
}
fn default_pending_timeout() -> i32 {
    4500
}
fn default_duplicate_status() -> i32 {
    409
}
fn yes() -> bool {
    true
}

impl Default for ClaimPolicy {
    fn default() -> Self {
        Self {
            order: ClaimOrder::default(),
            call_timeout_seconds: default_call_timeout(),
            deadline_seconds: default_deadline(),
            pending_timeout_seconds: default_pending_timeout(),
            dedupe_join_url: DedupeJoinUrl::default(),
            require_fields: RequireFields::default(),
            duplicate_status: default_duplicate_status(),
            validate_join_url: ValidateJoinUrl::default(),
            rename_on_claim: true,
            pass_through_fields: vec![],
            max_lifetime_seconds: None,
            idle_timeout_seconds: None,
        }
    }
}

/// Which idle agent goes first.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimOrder {
    /// One of the oldest.
    #[default]
    Oldest,
    /// One of the newest.
    Newest,
}

/// Whether a second claim with the same join link is refused.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DedupeJoinUrl {
    /// Never.
    Off,
    /// While the first is in flight.
    InFlight,
    /// While the first is in flight or its agent lives.
    #[default]
    Active,
}

/// When agent name and instructions are required.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequireFields {
    /// In every claim.
    Always,
    /// In claims that create a conversation.
    #[default]
    CreateOnly,
    /// In none.
    Never,
}

/// How join links are checked.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValidateJoinUrl {
    /// Links of the other environment are refused.
    #[default]
    Env,
    /// Also the link's form is checked.
    Strict,
}
