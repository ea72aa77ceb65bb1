//! What must hold of every decision, whatever the view: named predicates, used by every layer of tests.
//!
//! They say what may never happen, not what should; they are written from the contract, not from `decide`.

mod in_use;
mod rollout;

use std::time::Duration;

use super::agent::{Dialect, Probe};
use super::instance::decide::{Action, Change, Decision, Judgement, QUARANTINE, TWICE_APART};
use super::instance::outcome::{self, Outcome as Recorded};
use super::instance::phase::{self, Phase};
use super::instance::status::is_adopting;
use super::instance::view::{Inside, Listed, View};
use super::plan::{Outcome, Repeat, Seen, Step};
use super::pool;
use super::resource::{Liveness, Presence};
use crate::api::agent_instance::{ClaimStatus, ReleaseMode};
use crate::api::agent_pool::DeletionPolicy;
use crate::api::condition::Reason;
use crate::api::{ANNOTATION_ABANDON, INSTANCE_FINALIZER};

/// The longest time until the next decision.
pub const RECHECK_MAX: Duration = Duration::from_secs(3600);

/// A rule with its name: the first part must be true wherever the rule applies.
type Rule<V, D> = (&'static str, fn(&V, &D) -> bool);

/// The names of the rules that a decision about an instance breaks.
pub fn broken(view: &View<'_>, decision: &Decision) -> Vec<&'static str> {
    let rules: &[Rule<View<'_>, Decision>] = &[
        ("somebody's agent is never deleted", not_in_use),
        ("a protected one is never deleted by judgement", unprotected),
        ("removal needs a deletionTimestamp and our finalizer", asked),
        ("the finalizer goes last", gone_or_abandoned),
        (
            "a step is sent under a permit, or blindly where safe",
            sendable,
        ),
        (
            "a step is repeated after a failure or proven absence only",
            repeatable,
        ),
        ("gone is a listing and a direct read, apart", twice_gone),
        ("in stock is proven ready, unbound and clean", proven),
        ("a sleeper is woken under a permit only", awake),
        ("the crashed come back with their conversation", revived),
        ("a judgement fits what it judges", fitting),
        (
            "only a failed claim's agent is reset, and only a clean one goes back",
            resettable,
        ),
        ("a join is kept on the agent's own word", joined),
        ("a verdict stays", final_verdict),
        ("a failed probe alone judges nothing", not_by_silence),
        ("nothing is read or sent twice in a pass", progress),
        ("the next decision is soon, but not at once", bounded),
    ];
    rules
        .iter()
        .chain(&in_use::rules())
        .filter(|(_, holds)| !holds(view, decision))
        .map(|(name, _)| *name)
        .collect()
}

fn deleted(view: &View<'_>) -> bool {
    view.instance.metadata.deletion_timestamp.is_some()
}

fn released(view: &View<'_>) -> bool {
    let release = view.instance.spec.release.as_ref();
    release.is_some_and(|r| r.mode == ReleaseMode::Destroy)
}

/// Given back by its user, to be destroyed or restored for the next one.
fn given_back(view: &View<'_>) -> bool {
    view.instance.spec.release.is_some()
}

fn verdict<'a>(view: &'a View<'_>) -> Option<&'a str> {
    let status = view.instance.status.as_ref()?;
    Some(status.verdict.as_ref()?.state.as_str())
}

fn ends(decision: &Decision) -> bool {
    matches!(decision.action, Action::Delete | Action::Destroy)
}

/// What came of the present claim.
fn view_recorded<'a>(view: &View<'a>) -> Option<&'a ClaimStatus> {
    let claim = view.instance.spec.claim.as_ref()?;
    let recorded = view.instance.status.as_ref()?.claim.as_ref()?;
    (recorded.id == claim.id).then_some(recorded)
}

