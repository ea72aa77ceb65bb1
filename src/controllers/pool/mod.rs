//! One AgentPool: observe → decide → act → record.
//!
//! Only this creates instances, and it fences that: new ids are written into `status.creating` with the
//! resourceVersion they were decided on, then exactly these are created. Two leaders do not create twice: the stale
//! one's write is a 409. Whoever comes next creates what is listed; an id leaves the list when its object was seen.

pub(super) mod act;
mod provider;
mod requests;
mod revisions;
pub(super) mod secrets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, ResourceExt};

use super::Ctx;
use super::fleet;
use super::ownership;
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::{AgentPool, AgentPoolStatus, Request};
use crate::api::condition::{ConditionType, Reason, find};
use crate::api::{ANNOTATION_REPLACED, ANNOTATION_REQUESTS, POOL_FINALIZER, names};
use crate::clock::Monotonic;
use crate::domain::backoff;
use crate::domain::drift::{self, Present};
use crate::domain::image::Image;
use crate::domain::instance::decide::failed_creation;
use crate::domain::instance::phase;
use crate::domain::invariant;
use crate::domain::pool::decide::{self, CREATING_MAX, Decision};
use crate::domain::pool::status;
use crate::domain::pool::view::{Finished, Member, Owed, Refused, View};
use crate::domain::template::Template;
use crate::k8s::apply;
use crate::k8s::error::{K8sError, chain};
use act::{Build, create, creating, delete, note_answered};

/// How long an object that was created may take to show in the watch before it is looked for.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// What is not urgent of a status is written this often at most.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// How long creations rest after the API server refused one: a quota, an admission policy.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Two looks of a requested reconcile are this far apart, plus the time they take.
const RECONCILE_APART: Duration = Duration::from_millis(5_500);

/// What this process remembers of a pool.
#[derive(Default)]
pub struct PoolMemory {
    /// Ids whose objects this process created, and when: they count until the watch shows them.
    created: HashMap<String, Monotonic>,
    /// Requests under way.
    running: HashMap<String, Run>,
    /// Results of requests that are not answered yet.
    finished: BTreeMap<String, Finished>,
    /// Ready's reason as last told by an event.
    told: Option<String>,
    /// RolledOut's reason as last told by an event.
    rollout_told: Option<String>,
    /// The revisions of its templates.
    revisions: revisions::Known,
    /// When the status was last written.
    written: Option<Monotonic>,
    /// No pass begins before.
    rests_until: Monotonic,
    /// Creations that the API server refused, with what it said.
    refused: BTreeMap<String, String>,
    /// What it said last, and until when nothing more is created because of it.
    refusal: Option<(String, Monotonic)>,
    /// The spec's generation as last seen.
    generation: Option<Option<i64>>,
    /// The digests of the values of its Secrets.
    secrets: secrets::Known,
    /// How often its credential was replaced, as last told.
    rotations: Option<u32>,
}

impl PoolMemory {
    /// The work of a request is over: the next pass answers it.
    pub fn finish(&mut self, request: &str, finished: Finished) {
        self.running.remove(request);
        self.finished.insert(request.to_owned(), finished);
    }
}

/// A request under way.
struct Run {
    begun: Monotonic,
    /// A listing begun after the request was seen is there.
    listed: bool,
    /// The instances it is about: for Reconcile those that the listing lacks, for Cycle those that were starting.
    watched: Vec<String>,
}

/// Reconciles one pool; when to come back at the latest.
pub async fn reconcile(pool: Arc<AgentPool>, ctx: Arc<Ctx>) -> Duration {
    let key = (pool.namespace().unwrap_or_default(), pool.name_any());
    let began = ctx.clock.monotonic();
    let rest = ctx.with_pool_memory(&key, |m| m.rests_until.saturating_sub(began));
    if !rest.is_zero() {
        return rest;
    }
    let passed = pass(&pool, &ctx).await;
    let now = ctx.clock.monotonic();
    let rest = backoff::rest(now.saturating_sub(began));
    ctx.with_pool_memory(&key, |m| m.rests_until = now + rest);
    match passed {
        Ok(again) => again,
        Err(error) if error.is_conflict() || error.is_invalid() => {
            backoff::conflict(ctx.rng.fraction())
        }
        Err(error) if error.is_gone() => Duration::from_secs(60),
        Err(error) => {
            ctx.metrics.reconcile_error("pool", "kubernetes");
            tracing::warn!(pool = %pool.name_any(), error = %chain(&error), "not recorded; coming back");
            Duration::from_secs(2)
        }
    }
}

