//! A changed pool: what becomes of idle agents that were built before, and what is never touched.

use std::collections::BTreeSet;
use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::wait::{LONG, holds, until};
use crate::support::world::World;

const NEXT: &str = "ghcr.io/xmtplabs/convos-runtime:0.3.5";

fn image(reference: &str) -> Value {
    json!({"provider": {"railway": {"source": {"image": {"reference": reference}}}}})
}

fn rolling(change: Value) -> Value {
    let mut spec =
        json!({"minIdle": 3, "tickIntervalSeconds": 1, "rollout": {"strategy": "RollingIdle"}});
    crate::support::world::merge(&mut spec, &change);
    spec
}

fn ids(instances: &[AgentInstance]) -> BTreeSet<String> {
    instances.iter().map(|i| i.spec.id.clone()).collect()
}

fn reason(instance: &AgentInstance) -> String {
    let conditions = &instance.status.as_ref().unwrap().conditions;
    conditions
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap()
        .reason
        .clone()
}

/// The images that these agents' services run.
async fn images(world: &World, instances: &[AgentInstance]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let state = world.sim.state("railway").await;
    for instance in instances {
        // By id: a claimed agent's service has another name.
        let provider = instance.status.as_ref().unwrap().provider.as_ref().unwrap();
        let services = state["services"].as_array().unwrap();
        let of = |s: &&Value| s["id"].as_str() == provider.service_id.as_deref();
        let service = services.iter().find(of).unwrap();
        found.insert(service["source"]["image"].as_str().unwrap().to_owned());
    }
    found
}

/// The pool's RolledOut condition has this reason; its message.
async fn rolled_out(world: &World, reason: &str) -> String {
    until(&format!("RolledOut is {reason}"), LONG, || async {
        let (_, found, message) = world.pool_condition("RolledOut").await?;
        (found == reason).then_some(message)
    })
    .await
}

/// Push, drain, wait, verify: by itself a change only marks the idle ones, and the one in use stays as it is.
///
/// acceptance: M01
#[tokio::test(flavor = "multi_thread")]
async fn a_change_marks_idle_agents_and_a_drain_replaces_them() {
    let world = World::with_pool("drained", json!({"minIdle": 2, "tickIntervalSeconds": 1})).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let before = world.wait_idle(2).await;
    let claimed = world.in_phase(Phase::Claimed).await;
    let old = images(&world, &before).await;
    assert_eq!(rolled_out(&world, "UpToDate").await, "");

    world.patch_pool(image(NEXT)).await;
    let message = rolled_out(&world, "Drifted").await;
    assert!(
        message.starts_with("2 of 2 idle agents drifted"),
        "{message}"
    );
    until("both are marked", LONG, || async {
        let idle = world.in_phase(Phase::Idle).await;
        idle.iter()
            .all(|i| reason(i) == "TemplateChanged")
            .then_some(())
    })
    .await;
    let metrics = reqwest::get(format!(
        "{}/metrics",
        world.operator.as_ref().unwrap().operations
    ));
    let metrics = metrics.await.unwrap().text().await.unwrap();
    let gauge = format!(
        "agentpool_drifted_instances{{namespace=\"{}\",pool=\"pool\"}} 2",
        &*world.namespace
    );
    assert!(metrics.contains(&gauge), "{metrics}");
    holds(
        "nothing is replaced by itself",
        Duration::from_secs(3),
        || async { ids(&world.in_phase(Phase::Idle).await) == ids(&before) },
    )
    .await;

    let drained = world
        .call(Method::POST, "/api/pool/drain", json!({"count": 2}))
        .await;
    assert_eq!(drained.body["drained"], 2, "{}", drained.text);
    rolled_out(&world, "UpToDate").await;
    let after = world.wait_idle(2).await;
    assert!(ids(&after).is_disjoint(&ids(&before)));
    assert_eq!(
        images(&world, &after).await,
        BTreeSet::from([NEXT.to_owned()])
    );
    assert!(after.iter().all(|i| reason(i) == "Idle"));
    // Who is in use keeps what it was built from, and is deployed once in its life.
    let still = world.instance(&claimed[0].spec.id).await.unwrap();
    assert_eq!(still.spec, claimed[0].spec);
    assert_eq!(images(&world, &[still]).await, old);
    world.finish().await;
}

