//! What an agent in stock was built of.

use super::*;

/// A file as the provider lists it.
async fn listed(world: &World, instance: &AgentInstance, path: &str) -> Value {
    let name = &instance.spec.provider_name;
    let url = format!(
        "http://{}/v1/sprites/{name}/fs/list?path=/home/sprite/{path}",
        world.sim.peers
    );
    let request = reqwest::Client::new().get(url).bearer_auth(SPRITES_TOKEN);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["entries"][0].clone()
}

/// acceptance: A07, B09, E05, J01, J03, J04, J06, J07, J08
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_stock_was_built_proven_and_put_into_a_checkpoint() {
    let world = start("sprites").await;
    pool(&world, json!({})).await;
    let idle = wait_idle(&world, 1).await.remove(0);
    let status = idle.status.clone().unwrap();
    let provider = status.provider.clone().unwrap();
    let made = sprite(&world, &idle).await;

    // Made once, under its name, with its mark and its address open.
    let name = idle.spec.provider_name.as_str();
    assert_eq!(name, format!("convos-agent-stg-{}", idle.spec.id));
    let creates = calls(&world, "create").await;
    assert_eq!(creates.len(), 1);
    let sent = &creates[0]["body"];
    assert_eq!(
        (&sent["name"], &sent["url_settings"]["auth"]),
        (&json!(name), &json!("public"))
    );
    assert_eq!(sent["labels"], made["labels"]);
    let labels: Vec<&str> = made["labels"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let owner = format!("agentpool-owner-{}", idle.spec.id);
    assert!(labels.contains(&owner.as_str()), "{labels:?}");
    assert!(
        labels.iter().any(|l| l.starts_with("agentpool-cluster-")),
        "{labels:?}"
    );
    assert_eq!(provider.id.as_deref(), made["id"].as_str());
    assert_eq!(status.url.as_deref(), made["url"].as_str());

    // One checkpoint, of ours, of the clean state; recorded before it was in stock.
    let taken = made["checkpoints"].as_array().unwrap();
    assert_eq!(taken.len(), 1, "{taken:?}");
    let comment = taken[0]["comment"].as_str().unwrap();
    assert!(
        comment.starts_with(&format!("golden/{}/", idle.spec.id)),
        "{comment}"
    );
    assert_eq!(provider.checkpoint_id.as_deref(), taken[0]["id"].as_str());
    assert_eq!(
        provider.checkpoint_time.as_deref(),
        taken[0]["create_time"].as_str()
    );
    let all = world.sim.calls("sprites").await;
    let last = |operation: &str| all.iter().rposition(|c| c["operation"] == operation);
    let checkpoint = last("checkpoint").unwrap();
    assert!(last("putService").unwrap() < checkpoint && last("fsWrite").unwrap() < checkpoint);
    let asked = world.sim.calls("agents").await;
    let ready = asked
        .iter()
        .find(|c| c["path"] == "/convos/status" && c["status"] == 200);
    let at = |call: &Value| -> jiff::Timestamp { call["time"].as_str().unwrap().parse().unwrap() };
    assert!(
        at(ready.unwrap()) < at(&all[checkpoint]),
        "ready, and then the checkpoint"
    );

    // The files, readable by their user alone, and the services that the contract names.
    let env = file(&world, &idle, ENV).await.unwrap();
    assert_eq!(env, format!("ANTHROPIC_API_KEY={KEY}\n"));
    let config = config(&world, &idle).await;
    let token = config["gateway"]["auth"]["token"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    assert_eq!(
        config["channels"]["convos"],
        json!({"enabled": true, "env": "dev", "poolApiKey": token})
    );
    assert_eq!(config["gateway"]["reload"]["mode"], "off");
    for path in [CONFIG, ENV] {
        assert_eq!(listed(&world, &idle, path).await["mode"], "0600", "{path}");
    }
    let gateway = &made["services"]["gateway"];
    assert_eq!(gateway["status"], "running");
    assert_eq!(gateway["definition"]["http_port"], 8080);
    let command = gateway["definition"]["args"][1].as_str().unwrap();
    assert!(command.contains("gateway run --port 8080"), "{command}");
    assert_eq!(made["services"]["hold"]["status"], "running");

    // Built from the environment's branch, with the dependency of its extensions loosened.
    let runner = file(&world, &idle, ".agentpool/setup/run.sh")
        .await
        .unwrap();
    assert!(runner.contains("OPENCLAW_GIT_REF='staging'"), "{runner}");
    let cloned = file(&world, &idle, "openclaw/.git/sim-ref").await.unwrap();
    assert_eq!(cloned.trim(), "staging");
    for secret in [SPRITES_TOKEN, KEY, token] {
        let objects = world.kubectl(&["get", "agentpools,agentinstances,events", "-o", "yaml"]);
        assert!(!objects.contains(secret));
        let lines = all
            .iter()
            .all(|c| !c["path"].as_str().unwrap().contains(secret));
        assert!(lines, "a secret in an address");
    }
    finish(world).await;
}

/// acceptance: A07, E06, E10
#[tokio::test(flavor = "multi_thread")]
async fn branch_and_network_follow_the_environment_and_an_override_wins() {
    let world = start("sprites-env").await;
    let over = json!({"runtime": {"env": [{"name": "XMTP_ENV", "value": "dev"}]},
        "provider": {"sprites": {"source": {"git": {"ref": "v1.2"}}}}});
    let production = json!({"environment": "production"});
    let mut overridden = production.clone();
    merge(&mut overridden, &over);
    for (spec, branch, network) in [
        (production, "main", "production"),
        (overridden, "v1.2", "dev"),
    ] {
        pool(&world, spec).await;
        let idle = wait_idle(&world, 1).await.remove(0);
        let cloned = file(&world, &idle, "openclaw/.git/sim-ref").await.unwrap();
        assert_eq!(cloned.trim(), branch);
        let config = config(&world, &idle).await;
        assert_eq!(config["channels"]["convos"]["env"], network);
        let answer = world.claim("Net").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let asked = world.sim.calls("agents").await;
        let made = asked.iter().rfind(|c| c["path"] == "/convos/conversation");
        assert_eq!(made.unwrap()["body"]["env"], network);
        let all = kube::api::ListParams::default();
        world
            .pools()
            .delete_collection(&Default::default(), &all)
            .await
            .unwrap();
        world
            .instances()
            .delete_collection(&Default::default(), &all)
            .await
            .unwrap();
        until("all are gone", PATIENT, || async {
            let pools = world.pools().list(&all).await.unwrap().items;
            (pools.is_empty() && world.list().await.is_empty()).then_some(())
        })
        .await;
    }
    finish(world).await;
}