async fn pass(pool: &AgentPool, ctx: &Ctx) -> Result<Duration, K8sError> {
    let namespace = pool.namespace().unwrap_or_default();
    let name = pool.name_any();
    let key = (namespace.clone(), name.clone());
    let api: Api<AgentPool> = Api::namespaced(ctx.client.clone(), &namespace);
    if let Some(owner) = ownership::other_owner(pool, &ctx.release) {
        ownership::stand_back(&api, pool, owner, ctx).await?;
        return Ok(ownership::LOOK_AGAIN);
    }
    let deleting = pool.metadata.deletion_timestamp.is_some();
    let held = pool.finalizers().iter().any(|f| f == POOL_FINALIZER);
    if deleting && !held {
        return Ok(Duration::from_secs(60));
    }
    let mut pool = pool.clone();
    if !held {
        pool = apply::set_pool_finalizer(&api, &pool, true).await?;
    }

    let template = Template::of(&pool.spec);
    let scope = fleet::scope_of_pool(&pool);
    // What is judged is what is deleted: a version that the cache shows only later may have been claimed.
    let judged = instances_of(&pool, ctx);
    let (health, resolved) = provider::health(&pool, scope.as_ref(), deleting, ctx).await;
    if let Some(scope) = resolved.as_ref().or(scope.as_ref()) {
        provider::tell_rotation(&pool, &key, scope, ctx).await;
    }
    let unsupported = ctx.fleet.unsupported(&template);
    let revision = if deleting || unsupported.is_some() {
        None
    } else {
        Some(
            ctx.fleet
                .record_template(&namespace, &name, &template)
                .await?,
        )
    };
    let image = if deleting {
        Image::None
    } else {
        ctx.images.of(&namespace, &template).await
    };
    let digests = match &revision {
        Some(_) => secrets::digests(&namespace, &key, &template, ctx).await,
        None => None,
    };
    let present = revision
        .as_deref()
        .map(|revision| Present::new(revision, image.reference()).with_secrets(digests.as_deref()));
    let members = members(&judged, present.as_ref());
    let requests = open_requests(&pool);
    let progress =
        requests::work_on_requests(&pool, &key, &requests, &members, resolved.as_ref(), ctx).await;
    let fresh_ids: Vec<String> = (0..CREATING_MAX)
        .map(|_| names::id_from_bytes(&ctx.rng.bytes()))
        .collect();
    let now = ctx.clock.monotonic();
    let refused = ctx.with_pool_memory(&key, |m| Refused {
        ids: m.refused.clone(),
        holds: m
            .refusal
            .as_ref()
            .filter(|r| now < r.1)
            .map(|r| r.0.clone()),
    });
    let view = View {
        pool: &pool,
        members: &members,
        waiting: waiting(&pool, &key, ctx),
        provider: health,
        listing: provider::listing(&pool, resolved.as_ref(), ctx),
        image: image.clone(),
        secrets: digests.clone(),
        unsupported,
        revision: revision.clone(),
        requests: &requests,
        progress: &progress,
        refused: &refused,
        fresh_ids: &fresh_ids,
        now: ctx.clock.now(),
        tick: tick(&pool),
        release: &ctx.release,
    };
    let decision = decide::decide(&view);
    debug_assert!(
        invariant::pool_broken(&view, &decision).is_empty(),
        "{:?}: {decision:?} for {pool:?}",
        invariant::pool_broken(&view, &decision)
    );

    if !ctx.leadership.holds() {
        return Ok(super::NOT_LEADING);
    }
    // Before the status: that it says what the pool wants is what makes later claims count.
    note_answered(&judged, &decision, ctx).await?;
    let creating = creating(&view, &key, &decision, ctx);
    let new = status::status(&view, &decision, creating.clone());
    let (settled, held) = write(&api, &pool, &key, &new, ctx).await?;
    tell(&pool, &key, &decision, ctx).await;
    requests::forget_answered(&settled, &key, ctx);
    // First: what a roll-out builds takes the place of what it removes.
    delete(&judged, &decision, ctx).await?;
    let made = match (&revision, &resolved, &image) {
        (_, _, Image::Unresolved(_)) => false,
        (Some(revision), Some(scope), image) if !deleting => {
            let build = Build {
                revision,
                template: &template,
                scope,
                image: image.reference(),
                secrets: digests.as_deref(),
            };
            create(&settled, &key, &creating, &build, ctx).await?
        }
        _ => false,
    };
    revisions::forget_unnamed(&pool, &key, revision.as_deref(), ctx).await;
    if decision.remove_finalizer && deleting && ctx.leadership.holds() {
        if !super::hooks::leave(&pool, ctx).await {
            return Ok(Duration::from_secs(2));
        }
        apply::set_pool_finalizer(&api, &settled, false).await?;
        tracing::info!(pool = %name, action = "removed", "the pool is drained");
        return Ok(Duration::from_secs(60));
    }
    let busy = made || ctx.with_pool_memory(&key, |m| !m.running.is_empty());
    let recheck = decision.recheck.min(held.unwrap_or(decision.recheck));
    Ok(if busy {
        recheck.min(Duration::from_millis(200))
    } else {
        recheck
    })
}

