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

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
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

/// Where the agents run: exactly one member.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    /// Railway services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub railway: Option<Railway>,
    /// Fly.io Sprites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sprites: Option<Sprites>,
    /// A services API that does all provider work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_api: Option<ServicesApi>,
}

/// Agents as Railway services.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.project) != has(self.perInstance)").message("set exactly one of railway.project (one service per agent in a shared project) and railway.perInstance (one project per agent)"),
    validation = Rule::new("!has(self.perInstance) || self.tokenKind != 'Project'").message("railway.perInstance needs tokenKind: Bearer, because a project token cannot create projects").field_path(".tokenKind")
)]
pub struct Railway {
    /// The Secret with the API token.
    pub token_secret_ref: SecretKeyRef,
    /// How the token is sent: Bearer (default) for account and workspace tokens, Project for project tokens. The kinds
    /// cannot be told apart by looking at the token.
    #[serde(default)]
    pub token_kind: TokenKind,
    /// The Secret with further account tokens, one to a line, used in turn for creating projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_tokens_secret_ref: Option<SecretKeyRef>,
    /// One service per agent in this project. Best a project with exactly one environment: Railway shows a service in
    /// every environment of its project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<RailwayProject>,
    /// One project per agent, in this workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_instance: Option<RailwayPerInstance>,
    /// What is deployed: exactly one of image and repository. Default: the default image.
    #[serde(default)]
    pub source: RailwaySource,
    /// The start command; the image's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub start_command: Option<String>,
}

/// How a Railway token is sent.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenKind {
    /// `Authorization: Bearer`, for account and workspace tokens.
    #[default]
    Bearer,
    /// `Project-Access-Token`, for project tokens.
    Project,
}

/// A shared Railway project.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.environmentId) != has(self.environmentName)").message("set exactly one of railway.project.environmentId and railway.project.environmentName"))]
pub struct RailwayProject {
    /// The project's id, a UUID.
    #[schemars(length(min = 1, max = 64))]
    pub project_id: String,
    /// The environment's id, a UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub environment_id: Option<String>,
    /// The environment's name, in any letter case; resolved to its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub environment_name: Option<String>,
}

/// A Railway project for each agent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RailwayPerInstance {
    /// The workspace in which the projects are created, a UUID.
    #[schemars(length(min = 1, max = 64))]
    pub workspace_id: String,
}

/// What a Railway service runs: exactly one member.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.image) != has(self.repository)").message("set exactly one of railway.source.image and railway.source.repository"))]
pub struct RailwaySource {
    /// A pre-built image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// A repository that Railway builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositorySource>,
}

impl Default for RailwaySource {
    fn default() -> Self {
        Self {
            image: Some(ImageSource {
                reference: default_image(),
                digest_policy: DigestPolicy::default(),
            }),
            repository: None,
        }
    }
}

fn default_image() -> String {
    "ghcr.io/xmtplabs/convos-runtime:latest".to_owned()
}

/// A pre-built image.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image, by tag or by digest. Default `ghcr.io/xmtplabs/convos-runtime:latest`. Its name tells the agent's kind: `convos-runtime-hermes` is Hermes, else OpenClaw.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub reference: String,
    /// Whether a tag is resolved to a digest before it is deployed. PinOrFail (default) creates nothing while it
    /// cannot be; PinOrTag falls back to the tag; "Off" (in quotes: YAML takes the bare word for a boolean) deploys what is written.
    #[serde(default)]
    pub digest_policy: DigestPolicy,
}

/// Whether a tag is pinned to a digest.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DigestPolicy {
    /// Pin, or create nothing.
    #[default]
    PinOrFail,
    /// Pin, or take the tag.
    PinOrTag,
    /// Take what is written.
    Off,
}

/// A repository that Railway builds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositorySource {
    /// `owner/name`.
    #[schemars(length(min = 3, max = 255), regex(pattern = r"^[^/\s]+/[^/\s]+$"))]
    pub repo: String,
    /// The branch; the repository's default branch if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub branch: Option<String>,
    /// The directory to build in; the repository's root if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub root_directory: Option<String>,
}

/// Agents as Fly.io Sprites.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sprites {
    /// The Secret with the API token.
    pub token_secret_ref: SecretKeyRef,
    /// How a new sprite is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<SpritesSetup>,
    /// What the set-up builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SpritesSource>,
    /// Which sprites are kept awake, and thereby billed all the time. Default Claimed.
    #[serde(default)]
    pub keep_awake: KeepAwake,
    /// How often sprites that are kept awake are probed, in seconds. Default 20.
    #[serde(default = "default_heartbeat")]
    #[schemars(range(min = 1, max = 3600))]
    pub heartbeat_seconds: i32,
    /// How long a claim waits for a sprite to wake, in seconds. Default 30.
    #[serde(default = "default_wake")]
    #[schemars(range(min = 1, max = 300))]
    pub wake_timeout_seconds: i32,
    /// Whether join requests are processed by exec after a claim, as the first generation did. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub poll_join_requests: bool,
}

fn default_heartbeat() -> i32 {
    20
}
fn default_wake() -> i32 {
    30
}

/// How a new sprite is set up.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpritesSetup {
    /// The ConfigMap with a script that replaces the built-in set-up.
    pub script_config_map_ref: ConfigMapKeyRef,
}

/// What a sprite's set-up builds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpritesSource {
    /// The agent's git repository.
    pub git: GitSource,
}

/// A git reference.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// A branch or tag. Default: main in production, else staging.
    #[schemars(length(min = 1, max = 255))]
    #[serde(rename = "ref")]
    pub reference: String,
}

/// Which sprites are kept awake.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeepAwake {
    /// Idle and claimed ones.
    Always,
    /// Claimed ones.
    #[default]
    Claimed,
    /// None.
    Never,
}

/// All provider work done by a services API.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesApi {
    /// Its base address.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: String,
    /// The Secret with its API key.
    pub api_key_secret_ref: SecretKeyRef,
    /// The tools that each instance gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    pub tools: Vec<String>,
    /// Ids for links to the provider's pages on the dashboard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<ServicesApiLinks>,
}

/// Ids for links to the provider's pages.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesApiLinks {
    /// The Railway project's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub project_id: Option<String>,
    /// The Railway environment's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub environment_id: Option<String>,
}

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
    /// How long a join may wait for a person to accept, in seconds. Default 4500.
    #[serde(default = "default_pending_timeout")]
    #[schemars(range(min = 60, max = 604800))]
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
    /// Further fields of a claim's body that are handed to the agent unchanged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub pass_through_fields: Vec<String>,
    /// After how long a claimed agent is ended, in seconds. No default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub max_lifetime_seconds: Option<i64>,
    /// After how long without a message a claimed agent is ended, in seconds, where the runtime can tell. No default: never.
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

/// How a change of the pool reaches agents that are already built.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// OnDrain (default): only new agents follow a change. RollingIdle: idle ones are replaced step by step. Claimed ones never.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// How many idle agents may be missing during a rollout. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_unavailable: i32,
    /// How many agents more than minIdle there may be during a rollout. Default 1.
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
    /// reached. CircuitOpen: creations are held back.
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
