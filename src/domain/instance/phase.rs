//! The phase of an instance: the only place that knows. One pure function of spec, status and deletion.

use std::fmt;

use super::outcome::{self, Outcome};
use crate::api::agent_instance::{
    AgentInstance, AgentInstanceSpec, AgentInstanceStatus, ReleaseMode,
};

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Being created or built, or not yet proven ready and clean for its turn.
    Provisioning,
    /// Ready, unbound and clean: in stock.
    Idle,
    /// Reserved by a claim in flight.
    Claiming,
    /// Bound to a conversation.
    Claimed,
    /// Joined, waiting for a person.
    PendingAcceptance,
    /// Being restored for the next user.
    Recycling,
    /// Put to sleep by the provider.
    Sleeping,
    /// Died in use; kept for a person.
    Crashed,
    /// Bound or dirty without our doing; never handed out.
    Tainted,
    /// Never used, and unusable.
    Dead,
    /// Being deleted.
    Terminating,
}

impl Phase {
    /// Every phase, in the order of listings.
    pub const ALL: [Phase; 11] = [
        Phase::Provisioning,
        Phase::Idle,
        Phase::Claiming,
        Phase::Claimed,
        Phase::PendingAcceptance,
        Phase::Recycling,
        Phase::Sleeping,
        Phase::Crashed,
        Phase::Tainted,
        Phase::Dead,
        Phase::Terminating,
    ];

    /// The word in `status.phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "Provisioning",
            Self::Idle => "Idle",
            Self::Claiming => "Claiming",
            Self::Claimed => "Claimed",
            Self::PendingAcceptance => "PendingAcceptance",
            Self::Recycling => "Recycling",
            Self::Sleeping => "Sleeping",
            Self::Crashed => "Crashed",
            Self::Tainted => "Tainted",
            Self::Dead => "Dead",
            Self::Terminating => "Terminating",
        }
    }

    /// The word the HTTP API uses for it (the predecessor's).
    pub fn wire(self) -> &'static str {
        match self {
            Self::Provisioning => "starting",
            Self::Idle => "idle",
            Self::Claiming => "claiming",
            Self::Claimed => "claimed",
            Self::PendingAcceptance => "pending_acceptance",
            Self::Recycling => "recycling",
            Self::Sleeping => "sleeping",
            Self::Crashed => "crashed",
            Self::Tainted => "tainted",
            Self::Dead => "dead",
            Self::Terminating => "terminating",
        }
    }

    /// Whether it counts towards `maxTotal`.
    pub fn occupies(self) -> bool {
        matches!(
            self,
            Self::Provisioning
                | Self::Idle
                | Self::Claiming
                | Self::Claimed
                | Self::Recycling
                | Self::PendingAcceptance
                | Self::Sleeping
        )
    }

    /// Whether somebody's conversation may live in it: never deleted by a decision of ours.
    pub fn is_untouchable(self) -> bool {
        matches!(
            self,
            Self::Claiming
                | Self::Claimed
                | Self::PendingAcceptance
                | Self::Recycling
                | Self::Crashed
        )
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Provider state word of an agent that sleeps.
pub const STATE_SLEEPING: &str = "Sleeping";
/// Provider state word of an agent in stock that we woke and that has not answered since.
pub const STATE_WAKING: &str = "Waking";

/// The phase of an instance.
pub fn phase(
    spec: &AgentInstanceSpec,
    status: Option<&AgentInstanceStatus>,
    deleted: bool,
) -> Phase {
    if deleted {
        return Phase::Terminating;
    }
    match status
        .and_then(|s| s.verdict.as_ref())
        .map(|v| v.state.as_str())
    {
        Some("Crashed") => return Phase::Crashed,
        Some("Tainted") => return Phase::Tainted,
        Some("Dead") => return Phase::Dead,
        _ => {}
    }
    match spec.release.as_ref().map(|r| r.mode) {
        Some(ReleaseMode::Destroy) => return Phase::Terminating,
        Some(ReleaseMode::Recycle) => return Phase::Recycling,
        None => {}
    }
    let state = status
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.state.as_deref());
    let asleep = matches!(state, Some(STATE_SLEEPING | STATE_WAKING));
    let proven = status.and_then(|s| s.turn) == Some(spec.turn);
    match &spec.claim {
        // Status lost (restored from a backup): somebody's agent until the opposite is known.
        Some(_) if status.and_then(|s| s.turn).is_none() => Phase::Claimed,
        Some(claim) => match outcome::recorded(claim, status) {
            Some(Outcome::Pending) => Phase::PendingAcceptance,
            Some(Outcome::Bound) if asleep => Phase::Sleeping,
            Some(Outcome::Bound) => Phase::Claimed,
            // Expected back in stock.
            Some(Outcome::Failed | Outcome::Settling) => Phase::Provisioning,
            // Judged at the next look.
            Some(Outcome::Busy | Outcome::BadToken | Outcome::WrongRuntime | Outcome::NotClean)
            | None => Phase::Claiming,
        },
        None if asleep && proven => Phase::Sleeping,
        None if proven => Phase::Idle,
        None => Phase::Provisioning,
    }
}

/// The phase of an object.
pub fn phase_of(instance: &AgentInstance) -> Phase {
    phase(
        &instance.spec,
        instance.status.as_ref(),
        instance.metadata.deletion_timestamp.is_some(),
    )
}

/// Whether the instance carries the label that keeps it from being claimed, drained or killed.
pub fn is_protected(instance: &AgentInstance) -> bool {
    instance
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(crate::api::LABEL_PROTECTED))
        .is_some_and(|v| v == "true")
}

/// Whether a claim was answered with it: somebody may be in a conversation with it, whatever it says now.
pub fn is_handed_out(instance: &AgentInstance) -> bool {
    outcome::of(instance).is_some_and(Outcome::is_handed_out)
}

/// Whether its claim is a join that a person still has to accept: nobody is in a conversation with it.
pub fn waits_for_acceptance(instance: &AgentInstance) -> bool {
    outcome::of(instance) == Some(Outcome::Pending)
}

/// Whether a claim may take it.
pub fn is_claimable(instance: &AgentInstance) -> bool {
    phase_of(instance) == Phase::Idle && !is_protected(instance)
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
