//! The judgements about AgentClaims: whose turn it is, what becomes of one that nobody serves, which agent is its own,
//! when the next agent can be expected. Pure.
//!
//! What a claim is owed is decided by three things: the object, the instances that name it in `spec.claim.ref`, and how
//! long this replica has seen its driver stand still, on its own monotonic clock.

use std::time::Duration;

use crate::api::agent_claim::{AgentClaim, Driver, Origin};
use crate::api::agent_instance::AgentInstance;
use crate::api::condition::{ConditionType, find};
use crate::domain::instance::outcome;
use crate::domain::instance::phase::{Phase, is_protected, phase_of};

/// The longest that a caller of the HTTP API may wait.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// How long a driver may stand still beyond its limit: its last write, and the time it took to be seen.
pub const STILL_MARGIN: Duration = Duration::from_secs(15);
/// A waiter is served before an older one that has not moved for so long although agents are free.
pub const OVERTAKE_AFTER: Duration = Duration::from_secs(1);
/// What nobody asks for again is forgotten after this time: longer than any claim of a caller takes.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// When the next agent is expected where none of the pool tells how long one takes.
pub const REFILL_UNKNOWN: Duration = Duration::from_secs(30);
/// How many of the youngest agents tell how long one takes.
const REFILL_LOOKS_AT: usize = 20;
/// The longest that an agent is believed to have taken: clocks differ.
const REFILL_MAX: Duration = Duration::from_secs(900);

/// A claim's place in the queue of its pool: when it came, then its name.
pub type Place = (jiff::Timestamp, String);

/// A claim's place in the queue.
pub fn place(claim: &AgentClaim) -> Place {
    let created = claim.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let enqueued = claim.spec.enqueued_at.as_ref().map(|t| t.0);
    (
        enqueued.or(created).unwrap_or_default(),
        claim.metadata.name.clone().unwrap_or_default(),
    )
}

/// Whether a claim waits for an agent as long as it is unfinished: it has a place in the queue and is demand.
pub fn waits(claim: &AgentClaim) -> bool {
    let open = !is_done(claim) && claim.metadata.deletion_timestamp.is_none();
    let asks = match claim.spec.origin {
        Origin::Manifest => claim.spec.wait_seconds != Some(0),
        Origin::Http => claim.spec.held_for.is_none() && patience(claim) > Some(Duration::ZERO),
    };
    open && asks
}

/// How long the claim waits while no agent is idle; `None`: as long as it takes.
pub fn patience(claim: &AgentClaim) -> Option<Duration> {
    let seconds = match (claim.spec.origin, claim.spec.wait_seconds) {
        (Origin::Manifest, seconds) => seconds?,
        (Origin::Http, seconds) => seconds.unwrap_or(0),
    };
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Whether its answer is final.
pub fn is_done(claim: &AgentClaim) -> bool {
    claim.status.as_ref().is_some_and(|s| s.done)
}

/// Who serves a claim: whoever took it last, else whoever created it, else nobody.
pub fn driver(claim: &AgentClaim) -> Option<Driver> {
    let taken = claim.status.as_ref().and_then(|s| s.driver.clone());
    let created = claim.spec.driver.as_ref().map(|replica| Driver {
        replica: replica.clone(),
        attempt: 0,
    });
    taken.or(created)
}

/// The driver that a replica makes of itself.
pub fn next_driver(claim: &AgentClaim, replica: &str) -> Driver {
    Driver {
        replica: replica.to_owned(),
        attempt: driver(claim).map_or(0, |d| d.attempt).saturating_add(1),
    }
}

/// What a replica does about a claim that it does not serve in a request of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: it is finished, being deleted, or only holds a link.
    None,
    /// Somebody serves it; to be looked at again after this time at the latest.
    Leave(Duration),
    /// Nobody does any more, or nobody did yet: to be taken.
    Take,
}

