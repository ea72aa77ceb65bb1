//! Every situation × listing × evidence × memory: no rule of `domain::invariant` is ever broken.

use std::time::Duration;

use serde_json::json;

use super::super::super::fixture::*;
use super::super::super::outcome;
use super::super::super::view::{Evidence, Inside, Memory};
use super::super::{CLAIMING_SHOWN_AFTER, TWICE_APART, UNBOUND_APART};
use crate::api::condition::Reason;
use crate::domain::invariant::broken;
use crate::domain::plan::{Class, Repeat, Seen, Step};
use crate::domain::resource::{Liveness, Presence};

fn being_built() -> Vec<Case> {
    let mut all = vec![fresh(), unknown(), back(), back().protected()];
    for repeat in [Repeat::LookFirst, Repeat::Safe] {
        for index in 0..5 {
            for state in ["Intended", "Running", "Failed", "Word"] {
                let mut case = building(index, state);
                case.plan = plan(repeat);
                all.push(case);
                all.push(adopting(index, state));
            }
        }
    }
    let mut unfit = building(1, "Intended");
    unfit.plan[1].step = Step::Provider("volume");
    let mut service = building(0, "Intended");
    service.plan[0].step = Step::Service("openrouter");
    let mut no_plan = building(1, "Intended");
    no_plan.plan.clear();
    let mut never_begun = fresh();
    never_begun.plan.clear();
    let mut beyond = building(4, "Done");
    let mut negative = building(0, "Intended");
    beyond
        .instance
        .status
        .as_mut()
        .unwrap()
        .operation
        .as_mut()
        .unwrap()
        .index = 5;
    negative
        .instance
        .status
        .as_mut()
        .unwrap()
        .operation
        .as_mut()
        .unwrap()
        .index = -1;
    all.extend([unfit, service, no_plan, never_begun, beyond, negative]);
    all
}

fn in_stock_or_use() -> Vec<Case> {
    let mut turnless = claimed();
    turnless.instance.status.as_mut().unwrap().turn = None;
    let mut stale = claimed();
    stale
        .instance
        .status
        .as_mut()
        .unwrap()
        .claim
        .as_mut()
        .unwrap()
        .id = "k0".into();
    let mut all = vec![turnless, stale];
    for case in [
        idle(),
        asleep(idle()),
        waking(),
        woken_before(),
        claiming(),
        joining(),
        claimed(),
        asleep(claimed()),
        pending(),
        status_lost(),
        adopted(),
    ] {
        all.extend([case.clone(), case.protected()]);
    }
    for word in outcome::Outcome::ALL {
        all.extend([rejected(word), rejected(word).protected()]);
    }
    // Their own limit is the one that the memories below stand around.
    for mut case in [pending(), asleep(pending()), hermes(pending())] {
        case.limits.pending_timeout = case.limits.stuck;
        all.extend([case.clone(), case.protected()]);
    }
    let lifetime = seconds(3600);
    for case in [claimed(), asleep(claimed()), pending(), claiming()] {
        for ago in [lifetime, lifetime - Duration::from_millis(1)] {
            let mut case = bound(case.clone(), ago);
            case.limits.max_lifetime = Some(lifetime);
            all.extend([case.clone(), case.protected()]);
        }
    }
    for case in [idle(), claiming(), claimed()] {
        all.extend([
            case.clone().released("Destroy"),
            case.clone().released("Recycle"),
        ]);
        all.push(case.released("Recycle").protected());
    }
    all
}

/// At a provider that restores, and whose machines sleep in stock and are billed while they are awake.
fn billed_ones() -> Vec<Case> {
    let mut all = vec![];
    for keep in KEPT {
        for case in [
            idle(),
            claimed(),
            pending(),
            claiming(),
            building(4, "Intended"),
        ] {
            all.extend([billed(case.clone(), keep), billed(case, keep).protected()]);
        }
    }
    let of = |case| billed(case, KEPT[1]);
    for case in [
        idle(),
        claimed(),
        pending(),
        claiming(),
        back(),
        status_lost(),
        fresh(),
    ] {
        let case = of(case).released("Recycle");
        all.extend([case.clone(), case.protected()]);
    }
    for index in 0..RECYCLE_STEPS.len() {
        for state in ["Intended", "Running", "Failed"] {
            all.extend([recycling(index, state), recycling(index, state).protected()]);
        }
    }
    let verdict = of(claimed())
        .judged("Crashed", Reason::Gone)
        .released("Recycle");
    let mut other = recycling(1, "Intended");
    other.plan = plan(Repeat::Safe);
    all.extend([restored(), of(back()), of(checkpointed()), verdict, other]);
    all
}

