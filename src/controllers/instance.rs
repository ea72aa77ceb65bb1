//! One AgentInstance: observe → decide → act → record.
//!
//! A pass asks `domain::instance::decide` again and again: for a read that is missing it reads, for an effect it does
//! it, for a record it writes and goes on with the object as the API server returned it. A pass ends when there is
//! nothing to do now, or after one effect on the object itself.
//!
//! A step is sent only under a permit: this process recorded its intent and has not sent it yet. The permit is in
//! memory, so whoever comes after a crash looks first.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use secrecy::{ExposeSecret, SecretString};

use super::Ctx;
use super::fleet::{self, Scope, Snapshot};
use super::memory;
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::{AgentPool, RuntimeAuth};
use crate::api::condition::Reason;
use crate::api::names;
use crate::domain::agent::{Dialect, Probe};
use crate::domain::instance::decide::{self, Action, Change, Decision};
use crate::domain::instance::phase::{self, Phase};
use crate::domain::instance::status::{self, Given, facts_of};
use crate::domain::instance::view::{Evidence, Limits, Listed, View};
use crate::domain::plan::{Class, Operation, Seen, Step, StepSpec, Trouble};
use crate::domain::resource::{Liveness, Presence, Resource};
use crate::domain::template::Template;
use crate::domain::token::Purpose;
use crate::domain::variables::{self, Material};
use crate::k8s::error::K8sError;
use crate::k8s::{patch, secret};
use crate::provider::{AgentProvider, Inputs, Key};
use crate::runtime::Agent;

/// Rounds of one pass: a creation has about five records, each with two reads.
const ROUNDS: usize = 32;
/// Time limit of a probe, health and status each.
pub const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// What a pass works with, gathered once.
struct Surroundings {
    api: Api<AgentInstance>,
    pool: Option<Arc<AgentPool>>,
    template: Option<Arc<Template>>,
    scope: Option<Scope>,
    provider: Result<Arc<dyn AgentProvider>, Trouble>,
    plan: Vec<StepSpec>,
    limits: Limits,
    key: Key,
}

/// Reconciles one instance; when to come back at the latest.
pub async fn reconcile(instance: Arc<AgentInstance>, ctx: Arc<Ctx>) -> Duration {
    let name = instance.name_any();
    let mut object = (*instance).clone();
    let around = gather(&object, &ctx).await;
    let mut evidence = Evidence::default();
    for _ in 0..ROUNDS {
        let decision = judge(&object, &around, &evidence, &ctx).await;
        tracing::debug!(instance = %name, action = ?decision.action, reason = decision.reason.as_str(), "decided");
        match act(&mut object, &around, &mut evidence, &decision, &ctx).await {
            Ok(Next::Again) => {}
            Ok(Next::Later) => return decision.recheck.max(Duration::from_millis(50)),
            Ok(Next::Over) => {
                ctx.memories.forget(&object);
                return Duration::from_secs(3600);
            }
            Err(error) => return failed(&name, &error, &ctx),
        }
    }
    tracing::error!(instance = %name, reason = Reason::InternalError.as_str(), "a pass did not end; it goes on in a second");
    Duration::from_secs(1)
}

enum Next {
    Again,
    Later,
    Over,
}

fn failed(name: &str, error: &K8sError, ctx: &Ctx) -> Duration {
    if error.is_conflict() || error.is_invalid() {
        // Somebody wrote since the cache did: the watch brings it.
        return Duration::from_millis(100);
    }
    if error.is_gone() {
        return Duration::from_secs(60);
    }
    ctx.metrics.reconcile_error("instance", "kubernetes");
    tracing::warn!(instance = name, error = %chain(error), "not recorded; coming back");
    Duration::from_secs(2)
}

/// An error with its causes, each once: kube's own texts repeat theirs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = e.source();
    }
    text
}

// ---- observe --------------------------------------------------------------------------------------------------

