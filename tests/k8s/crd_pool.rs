//! AgentPool's schema on the real API server: bounds, defaults, and kubectl. Its rules: crd_pool_rules.rs.

use agentpool::api::GROUP;
use serde_json::{Value, json};

use crate::schema::{Objects, with};
use crate::support::world::cluster;

pub fn railway() -> Value {
    json!({
        "environment": "staging",
        "provider": {"railway": {"tokenSecretRef": {"name": "railway"}, "project": {"projectId": "p", "environmentName": "staging"}}},
        "runtime": {"envProfile": "Minimal"},
    })
}

pub fn to_sprites() -> Value {
    json!({"provider": {"railway": null, "sprites": {"tokenSecretRef": {"name": "sprites"}}}})
}

pub fn to_services_api() -> Value {
    json!({"provider": {"railway": null, "servicesApi": {"url": "https://services.example", "apiKeySecretRef": {"name": "services"}}}})
}

pub fn in_railway(change: Value) -> Value {
    json!({"provider": {"railway": change}})
}

#[tokio::test]
async fn values_out_of_bounds_are_refused_by_field() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool-bounds").await;
    let sprites = |change: Value| with(&to_sprites(), &json!({"provider": {"sprites": change}}));
    let table = [
        (
            "spec.minIdle",
            json!({"minIdle": 1000}),
            json!({"minIdle": 1001}),
        ),
        (
            "spec.minIdle",
            json!({"minIdle": 0}),
            json!({"minIdle": -1}),
        ),
        (
            "spec.minIdle",
            json!({"minIdle": 1}),
            json!({"minIdle": "3"}),
        ),
        (
            "spec.maxTotal",
            json!({"maxTotal": 10000}),
            json!({"maxTotal": 10001}),
        ),
        (
            "spec.tickIntervalSeconds",
            json!({"tickIntervalSeconds": 1}),
            json!({"tickIntervalSeconds": 0}),
        ),
        (
            "spec.reconcileIntervalSeconds",
            json!({"reconcileIntervalSeconds": 86400}),
            json!({"reconcileIntervalSeconds": 86401}),
        ),
        (
            "spec.stuckTimeoutSeconds",
            json!({"stuckTimeoutSeconds": 1}),
            json!({"stuckTimeoutSeconds": 0}),
        ),
        (
            "spec.cleanupAfterSeconds",
            json!({"cleanupAfterSeconds": 0}),
            json!({"cleanupAfterSeconds": -1}),
        ),
        (
            "spec.circuitBreaker.failures",
            json!({"circuitBreaker": {"failures": 1}}),
            json!({"circuitBreaker": {"failures": 0}}),
        ),
        (
            "spec.claim.callTimeoutSeconds",
            json!({"claim": {"callTimeoutSeconds": 70}}),
            json!({"claim": {"callTimeoutSeconds": 69}}),
        ),
        (
            "spec.claim.deadlineSeconds",
            json!({"claim": {"deadlineSeconds": 3600}}),
            json!({"claim": {"deadlineSeconds": 3601}}),
        ),
        (
            "spec.claim.maxLifetimeSeconds",
            json!({"claim": {"maxLifetimeSeconds": 10}}),
            json!({"claim": {"maxLifetimeSeconds": 9}}),
        ),
        (
            "spec.namePrefix",
            json!({"namePrefix": "a".repeat(14)}),
            json!({"namePrefix": "a".repeat(15)}),
        ),
        (
            "spec.namePrefix",
            json!({"namePrefix": "a-1"}),
            json!({"namePrefix": "a-"}),
        ),
        (
            "spec.environment",
            json!({"environment": "a-1", "environmentCode": "x"}),
            json!({"environment": "Staging", "environmentCode": "x"}),
        ),
        (
            "spec.environmentCode",
            json!({"environment": "qa", "environmentCode": "abcd"}),
            json!({"environment": "qa", "environmentCode": "abcde"}),
        ),
        (
            "spec.provider.railway.tokenSecretRef.name",
            json!({}),
            in_railway(json!({"tokenSecretRef": {"name": ""}})),
        ),
        (
            "spec.provider.railway.source.image.reference",
            in_railway(json!({"source": {"image": {"reference": "a"}}})),
            in_railway(json!({"source": {"image": {"reference": "a b"}}})),
        ),
        (
            "spec.provider.railway.source.image.credentialsSecretRef.name",
            in_railway(json!({"source": {"image": {"credentialsSecretRef": {"name": "a"}}}})),
            in_railway(json!({"source": {"image": {"credentialsSecretRef": {"name": ""}}}})),
        ),
        (
            "spec.provider.railway.region",
            in_railway(json!({"region": "us-east4-eqdc4a"})),
            in_railway(json!({"region": "US West"})),
        ),
        (
            "spec.provider.railway.healthCheck.path",
            in_railway(json!({"healthCheck": {"path": "/"}})),
            in_railway(json!({"healthCheck": {"path": "health"}})),
        ),
        (
            "spec.provider.railway.healthCheck.timeoutSeconds",
            in_railway(json!({"healthCheck": {"path": "/", "timeoutSeconds": 3600}})),
            in_railway(json!({"healthCheck": {"path": "/", "timeoutSeconds": 3601}})),
        ),
        (
            "spec.provider.railway.restartRetries",
            in_railway(json!({"restartRetries": 0})),
            in_railway(json!({"restartRetries": -1})),
        ),
        (
            "spec.provider.railway.volume.mountPath",
            in_railway(json!({"volume": {"mountPath": "/v"}})),
            in_railway(json!({"volume": {"mountPath": "data"}})),
        ),
        (
            "spec.provider.railway.limits.cpuMillis",
            in_railway(json!({"limits": {"cpuMillis": 100}})),
            in_railway(json!({"limits": {"cpuMillis": 99}})),
        ),
        (
            "spec.provider.railway.limits.memoryMegabytes",
            in_railway(json!({"limits": {"memoryMegabytes": 100}})),
            in_railway(json!({"limits": {"memoryMegabytes": 99}})),
        ),
        (
            "spec.provider.sprites.heartbeatSeconds",
            sprites(json!({"heartbeatSeconds": 1})),
            sprites(json!({"heartbeatSeconds": 0})),
        ),
        (
            "spec.provider.servicesApi.url",
            to_services_api(),
            with(
                &to_services_api(),
                &json!({"provider": {"servicesApi": {"url": "ftp://x"}}}),
            ),
        ),
        (
            "spec.runtime.env",
            json!({"runtime": {"env": many(64)}}),
            json!({"runtime": {"env": many(65)}}),
        ),
        (
            "spec.runtime.env[0].name",
            json!({"runtime": {"env": [{"name": "a_1", "value": ""}]}}),
            json!({"runtime": {"env": [{"name": "1a", "value": ""}]}}),
        ),
        (
            "spec.runtime.env[1]",
            json!({"runtime": {"env": many(2)}}),
            json!({"runtime": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}}),
        ),
        (
            "spec.paused[1]",
            json!({"paused": ["Refill", "Claims"]}),
            json!({"paused": ["Refill", "Refill"]}),
        ),
        (
            "spec.limits.monthlySpend",
            json!({"limits": {"monthlySpend": "12.50"}}),
            json!({"limits": {"monthlySpend": "12,50"}}),
        ),
        (
            "spec.costs.perRunningHour",
            json!({"costs": {"perRunningHour": "0.000001"}}),
            json!({"costs": {"perRunningHour": "-1"}}),
        ),
    ];
    for (field, good, bad) in table {
        if let Err(error) = pools.create("p", &with(&railway(), &good), false).await {
            panic!("{field}: refused {good}: {error}");
        }
        let error = pools
            .create("p", &with(&railway(), &bad), false)
            .await
            .expect_err(field);
        assert!(error.contains(&format!("{field}: ")), "{field}: {error}");
    }
}