fn ending() -> Vec<Case> {
    let mut all = vec![];
    for case in [
        building(1, "Intended"),
        idle(),
        claiming(),
        claimed(),
        pending(),
        status_lost(),
    ] {
        for (state, reason) in [
            ("Crashed", Reason::Gone),
            ("Tainted", Reason::NotClean),
            ("Dead", Reason::CreateFailed),
            ("Dead", Reason::Stuck),
            ("Novel", Reason::Stuck),
        ] {
            let case = case.clone().judged(state, reason);
            all.extend([
                case.clone(),
                case.clone().protected(),
                case.released("Destroy"),
            ]);
        }
    }
    for case in [
        fresh(),
        building(0, "Intended"),
        building(2, "Running"),
        idle(),
        claimed(),
        pending(),
        status_lost(),
    ] {
        let case = case.deleted();
        let mut let_go = case.clone();
        let_go.instance.metadata.finalizers = None;
        let mut abandoned = case.clone();
        abandoned.instance.metadata.annotations =
            Some([(crate::api::ANNOTATION_ABANDON.to_owned(), "true".to_owned())].into());
        all.extend([case.clone().protected(), case, let_go, abandoned]);
    }
    all
}

/// No evidence, one piece of each kind, and the pairs that one pass can bring together.
fn evidences() -> Vec<(Evidence, Option<Seen>)> {
    let none = Evidence::default;
    let mut all = vec![none()];
    let sleepy = [Liveness::Running, Liveness::Stopped, Liveness::Sleeping];
    let mut presences: Vec<Presence> = sleepy.into_iter().map(read).collect();
    presences.extend([Presence::Gone, Presence::Unknown]);
    for look in looks() {
        all.push(Evidence {
            look: Some(look),
            ..none()
        });
    }
    for outcome in outcomes() {
        all.push(Evidence {
            outcome: Some(outcome.clone()),
            ..none()
        });
        all.push(Evidence {
            outcome: Some(outcome),
            look: Some(Seen::Absent),
            ..none()
        });
    }
    for probe in [
        bound_to(None),
        bound_to(Some(CONVERSATION)),
        bound_to(Some("c2")),
    ]
    .into_iter()
    .chain(silences())
    {
        all.push(Evidence {
            probe: Some(probe),
            ..none()
        });
    }
    for inside in [Inside::Clean, Inside::Dirty("m".into())] {
        for probe in [None, Some(bound_to(None)), Some(bound_to(Some("c2")))] {
            all.push(Evidence {
                inside: Some(inside.clone()),
                probe,
                ..none()
            });
        }
    }
    for reset in [false, true] {
        for probe in [None, Some(bound_to(None)), Some(bound_to(Some("c2")))] {
            all.push(Evidence {
                reset: Some(reset),
                probe,
                ..none()
            });
        }
    }
    for presence in presences {
        all.push(Evidence {
            presence: Some(presence.clone()),
            ..none()
        });
        all.push(Evidence {
            removal: Some(presence),
            ..none()
        });
    }
    for class in CLASSES {
        let trouble = Some(trouble(class, None));
        all.push(Evidence {
            trouble: trouble.clone(),
            ..none()
        });
        all.push(Evidence {
            trouble: trouble.clone(),
            look: Some(Seen::Absent),
            ..none()
        });
        all.push(Evidence {
            trouble,
            removal: Some(Presence::Gone),
            ..none()
        });
    }
    for after in [0, 86_400] {
        all.push(Evidence {
            trouble: Some(trouble(Class::Throttled, Some(after))),
            ..none()
        });
    }
    let mut all: Vec<_> = all.into_iter().map(|e| (e, None)).collect();
    all.extend(looks().into_iter().map(|seen| (none(), Some(seen))));
    all
}

const TIMES: usize = 12;

