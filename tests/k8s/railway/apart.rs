//! Pools of different environments, and services of other people, in the same Railway projects.

use std::collections::BTreeMap;

use agentpool::domain::instance::phase::Phase;
use kube::api::DeleteParams;
use reqwest::Method;
use serde_json::{Value, json};

use crate::lifecycle::ticks;
use crate::support::simulator::{ENVIRONMENT, PROJECT, SHARED_PROJECT};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// Every string below a value.
fn strings<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => into.push(text),
        Value::Array(items) => items.iter().for_each(|v| strings(v, into)),
        Value::Object(fields) => fields.values().for_each(|v| strings(v, into)),
        _ => {}
    }
}

/// acceptance: A12
#[tokio::test(flavor = "multi_thread")]
async fn pools_of_different_environments_never_touch_each_other() {
    let world = World::start("apart").await;
    let shared = |end: &str| format!("5eed0000-0000-4000-8000-00000000{end}");
    // Two environments of one project, and another project; the same Secret for all.
    let pools = [
        ("dev", "dev", SHARED_PROJECT.to_owned(), shared("0021")),
        (
            "prod",
            "production",
            SHARED_PROJECT.to_owned(),
            shared("0023"),
        ),
        ("stg", "staging", PROJECT.to_owned(), ENVIRONMENT.to_owned()),
    ];
    for (name, environment, project, id) in &pools {
        let railway = json!({"project": {"projectId": project, "environmentId": id}});
        let spec = json!({"environment": environment, "minIdle": 2, "tickIntervalSeconds": 1,
            "deletionPolicy": "Destroy", "provider": {"railway": railway}});
        world.create_pool(name, spec).await;
    }
    world.wait_idle(6).await;
    for (name, ..) in &pools {
        let path = format!("/api/pool/claim?pool={name}");
        let body = json!({"agentName": format!("Agent {name}"), "instructions": "Be kind."});
        let answer = world.call(Method::POST, &path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap();
        let claimed = world.instance(id).await.unwrap();
        assert_eq!(claimed.spec.pool_ref.name, *name);
    }
    world.wait_idle(6).await;
    ticks(&world, 6).await;

    // The pool of dev goes with everything; the others do not notice.
    let state = |gone: &'static str| {
        let world = &world;
        async move {
            let state = world.sim.state("railway").await;
            let services = state["services"].as_array().unwrap().clone();
            let of_others = |s: &Value| !s["variables"]["POOL_ENVIRONMENT"].eq(&json!(gone));
            services.into_iter().filter(of_others).collect::<Vec<_>>()
        }
    };
    let before = state("dev").await;
    assert_eq!(before.len(), 6);
    let parameters = DeleteParams::default();
    world.pools().delete("dev", &parameters).await.unwrap();
    until("the pool of dev is gone", LONG, || async {
        let left = world.pools().get_opt("dev").await.unwrap();
        left.is_none().then_some(())
    })
    .await;
    assert_eq!(state("dev").await, before);
    assert_eq!(world.sim.live_services().await.len(), 6);
    assert_eq!(world.in_phase(Phase::Idle).await.len(), 4);

    // Whatever was ever said of a service was said in its own environment and project.
    let ledger = world.sim.ledger().await;
    let mut owner: BTreeMap<&str, &str> = BTreeMap::new();
    for resource in ledger["resources"].as_array().unwrap() {
        if resource["kind"] == "service" {
            let code = resource["name"].as_str().unwrap().split('-').nth(2);
            owner.insert(resource["id"].as_str().unwrap(), code.unwrap());
        }
    }
    assert_eq!(owner.len(), 9);
    let mut checked = 0;
    for call in world.sim.calls("railway").await {
        let mut said = vec![];
        strings(&call["variables"], &mut said);
        let mut of: Vec<&str> = said.iter().filter_map(|s| owner.get(s).copied()).collect();
        if call["operation"] == "RwServiceCreate" {
            let name = call["variables"]["input"]["name"].as_str().unwrap();
            of.push(name.split('-').nth(2).unwrap());
        }
        of.sort_unstable();
        of.dedup();
        assert!(of.len() <= 1, "two pools in one call: {call}");
        for pool in of {
            checked += 1;
            for (name, _, project, environment) in &pools {
                if *name != pool {
                    assert!(!said.contains(&environment.as_str()), "{pool}: {call}");
                    let same = pools.iter().any(|p| p.0 == pool && p.2 == *project);
                    assert!(same || !said.contains(&project.as_str()), "{pool}: {call}");
                }
            }
        }
    }
    assert!(checked >= 9 * 3, "{checked}");
    // Railway shows a service in every environment of its project; it runs and is reached in its own only.
    for service in state("").await {
        let code = owner[service["id"].as_str().unwrap()];
        let own = &pools.iter().find(|p| p.0 == code).unwrap().3;
        for instance in service["instances"].as_array().unwrap() {
            let count = usize::from(instance["environmentId"] == json!(own));
            for key in ["deployments", "domains"] {
                assert_eq!(
                    instance[key].as_array().map(Vec::len),
                    Some(count),
                    "{key}: {service}"
                );
            }
        }
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_our_mark_is_never_touched() {
    let world = World::bare("foreign").await;
    // Called as ours are; one with the mark of another installation, one without any.
    let foreign = |name: &str, mark: &str| {
        let mut variables = json!({"A": "1", "GATEWAY_TOKEN": "t", "OPENROUTER_API_KEY": "k"});
        if !mark.is_empty() {
            variables["AGENTPOOL_OWNER"] = json!(mark);
        }
        json!({"name": name, "projectId": PROJECT, "image": "nginx", "variables": variables, "deploy": true, "domain": true})
    };
    let names = ["convos-agent-stg-000000000000", "convos-agent-stg-manager"];
    let services = [
        foreign(names[0], "other-cluster/other/000000000000"),
        foreign(names[1], ""),
    ];
    world
        .sim
        .set("railway", json!({"services": services}))
        .await;
    let of = |state: Value| -> Vec<Value> {
        let all = state["services"].as_array().unwrap().clone();
        all.into_iter()
            .filter(|s| names.iter().any(|n| s["name"] == *n))
            .collect()
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
    assert_eq!(before.len(), 2);
    let mut world = world;
    world.start_operator(&[]);
    world
        .create_pool(
            POOL,
            json!({"minIdle": 2, "tickIntervalSeconds": 1, "deletionPolicy": "Destroy"}),
        )
        .await;
    world.wait_idle(2).await;
    assert_eq!(world.list().await.len(), 2, "not taken for instances");
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    for (method, path, body) in [
        (Method::POST, "/api/pool/replenish", json!({"count": 1})),
        (Method::POST, "/api/pool/drain", json!({"count": 20})),
        (Method::POST, "/api/pool/reconcile", json!({})),
    ] {
        let answer = world.call(method, path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    let parameters = DeleteParams::default();
    world.pools().delete(POOL, &parameters).await.unwrap();
    until("the pool is gone", LONG, || async {
        let left = world.pools().get_opt(POOL).await.unwrap();
        left.is_none().then_some(())
    })
    .await;
    assert_eq!(of(world.sim.state("railway").await), before);
    let ids: Vec<&str> = before.iter().map(|s| s["id"].as_str().unwrap()).collect();
    for call in world.sim.calls("railway").await {
        let mut said = vec![];
        strings(&call["variables"], &mut said);
        // Reading whose it is harms nobody.
        let about = said.iter().any(|s| ids.contains(s));
        assert!(!about || call["operation"] == "RwVariables", "{call}");
    }
    world
        .sim
        .set("railway", json!({"force": [{"service": names[0], "delete": true}, {"service": names[1], "delete": true}]}))
        .await;
    world.finish().await;
}
