//! Agents that call their pool: by id and token, from outside, answered at once whatever else goes on.

use std::time::{Duration, Instant};

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use reqwest::Method;
use serde_json::{Value, json};

use crate::door::open_world;
use crate::http_calls::{account, call, fails, host, service_id, text, wait_operator_ready};
use crate::lifecycle::{condition, ticks};
use crate::pending::{fault, of_kind, wait_phase};
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, World};

/// What an agent's calls were answered with, by path.
async fn answers(world: &World, of: &AgentInstance, path: &str) -> Vec<Value> {
    let callbacks = account(world, of).await["callbacks"].clone();
    let callbacks = callbacks.as_array().cloned().unwrap_or_default();
    let about = callbacks.into_iter().filter(|c| c["path"] == path);
    about.map(|c| c["status"].clone()).collect()
}

/// The agent's token, as who has the key may know it.
async fn token_of(world: &World, id: &str) -> String {
    let status = world.get("/api/pool/status?include=secrets").await.body;
    let rows = status["instances"].as_array().unwrap();
    let row = rows.iter().find(|r| r["id"] == id).unwrap();
    text(row, "gatewayToken")
}

/// A callback as a runtime makes it: no header, the pair in the body.
async fn call_back(api: &str, what: &str, id: &str, token: &str) -> Answer {
    let body = json!({"instanceId": id, "gatewayToken": token});
    let path = format!("/api/pool/{what}");
    call(api, Method::POST, &path, None, Some(body.to_string())).await
}

async fn claimed(world: &World, count: usize) -> Vec<AgentInstance> {
    let mut all = vec![];
    for n in 0..count {
        let answer = world.claim(&format!("Agent {n}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = text(&answer.body, "instanceId");
        all.push(wait_phase(world, &id, Phase::Claimed).await);
    }
    all
}

const DESTRUCT: &str = "/api/pool/self-destruct";

/// Told twice it goes once; who could not tell, or may not, is Crashed and kept.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_itself_is_removed_and_never_crashed() {
    let spec = of_kind("openclaw", json!({"minIdle": 5, "maxTotal": 12}));
    let (mut world, _door) = open_world("self-destruct", spec).await;
    let all = claimed(&world, 5).await;
    let protected = &all[4];
    let label = "pool.convos.org/protected=true";
    world.kubectl(&["label", "agentinstance", &protected.name_any(), label]);
    let how = [
        json!({}),
        json!({"twice": true}),
        json!({"lost": true}),
        json!({"wrongToken": true}),
        json!({}),
    ];
    for (instance, mut how) in all.iter().zip(how) {
        how["kind"] = json!("selfDestruct");
        fault(&world, instance, how).await;
    }
    for instance in &all[..2] {
        until("it is gone, and was never crashed", LONG, || async {
            let now = world.instance(&instance.spec.id).await;
            if let Some(now) = &now {
                assert!(matches!(phase_of(now), Phase::Claimed | Phase::Terminating));
            }
            now.is_none().then_some(())
        })
        .await;
    }
    for (instance, answered) in all[2..].iter().zip([vec![], vec![403], vec![200]]) {
        let now = wait_phase(&world, &instance.spec.id, Phase::Crashed).await;
        assert_eq!(condition(&now, "Ready").unwrap().1, "Stopped");
        assert_eq!(answers(&world, instance, DESTRUCT).await, answered);
    }
    assert_eq!(answers(&world, &all[0], DESTRUCT).await, [200]);
    assert_eq!(answers(&world, &all[1], DESTRUCT).await, [200, 200]);
    ticks(&world, 3).await;
    let left = world.sim.live_services().await;
    let lives = |i: &AgentInstance| left.iter().any(|s| s["id"] == service_id(i));
    assert_eq!(
        all.iter().map(lives).collect::<Vec<_>>(),
        [false, false, true, true, true]
    );
    let token = token_of(&world, &protected.spec.id).await;
    let log = world.operator().log();
    assert!(log.contains("self-destruct") && !log.contains(&token));
    world.finish().await;
}

/// Also after the root key was rotated, by whom it is asked and who is not meant.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_known_by_its_pair_and_by_the_key_before_the_last() {
    let spec = of_kind("hermes", json!({"minIdle": 2, "maxTotal": 4}));
    let (mut world, door) = open_world("pair", spec).await;
    let idle = world.wait_idle(2).await;
    let (id, other) = (idle[0].spec.id.clone(), idle[1].spec.id.clone());
    let token = token_of(&world, &id).await;
    let info = async |token: &str, id: &str| call_back(&door.url, "self-info", id, token).await;
    let told = info(&token, &id).await;
    let image = "ghcr.io/xmtplabs/convos-runtime-hermes:0.3.4";
    let expected = json!({"ok": true, "instanceId": id, "runtimeVersion": "0.3.4",
        "runtimeImage": image, "latestImage": image});
    assert_eq!((told.status, &told.body), (200, &expected), "{}", told.text);
    let newer = "ghcr.io/xmtplabs/convos-runtime-hermes:0.4.0";
    let image = json!({"provider": {"railway": {"source": {"image": {"reference": newer}}}}});
    world.patch_pool(image).await;
    until("it is told of the newer image", LONG, || async {
        (info(&token, &id).await.body["latestImage"] == newer).then_some(())
    })
    .await;

    let refused = "Invalid instance ID or token";
    for what in ["self-destruct", "pending-acceptance/fail", "self-info"] {
        for (id, token) in [
            (&other, &token),
            (&id, &"0".repeat(64)),
            (&"x".into(), &token),
        ] {
            let answer = call_back(&door.url, what, id, token).await;
            fails(&answer, 403, refused, "unauthorized");
        }
        let body = json!({"instanceId": id}).to_string();
        let path = format!("/api/pool/{what}");
        let answer = call(&door.url, Method::POST, &path, None, Some(body)).await;
        fails(
            &answer,
            400,
            "instanceId and gatewayToken are required",
            "bad_request",
        );
    }

    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let root = secrets.get("agentpool-root-key").await.unwrap();
    let current = root.data.unwrap()["current"].clone();
    let rotated = json!({"data": {"previous": current}, "stringData": {"current": "f".repeat(32)}});
    secrets
        .patch(
            "agentpool-root-key",
            &PatchParams::default(),
            &Patch::Merge(rotated),
        )
        .await
        .unwrap();
    world.operator().stop();
    door.start_operator(&mut world);
    until("it is known by its old token", LONG, || async {
        (info(&token, &id).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(token_of(&world, &id).await, token);
    let answer = call_back(&door.url, "self-destruct", &id, &token).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"ok": true})));
    world.wait_gone(&id).await;
    let answer = call_back(&door.url, "self-destruct", &id, &token).await;
    fails(&answer, 403, refused, "unauthorized");
    assert!(world.instance(&other).await.is_some(), "nobody else's end");
    world.finish().await;
}

