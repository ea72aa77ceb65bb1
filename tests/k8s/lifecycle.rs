//! The life of an agent in stock: built, proven, claimed, replaced, and never more or fewer than asked for.

mod loops;
mod loss;
mod restart;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, SPEED, World};

/// So many real milliseconds as a latency of the simulated agents.
pub fn millis(real: u32) -> i64 {
    (f64::from(real) * SPEED) as i64
}

/// The host of an agent.
pub fn host(instance: &AgentInstance) -> String {
    let url = instance.status.as_ref().and_then(|s| s.url.clone());
    url.unwrap()
        .strip_prefix("https://")
        .expect("an https URL")
        .to_owned()
}

/// The provider's id of an agent.
pub fn service_id(instance: &AgentInstance) -> String {
    let status = instance.status.as_ref().unwrap();
    status.provider.as_ref().unwrap().id.clone().unwrap()
}

/// The ids of instances, sorted.
pub fn ids(instances: &[AgentInstance]) -> BTreeSet<String> {
    instances.iter().map(|i| i.spec.id.clone()).collect()
}

/// Waits until the pool's listing was asked for so many times more.
pub async fn ticks(world: &World, count: usize) {
    let before = world.sim.railway_calls("RwFleet").await;
    until(&format!("{count} more listings"), LONG, || async {
        (world.sim.railway_calls("RwFleet").await >= before + count).then_some(())
    })
    .await;
}

/// Adds one instance beyond the minimum through the API; its id.
pub async fn replenish_one(world: &World) -> String {
    let before = ids(&world.list().await);
    let answer = world
        .call(Method::POST, "/api/pool/replenish", json!({"count": 1}))
        .await;
    assert_eq!((answer.status, &answer.body["created"]), (200, &json!(1)));
    let new = &ids(&world.list().await) - &before;
    assert_eq!(new.len(), 1, "{new:?}");
    new.into_iter().next().unwrap()
}

