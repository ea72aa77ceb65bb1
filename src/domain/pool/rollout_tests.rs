//! Step by step, by name; and any pool to its end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::decide::Decision;
use super::super::fixture::{World, member, world};
use super::*;
use crate::domain::drift::Drift;
use crate::domain::invariant::pool_broken;

fn rolling(change: Value) -> World {
    let mut spec = json!({"minIdle": 3, "rollout": {"strategy": "RollingIdle", "maxUnavailable": 1, "maxSurge": 1}});
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    world(spec)
}

fn old(mut world: World) -> World {
    for m in &mut world.members {
        m.drift = Some(Drift::Template);
    }
    world
}

fn decided(world: &World) -> Decision {
    let decision = world.decide();
    assert_eq!(
        pool_broken(&world.view(), &decision),
        Vec::<&str>::new(),
        "{decision:?}"
    );
    decision
}

/// How many are deleted and created.
fn step_of(world: &World) -> (usize, usize) {
    let decision = decided(world);
    (decision.delete.len(), decision.create.len())
}

fn because(world: &World) -> Option<Reason> {
    decided(world).rollout.reason
}

#[test]
fn where_there_is_room_the_new_one_comes_first() {
    let mut world = old(rolling(json!({})).with(Phase::Idle, 3));
    assert_eq!(step_of(&world), (0, 1), "a surge of one, and nothing goes");
    world.members.push(member("new", Phase::Provisioning));
    assert_eq!(step_of(&world), (0, 0), "it is not proven yet");
    world.members[3].phase = Phase::Idle;
    let decision = decided(&world);
    assert_eq!(
        decision.delete,
        ["agent-idle0"],
        "the oldest goes, and the next is built"
    );
    assert_eq!(decision.create.len(), 1);
    assert_eq!(decision.rollout.reason, Some(Reason::RollingOut));
}

/// Neither begins nor goes on; a pool that is short is filled all the same.
#[test]
fn a_roll_out_waits_while_the_request_limit_is_kept_for_others() {
    let of = |idle, no_room| {
        let mut world = old(rolling(json!({})).with(Phase::Idle, idle));
        world.listing.no_room = no_room;
        (step_of(&world), because(&world))
    };
    assert_eq!(of(3, false), ((0, 1), Some(Reason::RollingOut)));
    assert_eq!(of(3, true), ((0, 0), Some(Reason::QuotaReserved)));
    assert_eq!(of(2, true), ((0, 1), Some(Reason::QuotaReserved)));
    assert_eq!(
        of(5, true),
        ((0, 0), Some(Reason::QuotaReserved)),
        "nor does one go"
    );
}

#[test]
fn what_a_roll_out_builds_beside_the_minimum_is_not_urgent() {
    let of = |idle: i32, drifted: i32, reason: &str| {
        let mut world = rolling(json!({}));
        let condition = json!({"type": "RolledOut", "status": "False", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"idle": idle, "drifted": drifted, "conditions": [condition]});
        world.pool.status = Some(serde_json::from_value(status).unwrap());
        purpose(Some(&world.pool))
    };
    assert_eq!(of(3, 2, "RollingOut"), Purpose::Drift);
    assert_eq!(of(4, 1, "QuotaReserved"), Purpose::Drift);
    assert_eq!(of(2, 2, "RollingOut"), Purpose::Refill, "one is missing");
    assert_eq!(of(3, 2, "Drifted"), Purpose::Create, "a request's");
    assert_eq!(of(3, 0, "UpToDate"), Purpose::Create);
    assert_eq!(purpose(None), Purpose::Create);
}

#[test]
fn where_there_is_none_as_many_as_may_be_missing_are() {
    for change in [
        json!({"maxTotal": 3}),
        json!({"rollout": {"strategy": "RollingIdle", "maxUnavailable": 1, "maxSurge": 0}}),
    ] {
        let mut world = old(rolling(change).with(Phase::Idle, 3));
        assert_eq!(step_of(&world), (1, 0));
        world.members.remove(0);
        // Its place is refilled as any other.
        assert_eq!(step_of(&world), (0, 1));
        world.members.push(member("new", Phase::Provisioning));
        assert_eq!(step_of(&world), (0, 0));
        world.members[2].phase = Phase::Idle;
        assert_eq!(step_of(&world), (1, 0));
    }
    let none = json!({"strategy": "RollingIdle", "maxUnavailable": 0, "maxSurge": 1});
    let world = old(rolling(json!({"maxTotal": 3, "rollout": none})).with(Phase::Idle, 3));
    assert_eq!(
        (step_of(&world), because(&world)),
        ((0, 0), Some(Reason::MaxTotalReached))
    );
}