fn many(count: usize) -> Vec<Value> {
    (0..count)
        .map(|i| json!({"name": format!("V{i}"), "value": "x"}))
        .collect()
}

#[tokio::test]
async fn unknown_enum_values_are_refused_with_the_known_ones() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool-enums").await;
    let table = [
        (json!({"replacement": "X"}), "spec.replacement", "OneForOne"),
        (json!({"onRelease": "X"}), "spec.onRelease", "Recycle"),
        (
            json!({"deletionPolicy": "X"}),
            "spec.deletionPolicy",
            "Orphan",
        ),
        (json!({"paused": ["X"]}), "spec.paused[0]", "Rollout"),
        (
            in_railway(json!({"tokenKind": "bearer"})),
            "spec.provider.railway.tokenKind",
            "Project",
        ),
        (
            in_railway(json!({"source": {"image": {"digestPolicy": "X"}}})),
            "spec.provider.railway.source.image.digestPolicy",
            "Off",
        ),
        (
            in_railway(json!({"restartPolicy": "X"})),
            "spec.provider.railway.restartPolicy",
            "OnFailure",
        ),
        (
            json!({"runtime": {"dialect": "X"}}),
            "spec.runtime.dialect",
            "PoolServer",
        ),
        (
            json!({"runtime": {"auth": "X"}}),
            "spec.runtime.auth",
            "Instance",
        ),
        (
            json!({"runtime": {"envProfile": "X"}}),
            "spec.runtime.envProfile",
            "Legacy",
        ),
        (
            json!({"runtime": {"failedClaim": "X"}}),
            "spec.runtime.failedClaim",
            "Replace",
        ),
        (
            json!({"claim": {"order": "X"}}),
            "spec.claim.order",
            "Newest",
        ),
        (
            json!({"claim": {"dedupeJoinUrl": "X"}}),
            "spec.claim.dedupeJoinUrl",
            "InFlight",
        ),
        (
            json!({"claim": {"requireFields": "X"}}),
            "spec.claim.requireFields",
            "CreateOnly",
        ),
        (
            json!({"claim": {"validateJoinUrl": "X"}}),
            "spec.claim.validateJoinUrl",
            "Strict",
        ),
        (
            json!({"rollout": {"strategy": "X"}}),
            "spec.rollout.strategy",
            "RollingIdle",
        ),
    ];
    for (bad, field, known) in table {
        let error = pools
            .create("p", &with(&railway(), &bad), false)
            .await
            .expect_err(field);
        assert!(
            error.contains(&format!("{field}: Unsupported value")) && error.contains(known),
            "{field}: {error}"
        );
    }
}

