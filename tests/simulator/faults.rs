//! Faults of both peers, and that nothing unknown is accepted silently.

use super::process::{BEARER, IMAGE, PROJECT, STAGING, Simulator, document, text, until};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_timeout_after_the_effect_leaves_the_service() {
    let sim = Simulator::start(10).await;
    let fault = json!({"kind": "timeout", "applied": true, "seconds": 120});
    sim.arm(
        "railway",
        json!({"match": {"field": "serviceCreate", "name": "w-"}, "count": 1, "fault": fault}),
    )
    .await;
    let create = sim.create_service("w-1", IMAGE);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), create)
            .await
            .is_err(),
        "no answer comes"
    );
    let services = sim
        .gql("RwServices", json!({"projectId": PROJECT, "first": 10}))
        .await;
    assert_eq!(
        services.data("project")["services"]["edges"][0]["node"]["name"],
        "w-1"
    );
    assert!(
        sim.create_service("w-1", IMAGE)
            .await
            .message()
            .contains("already exists")
    );
    let (_, faults) = sim.control("GET", "railway/faults", Value::Null).await;
    assert_eq!(faults["rules"][0]["trigger"]["fired"], 1);
}

#[tokio::test]
async fn resets_and_refusals_of_the_transport() {
    let sim = Simulator::start(10).await;
    let query = document("RwRegions");
    let ask = || sim.send(("Authorization", BEARER), &query, json!({}));
    let once = |fault: Value| json!({"match": {"field": "regions"}, "count": 1, "fault": fault});
    sim.arm("railway", once(json!({"kind": "reset"}))).await;
    assert!(ask().await.is_err());
    for (fault, status) in [
        (json!({"kind": "rate_limit", "seconds": 30}), 429),
        (json!({"kind": "rate_limit_bare"}), 429),
        (
            json!({"kind": "http_5xx", "status": 502, "html": true}),
            502,
        ),
        (json!({"kind": "http_5xx", "status": 520}), 520),
        (
            json!({"kind": "gql_error", "message": "Problem processing request"}),
            200,
        ),
        (json!({"kind": "no_data"}), 200),
    ] {
        sim.arm("railway", once(fault.clone())).await;
        let answer = ask().await.expect("an answer");
        assert_eq!(answer.status, status, "{fault}");
        assert_eq!(
            answer.headers.contains_key("retry-after"),
            fault["kind"] == "rate_limit"
        );
        sim.control("DELETE", "railway/faults", Value::Null).await;
    }
    sim.arm(
        "railway",
        once(json!({"kind": "edge_block", "seconds": 600})),
    )
    .await;
    for _ in 0..2 {
        let blocked = ask().await.expect("an answer");
        assert_eq!(
            (blocked.status, blocked.body),
            (429, json!("error code: 1015"))
        );
        assert!(!blocked.headers.contains_key("ratelimit-policy"));
    }
    sim.control("DELETE", "railway/faults", Value::Null).await;
    assert_eq!(ask().await.expect("an answer").status, 200, "disarmed");
}

#[tokio::test]
async fn deployments_get_stuck_fail_crash_and_show_unknown_statuses() {
    let sim = Simulator::start(50).await;
    for (fault, status) in [
        (json!({"kind": "stuck", "status": "QUEUED"}), "QUEUED"),
        (json!({"kind": "fail_at", "at": "start"}), "FAILED"),
        (json!({"kind": "crash_after", "seconds": 1}), "CRASHED"),
        (json!({"kind": "needs_approval"}), "NEEDS_APPROVAL"),
        (json!({"kind": "skipped"}), "SKIPPED"),
        (
            json!({"kind": "unknown_status", "status": "MIGRATING"}),
            "MIGRATING",
        ),
    ] {
        let name = format!("w-{}", status.to_lowercase().replace('_', "-"));
        sim.arm("railway", json!({"match": {"name": name}, "fault": fault}))
            .await;
        let (_, deployment, _) = sim.launch(&name, IMAGE).await;
        sim.until_status(&deployment, status).await;
        if status == "QUEUED" {
            sim.gql("RwCancel", json!({"id": deployment}))
                .await
                .data("deploymentCancel");
            sim.until_status(&deployment, "REMOVED").await;
        }
        if status == "NEEDS_APPROVAL" {
            sim.gql("RwApprove", json!({"id": deployment}))
                .await
                .data("deploymentApprove");
            sim.until_status(&deployment, "SUCCESS").await;
        }
    }
}

