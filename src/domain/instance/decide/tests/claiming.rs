//! A claim in flight, interrupted, and ended without a user.

use std::time::Duration;

use super::super::super::fixture::*;
use super::super::super::outcome::Outcome;
use super::super::{
    ASK_AFTER_DEADLINE, Action, Change, Judgement, QUARANTINE, QUARANTINE_GRACE, QUARANTINE_POLL,
};
use super::{assert_acts, assert_judged};
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, Dialect, Probe};
use crate::domain::resource::Liveness;

/// The claim's deadline, and a little more.
const LIMIT: Duration = Duration::from_secs(155);

fn aged(case: Case, age: Duration) -> Case {
    case.memory(|m| m.claim_known_for = age)
}

fn says(clean: Option<bool>, conversation: Option<&str>) -> Probe {
    Probe::Answered {
        dialect: Dialect::PoolServer,
        kind: None,
        version: None,
        status: AgentStatus {
            ready: true,
            conversation: conversation.map(str::to_owned),
            clean,
            ..AgentStatus::default()
        },
    }
}

fn clean() -> Probe {
    says(Some(true), None)
}

fn unclean() -> [Probe; 4] {
    let mut waiting = says(Some(true), None);
    if let Probe::Answered { status, .. } = &mut waiting {
        status.pending = true;
    }
    [
        says(Some(false), None),
        says(None, None),
        says(Some(true), Some("c9")),
        waiting,
    ]
}

fn silent() -> Probe {
    Probe::Unreachable("no".into())
}

#[test]
fn an_interrupted_create_is_replaced_without_asking() {
    let early = aged(claiming(), LIMIT - Duration::from_millis(1));
    assert_acts(early, Action::Wait);
    let decision = assert_acts(aged(claiming(), LIMIT), Action::Delete);
    assert_eq!(decision.reason, Reason::ClaimInterrupted);
    assert_acts(
        aged(claiming(), LIMIT).probe(says(None, Some("c9"))),
        Action::Delete,
    );
    assert_acts(aged(claiming().protected(), LIMIT), Action::Wait);
}

#[test]
fn an_interrupted_join_is_kept_if_the_agent_shows_it() {
    let over = || aged(joining(), LIMIT);
    assert_acts(
        aged(joining(), LIMIT - Duration::from_millis(1)),
        Action::Wait,
    );
    assert_acts(over(), Action::Probe);
    let bound = over().probe(says(Some(false), Some("c9")));
    assert_acts(bound, Action::Record(Change::Joined("c9".into())));
    // One that cannot be recorded would be tried for ever.
    let endless = over().probe(says(Some(false), Some(&"c".repeat(129))));
    assert_acts(endless, Action::Delete);
    // It may still be at it: a conversation that nobody wants is worse than another agent.
    assert_acts(over().probe(says(Some(false), None)), Action::Delete);
    assert_acts(over().probe(silent()), Action::Wait);
    let late = || aged(joining(), LIMIT + ASK_AFTER_DEADLINE);
    assert_acts(late().probe(silent()), Action::Delete);
    assert_acts(late(), Action::Delete);
    assert_acts(late().protected(), Action::Wait);
    // What does not run is not woken for it.
    assert_acts(over().listed(Liveness::Sleeping), Action::Delete);
    assert_acts(over().absent(), Action::Delete);
    assert_acts(over().listed(Liveness::Running), Action::Probe);
}

#[test]
fn what_a_claim_found_is_judged() {
    for (outcome, reason) in [
        (Outcome::Busy, Reason::Busy),
        (Outcome::BadToken, Reason::BadToken),
        (Outcome::WrongRuntime, Reason::WrongRuntime),
        (Outcome::NotClean, Reason::NotClean),
    ] {
        assert_judged(rejected(outcome), Judgement::Tainted, reason);
        // However long ago: the claim is over.
        let old = aged(rejected(outcome), LIMIT * 2);
        assert_judged(old, Judgement::Tainted, reason);
    }
    assert_acts(rejected(Outcome::Bound), Action::Probe);
    // Nobody was given it: it goes when it was looked at long enough.
    let tainted = rejected(Outcome::Busy).judged("Tainted", Reason::Busy);
    assert_acts(tainted.clone(), Action::Wait);
    let over = tainted.memory(|m| m.step_known_for = Duration::from_secs(600));
    assert_acts(over, Action::Delete);
}

fn reset(done: bool) -> Case {
    let mut case = rejected(Outcome::Failed);
    case.evidence.reset = Some(done);
    case
}

#[test]
fn a_failed_claim_s_agent_is_reset_once_and_asked() {
    assert_acts(rejected(Outcome::Failed), Action::Reset);
    assert_acts(reset(false), Action::Delete);
    assert_acts(reset(true), Action::Probe);
    assert_acts(reset(true).probe(clean()), Action::Record(Change::Settling));
    for probe in unclean().into_iter().chain([silent()]) {
        assert_acts(reset(true).probe(probe), Action::Delete);
    }
    assert_acts(reset(false).protected(), Action::Wait);
}

#[test]
fn it_goes_back_when_it_was_clean_throughout() {
    let at = |age: Duration| rejected(Outcome::Settling).memory(|m| m.step_known_for = age);
    let asked = |age: Duration, ago: Duration| at(age).memory(|m| m.probed = Some(ago));
    let early = QUARANTINE - Duration::from_millis(1);
    assert_acts(at(Duration::ZERO).probe(clean()), Action::Wait);
    assert_acts(at(early).probe(clean()), Action::Wait);
    assert_acts(at(QUARANTINE), Action::Probe);
    assert_acts(at(QUARANTINE).probe(clean()), Action::PutBack);
    // Asked again and again meanwhile.
    assert_acts(asked(QUARANTINE / 2, QUARANTINE_POLL), Action::Probe);
    assert_acts(asked(QUARANTINE / 2, QUARANTINE_POLL / 2), Action::Wait);
    for age in [Duration::ZERO, early, QUARANTINE] {
        for probe in unclean() {
            assert_acts(at(age).probe(probe.clone()), Action::Delete);
            assert_acts(at(age).probe(probe).protected(), Action::Wait);
        }
        assert_acts(at(age).probe(silent()), Action::Wait);
    }
    assert_acts(
        at(QUARANTINE + QUARANTINE_GRACE).probe(silent()),
        Action::Delete,
    );
}
