//! What Railway says of a deployment while its agent is in use, and what becomes of the agent: never its end.

mod stock;

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::ResourceExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::lifecycle::{condition, host, ids, millis, row, service_id, ticks};
use crate::support::wait::{LONG, until};
use crate::support::world::World;

/// Forces the latest deployment of an agent's service into this status.
async fn force(world: &World, instance: &AgentInstance, deployment: Value) {
    let change = json!({"service": service_id(instance), "deployment": deployment});
    world.sim.force(change).await;
}

/// Waits for a phase of the instance of that id.
async fn wait_phase(world: &World, id: &str, phase: Phase) -> AgentInstance {
    until(&format!("{id} is {phase}"), LONG, || async {
        let now = world.instance(id).await.expect("it stays");
        (phase_of(&now) == phase).then_some(now)
    })
    .await
}

/// Puts an agent to sleep; again where a probe that was on its way woke it.
async fn fall_asleep(world: &World, instance: &AgentInstance) {
    until("it sleeps and is not probed", LONG, || async {
        let seen = requests(world, &host(instance)).await;
        force(world, instance, json!({"status": "SLEEPING"})).await;
        // The tick and the probe that it may bring.
        ticks(world, 2).await;
        (requests(world, &host(instance)).await == seen).then_some(())
    })
    .await;
}

