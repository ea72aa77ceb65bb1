//! A resource at a provider, as observed.

use super::plan::Facts;

/// Our words for how a resource fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Exists; nothing runs or ever ran.
    Created,
    /// On its way up (Railway: queued, building, deploying, …, and every word nobody knows).
    Starting,
    /// Waits for a person's approval at the provider; goes on with it, and never without.
    Blocked,
    /// Up, as the provider sees it.
    Running,
    /// Ended by itself or by a stop.
    Stopped,
    /// Asleep; the next request wakes it.
    Sleeping,
    /// Paused with its memory (Sprites): the next request wakes it in a moment. In stock and in use like one that runs.
    Warm,
    /// Paused without its memory (Sprites): the next request boots it. In stock and in use like one that runs.
    Cold,
    /// The start failed; it never ran.
    Failed,
    /// It ran and crashed.
    Crashed,
    /// Torn down or skipped.
    Removed,
}

impl Liveness {
    /// Whether it is paused, and in stock and in use all the same: the next request wakes it.
    pub fn is_paused(self) -> bool {
        matches!(self, Self::Warm | Self::Cold)
    }

    /// The word in `status.provider.state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Starting => "Starting",
            Self::Blocked => "Blocked",
            Self::Running => "Running",
            Self::Stopped => "Stopped",
            Self::Sleeping => "Sleeping",
            Self::Warm => "Warm",
            Self::Cold => "Cold",
            Self::Failed => "Failed",
            Self::Crashed => "Crashed",
            Self::Removed => "Removed",
        }
    }
}

/// A resource as a listing or a direct read shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name at the provider, now; may differ from the name at creation after a rename.
    pub name: String,
    /// Its id at the provider.
    pub id: String,
    /// How it fares, in our words.
    pub liveness: Liveness,
    /// How it fares, in the provider's word (Railway: the status of the latest deployment), where it has one.
    pub native_state: Option<String>,
    /// Ids and addresses, as in [`Facts`].
    pub facts: Facts,
    /// When it was created, by the provider's clock.
    pub created_at: Option<jiff::Timestamp>,
}

/// Everything the provider has in one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// All resources of the scope, ours or not.
    pub resources: Vec<Resource>,
}

/// Whether a resource exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    Present(Box<Resource>),
    /// It does not: the provider says so.
    Gone,
    /// Nobody knows.
    Unknown,
}

/// Whose a resource is, by the mark that it carries at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This is its mark.
    Marked(String),
    /// It carries none.
    Unmarked,
    /// The listing of this scope shows it, but it lives in another one (Railway: a service shows up in every
    /// environment of its project): nothing here says how it fares.
    Elsewhere,
    /// It is gone.
    Gone,
}
