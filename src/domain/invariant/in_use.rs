//! What may never happen to an agent that somebody was given, or waits for.

use std::time::Duration;

use super::{Rule, ends, released, view_recorded};
use crate::api::condition::Reason;
use crate::domain::agent::Probe;
use crate::domain::instance::decide::{
    Action, Change, Decision, Judgement, SEEN_BEFORE_EXPIRY, UNBOUND_APART,
};
use crate::domain::instance::phase::Phase;
use crate::domain::instance::view::View;

pub(super) fn rules<'a>() -> [Rule<View<'a>, Decision>; 2] {
    [
        ("only who watches for an acceptance gives it up", watched),
        ("a claimed agent expires by its pool's word only", expired),
    ]
}

fn watched(view: &View<'_>, decision: &Decision) -> bool {
    let judged = decision.action == Action::Record(Change::Judge(Judgement::Tainted));
    if !judged || view.phase() != Phase::PendingAcceptance {
        return true;
    }
    let Some(Probe::Answered { kind, status, .. }) = &view.evidence.probe else {
        return false;
    };
    let status_of = view.instance.status.as_ref();
    let recorded = status_of.and_then(|s| s.runtime.as_ref());
    let kind = kind.as_deref().or(recorded.and_then(|r| r.kind.as_deref()));
    decision.reason == Reason::NotAccepted
        && kind == Some("hermes")
        && status.ready
        && !status.pending
        && status.conversation.is_none()
        && view.memory.unbound_for >= Some(UNBOUND_APART)
}

fn expired(view: &View<'_>, decision: &Decision) -> bool {
    !ends(decision)
        || decision.reason != Reason::Expired
        || released(view)
        || (matches!(view.phase(), Phase::Claimed | Phase::Sleeping) && lifetime_is_over(view))
}

/// By the wall clock since it was bound, and seen for a while by this process.
pub(super) fn lifetime_is_over(view: &View<'_>) -> bool {
    let Some(lifetime) = view.limits.max_lifetime else {
        return false;
    };
    let bound = view_recorded(view)
        .filter(|c| c.outcome == "Bound")
        .and_then(|c| c.claimed_at.as_ref());
    let age = bound.map(|at| view.now.duration_since(at.0));
    let made = view.instance.metadata.creation_timestamp.as_ref();
    let existed = made.map(|at| view.now.duration_since(at.0));
    let long = |age| Duration::try_from(age).is_ok_and(|a| a >= lifetime);
    age.is_some_and(long)
        && existed.is_none_or(long)
        && view.memory.claim_known_for >= lifetime.min(SEEN_BEFORE_EXPIRY)
}
