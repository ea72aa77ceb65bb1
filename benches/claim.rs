//! What a claim costs of our own: one caller and 64, a pool of 500, agents that answer at once, a real API server.
//!
//! `make bench-claim`. Own overhead = the caller's time less what the agents took (the answer's Server-Timing). Beside
//! it, in the same run, the baseline: the two writes alone, sent by a kube client without any operator.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program that measures, and stops where it cannot"
)]
#![allow(dead_code, reason = "the tests' support has more than is used here")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use support::operator::{KEY, Operator};
use support::wait::until;
use support::world::{POOL, World};
use support::{Quantiles, metric, writes, written};

const STOCK: usize = 500;
const ALONE: usize = 100;
const TOGETHER: usize = 64;
const LONG: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() {
    let mut world = World::bare("bench-claim").await;
    baseline(&world).await;
    let api = fill(&mut world).await;
    let caller = Arc::new(Caller::new(&api));
    // Connections and caches warm.
    for _ in 0..10 {
        caller.claim().await;
    }
    measure(&world, &caller, 1, ALONE).await;
    let rest = world.in_phase(Phase::Idle).await.len();
    measure(&world, &caller, TOGETHER, rest).await;
    assert_eq!(
        world.in_phase(Phase::Idle).await.len(),
        0,
        "all were handed out"
    );
    world.sim.check_invariants().await;
    life(&world).await;
}

/// Two conditional writes on one object, as a claim makes them, by one caller and by 64.
async fn baseline(world: &World) {
    let api: Api<AgentInstance> = world.instances();
    let object = |i: usize| {
        serde_json::from_value::<AgentInstance>(json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": format!("base-{i}")},
            "spec": {"id": format!("base{i:08}"), "poolRef": {"name": "none"}, "providerName": format!("base-{i}"),
                "turn": 1, "template": {"revision": "none-1", "hash": "1"}}}))
        .unwrap()
    };
    for i in 0..TOGETHER {
        api.create(&PostParams::default(), &object(i))
            .await
            .unwrap();
    }
    for callers in [1, TOGETHER] {
        let rounds = if callers == 1 { 100 } else { 8 };
        let began = Instant::now();
        let tasks = (0..callers).map(|i| {
            let api = api.clone();
            tokio::spawn(async move {
                let mut all = vec![];
                for n in 0..rounds {
                    let (name, began) = (format!("base-{i}"), Instant::now());
                    let spec = json!({"metadata": {"annotations": {"bench": n.to_string()}}});
                    let params = PatchParams::default();
                    api.patch(&name, &params, &Patch::Merge(spec))
                        .await
                        .unwrap();
                    let status = json!({"status": {"phase": format!("Bench{n}")}});
                    api.patch_status(&name, &params, &Patch::Merge(status))
                        .await
                        .unwrap();
                    all.push(began.elapsed());
                }
                all
            })
        });
        let mut all = vec![];
        for task in tasks.collect::<Vec<_>>() {
            all.extend(task.await.unwrap());
        }
        let pairs = all.len() as f64 / began.elapsed().as_secs_f64();
        println!(
            "baseline: two writes, {callers:>2} callers   {}   {pairs:.0}/s",
            Quantiles::of(all).line()
        );
    }
    let all = api.list(&ListParams::default()).await.unwrap();
    for i in all {
        api.delete(&i.name_any(), &DeleteParams::default())
            .await
            .unwrap();
    }
}

