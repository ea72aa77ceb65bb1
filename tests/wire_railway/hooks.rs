//! Webhooks on the wire: where they are looked for, what is sent, and what is printed of it; and builds that hang.

use agentpool::api::agent_pool::TokenKind;
use agentpool::api::condition::Reason;
use agentpool::provider::railway::{EnvironmentRef, RailwayProvider, operation};
use agentpool::provider::{AgentProvider, Class, Deed, HookSettings, Presence};
use serde_json::{Value, json};

use crate::script::*;

const URL: &str = "https://pool.example.com/webhooks/railway";

fn settings() -> HookSettings {
    HookSettings {
        url: URL.to_owned(),
        secret: "a-secret-of-webhooks".to_owned().into(),
    }
}

fn project() -> Value {
    let page = json!({"endCursor": null, "hasNextPage": false});
    json!({"project": {"id": "P", "name": "p", "workspaceId": "W", "environments": {"edges": [], "pageInfo": page}}})
}

fn rule(id: &str, project: Option<&str>) -> Value {
    let config = json!({"type": "webhook", "url": URL, "headers": {"X-Pool-Webhook-Secret": null}});
    json!({"id": id, "projectId": project, "createdAt": "2026-10-05T19:58:15.735Z", "channels": [{"config": config}]})
}

#[tokio::test]
async fn a_webhook_is_a_rule_of_the_project_in_its_workspace() {
    let rules =
        json!({"notificationRules": [rule("r", Some("P")), rule("of-the-workspace", None)]});
    let server = Script::default()
        .data("RwProject", project())
        .data("RwRules", rules)
        .data(
            "RwRuleCreate",
            json!({"notificationRuleCreate": {"id": "r"}}),
        )
        .data(
            "RwRuleUpdate",
            json!({"notificationRuleUpdate": {"id": "r"}}),
        )
        .error("RwRuleDelete", "NotificationRule not found")
        .start()
        .await;
    let provider = provider_at(&server.uri());
    assert!(provider.capabilities().hooks);
    let found = provider.hooks().await.unwrap();
    assert_eq!(
        found.len(),
        1,
        "the workspace's is another place's: {found:?}"
    );
    assert_eq!(found[0].targets, [Some(URL.to_owned())]);
    let deeds = [
        Deed::Make,
        Deed::Renew("r".into()),
        Deed::Remove("r".into()),
    ];
    for deed in &deeds {
        // Gone already is as good.
        provider.set_hook(deed, &settings()).await.unwrap();
    }
    let sent = sent(&server).await;
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    let want = [
        "RwProject",
        "RwRules",
        "RwRuleCreate",
        "RwRuleUpdate",
        "RwRuleDelete",
    ];
    assert_eq!(names, want, "the workspace is looked up once");
    assert_eq!(sent[1].1, json!({"workspaceId": "W", "projectId": "P"}));
    let made = &sent[2].1["input"];
    assert_eq!(
        (&made["workspaceId"], &made["projectId"]),
        (&json!("W"), &json!("P"))
    );
    let channel = json!({"type": "webhook", "url": URL, "headers": {"X-Pool-Webhook-Secret": "a-secret-of-webhooks"}});
    for (index, (_, variables)) in sent.iter().enumerate().skip(2).take(2) {
        let input = &variables["input"];
        assert_eq!(input["channelConfigs"], json!([channel]), "{index}");
        let events = input["eventTypes"].as_array().unwrap();
        assert!(events.contains(&json!("Deployment.crashed")), "{events:?}");
    }
    assert!(sent[3].1["input"]["projectId"].is_null());
}

#[tokio::test]
async fn a_workspace_s_rule_is_about_no_project() {
    let rules = json!({"notificationRules": [rule("r", None), rule("of-a-project", Some("P"))]});
    let server = Script::default()
        .data("RwRules", rules)
        .data(
            "RwRuleCreate",
            json!({"notificationRuleCreate": {"id": "r"}}),
        )
        .start()
        .await;
    let workspace = EnvironmentRef::Workspace("W".to_owned());
    let config = config(&server.uri(), TokenKind::Bearer, workspace);
    let provider = RailwayProvider::new(config).unwrap();
    let found = provider.hooks().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    provider.set_hook(&Deed::Make, &settings()).await.unwrap();
    let sent = sent(&server).await;
    assert_eq!(sent[0].1, json!({"workspaceId": "W"}));
    assert!(
        sent[1].1["input"].get("projectId").is_none(),
        "left out, not null"
    );
}

