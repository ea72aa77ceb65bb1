//! ConfigMaps by name: a pool's own set-up script. Read when it is needed, never watched.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use super::CALL_LIMIT;
use super::error::{K8sError, within};
use crate::api::agent_pool::ConfigMapKeyRef;

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigMapError {
    /// There is no such ConfigMap, or it lacks the key: what to do is in the text.
    #[error("{0}")]
    Missing(String),
    /// The API server did not give it.
    #[error(transparent)]
    Api(#[from] K8sError),
}

/// One value of a ConfigMap, as it is written.
pub async fn value(
    client: &Client,
    namespace: &str,
    reference: &ConfigMapKeyRef,
) -> Result<String, ConfigMapError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = format!("ConfigMap {namespace}/{}", reference.name);
    let doing = || format!("read {name}");
    let found = within(CALL_LIMIT, doing, api.get_opt(&reference.name)).await?;
    let missing = |what: String| Err(ConfigMapError::Missing(what));
    let Some(map) = found else {
        return missing(format!(
            "{name} does not exist: create it with the key {}",
            reference.key
        ));
    };
    match map.data.and_then(|mut d| d.remove(&reference.key)) {
        Some(text) if !text.trim().is_empty() => Ok(text),
        Some(_) => missing(format!("{name} key {} is empty", reference.key)),
        None => missing(format!("{name} has no key {}: add it", reference.key)),
    }
}
