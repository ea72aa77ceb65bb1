//! What the cluster has to have before anything is reconciled: the CRDs, an id, the root key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use secrecy::SecretString;
use tokio::sync::SetOnce;

use super::ports::task;
use super::watches::Filled;
use super::{Process, RETRY, ROOT_KEY_EVERY};
use crate::api::GROUP;
use crate::domain::token::RootKey;
use crate::k8s::error::chain;
use crate::k8s::secret::{self};

/// Two readings of the root key, one of them asked for, are at least this far apart.
const READ_APART: Duration = Duration::from_millis(500);

/// Repeats `attempt` until it succeeds or the process stops; each new reason for failing is logged once.
pub(super) async fn insist<T, F>(process: &Process, attempt: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, String>>,
{
    let mut told = String::new();
    loop {
        match attempt().await {
            Ok(value) => return Some(value),
            Err(text) if text != told => {
                tracing::warn!("waiting: {text}");
                told = text;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = process.clock.sleep(RETRY) => {}
            () = process.shutdown.cancelled() => return None,
        }
    }
}

/// What the controllers wait for.
pub(super) struct Started {
    pub(super) prepared: Arc<SetOnce<()>>,
    pub(super) rooted: Arc<SetOnce<()>>,
    pub(super) filled: Filled,
}

/// Looks for the API server and the CRDs, saying once what is missing; set when both are there.
pub(super) fn start_prerequisites(process: &Arc<Process>) -> Arc<SetOnce<()>> {
    let (found, shared) = (Arc::new(SetOnce::new()), process.clone());
    let latch = found.clone();
    task(process, "prerequisites", async move {
        if let Some(()) = insist(&shared, || crds_installed(&shared.client)).await {
            // Err: it is set already.
            let _ = latch.set(());
            shared.shutdown.cancelled().await;
        }
    });
    found
}

/// Waits; false where the process stops meanwhile.
pub(super) async fn wait_for<T>(process: &Process, what: impl Future<Output = T>) -> bool {
    tokio::select! {
        _ = what => true,
        () = process.shutdown.cancelled() => false,
    }
}

/// By discovery, which everybody may read.
pub(super) async fn crds_installed(client: &Client) -> Result<(), String> {
    let version = format!("{GROUP}/v1alpha1");
    let served = client.list_api_group_resources(&version);
    let served: Vec<String> = match tokio::time::timeout(RETRY * 5, served).await {
        Ok(Ok(list)) => list.resources.into_iter().map(|r| r.name).collect(),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => vec![],
        Ok(Err(error)) => {
            return Err(format!("the API server does not answer: {}", chain(&error)));
        }
        Err(_) => return Err("the API server does not answer".to_owned()),
    };
    for plural in ["agentpools", "agentinstances", "agentclaims"] {
        if !served.iter().any(|name| name == plural) {
            return Err(format!(
                "CRD {plural}.{GROUP} is not installed: run `agentpool crds | kubectl apply --server-side -f -`"
            ));
        }
    }
    Ok(())
}

pub(super) async fn cluster_id(process: &Process) -> Result<String, String> {
    cluster_id_of(&process.client, process.config.cluster_id.as_deref()).await
}

/// The id that is set, else the UID of namespace kube-system.
pub(super) async fn cluster_id_of(client: &Client, set: Option<&str>) -> Result<String, String> {
    if let Some(id) = set {
        return Ok(id.to_owned());
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let found = api.get("kube-system").await.map_err(|e| {
        format!("the cluster's id cannot be read from namespace kube-system (set --cluster-id / AGENTPOOL_CLUSTER_ID): {e}")
    })?;
    found
        .metadata
        .uid
        .ok_or_else(|| "namespace kube-system has no UID".to_owned())
}

/// The tokens of imported agents. What cannot be read is told once and holds nothing else up.
async fn imported_tokens(process: &Process, told: &mut String) -> BTreeMap<String, SecretString> {
    let namespace = &process.config.release_namespace;
    let name = secret::imported_tokens_name(&process.config.release);
    match secret::imported_tokens(&process.client, namespace, &name).await {
        Ok(tokens) => tokens,
        Err(error) => {
            let text = chain(&error);
            if text != *told {
                tracing::warn!("agents that were imported cannot be called: {text}");
                *told = text;
            }
            BTreeMap::new()
        }
    }
}

/// Reads the root key, makes it where there is none, and follows its rotation; set once it is there.
pub(super) fn start_root_key(
    process: &Arc<Process>,
    prepared: Arc<SetOnce<()>>,
) -> Arc<SetOnce<()>> {
    let (flag, shared) = (process.ready.part("root key"), process.clone());
    let rooted = Arc::new(SetOnce::new());
    let latch = rooted.clone();
    task(process, "root key", async move {
        if !wait_for(&shared, prepared.wait()).await {
            return;
        }
        let mut told = String::new();
        loop {
            let read = || async {
                let c = &shared.config;
                secret::root_key(
                    &shared.client,
                    &c.release_namespace,
                    &c.root_key_secret,
                    shared.rng.bytes(),
                )
                .await
                .map_err(|e| chain(&e))
            };
            let Some((current, previous)) = insist(&shared, read).await else {
                return;
            };
            let imported = imported_tokens(&shared, &mut told).await;
            let key = RootKey::new(current, previous);
            shared.root_keys.set(key.with_imported(imported));
            flag.set(true);
            // Err: it is set already.
            let _ = latch.set(());
            tokio::select! {
                () = shared.clock.sleep(ROOT_KEY_EVERY) => {}
                () = shared.root_keys.asked_again() => shared.clock.sleep(READ_APART).await,
                () = shared.shutdown.cancelled() => return,
            }
        }
    });
    rooted
}