#[tokio::test]
async fn a_project_s_token_is_told_what_to_do_and_no_secret_is_printed() {
    let server = Script::default().start().await;
    let id = EnvironmentRef::Id("E".to_owned());
    let config = config(&server.uri(), TokenKind::Project, id);
    let refused = RailwayProvider::new(config)
        .unwrap()
        .hooks()
        .await
        .unwrap_err();
    assert_eq!(
        (refused.class, refused.reason),
        (Class::Rejected, Reason::NotSupported)
    );
    assert!(refused.message.contains("by hand"), "{refused}");
    assert_eq!(names(&server).await, Vec::<String>::new());

    let quoted = "got invalid value {headers: {X-Pool-Webhook-Secret: a-secret-of-webhooks}}";
    let server = Script::default()
        .data("RwProject", project())
        .error("RwRuleCreate", quoted)
        .start()
        .await;
    let refused = provider_at(&server.uri());
    let refused = refused
        .set_hook(&Deed::Make, &settings())
        .await
        .unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("a-secret-of-webhooks"));
    assert!(refused.message.contains("[value]"), "{refused}");
}

/// Nothing of ours changes an environment as a whole: our writes are of one service each, so they cannot be in each
/// other's way.
#[test]
fn no_document_commits_a_patch_of_an_environment() {
    for document in operation::ALL {
        for field in [
            "environmentPatchCommit",
            "environmentStageChanges",
            "sharedVariables",
        ] {
            assert!(!document.text.contains(field), "{}", document.name);
        }
    }
}

#[tokio::test]
async fn a_deployment_on_its_way_is_cancelled_before_its_service_goes() {
    let building = json!({"id": "dep", "status": "BUILDING", "createdAt": "2026-10-05T19:58:18.458Z", "deploymentStopped": true});
    let hangs = service("S", "n", building);
    let script = |latest: Value| {
        Script::default()
            .data("RwVariables", mark(MARK))
            .data("RwServiceInstance", json!({"serviceInstance": latest}))
            .error("RwServiceInstance", "ServiceInstance not found")
            .data("RwServiceDelete", json!({"serviceDelete": true}))
    };
    let facts = |step| known(&[("serviceId", "S"), (step, "deploy")]);
    let cancelled = [
        "RwVariables",
        "RwServiceInstance",
        "RwCancel",
        "RwServiceDelete",
        "RwServiceInstance",
    ];
    for step in ["underWay", "unsettled"] {
        let done = script(hangs.clone()).data("RwCancel", json!({"deploymentCancel": true}));
        let server = done.start().await;
        let gone = provider_at(&server.uri())
            .destroy(&key(), &facts(step))
            .await;
        assert_eq!(gone.unwrap(), Presence::Gone);
        assert_eq!(names(&server).await, cancelled, "{step}");
        assert_eq!(sent(&server).await[2].1, json!({"id": "dep"}));
    }
    // What Railway says to it keeps nothing from going.
    for text in [
        "Deployment not found",
        "Not Authorized",
        "Problem processing request",
        "Deployment is not cancellable",
    ] {
        let server = script(hangs.clone()).error("RwCancel", text).start().await;
        let gone = provider_at(&server.uri())
            .destroy(&key(), &facts("underWay"))
            .await;
        assert_eq!(gone.unwrap(), Presence::Gone, "{text}");
    }
    // No answer is none: nothing is removed before it came.
    let silent = wiremock::ResponseTemplate::new(502).set_body_string("error code: 502");
    let server = script(hangs).on("RwCancel", silent).start().await;
    let error = provider_at(&server.uri())
        .destroy(&key(), &facts("underWay"))
        .await;
    assert_eq!(error.unwrap_err().class, Class::Ambiguous);
    assert_eq!(names(&server).await, cancelled[..3]);
    // One that is up has nothing to cancel.
    let server = script(service("S", "n", running())).start().await;
    let gone = provider_at(&server.uri())
        .destroy(&key(), &facts("underWay"))
        .await;
    assert_eq!(gone.unwrap(), Presence::Gone);
    assert!(!names(&server).await.contains(&"RwCancel".to_owned()));
}
