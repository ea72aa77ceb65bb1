//! The sweep: what the provider has against what the cluster knows, both ways, per scope.
//!
//! It rides on the listing that all pools of a scope share, every `reconcileIntervalSeconds`, soon after start, and
//! where a Reconcile request asks for it. What the provider lacks is put before the instance controllers at once; what
//! the cluster lacks is judged by `domain::sweep`, a stranger at a time. What it remembers is in memory: after a
//! restart every grace time begins anew, and nothing is done too early.

mod deeds;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::Ctx;
use super::fleet::{self, Scope, Snapshot};
use super::ownership;
use crate::api::agent_pool::AgentPool;
use crate::api::names;
use crate::clock::Monotonic;
use crate::domain::agent::Probe;
use crate::domain::sweep::{self, Action, Decision, Kind, Known, Mark, Naming, Sighting, View};
use crate::domain::template;
use crate::telemetry::metrics::StraySample;

use memory::Stranger;
pub use memory::Sweeps;

/// How often it is looked whether a sweep is due.
const BEAT: Duration = Duration::from_secs(1);
/// How many scopes are swept at a time.
const AT_A_TIME: usize = 8;
/// The most strangers that one sweep asks the provider about; the rest come in the next one, soon after.
const ASKED_MAX: usize = 20;
/// When a sweep that was cut is gone on with.
const GO_ON: Duration = Duration::from_secs(5);
/// A mark read longer ago is read again: somebody may have set or removed it.
const MARK_GOOD_FOR: Duration = Duration::from_secs(3600);
/// Rounds about one stranger: two reads of the mark, one of the cluster, a probe, a deed.
const ROUNDS: usize = 6;

/// Sweeps until `stop`. A sweep may be dropped at any await: each deed is looked at anew by the next one.
pub async fn run(ctx: Arc<Ctx>, stop: CancellationToken) {
    let endless = async {
        loop {
            futures::stream::iter(due(&ctx))
                .for_each_concurrent(AT_A_TIME, |place| sweep(place, &ctx))
                .await;
            ctx.clock.sleep(BEAT).await;
        }
    };
    tokio::select! {
        () = endless => {}
        () = stop.cancelled() => {}
    }
}

/// A scope and the pools in it.
struct Place {
    scope: Scope,
    pools: Vec<Arc<AgentPool>>,
}

/// The pools of ours that are swept, by scope: those whose names are resolved and that stay.
fn places(ctx: &Ctx) -> Vec<Place> {
    let mut places: Vec<Place> = vec![];
    let mut pools = ctx.pools.state();
    pools.sort_by_key(|p| (p.namespace(), p.name_any()));
    for pool in pools {
        let stays = pool.metadata.deletion_timestamp.is_none()
            && ownership::other_owner(&pool, &ctx.release).is_none();
        let Some(scope) = scope_of(&pool).filter(|_| stays) else {
            continue;
        };
        match places.iter_mut().find(|p| p.scope == scope) {
            Some(place) => place.pools.push(pool),
            None => places.push(Place {
                scope,
                pools: vec![pool],
            }),
        }
    }
    places
}

/// A pool's scope, once the pool controller has resolved its names.
pub fn scope_of(pool: &AgentPool) -> Option<Scope> {
    let resolved = &pool.status.as_ref()?.resolved;
    let scope = fleet::scope_of_pool(pool)?;
    fleet::is_resolved(&scope, resolved).then(|| fleet::resolved_scope(&scope, resolved))
}

/// A source of the gauge of strays: every swept pool, every kind.
pub fn stray_source(ctx: &Arc<Ctx>) -> impl Fn() -> Vec<StraySample> + Send + Sync + 'static {
    let ctx = Arc::downgrade(ctx);
    move || {
        let Some(ctx) = ctx.upgrade() else {
            return vec![];
        };
        let of_place = |place: Place| {
            place
                .pools
                .into_iter()
                .map(move |p| (place.scope.clone(), p))
        };
        let pools = places(&ctx).into_iter().flat_map(of_place);
        let samples = pools.flat_map(|(scope, pool)| {
            let strays = ctx.sweeps.strays(&scope, &naming_of(&pool));
            Kind::ALL.map(|kind| StraySample {
                namespace: scope.namespace.clone(),
                pool: pool.name_any(),
                kind: kind.as_str(),
                count: i64::try_from(strays.count(kind)).unwrap_or(i64::MAX),
            })
        });
        samples.collect()
    }
}