#[tokio::test]
async fn surprises_from_outside() {
    let sim = Simulator::start(20).await;
    let rule =
        json!({"match": {"name": "doomed"}, "fault": {"kind": "removed_externally", "seconds": 5}});
    sim.arm("railway", rule).await;
    let service = text(
        &sim.create_service("doomed", IMAGE)
            .await
            .data("serviceCreate")["id"],
    );
    let place = json!({"serviceId": service, "environmentId": STAGING});
    until("removed", || async {
        sim.gql("RwServiceInstance", place.clone()).await.message() == "ServiceInstance not found"
    })
    .await;
    let rule =
        json!({"match": {"name": "moved"}, "fault": {"kind": "unprompted_deploy", "seconds": 20}});
    sim.arm("railway", rule).await;
    let (service, ..) = sim.launch("moved", IMAGE).await;
    until("a deployment nobody asked for", || async {
        sim.ledger().await["deploymentsByService"][&service]
            .as_array()
            .is_some_and(|d| d.len() == 2)
    })
    .await;
    sim.arm(
        "railway",
        json!({"match": {"field": "regions"}, "fault": {"kind": "token_revoked"}}),
    )
    .await;
    assert_eq!(
        sim.gql("RwRegions", json!({})).await.message(),
        "Not Authorized"
    );
    assert_eq!(
        sim.gql("RwApiToken", json!({})).await.message(),
        "Not Authorized",
        "from now on"
    );
}

#[tokio::test]
async fn agents_break_off_and_die() {
    let sim = Simulator::start(20).await;
    let (service, deployment, host) = sim.ready_agent("w-1").await;
    let once =
        |fault: Value| json!({"match": {"host": host}, "when": {"first": 1}, "fault": fault});
    for kind in ["reset", "halfAnswer"] {
        sim.arm(
            "agents",
            once(json!({"kind": kind, "route": "/convos/status"})),
        )
        .await;
        assert_eq!(sim.get(&host, "/convos/status").await.0, 0, "{kind}");
    }
    for (fault, status) in [
        (json!({"kind": "gateway502"}), 502),
        (json!({"kind": "504"}), 504),
    ] {
        sim.arm("agents", once(fault)).await;
        assert_eq!(sim.get(&host, "/pool/health").await.0, status);
    }
    sim.arm("agents", once(json!({"kind": "badJson"}))).await;
    assert!(sim.get(&host, "/convos/status").await.1.is_string());
    sim.control("DELETE", "agents/faults", Value::Null).await;
    sim.arm("agents", json!({"match": {"phase": "idle"}, "when": {"first": 1}, "fault": {"kind": "dieIdle", "code": 0}})).await;
    until("it ended", || async {
        sim.account(&service).await["exits"]
            .as_array()
            .is_some_and(|e| !e.is_empty())
    })
    .await;
    let read = sim.gql("RwDeployment", json!({"id": deployment})).await;
    let shown = read.data("deployment");
    assert_eq!(
        (&shown["status"], &shown["deploymentStopped"]),
        (&json!("SUCCESS"), &json!(true))
    );
}

#[tokio::test]
async fn a_reset_after_the_work_leaves_one_conversation() {
    let sim = Simulator::start(20).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    sim.arm(
        "agents",
        json!({"fault": {"kind": "reset", "at": "middle", "route": "/pool/provision"}}),
    )
    .await;
    let claim = json!({"agentName": "Ada", "instructions": "be kind"});
    assert_eq!(sim.post(&host, "/pool/provision", claim).await.0, 0);
    until("bound all the same", || async {
        sim.account(&service).await["conversationsMade"] == 1
    })
    .await;
}

#[tokio::test]
async fn a_sleeper_wakes_on_a_request() {
    let sim = Simulator::start(20).await;
    let (_, deployment, host) = sim.ready_agent("w-1").await;
    sim.arm(
        "agents",
        json!({"when": {"first": 1}, "fault": {"kind": "sleep"}}),
    )
    .await;
    sim.until_status(&deployment, "SLEEPING").await;
    let stop = sim.gql("RwStop", json!({"id": deployment})).await;
    assert_eq!(stop.message(), "Deployment is not stoppable");
    assert_eq!(
        sim.get(&host, "/pool/health").await.0,
        200,
        "held, then answered"
    );
    assert_eq!(sim.status_of(&deployment).await, "SUCCESS");
}

#[tokio::test]
async fn unknown_faults_are_refused_with_the_known_ones() {
    let sim = Simulator::start(1).await;
    for (peer, known) in [("railway", "rate_limit"), ("agents", "neverReady")] {
        let (status, body) = sim
            .control(
                "POST",
                &format!("{peer}/faults"),
                json!({"fault": {"kind": "volcano"}}),
            )
            .await;
        assert_eq!(status, 400);
        assert!(body["known"].to_string().contains(known), "{body}");
        let (_, faults) = sim
            .control("GET", &format!("{peer}/faults"), Value::Null)
            .await;
        assert_eq!(faults["rules"], json!([]));
    }
}
