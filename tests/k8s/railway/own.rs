//! A project for each agent: made, listed, renamed and removed with everything in it, and no one else's touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use super::faults::mutations;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

const WORKSPACE: &str = "5eed0000-0000-4000-8000-0000000000aa";
/// Other users' tokens: each may create a project in 30 s, as ours may.
const EXTRA: [&str; 3] = [
    "5eed0000-0000-4000-8000-0000000000d1",
    "5eed0000-0000-4000-8000-0000000000d2",
    "5eed0000-0000-4000-8000-0000000000d3",
];

/// A world whose pools may use four tokens.
async fn start(name: &str) -> World {
    let world = World::start(name).await;
    let token = |t: &&str| json!({"token": t, "kind": "workspace", "workspaceId": WORKSPACE});
    let tokens: Vec<Value> = EXTRA.iter().map(token).collect();
    world.sim.set("railway", json!({"tokens": tokens})).await;
    world.secret("more", "tokens", &EXTRA.join("\n")).await;
    world
}

pub(super) fn own_projects(idle: usize) -> Value {
    let railway = json!({
        "project": null, "perInstance": {"workspaceId": WORKSPACE},
        "extraTokensSecretRef": {"name": "more", "key": "tokens"},
    });
    json!({"minIdle": idle, "tickIntervalSeconds": 1, "provider": {"railway": railway}})
}

/// The projects that exist and carry somebody's mark.
async fn projects(world: &World) -> Vec<Value> {
    let state = world.sim.state("railway").await;
    let all = state["projects"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|p| p["description"].is_string())
        .collect()
}

/// Waits until the workspace's projects were listed so many times more.
async fn listings(world: &World, count: usize) {
    let before = world.sim.railway_calls("RwProjects").await;
    until("more listings", LONG, || async {
        let now = world.sim.railway_calls("RwProjects").await;
        (now >= before + count).then_some(())
    })
    .await;
}

/// acceptance: A12, K01, K08
#[tokio::test(flavor = "multi_thread")]
async fn each_agent_has_a_project_of_its_own_and_takes_it_along() {
    let world = start("own").await;
    world.create_pool(POOL, own_projects(2)).await;
    let idle = world.wait_idle(2).await;
    let made = projects(&world).await;
    let state = world.sim.state("railway").await;
    for instance in &idle {
        let status = instance.status.as_ref().unwrap().provider.as_ref().unwrap();
        let id = status.project_id.as_deref().unwrap();
        let project = made.iter().find(|p| p["id"] == id).unwrap();
        assert_eq!(project["name"], instance.spec.provider_name.as_str());
        assert_eq!(project["workspaceId"], WORKSPACE);
        let owner = project["description"].as_str().unwrap();
        let mark = format!("/{}/{}", &*world.namespace, instance.spec.id);
        assert!(
            owner.starts_with("AGENTPOOL_OWNER=") && owner.ends_with(&mark),
            "{owner}"
        );
        let environments = project["environments"].as_array().unwrap();
        assert_eq!(environments.len(), 1);
        assert_eq!(
            status.environment_id.as_deref(),
            environments[0]["id"].as_str()
        );
        let services = state["services"].as_array().unwrap().iter();
        let services: Vec<&Value> = services.filter(|s| s["projectId"] == id).collect();
        assert_eq!(services.len(), 1, "{services:?}");
    }
    // Two tokens were used, since each makes one at a time.
    let calls = world.sim.calls("railway").await;
    let creations = calls.iter().filter(|c| c["operation"] == "RwProjectCreate");
    let used: BTreeSet<&str> = creations.map(|c| c["token"].as_str().unwrap()).collect();
    assert_eq!(used.len(), 2);

    // A listing is one page of projects and one look into ours, however many ticks and agents.
    let seen = world.sim.calls("railway").await.len();
    listings(&world, 4).await;
    let calls = world.sim.calls("railway").await.split_off(seen);
    let mut asked = BTreeMap::<String, usize>::new();
    for call in &calls {
        let operation = call["operation"].as_str().unwrap().to_owned();
        *asked.entry(operation).or_default() += 1;
    }
    let names: Vec<&str> = asked.keys().map(String::as_str).collect();
    assert_eq!(names, ["RwProjects", "RwProjectsBatch"], "{asked:?}");
    assert!(asked["RwProjects"].abs_diff(asked["RwProjectsBatch"]) <= 1);

    // A claim renames the project; whatever goes takes the project along.
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0);
    let name = format!("stg-tokyo-trip-{}", claimed.spec.id);
    until("renamed", LONG, || async {
        let all = projects(&world).await;
        all.iter().any(|p| p["name"] == name.as_str()).then_some(())
    })
    .await;
    for instance in &idle {
        world.delete(&instance.spec.id).await;
    }
    for instance in &idle {
        world.wait_gone(&instance.spec.id).await;
    }
    assert_eq!(projects(&world).await, Vec::<Value>::new());
    let ledger = world.sim.ledger().await;
    let ours = ledger["resources"].as_array().unwrap().iter();
    let left: Vec<&Value> = ours
        .filter(|r| r["owner"].is_string() && r["exists"] == true)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    world.finish().await;
}

