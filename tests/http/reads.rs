//! Version, counts and listings, and which pool a call is about.

use agentpool::http::{AgentsShape, PoolKey, PublicReads};
use serde_json::{Value, json};

use crate::world::{TOKEN_MARK, World, instance, pool, protected};

const PHASES: [&str; 11] = [
    "Provisioning",
    "Idle",
    "Claiming",
    "Claimed",
    "PendingAcceptance",
    "Recycling",
    "Sleeping",
    "Crashed",
    "Tainted",
    "Dead",
    "Terminating",
];

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array()
        .unwrap()
        .iter()
        .map(|r| r["id"].as_str().unwrap())
        .collect()
}

/// About: D02, D03, E03
#[tokio::test]
async fn health_and_version() {
    let mut world = World::empty();
    world.get("/healthz").await.is(200, json!({"ok": true}));
    world.get("/version").await.is(
        200,
        json!({"version": env!("CARGO_PKG_VERSION"), "environment": "unknown"}),
    );
    world
        .cluster
        .lock()
        .unwrap()
        .put_pool(pool("agents", "staging"));
    assert_eq!(world.get("/version").await.json()["environment"], "staging");
    world.settings(|s| s.environment = Some("production".to_owned()));
    assert_eq!(
        world.get("/version").await.json()["environment"],
        "production"
    );
}

/// About: D04
#[tokio::test]
async fn counts_have_every_key() {
    let world = World::new();
    let none = json!({
        "provisioning": 0, "starting": 0, "idle": 0, "claiming": 0, "claimed": 0, "recycling": 0, "crashed": 0,
        "pending_acceptance": 0, "tainted": 0, "sleeping": 0, "dead": 0, "terminating": 0,
    });
    world.get("/api/pool/counts").await.is(200, none);
    for (n, phase) in PHASES.into_iter().enumerate() {
        // The first phase once, the second twice, and so on, so that no two can be mistaken.
        world.add((0..=n).map(|m| instance(&format!("{}{m}", phase.to_lowercase()), phase, 1)));
    }
    let mut foreign = instance("foreign", "Idle", 1);
    foreign["spec"]["poolRef"]["name"] = json!("other");
    let mut elsewhere = instance("elsewhere", "Idle", 1);
    elsewhere["metadata"]["namespace"] = json!("other");
    world.add([foreign, elsewhere]);
    world.get("/api/pool/counts").await.is(
        200,
        json!({
            "provisioning": 1, "starting": 1, "idle": 2, "claiming": 3, "claimed": 4, "recycling": 6, "crashed": 8,
            "pending_acceptance": 5, "tainted": 9, "sleeping": 7, "dead": 10, "terminating": 11,
        }),
    );
}

/// The phase is derived: what status.phase says is for people.
#[tokio::test]
async fn status_phase_is_not_believed() {
    let world = World::new();
    let mut lying = instance("a", "Claiming", 1);
    lying["status"]["phase"] = json!("Idle");
    world.add([lying]);
    let counts = world.get("/api/pool/counts").await.json();
    assert_eq!(
        (&counts["idle"], &counts["claiming"]),
        (&json!(0), &json!(1))
    );
}

/// About: D05
#[tokio::test]
async fn agents_in_both_shapes_in_order() {
    let mut world = World::new();
    world.add([
        instance("c-old", "Claimed", 9),
        instance("c-new", "Claimed", 1),
        instance("c-mid", "Claimed", 5),
        instance("x-old", "Crashed", 9),
        instance("x-new", "Crashed", 1),
        instance("i-new", "Idle", 1),
        instance("i-old", "Idle", 9),
        instance("s-new", "Provisioning", 1),
        instance("s-old", "Provisioning", 9),
        instance("p", "PendingAcceptance", 1),
        instance("t", "Tainted", 1),
        instance("g", "Terminating", 1),
    ]);
    let agents = world.get("/api/pool/agents").await.json();
    let lists: Vec<_> = agents
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.as_str(), ids(v)))
        .collect();
    assert_eq!(lists.len(), 6);
    for want in [
        ("claimed", vec!["c-new", "c-mid", "c-old"]),
        ("crashed", vec!["x-new", "x-old"]),
        ("idle", vec!["i-old", "i-new"]),
        ("starting", vec!["s-old", "s-new"]),
        ("pendingAcceptance", vec!["p"]),
        ("tainted", vec!["t"]),
    ] {
        assert!(lists.contains(&want), "{want:?} in {lists:?}");
    }
    assert_eq!(
        ids(&world.get("/api/pool/agents?format=list").await.json()),
        ["c-new", "c-mid", "c-old"]
    );
    world.settings(|s| s.agents_shape = AgentsShape::List);
    assert!(world.get("/api/pool/agents").await.json().is_array());
    assert!(
        world
            .get("/api/pool/agents?format=object")
            .await
            .json()
            .is_object()
    );
}

