//! A join that waits for a person: contract of the agent runtimes, 9.

use std::time::Duration;

use super::super::super::fixture::*;
use super::super::super::view::Memory;
use super::super::{Action, Change, Judgement, UNBOUND_APART};
use super::{OVER, assert_acts, assert_judged};
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, Dialect, Probe};
use crate::domain::resource::{Liveness, Presence};

/// Seen for so long, and asked so long ago.
fn after(case: Case, phase_for: u64, probed: Option<u64>) -> Case {
    case.listed(Liveness::Running).memory(|m| {
        m.phase_for = seconds(phase_for);
        m.probed = probed.map(seconds);
    })
}

/// Asked a moment ago.
fn asked(case: Case, probe: Probe) -> Case {
    after(case, 100, Some(0)).probe(probe)
}

fn waits() -> Probe {
    says(AgentStatus {
        pending: true,
        clean: Some(false),
        ..good()
    })
}

/// Neither waiting nor bound, as Hermes is after it gave up, and OpenClaw all the time.
fn waits_no_more() -> Probe {
    says(AgentStatus {
        clean: Some(false),
        ..good()
    })
}

#[test]
fn the_conversation_that_the_agent_shows_is_the_one() {
    for case in [pending(), hermes(pending()), asleep(pending())] {
        for ready in [true, false] {
            let status = AgentStatus {
                ready,
                ..AgentStatus::default()
            };
            let probe = says(AgentStatus {
                conversation: Some("new".into()),
                ..status
            });
            let decision = assert_acts(
                asked(case.clone(), probe),
                Action::Record(Change::Joined("new".into())),
            );
            assert_eq!(decision.reason, Reason::Claimed);
        }
    }
    // Even at the last moment, and of a protected one.
    let late = |case: Case| case.memory(|m| m.phase_for = OVER);
    for case in [pending(), pending().protected()] {
        let case = late(case).listed(Liveness::Running);
        assert_acts(case.clone(), Action::Probe);
        assert_acts(
            case.probe(bound_to(Some("new"))),
            Action::Record(Change::Joined("new".into())),
        );
    }
    // What cannot be recorded is not tried for ever.
    let long = "x".repeat(129);
    assert_acts(
        asked(pending(), bound_to(Some(long.as_str()))),
        Action::Wait,
    );
}

#[test]
fn it_is_asked_every_15_s_for_five_minutes_and_then_every_minute() {
    for (seen, ago, due) in [
        (100, 14, false),
        (100, 15, true),
        (299, 15, true),
        (300, 15, false),
        (300, 59, false),
        (300, 60, true),
        (4000, 59, false),
        (4000, 60, true),
    ] {
        let action = if due { Action::Probe } else { Action::Wait };
        let decision = assert_acts(after(pending(), seen, Some(ago)), action);
        assert_eq!(decision.reason, Reason::PendingAcceptance);
    }
    let decision = assert_acts(after(pending(), 100, Some(14)), Action::Wait);
    assert_eq!(decision.recheck, seconds(1));
    // A probe from before it waited says nothing; nor is it asked before it has had a moment.
    assert_acts(after(pending(), 0, Some(20)), Action::Wait);
    assert_acts(after(pending(), 15, Some(20)), Action::Probe);
    let on_request = after(pending(), 3, Some(1)).memory(|m| m.probe_asked = true);
    assert_acts(on_request, Action::Probe);
}

#[test]
fn after_a_restart_not_all_are_asked_at_once() {
    let first = |id: &str| {
        let case = after(pending().spec("id", serde_json::json!(id)), 0, None);
        let decision = assert_acts(case, Action::Wait);
        assert!(decision.recheck <= seconds(15));
        decision.recheck
    };
    assert_ne!(first("abc"), first("xyz"));
    assert_acts(after(pending(), 15, None), Action::Probe);
}

#[test]
fn a_sleeper_is_woken_by_the_next_poll_and_stays() {
    let sleeper = after(asleep(pending()), 100, Some(15)).listed(Liveness::Sleeping);
    assert_acts(sleeper.clone(), Action::Probe);
    let silent = sleeper.probe(Probe::Unreachable("timed out".into()));
    let decision = assert_acts(
        silent.memory(|m| m.probed = Some(Duration::ZERO)),
        Action::Wait,
    );
    assert_eq!(decision.reason, Reason::PendingAcceptance);
    // What is being rebuilt is left alone until the next listing.
    for state in [Liveness::Created, Liveness::Starting, Liveness::Blocked] {
        let decision = assert_acts(after(pending(), 100, None).listed(state), Action::Wait);
        assert_eq!(decision.recheck, pending().limits.tick, "{state:?}");
    }
}

