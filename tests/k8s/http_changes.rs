//! Replenish, drain, reconcile and the ends of instances over HTTP.

use agentpool::api::AgentInstance;
use agentpool::api::names::object_name;
use agentpool::domain::instance::phase::{Phase, phase_of};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use reqwest::Method;
use serde_json::{Value, json};

use super::http_calls::{
    account, bearer, delete, empty_pool, fails, ids, open, post, service_id, stock, tally, text,
    wait_served,
};
use crate::support::simulator::PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::World;

/// Whether the ledger still has anything of the service: it or what belonged to it.
async fn is_left(world: &World, service: &str) -> bool {
    let live = world.sim.live_services().await;
    let state = world.sim.state("railway").await;
    let shown = state["services"].as_array().unwrap();
    live.iter().any(|s| s["id"] == service) || shown.iter().any(|s| s["id"] == service)
}

/// acceptance: D18, D20, D21, N05
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_listed_given_back_and_destroyed_by_its_id() {
    let world = empty_pool("change-kill", json!({})).await;
    stock(&world, 3, 3).await;
    let mut claimed = vec![];
    for name in ["Ada", "Bob"] {
        claimed.push(text(&world.claim(name).await.body, "instanceId"));
    }
    world.wait_count("claimed", 2).await;
    let before = world.list().await;
    let listed = delete(&world, "/api/pool/instances").await;
    let mut told: Vec<String> = serde_json::from_value(listed.body["ids"].clone()).unwrap();
    told.sort();
    let mut wanted = claimed.clone();
    wanted.sort();
    assert_eq!((listed.status, &told), (200, &wanted), "{}", listed.text);
    assert_eq!(listed.body.as_object().unwrap().len(), 1, "{}", listed.text);
    let after = world.list().await;
    assert_eq!(ids(&after), ids(&before), "nothing is deleted");
    assert_eq!(tally(&after), tally(&before));

    for (id, suffix, body) in [
        (&claimed[0], "", json!({"ok": true, "action": "destroyed"})),
        (&claimed[1], "/destroy", json!({"ok": true})),
    ] {
        let service = service_id(&world.instance(id).await.unwrap());
        assert!(is_left(&world, &service).await);
        let path = format!("/api/pool/instances/{id}{suffix}");
        let answer = delete(&world, &path).await;
        assert_eq!((answer.status, &answer.body), (200, &body));
        let again = delete(&world, &path).await;
        let gone = json!({"ok": true, "alreadyGone": true});
        assert_eq!((again.status, &again.body), (200, &gone));
        world.wait_gone(id).await;
        assert!(
            !is_left(&world, &service).await,
            "gone before its record is"
        );
        let again = delete(&world, &path).await;
        assert_eq!((again.status, &again.body), (200, &gone));
    }
    // The one in stock is destroyed as well, and no other went.
    let idle = world.list().await;
    assert_eq!((idle.len(), phase_of(&idle[0])), (1, Phase::Idle));
    let path = format!("/api/pool/instances/{}/destroy", idle[0].spec.id);
    assert_eq!(delete(&world, &path).await.status, 200);
    world.wait_gone(&idle[0].spec.id).await;
    assert!(!is_left(&world, &service_id(&idle[0])).await);
    world.finish().await;
}

