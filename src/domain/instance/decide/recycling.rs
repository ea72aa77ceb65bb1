//! An agent that its user gave back, being restored for the next one: recorded steps, like a creation's.
//!
//! It has a new token from the write that begins it. When its checkpoint is restored and it is proven ready, unbound and
//! clean, one conditional write clears claim and release and raises the turn; then it is proven once more, for that
//! turn. Whatever does not work out on the way ends in its destruction, and the pool makes another.

use super::provisioning::{no_plan, step};
use super::*;

pub(super) fn recycling(view: &View<'_>) -> Decision {
    let decided = restoring(view);
    match decided.action {
        // Nothing is kept of it: it has been given back.
        Action::Record(Change::Judge(_)) | Action::Delete => not_restorable(view, &decided.message),
        _ => Decision {
            reason: match decided.reason {
                Reason::Creating | Reason::Booting => Reason::Recycling,
                reason => reason,
            },
            ..decided
        },
    }
}

/// Destroyed and replaced, as one is that cannot be restored; a protected one stays until its label goes.
pub(super) fn not_restorable(view: &View<'_>, why: &str) -> Decision {
    let text = format!("given back by its user, and not to be restored: {why}");
    if phase::is_protected(view.instance) {
        let kept = format!("{text}; kept, because it is protected");
        return decision(Action::Wait, Reason::RecycleFailed, kept, view.limits.tick);
    }
    decision(
        Action::Delete,
        Reason::RecycleFailed,
        text,
        view.limits.tick,
    )
}

/// Restored, ready, unbound and clean.
pub(super) fn restored() -> Decision {
    decision(
        Action::PutBack,
        Reason::Recycling,
        "restored, ready, unbound and clean: back to be proven for its next user",
        READY_POLL,
    )
}

fn restoring(view: &View<'_>) -> Decision {
    if let Some(left) = claim_in_flight(view) {
        let text = "given back while a claim on it is in flight: restored when that is over";
        return decision(Action::Wait, Reason::Claiming, text, left);
    }
    if let Some(trouble) = &view.evidence.trouble {
        return match trouble.class {
            Class::Rejected | Class::Gone => not_restorable(view, &trouble.message),
            _ => troubled(view, trouble),
        };
    }
    if !view.limits.recycles {
        let text =
            "its provider cannot restore an agent for its next user: use spec.release.mode Destroy";
        return decision(Action::Wait, Reason::NotSupported, text, view.limits.tick);
    }
    let status = view.instance.status.as_ref();
    if status.is_none_or(|s| s.turn.is_none()) {
        return not_restorable(
            view,
            "it was never proven, or what was observed of it is lost",
        );
    }
    let provider = status.and_then(|s| s.provider.as_ref());
    if provider.is_none_or(|p| p.checkpoint_id.is_none()) {
        return not_restorable(view, "it has no checkpoint");
    }
    if view.plan.is_empty() {
        return no_plan();
    }
    let Some(operation) = status.and_then(|s| s.operation.as_ref()) else {
        return decision(
            Action::Record(Change::Recycle),
            Reason::Recycling,
            "given back by its user: being restored for the next one",
            Duration::ZERO,
        );
    };
    match current(view.plan, operation).filter(|_| is_recycling(status)) {
        Some((index, spec, recorded)) => {
            bounded(view, spec, recorded, step(view, index, spec, recorded))
        }
        None => not_restorable(view, "the recorded operation does not fit the plan"),
    }
}

/// How long the claim's own process may still call the agent: it is recorded with its outcome, or over.
fn claim_in_flight(view: &View<'_>) -> Option<Duration> {
    let claim = view.instance.spec.claim.as_ref()?;
    let proven = view.instance.status.as_ref().and_then(|s| s.turn).is_some();
    let outcome = outcome::recorded(claim, view.instance.status.as_ref());
    let limit = view.limits.claim_deadline + TWICE_APART;
    let left = limit.saturating_sub(view.memory.claim_known_for);
    (proven && outcome.is_none() && !left.is_zero()).then_some(left)
}

/// No step is waited for longer than it may take, nor tried more often.
fn bounded(view: &View<'_>, spec: &StepSpec, recorded: &StepStatus, decided: Decision) -> Decision {
    let again = decided.action == Action::Record(Change::Again);
    let waits = decided.action == Action::Wait;
    let name = &recorded.name;
    if again && recorded.attempt >= i32::from(spec.attempts) {
        return not_restorable(view, &format!("{name}: tried {} times", spec.attempts));
    }
    if waits && view.memory.step_known_for >= spec.deadline {
        let within = spec.deadline.as_secs();
        return not_restorable(view, &format!("{name}: not done within {within} s"));
    }
    decided
}
