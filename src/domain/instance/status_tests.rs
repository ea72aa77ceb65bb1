//! What is written: once, stable, thin, and never the claim.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use super::super::decide::Judgement;
use super::super::fixture::{self, *};
use super::*;
use crate::domain::agent::{AgentStatus, Dialect};
use crate::domain::plan::{Outcome, Seen};
use crate::domain::resource::Liveness;

fn at(second: i64) -> Given {
    Given {
        now: jiff::Timestamp::from_second(1_800_000_000 + second).unwrap(),
        operation_id: "0a1b2c3d".into(),
        token_key: Some("aabbccddeeff".into()),
        image: Some("ghcr.io/xmtplabs/convos-runtime-hermes:1.2.3".into()),
        image_digest: Some(format!("sha256:{}", "a".repeat(64))),
        source_branch: None,
        secrets: None,
    }
}

/// Decides and records once; the case goes on with what was written.
fn step(case: &mut Case, second: i64) -> Decision {
    let decision = case.decide();
    let new = status(&case.view(), &decision, &at(second));
    case.instance.status = Some(new);
    decision
}

fn allowed(mut case: Case) -> Case {
    case.limits.may_sleep = true;
    case
}

fn steady() -> Vec<Case> {
    let (running, probed) = (Liveness::Running, |m: &mut super::super::view::Memory| {
        m.probed = Some(Duration::ZERO);
        m.claim_known_for = seconds(20);
    });
    let mut all: Vec<Case> = [
        idle(),
        claiming(),
        fixture::claimed(),
        pending(),
        status_lost(),
        building(2, "Running"),
    ]
    .into_iter()
    .map(|c| c.listed(running).memory(probed))
    .collect();
    all.push(idle().probe(says(good())).listed(running).memory(probed));
    all.push(
        fixture::claimed()
            .probe(bound_to(Some(CONVERSATION)))
            .listed(running)
            .memory(probed),
    );
    all.push(fixture::claimed().judged("Crashed", Reason::Gone));
    all.push(allowed(asleep(idle()).listed(Liveness::Sleeping)));
    all.push(allowed(idle().listed(Liveness::Sleeping)));
    all.push(
        waking()
            .listed(Liveness::Sleeping)
            .memory(|m| m.probed = Some(Duration::ZERO)),
    );
    all.push(asleep(fixture::claimed()).listed(Liveness::Sleeping));
    all.push(building(2, "Running").listed(Liveness::Blocked));
    all.push(fresh().deleted());
    all
}

#[test]
fn an_object_of_unknown_history_is_adopted_until_a_step_had_to_be_sent() {
    let kind = |case: &Case| {
        let status = case.instance.status.clone().unwrap();
        status.operation.unwrap().kind
    };
    let mut new = fresh();
    step(&mut new, 0);
    assert_eq!(kind(&new), "Create");
    let mut case = unknown();
    step(&mut case, 0);
    assert_eq!(kind(&case), ADOPT);
    // Found by looking: what follows may be there too.
    let found = Facts::from([("serviceId".to_owned(), "s1".to_owned())]);
    case.evidence.look = Some(Seen::Done(found));
    step(&mut case, 1);
    assert_eq!(kind(&case), ADOPT);
    case.evidence = super::super::view::Evidence {
        outcome: Some(Outcome::Done(Facts::new())),
        ..Default::default()
    };
    step(&mut case, 2);
    assert_eq!(kind(&case), "Create");
    assert_eq!(case.instance.status.unwrap().operation.unwrap().index, 2);
}

#[test]
fn ids_that_are_found_again_are_recorded_and_the_agent_stays_claimed() {
    let mut case = status_lost();
    let mut there = resource(Liveness::Running);
    for (key, value) in [
        ("serviceId", "s1"),
        ("url", "https://a"),
        ("domainId", "d1"),
    ] {
        there.facts.insert(key.to_owned(), value.to_owned());
    }
    case.evidence.presence = Some(crate::domain::resource::Presence::Present(Box::new(there)));
    step(&mut case, 0);
    let status = case.instance.status.clone().unwrap();
    assert_eq!(status.url.as_deref(), Some("https://a"));
    assert_eq!(status.provider.unwrap().id.as_deref(), Some("s1"));
    assert_eq!(
        (status.turn, status.phase.as_deref()),
        (None, Some("Claimed"))
    );
    let ready = find(&status.conditions, ConditionType::Ready).unwrap();
    assert_eq!(ready.reason, "StatusLost");
}

