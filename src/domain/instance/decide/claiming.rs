//! A claim in flight, one that nobody ended, and one that ended without a user: settled by the agents' contract,
//! sections 7 and 8.
//!
//! The claim's own process has the whole deadline. What it could not settle by itself it records as an outcome, and
//! what it could not even record is settled here when the deadline is over, as a call of which nobody knows what came.

use super::*;
use crate::domain::instance::outcome::Outcome as Recorded;

/// How long an agent that was reset is watched before it goes back: a late attempt of the failed call may still bind.
pub const QUARANTINE: Duration = Duration::from_secs(90);
/// How often it is asked meanwhile.
pub const QUARANTINE_POLL: Duration = Duration::from_secs(10);
/// How much longer it is asked when it does not answer at the end.
pub const QUARANTINE_GRACE: Duration = Duration::from_secs(60);
/// How much longer than the deadline an agent is asked whether an interrupted join has happened.
pub const ASK_AFTER_DEADLINE: Duration = Duration::from_secs(15);

pub(super) fn claiming(view: &View<'_>) -> Decision {
    let age = view.memory.claim_known_for;
    // A little more than the deadline, so that the process's last write is over.
    let limit = view.limits.claim_deadline + TWICE_APART;
    if age >= limit {
        return interrupted(view, age - limit);
    }
    let next = if age < CLAIMING_SHOWN_AFTER {
        CLAIMING_SHOWN_AFTER - age
    } else {
        limit - age
    };
    let in_flight = "a claim is in flight";
    decision(
        Action::Wait,
        Reason::Claiming,
        in_flight,
        next.max(Duration::from_millis(50)),
    )
}

/// Nobody recorded what came of the claim. A create has lost its link whatever came of it; a join that happened is kept.
fn interrupted(view: &View<'_>, over: Duration) -> Decision {
    let lost = "nobody recorded what came of the claim within its deadline";
    let claim = view.instance.spec.claim.as_ref();
    if claim.is_none_or(|c| c.join_url.is_none()) {
        return given_up(view, Reason::ClaimInterrupted, lost);
    }
    match &view.evidence.probe {
        Some(Probe::Answered { status, .. }) => match status.recordable_conversation() {
            Some(conversation) => decision(
                Action::Record(Change::Joined(conversation.clone())),
                Reason::Claimed,
                "in use: it has joined, though nobody recorded it within the claim's deadline",
                Duration::ZERO,
            ),
            None => given_up(view, Reason::ClaimInterrupted, lost),
        },
        _ if over >= ASK_AFTER_DEADLINE || !may_be_asked(view) => {
            given_up(view, Reason::ClaimInterrupted, lost)
        }
        Some(_) => decision(Action::Wait, Reason::ClaimInterrupted, lost, READY_POLL),
        None => decision(Action::Probe, Reason::ClaimInterrupted, lost, READY_POLL),
    }
}

/// What does not run is not asked: that would wake it.
fn may_be_asked(view: &View<'_>) -> bool {
    match &view.listed {
        Listed::Present(r) => r.liveness == Liveness::Running,
        Listed::Absent => false,
        Listed::Unknown => true,
    }
}

/// What a claim recorded of an agent that it did not hand out.
pub(super) fn rejected(view: &View<'_>, outcome: Recorded) -> Option<Decision> {
    let tainted = |reason, text: &str| Some(judge(Judgement::Tainted, reason, text));
    match outcome {
        Recorded::Bound | Recorded::Pending => None,
        Recorded::Busy => tainted(Reason::Busy, "a claim found it bound to a conversation"),
        Recorded::BadToken => tainted(Reason::BadToken, "it refused its token to a claim"),
        Recorded::WrongRuntime => tainted(
            Reason::WrongRuntime,
            "another program than expected answered a claim",
        ),
        Recorded::NotClean => tainted(Reason::NotClean, "a claim found that it is not clean"),
        Recorded::Failed => Some(failed_claim(view)),
        Recorded::Settling => Some(settling(view)),
    }
}

/// Reset, and asked: clean → watched; anything else → replaced.
fn failed_claim(view: &View<'_>) -> Decision {
    let text = "the claim failed: resetting the agent";
    match (view.evidence.reset, &view.evidence.probe) {
        (None, _) => decision(Action::Reset, Reason::Settling, text, READY_POLL),
        (Some(true), None) => decision(Action::Probe, Reason::Settling, text, READY_POLL),
        (Some(true), Some(Probe::Answered { status, .. })) if is_clean(status) => decision(
            Action::Record(Change::Settling),
            Reason::Settling,
            "reset after a failed claim, and clean: watched before it goes back",
            Duration::ZERO,
        ),
        _ => given_up(
            view,
            Reason::ClaimFailed,
            "the claim failed, and a reset did not clean it",
        ),
    }
}

/// Clean at the beginning, and not otherwise until the end.
fn settling(view: &View<'_>) -> Decision {
    let age = view.memory.step_known_for;
    let waits = |recheck: Duration| {
        let text = "reset after a failed claim: watched before it goes back";
        let recheck = recheck.max(Duration::from_millis(50));
        decision(Action::Wait, Reason::Settling, text, recheck)
    };
    match &view.evidence.probe {
        Some(Probe::Answered { status, .. }) if !is_clean(status) => {
            given_up(view, Reason::ClaimFailed, "no longer clean after a reset")
        }
        Some(Probe::Answered { .. }) if age >= QUARANTINE => decision(
            Action::PutBack,
            Reason::Settling,
            "clean throughout: back to be proven",
            READY_POLL,
        ),
        Some(_) if age >= QUARANTINE + QUARANTINE_GRACE => {
            given_up(view, Reason::ClaimFailed, "does not answer after a reset")
        }
        Some(_) => waits(
            QUARANTINE_POLL
                .min(QUARANTINE.saturating_sub(age))
                .max(READY_POLL),
        ),
        None if age >= QUARANTINE || since_probe(view) >= QUARANTINE_POLL => decision(
            Action::Probe,
            Reason::Settling,
            "reset after a failed claim: asking whether it is still clean",
            READY_POLL,
        ),
        None => waits((QUARANTINE_POLL - since_probe(view)).min(QUARANTINE - age)),
    }
}

fn since_probe(view: &View<'_>) -> Duration {
    view.memory.probed.unwrap_or(QUARANTINE_POLL)
}

fn is_clean(status: &AgentStatus) -> bool {
    status.clean == Some(true) && status.conversation.is_none() && !status.pending
}

/// Replaced, unless a person said that it is to be kept.
fn given_up(view: &View<'_>, reason: Reason, text: &str) -> Decision {
    if phase::is_protected(view.instance) {
        let kept = format!("{text}; kept, because it is protected");
        return decision(Action::Wait, reason, kept, view.limits.tick);
    }
    let replaced = format!("{text}: the agent is replaced");
    decision(Action::Delete, reason, replaced, view.limits.tick)
}
