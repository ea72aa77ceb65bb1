//! The claim path: pick, reserve, verify, call once, settle, record, answer.
//!
//! One conditional write reserves, one records; between them one status call and the one claim call. 200 is only
//! answered after the record. If this process dies in between, the reservation's deadline lets the controller settle
//! the agent. No claim call is ever sent to an instance twice: after anything but a binding the instance goes back
//! (proven anew) or is replaced, and the claim goes on with another one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::cache::Candidates;
use super::{ClaimAnswer, ClaimError, ClaimRequest, Claims};
use crate::api::agent_instance::{AgentInstance, Claim, ClaimStatus};
use crate::api::agent_pool::{AgentPool, Pausable, RuntimeAuth, SecretKeyRef};
use crate::api::names;
use crate::clock::{Clock, Monotonic, Rng};
use crate::domain::agent::{ClaimCall, ClaimOutcome, Dialect, Refusal};
use crate::domain::claim::{self as judgement, FURTHER, Settlement};
use crate::domain::instance::{phase, status};
use crate::domain::template::Template;
use crate::domain::token::Purpose;
use crate::k8s::error::K8sError;
use crate::k8s::secret::RootKeys;
use crate::k8s::watch::INSTRUCTIONS_KEPT;
use crate::k8s::{patch, secret};
use crate::runtime::{Agent, AgentRuntime};

/// Time limit of the status call right before a claim call.
const VERIFY_LIMIT: Duration = Duration::from_secs(5);
/// The longest instructions, in bytes, that are kept in the object: the API server's work per claim grows with it.
/// Longer ones are in a Secret, and the object keeps their beginning for listings.
const INLINE_INSTRUCTIONS: usize = 4096;
/// The key of that Secret.
const INSTRUCTIONS_KEY: &str = "instructions";

/// Serves claims for this replica.
pub struct ClaimService {
    inner: Arc<Inner>,
    tasks: TaskTracker,
}

struct Inner {
    client: Client,
    candidates: Arc<Candidates>,
    runtime: Arc<dyn AgentRuntime>,
    root_keys: RootKeys,
    clock: Clock,
    rng: Rng,
    holder: String,
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
            }),
            tasks,
        }
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
struct Run<'a> {
    pool: &'a AgentPool,
    request: ClaimRequest,
    template: Template,
    id: String,
    arrived: Monotonic,
    deadline: Monotonic,
    requested_at: jiff::Timestamp,
    shared_key: Option<SecretString>,
    /// What the agents took so far.
    agent_took: Duration,
}

/// How an instance is given up.
#[derive(Clone, Copy)]
enum GiveUp {
    /// Back into stock, once it is proven anew.
    Back,
    /// Deleted, and replaced by the pool.
    Replace,
}

