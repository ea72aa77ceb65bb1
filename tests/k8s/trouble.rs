//! When calls fail: each kind waits in its own way, says so once, and nothing changes its phase by it.

mod classes;
mod wire;

use std::time::Duration;

use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::lifecycle::{condition, ids, replenish_one, service_id, ticks};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, SPEED, World};

/// How often an event with that reason was told of an object of that kind.
async fn told(world: &World, kind: &str, reason: &str) -> i64 {
    let events = world.kubectl(&["get", "events", "-o", "json"]);
    let events: Value = serde_json::from_str(&events).unwrap();
    let of = |e: &&Value| e["involvedObject"]["kind"] == kind && e["reason"] == reason;
    let often = |e: &Value| e["series"]["count"].as_i64().unwrap_or(1);
    let all = events["items"].as_array().unwrap();
    all.iter().filter(of).map(often).sum()
}

/// The pool's ProviderReachable and Ready: status and reason each.
async fn pool_says(world: &World) -> Option<[(String, String); 2]> {
    let reachable = world.pool_condition("ProviderReachable").await?;
    let ready = world.pool_condition("Ready").await?;
    Some([(reachable.0, reachable.1), (ready.0, ready.1)])
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

/// acceptance: N01
#[tokio::test(flavor = "multi_thread")]
async fn three_failed_creations_in_a_row_are_enough_until_the_back_off_is_over() {
    let world = World::start("breaker").await;
    let fault = json!({"match": {}, "fault": {"kind": "fail_at", "at": "start"}});
    world.sim.fault("railway", fault).await;
    let breaker = json!({"failures": 3, "backoffSeconds": 8});
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "circuitBreaker": breaker});
    world.create_pool(POOL, spec).await;
    let (open, reason, message) = until("the breaker opens", LONG, || async {
        let circuit = world.pool_condition("CircuitOpen").await?;
        (circuit.0 == "True").then_some(circuit)
    })
    .await;
    assert_eq!(
        (open.as_str(), reason.as_str()),
        ("True", "CreationsFailing")
    );
    let status = world.pool().await.status.unwrap();
    let until_then = status.breaker.unwrap().open_until.unwrap().0;
    let second = until_then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    assert!(
        message.contains("3 creations failed in a row") && message.contains(&second),
        "how many, and when it is tried again: {message}"
    );
    let ready = world.pool_condition("Ready").await.unwrap();
    assert!(
        ready.2.contains(&message),
        "the same words: {} / {message}",
        ready.2
    );
    let shown = world.get("/api/pool/status").await.body["pool"].clone();
    assert_eq!(shown["reason"], "CreationsFailing", "{shown}");
    assert!(
        shown["message"].as_str().unwrap().contains(&second),
        "{shown}"
    );
    assert_eq!(world.sim.services_ever().await.len(), 3);
    // Not before its time; a request is refused with the same words.
    let asked = world
        .call(Method::POST, "/api/pool/replenish", json!({"count": 1}))
        .await;
    assert_eq!((asked.status, &asked.body["created"]), (200, &json!(0)));
    assert!(
        asked.text.contains("3 creations failed in a row"),
        "{}",
        asked.text
    );
    until("its time comes", LONG, || async {
        let made = world.sim.services_ever().await.len();
        let now = jiff::Timestamp::now();
        if now < until_then {
            assert_eq!(made, 3, "tried before {until_then}");
        }
        (now >= until_then).then_some(())
    })
    .await;
    until("one more is tried", LONG, || async {
        (world.sim.services_ever().await.len() == 4).then_some(())
    })
    .await;
    world.sim.heal("railway").await;
    world.wait_idle(1).await;
    until("it closes", LONG, || async {
        let circuit = world.pool_condition("CircuitOpen").await?;
        (circuit.0 == "False").then_some(())
    })
    .await;
    world.finish().await;
}

/// acceptance: N06
#[tokio::test(flavor = "multi_thread")]
async fn a_replenish_of_which_the_api_server_refuses_a_part_says_how_many_it_made() {
    let world = World::with_pool("quota", json!({"minIdle": 1, "tickIntervalSeconds": 1})).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"count/agentinstances.pool.convos.org": "3"}}});
    let file = std::env::temp_dir().join(format!("{}.json", &*world.namespace));
    std::fs::write(&file, quota.to_string()).unwrap();
    world.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let used = "jsonpath={.status.used}";
    until("the quota counts", LONG, || async {
        let used = world.kubectl(&["get", "resourcequota", "few", "-o", used]);
        used.contains("\"1\"").then_some(())
    })
    .await;
    let answer = world
        .call(Method::POST, "/api/pool/replenish", json!({"count": 5}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.body["created"], &answer.body["failed"]),
        (&json!(2), &json!(3)),
        "{}",
        answer.text
    );
    let errors = answer.body["errors"].to_string();
    assert!(errors.contains("exceeded quota"), "it says why: {errors}");
    let made: Vec<_> = answer.body["instances"].as_array().unwrap().clone();
    assert_eq!(made.len(), 2);
    let idle = world.wait_idle(3).await;
    assert!(
        made.iter()
            .all(|m| ids(&idle).contains(m["id"].as_str().unwrap()))
    );
    let pool = world.pool().await.status.unwrap();
    assert!(pool.creating.is_empty(), "given up: {:?}", pool.creating);
    // The rest of the pool's life goes on: what is deleted goes.
    world.delete(&idle[0].name_any()).await;
    world.wait_gone(&idle[0].spec.id).await;
    world.finish().await;
}

