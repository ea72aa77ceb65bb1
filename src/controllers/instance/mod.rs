//! One AgentInstance: observe → decide → act → record.
//!
//! A pass asks `domain::instance::decide` again and again: for a read that is missing it reads, for an effect it does
//! it, for a record it writes and goes on with the object as the API server returned it. A pass ends when there is
//! nothing to do now, or after one effect on the object itself.
//!
//! A step is sent only under a permit: this process recorded its intent and has not sent it yet. The permit is in
//! memory, so whoever comes after a crash looks first.

mod debug;
mod inside;
mod observe;
mod send;
mod tell;
pub(super) mod variables;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::Ctx;
use super::memory;
use super::ownership;
use super::pool::secrets;
use crate::api::ANNOTATION_IMPORTING;
use crate::api::agent_instance::AgentInstance;
use crate::api::condition::Reason;
use crate::api::names;
use crate::domain::backoff;
use crate::domain::drift;
use crate::domain::image::{self, Written};
use crate::domain::instance::decide::{Action, Change, Decision};
use crate::domain::instance::phase;
use crate::domain::instance::status::{self, Given};
use crate::domain::instance::view::{Evidence, View};
use crate::k8s::error::{K8sError, chain};
use crate::k8s::patch;
use observe::Surroundings;

/// Rounds of one pass: a creation has about five records, each with two reads.
const ROUNDS: usize = 32;
/// How often one is looked at that an import has not finished; the import's own write wakes it before.
const IMPORT_LOOK: Duration = Duration::from_secs(60);
/// Time limit of a probe, health and status each.
pub const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Time limit of a reset (contract of the agents, section 8).
const RESET_LIMIT: Duration = Duration::from_secs(15);
/// The same of the probe that wakes a sleeper.
const WAKING_PROBE_LIMIT: Duration = Duration::from_secs(30);

/// Reconciles one instance; when to come back at the latest.
pub async fn reconcile(instance: Arc<AgentInstance>, ctx: Arc<Ctx>) -> Duration {
    let name = instance.name_any();
    if ownership::other_owner_of(&instance, &ctx).is_some() {
        return ownership::LOOK_AGAIN;
    }
    if is_being_imported(&instance) {
        return IMPORT_LOOK;
    }
    if ctx.memories.is_being_created(&instance) {
        return Duration::from_millis(50);
    }
    let mut object = (*instance).clone();
    let around = observe::gather(&object, &ctx).await;
    debug::report_if_asked(&object, &around, &ctx).await;
    // Without a provider nothing can be sent: the decision says so, with the reason. Nor sooner after a failure than it
    // was decided, whoever wakes us: most wakes are for our own writes.
    let trouble = around.provider.as_ref().err().cloned();
    let now = ctx.clock.monotonic();
    let mut evidence = Evidence {
        trouble: trouble.or_else(|| ctx.memories.paused(&object, now)),
        ..Evidence::default()
    };
    // Taken now: the watch may tell that it is gone, and all is forgotten, before its last write is answered.
    let (whole, requests) = ctx
        .memories
        .with(&object, |m| (m.fresh, m.requests.clone()));
    for _ in 0..ROUNDS {
        // A process that was paused lost its term without noticing: whoever leads now has gone on with this.
        if !ctx.leadership.holds() {
            return super::NOT_LEADING;
        }
        let decision = observe::judge(&object, &around, &evidence, &ctx).await;
        tracing::debug!(instance = %name, action = ?decision.action, reason = decision.reason.as_str(), "decided");
        match act(&mut object, &around, &mut evidence, &decision, &ctx).await {
            Ok(Next::Again) => {}
            Ok(Next::Later) => return decision.recheck.max(Duration::from_millis(50)),
            Ok(Next::Over) => {
                if whole {
                    ctx.metrics.instance_requests(requests.count());
                }
                ctx.memories.forget(&object);
                return Duration::from_secs(3600);
            }
            Err(error) => return failed(&name, &error, &ctx),
        }
    }
    tracing::error!(instance = %name, reason = Reason::InternalError.as_str(), "a pass did not end; it goes on in a second");
    Duration::from_secs(1)
}

