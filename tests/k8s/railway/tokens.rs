//! A token that is replaced while agents run.

use std::collections::BTreeSet;

use agentpool::domain::instance::phase::Phase;
use serde_json::json;

use super::events;
use crate::lifecycle::{ids, ticks};
use crate::support::simulator::TOKEN;
use crate::support::wait::{LONG, until};
use crate::support::world::World;

/// acceptance: E14
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_is_used_without_a_restart_and_no_agent_is_lost() {
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1});
    let mut world = World::with_pool("token", spec).await;
    let pid = world.operator().pid();
    assert_eq!(world.claim("Ada").await.status, 200);
    world.wait_idle(2).await;
    let before = ids(&world.list().await);
    let second = "5eed0000-0000-4000-8000-0000000000c7";
    let workspace = "5eed0000-0000-4000-8000-0000000000aa";
    let token = |token: &str, revoked: bool| json!({"token": token, "kind": "workspace", "workspaceId": workspace, "revoked": revoked});
    let refused = async |world: &World| {
        let reachable = world.pool_condition("ProviderReachable").await?;
        (reachable.1 == "CredentialsInvalid").then_some(reachable)
    };
    // The old one ends before the Secret has the new one: that is said, and nobody pays for it.
    let tokens = json!({"tokens": [token(TOKEN, true), token(second, false)]});
    world.sim.set("railway", tokens).await;
    let (status, _, message) = until("the pool says so", LONG, || refused(&world)).await;
    assert_eq!(status, "False");
    assert!(
        message.contains("Not Authorized") || message.contains("tokenKind"),
        "{message}"
    );
    assert_eq!(ids(&world.list().await), before);
    world.secret("railway", "token", second).await;
    until("it is reached again", LONG, || async {
        let reachable = world.pool_condition("ProviderReachable").await?;
        (reachable.0 == "True").then_some(())
    })
    .await;
    let seen = world.sim.calls("railway").await.len();
    ticks(&world, 2).await;
    assert_eq!(world.claim("Bob").await.status, 200);
    world.wait_idle(2).await;
    let calls = world.sim.calls("railway").await.split_off(seen);
    let used: BTreeSet<&str> = calls.iter().map(|c| c["token"].as_str().unwrap()).collect();
    assert_eq!(used, BTreeSet::from(["5eed…00c7"]));
    let after = ids(&world.list().await);
    assert!(before.is_subset(&after), "{before:?} {after:?}");
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 2);
    // Told once, whoever looks for the reason of what was refused until then.
    let told = until("it is told", LONG, || async {
        let told = events(&world, "SecretRotated");
        (!told.is_empty()).then_some(told)
    })
    .await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("Secret railway") && !told[0].contains("5eed"),
        "{told:?}"
    );
    assert_eq!(world.operator().pid(), pid);
    assert!(world.operator().runs());
    world.finish().await;
}
