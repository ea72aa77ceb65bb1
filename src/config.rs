//! The process's settings: flags and environment, validated into one struct; every rejected value names its flag.
//!
//! Secrets come from the environment, a file or a Secret, never from a flag: flags show in process lists.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::http::{PoolKey, Settings, WebhookSecret};
use crate::telemetry::logs::{self, LogFormat};

mod args;

pub use args::{
    ApiArgs, ApplyArgs, ClaimArgs, Cli, Command, CommonArgs, CrdsArgs, ImportArgs, ServeArgs,
};

/// The variable with the API key itself.
pub const API_KEY_VARIABLE: &str = "POOL_API_KEY";
/// The variable with the secret of Railway's webhooks.
pub const WEBHOOK_SECRET_VARIABLE: &str = "AGENTPOOL_RAILWAY_WEBHOOK_SECRET";
/// The fewest characters of it.
const WEBHOOK_SECRET_MIN: usize = 16;
/// Railway's public endpoint.
pub const DEFAULT_RAILWAY_URL: &str = "https://backboard.railway.com/graphql/v2";
/// Sprites' public interface.
pub const DEFAULT_SPRITES_URL: &str = "https://api.sprites.dev";
/// The registry of ghcr.io.
pub const DEFAULT_REGISTRY_URL: &str = "https://ghcr.io";
/// The operations port of the API, and of both roles in one process.
const OPERATIONS_PORT_API: u16 = 9102;
/// The operations port of the controller.
const OPERATIONS_PORT_CONTROLLER: u16 = 9101;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {problem}")]
pub struct ConfigError {
    /// The flag, and the variable it has where there is one.
    pub flag: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// What the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The reconcilers.
    Controller,
    /// The HTTP API.
    Api,
    /// Both.
    Run,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Run a role.
    Serve(Box<Config>),
    /// Print the definitions, or only the one of a kind.
    Crds {
        /// The kind.
        kind: Option<String>,
    },
    /// Apply the AgentPools of a file.
    Apply(PoolFile),
    /// Claim an agent from a running API.
    Claim(Box<ClaimOrder>),
    /// Take over the agents of the predecessor.
    Import(Box<ImportOrder>),
}

/// What `agentpool import` takes over, and where to.
#[derive(Clone, Debug)]
pub struct ImportOrder {
    /// The tables, in the order in which they count.
    pub files: Vec<PathBuf>,
    /// The pool; `None`: the only one there is.
    pub pool: Option<PoolKey>,
    /// Nothing is written.
    pub dry_run: bool,
    /// The operator's release.
    pub release: String,
    /// Its namespace; `None`: the pool's.
    pub release_namespace: Option<String>,
    /// The cluster's id, where it is set rather than read.
    pub cluster_id: Option<String>,
    /// Railway's endpoint.
    pub railway_url: String,
}

/// A file with AgentPools.
#[derive(Clone, Debug)]
pub struct PoolFile {
    /// Where it is.
    pub path: PathBuf,
}

/// What `agentpool claim` asks for.
#[derive(Clone, Debug)]
pub struct ClaimOrder {
    /// The API's address, without a slash at its end.
    pub api_url: String,
    /// Its key.
    pub key: SecretString,
    /// The pool, `<namespace>/<name>`; `None`: the default pool.
    pub pool: Option<String>,
    /// The agent's name.
    pub agent_name: String,
    /// Its instructions.
    pub instructions: String,
    /// How long to wait for an idle agent, in seconds.
    pub wait_seconds: u8,
    /// Destroy the agent again.
    pub destroy: bool,
}

