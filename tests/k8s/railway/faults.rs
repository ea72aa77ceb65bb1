//! Writes whose answer is lost: each has happened once in the end.

use std::collections::BTreeMap;

use agentpool::domain::instance::phase::Phase;
use agentpool::provider::railway::operation;
use serde_json::{Value, json};

use crate::support::simulator::PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// Every mutation that the product can send: its document's name and the root field that it ends with.
pub fn mutations() -> BTreeMap<&'static str, String> {
    let writes = operation::ALL
        .iter()
        .filter(|d| d.text.contains("mutation "));
    let last_field = |text: &str| {
        let mut calls = text.lines().filter(|line| line.starts_with("  "));
        let last = calls.next_back().unwrap().trim_start();
        last.split('(').next().unwrap().to_owned()
    };
    writes.map(|d| (d.name, last_field(d.text))).collect()
}

/// The first of every mutation takes effect, and its answer never comes.
async fn lost(kind: &str, fault: Value) {
    // With limits the other document that configures and deploys is sent.
    let not = [
        "RwConfigureAndDeploy",
        "RwConfigureAndConnect",
        "RwLimits",
        "RwAutoDeploy",
    ];
    lost_of(kind, fault, (json!({}), &not)).await;
}

async fn lost_of(kind: &str, fault: Value, (railway, not): (Value, &[&str])) {
    let mut world = World::start("lost").await;
    let mut mutations = mutations();
    // Those of agents with projects of their own are met there (`own`), those of webhooks and of builds that hang in
    // `webhooks` and `stuck`, and that of taking agents over in `import`.
    let elsewhere = |name: &str| {
        let named = ["RwCancel", "RwVariablesUpsert"].contains(&name);
        named || name.starts_with("RwProject") || name.starts_with("RwRule")
    };
    mutations.retain(|name, _| !elsewhere(name) && !not.contains(name));
    let mut settings = json!({"volume": {}, "limits": {"cpuMillis": 1000}});
    crate::support::world::merge(&mut settings, &railway);
    for field in mutations.values() {
        let rule = json!({"match": {"field": field}, "count": 1, "fault": fault});
        world.sim.fault("railway", rule).await;
    }
    world
        .create_pool(
            POOL,
            json!({"minIdle": 1, "tickIntervalSeconds": 1, "provider": {"railway": settings}}),
        )
        .await;
    world.wait_idle(1).await;
    super::made_once(&world, 1).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0);
    let name = format!("stg-tokyo-trip-{}", claimed.spec.id);
    until("renamed", LONG, || async {
        world.sim.service(&name).await.map(drop)
    })
    .await;
    super::made_once(&world, 1).await;
    assert_eq!(world.list().await.len(), 1);
    world.delete(&claimed.spec.id).await;
    world.wait_gone(&claimed.spec.id).await;
    assert!(world.sim.live_services().await.is_empty());
    assert_eq!(world.sim.services_ever().await.len(), 1);

    // Each was met, so that a new mutation cannot be forgotten here; and none of the creation was sent again.
    let class = format!("fault:{kind}");
    let calls = world.sim.calls("railway").await;
    for (document, field) in &mutations {
        let sent: Vec<_> = calls
            .iter()
            .filter(|c| c["operation"] == *document)
            .collect();
        let met = sent.iter().filter(|c| c["class"] == class).count();
        assert_eq!(met, 1, "{document} {field}: {sent:#?}");
        let safe = ["RwServiceRename", "RwServiceDelete", "RwVolumeDelete"];
        let again = safe.contains(document) || ["RwLimits", "RwAutoDeploy"].contains(document);
        assert!(sent.len() == 1 || again, "{document} was sent again");
    }
    assert!(world.operator().runs());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_that_are_never_answered_happen_once() {
    let fault = json!({"kind": "timeout", "applied": true, "seconds": 20});
    lost("timeout", fault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_whose_connection_is_cut_happen_once() {
    lost("reset", json!({"kind": "reset", "applied": true})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_a_repository_whose_connection_is_cut_happen_once() {
    let source = json!({"source": {"image": null, "repository": {"repo": "acme/agent"}}, "startCommand": null});
    let not = ["RwConfigureAndDeploy", "RwConfigureLimitAndDeploy"];
    let fault = json!({"kind": "reset", "applied": true});
    lost_of("reset", fault, (source, &not)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_that_are_answered_by_a_gateway_s_502_happen_once() {
    let fault = json!({"kind": "http_5xx", "applied": true, "status": 502, "html": true});
    lost("http_5xx", fault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_that_are_answered_with_an_error_and_took_effect_happen_once() {
    let fault =
        json!({"kind": "gql_error", "applied": true, "message": "Problem processing request"});
    lost("gql_error", fault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_took_meanwhile_is_left_to_them() {
    let world = World::start("taken").await;
    // The first creation is not answered and did not happen; before it is looked for, another has its name.
    let fault = json!({"kind": "timeout", "applied": false, "seconds": 40});
    let rule = json!({"match": {"field": "serviceCreate"}, "count": 1, "fault": fault});
    world.sim.fault("railway", rule).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    until("the creation is under way", LONG, || async {
        (world.sim.railway_calls("RwServiceCreate").await == 1).then_some(())
    })
    .await;
    let first = world.list().await.remove(0);
    let name = &first.spec.provider_name;
    let foreign = json!({"name": name, "projectId": PROJECT, "image": "nginx", "variables": {"A": "1"}, "deploy": true});
    world
        .sim
        .set("railway", json!({"services": [foreign]}))
        .await;
    let idle = world.wait_idle(1).await;
    assert_ne!(
        idle[0].spec.id, first.spec.id,
        "another agent, under another name"
    );
    let theirs = world.sim.service(name).await.expect("it stays theirs");
    assert_eq!(theirs["source"]["image"], "nginx");
    assert_eq!(theirs["variables"]["A"], "1");
    assert_eq!(theirs["deployments"].as_array().map(Vec::len), Some(1));
    world.wait_gone(&first.spec.id).await;
    world
        .sim
        .force(json!({"service": name, "delete": true}))
        .await;
    world.finish().await;
}
