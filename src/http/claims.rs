//! `POST /api/pool/claim`: validate, hand over, map. No business rule.

use std::time::Duration;

use axum::Json;
use axum::response::{AppendHeaders, IntoResponse, Response};
use kube::ResourceExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::call::Call;
use super::error::ApiError;
use super::terms;
use super::validate::claim_request;
use crate::claim::{ClaimAnswer, ClaimError, Terms};
use crate::telemetry::metrics::ClaimResult;

/// How much longer than its deadline a claim is waited for.
const MARGIN: Duration = Duration::from_secs(5);

/// Serves a claim. It runs to its end in a task of its own: a caller who goes away changes nothing.
pub async fn claim(call: &Call) -> Result<Response, ApiError> {
    let pool = call.pool()?;
    let request = claim_request(&pool.spec, &pool.spec.environment, &call.body)?;
    let terms = Terms {
        key: terms::key(&call.headers)?,
        wait: terms::wait(&call.headers, &call.body)?,
        gone: CancellationToken::new(),
    };
    // Dropped with this future when the caller goes away.
    let _gone = terms.gone.clone().drop_guard();
    let deadline =
        Duration::from_secs(u64::try_from(pool.spec.claim.deadline_seconds).unwrap_or(0))
            + terms.wait
            + MARGIN;
    let (claims, clock, metrics) = (
        call.state.claims.clone(),
        call.state.clock.clone(),
        call.state.metrics.clone(),
    );
    let named = pool.clone();
    let task = call.state.tasks.spawn(async move {
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let source = request.source.clone();
        let began = clock.monotonic();
        let outcome = claims.claim(&pool, request, terms).await;
        let took = clock.monotonic().saturating_sub(began);
        metrics.claim(&namespace, &name, &source, result_of(&outcome), took);
        match &outcome {
            Ok(answer) => info!(namespace, pool = name, instance = answer.instance_id, source, seconds = took.as_secs_f64(), "claimed"),
            Err(error) => warn!(namespace, pool = name, source, seconds = took.as_secs_f64(), %error, "claim failed"),
        }
        (outcome, took)
    });
    match tokio::time::timeout(deadline, task).await {
        Ok(Ok((outcome, took))) => {
            let answer = outcome?;
            let timing = AppendHeaders([("server-timing", timing(answer.agent_took, took))]);
            Ok((timing, Json(body(&answer))).into_response())
        }
        Ok(Err(join)) => {
            error!(error = %join, "a claim's task ended without an answer");
            let (namespace, name) = (named.namespace().unwrap_or_default(), named.name_any());
            call.state
                .metrics
                .claim(&namespace, &name, "", ClaimResult::Lost, Duration::ZERO);
            Err(ApiError::internal())
        }
        Err(_) => Err(ApiError::still_running()),
    }
}

/// Where the time of a claim went, in milliseconds (W3C Server Timing): the agents' own calls, and all of it.
fn timing(agent: Duration, total: Duration) -> String {
    let millis = |d: Duration| d.as_secs_f64() * 1000.0;
    format!(
        "agent;dur={:.3}, total;dur={:.3}",
        millis(agent),
        millis(total)
    )
}

/// The answer of every generation at once.
fn body(answer: &ClaimAnswer) -> Value {
    json!({
        "inviteUrl": answer.invite_url,
        "inviteSlug": answer.invite_slug,
        "conversationId": answer.conversation_id,
        "instanceId": answer.instance_id,
        "joined": answer.joined,
        "waitingForAcceptance": answer.waiting_for_acceptance,
        "status": if answer.waiting_for_acceptance { "pending_acceptance" } else { "claimed" },
        "agentName": answer.agent_name,
        "gatewayToken": answer.gateway_token.as_ref().map(|t| t.expose_secret()),
        "gatewayUrl": answer.gateway_url,
    })
}

fn result_of(outcome: &Result<ClaimAnswer, ClaimError>) -> ClaimResult {
    match outcome {
        Ok(answer) if answer.waiting_for_acceptance => ClaimResult::PendingAcceptance,
        Ok(_) => ClaimResult::Claimed,
        Err(ClaimError::NoIdle | ClaimError::WaitedOut { .. }) => ClaimResult::NoIdle,
        Err(ClaimError::KeyReused) => ClaimResult::KeyReused,
        Err(ClaimError::DuplicateJoin { .. }) => ClaimResult::Duplicate,
        Err(ClaimError::StillRunning) => ClaimResult::Lost,
        Err(ClaimError::Paused(_)) => ClaimResult::Paused,
        Err(ClaimError::ProvisionFailed { .. }) => ClaimResult::ProvisionFailed,
        Err(ClaimError::Invalid { .. }) => ClaimResult::Invalid,
        Err(ClaimError::Cluster(_)) => ClaimResult::ClusterError,
    }
}
