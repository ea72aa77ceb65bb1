//! Webhooks: registered by us, once, where a public address is known; heard, and never believed; gone with the last pool.

use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::events;
use crate::door::Door;
use crate::lifecycle::ids;
use crate::support::simulator::{ENVIRONMENT, PROJECT, PROJECT_TOKEN, SHARED_PROJECT};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};

const SECRET: &str = "a-secret-of-webhooks";
const VARIABLE: &str = "AGENTPOOL_RAILWAY_WEBHOOK_SECRET";

/// Starts the world's operator with a public address and a secret of webhooks.
fn start(world: &mut World, door: &Door, secret: &str) {
    world.start_operator(&[("AGENTPOOL_PUBLIC_URL", &door.url), (VARIABLE, secret)]);
    door.leads_to(world);
}

async fn world(name: &str) -> (World, Door) {
    let (mut world, door) = (World::bare(name).await, Door::open().await);
    start(&mut world, &door, SECRET);
    (world, door)
}

fn address(door: &Door) -> String {
    format!("{}/webhooks/railway", door.url)
}

async fn notifications(world: &World) -> Value {
    world.sim.state("railway").await["notifications"].clone()
}

/// The rules that deliver to our address.
async fn rules(world: &World, door: &Door) -> Vec<Value> {
    let all = notifications(world).await["rules"].clone();
    let ours = |r: &Value| {
        let channels = r["channels"].as_array().unwrap();
        channels
            .iter()
            .any(|c| c["config"]["url"] == address(door).as_str())
    };
    all.as_array()
        .unwrap()
        .iter()
        .filter(|r| ours(r))
        .cloned()
        .collect()
}

async fn registered(world: &World, door: &Door) -> Value {
    until("the webhook is registered", LONG, || async {
        let condition = world.pool_condition("WebhookRegistered").await?;
        let rules = rules(world, door).await;
        (condition.0 == "True" && rules.len() == 1).then(|| rules[0].clone())
    })
    .await
}

async fn delivered(world: &World, kind: &str, status: u16) -> usize {
    let all = notifications(world).await["deliveries"].clone();
    let all = all.as_array().unwrap().iter();
    all.filter(|d| d["type"] == kind && d["status"] == status)
        .count()
}

async fn crash(world: &World, name: &str) {
    let crashed = json!({"service": name, "deployment": {"status": "CRASHED"}});
    world.sim.force(crashed).await;
}

/// A tick of an hour: what happens within seconds is the webhook's doing.
#[tokio::test(flavor = "multi_thread")]
async fn what_railway_says_is_looked_at_at_once() {
    let (world, door) = world("hooks").await;
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 3600, "reconcileIntervalSeconds": 3600,
        "cleanupAfterSeconds": 0});
    world.create_pool(POOL, spec).await;
    let idle = world.wait_idle(2).await;
    let rule = registered(&world, &door).await;
    assert_eq!(rule["projectId"], PROJECT);
    let config = &rule["channels"][0]["config"];
    assert_eq!(
        config["headers"],
        json!({"X-Pool-Webhook-Secret": null}),
        "nobody can read it back"
    );
    assert!(
        rule["eventTypes"]
            .as_array()
            .unwrap()
            .contains(&json!("Deployment.oom_killed"))
    );
    crash(&world, &idle[0].spec.provider_name).await;
    world.wait_gone(&idle[0].spec.id).await;
    let after = world.wait_idle(2).await;
    assert!(ids(&after).contains(&idle[1].spec.id));
    assert!(delivered(&world, "Deployment.crashed", 200).await >= 1);
    // The secret is nowhere that anybody reads.
    let objects = world.kubectl(&["get", "ap,ai,events", "-o", "yaml"]);
    assert!(!objects.contains(SECRET));
    assert!(!world.operator.as_ref().unwrap().log().contains(SECRET));
    world.finish().await;
}

