//! The watches, their stores, and who hears of what.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::SetOnce;

use super::Process;
use super::ports::task;
use crate::api::{AgentInstance, AgentPool};
use crate::controllers::memory::Memories;
use crate::k8s::watch;

/// Whether the stores have had their first list.
///
/// `Store::wait_until_ready` wakes only the last of several waiters, so one task waits for each store and tells here.
#[derive(Default)]
pub(super) struct Filled {
    pub(super) pools: Arc<SetOnce<()>>,
    pub(super) instances: Arc<SetOnce<()>>,
}

impl Filled {
    pub(super) async fn wait(&self) {
        self.pools.wait().await;
        self.instances.wait().await;
    }
}

pub(super) fn start_watches(
    process: &Arc<Process>,
    memories: &Arc<Memories>,
    filled: &Filled,
) -> (Store<AgentPool>, Store<AgentInstance>) {
    let namespace = process.config.namespace.as_deref();
    let queue = process.pool_queue.clone();
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
    let (own, of_pools) = (process.instance_queue.clone(), process.pool_queue.clone());
    let memories = memories.clone();
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
