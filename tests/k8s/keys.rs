//! Idempotency keys and join links that nobody joins twice: over callers, replicas, crashes and time.

mod deaths;

use std::collections::BTreeSet;
use std::time::Duration;

use agentpool::api::AgentClaim;
use agentpool::domain::instance::phase::Phase;
use futures::StreamExt;
use futures::future::join_all;
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event, watcher};
use reqwest::Client;
use serde_json::{Value, json};

use super::http_calls::{account, bearer, call, claim, fails, ids, text, wait_operator_ready};
use crate::support::operator::Operator;
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, World};

const DUPLICATE: &str = "Already provisioning for this conversation";

/// The AgentClaims of a world.
pub fn claims(world: &World) -> Api<AgentClaim> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

/// All of them, by the API server.
pub async fn claim_objects(world: &World) -> Vec<AgentClaim> {
    let list = claims(world).list(&ListParams::default()).await;
    list.unwrap().items
}

/// A claim with a key through the API at that address; `None`: the connection broke.
pub async fn try_keyed(api: &str, key: &str, body: &Value) -> Option<Answer> {
    let sent = Client::new()
        .post(format!("{api}/api/pool/claim"))
        .header("authorization", bearer())
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(body.to_string())
        .send()
        .await;
    let answer = sent.ok()?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.ok()?;
    Some(Answer {
        status,
        headers,
        body: serde_json::from_str(&text).unwrap(),
        text,
    })
}

pub async fn keyed(api: &str, key: &str, body: &Value) -> Answer {
    try_keyed(api, key, body).await.expect("an answer")
}

pub fn api_of(world: &World) -> String {
    world.operator.as_ref().unwrap().api.clone()
}

fn body(name: &str) -> Value {
    json!({"agentName": name, "instructions": "Be kind."})
}

fn link(word: &str) -> String {
    format!("https://dev.convos.org/v2?i=abcdefghijklmnopqrstuvwxyz{word}")
}

/// The API, with a key: the same answer as before, to the letter.
pub fn same(first: &Answer, again: &Answer) {
    assert_eq!((first.status, &first.body), (again.status, &again.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_one_agent_for_callers_at_once_and_later_over_two_replicas() {
    let world = World::with_pool("key-same", json!({"minIdle": 4})).await;
    let second = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&second).await;
    let apis = [api_of(&world), second.api.clone()];
    let ada = body("Ada");
    let calls = (0..12).map(|n| keyed(&apis[n % 2], "a-key", &ada));
    let answers = join_all(calls).await;
    let first = &answers[0];
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(text(&first.body, "gatewayToken").len(), 64);
    for answer in &answers {
        same(first, answer);
    }
    // Later, at each.
    for api in &apis {
        same(first, &keyed(api, "a-key", &ada).await);
    }
    let claimed = world.in_phase(Phase::Claimed).await;
    assert_eq!(ids(&claimed), [text(&first.body, "instanceId")]);
    assert_eq!(account(&world, &claimed[0]).await["conversationsMade"], 1);

    // Another key, or the same key at another pool, is another claim; the same key with another body is refused.
    let other = keyed(&apis[0], "another", &ada).await;
    assert_ne!(
        text(&other.body, "instanceId"),
        text(&first.body, "instanceId")
    );
    for changed in [
        json!({"agentName": "Bob", "instructions": "Be kind."}),
        json!({"agentName": "Ada", "instructions": "Be rude."}),
        json!({"agentName": "Ada", "instructions": "Be kind.", "joinUrl": link("x")}),
        json!({"agentName": "Ada", "instructions": "Be kind.", "metadata": {"a": "b"}}),
    ] {
        for api in &apis {
            let answer = keyed(api, "a-key", &changed).await;
            let words = "Idempotency-Key was used with another request";
            fails(&answer, 422, words, "key_reused");
        }
    }
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 2);

    // Neither the key nor a token is in the object, and its name tells neither.
    let secret = text(&first.body, "gatewayToken");
    for object in claim_objects(&world).await {
        let stored = serde_json::to_string(&object).unwrap();
        assert!(
            !stored.contains("a-key") && !stored.contains(&secret),
            "{stored}"
        );
    }
    world.finish().await;
}

/// Create, reserve, record, answer: four, and the last of them before the answer is out.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_with_a_key_is_four_writes_and_recorded_before_it_is_answered() {
    let world = World::with_pool("key-writes", json!({"minIdle": 1, "maxTotal": 1})).await;
    world.wait_ready().await;
    let idle = world.wait_idle(1).await.remove(0);
    let claimed = watched(claims(&world)).await;
    let bound = watched(world.instances()).await;
    let answer = keyed(&api_of(&world), "k", &body("Ada")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let object = claim_objects(&world).await.remove(0);
    let status = object.status.clone().unwrap();
    assert!(status.done, "before the answer");
    assert_eq!(status.instance.as_deref(), Some(&*idle.spec.id));
    assert_eq!(
        json!(status.conversation_id),
        answer.body["conversationId"],
        "{status:?}"
    );
    let of_claim = settle(claimed).await;
    assert_eq!(of_claim.len(), 2, "created and finished: {of_claim:?}");
    let after: BTreeSet<_> = settle(bound)
        .await
        .into_iter()
        .filter(|v| *v != idle.metadata.resource_version)
        .collect();
    let name = object.metadata.name.unwrap();
    let agent = world.instance(&idle.spec.id).await.unwrap();
    assert_eq!(agent.spec.claim.unwrap().reference, Some(name));
    // The agent's own controller may add its view of it afterwards; reserve and record are two.
    assert!((2..=3).contains(&after.len()), "{after:?}");
    world.finish().await;
}

type Seen = std::sync::Arc<std::sync::Mutex<(bool, Vec<Option<String>>)>>;

/// Every version of every object of a kind from now on.
async fn watched<K>(api: Api<K>) -> Seen
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let seen = Seen::default();
    let into = seen.clone();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()));
        while let Some(Ok(event)) = stream.next().await {
            let mut seen = into.lock().unwrap();
            match event {
                Event::InitDone => seen.0 = true,
                Event::Apply(o) => seen.1.push(o.meta().resource_version.clone()),
                _ => {}
            }
        }
    });
    until("the watch has begun", LONG, || async {
        seen.lock().unwrap().0.then_some(())
    })
    .await;
    seen
}

