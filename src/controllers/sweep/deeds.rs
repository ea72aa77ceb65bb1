//! What is read about a stranger, and the two things that may be done about it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::agent_instance::{AgentInstance, Claim};
use crate::api::agent_pool::{AgentPool, DialectChoice};
use crate::api::condition::Reason;
use crate::api::names;
use crate::controllers::Ctx;
use crate::controllers::fleet::Scope;
use crate::controllers::instance::{PROBE_LIMIT, variables};
use crate::controllers::pool;
use crate::domain::agent::{Dialect, Probe};
use crate::domain::backoff::Call;
use crate::domain::resource::Presence;
use crate::domain::sweep::{ADOPTED_BY, RETRY, Sighting};
use crate::domain::template::Template;
use crate::k8s::CALL_LIMIT;
use crate::k8s::apply;
use crate::k8s::error::{K8sError, chain, within};
use crate::provider::account::{self, Purpose};
use crate::provider::{AgentProvider, Key};
use crate::runtime::Agent;

/// What this pass read about a stranger.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) mark_read: bool,
    pub(super) registered: Option<bool>,
    pub(super) probe: Option<Probe>,
    pub(super) troubled: bool,
}

/// One stranger, and what it takes to deal with it.
pub(super) struct Hands<'a> {
    pub(super) scope: &'a Scope,
    pub(super) pools: &'a [Arc<AgentPool>],
    pub(super) provider: Arc<dyn AgentProvider>,
    pub(super) sighting: &'a Sighting<'a>,
    /// The provider or the agent was asked.
    pub(super) asked: bool,
}

