//! The HTTP API with the real claim service, and its keys.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use secrecy::SecretString;

use super::controllers::fleet;
use super::ports::task;
use super::prerequisites::wait_for;
use super::watches::Filled;
use super::{Process, RETRY};
use crate::api::agent_pool::RuntimeAuth;
use crate::api::{AgentClaim, AgentInstance, AgentPool};
use crate::claim::cache::Candidates;
use crate::claim::durable::{Durable, Parts};
use crate::claim::replicas::Replicas;
use crate::claim::service::ClaimService;
use crate::claim::stock::Stock;
use crate::config::{API_KEY_VARIABLE, ApiConfig, ApiKeySource};
use crate::domain::token::{IMPORTED, Purpose};
use crate::http::{self, ApiKeys, AppState, Callers, ReadyFlag};
use crate::k8s::secret::RootKeys;
use crate::operations::Operations;

pub(super) fn api_router(
    process: &Arc<Process>,
    api: &ApiConfig,
    (pools, instances, unfinished): (Store<AgentPool>, Store<AgentInstance>, Store<AgentClaim>),
    claims: (Arc<Stock>, Arc<Replicas>),
    filled: &Filled,
) -> Result<Router> {
    let stock = claims.0.clone();
    let candidates = Candidates::new(
        process.client.clone(),
        instances.clone(),
        claims,
        process.clock.clone(),
        process.rng.clone(),
    );
    let claims = ClaimService::new(
        process.client.clone(),
        Arc::new(candidates),
        process.runtime.clone(),
        process.root_keys.clone(),
        process.clock.clone(),
        process.rng.clone(),
        process.holder.clone(),
        process.tasks.clone(),
    );
    let claims = claims.with_providers(Arc::new(fleet(process)?));
    let claims = Durable::new(Parts {
        client: process.client.clone(),
        claims: Arc::new(claims),
        pools: pools.clone(),
        instances: instances.clone(),
        unfinished,
        queue: process.waiting.clone(),
        stock,
        root_keys: process.root_keys.clone(),
        clock: process.clock.clone(),
        rng: process.rng.clone(),
        holder: process.holder.clone(),
        tasks: process.tasks.clone(),
    });
    start_keeper(process, claims.clone(), filled);
    let operations = Operations::new(
        process.client.clone(),
        pools.clone(),
        instances.clone(),
        process.clock.clone(),
        process.rng.clone(),
        process.tasks.clone(),
    );
    Ok(http::router(AppState {
        pools: pools.clone(),
        instances,
        claims: Arc::new(claims),
        operations,
        tokens: tokens(process.root_keys.clone(), pools),
        callers: Callers::new(callers(process.root_keys.clone())),
        auth: api_keys(process, &api.key)?,
        settings: Arc::new(api.settings.clone()),
        ready: process.ready.clone(),
        metrics: process.metrics.clone(),
        clock: process.clock.clone(),
        tasks: process.tasks.clone(),
    }))
}

/// Looks after unfinished claims once the caches are filled: before, a pool would seem not to exist.
fn start_keeper(process: &Arc<Process>, claims: Durable, filled: &Filled) {
    let (pools, instances, own) = (
        filled.pools.clone(),
        filled.instances.clone(),
        filled.claims.clone(),
    );
    let shared = process.clone();
    task(process, "claim keeper", async move {
        let caches = async {
            pools.wait().await;
            instances.wait().await;
            own.wait().await;
        };
        if wait_for(&shared, caches).await {
            claims.keep(shared.shutdown.clone()).await;
        }
    });
}