/// Recorded by an import that has not finished it: what it is like is not written yet. One that is deleted goes.
fn is_being_imported(instance: &AgentInstance) -> bool {
    let annotations = instance.metadata.annotations.as_ref();
    instance.metadata.deletion_timestamp.is_none()
        && annotations.is_some_and(|a| a.contains_key(ANNOTATION_IMPORTING))
}

enum Next {
    Again,
    Later,
    Over,
}

fn failed(name: &str, error: &K8sError, ctx: &Ctx) -> Duration {
    if error.is_conflict() || error.is_invalid() {
        // Somebody wrote since the cache did: the watch brings it.
        return backoff::conflict(ctx.rng.fraction());
    }
    if error.is_gone() {
        return Duration::from_secs(60);
    }
    ctx.metrics.reconcile_error("instance", "kubernetes");
    tracing::warn!(instance = name, error = %chain(error), "not recorded; coming back");
    Duration::from_secs(2)
}

async fn act(
    object: &mut AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    decision: &Decision,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    match &decision.action {
        Action::Wait => {
            record(object, around, evidence, decision, ctx).await?;
            send::rename_if_claimed(object, around, ctx).await;
            Ok(Next::Later)
        }
        Action::Record(_) => {
            record(object, around, evidence, decision, ctx).await?;
            // Evidence about a step is used up with the step's record; a probe stays good for the rest of the pass.
            *evidence = Evidence {
                probe: evidence.probe.take(),
                ..Evidence::default()
            };
            Ok(Next::Again)
        }
        Action::Look(index) => send::look(object, around, evidence, *index, ctx).await,
        Action::Perform(index) => send::perform(object, around, evidence, *index, ctx).await,
        Action::Probe => {
            evidence.probe = Some(send::probe(object, around, ctx).await);
            Ok(Next::Again)
        }
        Action::LookInside => inside::look_inside(object, around, evidence, ctx).await,
        Action::Restart => inside::restart(object, around, evidence, &decision.message, ctx).await,
        Action::Hold => inside::hold(object, around, evidence, ctx).await,
        Action::Observe => send::observe(object, around, evidence, ctx).await,
        Action::Destroy => send::destroy(object, around, evidence, ctx).await,
        Action::Reset => {
            evidence.reset = Some(send::reset(object, around, ctx).await);
            Ok(Next::Again)
        }
        Action::PutBack => {
            let instructions = object
                .spec
                .claim
                .as_ref()
                .and_then(|c| c.instructions_secret_ref.clone());
            *object = patch::release(&around.api, object).await?;
            if let Some(reference) = instructions {
                inside::forget_instructions(object, &reference, ctx).await;
            }
            tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "put back", "{}", decision.message);
            *evidence = Evidence::default();
            Ok(Next::Again)
        }
        Action::Delete => {
            record(object, around, evidence, decision, ctx).await?;
            match patch::delete_as_read(&around.api, object).await {
                Err(e) if e.is_gone() => {}
                other => other?,
            }
            tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "delete", reason = decision.reason.as_str(), "deleting: {}", decision.message);
            let note = format!("{}; the agent is destroyed and replaced", decision.message);
            ctx.events
                .publish(object, true, decision.reason, "Delete", &note)
                .await;
            Ok(Next::Later)
        }
        Action::RemoveFinalizer => {
            if decision.reason == Reason::Abandoned {
                tell::abandoned(object, ctx).await;
            }
            match patch::remove_finalizer(&around.api, object).await {
                Err(e) if e.is_gone() => {}
                other => other?,
            }
            tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "removed", "{}", decision.message);
            if around.pool.is_none() {
                forget_revision(object, ctx).await;
            }
            Ok(Next::Over)
        }
    }
}

