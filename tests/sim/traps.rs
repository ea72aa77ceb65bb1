//! Single situations that cost others an incident.

use std::time::Duration;

use agentpool::claim::ClaimError;
use agentpool::domain::instance::phase::{self, Phase};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cosmos::{Cosmos, POOL, instance_path, simulate};
use crate::sample::{each, stride};

#[allow(
    clippy::disallowed_methods,
    reason = "virtual time is the subject here"
)]
fn in_seconds(n: u64) -> Instant {
    Instant::now() + Duration::from_secs(n)
}

/// Ten minutes in which Railway refuses to delete: every object stays and says why, and nothing is left afterwards.
#[test]
fn refused_deletes_for_ten_minutes() {
    simulate(async {
        let mut world = Cosmos::new(11);
        world.operator();
        world.create_pool(POOL, &json!({}));
        world.until_settled(3).await;
        world.railway_fault(&json!({"match": {"field": "serviceDelete"},
            "fault": {"kind": "gql_error", "message": "Problem processing request"}}));
        let gone: Vec<String> = world
            .instances()
            .iter()
            .take(2)
            .map(ResourceExt::name_any)
            .collect();
        for name in &gone {
            world.delete(name).expect("deleted");
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.checks.assert();
        let stuck: Vec<_> = world.in_phase(Phase::Terminating);
        assert_eq!(stuck.len(), 2, "{}", world.describe());
        for instance in &stuck {
            let conditions = &instance.status.as_ref().unwrap().conditions;
            let says = conditions
                .iter()
                .any(|c| c.status != "True" && !c.message.is_empty() && c.reason != "Idle");
            assert!(says, "{conditions:?}");
        }
        assert_eq!(
            world.in_phase(Phase::Idle).len(),
            3,
            "replaced meanwhile: {}",
            world.describe()
        );
        assert_eq!(world.services().len(), 5);
        world.heal();
        world.until_settled(3).await;
    });
}

/// The watch is silent for 30 s while the pool fills: what was created is not created again.
#[test]
fn a_lost_watch_during_refill_creates_nothing_twice() {
    for leaders in [1, 2] {
        simulate(async move {
            let mut world = Cosmos::new(12);
            for _ in 0..leaders {
                world.operator();
            }
            world.create_pool(POOL, &json!({"minIdle": 5}));
            // Each pool pass that creates, and then nothing is heard of it.
            world
                .until("the first is recorded", Duration::from_secs(60), |w| {
                    !w.instances().is_empty()
                })
                .await;
            for operator in &world.operators {
                operator.reins.hold_until(in_seconds(30));
            }
            world.until_settled(5).await;
            assert_eq!(world.checks.most_unused(), 5, "{leaders} leaders");
            for name in world.instances().iter().take(3).map(ResourceExt::name_any) {
                world.delete(&name).expect("deleted");
                for operator in &world.operators {
                    operator.reins.hold_until(in_seconds(30));
                }
            }
            world.until_settled(5).await;
            assert_eq!(world.checks.most_unused(), 5, "{leaders} leaders");
        });
    }
}

/// Reserves and records on the first agent in stock, as two quick writes of another process.
fn claimed_meanwhile(
    world: &crate::operator::Ground,
    checks: &crate::checks::Checks,
) -> Option<String> {
    let all = world.server.store().all("agentinstances");
    let parsed = all
        .iter()
        .map(|i| serde_json::from_value::<agentpool::api::AgentInstance>((**i).clone()).unwrap());
    let idle = parsed.into_iter().find(phase::is_claimable)?;
    let path = format!("{}/{}", instance_path(), idle.name_any());
    let send = |path: &str, body: Value| {
        let request = axum::http::Request::builder().method("PATCH").uri(path);
        let request = request
            .header("content-type", "application/merge-patch+json")
            .body(body.to_string().into_bytes());
        world
            .server
            .decide(&request.unwrap(), &crate::api_server::Reins::default())
            .unwrap()
    };
    let claim = json!({"id": "c-1", "holder": "other", "deadline": "2031-01-01T00:00:00Z",
        "requestedAt": "2030-01-01T00:00:00Z", "agentName": "Ada"});
    send(
        &path,
        json!({"metadata": {"resourceVersion": idle.metadata.resource_version}, "spec": {"claim": claim}}),
    );
    checks.promise(&idle.spec.id, "conversation-1");
    let status = json!({"claim": {"id": "c-1", "outcome": "Bound", "conversationId": "conversation-1"}, "phase": "Claimed"});
    send(&format!("{path}/status"), json!({"status": status}));
    Some(idle.spec.id)
}

/// Whatever the controller has read, a claim that came since is never written over, nor is its agent removed.
#[test]
fn a_claim_between_any_read_and_write_stands() {
    let life = |at: u64| {
        simulate(async move {
            let mut world = Cosmos::new(13);
            world.timings(&json!({"building": 2.0, "deploying": 1.0, "app_boot": 1.0}));
            let (ground, checks) = (world.ground.clone(), world.checks.clone());
            let operator = world.operator_with(|process| {
                process.between(at, move |_| drop(claimed_meanwhile(&ground, &checks)));
            });
            world.create_pool(POOL, &json!({"minIdle": 2}));
            world
                .until(
                    "the operator came so far",
                    Duration::from_secs(7200),
                    |_| operator.process.calls() > at + 20,
                )
                .await;
            tokio::time::sleep(Duration::from_secs(400)).await;
            world.checks.assert();
            world.checks.answers()
        })
    };
    let calls: Vec<u64> = (60..160)
        .step_by(usize::try_from(stride()).unwrap())
        .collect();
    let claims = std::sync::atomic::AtomicUsize::new(0);
    each(
        &calls,
        |call| format!("a claim before call {call}"),
        |call| {
            claims.fetch_add(life(*call), std::sync::atomic::Ordering::Relaxed);
        },
    );
    let claims = claims.into_inner();
    assert!(
        claims > calls.len() / 2,
        "{claims} claims in {} lives",
        calls.len()
    );
}

/// A leader stands still for five minutes in the middle of a fill, another fills; then the first goes on where it was.
#[test]
fn a_leader_that_slept_wakes_into_a_changed_world() {
    simulate(async {
        for pause in [2, 5, 9, 14, 20, 27, 35] {
            let mut world = Cosmos::new(14);
            let first = world.operator();
            world.create_pool(POOL, &json!({}));
            tokio::time::sleep(Duration::from_secs(pause)).await;
            first.process.pause_until(in_seconds(300));
            world.operator();
            tokio::time::sleep(Duration::from_secs(310)).await;
            world.until_settled(3).await;
            assert_eq!(world.checks.most_unused(), 3, "paused after {pause} s");
        }
    });
}

/// False "no stock" by a stale cache: what a late replica knows is gone, and what it does not know yet is there.
#[test]
fn a_cache_that_is_late_hides_no_stock() {
    simulate(async {
        let mut world = Cosmos::new(21);
        let (leader, late) = (world.operator(), world.operator());
        world.create_pool(POOL, &json!({"minIdle": 2, "maxTotal": 8}));
        world.until_idle(2).await;
        late.reins.hold_until(in_seconds(3600));
        for n in 0..2 {
            let claimed = world.claim(&leader, POOL, &format!("Ada {n}")).await;
            assert!(claimed.is_some_and(|c| c.is_ok()));
        }
        // Now there is none, and that is what a direct list says.
        let none = world.claim(&late, POOL, "Eve").await.unwrap();
        assert!(matches!(none, Err(ClaimError::NoIdle)), "{none:?}");
        world.until_idle(2).await;
        // That list is older than this claim: it proves nothing.
        for n in 0..2 {
            let claimed = world.claim(&late, POOL, &format!("Eve {n}")).await.unwrap();
            assert!(claimed.is_ok(), "{claimed:?}");
        }
    });
}
