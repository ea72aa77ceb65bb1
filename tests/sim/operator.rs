//! The operator in one process: the real reconcilers, claim service and clients, put together as `app` does it.
//!
//! Only the loop around the reconcilers is our own: kube's polls what runs by hash order, and with it one seed would
//! have many histories. What it does is the same: one run per object at a time, again after the time it asked for,
//! at once when touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use agentpool::api::{AgentInstance, AgentPool};
use agentpool::claim::cache::Candidates;
use agentpool::claim::replicas::Replicas;
use agentpool::claim::service::ClaimService;
use agentpool::claim::stock::Stock;
use agentpool::claim::{ClaimAnswer, ClaimError, ClaimRequest, Claims};
use agentpool::clock::{Clock, Rng};
use agentpool::controllers::fleet::{Connect, Environment, Fleet, Scope};
use agentpool::controllers::images::Images;
use agentpool::controllers::memory::Memories;
use agentpool::controllers::sweep::Sweeps;
use agentpool::controllers::{self, Ctx};
use agentpool::domain::backoff;
use agentpool::domain::plan::{Class, Trouble};
use agentpool::domain::template::Template;
use agentpool::domain::token::RootKey;
use agentpool::k8s::event::Events;
use agentpool::k8s::lease::Leadership;
use agentpool::k8s::secret::{self, RootKeys};
use agentpool::k8s::watch::{self, Queue, Touch};
use agentpool::provider::AgentProvider;
use agentpool::provider::guarded::Guarded;
use agentpool::provider::railway::{
    self, EnvironmentRef, RailwayConfig, RailwayProvider, Timeouts, Transport,
};
use agentpool::runtime::{AgentRuntime, HttpRuntime};
use agentpool::services::registry::Registry;
use agentpool::telemetry::Metrics;
use futures::stream::{FuturesUnordered, StreamExt};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use secrecy::SecretString;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_server::{ApiServer, Reins};
use crate::process::{Process, Trace};
use crate::roads::{self, Road};
use crate::world::Sim;

/// Railway's address: only its path matters.
const RAILWAY: &str = "http://railway.test/graphql/v2";
const REGISTRY: &str = "http://registry.test/ghcr";
const DIGEST_KEPT: Duration = Duration::from_secs(60);

/// What the operators of one world share.
#[derive(Clone)]
pub struct Ground {
    /// The cluster.
    pub server: ApiServer,
    /// Railway and the agents.
    pub sim: Arc<Sim>,
    /// Time.
    pub clock: Clock,
    /// Where the operators' own randomness comes from.
    pub rng: Rng,
    /// What happened.
    pub trace: Trace,
}

/// A running operator.
#[derive(Clone)]
pub struct Operator {
    /// The process.
    pub process: Process,
    /// Its watches.
    pub reins: Reins,
    claims: Arc<OnceLock<ClaimService>>,
    pools: Store<AgentPool>,
}

