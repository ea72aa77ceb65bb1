use serde_json::json;

use super::*;

fn request() -> ClaimRequest {
    ClaimRequest {
        agent_name: "Ada".into(),
        instructions: "Be kind.".into(),
        join_url: None,
        profile_image: None,
        metadata: None,
        passed_through: BTreeMap::new(),
        source: "api".into(),
        runtime: None,
        reference: None,
    }
}

fn claim() -> AgentClaim {
    let spec = spec_of(
        "p",
        &request(),
        Duration::ZERO,
        "me",
        jiff::Timestamp::UNIX_EPOCH,
    );
    let mut claim = AgentClaim::new("k-1", spec);
    claim.metadata.generation = Some(1);
    claim
}

fn pool() -> AgentPool {
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"environment": "staging", "provider": {"railway": {"tokenSecretRef": {"name": "t"},
            "project": {"projectId": "p", "environmentId": "e"}, "source": {"image": {"reference": "i:1"}}}},
            "runtime": {}, "claim": {"duplicateStatus": 503}},
    });
    serde_json::from_value(object).unwrap()
}

fn answer(pending: bool) -> ClaimAnswer {
    ClaimAnswer {
        instance_id: "0123456789ab".into(),
        agent_name: "Ada".into(),
        conversation_id: (!pending).then(|| "c".into()),
        invite_url: Some("https://i".into()),
        invite_slug: Some("s".into()),
        joined: !pending,
        waiting_for_acceptance: pending,
        gateway_token: Some(SecretString::from("a secret")),
        gateway_url: "https://a".into(),
        agent_took: Duration::ZERO,
    }
}

fn failed() -> ClaimError {
    ClaimError::ProvisionFailed {
        instance_id: "a".into(),
        message: "500 it broke".into(),
    }
}

fn duplicate() -> ClaimError {
    ClaimError::DuplicateJoin {
        instance_id: Some("b".into()),
        status: 503,
    }
}

#[test]
fn the_recorded_answer_is_the_answer_and_no_token_is_in_it() {
    for pending in [false, true] {
        let first = answer(pending);
        let mut claim = claim();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let status = finished(&claim, &Ok(first.clone()), now);
        let stored = serde_json::to_string(&status).unwrap();
        assert!(!stored.contains("a secret"), "{stored}");
        assert!(status.done && status.finished_at.is_some());
        assert_eq!(status.conditions[0].status, "True");
        claim.status = Some(status);
        let again = answer_of(&claim, &pool(), first.gateway_token.clone()).unwrap();
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
    }
}

#[test]
fn a_recorded_failure_is_told_in_the_same_words() {
    for error in [failed(), duplicate()] {
        let mut claim = claim();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let status = finished(&claim, &Err(error.clone()), now);
        assert_eq!(status.phase.as_deref(), Some(FAILED));
        assert_eq!((status.instance.as_ref(), status.done), (None, true));
        claim.status = Some(status);
        let again = answer_of(&claim, &pool(), None).unwrap_err();
        assert_eq!(format!("{error:?}"), format!("{again:?}"));
    }
}

/// Every outcome, with and without a key and a link.
#[test]
fn what_was_done_is_kept_what_was_not_is_forgotten_and_what_nobody_knows_stays_open() {
    let invalid = ClaimError::Invalid {
        instance_id: "a".into(),
        message: "no".into(),
    };
    let waited = ClaimError::WaitedOut {
        position: 1,
        expected: Duration::ZERO,
    };
    use Ending::{Forget, Keep, Open};
    for (outcome, keyed, linked, bare) in [
        (Ok(answer(false)), Keep, Keep, Forget),
        (Ok(answer(true)), Keep, Keep, Forget),
        (Err(failed()), Keep, Forget, Forget),
        (Err(invalid), Keep, Forget, Forget),
        (Err(duplicate()), Keep, Forget, Forget),
        (Err(ClaimError::NoIdle), Forget, Forget, Forget),
        (Err(waited), Forget, Forget, Forget),
        (Err(ClaimError::Paused("p".into())), Forget, Forget, Forget),
        (Err(ClaimError::Cluster("x".into())), Open, Open, Open),
        (Err(ClaimError::StillRunning), Open, Open, Open),
    ] {
        let of = |keyed, linked| ending(&outcome, keyed, linked);
        assert_eq!(
            (of(true, true), of(true, false)),
            (keyed, keyed),
            "{outcome:?}"
        );
        assert_eq!(
            (of(false, true), of(false, false)),
            (linked, bare),
            "{outcome:?}"
        );
    }
}

#[test]
fn another_request_has_another_hash_and_another_wait_has_not() {
    let base = request_hash(&request());
    let changes: [fn(&mut ClaimRequest); 7] = [
        |r| r.agent_name = "Bob".into(),
        |r| r.instructions = "Be rude.".into(),
        |r| r.join_url = Some("x".into()),
        |r| r.profile_image = Some("x".into()),
        |r| r.metadata = Some([("a".to_owned(), "b".to_owned())].into()),
        |r| r.source = "admin".into(),
        |r| r.runtime = Some("hermes".into()),
    ];
    for change in changes {
        let mut other = request();
        change(&mut other);
        assert_ne!(request_hash(&other), base, "{other:?}");
    }
    let mut named = request();
    named.reference = Some("k-1".into());
    assert_eq!(request_hash(&named), base);
    assert_eq!(base.len(), 64);
}

#[test]
fn an_agent_bound_before_anybody_was_told_stands_for_the_answer() {
    let instance = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": "a"},
        "spec": {"id": "a", "poolRef": {"name": "p"}, "providerName": "a", "turn": 1,
            "template": {"revision": "r", "hash": "h"},
            "claim": {"id": "c", "holder": "h", "deadline": "2026-01-01T00:00:00Z",
                "requestedAt": "2026-01-01T00:00:00Z", "agentName": "Ada", "ref": "k-1"}},
        "status": {"turn": 1, "url": "https://a", "claim": {"id": "c", "outcome": "Bound",
            "conversationId": "x", "inviteUrl": "https://i", "joined": true}},
    });
    let mut instance: AgentInstance = serde_json::from_value(instance).unwrap();
    let told = answer_from(&instance, None);
    assert_eq!(
        (told.instance_id.as_str(), told.agent_name.as_str()),
        ("a", "Ada")
    );
    assert_eq!(told.conversation_id.as_deref(), Some("x"));
    assert!(told.joined && !told.waiting_for_acceptance);
    assert_eq!(told.gateway_url, "https://a");
    let claim = instance.status.as_mut().unwrap().claim.as_mut().unwrap();
    claim.outcome = "Pending".to_owned();
    assert!(answer_from(&instance, None).waiting_for_acceptance);
}

/// A key that was used before an upgrade is the same key after it; with a field that is passed through it is another.
#[test]
fn what_is_passed_through_is_part_of_the_request() {
    let plain = request();
    let known = names::sha256_hex(br#"["Ada","Be kind.",null,null,null,"api",null]"#);
    assert_eq!(request_hash(&plain), known);
    let with = |value| ClaimRequest {
        passed_through: BTreeMap::from([("theme".to_owned(), json!(value))]),
        ..request()
    };
    assert_ne!(request_hash(&with("dark")), known);
    assert_eq!(request_hash(&with("dark")), request_hash(&with("dark")));
    assert_ne!(request_hash(&with("dark")), request_hash(&with("light")));
}
