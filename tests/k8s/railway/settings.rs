//! What a pool says of its services is in place before their one deployment.

use serde_json::json;

use super::{COMMAND, made_once, service};
use crate::support::world::{POOL, World};

/// acceptance: K02
#[tokio::test(flavor = "multi_thread")]
async fn every_setting_is_in_the_one_deployment_and_costs_no_request() {
    let world = World::start("settings").await;
    let settings = json!({
        "region": "europe-west4-drams3a", "restartPolicy": "Always", "restartRetries": 4, "sleep": true,
        "healthCheck": {"path": "/pool/health", "timeoutSeconds": 120},
        "limits": {"cpuMillis": 4000, "memoryMegabytes": 4000},
    });
    let spec = json!({"minIdle": 1, "maxTotal": 1, "tickIntervalSeconds": 1, "provider": {"railway": settings}});
    world.create_pool(POOL, spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    made_once(&world, 1).await;

    let service = service(&world, &idle).await;
    let set = &service["deployments"][0]["snapshot"]["settings"];
    for (name, value) in [
        ("startCommand", json!(COMMAND)),
        ("healthcheckPath", json!("/pool/health")),
        ("healthcheckTimeout", json!(120)),
        ("restartPolicyType", json!("ALWAYS")),
        ("restartPolicyMaxRetries", json!(4)),
        ("sleepApplication", json!(true)),
        ("numReplicas", json!(1)),
        (
            "multiRegionConfig",
            json!({"europe-west4-drams3a": {"numReplicas": 1}}),
        ),
    ] {
        assert_eq!(set[name], value, "{name}: {set}");
    }
    let limits = json!({"containers": {"cpu": 4.0, "memoryBytes": 4_000_000_000_i64}});
    assert_eq!(service["instances"][0]["limits"], limits);

    let calls = world.sim.calls("railway").await;
    let writes: Vec<_> = calls
        .iter()
        .filter_map(|c| c["operation"].as_str())
        .filter(|o| {
            !matches!(
                *o,
                "RwFleet" | "RwProject" | "RwEnvironments" | "RwProjectToken"
            )
        })
        .collect();
    let want = [
        "RwServiceCreate",
        "RwDomainCreate",
        "RwConfigureLimitAndDeploy",
    ];
    assert_eq!(writes, want);
    world.finish().await;
}
