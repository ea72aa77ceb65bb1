//! `POST /api/pool/claim` in front of a claim service that does as told.

use agentpool::claim::ClaimError;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use crate::world::{KEY, World, bound, pool};

fn body() -> Value {
    json!({"agentName": "Tokyo", "instructions": "plan trips"})
}

fn answer_with(world: &World, error: ClaimError) {
    *world.claims.answer.lock().unwrap() = Box::new(move |_, _| Err(error.clone()));
}

/// About: D07, D09, D10, D11
#[tokio::test]
async fn a_new_conversation() {
    let world = World::new();
    let answer = world.call("POST", "/api/pool/claim", body()).await;
    let timing = answer.headers["server-timing"].to_str().unwrap();
    assert!(
        timing.starts_with("agent;dur=12.000, total;dur="),
        "{timing}"
    );
    answer.is(
        200,
        json!({
            "inviteUrl": "https://dev.convos.org/v2?i=new", "inviteSlug": null, "conversationId": "conv-1", "instanceId": "rnm8ubqafzcz", "joined": false,
            "waitingForAcceptance": false, "status": "claimed", "agentName": "Tokyo", "gatewayToken": "f".repeat(64), "gatewayUrl": "https://agent.up.railway.app",
        }),
    );
    let seen = world.claims.seen.lock().unwrap();
    assert_eq!(
        (seen[0].1.instructions.as_str(), seen[0].1.source.as_str()),
        ("plan trips", "api")
    );
    let metrics = world.state.metrics.encode().unwrap();
    assert!(metrics.contains("agentpool_claims_total{namespace=\"agents\",pool=\"staging\",source=\"api\",outcome=\"claimed\"} 1"), "{metrics}");
}

/// About: D08, D31
#[tokio::test]
async fn joining_and_waiting_for_acceptance() {
    let world = World::new();
    let link = json!({"joinUrl": "https://dev.convos.org/v2?i=1", "source": "landing"});
    let joined = world
        .call("POST", "/api/pool/claim", link.clone())
        .await
        .json();
    assert_eq!(
        (
            &joined["joined"],
            &joined["inviteUrl"],
            &joined["agentName"]
        ),
        (&json!(true), &link["joinUrl"], &json!("Assistant"))
    );
    *world.claims.answer.lock().unwrap() = Box::new(|_, request| {
        let mut answer = bound("a", request);
        (
            answer.joined,
            answer.waiting_for_acceptance,
            answer.conversation_id,
        ) = (false, true, None);
        Ok(answer)
    });
    let waiting = world.call("POST", "/api/pool/claim", link).await.json();
    let part = |key: &str| waiting[key].clone();
    assert_eq!(
        (
            part("conversationId"),
            part("joined"),
            part("waitingForAcceptance"),
            part("status")
        ),
        (
            Value::Null,
            json!(false),
            json!(true),
            json!("pending_acceptance")
        )
    );
}

/// About: D12, D17
/// About: 4.7, semantics 10
#[tokio::test]
async fn the_terms_of_a_claim_come_from_headers_and_body() {
    let world = World::new();
    let send = |headers: &[(&str, &str)], body: Value| {
        let mut request = Request::post("/api/pool/claim")
            .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        world.send(request.body(Body::from(body.to_string())).unwrap())
    };
    send(&[], body()).await;
    send(&[("idempotency-key", "k"), ("prefer", "wait=7")], body()).await;
    let mut waits = body();
    waits["waitSeconds"] = json!(9);
    send(&[], waits.clone()).await;
    let seen = |n: usize| {
        let terms = world.claims.terms.lock().unwrap();
        (terms[n].key.clone(), terms[n].wait.as_secs())
    };
    assert_eq!(seen(0), (None, 0));
    assert_eq!(seen(1), (Some("k".to_owned()), 7));
    assert_eq!(seen(2), (None, 9));
    waits["waitSeconds"] = json!(601);
    let refused = send(&[], waits).await;
    let words = "waitSeconds must be a whole number from 0 to 600";
    refused.fails(400, "bad_request", words);
    let refused = send(&[("idempotency-key", &"x".repeat(256))], body()).await;
    let words = "Idempotency-Key must have 1 to 255 printable ASCII characters";
    refused.fails(400, "bad_request", words);
}

#[tokio::test]
async fn a_key_a_link_and_a_wait_fail_with_their_own_status_and_code() {
    let world = World::new();
    let claim = || world.call("POST", "/api/pool/claim", body());
    answer_with(&world, ClaimError::KeyReused);
    let words = "Idempotency-Key was used with another request";
    claim().await.fails(422, "key_reused", words);
    for status in [409, 503] {
        let instance_id = Some("a".to_owned());
        let error = ClaimError::DuplicateJoin {
            instance_id,
            status,
        };
        answer_with(&world, error);
        let answer = claim().await;
        answer.fails(
            status,
            "duplicate_join",
            "Already provisioning for this conversation",
        );
        assert_eq!(answer.json()["instanceId"], "a");
    }
    let (position, expected) = (3, Duration::from_secs(42));
    answer_with(&world, ClaimError::WaitedOut { position, expected });
    let answer = claim().await;
    let words = "No idle instances available. Try again in a few minutes.";
    answer.fails(503, "no_idle", words);
    assert_eq!(answer.headers[header::RETRY_AFTER], "42");
    let told = answer.json();
    assert_eq!(
        (&told["position"], &told["expectedSeconds"]),
        (&json!(3), &json!(42))
    );
    answer_with(&world, ClaimError::StillRunning);
    claim().await.fails(500, "still_running", "still running");
}

