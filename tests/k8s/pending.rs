//! Joins that wait for a person: reserved, never in stock, replaced at once; left by callback, poll, or deadline.

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::door::open_world;
use crate::http_calls::{account, behind, claim, host, service_id, text};
use crate::lifecycle::{condition, millis, row, ticks};
use crate::support::wait::{LONG, until};
use crate::support::world::{Answer, World, merge};

const LINK: &str = "https://dev.convos.org/v2?i=abc";

/// A pool of agents of that kind, with a quick tick.
pub fn of_kind(kind: &str, change: Value) -> Value {
    let image = match kind {
        "hermes" => "ghcr.io/xmtplabs/convos-runtime-hermes:0.3.4",
        _ => "ghcr.io/xmtplabs/convos-runtime:0.3.4",
    };
    let image = json!({"reference": image, "digestPolicy": "Off"});
    let mut spec = json!({"tickIntervalSeconds": 1, "cleanupAfterSeconds": 0,
        "provider": {"railway": {"source": {"image": image}}}});
    merge(&mut spec, &change);
    spec
}

/// Joins wait after a moment.
pub async fn wait_little(world: &World) {
    let soon = json!({"defaults": {"join": 0, "joinWait": millis(50)}});
    world.sim.set("agents", soon).await;
}

/// Arms a fault for that agent alone.
pub async fn fault(world: &World, of: &AgentInstance, fault: Value) {
    let rule = json!({"match": {"host": host(of)}, "fault": fault});
    world.sim.fault("agents", rule).await;
}

/// A claim of a join that is answered as waiting; the instance.
pub async fn join_waits(world: &World, link: &str) -> (AgentInstance, Answer) {
    let body = json!({"agentName": "Ada", "instructions": "Be kind.", "joinUrl": link});
    let answer = claim(world, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["waitingForAcceptance"], true, "{}", answer.text);
    let id = text(&answer.body, "instanceId");
    (world.instance(&id).await.unwrap(), answer)
}

/// Joins that wait, one for each link.
async fn joins(world: &World, count: usize) -> Vec<AgentInstance> {
    let mut all = vec![];
    for n in 0..count {
        all.push(join_waits(world, &format!("{LINK}{n}")).await.0);
    }
    all
}

/// Waits for a phase of the instance of that id.
pub async fn wait_phase(world: &World, id: &str, phase: Phase) -> AgentInstance {
    until(&format!("{id} is {phase}"), LONG, || async {
        let now = world.instance(id).await.expect("it stays");
        (phase_of(&now) == phase).then_some(now)
    })
    .await
}

/// The notes of the events about an object with that reason.
pub fn told(world: &World, object: &str, reason: &str) -> Vec<String> {
    let events = world.kubectl(&["get", "events", "-o", "json"]);
    let events: Value = serde_json::from_str(&events).unwrap();
    let events = events["items"].as_array().unwrap().iter();
    let about = events.filter(|e| e["involvedObject"]["name"] == object && e["reason"] == reason);
    about.map(|e| text(e, "message")).collect()
}

