//! Providers are asked to tell of events, where the process knows its public address and the secret of its webhooks.
//!
//! One subscription for each place that pools use (Railway: a project, or a workspace), looked for by our address before
//! it is made. All of it is level: whoever leads looks, renews once, because nobody can read back which secret it has,
//! and looks again from time to time. What goes wrong is said in the pools' condition and holds nothing up: an event only
//! makes the controller look sooner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::Ctx;
use super::fleet::{self, Environment, Scope};
use super::ownership;
use crate::api::agent_pool::{AgentPool, TokenKind};
use crate::api::condition::{ConditionType, Reason, find};
use crate::clock::Monotonic;
use crate::domain::backoff::{self, Call};
use crate::domain::hook::{self, Deed};
use crate::domain::plan::{Class, Trouble};
use crate::domain::pool::view::HookHealth;
use crate::provider::HookSettings;
use crate::provider::account::{self, Purpose};

/// How often it is looked whether a place is due.
const BEAT: Duration = Duration::from_secs(1);
/// How many places are looked after at a time.
const AT_A_TIME: usize = 4;
/// How often a subscription that is as it should be is looked at again.
const EVERY: Duration = Duration::from_secs(3600);
/// A listing may lag so far behind: what was just made, or may have been, is not looked for sooner.
const LAG: Duration = Duration::from_secs(30);
/// A list, and a deed for each that is too many.
const ROUNDS: usize = 8;
/// How often a removal is tried before a pool that goes is let go without it.
const REMOVALS: u32 = 3;

/// Where a subscription is.
type Place = (String, String);

/// A place, as far as this term knows it.
#[derive(Default)]
struct State {
    /// Nothing is asked before.
    rests_until: Monotonic,
    /// The subscription has our secret and our events: we made or renewed it.
    renewed: bool,
    failures: u32,
    health: HookHealth,
    /// Removals that failed.
    removals: u32,
    /// Held by whoever lists and changes what is there.
    busy: Arc<tokio::sync::Mutex<()>>,
}

/// The subscriptions that this process looks after.
#[derive(Default)]
pub struct Hooks {
    settings: Option<HookSettings>,
    places: Mutex<HashMap<Place, State>>,
}

impl Hooks {
    /// With an address and a secret; `None`: providers are asked for nothing.
    pub fn new(settings: Option<HookSettings>) -> Self {
        Self {
            settings,
            places: Mutex::default(),
        }
    }

    /// How the subscription of a pool's place stands; `None`: there is none to be had.
    pub fn health(&self, pool: &AgentPool) -> Option<HookHealth> {
        self.settings.as_ref()?;
        let place = place_of(&fleet::scope_of_pool(pool)?)?;
        Some(self.with(&place, |s| s.health.clone()))
    }

    fn with<T>(&self, place: &Place, work: impl FnOnce(&mut State) -> T) -> T {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        work(places.entry(place.clone()).or_default())
    }

    /// Forgets a place: whoever comes to it next begins anew.
    fn forget(&self, place: &Place) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.remove(place);
    }

    /// Forgets what no pool uses any more.
    fn keep(&self, used: &[Place]) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place, _| used.contains(place));
    }
}

/// Where the subscription of a scope is; `None`: its provider has none.
fn place_of(scope: &Scope) -> Option<Place> {
    let at = match &scope.environment {
        Environment::Workspace(id) => format!("workspace {id}"),
        Environment::Id(_) | Environment::Name(_) if scope.project_id.is_empty() => return None,
        // It is about the whole project.
        Environment::Id(_) | Environment::Name(_) => format!("project {}", scope.project_id),
    };
    Some((scope.kind.clone(), at))
}

/// A place, and the pools that use it with their scopes.
type Used = (Place, Vec<(Scope, Arc<AgentPool>)>);

/// Our pools with their scopes, by place; those that stay, or all.
fn places(ctx: &Ctx, all: bool) -> Vec<Used> {
    let mut places: Vec<Used> = vec![];
    let mut pools = ctx.pools.state();
    pools.sort_by_key(|p| (p.namespace(), p.name_any()));
    for pool in pools {
        let counts = (all || pool.metadata.deletion_timestamp.is_none())
            && ownership::other_owner(&pool, &ctx.release).is_none();
        let scope = fleet::scope_of_pool(&pool).filter(|_| counts);
        let Some((place, scope)) = scope.and_then(|s| Some((place_of(&s)?, s))) else {
            continue;
        };
        match places.iter_mut().find(|(p, _)| *p == place) {
            Some((_, users)) => users.push((scope, pool)),
            None => places.push((place, vec![(scope, pool)])),
        }
    }
    for (_, users) in &mut places {
        // A project's token may not register any: where another pool has one that may, that is used.
        users.sort_by_key(|(scope, _)| scope.token_kind == TokenKind::Project);
    }
    places
}

/// Whether a pool that stays uses a place.
fn is_used(place: &Place, ctx: &Ctx) -> bool {
    places(ctx, false).iter().any(|(p, _)| p == place)
}

/// Looks after subscriptions until `stop`. May be dropped at any await: whoever comes next looks first.
pub async fn run(ctx: Arc<Ctx>, stop: CancellationToken) {
    let endless = async {
        if ctx.hooks.settings.is_none() {
            return std::future::pending().await;
        }
        loop {
            let used: Vec<Place> = places(&ctx, true).into_iter().map(|(p, _)| p).collect();
            ctx.hooks.keep(&used);
            let now = ctx.clock.monotonic();
            let due = places(&ctx, false).into_iter();
            let due = due.filter(|(place, _)| ctx.hooks.with(place, |s| s.rests_until <= now));
            futures::stream::iter(due)
                .for_each_concurrent(AT_A_TIME, |(place, users)| {
                    let ctx = ctx.clone();
                    async move { look_after(&place, &users, &ctx).await }
                })
                .await;
            ctx.clock.sleep(BEAT).await;
        }
    };
    tokio::select! {
        () = endless => {}
        () = stop.cancelled() => {}
    }
}

