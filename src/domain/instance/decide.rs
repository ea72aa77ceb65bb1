//! What to do next about one instance. Pure, total: bad input is a decision too.
//!
//! A decision asks for one thing: a read that is missing (look, probe, observe), one effect, or a record. The shell
//! does it and asks again with the new evidence; after a record it asks again with the object as the API server
//! returned it. So every irreversible action is preceded by a decision on what is recorded.

use std::time::Duration;

use super::phase::{self, Phase};
use super::view::{Listed, View};
use crate::api::ANNOTATION_ABANDON;
use crate::api::agent_instance::{AgentInstanceStatus, OperationStatus, ReleaseMode, StepStatus};
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, Probe};
use crate::domain::backoff;
use crate::domain::plan::{Class, Facts, Outcome, Repeat, Seen, Step, StepSpec, Trouble};
use crate::domain::resource::{Liveness, Presence};

/// Two looks that are to prove something are at least this far apart.
pub const TWICE_APART: Duration = Duration::from_secs(5);
/// Two readings of a claimed agent without its conversation are at least this far apart.
pub const UNBOUND_APART: Duration = Duration::from_secs(10);
/// A claim younger than this is not written into `status.phase`: most are over by then.
pub const CLAIMING_SHOWN_AFTER: Duration = Duration::from_secs(1);
/// How often an agent that should become ready is probed.
const READY_POLL: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing now.
    Wait,
    /// Write this change of the status (with the intent of the next step, where one follows).
    Record(Change),
    /// Look whether the present step has happened.
    Look(usize),
    /// Send the present step, once.
    Perform(usize),
    /// Probe the agent.
    Probe,
    /// Read the resource directly.
    Observe,
    /// Ask the provider to remove the resource.
    Destroy,
    /// Delete the object, if it is still as it was judged.
    Delete,
    /// Let the object go.
    RemoveFinalizer,
}

/// A change of what is recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The creation begins: the first step is intended.
    Begin,
    /// The present step is done and made this; the next one is intended, or the operation is over.
    Done(Facts),
    /// The present step was accepted and is under way.
    Running(Facts),
    /// The present step is intended once more.
    Again,
    /// The agent is proven ready and clean for the present turn.
    Proven,
    /// A judgement that stays.
    Judge(Judgement),
}

/// The judgements that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// It was in use and died.
    Crashed,
    /// It is bound or dirty without our doing.
    Tainted,
    /// It was never used and cannot be any more.
    Dead,
}

impl Judgement {
    /// The word in `status.verdict.state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crashed => "Crashed",
            Self::Tainted => "Tainted",
            Self::Dead => "Dead",
        }
    }
}

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Why: the Ready condition's reason, the event's, the metric's label.
    pub reason: Reason,
    /// In words, for the condition.
    pub message: String,
    /// When to decide again, at the latest.
    pub recheck: Duration,
}

fn decision(action: Action, reason: Reason, message: impl Into<String>, recheck: Duration) -> Decision {
    Decision { action, reason, message: message.into(), recheck }
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    let instance = view.instance;
    if instance.metadata.deletion_timestamp.is_some() {
        return removal(view);
    }
    if let Some(verdict) = view.instance.status.as_ref().and_then(|s| s.verdict.as_ref()) {
        return judged(view, &verdict.state, &verdict.reason, &verdict.message);
    }
    if instance.spec.release.as_ref().is_some_and(|r| r.mode == ReleaseMode::Destroy) {
        return decision(Action::Delete, Reason::Terminating, "released by its user", view.limits.tick);
    }
    match view.phase() {
        Phase::Claiming => claiming(view),
        Phase::Claimed | Phase::PendingAcceptance | Phase::Sleeping if instance.spec.claim.is_some() => claimed(view),
        Phase::Idle | Phase::Sleeping => idle(view),
        _ => provisioning(view),
    }
}

// ---- deletion -------------------------------------------------------------------------------------------------

