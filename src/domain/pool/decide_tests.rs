//! How many are created and which are deleted: by name, and for any pool.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use proptest::prelude::*;
use serde_json::json;

use super::super::fixture::{World, member, world};
use super::*;
use crate::domain::invariant::pool_broken;
use crate::domain::plan::{Class, Trouble};
use crate::domain::pool::view::Owed;

fn creates(world: &World) -> usize {
    let decision = world.decide();
    assert_eq!(pool_broken(&world.view(), &decision), Vec::<&str>::new());
    decision.create.len()
}

fn trouble(reason: Reason) -> Trouble {
    Trouble {
        class: Class::Transient,
        reason,
        message: "m".into(),
        retry_after: None,
    }
}

// ---- how many -------------------------------------------------------------------------------------------------

#[test]
fn a_pool_is_filled_to_its_minimum_and_no_further() {
    let of = |phase, n| creates(&world(json!({"minIdle": 3})).with(phase, n));
    assert_eq!([0, 1, 2, 3, 4].map(|n| of(Phase::Idle, n)), [3, 2, 1, 0, 0]);
    assert_eq!(
        [0, 1, 2, 3, 4].map(|n| of(Phase::Provisioning, n)),
        [3, 2, 1, 0, 0]
    );
    for elsewhere in Phase::ALL {
        if !matches!(elsewhere, Phase::Idle | Phase::Provisioning) {
            assert_eq!(of(elsewhere, 7), 3, "{elsewhere}");
        }
    }
}

/// Doomed agents would be made of it, one after the other.
#[test]
fn nothing_is_created_of_an_image_that_is_not_resolved() {
    let mut world = world(json!({"minIdle": 3}));
    world.image = Image::unresolved("no such tag".into());
    let decision = world.decide();
    assert_eq!(creates(&world), 0);
    assert_eq!(decision.reason, Some(Reason::DigestUnresolved));
    assert!(!decision.ready && decision.message.contains("no such tag"));
    world.image = Image::As("i@sha256:1".into());
    assert_eq!(creates(&world), 3);
    world.pass();
    assert_eq!(world.status().resolved["image"], "i@sha256:1");
    world.image = Image::unresolved("gone".into());
    world.pass();
    assert!(
        !world.status().resolved.contains_key("image"),
        "what was, is not claimed to be"
    );
}

/// What it asks for in vain it is told, whether it has its minimum or not; and nothing else changes.
#[test]
fn a_field_without_effect_is_told() {
    let claim = json!({"maxLifetimeSeconds": 60});
    let without = world(json!({"claim": claim})).decide();
    assert!(!without.message.contains("claim."), "{}", without.message);
    let claim = json!({"idleTimeoutSeconds": 60});
    for idle in [0, 3] {
        let with = world(json!({"claim": claim})).with(Phase::Idle, idle);
        let without = world(json!({})).with(Phase::Idle, idle).decide();
        let decision = with.decide();
        assert!(
            decision
                .message
                .contains("claim.idleTimeoutSeconds has no effect")
        );
        assert_eq!(decision.reason, without.reason);
    }
}

/// trap: queued claims × scale to zero
#[test]
fn who_waits_is_demand_even_where_nothing_stands_ready() {
    let of = |spec, waiting, idle| {
        let mut world = world(spec).with(Phase::Idle, idle);
        world.waiting = waiting;
        creates(&world)
    };
    assert_eq!(
        [0, 1, 3].map(|n| of(json!({"minIdle": 0}), n, 0)),
        [0, 1, 3]
    );
    assert_eq!(
        [0, 1, 3].map(|n| of(json!({"minIdle": 0}), n, 2)),
        [0, 0, 1]
    );
    assert_eq!(
        [0, 1, 3].map(|n| of(json!({"minIdle": 2}), n, 2)),
        [0, 1, 3]
    );
    assert_eq!(of(json!({"minIdle": 0, "maxTotal": 2}), 9, 0), 2);
    for held in ["Refill", "Claims"] {
        assert_eq!(
            of(json!({"minIdle": 0, "paused": [held]}), 3, 0),
            0,
            "{held}"
        );
    }
}

