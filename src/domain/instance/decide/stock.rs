//! An instance in stock or in use.

use super::*;

pub(super) fn idle(view: &View<'_>) -> Decision {
    if let Some(dead) = dead_at_the_provider(view) {
        return dead;
    }
    if let Some(dead) = without_volume(view) {
        return dead;
    }
    if view.limits.heartbeat.is_none()
        && let Some(sleeper) = asleep(view)
    {
        return sleeper;
    }
    if let Some(unfit) = view.evidence.probe.as_ref().and_then(unfit) {
        return unfit;
    }
    if let Some(restart) = heartbeat::silent(view) {
        return restart;
    }
    let clean = "ready, unbound and clean";
    // It may be claimed all the same: what is newer is only nicer.
    let (reason, message) = match view.limits.drift {
        None => (Reason::Idle, clean.to_owned()),
        Some(drift) => (drift.reason(), format!("{clean}; {}", drift.words())),
    };
    match &view.evidence.probe {
        None if probe_is_due(view) => decision(Action::Probe, reason, message, view.limits.tick),
        // By itself an agent that does not answer is never dead: the Reachable condition says it.
        _ => decision(Action::Wait, reason, message, probe_in(view)),
    }
}

/// Whether a listing shows the resource of an unclaimed instance without the volume that is recorded.
pub fn lost_its_volume(instance: &AgentInstance, resource: &Resource) -> bool {
    let status = instance.status.as_ref();
    let provider = status.and_then(|s| s.provider.as_ref());
    let had = provider.is_some_and(|p| p.volume_id.is_some());
    had && instance.spec.claim.is_none() && !resource.facts.contains_key("volumeId")
}

/// An agent in stock whose volume is gone would forget its conversation with its next start, and a volume is there
/// before the first: it is replaced. Believed when a direct read, past the listing's lag, says so too. One in use is
/// left alone: a new volume would restart it.
fn without_volume(view: &View<'_>) -> Option<Decision> {
    let Listed::Present(resource) = &view.listed else {
        return None;
    };
    let ago = view.memory.stopped_for.unwrap_or_default();
    if !lost_its_volume(view.instance, resource) || ago < TWICE_APART.max(view.limits.list_lag) {
        return None;
    }
    match &view.evidence.presence {
        Some(Presence::Present(read)) if lost_its_volume(view.instance, read) => Some(judge(
            Judgement::Dead,
            Reason::VolumeMissing,
            "its volume is gone: a listing and a direct read say so",
        )),
        Some(_) => None,
        None if view.evidence.trouble.is_some() => None,
        None => Some(decision(
            Action::Observe,
            Reason::Idle,
            "without its volume in a listing: reading it directly",
            Duration::ZERO,
        )),
    }
}

/// What an answer says that ends an agent's time in stock.
pub(super) fn unfit(probe: &Probe) -> Option<Decision> {
    let tainted = |reason, text: &str| Some(judge(Judgement::Tainted, reason, text));
    match probe {
        Probe::WrongRuntime(text) => tainted(Reason::WrongRuntime, text),
        Probe::Answered { status, .. } if status.conversation.is_some() => tainted(
            Reason::UnknownConversation,
            "the agent has a conversation that nobody claimed",
        ),
        Probe::Answered { status, .. } if status.clean == Some(false) || status.pending => {
            tainted(Reason::NotClean, "the agent is no longer clean")
        }
        _ => None,
    }
}

fn probe_is_due(view: &View<'_>) -> bool {
    may_be_asked(view) && until_probe(view) <= Duration::from_millis(200)
}

/// When the next probe is due. What does not run is not probed: the next listing tells more.
fn probe_in(view: &View<'_>) -> Duration {
    if !may_be_asked(view) {
        return view.limits.tick;
    }
    until_probe(view).max(Duration::from_millis(200))
}