/// Claims so many agents; the instances as they are afterwards, with the answers.
async fn claimed(world: &World, count: usize) -> Vec<(AgentInstance, Value)> {
    let mut all = vec![];
    for n in 0..count {
        let answer = world.claim(&format!("Agent {n}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap();
        all.push((wait_phase(world, id, Phase::Claimed).await, answer.body));
    }
    all
}

/// What Railway says, as it stands in the object.
fn deploy_status(instance: &AgentInstance) -> Option<String> {
    let status = instance.status.as_ref()?;
    status.provider.as_ref()?.deploy_status.clone()
}

/// The agent's requests so far.
async fn requests(world: &World, host: &str) -> usize {
    let calls = world.sim.calls("agents").await;
    calls.iter().filter(|c| c["host"] == host).count()
}

/// acceptance: B05, B18, G06
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_agent_that_railway_ended_is_crashed_and_keeps_its_claim() {
    let spec =
        json!({"minIdle": 6, "maxTotal": 12, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let world = World::with_pool("ended", spec).await;
    let words = [
        "FAILED", "CRASHED", "REMOVED", "SKIPPED", "SUCCESS", "SLEEPING",
    ];
    let all = claimed(&world, words.len()).await;
    let asked = world.sim.calls("railway").await.len();
    for ((instance, _), word) in all.iter().zip(words) {
        force(&world, instance, json!({"status": word, "stopped": true})).await;
    }
    for ((before, answer), word) in all.iter().zip(words) {
        let (phase, reason, wire) = match word {
            "FAILED" => (Phase::Crashed, "DeploymentFailed", "crashed"),
            "CRASHED" => (Phase::Crashed, "DeploymentCrashed", "crashed"),
            "SUCCESS" => (Phase::Crashed, "Stopped", "crashed"),
            "SLEEPING" => (Phase::Sleeping, "Sleeping", "sleeping"),
            _ => (Phase::Crashed, "DeploymentRemoved", "crashed"),
        };
        let id = &before.spec.id;
        if phase == Phase::Sleeping {
            fall_asleep(&world, before).await;
        }
        let now = wait_phase(&world, id, phase).await;
        assert_eq!(condition(&now, "Ready").unwrap().1, reason, "{word}");
        assert_eq!(now.spec.claim, before.spec.claim, "{word}");
        let kept = |i: &AgentInstance| i.status.clone().unwrap().claim;
        assert_eq!(kept(&now), kept(before), "{word}");
        // Railway shows the newest deployment that is not removed: here none.
        let word = (word != "REMOVED").then_some(word);
        assert_eq!(deploy_status(&now).as_deref(), word);
        let row = until("the API shows it", LONG, || async {
            let row = row(&world, id).await?;
            (row["status"] == wire && row["deployStatus"] == json!(word)).then_some(row)
        })
        .await;
        for key in ["conversationId", "inviteUrl"] {
            assert_eq!(row[key], answer[key], "{word:?}: {key}");
        }
    }
    // Stopped, or without a deployment, was read directly, once the listing had said it for long enough; the others
    // needed no second look.
    let mut twice = [service_id(&all[2].0), service_id(&all[4].0)];
    twice.sort();
    let calls = world.sim.calls("railway").await.split_off(asked);
    let mut read = calls
        .iter()
        .filter(|c| c["operation"] == "RwServiceInstance")
        .map(|c| c["variables"]["serviceId"].as_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    read.retain(|id| all.iter().any(|(i, _)| service_id(i) == *id));
    read.sort();
    assert_eq!(read, twice);

    world.wait_count("crashed", 5).await;
    world.wait_count("sleeping", 1).await;
    let seen = requests(&world, &host(&all[5].0)).await;
    ticks(&world, 4).await;
    let listed = world.get("/api/pool/agents").await.body["crashed"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(5), "{listed}");
    let now = ids(&world.list().await);
    assert!(
        all.iter().all(|(i, _)| now.contains(&i.spec.id)),
        "all stay"
    );
    let sleeper = world.instance(&all[5].0.spec.id).await.unwrap();
    assert_eq!(phase_of(&sleeper), Phase::Sleeping, "and never crashed");
    assert_eq!(
        requests(&world, &host(&sleeper)).await,
        seen,
        "nobody woke it"
    );
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    world.finish().await;
}

/// acceptance: B19, B20, B22, G06
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_agent_stays_claimed_while_it_is_rebuilt_or_does_not_answer() {
    let spec =
        json!({"minIdle": 3, "maxTotal": 9, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let world = World::with_pool("stays", spec).await;
    let all = claimed(&world, 3).await;
    let (rebuilt, silent, fine) = (&all[0].0, &all[1].0, &all[2].0);
    let hang = json!({"match": {"host": host(silent)}, "fault": {"kind": "gateway502"}});
    world.sim.fault("agents", hang).await;
    for word in [
        "QUEUED",
        "BUILDING",
        "DEPLOYING",
        "INITIALIZING",
        "WAITING",
        "NEEDS_APPROVAL",
    ] {
        force(&world, rebuilt, json!({"status": word})).await;
        let now = until(word, LONG, || async {
            let now = world.instance(&rebuilt.spec.id).await.expect("it stays");
            assert_eq!(phase_of(&now), Phase::Claimed, "{word}");
            (deploy_status(&now).as_deref() == Some(word)).then_some(now)
        })
        .await;
        assert_eq!(
            condition(&now, "Ready").unwrap(),
            ("True".into(), "Claimed".into())
        );
        until("the API shows it", LONG, || async {
            let row = row(&world, &rebuilt.spec.id).await.unwrap();
            assert_eq!(row["status"], "claimed", "{word}");
            (row["deploy_status"] == word).then_some(())
        })
        .await;
    }
    let unreachable = until("it shows", LONG, || async {
        let now = world.instance(&silent.spec.id).await.expect("it stays");
        let reachable = condition(&now, "Reachable")?;
        (reachable.0 == "False").then_some(now)
    })
    .await;
    assert_eq!(phase_of(&unreachable), Phase::Claimed);
    assert_eq!(condition(&unreachable, "Ready").unwrap().0, "True");

    // However often everything is compared, and the listing too lags behind: none of them is deleted.
    let gone = json!({"service": service_id(fine), "delete": true});
    world.sim.force(gone).await;
    for _ in 0..2 {
        let answer = world
            .call(Method::POST, "/api/pool/reconcile", json!({}))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["cleaned"], 0, "{}", answer.text);
    }
    ticks(&world, 3).await;
    let phases: Vec<_> = {
        let mut now = vec![];
        for (instance, _) in &all {
            let found = world.instance(&instance.spec.id).await.expect("it stays");
            assert!(found.metadata.deletion_timestamp.is_none());
            assert_eq!(found.spec.claim, instance.spec.claim);
            now.push(phase_of(&found));
        }
        now
    };
    assert_eq!(phases, [Phase::Claimed, Phase::Claimed, Phase::Crashed]);
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    // It comes back by itself, and that shows.
    world.sim.heal("agents").await;
    until("it answers again", LONG, || async {
        let now = world.instance(&silent.spec.id).await.unwrap();
        condition(&now, "Reachable").filter(|c| c.0 == "True")
    })
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_agent_is_in_use_again_when_it_shows_its_conversation() {
    let spec =
        json!({"minIdle": 2, "maxTotal": 9, "tickIntervalSeconds": 1, "cleanupAfterSeconds": 0});
    let world = World::with_pool("revived", spec).await;
    let all = claimed(&world, 2).await;
    for (instance, _) in &all {
        force(&world, instance, json!({"status": "CRASHED"})).await;
    }
    for (instance, _) in &all {
        wait_phase(&world, &instance.spec.id, Phase::Crashed).await;
    }
    let (back, other) = (&all[0], &all[1]);
    let bound = |i: &AgentInstance, conversation: Value| json!({host(i): {"bound": conversation}});
    // A person starts both again: the one comes with its conversation, the other with somebody else's.
    for (instance, _) in &all {
        force(&world, instance, json!({"status": "SUCCESS"})).await;
    }
    for agents in [
        bound(&back.0, back.1["conversationId"].clone()),
        bound(&other.0, json!("b".repeat(32))),
    ] {
        until("its program runs", LONG, || async {
            let host = agents.as_object()?.keys().next()?;
            let agent = world.sim.state("agents").await["instances"][host].clone();
            (agent["ready"] == true).then_some(())
        })
        .await;
        world.sim.set("agents", json!({"instances": agents})).await;
    }
    let revived = wait_phase(&world, &back.0.spec.id, Phase::Claimed).await;
    assert_eq!(
        condition(&revived, "Ready").unwrap(),
        ("True".into(), "Claimed".into())
    );
    until("the API shows it", LONG, || async {
        let row = row(&world, &back.0.spec.id).await.unwrap();
        assert_eq!(row["inviteUrl"], back.1["inviteUrl"]);
        (row["status"] == "claimed").then_some(())
    })
    .await;
    let stays = until("it says why", LONG, || async {
        let now = world.instance(&other.0.spec.id).await.expect("it stays");
        assert_eq!(phase_of(&now), Phase::Crashed);
        condition(&now, "Ready").filter(|c| c.1 == "UnknownConversation")
    })
    .await;
    assert_eq!(stays.0, "False");
    ticks(&world, 3).await;
    let phase = async |i: &AgentInstance| phase_of(&world.instance(&i.spec.id).await.unwrap());
    assert_eq!(phase(&back.0).await, Phase::Claimed);
    assert_eq!(phase(&other.0).await, Phase::Crashed);
    let events = world.kubectl(&["get", "events", "-o", "json"]);
    let events: Value = serde_json::from_str(&events).unwrap();
    let told =
        events["items"].as_array().unwrap().iter().filter(|e| {
            e["involvedObject"]["name"] == back.0.name_any() && e["reason"] == "Recovered"
        });
    assert_eq!(told.count(), 1, "told once");
    world.finish().await;
}

/// acceptance: B04
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_being_claimed_is_claiming_and_nothing_else() {
    let spec = json!({"minIdle": 1, "maxTotal": 1, "tickIntervalSeconds": 1});
    let world = World::with_pool("claiming", spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    world.wait_count("idle", 1).await;
    // A join may take long; a creation is given up by the wrapper after a while.
    let slow = json!({"defaults": {"status": 0, "join": millis(2800)}});
    world.sim.set("agents", slow).await;
    let link = "https://dev.convos.org/v2?i=abc";
    let body = json!({"agentName": "Ada", "instructions": "Be kind.", "joinUrl": link});
    let claim = world.call(Method::POST, "/api/pool/claim", body);
    let watch = async {
        let counts = until("the API counts it", LONG, || async {
            let counts = world.get("/api/pool/counts").await.body;
            (counts["claiming"] == 1).then_some(counts)
        })
        .await;
        for (key, count) in counts.as_object().unwrap() {
            assert_eq!(count, i64::from(key == "claiming"), "{key}: {counts}");
        }
        assert_eq!(
            row(&world, &idle.spec.id).await.unwrap()["status"],
            "claiming"
        );
        let phase = "jsonpath={.status.phase}";
        let shown = until("kubectl shows it", LONG, || async {
            let name = idle.name_any();
            let phase = world.kubectl(&["get", "ai", &name, "-o", phase]);
            (phase == "Claiming").then(jiff::Timestamp::now)
        })
        .await;
        let now = world.instance(&idle.spec.id).await.unwrap();
        let asked = now.spec.claim.unwrap().requested_at.0;
        let age = shown.duration_since(asked);
        assert!(
            age >= jiff::SignedDuration::from_secs(1),
            "a younger one is not written: {age:?}"
        );
        until("the pool counts it", LONG, || async {
            let status = world.pool().await.status.unwrap();
            let others = status.idle + status.provisioning + status.claimed + status.crashed;
            (status.claiming == 1 && others == 0).then_some(())
        })
        .await;
    };
    let (answer, ()) = tokio::join!(claim, watch);
    assert_eq!(answer.status, 200, "{}", answer.text);
    wait_phase(&world, &idle.spec.id, Phase::Claimed).await;
    world.wait_count("claiming", 0).await;
    world.wait_count("claimed", 1).await;
    world.finish().await;
}
