//! What the operator does at Railway: one service, one domain, one deployment for each agent, and nothing else.

mod apart;
mod faults;
mod images;
mod own;
mod rename;
mod repository;
mod serial;
mod settings;
mod shared_token;
mod stuck;
mod tokens;
mod volumes;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use serde_json::{Value, json};

use crate::lifecycle::{host, millis, service_id};
use crate::support::operator::KEY;
use crate::support::simulator::{ENVIRONMENT, PROJECT, TOKEN};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// The image of the tests' pools.
const IMAGE: &str = "ghcr.io/xmtplabs/convos-runtime:0.3.4";
/// Their start command.
const COMMAND: &str = "node convos-platform/pool-server/dist/index.js";

/// Asserts that so many services were ever made, all live, each with one deployment and one domain.
pub async fn made_once(world: &World, count: usize) {
    let (ledger, state) = (
        world.sim.ledger().await,
        world.sim.state("railway").await["services"].clone(),
    );
    let ever = world.sim.services_ever().await;
    assert_eq!(ever.len(), count, "made: {ever:#?}");
    for service in ever {
        let id = service["id"].as_str().unwrap();
        assert_eq!(service["exists"], true, "{service}");
        let deployments = &ledger["deploymentsByService"][id];
        assert_eq!(
            deployments.as_array().map(Vec::len),
            Some(1),
            "deployments of {id}: {deployments}"
        );
        let shown = state.as_array().unwrap().iter().find(|s| s["id"] == id);
        let domains = &shown.unwrap()["domains"];
        assert_eq!(domains.as_array().map(Vec::len), Some(1), "{domains}");
    }
}

/// Railway's record of an instance's service.
async fn service(world: &World, instance: &AgentInstance) -> Value {
    let state = world.sim.state("railway").await;
    let services = state["services"].as_array().unwrap();
    let id = service_id(instance);
    services.iter().find(|s| s["id"] == id).unwrap().clone()
}