#[tokio::test]
async fn what_is_left_out_has_its_default() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool-defaults").await;
    let made = pools.create("p", &railway(), true).await.unwrap();
    let image =
        json!({"reference": "ghcr.io/xmtplabs/convos-runtime:latest", "digestPolicy": "PinOrFail"});
    let expected = json!({
        "environment": "staging", "namePrefix": "convos-agent", "minIdle": 3, "deletionPolicy": "Orphan",
        "tickIntervalSeconds": 30, "reconcileIntervalSeconds": 300, "stuckTimeoutSeconds": 900, "cleanupAfterSeconds": 600,
        "circuitBreaker": {"failures": 3, "backoffSeconds": 300},
        "provider": {"railway": {"tokenSecretRef": {"name": "railway", "key": "token"}, "tokenKind": "Bearer",
            "project": {"projectId": "p", "environmentName": "staging"}, "source": {"image": image}}},
        "runtime": {"dialect": "Auto", "auth": "Instance", "failedClaim": "Replace", "envProfile": "Minimal"},
        "claim": {"order": "Oldest", "callTimeoutSeconds": 75, "deadlineSeconds": 150, "pendingTimeoutSeconds": 4500,
            "dedupeJoinUrl": "Active", "requireFields": "CreateOnly", "duplicateStatus": 409, "validateJoinUrl": "Env", "renameOnClaim": true},
        "rollout": {"strategy": "OnDrain", "maxUnavailable": 1, "maxSurge": 1},
    });
    assert_eq!(made["spec"], expected);
    let made = pools
        .create("s", &with(&railway(), &to_sprites()), true)
        .await
        .unwrap();
    assert_eq!(
        made["spec"]["provider"]["sprites"],
        json!({"tokenSecretRef": {"name": "sprites", "key": "token"}, "keepAwake": "Claimed", "heartbeatSeconds": 20, "wakeTimeoutSeconds": 30})
    );
}

