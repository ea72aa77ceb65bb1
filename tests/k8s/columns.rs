//! The predecessor's record of an instance, column by column, as AgentInstance and kubectl show it.

use std::collections::BTreeSet;

use agentpool::api::names;
use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::operator::KEY;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The API's row of an instance.
async fn row(world: &World, id: &str) -> Option<Value> {
    let body = world.get("/api/pool/status").await.body;
    let rows = body["instances"].as_array()?.clone();
    rows.into_iter().find(|r| r["id"] == id)
}

/// acceptance: G01, G02, G03, G04, G11
#[tokio::test(flavor = "multi_thread")]
async fn id_service_name_address_and_time_of_creation() {
    let begun = jiff::Timestamp::now().as_second();
    let world = World::with_pool(
        "columns-idle",
        json!({"minIdle": 3, "tickIntervalSeconds": 1}),
    )
    .await;
    let (mut ids, mut services) = (BTreeSet::new(), BTreeSet::new());
    for instance in world.wait_idle(3).await {
        let id = instance.spec.id.clone();
        let legal = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
        assert!(id.len() == 12 && id.chars().all(legal), "{id}");
        assert_eq!(instance.name_any(), id);
        assert_eq!(
            instance.spec.provider_name,
            format!("convos-agent-stg-{id}")
        );

        let status = instance.status.clone().unwrap();
        let provider = status.provider.unwrap();
        let service = world
            .sim
            .service(&instance.spec.provider_name)
            .await
            .unwrap();
        assert_eq!(service["id"], provider.service_id.clone().unwrap().as_str());
        services.insert(provider.service_id.unwrap());

        let url = status.url.unwrap();
        let domains = service["domains"].to_string();
        let host = url.strip_prefix("https://").unwrap();
        assert!(domains.contains(host), "{url} is not of {domains}");
        let health = world.agent(&url, "/pool/health", None).await;
        assert_eq!(health.status, 200, "{}", health.text);

        let created = instance.creation_timestamp().unwrap().0;
        let now = jiff::Timestamp::now().as_second();
        assert!((begun..=now).contains(&created.as_second()), "{created}");
        let row = row(&world, &id).await.unwrap();
        for (key, value) in [
            ("name", instance.spec.provider_name.clone()),
            ("url", url),
            ("serviceId", service["id"].as_str().unwrap().to_owned()),
            ("createdAt", created.to_string()),
        ] {
            assert_eq!(row[key], value.as_str(), "{key}: {row}");
        }
        ids.insert(id);
    }
    assert_eq!((ids.len(), services.len()), (3, 3), "none is shared");
    world.finish().await;
}

/// Ids of the predecessor that are no object names: found by `spec.id`.
///
/// acceptance: G01
#[tokio::test(flavor = "multi_thread")]
async fn an_imported_id_names_the_object_by_its_hash() {
    let world = World::with_pool(
        "columns-imported",
        json!({"minIdle": 1, "tickIntervalSeconds": 1}),
    )
    .await;
    let id = "rnM8UBQ_fZCz";
    let name = format!("i-{}", &hex(&Sha256::digest(id.as_bytes()))[..10]);
    assert_eq!(names::object_name(id), name);
    assert_eq!(names::object_name("0123456789ab"), "0123456789ab");

    let idle = world.wait_idle(1).await;
    let mut spec = serde_json::to_value(&idle[0].spec).unwrap();
    spec["id"] = json!(id);
    spec["providerName"] = json!("convos-agent-rnM8UBQ_fZCz");
    spec["restored"] = json!(true);
    spec["claim"] = json!({"id": "imported", "holder": "import", "agentName": "Old Friend",
        "deadline": "2026-01-01T00:00:00Z", "requestedAt": "2026-01-01T00:00:00Z"});
    let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": name}, "spec": spec});
    let file = format!(
        "{}/{}.json",
        env!("CARGO_TARGET_TMPDIR"),
        world.namespace.name()
    );
    std::fs::write(&file, object.to_string()).unwrap();
    world.kubectl(&["create", "-f", &file]);
    std::fs::remove_file(&file).unwrap();
    let shown = until("the API knows it by its id", LONG, || row(&world, id)).await;
    assert_eq!(shown["agentName"], "Old Friend");
    let path = format!("/api/pool/instances/{id}/destroy");
    let gone = world.call(Method::DELETE, &path, json!({})).await;
    assert_eq!(gone.status, 200, "{}", gone.text);
    world.wait_gone(id).await;
    world.finish().await;
}

