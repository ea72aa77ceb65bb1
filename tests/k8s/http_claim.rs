//! A claim over HTTP, from the request to the agent and back.

use agentpool::api::agent_instance::AgentInstance;
use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use super::http_calls::{
    account, behind, claim, claim_at, claim_bodies, empty_pool, fails, host, ids, open, service_id,
    stock, text, wait_called, wait_served,
};
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, POOL, World};

const NO_IDLE: &str = "No idle instances available. Try again in a few minutes.";

/// The instance that a claim's answer names.
async fn named(world: &World, answer: &Answer) -> AgentInstance {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = text(&answer.body, "instanceId");
    world.instance(&id).await.expect("the instance exists")
}

/// acceptance: D07, D09, D10, B03
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_tells_the_agent_the_cluster_and_the_caller_the_same() {
    let world = World::with_pool("claim-create", json!({"minIdle": 1})).await;
    let (name, instructions) = (
        "Tōkyō \"Trip\" & $HOME",
        "Plan trips.\n\t'quoted' \"$PATH\" 日本",
    );
    let idle = world.list().await.remove(0);
    let body = json!({"agentName": format!("  {name} "), "instructions": instructions});
    let asked = jiff::Timestamp::now().as_second();
    let answer = claim(&world, body).await;
    let instance = named(&world, &answer).await;
    assert_eq!(instance.metadata.uid, idle.metadata.uid, "the one in stock");

    // The agent.
    let account = account(&world, &instance).await;
    let made = account["conversations"].as_array().unwrap();
    assert_eq!(
        (made.len(), &account["claimCalls"]),
        (1, &json!(1)),
        "{account}"
    );
    assert_eq!(made[0]["name"], name, "of the conversation");
    assert_eq!(made[0]["profileName"], name, "of the profile");
    assert_eq!(made[0]["instructions"], instructions);
    let bound = behind(&world, &instance).await["bound"].clone();
    assert_eq!(made[0]["id"], bound);

    // The caller.
    let told = &answer.body;
    assert_eq!(told["conversationId"], bound);
    let invite = text(told, "inviteUrl");
    assert!(
        invite.starts_with("https://dev.convos.org/v2?i="),
        "{invite}"
    );
    assert_eq!(told["joined"], json!(false));
    assert_eq!(told["waitingForAcceptance"], json!(false));
    assert_eq!(
        (text(told, "status"), text(told, "agentName")),
        ("claimed".into(), name.into())
    );
    let (token, url) = (text(told, "gatewayToken"), text(told, "gatewayUrl"));
    assert!(
        token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()),
        "{token}"
    );
    assert_eq!(Some(&url), instance.status.as_ref().unwrap().url.as_ref());
    let status = world.agent(&url, "/convos/status", Some(&token)).await;
    assert_eq!(
        (status.status, &status.body["conversationId"]),
        (200, &bound)
    );
    let wrong = "0".repeat(64);
    for refused in [None, Some(wrong.as_str())] {
        let status = world.agent(&url, "/convos/status", refused).await;
        assert_eq!(status.status, 401, "the token is what opens it");
    }

    // The cluster, and what the API shows of it.
    let (asked_for, done) = (
        instance.spec.claim.clone().unwrap(),
        instance.status.clone().unwrap().claim.unwrap(),
    );
    assert_eq!(asked_for.id, done.id);
    assert_eq!(asked_for.agent_name, name);
    assert_eq!(asked_for.instructions.as_deref(), Some(instructions));
    assert_eq!(json!(done.conversation_id), bound);
    assert_eq!(done.invite_url.as_deref(), Some(invite.as_str()));
    let at = done.claimed_at.unwrap().0.as_second();
    assert!((asked..=jiff::Timestamp::now().as_second()).contains(&at));
    until("the API shows it as claimed", LONG, || async {
        let rows = open(&world, "/api/pool/agents").await.body["claimed"].clone();
        let row = rows.as_array()?.first()?.clone();
        assert_eq!(
            (text(&row, "id"), text(&row, "status")),
            (instance.spec.id.clone(), "claimed".into())
        );
        assert_eq!(
            (text(&row, "agentName"), text(&row, "instructions")),
            (name.into(), instructions.into())
        );
        assert_eq!(
            (&row["conversationId"], text(&row, "inviteUrl")),
            (&bound, invite.clone())
        );
        let at: jiff::Timestamp = text(&row, "claimedAt").parse().unwrap();
        assert!(at.as_second() >= asked);
        Some(())
    })
    .await;
    let shown = world.kubectl(&["get", "agentinstances"]);
    assert!(shown.contains("Claimed") && shown.contains(name), "{shown}");
    world.finish().await;
}

