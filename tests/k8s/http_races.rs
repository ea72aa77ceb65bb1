//! Many at once: claims against claims, over one process and two, and claims against drains.

use std::collections::BTreeSet;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::http_calls::{bearer, call, claim_at, ids, service_id, text, wait_operator_ready};
use crate::support::operator::Operator;
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, World};

fn of_status(answers: &[Answer], status: u16) -> Vec<&Answer> {
    answers.iter().filter(|a| a.status == status).collect()
}

fn named(answers: &[&Answer]) -> BTreeSet<String> {
    answers
        .iter()
        .map(|a| text(&a.body, "instanceId"))
        .collect()
}

/// 30 claims on 10, spread over these processes: 10 distinct agents, 20 refusals, and not one call or conversation more.
async fn ten_of_thirty(world: &World, apis: &[&str]) {
    let idle = world.wait_idle(10).await;
    let claims = (0..30).map(|n| {
        let body = json!({"agentName": format!("Agent {n}"), "instructions": "Be kind."});
        claim_at(apis[n % apis.len()], body)
    });
    let answers = join_all(claims).await;

    let (good, none) = (of_status(&answers, 200), of_status(&answers, 503));
    let statuses: Vec<_> = answers.iter().map(|a| a.status).collect();
    assert_eq!((good.len(), none.len()), (10, 20), "{statuses:?}");
    assert!(none.iter().all(|a| a.body["code"] == "no_idle"));
    assert_eq!(
        named(&good),
        ids(&idle).into_iter().collect(),
        "ten distinct ones"
    );
    let conversations: BTreeSet<_> = good
        .iter()
        .map(|a| text(&a.body, "conversationId"))
        .collect();
    assert_eq!(conversations.len(), 10);

    let ledger = world.sim.ledger().await;
    let now = world.list().await;
    for answer in good {
        let id = text(&answer.body, "instanceId");
        let instance = now.iter().find(|i| i.spec.id == id).unwrap();
        let account = &ledger["instances"][service_id(instance)];
        assert_eq!(account["claimCalls"], 1, "{account}");
        assert_eq!(account["conversationsMade"], 1, "{account}");
        // The agent works for the one who was told of it, and for nobody else.
        let made = &account["conversations"][0];
        assert_eq!(made["id"], answer.body["conversationId"]);
        assert_eq!(made["name"], answer.body["agentName"]);
        let recorded = instance.spec.claim.as_ref().unwrap();
        assert_eq!(recorded.agent_name, text(&answer.body, "agentName"));
    }
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 10);
    assert_eq!(
        world.sim.services_ever().await.len(),
        10,
        "the pool was full all along"
    );
}

fn ten() -> Value {
    json!({"minIdle": 10, "maxTotal": 10})
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_claims_on_ten_agents() {
    let world = World::with_pool("race-one", ten()).await;
    let api = world.operator.as_ref().unwrap().api.clone();
    ten_of_thirty(&world, &[&api]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_claims_on_ten_agents_over_two_processes() {
    let world = World::with_pool("race-two", ten()).await;
    let second = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&second).await;
    let api = world.operator.as_ref().unwrap().api.clone();
    ten_of_thirty(&world, &[&api, &second.api]).await;
    for (operator, log) in [
        ("run", world.operator.as_ref().unwrap().log()),
        ("api", second.log()),
    ] {
        assert!(log.contains("outcome=Bound"), "{operator} served some");
    }
    world.finish().await;
}

/// Claims and drains at once, again and again: each agent goes to the one or the other. A claimed one is never deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_never_takes_what_was_claimed() {
    let world = World::with_pool("race-drain", json!({"minIdle": 6, "maxTotal": 60})).await;
    let second = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&second).await;
    let apis = [
        world.operator.as_ref().unwrap().api.clone(),
        second.api.clone(),
    ];
    let (mut claimed, mut drained) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..4 {
        let idle = world.wait_idle(6).await;
        for api in &apis {
            until("each process knows the stock", LONG, || async {
                let path = "/api/pool/counts";
                let counts = call(api, Method::GET, path, None, None).await;
                (counts.body["idle"] == 6).then_some(())
            })
            .await;
        }
        let claims = (0..6).map(|n| {
            let body =
                json!({"agentName": format!("Agent {round}.{n}"), "instructions": "Be kind."});
            claim_at(&apis[n % 2], body)
        });
        let drains = (0..4).map(|n| {
            let (path, key) = ("/api/pool/drain", bearer());
            let (api, body) = (apis[n % 2].clone(), json!({"count": 2}).to_string());
            async move { call(&api, Method::POST, path, Some(&key), Some(body)).await }
        });
        let (claims, drains) = tokio::join!(join_all(claims), join_all(drains));

        let good = of_status(&claims, 200);
        assert_eq!(
            good.len() + of_status(&claims, 503).len(),
            claims.len(),
            "{claims:?}"
        );
        let got = named(&good);
        assert_eq!(got.len(), good.len(), "no agent twice");
        let mut gone = BTreeSet::new();
        for drain in &drains {
            assert_eq!(
                (drain.status, &drain.body["failed"]),
                (200, &json!(0)),
                "{}",
                drain.text
            );
            let told = drain.body["drainedIds"].as_array().unwrap();
            assert_eq!(drain.body["drained"], told.len());
            gone.extend(told.iter().map(|id| id.as_str().unwrap().to_owned()));
        }
        assert!(got.is_disjoint(&gone), "claimed {got:?}, drained {gone:?}");
        let known: BTreeSet<_> = ids(&idle).into_iter().collect();
        assert!(got.union(&gone).all(|id| known.contains(id)));
        claimed.extend(got);
        drained.extend(gone);
    }
    assert!(!claimed.is_empty() && !drained.is_empty(), "both happened");
    for id in &drained {
        world.wait_gone(id).await;
    }
    let in_use = world.in_phase(Phase::Claimed).await;
    assert_eq!(ids(&in_use).into_iter().collect::<BTreeSet<_>>(), claimed);
    assert_no_bound_one_deleted(&world, &in_use).await;
    world.finish().await;
}

/// By the simulator's own books: no service that an agent was bound on is gone.
async fn assert_no_bound_one_deleted(world: &World, in_use: &[AgentInstance]) {
    let ledger = world.sim.ledger().await;
    let services = ledger["resources"].as_array().unwrap();
    for service in services.iter().filter(|r| r["kind"] == "service") {
        let id = service["id"].as_str().unwrap();
        let bound = ledger["instances"][id]["binds"].as_array();
        let bound = bound.is_some_and(|b| !b.is_empty());
        assert!(
            !bound || service["exists"] == true,
            "{service} was bound and is gone"
        );
    }
    for instance in in_use {
        let account = &ledger["instances"][service_id(instance)];
        assert_eq!(account["conversationsMade"], 1, "{account}");
    }
}