/// acceptance: E16
#[tokio::test(flavor = "multi_thread")]
async fn a_project_of_our_name_without_our_mark_is_never_touched() {
    let world = start("own-foreign").await;
    // Made by hand, called as ours are, one without a mark and one with another's.
    world.create_pool(POOL, own_projects(1)).await;
    let idle = world.wait_idle(1).await.remove(0);
    let status = idle.status.unwrap().provider.unwrap();
    let ours = status.project_id.unwrap();
    let other = json!({"id": "theirs", "name": idle.spec.provider_name, "workspaceId": WORKSPACE,
        "environments": [{"id": "their-environment", "name": "production"}]});
    world.sim.set("railway", json!({"projects": [other]})).await;
    listings(&world, 3).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    world.delete(&idle.spec.id).await;
    world.wait_gone(&idle.spec.id).await;
    let state = world.sim.state("railway").await;
    let all: Vec<&str> = state["projects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].as_str().unwrap())
        .collect();
    assert!(
        all.contains(&"theirs") && !all.contains(&ours.as_str()),
        "{all:?}"
    );
    let calls = world.sim.calls("railway").await;
    let removed: Vec<&Value> = calls
        .iter()
        .filter(|c| c["operation"] == "RwProjectDelete")
        .map(|c| &c["variables"]["id"])
        .collect();
    assert_eq!(removed, [&json!(ours)]);
    world.finish().await;
}

/// The mutations of such a pool, each of which takes effect first without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_own_projects_that_are_never_answered_happen_once() {
    let world = start("own-lost").await;
    let of_shared = ["RwServiceRename", "RwServiceDelete", "RwConfigureAndDeploy"];
    // Met by agents of a shared project (`faults`).
    let elsewhere = [
        "RwVolumeCreate",
        "RwVolumeDelete",
        "RwConfigureAndConnect",
        "RwLimits",
        "RwAutoDeploy",
        // And of builds that hang, and of taking agents over: there (`stuck`, `import`).
        "RwCancel",
        "RwVariablesUpsert",
    ];
    let mut mutations = mutations();
    mutations.retain(|name, _| !name.starts_with("RwRule"));
    mutations.retain(|name, _| !of_shared.contains(name) && !elsewhere.contains(name));
    for field in mutations.values() {
        let fault = json!({"kind": "reset", "applied": true});
        let rule = json!({"match": {"field": field}, "count": 1, "fault": fault});
        world.sim.fault("railway", rule).await;
    }
    let mut spec = own_projects(1);
    spec["provider"]["railway"]["limits"] = json!({"cpuMillis": 500, "memoryMegabytes": 1000});
    world.create_pool(POOL, spec).await;
    until("one idle", Duration::from_secs(90), || async {
        (world.in_phase(Phase::Idle).await.len() == 1).then_some(())
    })
    .await;
    super::made_once(&world, 1).await;
    assert_eq!(projects(&world).await.len(), 1);
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0);
    let name = format!("stg-tokyo-trip-{}", claimed.spec.id);
    until("renamed", LONG, || async {
        let all = projects(&world).await;
        all.iter().any(|p| p["name"] == name.as_str()).then_some(())
    })
    .await;
    world.delete(&claimed.spec.id).await;
    world.wait_gone(&claimed.spec.id).await;
    assert_eq!(projects(&world).await, Vec::<Value>::new());
    let calls = world.sim.calls("railway").await;
    for (document, field) in &mutations {
        let sent: Vec<_> = calls
            .iter()
            .filter(|c| c["operation"] == *document)
            .collect();
        let met = sent.iter().filter(|c| c["class"] == "fault:reset").count();
        assert_eq!(met, 1, "{document} {field}: {sent:#?}");
        let again = ["RwProjectRename", "RwProjectDelete"].contains(document);
        assert!(sent.len() == 1 || again, "{document} was sent again");
    }
    world.finish().await;
}

