//! Errors of providers and their class: the core branches on the class, never on a text.

use std::time::Duration;

pub use crate::domain::plan::Class;

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

impl From<ProviderError> for crate::domain::plan::Trouble {
    fn from(e: ProviderError) -> Self {
        Self {
            class: e.class,
            reason: e.reason,
            message: e.to_string(),
            retry_after: e.retry_after,
        }
    }
}
