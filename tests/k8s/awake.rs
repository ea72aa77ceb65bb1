//! Awake or asleep is a decision: which sprites are asked how they fare, which are let sleep, and what follows from silence.

use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::chaos::PATIENT;
use crate::recycling::{account, filled, finish, spec, sprite, sprites_ever, wait_idle};
use crate::support::wait::{holds, until};
use crate::support::world::{SPEED, World};

/// Sprites fall asleep after so many real seconds without a call.
async fn sleep_after(world: &World, seconds: f64) {
    let simulated = |s: f64| (s * SPEED) as i64;
    let knobs = json!({"idle_to_warm_s": simulated(seconds), "warm_to_cold_s": simulated(seconds)});
    world.sim.set("sprites", json!({"knobs": knobs})).await;
}

async fn wakes(world: &World) -> Vec<Value> {
    let all = world.in_phase(Phase::Idle).await;
    let mut wakes = vec![];
    for instance in &all {
        let account = account(world, instance).await;
        wakes.extend(account["wakeUps"].as_array().cloned().unwrap_or_default());
    }
    wakes
}

async fn listings(world: &World) -> usize {
    let calls = world.sim.calls("sprites").await;
    calls.iter().filter(|c| c["operation"] == "list").count()
}

async fn ticks(world: &World, count: usize) {
    let before = listings(world).await;
    until(&format!("{count} more listings"), PATIENT, || async {
        (listings(world).await >= before + count).then_some(())
    })
    .await;
}

async fn wait_state(world: &World, state: &str) {
    until(&format!("the instance is {state}"), PATIENT, || async {
        let all = world.in_phase(Phase::Idle).await;
        let provider = all.first()?.status.as_ref()?.provider.as_ref()?;
        (provider.state.as_deref() == Some(state)).then_some(())
    })
    .await;
}

/// Not once is an idle one woken; claimed from its sleep it wakes in time.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sprite_that_may_sleep_is_never_woken_and_claimed_from_its_sleep_it_wakes() {
    for keep in ["Claimed", "Never"] {
        let name = format!("asleep-{}", keep.to_lowercase());
        let world = filled(
            &name,
            spec(json!({"keepAwake": keep, "heartbeatSeconds": 1}), json!({})),
        )
        .await;
        sleep_after(&world, 1.5).await;
        wait_state(&world, "Cold").await;
        let before = wakes(&world).await;
        ticks(&world, 6).await;
        // A person asks for everything to be looked at.
        let path = "/api/pool/replenish";
        world.call(reqwest::Method::POST, path, json!({})).await;
        ticks(&world, 2).await;
        assert_eq!(wakes(&world).await, before, "{keep}");
        let idle = world.in_phase(Phase::Idle).await;
        assert_eq!(idle.len(), 1, "in stock all the same");
        assert_eq!(sprite(&world, &idle[0]).await["status"], "cold");
        let claimed = world.claim("Ada").await;
        assert_eq!(claimed.status, 200, "{}", claimed.text);
        let woken = account(&world, &idle[0]).await;
        let woken = woken["wakeUps"].as_array().unwrap();
        assert!(woken.len() > before.len(), "{woken:?}");
        finish(world).await;
    }
}

/// acceptance: C06, C07, E09
#[tokio::test(flavor = "multi_thread")]
async fn kept_awake_always_a_sprite_is_asked_at_every_beat_and_does_not_sleep() {
    let world = filled(
        "heartbeat",
        spec(
            json!({"keepAwake": "Always", "heartbeatSeconds": 1}),
            json!({}),
        ),
    )
    .await;
    sleep_after(&world, 3.0).await;
    let idle = world.in_phase(Phase::Idle).await.remove(0);
    let before = account(&world, &idle).await["wakeUps"].clone();
    let asked = || async {
        let calls = world.sim.calls("agents").await;
        let asks = |c: &&Value| c["path"] == "/convos/status";
        calls.iter().filter(asks).count()
    };
    let beats = asked().await;
    ticks(&world, 10).await;
    assert!(
        asked().await >= beats + 5,
        "{} beats",
        asked().await - beats
    );
    assert_eq!(sprite(&world, &idle).await["status"], "running");
    assert_eq!(
        account(&world, &idle).await["wakeUps"],
        before,
        "it never slept"
    );
    // In use as well.
    assert_eq!(world.claim("Ada").await.status, 200);
    let beats = asked().await;
    ticks(&world, 10).await;
    assert!(
        asked().await >= beats + 5,
        "{} beats",
        asked().await - beats
    );
    assert_eq!(sprite(&world, &idle).await["status"], "running");
    finish(world).await;
}

