//! Railway's webhooks as a receiver meets them: rules with write-only headers, repetitions, suspension.

use super::process::{IMAGE, PROJECT, Simulator, until};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

const WORKSPACE: &str = "5eed0000-0000-4000-8000-0000000000aa";

fn channel(url: &str, secret: Value) -> Value {
    json!({"type": "webhook", "url": url, "headers": {"X-Pool-Webhook-Secret": secret}})
}

async fn register(sim: &Simulator, url: &str) -> String {
    let input = json!({"workspaceId": WORKSPACE, "projectId": PROJECT, "eventTypes": ["Deployment.deployed", "Deployment.crashed"],
        "channelConfigs": [channel(url, json!("s-1"))]});
    let made = sim.gql("RwRuleCreate", json!({ "input": input })).await;
    made.data("notificationRuleCreate")["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

async fn deliveries(sim: &Simulator) -> Vec<Value> {
    let (_, state) = sim.control("GET", "railway/state", Value::Null).await;
    let all = state["notifications"]["deliveries"].as_array().cloned();
    all.unwrap_or_default()
}

async fn crash(sim: &Simulator, name: &str) {
    let force = json!({"service": name, "deployment": {"status": "CRASHED"}});
    sim.put("railway", json!({"force": [force]})).await;
}

#[tokio::test]
async fn a_delivery_brings_the_secret_and_is_repeated_until_it_is_taken() {
    let receiver = MockServer::start().await;
    let broken = Mock::given(any()).respond_with(ResponseTemplate::new(500));
    broken.up_to_n_times(2).mount(&receiver).await;
    let taken = Mock::given(any()).respond_with(ResponseTemplate::new(204));
    taken.mount(&receiver).await;
    let sim = Simulator::start(50).await;
    let rule = register(&sim, &receiver.uri()).await;
    let (service, deployment, _) = sim.launch("w-1", IMAGE).await;
    until("it is taken", || async {
        deliveries(&sim).await.iter().any(|d| d["status"] == 204)
    })
    .await;
    let received = receiver.received_requests().await.expect("recorded");
    assert_eq!(received.len(), 3, "twice refused, once taken");
    for request in &received {
        assert_eq!(request.headers["X-Pool-Webhook-Secret"], "s-1");
        assert_eq!(request.body, received[0].body, "the same body");
    }
    let body: Value = serde_json::from_slice(&received[0].body).expect("JSON");
    assert_eq!(body["type"], "Deployment.deployed");
    let resource = &body["resource"];
    assert_eq!(resource["service"]["id"], service);
    assert_eq!(resource["deployment"]["id"], deployment);
    assert_eq!(resource["project"]["id"], PROJECT);

    // Nobody can read the secret back; null keeps it, another one takes its place.
    let scope = json!({"workspaceId": WORKSPACE, "projectId": PROJECT});
    let rules = sim.gql("RwRules", scope.clone()).await;
    let config = &rules.data("notificationRules")[0]["channels"][0]["config"];
    assert_eq!(config["headers"], json!({"X-Pool-Webhook-Secret": null}));
    for (secret, now) in [(Value::Null, "s-1"), (json!("s-2"), "s-2")] {
        let input = json!({"channelConfigs": [channel(&receiver.uri(), secret)]});
        let variables = json!({"id": rule, "input": input});
        let renewed = sim.gql("RwRuleUpdate", variables).await;
        assert!(renewed.body["errors"].is_null(), "{}", renewed.body);
        let before = deliveries(&sim).await.len();
        // Up again, so that it can crash again.
        let up = json!({"service": "w-1", "deployment": {"status": "SUCCESS"}});
        sim.put("railway", json!({"force": [up]})).await;
        crash(&sim, "w-1").await;
        until("the crash is told", || async {
            let all = deliveries(&sim).await;
            all.len() > before && all.iter().any(|d| d["type"] == "Deployment.crashed")
        })
        .await;
        let received = receiver.received_requests().await.expect("recorded");
        let last = received.last().expect("one at least");
        assert_eq!(last.headers["X-Pool-Webhook-Secret"], now);
    }
    let gone = sim.gql("RwRuleDelete", json!({"id": rule})).await;
    assert_eq!(*gone.data("notificationRuleDelete"), true);
    let again = sim.gql("RwRuleDelete", json!({"id": rule})).await;
    assert_eq!(again.message(), "NotificationRule not found");
    let rules = sim.gql("RwRules", scope).await;
    assert_eq!(*rules.data("notificationRules"), json!([]));
}

#[tokio::test]
async fn an_address_that_refuses_for_long_is_suspended() {
    let receiver = MockServer::start().await;
    let refuses = Mock::given(any()).respond_with(ResponseTemplate::new(401));
    refuses.mount(&receiver).await;
    let sim = Simulator::start(100).await;
    register(&sim, &receiver.uri()).await;
    let many = json!({"match": {}, "fault": {"kind": "webhook_duplicate", "times": 40}});
    sim.arm("railway", many).await;
    sim.launch("w-1", IMAGE).await;
    until("it is suspended", || async {
        let (_, state) = sim.control("GET", "railway/state", Value::Null).await;
        state["notifications"]["suspended"] == json!([receiver.uri()])
    })
    .await;
    let met = receiver.received_requests().await.expect("recorded").len();
    assert!(met >= 100, "{met}");
    crash(&sim, "w-1").await;
    let launched = sim.launch("w-2", IMAGE).await;
    sim.until_status(&launched.1, "SUCCESS").await;
    let after = receiver.received_requests().await.expect("recorded").len();
    assert!(after < met + 40, "{met} {after}");
}
