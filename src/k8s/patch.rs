//! The writes of an AgentInstance. It is only ever patched: a PUT from an older or trimmed type would erase what it
//! does not know, an apply would take over fields of others.
//!
//! * *Reserve* sets `spec.claim` with the resourceVersion it was judged on: 409 if anybody wrote since.
//! * *Record* writes `status.claim` where `spec.claim.id` is still ours: 422 if not; no resourceVersion, because the
//!   controller may have written meanwhile.
//! * *Call back* does the same for a join that waits, where it is the same claim and waits still.
//! * *Status* (the controller's) carries the resourceVersion and only what differs.
//! * *Note* says on a claimed one that a creation has answered its claim (`replacement: OneForOne`).
//! * *Give back* asks for its end or its restoration; *Release* clears the claim and raises the turn, in one write.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, Patch as JsonPatch, PatchOperation, ReplaceOperation, TestOperation,
};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::CALL_LIMIT;
use super::error::{K8sError, within};
use crate::api::agent_instance::{AgentInstance, AgentInstanceStatus, Claim, ClaimStatus, Release};
use crate::api::{
    ANNOTATION_REPLACED, INSTANCE_FINALIZER, MANAGER_API, MANAGER_CLAIM, MANAGER_CONTROLLER,
};

fn name(instance: &AgentInstance) -> &str {
    instance.metadata.name.as_deref().unwrap_or_default()
}

fn version(instance: &AgentInstance) -> &str {
    instance
        .metadata
        .resource_version
        .as_deref()
        .unwrap_or_default()
}

fn params(manager: &str) -> PatchParams {
    PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    }
}

fn pointer(path: &str) -> PointerBuf {
    PointerBuf::parse(path).expect("a constant JSON pointer")
}

fn test(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation {
        path: pointer(path),
        value,
    })
}

fn add(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: pointer(path),
        value,
    })
}

fn at_version(instance: &AgentInstance) -> PatchOperation {
    // Replacing the version makes the API server compare it: a stale one is a 409, never repeated by the server.
    PatchOperation::Replace(ReplaceOperation {
        path: pointer("/metadata/resourceVersion"),
        value: json!(version(instance)),
    })
}

/// Sets the claim on an instance as it was read, and ends the API server's book-keeping of who wrote which field. 409: somebody wrote since.
pub async fn reserve(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
    claim: &Claim,
) -> Result<AgentInstance, K8sError> {
    // One empty entry empties managedFields, and once empty the API server keeps none until somebody applies the
    // object, which nobody does. Measured: they are half of a claimed object's bytes, and a third of what a claim's two
    // writes cost the API server. Who writes what of an instance is settled by design, not by them.
    let patch = json!({
        "metadata": {"resourceVersion": version(instance), "managedFields": [{}]},
        "spec": {"claim": claim},
    });
    within(
        CALL_LIMIT,
        || format!("reserve {}", name(instance)),
        api.patch(name(instance), &params(MANAGER_CLAIM), &Patch::Merge(patch)),
    )
    .await
}

/// Records what came of a claim, where the claim is still ours. 422: it is not, or the instance is not ours to claim.
pub async fn record(
    api: &Api<AgentInstance>,
    object: &str,
    claim_id: &str,
    status: &AgentInstanceStatus,
) -> Result<AgentInstance, K8sError> {
    let operations = vec![
        test("/spec/claim/id", json!(claim_id)),
        add("/status/claim", json!(status.claim)),
        add("/status/phase", json!(status.phase)),
        add(
            "/status/observedGeneration",
            json!(status.observed_generation),
        ),
        add("/status/conditions", json!(status.conditions)),
    ];
    let patch: Patch<Value> = Patch::Json(JsonPatch(operations));
    within(
        CALL_LIMIT,
        || format!("record the claim on {object}"),
        api.patch_status(object, &params(MANAGER_CLAIM), &patch),
    )
    .await
}

