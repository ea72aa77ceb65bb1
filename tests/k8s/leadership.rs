//! Several controllers of one release: one leads, and whoever stops, dies or is paused does no harm.

use std::time::{Duration, Instant};

use agentpool::clock::Clock;
use agentpool::domain::instance::phase::Phase;
use agentpool::k8s::error::K8sError;
use agentpool::k8s::lease::{Candidate, Leadership};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;

use crate::railway::made_once;
use crate::support::operator::Operator;
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, SPEED, World};

const LEASE: &str = "agentpool-controller";

async fn leads(operator: &Operator) {
    until("it leads", LONG, || async {
        operator.log().contains("reconciling pools=").then_some(())
    })
    .await;
}

async fn waits(operator: &Operator) {
    until("it waits its turn", LONG, || async {
        operator.log().contains("not leading: ").then_some(())
    })
    .await;
}

async fn lease(world: &World) -> Lease {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    api.get(LEASE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_its_end_hands_over_at_once() {
    let mut world = World::bare("hand-over").await;
    // A term that this test would not outwait: only letting go hands over in time.
    let environment = world.environment(&[("AGENTPOOL_LEASE_SECONDS", "120")]);
    let mut first = Operator::start("controller", &environment);
    leads(&first).await;
    let second = Operator::start("controller", &environment);
    waits(&second).await;
    assert!(!second.log().contains("reconciling pools="));
    let scraped = reqwest::get(format!("{}/metrics", second.operations)).await;
    let scraped = scraped.unwrap().text().await.unwrap();
    assert!(scraped.contains("agentpool_leader 0"), "{scraped}");
    let before = lease(&world).await.spec.unwrap();
    let holder = before.holder_identity.unwrap();
    assert!(second.log().contains(&format!("{holder} leads")));
    assert_eq!(before.lease_duration_seconds, Some(120));

    let asked = Instant::now();
    assert_eq!(first.stop().code(), Some(0), "{}", first.log());
    assert!(asked.elapsed() < Duration::from_secs(5));
    leads(&second).await;
    assert!(asked.elapsed() < Duration::from_secs(60));
    let after = lease(&world).await.spec.unwrap();
    assert_ne!(after.holder_identity.unwrap(), holder);
    assert_eq!(after.lease_transitions, Some(1));
    let scraped = reqwest::get(format!("{}/metrics", second.operations)).await;
    let scraped = scraped.unwrap().text().await.unwrap();
    assert!(scraped.contains("agentpool_leader 1"), "{scraped}");
    drop(second);
    world.start_operator(&[]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_needs_no_lease() {
    let mut world = World::with_pool("api-alone", json!({"minIdle": 1})).await;
    let lone = Operator::start("api", &world.environment(&[]));
    world.operator().kill();
    let controller = world.operator.replace(lone);
    drop(controller);
    let answer = until("the lone API claims", LONG, || async {
        let answer = world.claim("Ada").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(answer.body["inviteUrl"].is_string());
    assert!(!world.operator().log().contains("leading"));
    world.start_operator(&[]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_after_its_term_and_nothing_is_made_twice() {
    let mut world = World::bare("killed-leader").await;
    let slow = json!({"timings": {"latency_mutation": 0.4 * SPEED}});
    world.sim.set("railway", slow).await;
    world.start_operator(&[("AGENTPOOL_LEASE_SECONDS", "3")]);
    leads(world.operator()).await;
    let environment = world.environment(&[("AGENTPOOL_LEASE_SECONDS", "3")]);
    let others = [
        Operator::start("controller", &environment),
        Operator::start("controller", &environment),
    ];
    for other in &others {
        waits(other).await;
    }
    let spec = json!({"minIdle": 6, "maxTotal": 12, "tickIntervalSeconds": 1});
    world.create_pool(POOL, spec).await;
    until("a domain is asked for", LONG, || async {
        (world.sim.railway_calls("RwDomainCreate").await > 0).then_some(())
    })
    .await;
    world.operator().kill();
    world.wait_idle(6).await;
    let led = others
        .iter()
        .filter(|o| o.log().contains("reconciling pools="));
    assert_eq!(led.count(), 1, "one of the two follows");
    assert_eq!(world.list().await.len(), 6);
    made_once(&world, 6).await;
    drop(others);
    world.start_operator(&[]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_paused_for_thirty_seconds_does_no_harm_when_it_wakes() {
    let mut world = World::bare("paused").await;
    let slow = json!({"timings": {"latency_mutation": 0.4 * SPEED}});
    world.sim.set("railway", slow).await;
    let environment = world.environment(&[("AGENTPOOL_LEASE_SECONDS", "3")]);
    let stale = Operator::start("controller", &environment);
    leads(&stale).await;
    world.start_operator(&[("AGENTPOOL_LEASE_SECONDS", "3")]);
    waits(world.operator()).await;
    let spec = json!({"minIdle": 8, "maxTotal": 16, "tickIntervalSeconds": 1});
    world.create_pool(POOL, spec).await;
    until("in the middle of the fill", LONG, || async {
        (world.sim.railway_calls("RwServiceCreate").await >= 2).then_some(())
    })
    .await;
    stale.pause();
    let paused = Instant::now();
    world.wait_idle(8).await;
    // The others go on: agents are claimed, replaced and destroyed behind the sleeper's back.
    for agent in ["Ada", "Bob"] {
        assert_eq!(world.claim(agent).await.status, 200);
    }
    let gone = world.in_phase(Phase::Idle).await.pop().unwrap();
    world.delete(gone.metadata.name.as_deref().unwrap()).await;
    world.wait_gone(&gone.spec.id).await;
    world.wait_idle(8).await;
    until("it slept for 30 s", LONG, || async {
        (paused.elapsed() >= Duration::from_secs(30)).then_some(())
    })
    .await;
    let before = world.list().await.len();
    stale.resume();
    until("it knows that it is no longer the one", LONG, || async {
        let log = stale.log();
        let lost = log.find("leadership is lost")?;
        log[lost..].contains("not leading: ").then_some(())
    })
    .await;
    holds("nothing came or went", Duration::from_secs(3), || async {
        world.list().await.len() == before
    })
    .await;
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 2);
    // 8 idle, 2 claimed, 1 deleted; each made once, with one deployment.
    assert_eq!(world.sim.services_ever().await.len(), 11);
    assert_eq!(world.sim.live_services().await.len(), 10);
    let ledger = world.sim.ledger().await;
    for deployments in ledger["deploymentsByService"].as_object().unwrap().values() {
        assert_eq!(deployments.as_array().map(Vec::len), Some(1), "{ledger}");
    }
    world.finish().await;
}

/// One more controller that leads, by a lease of its own in another namespace.
pub async fn another_leader(world: &World, elsewhere: &str) -> Operator {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let root = secrets.get("agentpool-root-key").await.unwrap();
    let copy = Secret {
        metadata: ObjectMeta {
            name: root.metadata.name,
            ..ObjectMeta::default()
        },
        data: root.data,
        ..Secret::default()
    };
    let others: Api<Secret> = Api::namespaced(world.client.clone(), elsewhere);
    others.create(&PostParams::default(), &copy).await.unwrap();
    let second = Operator::start(
        "controller",
        &world.environment(&[("AGENTPOOL_RELEASE_NAMESPACE", elsewhere)]),
    );
    leads(&second).await;
    second
}

/// Two leases, so two leaders for good: leadership only saves work, the fences are elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_fill_one_pool_without_a_duplicate() {
    let mut world = World::bare("two-leaders").await;
    let elsewhere = world.cluster.namespace("two-leaders-lease").await;
    world.start_operator(&[]);
    leads(world.operator()).await;
    let second = another_leader(&world, &elsewhere).await;
    let spec = json!({"minIdle": 10, "maxTotal": 12, "tickIntervalSeconds": 1});
    world.create_pool(POOL, spec).await;
    world.wait_idle(10).await;
    crate::lifecycle::ticks(&world, 3).await;
    assert_eq!(world.list().await.len(), 10);
    made_once(&world, 10).await;
    // Both claims and replacements while two lead.
    for agent in ["Ada", "Bob"] {
        assert_eq!(world.claim(agent).await.status, 200);
    }
    until("the limit is reached", LONG, || async {
        (world.list().await.len() == 12).then_some(())
    })
    .await;
    world.wait_idle(10).await;
    crate::lifecycle::ticks(&world, 3).await;
    assert_eq!(world.list().await.len(), 12);
    made_once(&world, 12).await;
    drop(second);
    world.finish().await;
}

/// A step whose calls were answered: on a busy machine some take longer than a part of a short term.
async fn step(candidate: &mut Candidate) -> bool {
    for _ in 0..50 {
        match candidate.step().await {
            Ok(led) => return led,
            Err(K8sError::Timeout { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("not one step of fifty was answered in time")
}

/// The write carries what it was judged on: of those who saw the same lease one wins, at its creation and at each term's
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn of_candidates_who_saw_the_same_lease_one_wins() {
    let world = World::bare("race").await;
    let clock = Clock::system();
    let term = Duration::from_secs(3);
    let mut all: Vec<_> = (0..8)
        .map(|i| {
            let leadership = Leadership::new(clock.clone());
            let api: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
            let name = format!("candidate-{i}");
            let candidate = Candidate::new(api, LEASE, &name, term, leadership.clone());
            (candidate, leadership)
        })
        .collect();
    for round in 0..3 {
        let steps = all.iter_mut().map(|(candidate, _)| step(candidate));
        let led = futures::future::join_all(steps).await;
        let led = led.into_iter().filter(|led| *led).count();
        assert_eq!(led, 1, "round {round}");
        let believe = all.iter().filter(|(_, l)| l.holds()).count();
        assert_eq!(believe, 1, "round {round}");
        // All but the leader look until its term is over; it is silent, as if it were dead.
        let others: Vec<_> = (0..8).filter(|i| !all[*i].1.holds()).collect();
        for i in &others {
            assert!(!step(&mut all[*i].0).await, "it is held");
        }
        until("the silent leader's term is over", LONG, || async {
            let lease = lease(&world).await.spec.unwrap();
            let held_for = jiff::Timestamp::now().duration_since(lease.renew_time.unwrap().0);
            (held_for.unsigned_abs() > term + Duration::from_millis(500)).then_some(())
        })
        .await;
        assert!(
            all.iter().all(|(_, l)| !l.holds()),
            "nobody leads meanwhile"
        );
        all.rotate_left(1);
    }
    world.finish().await;
}