#[test]
fn what_is_listed_as_being_created_counts() {
    let mut world = world(json!({"minIdle": 3, "maxTotal": 3}));
    world.status().creating = vec!["a".into(), "b".into()];
    assert_eq!(creates(&world), 1);
    // Its object is there: it counts once, not twice.
    world.members.push(member("a", Phase::Provisioning));
    assert_eq!(creates(&world), 1);
    world.members[0].phase = Phase::Claimed;
    assert_eq!(creates(&world), 1, "room for one: 3, less a and b");
}

#[test]
fn the_total_is_never_exceeded() {
    let of = |phase, n| {
        let world = world(json!({"minIdle": 5, "maxTotal": 6})).with(phase, n);
        (creates(&world), world.decide().at_capacity)
    };
    assert_eq!(of(Phase::Claimed, 4), (2, true));
    assert_eq!(of(Phase::Claimed, 6), (0, true));
    assert_eq!(of(Phase::Claimed, 60), (0, true));
    assert_eq!(of(Phase::Sleeping, 5), (1, true));
    // These are not paid for, or no longer.
    for free in [
        Phase::Crashed,
        Phase::Dead,
        Phase::Tainted,
        Phase::Terminating,
    ] {
        assert_eq!(of(free, 60), (5, false), "{free}");
    }
    let none = world(json!({"minIdle": 5, "maxTotal": 0}));
    assert_eq!(none.decide().reason, Some(Reason::MaxTotalReached));
    assert_eq!(creates(&none), 0);
}

#[test]
fn lowering_the_minimum_deletes_nothing() {
    let decision = world(json!({"minIdle": 0})).with(Phase::Idle, 9).decide();
    assert!(decision.delete.is_empty() && decision.create.is_empty() && decision.ready);
}

#[test]
fn deciding_again_creates_nothing_more() {
    let mut world = world(json!({"minIdle": 7, "maxTotal": 9})).request("r", "Replenish", Some(1));
    assert_eq!(world.pass().create.len(), 8);
    for _ in 0..3 {
        let again = world.pass();
        assert!(
            again.create.is_empty() && again.answers.is_empty(),
            "{again:?}"
        );
    }
    world.create();
    assert!(world.pass().create.is_empty());
    assert!(world.status().creating.is_empty());
    assert_eq!(world.members.len(), 8);
}

#[test]
fn a_large_pool_is_filled_in_parts() {
    let mut world = world(json!({"minIdle": 120}));
    let mut parts = vec![];
    for _ in 0..4 {
        parts.push(world.pass().create.len());
        assert!(
            world.pass().create.is_empty(),
            "the list is full, or the pool"
        );
        world.create();
    }
    assert_eq!(parts, [50, 50, 20, 0]);
}

// ---- one for each claim -----------------------------------------------------------------------------------------

/// A pool that has wanted one for each claim before, with so many idle and claimed ones that nobody has answered.
fn one_for_one(spec: serde_json::Value, idle: usize, owing: usize) -> World {
    let mut world = world(spec);
    world.pool.spec.replacement = Some(crate::api::agent_pool::Replacement::OneForOne);
    world.pass();
    world.status().creating.clear();
    world = world.with(Phase::Idle, idle).with(Phase::Claimed, owing);
    for member in &mut world.members {
        let due = member.phase == Phase::Claimed;
        let id = format!("for-{}", member.id);
        member.owed = (due || member.phase == Phase::Claiming).then_some(Owed { id, due });
    }
    world
}

