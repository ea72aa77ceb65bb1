//! The end of AgentClaims: a manifest that is deleted or expires releases its agent; what the API keeps for keys, links
//! and waiters is forgotten when its time is over, and no agent with it.
//!
//! It leads alone: one place where claims expire. Serving claims is the API's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::Ctx;
use crate::api::agent_claim::AgentClaim;
use crate::api::agent_instance::{AgentInstance, Release, ReleaseMode};
use crate::api::agent_pool::OnRelease;
use crate::api::condition::Reason;
use crate::api::{CLAIM_FINALIZER, LABEL_HELD_FOR, names};
use crate::domain::agent_claim::{self as judgement, Ended, Expiry};
use crate::domain::backoff;
use crate::domain::instance::phase::{self, Phase};
use crate::domain::template;
use crate::k8s::agent_claim as objects;
use crate::k8s::error::{K8sError, chain, within};
use crate::k8s::{CALL_LIMIT, patch};

/// A release that has to wait is tried again after this time.
const HELD_BACK: Duration = Duration::from_secs(30);
/// All are looked at again after this time at the latest.
const RESYNC: Duration = Duration::from_secs(3600);
/// What the API keeps is looked through so often at most, and at least.
const EXPIRES_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// How many are read at a time.
const PAGE: u32 = 500;

/// Reconciles one claim that was made with kubectl; when to come back at the latest.
pub async fn reconcile(claim: Arc<AgentClaim>, ctx: Arc<Ctx>) -> Duration {
    match pass(&claim, &ctx).await {
        Ok(again) => again,
        Err(error) if error.is_conflict() => backoff::conflict(ctx.rng.fraction()),
        Err(error) if error.is_gone() => RESYNC,
        Err(error) => {
            ctx.metrics.reconcile_error("claim", "kubernetes");
            tracing::warn!(claim = %claim.name_any(), error = %chain(&error), "not released; coming back");
            Duration::from_secs(2)
        }
    }
}

async fn pass(claim: &AgentClaim, ctx: &Ctx) -> Result<Duration, K8sError> {
    let api: Api<AgentClaim> =
        Api::namespaced(ctx.client.clone(), &claim.namespace().unwrap_or_default());
    let held = claim.finalizers().iter().any(|f| f == CLAIM_FINALIZER);
    if claim.metadata.deletion_timestamp.is_some() {
        return if held && ctx.leadership.holds() {
            release(claim, &api, ctx).await
        } else {
            Ok(RESYNC)
        };
    }
    match judgement::ended(claim, ctx.clock.now()) {
        Ended::Never => Ok(RESYNC),
        Ended::In(left) => Ok(left.min(RESYNC)),
        Ended::Now if ctx.leadership.holds() => {
            let version = version(&claim.metadata);
            objects::delete_as_read(&api, &claim.name_any(), version).await?;
            tracing::info!(claim = %claim.name_any(), action = "expired", "its time after the end is over");
            Ok(RESYNC)
        }
        Ended::Now => Ok(super::NOT_LEADING),
    }
}

/// Gives the claim's agents back, protected ones excepted, and then lets the claim go: restored for their next users
/// where their pool's `onRelease` says so, else deleted.
async fn release(
    claim: &AgentClaim,
    api: &Api<AgentClaim>,
    ctx: &Ctx,
) -> Result<Duration, K8sError> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let instances: Api<AgentInstance> = Api::namespaced(ctx.client.clone(), &namespace);
    let named = objects::named(&instances, &name).await?;
    for instance in named
        .iter()
        .filter(|i| i.metadata.deletion_timestamp.is_none())
    {
        let id = &instance.spec.id;
        if phase::is_protected(instance) {
            let note =
                format!("its agent {id} is protected: the claim is kept until the label goes");
            ctx.events
                .publish(claim, true, Reason::Released, "Release", &note)
                .await;
            return Ok(HELD_BACK);
        }
        let recycled = is_to_be_recycled(instance, ctx);
        let done = if recycled {
            let release = Release {
                id: names::id_from_bytes(&ctx.rng.bytes()),
                mode: ReleaseMode::Recycle,
                requested_at: Time(ctx.clock.now()),
            };
            patch::give_back(&instances, instance, &release).await
        } else {
            patch::delete_as_read(&instances, instance).await
        };
        match done {
            // Gone meanwhile: what was wanted.
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
        tracing::info!(
            claim = name,
            instance = id,
            action = "released",
            "its claim was deleted"
        );
        let end = if recycled {
            "restored for its next user"
        } else {
            "destroyed"
        };
        let note = format!("its agent {id} is {end}");
        ctx.events
            .publish(claim, false, Reason::Released, "Release", &note)
            .await;
    }
    objects::set_finalizer(api, claim, false).await?;
    Ok(RESYNC)
}

