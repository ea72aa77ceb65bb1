//! An instance that is being deleted: the provider has to confirm that everything is gone.

use super::*;

pub(super) fn removal(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    if view
        .instance
        .metadata
        .finalizers
        .as_ref()
        .is_none_or(|f| !f.iter().any(|f| f == crate::api::INSTANCE_FINALIZER))
    {
        return decision(Action::Wait, Reason::Terminating, "", view.limits.tick);
    }
    let abandoned = view
        .instance
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(ANNOTATION_ABANDON))
        .is_some_and(|v| v == "true");
    if abandoned {
        return decision(
            Action::RemoveFinalizer,
            Reason::Terminating,
            "abandoned on request: what it owns at the provider is left behind",
            view.limits.tick,
        );
    }
    if let Some(trouble) = &view.evidence.trouble {
        return held(view, trouble);
    }
    match &view.evidence.removal {
        None => decision(
            Action::Destroy,
            Reason::Terminating,
            "being removed at the provider",
            view.limits.tick,
        ),
        Some(Presence::Gone) if !creation_is_uncertain(status) => decision(
            Action::RemoveFinalizer,
            Reason::Terminating,
            "gone at the provider",
            view.limits.tick,
        ),
        Some(Presence::Gone) => gone_by_name(view),
        Some(Presence::Present(_) | Presence::Unknown) => decision(
            Action::Wait,
            Reason::DeletionPending,
            "the provider has not confirmed the removal yet",
            backoff::exponential(
                view.memory.failures,
                Duration::from_secs(2),
                Duration::from_secs(60),
            ),
        ),
    }
}

/// A call failed. Where only a person can help, the way out stands beside the reason.
fn held(view: &View<'_>, trouble: &Trouble) -> Decision {
    let waits = troubled(view, trouble);
    if !matches!(trouble.class, Class::Unauthorized | Class::Rejected) {
        return waits;
    }
    let object = view.instance.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "{}. It goes when that is mended; if nothing is left of it at the provider, or you remove it there yourself: \
         kubectl annotate agentinstance {object} {ANNOTATION_ABANDON}=true",
        waits.message
    );
    Decision { message, ..waits }
}

/// A create was sent and its id never learnt: the resource may still turn up under its name. Absence counts only
/// in two looks that are farther apart than the list's lag.
fn gone_by_name(view: &View<'_>) -> Decision {
    let missing = view.memory.missing_for.unwrap_or_default();
    let needed = TWICE_APART.max(view.limits.list_lag);
    if missing >= needed {
        return decision(
            Action::RemoveFinalizer,
            Reason::Terminating,
            "never came to exist at the provider",
            view.limits.tick,
        );
    }
    decision(
        Action::Wait,
        Reason::DeletionPending,
        "a creation's outcome is unknown: looking for it once more before letting go",
        (needed - missing).clamp(SOONEST, TWICE_APART),
    )
}

fn creation_is_uncertain(status: Option<&AgentInstanceStatus>) -> bool {
    let known = status
        .and_then(|s| s.provider.as_ref())
        .is_some_and(|p| p.id.is_some());
    !known && status.is_some_and(|s| s.operation.is_some())
}
