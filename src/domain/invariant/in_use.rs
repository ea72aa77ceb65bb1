//! What may never happen to an agent that somebody was given, or waits for.

use std::time::Duration;

use super::{Rule, ends, released, view_recorded};
use crate::api::agent_instance::ReleaseMode;
use crate::api::condition::Reason;
use crate::domain::agent::Probe;
use crate::domain::instance::decide::{
    Action, Change, Decision, Judgement, RESTARTS, SEEN_BEFORE_EXPIRY, SILENT_BEATS, UNBOUND_APART,
};
use crate::domain::instance::phase::Phase;
use crate::domain::instance::view::{Beat, Inside, Listed, View};
use crate::domain::plan::Step;
use crate::domain::resource::Liveness;

pub(super) fn rules<'a>() -> [Rule<View<'a>, Decision>; 4] {
    [
        ("only who watches for an acceptance gives it up", watched),
        ("a claimed agent expires by its pool's word only", expired),
        (
            "only what was in stock and has a checkpoint is restored",
            restorable,
        ),
        (
            "only what is kept awake is restarted or held, and only after silence",
            disturbed,
        ),
    ]
}

fn watched(view: &View<'_>, decision: &Decision) -> bool {
    let judged = decision.action == Action::Record(Change::Judge(Judgement::Tainted));
    if !judged || view.phase() != Phase::PendingAcceptance {
        return true;
    }
    let Some(Probe::Answered { kind, status, .. }) = &view.evidence.probe else {
        return false;
    };
    let status_of = view.instance.status.as_ref();
    let recorded = status_of.and_then(|s| s.runtime.as_ref());
    let kind = kind.as_deref().or(recorded.and_then(|r| r.kind.as_deref()));
    decision.reason == Reason::NotAccepted
        && kind == Some("hermes")
        && status.ready
        && !status.pending
        && status.conversation.is_none()
        && view.memory.unbound_for >= Some(UNBOUND_APART)
}

fn expired(view: &View<'_>, decision: &Decision) -> bool {
    !ends(decision)
        || decision.reason != Reason::Expired
        || released(view)
        || (matches!(view.phase(), Phase::Claimed | Phase::Sleeping) && lifetime_is_over(view))
}

/// By the wall clock since it was bound, and seen for a while by this process.
pub(super) fn lifetime_is_over(view: &View<'_>) -> bool {
    let Some(lifetime) = view.limits.max_lifetime else {
        return false;
    };
    let bound = view_recorded(view)
        .filter(|c| c.outcome == "Bound")
        .and_then(|c| c.claimed_at.as_ref());
    let age = bound.map(|at| view.now.duration_since(at.0));
    let made = view.instance.metadata.creation_timestamp.as_ref();
    let existed = made.map(|at| view.now.duration_since(at.0));
    let long = |age| Duration::try_from(age).is_ok_and(|a| a >= lifetime);
    age.is_some_and(long)
        && existed.is_none_or(long)
        && view.memory.claim_known_for >= lifetime.min(SEEN_BEFORE_EXPIRY)
}

fn restorable(view: &View<'_>, decision: &Decision) -> bool {
    if decision.action != Action::Record(Change::Recycle) {
        return true;
    }
    let release = view.instance.spec.release.as_ref();
    let status = view.instance.status.as_ref();
    let provider = status.and_then(|s| s.provider.as_ref());
    release.is_some_and(|r| r.mode == ReleaseMode::Recycle)
        && view.limits.recycles
        && status.is_some_and(|s| s.turn.is_some() && s.verdict.is_none() && s.operation.is_none())
        && provider.is_some_and(|p| p.checkpoint_id.is_some())
}

/// Every step of the recycling but the last is done, and the agent and its files say that nobody is left in it.
pub(super) fn restored(view: &View<'_>) -> bool {
    let status = view.instance.status.as_ref();
    let operation = status.and_then(|s| s.operation.as_ref());
    let at_the_end = operation.is_some_and(|o| {
        o.kind == "Recycle"
            && o.steps.len() == view.plan.len()
            && view.plan.last().is_some_and(|s| s.step == Step::Clean)
    });
    let unbound = matches!(&view.evidence.probe, Some(Probe::Answered { status, .. })
        if status.ready && status.conversation.is_none() && !status.pending && status.clean != Some(false));
    at_the_end && unbound && view.evidence.inside == Some(Inside::Clean)
}

/// Whether an agent whose machine may sleep in stock may be asked, which wakes it; `None`: its provider has no such.
/// In stock it is asked only where it is to be awake all the time; one that is being restored, like one being built.
pub(super) fn may_be_woken(view: &View<'_>) -> Option<bool> {
    let heartbeat = view.limits.heartbeat?;
    let running = matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Running);
    let may = |beat| match beat {
        Beat::Always => view.listed != Listed::Absent,
        Beat::WhileRunning => running,
        Beat::Never => false,
    };
    Some(match view.phase() {
        Phase::Recycling => true,
        // Whether an interrupted claim has worked, or one that was reset is clean: asked like any other.
        Phase::Claiming => return None,
        Phase::Idle => may(heartbeat.idle),
        _ => may(heartbeat.in_use),
    })
}

/// It did not answer for long, though it was restarted as often as may be.
pub(super) fn silent_for_long(view: &View<'_>) -> bool {
    kept_awake(view)
        && view.memory.silent_beats >= SILENT_BEATS
        && view.memory.restarts >= RESTARTS
        && matches!(view.listed, Listed::Present(_))
}

fn kept_awake(view: &View<'_>) -> bool {
    view.limits.heartbeat.is_some_and(|h| match view.phase() {
        Phase::Idle => h.idle == Beat::Always,
        Phase::Claimed | Phase::PendingAcceptance => h.in_use == Beat::Always,
        _ => false,
    })
}

fn disturbed(view: &View<'_>, decision: &Decision) -> bool {
    match decision.action {
        Action::Restart => {
            kept_awake(view)
                && view.memory.silent_beats >= SILENT_BEATS
                && view.memory.restarts < RESTARTS
        }
        Action::Hold => {
            kept_awake(view) && matches!(&view.listed, Listed::Present(r) if r.liveness.is_paused())
        }
        _ => true,
    }
}
