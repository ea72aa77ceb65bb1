//! The transitions of an instance in stock, in use and at its end: contract of the agent runtimes, 14.4. And those
//! that it must not make.

use std::time::Duration;

use super::super::super::fixture::*;
use super::super::super::view::Evidence;
use super::super::{
    Action, COUNTED_LOOK, COUNTED_WITHIN, Change, Judgement, TWICE_APART, UNBOUND_APART,
};
use super::{OVER, assert_acts, assert_judged};
use crate::api::condition::Reason;
use crate::domain::agent::AgentStatus;
use crate::domain::plan::{Class, Facts};
use crate::domain::resource::{Liveness, Presence};

// ---- in stock -------------------------------------------------------------------------------------------------

#[test]
fn idle_is_probed_once_per_tick() {
    let case = idle().listed(Liveness::Running);
    let fresh = case.clone().memory(|m| m.probed = Some(seconds(29)));
    let decision = assert_acts(fresh, Action::Wait);
    assert_eq!(decision.recheck, seconds(1));
    assert_acts(
        case.clone().memory(|m| m.probed = Some(seconds(30))),
        Action::Probe,
    );
    let asked = case.memory(|m| (m.probed, m.probe_asked) = (Some(seconds(1)), true));
    assert_acts(asked, Action::Probe);
}

/// After a restart thousands of agents have to be probed: not at once, and all within the first tick.
#[test]
fn the_first_probes_of_a_process_are_spread_over_a_tick() {
    let mut due = [0_u32; 30];
    for i in 0..3000 {
        let mut case = idle().listed(Liveness::Running);
        case.instance.spec.id = format!("{i:012}");
        let at = |s: u64| {
            case.clone()
                .memory(move |m| (m.probed, m.known_for) = (None, seconds(s)))
        };
        let first = (0..=30).find(|s| at(*s).decide().action == Action::Probe);
        due[first.map_or(0, |s| s.saturating_sub(1) as usize)] += 1;
        assert!(first.is_some(), "every agent within the tick");
    }
    assert!(due.iter().all(|n| (50..200).contains(n)), "{due:?}");
}

/// Only in stock, only where one is recorded, and only past the listing's lag and by a direct read.
#[test]
fn idle_without_its_volume_is_replaced_and_claimed_is_not() {
    let with_volume = |mut case: Case| {
        let status = case.instance.status.as_mut().unwrap();
        status.provider.get_or_insert_default().volume_id = Some("v1".into());
        case.limits.list_lag = seconds(30);
        case.listed(Liveness::Running)
            .memory(|m| (m.probed, m.stopped_for) = (Some(seconds(1)), Some(seconds(30))))
    };
    let read = |liveness| Evidence {
        presence: Some(Presence::Present(Box::new(resource(liveness)))),
        ..Evidence::default()
    };
    let case = with_volume(idle());
    let soon = case.clone().memory(|m| m.stopped_for = Some(seconds(29)));
    assert_acts(soon, Action::Wait);
    assert_acts(case.clone(), Action::Observe);
    let lost = case.clone().evidence(read(Liveness::Running));
    assert_judged(lost, Judgement::Dead, Reason::VolumeMissing);
    let mut there = resource(Liveness::Running);
    there.facts = Facts::from([("volumeId".into(), "v1".into())]);
    let found = case.clone().evidence(Evidence {
        presence: Some(Presence::Present(Box::new(there))),
        ..Evidence::default()
    });
    assert_acts(found, Action::Wait);
    let unrecorded = idle()
        .listed(Liveness::Running)
        .memory(|m| (m.probed, m.stopped_for) = (Some(seconds(1)), Some(OVER)));
    assert_acts(unrecorded, Action::Wait);
    let claimed = with_volume(claimed()).evidence(read(Liveness::Running));
    assert_acts(claimed, Action::Wait);
}

#[test]
fn idle_found_bound_or_dirty_is_tainted() {
    let idle = idle().listed(Liveness::Running);
    let bound = idle.clone().probe(bound_to(Some("c9")));
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
    ] {
        assert_judged(
            idle.clone().probe(says(bad)),
            Judgement::Tainted,
            Reason::NotClean,
        );
    }
    // It cannot tell any more: no sign of anything.
    assert_acts(
        idle.probe(says(AgentStatus {
            clean: None,
            ..good()
        })),
        Action::Wait,
    );
}

#[test]
fn idle_that_the_provider_ended_is_dead() {
    for (liveness, reason) in [
        (Liveness::Failed, Reason::DeploymentFailed),
        (Liveness::Crashed, Reason::DeploymentCrashed),
        (Liveness::Removed, Reason::DeploymentRemoved),
        (Liveness::Stopped, Reason::Stopped),
    ] {
        assert_judged(idle().listed(liveness), Judgement::Dead, reason);
        assert_judged(
            building(4, "Intended").listed(liveness),
            Judgement::Dead,
            reason,
        );
    }
}

