//! How a change of the pool reaches its idle agents: step by step, or not by itself. Pure, total.
//!
//! Only idle agents that drifted, that nobody claimed or protects, are ever replaced. Where there is room for a surge the
//! new one is built and proven first, and the pool never has fewer than its minimum by it; where there is none, at most
//! `maxUnavailable` are missing. Nothing goes before one of the new kind has come up, and nothing while creations fail.

use super::view::{Member, View};
use crate::api::AgentPool;
use crate::api::agent_pool::{Pausable, RolloutStrategy};
use crate::api::condition::{ConditionType, Reason, find};
use crate::domain::budget::Purpose;
use crate::domain::instance::phase::Phase;

/// What may be created beside what was decided already.
pub(super) struct Means<'a> {
    /// How many `maxTotal` leaves room for.
    pub room: i32,
    /// How many can be listed as being created.
    pub slots: i32,
    /// How many are created in this pass anyway.
    pub creates: i32,
    /// What keeps every creation back.
    pub blocked: Option<&'a (Reason, String)>,
    /// Creations that failed since the last success.
    pub failures: i32,
}

/// What to do about drifted agents, and what to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Idle agents that are not what the pool would build now, the protected ones included.
    pub drifted: i32,
    /// How many to create for them.
    pub create: i32,
    /// Names of the instances to delete.
    pub delete: Vec<String>,
    /// Why it is where it is: the RolledOut condition's reason. `None`: a pool that goes.
    pub reason: Option<Reason>,
    /// In words with numbers.
    pub message: String,
}

/// Whether a drifted member is one that a roll-out replaces.
fn is_rolled(member: &Member) -> bool {
    member.phase == Phase::Idle && member.drift.is_some() && !member.protected
}

/// What beginning a creation is for, by what its pool last recorded: what a roll-out builds before it removes anything
/// has time.
pub fn purpose(pool: Option<&AgentPool>) -> Purpose {
    let status = pool.and_then(|pool| Some((pool, pool.status.as_ref()?)));
    let Some((pool, status)) = status else {
        return Purpose::Create;
    };
    let told = find(&status.conditions, ConditionType::RolledOut).map(|c| c.reason.as_str());
    let rolls = [Reason::RollingOut, Reason::QuotaReserved].map(|r| Some(r.as_str()));
    match () {
        () if status.idle < pool.spec.min_idle => Purpose::Refill,
        () if status.drifted > 0 && rolls.contains(&told) => Purpose::Drift,
        () => Purpose::Create,
    }
}

/// Whether drifted idle agents of the pool are replaced at all.
pub(super) fn is_rolling(view: &View<'_>) -> bool {
    let spec = &view.pool.spec;
    spec.rollout.strategy == RolloutStrategy::RollingIdle
        && !spec.paused.contains(&Pausable::Rollout)
}

/// How many idle agents stay as they are while the pool rolls out.
pub(super) fn settled(view: &View<'_>) -> i32 {
    let rolling = is_rolling(view);
    let idle = view.members.iter().filter(|m| m.phase == Phase::Idle);
    count(idle.filter(|m| !(rolling && is_rolled(m))))
}

fn count<'a>(members: impl Iterator<Item = &'a Member>) -> i32 {
    i32::try_from(members.count()).unwrap_or(i32::MAX)
}

/// The stock, as a roll-out counts it.
struct Stock {
    idle: i32,
    rolled: i32,
    building: i32,
    /// Being built of the present kind.
    fresh: i32,
    /// One of the present kind has come up.
    proven: bool,
}

impl Stock {
    fn of(view: &View<'_>, creates: i32) -> Self {
        let all = || view.members.iter();
        let begun = creates + i32::try_from(view.unseen().len()).unwrap_or(i32::MAX);
        let building = |m: &&Member| m.phase == Phase::Provisioning;
        let up = |m: &Member| {
            m.drift.is_none()
                && matches!(
                    m.phase,
                    Phase::Idle
                        | Phase::Claiming
                        | Phase::Claimed
                        | Phase::PendingAcceptance
                        | Phase::Recycling
                )
        };
        Self {
            idle: count(all().filter(|m| m.phase == Phase::Idle)),
            rolled: count(all().filter(|m| is_rolled(m))),
            building: begun + count(all().filter(building)),
            fresh: begun + count(all().filter(building).filter(|m| m.drift.is_none())),
            proven: all().any(up),
        }
    }

    fn total(&self) -> i32 {
        self.idle + self.building
    }
}

