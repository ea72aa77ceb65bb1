//! One event and one log line per transition.

use kube::ResourceExt;

use super::super::Ctx;
use crate::api::agent_instance::AgentInstance;
use crate::api::condition::Reason;
use crate::domain::instance::decide::{Action, Change, Decision};
use crate::domain::instance::phase::{self, Phase};
use crate::domain::instance::status;

/// One event and one log line per transition.
pub(super) async fn tell(object: &AgentInstance, before: Phase, decision: &Decision, ctx: &Ctx) {
    let phase = phase::phase_of(object);
    let word = format!("{phase}/{}", decision.reason.as_str());
    let old = ctx.memories.with(object, |m| m.told.replace(word.clone()));
    let first = old.is_none();
    let changed = old.as_deref() != Some(word.as_str());
    let told = old.as_deref().and_then(|w| w.split_once('/'));
    let told_trouble = told
        .and_then(|(_, w)| Reason::parse(w))
        .is_some_and(is_trouble);
    if !changed || (first && before == phase && phase != Phase::Provisioning) {
        return;
    }
    let (reason, warning, note) = match (&decision.action, phase) {
        (_, Phase::Idle) if before != Phase::Idle => (
            Reason::Idle,
            false,
            "ready, unbound and clean: may be claimed".to_owned(),
        ),
        (Action::Record(Change::Revive), _) => (Reason::Recovered, false, decision.message.clone()),
        (Action::Record(Change::Wake), _) => (Reason::Sleeping, false, decision.message.clone()),
        (_, Phase::Claimed) if decision.reason == Reason::Claimed => (
            Reason::Claimed,
            false,
            format!("claimed for agent {}", agent_name(object)),
        ),
        // Before it is done: the object that this is about will be gone.
        (Action::Delete, _) if decision.reason == Reason::Expired => (
            Reason::Expired,
            true,
            format!("{}: being ended", decision.message),
        ),
        // By callback, recorded by whoever took it.
        (Action::Wait, Phase::Tainted) if decision.reason == Reason::NotAccepted => {
            (decision.reason, true, decision.message.clone())
        }
        (Action::Record(Change::Begin), _) => (
            Reason::Creating,
            false,
            format!("creating {} at the provider", object.spec.provider_name),
        ),
        (Action::Record(Change::Judge(_)), Phase::Crashed | Phase::Tainted | Phase::Dead) => {
            (decision.reason, true, decision.message.clone())
        }
        (Action::Wait, _) if is_trouble(decision.reason) => (
            decision.reason,
            true,
            format!("{}; trying again", decision.message),
        ),
        // Not while it is only looked after more closely.
        _ if told_trouble && decision.reason != Reason::OutcomeUnknown => (
            Reason::Recovered,
            false,
            format!("works again: {}", decision.message),
        ),
        _ => return,
    };
    tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, phase = phase.as_str(), reason = reason.as_str(), "{note}");
    ctx.events
        .publish(object, warning, reason, "Reconcile", &note)
        .await;
}

/// What stays at the provider, told before the object that names it is gone. In a namespace that is being deleted no
/// event can be made: there the log has it.
pub(super) async fn abandoned(object: &AgentInstance, ctx: &Ctx) {
    let left: Vec<String> = status::facts_of(object.status.as_ref())
        .into_iter()
        .filter(|(key, _)| key.ends_with("Id") || key == "url")
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    let kind = object.spec.provider.as_ref().map_or("", |p| &p.kind);
    let note = format!(
        "abandoned on request; left behind at {kind}, where it may cost money: {} (owner mark {}/{}/{}) {}",
        object.spec.provider_name,
        ctx.cluster_id,
        object.namespace().unwrap_or_default(),
        object.spec.id,
        left.join(", "),
    );
    tracing::warn!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "abandon", "{note}");
    ctx.events
        .publish(object, true, Reason::Abandoned, "Abandon", &note)
        .await;
}

/// What is this instance's own. A rate limit, a full plan and a refused credential are everybody's: the pool tells them
/// once, not each of its instances.
fn is_trouble(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadToken
            | Reason::CredentialsMissing
            | Reason::DeletionPending
            | Reason::NeedsApproval
            | Reason::ProviderUnavailable
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
