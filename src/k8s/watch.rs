//! One watch per kind and process, its store, and a channel of what was touched.

use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::error::chain;
use crate::api::{AgentInstance, AgentPool};

/// What caches keep of instructions: enough for a listing.
pub const INSTRUCTIONS_KEPT: usize = 256;

/// The objects of a kind: all namespaces, or one.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches a kind for ever into a store; `touched` hears of every object that came or changed, and (true) of every
/// object that went.
///
/// `trim` drops what nobody needs from memory. Errors are logged and the watch goes on with a back-off; the stream
/// ends only with the process.
pub fn start<K>(
    api: Api<K>,
    trim: fn(&mut K),
    touched: impl Fn(&K, bool) + Send + Sync + 'static,
) -> (Store<K>, impl Future<Output = ()> + Send + 'static)
where
    K: Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
    K::DynamicType: Eq + Hash + Clone + Default,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default())
        .modify(trim)
        .default_backoff()
        .reflect(writer);
    let run = async move {
        let mut stream = std::pin::pin!(stream);
        let (mut listed, mut told) = (false, String::new());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Apply(o) | watcher::Event::InitApply(o)) => touched(&o, false),
                Ok(watcher::Event::Delete(o)) => touched(&o, true),
                Ok(watcher::Event::Init) => {}
                Ok(watcher::Event::InitDone) => {
                    (listed, told) = (true, String::new());
                }
                Err(error) => {
                    let (kind, text) = (K::kind(&()), chain(&error));
                    if text == told || (!listed && is_told_elsewhere(&error)) {
                        tracing::debug!(%kind, error = %text, "watch interrupted");
                    } else {
                        tracing::warn!(%kind, error = %text, "watch interrupted; it goes on by itself");
                        told = text;
                    }
                }
            }
        }
    };
    (store, run)
}

/// No API server or no CRD at the start: the process itself says so once, with the remedy.
fn is_told_elsewhere(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        watcher::Error::InitialListFailed(_) => true,
        _ => false,
    }
}

/// Trims a pool for the cache.
pub fn trim_pool(pool: &mut AgentPool) {
    pool.managed_fields_mut().clear();
}

/// Trims an instance for the cache.
pub fn trim_instance(instance: &mut AgentInstance) {
    instance.managed_fields_mut().clear();
    if let Some(text) = instance
        .spec
        .claim
        .as_mut()
        .and_then(|c| c.instructions.as_mut())
        && text.chars().count() > INSTRUCTIONS_KEPT
    {
        *text = text.chars().take(INSTRUCTIONS_KEPT).collect();
    }
}

/// A queue of objects to reconcile: unbounded on purpose, since it holds at most what the store holds and the
/// scheduler behind it merges repeats.
pub fn queue<K>() -> (Queue<K>, mpsc::UnboundedReceiver<ObjectRef<K>>)
where
    K: Resource<DynamicType = ()>,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Queue {
            sender: Arc::new(sender),
        },
        receiver,
    )
}

/// The sending side of a queue.
pub struct Queue<K: Resource<DynamicType = ()>> {
    sender: Arc<mpsc::UnboundedSender<ObjectRef<K>>>,
}

impl<K: Resource<DynamicType = ()>> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<K: Resource<DynamicType = ()>> Queue<K> {
    /// Asks for an object to be reconciled; nothing happens where nobody listens any more.
    pub fn push(&self, object: ObjectRef<K>) {
        let _ = self.sender.send(object);
    }
}
