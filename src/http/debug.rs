//! `GET /api/pool/debug/{id}`: what provider and agent say of one instance now, in the form of the first generation.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::call::Call;
use super::error::ApiError;
use super::rows;
use crate::api::AgentInstance;
use crate::operations::{OperationError, members};

/// Each member of the report says by itself what went wrong with it; the call itself fails only where nobody answers.
pub async fn debug(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let found = members(&call.state.instances, &pool);
    let Some(instance) = found.into_iter().find(|i| i.spec.id == call.id) else {
        return Err(ApiError::not_found("not found"));
    };
    let report = match call.state.operations.diagnose(&pool, &call.id).await {
        // It went between the look into the cache and the controller's.
        Err(OperationError::Failed(why)) if why == "not found" => {
            return Err(ApiError::not_found("not found"));
        }
        other => other?,
    };
    let report: Value = serde_json::from_str(&report).unwrap_or_default();
    Ok(Json(shape(&instance, &report)).into_response())
}

/// The keys that its pages read, and ours beside them.
fn shape(instance: &AgentInstance, report: &Value) -> Value {
    let text = |of: &Value| of["error"].as_str().map(|why| format!("error: {why}"));
    let (provider, agent) = (&report["provider"], &report["agent"]);
    let outside = text(agent).map_or_else(|| json!(agent.to_string()), Value::from);
    let row = rows::row(instance, "", &rows::Shown::default());
    let conditions = instance.status.as_ref().map(|s| &s.conditions);
    let variables = provider["variables"].as_u64().map(|n| json!(n > 0));
    let mut body = json!({
        "id": row["id"], "name": row["name"], "status": row["status"], "url": row["url"],
        // What only the inside could tell: nobody can look into a Railway service.
        "processes": provider["processes"], "listening": provider["listening"],
        "localCheck": outside,
        "envExists": variables.as_ref().unwrap_or(&provider["envExists"]),
        "deployStatus": row["deployStatus"], "conditions": conditions,
        "events": provider["deploymentEvents"],
    });
    if provider["localCheck"].is_string() {
        // Asked inside as well: what came of asking at its address stands beside it.
        body["localCheck"] = provider["localCheck"].clone();
        body["urlCheck"] = outside;
        for key in ["envNames", "services", "commit", "checkpointId"] {
            body[key] = provider[key].clone();
        }
    }
    let own = !provider["apiStatus"].is_null();
    match text(provider).or_else(|| provider["apiInfo"].as_str().map(str::to_owned)) {
        Some(why) => body["apiInfo"] = why.into(),
        None if own => {
            body["apiStatus"] = provider["apiStatus"].clone();
            body["apiBody"] = provider["apiBody"].clone();
        }
        None => {
            body["apiStatus"] = 200.into();
            body["apiBody"] = provider.clone();
        }
    }
    body
}
