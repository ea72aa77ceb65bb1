//! What a pool's decision sees of its provider: whether it answers, and what its listing and the sweep say.

use std::time::Duration;

use kube::ResourceExt;

use super::{instances_of, tick};
use crate::api::agent_pool::{AgentPool, SecretKeyRef};
use crate::api::condition::Reason;
use crate::controllers::Ctx;
use crate::controllers::fleet::{self, Scope};
use crate::controllers::sweep;
use crate::domain::backoff::Call;
use crate::domain::budget::Purpose;
use crate::domain::plan::Facts;
use crate::domain::pool::view::{Listing, ProviderHealth};

/// Whether the provider can be worked with, and the scope with its names resolved.
pub(super) async fn health(
    pool: &AgentPool,
    scope: Option<&Scope>,
    deleting: bool,
    ctx: &Ctx,
) -> (ProviderHealth, Option<Scope>) {
    let Some(scope) = scope else {
        return (ProviderHealth::Pending, None);
    };
    if deleting {
        return (ProviderHealth::Pending, None);
    }
    let key = (
        pool.namespace().unwrap_or_default(),
        pool.metadata.name.clone().unwrap_or_default(),
    );
    let generation = pool.metadata.generation;
    // What was refused is asked again when the spec changed, not before its time otherwise.
    let seen = ctx.with_pool_memory(&key, |m| m.generation.replace(generation));
    let changed = seen.is_some_and(|seen| seen != generation);
    if changed {
        ctx.fleet.ask_again(scope);
    }
    let facts: Facts = match ctx.fleet.resolve(scope).await {
        Ok(facts) => facts,
        Err(trouble) => return (ProviderHealth::Trouble(trouble), None),
    };
    let resolved = fleet::resolved_scope(scope, &facts);
    let max_age = if is_waiting(pool, ctx) {
        tick(pool).min(Duration::from_secs(3))
    } else {
        tick(pool)
    };
    if changed {
        ctx.fleet.ask_again(&resolved);
    }
    let listed = ctx.fleet.recent(&resolved, max_age).await;
    // What an instance's call met counts too: the listing may be younger than a tick, or work all the same.
    let trouble = listed
        .err()
        .or_else(|| ctx.fleet.held(&resolved, Call::Create));
    let health = match trouble {
        None => ProviderHealth::Reachable(facts),
        Some(trouble) => ProviderHealth::Degraded(facts, trouble),
    };
    (health, Some(resolved))
}

/// One event where the credential was replaced by another; it is in use by then.
pub(super) async fn tell_rotation(
    pool: &AgentPool,
    key: &(String, String),
    scope: &Scope,
    ctx: &Ctx,
) {
    let now = ctx.fleet.rotations(scope);
    let told = ctx.with_pool_memory(key, |m| m.rotations.replace(now));
    if told.is_none_or(|told| told >= now) {
        return;
    }
    let SecretKeyRef { name, key } = &scope.secret;
    let note =
        format!("Secret {name} has another {key}: it is used from now on, and no agent is touched");
    tracing::info!(pool = %pool.name_any(), reason = Reason::SecretRotated.as_str(), "{note}");
    ctx.events
        .publish(pool, false, Reason::SecretRotated, "Rotate", &note)
        .await;
}

/// What the scope's latest listing and sweep say.
pub(super) fn listing(pool: &AgentPool, scope: Option<&Scope>, ctx: &Ctx) -> Listing {
    let hook = ctx.hooks.health(pool);
    let Some(scope) = scope else {
        return Listing {
            hook,
            ..Listing::default()
        };
    };
    let strays = ctx.sweeps.strays(scope, &sweep::naming_of(pool));
    let interval = ctx.fleet.listing_interval(scope);
    let room = ctx.fleet.room_for(scope, Purpose::Drift);
    let mut listing = Listing {
        strays,
        hook,
        no_room: room.is_err(),
        stretched: Some(interval).filter(|i| *i > tick(pool)),
        ..Listing::default()
    };
    let Some(snapshot) = ctx.fleet.latest(scope) else {
        return listing;
    };
    for instance in instances_of(pool, ctx) {
        let provider = instance.status.as_ref().and_then(|s| s.provider.as_ref());
        let Some(id) = provider.and_then(|p| p.id.as_ref()) else {
            continue;
        };
        // What the listing cannot know yet counts as listed, and what is being removed as neither.
        let newer = ctx.memories.with(&instance, |m| m.recorded) >= snapshot.begun;
        if instance.metadata.deletion_timestamp.is_none() {
            listing.recorded += 1;
            listing.listed += usize::from(newer || snapshot.has(id));
        }
    }
    listing
}

/// Whether an agent of the pool is on its way up: then the listing is looked at more often than at every tick.
fn is_waiting(pool: &AgentPool, ctx: &Ctx) -> bool {
    instances_of(pool, ctx).iter().any(|i| {
        let status = i.status.as_ref();
        status.is_some_and(|s| {
            s.operation.is_some() && s.provider.as_ref().is_some_and(|p| p.id.is_some())
        })
    })
}
