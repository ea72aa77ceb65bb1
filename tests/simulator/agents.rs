//! Agents behind the wrapper and alone: the loop, the traps, the dialects.

use super::process::{IMAGE, PROJECT, STAGING, Simulator, TOKEN, text, until};
use serde_json::{Value, json};
use std::time::Duration;

fn claim() -> Value {
    json!({"agentName": "Ada", "instructions": "be kind"})
}

#[tokio::test]
async fn a_claim_binds_and_is_written_down_as_it_came() {
    let sim = Simulator::start(20).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    let (status, body) = sim.post(&host, "/pool/provision", claim()).await;
    assert_eq!(
        (status, &body["status"], &body["joined"]),
        (200, &json!("created"), &json!(false))
    );
    let url = text(&body["inviteUrl"]);
    let slug = url
        .strip_prefix("https://dev.convos.org/v2?i=")
        .expect("an invite of the dev network");
    assert!(slug.len() > 300 && slug.as_bytes()[300] == b'*');
    let (_, seen) = sim.get(&host, "/convos/status").await;
    assert_eq!(seen["conversationId"], body["conversationId"]);
    assert_eq!(seen["clean"], false);
    let calls = sim.control("GET", "agents/calls", Value::Null).await.1;
    let calls = calls["calls"].as_array().expect("a list").clone();
    let call = calls
        .iter()
        .find(|c| c["path"] == "/pool/provision")
        .expect("it was written down");
    assert_eq!(call["body"], claim());
    assert_eq!(call["authorization"], "Bearer 0123…cdef");
    let account = sim.account(&service).await;
    assert_eq!(
        (&account["conversationsMade"], &account["claimCalls"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn a_create_slower_than_11_seconds_makes_two_conversations_and_a_500() {
    let sim = Simulator::start(50).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    sim.put(
        "agents",
        json!({"instances": {host.clone(): {"create": 16_500}}}),
    )
    .await;
    let (status, body) = sim.post(&host, "/pool/provision", claim()).await;
    assert_eq!(status, 500);
    let error = text(&body["error"]);
    assert!(
        error.starts_with("Convos invite failed after 30 attempts: "),
        "{error}"
    );
    assert!(error.contains("returned 409"), "{error}");
    assert_eq!(sim.account(&service).await["conversationsMade"], 2);
}

#[tokio::test]
async fn the_loop_hides_passing_errors() {
    let sim = Simulator::start(50).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    sim.arm(
        "agents",
        json!({"when": {"first": 3}, "fault": {"kind": "create500Before"}}),
    )
    .await;
    assert_eq!(sim.post(&host, "/pool/provision", claim()).await.0, 200);
    assert_eq!(sim.account(&service).await["conversationsMade"], 1);
}

#[tokio::test]
async fn the_loop_goes_on_when_the_caller_hangs_up_and_after_a_reset() {
    let sim = Simulator::start(20).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    sim.put("agents", json!({"defaults": {"create": 8000}}))
        .await;
    let short = Duration::from_millis(30);
    assert!(
        !sim.post_for(short, &host, "/pool/provision", claim()).await,
        "hung up"
    );
    let (status, body) = sim.post(&host, "/convos/reset", json!({})).await;
    assert_eq!(
        (status, &body["status"]["clean"]),
        (200, &json!(true)),
        "clean for a moment"
    );
    until("it is bound all the same", || async {
        sim.get(&host, "/convos/status").await.1["conversationId"].is_string()
    })
    .await;
    let account = sim.account(&service).await;
    assert_eq!(
        (&account["conversationsMade"], &account["resets"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn an_already_bound_agent_answers_500_with_a_409_in_it() {
    let sim = Simulator::start(50).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    let conversation = "a".repeat(32);
    sim.put(
        "agents",
        json!({"instances": {host.clone(): {"bound": conversation}}}),
    )
    .await;
    let (status, body) = sim.post(&host, "/pool/provision", claim()).await;
    assert_eq!(status, 500);
    assert!(text(&body["error"]).contains("returned 409"));
    assert_eq!(
        sim.get(&host, "/convos/status").await.1["conversationId"],
        conversation.as_str()
    );
    assert_eq!(sim.account(&service).await["conversationsMade"], 0);
}

#[tokio::test]
async fn a_null_body_kills_the_wrapper() {
    let sim = Simulator::start(20).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    let (status, _) = sim
        .post_raw(&host, "/pool/provision", "null".to_owned())
        .await;
    assert_eq!(status, 502, "the edge answers for a process that died");
    assert_eq!(sim.account(&service).await["exits"][0]["code"], 1);
    sim.until_ready(&host).await;
    assert_eq!(sim.account(&service).await["restarts"], 1);
}

#[tokio::test]
async fn the_wrapper_checks_token_and_fields_and_its_exact_paths() {
    let sim = Simulator::start(20).await;
    let (_, _, host) = sim.ready_agent("w-1").await;
    let (status, body) = sim
        .post(
            &host,
            "/pool/provision",
            json!({"agentName": "A", "instructions": ""}),
        )
        .await;
    assert_eq!(
        (status, &body["error"]),
        (400, &json!("instructions (string) is required"))
    );
    assert_eq!(
        sim.post_raw(&host, "/pool/provision", "{".to_owned())
            .await
            .0,
        400
    );
    assert_eq!(sim.get(&host, "/pool/health?x=1").await.0, 200);
    assert!(
        sim.get(&host, "/pool/health?x=1").await.1.is_string(),
        "that is the runtime's page"
    );
    assert_eq!(
        sim.post(&host, "/pool/self-destruct", json!({})).await.0,
        403
    );
    assert_eq!(sim.post(&host, "/nowhere", json!({})).await.0, 405);
    sim.arm("agents", json!({"fault": {"kind": "unauthorized"}}))
        .await;
    assert_eq!(sim.post(&host, "/pool/provision", claim()).await.0, 401);
}

#[tokio::test]
async fn a_restart_of_the_runtime_looks_ready_and_does_not_answer() {
    let sim = Simulator::start(10).await;
    let (_, _, host) = sim.ready_agent("w-1").await;
    sim.put("agents", json!({"defaults": {"restart": 10_000}}))
        .await;
    let (restarted, health) = tokio::join!(
        sim.post(&host, "/pool/restart", json!({"env": {"A": "1"}})),
        async {
            let mut seen = Vec::new();
            until("ready again", || async {
                sim.get(&host, "/convos/status").await.0 == 502
            })
            .await;
            seen.push(sim.get(&host, "/pool/health").await.0);
            until("not ready", || async {
                sim.get(&host, "/pool/health").await.0 == 503
            })
            .await;
            seen
        }
    );
    assert_eq!(restarted, (200, json!({"ok": true})));
    assert_eq!(health, [200], "health is latched for a while");
    sim.until_ready(&host).await;
}

#[tokio::test]
async fn missing_variables_end_in_a_crash() {
    let sim = Simulator::start(50).await;
    let (service, deployment, _) = sim.ready_agent("w-1").await;
    let place = json!({"projectId": PROJECT, "environmentId": STAGING, "serviceId": service, "name": "OPENROUTER_API_KEY"});
    sim.gql("RwVariableDelete", json!({"input": place}))
        .await
        .data("variableDelete");
    let state = sim.control("GET", "railway/state", Value::Null).await.1;
    let newest = text(&state["services"][0]["deployments"][0]["id"]);
    assert_ne!(newest, deployment);
    sim.until_status(&newest, "CRASHED").await;
    assert_eq!(sim.account(&service).await["restarts"], 10);
}

#[tokio::test]
async fn a_restart_without_a_volume_forgets_the_conversation() {
    let sim = Simulator::start(20).await;
    let (_, deployment, host) = sim.ready_agent("w-1").await;
    assert_eq!(sim.post(&host, "/pool/provision", claim()).await.0, 200);
    sim.gql("RwRestart", json!({"id": deployment}))
        .await
        .data("deploymentRestart");
    sim.until_ready(&host).await;
    let (_, body) = sim.get(&host, "/convos/status").await;
    assert_eq!(
        (&body["conversationId"], &body["clean"]),
        (&Value::Null, &json!(true))
    );
}

#[tokio::test]
async fn overlapping_creates_of_a_gateway_make_two_conversations() {
    let sim = Simulator::start(20).await;
    let slow = json!({"defaultDialect": "gateway", "defaults": {"create": 8000}});
    sim.put("agents", slow).await;
    let (service, _, host) = sim.launch("w-1", IMAGE).await;
    until("the gateway answers", || async {
        sim.get(&host, "/convos/status").await.1["ready"] == true
    })
    .await;
    assert!(
        sim.get(&host, "/pool/health").await.1.is_string(),
        "a page, not the wrapper"
    );
    let body = json!({"name": "Ada", "env": "production"});
    let create = || sim.post(&host, "/convos/conversation", body.clone());
    let (a, b) = tokio::join!(create(), create());
    assert_eq!((a.0, b.0), (200, 200));
    assert_ne!(a.1["conversationId"], b.1["conversationId"]);
    assert!(text(&a.1["inviteUrl"]).starts_with("https://popup.convos.org/v2?i="));
    assert_eq!(create().await.0, 409);
    assert_eq!(sim.account(&service).await["conversationsMade"], 2);
    assert_eq!(sim.post(&host, "/pool/provision", claim()).await.0, 405);
}

#[tokio::test]
async fn a_join_is_pending_then_accepted_with_a_callback() {
    let sim = Simulator::start(50).await;
    let (service, _, host) = sim
        .launch("w-1", "ghcr.io/acme/convos-runtime-hermes:1")
        .await;
    sim.until_ready(&host).await;
    sim.arm(
        "agents",
        json!({"fault": {"kind": "pendingThenAccepted", "seconds": 20}}),
    )
    .await;
    let mut body = claim();
    body["joinUrl"] = "https://dev.convos.org/v2?i=abc".into();
    let (status, answer) = sim.post(&host, "/pool/provision", body).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("pending_acceptance"))
    );
    assert_eq!(sim.get(&host, "/convos/status").await.1["pending"], true);
    until("accepted", || async {
        sim.get(&host, "/convos/status").await.1["conversationId"].is_string()
    })
    .await;
    assert_eq!(sim.account(&service).await["binds"][0]["by"], "join");
}

#[tokio::test]
async fn an_agent_alone_ends_with_its_code() {
    let sim = Simulator::start_with(&[
        "agent",
        "--dialect",
        "pool-server",
        "--agent-token",
        TOKEN,
        "--speed",
        "20",
    ])
    .await;
    sim.until_ready("anything").await;
    let (status, _) = sim.post("anything", "/pool/provision", claim()).await;
    assert_eq!(status, 200);
    assert_eq!(sim.account("alone").await["conversationsMade"], 1);
}

/// A pool that takes every callback and answers 404, with the agent that calls it.
async fn called_pool(sim: &Simulator, name: &str) -> (wiremock::MockServer, String, String) {
    let pool = wiremock::MockServer::start().await;
    let service = text(&sim.create_service(name, IMAGE).await.data("serviceCreate")["id"]);
    let place = json!({"environmentId": STAGING, "serviceId": service});
    let mut input = place.clone();
    input["projectId"] = PROJECT.into();
    input["variables"] = json!({"POOL_URL": pool.uri()});
    sim.gql("RwVariablesUpsert", json!({"input": input})).await;
    let domain = sim.gql("RwDomainCreate", json!({"input": place})).await;
    let host = text(&domain.data("serviceDomainCreate")["domain"]);
    sim.gql("RwDeploy", place)
        .await
        .data("serviceInstanceDeployV2");
    sim.until_ready(&host).await;
    (pool, service, host)
}

#[tokio::test]
async fn callbacks_reach_the_pool_without_a_header_and_with_id_and_token() {
    let sim = Simulator::start(20).await;
    let (pool, service, host) = called_pool(&sim, "w-1").await;
    sim.arm(
        "agents",
        json!({"when": {"first": 1}, "fault": {"kind": "selfDestruct", "seconds": 1}}),
    )
    .await;
    assert_eq!(sim.post(&host, "/pool/provision", claim()).await.0, 200);
    until("it destroyed itself", || async {
        sim.account(&service).await["exits"][0]["code"] == 0
    })
    .await;
    let calls = pool.received_requests().await.expect("recorded");
    let paths: Vec<&str> = calls.iter().map(|c| c.url.path()).collect();
    assert_eq!(paths, ["/api/pool/attest", "/api/pool/self-destruct"]);
    for call in &calls {
        let body: Value = serde_json::from_slice(&call.body).expect("JSON");
        assert_eq!(
            (&body["instanceId"], &body["gatewayToken"]),
            (&json!("w-1"), &json!(TOKEN))
        );
        assert!(!call.headers.contains_key("authorization"));
    }
    let account = sim.account(&service).await;
    assert_eq!(account["callbacks"][0]["status"], 404);
}

#[tokio::test]
async fn a_silent_attestation_turns_a_create_into_a_500() {
    let sim = Simulator::start(50).await;
    let (service, _, host) = sim.ready_agent("w-1").await;
    sim.arm("agents", json!({"fault": {"kind": "attestBlackhole"}}))
        .await;
    let (status, body) = sim.post(&host, "/pool/provision", claim()).await;
    assert_eq!(status, 500);
    assert!(text(&body["error"]).contains("returned 409"));
    assert_eq!(sim.account(&service).await["conversationsMade"], 1);
}