/// Cleared at recycling comes with recycling.
///
/// acceptance: G07, G08, G09, G10, G12
#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_leaves_in_the_record() {
    let world = World::with_pool(
        "columns-claimed",
        json!({"minIdle": 2, "tickIntervalSeconds": 1}),
    )
    .await;
    let idle = world.wait_idle(2).await;
    for instance in &idle {
        assert!(instance.spec.claim.is_none());
        let row = row(&world, &instance.spec.id).await.unwrap();
        for key in [
            "agentName",
            "conversationId",
            "inviteUrl",
            "instructions",
            "claimedAt",
        ] {
            assert_eq!(row[key], Value::Null, "{key}: {row}");
        }
    }
    let plain = "Say \"hi\" to $HOME.\n日本語 – naïve 🙂".to_owned();
    let long = "é".repeat(3000);
    for (name, instructions) in [("Tokyo Trip ✈", &plain), ("Long", &long)] {
        let before = jiff::Timestamp::now().as_second();
        let body = json!({"agentName": name, "instructions": instructions});
        let answer = world.call(Method::POST, "/api/pool/claim", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap();
        let instance = world.instance(id).await.unwrap();
        let claim = instance.spec.claim.clone().unwrap();
        let status = instance.status.clone().unwrap().claim.unwrap();
        assert_eq!(claim.agent_name, name);
        assert_eq!(status.id, claim.id);
        let conversation = status.conversation_id.unwrap();
        assert_eq!(answer.body["conversationId"], conversation.as_str());
        let invite = status.invite_url.unwrap();
        assert_eq!(answer.body["inviteUrl"], invite.as_str());

        // Kept whole where it fits, else its beginning and all of it in a Secret that goes with the instance.
        let kept = claim.instructions.unwrap();
        assert!(instructions.starts_with(&kept), "{kept}");
        match &claim.instructions_secret_ref {
            None => assert_eq!((&kept, instructions.len() <= 4096), (instructions, true)),
            Some(reference) => {
                assert!(
                    instructions.len() > 4096 && kept.len() <= 256,
                    "{}",
                    kept.len()
                );
                let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
                let secret = secrets.get(&reference.name).await.unwrap();
                assert_eq!(
                    &secret.data.unwrap()[&reference.key].0,
                    instructions.as_bytes()
                );
                let owner = &secret.metadata.owner_references.unwrap()[0];
                assert_eq!(Some(&owner.uid), instance.metadata.uid.as_ref());
            }
        }
        let service = instance
            .status
            .clone()
            .unwrap()
            .provider
            .unwrap()
            .service_id
            .unwrap();
        let ledger = world.sim.ledger().await;
        let made = &ledger["instances"][&service]["conversations"];
        assert_eq!(made[0]["id"], conversation.as_str(), "{made}");
        assert_eq!(made[0]["name"], name);
        assert_eq!(made[0]["instructions"], instructions.as_str());

        let claimed_at = status.claimed_at.unwrap().0;
        let now = jiff::Timestamp::now().as_second();
        assert!(
            (before..=now).contains(&claimed_at.as_second()),
            "{claimed_at}"
        );
        let row = until("the row", LONG, || async {
            row(&world, id).await.filter(|r| r["status"] == "claimed")
        })
        .await;
        let second = claimed_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for (key, value) in [
            ("agentName", name),
            ("conversationId", &conversation),
            ("inviteUrl", &invite),
            ("claimedAt", &second),
        ] {
            assert_eq!(row[key], value, "{key}: {row}");
        }
    }
    world.finish().await;
}

/// acceptance: G05
#[tokio::test(flavor = "multi_thread")]
async fn the_five_states_are_phases_and_words_of_the_api() {
    let world = World::start("columns-status").await;
    // Two seconds at this speed.
    world
        .sim
        .set("railway", json!({"timings": {"deploying": 40}}))
        .await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 1}))
        .await;
    let is = async |phase: &str, word: &str| -> String {
        until(&format!("{phase} and {word}"), LONG, || async {
            let fields = format!("status.phase={phase}");
            let found = world.kubectl(&[
                "get",
                "ai",
                "--field-selector",
                &fields,
                "-o=jsonpath={.items[*].spec.id}",
            ]);
            let ids: Vec<_> = found.split_whitespace().collect();
            for id in ids {
                if row(&world, id).await.is_some_and(|r| r["status"] == word) {
                    return Some(id.to_owned());
                }
            }
            None
        })
        .await
    };
    let id = is("Provisioning", "starting").await;
    assert_eq!(is("Idle", "idle").await, id);

    let answer = world.claim("Ada").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(is("Claimed", "claimed").await, id);

    // A claim whose process is gone, until its deadline.
    let next = is("Idle", "idle").await;
    let now = jiff::Timestamp::now().to_string();
    let claim = json!({"id": "left", "holder": "gone", "agentName": "Bob", "deadline": now, "requestedAt": now});
    let patch = json!({"spec": {"claim": claim}}).to_string();
    world.kubectl(&["patch", "ai", &next, "--type=merge", "-p", &patch]);
    assert_eq!(is("Claiming", "claiming").await, next);

    let status = world.instance(&id).await.unwrap().status.unwrap();
    let service = status.provider.unwrap().service_id;
    let crash = json!({"service": service, "deployment": {"status": "CRASHED"}});
    world.sim.force(crash).await;
    assert_eq!(is("Crashed", "crashed").await, id);
    let crashed = world.instance(&id).await.unwrap();
    assert_eq!(
        crashed.spec.claim.unwrap().agent_name,
        "Ada",
        "the claim is kept"
    );
    world.finish().await;
}