/// acceptance: D31
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_waits_is_reserved_and_replaced_at_once() {
    let spec = of_kind("hermes", json!({"minIdle": 1, "maxTotal": 3}));
    let (world, _door) = open_world("waits", spec).await;
    wait_little(&world).await;
    let forever = json!({"fault": {"kind": "pendingForever"}});
    world.sim.fault("agents", forever).await;
    let (waiting, answer) = join_waits(&world, LINK).await;
    assert_eq!(
        (&answer.body["conversationId"], &answer.body["joined"]),
        (&json!(null), &json!(false)),
        "{}",
        answer.text
    );
    assert_eq!(answer.body["inviteUrl"], LINK);
    assert_eq!(phase_of(&waiting), Phase::PendingAcceptance);
    let reserved = waiting.spec.claim.clone().unwrap();
    assert_eq!(reserved.join_url.as_deref(), Some(LINK));
    assert_eq!(reserved.agent_name, "Ada");
    assert_eq!(
        condition(&waiting, "Ready").unwrap(),
        ("True".into(), "PendingAcceptance".into())
    );
    // Not in stock: another is made, and the next claim gets that one.
    world.wait_count("pending_acceptance", 1).await;
    let other = world.wait_idle(1).await.remove(0);
    assert_ne!(other.spec.id, waiting.spec.id);
    let next = world.claim("Next").await;
    assert_eq!(next.body["instanceId"], other.spec.id, "{}", next.text);
    let listed = world.get("/api/pool/agents").await.body;
    assert_eq!(listed["pendingAcceptance"][0]["id"], waiting.spec.id);
    assert_eq!(
        row(&world, &waiting.spec.id).await.unwrap()["status"],
        "pending_acceptance"
    );
    // It counts towards the total.
    world.wait_idle(1).await;
    let condition = until("the total is reached", LONG, || async {
        let condition = world.pool_condition("AtCapacity").await?;
        (condition.0 == "True").then_some(condition)
    })
    .await;
    assert_eq!(condition.1, "MaxTotalReached");
    // And it is asked, and stays as it is.
    until("it was polled", LONG, || async {
        let calls = world.sim.calls("agents").await;
        let of = |path: &str| {
            let is = |c: &Value| c["serviceId"] == service_id(&waiting) && c["path"] == path;
            calls.iter().rposition(is)
        };
        (of("/convos/status") > of("/pool/provision")).then_some(())
    })
    .await;
    let now = world.instance(&waiting.spec.id).await.unwrap();
    assert_eq!(phase_of(&now), Phase::PendingAcceptance);
    assert_eq!(now.spec.claim, waiting.spec.claim);
    world.finish().await;
}

/// Callback and poll count the same; either may be first, both may come, twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_join_is_claimed_whoever_tells_first() {
    let spec = of_kind("hermes", json!({"minIdle": 3, "maxTotal": 6}));
    let (mut world, _door) = open_world("accepted", spec).await;
    wait_little(&world).await;
    let kinds = [
        "pendingThenAccepted",
        "acceptedWithoutCallback",
        "callbackTwice",
    ];
    for (instance, kind) in world.wait_idle(3).await.iter().zip(kinds) {
        let after = json!({"kind": kind, "seconds": 30});
        fault(&world, instance, after).await;
    }
    for waiting in joins(&world, 3).await {
        let host = host(&waiting);
        let now = wait_phase(&world, &waiting.spec.id, Phase::Claimed).await;
        let shown = behind(&world, &now).await["bound"].clone();
        let recorded = now.status.clone().unwrap().claim.unwrap();
        assert_eq!(json!(recorded.conversation_id), shown, "{host}");
        assert!(shown.is_string() && recorded.joined);
        assert_eq!(recorded.outcome, "Bound");
        let before = waiting.status.clone().unwrap().claim.unwrap();
        assert_eq!(recorded.invite_url, before.invite_url, "the link stays");
        assert!(recorded.claimed_at > before.claimed_at);
        assert_eq!(
            condition(&now, "Ready").unwrap(),
            ("True".into(), "Claimed".into())
        );
        let listed = row(&world, &now.spec.id).await.unwrap();
        assert_eq!(listed["conversationId"], shown);
    }
    // What was told again changed nothing, and was answered.
    let mut seen: Vec<usize> = vec![];
    for instance in world.in_phase(Phase::Claimed).await {
        let callbacks = account(&world, &instance).await["callbacks"].clone();
        let of_join = callbacks.as_array().unwrap().iter();
        let of_join = of_join.filter(|c| c["path"] == "/api/pool/pending-acceptance/complete");
        seen.push(of_join.clone().count());
        assert!(of_join.clone().all(|c| c["status"] == 200), "{callbacks}");
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
    ticks(&world, 3).await;
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 3);
    let log = world.operator().log();
    assert!(!log.contains("v2?i="), "no invite in the log");
    world.finish().await;
}