/// Whatever becomes of deliveries, the same is found that a tick finds, once.
#[tokio::test(flavor = "multi_thread")]
async fn lost_late_doubled_and_foreign_ones_change_nothing() {
    let (world, door) = world("hooks-odd").await;
    let spec = json!({"minIdle": 3, "tickIntervalSeconds": 2, "cleanupAfterSeconds": 0});
    world.create_pool(POOL, spec).await;
    world.wait_idle(3).await;
    registered(&world, &door).await;
    let mut made = world.sim.services_ever().await.len();
    let odd = [
        vec![json!({"kind": "webhook_drop"})],
        vec![
            json!({"kind": "webhook_duplicate", "times": 5}),
            json!({"kind": "webhook_camel_case"}),
        ],
        vec![json!({"kind": "webhook_delay", "seconds": 60})],
        vec![
            json!({"kind": "webhook_reorder"}),
            json!({"kind": "webhook_empty_details"}),
        ],
        vec![
            json!({"kind": "webhook_foreign"}),
            json!({"kind": "webhook_duplicate", "times": 3}),
        ],
        vec![json!({"kind": "webhook_wrong_secret"})],
        vec![json!({"kind": "webhook_legacy"})],
    ];
    for faults in odd {
        for fault in &faults {
            world
                .sim
                .fault("railway", json!({"match": {}, "fault": fault}))
                .await;
        }
        let before = world.wait_idle(3).await;
        crash(&world, &before[0].spec.provider_name).await;
        world.wait_gone(&before[0].spec.id).await;
        let after = world.wait_idle(3).await;
        let kept = [&before[1].spec.id, &before[2].spec.id];
        assert!(
            kept.iter().all(|id| ids(&after).contains(*id)),
            "{faults:?}"
        );
        made += 1;
        let ever = world.sim.services_ever().await.len();
        assert_eq!(ever, made, "one takes its place: {faults:?}");
        world.sim.heal("railway").await;
    }
    assert!(
        delivered(&world, "Deployment.crashed", 401).await >= 1,
        "the wrong secret was met"
    );
    assert_eq!(rules(&world, &door).await.len(), 1);
    until("no request is left", LONG, || async {
        let annotations = world.pool().await.metadata.annotations.unwrap_or_default();
        (!annotations.contains_key("pool.convos.org/requests")).then_some(())
    })
    .await;
    world.finish().await;
}

/// The creation takes effect, its answer never comes, and the process dies: whoever comes next finds it by its address.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_registered_once_whoever_dies_and_renewed_with_another_secret() {
    let (mut world, door) = (World::bare("hooks-once").await, Door::open().await);
    let lost = json!({"match": {"field": "notificationRuleCreate"}, "count": 1,
        "fault": {"kind": "timeout", "applied": true, "seconds": 1200}});
    world.sim.fault("railway", lost).await;
    start(&mut world, &door, SECRET);
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 3600, "reconcileIntervalSeconds": 3600,
        "cleanupAfterSeconds": 0});
    world.create_pool(POOL, spec).await;
    until("the creation is sent", LONG, || async {
        (world.sim.railway_calls("RwRuleCreate").await == 1).then_some(())
    })
    .await;
    // The pool does not wait for it.
    let idle = world.wait_idle(1).await.remove(0);
    assert_eq!(rules(&world, &door).await.len(), 1, "it took effect");
    world.operator().kill();
    start(&mut world, &door, "another-secret-of-webhooks");
    registered(&world, &door).await;
    assert_eq!(world.sim.railway_calls("RwRuleCreate").await, 1);
    assert_eq!(
        world.sim.railway_calls("RwRuleUpdate").await,
        1,
        "nobody knows which secret it has"
    );
    crash(&world, &idle.spec.provider_name).await;
    world.wait_gone(&idle.spec.id).await;
    let refused = delivered(&world, "Deployment.crashed", 401).await;
    assert_eq!(refused, 0, "it brings the present secret");
    assert!(delivered(&world, "Deployment.crashed", 200).await >= 1);
    // Two, as two leaders would make them: the older one stays.
    let kept = rules(&world, &door).await[0]["id"].clone();
    let second =
        json!({"projectId": PROJECT, "channels": [{"type": "webhook", "url": address(&door)}]});
    world
        .sim
        .set("railway", json!({"notificationRules": [second]}))
        .await;
    world.operator().kill();
    start(&mut world, &door, SECRET);
    until("one is left", LONG, || async {
        let rules = rules(&world, &door).await;
        (rules.len() == 1 && rules[0]["id"] == kept).then_some(())
    })
    .await;
    assert_eq!(world.sim.railway_calls("RwRuleCreate").await, 1);
    world.finish().await;
}

