//! AgentInstance's schema on the real API server: immutables, turns, the claim's state machine, selectors, size.

use agentpool::api::GROUP;
use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::schema::{Case, Objects, all_tried, case, change, with};
use crate::support::wait::{LONG, until};
use crate::support::world::{World, cluster};

fn spec() -> Value {
    json!({
        "id": "0123456789ab",
        "poolRef": {"name": "pool"},
        "providerName": "convos-agent-stg-0123456789ab",
        "template": {"revision": "pool-0123456789", "hash": "0123456789"},
        "provider": {"kind": "Railway", "tokenSecretRef": {"name": "railway"}, "tokenKind": "Bearer", "projectId": "p", "environmentId": "e"},
    })
}

fn claim(id: &str) -> Value {
    json!({
        "id": id, "holder": "replica-1", "deadline": "2026-11-21T10:02:30Z", "requestedAt": "2026-11-21T10:00:00Z",
        "agentName": "Tokyo Trip", "instructions": "Be kind.",
    })
}

async fn objects(prefix: &str) -> Objects {
    Objects::new("AgentInstance", "agentinstances", prefix).await
}

/// The rules that need no status; the others are tried by `a_claim_is_set_only_…`.
fn cases() -> Vec<Case> {
    let same = || json!({"release": {"id": "r", "mode": "Destroy", "requestedAt": "2026-11-21T10:00:00Z"}});
    let immutable = |message, field, bad| change(message, field, json!({}), same(), bad);
    let recycle =
        json!({"release": {"id": "r", "mode": "Recycle", "requestedAt": "2026-11-21T10:00:00Z"}});
    vec![
        change(
            "Railway cannot restore an agent",
            "spec.release",
            json!({}),
            same(),
            recycle,
        ),
        immutable(
            "spec.id is immutable",
            "spec.id",
            json!({"id": "0123456789ac"}),
        ),
        immutable(
            "spec.poolRef is immutable",
            "spec.poolRef",
            json!({"poolRef": {"name": "other"}}),
        ),
        immutable(
            "spec.providerName is immutable",
            "spec.providerName",
            json!({"providerName": "x"}),
        ),
        immutable(
            "spec.template is immutable",
            "spec.template",
            json!({"template": {"hash": "x"}}),
        ),
        immutable(
            "spec.template is immutable",
            "spec.template",
            json!({"template": {"revision": "x"}}),
        ),
        immutable(
            "spec.provider is immutable",
            "spec.provider",
            json!({"provider": {"environmentId": "x"}}),
        ),
        immutable(
            "spec.provider is immutable",
            "spec.provider",
            json!({"provider": null}),
        ),
        change(
            "spec.provider is immutable",
            "spec.provider",
            json!({"provider": null}),
            same(),
            json!({"provider": {"kind": "Railway"}}),
        ),
        change(
            "spec.turn rises by one",
            "spec.turn",
            json!({"turn": 2}),
            json!({"turn": 3}),
            json!({"turn": 4}),
        ),
        change(
            "spec.turn rises by one",
            "spec.turn",
            json!({"turn": 2}),
            same(),
            json!({"turn": 1}),
        ),
        case(
            "spec.claim is set by a claim on an Idle instance, never at creation",
            "spec",
            json!({"claim": claim("c"), "restored": true}),
            json!({"claim": claim("c")}),
        ),
        case(
            "spec.claim is set by a claim on an Idle instance, never at creation",
            "spec",
            json!({"restored": false}),
            json!({"claim": claim("c"), "restored": false}),
        ),
    ]
}

const ONLY_CLEAN: &str = "spec.claim can be set only while the instance is proven ready and clean for this turn (status.turn equals spec.turn): pick an instance in phase Idle";
const NEVER_CHANGED: &str = "a claim is never changed into another: delete the instance, or release it with spec.release, and claim another one";
const HIGHER_TURN: &str = "spec.claim is removed only together with a higher spec.turn";
const CLAIMED_TURN: &str = "spec.turn rises only in the write that clears spec.claim";
const AHEAD: &str = "status.turn cannot be ahead of spec.turn";

#[tokio::test]
async fn every_rule_accepts_what_works_and_refuses_what_cannot() {
    let instances = objects("crd-instance").await;
    let mut cases = cases();
    for (number, case) in cases.iter().enumerate() {
        instances.try_rule(number, &spec(), case).await;
    }
    for message in [ONLY_CLEAN, NEVER_CHANGED, HIGHER_TURN, CLAIMED_TURN, AHEAD] {
        cases.push(case(message, "", json!({}), json!({})));
    }
    all_tried(1, &cases);
}

/// Panics unless the change is refused with this message about this field.
async fn refused(instances: &Objects, change: Value, field: &str, message: &str) {
    let error = instances
        .change("a", &change, true)
        .await
        .expect_err(&format!("{message}: {change}"));
    assert!(
        error.contains(message) && error.contains(&format!("{field}: Invalid value")),
        "not {message:?} about {field} but: {error}"
    );
}

