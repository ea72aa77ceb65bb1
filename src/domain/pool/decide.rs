//! How many instances a pool creates, and which it deletes. Pure, total.
//!
//! The untouchable are counted first. Idle agents are never reduced to fit: they go when claimed, drained or
//! replaced. What may be created is settled here down to the ids; the shell writes them into `status.creating` and
//! then creates exactly these.

use std::time::Duration;

use super::rollout::{self, Rollout};
use super::view::{Counts, Finished, ProviderHealth, View};
use super::words::summarise;
use crate::api::agent_pool::{DeletionPolicy, Pausable, RequestKind};
use crate::api::condition::Reason;
use crate::domain::image::Image;
use crate::domain::instance::phase::Phase;

/// The most ids that may be listed in `status.creating`.
pub const CREATING_MAX: usize = 50;
/// The most instances that one request creates.
pub const REPLENISH_MAX: i32 = 20;

/// What to do about one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Ids of new instances, to be recorded before they are created.
    pub create: Vec<String>,
    /// Names of instances whose claim a creation has answered: to be noted on them.
    pub answered: Vec<String>,
    /// Names of instances to delete.
    pub delete: Vec<String>,
    /// Let the pool go.
    pub remove_finalizer: bool,
    /// Ids each answered request created, with what could not be: to be answered when the objects exist.
    pub answers: Vec<Answer>,
    /// Why the pool is short, or that it is not: the Ready condition.
    pub ready: bool,
    /// The Ready condition's reason.
    pub reason: Option<Reason>,
    /// In words with numbers.
    pub message: String,
    /// The pool has as many as it may.
    pub at_capacity: bool,
    /// Until when the breaker holds creations back, where it does.
    pub breaker: Breaker,
    /// What becomes of idle agents that drifted; its deletions and creations are in `delete` and `create` too.
    pub rollout: Rollout,
    /// When to decide again, at the latest.
    pub recheck: Duration,
}

/// The circuit breaker after this decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breaker {
    /// Failed creations in a row.
    pub failures: i32,
    /// Until when no creation is tried.
    pub open_until: Option<jiff::Timestamp>,
    /// Ids of failures that are counted.
    pub counted: Vec<String>,
    /// What the last failure was.
    pub last_failure: String,
}

impl Breaker {
    /// Whether creations are held back at `now`.
    pub fn is_open(&self, now: jiff::Timestamp) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// How many failed, when the next is tried, and what the last one was.
    pub fn words(&self) -> String {
        let failures = self.failures;
        // To the second: it is read, and shown again and again.
        let until = self.open_until.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ"));
        let until = until.map(|t| t.to_string()).unwrap_or_default();
        let last = &self.last_failure;
        format!("{failures} creations failed in a row; the next is tried at {until}. Last: {last}")
    }
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request's id.
    pub id: String,
    /// Ids it created or concerned.
    pub ids: Vec<String>,
    /// A number it counted.
    pub count: Option<i32>,
    /// `maxTotal` cut it.
    pub capped: bool,
    /// What went wrong; empty: nothing.
    pub error: String,
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    if view.pool.metadata.deletion_timestamp.is_some() {
        return drain_for_deletion(view);
    }
    let unseen = view.unseen().len();
    let counts = Counts::of(view.members, unseen);
    let breaker = breaker(view);
    let mut decision = Decision {
        breaker,
        recheck: view.tick,
        ..Decision::default()
    };
    let spec = &view.pool.spec;
    let room = spec.max_total.map_or(i32::MAX, |max| {
        max.saturating_sub(counts.occupancy()).max(0)
    });
    let deficit =
        (view.wanted() - counts.get(Phase::Idle) - counts.get(Phase::Provisioning)).max(0);
    let blocked = blocked(view, &decision.breaker);
    let slots = i32::try_from(CREATING_MAX.saturating_sub(unseen)).unwrap_or(0);
    let debts = view.debts();
    let owed = i32::try_from(debts.open.len()).unwrap_or(i32::MAX);
    decision.answered = debts.answered;
    let automatic = if blocked.is_none() && !spec.paused.contains(&Pausable::Refill) {
        deficit.max(owed).min(room).min(slots)
    } else {
        0
    };
    // What is owed comes first, and fills the pool like any other.
    let automatic = usize::try_from(automatic).unwrap_or(0);
    let named = debts.open.into_iter().chain(debts.coming);
    decision.create.extend(named.take(automatic));
    let unnamed = automatic - decision.create.len();
    let mut ids = view.fresh_ids.iter().cloned();
    decision.create.extend(ids.by_ref().take(unnamed));
    answer_requests(view, blocked.as_ref(), room, slots, &mut ids, &mut decision);
    let means = rollout::Means {
        room,
        slots,
        creates: i32::try_from(decision.create.len()).unwrap_or(i32::MAX),
        blocked: blocked.as_ref(),
        failures: decision.breaker.failures,
    };
    decision.rollout = rollout::decide(view, &means);
    let surge = usize::try_from(decision.rollout.create).unwrap_or(0);
    decision.create.extend(ids.take(surge));
    decision.delete.clone_from(&decision.rollout.delete);
    decision.at_capacity = room <= i32::try_from(decision.create.len()).unwrap_or(i32::MAX);
    summarise(view, &counts, deficit, room, blocked, &mut decision);
    decision
}

