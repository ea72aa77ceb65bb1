//! One reserved instance: checked, called once, and settled as `domain::settlement` says.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use secrecy::SecretString;

use super::prepare::{WAKING_POLL, is_waking};
use super::service::{Attempt, Inner, Run, cluster};
use super::{ClaimAnswer, ClaimError};
use crate::api::agent_instance::{AgentInstance, ClaimStatus};
use crate::api::agent_pool::{FailedClaim, RuntimeAuth};
use crate::domain::agent::{ClaimCall, Dialect, Probe};
use crate::domain::instance::outcome::Outcome;
use crate::domain::instance::status;
use crate::domain::settlement::{self, Evidence, Kept, Settlement, Step, Terms};
use crate::domain::token::{NO_TOKEN, Purpose};
use crate::k8s::error::{K8sError, within};
use crate::k8s::{CALL_LIMIT, patch};
use crate::runtime::Agent;

/// Time limit of a status call.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// Two status calls after a join are at least this far apart.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// How often the cache is asked whether a replaced instance is gone.
const GONE_POLL: Duration = Duration::from_millis(100);
/// A claim call with less time than this is not sent.
const CALL_LEAST: Duration = Duration::from_secs(1);

/// The record has at least this long, also at the very end of the deadline.
const RECORD_LEAST: Duration = Duration::from_millis(500);

/// A reserved instance with its agent.
struct Reserved<'a> {
    instance: &'a AgentInstance,
    agent: Agent,
    dialect: Dialect,
}

impl Inner {
    /// From the reservation to the answer, or to the next instance.
    pub(super) async fn attempt(&self, run: &mut Run<'_>, instance: AgentInstance) -> Attempt {
        let (agent, dialect) = match self.agent(run, &instance).await {
            Ok(found) => found,
            Err(text) => return self.put_back(run, &instance, text).await,
        };
        if let Err(text) = self.prepare(run, &instance).await {
            return self.put_back(run, &instance, text).await;
        }
        let reserved = Reserved {
            instance: &instance,
            agent,
            dialect,
        };
        let terms = terms(run, &reserved);
        let mut evidence = Evidence::default();
        loop {
            match settlement::next(&evidence, &terms) {
                Step::Check => {
                    evidence.check = Some(self.check(run, &reserved).await);
                }
                Step::Call => {
                    let limit = self.call_limit(run);
                    if limit < CALL_LEAST {
                        let text = "no time left within the claim's deadline".to_owned();
                        return self.put_back(run, &instance, text).await;
                    }
                    let began = self.clock.monotonic();
                    let call = call_of(run);
                    let runtime = &self.runtime;
                    let outcome = runtime.claim(&reserved.agent, dialect, &call, limit).await;
                    run.agent_took += self.clock.monotonic().saturating_sub(began);
                    evidence.outcome = Some(outcome);
                }
                Step::Look => {
                    if !evidence.looks.is_empty() {
                        self.clock.sleep(LOOKS_APART.min(self.left(run))).await;
                    }
                    let look = self.ask(run, &reserved).await;
                    evidence.looks.push(look);
                }
                Step::Settle(settlement) => {
                    return self.settle(run, reserved, settlement).await;
                }
            }
        }
    }

    async fn status(&self, run: &Run<'_>, reserved: &Reserved<'_>) -> Probe {
        let limit = STATUS_LIMIT.min(self.left(run));
        let (agent, dialect) = (&reserved.agent, reserved.dialect);
        self.runtime.status(agent, dialect, limit).await
    }

    /// The status right before the call: of one that wakes, as soon as it is ready.
    async fn check(&self, run: &mut Run<'_>, reserved: &Reserved<'_>) -> Probe {
        let began = self.clock.monotonic();
        let limit = run.preparation.map_or(Duration::ZERO, |p| p.wake_within);
        loop {
            let answer = self.status(run, reserved).await;
            let waited = self.clock.monotonic().saturating_sub(began);
            let over = waited + WAKING_POLL >= limit || self.left(run) <= WAKING_POLL;
            if over || !is_waking(&answer) {
                run.agent_took += waited;
                return answer;
            }
            self.clock.sleep(WAKING_POLL).await;
        }
    }

    async fn ask(&self, run: &mut Run<'_>, reserved: &Reserved<'_>) -> Probe {
        let began = self.clock.monotonic();
        let probe = self.status(run, reserved).await;
        run.agent_took += self.clock.monotonic().saturating_sub(began);
        probe
    }

    /// Never longer than what is left of the deadline: whoever comes next may settle the agent after it.
    fn call_limit(&self, run: &Run<'_>) -> Duration {
        let limit = u64::try_from(run.pool.spec.claim.call_timeout_seconds).unwrap_or(75);
        Duration::from_secs(limit).min(self.left(run))
    }

