//! What to do next about one instance. Pure, total: bad input is a decision too.
//!
//! A decision asks for one thing: a read that is missing (look, probe, observe), one effect, or a record. The shell
//! does it and asks again with the new evidence; after a record it asks again with the object as the API server
//! returned it. So every irreversible action is preceded by a decision on what is recorded.

mod claiming;
mod expiry;
mod heartbeat;
mod pending;
mod provisioning;
mod recycling;
mod removal;
mod restored;
mod sleep;
mod stock;
mod verify;

use std::time::Duration;

use super::outcome;
use super::phase::{self, Phase};
use super::status::{is_adopting, is_recycling};
use super::view::{Beat, Inside, Listed, View};
use crate::api::ANNOTATION_ABANDON;
use crate::api::agent_instance::{
    AgentInstance, OperationStatus, ReleaseMode, StepStatus, Verdict,
};
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, HERMES, Probe};
use crate::domain::backoff;
use crate::domain::plan::{Class, Facts, Outcome, Repeat, Seen, Step, StepSpec, Trouble};
use crate::domain::resource::{Liveness, Presence, Resource};

pub use claiming::{ASK_AFTER_DEADLINE, QUARANTINE, QUARANTINE_GRACE, QUARANTINE_POLL};
use claiming::{claiming, rejected};
pub use expiry::SEEN_BEFORE_EXPIRY;
use expiry::expired;
pub use heartbeat::{LET_SLEEP, RESTARTS, SILENT_BEATS};
pub use pending::GAVE_UP;
use pending::pending;
pub use provisioning::{current, progress_poll};
use provisioning::{done, provisioning, troubled};
use recycling::{not_restorable, recycling};
use removal::removal;
pub use restored::is_adopted;
use restored::status_lost;
use sleep::asleep;
pub use stock::lost_its_volume;
use stock::{claimed, crashed, idle};
use verify::{dead_at_the_provider, missing, proven, verify};

/// A failed creation waits no longer than this for its pool to count it: the pool's list may have no place for it.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);
/// How soon it is looked whether it is counted.
const COUNTED_LOOK: Duration = Duration::from_millis(200);
/// Two looks that are to prove something are at least this far apart.
pub const TWICE_APART: Duration = Duration::from_secs(5);
/// Two readings of a claimed agent without its conversation are at least this far apart.
pub const UNBOUND_APART: Duration = Duration::from_secs(10);
/// A claim younger than this is not written into `status.phase`: most are over by then.
pub const CLAIMING_SHOWN_AFTER: Duration = Duration::from_secs(1);
/// Nothing is decided again sooner than this, nor later than `LATEST`, whatever limits and answers say.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(3600);
/// How long a woken agent has to answer and to be listed as running: 30 s, and the listing's age.
pub const WAKE_LIMIT: Duration = Duration::from_secs(33);
/// How often an agent that should become ready is probed.
const READY_POLL: Duration = Duration::from_secs(1);
/// The same at a provider that bills for being awake: nobody waits for it within the second.
const READY_POLL_BILLED: Duration = Duration::from_secs(3);

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing now.
    Wait,
    /// Write this change of the status (with the intent of the next step, where one follows).
    Record(Change),
    /// Look whether the present step has happened.
    Look(usize),
    /// Send the present step, once.
    Perform(usize),
    /// Probe the agent.
    Probe,
    /// Have the provider look inside the machine for what is left of a user.
    LookInside,
    /// Have the provider wake the machine and start the agent in it anew.
    Restart,
    /// Have the provider keep the machine awake: its agent has to listen.
    Hold,
    /// Read the resource directly.
    Observe,
    /// Ask the provider to remove the resource.
    Destroy,
    /// Reset the agent: of a failed claim, which nobody was given it for.
    Reset,
    /// Clear the claim and raise the turn: the agent is proven anew.
    PutBack,
    /// Delete the object, if it is still as it was judged.
    Delete,
    /// Let the object go.
    RemoveFinalizer,
}

/// A change of what is recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The creation begins: the first step is intended.
    Begin,
    /// Its restoration for the next user begins: the first step is intended, and its token is a new one.
    Recycle,
    /// What was observed is lost; these ids are found again.
    Found(Facts),
    /// The present step is done and made this; the next one is intended, or the operation is over.
    Done(Facts),
    /// The present step was accepted and is under way.
    Running(Facts),
    /// The present step is intended once more.
    Again,
    /// The agent is proven ready and clean for the present turn.
    Proven,
    /// The agent sleeps and is about to be woken.
    Wake,
    /// The woken agent answered.
    Woken,
    /// A judgement that stays.
    Judge(Judgement),
    /// A crashed agent runs again and shows its conversation: it is in use as before.
    Revive,
    /// An interrupted join has happened, or one that waited was accepted: the agent is in use in this conversation.
    Joined(String),
    /// A failed claim's agent was reset and is clean: it is watched.
    Settling,
}

