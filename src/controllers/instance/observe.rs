//! What a pass works with, and what the listing says of the instance.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::super::Ctx;
use super::super::fleet::{self, Scope, Snapshot};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::AgentPool;
use crate::api::condition::Reason;
use crate::api::names;
use crate::domain::drift::{self, Present};
use crate::domain::instance::decide::{self, Decision};
use crate::domain::instance::phase::STATE_WAKING;
use crate::domain::instance::status::facts_of;
use crate::domain::instance::view::{
    Beat, Evidence, Heartbeat, Limits, Listed, View, operation_of,
};
use crate::domain::invariant;
use crate::domain::plan::{Class, Seen, Step, StepSpec, Trouble};
use crate::domain::resource::Liveness;
use crate::domain::template::Template;
use crate::k8s::error::chain;
use crate::provider::{AgentProvider, Key};

/// How an agent is looked after whose template cannot be read: nothing is woken.
const UNKNOWN: Heartbeat = Heartbeat {
    every: Duration::from_secs(30),
    idle: Beat::Never,
    in_use: Beat::WhileRunning,
};

/// What a pass works with, gathered once.
pub(super) struct Surroundings {
    pub(super) api: Api<AgentInstance>,
    pub(super) pool: Option<Arc<AgentPool>>,
    pub(super) template: Option<Arc<Template>>,
    pub(super) scope: Option<Scope>,
    pub(super) provider: Result<Arc<dyn AgentProvider>, Trouble>,
    pub(super) plan: Vec<StepSpec>,
    pub(super) limits: Limits,
    pub(super) key: Key,
}

pub(super) async fn gather(object: &AgentInstance, ctx: &Ctx) -> Surroundings {
    let namespace = object.namespace().unwrap_or_default();
    let pool = ctx
        .pools
        .get(&ObjectRef::new(&object.spec.pool_ref.name).within(&namespace));
    let template = match ctx
        .fleet
        .template(&namespace, &object.spec.template.revision)
        .await
    {
        Ok(template) => template,
        Err(error) => {
            tracing::debug!(instance = %object.name_any(), error = %chain(&error), "template not read");
            None
        }
    };
    let scope = object
        .spec
        .provider
        .as_ref()
        .and_then(|p| fleet::scope_of_instance(&namespace, p));
    let provider = match &scope {
        Some(scope) => ctx.fleet.provider(scope).await,
        None => Err(Trouble {
            class: Class::Rejected,
            reason: Reason::InvalidSpec,
            message: "spec.provider is missing: the instance cannot be found at any provider"
                .to_owned(),
            retry_after: None,
        }),
    };
    let plan = match (&provider, &template) {
        (Ok(provider), Some(template)) => provider.plan(operation_of(object), template),
        _ => vec![],
    };
    let mut limits = pool.as_ref().map(|p| limits_of(p)).unwrap_or_default();
    let present = pool.as_deref().and_then(Present::of_pool);
    limits.drift = present.and_then(|present| drift::drift(object, &present));
    limits.counted = pool.as_deref().is_none_or(|p| has_counted(p, object));
    // What is allowed is part of what it was built from; unknown, it is left alone.
    let railway = template.as_ref().map(|t| t.provider.railway.as_ref());
    limits.may_sleep = railway.is_none_or(|r| r.is_some_and(|r| r.sleep));
    if let Ok(provider) = &provider {
        let can = provider.capabilities();
        limits.list_lag = can.list_lag;
        limits.recycles = can.recycle;
        limits.heartbeat = can
            .sleep_is_idle
            .then(|| template.as_ref().map_or(UNKNOWN, |t| t.heartbeat()));
    }
    let mark = names::owner_mark(&ctx.cluster_id, &namespace, &object.spec.id);
    let key = Key {
        id: object.spec.id.clone(),
        name: object.spec.provider_name.clone(),
        mark,
    };
    Surroundings {
        api: Api::namespaced(ctx.client.clone(), &namespace),
        pool,
        template,
        scope,
        provider,
        plan,
        limits,
        key,
    }
}

/// Whether the breaker of a pool has counted it, or will not: the pool is being deleted.
fn has_counted(pool: &AgentPool, object: &AgentInstance) -> bool {
    let breaker = pool.status.as_ref().and_then(|s| s.breaker.as_ref());
    pool.metadata.deletion_timestamp.is_some()
        || breaker.is_some_and(|b| b.counted.contains(&object.spec.id))
}