/// Deleted are: what its user released, what nobody uses, a claim past its deadline, a join that nobody accepted in
/// time, what has lived as long as its pool allows, and the tainted after a while unless somebody was given it.
fn not_in_use(view: &View<'_>, decision: &Decision) -> bool {
    if !ends(decision) || deleted(view) || released(view) {
        return true;
    }
    match view.phase() {
        Phase::Claiming => view.memory.claim_known_for >= view.limits.claim_deadline,
        // Of a claim that ended without a user.
        Phase::Provisioning if failed_claim(view) => true,
        // Not while its claim's own process may still call it.
        Phase::Recycling => {
            let open = view.instance.spec.claim.is_some()
                && outcome::of(view.instance).is_none()
                && view
                    .instance
                    .status
                    .as_ref()
                    .is_some_and(|s| s.turn.is_some());
            !open || view.memory.claim_known_for >= view.limits.claim_deadline
        }
        Phase::Tainted | Phase::Dead | Phase::Crashed if given_back(view) => true,
        Phase::Tainted | Phase::Dead => {
            let waits = view_recorded(view).is_some_and(|c| c.outcome == "Pending");
            waits || !phase::is_handed_out(view.instance)
        }
        Phase::PendingAcceptance => view.memory.phase_for >= view.limits.pending_timeout,
        Phase::Claimed | Phase::Sleeping if view.instance.spec.claim.is_some() => {
            in_use::lifetime_is_over(view)
        }
        Phase::Idle | Phase::Provisioning => view.instance.spec.claim.is_none(),
        _ => view.instance.spec.claim.is_none() && view.phase() == Phase::Sleeping,
    }
}

/// The claim's own process recorded that the agent was not handed out, and that it is to be reset.
fn failed_claim(view: &View<'_>) -> bool {
    matches!(
        outcome::of(view.instance),
        Some(Recorded::Failed | Recorded::Settling)
    )
}

/// Nobody's agent is reset but one whose claim is recorded as failed; never one that may have a live user.
fn resettable(view: &View<'_>, decision: &Decision) -> bool {
    let resets = decision.action == Action::Reset;
    let settles = matches!(
        decision.action,
        Action::Record(Change::Settling) | Action::PutBack
    );
    let clean = matches!(&view.evidence.probe, Some(Probe::Answered { status, .. })
        if status.clean == Some(true) && status.conversation.is_none() && !status.pending);
    let watched = view.memory.step_known_for >= QUARANTINE;
    let recorded = outcome::of(view.instance);
    if decision.action == Action::PutBack && view.phase() == Phase::Recycling {
        return in_use::restored(view);
    }
    (!resets || (recorded == Some(Recorded::Failed) && view.evidence.reset.is_none()))
        && (!settles || clean)
        && (decision.action != Action::PutBack || (recorded == Some(Recorded::Settling) && watched))
}

/// A claim that nobody ended is somebody's only if it was to join, its deadline is over and the agent shows where it is;
/// one that waits for a person, as soon as the agent shows it.
fn joined(view: &View<'_>, decision: &Decision) -> bool {
    let Action::Record(Change::Joined(conversation)) = &decision.action else {
        return true;
    };
    let claim = view.instance.spec.claim.as_ref();
    let shown = match &view.evidence.probe {
        Some(Probe::Answered { status, .. }) => status.conversation.as_ref(),
        _ => None,
    };
    let interrupted = claim.is_some_and(|c| c.join_url.is_some())
        && outcome::of(view.instance).is_none()
        && view.memory.claim_known_for >= view.limits.claim_deadline;
    let waits = view.phase() == Phase::PendingAcceptance;
    (interrupted || waits) && shown == Some(conversation)
}

fn unprotected(view: &View<'_>, decision: &Decision) -> bool {
    !ends(decision) || deleted(view) || released(view) || !phase::is_protected(view.instance)
}

fn asked(view: &View<'_>, decision: &Decision) -> bool {
    if !matches!(decision.action, Action::Destroy | Action::RemoveFinalizer) {
        return true;
    }
    let held = view.instance.metadata.finalizers.iter().flatten();
    deleted(view) && held.into_iter().any(|f| f == INSTANCE_FINALIZER)
}

/// The provider said that it is gone; where a create may be on its way, or the object may have lost its status, twice
/// and past the list's lag.
fn gone_or_abandoned(view: &View<'_>, decision: &Decision) -> bool {
    if decision.action != Action::RemoveFinalizer {
        return true;
    }
    let annotations = view.instance.metadata.annotations.as_ref();
    if annotations.is_some_and(|a| a.get(ANNOTATION_ABANDON).is_some_and(|v| v == "true")) {
        return true;
    }
    let status = view.instance.status.as_ref();
    let known = status.is_some_and(|s| s.provider.as_ref().is_some_and(|p| p.id.is_some()));
    let begun = status.is_some_and(|s| s.operation.is_some());
    let proven_absent = view.memory.missing_for >= Some(TWICE_APART.max(view.limits.list_lag));
    view.evidence.removal == Some(Presence::Gone)
        && view.evidence.trouble.is_none()
        && (known || (view.memory.fresh && !begun) || proven_absent)
}

