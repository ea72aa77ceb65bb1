//! Hours of pools, users, operators and bad days, from one seed each.
//!
//! Replay one: `AGENTPOOL_SIM_FIRST=<seed> AGENTPOOL_SIM_SEEDS=1 cargo test --test sim long_runs -- --nocapture`, with
//! `AGENTPOOL_SIM_TRACE=1` for its whole history, and with the run's `AGENTPOOL_SIM_HOURS` where it had one.

use std::time::Duration;

use agentpool::api::condition::{ConditionType, find};
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cosmos::{Cosmos, simulate};
use crate::process::{Trace, Weather};
use crate::sample::{each, number};

/// Pools in each world.
const POOLS: usize = 3;
/// Hours of trouble in each world, unless `AGENTPOOL_SIM_HOURS` says otherwise; then it comes to rest and is deleted.
const HOURS: u64 = 6;

fn seconds(n: usize) -> Duration {
    Duration::from_secs(n as u64)
}

/// Faults of Railway, a few requests each.
fn railway_fault(n: usize) -> Value {
    let applied = n.is_multiple_of(2);
    match n / 2 {
        0 => json!({"kind": "rate_limit", "seconds": 40}),
        1 => json!({"kind": "edge_block", "html": applied}),
        2 => json!({"kind": "http_5xx", "applied": applied}),
        3 => json!({"kind": "http_5xx", "html": true, "applied": applied}),
        4 => json!({"kind": "timeout", "applied": applied}),
        5 => json!({"kind": "reset", "applied": applied}),
        6 => json!({"kind": "no_data", "applied": applied}),
        7 => {
            json!({"kind": "gql_error", "message": "Problem processing request", "applied": applied})
        }
        8 => json!({"kind": "gql_error", "message": "Not Authorized"}),
        9 => json!({"kind": "lag", "seconds": 25}),
        10 => json!({"kind": "fail_at", "at": if applied { "build" } else { "healthcheck" }}),
        11 => json!({"kind": "crash_after", "seconds": 200}),
        _ => json!({"kind": "quota"}),
    }
}

/// Faults of agents.
fn agent_fault(n: usize) -> Value {
    match n {
        0 => json!({"kind": "hang"}),
        1 => json!({"kind": "gateway502", "applied": true}),
        2 => json!({"kind": "gateway502"}),
        3 => json!({"kind": "reset", "at": "middle"}),
        4 => json!({"kind": "reset", "at": "after"}),
        5 => json!({"kind": "create500Before"}),
        6 => json!({"kind": "create500After"}),
        7 => json!({"kind": "createSlow", "ms": 100_000}),
        8 => json!({"kind": "slowBoot", "ms": 120_000}),
        9 => json!({"kind": "dieClaiming"}),
        10 => json!({"kind": "dieIdle", "seconds": 60}),
        11 => json!({"kind": "dieClaimed", "seconds": 60}),
        12 => json!({"kind": "halfAnswer"}),
        13 => json!({"kind": "504", "applied": true}),
        _ => json!({"kind": "badJson"}),
    }
}

/// One thing that a user, a cluster or the weather does.
async fn something(world: &mut Cosmos, n: usize) {
    let rng = world.rng.clone();
    let pool = format!("pool-{}", rng.below(POOLS));
    world.revive();
    let operator = world.operators[rng.below(world.operators.len())].clone();
    #[allow(
        clippy::disallowed_methods,
        reason = "virtual time is the subject here"
    )]
    let now = Instant::now();
    world
        .ground
        .trace
        .note(|| format!("at {:?} thing {n}", world.age()));
    match rng.below(19) {
        0..=3 => world.claim_beside(&operator, &pool, &format!("agent {n}")),
        4 => {
            let held = world.checks.handed_out();
            if let Some(id) = held.get(rng.below(held.len())) {
                // Refused: it is going already.
                let _ = world.release(id);
            }
        }
        5 => {
            let all = world.instances();
            if let Some(instance) = all.get(rng.below(all.len())) {
                let _ = world.delete(&instance.name_any());
            }
        }
        6 => world.change_pool(&pool, &json!({"minIdle": rng.below(4)})),
        7 => {
            let env = json!([{"name": "OPENROUTER_API_KEY", "value": format!("sk-{n}")}]);
            world.change_pool(&pool, &json!({"runtime": {"env": env}}));
        }
        8 => operator.process.kill(),
        9 => operator
            .process
            .pause_until(now + seconds(10 + rng.below(300))),
        10 => operator.process.weather(Weather {
            swallowed: 20,
            unanswered: 30,
            conflicts: 50,
            errors: 50,
        }),
        11 => operator.process.weather(Weather::default()),
        12 | 13 => {
            let fault = railway_fault(rng.below(26));
            world
                .railway_fault(&json!({"match": {"probability": 0.3}, "count": 4, "fault": fault}));
        }
        14 => {
            let fault = agent_fault(rng.below(15));
            // A rule of agents knows a probability or a number, not both.
            world.agent_fault(&json!({"when": {"first": 1 + rng.below(3)}, "fault": fault}));
        }
        17 => world.passing_operator(seconds(5 + rng.below(60))),
        15 => operator.reins.delay(seconds(rng.below(20))),
        16 => {
            operator.reins.hold_until(now + seconds(5 + rng.below(60)));
            operator.reins.cut();
            world.ground.server.touch();
        }
        _ => {
            world.ground.server.store().expire();
            operator.reins.cut();
            world.ground.server.touch();
        }
    }
}

