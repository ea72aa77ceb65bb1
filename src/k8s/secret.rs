//! Secrets by name: the pool's credentials and the release's root key. Never watched as a whole, never logged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};

use super::CALL_LIMIT;
use super::error::{K8sError, within};
use crate::api::MANAGER_IMPORT;
use crate::api::agent_pool::SecretKeyRef;
use crate::domain::token::{IMPORTED, Purpose, RootKey};

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such Secret, or it lacks the key: what to do is in the text.
    #[error("{0}")]
    Missing(String),
    /// The API server did not give it.
    #[error(transparent)]
    Api(#[from] K8sError),
}

/// One value of a Secret, as text without surrounding white space.
pub async fn value(
    client: &Client,
    namespace: &str,
    reference: &SecretKeyRef,
) -> Result<SecretString, SecretError> {
    let [value] = values(client, namespace, &reference.name, [reference.key.as_str()]).await?;
    Ok(value)
}

/// Several values of one Secret, in the order of their keys, each as text without surrounding white space.
pub async fn values<const N: usize>(
    client: &Client,
    namespace: &str,
    name: &str,
    keys: [&str; N],
) -> Result<[SecretString; N], SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let doing = || format!("read Secret {namespace}/{name}");
    let Some(secret) = within(CALL_LIMIT, doing, api.get_opt(name)).await? else {
        let keys = keys.join(" and ");
        return Err(SecretError::Missing(format!(
            "Secret {namespace}/{name} does not exist: create it with the key {keys}"
        )));
    };
    let mut found = Vec::with_capacity(N);
    for key in keys {
        let text = text(&secret, key)
            .map_err(|why| SecretError::Missing(format!("Secret {namespace}/{name} {why}")))?;
        found.push(SecretString::from(text));
    }
    found
        .try_into()
        .map_err(|_| SecretError::Missing(format!("Secret {namespace}/{name} lacks a key")))
}

fn text(secret: &Secret, key: &str) -> Result<String, String> {
    let bytes = secret.data.as_ref().and_then(|d| d.get(key));
    let bytes = bytes.ok_or_else(|| format!("has no key {key}: add it"))?;
    match std::str::from_utf8(&bytes.0).map(str::trim) {
        Ok("") => Err(format!("key {key} is empty")),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(format!("key {key} is not text")),
    }
}

/// Creates a Secret with one value that belongs to `owner` and is collected with it.
pub async fn create_owned<K>(
    client: &Client,
    namespace: &str,
    reference: &SecretKeyRef,
    value: &str,
    owner: &K,
) -> Result<(), K8sError>
where
    K: Resource<DynamicType = ()>,
{
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let new = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(reference.name.clone()),
            owner_references: owner.owner_ref(&()).map(|o| vec![o]),
            ..Default::default()
        },
        string_data: Some(BTreeMap::from([(reference.key.clone(), value.to_owned())])),
        immutable: Some(true),
        ..Default::default()
    };
    let doing = || format!("create Secret {namespace}/{}", reference.name);
    match within(CALL_LIMIT, doing, api.create(&PostParams::default(), &new)).await {
        Ok(_) => Ok(()),
        // The same name is the same claim: an earlier try of this call got through.
        Err(e) if e.is_conflict() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Deletes a Secret; it is gone already: done.
pub async fn delete(client: &Client, namespace: &str, name: &str) -> Result<(), K8sError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let doing = || format!("delete Secret {namespace}/{name}");
    match within(
        CALL_LIMIT,
        doing,
        api.delete(name, &DeleteParams::default()),
    )
    .await
    {
        Err(e) if e.is_gone() => Ok(()),
        other => other.map(drop),
    }
}

/// The key of the root key Secret that holds the current key.
pub const ROOT_CURRENT: &str = "current";
/// The key of the root key Secret that holds the key before the last rotation.
pub const ROOT_PREVIOUS: &str = "previous";

/// The release's root keys, current and previous; created from `fresh` where there are none yet.
///
/// Creation is arbitrated by the API server: of two processes, one creates and the other reads.
pub async fn root_key(
    client: &Client,
    namespace: &str,
    name: &str,
    fresh: [u8; 32],
) -> Result<(Vec<u8>, Option<Vec<u8>>), SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let read = || {
        within(
            CALL_LIMIT,
            || format!("read Secret {namespace}/{name}"),
            api.get_opt(name),
        )
    };
    let secret = match read().await? {
        Some(secret) => secret,
        None => {
            let new = Secret {
                metadata: kube::api::ObjectMeta {
                    name: Some(name.to_owned()),
                    ..Default::default()
                },
                data: Some(BTreeMap::from([(
                    ROOT_CURRENT.to_owned(),
                    ByteString(fresh.to_vec()),
                )])),
                ..Default::default()
            };
            let created = within(
                CALL_LIMIT,
                || format!("create Secret {namespace}/{name}"),
                api.create(&PostParams::default(), &new),
            )
            .await;
            match created {
                Ok(secret) => secret,
                Err(e) if e.is_conflict() => read().await?.ok_or_else(|| {
                    SecretError::Missing(format!("Secret {namespace}/{name} came and went"))
                })?,
                Err(e) => return Err(e.into()),
            }
        }
    };
    let mut data = secret.data.unwrap_or_default();
    let current = data
        .remove(ROOT_CURRENT)
        .filter(|k| k.0.len() >= 16)
        .ok_or_else(|| {
            SecretError::Missing(format!(
                "Secret {namespace}/{name} needs the key `{ROOT_CURRENT}` with at least 16 bytes"
            ))
        })?;
    Ok((current.0, data.remove(ROOT_PREVIOUS).map(|k| k.0)))
}

