//! The HTTP surface: what the predecessor's clients know, over the pools of the cluster.
//!
//! Handlers authenticate, parse, call and map; there is no business rule here. May use `api`, `domain`, `claim`,
//! `operations`, the watch caches, `clock` and `telemetry`. [`router`] works without a socket.

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use tower_http::catch_panic::CatchPanicLayer;

pub mod auth;
mod debug;
pub mod error;
pub mod health;
pub mod state;
mod terms;

mod call;
mod callbacks;
mod changes;
mod claims;
mod join_url;
mod layers;
mod page;
mod reads;
mod routes;
mod rows;
mod throttle;
mod validate;
mod webhooks;

pub use auth::ApiKeys;
pub use callbacks::{Callers, Verify};
pub use error::{ApiError, Code};
pub use health::{OperationsState, operations_router};
pub use routes::{Access, Endpoint, ROUTES, Route};
pub use state::{
    AgentsShape, AppState, PoolKey, PublicReads, Readiness, ReadyFlag, Settings, Tokens,
};
pub use webhooks::WebhookSecret;

/// Every route works below this too, for the pool that it names.
pub const POOL_PREFIX: &str = "/pools/{namespace}/{name}";

/// The API and the page, for the API port.
pub fn router(state: AppState) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, method(route));
        router = router.route(&format!("{POOL_PREFIX}{}", route.path), method(route));
    }
    router
        .fallback(async || ApiError::not_found("Not found"))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(state.clone(), layers::cors))
        .layer(from_fn_with_state(state.clone(), layers::observe))
        .with_state(state)
}

fn method(route: &'static Route) -> MethodRouter<AppState> {
    let filter = MethodFilter::try_from(route.method.clone()).unwrap_or(MethodFilter::TRACE);
    type Params = Result<RawPathParams, RawPathParamsRejection>;
    on(
        filter,
        async move |State(state): State<AppState>, params: Params, request: Request| {
            routes::serve(route, state, params.ok(), request).await
        },
    )
}

async fn method_not_allowed() -> Response {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::MethodNotAllowed,
        "Method not allowed",
    )
    .into_response()
}