/// acceptance: N13
#[tokio::test(flavor = "multi_thread")]
async fn html_or_429_from_railway_changes_no_state_and_is_not_hammered() {
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let world = World::with_pool("outage", spec).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    world.wait_idle(2).await;
    let states = async || -> Vec<(String, Phase)> {
        let all = world.list().await;
        let mut all: Vec<_> = all
            .iter()
            .map(|i| (i.spec.id.clone(), phase_of(i)))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let before = states().await;
    for (fault, reason, most) in [
        // Each listing is three tries; after 0, 1, 3 and 7 s, and not at every tick.
        (
            json!({"kind": "http_5xx", "html": true}),
            "ProviderUnavailable",
            12,
        ),
        (
            json!({"kind": "rate_limit", "seconds": SPEED * 60.0}),
            "RateLimited",
            1,
        ),
    ] {
        world
            .sim
            .fault("railway", json!({"match": {}, "fault": fault}))
            .await;
        let asked = world.sim.calls("railway").await.len();
        let reachable = until(reason, LONG, || async {
            let reachable = world.pool_condition("ProviderReachable").await?;
            (reachable.1 == reason).then_some(reachable)
        })
        .await;
        assert_eq!(reachable.0, "Unknown");
        holds("nothing changes", Duration::from_secs(6), || async {
            states().await == before
        })
        .await;
        let asked = world.sim.calls("railway").await.len() - asked;
        assert!((1..=most).contains(&asked), "{reason}: asked {asked} times");
        assert_eq!(told(&world, "AgentPool", reason).await, 1, "told once");
        // Stock is stock all the while.
        assert_eq!(world.get("/api/pool/counts").await.body["idle"], 2);
        world.sim.heal("railway").await;
        if reason == "ProviderUnavailable" {
            until("it is reached again", LONG, || async {
                let reachable = world.pool_condition("ProviderReachable").await?;
                (reachable.0 == "True").then_some(())
            })
            .await;
        }
    }
    assert_eq!(
        world.claim("Bob").await.status,
        200,
        "claims need no Railway"
    );
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
}

/// acceptance: N16
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_deletion_is_refused_three_times_is_kept_until_it_is_gone() {
    let world = World::with_pool("refused", json!({"minIdle": 1, "tickIntervalSeconds": 1})).await;
    let idle = world.wait_idle(1).await.remove(0);
    let busy = json!({"kind": "gql_error", "message": "An operation is already in progress"});
    let rule = json!({"match": {"field": "serviceDelete"}, "count": 3, "fault": busy});
    world.sim.fault("railway", rule).await;
    world.delete(&idle.name_any()).await;
    until("three were refused", LONG, || async {
        let asked = world.sim.railway_calls("RwServiceDelete").await;
        let Some(now) = world.instance(&idle.spec.id).await else {
            panic!("let go after {asked} refusals, and the service is still there");
        };
        assert!(
            now.finalizers()
                .iter()
                .any(|f| f.starts_with("pool.convos.org/"))
        );
        assert_eq!(phase_of(&now), Phase::Terminating);
        (asked >= 3).then_some(())
    })
    .await;
    world.wait_gone(&idle.spec.id).await;
    let live = world.sim.live_services().await;
    assert!(live.iter().all(|s| s["id"] != json!(service_id(&idle))));
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 4);
    world.wait_idle(1).await;
    world.finish().await;
}

/// A 429 that one instance meets is everybody's of that token: nothing more is asked, and the pool says so, though its
/// listing is young.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_that_one_agent_meets_holds_back_all_and_the_pool_says_so() {
    let world = World::with_pool("limit", json!({"minIdle": 2, "tickIntervalSeconds": 600})).await;
    let idle = world.wait_idle(2).await;
    let fault = json!({"kind": "rate_limit", "seconds": SPEED * 8.0});
    let rule = json!({"match": {"field": "serviceDomainCreate"}, "count": 1, "fault": fault});
    world.sim.fault("railway", rule).await;
    let first = replenish_one(&world).await;
    let says = until("the pool says so", LONG, || async {
        pool_says(&world).await.filter(|s| s[0].1 == "RateLimited")
    })
    .await;
    assert_eq!(
        says,
        [pair("Unknown", "RateLimited"), pair("True", "RateLimited")]
    );
    let limited = world.instance(&first).await.unwrap();
    assert_eq!(
        condition(&limited, "Ready").unwrap(),
        pair("Unknown", "RateLimited")
    );
    let asked = world.sim.calls("railway").await.len();
    // Another one that needs Railway, and a request for more: both wait without asking.
    world.delete(&idle[0].name_any()).await;
    let more = world
        .call(Method::POST, "/api/pool/replenish", json!({"count": 1}))
        .await;
    assert_eq!(
        (more.status, &more.body["created"]),
        (200, &json!(0)),
        "{}",
        more.text
    );
    assert!(more.text.contains("limit"), "it says why: {}", more.text);
    let waits = until("it says why it waits", LONG, || async {
        let going = world.instance(&idle[0].spec.id).await.expect("kept");
        condition(&going, "Ready").filter(|c| c.1 == "RateLimited")
    })
    .await;
    assert_eq!(waits.0, "Unknown");
    assert_eq!(
        world.sim.calls("railway").await.len(),
        asked,
        "nothing was asked"
    );
    assert_eq!(
        told(&world, "AgentPool", "RateLimited").await,
        1,
        "told once, by the pool"
    );
    assert_eq!(told(&world, "AgentInstance", "RateLimited").await, 0);
    // When the time is over all of it happens by itself.
    world.wait_gone(&idle[0].spec.id).await;
    until("the first is idle", LONG, || async {
        let now = world.instance(&first).await?;
        (phase_of(&now) == Phase::Idle).then_some(())
    })
    .await;
    until("the pool says so", LONG, || async {
        let says = pool_says(&world).await?;
        (says[0] == pair("True", "Reachable")).then_some(())
    })
    .await;
    ticks(&world, 0).await;
    world.finish().await;
}
