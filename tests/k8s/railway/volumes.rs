//! A volume for each agent: there before its first start, gone with it, and never left behind.

use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use super::{made_once, service};
use crate::lifecycle::service_id;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

fn with_volume(min: i32) -> Value {
    json!({"minIdle": min, "tickIntervalSeconds": 1, "provider": {"railway": {"volume": {}}}})
}

async fn volumes(world: &World) -> Vec<Value> {
    let state = world.sim.state("railway").await;
    state["volumes"].as_array().unwrap().clone()
}

fn volume_id(instance: &AgentInstance) -> Option<&str> {
    let provider = instance.status.as_ref()?.provider.as_ref()?;
    provider.volume_id.as_deref()
}

/// Its mount path is among the variables of the first start, and it deploys nothing by itself.
///
/// acceptance: K05, K07
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_there_before_the_first_start_and_goes_with_the_agent() {
    let world = World::start("volume").await;
    world.create_pool(POOL, with_volume(2)).await;
    let idle = world.wait_idle(2).await;
    made_once(&world, 2).await;
    let all = volumes(&world).await;
    assert_eq!(all.len(), 2, "{all:?}");
    for instance in &idle {
        let id = volume_id(instance).expect("recorded");
        let volume = all.iter().find(|v| v["id"] == id).unwrap();
        assert_eq!(volume["serviceId"], service_id(instance));
        assert_eq!(volume["mountPath"], "/data");
        let service = service(&world, instance).await;
        let given = &service["deployments"][0]["snapshot"]["variables"];
        assert_eq!(given["RAILWAY_VOLUME_MOUNT_PATH"], "/data", "{given}");
    }
    let ledger = world.sim.ledger().await;
    let resources = ledger["resources"].as_array().unwrap().iter();
    let ever = resources.filter(|r| r["kind"] == "volume").count();
    assert_eq!(ever, 2, "refused too soon after another is not made");
    assert_eq!(
        world.sim.railway_calls("RwVolumes").await,
        0,
        "the listing tells"
    );
    world.finish().await;
}

/// acceptance: K05
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_stock_that_lost_its_volume_is_replaced_and_one_in_use_is_not() {
    let world = World::start("volume-lost").await;
    let mut spec = with_volume(1);
    spec["cleanupAfterSeconds"] = json!(0);
    world.create_pool(POOL, spec).await;
    world.wait_idle(1).await;
    assert_eq!(world.claim("Kept").await.status, 200);
    let lost = world.wait_idle(1).await.remove(0);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0);
    for instance in [&claimed, &lost] {
        world
            .sim
            .force(json!({"service": service_id(instance), "deleteVolumes": true}))
            .await;
    }
    assert!(volumes(&world).await.is_empty());
    world.wait_gone(&lost.spec.id).await;
    let new = world.wait_idle(1).await.remove(0);
    let all = volumes(&world).await;
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["id"], volume_id(&new).unwrap());
    let kept = world.in_phase(Phase::Claimed).await.remove(0);
    assert_eq!(kept.spec.id, claimed.spec.id);
    assert_eq!(
        service(&world, &kept).await["deployments"]
            .as_array()
            .map(Vec::len),
        Some(1),
        "not restarted"
    );
    world.finish().await;
}

/// The volume is made, nobody learns its id, and the agent is deleted before anybody can look: it hangs on our service,
/// and goes before that does.
///
/// acceptance: K07
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_creation_is_uncertain_is_not_left_behind() {
    let world = World::start("volume-uncertain").await;
    let reset =
        json!({"match": {"field": "volumeCreate"}, "fault": {"kind": "reset", "applied": true}});
    world.sim.fault("railway", reset).await;
    // Every look is answered 502.
    let blind = json!({"match": {"field": "environment"}, "fault": {"kind": "http_5xx", "applied": false, "status": 502, "html": true}});
    world.create_pool(POOL, with_volume(1)).await;
    until("the creation is sent", LONG, || async {
        (world.sim.railway_calls("RwVolumeCreate").await == 1).then_some(())
    })
    .await;
    world.sim.fault("railway", blind).await;
    world.patch_pool(json!({"minIdle": 0})).await;
    let instance = world.list().await.remove(0);
    assert_eq!(volumes(&world).await.len(), 1);
    assert_eq!(volume_id(&instance), None);
    world.delete(&instance.spec.id).await;
    until("it says that it waits", Duration::from_secs(20), || async {
        let deleted = world.instance(&instance.spec.id).await?;
        deleted.metadata.deletion_timestamp.map(drop)
    })
    .await;
    world.sim.heal("railway").await;
    world.wait_gone(&instance.spec.id).await;
    assert!(volumes(&world).await.is_empty());
    world.finish().await;
}