/// The validated settings of a running process.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it is.
    pub role: Role,
    /// The watched namespace; `None`: all.
    pub namespace: Option<String>,
    /// The release's name.
    pub release: String,
    /// Where the release's own Secrets and lease are.
    pub release_namespace: String,
    /// The term of the controllers' lease.
    pub lease_term: Duration,
    /// The Secret with the root key.
    pub root_key_secret: String,
    /// The cluster's id, where it is set rather than read.
    pub cluster_id: Option<String>,
    /// Railway's endpoint.
    pub railway_url: String,
    /// The origin of Sprites' interface, without a slash at its end.
    pub sprites_url: String,
    /// The registry's address.
    pub registry_url: String,
    /// How long a tag's digest is used.
    pub digest_kept: Duration,
    /// `host:port` that every agent is dialled at.
    pub agent_connect_to: Option<String>,
    /// The API's address as agents reach it, without a slash at its end.
    pub public_url: Option<String>,
    /// The secret that Railway's webhooks bring.
    pub webhook_secret: Option<SecretString>,
    /// How long an orphan must have been seen before the sweep does anything about it.
    pub sweep_grace: Duration,
    /// How long Idempotency-Keys are kept.
    pub key_kept: Duration,
    /// The address of both ports.
    pub listen: IpAddr,
    /// The operations port; 0: any.
    pub operations_port: u16,
    /// The log filter; known to be one.
    pub log_level: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Where the bound ports are written.
    pub ports_file: Option<PathBuf>,
    /// The HTTP API; `None` for the controller alone.
    pub api: Option<ApiConfig>,
}

/// The settings of the HTTP API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Its port; 0: any.
    pub port: u16,
    /// Where its key is.
    pub key: ApiKeySource,
    /// What its handlers see.
    pub settings: Settings,
}

/// Where the API key is.
#[derive(Clone, Debug)]
pub enum ApiKeySource {
    /// Here.
    Value(SecretString),
    /// In a file, read again when it changes.
    File(PathBuf),
    /// In a Secret of the release's namespace, under [`API_KEY_VARIABLE`]; followed when it changes.
    Secret(String),
    /// There is none: every call is served.
    Insecure,
}

