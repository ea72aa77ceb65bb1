//! The only place that builds everything and ties it to shutdown.
//!
//! The ports are open before anything else is there: `/healthz` answers with the API server down. What needs the
//! cluster waits for it, says once what it waits for, and never ends the process for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::agent_pool::RuntimeAuth;
use crate::api::{AgentInstance, AgentPool, GROUP};
use crate::claim::cache::Candidates;
use crate::claim::service::ClaimService;
use crate::clock::{Clock, Rng};
use crate::config::{API_KEY_VARIABLE, ApiConfig, ApiKeySource, Config, Role};
use crate::controllers::fleet::{Connect, Environment, Fleet, Scope};
use crate::controllers::memory::Memories;
use crate::controllers::{self, Ctx};
use crate::domain::plan::Trouble;
use crate::domain::template::Template;
use crate::domain::token::{Purpose, RootKey};
use crate::http::{self, ApiKeys, AppState, OperationsState, Readiness, ReadyFlag};
use crate::k8s::error::chain;
use crate::k8s::event::Events;
use crate::k8s::secret::{self, RootKeys};
use crate::k8s::watch::{self, Queue};
use crate::operations::{Operations, counts};
use crate::provider::guarded::{CallObserver, Guarded};
use crate::provider::railway::{self, EnvironmentRef, RailwayConfig, RailwayProvider, Transport};
use crate::provider::{AgentProvider, Class};
use crate::runtime::AgentRuntime;
use crate::runtime::client::HttpRuntime;
use crate::telemetry::Metrics;

/// How long a shutdown waits for what is in hand.
const GRACE: Duration = Duration::from_secs(25);
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
}

/// Runs a role until it is told to stop.
pub async fn run(config: Config) -> Result<()> {
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

    let (pool_queue, pools_touched) = watch::queue::<AgentPool>();
    let (instance_queue, instances_touched) = watch::queue::<AgentInstance>();
    let memories = Arc::new(Memories::default());
    let filled = Filled::default();
    let (pools, instances) =
        start_watches(&process, &pool_queue, &instance_queue, &memories, &filled);
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
        let router = api_router(&process, &api, pools.clone(), instances.clone())?;
        serve(&process, "api", listener, router);
    }
    let prepared = start_prerequisites(&process);
    let rooted = start_root_key(&process, prepared.clone());
    if process.config.role != Role::Api {
        start_controllers(
            &process,
            (pools, pools_touched, pool_queue),
            (instances, instances_touched, instance_queue),
            memories,
            Started {
                prepared,
                rooted,
                filled,
            },
        );
    }
    until_told(&process).await;
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
    Ok(Process {
        config,
        client,
        clock: Clock::system(),
        rng,
        metrics: Metrics::new(),
        ready: Readiness::new(),
        root_keys: RootKeys::default(),
        runtime: Arc::new(runtime),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        holder,
    })
}

// ---- ports ----------------------------------------------------------------------------------------------------

async fn listen(process: &Process, port: u16, flag: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(process.config.listen, port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another with {flag}"))
}

fn write_ports(
    path: Option<&Path>,
    api: Option<&TcpListener>,
    operations: &TcpListener,
) -> Result<()> {
    let port = |l: &TcpListener| l.local_addr().map(|a| a.port());
    let api = api.map(port).transpose()?;
    let operations = port(operations)?;
    tracing::info!(api, operations, "listening");
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::json!({"api": api, "operations": operations}).to_string();
    // By way of a second name: whoever waits for the file never reads half of it.
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn serve(process: &Arc<Process>, name: &'static str, listener: TcpListener, router: Router) {
    let stop = process.shutdown.clone();
    task(process, name, async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(name, %error, "server ended");
        }
    });
}

/// Spawns a named task; one that ends before shutdown ends the process, which is then started anew.
fn task(
    process: &Arc<Process>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let shutdown = process.shutdown.clone();
    process.tasks.spawn(async move {
        work.await;
        if !shutdown.is_cancelled() {
            tracing::error!(task = name, "a task ended early: the process stops");
            shutdown.cancel();
        }
    });
}

