//! The calls of a pass: looking, sending a step, probing, reading directly, removing, renaming.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::super::Ctx;
use super::super::fleet::Snapshot;
use super::super::memory::Renames;
use super::observe::Surroundings;
use super::variables::{inputs, shared_key, token};
use super::{Next, PROBE_LIMIT, RESET_LIMIT, WAKING_PROBE_LIMIT};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::DialectChoice;
use crate::api::names;
use crate::domain::agent::{Dialect, Probe};
use crate::domain::backoff::{self, Call};
use crate::domain::import::IMPORTED_BY;
use crate::domain::instance::phase::{self, Phase};
use crate::domain::instance::status::{self, facts_of};
use crate::domain::instance::view::Evidence;
use crate::domain::plan::{Class, Seen, Step, Trouble, UNDER_WAY, UNSETTLED, UNSETTLED_FOR};
use crate::domain::pool::rollout;
use crate::domain::resource::Presence;
use crate::k8s::error::K8sError;
use crate::provider::AgentProvider;
use crate::provider::account::{self, Purpose, Requests};
use crate::runtime::Agent;

pub(super) fn provider(around: &Surroundings) -> Result<&Arc<dyn AgentProvider>, Trouble> {
    around.provider.as_ref().map_err(Clone::clone)
}

fn step_name(around: &Surroundings, index: usize) -> &'static str {
    match around.plan.get(index).map(|s| s.step) {
        Some(Step::Provider(name)) => name,
        _ => "",
    }
}

/// The account of its requests.
fn requests(object: &AgentInstance, ctx: &Ctx) -> Requests {
    ctx.memories.with(object, |m| m.requests.clone())
}

/// What sending a step is for.
fn purpose_of_step(around: &Surroundings, index: usize) -> Purpose {
    match index {
        0 => rollout::purpose(around.pool.as_deref()),
        _ => Purpose::Finish,
    }
}

/// Whether somebody has it or had it.
fn had_a_user(object: &AgentInstance) -> bool {
    let told = object.status.as_ref().is_some_and(|s| s.claim.is_some());
    told || object.spec.claim.is_some()
}

/// Notes a failed call: the next decision waits as its class says, and where the trouble is everybody's, all wait.
pub(super) async fn note(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    trouble: Trouble,
    ctx: &Ctx,
) -> Next {
    ctx.metrics
        .reconcile_error("instance", trouble.class.as_str());
    tracing::debug!(instance = %object.name_any(), class = trouble.class.as_str(), reason = trouble.reason.as_str(), "{}", trouble.message);
    let of = (&around.scope, &around.provider);
    if let ((Some(scope), Ok(used)), true) = (of, backoff::is_shared(&trouble)) {
        // The scope waits, and this one with it: no longer, should the credential be replaced.
        ctx.fleet.report(scope, used, &trouble);
        let held = ctx.fleet.admit(scope, Call::Create).await.err();
        let retry_after = Some(Duration::from_secs(1));
        evidence.trouble = held.or(Some(Trouble {
            retry_after,
            ..trouble
        }));
        held_up(object, evidence, ctx);
        return Next::Again;
    }
    let failures = ctx.memories.with(object, |m| m.failures);
    let wait = backoff::wait(&trouble, failures, ctx.rng.fraction());
    ctx.memories
        .pause(object, &trouble, ctx.clock.monotonic() + wait);
    evidence.trouble = Some(Trouble {
        retry_after: Some(wait),
        ..trouble
    });
    held_up(object, evidence, ctx);
    Next::Again
}

/// What a request limit holds up does not get older by it.
fn held_up(object: &AgentInstance, evidence: &Evidence, ctx: &Ctx) {
    if let Some(trouble) = &evidence.trouble {
        ctx.memories.held_up(object, trouble, ctx.clock.monotonic());
    }
}