impl Operator {
    /// Starts one as that process: controllers that lead, and the claim service.
    pub fn start(ground: &Ground, tasks: &TaskTracker, (process, rng): (Process, Rng)) -> Self {
        let reins = Reins::default();
        let client = roads::kubernetes(&process, &ground.server, &reins);
        let road = Arc::new(Road {
            process: process.clone(),
            sim: ground.sim.clone(),
        });
        let clock = ground.clock.clone();
        let runtime: Arc<dyn AgentRuntime> = Arc::new(HttpRuntime::over(
            road.clone(),
            road.clone(),
            None,
            clock.clone(),
        ));
        let (pool_queue, instance_queue) = (
            Queue::<AgentPool>::default(),
            Queue::<AgentInstance>::default(),
        );
        let (pools_touched, instances_touched) = (pool_queue.open(), instance_queue.open());
        let memories = Arc::new(Memories::default());
        let replicas = Replicas::new(process.name.clone(), clock.clone());
        let claims = (Arc::new(Stock::default()), Arc::new(replicas));
        let own = pool_queue.clone();
        let (pools, watch_pools) = watch::start(
            watch::api(&client, None),
            watch::trim_pool,
            move |touch: Touch<'_, AgentPool>| match touch {
                Touch::Listed(all) => sorted(all)
                    .iter()
                    .for_each(|pool| own.push(ObjectRef::from_obj(pool.as_ref()))),
                Touch::Seen(pool) | Touch::Gone(pool) => own.push(ObjectRef::from_obj(pool)),
            },
        );
        let heard = instance_touched(
            (instance_queue.clone(), pool_queue.clone()),
            &memories,
            &claims,
        );
        let (instances, watch_instances) =
            watch::start(watch::api(&client, None), watch::trim_instance, heard);
        let registry = Registry::over(REGISTRY, road.clone());
        let connect = Connector {
            transport: Transport::over(RAILWAY, clock.clone(), Timeouts::default(), road)
                .expect("a URL"),
            clock: clock.clone(),
        };
        let root_keys = RootKeys::default();
        let images = Images::new(client.clone(), clock.clone(), registry, DIGEST_KEPT);
        let ctx = Arc::new(Ctx {
            images,
            hooks: Default::default(),
            fleet: Fleet::new(client.clone(), clock.clone(), Arc::new(connect)),
            events: Events::new(client.clone(), "agentpool", &process.name),
            client: client.clone(),
            clock: clock.clone(),
            pools: pools.clone(),
            instances: instances.clone(),
            pool_queue,
            instance_queue,
            runtime: runtime.clone(),
            memories,
            leadership: Leadership::always(clock.clone()),
            rng: rng.clone(),
            root_keys: root_keys.clone(),
            cluster_id: crate::cosmos::CLUSTER.to_owned(),
            release: "sim".to_owned(),
            public_url: None,
            metrics: Metrics::new(),
            sweeps: Sweeps::default(),
            waiting: Arc::default(),
            key_kept: Duration::from_secs(86_400),
            namespace: None,
            sweep_grace: Duration::from_secs(900),
            pool_memories: Mutex::default(),
        });
        let candidates = Arc::new(Candidates::new(
            client.clone(),
            instances.clone(),
            claims,
            clock.clone(),
            rng.clone(),
        ));
        let service = ClaimService::new(
            client.clone(),
            candidates,
            runtime,
            root_keys.clone(),
            clock,
            rng.clone(),
            process.name.clone(),
            tasks.clone(),
        );
        let opening = Arc::new(OnceLock::new());
        let opened = opening.clone();
        let ready = (pools.clone(), instances.clone());
        let running = tasks.spawn(process.run(async move {
            let lead = async {
                let (current, previous) = root_key(&client, &rng).await;
                root_keys.set(RootKey::new(current, previous));
                // Err: never, while the watches beside run.
                let _ = ready.0.wait_until_ready().await;
                let _ = ready.1.wait_until_ready().await;
                let _ = opened.set(service);
                tokio::join!(
                    controllers::sweep::run(ctx.clone(), CancellationToken::new()),
                    rounds(
                        ctx.clone(),
                        ready.0,
                        pools_touched,
                        controllers::pool::reconcile
                    ),
                    rounds(
                        ctx.clone(),
                        ready.1,
                        instances_touched,
                        controllers::instance::reconcile
                    ),
                );
            };
            tokio::join!(watch_pools, watch_instances, lead);
        }));
        let panicked = process.clone();
        tasks.spawn(async move {
            if running.await.is_err() {
                panicked.fail();
            }
        });
        Self {
            process,
            reins,
            claims: opening,
            pools,
        }
    }

    /// A claim by this process, as HTTP would take it; `None`: the process is not ready, or died on the way.
    pub async fn claim(
        &self,
        pool: &str,
        request: ClaimRequest,
    ) -> Option<Result<ClaimAnswer, ClaimError>> {
        let service = self.claims.get()?;
        let pool = self
            .pools
            .get(&ObjectRef::new(pool).within(crate::cosmos::NAMESPACE))?;
        tokio::select! {
            biased;
            () = self.process.ended() => None,
            answer = service.claim(&pool, request) => Some(answer),
        }
    }
}

/// By name: the store's own order is by hash.
fn sorted<K: Resource<DynamicType = ()>>(mut all: Vec<Arc<K>>) -> Vec<Arc<K>> {
    all.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
    all
}

/// Who hears of an instance, as in `app::watches`.
fn instance_touched(
    (own, of_pools): (Queue<AgentInstance>, Queue<AgentPool>),
    memories: &Arc<Memories>,
    claims: &(Arc<Stock>, Arc<Replicas>),
) -> impl Fn(Touch<'_, AgentInstance>) + Send + Sync + 'static {
    let (memories, (stock, replicas)) = (memories.clone(), claims.clone());
    let push = move |instance: &AgentInstance| {
        own.push(ObjectRef::from_obj(instance));
        let namespace = instance.namespace().unwrap_or_default();
        of_pools.push(ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace));
    };
    move |touch| match touch {
        Touch::Listed(all) => {
            memories.keep_only(&all);
            stock.forget_all();
            for instance in sorted(all) {
                stock.seen(&instance);
                push(&instance);
            }
        }
        Touch::Seen(instance) => {
            stock.seen(instance);
            replicas.seen(instance);
            push(instance);
        }
        Touch::Gone(instance) => {
            memories.forget(instance);
            stock.gone(instance);
            push(instance);
        }
    }
}

