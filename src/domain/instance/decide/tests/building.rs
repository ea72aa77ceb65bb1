//! The transitions of an instance that is being built: contract of the agent runtimes, 14.4.

use std::time::Duration;

use serde_json::json;

use super::super::super::fixture::*;
use super::super::super::view::Evidence;
use super::super::{Action, Change, Judgement, TWICE_APART};
use super::{OVER, assert_acts, assert_judged};
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, Dialect, Probe};
use crate::domain::plan::{Class, Facts, Outcome, Repeat, Seen};
use crate::domain::resource::Liveness;

#[test]
fn a_new_instance_records_its_first_intent_before_anything_else() {
    assert_acts(fresh(), Action::Record(Change::Begin));
    let mut no_plan = fresh();
    no_plan.plan.clear();
    assert_acts(no_plan, Action::Wait);
}

#[test]
fn a_step_is_sent_once_under_a_permit() {
    let with_permit = building(0, "Intended").memory(|m| m.permit = true);
    assert_acts(with_permit, Action::Perform(0));
    // Whoever comes after a crash has none and looks.
    assert_acts(building(0, "Intended"), Action::Look(0));
    assert_acts(building(2, "Intended"), Action::Look(2));
}

#[test]
fn what_was_there_before_its_object_is_never_thrown_away_with_a_conversation() {
    let bound = adopting(4, "Intended").probe(bound_to(Some("c9")));
    assert_judged(bound, Judgement::Crashed, Reason::UnknownConversation);
    let stuck = adopting(3, "Intended").memory(|m| m.step_known_for = OVER);
    assert_judged(stuck, Judgement::Crashed, Reason::Stuck);
    // It says that it has none: nobody's, and replaced.
    let dirty = AgentStatus {
        clean: Some(false),
        ..good()
    };
    let dirty = adopting(4, "Intended").probe(says(dirty));
    assert_judged(dirty, Judgement::Tainted, Reason::NotClean);
    // Nothing was found under its name.
    let nothing = adopting(0, "Intended").memory(|m| m.phase_for = OVER);
    assert_judged(nothing, Judgement::Dead, Reason::Stuck);
    // What a gateway did before nobody knows.
    let gateway = answer(
        Dialect::Gateway,
        AgentStatus {
            clean: None,
            ..good()
        },
    );
    let gateway = adopting(4, "Intended").probe(gateway);
    assert_judged(gateway, Judgement::Tainted, Reason::NotClean);
}

#[test]
fn a_safe_step_is_sent_blindly() {
    let mut case = building(0, "Intended");
    case.plan = plan(Repeat::Safe);
    assert_acts(case, Action::Perform(0));
}

#[test]
fn absence_is_believed_past_the_lag_only() {
    let absent = |for_: Option<Duration>| {
        let evidence = Evidence {
            look: Some(Seen::Absent),
            ..Evidence::default()
        };
        building(0, "Intended").evidence(evidence).memory(|m| {
            m.absent_for = for_;
            // However old the record is: what counts is the first look after it was sent.
            m.step_known_for = OVER;
            m.known_for = OVER;
            m.missing_for = Some(OVER);
        })
    };
    let lag = absent(None).limits.list_lag;
    for early in [
        None,
        Some(Duration::ZERO),
        Some(TWICE_APART),
        Some(lag - Duration::from_millis(1)),
    ] {
        assert_acts(absent(early), Action::Wait);
    }
    assert_acts(absent(Some(lag)), Action::Record(Change::Again));
    let mut no_lag = absent(Some(TWICE_APART - Duration::from_millis(1)));
    no_lag.limits.list_lag = Duration::ZERO;
    assert_acts(no_lag, Action::Wait);
}

#[test]
fn absence_at_a_step_is_believed_while_the_listing_has_the_resource() {
    let evidence = Evidence {
        look: Some(Seen::Absent),
        ..Evidence::default()
    };
    let case = building(2, "Intended")
        .evidence(evidence)
        .listed(Liveness::Created);
    let case = case.memory(|m| m.absent_for = Some(OVER));
    assert_acts(case, Action::Record(Change::Again));
}

