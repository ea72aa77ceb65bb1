//! The record before the answer, and what becomes of a claim that nobody serves any more.

use std::time::Duration;

use kube::ResourceExt;

use super::record::{self, finished};
use super::{Inner, cluster, deadline_of};
use crate::api::agent_claim::{AgentClaim, AgentClaimStatus, Origin};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::AgentPool;
use crate::api::condition::Reason;
use crate::api::names;
use crate::claim::{ClaimAnswer, ClaimError};
use crate::domain::agent_claim::{self as judgement, Duty};
use crate::k8s::agent_claim as objects;
use crate::k8s::error::{K8sError, within};
use crate::k8s::{CALL_LIMIT, patch};

/// How long the final status is tried to be written.
const RECORD_WITHIN: Duration = Duration::from_secs(15);
/// Between two tries of a write, and two looks at an agent whose claim is being settled.
const AGAIN: Duration = Duration::from_millis(100);
/// An agent whose claim is in flight is looked at again so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often an agent that keeps changing is read before it is given up.
const TRIES: usize = 5;

impl Inner {
    /// Writes what came of a claim into its object; only then it is answered. Where the object names another agent by
    /// now, ours is replaced, and the recorded answer is the answer.
    pub(super) async fn record(
        &self,
        pool: &AgentPool,
        claim: AgentClaim,
        outcome: Result<ClaimAnswer, ClaimError>,
    ) -> Result<ClaimAnswer, ClaimError> {
        let namespace = claim.namespace().unwrap_or_default();
        let api = self.claims_in(&namespace);
        let (name, uid) = (claim.name_any(), claim.metadata.uid.clone());
        let end = self.parts.clock.monotonic() + RECORD_WITHIN;
        let mut claim = claim;
        loop {
            let status = finished(&claim, &outcome, self.parts.clock.now());
            let error = match objects::write_status(&api, &claim, &status).await {
                Ok(_) => return outcome,
                Err(error) => error,
            };
            match objects::read(&api, &name).await {
                Ok(Some(now)) if now.metadata.uid == uid && judgement::is_done(&now) => {
                    return self.give_way(pool, &now, outcome).await;
                }
                // Another replica wrote: with an agent at hand, ours is the answer, and it will see that.
                Ok(Some(now)) if now.metadata.uid == uid => claim = now,
                Ok(_) => {
                    self.disown(&namespace, &name, &outcome).await;
                    return Err(ClaimError::Cluster(format!(
                        "AgentClaim {name} was deleted while it was served"
                    )));
                }
                Err(unread) => tracing::debug!(claim = name, error = %unread, "not read"),
            }
            if self.parts.clock.monotonic() >= end {
                // The agent is bound and names the claim: whoever takes it over finds it.
                return Err(cluster(&error));
            }
            tracing::debug!(claim = name, %error, "answer not recorded yet; again");
            self.parts.clock.sleep(AGAIN).await;
        }
    }

    /// Somebody else finished it: with our agent, or with another, and then ours is replaced.
    async fn give_way(
        &self,
        pool: &AgentPool,
        claim: &AgentClaim,
        outcome: Result<ClaimAnswer, ClaimError>,
    ) -> Result<ClaimAnswer, ClaimError> {
        let recorded = claim.status.as_ref().and_then(|s| s.instance.as_ref());
        if outcome.as_ref().ok().map(|a| &a.instance_id) == recorded && recorded.is_some() {
            return outcome;
        }
        let namespace = claim.namespace().unwrap_or_default();
        self.disown(&namespace, &claim.name_any(), &outcome).await;
        self.recorded(pool, claim).await?
    }

    /// The answer that a finished claim keeps. Err: it could not be read.
    pub(super) async fn recorded(
        &self,
        pool: &AgentPool,
        claim: &AgentClaim,
    ) -> Result<Result<ClaimAnswer, ClaimError>, ClaimError> {
        let namespace = claim.namespace().unwrap_or_default();
        let id = claim.status.as_ref().and_then(|s| s.instance.as_deref());
        let Some(id) = id else {
            return Ok(record::answer_of(claim, pool, None));
        };
        let object = names::object_name(id);
        let found = self
            .instance(&namespace, &object)
            .await
            .map_err(|e| cluster(&e))?;
        // Another claim's agent by now: its token is not this caller's.
        let own = found.filter(|i| names_claim(i, &claim.name_any()));
        let token = match &own {
            Some(instance) => self.token(pool, instance).await,
            None => None,
        };
        Ok(record::answer_of(claim, pool, token))
    }

    /// An agent that was bound for a claim that has another one is replaced, never handed out.
    async fn disown(
        &self,
        namespace: &str,
        claim: &str,
        outcome: &Result<ClaimAnswer, ClaimError>,
    ) {
        if let Ok(answer) = outcome {
            let object = names::object_name(&answer.instance_id);
            self.replace(namespace, claim, &object).await;
        }
    }

