//! Given back: restored for the next user, or destroyed.

use std::collections::BTreeMap;

use agentpool::domain::drift::{Drift, Present, drift};
use serde::Deserialize;

use super::*;
use crate::recycling::give_back;
use crate::support::wait::LONG;

/// The example as a user applies it, and the whole life: made, claimed, recycled, claimed again, destroyed.
/// acceptance: A03
#[tokio::test(flavor = "multi_thread")]
async fn the_example_s_agent_is_made_claimed_recycled_and_destroyed() {
    let world = start("sprites-life").await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sprites.yaml");
    let text = std::fs::read_to_string(example).unwrap();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let mut object = Value::deserialize(document).unwrap();
        if object["kind"] == "Namespace" {
            continue;
        }
        object["metadata"]["namespace"] = json!(&*world.namespace);
        if object["kind"] == "AgentPool" {
            object["metadata"]["name"] = json!(POOL);
            object["spec"]["tickIntervalSeconds"] = json!(1);
        }
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("example-{}.json", &*world.namespace));
        std::fs::write(&path, object.to_string()).unwrap();
        world.kubectl(&["apply", "-f", path.to_str().unwrap()]);
    }
    let first = wait_idle(&world, 1).await.remove(0);
    let before = config(&world, &first).await["gateway"]["auth"]["token"].clone();
    let ada = world.claim("Ada").await;
    assert_eq!(ada.status, 200, "{}", ada.text);
    assert_eq!(ada.body["instanceId"], *first.spec.id);
    wait_idle(&world, 1).await;
    // A stream that ends early changes nothing: the restore goes on, and is seen to.
    let about = json!({"operation": "restore", "sprite": first.spec.provider_name});
    fault(&world, about, json!({"kind": "stream_cut", "lines": 1})).await;
    assert_eq!(
        give_back(&world, &first.spec.id).await,
        (200, json!({"ok": true, "action": "recycled"}))
    );
    let again = until("it is in stock again", PATIENT, || async {
        let idle = world.in_phase(Phase::Idle).await;
        idle.into_iter().find(|i| i.spec.id == first.spec.id)
    })
    .await;
    assert_eq!(again.spec.provider_name, first.spec.provider_name);
    assert!(again.spec.claim.is_none() && again.spec.release.is_none());
    assert_eq!(again.spec.turn, first.spec.turn + 1);
    assert!(again.status.as_ref().unwrap().claim.is_none());
    assert_eq!(calls(&world, "restore").await.len(), 1);
    assert_eq!(sprite(&world, &again).await["restores"], 1);
    let after = config(&world, &again).await["gateway"]["auth"]["token"].clone();
    assert!(
        after.is_string() && after != before,
        "the last user is locked out"
    );
    assert_eq!(file(&world, &again, INSTRUCTIONS).await, None);

    let mut owners = BTreeMap::new();
    for agent in ["Bob", "Cleo"] {
        let answer = world.claim(agent).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap().to_owned();
        assert!(
            owners
                .insert(id, answer.body["conversationId"].clone())
                .is_none()
        );
    }
    assert!(owners.contains_key(&first.spec.id), "{owners:?}");
    assert!(owners.values().all(|c| *c != ada.body["conversationId"]));
    let path = format!("/api/pool/instances/{}/destroy", first.spec.id);
    let answer = world.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!((answer.status, answer.body), (200, json!({"ok": true})));
    world.wait_gone(&first.spec.id).await;
    assert_eq!(sprite(&world, &first).await, Value::Null);
    finish(world).await;
}

