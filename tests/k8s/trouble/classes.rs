//! The table of classes: what a call that fails in that way leads to at its instance, at the pool, in events and metrics.

use std::time::Duration;

use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{pair, pool_says, told};
use crate::lifecycle::{condition, service_id};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, SPEED, World};

/// One row.
struct Row {
    /// The metric's label.
    class: &'static str,
    /// What every creation of a service meets.
    fault: Value,
    /// The instance's Ready.
    instance: (&'static str, &'static str),
    /// The pool's ProviderReachable.
    provider: (&'static str, &'static str),
    /// Which kind of object tells it, once, under the instance's reason.
    told: Option<&'static str>,
    /// How often a creation is tried within the next seconds.
    tries: std::ops::RangeInclusive<usize>,
}

/// Creations of a service so far.
async fn creations(world: &World) -> usize {
    world.sim.railway_calls("RwServiceCreate").await
}

/// The instance controller's errors of that class.
async fn errors(world: &mut World, class: &str) -> u64 {
    let url = format!("{}/metrics", world.operator().operations);
    let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
    let of =
        format!("agentpool_reconcile_errors_total{{controller=\"instance\",class=\"{class}\"}} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&of));
    found.map_or(0, |n| n.parse().unwrap())
}

/// Meets the row's fault, and finds everything as the row says; the world, still in that state.
async fn meets(row: Row) -> World {
    let mut world = World::start(row.class).await;
    let rule = json!({"match": {"field": "serviceCreate"}, "fault": row.fault});
    world.sim.fault("railway", rule).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    let expected = pair(row.instance.0, row.instance.1);
    let instance = until(row.instance.1, LONG, || async {
        let now = world.list().await.into_iter().next()?;
        condition(&now, "Ready").filter(|c| *c == expected)?;
        Some(now)
    })
    .await;
    let first = creations(&world).await;
    assert_eq!(first, 1, "{}", row.class);
    until("the pool says it too", LONG, || async {
        let says = pool_says(&world).await?;
        (says[0] == pair(row.provider.0, row.provider.1)).then_some(())
    })
    .await;
    holds("no phase changes", Duration::from_secs(4), || async {
        let all = world.list().await;
        all.len() == 1
            && all[0].spec.id == instance.spec.id
            && phase_of(&all[0]) == Phase::Provisioning
    })
    .await;
    let tries = creations(&world).await - first;
    assert!(
        row.tries.contains(&tries),
        "{}: {tries} more tries",
        row.class
    );
    assert!(errors(&mut world, row.class).await >= 1, "{}", row.class);
    for kind in ["AgentPool", "AgentInstance"] {
        let expected = i64::from(row.told == Some(kind));
        let found = told(&world, kind, row.instance.1).await;
        assert_eq!(found, expected, "{}: {kind} {}", row.class, row.instance.1);
    }
    assert_eq!(world.sim.live_services().await.len(), 0);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_waits_as_long_as_it_is_told() {
    let world = meets(Row {
        class: "throttled",
        fault: json!({"kind": "rate_limit", "seconds": SPEED * 10.0}),
        instance: ("Unknown", "RateLimited"),
        provider: ("Unknown", "RateLimited"),
        told: Some("AgentPool"),
        tries: 0..=0,
    })
    .await;
    world.sim.heal("railway").await;
    world.wait_idle(1).await;
    assert_eq!(creations(&world).await, 2);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_is_tried_again_ever_more_slowly_and_its_recovery_is_told() {
    let world = meets(Row {
        class: "transient",
        fault: json!({"kind": "gql_error", "message": "An operation is already in progress"}),
        instance: ("Unknown", "ProviderUnavailable"),
        provider: ("True", "Reachable"),
        told: Some("AgentInstance"),
        // At most one per step of 1, 2, 4, … seconds and its jitter; at least the first of them.
        tries: 1..=12,
    })
    .await;
    world.sim.heal("railway").await;
    world.wait_idle(1).await;
    assert_eq!(told(&world, "AgentInstance", "Recovered").await, 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capacity_is_asked_for_slowly_and_deletions_go_on() {
    let mut world = meets(Row {
        class: "capacity",
        fault: json!({"kind": "quota"}),
        instance: ("False", "CapacityExceeded"),
        provider: ("False", "CapacityExceeded"),
        told: Some("AgentPool"),
        tries: 0..=0,
    })
    .await;
    // Nothing more is created, whoever asks; what goes, goes.
    world.patch_pool(json!({"minIdle": 3})).await;
    until("the pool says why it is short", LONG, || async {
        let ready = world.pool_condition("Ready").await?;
        (ready.1 == "CapacityExceeded" && ready.2.contains("0 of 3 idle")).then_some(())
    })
    .await;
    let instance = world.list().await.remove(0);
    world.delete(&instance.name_any()).await;
    world.wait_gone(&instance.spec.id).await;
    assert_eq!(world.list().await.len(), 0, "and is not replaced yet");
    assert_eq!(creations(&world).await, 1);
    assert!(world.operator().runs());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthorized_pauses_what_writes_until_the_secret_changes() {
    let second = "5eed0000-0000-4000-8000-0000000000c1";
    let world = meets(Row {
        class: "unauthorized",
        fault: json!({"kind": "gql_error", "message": "Not Authorized"}),
        instance: ("False", "CredentialsInvalid"),
        provider: ("False", "CredentialsInvalid"),
        told: Some("AgentPool"),
        tries: 0..=0,
    })
    .await;
    world.sim.heal("railway").await;
    let workspace = "5eed0000-0000-4000-8000-0000000000aa";
    let token = json!({"token": second, "kind": "workspace", "workspaceId": workspace});
    world.sim.set("railway", json!({"tokens": [token]})).await;
    holds(
        "it waits for the Secret",
        Duration::from_secs(3),
        || async { creations(&world).await == 1 },
    )
    .await;
    world.secret("railway", "token", second).await;
    world.wait_idle(1).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_is_looked_for_before_anything_is_done_again() {
    let mut world = World::start("ambiguous").await;
    let fault = json!({"kind": "reset", "applied": true});
    let rule = json!({"match": {"field": "serviceCreate"}, "count": 1, "fault": fault});
    world.sim.fault("railway", rule).await;
    // Not listed for a while: so long nobody knows.
    let lag = json!({"timings": {"list_lag_create": SPEED * 4.0}});
    world.sim.set("railway", lag).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    let instance = until("nobody knows", LONG, || async {
        let now = world.list().await.into_iter().next()?;
        condition(&now, "Ready").filter(|c| *c == pair("Unknown", "OutcomeUnknown"))?;
        Some(now)
    })
    .await;
    assert_eq!(phase_of(&instance), Phase::Provisioning);
    let idle = world.wait_idle(1).await;
    assert_eq!(idle[0].spec.id, instance.spec.id);
    assert_eq!(creations(&world).await, 1, "found, not made again");
    assert!(errors(&mut world, "ambiguous").await >= 1);
    assert_eq!(told(&world, "AgentInstance", "OutcomeUnknown").await, 0);
    assert_eq!(
        pool_says(&world).await.unwrap()[0],
        pair("True", "Reachable")
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_ends_the_creation_counts_and_is_not_tried_again() {
    let mut world = World::start("rejected").await;
    let fault = json!({"kind": "gql_error", "message": "Error in image - Invalid input", "code": "BAD_USER_INPUT"});
    let rule = json!({"match": {"field": "serviceCreate"}, "fault": fault});
    world.sim.fault("railway", rule).await;
    let breaker = json!({"failures": 1, "backoffSeconds": 600});
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "circuitBreaker": breaker});
    world.create_pool(POOL, spec).await;
    let ready = until("the pool says why", LONG, || async {
        let ready = world.pool_condition("Ready").await?;
        (ready.1 == "CreationsFailing").then_some(ready)
    })
    .await;
    assert!(
        ready.0 == "False" && ready.2.contains("Invalid input"),
        "{ready:?}"
    );
    holds("not tried again", Duration::from_secs(3), || async {
        creations(&world).await == 1
    })
    .await;
    assert!(errors(&mut world, "rejected").await >= 1);
    assert_eq!(told(&world, "AgentPool", "CreationsFailing").await, 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_is_the_answer_that_a_deletion_wants() {
    let mut world =
        World::with_pool("gone", json!({"minIdle": 1, "tickIntervalSeconds": 600})).await;
    let idle = world.wait_idle(1).await.remove(0);
    let gone = json!({"service": service_id(&idle), "delete": true});
    world.sim.force(gone).await;
    world.delete(&idle.name_any()).await;
    world.wait_gone(&idle.spec.id).await;
    assert_eq!(
        world.sim.railway_calls("RwServiceDelete").await,
        0,
        "nothing to delete"
    );
    for class in ["gone", "unauthorized", "rejected", "transient"] {
        assert_eq!(errors(&mut world, class).await, 0, "{class}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_no_error_and_nothing_is_done_twice() {
    let mut world = World::start("conflict").await;
    // Every write takes its time at Railway, so that others write to the object meanwhile.
    let slow = json!({"timings": {"latency_mutation": 0.3 * SPEED}});
    world.sim.set("railway", slow).await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    let mut writes = 0_u32;
    until("idle", LONG, || {
        writes += 1;
        let mark = json!({"metadata": {"annotations": {"test": writes.to_string()}}});
        let world = &world;
        async move {
            let now = world.list().await.into_iter().next()?;
            let patch = Patch::Merge(mark);
            let api = world.instances();
            api.patch(&now.name_any(), &PatchParams::default(), &patch)
                .await
                .ok()?;
            (phase_of(&now) == Phase::Idle).then_some(())
        }
    })
    .await;
    assert!(
        world.operator().log().contains("decided"),
        "it worked all the while"
    );
    for class in ["kubernetes", "ambiguous", "rejected"] {
        assert_eq!(errors(&mut world, class).await, 0, "{class}");
    }
    crate::railway::made_once(&world, 1).await;
    world.finish().await;
}
