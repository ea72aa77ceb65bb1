//! Killed at every step that is ever recorded, and within every call that changes something.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use tokio::sync::mpsc;

use super::{PATIENT, kill, slow_writes};
use crate::support::world::{POOL, World, standing};

/// How far an instance is, by everything that it records.
fn recorded(instance: &AgentInstance) -> BTreeSet<String> {
    let mut marks = BTreeSet::new();
    let mut mark = |text: String| {
        marks.insert(text);
    };
    if !instance.finalizers().is_empty() {
        mark("held by its finalizer".into());
    }
    if instance.metadata.deletion_timestamp.is_some() {
        mark("deleted".into());
    }
    let Some(status) = &instance.status else {
        return marks;
    };
    let provider = status.provider.as_ref();
    if provider.is_some_and(|p| p.id.is_some()) {
        mark("service id".into());
    }
    if status.url.is_some() {
        mark("url".into());
    }
    if provider.is_some_and(|p| p.deployment_id.is_some()) {
        mark("deployment id".into());
    }
    if status.turn.is_some() {
        mark("turn".into());
    }
    if let Some(verdict) = &status.verdict {
        mark(format!("verdict {}", verdict.state));
    }
    let operation = status.operation.as_ref();
    if let Some(step) = operation.and_then(|o| o.steps.get(usize::try_from(o.index).ok()?)) {
        mark(format!("step {} {}", step.name, step.state));
    }
    marks
}

/// Everything that objects come to record, as the watch tells it: every version of every object.
fn marks(world: &World) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let of_pools = sender.clone();
    let mut pools = watcher::watcher(world.pools(), watcher::Config::default()).boxed();
    tokio::spawn(async move {
        while let Some(event) = pools.next().await {
            if let Ok(Event::Apply(pool) | Event::InitApply(pool)) = event {
                if pool.status.is_some_and(|s| !s.creating.is_empty()) {
                    let _ = of_pools.send("pool creating".into());
                }
                if pool.metadata.deletion_timestamp.is_some() {
                    let _ = of_pools.send("pool deleted".into());
                }
            }
        }
    });
    let mut instances = watcher::watcher(world.instances(), watcher::Config::default()).boxed();
    tokio::spawn(async move {
        while let Some(event) = instances.next().await {
            match event {
                Ok(Event::Apply(i) | Event::InitApply(i)) => {
                    for mark in recorded(&i) {
                        let _ = sender.send(mark);
                    }
                }
                Ok(Event::Delete(_)) => {
                    let _ = sender.send("let go".into());
                }
                _ => {}
            }
        }
    });
    receiver
}

/// Calls in flight or over, and services that are gone while their objects are not.
async fn at_the_provider(world: &World) -> BTreeSet<String> {
    let calls = world.sim.calls("railway").await;
    let mut marks: BTreeSet<String> = calls
        .iter()
        .filter_map(|c| c["operation"].as_str())
        .filter(|operation| {
            let document = agentpool::provider::railway::operation::ALL
                .iter()
                .find(|d| d.name == *operation);
            document.is_some_and(|d| d.text.contains("mutation "))
        })
        .map(|operation| format!("call {operation}"))
        .collect();
    let gone = world.sim.services_ever().await;
    if gone.iter().any(|s| s["exists"] == false) {
        marks.insert("gone at the provider".into());
    }
    marks
}

/// Kills the operator at everything that it records or sends for the first time, until `over`; at what it killed.
async fn kill_at_everything(
    world: &mut World,
    marks: &mut mpsc::UnboundedReceiver<String>,
    known: &BTreeSet<String>,
    over: fn(&[AgentInstance]) -> bool,
) -> BTreeSet<String> {
    let (mut killed, mut last) = (BTreeSet::new(), Instant::now());
    loop {
        let first = tokio::time::timeout(Duration::from_millis(20), marks.recv()).await;
        let mut seen: BTreeSet<String> = first.ok().flatten().into_iter().collect();
        if seen.is_empty() {
            seen = at_the_provider(world).await;
        }
        while let Ok(mark) = marks.try_recv() {
            seen.insert(mark);
        }
        seen.retain(|mark| !known.contains(mark) && !killed.contains(mark));
        if !seen.is_empty() {
            kill(world).await;
            killed.extend(seen);
            world.start_operator(&[]);
            last = Instant::now();
        } else if over(&world.list().await) {
            return killed;
        }
        assert!(
            last.elapsed() < PATIENT,
            "not over; killed at {killed:#?}; left {:#?}",
            standing(&world.list().await)
        );
    }
}

fn set(marks: &[&str]) -> BTreeSet<String> {
    marks.iter().map(|m| (*m).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_a_fill_and_of_its_deletion_nothing_is_twice_and_nothing_is_left() {
    let mut world = World::start("kills").await;
    slow_writes(&world, 0.5).await;
    let mut marks = marks(&world);
    let spec = json!({"minIdle": 10, "maxTotal": 20, "tickIntervalSeconds": 1});
    world.create_pool(POOL, spec).await;
    let all_idle =
        |all: &[AgentInstance]| all.iter().filter(|i| phase_of(i) == Phase::Idle).count() == 10;
    let killed = kill_at_everything(&mut world, &mut marks, &BTreeSet::new(), all_idle).await;
    let expected = set(&[
        "call RwConfigureAndDeploy",
        "call RwDomainCreate",
        "call RwServiceCreate",
        "deployment id",
        "held by its finalizer",
        "pool creating",
        "service id",
        "step clean Intended",
        "step deploy Intended",
        "step deploy Running",
        "step domain Intended",
        "step ready Intended",
        "step service Intended",
        "turn",
        "url",
    ]);
    assert_eq!(killed, expected);
    assert_eq!(world.list().await.len(), 10);
    crate::railway::made_once(&world, 10).await;
    assert_eq!(world.in_phase(Phase::Idle).await.len(), 10);

    world
        .pools()
        .delete(POOL, &DeleteParams::default())
        .await
        .unwrap();
    let nothing = |all: &[AgentInstance]| all.is_empty();
    let killed = kill_at_everything(&mut world, &mut marks, &killed, nothing).await;
    let expected = set(&[
        "call RwServiceDelete",
        "deleted",
        "gone at the provider",
        "let go",
        "pool deleted",
    ]);
    assert_eq!(killed, expected);
    assert_eq!(world.sim.services_ever().await.len(), 10, "none more");
    assert_eq!(
        world.sim.live_services().await,
        Vec::<serde_json::Value>::new()
    );
    world.finish().await;
}