/// Records what the agent of a waiting join told of it, where the same claim waits still. 422: it does not.
pub async fn call_back(
    api: &Api<AgentInstance>,
    object: &str,
    waiting: &ClaimStatus,
    status: &AgentInstanceStatus,
) -> Result<(), K8sError> {
    let mut operations = vec![
        test("/spec/claim/id", json!(waiting.id)),
        test("/status/claim/id", json!(waiting.id)),
        test("/status/claim/outcome", json!(waiting.outcome)),
        add("/status/claim", json!(status.claim)),
        add("/status/phase", json!(status.phase)),
        add(
            "/status/observedGeneration",
            json!(status.observed_generation),
        ),
        add("/status/conditions", json!(status.conditions)),
    ];
    if let Some(verdict) = &status.verdict {
        operations.push(add("/status/verdict", json!(verdict)));
    }
    let patch: Patch<Value> = Patch::Json(JsonPatch(operations));
    within(
        CALL_LIMIT,
        || format!("record what {object} told of its join"),
        api.patch_status(object, &params(MANAGER_CLAIM), &patch),
    )
    .await
    .map(drop)
}

/// Asks for an instance to be given back, where it is as it was read. 409: somebody wrote since.
pub async fn give_back(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
    release: &Release,
) -> Result<(), K8sError> {
    let patch = json!({
        "metadata": {"resourceVersion": version(instance)},
        "spec": {"release": release},
    });
    within(
        CALL_LIMIT,
        || format!("give back {}", name(instance)),
        api.patch(name(instance), &params(MANAGER_API), &Patch::Merge(patch)),
    )
    .await
    .map(drop)
}

/// Clears the claim and raises the turn, where the instance is as it was read: out of stock until proven again.
pub async fn release(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
) -> Result<AgentInstance, K8sError> {
    let patch = json!({
        "metadata": {"resourceVersion": version(instance)},
        "spec": {"claim": null, "release": null, "turn": instance.spec.turn + 1},
    });
    within(
        CALL_LIMIT,
        || format!("release {}", name(instance)),
        api.patch(name(instance), &params(MANAGER_CLAIM), &Patch::Merge(patch)),
    )
    .await
}

/// Notes that a creation has answered this claim. The note names the claim, so that it says nothing of a later one, and
/// may be written at any version.
pub async fn note_replaced(
    api: &Api<AgentInstance>,
    object: &str,
    claim_id: &str,
) -> Result<(), K8sError> {
    let patch = json!({"metadata": {"annotations": {ANNOTATION_REPLACED: claim_id}}});
    within(
        CALL_LIMIT,
        || format!("note on {object} that its claim is answered"),
        api.patch(object, &params(MANAGER_CONTROLLER), &Patch::Merge(patch)),
    )
    .await
    .map(drop)
}

/// Writes a status computed from an instance as it was read; `None` where nothing differs and nothing was written.
pub async fn write_status(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
    new: &AgentInstanceStatus,
) -> Result<Option<AgentInstance>, K8sError> {
    let old = json!({"status": instance.status});
    let new = json!({"status": new});
    let mut operations = json_patch::diff(&old, &new).0;
    if operations.is_empty() {
        return Ok(None);
    }
    if instance.status.is_none() {
        // The API server has no `/status` yet: set it whole.
        operations = vec![add("/status", new["status"].clone())];
    }
    operations.insert(0, at_version(instance));
    let patch: Patch<Value> = Patch::Json(JsonPatch(operations));
    within(
        CALL_LIMIT,
        || format!("write the status of {}", name(instance)),
        api.patch_status(name(instance), &params(MANAGER_CONTROLLER), &patch),
    )
    .await
    .map(Some)
}

/// Lets an instance go, where its finalizer list is as it was read.
pub async fn remove_finalizer(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
) -> Result<(), K8sError> {
    let left: Vec<&String> = instance
        .metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|f| f.as_str() != INSTANCE_FINALIZER)
        .collect();
    let patch = json!({"metadata": {"resourceVersion": version(instance), "finalizers": left}});
    within(
        CALL_LIMIT,
        || format!("let go of {}", name(instance)),
        api.patch(
            name(instance),
            &params(MANAGER_CONTROLLER),
            &Patch::Merge(patch),
        ),
    )
    .await
    .map(drop)
}

/// Deletes an instance, if it is still the object that was read, at the version that was read. 409: it is not.
pub async fn delete_as_read(
    api: &Api<AgentInstance>,
    instance: &AgentInstance,
) -> Result<(), K8sError> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: instance.metadata.uid.clone(),
            resource_version: instance.metadata.resource_version.clone(),
        }),
        ..DeleteParams::background()
    };
    within(
        CALL_LIMIT,
        || format!("delete {}", name(instance)),
        api.delete(name(instance), &params),
    )
    .await
    .map(drop)
}
