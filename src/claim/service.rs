//! The claim path: pick, reserve, verify, call once, settle, record, answer.
//!
//! One conditional write reserves (`reserve`), one records (`settle`); between them one status call and the one claim
//! call. 200 is only answered after the record. If this process dies in between, the reservation's deadline lets the
//! controller settle the agent. No claim call is ever sent to an instance twice: what is not handed out goes back to be
//! proven anew, is left to the controller or is replaced, and the claim goes on with another one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::cache::Candidates;
use super::{ClaimAnswer, ClaimError, ClaimRequest, Claims, Providers};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::{AgentPool, Pausable};
use crate::api::names;
use crate::clock::{Clock, Monotonic, Rng};
use crate::domain::claim::FURTHER;
use crate::domain::template::{Preparation, Template};
use crate::k8s::error::K8sError;
use crate::k8s::secret;
use crate::k8s::secret::RootKeys;
use crate::runtime::AgentRuntime;

/// Serves claims for this replica.
pub struct ClaimService {
    inner: Arc<Inner>,
    tasks: TaskTracker,
}

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) candidates: Arc<Candidates>,
    pub(super) runtime: Arc<dyn AgentRuntime>,
    pub(super) root_keys: RootKeys,
    pub(super) clock: Clock,
    rng: Rng,
    pub(super) holder: String,
    pub(super) providers: Option<Arc<dyn Providers>>,
    pub(super) tasks: TaskTracker,
}

impl ClaimService {
    /// A service that claims as `holder`: replica name and a random part per process start.
    #[allow(clippy::too_many_arguments, reason = "wiring")]
    pub fn new(
        client: Client,
        candidates: Arc<Candidates>,
        runtime: Arc<dyn AgentRuntime>,
        root_keys: RootKeys,
        clock: Clock,
        rng: Rng,
        holder: String,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                client,
                candidates,
                runtime,
                root_keys,
                clock,
                rng,
                holder,
                providers: None,
                tasks: tasks.clone(),
            }),
            tasks,
        }
    }

    /// The same with the providers, for pools whose agents have to be prepared before they are called.
    #[must_use]
    pub fn with_providers(mut self, providers: Arc<dyn Providers>) -> Self {
        // Nothing else holds it yet: it was just made.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.providers = Some(providers);
        }
        self
    }
}

#[async_trait]
impl Claims for ClaimService {
    async fn claim(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
    ) -> Result<ClaimAnswer, ClaimError> {
        let (inner, pool) = (self.inner.clone(), pool.clone());
        // A task of its own: the claim ends in Claimed or in a settled agent even if the caller goes away.
        let work = self
            .tasks
            .spawn(async move { inner.claim(&pool, request).await });
        work.await.unwrap_or_else(|e| {
            Err(ClaimError::Cluster(format!(
                "the claim's task ended early: {e}"
            )))
        })
    }
}

/// One claim's own limits and identity.
pub(super) struct Run<'a> {
    pub(super) pool: &'a AgentPool,
    pub(super) request: ClaimRequest,
    pub(super) template: Template,
    pub(super) id: String,
    pub(super) arrived: Monotonic,
    deadline: Monotonic,
    pub(super) requested_at: jiff::Timestamp,
    pub(super) shared_key: Option<SecretString>,
    /// What is to be done with an agent before it is called.
    pub(super) preparation: Option<Preparation>,
    /// What the agents took so far.
    pub(super) agent_took: Duration,
}

/// What came of one instance.
pub(super) enum Attempt {
    Answer(Box<ClaimAnswer>),
    /// Another instance may be tried.
    Next(ClaimError),
    /// No other may.
    Stop(ClaimError),
}

impl Inner {
    async fn claim(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
    ) -> Result<ClaimAnswer, ClaimError> {
        if pool.spec.paused.contains(&Pausable::Claims) {
            return Err(ClaimError::Paused(pool.name_any()));
        }
        let _in_flight = self.candidates.enter();
        let mut run = self.begin(pool, request).await?;
        let mut failure = None;
        for _ in 0..=FURTHER {
            let Some(reserved) = self.reserve_one(&run).await? else {
                break;
            };
            match self.attempt(&mut run, reserved).await {
                Attempt::Answer(answer) => return Ok(*answer),
                Attempt::Stop(error) => return Err(error),
                Attempt::Next(error) => failure = Some(error),
            }
            // Each instance sees a claim id of its own: no write of an earlier attempt can match it.
            run.id = self.fresh_id();
        }
        Err(failure.unwrap_or(ClaimError::NoIdle))
    }

    fn fresh_id(&self) -> String {
        names::id_from_bytes(&self.rng.bytes())
    }

    async fn begin<'a>(
        &self,
        pool: &'a AgentPool,
        request: ClaimRequest,
    ) -> Result<Run<'a>, ClaimError> {
        let arrived = self.clock.monotonic();
        let limit =
            Duration::from_secs(u64::try_from(pool.spec.claim.deadline_seconds).unwrap_or(150));
        let shared_key = match &pool.spec.runtime.shared_key_secret_ref {
            Some(reference) => Some(
                secret::value(
                    &self.client,
                    &pool.namespace().unwrap_or_default(),
                    reference,
                )
                .await
                .map_err(|e| ClaimError::Cluster(e.to_string()))?,
            ),
            None => None,
        };
        let template = Template::of(&pool.spec);
        Ok(Run {
            pool,
            request,
            preparation: template.preparation(),
            template,
            id: self.fresh_id(),
            arrived,
            deadline: arrived + limit,
            requested_at: self.clock.now(),
            shared_key,
            agent_took: Duration::ZERO,
        })
    }

    pub(super) fn left(&self, run: &Run<'_>) -> Duration {
        run.deadline.saturating_sub(self.clock.monotonic())
    }

    pub(super) fn api(&self, run: &Run<'_>) -> Api<AgentInstance> {
        Api::namespaced(
            self.client.clone(),
            &run.pool.namespace().unwrap_or_default(),
        )
    }
}

pub(super) fn cluster(error: &K8sError) -> ClaimError {
    ClaimError::Cluster(error.to_string())
}
