//! What a claim costs: 1 to 256 callers at 1 to 3 API processes, agents that answer at once, a real API server.
//!
//! `make bench-claim`, or `make bench-claim SHORT=1` for a part of it. Own overhead = the answer's Server-Timing, all of
//! it less what the agents took. Above it, in the same run, the baseline: the two writes alone, sent by a kube client
//! before any operator runs. CPU time says more than the clock where the machine is shared.
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
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use support::operator::{KEY, Operator};
use support::process::{self, ControlPlane};
use support::seed::Seeder;
use support::wait::until;
use support::world::World;
use support::{LONG, Quantiles, Requests, metric};

/// Agents in stock beyond what is claimed: nobody may be refused. As many as callers, because on a machine that is too
/// slow for its agents some go back and are proven anew.
const SPARE: usize = 256;

#[tokio::main]
async fn main() {
    let short = std::env::var("AGENTPOOL_BENCH_SHORT").is_ok_and(|v| !v.is_empty());
    // Callers, and claims of each.
    let (matrix, replicas): (&[(usize, usize)], usize) = if short {
        (&[(1, 40), (64, 4)], 2)
    } else {
        (&[(1, 200), (16, 25), (64, 12), (256, 4)], 3)
    };
    let world = World::bare("bench-claim").await;
    let spec =
        json!({"minIdle": 0, "maxTotal": 10_000, "paused": ["Refill"], "tickIntervalSeconds": 300});
    let seeder = Seeder::new(&world, spec).await;
    let mut bench = Bench::new(world, seeder);
    println!("{HEAD}");
    for (callers, each) in matrix {
        bench.baseline(*callers, *each).await;
    }
    bench.remove_bare().await;
    let quiet = bench.world.environment(&[("LOG_LEVEL", "warn")]);
    bench.controller = Some(Operator::start("controller", &quiet));
    for _ in 0..replicas {
        bench.apis.push(Operator::start("api", &quiet));
        // Its connections are made, at every replica.
        bench.stock(bench.apis.len() * 8 + SPARE).await;
        bench.claims(8, bench.apis.len()).await;
        for (callers, each) in matrix {
            bench.stock(callers * each + SPARE).await;
            let before = bench.used().await;
            let (all, missed, wall) = bench.claims(*callers, *each).await;
            let used = bench.used().await.since(&before);
            bench.row(*callers, all, missed, wall, &used);
        }
    }
    bench.world.sim.check_invariants().await;
}

/// How many were refused for want of stock, and how many failed.
type Missed = (usize, usize);

const HEAD: &str = "replicas callers  claims   p50 ms   p99 ms      /s refused failed | per claim: writes  (spec status event pool)   409 reads | CPU ms:   api controller apiserver   etcd agents";

struct Bench {
    world: World,
    seeder: Seeder,
    plane: ControlPlane,
    controller: Option<Operator>,
    apis: Vec<Operator>,
    http: reqwest::Client,
    next: Arc<AtomicUsize>,
    seeded: usize,
}

/// What was used so far.
struct Used {
    requests: Requests,
    /// API, controller, API server, etcd, simulator: milliseconds.
    cpu: [f64; 5],
}

impl Used {
    fn since(self, before: &Self) -> Self {
        Self {
            requests: self.requests.since(&before.requests),
            cpu: std::array::from_fn(|i| self.cpu[i] - before.cpu[i]),
        }
    }
}

impl Bench {
    fn new(world: World, seeder: Seeder) -> Self {
        let plane = ControlPlane::of(&world.environment(&[])["KUBECONFIG"]);
        Self {
            world,
            seeder,
            plane,
            controller: None,
            apis: vec![],
            http: reqwest::Client::new(),
            next: Arc::default(),
            seeded: 0,
        }
    }

    async fn used(&self) -> Used {
        let all =
            |operators: &[Operator]| operators.iter().map(|o| process::cpu(o.pid())).sum::<f64>();
        let controller = self.controller.as_ref().map(|o| process::cpu(o.pid()));
        let (api_server, etcd) = self.plane.cpu();
        let sim = process::cpu(self.world.sim.pid());
        Used {
            requests: Requests::so_far(&self.world.client).await,
            cpu: [
                all(&self.apis),
                controller.unwrap_or_default(),
                api_server,
                etcd,
                sim,
            ],
        }
    }