fn limits_of(pool: &AgentPool) -> Limits {
    let seconds = |s: i32| Duration::from_secs(u64::try_from(s).unwrap_or_default());
    Limits {
        tick: seconds(pool.spec.tick_interval_seconds),
        stuck: seconds(pool.spec.stuck_timeout_seconds),
        cleanup: seconds(pool.spec.cleanup_after_seconds),
        claim_deadline: seconds(pool.spec.claim.deadline_seconds),
        pending_timeout: seconds(pool.spec.claim.pending_timeout_seconds),
        max_lifetime: pool
            .spec
            .claim
            .max_lifetime_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs),
        allow_unknown_clean: pool.spec.runtime.allow_unknown_clean,
        ..Limits::default()
    }
}

pub(super) async fn judge(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &Evidence,
    ctx: &Ctx,
) -> Decision {
    let snapshot = snapshot(object, around, ctx).await;
    let listed = listed(object, snapshot.as_deref(), around, ctx);
    let now = ctx.clock.monotonic();
    ctx.memories.with(object, |m| match &listed {
        Listed::Absent => {
            m.missing.get_or_insert(now);
        }
        Listed::Present(r) => {
            m.missing = None;
            if matches!(r.liveness, Liveness::Stopped | Liveness::Created)
                || decide::lost_its_volume(object, r)
            {
                m.stopped.get_or_insert(now);
            } else {
                m.stopped = None;
            }
        }
        Listed::Unknown => {}
    });
    let memory = ctx.memories.notice(object, now);
    let progress = progress(object, around, &listed);
    let view = View {
        instance: object,
        plan: &around.plan,
        listed,
        progress,
        evidence,
        memory,
        limits: around.limits,
        now: ctx.clock.now(),
    };
    let decision = decide::decide(&view);
    // In tests and in the simulation a broken rule ends the process; in production the decision stands as it is.
    debug_assert!(
        invariant::broken(&view, &decision).is_empty(),
        "{:?}: {decision:?} for {object:?}",
        invariant::broken(&view, &decision)
    );
    decision
}

/// The scope's listing: fresh enough for what the instance waits for. Absent where it failed.
async fn snapshot(
    object: &AgentInstance,
    around: &Surroundings,
    ctx: &Ctx,
) -> Option<Arc<Snapshot>> {
    let scope = around.scope.as_ref()?;
    let status = object.status.as_ref();
    status
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.id.as_ref())?;
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let provider = status.and_then(|s| s.provider.as_ref());
    let waiting = status.is_some_and(|s| s.operation.is_some())
        || provider.is_some_and(|p| p.state.as_deref() == Some(STATE_WAKING));
    let max_age = if waiting {
        around.limits.tick.min(Duration::from_secs(3))
    } else {
        around.limits.tick
    };
    match ctx.fleet.recent(scope, max_age).await {
        Ok(snapshot) => Some(snapshot),
        Err(trouble) => {
            let now = ctx.clock.monotonic();
            ctx.memories.held_up(object, &trouble, now);
            None
        }
    }
}

pub(super) fn listed(
    object: &AgentInstance,
    snapshot: Option<&Snapshot>,
    around: &Surroundings,
    ctx: &Ctx,
) -> Listed {
    let Some(snapshot) = snapshot else {
        return Listed::Unknown;
    };
    let Some(id) = object
        .status
        .as_ref()
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.id.as_ref())
    else {
        return Listed::Unknown;
    };
    match snapshot.get(id) {
        Some(resource) => Listed::Present(Box::new(resource)),
        // A listing cannot tell of what came after it was begun, nor of what it may still lag behind.
        None => {
            let recorded = ctx.memories.with(object, |m| m.recorded);
            let lag = if object
                .status
                .as_ref()
                .is_some_and(|s| s.operation.is_some())
            {
                around.limits.list_lag
            } else {
                Duration::ZERO
            };
            if snapshot.begun > recorded + lag {
                Listed::Absent
            } else {
                Listed::Unknown
            }
        }
    }
}

fn progress(object: &AgentInstance, around: &Surroundings, listed: &Listed) -> Option<Seen> {
    let (Ok(provider), Listed::Present(resource)) = (&around.provider, listed) else {
        return None;
    };
    let operation = object.status.as_ref()?.operation.as_ref()?;
    let (_, spec, _) = decide::current(&around.plan, operation)?;
    match spec.step {
        Step::Provider(step) => {
            Some(provider.progress(step, &facts_of(object.status.as_ref()), resource))
        }
        _ => None,
    }
}
