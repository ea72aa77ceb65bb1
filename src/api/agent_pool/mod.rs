//! AgentPool: how many agents of what make stand ready.
//!
//! Unions (`provider`, `source`, …) are structs with optional members and a CEL rule rather than enums: the API
//! server's own message for a violated `oneOf` does not say what to do, a rule's message does.
//! Defaults that depend on the provider or the environment are no schema defaults: they apply in
//! `domain::template` and show in `status.resolved`.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column names its type"
)]

mod claim;
mod provider;
mod runtime;
mod services;
mod status;

pub use claim::*;
pub use provider::*;
pub use runtime::*;
pub use services::*;
pub use status::*;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a pool should be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "pool.convos.org",
    version = "v1alpha1",
    kind = "AgentPool",
    plural = "agentpools",
    shortname = "ap",
    category = "agentpool",
    namespaced,
    status = "AgentPoolStatus",
    derive = "PartialEq",
    doc = "A warm pool of AI agents outside the cluster: the operator keeps spec.minIdle of them built, verified clean and waiting.",
    scale(
        spec_replicas_path = ".spec.minIdle",
        status_replicas_path = ".status.idle",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Environment",
        type_ = "string",
        json_path = ".spec.environment"
    ),
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider"),
    printcolumn(
        name = "Idle",
        type_ = "integer",
        json_path = ".status.idle",
        description = "Agents ready to be claimed"
    ),
    printcolumn(
        name = "Min",
        type_ = "integer",
        json_path = ".spec.minIdle",
        description = "Agents that should be ready"
    ),
    printcolumn(
        name = "Provisioning",
        type_ = "integer",
        json_path = ".status.provisioning",
        description = "Agents being built"
    ),
    printcolumn(
        name = "Claimed",
        type_ = "integer",
        json_path = ".status.claimed",
        description = "Agents in use"
    ),
    printcolumn(
        name = "Crashed",
        type_ = "integer",
        json_path = ".status.crashed",
        description = "Agents that died in use"
    ),
    printcolumn(
        name = "Max",
        type_ = "integer",
        json_path = ".spec.maxTotal",
        description = "The most agents at one time"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    validation = Rule::new("self.metadata.name.size() <= 242").message("metadata.name has more than 242 characters: choose a shorter one, because the pool's revisions are called <name>-<hash>")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.environment == oldSelf.environment").message("spec.environment is immutable: it is part of every agent's name; create another AgentPool for the other environment").field_path(".environment"),
    validation = Rule::new("has(self.environmentCode) == has(oldSelf.environmentCode) && (!has(self.environmentCode) || self.environmentCode == oldSelf.environmentCode)").message("spec.environmentCode is immutable: it is part of every agent's name; create another AgentPool").field_path(".environmentCode"),
    validation = Rule::new("self.namePrefix == oldSelf.namePrefix").message("spec.namePrefix is immutable: it is part of every agent's name; create another AgentPool").field_path(".namePrefix"),
    validation = Rule::new("self.environment in ['dev', 'development', 'staging', 'production'] || has(self.environmentCode)").message("spec.environmentCode is required for this environment: set 1 to 4 characters of a-z0-9 (only dev, development, staging and production have a code of their own)").field_path(".environmentCode"),
    validation = Rule::new("!has(self.environmentCode) || !(self.environment in ['dev', 'development', 'staging', 'production']) || self.environmentCode == (self.environment == 'staging' ? 'stg' : self.environment == 'production' ? 'prod' : 'dev')").message("spec.environmentCode contradicts spec.environment: leave it out for dev, development, staging and production").field_path(".environmentCode"),
    validation = Rule::new("[has(self.provider.railway), has(self.provider.sprites), has(self.provider.servicesApi)].filter(x, x).size() == 1").message("set exactly one of spec.provider.railway, spec.provider.sprites and spec.provider.servicesApi").field_path(".provider"),
    validation = Rule::new("has(self.provider.railway) == has(oldSelf.provider.railway) && has(self.provider.sprites) == has(oldSelf.provider.sprites) && has(self.provider.servicesApi) == has(oldSelf.provider.servicesApi)").message("the provider of a pool is immutable: create another AgentPool with the other provider and delete this one").field_path(".provider"),
    validation = Rule::new("!has(self.maxTotal) || self.maxTotal >= self.minIdle").message("spec.maxTotal must be at least spec.minIdle: raise maxTotal or lower minIdle").field_path(".maxTotal"),
    validation = Rule::new("!has(self.onRelease) || self.onRelease != 'Recycle' || has(self.provider.sprites)").message("spec.onRelease: Recycle needs a provider with checkpoints (sprites): use Destroy").field_path(".onRelease"),
    validation = Rule::new("!has(self.services) || !(has(self.services.agentmail) || (has(self.services.telnyx) && has(self.services.telnyx.mode) && self.services.telnyx.mode == 'PerInstance')) || (has(self.onRelease) ? self.onRelease == 'Destroy' : !has(self.provider.sprites))").message("a mailbox or phone number of its own excludes recycling, because the next user would read the last one's mail: set spec.onRelease: Destroy").field_path(".onRelease"),
    validation = Rule::new("!has(self.provider.servicesApi) || !has(self.services)").message("spec.services goes with railway and sprites only: with provider.servicesApi the services API makes them; remove spec.services").field_path(".services"),
    validation = Rule::new("!has(self.provider.railway) || has(self.runtime.envProfile)").message("spec.runtime.envProfile is required on Railway: Minimal for current runtimes, Legacy for images that expect POOL_API_KEY and OPENCLAW_* variables").field_path(".runtime.envProfile")
)]
pub struct AgentPoolSpec {
    /// The environment the agents belong to, such as dev, staging or production. `production` changes defaults: the
    /// XMTP network, the branch, which invite links are accepted, the dashboard's badge.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub environment: String,
    /// The environment's short code in the agents' names, 1 to 4 of `a-z0-9`. Needed for environments other than dev,
    /// development, staging and production, which have one: dev, dev, stg, prod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]{1,4}$"))]
    pub environment_code: Option<String>,
    /// The first part of the agents' names at the provider. Default `convos-agent`, at most 14 characters.
    #[serde(default = "default_name_prefix")]
    #[schemars(
        length(min = 1, max = 14),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name_prefix: String,
    /// How many agents stand ready, built and verified clean. Default 3. Lowering it removes nothing: idle agents go
    /// only when they are claimed, drained or replaced.
    #[serde(default = "default_min_idle")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_idle: i32,
    /// The most agents at one time: provisioning, idle, claimed and in between; crashed and dead ones do not count. No default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub max_total: Option<i32>,
    /// What a claim sets off. ToMinIdle fills up to minIdle; OneForOne starts one creation for each claim. Default by
    /// provider: OneForOne on Sprites, else ToMinIdle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// What becomes of an agent that its user gives back. Default by provider: Recycle on Sprites, else Destroy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_release: Option<OnRelease>,
    /// What becomes of claimed agents when the pool is deleted: Orphan (default) leaves them running, Destroy ends them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What the pool does not do for now: Refill, Rollout, Claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 3))]
    pub paused: Vec<Pausable>,
    /// How often the provider is listed and every running agent probed, in seconds. Default 30.
    #[serde(default = "default_tick")]
    #[schemars(range(min = 1, max = 3600))]
    pub tick_interval_seconds: i32,
    /// How often records and provider are compared in full, in seconds. Default 300.
    #[serde(default = "default_reconcile")]
    #[schemars(range(min = 1, max = 86400))]
    pub reconcile_interval_seconds: i32,
    /// How long an agent may take to become ready before it is given up and replaced, in seconds. Default 900.
    #[serde(default = "default_stuck")]
    #[schemars(range(min = 1, max = 86400))]
    pub stuck_timeout_seconds: i32,
    /// How long a dead or tainted agent is kept for a look before it is removed, in seconds. Default 600.
    #[serde(default = "default_cleanup")]
    #[schemars(range(min = 0, max = 86400))]
    pub cleanup_after_seconds: i32,
    /// Stops creating for a while when creations keep failing.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
    /// Where the agents run: exactly one of railway, sprites, servicesApi.
    pub provider: Provider,
    /// The program inside an agent and how it is talked to.
    #[serde(default)]
    pub runtime: Runtime,
    /// What each agent owns elsewhere: keys, mailboxes, numbers. A service that is not named is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// How claims are served.
    #[serde(default)]
    pub claim: ClaimPolicy,
    /// How a change of the pool reaches agents that are already built.
    #[serde(default)]
    pub rollout: Rollout,
    /// Prices for the cost estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
    /// Limits on spending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

fn default_name_prefix() -> String {
    super::names::DEFAULT_NAME_PREFIX.to_owned()
}
fn default_min_idle() -> i32 {
    3
}
fn default_tick() -> i32 {
    30
}
fn default_reconcile() -> i32 {
    300
}
fn default_stuck() -> i32 {
    900
}
fn default_cleanup() -> i32 {
    600
}

/// What a claim sets off.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replacement {
    /// Fill up to `minIdle`.
    ToMinIdle,
    /// Start one creation for each claim.
    OneForOne,
}