/// The judgements that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// It was in use and died.
    Crashed,
    /// It is bound or dirty without our doing.
    Tainted,
    /// It was never used and cannot be any more.
    Dead,
}

impl Judgement {
    /// The word in `status.verdict.state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crashed => "Crashed",
            Self::Tainted => "Tainted",
            Self::Dead => "Dead",
        }
    }
}

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Why: the Ready condition's reason, the event's, the metric's label.
    pub reason: Reason,
    /// In words, for the condition.
    pub message: String,
    /// When to decide again, at the latest.
    pub recheck: Duration,
}

fn decision(
    action: Action,
    reason: Reason,
    message: impl Into<String>,
    recheck: Duration,
) -> Decision {
    Decision {
        action,
        reason,
        message: message.into(),
        recheck,
    }
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    let decision = judged_by_situation(view);
    let recheck = match decision.action {
        Action::Wait => decision.recheck.clamp(SOONEST, LATEST),
        _ => decision.recheck.min(LATEST),
    };
    Decision {
        recheck,
        ..decision
    }
}

fn judged_by_situation(view: &View<'_>) -> Decision {
    let instance = view.instance;
    if instance.metadata.deletion_timestamp.is_some() {
        return removal(view);
    }
    // Before any verdict: a crashed agent is kept for a person, and this is that person's word.
    if instance
        .spec
        .release
        .as_ref()
        .is_some_and(|r| r.mode == ReleaseMode::Destroy)
    {
        return decision(
            Action::Delete,
            Reason::Terminating,
            "released by its user",
            view.limits.tick,
        );
    }
    if let Some(verdict) = instance.status.as_ref().and_then(|s| s.verdict.as_ref()) {
        if instance.spec.release.is_some() {
            return not_restorable(view, &verdict.message);
        }
        return judged(view, &verdict.state, &verdict.reason, &verdict.message);
    }
    if let Some(rejected) = outcome::of(instance).and_then(|o| rejected(view, o)) {
        return rejected;
    }
    match view.phase() {
        Phase::Claiming => claiming(view),
        Phase::Recycling => recycling(view),
        Phase::Claimed | Phase::PendingAcceptance | Phase::Sleeping
            if instance.spec.claim.is_some() =>
        {
            claimed(view)
        }
        Phase::Idle | Phase::Sleeping => idle(view),
        _ => provisioning(view),
    }
}

fn judged(view: &View<'_>, state: &str, reason: &str, message: &str) -> Decision {
    let why = Reason::parse(reason).unwrap_or(Reason::InternalError);
    if state == Judgement::Crashed.as_str() {
        return crashed(view, why, message);
    }
    // Only what is known to be nobody's goes; a word of a later version is not.
    let goes = state == Judgement::Tainted.as_str() || state == Judgement::Dead.as_str();
    if !goes || phase::is_protected(view.instance) {
        return decision(Action::Wait, why, message, view.limits.tick);
    }
    // While it waited for a person, nobody was in a conversation with it.
    if phase::is_handed_out(view.instance) && !phase::waits_for_acceptance(view.instance) {
        let message = format!(
            "{message}; kept, because a claim was answered with it: release it or delete it"
        );
        return decision(Action::Wait, why, message, view.limits.tick);
    }
    // A failed creation has nothing for a person to look at that the event does not tell.
    let keep = if why == Reason::CreateFailed {
        Duration::ZERO
    } else {
        view.limits.cleanup
    };
    // A provider may remove it at once: gone between two looks of its pool, no breaker would stop the next.
    let is_counted = view.limits.counted || failed_creation(view.instance).is_none();
    let (keep, recheck) = if is_counted {
        (keep, view.limits.tick)
    } else {
        (keep.max(COUNTED_WITHIN), COUNTED_LOOK)
    };
    let judged_for = view.memory.step_known_for;
    if judged_for >= keep {
        decision(Action::Delete, why, message, view.limits.tick)
    } else {
        let recheck = (keep - judged_for).min(recheck);
        decision(Action::Wait, why, message, recheck)
    }
}

/// Its verdict, if it is a failed creation: what was never in stock is one, whatever ended it. An image that starts and
/// then crashes, or comes up bound, would otherwise be created without end. None is one that somebody has (its status
/// was lost, or the sweep adopted it), or that was found with what may be somebody's conversation.
pub fn failed_creation(instance: &AgentInstance) -> Option<&Verdict> {
    let status = instance.status.as_ref()?;
    let never_proven = status.turn.is_none() && instance.spec.claim.is_none();
    let verdict = status.verdict.as_ref().filter(|_| never_proven)?;
    (verdict.state != Judgement::Crashed.as_str()).then_some(verdict)
}

fn judge(judgement: Judgement, reason: Reason, message: impl Into<String>) -> Decision {
    decision(
        Action::Record(Change::Judge(judgement)),
        reason,
        message,
        Duration::ZERO,
    )
}

#[cfg(test)]
mod tests;