/// RollingIdle: never below the minimum, never more than one too many, claimed and protected ones stay.
#[tokio::test(flavor = "multi_thread")]
async fn idle_agents_are_replaced_step_by_step() {
    let world = World::with_pool("rolled", rolling(json!({}))).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let before = world.wait_idle(3).await;
    let kept = before[2].name_any();
    world.kubectl(&["label", "ai", &kept, "pool.convos.org/protected=true"]);
    // What is held is only told of.
    world.patch_pool(json!({"paused": ["Rollout"]})).await;
    world.patch_pool(image(NEXT)).await;
    rolled_out(&world, "Paused").await;
    holds(
        "a held roll-out replaces nothing",
        Duration::from_secs(2),
        || async { ids(&world.list().await).len() == 4 },
    )
    .await;
    world.patch_pool(json!({"paused": null})).await;
    until("all but the protected one are new", LONG, || async {
        let all = world.list().await;
        let of = |p| {
            all.iter()
                .filter(|i| agentpool::domain::instance::phase::phase_of(i) == p)
                .count()
        };
        let (idle, building) = (of(Phase::Idle), of(Phase::Provisioning));
        assert!(idle >= 3, "never below the minimum: {idle}");
        assert!(
            idle + building <= 4,
            "{idle} idle and {building} being built"
        );
        assert_eq!(of(Phase::Claimed), 1);
        let old = all
            .iter()
            .filter(|i| ids(&before).contains(&i.spec.id))
            .count();
        (old == 1 && idle == 3 && building == 0).then_some(())
    })
    .await;
    let message = rolled_out(&world, "Drifted").await;
    assert!(message.contains("protected"), "{message}");
    let now = world.in_phase(Phase::Idle).await;
    assert!(now.iter().any(|i| i.name_any() == kept));
    world.kubectl(&["label", "ai", &kept, "pool.convos.org/protected-"]);
    rolled_out(&world, "UpToDate").await;
    let after = world.wait_idle(3).await;
    assert_eq!(
        images(&world, &after).await,
        BTreeSet::from([NEXT.to_owned()])
    );
    world.finish().await;
}

/// The new ones never come up: the breaker stops it, the old ones stay in stock, and undoing the change ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_fails_stops_and_keeps_the_stock() {
    let breaker = json!({"circuitBreaker": {"failures": 2, "backoffSeconds": 3600}});
    let world = World::with_pool("stopped", rolling(breaker)).await;
    let before = world.wait_idle(3).await;
    let reference = images(&world, &before).await.pop_first().unwrap();
    let fails = json!({"match": {"field": "serviceInstanceDeployV2"}, "fault": {"kind": "fail_at", "at": "start"}});
    world.sim.fault("railway", fails).await;
    world.patch_pool(image(NEXT)).await;
    let message = rolled_out(&world, "CreationsFailing").await;
    assert!(message.contains("the roll-out stopped"), "{message}");
    holds(
        "the old ones stay in stock",
        Duration::from_secs(3),
        || async { ids(&world.in_phase(Phase::Idle).await) == ids(&before) },
    )
    .await;
    let claimed = world.claim("Still Served").await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    world.sim.heal("railway").await;
    world.patch_pool(image(&reference)).await;
    rolled_out(&world, "UpToDate").await;
    world.finish().await;
}

