//! How one claim settles one instance: evidence in, next step out. Pure.
//!
//! The rule is section 7 of the agents' contract. A claim call is sent to an instance at most once; every retry is
//! "settle this instance, then claim another one". What the agent says after a lost or failed call is evidence too: a
//! join that did happen is kept, because its link is known, while a create whose answer is lost has lost its link.

use super::agent::{AgentStatus, ClaimOutcome, Dialect, Probe, Refusal};
use super::instance::outcome::Outcome;

/// How often an agent that does not answer is asked what came of a join.
pub const LOOKS: usize = 3;

/// What is known of the instance in this claim.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The status right before the call.
    pub check: Option<Probe>,
    /// What came of the one call.
    pub outcome: Option<ClaimOutcome>,
    /// What the agent said after it, in order.
    pub looks: Vec<Probe>,
}

/// What a claim's rules depend on beside the evidence.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// A conversation is joined, not created.
    pub join: bool,
    /// The agent's dialect.
    pub dialect: Dialect,
    /// No claim call was ever sent to the instance before this claim.
    pub first_turn: bool,
    /// Its provider looks inside before it is in stock, and after it was put back: what an agent cannot tell of itself is
    /// known from there.
    pub looked_inside: bool,
    /// `runtime.allowUnknownClean`.
    pub allow_unknown_clean: bool,
    /// `runtime.failedClaim: Reset`.
    pub may_reset: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the agent for its status: the check right before the call.
    Check,
    /// Send the one claim call.
    Call,
    /// Ask the agent what came of it.
    Look,
    /// Nothing more to find out.
    Settle(Settlement),
}

/// What becomes of the instance, and of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is the caller's: record, then answer.
    Keep(Kept),
    /// It was not touched: the claim is cleared and the turn raised, so that it is proven anew. The claim goes on.
    PutBack(String),
    /// The same, but the request itself is at fault: every agent would refuse it.
    Refuse {
        /// The instance may go back; else it is replaced.
        intact: bool,
        /// What the agent said.
        text: String,
    },
    /// What came of it is recorded, and the controller settles it: taints it or resets it. The claim goes on.
    Mark(Outcome, String),
    /// It may have done anything: deleted. The claim goes on, at once or when the instance is gone.
    Replace {
        /// Only when it is gone: until then it could still join, and two agents would.
        when_gone: bool,
        /// What happened.
        text: String,
    },
}

/// An agent that the caller gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The conversation; `None`: the join waits for a person.
    pub conversation_id: Option<String>,
    /// Its invite, where the agent told one.
    pub invite_url: Option<String>,
    /// The invite's slug, where the agent told it.
    pub invite_slug: Option<String>,
    /// It is a member of a conversation that existed.
    pub joined: bool,
}

/// The next step.
pub fn next(evidence: &Evidence, terms: &Terms) -> Step {
    let Some(check) = &evidence.check else {
        return Step::Check;
    };
    let status = match checked(check, terms) {
        Ok(status) => status,
        Err(settlement) => return Step::Settle(settlement),
    };
    let Some(outcome) = &evidence.outcome else {
        return Step::Call;
    };
    match outcome {
        ClaimOutcome::Failed(text) | ClaimOutcome::Unknown(text) if terms.join => {
            joined(evidence, matches!(outcome, ClaimOutcome::Failed(_)), text)
        }
        _ => Step::Settle(called(outcome, status, terms)),
    }
}

