//! The claim path, shared by HTTP, AgentClaims and tests: pick, reserve, verify, call once, record, answer.
//!
//! May use `api`, `domain`, `k8s`, `runtime` and the provider's trait. It needs no leader: every replica claims.

pub mod cache;
pub mod durable;
mod joins;
mod prepare;
pub mod replicas;
mod reserve;
pub mod service;
mod settle;
pub mod stock;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::api::{AgentInstance, AgentPool};
use crate::domain::plan::Trouble;
use crate::provider::AgentProvider;

/// What a caller asks for, validated in form by whoever received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The agent's display name, 1 to 200 characters.
    pub agent_name: String,
    /// Its instructions, 1 to 100,000 bytes.
    pub instructions: String,
    /// The conversation to join; `None`: create one.
    pub join_url: Option<String>,
    /// Profile image.
    pub profile_image: Option<String>,
    /// Profile metadata.
    pub metadata: Option<BTreeMap<String, String>>,
    /// What the pool passes through to its agents (`claim.passThroughFields`), as it was given.
    pub passed_through: BTreeMap<String, serde_json::Value>,
    /// Who asks: api, admin, landing, lite.
    pub source: String,
    /// Only an agent of this kind, `openclaw` or `hermes`.
    pub runtime: Option<String>,
    /// The AgentClaim that this claim serves, by name: kept in `spec.claim.ref`, so that a successor finds the agent.
    pub reference: Option<String>,
}

/// An agent handed out.
#[derive(Clone, Debug)]
pub struct ClaimAnswer {
    /// `spec.id` of the agent.
    pub instance_id: String,
    /// The agent's name.
    pub agent_name: String,
    /// The conversation; `None` while a join waits for acceptance.
    pub conversation_id: Option<String>,
    /// The invite link: the new one, or the link that was joined.
    pub invite_url: Option<String>,
    /// The invite's slug, where the agent tells it.
    pub invite_slug: Option<String>,
    /// It is a member of the given conversation.
    pub joined: bool,
    /// The join waits for a person.
    pub waiting_for_acceptance: bool,
    /// The agent's token; `None` where the pool has no auth.
    pub gateway_token: Option<SecretString>,
    /// The agent's base address.
    pub gateway_url: String,
    /// How long the agents themselves took for their status and claim calls, those that were tried in vain included.
    pub agent_took: Duration,
}

/// Why no agent was handed out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClaimError {
    /// None is idle: said only after a list begun after the claim arrived.
    #[error("No idle instances available. Try again in a few minutes.")]
    NoIdle,
    /// The pool does not serve claims now.
    #[error("claims are paused on pool {0}: remove Claims from spec.paused")]
    Paused(String),
    /// The agent refused or failed, and no other was left within the claim's limits.
    #[error("Provision failed on {instance_id}: {message}")]
    ProvisionFailed {
        /// The last agent tried.
        instance_id: String,
        /// What happened, without secrets.
        message: String,
    },
    /// The agent refused the request as such.
    #[error("Provision failed on {instance_id}: {message}")]
    Invalid {
        /// The agent that refused.
        instance_id: String,
        /// What it said.
        message: String,
    },
    /// The key was used with another request.
    #[error("Idempotency-Key was used with another request")]
    KeyReused,
    /// Another claim with the same join link is in flight, or its agent lives.
    #[error("Already provisioning for this conversation")]
    DuplicateJoin {
        /// The agent that has it, where it is known.
        instance_id: Option<String>,
        /// The HTTP status that the pool wants for it.
        status: u16,
    },
    /// None became idle while the caller waited.
    #[error("No idle instances available. Try again in a few minutes.")]
    WaitedOut {
        /// The caller's place among those who wait, from 1.
        position: usize,
        /// When the next agent for that place can be expected.
        expected: Duration,
    },
    /// The same key is being served, and not done in time.
    #[error("still running")]
    StillRunning,
    /// The cluster could not be read or written; the agent, if one was reserved, is settled by the controller.
    #[error("the claim could not be recorded: {0}")]
    Cluster(String),
}

/// The providers, for what a claim has to do inside an agent's machine. `app` brings them.
#[async_trait]
pub trait Providers: Send + Sync {
    /// The provider of an instance, with its pool's credential.
    async fn of(&self, instance: &AgentInstance) -> Result<Arc<dyn AgentProvider>, Trouble>;
    /// A call failed: a refused credential is read again before the next one.
    async fn failed(
        &self,
        instance: &AgentInstance,
        used: &Arc<dyn AgentProvider>,
        trouble: &Trouble,
    );
}

/// Serves claims. Implemented by the claim service; tests of the HTTP surface bring their own.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Hands out one agent of the pool, or says why not. Ends in Claimed or in a replaced agent even if the caller's
    /// future is dropped: the work runs in a task of its own.
    async fn claim(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
    ) -> Result<ClaimAnswer, ClaimError>;
}

/// On which terms a claim is served, beside what is asked for.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The caller's Idempotency-Key: the same key and request get the same answer.
    pub key: Option<String>,
    /// How long the caller waits while no agent is idle.
    pub wait: Duration,
    /// Cancelled when the caller goes away: nobody waits for an agent any more.
    pub gone: CancellationToken,
}

/// Serves claims on terms: keys, join links that nobody joins twice, waiting. Tests of the HTTP surface bring their own.
#[async_trait]
pub trait DurableClaims: Send + Sync {
    /// Hands out one agent of the pool on these terms, or says why not.
    async fn claim(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
        terms: Terms,
    ) -> Result<ClaimAnswer, ClaimError>;
}
