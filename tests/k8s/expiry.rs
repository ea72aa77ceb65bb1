//! The end of agents in use: by their pool's word after a time, or by a person's.

use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::door::open_world;
use crate::http_calls::{delete, service_id, text};
use crate::lifecycle::ticks;
use crate::pending::{told, wait_phase};
use crate::support::wait::{LONG, until};
use crate::support::world::World;

async fn claimed(world: &World, name: &str) -> String {
    let answer = world.claim(name).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    text(&answer.body, "instanceId")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_agent_ends_with_its_lifetime_and_a_protected_one_does_not() {
    let spec = json!({"minIdle": 2, "maxTotal": 8, "tickIntervalSeconds": 1});
    let (world, _door) = open_world("lifetime", spec).await;
    let (kept, goes) = (claimed(&world, "Kept").await, claimed(&world, "Goes").await);
    let label = "pool.convos.org/protected=true";
    let (kept, goes) = (
        wait_phase(&world, &kept, Phase::Claimed).await,
        wait_phase(&world, &goes, Phase::Claimed).await,
    );
    world.kubectl(&["label", "agentinstance", &kept.name_any(), label]);
    let idle = world.wait_idle(2).await;
    // Only now: an agent in use is subject to what its pool says today.
    let claim = json!({"maxLifetimeSeconds": 10, "idleTimeoutSeconds": 60});
    world.patch_pool(json!({"claim": claim})).await;
    let ending = until("its end is told", LONG, || async {
        let notes = told(&world, &goes.name_any(), "Expired");
        notes.first().cloned()
    })
    .await;
    assert!(ending.contains("maxLifetimeSeconds"), "{ending}");
    world.wait_gone(&goes.spec.id).await;
    let bound = goes
        .status
        .clone()
        .unwrap()
        .claim
        .unwrap()
        .claimed_at
        .unwrap();
    let age = jiff::Timestamp::now().duration_since(bound.0);
    assert!(
        age >= jiff::SignedDuration::from_secs(10),
        "not before: {age:?}"
    );
    let live = world.sim.live_services().await;
    assert!(
        !live.iter().any(|s| s["id"] == service_id(&goes)),
        "gone for good"
    );
    ticks(&world, 3).await;
    let stays = world.instance(&kept.spec.id).await.expect("protected");
    assert_eq!(phase_of(&stays), Phase::Claimed);
    assert!(told(&world, &kept.name_any(), "Expired").is_empty());
    // Those in stock are as old and nobody's: they stay.
    for instance in &idle {
        let now = world.instance(&instance.spec.id).await.expect("it stays");
        assert_eq!(phase_of(&now), Phase::Idle);
    }
    // What cannot be done is said, and the pool goes on.
    let ready = until("it says that the field has no effect", LONG, || async {
        let ready = world.pool_condition("Ready").await?;
        ready.2.contains("idleTimeoutSeconds").then_some(ready)
    })
    .await;
    assert_eq!(ready.1, "MinimumMet", "{}", ready.2);
    world.finish().await;
}

/// By `spec.release` or over HTTP. Railway has nothing to restore an agent from: the API server says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_ends_an_agent_in_use_and_none_is_recycled_on_railway() {
    let spec = json!({"minIdle": 3, "maxTotal": 8, "tickIntervalSeconds": 1});
    let (world, _door) = open_world("released", spec).await;
    let mut all = vec![];
    for name in ["One", "Two", "Three"] {
        let id = claimed(&world, name).await;
        all.push(wait_phase(&world, &id, Phase::Claimed).await);
    }
    let release = |mode: &str| {
        let release = json!({"id": "r1", "mode": mode, "requestedAt": "2026-01-01T00:00:00Z"});
        json!({"spec": {"release": release}}).to_string()
    };
    let (first, name) = (&all[0], all[0].name_any());
    let patch = |body: &str| world.try_kubectl(&["patch", "ai", &name, "--type=merge", "-p", body]);
    let (ok, refusal) = patch(&release("Recycle"));
    assert!(
        !ok && refusal.contains("release it with mode Destroy"),
        "{refusal}"
    );
    let now = world.instance(&first.spec.id).await.unwrap();
    assert_eq!(phase_of(&now), Phase::Claimed, "nothing happened to it");
    let (ok, text) = patch(&release("Destroy"));
    assert!(ok, "{text}");
    world.wait_gone(&first.spec.id).await;

    let crashed = &all[1];
    let change = json!({"service": service_id(crashed), "deployment": {"status": "CRASHED"}});
    world.sim.force(change).await;
    wait_phase(&world, &crashed.spec.id, Phase::Crashed).await;
    let body = release("Destroy");
    world.kubectl(&[
        "patch",
        "ai",
        &crashed.name_any(),
        "--type=merge",
        "-p",
        &body,
    ]);
    world.wait_gone(&crashed.spec.id).await;

    let path = format!("/api/pool/instances/{}?mode=recycle", all[2].spec.id);
    let answer = delete(&world, &path).await;
    let destroyed: Value = json!({"ok": true, "action": "destroyed"});
    assert_eq!((answer.status, &answer.body), (200, &destroyed));
    world.wait_gone(&all[2].spec.id).await;
    world.wait_idle(3).await;
    world.finish().await;
}
