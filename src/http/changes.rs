//! Replenish, drain, reconcile and the removal of instances: parse, call, map.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::call::Call;
use super::error::ApiError;
use crate::api::{AgentPool, names};
use crate::domain::template::environment_code;
use crate::operations::{DrainScope, Removal, count, members};

/// `POST /api/pool/replenish`: so many now, or a cycle.
pub async fn replenish(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let operations = &call.state.operations;
    let Some(count) = count::replenish(call.body.get("count")) else {
        let cycled = operations.cycle(&pool).await?;
        let checked = json!({"checked": cycled.checked, "promoted": cycled.promoted});
        return Ok(Json(
            json!({"ok": true, "counts": operations.counts(&pool), "checkStarting": checked}),
        )
        .into_response());
    };
    let made = operations.replenish(&pool, count).await?;
    let mut body = json!({
        "ok": true,
        "created": made.ids.len(),
        "instances": made.ids.iter().map(|id| created(call, &pool, id)).collect::<Vec<_>>(),
        "failed": made.failed,
        "errors": made.errors,
        "counts": operations.counts(&pool),
    });
    if made.capped {
        body["capped"] = true.into();
    }
    Ok(Json(body).into_response())
}

/// `POST /api/pool/drain`.
pub async fn drain(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let count =
        count::drain(call.body.get("count")).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let scope = DrainScope::parse(call.body.get("scope").and_then(Value::as_str));
    let report = call.state.operations.drain(&pool, count, scope).await;
    let counts = call.state.operations.counts(&pool);
    Ok(Json(json!({"ok": true, "drained": report.drained, "drainedIds": report.drained_ids, "failed": report.failed, "counts": counts})).into_response())
}

/// `POST /api/pool/reconcile`.
pub async fn reconcile(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let done = call.state.operations.reconcile(&pool).await?;
    Ok(Json(
        json!({"ok": true, "cleaned": done.cleaned, "counts": call.state.operations.counts(&pool)}),
    )
    .into_response())
}

/// How long a release may take: a restoration ends with its answer.
pub const RELEASED_WITHIN: Duration = Duration::from_secs(310);

/// `DELETE /api/pool/instances/{id}`: as the pool's `onRelease` says, or `?mode=`.
pub async fn release(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let operations = &call.state.operations;
    let wait = !call.asks("wait", "false");
    let removal = match call.query.get("mode").map(String::as_str) {
        None | Some("") => operations.release(&pool, &call.id, (false, wait)).await?,
        Some("recycle") => operations.release(&pool, &call.id, (true, wait)).await?,
        Some("destroy") => operations.destroy(&pool, &call.id).await?,
        Some(_) => {
            return Err(ApiError::bad_request(
                "mode must be 'recycle' or 'destroy' if provided",
            ));
        }
    };
    let action = match removal {
        Removal::Recycled => "recycled",
        Removal::Destroyed | Removal::AlreadyGone => "destroyed",
    };
    Ok(removed(
        call,
        removal,
        json!({"ok": true, "action": action}),
    ))
}

/// `DELETE /api/pool/instances/{id}/destroy`.
pub async fn destroy(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let removal = call.state.operations.destroy(&pool, &call.id).await?;
    Ok(removed(call, removal, json!({"ok": true})))
}

/// `DELETE /api/pool/crashed/{id}`.
pub async fn dismiss(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    call.state
        .operations
        .dismiss_crashed(&pool, &call.id)
        .await?;
    Ok(Json(json!({"ok": true})).into_response())
}

fn removed(call: &Call, removal: Removal, body: Value) -> Response {
    match removal {
        Removal::AlreadyGone => Json(json!({"ok": true, "alreadyGone": true})).into_response(),
        Removal::Destroyed | Removal::Recycled if call.asks("wait", "false") => {
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        Removal::Destroyed | Removal::Recycled => Json(body).into_response(),
    }
}

/// A new instance as far as it is known: the watch may be behind, the name follows from the pool.
fn created(call: &Call, pool: &AgentPool, id: &str) -> Value {
    let seen = members(&call.state.instances, pool)
        .into_iter()
        .find(|i| i.spec.id == id);
    let status = seen.as_ref().and_then(|i| i.status.as_ref());
    let name = seen.as_ref().map_or_else(
        || names::provider_name(&pool.spec.name_prefix, &environment_code(&pool.spec), id),
        |i| i.spec.provider_name.clone(),
    );
    let service = status
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.service_id.as_deref());
    json!({"id": id, "serviceId": service, "url": status.and_then(|s| s.url.as_deref()), "name": name})
}