fn removal(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    if view.instance.metadata.finalizers.as_ref().is_none_or(|f| !f.iter().any(|f| f == crate::api::INSTANCE_FINALIZER)) {
        return decision(Action::Wait, Reason::Terminating, "", view.limits.tick);
    }
    let abandoned = view.instance.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_ABANDON)).is_some_and(|v| v == "true");
    if abandoned {
        return decision(Action::RemoveFinalizer, Reason::Terminating, "abandoned on request: what it owns at the provider is left behind", view.limits.tick);
    }
    if let Some(trouble) = &view.evidence.trouble {
        return troubled(view, trouble, Reason::DeletionPending);
    }
    match &view.evidence.removal {
        None => decision(Action::Destroy, Reason::Terminating, "being removed at the provider", view.limits.tick),
        Some(Presence::Gone) if !creation_is_uncertain(status) => {
            decision(Action::RemoveFinalizer, Reason::Terminating, "gone at the provider", view.limits.tick)
        }
        Some(Presence::Gone) => gone_by_name(view),
        Some(Presence::Present(_) | Presence::Unknown) => decision(
            Action::Wait,
            Reason::DeletionPending,
            "the provider has not confirmed the removal yet",
            backoff::exponential(view.memory.failures, Duration::from_secs(2), Duration::from_secs(60)),
        ),
    }
}

/// A create was sent and its id never learnt: the resource may still turn up under its name. Absence counts only
/// past the list's lag, in two looks that are far enough apart.
fn gone_by_name(view: &View<'_>) -> Decision {
    let missing = view.memory.missing_for.unwrap_or_default();
    let lag_over = view.memory.known_for >= view.limits.list_lag;
    if lag_over && missing >= TWICE_APART {
        return decision(Action::RemoveFinalizer, Reason::Terminating, "never came to exist at the provider", view.limits.tick);
    }
    let wait = TWICE_APART.saturating_sub(missing).max(view.limits.list_lag.saturating_sub(view.memory.known_for));
    decision(
        Action::Wait,
        Reason::DeletionPending,
        "a creation's outcome is unknown: looking for it once more before letting go",
        wait.clamp(Duration::from_millis(100), TWICE_APART),
    )
}

fn creation_is_uncertain(status: Option<&AgentInstanceStatus>) -> bool {
    let known = status.and_then(|s| s.provider.as_ref()).is_some_and(|p| p.id.is_some());
    !known && status.is_some_and(|s| s.operation.is_some())
}

// ---- judged ---------------------------------------------------------------------------------------------------

fn judged(view: &View<'_>, state: &str, reason: &str, message: &str) -> Decision {
    let why = Reason::parse(reason).unwrap_or(Reason::InternalError);
    if state == Judgement::Crashed.as_str() || phase::is_protected(view.instance) {
        return decision(Action::Wait, why, message, view.limits.tick);
    }
    // A failed creation has nothing for a person to look at that the event does not tell.
    let keep = if why == Reason::CreateFailed { Duration::ZERO } else { view.limits.cleanup };
    let judged_for = view.memory.step_known_for;
    if judged_for >= keep {
        decision(Action::Delete, why, message, view.limits.tick)
    } else {
        decision(Action::Wait, why, message, (keep - judged_for).min(view.limits.tick))
    }
}

fn judge(judgement: Judgement, reason: Reason, message: impl Into<String>) -> Decision {
    decision(Action::Record(Change::Judge(judgement)), reason, message, Duration::ZERO)
}

// ---- provisioning ---------------------------------------------------------------------------------------------

fn provisioning(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    if view.memory.phase_for >= view.limits.stuck {
        let text = format!("not ready within {} s (stuckTimeoutSeconds)", view.limits.stuck.as_secs());
        return judge(Judgement::Dead, Reason::Stuck, text);
    }
    if let Some(trouble) = &view.evidence.trouble {
        return step_trouble(view, trouble);
    }
    let Some(operation) = status.and_then(|s| s.operation.as_ref()) else {
        return match status.and_then(|s| s.provider.as_ref()).and_then(|p| p.id.as_ref()) {
            // Back from a claim that was refused: proven again before it is in stock.
            Some(_) => verify(view, true),
            None if view.plan.is_empty() => decision(Action::Wait, Reason::Pending, "waiting for its template", Duration::from_secs(5)),
            None => decision(Action::Record(Change::Begin), Reason::Creating, "creation begins", Duration::ZERO),
        };
    };
    match current(view.plan, operation) {
        Some((index, spec, recorded)) => step(view, index, spec, recorded),
        None => judge(Judgement::Dead, Reason::CreateFailed, "the recorded operation does not fit the plan of its template"),
    }
}