/// acceptance: B14, N02
#[tokio::test(flavor = "multi_thread")]
async fn silent_for_three_beats_and_three_restarts_one_in_stock_is_replaced_and_one_in_use_kept() {
    let change = json!({"minIdle": 1, "maxTotal": 3, "replacement": "ToMinIdle"});
    let world = filled(
        "silent",
        spec(
            json!({"keepAwake": "Always", "heartbeatSeconds": 1}),
            change,
        ),
    )
    .await;
    let claimed = world.claim("Ada").await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    let in_use = claimed.body["instanceId"].as_str().unwrap().to_owned();
    let idle = wait_idle(&world, 1).await.remove(0);
    for instance in world.list().await {
        let about = json!({"sprite": instance.spec.provider_name, "operation": "url"});
        let rule = json!({"match": about, "fault": {"kind": "http_5xx", "status": 502}});
        world.sim.fault("sprites", rule).await;
    }
    until("the one in stock is gone", PATIENT, || async {
        world.instance(&idle.spec.id).await.is_none().then_some(())
    })
    .await;
    let calls = world.sim.calls("sprites").await;
    let restarts = |name: &str| {
        let of = |c: &&Value| c["sprite"] == *name && c["operation"] == "restartService";
        calls.iter().filter(of).count()
    };
    assert_eq!(restarts(&idle.spec.provider_name), 3);
    until("the one in use is kept as crashed", PATIENT, || async {
        let crashed = world.in_phase(Phase::Crashed).await;
        crashed.iter().any(|i| i.spec.id == in_use).then_some(())
    })
    .await;
    world.sim.heal("sprites").await;
    let other = wait_idle(&world, 1).await.remove(0);
    assert_ne!(other.spec.id, idle.spec.id);
    let in_use = world.instance(&in_use).await.unwrap();
    assert_ne!(
        sprite(&world, &in_use).await,
        Value::Null,
        "never deleted by us"
    );
    finish(world).await;
}

/// Join requests of a new conversation are asked for from outside until one was processed, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn join_requests_are_processed_from_outside_where_the_pool_wants_that() {
    let world = filled("joins", spec(json!({"pollJoinRequests": true}), json!({}))).await;
    let idle = world.list().await.remove(0);
    let asked = || async {
        let calls = world.sim.calls("sprites").await;
        let path = |c: &&Value| {
            c["path"]
                .as_str()
                .is_some_and(|p| p.contains("process-join"))
        };
        calls.iter().filter(path).count()
    };
    assert_eq!(world.claim("Ada").await.status, 200);
    until("they are asked for twice", PATIENT, || async {
        (asked().await >= 2).then_some(())
    })
    .await;
    let force = json!({"sprite": idle.spec.provider_name, "joinRequests": 1});
    world.sim.set("sprites", json!({"force": [force]})).await;
    let told = "join requests processed";
    until("one is processed", PATIENT, || async {
        let log = world.operator.as_ref()?.log();
        log.contains(told).then_some(())
    })
    .await;
    // Twice the time between two of them.
    let done = asked().await;
    holds("no more after one was", Duration::from_secs(11), || async {
        asked().await == done
    })
    .await;
    finish(world).await;
}

/// acceptance: B15
#[tokio::test(flavor = "multi_thread")]
async fn a_sprite_that_is_gone_is_replaced_after_two_looks() {
    let world = filled("gone", spec(json!({}), json!({}))).await;
    let idle = world.list().await.remove(0);
    let force = json!({"sprite": idle.spec.provider_name, "delete": true});
    world.sim.set("sprites", json!({"force": [force]})).await;
    until("another is in stock", PATIENT, || async {
        let all = world.in_phase(Phase::Idle).await;
        all.iter().any(|i| i.spec.id != idle.spec.id).then_some(())
    })
    .await;
    assert!(world.instance(&idle.spec.id).await.is_none());
    assert_eq!(sprites_ever(&world).await.len(), 2);
    finish(world).await;
}