/// A claim takes its agent out of the stock before it is answered: what is made meanwhile is what it is owed afterwards.
#[test]
fn what_is_made_while_a_claim_is_under_way_answers_it() {
    let mut world = one_for_one(json!({"minIdle": 1}), 0, 0).with(Phase::Claiming, 1);
    let id = "for-claiming0".to_owned();
    let owed = |due| {
        Some(Owed {
            id: "for-claiming0".into(),
            due,
        })
    };
    world.members[0].owed = owed(false);
    assert_eq!(world.pass().create.as_slice(), std::slice::from_ref(&id));
    assert!(world.pass().create.is_empty(), "listed");
    world.create();
    let decision = world.pass();
    assert!(decision.create.is_empty() && decision.answered.is_empty());
    world.members[0].owed = owed(true);
    world.members[0].phase = Phase::Claimed;
    let decision = world.pass();
    assert_eq!((decision.create.len(), decision.answered.len()), (0, 1));
    // With enough in stock nothing is made until it is owed.
    let mut other = one_for_one(json!({"minIdle": 1}), 1, 0).with(Phase::Claiming, 1);
    other.members[1].owed = owed(false);
    assert_eq!(creates(&other), 0);
    other.members[1].owed = owed(true);
    assert_eq!(other.pass().create, [id]);
}

#[test]
fn a_claim_starts_exactly_one_creation_whatever_is_idle() {
    let of = |idle, owing| creates(&one_for_one(json!({"minIdle": 3}), idle, owing));
    assert_eq!(of(5, 0), 0);
    assert_eq!(of(4, 1), 1);
    assert_eq!(of(5, 2), 2);
    // What is owed fills the pool too: not both.
    assert_eq!((of(2, 1), of(1, 1), of(0, 1)), (1, 2, 3));
    let mut world = one_for_one(json!({"minIdle": 3}), 4, 1);
    assert_eq!(world.pass().create, ["for-claimed0"]);
    for _ in 0..3 {
        assert!(world.pass().create.is_empty(), "listed");
    }
    world.create();
    let decision = world.pass();
    assert_eq!(
        (decision.create.len(), decision.answered.as_slice()),
        (0, &["agent-claimed0".to_owned()][..])
    );
    // Noted: nothing is owed, whatever becomes of the one that answered.
    world.members.iter_mut().for_each(|m| m.owed = None);
    world.members.retain(|m| m.id != "for-claimed0");
    let decision = world.pass();
    assert!(decision.create.is_empty() && decision.answered.is_empty());
}

#[test]
fn what_is_owed_waits_for_room_and_for_a_pause_to_end() {
    let of = |spec| creates(&one_for_one(spec, 4, 2));
    assert_eq!(of(json!({"minIdle": 3, "maxTotal": 6})), 0);
    assert_eq!(of(json!({"minIdle": 3, "maxTotal": 7})), 1);
    assert_eq!(of(json!({"minIdle": 3, "maxTotal": 8})), 2);
    assert_eq!(of(json!({"minIdle": 3, "paused": ["Refill"]})), 0);
}

/// A pool that is switched to it does not answer every claim of its past at once.
#[test]
fn what_was_claimed_before_the_pool_wanted_it_is_owed_nothing() {
    let mut world = one_for_one(json!({"minIdle": 3}), 3, 50);
    world
        .status()
        .resolved
        .insert("replacement".into(), "ToMinIdle".into());
    let decision = world.pass();
    assert_eq!((decision.create.len(), decision.answered.len()), (0, 50));
    assert_eq!(world.status().resolved["replacement"], "OneForOne");
    let mut lost = one_for_one(json!({"minIdle": 3}), 3, 50);
    lost.pool.status = None;
    assert_eq!(creates(&lost), 0);
    // And one that only fills up to its minimum owes nothing at all.
    let mut other = one_for_one(json!({"minIdle": 3}), 3, 50);
    other.pool.spec.replacement = None;
    assert_eq!((creates(&other), other.decide().answered.len()), (0, 0));
}

/// Whoever decides, on whatever view: the same id, so that the API server makes one of them.
#[test]
fn two_leaders_and_a_kill_make_one() {
    let mut one = one_for_one(json!({"minIdle": 3}), 4, 1);
    let mut other = one.clone();
    assert_eq!(one.pass().create, other.pass().create);
    // Killed between the list and the object: the list is gone on with. Killed before the list: decided anew.
    one.create();
    assert!(one.pass().create.is_empty());
    other.status().creating.clear();
    assert_eq!(other.pass().create, ["for-claimed0"]);
}

