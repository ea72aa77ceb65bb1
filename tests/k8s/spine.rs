//! The main job from one end to the other.

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::support::operator::Operator;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// acceptance: A01, A04
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_fills_an_agent_is_claimed_and_replaced_and_everything_goes_again() {
    let world = World::with_pool("spine", json!({"minIdle": 3})).await;
    assert_eq!(
        world.sim.services_ever().await.len(),
        3,
        "no request but the pool made them"
    );

    let answer = world.claim("Tokyo Trip").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = answer.body["instanceId"].as_str().unwrap().to_owned();
    let conversation = answer.body["conversationId"].as_str().unwrap().to_owned();

    world.wait_idle(3).await;
    let claimed = world.in_phase(Phase::Claimed).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].spec.id, id);
    let status = claimed[0].status.clone().unwrap().claim.unwrap();
    assert_eq!(
        status.conversation_id.as_deref(),
        Some(conversation.as_str())
    );
    assert_eq!(world.sim.services_ever().await.len(), 4, "one replacement");

    world.delete(&id).await;
    world.wait_gone(&id).await;
    let live = world.sim.live_services().await;
    assert!(
        live.iter()
            .all(|s| !s["name"].as_str().unwrap().ends_with(&id)),
        "{live:?}"
    );
    world.finish().await;
}

/// The two roles as processes of their own, and what people are told of it by events.
#[tokio::test(flavor = "multi_thread")]
async fn controller_and_api_apart_do_the_same_and_events_tell_it() {
    let mut world = World::bare("roles").await;
    let variables = world.environment(&[]);
    let mut controller = Operator::start("controller", &variables);
    world.operator = Some(Operator::start("api", &variables));
    world.create_pool(POOL, json!({"minIdle": 1})).await;
    world.wait_idle(1).await;
    world.wait_count("idle", 1).await;
    let answer = world.claim("Apart").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = answer.body["instanceId"].as_str().unwrap().to_owned();
    world.wait_idle(1).await;

    until("every transition has its event", LONG, || async {
        let text = world.kubectl(&["get", "events.events.k8s.io", "-o", "json"]);
        let all: Value = serde_json::from_str(&text).unwrap();
        let told = |object: &str, reason: &str| {
            let events = all["items"].as_array().unwrap();
            events
                .iter()
                .any(|e| e["regarding"]["name"] == object && e["reason"] == reason)
        };
        let of_instance = ["Creating", "Idle", "Claimed"].iter().all(|r| told(&id, r));
        let of_pool = ["InstanceCreated", "Filling", "MinimumMet"]
            .iter()
            .all(|r| told(POOL, r));
        (of_instance && of_pool).then_some(())
    })
    .await;
    assert!(controller.runs());
    world.finish().await;
}
