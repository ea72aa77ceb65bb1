//! Writes whose answer is lost: each has happened once in the end.

use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use serde_json::json;

use crate::support::simulator::PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// The first request of that field takes effect, and its answer never comes.
async fn lost(field: &str) {
    let world = World::start("lost").await;
    let fault = json!({"kind": "timeout", "applied": true, "seconds": 20});
    let rule = json!({"match": {"field": field}, "count": 1, "fault": fault});
    world.sim.fault("railway", rule).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    until("one idle", Duration::from_secs(90), || async {
        (world.in_phase(Phase::Idle).await.len() == 1).then_some(())
    })
    .await;
    let rules = world.sim.calls("railway").await;
    let fired = rules
        .iter()
        .filter(|c| c["class"] == "fault:timeout")
        .count();
    assert_eq!(fired, 1, "the fault was met");
    super::made_once(&world, 1).await;
    assert_eq!(world.list().await.len(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_creation_was_not_answered_is_found() {
    lost("serviceCreate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_whose_creation_was_not_answered_is_found() {
    lost("serviceDomainCreate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_whose_start_was_not_answered_is_found() {
    lost("serviceInstanceDeployV2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_took_meanwhile_is_left_to_them() {
    let world = World::start("taken").await;
    // The first creation is not answered and did not happen; before it is looked for, another has its name.
    let fault = json!({"kind": "timeout", "applied": false, "seconds": 40});
    let rule = json!({"match": {"field": "serviceCreate"}, "count": 1, "fault": fault});
    world.sim.fault("railway", rule).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    until("the creation is under way", LONG, || async {
        (world.sim.railway_calls("RwServiceCreate").await == 1).then_some(())
    })
    .await;
    let first = world.list().await.remove(0);
    let name = &first.spec.provider_name;
    let foreign = json!({"name": name, "projectId": PROJECT, "image": "nginx", "variables": {"A": "1"}, "deploy": true});
    world
        .sim
        .set("railway", json!({"services": [foreign]}))
        .await;
    let idle = world.wait_idle(1).await;
    assert_ne!(
        idle[0].spec.id, first.spec.id,
        "another agent, under another name"
    );
    let theirs = world.sim.service(name).await.expect("it stays theirs");
    assert_eq!(theirs["source"]["image"], "nginx");
    assert_eq!(theirs["variables"]["A"], "1");
    assert_eq!(theirs["deployments"].as_array().map(Vec::len), Some(1));
    world.wait_gone(&first.spec.id).await;
    world
        .sim
        .force(json!({"service": name, "delete": true}))
        .await;
    world.finish().await;
}
