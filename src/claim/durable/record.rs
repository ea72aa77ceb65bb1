//! Between a request or an answer and the object that keeps it. Pure, but for the clock's time that is handed in.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use secrecy::SecretString;

use crate::api::agent_claim::{
    AgentClaim, AgentClaimSpec, AgentClaimStatus, Failure, Origin, RuntimeKind,
};
use crate::api::agent_instance::{AgentInstance, PoolRef};
use crate::api::agent_pool::AgentPool;
use crate::api::condition::{ConditionType, Reason, Truth, set_condition};
use crate::api::names;
use crate::claim::{ClaimAnswer, ClaimError, ClaimRequest};
use crate::domain::agent_claim as judgement;
use crate::domain::instance::phase::waits_for_acceptance;
use crate::domain::instance::status::cut;

/// Phase word of a claim that waits.
pub const WAITING: &str = "Waiting";
/// Phase word of a claim that is being served.
pub const CLAIMING: &str = "Claiming";
/// Phase word of a claim that has an agent.
pub const BOUND: &str = "Bound";
/// Phase word of a claim whose join waits for a person.
pub const PENDING: &str = "PendingAcceptance";
/// Phase word of a claim that got none.
pub const FAILED: &str = "Failed";

const PROVISION_FAILED: &str = "provision_failed";
const BAD_REQUEST: &str = "bad_request";
const DUPLICATE_JOIN: &str = "duplicate_join";
const NO_IDLE: &str = "no_idle";

/// Hash of what is asked for, to tell another request with the same key: how long one waits is not part of it.
pub fn request_hash(request: &ClaimRequest) -> String {
    let mut asked = serde_json::json!([
        request.agent_name,
        request.instructions,
        request.join_url,
        request.profile_image,
        request.metadata,
        request.source,
        request.runtime,
    ]);
    // Only where there is any: a key that was used before an upgrade is the same key after it.
    if !request.passed_through.is_empty()
        && let Some(asked) = asked.as_array_mut()
    {
        asked.push(serde_json::json!(request.passed_through));
    }
    names::sha256_hex(asked.to_string().as_bytes())
}

/// The object of a claim over HTTP.
pub fn spec_of(
    pool: &str,
    request: &ClaimRequest,
    wait: Duration,
    driver: &str,
    enqueued_at: jiff::Timestamp,
) -> AgentClaimSpec {
    AgentClaimSpec {
        pool_ref: PoolRef {
            name: pool.to_owned(),
        },
        agent_name: request.agent_name.clone(),
        instructions: request.instructions.clone(),
        join_url: request.join_url.clone(),
        profile_image: request.profile_image.clone(),
        metadata: request.metadata.clone(),
        runtime: request.runtime.as_deref().and_then(RuntimeKind::parse),
        wait_seconds: i32::try_from(wait.as_secs()).ok().filter(|s| *s > 0),
        ttl_seconds_after_finished: None,
        origin: Origin::Http,
        request_hash: Some(request_hash(request)),
        held_for: None,
        enqueued_at: Some(MicroTime(enqueued_at)),
        driver: Some(driver.to_owned()),
    }
}

/// The request of a claim that was created with kubectl.
pub fn request_of(spec: &AgentClaimSpec) -> ClaimRequest {
    ClaimRequest {
        agent_name: spec.agent_name.clone(),
        instructions: spec.instructions.clone(),
        join_url: spec.join_url.clone(),
        profile_image: spec.profile_image.clone(),
        metadata: spec.metadata.clone(),
        passed_through: BTreeMap::new(),
        source: "manifest".to_owned(),
        runtime: spec.runtime.map(|r| r.as_str().to_owned()),
        reference: None,
    }
}

/// How a claim ends, or that it does not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The answer is kept: the same request gets it again.
    Keep,
    /// Nothing was done to any agent, so nothing is kept: the same request is served anew.
    Forget,
    /// Nobody knows what came of it: it stays unfinished until it was found out.
    Open,
}

/// How a claim over HTTP ends. `keyed`: somebody may ask for its answer again; `linked`: its agent holds its link.
///
/// A failure at an agent is final for its key, as the answer was; that no agent was idle is not, or a key would be
/// refused for a day for it.
pub fn ending(outcome: &Result<ClaimAnswer, ClaimError>, keyed: bool, linked: bool) -> Ending {
    match outcome {
        Ok(_) if keyed || linked => Ending::Keep,
        Err(
            ClaimError::ProvisionFailed { .. }
            | ClaimError::Invalid { .. }
            | ClaimError::DuplicateJoin { .. },
        ) if keyed => Ending::Keep,
        Err(ClaimError::Cluster(_) | ClaimError::StillRunning) => Ending::Open,
        Ok(_) | Err(_) => Ending::Forget,
    }
}

/// The final status of a claim.
pub fn finished(
    claim: &AgentClaim,
    outcome: &Result<ClaimAnswer, ClaimError>,
    now: jiff::Timestamp,
) -> AgentClaimStatus {
    let old = claim.status.clone().unwrap_or_default();
    let mut status = AgentClaimStatus {
        observed_generation: claim.metadata.generation,
        done: true,
        finished_at: Some(Time(now)),
        driver: old.driver,
        conditions: old.conditions,
        ..AgentClaimStatus::default()
    };
    let (truth, reason, message) = match outcome {
        Ok(answer) => {
            let pending = answer.waiting_for_acceptance;
            status.phase = Some(if pending { PENDING } else { BOUND }.to_owned());
            status.instance = Some(answer.instance_id.clone());
            status.conversation_id.clone_from(&answer.conversation_id);
            status.invite_url.clone_from(&answer.invite_url);
            status.invite_slug.clone_from(&answer.invite_slug);
            status.joined = answer.joined;
            status.gateway_url = Some(answer.gateway_url.clone());
            let (reason, words) = if pending {
                (
                    Reason::PendingAcceptance,
                    "joined; a person has to accept the agent",
                )
            } else {
                (Reason::Claimed, "the agent is in its conversation")
            };
            (Truth::True, reason, words.to_owned())
        }
        Err(error) => {
            status.phase = Some(FAILED.to_owned());
            let (failure, reason) = failure_of(error);
            let message = failure.message.clone();
            status.failure = Some(failure);
            (Truth::False, reason, message)
        }
    };
    let generation = claim.metadata.generation;
    let kind = ConditionType::Bound;
    set_condition(
        &mut status.conditions,
        kind,
        truth,
        reason,
        message,
        generation,
        now,
    );
    status
}

