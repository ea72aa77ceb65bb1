//! Waiting for one's turn: the oldest first, over all replicas.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::queue::{PoolKey, pool_of};
use crate::api::agent_claim::AgentClaim;
use crate::claim::ClaimError;
use crate::clock::Monotonic;
use crate::domain::agent_claim::{self as judgement, Place, Queue as Seen, Turn};
use crate::domain::instance::phase::{Phase, phase_of};

/// After a try that found no agent, the cache has so long to show why.
const SETTLES: Duration = Duration::from_millis(250);

/// One who waits.
pub(super) struct Waiter {
    pool: PoolKey,
    place: Place,
    end: Option<Monotonic>,
    gone: CancellationToken,
    changes: watch::Receiver<()>,
    first: bool,
    /// Who stood first while agents were free, and since when.
    blocked: Option<(Place, Monotonic)>,
}

impl Inner {
    /// A claim that waits until `end`, or as long as it takes; nobody waits any more once `gone` is cancelled.
    pub(super) fn waiter(
        &self,
        claim: &AgentClaim,
        end: Option<Monotonic>,
        gone: CancellationToken,
    ) -> Waiter {
        Waiter {
            pool: pool_of(claim),
            place: judgement::place(claim),
            end,
            gone,
            changes: self.parts.queue.hear_all(),
            first: true,
            blocked: None,
        }
    }

    /// Waits until it is this one's turn; false where its time is over, or nobody waits any more.
    pub(super) async fn my_turn(&self, waiter: &mut Waiter) -> bool {
        if !waiter.first {
            self.change_within(waiter, SETTLES).await;
        }
        loop {
            if waiter.gone.is_cancelled() {
                return false;
            }
            waiter.changes.borrow_and_update();
            match judgement::turn(&self.look(waiter)) {
                Turn::Claim => {
                    waiter.first = false;
                    return true;
                }
                Turn::GiveUp => return false,
                Turn::Wait(limit) => self.change_within(waiter, limit).await,
            }
        }
    }

    /// One look: whether it is this one's turn, its time is over, or it waits on, after a change or a while.
    pub(super) async fn one_turn(&self, waiter: &mut Waiter) -> Turn {
        if !waiter.first {
            self.change_within(waiter, SETTLES).await;
        }
        waiter.changes.borrow_and_update();
        let turn = judgement::turn(&self.look(waiter));
        match turn {
            Turn::Claim => waiter.first = false,
            Turn::Wait(limit) => self.change_within(waiter, limit).await,
            Turn::GiveUp => {}
        }
        turn
    }

    /// Waits for a change, or a while.
    pub(super) async fn a_change(&self, waiter: &mut Waiter) {
        self.change_within(waiter, judgement::OVERTAKE_AFTER).await;
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self, waiter: &Waiter) -> bool {
        let now = self.parts.clock.monotonic();
        waiter.end.is_some_and(|end| end <= now)
    }

    async fn change_within(&self, waiter: &mut Waiter, limit: Duration) {
        tokio::select! {
            _ = waiter.changes.changed() => {}
            () = self.parts.clock.sleep(limit) => {}
            () = waiter.gone.cancelled() => {}
        }
    }

    fn look(&self, waiter: &mut Waiter) -> Seen {
        let now = self.parts.clock.monotonic();
        let (older, head) = self.parts.queue.before(&waiter.pool, &waiter.place);
        let free = self.parts.stock.count(&waiter.pool);
        // The time runs while agents are free and the same one stands first.
        waiter.blocked = match (head.filter(|_| free > 0), waiter.blocked.take()) {
            (Some(head), Some((same, since))) if same == head => Some((same, since)),
            (Some(head), _) => Some((head, now)),
            (None, _) => None,
        };
        let blocked = waiter.blocked.as_ref();
        Seen {
            older,
            free,
            first: waiter.first,
            blocked: blocked.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since)),
            left: waiter.end.map(|end| end.saturating_sub(now)),
        }
    }

    /// What one is told who waited in vain: its place, and when an agent for that place can be expected.
    pub(super) fn waited_out(&self, waiter: &Waiter) -> ClaimError {
        let position = self.parts.queue.before(&waiter.pool, &waiter.place).0 + 1;
        let now = self.parts.clock.now();
        let members = self.parts.instances.state_filter(|i| {
            i.metadata.namespace.as_ref() == Some(&waiter.pool.0)
                && i.spec.pool_ref.name == waiter.pool.1
        });
        let ages: Vec<Duration> = members
            .iter()
            .filter(|i| phase_of(i) == Phase::Provisioning)
            .filter_map(|i| i.metadata.creation_timestamp.as_ref())
            .filter_map(|t| Duration::try_from(now.duration_since(t.0)).ok())
            .collect();
        let refill = judgement::refill_time(members.iter().map(AsRef::as_ref));
        ClaimError::WaitedOut {
            position,
            expected: judgement::expected(position, refill, &ages),
        }
    }
}