/// What came of one instance.
enum Attempt {
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
        Ok(Run {
            pool,
            request,
            template: Template::of(&pool.spec),
            id: self.fresh_id(),
            arrived,
            deadline: arrived + limit,
            requested_at: self.clock.now(),
            shared_key,
            agent_took: Duration::ZERO,
        })
    }

    fn left(&self, run: &Run<'_>) -> Duration {
        run.deadline.saturating_sub(self.clock.monotonic())
    }

    fn api(&self, run: &Run<'_>) -> Api<AgentInstance> {
        Api::namespaced(
            self.client.clone(),
            &run.pool.namespace().unwrap_or_default(),
        )
    }

    // ---- reserve ----------------------------------------------------------------------------------------------

    /// Reserves one instance; `None` only after a direct list, begun after the claim arrived, had none.
    async fn reserve_one(&self, run: &Run<'_>) -> Result<Option<AgentInstance>, ClaimError> {
        let runtime = run.request.runtime.as_deref();
        while !self.left(run).is_zero() {
            let candidate = match self.candidates.take(run.pool, runtime) {
                Some(candidate) => candidate,
                None => match self.listed(run, runtime).await? {
                    Some(candidate) => candidate,
                    None => return Ok(None),
                },
            };
            if let Some(reserved) = self.reserve(run, &candidate).await? {
                return Ok(Some(reserved));
            }
        }
        Ok(None)
    }

    async fn listed(
        &self,
        run: &Run<'_>,
        runtime: Option<&str>,
    ) -> Result<Option<Arc<AgentInstance>>, ClaimError> {
        let mut since = run.arrived;
        while !self.left(run).is_zero() {
            let listed = self
                .candidates
                .list(run.pool, runtime, since)
                .await
                .map_err(|e| cluster(&e))?;
            if listed.is_empty() {
                return Ok(None);
            }
            // Those in use by other claims of this replica are on their way out of stock: only a list that shows
            // none at all proves that there is none.
            if let Some(candidate) = self.candidates.take_from(&listed) {
                return Ok(Some(candidate));
            }
            self.clock.sleep(Duration::from_millis(20)).await;
            since = self.clock.monotonic();
        }
        Ok(None)
    }

    /// The one conditional write. `None`: somebody else was first, or it is no longer what it was.
    async fn reserve(
        &self,
        run: &Run<'_>,
        candidate: &AgentInstance,
    ) -> Result<Option<AgentInstance>, ClaimError> {
        let claim = self.claim_of(run);
        let api = self.api(run);
        self.keep_instructions(run, candidate, &claim).await?;
        let result = match patch::reserve(&api, candidate, &claim).await {
            Err(e) if e.is_conflict() || matches!(e, K8sError::Timeout { .. }) => {
                self.reread(&api, candidate, &run.id).await
            }
            Err(e) if e.is_gone() || e.is_invalid() => Ok(None),
            other => other.map(Some),
        };
        // Reserved or not, this version is used up; the watch brings the next one.
        self.candidates.drop_stale(candidate);
        if matches!(result, Ok(None)) {
            self.drop_instructions(run, &claim).await;
        }
        result.map_err(|e| cluster(&e))
    }

    /// Long instructions go into a Secret before the reservation names it. It belongs to the instance and goes with it.
    async fn keep_instructions(
        &self,
        run: &Run<'_>,
        candidate: &AgentInstance,
        claim: &Claim,
    ) -> Result<(), ClaimError> {
        let Some(reference) = &claim.instructions_secret_ref else {
            return Ok(());
        };
        let namespace = run.pool.namespace().unwrap_or_default();
        secret::create_owned(
            &self.client,
            &namespace,
            reference,
            &run.request.instructions,
            candidate,
        )
        .await
        .map_err(|e| cluster(&e))
    }

    /// The claim does not stand: nobody needs its instructions. Best effort, since they go with the instance anyway.
    async fn drop_instructions(&self, run: &Run<'_>, claim: &Claim) {
        let Some(reference) = &claim.instructions_secret_ref else {
            return;
        };
        let namespace = run.pool.namespace().unwrap_or_default();
        if let Err(error) = secret::delete(&self.client, &namespace, &reference.name).await {
            tracing::debug!(secret = %reference.name, %error, "not deleted; it goes with its instance");
        }
    }

    /// After a 409: the client repeats a 504 by itself, so our own success can come back as a conflict.
    async fn reread(
        &self,
        api: &Api<AgentInstance>,
        candidate: &AgentInstance,
        id: &str,
    ) -> Result<Option<AgentInstance>, K8sError> {
        let name = candidate.name_any();
        let read = crate::k8s::error::within(
            crate::k8s::CALL_LIMIT,
            || format!("read {name}"),
            api.get_opt(&name),
        )
        .await?;
        Ok(read.filter(|i| i.spec.claim.as_ref().is_some_and(|c| c.id == id)))
    }

    fn claim_of(&self, run: &Run<'_>) -> Claim {
        let deadline = jiff::SignedDuration::try_from(self.left(run)).unwrap_or_default();
        let now = self.clock.now();
        let long = run.request.instructions.len() > INLINE_INSTRUCTIONS;
        let kept = if long {
            INSTRUCTIONS_KEPT
        } else {
            INLINE_INSTRUCTIONS
        };
        Claim {
            id: run.id.clone(),
            holder: self.holder.clone(),
            deadline: Time(now.checked_add(deadline).unwrap_or(now)),
            requested_at: Time(run.requested_at),
            agent_name: run.request.agent_name.clone(),
            instructions: Some(status::cut(&run.request.instructions, kept)),
            instructions_secret_ref: long.then(|| SecretKeyRef {
                name: format!("claim-{}", run.id),
                key: INSTRUCTIONS_KEY.to_owned(),
            }),
            join_url: run.request.join_url.clone(),
            reference: run.request.reference.clone(),
            source: Some(run.request.source.clone()),
        }
    }

    // ---- verify, call, settle ---------------------------------------------------------------------------------

    async fn attempt(&self, run: &mut Run<'_>, reserved: AgentInstance) -> Attempt {
        let (agent, dialect) = match self.agent(run, &reserved) {
            Ok(found) => found,
            Err(text) => return self.back(run, &reserved, text).await,
        };
        let asked = self.clock.monotonic();
        let probe = self
            .runtime
            .status(&agent, dialect, VERIFY_LIMIT.min(self.left(run)))
            .await;
        run.agent_took += self.clock.monotonic().saturating_sub(asked);
        let allow = run.pool.spec.runtime.allow_unknown_clean;
        if let Err(text) = judgement::may_be_called(&probe, dialect, allow, reserved.spec.turn == 1)
        {
            return self.back(run, &reserved, text).await;
        }
        let limit = Duration::from_secs(
            u64::try_from(run.pool.spec.claim.call_timeout_seconds).unwrap_or(75),
        );
        // Never longer than what is left of the deadline: whoever comes next may settle the agent after it.
        let limit = limit.min(self.left(run));
        if limit < Duration::from_secs(1) {
            return self
                .back(
                    run,
                    &reserved,
                    "no time left within the claim's deadline".to_owned(),
                )
                .await;
        }
        let called = self.clock.monotonic();
        let outcome = self
            .runtime
            .claim(&agent, dialect, &call_of(run), limit)
            .await;
        run.agent_took += self.clock.monotonic().saturating_sub(called);
        let join = run.request.join_url.is_some();
        match judgement::settle(&outcome, dialect) {
            Settlement::Keep => self.keep(run, &reserved, &outcome, agent).await,
            Settlement::Back(text) => match self.back(run, &reserved, text).await {
                Attempt::Next(error) if !judgement::may_go_on(&outcome, join) => {
                    Attempt::Stop(refused(error, &outcome))
                }
                other => other,
            },
            Settlement::Replace(text) => {
                self.replace(run, &reserved).await;
                let error = failed(&reserved, text);
                if judgement::may_go_on(&outcome, join) {
                    Attempt::Next(error)
                } else {
                    Attempt::Stop(refused(error, &outcome))
                }
            }
        }
    }

    fn agent(&self, run: &Run<'_>, reserved: &AgentInstance) -> Result<(Agent, Dialect), String> {
        let status = reserved
            .status
            .as_ref()
            .ok_or("the instance has no status")?;
        let url = status.url.clone().ok_or("the instance has no address")?;
        let dialect = status
            .runtime
            .as_ref()
            .and_then(|r| r.dialect.as_deref())
            .and_then(Dialect::parse)
            .ok_or("the agent's dialect is not known")?;
        let token = match run.pool.spec.runtime.auth {
            RuntimeAuth::None => None,
            RuntimeAuth::Shared => run.shared_key.clone(),
            RuntimeAuth::Instance => Some(
                self.token(reserved)
                    .ok_or("the agent's token cannot be derived: its root key is gone")?,
            ),
        };
        Ok((
            Agent {
                url,
                token,
                shared_key: run.shared_key.clone(),
            },
            dialect,
        ))
    }

    fn token(&self, instance: &AgentInstance) -> Option<SecretString> {
        let status = instance.status.as_ref();
        let n = status.and_then(|s| s.token_seq).unwrap_or(1);
        self.root_keys.get()?.token(
            Purpose::Gateway,
            &instance.spec.id,
            n,
            status.and_then(|s| s.token_key.as_deref()),
        )
    }

    /// Nothing was done to the agent: the claim is cleared and the turn raised, so that it is proven anew.
    async fn back(&self, run: &Run<'_>, reserved: &AgentInstance, text: String) -> Attempt {
        let cleared = self.give_up(run, reserved, GiveUp::Back).await;
        if let Some(claim) = reserved.spec.claim.as_ref().filter(|_| cleared) {
            self.drop_instructions(run, claim).await;
        }
        tracing::info!(instance = %reserved.name_any(), claim = %run.id, outcome = "back", "not handed out: {text}");
        Attempt::Next(failed(reserved, text))
    }

    /// It may have done anything: deleted.
    async fn replace(&self, run: &Run<'_>, reserved: &AgentInstance) {
        self.give_up(run, reserved, GiveUp::Replace).await;
        tracing::info!(instance = %reserved.name_any(), claim = %run.id, outcome = "replaced", "the claim call failed; the agent is replaced");
    }

    /// Gives an instance up as long as the claim on it is ours; whether that is done.
    async fn give_up(&self, run: &Run<'_>, reserved: &AgentInstance, how: GiveUp) -> bool {
        let api = self.api(run);
        let mut object = reserved.clone();
        for _ in 0..5 {
            let done = match how {
                GiveUp::Back => patch::release(&api, &object).await.map(drop),
                GiveUp::Replace => patch::delete_as_read(&api, &object).await,
            };
            match done {
                Ok(()) => return true,
                Err(e) if e.is_conflict() => match self.reread(&api, &object, &run.id).await {
                    // Ours still: the controller wrote meanwhile.
                    Ok(Some(newer)) => object = newer,
                    _ => return false,
                },
                Err(e) if e.is_gone() => return true,
                Err(e) => {
                    // The reservation stands; the controller settles it after its deadline.
                    tracing::warn!(instance = %reserved.name_any(), error = %e, "not given up; the controller settles it");
                    return false;
                }
            }
        }
        false
    }

    /// Bound, or waiting: recorded, and only then answered.
    async fn keep(
        &self,
        run: &Run<'_>,
        reserved: &AgentInstance,
        outcome: &ClaimOutcome,
        agent: Agent,
    ) -> Attempt {
        let now = self.clock.now();
        let claim = claim_status(run, outcome, now);
        let new = status::claimed(reserved, claim.clone(), now);
        let api = self.api(run);
        let name = reserved.name_any();
        loop {
            match patch::record(&api, &name, &run.id, &new).await {
                Ok(_) => break,
                // The test failed, or the object is gone: not ours any more. Whoever comes next settles it.
                Err(e) if e.is_invalid() || e.is_gone() => return Attempt::Stop(cluster(&e)),
                Err(e) if self.left(run) < Duration::from_millis(200) => {
                    return Attempt::Stop(cluster(&e));
                }
                Err(e) => {
                    tracing::warn!(instance = %name, error = %e, "claim not recorded yet; again");
                    self.clock.sleep(Duration::from_millis(100)).await;
                }
            }
        }
        tracing::info!(instance = %name, pool = %run.pool.name_any(), claim = %run.id, outcome = %claim.outcome, "claimed");
        Attempt::Answer(Box::new(ClaimAnswer {
            instance_id: reserved.spec.id.clone(),
            agent_name: run.request.agent_name.clone(),
            conversation_id: claim.conversation_id,
            invite_url: claim.invite_url,
            invite_slug: claim.invite_slug,
            joined: claim.joined,
            waiting_for_acceptance: claim.outcome == phase::OUTCOME_PENDING,
            gateway_token: agent.token,
            gateway_url: agent.url,
            agent_took: run.agent_took,
        }))
    }
}