#[tokio::test]
async fn a_manifest_with_a_misspelt_or_missing_field_is_refused_by_name() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool-yaml").await;
    let file = format!(
        "{}/pool-{}.yaml",
        env!("CARGO_TARGET_TMPDIR"),
        pools.namespace.name()
    );
    let apply = |spec: Value| {
        let manifest = json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "AgentPool", "metadata": {"name": "p"}, "spec": spec});
        std::fs::write(&file, serde_yaml::to_string(&manifest).unwrap()).unwrap();
        let out = cluster().kubectl([
            "apply",
            "--dry-run=server",
            "-n",
            &*pools.namespace,
            "-f",
            &file,
        ]);
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    assert!(apply(railway()).0);
    let (ok, error) = apply(with(&railway(), &json!({"minidle": 3})));
    assert!(
        !ok && error.contains(r#"unknown field "spec.minidle""#),
        "{error}"
    );
    let (ok, error) = apply(with(&railway(), &json!({"environment": null})));
    assert!(
        !ok && error.contains("spec.environment: Required value"),
        "{error}"
    );
    let (ok, error) = apply(in_railway(
        json!({"tokenSecretRef": null, "project": {"projectId": "p", "environmentName": "e"}}),
    ));
    assert!(
        !ok && error.contains("spec.provider.railway.tokenSecretRef: Required value"),
        "{error}"
    );
    let (ok, error) = apply(with(
        &railway(),
        &json!({"provider": {"sprites": {"tokenSecretRef": {"name": "s"}}}}),
    ));
    assert!(!ok && error.contains("set exactly one of spec.provider.railway, spec.provider.sprites and spec.provider.servicesApi"), "{error}");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn kubectl_scales_lists_and_explains() {
    let pools = Objects::new("AgentPool", "agentpools", "crd-pool-kubectl").await;
    pools
        .create("warm", &with(&railway(), &json!({"maxTotal": 7})), true)
        .await
        .unwrap();
    pools
        .change_status(
            "warm",
            &json!({"idle": 2, "selector": "pool.convos.org/pool=warm"}),
        )
        .await
        .unwrap();
    pools.kubectl(&["scale", "agentpool/warm", "--replicas=5"]);
    assert_eq!(
        pools.kubectl(&["get", "ap", "warm", "-o=jsonpath={.spec.minIdle}"]),
        "5"
    );
    let scale = format!(
        "/apis/{GROUP}/v1alpha1/namespaces/{}/agentpools/warm/scale",
        pools.namespace.name()
    );
    let scale: Value = serde_json::from_str(&pools.kubectl(&["get", "--raw", &scale])).unwrap();
    assert_eq!(scale["spec"]["replicas"], 5);
    assert_eq!(
        scale["status"],
        json!({"replicas": 2, "selector": "pool.convos.org/pool=warm"})
    );
    let refused = cluster().kubectl([
        "scale",
        "-n",
        &*pools.namespace,
        "agentpool/warm",
        "--replicas=8",
    ]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && error.contains("raise maxTotal or lower minIdle"),
        "{error}"
    );

    let listed = pools.kubectl(&["get", "agentpool"]);
    let header: Vec<_> = listed.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
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
    assert!(
        listed.contains("warm"),
        "a kind and a category of the same name: {listed}"
    );
    let wide = pools.kubectl(&["get", "ap,ai", "-o", "name"]);
    assert_eq!(wide.trim(), "agentpool.pool.convos.org/warm");

    let text = pools.kubectl(&["explain", "agentpool.spec.claim.deadlineSeconds"]);
    assert!(
        text.contains("time limit of the whole claim") && text.contains("Default 150"),
        "{text}"
    );
    for path in [
        "agentpool",
        "agentpool.spec",
        "agentpool.spec.provider.railway.project",
        "agentpool.status",
        "ap.spec.runtime.env",
    ] {
        let text = pools.kubectl(&["explain", path]);
        assert!(
            text.contains("DESCRIPTION:") && !text.contains("<empty>"),
            "{path}: {text}"
        );
    }
}