async fn gather(object: &AgentInstance, ctx: &Ctx) -> Surroundings {
    let namespace = object.namespace().unwrap_or_default();
    let pool = ctx
        .pools
        .get(&ObjectRef::new(&object.spec.pool_ref.name).within(&namespace));
    let template = match ctx
        .fleet
        .template(&namespace, &object.spec.template.revision)
        .await
    {
        Ok(template) => template,
        Err(error) => {
            tracing::debug!(instance = %object.name_any(), error = %chain(&error), "template not read");
            None
        }
    };
    let scope = object
        .spec
        .provider
        .as_ref()
        .and_then(|p| fleet::scope_of_instance(&namespace, p));
    let provider = match &scope {
        Some(scope) => ctx.fleet.provider(scope).await,
        None => Err(Trouble {
            class: Class::Rejected,
            reason: Reason::InvalidSpec,
            message: "spec.provider is missing: the instance cannot be found at any provider"
                .to_owned(),
            retry_after: None,
        }),
    };
    let plan = match (&provider, &template) {
        (Ok(provider), Some(template)) => provider.plan(Operation::Create, template),
        _ => vec![],
    };
    let mut limits = pool.as_ref().map(|p| limits_of(p)).unwrap_or_default();
    if let Ok(provider) = &provider {
        limits.list_lag = provider.capabilities().list_lag;
    }
    let mark = names::owner_mark(&ctx.cluster_id, &namespace, &object.spec.id);
    let key = Key {
        id: object.spec.id.clone(),
        name: object.spec.provider_name.clone(),
        mark,
    };
    Surroundings {
        api: Api::namespaced(ctx.client.clone(), &namespace),
        pool,
        template,
        scope,
        provider,
        plan,
        limits,
        key,
    }
}

fn limits_of(pool: &AgentPool) -> Limits {
    let seconds = |s: i32| Duration::from_secs(u64::try_from(s).unwrap_or_default());
    Limits {
        tick: seconds(pool.spec.tick_interval_seconds),
        stuck: seconds(pool.spec.stuck_timeout_seconds),
        cleanup: seconds(pool.spec.cleanup_after_seconds),
        claim_deadline: seconds(pool.spec.claim.deadline_seconds),
        allow_unknown_clean: pool.spec.runtime.allow_unknown_clean,
        ..Limits::default()
    }
}

async fn judge(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &Evidence,
    ctx: &Ctx,
) -> Decision {
    let snapshot = snapshot(object, around, ctx).await;
    let listed = listed(object, snapshot.as_deref(), around, ctx);
    let now = ctx.clock.monotonic();
    ctx.memories.with(object, |m| match &listed {
        Listed::Absent => {
            m.missing.get_or_insert(now);
        }
        Listed::Present(r) => {
            m.missing = None;
            if r.liveness == Liveness::Stopped {
                m.stopped.get_or_insert(now);
            } else {
                m.stopped = None;
            }
        }
        Listed::Unknown => {}
    });
    let memory = ctx.memories.notice(object, now);
    let progress = progress(object, around, &listed);
    decide::decide(&View {
        instance: object,
        plan: &around.plan,
        listed,
        progress,
        evidence,
        memory,
        limits: around.limits,
    })
}

/// The scope's listing: fresh enough for what the instance waits for. Absent where it failed.
async fn snapshot(
    object: &AgentInstance,
    around: &Surroundings,
    ctx: &Ctx,
) -> Option<Arc<Snapshot>> {
    let scope = around.scope.as_ref()?;
    let status = object.status.as_ref();
    status
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.id.as_ref())?;
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let waiting = status.and_then(|s| s.operation.as_ref()).is_some();
    let max_age = if waiting {
        around.limits.tick.min(Duration::from_secs(3))
    } else {
        around.limits.tick
    };
    match ctx.fleet.snapshot(scope, max_age).await {
        Ok(snapshot) => Some(snapshot),
        Err(_) => None,
    }
}

fn listed(
    object: &AgentInstance,
    snapshot: Option<&Snapshot>,
    around: &Surroundings,
    ctx: &Ctx,
) -> Listed {
    let Some(snapshot) = snapshot else {
        return Listed::Unknown;
    };
    let Some(id) = object
        .status
        .as_ref()
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.id.as_ref())
    else {
        return Listed::Unknown;
    };
    match snapshot.by_id.get(id) {
        Some(resource) => Listed::Present(Box::new(resource.clone())),
        // A listing cannot tell of what came after it was begun, nor of what it may still lag behind.
        None => {
            let written = ctx.memories.with(object, |m| m.written);
            let lag = if object
                .status
                .as_ref()
                .is_some_and(|s| s.operation.is_some())
            {
                around.limits.list_lag
            } else {
                Duration::ZERO
            };
            if snapshot.begun > written + lag {
                Listed::Absent
            } else {
                Listed::Unknown
            }
        }
    }
}