fn is_ready(world: &Cosmos, name: &str) -> bool {
    let pool = world.pool(name).expect("the pool");
    let status = pool.status.unwrap_or_default();
    let ready = find(&status.conditions, ConditionType::Ready).is_some_and(|c| c.status == "True");
    ready && status.creating.is_empty() && i64::from(status.idle) >= i64::from(pool.spec.min_idle)
}

/// Pools are full, nothing is under way, and the provider has what the cluster says.
fn agrees(world: &Cosmos) -> bool {
    let all = world.instances();
    let settled = |p: Phase| {
        matches!(
            p,
            Phase::Idle | Phase::Claimed | Phase::Crashed | Phase::Tainted | Phase::Dead
        )
    };
    let services = world.services();
    let known = services
        .iter()
        .all(|(_, _, owner)| all.iter().any(|i| &i.spec.id == owner));
    let backed = all
        .iter()
        .filter(|i| matches!(phase_of(i), Phase::Idle | Phase::Claimed));
    let backed = backed
        .into_iter()
        .all(|i| services.iter().any(|(_, _, owner)| owner == &i.spec.id));
    known
        && backed
        && all.iter().all(|i| settled(phase_of(i)))
        && (0..POOLS).all(|n| is_ready(world, &format!("pool-{n}")))
}

async fn world_of(seed: u64) -> Duration {
    let trace = if number("AGENTPOOL_SIM_TRACE", 0) > 0 {
        Trace::told()
    } else {
        Trace::default()
    };
    let mut world = Cosmos::traced(seed, trace);
    let rng = world.rng.clone();
    for n in 0..POOLS {
        let tick = [30, 60, 120, 300][rng.below(4)];
        world.create_pool(
            &format!("pool-{n}"),
            &json!({"minIdle": 1 + rng.below(2), "maxTotal": 8, "tickIntervalSeconds": tick}),
        );
    }
    world.operator();
    let mut n = 0;
    let trouble = Duration::from_secs(number("AGENTPOOL_SIM_HOURS", HOURS) * 3600);
    while world.age() < trouble {
        something(&mut world, n).await;
        world.checks.assert();
        n += 1;
        let nap = if rng.below(4) == 0 {
            rng.below(1800)
        } else {
            rng.below(120)
        };
        tokio::time::sleep(seconds(nap)).await;
        world.checks.assert();
        // Nobody keeps agents for ever: the pools are small.
        let held = world.checks.handed_out();
        if held.len() > 8 {
            let _ = world.release(&held[0]);
        }
    }
    world.heal();
    for operator in &world.operators {
        operator.process.weather(Weather::default());
        operator.reins.delay(Duration::ZERO);
    }
    for n in 0..POOLS {
        // What crashed and what is claimed counts towards the limit and stays: there must be room.
        world.change_pool(&format!("pool-{n}"), &json!({"maxTotal": 100}));
    }
    world.ground.server.touch();
    world
        .until(
            "pool and provider agree",
            Duration::from_secs(3 * 3600),
            agrees,
        )
        .await;
    for instance in world.instances() {
        world.checks.excuse(&instance.name_any());
    }
    for n in 0..POOLS {
        let name = format!("pool-{n}");
        world.change_pool(&name, &json!({"deletionPolicy": "Destroy"}));
        world.delete_pool(&name);
    }
    world.until_empty().await;
    world.age()
}

#[test]
fn long_runs() {
    let (first, count) = (
        number("AGENTPOOL_SIM_FIRST", 1),
        number("AGENTPOOL_SIM_SEEDS", 2),
    );
    let seeds: Vec<u64> = (first..first + count).collect();
    let replay = |seed: &u64| {
        format!(
            "seed {seed}: AGENTPOOL_SIM_HOURS={} AGENTPOOL_SIM_FIRST={seed} AGENTPOOL_SIM_SEEDS=1 cargo test --test sim long_runs -- --nocapture",
            number("AGENTPOOL_SIM_HOURS", HOURS)
        )
    };
    let (done, hours) = (
        std::sync::atomic::AtomicU64::new(0),
        std::sync::Mutex::new(0.0),
    );
    #[allow(
        clippy::disallowed_methods,
        reason = "how long the run takes, not what it simulates"
    )]
    let began = std::time::Instant::now();
    each(&seeds, replay, |seed| {
        let lasted = simulate(world_of(*seed));
        *hours.lock().unwrap() += lasted.as_secs_f64() / 3600.0 * POOLS as f64;
        let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if done.is_multiple_of(100) {
            println!("{done} of {count} seeds after {:.0?}", began.elapsed());
        }
    });
    println!(
        "{count} seeds, {:.0} simulated pool-hours",
        hours.into_inner().unwrap()
    );
}