/// What a watch saw, once it has seen nothing new for a second.
async fn settle(seen: Seen) -> Vec<Option<String>> {
    let last = std::cell::Cell::new((0, std::time::Instant::now()));
    until("the watch has seen all", LONG, || async {
        let len = seen.lock().unwrap().1.len();
        if len != last.get().0 {
            last.set((len, std::time::Instant::now()));
        }
        (last.get().1.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    seen.lock().unwrap().1.clone()
}

/// What failed at an agent is the key's answer; that no agent was idle is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_an_agent_is_kept_and_an_empty_pool_is_not() {
    let world = World::with_pool(
        "key-failed",
        json!({"minIdle": 1, "tickIntervalSeconds": 1}),
    )
    .await;
    let knobs = json!({"defaults": {"attempts": 1}});
    world.sim.set("agents", knobs).await;
    let fault = json!({"when": {"first": 1}, "fault": {"kind": "create500Before"}});
    world.sim.fault("agents", fault).await;
    let api = api_of(&world);
    let failed = keyed(&api, "k", &body("Ada")).await;
    assert_eq!(
        (failed.status, text(&failed.body, "code")),
        (500, "provision_failed".into())
    );
    world.sim.heal("agents").await;
    world.wait_gone(&text(&failed.body, "instanceId")).await;
    world.wait_idle(1).await;
    same(&failed, &keyed(&api, "k", &body("Ada")).await);
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 0);

    world.patch_pool(json!({"minIdle": 0})).await;
    assert_eq!(world.claim("Bob").await.status, 200);
    let none = keyed(&api, "later", &body("Cleo")).await;
    assert_eq!(
        (none.status, text(&none.body, "code")),
        (503, "no_idle".into())
    );
    world.patch_pool(json!({"minIdle": 1})).await;
    world.wait_idle(1).await;
    let served = keyed(&api, "later", &body("Cleo")).await;
    assert_eq!(served.status, 200, "{}", served.text);
    world.finish().await;
}

/// acceptance: N11, N12
#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_joined_once_while_its_agent_lives() {
    let world =
        World::with_pool("link-once", json!({"minIdle": 4, "tickIntervalSeconds": 1})).await;
    let second = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&second).await;
    let apis = [api_of(&world), second.api.clone()];
    let join = json!({"joinUrl": link("a")});
    // Many at once over two replicas: one joins.
    let calls = (0..8).map(|n| super::http_calls::claim_at(&apis[n % 2], join.clone()));
    let answers = join_all(calls).await;
    let good: Vec<_> = answers.iter().filter(|a| a.status == 200).collect();
    let statuses: Vec<_> = answers.iter().map(|a| a.status).collect();
    assert_eq!(good.len(), 1, "{statuses:?}");
    for refused in answers.iter().filter(|a| a.status != 200) {
        fails(refused, 409, DUPLICATE, "duplicate_join");
    }
    let first = text(&good[0].body, "instanceId");
    let again = claim(&world, join.clone()).await;
    fails(&again, 409, DUPLICATE, "duplicate_join");
    assert_eq!(text(&again.body, "instanceId"), first);
    let agents = world.in_phase(Phase::Claimed).await;
    assert_eq!(ids(&agents), std::slice::from_ref(&first));

    // By policy it is a 503; another link, and the same name twice, are fine.
    world
        .patch_pool(json!({"claim": {"duplicateStatus": 503}}))
        .await;
    until("the policy is known", LONG, || async {
        let answer = claim(&world, join.clone()).await;
        (answer.status == 503).then(|| fails(&answer, 503, DUPLICATE, "duplicate_join"))
    })
    .await;
    let other = claim(&world, json!({"joinUrl": link("b"), "agentName": "Ada"})).await;
    assert_eq!(other.status, 200, "{}", other.text);
    let other = claim(&world, json!({"joinUrl": link("c"), "agentName": "Ada"})).await;
    assert_eq!(other.status, 200, "{}", other.text);

    // With a key: the refusal is the key's answer.
    let mut keyed_join = join.clone();
    keyed_join["agentName"] = json!("Eve");
    let refused = keyed(&apis[0], "join-key", &keyed_join).await;
    fails(&refused, 503, DUPLICATE, "duplicate_join");

    // The agent goes, and the link is free.
    let killed = world
        .call(
            reqwest::Method::DELETE,
            &format!("/api/pool/instances/{first}"),
            Value::Null,
        )
        .await;
    assert_eq!(killed.status, 200, "{}", killed.text);
    world.wait_idle(4).await;
    let next = claim(&world, join).await;
    assert_eq!(next.status, 200, "{}", next.text);
    assert_ne!(text(&next.body, "instanceId"), first);
    same(&refused, &keyed(&apis[1], "join-key", &keyed_join).await);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_held_by_a_key_s_claim_and_freed_where_nothing_came_of_it_and_not_at_all_by_policy()
 {
    let world = World::with_pool("link-key", json!({"minIdle": 3})).await;
    let api = api_of(&world);
    let join = json!({"joinUrl": link("a")});
    let first = keyed(&api, "k", &join).await;
    assert_eq!(first.status, 200, "{}", first.text);
    same(&first, &keyed(&api, "k", &join).await);
    let refused = claim(&world, join.clone()).await;
    fails(&refused, 409, DUPLICATE, "duplicate_join");
    assert_eq!(refused.body["instanceId"], first.body["instanceId"]);

    world
        .patch_pool(json!({"claim": {"dedupeJoinUrl": "InFlight"}}))
        .await;
    until("only claims in flight count", LONG, || async {
        let answer = claim(&world, join.clone()).await;
        (answer.status == 200).then_some(())
    })
    .await;
    world
        .patch_pool(
            json!({"minIdle": 0, "paused": ["Refill"], "claim": {"dedupeJoinUrl": "Active"}}),
        )
        .await;
    until("links are held again", LONG, || async {
        (claim(&world, join.clone()).await.status == 409).then_some(())
    })
    .await;
    // What was being made when the minimum fell comes up all the same; and a claim with a key asks for an agent for as
    // long as it stands, so refill is held.
    until("the stock is used up", LONG, || async {
        let none = world.claim("Bob").await.status == 503;
        let mut left = world.in_phase(Phase::Provisioning).await;
        left.extend(world.in_phase(Phase::Idle).await);
        (none && left.is_empty()).then_some(())
    })
    .await;
    // No agent: nothing is held, with a key or without.
    let free = json!({"joinUrl": link("c")});
    for _ in 0..2 {
        assert_eq!(claim(&world, free.clone()).await.status, 503);
        assert_eq!(keyed(&api, "k2", &free).await.status, 503);
    }
    world.patch_pool(json!({"minIdle": 1, "paused": []})).await;
    world.wait_idle(1).await;
    assert_eq!(keyed(&api, "k2", &free).await.status, 200);
    world.finish().await;
}