async fn until_told(process: &Arc<Process>) {
    let mut terminate =
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(signal) => signal,
            Err(error) => {
                tracing::error!(%error, "no signals: stopping");
                return;
            }
        };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        () = process.shutdown.cancelled() => {}
    }
    tracing::info!("stopping: finishing what is in hand");
    process.shutdown.cancel();
    process.tasks.close();
    if tokio::time::timeout(GRACE, process.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("stopped with work in hand; whoever comes next resumes it");
    }
}

// ---- watches --------------------------------------------------------------------------------------------------

/// Whether the stores have had their first list.
///
/// `Store::wait_until_ready` wakes only the last of several waiters, so one task waits for each store and tells here.
#[derive(Default)]
struct Filled {
    pools: Arc<SetOnce<()>>,
    instances: Arc<SetOnce<()>>,
}

impl Filled {
    async fn wait(&self) {
        self.pools.wait().await;
        self.instances.wait().await;
    }
}

fn start_watches(
    process: &Arc<Process>,
    pool_queue: &Queue<AgentPool>,
    instance_queue: &Queue<AgentInstance>,
    memories: &Arc<Memories>,
    filled: &Filled,
) -> (Store<AgentPool>, Store<AgentInstance>) {
    let namespace = process.config.namespace.as_deref();
    let queue = pool_queue.clone();
    let (pools, watching) = watch::start(
        watch::api(&process.client, namespace),
        watch::trim_pool,
        move |pool: &AgentPool, _| {
            queue.push(ObjectRef::from_obj(pool));
        },
    );
    start_watch(
        process,
        "pool watch",
        pools.clone(),
        watching,
        &filled.pools,
    );
    let (own, of_pools, memories) = (instance_queue.clone(), pool_queue.clone(), memories.clone());
    let touched = move |instance: &AgentInstance, gone: bool| {
        if gone {
            memories.forget(instance);
        }
        own.push(ObjectRef::from_obj(instance));
        let namespace = instance.namespace().unwrap_or_default();
        of_pools.push(ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace));
    };
    let (instances, watching) = watch::start(
        watch::api(&process.client, namespace),
        watch::trim_instance,
        touched,
    );
    start_watch(
        process,
        "instance watch",
        instances.clone(),
        watching,
        &filled.instances,
    );
    (pools, instances)
}

