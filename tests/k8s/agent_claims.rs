//! Claims made with kubectl: apply, wait, delete; waiting as long as it takes; crashes of who serves them.

use agentpool::api::AgentClaim;
use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use super::http_calls::{account, empty_pool, ids, wait_operator_ready};
use super::keys::claims;
use crate::support::operator::Operator;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World, merge};

/// Applies a claim as a user does.
fn apply(world: &World, name: &str, spec: Value) {
    let mut full =
        json!({"poolRef": {"name": POOL}, "agentName": name, "instructions": "Be kind."});
    merge(&mut full, &spec);
    let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentClaim", "metadata": {"name": name}, "spec": full});
    let file = format!(
        "{}/claim-{}-{name}.json",
        env!("CARGO_TARGET_TMPDIR"),
        &*world.namespace
    );
    std::fs::write(&file, object.to_string()).unwrap();
    world.kubectl(&["apply", "-f", &file]);
    std::fs::remove_file(&file).unwrap();
}

fn wait_bound(world: &World, name: &str) {
    let object = format!("agentclaim/{name}");
    world.kubectl(&["wait", "--for=condition=Bound", "--timeout=60s", &object]);
}

/// Waits until a claim says that.
async fn says(world: &World, name: &str, phase: &str, reason: &str) -> AgentClaim {
    let what = format!("{name} is {phase}, {reason}");
    until(&what, LONG, || async {
        let claim = claims(world).get(name).await.ok()?;
        let status = claim.status.clone()?;
        let bound = status.conditions.iter().find(|c| c.type_ == "Bound")?;
        let told = (status.phase.as_deref(), bound.reason.as_str());
        (told == (Some(phase), reason)).then_some(claim)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_waits_reads_and_deletes_and_the_agent_goes_with_the_claim() {
    let world = World::with_pool("ac-life", json!({"minIdle": 2})).await;
    let link = "https://dev.convos.org/v2?i=abcdefghijklmnopqrstuvwxyz";
    apply(&world, "ada", json!({}));
    apply(
        &world,
        "eve",
        json!({"joinUrl": link, "metadata": {"a": "b"}}),
    );
    wait_bound(&world, "ada");
    wait_bound(&world, "eve");
    let (ada, eve) = (
        claims(&world).get("ada").await.unwrap(),
        claims(&world).get("eve").await.unwrap(),
    );
    let status = ada.status.clone().unwrap();
    let id = status.instance.clone().unwrap();
    let agent = world.instance(&id).await.unwrap();
    assert_eq!(
        agent.spec.claim.clone().unwrap().reference.as_deref(),
        Some("ada")
    );
    let bound = agent.status.clone().unwrap().claim.unwrap();
    assert_eq!(status.conversation_id, bound.conversation_id);
    assert_eq!(status.invite_url, bound.invite_url);
    assert_eq!(
        (status.phase.as_deref(), status.done, status.joined),
        (Some("Bound"), true, false)
    );
    assert_eq!(account(&world, &agent).await["conversationsMade"], 1);
    let joined = eve.status.clone().unwrap();
    assert!(
        joined.joined && joined.invite_url.as_deref() == Some(link),
        "{joined:?}"
    );
    let shown = world.kubectl(&["get", "ac"]);
    assert!(shown.contains("Bound") && shown.contains(&id), "{shown}");

    // The same link over HTTP is refused, and a second manifest with it fails and says why.
    let refused = super::http_calls::claim(&world, json!({"joinUrl": link})).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    apply(&world, "twin", json!({"joinUrl": link}));
    says(&world, "twin", "Failed", "DuplicateJoin").await;
    world.kubectl(&["delete", "ac", "twin", "--timeout=60s"]);

    // What is deleted is released; what is protected is not, until it may be.
    world.kubectl(&["label", "ai", &id, "pool.convos.org/protected=true"]);
    world.kubectl(&["delete", "ac", "ada", "--wait=false"]);
    world.kubectl(&["delete", "ac", "eve", "--timeout=60s"]);
    world.wait_gone(&joined.instance.unwrap()).await;
    assert!(world.instance(&id).await.is_some(), "protected");
    assert!(claims(&world).get_opt("ada").await.unwrap().is_some());
    world.kubectl(&["label", "ai", &id, "pool.convos.org/protected-"]);
    world.kubectl(&["delete", "ac", "ada", "--timeout=90s"]);
    world.wait_gone(&id).await;
    world.finish().await;
}

/// Its object was lost (a restore without AgentClaims): its agent is still its own, and no second one is bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_applied_again_finds_its_agent() {
    let world = World::with_pool("ac-again", json!({"minIdle": 2})).await;
    apply(&world, "ada", json!({}));
    wait_bound(&world, "ada");
    let first = claims(&world).get("ada").await.unwrap().status.unwrap();
    let unheld = r#"{"metadata":{"finalizers":null}}"#;
    world.kubectl(&["patch", "ac", "ada", "--type=merge", "-p", unheld]);
    world.kubectl(&["delete", "ac", "ada", "--timeout=60s"]);
    apply(&world, "ada", json!({}));
    wait_bound(&world, "ada");
    let again = claims(&world).get("ada").await.unwrap().status.unwrap();
    assert_eq!(again.instance, first.instance);
    assert_eq!(again.conversation_id, first.conversation_id);
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 1);
    world.finish().await;
}

/// trap: queued claims × scale to zero
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_its_pool_for_the_pause_to_end_and_for_an_agent() {
    let mut world = World::bare("ac-waits").await;
    world.start_operator(&[]);
    apply(&world, "ada", json!({}));
    let waiting = says(&world, "ada", "Waiting", "PoolNotFound").await;
    let words = waiting.status.unwrap().conditions[0].message.clone();
    assert!(words.contains("create it"), "{words}");
    let spec = json!({"minIdle": 0, "tickIntervalSeconds": 1, "paused": ["Claims"]});
    world.create_pool(POOL, spec).await;
    says(&world, "ada", "Waiting", "Paused").await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    says(&world, "ada", "Waiting", "NoIdle").await;
    assert!(world.list().await.is_empty());
    world.patch_pool(json!({"paused": []})).await;
    wait_bound(&world, "ada");
    assert_eq!(
        world.sim.services_ever().await.len(),
        1,
        "built for it alone"
    );

    // One that does not want to wait for ever, and one that is deleted while it waits.
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    apply(&world, "bob", json!({"waitSeconds": 1}));
    says(&world, "bob", "Failed", "NoIdle").await;
    apply(&world, "cleo", json!({}));
    says(&world, "cleo", "Waiting", "NoIdle").await;
    world.kubectl(&["delete", "ac", "cleo", "--timeout=60s"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_says_what_to_do_and_takes_no_agent() {
    let world = World::with_pool("ac-invalid", json!({"minIdle": 1})).await;
    apply(&world, "long", json!({"instructions": "é".repeat(60_000)}));
    apply(&world, "name", json!({"agentName": "-x"}));
    apply(
        &world,
        "link",
        json!({"joinUrl": "https://popup.convos.org/v2?i=x"}),
    );
    for name in ["long", "name", "link"] {
        let claim = says(&world, name, "Failed", "InvalidSpec").await;
        let failure = claim.status.unwrap().failure.unwrap();
        assert_eq!(failure.code, "bad_request");
        assert!(
            failure.message.contains("delete this AgentClaim"),
            "{failure:?}"
        );
    }
    assert_eq!(world.in_phase(Phase::Idle).await.len(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_manifest_goes_and_its_agent_with_it() {
    let world = World::with_pool("ac-ttl", json!({"minIdle": 1})).await;
    apply(&world, "ada", json!({"ttlSecondsAfterFinished": 2}));
    let id = until("it has an agent", LONG, || async {
        claims(&world)
            .get_opt("ada")
            .await
            .unwrap()?
            .status?
            .instance
    })
    .await;
    until("the claim is gone", LONG, || async {
        claims(&world)
            .get_opt("ada")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    world.wait_gone(&id).await;
    world.finish().await;
}

/// Two replicas serve them, and the one that dies is followed by the other: one agent for each.
#[tokio::test(flavor = "multi_thread")]
async fn another_replica_goes_on_with_what_a_killed_one_left() {
    let spec = json!({"tickIntervalSeconds": 1, "claim": {"deadlineSeconds": 5}});
    let mut world = empty_pool("ac-killed", spec).await;
    // The only one that serves claims is to die: controllers alone remain, then another comes.
    let knobs = json!({"defaults": {"create": 60_000}});
    world.sim.set("agents", knobs).await;
    apply(&world, "ada", json!({}));
    until("an agent is reserved for it", LONG, || async {
        let claiming = world.in_phase(Phase::Claiming).await;
        (!claiming.is_empty()).then_some(())
    })
    .await;
    world.operator().kill();
    world
        .sim
        .set("agents", json!({"defaults": {"create": 0}}))
        .await;
    world.start_operator(&[]);
    let second = Operator::start("api", &world.environment(&[]));
    wait_operator_ready(&second).await;
    wait_bound(&world, "ada");
    let id = claims(&world)
        .get("ada")
        .await
        .unwrap()
        .status
        .unwrap()
        .instance
        .unwrap();
    until("only its own agent names it", LONG, || async {
        let all = world.list().await;
        let named: Vec<_> = all.into_iter().filter(|i| i.spec.claim.is_some()).collect();
        (ids(&named) == std::slice::from_ref(&id)).then_some(())
    })
    .await;
    world.finish().await;
}
