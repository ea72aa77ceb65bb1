//! The agent's own HTTP contract, both dialects.
//!
//! May use `api` and the observation types of `domain`. A claim call goes out on a fresh connection, once; probes
//! may pool. An answer counts only if status, content type and JSON all fit.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::agent::{ClaimCall, ClaimOutcome, Dialect, Probe};

pub mod client;
pub mod gateway;
pub mod pool_server;
pub mod wire;

pub use client::HttpRuntime;

/// Which agent is meant and how it is authenticated.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its base address, `status.url`.
    pub url: String,
    /// Its token; `None` where the pool has no auth.
    pub token: Option<SecretString>,
    /// The pool's shared key, tried once after a 401 or 403.
    pub shared_key: Option<SecretString>,
}

/// Adds to a claim's body what the pool passes through. What we say ourselves stands.
fn pass_through(body: &mut serde_json::Map<String, serde_json::Value>, call: &ClaimCall) {
    for (name, value) in &call.passed_through {
        body.entry(name).or_insert_with(|| value.clone());
    }
}

/// Talks to agents.
#[async_trait]
pub trait AgentRuntime: Send + Sync {
    /// One probe: health and status as the dialect has them, each within `limit`. `recorded` is the dialect decided
    /// earlier; `None` decides it (the pool may fix it by passing it here).
    async fn probe(&self, agent: &Agent, recorded: Option<Dialect>, limit: Duration) -> Probe;

    /// One status call, as it is made right before a claim. Never decides a dialect.
    async fn status(&self, agent: &Agent, dialect: Dialect, limit: Duration) -> Probe;

    /// The one claim call of an instance's life. Never repeats, except once with the shared key after 401 or 403.
    async fn claim(
        &self,
        agent: &Agent,
        dialect: Dialect,
        call: &ClaimCall,
        limit: Duration,
    ) -> ClaimOutcome;

    /// Asks a managed agent to forget everything of a failed claim; whether it says that it did. Never for a gateway, whose
    /// reset makes a conversation.
    async fn reset(&self, agent: &Agent, limit: Duration) -> bool;
}