/// There before the first start, and gone with the project: also one whose creation was not answered.
///
/// acceptance: K05, K07
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_a_project_of_its_own_goes_with_the_project() {
    let world = start("own-volume").await;
    let lost = json!({"match": {"field": "volumeCreate"}, "count": 1, "fault": {"kind": "reset", "applied": true}});
    world.sim.fault("railway", lost).await;
    let mut spec = own_projects(1);
    spec["provider"]["railway"]["volume"] = json!({});
    spec["cleanupAfterSeconds"] = json!(0);
    world.create_pool(POOL, spec).await;
    let idle = until("one idle", Duration::from_secs(120), || async {
        world.in_phase(Phase::Idle).await.pop()
    })
    .await;
    super::made_once(&world, 1).await;
    let state = world.sim.state("railway").await;
    let provider = idle.status.as_ref().unwrap().provider.clone().unwrap();
    let all = state["volumes"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["id"], provider.volume_id.clone().unwrap());
    assert_eq!(all[0]["serviceId"], provider.service_id.clone().unwrap());
    let given = super::given(&world, &idle).await;
    assert!(!given.is_empty());
    let service = super::service(&world, &idle).await;
    let variables = &service["deployments"][0]["snapshot"]["variables"];
    assert_eq!(
        variables["RAILWAY_VOLUME_MOUNT_PATH"], "/data",
        "{variables}"
    );

    // One in stock that lost it is replaced, as in a shared project.
    listings(&world, 2).await;
    assert_eq!(
        world.in_phase(Phase::Idle).await.len(),
        1,
        "a listing shows it"
    );
    let forced = json!({"service": provider.service_id.clone().unwrap(), "deleteVolumes": true});
    world.sim.force(forced).await;
    world.wait_gone(&idle.spec.id).await;
    until("its place is taken", Duration::from_secs(120), || async {
        (world.in_phase(Phase::Idle).await.len() == 1).then_some(())
    })
    .await;

    // A creation that nobody heard of ends with its project.
    let lost =
        json!({"match": {"field": "volumeCreate"}, "fault": {"kind": "reset", "applied": true}});
    world.sim.fault("railway", lost).await;
    let sent = world.sim.railway_calls("RwVolumeCreate").await;
    world.patch_pool(json!({"minIdle": 2})).await;
    until(
        "another volume is made",
        Duration::from_secs(120),
        || async { (world.sim.railway_calls("RwVolumeCreate").await > sent).then_some(()) },
    )
    .await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    for instance in world.list().await {
        world.delete(&instance.spec.id).await;
    }
    until("all are gone", Duration::from_secs(120), || async {
        world.list().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(projects(&world).await, Vec::<Value>::new());
    assert!(world.sim.live("volume").await.is_empty());
    assert_eq!(world.sim.railway_calls("RwVolumeDelete").await, 0);
    world.finish().await;
}

/// Further tokens are read anew for each project: others in their Secret are used at once, and that is told.
///
/// acceptance: E14
#[tokio::test(flavor = "multi_thread")]
async fn other_tokens_in_the_secret_are_used_without_a_restart() {
    let world = start("own-tokens").await;
    world.create_pool(POOL, own_projects(2)).await;
    world.wait_idle(2).await;
    assert_eq!(super::events(&world, "SecretRotated"), Vec::<String>::new());
    let new = ["e1", "e2"].map(|end| format!("5eed0000-0000-4000-8000-0000000000{end}"));
    let token = |t: &String| json!({"token": t, "kind": "workspace", "workspaceId": WORKSPACE});
    let old = |t: &&str| json!({"token": t, "kind": "workspace", "workspaceId": WORKSPACE, "revoked": true});
    let tokens: Vec<Value> = new.iter().map(token).chain(EXTRA.iter().map(old)).collect();
    world.sim.set("railway", json!({"tokens": tokens})).await;
    world.secret("more", "tokens", &new.join("\n")).await;
    let seen = world.sim.calls("railway").await.len();
    world.patch_pool(json!({"minIdle": 4})).await;
    until("four idle", Duration::from_secs(120), || async {
        (world.in_phase(Phase::Idle).await.len() == 4).then_some(())
    })
    .await;
    let calls = world.sim.calls("railway").await.split_off(seen);
    let creations = calls.iter().filter(|c| c["operation"] == "RwProjectCreate");
    let used: BTreeSet<&str> = creations.map(|c| c["token"].as_str().unwrap()).collect();
    assert!(used.contains("5eed…00e1"), "{used:?}");
    assert!(!used.iter().any(|t| t.contains("00d")), "{used:?}");
    let told = super::events(&world, "SecretRotated");
    assert!(told.iter().any(|t| t.contains("Secret more")), "{told:?}");
    world.finish().await;
}
