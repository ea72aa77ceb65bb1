//! The command line as clap reads it, before validation. The help texts are the documentation of the flags.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{DEFAULT_RAILWAY_URL, DEFAULT_REGISTRY_URL, DEFAULT_SPRITES_URL};
use crate::http::{AgentsShape, PublicReads};
use crate::telemetry::logs::LogFormat;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "agentpool",
    version,
    about = "Keeps warm pools of AI agents outside the cluster"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the reconcilers: create, watch and destroy agents. One leader at a time.
    Controller(CommonArgs),
    /// Serves the HTTP API. Every replica is active.
    Api(ServeArgs),
    /// Runs both in one process, for a laptop.
    Run(ServeArgs),
    /// Prints the custom resource definitions as YAML.
    Crds(CrdsArgs),
    /// Applies the AgentPools of a file, as the chart does with its `pools`. Deletes none.
    Apply(ApplyArgs),
    /// Takes over the agents of the predecessor: the rows of its table become AgentInstances. The predecessor is stopped
    /// first. Ends with 0 when every row is taken, 3 when some are not; a second run goes on where the first ended.
    Import(ImportArgs),
    /// Claims an agent from a running API and prints the answer; the key is in POOL_API_KEY.
    Claim(ClaimArgs),
}

/// Which pools are applied.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// A file of YAML documents, AgentPools all of them.
    pub(super) file: PathBuf,
}

/// What is imported, and where to.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// A table: CSV with a header, one JSON object to a line, or a JSON array. Several times: the first of them counts,
    /// the others fill what it leaves open (agent_metadata, instance_infra, instance_services).
    #[arg(long = "file", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// The pool that the agents belong to from now on, <namespace>/<name> [default: the only one there is].
    #[arg(long)]
    pub(super) pool: Option<String>,
    /// Says what would be done, row by row, and writes nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The operator's release: the agents' tokens go into its Secret <release>-imported-tokens.
    #[arg(long, env = "AGENTPOOL_RELEASE", default_value = "agentpool")]
    pub(super) release: String,
    /// The namespace of the release [default: the pool's, if the release's root key is there].
    #[arg(long, env = "AGENTPOOL_RELEASE_NAMESPACE")]
    pub(super) release_namespace: Option<String>,
    /// The cluster's id in owner marks, where the operator has one set [default: the UID of namespace kube-system].
    #[arg(long, env = "AGENTPOOL_CLUSTER_ID")]
    pub(super) cluster_id: Option<String>,
    /// Railway's GraphQL endpoint.
    #[arg(long, env = "AGENTPOOL_RAILWAY_URL", default_value = DEFAULT_RAILWAY_URL)]
    pub(super) railway_url: String,
}

/// What is claimed.
#[derive(Args, Clone, Debug)]
pub struct ClaimArgs {
    /// The API's address.
    #[arg(long, default_value = "http://localhost:3001")]
    pub(super) api_url: String,
    /// The pool, <namespace>/<name> [default: the API's default pool].
    #[arg(long)]
    pub(super) pool: Option<String>,
    /// The agent's name.
    #[arg(long, default_value = "Agent")]
    pub(super) agent_name: String,
    /// What the agent is told to be.
    #[arg(long, default_value = "You answer briefly.")]
    pub(super) instructions: String,
    /// How long to wait for an idle agent, in seconds, 0 to 60.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(0..=60))]
    pub(super) wait_seconds: u8,
    /// Destroys the agent again.
    #[arg(long)]
    pub(super) destroy: bool,
}

/// Which definitions are printed.
#[derive(Args, Clone, Debug)]
pub struct CrdsArgs {
    /// Only this kind, such as AgentPool.
    #[arg(long)]
    pub kind: Option<String>,
}

/// What the roles that serve HTTP take.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