#[tokio::test]
async fn a_row_has_every_spelling() {
    let world = World::new();
    world.add([protected(instance("b", "Claimed", 1))]);
    let want: Value = serde_json::from_str(
        r#"{
        "id": "b", "name": "convos-agent-stg-b", "sprite_name": "convos-agent-stg-b", "pool": "staging", "namespace": "agents", "provider": "Railway",
        "serviceId": "svc-b", "service_id": "svc-b", "railway_service_id": "svc-b",
        "url": "https://b.up.railway.app", "sprite_url": "https://b.up.railway.app", "railway_url": "https://b.up.railway.app",
        "gatewayUrl": "https://b.up.railway.app", "status": "claimed", "deployStatus": "SUCCESS", "deploy_status": "SUCCESS",
        "agentName": "Agent b", "agent_name": "Agent b", "claimed_by": "Agent b", "conversationId": "conv-b", "conversation_id": "conv-b",
        "inviteUrl": "https://dev.convos.org/v2?i=b", "invite_url": "https://dev.convos.org/v2?i=b", "joinUrl": null, "join_url": null,
        "instructions": "be b", "createdAt": "2026-11-21T10:58:00Z", "created_at": "2026-11-21T10:58:00Z",
        "claimedAt": "2026-11-21T11:58:01Z", "claimed_at": "2026-11-21T11:58:01Z", "updatedAt": "2026-11-21T11:58:01Z", "updated_at": "2026-11-21T11:58:01Z",
        "sourceBranch": null, "source_branch": null, "runtimeImage": "ghcr.io/x/y:1", "runtime_image": "ghcr.io/x/y:1",
        "runtimeVersion": "1.2", "runtime_version": "1.2", "runtimeType": "hermes", "runtime_type": "hermes",
        "projectId": null, "project_id": null, "railway_project_id": null, "environmentId": null, "environment_id": null,
        "railway_environment_id": null, "providerUrl": null, "provider_url": null,
        "checkpointId": null, "checkpoint_id": null, "protected": true}"#,
    )
    .unwrap();
    assert_eq!(
        world.get("/api/pool/agents?format=list").await.json(),
        json!([want])
    );
    let mut full = want;
    for (key, value) in [
        ("openrouterKeyHash", "or-hash"),
        ("openrouter_key_hash", "or-hash"),
        ("agentmailInboxId", "am-inbox"),
        ("agentmail_inbox_id", "am-inbox"),
    ] {
        full[key] = json!(value);
    }
    assert_eq!(
        world
            .call("GET", "/api/pool/status", Value::Null)
            .await
            .json()["instances"],
        json!([full])
    );
}

/// In the pool's project, and in the agent's own where it has one; without its ids there is no page.
#[tokio::test]
async fn a_row_links_to_its_service_s_page_at_railway() {
    let world = World::new();
    let [mut shared, mut own, none] = ["a", "b", "c"].map(|id| instance(id, "Claimed", 1));
    let place = json!({"kind": "Railway", "projectId": "pool-p", "environmentId": "pool-e"});
    let alone = json!({"kind": "Railway", "workspaceId": "w"});
    shared["spec"]["provider"] = place;
    own["spec"]["provider"] = alone;
    own["status"]["provider"]["projectId"] = "own-p".into();
    own["status"]["provider"]["environmentId"] = "own-e".into();
    world.add([shared, own, none]);
    let rows = world.get("/api/pool/agents?format=list").await.json();
    let pages: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["id"].as_str().unwrap(), r["providerUrl"].as_str()))
        .collect();
    let page = |end: &str| format!("https://railway.com/project/{end}");
    let (a, b) = (
        page("pool-p/service/svc-a?environmentId=pool-e"),
        page("own-p/service/svc-b?environmentId=own-e"),
    );
    assert_eq!(
        pages,
        [
            ("a", Some(a.as_str())),
            ("b", Some(b.as_str())),
            ("c", None)
        ]
    );
    assert_eq!(rows[1]["railway_project_id"], "own-p");
}

