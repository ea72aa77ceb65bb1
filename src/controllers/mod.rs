//! The reconcilers: observe → decide → act → record.
//!
//! May use everything below `http`. Judgement is in `domain`; here is only what reads, sends and writes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{AgentInstance, AgentPool};
use crate::claim::durable::queue::Queue as Waiting;
use crate::clock::{Clock, Rng};
use crate::k8s::event::Events;
use crate::k8s::lease::Leadership;
use crate::k8s::secret::RootKeys;
use crate::k8s::watch::Queue;
use crate::runtime::AgentRuntime;
use crate::telemetry::Metrics;

pub mod claims;
pub mod fleet;
pub mod hooks;
pub mod images;
pub mod instance;
pub mod memory;
pub mod ownership;
pub mod pool;
pub mod sweep;

use fleet::Fleet;
use images::Images;
use memory::Memories;

/// When to look again after a term that ended in the middle of a pass; the process ends before.
pub const NOT_LEADING: Duration = Duration::from_secs(1);
/// How many objects of a kind are reconciled at a time.
pub const CONCURRENCY: u16 = 64;

/// What every reconcile shares.
pub struct Ctx {
    /// The API server.
    pub client: Client,
    /// The pools, as the watch knows them.
    pub pools: Store<AgentPool>,
    /// The instances, as the watch knows them.
    pub instances: Store<AgentInstance>,
    /// Asks for a pool to be reconciled.
    pub pool_queue: Queue<AgentPool>,
    /// Asks for an instance to be reconciled.
    pub instance_queue: Queue<AgentInstance>,
    /// Providers, their listings and templates.
    pub fleet: Fleet,
    /// What tells us of the providers' events.
    pub hooks: hooks::Hooks,
    /// What pools' images are deployed as.
    pub images: Images,
    /// The agents.
    pub runtime: Arc<dyn AgentRuntime>,
    /// What this process remembers of instances.
    pub memories: Arc<Memories>,
    /// Whether this process leads: asked right before whatever only a leader may do.
    pub leadership: Leadership,
    /// Events.
    pub events: Events,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// The release's root keys.
    pub root_keys: RootKeys,
    /// UID of namespace kube-system, or as configured.
    pub cluster_id: String,
    /// The release's name.
    pub release: String,
    /// Base of the agents' callbacks.
    pub public_url: Option<String>,
    /// Metrics.
    pub metrics: Metrics,
    /// What sweeps remember, and what they found.
    pub sweeps: sweep::Sweeps,
    /// Which AgentClaims wait for an agent: demand.
    pub waiting: Arc<Waiting>,
    /// How long Idempotency-Keys are kept.
    pub key_kept: Duration,
    /// The namespace that is watched; `None`: all.
    pub namespace: Option<String>,
    /// How long an orphan must have been seen before anything is done about it.
    pub sweep_grace: Duration,
    /// What pools remember, by namespace and name.
    pub pool_memories: Mutex<std::collections::HashMap<(String, String), pool::PoolMemory>>,
}

impl Ctx {
    /// Works on what a pool remembers.
    pub fn with_pool_memory<T>(
        &self,
        key: &(String, String),
        work: impl FnOnce(&mut pool::PoolMemory) -> T,
    ) -> T {
        let mut all = self
            .pool_memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(all.entry(key.clone()).or_default())
    }
}

/// Runs one controller until `shutdown`: what comes through `queue` is reconciled, and what fails comes again.
///
/// `reconcile` never fails: what went wrong is in the status, and the time to come back in the action.
pub async fn run<K, Fut>(
    name: &'static str,
    ctx: Arc<Ctx>,
    store: Store<K>,
    queue: mpsc::UnboundedReceiver<ObjectRef<K>>,
    shutdown: CancellationToken,
    reconcile: fn(Arc<K>, Arc<Ctx>) -> Fut,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    Fut: Future<Output = Duration> + Send + 'static,
{
    let queue = futures::stream::unfold(queue, |mut queue| async move {
        queue.recv().await.map(|o| (Ok::<_, Never>(o), queue))
    });
    let queue = queue.take_until(shutdown.cancelled_owned());
    let applied = applier(
        move |object, ctx| Box::pin(bounded(name, object, ctx, reconcile)),
        |_, _: &Never, _| Action::requeue(Duration::from_secs(5)),
        ctx,
        store,
        Box::pin(queue),
        Config::default().concurrency(CONCURRENCY),
    );
    applied
        .for_each(|result| async move {
            // The store no longer has the object: it is gone, and so is the work.
            if let Err(error) = result {
                tracing::debug!(controller = name, %error, "not reconciled");
            }
        })
        .await;
}

async fn bounded<K, Fut>(
    name: &'static str,
    object: Arc<K>,
    ctx: Arc<Ctx>,
    reconcile: fn(Arc<K>, Arc<Ctx>) -> Fut,
) -> Result<Action, Never>
where
    Fut: Future<Output = Duration>,
{
    let fraction = ctx.rng.fraction();
    let (metrics, clock) = (ctx.metrics.clone(), ctx.clock.clone());
    let began = clock.monotonic();
    let again = reconcile(object, ctx).await;
    metrics.reconcile(name, clock.monotonic().saturating_sub(began));
    Ok(Action::requeue(crate::domain::backoff::jittered(
        again.max(Duration::from_millis(20)),
        fraction,
    )))
}

/// An error that never happens.
#[derive(Debug, thiserror::Error)]
pub enum Never {}
