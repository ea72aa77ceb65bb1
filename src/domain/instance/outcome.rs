//! What is recorded of a claim in `status.claim.outcome`. Bound and Pending are the caller's; the others say why the
//! claim did not get the agent, and are settled by the controller.

use crate::api::agent_instance::{AgentInstance, AgentInstanceStatus, Claim};

/// The words that this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Bound to a conversation: handed out.
    Bound,
    /// The join waits for a person: handed out.
    Pending,
    /// Bound by something else. Never reset: a live user may be in it.
    Busy,
    /// It refuses its token.
    BadToken,
    /// Another program than expected answers.
    WrongRuntime,
    /// It was not clean right before the call.
    NotClean,
    /// The call failed, the agent has finished, and the pool wants such agents reset.
    Failed,
    /// It was reset and said that it is clean; it is watched before it goes back, because a late attempt may still bind.
    Settling,
}

impl Outcome {
    /// Every word.
    pub const ALL: [Outcome; 8] = [
        Outcome::Bound,
        Outcome::Pending,
        Outcome::Busy,
        Outcome::BadToken,
        Outcome::WrongRuntime,
        Outcome::NotClean,
        Outcome::Failed,
        Outcome::Settling,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "Bound",
            Self::Pending => "Pending",
            Self::Busy => "Busy",
            Self::BadToken => "BadToken",
            Self::WrongRuntime => "WrongRuntime",
            Self::NotClean => "NotClean",
            Self::Failed => "Failed",
            Self::Settling => "Settling",
        }
    }

    /// Whether a claim was answered with the agent.
    pub fn is_handed_out(self) -> bool {
        matches!(self, Self::Bound | Self::Pending)
    }
}

/// What is recorded of the instance's present claim. `None`: nothing yet. A word of a later version counts as Bound: it
/// may be somebody's.
pub fn of(instance: &AgentInstance) -> Option<Outcome> {
    recorded(instance.spec.claim.as_ref()?, instance.status.as_ref())
}

/// What a status says of a claim.
pub fn recorded(claim: &Claim, status: Option<&AgentInstanceStatus>) -> Option<Outcome> {
    let recorded = status?.claim.as_ref()?;
    (recorded.id == claim.id).then(|| parse(&recorded.outcome))
}

/// Reads a word.
pub fn parse(word: &str) -> Outcome {
    let known = Outcome::ALL.into_iter().find(|o| o.as_str() == word);
    known.unwrap_or(Outcome::Bound)
}
