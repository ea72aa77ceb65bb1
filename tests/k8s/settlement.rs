//! Every outcome of a claim call, by a fault of the simulated agent: what the caller gets, what becomes of the agent,
//! and that it was called once.

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::http_calls::{account, bearer, claim, host, stock, text, wait_called, wait_served};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

const LINK: &str = "https://dev.convos.org/v2?i=abcdefghijklmnopqrstuvwxyz";
const PROVISION: &str = "/pool/provision";

/// What becomes of an agent whose claim did not go the usual way.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Deleted.
    Replaced,
    /// Kept out of stock for a look, with this reason.
    Tainted(&'static str),
    /// Proven anew, and in stock again.
    Back,
    /// The caller has it.
    Kept,
}

/// One way for a claim call to end.
struct Row {
    name: &'static str,
    fault: Value,
    fate: Fate,
    /// Claim calls that came in, and conversations that may have been made.
    calls: i64,
    made: std::ops::RangeInclusive<i64>,
}

fn row(name: &'static str, fault: Value, fate: Fate, calls: i64, made: i64) -> Row {
    Row {
        name,
        fault,
        fate,
        calls,
        made: 0..=made,
    }
}

/// A pool that is stocked by hand. So rare a tick that only the claim finds what is wrong with an agent.
async fn world(name: &str, dialect: &str) -> World {
    let world = World::start(name).await;
    world
        .sim
        .set("agents", json!({"defaultDialect": dialect}))
        .await;
    // The same link again and again: who holds it is not what is shown here.
    let claims = json!({"deadlineSeconds": 12, "renameOnClaim": false, "dedupeJoinUrl": "Off"});
    let spec = json!({"minIdle": 0, "maxTotal": 100, "tickIntervalSeconds": 3600, "claim": claims});
    world.create_pool(POOL, spec).await;
    wait_served(&world).await;
    world
}

fn body(join: bool) -> Value {
    if join {
        json!({"joinUrl": LINK})
    } else {
        json!({"agentName": "Ada", "instructions": "Be kind."})
    }
}

async fn run(world: &World, row: &Row, join: bool) {
    let agent = stock(world, 1, 1).await.remove(0);
    let rule = json!({"match": {"host": host(&agent)}, "fault": row.fault});
    world.sim.fault("agents", rule).await;
    let answer = claim(world, body(join)).await;
    let name = row.name;
    match row.fate {
        Fate::Kept => {
            assert_eq!(answer.status, 200, "{name}: {}", answer.text);
            assert_eq!(text(&answer.body, "instanceId"), agent.spec.id, "{name}");
        }
        _ => {
            assert_eq!(answer.status, 500, "{name}: {}", answer.text);
            assert_eq!(answer.body["code"], "provision_failed", "{name}");
            assert_eq!(answer.body["instanceId"], agent.spec.id, "{name}");
        }
    }
    ends_as(world, row, &agent).await;
    let seen = account(world, &agent).await;
    assert_eq!(seen["claimCalls"], row.calls, "{name}: {seen}");
    let made = seen["conversationsMade"].as_i64().unwrap();
    assert!(row.made.contains(&made), "{name}: {seen}");
    assert_eq!(seen["resets"], 0, "{name}: {seen}");
    world.sim.heal("agents").await;
    leave(world, &agent).await;
}

async fn ends_as(world: &World, row: &Row, agent: &AgentInstance) {
    let (name, id) = (row.name, &agent.spec.id);
    match row.fate {
        // That nothing is left of it is proven at the end.
        Fate::Replaced => {
            until(&format!("{name}: replaced"), LONG, || async {
                let now = world.instance(id).await;
                now.is_none_or(|i| phase_of(&i) == Phase::Terminating)
                    .then_some(())
            })
            .await;
        }
        Fate::Tainted(reason) => {
            let shown = until(&format!("{name}: judged"), LONG, || async {
                let now = world.instance(id).await.expect("kept for a look");
                (phase_of(&now) == Phase::Tainted).then_some(now)
            })
            .await;
            assert_eq!(
                shown.status.unwrap().verdict.unwrap().reason,
                reason,
                "{name}"
            );
        }
        Fate::Back => {
            world.sim.heal("agents").await;
            until(&format!("{name}: back"), LONG, || async {
                let now = world.instance(id).await.expect("it was not touched");
                (phase_of(&now) == Phase::Idle && now.spec.turn == 2).then_some(())
            })
            .await;
        }
        Fate::Kept => {
            let now = world.instance(id).await.unwrap();
            assert_eq!(phase_of(&now), Phase::Claimed, "{name}");
        }
    }
}

