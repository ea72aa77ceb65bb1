//! A claimed instance whose status is lost: restored from a backup, or adopted by the sweep. Its ids are found again
//! by name and mark. It is never replaced or deleted by us.

use super::*;
use crate::domain::sweep::ADOPTED_BY;

/// How often what could not be found is looked for again: each time costs a listing of its own.
const SEARCH_AGAIN: Duration = Duration::from_secs(60);

/// Whether the sweep made it out of what it found at the provider.
pub fn is_adopted(instance: &AgentInstance) -> bool {
    let claim = instance.spec.claim.as_ref();
    instance.spec.restored && claim.is_some_and(|c| c.holder == ADOPTED_BY)
}

/// Nothing observed is left: its ids are found again by name and owner mark. `None`: they are found, and it is watched
/// like any other. Whatever is found or not, it is somebody's agent: never called, never deleted, never replaced.
pub(super) fn status_lost(view: &View<'_>) -> Option<Decision> {
    let status = view.instance.status.as_ref();
    let known = status
        .and_then(|s| s.provider.as_ref())
        .is_some_and(|p| p.id.is_some());
    if known {
        return is_adopted(view.instance).then(|| adopted(view));
    }
    let left_alone = |message: String, recheck| {
        let message = format!("claimed, but what was observed is lost, and {message}");
        decision(Action::Wait, Reason::StatusLost, message, recheck)
    };
    if let Some(trouble) = &view.evidence.trouble {
        let later = backoff::after(trouble, view.memory.failures);
        let message = format!("it cannot be looked for: {}", trouble.message);
        return Some(left_alone(message, later));
    }
    Some(match &view.evidence.presence {
        None => decision(
            Action::Observe,
            Reason::StatusLost,
            "claimed, but what was observed is lost: looking for it by name and owner mark",
            Duration::ZERO,
        ),
        Some(Presence::Present(resource)) => decision(
            Action::Record(Change::Found(resource.facts.clone())),
            Reason::StatusLost,
            "claimed, and found again by name and owner mark",
            Duration::ZERO,
        ),
        Some(Presence::Gone | Presence::Unknown) if is_adopted(view.instance) => judge(
            Judgement::Crashed,
            Reason::Adopted,
            "adopted by the sweep, and no longer found at the provider: look, then delete this AgentInstance",
        ),
        Some(Presence::Gone | Presence::Unknown) => left_alone(
            "the provider shows nothing with its name and owner mark (is the cluster id the one it was made under?)"
                .to_owned(),
            SEARCH_AGAIN,
        ),
    })
}

fn adopted(view: &View<'_>) -> Decision {
    let object = view.instance.metadata.name.as_deref().unwrap_or_default();
    judge(
        Judgement::Crashed,
        Reason::Adopted,
        format!(
            "found at the provider with our mark and without an AgentInstance, and perhaps in use: kept. Look at it at \
             its address; when nobody needs it, `kubectl delete agentinstance {object}` removes it"
        ),
    )
}
