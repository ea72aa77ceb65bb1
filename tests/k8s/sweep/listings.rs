//! What the cluster knows and the provider does not say: nothing is believed before a listing and a direct read agree.

use std::collections::BTreeMap;
use std::time::Duration;

use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::chaos::PATIENT;
use crate::lifecycle::{ids, service_id};
use crate::support::simulator::{PROJECT, TOKEN};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

/// Every instance's phase and turn, by id.
async fn phases(world: &World) -> BTreeMap<String, (Phase, Option<i64>)> {
    let all = world.list().await.into_iter();
    all.map(|i| {
        let turn = i.status.as_ref().and_then(|s| s.turn);
        (i.spec.id.clone(), (phase_of(&i), turn))
    })
    .collect()
}

/// Direct reads of services so far.
async fn reads(world: &World) -> usize {
    world.sim.railway_calls("RwServiceInstance").await
}

/// A world with two idle and two claimed agents, swept every second.
async fn four(name: &str) -> World {
    let world = super::swept(name, json!({"minIdle": 2})).await;
    for agent in ["Ada", "Bob"] {
        assert_eq!(world.claim(agent).await.status, 200);
        world.wait_idle(2).await;
    }
    world
}

/// Listings fail in this way: what the pool says of it, and that nothing else happens. `asked` says what the operator
/// did about it in the meantime, so that it is known to have looked.
async fn nothing_changes(fault: Value, field: &str, reason: &str) {
    let world = four("faulty").await;
    let before = phases(&world).await;
    assert_eq!(before.len(), 4);
    let rule = json!({"match": {"field": field}, "fault": fault});
    world.sim.fault("railway", rule).await;
    until(&format!("the pool says {reason}"), LONG, || async {
        let told = world.pool_condition("ProviderReachable").await?;
        (told.0 != "True" && told.1 == reason).then_some(())
    })
    .await;
    // A listing that is answered is doubted one by one; one that is not is asked for again.
    let answered = reason == "ListingSuspicious";
    let (listed, read) = (
        world.sim.railway_calls("RwFleet").await,
        reads(&world).await,
    );
    // A refused credential is asked with again when it is another one.
    let refused = reason == "CredentialsInvalid";
    if refused {
        world.fresh_token().await;
    }
    until("the operator looked on", LONG, || async {
        let more = if answered {
            reads(&world).await >= read + 8
        } else {
            world.sim.railway_calls("RwFleet").await >= listed + if refused { 1 } else { 2 }
        };
        assert_eq!(phases(&world).await, before, "{fault}");
        more.then_some(())
    })
    .await;
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    assert_eq!(world.sim.services_ever().await.len(), 4, "nor replaced");
    world.sim.heal("railway").await;
    if refused {
        world.fresh_token().await;
    }
    until("the provider is back", LONG, || async {
        let told = world.pool_condition("ProviderReachable").await?;
        (told.0 == "True").then_some(())
    })
    .await;
    assert_eq!(phases(&world).await, before);
    // And what goes then is seen to go.
    let lost = world.in_phase(Phase::Idle).await.remove(0);
    let gone = json!({"service": service_id(&lost), "delete": true});
    world.sim.force(gone).await;
    world.wait_gone(&lost.spec.id).await;
    world.wait_idle(2).await;
    world.finish().await;
}

/// acceptance: C10
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_fails_changes_nothing() {
    let fault = json!({"kind": "http_5xx", "status": 500});
    nothing_changes(fault, "environment", "ProviderUnavailable").await;
}

/// acceptance: C10
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_never_comes_changes_nothing() {
    let fault = json!({"kind": "timeout", "seconds": 10});
    nothing_changes(fault, "environment", "ProviderUnavailable").await;
}