/// acceptance: D08, N07, N12
#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_joined_and_an_empty_link_is_none() {
    let world = World::with_pool("claim-join", json!({"minIdle": 4})).await;
    let link = "https://dev.convos.org/v2?i=abcdefghijklmnopqrstuvwxyz";
    // What the public site sends: no name, no instructions.
    let body = json!({"joinUrl": link, "source": "landing", "metadata": {"city": "Kyōto"}});
    let answer = claim(&world, body).await;
    let joined = named(&world, &answer).await;
    let sent = claim_bodies(&world, &joined).await;
    assert_eq!(
        (sent.len(), &sent[0]["joinUrl"]),
        (1, &json!(link)),
        "{sent:?}"
    );
    assert_eq!(sent[0]["metadata"], json!({"city": "Kyōto"}));
    assert_eq!(sent[0]["agentName"], "Assistant");
    assert_eq!(sent[0]["instructions"], "You are a helpful AI assistant.");
    let account_of = account(&world, &joined).await;
    assert_eq!(account_of["conversationsMade"], 0);
    assert_eq!(account_of["binds"][0]["by"], "join");
    assert_eq!(answer.body["joined"], json!(true));
    assert_eq!(answer.body["inviteUrl"], link);
    assert_eq!(answer.body["conversationId"], account_of["binds"][0]["id"]);
    assert_eq!(joined.spec.claim.unwrap().join_url.as_deref(), Some(link));
    assert!(joined.status.unwrap().claim.unwrap().joined);

    // Twice the same name, and every spelling of "no link": two conversations.
    let mut conversations = vec![];
    for none in [json!(""), Value::Null] {
        let body = json!({"agentName": "Ada", "instructions": "Be kind.", "joinUrl": none});
        let answer = claim(&world, body).await;
        let instance = named(&world, &answer).await;
        assert_eq!(answer.body["joined"], json!(false));
        assert_eq!(account(&world, &instance).await["conversationsMade"], 1);
        let sent = claim_bodies(&world, &instance).await;
        assert_eq!(
            (&sent[0]["joinUrl"], &sent[0]["agentName"]),
            (&Value::Null, &json!("Ada"))
        );
        conversations.push(text(&answer.body, "conversationId"));
    }
    assert_ne!(conversations[0], conversations[1]);
    world.finish().await;
}