#[test]
fn what_is_claimed_being_claimed_protected_or_waiting_is_never_touched() {
    for phase in Phase::ALL.into_iter().filter(|p| *p != Phase::Idle) {
        let world = old(rolling(json!({"minIdle": 0})).with(phase, 5));
        assert_eq!(step_of(&world).0, 0, "{phase}");
    }
    let mut world = old(rolling(json!({"minIdle": 0})).with(Phase::Idle, 5));
    assert_eq!(step_of(&world).0, 5);
    world.members.iter_mut().for_each(|m| m.protected = true);
    assert_eq!(
        (step_of(&world), because(&world)),
        ((0, 0), Some(Reason::Drifted))
    );
}

#[test]
fn without_the_strategy_or_while_paused_it_is_only_told() {
    let told = |change| {
        let world = old(rolling(change).with(Phase::Idle, 3));
        assert_eq!(step_of(&world), (0, 0));
        assert_eq!(decided(&world).rollout.drifted, 3);
        because(&world)
    };
    assert_eq!(
        told(json!({"rollout": {"strategy": "OnDrain"}})),
        Some(Reason::Drifted)
    );
    assert_eq!(told(json!({"paused": ["Rollout"]})), Some(Reason::Paused));
    let fresh = rolling(json!({})).with(Phase::Idle, 3);
    assert_eq!(because(&fresh), Some(Reason::UpToDate));
}

/// Refill, roll-out and claims are held separately: a full pool rolls on without refills, a short one waits.
#[test]
fn a_held_refill_is_not_done_by_the_back_door() {
    let of = |idle| old(rolling(json!({"paused": ["Refill"]})).with(Phase::Idle, idle));
    assert_eq!(step_of(&of(3)), (0, 1));
    assert_eq!(
        (step_of(&of(2)), because(&of(2))),
        ((0, 0), Some(Reason::Paused))
    );
    let full = old(rolling(json!({"paused": ["Refill"], "maxTotal": 3})).with(Phase::Idle, 3));
    assert_eq!(
        (step_of(&full), because(&full)),
        ((0, 0), Some(Reason::Paused))
    );
    // A held roll-out does not hold refills.
    let short = old(rolling(json!({"paused": ["Rollout"]})).with(Phase::Idle, 1));
    assert_eq!(step_of(&short), (0, 2));
}

/// A surplus is not thrown away before one of the new kind has come up.
#[test]
fn a_surplus_waits_for_the_first_new_one() {
    let mut world = old(rolling(json!({})).with(Phase::Idle, 10));
    assert_eq!(step_of(&world), (0, 1));
    world.members.push(member("new", Phase::Idle));
    assert_eq!(
        step_of(&world),
        (8, 1),
        "down to the minimum, and on from there"
    );
}

/// The new kind fails: it is tried as often as the breaker allows, and the old ones stay.
#[test]
fn a_rollout_whose_new_ones_fail_stops_and_says_so() {
    for change in [json!({}), json!({"maxTotal": 3})] {
        let mut world = old(rolling(change.clone()).with(Phase::Idle, 3));
        let mut tried = 0;
        for _ in 0..40 {
            world.draw();
            decided(&world);
            let decision = world.pass();
            world
                .members
                .retain(|m| !decision.delete.contains(&m.object));
            world.create();
            for m in world
                .members
                .iter_mut()
                .filter(|m| m.phase == Phase::Provisioning)
            {
                m.phase = Phase::Dead;
                m.creation_failed = Some("no such image".into());
                tried += 1;
            }
            world.pass();
            world.members.retain(|m| m.phase != Phase::Dead);
            world.later(1);
        }
        let policy = world.pool.spec.circuit_breaker.failures;
        let decision = decided(&world);
        assert_eq!(tried, policy, "{change}");
        assert!(decision.breaker.is_open(world.now));
        assert_eq!(decision.rollout.reason, Some(Reason::CreationsFailing));
        assert!(
            decision.rollout.message.contains("no such image"),
            "{}",
            decision.rollout.message
        );
        let idle = world
            .members
            .iter()
            .filter(|m| m.phase == Phase::Idle)
            .count();
        assert!(idle >= if change == json!({}) { 3 } else { 2 }, "{idle}");
        // Reverting the change ends it: what stands there is what the pool would build.
        world.members.iter_mut().for_each(|m| m.drift = None);
        assert_eq!(because(&world), Some(Reason::UpToDate));
    }
}