/// Writes the status; what is not urgent at most once a second: else the pool as it is, and when to come for it.
async fn write(
    api: &Api<AgentPool>,
    pool: &AgentPool,
    key: &(String, String),
    new: &AgentPoolStatus,
    ctx: &Ctx,
) -> Result<(AgentPool, Option<Duration>), K8sError> {
    let now = ctx.clock.monotonic();
    let last = ctx.with_pool_memory(key, |m| m.written);
    let left = last.map_or(Duration::ZERO, |at| {
        (at + WRITTEN_EVERY).saturating_sub(now)
    });
    if !left.is_zero() && !status::is_urgent(pool.status.as_ref(), new) {
        return Ok((pool.clone(), Some(left)));
    }
    let written = apply::write_pool_status(api, pool, new).await?;
    if written.is_some() {
        // From its end on: what took long to write was seen late.
        let done = ctx.clock.monotonic();
        ctx.with_pool_memory(key, |m| m.written = Some(done));
    }
    Ok((written.unwrap_or_else(|| pool.clone()), None))
}

fn tick(pool: &AgentPool) -> Duration {
    Duration::from_secs(u64::try_from(pool.spec.tick_interval_seconds).unwrap_or(30))
}

// ---- observe --------------------------------------------------------------------------------------------------

/// The instances of a pool, from the watch.
pub fn instances_of(pool: &AgentPool, ctx: &Ctx) -> Vec<Arc<AgentInstance>> {
    let (namespace, name) = (pool.namespace(), pool.name_any());
    let mut found: Vec<Arc<AgentInstance>> = ctx
        .instances
        .state()
        .into_iter()
        .filter(|i| i.metadata.namespace == namespace && i.spec.pool_ref.name == name)
        .collect();
    // The store's own order is by hash: the same history must lead to the same writes.
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    found
}

fn members(instances: &[Arc<AgentInstance>], present: Option<&Present<'_>>) -> Vec<Member> {
    let mut members: Vec<Member> = instances.iter().map(|i| member(i, present)).collect();
    members.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    members
}

/// How many claims wait for an agent of the pool, those left out that an agent names already.
fn waiting(pool: &AgentPool, key: &(String, String), ctx: &Ctx) -> i32 {
    let instances = instances_of(pool, ctx);
    let served = instances
        .iter()
        .filter_map(|i| i.spec.claim.as_ref()?.reference.as_deref())
        .collect();
    i32::try_from(ctx.waiting.waiting(key, &served)).unwrap_or(i32::MAX)
}