/// A claim that comes between the decision to replace an agent and its deletion wins: the deletion carries the version
/// that was judged. Claims and roll-outs race until the roll-out is over.
///
/// trap: idle removed while being assigned
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_wins_against_the_rollout() {
    let surge =
        json!({"minIdle": 6, "maxTotal": 40, "rollout": {"maxSurge": 6, "maxUnavailable": 6}});
    let world = World::with_pool("wins", rolling(surge)).await;
    world.patch_pool(image(NEXT)).await;
    let mut claimed = BTreeSet::new();
    for round in 0..10 {
        // Claims are quicker than creations.
        let name = format!("Agent {round}");
        let answer = until("an agent for it", LONG, || async {
            let answer = world.claim(&name).await;
            (answer.body["code"] != "no_idle").then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        claimed.insert(answer.body["instanceId"].as_str().unwrap().to_owned());
    }
    rolled_out(&world, "UpToDate").await;
    world.wait_idle(6).await;
    assert_eq!(ids(&world.in_phase(Phase::Claimed).await), claimed);
    world.finish().await;
}

/// acceptance: A11, M02
#[tokio::test(flavor = "multi_thread")]
async fn a_new_operator_restarts_no_agent() {
    let mut world = World::with_pool("again", rolling(json!({}))).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    world.wait_idle(3).await;
    rolled_out(&world, "UpToDate").await;
    let (before, calls) = (
        ids(&world.list().await),
        world.sim.calls("railway").await.len(),
    );
    assert!(world.operator().stop().success());
    // Another build of it, with other settings: the next replica of a rolling update.
    world.start_operator(&[
        ("AGENTPOOL_SWEEP_GRACE_SECONDS", "1200"),
        ("LOG_LEVEL", "debug"),
    ]);
    until("it has looked at everything a few times", LONG, || async {
        let fleet = world.sim.calls("railway").await;
        let listed = fleet
            .iter()
            .skip(calls)
            .filter(|c| c["operation"] == "RwFleet")
            .count();
        (listed >= 4).then_some(())
    })
    .await;
    let since = world.sim.calls("railway").await;
    let changing: Vec<&Value> = since[calls..]
        .iter()
        .filter(|c| {
            c["query"]
                .as_str()
                .is_some_and(|q| q.starts_with("mutation"))
                || c["operation"].as_str().is_some_and(|o| {
                    ["Create", "Delete", "Deploy", "Update", "Upsert"]
                        .iter()
                        .any(|w| o.contains(w))
                })
        })
        .collect();
    assert!(changing.is_empty(), "{changing:?}");
    assert_eq!(ids(&world.list().await), before);
    world.finish().await;
}

/// The template of a drained pool goes with it, but for what an agent in use still names.
#[tokio::test(flavor = "multi_thread")]
async fn templates_go_with_the_last_who_names_them() {
    let world =
        World::with_pool("revisions", json!({"minIdle": 1, "tickIntervalSeconds": 1})).await;
    let answer = world.claim("Tokyo Trip").await;
    let id = answer.body["instanceId"].as_str().unwrap().to_owned();
    world.wait_idle(1).await;
    world.patch_pool(image(NEXT)).await;
    rolled_out(&world, "Drifted").await;
    let api: Api<ControllerRevision> = Api::namespaced(world.client.clone(), &world.namespace);
    let revisions = || async {
        let found = api.list(&ListParams::default()).await.unwrap();
        found
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(revisions().await.len(), 2);
    world.kubectl(&["delete", "agentpools", "pool"]);
    let orphan = world.instance(&id).await.unwrap();
    assert_eq!(
        revisions().await,
        BTreeSet::from([orphan.spec.template.revision.clone()])
    );
    world.delete(&orphan.name_any()).await;
    world.wait_gone(&id).await;
    until("no template is left", LONG, || async {
        revisions().await.is_empty().then_some(())
    })
    .await;
    world.finish().await;
}

/// The tag is moved to another digest, and nobody edits the pool: RollingIdle takes it by itself.
///
/// acceptance: M04
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_rolled_out() {
    let repository = "ghcr.io/xmtplabs/convos-runtime";
    let at = |c: char| format!("{repository}@sha256:{}", c.to_string().repeat(64));
    let moved = |c: char| {
        let digest = format!("sha256:{}", c.to_string().repeat(64));
        json!({"tags": {"xmtplabs/convos-runtime:0.3.4": digest}})
    };
    let world = World::start("moved").await;
    world.sim.set("ghcr", moved('a')).await;
    let pinned = json!({"minIdle": 2, "provider": {"railway": {"source": {"image": {"digestPolicy": "PinOrFail"}}}}});
    world.create_pool("pool", rolling(pinned)).await;
    let before = world.wait_idle(2).await;
    assert_eq!(images(&world, &before).await, BTreeSet::from([at('a')]));
    rolled_out(&world, "UpToDate").await;
    let generation = world.pool().await.metadata.generation;

    world.sim.set("ghcr", moved('b')).await;
    let new = until("all idle ones are of the new digest", LONG, || async {
        let idle = world.in_phase(Phase::Idle).await;
        let new = !idle.is_empty()
            && idle.len() == 2
            && images(&world, &idle).await == BTreeSet::from([at('b')]);
        new.then_some(idle)
    })
    .await;
    assert!(ids(&new).is_disjoint(&ids(&before)));
    rolled_out(&world, "UpToDate").await;
    assert_eq!(world.pool().await.metadata.generation, generation);
    world.finish().await;
}

/// While what is left of the request limit is kept for others, a roll-out does not begin; what a claim took is built anew
/// all the same, and a limit that grows sets it going.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_leaves_what_is_left_of_the_request_limit_to_others() {
    let world = World::with_pool("reserved", rolling(json!({}))).await;
    let before = world.wait_idle(3).await;
    let debug = format!("/api/pool/debug/{}", before[0].spec.id);
    let sent = until("requests are used up", LONG, || async {
        let _ = world.get(&debug).await;
        let sent = world.sim.calls("railway").await.len();
        (sent >= 80).then_some(sent)
    })
    .await;
    // More than a roll-out's share is used up, and less than a refill's.
    let limit = sent * 100 / 66;
    let limits = json!({"limits": {"perHour": limit, "perSecond": 1000}});
    world.sim.set("railway", limits).await;
    crate::lifecycle::ticks(&world, 1).await;
    world.patch_pool(image(NEXT)).await;
    rolled_out(&world, "QuotaReserved").await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let now = world.wait_idle(3).await;
    let kept = ids(&now).intersection(&ids(&before)).count();
    assert_eq!(kept, 2, "none was removed, and one was built for the claim");
    rolled_out(&world, "QuotaReserved").await;

    let limits = json!({"limits": {"perHour": 100_000, "perSecond": 1000}});
    world.sim.set("railway", limits).await;
    rolled_out(&world, "UpToDate").await;
    let idle = world.wait_idle(3).await;
    assert_eq!(
        images(&world, &idle).await,
        BTreeSet::from([NEXT.to_owned()])
    );
    world.finish().await;
}

/// What agents were told of the variable, by instance.
async fn told(world: &World, instances: &[AgentInstance], variable: &str) -> BTreeSet<String> {
    let state = world.sim.state("railway").await;
    let services = state["services"].as_array().unwrap();
    let of = |instance: &AgentInstance| {
        let id = crate::lifecycle::service_id(instance);
        let service = services.iter().find(|s| s["id"] == id).unwrap();
        let deployments = service["deployments"].as_array().unwrap();
        assert_eq!(deployments.len(), 1, "{service}");
        let value = &deployments[0]["snapshot"]["variables"][variable];
        value.as_str().unwrap().to_owned()
    };
    instances.iter().map(of).collect()
}

/// A Secret's value is no part of the template, and reaches agents all the same: idle ones drift, those in use stay.
#[tokio::test(flavor = "multi_thread")]
async fn idle_agents_with_an_earlier_value_of_a_secret_drift() {
    let world = World::start("rotated").await;
    world.secret("extra", "value", "one").await;
    let env = json!([{"name": "OPENROUTER_API_KEY", "value": "sk-simulated"},
        {"name": "EXTRA", "valueFrom": {"secretKeyRef": {"name": "extra", "key": "value"}}}]);
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "runtime": {"env": env}});
    world.create_pool(crate::support::world::POOL, spec).await;
    world.wait_idle(2).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let idle = world.wait_idle(2).await;
    let claimed = world.in_phase(Phase::Claimed).await;
    let one = BTreeSet::from(["one".to_owned()]);
    assert_eq!(told(&world, &idle, "EXTRA").await, one);
    rolled_out(&world, "UpToDate").await;
    // The same value with another label is the same value.
    world.kubectl(&["label", "secret", "extra", "touched=yes"]);
    holds("nothing drifts", Duration::from_secs(7), || async {
        let drifted = world.pool().await.status.unwrap().drifted;
        drifted == 0
    })
    .await;
    world.secret("extra", "value", "two").await;
    rolled_out(&world, "Drifted").await;
    until("they say why", LONG, || async {
        let idle = world.in_phase(Phase::Idle).await;
        let all = idle.iter().all(|i| reason(i) == "SecretRotated");
        (all && idle.len() == 2).then_some(())
    })
    .await;
    let text = world.kubectl(&["get", "ap,ai", "-o", "yaml"]);
    assert!(!text.contains("value: one") && !text.contains("value: two"));
    world
        .patch_pool(json!({"rollout": {"strategy": "RollingIdle"}}))
        .await;
    rolled_out(&world, "UpToDate").await;
    let idle = world.wait_idle(2).await;
    let two = BTreeSet::from(["two".to_owned()]);
    assert_eq!(told(&world, &idle, "EXTRA").await, two);
    assert_eq!(told(&world, &claimed, "EXTRA").await, one);
    assert_eq!(ids(&world.in_phase(Phase::Claimed).await), ids(&claimed));
    world.finish().await;
}
