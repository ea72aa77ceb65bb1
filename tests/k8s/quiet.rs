//! What is written at rest: nothing. And how often a pool's status is written when much happens: once a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentpool::api::AgentPool;
use agentpool::domain::instance::phase::Phase;
use futures::{StreamExt, TryStreamExt};
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::lifecycle::{service_id, ticks};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// The resourceVersion of every object in the namespace, leases apart.
fn versions(world: &World) -> BTreeMap<String, String> {
    let kinds = "agentpools,agentinstances,secrets,configmaps,events,controllerrevisions,serviceaccounts,pods";
    let all = world.kubectl(&["get", kinds, "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let entry = |o: &Value| {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let name = format!("{}/{}", text(&o["kind"]), text(&o["metadata"]["name"]));
        (name, text(&o["metadata"]["resourceVersion"]))
    };
    all["items"].as_array().unwrap().iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_written() {
    let spec = json!({"minIdle": 3, "maxTotal": 9, "tickIntervalSeconds": 1});
    let world = World::with_pool("rest", spec).await;
    // One of each kind that lasts: idle, claimed, crashed, asleep, silent.
    let mut claimed = vec![];
    for name in ["Ada", "Bob", "Cleo"] {
        let answer = world.claim(name).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        claimed.push(
            world
                .instance(answer.body["instanceId"].as_str().unwrap())
                .await
                .unwrap(),
        );
    }
    let force = |n: usize, status| {
        let change = json!({"service": service_id(&claimed[n]), "deployment": {"status": status}});
        world.sim.force(change)
    };
    force(0, "CRASHED").await;
    world.wait_count("crashed", 1).await;
    // A probe that was on its way wakes it: again, then.
    until("one sleeps", LONG, || async {
        let counts = world.get("/api/pool/counts").await.body;
        if counts["sleeping"] == 1 {
            return Some(());
        }
        force(1, "SLEEPING").await;
        None
    })
    .await;
    let idle = world.wait_idle(3).await;
    let silent = json!({"match": {"host": crate::lifecycle::host(&idle[0])}, "fault": {"kind": "gateway502"}});
    world.sim.fault("agents", silent).await;
    until("it comes to rest", LONG, || async {
        let before = versions(&world);
        ticks(&world, 3).await;
        (versions(&world) == before).then_some(())
    })
    .await;
    let before = versions(&world);
    assert!(before.len() > 8, "{before:?}");
    ticks(&world, 10).await;
    assert_eq!(versions(&world), before);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_s_counts_are_written_once_a_second_and_its_fence_at_once() {
    let world = World::start("rate").await;
    let pools = world.pools();
    let seen = tokio::spawn(async move {
        let mut seen: Vec<(Instant, AgentPool)> = vec![];
        let mut changes = watcher(pools, watcher::Config::default())
            .applied_objects()
            .boxed();
        while let Ok(Some(pool)) = changes.try_next().await {
            seen.push((Instant::now(), pool));
            let status = seen
                .last()
                .and_then(|s| s.1.status.clone())
                .unwrap_or_default();
            let told = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                c.type_ == "Ready" && c.status == "True"
            };
            if status.idle == 12 && status.claimed == 4 && status.conditions.iter().any(told) {
                break;
            }
        }
        seen
    });
    world
        .create_pool(
            POOL,
            json!({"minIdle": 12, "maxTotal": 40, "tickIntervalSeconds": 1}),
        )
        .await;
    world.wait_idle(12).await;
    let begun = Instant::now();
    let claims = ["Ada", "Bob", "Cleo", "Dan"].map(|name| world.claim(name));
    for answer in futures::future::join_all(claims).await {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let claims_took = begun.elapsed();
    world.wait_idle(12).await;
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 4);
    let seen = tokio::time::timeout(LONG, seen).await.unwrap().unwrap();

    // Counts and words alone come a second apart.
    let mut counted = 0;
    for pair in seen.windows(2) {
        let ((_, old), (_, new)) = (&pair[0], &pair[1]);
        let (a, b) = (
            old.status.clone().unwrap_or_default(),
            new.status.clone().unwrap_or_default(),
        );
        let fence = a.creating != b.creating || a.revision != b.revision || a.release != b.release;
        if old.status.is_some()
            && a != b
            && !fence
            && old.metadata.generation == new.metadata.generation
        {
            counted += 1;
        }
    }
    // No more than there were seconds; the first one may have been seen late.
    let lasted = seen[seen.len() - 1].0.duration_since(seen[0].0);
    assert!(
        counted >= 2 && counted as f64 <= lasted.as_secs_f64() + 2.0,
        "{counted} of {} in {lasted:?}",
        seen.len()
    );
    // Ids that are about to be created were not kept waiting: listed while the claims had hardly ended.
    let listed = seen.iter().find(|(at, pool)| {
        *at > begun && pool.status.as_ref().is_some_and(|s| !s.creating.is_empty())
    });
    let listed = listed
        .expect("the replacements were listed")
        .0
        .duration_since(begun);
    assert!(
        listed < claims_took + Duration::from_secs(1),
        "listed after {listed:?}"
    );
    assert!(!seen[0].1.name_any().is_empty());
    world.finish().await;
}
