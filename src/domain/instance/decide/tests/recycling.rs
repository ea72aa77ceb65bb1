//! An agent that was given back: restored, or destroyed and replaced; and a creation that ends in a checkpoint.

use super::*;
use crate::domain::agent::{AgentStatus, Dialect, Probe};
use crate::domain::instance::decide::{TWICE_APART, current};
use crate::domain::instance::fixture::*;
use crate::domain::instance::outcome::Outcome as Recorded;
use crate::domain::instance::phase::{Phase, phase_of};
use crate::domain::instance::status::{Given, status};
use crate::domain::instance::view::{Evidence, Inside, operation_of};
use crate::domain::plan::{Class, Facts, Operation, Outcome, Seen};
use crate::domain::resource::Liveness;

fn given() -> Given {
    Given {
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
        operation_id: "op".into(),
        token_key: Some("key2".into()),
        image: None,
        image_digest: None,
        source_branch: None,
        secrets: Some("present".into()),
    }
}

/// What a gateway says that is up and unbound: whether it is clean it cannot tell.
fn gateway() -> Probe {
    let status = AgentStatus {
        clean: None,
        ..good()
    };
    answer(Dialect::Gateway, status)
}

fn found(inside: Inside) -> Evidence {
    Evidence {
        probe: Some(gateway()),
        inside: Some(inside),
        ..Evidence::default()
    }
}

#[track_caller]
fn assert_given_up(case: Case) {
    let decision = assert_acts(case.clone(), Action::Delete);
    assert_eq!(decision.reason, Reason::RecycleFailed, "{}", case.name);
    let kept = assert_acts(case.protected(), Action::Wait);
    assert_eq!(kept.reason, Reason::RecycleFailed);
}

/// Decides and records once.
fn record(case: &mut Case) {
    let decision = case.decide();
    assert!(matches!(decision.action, Action::Record(_)), "{decision:?}");
    case.instance.status = Some(status(&case.view(), &decision, &given()));
    case.evidence = Evidence::default();
}

#[test]
fn it_begins_with_a_new_token_once() {
    let mut case = given_back();
    assert_acts(case.clone(), Action::Record(Change::Recycle));
    record(&mut case);
    let token = |case: &Case| {
        let status = case.instance.status.as_ref().unwrap();
        (status.token_seq, status.token_key.clone())
    };
    assert_eq!(token(&case), (Some(2), Some("key2".into())));
    let provider = case.instance.status.as_ref().unwrap().provider.clone();
    assert_eq!(provider.unwrap().secrets.as_deref(), Some("present"));
    // Whatever follows, and however often it is gone on with: the same token.
    assert_acts(case.clone(), Action::Perform(0));
    for outcome in [
        Outcome::Failed {
            reason: "Why",
            message: "m".into(),
            retry: true,
        },
        Outcome::Done(Facts::new()),
    ] {
        case.evidence.outcome = Some(outcome);
        record(&mut case);
        assert_eq!(token(&case), (Some(2), Some("key2".into())));
    }
    let operation = case.instance.status.as_ref().unwrap().operation.as_ref();
    assert_eq!(operation.map(|o| o.index), Some(1));
    assert_eq!(phase_of(&case.instance), Phase::Recycling);
}

#[test]
fn its_plan_is_the_recycling_s_until_it_is_proven() {
    assert_eq!(operation_of(&given_back().instance), Operation::Recycle);
    assert_eq!(operation_of(&restored().instance), Operation::Recycle);
    for other in [
        idle(),
        claimed(),
        building(1, "Intended"),
        claimed().released("Destroy"),
    ] {
        assert_eq!(
            operation_of(&other.instance),
            Operation::Create,
            "{}",
            other.name
        );
    }
}

#[test]
fn every_step_is_done_in_order_and_the_last_word_is_the_files() {
    for (index, name) in RECYCLE_STEPS.iter().enumerate().take(3) {
        assert_acts(recycling(index, "Intended"), Action::Perform(index));
        let mut case = recycling(index, "Intended");
        case.evidence.outcome = Some(Outcome::Done(Facts::new()));
        record(&mut case);
        let operation = case
            .instance
            .status
            .as_ref()
            .unwrap()
            .operation
            .clone()
            .unwrap();
        let (next, ..) = current(&case.plan, &operation).unwrap();
        assert_eq!(next, index + 1, "{name}");
    }
    assert_acts(recycling(3, "Intended"), Action::Probe);
    let ready = recycling(3, "Intended").probe(gateway());
    assert_acts(ready, Action::Record(Change::Done(Facts::new())));
    assert_acts(
        recycling(4, "Intended").probe(gateway()),
        Action::LookInside,
    );
    assert_acts(
        recycling(4, "Intended").evidence(found(Inside::Clean)),
        Action::PutBack,
    );
    // The agent's own word is not enough.
    let says_clean = recycling(4, "Intended").probe(answer(Dialect::Gateway, good()));
    assert_acts(says_clean, Action::LookInside);
}

#[test]
fn restored_it_is_proven_for_its_new_turn_and_nothing_of_its_user_stays() {
    assert_eq!(phase_of(&restored().instance), Phase::Provisioning);
    assert_acts(restored(), Action::Probe);
    assert_acts(restored().probe(gateway()), Action::LookInside);
    let mut proven = restored().evidence(found(Inside::Clean));
    record(&mut proven);
    let status = proven.instance.status.clone().unwrap();
    assert_eq!(
        (status.turn, status.claim, status.operation),
        (Some(2), None, None)
    );
    assert_eq!(phase_of(&proven.instance), Phase::Idle);
    let dirty = restored().evidence(found(Inside::Dirty("x".into())));
    assert_judged(dirty, Judgement::Dead, Reason::CreateFailed);
}

