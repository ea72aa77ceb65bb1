//! What is only read: version, counts and listings, all from the watch caches.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::error::ApiError;
use super::page;
use super::rows::{Shown, add_token, claimed_at, row};
use super::state::{AgentsShape, PublicReads};
use crate::api::condition::{ConditionType, Truth, find};
use crate::api::{AgentInstance, AgentPool};
use crate::domain::instance::phase::{Phase, phase_of};
use crate::domain::template::provider_kind;
use crate::operations::members;

/// An environment that nobody named.
const UNKNOWN: &str = "unknown";

/// `GET /healthz`: touches nothing.
pub fn healthz() -> Response {
    Json(json!({"ok": true})).into_response()
}

/// Whose environment a call is about: that of the pool that is named, else the API's as it is set up, else the default
/// pool's.
pub fn environment(call: &Call) -> Result<String, ApiError> {
    Ok(
        match (call.named_pool(), &call.state.settings.environment) {
            (Some(pool), _) => pool?.spec.environment.clone(),
            (None, Some(environment)) => environment.clone(),
            (None, None) => call
                .pool()
                .map_or_else(|_| UNKNOWN.to_owned(), |p| p.spec.environment.clone()),
        },
    )
}

/// `GET /`: whatever there is, there is a page.
pub fn page(call: &Call) -> Response {
    page::index(&environment(call).unwrap_or_else(|_| UNKNOWN.to_owned()))
}

/// `GET /version`.
pub fn version(call: &Call) -> Result<Response, ApiError> {
    let environment = environment(call)?;
    let version = &call.state.settings.version;
    Ok(Json(json!({"version": version, "environment": environment})).into_response())
}

/// `GET /api/pool/counts`.
pub fn counts(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    Ok(Json(call.state.operations.counts(&pool)).into_response())
}

/// `GET /api/pool/agents`.
pub fn agents(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let conversation = call.authorised || call.state.settings.public_reads != PublicReads::Redacted;
    let shown = Shown {
        key_only: false,
        conversation,
    };
    let all = members(&call.state.instances, &pool);
    let list = match call.query.get("format").map(String::as_str) {
        Some("list") => true,
        Some("object") => false,
        _ => call.state.settings.agents_shape == AgentsShape::List,
    };
    let rows = |phase| rows_of(&all, phase, &pool, &shown);
    if list {
        return Ok(Json(rows(Phase::Claimed)).into_response());
    }
    let keys = [
        ("claimed", Phase::Claimed),
        ("crashed", Phase::Crashed),
        ("idle", Phase::Idle),
        ("starting", Phase::Provisioning),
        ("pendingAcceptance", Phase::PendingAcceptance),
        ("tainted", Phase::Tainted),
    ];
    let body: Map<String, Value> = keys
        .into_iter()
        .map(|(key, phase)| (key.to_owned(), rows(phase)))
        .collect();
    Ok(Json(body).into_response())
}

/// `GET /api/pool/status`.
pub fn status(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let mut all = members(&call.state.instances, &pool);
    all.sort_by_key(|i| (created(i), i.spec.id.clone()));
    let secrets = call
        .query
        .get("include")
        .is_some_and(|v| v.split(',').any(|word| word.trim() == "secrets"));
    let shown = Shown {
        key_only: true,
        conversation: true,
    };
    let rows: Vec<Value> = all
        .iter()
        .map(|instance| {
            let mut row = row(instance, provider_kind(&pool.spec.provider), &shown);
            if secrets {
                let token = (call.state.tokens)(instance);
                add_token(&mut row, token.as_ref().map(|t| t.expose_secret()));
            }
            row
        })
        .collect();
    let counts = call.state.operations.counts(&pool);
    Ok(Json(json!({"counts": counts, "instances": rows, "pool": ready(&pool)})).into_response())
}

/// Why the pool has what it has, in the words of its Ready condition; null before it was looked at.
fn ready(pool: &AgentPool) -> Value {
    let status = pool.status.as_ref();
    let ready = status.and_then(|s| find(&s.conditions, ConditionType::Ready));
    json!(ready.map(|c| {
        let is = c.status == Truth::True.as_str();
        json!({"ready": is, "reason": c.reason, "message": c.message})
    }))
}

/// `DELETE /api/pool/instances`: despite the verb, a listing of the claimed ids. Deletes nothing.
pub fn claimed_ids(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let all = members(&call.state.instances, &pool);
    let ids: Vec<&str> = in_phase(&all, Phase::Claimed)
        .iter()
        .map(|i| i.spec.id.as_str())
        .collect();
    Ok(Json(json!({"ids": ids})).into_response())
}

fn rows_of(all: &[Arc<AgentInstance>], phase: Phase, pool: &AgentPool, shown: &Shown) -> Value {
    in_phase(all, phase)
        .into_iter()
        .map(|i| row(i, provider_kind(&pool.spec.provider), shown))
        .collect()
}

/// Those in a phase: in stock and starting ones oldest first, the others by the latest claim first.
fn in_phase(all: &[Arc<AgentInstance>], phase: Phase) -> Vec<&Arc<AgentInstance>> {
    let mut found: Vec<_> = all.iter().filter(|i| phase_of(i) == phase).collect();
    if matches!(phase, Phase::Idle | Phase::Provisioning) {
        found.sort_by(|a, b| (created(a), &a.spec.id).cmp(&(created(b), &b.spec.id)));
    } else {
        found.sort_by_key(|i| (Reverse(claimed_at(i).map(|t| t.0)), i.spec.id.clone()));
    }
    found
}

fn created(instance: &AgentInstance) -> Option<jiff::Timestamp> {
    instance.metadata.creation_timestamp.as_ref().map(|t| t.0)
}