/// acceptance: C10
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_empty_by_a_fault_changes_nothing() {
    nothing_changes(
        json!({"kind": "short_list"}),
        "environment",
        "ListingSuspicious",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_less_than_half_changes_nothing() {
    let fault = json!({"kind": "short_list", "keep": 1});
    nothing_changes(fault, "environment", "ListingSuspicious").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_html_or_half_an_answer_changes_nothing() {
    let html = json!({"kind": "http_5xx", "status": 502, "html": true});
    nothing_changes(html, "environment", "ProviderUnavailable").await;
    let empty = json!({"environment": {"serviceInstances": {"edges": [], "pageInfo": {"hasNextPage": false}}}});
    let partial =
        json!({"kind": "gql_error", "message": "Problem processing request", "data": empty});
    nothing_changes(partial, "environment", "ProviderUnavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_changes_nothing() {
    let denied = json!({"kind": "gql_error", "message": "Not Authorized"});
    nothing_changes(denied, "environment", "CredentialsInvalid").await;
}

/// acceptance: B15, B16, B21, C08, C09
#[tokio::test(flavor = "multi_thread")]
async fn what_vanished_is_purged_and_replaced_within_the_reconcile_interval() {
    // No tick comes to its help.
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 3600, "reconcileIntervalSeconds": 15});
    let world = super::swept("purge", spec).await;
    let idle = world.wait_idle(2).await;
    let (lost, kept) = (&idle[0], &idle[1]);
    let before = world.sim.railway_calls("RwFleet").await;
    world
        .sim
        .force(json!({"service": service_id(lost), "delete": true}))
        .await;
    // Seen twice, and two looks are five seconds apart.
    let limit = Duration::from_secs(15 + 10);
    until("it is purged", limit, || async {
        world.instance(&lost.spec.id).await.is_none().then_some(())
    })
    .await;
    assert!(world.sim.railway_calls("RwFleet").await > before);
    let now = ids(&world.wait_idle(2).await);
    assert!(now.contains(&kept.spec.id) && !now.contains(&lost.spec.id));
    assert_eq!(world.sim.services_ever().await.len(), 3);
    // By hand, it takes one call, which counts it.
    world
        .sim
        .force(json!({"service": service_id(kept), "delete": true}))
        .await;
    let answer = world
        .call(Method::POST, "/api/pool/reconcile", json!({}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["cleaned"], 1, "{}", answer.text);
    assert!(world.instance(&kept.spec.id).await.is_none());
    world.wait_idle(2).await;
    world.finish().await;
}

/// A GraphQL request of a person with the workspace's token.
async fn by_hand(world: &World, query: &str) {
    let answer = reqwest::Client::new()
        .post(format!("http://{}/graphql/v2", world.sim.peers))
        .bearer_auth(TOKEN)
        .json(&json!({"query": query}))
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert!(answer.get("errors").is_none(), "{answer}");
}

async fn delete_pool(world: &World) {
    let parameters = DeleteParams::default();
    world.pools().delete(POOL, &parameters).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_deleted_as_a_whole_is_told_of_and_its_agents_can_be_let_go() {
    let spec = json!({"minIdle": 2, "deletionPolicy": "Destroy"});
    let world = super::swept("project", spec).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    world.wait_idle(2).await;
    let before = phases(&world).await;
    by_hand(
        &world,
        &format!("mutation {{ projectDelete(id: \"{PROJECT}\") }}"),
    )
    .await;
    until("the pool says so", LONG, || async {
        let told = world.pool_condition("ProviderReachable").await?;
        (told.0 != "True" && told.2.contains("not found")).then_some(())
    })
    .await;
    // No listing, no judgement: what a project holds may come back with a right that was taken away.
    let listed = world.sim.railway_calls("RwFleet").await;
    until("it asks on", LONG, || async {
        (world.sim.railway_calls("RwFleet").await > listed).then_some(())
    })
    .await;
    assert_eq!(phases(&world).await, before);
    delete_pool(&world).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_no_longer_lets_us_remove_says_what_to_do() {
    let world = super::swept("refused", json!({"minIdle": 2})).await;
    let idle = world.wait_idle(2).await;
    // The answer for a wrong token and for what is gone: no proof of anything.
    let denied = json!({"fault": {"kind": "gql_error", "message": "Not Authorized"}});
    world.sim.fault("railway", denied).await;
    delete_pool(&world).await;
    for instance in &idle {
        let id = &instance.spec.id;
        let command = format!("kubectl annotate agentinstance {id} pool.convos.org/abandon=true");
        until(
            "it says what holds it and what lets it go",
            LONG,
            || async {
                let now = world.instance(id).await.expect("it is held");
                let (reason, message) = super::ready(&now)?;
                (reason == "CredentialsInvalid" && message.contains(&command)).then_some(())
            },
        )
        .await;
    }
    assert_eq!(world.sim.live_services().await.len(), 2);
    let word = json!({"metadata": {"annotations": {"pool.convos.org/abandon": "true"}}});
    let parameters = PatchParams::default();
    let first = &idle[0].spec.id;
    world
        .instances()
        .patch(first, &parameters, &Patch::Merge(word))
        .await
        .unwrap();
    world.wait_gone(first).await;
    // The other waits, and goes as soon as the provider lets it.
    world.sim.heal("railway").await;
    world.fresh_token().await;
    world.wait_gone(&idle[1].spec.id).await;
    let left = world.sim.live_services().await;
    assert_eq!(left.len(), 1, "{left:?}");
    let left = json!({"service": left[0]["id"], "delete": true});
    world.sim.force(left).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_deleted_as_a_whole_takes_its_agents_along() {
    // The operator's account and Roles are in that namespace, too.
    let spec = json!({"minIdle": 2, "deletionPolicy": "Destroy"});
    let world = super::swept_by("namespace", spec, "Admin").await;
    assert_eq!(world.claim("Ada").await.status, 200);
    world.wait_idle(2).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.client.clone());
    namespaces
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    // Its Secret is among the first to go: the operator goes on with the token that it knows. One controller deletes the
    // namespaces of all tests, kind after kind.
    until(
        "nothing is left at the provider or here",
        PATIENT,
        || async {
            let live = world.sim.live_services().await.len();
            (live == 0 && world.list().await.is_empty()).then_some(())
        },
    )
    .await;
    until("the pool is gone", PATIENT, || async {
        let left = world.pools().get_opt(POOL).await.unwrap();
        left.is_none().then_some(())
    })
    .await;
    world.sim.check_invariants().await;
}
