//! An instance that is being deleted: the provider has to confirm that everything is gone.

use super::*;

pub(super) fn removal(view: &View<'_>) -> Decision {
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
            Reason::Abandoned,
            "abandoned on request: what it owns at the provider is left behind",
            view.limits.tick,
        );
    }
    if let Some(trouble) = &view.evidence.trouble {
        return refused(view, trouble);
    }
    match &view.evidence.removal {
        None => decision(
            Action::Destroy,
            Reason::Terminating,
            "being removed at the provider",
            view.limits.tick,
        ),
        Some(Presence::Gone) if !creation_is_uncertain(view) => decision(
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

/// It may have something at the provider whose id is not recorded: a creation was begun, or the object is of unknown
/// history and its status may have been lost.
fn creation_is_uncertain(view: &View<'_>) -> bool {
    let status = view.instance.status.as_ref();
    let known = status
        .and_then(|s| s.provider.as_ref())
        .is_some_and(|p| p.id.is_some());
    !known && (!view.memory.fresh || status.is_some_and(|s| s.operation.is_some()))
}

/// The call failed. What keeps every call from the provider has its own word; the rest is the removal's matter, told
/// in the provider's words. Where only a person can help, the way out stands beside it.
fn refused(view: &View<'_>, trouble: &Trouble) -> Decision {
    let waiting = troubled(view, trouble);
    let object = view.instance.metadata.name.as_deref().unwrap_or_default();
    let way_out = format!("kubectl annotate agentinstance {object} {ANNOTATION_ABANDON}=true");
    let pending = format!(
        "the provider has not confirmed the removal yet: {}",
        trouble.message
    );
    let mended = format!(
        "It goes when that is mended; if nothing is left of it at the provider, or you remove it there yourself: {way_out}"
    );
    let (reason, message) = match trouble.class {
        Class::Unauthorized if trouble.reason == Reason::CredentialsMissing => (
            trouble.reason,
            format!(
                "{}: nothing can be removed at the provider. Create the Secret again, or let it go and leave behind what \
                 it owns: {way_out}",
                trouble.message
            ),
        ),
        Class::Unauthorized => (trouble.reason, format!("{}. {mended}", waiting.message)),
        Class::Throttled => return waiting,
        Class::Rejected => (Reason::DeletionPending, format!("{pending}. {mended}")),
        Class::Transient | Class::Ambiguous | Class::Capacity | Class::Gone => {
            (Reason::DeletionPending, pending)
        }
    };
    Decision {
        reason,
        message,
        ..waiting
    }
}