/// Out of the next row's way.
async fn leave(world: &World, agent: &AgentInstance) {
    let name = agent.metadata.name.as_deref().unwrap();
    match world
        .instances()
        .delete(name, &DeleteParams::default())
        .await
    {
        // Replaced at this very moment.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.unwrap()),
    }
}

/// The rows that a create and a join share: nothing was done, or nothing is known.
fn found_before_the_call() -> Vec<Row> {
    let kind = |kind: &str| json!({"kind": kind});
    vec![
        row("bound", kind("alreadyBound"), Fate::Tainted("Busy"), 0, 0),
        row("dirty", kind("dirty"), Fate::Tainted("NotClean"), 0, 0),
        row(
            "token",
            kind("unauthorized"),
            Fate::Tainted("BadToken"),
            0,
            0,
        ),
        row("html", kind("htmlStatus"), Fate::Back, 0, 0),
        row(
            "status 502",
            json!({"kind": "gateway502", "route": "/convos/status"}),
            Fate::Back,
            0,
            0,
        ),
        row(
            "status rubbish",
            json!({"kind": "badJson", "route": "/convos/status"}),
            Fate::Back,
            0,
            0,
        ),
        row(
            "status hangs",
            json!({"kind": "hang", "route": "/convos/status"}),
            Fate::Back,
            0,
            0,
        ),
    ]
}

/// The answer to the claim call is lost or says nothing; the work itself was done where `done` says so.
fn unknown(route: &str, done: &Fate, not_done: &Fate) -> Vec<Row> {
    let on = |kind: &str| json!({"kind": kind, "route": route});
    let at = |at: &str| json!({"kind": "reset", "route": route, "at": at});
    let applied = |kind: &str, applied| json!({"kind": kind, "route": route, "applied": applied});
    let (done, not) = (*done, *not_done);
    vec![
        row("rubbish", on("badJson"), done, 1, 1),
        row("empty", on("emptyBody"), done, 1, 1),
        row("half", on("halfAnswer"), done, 1, 1),
        row("no id", on("missingFields"), done, 1, 1),
        row("reset before", at("before"), not, 1, 0),
        row("reset after", at("after"), done, 1, 1),
        row("502", applied("gateway502", false), not, 1, 0),
        row("502 applied", applied("gateway502", true), done, 1, 1),
        row("504 applied", applied("504", true), done, 1, 1),
        row("hang", on("hang"), not, 1, 0),
        row(
            "died before",
            json!({"kind": "dieClaiming", "at": "before"}),
            Fate::Replaced,
            1,
            0,
        ),
        row(
            "died after",
            json!({"kind": "dieClaiming", "at": "after"}),
            Fate::Replaced,
            1,
            1,
        ),
    ]
}

/// acceptance: D17, N15
#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_create_behind_a_wrapper() {
    let world = world("settle-create", "pool-server").await;
    let kind = |kind: &str| json!({"kind": kind});
    let mut rows = found_before_the_call();
    rows.extend(unknown(PROVISION, &Fate::Replaced, &Fate::Replaced));
    rows.extend([
        // The wrapper's whole loop of thirty attempts, at the simulator's speed.
        row("500 before", kind("create500Before"), Fate::Replaced, 1, 0),
        row("500 after", kind("create500After"), Fate::Replaced, 1, 1),
        row(
            "slow",
            json!({"kind": "createSlow", "ms": 12_000}),
            Fate::Replaced,
            1,
            3,
        ),
        row(
            "bound in between",
            kind("boundInBetween"),
            Fate::Replaced,
            1,
            0,
        ),
        row(
            "another program",
            kind("wrongDialect"),
            // It cannot even tell whether it is clean.
            Fate::Tainted("NotClean"),
            0,
            0,
        ),
        row("flapping", kind("flappingHealth"), Fate::Kept, 1, 1),
        row("no stream", kind("streamDown"), Fate::Kept, 1, 1),
        row(
            "twice on the way",
            kind("duplicateRequest"),
            Fate::Kept,
            1,
            2,
        ),
    ]);
    for row in &rows {
        run(&world, row, false).await;
    }
    world.finish().await;
}