/// What a replica owes a claim whose driver has stood still for `still`, where a claim may take `deadline`.
///
/// A caller of the API may wait before its claim begins, so its driver stands still for that long; whoever serves a
/// manifest writes as driver right before each try.
pub fn duty(claim: &AgentClaim, still: Duration, deadline: Duration) -> Duty {
    let held = claim.spec.held_for.is_some();
    if is_done(claim) || held || claim.metadata.deletion_timestamp.is_some() {
        return Duty::None;
    }
    if driver(claim).is_none() {
        return Duty::Take;
    }
    let waiting = match claim.spec.origin {
        Origin::Http => patience(claim).unwrap_or_default().min(WAIT_MAX),
        Origin::Manifest => Duration::ZERO,
    };
    let limit = waiting + deadline + STILL_MARGIN;
    if still >= limit {
        Duty::Take
    } else {
        Duty::Leave(limit - still)
    }
}

/// What the instances that name a claim say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The object name of the agent that is the claim's own.
    pub own: Option<String>,
    /// One whose claim is in flight: its outcome is awaited before anything else is done.
    pub unsettled: bool,
    /// Object names of agents bound for this claim beside its own: replaced, never handed out.
    pub surplus: Vec<String>,
}

/// Reads the instances that name a claim: which is its own, which are too many.
///
/// `recorded` is `status.instance`: it decides. Else the one that was bound first, so that all replicas see the same.
pub fn named(recorded: Option<&str>, instances: &[AgentInstance]) -> Named {
    let mut bound: Vec<&AgentInstance> = vec![];
    let mut unsettled = false;
    for instance in instances
        .iter()
        .filter(|i| i.metadata.deletion_timestamp.is_none() && i.spec.claim.is_some())
    {
        match settled(instance) {
            Some(true) => bound.push(instance),
            Some(false) => {}
            None => unsettled = true,
        }
    }
    bound.sort_by_key(|i| (claimed_at(i), i.spec.id.clone()));
    let own = match recorded {
        Some(id) => bound.iter().position(|i| i.spec.id == id),
        None if bound.is_empty() => None,
        None => Some(0),
    };
    let name = |i: &AgentInstance| i.metadata.name.clone().unwrap_or_default();
    let own_name = own.map(|index| name(bound[index]));
    let surplus = bound
        .iter()
        .enumerate()
        .filter(|(index, i)| Some(*index) != own && !is_protected(i))
        .map(|(_, i)| name(i))
        .collect();
    Named {
        own: own_name,
        unsettled,
        surplus,
    }
}

/// Whether the claim on an instance came to a binding; `None`: nobody knows yet.
fn settled(instance: &AgentInstance) -> Option<bool> {
    instance.spec.claim.as_ref()?;
    // Restored from a backup without its status: somebody's agent until the opposite is known.
    if instance.status.as_ref().and_then(|s| s.turn).is_none() {
        return Some(true);
    }
    outcome::of(instance).map(|outcome| outcome.is_handed_out())
}

fn claimed_at(instance: &AgentInstance) -> Option<jiff::Timestamp> {
    let claim = instance.status.as_ref().and_then(|s| s.claim.as_ref());
    claim.and_then(|c| c.claimed_at.as_ref()).map(|t| t.0)
}

/// Whether an agent that names a claim keeps that claim's join link taken: it is in the conversation, or on its way.
pub fn holds_link(instance: &AgentInstance) -> bool {
    instance.spec.claim.is_some()
        && matches!(
            phase_of(instance),
            Phase::Claiming | Phase::Claimed | Phase::PendingAcceptance | Phase::Sleeping
        )
}

/// What a waiter sees of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How many older ones wait.
    pub older: usize,
    /// How many agents are free.
    pub free: usize,
    /// It has not tried at all yet.
    pub first: bool,
    /// For how long agents have been free while the same older ones stood before it.
    pub blocked: Duration,
    /// How long it may still wait; `None`: as long as it takes.
    pub left: Option<Duration>,
}

/// What a waiter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It claims now.
    Claim,
    /// It waits for a change, or so long.
    Wait(Duration),
    /// Its time is over.
    GiveUp,
}

/// Whose turn it is. Who comes first tries even where the cache shows no agent: the cache may lag.
pub fn turn(queue: &Queue) -> Turn {
    let served = queue.older < queue.free || (queue.first && queue.older == 0);
    let stuck = queue.free > 0 && queue.blocked >= OVERTAKE_AFTER;
    if served || stuck {
        return Turn::Claim;
    }
    let again = if queue.free > 0 {
        OVERTAKE_AFTER - queue.blocked
    } else {
        OVERTAKE_AFTER
    };
    match queue.left {
        Some(left) if left.is_zero() => Turn::GiveUp,
        Some(left) => Turn::Wait(again.min(left)),
        None => Turn::Wait(again),
    }
}