/// Fills the pool and stops its refill; the API that serves it.
async fn fill(world: &mut World) -> Operator {
    let at_once = json!({"boot": 0, "convosLoad": 0, "status": 0, "create": 0, "join": 0});
    world.sim.set("agents", json!({"defaults": at_once})).await;
    let open = json!({"limits": {"perHour": 100_000_000, "perSecond": 1_000_000}});
    world.sim.set("railway", open).await;
    let quiet = [("LOG_LEVEL", "warn")];
    let controller = Operator::start("controller", &world.environment(&quiet));
    world.operator = Some(controller);
    let api = Operator::start("api", &world.environment(&quiet));
    let began = Instant::now();
    let spec = json!({"minIdle": STOCK, "maxTotal": STOCK, "tickIntervalSeconds": 30});
    world.create_pool(POOL, spec).await;
    until("the pool is full", LONG, || async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (world.in_phase(Phase::Idle).await.len() == STOCK).then_some(())
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    println!(
        "fill of {STOCK}: {took:.1} s   {:.0}/s",
        STOCK as f64 / took
    );
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    until("the API has it all", LONG, || async {
        let idle = metric(&api.operations, "agentpool_instances", "phase=\"Idle\"").await;
        (idle as usize == STOCK).then_some(())
    })
    .await;
    api
}

struct Caller {
    http: reqwest::Client,
    url: String,
    next: AtomicUsize,
}

impl Caller {
    fn new(api: &Operator) -> Self {
        Self {
            http: reqwest::Client::new(),
            url: format!("{}/api/pool/claim", api.api),
            next: AtomicUsize::new(0),
        }
    }

    /// One claim: its whole time, and the part that was not the agent's.
    async fn claim(&self) -> (Duration, Duration) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let body = json!({"agentName": format!("Agent {n}"), "instructions": "x".repeat(500)});
        let began = Instant::now();
        let sent = self
            .http
            .post(&self.url)
            .bearer_auth(KEY)
            .json(&body)
            .send();
        let answer = sent.await.unwrap();
        let (status, timing) = (
            answer.status(),
            answer.headers().get("server-timing").cloned(),
        );
        let text = answer.text().await.unwrap();
        let took = began.elapsed();
        assert_eq!(status, 200, "refused while stock was left: {text}");
        let timing = timing.unwrap();
        let timing = timing.to_str().unwrap();
        let agent = timing
            .split("agent;dur=")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap();
        let agent = Duration::from_secs_f64(agent.parse::<f64>().unwrap() / 1000.0);
        (took, took.saturating_sub(agent))
    }
}

async fn measure(world: &World, caller: &Arc<Caller>, callers: usize, claims: usize) {
    let before = writes(&world.client).await;
    let left = Arc::new(AtomicUsize::new(claims));
    let began = Instant::now();
    let tasks = (0..callers).map(|_| {
        let (caller, left) = (caller.clone(), left.clone());
        tokio::spawn(async move {
            let mut all = vec![];
            while left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
            {
                all.push(caller.claim().await);
            }
            all
        })
    });
    let mut all = vec![];
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await.unwrap());
    }
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    let after = writes(&world.client).await;
    let (whole, own): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    println!(
        "claims, {callers:>2} callers: whole      {}   {rate:.0}/s",
        Quantiles::of(whole).line()
    );
    println!(
        "claims, {callers:>2} callers: overhead   {}",
        Quantiles::of(own).line()
    );
    let grown = written(&before, &after);
    let of = |key: &str| grown.get(key).copied().unwrap_or_default() as f64 / claims as f64;
    println!(
        "writes per claim: agentinstances {:.2}, their status {:.2} (the claim's two, and what the controller adds); all: {grown:?}",
        of("agentinstances"),
        of("agentinstances/status")
    );
}

/// Deletes everything, and says what a life cost at Railway.
async fn life(world: &World) {
    let delete = DeleteParams::default();
    world.pools().delete(POOL, &delete).await.unwrap();
    let all = ListParams::default();
    world
        .instances()
        .delete_collection(&delete, &all)
        .await
        .unwrap();
    until("all are gone", LONG, || async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.list().await.is_empty().then_some(())
    })
    .await;
    assert!(world.sim.live_services().await.is_empty());
    let mut by_operation = std::collections::BTreeMap::<String, usize>::new();
    for call in world.sim.calls("railway").await {
        *by_operation
            .entry(call["operation"].as_str().unwrap_or("?").to_owned())
            .or_default() += 1;
    }
    let shared: usize = by_operation
        .iter()
        .filter(|(o, _)| is_shared(o))
        .map(|(_, n)| n)
        .sum();
    let own: usize = by_operation.values().sum::<usize>() - shared;
    println!(
        "Railway requests per life, rename included: {:.2}, and {shared} shared listings in all; {by_operation:?}",
        own as f64 / STOCK as f64
    );
}

/// Listings and scope, which all instances share.
fn is_shared(operation: &str) -> bool {
    ["RwFleet", "RwProject", "RwEnvironments", "RwProjectToken"].contains(&operation)
}
