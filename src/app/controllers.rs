//! The reconcilers with the real providers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use kube::runtime::reflector::{ObjectRef, Store};
use secrecy::SecretString;

use super::Process;
use super::ports::task;
use super::prerequisites::{Started, cluster_id, insist, wait_for};
use crate::api::{AgentInstance, AgentPool};
use crate::clock::Clock;
use crate::config::Config;
use crate::controllers::fleet::{Connect, Environment, Fleet, Scope};
use crate::controllers::memory::Memories;
use crate::controllers::{self, Ctx};
use crate::domain::plan::Trouble;
use crate::domain::template::Template;
use crate::k8s::event::Events;
use crate::k8s::watch::Queue;
use crate::provider::guarded::{CallObserver, Guarded};
use crate::provider::railway::{self, EnvironmentRef, RailwayConfig, RailwayProvider, Transport};
use crate::provider::{AgentProvider, Class};
use crate::telemetry::Metrics;

pub(super) type Touched<K> = tokio::sync::mpsc::UnboundedReceiver<ObjectRef<K>>;

pub(super) fn start_controllers(
    process: &Arc<Process>,
    pools: (Store<AgentPool>, Touched<AgentPool>, Queue<AgentPool>),
    instances: (
        Store<AgentInstance>,
        Touched<AgentInstance>,
        Queue<AgentInstance>,
    ),
    memories: Arc<Memories>,
    started: Started,
) {
    let shared = process.clone();
    task(process, "controllers", async move {
        if !wait_for(&shared, started.prepared.wait()).await {
            return;
        }
        let Some(cluster_id) = insist(&shared, || cluster_id(&shared)).await else {
            return;
        };
        if !wait_for(&shared, started.rooted.wait()).await {
            return;
        }
        let transport = match Transport::new(&shared.config.railway_url, shared.clock.clone()) {
            Ok(transport) => transport,
            Err(error) => {
                tracing::error!(%error, "cannot set up HTTP to Railway");
                return;
            }
        };
        let (pool_store, pools_touched, pool_queue) = pools;
        let (instance_store, instances_touched, instance_queue) = instances;
        if !wait_for(&shared, started.filled.wait()).await {
            return;
        }
        let connect = Connector {
            transport,
            config: shared.config.clone(),
            clock: shared.clock.clone(),
            metrics: shared.metrics.clone(),
        };
        let ctx = Arc::new(Ctx {
            client: shared.client.clone(),
            pools: pool_store.clone(),
            instances: instance_store.clone(),
            pool_queue,
            instance_queue,
            fleet: Fleet::new(
                shared.client.clone(),
                shared.clock.clone(),
                Arc::new(connect),
            ),
            runtime: shared.runtime.clone(),
            memories,
            events: Events::new(shared.client.clone(), "agentpool", &shared.holder),
            clock: shared.clock.clone(),
            rng: shared.rng.clone(),
            root_keys: shared.root_keys.clone(),
            cluster_id,
            release: shared.config.release.clone(),
            public_url: shared.config.public_url.clone(),
            metrics: shared.metrics.clone(),
            pool_memories: Mutex::default(),
        });
        tracing::info!(
            pools = pool_store.len(),
            instances = instance_store.len(),
            "reconciling"
        );
        let stop = &shared.shutdown;
        tokio::join!(
            controllers::run(
                "pool",
                ctx.clone(),
                pool_store,
                pools_touched,
                stop.clone(),
                controllers::pool::reconcile
            ),
            controllers::run(
                "instance",
                ctx,
                instance_store,
                instances_touched,
                stop.clone(),
                controllers::instance::reconcile
            ),
        );
    });
}

/// Makes the real providers.
pub(super) struct Connector {
    pub(super) transport: Transport,
    pub(super) config: Config,
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
}

impl Connect for Connector {
    fn connect(
        &self,
        scope: &Scope,
        credential: SecretString,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let config = RailwayConfig {
            base_url: self.config.railway_url.clone(),
            token: credential,
            token_kind: scope.token_kind,
            project_id: scope.project_id.clone(),
            environment: match &scope.environment {
                Environment::Id(id) => EnvironmentRef::Id(id.clone()),
                Environment::Name(name) => EnvironmentRef::Name(name.clone()),
            },
            clock: self.clock.clone(),
        };
        let provider =
            RailwayProvider::with_transport(config, &self.transport).map_err(|e| Trouble {
                class: Class::Unauthorized,
                reason: crate::api::condition::Reason::CredentialsInvalid,
                message: e.to_string(),
                retry_after: None,
            })?;
        let observer = Arc::new(Observer(self.metrics.clone()));
        Ok(Arc::new(Guarded::new(
            provider,
            "railway",
            self.clock.clone(),
            observer,
        )))
    }

    fn unsupported(&self, template: &Template) -> Option<String> {
        if template.provider.sprites.is_some() || template.provider.services_api.is_some() {
            return Some(
                "this version builds agents on Railway only: use spec.provider.railway".to_owned(),
            );
        }
        if template.services.is_some() {
            return Some("spec.services is not available in this version: give the agents' keys in spec.runtime.env".to_owned());
        }
        railway::supports(template)
            .err()
            .or_else(|| railway::cannot_pin(template))
    }
}