// ---- what holds back ------------------------------------------------------------------------------------------

#[test]
fn whatever_holds_creations_back_says_so() {
    let base = || world(json!({}));
    let mut cases: Vec<(World, Reason)> = vec![];
    let mut add = |reason, change: &dyn Fn(&mut World)| {
        let mut world = base();
        change(&mut world);
        cases.push((world, reason));
    };
    add(Reason::Pending, &|w| w.provider = ProviderHealth::Pending);
    add(Reason::Pending, &|w| w.revision = None);
    add(Reason::NotSupported, &|w| w.unsupported = Some("no".into()));
    add(Reason::CredentialsInvalid, &|w| {
        w.provider = ProviderHealth::Trouble(trouble(Reason::CredentialsInvalid))
    });
    add(Reason::ProviderUnavailable, &|w| {
        w.provider =
            ProviderHealth::Degraded(Default::default(), trouble(Reason::ProviderUnavailable));
    });
    cases.push((world(json!({"paused": ["Refill"]})), Reason::Paused));
    for (world, reason) in cases {
        assert_eq!((creates(&world), world.decide().reason), (0, Some(reason)));
        // With stock too, except that a pause is then no news.
        let decision = world.with(Phase::Idle, 3).decide();
        assert!(decision.ready && decision.create.is_empty());
    }
}

#[test]
fn a_pause_holds_refills_but_not_requests() {
    let world = world(json!({"paused": ["Refill"]})).request("r", "Replenish", Some(2));
    assert_eq!(creates(&world), 2);
}

// ---- the breaker ----------------------------------------------------------------------------------------------

fn failing(n: usize) -> World {
    let mut world =
        world(json!({"minIdle": 3, "circuitBreaker": {"failures": 3, "backoffSeconds": 60}}));
    for i in 0..n {
        let mut failed = member(&format!("x{i}"), Phase::Dead);
        failed.creation_failed = Some("no image".into());
        world.members.push(failed);
    }
    world
}

#[test]
fn the_breaker_opens_at_its_number_and_counts_each_failure_once() {
    let mut few = failing(2);
    assert_eq!(few.pass().create.len(), 3);
    let mut world = failing(3);
    for _ in 0..3 {
        let decision = world.pass();
        assert_eq!(decision.breaker.failures, 3);
        assert!(decision.create.is_empty() && decision.breaker.is_open(world.now));
        assert_eq!(decision.reason, Some(Reason::CreationsFailing));
        assert!(
            decision.message.contains("no image"),
            "{}",
            decision.message
        );
    }
}

#[test]
fn more_failures_than_can_be_listed_are_not_counted_again() {
    let mut world = failing(80);
    let first = world.pass().breaker;
    assert_eq!((first.failures, first.counted.len()), (50, 50));
    world.later(5);
    assert_eq!(world.pass().breaker, first);
}

#[test]
fn the_breaker_lets_one_more_try_through_and_closes_when_stock_is_back() {
    let mut world = failing(3);
    world.pass();
    world.later(59);
    assert!(world.pass().create.is_empty());
    world.later(1);
    world.members.clear();
    assert_eq!(world.pass().create.len(), 3, "the pause is over");
    // The next failure opens it again at once.
    let mut again = world.clone();
    again.create();
    again.members[0].phase = Phase::Dead;
    again.members[0].creation_failed = Some("still none".into());
    assert!(again.pass().breaker.is_open(again.now));
    // Stock closes it.
    world.create();
    world.members.iter_mut().for_each(|m| m.phase = Phase::Idle);
    let decision = world.pass();
    assert_eq!(decision.breaker, Breaker::default());
    assert!(world.status().breaker.is_none());
}

#[test]
fn an_open_breaker_is_looked_at_when_it_is_over() {
    let mut world = failing(3);
    world.pass();
    world.later(50);
    let recheck = world.pass().recheck;
    assert_eq!(recheck, Duration::from_millis(10_100));
}

