//! AgentPool's rules on the real API server, each both ways.

use serde_json::{Value, json};

use crate::crd_pool::{in_railway, railway, to_services_api, to_sprites};
use crate::schema::{Case, Objects, all_tried, case, change, with};

fn cases() -> Vec<Case> {
    let key = || json!({"name": "key"});
    let mail = || json!({"agentmail": {"apiKeySecretRef": key()}});
    let number = |mode: &str| json!({"telnyx": {"apiKeySecretRef": key(), "mode": mode, "sharedPhoneNumber": "+15550100"}});
    let mut all = vec![
        change(
            "spec.environment is immutable",
            "spec.environment",
            json!({}),
            json!({"environment": "staging"}),
            json!({"environment": "dev"}),
        ),
        change(
            "spec.environmentCode is immutable",
            "spec.environmentCode",
            json!({"environment": "qa", "environmentCode": "qa"}),
            json!({"environmentCode": "qa"}),
            json!({"environmentCode": "qb"}),
        ),
        change(
            "spec.environmentCode is immutable",
            "spec.environmentCode",
            json!({}),
            json!({"minIdle": 4}),
            json!({"environmentCode": "stg"}),
        ),
        change(
            "spec.namePrefix is immutable",
            "spec.namePrefix",
            json!({"namePrefix": "a"}),
            json!({"namePrefix": "a"}),
            json!({"namePrefix": "b"}),
        ),
        case(
            "spec.environmentCode is required for this environment",
            "spec.environmentCode",
            json!({"environment": "qa", "environmentCode": "q4"}),
            json!({"environment": "qa"}),
        ),
        case(
            "spec.environmentCode contradicts spec.environment",
            "spec.environmentCode",
            json!({"environmentCode": "stg"}),
            json!({"environmentCode": "prod"}),
        ),
        case(
            "spec.environmentCode contradicts spec.environment",
            "spec.environmentCode",
            json!({"environment": "production", "environmentCode": "prod"}),
            json!({"environment": "development", "environmentCode": "prod"}),
        ),
        case(
            "set exactly one of spec.provider.railway",
            "spec.provider",
            to_sprites(),
            json!({"provider": {"sprites": {"tokenSecretRef": key()}}}),
        ),
        case(
            "set exactly one of spec.provider.railway",
            "spec.provider",
            to_services_api(),
            json!({"provider": {"railway": null}}),
        ),
        change(
            "the provider of a pool is immutable",
            "spec.provider",
            json!({}),
            in_railway(json!({"startCommand": "x"})),
            to_sprites(),
        ),
        case(
            "spec.maxTotal must be at least spec.minIdle",
            "spec.maxTotal",
            json!({"minIdle": 3, "maxTotal": 3}),
            json!({"minIdle": 3, "maxTotal": 2}),
        ),
        case(
            "spec.onRelease: Recycle needs a provider with checkpoints",
            "spec.onRelease",
            with(&to_sprites(), &json!({"onRelease": "Recycle"})),
            json!({"onRelease": "Recycle"}),
        ),
        case(
            "a mailbox or phone number of its own excludes recycling",
            "spec.onRelease",
            with(
                &to_sprites(),
                &json!({"services": mail(), "onRelease": "Destroy"}),
            ),
            with(&to_sprites(), &json!({"services": mail()})),
        ),
        case(
            "a mailbox or phone number of its own excludes recycling",
            "spec.onRelease",
            with(&to_sprites(), &json!({"services": number("Shared")})),
            with(
                &to_sprites(),
                &json!({"services": number("PerInstance"), "onRelease": "Recycle"}),
            ),
        ),
        case(
            "spec.services goes with railway and sprites only",
            "spec.services",
            json!({"services": mail()}),
            with(&to_services_api(), &json!({"services": mail()})),
        ),
        case(
            "spec.runtime.envProfile is required on Railway",
            "spec.runtime.envProfile",
            with(&to_sprites(), &json!({"runtime": null})),
            json!({"runtime": null}),
        ),
    ];
    all.extend(cases_below(key, number));
    all
}

