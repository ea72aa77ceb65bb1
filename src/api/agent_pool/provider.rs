//! Where the agents of a pool run.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigMapKeyRef, SecretKeyRef, SecretRef};

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
    /// Whether Railway may put an agent to sleep when it sends nothing for some minutes. Default false: then one in stock
    /// that sleeps all the same is woken once, and replaced when that does not help. True: it is left asleep, out of
    /// stock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sleep: bool,
    /// What Railway asks the agent before it counts a deployment as up. Absent: nothing, and the agent is up when its
    /// container runs. Whether it is ready is asked by the operator in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<RailwayHealthCheck>,
    /// Where the agents run, such as `us-west2`; the workspace's preferred region if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]+(-[a-z0-9]+)*$")
    )]
    pub region: Option<String>,
    /// A volume for each agent, there before its first start; none if absent. A plan allows few in a project: 10 on
    /// Hobby, 20 on Pro. It goes with the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<RailwayVolume>,
    /// What an agent may use at most; the plan's limits if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RailwayLimits>,
    /// What Railway does when an agent's process ends: OnFailure (default) starts it again after a failure, Always after
    /// any end, Never not at all. An agent that destroys itself ends without failure.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_default")]
    pub restart_policy: RestartPolicy,
    /// How often a process is started again before the agent counts as crashed. Default 10.
    #[serde(
        default = "default_restarts",
        skip_serializing_if = "are_default_restarts"
    )]
    #[schemars(range(min = 0, max = 100))]
    pub restart_retries: i32,
}

fn default_restarts() -> i32 {
    10
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn are_default_restarts(retries: &i32) -> bool {
    *retries == default_restarts()
}

/// A volume of an agent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RailwayVolume {
    /// Where it is mounted. Default `/data`, where the runtimes keep their state. An image that does not run as root
    /// needs the variable RAILWAY_RUN_UID=0 to write there.
    #[serde(default = "default_mount_path")]
    #[schemars(length(min = 2, max = 255), regex(pattern = r"^/[^\s]+$"))]
    pub mount_path: String,
}

fn default_mount_path() -> String {
    "/data".to_owned()
}

/// What Railway asks an agent before a deployment counts as up.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RailwayHealthCheck {
    /// The path that must answer 200, such as `/pool/health`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/[^\s]*$"))]
    pub path: String,
    /// How long it may take, in seconds, before the deployment has failed. Default 300.
    #[serde(default = "default_health_check")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
}

fn default_health_check() -> i32 {
    300
}

/// What an agent may use at most.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.cpuMillis) || has(self.memoryMegabytes)").message("set cpuMillis, memoryMegabytes or both, or remove railway.limits"))]
pub struct RailwayLimits {
    /// Thousandths of a vCPU: 4000 is four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1_000_000))]
    pub cpu_millis: Option<i32>,
    /// Megabytes of memory: 4000 is 4 GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1_000_000))]
    pub memory_megabytes: Option<i32>,
}

/// What Railway does when a process ends.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Starts it again after a failure.
    #[default]
    OnFailure,
    /// Starts it again after any end.
    Always,
    /// Leaves it ended.
    Never,
}

impl RestartPolicy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
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
                credentials_secret_ref: None,
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
    /// Whether a tag at ghcr.io is resolved to a digest before it is deployed. PinOrFail (default) creates nothing while
    /// it cannot be; PinOrTag falls back to the tag, unless the registry says that there is none; "Off" (in quotes: YAML
    /// takes the bare word for a boolean) deploys what is written. A tag at another registry is deployed as it is written.
    #[serde(default)]
    pub digest_policy: DigestPolicy,
    /// The Secret with the credential for a private image, of type kubernetes.io/basic-auth: the keys `username` and
    /// `password`. Railway takes such credentials on its Pro plan only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
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