/// acceptance: D12, D13, D14
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_claim_is_told_in_the_known_words() {
    let world = empty_pool("claim-words", json!({})).await;
    let no_idle = world.claim("Ada").await;
    fails(&no_idle, 503, NO_IDLE, "no_idle");
    assert_eq!(no_idle.headers["retry-after"], "30");

    let (name, instructions) = (
        "agentName (string) is required",
        "instructions (string) is required",
    );
    let good = json!({"agentName": "Ada", "instructions": "Be kind."});
    let link = "joinUrl must be a string if provided";
    for (change, error) in [
        (
            json!({"agentName": null, "instructions": null}),
            instructions,
        ),
        (json!({"agentName": null}), name),
        (json!({"agentName": ""}), name),
        (json!({"agentName": "   "}), name),
        (json!({"agentName": 7}), name),
        (json!({"instructions": null}), instructions),
        (json!({"instructions": ""}), instructions),
        (json!({"instructions": ["x"]}), instructions),
        (json!({"agentName": null, "joinUrl": ""}), name),
        (json!({"joinUrl": 7}), link),
        (json!({"joinUrl": {"a": 1}}), link),
        (json!({"joinUrl": true}), link),
        (
            json!({"profileImage": 7}),
            "profileImage must be a string if provided",
        ),
        (
            json!({"metadata": "x"}),
            "metadata must be an object if provided",
        ),
        (
            json!({"metadata": {"a": 1}}),
            "metadata values must be strings",
        ),
        (
            json!({"runtime": "node"}),
            "runtime must be 'hermes' or 'openclaw' if provided",
        ),
        (
            json!({"agentName": "-x"}),
            "agentName must not start with '-'",
        ),
        (
            json!({"instructions": "é".repeat(50_001)}),
            "instructions must have at most 100000 bytes",
        ),
    ] {
        let mut body = good.clone();
        let fields = body.as_object_mut().unwrap();
        for (key, value) in change.as_object().unwrap() {
            if value.is_null() {
                fields.remove(key);
            } else {
                fields.insert(key.clone(), value.clone());
            }
        }
        fails(&claim(&world, body).await, 400, error, "bad_request");
    }

    world
        .create_pool("live", json!({"environment": "production", "minIdle": 0}))
        .await;
    until("the API knows the second pool", LONG, || async {
        let path = "/api/pool/counts?pool=live";
        (open(&world, path).await.status == 200).then_some(())
    })
    .await;
    let (dev, popup) = (
        "https://dev.convos.org/v2?i=x",
        "https://POPUP.convos.org/v2?i=x",
    );
    for (pool, link, error) in [
        (
            "live",
            dev,
            Some("dev.convos.org links cannot be used in the production environment"),
        ),
        ("live", popup, None),
        (
            POOL,
            popup,
            Some("popup.convos.org links cannot be used in the staging environment"),
        ),
        (POOL, dev, None),
    ] {
        let answer = claim(&world, json!({"joinUrl": link, "pool": pool})).await;
        match error {
            Some(error) => fails(&answer, 400, error, "bad_request"),
            // Only the stock is missing.
            None => fails(&answer, 503, NO_IDLE, "no_idle"),
        }
    }
    world.finish().await;
}

/// What goes wrong at an agent while it is claimed.
enum Harm {
    /// This fault, at the first claim call.
    Fault(Value),
    /// Its service is deleted while the call runs.
    ServiceDeleted,
}

/// Claims while one agent fails: with no other it is a 500; with another, that one serves. Either way the failed one is
/// replaced by a new one and never handed out.
async fn survives(name: &str, harm: Harm, says: &str) {
    let world = World::with_pool(name, json!({"minIdle": 1, "tickIntervalSeconds": 1})).await;
    wait_served(&world).await;
    // One attempt of the wrapper, so that a failure is told at once; slow enough to be hit on the way.
    let knobs = json!({"defaults": {"attempts": 1, "create": 9000}});
    world.sim.set("agents", knobs).await;

    let failed = world.wait_idle(1).await.remove(0);
    let answer = harmed_claim(&world, &harm).await;
    let error = text(&answer.body, "error");
    assert_eq!(
        (answer.status, text(&answer.body, "code")),
        (500, "provision_failed".into()),
        "{error}"
    );
    assert_eq!(text(&answer.body, "instanceId"), failed.spec.id);
    let prefix = format!("Provision failed on {}: ", failed.spec.id);
    assert!(
        error.starts_with(&prefix) && error.contains(says),
        "{error}"
    );
    let claimed = world.in_phase(Phase::Claimed).await;
    assert!(claimed.is_empty(), "{:?}", ids(&claimed));
    world.wait_gone(&failed.spec.id).await;

    world.patch_pool(json!({"minIdle": 2})).await;
    let two = world.wait_idle(2).await;
    assert!(!ids(&two).contains(&failed.spec.id), "never again");
    let answer = harmed_claim(&world, &harm).await;
    let served = named(&world, &answer).await;
    let other = two.iter().find(|i| i.spec.id != served.spec.id).unwrap();
    assert!(ids(&two).contains(&served.spec.id), "from stock");
    assert_eq!(
        account(&world, other).await["claimCalls"],
        1,
        "the one that failed first"
    );
    assert_eq!(account(&world, &served).await["conversationsMade"], 1);
    let bound = behind(&world, &served).await["bound"].clone();
    assert_eq!(answer.body["conversationId"], bound);
    world.wait_gone(&other.spec.id).await;
    assert_eq!(
        ids(&world.in_phase(Phase::Claimed).await),
        std::slice::from_ref(&served.spec.id)
    );
    let new = world.wait_idle(2).await;
    assert!(
        ids(&new).iter().all(|id| !ids(&two).contains(id)),
        "both are new"
    );
    world.finish().await;
}

