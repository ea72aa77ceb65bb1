//! An instance that is being built: recorded steps, each sent once.

use super::*;

pub(super) fn provisioning(view: &View<'_>) -> Decision {
    let decision = building(view);
    match decision.action {
        Action::Record(Change::Judge(Judgement::Dead | Judgement::Tainted))
            if may_be_in_use(view) =>
        {
            Decision {
                action: Action::Record(Change::Judge(Judgement::Crashed)),
                message: format!("found at the provider: {}; kept", decision.message),
                ..decision
            }
        }
        _ => decision,
    }
}

/// An agent that was there before this object may have been claimed after the backup. Unless it answers that it has
/// no conversation, it is somebody's: kept for a person, like a crashed one.
fn may_be_in_use(view: &View<'_>) -> bool {
    let status = view.instance.status.as_ref();
    let found = status
        .and_then(|s| s.provider.as_ref())
        .is_some_and(|p| p.id.is_some());
    let unbound = matches!(&view.evidence.probe, Some(Probe::Answered { status, .. })
        if status.conversation.is_none() && !status.pending);
    is_adopting(status) && found && !unbound
}

fn building(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    if view.memory.phase_for >= view.limits.stuck {
        let text = format!(
            "not ready within {} s (stuckTimeoutSeconds)",
            view.limits.stuck.as_secs()
        );
        return judge(Judgement::Dead, Reason::Stuck, text);
    }
    if let Some(trouble) = &view.evidence.trouble {
        return step_trouble(view, trouble);
    }
    let Some(operation) = status.and_then(|s| s.operation.as_ref()) else {
        return match status
            .and_then(|s| s.provider.as_ref())
            .and_then(|p| p.id.as_ref())
        {
            // Back from a claim that was refused: proven again before it is in stock.
            Some(_) => verify(view, Some(proven())),
            None if view.plan.is_empty() => no_plan(),
            None => decision(
                Action::Record(Change::Begin),
                Reason::Creating,
                "creation begins",
                Duration::ZERO,
            ),
        };
    };
    // Restored, and its user's claim is cleared: proven for its new turn.
    if is_recycling(status) {
        return verify(view, Some(proven()));
    }
    if view.plan.is_empty() {
        return no_plan();
    }
    if is_finished(view.plan, operation) {
        return verify(view, Some(proven()));
    }
    match current(view.plan, operation) {
        Some((index, spec, recorded)) => step(view, index, spec, recorded),
        None => judge(
            Judgement::Dead,
            Reason::CreateFailed,
            "the recorded operation does not fit the plan of its template",
        ),
    }
}

/// The template or the provider's credential cannot be read now: no fault of the instance.
pub(super) fn no_plan() -> Decision {
    decision(
        Action::Wait,
        Reason::Pending,
        "waiting for its template and its provider",
        Duration::from_secs(5),
    )
}

/// The step under way: its index, its plan, its record.
pub fn current<'a>(
    plan: &'a [StepSpec],
    operation: &'a OperationStatus,
) -> Option<(usize, &'a StepSpec, &'a StepStatus)> {
    let index = usize::try_from(operation.index).ok()?;
    let (spec, recorded) = (plan.get(index)?, operation.steps.get(index)?);
    (recorded.name == spec.step.name()).then_some((index, spec, recorded))
}

/// Every step is done, and the last one was not the proof that the agent is ready and clean.
fn is_finished(plan: &[StepSpec], operation: &OperationStatus) -> bool {
    usize::try_from(operation.index) == Ok(plan.len())
        && operation.steps.len() == plan.len()
        && plan
            .iter()
            .zip(&operation.steps)
            .all(|(spec, recorded)| recorded.name == spec.step.name())
}

pub(super) fn step(
    view: &View<'_>,
    index: usize,
    spec: &StepSpec,
    recorded: &StepStatus,
) -> Decision {
    let name = recorded.name.clone();
    match spec.step {
        Step::Ready | Step::Clean if view.memory.step_known_for >= spec.deadline => judge(
            Judgement::Dead,
            Reason::Stuck,
            format!(
                "{name}: not so within {} s of the provider's start",
                spec.deadline.as_secs()
            ),
        ),
        Step::Ready => verify(view, None),
        Step::Clean => verify(view, Some(once_clean(view, index))),
        Step::Service(_) => judge(
            Judgement::Dead,
            Reason::NotSupported,
            format!("step {name} is not available in this version"),
        ),
        Step::Provider(_) if recorded.state == "Running" => running(view, index, spec, recorded),
        Step::Provider(_) => intended(view, index, spec, recorded),
    }
}

/// What follows when the agent is found clean: further steps, or the end of the operation.
fn once_clean(view: &View<'_>, index: usize) -> Decision {
    if index + 1 < view.plan.len() {
        done("clean", Facts::new())
    } else if is_recycling(view.instance.status.as_ref()) {
        recycling::restored()
    } else {
        proven()
    }
}