#[test]
fn what_a_look_shows_is_recorded() {
    let seen = |look| {
        building(1, "Intended").evidence(Evidence {
            look: Some(look),
            ..Evidence::default()
        })
    };
    let facts = Facts::from([("domainId".to_owned(), "d1".to_owned())]);
    assert_acts(
        seen(Seen::Done(facts.clone())),
        Action::Record(Change::Done(facts)),
    );
    assert_acts(
        seen(Seen::Running),
        Action::Record(Change::Running(Facts::new())),
    );
    assert_acts(seen(Seen::Unknown), Action::Wait);
}

#[test]
fn a_failed_step_is_tried_again_until_its_attempts_are_used_up() {
    let failed = |retry, attempt| {
        let outcome = Outcome::Failed {
            reason: "Why",
            message: "m".into(),
            retry,
        };
        let mut case = building(0, "Intended");
        let status = case.instance.status.as_mut().unwrap();
        status.operation.as_mut().unwrap().steps[0].attempt = attempt;
        case.evidence(Evidence {
            outcome: Some(outcome),
            ..Evidence::default()
        })
    };
    assert_acts(failed(true, 2), Action::Record(Change::Again));
    assert_judged(failed(true, 3), Judgement::Dead, Reason::CreateFailed);
    assert_judged(failed(false, 1), Judgement::Dead, Reason::CreateFailed);
}

#[test]
fn a_step_under_way_ends_by_the_listing_or_by_its_deadline() {
    let running = |progress| {
        let mut case = building(2, "Running");
        case.progress = progress;
        case
    };
    assert_acts(
        running(Some(Seen::Done(Facts::new()))),
        Action::Record(Change::Done(Facts::new())),
    );
    assert_acts(running(Some(Seen::Running)), Action::Wait);
    assert_acts(running(None), Action::Wait);
    let failed = Seen::Failed {
        reason: "Why",
        message: "m".into(),
        retry: true,
    };
    assert_judged(running(Some(failed)), Judgement::Dead, Reason::CreateFailed);
    let late = |seconds_: u64| running(None).memory(|m| m.step_known_for = seconds(seconds_));
    assert_acts(late(599), Action::Wait);
    assert_judged(late(600), Judgement::Dead, Reason::CreateFailed);
}

#[test]
fn a_step_that_no_listing_shows_is_looked_at_until_its_deadline() {
    let running = |look: Option<Seen>, attempt| {
        let mut case = building(2, "Running");
        case.plan = plan(Repeat::Safe);
        case.progress = Some(Seen::Unknown);
        let status = case.instance.status.as_mut().unwrap();
        status.operation.as_mut().unwrap().steps[2].attempt = attempt;
        let evidence = Evidence {
            look,
            ..Evidence::default()
        };
        case.evidence(evidence)
    };
    assert_acts(running(None, 1), Action::Look(2));
    for unfinished in [Seen::Running, Seen::Unknown, Seen::Absent] {
        assert_acts(running(Some(unfinished), 1), Action::Wait);
    }
    let done = running(Some(Seen::Done(Facts::new())), 1);
    assert_acts(done, Action::Record(Change::Done(Facts::new())));
    let failed = |retry| {
        Some(Seen::Failed {
            reason: "Why",
            message: "m".into(),
            retry,
        })
    };
    assert_acts(running(failed(true), 2), Action::Record(Change::Again));
    for (retry, attempt) in [(true, 3), (false, 1)] {
        let case = running(failed(retry), attempt);
        assert_judged(case, Judgement::Dead, Reason::CreateFailed);
    }
    let late = running(Some(Seen::Running), 1).memory(|m| m.step_known_for = seconds(600));
    assert_judged(late, Judgement::Dead, Reason::CreateFailed);
    // One that must not be repeated blindly is judged by the listing alone: that costs nothing per instance.
    let mut once = running(None, 1);
    once.plan = plan(Repeat::LookFirst);
    assert_acts(once, Action::Wait);
}

#[test]
fn provisioning_that_is_stuck_is_dead() {
    let stuck = |s| building(3, "Intended").memory(|m| m.phase_for = seconds(s));
    assert_acts(stuck(899), Action::Probe);
    assert_judged(stuck(900), Judgement::Dead, Reason::Stuck);
}

