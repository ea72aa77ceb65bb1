//! Live, ready and metrics, on the operations port.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::error::ApiError;
use super::state::Readiness;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::CONTENT_TYPE;

/// What the operations port shows. Every role has one.
#[derive(Clone)]
pub struct OperationsState {
    /// Which parts are ready.
    pub ready: Readiness,
    /// The process's metrics.
    pub metrics: Metrics,
}

/// `/livez`, `/readyz` and `/metrics`. Without a key: the port is for the cluster only.
pub fn operations_router(state: OperationsState) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({"ok": true}))))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async || ApiError::not_found("Not found"))
        .with_state(state)
}

async fn readyz(State(state): State<OperationsState>) -> Response {
    let waiting = state.ready.waiting();
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ok": waiting.is_empty(), "waitingFor": waiting}))).into_response()
}

async fn metrics(State(state): State<OperationsState>) -> Response {
    match state.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}
