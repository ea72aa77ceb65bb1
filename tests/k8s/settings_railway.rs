//! Settings of a pool about Railway: token, project, environment, image.

use std::collections::BTreeSet;
use std::time::Duration;

use agentpool::api::AgentPool;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::support::simulator::{ENVIRONMENT, PROJECT, PROJECT_TOKEN, SHARED_PROJECT, TOKEN};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};

/// The environments of [`SHARED_PROJECT`].
const SHARED: [(&str, &str); 3] = [
    ("dev", "5eed0000-0000-4000-8000-000000000021"),
    ("staging", "5eed0000-0000-4000-8000-000000000022"),
    ("production", "5eed0000-0000-4000-8000-000000000023"),
];

fn railway(change: Value) -> Value {
    json!({"minIdle": 1, "tickIntervalSeconds": 1, "provider": {"railway": change}})
}

fn in_project(project: &str, environment: Value) -> Value {
    let mut place = json!({"projectId": project, "environmentId": null, "environmentName": null});
    crate::support::world::merge(&mut place, &environment);
    railway(json!({"project": place}))
}

/// Waits for the condition that the provider is not reachable for this reason; its message.
async fn trouble(world: &World, reason: &str) -> String {
    until(reason, LONG, || async {
        let (status, found, message) = world.pool_condition("ProviderReachable").await?;
        let ready = world.pool_condition("Ready").await?;
        (status == "False" && found == reason && ready.0 == "False" && ready.1 == reason)
            .then_some(message)
    })
    .await
}

/// acceptance: E14
#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_in_the_header_of_its_kind() {
    for (kind, token, header) in [
        ("Bearer", TOKEN, "bearer"),
        ("Project", PROJECT_TOKEN, "project"),
    ] {
        let world = World::start("token-kind").await;
        world.secret("railway", "token", token).await;
        world
            .create_pool(POOL, railway(json!({"tokenKind": kind})))
            .await;
        world.wait_idle(1).await;
        let calls = world.sim.calls("railway").await;
        assert!(calls.len() > 5, "{calls:?}");
        for call in calls {
            assert_eq!(call["header"], header, "{call}");
            let masked = call["token"].as_str().unwrap();
            assert!(masked.starts_with(&token[..4]) && masked.ends_with(&token[token.len() - 4..]));
        }
        world.finish().await;
    }
}

/// Railway says `Project Token not found` only to a query that we do not send with such a token: armed as a fault.
///
/// acceptance: E14
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_other_kind_is_a_condition_that_names_token_kind() {
    let not_found = json!({"match": {"field": "projectToken"}, "fault": {"kind": "gql_error", "message": "Project Token not found"}});
    for (kind, token, fault, says, right) in [
        ("Bearer", PROJECT_TOKEN, None, "Not Authorized", "Project"),
        ("Project", TOKEN, None, "Not Authorized", "Bearer"),
        (
            "Project",
            TOKEN,
            Some(not_found),
            "Project Token not found",
            "Bearer",
        ),
    ] {
        let mut world = World::start("wrong-kind").await;
        world.secret("railway", "token", token).await;
        if let Some(rule) = fault {
            world.sim.fault("railway", rule).await;
        }
        world
            .create_pool(POOL, railway(json!({"tokenKind": kind})))
            .await;
        let message = trouble(&world, "CredentialsInvalid").await;
        assert!(
            message.contains(says) && message.contains("railway.tokenKind"),
            "{message}"
        );
        assert!(
            message.contains(&format!("now {kind}")) && !message.contains(token),
            "{message}"
        );
        let refused = world.sim.calls("railway").await;
        assert!(
            refused.iter().all(|c| c["status"] == 200),
            "refused inside a 200: {refused:?}"
        );
        assert!(world.list().await.is_empty());
        assert!(world.operator().runs());

        world
            .patch_pool(json!({"provider": {"railway": {"tokenKind": right}}}))
            .await;
        world.wait_idle(1).await;
        world.finish().await;
    }
}

/// acceptance: E15, E16
#[tokio::test(flavor = "multi_thread")]
async fn project_and_environment_are_where_everything_is_created_and_listed() {
    let (_, environment) = SHARED[2];
    let place = json!({"environmentId": environment});
    let world = World::start("project").await;
    let mut spec = in_project(SHARED_PROJECT, place);
    spec["environment"] = json!("production");
    world.create_pool(POOL, spec).await;
    let idle = world.wait_idle(1).await;
    let provider = idle[0].spec.provider.as_ref().unwrap();
    assert_eq!(provider.project_id.as_deref(), Some(SHARED_PROJECT));
    assert_eq!(provider.environment_id.as_deref(), Some(environment));

    let calls = world.sim.calls("railway").await;
    let of = |operation: &str| -> Vec<&Value> {
        let all: Vec<_> = calls
            .iter()
            .filter(|c| c["operation"] == operation)
            .collect();
        assert!(!all.is_empty(), "no {operation}");
        all.into_iter().map(|c| &c["variables"]).collect()
    };
    for create in of("RwServiceCreate") {
        assert_eq!(create["input"]["projectId"], SHARED_PROJECT, "{create}");
        assert_eq!(create["input"]["environmentId"], environment, "{create}");
    }
    for listing in of("RwFleet") {
        assert_eq!(listing["environmentId"], environment, "{listing}");
    }
    for look in of("RwProject") {
        assert_eq!(look["id"], SHARED_PROJECT, "{look}");
    }
    let text = serde_json::to_string(&calls).unwrap();
    assert!(
        !text.contains(PROJECT) && !text.contains(ENVIRONMENT),
        "nothing elsewhere"
    );
    let services = world.sim.state("railway").await["services"].clone();
    let services = services.as_array().unwrap();
    assert!(
        services.iter().all(|s| s["projectId"] == SHARED_PROJECT),
        "{services:?}"
    );
    world.finish().await;
}

