//! What the tests of the HTTP API share: calls to any API process, and the pictures that they compare.

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::phase_of;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::operator::{KEY, Operator};
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, POOL, World};

/// A call to the API at that address, with an Authorization header and a JSON body, both as given or not at all.
pub async fn call(
    api: &str,
    method: Method,
    path: &str,
    authorization: Option<&str>,
    body: Option<String>,
) -> Answer {
    let mut request = Client::new().request(method, format!("{api}{path}"));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    Answer {
        status,
        headers,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}

/// The header with the right key.
pub fn bearer() -> String {
    format!("Bearer {KEY}")
}

/// A claim through the API at that address.
pub async fn claim_at(api: &str, body: Value) -> Answer {
    call(
        api,
        Method::POST,
        "/api/pool/claim",
        Some(&bearer()),
        Some(body.to_string()),
    )
    .await
}

/// A claim with this body.
pub async fn claim(world: &World, body: Value) -> Answer {
    world.call(Method::POST, "/api/pool/claim", body).await
}

/// POST with the key.
pub async fn post(world: &World, path: &str, body: Value) -> Answer {
    world.call(Method::POST, path, body).await
}

/// DELETE with the key and no body.
pub async fn delete(world: &World, path: &str) -> Answer {
    world
        .call_with(Method::DELETE, path, Some(&bearer()), None)
        .await
}

/// GET without a key.
pub async fn open(world: &World, path: &str) -> Answer {
    world.call_with(Method::GET, path, None, None).await
}

/// Asserts an error: its status, its sentence and its word.
pub fn fails(answer: &Answer, status: u16, error: &str, code: &str) {
    let told = (
        answer.status,
        answer.body["error"].as_str(),
        answer.body["code"].as_str(),
    );
    assert_eq!(told, (status, Some(error), Some(code)), "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/json");
}

/// A field as text.
pub fn text(value: &Value, key: &str) -> String {
    let found = value[key].as_str();
    found
        .unwrap_or_else(|| panic!("no text under {key}: {value}"))
        .to_owned()
}

/// The ids of objects, sorted.
pub fn ids(instances: &[AgentInstance]) -> Vec<String> {
    let mut ids: Vec<_> = instances.iter().map(|i| i.spec.id.clone()).collect();
    ids.sort();
    ids
}

/// Waits until the API serves the world's pool.
pub async fn wait_served(world: &World) {
    until("the API knows the pool", LONG, || async {
        let path = format!("/api/pool/counts?pool={POOL}");
        (open(world, &path).await.status == 200).then_some(())
    })
    .await;
}

/// A pool without stock of its own, for what needs none: quick to make.
pub async fn empty_pool(name: &str, mut spec: Value) -> World {
    spec["minIdle"] = json!(0);
    let world = World::with_pool(name, spec).await;
    wait_served(&world).await;
    world
}

/// Replenishes by so many and waits until so many in all are idle.
pub async fn stock(world: &World, more: usize, idle: usize) -> Vec<AgentInstance> {
    let answer = post(world, "/api/pool/replenish", json!({"count": more})).await;
    assert_eq!(
        (answer.status, &answer.body["created"]),
        (200, &json!(more)),
        "{}",
        answer.text
    );
    world.wait_idle(idle).await
}

/// The host of an agent.
pub fn host(instance: &AgentInstance) -> String {
    let url = instance.status.clone().unwrap().url.unwrap();
    url.trim_start_matches("https://").to_owned()
}

/// The provider's id of an agent, which is its name in the ledger.
pub fn service_id(instance: &AgentInstance) -> String {
    let status = instance.status.clone().unwrap();
    status.provider.unwrap().service_id.unwrap()
}

/// What the simulator's ledger says of an agent.
pub async fn account(world: &World, instance: &AgentInstance) -> Value {
    world.sim.ledger().await["instances"][service_id(instance)].clone()
}

/// What the simulator has behind an agent's host now.
pub async fn behind(world: &World, instance: &AgentInstance) -> Value {
    world.sim.state("agents").await["instances"][host(instance)].clone()
}

/// The bodies of the claim calls that an agent got, as they came.
pub async fn claim_bodies(world: &World, instance: &AgentInstance) -> Vec<Value> {
    let id = service_id(instance);
    let calls = world.sim.calls("agents").await;
    calls
        .into_iter()
        .filter(|c| c["serviceId"] == id.as_str() && c["path"] == "/pool/provision")
        .map(|c| c["body"].clone())
        .collect()
}

/// Waits until some agent has got a claim call, and which of these it is.
pub async fn wait_called(world: &World, among: &[AgentInstance]) -> AgentInstance {
    until("an agent is called", LONG, || async {
        let ledger = world.sim.ledger().await;
        let called = |i: &&AgentInstance| ledger["instances"][service_id(i)]["claimCalls"] == 1;
        among.iter().find(called).cloned()
    })
    .await
}

/// How many objects are in each phase, by the wire's words.
pub fn tally(instances: &[AgentInstance]) -> std::collections::BTreeMap<&'static str, i64> {
    let mut tally = std::collections::BTreeMap::new();
    for instance in instances {
        *tally.entry(phase_of(instance).wire()).or_default() += 1;
    }
    tally
}

/// Waits until a process says that it is ready.
pub async fn wait_operator_ready(operator: &Operator) {
    let url = format!("{}/readyz", operator.operations);
    until("the operator is ready", LONG, || async {
        let answer = reqwest::get(&url).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
}