/// Every small pool, every limit: table over the product.
#[test]
fn every_small_pool_keeps_the_rules_and_comes_to_its_end() {
    for min in 0..4 {
        for (unavailable, surge) in [(0, 1), (1, 0), (1, 1), (2, 0), (0, 3), (3, 3)] {
            for max in [None, Some(min), Some(min + 1), Some(min + 4)] {
                for (idle, building, claimed) in
                    (0..6).flat_map(|i| (0..3).flat_map(move |b| (0..2).map(move |c| (i, b, c))))
                {
                    let mut spec = json!({"minIdle": min, "rollout":
                        {"strategy": "RollingIdle", "maxUnavailable": unavailable, "maxSurge": surge}});
                    if let Some(max) = max {
                        spec["maxTotal"] = json!(max);
                    }
                    let world = old(world(spec)
                        .with(Phase::Idle, idle)
                        .with(Phase::Provisioning, building)
                        .with(Phase::Claimed, claimed));
                    to_the_end(world);
                }
            }
        }
    }
}

/// Passes with everything coming up: the rules hold in each, and the pool ends without a drifted idle agent, unless there
/// is no room and as many are missing as may be.
fn to_the_end(mut world: World) {
    let claimed: Vec<Member> = world
        .members
        .iter()
        .filter(|m| m.phase == Phase::Claimed)
        .cloned()
        .collect();
    for _ in 0..60 {
        world.draw();
        decided(&world);
        let decision = world.pass();
        world
            .members
            .retain(|m| !decision.delete.contains(&m.object));
        world.create();
        let mut quiet = decision.delete.is_empty() && decision.create.is_empty();
        if let Some(m) = world
            .members
            .iter_mut()
            .find(|m| m.phase == Phase::Provisioning)
        {
            m.phase = Phase::Idle;
            quiet = false;
        }
        if quiet {
            let stuck = decision.rollout.reason == Some(Reason::MaxTotalReached);
            assert!(decision.rollout.drifted == 0 || stuck, "{decision:?}");
            if stuck {
                let spec = &world.pool.spec;
                let idle = world.members.iter().filter(|m| m.phase == Phase::Idle);
                let least = spec.min_idle - spec.rollout.max_unavailable;
                assert!(count(idle) <= least && decision.at_capacity, "{decision:?}");
            }
            let kept: Vec<Member> = world
                .members
                .iter()
                .filter(|m| m.phase == Phase::Claimed)
                .cloned()
                .collect();
            assert_eq!(kept, claimed);
            return;
        }
    }
    panic!("no end: {world:?}");
}

prop_compose! {
    fn any_world()(
        min in 0..12i32,
        max in proptest::option::of(0..30i32),
        limits in (0..4i32, 0..4i32).prop_filter("one of them", |(u, s)| u + s > 0),
        members in proptest::collection::vec((proptest::sample::select(Phase::ALL.to_vec()), any::<bool>(), 0..3u8), 0..25),
        waiting in 0..3i32,
        held in 0..6u8,
    ) -> World {
        let (unavailable, surge) = limits;
        let paused = match held { 0 => json!(["Refill"]), 1 => json!(["Rollout"]), 2 => json!(["Claims"]), _ => json!([]) };
        let mut spec = json!({"minIdle": min, "paused": paused, "rollout":
            {"strategy": "RollingIdle", "maxUnavailable": unavailable, "maxSurge": surge}});
        if let Some(max) = max {
            spec["maxTotal"] = json!(max);
        }
        let mut world = world(spec);
        world.waiting = waiting;
        for (i, (phase, protected, drift)) in members.into_iter().enumerate() {
            let mut one = member(&format!("m{i}"), phase);
            one.protected = protected;
            one.drift = [None, Some(Drift::Template), Some(Drift::Image)][usize::from(drift)];
            world.members.push(one);
        }
        world
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_rule_is_broken_whatever_happens_between_the_passes(world in any_world(), turns in proptest::collection::vec(0..80usize, 0..25)) {
        let mut world = world;
        for turn in turns {
            world.draw();
            let decision = world.decide();
            prop_assert_eq!(pool_broken(&world.view(), &decision), Vec::<&str>::new(), "{:?}", decision);
            world.pass();
            world.members.retain(|m| !decision.delete.contains(&m.object));
            world.create();
            if let Some(m) = world.members.get_mut(turn) {
                m.phase = match m.phase {
                    Phase::Provisioning if turn % 4 == 0 => Phase::Dead,
                    Phase::Provisioning => Phase::Idle,
                    Phase::Idle => Phase::Claimed,
                    other => other,
                };
                m.creation_failed = (m.phase == Phase::Dead).then(|| "why".to_owned());
            }
            world.later(7);
        }
    }
}
