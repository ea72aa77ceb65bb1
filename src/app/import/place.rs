//! Where the agents go, and everything that the rows have in common.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::super::controllers::{Connector, transports};
use super::super::prerequisites::{cluster_id_of, crds_installed};
use crate::api::agent_instance::{ProviderRef, TemplateRef};
use crate::api::{AgentInstance, AgentPool};
use crate::clock::Clock;
use crate::config::{DEFAULT_SPRITES_URL, ImportOrder};
use crate::controllers::fleet::{
    Connect, Environment, Fleet, Scope, provider_ref, resolved_scope, scope_of_pool,
};
use crate::domain::plan::{Operation, StepSpec, Trouble};
use crate::domain::template::Template;
use crate::k8s::error::within;
use crate::k8s::{CALL_LIMIT, secret};
use crate::provider::{AgentProvider, Resource};
use crate::telemetry::Metrics;

/// Where the agents go: a pool of a cluster, its provider, and what is there already.
pub(super) struct Place {
    pub(super) dry: bool,
    pub(super) title: String,
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) api: Api<AgentInstance>,
    pub(super) namespace: String,
    pub(super) pool: String,
    pub(super) provider: Arc<dyn AgentProvider>,
    pub(super) plan: Vec<StepSpec>,
    pub(super) template: TemplateRef,
    pub(super) provider_ref: ProviderRef,
    pub(super) cluster_id: String,
    /// Namespace and name of the Secret of imported tokens.
    pub(super) tokens: (String, String),
    pub(super) listed: HashMap<String, Resource>,
    /// The instances of the namespace, by their names.
    pub(super) known: HashMap<String, AgentInstance>,
}

impl Place {
    /// Looks at everything that the rows have in common. Err: nothing can be imported, and why.
    pub(super) async fn open(order: &ImportOrder) -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster: set KUBECONFIG, or run in a pod with a service account")?;
        crds_installed(&client)
            .await
            .map_err(|text| anyhow!(text))?;
        let pool = find_pool(&client, order).await?;
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let title = format!("{namespace}/{name}");
        check_release(&pool, &title, &order.release)?;
        let cluster_id = cluster_id_of(&client, order.cluster_id.as_deref()).await;
        let cluster_id = cluster_id.map_err(|text| anyhow!(text))?;
        let clock = Clock::system();
        let (fleet, template) = fleet_of(order, &pool, &client, &clock)?;
        let scope = scope_of(&pool, &title)?;
        let failed = |t: Trouble| anyhow!("pool {title}: {}", t.message);
        let facts = fleet.resolve(&scope).await.map_err(failed)?;
        let scope = resolved_scope(&scope, &facts);
        let provider = fleet.provider(&scope).await.map_err(failed)?;
        let revision = if order.dry_run {
            format!("{name}-{}", template.hash())
        } else {
            fleet.record_template(&namespace, &name, &template).await?
        };
        let api: Api<AgentInstance> = Api::namespaced(client.clone(), &namespace);
        let doing = || format!("list the instances of {namespace}");
        let everything = ListParams::default();
        let known = within(CALL_LIMIT, doing, api.list(&everything))
            .await?
            .items;
        let mut place = Self {
            dry: order.dry_run,
            plan: provider.plan(Operation::Create, &template),
            template: TemplateRef {
                secrets: None,
                revision,
                hash: template.hash(),
                image: None,
            },
            provider_ref: provider_ref(&scope),
            tokens: tokens_of(&client, order, &namespace).await?,
            known: known.into_iter().map(|i| (i.name_any(), i)).collect(),
            listed: HashMap::new(),
            pool: name,
            title,
            client,
            clock,
            api,
            namespace,
            provider,
            cluster_id,
        };
        let listing = place.patiently(|| place.provider.list()).await;
        let listing = listing.map_err(|e| anyhow!("{e}"))?.resources;
        place.listed = listing.into_iter().map(|r| (r.id.clone(), r)).collect();
        Ok(place)
    }
}

/// The pool that is named, or the only one; else which there are.
async fn find_pool(client: &Client, order: &ImportOrder) -> Result<AgentPool> {
    let all: Api<AgentPool> = match &order.pool {
        Some(key) => Api::namespaced(client.clone(), &key.namespace),
        None => Api::all(client.clone()),
    };
    let everything = ListParams::default();
    let doing = || "list the pools".to_owned();
    let mut pools = within(CALL_LIMIT, doing, all.list(&everything))
        .await?
        .items;
    let titles = |pools: &[AgentPool]| {
        let title = |p: &AgentPool| {
            let namespace = p.namespace().unwrap_or_default();
            format!("{namespace}/{} ({})", p.name_any(), p.spec.environment)
        };
        let all: Vec<String> = pools.iter().map(title).collect();
        if all.is_empty() {
            "none".to_owned()
        } else {
            all.join(", ")
        }
    };
    match &order.pool {
        Some(key) => match pools.iter().position(|p| p.name_any() == key.name) {
            Some(index) => Ok(pools.swap_remove(index)),
            None => bail!(
                "--pool: there is no AgentPool {key}; in {} there are: {}",
                key.namespace,
                titles(&pools)
            ),
        },
        None if pools.len() == 1 => Ok(pools.remove(0)),
        None => bail!("--pool: say which; there are: {}", titles(&pools)),
    }
}

/// Where a pool's agents live: in a project that all of them share.
fn scope_of(pool: &AgentPool, title: &str) -> Result<Scope> {
    let scope = scope_of_pool(pool).with_context(|| format!("pool {title} names no provider"))?;
    match &scope.environment {
        Environment::Id(id) | Environment::Name(id) if !id.is_empty() => Ok(scope),
        _ => bail!(
            "pool {title}: only pools with spec.provider.railway.project take agents over in this version"
        ),
    }
}

/// Namespace and name of the Secret of imported tokens: beside the release's root key, where the operator reads it.
async fn tokens_of(
    client: &Client,
    order: &ImportOrder,
    namespace: &str,
) -> Result<(String, String)> {
    let name = secret::imported_tokens_name(&order.release);
    if let Some(given) = &order.release_namespace {
        return Ok((given.clone(), name));
    }
    let root = format!("{}-root-key", order.release);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let doing = || format!("look for Secret {namespace}/{root}");
    match within(CALL_LIMIT, doing, secrets.get_metadata_opt(&root)).await? {
        Some(_) => Ok((namespace.to_owned(), name)),
        None => bail!(
            "--release-namespace: there is no Secret {root} in namespace {namespace}: say where the operator is installed"
        ),
    }
}

/// The tokens go to the release that looks after the pool.
fn check_release(pool: &AgentPool, title: &str, release: &str) -> Result<()> {
    let owner = pool.status.as_ref().and_then(|s| s.release.as_deref());
    match owner {
        Some(owner) if owner != release => {
            bail!("--release: pool {title} belongs to release {owner}, not {release}")
        }
        _ => Ok(()),
    }
}

fn fleet_of(
    order: &ImportOrder,
    pool: &AgentPool,
    client: &Client,
    clock: &Clock,
) -> Result<(Fleet, Template)> {
    let connect = Connector {
        transports: transports(&order.railway_url, DEFAULT_SPRITES_URL, clock)?,
        railway_url: order.railway_url.clone(),
        clock: clock.clone(),
        metrics: Metrics::new(),
    };
    let template = Template::of(&pool.spec);
    if let Some(why) = connect.unsupported(&template) {
        bail!("pool {}: {why}", pool.name_any());
    }
    let fleet = Fleet::new(client.clone(), clock.clone(), Arc::new(connect));
    Ok((fleet, template))
}
