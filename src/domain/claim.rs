//! The judgements of a claim: which candidates, whether a verified agent may be called, and how an instance is
//! settled after its one call. Pure.
//!
//! This is the safe minimum: an instance that was called and did not bind is replaced, whatever it says; one that
//! was not called, or that provably did nothing, goes back and is proven again before it is in stock.

use super::agent::{AgentStatus, ClaimOutcome, Dialect, Probe, Refusal};

/// How many further instances a claim may use after its first.
pub const FURTHER: usize = 2;

/// How many from the front a claim picks among: any of the oldest few, so that callers and replicas do not all fight
/// over one.
pub fn window(in_flight: usize) -> usize {
    (4 * in_flight).max(16)
}

/// Whether an agent may be called right after this answer. Err: why not, in words.
pub fn may_be_called(
    probe: &Probe,
    dialect: Dialect,
    allow_unknown_clean: bool,
    first_turn: bool,
) -> Result<(), String> {
    let status: &AgentStatus = match probe {
        Probe::Answered { status, .. } => status,
        Probe::Unreachable(text) | Probe::NotReady(text) | Probe::WrongRuntime(text) => {
            return Err(text.clone());
        }
        Probe::Unauthorized => return Err("the agent refuses its token".to_owned()),
    };
    if !status.ready {
        return Err("the agent is not ready".to_owned());
    }
    if status.conversation.is_some() {
        return Err("already bound to a conversation".to_owned());
    }
    if status.pending {
        return Err("a join that nobody asked for is pending".to_owned());
    }
    match status.clean {
        Some(true) => Ok(()),
        Some(false) => Err("the agent is not clean".to_owned()),
        // A gateway cannot tell; in its first turn no claim call was ever sent to it.
        None if allow_unknown_clean || (dialect == Dialect::Gateway && first_turn) => Ok(()),
        None => Err("the agent cannot tell whether it is clean".to_owned()),
    }
}

/// What becomes of an instance after its claim call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is the caller's: record and answer.
    Keep,
    /// Nothing was done, or another's conversation is in it: back (the turn rises), and the controller finds out.
    Back(String),
    /// It may have done anything: replaced.
    Replace(String),
}

/// How an instance is settled after its one claim call.
pub fn settle(outcome: &ClaimOutcome, dialect: Dialect) -> Settlement {
    match outcome {
        ClaimOutcome::Bound { .. } | ClaimOutcome::Pending => Settlement::Keep,
        // Never reset, never replaced at once: a live user may be in it. Proven anew it turns out Tainted.
        ClaimOutcome::Busy => Settlement::Back("already bound to a conversation".to_owned()),
        // A gateway that was called cannot be asked whether it is clean: it is replaced.
        ClaimOutcome::Refused(Refusal::Invalid(text)) if dialect == Dialect::Gateway => {
            Settlement::Replace(text.clone())
        }
        ClaimOutcome::Refused(refusal) => Settlement::Back(match refusal {
            Refusal::NotSent => "the agent cannot be reached".to_owned(),
            Refusal::Unauthorized => "the agent refuses its token".to_owned(),
            Refusal::WrongRuntime => "another program than expected answers".to_owned(),
            Refusal::NotReady => "the agent is not ready".to_owned(),
            Refusal::Invalid(text) => text.clone(),
        }),
        ClaimOutcome::Failed(text) | ClaimOutcome::Unknown(text) => {
            Settlement::Replace(text.clone())
        }
    }
}

