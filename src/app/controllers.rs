//! The reconcilers with the real providers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::runtime::reflector::{ObjectRef, Store};
use secrecy::SecretString;

use super::Process;
use super::leadership;
use super::ports::task;
use super::prerequisites::{Started, cluster_id, insist, wait_for};
use crate::api::{AgentClaim, AgentInstance, AgentPool};
use crate::clock::Clock;
use crate::config::Config;
use crate::controllers::fleet::{Connect, Environment, Fleet, Scope};
use crate::controllers::hooks::Hooks;
use crate::controllers::images::Images;
use crate::controllers::memory::Memories;
use crate::controllers::sweep::Sweeps;
use crate::controllers::{self, Ctx};
use crate::domain::plan::Trouble;
use crate::domain::template::Template;
use crate::k8s::event::Events;
use crate::provider::account::Purpose;
use crate::provider::guarded::{CallObserver, Guarded};
use crate::provider::railway::{self, EnvironmentRef, RailwayConfig, RailwayProvider, Transport};
use crate::provider::sprites::{self, SpritesProvider};
use crate::provider::{AgentProvider, Class, HookSettings};
use crate::services::registry::Registry;
use crate::telemetry::Metrics;

type Stores = (Store<AgentPool>, Store<AgentInstance>, Store<AgentClaim>);

pub(super) fn start_controllers(
    process: &Arc<Process>,
    stores: Stores,
    memories: Arc<Memories>,
    started: Started,
) {
    let shared = process.clone();
    task(process, "controllers", async move {
        let Some((cluster_id, outside)) = prepare(&shared, &started).await else {
            return;
        };
        let mut candidate = leadership::candidate(&shared);
        while leadership::lead(&shared, &mut candidate).await {
            // What an earlier term remembered is worth nothing: others led meanwhile.
            memories.keep_only(&[]);
            let ctx = context(&shared, &stores, &memories, (&cluster_id, &outside));
            let work = work(&shared, ctx, stores.2.clone());
            // The term is renewed while a shutdown finishes what is in hand, and let go only then.
            tokio::select! {
                () = work => {}
                () = leadership::keep(&shared, &mut candidate) => {}
            }
            candidate.release().await;
        }
    });
}

/// What the controllers need before they can lead; `None` where the process stops meanwhile.
async fn prepare(process: &Process, started: &Started) -> Option<(String, Outside)> {
    if !wait_for(process, started.prepared.wait()).await {
        return None;
    }
    let cluster_id = insist(process, || cluster_id(process)).await?;
    if !wait_for(process, started.rooted.wait()).await
        || !wait_for(process, started.filled.wait()).await
    {
        return None;
    }
    match outside(&process.config, &process.clock) {
        Ok(outside) => Some((cluster_id, outside)),
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "cannot set up HTTP to the outside");
            None
        }
    }
}

/// The ways to what every term of leadership shares: each holds the waits of its tokens.
struct Outside {
    transports: Transports,
    registry: Registry,
}

/// The ways to the providers.
#[derive(Clone)]
pub(super) struct Transports {
    railway: Transport,
    sprites: sprites::Transport,
}

pub(super) fn transports(
    railway_url: &str,
    sprites_url: &str,
    clock: &Clock,
) -> Result<Transports> {
    let sprites = sprites::Transport::new(sprites_url, clock.clone());
    Ok(Transports {
        railway: Transport::new(railway_url, clock.clone()).context("Railway")?,
        sprites: sprites.context("Sprites")?,
    })
}

fn outside(config: &Config, clock: &Clock) -> Result<Outside> {
    Ok(Outside {
        transports: transports(&config.railway_url, &config.sprites_url, clock)?,
        registry: Registry::new(&config.registry_url).context("the registry")?,
    })
}

fn context(
    process: &Arc<Process>,
    (pools, instances, _): &Stores,
    memories: &Arc<Memories>,
    (cluster_id, outside): (&str, &Outside),
) -> Arc<Ctx> {
    tracing::info!(
        pools = pools.len(),
        instances = instances.len(),
        "reconciling"
    );
    let connect = Connector {
        transports: outside.transports.clone(),
        railway_url: process.config.railway_url.clone(),
        clock: process.clock.clone(),
        metrics: process.metrics.clone(),
    };
    let (client, clock) = (process.client.clone(), process.clock.clone());
    let images = Images::new(
        client.clone(),
        clock.clone(),
        outside.registry.clone(),
        process.config.digest_kept,
    );
    let ctx = Arc::new(Ctx {
        images,
        hooks: Hooks::new(hook_settings(&process.config)),
        fleet: Fleet::new(client.clone(), clock.clone(), Arc::new(connect)),
        events: Events::new(client.clone(), "agentpool", &process.holder),
        client,
        clock,
        pools: pools.clone(),
        instances: instances.clone(),
        pool_queue: process.pool_queue.clone(),
        instance_queue: process.instance_queue.clone(),
        runtime: process.runtime.clone(),
        memories: memories.clone(),
        leadership: process.leadership.clone(),
        rng: process.rng.clone(),
        root_keys: process.root_keys.clone(),
        cluster_id: cluster_id.to_owned(),
        release: process.config.release.clone(),
        public_url: process.config.public_url.clone(),
        metrics: process.metrics.clone(),
        sweeps: Sweeps::default(),
        waiting: process.waiting.clone(),
        key_kept: process.config.key_kept,
        namespace: process.config.namespace.clone(),
        sweep_grace: process.config.sweep_grace,
        pool_memories: Mutex::default(),
    });
    // A follower has no such context, and so no such gauge.
    process
        .metrics
        .set_stray_source(controllers::sweep::stray_source(&ctx));
    ctx
}

