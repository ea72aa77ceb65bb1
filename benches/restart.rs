//! What a restart costs with 10,000 instances, each claimed with 500 bytes of instructions and all at rest: the time
//! until every object was visited, CPU time, and the memory of controller and API together; then what a minute at rest
//! costs.
//!
//! `make bench-restart`; `AGENTPOOL_BENCH_INSTANCES` for another number.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program that measures, and stops where it cannot"
)]
#![allow(dead_code, reason = "the tests' support has more than is used here")]

mod support;

use std::time::{Duration, Instant};

use agentpool::domain::instance::phase::Phase;
use serde_json::json;

use support::operator::Operator;
use support::process;
use support::seed::Seeder;
use support::wait::until;
use support::world::World;
use support::{LONG, metric, writes, written};

/// A minute at rest.
const REST: Duration = Duration::from_secs(60);
/// Every agent is probed within a tick.
const TICK: u64 = 30;
/// Between two looks at what was visited; as exact is the time until all were.
const SCRAPE: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() {
    let count = std::env::var("AGENTPOOL_BENCH_INSTANCES")
        .map_or(10_000, |n| n.parse().expect("AGENTPOOL_BENCH_INSTANCES"));
    let world = World::bare("bench-restart").await;
    let spec = json!({"minIdle": 0, "maxTotal": count, "paused": ["Refill"], "tickIntervalSeconds": TICK,
        "claim": {"renameOnClaim": false}});
    let seeder = Seeder::new(&world, spec).await;
    let empty = Pair::start(&world);
    empty.wait_for(0).await;
    let bare = empty.resident();
    println!("without instances: {}", empty.memory());
    empty.stop();
    let began = Instant::now();
    seeder.seed(&world, 0, count, true).await;
    println!(
        "{count} agents and objects seeded: {:.1} s",
        began.elapsed().as_secs_f64()
    );
    // The first one may find something to write that the seed has not; the second finds everything as a restart does.
    for run in ["first start", "restart"] {
        measure(&world, run, count, bare).await;
    }
}

/// Controller and API, as two containers of a pod.
struct Pair {
    controller: Operator,
    api: Operator,
    began: Instant,
}

impl Pair {
    fn start(world: &World) -> Self {
        let level =
            std::env::var("AGENTPOOL_BENCH_LOG_LEVEL").unwrap_or_else(|_| "warn".to_owned());
        let quiet = world.environment(&[("LOG_LEVEL", &level)]);
        let began = Instant::now();
        let controller = Operator::start("controller", &quiet);
        let api = Operator::start("api", &quiet);
        Self {
            controller,
            api,
            began,
        }
    }

    /// Waits until every object was visited; the time until then, and until the API showed them all.
    async fn wait_for(&self, count: usize) -> (f64, f64) {
        let all = |operator: &Operator| {
            let operations = operator.operations.clone();
            async move { metric(&operations, "agentpool_instances", "").await as usize >= count }
        };
        until("the API shows all", LONG, || async {
            all(&self.api).await.then_some(())
        })
        .await;
        let shown = self.began.elapsed().as_secs_f64();
        until("every object is visited", LONG, || async {
            // Seldom: with many instances a scrape is work for who is measured.
            tokio::time::sleep(SCRAPE).await;
            let name = "agentpool_reconcile_duration_seconds_count";
            // The pool's own and every instance's.
            let visits = metric(&self.controller.operations, name, "").await;
            (visits as usize > count).then_some(())
        })
        .await;
        (self.began.elapsed().as_secs_f64(), shown)
    }

    /// SIGTERM, as a roll-out of the operator does: the lease is given up.
    fn stop(mut self) {
        for one in [&mut self.controller, &mut self.api] {
            assert!(one.stop().success(), "it ends in order");
        }
    }

    fn resident(&self) -> u64 {
        process::memory(self.controller.pid())[2] + process::memory(self.api.pid())[2]
    }

    fn memory(&self) -> String {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (c, a) = (
            process::memory(self.controller.pid()),
            process::memory(self.api.pid()),
        );
        let line = |of: [u64; 3]| {
            let [now, peak, own] = of.map(mib);
            format!("{now:.1} MiB (peak {peak:.1}, without the binary {own:.1})")
        };
        let both = [0, 1, 2].map(|i| c[i] + a[i]);
        format!(
            "memory controller {}, api {}, together {}",
            line(c),
            line(a),
            line(both)
        )
    }

    fn cpu(&self) -> (f64, f64) {
        (
            process::cpu(self.controller.pid()),
            process::cpu(self.api.pid()),
        )
    }
}

async fn measure(world: &World, run: &str, count: usize, bare: u64) {
    let untouched = writes(&world.client).await;
    let pair = Pair::start(world);
    let (visited, shown) = pair.wait_for(count).await;
    let (c, a) = pair.cpu();
    println!(
        "{run}: every object visited after {visited:.1} s, the API shows all after {shown:.1} s; CPU controller {:.1} s, api {:.1} s",
        c / 1000.0,
        a / 1000.0
    );
    println!("{run}: {}", pair.memory());
    // Two ticks, so that every agent was probed.
    tokio::time::sleep(Duration::from_secs(2 * TICK)).await;
    let began = writes(&world.client).await;
    println!(
        "{run}: writes until at rest {:?}",
        written(&untouched, &began)
    );
    let calls = world.sim.calls("railway").await.len();
    let (c, a) = pair.cpu();
    tokio::time::sleep(REST).await;
    let asked = world.sim.calls("railway").await.len() - calls;
    let (c, a) = (pair.cpu().0 - c, pair.cpu().1 - a);
    println!(
        "{run}: in {} s at rest: writes {:?}, Railway requests {asked}, CPU controller {c:.0} ms, api {a:.0} ms",
        REST.as_secs(),
        written(&began, &writes(&world.client).await)
    );
    let each = (pair.resident() - bare) * 1024 / count as u64;
    println!(
        "{run}: {}; {each} bytes per instance in both",
        pair.memory()
    );
    let claimed = world.in_phase(Phase::Claimed).await.len();
    assert_eq!(claimed, count, "all are in use as before");
    pair.stop();
}
