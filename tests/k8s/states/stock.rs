//! The same for agents in stock, and for those that are being built: dead, asleep, stuck, waiting for a person.

use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use serde_json::json;

use super::{deploy_status, fall_asleep, force, requests, wait_phase};
use crate::lifecycle::{condition, host, ids, millis, service_id, ticks};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};

/// acceptance: B17
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_in_stock_is_gone_at_railway_and_here_and_replaced() {
    let spec = json!({"minIdle": 5, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let world = World::with_pool("dead", spec).await;
    let before = world.wait_idle(5).await;
    let words = ["FAILED", "CRASHED", "REMOVED", "SKIPPED", "SUCCESS"];
    for (instance, word) in before.iter().zip(words) {
        force(&world, instance, json!({"status": word, "stopped": true})).await;
    }
    for instance in &before {
        world.wait_gone(&instance.spec.id).await;
    }
    let new = world.wait_idle(5).await;
    assert!(ids(&new).is_disjoint(&ids(&before)));
    let live: Vec<_> = world.sim.live_services().await;
    assert_eq!(live.len(), 5, "{live:?}");
    for instance in &before {
        assert!(live.iter().all(|s| s["id"] != json!(service_id(instance))));
    }
    assert_eq!(
        world.sim.services_ever().await.len(),
        10,
        "each replaced once"
    );
    world.finish().await;
}

/// Puts an agent to sleep, as often as a probe that was on its way wakes it unnoticed, until `there`.
async fn asleep_until(
    world: &World,
    agent: &AgentInstance,
    what: &str,
    there: impl Fn(&AgentInstance) -> bool,
) -> AgentInstance {
    let forced = std::cell::Cell::new(None);
    until(what, LONG, || async {
        let now = world.instance(&agent.spec.id).await?;
        if there(&now) {
            return Some(now);
        }
        let listings = world.sim.railway_calls("RwFleet").await;
        let unnoticed = forced.get().is_none_or(|at| listings > at + 3);
        if unnoticed && phase_of(&now) == Phase::Idle {
            forced.set(Some(listings));
            force(world, agent, json!({"status": "SLEEPING"})).await;
        }
        None
    })
    .await
}

/// acceptance: B17
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_in_stock_is_woken_once_and_replaced_when_it_sleeps_again() {
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let world = World::with_pool("asleep", spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    let id = idle.spec.id.clone();
    // It may sleep for a moment only: the wake is what stays recorded.
    let woken = asleep_until(&world, &idle, "it was woken", |now| {
        let provider = now.status.as_ref().and_then(|s| s.provider.as_ref());
        provider.is_some_and(|p| p.woken_at.is_some()) && phase_of(now) == Phase::Idle
    })
    .await;
    let provider = woken.status.clone().unwrap().provider.unwrap();
    assert_eq!(deploy_status(&woken).as_deref(), Some("SUCCESS"));

    // Asleep again: nobody wakes it, it goes. (A probe that was on its way may: then once more.)
    let at = provider.woken_at;
    force(&world, &idle, json!({"status": "SLEEPING"})).await;
    let forced = std::cell::Cell::new(world.sim.railway_calls("RwFleet").await);
    until("it goes", LONG, || async {
        let Some(now) = world.instance(&id).await else {
            return Some(());
        };
        let provider = now.status.unwrap().provider.unwrap();
        assert_ne!(provider.state.as_deref(), Some("Waking"), "a second wake");
        assert_eq!(provider.woken_at, at, "a second wake");
        let listings = world.sim.railway_calls("RwFleet").await;
        if listings > forced.get() + 3 {
            forced.set(listings);
            let live = world.sim.live_services().await;
            if live.iter().any(|s| s["id"] == json!(service_id(&idle))) {
                force(&world, &idle, json!({"status": "SLEEPING"})).await;
            }
        }
        None
    })
    .await;
    let new = world.wait_idle(1).await;
    assert_ne!(new[0].spec.id, id);
    assert_eq!(world.sim.live_services().await.len(), 1);
    world.finish().await;
}

/// acceptance: B17
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_that_a_wake_does_not_help_is_woken_once_whatever_restarts_and_replaced() {
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let mut world = World::with_pool("heavy-sleeper", spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    let (id, host) = (idle.spec.id.clone(), host(&idle));
    // It answers no request, and Railway goes on calling it asleep.
    let never = json!({"timings": {"wake": 1_000_000}});
    world.sim.set("railway", never).await;
    let rule = json!({"match": {"host": host}, "fault": {"kind": "wakeSlow", "ms": 1_000_000_000}});
    world.sim.fault("agents", rule).await;
    force(&world, &idle, json!({"status": "SLEEPING"})).await;
    until("it is being woken, and that is recorded", LONG, || async {
        let status = world.instance(&id).await?.status?;
        (status.provider?.state.as_deref() == Some("Waking")).then_some(())
    })
    .await;
    until("the wake is out", LONG, || async {
        let calls = world.sim.calls("agents").await;
        let last = calls.iter().rev().find(|c| c["host"] == host)?;
        last["status"].is_null().then_some(())
    })
    .await;
    world.operator().kill();
    let before = requests(&world, &host).await;
    world.start_operator(&[]);
    until("dead", Duration::from_secs(90), || async {
        let Some(now) = world.instance(&id).await else {
            return Some(());
        };
        assert_ne!(phase_of(&now), Phase::Idle);
        None
    })
    .await;
    assert_eq!(requests(&world, &host).await, before, "woken once");
    assert_ne!(world.wait_idle(1).await[0].spec.id, id);
    world.finish().await;
}

/// acceptance: B17
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_that_may_sleep_is_out_of_stock_and_left_alone() {
    let railway = json!({"railway": {"sleep": true}});
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0, "provider": railway});
    let world = World::with_pool("may-sleep", spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    let service = world.sim.service(&idle.spec.provider_name).await.unwrap();
    assert!(
        service["instances"][0]
            .to_string()
            .contains("\"sleepApplication\":true"),
        "{service}"
    );
    fall_asleep(&world, &idle).await;
    asleep_until(&world, &idle, "it is Sleeping", |now| {
        phase_of(now) == Phase::Sleeping
    })
    .await;
    let seen = requests(&world, &host(&idle)).await;
    world.wait_count("sleeping", 1).await;
    let other = world.wait_idle(1).await.remove(0);
    assert_ne!(other.spec.id, idle.spec.id);
    ticks(&world, 5).await;
    assert_eq!(requests(&world, &host(&idle)).await, seen, "not woken");
    let answer = world.claim("Ada").await;
    assert_eq!(answer.body["instanceId"], other.spec.id, "{}", answer.text);
    assert_eq!(
        wait_phase(&world, &idle.spec.id, Phase::Sleeping)
            .await
            .spec
            .claim,
        None
    );
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    world.finish().await;
}

/// acceptance: B17, B25, E12
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_ready_within_the_stuck_timeout_is_replaced() {
    let world = World::start("stuck").await;
    let never = json!({"defaults": {"boot": millis(3_600_000)}});
    world.sim.set("agents", never).await;
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    world.create_pool(POOL, spec).await;
    let default = "jsonpath={.spec.stuckTimeoutSeconds}";
    assert_eq!(world.kubectl(&["get", "ap", POOL, "-o", default]), "900");
    let stuck = until("one boots", LONG, || async {
        let all = world.list().await;
        let booting = all.into_iter().next()?;
        condition(&booting, "Ready").filter(|c| c.1 == "Booting")?;
        Some(booting)
    })
    .await;
    holds("it has its time", Duration::from_secs(6), || async {
        let now = world.instance(&stuck.spec.id).await.unwrap();
        phase_of(&now) == Phase::Provisioning
    })
    .await;
    // The next one is quick.
    let quick = json!({"defaults": {"boot": 0}});
    world.sim.set("agents", quick).await;
    world.patch_pool(json!({"stuckTimeoutSeconds": 5})).await;
    world.wait_gone(&stuck.spec.id).await;
    let new = world.wait_idle(1).await;
    assert_ne!(new[0].spec.id, stuck.spec.id);
    assert_eq!(world.sim.live_services().await.len(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_waits_for_approval_says_so_and_goes_on_with_it() {
    let world = World::start("approval").await;
    let rule = json!({"match": {}, "count": 1, "fault": {"kind": "needs_approval"}});
    world.sim.fault("railway", rule).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    let waits = until("it says so", LONG, || async {
        let now = world.list().await.into_iter().next()?;
        condition(&now, "Ready").filter(|c| c.1 == "NeedsApproval")?;
        Some(now)
    })
    .await;
    assert_eq!(phase_of(&waits), Phase::Provisioning);
    assert_eq!(deploy_status(&waits).as_deref(), Some("NEEDS_APPROVAL"));
    let ready = until("the pool says so too", LONG, || async {
        let ready = world.pool_condition("Ready").await?;
        ready.2.contains("approval").then_some(ready)
    })
    .await;
    assert_eq!(ready.0, "False");
    force(&world, &waits, json!({"status": "SUCCESS"})).await;
    let idle = world.wait_idle(1).await;
    assert_eq!(idle[0].spec.id, waits.spec.id);
    assert_eq!(world.sim.services_ever().await.len(), 1);
    world.finish().await;
}

/// acceptance: C11
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_cannot_be_made_at_once_is_made_later() {
    let world = World::start("domain").await;
    let refused = json!({"kind": "gql_error", "message": "Failed to create service domain, please try again"});
    let rule = json!({"match": {"field": "serviceDomainCreate"}, "count": 1, "fault": refused});
    world.sim.fault("railway", rule).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    let without = until("it is there without an address", LONG, || async {
        let now = world.list().await.into_iter().next()?;
        let status = now.status.clone()?;
        (status.provider?.service_id.is_some() && status.url.is_none()).then_some(now)
    })
    .await;
    // Nobody knows whether it was made: it is looked for twice, past the listing's lag.
    let idle = world.wait_idle(1).await.remove(0);
    assert_eq!(idle.spec.id, without.spec.id);
    assert!(idle.status.unwrap().url.is_some());
    assert_eq!(world.sim.railway_calls("RwDomainCreate").await, 2);
    let service = world
        .sim
        .service(&without.spec.provider_name)
        .await
        .unwrap();
    assert_eq!(
        service["domains"].as_array().map(Vec::len),
        Some(1),
        "{service}"
    );
    world.finish().await;
}
