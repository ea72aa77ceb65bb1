#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use super::super::instance::fixture::{LIVENESS, answers, good, resource, says, seconds, silences};
use super::*;
use crate::domain::agent::AgentStatus;

const OURS: &str = "cluster/agents/0123456789ab";

fn naming() -> Naming {
    Naming {
        prefix: "convos-agent".into(),
        code: "stg".into(),
    }
}

fn called(name: &str) -> Resource {
    Resource {
        name: name.into(),
        id: format!("s-{name}"),
        ..resource(Liveness::Running)
    }
}

#[test]
fn only_names_of_our_shape_are_looked_at() {
    let identify = |name: &str| naming().identify(name).map(|i| (i.id, i.at_creation));
    let id = || "0123456789ab".to_owned();
    assert_eq!(
        identify("convos-agent-stg-0123456789ab"),
        Some((id(), true))
    );
    assert_eq!(identify("stg-tokyo-trip-0123456789ab"), Some((id(), false)));
    for other in [
        // The predecessor's own service (row N18): twelve characters at the end, but none of our ids.
        "convos-agent-stg-pool-manager",
        "convos-agent-stg-manager",
        "convos-agent-pool-manager",
        // Another environment's, prefix or pool; the predecessor's ids; a plain id; nothing.
        "convos-agent-prod-0123456789ab",
        "prod-tokyo-trip-0123456789ab",
        "other-agent-stg-0123456789ab",
        "convos-agent-stg-rnM8UBQ_fZCz",
        "convos-agent-stg-x-0123456789ab",
        "convos-agent-stg-0123456789a",
        "convos-agent-stg-00123456789ab",
        "stg-0123456789ab",
        "stg--0123456789ab",
        "0123456789ab",
        "postgres",
        "",
    ] {
        assert_eq!(identify(other), None, "{other}");
    }
}

#[test]
fn whatever_an_instance_or_a_creation_is_about_is_no_stranger() {
    let name = |id: &str| called(&format!("convos-agent-stg-{id}"));
    let listing = [
        name("000000000000"),
        name("111111111111"),
        name("222222222222"),
        name("333333333333"),
        name("444444444444"),
        called("convos-agent-stg-pool-manager"),
    ];
    let known = Known {
        instances: HashMap::from([
            ("111111111111".into(), Some(listing[1].id.clone())),
            ("222222222222".into(), None),
            ("444444444444".into(), Some("another".into())),
        ]),
        creating: HashSet::from(["333333333333".into()]),
    };
    let found = strangers(listing.iter(), &[naming()], &known);
    let found: Vec<_> = found
        .iter()
        .map(|s| (s.identity.id.as_str(), s.duplicate))
        .collect();
    assert_eq!(found, [("000000000000", false), ("444444444444", true)]);
}

/// Everything of a view, owned.
#[derive(Clone, Debug)]
struct Case {
    resource: Resource,
    at_creation: bool,
    duplicate: bool,
    owner: Option<Owner>,
    just_read: bool,
    registered: Option<bool>,
    probe: Option<Probe>,
    troubled: bool,
    seen_for: Duration,
    apart: Duration,
}

impl Case {
    fn decide(&self) -> Decision {
        let sighting = Sighting {
            resource: &self.resource,
            identity: Identity {
                id: "0123456789ab".into(),
                at_creation: self.at_creation,
            },
            duplicate: self.duplicate,
        };
        decide(&View {
            sighting: &sighting,
            ours: OURS,
            mark: self.owner.as_ref().map(|owner| Mark {
                owner,
                just_read: self.just_read,
            }),
            registered: self.registered,
            probe: self.probe.as_ref(),
            troubled: self.troubled,
            seen_for: self.seen_for,
            listings_apart: self.apart,
            grace: GRACE,
        })
    }
}

/// An orphan of which everything is known that lets it be removed.
fn orphan() -> Case {
    let mut resource = resource(Liveness::Running);
    resource.facts.insert("url".into(), "https://a".into());
    Case {
        resource,
        at_creation: true,
        duplicate: false,
        owner: Some(Owner::Marked(OURS.into())),
        just_read: true,
        registered: Some(false),
        probe: Some(says(good())),
        troubled: false,
        seen_for: GRACE,
        apart: TWICE_APART,
    }
}

