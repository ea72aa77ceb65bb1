//! A claim that was created with kubectl: served like any other, waiting as long as it takes.

use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::record::{self, CLAIMING, WAITING};
use super::turn::Waiter;
use crate::api::CLAIM_FINALIZER;
use crate::api::agent_claim::AgentClaim;
use crate::api::agent_pool::{AgentPool, DedupeJoinUrl, Pausable};
use crate::api::condition::{ConditionType, Reason, find};
use crate::claim::{ClaimAnswer, ClaimError};
use crate::domain::agent_claim as judgement;
use crate::domain::template::is_production;
use crate::domain::token::Arbiter;
use crate::k8s::agent_claim as objects;
use crate::k8s::error::K8sError;

/// A driver that was written so lately need not be written again before a try.
const DRIVEN_LATELY: Duration = Duration::from_secs(1);

impl Inner {
    /// The finalizer goes on before any agent is bound: else deleting the claim would leave its agent behind.
    pub(super) async fn keep_hold(
        &self,
        api: &Api<AgentClaim>,
        claim: AgentClaim,
    ) -> Result<AgentClaim, K8sError> {
        if claim.finalizers().iter().any(|f| f == CLAIM_FINALIZER) {
            return Ok(claim);
        }
        objects::set_finalizer(api, &claim, true).await
    }