/// What keeps every creation back, with the reason and words for people.
fn blocked(view: &View<'_>, breaker: &Breaker) -> Option<(Reason, String)> {
    if let Some(why) = &view.unsupported {
        return Some((Reason::NotSupported, why.clone()));
    }
    match &view.provider {
        ProviderHealth::Pending => {
            return Some((
                Reason::Pending,
                "the provider has not been asked yet".to_owned(),
            ));
        }
        ProviderHealth::Trouble(t) | ProviderHealth::Degraded(_, t) => {
            return Some((t.reason, t.message.clone()));
        }
        ProviderHealth::Reachable(_) => {}
    }
    if let Image::Unresolved(trouble) = &view.image {
        return Some((trouble.reason, trouble.message.clone()));
    }
    if view.revision.is_none() {
        return Some((
            Reason::Pending,
            "the pool's template is not recorded yet".to_owned(),
        ));
    }
    if let Some(why) = &view.refused.holds {
        let text = format!("the API server refuses to create instances: {why}");
        return Some((Reason::Rejected, text));
    }
    if breaker.is_open(view.now) {
        return Some((Reason::CreationsFailing, breaker.words()));
    }
    None
}

/// Counts each failed creation once; a creation that came to stand in stock sets the count back.
fn breaker(view: &View<'_>) -> Breaker {
    let old = view
        .pool
        .status
        .as_ref()
        .and_then(|s| s.breaker.clone())
        .unwrap_or_default();
    let policy = &view.pool.spec.circuit_breaker;
    let mut new = Breaker {
        failures: old.failures,
        open_until: old.open_until.map(|t| t.0),
        counted: old
            .counted
            .into_iter()
            .filter(|id| view.members.iter().any(|m| &m.id == id))
            .collect(),
        last_failure: old.last_failure,
    };
    let fresh: Vec<_> = view
        .members
        .iter()
        .filter_map(|m| m.creation_failed.as_ref().map(|why| (m, why)))
        .filter(|(m, _)| !new.counted.contains(&m.id))
        // What cannot be remembered is counted when there is place again: counted now, it would be in every pass.
        .take(CREATING_MAX.saturating_sub(new.counted.len()))
        .collect();
    if fresh.is_empty() && new.failures > 0 && !new.is_open(view.now) && recovered(view) {
        return Breaker {
            counted: new.counted,
            ..Breaker::default()
        };
    }
    for (member, why) in fresh {
        new.failures += 1;
        new.counted.push(member.id.clone());
        new.last_failure = crate::domain::instance::status::cut(why, 500);
        if new.failures >= policy.failures {
            let pause = jiff::SignedDuration::from_secs(i64::from(policy.backoff_seconds));
            new.open_until = view.now.checked_add(pause).ok();
        }
    }
    new
}

/// A creation succeeded since: the pool has its minimum and nothing failing in it. What a roll-out is to replace is no
/// proof that creations work.
fn recovered(view: &View<'_>) -> bool {
    rollout::settled(view) >= view.pool.spec.min_idle
        && view.members.iter().all(|m| m.creation_failed.is_none())
}

fn answer_requests(
    view: &View<'_>,
    blocked: Option<&(Reason, String)>,
    room: i32,
    slots: i32,
    ids: &mut impl Iterator<Item = String>,
    decision: &mut Decision,
) {
    let answered = view.pool.status.as_ref().map(|s| &s.requests);
    for request in view
        .requests
        .iter()
        .filter(|r| !answered.is_some_and(|a| a.contains_key(&r.id)))
    {
        if request.kind == RequestKind::Replenish {
            decision.answers.push(replenish(
                request.id.clone(),
                request.count,
                blocked,
                room,
                slots,
                ids,
                &mut decision.create,
            ));
        } else if let Some(finished) = view.progress.finished.get(&request.id) {
            let Finished { count, ids, error } = finished.clone();
            decision.answers.push(Answer {
                id: request.id.clone(),
                ids,
                count,
                capped: false,
                error,
            });
        }
    }
}

fn replenish(
    id: String,
    count: Option<i32>,
    blocked: Option<&(Reason, String)>,
    room: i32,
    slots: i32,
    ids: &mut impl Iterator<Item = String>,
    create: &mut Vec<String>,
) -> Answer {
    let wanted = count.unwrap_or(1).clamp(0, REPLENISH_MAX);
    if let Some((_, why)) = blocked {
        return Answer {
            id,
            ids: vec![],
            count: Some(0),
            capped: false,
            error: why.clone(),
        };
    }
    let used = i32::try_from(create.len()).unwrap_or(i32::MAX);
    let granted = wanted
        .min(room.saturating_sub(used))
        .min(slots.saturating_sub(used))
        .max(0);
    let new: Vec<String> = ids.take(usize::try_from(granted).unwrap_or(0)).collect();
    create.extend(new.iter().cloned());
    let error = if slots.saturating_sub(used) < wanted.min(room.saturating_sub(used)) {
        format!("at most {CREATING_MAX} creations are begun at a time; ask again for the rest")
    } else {
        String::new()
    };
    Answer {
        id,
        count: i32::try_from(new.len()).ok(),
        ids: new,
        capped: granted < wanted && room.saturating_sub(used) < wanted,
        error,
    }
}

/// The pool is being deleted: everything unclaimed goes; claimed agents as `deletionPolicy` says.
fn drain_for_deletion(view: &View<'_>) -> Decision {
    let destroy = view.pool.spec.deletion_policy == DeletionPolicy::Destroy;
    let goes = |m: &&super::view::Member| !m.protected && (destroy || !m.phase.is_untouchable());
    let pending: Vec<_> = view.members.iter().filter(goes).collect();
    let delete = pending
        .iter()
        .filter(|m| m.phase != Phase::Terminating)
        .map(|m| m.object.clone())
        .collect();
    let unseen = view.unseen();
    Decision {
        delete,
        remove_finalizer: pending.is_empty() && unseen.is_empty(),
        reason: Some(Reason::Draining),
        message: format!(
            "being deleted: {} agents left to remove",
            pending.len() + unseen.len()
        ),
        recheck: Duration::from_secs(5),
        ..Decision::default()
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
