//! One watch per kind and process, its store, and a channel of what was touched.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::error::chain;
use crate::api::{
    ANNOTATION_ABANDON, ANNOTATION_CREATED, ANNOTATION_IMPORTING, AgentClaim, AgentInstance,
    AgentPool, LABEL_PROTECTED,
};

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

/// What a watch has to tell. The store shows it already.
pub enum Touch<'a, K> {
    /// All objects were listed, at the start and after an interruption: whatever is not among them is gone.
    Listed(Vec<Arc<K>>),
    /// An object came or changed.
    Seen(&'a K),
    /// An object went.
    Gone(&'a K),
}

/// Watches a kind for ever into a store; `touched` hears of every change after the store has it.
///
/// `trim` drops what nobody needs from memory. Errors are logged and the watch goes on with a back-off; the stream
/// ends only with the process.
pub fn start<K>(
    api: Api<K>,
    trim: fn(&mut K),
    touched: impl Fn(Touch<'_, K>) + Send + Sync + 'static,
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
    start_selected(api, watcher::Config::default(), trim, touched)
}

/// The same for what a configuration selects: what it no longer selects counts as gone.
pub fn start_selected<K>(
    api: Api<K>,
    config: watcher::Config,
    trim: fn(&mut K),
    touched: impl Fn(Touch<'_, K>) + Send + Sync + 'static,
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
    let stream = watcher(api, config)
        .modify(trim)
        .default_backoff()
        .reflect(writer);
    let listed_store = store.clone();
    let run = async move {
        let mut stream = std::pin::pin!(stream);
        let (mut listed, mut told) = (false, String::new());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Apply(o)) => touched(Touch::Seen(&o)),
                Ok(watcher::Event::Delete(o)) => touched(Touch::Gone(&o)),
                // A list is in the store when it is complete, and not before.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(watcher::Event::InitDone) => {
                    (listed, told) = (true, String::new());
                    touched(Touch::Listed(listed_store.state()));
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

/// Trims an instance for the cache, where there may be ten thousand: what is left decides something or is listed.
pub fn trim_instance(instance: &mut AgentInstance) {
    let metadata = &mut instance.metadata;
    metadata.managed_fields = None;
    keep(&mut metadata.labels, &[LABEL_PROTECTED]);
    let told = [ANNOTATION_ABANDON, ANNOTATION_CREATED, ANNOTATION_IMPORTING];
    keep(&mut metadata.annotations, &told);
    let claim = instance.spec.claim.as_mut();
    if let Some(text) = claim.and_then(|c| c.instructions.as_mut())
        && let Some((end, _)) = text.char_indices().nth(INSTRUCTIONS_KEPT)
    {
        text.truncate(end);
        text.shrink_to_fit();
    }
}

/// Keeps these entries; without any not even the map, which takes half a KiB for its first entry.
fn keep(map: &mut Option<BTreeMap<String, String>>, keys: &[&str]) {
    if let Some(all) = map {
        all.retain(|k, _| keys.contains(&k.as_str()));
    }
    *map = map.take().filter(|all| !all.is_empty());
}

/// Trims an AgentClaim for the cache: whoever serves one reads it anew.
pub fn trim_claim(claim: &mut AgentClaim) {
    claim.managed_fields_mut().clear();
    let text = &mut claim.spec.instructions;
    if text.chars().count() > INSTRUCTIONS_KEPT {
        *text = text.chars().take(INSTRUCTIONS_KEPT).collect();
    }
}

/// A queue of objects to reconcile. Cheap to clone; clones are the same queue.
///
/// It holds nothing while nobody has opened it: a replica that does not lead must not collect changes for days. While
/// open it is unbounded on purpose, since the scheduler behind it merges repeats.
pub struct Queue<K: Resource<DynamicType = ()>> {
    sender: Arc<Mutex<Option<Sender<K>>>>,
}

type Sender<K> = mpsc::UnboundedSender<ObjectRef<K>>;

impl<K: Resource<DynamicType = ()>> Default for Queue<K> {
    fn default() -> Self {
        Self {
            sender: Arc::default(),
        }
    }
}

impl<K: Resource<DynamicType = ()>> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<K: Resource<DynamicType = ()>> Queue<K> {
    /// Opens it; whoever opened it before hears nothing more.
    pub fn open(&self) -> mpsc::UnboundedReceiver<ObjectRef<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.sender() = Some(sender);
        receiver
    }

    /// Asks for an object to be reconciled; nothing happens where nobody listens.
    pub fn push(&self, object: ObjectRef<K>) {
        if let Some(sender) = self.sender().as_ref() {
            let _ = sender.send(object);
        }
    }

    fn sender(&self) -> MutexGuard<'_, Option<Sender<K>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_decides_and_what_is_listed() {
        let object = serde_json::json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 2,
                "finalizers": ["f"], "labels": {LABEL_PROTECTED: "true", "team": "a"},
                "annotations": {ANNOTATION_ABANDON: "true", "long": "x".repeat(9_000)},
                "managedFields": [{"manager": "m"}]},
            "spec": {"id": "a", "poolRef": {"name": "p"}, "providerName": "a", "turn": 1,
                "template": {"revision": "r", "hash": "h"},
                "claim": {"id": "c", "holder": "h", "deadline": "2026-01-01T00:00:00Z",
                    "requestedAt": "2026-01-01T00:00:00Z", "agentName": "A", "instructions": "ü".repeat(500)}},
            "status": {"turn": 1, "phase": "Claiming"},
        });
        let mut instance: AgentInstance = serde_json::from_value(object.clone()).unwrap();
        trim_instance(&mut instance);
        let mut expected = object;
        expected["metadata"]["labels"] = serde_json::json!({LABEL_PROTECTED: "true"});
        expected["metadata"]["annotations"] = serde_json::json!({ANNOTATION_ABANDON: "true"});
        expected["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        expected["spec"]["claim"]["instructions"] = "ü".repeat(INSTRUCTIONS_KEPT).into();
        assert_eq!(serde_json::to_value(&instance).unwrap(), expected);
        let kept = instance.spec.claim.as_ref().unwrap().instructions.as_ref();
        assert_eq!(kept.unwrap().capacity(), 2 * INSTRUCTIONS_KEPT);
        let metadata = &mut instance.metadata;
        metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
        metadata.annotations = Some([("long".to_owned(), "x".to_owned())].into());
        trim_instance(&mut instance);
        assert_eq!(instance.metadata.labels, None);
        assert_eq!(instance.metadata.annotations, None);
    }

    #[test]
    fn a_queue_holds_nothing_for_nobody_and_all_for_the_last_who_opened_it() {
        let queue = Queue::<AgentPool>::default();
        queue.push(ObjectRef::new("before"));
        let mut first = queue.open();
        queue.push(ObjectRef::new("a"));
        let mut second = queue.open();
        queue.push(ObjectRef::new("b"));
        assert_eq!(first.try_recv().unwrap().name, "a");
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv().unwrap().name, "b");
        assert!(second.try_recv().is_err());
        drop(second);
        queue.push(ObjectRef::new("c"));
    }
}