impl Cli {
    /// Validates. `variable` reads the process's environment, for what has no flag.
    pub fn validate(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Invocation, ConfigError> {
        let (role, common, api) = match self.command {
            Command::Crds(args) => return Ok(Invocation::Crds { kind: args.kind }),
            Command::Apply(args) => return Ok(Invocation::Apply(PoolFile { path: args.file })),
            Command::Claim(args) => return claim_order(args, variable(API_KEY_VARIABLE)),
            Command::Import(args) => return import_order(args),
            Command::Controller(common) => (Role::Controller, common, None),
            Command::Api(args) => (Role::Api, args.common, Some(args.api)),
            Command::Run(args) => (Role::Run, args.common, Some(args.api)),
        };
        let secret = webhook_secret(variable(WEBHOOK_SECRET_VARIABLE))?;
        let api = api
            .map(|args| api_config(args, (&variable, secret.as_ref())))
            .transpose()?;
        let config = config(role, common, api)?;
        Ok(Invocation::Serve(Box::new(Config {
            webhook_secret: secret,
            ..config
        })))
    }
}

fn config(role: Role, args: CommonArgs, api: Option<ApiConfig>) -> Result<Config, ConfigError> {
    let namespace = name("--namespace (AGENTPOOL_NAMESPACE)", args.namespace)?;
    let release = name("--release (AGENTPOOL_RELEASE)", Some(args.release))?
        .unwrap_or_else(|| "agentpool".to_owned());
    let release_namespace = name(
        "--release-namespace (AGENTPOOL_RELEASE_NAMESPACE)",
        args.release_namespace,
    )?
    .or_else(|| namespace.clone())
    .unwrap_or_else(|| "default".to_owned());
    let root_key_secret = name(
        "--root-key-secret (AGENTPOOL_ROOT_KEY_SECRET)",
        args.root_key_secret,
    )?;
    if let Err(error) = logs::filter(&args.log_level) {
        return Err(ConfigError {
            flag: "--log-level (LOG_LEVEL)",
            problem: error.to_string(),
        });
    }
    let default_port = if role == Role::Controller {
        OPERATIONS_PORT_CONTROLLER
    } else {
        OPERATIONS_PORT_API
    };
    let operations_port = args.operations_port.unwrap_or(default_port);
    if operations_port != 0 && api.as_ref().is_some_and(|a| a.port == operations_port) {
        return Err(ConfigError {
            flag: "--operations-port",
            problem: format!("{operations_port} is the API's port too: choose another"),
        });
    }
    Ok(Config {
        role,
        root_key_secret: root_key_secret.unwrap_or_else(|| format!("{release}-root-key")),
        namespace,
        release,
        release_namespace,
        lease_term: Duration::from_secs(args.lease_seconds.into()),
        cluster_id: cluster_id(args.cluster_id)?,
        railway_url: url("--railway-url (AGENTPOOL_RAILWAY_URL)", &args.railway_url)?,
        sprites_url: origin("--sprites-url (AGENTPOOL_SPRITES_URL)", &args.sprites_url)?,
        registry_url: url(
            "--registry-url (AGENTPOOL_REGISTRY_URL)",
            &args.registry_url,
        )?,
        digest_kept: Duration::from_secs(u64::from(args.digest_seconds)),
        agent_connect_to: host_port(args.agent_connect_to)?,
        public_url: given(args.public_url)
            .map(|u| url("--public-url (AGENTPOOL_PUBLIC_URL)", &u))
            .transpose()?,
        webhook_secret: None,
        sweep_grace: Duration::from_secs(u64::from(args.sweep_grace_seconds)),
        key_kept: Duration::from_secs(u64::from(args.key_seconds)),
        listen: args.listen,
        operations_port,
        log_level: args.log_level,
        log_format: args.log_format,
        ports_file: args.ports_file,
        api,
    })
}

fn api_config(
    args: ApiArgs,
    (variable, webhook_secret): (&impl Fn(&str) -> Option<String>, Option<&SecretString>),
) -> Result<ApiConfig, ConfigError> {
    let key = variable(API_KEY_VARIABLE);
    let default_pool = pool_key("--default-pool (AGENTPOOL_DEFAULT_POOL)", args.default_pool)?;
    let origins = args
        .cors_origins
        .split(',')
        .map(|o| o.trim().trim_end_matches('/'))
        .filter(|o| !o.is_empty());
    let cors_origins = origins
        .map(|o| origin("--cors-origins (TEMPLATE_SITE_ORIGINS)", o))
        .collect::<Result<_, _>>()?;
    let environment = given(args.environment);
    Ok(ApiConfig {
        port: args.port,
        key: key_source(
            key,
            given_path(args.api_key_file),
            given(args.api_key_secret),
            args.insecure_no_auth,
        )?,
        settings: Settings {
            environment,
            default_pool,
            agents_shape: args.agents_shape,
            public_reads: args.public_reads,
            webhook_secret: webhook_secret.map(|s| WebhookSecret::new(s.expose_secret())),
            cors_origins,
            ..Settings::default()
        },
    })
}

/// What Railway's webhooks must bring. A short one could be guessed, and deliveries carry nothing else.
fn webhook_secret(given: Option<String>) -> Result<Option<SecretString>, ConfigError> {
    let Some(text) = given.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    if text.len() < WEBHOOK_SECRET_MIN {
        return Err(ConfigError {
            flag: WEBHOOK_SECRET_VARIABLE,
            problem: format!("has fewer than {WEBHOOK_SECRET_MIN} characters: choose a longer one"),
        });
    }
    Ok(Some(SecretString::from(text)))
}

/// The one source of the key. None is refused, and so are two: one of them would be forgotten at a rotation.
fn key_source(
    value: Option<String>,
    file: Option<PathBuf>,
    secret: Option<String>,
    insecure: bool,
) -> Result<ApiKeySource, ConfigError> {
    let flag = "--api-key-secret, --api-key-file or POOL_API_KEY";
    let value = value.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
    let secret = name("--api-key-secret (POOL_API_KEY_SECRET)", secret)?;
    match (value, file, secret, insecure) {
        (Some(value), None, None, false) => Ok(ApiKeySource::Value(SecretString::from(value))),
        (None, Some(file), None, false) => Ok(ApiKeySource::File(file)),
        (None, None, Some(secret), false) => Ok(ApiKeySource::Secret(secret)),
        (None, None, None, true) => Ok(ApiKeySource::Insecure),
        (None, None, None, false) => Err(ConfigError {
            flag,
            problem:
                "there is no API key: set one of them, or --insecure-no-auth to serve everybody"
                    .to_owned(),
        }),
        _ => Err(ConfigError {
            flag,
            problem: "set exactly one of them, or --insecure-no-auth alone".to_owned(),
        }),
    }
}

fn claim_order(args: ClaimArgs, key: Option<String>) -> Result<Invocation, ConfigError> {
    let key = given(key).ok_or_else(|| ConfigError {
        flag: API_KEY_VARIABLE,
        problem: "set the variable to the API's key".to_owned(),
    })?;
    let pool = pool_key("--pool", args.pool)?;
    Ok(Invocation::Claim(Box::new(ClaimOrder {
        api_url: url("--api-url", &args.api_url)?,
        key: SecretString::from(key),
        pool: pool.map(|p| p.to_string()),
        agent_name: args.agent_name,
        instructions: args.instructions,
        wait_seconds: args.wait_seconds,
        destroy: args.destroy,
    })))
}

fn import_order(args: ImportArgs) -> Result<Invocation, ConfigError> {
    let pool = pool_key("--pool", args.pool)?;
    let release = name("--release (AGENTPOOL_RELEASE)", Some(args.release))?;
    Ok(Invocation::Import(Box::new(ImportOrder {
        files: args.files,
        pool,
        dry_run: args.dry_run,
        release: release.unwrap_or_else(|| "agentpool".to_owned()),
        release_namespace: name(
            "--release-namespace (AGENTPOOL_RELEASE_NAMESPACE)",
            args.release_namespace,
        )?,
        cluster_id: cluster_id(args.cluster_id)?,
        railway_url: url("--railway-url (AGENTPOOL_RAILWAY_URL)", &args.railway_url)?,
    })))
}

/// An empty variable is one that is not set: charts render them so.
fn given(text: Option<String>) -> Option<String> {
    text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

fn given_path(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|p| !p.as_os_str().is_empty())
}

/// A Kubernetes object name.
fn name(flag: &'static str, text: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let inside = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if text.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inside) {
        return Ok(Some(text));
    }
    Err(ConfigError {
        flag,
        problem: format!("{text:?} is no Kubernetes name: use a-z, 0-9, '-' and '.'"),
    })
}

