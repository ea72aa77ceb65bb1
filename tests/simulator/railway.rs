//! The life of a service, names, tokens, limits and lags.

use super::process::{
    BEARER, IMAGE, PROJECT, PROJECT_TOKEN, STAGING, Simulator, document, text, until,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_service_lives_from_create_to_delete() {
    let sim = Simulator::start(20).await;
    let (service, deployment, host) = sim.launch("w-1", IMAGE).await;
    assert_eq!(host, "w-1-staging.up.railway.app");
    assert_eq!(sim.get("nobody.up.railway.app", "/").await.0, 404);
    let (mut statuses, mut codes) = (Vec::new(), Vec::new());
    until("ready", || async { true }).await;
    loop {
        let (code, body) = sim.get(&host, "/pool/health").await;
        let status = sim.status_of(&deployment).await;
        if statuses.last() != Some(&status) {
            statuses.push(status);
        }
        if codes.last() != Some(&code) {
            codes.push(code);
        }
        if code == 404 {
            assert_eq!(body["message"], "Application not found");
        }
        if code == 200 {
            assert_eq!(
                body,
                json!({"ready": true, "version": "0.3.4", "runtime": "openclaw"})
            );
            break;
        }
    }
    assert_eq!(statuses, ["INITIALIZING", "DEPLOYING", "SUCCESS"]);
    assert_eq!(codes, [404, 502, 503, 200]);

    let fleet = sim
        .gql("RwFleet", json!({"environmentId": STAGING, "first": 500}))
        .await;
    let node = &fleet.data("environment")["serviceInstances"]["edges"][0]["node"];
    assert_eq!(node["serviceName"], "w-1");
    assert_eq!(node["latestDeployment"]["staticUrl"], host.as_str());
    assert_eq!(node["latestDeployment"]["deploymentStopped"], false);
    assert_eq!(
        node["latestDeployment"]["instances"][0]["status"],
        "RUNNING"
    );

    let deleted = sim.gql("RwServiceDelete", json!({"id": service})).await;
    assert_eq!(deleted.data("serviceDelete"), true);
    let gone = sim
        .gql(
            "RwServiceInstance",
            json!({"serviceId": service, "environmentId": STAGING}),
        )
        .await;
    assert_eq!(gone.message(), "ServiceInstance not found");
    let again = sim.gql("RwServiceDelete", json!({"id": service})).await;
    assert_eq!(again.message(), "Not Authorized");
    assert_eq!(sim.get(&host, "/pool/health").await.0, 404);
    let ledger = sim.ledger().await;
    let resource = &ledger["resources"][0];
    assert_eq!(
        (&resource["name"], &resource["owner"]),
        (&json!("w-1"), &json!("test/w-1"))
    );
    assert_eq!(resource["createdBy"], "serviceCreate");
    assert!(resource["deletedAt"].is_string());
    assert_eq!(
        ledger["deploymentsByService"][&service],
        json!([deployment])
    );
}

#[tokio::test]
async fn a_deployment_copies_variables_and_the_domain_if_there_is_one() {
    let sim = Simulator::start(20).await;
    let (service, _, host) = sim.launch("w-1", IMAGE).await;
    let state = sim.control("GET", "railway/state", Value::Null).await.1;
    let snapshot = &state["services"][0]["deployments"][0]["snapshot"];
    assert_eq!(snapshot["image"], IMAGE);
    assert_eq!(
        snapshot["variables"]["RAILWAY_PUBLIC_DOMAIN"],
        host.as_str()
    );
    assert_eq!(snapshot["variables"]["INSTANCE_ID"], "w-1");
    let place = json!({"projectId": PROJECT, "environmentId": STAGING, "serviceId": service});
    let mut input = place.clone();
    input["variables"] = json!({"LATER": "1"});
    input["skipDeploys"] = true.into();
    sim.gql("RwVariablesUpsert", json!({"input": input}))
        .await
        .data("variableCollectionUpsert");
    let state = sim.control("GET", "railway/state", Value::Null).await.1;
    assert!(state["services"][0]["deployments"][0]["snapshot"]["variables"]["LATER"].is_null());
    let read = sim.gql("RwVariables", place).await;
    assert_eq!(read.data("variables")["LATER"], "1");
    assert_eq!(read.data("variables")["AGENTPOOL_OWNER"], "test/w-1");
    // Without a domain there is no public name.
    let bare = text(&sim.create_service("w-2", IMAGE).await.data("serviceCreate")["id"]);
    sim.gql(
        "RwDeploy",
        json!({"serviceId": bare, "environmentId": STAGING}),
    )
    .await;
    let state = sim.control("GET", "railway/state", Value::Null).await.1;
    assert!(
        state["services"][1]["deployments"][0]["snapshot"]["variables"]["RAILWAY_PUBLIC_DOMAIN"]
            .is_null()
    );
}

#[tokio::test]
async fn one_of_many_simultaneous_creates_of_a_name_wins() {
    let sim = Simulator::start(1).await;
    let creates = (0..8).map(|_| sim.create_service("same", IMAGE));
    let answers = futures::future::join_all(creates).await;
    let won = answers
        .iter()
        .filter(|a| a.body["errors"].is_null())
        .count();
    assert_eq!(won, 1);
    let lost = answers
        .iter()
        .find(|a| a.body["errors"].is_array())
        .expect("somebody lost");
    assert_eq!(lost.status, 200);
    assert_eq!(
        lost.message(),
        "A service named \"same\" already exists in this project"
    );
    assert_eq!(lost.code(), "BAD_USER_INPUT");
    let ledger = sim.ledger().await;
    assert_eq!(ledger["resources"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_header_decides_what_a_token_is() {
    let sim = Simulator::start(1).await;
    let ask = async |header: &str, token: &str, name: &str, variables: Value| {
        let sent = sim
            .send((header, token), &document(name), variables)
            .await
            .expect("an answer");
        assert_eq!(sent.status, 200);
        sent
    };
    let (bearer, project) = ("Authorization", "Project-Access-Token");
    let right = ask(bearer, BEARER, "RwApiToken", json!({})).await;
    assert_eq!(
        right.data("apiToken")["workspaces"][0]["name"],
        "quickstart"
    );
    let right = ask(project, PROJECT_TOKEN, "RwProjectToken", json!({})).await;
    assert_eq!(right.data("projectToken")["environmentId"], STAGING);
    let fleet = json!({"environmentId": STAGING, "first": 1});
    ask(project, PROJECT_TOKEN, "RwFleet", fleet.clone())
        .await
        .data("environment");
    for (header, token, name, variables, message) in [
        (
            bearer,
            PROJECT_TOKEN,
            "RwProjectToken",
            json!({}),
            "Project Token not found",
        ),
        (
            bearer,
            PROJECT_TOKEN,
            "RwFleet",
            fleet.clone(),
            "Not Authorized",
        ),
        (project, BEARER, "RwFleet", fleet.clone(), "Not Authorized"),
        (
            bearer,
            "no-such-token",
            "RwApiToken",
            json!({}),
            "Not Authorized",
        ),
        (bearer, BEARER, "RwMe", json!({}), "Not Authorized"),
        (
            project,
            PROJECT_TOKEN,
            "RwProjects",
            json!({}),
            "Not Authorized",
        ),
        (
            project,
            PROJECT_TOKEN,
            "RwFleet",
            json!({"environmentId": "5eed0000-0000-4000-8000-000000000022", "first": 1}),
            "Not Authorized",
        ),
    ] {
        assert_eq!(
            ask(header, token, name, variables).await.message(),
            message,
            "{header} {name}"
        );
    }
}

#[tokio::test]
async fn beyond_the_quota_requests_are_answered_429() {
    let sim = Simulator::start(1).await;
    let first = sim.gql("RwRegions", json!({})).await;
    assert_eq!(
        first.headers["ratelimit-policy"],
        "\"default\";q=10000;w=3600"
    );
    sim.put("railway", json!({"limits": {"perHour": 3, "perSecond": 0}}))
        .await;
    for _ in 0..3 {
        let allowed = sim.gql("RwRegions", json!({})).await;
        assert_eq!(allowed.status, 200);
        assert_eq!(
            allowed.headers["ratelimit-policy"],
            "\"default\";q=3;w=3600"
        );
        assert!(!allowed.headers.contains_key("retry-after"));
    }
    let refused = sim.create_service("w-1", IMAGE).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["x-ratelimit-remaining"], "0");
    let wait: u64 = refused.headers["retry-after"]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!((3500..=3600).contains(&wait));
    assert!(refused.body["errors"].is_array());
    assert_eq!(sim.ledger().await["resources"], json!([]), "it did not run");
}

#[tokio::test]
async fn listings_lag_and_direct_reads_do_not() {
    let sim = Simulator::start(20).await;
    sim.put(
        "railway",
        json!({"timings": {"list_lag_create": 20, "list_lag_delete": 20, "service_delete": 0}}),
    )
    .await;
    let service = text(&sim.create_service("w-1", IMAGE).await.data("serviceCreate")["id"]);
    let listed = async || {
        let list = sim
            .gql("RwFleet", json!({"environmentId": STAGING, "first": 10}))
            .await;
        list.data("environment")["serviceInstances"]["edges"]
            .as_array()
            .is_some_and(|e| !e.is_empty())
    };
    let direct = json!({"serviceId": service, "environmentId": STAGING});
    assert!(!listed().await, "not in the list yet");
    sim.gql("RwServiceInstance", direct.clone())
        .await
        .data("serviceInstance");
    until("listed", &listed).await;
    sim.gql("RwServiceDelete", json!({"id": service}))
        .await
        .data("serviceDelete");
    assert!(listed().await, "still in the list");
    assert_eq!(
        sim.gql("RwServiceInstance", direct).await.message(),
        "ServiceInstance not found"
    );
    until("no longer listed", || async { !listed().await }).await;
}

#[tokio::test]
async fn a_bad_image_fails_and_leaves_the_old_deployment_serving() {
    let sim = Simulator::start(20).await;
    let (service, first, host) = sim.ready_agent("w-1").await;
    let input = json!({"source": {"image": "ghcr.io/acme/missing:1"}, "numReplicas": 1});
    let place = json!({"serviceId": service, "environmentId": STAGING});
    let mut update = place.clone();
    update["input"] = input;
    sim.gql("RwServiceInstanceUpdate", update)
        .await
        .data("serviceInstanceUpdate");
    let second = text(
        sim.gql("RwDeploy", place.clone())
            .await
            .data("serviceInstanceDeployV2"),
    );
    sim.until_status(&second, "FAILED").await;
    let failed = sim.gql("RwDeployment", json!({"id": second})).await;
    assert!(failed.data("deployment")["meta"]["imageDigest"].is_null());
    assert_eq!(sim.status_of(&first).await, "SUCCESS");
    assert_eq!(sim.get(&host, "/pool/health").await.0, 200);
    let both = sim.gql("RwServiceInstance", place).await;
    let instance = both.data("serviceInstance");
    assert_eq!(instance["latestDeployment"]["id"], second.as_str());
    assert_eq!(instance["activeDeployments"][0]["id"], first.as_str());
}

#[tokio::test]
async fn a_good_successor_takes_over() {
    let sim = Simulator::start(20).await;
    let (service, first, host) = sim.ready_agent("w-1").await;
    let place = json!({"serviceId": service, "environmentId": STAGING});
    let second = text(
        sim.gql("RwDeploy", place)
            .await
            .data("serviceInstanceDeployV2"),
    );
    until("the old one serves while the new one comes", || async {
        sim.get(&host, "/pool/health").await.0 == 200 || sim.status_of(&second).await == "SUCCESS"
    })
    .await;
    sim.until_status(&first, "REMOVED").await;
    assert_eq!(sim.status_of(&second).await, "SUCCESS");
    sim.until_ready(&host).await;
}

#[tokio::test]
async fn stop_keeps_the_status_and_restart_brings_it_back() {
    let sim = Simulator::start(20).await;
    let (_, deployment, host) = sim.ready_agent("w-1").await;
    sim.gql("RwStop", json!({"id": deployment}))
        .await
        .data("deploymentStop");
    until("stopped", || async {
        let read = sim.gql("RwDeployment", json!({"id": deployment})).await;
        let d = read.data("deployment");
        d["deploymentStopped"] == true
            && d["status"] == "SUCCESS"
            && d["instances"][0]["status"] == "EXITED"
    })
    .await;
    let limit = std::time::Duration::from_millis(100);
    assert!(
        !sim.post_for(limit, &host, "/pool/provision", json!({}))
            .await,
        "a stopped one hangs"
    );
    sim.gql("RwRestart", json!({"id": deployment}))
        .await
        .data("deploymentRestart");
    sim.until_ready(&host).await;
}

#[tokio::test]
async fn a_forced_deletion_and_a_forced_crash_show() {
    let sim = Simulator::start(20).await;
    let (service, deployment, host) = sim.ready_agent("w-1").await;
    sim.put(
        "railway",
        json!({"force": [{"service": "w-1", "deployment": {"status": "CRASHED"}}]}),
    )
    .await;
    assert_eq!(sim.status_of(&deployment).await, "CRASHED");
    assert_eq!(sim.get(&host, "/pool/health").await.0, 502);
    sim.put(
        "railway",
        json!({"force": [{"service": service, "rename": "other"}]}),
    )
    .await;
    let services = sim
        .gql("RwServices", json!({"projectId": PROJECT, "first": 10}))
        .await;
    assert_eq!(
        services.data("project")["services"]["edges"][0]["node"]["name"],
        "other"
    );
    sim.put(
        "railway",
        json!({"force": [{"service": "other", "delete": true}]}),
    )
    .await;
    assert_eq!(sim.ledger().await["resources"][0]["exists"], false);
}

#[tokio::test]
async fn a_repository_is_deployed_at_once_and_becomes_a_gateway() {
    let sim = Simulator::start(50).await;
    let input = json!({"projectId": PROJECT, "name": "repo", "branch": "main", "source": {"repo": "acme/agent"},
        "variables": {"GATEWAY_AUTH_TOKEN": super::process::TOKEN}});
    let created = sim.gql("RwServiceCreate", json!({"input": input})).await;
    let service = text(&created.data("serviceCreate")["id"]);
    let place = json!({"environmentId": STAGING, "serviceId": service});
    let domain = sim.gql("RwDomainCreate", json!({"input": place})).await;
    let host = text(&domain.data("serviceDomainCreate")["domain"]);
    let instance = sim.gql("RwServiceInstance", place).await;
    let deployment = text(&instance.data("serviceInstance")["latestDeployment"]["id"]);
    sim.until_status(&deployment, "BUILDING").await;
    until("the gateway answers", || async {
        sim.get(&host, "/convos/status").await.1
            == json!({"ready": true, "conversation": null, "streaming": false})
    })
    .await;
}

#[tokio::test]
async fn a_patch_is_applied_in_the_background_and_only_if_it_differs() {
    let sim = Simulator::start(5).await;
    let service = text(&sim.create_service("w-1", IMAGE).await.data("serviceCreate")["id"]);
    let patch = json!({"services": {service.clone(): {"variables": {"A": {"value": "1"}}}}});
    let variables = json!({"environmentId": STAGING, "patch": patch});
    let committed = sim.gql("RwPatchCommit", variables.clone()).await;
    assert!(committed.data("environmentPatchCommit").is_string());
    let racing = json!({"input": {"environmentId": STAGING, "serviceId": service}});
    let refused = sim.gql("RwDomainCreate", racing).await;
    assert_eq!(
        refused.message(),
        "Failed to create service domain, please try again"
    );
    until("applied", || async {
        let patches = sim
            .gql("RwPatches", json!({"environmentId": STAGING}))
            .await;
        patches.data("environmentPatches")["edges"][0]["node"]["status"] == "COMMITTED"
    })
    .await;
    sim.gql("RwPatchCommit", variables)
        .await
        .data("environmentPatchCommit");
    let made = sim.ledger().await["deploymentsByService"][&service].clone();
    assert_eq!(
        made.as_array().map(Vec::len),
        Some(1),
        "the same patch again deploys nothing"
    );
}

#[tokio::test]
async fn a_volume_keeps_the_conversation_over_a_restart() {
    let sim = Simulator::start(20).await;
    let created = sim.create_service("w-1", IMAGE).await;
    let service = text(&created.data("serviceCreate")["id"]);
    let place = json!({"environmentId": STAGING, "serviceId": service});
    let mut input = place.clone();
    input["projectId"] = PROJECT.into();
    input["mountPath"] = "/data".into();
    // A source is set, so this is its first deployment.
    sim.gql("RwVolumeCreate", json!({"input": input}))
        .await
        .data("volumeCreate");
    let domain = sim.gql("RwDomainCreate", json!({"input": place})).await;
    let host = text(&domain.data("serviceDomainCreate")["domain"]);
    sim.until_ready(&host).await;
    let claim = json!({"agentName": "Ada", "instructions": "be kind"});
    let bound = sim.post(&host, "/pool/provision", claim).await.1["conversationId"].clone();
    let instance = sim.gql("RwServiceInstance", place).await;
    let deployment = text(&instance.data("serviceInstance")["latestDeployment"]["id"]);
    sim.gql("RwRestart", json!({"id": deployment}))
        .await
        .data("deploymentRestart");
    sim.until_ready(&host).await;
    assert_eq!(
        sim.get(&host, "/convos/status").await.1["conversationId"],
        bound
    );
}
