//! Agents on Sprites: built in recorded steps, proven clean, put into a checkpoint, and removed without a trace.

use std::collections::BTreeSet;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use reqwest::Method;
use serde_json::{Value, json};

use crate::chaos::PATIENT;
use crate::recycling::{finish, spec, sprite, start, wait_idle};
use crate::support::wait::until;
use crate::support::world::{POOL, World, merge};

/// The token that the simulator knows.
const TOKEN: &str = "quickstart/5eed00c1/5eed00c2/5eed0000-0000-4000-8000-0000000000c3";
/// The model key that the agents are given.
const KEY: &str = "sk-ant-sprites-1";
/// The script that the operator brings along.
const BUILT_IN: &str = include_str!("../../src/provider/sprites/setup.sh");

/// A pool on Sprites that needs one agent, with `change` merged over it.
async fn pool(world: &World, change: Value) {
    let env = json!([{"name": "ANTHROPIC_API_KEY", "value": KEY}]);
    let mut full = spec(json!({}), json!({"maxTotal": 3, "runtime": {"env": env}}));
    merge(&mut full, &change);
    world.create_pool(POOL, full).await;
}

/// A file inside, as it is; empty where there is none. Wakes the sprite.
async fn file(world: &World, instance: &AgentInstance, path: &str) -> String {
    let url = format!(
        "http://{}/v1/sprites/{}/fs/read",
        world.sim.peers, instance.spec.provider_name
    );
    let query = [("path", format!("/home/sprite/{path}"))];
    let request = reqwest::Client::new()
        .get(url)
        .query(&query)
        .bearer_auth(TOKEN);
    let answer = request.send().await.unwrap();
    match answer.status().as_u16() {
        200 => answer.text().await.unwrap(),
        404 => String::new(),
        other => panic!("{other}"),
    }
}

/// How the simulator's Sprites were called: `POST sprites` and the like, oldest first.
async fn calls(world: &World, operation: &str) -> Vec<Value> {
    let calls = world.sim.calls("sprites").await;
    calls
        .into_iter()
        .filter(|c| c["operation"] == operation)
        .collect()
}

async fn force(world: &World, name: &str, change: Value) {
    let mut all = json!({"sprite": name});
    merge(&mut all, &change);
    world.sim.set("sprites", json!({"force": [all]})).await;
}

/// acceptance: A07, B09, E05, J01, J02, J03, J04, J05, J06, J07, J08
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_stock_was_built_proven_and_put_into_a_checkpoint() {
    let world = start("sprites").await;
    pool(&world, json!({})).await;
    let idle = wait_idle(&world, 1).await.remove(0);
    let provider = idle.status.as_ref().unwrap().provider.clone().unwrap();
    let made = sprite(&world, &idle).await;

    let name = idle.spec.provider_name.as_str();
    assert_eq!(name, format!("convos-agent-stg-{}", idle.spec.id));
    let labels: Vec<&str> = made["labels"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        labels.contains(&format!("agentpool-owner-{}", idle.spec.id).as_str()),
        "{labels:?}"
    );
    assert!(
        labels.iter().any(|l| l.starts_with("agentpool-cluster-")),
        "{labels:?}"
    );
    assert_eq!(calls(&world, "create").await.len(), 1);
    assert_eq!(made["url_settings"]["auth"], "public");
    assert_eq!(
        (
            provider.id.as_deref(),
            idle.status.as_ref().unwrap().url.as_deref()
        ),
        (made["id"].as_str(), made["url"].as_str())
    );

    // One checkpoint, of ours, after ready and clean and before stock; recorded.
    let taken = made["checkpoints"].as_array().unwrap();
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken[0]["comment"].as_str().unwrap().starts_with("golden"));
    assert_eq!(provider.checkpoint_id.as_deref(), taken[0]["id"].as_str());
    assert!(provider.checkpoint_time.is_some());
    let operations: Vec<Value> = world.sim.calls("sprites").await;
    let at = |operation: &str| {
        operations
            .iter()
            .rposition(|c| c["operation"] == operation)
            .unwrap_or(usize::MAX)
    };
    assert!(at("putService") < at("checkpoint") && at("fsWrite") < at("checkpoint"));

    // The files and services that the contract names.
    let env = file(&world, &idle, ".openclaw/.env").await;
    assert_eq!(env, format!("ANTHROPIC_API_KEY={KEY}\n"));
    let config: Value =
        serde_json::from_str(&file(&world, &idle, ".openclaw/openclaw.json").await).unwrap();
    let token = config["gateway"]["auth"]["token"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    assert_eq!(config["channels"]["convos"]["poolApiKey"], token);
    assert_eq!(config["gateway"]["reload"]["mode"], "off");
    let services = made["services"].as_object().unwrap();
    assert_eq!(services["gateway"]["definition"]["http_port"], 8080);
    assert!(
        services["gateway"]["definition"]["args"][1]
            .as_str()
            .unwrap()
            .contains("gateway run --port 8080")
    );
    assert!(services.contains_key("hold"));
    // The runtime was built from the environment's branch.
    let runner = file(&world, &idle, ".agentpool/setup/run.sh").await;
    assert!(runner.contains("OPENCLAW_GIT_REF='staging'"), "{runner}");
    assert_eq!(
        file(&world, &idle, "openclaw/.git/sim-ref").await.trim(),
        "staging"
    );
    finish(world).await;
}

