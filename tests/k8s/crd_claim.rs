//! AgentClaim's schema on the real API server: what never changes, what is set once, defaults, bounds, selectors, kubectl.

use serde_json::{Value, json};

use crate::schema::{Case, Objects, all_tried, change, with};

fn spec() -> Value {
    json!({"poolRef": {"name": "pool"}, "agentName": "Ada", "instructions": "Be kind."})
}

async fn objects(prefix: &str) -> Objects {
    Objects::new("AgentClaim", "agentclaims", prefix).await
}

/// The rules about the spec; those about the status are tried by `an_answer_is_given_once`.
fn cases() -> Vec<Case> {
    let full = || {
        json!({
            "joinUrl": "https://dev.convos.org/v2?i=x", "profileImage": "https://x/y.png", "metadata": {"a": "b"},
            "runtime": "openclaw", "origin": "HTTP", "requestHash": "h", "for": "k-1",
        })
    };
    let same = || json!({"ttlSecondsAfterFinished": 60, "waitSeconds": 5});
    let immutable = |message, field, bad| change(message, field, full(), same(), bad);
    let other = "spec.profileImage, spec.metadata and spec.runtime are immutable";
    let ours = "spec.requestHash and spec.for are immutable";
    let told = "spec.agentName and spec.instructions are immutable";
    vec![
        immutable(
            "spec.poolRef is immutable",
            "spec.poolRef",
            json!({"poolRef": {"name": "other"}}),
        ),
        immutable(told, "spec.agentName", json!({"agentName": "Bob"})),
        immutable(told, "spec.agentName", json!({"instructions": "Be rude."})),
        immutable(
            "spec.joinUrl is immutable",
            "spec.joinUrl",
            json!({"joinUrl": null}),
        ),
        immutable(
            "spec.joinUrl is immutable",
            "spec.joinUrl",
            json!({"joinUrl": "x"}),
        ),
        immutable(other, "spec", json!({"profileImage": "x"})),
        immutable(other, "spec", json!({"metadata": {"a": "c"}})),
        immutable(other, "spec", json!({"runtime": "hermes"})),
        immutable(
            "spec.origin is immutable",
            "spec.origin",
            json!({"origin": "Manifest"}),
        ),
        immutable(ours, "spec", json!({"requestHash": "i"})),
        immutable(ours, "spec", json!({"for": null})),
    ]
}

#[tokio::test]
async fn every_rule_of_a_claim_accepts_and_refuses() {
    let claims = objects("crd-claim").await;
    let mut cases = cases();
    for (number, case) in cases.iter().enumerate() {
        claims.try_rule(number, &spec(), case).await;
    }
    // Tried below.
    for message in ["status.instance is set once", "status.done stays true"] {
        cases.push(change(message, "", json!({}), json!({}), json!({})));
    }
    all_tried(2, &cases);
}

#[tokio::test]
async fn an_answer_is_given_once() {
    let claims = objects("crd-claim-answer").await;
    claims.create("a", &spec(), true).await.unwrap();
    let answer = json!({"instance": "0123456789ab", "done": true, "phase": "Bound"});
    claims.change_status("a", &answer).await.unwrap();
    for (bad, message) in [
        (
            json!({"instance": "another"}),
            "status.instance is set once",
        ),
        (json!({"instance": null}), "status.instance is set once"),
        (json!({"done": false}), "status.done stays true"),
        (json!({"done": null}), "status.done stays true"),
    ] {
        let error = claims.change_status("a", &bad).await.unwrap_err();
        assert!(error.contains(message), "{bad}: {error}");
    }
    let more = json!({"phase": "A word of a later version"});
    claims.change_status("a", &more).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_for_has_bounds_and_the_rest_defaults() {
    let claims = objects("crd-claim-bounds").await;
    for (field, good, bad) in [
        (
            "spec.instructions",
            json!({"instructions": "x".repeat(100_000)}),
            json!({"instructions": "x".repeat(100_001)}),
        ),
        (
            "spec.agentName",
            json!({"agentName": "é".repeat(200)}),
            json!({"agentName": "é".repeat(201)}),
        ),
        (
            "spec.runtime",
            json!({"runtime": "hermes"}),
            json!({"runtime": "node"}),
        ),
        (
            "spec.waitSeconds",
            json!({"waitSeconds": 0}),
            json!({"waitSeconds": -1}),
        ),
        (
            "spec.origin",
            json!({"origin": "HTTP"}),
            json!({"origin": "http"}),
        ),
        (
            "spec.enqueuedAt",
            json!({"enqueuedAt": "2026-11-21T10:02:30.000001Z"}),
            json!({"enqueuedAt": "now"}),
        ),
    ] {
        if let Err(error) = claims.create("p", &with(&spec(), &good), false).await {
            panic!("{field}: refused what it should accept: {error}");
        }
        let error = claims
            .create("p", &with(&spec(), &bad), false)
            .await
            .expect_err(field);
        assert!(error.contains(&format!("{field}: ")), "{field}: {error}");
    }
    let made = claims.create("p", &spec(), false).await.unwrap();
    assert_eq!(made["spec"], with(&spec(), &json!({"origin": "Manifest"})));
}

#[tokio::test]
async fn field_selectors_find_what_is_open_and_what_is_whose() {
    let claims = objects("crd-claim-fields").await;
    for (name, change) in [
        ("open", json!({})),
        ("waits", json!({"origin": "HTTP"})),
        ("over", json!({"poolRef": {"name": "second"}})),
    ] {
        let spec = with(&spec(), &change);
        claims.create(name, &spec, true).await.unwrap();
    }
    let waits = json!({"phase": "Waiting"});
    claims.change_status("waits", &waits).await.unwrap();
    let done = json!({"done": true});
    claims.change_status("over", &done).await.unwrap();
    for (fields, names) in [
        ("status.done!=true", vec!["open", "waits"]),
        ("status.done=true", vec!["over"]),
        ("spec.origin=Manifest", vec!["open", "over"]),
        ("spec.origin=HTTP", vec!["waits"]),
        ("spec.poolRef.name=second", vec!["over"]),
    ] {
        assert_eq!(claims.select(fields).await.unwrap(), names, "{fields}");
    }
    let text = claims.kubectl(&["get", "ac"]);
    let head: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        head,
        [
            "NAME", "POOL", "AGENT", "PHASE", "REASON", "INSTANCE", "AGE"
        ]
    );
    for path in ["ac", "ac.spec.joinUrl", "ac.status.instance"] {
        let text = claims.kubectl(&["explain", path]);
        assert!(
            text.contains("DESCRIPTION:") && !text.contains("<empty>"),
            "{path}: {text}"
        );
    }
}