fn owners() -> Vec<Option<Owner>> {
    let marks = [
        OURS,
        "other/agents/0123456789ab",
        "cluster/other/0123456789ab",
        "cluster/agents/ba9876543210",
        "",
    ];
    let mut all = vec![
        None,
        Some(Owner::Unmarked),
        Some(Owner::Elsewhere),
        Some(Owner::Gone),
    ];
    all.extend(marks.map(|m| Some(Owner::Marked(m.into()))));
    all
}

/// What must have been seen before a resource is removed or adopted; the text says what was not.
fn deed_is_proven(case: &Case) -> Result<(), &'static str> {
    let checks = [
        (case.owner == Some(Owner::Marked(OURS.into())), "our mark"),
        (case.just_read, "the mark just before"),
        (!case.duplicate, "no instance with its id"),
        (case.registered == Some(false), "the API server's word"),
        (case.seen_for >= GRACE, "the grace time"),
        (case.apart >= TWICE_APART, "two listings"),
        (!case.troubled, "no trouble"),
    ];
    checks
        .iter()
        .find(|(holds, _)| !holds)
        .map_or(Ok(()), |(_, what)| Err(what))
}

fn may_be_in_use(case: &Case) -> bool {
    let has_url = case.resource.facts.contains_key("url");
    match (case.resource.liveness, &case.probe) {
        (Liveness::Created, _) => false,
        (Liveness::Failed | Liveness::Removed, _) if !has_url => false,
        (Liveness::Sleeping, _) => true,
        (_, Some(Probe::Answered { status, .. })) => {
            let AgentStatus {
                ready,
                conversation,
                pending,
                clean,
                ..
            } = status;
            !has_url || !ready || *pending || conversation.is_some() || *clean == Some(false)
        }
        _ => true,
    }
}

fn cases() -> Vec<Case> {
    let mut all = vec![];
    let mut probes: Vec<Option<Probe>> = vec![None];
    probes.extend(answers().into_iter().chain(silences()).map(Some));
    let ages = [Duration::ZERO, GRACE - seconds(1), GRACE, GRACE + SETTLING];
    for owner in owners() {
        for bits in 0..64_u32 {
            let bit = |n: u32| bits >> n & 1 == 1;
            for registered in [None, Some(true), Some(false)] {
                for seen_for in ages {
                    all.push(Case {
                        at_creation: bit(0),
                        duplicate: bit(1),
                        owner: owner.clone(),
                        just_read: bit(2),
                        registered,
                        probe: bit(3).then(|| says(good())),
                        troubled: bit(4),
                        seen_for,
                        apart: if bit(5) {
                            TWICE_APART
                        } else {
                            TWICE_APART - seconds(1)
                        },
                        ..orphan()
                    });
                }
            }
        }
    }
    for liveness in LIVENESS {
        for url in [false, true] {
            for probe in &probes {
                for seen_for in [GRACE, GRACE + SETTLING] {
                    let mut case = Case {
                        probe: probe.clone(),
                        seen_for,
                        ..orphan()
                    };
                    case.resource.liveness = liveness;
                    if !url {
                        case.resource.facts.clear();
                    }
                    all.push(case);
                }
            }
        }
    }
    all
}

#[test]
fn nothing_is_done_that_is_not_proven_and_nothing_in_use_is_removed() {
    let (mut removed, mut adopted) = (0, 0);
    for case in cases() {
        let decision = case.decide();
        match decision.action {
            Action::Remove => {
                removed += 1;
                assert_eq!(deed_is_proven(&case), Ok(()), "{case:?}");
                assert!(!may_be_in_use(&case), "{case:?}");
            }
            Action::Adopt => {
                adopted += 1;
                assert_eq!(deed_is_proven(&case), Ok(()), "{case:?}");
                assert!(may_be_in_use(&case), "{case:?}");
            }
            // What was read in this pass is not read again, so that a pass ends.
            Action::ReadMark => assert!(!case.just_read || case.owner.is_none(), "{case:?}"),
            Action::ReadCluster => assert_eq!(case.registered, None, "{case:?}"),
            Action::Probe => {
                assert_eq!(case.probe, None, "{case:?}");
                assert_eq!(deed_is_proven(&case), Ok(()), "{case:?}");
                assert_ne!(case.resource.liveness, Liveness::Sleeping, "{case:?}");
            }
            Action::Report(kind) => {
                let ours = case.owner == Some(Owner::Marked(OURS.into()));
                let unmarked = case.owner == Some(Owner::Unmarked);
                let expected = match (ours, unmarked) {
                    (true, _) => Kind::Ours,
                    (_, true) => Kind::Unmarked,
                    _ => Kind::Foreign,
                };
                assert_eq!(kind, expected, "{case:?}");
            }
            Action::Nothing => {}
        }
        assert!(decision.recheck != Some(Duration::ZERO), "{case:?}");
        if case.troubled {
            let harmless = matches!(decision.action, Action::Nothing | Action::Report(_));
            assert!(harmless, "{case:?}: {decision:?}");
        }
    }
    assert!(removed > 0 && adopted > 0);
}