fn progress(object: &AgentInstance, around: &Surroundings, listed: &Listed) -> Option<Seen> {
    let (Ok(provider), Listed::Present(resource)) = (&around.provider, listed) else {
        return None;
    };
    let operation = object.status.as_ref()?.operation.as_ref()?;
    let (_, spec, _) = decide::current(&around.plan, operation)?;
    match spec.step {
        Step::Provider(step) => {
            Some(provider.progress(step, &facts_of(object.status.as_ref()), resource))
        }
        _ => None,
    }
}

// ---- act ------------------------------------------------------------------------------------------------------

async fn act(
    object: &mut AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    decision: &Decision,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    match &decision.action {
        Action::Wait => {
            record(object, around, evidence, decision, ctx).await?;
            rename_if_claimed(object, around, ctx).await;
            Ok(Next::Later)
        }
        Action::Record(_) => {
            record(object, around, evidence, decision, ctx).await?;
            // Evidence about a step is used up with the step's record; a probe stays good for the rest of the pass.
            *evidence = Evidence {
                probe: evidence.probe.take(),
                ..Evidence::default()
            };
            Ok(Next::Again)
        }
        Action::Look(index) => look(object, around, evidence, *index, ctx).await,
        Action::Perform(index) => perform(object, around, evidence, *index, ctx).await,
        Action::Probe => {
            evidence.probe = Some(probe(object, around, ctx).await);
            Ok(Next::Again)
        }
        Action::Observe => observe(object, around, evidence, ctx).await,
        Action::Destroy => destroy(object, around, evidence, ctx).await,
        Action::Delete => {
            record(object, around, evidence, decision, ctx).await?;
            match patch::delete_as_read(&around.api, object).await {
                Err(e) if e.is_gone() => {}
                other => other?,
            }
            tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "delete", reason = decision.reason.as_str(), "deleting: {}", decision.message);
            let note = format!("{}; the agent is destroyed and replaced", decision.message);
            ctx.events
                .publish(object, true, decision.reason, "Delete", &note)
                .await;
            Ok(Next::Later)
        }
        Action::RemoveFinalizer => {
            match patch::remove_finalizer(&around.api, object).await {
                Err(e) if e.is_gone() => {}
                other => other?,
            }
            tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = "removed", "{}", decision.message);
            Ok(Next::Over)
        }
    }
}

/// Writes the status that follows from the decision, where it differs; goes on with the object as written.
async fn record(
    object: &mut AgentInstance,
    around: &Surroundings,
    evidence: &Evidence,
    decision: &Decision,
    ctx: &Ctx,
) -> Result<(), K8sError> {
    let snapshot = match &around.scope {
        Some(scope) => ctx.fleet.latest(scope).await,
        None => None,
    };
    let listed = listed(object, snapshot.as_deref(), around, ctx);
    let now = ctx.clock.monotonic();
    let memory = ctx.memories.notice(object, now);
    let given = Given {
        now: ctx.clock.now(),
        operation_id: names::hex(&ctx.rng.bytes::<4>()),
        token_key: ctx.root_keys.get().map(|k| k.fingerprint()),
        image: around.template.as_ref().and_then(|t| image_of(t)),
    };
    let view = View {
        instance: object,
        plan: &around.plan,
        listed,
        progress: None,
        evidence,
        memory,
        limits: around.limits,
    };
    let new = status::status(&view, decision, &given);
    let before = phase::phase_of(object);
    if let Some(written) = patch::write_status(&around.api, object, &new).await? {
        let grants = matches!(
            decision.action,
            Action::Record(Change::Begin | Change::Done(_) | Change::Again)
        );
        *object = written;
        ctx.memories.with(object, |m| {
            m.written = ctx.clock.monotonic();
            m.failures = if evidence.trouble.is_some() {
                m.failures
            } else {
                0
            };
            m.permit = if grants {
                memory::intent(object)
            } else {
                m.permit.take()
            };
        });
    }
    tell(object, before, decision, ctx).await;
    Ok(())
}

