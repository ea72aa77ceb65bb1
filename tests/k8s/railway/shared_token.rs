//! Two environments share a Railway project and its token, and nothing else.

use std::collections::BTreeSet;

use agentpool::domain::instance::phase::Phase;
use kube::ResourceExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::http_calls::call;
use crate::lifecycle::ticks;
use crate::support::operator::{KEY, Operator};
use crate::support::simulator::SHARED_PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

const OTHER_KEY: &str = "another-key-9876543210";

fn pool(environment: &str) -> Value {
    let project =
        json!({"projectId": SHARED_PROJECT, "environmentId": null, "environmentName": environment});
    json!({"environment": environment, "minIdle": 2, "tickIntervalSeconds": 1, "reconcileIntervalSeconds": 10,
        "deletionPolicy": "Destroy", "provider": {"railway": {"project": project}}})
}

fn names(all: &[agentpool::api::AgentInstance]) -> BTreeSet<String> {
    all.iter().map(ResourceExt::name_any).collect()
}

/// The Secret is one: taken as it is from the one namespace into the other.
///
/// acceptance: E33
#[tokio::test(flavor = "multi_thread")]
async fn two_environments_with_one_token_have_keys_and_namespaces_of_their_own() {
    let mut here = World::bare("staging").await;
    // A stray that nobody knows would be removed at once.
    here.start_operator(&[("AGENTPOOL_SWEEP_GRACE_SECONDS", "1")]);
    let mut there = World::bare("production").await;
    let secret: Value =
        serde_json::from_str(&here.kubectl(&["get", "secret", "railway", "-o", "json"])).unwrap();
    there.kubectl(&["delete", "secret", "railway"]);
    let copy = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "railway"}, "data": secret["data"]});
    let file = format!(
        "{}/{}.json",
        env!("CARGO_TARGET_TMPDIR"),
        there.namespace.name()
    );
    std::fs::write(&file, copy.to_string()).unwrap();
    there.kubectl(&["apply", "-f", &file]);
    std::fs::remove_file(&file).unwrap();
    let mut environment = here.environment(&[
        ("POOL_API_KEY", OTHER_KEY),
        ("AGENTPOOL_SWEEP_GRACE_SECONDS", "1"),
    ]);
    environment.insert("AGENTPOOL_NAMESPACE".into(), there.namespace.to_string());
    there.operator = Some(Operator::start("run", &environment));
    here.create_pool(POOL, pool("staging")).await;
    there.create_pool(POOL, pool("production")).await;
    let (ours, theirs) = (here.wait_idle(2).await, there.wait_idle(2).await);
    assert!(names(&ours).is_disjoint(&names(&theirs)));

    // Each key opens its own API and no other.
    let apis = [&here, &there].map(|w| w.operator.as_ref().unwrap().api.clone());
    let claim = |name: &str| json!({"agentName": name, "instructions": "Be kind."}).to_string();
    for (api, key, status) in [
        (&apis[0], OTHER_KEY, 401),
        (&apis[1], KEY, 401),
        (&apis[0], KEY, 200),
        (&apis[1], OTHER_KEY, 200),
    ] {
        let bearer = format!("Bearer {key}");
        let answer = call(
            api,
            Method::POST,
            "/api/pool/claim",
            Some(&bearer),
            Some(claim("Ada")),
        )
        .await;
        assert_eq!(answer.status, status, "{}", answer.text);
        let listed = call(api, Method::GET, "/api/pool/status", Some(&bearer), None).await;
        assert_eq!(listed.status, status);
    }
    assert_eq!(here.in_phase(Phase::Claimed).await.len(), 1);
    assert_eq!(there.in_phase(Phase::Claimed).await.len(), 1);
    let (ours, theirs) = (here.wait_idle(2).await, there.wait_idle(2).await);

    // One token, and each says of what it made whose it is: neither sweep touches what the other made.
    let tokens: BTreeSet<String> = here
        .sim
        .calls("railway")
        .await
        .iter()
        .map(|c| c["token"].to_string())
        .collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    let reconciled = format!("Bearer {KEY}");
    let swept = call(
        &apis[0],
        Method::POST,
        "/api/pool/reconcile",
        Some(&reconciled),
        Some("{}".into()),
    )
    .await;
    assert_eq!(
        (swept.status, &swept.body["cleaned"]),
        (200, &json!(0)),
        "{}",
        swept.text
    );
    ticks(&here, 6).await;
    let services = here.sim.state("railway").await["services"].clone();
    let services = services.as_array().unwrap();
    assert_eq!(services.len(), 6, "{services:#?}");
    for (world, network) in [(&here, "dev"), (&there, "production")] {
        for instance in world.list().await {
            let mark = format!("/{}/{}", &*world.namespace, instance.spec.id);
            let mut all = services.iter();
            let own = all.find(|s| s["variables"]["INSTANCE_ID"] == instance.spec.id);
            let variables = &own.unwrap()["variables"];
            assert!(
                variables["AGENTPOOL_OWNER"]
                    .as_str()
                    .unwrap()
                    .ends_with(&mark)
            );
            assert_eq!(variables["XMTP_ENV"], network);
        }
    }

    // One environment goes with all it has; the other does not notice.
    let claimed = here.in_phase(Phase::Claimed).await;
    there.kubectl(&["delete", "ap", POOL, "--timeout=60s"]);
    until("all of production is gone", LONG, || async {
        there.list().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(names(&here.in_phase(Phase::Idle).await), names(&ours));
    assert_eq!(names(&here.in_phase(Phase::Claimed).await), names(&claimed));
    assert!(names(&theirs).is_disjoint(&names(&here.list().await)));
    assert_eq!(here.sim.live_services().await.len(), 3);
    drop(there);
    here.finish().await;
}
