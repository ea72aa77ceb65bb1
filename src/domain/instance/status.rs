//! What an instance's status says after a decision: recomputed whole from what was there and what was seen.
//!
//! Times move only when what they belong to changes, so that a steady instance is never written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Action, CLAIMING_SHOWN_AFTER, Change, Decision, GAVE_UP, Judgement};
use super::outcome::{self, Outcome};
use super::phase::{self, Phase};
use super::view::{Listed, View};
use crate::api::agent_instance::{
    AgentInstance, AgentInstanceStatus, ClaimStatus, OperationStatus, ProviderStatus,
    RuntimeStatus, StepStatus, Verdict,
};
use crate::api::condition::{ConditionType, Reason, Truth, find, set_condition};
use crate::domain::agent::Probe;
use crate::domain::plan::{Facts, Operation, StepSpec};
use crate::domain::resource::Liveness;

/// Kind of a creation that begins with an object of unknown history: every step is looked for before it is sent.
/// It becomes a creation as soon as a step had to be sent.
pub const ADOPT: &str = "Adopt";

/// Whether what the object is to have may have been there before it.
pub fn is_adopting(status: Option<&AgentInstanceStatus>) -> bool {
    let operation = status.and_then(|s| s.operation.as_ref());
    operation.is_some_and(|o| o.kind == ADOPT)
}

/// Whether it is being restored for its next user, or was and is not proven yet.
pub fn is_recycling(status: Option<&AgentInstanceStatus>) -> bool {
    let operation = status.and_then(|s| s.operation.as_ref());
    operation.is_some_and(|o| o.kind == Operation::Recycle.as_str())
}

/// What a record needs beside view and decision: settled by the shell, random or secret-derived.
#[derive(Clone, Debug)]
pub struct Given {
    /// Wall time.
    pub now: jiff::Timestamp,
    /// Id for an operation that begins.
    pub operation_id: String,
    /// Fingerprint of the root key, for instances that have no token yet.
    pub token_key: Option<String>,
    /// Image as asked for, for instances that have none recorded.
    pub image: Option<String>,
    /// The digest it is pinned to.
    pub image_digest: Option<String>,
    /// The branch it is built from.
    pub source_branch: Option<String>,
    /// Where a recycling begins: the digest of the values of Secrets now. Those that it gets may be later ones: then it
    /// drifts once more than it must.
    pub secrets: Option<String>,
}

/// The status after a decision.
pub fn status(view: &View<'_>, decision: &Decision, given: &Given) -> AgentInstanceStatus {
    let mut new = view.instance.status.clone().unwrap_or_default();
    observe_provider(&mut new, view);
    observe_agent(&mut new, view);
    if let Action::Record(change) = &decision.action {
        record(&mut new, view, change, decision, given);
    }
    let deleted = view.instance.metadata.deletion_timestamp.is_some();
    let phase = phase::phase(&view.instance.spec, Some(&new), deleted);
    // Most claims are over before anybody could look: only older ones are worth a write.
    let shown = if phase == Phase::Claiming && view.memory.claim_known_for < CLAIMING_SHOWN_AFTER {
        None
    } else {
        Some(phase)
    };
    if let Some(shown) = shown {
        new.phase = Some(shown.as_str().to_owned());
        let settled = after_record(decision);
        let truth = match readiness(shown) {
            // Nobody can tell while the provider does not.
            Truth::False if is_unknown(decision.reason) => Truth::Unknown,
            truth => truth,
        };
        set_condition(
            &mut new.conditions,
            ConditionType::Ready,
            truth,
            settled.unwrap_or(decision.reason),
            decision.message.clone(),
            view.instance.metadata.generation,
            given.now,
        );
        new.observed_generation = view.instance.metadata.generation;
    }
    observe_reachability(&mut new, view, given.now);
    new
}

/// The reason after a record, where it differs from the reason for recording.
fn after_record(decision: &Decision) -> Option<Reason> {
    match &decision.action {
        Action::Record(Change::Proven | Change::Woken) => Some(Reason::Idle),
        _ => None,
    }
}

/// Ready is True exactly where the instance is what its owner wants: in stock, or in use.
fn readiness(phase: Phase) -> Truth {
    match phase {
        Phase::Idle | Phase::Claimed | Phase::PendingAcceptance => Truth::True,
        _ => Truth::False,
    }
}

fn is_unknown(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::RateLimited
            | Reason::QuotaReserved
            | Reason::CoolingDown
            | Reason::ProviderUnavailable
            | Reason::OutcomeUnknown
    )
}

