//! Agents that call back: who may, what each is told, and that nothing keeps them waiting.

use agentpool::http::{Access, ROUTES};
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use crate::world::{Answer, TOKEN_MARK, World, instance};

const CALLBACKS: [&str; 7] = [
    "self-destruct",
    "pending-acceptance/complete",
    "pending-acceptance/fail",
    "self-info",
    "self-upgrade",
    "self-reset",
    "attest",
];

/// A call as a runtime makes it: without an Authorization header.
async fn call(world: &World, what: &str, body: Value) -> Answer {
    let request = Request::post(format!("/api/pool/{what}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()));
    world.send(request.unwrap()).await
}

fn pair(id: &str) -> Value {
    json!({"instanceId": id, "gatewayToken": format!("{TOKEN_MARK}{id}"), "conversationId": "c7"})
}

fn deleted(world: &World) -> Vec<String> {
    world.cluster.lock().unwrap().deleted.clone()
}

#[test]
fn the_routes_of_the_contract_are_there() {
    let found: Vec<&str> = ROUTES
        .iter()
        .filter(|r| r.access == Access::Instance)
        .map(|r| r.path.strip_prefix("/api/pool/").unwrap())
        .collect();
    assert_eq!(found, CALLBACKS);
}

#[tokio::test]
async fn only_the_pair_of_id_and_token_opens_them() {
    let world = World::new();
    world.add([
        instance("a", "PendingAcceptance", 1),
        instance("b", "Claimed", 1),
        instance("keyless", "Idle", 1),
    ]);
    let (a, token) = ("a", format!("{TOKEN_MARK}a"));
    for what in CALLBACKS.into_iter().filter(|w| *w != "attest") {
        for missing in [
            json!({}),
            json!({"instanceId": a}),
            json!({"gatewayToken": token}),
            json!({"instanceId": "", "gatewayToken": token}),
            json!({"instanceId": a, "gatewayToken": ""}),
            json!({"instanceId": 1, "gatewayToken": token}),
            json!({"instanceId": a, "gatewayToken": [token]}),
            json!([a, token]),
        ] {
            call(&world, what, missing).await.fails(
                400,
                "bad_request",
                "instanceId and gatewayToken are required",
            );
        }
        for wrong in [
            json!({"instanceId": a, "gatewayToken": "wrong"}),
            json!({"instanceId": "b", "gatewayToken": token}),
            json!({"instanceId": "nobody", "gatewayToken": token}),
            json!({"instanceId": "A", "gatewayToken": token}),
        ] {
            let mut body = wrong;
            body["conversationId"] = json!("c7");
            call(&world, what, body).await.fails(
                403,
                "unauthorized",
                "Invalid instance ID or token",
            );
        }
        // Before the root key is read, nobody can tell.
        let answer = call(&world, what, pair("keyless")).await;
        answer.fails(500, "internal", "Internal error");
    }
    assert_eq!(deleted(&world), Vec::<String>::new());
    // The pool's own key opens none of them.
    let keyed = world
        .call("POST", "/api/pool/self-destruct", json!({"instanceId": a}))
        .await;
    assert_eq!(keyed.status, 400);
}

#[tokio::test]
async fn an_agent_ends_itself_in_any_phase_and_as_often_as_it_says() {
    let world = World::new();
    let phases = [
        "Idle",
        "Provisioning",
        "Claiming",
        "Claimed",
        "PendingAcceptance",
        "Crashed",
        "Tainted",
        "Sleeping",
    ];
    let id = |phase: &str| phase.to_ascii_lowercase();
    world.add(phases.map(|phase| instance(&id(phase), phase, 1)));
    world.add([instance("going", "Terminating", 1)]);
    for phase in phases {
        for _ in 0..2 {
            let answer = call(&world, "self-destruct", pair(&id(phase))).await;
            answer.is(200, json!({"ok": true}));
        }
    }
    let answer = call(&world, "self-destruct", pair("going")).await;
    answer.is(200, json!({"ok": true}));
    assert_eq!(
        deleted(&world),
        phases.map(id),
        "each once, with preconditions"
    );
}

#[tokio::test]
async fn a_protected_agent_is_answered_and_stays() {
    let world = World::new();
    let mut kept = instance("kept", "Claimed", 1);
    kept["metadata"]["labels"]["pool.convos.org/protected"] = json!("true");
    world.add([kept, instance("just", "Claimed", 1)]);
    // Protected only a moment ago, which the watch has not shown yet.
    let protect: Box<dyn FnOnce(&mut Value) + Send> = Box::new(|object| {
        object["metadata"]["labels"]["pool.convos.org/protected"] = json!("true");
    });
    world
        .cluster
        .lock()
        .unwrap()
        .before_delete
        .push_back(protect);
    for id in ["kept", "just"] {
        let answer = call(&world, "self-destruct", pair(id)).await;
        answer.is(200, json!({"ok": true}));
    }
    assert_eq!(deleted(&world), Vec::<String>::new());
}

/// The agent's process ends once it is answered, and it asks only once.
#[tokio::test(start_paused = true)]
async fn its_own_end_is_answered_with_the_cluster_down_and_recorded_later() {
    let world = World::new();
    world.add([instance("a", "Claimed", 1)]);
    world.cluster.lock().unwrap().down = true;
    let begun = world.state.clock.monotonic();
    let answer = call(&world, "self-destruct", pair("a")).await;
    answer.is(200, json!({"ok": true}));
    let took = world.state.clock.monotonic() - begun;
    assert!(took.as_secs() <= 3, "{took:?}");
    assert_eq!(deleted(&world), Vec::<String>::new());
    world.cluster.lock().unwrap().down = false;
    world.state.tasks.close();
    world.state.tasks.wait().await;
    assert_eq!(deleted(&world), ["a"]);
}

#[tokio::test]
async fn what_it_tells_of_a_join_that_no_longer_waits_changes_nothing() {
    let world = World::new();
    world
        .add(["Idle", "Claiming", "Claimed", "Crashed"].map(|p| instance(&p.to_lowercase(), p, 1)));
    for id in ["idle", "claiming", "claimed", "crashed"] {
        call(&world, "pending-acceptance/complete", pair(id))
            .await
            .is(
                200,
                json!({"ok": false, "instanceId": id, "conversationId": "c7"}),
            );
        call(&world, "pending-acceptance/fail", pair(id))
            .await
            .is(200, json!({"ok": false, "instanceId": id}));
    }
    for bad in [json!(null), json!(""), json!(7), json!("x".repeat(129))] {
        let mut body = pair("idle");
        body["conversationId"] = bad;
        call(&world, "pending-acceptance/complete", body)
            .await
            .fails(
                400,
                "bad_request",
                "conversationId (string of 1 to 128 characters) is required",
            );
    }
}

#[tokio::test]
async fn it_learns_what_it_runs_and_what_its_pool_builds_now() {
    let world = World::new();
    let mut orphan = instance("orphan", "Claimed", 1);
    orphan["spec"]["poolRef"]["name"] = json!("deleted");
    orphan["status"]["runtime"] = json!({});
    world.add([instance("a", "Claimed", 1), orphan]);
    let expected = json!({"ok": true, "instanceId": "a", "runtimeVersion": "1.2",
        "runtimeImage": "ghcr.io/x/y:1", "latestImage": "r"});
    call(&world, "self-info", pair("a")).await.is(200, expected);
    let expected = json!({"ok": true, "instanceId": "orphan", "runtimeVersion": null,
        "runtimeImage": "ghcr.io/x/y:1", "latestImage": null});
    call(&world, "self-info", pair("orphan"))
        .await
        .is(200, expected);
}

#[tokio::test]
async fn what_is_not_built_is_said_at_once() {
    let world = World::new();
    world.add([instance("a", "Claiming", 1)]);
    for body in [json!({}), pair("a"), pair("nobody")] {
        call(&world, "attest", body).await.fails(
            503,
            "not_supported",
            "Attestation not configured",
        );
    }
    for what in ["self-upgrade", "self-reset"] {
        call(&world, what, pair("a")).await.fails(
            501,
            "not_supported",
            "Agents are not redeployed in place: end this one and claim another",
        );
    }
}

/// And one that asks too much can still end itself.
#[tokio::test(start_paused = true)]
async fn each_agent_asks_only_so_often() {
    let world = World::new();
    world.add([instance("a", "Claimed", 1), instance("b", "Claimed", 1)]);
    for _ in 0..10 {
        let wrong = json!({"instanceId": "a", "gatewayToken": "wrong"});
        assert_eq!(call(&world, "self-info", wrong).await.status, 403);
    }
    for _ in 0..10 {
        assert_eq!(call(&world, "self-info", pair("a")).await.status, 200);
    }
    let answer = call(&world, "self-info", pair("a")).await;
    answer.fails(429, "rate_limited", "Too many calls: try again later");
    assert_eq!(answer.headers[header::RETRY_AFTER], "2");
    assert_eq!(call(&world, "self-info", pair("b")).await.status, 200);
    let answer = call(&world, "self-destruct", pair("a")).await;
    answer.is(200, json!({"ok": true}));
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    assert_eq!(call(&world, "self-info", pair("a")).await.status, 200);
}
