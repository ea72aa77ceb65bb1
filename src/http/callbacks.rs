//! Calls from an agent to its pool: its own end, what came of its join, what it is. They come from outside the
//! cluster, without an Authorization header: the body's `instanceId` and `gatewayToken` are checked as a pair.
//!
//! Every route answers at once, in every phase, whatever claim is in flight: an agent asks while its claim call is open,
//! and one that is kept waiting for ten seconds fails that claim. No token is ever logged.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

use super::call::Call;
use super::error::{ApiError, Code};
use super::throttle::Throttle;
use crate::api::AgentInstance;
use crate::domain::agent::CONVERSATION_MAX;
use crate::domain::instance::status::Told;

/// How long a callback may take: its caller waits 10 s.
pub const WITHIN: Duration = Duration::from_secs(8);

/// Whether a token is the instance's own; `None`: the root key was not read yet.
pub type Verify = Arc<dyn Fn(&AgentInstance, &str) -> Option<bool> + Send + Sync>;

/// Who may call back, and how often. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Callers {
    verify: Verify,
    throttle: Arc<Throttle>,
}

impl Callers {
    /// Callers whose tokens `verify` knows.
    pub fn new(verify: Verify) -> Self {
        Self {
            verify,
            throttle: Arc::default(),
        }
    }
}

/// The instance that calls, by its pair. `what` names the callback: each is limited by itself, so that none of them
/// can use up another's share.
fn caller(call: &Call, what: &'static str) -> Result<Arc<AgentInstance>, ApiError> {
    let text = |name: &str| call.body.get(name).and_then(Value::as_str);
    let given = |name| text(name).filter(|t| !t.is_empty());
    let (Some(id), Some(token)) = (given("instanceId"), given("gatewayToken")) else {
        return Err(ApiError::bad_request(
            "instanceId and gatewayToken are required",
        ));
    };
    let refused = || {
        tracing::info!(callback = what, "refused: no such pair of id and token");
        ApiError::new(
            StatusCode::FORBIDDEN,
            Code::Unauthorized,
            "Invalid instance ID or token",
        )
    };
    let instance = call.state.operations.instance_of(id).ok_or_else(refused)?;
    let callers = &call.state.callers;
    match (callers.verify)(&instance, token) {
        Some(true) => {}
        Some(false) => return Err(refused()),
        None => return Err(ApiError::internal()),
    }
    // Only who is known counts: a stranger can neither use up an agent's share nor our memory.
    let uid = instance.metadata.uid.clone().unwrap_or_default();
    callers
        .throttle
        .admit((uid, what), call.state.clock.monotonic())
        .map_err(ApiError::rate_limited)?;
    tracing::info!(instance = id, callback = what, "called back");
    Ok(instance)
}

/// `POST /api/pool/self-destruct`. Also 200 where it is on its way already, and where it is protected and stays: the
/// agent's process ends in any case.
pub async fn self_destruct(call: &Call) -> Result<Response, ApiError> {
    let instance = caller(call, "self-destruct")?;
    call.state.operations.end_itself(instance).await;
    Ok(Json(json!({"ok": true})).into_response())
}

/// `POST /api/pool/pending-acceptance/complete`: a join that waited was accepted. `ok`: whether that was news.
pub async fn accepted(call: &Call) -> Result<Response, ApiError> {
    let instance = caller(call, "pending-acceptance/complete")?;
    let conversation = call.body.get("conversationId").and_then(Value::as_str);
    let Some(conversation) = conversation.filter(|c| !c.is_empty() && c.len() <= CONVERSATION_MAX)
    else {
        return Err(ApiError::bad_request(
            "conversationId (string of 1 to 128 characters) is required",
        ));
    };
    let told = Told::Accepted(conversation);
    let changed = call.state.operations.called_back(&instance, told).await?;
    let id = &instance.spec.id;
    Ok(
        Json(json!({"ok": changed, "instanceId": id, "conversationId": conversation}))
            .into_response(),
    )
}

/// `POST /api/pool/pending-acceptance/fail`: the agent gave up. `ok`: whether that was news.
pub async fn gave_up(call: &Call) -> Result<Response, ApiError> {
    let instance = caller(call, "pending-acceptance/fail")?;
    let changed = call
        .state
        .operations
        .called_back(&instance, Told::GaveUp)
        .await?;
    Ok(Json(json!({"ok": changed, "instanceId": instance.spec.id})).into_response())
}

/// `POST /api/pool/self-info`: what it runs, and what its pool builds now.
pub fn info(call: &Call) -> Result<Response, ApiError> {
    let instance = caller(call, "self-info")?;
    let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
    let pool = ObjectRef::new(&instance.spec.pool_ref.name).within(namespace);
    let pool = call.state.pools.get(&pool);
    let source = pool
        .as_ref()
        .and_then(|p| p.spec.provider.railway.as_ref())
        .and_then(|r| r.source.image.as_ref());
    let status = instance.status.as_ref();
    let runtime = status.and_then(|s| s.runtime.as_ref());
    let provider = status.and_then(|s| s.provider.as_ref());
    Ok(Json(json!({
        "ok": true,
        "instanceId": instance.spec.id,
        "runtimeVersion": runtime.and_then(|r| r.version.as_deref()),
        "runtimeImage": provider.and_then(|p| p.image.as_deref()),
        "latestImage": source.map(|i| i.reference.as_str()),
    }))
    .into_response())
}

/// `POST /api/pool/attest`: no key is configured. Said at once and to everybody: the runtime goes on without.
pub fn attest() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Code::NotSupported,
        "Attestation not configured",
    )
}

/// `POST /api/pool/self-upgrade` and `self-reset`: an agent is never rebuilt under the conversation it is in.
pub fn rebuild(call: &Call) -> Result<Response, ApiError> {
    caller(call, "self-upgrade, self-reset")?;
    Err(ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        Code::NotSupported,
        "Agents are not redeployed in place: end this one and claim another",
    ))
}