/// Whether such a call may be sent now; if not, the evidence says why.
pub(super) async fn admitted(
    object: &AgentInstance,
    around: &Surroundings,
    call: Call,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> bool {
    let Some(scope) = &around.scope else {
        return true;
    };
    match ctx.fleet.admit(scope, call).await {
        Ok(()) => true,
        Err(trouble) => {
            evidence.trouble = Some(trouble);
            held_up(object, evidence, ctx);
            false
        }
    }
}

pub(super) async fn look(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    index: usize,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    if !admitted(object, around, Call::Read, evidence, ctx).await {
        return Ok(Next::Again);
    }
    let result = match provider(around) {
        Ok(provider) => {
            let facts = facts_of(object.status.as_ref());
            let call = provider.look(&around.key, &facts, step_name(around, index));
            let answer = account::on(Purpose::Finish, &requests(object, ctx), call).await;
            answer.map_err(Trouble::from)
        }
        Err(trouble) => Err(trouble),
    };
    let now = ctx.clock.monotonic();
    match result {
        Ok(seen) => {
            ctx.memories.answered(object);
            ctx.memories.with(object, |m| match seen {
                Seen::Absent => {
                    m.absent.get_or_insert(now);
                }
                _ => m.absent = None,
            });
            evidence.look = Some(seen);
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, around, evidence, trouble, ctx).await),
    }
}

pub(super) async fn perform(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    index: usize,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    if !admitted(object, around, Call::Create, evidence, ctx).await {
        return Ok(Next::Again);
    }
    let name = step_name(around, index);
    let inputs = match inputs(object, around, name, ctx).await {
        Ok(inputs) => inputs,
        Err(trouble) => {
            evidence.trouble = Some(trouble);
            return Ok(Next::Again);
        }
    };
    let (provider, template) = match (provider(around), around.template.as_ref()) {
        (Ok(provider), Some(template)) => (provider, template),
        (Err(trouble), _) => return Ok(note(object, around, evidence, trouble, ctx).await),
        (Ok(_), None) => return Ok(Next::Later),
    };
    // Reading the inputs took its time; the deed itself is a leader's.
    if !ctx.leadership.holds() {
        return Ok(Next::Later);
    }
    // From here on the step may have been sent: the permit is used up before the call, not after it.
    let permit = ctx.memories.with(object, |m| {
        m.absent = None;
        m.permit.take()
    });
    let started = ctx.clock.monotonic();
    let facts = facts_of(object.status.as_ref());
    let call = provider.perform(&around.key, &facts, name, template, &inputs);
    let purpose = purpose_of_step(around, index);
    let result = account::on(purpose, &requests(object, ctx), call).await;
    let seconds = ctx.clock.monotonic().saturating_sub(started).as_secs_f64();
    tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = name, seconds, ok = result.is_ok(), "step sent");
    match result {
        Ok(outcome) => {
            ctx.memories.answered(object);
            if let Some(scope) = &around.scope {
                ctx.fleet.worked(scope);
            }
            evidence.outcome = Some(outcome);
            Ok(Next::Again)
        }
        Err(error) => {
            let trouble = Trouble::from(error);
            // These say that nothing was done: it may be sent again without looking.
            if matches!(
                trouble.class,
                Class::Throttled | Class::Capacity | Class::Unauthorized | Class::Transient
            ) {
                ctx.memories.with(object, |m| m.permit = permit);
            }
            Ok(note(object, around, evidence, trouble, ctx).await)
        }
    }
}