fn due(ctx: &Ctx) -> Vec<Place> {
    let mut places = places(ctx);
    let now = ctx.clock.monotonic();
    let scopes: Vec<&Scope> = places.iter().map(|p| &p.scope).collect();
    ctx.sweeps.keep(&scopes);
    places.retain(|p| ctx.sweeps.is_due(&p.scope, now));
    places
}

fn shortest(pools: &[Arc<AgentPool>], of: fn(&AgentPool) -> i32) -> Duration {
    let all = pools.iter().map(|p| of(p));
    Duration::from_secs(u64::try_from(all.min().unwrap_or(300)).unwrap_or(300))
}

/// How a pool's resources are called.
pub fn naming_of(pool: &AgentPool) -> Naming {
    Naming {
        prefix: pool.spec.name_prefix.clone(),
        code: template::environment_code(&pool.spec),
    }
}

async fn sweep(place: Place, ctx: &Ctx) {
    let interval = shortest(&place.pools, |p| p.spec.reconcile_interval_seconds);
    let tick = shortest(&place.pools, |p| p.spec.tick_interval_seconds);
    let begun = ctx.clock.monotonic();
    // Ticks that are rarer than sweeps keep no listing fresh: then the sweep brings its own.
    let usual = if tick < interval { tick } else { BEAT };
    let max_age = ctx.sweeps.max_age(&place.scope, begun, usual);
    let listed = ctx.fleet.snapshot(&place.scope, max_age).await;
    let (snapshot, provider) = match (listed, ctx.fleet.provider(&place.scope).await) {
        (Ok(snapshot), Ok(provider)) => (snapshot, provider),
        (Err(trouble), _) | (_, Err(trouble)) => {
            // The pool's own condition says it. Nothing is known, so nothing is done and nothing forgotten.
            tracing::debug!(
                reason = trouble.reason.as_str(),
                "not swept: {}",
                trouble.message
            );
            let again = interval.min(sweep::RETRY);
            return ctx.sweeps.postpone(&place.scope, begun, again);
        }
    };
    look_after_the_missing(&place.scope, &snapshot, ctx);
    let namings: Vec<Naming> = place.pools.iter().map(|p| naming_of(p)).collect();
    let known = known(ctx);
    // All but those that their own instances record: in a large fleet hardly any.
    let listed = snapshot.choose(|id, name| {
        let identity = namings.iter().find_map(|n| n.identify(name));
        let recorded = identity.and_then(|i| known.instances.get(&i.id)?.as_deref());
        recorded != Some(id)
    });
    let sightings = sweep::strangers(listed.iter(), &namings, &known);
    ctx.sweeps
        .notice(&place.scope, &sightings, snapshot.begun, begun);
    let mut next = interval;
    let mut left = ASKED_MAX;
    for sighting in &sightings {
        let mut hands = deeds::Hands {
            scope: &place.scope,
            pools: &place.pools,
            provider: provider.clone(),
            sighting,
            asked: false,
        };
        let again = look_after(&mut hands, left, ctx).await;
        left = left.saturating_sub(usize::from(hands.asked));
        next = again.map_or(next, |again| next.min(again));
    }
    if left == 0 {
        tracing::info!(
            strangers = sightings.len(),
            "the sweep asked about {ASKED_MAX} and goes on with the rest soon"
        );
        next = next.min(GO_ON);
    }
    let changed = ctx.sweeps.finish(&place.scope, begun, next.max(BEAT));
    for pool in place.pools.iter().filter(|_| changed) {
        ctx.pool_queue.push(ObjectRef::from_obj(pool.as_ref()));
    }
}