/// A key's time is over: it is forgotten, and its agent is none the wiser.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_forgotten_and_releases_nothing() {
    let mut world = World::bare("key-expired").await;
    world.start_operator(&[("AGENTPOOL_KEY_SECONDS", "3")]);
    world
        .create_pool(crate::support::world::POOL, json!({"minIdle": 2}))
        .await;
    world.wait_idle(2).await;
    let api = api_of(&world);
    let join = json!({"joinUrl": link("a")});
    let first = keyed(&api, "k", &join).await;
    assert_eq!(first.status, 200, "{}", first.text);
    until("the key is forgotten", LONG, || async {
        let left = claim_objects(&world).await;
        left.iter()
            .all(|c| !c.metadata.name.as_deref().unwrap().starts_with("k-"))
            .then_some(())
    })
    .await;
    // Its agent lives, and holds its link still.
    crate::lifecycle::ticks(&world, 2).await;
    let agents = world.in_phase(Phase::Claimed).await;
    assert_eq!(ids(&agents), [text(&first.body, "instanceId")]);
    let refused = claim(&world, join.clone()).await;
    fails(&refused, 409, DUPLICATE, "duplicate_join");
    assert_eq!(refused.body["instanceId"], first.body["instanceId"]);
    // With the agent the link is forgotten too.
    let id = text(&first.body, "instanceId");
    world.delete(&id).await;
    until("nothing is kept", LONG, || async {
        claim_objects(&world).await.is_empty().then_some(())
    })
    .await;
    world.finish().await;
}

