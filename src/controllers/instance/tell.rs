//! One event and one log line per transition.

use kube::ResourceExt;

use super::super::Ctx;
use crate::api::agent_instance::AgentInstance;
use crate::api::condition::Reason;
use crate::domain::instance::decide::{Action, Change, Decision};
use crate::domain::instance::phase::{self, Phase};

/// One event and one log line per transition.
pub(super) async fn tell(object: &AgentInstance, before: Phase, decision: &Decision, ctx: &Ctx) {
    let phase = phase::phase_of(object);
    let word = format!("{phase}/{}", decision.reason.as_str());
    let (first, changed) = ctx.memories.with(object, |m| {
        let old = m.told.replace(word.clone());
        (old.is_none(), old.as_deref() != Some(word.as_str()))
    });
    if !changed || (first && before == phase && phase != Phase::Provisioning) {
        return;
    }
    let (reason, warning, note) = match (&decision.action, phase) {
        (_, Phase::Idle) if before != Phase::Idle => (
            Reason::Idle,
            false,
            "ready, unbound and clean: may be claimed".to_owned(),
        ),
        (_, Phase::Claimed) if decision.reason == Reason::Claimed => (
            Reason::Claimed,
            false,
            format!("claimed for agent {}", agent_name(object)),
        ),
        (Action::Record(Change::Begin), _) => (
            Reason::Creating,
            false,
            format!("creating {} at the provider", object.spec.provider_name),
        ),
        (_, Phase::Crashed | Phase::Tainted | Phase::Dead) if before != phase => {
            (decision.reason, true, decision.message.clone())
        }
        (Action::Wait, _) if is_trouble(decision.reason) => (
            decision.reason,
            true,
            format!("{}; trying again", decision.message),
        ),
        _ => return,
    };
    tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, phase = phase.as_str(), reason = reason.as_str(), "{note}");
    ctx.events
        .publish(object, warning, reason, "Reconcile", &note)
        .await;
}

fn is_trouble(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadToken
            | Reason::CapacityExceeded
            | Reason::CredentialsInvalid
            | Reason::CredentialsMissing
            | Reason::DeletionPending
            | Reason::ProviderUnavailable
            | Reason::RateLimited
            | Reason::Rejected
            | Reason::StatusLost
    )
}

fn agent_name(object: &AgentInstance) -> &str {
    object
        .spec
        .claim
        .as_ref()
        .map(|c| c.agent_name.as_str())
        .unwrap_or_default()
}