/// Whether a claim may go on to another instance after this outcome.
///
/// A create may: at worst a conversation nobody was told of ends with its agent. A join may not before the first
/// agent is gone, or two agents join; and a request that an agent refuses as such is refused by every agent.
pub fn may_go_on(outcome: &ClaimOutcome, join: bool) -> bool {
    match outcome {
        ClaimOutcome::Bound { .. }
        | ClaimOutcome::Pending
        | ClaimOutcome::Refused(Refusal::Invalid(_)) => false,
        ClaimOutcome::Refused(_) | ClaimOutcome::Busy => true,
        ClaimOutcome::Failed(_) | ClaimOutcome::Unknown(_) => !join,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: AgentStatus) -> Probe {
        Probe::Answered {
            dialect: Dialect::PoolServer,
            kind: None,
            version: None,
            status,
        }
    }

    #[test]
    fn only_a_ready_unbound_clean_agent_is_called() {
        let good = AgentStatus {
            ready: true,
            clean: Some(true),
            ..AgentStatus::default()
        };
        let call = |status: &AgentStatus| {
            may_be_called(&answered(status.clone()), Dialect::PoolServer, false, true).is_ok()
        };
        assert!(call(&good));
        for bad in [
            AgentStatus {
                ready: false,
                ..good.clone()
            },
            AgentStatus {
                conversation: Some("c".into()),
                ..good.clone()
            },
            AgentStatus {
                pending: true,
                ..good.clone()
            },
            AgentStatus {
                clean: Some(false),
                ..good.clone()
            },
            AgentStatus {
                clean: None,
                ..good.clone()
            },
        ] {
            assert!(!call(&bad), "{bad:?}");
        }
        for bad in [
            Probe::Unauthorized,
            Probe::Unreachable("x".into()),
            Probe::NotReady("x".into()),
            Probe::WrongRuntime("x".into()),
        ] {
            assert!(may_be_called(&bad, Dialect::PoolServer, true, true).is_err());
        }
    }

    #[test]
    fn a_gateway_is_called_in_its_first_turn_only() {
        let status = AgentStatus {
            ready: true,
            ..AgentStatus::default()
        };
        assert!(may_be_called(&answered(status.clone()), Dialect::Gateway, false, true).is_ok());
        assert!(may_be_called(&answered(status.clone()), Dialect::Gateway, false, false).is_err());
        assert!(may_be_called(&answered(status), Dialect::Gateway, true, false).is_ok());
    }

    #[test]
    fn what_may_have_bound_is_replaced_and_what_did_nothing_goes_back() {
        for dialect in [Dialect::PoolServer, Dialect::Gateway] {
            for unsure in [
                ClaimOutcome::Failed("x".into()),
                ClaimOutcome::Unknown("x".into()),
            ] {
                assert!(matches!(settle(&unsure, dialect), Settlement::Replace(_)));
                assert!(may_go_on(&unsure, false) && !may_go_on(&unsure, true));
            }
            for nothing in [
                Refusal::NotSent,
                Refusal::Unauthorized,
                Refusal::WrongRuntime,
                Refusal::NotReady,
            ] {
                let outcome = ClaimOutcome::Refused(nothing);
                assert!(matches!(settle(&outcome, dialect), Settlement::Back(_)));
                assert!(may_go_on(&outcome, true));
            }
            assert!(matches!(
                settle(&ClaimOutcome::Busy, dialect),
                Settlement::Back(_)
            ));
        }
        let invalid = ClaimOutcome::Refused(Refusal::Invalid("x".into()));
        assert!(matches!(
            settle(&invalid, Dialect::Gateway),
            Settlement::Replace(_)
        ));
        assert!(matches!(
            settle(&invalid, Dialect::PoolServer),
            Settlement::Back(_)
        ));
        assert!(!may_go_on(&invalid, false));
    }

    /// Whatever came of the one call: the user has it, or it is provably untouched, or it is replaced.
    #[test]
    fn an_agent_that_may_have_worked_never_goes_back_to_stock() {
        let text = || "x".to_owned();
        let bound = ClaimOutcome::Bound {
            conversation_id: text(),
            invite_url: None,
            invite_slug: None,
            joined: false,
        };
        for dialect in [Dialect::PoolServer, Dialect::Gateway] {
            assert_eq!(settle(&bound, dialect), Settlement::Keep);
            assert_eq!(settle(&ClaimOutcome::Pending, dialect), Settlement::Keep);
            for join in [false, true] {
                assert!(!may_go_on(&bound, join) && !may_go_on(&ClaimOutcome::Pending, join));
                for worked in [ClaimOutcome::Failed(text()), ClaimOutcome::Unknown(text())] {
                    let settled = settle(&worked, dialect);
                    assert!(!matches!(settled, Settlement::Back(_) | Settlement::Keep));
                    assert!(!join || !may_go_on(&worked, join), "two agents would join");
                }
            }
        }
    }

    #[test]
    fn the_window_grows_with_the_claims_in_flight() {
        assert_eq!((window(0), window(4), window(64)), (16, 16, 256));
    }
}
