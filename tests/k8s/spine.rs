//! The main job from one end to the other.

use agentpool::domain::instance::phase::Phase;
use serde_json::json;

use crate::support::world::World;

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
