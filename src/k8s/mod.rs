//! Thin, typed helpers over the kube client: the writes of an instance, errors told apart, events, Secrets.
//!
//! May use `api` and kube. Every call here is bounded: kube's own client repeats 429, 503 and 504 for minutes.

pub mod agent_claim;
pub mod apply;
pub mod config_map;
pub mod error;
pub mod event;
pub mod lease;
pub mod patch;
pub mod secret;
pub mod watch;

use std::time::Duration;

/// The longest that one call to the API server may take.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);
