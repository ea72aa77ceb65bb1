//! What takes long in the settlement of a claim, in virtual time.

use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::cosmos::{Cosmos, POOL, simulate};

const LONG: Duration = Duration::from_secs(600);

/// A pool of one that wants agents of failed claims reset, and its agent, whose claim failed in all attempts of the
/// wrapper: it was reset and is watched.
async fn watched(seed: u64, faults: &[Value]) -> (Cosmos, AgentInstance) {
    let mut world = Cosmos::new(seed);
    let operator = world.operator();
    let change = json!({"minIdle": 1, "maxTotal": 1, "runtime": {"failedClaim": "Reset"}});
    world.create_pool(POOL, &change);
    world.until_idle(1).await;
    let agent = world.in_phase(Phase::Idle).remove(0);
    let fails = json!({"when": {"first": 30}, "fault": {"kind": "create500Before"}});
    for rule in faults.iter().chain([&fails]) {
        world.agent_fault(rule);
    }
    let answer = world.claim(&operator, POOL, "Ada").await;
    assert!(answer.is_some_and(|a| a.is_err()), "it failed");
    let is_watched = |w: &Cosmos| outcome(w).as_deref() == Some("Settling");
    world.until("it is watched", LONG, is_watched).await;
    (world, agent)
}

fn outcome(world: &Cosmos) -> Option<String> {
    let all = world.instances();
    let claim = all.first()?.status.as_ref()?.claim.clone()?;
    Some(claim.outcome)
}

#[test]
fn a_reset_agent_is_watched_for_its_whole_quarantine_and_goes_back_to_stock() {
    simulate(async {
        let (mut world, agent) = watched(7, &[]).await;
        let began = world.age();
        world.until_idle(1).await;
        let took = world.age() - began;
        assert!(took >= Duration::from_secs(88), "only {took:?}");
        let now = world.instances().remove(0);
        assert_eq!((now.spec.id, now.spec.turn), (agent.spec.id, 2));
        assert!(now.spec.claim.is_none());
    });
}

#[test]
fn a_late_attempt_that_binds_in_the_quarantine_is_caught() {
    simulate(async {
        let late = json!({"when": {"first": 1}, "fault": {"kind": "lateBind", "seconds": 40}});
        let (mut world, agent) = watched(8, &[late]).await;
        let began = world.age();
        let replaced = |w: &Cosmos| w.instances().iter().all(|i| i.spec.id != agent.spec.id);
        world.until("it is replaced", LONG, replaced).await;
        let took = world.age() - began;
        assert!(
            (Duration::from_secs(35)..Duration::from_secs(85)).contains(&took),
            "{took:?}"
        );
        world.until_idle(1).await;
    });
}
