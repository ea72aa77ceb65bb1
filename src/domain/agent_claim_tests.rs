use serde_json::{Value, json};

use super::*;

fn claim(change: Value) -> AgentClaim {
    let mut object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentClaim",
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"poolRef": {"name": "p"}, "agentName": "Ada", "instructions": "Be kind."},
    });
    merge(&mut object, &change);
    serde_json::from_value(object).unwrap()
}

fn merge(value: &mut Value, change: &Value) {
    match (value, change) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, change) in from {
                merge(into.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change.clone(),
    }
}

/// An instance that names claim `c`: `outcome` of its claim, where there is one.
fn instance(id: &str, outcome: Option<&str>, change: Value) -> AgentInstance {
    let mut object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": id, "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"id": id, "poolRef": {"name": "p"}, "providerName": id, "turn": 1,
            "template": {"revision": "r", "hash": "h"},
            "claim": {"id": format!("claim-{id}"), "holder": "h", "deadline": "2026-01-01T00:00:00Z",
                "requestedAt": "2026-01-01T00:00:00Z", "agentName": "Ada", "ref": "c"}},
        "status": {"turn": 1},
    });
    if let Some(outcome) = outcome {
        object["status"]["claim"] = json!({"id": format!("claim-{id}"), "outcome": outcome, "joined": false,
            "claimedAt": "2026-01-01T00:00:05Z"});
    }
    merge(&mut object, &change);
    serde_json::from_value(object).unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn the_order_is_by_arrival_to_the_microsecond_then_by_name() {
    let at = |name: &str, at: Option<&str>| {
        let mut change = json!({"metadata": {"name": name}});
        if let Some(at) = at {
            change["spec"] = json!({"enqueuedAt": at});
        }
        place(&claim(change))
    };
    let mut all = [
        at("e", Some("2026-01-01T00:00:00.000002Z")),
        at("d", None),
        at("c", Some("2026-01-01T00:00:00.000001Z")),
        at("b", Some("2026-01-01T00:00:00.000002Z")),
    ];
    all.sort();
    let names: Vec<&str> = all.iter().map(|p| p.1.as_str()).collect();
    assert_eq!(names, ["d", "c", "b", "e"]);
}

/// trap: queued claims × scale to zero. Who waits is demand; who only holds a link, is finished or goes is none.
#[test]
fn who_waits_is_demand() {
    for (change, waiting) in [
        (json!({}), true),
        (json!({"spec": {"waitSeconds": 5}}), true),
        (json!({"spec": {"waitSeconds": 0}}), false),
        (json!({"spec": {"origin": "HTTP"}}), false),
        (json!({"spec": {"origin": "HTTP", "waitSeconds": 5}}), true),
        (
            json!({"spec": {"origin": "HTTP", "waitSeconds": 5, "for": "k-1"}}),
            false,
        ),
        (json!({"status": {"phase": "Waiting"}}), true),
        (json!({"status": {"done": true}}), false),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            false,
        ),
    ] {
        assert_eq!(waits(&claim(change.clone())), waiting, "{change}");
    }
    assert_eq!(patience(&claim(json!({}))), None, "as long as it takes");
    let http = claim(json!({"spec": {"origin": "HTTP"}}));
    assert_eq!(patience(&http), Some(Duration::ZERO));
}

#[test]
fn whoever_took_it_last_drives_it_else_its_creator_else_nobody() {
    assert_eq!(driver(&claim(json!({}))), None);
    assert_eq!(next_driver(&claim(json!({})), "me").attempt, 1);
    let created = claim(json!({"spec": {"driver": "a"}}));
    assert_eq!(driver(&created).unwrap().replica, "a");
    let taken = claim(
        json!({"spec": {"driver": "a"}, "status": {"driver": {"replica": "b", "attempt": 7}}}),
    );
    assert_eq!(driver(&taken).unwrap().replica, "b");
    let next = next_driver(&taken, "me");
    assert_eq!((next.replica.as_str(), next.attempt), ("me", 8));
}