fn sendable(view: &View<'_>, decision: &Decision) -> bool {
    let Action::Perform(index) = decision.action else {
        return true;
    };
    let operation = view
        .instance
        .status
        .as_ref()
        .and_then(|s| s.operation.as_ref());
    let (Some(operation), Some(spec)) = (operation, view.plan.get(index)) else {
        return false;
    };
    let recorded = operation.steps.get(index);
    let fits = usize::try_from(operation.index) == Ok(index)
        && recorded.is_some_and(|s| s.name == spec.step.name());
    let intended = recorded.is_some_and(|s| s.state == "Intended");
    fits && matches!(spec.step, Step::Provider(_))
        && intended
        && (view.memory.permit || spec.repeat == Repeat::Safe)
}

/// What may be there is not intended a second time: it was seen to have failed, or not to be there past the list's lag.
fn repeatable(view: &View<'_>, decision: &Decision) -> bool {
    if decision.action != Action::Record(Change::Again) {
        return true;
    }
    let failed = matches!(
        view.evidence.outcome,
        Some(Outcome::Failed { retry: true, .. })
    ) || matches!(view.evidence.look, Some(Seen::Failed { retry: true, .. }));
    let proven_absent = view.evidence.look == Some(Seen::Absent)
        && view.memory.absent_for >= Some(TWICE_APART.max(view.limits.list_lag));
    failed || proven_absent
}

fn twice_gone(view: &View<'_>, decision: &Decision) -> bool {
    let ending = matches!(
        decision.action,
        Action::Delete | Action::Record(Change::Judge(_))
    );
    if !ending || decision.reason != Reason::Gone || verdict(view).is_some() || released(view) {
        return true;
    }
    view.listed == Listed::Absent
        && view.evidence.presence == Some(Presence::Gone)
        && view.memory.missing_for >= Some(TWICE_APART)
}

fn proven(view: &View<'_>, decision: &Decision) -> bool {
    if decision.action != Action::Record(Change::Proven) {
        return true;
    }
    let Some(Probe::Answered {
        status, dialect, ..
    }) = &view.evidence.probe
    else {
        return false;
    };
    let spec = &view.instance.spec;
    let recorded = view
        .instance
        .status
        .as_ref()
        .and_then(|s| s.runtime.as_ref());
    let gateway = *dialect == Dialect::Gateway
        || recorded.is_some_and(|r| r.dialect.as_deref() == Some("Gateway"));
    let clean = match status.clean {
        // Files say more than the agent, where its provider can look at them.
        told if view.limits.recycles => {
            told != Some(false) && view.evidence.inside == Some(Inside::Clean)
        }
        Some(clean) => clean,
        None => {
            let ours = spec.turn == 1 && !spec.restored && !adopting(view);
            view.limits.allow_unknown_clean || (gateway && ours)
        }
    };
    status.ready
        && status.conversation.is_none()
        && !status.pending
        && clean
        && spec.claim.is_none()
        && view.listed != Listed::Absent
}

/// One that is being built may be woken: until it answers it is nobody's.
fn awake(view: &View<'_>, decision: &Decision) -> bool {
    if decision.action != Action::Probe || view.phase() == Phase::Provisioning {
        return true;
    }
    // The wake itself, by the process that recorded it; never of one that is in use.
    if state(view) == Some("Waking") && view.memory.permit && view.instance.spec.claim.is_none() {
        return true;
    }
    if let Some(may) = in_use::may_be_woken(view) {
        return may;
    }
    let waits = view.phase() == Phase::PendingAcceptance;
    match &view.listed {
        // Who waits for a person is asked although it sleeps.
        Listed::Present(r) if waits && r.liveness == Liveness::Sleeping => true,
        Listed::Present(r) => r.liveness == Liveness::Running,
        Listed::Absent => false,
        Listed::Unknown => view.phase() != Phase::Sleeping,
    }
}

fn state<'a>(view: &View<'a>) -> Option<&'a str> {
    let status = view.instance.status.as_ref()?;
    status.provider.as_ref()?.state.as_deref()
}

