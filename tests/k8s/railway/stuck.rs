//! Builds that hang: ended at Railway before their service goes, and built anew as another agent.

use serde_json::{Value, json};

use crate::lifecycle::service_id;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// A world in which the first deployment hangs in that status.
async fn stuck(name: &str, status: &str) -> World {
    let world = World::start(name).await;
    let fault = json!({"kind": "stuck", "status": status});
    world
        .sim
        .fault("railway", json!({"count": 1, "fault": fault}))
        .await;
    world
}

fn spec() -> Value {
    json!({"minIdle": 1, "tickIntervalSeconds": 1, "stuckTimeoutSeconds": 5, "cleanupAfterSeconds": 0})
}

/// The operations about a service or its deployment, in order; listings left out.
async fn sent(world: &World, service: &str) -> Vec<String> {
    let state = world.sim.ledger().await;
    let deployments = state["deploymentsByService"][service].as_array().cloned();
    let deployments = deployments.unwrap_or_default();
    let calls = world.sim.calls("railway").await;
    let about = calls.iter().filter(|c| {
        let id = &c["variables"]["id"];
        c["variables"]["serviceId"] == service || id == service || deployments.contains(id)
    });
    about
        .map(|c| c["operation"].as_str().unwrap().to_owned())
        .collect()
}

/// acceptance: B25
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_hangs_is_cancelled_recorded_first_and_built_anew() {
    let mut world = stuck("stuck-build", "BUILDING").await;
    // Builds are quicker than the time that one has.
    let quick = json!({"timings": {"building": 10.0}});
    world.sim.set("railway", quick).await;
    // The answer to the cancellation never comes, and it does not happen.
    let silent = json!({"match": {"field": "deploymentCancel"}, "count": 1, "fault": {"kind": "timeout", "seconds": 1200}});
    world.sim.fault("railway", silent).await;
    let source = json!({"image": null, "repository": {"repo": "acme/agent"}});
    let mut pool = spec();
    pool["provider"] = json!({"railway": {"source": source, "startCommand": null}});
    world.create_pool(POOL, pool).await;
    until("it is cancelled", LONG, || async {
        (world.sim.railway_calls("RwCancel").await == 1).then_some(())
    })
    .await;
    // Everything that explains it was recorded before it was sent.
    let all = world.list().await;
    let hung = all.iter().find(|i| i.metadata.deletion_timestamp.is_some());
    let hung = hung.expect("it is being deleted").clone();
    let verdict = hung.status.as_ref().unwrap().verdict.clone().unwrap();
    assert_eq!((&*verdict.state, &*verdict.reason), ("Dead", "Stuck"));
    let service = service_id(&hung);
    // Whoever sent it dies: the next one sends it again, and goes on.
    world.operator().kill();
    world.start_operator(&[]);
    world.wait_gone(&hung.spec.id).await;
    let idle = world.wait_idle(1).await;
    assert_ne!(idle[0].spec.id, hung.spec.id);
    let sent = sent(&world, &service).await;
    let at = |name: &str| sent.iter().position(|o| o == name);
    assert!(at("RwCancel") < at("RwServiceDelete"), "{sent:?}");
    let cancelled = sent.iter().filter(|o| *o == "RwCancel").count();
    assert_eq!(cancelled, 2, "{sent:?}");
    assert_eq!(world.sim.live_services().await.len(), 1);
    world.finish().await;
}

/// An image that hangs too; and what Railway says to it, for instance that there is nothing to cancel, holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_cannot_be_cancelled_goes_with_its_service() {
    let world = stuck("stuck-deploy", "DEPLOYING").await;
    let refused = json!({"kind": "gql_error", "message": "Deployment is not cancellable", "code": "BAD_USER_INPUT"});
    let refused = json!({"match": {"field": "deploymentCancel"}, "fault": refused});
    world.sim.fault("railway", refused).await;
    world.create_pool(POOL, spec()).await;
    let hung = until("one hangs", LONG, || async {
        world.list().await.into_iter().next()
    })
    .await;
    world.wait_gone(&hung.spec.id).await;
    world.wait_idle(1).await;
    assert_eq!(world.sim.railway_calls("RwCancel").await, 1);
    // One that is up when it goes has nothing to cancel, and is not asked about.
    let idle = world.wait_idle(1).await.remove(0);
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    world.delete(&idle.spec.id).await;
    world.wait_gone(&idle.spec.id).await;
    assert_eq!(world.sim.railway_calls("RwCancel").await, 1);
    world.finish().await;
}