    /// Fills up to so many in stock, and waits until every replica shows them. How many there are the API server says:
    /// of claims that failed some agents are gone, and some are back.
    async fn stock(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.world.in_phase(Phase::Idle).await.len());
        self.seeder
            .seed(&self.world, self.seeded, missing, false)
            .await;
        self.seeded += missing;
        for operator in self.apis.iter().chain(&self.controller) {
            until("the stock is seen", LONG, || async {
                let name = "agentpool_instances";
                let shown = metric(&operator.operations, name, "phase=\"Idle\"").await as usize;
                let there = self.world.in_phase(Phase::Idle).await.len();
                (shown == there).then_some(())
            })
            .await;
        }
    }

    /// `callers` at a time claim `each`; own overheads, what was refused and what failed, and the time it took.
    async fn claims(&self, callers: usize, each: usize) -> (Vec<Duration>, Missed, Duration) {
        let began = Instant::now();
        let tasks = (0..callers).map(|caller| {
            let caller = Caller {
                http: self.http.clone(),
                url: format!("{}/api/pool/claim", self.apis[caller % self.apis.len()].api),
                next: self.next.clone(),
            };
            tokio::spawn(async move {
                let mut all = vec![];
                for _ in 0..each {
                    all.push(caller.claim().await);
                }
                all
            })
        });
        let mut all = vec![];
        for task in tasks.collect::<Vec<_>>() {
            all.extend(task.await.unwrap());
        }
        let wall = began.elapsed();
        let missed = |code| all.iter().filter(|own| **own == Err(code)).count();
        let missed = (missed(true), missed(false));
        (all.into_iter().flatten().collect(), missed, wall)
    }

    /// Two writes on one object, as a claim makes them.
    async fn baseline(&self, callers: usize, each: usize) {
        let api = self.world.instances();
        for i in 0..callers {
            // From a smaller number of callers it may be there.
            let _ = api.create(&PostParams::default(), &bare(i)).await;
        }
        let before = self.used().await;
        let began = Instant::now();
        let tasks = (0..callers).map(|i| tokio::spawn(pairs(api.clone(), i, each)));
        let mut all = vec![];
        for task in tasks.collect::<Vec<_>>() {
            all.extend(task.await.unwrap());
        }
        let wall = began.elapsed();
        let used = self.used().await.since(&before);
        self.row(callers, all, (0, 0), wall, &used);
    }

    async fn remove_bare(&self) {
        let api = self.world.instances();
        for object in self.world.list().await {
            let name = object.metadata.name.unwrap_or_default();
            api.delete(&name, &DeleteParams::default()).await.unwrap();
        }
    }

    fn row(
        &self,
        callers: usize,
        all: Vec<Duration>,
        (refused, failed): Missed,
        wall: Duration,
        used: &Used,
    ) {
        let replicas = match self.apis.len() {
            0 => "bare".to_owned(),
            n => n.to_string(),
        };
        let claims = all.len();
        let rate = claims as f64 / wall.as_secs_f64();
        let quantiles = Quantiles::of(all);
        let per = |count: f64| count / claims as f64;
        let writes = |key: &str| per(used.requests.writes(key) as f64);
        let [api, controller, server, etcd, sim] = used.cpu.map(per);
        println!(
            "{replicas:>8} {callers:>7} {claims:>7} {:>8.1} {:>8.1} {rate:>7.0} {refused:>7} {failed:>6} |            {:>6.2}  ({:>4.2} {:>6.2} {:>5.2} {:>4.2}) {:>5.2} {:>5.2} |         {api:>5.2} {controller:>10.2} {server:>9.2} {etcd:>6.2} {sim:>6.2}",
            quantiles.at(50.0),
            quantiles.at(99.0),
            per(used.requests.all_writes() as f64),
            writes("agentinstances"),
            writes("agentinstances/status"),
            writes("events"),
            writes("agentpools/status"),
            per(used.requests.conflicts() as f64),
            per(used.requests.reads("agentinstances") as f64),
        );
    }
}

fn bare(i: usize) -> AgentInstance {
    serde_json::from_value(json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": format!("base-{i}")},
        "spec": {"id": format!("base{i:08}"), "poolRef": {"name": "none"}, "providerName": format!("base-{i}"),
            "turn": 1, "template": {"revision": "none-1", "hash": "1"}}}))
    .unwrap()
}

async fn pairs(api: Api<AgentInstance>, i: usize, rounds: usize) -> Vec<Duration> {
    let (mut all, name, params) = (vec![], format!("base-{i}"), PatchParams::default());
    for n in 0..rounds {
        let began = Instant::now();
        let spec =
            json!({"metadata": {"managedFields": [{}], "annotations": {"bench": n.to_string()}}});
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
}

struct Caller {
    http: reqwest::Client,
    url: String,
    next: Arc<AtomicUsize>,
}

impl Caller {
    /// One claim: the part of its time that was not the agent's. Err: it was refused for want of stock (true), though
    /// there was stock, or it failed.
    async fn claim(&self) -> Result<Duration, bool> {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        let body = json!({"agentName": format!("Agent {n}"), "instructions": "x".repeat(500)});
        let sent = self.http.post(&self.url).bearer_auth(KEY).json(&body);
        let answer = sent.send().await.map_err(|_| false)?;
        let (status, timing) = (
            answer.status(),
            answer.headers().get("server-timing").cloned(),
        );
        if status != 200 {
            let text = answer.text().await.unwrap_or_default();
            return Err(text.contains("no_idle"));
        }
        let timing = timing.unwrap();
        let part = |name: &str| {
            let text = timing.to_str().unwrap().split(name).nth(1).unwrap();
            let millis: f64 = text.split(',').next().unwrap().parse().unwrap();
            Duration::from_secs_f64(millis / 1000.0)
        };
        Ok(part("total;dur=").saturating_sub(part("agent;dur=")))
    }
}
