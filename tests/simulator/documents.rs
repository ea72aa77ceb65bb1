//! Railway's schema is executed as a whole: every document of the contract is answered, and a
//! misspelt field is not.

use super::process::{BEARER, PROJECT, STAGING, Simulator, document};
use serde_json::{Value, json};

fn names() -> Vec<String> {
    let folder = format!("{}/tests/data/railway", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> = files
        .filter_map(|f| f.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Variables that fit any of the documents by name: real ids where there are some.
fn variables(service: &str, deployment: &str, query: &str) -> Value {
    let header = query.split('{').next().unwrap_or_default();
    let mut all = json!({
        "projectId": PROJECT, "environmentId": STAGING, "serviceId": service, "deploymentId": deployment,
        "workspaceId": "5eed0000-0000-4000-8000-0000000000aa", "volumeId": "v", "ids": [PROJECT, "gone"],
        "first": 10, "limit": 10, "startDate": "2026-01-01T00:00:00.000Z", "measurements": ["CPU_USAGE"],
        "patch": {"services": {}}, "url": "http://127.0.0.1:1/", "payload": "{}",
    });
    all["id"] = match query {
        q if q.contains("deployment") => deployment.into(),
        q if q.contains("project(") || q.contains("project") => PROJECT.into(),
        _ => service.into(),
    };
    all["input"] = input(service, query);
    let all = all.as_object().expect("an object").clone();
    all.into_iter()
        .filter(|(name, _)| header.contains(&format!("${name}:")))
        .collect()
}

fn input(service: &str, query: &str) -> Value {
    let place = json!({"projectId": PROJECT, "environmentId": STAGING, "serviceId": service});
    let mut input = match query {
        q if q.contains("ProjectCreateInput") => {
            json!({"name": "new", "workspaceId": "5eed0000-0000-4000-8000-0000000000aa"})
        }
        q if q.contains("ProjectUpdateInput") => json!({"description": "seen"}),
        q if q.contains("ProjectTokenCreateInput") => {
            json!({"projectId": PROJECT, "environmentId": STAGING, "name": "t"})
        }
        q if q.contains("ServiceCreateInput") => json!({"projectId": PROJECT, "name": "another"}),
        q if q.contains("ServiceConnectInput") => json!({"image": "nginx"}),
        q if q.contains("ServiceUpdateInput") => json!({"name": "renamed"}),
        q if q.contains("ServiceInstanceUpdateInput") => json!({"numReplicas": 1}),
        q if q.contains("ServiceDomainCreateInput") => {
            json!({"environmentId": STAGING, "serviceId": service})
        }
        q if q.contains("ServiceInstanceLimitsUpdateInput") => {
            json!({"environmentId": STAGING, "serviceId": service, "vCPUs": 4})
        }
        q if q.contains("CreateNotificationRuleInput") => {
            json!({"workspaceId": "w", "eventTypes": [], "channelConfigs": []})
        }
        q if q.contains("DeploymentListInput") || q.contains("VolumeCreateInput") => place.clone(),
        q if q.contains("Variable") || q.contains("AutoDeploy") => place.clone(),
        _ => json!({}),
    };
    if query.contains("AutoDeploy") {
        input["enabled"] = false.into();
    }
    if query.contains("VolumeCreateInput") {
        input["mountPath"] = "/data".into();
    }
    if query.contains("VariableCollectionUpsertInput") {
        input["variables"] = json!({"A": "1"});
        input["skipDeploys"] = true.into();
    }
    if query.contains("VariableDeleteInput") {
        input["name"] = "A".into();
    }
    input
}

/// Documents that end what the others need run last.
fn is_last(name: &str) -> bool {
    name.contains("Delete")
        || ["RwStop", "RwCancel", "RwRemove", "RwServiceDisconnect"].contains(&name)
}

#[tokio::test]
async fn every_document_is_answered_and_a_misspelt_one_is_refused() {
    let sim = Simulator::start(20).await;
    let (service, deployment, _) = sim.ready_agent("w-1").await;
    let mut names = names();
    assert_eq!(names.len(), 61, "the contract has 61 documents");
    names.sort_by_key(|name| is_last(name));
    let mut not_simulated = Vec::new();
    for name in &names {
        let query = document(name);
        let sent = sim.send(
            ("Authorization", BEARER),
            &query,
            variables(&service, &deployment, &query),
        );
        let answer = sent.await.expect("an answer comes");
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert!(answer.headers.contains_key("ratelimit-policy"), "{name}");
        assert!(answer.body.get("data").is_some(), "{name}: {}", answer.body);
        assert!(
            !answer.code().starts_with("GRAPHQL"),
            "{name}: {}",
            answer.body
        );
        for error in answer.body["errors"].as_array().into_iter().flatten() {
            assert!(
                error["path"].is_array() && error["locations"].is_array(),
                "{name}: {error}"
            );
            assert!(
                error["traceId"]
                    .as_str()
                    .is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()))
            );
        }
        if answer.message().contains("not simulated") {
            assert_eq!(answer.code(), "INTERNAL_SERVER_ERROR");
            not_simulated.push(name.as_str());
        }
    }
    let known = [
        "RwDeploymentSub",
        "RwWebhookTest",
        "RwProjectScheduleDelete",
    ];
    not_simulated.sort_unstable();
    let mut known = known.to_vec();
    known.sort_unstable();
    assert_eq!(not_simulated, known);

    let misspelt = document("RwFleet").replace("serviceName", "serviceNmae");
    let variables = json!({"environmentId": STAGING, "first": 10});
    let answer = sim
        .send(("Authorization", BEARER), &misspelt, variables)
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status, answer.code()),
        (400, "GRAPHQL_VALIDATION_FAILED")
    );
    assert!(answer.message().contains("serviceNmae"));
}

#[tokio::test]
async fn it_is_the_document_that_counts_not_its_operation_name() {
    let sim = Simulator::start(1).await;
    let query = "query RwServiceDelete { alias: regions { where: location } __typename }";
    let answer = sim
        .send(("Authorization", BEARER), query, json!({}))
        .await
        .expect("an answer");
    assert_eq!(answer.data("alias")[0], json!({"where": "California"}));
    let introspection = "{ __schema { queryType { name } types { name } } }";
    let answer = sim
        .send(("Authorization", BEARER), introspection, json!({}))
        .await
        .expect("an answer");
    assert_eq!(answer.data("__schema")["queryType"]["name"], "Query");
    let broken = sim
        .send(("Authorization", BEARER), "{ regions {", json!({}))
        .await
        .expect("an answer");
    assert_eq!(
        (broken.status, broken.code()),
        (400, "GRAPHQL_PARSE_FAILED")
    );
}

#[tokio::test]
async fn mutations_of_one_document_run_in_order() {
    let sim = Simulator::start(1).await;
    let query = "mutation M($p: String!) {
        a: serviceCreate(input: {projectId: $p, name: \"one\"}) { name }
        b: serviceCreate(input: {projectId: $p, name: \"two\"}) { name }
        c: serviceCreate(input: {projectId: $p, name: \"one\"}) { name } }";
    let answer = sim
        .send(("Authorization", BEARER), query, json!({"p": PROJECT}))
        .await
        .expect("an answer");
    assert!(
        answer.body["data"].is_null(),
        "one failing root field loses the whole answer"
    );
    assert_eq!(answer.body["errors"][0]["path"], json!(["c"]));
    let services = sim
        .gql("RwServices", json!({"projectId": PROJECT, "first": 10}))
        .await;
    let edges = services.data("project")["services"]["edges"].clone();
    assert_eq!(edges.as_array().map(Vec::len), Some(2));
}