/// Never told by callback, and `pending: false` all the time: only its conversation says anything.
#[tokio::test(flavor = "multi_thread")]
async fn openclaw_is_asked_until_it_shows_a_conversation() {
    let spec = of_kind("openclaw", json!({"minIdle": 2, "maxTotal": 6}));
    let (world, _door) = open_world("openclaw", spec).await;
    wait_little(&world).await;
    let idle = world.wait_idle(2).await;
    // Beyond the second poll.
    let later = json!({"kind": "pendingThenAccepted", "seconds": 20 * 22});
    fault(&world, &idle[0], later).await;
    fault(&world, &idle[1], json!({"kind": "pending"})).await;
    let waiting = joins(&world, 2).await;
    let accepted = |i: &&AgentInstance| i.spec.id == idle[0].spec.id;
    let first = waiting.iter().find(accepted).unwrap();
    let other = waiting.iter().find(|i| !accepted(i)).unwrap();
    let now = wait_phase(&world, &first.spec.id, Phase::Claimed).await;
    let shown = behind(&world, &now).await["bound"].clone();
    let recorded = now.status.unwrap().claim.unwrap().conversation_id;
    assert_eq!(json!(recorded), shown);
    let callbacks = account(&world, first).await["callbacks"].clone();
    let callbacks = callbacks.as_array().unwrap().iter();
    assert_eq!(
        callbacks
            .filter(|c| c["path"] != "/api/pool/attest")
            .count(),
        0
    );
    let stays = world.instance(&other.spec.id).await.unwrap();
    assert_eq!(phase_of(&stays), Phase::PendingAcceptance);
    let state = behind(&world, &stays).await;
    assert_eq!(
        (&state["join"], &state["clean"]),
        (&json!("pending"), &json!(false))
    );
    world.finish().await;
}

/// The one told by callback, the others found by asking twice. None is ever handed out again.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_gave_up_is_replaced() {
    let spec = of_kind(
        "hermes",
        json!({"minIdle": 2, "maxTotal": 8, "cleanupAfterSeconds": 3}),
    );
    let (world, _door) = open_world("gave-up", spec).await;
    wait_little(&world).await;
    let idle = world.wait_idle(2).await;
    fault(
        &world,
        &idle[0],
        json!({"kind": "pendingThenFailed", "seconds": 20}),
    )
    .await;
    fault(&world, &idle[1], json!({"kind": "pendingForever"})).await;
    let waiting = joins(&world, 2).await;
    // Restarted without its state, it does not know of any join, and calls nobody.
    let forgets = json!({"instances": {host(&idle[1]): {"keepState": false, "restart": true}}});
    world.sim.set("agents", forgets).await;
    for instance in &idle {
        let tainted = until("it is tainted", LONG, || async {
            let now = world.instance(&instance.spec.id).await.expect("it stays");
            (phase_of(&now) == Phase::Tainted).then_some(now)
        })
        .await;
        assert_eq!(
            condition(&tainted, "Ready").unwrap(),
            ("False".into(), "NotAccepted".into())
        );
        world.wait_gone(&instance.spec.id).await;
        let notes = told(&world, &tainted.name_any(), "NotAccepted");
        assert!(notes.iter().any(|n| n.contains("gave up")), "{notes:?}");
    }
    let told_by = async |i: &AgentInstance| {
        let callbacks = account(&world, i).await["callbacks"].clone();
        let callbacks = callbacks.as_array().unwrap().iter();
        callbacks
            .filter(|c| c["path"] == "/api/pool/pending-acceptance/fail" && c["status"] == 200)
            .count()
    };
    assert_eq!((told_by(&idle[0]).await, told_by(&idle[1]).await), (1, 0));
    assert!(
        waiting
            .iter()
            .all(|w| idle.iter().any(|i| i.spec.id == w.spec.id))
    );
    world.wait_idle(2).await;
    let left = world.sim.live_services().await;
    assert!(
        !left
            .iter()
            .any(|s| idle.iter().any(|i| s["id"] == service_id(i)))
    );
    world.finish().await;
}