/// The digest of the values that a recycling gives the agent.
async fn secrets_now(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Option<String> {
    let namespace = object.namespace().unwrap_or_default();
    let template = around.template.as_ref()?;
    let digests = secrets::read(&namespace, template, ctx).await?;
    Some(drift::recorded(&digests))
}

/// Writes the status that follows from the decision, where it differs; goes on with the object as written.
async fn record(
    object: &mut AgentInstance,
    around: &Surroundings,
    evidence: &Evidence,
    decision: &Decision,
    ctx: &Ctx,
) -> Result<(), K8sError> {
    let snapshot = around.scope.as_ref().and_then(|s| ctx.fleet.latest(s));
    let listed = observe::listed(object, snapshot.as_deref(), around, ctx);
    let secrets = match &decision.action {
        Action::Record(Change::Recycle) => secrets_now(object, around, ctx).await,
        _ => None,
    };
    let now = ctx.clock.monotonic();
    let memory = ctx.memories.notice(object, now);
    let given = Given {
        now: ctx.clock.now(),
        operation_id: names::hex(&ctx.rng.bytes::<4>()),
        token_key: ctx.root_keys.get().map(|k| k.fingerprint()),
        image: around
            .template
            .as_ref()
            .and_then(|t| image::of(t))
            .map(|i| i.reference.clone()),
        image_digest: deployed(object, around)
            .as_deref()
            .and_then(image::digest_of)
            .map(str::to_owned),
        source_branch: around
            .template
            .as_ref()
            .and_then(|t| t.provider.railway.as_ref()?.source.repository.clone())
            .and_then(|r| r.branch),
        secrets,
    };
    let view = View {
        instance: object,
        plan: &around.plan,
        listed,
        progress: None,
        evidence,
        memory,
        limits: around.limits,
        now: given.now,
    };
    let new = status::status(&view, decision, &given);
    let before = phase::phase_of(object);
    if let Some(written) = patch::write_status(&around.api, object, &new).await? {
        // Of what may be there already every step is looked for; to repeat one is decided on proof that it is not.
        let adopting = status::is_adopting(written.status.as_ref());
        let grants = match decision.action {
            Action::Record(Change::Begin | Change::Done(_)) => !adopting,
            Action::Record(Change::Again | Change::Wake | Change::Recycle) => true,
            _ => false,
        };
        *object = written;
        ctx.memories.with(object, |m| {
            // Only a step changes what a listing can tell; a condition does not.
            if matches!(decision.action, Action::Record(_)) {
                m.recorded = ctx.clock.monotonic();
            }
            m.failures = if evidence.trouble.is_some() {
                m.failures
            } else {
                0
            };
            m.permit = if grants {
                memory::intent(object)
            } else {
                m.permit.take()
            };
        });
    }
    tell::tell(object, before, decision, ctx).await;
    Ok(())
}

/// The image that an instance is deployed from: what its creation settled, else what its template says.
fn deployed(object: &AgentInstance, around: &Surroundings) -> Option<String> {
    let written = || match image::read(image::of(around.template.as_ref()?)?) {
        Written::Final(reference) => Some(reference),
        Written::Tag(tag) => Some(tag.to_string()),
        Written::Illegal(_) => None,
    };
    object.spec.template.image.clone().or_else(written)
}

/// The last agent of a pool that is gone takes its template with it. Nothing depends on it.
async fn forget_revision(object: &AgentInstance, ctx: &Ctx) {
    let namespace = object.namespace().unwrap_or_default();
    let revision = &object.spec.template.revision;
    let names_it = |i: &Arc<AgentInstance>| {
        i.metadata.namespace == object.metadata.namespace
            && i.metadata.uid != object.metadata.uid
            && &i.spec.template.revision == revision
    };
    if ctx.instances.state().iter().any(names_it) {
        return;
    }
    if let Err(error) = ctx.fleet.forget_template(&namespace, revision).await {
        tracing::debug!(%revision, error = %chain(&error), "the revision stays");
    }
}
