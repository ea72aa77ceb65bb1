//! The calls of a pass that reach into an agent's machine: looking for what is left of a user, starting the agent anew,
//! keeping it awake.

use std::time::Duration;

use kube::ResourceExt;

use super::super::Ctx;
use super::Next;
use super::observe::Surroundings;
use super::send::{admitted, note, provider};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::SecretKeyRef;
use crate::api::condition::Reason;
use crate::domain::backoff::Call;
use crate::domain::instance::status::facts_of;
use crate::domain::instance::view::{Evidence, Inside};
use crate::domain::plan::Trouble;
use crate::k8s::error::K8sError;
use crate::k8s::secret;

/// How long one request to stay awake lasts; what holds it inside refreshes it long before.
const HELD_FOR: Duration = Duration::from_secs(300);

/// Has the provider look whether anything of a user is left in the machine.
pub(super) async fn look_inside(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    if !admitted(object, around, Call::Read, evidence, ctx).await {
        return Ok(Next::Again);
    }
    let facts = facts_of(object.status.as_ref());
    let found = match provider(around) {
        Ok(provider) => provider
            .verify_clean(&around.key, &facts)
            .await
            .map_err(Trouble::from),
        Err(trouble) => Err(trouble),
    };
    match found {
        Ok(left) => {
            ctx.memories.answered(object);
            evidence.inside = Some(left.map_or(Inside::Clean, Inside::Dirty));
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, around, evidence, trouble, ctx).await),
    }
}

/// Has the provider wake the machine and start the agent in it anew. Tried counts, whatever came of it: what matters is
/// whether the agent answers afterwards.
pub(super) async fn restart(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    why: &str,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    if !admitted(object, around, Call::Read, evidence, ctx).await {
        return Ok(Next::Later);
    }
    let Ok(provider) = provider(around) else {
        return Ok(Next::Later);
    };
    let now = ctx.clock.monotonic();
    ctx.memories.with(object, |m| m.was_restarted(now));
    let done = provider
        .restart(&around.key, &facts_of(object.status.as_ref()))
        .await;
    let error = done.as_ref().err().map(ToString::to_string);
    tracing::warn!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "restart", error, "{why}");
    ctx.events
        .publish(object, true, Reason::Unreachable, "Restart", why)
        .await;
    Ok(Next::Later)
}

/// Has the provider keep the machine awake. Best effort: asked again while the listing shows it asleep.
pub(super) async fn hold(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    let now = ctx.clock.monotonic();
    ctx.memories.with(object, |m| m.held = Some(now));
    if let Ok(provider) = provider(around)
        && admitted(object, around, Call::Read, evidence, ctx).await
        && let Err(error) = provider
            .hold(&around.key, &facts_of(object.status.as_ref()), HELD_FOR)
            .await
    {
        tracing::warn!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "hold", %error, "in use and asleep, and not to be kept awake");
    }
    evidence.trouble = None;
    Ok(Next::Again)
}

/// Long instructions go with the claim they were for. Best effort: they are the instance's and go with it at the latest.
pub(super) async fn forget_instructions(
    object: &AgentInstance,
    reference: &SecretKeyRef,
    ctx: &Ctx,
) {
    let namespace = object.namespace().unwrap_or_default();
    if let Err(error) = secret::delete(&ctx.client, &namespace, &reference.name).await {
        tracing::debug!(secret = %reference.name, %error, "not deleted; it goes with its instance");
    }
}
