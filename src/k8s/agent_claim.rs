//! Reads and writes of AgentClaims. Whoever creates one has it; every later write carries the version it was judged on.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch as JsonPatch, PatchOperation, ReplaceOperation};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::CALL_LIMIT;
use super::error::{K8sError, within};
use crate::api::agent_claim::{AgentClaim, AgentClaimStatus};
use crate::api::agent_instance::AgentInstance;
use crate::api::{CLAIM_FINALIZER, MANAGER_API};

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER_API.to_owned()),
        ..PatchParams::default()
    }
}

/// Creates a claim; `None`: one of that name exists.
pub async fn create(
    api: &Api<AgentClaim>,
    claim: &AgentClaim,
) -> Result<Option<AgentClaim>, K8sError> {
    let post = PostParams {
        field_manager: Some(MANAGER_API.to_owned()),
        ..PostParams::default()
    };
    let doing = || format!("create AgentClaim {}", claim.name_any());
    match within(CALL_LIMIT, doing, api.create(&post, claim)).await {
        Ok(made) => Ok(Some(made)),
        Err(e) if e.is_conflict() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The claim of that name, from the API server.
pub async fn read(api: &Api<AgentClaim>, name: &str) -> Result<Option<AgentClaim>, K8sError> {
    let doing = || format!("read AgentClaim {name}");
    within(CALL_LIMIT, doing, api.get_opt(name)).await
}

/// Replaces the status of a claim as it was read. 409: somebody wrote since.
pub async fn write_status(
    api: &Api<AgentClaim>,
    claim: &AgentClaim,
    new: &AgentClaimStatus,
) -> Result<AgentClaim, K8sError> {
    let pointer = |path: &str| PointerBuf::parse(path).expect("a constant JSON pointer");
    let operations = vec![
        PatchOperation::Replace(ReplaceOperation {
            path: pointer("/metadata/resourceVersion"),
            value: json!(claim.metadata.resource_version),
        }),
        PatchOperation::Add(AddOperation {
            path: pointer("/status"),
            value: json!(new),
        }),
    ];
    let patch: Patch<Value> = Patch::Json(JsonPatch(operations));
    let name = claim.name_any();
    within(
        CALL_LIMIT,
        || format!("write the status of AgentClaim {name}"),
        api.patch_status(&name, &params(), &patch),
    )
    .await
}

/// Adds or removes the finalizer of a claim as it was read.
pub async fn set_finalizer(
    api: &Api<AgentClaim>,
    claim: &AgentClaim,
    present: bool,
) -> Result<AgentClaim, K8sError> {
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|f| f != CLAIM_FINALIZER);
    if present {
        finalizers.push(CLAIM_FINALIZER.to_owned());
    }
    let version = &claim.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
    let name = claim.name_any();
    within(
        CALL_LIMIT,
        || format!("write the finalizer of AgentClaim {name}"),
        api.patch(&name, &params(), &Patch::Merge(patch)),
    )
    .await
}

/// Deletes exactly the object that was read, at the version that was read. 409: it is another by now.
pub async fn delete_as_read(
    api: &Api<AgentClaim>,
    name: &str,
    (uid, version): (Option<String>, Option<String>),
) -> Result<(), K8sError> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version: version,
        }),
        ..DeleteParams::background()
    };
    let doing = || format!("delete AgentClaim {name}");
    match within(CALL_LIMIT, doing, api.delete(name, &params)).await {
        Err(e) if e.is_gone() => Ok(()),
        other => other.map(drop),
    }
}

/// The instances that name a claim, by a list that shows every write before it.
pub async fn named(api: &Api<AgentInstance>, claim: &str) -> Result<Vec<AgentInstance>, K8sError> {
    let list = ListParams::default().fields(&format!("spec.claim.ref={claim}"));
    let doing = || format!("list the instances of AgentClaim {claim}");
    let found = within(CALL_LIMIT, doing, api.list(&list)).await?;
    Ok(found.items)
}