    async fn settle(
        &self,
        run: &Run<'_>,
        reserved: Reserved<'_>,
        settlement: Settlement,
    ) -> Attempt {
        let instance = reserved.instance;
        match settlement {
            Settlement::Keep(kept) => self.keep(run, reserved, kept).await,
            Settlement::PutBack(text) => self.put_back(run, instance, text).await,
            Settlement::Refuse { intact, text } => {
                if intact {
                    self.put_back(run, instance, text.clone()).await;
                } else {
                    self.replace(run, instance, &text).await;
                }
                Attempt::Stop(ClaimError::Invalid {
                    instance_id: instance.spec.id.clone(),
                    message: status::cut(&text, 1500),
                })
            }
            Settlement::Mark(outcome, text) => {
                self.mark(run, instance, outcome, &text).await;
                Attempt::Next(failed(instance, &text))
            }
            Settlement::Replace { when_gone, text } => {
                let asked = self.replace(run, instance, &text).await;
                if !when_gone || (asked && self.gone(run, instance).await) {
                    Attempt::Next(failed(instance, &text))
                } else {
                    Attempt::Stop(failed(instance, &text))
                }
            }
        }
    }

    async fn agent(
        &self,
        run: &Run<'_>,
        reserved: &AgentInstance,
    ) -> Result<(Agent, Dialect), String> {
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
            RuntimeAuth::Instance if status.token_key.as_deref() == Some(NO_TOKEN) => None,
            RuntimeAuth::Instance => Some(
                self.token(reserved)
                    .await
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

    async fn token(&self, instance: &AgentInstance) -> Option<SecretString> {
        let status = instance.status.as_ref();
        let n = status.and_then(|s| s.token_seq).unwrap_or(1);
        let key = status.and_then(|s| s.token_key.as_deref());
        let id = &instance.spec.id;
        self.root_keys.token(Purpose::Gateway, id, n, key).await
    }

    /// Nothing was done to the agent: the claim is cleared and the turn raised, so that it is proven anew.
    async fn put_back(&self, run: &Run<'_>, reserved: &AgentInstance, text: String) -> Attempt {
        self.undo_prepare(run, reserved).await;
        let api = self.api(run);
        let cleared = self
            .while_ours(run, reserved, |object| {
                let api = api.clone();
                async move { patch::release(&api, &object).await.map(drop) }
            })
            .await;
        if let Some(claim) = reserved.spec.claim.as_ref().filter(|_| cleared) {
            self.drop_instructions(run, claim).await;
        }
        tracing::info!(instance = %reserved.name_any(), claim = %run.id, outcome = "put back", "not handed out: {text}");
        Attempt::Next(failed(reserved, &text))
    }

    /// It may have done anything: deleted. Whether that is asked for.
    async fn replace(&self, run: &Run<'_>, reserved: &AgentInstance, text: &str) -> bool {
        let api = self.api(run);
        let asked = self
            .while_ours(run, reserved, |object| {
                let api = api.clone();
                async move { patch::delete_as_read(&api, &object).await }
            })
            .await;
        tracing::warn!(instance = %reserved.name_any(), claim = %run.id, outcome = "replaced", "the claim call failed; the agent is replaced: {text}");
        asked
    }

    /// Gives an instance up as long as the claim on it is ours; whether that is done. Where it is not, the reservation
    /// stands, and the controller settles it after its deadline.
    async fn while_ours<F>(
        &self,
        run: &Run<'_>,
        reserved: &AgentInstance,
        deed: impl Fn(AgentInstance) -> F,
    ) -> bool
    where
        F: Future<Output = Result<(), K8sError>>,
    {
        let api = self.api(run);
        let mut object = reserved.clone();
        for _ in 0..5 {
            match deed(object.clone()).await {
                Ok(()) => return true,
                Err(e) if e.is_conflict() => match self.reread(&api, &object, &run.id).await {
                    // Ours still: the controller wrote meanwhile.
                    Ok(Some(newer)) => object = newer,
                    _ => return false,
                },
                Err(e) if e.is_gone() => return true,
                Err(e) => {
                    tracing::warn!(instance = %reserved.name_any(), error = %e, "not given up; the controller settles it");
                    return false;
                }
            }
        }
        false
    }

    /// Whether the instance is gone, and with it the agent at its provider, before the claim's deadline.
    async fn gone(&self, run: &Run<'_>, instance: &AgentInstance) -> bool {
        let api = self.api(run);
        let name = instance.name_any();
        while !self.left(run).is_zero() {
            if !self.candidates.knows(instance) {
                // The cache may be late in either direction: the API server has the last word.
                let read = within(CALL_LIMIT, || format!("read {name}"), api.get_opt(&name)).await;
                match read {
                    Ok(None) => return true,
                    Ok(Some(other)) if other.metadata.uid != instance.metadata.uid => return true,
                    Ok(Some(_)) | Err(_) => {}
                }
            }
            self.clock.sleep(GONE_POLL).await;
        }
        false
    }

    /// Recorded for the controller, which taints it or resets it. Best effort: unrecorded it is settled after the
    /// claim's deadline.
    async fn mark(&self, run: &Run<'_>, reserved: &AgentInstance, outcome: Outcome, text: &str) {
        let now = self.clock.now();
        let claim = claim_status(run, outcome, &Kept::default(), now);
        let new = status::claimed(reserved, claim, text, now);
        let name = reserved.name_any();
        let recorded = patch::record(&self.api(run), &name, &run.id, &new).await;
        if let Err(error) = recorded {
            tracing::warn!(instance = %name, claim = %run.id, %error, "not recorded; the controller settles it");
        }
        tracing::warn!(instance = %name, claim = %run.id, outcome = outcome.as_str(), "not handed out: {text}");
    }

    /// Bound, or waiting: recorded, and only then answered.
    async fn keep(&self, run: &Run<'_>, reserved: Reserved<'_>, kept: Kept) -> Attempt {
        let now = self.clock.now();
        let (outcome, text) = match kept.conversation_id {
            Some(_) => (Outcome::Bound, "in use"),
            None => (Outcome::Pending, "joined; a person has to accept"),
        };
        let claim = claim_status(run, outcome, &kept, now);
        let new = status::claimed(reserved.instance, claim.clone(), text, now);
        let (api, name) = (self.api(run), reserved.instance.name_any());
        loop {
            let within = self.left(run).max(RECORD_LEAST);
            let record = patch::record(&api, &name, &run.id, &new);
            let Ok(recorded) = tokio::time::timeout(within, record).await else {
                let text = "not confirmed within the claim's deadline".to_owned();
                return Attempt::Stop(ClaimError::Cluster(text));
            };
            match recorded {
                Ok(_) => break,
                // The test failed, or the object is gone: not ours any more. Whoever comes next settles it.
                Err(e) if e.is_invalid() || e.is_gone() => return Attempt::Stop(cluster(&e)),
                Err(e) if self.left(run) < RECORD_LEAST => return Attempt::Stop(cluster(&e)),
                Err(e) => {
                    tracing::warn!(instance = %name, error = %e, "claim not recorded yet; again");
                    self.clock.sleep(Duration::from_millis(100)).await;
                }
            }
        }
        self.poll_joins(run, reserved.instance, &kept);
        tracing::info!(instance = %name, pool = %run.pool.name_any(), claim = %run.id, outcome = %claim.outcome, "claimed");
        Attempt::Answer(Box::new(ClaimAnswer {
            instance_id: reserved.instance.spec.id.clone(),
            agent_name: run.request.agent_name.clone(),
            conversation_id: claim.conversation_id,
            invite_url: claim.invite_url,
            invite_slug: claim.invite_slug,
            joined: claim.joined,
            waiting_for_acceptance: outcome == Outcome::Pending,
            gateway_token: reserved.agent.token,
            gateway_url: reserved.agent.url,
            agent_took: run.agent_took,
        }))
    }
}

fn terms(run: &Run<'_>, reserved: &Reserved<'_>) -> Terms {
    let runtime = &run.pool.spec.runtime;
    Terms {
        join: run.request.join_url.is_some(),
        dialect: reserved.dialect,
        first_turn: reserved.instance.spec.turn == 1,
        looked_inside: run.preparation.is_some(),
        allow_unknown_clean: runtime.allow_unknown_clean,
        may_reset: runtime.failed_claim == FailedClaim::Reset
            && reserved.dialect == Dialect::PoolServer,
    }
}

fn call_of(run: &Run<'_>) -> ClaimCall {
    ClaimCall {
        agent_name: run.request.agent_name.clone(),
        // Written into its machine before: the call carries none.
        instructions: match run.preparation {
            Some(_) => String::new(),
            None => run.request.instructions.clone(),
        },
        join_url: run.request.join_url.clone(),
        profile_image: run.request.profile_image.clone(),
        metadata: run.request.metadata.clone(),
        passed_through: run.request.passed_through.clone(),
        xmtp_env: run.template.xmtp_env(),
    }
}

fn claim_status(run: &Run<'_>, outcome: Outcome, kept: &Kept, now: jiff::Timestamp) -> ClaimStatus {
    let joins = outcome
        .is_handed_out()
        .then(|| run.request.join_url.clone());
    ClaimStatus {
        id: run.id.clone(),
        outcome: outcome.as_str().to_owned(),
        conversation_id: kept.conversation_id.clone(),
        invite_url: kept.invite_url.clone().or(joins.flatten()),
        invite_slug: kept.invite_slug.clone(),
        joined: kept.joined,
        claimed_at: outcome.is_handed_out().then_some(Time(now)),
        source_branch: None,
    }
}

fn failed(instance: &AgentInstance, text: &str) -> ClaimError {
    ClaimError::ProvisionFailed {
        instance_id: instance.spec.id.clone(),
        message: status::cut(text, 1500),
    }
}