#[test]
fn a_steady_instance_is_never_written_twice() {
    for mut case in steady() {
        step(&mut case, 0);
        let first = case.instance.status.clone();
        for second in [1, 60, 86_400] {
            step(&mut case, second);
            assert_eq!(case.instance.status, first, "{}", case.name);
        }
    }
}

#[test]
fn transition_times_move_only_with_what_they_belong_to() {
    let mut case = building(3, "Intended")
        .probe(Probe::NotReady("x".into()))
        .memory(|m| m.probed = Some(Duration::ZERO));
    step(&mut case, 0);
    let times = |case: &Case| {
        let list = &case.instance.status.as_ref().unwrap().conditions;
        let of = |kind| find(list, kind).unwrap().last_transition_time.0;
        (of(ConditionType::Ready), of(ConditionType::Reachable))
    };
    let first = times(&case);
    case.evidence.probe = Some(Probe::Unreachable("y".into()));
    step(&mut case, 10);
    assert_eq!(times(&case), first, "the reason alone changed");
    case.evidence.probe = Some(says(AgentStatus {
        ready: false,
        ..good()
    }));
    step(&mut case, 20);
    assert_eq!(times(&case).0, first.0);
    assert_eq!(times(&case).1, at(20).now);
}

/// A hiccup is no write; the second in a row is; what is no hiccup is told at once.
#[test]
fn one_probe_that_goes_unanswered_says_nothing_yet() {
    let refused = || Probe::Unauthorized;
    let silent = || Probe::Unreachable("no answer".into());
    let booting = || Probe::NotReady("503".into());
    for (before, probe, unanswered, expected) in [
        (says(good()), silent(), 1, "True"),
        (says(good()), booting(), 1, "True"),
        (says(good()), silent(), 2, "False"),
        (says(good()), booting(), 7, "False"),
        (says(good()), refused(), 1, "False"),
        (silent(), silent(), 1, "False"),
        (silent(), says(good()), 0, "True"),
    ] {
        let mut case = idle().probe(before.clone());
        case.memory.unanswered = 2;
        step(&mut case, 0);
        case.evidence.probe = Some(probe.clone());
        case.memory.unanswered = unanswered;
        step(&mut case, 1);
        let status = case.instance.status.as_ref().unwrap();
        let reachable = find(&status.conditions, ConditionType::Reachable).unwrap();
        assert_eq!(
            reachable.status, expected,
            "{before:?}, then {probe:?}, {unanswered} in a row"
        );
    }
}

#[test]
fn a_young_claim_is_not_written() {
    let mut case = claiming().listed(Liveness::Running);
    case.instance.status.as_mut().unwrap().phase = Some("Idle".into());
    case.memory.claim_known_for = CLAIMING_SHOWN_AFTER - Duration::from_millis(1);
    step(&mut case, 0);
    assert_eq!(
        case.instance.status.as_ref().unwrap().phase.as_deref(),
        Some("Idle")
    );
    case.memory.claim_known_for = CLAIMING_SHOWN_AFTER;
    step(&mut case, 1);
    assert_eq!(
        case.instance.status.as_ref().unwrap().phase.as_deref(),
        Some("Claiming")
    );
}

