//! What is known of a scope, and its listing.
//!
//! Whoever needs a listing asks for one that is not older than it can use; of those who ask at the same time one goes
//! to the provider. The others wait for its answer only where they must have it: a large fleet takes many seconds to
//! list, and every pass of every instance looks at the listing. Whoever only wants to know never waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;

use super::{Fleet, Scope, Snapshot};
use crate::clock::Monotonic;
use crate::domain::backoff::{self, Call};
use crate::domain::plan::{Class, Facts, Trouble};
use crate::provider::AgentProvider;
use crate::provider::account::{self, Purpose};

/// A listing is begun anew no sooner than after so many times what the last one took: listing takes a third of the
/// time at most, however large the fleet and short the tick.
const SHARE: u32 = 3;

/// A scope. `known` is looked at and changed in passing, never over an await.
#[derive(Default)]
pub(super) struct Cell {
    known: Mutex<Known>,
    /// Held by whoever asks the provider for a listing or names.
    pub(super) asking: tokio::sync::Mutex<()>,
    /// Held by whoever reads the Secret.
    pub(super) reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct Known {
    pub(super) connection: Option<(SecretString, Arc<dyn AgentProvider>)>,
    /// Why there is no connection, and until when nobody looks again: all the instances of a scope would, one by one.
    pub(super) unconnected: Option<(Trouble, Monotonic)>,
    pub(super) resolved: Option<Facts>,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) failures: u32,
    /// How often its credential was replaced by another.
    pub(super) rotations: u32,
    pub(super) trouble: Option<(Trouble, Monotonic)>,
}

impl Cell {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    pub(super) fn provider(&self) -> Option<Arc<dyn AgentProvider>> {
        self.connection.as_ref().map(|(_, p)| p.clone())
    }

    /// The provider, or why there is none; `None`: the Secret is to be read.
    pub(super) fn connected(
        &self,
        fresh: bool,
        now: Monotonic,
    ) -> Option<Result<Arc<dyn AgentProvider>, Trouble>> {
        match (self.provider(), &self.unconnected) {
            (Some(provider), _) => (!fresh).then_some(Ok(provider)),
            (None, Some((trouble, until))) if now < *until => Some(Err(trouble.clone())),
            (None, _) => None,
        }
    }

    /// The listing, where it is fresh enough for who asked then: begun since, or not longer than `max_age` before.
    fn fresh(&self, asked: Monotonic, max_age: Duration) -> Option<Arc<Snapshot>> {
        let fresh = |s: &&Arc<Snapshot>| s.begun > asked || asked.saturating_sub(s.begun) < max_age;
        self.snapshot.as_ref().filter(fresh).cloned()
    }

    /// How it stands while somebody asks: the trouble that is not known to be over, or the latest listing.
    fn meanwhile(&self) -> Option<Result<Arc<Snapshot>, Trouble>> {
        match &self.trouble {
            Some((trouble, _)) => Some(Err(trouble.clone())),
            None => self.snapshot.clone().map(Ok),
        }
    }
}

impl Fleet {
    /// A listing of the scope begun at most `max_age` before this call, or the latest trouble. Waits for it.
    pub async fn snapshot(
        &self,
        scope: &Scope,
        max_age: Duration,
    ) -> Result<Arc<Snapshot>, Trouble> {
        let cell = self.cell(scope);
        let asked = self.clock.monotonic();
        let known = cell.known().fresh(asked, max_age);
        if let Some(found) = known {
            return Ok(found);
        }
        let _asking = cell.asking.lock().await;
        self.list(scope, &cell, asked, max_age).await
    }