/// The variables in the snapshot of an instance's one deployment, without Railway's own.
async fn given(world: &World, instance: &AgentInstance) -> BTreeMap<String, String> {
    let service = service(world, instance).await;
    let deployments = service["deployments"].as_array().unwrap();
    assert_eq!(deployments.len(), 1);
    let all = deployments[0]["snapshot"]["variables"].as_object().unwrap();
    all.iter()
        .filter(|(name, _)| !name.starts_with("RAILWAY_"))
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

/// The notes of events with that reason.
pub fn events(world: &World, reason: &str) -> Vec<String> {
    let text = world.kubectl(&["get", "events", "-o", "json"]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let all = all["items"].as_array().unwrap().iter();
    let of = all.filter(|e| e["reason"] == reason);
    of.map(|e| e["message"].as_str().unwrap().to_owned())
        .collect()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// acceptance: A05, K01, K02, K04
#[tokio::test(flavor = "multi_thread")]
async fn one_service_one_domain_one_deployment_with_everything_in_it() {
    let world = World::start("creation").await;
    world
        .create_pool(POOL, json!({"minIdle": 3, "tickIntervalSeconds": 1}))
        .await;
    let idle = until("three idle", LONG, || async {
        let idle = world.in_phase(Phase::Idle).await;
        for instance in &idle {
            // Never in stock without an address that is the service's own.
            let domain = service(&world, instance).await["domains"][0].clone();
            assert_eq!(json!(host(instance)), domain);
        }
        (idle.len() == 3).then_some(idle)
    })
    .await;
    made_once(&world, 3).await;
    let calls = world.sim.calls("railway").await;
    let creations: Vec<_> = calls
        .iter()
        .filter(|c| c["operation"] == "RwServiceCreate")
        .collect();
    assert_eq!(creations.len(), 3);
    for creation in creations {
        assert_eq!(creation["fields"], json!(["serviceCreate"]));
        let input = &creation["variables"]["input"];
        assert_eq!(
            (&input["projectId"], &input["environmentId"]),
            (&json!(PROJECT), &json!(ENVIRONMENT))
        );
    }
    for instance in &idle {
        let made = service(&world, instance).await;
        assert_eq!(made["name"], instance.spec.provider_name);
        assert_eq!(made["projectId"], PROJECT);
        assert_eq!(made["instances"].as_array().map(Vec::len), Some(1));
        assert_eq!(made["instances"][0]["environmentId"], ENVIRONMENT);
        assert_eq!(made["source"]["image"], IMAGE);
        assert_eq!(made["startCommand"], COMMAND);
        // All of it was there when the one deployment was made.
        let snapshot = &made["deployments"][0]["snapshot"];
        assert_eq!(
            (&snapshot["image"], &snapshot["startCommand"]),
            (&json!(IMAGE), &json!(COMMAND))
        );
        assert_eq!(snapshot["variables"]["INSTANCE_ID"], instance.spec.id);
        let url = format!("https://{}", host(instance));
        let health = world.agent(&url, "/pool/health", None).await;
        assert_eq!(health.status, 200, "{}", health.text);
        assert_eq!(health.body["ready"], true);
    }
    world.finish().await;
}

/// acceptance: K03
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_the_variables_of_its_profile_and_no_others() {
    for profile in ["Minimal", "Legacy"] {
        let world = World::start(&profile.to_lowercase()).await;
        world.secret("extra", "value", "from a Secret").await;
        let env = json!([{"name": "OPENROUTER_API_KEY", "value": "sk-simulated"},
            {"name": "EXTRA", "valueFrom": {"secretKeyRef": {"name": "extra", "key": "value"}}},
            {"name": "EMPTY", "value": ""}]);
        let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "runtime": {"envProfile": profile, "env": env}});
        world.create_pool(POOL, spec).await;
        let idle = world.wait_idle(2).await;
        let mut secrets = BTreeSet::new();
        for instance in &idle {
            let mut all = given(&world, instance).await;
            let mut take = |name: &str| {
                all.remove(name)
                    .unwrap_or_else(|| panic!("{name}: {all:?}"))
            };
            let mark = take("AGENTPOOL_OWNER");
            let tail = format!("/{}/{}", &*world.namespace, instance.spec.id);
            assert!(mark.len() > tail.len() && mark.ends_with(&tail), "{mark}");
            let token = take("GATEWAY_TOKEN");
            assert!(is_hex(&token, 64), "{token}");
            assert_eq!(take("OPENCLAW_GATEWAY_TOKEN"), token);
            if profile == "Legacy" {
                assert_eq!(
                    take("POOL_API_KEY"),
                    token,
                    "the instance's token, not our key"
                );
                let password = take("SETUP_PASSWORD");
                let wallet = take("PRIVATE_WALLET_KEY");
                assert!(is_hex(&password, 32), "{password}");
                assert!(is_hex(wallet.strip_prefix("0x").unwrap(), 64), "{wallet}");
                secrets.extend([password, wallet]);
            }
            let mut left = BTreeMap::from([
                ("EXTRA", "from a Secret"),
                ("INSTANCE_ID", instance.spec.id.as_str()),
                ("OPENROUTER_API_KEY", "sk-simulated"),
                ("PORT", "8080"),
                ("XMTP_ENV", "dev"),
            ]);
            left.extend(match profile {
                "Legacy" => vec![
                    ("CHROMIUM_PATH", "/usr/bin/chromium"),
                    ("OPENCLAW_STATE_DIR", "/app"),
                ],
                _ => vec![
                    ("DEFAULT_AGENT_NAME", "Assistant"),
                    ("POOL_ENVIRONMENT", "staging"),
                    ("RUNTIME_TYPE", "openclaw"),
                    ("_RUNTIME_IMAGE", IMAGE),
                ],
            });
            let all: BTreeMap<&str, &str> = all.iter().map(|(k, v)| (&**k, &**v)).collect();
            assert_eq!(all, left, "{profile}");
            for value in all.values() {
                assert!(![TOKEN, KEY].contains(value), "a secret of ours leaves");
            }
            secrets.insert(token);
        }
        let expected = if profile == "Legacy" { 6 } else { 2 };
        assert_eq!(secrets.len(), expected, "each agent has its own");
        world.finish().await;
    }
}

/// acceptance: K06, K09
#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_are_waited_for_and_claimed() {
    for (dialect, recorded, polled, claimed) in [
        (
            "pool-server",
            "PoolServer",
            "/pool/health",
            "/pool/provision",
        ),
        (
            "gateway",
            "Gateway",
            "/convos/status",
            "/convos/conversation",
        ),
    ] {
        let world = World::start(dialect).await;
        let agents = json!({"defaultDialect": dialect, "defaults": {"boot": millis(2500)}});
        world.sim.set("agents", agents).await;
        world
            .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 600}))
            .await;
        // Its container runs and it is not ready: it is waited for.
        until("the agent boots", LONG, || async {
            let all = world.sim.state("agents").await["instances"].clone();
            let agent = all.as_object()?.values().next()?.clone();
            (agent["alive"] == true && agent["ready"] == false).then_some(())
        })
        .await;
        let booting = world.list().await.remove(0);
        assert_eq!(phase_of(&booting), Phase::Provisioning);
        let agents = world.sim.state("agents").await["instances"].clone();
        assert_eq!(
            agents.as_object().unwrap().values().next().unwrap()["ready"],
            false
        );
        let idle = world.wait_idle(1).await.remove(0);
        assert_eq!(idle.spec.id, booting.spec.id);
        let calls = world.sim.calls("agents").await;
        assert!(calls.iter().any(|c| c["path"] == polled), "{calls:#?}");
        let agent = world.sim.state("agents").await["instances"][host(&idle)].clone();
        assert_eq!(
            (&agent["ready"], &agent["bound"]),
            (&json!(true), &Value::Null)
        );
        let runtime = idle.status.as_ref().unwrap().runtime.clone().unwrap();
        assert_eq!(runtime.dialect.as_deref(), Some(recorded));

        let answer = world.claim("Tokyo Trip").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let posts: Vec<_> = world
            .sim
            .calls("agents")
            .await
            .into_iter()
            .filter(|c| c["method"] == "POST")
            .collect();
        assert_eq!(posts.len(), 1, "{posts:#?}");
        assert_eq!(
            (&posts[0]["path"], &posts[0]["host"]),
            (&json!(claimed), &json!(host(&idle)))
        );
        let agent = world.sim.state("agents").await["instances"][host(&idle)].clone();
        assert_eq!(agent["bound"], answer.body["conversationId"]);
        world.finish().await;
    }
}