/// A whole creation: each record carries what was done and the intent of what comes next.
#[test]
fn a_creation_is_recorded_step_by_step() {
    let mut case = fresh();
    let word = |case: &Case| {
        let operation = case
            .instance
            .status
            .as_ref()
            .unwrap()
            .operation
            .as_ref()
            .unwrap();
        let steps = operation
            .steps
            .iter()
            .map(|s| format!("{}:{}:{}", s.name, s.state, s.attempt));
        (operation.index, steps.collect::<Vec<_>>().join(" "))
    };
    let send = |case: &mut Case, second, outcome| {
        case.evidence.outcome = Some(outcome);
        step(case, second);
        case.evidence = Default::default();
    };
    let facts = |k: &str, v: &str| Facts::from([(k.to_owned(), v.to_owned())]);
    step(&mut case, 0);
    assert_eq!(word(&case), (0, "service:Intended:1".into()));
    let failed = Outcome::Failed {
        reason: "Why",
        message: "m".into(),
        retry: true,
    };
    send(&mut case, 1, failed);
    assert_eq!(word(&case), (0, "service:Intended:2".into()));
    send(&mut case, 2, Outcome::Done(facts("serviceId", "s1")));
    assert_eq!(word(&case), (1, "service:Done:2 domain:Intended:1".into()));
    send(&mut case, 3, Outcome::Done(facts("url", "https://a")));
    let started = Outcome::Running {
        facts: facts("deploymentId", "d1"),
        poll: seconds(5),
    };
    send(&mut case, 4, started);
    assert_eq!(
        word(&case),
        (2, "service:Done:2 domain:Done:1 deploy:Running:1".into())
    );
    case.progress = Some(Seen::Done(Facts::new()));
    step(&mut case, 5);
    case.progress = None;
    assert_eq!(word(&case).0, 3);
    case.evidence.probe = Some(says(good()));
    step(&mut case, 6);
    assert_eq!(word(&case).0, 4);
    step(&mut case, 7);
    let status = case.instance.status.as_ref().unwrap();
    assert_eq!(
        (status.phase.as_deref(), status.turn),
        (Some("Idle"), Some(1))
    );
    assert!(status.operation.is_none());
    let provider = status.provider.as_ref().unwrap();
    assert_eq!(
        (
            provider.id.as_deref(),
            provider.service_id.as_deref(),
            provider.deployment_id.as_deref(),
            status.url.as_deref()
        ),
        (Some("s1"), Some("s1"), Some("d1"), Some("https://a"))
    );
    let ready = find(&status.conditions, ConditionType::Ready).unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("True", "Idle")
    );
    assert_eq!(facts_of(Some(status))["serviceId"], "s1");
}

#[test]
fn the_claim_is_written_when_a_join_is_accepted_and_never_else() {
    let everything = [
        fresh(),
        idle(),
        claiming(),
        fixture::claimed(),
        pending(),
        status_lost(),
        building(1, "Intended"),
        back(),
    ];
    for mut case in everything {
        let before = case.instance.status.as_ref().and_then(|s| s.claim.clone());
        for probe in answers()
            .into_iter()
            .chain(silences())
            .map(Some)
            .chain([None])
        {
            case.evidence.probe = probe;
            for change in [
                Change::Begin,
                Change::Done(Facts::new()),
                Change::Again,
                Change::Proven,
                Change::Judge(Judgement::Crashed),
            ] {
                let decision = Decision {
                    action: Action::Record(change),
                    ..case.decide()
                };
                let new = status(&case.view(), &decision, &at(0));
                assert_eq!(new.claim, before, "{}", case.name);
            }
            let decision = case.decide();
            let new = status(&case.view(), &decision, &at(0)).claim;
            match decision.action {
                Action::Record(Change::Joined(conversation)) => {
                    assert_eq!(new.unwrap().conversation_id, Some(conversation));
                }
                _ => assert_eq!(new, before),
            }
        }
    }
}

/// What a poll records and what a callback records is the same.
#[test]
fn an_accepted_join_is_bound_whoever_tells() {
    let mut case = pending().listed(Liveness::Running);
    let claim = case.instance.spec.claim.as_mut();
    claim.unwrap().join_url = Some("https://dev.convos.org/v2?i=x".into());
    let mut polled = case.clone().probe(bound_to(Some("c7")));
    step(&mut polled, 5);
    let told = called_back(&case.instance, Told::Accepted("c7"), at(5).now).unwrap();
    let recorded = polled.instance.status.as_ref().unwrap();
    assert_eq!(recorded.claim, told.claim);
    let claim = told.claim.clone().unwrap();
    assert_eq!(claim.outcome, "Bound");
    assert_eq!(claim.conversation_id.as_deref(), Some("c7"));
    assert_eq!(claim.claimed_at, Some(Time(at(5).now)));
    assert!(claim.joined && claim.invite_url.is_some());
    for status in [recorded, &told] {
        assert_eq!(status.phase.as_deref(), Some("Claimed"));
        let ready = find(&status.conditions, ConditionType::Ready).unwrap();
        assert_eq!(
            (
                ready.status.as_str(),
                ready.reason.as_str(),
                ready.message.as_str()
            ),
            ("True", "Claimed", "in use")
        );
    }
    // Again, or the other way afterwards: nothing.
    case.instance.status = Some(told);
    for told in [Told::Accepted("c7"), Told::Accepted("c8"), Told::GaveUp] {
        assert_eq!(called_back(&case.instance, told, at(6).now), None);
    }
}

