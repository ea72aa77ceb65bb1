//! Requests to the controller: an entry in the pool's annotation, and its answer in `status.requests`.
//!
//! The whole exchange runs in a task of its own, so that the entry is taken away although the caller went away. What
//! an API process that died left behind, or nobody waited for any longer, goes with the next entry, once it is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource};
use serde_json::json;
use tracing::{info, warn};

use super::{LOOK_EVERY, OperationError, Operations, is_status};
use crate::api::agent_pool::{Request, RequestAnswer, RequestKind};
use crate::api::{ANNOTATION_REQUESTS, AgentInstance, AgentPool, MANAGER_API, names};

/// The most entries that wait on one pool.
pub const MAX_REQUESTS: usize = 32;
/// The most hints that one process has on its way; more are left to the next tick.
pub const HINTS_AT_A_TIME: usize = 4;
/// How long an answer is waited for.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often a write that met a conflict is repeated.
const MAX_TRIES: u32 = 20;
const STATE_DONE: &str = "Done";
const STATE_FAILED: &str = "Failed";

/// What replenishing by a count came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replenished {
    /// Ids of the instances that exist now.
    pub ids: Vec<String>,
    /// How many of those asked for could not be created; those beyond `maxTotal` are not among them.
    pub failed: u32,
    /// True where `maxTotal` cut the request.
    pub capped: bool,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// What a cycle of listing, probing and filling came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cycled {
    /// How many starting instances were probed.
    pub checked: i32,
    /// Ids of those that became idle.
    pub promoted: Vec<String>,
}

/// What comparing records and provider came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many records were dropped.
    pub cleaned: i32,
}

impl Operations {
    /// Asks for `count` more instances, also beyond the minimum, and waits until the objects exist.
    pub async fn replenish(
        &self,
        pool: &AgentPool,
        count: u32,
    ) -> Result<Replenished, OperationError> {
        let wanted = i32::try_from(count).unwrap_or(i32::MAX);
        let answer = match self.ask(pool, RequestKind::Replenish, Some(wanted)).await? {
            Ok(answer) | Err(answer) => answer,
        };
        let made = u32::try_from(answer.ids.len()).unwrap_or(u32::MAX);
        let failed = if answer.capped {
            0
        } else {
            count.saturating_sub(made)
        };
        let errors = if failed > 0 && !answer.message.is_empty() {
            vec![answer.message]
        } else {
            vec![]
        };
        let ids = answer.ids.clone();
        self.catch_up(|store| {
            ids.iter()
                .all(|id| store.find(|i| i.spec.id == *id).is_some())
        })
        .await;
        Ok(Replenished {
            ids: answer.ids,
            failed,
            capped: answer.capped,
            errors,
        })
    }

    /// Asks for a listing, probes and a fill now.
    pub async fn cycle(&self, pool: &AgentPool) -> Result<Cycled, OperationError> {
        let answer = done(self.ask(pool, RequestKind::Cycle, None).await?)?;
        Ok(Cycled {
            checked: answer.count.unwrap_or(0),
            promoted: answer.ids,
        })
    }

    /// Asks for a full comparison of records and provider. A caller that comes while one is asked for shares its result.
    pub async fn reconcile(&self, pool: &AgentPool) -> Result<Reconciled, OperationError> {
        let answer = done(self.ask(pool, RequestKind::Reconcile, None).await?)?;
        Ok(Reconciled {
            cleaned: answer.count.unwrap_or(0),
        })
    }

    /// Asks for a diagnostic report of one instance: JSON.
    pub async fn diagnose(&self, pool: &AgentPool, id: &str) -> Result<String, OperationError> {
        let request = Request {
            instance: Some(id.to_owned()),
            ..self.request(RequestKind::Debug, None)
        };
        Ok(done(self.send(pool, request).await?)?.message)
    }

    /// Asks for a look at one instance now, without waiting for it; whether it was asked for. Where many are on their way
    /// already it is left to the next tick.
    pub fn hint(&self, instance: &AgentInstance) -> bool {
        let Ok(permit) = self.hints.clone().try_acquire_owned() else {
            return false;
        };
        let request = Request {
            instance: Some(instance.spec.id.clone()),
            ..self.request(RequestKind::Recheck, None)
        };
        let namespace = instance.metadata.namespace.clone().unwrap_or_default();
        let (this, pool) = (self.clone(), instance.spec.pool_ref.name.clone());
        self.tasks.spawn(async move {
            if let Err(error) = this.exchange(&namespace, &pool, request).await {
                info!(namespace, pool, %error, "not asked for: the next tick looks");
            }
            drop(permit);
        });
        true
    }

    fn request(&self, kind: RequestKind, count: Option<i32>) -> Request {
        Request {
            id: names::id_from_bytes(&self.rng.bytes()),
            kind,
            count,
            instance: None,
        }
    }

    /// The answer: `Ok` where the controller says Done, the inner `Err` where it says Failed.
    async fn ask(
        &self,
        pool: &AgentPool,
        kind: RequestKind,
        count: Option<i32>,
    ) -> Result<Result<RequestAnswer, RequestAnswer>, OperationError> {
        self.send(pool, self.request(kind, count)).await
    }

    async fn send(
        &self,
        pool: &AgentPool,
        request: Request,
    ) -> Result<Result<RequestAnswer, RequestAnswer>, OperationError> {
        let (this, pool) = (self.clone(), pool.object_ref(&()));
        let (namespace, name) = (
            pool.namespace.unwrap_or_default(),
            pool.name.unwrap_or_default(),
        );
        let exchange = self
            .tasks
            .spawn(async move { this.exchange(&namespace, &name, request).await });
        exchange.await.unwrap_or_else(|error| {
            Err(OperationError::Failed(format!(
                "the request ended early: {error}"
            )))
        })
    }