fn observe_provider(new: &mut AgentInstanceStatus, view: &View<'_>) {
    if let Listed::Present(resource) = &view.listed {
        let provider = new.provider.get_or_insert_default();
        let waking = provider.state.as_deref() == Some(phase::STATE_WAKING);
        // Only its own answer ends a wake.
        if !waking || view.instance.spec.claim.is_some() {
            provider.state = Some(resource.liveness.as_str().to_owned());
        }
        if view.limits.heartbeat.is_none() {
            provider.deploy_status = resource.native_state.clone();
        }
    }
}

fn observe_agent(new: &mut AgentInstanceStatus, view: &View<'_>) {
    let Some(Probe::Answered {
        dialect,
        kind,
        version,
        ..
    }) = &view.evidence.probe
    else {
        return;
    };
    let runtime = new.runtime.get_or_insert_with(RuntimeStatus::default);
    runtime
        .dialect
        .get_or_insert_with(|| dialect.as_str().to_owned());
    if kind.is_some() {
        runtime.kind.clone_from(kind);
    }
    if version.is_some() {
        runtime.version.clone_from(version);
    }
}

/// One probe that goes unanswered says nothing yet of an agent that answers: it would be two writes for a hiccup.
fn is_hiccup(status: &AgentInstanceStatus, view: &View<'_>) -> bool {
    let reachable = find(&status.conditions, ConditionType::Reachable);
    let unanswered = matches!(
        view.evidence.probe,
        Some(Probe::Unreachable(_) | Probe::NotReady(_))
    );
    unanswered && view.memory.unanswered < 2 && reachable.is_some_and(|c| c.status == "True")
}

fn observe_reachability(new: &mut AgentInstanceStatus, view: &View<'_>, now: jiff::Timestamp) {
    if is_hiccup(new, view) {
        return;
    }
    let (truth, reason, message) = match &view.evidence.probe {
        Some(Probe::Answered { .. }) => (Truth::True, Reason::Answering, String::new()),
        Some(Probe::Unreachable(text)) => (Truth::False, Reason::Unreachable, text.clone()),
        Some(Probe::NotReady(text)) => (Truth::False, Reason::NotReady, text.clone()),
        Some(Probe::Unauthorized) => (
            Truth::False,
            Reason::BadToken,
            "the agent refuses its token".to_owned(),
        ),
        Some(Probe::WrongRuntime(text)) => (Truth::False, Reason::WrongRuntime, text.clone()),
        None if new
            .conditions
            .iter()
            .any(|c| c.type_ == ConditionType::Reachable.as_str()) =>
        {
            return;
        }
        None => (Truth::Unknown, Reason::Pending, "not probed yet".to_owned()),
    };
    // Without a generation: a probe concerns the agent, not the spec, and must not be a write per change of it.
    set_condition(
        &mut new.conditions,
        ConditionType::Reachable,
        truth,
        reason,
        message,
        None,
        now,
    );
}

fn record(
    new: &mut AgentInstanceStatus,
    view: &View<'_>,
    change: &Change,
    decision: &Decision,
    given: &Given,
) {
    match change {
        Change::Begin => {
            new.token_seq.get_or_insert(1);
            if new.token_key.is_none() {
                new.token_key.clone_from(&given.token_key);
            }
            let provider = new.provider.get_or_insert_default();
            if provider.source_branch.is_none() {
                provider.source_branch.clone_from(&given.source_branch);
            }
            if provider.image.is_none() {
                provider.image.clone_from(&given.image);
                provider.image_digest.clone_from(&given.image_digest);
            }
            let fresh = Operation::Create.as_str();
            let kind = if view.memory.fresh { fresh } else { ADOPT };
            new.operation = Some(begun(view.plan, kind, given));
        }
        Change::Recycle => {
            // Once per recycling, in the write that begins it: whoever goes on with it writes the same new token. The
            // last user has read the old one.
            new.token_seq = Some(new.token_seq.unwrap_or(1) + 1);
            if given.token_key.is_some() {
                new.token_key.clone_from(&given.token_key);
            }
            let provider = new.provider.get_or_insert_default();
            provider.secrets.clone_from(&given.secrets);
            new.operation = Some(begun(view.plan, Operation::Recycle.as_str(), given));
        }
        Change::Found(facts) => add_facts(new, facts),
        Change::Done(facts) => {
            add_facts(new, facts);
            sent(new, view);
            advance(new, view.plan, given.now);
        }
        Change::Running(facts) => {
            add_facts(new, facts);
            sent(new, view);
            if let Some(step) = present(new) {
                step.state = "Running".to_owned();
            }
        }
        Change::Again => {
            if let Some(step) = present(new) {
                step.state = "Intended".to_owned();
                step.attempt += 1;
                step.started_at = Some(Time(given.now));
            }
        }
        Change::Proven => {
            new.turn = Some(view.instance.spec.turn);
            new.operation = None;
            // Of an earlier turn: nothing of its user stays.
            if view.instance.spec.claim.is_none() {
                new.claim = None;
            }
            if let Some(provider) = &mut new.provider {
                provider.woken_at = None;
            }
        }
        Change::Wake => {
            let provider = new.provider.get_or_insert_default();
            provider.state = Some(phase::STATE_WAKING.to_owned());
            provider.woken_at = Some(Time(given.now));
        }
        Change::Woken => {
            let provider = new.provider.get_or_insert_default();
            provider.state = Some(Liveness::Running.as_str().to_owned());
        }
        Change::Revive => new.verdict = None,
        Change::Joined(conversation) => new.claim = joined(view.instance, conversation, given.now),
        Change::Settling => {
            if let Some(claim) = &mut new.claim {
                claim.outcome = Outcome::Settling.as_str().to_owned();
            }
        }
        Change::Judge(judgement) => {
            new.verdict = Some(Verdict {
                state: judgement.as_str().to_owned(),
                reason: decision.reason.as_str().to_owned(),
                message: cut(&decision.message, 1000),
                since: Time(given.now),
            });
        }
    }
}

