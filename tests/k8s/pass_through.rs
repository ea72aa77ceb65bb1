//! Fields of a claim that the product does not know: a pool that names them hands them to its agents.

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::http_calls::{claim, fails, text, wait_operator_ready};
use crate::keys::{api_of, claim_objects, keyed, same, try_keyed};
use crate::lifecycle::host;
use crate::support::operator::Operator;
use crate::support::proxy::{Proxy, Stop};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

fn pool(minimum: i64, more: Value) -> Value {
    let mut claims = json!({"passThroughFields": ["theme", "ttl", "metadata"]});
    crate::support::world::merge(&mut claims, &more);
    json!({"minIdle": minimum, "tickIntervalSeconds": 1, "claim": claims})
}

/// A claim as a caller of tomorrow sends it.
fn body(agent: &str) -> Value {
    json!({"agentName": agent, "instructions": "Be kind.", "theme": {"dark": true, "hues": [1, 2.5, "x"]}, "ttl": 60,
        "metadata": {"team": "a"}, "unlisted": "stays here"})
}

/// The bodies of the claim calls that agents saw.
async fn told(world: &World, path: &str) -> Vec<Value> {
    let calls = world.sim.calls("agents").await.into_iter();
    calls
        .filter(|c| c["path"] == path)
        .map(|c| c["body"].clone())
        .collect()
}

fn has_them(told: &Value) {
    let given = body("");
    for field in ["theme", "ttl", "metadata"] {
        assert_eq!(told[field], given[field], "{field}: {told}");
    }
    assert_eq!(told["unlisted"], Value::Null, "{told}");
}

/// Both dialects, and both ways to bind.
///
/// acceptance: M03
#[tokio::test(flavor = "multi_thread")]
async fn fields_that_the_pool_names_reach_the_agent_as_they_were_given() {
    for (dialect, paths) in [
        ("pool-server", ["/pool/provision", "/pool/provision"]),
        ("gateway", ["/convos/conversation", "/convos/join"]),
    ] {
        let world = World::start(&format!("pass-{dialect}")).await;
        world
            .sim
            .set("agents", json!({"defaultDialect": dialect}))
            .await;
        world.create_pool(POOL, pool(2, json!({}))).await;
        world.wait_idle(2).await;
        let mut joins = body("Bob");
        joins["joinUrl"] = json!("https://dev.convos.org/v2?i=abcdefghijklmnopqrstuvwxyz");
        for (sent, path) in [body("Ada"), joins].into_iter().zip(paths) {
            let answer = claim(&world, sent.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let seen = told(&world, path).await.pop().unwrap();
            has_them(&seen);
            assert_eq!(seen["instructions"], "Be kind.");
        }
        // Nobody's elsewhere: neither in an object nor in a listing.
        let stored = world.kubectl(&["get", "ai,ac,ap", "-o", "json"]);
        assert!(!stored.contains("stays here") && !stored.contains("hues"));

        // The pool stops naming them: nothing is handed on, and nobody is refused for them.
        world
            .patch_pool(json!({"claim": {"passThroughFields": []}}))
            .await;
        world.wait_idle(2).await;
        let plain = until("a claim without them", LONG, || async {
            let answer = claim(&world, body("Cyd")).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let seen = told(&world, paths[0]).await.pop().unwrap();
            (seen["theme"] == Value::Null).then_some(seen)
        })
        .await;
        assert_eq!(plain["ttl"], Value::Null, "{plain}");
        let large = json!({"agentName": "Dot", "instructions": "i", "theme": "x".repeat(20_000)});
        assert_eq!(claim(&world, large.clone()).await.status, 200);
        world
            .patch_pool(json!({"claim": {"passThroughFields": ["theme"]}}))
            .await;
        until("too much is refused", LONG, || async {
            let answer = claim(&world, large.clone()).await;
            let words = "theme must have at most 16384 bytes together";
            (answer.status == 400).then(|| fails(&answer, 400, words, "bad_request"))
        })
        .await;
        world.finish().await;
    }
}

/// The first agent fails: the second is told the same. The same key with the same fields is the same claim.
///
/// acceptance: M03
#[tokio::test(flavor = "multi_thread")]
async fn every_agent_that_a_claim_tries_is_told_them_and_a_key_covers_them() {
    let world = World::with_pool("pass-again", pool(2, json!({}))).await;
    // One attempt of the wrapper, and the first one fails.
    let once = json!({"defaults": {"attempts": 1}});
    world.sim.set("agents", once).await;
    let rule = json!({"count": 1, "fault": {"kind": "create500Before"}});
    world.sim.fault("agents", rule).await;
    let first = keyed(&api_of(&world), "k", &body("Ada")).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let seen = told(&world, "/pool/provision").await;
    assert_eq!(seen.len(), 2, "one fails, one serves: {seen:#?}");
    seen.iter().for_each(has_them);

    same(&first, &keyed(&api_of(&world), "k", &body("Ada")).await);
    let mut other = body("Ada");
    other["theme"]["dark"] = json!(false);
    let refused = keyed(&api_of(&world), "k", &other).await;
    fails(
        &refused,
        422,
        "Idempotency-Key was used with another request",
        "key_reused",
    );
    // What is handed to nobody makes no other request of it.
    let mut unlisted = body("Ada");
    unlisted["unlisted"] = json!("changed");
    same(&first, &keyed(&api_of(&world), "k", &unlisted).await);
    assert_eq!(told(&world, "/pool/provision").await.len(), 2);
    world.finish().await;
}

/// The replica that is asked first dies with the key taken and no agent reserved; whoever is asked then tells the agent.
///
/// acceptance: M03
#[tokio::test(flavor = "multi_thread")]
async fn they_survive_the_process_that_was_asked_first() {
    let mut world = World::bare("pass-death").await;
    world.start_operator(&[]);
    world
        .create_pool(POOL, pool(2, json!({"deadlineSeconds": 5})))
        .await;
    world.wait_idle(2).await;
    let proxy = Proxy::start(world.client.clone()).await;
    let through = [("KUBECONFIG", proxy.kubeconfig())];
    let mut first = Operator::start("api", &world.environment(&through));
    wait_operator_ready(&first).await;
    proxy.stop_at(Stop {
        method: "PATCH",
        resource: "agentinstances",
        status: false,
        applied: false,
    });
    let (api, sent) = (first.api.clone(), body("Ada"));
    let call = tokio::spawn(async move { try_keyed(&api, "k", &sent).await.is_some() });
    proxy.reached().await;
    first.kill();
    assert!(!call.await.unwrap(), "nobody was told");
    assert_eq!(claim_objects(&world).await.len(), 1, "the key is taken");
    assert!(told(&world, "/pool/provision").await.is_empty());

    let mut patient = body("Ada");
    patient["waitSeconds"] = json!(120);
    let answer = keyed(&api_of(&world), "k", &patient).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let seen = told(&world, "/pool/provision").await;
    assert_eq!(seen.len(), 1, "{seen:#?}");
    has_them(&seen[0]);
    let claimed = world.in_phase(Phase::Claimed).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(text(&answer.body, "instanceId"), claimed[0].spec.id);
    assert!(!host(&claimed[0]).is_empty());
    world.finish().await;
}