/// How long an agent of the pool takes from its creation into stock: the median of the youngest that came there in
/// their first turn. `None`: no agent tells.
pub fn refill_time<'a>(instances: impl Iterator<Item = &'a AgentInstance>) -> Option<Duration> {
    let mut times: Vec<(jiff::Timestamp, Duration)> = instances
        .filter(|i| i.spec.turn == 1)
        .filter_map(|i| {
            let created = i.metadata.creation_timestamp.as_ref()?.0;
            let conditions = &i.status.as_ref()?.conditions;
            let ready = find(conditions, ConditionType::Ready).filter(|c| c.status == "True")?;
            let took = ready.last_transition_time.0.duration_since(created);
            Duration::try_from(took).ok().map(|took| (created, took))
        })
        .collect();
    times.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    let mut took: Vec<Duration> = times
        .into_iter()
        .take(REFILL_LOOKS_AT)
        .map(|(_, took)| took.min(REFILL_MAX))
        .collect();
    took.sort();
    took.get(took.len() / 2).copied()
}

/// When the waiter at `position` (from 1) can expect an agent: the agents being built, of these ages, serve those
/// before it first; whoever comes after all of them waits for a whole one more. At least a second.
pub fn expected(position: usize, refill: Option<Duration>, ages: &[Duration]) -> Duration {
    let refill = refill.unwrap_or(REFILL_UNKNOWN);
    let mut ages = ages.to_vec();
    ages.sort_by(|a, b| b.cmp(a));
    let built = ages.get(position.saturating_sub(1)).copied();
    refill
        .saturating_sub(built.unwrap_or_default())
        .max(Duration::from_secs(1))
}

/// When a claim that was made with kubectl is deleted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Not by itself, or not before it is finished.
    Never,
    /// After this time.
    In(Duration),
    /// Now.
    Now,
}

/// When a claim is deleted by itself: `ttlSecondsAfterFinished` after its end.
pub fn ended(claim: &AgentClaim, now: jiff::Timestamp) -> Ended {
    let status = claim.status.as_ref().filter(|s| s.done);
    let finished = status.and_then(|s| s.finished_at.as_ref()).map(|t| t.0);
    let (Some(finished), Some(ttl)) = (finished, claim.spec.ttl_seconds_after_finished) else {
        return Ended::Never;
    };
    let left = finished
        .duration_since(now)
        .saturating_add(jiff::SignedDuration::from_secs(ttl));
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Ended::In(left),
        _ => Ended::Now,
    }
}

/// What is known of something that the API keeps when it is asked whether its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// How long ago it was created.
    pub age: Duration,
    /// An agent names it, or the claim that it holds a link for.
    pub has_agent: bool,
    /// How long keys are kept.
    pub kept: Duration,
}

/// Whether something that the API keeps is forgotten: a key after its time; a link when its agent is gone; a waiter's
/// object soon. The agent itself is nobody's business here.
pub fn is_expired(name: &str, expiry: &Expiry) -> bool {
    let soon = FORGOTTEN_AFTER.min(expiry.kept);
    match name.split_once('-').map(|(kind, _)| kind) {
        Some("k") => expiry.age >= expiry.kept,
        Some("j") => expiry.age >= soon && !expiry.has_agent,
        Some("w") => expiry.age >= soon,
        _ => false,
    }
}

/// What keeps a manifest from being served, in words for its author; `None`: nothing. The schema has checked the rest.
pub fn refused(agent_name: &str, instructions: &str) -> Option<&'static str> {
    if instructions.len() > 100_000 {
        Some(
            "spec.instructions has more than 100000 bytes: delete this AgentClaim and create one with shorter instructions",
        )
    } else if agent_name.trim() != agent_name || agent_name.starts_with('-') {
        Some(
            "spec.agentName must not begin or end with white space or begin with '-': delete this AgentClaim and create one with another name",
        )
    } else if agent_name.chars().any(char::is_control) {
        Some(
            "spec.agentName must not contain control characters: delete this AgentClaim and create one with another name",
        )
    } else {
        None
    }
}

#[cfg(test)]
#[path = "agent_claim_tests.rs"]
mod tests;