/// The imported form: `tests/k8s/import.rs`.
///
/// acceptance: G17
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_token_is_derived_and_in_no_object() {
    let world = World::with_pool(
        "columns-token",
        json!({"minIdle": 1, "tickIntervalSeconds": 1}),
    )
    .await;
    let answer = world.claim("Ada").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = answer.body["instanceId"].as_str().unwrap();
    let token = answer.body["gatewayToken"].as_str().unwrap();

    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let root = secrets.get("agentpool-root-key").await.unwrap();
    let root = root.data.unwrap()["current"].0.clone();
    let mut mac = Hmac::<Sha256>::new_from_slice(&root).unwrap();
    mac.update(format!("gateway\0{id}\u{0}1").as_bytes());
    assert_eq!(token, hex(&mac.finalize().into_bytes()));
    let instance = world.instance(id).await.unwrap();
    assert_eq!(instance.status.clone().unwrap().token_seq.unwrap_or(1), 1);

    // It is the agent's, and only the agent and who claims have it.
    let state = world.sim.state("railway").await;
    let service = state["services"].as_array().unwrap().iter();
    let mut own = service.filter(|s| s["variables"]["INSTANCE_ID"] == id);
    assert_eq!(own.next().unwrap()["variables"]["GATEWAY_TOKEN"], token);
    let kinds = "agentpools,agentinstances,controllerrevisions,events,configmaps";
    let objects = world.kubectl(&["get", kinds, "-o", "yaml", "--show-managed-fields"]);
    assert!(
        objects.contains(id) && !objects.contains(token),
        "in an object"
    );
    let header = format!("Bearer {KEY}");
    for path in ["/api/pool/status", "/api/pool/agents", "/api/pool/counts"] {
        let shown = world
            .call_with(Method::GET, path, Some(&header), None)
            .await;
        assert!(
            shown.status == 200 && !shown.text.contains(token),
            "{path}: {}",
            shown.text
        );
    }
    let names: Vec<_> = secrets.list(&Default::default()).await.unwrap().items;
    let names: BTreeSet<_> = names.iter().map(ResourceExt::name_any).collect();
    assert_eq!(
        names,
        ["agentpool-root-key", "railway"].map(str::to_owned).into(),
        "no Secret per instance"
    );
    world.finish().await;
}

/// acceptance: G20
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_one_asks_first() {
    let spec = json!({"minIdle": 2, "maxTotal": 7, "tickIntervalSeconds": 1});
    let world = World::with_pool("columns-kubectl", spec).await;
    let answer = world.claim("Tokyo").await;
    let id = answer.body["instanceId"].as_str().unwrap();
    world.wait_idle(2).await;
    let table = |arguments: &[&str]| -> Vec<Vec<String>> {
        let text = world.kubectl(arguments);
        let words = |l: &str| l.split_whitespace().map(str::to_owned).collect();
        text.lines().map(words).collect()
    };
    let pools = until("the counts are right", LONG, || async {
        let rows = table(&["get", "agentpools"]);
        (rows[1][1..10] == ["staging", "Railway", "2", "2", "0", "1", "0", "7", "True"])
            .then_some(rows)
    })
    .await;
    assert_eq!(
        pools[0],
        [
            "NAME",
            "ENVIRONMENT",
            "PROVIDER",
            "IDLE",
            "MIN",
            "PROVISIONING",
            "CLAIMED",
            "CRASHED",
            "MAX",
            "READY",
            "AGE"
        ]
    );
    let narrow = table(&["get", "agentinstances"]);
    assert_eq!(
        narrow[0],
        ["NAME", "POOL", "PHASE", "AGENT", "REASON", "AGE"]
    );
    let wide = table(&["get", "agentinstances", "-o", "wide"]);
    assert_eq!(
        wide[0],
        [
            "NAME",
            "POOL",
            "PHASE",
            "AGENT",
            "REASON",
            "URL",
            "PROVIDER-ID",
            "AGE"
        ]
    );
    let claimed = wide.iter().find(|r| r[0] == id).unwrap();
    let status = world.instance(id).await.unwrap().status.unwrap();
    assert_eq!(claimed[1..5], [POOL, "Claimed", "Tokyo", "Claimed"]);
    assert_eq!(claimed[5], status.url.unwrap());
    assert_eq!(claimed[6], status.provider.unwrap().service_id.unwrap());
    assert_eq!(
        wide.iter().filter(|r| r[2] == "Idle").count(),
        2,
        "{wide:?}"
    );
    world.finish().await;
}
