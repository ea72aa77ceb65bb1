//! Writes of a pool: its status, its finalizer, its annotations. One owner each; every write carries the
//! resourceVersion that it was decided on, because what it fences (ids about to be created) must not be repeated.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch as JsonPatch, PatchOperation, ReplaceOperation};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::CALL_LIMIT;
use super::error::{K8sError, within};
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::{AgentPool, AgentPoolStatus};
use crate::api::{MANAGER_CONTROLLER, POOL_FINALIZER};

fn name(pool: &AgentPool) -> &str {
    pool.metadata.name.as_deref().unwrap_or_default()
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER_CONTROLLER.to_owned()),
        ..PatchParams::default()
    }
}

/// Writes a pool's status as computed from the pool as it was read; `None` where nothing differs. 409: it changed.
pub async fn write_pool_status(
    api: &Api<AgentPool>,
    pool: &AgentPool,
    new: &AgentPoolStatus,
) -> Result<Option<AgentPool>, K8sError> {
    let (old, new) = (json!({"status": pool.status}), json!({"status": new}));
    let mut operations = json_patch::diff(&old, &new).0;
    if operations.is_empty() {
        return Ok(None);
    }
    let pointer = |path: &str| PointerBuf::parse(path).expect("a constant JSON pointer");
    if pool.status.is_none() {
        operations = vec![PatchOperation::Add(AddOperation {
            path: pointer("/status"),
            value: new["status"].clone(),
        })];
    }
    let version = json!(pool.metadata.resource_version);
    operations.insert(
        0,
        PatchOperation::Replace(ReplaceOperation {
            path: pointer("/metadata/resourceVersion"),
            value: version,
        }),
    );
    let patch: Patch<Value> = Patch::Json(JsonPatch(operations));
    within(
        CALL_LIMIT,
        || format!("write the status of pool {}", name(pool)),
        api.patch_status(name(pool), &params(), &patch),
    )
    .await
    .map(Some)
}

/// Adds or removes the pool's finalizer, where the pool is as it was read.
pub async fn set_pool_finalizer(
    api: &Api<AgentPool>,
    pool: &AgentPool,
    present: bool,
) -> Result<AgentPool, K8sError> {
    let mut finalizers = pool.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|f| f != POOL_FINALIZER);
    if present {
        finalizers.push(POOL_FINALIZER.to_owned());
    }
    let patch = json!({"metadata": {"resourceVersion": pool.metadata.resource_version, "finalizers": finalizers}});
    within(
        CALL_LIMIT,
        || format!("write the finalizer of pool {}", name(pool)),
        api.patch(name(pool), &params(), &Patch::Merge(patch)),
    )
    .await
}

/// Creates an instance; `None`: it exists already, by whoever.
pub async fn create_instance(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
) -> Result<Option<AgentInstance>, K8sError> {
    let post = PostParams {
        field_manager: Some(MANAGER_CONTROLLER.to_owned()),
        ..PostParams::default()
    };
    let object = instance.metadata.name.as_deref().unwrap_or_default();
    match within(
        CALL_LIMIT,
        || format!("create instance {object}"),
        api.create(&post, instance),
    )
    .await
    {
        Ok(made) => Ok(Some(made)),
        Err(e) if e.is_conflict() => Ok(None),
        Err(e) => Err(e),
    }
}
