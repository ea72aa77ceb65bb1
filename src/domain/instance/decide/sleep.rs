//! An agent in stock that the provider put to sleep: woken once, and dead where that does not help.
//!
//! The wake is recorded before it is sent, and sent only by the process that recorded it: whoever comes after a crash
//! waits for what came of it. That it was woken stays recorded, so that one which falls asleep again is not kept awake.

use super::*;
use crate::domain::instance::phase::STATE_WAKING;

/// What to do about a sleeper; `None`: it does not sleep.
pub(super) fn asleep(view: &View<'_>) -> Option<Decision> {
    let provider = view.instance.status.as_ref()?.provider.as_ref()?;
    if provider.state.as_deref() == Some(STATE_WAKING) {
        return Some(waking(view));
    }
    let out_of_stock = |text: &str| {
        Some(decision(
            Action::Wait,
            Reason::Sleeping,
            text,
            view.limits.tick,
        ))
    };
    match &view.listed {
        Listed::Present(r) if r.liveness == Liveness::Sleeping => {}
        Listed::Unknown if view.phase() == Phase::Sleeping => {
            return out_of_stock("the provider put it to sleep: out of stock");
        }
        _ => return None,
    }
    if view.limits.may_sleep {
        return out_of_stock("the provider put it to sleep, as its template allows: out of stock");
    }
    if provider.woken_at.is_some() {
        return Some(judge(
            Judgement::Dead,
            Reason::Sleeping,
            "asleep again after it was woken once",
        ));
    }
    Some(decision(
        Action::Record(Change::Wake),
        Reason::Sleeping,
        "the provider put it to sleep: being woken, once",
        Duration::ZERO,
    ))
}

/// Woken, and not back in stock before it is listed as running and answers.
fn waking(view: &View<'_>) -> Decision {
    let running = matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Running);
    let probed_lately = view.memory.probed.is_some_and(|ago| ago < READY_POLL);
    let text = "woken: waiting for its answer";
    if let Some(unfit) = view.evidence.probe.as_ref().and_then(stock::unfit) {
        return unfit;
    }
    match &view.evidence.probe {
        Some(Probe::Answered { status, .. }) if running && status.ready => {
            return decision(
                Action::Record(Change::Woken),
                Reason::Idle,
                "ready, unbound and clean",
                Duration::ZERO,
            );
        }
        // A second request would be a second wake, unless it is seen to run.
        None if view.memory.permit || (running && !probed_lately) => {
            return decision(Action::Probe, Reason::Sleeping, text, READY_POLL);
        }
        _ => {}
    }
    if view.memory.step_known_for >= WAKE_LIMIT {
        return judge(
            Judgement::Dead,
            Reason::Sleeping,
            "asleep, and did not come up when it was woken",
        );
    }
    decision(Action::Wait, Reason::Sleeping, text, READY_POLL)
}