fn call_of(run: &Run<'_>) -> ClaimCall {
    ClaimCall {
        agent_name: run.request.agent_name.clone(),
        instructions: run.request.instructions.clone(),
        join_url: run.request.join_url.clone(),
        profile_image: run.request.profile_image.clone(),
        metadata: run.request.metadata.clone(),
        xmtp_env: run.template.xmtp_env(),
    }
}

fn claim_status(run: &Run<'_>, outcome: &ClaimOutcome, now: jiff::Timestamp) -> ClaimStatus {
    let mut status = ClaimStatus {
        id: run.id.clone(),
        outcome: phase::OUTCOME_PENDING.to_owned(),
        conversation_id: None,
        invite_url: run.request.join_url.clone(),
        invite_slug: None,
        joined: false,
        claimed_at: Some(Time(now)),
        source_branch: None,
    };
    if let ClaimOutcome::Bound {
        conversation_id,
        invite_url,
        invite_slug,
        joined,
    } = outcome
    {
        status.outcome = phase::OUTCOME_BOUND.to_owned();
        status.conversation_id = Some(conversation_id.clone());
        status.invite_url = invite_url.clone().or(status.invite_url);
        status.invite_slug.clone_from(invite_slug);
        status.joined = *joined;
    }
    status
}

fn failed(instance: &AgentInstance, text: String) -> ClaimError {
    ClaimError::ProvisionFailed {
        instance_id: instance.spec.id.clone(),
        message: status::cut(&text, 1500),
    }
}

/// A request that the agent refused as such is the caller's to mend.
fn refused(error: ClaimError, outcome: &ClaimOutcome) -> ClaimError {
    match (error, outcome) {
        (
            ClaimError::ProvisionFailed {
                instance_id,
                message,
            },
            ClaimOutcome::Refused(Refusal::Invalid(_)),
        ) => ClaimError::Invalid {
            instance_id,
            message,
        },
        (error, _) => error,
    }
}

fn cluster(error: &K8sError) -> ClaimError {
    ClaimError::Cluster(error.to_string())
}