fn revived(view: &View<'_>, decision: &Decision) -> bool {
    if decision.action != Action::Record(Change::Revive) {
        return true;
    }
    let status = view.instance.status.as_ref();
    let recorded = status.and_then(|s| s.claim.as_ref());
    let Some(Probe::Answered { status, .. }) = &view.evidence.probe else {
        return false;
    };
    let ours = recorded.zip(view.instance.spec.claim.as_ref());
    verdict(view) == Some("Crashed")
        && matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Running)
        && status.conversation.is_some()
        && ours.is_some_and(|(r, c)| r.id == c.id && r.conversation_id == status.conversation)
}

fn fitting(view: &View<'_>, decision: &Decision) -> bool {
    let Action::Record(Change::Judge(judgement)) = &decision.action else {
        return true;
    };
    let in_use = match view.phase() {
        Phase::Claimed | Phase::PendingAcceptance => true,
        Phase::Sleeping => view.instance.spec.claim.is_some(),
        Phase::Provisioning | Phase::Idle => false,
        // Still crashed, for another reason.
        Phase::Crashed => return *judgement == Judgement::Crashed,
        // What a claim found.
        Phase::Claiming => {
            return *judgement == Judgement::Tainted && outcome::of(view.instance).is_some();
        }
        _ => return false,
    };
    // Somebody's agent of which nothing is known but what the provider says of it.
    let status_lost = in_use && view.instance.status.as_ref().and_then(|s| s.turn).is_none();
    match judgement {
        Judgement::Crashed => in_use || adopting(view),
        Judgement::Dead => !in_use && !found_bound(view),
        Judgement::Tainted => !status_lost && !found_bound(view),
    }
}

fn adopting(view: &View<'_>) -> bool {
    is_adopting(view.instance.status.as_ref())
}

/// It was there before its object, and has a conversation.
fn found_bound(view: &View<'_>) -> bool {
    adopting(view)
        && matches!(&view.evidence.probe, Some(Probe::Answered { status, .. }) if status.conversation.is_some())
        && view
            .instance
            .status
            .as_ref()
            .is_some_and(|s| s.provider.as_ref().is_some_and(|p| p.id.is_some()))
}

fn final_verdict(view: &View<'_>, decision: &Decision) -> bool {
    let crashed = verdict(view) == Some("Crashed");
    let looks_again = matches!(
        decision.action,
        Action::Probe | Action::Record(Change::Judge(Judgement::Crashed) | Change::Revive)
    );
    verdict(view).is_none()
        || deleted(view)
        || matches!(decision.action, Action::Wait | Action::Delete)
        || (crashed && looks_again)
}

fn not_by_silence(view: &View<'_>, decision: &Decision) -> bool {
    let silent = matches!(
        view.evidence.probe,
        Some(Probe::Unreachable(_) | Probe::NotReady(_) | Probe::Unauthorized)
    );
    let judged = matches!(decision.action, Action::Record(Change::Judge(_)));
    let by_the_agent = matches!(
        decision.reason,
        Reason::Unreachable
            | Reason::NotReady
            | Reason::BadToken
            | Reason::NotClean
            | Reason::ConversationLost
            | Reason::UnknownConversation
            | Reason::WrongRuntime
    );
    // What a claim recorded is its own evidence, whatever the agent says now.
    let found_by_a_claim = view.phase() == Phase::Claiming && outcome::of(view.instance).is_some();
    !(silent && judged && by_the_agent) || found_by_a_claim || in_use::silent_for_long(view)
}

/// What there is evidence of is not asked for again, so that a pass ends.
fn progress(view: &View<'_>, decision: &Decision) -> bool {
    let e = view.evidence;
    match decision.action {
        Action::Look(_) => e.look.is_none() && e.outcome.is_none() && e.trouble.is_none(),
        Action::Perform(_) => e.outcome.is_none() && e.trouble.is_none(),
        Action::Probe => e.probe.is_none(),
        Action::LookInside => e.inside.is_none() && e.trouble.is_none(),
        Action::Observe => e.presence.is_none() && e.trouble.is_none(),
        Action::Destroy => e.removal.is_none() && e.trouble.is_none(),
        Action::Record(Change::Done(_) | Change::Running(_)) => {
            !matches!(e.outcome, Some(Outcome::Failed { .. }))
        }
        _ => true,
    }
}

fn bounded(_: &View<'_>, decision: &Decision) -> bool {
    decision.recheck <= RECHECK_MAX
        && (decision.action != Action::Wait || decision.recheck > Duration::ZERO)
}

