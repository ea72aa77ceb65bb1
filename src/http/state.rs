//! What handlers may see, and nothing more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use clap::ValueEnum;
use kube::runtime::reflector::Store;
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::auth::ApiKeys;
use super::callbacks::Callers;
use super::webhooks::WebhookSecret;
use crate::api::{AgentInstance, AgentPool};
use crate::claim::DurableClaims;
use crate::clock::Clock;
use crate::operations::Operations;
use crate::telemetry::Metrics;

/// Gives an instance's gateway token; `None` where it has none or it cannot be known.
pub type Tokens = Arc<dyn Fn(&AgentInstance) -> Option<SecretString> + Send + Sync>;

/// Everything a handler may use. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The watch cache of the pools.
    pub pools: Store<AgentPool>,
    /// The watch cache of the instances.
    pub instances: Store<AgentInstance>,
    /// Serves claims.
    pub claims: Arc<dyn DurableClaims>,
    /// Everything else that changes something.
    pub operations: Operations,
    /// Gateway tokens, for `GET /api/pool/status?include=secrets`.
    pub tokens: Tokens,
    /// Agents that call back.
    pub callers: Callers,
    /// The API keys.
    pub auth: ApiKeys,
    /// How the API is set up.
    pub settings: Arc<Settings>,
    /// Which parts are ready.
    pub ready: Readiness,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// What must end although its caller went away; waited for at shutdown.
    pub tasks: TaskTracker,
}

/// How the API is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What `/version` says of the build; not empty.
    pub version: String,
    /// The environment's name for `/version`; absent: the pool's.
    pub environment: Option<String>,
    /// The pool of unprefixed routes; absent: the only one there is.
    pub default_pool: Option<PoolKey>,
    /// The form of `GET /api/pool/agents`.
    pub agents_shape: AgentsShape,
    /// What callers without a key may read.
    pub public_reads: PublicReads,
    /// What Railway's webhooks must bring; absent: there are none.
    pub webhook_secret: Option<WebhookSecret>,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            environment: None,
            default_pool: None,
            agents_shape: AgentsShape::default(),
            public_reads: PublicReads::default(),
            webhook_secret: None,
            cors_origins: vec!["http://localhost:3000".to_owned()],
        }
    }
}

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::str::FromStr for PoolKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err(format!("{text:?} is no pool: write <namespace>/<name>")),
        }
    }
}

impl std::fmt::Display for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The form of `GET /api/pool/agents`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AgentsShape {
    /// An object with a list per state.
    #[default]
    Object,
    /// The list of claimed agents alone, as the first generations had it.
    List,
}

/// What callers without a key may read of version, counts and agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PublicReads {
    /// Everything but secrets.
    #[default]
    Full,
    /// No instructions and no invite links.
    Redacted,
    /// Nothing.
    Off,
}

/// A part by its name, and whether it is ready.
type Part = (&'static str, Arc<AtomicBool>);

/// Which parts of the process are ready. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    parts: Arc<RwLock<Vec<Part>>>,
}

impl Readiness {
    /// Nothing to wait for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part, not ready; the returned flag makes it so, or takes it back.
    pub fn part(&self, name: &'static str) -> ReadyFlag {
        let flag = Arc::new(AtomicBool::new(false));
        self.parts
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, flag.clone()));
        ReadyFlag(flag)
    }

    /// The parts that are not ready.
    pub fn waiting(&self) -> Vec<&'static str> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts
            .iter()
            .filter(|(_, flag)| !flag.load(Ordering::Acquire))
            .map(|(name, _)| *name)
            .collect()
    }
}

/// Says of one part whether it is ready.
#[derive(Clone)]
pub struct ReadyFlag(Arc<AtomicBool>);

impl ReadyFlag {
    /// Sets it.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }
}
