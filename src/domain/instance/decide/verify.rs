//! Ready, unbound and clean: proven by a probe; and what the provider says that ends it.

use super::*;

/// Ready, and where it is to be `clean` also unbound and clean: judged by one probe, and by a look inside where the
/// provider can. `clean` is what is decided then.
pub(super) fn verify(view: &View<'_>, clean: Option<Decision>) -> Decision {
    if let Some(dead) = dead_at_the_provider(view) {
        return dead;
    }
    let poll = match view.limits.heartbeat {
        Some(_) => READY_POLL_BILLED,
        None => READY_POLL,
    };
    let waiting = |why: String| decision(Action::Wait, Reason::Booting, why, poll);
    match &view.evidence.probe {
        None if view.memory.probed.is_some_and(|ago| ago < poll) => {
            waiting("waiting for the agent to become ready".to_owned())
        }
        None => decision(
            Action::Probe,
            Reason::Booting,
            "waiting for the agent to become ready",
            READY_POLL,
        ),
        Some(Probe::WrongRuntime(text)) => {
            judge(Judgement::Tainted, Reason::WrongRuntime, text.clone())
        }
        Some(Probe::Unauthorized) => decision(
            Action::Wait,
            Reason::BadToken,
            "the agent refuses its token",
            READY_POLL * 5,
        ),
        Some(Probe::Unreachable(text) | Probe::NotReady(text)) => waiting(text.clone()),
        Some(Probe::Answered { status, .. }) if !status.ready => {
            waiting("the agent answers, but is not ready".to_owned())
        }
        Some(Probe::Answered { status, .. }) => match clean {
            None => done("ready", Facts::new()),
            Some(clean) => cleanliness(view, status, clean),
        },
    }
}

fn cleanliness(view: &View<'_>, status: &AgentStatus, clean: Decision) -> Decision {
    if status.conversation.is_some() {
        return judge(
            Judgement::Tainted,
            Reason::UnknownConversation,
            "the agent has a conversation that nobody claimed",
        );
    }
    match status.clean {
        _ if status.pending => judge(
            Judgement::Tainted,
            Reason::NotClean,
            "a join that nobody asked for is pending",
        ),
        Some(false) => judge(
            Judgement::Tainted,
            Reason::NotClean,
            "the agent says that it is not clean",
        ),
        _ if view.limits.recycles => inside(view, clean),
        Some(true) => clean,
        None if view.limits.allow_unknown_clean || never_called(view) => clean,
        None => judge(
            Judgement::Tainted,
            Reason::NotClean,
            "the agent cannot tell whether it is clean (runtime.allowUnknownClean is false)",
        ),
    }
}

/// What its provider finds in the machine: a file says more than the agent, and a gateway cannot tell at all.
fn inside(view: &View<'_>, clean: Decision) -> Decision {
    let being_made = view
        .instance
        .status
        .as_ref()
        .is_some_and(|s| s.operation.is_some());
    match &view.evidence.inside {
        None => decision(
            Action::LookInside,
            Reason::Booting,
            "ready and unbound: looking whether anything of a user is left in it",
            Duration::ZERO,
        ),
        Some(Inside::Clean) => clean,
        // Never put into a checkpoint, and nothing to keep for a look that the message does not tell.
        Some(Inside::Dirty(text)) if being_made => judge(
            Judgement::Dead,
            Reason::CreateFailed,
            format!("not clean: {text}"),
        ),
        Some(Inside::Dirty(text)) => judge(Judgement::Tainted, Reason::NotClean, text.clone()),
    }
}

pub(super) fn proven() -> Decision {
    decision(
        Action::Record(Change::Proven),
        Reason::Idle,
        "ready, unbound and clean",
        Duration::ZERO,
    )
}

/// A gateway cannot be asked whether it is clean: it is, if we made the process and no claim call was ever sent.
/// In the first turn none was: a claim that is cleared raises the turn.
fn never_called(view: &View<'_>) -> bool {
    let gateway = view
        .instance
        .status
        .as_ref()
        .and_then(|s| s.runtime.as_ref())
        .and_then(|r| r.dialect.as_deref())
        == Some("Gateway");
    let probed_gateway = matches!(
        &view.evidence.probe,
        Some(Probe::Answered {
            dialect: crate::domain::agent::Dialect::Gateway,
            ..
        })
    );
    (gateway || probed_gateway)
        && view.instance.spec.turn == 1
        && !view.instance.spec.restored
        && !is_adopting(view.instance.status.as_ref())
}

/// What the provider says is final for an agent that nobody uses.
pub(super) fn dead_at_the_provider(view: &View<'_>) -> Option<Decision> {
    match &view.listed {
        _ if stock::lost_its_deployment(view) => Some(stock::ended(view, Judgement::Dead)),
        Listed::Present(resource) => {
            let (reason, text) = match resource.liveness {
                Liveness::Failed => (
                    Reason::DeploymentFailed,
                    "the provider says that the start failed",
                ),
                Liveness::Crashed => (
                    Reason::DeploymentCrashed,
                    "the provider says that it crashed",
                ),
                Liveness::Removed => (
                    Reason::DeploymentRemoved,
                    "the provider removed the deployment",
                ),
                Liveness::Stopped => (Reason::Stopped, "the provider says that it stopped"),
                Liveness::Created
                | Liveness::Starting
                | Liveness::Blocked
                | Liveness::Running
                | Liveness::Warm
                | Liveness::Cold
                | Liveness::Sleeping => return None,
            };
            Some(judge(Judgement::Dead, reason, text))
        }
        Listed::Absent => Some(missing(view)),
        Listed::Unknown => None,
    }
}

/// A listing does not have it: believed when a direct read, far enough apart, says so too.
pub(super) fn missing(view: &View<'_>) -> Decision {
    let in_use = view.instance.spec.claim.is_some();
    let missing = view.memory.missing_for.unwrap_or_default();
    let text = "the provider no longer has it: a listing and a direct read say so";
    match &view.evidence.presence {
        Some(Presence::Gone) if missing < TWICE_APART => reading_directly(missing),
        Some(Presence::Gone) if in_use => judge(Judgement::Crashed, Reason::Gone, text),
        Some(Presence::Gone) if phase::is_protected(view.instance) => {
            judge(Judgement::Dead, Reason::Gone, text)
        }
        Some(Presence::Gone) => decision(Action::Delete, Reason::Gone, text, view.limits.tick),
        Some(Presence::Present(_) | Presence::Unknown) => decision(
            Action::Wait,
            Reason::ProviderUnavailable,
            "missing in a listing, but not gone",
            view.limits.tick,
        ),
        None if view.evidence.trouble.is_some() => decision(
            Action::Wait,
            Reason::ProviderUnavailable,
            "missing in a listing; the provider does not answer",
            TWICE_APART,
        ),
        None if missing < TWICE_APART => reading_directly(missing),
        None => decision(
            Action::Observe,
            Reason::Gone,
            "missing in a listing: reading it directly",
            Duration::ZERO,
        ),
    }
}

/// The direct read comes when the listing's word is old enough.
fn reading_directly(missing: Duration) -> Decision {
    decision(
        Action::Wait,
        Reason::Gone,
        "missing in a listing: will be read directly",
        TWICE_APART - missing,
    )
}
