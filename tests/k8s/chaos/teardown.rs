//! Deleted at the worst moment: while it is created, claimed or drained.

use agentpool::domain::instance::phase::Phase;
use kube::api::DeleteParams;
use reqwest::Method;
use serde_json::json;

use super::{PATIENT, slow_writes, wait_call};
use crate::lifecycle::{ids, millis, replenish_one};
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, POOL, World};

/// A join takes two seconds. (A creation may not: the agent's wrapper gives it up after what is half a second here.)
async fn slow_joins(world: &World) {
    let slow = json!({"defaults": {"join": millis(2000)}});
    world.sim.set("agents", slow).await;
}

async fn join(world: &World, agent: &str) -> Answer {
    let link = format!("https://dev.convos.org/v2?i={}", agent.replace(' ', "-"));
    let body = json!({"agentName": agent, "instructions": "Be kind.", "joinUrl": link});
    world.call(Method::POST, "/api/pool/claim", body).await
}

/// Trap: teardown fence waits for itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_deleted_during_each_call_of_its_creation_goes_with_all_it_has() {
    let world = World::start("unborn").await;
    slow_writes(&world, 0.5).await;
    world
        .create_pool(POOL, json!({"minIdle": 0, "tickIntervalSeconds": 1}))
        .await;
    world.wait_ready().await;
    for operation in ["RwServiceCreate", "RwDomainCreate", "RwConfigureAndDeploy"] {
        let before = world.sim.railway_calls(operation).await;
        let id = replenish_one(&world).await;
        wait_call(&world, operation, before).await;
        world.delete(&id).await;
        world.wait_gone(&id).await;
        assert!(world.sim.live_services().await.is_empty(), "{operation}");
    }
    assert_eq!(world.sim.services_ever().await.len(), 3);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_deleted_while_it_is_claimed_or_drained_goes_and_is_given_to_nobody() {
    let world = World::with_pool("torn", json!({"minIdle": 2, "tickIntervalSeconds": 1})).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    slow_joins(&world).await;
    let (answer, torn) = tokio::join!(join(&world, "Tokyo Trip"), async {
        let claiming = until("it is being claimed", LONG, || async {
            world.in_phase(Phase::Claiming).await.pop()
        })
        .await;
        world.delete(&claiming.spec.id).await;
        claiming.spec.id
    });
    world.wait_gone(&torn).await;
    // Whoever was answered 200 has an agent that exists.
    let given = answer.body["instanceId"].as_str().unwrap_or_default();
    assert!(answer.status != 200 || given != torn, "{}", answer.text);
    for instance in world.list().await {
        let service = world.sim.live_services().await;
        let id = json!(crate::lifecycle::service_id(&instance));
        assert!(service.iter().any(|s| s["id"] == id));
    }
    // Drained and deleted at the same time, with the provider slow.
    world.patch_pool(json!({"paused": null})).await;
    let idle = world.wait_idle(2).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    slow_writes(&world, 1.0).await;
    let drained = world
        .call(Method::POST, "/api/pool/drain", json!({"count": 2}))
        .await;
    assert_eq!(drained.body["drained"], 2, "{}", drained.text);
    for id in ids(&idle) {
        let _ = world
            .instances()
            .delete(&id, &DeleteParams::default())
            .await;
    }
    for id in ids(&idle) {
        world.wait_gone(&id).await;
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_deleted_while_claims_are_in_flight_loses_no_agent_that_was_given() {
    let world = World::with_pool(
        "mid-claims",
        json!({"minIdle": 3, "tickIntervalSeconds": 1}),
    )
    .await;
    slow_joins(&world).await;
    let (ada, bob, cleo, ()) = tokio::join!(
        join(&world, "Ada"),
        join(&world, "Bob"),
        join(&world, "Cleo"),
        async {
            until("all are being claimed", LONG, || async {
                (world.in_phase(Phase::Claiming).await.len() == 3).then_some(())
            })
            .await;
            world
                .pools()
                .delete(POOL, &DeleteParams::default())
                .await
                .unwrap();
        }
    );
    until("the pool is gone", PATIENT, || async {
        world
            .pools()
            .get_opt(POOL)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    for answer in [&ada, &bob, &cleo] {
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap();
        let kept = world.instance(id).await.expect("it outlives its pool");
        let bound = kept.status.as_ref().and_then(|s| s.claim.as_ref());
        let bound = bound.and_then(|c| c.conversation_id.clone());
        assert_eq!(json!(bound), answer.body["conversationId"]);
    }
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 3);
    assert_eq!(world.list().await.len(), 3, "the replacements are gone");
    assert_eq!(world.sim.live_services().await.len(), 3);
    world.finish().await;
}