fn cases_below(key: fn() -> Value, number: impl Fn(&str) -> Value) -> Vec<Case> {
    let image = || json!({"image": {"reference": "ghcr.io/a/b:1"}});
    let limits = |limits: Value| in_railway(json!({ "limits": limits }));
    let both = json!({"image": {"reference": "a"}, "repository": {"repo": "a/b"}});
    let per_instance = |kind: &str| {
        in_railway(json!({"project": null, "perInstance": {"workspaceId": "w"}, "tokenKind": kind}))
    };
    let env = |entry: Value| json!({"runtime": {"env": [entry]}});
    let router = |refs: Value| json!({"services": {"openrouter": refs}});
    vec![
        case(
            "set exactly one of railway.project (one service",
            "spec.provider.railway",
            per_instance("Bearer"),
            in_railway(json!({"project": null})),
        ),
        case(
            "set exactly one of railway.project (one service",
            "spec.provider.railway",
            json!({}),
            in_railway(json!({"perInstance": {"workspaceId": "w"}})),
        ),
        case(
            "railway.perInstance needs tokenKind: Bearer",
            "spec.provider.railway.tokenKind",
            per_instance("Bearer"),
            per_instance("Project"),
        ),
        case(
            "set exactly one of railway.project.environmentId",
            "spec.provider.railway.project",
            in_railway(json!({"project": {"environmentName": null, "environmentId": "e"}})),
            in_railway(json!({"project": {"environmentId": "e"}})),
        ),
        case(
            "set exactly one of railway.project.environmentId",
            "spec.provider.railway.project",
            json!({}),
            in_railway(json!({"project": {"environmentName": null}})),
        ),
        case(
            "set exactly one of railway.source.image",
            "spec.provider.railway.source",
            in_railway(json!({"source": image()})),
            in_railway(json!({"source": both})),
        ),
        case(
            "set exactly one of railway.source.image",
            "spec.provider.railway.source",
            in_railway(json!({"source": {"repository": {"repo": "a/b"}}})),
            in_railway(json!({"source": {}})),
        ),
        case(
            "set cpuMillis, memoryMegabytes or both",
            "spec.provider.railway.limits",
            limits(json!({"cpuMillis": 4000})),
            limits(json!({})),
        ),
        case(
            "runtime.auth: Shared needs runtime.sharedKeySecretRef",
            "spec.runtime.sharedKeySecretRef",
            json!({"runtime": {"auth": "Shared", "sharedKeySecretRef": key()}}),
            json!({"runtime": {"auth": "Shared"}}),
        ),
        case(
            "set exactly one of value and valueFrom",
            "spec.runtime.env[0]",
            env(json!({"name": "A", "value": "x"})),
            env(json!({"name": "A"})),
        ),
        case(
            "set exactly one of value and valueFrom",
            "spec.runtime.env[0]",
            env(json!({"name": "A", "valueFrom": {"secretKeyRef": key()}})),
            env(json!({"name": "A", "value": "x", "valueFrom": {"secretKeyRef": key()}})),
        ),
        case(
            "this variable is set by the operator",
            "spec.runtime.env[0].name",
            env(json!({"name": "GATEWAY_TOKENS", "value": "x"})),
            env(json!({"name": "GATEWAY_TOKEN", "value": "x"})),
        ),
        case(
            "set exactly one of openrouter.managementKeySecretRef",
            "spec.services.openrouter",
            router(json!({"sharedKeySecretRef": key()})),
            router(json!({})),
        ),
        case(
            "set exactly one of openrouter.managementKeySecretRef",
            "spec.services.openrouter",
            router(json!({"managementKeySecretRef": key()})),
            router(json!({"managementKeySecretRef": key(), "sharedKeySecretRef": key()})),
        ),
        case(
            "telnyx.mode: Shared needs telnyx.sharedPhoneNumber",
            "spec.services.telnyx.sharedPhoneNumber",
            json!({"services": number("Shared")}),
            with(
                &json!({"services": number("Shared")}),
                &json!({"services": {"telnyx": {"sharedPhoneNumber": null}}}),
            ),
        ),
        case(
            "claim.duplicateStatus is 409 or 503",
            "spec.claim.duplicateStatus",
            json!({"claim": {"duplicateStatus": 503}}),
            json!({"claim": {"duplicateStatus": 410}}),
        ),
        case(
            "claim.passThroughFields cannot name agentName",
            "spec.claim.passThroughFields",
            json!({"claim": {"passThroughFields": ["metadata", "theme"]}}),
            json!({"claim": {"passThroughFields": ["theme", "inviteUrl"]}}),
        ),
        case(
            "spec.claim.passThroughFields[0] in body should match",
            "spec.claim.passThroughFields[0]",
            json!({"claim": {"passThroughFields": ["a-b_C9"]}}),
            json!({"claim": {"passThroughFields": ["a.b"]}}),
        ),
        case(
            "spec.rollout.maxSurge and maxUnavailable are both 0",
            "spec.rollout.maxUnavailable",
            json!({"rollout": {"maxSurge": 1, "maxUnavailable": 0}}),
            json!({"rollout": {"maxSurge": 0, "maxUnavailable": 0}}),
        ),
    ]
}

#[tokio::test]
async fn every_rule_accepts_what_works_and_refuses_what_cannot() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool").await;
    let mut cases = cases();
    for (number, case) in cases.iter().enumerate() {
        pools.try_rule(number, &railway(), case).await;
    }
    // The one rule about metadata, whose refusal names the field in its message.
    let (fits, long) = ("a".repeat(242), "a".repeat(243));
    pools.create(&fits, &railway(), false).await.unwrap();
    let error = pools.create(&long, &railway(), false).await.unwrap_err();
    assert!(
        error.contains("metadata.name has more than 242 characters: choose a shorter one"),
        "{error}"
    );
    cases.push(case(
        "metadata.name has more than 242",
        "metadata.name",
        json!({}),
        json!({}),
    ));
    all_tried(0, &cases);
}

#[tokio::test]
async fn every_reserved_variable_is_refused() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool-env").await;
    for name in [
        "AGENTPOOL_OWNER",
        "INSTANCE_ID",
        "GATEWAY_TOKEN",
        "OPENCLAW_GATEWAY_TOKEN",
        "GATEWAY_AUTH_TOKEN",
        "SETUP_PASSWORD",
        "PRIVATE_WALLET_KEY",
        "POOL_URL",
    ] {
        let spec = with(
            &railway(),
            &json!({"runtime": {"env": [{"name": name, "value": "x"}]}}),
        );
        let error = pools.create("p", &spec, false).await.unwrap_err();
        assert!(
            error.contains("this variable is set by the operator for each agent: remove it"),
            "{error}"
        );
    }
}