#[test]
fn missing_in_a_listing_is_read_directly_before_it_is_gone() {
    let missing = |case: Case, ms, presence| {
        let evidence = Evidence {
            presence,
            ..Evidence::default()
        };
        case.absent()
            .evidence(evidence)
            .memory(|m| m.missing_for = Some(Duration::from_millis(ms)))
    };
    let gone = Some(Presence::Gone);
    for case in [idle(), back(), claimed(), pending()] {
        assert_acts(missing(case.clone(), 4_999, None), Action::Wait);
        assert_acts(missing(case.clone(), 5_000, None), Action::Observe);
        for not_gone in [Presence::Unknown, read(Liveness::Running)] {
            assert_acts(missing(case.clone(), 60_000, Some(not_gone)), Action::Wait);
        }
        assert_acts(missing(case, 0, gone.clone()), Action::Wait);
    }
    assert_acts(missing(idle(), 5_000, gone.clone()), Action::Delete);
    for case in [claimed(), pending()] {
        assert_judged(
            missing(case, 5_000, gone.clone()),
            Judgement::Crashed,
            Reason::Gone,
        );
    }
    // A protected one stays for its person, out of stock.
    assert_judged(
        missing(idle().protected(), 5_000, gone),
        Judgement::Dead,
        Reason::Gone,
    );
}

#[test]
fn a_provider_that_does_not_answer_ends_nothing() {
    for case in [idle(), claimed(), back()] {
        let evidence = Evidence {
            trouble: Some(trouble(Class::Unauthorized, None)),
            ..Evidence::default()
        };
        let case = case
            .absent()
            .evidence(evidence)
            .memory(|m| m.missing_for = Some(OVER));
        assert_acts(case, Action::Wait);
    }
}

// ---- claimed --------------------------------------------------------------------------------------------------

#[test]
fn a_claim_has_its_whole_deadline_and_a_little_more() {
    let aged = |case: Case, s| case.memory(|m| m.claim_known_for = seconds(s));
    assert_acts(aged(claiming(), 154), Action::Wait);
    let decision = assert_acts(aged(claiming(), 155), Action::Delete);
    assert_eq!(decision.reason, Reason::ClaimInterrupted);
    assert_acts(aged(claiming().protected(), 155), Action::Wait);
    // Whatever listing and agent say: it is the claim's own.
    let busy = aged(claiming(), 10)
        .listed(Liveness::Crashed)
        .probe(bound_to(Some("c9")));
    assert_acts(busy, Action::Wait);
}

#[test]
fn a_claimed_agent_that_the_provider_ended_is_crashed() {
    for (liveness, reason) in [
        (Liveness::Failed, Reason::DeploymentFailed),
        (Liveness::Crashed, Reason::DeploymentCrashed),
        (Liveness::Removed, Reason::DeploymentRemoved),
    ] {
        assert_judged(claimed().listed(liveness), Judgement::Crashed, reason);
        assert_judged(pending().listed(liveness), Judgement::Crashed, reason);
    }
}

#[test]
fn stopped_is_believed_when_a_direct_read_says_so_too() {
    let stopped = |s, presence| {
        let evidence = Evidence {
            presence,
            ..Evidence::default()
        };
        claimed()
            .listed(Liveness::Stopped)
            .evidence(evidence)
            .memory(|m| m.stopped_for = Some(seconds(s)))
    };
    assert_acts(stopped(4, None), Action::Wait);
    assert_acts(stopped(5, None), Action::Observe);
    assert_acts(stopped(5, Some(read(Liveness::Running))), Action::Wait);
    assert_acts(stopped(4, Some(read(Liveness::Stopped))), Action::Wait);
    assert_judged(
        stopped(5, Some(read(Liveness::Stopped))),
        Judgement::Crashed,
        Reason::Stopped,
    );
}

#[test]
fn a_claimed_sleeper_sleeps() {
    for case in [
        claimed().listed(Liveness::Sleeping),
        asleep(claimed()).listed(Liveness::Sleeping),
        asleep(claimed()),
    ] {
        assert_acts(case.memory(|m| m.probed = None), Action::Wait);
    }
}

