//! What a life costs at Railway: agents that are made, claimed and removed, each by the real binaries; and how fast a
//! pool fills.
//!
//! `make bench-life`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program that measures, and stops where it cannot"
)]
#![allow(dead_code, reason = "the tests' support has more than is used here")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentpool::domain::instance::phase::Phase;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use support::LONG;
use support::wait::until;
use support::world::{POOL, World};

const AGENTS: usize = 50;

#[tokio::main]
async fn main() {
    let mut world = World::bare("bench-life").await;
    let at_once = json!({"boot": 0, "convosLoad": 0, "status": 0, "create": 0, "join": 0});
    world.sim.set("agents", json!({"defaults": at_once})).await;
    let open = json!({"limits": {"perHour": 100_000_000, "perSecond": 1_000_000}});
    world.sim.set("railway", open).await;
    world.start_operator(&[("LOG_LEVEL", "warn")]);
    let began = Instant::now();
    let spec = json!({"minIdle": AGENTS, "maxTotal": AGENTS, "tickIntervalSeconds": 30});
    world.create_pool(POOL, spec).await;
    until("the pool is full", LONG, || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        (world.in_phase(Phase::Idle).await.len() == AGENTS).then_some(())
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    println!(
        "fill of {AGENTS}: {took:.1} s   {:.0}/s",
        AGENTS as f64 / took
    );
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    world.wait_count("idle", AGENTS as i64).await;
    for n in 0..AGENTS {
        let answer = world.claim(&format!("Agent {n}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    until("all are renamed after their agents", LONG, || async {
        let all = world.sim.calls("railway").await;
        let renamed = all.iter().filter(|c| c["operation"] == "RwServiceRename");
        (renamed.count() == AGENTS).then_some(())
    })
    .await;
    remove(&world).await;
    let mut by_operation = BTreeMap::<String, usize>::new();
    for call in world.sim.calls("railway").await {
        let operation = call["operation"].as_str().unwrap_or("?").to_owned();
        *by_operation.entry(operation).or_default() += 1;
    }
    let shared = by_operation.iter().filter(|(o, _)| is_shared(o));
    let shared: usize = shared.map(|(_, n)| n).sum();
    let own = by_operation.values().sum::<usize>() - shared;
    println!(
        "Railway requests per life, rename included: {:.2}, and {shared} shared listings in all; {by_operation:?}",
        own as f64 / AGENTS as f64
    );
    world.sim.check_invariants().await;
}

async fn remove(world: &World) {
    let delete = DeleteParams::default();
    world.pools().delete(POOL, &delete).await.unwrap();
    let all = ListParams::default();
    let instances = world.instances();
    instances.delete_collection(&delete, &all).await.unwrap();
    until("all are gone", LONG, || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.list().await.is_empty().then_some(())
    })
    .await;
    assert!(world.sim.live_services().await.is_empty());
}

/// Listings and scope, which all instances share.
fn is_shared(operation: &str) -> bool {
    ["RwFleet", "RwProject", "RwEnvironments", "RwProjectToken"].contains(&operation)
}
