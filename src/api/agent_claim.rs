//! AgentClaim: one claim on one agent of a pool, as an object.
//!
//! `kubectl` creates one to get an agent (origin Manifest); the HTTP API creates one for what must hold over replicas
//! and crashes: an Idempotency-Key, a join link that nobody joins twice, a wish to wait (origin HTTP). Creating it is
//! the arbiter, its status is the answer. What is asked for never changes; `status.instance` is set once.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column names its type"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent_instance::PoolRef;

/// What is asked for: an agent of a pool, for whom and what.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "pool.convos.org",
    version = "v1alpha1",
    kind = "AgentClaim",
    plural = "agentclaims",
    shortname = "ac",
    category = "agentpool",
    namespaced,
    status = "AgentClaimStatus",
    derive = "PartialEq",
    doc = "A claim on one agent of a pool: the agent is in status.instance once the condition Bound is true. Deleting a claim that was created with kubectl releases its agent; deleting one that the HTTP API made only forgets it.",
    selectable = ".spec.poolRef.name",
    selectable = ".spec.origin",
    selectable = ".spec.for",
    selectable = ".status.done",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.poolRef.name", description = "The AgentPool it claims from"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agentName", description = "The agent's name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "How far it is"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Bound\")].reason", description = "Why it is bound or not"),
    printcolumn(name = "Instance", type_ = "string", json_path = ".status.instance", description = "The agent it got, by its id"),
    printcolumn(name = "Origin", type_ = "string", json_path = ".spec.origin", priority = 1, description = "Who created it: HTTP or Manifest"),
    printcolumn(name = "Conversation", type_ = "string", json_path = ".status.conversationId", priority = 1, description = "The agent's conversation"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.poolRef == oldSelf.spec.poolRef").message("spec.poolRef is immutable: create another AgentClaim for the other pool, and delete this one").field_path(".spec.poolRef"),
    validation = Rule::new("self.spec.agentName == oldSelf.spec.agentName && self.spec.instructions == oldSelf.spec.instructions").message("spec.agentName and spec.instructions are immutable, because the agent was told them already: delete this AgentClaim and create another").field_path(".spec.agentName"),
    validation = Rule::new("has(self.spec.joinUrl) == has(oldSelf.spec.joinUrl) && (!has(self.spec.joinUrl) || self.spec.joinUrl == oldSelf.spec.joinUrl)").message("spec.joinUrl is immutable: create another AgentClaim for the other conversation, and delete this one").field_path(".spec.joinUrl"),
    validation = Rule::new("has(self.spec.profileImage) == has(oldSelf.spec.profileImage) && (!has(self.spec.profileImage) || self.spec.profileImage == oldSelf.spec.profileImage) && has(self.spec.metadata) == has(oldSelf.spec.metadata) && (!has(self.spec.metadata) || self.spec.metadata == oldSelf.spec.metadata) && has(self.spec.runtime) == has(oldSelf.spec.runtime) && (!has(self.spec.runtime) || self.spec.runtime == oldSelf.spec.runtime)").message("spec.profileImage, spec.metadata and spec.runtime are immutable: delete this AgentClaim and create another").field_path(".spec"),
    validation = Rule::new("self.spec.origin == oldSelf.spec.origin").message("spec.origin is immutable: it decides whether deleting the claim releases its agent").field_path(".spec.origin"),
    validation = Rule::new("has(self.spec.requestHash) == has(oldSelf.spec.requestHash) && (!has(self.spec.requestHash) || self.spec.requestHash == oldSelf.spec.requestHash) && has(self.spec.__for__) == has(oldSelf.spec.__for__) && (!has(self.spec.__for__) || self.spec.__for__ == oldSelf.spec.__for__)").message("spec.requestHash and spec.for are immutable: they are the API's").field_path(".spec"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.instance) || (has(self.status) && has(self.status.instance) && self.status.instance == oldSelf.status.instance)").message("status.instance is set once: a claim is for one agent; create another AgentClaim for another agent").field_path(".status.instance"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.done) || !oldSelf.status.done || (has(self.status) && has(self.status.done) && self.status.done)").message("status.done stays true: a claim that was answered keeps its answer; create another AgentClaim").field_path(".status.done")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentClaimSpec {
    /// The AgentPool to claim from, in the same namespace.
    pub pool_ref: PoolRef,
    /// The agent's display name: 1 to 200 characters, no control characters, not starting with `-`.
    #[schemars(length(min = 1, max = 200))]
    pub agent_name: String,
    /// The agent's instructions, at most 100,000 bytes.
    #[schemars(length(min = 1, max = 100_000))]
    pub instructions: String,
    /// The invite link of a conversation to join. Absent: a new conversation is created. Sensitive: whoever has it can join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub join_url: Option<String>,
    /// The URL of the agent's profile image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub profile_image: Option<String>,
    /// Profile metadata that is handed to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "metadata_schema")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Only an agent of this runtime, openclaw or hermes. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeKind>,
    /// How long the claim waits for an agent while none is idle, in seconds. Absent: as long as it takes, for a claim
    /// created with kubectl; not at all for one of the HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub wait_seconds: Option<i32>,
    /// How long the object is kept after the claim is finished, in seconds; then it is deleted as if by hand, which
    /// releases the agent of a claim created with kubectl. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// Who created it. Manifest (default): a person or a tool; deleting the claim releases its agent. HTTP: the API, for
    /// an Idempotency-Key, a join link or a waiting caller; deleting it only forgets that.
    #[serde(default)]
    pub origin: Origin,
    /// HTTP only: hash of the request, so that the same key with another request is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub request_hash: Option<String>,
    /// HTTP only, on the object that holds a join link: the claim it holds the link for, where that is another object.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub held_for: Option<String>,
    /// When the claim took its place in the queue, to the microsecond. Absent: its creation time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueued_at: Option<MicroTime>,
    /// HTTP only: the API process that created it and serves it: replica name and a random part per process start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub driver: Option<String>,
}

