//! The operator dies and comes again.

use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use super::{millis, replenish_one};
use crate::support::operator::Operator;
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, SPEED, World};

/// acceptance: C12
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_fill_it_creates_nothing_twice() {
    let mut world = World::start("killed").await;
    // Every write takes half a second at Railway, so that each kill meets one under way.
    let slow = json!({"timings": {"latency_mutation": 0.5 * SPEED}});
    world.sim.set("railway", slow).await;
    world
        .create_pool(POOL, json!({"minIdle": 4, "tickIntervalSeconds": 1}))
        .await;
    for operation in ["RwServiceCreate", "RwDomainCreate", "RwConfigureAndDeploy"] {
        until(operation, LONG, || async {
            (world.sim.railway_calls(operation).await > 0).then_some(())
        })
        .await;
        assert!(world.in_phase(Phase::Idle).await.len() < 4, "in the middle");
        world.operator().kill();
        world.start_operator(&[]);
    }
    world.wait_idle(4).await;
    assert_eq!(world.list().await.len(), 4);
    crate::railway::made_once(&world, 4).await;
    world.finish().await;
}

/// acceptance: N03
#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_built_when_it_died_is_built_on_and_not_twice() {
    let mut world = World::start("orphaned").await;
    // One is booting, one is starting at Railway, one waits for an answer: all when the operator dies.
    let boot = json!({"defaults": {"boot": millis(2500)}});
    world.sim.set("agents", boot).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    until("one boots", LONG, || async {
        let first = world.list().await.into_iter().next()?;
        super::condition(&first, "Ready").filter(|c| c.1 == "Booting")
    })
    .await;
    let slow = json!({"timings": {"deploying": 3.0 * SPEED, "latency_mutation": 0.5 * SPEED}});
    world.sim.set("railway", slow).await;
    replenish_one(&world).await;
    until("one starts", LONG, || async {
        let calls = world.sim.railway_calls("RwConfigureAndDeploy").await;
        (calls == 2).then_some(())
    })
    .await;
    replenish_one(&world).await;
    until("one is asked for", LONG, || async {
        (world.sim.railway_calls("RwServiceCreate").await == 3).then_some(())
    })
    .await;
    let before = super::ids(&world.list().await);
    assert_eq!(before.len(), 3);
    assert!(
        world.in_phase(Phase::Provisioning).await.len() >= 2,
        "on the way"
    );
    world.operator().kill();
    world.start_operator(&[]);
    let idle = world.wait_idle(3).await;
    assert_eq!(super::ids(&idle), before, "the same ones");
    crate::railway::made_once(&world, 3).await;
    assert_eq!(world.sim.services_ever().await.len(), 3);
    world.finish().await;
}

/// What `/api/pool/status` shows, instances by id.
async fn shown(world: &World) -> Value {
    let mut body = world.get("/api/pool/status").await.body;
    if let Some(rows) = body["instances"].as_array_mut() {
        rows.sort_by_key(|row| row["id"].to_string());
    }
    body
}

/// acceptance: G19
#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_it_shows_what_it_showed() {
    let mut world =
        World::with_pool("restart", json!({"minIdle": 2, "tickIntervalSeconds": 1})).await;
    for name in ["Ada", "Bob"] {
        assert_eq!(world.claim(name).await.status, 200);
        world.wait_idle(2).await;
    }
    // One of each kind: idle, claimed, crashed, starting.
    let claimed = world.in_phase(Phase::Claimed).await;
    let service = super::service_id(&claimed[0]);
    let crash = json!({"service": service, "deployment": {"status": "CRASHED"}});
    world.sim.force(crash).await;
    world.wait_count("crashed", 1).await;
    let boot = json!({"defaults": {"boot": millis(3_600_000)}});
    world.sim.set("agents", boot).await;
    let starting = replenish_one(&world).await;
    until("it boots", LONG, || async {
        let i = world.instance(&starting).await?;
        super::condition(&i, "Ready").filter(|c| c.1 == "Booting")
    })
    .await;
    let before = until("at rest", LONG, || async {
        let (first, _) = (shown(&world).await, super::ticks(&world, 2).await);
        (first == shown(&world).await).then_some(first)
    })
    .await;
    let counts = &before["counts"];
    for (key, count) in [("idle", 2), ("claimed", 1), ("crashed", 1), ("starting", 1)] {
        assert_eq!(counts[key], count, "{before}");
    }
    let ada = before["instances"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["status"] == "claimed")
        .unwrap();
    assert!(ada["inviteUrl"].is_string() && ada["instructions"] == "Be kind.");

    let services = world.sim.services_ever().await.len();
    world.operator().kill();
    world.start_operator(&[]);
    let ready = format!("{}/readyz", world.operator().operations);
    until("it is ready", LONG, || async {
        let answer = reqwest::get(&ready).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    assert_eq!(shown(&world).await, before, "from its first answer on");
    holds("it stays so", Duration::from_secs(3), || async {
        shown(&world).await == before
    })
    .await;
    assert_eq!(world.sim.services_ever().await.len(), services);
    // And the stock is still stock.
    let idle = world.in_phase(Phase::Idle).await;
    let answer = world.claim("Cleo").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(idle.iter().any(|i| answer.body["instanceId"] == i.spec.id));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_at_the_same_moment_all_begin_to_work() {
    let world = World::bare("crowd").await;
    let environment = world.environment(&[]);
    // Slowed down by each other, they come to wait for their watches before these are filled.
    let starts: Vec<_> = (0..10)
        .map(|_| {
            let environment = environment.clone();
            tokio::task::spawn_blocking(move || Operator::start("controller", &environment))
        })
        .collect();
    let mut all = vec![];
    for start in starts {
        all.push(start.await.unwrap());
    }
    for operator in &all {
        until("it leads or stands by", LONG, || async {
            let log = operator.log();
            let begun = log.contains("reconciling pools=") || log.contains("not leading: ");
            begun.then_some(())
        })
        .await;
    }
    let leaders = all
        .iter()
        .filter(|o| o.log().contains("reconciling pools="));
    assert_eq!(leaders.count(), 1);
}