/// The process dies while an agent is being told, and another replica answers the same key: one agent.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_same_key_is_served_by_another_replica_and_never_twice() {
    let mut world = World::bare("key-killed").await;
    world.start_operator(&[]);
    let claim_policy = json!({"deadlineSeconds": 5});
    world
        .create_pool(
            crate::support::world::POOL,
            json!({"minIdle": 2, "tickIntervalSeconds": 1, "claim": claim_policy}),
        )
        .await;
    world.wait_idle(2).await;
    let mut first = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&first).await;
    // Killed once before the call is answered, and once after the agent is bound.
    for (key, held) in [("early", true), ("late", false)] {
        let knobs = json!({"defaults": {"create": if held { 60_000 } else { 0 }}});
        world.sim.set("agents", knobs).await;
        world.wait_idle(2).await;
        let before = world.in_phase(Phase::Claimed).await.len();
        let (api, ada) = (first.api.clone(), body(key));
        let call = tokio::spawn(async move { try_keyed(&api, key, &ada).await.map(|a| a.status) });
        let at = if held {
            Phase::Claiming
        } else {
            Phase::Claimed
        };
        until("the claim is under way", LONG, || async {
            let reached = world.in_phase(at).await;
            reached
                .iter()
                .any(|i| i.spec.claim.as_ref().unwrap().agent_name == key)
                .then_some(())
        })
        .await;
        first.kill();
        let told = call.await.unwrap();
        world
            .sim
            .set("agents", json!({"defaults": {"create": 0}}))
            .await;
        // As a client does: the same key again while it is not known what came of it.
        let answer = until("the key is answered", LONG, || async {
            let answer = keyed(&api_of(&world), key, &body(key)).await;
            let open = answer.body["code"] == "still_running";
            assert!(
                open || answer.status == 200,
                "{} after {told:?}",
                answer.text
            );
            (!open).then_some(answer)
        })
        .await;
        let id = text(&answer.body, "instanceId");
        until("one agent is left for it", LONG, || async {
            let named: Vec<_> = world.list().await;
            let mine: Vec<_> = named
                .iter()
                .filter(|i| i.spec.claim.as_ref().is_some_and(|c| c.agent_name == key))
                .collect();
            (mine.len() == 1 && mine[0].spec.id == id).then_some(())
        })
        .await;
        assert_eq!(world.in_phase(Phase::Claimed).await.len(), before + 1);
        same(&answer, &keyed(&api_of(&world), key, &body(key)).await);
        first = Operator::start("api", &world.environment(&[]));
        wait_operator_ready(&first).await;
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_key_or_a_wait_is_told() {
    let world = super::http_calls::empty_pool("key-words", json!({})).await;
    let mut waits = body("Ada");
    waits["waitSeconds"] = json!(-1);
    let words = "waitSeconds must be a whole number from 0 to 600";
    fails(&claim(&world, waits).await, 400, words, "bad_request");
    let long = "x".repeat(300);
    let refused = keyed(&api_of(&world), &long, &body("Ada")).await;
    let words = "Idempotency-Key must have 1 to 255 printable ASCII characters";
    fails(&refused, 400, words, "bad_request");
    let path = "/api/pool/counts";
    let counts = call(&api_of(&world), reqwest::Method::GET, path, None, None).await;
    assert_eq!(counts.body["idle"], 0);
    assert!(claim_objects(&world).await.is_empty());
    world.finish().await;
}