/// Decides.
pub(super) fn decide(view: &View<'_>, means: &Means<'_>) -> Rollout {
    let stock = Stock::of(view, means.creates);
    let drifted = |m: &&Member| m.phase == Phase::Idle && m.drift.is_some();
    let drifted = count(view.members.iter().filter(drifted));
    let told = |reason, message| Rollout {
        drifted,
        reason: Some(reason),
        message,
        ..Rollout::default()
    };
    if drifted == 0 {
        return told(Reason::UpToDate, String::new());
    }
    let which = format!("{drifted} of {} idle agents drifted", stock.idle);
    if let Some((reason, why)) = held(view, &stock, means) {
        return told(reason, format!("{which}; {why}"));
    }
    let (delete, create) = step(view, &stock, means);
    let spec = &view.pool.spec.rollout;
    let stuck = delete == 0 && create == 0 && stock.building == 0;
    let how = if stuck {
        "nothing can be replaced: maxTotal leaves no room for a new one, and no more may be missing than are"
            .to_owned()
    } else {
        let (surge, missing) = (spec.max_surge, spec.max_unavailable);
        format!("being replaced (maxSurge {surge}, maxUnavailable {missing})")
    };
    let reason = if stuck {
        Reason::MaxTotalReached
    } else {
        Reason::RollingOut
    };
    let oldest = view.members.iter().filter(|m| is_rolled(m));
    let names = oldest.map(|m| m.object.clone());
    Rollout {
        create,
        delete: names.take(usize::try_from(delete).unwrap_or(0)).collect(),
        ..told(reason, format!("{which}; {how}"))
    }
}

/// Why nothing is replaced now.
fn held(view: &View<'_>, stock: &Stock, means: &Means<'_>) -> Option<(Reason, String)> {
    let spec = &view.pool.spec;
    let paused = |what| spec.paused.contains(&what);
    if spec.rollout.strategy == RolloutStrategy::OnDrain {
        let why = "spec.rollout.strategy OnDrain leaves them until they are drained or claimed";
        return Some((Reason::Drifted, why.to_owned()));
    }
    if paused(Pausable::Rollout) {
        let why = "spec.paused holds Rollout";
        return Some((Reason::Paused, why.to_owned()));
    }
    if stock.rolled == 0 {
        let why = "all of them are protected";
        return Some((Reason::Drifted, why.to_owned()));
    }
    if let Some((reason, why)) = means.blocked {
        return Some((*reason, format!("the roll-out stopped: {why}")));
    }
    if view.listing.no_room {
        let why =
            "what is left of the provider's request limit is kept for claims, removals and refills";
        return Some((Reason::QuotaReserved, why.to_owned()));
    }
    // What is missing would not be refilled, and a surge would be a refill by the back door.
    let short = stock.total() < spec.min_idle;
    if paused(Pausable::Refill) && (short || !may_surge(view, stock, means)) {
        let why = "spec.paused holds Refill, and without a refill there would be too few";
        return Some((Reason::Paused, why.to_owned()));
    }
    None
}

/// Whether a new one can be built before an old one goes: there is room, or one is on its way or has come up.
fn may_surge(view: &View<'_>, stock: &Stock, means: &Means<'_>) -> bool {
    let room = means.room.saturating_sub(means.creates);
    let surging = stock.total() > view.wanted() && (stock.fresh > 0 || stock.proven);
    view.pool.spec.rollout.max_surge > 0 && (room > 0 || surging)
}

/// How many go, and how many are created for them.
fn step(view: &View<'_>, stock: &Stock, means: &Means<'_>) -> (i32, i32) {
    let spec = &view.pool.spec;
    let (surge, missing) = (spec.rollout.max_surge, spec.rollout.max_unavailable);
    let surges = may_surge(view, stock, means);
    let surplus = stock.idle > spec.min_idle;
    let floor = if surges || (surge > 0 && surplus) {
        spec.min_idle
    } else {
        spec.min_idle.saturating_sub(missing).max(0)
    };
    let trial = match () {
        // Where what stays is enough, nothing is built to try the new kind.
        () if stock.proven || view.wanted() <= stock.idle - stock.rolled => i32::MAX,
        () if surges || means.failures > 0 => 0,
        // Without room the new kind is tried in the place of one that is too many, or of those that may be missing.
        () => missing
            .max(i32::from(surplus))
            .saturating_sub(stock.fresh)
            .max(0),
    };
    let delete = (stock.idle - floor).max(0).min(stock.rolled).min(trial);
    let (idle, rolled) = (stock.idle - delete, stock.rolled - delete);
    if rolled == 0 {
        return (delete, 0);
    }
    let most = view.wanted().max(idle).saturating_add(surge);
    let needed = view.wanted() - (idle - rolled) - stock.fresh;
    let create = needed
        .min(most.saturating_sub(idle + stock.building))
        .min(means.room.saturating_sub(means.creates))
        .min(means.slots.saturating_sub(means.creates));
    (delete, if surges { create.max(0) } else { 0 })
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