/// What every role takes.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// The namespace to watch; absent: all.
    #[arg(long, env = "AGENTPOOL_NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// The release's name: it owns its pools, and its Secrets are called after it.
    #[arg(long, env = "AGENTPOOL_RELEASE", default_value = "agentpool")]
    pub(super) release: String,
    /// The namespace of the release's own Secrets and lease [default: --namespace, else default].
    #[arg(long, env = "AGENTPOOL_RELEASE_NAMESPACE")]
    pub(super) release_namespace: Option<String>,
    /// How long a silent leader is waited for before another replica takes over, 3 to 120 s. It is also how long a
    /// restart after a crash takes; the leader itself stops after two thirds of it without a renewal.
    #[arg(long, env = "AGENTPOOL_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u8).range(3..=120))]
    pub(super) lease_seconds: u8,
    /// The Secret with the root key that agents' tokens are derived from [default: <release>-root-key].
    #[arg(long, env = "AGENTPOOL_ROOT_KEY_SECRET")]
    pub(super) root_key_secret: Option<String>,
    /// The cluster's id in owner marks [default: the UID of namespace kube-system].
    #[arg(long, env = "AGENTPOOL_CLUSTER_ID")]
    pub(super) cluster_id: Option<String>,
    /// Railway's GraphQL endpoint.
    #[arg(long, env = "AGENTPOOL_RAILWAY_URL", default_value = DEFAULT_RAILWAY_URL)]
    pub(super) railway_url: String,
    /// The origin of Sprites' interface, without a path.
    #[arg(long, env = "AGENTPOOL_SPRITES_URL", default_value = DEFAULT_SPRITES_URL)]
    pub(super) sprites_url: String,
    /// The registry of ghcr.io, at which tags are resolved to digests.
    #[arg(long, env = "AGENTPOOL_REGISTRY_URL", default_value = DEFAULT_REGISTRY_URL)]
    pub(super) registry_url: String,
    /// How long a tag's digest is used before the registry is asked again, in seconds, 60 to 3600. Less is for tests.
    #[arg(long, env = "AGENTPOOL_DIGEST_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) digest_seconds: u32,
    /// Dials this host:port in plain HTTP for every agent, with the agent's own Host header: for the simulator.
    #[arg(long, env = "AGENTPOOL_AGENT_CONNECT_TO")]
    pub(super) agent_connect_to: Option<String>,
    /// The API's address as agents reach it; given to them as POOL_URL, so that they can end themselves and tell of
    /// joins. Absent: they make no such calls. An agent keeps the one that it was built with; a change makes none drift,
    /// so keep the old address working until the last of them is gone.
    #[arg(long, env = "AGENTPOOL_PUBLIC_URL")]
    pub(super) public_url: Option<String>,
    /// How long a resource at the provider that carries our mark and has no AgentInstance must have been seen, in
    /// seconds, before the sweep removes or adopts it: 600 to 86400. Less, down to 1, is for tests: an agent that is
    /// just being created could be taken for an orphan.
    #[arg(long, env = "AGENTPOOL_SWEEP_GRACE_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(super) sweep_grace_seconds: u32,
    /// How long an Idempotency-Key is kept after its claim, in seconds, 3600 to 604800. Less is for tests.
    #[arg(long, env = "AGENTPOOL_KEY_SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub(super) key_seconds: u32,
    /// The address to listen on, for both ports.
    #[arg(long, env = "AGENTPOOL_LISTEN", default_value = "0.0.0.0")]
    pub(super) listen: IpAddr,
    /// The port of livez, readyz and metrics; 0: any [default: 9101 for controller, else 9102].
    #[arg(long, env = "AGENTPOOL_OPERATIONS_PORT")]
    pub(super) operations_port: Option<u16>,
    /// What is logged: a level, or directives such as agentpool=debug,kube=warn.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub(super) log_level: String,
    /// How a log line looks.
    #[arg(long, env = "AGENTPOOL_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Writes the bound ports there as JSON once the process listens.
    #[arg(long, hide = true)]
    pub(super) ports_file: Option<PathBuf>,
}

/// What the HTTP API takes.
#[derive(Args, Clone, Debug)]
pub struct ApiArgs {
    /// The API's port; 0: any.
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub(super) port: u16,
    /// A file with the API key, read again when it changes.
    #[arg(long, env = "POOL_API_KEY_FILE")]
    pub(super) api_key_file: Option<PathBuf>,
    /// A Secret of the release's namespace with the API key under POOL_API_KEY; followed when it changes.
    #[arg(long, env = "POOL_API_KEY_SECRET")]
    pub(super) api_key_secret: Option<String>,
    /// Serves every call without a key. For development only.
    #[arg(long, env = "AGENTPOOL_INSECURE_NO_AUTH", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) insecure_no_auth: bool,
    /// The environment's name that /version tells [default: the default pool's].
    #[arg(long, env = "POOL_ENVIRONMENT")]
    pub(super) environment: Option<String>,
    /// The pool of unprefixed routes, <namespace>/<name> [default: the only one there is].
    #[arg(long, env = "AGENTPOOL_DEFAULT_POOL")]
    pub(super) default_pool: Option<String>,
    /// The form of GET /api/pool/agents.
    #[arg(
        long,
        env = "AGENTPOOL_AGENTS_SHAPE",
        default_value = "object",
        ignore_case = true
    )]
    pub(super) agents_shape: AgentsShape,
    /// What callers without a key may read of version, counts and agents.
    #[arg(
        long,
        env = "AGENTPOOL_PUBLIC_READS",
        default_value = "full",
        ignore_case = true
    )]
    pub(super) public_reads: PublicReads,
    /// Origins that browsers may call from, comma separated.
    #[arg(
        long,
        env = "TEMPLATE_SITE_ORIGINS",
        default_value = "http://localhost:3000"
    )]
    pub(super) cors_origins: String,
}