/// A memory whose nth time is `times(n)` of its own limit.
fn memory(permit: bool, times: impl Fn(usize, Duration) -> Option<Duration>) -> Memory {
    let limits = crate::domain::instance::view::Limits::default();
    let at = |n, limit| times(n, limit);
    Memory {
        known_for: at(0, limits.list_lag).unwrap_or_default(),
        phase_for: at(1, limits.stuck).unwrap_or_default(),
        claim_known_for: at(2, limits.claim_deadline + TWICE_APART).unwrap_or_default(),
        step_known_for: at(3, limits.cleanup).unwrap_or_default(),
        probed: at(4, limits.tick),
        unanswered: u32::from(permit) * 2,
        probe_asked: permit,
        missing_for: at(5, limits.list_lag),
        absent_for: at(6, limits.list_lag),
        unbound_for: at(7, UNBOUND_APART),
        stopped_for: at(8, TWICE_APART),
        fresh: permit,
        permit,
        failures: u32::from(permit) * 40,
        silent_beats: u32::from(permit) * 3,
        restarts: if times(9, seconds(1)).is_some() { 3 } else { 0 },
        restarted: at(10, limits.tick),
        held: at(11, limits.tick),
    }
}

/// All at nothing, just under and over; each alone over, each alone under; with and without a permit.
fn memories() -> Vec<Memory> {
    let under = |limit: Duration| Some(limit - Duration::from_millis(1));
    let mut all = vec![];
    for permit in [false, true] {
        all.push(memory(permit, |_, _| None));
        all.push(memory(permit, |_, limit| under(limit)));
        all.push(memory(permit, |_, limit| Some(limit)));
        all.push(memory(permit, |_, _| Some(CLAIMING_SHOWN_AFTER)));
        for n in 0..TIMES {
            all.push(memory(permit, |i, limit| (i == n).then_some(limit)));
            all.push(memory(permit, |i, limit| {
                if i == n { under(limit) } else { Some(limit) }
            }));
        }
    }
    all
}

fn assert_nothing_broken(cases: Vec<Case>) {
    let (listings, evidences, memories) = (listings(), evidences(), memories());
    for case in cases {
        for listed in &listings {
            for (evidence, progress) in &evidences {
                let mut case = Case {
                    listed: listed.clone(),
                    progress: progress.clone(),
                    evidence: evidence.clone(),
                    ..case.clone()
                };
                for memory in &memories {
                    case.memory = memory.clone();
                    assert_holds(&case);
                }
            }
        }
    }
}

fn assert_holds(case: &Case) {
    let view = case.view();
    let decision = super::super::decide(&view);
    let broken = broken(&view, &decision);
    assert!(
        broken.is_empty(),
        "{broken:?}\n{}: {decision:?}\nlisted {:?}\nprogress {:?}\n{:?}\n{:?}",
        case.name,
        case.listed,
        case.progress,
        case.evidence,
        case.memory
    );
}

#[test]
fn every_rule_holds_while_being_built() {
    assert_nothing_broken(being_built());
}

#[test]
fn every_rule_holds_in_stock_and_in_use() {
    assert_nothing_broken(in_stock_or_use());
}

#[test]
fn every_rule_holds_where_machines_are_restored_and_sleep_in_stock() {
    assert_nothing_broken(billed_ones());
}

#[test]
fn every_rule_holds_at_the_end() {
    assert_nothing_broken(ending());
}

#[test]
fn every_rule_holds_for_every_answer_of_an_agent() {
    let mut cases: Vec<Case> = vec![building(3, "Intended"), building(4, "Intended"), back()];
    cases.push(building(4, "Intended").spec("restored", json!(true)));
    cases.extend([adopting(3, "Intended"), adopting(4, "Intended")]);
    cases.extend(in_stock_or_use());
    cases.extend(billed_ones());
    let ages = [
        Memory::default(),
        memory(false, |_, limit| Some(limit)),
        memory(false, |n, limit| (n == 7).then_some(limit)),
    ];
    let listings = listings();
    for case in cases {
        for (listed, probe) in listings
            .iter()
            .flat_map(|l| answers().into_iter().map(move |p| (l, p)))
        {
            for (allow_unknown_clean, age) in ages.iter().flat_map(|a| [(false, a), (true, a)]) {
                let mut case = case.clone().probe(probe.clone());
                case.listed = listed.clone();
                case.memory = age.clone();
                case.limits.allow_unknown_clean = allow_unknown_clean;
                assert_holds(&case);
            }
        }
    }
}

#[test]
fn limits_that_make_no_sense_are_survived() {
    for case in being_built()
        .into_iter()
        .chain(in_stock_or_use())
        .chain(ending())
    {
        for value in [Duration::ZERO, Duration::from_secs(1 << 40)] {
            let mut case = case.clone();
            case.limits.tick = value;
            case.limits.list_lag = value;
            case.limits.cleanup = value;
            case.limits.claim_deadline = value;
            for memory in memories() {
                case.memory = memory;
                assert_holds(&case);
            }
        }
    }
}