/// acceptance: K07
#[tokio::test(flavor = "multi_thread")]
async fn deleting_leaves_nothing_at_railway() {
    let spec = json!({"minIdle": 3, "tickIntervalSeconds": 1});
    let mut world = World::with_pool("deleted", spec).await;
    let answer = world.claim("Tokyo Trip").await;
    let claimed = answer.body["instanceId"].as_str().unwrap().to_owned();
    world.wait_idle(3).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    let all = world.list().await;
    for instance in &all {
        world.delete(&instance.spec.id).await;
    }
    for instance in &all {
        world.wait_gone(&instance.spec.id).await;
        // An object that is gone has nothing left: not later, then.
        let id = service_id(instance);
        let live = world.sim.live_services().await;
        assert!(live.iter().all(|s| s["id"] != id), "{live:?}");
    }
    assert!(all.iter().any(|i| i.spec.id == claimed));
    let ledger = world.sim.ledger().await;
    let resources = ledger["resources"].as_array().unwrap();
    assert_eq!(
        resources.iter().filter(|r| r["kind"] == "service").count(),
        4
    );
    for resource in resources.iter().filter(|r| r["kind"] != "project") {
        assert_eq!(resource["exists"], false, "{resource}");
        assert!(resource["deletedAt"].is_string(), "{resource}");
    }
    let state = world.sim.state("railway").await;
    assert_eq!(
        (&state["services"], &state["volumes"]),
        (&json!([]), &json!([]))
    );
    // What they cost is told: six requests each, and the rename where it came in time. On a busy machine one may be looked
    // for once more before it is gone.
    let text = format!("{}/metrics", world.operator().operations);
    let text = reqwest::get(&text).await.unwrap().text().await.unwrap();
    let metric = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{name} in {text}"));
        line.trim().parse::<f64>().unwrap()
    };
    assert_eq!(metric("agentpool_instance_provider_requests_count "), 4.0);
    let sum = metric("agentpool_instance_provider_requests_sum ");
    assert!((24.0..=28.0).contains(&sum), "{sum}");
    let of = |purpose: &str| {
        let labels = format!("{{provider=\"railway\",purpose=\"{purpose}\"}} ");
        metric(&format!("agentpool_provider_requests_total{labels}"))
    };
    assert_eq!(of("release"), 3.0, "the one that somebody had");
    assert_eq!(of("finish"), 8.0, "domain and deployment of each");
    world.finish().await;
}

/// acceptance: C02, K08
#[tokio::test(flavor = "multi_thread")]
async fn one_listing_per_tick_however_many_instances() {
    let world = World::with_pool("listing", json!({"minIdle": 2, "tickIntervalSeconds": 2})).await;
    for count in [2, 8] {
        world.patch_pool(json!({"minIdle": count})).await;
        world.wait_idle(count).await;
        world.wait_ready().await;
        crate::lifecycle::ticks(&world, 2).await;
        let seen = world.sim.calls("railway").await.len();
        crate::lifecycle::ticks(&world, 4).await;
        let calls = world.sim.calls("railway").await.split_off(seen);
        for call in &calls {
            assert_eq!(
                call["operation"], "RwFleet",
                "nothing else is asked: {call}"
            );
            assert_eq!(call["variables"]["environmentId"], ENVIRONMENT);
        }
        let times: Vec<i64> = calls.iter().map(crate::lifecycle::at).collect();
        assert!(times.len() >= 4);
        for pair in times.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(
                (1900..3500).contains(&gap),
                "{count} instances: listed after {gap} ms"
            );
        }
        // What the listing says of each is what its object says.
        for instance in world.in_phase(Phase::Idle).await {
            let provider = instance.status.unwrap().provider.unwrap();
            assert_eq!(provider.deploy_status.as_deref(), Some("SUCCESS"));
        }
    }
    world.finish().await;
}
