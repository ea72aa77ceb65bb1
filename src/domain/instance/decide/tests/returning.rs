//! Sleepers that are woken, agents that wait for a person, and the crashed that come back.

use super::super::super::fixture::*;
use super::super::{Action, Change, Judgement, WAKE_LIMIT};
use super::{OVER, assert_acts, assert_judged};
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, Probe};
use crate::domain::instance::phase::{Phase, phase_of};
use crate::domain::resource::Liveness;

fn sleeping(case: Case) -> Case {
    case.listed(Liveness::Sleeping)
}

fn may_sleep(mut case: Case) -> Case {
    case.limits.may_sleep = true;
    case
}

#[test]
fn a_sleeper_in_stock_is_woken_once_and_recorded_before() {
    for case in [idle(), asleep(idle())] {
        assert_acts(sleeping(case), Action::Record(Change::Wake));
    }
    // Recorded by this process and not sent yet: sent, once.
    let permitted = sleeping(waking()).memory(|m| m.permit = true);
    assert_acts(permitted, Action::Probe);
    // By another process, or sent: waited for, however long the last probe is ago.
    for probed in [None, Some(OVER)] {
        assert_acts(
            sleeping(waking()).memory(|m| m.probed = probed),
            Action::Wait,
        );
    }
    // A listing that cannot tell wakes nobody.
    assert_acts(asleep(idle()), Action::Wait);
    assert_acts(waking().memory(|m| m.probed = Some(OVER)), Action::Wait);
}

#[test]
fn a_sleeper_is_back_in_stock_when_it_runs_and_answers() {
    assert_eq!(
        phase_of(&waking().instance),
        Phase::Sleeping,
        "out of stock"
    );
    assert_eq!(phase_of(&woken_before().instance), Phase::Idle);
    let running = waking().listed(Liveness::Running);
    assert_acts(running.clone(), Action::Probe);
    assert_acts(
        running.clone().probe(says(good())),
        Action::Record(Change::Woken),
    );
    for not_yet in [
        Probe::Unreachable("x".into()),
        says(AgentStatus {
            ready: false,
            ..good()
        }),
    ] {
        assert_acts(running.clone().probe(not_yet), Action::Wait);
    }
    // Its answer to the wake counts when the provider says that it runs, not before.
    assert_acts(sleeping(waking()).probe(says(good())), Action::Wait);
    assert_judged(
        running.probe(bound_to(Some("c9"))),
        Judgement::Tainted,
        Reason::UnknownConversation,
    );
}

#[test]
fn a_sleeper_that_does_not_come_up_or_sleeps_again_is_dead() {
    let late = |case: Case| case.memory(|m| m.step_known_for = WAKE_LIMIT);
    let early = WAKE_LIMIT - std::time::Duration::from_millis(1);
    assert_acts(
        sleeping(waking()).memory(|m| m.step_known_for = early),
        Action::Wait,
    );
    assert_judged(late(sleeping(waking())), Judgement::Dead, Reason::Sleeping);
    let silent = waking().listed(Liveness::Running);
    let silent = silent.probe(Probe::Unreachable("x".into()));
    assert_judged(late(silent), Judgement::Dead, Reason::Sleeping);
    assert_judged(sleeping(woken_before()), Judgement::Dead, Reason::Sleeping);
    assert_acts(woken_before().listed(Liveness::Running), Action::Probe);
}

#[test]
fn a_sleeper_whose_template_lets_it_sleep_is_left_alone() {
    for case in [idle(), asleep(idle()), woken_before()] {
        for probed in [None, Some(OVER)] {
            let case = may_sleep(sleeping(case.clone())).memory(|m| m.probed = probed);
            assert_eq!(assert_acts(case, Action::Wait).reason, Reason::Sleeping);
        }
    }
    // Somebody else woke it.
    let awake = may_sleep(asleep(idle())).listed(Liveness::Running);
    assert_acts(awake, Action::Probe);
}

