//! Writes of the configuration of one environment: ours are of one service each and commit no patch of the environment, so
//! they cannot collide with each other; with the patches of other people they can, and are then done again.

use serde_json::json;

use crate::support::simulator::{ENVIRONMENT, TOKEN};
use crate::support::world::{POOL, World};

/// While somebody else's patches are applied, Railway refuses domains in that environment: nothing is lost or doubled by it.
#[tokio::test(flavor = "multi_thread")]
async fn other_people_s_patches_of_the_environment_double_nothing() {
    let world = World::start("serial").await;
    // Ten seconds of ours for each patch, one after another, so that every creation meets one.
    world
        .sim
        .set("railway", json!({"timings": {"patch_apply": 40.0}}))
        .await;
    let foreign =
        json!({"name": "theirs", "image": "nginx", "variables": {"A": "0"}, "deploy": true});
    world
        .sim
        .set("railway", json!({"services": [foreign]}))
        .await;
    let theirs = world.sim.service("theirs").await.unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let url = format!("http://{}/graphql/v2", world.sim.peers);
    let query = "mutation P($e: String!, $p: EnvironmentConfig!) { environmentPatchCommit(environmentId: $e, patch: $p) }";
    let patching = tokio::spawn(async move {
        for n in 0..6 {
            let patch =
                json!({"services": {&*theirs: {"variables": {"A": {"value": n.to_string()}}}}});
            let body = json!({"query": query, "variables": {"e": ENVIRONMENT, "p": patch}});
            let sent = reqwest::Client::new()
                .post(&url)
                .bearer_auth(TOKEN)
                .json(&body)
                .send();
            assert_eq!(sent.await.unwrap().status(), 200);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    world
        .create_pool(POOL, json!({"minIdle": 3, "tickIntervalSeconds": 1}))
        .await;
    world.wait_idle(3).await;
    patching.await.unwrap();
    let calls = world.sim.calls("railway").await;
    let met = calls.iter().filter(|c| {
        let class = c["class"].as_str().unwrap();
        c["operation"] == "RwDomainCreate" && class.contains("Failed to create service domain")
    });
    assert!(met.count() > 0, "the patches were met");
    let ours = |c: &&serde_json::Value| c["operation"] != "P";
    let fields = calls
        .iter()
        .filter(ours)
        .flat_map(|c| c["fields"].as_array().unwrap());
    assert_eq!(
        fields.filter(|f| *f == "environmentPatchCommit").count(),
        0,
        "none of ours"
    );
    world
        .sim
        .force(json!({"service": "theirs", "delete": true}))
        .await;
    let live = world.sim.live_services().await;
    assert_eq!(live.len(), 3, "{live:?}");
    let state = world.sim.state("railway").await;
    for service in state["services"].as_array().unwrap() {
        for (what, wanted) in [("domains", 1), ("deployments", 1)] {
            let found = service[what].as_array().unwrap().len();
            assert_eq!(found, wanted, "{what}: {service}");
        }
    }
    world.finish().await;
}