fn metadata_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// Who created a claim.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A person or a tool, with an object.
    #[default]
    Manifest,
    /// The HTTP API.
    #[serde(rename = "HTTP")]
    Http,
}

/// Which program an agent runs.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// OpenClaw.
    Openclaw,
    /// Hermes.
    Hermes,
}

impl RuntimeKind {
    /// The word, as agents and requests say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Openclaw => "openclaw",
            Self::Hermes => "hermes",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "openclaw" => Some(Self::Openclaw),
            "hermes" => Some(Self::Hermes),
            _ => None,
        }
    }
}

/// What came of a claim.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentClaimStatus {
    /// The generation of the spec that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// How far it is: Waiting, Claiming, Bound, PendingAcceptance (joined; a person has to accept) or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,
    /// True once the answer below is final.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// The agent that the claim got: the id of its AgentInstance. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub instance: Option<String>,
    /// The agent's conversation; absent while a join waits for acceptance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub conversation_id: Option<String>,
    /// The conversation's invite link, or the link that was joined. Sensitive: whoever has it can join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub invite_url: Option<String>,
    /// The slug of the invite, where the runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub invite_slug: Option<String>,
    /// True where the agent joined a conversation that already existed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// The agent's public base address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub gateway_url: Option<String>,
    /// The API process that serves the claim, where it is another than `spec.driver`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// When the claim was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Bound: whether the claim has an agent, else why not and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// Who serves a claim.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Driver {
    /// The process: replica name and a random part per process start.
    #[schemars(length(min = 1, max = 128))]
    pub replica: String,
    /// Rises with every write of the driver: one that stands still for the pool's claim deadline is replaced.
    #[schemars(range(min = 1))]
    pub attempt: i64,
}

/// Why a claim failed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The stable word, as the HTTP API says it: provision_failed, bad_request, duplicate_join or no_idle.
    #[schemars(length(min = 1, max = 64))]
    pub code: String,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 8192))]
    pub message: String,
    /// The agent it is about, by its id: the last one tried, or the one that has the join link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub instance: Option<String>,
}
