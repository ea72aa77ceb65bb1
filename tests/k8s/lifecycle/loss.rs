//! What goes behind our back, and what stays when its pool goes.

use agentpool::api::LABEL_PROTECTED;
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::{condition, host, ids, row, service_id, ticks};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// acceptance: A04
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_whose_service_is_gone_is_replaced() {
    let world = World::with_pool("vanished", json!({"minIdle": 2, "tickIntervalSeconds": 1})).await;
    let idle = world.wait_idle(2).await;
    let (lost, kept) = (&idle[0], &idle[1]);
    world
        .sim
        .force(json!({"service": service_id(lost), "delete": true}))
        .await;
    world.wait_gone(&lost.spec.id).await;
    let now = ids(&world.wait_idle(2).await);
    assert!(now.contains(&kept.spec.id) && !now.contains(&lost.spec.id));
    assert_eq!(world.sim.services_ever().await.len(), 3);
    assert_eq!(world.sim.live_services().await.len(), 2);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_agent_whose_service_is_gone_is_crashed_and_stays() {
    let world = World::with_pool(
        "crashed",
        json!({"minIdle": 1, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0}),
    )
    .await;
    let answer = world.claim("Tokyo Trip").await;
    let id = answer.body["instanceId"].as_str().unwrap();
    let claimed = world.instance(id).await.unwrap();
    world
        .sim
        .force(json!({"service": service_id(&claimed), "delete": true}))
        .await;
    let crashed = until("crashed", LONG, || async {
        let now = world.instance(id).await.expect("never deleted");
        (phase_of(&now) == Phase::Crashed).then_some(now)
    })
    .await;
    assert_eq!(condition(&crashed, "Ready").unwrap().1, "Gone");
    assert_eq!(crashed.spec.claim, claimed.spec.claim);
    assert_eq!(
        crashed.status.unwrap().claim,
        claimed.status.unwrap().claim,
        "it keeps what is known of its conversation"
    );
    ticks(&world, 4).await;
    let stays = world.instance(id).await.expect("it stays");
    assert_eq!(phase_of(&stays), Phase::Crashed);
    let row = row(&world, id).await.unwrap();
    assert_eq!(row["status"], "crashed");
    assert_eq!(row["conversationId"], answer.body["conversationId"]);
    let agents = world.get("/api/pool/agents").await.body;
    assert_eq!(agents["crashed"][0]["id"], id);
    world.wait_idle(1).await;
    world.finish().await;
}

/// Deletes the pool and waits until it is gone.
async fn delete_pool(world: &World) {
    world
        .pools()
        .delete(POOL, &DeleteParams::default())
        .await
        .unwrap();
    until("the pool is gone", LONG, || async {
        let left = world.pools().get_opt(POOL).await.unwrap();
        left.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_agent_outlives_its_pool() {
    let world =
        World::with_pool("protected", json!({"minIdle": 2, "tickIntervalSeconds": 1})).await;
    let idle = world.wait_idle(2).await;
    let (kept, other) = (&idle[0], &idle[1]);
    let label = json!({"metadata": {"labels": {LABEL_PROTECTED: "true"}}});
    world
        .instances()
        .patch(&kept.spec.id, &PatchParams::default(), &Patch::Merge(label))
        .await
        .unwrap();
    delete_pool(&world).await;
    assert!(world.instance(&other.spec.id).await.is_none());
    let left = world.list().await;
    assert_eq!(ids(&left), ids(std::slice::from_ref(kept)));
    assert!(left[0].metadata.deletion_timestamp.is_none());
    let live = world.sim.live_services().await;
    assert_eq!(live.len(), 1);
    assert_eq!(live[0]["id"], json!(service_id(kept)));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_agent_outlives_its_pool_unless_the_policy_is_destroy() {
    for policy in ["Orphan", "Destroy"] {
        let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "deletionPolicy": policy});
        let mut world = World::with_pool(&policy.to_lowercase(), spec).await;
        let answer = world.claim("Tokyo Trip").await;
        let id = answer.body["instanceId"].as_str().unwrap();
        let claimed = world.instance(id).await.unwrap();
        delete_pool(&world).await;
        let left = world.list().await;
        let live = world.sim.live_services().await;
        if policy == "Destroy" {
            assert!(left.is_empty() && live.is_empty(), "{left:?} {live:?}");
        } else {
            assert_eq!(ids(&left), ids(std::slice::from_ref(&claimed)));
            assert_eq!(live.len(), 1, "{live:?}");
            // It is looked after further, also by a process that never knew its pool, and it lives.
            world.operator().kill();
            let before = world.sim.calls("railway").await.len();
            world.start_operator(&[]);
            until("listed again", LONG, || async {
                let calls = world.sim.calls("railway").await.split_off(before);
                calls
                    .iter()
                    .any(|c| c["operation"] == "RwFleet")
                    .then_some(())
            })
            .await;
            let now = world.instance(id).await.unwrap();
            assert_eq!(phase_of(&now), Phase::Claimed);
            let agents = world.sim.state("agents").await;
            let agent = &agents["instances"][host(&claimed)];
            assert_eq!(agent["bound"], answer.body["conversationId"]);
            let health = world
                .agent(&format!("https://{}", host(&claimed)), "/pool/health", None)
                .await;
            assert_eq!(health.status, 200);
            // By hand it goes, with what it owns, though its pool is gone.
            world.delete(id).await;
            world.wait_gone(id).await;
        }
        world.finish().await;
    }
}