fn image_of(template: &Template) -> Option<String> {
    template
        .provider
        .railway
        .as_ref()?
        .source
        .image
        .as_ref()
        .map(|i| i.reference.clone())
}

/// One event and one log line per transition.
async fn tell(object: &AgentInstance, before: Phase, decision: &Decision, ctx: &Ctx) {
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

fn provider(around: &Surroundings) -> Result<&Arc<dyn AgentProvider>, Trouble> {
    around.provider.as_ref().map_err(Clone::clone)
}

fn step_name(around: &Surroundings, index: usize) -> &'static str {
    match around.plan.get(index).map(|s| s.step) {
        Some(Step::Provider(name)) => name,
        _ => "",
    }
}

/// Notes a failed call: the next decision waits as its class says.
fn note(object: &AgentInstance, evidence: &mut Evidence, trouble: Trouble, ctx: &Ctx) -> Next {
    ctx.metrics
        .reconcile_error("instance", trouble.class.as_str());
    tracing::debug!(instance = %object.name_any(), class = trouble.class.as_str(), reason = trouble.reason.as_str(), "{}", trouble.message);
    ctx.memories
        .with(object, |m| m.failures = m.failures.saturating_add(1));
    evidence.trouble = Some(trouble);
    Next::Again
}

async fn look(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    index: usize,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    let result = match provider(around) {
        Ok(provider) => provider
            .look(
                &around.key,
                &facts_of(object.status.as_ref()),
                step_name(around, index),
            )
            .await
            .map_err(Trouble::from),
        Err(trouble) => Err(trouble),
    };
    let now = ctx.clock.monotonic();
    match result {
        Ok(seen) => {
            ctx.memories.with(object, |m| match seen {
                Seen::Absent => {
                    m.missing.get_or_insert(now);
                }
                _ => m.missing = None,
            });
            evidence.look = Some(seen);
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, evidence, trouble, ctx)),
    }
}

async fn perform(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    index: usize,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    let inputs = match inputs(object, around, ctx).await {
        Ok(inputs) => inputs,
        Err(trouble) => return Ok(note(object, evidence, trouble, ctx)),
    };
    let (provider, template) = match (provider(around), around.template.as_ref()) {
        (Ok(provider), Some(template)) => (provider, template),
        (Err(trouble), _) => return Ok(note(object, evidence, trouble, ctx)),
        (Ok(_), None) => return Ok(Next::Later),
    };
    // From here on the step may have been sent: the permit is used up before the call, not after it.
    let permit = ctx.memories.with(object, |m| {
        m.missing = None;
        m.permit.take()
    });
    let name = step_name(around, index);
    let started = ctx.clock.monotonic();
    let result = provider
        .perform(
            &around.key,
            &facts_of(object.status.as_ref()),
            name,
            template,
            &inputs,
        )
        .await;
    let seconds = ctx.clock.monotonic().saturating_sub(started).as_secs_f64();
    tracing::info!(instance = %object.name_any(), pool = %object.spec.pool_ref.name, action = name, seconds, ok = result.is_ok(), "step sent");
    match result {
        Ok(outcome) => {
            evidence.outcome = Some(outcome);
            Ok(Next::Again)
        }
        Err(error) => {
            let trouble = Trouble::from(error);
            // These say that nothing was done: it may be sent again without looking.
            if matches!(
                trouble.class,
                Class::Throttled | Class::Capacity | Class::Unauthorized | Class::Transient
            ) {
                ctx.memories.with(object, |m| m.permit = permit);
            }
            Ok(note(object, evidence, trouble, ctx))
        }
    }
}