#[tokio::test]
async fn failures_have_their_status_and_code() {
    let world = World::new();
    answer_with(&world, ClaimError::NoIdle);
    let none = world.call("POST", "/api/pool/claim", body()).await;
    none.fails(
        503,
        "no_idle",
        "No idle instances available. Try again in a few minutes.",
    );
    assert_eq!(none.headers[header::RETRY_AFTER], "30");
    answer_with(
        &world,
        ClaimError::ProvisionFailed {
            instance_id: "a".into(),
            message: "500 it broke".into(),
        },
    );
    let failed = world.call("POST", "/api/pool/claim", body()).await;
    failed.is(500, json!({"error": "Provision failed on a: 500 it broke", "code": "provision_failed", "instanceId": "a"}));
    answer_with(
        &world,
        ClaimError::ProvisionFailed {
            instance_id: "a".into(),
            message: "x".repeat(5000),
        },
    );
    assert!(
        world
            .call("POST", "/api/pool/claim", body())
            .await
            .text
            .len()
            < 1700
    );
    answer_with(&world, ClaimError::Cluster("etcd said secret-thing".into()));
    let failed = world.call("POST", "/api/pool/claim", body()).await;
    assert_eq!(
        (failed.status.as_u16(), failed.json()["code"].clone()),
        (500, json!("upstream"))
    );
    assert!(!failed.text.contains("secret-thing"));
    answer_with(&world, ClaimError::Paused("staging".into()));
    assert_eq!(
        world.call("POST", "/api/pool/claim", body()).await.status,
        503
    );
}

/// About: D13, D14
#[tokio::test]
async fn a_bad_request_reaches_nobody() {
    let world = World::new();
    let claim = async |body: Value| world.call("POST", "/api/pool/claim", body).await;
    claim(Value::Null)
        .await
        .fails(400, "bad_request", "instructions (string) is required");
    claim(json!({"instructions": "x"})).await.fails(
        400,
        "bad_request",
        "agentName (string) is required",
    );
    claim(json!({"instructions": "x", "agentName": "a", "joinUrl": 5}))
        .await
        .fails(400, "bad_request", "joinUrl must be a string if provided");
    claim(json!({"joinUrl": "https://popup.convos.org/v2?i=1"}))
        .await
        .fails(
            400,
            "bad_request",
            "popup.convos.org links cannot be used in the staging environment",
        );
    claim(json!({"agentName": "a", "instructions": "x", "pool": "nothing"}))
        .await
        .fails(404, "not_found", "Pool nothing not found");
    assert!(world.claims.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_link_rule_is_the_pools_own_environment() {
    let world = World::new();
    let mut production = pool("agents", "prod");
    production["spec"]["environment"] = json!("production");
    world.cluster.lock().unwrap().put_pool(production);
    let claim = async |pool: &str, link: &str| {
        world
            .call(
                "POST",
                "/api/pool/claim",
                json!({"joinUrl": link, "pool": pool}),
            )
            .await
    };
    let (dev, popup) = (
        "https://dev.convos.org/v2?i=1",
        "https://popup.convos.org/v2?i=1",
    );
    assert_eq!(claim("prod", popup).await.status, 200);
    assert_eq!(claim("staging", dev).await.status, 200);
    assert_eq!(claim("staging", popup).await.status, 400);
    claim("prod", dev).await.fails(
        400,
        "bad_request",
        "dev.convos.org links cannot be used in the production environment",
    );
    let seen: Vec<String> = world
        .claims
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|(pool, _)| pool.clone())
        .collect();
    assert_eq!(seen, ["prod", "staging"]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_outlives_its_client() {
    let world = World::new();
    let call = world.call("POST", "/api/pool/claim", body());
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(5), call)
            .await
            .is_err(),
        "the client goes away"
    );
    assert_eq!(
        (
            world.claims.seen.lock().unwrap().len(),
            *world.claims.finished.lock().unwrap()
        ),
        (1, 0)
    );
    world.state.tasks.close();
    world.state.tasks.wait().await;
    assert_eq!(*world.claims.finished.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let world = World::new();
    *world.claims.answer.lock().unwrap() = Box::new(|_, _| panic!("a bug with a secret in it"));
    world
        .call("POST", "/api/pool/claim", body())
        .await
        .fails(500, "internal", "Internal error");
    let mut world = World::new();
    world.state.tokens = std::sync::Arc::new(|_| panic!("a bug in a handler"));
    world.add([crate::world::instance("a", "Idle", 1)]);
    world
        .call("GET", "/api/pool/status?include=secrets", Value::Null)
        .await
        .fails(500, "internal", "Internal error");
}
