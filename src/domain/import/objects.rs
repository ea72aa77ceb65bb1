//! What a row becomes: an AgentInstance, its status, and what of it belongs into Secrets. Pure.
//!
//! In use stays in use, with everything that its user has. What nobody has is looked at like a new agent before anybody
//! is given it: each step that the table cannot prove is looked for. What may be somebody's is never Dead.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::IMPORTED_BY;
use super::row::{Row, State};
use crate::api::agent_instance::{
    AgentInstance, AgentInstanceSpec, AgentInstanceStatus, Claim, ClaimStatus, OperationStatus,
    PoolRef, ProviderRef, ProviderStatus, StepStatus, TemplateRef, Verdict,
};
use crate::api::agent_pool::SecretKeyRef;
use crate::api::condition::Reason;
use crate::api::{ANNOTATION_CREATED, ANNOTATION_IMPORTING, INSTANCE_FINALIZER, LABEL_POOL, names};
use crate::domain::image;
use crate::domain::instance::decide::Judgement;
use crate::domain::instance::outcome::Outcome;
use crate::domain::instance::phase::{Phase, phase};
use crate::domain::instance::status::{ADOPT, cut, plan_hash};
use crate::domain::plan::{Step, StepSpec};
use crate::domain::resource::Resource;
use crate::domain::token::{IMPORTED, NO_TOKEN};

/// Instructions up to this length stand in the object; longer ones in a Secret, and their beginning in the object.
const INLINE_INSTRUCTIONS: usize = 4096;
const INSTRUCTIONS_SHOWN: usize = 256;
/// What a Secret holds of instructions at most: the largest that an agent was ever given is a fifth of it.
const INSTRUCTIONS_MAX: usize = 500_000;
/// The key of that Secret.
const INSTRUCTIONS_KEY: &str = "instructions";
/// The name of an agent that was in use and has none in the table.
const NAMELESS: &str = "Agent";

/// What is the same for every row.
pub struct Given<'a> {
    /// The pool that the agents belong to from now on.
    pub pool: &'a str,
    /// Its present template's ControllerRevision and hash.
    pub template: TemplateRef,
    /// What the agents are destroyed with.
    pub provider: ProviderRef,
    /// The steps of a creation by that template.
    pub plan: &'a [StepSpec],
    /// Wall time.
    pub now: jiff::Timestamp,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// The object, as it is created.
    pub instance: AgentInstance,
    /// Its status, once the agent is ours.
    pub status: AgentInstanceStatus,
    /// Instructions that are too long for the object, for the Secret that the claim names.
    pub instructions: Option<String>,
    /// The phase it is in then.
    pub phase: Phase,
}

/// What becomes of a row whose resource the provider shows, or says that it has not. `None`: nobody has the agent, and
/// it is gone: there is nothing to take.
pub fn import(row: &Row, found: Option<&Resource>, given: &Given<'_>) -> Option<Import> {
    let claim = is_somebody_s(row).then(|| claim(row, given.now));
    if found.is_none() && claim.is_none() {
        return None;
    }
    let instance = instance(row, found, claim.clone(), given);
    let mut status = observed(row, found, given);
    if let Some(claim) = &claim {
        // Never a candidate for anybody else: it is proven for the turn that it is claimed in.
        status.turn = Some(1);
        status.claim = claimed(row, &claim.id);
    } else if found.is_some() {
        status.operation = adoption(row, given);
    }
    status.verdict = verdict(row, found, given.now);
    let phase = phase(&instance.spec, Some(&status), false);
    status.phase = Some(phase.as_str().to_owned());
    let long = claim.is_some_and(|c| c.instructions_secret_ref.is_some());
    let instructions = row.instructions.as_deref().filter(|_| long);
    Some(Import {
        instructions: instructions.map(|text| cut(text, INSTRUCTIONS_MAX)),
        instance,
        status,
        phase,
    })
}

/// Whether somebody may be in a conversation with it.
fn is_somebody_s(row: &Row) -> bool {
    match row.state {
        State::Claimed | State::Pending | State::Crashed | State::Claiming => true,
        State::Tainted => row.agent_name.is_some() || row.conversation_id.is_some(),
        State::Starting | State::Idle | State::Dead => false,
    }
}

fn instance(
    row: &Row,
    found: Option<&Resource>,
    claim: Option<Claim>,
    given: &Given<'_>,
) -> AgentInstance {
    let name = found.map(|r| r.name.clone()).or_else(|| row.name.clone());
    let mut instance = AgentInstance::new(
        &names::object_name(&row.id),
        AgentInstanceSpec {
            id: row.id.clone(),
            pool_ref: PoolRef {
                name: given.pool.to_owned(),
            },
            provider_name: name.unwrap_or_else(|| row.id.clone()),
            template: TemplateRef {
                image: row.image.clone().filter(|i| image::digest_of(i).is_some()),
                ..given.template.clone()
            },
            provider: Some(given.provider.clone()),
            turn: 1,
            // Only so may it be created with a claim.
            restored: claim.is_some(),
            claim,
            release: None,
        },
    );
    let metadata = &mut instance.metadata;
    metadata.finalizers = Some(vec![INSTANCE_FINALIZER.to_owned()]);
    let label = (LABEL_POOL.to_owned(), names::label_value(given.pool));
    metadata.labels = Some(BTreeMap::from([label]));
    let mut annotations = BTreeMap::from([(ANNOTATION_IMPORTING.to_owned(), "true".to_owned())]);
    if let Some(created) = row.created_at {
        let text = created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        annotations.insert(ANNOTATION_CREATED.to_owned(), text);
    }
    metadata.annotations = Some(annotations);
    instance
}

