//! The program inside an agent, its variables, and references to Secrets.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The program inside an agent and how it is talked to.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.auth) || self.auth != 'Shared' || has(self.sharedKeySecretRef)").message("runtime.auth: Shared needs runtime.sharedKeySecretRef").field_path(".sharedKeySecretRef"))]
pub struct Runtime {
    /// The HTTP dialect of the agents. Auto (default) finds out once per instance.
    #[serde(default)]
    pub dialect: DialectChoice,
    /// How the agents are authenticated. Instance (default): a token for each; Shared: the pool's one key; None: open
    /// (imported old ones, or a private network).
    #[serde(default)]
    pub auth: RuntimeAuth,
    /// The Secret with the pool's shared key, tried once after a refused instance token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key_secret_ref: Option<SecretKeyRef>,
    /// Whether an agent that cannot tell whether it is clean may be Idle. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unknown_clean: bool,
    /// What becomes of an agent whose claim failed: Replace (default) or, in the one safe case, Reset.
    #[serde(default)]
    pub failed_claim: FailedClaim,
    /// Which set of variables an agent gets: Minimal for current runtimes, Legacy for older images. Required on Railway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_profile: Option<EnvProfile>,
    /// Hosts of invite links that `claim.validateJoinUrl: Strict` accepts. Default by environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub invite_domains: Vec<String>,
    /// Further variables of every agent, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    #[schemars(length(max = 64))]
    pub env: Vec<EnvVar>,
}

/// The HTTP dialect of a pool's agents.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DialectChoice {
    /// Found out once per instance.
    #[default]
    Auto,
    /// A wrapper with `/pool/*` in front of the runtime.
    PoolServer,
    /// The gateway itself.
    Gateway,
}

/// How agents are authenticated.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeAuth {
    /// A token for each.
    #[default]
    Instance,
    /// One key for all.
    Shared,
    /// None.
    None,
}

/// What becomes of an agent whose claim failed.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailedClaim {
    /// Destroyed and replaced.
    #[default]
    Replace,
    /// Reset where that is safe, else replaced.
    Reset,
}

/// Which set of variables an agent gets.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvProfile {
    /// The first pre-built images: POOL_API_KEY, OPENCLAW_*, SETUP_PASSWORD, PRIVATE_WALLET_KEY.
    Legacy,
    /// Current runtimes: INSTANCE_ID, GATEWAY_TOKEN and what is configured; no provider keys.
    Minimal,
}

/// A variable of every agent: a value, or a reference to one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.value) != has(self.valueFrom)").message("set exactly one of value and valueFrom"),
    validation = Rule::new("!(self.name in ['AGENTPOOL_OWNER', 'INSTANCE_ID', 'GATEWAY_TOKEN', 'OPENCLAW_GATEWAY_TOKEN', 'GATEWAY_AUTH_TOKEN', 'SETUP_PASSWORD', 'PRIVATE_WALLET_KEY', 'POOL_URL'])").message("this variable is set by the operator for each agent: remove it").field_path(".name")
)]
pub struct EnvVar {
    /// The variable's name.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$")
    )]
    pub name: String,
    /// Its value. An empty value is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,
    /// Where its value is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where a variable's value is taken from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarSource {
    /// A key of a Secret in the same namespace.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it. Default `token`.
    #[serde(default = "default_secret_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_secret_key() -> String {
    "token".to_owned()
}

/// A Secret in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a ConfigMap in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it. Default `setup.sh`.
    #[serde(default = "default_script_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_script_key() -> String {
    "setup.sh".to_owned()
}
