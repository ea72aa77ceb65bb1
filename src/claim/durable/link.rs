//! Join links that nobody joins twice: who holds one, and whether still.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;

use super::request::{Names, object};
use super::{Inner, cluster, record};
use crate::api::agent_claim::{AgentClaim, Origin};
use crate::api::agent_pool::{AgentPool, DedupeJoinUrl};
use crate::api::{LABEL_HELD_FOR, names};
use crate::claim::ClaimError;
use crate::domain::agent_claim as judgement;
use crate::domain::instance::phase::{Phase, phase_of};
use crate::k8s::agent_claim as objects;

/// How often a link that nobody holds any more is tried to be taken.
const TRIES: usize = 5;

impl Inner {
    /// Takes a link for a claim that is an object of its own; Err: somebody else has it.
    pub(super) async fn hold(
        &self,
        pool: &AgentPool,
        (name, previous): &Names,
        owner: &AgentClaim,
    ) -> Result<AgentClaim, ClaimError> {
        let namespace = pool.namespace().unwrap_or_default();
        let api = self.claims_in(&namespace);
        if let Some(previous) = previous
            && let Some(theirs) = objects::read(&api, previous)
                .await
                .map_err(|e| cluster(&e))?
            && let Some(duplicate) = self.held(pool, &theirs).await?
        {
            return Err(duplicate);
        }
        let mut new = object(&namespace, name, owner.spec.clone());
        new.spec.origin = Origin::Http;
        new.spec.held_for = Some(owner.name_any());
        // No two objects of a process have these: what is there under the name and has them is ours, and nothing else.
        new.spec.driver = Some(self.parts.holder.clone());
        new.spec.enqueued_at = Some(MicroTime(self.stamp()));
        new.spec.wait_seconds = None;
        new.spec.ttl_seconds_after_finished = None;
        // Who holds a link needs no instructions: they are in the claim that it is held for.
        "held for another claim".clone_into(&mut new.spec.instructions);
        let label = (
            LABEL_HELD_FOR.to_owned(),
            names::label_value(&owner.name_any()),
        );
        new.metadata.labels = Some([label].into());
        for _ in 0..TRIES {
            let theirs = match self.create(&new).await? {
                Ok(made) => return Ok(made),
                Err(Some(theirs)) if theirs.spec.held_for == new.spec.held_for => {
                    return Ok(theirs);
                }
                Err(theirs) => theirs,
            };
            if let Some(theirs) = theirs {
                if let Some(duplicate) = self.held(pool, &theirs).await? {
                    return Err(duplicate);
                }
                self.forget(&theirs).await;
            }
        }
        Err(ClaimError::DuplicateJoin {
            instance_id: None,
            status: record::duplicate_status(pool),
        })
    }

    /// Whether the object that has a link still holds it: its claim is in flight, or the claim's agent lives.
    pub(super) async fn held(
        &self,
        pool: &AgentPool,
        theirs: &AgentClaim,
    ) -> Result<Option<ClaimError>, ClaimError> {
        let namespace = pool.namespace().unwrap_or_default();
        let own_name = theirs.name_any();
        let owner = theirs.spec.held_for.as_deref().unwrap_or(&own_name);
        let in_flight = if theirs.spec.held_for.is_some() {
            let owner = objects::read(&self.claims_in(&namespace), owner)
                .await
                .map_err(|e| cluster(&e))?;
            owner.is_some_and(|o| !judgement::is_done(&o))
        } else {
            !judgement::is_done(theirs)
        };
        let named = objects::named(&self.instances_in(&namespace), owner)
            .await
            .map_err(|e| cluster(&e))?;
        let agent = named.iter().find(|i| judgement::holds_link(i));
        let counts = match pool.spec.claim.dedupe_join_url {
            DedupeJoinUrl::Active => agent.is_some(),
            _ => agent.is_some_and(|i| phase_of(i) == Phase::Claiming),
        };
        Ok((in_flight || counts).then(|| ClaimError::DuplicateJoin {
            instance_id: agent.map(|i| i.spec.id.clone()),
            status: record::duplicate_status(pool),
        }))
    }
}