/// The step under way: its index, its plan, its record.
pub fn current<'a>(plan: &'a [StepSpec], operation: &'a OperationStatus) -> Option<(usize, &'a StepSpec, &'a StepStatus)> {
    let index = usize::try_from(operation.index).ok()?;
    let (spec, recorded) = (plan.get(index)?, operation.steps.get(index)?);
    (recorded.name == spec.step.name()).then_some((index, spec, recorded))
}

fn step(view: &View<'_>, index: usize, spec: &StepSpec, recorded: &StepStatus) -> Decision {
    let name = recorded.name.clone();
    match spec.step {
        Step::Ready | Step::Clean => verify(view, spec.step == Step::Clean),
        Step::Service(_) => judge(Judgement::Dead, Reason::NotSupported, format!("step {name} is not available in this version")),
        Step::Provider(_) if recorded.state == "Running" => running(view, spec, &name),
        Step::Provider(_) => intended(view, index, spec, recorded),
    }
}

fn intended(view: &View<'_>, index: usize, spec: &StepSpec, recorded: &StepStatus) -> Decision {
    let name = &recorded.name;
    if let Some(outcome) = &view.evidence.outcome {
        return match outcome {
            Outcome::Done(facts) => done(name, facts.clone()),
            Outcome::Running { facts, .. } => {
                decision(Action::Record(Change::Running(facts.clone())), Reason::Creating, format!("{name} is under way"), Duration::ZERO)
            }
            Outcome::Failed { reason, message, retry } => failed(spec, recorded, reason, message, *retry),
        };
    }
    if view.memory.permit || spec.repeat == Repeat::Safe {
        return decision(Action::Perform(index), Reason::Creating, format!("{name} is being done"), Duration::ZERO);
    }
    match &view.evidence.look {
        None => decision(Action::Look(index), Reason::OutcomeUnknown, format!("{name} may have been done: looking"), Duration::ZERO),
        Some(Seen::Done(facts)) => done(name, facts.clone()),
        Some(Seen::Running) => {
            decision(Action::Record(Change::Running(Facts::new())), Reason::Creating, format!("{name} is under way"), Duration::ZERO)
        }
        Some(Seen::Failed { reason, message, retry }) => failed(spec, recorded, reason, message, *retry),
        Some(Seen::Unknown) => {
            decision(Action::Wait, Reason::OutcomeUnknown, format!("{name}: the provider cannot tell yet"), TWICE_APART)
        }
        Some(Seen::Absent) => absent(view, index, name),
    }
}

/// Not there in one look: done again only when a second look, past the list's lag, says the same.
fn absent(view: &View<'_>, index: usize, name: &str) -> Decision {
    let missing = view.memory.missing_for.unwrap_or_default();
    if missing >= TWICE_APART && view.memory.step_known_for >= view.limits.list_lag {
        return decision(Action::Perform(index), Reason::Creating, format!("{name} did not happen: doing it again"), Duration::ZERO);
    }
    let wait = TWICE_APART.saturating_sub(missing).max(view.limits.list_lag.saturating_sub(view.memory.step_known_for));
    decision(
        Action::Wait,
        Reason::OutcomeUnknown,
        format!("{name}: not found yet; looking again before it is repeated"),
        wait.clamp(Duration::from_millis(100), TWICE_APART),
    )
}

fn running(view: &View<'_>, spec: &StepSpec, name: &str) -> Decision {
    match &view.progress {
        Some(Seen::Done(facts)) => done(name, facts.clone()),
        Some(Seen::Failed { message, .. }) => judge(Judgement::Dead, Reason::CreateFailed, format!("{name}: {message}")),
        _ if view.memory.step_known_for >= spec.deadline => {
            judge(Judgement::Dead, Reason::CreateFailed, format!("{name}: not finished within {} s", spec.deadline.as_secs()))
        }
        _ => decision(Action::Wait, Reason::Creating, format!("{name} is under way at the provider"), progress_poll(view)),
    }
}

