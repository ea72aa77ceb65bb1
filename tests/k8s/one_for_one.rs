//! `replacement: OneForOne`: each claim starts one creation, and one only, whoever is killed or leads meanwhile.

use agentpool::domain::instance::phase::Phase;
use reqwest::Method;
use serde_json::json;

use crate::chaos::{PATIENT, kill};
use crate::leadership::another_leader;
use crate::lifecycle::ticks;
use crate::support::wait::{LONG, until};
use crate::support::world::World;

/// A pool with five in stock that needs three.
async fn five_idle(name: &str, max: i32) -> World {
    let spec = json!({"minIdle": 3, "maxTotal": max, "replacement": "OneForOne", "tickIntervalSeconds": 1});
    let world = World::with_pool(name, spec).await;
    let more = json!({"count": 2});
    let answer = world.call(Method::POST, "/api/pool/replenish", more).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    world.wait_idle(5).await;
    world
}

async fn wait_made(world: &World, count: usize) {
    until(&format!("{count} were made"), PATIENT, || async {
        let made = world.sim.services_ever().await.len();
        assert!(made <= count, "{made} were made, {count} expected");
        (made == count).then_some(())
    })
    .await;
}

/// acceptance: B28
#[tokio::test(flavor = "multi_thread")]
async fn with_more_than_enough_in_stock_a_claim_still_starts_one_creation_unless_at_the_maximum() {
    let world = five_idle("one-for-one", 6).await;
    ticks(&world, 2).await;
    assert_eq!(
        world.sim.services_ever().await.len(),
        5,
        "nothing for nothing"
    );
    assert_eq!(world.claim("Ada").await.status, 200);
    wait_made(&world, 6).await;
    world.wait_idle(5).await;
    ticks(&world, 3).await;
    assert_eq!(world.sim.services_ever().await.len(), 6, "one");
    // At the maximum none; what is owed comes when there is room.
    let second = world.claim("Bob").await;
    assert_eq!(second.status, 200);
    ticks(&world, 3).await;
    assert_eq!(world.sim.services_ever().await.len(), 6);
    assert_eq!(world.in_phase(Phase::Idle).await.len(), 4);
    let ada = world.in_phase(Phase::Claimed).await;
    let ada = ada.iter().find(|i| {
        let claim = i.spec.claim.as_ref();
        claim.is_some_and(|c| c.agent_name == "Ada")
    });
    world.delete(&ada.unwrap().spec.id).await;
    wait_made(&world, 7).await;
    world.wait_idle(5).await;
    ticks(&world, 3).await;
    assert_eq!(world.sim.services_ever().await.len(), 7);
    world.finish().await;
}

/// What is owed is in the cluster and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_for_a_claim_outlives_a_kill_and_is_made_once_by_two_leaders() {
    let mut world = five_idle("owed", 50).await;
    // Killed as soon as the claim is answered: its replacement may not even be listed.
    for (agent, made) in [("Ada", 6), ("Bob", 7), ("Cleo", 8)] {
        assert_eq!(world.claim(agent).await.status, 200);
        kill(&mut world).await;
        world.start_operator(&[]);
        wait_made(&world, made).await;
        world.wait_idle(5).await;
    }
    // Killed when it is listed and may not be made.
    assert_eq!(world.claim("Dan").await.status, 200);
    until("its replacement is listed", LONG, || async {
        let status = world.pool().await.status?;
        let there = world.list().await.len();
        (!status.creating.is_empty() || there == 9).then_some(())
    })
    .await;
    kill(&mut world).await;
    world.start_operator(&[]);
    wait_made(&world, 9).await;
    world.wait_idle(5).await;

    let elsewhere = world.cluster.namespace("owed-lease").await;
    let second = another_leader(&world, &elsewhere).await;
    for (agent, made) in [("Eve", 10), ("Fay", 11)] {
        assert_eq!(world.claim(agent).await.status, 200);
        wait_made(&world, made).await;
    }
    world.wait_idle(5).await;
    ticks(&world, 3).await;
    assert_eq!(world.sim.services_ever().await.len(), 11);
    drop(second);
    world.finish().await;
}
