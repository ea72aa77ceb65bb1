//! The longest life of a claimed agent, where its pool sets one.

use std::time::Duration;

use super::super::super::fixture::*;
use super::super::{Action, Change, Judgement, SEEN_BEFORE_EXPIRY};
use super::{OVER, assert_acts};
use crate::api::condition::Reason;
use crate::domain::resource::Liveness;

const LIFETIME: Duration = Duration::from_secs(3600);

fn old(case: Case, bound_ago: Duration) -> Case {
    let mut case = bound(case, bound_ago).listed(Liveness::Running);
    case.limits.max_lifetime = Some(LIFETIME);
    case.memory(|m| {
        m.claim_known_for = SEEN_BEFORE_EXPIRY;
        m.probed = Some(Duration::ZERO);
    })
}

#[test]
fn a_claimed_agent_ends_with_its_lifetime() {
    let decision = assert_acts(old(claimed(), LIFETIME), Action::Delete);
    assert_eq!(decision.reason, Reason::Expired);
    assert!(
        decision.message.contains("maxLifetimeSeconds"),
        "says which field"
    );
    let sleeper = old(asleep(claimed()), LIFETIME).listed(Liveness::Sleeping);
    assert_acts(sleeper, Action::Delete);
    let young = LIFETIME - Duration::from_secs(1);
    assert_acts(old(claimed(), young), Action::Wait);
}

#[test]
fn by_default_it_lives_for_ever() {
    let mut case = old(claimed(), OVER * 365);
    case.limits.max_lifetime = None;
    assert_acts(case, Action::Wait);
}

#[test]
fn a_protected_one_is_exempt() {
    assert_acts(old(claimed(), OVER).protected(), Action::Wait);
}

/// The clock of whoever recorded the claim may be hours behind.
#[test]
fn no_agent_ends_just_after_it_was_claimed() {
    let seen = |ago| old(claimed(), OVER).memory(|m| m.claim_known_for = ago);
    assert_acts(
        seen(SEEN_BEFORE_EXPIRY - Duration::from_millis(1)),
        Action::Wait,
    );
    assert_acts(seen(SEEN_BEFORE_EXPIRY), Action::Delete);
    // Nothing was bound before its object was made, and that time is the API server's.
    let mut made = old(claimed(), OVER);
    let time = made.now - LIFETIME + Duration::from_secs(1);
    made.instance.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    assert_acts(made, Action::Wait);
    // A time to come is no age.
    let mut ahead = old(claimed(), Duration::ZERO);
    ahead.now = jiff::Timestamp::UNIX_EPOCH;
    assert_acts(ahead, Action::Wait);
}

#[test]
fn only_who_is_in_use_expires() {
    assert_acts(old(pending(), OVER), Action::Wait);
    assert_acts(old(idle(), OVER), Action::Wait);
    let crashed = old(claimed(), OVER).judged("Crashed", Reason::Gone);
    assert_acts(crashed.absent(), Action::Wait);
    let another = old(claimed(), OVER).listed(Liveness::Crashed);
    assert_ne!(
        another.decide().action,
        Action::Record(Change::Judge(Judgement::Crashed)),
        "what would be ended anyway is not kept for a person"
    );
}
