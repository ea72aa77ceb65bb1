//! The writes of an AgentInstance on the real API server, each after somebody else wrote in between: what was judged on
//! an older version is refused, and a claim is recorded only where it is still the one.

use agentpool::api::agent_instance::{AgentInstance, Claim, ClaimStatus};
use agentpool::domain::instance::status;
use agentpool::k8s::patch;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::world::World;

const NAME: &str = "0123456789ab";

/// A namespace without an operator, with one instance in stock.
async fn world(name: &str) -> (World, Api<AgentInstance>, AgentInstance) {
    let world = World::bare(name).await;
    let api = world.instances();
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": NAME, "finalizers": ["pool.convos.org/instance"]},
        "spec": {"id": NAME, "poolRef": {"name": "p"}, "providerName": NAME, "turn": 1,
            "template": {"revision": "p-1", "hash": "1"}},
    });
    let object: AgentInstance = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
    let idle = set_status(&api, json!({"turn": 1, "phase": "Idle", "conditions": []})).await;
    (world, api, idle)
}

async fn set_status(api: &Api<AgentInstance>, status: Value) -> AgentInstance {
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status(NAME, &PatchParams::default(), &patch)
        .await
        .unwrap()
}

/// Somebody else's write, of something that nobody here cares about.
async fn meanwhile(api: &Api<AgentInstance>, value: &str) -> AgentInstance {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"note": value}}}));
    api.patch(NAME, &PatchParams::default(), &patch)
        .await
        .unwrap()
}

fn claim(id: &str) -> Claim {
    let claim = json!({"id": id, "holder": "h", "deadline": "2031-01-01T00:00:00Z",
        "requestedAt": "2030-01-01T00:00:00Z", "agentName": "Ada"});
    serde_json::from_value(claim).unwrap()
}

fn done(id: &str, outcome: &str) -> ClaimStatus {
    let done = json!({"id": id, "outcome": outcome, "conversationId": "c", "joined": false});
    serde_json::from_value(done).unwrap()
}

async fn now(api: &Api<AgentInstance>) -> AgentInstance {
    api.get(NAME).await.unwrap()
}

async fn over(world: World, api: &Api<AgentInstance>) {
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let _ = api.patch(NAME, &PatchParams::default(), &free).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_judged_on_an_older_version_is_not_done() {
    let (world, api, read) = world("writes-old").await;
    meanwhile(&api, "a").await;
    let refused = [
        patch::reserve(&api, &read, &claim("c1")).await.map(drop),
        patch::release(&api, &read).await.map(drop),
        patch::delete_as_read(&api, &read).await,
        patch::remove_finalizer(&api, &read).await,
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        let error = refused.expect_err("written over what somebody else wrote");
        assert!(error.is_conflict(), "{n}: {error}");
    }
    let mut new = read.status.clone().unwrap();
    new.phase = Some("Dead".to_owned());
    let error = patch::write_status(&api, &read, &new).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let left = now(&api).await;
    assert_eq!((&left.spec, &left.status), (&read.spec, &read.status));
    assert!(left.metadata.deletion_timestamp.is_none());
    assert!(patch::reserve(&api, &left, &claim("c1")).await.is_ok());
    over(world, &api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_recorded_only_where_it_is_the_one() {
    let (world, api, read) = world("writes-record").await;
    let at = jiff::Timestamp::UNIX_EPOCH;
    let record = async |id: &str| {
        let object = now(&api).await;
        let new = status::claimed(&object, done(id, "Bound"), "in use", at);
        patch::record(&api, NAME, id, &new).await
    };
    assert!(
        record("c1").await.is_err_and(|e| e.is_invalid()),
        "nothing is claimed"
    );
    patch::reserve(&api, &read, &claim("c1")).await.unwrap();
    assert!(
        record("c0").await.is_err_and(|e| e.is_invalid()),
        "another's"
    );
    assert!(now(&api).await.status.unwrap().claim.is_none());
    // The controller may write meanwhile: that is nobody's conflict.
    meanwhile(&api, "b").await;
    record("c1").await.unwrap();
    assert_eq!(now(&api).await.status.unwrap().claim.unwrap().id, "c1");
    over(world, &api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_counts_only_while_the_same_claim_waits() {
    let (world, api, read) = world("writes-callback").await;
    patch::reserve(&api, &read, &claim("c1")).await.unwrap();
    let at = jiff::Timestamp::UNIX_EPOCH;
    let waiting = done("c1", "Pending");
    let object = now(&api).await;
    let new = status::claimed(&object, waiting.clone(), "waits", at);
    patch::record(&api, NAME, "c1", &new).await.unwrap();
    let bound = status::claimed(&object, done("c1", "Bound"), "in use", at);
    let another = ClaimStatus {
        id: "c0".to_owned(),
        ..waiting.clone()
    };
    let refused = patch::call_back(&api, NAME, &another, &bound).await;
    assert!(refused.is_err_and(|e| e.is_invalid()), "another claim's");
    patch::call_back(&api, NAME, &waiting, &bound)
        .await
        .unwrap();
    let twice = patch::call_back(&api, NAME, &waiting, &bound).await;
    assert!(twice.is_err_and(|e| e.is_invalid()), "it waits no more");
    over(world, &api).await;
}