#[test]
fn ready_and_clean_have_their_own_deadline() {
    for index in [3, 4] {
        let waiting = |s| building(index, "Intended").memory(|m| m.step_known_for = seconds(s));
        assert_acts(waiting(599), Action::Probe);
        assert_judged(waiting(600), Judgement::Dead, Reason::Stuck);
    }
    // Back from a claim no step is recorded: there the phase's own limit stands.
    let long_ago = back().memory(|m| m.step_known_for = seconds(600));
    assert_acts(long_ago, Action::Probe);
}

#[test]
fn a_template_that_cannot_be_read_now_kills_nothing() {
    for case in [
        building(0, "Intended"),
        building(2, "Running"),
        building(4, "Intended"),
    ] {
        let mut case = case;
        case.plan.clear();
        let decision = assert_acts(case, Action::Wait);
        assert_eq!(decision.reason, Reason::Pending);
    }
}

#[test]
fn a_plan_that_does_not_fit_is_dead() {
    let mut case = building(1, "Intended");
    case.plan.remove(0);
    assert_judged(case, Judgement::Dead, Reason::CreateFailed);
}

#[test]
fn trouble_waits_as_its_class_says_and_only_rejection_kills() {
    for class in CLASSES {
        let evidence = Evidence {
            trouble: Some(trouble(class, None)),
            ..Evidence::default()
        };
        let case = building(0, "Intended")
            .evidence(evidence)
            .memory(|m| m.permit = true);
        match class {
            Class::Rejected => assert_judged(case, Judgement::Dead, Reason::CreateFailed),
            _ => drop(assert_acts(case, Action::Wait)),
        }
    }
}

#[test]
fn proven_ready_unbound_and_clean_is_in_stock() {
    for case in [building(4, "Intended"), back()] {
        assert_acts(case.clone(), Action::Probe);
        assert_acts(
            case.clone().probe(says(good())),
            Action::Record(Change::Proven),
        );
        assert_acts(
            case.probe(says(AgentStatus {
                ready: false,
                ..good()
            })),
            Action::Wait,
        );
    }
    // The step before it asks for ready alone.
    let ready = building(3, "Intended").probe(says(good()));
    assert_acts(ready, Action::Record(Change::Done(Facts::new())));
}

#[test]
fn found_bound_pending_or_dirty_before_stock_is_tainted() {
    for case in [building(4, "Intended"), back()] {
        let bound = case.clone().probe(bound_to(Some("c9")));
        assert_judged(bound, Judgement::Tainted, Reason::UnknownConversation);
        for bad in [
            AgentStatus {
                pending: true,
                ..good()
            },
            AgentStatus {
                clean: Some(false),
                ..good()
            },
            AgentStatus {
                clean: None,
                ..good()
            },
        ] {
            let dirty = case.clone().probe(says(bad));
            assert_judged(dirty, Judgement::Tainted, Reason::NotClean);
        }
        let other = case.probe(Probe::WrongRuntime("x".into()));
        assert_judged(other, Judgement::Tainted, Reason::WrongRuntime);
    }
}

#[test]
fn a_gateway_is_clean_in_its_first_turn_only() {
    let status = AgentStatus {
        clean: None,
        ..good()
    };
    let probe = answer(Dialect::Gateway, status);
    let first = building(4, "Intended").probe(probe.clone());
    assert_acts(first.clone(), Action::Record(Change::Proven));
    assert_judged(
        back().probe(probe.clone()),
        Judgement::Tainted,
        Reason::NotClean,
    );
    assert_judged(
        first.spec("restored", json!(true)),
        Judgement::Tainted,
        Reason::NotClean,
    );
    let mut allowed = back().probe(probe);
    allowed.limits.allow_unknown_clean = true;
    assert_acts(allowed, Action::Record(Change::Proven));
}

#[test]
fn silence_is_never_death() {
    for case in [building(4, "Intended"), idle(), claimed()] {
        for probe in silences()
            .into_iter()
            .filter(|p| !matches!(p, Probe::WrongRuntime(_)))
        {
            let case = case.clone().probe(probe).listed(Liveness::Running);
            assert_acts(case.memory(|m| m.unbound_for = Some(OVER)), Action::Wait);
        }
    }
}
