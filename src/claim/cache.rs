//! Candidates per pool: the watch cache, less what this process is using, plus a direct list before "none".

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::api::ListParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};

use super::replicas::Replicas;
use super::stock::{Entry, Rank, Stock};
use crate::api::{AgentInstance, AgentPool, LABEL_PROTECTED};
use crate::clock::{Clock, Monotonic, Rng};
use crate::domain::claim as judgement;
use crate::domain::instance::phase;
use crate::k8s::CALL_LIMIT;
use crate::k8s::error::{K8sError, within};

/// Two direct lists of a pool are at least this far apart: 20 a second.
const LIST_APART: Duration = Duration::from_millis(50);
/// How many a direct list asks for.
const LIST_LIMIT: u32 = 10;
/// And each of its further pages, where none of those before was what is looked for.
const PAGE_LIMIT: u32 = 250;

/// Candidates, for this replica.
pub struct Candidates {
    client: Client,
    instances: Store<AgentInstance>,
    stock: Arc<Stock>,
    replicas: Arc<Replicas>,
    clock: Clock,
    rng: Rng,
    used: Mutex<Used>,
    lists: Mutex<HashMap<(String, String), LastList>>,
}

/// The latest direct list of a pool; whoever holds the lock lists.
type LastList = Arc<tokio::sync::Mutex<Option<Listed>>>;

#[derive(Default)]
struct Used {
    /// In use by claims in flight, by UID.
    taken: HashSet<String>,
    /// Not to be tried again at this version, by UID: the watch brings a newer one.
    stale: HashMap<String, String>,
    in_flight: usize,
}

struct Listed {
    begun: Monotonic,
    found: Vec<Arc<AgentInstance>>,
    /// There were no more.
    complete: bool,
}

impl Candidates {
    /// Candidates from the watch cache; `stock` and `replicas` are kept by the same watch.
    pub fn new(
        client: Client,
        instances: Store<AgentInstance>,
        (stock, replicas): (Arc<Stock>, Arc<Replicas>),
        clock: Clock,
        rng: Rng,
    ) -> Self {
        Self {
            client,
            instances,
            stock,
            replicas,
            clock,
            rng,
            used: Mutex::default(),
            lists: Mutex::default(),
        }
    }

    fn used<T>(&self, work: impl FnOnce(&mut Used) -> T) -> T {
        work(&mut self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a claim in flight, until the guard goes.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.used(|u| u.in_flight += 1);
        InFlight { of: self.clone() }
    }

    /// Takes a candidate of the pool from the watch cache: one of the first few, by chance; where other replicas claim
    /// too, one that they leave to this one.
    pub fn take(&self, pool: &AgentPool, runtime: Option<&str>) -> Option<Arc<AgentInstance>> {
        let key = (pool.namespace().unwrap_or_default(), pool.name_any());
        let found = |entry: &Entry| {
            let object = ObjectRef::new(&entry.name).within(&key.0);
            let found = self.instances.get(&object);
            found.filter(|i| is_wanted(i, runtime))
        };
        self.used(|used| {
            let window = judgement::window(used.in_flight);
            let mut free = vec![];
            let mut best = None;
            self.stock.walk(&key, pool.spec.claim.order, |rank, entry| {
                // One that has to wake first is for when none is awake.
                if !free.is_empty() && best != Some(rank) {
                    return true;
                }
                // The object itself is looked at only where its name is not enough: there may be hundreds.
                let fits = !used.taken.contains(&entry.uid)
                    && ((runtime.is_none() && !used.stale.contains_key(&entry.uid))
                        || found(entry).is_some_and(|i| used.is_free(&i)));
                free.extend(fits.then(|| entry.clone()));
                best = best.or(fits.then_some(rank));
                free.len() >= window
            });
            let mut free = self.replicas.preference().share(free, |entry| &entry.id);
            while !free.is_empty() {
                let entry = free.swap_remove(self.rng.below(free.len()));
                // The stock is told of a change after the cache has it.
                if let Some(instance) = found(&entry).filter(|i| used.is_free(i)) {
                    used.taken.insert(uid(&instance));
                    return Some(instance);
                }
            }
            None
        })
    }

    /// Takes one of the given candidates.
    pub fn take_from(&self, candidates: &[Arc<AgentInstance>]) -> Option<Arc<AgentInstance>> {
        self.used(|used| {
            let free = candidates.iter().filter(|i| used.is_free(i));
            let mut free: Vec<_> = free.collect();
            let best = free.iter().map(|i| Rank::of(i)).min();
            free.retain(|i| Some(Rank::of(i)) == best);
            let preference = self.replicas.preference();
            let free = preference.share(free, |i| &i.spec.id);
            let chosen = (*free.get(self.rng.below(free.len()))?).clone();
            used.taken.insert(uid(&chosen));
            Some(chosen)
        })
    }

    /// Whether the watch still shows this instance.
    pub fn knows(&self, instance: &AgentInstance) -> bool {
        let known = self.instances.get(&ObjectRef::from_obj(instance));
        known.is_some_and(|k| k.metadata.uid == instance.metadata.uid)
    }

    /// Gives a candidate back: it is not tried again before the watch shows it in a newer version.
    pub fn drop_stale(&self, instance: &AgentInstance) {
        self.used(|used| {
            used.taken.remove(&uid(instance));
            used.stale.insert(uid(instance), version(instance));
            if used.stale.len() > 10_000 {
                used.stale.clear();
            }
        });
    }

    /// Candidates by a direct list that was begun after `arrived`; of those who ask at the same time one lists.
    pub async fn list(
        &self,
        pool: &AgentPool,
        runtime: Option<&str>,
        arrived: Monotonic,
    ) -> Result<Vec<Arc<AgentInstance>>, K8sError> {
        let key = (pool.namespace().unwrap_or_default(), pool.name_any());
        let cell = self
            .lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.clone())
            .or_default()
            .clone();
        let mut last = cell.lock().await;
        if let Some(listed) = last.as_ref().filter(|l| l.begun >= arrived) {
            let wanted = filtered(&listed.found, runtime);
            if listed.complete || !wanted.is_empty() {
                return Ok(wanted);
            }
        }
        if let Some(listed) = last.as_ref() {
            let since = self.clock.monotonic().saturating_sub(listed.begun);
            self.clock.sleep(LIST_APART.saturating_sub(since)).await;
        }
        let begun = self.clock.monotonic();
        let (found, complete) = self.pages(&key, runtime).await?;
        let wanted = filtered(&found, runtime);
        *last = Some(Listed {
            begun,
            found,
            complete,
        });
        Ok(wanted)
    }