/// The agent behind an instance, with what it takes to talk to it. Err: why it cannot be talked to.
async fn agent(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Result<Agent, String> {
    let url = object.status.as_ref().and_then(|s| s.url.clone());
    let (Some(url), Some(template)) = (url, around.template.as_ref()) else {
        return Err("the agent has no address yet".to_owned());
    };
    let token = token(object, template, ctx).await.map_err(|t| t.message)?;
    let shared_key = shared_key(object, template, ctx)
        .await
        .map_err(|t| t.message)?;
    Ok(Agent {
        url,
        token,
        shared_key,
    })
}

/// Whether the agent says that it was reset.
pub(super) async fn reset(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> bool {
    let done = match agent(object, around, ctx).await {
        Ok(agent) => ctx.runtime.reset(&agent, RESET_LIMIT).await,
        Err(_) => false,
    };
    tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "reset", ok = done, "reset after a failed claim");
    done
}

pub(super) async fn probe(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Probe {
    // A wake's permit is used up before the call, like a step's.
    let wakes = ctx.memories.with(object, |m| {
        m.probed = Some(ctx.clock.monotonic());
        m.probe_asked = false;
        m.permit.take_if(|p| p.starts_with("wake/")).is_some()
    });
    let limit = if wakes {
        WAKING_PROBE_LIMIT
    } else {
        PROBE_LIMIT
    };
    let agent = match agent(object, around, ctx).await {
        Ok(agent) => agent,
        Err(text) => {
            ctx.memories
                .with(object, |m| m.unanswered = m.unanswered.saturating_add(1));
            return Probe::NotReady(text);
        }
    };
    let status = object.status.as_ref();
    let recorded = status
        .and_then(|s| s.runtime.as_ref())
        .and_then(|r| r.dialect.as_deref())
        .and_then(Dialect::parse);
    let fixed = match around.template.as_ref().map(|t| t.runtime.dialect) {
        None | Some(DialectChoice::Auto) => None,
        Some(DialectChoice::PoolServer) => Some(Dialect::PoolServer),
        Some(DialectChoice::Gateway) => Some(Dialect::Gateway),
    };
    let probe = ctx.runtime.probe(&agent, recorded.or(fixed), limit).await;
    let now = ctx.clock.monotonic();
    let expected = status
        .and_then(|s| s.claim.as_ref())
        .and_then(|c| c.conversation_id.clone());
    let waits = phase::waits_for_acceptance(object);
    ctx.memories.with(object, |m| {
        let answered = matches!(probe, Probe::Answered { .. });
        m.unanswered = if answered {
            0
        } else {
            m.unanswered.saturating_add(1)
        };
    });
    ctx.memories.with(object, |m| match &probe {
        Probe::Answered { status, .. } if status.ready => m.answered_a_beat(),
        Probe::Answered { .. } | Probe::Unreachable(_) | Probe::NotReady(_) => {
            m.silent_beats = m.silent_beats.saturating_add(1);
        }
        _ => {}
    });
    ctx.memories.with(object, |m| match &probe {
        Probe::Answered { status, .. } if waits && status.conversation.is_none() => {
            if status.pending {
                m.unbound = None;
            } else {
                m.unbound.get_or_insert(now);
            }
        }
        Probe::Answered { status, .. } if status.conversation == expected => m.unbound = None,
        Probe::Answered { .. } => {
            m.unbound.get_or_insert(now);
        }
        _ => {}
    });
    probe
}

#[derive(Clone, Copy)]
enum Question {
    IsThere,
    Remove,
}

async fn ask(
    object: &AgentInstance,
    around: &Surroundings,
    question: Question,
    ctx: &Ctx,
) -> Result<Presence, Trouble> {
    let (provider, mut facts) = (provider(around)?, facts_of(object.status.as_ref()));
    if let (Question::Remove, Some(step)) = (question, status::unsettled(object.status.as_ref())) {
        let now = ctx.clock.monotonic();
        let begun = ctx
            .memories
            .with(object, |m| *m.removing.get_or_insert(now));
        let seconds = now.saturating_sub(begun).as_secs();
        facts.insert(UNSETTLED.to_owned(), step.to_owned());
        facts.insert(UNSETTLED_FOR.to_owned(), seconds.to_string());
    }
    if let (Question::Remove, Some(step)) = (question, status::under_way(object.status.as_ref())) {
        facts.insert(UNDER_WAY.to_owned(), step.to_owned());
    }
    let purpose = match (question, had_a_user(object)) {
        (Question::IsThere, true) => Purpose::Claim,
        (Question::IsThere, false) => Purpose::Watch,
        (Question::Remove, true) => Purpose::Release,
        (Question::Remove, false) => Purpose::Create,
    };
    let call = match question {
        Question::IsThere => provider.observe(&around.key, &facts),
        Question::Remove => provider.destroy(&around.key, &facts),
    };
    let answer = account::on(purpose, &requests(object, ctx), call).await;
    answer.map_err(Trouble::from)
}

pub(super) async fn observe(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    if !admitted(object, around, Call::Read, evidence, ctx).await {
        return Ok(Next::Again);
    }
    match ask(object, around, Question::IsThere, ctx).await {
        Ok(presence) => {
            ctx.memories.answered(object);
            if matches!(presence, Presence::Present(_)) {
                ctx.memories.with(object, |m| m.missing = None);
            }
            evidence.presence = Some(presence);
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, around, evidence, trouble, ctx).await),
    }
}

pub(super) async fn destroy(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    if !admitted(object, around, Call::Remove, evidence, ctx).await {
        return Ok(Next::Again);
    }
    let result = ask(object, around, Question::Remove, ctx).await;
    let now = ctx.clock.monotonic();
    match result {
        Ok(presence) => {
            ctx.memories.with(object, |m| match presence {
                Presence::Gone => {
                    m.missing.get_or_insert(now);
                }
                _ => {
                    m.missing = None;
                    m.failures = m.failures.saturating_add(1);
                }
            });
            evidence.removal = Some(presence);
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, around, evidence, trouble, ctx).await),
    }
}

