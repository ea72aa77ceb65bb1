//! What no roll-out may ever do, written from the pool's own words.

use super::count;
use crate::api::agent_pool::{Pausable, RolloutStrategy};
use crate::domain::instance::phase::Phase;
use crate::domain::pool::decide::Decision;
use crate::domain::pool::view::View;

fn going(v: &View<'_>) -> bool {
    v.pool.metadata.deletion_timestamp.is_some()
}

fn in_phase(v: &View<'_>, phase: Phase) -> i64 {
    count(v.members.iter().filter(|m| m.phase == phase).count())
}

/// After its deletions at least `minIdle - maxUnavailable` are idle; all of `minIdle` where one could be built first, or
/// where there are more.
pub(super) fn leaves_enough(v: &View<'_>, d: &Decision) -> bool {
    if going(v) || d.delete.is_empty() {
        return true;
    }
    let spec = &v.pool.spec;
    let idle = in_phase(v, Phase::Idle);
    let left = idle - count(d.delete.len());
    let min = i64::from(spec.min_idle);
    let occupied = v.members.iter().filter(|m| m.phase.occupies()).count() + v.unseen().len();
    let others = d.create.len() - usize::try_from(d.rollout.create).unwrap_or(0);
    let room = spec
        .max_total
        .is_none_or(|max| count(occupied + others) < i64::from(max));
    let least = if spec.rollout.max_surge > 0 && (room || idle > min) {
        min
    } else {
        min - i64::from(spec.rollout.max_unavailable)
    };
    left >= least
}

/// Beside what stays, at most `maxSurge` more than the pool wants, or than are idle where that is more.
pub(super) fn builds_few(v: &View<'_>, d: &Decision) -> bool {
    if d.rollout.create == 0 {
        return true;
    }
    let spec = &v.pool.spec;
    let idle = in_phase(v, Phase::Idle) - count(d.delete.len());
    let building = in_phase(v, Phase::Provisioning) + count(v.unseen().len() + d.create.len());
    let most = i64::from(v.wanted()).max(idle) + i64::from(spec.rollout.max_surge);
    !going(v) && idle + building <= most
}

/// OnDrain, a pause, an open breaker: nothing is created or deleted for it.
pub(super) fn held(v: &View<'_>, d: &Decision) -> bool {
    let spec = &v.pool.spec;
    let held = spec.rollout.strategy == RolloutStrategy::OnDrain
        || spec.paused.contains(&Pausable::Rollout)
        || d.breaker.is_open(v.now)
        || going(v);
    !held || (d.rollout.create == 0 && (going(v) || d.delete.is_empty()))
}
