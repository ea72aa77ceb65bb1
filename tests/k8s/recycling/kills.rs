//! Killed at every step of a creation and of a recycling that is ever recorded.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentpool::api::AgentInstance;
use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{account, finish, give_back, spec, sprites_ever, start, wait_idle};
use crate::chaos::{PATIENT, kill};
use crate::support::world::{POOL, World};

/// The steps that objects come to record, as the watch tells it: every version of every object.
fn steps(world: &World) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut instances = watcher::watcher(world.instances(), watcher::Config::default()).boxed();
    tokio::spawn(async move {
        while let Some(event) = instances.next().await {
            if let Ok(Event::Apply(i) | Event::InitApply(i)) = event
                && let Some(step) = recorded(&i)
            {
                let _ = sender.send(step);
            }
        }
    });
    receiver
}

fn recorded(instance: &AgentInstance) -> Option<String> {
    let operation = instance.status.as_ref()?.operation.as_ref()?;
    let step = operation
        .steps
        .get(usize::try_from(operation.index).ok()?)?;
    let cleared = if operation.kind == "Recycle" && instance.spec.claim.is_none() {
        " cleared"
    } else {
        ""
    };
    Some(format!(
        "{} {} {}{cleared}",
        operation.kind, step.name, step.state
    ))
}

/// Kills at each step that is recorded for the first time, until one is in stock in this turn; at what it killed.
async fn kill_at_every_step(
    world: &mut World,
    steps: &mut mpsc::UnboundedReceiver<String>,
    turn: i64,
) -> BTreeSet<String> {
    let (mut killed, begun) = (BTreeSet::new(), Instant::now());
    loop {
        let next = tokio::time::timeout(Duration::from_millis(100), steps.recv()).await;
        match next.ok().flatten() {
            Some(step) if !killed.contains(&step) => {
                kill(world).await;
                killed.insert(step);
                world.start_operator(&[]);
            }
            Some(_) => {}
            None => {
                let all = world.list().await;
                let proven = |i: &AgentInstance| {
                    let status = i.status.as_ref();
                    i.spec.turn == turn && status.and_then(|s| s.turn) == Some(turn)
                };
                if all.len() == 1 && proven(&all[0]) {
                    return killed;
                }
            }
        }
        assert!(
            begun.elapsed() < 2 * PATIENT,
            "not over; killed at {killed:#?}"
        );
    }
}

/// acceptance: N03
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_a_creation_and_a_recycling_are_gone_on_with() {
    let mut world = start("kills-sprites").await;
    let mut seen = steps(&world);
    world.create_pool(POOL, spec(json!({}), json!({}))).await;
    let killed = kill_at_every_step(&mut world, &mut seen, 1).await;
    for step in [
        "sprite",
        "access",
        "setup",
        "files",
        "gateway",
        "ready",
        "clean",
        "checkpoint",
    ] {
        let at = |kind: &str| killed.contains(&format!("{kind} {step} Intended"));
        assert!(at("Create") || at("Adopt"), "{step}: {killed:#?}");
    }
    assert_eq!(
        sprites_ever(&world).await.len(),
        1,
        "one, whatever was killed"
    );
    let made = wait_idle(&world, 1).await.remove(0);
    let checkpoints = super::sprite(&world, &made).await["checkpoints"].clone();
    assert_eq!(
        checkpoints.as_array().map(Vec::len),
        Some(1),
        "{checkpoints}"
    );

    assert_eq!(world.claim("Ada").await.status, 200);
    let release = json!({"spec": {"release": {"id": "r1", "mode": "Recycle", "requestedAt": "2026-01-01T00:00:00Z"}}});
    let release = kube::api::Patch::Merge(&release);
    let parameters = kube::api::PatchParams::default();
    let object = made.metadata.name.clone().unwrap();
    world
        .instances()
        .patch(&object, &parameters, &release)
        .await
        .unwrap();
    let killed = kill_at_every_step(&mut world, &mut seen, 2).await;
    for step in [
        "mark", "restore", "files", "restart", "access", "ready", "clean",
    ] {
        let intended = format!("Recycle {step} Intended");
        assert!(killed.contains(&intended), "{step}: {killed:#?}");
    }
    assert!(
        killed.contains("Recycle clean Intended cleared"),
        "{killed:#?}"
    );
    let after = wait_idle(&world, 1).await.remove(0);
    assert_eq!(after.metadata.uid, made.metadata.uid);
    assert_eq!(
        after.status.as_ref().and_then(|s| s.token_seq),
        Some(2),
        "one new token"
    );
    assert_eq!(sprites_ever(&world).await.len(), 1);
    let restored = account(&world, &after).await["restores"].clone();
    assert_eq!(restored.as_array().map(Vec::len), Some(1), "{restored}");

    // It serves its next user, and is given back once more.
    let again = world.claim("Bob").await;
    assert_eq!(again.status, 200, "{}", again.text);
    let recycled: (u16, Value) = (200, json!({"ok": true, "action": "recycled"}));
    assert_eq!(give_back(&world, &after.spec.id).await, recycled);
    finish(world).await;
}