#[test]
fn a_lost_conversation_is_believed_in_the_second_reading() {
    let reading = |conversation, ago| {
        let case = claimed()
            .listed(Liveness::Running)
            .probe(bound_to(conversation));
        case.memory(|m| m.unbound_for = ago)
    };
    let first = UNBOUND_APART - Duration::from_millis(1);
    for ago in [None, Some(Duration::ZERO), Some(first)] {
        assert_acts(reading(None, ago), Action::Wait);
        assert_acts(reading(Some("c2"), ago), Action::Wait);
    }
    // Never Idle, however clean it says it is.
    assert_judged(
        reading(None, Some(UNBOUND_APART)),
        Judgement::Crashed,
        Reason::ConversationLost,
    );
    assert_judged(
        reading(Some("c2"), Some(UNBOUND_APART)),
        Judgement::Tainted,
        Reason::UnknownConversation,
    );
    assert_acts(reading(Some(CONVERSATION), Some(OVER)), Action::Wait);
}

#[test]
fn a_lost_status_is_left_alone() {
    for listed in listings() {
        let mut case = status_lost().memory(|m| m.missing_for = Some(OVER));
        case.listed = listed;
        case.evidence.presence = Some(Presence::Gone);
        let decision = assert_acts(case, Action::Wait);
        assert_eq!(decision.reason, Reason::StatusLost);
    }
}

#[test]
fn of_a_lost_status_the_ids_are_found_again() {
    let mut case = status_lost();
    assert_acts(case.clone(), Action::Observe);
    case.evidence.presence = Some(read(Liveness::Running));
    let decision = assert_acts(case, Action::Record(Change::Found(Facts::new())));
    assert_eq!(decision.reason, Reason::StatusLost);
    let trouble = Some(trouble(Class::Transient, None));
    let mut blind = status_lost();
    blind.evidence.trouble = trouble;
    assert_eq!(assert_acts(blind, Action::Wait).reason, Reason::StatusLost);

    // Found, it is watched as others are, but never called.
    let found = || {
        let mut case = status_lost();
        let status = case.instance.status.get_or_insert_default();
        status.provider.get_or_insert_default().id = Some("s1".into());
        case
    };
    let decision = assert_acts(found().listed(Liveness::Running), Action::Wait);
    assert_eq!(decision.reason, Reason::StatusLost);
    assert_judged(
        found().listed(Liveness::Crashed),
        Judgement::Crashed,
        Reason::DeploymentCrashed,
    );
}

#[test]
fn released_by_its_user_is_terminating_even_when_crashed() {
    for case in [
        claimed(),
        pending(),
        claimed().judged("Crashed", Reason::Gone),
    ] {
        assert_acts(case.released("Destroy"), Action::Delete);
    }
}

#[test]
fn a_provider_that_cannot_restore_is_not_asked_to() {
    for listed in listings() {
        let mut case = claimed().released("Recycle").memory(|m| m.phase_for = OVER);
        case.listed = listed;
        let decision = assert_acts(case, Action::Wait);
        assert_eq!(decision.reason, Reason::NotSupported);
    }
}

// ---- judged and going -----------------------------------------------------------------------------------------

#[test]
fn the_dead_and_tainted_are_kept_for_a_look() {
    for (state, reason) in [("Dead", Reason::Stuck), ("Tainted", Reason::NotClean)] {
        let judged = |s| {
            idle()
                .judged(state, reason)
                .memory(|m| m.step_known_for = seconds(s))
        };
        assert_acts(judged(599), Action::Wait);
        assert_acts(judged(600), Action::Delete);
        assert_acts(judged(600).protected(), Action::Wait);
    }
    assert_acts(
        building(0, "Intended").judged("Dead", Reason::CreateFailed),
        Action::Delete,
    );
}

/// Gone before its pool had looked it would count as nothing, and the breaker would never open.
#[test]
fn a_failed_creation_waits_until_it_is_counted() {
    let failed = |known_for, counted| {
        let mut case = building(0, "Intended")
            .judged("Dead", Reason::CreateFailed)
            .memory(|m| m.step_known_for = known_for);
        case.limits.counted = counted;
        case
    };
    let decision = assert_acts(failed(Duration::ZERO, false), Action::Wait);
    assert_eq!(decision.recheck, COUNTED_LOOK);
    let almost = COUNTED_WITHIN - Duration::from_millis(1);
    assert_acts(failed(almost, false), Action::Wait);
    assert_acts(failed(COUNTED_WITHIN, false), Action::Delete);
    assert_acts(failed(Duration::ZERO, true), Action::Delete);
    // What was in stock once is no failed creation, and is kept for a look as ever.
    let mut proven = idle()
        .judged("Dead", Reason::Stuck)
        .memory(|m| m.step_known_for = seconds(600));
    proven.limits.counted = false;
    assert_acts(proven, Action::Delete);
}

