//! Agents that Railway builds from a repository.

use serde_json::{Value, json};

use super::{given, made_once, service};
use crate::support::world::{POOL, World};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn from_repository(environment: &str, change: Value) -> Value {
    let mut spec = json!({"minIdle": 1, "maxTotal": 2, "tickIntervalSeconds": 1, "environment": environment,
        "provider": {"railway": {"startCommand": null, "source": {"image": null,
            "repository": {"repo": "acme/agent", "branch": "next", "rootDirectory": "/runtime"}}}},
        "runtime": {"allowUnknownClean": true}});
    crate::support::world::merge(&mut spec, &change);
    spec
}

/// One deployment, of the branch that is set and not of the default branch, with every setting and variable in it.
///
/// acceptance: A06, A07, E10, E19, G13
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_built_once_from_its_branch_and_pushes_deploy_nothing() {
    let world = World::start("repository").await;
    let settings = json!({"timings": {"building": 4}, "heads": {"acme/agent#next": COMMIT}});
    world.sim.set("railway", settings).await;
    world
        .create_pool(POOL, from_repository("staging", json!({})))
        .await;
    let idle = world.wait_idle(1).await.remove(0);
    made_once(&world, 1).await;
    let record = service(&world, &idle).await;
    let source = json!({"image": null, "repo": "acme/agent", "branch": "next"});
    assert_eq!(record["source"], source);
    assert_eq!(record["instances"][0]["autoDeploy"], false, "{record}");
    let snapshot = &record["deployments"][0]["snapshot"];
    assert_eq!(snapshot["settings"]["rootDirectory"], "/runtime");
    assert_eq!(snapshot["commit"], COMMIT);
    let variables = given(&world, &idle).await;
    assert_eq!(variables["OPENCLAW_GIT_REF"], "staging");
    assert_eq!(variables["XMTP_ENV"], "dev");
    assert!(variables.contains_key("GATEWAY_AUTH_TOKEN"));

    let provider = idle.status.as_ref().unwrap().provider.as_ref().unwrap();
    assert_eq!(provider.source_branch.as_deref(), Some("next"));
    assert_eq!(provider.source_commit.as_deref(), Some(COMMIT));
    let answer = world.claim("Built").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let claimed = world.instance(&idle.spec.id).await.unwrap();
    let claim = claimed.status.unwrap().claim.unwrap();
    assert_eq!(claim.source_branch.as_deref(), Some("next"));
    let agents = world.get("/api/pool/agents").await;
    assert!(
        agents.text.contains("\"sourceBranch\":\"next\""),
        "{}",
        agents.text
    );
    world.finish().await;
}

/// acceptance: E10
#[tokio::test(flavor = "multi_thread")]
async fn the_git_ref_follows_the_environment_unless_it_is_set() {
    for (environment, set, want) in [("production", None, "main"), ("staging", Some("v9"), "v9")] {
        let world = World::start("git-ref").await;
        let env: Vec<Value> = set
            .map(|v| json!({"name": "OPENCLAW_GIT_REF", "value": v}))
            .into_iter()
            .collect();
        let change = json!({"runtime": {"env": env}, "provider": {"railway": {"volume": {}, "limits": {"cpuMillis": 2000}}}});
        world
            .create_pool(POOL, from_repository(environment, change))
            .await;
        let idle = world.wait_idle(1).await.remove(0);
        assert_eq!(given(&world, &idle).await["OPENCLAW_GIT_REF"], want);
        made_once(&world, 1).await;
        let limits = service(&world, &idle).await["instances"][0]["limits"].clone();
        assert_eq!(limits["containers"]["cpu"], 2.0);
        world.finish().await;
    }
}

/// What the predecessor's variables of the pool manager became: free variables of the pool, and the environment's
/// network. A gateway is told the network with the claim too.
///
/// acceptance: E05, E06, E23, E24
#[tokio::test(flavor = "multi_thread")]
async fn model_key_model_and_network_reach_the_service_and_the_network_the_claim() {
    for (environment, set, network) in [
        ("production", None, "production"),
        ("staging", None, "dev"),
        ("staging", Some("production"), "production"),
    ] {
        let world = World::start("network").await;
        world.secret("anthropic", "key", "sk-ant-simulated").await;
        let key = json!({"name": "ANTHROPIC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "anthropic", "key": "key"}}});
        let mut env = vec![
            key,
            json!({"name": "OPENCLAW_PRIMARY_MODEL", "value": "claude"}),
        ];
        env.extend(set.map(|v| json!({"name": "XMTP_ENV", "value": v})));
        let change = json!({"runtime": {"env": env}});
        world
            .create_pool(POOL, from_repository(environment, change))
            .await;
        let idle = world.wait_idle(1).await.remove(0);
        let variables = given(&world, &idle).await;
        assert_eq!(variables["ANTHROPIC_API_KEY"], "sk-ant-simulated");
        assert_eq!(variables["OPENCLAW_PRIMARY_MODEL"], "claude");
        assert_eq!(variables["XMTP_ENV"], network);
        assert_eq!(world.claim("Net").await.status, 200);
        let calls = world.sim.calls("agents").await;
        let made: Vec<_> = calls
            .iter()
            .filter(|c| c["path"] == "/convos/conversation" && c["method"] == "POST")
            .collect();
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(made[0]["body"]["env"], network, "{}", made[0]);
        world.finish().await;
    }
}
