//! AgentInstance: one agent outside the cluster, mirrored.
//!
//! Intent is in `spec`, observation in `status`. The claim service owns `spec.claim` and `status.claim`, the
//! instance controller everything else; nobody ever PUTs or applies one (see `k8s::patch`). Turns fence every
//! claim: `status.turn == spec.turn` is the proof that the agent is ready and clean for the present turn.
//! The object is thin on purpose: the API server's work per claim grows with its size.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column names its type"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent_pool::{SecretKeyRef, TokenKind};

/// What an agent instance should be: its identity, which never changes, and the claim on it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "pool.convos.org",
    version = "v1alpha1",
    kind = "AgentInstance",
    plural = "agentinstances",
    shortname = "ai",
    category = "agentpool",
    namespaced,
    status = "AgentInstanceStatus",
    derive = "PartialEq",
    doc = "One AI agent outside the cluster: built, verified clean, handed out by a claim. Deleting it destroys the agent and everything paid for it.",
    selectable = ".spec.poolRef.name",
    selectable = ".status.phase",
    selectable = ".spec.claim.id",
    selectable = ".spec.claim.ref",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.poolRef.name", description = "The AgentPool it belongs to"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where it is in its life"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.claim.agentName", description = "The agent's name, once claimed"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is where it is"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1, description = "The agent's public address"),
    printcolumn(name = "Provider-ID", type_ = "string", json_path = ".status.provider.id", priority = 1, description = "The provider's id of the resource"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.id == oldSelf.spec.id").message("spec.id is immutable: an id names one agent for ever; create another AgentInstance through its AgentPool").field_path(".spec.id"),
    validation = Rule::new("self.spec.poolRef == oldSelf.spec.poolRef").message("spec.poolRef is immutable: an agent stays with the pool that made it; delete it and let the other pool create its own").field_path(".spec.poolRef"),
    validation = Rule::new("self.spec.providerName == oldSelf.spec.providerName").message("spec.providerName is immutable: the agent is found at the provider by this name").field_path(".spec.providerName"),
    validation = Rule::new("self.spec.template == oldSelf.spec.template").message("spec.template is immutable: change the AgentPool, new instances follow it").field_path(".spec.template"),
    validation = Rule::new("has(self.spec.provider) == has(oldSelf.spec.provider) && (!has(self.spec.provider) || self.spec.provider == oldSelf.spec.provider)").message("spec.provider is immutable: it is what the agent is destroyed with").field_path(".spec.provider"),
    validation = Rule::new("self.spec.turn >= oldSelf.spec.turn && self.spec.turn <= oldSelf.spec.turn + 1").message("spec.turn rises by one, in the write that clears spec.claim, and never falls").field_path(".spec.turn"),
    validation = Rule::new("self.spec.turn == oldSelf.spec.turn || !has(self.spec.claim)").message("spec.turn rises only in the write that clears spec.claim: with a claim on it, the instance stays in its turn").field_path(".spec.turn"),
    validation = Rule::new("!has(self.spec.claim) || has(oldSelf.spec.claim) || (has(self.status) && has(self.status.turn) && self.status.turn == self.spec.turn)").message("spec.claim can be set only while the instance is proven ready and clean for this turn (status.turn equals spec.turn): pick an instance in phase Idle").field_path(".spec.claim"),
    validation = Rule::new("!has(self.spec.claim) || !has(oldSelf.spec.claim) || self.spec.claim == oldSelf.spec.claim").message("a claim is never changed into another: delete the instance, or release it with spec.release, and claim another one").field_path(".spec.claim"),
    validation = Rule::new("!has(oldSelf.spec.claim) || has(self.spec.claim) || self.spec.turn > oldSelf.spec.turn").message("spec.claim is removed only together with a higher spec.turn, so that the agent is proven clean again before anybody else gets it").field_path(".spec.claim"),
    validation = Rule::new("!has(self.spec.release) || self.spec.release.mode != 'Recycle' || !has(self.spec.provider) || self.spec.provider.kind != 'Railway' || (has(oldSelf.spec.release) && oldSelf.spec.release == self.spec.release)").message("Railway cannot restore an agent for its next user: release it with mode Destroy, and the pool makes another").field_path(".spec.release"),
    validation = Rule::new("!has(self.status) || !has(self.status.turn) || self.status.turn <= self.spec.turn").message("status.turn cannot be ahead of spec.turn").field_path(".status.turn")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("oldSelf.hasValue() || !has(self.claim) || (has(self.restored) && self.restored)").message("spec.claim is set by a claim on an Idle instance, never at creation; to bring a claimed instance back from a backup, create it with spec.restored: true").optional_old_self(true))]