/// Every origin, driver, wait, end and age: a claim is taken only where nobody drives it, or its driver stood still for
/// as long as it could have worked.
#[test]
fn a_claim_is_taken_only_when_its_driver_cannot_be_at_work() {
    let deadline = MINUTE;
    for origin in ["HTTP", "Manifest"] {
        for driven in [
            None,
            Some(json!({"spec": {"driver": "a"}})),
            Some(json!({"status": {"driver": {"replica": "b", "attempt": 1}}})),
        ] {
            for wait in [None, Some(0), Some(30), Some(100_000)] {
                for over in [
                    json!({}),
                    json!({"status": {"done": true}}),
                    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                    json!({"spec": {"for": "k"}}),
                ] {
                    let mut change = json!({"spec": {"origin": origin}});
                    if let Some(wait) = wait {
                        change["spec"]["waitSeconds"] = json!(wait);
                    }
                    merge(&mut change, &driven.clone().unwrap_or(json!({})));
                    merge(&mut change, &over);
                    let it = claim(change.clone());
                    let waited = match (origin, wait) {
                        ("HTTP", Some(wait)) => Duration::from_secs(wait).min(WAIT_MAX),
                        _ => Duration::ZERO,
                    };
                    let limit = waited + deadline + STILL_MARGIN;
                    for still in [
                        Duration::ZERO,
                        deadline,
                        limit - Duration::from_millis(1),
                        limit,
                        limit * 9,
                    ] {
                        let want = if over != json!({}) {
                            Duty::None
                        } else if driven.is_none() || still >= limit {
                            Duty::Take
                        } else {
                            Duty::Leave(limit - still)
                        };
                        assert_eq!(duty(&it, still, deadline), want, "{change} {still:?}");
                    }
                }
            }
        }
    }
}

/// All pairs of what two instances that name a claim may be, with and without a recorded one: at most one is the claim's
/// own, what is in flight is awaited, and every other bound one is surplus.
#[test]
fn of_the_agents_that_name_a_claim_one_is_its_own_and_the_others_are_surplus() {
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let cleared = json!({"spec": {"claim": null}});
    let kept = json!({"metadata": {"labels": {"pool.convos.org/protected": "true"}}});
    let lost = json!({"status": {"turn": null}});
    let other = json!({"status": {"claim": {"id": "an earlier one", "outcome": "Bound"}}});
    // What it is, whether it is bound, in flight, may be replaced.
    let kinds: Vec<(Option<&str>, Value, bool, bool, bool)> = vec![
        (Some("Bound"), json!({}), true, false, true),
        (Some("Pending"), json!({}), true, false, true),
        (Some("Bound"), kept, true, false, false),
        (None, lost, true, false, true),
        (None, json!({}), false, true, false),
        (Some("Bound"), other, false, true, false),
        (Some("Failed"), json!({}), false, false, false),
        (Some("Bound"), gone, false, false, false),
        (None, cleared, false, false, false),
    ];
    for (outcome_a, change_a, bound_a, flight_a, surplus_a) in &kinds {
        for (outcome_b, change_b, bound_b, flight_b, surplus_b) in &kinds {
            let a = instance("a", *outcome_a, change_a.clone());
            let b = instance("b", *outcome_b, change_b.clone());
            for recorded in [None, Some("a"), Some("b"), Some("x")] {
                let found = named(recorded, &[b.clone(), a.clone()]);
                let what = format!(
                    "{outcome_a:?} {change_a} {outcome_b:?} {change_b} {recorded:?}: {found:?}"
                );
                assert_eq!(found.unsettled, *flight_a || *flight_b, "{what}");
                let own = found.own.as_deref();
                match recorded {
                    None => assert_eq!(own.is_some(), *bound_a || *bound_b, "{what}"),
                    Some("a") => assert_eq!(own, bound_a.then_some("a"), "{what}"),
                    Some("b") => assert_eq!(own, bound_b.then_some("b"), "{what}"),
                    Some(_) => assert_eq!(own, None, "{what}"),
                }
                let mut surplus = vec![];
                for (id, bound, may) in [("a", bound_a, surplus_a), ("b", bound_b, surplus_b)] {
                    if *bound && *may && own != Some(id) {
                        surplus.push(id.to_owned());
                    }
                }
                let mut told = found.surplus.clone();
                told.sort();
                assert_eq!(told, surplus, "{what}");
            }
        }
    }
}

