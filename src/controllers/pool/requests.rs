//! The requests of the API, worked on over several passes: what is asked for once is done once and answered.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;

use super::{RECONCILE_APART, Run, instances_of};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::{AgentPool, Request, RequestKind};
use crate::clock::Monotonic;
use crate::controllers::Ctx;
use crate::controllers::fleet::{self, Scope};
use crate::domain::instance::phase::{self, Phase};
use crate::domain::plan::Trouble;
use crate::domain::pool::view::{Finished, Member, RequestProgress};

/// How long a report is waited for: its own 15 s, and the pass before it.
const REPORTED_WITHIN: Duration = Duration::from_secs(25);

pub(super) async fn work_on_requests(
    pool: &AgentPool,
    key: &(String, String),
    requests: &[Request],
    members: &[Member],
    scope: Option<&Scope>,
    ctx: &Ctx,
) -> RequestProgress {
    let answered = pool
        .status
        .as_ref()
        .map(|s| s.requests.clone())
        .unwrap_or_default();
    // Together: one listing serves them all.
    for request in requests.iter().filter(|r| r.kind == RequestKind::Recheck) {
        if !answered.contains_key(&request.id) {
            begin(key, request, ctx);
        }
    }
    for request in requests.iter().filter(|r| !answered.contains_key(&r.id)) {
        match request.kind {
            RequestKind::Cycle => cycle(pool, key, request, scope, ctx).await,
            RequestKind::Reconcile => full_reconcile(pool, key, request, members, scope, ctx).await,
            RequestKind::Replenish => {}
            RequestKind::Debug => debug(pool, key, request, ctx),
            RequestKind::Recheck => recheck(pool, key, request, scope, ctx).await,
        }
    }
    ctx.with_pool_memory(key, |m| RequestProgress {
        finished: m.finished.clone(),
    })
}

fn finish(key: &(String, String), request: &Request, finished: Finished, ctx: &Ctx) {
    ctx.with_pool_memory(key, |m| m.finish(&request.id, finished));
}

/// Asks the instance's own reconcile for a report: that takes seconds, and the pool goes on meanwhile.
fn debug(pool: &AgentPool, key: &(String, String), request: &Request, ctx: &Ctx) {
    let (begun, asked) = begin(key, request, ctx);
    let failed = |error: &str| Finished {
        error: error.to_owned(),
        ..Finished::default()
    };
    let instances = instances_of(pool, ctx);
    let named = |i: &&Arc<AgentInstance>| Some(&i.spec.id) == request.instance.as_ref();
    let Some(instance) = instances.iter().find(named) else {
        return finish(key, request, failed("not found"), ctx);
    };
    if !asked {
        ctx.with_pool_memory(key, |m| {
            if let Some(run) = m.running.get_mut(&request.id) {
                run.listed = true;
            }
        });
        ctx.memories
            .with(instance, |m| m.diagnose = Some(request.id.clone()));
        ctx.instance_queue
            .push(ObjectRef::from_obj(instance.as_ref()));
    } else if ctx.clock.monotonic().saturating_sub(begun) > REPORTED_WITHIN {
        finish(key, request, failed("no report in time"), ctx);
    }
}

pub(super) fn forget_answered(pool: &AgentPool, key: &(String, String), ctx: &Ctx) {
    let answered: HashSet<String> = pool
        .status
        .iter()
        .flat_map(|s| s.requests.keys().cloned())
        .collect();
    ctx.with_pool_memory(key, |m| m.finished.retain(|id, _| !answered.contains(id)));
}

/// A listing begun after the request, or the trouble that there is none.
async fn listing_since(
    begun: Monotonic,
    scope: &Scope,
    ctx: &Ctx,
) -> Result<Arc<fleet::Snapshot>, Trouble> {
    let age = ctx.clock.monotonic().saturating_sub(begun);
    ctx.fleet.snapshot(scope, age).await
}

fn begin(key: &(String, String), request: &Request, ctx: &Ctx) -> (Monotonic, bool) {
    let now = ctx.clock.monotonic();
    ctx.with_pool_memory(key, |m| {
        let run = m.running.entry(request.id.clone()).or_insert(Run {
            begun: now,
            listed: false,
            watched: vec![],
        });
        (run.begun, run.listed)
    })
}

/// Lists now, and puts one instance before its own controller with that; what follows is its decision.
async fn recheck(
    pool: &AgentPool,
    key: &(String, String),
    request: &Request,
    scope: Option<&Scope>,
    ctx: &Ctx,
) {
    let (begun, _) = begin(key, request, ctx);
    let instances = instances_of(pool, ctx);
    let named = |i: &&Arc<AgentInstance>| Some(&i.spec.id) == request.instance.as_ref();
    let mut finished = Finished::default();
    if let Some(scope) = scope
        && let Err(trouble) = listing_since(begun, scope, ctx).await
    {
        finished.error = trouble.message;
    } else if let Some(instance) = instances.iter().find(named) {
        finished.ids.push(instance.spec.id.clone());
        ctx.memories.with(instance, |m| m.probe_asked = true);
        ctx.instance_queue
            .push(ObjectRef::from_obj(instance.as_ref()));
    }
    finish(key, request, finished, ctx);
}