/// What the claim's own process would have recorded of a join.
fn joined(
    instance: &AgentInstance,
    conversation: &str,
    now: jiff::Timestamp,
) -> Option<ClaimStatus> {
    let claim = instance.spec.claim.as_ref()?;
    Some(ClaimStatus {
        id: claim.id.clone(),
        outcome: Outcome::Bound.as_str().to_owned(),
        conversation_id: Some(conversation.to_owned()),
        invite_url: claim.join_url.clone(),
        invite_slug: None,
        joined: true,
        claimed_at: Some(Time(now)),
        source_branch: source_branch(instance),
    })
}

/// A step that had to be sent was never done: nobody can have used the agent, and the rest is a creation.
fn sent(new: &mut AgentInstanceStatus, view: &View<'_>) {
    if view.evidence.outcome.is_some()
        && is_adopting(Some(new))
        && let Some(operation) = new.operation.as_mut()
    {
        operation.kind = Operation::Create.as_str().to_owned();
    }
}

fn present(new: &mut AgentInstanceStatus) -> Option<&mut StepStatus> {
    let operation = new.operation.as_mut()?;
    operation
        .steps
        .get_mut(usize::try_from(operation.index).ok()?)
}

/// Done with the present step; the next is intended in the same write.
fn advance(new: &mut AgentInstanceStatus, plan: &[StepSpec], now: jiff::Timestamp) {
    if let Some(step) = present(new) {
        step.state = "Done".to_owned();
    }
    let Some(operation) = new.operation.as_mut() else {
        return;
    };
    operation.index += 1;
    if let Some(next) = usize::try_from(operation.index)
        .ok()
        .and_then(|i| plan.get(i))
    {
        operation.steps.push(intent(next, 1, now));
    }
}

fn intent(spec: &StepSpec, attempt: i32, now: jiff::Timestamp) -> StepStatus {
    StepStatus {
        name: spec.step.name(),
        state: "Intended".to_owned(),
        attempt,
        started_at: Some(Time(now)),
    }
}

fn begun(plan: &[StepSpec], kind: &str, given: &Given) -> OperationStatus {
    let first = plan.first().map(|s| intent(s, 1, given.now));
    OperationStatus {
        id: given.operation_id.clone(),
        kind: kind.to_owned(),
        plan_hash: plan_hash(plan),
        index: 0,
        steps: first.into_iter().collect(),
    }
}

/// Hash of a plan's steps, recorded with the operation.
pub fn plan_hash(plan: &[StepSpec]) -> String {
    let names: Vec<String> = plan.iter().map(|s| s.step.name()).collect();
    crate::api::names::sha256_hex(names.join(",").as_bytes())[..10].to_owned()
}

/// The ids recorded of an instance, as a provider takes them.
pub fn facts_of(status: Option<&AgentInstanceStatus>) -> Facts {
    let mut facts = Facts::new();
    let Some(status) = status else { return facts };
    if let Some(serde_json::Value::Object(map)) = status
        .provider
        .as_ref()
        .and_then(|p| serde_json::to_value(p).ok())
    {
        facts.extend(
            map.into_iter()
                .filter_map(|(k, v)| v.as_str().map(|s| (k, s.to_owned()))),
        );
    }
    if let Some(url) = &status.url {
        facts.insert("url".to_owned(), url.clone());
    }
    facts
}

