//! A project for each agent, on the wire.

use std::time::Duration;

use agentpool::api::agent_pool::TokenKind;
use agentpool::api::condition::Reason;
use agentpool::provider::railway::{EnvironmentRef, RailwayProvider};
use agentpool::provider::{AgentProvider, Class, Facts, Inputs, Outcome, Presence, Seen};
use serde_json::{Value, json};
use wiremock::MockServer;

use crate::script::*;

const NAME: &str = "convos-agent-stg-7f3a9c21k4mz";

fn provider(server: &MockServer) -> RailwayProvider {
    let workspace = EnvironmentRef::Workspace("W".to_owned());
    RailwayProvider::new(config(&server.uri(), TokenKind::Bearer, workspace)).unwrap()
}

fn project(id: &str, name: &str, mark: Option<&str>, created: &str) -> Value {
    let description = mark.map(|m| format!("AGENTPOOL_OWNER={m}"));
    let page = json!({"endCursor": null, "hasNextPage": false});
    json!({"id": id, "name": name, "description": description, "createdAt": created, "deletedAt": null,
        "environments": {"edges": [{"node": {"id": "E", "name": "production"}}], "pageInfo": page}})
}

fn page(projects: &[Value]) -> Value {
    let edges: Vec<Value> = projects.iter().map(|p| json!({ "node": p })).collect();
    json!({"projects": {"edges": edges, "pageInfo": {"endCursor": null, "hasNextPage": false}}})
}

/// Ours twice (a creation that was sent twice), one of another cluster, one by hand, one of another agent.
fn many() -> Value {
    page(&[
        project("second", NAME, Some(MARK), "2026-10-05T20:00:00Z"),
        project("first", NAME, Some(MARK), "2026-10-05T19:00:00Z"),
        project(
            "other",
            NAME,
            Some("cluster-2/agents/7f3a9c21k4mz"),
            "2026-10-05T18:00:00Z",
        ),
        project("hand", NAME, None, "2026-10-05T17:00:00Z"),
        project("third", "someone", Some(MARK), "2026-10-05T16:00:00Z"),
    ])
}

#[tokio::test]
async fn a_project_is_ours_by_its_name_and_its_mark_and_the_oldest_counts() {
    let server = Script::default().data("RwProjects", many()).start().await;
    let provider = provider(&server);
    let seen = provider.look(&key(), &Facts::new(), "project").await;
    assert_eq!(seen.unwrap(), Seen::Done(known(&[("projectId", "first")])));
    let server = Script::default()
        .data("RwProjects", page(&[]))
        .start()
        .await;
    let seen = self::provider(&server)
        .look(&key(), &Facts::new(), "project")
        .await;
    assert_eq!(seen.unwrap(), Seen::Absent);
}

#[tokio::test]
async fn without_an_id_only_projects_of_our_mark_are_removed() {
    let of = |id| json!({"project": project(id, NAME, Some(MARK), "2026-10-05T19:00:00Z")});
    let server = Script::default()
        .data("RwProjects", many())
        .data("RwProject", of("first"))
        .error("RwProject", "Project not found")
        .data("RwProject", of("second"))
        .error("RwProject", "Not Authorized")
        .data("RwProjectDelete", json!({"projectDelete": true}))
        .start()
        .await;
    let gone = provider(&server).destroy(&key(), &Facts::new()).await;
    assert_eq!(gone.unwrap(), Presence::Gone);
    let sent = sent(&server).await;
    let removed: Vec<&Value> = sent
        .iter()
        .filter(|(name, _)| name == "RwProjectDelete")
        .map(|(_, variables)| &variables["id"])
        .collect();
    assert_eq!(removed, [&json!("first"), &json!("second")]);
}

#[tokio::test]
async fn nothing_is_removed_whose_mark_is_not_ours_even_by_its_id() {
    for mark in [None, Some("cluster-2/agents/7f3a9c21k4mz")] {
        let theirs = json!({"project": project("P1", NAME, mark, "2026-10-05T19:00:00Z")});
        let server = Script::default().data("RwProject", theirs).start().await;
        let id = known(&[("projectId", "P1"), ("serviceId", "S")]);
        let refused = provider(&server).destroy(&key(), &id).await.unwrap_err();
        assert_eq!(
            (refused.class, refused.reason),
            (Class::Rejected, Reason::Rejected)
        );
        assert_eq!(names(&server).await, ["RwProject"]);
    }
}

#[tokio::test]
async fn tokens_take_turns_and_none_is_used_before_its_time() {
    let made = |id| json!({"projectCreate": {"id": id, "environments": {"edges": [{"node": {"id": "E", "name": "production"}}]}}});
    let server = Script::default()
        .data("RwProjectCreate", made("P1"))
        .data("RwProjectCreate", made("P2"))
        .start()
        .await;
    let provider = provider(&server);
    let template = template();
    let (key, none) = (key(), Facts::new());
    let inputs = Inputs {
        extra_tokens: vec!["another-token".to_owned().into()],
        ..inputs()
    };
    for id in ["P1", "P2"] {
        let made = provider
            .perform(&key, &none, "project", &template, &inputs)
            .await;
        let facts = known(&[("projectId", id), ("environmentId", "E")]);
        assert_eq!(made.unwrap(), Outcome::Done(facts));
    }
    let waits = provider
        .perform(&key, &none, "project", &template, &inputs)
        .await;
    let waits = waits.unwrap_err();
    assert_eq!(
        (waits.class, waits.reason),
        (Class::Throttled, Reason::CoolingDown)
    );
    let wait = waits.retry_after.unwrap();
    assert!(
        wait > Duration::from_secs(28) && wait <= Duration::from_secs(31),
        "{wait:?}"
    );
    assert_eq!(names(&server).await.len(), 2, "nothing was sent");
    let sent = sent(&server).await;
    let input = &sent[0].1["input"];
    assert_eq!(input["description"], format!("AGENTPOOL_OWNER={MARK}"));
    assert_eq!(
        (&input["name"], &input["workspaceId"]),
        (&json!(NAME), &json!("W"))
    );
    let requests = server.received_requests().await.unwrap();
    let tokens: Vec<_> = requests
        .iter()
        .map(|r| r.headers["authorization"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        tokens,
        [format!("Bearer {TOKEN}"), "Bearer another-token".to_owned()]
    );
}

#[tokio::test]
async fn a_listing_looks_into_our_projects_only() {
    let detail = json!({"projectsByIds": [{"id": "first", "environments": {"edges": [{"node": {
        "id": "E", "isEphemeral": false,
        "serviceInstances": {"edges": [{"node": service("S", NAME, running())}]},
        "volumeInstances": {"edges": [
            {"node": {"volumeId": "gone", "serviceId": "S", "isPendingDeletion": true}},
            {"node": {"volumeId": "V", "serviceId": "S"}},
            {"node": {"volumeId": "another", "serviceId": null}}]}}}]}}]});
    let server = Script::default()
        .data("RwProjects", many())
        .data("RwProjectsBatch", detail)
        .start()
        .await;
    let listed = provider(&server).list().await.unwrap().resources;
    let ids: Vec<&str> = listed.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["second", "S", "other", "hand", "third"]);
    assert_eq!(listed[1].name, NAME);
    assert_eq!(listed[1].facts["projectId"], "first");
    assert_eq!(listed[1].facts["environmentId"], "E");
    assert_eq!(listed[1].facts["volumeId"], "V", "with its volume");
    let sent = sent(&server).await;
    assert_eq!(
        sent[1].1["ids"],
        json!(["second", "first", "other", "third"])
    );
    assert_eq!(sent.len(), 2);
}