/// It is in another conversation than the one that was answered: nobody else is given it, and nobody takes it away.
#[test]
fn the_tainted_that_somebody_was_given_are_kept_for_a_person() {
    let tainted = claimed()
        .judged("Tainted", Reason::UnknownConversation)
        .memory(|m| m.step_known_for = OVER);
    let decision = assert_acts(tainted.clone(), Action::Wait);
    assert!(decision.message.contains("release it or delete it"));
    let unanswered = claiming()
        .judged("Tainted", Reason::UnknownConversation)
        .memory(|m| m.step_known_for = OVER);
    assert_acts(unanswered, Action::Delete);
}

#[test]
fn the_crashed_are_kept_for_a_person() {
    let crashed = claimed()
        .judged("Crashed", Reason::Gone)
        .memory(|m| m.step_known_for = OVER);
    assert_acts(crashed, Action::Wait);
}

#[test]
fn a_verdict_of_a_later_version_ends_nothing() {
    let novel = claimed()
        .judged("Novel", Reason::Stuck)
        .memory(|m| m.step_known_for = OVER);
    assert_acts(novel, Action::Wait);
}

#[test]
fn the_finalizer_goes_when_the_provider_confirmed() {
    let removal = |case: Case, removal| {
        case.deleted().evidence(Evidence {
            removal,
            ..Evidence::default()
        })
    };
    assert_acts(removal(idle(), None), Action::Destroy);
    for not_yet in [Presence::Unknown, read(Liveness::Removed)] {
        let decision = assert_acts(removal(idle(), Some(not_yet)), Action::Wait);
        assert_eq!(decision.reason, Reason::DeletionPending);
    }
    for case in [idle(), claimed(), fresh()] {
        assert_acts(removal(case, Some(Presence::Gone)), Action::RemoveFinalizer);
    }
}

/// One listing that lacks it is no proof: what lost its status may have something under its name.
#[test]
fn of_unknown_history_gone_counts_past_the_lag_only() {
    for case in [unknown(), status_lost()] {
        let gone = |for_| {
            let evidence = Evidence {
                removal: Some(Presence::Gone),
                ..Evidence::default()
            };
            let case = case.clone().deleted().evidence(evidence);
            case.memory(|m| m.missing_for = for_)
        };
        let lag = gone(None).limits.list_lag;
        for early in [
            None,
            Some(TWICE_APART),
            Some(lag - Duration::from_millis(1)),
        ] {
            assert_acts(gone(early), Action::Wait);
        }
        assert_acts(gone(Some(lag)), Action::RemoveFinalizer);
    }
}

#[test]
fn a_refused_removal_waits_and_tells_the_provider_s_words() {
    for class in CLASSES {
        let evidence = Evidence {
            trouble: Some(trouble(class, None)),
            ..Evidence::default()
        };
        let decision = assert_acts(idle().deleted().evidence(evidence), Action::Wait);
        let own = matches!(class, Class::Unauthorized | Class::Throttled);
        let expected = if own {
            Reason::ProviderUnavailable
        } else {
            Reason::DeletionPending
        };
        assert_eq!(decision.reason, expected, "{class:?}");
        // The provider's word, and where only a person can help also what lets it go.
        assert!(decision.message.contains('m'), "{}", decision.message);
        let helps = matches!(class, Class::Unauthorized | Class::Rejected);
        let way_out = "kubectl annotate agentinstance agent-i1 pool.convos.org/abandon=true";
        assert_eq!(decision.message.contains(way_out), helps, "{class:?}");
    }
}

#[test]
fn after_an_uncertain_create_gone_counts_past_the_lag_only() {
    let gone = |for_: Option<Duration>| {
        let evidence = Evidence {
            removal: Some(Presence::Gone),
            ..Evidence::default()
        };
        building(0, "Intended")
            .deleted()
            .evidence(evidence)
            .memory(|m| {
                m.missing_for = for_;
                m.known_for = OVER;
            })
    };
    let lag = gone(None).limits.list_lag;
    for early in [
        None,
        Some(TWICE_APART),
        Some(lag - Duration::from_millis(1)),
    ] {
        assert_acts(gone(early), Action::Wait);
    }
    assert_acts(gone(Some(lag)), Action::RemoveFinalizer);
}

#[test]
fn without_a_credential_deletion_waits_until_abandoned() {
    let evidence = Evidence {
        trouble: Some(trouble(Class::Unauthorized, None)),
        ..Evidence::default()
    };
    let mut case = idle().deleted().evidence(evidence);
    assert_acts(case.clone(), Action::Wait);
    case.instance.metadata.annotations =
        Some([(crate::api::ANNOTATION_ABANDON.to_owned(), "true".to_owned())].into());
    assert_acts(case, Action::RemoveFinalizer);
}