/// How often waiting for the provider is looked at: the listing is shared, so this costs per project, not per instance.
pub fn progress_poll(view: &View<'_>) -> Duration {
    view.limits.tick.min(Duration::from_secs(3))
}

fn done(name: &str, facts: Facts) -> Decision {
    decision(Action::Record(Change::Done(facts)), Reason::Creating, format!("{name} is done"), Duration::ZERO)
}

fn failed(spec: &StepSpec, recorded: &StepStatus, reason: &str, message: &str, retry: bool) -> Decision {
    let name = &recorded.name;
    if retry && recorded.attempt < i32::from(spec.attempts) {
        return decision(Action::Record(Change::Again), Reason::Creating, format!("{name} failed ({message}): once more"), Duration::ZERO);
    }
    judge(Judgement::Dead, Reason::CreateFailed, format!("{name}: {reason}: {message}"))
}

fn step_trouble(view: &View<'_>, trouble: &Trouble) -> Decision {
    if trouble.class == Class::Rejected {
        return judge(Judgement::Dead, Reason::CreateFailed, trouble.message.clone());
    }
    troubled(view, trouble, Reason::Creating)
}

/// A call failed: wait as its class says.
fn troubled(view: &View<'_>, trouble: &Trouble, _during: Reason) -> Decision {
    decision(Action::Wait, trouble.reason, trouble.message.clone(), backoff::after(trouble, view.memory.failures))
}

// ---- ready and clean ------------------------------------------------------------------------------------------

/// Ready, and with `clean` also unbound and clean: judged by one probe.
fn verify(view: &View<'_>, clean: bool) -> Decision {
    if let Some(dead) = dead_at_the_provider(view) {
        return dead;
    }
    let waiting = |why: String| decision(Action::Wait, Reason::Booting, why, READY_POLL);
    match &view.evidence.probe {
        None if view.memory.probed.is_some_and(|ago| ago < READY_POLL) => waiting("waiting for the agent to become ready".to_owned()),
        None => decision(Action::Probe, Reason::Booting, "waiting for the agent to become ready", READY_POLL),
        Some(Probe::WrongRuntime(text)) => judge(Judgement::Tainted, Reason::WrongRuntime, text.clone()),
        Some(Probe::Unauthorized) => decision(Action::Wait, Reason::BadToken, "the agent refuses its token", READY_POLL * 5),
        Some(Probe::Unreachable(text) | Probe::NotReady(text)) => waiting(text.clone()),
        Some(Probe::Answered { status, .. }) if !status.ready => waiting("the agent answers, but is not ready".to_owned()),
        Some(Probe::Answered { .. }) if !clean => done("ready", Facts::new()),
        Some(Probe::Answered { status, .. }) => cleanliness(view, status),
    }
}

fn cleanliness(view: &View<'_>, status: &AgentStatus) -> Decision {
    if status.conversation.is_some() {
        return judge(Judgement::Tainted, Reason::UnknownConversation, "the agent has a conversation that nobody claimed");
    }
    match status.clean {
        _ if status.pending => judge(Judgement::Tainted, Reason::NotClean, "a join that nobody asked for is pending"),
        Some(false) => judge(Judgement::Tainted, Reason::NotClean, "the agent says that it is not clean"),
        Some(true) => proven(),
        None if view.limits.allow_unknown_clean || never_called(view) => proven(),
        None => judge(Judgement::Tainted, Reason::NotClean, "the agent cannot tell whether it is clean (runtime.allowUnknownClean is false)"),
    }
}

fn proven() -> Decision {
    decision(Action::Record(Change::Proven), Reason::Idle, "ready, unbound and clean", Duration::ZERO)
}

/// A gateway cannot be asked whether it is clean: it is, if we made the process and no claim call was ever sent.
/// In the first turn none was: a claim that is cleared raises the turn.
fn never_called(view: &View<'_>) -> bool {
    let gateway = view.instance.status.as_ref().and_then(|s| s.runtime.as_ref()).and_then(|r| r.dialect.as_deref()) == Some("Gateway");
    let probed_gateway = matches!(&view.evidence.probe, Some(Probe::Answered { dialect: crate::domain::agent::Dialect::Gateway, .. }));
    (gateway || probed_gateway) && view.instance.spec.turn == 1 && !view.instance.spec.restored
}

