//! The first things: a fill, a claim, an end; rest without writes; one seed, one history.

use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use serde_json::json;

use crate::cosmos::{Cosmos, POOL, simulate};
use crate::process::{Peer, Trace, Weather};

#[test]
fn a_pool_fills_hands_out_and_goes() {
    simulate(async {
        let mut world = Cosmos::new(1);
        let operator = world.operator();
        world.create_pool(POOL, &json!({"deletionPolicy": "Destroy"}));
        world.until_idle(3).await;
        let answer = world.claim(&operator, POOL, "Ada").await.unwrap().unwrap();
        assert!(answer.conversation_id.is_some());
        assert_eq!(world.in_phase(Phase::Claimed).len(), 1);
        world.until_idle(3).await;
        assert_eq!(world.services().len(), 4);
        println!(
            "full after {:?}, {} calls",
            world.age(),
            operator.process.calls()
        );
        for i in world.instances() {
            world.checks.excuse(i.metadata.name.as_deref().unwrap());
        }
        world.delete_pool(POOL);
        world.until_empty().await;
        world
            .until("the pool is gone", Duration::from_secs(60), |w| {
                w.pool(POOL).is_none()
            })
            .await;
    });
}

/// The figures of style 2.8: what is at rest is not written.
#[test]
fn at_rest_nothing_is_written_and_nothing_is_listed() {
    simulate(async {
        let mut world = Cosmos::new(2);
        let operator = world.operator();
        world.create_pool(POOL, &json!({}));
        world.until_idle(3).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let (writes, lines) = (world.checks.writes(), world.ground.trace.lines().len());
        assert_eq!(lines, 0, "the trace is not kept here");
        operator.process.keep_log();
        let before = operator.process.count(Peer::Kubernetes, true);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(world.checks.writes(), writes, "{}", world.describe());
        assert_eq!(
            operator.process.count(Peer::Kubernetes, true),
            before,
            "{:?}",
            operator.process.log()
        );
        let lists = |line: &&String| {
            line.contains("Kubernetes GET") && line.ends_with('s') && !line.contains("/secrets/")
        };
        let log = operator.process.log();
        let listed: Vec<_> = log.iter().filter(lists).collect();
        assert!(listed.is_empty(), "{listed:?}");
        // One listing per tick, whoever asks.
        let fleet = log.iter().filter(|line| line.contains("Railway")).count();
        assert!(
            (100..=125).contains(&fleet),
            "{fleet} requests to Railway in an hour of 120 ticks"
        );
    });
}

fn history(seed: u64) -> (u64, Vec<String>) {
    simulate(async {
        let trace = Trace::kept();
        let mut world = Cosmos::traced(seed, trace.clone());
        let weather = Weather {
            swallowed: 10,
            unanswered: 10,
            conflicts: 20,
            errors: 20,
        };
        for _ in 0..2 {
            world.operator_with(|p| p.weather(weather));
        }
        world.create_pool(POOL, &json!({}));
        world.railway_fault(&json!({"match": {"probability": 0.1}, "fault": {"kind": "http_5xx"}}));
        for n in 0..6 {
            tokio::time::sleep(Duration::from_secs(120)).await;
            let operator = world.operators[n % 2].clone();
            world.claim_beside(&operator, POOL, &format!("agent {n}"));
            operator.reins.cut();
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.checks.assert();
        (trace.digest(), trace.lines())
    })
}

/// Without this a failing seed could not be replayed.
#[test]
fn one_seed_has_one_history() {
    let (first, lines) = history(7);
    let (second, again) = history(7);
    let differ = lines.iter().zip(&again).position(|(a, b)| a != b);
    if let Some(at) = differ {
        let from = at.saturating_sub(5);
        panic!(
            "line {at}:\n{:#?}\n{:#?}",
            &lines[from..(at + 3).min(lines.len())],
            &again[from..(at + 3).min(again.len())]
        );
    }
    assert_eq!((first, lines.len()), (second, again.len()));
    assert!(lines.len() > 500, "{}", lines.len());
    assert_ne!(first, history(8).0, "another seed has another history");
}
