//! Errors of providers and their class: the core branches on the class, never on a text.

use std::time::Duration;

/// What an error means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 429: did not run; the whole provider waits.
    Throttled,
    /// 5xx or time-out on a read, DNS: try again.
    Transient,
    /// Time-out or reset after a write was sent: look first.
    Ambiguous,
    /// The request itself is at fault: not before something changes.
    Rejected,
    /// Quota or plan limit: slowly.
    Capacity,
    /// 401, 403: not before the credential changes.
    Unauthorized,
    /// What we address does not exist.
    Gone,
}

impl Class {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Ambiguous => "ambiguous",
            Self::Rejected => "rejected",
            Self::Capacity => "capacity",
            Self::Unauthorized => "unauthorized",
            Self::Gone => "gone",
        }
    }
}

/// An error of a provider. Its text says what we were doing and what the provider said; never a token, a URL's query
/// or a body.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing}: {message}")]
pub struct ProviderError {
    /// What it means.
    pub class: Class,
    /// The word for conditions, events and metrics.
    pub reason: crate::api::condition::Reason,
    /// What we were doing, for example `create service convos-agent-stg-…`.
    pub doing: String,
    /// What went wrong, redacted.
    pub message: String,
    /// When the provider says to come back.
    pub retry_after: Option<Duration>,
}
