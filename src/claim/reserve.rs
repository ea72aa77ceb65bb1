//! Reserving: the one conditional write that takes an instance for a claim.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};

use super::ClaimError;
use super::service::{Inner, Run, cluster};
use crate::api::agent_instance::{AgentInstance, Claim};
use crate::api::agent_pool::SecretKeyRef;
use crate::clock::Monotonic;
use crate::domain::instance::status;
use crate::k8s::error::K8sError;
use crate::k8s::watch::INSTRUCTIONS_KEPT;
use crate::k8s::{patch, secret};

/// The longest instructions, in bytes, that are kept in the object: the API server's work per claim grows with it.
/// Longer ones are in a Secret, and the object keeps their beginning for listings.
const INLINE_INSTRUCTIONS: usize = 4096;
/// The key of that Secret.
const INSTRUCTIONS_KEY: &str = "instructions";

impl Inner {
    /// Reserves one instance; `None` only after a direct list, begun after the claim arrived, had none.
    pub(super) async fn reserve_one(
        &self,
        run: &Run<'_>,
    ) -> Result<Option<AgentInstance>, ClaimError> {
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
        let mut since: Monotonic = run.arrived;
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
    pub(super) async fn drop_instructions(&self, run: &Run<'_>, claim: &Claim) {
        let Some(reference) = &claim.instructions_secret_ref else {
            return;
        };
        let namespace = run.pool.namespace().unwrap_or_default();
        if let Err(error) = secret::delete(&self.client, &namespace, &reference.name).await {
            tracing::debug!(secret = %reference.name, %error, "not deleted; it goes with its instance");
        }
    }

    /// After a 409: the client repeats a 504 by itself, so our own success can come back as a conflict.
    pub(super) async fn reread(
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
}
