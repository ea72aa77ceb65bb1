//! A replica that dies over a key, exactly between two writes: whatever stands then, another gives the key's one agent.

use agentpool::api::AgentInstance;
use agentpool::domain::agent_claim::is_done;
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use serde_json::json;

use super::{api_of, body, claim_objects, keyed, same, try_keyed};
use crate::http_calls::{account, text, wait_operator_ready};
use crate::support::operator::Operator;
use crate::support::proxy::{Proxy, Stop};
use crate::support::world::{POOL, World};

/// The agents that were claimed under that name.
async fn named(world: &World, key: &str) -> Vec<AgentInstance> {
    let mut all = world.list().await;
    all.retain(|i| i.spec.claim.as_ref().is_some_and(|c| c.agent_name == key));
    all
}

/// The replica that is asked first dies at `stop`; then one call to another is answered, and every later one alike.
/// `standing`: how far the claim is on its agent when it dies, and whether the key's answer is recorded.
async fn dies_at(key: &str, stop: Stop, standing: (Option<Phase>, bool)) {
    let mut world = World::bare("key-deaths").await;
    world.start_operator(&[]);
    let claim = json!({"deadlineSeconds": 5});
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "claim": claim});
    world.create_pool(POOL, spec).await;
    world.wait_idle(2).await;
    let proxy = Proxy::start(world.client.clone()).await;
    let through = [("KUBECONFIG", proxy.kubeconfig())];
    let mut first = Operator::start("api", &world.environment(&through));
    wait_operator_ready(&first).await;

    proxy.stop_at(stop);
    let (api, sent) = (first.api.clone(), body(key));
    let own = key.to_owned();
    let call = tokio::spawn(async move { try_keyed(&api, &own, &sent).await.is_some() });
    proxy.reached().await;
    first.kill();
    assert!(!call.await.unwrap(), "nobody was told");
    let before = named(&world, key).await;
    assert_eq!(before.first().map(phase_of), standing.0, "{before:?}");
    let claims = claim_objects(&world).await;
    assert_eq!(claims.len(), 1, "the key's");
    assert_eq!(is_done(&claims[0]), standing.1, "{:?}", claims[0].status);

    // It follows the dead one, and has the time to see what comes of it.
    let mut patient = body(key);
    patient["waitSeconds"] = json!(120);
    let answer = keyed(&api_of(&world), key, &patient).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = text(&answer.body, "instanceId");
    if standing.0 == Some(Phase::Claimed) {
        assert_eq!(before[0].spec.id, id, "the agent that was bound for it");
    }
    let own = world.instance(&id).await.unwrap();
    let recorded = own.status.as_ref().unwrap().claim.as_ref().unwrap();
    assert_eq!(
        json!(recorded.conversation_id),
        answer.body["conversationId"]
    );
    assert_eq!(account(&world, &own).await["claimCalls"], 1);
    let left = named(&world, key).await;
    let mut living = left
        .iter()
        .filter(|i| i.metadata.deletion_timestamp.is_none());
    assert_eq!(living.next().map(|i| i.spec.id.as_str()), Some(&*id));
    assert!(living.next().is_none(), "one agent: {left:?}");
    for again in [body(key), patient] {
        same(&answer, &keyed(&api_of(&world), key, &again).await);
    }
    assert!(!own.name_any().is_empty());
    world.finish().await;
}

const AGENTS: &str = "agentinstances";
const CLAIMS: &str = "agentclaims";

fn patch(resource: &'static str, status: bool, applied: bool) -> Stop {
    Stop {
        method: "PATCH",
        resource,
        status,
        applied,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_before_its_agent_is_reserved() {
    dies_at("unreserved", patch(AGENTS, false, false), (None, false)).await;
}

/// The agent has its conversation, and nobody knows: it is settled by its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn dead_before_its_agent_is_recorded() {
    let stop = patch(AGENTS, true, false);
    dies_at("unrecorded", stop, (Some(Phase::Claiming), false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_between_the_record_of_its_agent_and_the_answer_of_its_key() {
    let stop = patch(CLAIMS, true, false);
    dies_at("unanswered", stop, (Some(Phase::Claimed), false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_before_it_knows_that_the_answer_is_recorded() {
    let stop = patch(CLAIMS, true, true);
    dies_at("untold", stop, (Some(Phase::Claimed), true)).await;
}