/// What the listing lacks is put before its own controller, which looks a second time itself.
fn look_after_the_missing(scope: &Scope, snapshot: &Snapshot, ctx: &Ctx) {
    for instance in ctx.instances.state() {
        let namespace = instance.namespace().unwrap_or_default();
        let at = instance.spec.provider.as_ref();
        let here = at
            .and_then(|p| fleet::scope_of_instance(&namespace, p))
            .as_ref()
            == Some(scope);
        let recorded = instance.status.as_ref().and_then(|s| s.provider.as_ref());
        let id = recorded.and_then(|p| p.id.as_ref());
        if here && id.is_some_and(|id| !snapshot.has(id)) {
            ctx.instance_queue
                .push(ObjectRef::from_obj(instance.as_ref()));
        }
    }
}

/// What the watches know, in every namespace.
fn known(ctx: &Ctx) -> Known {
    let instances = ctx.instances.state().into_iter().map(|i| {
        let provider = i.status.as_ref().and_then(|s| s.provider.as_ref());
        let recorded = provider.and_then(|p| p.id.clone());
        (i.spec.id.clone(), recorded)
    });
    let pools = ctx.pools.state();
    let creating = pools.iter().filter_map(|p| p.status.as_ref());
    Known {
        instances: instances.collect(),
        creating: creating.flat_map(|s| s.creating.clone()).collect(),
    }
}

/// Works on one stranger until there is nothing more to do about it now; when to look again.
async fn look_after(hands: &mut deeds::Hands<'_>, left: usize, ctx: &Ctx) -> Option<Duration> {
    let ours = names::owner_mark(
        &ctx.cluster_id,
        &hands.scope.namespace,
        &hands.sighting.identity.id,
    );
    let mut evidence = deeds::Evidence::default();
    for _ in 0..ROUNDS {
        let now = ctx.clock.monotonic();
        let stranger = ctx
            .sweeps
            .stranger(hands.scope, &hands.sighting.resource.id)?;
        let decision = judge(hands.sighting, &stranger, &evidence, &ours, now, ctx);
        match decision.action {
            Action::ReadMark | Action::Probe | Action::Remove if left == 0 => return Some(GO_ON),
            // Another leads: its grace time has begun anew.
            Action::Remove | Action::Adopt if !ctx.leadership.holds() => return Some(sweep::RETRY),
            Action::ReadMark => hands.read_mark(&mut evidence, ctx).await,
            Action::ReadCluster => hands.read_cluster(&mut evidence, ctx).await,
            Action::Probe => evidence.probe = Some(hands.probe(ctx).await),
            Action::Remove => return hands.remove(&ours, decision.message, ctx).await,
            Action::Adopt => return hands.adopt(decision.message, ctx).await,
            Action::Nothing => {
                ctx.sweeps.tell(hands.scope, hands.sighting, None);
                return decision.recheck;
            }
            Action::Report(kind) => {
                ctx.sweeps.tell(hands.scope, hands.sighting, Some(kind));
                return decision.recheck;
            }
        }
    }
    tracing::error!(resource = %hands.sighting.resource.name, "a stranger was not settled in its rounds");
    Some(sweep::RETRY)
}

fn judge(
    sighting: &Sighting<'_>,
    stranger: &Stranger,
    evidence: &deeds::Evidence,
    ours: &str,
    now: Monotonic,
    ctx: &Ctx,
) -> Decision {
    let good = |at: &Monotonic| now.saturating_sub(*at) < MARK_GOOD_FOR;
    let remembered = stranger.mark.as_ref().filter(|(_, at)| good(at));
    let probe: Option<&Probe> = evidence.probe.as_ref();
    sweep::decide(&View {
        sighting,
        ours,
        mark: remembered.map(|(owner, _)| Mark {
            owner,
            just_read: evidence.mark_read,
        }),
        registered: evidence.registered,
        probe,
        troubled: evidence.troubled,
        seen_for: now.saturating_sub(stranger.first_seen),
        listings_apart: stranger
            .latest_listing
            .saturating_sub(stranger.first_listing),
        grace: ctx.sweep_grace,
    })
}