// ---- requests -------------------------------------------------------------------------------------------------

#[test]
fn replenish_is_lenient_in_its_count_and_capped_by_the_total() {
    let ask = |spec, count| {
        let world = world(spec)
            .with(Phase::Idle, 3)
            .request("r", "Replenish", count);
        let decision = world.decide();
        assert_eq!(pool_broken(&world.view(), &decision), Vec::<&str>::new());
        let answer = decision.answers[0].clone();
        assert_eq!(answer.ids, decision.create);
        (answer.count, answer.capped, answer.error.is_empty())
    };
    let open = || json!({});
    assert_eq!(ask(open(), None), (Some(1), false, true));
    assert_eq!(ask(open(), Some(-4)), (Some(0), false, true));
    assert_eq!(ask(open(), Some(20)), (Some(20), false, true));
    assert_eq!(ask(open(), Some(1_000_000)), (Some(20), false, true));
    assert_eq!(ask(json!({"maxTotal": 5}), Some(4)), (Some(2), true, true));
    assert_eq!(ask(json!({"maxTotal": 3}), Some(4)), (Some(0), true, true));
}

#[test]
fn replenish_comes_on_top_of_the_refill_and_shares_its_room() {
    let world = world(json!({"minIdle": 3, "maxTotal": 4}))
        .request("a", "Replenish", Some(2))
        .request("b", "Replenish", Some(1));
    let decision = world.decide();
    let counts: Vec<_> = decision
        .answers
        .iter()
        .map(|a| (a.count, a.capped))
        .collect();
    assert_eq!(
        (decision.create.len(), counts),
        (4, vec![(Some(1), true), (Some(0), true)])
    );
}

#[test]
fn a_request_is_answered_once_and_done_when_its_objects_exist() {
    let mut world = world(json!({"minIdle": 0}))
        .request("r", "Replenish", Some(2))
        .request("c", "Cycle", None);
    assert_eq!(world.pass().answers.len(), 1, "the cycle is under way");
    assert_eq!(world.status().requests["r"].state, "Running");
    world.create();
    assert!(world.pass().answers.is_empty());
    assert_eq!(world.status().requests["r"].state, "Done");
    world.progress.finished.insert(
        "c".into(),
        Finished {
            count: Some(7),
            ..Finished::default()
        },
    );
    assert_eq!(world.pass().answers.len(), 1);
    assert_eq!(world.status().requests["c"].count, Some(7));
    assert!(world.pass().answers.is_empty());
    // Kept while the request is there, and ten minutes after it.
    world.later(3_600);
    world.pass();
    assert_eq!(world.status().requests.len(), 2);
    world.requests.clear();
    world.pass();
    assert!(world.status().requests.is_empty());
}

// ---- the end --------------------------------------------------------------------------------------------------

fn one_of_each(policy: &str) -> World {
    let mut world = world(json!({"deletionPolicy": policy}));
    for phase in Phase::ALL {
        world.members.push(member(phase.as_str(), phase));
        let mut kept = member(&format!("{phase}-kept"), phase);
        kept.protected = true;
        world.members.push(kept);
    }
    world.deleted()
}

#[test]
fn a_pool_that_goes_leaves_what_is_in_use_unless_it_is_told_otherwise() {
    let deleted = |policy| {
        let world = one_of_each(policy);
        let decision = world.decide();
        assert_eq!(pool_broken(&world.view(), &decision), Vec::<&str>::new());
        assert!(!decision.remove_finalizer && decision.create.is_empty());
        decision.delete
    };
    let orphaned =
        ["Provisioning", "Idle", "Sleeping", "Tainted", "Dead"].map(|p| format!("agent-{p}"));
    assert_eq!(deleted("Orphan"), orphaned);
    assert_eq!(
        deleted("Destroy").len(),
        Phase::ALL.len() - 1,
        "all but the one that is going"
    );
}

