//! The routes as data, and the one way through which each is served: who may, read, call, within which time.

use std::time::Duration;

use axum::extract::{RawPathParams, Request};
use axum::http::Method;
use axum::response::{IntoResponse, Response};

use super::call::Call;
use super::error::ApiError;
use super::state::{AppState, PublicReads};
use super::{callbacks, changes, claims, debug, page, reads, webhooks};

/// How long a call may take, except a claim, which has the pool's own deadline, and a release. More than the controller's 30 s.
const WITHIN: Duration = Duration::from_secs(45);

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Everybody, unless public reads are off.
    PublicRead,
    /// Who has the key.
    Key,
    /// Railway, by the webhooks' own secret; the handler checks it.
    Webhook,
    /// An agent, by the pair of id and token in the body; the handler checks it.
    Instance,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each is documented at its row in the table and at its handler"
)]
pub enum Endpoint {
    Page,
    PageScript,
    PageStyle,
    Healthz,
    Version,
    Counts,
    Agents,
    Status,
    Claim,
    Replenish,
    Drain,
    Reconcile,
    ListClaimed,
    Release,
    Destroy,
    DismissCrashed,
    Debug,
    RailwayWebhook,
    SelfDestruct,
    JoinAccepted,
    JoinGivenUp,
    SelfInfo,
    SelfUpgrade,
    SelfReset,
    Attest,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its method; a GET route also answers HEAD.
    pub method: Method,
    /// Its path, in axum's pattern language.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// What it does.
    pub endpoint: Endpoint,
}

const fn route(method: Method, path: &'static str, access: Access, endpoint: Endpoint) -> Route {
    Route {
        method,
        path,
        access,
        endpoint,
    }
}

/// Every route. What is not here is 404.
pub static ROUTES: &[Route] = &[
    route(Method::GET, "/", Access::Open, Endpoint::Page),
    route(
        Method::GET,
        "/assets/page.js",
        Access::Open,
        Endpoint::PageScript,
    ),
    route(
        Method::GET,
        "/assets/page.css",
        Access::Open,
        Endpoint::PageStyle,
    ),
    route(Method::GET, "/healthz", Access::Open, Endpoint::Healthz),
    route(
        Method::GET,
        "/version",
        Access::PublicRead,
        Endpoint::Version,
    ),
    route(
        Method::GET,
        "/api/pool/counts",
        Access::PublicRead,
        Endpoint::Counts,
    ),
    route(
        Method::GET,
        "/api/pool/agents",
        Access::PublicRead,
        Endpoint::Agents,
    ),
    route(
        Method::GET,
        "/api/pool/status",
        Access::Key,
        Endpoint::Status,
    ),
    route(
        Method::GET,
        "/api/pool/debug/{id}",
        Access::Key,
        Endpoint::Debug,
    ),
    route(
        Method::POST,
        "/api/pool/claim",
        Access::Key,
        Endpoint::Claim,
    ),
    route(
        Method::POST,
        "/api/pool/replenish",
        Access::Key,
        Endpoint::Replenish,
    ),
    route(
        Method::POST,
        "/api/pool/drain",
        Access::Key,
        Endpoint::Drain,
    ),
    route(
        Method::POST,
        "/api/pool/reconcile",
        Access::Key,
        Endpoint::Reconcile,
    ),
    route(
        Method::DELETE,
        "/api/pool/instances",
        Access::Key,
        Endpoint::ListClaimed,
    ),
    route(
        Method::DELETE,
        "/api/pool/instances/{id}",
        Access::Key,
        Endpoint::Release,
    ),
    route(
        Method::DELETE,
        "/api/pool/instances/{id}/destroy",
        Access::Key,
        Endpoint::Destroy,
    ),
    route(
        Method::DELETE,
        "/api/pool/crashed/{id}",
        Access::Key,
        Endpoint::DismissCrashed,
    ),
    webhook("/webhooks/railway"),
    webhook("/webhooks/railway/{id}"),
    callback("/api/pool/self-destruct", Endpoint::SelfDestruct),
    callback(
        "/api/pool/pending-acceptance/complete",
        Endpoint::JoinAccepted,
    ),
    callback("/api/pool/pending-acceptance/fail", Endpoint::JoinGivenUp),
    callback("/api/pool/self-info", Endpoint::SelfInfo),
    callback("/api/pool/self-upgrade", Endpoint::SelfUpgrade),
    callback("/api/pool/self-reset", Endpoint::SelfReset),
    callback("/api/pool/attest", Endpoint::Attest),
];

const fn webhook(path: &'static str) -> Route {
    route(
        Method::POST,
        path,
        Access::Webhook,
        Endpoint::RailwayWebhook,
    )
}

const fn callback(path: &'static str, endpoint: Endpoint) -> Route {
    route(Method::POST, path, Access::Instance, endpoint)
}

/// Serves one request to a route.
pub(super) async fn serve(
    route: &Route,
    state: AppState,
    params: Option<RawPathParams>,
    request: Request,
) -> Response {
    let authorised = state.auth.accepts(request.headers());
    let open = match route.access {
        Access::Open | Access::Instance | Access::Webhook => true,
        Access::PublicRead => state.settings.public_reads != PublicReads::Off,
        Access::Key => false,
    };
    if !open && !authorised {
        return ApiError::unauthorized().into_response();
    }
    let Some(params) = params else {
        return ApiError::not_found("Not found").into_response();
    };
    let answer = async {
        let call = Call::read(state, authorised, &params, request).await?;
        if route.endpoint == Endpoint::Claim {
            return claims::claim(&call).await;
        }
        let within = match route.access {
            Access::Instance => callbacks::WITHIN,
            _ if matches!(route.endpoint, Endpoint::Release) => changes::RELEASED_WITHIN,
            _ => WITHIN,
        };
        tokio::time::timeout(within, answer(route.endpoint, &call))
            .await
            .unwrap_or_else(|_| Err(ApiError::still_running()))
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(endpoint: Endpoint, call: &Call) -> Result<Response, ApiError> {
    match endpoint {
        Endpoint::Page => Ok(reads::page(call)),
        Endpoint::PageScript => Ok(page::script()),
        Endpoint::PageStyle => Ok(page::style()),
        Endpoint::Healthz => Ok(reads::healthz()),
        Endpoint::Version => reads::version(call),
        Endpoint::Counts => reads::counts(call),
        Endpoint::Agents => reads::agents(call),
        Endpoint::Status => reads::status(call),
        Endpoint::Claim => claims::claim(call).await,
        Endpoint::Replenish => changes::replenish(call).await,
        Endpoint::Drain => changes::drain(call).await,
        Endpoint::Reconcile => changes::reconcile(call).await,
        Endpoint::ListClaimed => reads::claimed_ids(call),
        Endpoint::Release => changes::release(call).await,
        Endpoint::Destroy => changes::destroy(call).await,
        Endpoint::DismissCrashed => changes::dismiss(call).await,
        Endpoint::Debug => debug::debug(call).await,
        Endpoint::RailwayWebhook => webhooks::railway(call),
        Endpoint::SelfDestruct => callbacks::self_destruct(call).await,
        Endpoint::JoinAccepted => callbacks::accepted(call).await,
        Endpoint::JoinGivenUp => callbacks::gave_up(call).await,
        Endpoint::SelfInfo => callbacks::info(call),
        Endpoint::SelfUpgrade | Endpoint::SelfReset => callbacks::rebuild(call),
        Endpoint::Attest => Err(callbacks::attest()),
    }
}