async fn harmed_claim(world: &World, harm: &Harm) -> Answer {
    match harm {
        Harm::Fault(fault) => {
            let rule = json!({"when": {"first": 1}, "fault": fault});
            world.sim.fault("agents", rule).await;
            world.claim("Ada").await
        }
        Harm::ServiceDeleted => {
            let idle = world.in_phase(Phase::Idle).await;
            let strike = async {
                let called = wait_called(world, &idle).await;
                let deletion = json!({"service": service_id(&called), "delete": true});
                world.sim.force(deletion).await;
            };
            tokio::join!(world.claim("Ada"), strike).0
        }
    }
}

/// acceptance: D17
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_is_replaced_and_another_one_serves() {
    let harm = Harm::Fault(json!({"kind": "create500Before"}));
    survives("claim-500", harm, "simulated failure before").await;
}

/// acceptance: D17
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_after_binding_is_replaced_too() {
    let harm = Harm::Fault(json!({"kind": "create500After"}));
    survives("claim-500-late", harm, "simulated failure after").await;
}

/// acceptance: N15
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_conversation_is_no_success() {
    let harm = Harm::Fault(json!({"kind": "missingFields", "route": "/pool/provision"}));
    survives("claim-empty", harm, "").await;
}

/// acceptance: N14
#[tokio::test(flavor = "multi_thread")]
async fn a_service_deleted_during_a_claim_is_survived() {
    survives("claim-deleted", Harm::ServiceDeleted, "").await;
}

/// An agent that somebody else bound is found by the look right before the call: it is never called.
#[tokio::test(flavor = "multi_thread")]
async fn a_bound_agent_is_not_called_but_tainted() {
    // So rare a tick that only the claim can find it.
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 3600});
    let world = World::with_pool("claim-bound", spec).await;
    let taken = world.list().await.remove(0);
    let bound = json!({"instances": {host(&taken): {"bound": "0123456789abcdef0123456789abcdef"}}});
    world.sim.set("agents", bound).await;

    let answer = world.claim("Ada").await;
    let error = format!(
        "Provision failed on {}: already bound to a conversation",
        taken.spec.id
    );
    fails(&answer, 500, &error, "provision_failed");
    until("the agent is tainted", LONG, || async {
        let tainted = world.in_phase(Phase::Tainted).await;
        (ids(&tainted) == std::slice::from_ref(&taken.spec.id)).then_some(())
    })
    .await;
    let seen = account(&world, &taken).await;
    assert_eq!(
        (&seen["claimCalls"], &seen["resets"]),
        (&json!(0), &json!(0)),
        "{seen}"
    );
    let now = behind(&world, &taken).await;
    assert_eq!(
        now["bound"], "0123456789abcdef0123456789abcdef",
        "left to its user"
    );
    world.wait_idle(1).await;
    let answer = world.claim("Ada").await;
    assert_ne!(named(&world, &answer).await.spec.id, taken.spec.id);
    world.finish().await;
}

