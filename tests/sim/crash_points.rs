//! A life from the first fill to the end of the pool, with the operator killed at every one of its calls: before it is
//! sent, after its effect, after its answer. Whoever comes next finishes it: nothing twice, nothing left, nobody lost.

use std::time::Duration;

use serde_json::json;

use crate::cosmos::{Cosmos, POOL, simulate};
use crate::process::At;
use crate::sample::{each, number, stride};

/// Every service has one deployment: whoever came next looked before it deployed again.
fn deployed_once(world: &Cosmos) {
    let alive: Vec<String> = world.services().into_iter().map(|(id, ..)| id).collect();
    let sim = world.ground.sim.world();
    let instances = sim.railway.instances.values();
    for i in instances.filter(|i| alive.contains(&i.service)) {
        assert_eq!(i.deployments.len(), 1, "deployments of {}", i.service);
    }
}

/// One life; how many calls the first operator made.
async fn life(death: Option<(u64, At)>) -> u64 {
    let mut world = Cosmos::new(3);
    let quick = json!({"building": 2.0, "deploying": 1.0, "app_boot": 1.0, "healthcheck": 0.5});
    world.timings(&quick);
    let first = world.operator_with(|process| {
        if let Some((call, at)) = death {
            process.dies_at(call, at);
        }
    });
    world.create_pool(POOL, &json!({"deletionPolicy": "Destroy"}));
    world.until_settled(3).await;
    deployed_once(&world);
    let answer = world.claim_surely(POOL, "Ada").await;
    world.until_settled(3).await;
    world.release(&answer.instance_id).expect("released");
    let spare = world
        .in_phase(agentpool::domain::instance::phase::Phase::Idle)
        .remove(0);
    world
        .delete(spare.metadata.name.as_deref().expect("a name"))
        .expect("deleted");
    world
        .until("both are gone", Duration::from_secs(7200), |w| {
            let ids: Vec<String> = w.instances().into_iter().map(|i| i.spec.id).collect();
            !ids.contains(&answer.instance_id) && !ids.contains(&spare.spec.id)
        })
        .await;
    world.until_settled(3).await;
    deployed_once(&world);
    world.delete_pool(POOL);
    world.until_empty().await;
    world
        .until("the pool is gone", Duration::from_secs(3600), |w| {
            w.pool(POOL).is_none()
        })
        .await;
    first.process.calls()
}

/// Runs the lives of one kind; a part of `cargo test` runs each call in one of the three kinds.
fn lives(at: At, offset: u64) {
    let calls = simulate(life(None));
    assert!(calls > 60, "{calls}");
    let only = number("AGENTPOOL_SIM_CALL", 0);
    let chosen = |call: &u64| {
        if only > 0 {
            *call == only
        } else {
            (call + offset).is_multiple_of(stride())
        }
    };
    let cases: Vec<u64> = (1..=calls).filter(chosen).collect();
    let name = |call: &u64| {
        format!(
            "killed at call {call} {at:?}: AGENTPOOL_SIM_CALL={call} cargo test --test sim crash_points -- --nocapture"
        )
    };
    each(&cases, name, |call| {
        simulate(life(Some((*call, at))));
    });
    println!("{} of {calls} crash points {at:?}", cases.len());
}

#[test]
fn killed_before_any_call() {
    lives(At::Before, 0);
}

#[test]
fn killed_after_any_effect() {
    lives(At::AfterEffect, 1);
}

#[test]
fn killed_after_any_answer() {
    lives(At::AfterAnswer, 2);
}