/// acceptance: D22
#[tokio::test(flavor = "multi_thread")]
async fn replenish_creates_so_many_now() {
    let world = empty_pool("change-more", json!({"maxTotal": 25})).await;
    let answer = post(&world, "/api/pool/replenish", json!({"count": 3})).await;
    assert_eq!(
        (answer.status, &answer.body["created"]),
        (200, &json!(3)),
        "{}",
        answer.text
    );
    assert_eq!(
        (&answer.body["ok"], &answer.body["failed"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(answer.body["counts"]["starting"], 3, "{}", answer.text);
    let rows = answer.body["instances"].as_array().unwrap();
    let mut told: Vec<_> = rows.iter().map(|r| text(r, "id")).collect();
    told.sort();
    let there = world.list().await;
    assert_eq!(told, ids(&there), "they exist when the answer comes");
    for row in rows {
        let instance = there.iter().find(|i| i.spec.id == row["id"]).unwrap();
        assert_eq!(text(row, "name"), instance.spec.provider_name);
    }
    world.wait_idle(3).await;

    let answer = post(&world, "/api/pool/replenish", json!({"count": 21})).await;
    assert_eq!(
        (answer.status, &answer.body["created"]),
        (200, &json!(20)),
        "{}",
        answer.text
    );
    assert_eq!(
        answer.body["capped"],
        Value::Null,
        "20 is all that was asked for"
    );
    assert_eq!(world.list().await.len(), 23);
    let answer = post(&world, "/api/pool/replenish", json!({"count": 5})).await;
    assert_eq!(
        (answer.status, &answer.body["created"]),
        (200, &json!(2)),
        "{}",
        answer.text
    );
    assert_eq!(answer.body["capped"], json!(true), "maxTotal is 25");
    let answer = post(&world, "/api/pool/replenish", json!({"count": 1})).await;
    assert_eq!(
        (answer.status, &answer.body["created"]),
        (200, &json!(0)),
        "{}",
        answer.text
    );
    assert_eq!(world.list().await.len(), 25);
    world.finish().await;
}

/// acceptance: D23
#[tokio::test(flavor = "multi_thread")]
async fn replenish_without_a_count_lists_and_probes_now() {
    // So rare a tick that only the call probes.
    let world = World::with_pool("change-cycle", json!({"tickIntervalSeconds": 3600})).await;
    world.wait_count("idle", 2).await;
    let probes = async |world: &World| {
        let calls = world.sim.calls("agents").await;
        let count = |i: &AgentInstance| {
            let id = service_id(i);
            calls
                .iter()
                .filter(|c| c["serviceId"] == id.as_str() && c["path"] == "/pool/health")
                .count()
        };
        world.list().await.iter().map(count).collect::<Vec<_>>()
    };
    for body in [
        Some("{}".to_owned()),
        None,
        Some(r#"{"count":0}"#.to_owned()),
    ] {
        let (before, listings) = (probes(&world).await, world.sim.calls("railway").await.len());
        let key = bearer();
        let path = "/api/pool/replenish";
        let answer = world.call_with(Method::POST, path, Some(&key), body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["counts"]["idle"], 2, "{}", answer.text);
        assert_eq!(answer.body["created"], Value::Null);
        assert!(answer.body["checkStarting"]["checked"].is_i64());
        let after = probes(&world).await;
        assert!(
            before.iter().zip(&after).all(|(b, a)| a > b),
            "{before:?} then {after:?}"
        );
        assert!(
            world.sim.calls("railway").await.len() > listings,
            "it was listed"
        );
    }
    assert_eq!(
        world.sim.services_ever().await.len(),
        2,
        "and nothing was made"
    );
    world.finish().await;
}

/// acceptance: D24, D25
#[tokio::test(flavor = "multi_thread")]
async fn drain_takes_the_oldest_idle_and_no_other() {
    let world = empty_pool("change-drain", json!({})).await;
    stock(&world, 3, 3).await;
    let claimed = text(&world.claim("Ada").await.body, "instanceId");
    let last = world.wait_idle(2).await;
    let newest = last
        .iter()
        .filter_map(|i| i.creation_timestamp())
        .max()
        .unwrap();
    until("the clock shows a later second", LONG, || async {
        (Timestamp::now().as_second() > newest.0.as_second()).then_some(())
    })
    .await;
    let order = stock(&world, 3, 5).await;
    world.wait_count("idle", 5).await;
    let stamps: std::collections::BTreeSet<_> = order
        .iter()
        .filter_map(|i| i.creation_timestamp())
        .map(|t| t.0)
        .collect();
    assert!(stamps.len() > 1, "there is an older and a newer");
    let order: Vec<_> = order.into_iter().map(|i| i.spec.id).collect();

    let drain = async |body: Option<Value>, gone: &[String], left: usize| {
        let body = body.map(|b| b.to_string());
        let answer = world
            .call_with(Method::POST, "/api/pool/drain", Some(&bearer()), body)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["drained"], gone.len(), "{}", answer.text);
        assert_eq!(
            answer.body["drainedIds"],
            json!(gone),
            "the oldest, in order"
        );
        assert_eq!(answer.body["counts"]["idle"], left, "{}", answer.text);
        for id in gone {
            world.wait_gone(id).await;
        }
        let rest: Vec<_> = world
            .in_phase(Phase::Idle)
            .await
            .into_iter()
            .map(|i| i.spec.id)
            .collect();
        assert_eq!(rest, order[order.len() - left..]);
    };
    drain(Some(json!({"count": 2})), &order[..2], 3).await;
    drain(None, &order[2..3], 2).await;
    drain(Some(json!({})), &order[3..4], 1).await;
    drain(Some(json!({"count": 5})), &order[4..], 0).await;
    drain(Some(json!({"count": 5})), &[], 0).await;
    let left = world.list().await;
    assert_eq!(
        (ids(&left), phase_of(&left[0])),
        (vec![claimed.clone()], Phase::Claimed)
    );
    assert!(
        is_left(&world, &service_id(&left[0])).await,
        "the claimed one is untouched"
    );
    assert_eq!(
        world.sim.live_services().await.len(),
        1,
        "the others are gone at the provider"
    );
    world.finish().await;
}

/// acceptance: N08
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_read_as_the_predecessor_read_them() {
    let world = empty_pool("change-counts", json!({"maxTotal": 60})).await;
    let mut there = 0;
    for (count, created) in [
        (json!("3"), Some(3)),
        (json!(2.9), Some(2)),
        (json!(-1), None),
        (json!(0), None),
        (json!("x"), None),
        (json!(1000), Some(20)),
    ] {
        let answer = post(&world, "/api/pool/replenish", json!({"count": count})).await;
        assert_eq!(answer.status, 200, "{count}: {}", answer.text);
        assert_eq!(
            answer.body["created"].as_u64(),
            created,
            "{count}: {}",
            answer.text
        );
        // Without a number that counts, a cycle ran instead.
        assert_eq!(
            answer.body["checkStarting"].is_object(),
            created.is_none(),
            "{}",
            answer.text
        );
        there += usize::try_from(created.unwrap_or(0)).unwrap();
        assert_eq!(world.list().await.len(), there, "{count}");
    }
    for (count, drained) in [
        (json!("3"), 3),
        (json!(2.9), 2),
        (json!(0), 1),
        (json!("x"), 1),
        (json!(1000), 18),
    ] {
        let body = json!({"count": count, "scope": "unclaimed"});
        let answer = post(&world, "/api/pool/drain", body).await;
        assert_eq!(
            (answer.status, &answer.body["drained"]),
            (200, &json!(drained)),
            "{}",
            answer.text
        );
    }
    let answer = post(&world, "/api/pool/drain", json!({"count": -1})).await;
    fails(
        &answer,
        400,
        "count must be a positive integer",
        "bad_request",
    );

    // 20 at most, also where more could go.
    for _ in 0..2 {
        until("there is room for twenty", LONG, || async {
            let left = world.list().await;
            left.iter()
                .all(|i| phase_of(i) != Phase::Terminating)
                .then_some(())
        })
        .await;
        let more = post(&world, "/api/pool/replenish", json!({"count": 11})).await;
        assert_eq!(more.body["created"], 11, "{}", more.text);
    }
    let body = json!({"count": 1000, "scope": "unclaimed"});
    let answer = post(&world, "/api/pool/drain", body).await;
    assert_eq!(answer.body["drained"], 20, "{}", answer.text);
    world.finish().await;
}

/// acceptance: D26
#[tokio::test(flavor = "multi_thread")]
async fn reconcile_looks_twice_and_drops_a_record_without_a_service() {
    // So rare a tick that only the call can find it.
    let world = empty_pool("change-reconcile", json!({"tickIntervalSeconds": 3600})).await;
    let stocked = stock(&world, 2, 2).await;
    let (stray, kept) = (&stocked[0], &stocked[1]);
    let nothing = post(&world, "/api/pool/reconcile", json!({})).await;
    assert_eq!(
        (nothing.status, &nothing.body["cleaned"]),
        (200, &json!(0)),
        "{}",
        nothing.text
    );

    // The provider cannot be listed: an error, and nothing is removed.
    let stray_service = service_id(stray);
    world
        .sim
        .force(json!({"service": stray_service, "delete": true}))
        .await;
    until("the service is gone", LONG, || async {
        (!is_left(&world, &stray_service).await).then_some(())
    })
    .await;
    world
        .sim
        .fault(
            "railway",
            json!({"fault": {"kind": "http_5xx", "status": 503}}),
        )
        .await;
    let failed = post(&world, "/api/pool/reconcile", json!({})).await;
    assert_eq!(
        (failed.status, &failed.body["code"]),
        (500, &json!("upstream")),
        "{}",
        failed.text
    );
    assert_eq!(ids(&world.in_phase(Phase::Idle).await), ids(&stocked));
    world.sim.heal("railway").await;

    // After a failure the provider is left alone for a moment.
    let (began, first, answer) = until("the provider is listed again", LONG, || async {
        let (began, first) = (Timestamp::now(), world.sim.calls("railway").await.len());
        let answer = post(&world, "/api/pool/reconcile", json!({})).await;
        (answer.status != 500).then_some((began, first, answer))
    })
    .await;
    assert_eq!(
        (answer.status, &answer.body["cleaned"]),
        (200, &json!(1)),
        "{}",
        answer.text
    );
    assert_eq!(answer.body["counts"]["idle"], 1, "{}", answer.text);
    world.wait_gone(&stray.spec.id).await;
    let left = world.list().await;
    assert_eq!(
        (ids(&left), phase_of(&left[0])),
        (vec![kept.spec.id.clone()], Phase::Idle)
    );

    // Both looks were the call's: a listing, and at least 5 s later a direct read of the service.
    let calls = world.sim.calls("railway").await.split_off(first);
    let at = |c: &Value| -> Timestamp { text(c, "time").parse().unwrap() };
    let direct = calls
        .iter()
        .position(|c| c["variables"].to_string().contains(&stray_service));
    let direct = direct.unwrap_or_else(|| panic!("no direct read: {calls:?}"));
    let listing = calls[..direct].iter().find(|c| c["class"] == "ok");
    let listing = listing.unwrap_or_else(|| panic!("no listing before it: {calls:?}"));
    let apart = at(&calls[direct]).duration_since(at(listing));
    assert!(
        apart.as_secs() >= 5,
        "{apart:?} between {listing} and {}",
        calls[direct]
    );
    assert!(at(listing) >= began);
    world.finish().await;
}

/// acceptance: N19
#[tokio::test(flavor = "multi_thread")]
async fn odd_ids_are_never_made_and_served_where_they_were_imported() {
    let world = empty_pool("change-names", json!({"namePrefix": "convos-agent"})).await;
    let made = stock(&world, 4, 4).await;
    for instance in &made {
        let spec = &instance.spec;
        let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
        assert!(
            spec.id.len() == 12 && spec.id.bytes().all(plain),
            "{}",
            spec.id
        );
        assert_eq!(instance.name_any(), spec.id);
        assert_eq!(spec.provider_name, format!("convos-agent-stg-{}", spec.id));
        assert!(spec.provider_name.len() <= 32, "{}", spec.provider_name);
    }

    // One of the predecessor's, with an upper-case id and a name longer than Railway takes today.
    let (id, name) = ("rnM8UBQ_fZCz", "convos-agent-production-rnM8UBQ_fZCz");
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(world.client.clone());
    let cluster = namespaces.get("kube-system").await.unwrap().uid().unwrap();
    let owner = format!("{cluster}/{}/{id}", &*world.namespace);
    let service = json!({"name": name, "projectId": PROJECT, "image": "ghcr.io/x/y", "variables": {"AGENTPOOL_OWNER": owner}});
    world
        .sim
        .set("railway", json!({"services": [service]}))
        .await;
    let service = world.sim.service(name).await.expect("it is seeded");
    let now = Timestamp::now().to_string();
    let mut spec = serde_json::to_value(&made[0].spec).unwrap();
    for (key, value) in [
        ("id", json!(id)),
        ("providerName", json!(name)),
        ("restored", json!(true)),
        (
            "claim",
            json!({"id": "imported", "holder": "import", "deadline": now, "requestedAt": now, "agentName": "Ada", "instructions": "Be kind."}),
        ),
    ] {
        spec[key] = value;
    }
    let object = object_name(id);
    assert!(object.starts_with("i-") && object.len() == 12, "{object}");
    let finalizers = made[0].finalizers();
    let imported = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": object, "finalizers": finalizers}, "spec": spec});
    let imported = serde_json::from_value(imported).unwrap();
    world
        .instances()
        .create(&PostParams::default(), &imported)
        .await
        .unwrap();
    let status = json!({"status": {"turn": 1, "provider": {"id": service["id"], "serviceId": service["id"]},
        "claim": {"id": "imported", "outcome": "Bound", "conversationId": "c", "joined": false, "claimedAt": now}}});
    world
        .instances()
        .patch_status(&object, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();

    let row = until("the API shows it", LONG, || async {
        let rows = open(&world, "/api/pool/agents").await.body["claimed"].clone();
        rows.as_array()?.iter().find(|r| r["id"] == id).cloned()
    })
    .await;
    assert_eq!(
        (text(&row, "name"), text(&row, "agentName")),
        (name.into(), "Ada".into())
    );
    let unknown = delete(&world, &format!("/api/pool/instances/{object}")).await;
    assert_eq!(
        unknown.body["alreadyGone"],
        json!(true),
        "ids, not names of objects"
    );
    assert!(world.instance(id).await.is_some());
    let answer = delete(&world, &format!("/api/pool/instances/{id}")).await;
    assert_eq!(
        (answer.status, &answer.body["action"]),
        (200, &json!("destroyed")),
        "{}",
        answer.text
    );
    world.wait_gone(id).await;
    assert!(!is_left(&world, service["id"].as_str().unwrap()).await);
    assert_eq!(world.in_phase(Phase::Idle).await.len(), 4);
    world.finish().await;
}

/// acceptance: N17
#[tokio::test(flavor = "multi_thread")]
async fn a_protected_agent_is_neither_claimed_nor_killed_nor_drained() {
    let world = World::with_pool("change-protect", json!({"minIdle": 1})).await;
    wait_served(&world).await;
    let kept = world.wait_idle(1).await.remove(0);
    let name = kept.name_any();
    let label = |value: &str| world.kubectl(&["label", "agentinstance", &name, value]);
    label("pool.convos.org/protected=true");
    let status = "/api/pool/status";
    until("the API knows the label", LONG, || async {
        let rows = world.get(status).await.body["instances"].clone();
        (rows[0]["protected"] == true).then_some(())
    })
    .await;
    assert_eq!(world.claim("Ada").await.status, 503);
    let drained = post(&world, "/api/pool/drain", json!({"count": 5})).await;
    assert_eq!((drained.status, &drained.body["drained"]), (200, &json!(0)));
    for path in ["", "/destroy"] {
        let path = format!("/api/pool/instances/{}{path}", kept.spec.id);
        let error = format!(
            "Instance {} is protected and cannot be killed",
            kept.spec.id
        );
        fails(&delete(&world, &path).await, 403, &error, "protected");
    }
    assert_eq!(account(&world, &kept).await["claimCalls"], 0);
    assert_eq!(
        ids(&world.in_phase(Phase::Idle).await),
        std::slice::from_ref(&kept.spec.id)
    );

    label("pool.convos.org/protected-");
    let answer = until("it may be claimed again", LONG, || async {
        let answer = world.claim("Ada").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(text(&answer.body, "instanceId"), kept.spec.id);
    world.finish().await;
}
