//! Looking at one agent now: its diagnostic report, and what a webhook of Railway sets off.

use std::time::Duration;

use agentpool::domain::instance::phase::{Phase, phase_of};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::simulator::{ENVIRONMENT, TOKEN};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::World;

const SECRET: &str = "a-secret-of-webhooks";

/// acceptance: D27
#[tokio::test(flavor = "multi_thread")]
async fn a_report_has_the_documented_form_and_no_value() {
    let world = World::with_pool("debug", json!({"minIdle": 1, "runtime": {"env": [{"name": "OPENROUTER_API_KEY", "value": "sk-simulated-canary"}]}})).await;
    let instance = world.wait_idle(1).await.remove(0);
    let path = format!("/api/pool/debug/{}", instance.spec.id);
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = &answer.body;
    assert_eq!(body["id"], instance.spec.id);
    assert_eq!(body["name"], instance.spec.provider_name);
    assert_eq!(body["status"], "idle");
    assert_eq!(
        body["url"],
        *instance.status.as_ref().unwrap().url.as_ref().unwrap()
    );
    // On Railway nobody can look inside.
    assert!(body["processes"].is_null() && body["listening"].is_null());
    let local: Value = serde_json::from_str(body["localCheck"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&local["ready"], &local["clean"]),
        (&json!(true), &json!(true)),
        "{body}"
    );
    assert_eq!(
        (&body["envExists"], &body["apiStatus"]),
        (&json!(true), &json!(200)),
        "{body}"
    );
    assert_eq!(body["apiBody"]["status"], "Running");
    assert_eq!(body["deployStatus"], "SUCCESS");
    assert!(
        body["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready")
    );
    let token =
        world.get("/api/pool/status?include=secrets").await.body["instances"][0]["gatewayToken"]
            .clone();
    let pool = world.kubectl(&["get", "agentpools", "-o", "yaml"]);
    for secret in [TOKEN, "sk-simulated-canary", token.as_str().unwrap()] {
        assert!(
            !answer.text.contains(secret)
                && (secret == "sk-simulated-canary" || !pool.contains(secret)),
            "{secret}"
        );
    }

    let none = world.get("/api/pool/debug/nobody").await;
    assert_eq!(
        (none.status, &none.body["error"]),
        (404, &json!("not found"))
    );
    let (status, _) = {
        let answer = world.call_with(Method::GET, &path, None, None).await;
        (answer.status, answer.text)
    };
    assert_eq!(status, 401);

    // Each part by itself: without the provider the agent is asked all the same.
    world
        .sim
        .fault(
            "railway",
            json!({"match": {}, "fault": {"kind": "http_5xx", "status": 503}}),
        )
        .await;
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(
        answer.body["apiInfo"]
            .as_str()
            .unwrap()
            .starts_with("error: "),
        "{}",
        answer.text
    );
    assert!(
        answer.body["localCheck"]
            .as_str()
            .unwrap()
            .contains("\"ready\":true"),
        "{}",
        answer.text
    );
    world.finish().await;
}

async fn deliver(world: &World, secret: &str, service: &str, kind: &str) -> u16 {
    let body = json!({"type": kind, "details": {"status": "SUCCESS"},
        "resource": {"service": {"id": service}, "environment": {"id": ENVIRONMENT}}, "severity": "WARNING"});
    let url = format!("{}/webhooks/railway", world.operator.as_ref().unwrap().api);
    let request = reqwest::Client::new()
        .post(url)
        .header("X-Pool-Webhook-Secret", secret)
        .json(&body);
    request.send().await.unwrap().status().as_u16()
}

/// A tick of an hour: what happens within seconds is the webhook's doing. What it says is not believed: the deployment is.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_makes_the_controller_look_and_nothing_else() {
    let mut world = World::bare("webhook").await;
    world.start_operator(&[("AGENTPOOL_RAILWAY_WEBHOOK_SECRET", SECRET)]);
    world
        .create_pool(
            "pool",
            json!({"minIdle": 2, "tickIntervalSeconds": 3600, "reconcileIntervalSeconds": 3600}),
        )
        .await;
    let idle = world.wait_idle(2).await;
    world.wait_ready().await;
    let service = |i: &agentpool::api::AgentInstance| {
        i.status
            .as_ref()
            .unwrap()
            .provider
            .as_ref()
            .unwrap()
            .service_id
            .clone()
            .unwrap()
    };
    let crashed =
        json!({"service": idle[0].spec.provider_name, "deployment": {"status": "CRASHED"}});
    world.sim.force(crashed).await;
    let id = idle[0].spec.id.clone();
    let phase = async || world.instance(&id).await.map(|i| phase_of(&i));

    // Nobody told: nobody looks. A wrong secret tells nothing, and foreign services are nothing of ours.
    assert_eq!(
        deliver(
            &world,
            "another-secret-of-webhooks",
            &service(&idle[0]),
            "Deployment.crashed"
        )
        .await,
        401
    );
    assert_eq!(
        deliver(
            &world,
            SECRET,
            "5eed0000-0000-4000-8000-00000000dead",
            "Deployment.crashed"
        )
        .await,
        200
    );
    let lists = world.sim.railway_calls("RwFleet").await;
    holds("nothing is asked", Duration::from_secs(2), || async {
        phase().await == Some(Phase::Idle) && world.sim.railway_calls("RwFleet").await == lists
    })
    .await;

    assert_eq!(
        deliver(&world, SECRET, &service(&idle[0]), "Deployment.oom_killed").await,
        200
    );
    until("the crash is seen", LONG, || async {
        (phase().await != Some(Phase::Idle)).then_some(())
    })
    .await;

    // A lie about the other one, said twice: it is looked at, and stays.
    for _ in 0..2 {
        assert_eq!(
            deliver(&world, SECRET, &service(&idle[1]), "Deployment.removed").await,
            200
        );
    }
    let lists = world.sim.railway_calls("RwFleet").await;
    holds("it stays in stock", Duration::from_secs(2), || async {
        world
            .instance(&idle[1].spec.id)
            .await
            .is_some_and(|i| phase_of(&i) == Phase::Idle)
    })
    .await;
    // Hints leave nothing behind on the pool.
    until("no request is left", LONG, || async {
        let pool = world.pool().await;
        let annotations = pool.metadata.annotations.unwrap_or_default();
        (!annotations.contains_key("pool.convos.org/requests")).then_some(())
    })
    .await;
    assert!(world.sim.railway_calls("RwFleet").await <= lists + 4);
    world.finish().await;
}