#[test]
fn a_join_that_its_agent_gave_up_is_tainted_whoever_tells() {
    let mut case = hermes(pending()).listed(Liveness::Running);
    let told = called_back(&case.instance, Told::GaveUp, at(5).now).unwrap();
    let mut polled = case.clone().probe(bound_to(None));
    polled.memory.unbound_for = Some(seconds(10));
    step(&mut polled, 5);
    let recorded = polled.instance.status.as_ref().unwrap();
    assert_eq!(recorded.verdict, told.verdict);
    assert_eq!(told.verdict.as_ref().unwrap().reason, "NotAccepted");
    assert_eq!(told.phase.as_deref(), Some("Tainted"));
    let ready = find(&told.conditions, ConditionType::Ready).unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "NotAccepted")
    );
    let before = case.instance.status.as_ref().unwrap().claim.clone();
    assert_eq!(told.claim, before, "what it was for stays");
    case.instance.status = Some(told);
    for told in [Told::Accepted("c7"), Told::GaveUp] {
        assert_eq!(called_back(&case.instance, told, at(6).now), None);
    }
}

/// A callback says nothing of which claim it is for: the one that waits now is it, and no other.
#[test]
fn a_callback_is_about_the_claim_that_waits_and_no_other() {
    let mut another = pending();
    "k2".clone_into(&mut another.instance.spec.claim.as_mut().unwrap().id);
    for case in [
        another,
        fresh(),
        idle(),
        claiming(),
        fixture::claimed(),
        status_lost(),
        pending().released("Destroy"),
        pending().judged("Crashed", Reason::Gone),
        pending().deleted(),
    ] {
        for told in [Told::Accepted("c7"), Told::GaveUp] {
            assert_eq!(
                called_back(&case.instance, told, at(5).now),
                None,
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn a_dialect_is_decided_once() {
    let mut case = idle()
        .listed(Liveness::Running)
        .probe(answer(Dialect::Gateway, good()));
    step(&mut case, 0);
    let runtime = case.instance.status.unwrap().runtime.unwrap();
    assert_eq!(runtime.dialect.as_deref(), Some("PoolServer"));
}

#[test]
fn a_judgement_is_cut_and_keeps_its_reason() {
    let text = "ä".repeat(5_000);
    let mut case = building(4, "Intended").probe(Probe::WrongRuntime(text));
    step(&mut case, 0);
    let verdict = case.instance.status.unwrap().verdict.unwrap();
    assert_eq!(
        (verdict.state.as_str(), verdict.reason.as_str()),
        ("Tainted", "WrongRuntime")
    );
    assert!(verdict.message.len() <= 1000 && verdict.message.len() > 990);
}

/// The hot object is thin: 3 KiB with spec, metadata and managedFields; its status is less than half of that.
#[test]
fn an_idle_status_is_thin() {
    let mut case = idle().listed(Liveness::Running).probe(says(good()));
    let uuid = "01234567-89ab-cdef-0123-456789abcdef".to_owned();
    let status = case.instance.status.as_mut().unwrap();
    let provider = status.provider.as_mut().unwrap();
    for id in [
        &mut provider.id,
        &mut provider.service_id,
        &mut provider.domain_id,
        &mut provider.deployment_id,
    ] {
        *id = Some(uuid.clone());
    }
    provider.image = at(0).image;
    provider.image_digest = at(0).image_digest;
    status.url = Some("https://convos-agent-stg-abcdefghijkl-production.up.railway.app".into());
    status.token_seq = Some(1);
    status.token_key = at(0).token_key;
    step(&mut case, 0);
    let size = serde_json::to_string(&case.instance.status).unwrap().len();
    assert!(size < 1_300, "{size} bytes");
    assert_eq!(case.instance.status.unwrap().conditions.len(), 2);
}