pub struct AgentInstanceSpec {
    /// The agent's id: 12 of `0-9a-z` where we made it; what the HTTP API speaks. Never changes, never used again.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// The AgentPool it belongs to, in the same namespace. It may be gone: a claimed agent outlives its pool.
    pub pool_ref: PoolRef,
    /// The name of the agent's resource at the provider when it was created; written before the first call.
    #[schemars(length(min = 1, max = 128))]
    pub provider_name: String,
    /// The frozen template it was built from.
    pub template: TemplateRef,
    /// What is needed to find and destroy the agent when its pool is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderRef>,
    /// The turn: rises by one whenever the claim is cleared. The agent is in stock only when `status.turn` equals it.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub turn: i64,
    /// The claim on this agent. Set by one conditional write while the agent is Idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Asks for the agent to be given back: destroyed or recycled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// True on an instance that was created again from a backup: only then may it be created with a claim.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
}

fn one() -> i64 {
    1
}

/// Names an AgentPool in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// The pool's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names the ControllerRevision that holds the frozen template.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateRef {
    /// Name of the ControllerRevision in the same namespace, `<pool>-<hash>`.
    #[schemars(length(min = 1, max = 253))]
    pub revision: String,
    /// Hash of the template's content; an instance whose hash is not the pool's present one has drifted.
    #[schemars(length(min = 1, max = 64))]
    pub hash: String,
    /// The image that it is deployed from, by digest where the pool wants that; the template's own if absent. A tag that
    /// moves later does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 640))]
    pub image: Option<String>,
    /// A digest of the values that it got from Secrets, keyed with the release's root key: one that is not the pool's
    /// present one has drifted. Absent where it got none, or nobody recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub secrets: Option<String>,
}

/// Where an agent lives and with which credential it is destroyed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderRef {
    /// The provider: `Railway`, `Sprites` or `ServicesApi`.
    #[schemars(length(max = 32))]
    pub kind: String,
    /// The Secret with the provider's credential, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
    /// How the credential is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_kind: Option<TokenKind>,
    /// Railway: the project's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub project_id: Option<String>,
    /// Railway: the environment's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub environment_id: Option<String>,
    /// Railway, project per instance: the workspace's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub workspace_id: Option<String>,
}

/// A claim: who gets the agent and for what. Never changed once set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The claim's id; every later write about the claim tests it.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// The process that claims: replica name and a random part per process start.
    #[schemars(length(min = 1, max = 128))]
    pub holder: String,
    /// When the whole claim must be over. Counted by others from when they first saw the claim, never from this time.
    pub deadline: Time,
    /// When the claim was made.
    pub requested_at: Time,
    /// The agent's display name.
    #[schemars(length(min = 1, max = 800))]
    pub agent_name: String,
    /// The agent's instructions, up to 4 KiB; longer ones are in the Secret that `instructionsSecretRef` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub instructions: Option<String>,
    /// The Secret with instructions of more than 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions_secret_ref: Option<SecretKeyRef>,
    /// The invite link of the conversation to join; absent: a new conversation is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub join_url: Option<String>,
    /// The AgentClaim this claim serves, by name.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub reference: Option<String>,
    /// Who asked: `api`, `admin`, `landing`, `lite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub source: Option<String>,
}

/// Asks for an agent to be given back.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The request's id.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// What becomes of the agent.
    pub mode: ReleaseMode,
    /// When it was asked for.
    pub requested_at: Time,
}

/// What becomes of a released agent.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseMode {
    /// Restored from its checkpoint and put back into stock (Sprites).
    Recycle,
    /// Destroyed with everything paid for it.
    Destroy,
}

