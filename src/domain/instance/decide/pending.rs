//! A join that waits for a person. It is left on the first of: the agent shows a conversation, the agent gave up, the
//! deadline, the provider's word that it ended. The same comes by callback; whichever is first counts.

use super::*;

/// How often it is asked at first, and later: most people accept soon, or not at all.
const POLL: Duration = Duration::from_secs(15);
const POLL_LATER: Duration = Duration::from_secs(60);
/// How long at first is.
const POLLED_OFTEN_FOR: Duration = Duration::from_secs(300);

/// What is said of one that gave up.
pub const GAVE_UP: &str = "the agent gave up waiting for its join to be accepted";

/// What becomes of it, once the provider has nothing to say.
pub(super) fn pending(view: &View<'_>) -> Decision {
    if let Some(Probe::Answered { status, .. }) = &view.evidence.probe {
        // A join has one possible conversation, so that any is the right one.
        if let Some(conversation) = status.recordable_conversation() {
            return decision(
                Action::Record(Change::Joined(conversation.clone())),
                Reason::Claimed,
                "in use",
                Duration::ZERO,
            );
        }
        if gave_up(view, status) {
            return judge(Judgement::Tainted, Reason::NotAccepted, GAVE_UP);
        }
    }
    let left = view
        .limits
        .pending_timeout
        .saturating_sub(view.memory.phase_for);
    let due = left.is_zero() || until_poll(view).is_zero();
    if view.evidence.probe.is_none() && due && may_be_asked(view) {
        return waiting(Action::Probe, view.limits.tick);
    }
    if left.is_zero() {
        return overdue(view);
    }
    waiting(Action::Wait, next_look(view).min(left))
}

fn waiting(action: Action, recheck: Duration) -> Decision {
    decision(
        action,
        Reason::PendingAcceptance,
        "joined; a person has to accept",
        recheck,
    )
}

/// Nobody came in time. Asked once more just before: what was accepted since the last poll is not thrown away.
fn overdue(view: &View<'_>) -> Decision {
    let text = format!(
        "nobody accepted the join within {} s",
        view.limits.pending_timeout.as_secs()
    );
    if phase::is_protected(view.instance) {
        let text = format!("{text}; kept, because it is protected");
        return decision(Action::Wait, Reason::NotAccepted, text, next_look(view));
    }
    decision(Action::Delete, Reason::NotAccepted, text, view.limits.tick)
}

/// Only Hermes tells: it watches for the acceptance and says so. Any other kind says `pending: false` all the time.
/// Believed in the second reading, because it may be between waiting and bound.
fn gave_up(view: &View<'_>, status: &AgentStatus) -> bool {
    watches(view)
        && status.ready
        && !status.pending
        && status.conversation.is_none()
        && view.memory.unbound_for >= Some(UNBOUND_APART)
}

fn watches(view: &View<'_>) -> bool {
    let told = match &view.evidence.probe {
        Some(Probe::Answered { kind, .. }) => kind.as_deref(),
        _ => None,
    };
    let status = view.instance.status.as_ref();
    let recorded = status
        .and_then(|s| s.runtime.as_ref())
        .and_then(|r| r.kind.as_deref());
    told.or(recorded) == Some(HERMES)
}

/// What cannot be asked now waits for the next listing.
fn next_look(view: &View<'_>) -> Duration {
    if !may_be_asked(view) {
        return view.limits.tick;
    }
    let next = until_poll(view).max(Duration::from_millis(200));
    next.min(view.limits.tick)
}

/// When it is asked next. The first time of a process has a moment of its own for each agent, see [`stock::share_of`].
fn until_poll(view: &View<'_>) -> Duration {
    let memory = &view.memory;
    let least = match heartbeat::beat(view) {
        Some(Beat::WhileRunning) => LET_SLEEP,
        _ => Duration::ZERO,
    };
    let every = match memory.unbound_for {
        // It did not wait when it was last asked: the second reading.
        Some(_) if watches(view) => UNBOUND_APART,
        _ if memory.phase_for < POLLED_OFTEN_FOR => POLL,
        _ => POLL_LATER,
    }
    .max(least);
    match memory.probed {
        _ if memory.probe_asked => Duration::ZERO,
        Some(ago) if ago <= memory.phase_for => every.saturating_sub(ago),
        _ => stock::share_of(every, &view.instance.spec.id).saturating_sub(memory.phase_for),
    }
}

/// A sleeper too: the person may be about to accept, and asking wakes it.
fn may_be_asked(view: &View<'_>) -> bool {
    if let Some(may) = heartbeat::may_be_asked(view) {
        return may;
    }
    match &view.listed {
        Listed::Present(r) => matches!(r.liveness, Liveness::Running | Liveness::Sleeping),
        Listed::Unknown => {
            let status = view.instance.status.as_ref();
            let provider = status.and_then(|s| s.provider.as_ref());
            matches!(
                provider.and_then(|p| p.state.as_deref()),
                Some("Running" | phase::STATE_SLEEPING)
            )
        }
        Listed::Absent => false,
    }
}
