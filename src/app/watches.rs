//! The watches, their stores, and who hears of what.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use tokio::sync::SetOnce;

use super::Process;
use super::ports::task;
use crate::api::{AgentClaim, AgentInstance, AgentPool};
use crate::claim::durable::queue::{Queue as Waiting, pool_of};
use crate::claim::replicas::Replicas;
use crate::claim::stock::Stock;
use crate::controllers::memory::Memories;
use crate::k8s::watch::{self, Touch};

/// Whether the stores have had their first list.
///
/// `Store::wait_until_ready` wakes only the last of several waiters, so one task waits for each store and tells here.
#[derive(Default)]
pub(super) struct Filled {
    pub(super) pools: Arc<SetOnce<()>>,
    pub(super) instances: Arc<SetOnce<()>>,
    pub(super) claims: Arc<SetOnce<()>>,
    pub(super) manifests: Arc<SetOnce<()>>,
}

impl Filled {
    pub(super) async fn wait(&self) {
        self.pools.wait().await;
        self.instances.wait().await;
        self.claims.wait().await;
        self.manifests.wait().await;
    }
}

/// Watches the unfinished AgentClaims: who waits, whom to serve. Those that hold a link for another are left out.
pub(super) fn start_claim_watch(
    process: &Arc<Process>,
    waiting: &Arc<Waiting>,
    filled: &Arc<SetOnce<()>>,
) -> Store<AgentClaim> {
    let (heard, pools) = (waiting.clone(), process.pool_queue.clone());
    let push = move |claim: &AgentClaim| {
        let (namespace, name) = pool_of(claim);
        pools.push(ObjectRef::new(&name).within(&namespace));
    };
    let config = watcher::Config::default().fields("status.done!=true,spec.for=");
    let (claims, watching) = watch::start_selected(
        watch::api(&process.client, process.config.namespace.as_deref()),
        config,
        watch::trim_claim,
        move |touch: Touch<'_, AgentClaim>| match touch {
            Touch::Listed(all) => {
                heard.forget_all();
                for claim in &all {
                    heard.seen(claim);
                    push(claim);
                }
            }
            Touch::Seen(claim) => {
                heard.seen(claim);
                push(claim);
            }
            Touch::Gone(claim) => {
                heard.gone(claim);
                push(claim);
            }
        },
    );
    start_watch(process, "claim watch", claims.clone(), watching, filled);
    claims
}

/// Watches the AgentClaims that were made with kubectl, finished ones too: their end releases an agent.
pub(super) fn start_manifest_watch(
    process: &Arc<Process>,
    filled: &Arc<SetOnce<()>>,
) -> Store<AgentClaim> {
    let queue = process.claim_queue.clone();
    let config = watcher::Config::default().fields("spec.origin=Manifest");
    let (claims, watching) = watch::start_selected(
        watch::api(&process.client, process.config.namespace.as_deref()),
        config,
        watch::trim_claim,
        move |touch: Touch<'_, AgentClaim>| match touch {
            Touch::Listed(all) => {
                for claim in all {
                    queue.push(ObjectRef::from_obj(claim.as_ref()));
                }
            }
            Touch::Seen(claim) | Touch::Gone(claim) => queue.push(ObjectRef::from_obj(claim)),
        },
    );
    start_watch(process, "manifest watch", claims.clone(), watching, filled);
    claims
}

pub(super) fn start_watches(
    process: &Arc<Process>,
    memories: &Arc<Memories>,
    claims: &(Arc<Stock>, Arc<Replicas>),
    filled: &Filled,
) -> (Store<AgentPool>, Store<AgentInstance>) {
    let namespace = process.config.namespace.as_deref();
    let queue = process.pool_queue.clone();
    let (pools, watching) = watch::start(
        watch::api(&process.client, namespace),
        watch::trim_pool,
        move |touch: Touch<'_, AgentPool>| match touch {
            Touch::Listed(all) => {
                for pool in all {
                    queue.push(ObjectRef::from_obj(pool.as_ref()));
                }
            }
            Touch::Seen(pool) | Touch::Gone(pool) => queue.push(ObjectRef::from_obj(pool)),
        },
    );
    start_watch(
        process,
        "pool watch",
        pools.clone(),
        watching,
        &filled.pools,
    );
    let (instances, watching) = watch::start(
        watch::api(&process.client, namespace),
        watch::trim_instance,
        instance_touched(process, memories, claims),
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

/// Who hears of an instance: its own reconcile and its pool's, the memories, and what claims choose by.
fn instance_touched(
    process: &Arc<Process>,
    memories: &Arc<Memories>,
    claims: &(Arc<Stock>, Arc<Replicas>),
) -> impl Fn(Touch<'_, AgentInstance>) + Send + Sync + 'static {
    let (own, of_pools) = (process.instance_queue.clone(), process.pool_queue.clone());
    let waiting = process.waiting.clone();
    let (memories, (stock, replicas)) = (memories.clone(), claims.clone());
    let push = move |instance: &AgentInstance| {
        own.push(ObjectRef::from_obj(instance));
        let namespace = instance.namespace().unwrap_or_default();
        of_pools.push(ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace));
    };
    move |touch| {
        match touch {
            Touch::Listed(all) => {
                memories.keep_only(&all);
                stock.forget_all();
                for instance in &all {
                    stock.seen(instance);
                    push(instance);
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
        waiting.stock_changed();
    }
}

pub(super) fn start_watch<K>(
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