/// A runtime asks for an attestation while its claim call is open. A pool that lets it wait fails every claim; ours
/// answers at once, and where the way to it swallows the call, claims end all the same.
#[tokio::test(flavor = "multi_thread")]
async fn claims_end_whether_the_attestation_is_answered_or_swallowed() {
    let spec = of_kind("openclaw", json!({"minIdle": 3, "maxTotal": 12}));
    let (world, _door) = open_world("attest", spec).await;
    let agent = claimed(&world, 1).await.remove(0);
    let attest = answers(&world, &agent, "/api/pool/attest").await;
    assert_eq!(attest, [503], "asked while its claim was open");
    world.wait_idle(3).await;

    let blackhole = json!({"fault": {"kind": "attestBlackhole"}});
    world.sim.fault("agents", blackhole).await;
    let begun = Instant::now();
    let answer = world.claim("Ada").await;
    fails_as_provision(&answer);
    assert!(begun.elapsed() < Duration::from_secs(150));
    let link = "https://dev.convos.org/v2?i=abc";
    let body = json!({"agentName": "Bea", "instructions": "Be kind.", "joinUrl": link});
    until("a join is answered, only later", LONG, || async {
        let joined = world
            .call(Method::POST, "/api/pool/claim", body.clone())
            .await;
        // While what failed before is being replaced there may be none.
        assert!(matches!(joined.status, 200 | 503), "{}", joined.text);
        (joined.status == 200).then_some(())
    })
    .await;
    world.sim.heal("agents").await;
    world.wait_idle(3).await;
    assert!(world.in_phase(Phase::Claiming).await.is_empty());
    assert_eq!(world.claim("Cid").await.status, 200);
    // Each was called once; what was made in vain went with its agent.
    let live = world.sim.live_services().await;
    let ledger = world.sim.ledger().await;
    let with_conversation = live.iter().filter(|s| {
        let account = &ledger["instances"][text(s, "id")];
        let made = account["conversations"].as_array();
        made.is_some_and(|made| !made.is_empty())
    });
    assert_eq!(with_conversation.count(), 2, "the first and the last");
    world.finish().await;
}

fn fails_as_provision(answer: &Answer) {
    let told = (answer.status, &answer.body["code"]);
    assert_eq!(told, (500, &json!("provision_failed")), "{}", answer.text);
}

/// What this version does not do, it says; and no pool without a public address tells its agents of any.
#[tokio::test(flavor = "multi_thread")]
async fn agents_call_nobody_unless_there_is_a_public_address() {
    let spec = of_kind("openclaw", json!({"minIdle": 1, "maxTotal": 4}));
    let (world, door) = open_world("public", spec.clone()).await;
    let instance = world.wait_idle(1).await.remove(0);
    let variables = async |world: &World, i: &AgentInstance| {
        let state = world.sim.state("agents").await;
        state["instances"][host(i)]["variables"].clone()
    };
    let given = variables(&world, &instance).await;
    assert_eq!(given["POOL_URL"], door.url);
    assert_eq!(given["INSTANCE_ID"], instance.spec.id);
    let token = token_of(&world, &instance.spec.id).await;
    for what in ["self-upgrade", "self-reset"] {
        let answer = call_back(&door.url, what, &instance.spec.id, &token).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (501, &json!("not_supported"))
        );
    }
    // The address is no part of what an agent is built from: without it nothing drifts, and nothing is rebuilt.
    let before = (
        instance.spec.template.clone(),
        world.pool().await.status.unwrap().revision,
    );
    let mut world = world;
    world.operator().stop();
    world.start_operator(&[]);
    wait_operator_ready(world.operator()).await;
    let added = crate::lifecycle::replenish_one(&world).await;
    let added = wait_phase(&world, &added, Phase::Idle).await;
    assert_eq!(variables(&world, &added).await["POOL_URL"], Value::Null);
    let after = (
        added.spec.template.clone(),
        world.pool().await.status.unwrap().revision,
    );
    assert_eq!(before, after);
    let claimed = claimed(&world, 1).await.remove(0);
    let expected: Vec<Value> = if claimed.spec.id == added.spec.id {
        vec![]
    } else {
        // The door leads to the old operator's port: nobody answers.
        vec![Value::Null]
    };
    assert_eq!(
        answers(&world, &claimed, "/api/pool/attest").await,
        expected
    );
    world.finish().await;
}
