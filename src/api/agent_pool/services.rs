//! What each agent owns elsewhere.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// What each agent owns elsewhere.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// A key at OpenRouter with a spending limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openrouter: Option<OpenRouter>,
    /// A mailbox at AgentMail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agentmail: Option<AgentMail>,
    /// A phone number at Telnyx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telnyx: Option<Telnyx>,
    /// A shared key for Bankr, passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bankr: Option<Bankr>,
    /// A key at Exa.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exa: Option<Exa>,
}

/// A key at OpenRouter for each agent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.managementKeySecretRef) != has(self.sharedKeySecretRef)").message("set exactly one of openrouter.managementKeySecretRef (a key for each agent) and openrouter.sharedKeySecretRef (one key for all)"))]
pub struct OpenRouter {
    /// The Secret with the management key, with which a key for each agent is made. It never reaches an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_key_secret_ref: Option<SecretKeyRef>,
    /// The Secret with one key that all agents share; then none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key_secret_ref: Option<SecretKeyRef>,
    /// The spending limit of a key in USD, a decimal. Default `20`.
    #[serde(default = "default_limit_usd")]
    #[schemars(regex(pattern = r"^[0-9]{1,6}(\.[0-9]{1,2})?$"))]
    pub limit_usd: String,
    /// How often the limit starts anew. Default Monthly.
    #[serde(default)]
    pub limit_reset: LimitReset,
    /// Whether an agent without it is a failed creation. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

fn default_limit_usd() -> String {
    "20".to_owned()
}

/// How often a spending limit starts anew.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitReset {
    /// At midnight UTC.
    Daily,
    /// On Mondays.
    Weekly,
    /// On the first of the month.
    #[default]
    Monthly,
    /// Never.
    None,
}

/// A mailbox at AgentMail for each agent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentMail {
    /// The Secret with the API key.
    pub api_key_secret_ref: SecretKeyRef,
    /// The domain of the addresses. Default `agentmail.to`.
    #[serde(default = "default_mail_domain")]
    #[schemars(length(min = 1, max = 253))]
    pub domain: String,
    /// Whether an agent without it is a failed creation. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

fn default_mail_domain() -> String {
    "agentmail.to".to_owned()
}

/// A phone number at Telnyx.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode != 'Shared' || has(self.sharedPhoneNumber)").message("telnyx.mode: Shared needs telnyx.sharedPhoneNumber").field_path(".sharedPhoneNumber"))]
pub struct Telnyx {
    /// The Secret with the API key.
    pub api_key_secret_ref: SecretKeyRef,
    /// Shared (default): one number for all agents; PerInstance: one bought for each.
    #[serde(default)]
    pub mode: TelnyxMode,
    /// The shared number, in E.164 form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^\+[1-9][0-9]{1,14}$"))]
    pub shared_phone_number: Option<String>,
    /// The messaging profile that numbers are assigned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub messaging_profile_id: Option<String>,
    /// Whether an agent without it is a failed creation. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// Whose number an agent uses.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TelnyxMode {
    /// One for all.
    #[default]
    Shared,
    /// One for each.
    PerInstance,
}

/// A shared key for Bankr.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bankr {
    /// The Secret with the key.
    pub api_key_secret_ref: SecretKeyRef,
}

/// A key at Exa for each agent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exa {
    /// The Secret with the service key. It never reaches an agent.
    pub service_key_secret_ref: SecretKeyRef,
    /// Requests per second of each key. Default 10.
    #[serde(default = "default_exa_rate")]
    #[schemars(range(min = 1, max = 10000))]
    pub rate_limit: i32,
    /// Whether an agent without it is a failed creation. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

fn default_exa_rate() -> i32 {
    10
}
