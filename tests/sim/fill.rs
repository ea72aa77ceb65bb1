//! How fast a pool fills on a plan's request limit: as fast as the limit allows, and nothing fails by it.
//!
//! `cargo test --test sim fill -- --nocapture` prints the figures.

use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::cosmos::{Cosmos, POOL, simulate};
use crate::railway::seed::WORKSPACE;

/// Agents of a fill.
const AGENTS: usize = 200;
/// Requests that an agent's creation takes.
const EACH: usize = 3;

/// What a fill came to.
#[derive(Debug)]
struct Filled {
    /// From its first request to the last one of a creation, in seconds.
    seconds: f64,
    /// The least that it could have taken.
    least: f64,
    /// Requests, listings included.
    requests: usize,
    /// Listings.
    listings: usize,
    /// Answered with a 429.
    refused: usize,
    /// Services that were made.
    services: usize,
}

fn second_of(call: &Value) -> f64 {
    let at: jiff::Timestamp = call["time"].as_str().unwrap().parse().unwrap();
    at.as_millisecond() as f64 / 1000.0
}

/// Fills a pool on a plan of which so many requests were used up by others just before.
fn fill(plan: &str, (per_hour, per_second): (usize, usize), used: usize) -> Filled {
    simulate(async {
        let mut world = Cosmos::new(7);
        world.plan(plan);
        world.spend(used);
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.operator();
        let spec = json!({"minIdle": AGENTS, "maxTotal": AGENTS, "tickIntervalSeconds": 30});
        world.create_pool(POOL, &spec);
        let limit = Duration::from_secs(6 * 3600);
        world
            .until("the pool is full", limit, |w| {
                w.in_phase(Phase::Idle).len() == AGENTS
            })
            .await;
        assert_eq!(world.instances().len(), AGENTS, "none failed");
        let calls = world.railway_calls();
        let creations: Vec<f64> = calls
            .iter()
            .filter(|c| {
                let name = c["operation"].as_str().unwrap();
                ["RwServiceCreate", "RwDomainCreate", "RwConfigureAndDeploy"].contains(&name)
            })
            .map(second_of)
            .collect();
        let (first, last) = (creations[0], *creations.last().unwrap());
        let of = |operation: &str| {
            let of = calls.iter().filter(|c| c["operation"] == operation);
            of.count()
        };
        let needed = AGENTS * EACH;
        let by_second = (needed - 1) as f64 / per_second as f64;
        // What the hour has left goes at once, the rest when it has begun anew.
        let by_hour = if used + needed > per_hour {
            3600.0
        } else {
            0.0
        };
        Filled {
            seconds: last - first,
            least: by_second.max(by_hour),
            requests: calls.len(),
            listings: of("RwFleet"),
            refused: calls.iter().filter(|c| c["status"] == 429).count(),
            services: world.services().len(),
        }
    })
}

fn reaches(plan: &str, limit: (usize, usize), used: usize) {
    let filled = fill(plan, limit, used);
    let reached = filled.least / filled.seconds;
    println!(
        "{plan}, {used} used before: {:.1} s of {:.1} s at least, {:.1} %; {} requests, {} of them listings, {} refused",
        filled.seconds,
        filled.least,
        reached * 100.0,
        filled.requests,
        filled.listings,
        filled.refused
    );
    assert_eq!(filled.services, AGENTS, "no creation failed");
    assert!(reached >= 0.9, "{plan}: {filled:?}");
    if used == 0 {
        assert_eq!(filled.refused, 0, "the limit was kept: {filled:?}");
    }
}

#[test]
fn a_fill_reaches_nine_tenths_of_what_hobby_allows_and_none_fails() {
    reaches("HOBBY", (1_000, 10), 0);
}

#[test]
fn a_fill_reaches_nine_tenths_of_what_pro_allows_and_none_fails() {
    reaches("PRO", (10_000, 50), 0);
}

/// Nobody tells us what others used: a 429 does, and its wait is longer than any creation may take.
#[test]
fn a_fill_that_others_left_too_little_for_waits_for_the_hour_and_none_fails() {
    reaches("HOBBY", (1_000, 10), 700);
}

/// A user may create a project in 30 s, and several tokens take turns.
#[test]
fn projects_are_created_as_fast_as_their_users_may_and_none_is_refused() {
    for (extra, agents, turns) in [(0, 4, 3), (2, 9, 2)] {
        let (seconds, refused) = simulate(async {
            let mut world = Cosmos::new(11);
            let tokens: Vec<String> = (0..extra).map(|n| world.token(n)).collect();
            world.secret("more", "tokens", &tokens.join("\n"));
            let more = (extra > 0).then(|| json!({"name": "more", "key": "tokens"}));
            world.operator();
            let railway = json!({"project": null, "perInstance": {"workspaceId": WORKSPACE},
                "extraTokensSecretRef": more});
            let spec = json!({"minIdle": agents, "provider": {"railway": railway}});
            world.create_pool(POOL, &spec);
            world.until_idle(agents).await;
            assert_eq!(world.instances().len(), agents, "none failed");
            let calls = world.railway_calls();
            let made = calls.iter().filter(|c| c["operation"] == "RwProjectCreate");
            let at: Vec<f64> = made.clone().map(second_of).collect();
            let refused = made.filter(|c| c["class"] != "ok").count();
            assert_eq!(at.len(), agents, "each was made once");
            (at[agents - 1] - at[0], refused)
        });
        println!(
            "{agents} projects, {} users: {seconds:.0} s, {refused} refused",
            extra + 1
        );
        assert_eq!(refused, 0);
        let least = f64::from(turns) * 30.0;
        assert!(
            seconds >= least && seconds < least * 1.15 + 2.0,
            "{seconds}"
        );
    }
}