/// A caller who hangs up does not stop the claim: the agent is bound once, recorded and listed.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_outlives_its_caller() {
    let world = World::with_pool("claim-hang-up", json!({"minIdle": 1})).await;
    let idle = world.wait_idle(1).await;
    world
        .sim
        .set("agents", json!({"defaults": {"create": 9000}}))
        .await;
    let api = world.operator.as_ref().unwrap().api.clone();
    let body = json!({"agentName": "Ada", "instructions": "Be kind."});
    let caller = tokio::spawn(async move { claim_at(&api, body).await });
    let called = wait_called(&world, &idle).await;
    caller.abort();
    assert!(
        caller.await.unwrap_err().is_cancelled(),
        "it hung up before the answer"
    );
    let phases = world.in_phase(Phase::Claiming).await;
    assert_eq!(
        ids(&phases),
        std::slice::from_ref(&called.spec.id),
        "in the middle of it"
    );

    until("the claim is recorded all the same", LONG, || async {
        let claimed = world.in_phase(Phase::Claimed).await;
        (ids(&claimed) == std::slice::from_ref(&called.spec.id)).then_some(())
    })
    .await;
    let account = account(&world, &called).await;
    assert_eq!(
        (&account["claimCalls"], &account["conversationsMade"]),
        (&json!(1), &json!(1))
    );
    let done = world
        .instance(&called.spec.id)
        .await
        .unwrap()
        .status
        .unwrap()
        .claim
        .unwrap();
    assert_eq!(
        json!(done.conversation_id),
        account["conversations"][0]["id"]
    );
    world.wait_count("claimed", 1).await;
    world.finish().await;
}

/// Instructions of every size arrive to the byte, whatever the object can hold.
#[tokio::test(flavor = "multi_thread")]
async fn instructions_arrive_byte_for_byte() {
    let world = empty_pool("claim-long", json!({})).await;
    stock(&world, 4, 4).await;
    let piece =
        "EOF\n'EOF' \"quoted\" $HOME ${X} $(id) `id` \\n \\ \r\n\t<b>&amp; é 日本 👩‍👩‍👧 \u{0}\u{7f} ";
    for bytes in [5, 4096, 4097, 100_000] {
        let mut instructions = piece.repeat(bytes / piece.len() + 1);
        while !instructions.is_char_boundary(bytes) {
            instructions.insert(0, ' ');
        }
        instructions.truncate(bytes);
        assert_eq!(instructions.len(), bytes);
        let body = json!({"agentName": "Ada", "instructions": instructions});
        let answer = claim(&world, body).await;
        let instance = named(&world, &answer).await;
        let sent = claim_bodies(&world, &instance).await;
        assert!(
            sent[0]["instructions"] == instructions,
            "{bytes} bytes in the call"
        );
        let account = account(&world, &instance).await;
        assert!(
            account["conversations"][0]["instructions"] == instructions,
            "{bytes} bytes"
        );
    }
    world.finish().await;
}

/// While claims are paused nobody gets an agent, and the stock stays; afterwards it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn paused_claims_are_refused_and_go_on_later() {
    let world = World::with_pool("claim-paused", json!({"minIdle": 1, "paused": ["Claims"]})).await;
    wait_served(&world).await;
    let idle = world.wait_idle(1).await;
    let error = "claims are paused on pool pool: remove Claims from spec.paused";
    let answer = world.claim("Ada").await;
    fails(&answer, 503, error, "paused");
    assert_eq!(answer.headers["retry-after"], "30");
    assert_eq!(account(&world, &idle[0]).await["claimCalls"], 0);
    assert_eq!(ids(&world.in_phase(Phase::Idle).await), ids(&idle));

    world.patch_pool(json!({"paused": []})).await;
    let answer = until("claims go on", LONG, || async {
        let answer = world.claim("Ada").await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!(named(&world, &answer).await.spec.id, idle[0].spec.id);
    world.finish().await;
}