/// Whether an agent that its claim gives back is restored: its pool wants that, its provider can, and somebody has it.
fn is_to_be_recycled(instance: &AgentInstance, ctx: &Ctx) -> bool {
    let namespace = instance.namespace().unwrap_or_default();
    let pool = ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace);
    let wanted = ctx.pools.get(&pool).is_some_and(|p| {
        p.spec.provider.sprites.is_some() && template::on_release(&p.spec) == OnRelease::Recycle
    });
    wanted
        && matches!(
            phase::phase_of(instance),
            Phase::Claiming | Phase::Claimed | Phase::PendingAcceptance
        )
}

/// Forgets what the API keeps when its time is over, until `stop`. Looked for page by page, names and dates only.
pub async fn expire(ctx: Arc<Ctx>, stop: CancellationToken) {
    let every = (ctx.key_kept / 10).clamp(EXPIRES_EVERY.0, EXPIRES_EVERY.1);
    while !stop.is_cancelled() {
        if let Err(error) = expire_once(&ctx).await {
            tracing::warn!(error = %chain(&error), "expired keys not looked for; later again");
        }
        tokio::select! {
            () = ctx.clock.sleep(every) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn expire_once(ctx: &Ctx) -> Result<(), K8sError> {
    let named: HashSet<String> = ctx
        .instances
        .state()
        .iter()
        .filter_map(|i| i.spec.claim.as_ref()?.reference.clone())
        .collect();
    let held: HashSet<String> = named.iter().map(|n| names::label_value(n)).collect();
    let all: Api<AgentClaim> = crate::k8s::watch::api(&ctx.client, ctx.namespace.as_deref());
    // Finished ones, and those that hold a link for another and are never finished.
    for fields in [
        "spec.origin=HTTP,status.done=true",
        "spec.origin=HTTP,spec.for!=",
    ] {
        let mut page = ListParams::default().fields(fields).limit(PAGE);
        loop {
            let doing = || "list the AgentClaims of the API".to_owned();
            let list = within(CALL_LIMIT, doing, all.list_metadata(&page)).await?;
            for claim in &list.items {
                let label = claim.labels().get(LABEL_HELD_FOR);
                let expiry = Expiry {
                    age: age(claim, ctx),
                    has_agent: label.map_or_else(
                        || named.contains(&claim.name_any()),
                        |owner| held.contains(owner),
                    ),
                    kept: ctx.key_kept,
                };
                if judgement::is_expired(&claim.name_any(), &expiry) && ctx.leadership.holds() {
                    forget(claim, ctx).await;
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => break,
            }
        }
    }
    Ok(())
}

async fn forget(claim: &PartialObjectMeta<AgentClaim>, ctx: &Ctx) {
    let namespace = claim.namespace().unwrap_or_default();
    let api: Api<AgentClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let name = claim.name_any();
    match objects::delete_as_read(&api, &name, version(&claim.metadata)).await {
        Ok(()) => tracing::debug!(claim = name, action = "forgotten", "its time is over"),
        Err(error) => tracing::debug!(claim = name, %error, "not forgotten; later again"),
    }
}

fn version(meta: &kube::api::ObjectMeta) -> (Option<String>, Option<String>) {
    (meta.uid.clone(), meta.resource_version.clone())
}

fn age(claim: &PartialObjectMeta<AgentClaim>, ctx: &Ctx) -> Duration {
    let created = claim.creation_timestamp().map(|t| t.0);
    let age = created.map(|t| ctx.clock.now().duration_since(t));
    age.and_then(|age| Duration::try_from(age).ok())
        .unwrap_or_default()
}