/// And what is protected is kept, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn whom_nobody_accepts_in_time_is_replaced() {
    let claim = json!({"pendingTimeoutSeconds": 10});
    let spec = of_kind(
        "openclaw",
        json!({"minIdle": 2, "maxTotal": 8, "claim": claim}),
    );
    let (world, _door) = open_world("overdue", spec).await;
    wait_little(&world).await;
    let forever = json!({"fault": {"kind": "pendingForever"}});
    world.sim.fault("agents", forever).await;
    let waiting = joins(&world, 2).await;
    let (kept, goes) = (&waiting[0], &waiting[1]);
    let label = "pool.convos.org/protected=true";
    world.kubectl(&["label", "agentinstance", &kept.name_any(), label]);
    world.wait_gone(&goes.spec.id).await;
    let notes = told(&world, &goes.name_any(), "NotAccepted");
    assert!(notes.iter().any(|n| n.contains("within 10 s")), "{notes:?}");
    let stays = until("it says why it stays", LONG, || async {
        let now = world.instance(&kept.spec.id).await.expect("it stays");
        (condition(&now, "Ready")?.1 == "NotAccepted").then_some(now)
    })
    .await;
    assert_eq!(phase_of(&stays), Phase::PendingAcceptance);
    let conditions = stays.status.unwrap().conditions;
    assert!(conditions.iter().any(|c| c.message.contains("protected")));
    // Accepted after all, it is in use.
    let bound = json!({"instances": {host(kept): {"bound": "c".repeat(32)}}});
    world.sim.set("agents", bound).await;
    wait_phase(&world, &kept.spec.id, Phase::Claimed).await;
    world.finish().await;
}

/// acceptance: B20, B22
#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_says_of_one_that_waits() {
    let spec = of_kind("hermes", json!({"minIdle": 3, "maxTotal": 9}));
    let (world, _door) = open_world("waits-provider", spec).await;
    wait_little(&world).await;
    let forever = json!({"fault": {"kind": "pendingForever"}});
    world.sim.fault("agents", forever).await;
    let waiting = joins(&world, 3).await;
    let (sleeps, crashes, released) = (&waiting[0], &waiting[1], &waiting[2]);
    let force = async |i: &AgentInstance, status: &str| {
        let change = json!({"service": service_id(i), "deployment": {"status": status}});
        world.sim.force(change).await;
    };
    force(sleeps, "SLEEPING").await;
    force(crashes, "CRASHED").await;
    wait_phase(&world, &crashes.spec.id, Phase::Crashed).await;
    // Asleep it stays, and the next poll wakes it.
    until("it sleeps", LONG, || async {
        let now = world.instance(&sleeps.spec.id).await.unwrap();
        assert_eq!(phase_of(&now), Phase::PendingAcceptance);
        let provider = now.status?.provider?;
        (provider.state.as_deref() == Some("Sleeping")).then_some(())
    })
    .await;
    until("it is awake again", LONG, || async {
        let now = world.instance(&sleeps.spec.id).await.unwrap();
        assert_eq!(phase_of(&now), Phase::PendingAcceptance);
        let provider = now.status?.provider?;
        (provider.state.as_deref() == Some("Running")).then_some(())
    })
    .await;
    // However often everything is compared, none of them goes.
    for _ in 0..2 {
        let reconciled = crate::http_calls::post(&world, "/api/pool/reconcile", json!({})).await;
        assert_eq!(reconciled.body["cleaned"], 0, "{}", reconciled.text);
    }
    for instance in &waiting {
        let now = world.instance(&instance.spec.id).await.expect("it stays");
        assert_eq!(now.spec.claim, instance.spec.claim);
    }
    // A person ends them: the one that waits and the one that crashed.
    for instance in [released, crashes] {
        let release = json!({"spec": {"release": {"id": "r1", "mode": "Destroy", "requestedAt": "2026-01-01T00:00:00Z"}}});
        let (name, release) = (instance.name_any(), release.to_string());
        world.kubectl(&["patch", "ai", &name, "--type=merge", "-p", &release]);
        world.wait_gone(&instance.spec.id).await;
    }
    world.finish().await;
}

/// The callback is believed, and then the agent is: it has no such conversation.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_was_told_and_is_not_there_is_lost() {
    let spec = of_kind("hermes", json!({"minIdle": 1, "maxTotal": 4}));
    let (world, _door) = open_world("told-only", spec).await;
    wait_little(&world).await;
    let untrue = json!({"fault": {"kind": "callbackWithoutState", "seconds": 20}});
    world.sim.fault("agents", untrue).await;
    let (waiting, _) = join_waits(&world, LINK).await;
    let now = wait_phase(&world, &waiting.spec.id, Phase::Crashed).await;
    assert_eq!(
        condition(&now, "Ready").unwrap(),
        ("False".into(), "ConversationLost".into())
    );
    assert_eq!(now.status.unwrap().claim.unwrap().outcome, "Bound");
    world.finish().await;
}