/// Renames the resource after its agent, so that a person recognises it. Best effort: three tries, nothing recorded;
/// whether it is done shows in the listing.
pub(super) async fn rename_if_claimed(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) {
    let (Some(pool), Some(claim), Some(scope)) = (&around.pool, &object.spec.claim, &around.scope)
    else {
        return;
    };
    if !pool.spec.claim.rename_on_claim
        || claim.holder == IMPORTED_BY
        || phase::phase_of(object) != Phase::Claimed
        || object.status.as_ref().is_none_or(|s| s.claim.is_none())
    {
        return;
    }
    let code = crate::domain::template::environment_code(&pool.spec);
    let Some(wanted) = names::claimed_provider_name(&code, &claim.agent_name, &object.spec.id)
    else {
        return;
    };
    let Some(snapshot) = ctx.fleet.latest(scope) else {
        return;
    };
    let needed = shown_name(object, &snapshot)
        .is_some_and(|shown| shown != wanted && shown == object.spec.provider_name);
    if !needed || ctx.fleet.held(scope, Call::Create).is_some() {
        return;
    }
    let now = ctx.clock.monotonic();
    let may = ctx.memories.with(object, |m| {
        if m.renames.claim != claim.id {
            m.renames = Renames {
                claim: claim.id.clone(),
                ..Renames::default()
            };
        }
        // A listing begun before the last try, or too soon after it, cannot show what came of it.
        let shows = m
            .renames
            .last
            .is_none_or(|at| snapshot.begun > at + around.limits.list_lag);
        let may = shows && m.renames.tries < 3;
        if may {
            m.renames.tries += 1;
            m.renames.last = Some(now);
        }
        may
    });
    if !may {
        return;
    }
    let Ok(provider) = provider(around) else {
        return;
    };
    let facts = facts_of(object.status.as_ref());
    let call = provider.after_claim(&around.key, &facts, &wanted);
    if ctx.leadership.holds()
        && provider.capabilities().rename
        && let Err(error) = account::on(Purpose::Claim, &requests(object, ctx), call).await
    {
        tracing::info!(instance = %object.name_any(), %error, "not renamed after its agent; the claim stands");
    }
}

fn shown_name<'a>(object: &AgentInstance, snapshot: &'a Snapshot) -> Option<&'a str> {
    let id = object.status.as_ref()?.provider.as_ref()?.id.as_ref()?;
    snapshot.name(id)
}