/// Where Railway is to tell us of events; `None` without a public address and a secret of its own.
fn hook_settings(config: &Config) -> Option<HookSettings> {
    Some(HookSettings {
        url: format!("{}/webhooks/railway", config.public_url.as_ref()?),
        secret: config.webhook_secret.clone()?,
    })
}

/// The reconcilers, until the process stops.
async fn work(process: &Process, ctx: Arc<Ctx>, claims: Store<AgentClaim>) {
    let (pools_touched, instances_touched) = (ctx.pool_queue.open(), ctx.instance_queue.open());
    let claims_touched = process.claim_queue.open();
    leadership::touch_all(&ctx);
    for claim in claims.state() {
        process
            .claim_queue
            .push(ObjectRef::from_obj(claim.as_ref()));
    }
    let stop = &process.shutdown;
    let (pools, instances) = (ctx.pools.clone(), ctx.instances.clone());
    tokio::join!(
        controllers::sweep::run(ctx.clone(), stop.clone()),
        controllers::claims::expire(ctx.clone(), stop.clone()),
        controllers::hooks::run(ctx.clone(), stop.clone()),
        controllers::run(
            "claim",
            ctx.clone(),
            claims,
            claims_touched,
            stop.clone(),
            controllers::claims::reconcile
        ),
        controllers::run(
            "pool",
            ctx.clone(),
            pools,
            pools_touched,
            stop.clone(),
            controllers::pool::reconcile
        ),
        controllers::run(
            "instance",
            ctx,
            instances,
            instances_touched,
            stop.clone(),
            controllers::instance::reconcile
        ),
    );
}

/// Providers for claims, which prepare agents inside their machines.
pub(super) fn fleet(process: &Process) -> Result<Fleet> {
    let connect = Connector {
        transports: transports(
            &process.config.railway_url,
            &process.config.sprites_url,
            &process.clock,
        )?,
        railway_url: process.config.railway_url.clone(),
        clock: process.clock.clone(),
        metrics: process.metrics.clone(),
    };
    let (client, clock) = (process.client.clone(), process.clock.clone());
    Ok(Fleet::new(client, clock, Arc::new(connect)))
}

/// Makes the real providers.
pub(super) struct Connector {
    pub(super) transports: Transports,
    pub(super) railway_url: String,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
}

/// Counts a provider's calls.
pub(super) struct Observer(Metrics);

impl CallObserver for Observer {
    fn observed(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        seconds: f64,
    ) {
        self.0.provider_call(
            provider,
            operation,
            outcome,
            Duration::from_secs_f64(seconds),
        );
    }

    fn requested(&self, provider: &'static str, purpose: Purpose, requests: u32) {
        self.0
            .provider_requests(provider, purpose.as_str(), requests);
    }
}

impl Connector {
    fn railway(&self, scope: &Scope, token: SecretString) -> Result<RailwayProvider, Trouble> {
        let config = RailwayConfig {
            base_url: self.railway_url.clone(),
            token,
            token_kind: scope.token_kind,
            project_id: scope.project_id.clone(),
            environment: match &scope.environment {
                Environment::Id(id) => EnvironmentRef::Id(id.clone()),
                Environment::Name(name) => EnvironmentRef::Name(name.clone()),
                Environment::Workspace(id) => EnvironmentRef::Workspace(id.clone()),
            },
            clock: self.clock.clone(),
        };
        RailwayProvider::with_transport(config, &self.transports.railway).map_err(unusable)
    }

    fn guarded<P: AgentProvider + 'static>(
        &self,
        provider: P,
        label: &'static str,
    ) -> Arc<dyn AgentProvider> {
        let observer = Arc::new(Observer(self.metrics.clone()));
        Arc::new(Guarded::new(provider, label, self.clock.clone(), observer))
    }
}

/// A credential that no request can carry.
fn unusable(error: impl std::fmt::Display) -> Trouble {
    Trouble {
        class: Class::Unauthorized,
        reason: crate::api::condition::Reason::CredentialsInvalid,
        message: error.to_string(),
        retry_after: None,
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        scope: &Scope,
        credential: SecretString,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        match scope.kind.as_str() {
            "Railway" => Ok(self.guarded(self.railway(scope, credential)?, "railway")),
            "Sprites" => {
                let provider = SpritesProvider::new(&self.transports.sprites, credential);
                Ok(self.guarded(provider.map_err(unusable)?, "sprites"))
            }
            other => Err(Trouble {
                class: Class::Rejected,
                reason: crate::api::condition::Reason::NotSupported,
                message: format!("this version knows no provider {other}"),
                retry_after: None,
            }),
        }
    }

    fn unsupported(&self, template: &Template) -> Option<String> {
        if template.provider.services_api.is_some() {
            return Some(
                "spec.provider.servicesApi is not available in this version: use spec.provider.railway or spec.provider.sprites"
                    .to_owned(),
            );
        }
        if template.services.is_some() {
            return Some("spec.services is not available in this version: give the agents' keys in spec.runtime.env".to_owned());
        }
        if template.provider.sprites.is_some() {
            return sprites::supports(template).err();
        }
        railway::supports(template).err()
    }
}