/// Given back, it is destroyed and replaced, and in nobody's hands between.
async fn given_back_and_destroyed(world: &World, used: &AgentInstance) {
    let calls = async || -> u64 {
        let ledger = world.sim.ledger().await;
        let all = ledger["instances"].as_object().unwrap().values();
        let mine = all.filter(|i| i["service"] == *used.spec.provider_name);
        mine.filter_map(|i| i["claimCalls"].as_u64()).sum()
    };
    assert_eq!(calls().await, 1);
    let id = used.spec.id.as_str();
    let gone = until("it is gone", PATIENT, || async {
        let found = world.instance(id).await;
        let turn = found.as_ref().map(|i| i.spec.turn);
        assert!(
            turn.is_none_or(|t| t == 1),
            "ready for another user: {found:?}"
        );
        found.is_none().then_some(())
    });
    let (answer, ()) = tokio::join!(give_back(world, id), gone);
    assert_eq!(answer, (200, json!({"ok": true, "action": "destroyed"})));
    assert_eq!(calls().await, 1, "never handed out again");
    assert_eq!(sprite(world, used).await, Value::Null);
    let next = wait_idle(world, 1).await.remove(0);
    assert_ne!(next.spec.id, id);
}

/// acceptance: B12
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_for_good_ends_in_another_agent() {
    let world = start("restore-dead").await;
    pool(&world, json!({"maxTotal": 1, "onRelease": "Recycle"})).await;
    let first = wait_idle(&world, 1).await.remove(0);
    assert_eq!(world.claim("Ada").await.status, 200);
    let about = json!({"operation": "restore", "sprite": first.spec.provider_name});
    fault(&world, about, json!({"kind": "restore_dead"})).await;
    given_back_and_destroyed(&world, &first).await;
    assert_eq!(calls(&world, "restore").await.len(), 1);
    finish(world).await;
}

/// acceptance: B12
#[tokio::test(flavor = "multi_thread")]
async fn restored_and_not_ready_within_a_minute_it_is_destroyed() {
    let world = start("restore-mute").await;
    pool(&world, json!({"maxTotal": 1, "onRelease": "Recycle"})).await;
    let first = wait_idle(&world, 1).await.remove(0);
    assert_eq!(world.claim("Ada").await.status, 200);
    let host = first.status.as_ref().unwrap().url.clone().unwrap();
    let about = json!({"host": host.trim_start_matches("https://")});
    let never = json!({"match": about, "when": "always", "fault": {"kind": "neverReady"}});
    world.sim.fault("agents", never).await;
    let began = std::time::Instant::now();
    given_back_and_destroyed(&world, &first).await;
    assert!(began.elapsed().as_secs() >= 60, "{:?}", began.elapsed());
    assert_eq!(sprites_ever(&world).await.len(), 2);
    finish(world).await;
}

/// A key that was replaced meanwhile reaches the agent with the restore, whatever characters it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_recycled_agent_has_the_present_values_of_secrets() {
    let world = start("rotated").await;
    pool(&world, json!({"maxTotal": 1})).await;
    let first = wait_idle(&world, 1).await.remove(0);
    assert_eq!(world.claim("Ada").await.status, 200);
    let key = "new $HOME `id` \"key\"";
    world.secret("model", "key", key).await;
    assert_eq!(give_back(&world, &first.spec.id).await.0, 200);
    let again = wait_idle(&world, 1).await.remove(0);
    assert_eq!(again.spec.id, first.spec.id);
    let env = file(&world, &again, ENV).await.unwrap();
    assert_eq!(env, format!("ANTHROPIC_API_KEY='{key}'\n"));
    // And the process that serves it was started with it.
    let pid = sprite(&world, &again).await["gatewayPid"].as_u64().unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let given = format!("ANTHROPIC_API_KEY={key}");
    assert!(
        environment.split('\0').any(|v| v == given),
        "{environment:?}"
    );
    // So it is what its pool would build now, until they change again.
    until("the pool knows the present values", LONG, || async {
        let before = first.spec.template.secrets.as_deref().unwrap();
        let now = world.pool().await.status?.resolved.remove("secrets")?;
        (!now.contains(before)).then_some(())
    })
    .await;
    let drifted = async || {
        let again = world.instance(&first.spec.id).await.unwrap();
        let pool = world.pool().await;
        drift(&again, &Present::of_pool(&pool).unwrap())
    };
    assert_eq!(drifted().await, None);
    world.secret("model", "key", "newer").await;
    until("it has drifted", LONG, || async {
        (drifted().await == Some(Drift::Secrets)).then_some(())
    })
    .await;
    finish(world).await;
}
