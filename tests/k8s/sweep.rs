//! What the provider has and the cluster does not know: removed, adopted or left alone.

mod listings;

use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::lifecycle::{condition, host, ids, service_id, ticks};
use crate::support::account::RIGHTS;
use crate::support::simulator::PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, SPEED, World};

/// The grace time of these tests, in seconds.
const GRACE: i64 = 8;

/// A world with a pool that is swept every second.
async fn swept(name: &str, spec: Value) -> World {
    swept_by(name, spec, "Cluster").await
}

/// The same with such rights of the operator.
async fn swept_by(name: &str, spec: Value, rights: &str) -> World {
    let mut world = World::bare(name).await;
    start_with(&mut world, rights);
    let mut full = json!({"tickIntervalSeconds": 1, "reconcileIntervalSeconds": 1});
    crate::support::world::merge(&mut full, &spec);
    let pool = world.create_pool(POOL, full).await;
    let count = usize::try_from(pool.spec.min_idle).unwrap();
    world.wait_idle(count).await;
    world
}

fn start(world: &mut World) {
    start_with(world, "Cluster");
}

fn start_with(world: &mut World, rights: &str) {
    let grace = GRACE.to_string();
    world.start_operator(&[("AGENTPOOL_SWEEP_GRACE_SECONDS", &grace), (RIGHTS, rights)]);
}

/// Takes the object away and leaves what it is about: as a restored etcd or a stripped finalizer does.
pub(crate) async fn forget(world: &World, instance: &AgentInstance) -> Timestamp {
    let name = instance.metadata.name.as_deref().unwrap();
    let stripped = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    // Deleted without a finalizer it is gone at once: the operator sees no deletion to work on.
    let parameters = PatchParams::default();
    world
        .instances()
        .patch(name, &parameters, &stripped)
        .await
        .unwrap();
    let at = Timestamp::now();
    world.delete(name).await;
    at
}

/// Reason and message of the Ready condition.
fn ready(instance: &AgentInstance) -> Option<(String, String)> {
    let conditions = &instance.status.as_ref()?.conditions;
    let ready = conditions.iter().find(|c| c.type_ == "Ready")?;
    Some((ready.reason.clone(), ready.message.clone()))
}

/// The ledger's entry of a service.
async fn ledger_of(world: &World, service: &str) -> Value {
    let all = world.sim.services_ever().await;
    all.into_iter().find(|s| s["id"] == service).unwrap()
}

/// When the service was removed.
pub(crate) async fn removed_at(world: &World, service: &str) -> Timestamp {
    until("the service is removed", LONG, || async {
        let entry = ledger_of(world, service).await;
        entry["deletedAt"].as_str().map(|at| at.parse().unwrap())
    })
    .await
}

async fn metric(world: &mut World, kind: &str) -> Option<i64> {
    let url = format!("{}/metrics", world.operator().operations);
    let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
    let labels = format!(
        "namespace=\"{}\",pool=\"{POOL}\",kind=\"{kind}\"",
        &*world.namespace
    );
    let line = format!("agentpool_stray_resources{{{labels}}} ");
    let found = text.lines().find_map(|l| l.strip_prefix(&line));
    found.map(|n| n.parse().unwrap())
}

