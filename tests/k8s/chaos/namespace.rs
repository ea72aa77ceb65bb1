//! A namespace is deleted with everything in it. Its Secrets go at once, the instances hang on their finalizers.

use agentpool::domain::instance::phase::Phase;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::{PATIENT, ready, slow_writes, wait_reason};
use crate::lifecycle::{ids, replenish_one, service_id};
use crate::support::account::RIGHTS;
use crate::support::cluster;
use crate::support::simulator::TOKEN;
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};

/// A pool with an idle, a claimed and a half-made agent; the operator's own namespace is another one. While the
/// provider refuses deletions the namespace is deleted, until the Secret is gone.
async fn deleted_namespace(name: &str) -> (World, cluster::Namespace) {
    let mut world = World::bare(name).await;
    let release = world.cluster.namespace(&format!("{name}-release")).await;
    world.start_operator(&[
        ("AGENTPOOL_RELEASE_NAMESPACE", &release),
        (RIGHTS, "Cluster"),
    ]);
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1});
    world.create_pool(POOL, spec).await;
    world.wait_idle(2).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    slow_writes(&world, 1.0).await;
    let refused = json!({"kind": "gql_error", "message": "not today"});
    let rule = json!({"match": {"field": "serviceDelete"}, "fault": refused});
    world.sim.fault("railway", rule).await;
    let half = replenish_one(&world).await;
    until("half of it is made", LONG, || async {
        world.instance(&half).await?.status?.provider?.id
    })
    .await;
    world.kubectl(&["delete", "namespace", &world.namespace, "--wait=false"]);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    until("the Secret is gone", LONG, || async {
        let gone = secrets.get_opt("railway").await.unwrap().is_none();
        gone.then_some(())
    })
    .await;
    until("every deletion was refused", PATIENT, || async {
        let mut refused = 0;
        for instance in world.list().await {
            let reason = ready(&world, &instance.spec.id).await;
            refused += usize::from(reason.is_some_and(|r| r.0 == "DeletionPending"));
        }
        (refused == 3).then_some(())
    })
    .await;
    (world, release)
}

async fn condition(world: &World) -> Option<String> {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let status = namespaces
        .get_opt(&world.namespace)
        .await
        .unwrap()?
        .status?;
    let found = status
        .conditions?
        .into_iter()
        .find(|c| c.type_ == "NamespaceFinalizersRemaining" && c.status == "True")?;
    found.message
}

async fn namespace_gone(world: &World) {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    until("the namespace is gone", PATIENT, || async {
        let gone = namespaces
            .get_opt(&world.namespace)
            .await
            .unwrap()
            .is_none();
        gone.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_credential_outlives_its_secret_and_finishes_the_deletion() {
    let (world, _release) = deleted_namespace("ns-credential").await;
    assert_eq!(world.sim.live_services().await.len(), 3);
    world.sim.heal("railway").await;
    namespace_gone(&world).await;
    assert!(world.sim.live_services().await.is_empty());
    assert_eq!(world.sim.services_ever().await.len(), 3, "nothing was made");
    world.sim.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_the_namespace_hangs_says_why_and_is_let_go_by_annotation() {
    let (mut world, release) = deleted_namespace("ns-hangs").await;
    // The only one who still knows the token dies; the provider would obey by now.
    world.operator().kill();
    world.sim.heal("railway").await;
    let deletions = world.sim.railway_calls("RwServiceDelete").await;
    world.start_operator(&[
        ("AGENTPOOL_RELEASE_NAMESPACE", &release),
        (RIGHTS, "Cluster"),
    ]);
    let all = world.list().await;
    assert_eq!(all.len(), 3);
    for instance in &all {
        let message = wait_reason(&world, &instance.spec.id, "CredentialsMissing").await;
        assert!(message.contains("railway"), "which Secret: {message}");
        assert!(
            message.contains("pool.convos.org/abandon=true"),
            "{message}"
        );
    }
    let message = until("the namespace says it", LONG, || condition(&world)).await;
    assert!(message.contains("pool.convos.org/"), "{message}");
    holds("nothing is let go", LONG / 20, || async {
        world.list().await.len() == 3
    })
    .await;
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, deletions);
    assert_eq!(world.sim.live_services().await.len(), 3);

    let abandon = "pool.convos.org/abandon=true";
    world.kubectl(&["annotate", "agentinstances", "--all", abandon]);
    namespace_gone(&world).await;
    let left = world.sim.live_services().await;
    assert_eq!(left.len(), 3, "left behind, as was asked for");
    let log = world.operator().log();
    for service in left {
        let id = service["id"].as_str().unwrap();
        let told = |line: &&str| line.contains("abandoned on request") && line.contains(id);
        assert!(log.lines().any(|l| told(&l)), "the log names {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_nothing_is_let_go_until_the_secret_is_back_or_by_annotation() {
    let mut world = World::with_pool("no-secret", json!({"minIdle": 2})).await;
    let idle = world.wait_idle(2).await;
    let (abandoned, kept) = (&idle[0], &idle[1]);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let parameters = DeleteParams::default();
    secrets.delete("railway", &parameters).await.unwrap();
    super::kill(&mut world).await;
    world.pools().delete(POOL, &parameters).await.unwrap();
    world.start_operator(&[]);
    for instance in &idle {
        wait_reason(&world, &instance.spec.id, "CredentialsMissing").await;
    }
    assert_eq!(world.sim.live_services().await.len(), 2);

    let object = format!("agentinstance/{}", abandoned.spec.id);
    world.kubectl(&["annotate", &object, "pool.convos.org/abandon=true"]);
    world.wait_gone(&abandoned.spec.id).await;
    let text = world.kubectl(&["get", "events.events.k8s.io", "-o", "json"]);
    let events: Value = serde_json::from_str(&text).unwrap();
    let told = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["reason"] == "Abandoned" && e["regarding"]["name"] == abandoned.spec.id);
    let note = told.expect("an event")["note"].as_str().unwrap().to_owned();
    let service = service_id(abandoned);
    for part in [&abandoned.spec.provider_name, &service] {
        assert!(note.contains(part.as_str()), "{part} in: {note}");
    }
    assert_eq!(ids(&world.list().await), ids(std::slice::from_ref(kept)));

    world.secret("railway", "token", TOKEN).await;
    until("the other one goes", PATIENT, || async {
        world.list().await.is_empty().then_some(())
    })
    .await;
    let left = world.sim.live_services().await;
    assert_eq!(left.len(), 1, "only what was abandoned: {left:?}");
    assert_eq!(left[0]["id"], json!(service));
    assert!(world.in_phase(Phase::Terminating).await.is_empty());
    world
        .sim
        .force(json!({"service": service, "delete": true}))
        .await;
    world.finish().await;
}
