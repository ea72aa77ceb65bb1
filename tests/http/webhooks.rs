//! Railway's webhooks: who may send them, and what they set off, which is a request for a look and nothing else.

use agentpool::http::WebhookSecret;
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use crate::world::{Answer, World, instance};

const SECRET: &str = "a-secret-of-webhooks";

fn world(secret: Option<&str>) -> World {
    let mut world = World::new();
    world.settings(|s| s.webhook_secret = secret.map(WebhookSecret::new));
    let mut ours = instance("a", "Claimed", 1);
    ours["spec"]["provider"] = json!({"kind": "Railway", "environmentId": "e"});
    ours["status"]["provider"]["serviceId"] = json!("service-a");
    world.add([ours, instance("b", "Idle", 1)]);
    world.cluster.lock().unwrap().controller =
        Box::new(|_| Some(json!({"state": "Done", "ids": ["a"]})));
    world
}

fn event(service: &str, environment: &str) -> Value {
    json!({"type": "Deployment.crashed", "details": {}, "resource": {"service": {"id": service}, "environment": {"id": environment}}})
}

async fn deliver(world: &World, path: &str, secret: Option<&str>, body: &Value) -> Answer {
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    if let Some(secret) = secret {
        request = request.header("X-Pool-Webhook-Secret", secret);
    }
    let answer = world
        .send(request.body(Body::from(body.to_string())).unwrap())
        .await;
    // What it set off is done by then.
    world.state.tasks.close();
    world.state.tasks.wait().await;
    world.state.tasks.reopen();
    answer
}

fn asked(world: &World) -> Vec<Value> {
    world.cluster.lock().unwrap().asked.clone()
}

#[tokio::test(start_paused = true)]
async fn an_event_of_ours_asks_for_a_look_by_header_or_by_path() {
    for (path, header) in [
        ("/webhooks/railway".to_owned(), Some(SECRET)),
        (format!("/webhooks/railway/{SECRET}"), None),
    ] {
        let world = world(Some(SECRET));
        deliver(&world, &path, header, &event("service-a", "e"))
            .await
            .is(200, json!({"ok": true}));
        let asked = asked(&world);
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(
            (&asked[0]["kind"], &asked[0]["instance"]),
            (&json!("Recheck"), &json!("a"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_and_unknown_events_are_dropped() {
    let world = world(Some(SECRET));
    for body in [
        event("service-z", "e"),
        event("service-a", "another"),
        json!({"type": "Deployment.queued"}),
        json!({}),
        json!([1]),
    ] {
        deliver(&world, "/webhooks/railway", Some(SECRET), &body)
            .await
            .is(200, json!({"ok": true}));
    }
    assert_eq!(asked(&world), Vec::<Value>::new());
}

#[tokio::test(start_paused = true)]
async fn without_the_secret_nothing_is_heard() {
    let world = world(Some(SECRET));
    for (path, header) in [
        ("/webhooks/railway", None),
        ("/webhooks/railway", Some("")),
        ("/webhooks/railway", Some("a-secret-of-webhook")),
        ("/webhooks/railway/another", None),
        // The header is what counts where there is one; the API's key is none.
        ("/webhooks/railway/a-secret-of-webhooks", Some("another")),
        ("/webhooks/railway", Some(crate::world::KEY)),
    ] {
        let answer = deliver(&world, path, header, &event("service-a", "e")).await;
        answer.fails(401, "unauthorized", "Unauthorized");
    }
    assert_eq!(asked(&world), Vec::<Value>::new());
    let none = self::world(None);
    deliver(&none, "/webhooks/railway/x", None, &event("service-a", "e"))
        .await
        .fails(404, "not_found", "Not found");
}
