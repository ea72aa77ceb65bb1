//! The only place that builds everything and ties it to shutdown.
//!
//! The ports are open before anything else is there: `/healthz` answers with the API server down. What needs the
//! cluster waits for it, says once what it waits for, and never ends the process for it.

mod api;
mod commands;
mod controllers;
mod import;
mod leadership;
mod ports;
mod prerequisites;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{AgentClaim, AgentInstance, AgentPool};
use crate::claim::durable::queue::Queue as Waiting;
use crate::claim::replicas::Replicas;
use crate::claim::stock::Stock;
use crate::clock::{Clock, Rng};
use crate::config::{Config, Role};
use crate::controllers::memory::Memories;
use crate::http::{self, OperationsState, Readiness};
use crate::k8s::lease::Leadership;
use crate::k8s::secret::RootKeys;
use crate::k8s::watch::Queue;
use crate::operations::counts;
use crate::runtime::AgentRuntime;
use crate::runtime::client::HttpRuntime;
use crate::telemetry::Metrics;

pub use commands::{apply, claim};
pub use import::{NOT_ALL_IMPORTED, import};

use api::api_router;
use controllers::start_controllers;
use ports::{StopSignals, listen, serve, until_told, write_ports};
use prerequisites::{Started, start_prerequisites, start_root_key};
use watches::{Filled, start_claim_watch, start_manifest_watch, start_watches};

/// How long a shutdown waits for what is in hand.
const GRACE: Duration = Duration::from_secs(25);
/// The most threads that work at a time.
const THREADS_MAX: usize = 4;
/// How often what is missing at start is looked for again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the root key is read again.
const ROOT_KEY_EVERY: Duration = Duration::from_secs(60);

/// Everything that the parts of the process share.
struct Process {
    config: Config,
    client: Client,
    clock: Clock,
    rng: Rng,
    metrics: Metrics,
    ready: Readiness,
    root_keys: RootKeys,
    runtime: Arc<dyn AgentRuntime>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    holder: String,
    leadership: Leadership,
    pool_queue: Queue<AgentPool>,
    instance_queue: Queue<AgentInstance>,
    claim_queue: Queue<AgentClaim>,
    /// Which AgentClaims wait for an agent.
    waiting: Arc<Waiting>,
    /// Set where the process stops by itself and not because it was told to.
    failed: AtomicBool,
}

/// As many threads as there are cores, four at most: what is done here waits for others, and each thread of a large node
/// would hold memory of its own.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(THREADS_MAX))
        .enable_all()
        .build()
}

/// Runs a role until it is told to stop; an error where it stops by itself.
pub async fn run(config: Config) -> Result<()> {
    let signals = StopSignals::listen()?;
    let process = Arc::new(build(config).await?);
    let api = match &process.config.api {
        Some(api) => Some((
            listen(&process, api.port, "--port (PORT)").await?,
            api.clone(),
        )),
        None => None,
    };
    let operations = listen(
        &process,
        process.config.operations_port,
        "--operations-port (AGENTPOOL_OPERATIONS_PORT)",
    )
    .await?;
    write_ports(
        process.config.ports_file.as_deref(),
        api.as_ref().map(|(l, _)| l),
        &operations,
    )?;

    let memories = Arc::new(Memories::default());
    let filled = Filled::default();
    let stock = Arc::new(Stock::default());
    let replicas = Replicas::new(process.holder.clone(), process.clock.clone());
    let claims = (stock, Arc::new(replicas));
    let (pools, instances) = start_watches(&process, &memories, &claims, &filled);
    let unfinished = start_claim_watch(&process, &process.waiting, &filled.claims);
    process
        .metrics
        .set_pool_source(counts::pool_source(pools.clone(), instances.clone()));

    let state = OperationsState {
        ready: process.ready.clone(),
        metrics: process.metrics.clone(),
    };
    serve(
        &process,
        "operations",
        operations,
        http::operations_router(state),
    );
    if let Some((listener, api)) = api {
        let stores = (pools.clone(), instances.clone(), unfinished);
        let router = api_router(&process, &api, stores, claims, &filled)?;
        serve(&process, "api", listener, router);
    }
    let prepared = start_prerequisites(&process);
    let rooted = start_root_key(&process, prepared.clone());
    if process.config.role != Role::Api {
        let leadership = process.leadership.clone();
        process
            .metrics
            .set_leader_source(move || leadership.holds());
        let started = Started {
            prepared,
            rooted,
            filled,
        };
        let manifests = start_manifest_watch(&process, &started.filled.manifests);
        start_controllers(&process, (pools, instances, manifests), memories, started);
    }
    until_told(&process, signals).await;
    anyhow::ensure!(
        !process.failed.load(Ordering::SeqCst),
        "stopped by itself; the reason is in the log above"
    );
    Ok(())
}

async fn build(config: Config) -> Result<Process> {
    let client = Client::try_default()
        .await
        .context("no cluster: set KUBECONFIG, or run in a pod with a service account")?;
    let runtime = HttpRuntime::new(config.agent_connect_to.clone())
        .context("cannot set up HTTP to agents")?;
    let rng = Rng::system();
    let host = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "local".to_owned());
    let holder = format!("{host}-{}", crate::api::names::hex(&rng.bytes::<4>()));
    let clock = Clock::system();
    Ok(Process {
        config,
        client,
        leadership: Leadership::new(clock.clone()),
        clock,
        rng,
        metrics: Metrics::new(),
        ready: Readiness::new(),
        root_keys: RootKeys::default(),
        runtime: Arc::new(runtime),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        holder,
        pool_queue: Queue::default(),
        instance_queue: Queue::default(),
        claim_queue: Queue::default(),
        waiting: Arc::default(),
        failed: AtomicBool::new(false),
    })
}
