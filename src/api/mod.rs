//! The Kubernetes API of the product: types, names, validation; nothing else.
//!
//! May use serde, schemars, kube's derive and the k8s-openapi types, and no other module of ours.
//! The field names follow the design; a later change within `v1alpha1` only adds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

pub mod agent_claim;
pub mod agent_instance;
pub mod agent_pool;
pub mod condition;
pub mod names;

pub use agent_claim::{AgentClaim, AgentClaimSpec, AgentClaimStatus};
pub use agent_instance::{AgentInstance, AgentInstanceSpec, AgentInstanceStatus};
pub use agent_pool::{AgentPool, AgentPoolSpec, AgentPoolStatus};

/// The API group of every kind of the product.
pub const GROUP: &str = "pool.convos.org";
/// Finalizer of an AgentInstance: held until the provider confirmed that everything paid is gone.
pub const INSTANCE_FINALIZER: &str = "pool.convos.org/provider-resources";
/// Finalizer of an AgentPool: held until the pool's instances are dealt with by its deletion policy.
pub const POOL_FINALIZER: &str = "pool.convos.org/drain";
/// Finalizer of an AgentClaim created with kubectl: held until its agent was released.
pub const CLAIM_FINALIZER: &str = "pool.convos.org/release";
/// Label on instances with the pool's name (hashed where it is no legal label value).
pub const LABEL_POOL: &str = "pool.convos.org/pool";
/// Label on an AgentClaim that holds a join link for another: that other's name (hashed where it is no label value).
pub const LABEL_HELD_FOR: &str = "pool.convos.org/held-for";
/// Label that keeps an instance from being claimed, drained or killed, with the value `true`.
pub const LABEL_PROTECTED: &str = "pool.convos.org/protected";
/// Annotation on a pool: requests of the API to the controller, a JSON list.
pub const ANNOTATION_REQUESTS: &str = "pool.convos.org/requests";
/// Annotation on a claimed instance: the claim that a creation has answered (`replacement: OneForOne`).
pub const ANNOTATION_REPLACED: &str = "pool.convos.org/replaced-claim";
/// Annotation that drops an instance's finalizer although resources may be left behind, with the value `true`.
pub const ANNOTATION_ABANDON: &str = "pool.convos.org/abandon";
/// The header in which Railway's webhooks bring the secret that tells them from anybody's.
pub const WEBHOOK_SECRET_HEADER: &str = "X-Pool-Webhook-Secret";
/// Annotation on an instance that `agentpool import` has recorded and not finished yet, with the value `true`: the
/// controller leaves it alone until the import, this run or the next, has taken it off.
pub const ANNOTATION_IMPORTING: &str = "pool.convos.org/importing";
/// Annotation on an imported instance: when its agent was created, long before the object.
pub const ANNOTATION_CREATED: &str = "pool.convos.org/created-at";
/// Field manager of the writes of `agentpool import`.
pub const MANAGER_IMPORT: &str = "agentpool-import";
/// Field manager of the controller's writes.
pub const MANAGER_CONTROLLER: &str = "agentpool-controller";
/// Field manager of the claim service's writes.
pub const MANAGER_CLAIM: &str = "agentpool-claim";
/// Field manager of the API's other writes (requests on a pool).
pub const MANAGER_API: &str = "agentpool-api";
/// Field manager of the pools that the chart applies.
pub const MANAGER_CHART: &str = "agentpool-chart";

/// Every CRD of the product, as it is installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        tidy(AgentPool::crd()),
        tidy(AgentInstance::crd()),
        tidy(AgentClaim::crd()),
    ]
}

/// A CRD as YAML. Words that YAML 1.1, and so kubectl, reads as booleans (`Off`) are quoted, which the printer, being
/// of YAML 1.2, does not do by itself.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    let text = serde_yaml::to_string(crd)?;
    Ok(text
        .lines()
        .map(|line| quote_boolean(line) + "\n")
        .collect())
}

fn quote_boolean(line: &str) -> String {
    for mark in ["- ", ": "] {
        if let Some((before, word)) = line.rsplit_once(mark)
            && matches!(
                word,
                "Off" | "On" | "Yes" | "No" | "off" | "on" | "yes" | "no" | "y" | "n" | "Y" | "N"
            )
        {
            return format!("{before}{mark}\"{word}\"");
        }
    }
    line.to_owned()
}

/// Makes a derived CRD what Kubernetes expects of a hand-written one.
///
/// `nullable` goes, because a null would otherwise be stored and satisfy CEL's `has()`; integer formats that
/// Kubernetes does not know go too.
fn tidy(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(&crd).expect("a CRD is JSON");
    strip(&mut value);
    serde_json::from_value(value).expect("a CRD stays one without `nullable`")
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            if matches!(
                map.get("format").and_then(Value::as_str),
                Some("uint32" | "uint64" | "uint8" | "uint16")
            ) {
                map.remove("format");
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
