//! What was observed of a pool, and the requests of the API to the controller.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What was observed of a pool.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentPoolStatus {
    /// The generation of the spec that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// The provider's name: Railway, Sprites or ServicesApi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub provider: Option<String>,
    /// Agents ready to be claimed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub idle: i32,
    /// Agents being built, those not yet created included.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub provisioning: i32,
    /// Agents reserved by a claim in flight.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub claiming: i32,
    /// Agents in use.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub claimed: i32,
    /// Agents being restored for the next user.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub recycling: i32,
    /// Agents that died in use, kept for a person to see.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub crashed: i32,
    /// Agents whose join waits for a person.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub pending_acceptance: i32,
    /// Agents that are bound or dirty without our doing, never handed out.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub tainted: i32,
    /// Agents that the provider put to sleep.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub sleeping: i32,
    /// Agents that were never used and cannot be any more.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub dead: i32,
    /// Agents being deleted.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub terminating: i32,
    /// Agents that count towards maxTotal.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub occupancy: i32,
    /// Idle agents that are not what the pool would build now: its template was changed, or its image's tag was moved.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub drifted: i32,
    /// Selects the pool's instances, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub selector: Option<String>,
    /// Name of the ControllerRevision with the pool's present template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub revision: Option<String>,
    /// The release that owns this pool; another release leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub release: Option<String>,
    /// Ids of instances that are about to be created: written before the objects, so that no two leaders create more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 64)))]
    pub creating: Vec<String>,
    /// The circuit breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,
    /// Defaults that depend on provider or environment, as they apply, and ids that names were resolved to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub resolved: BTreeMap<String, String>,
    /// Answers to requests of the API, by their id; removed after ten minutes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, RequestAnswer>,
    /// Ready: the pool has its minimum, else why not. ProviderReachable: the provider answers. AtCapacity: maxTotal is
    /// reached. CircuitOpen: creations are held back. RolledOut: no idle agent drifted, else what is done about it.
    /// StrayResources, only where there are any: the provider has resources that are called as this pool's agents are and
    /// that no AgentInstance is about. WebhookRegistered, only where a public address and a secret are set: the provider
    /// tells us of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// The circuit breaker of a pool.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// Failed creations in a row.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub failures: i32,
    /// Until when no creation is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<Time>,
    /// Ids of the failed creations that are counted, so that none counts twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 64)))]
    pub counted: Vec<String>,
    /// What the last failure was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub last_failure: String,
}

/// The answer to a request of the API.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAnswer {
    /// `Running`, `Done` or `Failed`.
    #[schemars(length(max = 16))]
    pub state: String,
    /// When it was answered.
    pub at: Time,
    /// Ids that the request created or concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub ids: Vec<String>,
    /// A number that the request counted, such as records cleaned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub count: Option<i32>,
    /// True where maxTotal cut the request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub capped: bool,
    /// What went wrong, or what else there is to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// One entry of the requests annotation, a JSON list on the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The request's id; the answer is under it in `status.requests`.
    pub id: String,
    /// What is asked for.
    pub kind: RequestKind,
    /// How many, for Replenish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i32>,
    /// Which instance, for Recheck and Debug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// What the API asks of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKind {
    /// Create so many agents now, beyond the minimum too.
    Replenish,
    /// List, probe and fill now.
    Cycle,
    /// Compare records and provider now, both looks included.
    Reconcile,
    /// Probe one instance now.
    Recheck,
    /// A diagnostic report of one instance.
    Debug,
}