    /// Serves a manifest that this replica took and that no agent names.
    pub(super) async fn serve_manifest(&self, claim: AgentClaim) -> Result<(), K8sError> {
        let spec = &claim.spec;
        if let Some(words) = judgement::refused(&spec.agent_name, &spec.instructions) {
            return self.refuse(&claim, words).await;
        }
        let wait = judgement::patience(&claim);
        let end = wait.map(|wait| self.parts.clock.monotonic() + wait);
        let mut waiter = self.waiter(&claim, end, CancellationToken::new());
        let mut claim = claim;
        let mut driven = self.parts.clock.monotonic();
        loop {
            let turn = self.until_served(&mut claim, &mut waiter).await?;
            let Some(pool) = turn else { return Ok(()) };
            if let Some(words) = elsewhere(&claim, &pool) {
                return self.refuse(&claim, &words).await;
            }
            // Right before the try: whoever takes this claim over counts from here, and this try ends before.
            let now = self.parts.clock.monotonic();
            if now.saturating_sub(driven) > DRIVEN_LATELY {
                let why = (Reason::Claiming, "an agent is claimed");
                claim = self.drive(&claim, CLAIMING, why).await?;
                driven = now;
            }
            let outcome = self.try_claim(&pool, &claim).await;
            match &outcome {
                Err(ClaimError::NoIdle | ClaimError::Paused(_)) => {}
                // It stays unfinished: what came of it is found out by whoever takes it over.
                Err(ClaimError::Cluster(error)) => {
                    tracing::warn!(claim = %claim.name_any(), error, "not settled yet");
                    return Ok(());
                }
                _ => {
                    let recorded = self.record(&pool, claim, outcome).await;
                    if let Err(error) = recorded {
                        tracing::info!(%error, "an AgentClaim got no agent");
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn try_claim(
        &self,
        pool: &AgentPool,
        claim: &AgentClaim,
    ) -> Result<ClaimAnswer, ClaimError> {
        let mut request = record::request_of(&claim.spec);
        request.reference = Some(claim.name_any());
        let joins = pool.spec.claim.dedupe_join_url != DedupeJoinUrl::Off;
        let link = request.join_url.clone().filter(|_| joins);
        let held = match link {
            Some(url) => {
                let keys = self.parts.root_keys.get();
                let keys =
                    keys.ok_or_else(|| ClaimError::Cluster("the root key is not read yet".into()))?;
                let of = (&*pool.namespace().unwrap_or_default(), &*pool.name_any());
                let names = keys.claim_names(Arbiter::JoinUrl, of, &url);
                Some(self.hold(pool, &names, claim).await?)
            }
            None => None,
        };
        let outcome = self.parts.claims.claim(pool, request).await;
        if let (Some(held), Err(error)) = (held, &outcome)
            && !matches!(error, ClaimError::Cluster(_))
        {
            self.forget(&held).await;
        }
        outcome
    }

    /// Waits until the pool is there, serves, and it is this claim's turn; why not is in its condition. `None`: it is
    /// deleted or somebody else's by now, or its time is over and that is recorded.
    async fn until_served(
        &self,
        claim: &mut AgentClaim,
        waiter: &mut Waiter,
    ) -> Result<Option<std::sync::Arc<AgentPool>>, K8sError> {
        loop {
            if self.is_lost(claim) {
                return Ok(None);
            }
            let pool = self.pool_of(claim);
            let why = match &pool {
                None => Some((
                    Reason::PoolNotFound,
                    format!(
                        "AgentPool {} does not exist in this namespace: create it, or delete this AgentClaim",
                        claim.spec.pool_ref.name
                    ),
                )),
                Some(pool) if pool.spec.paused.contains(&Pausable::Claims) => Some((
                    Reason::Paused,
                    ClaimError::Paused(pool.name_any()).to_string(),
                )),
                Some(_) => None,
            };
            let why = match (why, pool) {
                (None, Some(pool)) => match self.one_turn(waiter).await {
                    judgement::Turn::Claim => return Ok(Some(pool)),
                    judgement::Turn::GiveUp => {
                        let error = Err(self.waited_out(waiter));
                        let now = self.parts.clock.now();
                        let status = record::finished(claim, &error, now);
                        self.write(claim, &status).await?;
                        return Ok(None);
                    }
                    judgement::Turn::Wait(_) => (
                        Reason::NoIdle,
                        "no agent is idle: the claim waits for its turn".to_owned(),
                    ),
                },
                (Some(why), _) => {
                    if self.is_over(waiter) {
                        let error = Err(ClaimError::NoIdle);
                        let status = record::finished(claim, &error, self.parts.clock.now());
                        self.write(claim, &status).await?;
                        return Ok(None);
                    }
                    self.a_change(waiter).await;
                    why
                }
                (None, None) => continue,
            };
            self.tell(claim, (why.0, &why.1)).await?;
        }
    }

    /// Writes why a claim waits, once per reason.
    async fn tell(&self, claim: &mut AgentClaim, why: (Reason, &str)) -> Result<(), K8sError> {
        let status = claim.status.as_ref();
        let told = status
            .and_then(|s| find(&s.conditions, ConditionType::Bound))
            .is_some_and(|c| c.reason == why.0.as_str());
        if !told {
            *claim = self.drive(claim, WAITING, why).await?;
        }
        Ok(())
    }

    /// Whether it is deleted, or somebody else drives it, as far as the watch knows.
    fn is_lost(&self, claim: &AgentClaim) -> bool {
        let cached = self.parts.unfinished.get(&ObjectRef::from_obj(claim));
        // It was there when this replica took it.
        let Some(cached) = cached else { return true };
        let attempt = |c: &AgentClaim| judgement::driver(c).map_or(0, |d| d.attempt);
        cached.metadata.uid != claim.metadata.uid
            || cached.metadata.deletion_timestamp.is_some()
            || attempt(&cached) > attempt(claim)
    }

    async fn refuse(&self, claim: &AgentClaim, words: &str) -> Result<(), K8sError> {
        let status = record::invalid(claim, words, self.parts.clock.now());
        self.write(claim, &status).await.map(drop)
    }
}

/// What keeps a link from being joined through this pool, in words for the claim's author.
fn elsewhere(claim: &AgentClaim, pool: &AgentPool) -> Option<String> {
    let url = claim.spec.join_url.as_ref()?.to_ascii_lowercase();
    let environment = &pool.spec.environment;
    let foreign = if is_production(environment) {
        "dev.convos.org"
    } else {
        "popup.convos.org"
    };
    url.contains(foreign).then(|| {
        format!("spec.joinUrl is a {foreign} link, which cannot be used in the {environment} environment: delete this AgentClaim and create one for a pool of the other environment")
    })
}
