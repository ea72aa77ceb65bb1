//! Agents on Sprites: built in recorded steps, proven clean, put into a checkpoint, handed out, and removed without a trace.

mod built;
mod failing;
mod report;
mod restored;
mod script;

use std::collections::BTreeSet;
use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use reqwest::Method;
use serde_json::{Value, json};

use crate::chaos::PATIENT;
use crate::recycling::{
    INSTRUCTIONS, SPRITES_TOKEN, file, finish, spec, sprite, sprites_ever, start, wait_idle,
};
use crate::support::wait::{holds, until};
use crate::support::world::{POOL, World, merge};

/// The model key that the agents are given, from the Secret `model`.
const KEY: &str = "sk-ant-canary-1";
/// The configuration of an agent, inside.
const CONFIG: &str = ".openclaw/openclaw.json";
/// Its variables.
const ENV: &str = ".openclaw/.env";

/// A pool on Sprites that needs one agent, with `change` merged over it.
async fn pool(world: &World, change: Value) {
    world.secret("model", "key", KEY).await;
    let from = json!({"secretKeyRef": {"name": "model", "key": "key"}});
    let env = json!([{"name": "ANTHROPIC_API_KEY", "value": null, "valueFrom": from}]);
    let mut full = spec(json!({}), json!({"maxTotal": 3, "runtime": {"env": env}}));
    merge(&mut full, &change);
    world.create_pool(POOL, full).await;
}

/// How the simulator's Sprites were called for an operation, oldest first.
async fn calls(world: &World, operation: &str) -> Vec<Value> {
    let calls = world.sim.calls("sprites").await;
    let of = |c: &Value| c["operation"] == operation;
    calls.into_iter().filter(of).collect()
}

async fn force(world: &World, name: &str, change: Value) {
    let mut all = json!({"sprite": name});
    merge(&mut all, &change);
    world.sim.set("sprites", json!({"force": [all]})).await;
}

/// Arms a fault of Sprites for an operation.
async fn fault(world: &World, matches: Value, fault: Value) {
    let rule = json!({"match": matches, "fault": fault});
    world.sim.fault("sprites", rule).await;
}

/// The configuration as the agent has it.
async fn config(world: &World, instance: &AgentInstance) -> Value {
    let text = file(world, instance, CONFIG).await.unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// The sprites that are there.
async fn sprites_now(world: &World) -> Vec<Value> {
    let all = sprites_ever(world).await.into_iter();
    all.filter(|s| s["exists"] == true).collect()
}

async fn wait_created(world: &World, count: usize) {
    until(&format!("{count} were made"), PATIENT, || async {
        (sprites_ever(world).await.len() >= count).then_some(())
    })
    .await;
}

/// A wrong token is a condition: nothing is created with it. One that is refused later destroys nothing.
/// acceptance: E04
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_a_condition_and_nothing_else() {
    let mut world = start("sprites-token").await;
    world
        .secret("sprites", "token", "quickstart/wrong/wrong/wrong")
        .await;
    pool(&world, json!({})).await;
    let reachable = |want: &'static str| {
        let world = &world;
        async move {
            until(&format!("ProviderReachable is {want}"), PATIENT, || async {
                let (status, reason, _) = world.pool_condition("ProviderReachable").await?;
                (status == want).then_some(reason)
            })
            .await
        }
    };
    assert_eq!(reachable("False").await, "CredentialsInvalid");
    assert!(world.list().await.is_empty() && sprites_ever(&world).await.is_empty());
    let yaml = world.kubectl(&["get", "agentpools", "-o", "yaml"]);
    assert!(!yaml.contains("quickstart/wrong"), "{yaml}");
    world.secret("sprites", "token", SPRITES_TOKEN).await;
    let idle = wait_idle(&world, 1).await.remove(0);

    let revoked = json!({"token": SPRITES_TOKEN, "organization": "quickstart", "revoked": true});
    world.sim.set("sprites", json!({"tokens": [revoked]})).await;
    assert_eq!(reachable("False").await, "CredentialsInvalid");
    holds("nothing is destroyed", Duration::from_secs(4), || async {
        let kept = world.in_phase(Phase::Idle).await;
        kept.len() == 1
            && kept[0].metadata.uid == idle.metadata.uid
            && sprites_now(&world).await.len() == 1
    })
    .await;
    // Rotated: the new one is used at once.
    let rotated = "quickstart/5eed00c1/5eed00c2/rotated";
    let known = json!({"token": rotated, "organization": "quickstart"});
    world.sim.set("sprites", json!({"tokens": [known]})).await;
    world.secret("sprites", "token", rotated).await;
    assert_eq!(reachable("True").await, "Reachable");
    assert!(world.operator().runs(), "no crash");
    assert_eq!(world.claim("Ada").await.status, 200);
    finish(world).await;
}