/// A join that did happen is kept, however its answer was lost: its link is known.
///
/// acceptance: D08
#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_join_behind_a_wrapper() {
    let world = world("settle-join", "pool-server").await;
    let kind = |kind: &str| json!({"kind": kind});
    let mut rows = found_before_the_call();
    rows.extend(unknown(PROVISION, &Fate::Kept, &Fate::Replaced));
    rows.extend([
        row("500", kind("join500"), Fate::Replaced, 1, 0),
        row("bad invite", kind("joinBadInvite"), Fate::Replaced, 1, 0),
    ]);
    for row in &rows {
        run(&world, row, true).await;
    }
    world.finish().await;
}

/// acceptance: D17
#[tokio::test(flavor = "multi_thread")]
async fn every_end_at_a_gateway() {
    let world = world("settle-gateway", "gateway").await;
    let kind = |kind: &str| json!({"kind": kind});
    let creates = [
        row("500 before", kind("create500Before"), Fate::Replaced, 1, 0),
        row("500 after", kind("create500After"), Fate::Replaced, 1, 1),
        row("bound", kind("alreadyBound"), Fate::Tainted("Busy"), 0, 0),
        // Nothing was done by us, and somebody may be in it.
        row(
            "bound in between",
            kind("boundInBetween"),
            Fate::Tainted("Busy"),
            1,
            0,
        ),
        row(
            "token",
            kind("unauthorized"),
            Fate::Tainted("BadToken"),
            0,
            0,
        ),
        row(
            "no id",
            json!({"kind": "missingFields", "route": "/convos/conversation"}),
            Fate::Replaced,
            1,
            1,
        ),
    ];
    for row in &creates {
        run(&world, row, false).await;
    }
    let mut joins = unknown("/convos/join", &Fate::Kept, &Fate::Replaced);
    joins.push(row("500", kind("join500"), Fate::Replaced, 1, 0));
    for row in &joins {
        run(&world, row, true).await;
    }
    world.finish().await;
}