#[test]
fn a_pool_goes_when_everything_that_goes_has_gone() {
    let mut world = world(json!({}))
        .with(Phase::Claimed, 2)
        .with(Phase::Terminating, 1)
        .deleted();
    assert!(!world.decide().remove_finalizer);
    world.members.retain(|m| m.phase != Phase::Terminating);
    assert!(world.decide().remove_finalizer);
    world.status().creating = vec!["a".into()];
    assert!(!world.decide().remove_finalizer, "one may be on its way");
}

// ---- any pool -------------------------------------------------------------------------------------------------

fn any_member() -> impl Strategy<Value = (Phase, bool, bool)> {
    (
        proptest::sample::select(Phase::ALL.to_vec()),
        any::<bool>(),
        any::<bool>(),
    )
}

fn any_request() -> impl Strategy<Value = (&'static str, Option<i32>)> {
    let kinds = vec!["Replenish", "Cycle", "Reconcile", "Recheck"];
    (
        proptest::sample::select(kinds),
        proptest::option::of(-2..40i32),
    )
}

prop_compose! {
    fn any_world()(
        min in 0..70i32,
        max in proptest::option::of(0..90i32),
        members in proptest::collection::vec(any_member(), 0..40),
        creating in 0..50usize,
        seen in 0..50usize,
        requests in proptest::collection::vec(any_request(), 0..5),
        answered in 0..5usize,
        health in 0..8u8,
        flags in any::<u8>(),
    ) -> World {
        let bit = |n: u8| flags >> n & 1 == 1;
        let paused = if bit(0) { json!(["Refill"]) } else { json!([]) };
        let policy = if bit(1) { "Destroy" } else { "Orphan" };
        let mut spec = json!({"minIdle": min, "paused": paused, "deletionPolicy": policy});
        if let Some(max) = max {
            spec["maxTotal"] = json!(max);
        }
        let mut world = world(spec);
        for (i, (phase, protected, failed)) in members.into_iter().enumerate() {
            let mut one = member(&format!("m{i}"), phase);
            one.protected = protected;
            one.creation_failed = (failed && phase == Phase::Dead).then(|| "why".to_owned());
            world.members.push(one);
        }
        let listed = (0..creating).map(|i| if i < seen { format!("m{i}") } else { format!("c{i}") });
        world.status().creating = listed.collect();
        for (i, (kind, count)) in requests.into_iter().enumerate() {
            world = world.request(&format!("r{i}"), kind, count);
        }
        for i in 0..answered {
            world.progress.finished.insert(format!("r{i}"), Finished::default());
        }
        match health {
            0 => world.provider = ProviderHealth::Pending,
            1 => world.provider = ProviderHealth::Trouble(trouble(Reason::RateLimited)),
            2 => world.revision = None,
            _ => {}
        }
        if bit(2) && bit(3) { world.deleted() } else { world }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_rule_holds_for_any_pool_and_deciding_again_changes_nothing(world in any_world()) {
        let mut world = world;
        let decision = world.pass();
        // Against the view that it was decided on: the draw is the same, the status is not.
        let again = world.pass();
        prop_assert!(again.create.is_empty() || decision.create.len() + world.view().unseen().len() >= CREATING_MAX, "{again:?}");
        prop_assert!(again.answers.is_empty(), "{again:?}");
        prop_assert_eq!(again.breaker, decision.breaker);
    }

    #[test]
    fn no_rule_is_broken_over_a_whole_life(world in any_world(), deaths in proptest::collection::vec(0..60usize, 0..12)) {
        let mut world = world;
        for death in deaths {
            world.draw();
            let decision = world.decide();
            prop_assert_eq!(pool_broken(&world.view(), &decision), Vec::<&str>::new(), "{:?}", decision);
            world.pass();
            world.create();
            let goes = decision.delete;
            world.members.retain(|m| !goes.contains(&m.object));
            if let Some(m) = world.members.get_mut(death) {
                m.phase = [Phase::Idle, Phase::Claimed, Phase::Dead][death % 3];
                m.creation_failed = (m.phase == Phase::Dead).then(|| "why".to_owned());
            }
            world.later(40);
        }
    }
}
