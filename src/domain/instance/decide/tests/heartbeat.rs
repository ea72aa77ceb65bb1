//! Who is asked how it fares where machines sleep and are billed while they are awake, and what follows from silence.

use super::*;
use crate::domain::agent::Probe;
use crate::domain::instance::decide::{LET_SLEEP, RESTARTS, SILENT_BEATS};
use crate::domain::instance::fixture::*;
use crate::domain::instance::view::Memory;
use crate::domain::resource::Liveness;

const AWAKE: [Liveness; 3] = [Liveness::Running, Liveness::Warm, Liveness::Cold];

fn asked(case: &Case) -> bool {
    let case = case.clone().memory(|m| {
        (m.known_for, m.phase_for) = (seconds(1000), seconds(1000));
        m.held = Some(seconds(0));
    });
    let decision = case.decide();
    assert!(
        matches!(decision.action, Action::Probe | Action::Wait),
        "{decision:?}"
    );
    decision.action == Action::Probe
}

/// Sprites contract, 4.1. No idle one is asked that may sleep: not once in any state, however long it was not.
#[test]
fn who_is_asked_follows_keep_awake_and_no_idle_sleeper_is_woken() {
    let table = |case: fn() -> Case, keep| AWAKE.map(|l| asked(&billed(case(), keep).listed(l)));
    let [always, claimed_only, never] = KEPT;
    assert_eq!(table(idle, always), [true, true, true]);
    assert_eq!(table(idle, claimed_only), [false, false, false]);
    assert_eq!(table(idle, never), [false, false, false]);
    assert_eq!(table(claimed, always), [true, true, true]);
    assert_eq!(table(claimed, claimed_only), [true, true, true]);
    assert_eq!(table(claimed, never), [true, false, false]);
    assert_eq!(table(pending, claimed_only), [true, true, true]);
    assert_eq!(table(pending, never), [true, false, false]);
    // Neither on request nor where no listing can tell.
    let unknown = billed(idle(), claimed_only).memory(|m| m.probe_asked = true);
    assert!(!asked(&unknown));
}

#[test]
fn it_is_asked_at_every_beat_and_rarely_where_it_may_sleep() {
    let due = |case: Case, s: u64| asked(&case.memory(|m| m.probed = Some(seconds(s))));
    let of = |case, keep| billed(case, keep).listed(Liveness::Running);
    for case in [
        of(idle(), KEPT[0]),
        of(claimed(), KEPT[0]),
        of(claimed(), KEPT[1]),
    ] {
        assert_eq!((due(case.clone(), 19), due(case, 20)), (false, true));
    }
    let sleepy = of(claimed(), KEPT[2]);
    let limit = LET_SLEEP.as_secs();
    assert_eq!(
        (due(sleepy.clone(), limit - 1), due(sleepy, limit)),
        (false, true)
    );
    let waits = of(pending(), KEPT[2]);
    assert_eq!(
        (due(waits.clone(), limit - 1), due(waits, limit)),
        (false, true)
    );
}

fn silent(case: Case, beats: u32, restarts: u32) -> Case {
    case.listed(Liveness::Running).memory(|m: &mut Memory| {
        m.silent_beats = beats;
        m.restarts = restarts;
        m.restarted = (restarts > 0).then_some(OVER);
        m.probed = Some(seconds(1));
    })
}

/// Pool contract, 11.1.
#[test]
fn three_silent_beats_are_a_restart_and_three_restarts_the_end() {
    for (keep, case) in [
        (KEPT[0], idle()),
        (KEPT[0], claimed()),
        (KEPT[1], claimed()),
    ] {
        let case = billed(case, keep);
        assert_acts(silent(case.clone(), SILENT_BEATS - 1, 0), Action::Wait);
        for restarts in 0..RESTARTS {
            assert_acts(
                silent(case.clone(), SILENT_BEATS, restarts),
                Action::Restart,
            );
        }
        assert_acts(
            silent(case.clone(), SILENT_BEATS - 1, RESTARTS),
            Action::Wait,
        );
        // Nothing follows while the listing does not show it: then the way to it may be broken.
        let mut unlisted = silent(case.clone(), SILENT_BEATS, RESTARTS);
        unlisted.listed = crate::domain::instance::view::Listed::Unknown;
        assert_acts(unlisted, Action::Wait);
        let end = silent(case, SILENT_BEATS, RESTARTS);
        if end.instance.spec.claim.is_some() {
            assert_judged(end, Judgement::Crashed, Reason::Unreachable);
        } else {
            let decision = assert_acts(end.clone(), Action::Delete);
            assert_eq!(decision.reason, Reason::Unreachable);
            assert_judged(end.protected(), Judgement::Dead, Reason::Unreachable);
        }
    }
}

#[test]
fn who_may_sleep_is_never_judged_by_silence() {
    let probe = || Probe::Unreachable("x".into());
    for case in [
        billed(idle(), KEPT[1]),
        billed(claimed(), KEPT[2]),
        idle(),
        claimed(),
    ] {
        assert_acts(silent(case, 99, 99).probe(probe()), Action::Wait);
    }
}

#[test]
fn restarts_are_ever_further_apart() {
    let after = |restarts, s| {
        let case = billed(idle(), KEPT[0]);
        silent(case, SILENT_BEATS, restarts).memory(|m| m.restarted = Some(seconds(s)))
    };
    for (restarts, wait) in [(1, 40), (2, 80)] {
        assert_acts(after(restarts, wait - 1), Action::Wait);
        assert_acts(after(restarts, wait), Action::Restart);
    }
}

#[test]
fn one_in_use_that_sleeps_is_told_to_stay_awake_where_it_is_to_listen() {
    let case = |keep, liveness, phase_for, held: Option<u64>| {
        billed(claimed(), keep).listed(liveness).memory(|m| {
            m.phase_for = seconds(phase_for);
            m.held = held.map(seconds);
            m.probed = Some(seconds(1));
        })
    };
    for liveness in [Liveness::Warm, Liveness::Cold] {
        assert_acts(case(KEPT[1], liveness, 30, None), Action::Hold);
        assert_acts(case(KEPT[1], liveness, 30, Some(60)), Action::Hold);
        assert_acts(case(KEPT[1], liveness, 30, Some(59)), Action::Wait);
        assert_acts(case(KEPT[1], liveness, 29, None), Action::Wait);
        assert_acts(case(KEPT[2], liveness, 30, None), Action::Wait);
    }
    assert_acts(case(KEPT[1], Liveness::Running, 30, None), Action::Wait);
}

#[test]
fn warm_and_cold_are_in_stock_and_in_use_like_those_that_run() {
    for keep in KEPT {
        for liveness in AWAKE {
            for case in [idle(), claimed()] {
                let case = billed(case, keep).listed(liveness);
                let case = case.memory(|m| m.probed = Some(seconds(1)));
                assert_acts(case, Action::Wait);
            }
        }
    }
}