/// The status of a claim that is on its way.
pub fn underway(
    claim: &AgentClaim,
    me: &str,
    phase: &str,
    (reason, message): (Reason, &str),
    now: jiff::Timestamp,
) -> AgentClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    status.observed_generation = claim.metadata.generation;
    status.phase = Some(phase.to_owned());
    status.driver = Some(judgement::next_driver(claim, me));
    let generation = claim.metadata.generation;
    let kind = ConditionType::Bound;
    set_condition(
        &mut status.conditions,
        kind,
        Truth::False,
        reason,
        message,
        generation,
        now,
    );
    status
}

fn failure_of(error: &ClaimError) -> (Failure, Reason) {
    let failure = |code: &str, message: &str, instance: Option<&String>| Failure {
        code: code.to_owned(),
        message: cut(message, 1500),
        instance: instance.cloned(),
    };
    match error {
        ClaimError::Invalid {
            instance_id,
            message,
        } => (
            failure(PROVISION_FAILED, message, Some(instance_id)),
            Reason::Rejected,
        ),
        ClaimError::ProvisionFailed {
            instance_id,
            message,
        } => (
            failure(PROVISION_FAILED, message, Some(instance_id)),
            Reason::ClaimFailed,
        ),
        ClaimError::DuplicateJoin { instance_id, .. } => (
            failure(DUPLICATE_JOIN, &error.to_string(), instance_id.as_ref()),
            Reason::DuplicateJoin,
        ),
        ClaimError::NoIdle | ClaimError::WaitedOut { .. } => (
            failure(
                NO_IDLE,
                "no agent became idle within spec.waitSeconds: delete this AgentClaim and create another",
                None,
            ),
            Reason::NoIdle,
        ),
        other => (
            failure(BAD_REQUEST, &other.to_string(), None),
            Reason::InvalidSpec,
        ),
    }
}

/// A claim that cannot work as it is written.
pub fn invalid(claim: &AgentClaim, words: &str, now: jiff::Timestamp) -> AgentClaimStatus {
    let error = ClaimError::Cluster(String::new());
    let mut status = finished(claim, &Err(error), now);
    status.failure = Some(Failure {
        code: BAD_REQUEST.to_owned(),
        message: words.to_owned(),
        instance: None,
    });
    let generation = claim.metadata.generation;
    let (kind, reason) = (ConditionType::Bound, Reason::InvalidSpec);
    set_condition(
        &mut status.conditions,
        kind,
        Truth::False,
        reason,
        words,
        generation,
        now,
    );
    status
}

/// The answer that a finished claim keeps. `token` is derived anew: it is never stored.
pub fn answer_of(
    claim: &AgentClaim,
    pool: &AgentPool,
    token: Option<SecretString>,
) -> Result<ClaimAnswer, ClaimError> {
    let status = claim.status.clone().unwrap_or_default();
    if let Some(failure) = status.failure {
        return Err(match failure.code.as_str() {
            DUPLICATE_JOIN => ClaimError::DuplicateJoin {
                instance_id: failure.instance,
                status: duplicate_status(pool),
            },
            _ => ClaimError::ProvisionFailed {
                instance_id: failure.instance.unwrap_or_default(),
                message: failure.message,
            },
        });
    }
    Ok(ClaimAnswer {
        instance_id: status.instance.unwrap_or_default(),
        agent_name: claim.spec.agent_name.clone(),
        conversation_id: status.conversation_id,
        invite_url: status.invite_url,
        invite_slug: status.invite_slug,
        joined: status.joined,
        waiting_for_acceptance: status.phase.as_deref() == Some(PENDING),
        gateway_token: token,
        gateway_url: status.gateway_url.unwrap_or_default(),
        agent_took: Duration::ZERO,
    })
}

/// The answer that an agent bound for a claim stands for, where nobody gave it yet.
pub fn answer_from(instance: &AgentInstance, token: Option<SecretString>) -> ClaimAnswer {
    let status = instance.status.clone().unwrap_or_default();
    let asked = instance.spec.claim.as_ref();
    let bound = status.claim;
    let pending = waits_for_acceptance(instance);
    ClaimAnswer {
        instance_id: instance.spec.id.clone(),
        agent_name: asked.map(|c| c.agent_name.clone()).unwrap_or_default(),
        conversation_id: bound.as_ref().and_then(|c| c.conversation_id.clone()),
        invite_url: bound.as_ref().and_then(|c| c.invite_url.clone()),
        invite_slug: bound.as_ref().and_then(|c| c.invite_slug.clone()),
        joined: bound.as_ref().is_some_and(|c| c.joined),
        waiting_for_acceptance: pending,
        gateway_token: token,
        gateway_url: status.url.unwrap_or_default(),
        agent_took: Duration::ZERO,
    }
}

/// The HTTP status that a pool wants for a duplicate join.
pub fn duplicate_status(pool: &AgentPool) -> u16 {
    u16::try_from(pool.spec.claim.duplicate_status).unwrap_or(409)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
