//! What a restart costs with 10,000 instances, each claimed with 500 bytes of instructions: the time until every
//! object was visited, and the memory of controller and API together; then what a minute at rest costs.
//!
//! `make bench-restart`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program that measures, and stops where it cannot"
)]
#![allow(dead_code, reason = "the tests' support has more than is used here")]

mod support;

use std::time::{Duration, Instant};

use agentpool::api::AgentInstance;
use agentpool::api::names;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use support::operator::Operator;
use support::simulator::{ENVIRONMENT, PROJECT};
use support::wait::until;
use support::world::{POOL, World};
use support::{metric, writes, written};

const COUNT: usize = 10_000;
const LONG: Duration = Duration::from_secs(600);
/// A minute at rest.
const REST: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let world = World::bare("bench-restart").await;
    let spec = json!({"minIdle": 0, "maxTotal": COUNT, "paused": ["Refill"], "tickIntervalSeconds": 30,
        "claim": {"renameOnClaim": false}});
    let hash = template_of(&world, spec).await;
    seed_provider(&world).await;
    seed_cluster(&world, &hash).await;
    // One operator first, so that the second finds everything as a restart does.
    for run in ["first start", "restart"] {
        measure(&world, run).await;
    }
}

/// Creates the pool and lets an operator freeze its template; the revision's hash.
async fn template_of(world: &World, spec: Value) -> String {
    let controller = Operator::start("controller", &world.environment(&[]));
    world.create_pool(POOL, spec).await;
    let api: Api<k8s_openapi::api::apps::v1::ControllerRevision> =
        Api::namespaced(world.client.clone(), &world.namespace);
    let name = until("the template is frozen", LONG, || async {
        api.list(&Default::default())
            .await
            .unwrap()
            .items
            .pop()?
            .metadata
            .name
    })
    .await;
    drop(controller);
    name.trim_start_matches(&format!("{POOL}-")).to_owned()
}

fn id(i: usize) -> String {
    format!("bench{i:07}")
}

fn conversation(i: usize) -> String {
    format!("{i:032x}")
}

async fn seed_provider(world: &World) {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let cluster = namespaces
        .get("kube-system")
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    let open = json!({"limits": {"perHour": 100_000_000, "perSecond": 1_000_000}});
    world.sim.set("railway", open).await;
    let began = Instant::now();
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(500) {
        let service = |i: &usize| {
            json!({"name": format!("convos-agent-stg-{}", id(*i)), "projectId": PROJECT,
                "image": "ghcr.io/xmtplabs/convos-runtime:0.3.4", "deploy": true, "domain": true,
                "variables": {"AGENTPOOL_OWNER": names::owner_mark(&cluster, &world.namespace, &id(*i)),
                    "GATEWAY_TOKEN": "x", "OPENROUTER_API_KEY": "y"}})
        };
        let services: Vec<_> = chunk.iter().map(service).collect();
        world
            .sim
            .set("railway", json!({"services": services}))
            .await;
    }
    println!(
        "{COUNT} services at the simulator: {:.1} s",
        began.elapsed().as_secs_f64()
    );
}

/// Writes the objects as an operator would have left them.
async fn seed_cluster(world: &World, hash: &str) {
    let state = world.sim.state("railway").await;
    let services = state["services"].as_array().unwrap().clone();
    let began = Instant::now();
    let api = world.instances();
    stream::iter(services.iter().enumerate())
        .for_each_concurrent(32, |(i, service)| {
            let api = api.clone();
            async move {
                let name = id(i);
                let (object, status) = claimed(i, hash, service);
                api.create(&PostParams::default(), &object).await.unwrap();
                let patch = Patch::Merge(json!({"status": status}));
                api.patch_status(&name, &PatchParams::default(), &patch)
                    .await
                    .unwrap();
            }
        })
        .await;
    println!(
        "{COUNT} objects in the cluster: {:.1} s",
        began.elapsed().as_secs_f64()
    );
}

fn claimed(i: usize, hash: &str, service: &Value) -> (AgentInstance, Value) {
    let name = id(i);
    let host = service["domains"][0]
        .as_str()
        .or(service["domains"][0]["domain"].as_str());
    let claim = json!({"id": format!("claim{i:07}"), "holder": "bench", "deadline": "2026-01-01T00:00:00Z",
        "requestedAt": "2026-01-01T00:00:00Z", "agentName": format!("Agent {i}"), "instructions": "x".repeat(500)});
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": name, "finalizers": ["pool.convos.org/instance"], "labels": {"pool.convos.org/pool": POOL}},
        "spec": {"id": name, "poolRef": {"name": POOL}, "providerName": format!("convos-agent-stg-{name}"), "turn": 1,
            "template": {"revision": format!("{POOL}-{hash}"), "hash": hash}, "restored": true, "claim": claim,
            "provider": {"kind": "railway", "tokenSecretRef": {"name": "railway", "key": "token"}, "tokenKind": "Bearer",
                "projectId": PROJECT, "environmentId": ENVIRONMENT}}});
    let status = json!({"turn": 1, "tokenSeq": 1, "url": format!("https://{}", host.unwrap()),
        "provider": {"id": service["id"], "state": "Running", "deployStatus": "SUCCESS"},
        "runtime": {"dialect": "PoolServer", "kind": "openclaw"},
        "claim": {"id": format!("claim{i:07}"), "outcome": "Bound", "conversationId": conversation(i),
            "inviteURL": format!("https://popup.convos.org/v2?i={i}")}});
    (serde_json::from_value(object).unwrap(), status)
}

async fn measure(world: &World, run: &str) {
    let quiet = world.environment(&[("LOG_LEVEL", "warn")]);
    let began = Instant::now();
    let controller = Operator::start("controller", &quiet);
    let api = Operator::start("api", &quiet);
    let mut shown = None;
    until("every object is visited", LONG, || async {
        let name = "agentpool_reconcile_duration_seconds_count";
        let visits = metric(&controller.operations, name, "controller=\"instance\"").await;
        (visits as usize >= COUNT).then_some(())
    })
    .await;
    let visited = began.elapsed();
    until("the API shows all", LONG, || async {
        let all = metric(&api.operations, "agentpool_instances", "").await;
        (all as usize >= COUNT).then_some(())
    })
    .await;
    shown.get_or_insert(began.elapsed());
    println!(
        "{run}: every object visited after {:.1} s (a term of the lease included where one was left behind), the API shows all after {:.1} s",
        visited.as_secs_f64(),
        shown.unwrap().as_secs_f64()
    );
    // Two ticks, so that every agent was probed.
    tokio::time::sleep(REST).await;
    let (before, calls) = (
        writes(&world.client).await,
        world.sim.calls("railway").await.len(),
    );
    tokio::time::sleep(REST).await;
    let after = writes(&world.client).await;
    let asked = world.sim.calls("railway").await.len() - calls;
    println!(
        "{run}: in {} s at rest: writes {:?}, Railway requests {asked}",
        REST.as_secs(),
        written(&before, &after)
    );
    let (c, a) = (controller.memory(), api.memory());
    println!(
        "{run}: memory controller {} MiB (peak {}), api {} MiB (peak {}), together {} MiB",
        c.0,
        c.1,
        a.0,
        a.1,
        c.0 + a.0
    );
}