/// About: D06
#[tokio::test]
async fn status_lists_all_and_tokens_only_if_asked() {
    let world = World::new();
    world.add(
        PHASES
            .into_iter()
            .enumerate()
            .map(|(n, phase)| instance(&phase.to_lowercase(), phase, n as u32)),
    );
    let status = world
        .call("GET", "/api/pool/status", Value::Null)
        .await
        .json();
    let mut oldest_first: Vec<String> = PHASES.iter().map(|p| p.to_lowercase()).collect();
    oldest_first.reverse();
    assert_eq!(ids(&status["instances"]), oldest_first);
    assert_eq!(status["counts"]["claimed"], 1);
    assert!(!status.to_string().contains(TOKEN_MARK));
    let status = world
        .call("GET", "/api/pool/status?include=secrets", Value::Null)
        .await
        .json();
    let row = &status["instances"][0];
    assert_eq!(
        (&row["gatewayToken"], &row["gateway_token"]),
        (
            &json!(format!("{TOKEN_MARK}terminating")),
            &json!(format!("{TOKEN_MARK}terminating"))
        )
    );
}

#[tokio::test]
async fn redacted_reads_hide_what_a_conversation_is_about() {
    let mut world = World::new();
    world.settings(|s| s.public_reads = PublicReads::Redacted);
    world.add([instance("b", "Claimed", 1)]);
    let hidden = world.get("/api/pool/agents").await;
    assert!(
        !hidden.text.contains("be b") && !hidden.text.contains("v2?i="),
        "{}",
        hidden.text
    );
    assert_eq!(hidden.json()["claimed"][0]["agentName"], "Agent b");
    assert_eq!(
        world
            .call("GET", "/api/pool/agents", Value::Null)
            .await
            .json()["claimed"][0]["instructions"],
        "be b"
    );
}

#[tokio::test]
async fn a_claim_that_is_not_bound_shows_no_old_conversation() {
    let world = World::new();
    let mut stale = instance("b", "Claimed", 1);
    stale["spec"]["claim"]["id"] = json!("another");
    world.add([stale]);
    let row = world
        .call("GET", "/api/pool/status", Value::Null)
        .await
        .json()["instances"][0]
        .clone();
    assert_eq!(
        (
            &row["status"],
            &row["conversationId"],
            &row["inviteUrl"],
            &row["claimedAt"]
        ),
        (&json!("claiming"), &Value::Null, &Value::Null, &Value::Null)
    );
}

/// The contract's section 1.5.
#[tokio::test]
async fn the_pool_is_the_only_one_or_named() {
    let mut world = World::empty();
    world.get("/api/pool/counts").await.fails(
        404,
        "not_found",
        "There is no pool yet: create an AgentPool",
    );
    for (namespace, name) in [("agents", "staging"), ("agents", "dev"), ("other", "dev")] {
        world
            .cluster
            .lock()
            .unwrap()
            .put_pool(pool(namespace, name));
    }
    world.add([instance("a", "Idle", 1)]);
    assert_eq!(
        world.get("/api/pool/counts").await.status,
        404,
        "several, and none named"
    );
    let idle = async |world: &World, path: &str| world.get(path).await.json()["idle"].clone();
    for (path, want) in [
        ("/api/pool/counts?pool=agents/staging", json!(1)),
        ("/api/pool/counts?pool=agents%2Fstaging", json!(1)),
        ("/api/pool/counts?pool=staging", json!(1)),
        ("/pools/agents/staging/api/pool/counts", json!(1)),
        (
            "/pools/agents/staging/api/pool/counts?pool=other/dev",
            json!(1),
        ),
        ("/api/pool/counts?pool=agents/dev", json!(0)),
        ("/pools/other/dev/api/pool/counts", json!(0)),
    ] {
        assert_eq!(idle(&world, path).await, want, "{path}");
    }
    for path in [
        "/api/pool/counts?pool=nothing",
        "/api/pool/counts?pool=agents/nothing",
        "/api/pool/counts?pool=dev",
        "/pools/agents/nothing/api/pool/counts",
    ] {
        let answer = world.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["code"].clone()),
            (404, json!("not_found")),
            "{path}"
        );
    }
    let listed = world
        .call(
            "DELETE",
            "/api/pool/instances",
            json!({"pool": "agents/staging"}),
        )
        .await;
    listed.is(200, json!({"ids": []}));
    let odd = world
        .call("POST", "/api/pool/drain", json!({"pool": 5}))
        .await;
    odd.fails(400, "bad_request", "pool must be a string if provided");
    world.settings(|s| {
        s.default_pool = Some(PoolKey {
            namespace: "agents".to_owned(),
            name: "staging".to_owned(),
        })
    });
    assert_eq!(idle(&world, "/api/pool/counts").await, json!(1));
}
