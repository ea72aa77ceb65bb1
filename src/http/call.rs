//! One call as handlers see it: who calls, which pool it is about, its query and its body.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use kube::runtime::reflector::ObjectRef;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::state::{AppState, PoolKey};
use crate::api::AgentPool;

/// The largest body.
pub const MAX_BODY: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// One call.
pub struct Call {
    /// What the API has.
    pub state: AppState,
    /// Whether it carries the key.
    pub authorised: bool,
    /// The `{id}` of the path.
    pub id: String,
    /// The query, the last of equal names.
    pub query: BTreeMap<String, String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty where there is none, or it is no JSON object.
    pub body: Map<String, Value>,
    prefix: Option<PoolKey>,
}

impl Call {
    /// Reads a request. Who may make it was decided before.
    pub async fn read(
        state: AppState,
        authorised: bool,
        params: &RawPathParams,
        request: Request,
    ) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let param = |name: &str| {
            params
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let prefix = param("namespace")
            .zip(param("name"))
            .map(|(namespace, name)| PoolKey { namespace, name });
        let query = query_of(&parts)?;
        let body = if parts.method == Method::GET {
            Map::new()
        } else {
            json_body(&parts.headers, body).await?
        };
        Ok(Self {
            state,
            authorised,
            id: param("id").unwrap_or_default(),
            query,
            headers: parts.headers,
            body,
            prefix,
        })
    }

    /// Whether a query parameter has that value.
    pub fn asks(&self, name: &str, value: &str) -> bool {
        self.query.get(name).is_some_and(|v| v == value)
    }

    /// The pool that the call names, else the default pool.
    pub fn pool(&self) -> Result<Arc<AgentPool>, ApiError> {
        match self.named_pool() {
            Some(named) => named,
            None => self.default_pool(),
        }
    }

    /// The pool that the call names by its path, its query or its body, in this order; `None` where it names none.
    pub fn named_pool(&self) -> Option<Result<Arc<AgentPool>, ApiError>> {
        if let Some(key) = &self.prefix {
            return Some(self.by_key(key));
        }
        let word = match (self.query.get("pool"), self.body.get("pool")) {
            (Some(word), _) | (None, Some(Value::String(word))) => word.trim(),
            (None, None | Some(Value::Null)) => return None,
            // Not left out of account: it would be done to the default pool.
            (None, Some(_)) => {
                return Some(Err(ApiError::bad_request(
                    "pool must be a string if provided",
                )));
            }
        };
        match word.parse::<PoolKey>() {
            _ if word.is_empty() => None,
            Ok(key) => Some(self.by_key(&key)),
            Err(_) => Some(self.by_name(word)),
        }
    }

    fn by_key(&self, key: &PoolKey) -> Result<Arc<AgentPool>, ApiError> {
        let found = self
            .state
            .pools
            .get(&ObjectRef::new(&key.name).within(&key.namespace));
        found.ok_or_else(|| self.no_pool(format!("Pool {key} not found")))
    }

    /// 404, once it is known which pools there are.
    fn no_pool(&self, message: impl Into<String>) -> ApiError {
        if self.state.ready.waiting().is_empty() {
            ApiError::not_found(message)
        } else {
            ApiError::starting()
        }
    }

    fn by_name(&self, name: &str) -> Result<Arc<AgentPool>, ApiError> {
        let mut found = self
            .state
            .pools
            .state_filter(|p| p.metadata.name.as_deref() == Some(name));
        match (found.pop(), found.pop()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(self.no_pool(format!("Pool {name} not found"))),
            (Some(_), Some(_)) => Err(ApiError::not_found(format!(
                "Several pools are called {name}: name one as <namespace>/{name}"
            ))),
        }
    }

    fn default_pool(&self) -> Result<Arc<AgentPool>, ApiError> {
        if let Some(key) = &self.state.settings.default_pool {
            return self.by_key(key);
        }
        let mut all = self.state.pools.state();
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            (None, _) => Err(self.no_pool("There is no pool yet: create an AgentPool")),
            (Some(_), false) => Err(ApiError::not_found(
                "There are several pools: name one with ?pool=<namespace>/<name>, or set --default-pool",
            )),
        }
    }
}

fn query_of(parts: &Parts) -> Result<BTreeMap<String, String>, ApiError> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    query
        .map(|q| q.0.into_iter().collect())
        .map_err(|_| ApiError::bad_request("Invalid query string"))
}

/// The JSON object in a body. No body, another content type and JSON that is no object count as `{}`.
async fn json_body(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<usize>().ok());
    if announced.is_some_and(|n| n > MAX_BODY) {
        return Err(ApiError::too_large());
    }
    // The timer of tokio, not the clock: nothing is measured here, and a test's virtual time moves it too.
    let bytes = match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, MAX_BODY)).await
    {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_length(&error) => return Err(ApiError::too_large()),
        Ok(Err(_)) => return Err(ApiError::bad_request("The request body could not be read")),
        Err(_) => return Err(ApiError::bad_request("The request body took too long")),
    };
    if bytes.is_empty() || !is_json(headers) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Ok(Map::new()),
        Err(_) => Err(ApiError::bad_request("Invalid JSON body")),
    }
}

fn is_length(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(now) = cause {
        if now.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = now.source();
    }
    false
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}