    async fn exchange(
        &self,
        namespace: &str,
        pool: &str,
        request: Request,
    ) -> Result<Result<RequestAnswer, RequestAnswer>, OperationError> {
        let api: Api<AgentPool> = Api::namespaced(self.client.clone(), namespace);
        let end = self.clock.monotonic() + ANSWER_WITHIN;
        info!(namespace, pool, request = request.id, kind = ?request.kind, count = request.count, "asked the controller");
        let id = self
            .edit(&api, pool, |list, answers| {
                append(list, answers, &request, pool)
            })
            .await?;
        let answer = self.answer(&self.pools, namespace, pool, &id, end).await;
        // Without an answer the entry stays, so that the work goes on. A Replenish goes in any case: its caller may have
        // repeated it, and a controller that comes back must not create for every repetition.
        let over = answer.is_some() || request.kind == RequestKind::Replenish;
        if over
            && let Err(error) = self
                .edit(&api, pool, |list, _| Ok((without(list, &id), ())))
                .await
        {
            warn!(namespace, pool, request = id, %error, "the request's entry stays on the pool");
        }
        let answer = answer.ok_or(OperationError::StillRunning)?;
        Ok(if answer.state == STATE_DONE {
            Ok(answer)
        } else {
            Err(answer)
        })
    }

    /// Waits for the answer in the watch cache.
    async fn answer(
        &self,
        pools: &Store<AgentPool>,
        namespace: &str,
        pool: &str,
        id: &str,
        end: Duration,
    ) -> Option<RequestAnswer> {
        let key = ObjectRef::new(pool).within(namespace);
        loop {
            let seen = pools.get(&key);
            let answer = seen
                .as_ref()
                .and_then(|p| p.status.as_ref())
                .and_then(|s| s.requests.get(id));
            if let Some(answer) = answer.filter(|a| is_final(a)) {
                return Some(answer.clone());
            }
            if self.clock.monotonic() >= end {
                return None;
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// Reads the pool, changes the list and writes it back on the condition that nobody else did meanwhile.
    async fn edit<T>(
        &self,
        api: &Api<AgentPool>,
        pool: &str,
        change: impl Fn(
            Vec<Request>,
            &BTreeMap<String, RequestAnswer>,
        ) -> Result<(Option<Vec<Request>>, T), OperationError>,
    ) -> Result<T, OperationError> {
        let params = PatchParams {
            field_manager: Some(MANAGER_API.to_owned()),
            ..PatchParams::default()
        };
        for _ in 0..MAX_TRIES {
            let object = api
                .get(pool)
                .await
                .map_err(|e| OperationError::cluster(format!("read pool {pool}"), e))?;
            let none = BTreeMap::new();
            let (list, out) = change(
                entries(&object),
                object.status.as_ref().map_or(&none, |s| &s.requests),
            )?;
            let Some(list) = list else { return Ok(out) };
            let value = (!list.is_empty()).then(|| json!(list).to_string());
            let patch = json!({"metadata": {
                "resourceVersion": object.metadata.resource_version,
                "annotations": {ANNOTATION_REQUESTS: value},
            }});
            match api.patch(pool, &params, &Patch::Merge(patch)).await {
                Ok(_) => return Ok(out),
                Err(error) if is_status(&error, 409) => {
                    self.clock
                        .sleep(Duration::from_millis(
                            10 + 40 * self.rng.bytes::<1>()[0] as u64 / 256,
                        ))
                        .await;
                }
                Err(error) => {
                    return Err(OperationError::cluster(
                        format!("write a request to pool {pool}"),
                        error,
                    ));
                }
            }
        }
        Err(OperationError::Contended(format!("pool {pool}")))
    }
}

/// The entries on a pool; an annotation that cannot be read counts as empty, so that it does not block the pool for ever.
fn entries(pool: &AgentPool) -> Vec<Request> {
    let text = pool
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(ANNOTATION_REQUESTS));
    text.and_then(|t| serde_json::from_str(t).ok())
        .unwrap_or_default()
}

/// The list with the request, and the id to wait for; a Reconcile that waits already is shared and nothing is written.
fn append(
    mut list: Vec<Request>,
    answers: &BTreeMap<String, RequestAnswer>,
    request: &Request,
    pool: &str,
) -> Result<(Option<Vec<Request>>, String), OperationError> {
    list.retain(|entry| !answers.get(&entry.id).is_some_and(is_final));
    let shared = matches!(request.kind, RequestKind::Reconcile | RequestKind::Recheck);
    let same = |entry: &&Request| entry.kind == request.kind && entry.instance == request.instance;
    if shared && let Some(running) = list.iter().find(same) {
        return Ok((None, running.id.clone()));
    }
    if !list.iter().any(|entry| entry.id == request.id) {
        if list.len() >= MAX_REQUESTS {
            return Err(OperationError::TooManyRequests(pool.to_owned()));
        }
        list.push(request.clone());
    }
    Ok((Some(list), request.id.clone()))
}

/// The list without the entry; `None` where it is not in it, and nothing needs to be written.
fn without(list: Vec<Request>, id: &str) -> Option<Vec<Request>> {
    let before = list.len();
    let rest: Vec<_> = list.into_iter().filter(|entry| entry.id != id).collect();
    (rest.len() < before).then_some(rest)
}

fn is_final(answer: &RequestAnswer) -> bool {
    answer.state == STATE_DONE || answer.state == STATE_FAILED
}

fn done(answer: Result<RequestAnswer, RequestAnswer>) -> Result<RequestAnswer, OperationError> {
    answer.map_err(|failed| {
        OperationError::Failed(if failed.message.is_empty() {
            "the controller reports a failure".to_owned()
        } else {
            failed.message
        })
    })
}