async fn wait_metric(world: &mut World, kind: &str, count: i64) {
    let begun = std::time::Instant::now();
    while metric(world, kind).await != Some(count) {
        assert!(begun.elapsed() < LONG * 5, "{kind} is not {count}");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

async fn strays(world: &World) -> Option<(String, String, String)> {
    world.pool_condition("StrayResources").await
}

/// The condition's reason and message, once it is this.
async fn wait_strays(world: &World, reason: &str, part: &str) -> String {
    until(&format!("{reason}: {part}"), LONG, || async {
        let (truth, told, message) = strays(world).await?;
        (truth == "True" && told == reason && message.contains(part)).then_some(message)
    })
    .await
}

async fn wait_no_strays(world: &World) {
    until("no strays", LONG, || async {
        strays(world).await.is_none().then_some(())
    })
    .await;
}

/// The notes of events with that reason on the pool.
async fn events(world: &World, reason: &str) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
    let all = api.list(&ListParams::default()).await.unwrap();
    let of = |e: &Event| {
        e.reason.as_deref() == Some(reason) && e.involved_object.name.as_deref() == Some(POOL)
    };
    let notes = all.items.into_iter().filter(of).filter_map(|e| e.message);
    notes.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_nobody_uses_is_removed_after_the_grace_time() {
    let mut world = swept("orphan", json!({"minIdle": 2})).await;
    let idle = world.wait_idle(2).await;
    let (lost, kept) = (&idle[0], &idle[1]);
    let service = service_id(lost);
    let forgotten = forget(&world, lost).await;
    wait_strays(&world, "OrphanedResources", &lost.spec.provider_name).await;
    wait_metric(&mut world, "ours", 1).await;
    let removed = removed_at(&world, &service).await;
    let waited = removed.duration_since(forgotten);
    assert!(waited >= SignedDuration::from_secs(GRACE), "{waited:?}");
    wait_no_strays(&world).await;
    wait_metric(&mut world, "ours", 0).await;
    until("it is told", LONG, || async {
        let notes = events(&world, "OrphanRemoved").await;
        notes
            .iter()
            .any(|n| n.contains(&lost.spec.provider_name))
            .then_some(())
    })
    .await;
    // Nobody else's place was taken by it: the stock was filled up, and what stood there stands.
    let now = ids(&world.wait_idle(2).await);
    assert!(now.contains(&kept.spec.id) && !now.contains(&lost.spec.id));
    assert_eq!(world.sim.live_services().await.len(), 2);
    // Its mark was read right before the deed, and again with it.
    let calls = world.sim.calls("railway").await;
    let about: Vec<_> = calls
        .iter()
        .filter(|c| {
            c["variables"]["serviceId"] == json!(service) || c["variables"]["id"] == json!(service)
        })
        .filter_map(|c| c["operation"].as_str())
        .collect();
    let deed = about.iter().position(|o| *o == "RwServiceDelete").unwrap();
    assert_eq!(
        about[deed - 2..deed],
        ["RwVariables", "RwVariables"],
        "{about:?}"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_record_and_forgotten_it_is_removed() {
    let mut world = World::bare("unborn").await;
    // A creation takes two seconds at Railway and is applied: the kill meets it under way.
    let fault = json!({"kind": "timeout", "applied": true, "seconds": 2.0 * SPEED});
    let rule = json!({"match": {"field": "serviceCreate"}, "count": 1, "fault": fault});
    world.sim.fault("railway", rule).await;
    start(&mut world);
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "reconcileIntervalSeconds": 1});
    world.create_pool(POOL, spec).await;
    let service = until("the service is there", LONG, || async {
        let made = world.sim.live_services().await;
        Some(made.first()?["id"].as_str()?.to_owned())
    })
    .await;
    world.operator().kill();
    let first = world.list().await.remove(0);
    let recorded = first.status.as_ref().and_then(|s| s.provider.as_ref());
    assert_eq!(recorded.and_then(|p| p.id.as_ref()), None, "never recorded");
    let forgotten = forget(&world, &first).await;
    // What is listed as being created would be created again, under the same id.
    let none = json!({"status": {"creating": []}});
    world
        .pools()
        .patch_status(POOL, &PatchParams::default(), &Patch::Merge(none))
        .await
        .unwrap();
    start(&mut world);
    let removed = removed_at(&world, &service).await;
    let waited = removed.duration_since(forgotten);
    assert!(waited >= SignedDuration::from_secs(GRACE), "{waited:?}");
    let idle = world.wait_idle(1).await;
    assert_ne!(idle[0].spec.id, first.spec.id);
    assert_eq!(world.sim.live_services().await.len(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_with_a_conversation_is_adopted_as_crashed_and_never_removed() {
    let world = swept("adopted", json!({"minIdle": 1})).await;
    let answer = world.claim("Tokyo Trip").await;
    let id = answer.body["instanceId"].as_str().unwrap();
    let renamed = format!("stg-tokyo-trip-{id}");
    until("it is renamed after its agent", LONG, || async {
        world.sim.service(&renamed).await.map(drop)
    })
    .await;
    let claimed = world.instance(id).await.unwrap();
    forget(&world, &claimed).await;
    let adopted = until("it is adopted", LONG, || async {
        let now = world.instance(id).await?;
        (phase_of(&now) == Phase::Crashed).then_some(now)
    })
    .await;
    let (reason, message) = ready(&adopted).unwrap();
    assert_eq!(reason, "Adopted");
    let advice = format!("kubectl delete agentinstance {id}");
    assert!(message.contains(&advice), "{message}");
    assert_eq!(
        (service_id(&adopted), host(&adopted)),
        (service_id(&claimed), host(&claimed))
    );
    let claim = adopted.spec.claim.as_ref().unwrap();
    assert!(adopted.spec.restored && claim.holder == "agentpool-sweep");
    assert_eq!(adopted.spec.provider_name, renamed);
    let table = world.kubectl(&["get", "agentinstances", id]);
    assert!(
        table.contains("Crashed") && table.contains("Adopted"),
        "{table}"
    );
    // No failed creation: the pool goes on.
    let breaker = world.pool().await.status.unwrap().breaker;
    assert_eq!(breaker.map_or(0, |b| b.failures), 0);
    wait_no_strays(&world).await;
    ticks(&world, 2 + usize::try_from(GRACE).unwrap()).await;
    assert_eq!(phase_of(&world.instance(id).await.unwrap()), Phase::Crashed);
    let agents = world.sim.state("agents").await;
    let bound = &agents["instances"][host(&claimed)]["bound"];
    assert_eq!(*bound, answer.body["conversationId"]);
    // A person's word removes it, service and all.
    world.delete(id).await;
    world.wait_gone(id).await;
    let left = ledger_of(&world, &service_id(&claimed)).await;
    assert_eq!(left["exists"], false);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_that_does_not_answer_is_adopted_and_never_removed() {
    let world = swept("mute", json!({"minIdle": 1})).await;
    let idle = world.wait_idle(1).await.remove(0);
    let fault =
        json!({"match": {"host": host(&idle)}, "when": "always", "fault": {"kind": "gateway502"}});
    world.sim.fault("agents", fault).await;
    forget(&world, &idle).await;
    until("it is adopted", LONG, || async {
        let now = world.instance(&idle.spec.id).await?;
        let reason = condition(&now, "Ready")?.1;
        (phase_of(&now) == Phase::Crashed && reason == "Adopted").then_some(())
    })
    .await;
    assert_eq!(ledger_of(&world, &service_id(&idle)).await["exists"], true);
    world.finish().await;
}

/// acceptance: N18
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_told_of_and_never_touched() {
    let mut world = swept("foreign", json!({"minIdle": 1})).await;
    let ours = world.wait_idle(1).await.remove(0);
    let mark =
        world.sim.service(&ours.spec.provider_name).await.unwrap()["variables"]["AGENTPOOL_OWNER"]
            .clone();
    let mark = mark.as_str().unwrap();
    let (cluster, _) = mark.split_once('/').unwrap();
    let namespace = &*world.namespace;
    let services = [
        // Another cluster's; another namespace's; a copy of one of ours under another id.
        (
            "convos-agent-stg-000000000001",
            Some(format!("other/{namespace}/000000000001")),
        ),
        (
            "convos-agent-stg-000000000002",
            Some(format!("{cluster}/other/000000000002")),
        ),
        ("convos-agent-stg-000000000003", Some(mark.to_owned())),
        // Without a mark: called as ours at creation, and as anybody's.
        ("convos-agent-stg-000000000004", None),
        ("stg-billing-notification", None),
        // The predecessor's own service, with and without a mark: no name of an agent.
        ("convos-agent-stg-pool-manager", None),
        (
            "convos-agent-pool-manager",
            Some(format!("{cluster}/{namespace}/pool-manager")),
        ),
        // Another environment's.
        (
            "convos-agent-prod-000000000005",
            Some(format!("{cluster}/{namespace}/000000000005")),
        ),
    ];
    let seeds: Vec<Value> = services
        .iter()
        .map(|(name, mark)| {
            let mut variables = json!({"A": "1", "GATEWAY_TOKEN": "t", "OPENROUTER_API_KEY": "k"});
            if let Some(mark) = mark {
                variables["AGENTPOOL_OWNER"] = json!(mark);
            }
            json!({"name": name, "projectId": PROJECT, "image": "nginx", "variables": variables, "deploy": true, "domain": true})
        })
        .collect();
    world.sim.set("railway", json!({"services": seeds})).await;
    let of = |state: Value| -> Vec<Value> {
        let all = state["services"].as_array().unwrap().clone();
        let seeded = |s: &Value| services.iter().any(|(name, _)| s["name"] == *name);
        all.into_iter().filter(seeded).collect()
    };
    until("they run", LONG, || async {
        let all = of(world.sim.state("railway").await);
        let up = all.iter().all(|s| {
            s["deployments"][0]["status"] == "SUCCESS" && s["deployments"][0]["stopped"] == false
        });
        up.then_some(())
    })
    .await;
    let before = of(world.sim.state("railway").await);
    assert_eq!(before.len(), services.len());

    let message = wait_strays(
        &world,
        "UnmarkedResources",
        "3 (convos-agent-stg-000000000001",
    )
    .await;
    assert!(
        message.contains("1 (convos-agent-stg-000000000004)"),
        "{message}"
    );
    for silent in ["pool-manager", "notification", "prod", &ours.spec.id] {
        assert!(!message.contains(silent), "{message}");
    }
    wait_metric(&mut world, "foreign", 3).await;
    wait_metric(&mut world, "unmarked", 1).await;
    wait_metric(&mut world, "ours", 0).await;
    // Far more sweeps than the grace time needs; and a full reconcile by hand.
    ticks(&world, 5 + usize::try_from(GRACE).unwrap()).await;
    let answer = world
        .call(Method::POST, "/api/pool/reconcile", json!({}))
        .await;
    assert_eq!(
        (answer.status, &answer.body["cleaned"]),
        (200, &json!(0)),
        "{}",
        answer.text
    );
    assert_eq!(of(world.sim.state("railway").await), before);
    assert_eq!(ids(&world.list().await), ids(std::slice::from_ref(&ours)));
    let calls = world.sim.calls("railway").await;
    for service in &before {
        let asked: Vec<&str> = calls
            .iter()
            .filter(|c| {
                c["variables"]
                    .to_string()
                    .contains(service["id"].as_str().unwrap())
            })
            .filter_map(|c| c["operation"].as_str())
            .collect();
        let name = service["name"].as_str().unwrap();
        let of_our_shape = !name.contains("pool-manager") && !name.contains("prod");
        // A mark is read once, and nothing else is asked or said.
        let expected: &[&str] = if of_our_shape { &["RwVariables"] } else { &[] };
        assert_eq!(asked, expected, "{name}");
    }
    // Told of in words that kubectl shows, and no longer when they are gone.
    for (name, _) in &services {
        world
            .sim
            .force(json!({"service": name, "delete": true}))
            .await;
    }
    wait_no_strays(&world).await;
    wait_metric(&mut world, "foreign", 0).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_another_environment_of_the_project_is_left_there() {
    let mut world = World::bare("elsewhere").await;
    start(&mut world);
    // Two pools of one code in two environments of a project; Railway shows every service in both.
    let at = |end: &str| {
        let environment = format!("5eed0000-0000-4000-8000-00000000{end}");
        let railway = json!({"project": {"projectId": crate::support::simulator::SHARED_PROJECT, "environmentId": environment}});
        json!({"environment": "dev", "minIdle": 1, "tickIntervalSeconds": 1, "reconcileIntervalSeconds": 1,
            "provider": {"railway": railway}})
    };
    world.create_pool("one", at("0021")).await;
    world.create_pool("two", at("0022")).await;
    world.wait_idle(2).await;
    let answer = world
        .call(
            Method::POST,
            "/api/pool/claim?pool=two",
            json!({"agentName": "Ada", "instructions": "Be kind."}),
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = answer.body["instanceId"].as_str().unwrap();
    let claimed = world.instance(id).await.unwrap();
    // Its pool goes and leaves it; then its object is lost. Nobody sweeps the environment where it lives.
    let parameters = DeleteParams::default();
    world.pools().delete("two", &parameters).await.unwrap();
    until("the pool is gone", LONG, || async {
        let left = world.pools().get_opt("two").await.unwrap();
        left.is_none().then_some(())
    })
    .await;
    forget(&world, &claimed).await;
    let service = service_id(&claimed);
    until("it was looked at", LONG, || async {
        let calls = world.sim.calls("railway").await;
        let read = |c: &&Value| {
            c["operation"] == "RwVariables" && c["variables"]["serviceId"] == json!(service)
        };
        calls.iter().any(|c| read(&c)).then_some(())
    })
    .await;
    ticks(&world, 5 + usize::try_from(GRACE).unwrap()).await;
    assert_eq!(ledger_of(&world, &service).await["exists"], true);
    assert!(
        world.instance(id).await.is_none(),
        "nor adopted into the wrong place"
    );
    let agents = world.sim.state("agents").await;
    let bound = &agents["instances"][host(&claimed)]["bound"];
    assert_eq!(*bound, answer.body["conversationId"]);
    world
        .sim
        .force(json!({"service": service, "delete": true}))
        .await;
    world.finish().await;
}
