//! An instance in stock, reserved or in use.

use super::*;

pub(super) fn idle(view: &View<'_>) -> Decision {
    if let Some(dead) = dead_at_the_provider(view) {
        return dead;
    }
    if view.phase() == Phase::Sleeping {
        return decision(
            Action::Wait,
            Reason::Sleeping,
            "the provider put it to sleep: out of stock",
            view.limits.tick,
        );
    }
    let stays = |message: &str| decision(Action::Wait, Reason::Idle, message, probe_in(view));
    match &view.evidence.probe {
        None if probe_is_due(view) => decision(
            Action::Probe,
            Reason::Idle,
            "ready, unbound and clean",
            view.limits.tick,
        ),
        Some(Probe::WrongRuntime(text)) => {
            judge(Judgement::Tainted, Reason::WrongRuntime, text.clone())
        }
        Some(Probe::Answered { status, .. }) if status.conversation.is_some() => judge(
            Judgement::Tainted,
            Reason::UnknownConversation,
            "the agent has a conversation that nobody claimed",
        ),
        Some(Probe::Answered { status, .. }) if status.clean == Some(false) || status.pending => {
            judge(
                Judgement::Tainted,
                Reason::NotClean,
                "the agent is no longer clean",
            )
        }
        // By itself an agent that does not answer is never dead: the Reachable condition says it.
        _ => stays("ready, unbound and clean"),
    }
}

fn probe_is_due(view: &View<'_>) -> bool {
    running_at_the_provider(view) && until_probe(view) <= Duration::from_millis(200)
}

fn probe_in(view: &View<'_>) -> Duration {
    until_probe(view).max(Duration::from_millis(200))
}

/// A tick after the last probe. The first one of a process has a moment of its own for each agent within the first
/// tick: after a restart thousands would be asked at once.
fn until_probe(view: &View<'_>) -> Duration {
    let tick = view.limits.tick;
    match view.memory.probed {
        _ if view.memory.probe_asked => Duration::ZERO,
        Some(ago) => tick.saturating_sub(ago),
        None => share_of(tick, &view.instance.spec.id).saturating_sub(view.memory.known_for),
    }
}

/// A part of a duration, the same for the same id and evenly spread over ids (FNV-1a).
fn share_of(duration: Duration, id: &str) -> Duration {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    duration.mul_f64((hash % 1000) as f64 / 1000.0)
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

pub(super) fn claiming(view: &View<'_>) -> Decision {
    let age = view.memory.claim_known_for;
    // The claim's own process has the whole deadline; a little more, so that its last write is over.
    let limit = view.limits.claim_deadline + TWICE_APART;
    if age >= limit && phase::is_protected(view.instance) {
        return decision(
            Action::Wait,
            Reason::ClaimInterrupted,
            "nobody recorded what came of the claim within its deadline; kept, because it is protected",
            view.limits.tick,
        );
    }
    if age >= limit {
        return decision(
            Action::Delete,
            Reason::ClaimInterrupted,
            "nobody recorded what came of the claim within its deadline: the agent is replaced",
            view.limits.tick,
        );
    }
    let next = if age < CLAIMING_SHOWN_AFTER {
        CLAIMING_SHOWN_AFTER - age
    } else {
        limit - age
    };
    decision(
        Action::Wait,
        Reason::Claiming,
        "a claim is in flight",
        next.max(Duration::from_millis(50)),
    )
}

pub(super) fn claimed(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    if status.and_then(|s| s.turn).is_none() {
        return status_lost(view);
    }
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
            Liveness::Stopped => return stopped(view),
            Liveness::Sleeping => {
                return decision(
                    Action::Wait,
                    Reason::Sleeping,
                    "the provider put it to sleep",
                    view.limits.tick,
                );
            }
            Liveness::Created | Liveness::Starting | Liveness::Running => {}
        },
        Listed::Unknown => {}
    }
    let recorded = status.and_then(|s| s.claim.as_ref());
    if recorded.is_some_and(|c| c.outcome == phase::OUTCOME_PENDING) {
        return decision(
            Action::Wait,
            Reason::PendingAcceptance,
            "joined; a person has to accept",
            view.limits.tick,
        );
    }
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

fn stopped(view: &View<'_>) -> Decision {
    let text = "the provider says that it stopped: a listing and a direct read say so";
    match &view.evidence.presence {
        Some(Presence::Present(r)) if r.liveness == Liveness::Stopped => {
            judge(Judgement::Crashed, Reason::Stopped, text)
        }
        Some(_) => decision(Action::Wait, Reason::Claimed, "in use", view.limits.tick),
        None if view.evidence.trouble.is_some() => decision(
            Action::Wait,
            Reason::ProviderUnavailable,
            "stopped in a listing; the provider does not answer",
            TWICE_APART,
        ),
        None => {
            let ago = view.memory.stopped_for.unwrap_or_default();
            if ago >= TWICE_APART {
                decision(
                    Action::Observe,
                    Reason::Stopped,
                    "stopped in a listing: reading it directly",
                    Duration::ZERO,
                )
            } else {
                decision(
                    Action::Wait,
                    Reason::Claimed,
                    "stopped in a listing: will be read directly",
                    (TWICE_APART - ago).max(Duration::from_millis(50)),
                )
            }
        }
    }
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