/// acceptance: E06, E10
#[tokio::test(flavor = "multi_thread")]
async fn branch_and_network_follow_the_environment_and_an_override_wins() {
    let world = start("sprites-env").await;
    let over = json!({"runtime": {"env": [{"name": "XMTP_ENV", "value": "dev"}]},
        "provider": {"sprites": {"source": {"git": {"ref": "v1.2"}}}}});
    let seen = async |instance: &AgentInstance| {
        let config: Value =
            serde_json::from_str(&file(&world, instance, ".openclaw/openclaw.json").await).unwrap();
        let branch = file(&world, instance, "openclaw/.git/sim-ref").await;
        (
            branch.trim().to_owned(),
            config["channels"]["convos"]["env"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    };
    let production = json!({"environment": "production"});
    let mut overridden = production.clone();
    merge(&mut overridden, &over);
    for (spec, want) in [
        (production, ("main", "production")),
        (overridden, ("v1.2", "dev")),
    ] {
        pool(&world, spec).await;
        let idle = wait_idle(&world, 1).await.remove(0);
        let (branch, network) = seen(&idle).await;
        assert_eq!((branch.as_str(), network.as_str()), want);
        world
            .pools()
            .delete(POOL, &Default::default())
            .await
            .unwrap();
        world.wait_gone(&idle.spec.id).await;
        until("the pool is gone", PATIENT, || async {
            world
                .pools()
                .get_opt(POOL)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    }
    finish(world).await;
}

/// acceptance: B10, J06
#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_left_is_never_put_into_a_checkpoint() {
    let world = start("sprites-dirty").await;
    // A set-up that leaves an identity behind.
    let script =
        format!("{BUILT_IN}\n# agentpool:slice leak\nmkdir -p \"$HOME/.convos/identities\"\n");
    let map = json!({"metadata": {"name": "own"}, "data": {"setup.sh": script}});
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &world.namespace);
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let own = json!({"provider": {"sprites": {"setup": {"scriptConfigMapRef": {"name": "own"}}}}});
    pool(&world, own).await;
    // Removed and made anew, and the pool's breaker counts.
    until("a second one was made", PATIENT, || async {
        (calls(&world, "create").await.len() >= 2).then_some(())
    })
    .await;
    assert!(world.in_phase(Phase::Idle).await.is_empty());
    assert!(
        calls(&world, "checkpoint").await.is_empty(),
        "a checkpoint of a dirty agent"
    );
    assert!(!calls(&world, "delete").await.is_empty());
    let breaker = world.pool().await.status.unwrap().breaker.unwrap();
    assert!(breaker.failures >= 1);
    // With a clean script of its own it fills.
    maps.delete("own", &Default::default()).await.unwrap();
    let clean = json!({"metadata": {"name": "own"}, "data": {"setup.sh": BUILT_IN}});
    let clean: ConfigMap = serde_json::from_value(clean).unwrap();
    maps.create(&PostParams::default(), &clean).await.unwrap();
    world
        .patch_pool(json!({"circuitBreaker": {"failures": 100, "backoffSeconds": 1}}))
        .await;
    wait_idle(&world, 1).await;
    finish(world).await;
}

/// acceptance: E04
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_told_and_no_loop() {
    let mut world = start("sprites-token").await;
    world
        .secret("sprites", "token", "quickstart/wrong/wrong/wrong")
        .await;
    pool(&world, json!({})).await;
    until(
        "the pool says that its token is refused",
        PATIENT,
        || async {
            let (status, reason, _) = world.pool_condition("ProviderReachable").await?;
            (status == "False" && reason == "CredentialsInvalid").then_some(())
        },
    )
    .await;
    assert!(
        world.list().await.is_empty(),
        "nothing is created with a token that is refused"
    );
    assert!(world.operator().runs());
    world.secret("sprites", "token", TOKEN).await;
    wait_idle(&world, 1).await;
    finish(world).await;
}

/// acceptance: A10
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_writes_its_instructions_and_calls_the_gateway_once() {
    let world = start("sprites-claim").await;
    pool(&world, json!({})).await;
    let idle = wait_idle(&world, 1).await.remove(0);
    // Asleep without its memory: the claim itself wakes it.
    force(&world, &idle.spec.provider_name, json!({"state": "cold"})).await;
    let text = "Don't say \"$HOME\" or `id`.\nEOF\n'EOF'\nZażółć gęślą jaźń 🦞\n";
    let body = json!({"agentName": "Ada", "instructions": text});
    let answer = world.call(Method::POST, "/api/pool/claim", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["instanceId"], idle.spec.id.as_str());
    assert!(
        answer.body["inviteUrl"].as_str().is_some(),
        "{}",
        answer.text
    );
    assert_eq!(
        file(&world, &idle, ".openclaw/workspace/INSTRUCTIONS.md").await,
        text
    );
    // Nothing but the routes of a gateway, and one call that makes a conversation, without the instructions.
    let calls = world.sim.calls("agents").await;
    let paths: BTreeSet<&str> = calls.iter().filter_map(|c| c["path"].as_str()).collect();
    let known = [
        "/convos/conversation",
        "/convos/join",
        "/convos/status",
        "/pool/health",
    ];
    assert!(paths.iter().all(|p| known.contains(p)), "{paths:?}");
    let made: Vec<&Value> = calls
        .iter()
        .filter(|c| c["path"] == "/convos/conversation")
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert!(made[0]["body"].get("instructions").is_none(), "{}", made[0]);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0);
    let recorded = claimed.status.unwrap().claim.unwrap();
    assert_eq!(
        recorded.conversation_id.as_deref(),
        answer.body["conversationId"].as_str()
    );
    finish(world).await;
}

/// acceptance: A03
#[tokio::test(flavor = "multi_thread")]
async fn a_released_agent_is_restored_for_the_next_user_and_destroyed_on_request() {
    let world = start("sprites-recycle").await;
    pool(&world, json!({"maxTotal": 1})).await;
    let first = wait_idle(&world, 1).await.remove(0);
    let token = async |instance: &AgentInstance| {
        let config: Value =
            serde_json::from_str(&file(&world, instance, ".openclaw/openclaw.json").await).unwrap();
        config["gateway"]["auth"]["token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let before = token(&first).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    let path = format!("/api/pool/instances/{}", first.spec.id);
    let answer = world.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let again = wait_idle(&world, 1).await.remove(0);
    assert_eq!(
        (&again.spec.id, &again.spec.provider_name),
        (&first.spec.id, &first.spec.provider_name)
    );
    assert!(again.spec.claim.is_none() && again.spec.release.is_none());
    assert!(again.status.as_ref().unwrap().claim.is_none());
    assert_eq!(again.spec.turn, first.spec.turn + 1);
    let restores = calls(&world, "restore").await;
    assert_eq!(restores.len(), 1);
    let id = again
        .status
        .as_ref()
        .unwrap()
        .provider
        .as_ref()
        .unwrap()
        .checkpoint_id
        .clone()
        .unwrap();
    assert!(
        restores[0]["path"]
            .as_str()
            .unwrap()
            .contains(&format!("/checkpoints/{id}/restore"))
    );
    assert_eq!(
        calls(&world, "create").await.len(),
        1,
        "restored, not made anew"
    );
    assert_ne!(token(&again).await, before, "the last user is locked out");
    assert_eq!(
        file(&world, &again, ".openclaw/workspace/INSTRUCTIONS.md").await,
        ""
    );
    // A second user gets it, in a conversation of its own.
    let second = world.claim("Bob").await;
    assert_eq!(second.status, 200, "{}", second.text);
    let path = format!("/api/pool/instances/{}/destroy", first.spec.id);
    let answer = world.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    world.wait_gone(&first.spec.id).await;
    let fresh = wait_idle(&world, 1).await.remove(0);
    assert_ne!(fresh.spec.id, first.spec.id);
    finish(world).await;
}

/// acceptance: J17
#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_else_removed_is_gone_without_ado_and_replaced() {
    let world = start("sprites-gone").await;
    pool(&world, json!({})).await;
    let first = wait_idle(&world, 1).await.remove(0);
    force(&world, &first.spec.provider_name, json!({"delete": true})).await;
    // Whoever is first, the sweep or this user: 404 is what was wanted.
    world.delete(&first.spec.id).await;
    world.wait_gone(&first.spec.id).await;
    let second = wait_idle(&world, 1).await.remove(0);
    assert_ne!(second.spec.id, first.spec.id);
    finish(world).await;
}
