//! The end of a claimed agent's time, where its pool sets one (`claim.maxLifetimeSeconds`).
//!
//! It is the one thing in days, so that no process remembers it: it is read from the object. Two things stand against
//! clocks that differ: nothing was bound before its object was made, by the API server's clock; and this process has
//! seen the claim for a while, so that no claim is ended just after it was answered.

use super::*;

/// How long a claim has been seen before its agent is ended; less where it may not even live that long.
pub const SEEN_BEFORE_EXPIRY: Duration = Duration::from_secs(30);

/// Its end, if it has come; never of a protected one.
pub(super) fn expired(view: &View<'_>) -> Option<Decision> {
    let lifetime = view.limits.max_lifetime?;
    let over = is_over(view, lifetime) && !phase::is_protected(view.instance);
    over.then(|| {
        let text = format!(
            "claimed more than {} s ago, the longest that its pool allows (claim.maxLifetimeSeconds)",
            lifetime.as_secs()
        );
        decision(Action::Delete, Reason::Expired, text, view.limits.tick)
    })
}

/// Whether it was bound so long ago and seen for long enough.
fn is_over(view: &View<'_>, lifetime: Duration) -> bool {
    let seen = view.memory.claim_known_for >= lifetime.min(SEEN_BEFORE_EXPIRY);
    let aged = bound_at(view.instance).is_some_and(|at| {
        let age = Duration::try_from(view.now.duration_since(at)).unwrap_or_default();
        age >= lifetime
    });
    seen && aged
}

fn bound_at(instance: &AgentInstance) -> Option<jiff::Timestamp> {
    if outcome::of(instance) != Some(outcome::Outcome::Bound) {
        return None;
    }
    let recorded = instance.status.as_ref()?.claim.as_ref()?;
    let bound = recorded.claimed_at.as_ref()?.0;
    let made = instance.metadata.creation_timestamp.as_ref().map(|t| t.0);
    Some(made.map_or(bound, |made| bound.max(made)))
}