impl Hands<'_> {
    /// Whose it is, directly.
    pub(super) async fn read_mark(&mut self, evidence: &mut Evidence, ctx: &Ctx) {
        let resource = self.sighting.resource;
        if let Err(trouble) = ctx.fleet.admit(self.scope, Call::Read).await {
            tracing::debug!(resource = %resource.name, reason = trouble.reason.as_str(), "its mark is not read now");
            evidence.troubled = true;
            return;
        }
        self.asked = true;
        match account::shared(Purpose::Sweep, self.provider.owner(resource)).await {
            Ok(owner) => {
                evidence.mark_read = true;
                let now = ctx.clock.monotonic();
                ctx.sweeps.mark(self.scope, &resource.id, owner, now);
            }
            Err(error) => {
                evidence.troubled = true;
                tracing::info!(resource = %resource.name, class = error.class.as_str(), %error, "its mark cannot be read; nothing is done about it");
            }
        }
    }

    /// Whether the API server, not the cache, knows its id: an instance, or a pool that is about to create it.
    pub(super) async fn read_cluster(&self, evidence: &mut Evidence, ctx: &Ctx) {
        match self.is_registered(ctx).await {
            Ok(registered) => evidence.registered = Some(registered),
            Err(error) => {
                evidence.troubled = true;
                tracing::info!(resource = %self.sighting.resource.name, error = %chain(&error), "the cluster cannot be asked; nothing is done about it");
            }
        }
    }

    async fn is_registered(&self, ctx: &Ctx) -> Result<bool, K8sError> {
        let (namespace, id) = (&self.scope.namespace, &self.sighting.identity.id);
        // The pools first: an id leaves `creating` only after its instance was there to be read.
        let pools: Api<AgentPool> = Api::namespaced(ctx.client.clone(), namespace);
        let doing = || format!("list the pools of {namespace}");
        let everything = ListParams::default();
        let pools = within(CALL_LIMIT, doing, pools.list(&everything)).await?;
        let mut creating = pools
            .items
            .iter()
            .filter_map(|p| p.status.as_ref())
            .flat_map(|s| &s.creating);
        if creating.any(|listed| listed == id) {
            return Ok(true);
        }
        let instances: Api<AgentInstance> = Api::namespaced(ctx.client.clone(), namespace);
        let object = names::object_name(id);
        let doing = || format!("read instance {object}");
        let found = within(CALL_LIMIT, doing, instances.get_opt(&object)).await?;
        Ok(found.is_some())
    }

    /// The pool it is taken for: the first that calls its agents so.
    fn pool(&self) -> Option<&Arc<AgentPool>> {
        let name = &self.sighting.resource.name;
        let mut pools = self.pools.iter();
        pools.find(|p| super::naming_of(p).identify(name).is_some())
    }

    /// What its agent says, asked with the token that an agent of that id was made with.
    pub(super) async fn probe(&mut self, ctx: &Ctx) -> Probe {
        self.asked = true;
        let (Some(pool), Some(url)) = (self.pool(), self.sighting.resource.facts.get("url")) else {
            return Probe::NotReady("it has no address".to_owned());
        };
        let template = Template::of(&pool.spec);
        let instance = self.instance(pool, "", &template, ctx);
        let token = variables::token(&instance, &template, ctx).await;
        let shared = variables::shared_key(&instance, &template, ctx).await;
        let (token, shared_key) = match (token, shared) {
            (Ok(token), Ok(shared)) => (token, shared),
            (Err(t), _) | (_, Err(t)) => return Probe::NotReady(t.message),
        };
        let dialect = match template.runtime.dialect {
            DialectChoice::Auto => None,
            DialectChoice::PoolServer => Some(Dialect::PoolServer),
            DialectChoice::Gateway => Some(Dialect::Gateway),
        };
        let agent = Agent {
            url: url.clone(),
            token,
            shared_key,
        };
        ctx.runtime.probe(&agent, dialect, PROBE_LIMIT).await
    }

    /// Removes it; the provider reads the mark once more.
    pub(super) async fn remove(&mut self, mark: &str, why: &str, ctx: &Ctx) -> Option<Duration> {
        let resource = self.sighting.resource;
        if ctx.fleet.admit(self.scope, Call::Remove).await.is_err() {
            return Some(RETRY);
        }
        self.asked = true;
        let key = Key {
            id: self.sighting.identity.id.clone(),
            name: resource.name.clone(),
            mark: mark.to_owned(),
        };
        let call = self.provider.destroy(&key, &resource.facts);
        match account::shared(Purpose::Sweep, call).await {
            Ok(Presence::Gone) => {
                let now = ctx.clock.monotonic();
                ctx.sweeps.settle(self.scope, self.sighting, Some(now));
                let note = format!(
                    "removed {} at the provider: no AgentInstance is about it, and {why}",
                    resource.name
                );
                self.announce(Reason::OrphanRemoved, "Remove", &note, ctx)
                    .await;
                None
            }
            // Asked for; the next sweep sees whether it is gone.
            Ok(Presence::Present(_) | Presence::Unknown) => Some(RETRY),
            Err(error) => {
                tracing::warn!(resource = %resource.name, class = error.class.as_str(), %error, "an orphan cannot be removed; trying again");
                Some(RETRY)
            }
        }
    }

    /// Makes an instance of it: claimed by the sweep, so that nobody is given it and nothing removes it.
    pub(super) async fn adopt(&self, why: &str, ctx: &Ctx) -> Option<Duration> {
        let pool = self.pool()?;
        match self.create(pool, ctx).await {
            Ok(()) => {
                ctx.sweeps.settle(self.scope, self.sighting, None);
                let note = format!(
                    "adopted {} as Crashed: no AgentInstance was about it, and {why}; look at it, then delete AgentInstance {}",
                    self.sighting.resource.name,
                    names::object_name(&self.sighting.identity.id)
                );
                self.announce(Reason::Adopted, "Adopt", &note, ctx).await;
                None
            }
            Err(error) => {
                tracing::warn!(resource = %self.sighting.resource.name, error = %chain(&error), "an orphan cannot be adopted; trying again");
                Some(RETRY)
            }
        }
    }

    async fn create(&self, pool: &AgentPool, ctx: &Ctx) -> Result<(), K8sError> {
        let namespace = &self.scope.namespace;
        let template = Template::of(&pool.spec);
        let revision = ctx
            .fleet
            .record_template(namespace, &pool.name_any(), &template)
            .await?;
        let api: Api<AgentInstance> = Api::namespaced(ctx.client.clone(), namespace);
        let instance = self.instance(pool, &revision, &template, ctx);
        apply::create_instance(&api, &instance).await.map(drop)
    }

    fn instance(
        &self,
        pool: &AgentPool,
        revision: &str,
        template: &Template,
        ctx: &Ctx,
    ) -> AgentInstance {
        let (id, now) = (&self.sighting.identity.id, ctx.clock.now());
        // From which image it was built nobody recorded.
        let build = pool::act::Build {
            revision,
            template,
            scope: self.scope,
            image: None,
            secrets: None,
        };
        let mut instance = pool::act::new_instance(pool, id, &build);
        instance.spec.provider_name = self.sighting.resource.name.clone();
        instance.spec.restored = true;
        instance.spec.claim = Some(Claim {
            id: format!("adopted-{id}"),
            holder: ADOPTED_BY.to_owned(),
            deadline: Time(now),
            requested_at: Time(now),
            agent_name: self.sighting.resource.name.clone(),
            instructions: None,
            instructions_secret_ref: None,
            join_url: None,
            reference: None,
            source: Some("sweep".to_owned()),
        });
        instance
    }

    async fn announce(&self, reason: Reason, action: &str, note: &str, ctx: &Ctx) {
        tracing::info!(resource = %self.sighting.resource.name, provider_id = %self.sighting.resource.id, action, reason = reason.as_str(), "{note}");
        if let Some(pool) = self.pool() {
            ctx.events
                .publish(pool.as_ref(), true, reason, action, note)
                .await;
        }
    }
}