#[test]
fn every_stranger_of_anothers_is_told_of_and_never_asked() {
    for case in cases().into_iter().filter(|c| c.apart >= TWICE_APART) {
        let told = case.decide().action;
        match &case.owner {
            Some(Owner::Marked(mark)) if mark != OURS => {
                assert_eq!(told, Action::Report(Kind::Foreign), "{case:?}");
            }
            Some(Owner::Unmarked) if case.at_creation => {
                assert_eq!(told, Action::Report(Kind::Unmarked), "{case:?}");
            }
            Some(Owner::Unmarked | Owner::Gone | Owner::Elsewhere) => {
                assert_eq!(told, Action::Nothing, "{case:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn a_deed_comes_only_after_each_of_its_proofs() {
    let with = |change: fn(&mut Case)| {
        let mut case = orphan();
        change(&mut case);
        case.decide()
    };
    assert_eq!(with(|_| {}).action, Action::Remove);
    assert_eq!(with(|c| c.owner = None).action, Action::ReadMark);
    assert_eq!(with(|c| c.just_read = false).action, Action::ReadMark);
    assert_eq!(with(|c| c.registered = None).action, Action::ReadCluster);
    assert_eq!(with(|c| c.registered = Some(true)).action, Action::Nothing);
    assert_eq!(with(|c| c.probe = None).action, Action::Probe);
    let waits = with(|c| c.seen_for = GRACE - seconds(7));
    let expected = (Action::Report(Kind::Ours), Some(seconds(7)));
    assert_eq!((waits.action, waits.recheck), expected);
    let waits = with(|c| c.apart = seconds(3));
    assert_eq!(
        (waits.action, waits.recheck),
        (Action::Nothing, Some(seconds(2)))
    );
    // One that is on its way up is waited for, but not for ever.
    let starting = |seen_for| {
        let mut case = orphan();
        case.resource.liveness = Liveness::Starting;
        (case.seen_for, case.probe) = (seen_for, None);
        case.decide().action
    };
    assert_eq!(starting(GRACE), Action::Report(Kind::Ours));
    assert_eq!(starting(GRACE + SETTLING), Action::Probe);
}

#[test]
fn strays_are_told_with_number_names_and_advice() {
    let mut strays = Strays::default();
    assert_eq!(strays.summary(), None);
    for n in (0..7).rev() {
        strays.add(Kind::Foreign, &format!("f{n}"));
    }
    let (reason, message) = strays.summary().unwrap();
    assert_eq!(reason, Reason::ForeignResources);
    assert!(
        message.starts_with("7 (f0, f1, f2, f3, f4, …) carry"),
        "{message}"
    );
    strays.add(Kind::Unmarked, "u");
    let (reason, message) = strays.summary().unwrap();
    assert_eq!(reason, Reason::UnmarkedResources);
    assert!(
        message.contains("1 (u)") && message.contains("7 (f0"),
        "{message}"
    );
    strays.add(Kind::Ours, "o");
    assert_eq!(strays.summary().unwrap().0, Reason::OrphanedResources);
    assert_eq!(Kind::ALL.map(|k| strays.count(k)), [7, 1, 1]);
}

#[test]
fn a_listing_without_more_than_half_of_what_is_recorded_is_suspicious() {
    for (recorded, listed, suspicious) in [
        (0, 0, false),
        (1, 0, false),
        (2, 0, true),
        (2, 1, false),
        (3, 1, true),
        (4, 2, false),
        (100, 49, true),
        (100, 50, false),
        (5, 9, false),
    ] {
        let told = is_suspicious(recorded, listed);
        assert_eq!(told, suspicious, "{listed} of {recorded}");
    }
}