async fn look_after(place: &Place, users: &[(Scope, Arc<AgentPool>)], ctx: &Ctx) {
    let Some((scope, _)) = users.first() else {
        return;
    };
    let busy = ctx.hooks.with(place, |s| s.busy.clone());
    let _busy = busy.lock().await;
    // The last pool may have gone while this waited.
    if !is_used(place, ctx) {
        return;
    }
    let settled = settle(place, scope, true, ctx).await;
    let now = ctx.clock.monotonic();
    let health = match settled {
        Ok(Some(made)) => {
            let next = if made { LAG } else { EVERY };
            ctx.hooks.with(place, |s| {
                s.failures = 0;
                s.rests_until = now + next;
            });
            HookHealth::Registered
        }
        // Another leads: it looks after this.
        Ok(None) => return,
        Err(trouble) => {
            ctx.hooks.with(place, |s| {
                let wait = backoff::after(&trouble, s.failures);
                let least = if trouble.class == Class::Ambiguous {
                    LAG
                } else {
                    BEAT
                };
                s.failures = s.failures.saturating_add(1);
                s.rests_until = now + wait.max(least);
            });
            HookHealth::Trouble(trouble.reason, trouble.message)
        }
    };
    let before = ctx
        .hooks
        .with(place, |s| std::mem::replace(&mut s.health, health.clone()));
    if before.reason() != health.reason() {
        tell(&health, users, ctx).await;
    }
}

/// Does what there is to do about a place's subscriptions: whether one was made that no listing may show yet. `None`:
/// this process does not lead any more.
async fn settle(
    place: &Place,
    scope: &Scope,
    wanted: bool,
    ctx: &Ctx,
) -> Result<Option<bool>, Trouble> {
    let Some(settings) = &ctx.hooks.settings else {
        return Ok(None);
    };
    ctx.fleet.admit(scope, Call::Read).await?;
    let provider = ctx.fleet.provider(scope).await?;
    if !provider.capabilities().hooks {
        return Ok(Some(false));
    }
    for _ in 0..ROUNDS {
        let found = account::shared(Purpose::Sweep, provider.hooks()).await?;
        let renewed = ctx.hooks.with(place, |s| s.renewed);
        let Some(deed) = hook::next(&found, &settings.url, wanted, renewed) else {
            return Ok(Some(false));
        };
        if !ctx.leadership.holds() {
            return Ok(None);
        }
        let sent = account::shared(Purpose::Sweep, provider.set_hook(&deed, settings)).await;
        tracing::info!(place = %place.1, deed = ?deed, ok = sent.is_ok(), "webhook");
        sent?;
        match deed {
            Deed::Make => {
                ctx.hooks.with(place, |s| s.renewed = true);
                return Ok(Some(true));
            }
            Deed::Renew(_) => ctx.hooks.with(place, |s| s.renewed = true),
            Deed::Remove(_) => {}
        }
    }
    Ok(Some(false))
}

/// One event per turn, on each pool of the place; their conditions follow.
async fn tell(health: &HookHealth, users: &[(Scope, Arc<AgentPool>)], ctx: &Ctx) {
    for (_, pool) in users {
        let (warning, note) = match health {
            HookHealth::Pending => continue,
            HookHealth::Registered => (false, "the provider tells of events".to_owned()),
            HookHealth::Trouble(_, message) => (
                true,
                format!(
                    "the webhook is not registered, and events are seen at ticks only: {message}"
                ),
            ),
        };
        let conditions = pool.status.as_ref().map(|s| s.conditions.as_slice());
        let recorded = find(
            conditions.unwrap_or_default(),
            ConditionType::WebhookRegistered,
        );
        // An earlier process may have told it.
        if recorded.is_none_or(|c| c.reason != health.reason().as_str()) {
            ctx.events
                .publish(pool.as_ref(), warning, health.reason(), "Register", &note)
                .await;
        }
        ctx.pool_queue.push(ObjectRef::from_obj(pool.as_ref()));
    }
}

/// Removes the subscription with the last pool of its place; whether the pool may go. It is not kept for ever: what could
/// not be removed is told.
pub async fn leave(pool: &AgentPool, ctx: &Ctx) -> bool {
    let scope = fleet::scope_of_pool(pool).filter(|_| ctx.hooks.settings.is_some());
    let Some((place, scope)) = scope.and_then(|s| Some((place_of(&s)?, s))) else {
        return true;
    };
    let busy = ctx.hooks.with(&place, |s| s.busy.clone());
    let _busy = busy.lock().await;
    if is_used(&place, ctx) {
        return true;
    }
    let trouble = match settle(&place, &scope, false, ctx).await {
        Ok(Some(_)) => {
            ctx.hooks.forget(&place);
            return true;
        }
        Ok(None) => return false,
        Err(trouble) => trouble,
    };
    // Where none may be registered there is none of ours.
    if trouble.reason == Reason::NotSupported {
        return true;
    }
    let tries = ctx.hooks.with(&place, |s| {
        s.removals = s.removals.saturating_add(1);
        s.removals
    });
    if tries < REMOVALS {
        return false;
    }
    let note = format!(
        "the webhook may be left at the provider: remove it there. {}",
        trouble.message
    );
    ctx.events
        .publish(pool, true, Reason::WebhookLeft, "Remove", &note)
        .await;
    true
}