/// How long somebody waits for the tokens of imported agents to be read again.
const READ_AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// The Secret of a release with the tokens that imported agents brought along, under the names of their AgentInstances.
pub fn imported_tokens_name(release: &str) -> String {
    format!("{release}-imported-tokens")
}

/// What is in it; nothing where there is none. An empty value is no token.
pub async fn imported_tokens(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<BTreeMap<String, SecretString>, K8sError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let doing = || format!("read Secret {namespace}/{name}");
    let data = within(CALL_LIMIT, doing, api.get_opt(name)).await?;
    let data = data.and_then(|s| s.data).unwrap_or_default();
    let texts = data
        .into_iter()
        .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
    Ok(texts
        .filter(|(_, text)| !text.is_empty())
        .map(|(key, text)| (key, SecretString::from(text)))
        .collect())
}

/// Adds values to a Secret, and makes it where there is none. What else is in it stays.
pub async fn add_values(
    client: &Client,
    namespace: &str,
    name: &str,
    values: &BTreeMap<String, SecretString>,
) -> Result<(), K8sError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let values = values
        .iter()
        .map(|(key, value)| (key.clone(), value.expose_secret().to_owned()));
    let new = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(name.to_owned()),
            ..Default::default()
        },
        string_data: Some(values.collect()),
        ..Default::default()
    };
    let post = PostParams {
        field_manager: Some(MANAGER_IMPORT.to_owned()),
        ..PostParams::default()
    };
    let doing = || format!("create Secret {namespace}/{name}");
    match within(CALL_LIMIT, doing, api.create(&post, &new)).await {
        Err(e) if e.is_conflict() => {}
        other => return other.map(drop),
    }
    let params = PatchParams {
        field_manager: Some(MANAGER_IMPORT.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(serde_json::json!({"stringData": new.string_data}));
    let doing = || format!("add to Secret {namespace}/{name}");
    let patched = api.patch(name, &params, &patch);
    within(CALL_LIMIT, doing, patched).await.map(drop)
}

/// The release's root keys, once they are read; shared by everything that derives tokens.
#[derive(Clone)]
pub struct RootKeys {
    keys: Arc<watch::Sender<Option<Arc<RootKey>>>>,
    /// Somebody lacks a token that may have been imported since they were read.
    again: Arc<Notify>,
}

impl Default for RootKeys {
    fn default() -> Self {
        Self {
            keys: Arc::new(watch::Sender::new(None)),
            again: Arc::default(),
        }
    }
}

impl RootKeys {
    /// The keys; `None` until they were read for the first time.
    pub fn get(&self) -> Option<Arc<RootKey>> {
        self.keys.borrow().clone()
    }

    /// The keys, as soon as they are read for the first time. Cancel-safe; without a bound in time.
    pub async fn read(&self) -> Arc<RootKey> {
        let mut changes = self.keys.subscribe();
        loop {
            if let Some(keys) = self.get() {
                return keys;
            }
            // Never closed: this holds the sender.
            let _ = changes.changed().await;
        }
    }

    /// A token as [`RootKey::token`] has it. One that was imported after they were read is read first. Cancel-safe;
    /// at most 5 s.
    pub async fn token(
        &self,
        purpose: Purpose,
        id: &str,
        n: i64,
        key: Option<&str>,
    ) -> Option<SecretString> {
        let mut changes = self.keys.subscribe();
        let found = self.get()?.token(purpose, id, n, key);
        if found.is_some() || key != Some(IMPORTED) {
            return found;
        }
        self.read_again();
        let _ = tokio::time::timeout(READ_AGAIN_WITHIN, changes.changed()).await;
        self.get()?.token(purpose, id, n, key)
    }

    /// Asks whoever reads them to do it now.
    pub fn read_again(&self) {
        self.again.notify_one();
    }

    /// Returns when somebody has asked for them to be read again. Cancel-safe.
    pub async fn asked_again(&self) {
        self.again.notified().await;
    }

    /// Replaces them.
    pub fn set(&self, keys: RootKey) {
        self.keys.send_replace(Some(Arc::new(keys)));
    }
}