#[tokio::test]
async fn a_claim_is_set_only_when_clean_never_changed_and_removed_only_with_a_higher_turn() {
    let it = objects("crd-claim").await;
    it.create("a", &spec(), true).await.unwrap();
    let set = |id: &str| json!({"claim": claim(id)});

    refused(&it, set("c1"), "spec.claim", ONLY_CLEAN).await;
    it.change_status("a", &json!({"phase": "Idle"}))
        .await
        .unwrap();
    refused(&it, set("c1"), "spec.claim", ONLY_CLEAN).await;
    let ahead = it
        .change_status("a", &json!({"turn": 2}))
        .await
        .unwrap_err();
    assert!(
        ahead.contains(AHEAD) && ahead.contains("status.turn: Invalid value"),
        "{ahead}"
    );
    it.change_status("a", &json!({"turn": 1})).await.unwrap();
    let turned = json!({"claim": claim("c1"), "turn": 2});
    refused(&it, turned, "spec.claim", ONLY_CLEAN).await;
    it.change("a", &set("c1"), true).await.unwrap();

    // The same claim again is no change; anything else is.
    it.change("a", &set("c1"), true).await.unwrap();
    refused(&it, set("c2"), "spec.claim", NEVER_CHANGED).await;
    let renamed = json!({"claim": {"agentName": "Other"}});
    refused(&it, renamed, "spec.claim", NEVER_CHANGED).await;
    let later = json!({"claim": {"deadline": "2026-11-21T11:00:00Z"}});
    refused(&it, later, "spec.claim", NEVER_CHANGED).await;
    let joined = json!({"claim": {"joinUrl": "https://dev.convos.org/v2?i=x"}});
    refused(&it, joined, "spec.claim", NEVER_CHANGED).await;

    refused(&it, json!({"claim": null}), "spec.claim", HIGHER_TURN).await;
    refused(&it, json!({"turn": 2}), "spec.turn", CLAIMED_TURN).await;
    let swapped = json!({"claim": claim("c2"), "turn": 2});
    refused(&it, swapped, "spec.claim", NEVER_CHANGED).await;
    it.change("a", &json!({"claim": null, "turn": 2}), true)
        .await
        .unwrap();

    // Out of stock until it is proven again.
    refused(&it, set("c2"), "spec.claim", ONLY_CLEAN).await;
    it.change_status("a", &json!({"turn": 2})).await.unwrap();
    it.change("a", &set("c2"), true).await.unwrap();
}

#[tokio::test]
async fn values_out_of_bounds_are_refused_by_field() {
    let instances = objects("crd-instance-bounds").await;
    let claimed = |change: Value| with(&json!({"claim": claim("c"), "restored": true}), &change);
    let release = |mode: &str| json!({"release": {"id": "r", "mode": mode, "requestedAt": "2026-11-21T10:00:00Z"}});
    let table = [
        (
            "spec.id",
            json!({"id": "a".repeat(64)}),
            json!({"id": "a".repeat(65)}),
        ),
        ("spec.id", json!({"id": "rnM8UBQ_fZCz"}), json!({"id": ""})),
        ("spec.turn", json!({"turn": 7}), json!({"turn": 0})),
        (
            "spec.providerName",
            json!({"providerName": "x"}),
            json!({"providerName": ""}),
        ),
        (
            "spec.claim.agentName",
            claimed(json!({"claim": {"agentName": "é".repeat(800)}})),
            claimed(json!({"claim": {"agentName": "é".repeat(801)}})),
        ),
        (
            "spec.claim.instructions",
            claimed(json!({"claim": {"instructions": "x".repeat(4096)}})),
            claimed(json!({"claim": {"instructions": "x".repeat(4097)}})),
        ),
        (
            "spec.claim.deadline",
            claimed(json!({})),
            claimed(json!({"claim": {"deadline": "tomorrow"}})),
        ),
        ("spec.release.mode", release("Recycle"), release("Burn")),
        (
            "spec.provider.tokenKind",
            json!({"provider": {"tokenKind": "Project"}}),
            json!({"provider": {"tokenKind": "x"}}),
        ),
    ];
    for (field, good, bad) in table {
        if let Err(error) = instances.create("p", &with(&spec(), &good), false).await {
            panic!("{field}: refused {good}: {error}");
        }
        let error = instances
            .create("p", &with(&spec(), &bad), false)
            .await
            .expect_err(field);
        assert!(error.contains(&format!("{field}: ")), "{field}: {error}");
    }
    let made = instances.create("p", &spec(), false).await.unwrap();
    assert_eq!(made["spec"]["turn"], 1, "the default");
    let error = instances
        .create("p", &json!({"id": "x"}), false)
        .await
        .unwrap_err();
    assert!(error.contains("spec.poolRef: Required value"), "{error}");
}

