//! The provider refuses every deletion for a while.

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use super::{PATIENT, wait_reason};
use crate::support::wait::until;
use crate::support::world::World;

/// Events about an object with this reason.
async fn events(world: &World, id: &str, reason: &str) -> Vec<Value> {
    let text = world.kubectl(&["get", "events.events.k8s.io", "-o", "json"]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let all = all["items"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|e| e["regarding"]["name"] == id && e["reason"] == reason)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_deletion_holds_the_object_says_why_once_and_is_done_later() {
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "paused": ["Refill"]});
    let mut world = World::with_pool("refused", json!({"minIdle": 2})).await;
    world.patch_pool(spec).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0).spec.id;
    let idle = world.wait_idle(1).await.remove(0).spec.id;

    let words = "The volume is being backed up";
    let error = json!({"kind": "gql_error", "message": words});
    let rule = json!({"match": {"field": "serviceDelete"}, "fault": error});
    world.sim.fault("railway", rule).await;
    for id in [&claimed, &idle] {
        world.delete(id).await;
    }
    for id in [&claimed, &idle] {
        let message = wait_reason(&world, id, "DeletionPending").await;
        assert!(message.contains(words), "{message}");
    }
    until("each was refused three times", PATIENT, || async {
        (world.sim.railway_calls("RwServiceDelete").await >= 6).then_some(())
    })
    .await;
    // Not answered at all is no confirmation either.
    world.sim.heal("railway").await;
    let error = json!({"kind": "http_5xx", "status": 503});
    let rule = json!({"match": {"field": "serviceDelete"}, "fault": error});
    world.sim.fault("railway", rule).await;
    let before = world.sim.railway_calls("RwServiceDelete").await;
    until("each was refused once more", PATIENT, || async {
        (world.sim.railway_calls("RwServiceDelete").await >= before + 2).then_some(())
    })
    .await;
    assert_eq!(world.list().await.len(), 2, "the finalizers hold");
    assert_eq!(world.sim.live_services().await.len(), 2);
    for id in [&claimed, &idle] {
        let told = events(&world, id, "DeletionPending").await;
        assert_eq!(told.len(), 1, "one event: {told:#?}");
        assert!(told[0]["note"].as_str().unwrap().contains(words));
        assert!(told[0]["series"].is_null(), "told once: {told:#?}");
    }
    let metrics = format!("{}/metrics", world.operator().operations);
    let metrics = reqwest::get(metrics).await.unwrap().text().await.unwrap();
    let counted = metrics.lines().any(|line| {
        let labels = ["reconcile_errors", "instance", "ambiguous"];
        labels.iter().all(|word| line.contains(word)) && !line.ends_with(" 0")
    });
    assert!(counted, "{metrics}");

    world.sim.heal("railway").await;
    for id in [&claimed, &idle] {
        world.wait_gone(id).await;
    }
    assert!(world.sim.live_services().await.is_empty());
    world.finish().await;
}