/// The finished variables of an agent, its secrets included.
async fn inputs(
    object: &AgentInstance,
    around: &Surroundings,
    ctx: &Ctx,
) -> Result<Inputs, Trouble> {
    let Some(template) = &around.template else {
        return Ok(Inputs::default());
    };
    let namespace = object.namespace().unwrap_or_default();
    let rejected = |reason, message| Trouble {
        class: Class::Rejected,
        reason,
        message,
        retry_after: None,
    };
    let mut secrets = std::collections::BTreeMap::new();
    for reference in variables::references(template) {
        let value = secret::value(&ctx.client, &namespace, reference)
            .await
            .map_err(|e| Trouble {
                class: Class::Unauthorized,
                reason: Reason::CredentialsMissing,
                message: e.to_string(),
                retry_after: Some(Duration::from_secs(10)),
            })?;
        secrets.insert(
            (reference.name.clone(), reference.key.clone()),
            value.expose_secret().to_owned(),
        );
    }
    let token = token(object, template, ctx).await?;
    let derived = |purpose| {
        ctx.root_keys
            .get()
            .and_then(|k| k.token(purpose, &object.spec.id, 1, None))
            .ok_or_else(|| rejected(Reason::InternalError, "no root key".to_owned()))
    };
    let (setup, wallet) = (derived(Purpose::Setup)?, derived(Purpose::Wallet)?);
    let variables = variables::variables(&Material {
        template,
        id: &object.spec.id,
        mark: &around.key.mark,
        token: token.as_ref().map(ExposeSecret::expose_secret),
        setup_password: &setup.expose_secret()[..32],
        wallet_key: wallet.expose_secret(),
        public_url: ctx.public_url.as_deref(),
        secrets: &secrets,
    })
    .map_err(|message| rejected(Reason::InvalidSpec, message))?;
    Ok(Inputs {
        variables,
        image: image_of(template),
    })
}

/// The agent's token by its template's auth.
async fn token(
    object: &AgentInstance,
    template: &Template,
    ctx: &Ctx,
) -> Result<Option<SecretString>, Trouble> {
    match template.runtime.auth {
        RuntimeAuth::None => Ok(None),
        RuntimeAuth::Shared => shared_key(object, template, ctx).await,
        RuntimeAuth::Instance => {
            let status = object.status.as_ref();
            let n = status.and_then(|s| s.token_seq).unwrap_or(1);
            let key = status.and_then(|s| s.token_key.as_deref());
            ctx.root_keys.get().and_then(|k| k.token(Purpose::Gateway, &object.spec.id, n, key)).map(Some).ok_or_else(|| Trouble {
                class: Class::Unauthorized,
                reason: Reason::CredentialsMissing,
                message: "the root key that this agent's token derives from is no longer in the root key Secret: put it back as `previous`".to_owned(),
                retry_after: None,
            })
        }
    }
}

async fn shared_key(
    object: &AgentInstance,
    template: &Template,
    ctx: &Ctx,
) -> Result<Option<SecretString>, Trouble> {
    let Some(reference) = &template.runtime.shared_key_secret_ref else {
        return Ok(None);
    };
    let namespace = object.namespace().unwrap_or_default();
    secret::value(&ctx.client, &namespace, reference)
        .await
        .map(Some)
        .map_err(|e| Trouble {
            class: Class::Unauthorized,
            reason: Reason::CredentialsMissing,
            message: e.to_string(),
            retry_after: Some(Duration::from_secs(10)),
        })
}

