//! Agents whose machines sleep when nobody calls them and are billed while they are awake: who is asked how it fares,
//! and what follows when one that is kept awake falls silent.
//!
//! Three heartbeats without an answer, and it is woken and started anew; after three restarts without an answer one in
//! stock is replaced, one in use is kept for a person. Nothing follows from silence while the provider's own listing
//! does not show the machine: then it is the way to it that is broken.

use super::*;

/// So many heartbeats in a row without an answer are a failure.
pub const SILENT_BEATS: u32 = 3;
/// So often one is restarted before it is given up.
pub const RESTARTS: u32 = 3;
/// How rarely one is asked that may fall asleep: a machine sleeps 30 to 80 s after the last call.
pub const LET_SLEEP: Duration = Duration::from_secs(90);
/// How often one that should be awake and sleeps is told to stay awake.
const HOLD_AGAIN: Duration = Duration::from_secs(60);

/// How an agent is asked; `None`: as its provider's listing says.
pub(super) fn beat(view: &View<'_>) -> Option<Beat> {
    let heartbeat = view.limits.heartbeat?;
    Some(match view.instance.spec.claim {
        Some(_) => heartbeat.in_use,
        None => heartbeat.idle,
    })
}

/// Whether it may be asked now: whoever is asked is awake, and billed.
pub(super) fn may_be_asked(view: &View<'_>) -> Option<bool> {
    let running = matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Running);
    Some(match beat(view)? {
        Beat::Always => view.listed != Listed::Absent,
        Beat::WhileRunning => running,
        Beat::Never => false,
    })
}

/// How often it is asked.
pub(super) fn every(view: &View<'_>) -> Duration {
    match (view.limits.heartbeat, beat(view)) {
        (Some(h), Some(Beat::Always)) => h.every,
        (Some(h), Some(_)) => h.every.max(LET_SLEEP),
        _ => view.limits.tick,
    }
}

/// What follows from silence; `None`: nothing yet.
pub(super) fn silent(view: &View<'_>) -> Option<Decision> {
    let memory = &view.memory;
    let listed = matches!(view.listed, Listed::Present(_));
    if beat(view) != Some(Beat::Always) || memory.silent_beats < SILENT_BEATS || !listed {
        return None;
    }
    if memory.restarts < RESTARTS {
        let wait = every(view) * (1 << memory.restarts);
        let rested = memory.restarted.is_none_or(|ago| ago >= wait);
        let text = format!(
            "{} heartbeats without an answer: woken and started anew, for the {}. time of {RESTARTS}",
            memory.silent_beats,
            memory.restarts + 1
        );
        return rested.then(|| decision(Action::Restart, Reason::Unreachable, text, every(view)));
    }
    let text = format!("does not answer, though it was started anew {RESTARTS} times");
    if view.instance.spec.claim.is_some() {
        return Some(judge(Judgement::Crashed, Reason::Unreachable, text));
    }
    if phase::is_protected(view.instance) {
        return Some(judge(Judgement::Dead, Reason::Unreachable, text));
    }
    Some(decision(
        Action::Delete,
        Reason::Unreachable,
        text,
        view.limits.tick,
    ))
}

/// In use and to be awake, and the listing shows it asleep since long enough: it is deaf, and what should hold it inside
/// does not.
pub(super) fn deaf(view: &View<'_>) -> Option<Decision> {
    let asleep = matches!(&view.listed, Listed::Present(r) if r.liveness.is_paused());
    // A listing may be a tick old.
    let believed = view.memory.phase_for >= view.limits.tick;
    let told = view.memory.held.is_some_and(|ago| ago < HOLD_AGAIN);
    let deaf = beat(view) == Some(Beat::Always) && asleep && believed && !told;
    let text = "in use, and asleep: told to stay awake";
    deaf.then(|| decision(Action::Hold, Reason::Claimed, text, view.limits.tick))
}
