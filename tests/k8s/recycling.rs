//! Agents that are given back and restored, on Sprites: in stock again, or destroyed and replaced.

mod kills;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::api::{DeleteParams, ListParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::chaos::PATIENT;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// The token that the simulator knows.
pub const SPRITES_TOKEN: &str = "quickstart/5eed00c1/5eed00c2/5eed0000-0000-4000-8000-0000000000c3";
/// Where a claim's instructions are, inside.
pub const INSTRUCTIONS: &str = ".openclaw/workspace/INSTRUCTIONS.md";

/// A pool on Sprites, by what differs from this.
pub fn spec(sprites: Value, change: Value) -> Value {
    let mut all = json!({"tokenSecretRef": {"name": "sprites", "key": "token"}});
    crate::support::world::merge(&mut all, &sprites);
    let mut spec = json!({
        "minIdle": 1, "maxTotal": 1, "tickIntervalSeconds": 1,
        "provider": {"railway": null, "sprites": all},
        "runtime": {"envProfile": null, "env": [{"name": "ANTHROPIC_API_KEY", "value": "sk-simulated"}]},
    });
    crate::support::world::merge(&mut spec, &change);
    spec
}

/// A world whose operator and simulator know Sprites; no pool yet.
pub async fn start(name: &str) -> World {
    let world = World::start(name).await;
    world.secret("sprites", "token", SPRITES_TOKEN).await;
    world
}

/// The same with a pool, filled.
pub async fn filled(name: &str, spec: Value) -> World {
    let world = start(name).await;
    let count = usize::try_from(spec["minIdle"].as_i64().unwrap()).unwrap();
    world.create_pool(POOL, spec).await;
    wait_idle(&world, count).await;
    world
}

/// Waits until so many are in stock.
pub async fn wait_idle(world: &World, count: usize) -> Vec<AgentInstance> {
    until(&format!("{count} in stock"), PATIENT, || async {
        let idle = world.in_phase(Phase::Idle).await;
        (idle.len() == count).then_some(idle)
    })
    .await
}

/// The simulator's view of an instance's sprite.
pub async fn sprite(world: &World, instance: &AgentInstance) -> Value {
    let state = world.sim.state("sprites").await;
    let all = state["sprites"].as_array().unwrap();
    let found = all
        .iter()
        .find(|s| s["name"] == *instance.spec.provider_name);
    found.cloned().unwrap_or_default()
}

/// What the ledger has of it.
pub async fn account(world: &World, instance: &AgentInstance) -> Value {
    let ledger = world.sim.ledger().await;
    let all = ledger["sprites"].as_object().unwrap();
    let found = all
        .values()
        .find(|s| s["name"] == *instance.spec.provider_name);
    found.cloned().unwrap_or_default()
}

/// All sprites that were ever made.
pub async fn sprites_ever(world: &World) -> Vec<Value> {
    let ledger = world.sim.ledger().await;
    let all = ledger["resources"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|r| r["kind"] == "sprite").collect()
}

/// A file of an agent's home directory.
pub async fn file(world: &World, instance: &AgentInstance, path: &str) -> Option<String> {
    let home = instance.status.as_ref()?.provider.as_ref()?.home.as_ref()?;
    let name = &instance.spec.provider_name;
    let url = format!(
        "http://{}/v1/sprites/{name}/fs/read?path={home}/{path}",
        world.sim.peers
    );
    let request = reqwest::Client::new().get(url).bearer_auth(SPRITES_TOKEN);
    let answer = request.send().await.unwrap();
    (answer.status() == 200).then_some(())?;
    answer.text().await.ok()
}

/// The token that a claim answered with.
pub async fn token_of(world: &World, id: &str) -> String {
    let answer = world.get("/api/pool/status?include=secrets").await;
    let all = answer.body["instances"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let row = all
        .iter()
        .find(|r| r["id"] == id)
        .cloned()
        .unwrap_or_default();
    let token = row["gatewayToken"].as_str().unwrap_or_default();
    assert!(!token.is_empty(), "{}", answer.text);
    token.to_owned()
}

pub async fn give_back(world: &World, id: &str) -> (u16, Value) {
    let path = format!("/api/pool/instances/{id}");
    let answer = world.call(Method::DELETE, &path, Value::Null).await;
    (answer.status, answer.body)
}

/// Everything deleted, and nothing left that is paid for.
pub async fn finish(world: World) {
    world.sim.heal("sprites").await;
    let (all, none) = (DeleteParams::default(), ListParams::default());
    world.pools().delete_collection(&all, &none).await.unwrap();
    world
        .instances()
        .delete_collection(&all, &none)
        .await
        .unwrap();
    until("every object is gone", PATIENT, || async {
        world.list().await.is_empty().then_some(())
    })
    .await;
    let left = sprites_ever(&world).await;
    let left: Vec<_> = left.iter().filter(|s| s["exists"] == true).collect();
    assert!(left.is_empty(), "left at the provider: {left:?}");
}

/// acceptance: A09, B06, B11, D11, D19, G18, J10, J14, J15
#[tokio::test(flavor = "multi_thread")]
async fn given_back_an_agent_is_restored_with_a_new_token_and_nothing_of_its_user() {
    let world = filled("recycled", spec(json!({}), json!({}))).await;
    let before = world.list().await.remove(0);
    let id = before.spec.id.clone();
    let provider = before.status.clone().unwrap().provider.unwrap();
    let checkpoint = provider.checkpoint_id.clone().expect("a checkpoint");
    let text = "Be \"kind\" to $HOME and `them`\nEOF\n'EOF'\n\\n ümläut 🦀\n";
    let request = json!({"agentName": "Ada", "instructions": text});
    let claimed = world.call(Method::POST, "/api/pool/claim", request).await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    assert_eq!(
        file(&world, &before, INSTRUCTIONS).await.as_deref(),
        Some(text)
    );
    let calls = world.sim.calls("agents").await;
    let made = calls.iter().find(|c| c["path"] == "/convos/conversation");
    let made = made.expect("the claim call");
    assert!(made["body"].get("instructions").is_none(), "{made}");
    let old = token_of(&world, &id).await;
    let url = before.status.clone().unwrap().url.unwrap();
    let asked = |token: String| {
        let (world, url) = (&world, url.clone());
        async move {
            world
                .agent(&url, "/convos/status", Some(&token))
                .await
                .status
        }
    };
    assert_eq!(asked(old.clone()).await, 200);

    let (status, body) = give_back(&world, &id).await;
    assert_eq!(
        (status, &body),
        (200, &json!({"ok": true, "action": "recycled"}))
    );
    let after = wait_idle(&world, 1).await.remove(0);
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(after.spec.provider_name, before.spec.provider_name);
    assert_eq!(
        (after.spec.turn, after.spec.claim, after.spec.release),
        (2, None, None)
    );
    let recorded = after.status.clone().unwrap();
    assert_eq!(
        (recorded.turn, recorded.claim, recorded.operation),
        (Some(2), None, None)
    );
    assert_eq!(recorded.token_seq, Some(2));
    let provider = recorded.provider.unwrap();
    assert_eq!(provider.checkpoint_id.as_deref(), Some(checkpoint.as_str()));
    // Restored from that checkpoint, and nothing made anew.
    let account = account(&world, &before).await;
    let restores = account["restores"].as_array().unwrap();
    assert_eq!(restores.len(), 1, "{account}");
    assert_eq!(restores[0]["checkpoint"], *checkpoint);
    assert_eq!(sprites_ever(&world).await.len(), 1);
    assert_eq!(file(&world, &before, INSTRUCTIONS).await, None);
    // Who had it is locked out.
    assert_eq!(asked(old.clone()).await, 401);

    let again = world.claim("Bob").await;
    assert_eq!(again.status, 200, "{}", again.text);
    assert_eq!(again.body["instanceId"], *id);
    assert_ne!(again.body["conversationId"], claimed.body["conversationId"]);
    let new = token_of(&world, &id).await;
    assert_ne!(new, old);
    assert_eq!((asked(new).await, asked(old).await), (200, 401));
    finish(world).await;
}

/// acceptance: B12, B16, D21, J16
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_is_destroyed_and_replaced() {
    let change = json!({"onRelease": "Recycle", "replacement": "ToMinIdle"});
    let world = filled("fallback", spec(json!({}), change)).await;
    type Break = fn(&str, &str) -> Value;
    let ways: [(&str, Break); 2] = [
        ("its checkpoint was replaced", |name, id| {
            let force = json!({"sprite": name, "replaceCheckpoint": id});
            json!({"force": [force]})
        }),
        ("its checkpoint is gone", |name, id| {
            let force = json!({"sprite": name, "deleteCheckpoint": id});
            json!({"force": [force]})
        }),
    ];
    for (n, (what, way)) in ways.into_iter().enumerate() {
        let before = wait_idle(&world, 1).await.remove(0);
        let (id, name) = (before.spec.id.clone(), before.spec.provider_name.clone());
        assert_eq!(world.claim("Ada").await.status, 200);
        let provider = before.status.unwrap().provider.unwrap();
        let checkpoint = provider.checkpoint_id.unwrap();
        world.sim.set("sprites", way(&name, &checkpoint)).await;
        let (status, body) = give_back(&world, &id).await;
        let destroyed = json!({"ok": true, "action": "destroyed"});
        assert_eq!((status, body), (200, destroyed), "{what}");
        until("it is gone", PATIENT, || async {
            world.instance(&id).await.is_none().then_some(())
        })
        .await;
        let other = wait_idle(&world, 1).await.remove(0);
        assert_ne!(other.spec.id, id, "{what}");
        let all = sprites_ever(&world).await;
        assert_eq!(all.len(), n + 2, "{what}");
        let old = all.iter().find(|s| s["name"] == *name).unwrap();
        assert_eq!(old["exists"], false, "{what}");
    }
    // Asked for, it is destroyed whatever the pool says.
    let last = wait_idle(&world, 1).await.remove(0);
    assert_eq!(world.claim("Bob").await.status, 200);
    let path = format!("/api/pool/instances/{}/destroy", last.spec.id);
    let answer = world.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    until("it is gone", LONG, || async {
        world.instance(&last.spec.id).await.is_none().then_some(())
    })
    .await;
    wait_idle(&world, 1).await;
    finish(world).await;
}

/// One creation for each claim is what a pool on Sprites wants by itself; none of its agents goes meanwhile.
/// acceptance: B22, J09, J11, J12, J13
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_on_sprites_starts_one_creation_by_default() {
    let world = filled(
        "one-each",
        spec(json!({}), json!({"minIdle": 1, "maxTotal": 5})),
    )
    .await;
    let pool = world.pool().await.status.unwrap();
    assert_eq!(pool.resolved["replacement"], "OneForOne");
    let first = world.claim("Ada").await;
    assert_eq!(first.status, 200, "{}", first.text);
    for key in ["instanceId", "conversationId", "inviteUrl"] {
        assert!(first.body[key].is_string(), "{}", first.text);
    }
    until("one more is made", PATIENT, || async {
        (sprites_ever(&world).await.len() == 2).then_some(())
    })
    .await;
    wait_idle(&world, 1).await;
    let id = first.body["instanceId"].as_str().unwrap();
    assert_eq!(give_back(&world, id).await.0, 200);
    wait_idle(&world, 2).await;
    let second = world.claim("Bob").await;
    assert_eq!(second.status, 200, "{}", second.text);
    until("two are idle beside the claimed one", PATIENT, || async {
        let all = world.list().await;
        let count = |phase| all.iter().filter(|i| phase_of(i) == phase).count();
        (count(Phase::Idle) == 2 && count(Phase::Claimed) == 1).then_some(())
    })
    .await;
    assert_eq!(sprites_ever(&world).await.len(), 3);
    finish(world).await;
}