    /// Deletes an instance as long as it is bound for that claim.
    async fn replace(&self, namespace: &str, claim: &str, object: &str) {
        let api = self.instances_in(namespace);
        for _ in 0..TRIES {
            let Ok(Some(instance)) = self.instance(namespace, object).await else {
                return;
            };
            if !names_claim(&instance, claim) || instance.metadata.deletion_timestamp.is_some() {
                return;
            }
            match patch::delete_as_read(&api, &instance).await {
                Err(e) if e.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(instance = object, claim, %error, "surplus agent not replaced");
                    return;
                }
                Ok(()) => {
                    tracing::info!(
                        instance = object,
                        claim,
                        "bound for a claim that has another agent: replaced"
                    );
                    return;
                }
            }
        }
    }

    async fn instance(
        &self,
        namespace: &str,
        object: &str,
    ) -> Result<Option<AgentInstance>, K8sError> {
        let api = self.instances_in(namespace);
        let doing = || format!("read instance {object}");
        within(CALL_LIMIT, doing, api.get_opt(object)).await
    }

    /// Takes a claim that nobody serves: first what its agents say, then what is left to do.
    pub(super) async fn take(&self, cached: &AgentClaim) -> Result<(), K8sError> {
        let namespace = cached.namespace().unwrap_or_default();
        let (api, name) = (self.claims_in(&namespace), cached.name_any());
        let Some(claim) = objects::read(&api, &name).await? else {
            return Ok(());
        };
        let moved = judgement::driver(&claim) != judgement::driver(cached);
        let duty = judgement::duty(&claim, Duration::MAX, Duration::ZERO);
        if claim.metadata.uid != cached.metadata.uid || moved || duty == Duty::None {
            return Ok(());
        }
        let claim = if claim.spec.origin == Origin::Manifest {
            self.keep_hold(&api, claim).await?
        } else {
            claim
        };
        let words = "an agent is looked for";
        let claim = self
            .drive(&claim, record::CLAIMING, (Reason::Claiming, words))
            .await?;
        tracing::info!(claim = name, "taken over");
        let pool = self.pool_of(&claim);
        let limit = self.parts.clock.monotonic() + 2 * deadline_of(pool.as_deref());
        loop {
            let instances = objects::named(&self.instances_in(&namespace), &name).await?;
            let recorded = claim.status.as_ref().and_then(|s| s.instance.as_deref());
            let found = judgement::named(recorded, &instances);
            for surplus in &found.surplus {
                self.replace(&namespace, &name, surplus).await;
            }
            if let Some(own) = &found.own {
                let own = instances.iter().find(|i| &i.name_any() == own);
                return self.adopt(pool.as_deref(), claim, own).await;
            }
            if !found.unsettled {
                break;
            }
            if self.parts.clock.monotonic() >= limit {
                return Ok(());
            }
            // The instance controller settles it when its deadline is over.
            self.parts.clock.sleep(LOOK_EVERY).await;
        }
        match claim.spec.origin {
            // Its caller is gone, or asks again and is served anew.
            Origin::Http => {
                self.forget(&claim).await;
                Ok(())
            }
            Origin::Manifest => self.serve_manifest(claim).await,
        }
    }

    /// The agent that was bound for a claim is its answer, although nobody was told yet.
    async fn adopt(
        &self,
        pool: Option<&AgentPool>,
        claim: AgentClaim,
        own: Option<&AgentInstance>,
    ) -> Result<(), K8sError> {
        let Some(own) = own else { return Ok(()) };
        tracing::info!(claim = %claim.name_any(), instance = %own.name_any(), "its agent was bound already");
        let outcome = Ok(record::answer_from(own, None));
        match pool {
            Some(pool) => drop(self.record(pool, claim, outcome).await),
            None => {
                let status = finished(&claim, &outcome, self.parts.clock.now());
                let api = self.claims_in(&claim.namespace().unwrap_or_default());
                objects::write_status(&api, &claim, &status).await?;
            }
        }
        Ok(())
    }

    /// Writes this replica as the driver, with how far the claim is. 409: somebody else did.
    pub(super) async fn drive(
        &self,
        claim: &AgentClaim,
        phase: &str,
        why: (Reason, &str),
    ) -> Result<AgentClaim, K8sError> {
        let now = self.parts.clock.now();
        let status = record::underway(claim, &self.parts.holder, phase, why, now);
        self.write(claim, &status).await
    }

    pub(super) async fn write(
        &self,
        claim: &AgentClaim,
        status: &AgentClaimStatus,
    ) -> Result<AgentClaim, K8sError> {
        let api = self.claims_in(&claim.namespace().unwrap_or_default());
        objects::write_status(&api, claim, status).await
    }
}

fn names_claim(instance: &AgentInstance, claim: &str) -> bool {
    let asked = instance.spec.claim.as_ref();
    asked.and_then(|c| c.reference.as_deref()) == Some(claim)
}