async fn probe(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Probe {
    ctx.memories
        .with(object, |m| m.probed = Some(ctx.clock.monotonic()));
    let status = object.status.as_ref();
    let (Some(url), Some(template)) =
        (status.and_then(|s| s.url.clone()), around.template.as_ref())
    else {
        return Probe::NotReady("the agent has no address yet".to_owned());
    };
    let (token, shared) = match (
        token(object, template, ctx).await,
        shared_key(object, template, ctx).await,
    ) {
        (Ok(token), Ok(shared)) => (token, shared),
        (Err(t), _) | (_, Err(t)) => return Probe::NotReady(t.message),
    };
    let recorded = status
        .and_then(|s| s.runtime.as_ref())
        .and_then(|r| r.dialect.as_deref())
        .and_then(Dialect::parse);
    let fixed = match template.runtime.dialect {
        crate::api::agent_pool::DialectChoice::Auto => None,
        crate::api::agent_pool::DialectChoice::PoolServer => Some(Dialect::PoolServer),
        crate::api::agent_pool::DialectChoice::Gateway => Some(Dialect::Gateway),
    };
    let probe = ctx
        .runtime
        .probe(
            &Agent {
                url,
                token,
                shared_key: shared,
            },
            recorded.or(fixed),
            PROBE_LIMIT,
        )
        .await;
    let now = ctx.clock.monotonic();
    let expected = status
        .and_then(|s| s.claim.as_ref())
        .and_then(|c| c.conversation_id.clone());
    ctx.memories.with(object, |m| match &probe {
        Probe::Answered { status, .. } if status.conversation == expected => m.unbound = None,
        Probe::Answered { .. } => {
            m.unbound.get_or_insert(now);
        }
        _ => {}
    });
    probe
}

async fn observe(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    let result = match provider(around) {
        Ok(provider) => provider
            .observe(&around.key, &facts_of(object.status.as_ref()))
            .await
            .map_err(Trouble::from),
        Err(trouble) => Err(trouble),
    };
    match result {
        Ok(presence) => {
            if matches!(presence, Presence::Present(_)) {
                ctx.memories.with(object, |m| m.missing = None);
            }
            evidence.presence = Some(presence);
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, evidence, trouble, ctx)),
    }
}

async fn destroy(
    object: &AgentInstance,
    around: &Surroundings,
    evidence: &mut Evidence,
    ctx: &Ctx,
) -> Result<Next, K8sError> {
    let result = match provider(around) {
        Ok(provider) => provider
            .destroy(&around.key, &facts_of(object.status.as_ref()))
            .await
            .map_err(Trouble::from),
        Err(trouble) => Err(trouble),
    };
    let now = ctx.clock.monotonic();
    match result {
        Ok(presence) => {
            ctx.memories.with(object, |m| match presence {
                Presence::Gone => {
                    m.missing.get_or_insert(now);
                }
                _ => {
                    m.missing = None;
                    m.failures = m.failures.saturating_add(1);
                }
            });
            evidence.removal = Some(presence);
            Ok(Next::Again)
        }
        Err(trouble) => Ok(note(object, evidence, trouble, ctx)),
    }
}

// ---- rename after a claim -------------------------------------------------------------------------------------

/// Renames the resource after its agent, so that a person recognises it. Best effort: three tries, nothing recorded;
/// whether it is done shows in the listing.
async fn rename_if_claimed(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) {
    let (Some(pool), Some(claim), Some(scope)) = (&around.pool, &object.spec.claim, &around.scope)
    else {
        return;
    };
    if !pool.spec.claim.rename_on_claim
        || phase::phase_of(object) != Phase::Claimed
        || object.status.as_ref().is_none_or(|s| s.claim.is_none())
    {
        return;
    }
    let code = crate::domain::template::environment_code(&pool.spec);
    let Some(wanted) = names::claimed_provider_name(&code, &claim.agent_name, &object.spec.id)
    else {
        return;
    };
    let Some(shown) = ctx
        .fleet
        .latest(scope)
        .await
        .and_then(|s| resource_of(object, &s))
    else {
        return;
    };
    if shown.name == wanted || shown.name != object.spec.provider_name {
        return;
    }
    // The listing may be older than an earlier rename: it may be tried once more than needed, and three times in all.
    let tried = ctx.memories.with(object, |m| {
        if m.renames.0.as_deref() != Some(claim.id.as_str()) {
            m.renames = (Some(claim.id.clone()), 0);
        }
        m.renames.1 = m.renames.1.saturating_add(1);
        m.renames.1
    });
    if tried > 3 {
        return;
    }
    let Ok(provider) = provider(around) else {
        return;
    };
    if provider.capabilities().rename
        && let Err(error) = provider
            .after_claim(&around.key, &facts_of(object.status.as_ref()), &wanted)
            .await
    {
        tracing::info!(instance = %object.name_any(), %error, "not renamed after its agent; the claim stands");
    }
}

fn resource_of(object: &AgentInstance, snapshot: &Snapshot) -> Option<Resource> {
    let id = object.status.as_ref()?.provider.as_ref()?.id.as_ref()?;
    snapshot.by_id.get(id).cloned()
}
