//! Tests of the validation of claims: one row per rule of the contract.

use serde_json::json;

use super::*;

fn spec(extra: Value) -> AgentPoolSpec {
    let mut spec = json!({
        "environment": "staging",
        "provider": {"railway": {"tokenSecretRef": {"name": "t"}, "source": {"image": {"reference": "r"}}}},
        "runtime": {"envProfile": "Minimal"},
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn claim(extra: Value, environment: &str, body: &Value) -> Result<ClaimRequest, String> {
    let claimed = claim_request(&spec(extra), environment, body.as_object().unwrap());
    claimed.map_err(|error| {
        assert_eq!(
            (error.status.as_u16(), error.code.as_str()),
            (400, "bad_request")
        );
        error.message
    })
}

/// About: D13, D14
#[test]
fn each_fault_has_its_text_in_the_documented_order() {
    let link = "https://x.org/v2?i=1";
    for (body, text) in [
        (json!({}), "instructions (string) is required"),
        (
            json!({"agentName": "a", "instructions": ""}),
            "instructions (string) is required",
        ),
        (
            json!({"agentName": "a", "instructions": 1}),
            "instructions (string) is required",
        ),
        (
            json!({"instructions": "i"}),
            "agentName (string) is required",
        ),
        (
            json!({"instructions": "i", "agentName": "  "}),
            "agentName (string) is required",
        ),
        (
            json!({"instructions": "i", "agentName": {}}),
            "agentName (string) is required",
        ),
        (
            json!({"instructions": "i", "agentName": "a", "joinUrl": 1, "profileImage": 1}),
            "joinUrl must be a string if provided",
        ),
        (
            json!({"joinUrl": link, "instructions": 1, "agentName": 1}),
            "instructions must be a string if provided",
        ),
        (
            json!({"joinUrl": link, "agentName": 1}),
            "agentName must be a string if provided",
        ),
        (
            json!({"joinUrl": link, "profileImage": {}, "metadata": 1}),
            "profileImage must be a string if provided",
        ),
        (
            json!({"joinUrl": link, "metadata": [], "runtime": "x"}),
            "metadata must be an object if provided",
        ),
        (
            json!({"joinUrl": link, "metadata": "x"}),
            "metadata must be an object if provided",
        ),
        (
            json!({"joinUrl": link, "metadata": {"a": 1}}),
            "metadata values must be strings",
        ),
        (
            json!({"joinUrl": link, "runtime": "Hermes"}),
            "runtime must be 'hermes' or 'openclaw' if provided",
        ),
        (
            json!({"joinUrl": link, "runtime": 1}),
            "runtime must be 'hermes' or 'openclaw' if provided",
        ),
        (
            json!({"joinUrl": "https://POPUP.convos.org/v2?i=1"}),
            "popup.convos.org links cannot be used in the staging environment",
        ),
        (
            json!({"joinUrl": "https://dev.popup.convos.org/v2?i=1"}),
            "popup.convos.org links cannot be used in the staging environment",
        ),
        (json!({"joinUrl": " "}), "joinUrl must have 1 to 4096 bytes"),
        (
            json!({"joinUrl": "a b"}),
            "joinUrl must not contain white space or control characters",
        ),
        (
            json!({"joinUrl": "a".repeat(4097)}),
            "joinUrl must have 1 to 4096 bytes",
        ),
        (
            json!({"instructions": "i", "agentName": "a".repeat(201)}),
            "agentName must have 1 to 200 characters",
        ),
        (
            json!({"instructions": "i", "agentName": "a\u{7}b"}),
            "agentName must not contain control characters",
        ),
        (
            json!({"instructions": "i", "agentName": " -a"}),
            "agentName must not start with '-'",
        ),
        (
            json!({"instructions": "i".repeat(100_001), "agentName": "a"}),
            "instructions must have at most 100000 bytes",
        ),
    ] {
        assert_eq!(
            claim(json!({}), "staging", &body).unwrap_err(),
            text,
            "{body:.120}"
        );
    }
    let dev = json!({"joinUrl": "https://x.org/?u=Dev.Convos.org"});
    assert_eq!(
        claim(json!({}), "production", &dev).unwrap_err(),
        "dev.convos.org links cannot be used in the production environment"
    );
    assert!(claim(json!({}), "staging", &dev).is_ok());
    assert!(
        claim(
            json!({}),
            "production",
            &json!({"joinUrl": "https://popup.convos.org/v2?i=1"})
        )
        .is_ok()
    );
}

#[test]
fn a_full_body_comes_through() {
    let body = json!({
        "agentName": "  Tokyo  ", "instructions": " 日本 $HOME \"q\" ", "joinUrl": " https://dev.convos.org/v2?i=1 ", "profileImage": "https://x/p.png",
        "metadata": {"k": "v"}, "source": "landing", "runtime": "hermes", "pool": "staging", "unknown": [1],
    });
    let want = ClaimRequest {
        agent_name: "Tokyo".into(),
        instructions: " 日本 $HOME \"q\" ".into(),
        join_url: Some("https://dev.convos.org/v2?i=1".into()),
        profile_image: Some("https://x/p.png".into()),
        metadata: Some(BTreeMap::from([("k".into(), "v".into())])),
        passed_through: BTreeMap::new(),
        source: "landing".into(),
        runtime: Some("hermes".into()),
        reference: None,
    };
    assert_eq!(claim(json!({}), "staging", &body), Ok(want));
}

/// About: N07
#[test]
fn empty_optional_fields_are_absent() {
    let empty = json!({"joinUrl": "", "profileImage": "", "metadata": null, "runtime": "", "source": "", "agentName": "a", "instructions": "i"});
    let got = claim(json!({}), "staging", &empty).unwrap();
    assert_eq!(
        (
            got.join_url,
            got.profile_image,
            got.metadata,
            got.runtime,
            got.source.as_str()
        ),
        (None, None, None, None, "api")
    );
    assert!(
        claim(json!({}), "staging", &json!({"joinUrl": ""})).is_err(),
        "an empty link is create mode, where both are required"
    );
    assert!(claim(json!({}), "staging", &json!({"joinUrl": null})).is_err());
}

#[test]
fn require_fields_decides_and_defaults_fill() {
    let only_link = json!({"joinUrl": "https://x.org/v2?i=1", "source": "landing"});
    let got = claim(json!({}), "staging", &only_link).unwrap();
    assert_eq!(
        (got.agent_name.as_str(), got.instructions.as_str()),
        (DEFAULT_NAME, DEFAULT_INSTRUCTIONS)
    );
    let named = json!({"runtime": {"env": [{"name": "DEFAULT_AGENT_NAME", "value": "Concierge"}]}});
    assert_eq!(
        claim(named, "staging", &only_link).unwrap().agent_name,
        "Concierge"
    );
    assert_eq!(
        claim(
            json!({"claim": {"requireFields": "Always"}}),
            "staging",
            &only_link
        )
        .unwrap_err(),
        "instructions (string) is required"
    );
    assert_eq!(
        claim(
            json!({"claim": {"requireFields": "Never"}}),
            "staging",
            &json!({})
        )
        .unwrap()
        .agent_name,
        DEFAULT_NAME
    );
    let blank = json!({"joinUrl": "https://x.org/v2?i=1", "agentName": "", "instructions": ""});
    assert_eq!(
        claim(json!({}), "staging", &blank).unwrap().agent_name,
        DEFAULT_NAME
    );
}

/// About: M03
#[test]
fn fields_that_the_pool_names_are_passed_through_and_no_others() {
    let pool = json!({"claim": {"passThroughFields": ["theme", "metadata", "none", "absent"]}});
    let body = json!({"agentName": "a", "instructions": "i", "theme": {"dark": [true, null]}, "metadata": {"k": "v"},
        "none": null, "other": 1});
    let got = claim(pool.clone(), "staging", &body).unwrap();
    let want = [
        ("metadata", json!({"k": "v"})),
        ("theme", json!({"dark": [true, null]})),
    ];
    let want: BTreeMap<_, _> = want.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    assert_eq!(got.passed_through, want);
    let plain = claim(json!({}), "staging", &body).unwrap();
    assert!(plain.passed_through.is_empty());

    // Listed or not, what the product knows is checked.
    let odd = json!({"agentName": "a", "instructions": "i", "metadata": 1});
    assert_eq!(
        claim(pool.clone(), "staging", &odd).unwrap_err(),
        "metadata must be an object if provided"
    );
    let sized =
        |length: usize| json!({"agentName": "a", "instructions": "i", "theme": "x".repeat(length)});
    let most = MAX_PASSED_BYTES - "theme".len() - 2;
    assert!(claim(pool.clone(), "staging", &sized(most)).is_ok());
    assert_eq!(
        claim(pool, "staging", &sized(most + 1)).unwrap_err(),
        "theme must have at most 16384 bytes together"
    );
    assert!(claim(json!({}), "staging", &sized(most + 1)).is_ok());
}

#[test]
fn strict_links_are_checked_only_where_asked() {
    let odd = json!({"joinUrl": "convos://join/abc"});
    assert!(claim(json!({}), "staging", &odd).is_ok());
    let strict = json!({"claim": {"validateJoinUrl": "Strict"}});
    assert!(
        claim(strict.clone(), "staging", &odd)
            .unwrap_err()
            .contains("https://dev.convos.org")
    );
    assert!(
        claim(
            strict,
            "staging",
            &json!({"joinUrl": "https://dev.convos.org/v2?i=1"})
        )
        .is_ok()
    );
}