/// Of two pools of a project, of two environments, the last one takes it along; what is not ours stays.
#[tokio::test(flavor = "multi_thread")]
async fn it_goes_with_the_last_pool_and_nobody_else_s_does() {
    let (world, door) = world("hooks-gone").await;
    let theirs = json!({"projectId": SHARED_PROJECT, "channels": [{"type": "webhook", "url": "https://theirs.example.com/webhooks/railway"}]});
    let mail = json!({"projectId": SHARED_PROJECT, "channels": [{"type": "email"}]});
    world
        .sim
        .set("railway", json!({"notificationRules": [theirs, mail]}))
        .await;
    for (name, environment, end) in [(POOL, "staging", "0022"), ("other", "dev", "0021")] {
        let id = format!("5eed0000-0000-4000-8000-00000000{end}");
        let railway = json!({"project": {"projectId": SHARED_PROJECT, "environmentId": id}});
        let spec = json!({"environment": environment, "minIdle": 1, "deletionPolicy": "Destroy", "provider": {"railway": railway}});
        world.create_pool(name, spec).await;
    }
    world.wait_idle(2).await;
    registered(&world, &door).await;
    // The first answer to the removal is lost: it is not left behind by that.
    let lost = json!({"match": {"field": "notificationRuleDelete"}, "count": 1, "fault": {"kind": "reset", "applied": true}});
    world.sim.fault("railway", lost).await;
    for (name, left) in [("other", 1), (POOL, 0)] {
        world
            .pools()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        until("the pool is gone", LONG, || async {
            let gone = world.pools().get_opt(name).await.unwrap().is_none();
            gone.then_some(())
        })
        .await;
        assert_eq!(rules(&world, &door).await.len(), left, "{name}");
    }
    let all = notifications(&world).await["rules"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(all, 2, "theirs stay");
    // A pool that comes later has one again.
    world.create_pool(POOL, json!({"minIdle": 1})).await;
    registered(&world, &door).await;
    world.finish().await;
}

/// What cannot be registered is said, and holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_said_and_holds_nothing_up() {
    let (world, door) = world("hooks-trouble").await;
    let refused = json!({"match": {"field": "notificationRules"}, "fault": {"kind": "gql_error", "message": "Problem processing request"}});
    world.sim.fault("railway", refused).await;
    world.create_pool(POOL, json!({"minIdle": 1})).await;
    world.wait_idle(1).await;
    let (status, _, message) = until("it is said", LONG, || async {
        let condition = world.pool_condition("WebhookRegistered").await?;
        (condition.0 == "False").then_some(condition)
    })
    .await;
    assert!(
        message.contains("Problem processing request"),
        "{status} {message}"
    );
    assert_eq!(world.wait_ready().await.status.unwrap().idle, 1);
    world.sim.heal("railway").await;
    registered(&world, &door).await;
    assert!(!events(&world, "WebhookRegistered").is_empty());
    // And a pool whose token may not: it says what to do, and is filled.
    world.secret("confined", "token", PROJECT_TOKEN).await;
    world
        .pools()
        .delete(POOL, &DeleteParams::default())
        .await
        .unwrap();
    until("the pool is gone", LONG, || async {
        let gone = world.pools().get_opt(POOL).await.unwrap().is_none();
        gone.then_some(())
    })
    .await;
    let railway = json!({"tokenSecretRef": {"name": "confined"}, "tokenKind": "Project",
        "project": {"projectId": PROJECT, "environmentId": ENVIRONMENT}});
    world
        .create_pool(
            POOL,
            json!({"minIdle": 1, "provider": {"railway": railway}}),
        )
        .await;
    world.wait_idle(1).await;
    until("it says what to do", LONG, || async {
        let (_, reason, message) = world.pool_condition("WebhookRegistered").await?;
        (reason == "NotSupported" && message.contains("by hand")).then_some(())
    })
    .await;
    world.finish().await;
}

/// Agents with projects of their own have one rule for the workspace, of which most projects are nothing of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_has_one_for_all_its_projects() {
    let (world, door) = world("hooks-own").await;
    let spec = super::own::own_projects(1);
    world
        .secret("more", "tokens", crate::support::simulator::TOKEN)
        .await;
    world.create_pool(POOL, spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    let rule = registered(&world, &door).await;
    assert_eq!(rule["projectId"], Value::Null);
    // Somebody else's service in another project of the workspace.
    let foreign = json!({"name": "theirs", "projectId": PROJECT, "image": "nginx", "deploy": true});
    world
        .sim
        .set("railway", json!({"services": [foreign]}))
        .await;
    until("it is told of", LONG, || async {
        (delivered(&world, "Deployment.deployed", 200).await >= 1).then_some(())
    })
    .await;
    holds(
        "nothing is asked for it",
        Duration::from_secs(2),
        || async {
            world.in_phase(Phase::Idle).await.len() == 1
                && world.list().await[0].spec.id == idle.spec.id
        },
    )
    .await;
    world
        .sim
        .force(json!({"service": "theirs", "delete": true}))
        .await;
    world.finish().await;
}