    /// The same for the many, who come again: while one of them asks, the others go on with the latest listing. Waits
    /// for another's only where there is none yet.
    pub async fn recent(&self, scope: &Scope, max_age: Duration) -> Result<Arc<Snapshot>, Trouble> {
        let cell = self.cell(scope);
        let asked = self.clock.monotonic();
        let took = cell.known().snapshot.as_ref().map(|s| s.took);
        let max_age = max_age.max(took.unwrap_or_default() * SHARE);
        // Nor oftener than the request limit bears.
        let max_age = max_age.max(self.listing_interval(scope));
        let known = cell.known().fresh(asked, max_age);
        if let Some(found) = known {
            return Ok(found);
        }
        let _asking = match cell.asking.try_lock() {
            Ok(asking) => asking,
            Err(_) => {
                let meanwhile = cell.known().meanwhile();
                if let Some(answer) = meanwhile {
                    return answer;
                }
                cell.asking.lock().await
            }
        };
        self.list(scope, &cell, asked, max_age).await
    }

    /// How long a listing of the scope rests at least, by the request limit.
    pub fn listing_interval(&self, scope: &Scope) -> Duration {
        let provider = self.cell(scope).known().provider();
        provider.map_or(Duration::ZERO, |p| p.listing_interval())
    }

    /// Whether the request limit of a scope has room for such a purpose; Err: how long until it has, at the soonest.
    pub fn room_for(&self, scope: &Scope, purpose: Purpose) -> Result<(), Duration> {
        let provider = self.cell(scope).known().provider();
        provider.map_or(Ok(()), |p| p.room_for(purpose))
    }

    /// The latest listing, however old.
    pub fn latest(&self, scope: &Scope) -> Option<Arc<Snapshot>> {
        self.cell(scope).known().snapshot.clone()
    }

    /// Lists, unless another did since this was asked for; with `asking` held.
    async fn list(
        &self,
        scope: &Scope,
        cell: &Cell,
        asked: Monotonic,
        max_age: Duration,
    ) -> Result<Arc<Snapshot>, Trouble> {
        let known = cell.known().fresh(asked, max_age);
        if let Some(found) = known {
            return Ok(found);
        }
        self.may_ask(scope, cell).await?;
        let provider = self.connection(scope, cell, true).await?;
        let begun = self.clock.monotonic();
        let listed = account::shared(Purpose::Watch, provider.list()).await;
        let took = self.clock.monotonic().saturating_sub(begun);
        let answer = listed
            .map_err(Trouble::from)
            .map(|listing| Arc::new(Snapshot::new(begun, took, listing)));
        self.learn(cell, &provider, answer, |known, snapshot| {
            known.snapshot = Some(snapshot.clone());
        })
    }

    /// Notes what came of asking; not where the credential was replaced meanwhile: that says nothing of the new one.
    pub(super) fn learn<T>(
        &self,
        cell: &Cell,
        used: &Arc<dyn AgentProvider>,
        answer: Result<T, Trouble>,
        keep: impl FnOnce(&mut Known, &T),
    ) -> Result<T, Trouble> {
        let mut known = cell.known();
        if !known.provider().is_some_and(|p| Arc::ptr_eq(&p, used)) {
            return answer;
        }
        match &answer {
            Ok(found) => {
                keep(&mut known, found);
                known.trouble = None;
                known.failures = 0;
            }
            Err(trouble) => {
                let until = self.clock.monotonic() + backoff::after(trouble, known.failures);
                known.failures = known.failures.saturating_add(1);
                known.trouble = Some((trouble.clone(), until));
            }
        }
        answer
    }

    /// Whether listing or resolving may be tried now. A refused credential is compared with its Secret first.
    pub(super) async fn may_ask(&self, scope: &Scope, cell: &Cell) -> Result<(), Trouble> {
        if let Some(throttled) = self.held(scope, Call::Read) {
            return Err(throttled);
        }
        match self.not_yet(cell) {
            Err(trouble) if trouble.class == Class::Unauthorized => {
                self.connection(scope, cell, true).await?;
                self.not_yet(cell)
            }
            other => other,
        }
    }

    /// After a failure the whole scope waits, not one object.
    fn not_yet(&self, cell: &Cell) -> Result<(), Trouble> {
        match &cell.known().trouble {
            Some((trouble, until)) if self.clock.monotonic() < *until => Err(trouble.clone()),
            _ => Ok(()),
        }
    }
}