/// Until the first is gone it could still join: two agents in one conversation.
///
/// acceptance: D17
#[tokio::test(flavor = "multi_thread")]
async fn a_join_goes_on_only_when_the_first_agent_is_gone() {
    let world = world("settle-gone", "pool-server").await;
    world
        .patch_pool(json!({"claim": {"deadlineSeconds": 60}}))
        .await;
    let two = stock(&world, 2, 2).await;
    // All attempts of the first agent's wrapper.
    let rule = json!({"when": {"first": 30}, "fault": {"kind": "join500"}});
    world.sim.fault("agents", rule).await;
    let answer = claim(&world, body(true)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let served = text(&answer.body, "instanceId");
    let failed = two.iter().find(|i| i.spec.id != served).unwrap();
    let served = two.iter().find(|i| i.spec.id == served).unwrap();
    assert!(
        world.instance(&failed.spec.id).await.is_none(),
        "gone before the answer"
    );
    let calls = world.sim.calls("agents").await;
    let called = |i: &AgentInstance| {
        let of = |c: &&Value| c["path"] == PROVISION && c["host"] == host(i).as_str();
        calls.iter().find(of).unwrap()["time"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let ledger = world.sim.ledger().await;
    let name = &failed.spec.provider_name;
    let resources = ledger["resources"].as_array().unwrap();
    let service = resources
        .iter()
        .find(|r| r["name"] == name.as_str())
        .unwrap();
    let gone = service["deletedAt"].as_str().unwrap();
    assert!(
        called(failed).as_str() < gone && gone < called(served).as_str(),
        "{service}"
    );
    assert_eq!(account(&world, failed).await["binds"], json!([]));
    assert_eq!(
        account(&world, served).await["binds"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world.finish().await;
}

/// Reset and watched where the pool wants that; what is not clean after it, or no longer, is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_create_is_reset_where_the_pool_wants_it() {
    let world = world("settle-reset", "pool-server").await;
    world
        .patch_pool(json!({"runtime": {"failedClaim": "Reset"}}))
        .await;
    for (after, fate) in [
        (json!({"kind": "dirtyAfterReset"}), Fate::Replaced),
        (json!({"kind": "reset500"}), Fate::Replaced),
        (json!({"kind": "lateBind", "seconds": 60}), Fate::Replaced),
        (Value::Null, Fate::Back),
    ] {
        let agent = stock(&world, 1, 1).await.remove(0);
        // All attempts of the wrapper, and none after them.
        let fails = json!({"when": {"first": 30}, "fault": {"kind": "create500Before"}});
        world.sim.fault("agents", fails).await;
        if !after.is_null() {
            let rule = json!({"match": {"host": host(&agent)}, "fault": after});
            world.sim.fault("agents", rule).await;
        }
        let answer = claim(&world, body(false)).await;
        assert_eq!(answer.status, 500, "{after}: {}", answer.text);
        if matches!(fate, Fate::Back) {
            // Out of stock, and told why; the quarantine itself is a minute and a half (shown in virtual time).
            until("it settles", LONG, || async {
                let shown = world.kubectl(&["get", "ai", &agent.spec.id]);
                (shown.contains("Provisioning") && shown.contains("Settling")).then_some(())
            })
            .await;
            assert_eq!(claim(&world, body(false)).await.body["code"], "no_idle");
        } else {
            world.wait_gone(&agent.spec.id).await;
        }
        let seen = account(&world, &agent).await;
        assert_eq!(
            (&seen["claimCalls"], &seen["resets"]),
            (&json!(1), &json!(1)),
            "{after}"
        );
        world.sim.heal("agents").await;
    }
    world.sim.check_calls().await;
}

/// With the shared key of the pool as the only other way in.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_falls_back_once_on_the_shared_key() {
    let world = World::start("settle-shared").await;
    world
        .secret("shared", "key", "a-key-of-the-pool-with-32-characters")
        .await;
    let runtime = json!({"sharedKeySecretRef": {"name": "shared", "key": "key"}});
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 3600, "runtime": runtime});
    world.create_pool(POOL, spec).await;
    let agent = world.wait_idle(1).await.remove(0);
    let fault =
        json!({"kind": "unauthorized", "sharedKey": "a-key-of-the-pool-with-32-characters"});
    world.sim.fault("agents", json!({"fault": fault})).await;
    let answer = world.claim("Ada").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let seen = account(&world, &agent).await;
    assert_eq!(
        (&seen["claimCalls"], &seen["claimsRefused"]),
        (&json!(2), &json!(1)),
        "{seen}"
    );
    assert_eq!(seen["conversationsMade"], 1);
    world.finish().await;
}

/// Nobody recorded what came of a join whose process was killed: the agent tells.
///
/// acceptance: B29
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_settled_without_a_second_call() {
    for (name, join, route) in [
        ("left-join", true, "joined"),
        ("left-create", false, "created"),
    ] {
        let mut world = world(name, "pool-server").await;
        world
            .patch_pool(json!({"claim": {"deadlineSeconds": 8}}))
            .await;
        let slow = json!({"defaults": {"create": 40_000, "join": 40_000, "joinWait": 60_000}});
        world.sim.set("agents", slow).await;
        let agent = stock(&world, 1, 1).await.remove(0);
        let api = world.operator.as_ref().unwrap().api.clone();
        let request = reqwest::Client::new().post(format!("{api}/api/pool/claim"));
        let request = request.header("authorization", bearer()).json(&body(join));
        let asked = tokio::spawn(request.send());
        wait_called(&world, std::slice::from_ref(&agent)).await;
        world.operator().kill();
        assert!(asked.await.unwrap().is_err(), "{route}: nobody answers");
        world.start_operator(&[]);
        if join {
            until("it is kept", LONG, || async {
                let now = world.instance(&agent.spec.id).await.expect("it joined");
                (phase_of(&now) == Phase::Claimed).then_some(())
            })
            .await;
            let kept = world.instance(&agent.spec.id).await.unwrap();
            let (asked, done) = (
                kept.spec.claim.unwrap(),
                kept.status.unwrap().claim.unwrap(),
            );
            assert_eq!((asked.id, true), (done.id, done.joined));
            assert_eq!(done.invite_url.as_deref(), Some(LINK));
            let bound = account(&world, &agent).await["binds"][0]["id"].clone();
            assert_eq!(json!(done.conversation_id), bound);
        } else {
            world.wait_gone(&agent.spec.id).await;
        }
        assert_eq!(account(&world, &agent).await["claimCalls"], 1);
        world.finish().await;
    }
}