/// Lists and probes now; done when every running agent was probed since.
async fn cycle(
    pool: &AgentPool,
    key: &(String, String),
    request: &Request,
    scope: Option<&Scope>,
    ctx: &Ctx,
) {
    let (begun, listed) = begin(key, request, ctx);
    let instances = instances_of(pool, ctx);
    if !listed {
        if let Some(scope) = scope
            && let Err(trouble) = listing_since(begun, scope, ctx).await
        {
            return finish(
                key,
                request,
                Finished {
                    error: trouble.message,
                    ..Finished::default()
                },
                ctx,
            );
        }
        let starting = ids_in(&instances, Phase::Provisioning);
        ctx.with_pool_memory(key, |m| {
            m.running.insert(
                request.id.clone(),
                Run {
                    begun,
                    listed: true,
                    watched: starting,
                },
            )
        });
        for instance in &instances {
            ctx.memories.with(instance, |m| m.probe_asked = true);
            ctx.instance_queue
                .push(ObjectRef::from_obj(instance.as_ref()));
        }
        return;
    }
    let waits = |i: &&Arc<AgentInstance>| {
        matches!(phase::phase_of(i), Phase::Idle | Phase::Claimed)
            && i.status
                .as_ref()
                .and_then(|s| s.provider.as_ref())
                .and_then(|p| p.state.as_deref())
                == Some("Running")
            && ctx
                .memories
                .with(i, |m| m.probed.is_none_or(|at| at < begun))
    };
    let late = ctx.clock.monotonic().saturating_sub(begun) > Duration::from_secs(20);
    if late || !instances.iter().any(|i| waits(&i)) {
        let starting = watched(key, request, ctx);
        let idle = ids_in(&instances, Phase::Idle);
        let finished = Finished {
            count: i32::try_from(starting.len()).ok(),
            ids: starting
                .into_iter()
                .filter(|id| idle.contains(id))
                .collect(),
            error: String::new(),
        };
        finish(key, request, finished, ctx);
    }
}

fn ids_in(instances: &[Arc<AgentInstance>], phase: Phase) -> Vec<String> {
    let in_phase = instances.iter().filter(|i| phase::phase_of(i) == phase);
    in_phase.map(|i| i.spec.id.clone()).collect()
}

fn watched(key: &(String, String), request: &Request, ctx: &Ctx) -> Vec<String> {
    ctx.with_pool_memory(key, |m| {
        m.running
            .get(&request.id)
            .map(|r| r.watched.clone())
            .unwrap_or_default()
    })
}

/// Compares records and provider now, with both looks of "twice"; done when what was missing is dealt with.
async fn full_reconcile(
    pool: &AgentPool,
    key: &(String, String),
    request: &Request,
    members: &[Member],
    scope: Option<&Scope>,
    ctx: &Ctx,
) {
    let (begun, listed) = begin(key, request, ctx);
    let Some(scope) = scope else {
        return finish(
            key,
            request,
            Finished {
                error: "the provider cannot be listed: see the pool's conditions".to_owned(),
                ..Finished::default()
            },
            ctx,
        );
    };
    if !listed {
        let snapshot = match listing_since(begun, scope, ctx).await {
            Ok(snapshot) => snapshot,
            Err(trouble) => {
                return finish(
                    key,
                    request,
                    Finished {
                        error: trouble.message,
                        ..Finished::default()
                    },
                    ctx,
                );
            }
        };
        // On the same listing.
        ctx.sweeps.ask(scope, begun);
        let missing: Vec<String> = instances_of(pool, ctx)
            .iter()
            .filter(|i| i.metadata.deletion_timestamp.is_none())
            .filter(|i| {
                let id = i
                    .status
                    .as_ref()
                    .and_then(|s| s.provider.as_ref())
                    .and_then(|p| p.id.as_ref());
                id.is_some_and(|id| !snapshot.has(id))
            })
            .map(|i| i.spec.id.clone())
            .collect();
        ctx.with_pool_memory(key, |m| {
            m.running.insert(
                request.id.clone(),
                Run {
                    begun,
                    listed: true,
                    watched: missing,
                },
            )
        });
        for instance in instances_of(pool, ctx) {
            ctx.instance_queue
                .push(ObjectRef::from_obj(instance.as_ref()));
        }
        return;
    }
    let now = ctx.clock.monotonic();
    let missing = watched(key, request, ctx);
    let phase_now = |id: &String| members.iter().find(|m| &m.id == id).map(|m| m.phase);
    let dropped = |id: &&String| matches!(phase_now(id), None | Some(Phase::Terminating));
    let settled = |id: &&String| dropped(id) || phase_now(id) == Some(Phase::Crashed);
    let (swept, removed) = ctx.sweeps.since(scope, begun);
    let cleaned: Vec<String> = missing
        .iter()
        .filter(dropped)
        .cloned()
        .chain(removed)
        .collect();
    let all_settled = swept && missing.iter().all(|id| settled(&id));
    let over = now.saturating_sub(begun) > RECONCILE_APART + Duration::from_secs(6);
    if all_settled || over {
        finish(
            key,
            request,
            Finished {
                count: i32::try_from(cleaned.len()).ok(),
                ids: cleaned,
                error: String::new(),
            },
            ctx,
        );
    } else {
        // The second look is the instance's own: it reads directly, far enough from the listing.
        for instance in instances_of(pool, ctx)
            .iter()
            .filter(|i| missing.contains(&i.spec.id))
        {
            ctx.instance_queue
                .push(ObjectRef::from_obj(instance.as_ref()));
        }
    }
}