#[test]
fn hermes_that_gave_up_is_tainted_in_the_second_reading() {
    let second = |case: Case, probe: Probe| {
        asked(case, probe).memory(|m| m.unbound_for = Some(UNBOUND_APART))
    };
    assert_judged(
        second(hermes(pending()), waits_no_more()),
        Judgement::Tainted,
        Reason::NotAccepted,
    );
    let first = asked(hermes(pending()), waits_no_more());
    let decision = assert_acts(
        first.memory(|m| m.unbound_for = Some(Duration::ZERO)),
        Action::Wait,
    );
    assert_eq!(decision.recheck, UNBOUND_APART, "and soon again");
    assert_acts(second(hermes(pending()), waits()), Action::Wait);
    let not_ready = says(AgentStatus {
        clean: Some(false),
        ..AgentStatus::default()
    });
    assert_acts(second(hermes(pending()), not_ready), Action::Wait);
    for silent in silences() {
        assert_acts(second(hermes(pending()), silent), Action::Wait);
    }
}

/// It says `pending: false` whether it waits or not.
#[test]
fn openclaw_is_never_tainted_for_not_saying_that_it_waits() {
    let told = |kind: &str| Probe::Answered {
        dialect: Dialect::PoolServer,
        kind: Some(kind.into()),
        version: None,
        status: AgentStatus {
            clean: Some(false),
            ..good()
        },
    };
    for case in [
        asked(pending(), waits_no_more()),
        asked(pending(), told("openclaw")),
        asked(hermes(pending()), told("openclaw")),
        asked(pending(), answer(Dialect::Gateway, good())),
    ] {
        let decision = assert_acts(case.memory(|m| m.unbound_for = Some(OVER)), Action::Wait);
        assert_eq!(decision.recheck, seconds(15), "nor asked more often");
    }
}

#[test]
fn whom_nobody_accepted_in_time_is_replaced() {
    let limit = pending().limits.pending_timeout;
    let silent = || Probe::Unreachable("x".into());
    let at = |phase_for: Duration| {
        let case = after(pending(), 0, Some(0)).probe(silent());
        case.memory(|m| m.phase_for = phase_for)
    };
    let decision = assert_acts(at(limit), Action::Delete);
    assert_eq!(decision.reason, Reason::NotAccepted);
    assert!(
        decision.message.contains("4500 s"),
        "says how long it waited"
    );
    let before = assert_acts(at(limit - Duration::from_millis(500)), Action::Wait);
    assert_eq!(before.recheck, Duration::from_millis(500));
    let kept = assert_acts(at(limit).protected(), Action::Wait);
    assert_eq!(kept.reason, Reason::NotAccepted);
    assert!(kept.message.contains("protected"));
    // Who cannot be asked any more is not waited for.
    let starting = at(limit).memory(|m| m.probed = None);
    assert_acts(starting.listed(Liveness::Starting), Action::Delete);
}

#[test]
fn the_providers_word_ends_it_as_it_ends_any_agent_in_use() {
    for (liveness, reason) in [
        (Liveness::Failed, Reason::DeploymentFailed),
        (Liveness::Crashed, Reason::DeploymentCrashed),
        (Liveness::Removed, Reason::DeploymentRemoved),
    ] {
        assert_judged(pending().listed(liveness), Judgement::Crashed, reason);
    }
    let gone = |missing| {
        let mut case = pending().absent();
        case.evidence.presence = Some(Presence::Gone);
        case.memory(|m| m.missing_for = Some(missing))
    };
    assert_acts(gone(Duration::ZERO), Action::Wait);
    assert_judged(gone(seconds(5)), Judgement::Crashed, Reason::Gone);
}

/// Nobody is in a conversation with it: after a look it goes, unlike what a claim was answered with.
#[test]
fn tainted_while_it_waited_it_is_replaced() {
    let tainted = |case: Case| {
        case.judged("Tainted", Reason::NotAccepted)
            .memory(|m| m.step_known_for = seconds(600))
    };
    assert_acts(tainted(pending()), Action::Delete);
    assert_acts(tainted(pending()).protected(), Action::Wait);
    assert_acts(tainted(claimed()), Action::Wait);
    let mut stale = pending();
    let claim = &mut stale.instance.spec.claim.as_mut().unwrap().id;
    "k2".clone_into(claim);
    let unanswered = stale.memory(|m| m.claim_known_for = Duration::ZERO);
    let decision = assert_acts(unanswered, Action::Wait);
    assert_eq!(decision.reason, Reason::Claiming, "another claim's word");
}

#[test]
fn a_memory_from_nothing_asks_soon() {
    let case = pending().listed(Liveness::Running);
    let decision = case.memory(|m| *m = Memory::default()).decide();
    assert!(decision.recheck <= seconds(15), "{decision:?}");
}