/// Two environments of one project, and a stranger in it that is called as if it were ours.
///
/// acceptance: E16, H04
#[tokio::test(flavor = "multi_thread")]
async fn services_of_other_environments_do_not_exist_for_us() {
    let world = World::start("shared-project").await;
    let stranger = json!({"name": "convos-agent-dev-strange00000", "projectId": SHARED_PROJECT, "image": "nginx", "deploy": true, "domain": true});
    world
        .sim
        .set("railway", json!({"services": [stranger]}))
        .await;
    for (name, (environment, _)) in [(POOL, SHARED[0]), ("second", SHARED[1])] {
        let mut spec = in_project(SHARED_PROJECT, json!({"environmentName": environment}));
        spec["environment"] = json!(environment);
        spec["minIdle"] = json!(2);
        world.create_pool(name, spec).await;
    }
    world.wait_idle(4).await;
    let names = async |pool: &str| -> BTreeSet<String> {
        let all = world.list().await.into_iter();
        let own = all.filter(|i| i.spec.pool_ref.name == pool);
        own.map(|i| i.spec.provider_name).collect()
    };
    let (first, second) = (names(POOL).await, names("second").await);
    assert_eq!((first.len(), second.len()), (2, 2));

    let state = world.sim.state("railway").await;
    for (pool, own, (code, environment)) in
        [(POOL, &first, SHARED[0]), ("second", &second, SHARED[1])]
    {
        let listed = state["services"].as_array().unwrap().iter();
        for service in listed.filter(|s| own.contains(s["name"].as_str().unwrap())) {
            let deployed: Vec<_> = service["instances"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|i| !i["deployments"].as_array().unwrap().is_empty())
                .map(|i| i["environmentId"].as_str().unwrap())
                .collect();
            assert_eq!(deployed, [environment], "{pool} ({code}): {service}");
        }
    }

    // One pool goes; the other's services and the stranger stay.
    world.kubectl(&["delete", "ap", "second", "--timeout=30s"]);
    until("the second pool's agents are gone", LONG, || async {
        names("second").await.is_empty().then_some(())
    })
    .await;
    let live = async || -> BTreeSet<String> {
        let all = world.sim.live_services().await;
        all.iter()
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut left = first.clone();
    left.insert("convos-agent-dev-strange00000".to_owned());
    assert_eq!(live().await, left);
    holds(
        "nothing else is touched",
        Duration::from_millis(2500),
        || async { live().await == left && names(POOL).await == first },
    )
    .await;
    world.finish().await;
}

/// acceptance: E17
#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_found_by_name_in_any_case_and_an_unknown_one_lists_the_known() {
    let world = World::start("environment-name").await;
    let nowhere = in_project(SHARED_PROJECT, json!({"environmentName": "stageing"}));
    world.create_pool(POOL, nowhere).await;
    let message = trouble(&world, "EnvironmentNotFound").await;
    assert!(message.contains("environmentName stageing"), "{message}");
    for (name, id) in SHARED {
        assert!(message.contains(name) && message.contains(id), "{message}");
    }
    assert!(world.list().await.is_empty() && world.sim.services_ever().await.is_empty());

    world
        .patch_pool(json!({"provider": {"railway": {"project": {"environmentName": "sTaGiNg"}}}}))
        .await;
    let idle = world.wait_idle(1).await;
    let provider = idle[0].spec.provider.as_ref().unwrap();
    assert_eq!(provider.environment_id.as_deref(), Some(SHARED[1].1));
    let resolved = world.wait_ready().await.status.unwrap().resolved;
    assert_eq!(resolved["environmentId"], SHARED[1].1);
    world.finish().await;
}

/// acceptance: E18
#[tokio::test(flavor = "multi_thread")]
async fn the_image_that_is_set_is_deployed_else_the_default() {
    let world = World::start("image").await;
    let source = |image: Value| railway(json!({"source": {"image": image}}));
    let set = "ghcr.io/xmtplabs/convos-runtime:9.9.9";
    world
        .create_pool(POOL, source(json!({"reference": set})))
        .await;
    // By kubectl: the default is the API server's.
    let mut unset: AgentPool = world.pool().await;
    unset.metadata = kube::api::ObjectMeta {
        name: Some("unset".to_owned()),
        ..Default::default()
    };
    unset.status = None;
    let mut unset = serde_json::to_value(&unset).unwrap();
    let image = &mut unset["spec"]["provider"]["railway"]["source"]["image"];
    image.as_object_mut().unwrap().remove("reference");
    let file = format!(
        "{}/{}.json",
        env!("CARGO_TARGET_TMPDIR"),
        world.namespace.name()
    );
    std::fs::write(&file, unset.to_string()).unwrap();
    world.kubectl(&["create", "-f", &file]);
    std::fs::remove_file(&file).unwrap();

    for instance in world.wait_idle(2).await {
        let expected = match instance.spec.pool_ref.name.as_str() {
            POOL => set,
            _ => "ghcr.io/xmtplabs/convos-runtime:latest",
        };
        let service = world
            .sim
            .service(&instance.spec.provider_name)
            .await
            .unwrap();
        assert_eq!(
            service["source"]["image"],
            expected,
            "{}",
            instance.name_any()
        );
        let deployments = service["deployments"].as_array().unwrap();
        assert_eq!(deployments.len(), 1, "{service}");
        assert_eq!(deployments[0]["snapshot"]["image"], expected);
    }
    world.finish().await;
}