/// What was observed of an agent.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInstanceStatus {
    /// The generation of the spec that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Where it is in its life, for people and selectors: Provisioning, Idle, Claiming, Claimed, PendingAcceptance,
    /// Recycling, Sleeping, Crashed, Tainted, Dead or Terminating. Derived; nothing decides by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,
    /// The turn for which the agent has been proven ready and clean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub turn: Option<i64>,
    /// The agent's public base address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub url: Option<String>,
    /// Number of the agent's present token; raised by each recycle, which locks the last user out. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub token_seq: Option<i64>,
    /// Which root key the token is derived from: the key's fingerprint. `imported`: from none, it is in the Secret of
    /// imported tokens; `none`: the agent was imported without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub token_key: Option<String>,
    /// What the provider says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderStatus>,
    /// What the agent says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeStatus>,
    /// What came of the claim. Written by the claim service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimStatus>,
    /// Ids of what the agent owns at other services; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub services: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// The operation under way, step by step; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationStatus>,
    /// A judgement that outlives the observation it rests on: Crashed, Tainted or Dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Ready: why it is in its phase. Reachable: whether the agent answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// What the provider says of an agent's resource, and the ids that destroy it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// The provider's id of the main resource (Railway: the service; Sprites: the sprite).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub id: Option<String>,
    /// The provider's state in our words: Starting, Blocked, Running, Stopped, Sleeping, Failed, Removed; Sprites also
    /// Warm, Cold. Waking: we woke it, and it has not answered since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub state: Option<String>,
    /// When an agent in stock was woken: done once, and written before it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub woken_at: Option<Time>,
    /// Railway: the status of the latest deployment, in Railway's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub deploy_status: Option<String>,
    /// Railway: the service's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub service_id: Option<String>,
    /// Railway: the id of the public domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub domain_id: Option<String>,
    /// Railway: the id of the deployment that we started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub deployment_id: Option<String>,
    /// Railway: the id of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub volume_id: Option<String>,
    /// Railway, project per instance: the project's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub project_id: Option<String>,
    /// Railway, project per instance: the id of the environment in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub environment_id: Option<String>,
    /// Sprites: the id of the golden checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub checkpoint_id: Option<String>,
    /// Sprites: when the golden checkpoint was taken, by the provider's clock. Its id alone could be taken again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub checkpoint_time: Option<String>,
    /// Sprites: the home directory inside, below which everything of ours lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub home: Option<String>,
    /// The image as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The digest that the image was pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub image_digest: Option<String>,
    /// The branch that it was built from, where that is a repository's and the pool names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub source_branch: Option<String>,
    /// The commit that was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub source_commit: Option<String>,
    /// Sprites: as `spec.template.secrets`, of the values that it got when it was last restored. Absent: it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub secrets: Option<String>,
}

/// What the agent says of itself.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeStatus {
    /// The HTTP dialect it speaks, decided once: PoolServer or Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub dialect: Option<String>,
    /// Its kind: openclaw or hermes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub kind: Option<String>,
    /// Its release, as it tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
}

/// What came of a claim.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStatus {
    /// The claim this is about; the same as `spec.claim.id`.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// `Bound` or `Pending`.
    #[schemars(length(max = 32))]
    pub outcome: String,
    /// The conversation the agent is bound to.
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
    #[serde(default)]
    pub joined: bool,
    /// When it was bound (or began to wait for acceptance).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<Time>,
    /// The source branch of the agent's code, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub source_branch: Option<String>,
}

/// An operation and its recorded steps.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// The operation's id.
    #[schemars(length(max = 64))]
    pub id: String,
    /// `Create`, `Adopt` (the same for an object whose status may have been lost: every step is looked for first),
    /// `Recycle` or `Destroy`.
    #[schemars(length(max = 32))]
    pub kind: String,
    /// Hash of the plan the steps come from.
    #[schemars(length(max = 64))]
    pub plan_hash: String,
    /// Index of the step under way, from 0.
    #[schemars(range(min = 0, max = 32))]
    pub index: i32,
    /// The steps begun so far.
    #[schemars(length(max = 32))]
    pub steps: Vec<StepStatus>,
}

/// One recorded step.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// The step's name in the plan.
    #[schemars(length(max = 64))]
    pub name: String,
    /// `Intended` (maybe sent), `Running` (accepted, not finished), `Done` or `Failed`.
    #[schemars(length(max = 16))]
    pub state: String,
    /// Which try this is, from 1.
    #[schemars(range(min = 1))]
    pub attempt: i32,
    /// When this try was recorded, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// A judgement that stays.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// `Crashed`, `Tainted` or `Dead`.
    #[schemars(length(max = 16))]
    pub state: String,
    /// Why, as in the Ready condition.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Since when.
    pub since: Time,
}
