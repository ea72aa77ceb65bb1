use super::*;

const DIALECTS: [Dialect; 2] = [Dialect::PoolServer, Dialect::Gateway];

fn status(clean: Option<bool>) -> AgentStatus {
    AgentStatus {
        ready: true,
        clean,
        ..AgentStatus::default()
    }
}

fn says(status: AgentStatus) -> Probe {
    Probe::Answered {
        dialect: Dialect::PoolServer,
        kind: None,
        version: None,
        status,
    }
}

fn bound() -> Probe {
    says(AgentStatus {
        conversation: Some("c".into()),
        ..status(Some(false))
    })
}

fn waiting() -> Probe {
    says(AgentStatus {
        pending: true,
        ..status(Some(false))
    })
}

fn text() -> String {
    "x".to_owned()
}

fn probes() -> Vec<Probe> {
    let not_ready = AgentStatus {
        ready: false,
        ..status(Some(true))
    };
    vec![
        says(status(Some(true))),
        says(status(Some(false))),
        says(status(None)),
        says(not_ready),
        bound(),
        waiting(),
        Probe::Unreachable(text()),
        Probe::NotReady(text()),
        Probe::Unauthorized,
        Probe::WrongRuntime(text()),
    ]
}

fn outcomes() -> Vec<ClaimOutcome> {
    let mut all = vec![
        ClaimOutcome::Bound {
            conversation_id: "c".into(),
            invite_url: Some("u".into()),
            invite_slug: None,
            joined: false,
        },
        ClaimOutcome::Pending,
        ClaimOutcome::Busy,
        ClaimOutcome::Failed(text()),
        ClaimOutcome::Unknown(text()),
    ];
    let refusals = [
        Refusal::NotSent,
        Refusal::Unauthorized,
        Refusal::WrongRuntime,
        Refusal::NotReady,
        Refusal::Invalid(text()),
    ];
    all.extend(refusals.map(ClaimOutcome::Refused));
    all
}

fn all_terms() -> Vec<Terms> {
    let mut all = vec![];
    for dialect in DIALECTS {
        for bits in 0..32_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            all.push(Terms {
                join: bit(0),
                dialect,
                first_turn: bit(1),
                allow_unknown_clean: bit(2),
                may_reset: bit(3),
                looked_inside: bit(4),
            });
        }
    }
    all
}

/// A claim with these answers, to its end: what was sent, in order, and how the instance was settled.
fn run(
    terms: &Terms,
    check: &Probe,
    outcome: &ClaimOutcome,
    looks: &[Probe],
) -> (Vec<&'static str>, Settlement) {
    let (mut sent, mut evidence) = (vec![], Evidence::default());
    for _ in 0..20 {
        match next(&evidence, terms) {
            Step::Check => {
                sent.push("check");
                evidence.check = Some(check.clone());
            }
            Step::Call => {
                sent.push("call");
                evidence.outcome = Some(outcome.clone());
            }
            Step::Look => {
                sent.push("look");
                let nth = evidence.looks.len().min(looks.len() - 1);
                evidence.looks.push(looks[nth].clone());
            }
            Step::Settle(settlement) => return (sent, settlement),
        }
    }
    panic!("no end: {terms:?} {check:?} {outcome:?} {looks:?}");
}

fn terms(join: bool, dialect: Dialect, may_reset: bool) -> Terms {
    Terms {
        join,
        dialect,
        first_turn: true,
        allow_unknown_clean: false,
        looked_inside: false,
        may_reset,
    }
}

/// What may be claimed on, and what may not, over every combination.
#[test]
fn every_way_through_keeps_the_contract() {
    let mut ways = 0;
    for terms in all_terms() {
        for check in probes() {
            for outcome in outcomes() {
                for look in probes() {
                    let (sent, settlement) =
                        run(&terms, &check, &outcome, std::slice::from_ref(&look));
                    holds(&terms, &check, &outcome, &look, &sent, &settlement);
                    ways += 1;
                }
            }
        }
    }
    assert_eq!(ways, 64 * 10 * 10 * 10);
}

