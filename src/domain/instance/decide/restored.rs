//! A claimed instance whose status is lost: restored from a backup, or adopted by the sweep. Its ids are found again
//! by name and mark. It is never replaced or deleted by us.

use super::*;
use crate::domain::sweep::ADOPTED_BY;

/// How often what could not be found is looked for again: each look is a listing of its own.
const LOST_POLL: Duration = Duration::from_secs(300);

/// Whether the sweep made it out of what it found at the provider.
pub fn is_adopted(instance: &AgentInstance) -> bool {
    let claim = instance.spec.claim.as_ref();
    instance.spec.restored && claim.is_some_and(|c| c.holder == ADOPTED_BY)
}

pub(super) fn status_lost(view: &View<'_>) -> Decision {
    let status = view.instance.status.as_ref();
    let known = status
        .and_then(|s| s.provider.as_ref())
        .is_some_and(|p| p.id.is_some());
    if known {
        return found(view);
    }
    if let Some(trouble) = &view.evidence.trouble {
        return troubled(view, trouble);
    }
    match &view.evidence.found {
        None => decision(
            Action::Find,
            Reason::StatusLost,
            "claimed, but what was observed is lost: looking for it by name and mark",
            Duration::ZERO,
        ),
        Some(Some(facts)) => decision(
            Action::Record(Change::Found(facts.clone())),
            Reason::StatusLost,
            "found by name and mark",
            Duration::ZERO,
        ),
        Some(None) if is_adopted(view.instance) => judge(
            Judgement::Crashed,
            Reason::Adopted,
            "adopted by the sweep, and no longer found at the provider: look, then delete this AgentInstance",
        ),
        Some(None) => decision(
            Action::Wait,
            Reason::StatusLost,
            "claimed, but what was observed is lost, and nothing at the provider has its name and mark; left alone",
            LOST_POLL,
        ),
    }
}

fn found(view: &View<'_>) -> Decision {
    if is_adopted(view.instance) {
        let object = view.instance.metadata.name.as_deref().unwrap_or_default();
        return judge(
            Judgement::Crashed,
            Reason::Adopted,
            format!(
                "found at the provider with our mark and without an AgentInstance, and perhaps in use: kept. Look at it \
                 at its address; when nobody needs it, `kubectl delete agentinstance {object}` removes it"
            ),
        );
    }
    decision(
        Action::Wait,
        Reason::StatusLost,
        "claimed, but what was observed is lost; left alone",
        view.limits.tick,
    )
}