    /// The pages of a direct list up to the first with something that is wanted, and whether there were no more. What
    /// was put back has the word Idle until it is looked at again: whole pages of it, where many went back at once.
    async fn pages(
        &self,
        (namespace, pool): &(String, String),
        runtime: Option<&str>,
    ) -> Result<(Vec<Arc<AgentInstance>>, bool), K8sError> {
        let api: Api<AgentInstance> = Api::namespaced(self.client.clone(), namespace);
        let doing = || format!("list idle instances of pool {pool}");
        let mut params = ListParams::default()
            .labels(&format!("!{LABEL_PROTECTED}"))
            .fields(&format!(
                "spec.poolRef.name={pool},status.phase=Idle,spec.claim.id="
            ))
            .limit(LIST_LIMIT);
        let mut found = vec![];
        loop {
            let page = within(CALL_LIMIT, doing, api.list(&params)).await?;
            let next = page.metadata.continue_.filter(|token| !token.is_empty());
            let items = page.items.into_iter().map(Arc::new);
            found.extend(items.filter(|i| phase::is_claimable(i)));
            let Some(next) = next else {
                return Ok((found, true));
            };
            if found
                .iter()
                .any(|i| is_wanted(i, runtime) && self.used(|u| u.is_free(i)))
            {
                return Ok((found, false));
            }
            params = params.limit(PAGE_LIMIT).continue_token(&next);
        }
    }
}

fn filtered(found: &[Arc<AgentInstance>], runtime: Option<&str>) -> Vec<Arc<AgentInstance>> {
    found
        .iter()
        .filter(|i| is_wanted(i, runtime))
        .cloned()
        .collect()
}

fn is_wanted(instance: &AgentInstance, runtime: Option<&str>) -> bool {
    phase::is_claimable(instance) && is_kind(instance, runtime)
}

fn is_kind(instance: &AgentInstance, wanted: Option<&str>) -> bool {
    let kind = instance
        .status
        .as_ref()
        .and_then(|s| s.runtime.as_ref())
        .and_then(|r| r.kind.as_deref());
    wanted.is_none_or(|w| kind == Some(w))
}

impl Used {
    fn is_free(&self, instance: &AgentInstance) -> bool {
        let uid = uid(instance);
        !self.taken.contains(&uid) && self.stale.get(&uid) != Some(&version(instance))
    }
}

fn uid(instance: &AgentInstance) -> String {
    instance.metadata.uid.clone().unwrap_or_default()
}

fn version(instance: &AgentInstance) -> String {
    instance
        .metadata
        .resource_version
        .clone()
        .unwrap_or_default()
}

/// A claim in flight.
pub struct InFlight {
    of: Arc<Candidates>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.of
            .used(|u| u.in_flight = u.in_flight.saturating_sub(1));
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