#[tokio::test]
async fn field_selectors_find_by_pool_phase_claim_and_reference() {
    let it = objects("crd-selectors").await;
    let claimed = with(
        &json!({"claim": claim("c1"), "restored": true}),
        &json!({"claim": {"ref": "k-1"}}),
    );
    it.create("idle", &spec(), true).await.unwrap();
    it.create("taken", &with(&spec(), &claimed), true)
        .await
        .unwrap();
    it.create(
        "other",
        &with(&spec(), &json!({"poolRef": {"name": "second"}})),
        true,
    )
    .await
    .unwrap();
    for name in ["idle", "taken", "other"] {
        it.change_status(name, &json!({"phase": "Idle", "turn": 1}))
            .await
            .unwrap();
    }
    for (fields, names) in [
        ("spec.poolRef.name=pool", vec!["idle", "taken"]),
        ("spec.poolRef.name=second", vec!["other"]),
        ("status.phase=Idle", vec!["idle", "other", "taken"]),
        ("status.phase=Claimed", vec![]),
        ("spec.claim.id=c1", vec!["taken"]),
        ("spec.claim.id=", vec!["idle", "other"]),
        ("spec.claim.ref=k-1", vec!["taken"]),
        (
            "spec.poolRef.name=pool,status.phase=Idle,spec.claim.id=",
            vec!["idle"],
        ),
    ] {
        assert_eq!(it.select(fields).await.unwrap(), names, "{fields}");
    }
    let error = it.select("spec.id=x").await.unwrap_err();
    assert!(error.contains("field label not supported"), "{error}");
}

#[tokio::test]
async fn kubectl_knows_short_names_the_category_and_every_field() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-category").await;
    let spec_of_pool = crate::crd_pool::railway();
    pools.create("p", &spec_of_pool, true).await.unwrap();
    let manifest = json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "AgentInstance", "metadata": {"name": "i"}, "spec": spec()});
    let file = format!(
        "{}/instance-{}.json",
        env!("CARGO_TARGET_TMPDIR"),
        pools.namespace.name()
    );
    std::fs::write(&file, manifest.to_string()).unwrap();
    pools.kubectl(&["create", "-f", &file]);
    std::fs::remove_file(&file).unwrap();

    let names = |what: &str| {
        let text = pools.kubectl(&["get", what, "-o", "name"]);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (pool, instance) = (
        "agentpool.pool.convos.org/p",
        "agentinstance.pool.convos.org/i",
    );
    assert_eq!(names("ap"), [pool]);
    assert_eq!(names("ai"), [instance]);
    let mut both = names("agentpool");
    both.sort();
    assert_eq!(both, [instance, pool], "the category");
    for path in [
        "agentinstance",
        "ai.spec.claim",
        "ai.spec.turn",
        "ai.status.operation.steps",
    ] {
        let text = pools.kubectl(&["explain", path]);
        assert!(
            text.contains("DESCRIPTION:") && !text.contains("<empty>"),
            "{path}: {text}"
        );
    }
    let refused = cluster().kubectl([
        "scale",
        "-n",
        &*pools.namespace,
        "agentinstance/i",
        "--replicas=2",
    ]);
    assert!(!refused.status.success(), "an instance has no scale");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_is_thin_as_stored() {
    let env: Vec<Value> = (0..40)
        .map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "x".repeat(100)}))
        .chain([json!({"name": "OPENROUTER_API_KEY", "value": "sk-simulated"})])
        .collect();
    let world = World::with_pool(
        "thin",
        json!({"minIdle": 1, "tickIntervalSeconds": 1, "runtime": {"env": env}}),
    )
    .await;
    let idle = world.wait_idle(1).await;
    let path = format!(
        "/apis/{GROUP}/v1alpha1/namespaces/{}/agentinstances/{}",
        world.namespace.name(),
        idle[0].metadata.name.as_deref().unwrap()
    );
    let stored = world.kubectl(&["get", "--raw", &path]);
    assert!(stored.contains("managedFields"), "the whole object");
    assert!(stored.len() <= 3 * 1024, "{} bytes: {stored}", stored.len());
    let conditions = &serde_json::from_str::<Value>(&stored).unwrap()["status"]["conditions"];
    assert!(conditions.as_array().unwrap().len() <= 2, "{conditions}");
    world.finish().await;
}

/// The API server's work per claim grows with the object, and half of it was who wrote which field.
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_instance_is_thin_as_stored() {
    let world = World::with_pool("thin-claimed", json!({"minIdle": 1, "maxTotal": 1})).await;
    assert_eq!(world.claim("Thin").await.status, 200);
    let claimed = until("it is claimed", LONG, || async {
        world.in_phase(Phase::Claimed).await.pop()
    })
    .await;
    // A write after the claim's two, by somebody who never heard of this: it does not come back.
    let name = claimed.metadata.name.as_deref().unwrap();
    world.kubectl(&["label", "agentinstance", name, "team=a"]);
    let path = format!(
        "/apis/{GROUP}/v1alpha1/namespaces/{}/agentinstances/{name}",
        world.namespace.name()
    );
    let stored = world.kubectl(&["get", "--raw", &path]);
    assert!(!stored.contains("managedFields"), "{stored}");
    assert!(stored.len() <= 2_560, "{} bytes: {stored}", stored.len());
    world.finish().await;
}