/// A pool by namespace and name.
fn pool_key(flag: &'static str, text: Option<String>) -> Result<Option<PoolKey>, ConfigError> {
    let parsed = given(text).map(|text| text.parse::<PoolKey>()).transpose();
    parsed.map_err(|problem| ConfigError { flag, problem })
}

/// What an owner mark can hold: it is `<cluster id>/<namespace>/<id>`.
fn cluster_id(text: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    if text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Ok(Some(text));
    }
    let problem =
        format!("{text:?} is no cluster id: use at most 63 of letters, digits, '-', '_' and '.'");
    Err(ConfigError {
        flag: "--cluster-id (AGENTPOOL_CLUSTER_ID)",
        problem,
    })
}

fn url(flag: &'static str, text: &str) -> Result<String, ConfigError> {
    let text = text.trim().trim_end_matches('/');
    let parsed = crate::outbound::Url::parse(text)
        .ok()
        .filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    match parsed {
        Some(url) if url.username().is_empty() && url.password().is_none() => Ok(text.to_owned()),
        Some(_) => Err(ConfigError {
            flag,
            problem: "an address with a user or password in it is not accepted".to_owned(),
        }),
        None => Err(ConfigError {
            flag,
            problem: format!("{text:?} is no http or https address"),
        }),
    }
}

fn origin(flag: &'static str, text: &str) -> Result<String, ConfigError> {
    let checked = url(flag, text)?;
    match crate::outbound::Url::parse(&checked) {
        Ok(url) if url.path() == "/" && url.query().is_none() && url.fragment().is_none() => {
            Ok(url.origin().ascii_serialization())
        }
        _ => Err(ConfigError {
            flag,
            problem: format!("{text:?} is no origin: write scheme://host[:port] without a path"),
        }),
    }
}

fn host_port(text: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    let parts = text.rsplit_once(':').filter(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if parts.is_some() {
        return Ok(Some(text));
    }
    Err(ConfigError {
        flag: "--agent-connect-to (AGENTPOOL_AGENT_CONNECT_TO)",
        problem: format!("{text:?} is not host:port"),
    })
}

#[cfg(test)]
mod tests;
