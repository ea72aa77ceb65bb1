//! The phase over every combination of what it is made of.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

/// One combination, as words.
#[derive(Clone, Debug)]
struct Row {
    claimed: bool,
    outcome: Option<(&'static str, &'static str)>,
    release: Option<&'static str>,
    turn: Option<i64>,
    verdict: Option<&'static str>,
    state: Option<&'static str>,
    deleted: bool,
}

fn rows() -> Vec<Row> {
    let outcomes = [
        None,
        Some(("k1", "Bound")),
        Some(("k1", "Pending")),
        Some(("k1", "Novel")),
        Some(("k0", "Bound")),
    ];
    let releases = [None, Some("Destroy"), Some("Recycle")];
    let turns = [None, Some(1), Some(2), Some(3)];
    let verdicts = [
        None,
        Some("Crashed"),
        Some("Tainted"),
        Some("Dead"),
        Some("Novel"),
    ];
    let states = [None, Some("Running"), Some("Sleeping")];
    let mut all = vec![];
    for bits in 0..4 {
        for outcome in outcomes {
            for release in releases {
                for turn in turns {
                    for verdict in verdicts {
                        all.extend(states.map(|state| Row {
                            claimed: bits & 1 == 1,
                            outcome,
                            release,
                            turn,
                            verdict,
                            state,
                            deleted: bits & 2 == 2,
                        }));
                    }
                }
            }
        }
    }
    all
}

fn parts(row: &Row) -> (AgentInstanceSpec, AgentInstanceStatus) {
    let time = "2026-01-01T00:00:00Z";
    let mut spec = json!({"id": "i", "poolRef": {"name": "p"}, "providerName": "n", "turn": 2,
        "template": {"revision": "r", "hash": "h"}});
    if row.claimed {
        spec["claim"] = json!({"id": "k1", "holder": "h", "agentName": "A", "deadline": time, "requestedAt": time});
    }
    if let Some(mode) = row.release {
        spec["release"] = json!({"id": "r", "mode": mode, "requestedAt": time});
    }
    let mut status: Value = json!({"turn": row.turn});
    if let Some((id, outcome)) = row.outcome {
        status["claim"] = json!({"id": id, "outcome": outcome, "joined": false});
    }
    if let Some(state) = row.verdict {
        status["verdict"] = json!({"state": state, "reason": "r", "since": time});
    }
    if let Some(state) = row.state {
        status["provider"] = json!({"state": state});
    }
    (
        serde_json::from_value(spec).unwrap(),
        serde_json::from_value(status).unwrap(),
    )
}

fn each(check: impl Fn(&Row, Phase)) {
    for row in rows() {
        let (spec, status) = parts(&row);
        check(&row, phase(&spec, Some(&status), row.deleted));
    }
}

#[test]
fn deletion_then_verdict_then_release_come_first() {
    each(|row, phase| {
        if row.deleted {
            return assert_eq!(phase, Phase::Terminating, "{row:?}");
        }
        let expected = match (row.verdict, row.release) {
            (Some("Crashed"), _) => Phase::Crashed,
            (Some("Tainted"), _) => Phase::Tainted,
            (Some("Dead"), _) => Phase::Dead,
            (_, Some("Destroy")) => Phase::Terminating,
            (_, Some(_)) => Phase::Recycling,
            _ => return,
        };
        assert_eq!(phase, expected, "{row:?}");
    });
}

#[test]
fn in_stock_is_unclaimed_and_proven_for_the_present_turn() {
    each(|row, phase| {
        let plain =
            !row.deleted && row.release.is_none() && matches!(row.verdict, None | Some("Novel"));
        let in_stock =
            plain && !row.claimed && row.turn == Some(2) && row.state != Some("Sleeping");
        assert_eq!(phase == Phase::Idle, in_stock, "{row:?}");
    });
}

#[test]
fn a_claim_on_a_lost_status_is_somebodys_agent() {
    each(|row, phase| {
        let plain =
            !row.deleted && row.release.is_none() && matches!(row.verdict, None | Some("Novel"));
        if plain && row.claimed && row.turn.is_none() {
            assert_eq!(phase, Phase::Claimed, "{row:?}");
        }
    });
    let (spec, _) = parts(&Row {
        claimed: true,
        outcome: None,
        release: None,
        turn: None,
        verdict: None,
        state: None,
        deleted: false,
    });
    assert_eq!(phase(&spec, None, false), Phase::Claimed);
}

#[test]
fn a_claim_in_flight_is_claiming_until_its_own_outcome_is_recorded() {
    each(|row, phase| {
        let plain =
            !row.deleted && row.release.is_none() && matches!(row.verdict, None | Some("Novel"));
        if !plain || !row.claimed || row.turn.is_none() {
            return;
        }
        let expected = match (row.outcome, row.state) {
            (None | Some(("k0", _)), _) => Phase::Claiming,
            (Some((_, "Pending")), _) => Phase::PendingAcceptance,
            (Some(_), Some("Sleeping")) => Phase::Sleeping,
            (Some(_), _) => Phase::Claimed,
        };
        assert_eq!(phase, expected, "{row:?}");
    });
}

#[test]
fn a_claimed_one_is_never_in_stock_nor_being_built() {
    each(|row, phase| {
        if row.claimed {
            assert!(
                !matches!(phase, Phase::Idle | Phase::Provisioning),
                "{row:?}"
            );
        }
    });
}

#[test]
fn every_phase_comes_up_and_has_its_own_words() {
    let seen: BTreeSet<Phase> = rows()
        .iter()
        .map(|row| {
            let (spec, status) = parts(row);
            phase(&spec, Some(&status), row.deleted)
        })
        .collect();
    assert_eq!(seen, BTreeSet::from(Phase::ALL));
    let words: BTreeSet<&str> = Phase::ALL.iter().map(|p| p.as_str()).collect();
    let wire: BTreeSet<&str> = Phase::ALL.iter().map(|p| p.wire()).collect();
    assert_eq!((words.len(), wire.len()), (11, 11));
}

#[test]
fn the_protected_are_not_claimable() {
    let case = super::super::fixture::idle();
    assert!(is_claimable(&case.instance));
    assert!(!is_claimable(&case.protected().instance));
    assert!(!is_claimable(&super::super::fixture::back().instance));
}