/// A tick, or a heartbeat, after the last probe. The first one of a process has a moment of its own for each agent within the first
/// tick: after a restart thousands would be asked at once.
fn until_probe(view: &View<'_>) -> Duration {
    let every = heartbeat::every(view);
    match view.memory.probed {
        _ if view.memory.probe_asked => Duration::ZERO,
        Some(ago) => every.saturating_sub(ago),
        None => share_of(every, &view.instance.spec.id).saturating_sub(view.memory.known_for),
    }
}

/// A part of a duration, the same for the same id and evenly spread over ids (FNV-1a).
pub(super) fn share_of(duration: Duration, id: &str) -> Duration {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    duration.mul_f64((hash % 1000) as f64 / 1000.0)
}

fn may_be_asked(view: &View<'_>) -> bool {
    heartbeat::may_be_asked(view).unwrap_or_else(|| running_at_the_provider(view))
}

/// A sleeper is never probed: that would wake it.
fn running_at_the_provider(view: &View<'_>) -> bool {
    match &view.listed {
        Listed::Present(r) => r.liveness == Liveness::Running,
        Listed::Unknown => {
            view.instance
                .status
                .as_ref()
                .and_then(|s| s.provider.as_ref())
                .and_then(|p| p.state.as_deref())
                == Some("Running")
        }
        Listed::Absent => false,
    }
}

pub(super) fn claimed(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    let lost = status.and_then(|s| s.turn).is_none();
    if lost && let Some(decision) = status_lost(view) {
        return decision;
    }
    if let Some(expired) = expired(view) {
        return expired;
    }
    let waits = phase::waits_for_acceptance(view.instance);
    match &view.listed {
        Listed::Absent => return missing(view),
        Listed::Present(resource) => match resource.liveness {
            Liveness::Failed => {
                return judge(
                    Judgement::Crashed,
                    Reason::DeploymentFailed,
                    "the provider says that the deployment failed",
                );
            }
            Liveness::Crashed => {
                return judge(
                    Judgement::Crashed,
                    Reason::DeploymentCrashed,
                    "the provider says that it crashed",
                );
            }
            Liveness::Removed => {
                return judge(
                    Judgement::Crashed,
                    Reason::DeploymentRemoved,
                    "the provider removed the deployment",
                );
            }
            Liveness::Stopped => return ended(view, Judgement::Crashed),
            Liveness::Created if lost_its_deployment(view) => {
                return ended(view, Judgement::Crashed);
            }
            Liveness::Sleeping if !waits && view.limits.heartbeat.is_none() => {
                return decision(
                    Action::Wait,
                    Reason::Sleeping,
                    "the provider put it to sleep",
                    view.limits.tick,
                );
            }
            Liveness::Created
            | Liveness::Starting
            | Liveness::Blocked
            | Liveness::Running
            | Liveness::Warm
            | Liveness::Cold
            | Liveness::Sleeping => {}
        },
        Listed::Unknown => {}
    }
    if lost {
        return decision(
            Action::Wait,
            Reason::StatusLost,
            "claimed, and found again by name and owner mark; what was observed before is lost, so it is left alone",
            view.limits.tick,
        );
    }
    if let Some(decision) = heartbeat::silent(view).or_else(|| heartbeat::deaf(view)) {
        return decision;
    }
    if waits {
        return pending(view);
    }
    let recorded = status.and_then(|s| s.claim.as_ref());
    let conversation = recorded.and_then(|c| c.conversation_id.clone());
    match &view.evidence.probe {
        None if probe_is_due(view) => {
            decision(Action::Probe, Reason::Claimed, "in use", view.limits.tick)
        }
        Some(Probe::Answered { status, .. }) if status.conversation != conversation => {
            unbound(view, status.conversation.is_some())
        }
        _ => decision(Action::Wait, Reason::Claimed, "in use", probe_in(view)),
    }
}