pub(super) fn tokens(root_keys: RootKeys, pools: Store<AgentPool>) -> http::Tokens {
    Arc::new(move |instance: &AgentInstance| {
        let namespace = instance.namespace().unwrap_or_default();
        let pool = pools.get(&ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace));
        if pool.is_some_and(|p| p.spec.runtime.auth != RuntimeAuth::Instance) {
            return None;
        }
        let status = instance.status.as_ref()?;
        let (n, key) = (status.token_seq.unwrap_or(1), status.token_key.as_deref());
        let keys = root_keys.get()?;
        let token = keys.token(Purpose::Gateway, &instance.spec.id, n, key);
        // Imported lately: the next call shows it.
        if token.is_none() && key == Some(IMPORTED) {
            root_keys.read_again();
        }
        token
    })
}

/// Knows an agent's own token. A token that a whole pool shares is none: any of its agents could speak for another.
fn callers(root_keys: RootKeys) -> http::Verify {
    Arc::new(move |instance: &AgentInstance, given: &str| {
        let status = instance.status.as_ref();
        let n = status.and_then(|s| s.token_seq).unwrap_or(1);
        let key = status.and_then(|s| s.token_key.as_deref());
        let whose = (instance.spec.id.as_str(), n);
        let keys = root_keys.get()?;
        Some(keys.is_token(Purpose::Gateway, whose, key, given))
    })
}

/// The API's keys, following their source where it can change.
pub(super) fn api_keys(process: &Arc<Process>, source: &ApiKeySource) -> Result<ApiKeys> {
    match source {
        ApiKeySource::Insecure => {
            tracing::warn!("--insecure-no-auth: every call is served to everybody");
            Ok(ApiKeys::insecure())
        }
        ApiKeySource::Value(key) => Ok(ApiKeys::new(key)),
        ApiKeySource::File(path) => {
            let read = |path: &Path| std::fs::read_to_string(path).map(|t| t.trim().to_owned());
            let first = read(path)
                .with_context(|| format!("--api-key-file: cannot read {}", path.display()))?;
            anyhow::ensure!(
                !first.is_empty(),
                "--api-key-file: {} is empty",
                path.display()
            );
            let keys = ApiKeys::new(&SecretString::from(first));
            let (follower, path, shared) = (keys.clone(), path.clone(), process.clone());
            task(process, "api key", async move {
                // A mounted Secret is swapped as a whole: reading it again is cheaper than watching a directory.
                while !shared.shutdown.is_cancelled() {
                    if let Some(text) = read(&path).ok().filter(|t| !t.is_empty()) {
                        follower.replace(&[SecretString::from(text)]);
                    }
                    tokio::select! {
                        () = shared.clock.sleep(RETRY) => {}
                        () = shared.shutdown.cancelled() => {}
                    }
                }
            });
            Ok(keys)
        }
        ApiKeySource::Secret(name) => Ok(follow_secret(process, name)),
    }
}

/// Follows the one Secret with the API key; until it is read, no key fits.
pub(super) fn follow_secret(process: &Arc<Process>, name: &str) -> ApiKeys {
    // An empty key fits nothing: until the Secret is read, every call that needs a key is refused.
    let keys = ApiKeys::new(&SecretString::from(String::new()));
    let flag: ReadyFlag = process.ready.part("api key");
    let api: Api<Secret> =
        Api::namespaced(process.client.clone(), &process.config.release_namespace);
    let (follower, name, shared) = (keys.clone(), name.to_owned(), process.clone());
    task(process, "api key", async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stream = watcher(api, config)
            .default_backoff()
            .applied_objects()
            .take_until(shared.shutdown.cancelled());
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            let bytes = event
                .ok()
                .and_then(|s| s.data)
                .and_then(|mut d| d.remove(API_KEY_VARIABLE));
            let Some(text) = bytes
                .and_then(|b| String::from_utf8(b.0).ok())
                .map(|t| t.trim().to_owned())
                .filter(|t| !t.is_empty())
            else {
                tracing::warn!(secret = %name, "the Secret with the API key is not there or lacks {API_KEY_VARIABLE}: calls are refused unless a key was read before");
                continue;
            };
            follower.replace(&[SecretString::from(text)]);
            flag.set(true);
            tracing::info!(secret = %name, "API key read");
        }
    });
    keys
}