#[test]
fn of_two_bound_agents_the_one_that_was_bound_first_is_the_claim_s() {
    let first = json!({"status": {"claim": {"claimedAt": "2026-01-01T00:00:01Z"}}});
    let (a, b) = (
        instance("a", Some("Bound"), json!({})),
        instance("b", Some("Bound"), first),
    );
    assert_eq!(named(None, &[a.clone(), b.clone()]).own.unwrap(), "b");
    assert_eq!(named(None, &[b, a]).own.unwrap(), "b", "whoever looks");
    assert_eq!(named(None, &[]), Named::default());
}

#[test]
fn a_link_is_taken_while_its_agent_is_in_the_conversation_or_on_its_way() {
    let verdict = |state: &str| json!({"status": {"verdict": {"state": state, "reason": "r", "since": "2026-01-01T00:00:00Z"}}});
    for (outcome, change, holds) in [
        (None, json!({}), true),
        (Some("Bound"), json!({}), true),
        (Some("Pending"), json!({}), true),
        (
            Some("Bound"),
            json!({"status": {"provider": {"state": "Sleeping"}}}),
            true,
        ),
        (Some("Bound"), verdict("Crashed"), false),
        (Some("Bound"), verdict("Tainted"), false),
        (
            Some("Bound"),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            false,
        ),
        (None, json!({"spec": {"claim": null}}), false),
    ] {
        let it = instance("a", outcome, change.clone());
        assert_eq!(holds_link(&it), holds, "{outcome:?} {change}");
    }
}

/// Every place, stock, standstill and patience.
#[test]
fn a_waiter_is_served_in_order_overtakes_who_stands_still_and_gives_up_in_time() {
    let second = Duration::from_secs(1);
    for older in 0..4 {
        for free in 0..4 {
            for first in [false, true] {
                for blocked in [Duration::ZERO, second / 2, second, second * 9] {
                    for left in [
                        None,
                        Some(Duration::ZERO),
                        Some(second / 10),
                        Some(second * 60),
                    ] {
                        let queue = Queue {
                            older,
                            free,
                            first,
                            blocked,
                            left,
                        };
                        let turn = turn(&queue);
                        let in_order = older < free || first && older == 0;
                        let stuck = free > 0 && blocked >= OVERTAKE_AFTER;
                        match turn {
                            Turn::Claim => assert!(in_order || stuck, "{queue:?}"),
                            Turn::GiveUp => {
                                assert!(!in_order && !stuck && left == Some(Duration::ZERO));
                            }
                            Turn::Wait(limit) => {
                                assert!(!in_order && !stuck, "{queue:?}");
                                assert!(!limit.is_zero() && limit <= OVERTAKE_AFTER, "{queue:?}");
                                assert!(left.is_none_or(|left| limit <= left), "{queue:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn how_long_an_agent_takes_is_the_median_of_the_youngest_that_came_into_stock() {
    let took = |n: i64, seconds: i64, change: Value| {
        let created = jiff::Timestamp::from_second(1_000_000 + n).unwrap();
        let ready = jiff::Timestamp::from_second(1_000_000 + n + seconds).unwrap();
        let mut object = json!({
            "metadata": {"creationTimestamp": created.to_string()},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Idle", "message": "",
                "lastTransitionTime": ready.to_string()}]},
        });
        merge(&mut object, &change);
        instance(&format!("i{n}"), None, object)
    };
    let of = |all: &[AgentInstance]| refill_time(all.iter()).map(|d| d.as_secs());
    assert_eq!(of(&[]), None);
    let building = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Booting",
        "message": "", "lastTransitionTime": "1970-01-12T13:46:41Z"}]}});
    assert_eq!(of(&[took(1, 9, building)]), None);
    let again = json!({"spec": {"turn": 2}});
    assert_eq!(
        of(&[took(1, 9, again)]),
        None,
        "a later turn says nothing of a creation"
    );
    let skewed = took(1, -5, json!({}));
    assert_eq!(of(&[skewed]), None);
    assert_eq!(of(&[took(1, 100_000, json!({}))]), Some(900));
    let three = [30, 10, 20].map(|s| took(s, s, json!({})));
    assert_eq!(of(&three), Some(20));
    let mut many: Vec<_> = (0..20).map(|n| took(100 + n, 5, json!({}))).collect();
    many.extend((0..20).map(|n| took(n, 500, json!({}))));
    assert_eq!(of(&many), Some(5), "the youngest count");
}

