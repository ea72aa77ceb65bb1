//! Replenish, drain, reconcile and the removal of instances, against an API server that checks preconditions.

use std::time::Duration;

use agentpool::api::ANNOTATION_REQUESTS;
use serde_json::{Value, json};

use crate::world::{World, claim, instance, pool, protected};

async fn drain(world: &World, body: Value) -> Value {
    let answer = world.call("POST", "/api/pool/drain", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn deleted(world: &World) -> Vec<String> {
    world.cluster.lock().unwrap().deleted.clone()
}

fn annotation(world: &World) -> Option<String> {
    let cluster = world.cluster.lock().unwrap();
    cluster.pools["agents/staging"]["metadata"]["annotations"][ANNOTATION_REQUESTS]
        .as_str()
        .map(str::to_owned)
}

/// About: D24, D25
#[tokio::test(start_paused = true)]
async fn drain_takes_the_oldest_idle_ones() {
    let world = World::new();
    world.add([
        instance("i1", "Idle", 1),
        instance("i3", "Idle", 3),
        instance("i2", "Idle", 2),
        protected(instance("i9", "Idle", 9)),
        instance("s9", "Provisioning", 9),
        instance("d8", "Dead", 8),
        instance("c9", "Claimed", 9),
        instance("q9", "Claiming", 9),
        instance("p9", "PendingAcceptance", 9),
        instance("x9", "Crashed", 9),
        instance("t9", "Tainted", 9),
        instance("z9", "Sleeping", 9),
        instance("r9", "Recycling", 9),
    ]);
    let one = drain(&world, Value::Null).await;
    assert_eq!(
        (
            &one["ok"],
            &one["drained"],
            &one["drainedIds"],
            &one["failed"]
        ),
        (&json!(true), &json!(1), &json!(["i3"]), &json!(0))
    );
    assert_eq!(
        (&one["counts"]["idle"], &one["counts"]["terminating"]),
        (&json!(3), &json!(1)),
        "the answer's counts know of it"
    );
    assert_eq!(
        drain(&world, json!({"count": "2"})).await["drainedIds"],
        json!(["i2", "i1"])
    );
    assert_eq!(
        drain(&world, json!({"count": 1000})).await["drained"],
        json!(0)
    );
    let rest = drain(&world, json!({"count": 20, "scope": "unclaimed"})).await;
    assert_eq!(rest["drainedIds"], json!(["s9", "d8"]));
    assert_eq!(deleted(&world), ["i3", "i2", "i1", "s9", "d8"]);
}

/// About: N08
#[tokio::test]
async fn a_negative_drain_is_refused() {
    let world = World::new();
    for count in [json!(-1), json!("-3")] {
        world
            .call("POST", "/api/pool/drain", json!({"count": count}))
            .await
            .fails(400, "bad_request", "count must be a positive integer");
    }
    assert!(deleted(&world).is_empty());
}

/// trap: idle removed while being assigned
#[tokio::test(start_paused = true)]
async fn drain_skips_what_was_claimed_meanwhile() {
    let world = World::new();
    world.add([instance("old", "Idle", 9), instance("new", "Idle", 1)]);
    world
        .cluster
        .lock()
        .unwrap()
        .before_delete
        .push_back(Box::new(|object| claim(object, 1, None)));
    assert_eq!(
        drain(&world, json!({"count": 1})).await["drainedIds"],
        json!(["new"])
    );
    assert_eq!(deleted(&world), ["new"]);
}

#[tokio::test(start_paused = true)]
async fn drain_takes_what_changed_otherwise_and_spares_what_was_protected() {
    let world = World::new();
    world.add([instance("a", "Idle", 9), instance("b", "Idle", 1)]);
    {
        let mut cluster = world.cluster.lock().unwrap();
        cluster.before_delete.push_back(Box::new(|object| {
            object["status"]["runtime"]["version"] = json!("1.3")
        }));
        cluster.before_delete.push_back(Box::new(|object| {
            object["status"]["runtime"]["version"] = json!("1.4")
        }));
    }
    assert_eq!(
        drain(&world, json!({"count": 1})).await["drainedIds"],
        json!(["a"])
    );
    world
        .cluster
        .lock()
        .unwrap()
        .before_delete
        .push_back(Box::new(|object| *object = protected(object.clone())));
    assert_eq!(
        drain(&world, json!({"count": 1})).await["drained"],
        json!(0)
    );
    assert_eq!(deleted(&world), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn drain_counts_what_failed() {
    let world = World::new();
    world.add([instance("a", "Idle", 9)]);
    for n in 0..9 {
        world
            .cluster
            .lock()
            .unwrap()
            .before_delete
            .push_back(Box::new(move |o| {
                o["status"]["runtime"]["version"] = json!(n.to_string())
            }));
    }
    let report = drain(&world, json!({"count": 5})).await;
    assert_eq!(
        (&report["ok"], &report["drained"], &report["failed"]),
        (&json!(true), &json!(0), &json!(1))
    );
}

/// About: D18
#[tokio::test]
async fn the_bulk_delete_only_lists() {
    let world = World::new();
    world.add([
        instance("c1", "Claimed", 1),
        instance("c2", "Claimed", 2),
        instance("i", "Idle", 1),
        instance("x", "Crashed", 1),
    ]);
    world
        .call("DELETE", "/api/pool/instances", Value::Null)
        .await
        .is(200, json!({"ids": ["c1", "c2"]}));
    assert!(deleted(&world).is_empty());
}

/// About: D20, D21
#[tokio::test]
async fn any_phase_can_be_killed() {
    let world = World::new();
    let phases = [
        "Provisioning",
        "Idle",
        "Claiming",
        "Claimed",
        "PendingAcceptance",
        "Recycling",
        "Sleeping",
        "Crashed",
        "Tainted",
        "Dead",
    ];
    for phase in phases {
        let (killed, destroyed) = (
            format!("k{}", phase.to_lowercase()),
            format!("d{}", phase.to_lowercase()),
        );
        world.add([instance(&killed, phase, 1), instance(&destroyed, phase, 1)]);
        world
            .call(
                "DELETE",
                &format!("/api/pool/instances/{killed}"),
                Value::Null,
            )
            .await
            .is(200, json!({"ok": true, "action": "destroyed"}));
        world
            .call(
                "DELETE",
                &format!("/api/pool/instances/{destroyed}/destroy"),
                Value::Null,
            )
            .await
            .is(200, json!({"ok": true}));
        world
            .call(
                "DELETE",
                &format!("/api/pool/instances/{killed}"),
                Value::Null,
            )
            .await
            .is(200, json!({"ok": true, "alreadyGone": true}));
    }
    assert_eq!(deleted(&world).len(), 2 * phases.len());
}

#[tokio::test]
async fn kill_knows_modes_protection_and_conflicts() {
    let world = World::new();
    let kill = async |path: &str| {
        world
            .call(
                "DELETE",
                &format!("/api/pool/instances/{path}"),
                Value::Null,
            )
            .await
    };
    for unknown in ["nothing", "nothing/destroy", "..%2f..", "rnM8UBQ_fZCz"] {
        kill(unknown)
            .await
            .is(200, json!({"ok": true, "alreadyGone": true}));
    }
    world.add([
        protected(instance("p", "Claimed", 1)),
        instance("a", "Claimed", 1),
        instance("b", "Idle", 1),
        instance("c", "Idle", 1),
        instance("rnM8UBQ_fZCz", "Claimed", 1),
    ]);
    for path in ["p", "p/destroy", "p?mode=destroy"] {
        kill(path).await.is(403, json!({"error": "Instance p is protected and cannot be killed", "code": "protected", "instanceId": "p"}));
    }
    kill("a?mode=sell").await.fails(
        400,
        "bad_request",
        "mode must be 'recycle' or 'destroy' if provided",
    );
    // Changed and even claimed between the read and the DELETE: read again, and repeated.
    world
        .cluster
        .lock()
        .unwrap()
        .before_delete
        .push_back(Box::new(|object| claim(object, 1, None)));
    kill("b")
        .await
        .is(200, json!({"ok": true, "action": "destroyed"}));
    world
        .cluster
        .lock()
        .unwrap()
        .before_delete
        .push_back(Box::new(|object| *object = protected(object.clone())));
    assert_eq!(kill("c/destroy").await.status, 403);
    let answer = kill("a?wait=false&mode=recycle").await;
    answer.is(202, json!({"ok": true, "action": "destroyed"}));
    kill("rnM8UBQ_fZCz")
        .await
        .is(200, json!({"ok": true, "action": "destroyed"}));
    assert_eq!(deleted(&world), ["b", "a", "rnM8UBQ_fZCz"]);
}

#[tokio::test]
async fn another_pools_agent_is_out_of_reach_but_an_orphan_is_not() {
    let world = World::new();
    world
        .cluster
        .lock()
        .unwrap()
        .put_pool(pool("agents", "dev"));
    let of = |id: &str, pool: &str| {
        let mut object = instance(id, "Claimed", 1);
        object["spec"]["poolRef"]["name"] = json!(pool);
        object
    };
    world.add([of("foreign", "dev"), of("orphan", "removed")]);
    let kill = async |id: &str| {
        world
            .call(
                "DELETE",
                &format!("/pools/agents/staging/api/pool/instances/{id}"),
                Value::Null,
            )
            .await
    };
    kill("foreign")
        .await
        .is(200, json!({"ok": true, "alreadyGone": true}));
    kill("orphan")
        .await
        .is(200, json!({"ok": true, "action": "destroyed"}));
    assert_eq!(deleted(&world), ["orphan"]);
}

/// About: D28
#[tokio::test]
async fn only_a_crashed_agent_is_dismissed() {
    let world = World::new();
    world.add([instance("x", "Crashed", 1), instance("c", "Claimed", 1)]);
    let dismiss = async |id: &str| {
        world
            .call("DELETE", &format!("/api/pool/crashed/{id}"), Value::Null)
            .await
    };
    dismiss("c")
        .await
        .fails(404, "not_found", "Crashed instance c not found");
    dismiss("nothing")
        .await
        .fails(404, "not_found", "Crashed instance nothing not found");
    // It came back to life just before.
    world
        .cluster
        .lock()
        .unwrap()
        .before_delete
        .push_back(Box::new(|object| object["status"]["verdict"] = Value::Null));
    dismiss("x")
        .await
        .fails(404, "not_found", "Crashed instance x not found");
    world.add([instance("x", "Crashed", 1)]);
    dismiss("x").await.is(200, json!({"ok": true}));
    assert_eq!(deleted(&world), ["x"]);
}

/// About: D22, N06
#[tokio::test(start_paused = true)]
async fn replenish_asks_the_controller_and_tells_what_it_made() {
    let world = World::new();
    world.add([instance("n1", "Provisioning", 1)]);
    world.cluster.lock().unwrap().conflicts = 3;
    world.cluster.lock().unwrap().controller = Box::new(|_| {
        Some(
            json!({"state": "Done", "ids": ["n1", "n2"], "message": "the third could not be written"}),
        )
    });
    let answer = world
        .call("POST", "/api/pool/replenish", json!({"count": "3"}))
        .await
        .json();
    assert_eq!(
        (
            &answer["ok"],
            &answer["created"],
            &answer["failed"],
            &answer["errors"]
        ),
        (
            &json!(true),
            &json!(2),
            &json!(1),
            &json!(["the third could not be written"])
        )
    );
    assert_eq!(
        answer["instances"][0],
        json!({"id": "n1", "serviceId": null, "url": null, "name": "convos-agent-stg-n1"})
    );
    assert_eq!(
        answer["instances"][1]["name"], "convos-agent-stg-n2",
        "not in the cache yet"
    );
    assert_eq!(answer["counts"]["starting"], 1);
    assert!(answer.get("capped").is_none());
    let asked = world.cluster.lock().unwrap().asked.clone();
    assert_eq!(
        (asked.len(), &asked[0]["kind"], &asked[0]["count"]),
        (1, &json!("Replenish"), &json!(3))
    );
    assert_eq!(annotation(&world), None, "the API takes its entry away");
    world.cluster.lock().unwrap().controller = Box::new(|_| {
        Some(json!({"state": "Done", "ids": [], "capped": true, "message": "maxTotal"}))
    });
    let capped = world
        .call("POST", "/api/pool/replenish", json!({"count": 1000}))
        .await
        .json();
    assert_eq!(
        (&capped["created"], &capped["capped"], &capped["failed"]),
        (&json!(0), &json!(true), &json!(0))
    );
    assert_eq!(world.cluster.lock().unwrap().asked[1]["count"], 20);
    world.cluster.lock().unwrap().controller =
        Box::new(|_| Some(json!({"state": "Failed", "message": "the breaker is open"})));
    let failed = world
        .call("POST", "/api/pool/replenish", json!({"count": 2}))
        .await;
    assert_eq!(
        (
            failed.status.as_u16(),
            failed.json()["created"].clone(),
            failed.json()["errors"].clone()
        ),
        (200, json!(0), json!(["the breaker is open"]))
    );
}

/// About: D23
#[tokio::test(start_paused = true)]
async fn replenish_without_a_count_is_a_cycle() {
    let world = World::new();
    world.cluster.lock().unwrap().controller =
        Box::new(|_| Some(json!({"state": "Done", "count": 2, "ids": ["a"]})));
    for count in [
        Value::Null,
        json!({"count": 0}),
        json!({"count": -2}),
        json!({"count": "x"}),
    ] {
        let answer = world
            .call("POST", "/api/pool/replenish", count)
            .await
            .json();
        assert_eq!(
            (&answer["ok"], &answer["checkStarting"]),
            (&json!(true), &json!({"checked": 2, "promoted": ["a"]}))
        );
        assert_eq!(answer["counts"]["idle"], 0);
    }
    assert!(
        world
            .cluster
            .lock()
            .unwrap()
            .asked
            .iter()
            .all(|entry| entry["kind"] == "Cycle")
    );
}

/// About: D26
#[tokio::test(start_paused = true)]
async fn reconcile_tells_what_it_cleaned_or_why_not() {
    let world = World::new();
    world.cluster.lock().unwrap().controller =
        Box::new(|_| Some(json!({"state": "Done", "count": 2})));
    let answer = world
        .call("POST", "/api/pool/reconcile", Value::Null)
        .await
        .json();
    assert_eq!(
        (&answer["ok"], &answer["cleaned"], &answer["counts"]["idle"]),
        (&json!(true), &json!(2), &json!(0))
    );
    world.cluster.lock().unwrap().controller = Box::new(|_| {
        Some(json!({"state": "Failed", "message": "the provider could not be listed"}))
    });
    world
        .call("POST", "/api/pool/reconcile", Value::Null)
        .await
        .fails(500, "upstream", "the provider could not be listed");
    assert_eq!(annotation(&world), None);
}

#[tokio::test(start_paused = true)]
async fn callers_of_reconcile_share_the_one_that_runs() {
    let world = World::new();
    let (first, second) = tokio::join!(
        world.call("POST", "/api/pool/reconcile", Value::Null),
        async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let answer = world.call("POST", "/api/pool/reconcile", Value::Null);
            tokio::join!(answer, async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let mut cluster = world.cluster.lock().unwrap();
                assert_eq!(cluster.asked.len(), 1);
                let id = cluster.asked[0]["id"].as_str().unwrap().to_owned();
                let mut object = cluster.pools["agents/staging"].clone();
                object["status"]["requests"][id] =
                    json!({"state": "Done", "count": 7, "at": "2026-11-21T12:00:00Z"});
                cluster.put_pool(object);
            })
            .0
        }
    );
    assert_eq!(
        (
            first.json()["cleaned"].clone(),
            second.json()["cleaned"].clone()
        ),
        (json!(7), json!(7))
    );
    assert_eq!(annotation(&world), None);
}

/// A Replenish that nobody answered is taken back; what may run on without harm runs on.
#[tokio::test(start_paused = true)]
async fn a_silent_controller_is_still_running_after_thirty_seconds() {
    let world = World::new();
    let began = world.state.clock.monotonic();
    world.cluster.lock().unwrap().controller = Box::new(|_| Some(json!({"state": "Running"})));
    for (path, body, left) in [
        ("/api/pool/replenish", json!({"count": 2}), 0),
        ("/api/pool/reconcile", Value::Null, 1),
        ("/api/pool/replenish", Value::Null, 2),
        ("/api/pool/reconcile", Value::Null, 2),
    ] {
        world
            .call("POST", path, body)
            .await
            .fails(500, "still_running", "still running");
        let list = annotation(&world).unwrap_or_else(|| "[]".to_owned());
        assert_eq!(
            serde_json::from_str::<Vec<Value>>(&list).unwrap().len(),
            left,
            "{path}: {list}"
        );
    }
    let took = (world.state.clock.monotonic() - began).as_secs_f64();
    assert!((120.0..122.0).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn entries_have_a_bound_and_answered_ones_make_room() {
    let world = World::new();
    let entries: Vec<Value> = (0..32)
        .map(|n| json!({"id": format!("e{n}"), "kind": "Cycle"}))
        .collect();
    let mut object = pool("agents", "staging");
    object["metadata"]["annotations"] = json!({ANNOTATION_REQUESTS: json!(entries).to_string()});
    world.cluster.lock().unwrap().put_pool(object.clone());
    let full = world.call("POST", "/api/pool/replenish", Value::Null).await;
    assert_eq!(
        (full.status.as_u16(), full.json()["code"].clone()),
        (503, json!("capacity"))
    );
    object["status"] = json!({"requests": {"e3": {"state": "Done", "at": "2026-11-21T12:00:00Z"}}});
    world.cluster.lock().unwrap().put_pool(object);
    world.cluster.lock().unwrap().controller = Box::new(|entry| {
        entry["id"]
            .as_str()?
            .len()
            .gt(&3)
            .then(|| json!({"state": "Done"}))
    });
    assert_eq!(
        world
            .call("POST", "/api/pool/replenish", Value::Null)
            .await
            .status,
        200
    );
    let left: Vec<Value> = serde_json::from_str(&annotation(&world).unwrap()).unwrap();
    assert!(
        left.len() == 31 && left.iter().all(|entry| entry["id"] != "e3"),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_is_taken_away_although_its_caller_left() {
    let world = World::new();
    let call = world.call("POST", "/api/pool/replenish", json!({"count": 2}));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), call)
            .await
            .is_err()
    );
    assert!(annotation(&world).is_some());
    world.state.tasks.close();
    world.state.tasks.wait().await;
    assert_eq!(annotation(&world), None);
}