/// The names of the rules that a decision about a pool breaks.
pub fn pool_broken(
    view: &pool::view::View<'_>,
    decision: &pool::decide::Decision,
) -> Vec<&'static str> {
    let rules: &[Rule<pool::view::View<'_>, pool::decide::Decision>] = &[
        ("never more than maxTotal", within_max_total),
        ("never more at a time than can be listed", listable),
        ("new ids are new", new_ids),
        (
            "nothing is created while anything holds creations back",
            allowed,
        ),
        ("nothing is created that nobody wants", wanted),
        (
            "only nobody's agent is deleted: of a pool that goes, or rolls out",
            deletes,
        ),
        ("a roll-out leaves enough", rollout::leaves_enough),
        ("a roll-out builds no more than it may", rollout::builds_few),
        (
            "a roll-out that is held or fails does nothing",
            rollout::held,
        ),
        ("the pool goes last", last),
        ("a request is answered once", answered_once),
        ("the next decision is soon, but not at once", pool_bounded),
    ];
    rules
        .iter()
        .filter(|(_, holds)| !holds(view, decision))
        .map(|(name, _)| *name)
        .collect()
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn within_max_total(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    let occupied = v.members.iter().filter(|m| m.phase.occupies()).count() + v.unseen().len();
    let max = v.pool.spec.max_total.map_or(i64::MAX, i64::from);
    d.create.is_empty() || count(occupied + d.create.len()) <= max
}

fn creating<'a>(v: &pool::view::View<'a>) -> &'a [String] {
    v.pool.status.as_ref().map_or(&[], |s| &s.creating)
}

fn listable(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    d.create.is_empty() || v.unseen().len() + d.create.len() <= pool::decide::CREATING_MAX
}

fn new_ids(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    let distinct: std::collections::BTreeSet<&String> = d.create.iter().collect();
    distinct.len() == d.create.len()
        && d.create.iter().all(|id| {
            let debts = v.debts();
            (v.fresh_ids.contains(id) || debts.open.contains(id) || debts.coming.contains(id))
                && !creating(v).contains(id)
                && !v.members.iter().any(|m| &m.id == id)
        })
}

fn allowed(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    d.create.is_empty()
        || (v.pool.metadata.deletion_timestamp.is_none()
            && v.unsupported.is_none()
            && v.revision.is_some()
            && matches!(v.provider, pool::view::ProviderHealth::Reachable(_))
            && !d.breaker.is_open(v.now))
}

/// Never beyond the minimum and what waits, or one for each claim where the pool wants that, but for what requests asked for.
fn wanted(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    let counts = pool::view::Counts::of(v.members, v.unseen().len());
    let there = counts.get(Phase::Idle) + counts.get(Phase::Provisioning);
    let short = i64::from((v.wanted() - there).max(0)).max(count(v.debts().open.len()));
    let asked: usize = d.answers.iter().map(|a| a.ids.len()).sum();
    count(d.create.len()) <= short + count(asked) + i64::from(d.rollout.create)
}

fn goes(v: &pool::view::View<'_>, m: &pool::view::Member) -> bool {
    let destroy = v.pool.spec.deletion_policy == DeletionPolicy::Destroy;
    !m.protected && (destroy || !m.phase.is_untouchable())
}

fn deletes(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    let deleted = v.pool.metadata.deletion_timestamp.is_some();
    d.delete.iter().all(|name| {
        let member = v.members.iter().find(|m| &m.object == name);
        member.is_some_and(|m| {
            if deleted {
                goes(v, m) && m.phase != Phase::Terminating
            } else {
                m.phase == Phase::Idle && !m.protected && m.drift.is_some()
            }
        })
    })
}

fn last(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    !d.remove_finalizer
        || (v.pool.metadata.deletion_timestamp.is_some()
            && v.unseen().is_empty()
            && !v.members.iter().any(|m| goes(v, m)))
}

fn answered_once(v: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    let before = v.pool.status.as_ref().map(|s| &s.requests);
    let ids: std::collections::BTreeSet<&String> = d.answers.iter().map(|a| &a.id).collect();
    ids.len() == d.answers.len()
        && ids.iter().all(|id| {
            v.requests.iter().any(|r| &&r.id == id) && before.is_none_or(|b| !b.contains_key(*id))
        })
}

fn pool_bounded(_: &pool::view::View<'_>, d: &pool::decide::Decision) -> bool {
    d.recheck > Duration::ZERO && d.recheck <= RECHECK_MAX
}