#[test]
fn whatever_does_not_work_out_ends_in_its_destruction() {
    let mut without = given_back();
    let of = without.instance.status.as_mut().unwrap();
    of.provider.as_mut().unwrap().checkpoint_id = None;
    assert_given_up(without);
    let mut never = given_back();
    never.instance.status.as_mut().unwrap().turn = None;
    assert_given_up(never);
    let mut unfit = recycling(1, "Intended");
    unfit.plan.swap(1, 2);
    assert_given_up(unfit);
    let mut building = recycling(1, "Intended");
    let of = building.instance.status.as_mut().unwrap();
    of.operation.as_mut().unwrap().kind = "Create".into();
    assert_given_up(building);
    for class in [Class::Rejected, Class::Gone] {
        assert_given_up(recycling(1, "Intended").evidence(Evidence {
            trouble: Some(trouble(class, None)),
            ..Evidence::default()
        }));
    }
    let failed = |retry| Outcome::Failed {
        reason: "Why",
        message: "m".into(),
        retry,
    };
    let mut touched = recycling(0, "Intended");
    touched.evidence.outcome = Some(failed(false));
    assert_given_up(touched);
    let mut again = recycling(1, "Intended");
    again.evidence.outcome = Some(failed(true));
    assert_acts(again.clone(), Action::Record(Change::Again));
    let of = again.instance.status.as_mut().unwrap();
    of.operation.as_mut().unwrap().steps[1].attempt = 2;
    assert_given_up(again);
    for inside in [None, Some(Inside::Dirty("~/.convos".into()))] {
        let mut dirty = recycling(4, "Intended").probe(bound_to(Some(CONVERSATION)));
        if let Some(inside) = inside {
            dirty.evidence = found(inside);
        }
        assert_given_up(dirty);
    }
    for liveness in [Liveness::Failed, Liveness::Crashed, Liveness::Removed] {
        assert_given_up(recycling(3, "Intended").listed(liveness));
    }
    for state in ["Crashed", "Tainted", "Dead"] {
        assert_given_up(given_back().judged(state, Reason::Gone));
    }
}

#[test]
fn no_step_is_waited_for_longer_than_it_may_take() {
    let late = |index, state, s| recycling(index, state).memory(|m| m.step_known_for = seconds(s));
    for index in 0..3 {
        let look = |s| {
            late(index, "Running", s).evidence(Evidence {
                look: Some(Seen::Running),
                ..Evidence::default()
            })
        };
        assert_acts(look(59), Action::Wait);
        assert_given_up(look(60));
    }
    let silent = |s| late(3, "Intended", s).probe(Probe::Unreachable("x".into()));
    assert_acts(silent(59), Action::Wait);
    assert_given_up(silent(60));
}

#[test]
fn a_provider_that_does_not_answer_destroys_nothing() {
    for class in [
        Class::Throttled,
        Class::Transient,
        Class::Ambiguous,
        Class::Capacity,
        Class::Unauthorized,
    ] {
        for case in [
            given_back(),
            recycling(1, "Intended"),
            recycling(2, "Running"),
        ] {
            let case = case.memory(|m| {
                m.step_known_for = OVER;
                m.phase_for = OVER;
            });
            let trouble = Some(trouble(class, None));
            assert_acts(
                case.evidence(Evidence {
                    trouble,
                    ..Evidence::default()
                }),
                Action::Wait,
            );
        }
    }
    let mut unread = given_back();
    unread.plan.clear();
    assert_acts(unread, Action::Wait);
}

#[test]
fn a_claim_in_flight_is_waited_for() {
    let case = |s| {
        let mut case = billed(claiming(), KEPT[1]).released("Recycle");
        case.plan = recycle_plan();
        case.memory(|m| m.claim_known_for = seconds(s))
    };
    let decision = assert_acts(case(0), Action::Wait);
    assert!(decision.recheck <= seconds(150) + TWICE_APART);
    assert_acts(case(154), Action::Wait);
    assert_acts(case(155), Action::Record(Change::Recycle));
    // Of one that a claim found unfit the claim's own word decides.
    let busy = billed(rejected(Recorded::Busy), KEPT[1]).released("Recycle");
    assert_judged(busy, Judgement::Tainted, Reason::Busy);
}

// ---- created ----------------------------------------------------------------------------------------------------

#[test]
fn a_checkpoint_is_taken_of_what_is_clean_and_of_nothing_else() {
    let at_clean = || {
        let mut case = billed(building(4, "Intended"), KEPT[1]);
        case.plan = checkpointed().plan;
        case
    };
    assert_acts(at_clean().probe(gateway()), Action::LookInside);
    let clean = at_clean().evidence(found(Inside::Clean));
    assert_acts(clean, Action::Record(Change::Done(Facts::new())));
    let dirty = at_clean().evidence(found(Inside::Dirty("~/.convos".into())));
    assert_judged(dirty, Judgement::Dead, Reason::CreateFailed);
    let done = || billed(checkpointed(), KEPT[1]);
    assert_acts(done(), Action::Probe);
    assert_acts(done().probe(gateway()), Action::LookInside);
    assert_acts(
        done().evidence(found(Inside::Clean)),
        Action::Record(Change::Proven),
    );
}

/// Railway: the agent's own word, as before.
#[test]
fn a_provider_that_cannot_look_inside_is_not_asked_to() {
    let clean = building(4, "Intended").probe(says(good()));
    assert_acts(clean, Action::Record(Change::Proven));
}