/// What the provider says is final for an agent that nobody uses.
fn dead_at_the_provider(view: &View<'_>) -> Option<Decision> {
    match &view.listed {
        Listed::Present(resource) => {
            let (reason, text) = match resource.liveness {
                Liveness::Failed => (Reason::DeploymentFailed, "the provider says that the start failed"),
                Liveness::Crashed => (Reason::DeploymentCrashed, "the provider says that it crashed"),
                Liveness::Removed => (Reason::DeploymentRemoved, "the provider removed the deployment"),
                Liveness::Stopped => (Reason::Stopped, "the provider says that it stopped"),
                Liveness::Created | Liveness::Starting | Liveness::Running | Liveness::Sleeping => return None,
            };
            Some(judge(Judgement::Dead, reason, text))
        }
        Listed::Absent => Some(missing(view)),
        Listed::Unknown => None,
    }
}

/// A listing does not have it: believed when a direct read, far enough apart, says so too.
fn missing(view: &View<'_>) -> Decision {
    let in_use = view.instance.spec.claim.is_some();
    match &view.evidence.presence {
        Some(Presence::Gone) if in_use => judge(Judgement::Crashed, Reason::Gone, "the provider no longer has it: a listing and a direct read say so"),
        Some(Presence::Gone) => decision(Action::Delete, Reason::Gone, "the provider no longer has it: a listing and a direct read say so", view.limits.tick),
        Some(Presence::Present(_) | Presence::Unknown) => decision(Action::Wait, Reason::ProviderUnavailable, "missing in a listing, but not gone", view.limits.tick),
        None if view.evidence.trouble.is_some() => decision(Action::Wait, Reason::ProviderUnavailable, "missing in a listing; the provider does not answer", TWICE_APART),
        None => {
            let missing = view.memory.missing_for.unwrap_or_default();
            if missing >= TWICE_APART {
                decision(Action::Observe, Reason::Gone, "missing in a listing: reading it directly", Duration::ZERO)
            } else {
                decision(Action::Wait, Reason::Gone, "missing in a listing: will be read directly", (TWICE_APART - missing).max(Duration::from_millis(50)))
            }
        }
    }
}

// ---- in stock and in use --------------------------------------------------------------------------------------

fn idle(view: &View<'_>) -> Decision {
    if let Some(dead) = dead_at_the_provider(view) {
        return dead;
    }
    if view.phase() == Phase::Sleeping {
        return decision(Action::Wait, Reason::Sleeping, "the provider put it to sleep: out of stock", view.limits.tick);
    }
    let stays = |message: &str| decision(Action::Wait, Reason::Idle, message, probe_in(view));
    match &view.evidence.probe {
        None if probe_is_due(view) => decision(Action::Probe, Reason::Idle, "ready, unbound and clean", view.limits.tick),
        Some(Probe::WrongRuntime(text)) => judge(Judgement::Tainted, Reason::WrongRuntime, text.clone()),
        Some(Probe::Answered { status, .. }) if status.conversation.is_some() => {
            judge(Judgement::Tainted, Reason::UnknownConversation, "the agent has a conversation that nobody claimed")
        }
        Some(Probe::Answered { status, .. }) if status.clean == Some(false) || status.pending => {
            judge(Judgement::Tainted, Reason::NotClean, "the agent is no longer clean")
        }
        // By itself an agent that does not answer is never dead: the Reachable condition says it.
        _ => stays("ready, unbound and clean"),
    }
}

fn probe_is_due(view: &View<'_>) -> bool {
    running_at_the_provider(view) && view.memory.probed.is_none_or(|ago| ago + Duration::from_millis(200) >= view.limits.tick)
}

fn probe_in(view: &View<'_>) -> Duration {
    let ago = view.memory.probed.unwrap_or_default();
    view.limits.tick.saturating_sub(ago).clamp(Duration::from_millis(200), view.limits.tick)
}

/// A sleeper is never probed: that would wake it.
fn running_at_the_provider(view: &View<'_>) -> bool {
    match &view.listed {
        Listed::Present(r) => r.liveness == Liveness::Running,
        Listed::Unknown => view.instance.status.as_ref().and_then(|s| s.provider.as_ref()).and_then(|p| p.state.as_deref()) == Some("Running"),
        Listed::Absent => false,
    }
}