fn holds(
    terms: &Terms,
    check: &Probe,
    outcome: &ClaimOutcome,
    look: &Probe,
    sent: &[&str],
    settlement: &Settlement,
) {
    let about = format!("{terms:?} {check:?} {outcome:?} {look:?} -> {sent:?} {settlement:?}");
    let calls = sent.iter().filter(|s| **s == "call").count();
    assert!(calls <= 1, "at most one claim call: {about}");
    assert_eq!(sent.first(), Some(&"check"), "never called unseen: {about}");
    let good = matches!(check, Probe::Answered { status, .. }
        if status.ready && status.conversation.is_none() && !status.pending && status.clean != Some(false));
    assert!(
        calls == 0 || good,
        "only an unbound clean one is called: {about}"
    );
    let failed = matches!(outcome, ClaimOutcome::Failed(_) | ClaimOutcome::Unknown(_));
    if calls == 0 {
        let back = matches!(settlement, Settlement::PutBack(_) | Settlement::Mark(..));
        assert!(back, "what was not called is not replaced: {about}");
        return;
    }
    match settlement {
        // After a call that may have worked, only what the agent itself shows is kept, and only of a join.
        Settlement::Keep(kept) if failed => {
            let Probe::Answered { status, .. } = look else {
                panic!("{about}")
            };
            assert!(terms.join, "a create has lost its link: {about}");
            assert_eq!(kept.conversation_id, status.conversation, "{about}");
            assert!(kept.conversation_id.is_some() || status.pending, "{about}");
        }
        Settlement::Keep(_) => {
            assert!(
                matches!(outcome, ClaimOutcome::Bound { .. } | ClaimOutcome::Pending),
                "{about}"
            );
        }
        Settlement::PutBack(_) => {
            assert!(
                matches!(outcome, ClaimOutcome::Refused(_)),
                "it provably did nothing: {about}"
            );
        }
        Settlement::Mark(Outcome::Failed, _) => {
            assert!(
                matches!(outcome, ClaimOutcome::Failed(_)),
                "never after Unknown or Busy: {about}"
            );
            assert!(terms.may_reset && !terms.join, "{about}");
            let Probe::Answered { status, .. } = check else {
                panic!("{about}")
            };
            assert_eq!(
                status.clean,
                Some(true),
                "it was clean right before: {about}"
            );
        }
        Settlement::Mark(..) => {
            assert!(
                matches!(outcome, ClaimOutcome::Busy | ClaimOutcome::Refused(_)),
                "{about}"
            );
        }
        Settlement::Refuse { .. } => {
            assert!(
                matches!(outcome, ClaimOutcome::Refused(Refusal::Invalid(_))),
                "{about}"
            );
        }
        Settlement::Replace { when_gone, .. } => {
            assert!(failed, "{about}");
            assert_eq!(*when_gone, terms.join, "two agents must not join: {about}");
        }
    }
}

#[test]
fn a_bound_agent_is_the_caller_s() {
    for dialect in DIALECTS {
        let outcome = &outcomes()[0];
        let clean = says(status(Some(true)));
        let (sent, settled) = run(&terms(false, dialect, true), &clean, outcome, &[]);
        let kept = Kept {
            conversation_id: Some("c".into()),
            invite_url: Some("u".into()),
            ..Kept::default()
        };
        assert_eq!(
            (sent, settled),
            (vec!["check", "call"], Settlement::Keep(kept))
        );
    }
}

#[test]
fn a_gateway_is_called_in_its_first_turn_only() {
    let unknown = says(status(None));
    let call = |first_turn, allow_unknown_clean| {
        let terms = Terms {
            first_turn,
            allow_unknown_clean,
            ..terms(false, Dialect::Gateway, false)
        };
        run(&terms, &unknown, &ClaimOutcome::Pending, &[]).0.len() == 2
    };
    assert!(call(true, false) && !call(false, false) && call(false, true));
}

/// Restored for its next user, it is as new: its provider looked before it came into stock.
#[test]
fn a_gateway_that_its_provider_looked_into_is_called_in_any_turn() {
    let unknown = says(status(None));
    let terms = Terms {
        first_turn: false,
        looked_inside: true,
        ..terms(false, Dialect::Gateway, false)
    };
    let (sent, _) = run(&terms, &unknown, &ClaimOutcome::Pending, &[]);
    assert_eq!(sent.len(), 2);
    let dirty = says(status(Some(false)));
    let (sent, _) = run(&terms, &dirty, &ClaimOutcome::Pending, &[]);
    assert_eq!(sent.len(), 1, "its own word against it counts");
}