/// The branch of an instance's code, where known.
pub fn source_branch(instance: &AgentInstance) -> Option<String> {
    let status = instance.status.as_ref()?;
    status.provider.as_ref()?.source_branch.clone()
}

/// The step that may have been sent and whose outcome is not recorded.
pub fn unsettled(status: Option<&AgentInstanceStatus>) -> Option<&str> {
    let step = status?.operation.as_ref()?.steps.last()?;
    (step.state == "Intended").then_some(step.name.as_str())
}

/// The step that the provider accepted and whose end is not recorded.
pub fn under_way(status: Option<&AgentInstanceStatus>) -> Option<&str> {
    let step = status?.operation.as_ref()?.steps.last()?;
    (step.state == "Running").then_some(step.name.as_str())
}

fn add_facts(new: &mut AgentInstanceStatus, facts: &Facts) {
    let provider: &mut ProviderStatus = new.provider.get_or_insert_default();
    for (key, value) in facts {
        let value = Some(value.clone());
        match key.as_str() {
            "url" => new.url = value,
            "serviceId" => {
                provider.id.clone_from(&value);
                provider.service_id = value;
            }
            "id" => provider.id = value,
            "domainId" => provider.domain_id = value,
            "deploymentId" => provider.deployment_id = value,
            "volumeId" => provider.volume_id = value,
            "projectId" => provider.project_id = value,
            "environmentId" => provider.environment_id = value,
            "spriteId" => provider.id = value,
            "checkpointId" => provider.checkpoint_id = value,
            "checkpointTime" => provider.checkpoint_time = value,
            "home" => provider.home = value,
            "imageDigest" => provider.image_digest = value,
            "sourceCommit" => provider.source_commit = value,
            _ => {}
        }
    }
}

/// The status of an instance of which a claim records what came of it.
pub fn claimed(
    instance: &AgentInstance,
    claim: ClaimStatus,
    text: &str,
    now: jiff::Timestamp,
) -> AgentInstanceStatus {
    let mut new = instance.status.clone().unwrap_or_default();
    let outcome = outcome::parse(&claim.outcome);
    new.claim = Some(ClaimStatus {
        source_branch: source_branch(instance),
        ..claim
    });
    let reason = match outcome {
        Outcome::Bound => Reason::Claimed,
        Outcome::Pending => Reason::PendingAcceptance,
        Outcome::Busy => Reason::Busy,
        Outcome::BadToken => Reason::BadToken,
        Outcome::WrongRuntime => Reason::WrongRuntime,
        Outcome::NotClean => Reason::NotClean,
        Outcome::Failed | Outcome::Settling => Reason::Settling,
    };
    settled(&mut new, instance, (reason, cut(text, 1000)), now);
    new
}

/// What an agent tells by callback of its join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// It was accepted into this conversation.
    Accepted(&'a str),
    /// It was not, and the agent does not wait any longer. Its own words may hold the invite: they go no further.
    GaveUp,
}

/// The status after what the agent told; `None` where it does not wait any more, or no longer for this claim.
pub fn called_back(
    instance: &AgentInstance,
    told: Told<'_>,
    now: jiff::Timestamp,
) -> Option<AgentInstanceStatus> {
    if phase::phase_of(instance) != Phase::PendingAcceptance {
        return None;
    }
    let mut new = instance.status.clone()?;
    match told {
        Told::Accepted(conversation) => {
            let bound = joined(instance, conversation, now)?;
            Some(claimed(instance, bound, "in use", now))
        }
        Told::GaveUp => {
            new.verdict = Some(Verdict {
                state: Judgement::Tainted.as_str().to_owned(),
                reason: Reason::NotAccepted.as_str().to_owned(),
                message: GAVE_UP.to_owned(),
                since: Time(now),
            });
            let why = (Reason::NotAccepted, GAVE_UP.to_owned());
            settled(&mut new, instance, why, now);
            Some(new)
        }
    }
}

/// Phase and Ready as they follow from what was just recorded.
fn settled(
    new: &mut AgentInstanceStatus,
    instance: &AgentInstance,
    (reason, message): (Reason, String),
    now: jiff::Timestamp,
) {
    let phase = phase::phase(&instance.spec, Some(new), false);
    new.phase = Some(phase.as_str().to_owned());
    set_condition(
        &mut new.conditions,
        ConditionType::Ready,
        readiness(phase),
        reason,
        message,
        instance.metadata.generation,
        now,
    );
    new.observed_generation = instance.metadata.generation;
}

/// The first `max` bytes of a text, cut at a character.
pub fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
