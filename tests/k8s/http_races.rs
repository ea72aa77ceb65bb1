//! Many at once: claims against claims, over one process and two, and claims against drains.

use std::collections::BTreeSet;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use futures::future::join_all;
use kube::ResourceExt;
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

const STOCK: usize = 50;
const CLAIMS: usize = 200;

/// 200 claims on 50, spread over these processes: 50 distinct agents, 150 refusals, and not one call or conversation
/// more.
async fn fifty_of_two_hundred(world: &World, apis: &[&str]) {
    let idle = world.wait_idle(STOCK).await;
    let claims = (0..CLAIMS).map(|n| {
        let body = json!({"agentName": format!("Agent {n}"), "instructions": "Be kind."});
        claim_at(apis[n % apis.len()], body)
    });
    let answers = join_all(claims).await;

    // A machine may be too busy for the agents themselves: one that failed its claim was replaced, and its claim had
    // another or was told so.
    let claimed = ids(&world.in_phase(Phase::Claimed).await);
    let failed = ids(&idle).into_iter().filter(|id| !claimed.contains(id));
    let failed = failed.count();
    assert!(failed <= 3, "{failed} of {STOCK} agents failed");
    let (good, none) = (of_status(&answers, 200), of_status(&answers, 503));
    let statuses: Vec<_> = answers.iter().map(|a| a.status).collect();
    assert!(
        good.len() + failed >= STOCK && none.len() + failed >= CLAIMS - STOCK,
        "{failed} failed: {statuses:?}"
    );
    assert!(none.iter().all(|a| a.body["code"] == "no_idle"));
    assert_eq!(named(&good).len(), good.len(), "distinct ones");
    assert_eq!(named(&good), claimed.into_iter().collect());
    let conversations: BTreeSet<_> = good
        .iter()
        .map(|a| text(&a.body, "conversationId"))
        .collect();
    assert_eq!(conversations.len(), good.len());

    let ledger = world.sim.ledger().await;
    let now = world.list().await;
    for answer in good {
        let id = text(&answer.body, "instanceId");
        let instance = now.iter().find(|i| i.spec.id == id).unwrap();
        let account = &ledger["instances"][service_id(instance)];
        assert_eq!(account["claimCalls"], 1, "{account}");
        // The agent works for the one who was told of it, and for nobody else. On a busy machine its wrapper may have
        // made more than one conversation: it gives an attempt half a second at this speed.
        let made = account["conversations"].as_array().unwrap();
        let told = made
            .iter()
            .find(|c| c["id"] == answer.body["conversationId"]);
        assert!(told.is_some(), "{account}");
        assert!(
            made.iter().all(|c| c["name"] == answer.body["agentName"]),
            "{account}"
        );
        let recorded = instance.spec.claim.as_ref().unwrap();
        assert_eq!(recorded.agent_name, text(&answer.body, "agentName"));
    }
    assert!(
        world.sim.services_ever().await.len() <= STOCK + failed,
        "the pool was full all along"
    );
}

fn full() -> Value {
    json!({"minIdle": STOCK, "maxTotal": STOCK})
}

/// acceptance: D15
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_claims_on_fifty_agents() {
    let world = World::with_pool("race-one", full()).await;
    let api = world.operator.as_ref().unwrap().api.clone();
    fifty_of_two_hundred(&world, &[&api]).await;
    world.finish().await;
}

/// acceptance: D15
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_claims_on_fifty_agents_over_three_processes() {
    let world = World::with_pool("race-three", full()).await;
    let more: Vec<_> = (0..2)
        .map(|_| Operator::start("api", &world.environment(&[])))
        .collect();
    for operator in &more {
        wait_operator_ready(operator).await;
    }
    let first = world.operator.as_ref().unwrap();
    let mut apis = vec![first.api.as_str()];
    apis.extend(more.iter().map(|o| o.api.as_str()));
    fifty_of_two_hundred(&world, &apis).await;
    for operator in more.iter().chain([first]) {
        assert!(operator.log().contains("outcome=Bound"), "each served some");
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
        // In every second round neither can have all, whoever comes first.
        let (claims, drains) = if round % 2 == 0 { (6, 4) } else { (4, 2) };
        let claims = (0..claims).map(|n| {
            let body =
                json!({"agentName": format!("Agent {round}.{n}"), "instructions": "Be kind."});
            claim_at(&apis[n % 2], body)
        });
        let drains = (0..drains).map(|n| {
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

/// The process that drains judged its agents before one of them was claimed elsewhere: that one's deletion fails, because
/// the object is not the one that was judged.
///
/// acceptance: N04
#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_while_a_drain_runs_is_not_drained() {
    let spec = json!({"minIdle": 0, "maxTotal": 20, "tickIntervalSeconds": 600});
    let world = World::with_pool("drain-claim", spec).await;
    until("the API knows the pool", LONG, || async {
        let counts = world.get("/api/pool/counts").await;
        (counts.status == 200).then_some(())
    })
    .await;
    for round in 0..10 {
        let made = world
            .call(Method::POST, "/api/pool/replenish", json!({"count": 12}))
            .await;
        assert_eq!(made.body["created"], 12, "{}", made.text);
        let mut idle = world.wait_idle(12).await;
        world.wait_count("idle", 12).await;
        // A drain takes the oldest first: of the last one it thinks last.
        idle.sort_by_key(|i| (i.creation_timestamp().unwrap().0, i.spec.id.clone()));
        let (first, last) = (idle[0].name_any(), &idle[11]);
        let drain = world.call(Method::POST, "/api/pool/drain", json!({"count": 12}));
        let claim = async {
            let api = world.instances();
            until("the drain has begun", LONG, || async {
                let now = api.get_opt(&first).await.unwrap();
                now.is_none_or(|i| i.metadata.deletion_timestamp.is_some())
                    .then_some(())
            })
            .await;
            let now = jiff::Timestamp::now();
            let claim = json!({"id": format!("k{round}"), "holder": "test", "agentName": "Ada",
                "deadline": now, "requestedAt": now});
            let version = last.metadata.resource_version.clone();
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"claim": claim}});
            let parameters = kube::api::PatchParams::default();
            let patch = kube::api::Patch::Merge(patch);
            api.patch(&last.name_any(), &parameters, &patch)
                .await
                .is_ok()
        };
        let (drained, won) = tokio::join!(drain, claim);
        assert_eq!(
            (drained.status, &drained.body["failed"]),
            (200, &json!(0)),
            "{}",
            drained.text
        );
        if !won {
            // The drain was faster: the claim's own precondition failed. Once more.
            assert_eq!(drained.body["drained"], 12, "{}", drained.text);
            until("all are gone", LONG, || async {
                world.list().await.is_empty().then_some(())
            })
            .await;
            continue;
        }
        assert_eq!(drained.body["drained"], 11, "{}", drained.text);
        let told = drained.body["drainedIds"].as_array().unwrap();
        assert!(!told.contains(&json!(last.spec.id)), "{}", drained.text);
        let kept = world.instance(&last.spec.id).await.expect("the claim wins");
        assert!(kept.metadata.deletion_timestamp.is_none());
        assert_eq!(kept.spec.claim.unwrap().id, format!("k{round}"));
        world.finish().await;
        return;
    }
    panic!("no claim was ever in time");
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