/// What becomes of an agent that is given back.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnRelease {
    /// Destroyed and replaced.
    Destroy,
    /// Restored from its clean checkpoint.
    Recycle,
}

/// What becomes of claimed agents when their pool is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// They keep running and keep their AgentInstance.
    #[default]
    Orphan,
    /// They are destroyed with the pool.
    Destroy,
}

/// What a pool can hold back.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pausable {
    /// No creation of agents.
    Refill,
    /// No replacement of agents that drifted.
    Rollout,
    /// No claims.
    Claims,
}

/// When creation is held back.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Failed creations in a row that open it. Default 3.
    #[serde(default = "default_failures")]
    #[schemars(range(min = 1, max = 100))]
    pub failures: i32,
    /// How long no creation is tried then, in seconds. Default 300.
    #[serde(default = "default_backoff")]
    #[schemars(range(min = 1, max = 86400))]
    pub backoff_seconds: i32,
}

fn default_failures() -> i32 {
    3
}
fn default_backoff() -> i32 {
    300
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failures: default_failures(),
            backoff_seconds: default_backoff(),
        }
    }
}

/// How a change of the pool reaches agents that are already built.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.maxSurge + self.maxUnavailable > 0").message("spec.rollout.maxSurge and maxUnavailable are both 0, so that nothing could ever be replaced: set one of them to at least 1").field_path(".maxUnavailable"))]
pub struct Rollout {
    /// OnDrain (default): only new agents follow a change. RollingIdle: idle ones are replaced step by step. Claimed ones never.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// How many idle agents may be missing during a rollout, where maxTotal or maxSurge leaves no room to build the new
    /// ones first. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_unavailable: i32,
    /// How many agents more than minIdle, or than there are where that is more, there may be during a rollout. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_surge: i32,
}

fn one() -> i32 {
    1
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: RolloutStrategy::default(),
            max_unavailable: 1,
            max_surge: 1,
        }
    }
}

/// How a change reaches agents that are already built.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutStrategy {
    /// Only new agents follow it.
    #[default]
    OnDrain,
    /// Idle agents are replaced step by step.
    RollingIdle,
}

/// Prices for the cost estimate, in USD, as decimals.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Costs {
    /// Price of an hour of a running agent. Default `0`.
    #[serde(default = "zero")]
    #[schemars(regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub per_running_hour: String,
    /// Price of a phone number for a month. Default `0`.
    #[serde(default = "zero")]
    #[schemars(regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub per_number_month: String,
}

fn zero() -> String {
    "0".to_owned()
}

/// Limits on spending.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The most the pool may cost in a month by the estimate, in USD; no creation beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,2})?$"))]
    pub monthly_spend: Option<String>,
}
