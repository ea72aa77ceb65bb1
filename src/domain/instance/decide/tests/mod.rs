#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod building;
mod claiming;
mod exhaustive;
mod expiry;
mod heartbeat;
mod pending;
mod recycling;
mod restored;
mod returning;
mod transitions;

use std::time::Duration;

use super::super::fixture::Case;
use super::{Action, Change, Decision, Judgement};
use crate::api::condition::Reason;

fn judges(decision: &Decision) -> Option<(Judgement, Reason)> {
    match decision.action {
        Action::Record(Change::Judge(judgement)) => Some((judgement, decision.reason)),
        _ => None,
    }
}

#[track_caller]
fn assert_judged(case: Case, judgement: Judgement, reason: Reason) {
    let decision = case.decide();
    assert_eq!(
        judges(&decision),
        Some((judgement, reason)),
        "{}: {decision:?}",
        case.name
    );
}

#[track_caller]
fn assert_acts(case: Case, action: Action) -> Decision {
    let decision = case.decide();
    assert_eq!(decision.action, action, "{}: {decision:?}", case.name);
    decision
}

const OVER: Duration = Duration::from_secs(86_400);
