//! Why a pool has what it has, in words with numbers: the one text that kubectl, events and HTTP show.

use std::time::Duration;

use super::decide::Decision;
use super::view::{Counts, ProviderHealth, View};
use crate::api::agent_pool::{AgentPoolSpec, Pausable};
use crate::api::condition::Reason;
use crate::domain::instance::phase::Phase;

/// Fills in readiness, reason, words and the time to decide again.
pub(super) fn summarise(
    view: &View<'_>,
    counts: &Counts,
    deficit: i32,
    room: i32,
    blocked: Option<(Reason, String)>,
    decision: &mut Decision,
) {
    let spec = &view.pool.spec;
    let idle = counts.get(Phase::Idle);
    let being_built =
        counts.get(Phase::Provisioning) + i32::try_from(decision.create.len()).unwrap_or(0);
    decision.ready = idle >= spec.min_idle;
    let elsewhere = elsewhere(view, counts);
    let (reason, message) = if decision.ready {
        // What is wrong is said even while there is stock: it will be missed at the next claim.
        match blocked {
            Some((reason, why)) => (
                reason,
                format!(
                    "{idle} of {} idle, but nothing can be created: {why}",
                    spec.min_idle
                ),
            ),
            None => (
                Reason::MinimumMet,
                format!("{idle} idle, {} wanted", spec.min_idle),
            ),
        }
    } else if let Some((reason, why)) = blocked {
        (reason, format!("{idle} of {} idle: {why}", spec.min_idle))
    } else if deficit > 0 && spec.paused.contains(&Pausable::Refill) {
        (
            Reason::Paused,
            format!("{idle} of {} idle: spec.paused holds Refill", spec.min_idle),
        )
    } else if deficit > room {
        (
            Reason::MaxTotalReached,
            format!(
                "{idle} of {} idle, {being_built} being built{elsewhere}: maxTotal {} is reached, {} in use",
                spec.min_idle,
                spec.max_total.unwrap_or_default(),
                counts.get(Phase::Claiming)
                    + counts.get(Phase::Claimed)
                    + counts.get(Phase::PendingAcceptance)
            ),
        )
    } else {
        (
            Reason::Filling,
            format!(
                "{idle} of {} idle, {being_built} being built{elsewhere}",
                spec.min_idle
            ),
        )
    };
    decision.reason = Some(reason);
    decision.message = message + without_effect(spec);
    if let ProviderHealth::Degraded(_, trouble) | ProviderHealth::Trouble(trouble) = &view.provider
        && let Some(left) = trouble.retry_after
    {
        let left = left.max(Duration::from_millis(100));
        decision.recheck = decision.recheck.min(left);
    }
    if let Some(until) = decision.breaker.open_until.filter(|u| *u > view.now) {
        let left = Duration::try_from(until.duration_since(view.now)).unwrap_or(view.tick);
        decision.recheck = decision.recheck.min(left + Duration::from_millis(100));
    }
}

/// What the pool asks for and nobody can do, in words; empty: nothing.
fn without_effect(spec: &AgentPoolSpec) -> &'static str {
    match spec.claim.idle_timeout_seconds {
        Some(_) => {
            "; claim.idleTimeoutSeconds has no effect: no runtime tells when it was last used (claim.maxLifetimeSeconds has)"
        }
        None => "",
    }
}

/// What of the pool stands in its way to stock, in words with numbers; empty: nothing.
fn elsewhere(view: &View<'_>, counts: &Counts) -> String {
    let building = |reason| {
        let of =
            |m: &&super::view::Member| m.phase == Phase::Provisioning && m.reason == Some(reason);
        view.members.iter().filter(of).count()
    };
    let phase = |phase| usize::try_from(counts.get(phase)).unwrap_or(0);
    let mut words = String::new();
    for (n, text) in [
        (
            building(Reason::NeedsApproval),
            "waiting for a person's approval at the provider",
        ),
        (
            building(Reason::ProviderUnavailable),
            "waiting for the provider to answer",
        ),
        (
            building(Reason::RateLimited) + building(Reason::QuotaReserved),
            "held up by the provider's request limit",
        ),
        (
            building(Reason::CoolingDown),
            "waiting for their turn, because the provider takes one such request at a time",
        ),
        (
            building(Reason::OutcomeUnknown),
            "being looked for, because an answer was lost",
        ),
        (building(Reason::BadToken), "refusing their token"),
        (phase(Phase::Sleeping), "asleep"),
        (phase(Phase::Dead), "dead"),
        (phase(Phase::Tainted), "tainted"),
    ] {
        if n > 0 {
            words.push_str(&format!(", {n} {text}"));
        }
    }
    words
}