fn start_watch<K>(
    process: &Arc<Process>,
    name: &'static str,
    store: Store<K>,
    watching: impl Future<Output = ()> + Send + 'static,
    latch: &Arc<SetOnce<()>>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let flag = process.ready.part(name);
    let (stop, latch) = (process.shutdown.clone(), latch.clone());
    task(process, name, async move {
        let filled = async {
            if store.wait_until_ready().await.is_ok() {
                flag.set(true);
                // Err: it is set already.
                let _ = latch.set(());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = watching => {}
            () = filled => {}
            () = stop.cancelled() => {}
        }
    });
}

// ---- what the cluster has to have -----------------------------------------------------------------------------

/// Repeats `attempt` until it succeeds or the process stops; each new reason for failing is logged once.
async fn insist<T, F>(process: &Process, attempt: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, String>>,
{
    let mut told = String::new();
    loop {
        match attempt().await {
            Ok(value) => return Some(value),
            Err(text) if text != told => {
                tracing::warn!("waiting: {text}");
                told = text;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = process.clock.sleep(RETRY) => {}
            () = process.shutdown.cancelled() => return None,
        }
    }
}

/// What the controllers wait for.
struct Started {
    prepared: Arc<SetOnce<()>>,
    rooted: Arc<SetOnce<()>>,
    filled: Filled,
}

/// Looks for the API server and the CRDs, saying once what is missing; set when both are there.
fn start_prerequisites(process: &Arc<Process>) -> Arc<SetOnce<()>> {
    let (found, shared) = (Arc::new(SetOnce::new()), process.clone());
    let latch = found.clone();
    task(process, "prerequisites", async move {
        if let Some(()) = insist(&shared, || crds_installed(&shared.client)).await {
            // Err: it is set already.
            let _ = latch.set(());
            shared.shutdown.cancelled().await;
        }
    });
    found
}

/// Waits; false where the process stops meanwhile.
async fn wait_for<T>(process: &Process, what: impl Future<Output = T>) -> bool {
    tokio::select! {
        _ = what => true,
        () = process.shutdown.cancelled() => false,
    }
}

/// By discovery, which everybody may read.
async fn crds_installed(client: &Client) -> Result<(), String> {
    let version = format!("{GROUP}/v1alpha1");
    let served = client.list_api_group_resources(&version);
    let served: Vec<String> = match tokio::time::timeout(RETRY * 5, served).await {
        Ok(Ok(list)) => list.resources.into_iter().map(|r| r.name).collect(),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => vec![],
        Ok(Err(error)) => {
            return Err(format!("the API server does not answer: {}", chain(&error)));
        }
        Err(_) => return Err("the API server does not answer".to_owned()),
    };
    for plural in ["agentpools", "agentinstances"] {
        if !served.iter().any(|name| name == plural) {
            return Err(format!(
                "CRD {plural}.{GROUP} is not installed: run `agentpool crds | kubectl apply --server-side -f -`"
            ));
        }
    }
    Ok(())
}

async fn cluster_id(process: &Process) -> Result<String, String> {
    if let Some(id) = &process.config.cluster_id {
        return Ok(id.clone());
    }
    let api: Api<Namespace> = Api::all(process.client.clone());
    let found = api.get("kube-system").await.map_err(|e| {
        format!("the cluster's id cannot be read from namespace kube-system (set --cluster-id / AGENTPOOL_CLUSTER_ID): {e}")
    })?;
    found
        .metadata
        .uid
        .ok_or_else(|| "namespace kube-system has no UID".to_owned())
}

/// Reads the root key, makes it where there is none, and follows its rotation; set once it is there.
fn start_root_key(process: &Arc<Process>, prepared: Arc<SetOnce<()>>) -> Arc<SetOnce<()>> {
    let (flag, shared) = (process.ready.part("root key"), process.clone());
    let rooted = Arc::new(SetOnce::new());
    let latch = rooted.clone();
    task(process, "root key", async move {
        if !wait_for(&shared, prepared.wait()).await {
            return;
        }
        loop {
            let read = || async {
                let c = &shared.config;
                secret::root_key(
                    &shared.client,
                    &c.release_namespace,
                    &c.root_key_secret,
                    shared.rng.bytes(),
                )
                .await
                .map_err(|e| chain(&e))
            };
            let Some((current, previous)) = insist(&shared, read).await else {
                return;
            };
            shared.root_keys.set(RootKey::new(current, previous));
            flag.set(true);
            // Err: it is set already.
            let _ = latch.set(());
            tokio::select! {
                () = shared.clock.sleep(ROOT_KEY_EVERY) => {}
                () = shared.shutdown.cancelled() => return,
            }
        }
    });
    rooted
}

// ---- controllers ----------------------------------------------------------------------------------------------

type Touched<K> = tokio::sync::mpsc::UnboundedReceiver<ObjectRef<K>>;

fn start_controllers(
    process: &Arc<Process>,
    pools: (Store<AgentPool>, Touched<AgentPool>, Queue<AgentPool>),
    instances: (
        Store<AgentInstance>,
        Touched<AgentInstance>,
        Queue<AgentInstance>,
    ),
    memories: Arc<Memories>,
    started: Started,
) {
    let shared = process.clone();
    task(process, "controllers", async move {
        if !wait_for(&shared, started.prepared.wait()).await {
            return;
        }
        let Some(cluster_id) = insist(&shared, || cluster_id(&shared)).await else {
            return;
        };
        if !wait_for(&shared, started.rooted.wait()).await {
            return;
        }
        let transport = match Transport::new(&shared.config.railway_url, shared.clock.clone()) {
            Ok(transport) => transport,
            Err(error) => {
                tracing::error!(%error, "cannot set up HTTP to Railway");
                return;
            }
        };
        let (pool_store, pools_touched, pool_queue) = pools;
        let (instance_store, instances_touched, instance_queue) = instances;
        if !wait_for(&shared, started.filled.wait()).await {
            return;
        }
        let connect = Connector {
            transport,
            config: shared.config.clone(),
            clock: shared.clock.clone(),
            metrics: shared.metrics.clone(),
        };
        let ctx = Arc::new(Ctx {
            client: shared.client.clone(),
            pools: pool_store.clone(),
            instances: instance_store.clone(),
            pool_queue,
            instance_queue,
            fleet: Fleet::new(
                shared.client.clone(),
                shared.clock.clone(),
                Arc::new(connect),
            ),
            runtime: shared.runtime.clone(),
            memories,
            events: Events::new(shared.client.clone(), "agentpool", &shared.holder),
            clock: shared.clock.clone(),
            rng: shared.rng.clone(),
            root_keys: shared.root_keys.clone(),
            cluster_id,
            release: shared.config.release.clone(),
            public_url: shared.config.public_url.clone(),
            metrics: shared.metrics.clone(),
            pool_memories: Mutex::default(),
        });
        tracing::info!(
            pools = pool_store.len(),
            instances = instance_store.len(),
            "reconciling"
        );
        let stop = &shared.shutdown;
        tokio::join!(
            controllers::run(
                "pool",
                ctx.clone(),
                pool_store,
                pools_touched,
                stop.clone(),
                controllers::pool::reconcile
            ),
            controllers::run(
                "instance",
                ctx,
                instance_store,
                instances_touched,
                stop.clone(),
                controllers::instance::reconcile
            ),
        );
    });
}

/// Makes the real providers.
struct Connector {
    transport: Transport,
    config: Config,
    clock: Clock,
    metrics: Metrics,
}

/// Counts a provider's calls.
struct Observer(Metrics);

impl CallObserver for Observer {
    fn observed(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        seconds: f64,
    ) {
        self.0.provider_call(
            provider,
            operation,
            outcome,
            Duration::from_secs_f64(seconds),
        );
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        scope: &Scope,
        credential: SecretString,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let config = RailwayConfig {
            base_url: self.config.railway_url.clone(),
            token: credential,
            token_kind: scope.token_kind,
            project_id: scope.project_id.clone(),
            environment: match &scope.environment {
                Environment::Id(id) => EnvironmentRef::Id(id.clone()),
                Environment::Name(name) => EnvironmentRef::Name(name.clone()),
            },
            clock: self.clock.clone(),
        };
        let provider =
            RailwayProvider::with_transport(config, &self.transport).map_err(|e| Trouble {
                class: Class::Unauthorized,
                reason: crate::api::condition::Reason::CredentialsInvalid,
                message: e.to_string(),
                retry_after: None,
            })?;
        let observer = Arc::new(Observer(self.metrics.clone()));
        Ok(Arc::new(Guarded::new(
            provider,
            "railway",
            self.clock.clone(),
            observer,
        )))
    }

    fn unsupported(&self, template: &Template) -> Option<String> {
        if template.provider.sprites.is_some() || template.provider.services_api.is_some() {
            return Some(
                "this version builds agents on Railway only: use spec.provider.railway".to_owned(),
            );
        }
        if template.services.is_some() {
            return Some("spec.services is not available in this version: give the agents' keys in spec.runtime.env".to_owned());
        }
        railway::supports(template)
            .err()
            .or_else(|| railway::cannot_pin(template))
    }
}

// ---- the API --------------------------------------------------------------------------------------------------

fn api_router(
    process: &Arc<Process>,
    api: &ApiConfig,
    pools: Store<AgentPool>,
    instances: Store<AgentInstance>,
) -> Result<Router> {
    let candidates = Candidates::new(
        process.client.clone(),
        instances.clone(),
        process.clock.clone(),
        process.rng.clone(),
    );
    let claims = ClaimService::new(
        process.client.clone(),
        Arc::new(candidates),
        process.runtime.clone(),
        process.root_keys.clone(),
        process.clock.clone(),
        process.rng.clone(),
        process.holder.clone(),
        process.tasks.clone(),
    );
    let operations = Operations::new(
        process.client.clone(),
        pools.clone(),
        instances.clone(),
        process.clock.clone(),
        process.rng.clone(),
        process.tasks.clone(),
    );
    Ok(http::router(AppState {
        pools: pools.clone(),
        instances,
        claims: Arc::new(claims),
        operations,
        tokens: tokens(process.root_keys.clone(), pools),
        auth: api_keys(process, &api.key)?,
        settings: Arc::new(api.settings.clone()),
        ready: process.ready.clone(),
        metrics: process.metrics.clone(),
        clock: process.clock.clone(),
        tasks: process.tasks.clone(),
    }))
}

fn tokens(root_keys: RootKeys, pools: Store<AgentPool>) -> http::Tokens {
    Arc::new(move |instance: &AgentInstance| {
        let namespace = instance.namespace().unwrap_or_default();
        let pool = pools.get(&ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace));
        if pool.is_some_and(|p| p.spec.runtime.auth != RuntimeAuth::Instance) {
            return None;
        }
        let status = instance.status.as_ref()?;
        root_keys.get()?.token(
            Purpose::Gateway,
            &instance.spec.id,
            status.token_seq.unwrap_or(1),
            status.token_key.as_deref(),
        )
    })
}

/// The API's keys, following their source where it can change.
fn api_keys(process: &Arc<Process>, source: &ApiKeySource) -> Result<ApiKeys> {
    match source {
        ApiKeySource::Insecure => {
            tracing::warn!("--insecure-no-auth: every call is served to everybody");
            Ok(ApiKeys::insecure())
        }
        ApiKeySource::Value(key) => Ok(ApiKeys::new(key)),
        ApiKeySource::File(path) => {
            let read = |path: &Path| std::fs::read_to_string(path).map(|t| t.trim().to_owned());
            let first = read(path)
                .with_context(|| format!("--api-key-file: cannot read {}", path.display()))?;
            anyhow::ensure!(
                !first.is_empty(),
                "--api-key-file: {} is empty",
                path.display()
            );
            let keys = ApiKeys::new(&SecretString::from(first));
            let (follower, path, shared) = (keys.clone(), path.clone(), process.clone());
            task(process, "api key", async move {
                // A mounted Secret is swapped as a whole: reading it again is cheaper than watching a directory.
                while !shared.shutdown.is_cancelled() {
                    if let Some(text) = read(&path).ok().filter(|t| !t.is_empty()) {
                        follower.replace(&[SecretString::from(text)]);
                    }
                    tokio::select! {
                        () = shared.clock.sleep(RETRY) => {}
                        () = shared.shutdown.cancelled() => {}
                    }
                }
            });
            Ok(keys)
        }
        ApiKeySource::Secret(name) => Ok(follow_secret(process, name)),
    }
}

/// Follows the one Secret with the API key; until it is read, no key fits.
fn follow_secret(process: &Arc<Process>, name: &str) -> ApiKeys {
    // An empty key fits nothing: until the Secret is read, every call that needs a key is refused.
    let keys = ApiKeys::new(&SecretString::from(String::new()));
    let flag: ReadyFlag = process.ready.part("api key");
    let api: Api<Secret> =
        Api::namespaced(process.client.clone(), &process.config.release_namespace);
    let (follower, name, shared) = (keys.clone(), name.to_owned(), process.clone());
    task(process, "api key", async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stream = watcher(api, config)
            .default_backoff()
            .applied_objects()
            .take_until(shared.shutdown.cancelled());
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            let bytes = event
                .ok()
                .and_then(|s| s.data)
                .and_then(|mut d| d.remove(API_KEY_VARIABLE));
            let Some(text) = bytes
                .and_then(|b| String::from_utf8(b.0).ok())
                .map(|t| t.trim().to_owned())
                .filter(|t| !t.is_empty())
            else {
                tracing::warn!(secret = %name, "the Secret with the API key is not there or lacks {API_KEY_VARIABLE}: calls are refused unless a key was read before");
                continue;
            };
            follower.replace(&[SecretString::from(text)]);
            flag.set(true);
            tracing::info!(secret = %name, "API key read");
        }
    });
    keys
}