/// Nothing but the routes of a gateway, no wrapper; the instructions go into the machine before, and one call is made.
/// acceptance: A10
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_writes_its_instructions_and_calls_the_gateway_once() {
    let world = start("sprites-claim").await;
    pool(&world, json!({"minIdle": 2, "replacement": "ToMinIdle"})).await;
    let idle = wait_idle(&world, 2).await;
    // Asleep without their memory: the claim itself wakes one.
    for one in &idle {
        force(&world, &one.spec.provider_name, json!({"state": "cold"})).await;
    }
    let text = "Don't say \"$HOME\" or `id`.\nEOF\n'EOF'\nZażółć gęślą jaźń 🦞\n";
    let body = json!({"agentName": "Ada", "instructions": text});
    let answer = world.call(Method::POST, "/api/pool/claim", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for key in ["inviteUrl", "conversationId", "gatewayUrl", "gatewayToken"] {
        assert!(answer.body[key].is_string(), "{key}: {}", answer.text);
    }
    let id = answer.body["instanceId"].as_str().unwrap();
    let claimed = world.instance(id).await.unwrap();
    let written = file(&world, &claimed, INSTRUCTIONS).await;
    assert_eq!(written.as_deref(), Some(text));
    let recorded = claimed.status.unwrap().claim.unwrap();
    assert_eq!(
        recorded.conversation_id.as_deref(),
        answer.body["conversationId"].as_str()
    );
    // The other one joins.
    let link = "https://dev.convos.org/v2?i=abc";
    let body = json!({"agentName": "Bob", "instructions": "Be kind.", "joinUrl": link});
    let joined = world.call(Method::POST, "/api/pool/claim", body).await;
    assert_eq!(joined.status, 200, "{}", joined.text);

    let calls = world.sim.calls("agents").await;
    let paths: BTreeSet<(&str, &str)> = calls
        .iter()
        .map(|c| (c["method"].as_str().unwrap(), c["path"].as_str().unwrap()))
        .collect();
    let known = BTreeSet::from([
        ("POST", "/convos/conversation"),
        ("POST", "/convos/join"),
        ("GET", "/convos/status"),
        ("GET", "/pool/health"),
    ]);
    assert!(paths.is_subset(&known), "{paths:?}");
    for path in ["/convos/conversation", "/convos/join"] {
        let made: Vec<&Value> = calls.iter().filter(|c| c["path"] == path).collect();
        assert_eq!(made.len(), 1, "{made:?}");
        assert!(made[0]["body"].get("instructions").is_none(), "{}", made[0]);
        assert_eq!(made[0]["body"]["env"], "dev");
    }
    finish(world).await;
}

/// Somebody else removes it in the very moment: 404 is what was wanted.
/// acceptance: J17
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_already_is_deleted_and_replaced() {
    let world = start("sprites-gone").await;
    pool(&world, json!({})).await;
    let first = wait_idle(&world, 1).await.remove(0);
    let about = json!({"operation": "delete", "sprite": first.spec.provider_name});
    fault(&world, about, json!({"kind": "gone"})).await;
    world.delete(&first.spec.id).await;
    world.wait_gone(&first.spec.id).await;
    let deletes = calls(&world, "delete").await;
    assert_eq!(deletes.len(), 1, "{deletes:?}");
    assert_eq!(deletes[0]["status"], 404);
    let second = wait_idle(&world, 1).await.remove(0);
    assert_ne!(second.spec.id, first.spec.id);
    // And one that nobody finds at all: nothing is sent.
    force(&world, &second.spec.provider_name, json!({"delete": true})).await;
    let path = format!("/api/pool/instances/{}/destroy", second.spec.id);
    let answer = world.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    world.wait_gone(&second.spec.id).await;
    assert_eq!(calls(&world, "delete").await.len(), 1);
    wait_idle(&world, 1).await;
    finish(world).await;
}