fn claim(row: &Row, now: jiff::Timestamp) -> Claim {
    let id = format!("import-{}", &names::sha256_hex(row.id.as_bytes())[..12]);
    let text = row.instructions.as_deref().filter(|t| !t.is_empty());
    let long = text.is_some_and(|t| t.len() > INLINE_INSTRUCTIONS);
    let shown = if long {
        INSTRUCTIONS_SHOWN
    } else {
        INLINE_INSTRUCTIONS
    };
    Claim {
        instructions_secret_ref: long.then(|| SecretKeyRef {
            name: format!("claim-{id}"),
            key: INSTRUCTIONS_KEY.to_owned(),
        }),
        id,
        holder: IMPORTED_BY.to_owned(),
        deadline: Time(now),
        requested_at: Time(row.claimed_at.or(row.created_at).unwrap_or(now)),
        agent_name: row
            .agent_name
            .clone()
            .unwrap_or_else(|| NAMELESS.to_owned()),
        instructions: text.map(|t| cut(t, shown)),
        join_url: row.join_url.clone(),
        reference: None,
        source: Some("import".to_owned()),
    }
}

/// What its claim is known to have come to; nothing of one that was interrupted before it was bound.
fn claimed(row: &Row, claim: &str) -> Option<ClaimStatus> {
    let outcome = match row.state {
        State::Pending => Outcome::Pending,
        _ if row.conversation_id.is_some() => Outcome::Bound,
        _ => return None,
    };
    Some(ClaimStatus {
        id: claim.to_owned(),
        outcome: outcome.as_str().to_owned(),
        conversation_id: row.conversation_id.clone(),
        invite_url: row.invite_url.clone().or_else(|| row.join_url.clone()),
        invite_slug: None,
        joined: outcome == Outcome::Bound && row.join_url.is_some(),
        claimed_at: row.claimed_at.or(row.created_at).map(Time),
        source_branch: row.source_branch.clone(),
    })
}

/// What the provider shows, else what the table says.
fn observed(row: &Row, found: Option<&Resource>, given: &Given<'_>) -> AgentInstanceStatus {
    let fact = |name: &str| found.and_then(|r| r.facts.get(name).cloned());
    let image = row.image.clone().or_else(|| fact("image"));
    let provider = ProviderStatus {
        id: Some(row.provider_id.clone()),
        service_id: (given.provider.kind == "Railway").then(|| row.provider_id.clone()),
        domain_id: fact("domainId"),
        deployment_id: fact("deploymentId"),
        volume_id: fact("volumeId"),
        state: found.map(|r| r.liveness.as_str().to_owned()),
        deploy_status: found.and_then(|r| r.native_state.clone()),
        image_digest: image
            .as_deref()
            .and_then(image::digest_of)
            .map(str::to_owned),
        image,
        source_branch: row.source_branch.clone(),
        ..ProviderStatus::default()
    };
    let token = if row.token.is_some() {
        IMPORTED
    } else {
        NO_TOKEN
    };
    AgentInstanceStatus {
        url: fact("url").or_else(|| row.url.clone()),
        token_seq: Some(1),
        token_key: Some(token.to_owned()),
        provider: Some(provider),
        services: Some(row.services.clone()).filter(|s| !s.is_empty()),
        ..AgentInstanceStatus::default()
    }
}

/// The rest of its creation: of one that was in stock, whether it is ready and clean; of one that was being built, every
/// step, each looked for before it is sent.
fn adoption(row: &Row, given: &Given<'_>) -> Option<OperationStatus> {
    let ready = given.plan.iter().position(|s| s.step == Step::Ready);
    let index = match row.state {
        State::Idle => ready?,
        _ => 0,
    };
    let recorded = |(at, spec): (usize, &StepSpec)| StepStatus {
        name: spec.step.name(),
        state: if at < index { "Done" } else { "Intended" }.to_owned(),
        attempt: 1,
        started_at: Some(Time(given.now)),
    };
    Some(OperationStatus {
        id: names::sha256_hex(row.id.as_bytes())[..8].to_owned(),
        kind: ADOPT.to_owned(),
        plan_hash: plan_hash(given.plan),
        index: i32::try_from(index).ok()?,
        steps: given
            .plan
            .iter()
            .take(index + 1)
            .enumerate()
            .map(recorded)
            .collect(),
    })
}

fn verdict(row: &Row, found: Option<&Resource>, now: jiff::Timestamp) -> Option<Verdict> {
    let unfinished = row.state == State::Claiming
        || (row.state == State::Claimed && row.conversation_id.is_none());
    let (judgement, reason, message) = match row.state {
        _ if found.is_none() => (
            Judgement::Crashed,
            Reason::Gone,
            "in use in the table that it was imported from, and the provider no longer has it",
        ),
        _ if unfinished => (
            Judgement::Crashed,
            Reason::ClaimInterrupted,
            "imported in the middle of a claim: nobody knows what came of it, and a user may be in it; look at it, then delete this AgentInstance",
        ),
        State::Crashed => (
            Judgement::Crashed,
            Reason::Imported,
            "crashed already in the table that it was imported from",
        ),
        State::Tainted => (
            Judgement::Tainted,
            Reason::Imported,
            "tainted already in the table that it was imported from",
        ),
        State::Dead => (
            Judgement::Dead,
            Reason::Imported,
            "dead already in the table that it was imported from",
        ),
        State::Claimed | State::Pending | State::Claiming | State::Starting | State::Idle => {
            return None;
        }
    };
    Some(Verdict {
        state: judgement.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.to_owned(),
        since: Time(now),
    })
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