#[test]
fn what_waits_for_a_person_at_the_provider_says_so_until_it_is_stuck() {
    let mut case = building(2, "Running").listed(Liveness::Blocked);
    case.progress = Some(crate::domain::plan::Seen::Running);
    let decision = assert_acts(case.clone(), Action::Wait);
    assert_eq!(decision.reason, Reason::NeedsApproval);
    assert_judged(
        case.memory(|m| m.phase_for = seconds(900)),
        Judgement::Dead,
        Reason::Stuck,
    );
    for case in [claimed(), pending()] {
        let case = case.listed(Liveness::Blocked);
        assert_acts(case.memory(|m| m.probed = Some(seconds(1))), Action::Wait);
    }
}

fn crashed() -> Case {
    claimed().judged("Crashed", Reason::DeploymentCrashed)
}

#[test]
fn a_crashed_agent_that_shows_its_conversation_again_is_in_use_again() {
    let back = crashed().listed(Liveness::Running);
    assert_acts(back.clone(), Action::Probe);
    assert_acts(
        back.clone().memory(|m| m.probed = Some(seconds(1))),
        Action::Wait,
    );
    let shown = back.clone().probe(bound_to(Some(CONVERSATION)));
    let decision = assert_acts(shown, Action::Record(Change::Revive));
    assert_eq!(decision.reason, Reason::Claimed);
    // Silent, or not ready: as before.
    for silence in silences() {
        assert_acts(back.clone().probe(silence), Action::Wait);
    }
    let loading = says(AgentStatus {
        ready: false,
        ..good()
    });
    assert_acts(back.probe(loading), Action::Wait);
}

#[test]
fn a_crashed_agent_without_its_conversation_stays_and_says_why() {
    for (shown, reason) in [
        (Some("c9"), Reason::UnknownConversation),
        (None, Reason::ConversationLost),
    ] {
        let back = crashed().listed(Liveness::Running).probe(bound_to(shown));
        assert_judged(back, Judgement::Crashed, reason);
        // Said once.
        let told = claimed().judged("Crashed", reason);
        let told = told.listed(Liveness::Running).probe(bound_to(shown));
        assert_eq!(assert_acts(told, Action::Wait).reason, reason);
    }
}

#[test]
fn nothing_but_its_own_run_is_looked_at_of_a_crashed_agent() {
    for listed in listings() {
        let mut case = crashed();
        case.listed = listed.clone();
        if listed != present(Liveness::Running) {
            assert_acts(case, Action::Wait);
        }
    }
    // A claim of which nothing is recorded, or another claim's record.
    let mut stale = crashed().listed(Liveness::Running);
    let status = stale.instance.status.as_mut().unwrap();
    status.claim.as_mut().unwrap().id = "k0".into();
    assert_acts(stale.clone(), Action::Wait);
    stale.instance.status.as_mut().unwrap().claim = None;
    assert_acts(stale, Action::Wait);
}

#[test]
fn without_any_deployment_it_was_removed_and_that_is_read_twice() {
    let bare = |mut case: Case, s, presence| {
        let status = case.instance.status.as_mut().unwrap();
        status.provider.as_mut().unwrap().deployment_id = Some("d1".into());
        case.evidence.presence = presence;
        case.listed(Liveness::Created)
            .memory(|m| m.stopped_for = Some(seconds(s)))
    };
    for (case, judgement) in [
        (claimed(), Judgement::Crashed),
        (idle(), Judgement::Dead),
        (building(3, "Intended"), Judgement::Dead),
    ] {
        assert_acts(bare(case.clone(), 4, None), Action::Wait);
        assert_acts(bare(case.clone(), 5, None), Action::Observe);
        let runs = Some(read(Liveness::Running));
        assert_acts(bare(case.clone(), 5, runs), Action::Wait);
        let confirmed = bare(case, 5, Some(read(Liveness::Created)));
        assert_judged(confirmed, judgement, Reason::DeploymentRemoved);
    }
    // One that was never deployed by us is not missing anything.
    let never = claimed().listed(Liveness::Created);
    assert_acts(never.memory(|m| m.stopped_for = Some(OVER)), Action::Wait);
}