#[test]
fn each_place_is_promised_the_agent_that_is_built_for_it() {
    let seconds = |s: &[u64]| {
        s.iter()
            .map(|s| Duration::from_secs(*s))
            .collect::<Vec<_>>()
    };
    let refill = Some(Duration::from_secs(40));
    for (position, ages, want) in [
        (1, &[][..], 40),
        (1, &[10][..], 30),
        (1, &[10, 30][..], 10),
        (2, &[10, 30][..], 30),
        (3, &[10, 30][..], 40),
        (1, &[90][..], 1),
        (0, &[10][..], 30),
    ] {
        let told = expected(position, refill, &seconds(ages));
        assert_eq!(told.as_secs(), want, "{position} {ages:?}");
    }
    assert_eq!(expected(1, None, &[]), REFILL_UNKNOWN);
}

#[test]
fn a_manifest_ends_by_itself_only_after_its_end_and_only_if_it_says_so() {
    let finished = json!({"done": true, "finishedAt": "2026-01-01T00:01:00Z"});
    let at = |second: i64| {
        "2026-01-01T00:01:00Z"
            .parse::<jiff::Timestamp>()
            .unwrap()
            .checked_add(jiff::SignedDuration::from_secs(second))
            .unwrap()
    };
    let with = |ttl: Value, status: Value| {
        claim(json!({"spec": {"ttlSecondsAfterFinished": ttl}, "status": status}))
    };
    assert_eq!(
        ended(&claim(json!({"status": finished})), at(9999)),
        Ended::Never
    );
    let open = json!({"phase": "Waiting"});
    assert_eq!(ended(&with(json!(1), open), at(9999)), Ended::Never);
    let timed = with(json!(10), finished.clone());
    assert_eq!(ended(&timed, at(0)), Ended::In(Duration::from_secs(10)));
    assert_eq!(ended(&timed, at(10)), Ended::Now);
    assert_eq!(ended(&timed, at(11)), Ended::Now);
    assert_eq!(ended(&with(json!(0), finished), at(0)), Ended::Now);
}

#[test]
fn what_the_api_keeps_is_forgotten_by_its_kind() {
    let day = Duration::from_secs(86_400);
    for age in [Duration::ZERO, FORGOTTEN_AFTER, day - MINUTE, day] {
        for has_agent in [false, true] {
            let expiry = Expiry {
                age,
                has_agent,
                kept: day,
            };
            assert_eq!(is_expired("k-a", &expiry), age >= day);
            assert_eq!(
                is_expired("j-a", &expiry),
                age >= FORGOTTEN_AFTER && !has_agent
            );
            assert_eq!(is_expired("w-a", &expiry), age >= FORGOTTEN_AFTER);
            assert!(!is_expired("mine", &expiry) && !is_expired("x-y", &expiry));
        }
    }
}

#[test]
fn what_cannot_work_is_refused_with_what_to_do() {
    assert_eq!(refused("Ada", &"x".repeat(100_000)), None);
    let long = "é".repeat(50_001);
    for (name, instructions) in [
        ("Ada", long.as_str()),
        (" Ada", "x"),
        ("Ada ", "x"),
        ("-Ada", "x"),
        ("A\u{7}da", "x"),
        ("   ", "x"),
    ] {
        let words = refused(name, instructions).unwrap();
        assert!(words.contains("delete this AgentClaim"), "{words}");
    }
}