fn member(instance: &AgentInstance, present: Option<&Present<'_>>) -> Member {
    Member {
        id: instance.spec.id.clone(),
        object: instance.name_any(),
        phase: phase::phase_of(instance),
        protected: phase::is_protected(instance),
        creation_failed: failed_creation(instance).map(|v| v.message.clone()),
        owed: owed(instance),
        reason: instance
            .status
            .as_ref()
            .and_then(|s| find(&s.conditions, ConditionType::Ready))
            .and_then(|c| Reason::parse(&c.reason)),
        drift: present.and_then(|present| drift::drift(instance, present)),
        created_at: instance.metadata.creation_timestamp.as_ref().map(|t| t.0),
    }
}

/// The instance that is to answer the claim on this one; `None`: it has none, or that is noted.
fn owed(instance: &AgentInstance) -> Option<Owed> {
    let claim = instance.spec.claim.as_ref()?;
    let noted = instance.annotations().get(ANNOTATION_REPLACED) == Some(&claim.id);
    // What came out of a backup was answered in its time, by whatever there was then.
    (!noted && !instance.spec.restored).then(|| Owed {
        id: names::replacement_id(&claim.id),
        due: phase::is_handed_out(instance),
    })
}

/// The open requests of the API; a list that cannot be read is none.
fn open_requests(pool: &AgentPool) -> Vec<Request> {
    pool.annotations()
        .get(ANNOTATION_REQUESTS)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// One event per change of the Ready condition's reason, and one per creation batch.
async fn tell(pool: &AgentPool, key: &(String, String), decision: &Decision, ctx: &Ctx) {
    if !decision.create.is_empty() {
        let note = format!(
            "creating {} agents: {}",
            decision.create.len(),
            decision.message
        );
        ctx.events
            .publish(pool, false, Reason::InstanceCreated, "Create", &note)
            .await;
    }
    tell_rollout(pool, key, decision, ctx).await;
    let Some(reason) = decision.reason else {
        return;
    };
    let recorded = pool
        .status
        .as_ref()
        .and_then(|s| find(&s.conditions, ConditionType::Ready))
        .map(|c| c.reason.clone());
    let old = ctx
        .with_pool_memory(key, |m| m.told.replace(reason.as_str().to_owned()))
        .or(recorded);
    if old.as_deref() == Some(reason.as_str()) {
        return;
    }
    let warning = !decision.ready
        && !matches!(
            reason,
            Reason::Filling | Reason::Pending | Reason::Draining | Reason::Paused
        );
    tracing::info!(pool = %key.1, ready = decision.ready, reason = reason.as_str(), "{}", decision.message);
    ctx.events
        .publish(pool, warning, reason, "Reconcile", &decision.message)
        .await;
}

/// One event per turn of a roll-out: it begins, is held, stops, is over.
async fn tell_rollout(pool: &AgentPool, key: &(String, String), decision: &Decision, ctx: &Ctx) {
    let Some(reason) = decision.rollout.reason else {
        return;
    };
    let conditions = pool.status.as_ref().map(|s| s.conditions.as_slice());
    let recorded = find(conditions.unwrap_or_default(), ConditionType::RolledOut);
    let recorded = recorded.map(|c| c.reason.clone());
    let told = reason.as_str().to_owned();
    let before = ctx.with_pool_memory(key, |m| m.rollout_told.replace(told));
    let before = before.or(recorded);
    let up_to_date = Reason::UpToDate.as_str();
    if before.as_deref().unwrap_or(up_to_date) == reason.as_str() {
        return;
    }
    let note = if reason == Reason::UpToDate {
        "every idle agent is what the pool builds now".to_owned()
    } else {
        decision.rollout.message.clone()
    };
    let fine = [
        Reason::UpToDate,
        Reason::RollingOut,
        Reason::QuotaReserved,
        Reason::Drifted,
        Reason::Paused,
    ];
    let warning = !fine.contains(&reason);
    tracing::info!(pool = %key.1, reason = reason.as_str(), "roll-out: {note}");
    ctx.events
        .publish(pool, warning, reason, "Rollout", &note)
        .await;
}
