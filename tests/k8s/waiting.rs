//! Callers who wait for an agent: in order over two replicas, as demand of a pool at zero, and told when to come back.

use std::sync::{Arc, Mutex};

use agentpool::domain::instance::phase::Phase;
use futures::future::join_all;
use serde_json::{Value, json};

use super::http_calls::{bearer, claim, claim_at, empty_pool, ids, text, wait_operator_ready};
use super::keys::claim_objects;
use crate::support::operator::Operator;
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, World};

fn body(name: &str, wait: u64) -> Value {
    json!({"agentName": name, "instructions": "Be kind.", "waitSeconds": wait})
}

/// Waits until so many callers wait.
async fn wait_queued(world: &World, count: usize) {
    until(&format!("{count} wait"), LONG, || async {
        (claim_objects(world).await.len() == count).then_some(())
    })
    .await;
}

/// trap: queued claims × scale to zero
///
/// acceptance: D12
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_at_zero_builds_an_agent_for_each_who_waits_and_no_more() {
    let world = empty_pool("wait-zero", json!({"tickIntervalSeconds": 1})).await;
    wait_operator_ready(world.operator.as_ref().unwrap()).await;
    let none = world.claim("Nobody").await;
    assert_eq!(
        (none.status, text(&none.body, "code")),
        (503, "no_idle".into())
    );
    let calls = ["Ada", "Bob"].map(|name| claim(&world, body(name, 60)));
    let answers = join_all(calls).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let agents = world.in_phase(Phase::Claimed).await;
    let mut told: Vec<_> = answers
        .iter()
        .map(|a| text(&a.body, "instanceId"))
        .collect();
    told.sort();
    assert_eq!(ids(&agents), told);
    assert_eq!(world.sim.services_ever().await.len(), 2, "one for each");
    // The header asks for the same.
    let preferring = reqwest::Client::new()
        .post(format!(
            "{}/api/pool/claim",
            world.operator.as_ref().unwrap().api
        ))
        .header("authorization", bearer())
        .header("prefer", "wait=60")
        .header("content-type", "application/json")
        .body(json!({"agentName": "Cleo", "instructions": "Be kind."}).to_string());
    assert_eq!(preferring.send().await.unwrap().status(), 200);
    assert!(world.in_phase(Phase::Idle).await.is_empty());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_first_is_served_first_over_two_replicas() {
    let spec = json!({"paused": ["Refill"], "tickIntervalSeconds": 1});
    let world = empty_pool("wait-order", spec).await;
    wait_operator_ready(world.operator.as_ref().unwrap()).await;
    let second = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&second).await;
    let apis = [
        world.operator.as_ref().unwrap().api.clone(),
        second.api.clone(),
    ];
    let served: Arc<Mutex<Vec<(usize, Answer)>>> = Arc::default();
    let mut calls = vec![];
    for n in 0..4 {
        let (api, served) = (apis[n % 2].clone(), served.clone());
        calls.push(tokio::spawn(async move {
            let answer = claim_at(&api, body(&format!("Agent {n}"), 120)).await;
            served.lock().unwrap().push((n, answer));
        }));
        wait_queued(&world, n + 1).await;
    }
    // One agent at a time.
    for n in 0..4 {
        let ask = world.call(
            reqwest::Method::POST,
            "/api/pool/replenish",
            json!({"count": 1}),
        );
        let made = ask.await;
        assert_eq!(made.body["created"], 1, "{}", made.text);
        until("one is served", LONG, || async {
            (served.lock().unwrap().len() > n).then_some(())
        })
        .await;
        let order: Vec<usize> = served.lock().unwrap().iter().map(|s| s.0).collect();
        assert_eq!(order, (0..=n).collect::<Vec<_>>());
    }
    for call in calls {
        call.await.unwrap();
    }
    let good = |all: &[(usize, Answer)]| all.iter().all(|(_, a)| a.status == 200);
    assert!(good(&served.lock().unwrap()));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_is_told_its_place_and_when_the_next_agent_can_be_expected() {
    // An agent that tells how long one takes, and no further one.
    let spec = json!({"minIdle": 1, "maxTotal": 1, "tickIntervalSeconds": 1});
    let world = World::with_pool("wait-vain", spec).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    let calls = [
        claim(&world, body("Bob", 2)),
        claim(&world, body("Cleo", 3)),
    ];
    let answers = join_all(calls).await;
    let mut places = vec![];
    for answer in &answers {
        assert_eq!(
            (answer.status, text(&answer.body, "code")),
            (503, "no_idle".into())
        );
        let expected = answer.body["expectedSeconds"].as_u64().unwrap();
        // Far less than what a plain refusal says: the simulator's agents are up in a second or two.
        assert!((1..30).contains(&expected), "{}", answer.text);
        assert_eq!(answer.headers["retry-after"], expected.to_string().as_str());
        places.push(answer.body["position"].as_u64().unwrap());
    }
    assert!(places.iter().all(|p| (1..=2).contains(p)), "{places:?}");
    assert!(places.contains(&1), "{places:?}");
    // Nothing is left of them, and nothing was built for them beyond the maximum.
    wait_queued(&world, 0).await;
    assert_eq!(world.list().await.len(), 1);
    world.finish().await;
}

/// A caller who hangs up waits no more: no agent is bound for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_waits_no_more() {
    let spec = json!({"paused": ["Refill"], "tickIntervalSeconds": 1});
    let world = empty_pool("wait-gone", spec).await;
    wait_operator_ready(world.operator.as_ref().unwrap()).await;
    let api = world.operator.as_ref().unwrap().api.clone();
    let call = tokio::spawn(async move { claim_at(&api, body("Ada", 600)).await });
    wait_queued(&world, 1).await;
    call.abort();
    wait_queued(&world, 0).await;
    let made = super::http_calls::stock(&world, 1, 1).await;
    assert_eq!(ids(&world.in_phase(Phase::Idle).await), ids(&made));
    world.finish().await;
}
