//! An existing service becomes ours: its mark is put beside its variables, and nothing is deployed.

use agentpool::provider::{AgentProvider, Liveness, Owner, Resource};
use serde_json::{Value, json};

use super::project;
use super::script::*;

/// A service as a listing of our environment shows it.
fn shown(facts: &[(&str, &str)]) -> Resource {
    Resource {
        name: "convos-agent-old".to_owned(),
        id: "S".to_owned(),
        liveness: Liveness::Running,
        native_state: None,
        facts: known(facts),
        created_at: None,
    }
}

fn upserts(sent: &[(String, Value)]) -> Vec<&Value> {
    let upserts = sent.iter().filter(|(name, _)| name == "RwVariablesUpsert");
    upserts.map(|(_, variables)| variables).collect()
}

#[tokio::test]
async fn the_mark_is_put_beside_what_is_there_and_deploys_nothing() {
    let server = Script::default()
        .data("RwVariables", json!({"variables": {"GATEWAY_TOKEN": "t"}}))
        .data(
            "RwVariablesUpsert",
            json!({"variableCollectionUpsert": true}),
        )
        .start()
        .await;
    let resource = shown(&[("serviceId", "S"), ("deploymentId", "d")]);
    let owner = provider_at(&server.uri())
        .take_over(&key(), &resource)
        .await;
    assert_eq!(owner.unwrap(), Owner::Marked(MARK.to_owned()));
    let sent = sent(&server).await;
    let input = json!({"projectId": "P", "environmentId": "E", "serviceId": "S",
        "variables": {"AGENTPOOL_OWNER": MARK}, "replace": false, "skipDeploys": true});
    assert_eq!(upserts(&sent), [&json!({"input": input})]);
}

#[tokio::test]
async fn whose_deployment_is_in_another_environment_or_has_another_mark_is_left_alone() {
    let environments = json!([{"id": "E", "name": "staging"}, {"id": "E2", "name": "production"}]);
    let there = json!({"serviceInstance": {"serviceId": "S", "serviceName": "convos-agent-old",
        "latestDeployment": {"id": "d2", "status": "SUCCESS"}}});
    let server = Script::default()
        .data("RwProject", project(environments))
        .data("RwServiceInstance", there)
        .start()
        .await;
    let resource = shown(&[("serviceId", "S")]);
    let owner = provider_at(&server.uri())
        .take_over(&key(), &resource)
        .await;
    assert_eq!(owner.unwrap(), Owner::Elsewhere);
    assert!(upserts(&sent(&server).await).is_empty());

    let server = Script::default()
        .data("RwVariables", mark("cluster-2/agents/old"))
        .start()
        .await;
    let resource = shown(&[("serviceId", "S"), ("deploymentId", "d")]);
    let owner = provider_at(&server.uri())
        .take_over(&key(), &resource)
        .await;
    let other = Owner::Marked("cluster-2/agents/old".to_owned());
    assert_eq!(owner.unwrap(), other);
    assert!(upserts(&sent(&server).await).is_empty());
}