/// Kept for a person. If that person brings it back, and it shows the conversation that is recorded, it is in use again.
pub(super) fn crashed(view: &View<'_>, why: Reason, message: &str) -> Decision {
    let stays = |recheck| decision(Action::Wait, why, message, recheck);
    let running = matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Running);
    let claim = view.instance.spec.claim.as_ref();
    let recorded = view.instance.status.as_ref().and_then(|s| s.claim.as_ref());
    let conversation = recorded
        .filter(|c| claim.is_some_and(|claim| claim.id == c.id))
        .and_then(|c| c.conversation_id.as_ref());
    let Some(conversation) = conversation.filter(|_| running) else {
        return stays(view.limits.tick);
    };
    let still = |reason, text: &str| {
        if why == reason {
            stays(probe_in(view))
        } else {
            judge(Judgement::Crashed, reason, text)
        }
    };
    match &view.evidence.probe {
        None if probe_is_due(view) => decision(Action::Probe, why, message, view.limits.tick),
        Some(Probe::Answered { status, .. }) if status.ready => match &status.conversation {
            Some(shown) if shown == conversation => decision(
                Action::Record(Change::Revive),
                Reason::Claimed,
                "in use again: the provider runs it, and it shows its conversation",
                Duration::ZERO,
            ),
            Some(_) => still(
                Reason::UnknownConversation,
                "runs again, but with another conversation than the one recorded",
            ),
            None => still(
                Reason::ConversationLost,
                "runs again, but without its conversation",
            ),
        },
        _ => stays(probe_in(view)),
    }
}

/// What a listing says that could be a passing state of it: stopped, or without any deployment. Believed when a direct
/// read, far enough apart, says so too.
pub(super) fn ended(view: &View<'_>, judgement: Judgement) -> Decision {
    let of = |liveness| match liveness {
        Liveness::Stopped => Some((Reason::Stopped, "stopped")),
        Liveness::Created => Some((Reason::DeploymentRemoved, "without any deployment")),
        _ => None,
    };
    let waits = |reason, text: String, recheck| decision(Action::Wait, reason, text, recheck);
    let (usual, in_phase) = match judgement {
        Judgement::Crashed => (Reason::Claimed, "in use"),
        _ => (Reason::Idle, "in stock"),
    };
    let ago = view.memory.stopped_for.unwrap_or_default();
    match &view.evidence.presence {
        Some(Presence::Present(r)) => match of(r.liveness) {
            Some((reason, word)) if ago >= TWICE_APART => judge(
                judgement,
                reason,
                format!("{word}: a listing and a direct read say so"),
            ),
            _ => waits(usual, in_phase.to_owned(), view.limits.tick),
        },
        Some(_) => waits(usual, in_phase.to_owned(), view.limits.tick),
        None if view.evidence.trouble.is_some() => waits(
            Reason::ProviderUnavailable,
            "ended in a listing; the provider does not answer".to_owned(),
            TWICE_APART,
        ),
        None if ago >= TWICE_APART => decision(
            Action::Observe,
            usual,
            "ended in a listing: reading it directly",
            Duration::ZERO,
        ),
        None => waits(
            usual,
            format!("{in_phase}; ended in a listing: will be read directly"),
            (TWICE_APART - ago).max(Duration::from_millis(50)),
        ),
    }
}

/// Without a deployment, though one of ours was up: somebody removed it.
pub(super) fn lost_its_deployment(view: &View<'_>) -> bool {
    let status = view.instance.status.as_ref();
    let provider = status.and_then(|s| s.provider.as_ref());
    let had = provider.is_some_and(|p| p.deployment_id.is_some());
    had && matches!(&view.listed, Listed::Present(r) if r.liveness == Liveness::Created)
}

/// Not the conversation we recorded: believed in the second reading.
fn unbound(view: &View<'_>, another: bool) -> Decision {
    let ago = view.memory.unbound_for.unwrap_or_default();
    if ago < UNBOUND_APART {
        return decision(
            Action::Wait,
            Reason::Claimed,
            "the agent does not show its conversation: looking again",
            UNBOUND_APART - ago,
        );
    }
    if another {
        judge(
            Judgement::Tainted,
            Reason::UnknownConversation,
            "the agent is bound to another conversation than the one recorded",
        )
    } else {
        judge(
            Judgement::Crashed,
            Reason::ConversationLost,
            "the agent lost its conversation",
        )
    }
}
