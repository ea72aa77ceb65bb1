//! A listing as it is kept: there may be ten thousand resources in it, and two of them while a new one comes.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Monotonic;
use crate::domain::plan::Facts;
use crate::domain::resource::{Listing, Liveness, Resource};

/// A listing, by the provider's ids.
pub struct Snapshot {
    /// When it was begun: what is newer it cannot tell.
    pub begun: Monotonic,
    /// How long it took.
    pub(super) took: Duration,
    by_id: HashMap<Box<str>, Kept>,
}

/// A resource in little space: a map of facts takes half a KiB before its first entry.
struct Kept {
    name: Box<str>,
    liveness: Liveness,
    native_state: Option<Box<str>>,
    facts: Box<[(Box<str>, Box<str>)]>,
    created_at: Option<jiff::Timestamp>,
}

impl Snapshot {
    /// What a listing begun then, which took so long, has.
    pub fn new(begun: Monotonic, took: Duration, listing: Listing) -> Self {
        let kept = |r: Resource| {
            let facts = r.facts.into_iter().map(|(k, v)| (k.into(), v.into()));
            let kept = Kept {
                name: r.name.into(),
                liveness: r.liveness,
                native_state: r.native_state.map(Into::into),
                facts: facts.collect(),
                created_at: r.created_at,
            };
            (r.id.into(), kept)
        };
        let by_id = listing.resources.into_iter().map(kept).collect();
        Self { begun, took, by_id }
    }

    /// The resource of that id.
    pub fn get(&self, id: &str) -> Option<Resource> {
        self.by_id.get(id).map(|kept| kept.resource(id))
    }

    /// Whether it has a resource of that id.
    pub fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// The name of the resource of that id.
    pub fn name(&self, id: &str) -> Option<&str> {
        self.by_id.get(id).map(|kept| &*kept.name)
    }

    /// The resources of which `wanted` says so, by id and name.
    pub fn choose(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<Resource> {
        let chosen = self.by_id.iter().filter(|(id, r)| wanted(id, &r.name));
        chosen.map(|(id, kept)| kept.resource(id)).collect()
    }
}

impl Kept {
    fn resource(&self, id: &str) -> Resource {
        let facts = self.facts.iter();
        Resource {
            name: self.name.to_string(),
            id: id.to_owned(),
            liveness: self.liveness,
            native_state: self.native_state.as_deref().map(str::to_owned),
            facts: facts
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect::<Facts>(),
            created_at: self.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_listed() {
        let resource = |id: &str, state: Option<&str>| Resource {
            name: format!("name of {id}"),
            id: id.to_owned(),
            liveness: Liveness::Sleeping,
            native_state: state.map(str::to_owned),
            facts: [("url", "https://x"), ("serviceId", id)]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            created_at: state.and(Some(jiff::Timestamp::UNIX_EPOCH)),
        };
        let resources = vec![resource("a", Some("SLEEPING")), resource("b", None)];
        let listing = Listing {
            resources: resources.clone(),
        };
        let snapshot = Snapshot::new(Duration::ZERO, Duration::ZERO, listing);
        for listed in &resources {
            assert_eq!(snapshot.get(&listed.id).as_ref(), Some(listed));
            assert_eq!(snapshot.name(&listed.id), Some(&*listed.name));
            assert!(snapshot.has(&listed.id));
            let chosen = snapshot.choose(|id, name| id == listed.id && name == listed.name);
            assert_eq!(chosen, std::slice::from_ref(listed));
        }
        assert!(snapshot.get("c").is_none() && !snapshot.has("c"));
    }
}
