//! What this process remembers between sweeps, by scope, on its own monotonic clock.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Monotonic;
use crate::controllers::fleet::Scope;
use crate::domain::resource::Owner;
use crate::domain::sweep::{Kind, Naming, Sighting, Strays};

/// A stranger, remembered.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// When this process first saw it as a stranger.
    pub first_seen: Monotonic,
    /// When the first listing that shows it was begun.
    pub first_listing: Monotonic,
    /// And the latest one.
    pub latest_listing: Monotonic,
    /// Whose it is, and when that was read.
    pub mark: Option<(Owner, Monotonic)>,
    name: String,
    told: Option<Kind>,
}

#[derive(Default)]
struct Swept {
    due: Monotonic,
    asked: Option<Monotonic>,
    finished: Option<Monotonic>,
    strangers: HashMap<String, Stranger>,
    told: Vec<(Kind, String)>,
    removed: Vec<(String, Monotonic)>,
}

/// All scopes, remembered.
#[derive(Default)]
pub struct Sweeps {
    scopes: Mutex<HashMap<Scope, Swept>>,
}

impl Sweeps {
    fn with<T>(&self, scope: &Scope, work: impl FnOnce(&mut Swept) -> T) -> T {
        let mut all = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        work(all.entry(scope.clone()).or_default())
    }

    /// Forgets scopes that no pool has any more.
    pub fn keep(&self, scopes: &[&Scope]) {
        let mut all = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|scope, _| scopes.contains(&scope));
    }

    /// Whether a scope is to be swept: at once where it is new or where that was asked for.
    pub fn is_due(&self, scope: &Scope, now: Monotonic) -> bool {
        self.with(scope, |s| s.asked.is_some() || s.due <= now)
    }

    /// Asks for a sweep now, on a listing begun from now on.
    pub fn ask(&self, scope: &Scope, now: Monotonic) {
        self.with(scope, |s| s.asked = Some(now));
    }

    /// How old a listing may be.
    pub fn max_age(&self, scope: &Scope, now: Monotonic, usual: Duration) -> Duration {
        let asked = self.with(scope, |s| s.asked);
        asked.map_or(usual, |at| usual.min(now.saturating_sub(at)))
    }

    /// No sweep was possible; when to try again, unless it was only asked for and the next one is due later anyway.
    pub fn postpone(&self, scope: &Scope, begun: Monotonic, again: Duration) {
        self.with(scope, |s| {
            if s.due <= begun {
                s.due = begun + again;
            }
            s.asked = None;
        });
    }

    /// Remembers the strangers of a listing, and forgets all others.
    pub fn notice(
        &self,
        scope: &Scope,
        sightings: &[Sighting<'_>],
        listing: Monotonic,
        now: Monotonic,
    ) {
        let ids: HashSet<&str> = sightings.iter().map(|s| s.resource.id.as_str()).collect();
        self.with(scope, |s| {
            s.strangers.retain(|id, _| ids.contains(id.as_str()));
            for sighting in sightings {
                let name = &sighting.resource.name;
                let stranger = s
                    .strangers
                    .entry(sighting.resource.id.clone())
                    .or_insert_with(|| Stranger {
                        first_seen: now,
                        first_listing: listing,
                        latest_listing: listing,
                        mark: None,
                        name: name.clone(),
                        told: None,
                    });
                stranger.latest_listing = stranger.latest_listing.max(listing);
                stranger.name.clone_from(name);
            }
        });
    }

    /// What is remembered of a stranger.
    pub fn stranger(&self, scope: &Scope, id: &str) -> Option<Stranger> {
        self.with(scope, |s| s.strangers.get(id).cloned())
    }

    /// Remembers whose a stranger is.
    pub fn mark(&self, scope: &Scope, id: &str, owner: Owner, now: Monotonic) {
        self.with(scope, |s| {
            if let Some(stranger) = s.strangers.get_mut(id) {
                stranger.mark = Some((owner, now));
            }
        });
    }

    /// Remembers what is reported of a stranger.
    pub fn tell(&self, scope: &Scope, sighting: &Sighting<'_>, told: Option<Kind>) {
        self.with(scope, |s| {
            if let Some(stranger) = s.strangers.get_mut(&sighting.resource.id) {
                stranger.told = told;
            }
        });
    }

    /// A stranger is no more: removed, with its id counted, or adopted.
    pub fn settle(&self, scope: &Scope, sighting: &Sighting<'_>, removed_at: Option<Monotonic>) {
        self.with(scope, |s| {
            s.strangers.remove(&sighting.resource.id);
            if let Some(at) = removed_at {
                // A request asks for those since it began, and lives for half a minute.
                s.removed
                    .retain(|(_, then)| at.saturating_sub(*then) < Duration::from_secs(60));
                s.removed.push((sighting.identity.id.clone(), at));
            }
        });
    }

    /// A sweep begun at `begun` is over; whether what it reports changed.
    pub fn finish(&self, scope: &Scope, begun: Monotonic, next: Duration) -> bool {
        self.with(scope, |s| {
            s.due = begun + next;
            if s.asked.is_some_and(|at| at <= begun) {
                s.asked = None;
            }
            s.finished = Some(begun);
            let all = s.strangers.values();
            let mut told: Vec<_> = all
                .filter_map(|s| Some((s.told?, s.name.clone())))
                .collect();
            told.sort_unstable();
            let changed = told != s.told;
            s.told = told;
            changed
        })
    }

    /// Whether a sweep begun since is over, and the ids that were removed since.
    pub fn since(&self, scope: &Scope, begun: Monotonic) -> (bool, Vec<String>) {
        self.with(scope, |s| {
            let removed = s.removed.iter().filter(|(_, at)| *at >= begun);
            (
                s.finished.is_some_and(|at| at >= begun),
                removed.map(|(id, _)| id.clone()).collect(),
            )
        })
    }

    /// What the latest sweep found of those called as a pool's resources are.
    pub fn strays(&self, scope: &Scope, naming: &Naming) -> Strays {
        let mut strays = Strays::default();
        self.with(scope, |s| {
            for (kind, name) in &s.told {
                if naming.identify(name).is_some() {
                    strays.add(*kind, name);
                }
            }
        });
        strays
    }
}