/// Whether an agent that says this may be called.
fn checked<'a>(probe: &'a Probe, terms: &Terms) -> Result<&'a AgentStatus, Settlement> {
    let marked = |outcome, text: &str| Err(Settlement::Mark(outcome, text.to_owned()));
    let status = match probe {
        Probe::Answered { status, .. } => status,
        Probe::Unreachable(text) | Probe::NotReady(text) => {
            return Err(Settlement::PutBack(text.clone()));
        }
        Probe::WrongRuntime(text) => return marked(Outcome::WrongRuntime, text),
        Probe::Unauthorized => return marked(Outcome::BadToken, "the agent refuses its token"),
    };
    if status.conversation.is_some() {
        return marked(Outcome::Busy, "already bound to a conversation");
    }
    if status.pending {
        return marked(Outcome::NotClean, "a join that nobody asked for is pending");
    }
    if !status.ready {
        return Err(Settlement::PutBack("the agent is not ready".to_owned()));
    }
    // A gateway cannot tell; in its first turn no claim call was ever sent to it.
    let as_new = terms.first_turn || terms.looked_inside;
    let trusted = terms.allow_unknown_clean || (terms.dialect == Dialect::Gateway && as_new);
    match status.clean {
        Some(true) => Ok(status),
        None if trusted => Ok(status),
        Some(false) => marked(Outcome::NotClean, "the agent is not clean"),
        None => marked(
            Outcome::NotClean,
            "the agent cannot tell whether it is clean",
        ),
    }
}

/// After a call that leaves nothing to find out by asking.
fn called(outcome: &ClaimOutcome, before: &AgentStatus, terms: &Terms) -> Settlement {
    match outcome {
        ClaimOutcome::Bound {
            conversation_id,
            invite_url,
            invite_slug,
            joined,
        } => Settlement::Keep(Kept {
            conversation_id: Some(conversation_id.clone()),
            invite_url: invite_url.clone(),
            invite_slug: invite_slug.clone(),
            joined: *joined,
        }),
        ClaimOutcome::Pending => Settlement::Keep(Kept::default()),
        // Never reset: a live user may be in it.
        ClaimOutcome::Busy => {
            Settlement::Mark(Outcome::Busy, "already bound to a conversation".to_owned())
        }
        ClaimOutcome::Refused(refusal) => refused(refusal, terms),
        // The wrapper has finished, and what it left can be asked and removed: only where the pool wants that, and
        // only if the agent said that it was clean before.
        ClaimOutcome::Failed(text) if terms.may_reset && before.clean == Some(true) => {
            Settlement::Mark(Outcome::Failed, text.clone())
        }
        ClaimOutcome::Failed(text) | ClaimOutcome::Unknown(text) => Settlement::Replace {
            when_gone: false,
            text: text.clone(),
        },
    }
}

fn refused(refusal: &Refusal, terms: &Terms) -> Settlement {
    let text = |t: &str| t.to_owned();
    match refusal {
        Refusal::NotSent => Settlement::PutBack(text("the agent cannot be reached")),
        Refusal::NotReady => Settlement::PutBack(text("the agent is not ready")),
        Refusal::Unauthorized => {
            Settlement::Mark(Outcome::BadToken, text("the agent refuses its token"))
        }
        Refusal::WrongRuntime => Settlement::Mark(
            Outcome::WrongRuntime,
            text("another program than expected answers"),
        ),
        // A gateway that was called cannot be asked whether it is clean: only its provider can tell.
        Refusal::Invalid(said) => Settlement::Refuse {
            intact: terms.dialect == Dialect::PoolServer || terms.looked_inside,
            text: said.clone(),
        },
    }
}

/// After a join that failed or whose answer is lost: the agent tells. It was unbound right before our call, so a
/// conversation that it shows now is the one it was asked to join.
fn joined(evidence: &Evidence, finished: bool, text: &str) -> Step {
    let replace = || {
        Step::Settle(Settlement::Replace {
            when_gone: true,
            text: text.to_owned(),
        })
    };
    match evidence.looks.last() {
        Some(Probe::Answered { status, .. }) => match status.recordable_conversation() {
            Some(conversation) => Step::Settle(Settlement::Keep(Kept {
                conversation_id: Some(conversation.clone()),
                joined: true,
                ..Kept::default()
            })),
            None if status.pending && finished => Step::Settle(Settlement::Keep(Kept::default())),
            None => replace(),
        },
        _ if evidence.looks.len() < LOOKS => Step::Look,
        _ => replace(),
    }
}

#[cfg(test)]
#[path = "settlement_tests.rs"]
mod tests;