fn claiming(view: &View<'_>) -> Decision {
    let age = view.memory.claim_known_for;
    // The claim's own process has the whole deadline; a little more, so that its last write is over.
    let limit = view.limits.claim_deadline + TWICE_APART;
    if age >= limit {
        return decision(Action::Delete, Reason::ClaimInterrupted, "nobody recorded what came of the claim within its deadline: the agent is replaced", view.limits.tick);
    }
    let next = if age < CLAIMING_SHOWN_AFTER { CLAIMING_SHOWN_AFTER - age } else { limit - age };
    decision(Action::Wait, Reason::Claiming, "a claim is in flight", next.max(Duration::from_millis(50)))
}

fn claimed(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    if status.and_then(|s| s.turn).is_none() {
        return decision(Action::Wait, Reason::StatusLost, "claimed, but what was observed is lost; left alone", view.limits.tick);
    }
    match &view.listed {
        Listed::Absent => return missing(view),
        Listed::Present(resource) => match resource.liveness {
            Liveness::Failed => return judge(Judgement::Crashed, Reason::DeploymentFailed, "the provider says that the deployment failed"),
            Liveness::Crashed => return judge(Judgement::Crashed, Reason::DeploymentCrashed, "the provider says that it crashed"),
            Liveness::Removed => return judge(Judgement::Crashed, Reason::DeploymentRemoved, "the provider removed the deployment"),
            Liveness::Stopped => return stopped(view),
            Liveness::Sleeping => return decision(Action::Wait, Reason::Sleeping, "the provider put it to sleep", view.limits.tick),
            Liveness::Created | Liveness::Starting | Liveness::Running => {}
        },
        Listed::Unknown => {}
    }
    let recorded = status.and_then(|s| s.claim.as_ref());
    if recorded.is_some_and(|c| c.outcome == phase::OUTCOME_PENDING) {
        return decision(Action::Wait, Reason::PendingAcceptance, "joined; a person has to accept", view.limits.tick);
    }
    let conversation = recorded.and_then(|c| c.conversation_id.clone());
    match &view.evidence.probe {
        None if probe_is_due(view) => decision(Action::Probe, Reason::Claimed, "in use", view.limits.tick),
        Some(Probe::Answered { status, .. }) if status.conversation != conversation => unbound(view, status.conversation.is_some()),
        _ => decision(Action::Wait, Reason::Claimed, "in use", probe_in(view)),
    }
}

fn stopped(view: &View<'_>) -> Decision {
    let text = "the provider says that it stopped: a listing and a direct read say so";
    match &view.evidence.presence {
        Some(Presence::Present(r)) if r.liveness == Liveness::Stopped => judge(Judgement::Crashed, Reason::Stopped, text),
        Some(_) => decision(Action::Wait, Reason::Claimed, "in use", view.limits.tick),
        None if view.evidence.trouble.is_some() => decision(Action::Wait, Reason::ProviderUnavailable, "stopped in a listing; the provider does not answer", TWICE_APART),
        None => {
            let ago = view.memory.stopped_for.unwrap_or_default();
            if ago >= TWICE_APART {
                decision(Action::Observe, Reason::Stopped, "stopped in a listing: reading it directly", Duration::ZERO)
            } else {
                decision(Action::Wait, Reason::Claimed, "stopped in a listing: will be read directly", (TWICE_APART - ago).max(Duration::from_millis(50)))
            }
        }
    }
}

/// Not the conversation we recorded: believed in the second reading.
fn unbound(view: &View<'_>, another: bool) -> Decision {
    let ago = view.memory.unbound_for.unwrap_or_default();
    if ago < UNBOUND_APART {
        return decision(Action::Wait, Reason::Claimed, "the agent does not show its conversation: looking again", UNBOUND_APART - ago);
    }
    if another {
        judge(Judgement::Tainted, Reason::UnknownConversation, "the agent is bound to another conversation than the one recorded")
    } else {
        judge(Judgement::Crashed, Reason::ConversationLost, "the agent lost its conversation")
    }
}