async fn root_key(client: &Client, rng: &Rng) -> (Vec<u8>, Option<Vec<u8>>) {
    loop {
        let read = secret::root_key(
            client,
            crate::cosmos::NAMESPACE,
            "agentpool-root",
            rng.bytes(),
        )
        .await;
        match read {
            Ok(keys) => return keys,
            Err(_) => tokio::time::sleep(Duration::from_secs(2)).await,
        }
    }
}

/// Makes the real provider over the simulated road.
struct Connector {
    transport: Transport,
    clock: Clock,
}

impl Connect for Connector {
    fn connect(
        &self,
        scope: &Scope,
        credential: SecretString,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let config = RailwayConfig {
            base_url: RAILWAY.to_owned(),
            token: credential,
            token_kind: scope.token_kind,
            project_id: scope.project_id.clone(),
            environment: match &scope.environment {
                Environment::Id(id) => EnvironmentRef::Id(id.clone()),
                Environment::Name(name) => EnvironmentRef::Name(name.clone()),
                Environment::Workspace(id) => EnvironmentRef::Workspace(id.clone()),
            },
            clock: self.clock.clone(),
        };
        let provider =
            RailwayProvider::with_transport(config, &self.transport).map_err(|e| Trouble {
                class: Class::Unauthorized,
                reason: agentpool::api::condition::Reason::CredentialsInvalid,
                message: e.to_string(),
                retry_after: None,
            })?;
        Ok(Arc::new(Guarded::new(
            provider,
            "railway",
            self.clock.clone(),
            Arc::new(()),
        )))
    }

    fn unsupported(&self, template: &Template) -> Option<String> {
        railway::supports(template).err()
    }
}

/// Namespace and name.
type Name = (String, String);

/// When what is to be reconciled: each object once, at the earliest time that anybody asked for.
#[derive(Default)]
struct Due {
    by_time: BTreeSet<(Instant, u64, Name)>,
    by_name: BTreeMap<Name, (Instant, u64)>,
    order: u64,
}

impl Due {
    fn add(&mut self, name: Name, at: Instant) {
        if let Some((old, order)) = self.by_name.get(&name).copied() {
            if old <= at {
                return;
            }
            self.by_time.remove(&(old, order, name.clone()));
        }
        self.order += 1;
        self.by_name.insert(name.clone(), (at, self.order));
        self.by_time.insert((at, self.order, name));
    }

    fn after(&self, now: Instant) -> Option<Instant> {
        let mut times = self.by_time.iter().map(|(at, _, _)| *at);
        times.find(|at| *at > now)
    }

    fn take(&mut self, now: Instant, not: &BTreeSet<Name>) -> Option<Name> {
        let due = self.by_time.iter().take_while(|(at, _, _)| *at <= now);
        let found = due
            .into_iter()
            .find(|(_, _, name)| !not.contains(name))
            .cloned()?;
        self.by_name.remove(&found.2);
        self.by_time.remove(&found);
        Some(found.2)
    }
}

async fn rounds<K, Fut>(
    ctx: Arc<Ctx>,
    store: Store<K>,
    mut touched: UnboundedReceiver<ObjectRef<K>>,
    reconcile: fn(Arc<K>, Arc<Ctx>) -> Fut,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    Fut: Future<Output = Duration> + Send + 'static,
{
    let (mut due, mut running) = (Due::default(), BTreeSet::new());
    let mut work = FuturesUnordered::new();
    #[allow(
        clippy::disallowed_methods,
        reason = "virtual time is the subject here"
    )]
    let now = Instant::now;
    loop {
        while let Some(name) = due.take(now(), &running) {
            let Some(object) = store.get(&ObjectRef::new(&name.1).within(&name.0)) else {
                continue;
            };
            running.insert(name.clone());
            let (fraction, ctx) = (ctx.rng.fraction(), ctx.clone());
            work.push(async move {
                let again = reconcile(object, ctx).await;
                (
                    name,
                    backoff::jittered(again.max(Duration::from_millis(20)), fraction),
                )
            });
        }
        // What is due and runs already waits for its end.
        let next = due.after(now());
        let sleep = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(object) = touched.recv() => {
                due.add((object.namespace.unwrap_or_default(), object.name), now());
            }
            Some((name, again)) = work.next() => {
                running.remove(&name);
                due.add(name, now() + again);
            }
            () = sleep => {}
        }
    }
}