#[test]
fn a_join_is_looked_at_until_the_agent_answers() {
    let join = terms(true, Dialect::PoolServer, true);
    let clean = says(status(Some(true)));
    let lost = ClaimOutcome::Unknown(text());
    let silent = || Probe::Unreachable(text());
    let (sent, settled) = run(&join, &clean, &lost, &[silent(), silent(), bound()]);
    assert_eq!(sent, ["check", "call", "look", "look", "look"]);
    assert!(matches!(
        settled,
        Settlement::Keep(Kept { joined: true, .. })
    ));
    let (sent, settled) = run(&join, &clean, &lost, &[silent()]);
    assert_eq!(sent.len(), 2 + LOOKS);
    assert!(matches!(
        settled,
        Settlement::Replace {
            when_gone: true,
            ..
        }
    ));
    // A join that waits after a failure waits for its user; after a lost answer nobody knows what still runs.
    let (_, settled) = run(&join, &clean, &ClaimOutcome::Failed(text()), &[waiting()]);
    assert_eq!(settled, Settlement::Keep(Kept::default()));
    let (_, settled) = run(&join, &clean, &lost, &[waiting()]);
    assert!(matches!(
        settled,
        Settlement::Replace {
            when_gone: true,
            ..
        }
    ));
}

#[test]
fn what_a_claim_finds_is_told_by_its_word() {
    let word = |check: &Probe, outcome: &ClaimOutcome| match run(
        &terms(false, Dialect::PoolServer, false),
        check,
        outcome,
        &[],
    )
    .1
    {
        Settlement::Mark(outcome, _) => Some(outcome),
        _ => None,
    };
    let clean = says(status(Some(true)));
    let (refused, pending) = (ClaimOutcome::Refused, ClaimOutcome::Pending);
    assert_eq!(word(&clean, &ClaimOutcome::Busy), Some(Outcome::Busy));
    assert_eq!(
        word(&clean, &refused(Refusal::Unauthorized)),
        Some(Outcome::BadToken)
    );
    assert_eq!(
        word(&clean, &refused(Refusal::WrongRuntime)),
        Some(Outcome::WrongRuntime)
    );
    assert_eq!(word(&clean, &refused(Refusal::NotReady)), None);
    assert_eq!(word(&bound(), &pending), Some(Outcome::Busy));
    assert_eq!(word(&waiting(), &pending), Some(Outcome::NotClean));
    assert_eq!(
        word(&says(status(Some(false))), &pending),
        Some(Outcome::NotClean)
    );
    assert_eq!(
        word(&Probe::Unauthorized, &pending),
        Some(Outcome::BadToken)
    );
    assert_eq!(
        word(&Probe::WrongRuntime(text()), &pending),
        Some(Outcome::WrongRuntime)
    );
}

#[test]
fn a_request_that_an_agent_refuses_is_the_caller_s_to_mend() {
    let invalid = ClaimOutcome::Refused(Refusal::Invalid(text()));
    let clean = says(status(Some(true)));
    for (dialect, intact) in [(Dialect::PoolServer, true), (Dialect::Gateway, false)] {
        let (_, settled) = run(&terms(false, dialect, true), &clean, &invalid, &[]);
        assert_eq!(
            settled,
            Settlement::Refuse {
                intact,
                text: text()
            }
        );
    }
}

#[test]
fn a_failed_create_is_reset_only_where_the_pool_wants_it() {
    let failed = ClaimOutcome::Failed(text());
    let clean = says(status(Some(true)));
    let settled = |may_reset| {
        run(
            &terms(false, Dialect::PoolServer, may_reset),
            &clean,
            &failed,
            &[],
        )
        .1
    };
    assert_eq!(settled(true), Settlement::Mark(Outcome::Failed, text()));
    assert_eq!(
        settled(false),
        Settlement::Replace {
            when_gone: false,
            text: text()
        }
    );
}