fn intended(view: &View<'_>, index: usize, spec: &StepSpec, recorded: &StepStatus) -> Decision {
    let name = &recorded.name;
    if let Some(outcome) = &view.evidence.outcome {
        return match outcome {
            Outcome::Done(facts) => done(name, facts.clone()),
            Outcome::Running { facts, .. } => decision(
                Action::Record(Change::Running(facts.clone())),
                Reason::Creating,
                format!("{name} is under way"),
                Duration::ZERO,
            ),
            Outcome::Failed {
                reason,
                message,
                retry,
            } => failed(spec, recorded, reason, message, *retry),
        };
    }
    // A state of a later version is looked at like one that was sent.
    let as_intended = recorded.state == "Intended";
    if as_intended && (view.memory.permit || spec.repeat == Repeat::Safe) {
        return decision(
            Action::Perform(index),
            Reason::Creating,
            format!("{name} is being done"),
            Duration::ZERO,
        );
    }
    match &view.evidence.look {
        None => decision(
            Action::Look(index),
            Reason::OutcomeUnknown,
            format!("{name} may have been done: looking"),
            Duration::ZERO,
        ),
        Some(Seen::Done(facts)) => done(name, facts.clone()),
        Some(Seen::Running) => decision(
            Action::Record(Change::Running(Facts::new())),
            Reason::Creating,
            format!("{name} is under way"),
            Duration::ZERO,
        ),
        Some(Seen::Failed {
            reason,
            message,
            retry,
        }) => failed(spec, recorded, reason, message, *retry),
        Some(Seen::Unknown) => decision(
            Action::Wait,
            Reason::OutcomeUnknown,
            format!("{name}: the provider cannot tell yet"),
            TWICE_APART,
        ),
        Some(Seen::Absent) => absent(view, name),
    }
}

/// Not there in one look: done again only when a second look, past the list's lag, says the same. The lag counts from
/// the first look, because that one is later than whatever was sent; the step's record may be much older.
fn absent(view: &View<'_>, name: &str) -> Decision {
    let absent = view.memory.absent_for.unwrap_or_default();
    let needed = TWICE_APART.max(view.limits.list_lag);
    if absent >= needed {
        // Intended anew, and sent only by whose write that was: of two who found the same one repeats it.
        return decision(
            Action::Record(Change::Again),
            Reason::Creating,
            format!("{name} did not happen: doing it again"),
            Duration::ZERO,
        );
    }
    decision(
        Action::Wait,
        Reason::OutcomeUnknown,
        format!("{name}: not found yet; looking again before it is repeated"),
        (needed - absent).clamp(SOONEST, TWICE_APART),
    )
}

fn running(view: &View<'_>, index: usize, spec: &StepSpec, recorded: &StepStatus) -> Decision {
    let name = recorded.name.as_str();
    // What no listing shows is looked at directly, where that was made to be done over and over.
    let looked = spec.repeat == Repeat::Safe && matches!(view.progress, None | Some(Seen::Unknown));
    let seen = match &view.evidence.look {
        Some(seen) if looked => Some(seen),
        _ => view.progress.as_ref(),
    };
    match seen {
        Some(Seen::Done(facts)) => done(name, facts.clone()),
        Some(Seen::Failed {
            reason,
            message,
            retry,
        }) if looked => failed(spec, recorded, reason, message, *retry),
        Some(Seen::Failed { message, .. }) => judge(
            Judgement::Dead,
            Reason::CreateFailed,
            format!("{name}: {message}"),
        ),
        _ if view.memory.step_known_for >= spec.deadline => judge(
            Judgement::Dead,
            Reason::CreateFailed,
            format!("{name}: not finished within {} s", spec.deadline.as_secs()),
        ),
        _ if looked && view.evidence.look.is_none() && view.evidence.outcome.is_none() => decision(
            Action::Look(index),
            Reason::Creating,
            format!("{name} is under way at the provider"),
            progress_poll(view),
        ),
        _ if blocked(view) => decision(
            Action::Wait,
            Reason::NeedsApproval,
            format!("{name}: the provider waits for a person's approval of the deployment"),
            progress_poll(view),
        ),
        _ => decision(
            Action::Wait,
            Reason::Creating,
            format!("{name} is under way at the provider"),
            progress_poll(view),
        ),
    }
}

fn blocked(view: &View<'_>) -> bool {
    matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Blocked)
}

/// How often waiting for the provider is looked at: the listing is shared, so this costs per project, not per instance.
pub fn progress_poll(view: &View<'_>) -> Duration {
    view.limits.tick.min(Duration::from_secs(3))
}

pub(super) fn done(name: &str, facts: Facts) -> Decision {
    decision(
        Action::Record(Change::Done(facts)),
        Reason::Creating,
        format!("{name} is done"),
        Duration::ZERO,
    )
}

fn failed(
    spec: &StepSpec,
    recorded: &StepStatus,
    reason: &str,
    message: &str,
    retry: bool,
) -> Decision {
    let name = &recorded.name;
    if retry && recorded.attempt < i32::from(spec.attempts) {
        return decision(
            Action::Record(Change::Again),
            Reason::Creating,
            format!("{name} failed ({message}): once more"),
            Duration::ZERO,
        );
    }
    judge(
        Judgement::Dead,
        Reason::CreateFailed,
        format!("{name}: {reason}: {message}"),
    )
}

fn step_trouble(view: &View<'_>, trouble: &Trouble) -> Decision {
    if trouble.class == Class::Rejected {
        return judge(
            Judgement::Dead,
            Reason::CreateFailed,
            trouble.message.clone(),
        );
    }
    troubled(view, trouble)
}

/// A call failed: wait as its class says.
pub(super) fn troubled(view: &View<'_>, trouble: &Trouble) -> Decision {
    decision(
        Action::Wait,
        trouble.reason,
        trouble.message.clone(),
        backoff::after(trouble, view.memory.failures),
    )
}