/// acceptance: A02, B03, B27
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_takes_less_than_a_second_is_recorded_and_refilled_at_once() {
    let world = World::start("claim").await;
    let agent = json!({"defaults": {"create": millis(200), "status": 0}});
    world.sim.set("agents", agent).await;
    // A long tick: what follows a claim does not wait for one.
    world
        .create_pool(POOL, json!({"minIdle": 2, "tickIntervalSeconds": 600}))
        .await;
    world.wait_idle(2).await;
    let before = world.sim.services_ever().await.len();
    assert_eq!(before, 2);

    let started = Instant::now();
    let answer = world.claim("Tokyo Trip").await;
    let took = started.elapsed();
    until(
        "a creation starts",
        Duration::from_secs(2).saturating_sub(started.elapsed()),
        || async { (world.sim.services_ever().await.len() > before).then_some(()) },
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let bounds = Duration::from_millis(200)..Duration::from_secs(1);
    assert!(bounds.contains(&took), "the claim took {took:?}");

    let claimed = world.in_phase(Phase::Claimed).await;
    assert_eq!(claimed.len(), 1);
    let (spec, status) = (&claimed[0].spec, claimed[0].status.clone().unwrap());
    let (claim, bound) = (spec.claim.clone().unwrap(), status.claim.unwrap());
    assert_eq!(answer.body["instanceId"], spec.id);
    assert_eq!(claim.agent_name, "Tokyo Trip");
    assert_eq!(claim.instructions.as_deref(), Some("Be kind."));
    assert_eq!(answer.body["conversationId"], json!(bound.conversation_id));
    assert_eq!(answer.body["inviteUrl"], json!(bound.invite_url));
    assert!(
        bound.invite_url.is_some_and(|url| !url.is_empty()) && bound.claimed_at.is_some(),
        "{:?}",
        claimed[0].status
    );
    let ledger = world.sim.ledger().await;
    let made = &ledger["instances"][service_id(&claimed[0])]["conversations"];
    assert_eq!(made.as_array().map(Vec::len), Some(1), "{made}");
    assert_eq!(made[0]["id"], answer.body["conversationId"]);
    assert_eq!(
        (&made[0]["name"], &made[0]["instructions"]),
        (&json!("Tokyo Trip"), &json!("Be kind."))
    );
    // The API shows what its watch has heard.
    let row = until("the API shows the claim", LONG, || async {
        let agents = world.get("/api/pool/agents").await.body;
        let row = agents["claimed"][0].clone();
        (row["status"] == "claimed").then_some(row)
    })
    .await;
    for key in ["conversationId", "inviteUrl"] {
        assert_eq!(row[key], answer.body[key], "{key}");
    }
    assert_eq!(row["agentName"], "Tokyo Trip");
    assert_eq!(row["instructions"], "Be kind.");
    assert!(row["claimedAt"].as_str().is_some_and(|t| t.ends_with('Z')));
    assert_eq!(
        world.kubectl(&["get", "ai", &spec.id, "-o", "jsonpath={.status.phase}"]),
        "Claimed"
    );

    world.wait_idle(2).await;
    assert_eq!(world.sim.services_ever().await.len(), 3, "one replacement");
    world.finish().await;
}

/// acceptance: B01, B02, B07
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_starting_until_its_first_good_probe() {
    let world = World::start("starting").await;
    world
        .sim
        .set("agents", json!({"defaults": {"boot": millis(2500)}}))
        .await;
    world
        .create_pool(POOL, json!({"minIdle": 1, "tickIntervalSeconds": 600}))
        .await;
    let host = until("the agent boots", LONG, || async {
        let all = world.sim.state("agents").await["instances"].clone();
        let (host, agent) = all.as_object()?.iter().next()?;
        (agent["alive"] == true && agent["ready"] == false).then(|| host.clone())
    })
    .await;
    let starting = world.list().await;
    assert_eq!(starting.len(), 1);
    let id = &starting[0].spec.id;
    assert_eq!(phase_of(&starting[0]), Phase::Provisioning);
    assert_eq!(
        world.kubectl(&["get", "ai", id, "-o", "jsonpath={.status.phase}"]),
        "Provisioning"
    );
    let status = world.get("/api/pool/status").await.body;
    assert_eq!(
        (
            &status["instances"][0]["id"],
            &status["instances"][0]["status"]
        ),
        (&json!(id), &json!("starting"))
    );
    let counts = world.get("/api/pool/counts").await.body;
    assert_eq!(
        (
            &counts["starting"],
            &counts["provisioning"],
            &counts["idle"]
        ),
        (&json!(1), &json!(1), &json!(0))
    );

    until("the agent is ready", LONG, || async {
        let agent = world.sim.state("agents").await["instances"][&host].clone();
        (agent["ready"] == true).then_some(())
    })
    .await;
    // It is probed every second while it is to become ready, whatever the tick.
    let probe = Duration::from_secs(2);
    until("idle within one probe", probe, || async {
        (world.get("/api/pool/counts").await.body["idle"] == 1).then_some(())
    })
    .await;
    let ready = world.instance(id).await.unwrap();
    assert_eq!(phase_of(&ready), Phase::Idle);
    let good = world.sim.calls("agents").await;
    let good: Vec<_> = good
        .iter()
        .filter(|c| c["path"] == "/convos/status" && c["status"] == 200)
        .collect();
    assert_eq!(good.len(), 1, "idle after the first good probe: {good:?}");
    let counts = world.get("/api/pool/counts").await.body;
    assert_eq!(
        (&counts["starting"], &counts["provisioning"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        world.kubectl(&["get", "ai", id, "-o", "jsonpath={.status.phase}"]),
        "Idle"
    );
    world.finish().await;
}

/// acceptance: B08
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_conversation_of_its_own_is_never_in_stock() {
    let world = World::start("bound").await;
    world
        .create_pool(POOL, json!({"minIdle": 0, "tickIntervalSeconds": 1}))
        .await;
    world.wait_count("idle", 0).await;
    for dialect in ["pool-server", "gateway"] {
        let state = json!({"defaultDialect": dialect});
        world.sim.set("agents", state).await;
        let fault = json!({"match": {}, "fault": {"kind": "alreadyBound"}});
        world.sim.fault("agents", fault).await;
        let id = replenish_one(&world).await;
        let judged = until("judged", LONG, || async {
            let now = world.instance(&id).await.expect("it stays for a look");
            assert_ne!(phase_of(&now), Phase::Idle, "in stock with a conversation");
            (phase_of(&now) == Phase::Tainted).then_some(now)
        })
        .await;
        // Not for a moment either: the proof that would have put it in stock was never recorded.
        assert_eq!(judged.status.unwrap().turn, None);
        world.sim.heal("agents").await;
        ticks(&world, 2).await;
        let answer = world.claim("Tokyo Trip").await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert_eq!(
            phase_of(&world.instance(&id).await.unwrap()),
            Phase::Tainted,
            "what was judged once is not taken back"
        );
        let row = world.get("/api/pool/status").await.body["instances"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["id"] == id)
            .cloned();
        assert_eq!(row.unwrap()["status"], "tainted");
    }
    // One that gets a conversation while it stands in stock leaves the stock.
    let id = replenish_one(&world).await;
    let idle = world.wait_idle(1).await;
    assert_eq!(idle[0].spec.id, id);
    let bound = json!({"instances": {host(&idle[0]): {"bound": "a".repeat(32)}}});
    world.sim.set("agents", bound).await;
    until("out of stock", LONG, || async {
        (phase_of(&world.instance(&id).await.unwrap()) == Phase::Tainted).then_some(())
    })
    .await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 503);
    let ledger = world.sim.ledger().await;
    for (service, account) in ledger["instances"].as_object().unwrap() {
        assert_eq!(account["claimCalls"], 0, "{service}");
    }
    world.finish().await;
}

/// acceptance: B13
#[tokio::test(flavor = "multi_thread")]
async fn idle_surplus_stays_through_ten_resyncs() {
    let world = World::with_pool("surplus", json!({"minIdle": 4, "tickIntervalSeconds": 1})).await;
    let (before, services) = (
        ids(&world.list().await),
        world.sim.live_services().await.len(),
    );
    world.patch_pool(json!({"minIdle": 1})).await;
    let lists = world.sim.railway_calls("RwFleet").await;
    until("ten resyncs", LONG, || async {
        assert_eq!(ids(&world.in_phase(Phase::Idle).await), before);
        (world.sim.railway_calls("RwFleet").await > lists + 10).then_some(())
    })
    .await;
    assert_eq!(world.sim.live_services().await.len(), services);
    assert_eq!(world.sim.services_ever().await.len(), 4);
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    let pool = world.wait_ready().await;
    assert_eq!(pool.status.unwrap().idle, 4);
    world.finish().await;
}

/// acceptance: B24
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_creation_leaves_nothing_and_the_breaker_stops_it() {
    let world = World::start("failing").await;
    let fault = json!({"match": {}, "fault": {"kind": "fail_at", "at": "start"}});
    world.sim.fault("railway", fault).await;
    let breaker = json!({"failures": 2, "backoffSeconds": 600});
    world
        .create_pool(
            POOL,
            json!({"minIdle": 1, "tickIntervalSeconds": 1, "circuitBreaker": breaker}),
        )
        .await;
    let (_, reason, message) = until("the breaker opens", LONG, || async {
        world
            .pool_condition("Ready")
            .await
            .filter(|c| c.1 == "CreationsFailing")
    })
    .await;
    assert_eq!(reason, "CreationsFailing");
    assert!(
        message.contains("2 creations failed in a row"),
        "it says why: {message}"
    );
    assert_eq!(
        world.pool_condition("CircuitOpen").await.map(|c| c.0),
        Some("True".to_owned())
    );
    until("nothing is left", LONG, || async {
        let left = world.list().await.len() + world.sim.live_services().await.len();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(world.sim.services_ever().await.len(), 2);
    let state = world.sim.state("railway").await;
    assert_eq!(
        (&state["services"], &state["volumes"]),
        (&json!([]), &json!([]))
    );
    holds("nothing new is tried", Duration::from_secs(4), || async {
        world.sim.services_ever().await.len() == 2 && world.list().await.is_empty()
    })
    .await;
    world.finish().await;
}

/// An image that starts and then crashes never was in stock: it counts as a failed creation, or it would be paid for
/// again and again.
#[tokio::test(flavor = "multi_thread")]
async fn agents_that_crash_before_they_are_ready_open_the_breaker() {
    let world = World::start("crashing").await;
    let timings = json!({"timings": {"app_boot": 600}});
    world.sim.set("railway", timings).await;
    let fault = json!({"match": {}, "fault": {"kind": "crash_after", "seconds": 2}});
    world.sim.fault("railway", fault).await;
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "circuitBreaker": {"failures": 2, "backoffSeconds": 600}});
    world.create_pool(POOL, spec).await;
    until("the breaker opens", LONG, || async {
        let open = world.pool_condition("CircuitOpen").await?;
        (open.0 == "True").then_some(())
    })
    .await;
    let made = world.sim.services_ever().await.len();
    assert!(made <= 3, "{made} paid for before the breaker opened");
    holds("nothing new is tried", Duration::from_secs(3), || async {
        world.sim.services_ever().await.len() == made
    })
    .await;
    world.finish().await;
}

/// acceptance: B26
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_twelve_characters_and_names_fit_railway() {
    let prefix = "abcdefghijklmn";
    let spec = json!({"minIdle": 8, "namePrefix": prefix, "environment": "production"});
    let world = World::with_pool("names", spec).await;
    let all = world.list().await;
    assert_eq!(ids(&all).len(), 8, "unique");
    for instance in &all {
        let id = &instance.spec.id;
        let of_alphabet = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
        assert!(id.len() == 12 && id.bytes().all(of_alphabet), "{id}");
        let name = format!("{prefix}-prod-{id}");
        assert_eq!(name.len(), 32);
        assert_eq!(instance.spec.provider_name, name);
        let service = world.sim.service(&name).await.expect("under that name");
        assert_eq!(service["id"], json!(service_id(instance)));
    }
    assert_eq!(world.sim.live_services().await.len(), 8);
    world.finish().await;
}

/// acceptance: C04
#[tokio::test(flavor = "multi_thread")]
async fn the_difference_to_the_minimum_is_created_and_no_more() {
    let world = World::start("fill").await;
    world
        .sim
        .set("agents", json!({"defaults": {"boot": millis(2000)}}))
        .await;
    world
        .create_pool(POOL, json!({"minIdle": 2, "tickIntervalSeconds": 1}))
        .await;
    until("two are starting", LONG, || async {
        (world.sim.services_ever().await.len() == 2).then_some(())
    })
    .await;
    // Those that are starting count: three more make five.
    world.patch_pool(json!({"minIdle": 5})).await;
    until("five are starting", LONG, || async {
        let idle = world.in_phase(Phase::Idle).await.len();
        assert_eq!(idle, 0, "the two are still starting");
        (world.sim.services_ever().await.len() == 5).then_some(())
    })
    .await;
    let idle = world.wait_idle(5).await;
    ticks(&world, 2).await;
    assert_eq!(world.sim.services_ever().await.len(), 5);
    // One that goes is replaced by one.
    world.delete(&idle[0].spec.id).await;
    world.wait_gone(&idle[0].spec.id).await;
    let refilled = ids(&world.wait_idle(5).await);
    assert_eq!((&refilled - &ids(&idle)).len(), 1);
    assert_eq!(world.sim.services_ever().await.len(), 6);
    assert_eq!(world.sim.live_services().await.len(), 5);
    world.finish().await;
}

/// The value of a condition of an instance: status and reason.
pub fn condition(instance: &AgentInstance, kind: &str) -> Option<(String, String)> {
    let conditions = &instance.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone()))
}

/// The row of an instance in `GET /api/pool/status`.
pub async fn row(world: &World, id: &str) -> Option<Value> {
    let status = world.get("/api/pool/status").await.body;
    let rows = status["instances"].as_array()?;
    rows.iter().find(|row| row["id"] == id).cloned()
}

pub use loops::at;
