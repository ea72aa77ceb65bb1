//! A Kubernetes API server in process, as far as this project uses one: objects with versions, finalizers and a
//! status subresource, patches with their preconditions, watches, and the rules of our own kinds.
//!
//! It is for virtual time, where the real one cannot go; `tests/k8s/parity.rs` sends one script to both and compares.
//! It has no faults of its own: whoever carries a request loses it, delays it or answers in its place.

mod patch;
mod rules;
mod schema;
mod select;
mod store;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;

pub use store::{Change, Kind, Store};
pub use watch::Reins;

/// What a request gets instead of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The reason, as in `Status.reason`.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

impl Refusal {
    /// A refusal in the API server's words.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            reason,
            message,
        }
    }

    /// As a `Status` object.
    pub fn to_json(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code})
    }
}

/// What a path names.
#[derive(Clone, Debug)]
struct Target {
    resource: &'static store::Resource,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    store: Arc<Mutex<Store>>,
    /// Wakes in the order of waiting; a watch channel would wake in a random one.
    changed: Arc<Notify>,
}

impl ApiServer {
    /// An empty one whose wall clock is `now`.
    pub fn new(now: impl Fn() -> jiff::Timestamp + Send + Sync + 'static) -> Self {
        Self {
            store: Arc::new(Mutex::new(Store::new(Box::new(now)))),
            changed: Arc::default(),
        }
    }

    /// What is stored.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every open watch look again.
    pub fn touch(&self) {
        self.changed.notify_waiters();
    }

    /// Answers a request, its body read.
    pub fn answer(&self, request: &Request<Vec<u8>>, reins: &Reins) -> Response<Body> {
        let outcome = self.outcome(request, reins);
        self.touch();
        match outcome {
            Ok(Answer::Object(code, value)) => json_response(code, &value),
            Ok(Answer::Watch(body)) => Response::builder()
                .header("content-type", "application/json")
                .body(body)
                .expect("a status and a header"),
            Err(refusal) => json_response(refusal.code, &refusal.to_json()),
        }
    }

    /// The same for one who waits for no stream: the object, or the refusal.
    pub fn decide(&self, request: &Request<Vec<u8>>, reins: &Reins) -> Result<Value, Refusal> {
        let outcome = self.outcome(request, reins);
        self.touch();
        match outcome? {
            Answer::Object(_, value) => Ok(value),
            Answer::Watch(_) => Err(Refusal::new(400, "BadRequest", "a watch is a stream")),
        }
    }

    fn outcome(&self, request: &Request<Vec<u8>>, reins: &Reins) -> Result<Answer, Refusal> {
        let target = target(request.uri().path())?;
        let query = select::Query::parse(request.uri().query().unwrap_or_default());
        let mut store = self.store();
        let object = |value| Answer::Object(200, value);
        match (request.method(), &target.name) {
            (&Method::GET, Some(name)) => store
                .get(target.resource, target.namespace.as_deref(), name)
                .map(object),
            (&Method::GET, None) if query.watch => {
                let from = query.version.parse().unwrap_or(store.version());
                drop(store);
                let scope = (target.resource, target.namespace.clone());
                let stream = watch::stream(self.clone(), scope, from, query.timeout, reins.clone());
                Ok(Answer::Watch(Body::from_stream(stream)))
            }
            (&Method::GET, None) => store
                .list(target.resource, target.namespace.as_deref(), &query)
                .map(object),
            (&Method::POST, None) => {
                let body = parse(request.body())?;
                let namespace = target.namespace.as_deref();
                let made = store.create(target.resource, namespace, body)?;
                Ok(Answer::Object(201, made))
            }
            (&Method::PATCH, Some(name)) => {
                let content = request.headers().get("content-type");
                let content = content.and_then(|v| v.to_str().ok()).unwrap_or_default();
                let patch = patch::Patch::parse(content, request.body())?;
                let place = (target.resource, target.namespace.as_deref(), name.as_str());
                store.patch(place, target.status, &patch).map(object)
            }
            (&Method::PUT, Some(name)) => {
                let patch = patch::Patch::Whole(parse(request.body())?);
                let place = (target.resource, target.namespace.as_deref(), name.as_str());
                store.patch(place, target.status, &patch).map(object)
            }
            (&Method::DELETE, Some(name)) => {
                let body = if request.body().is_empty() {
                    Value::Null
                } else {
                    parse(request.body())?
                };
                let place = (target.resource, target.namespace.as_deref(), name.as_str());
                store.delete(place, &body).map(object)
            }
            _ => Err(Refusal::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )),
        }
    }
}

enum Answer {
    Object(u16, Value),
    Watch(Body),
}

/// A response with a JSON body.
pub fn json_response(code: u16, value: &Value) -> Response<Body> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(value.to_string()))
        .expect("a status and a header")
}

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal::new(400, "BadRequest", format!("the body is not JSON: {e}")))
}

/// `/api/v1/…` and `/apis/<group>/<version>/…`, with or without a namespace.
fn target(path: &str) -> Result<Target, Refusal> {
    let unknown = || {
        Refusal::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    };
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = match parts.first() {
        Some(&"api") if parts.len() > 2 => parts.drain(..2).nth(1).map(str::to_owned),
        Some(&"apis") if parts.len() > 3 => {
            let head: Vec<&str> = parts.drain(..3).collect();
            Some(format!("{}/{}", head[1], head[2]))
        }
        _ => None,
    };
    let group = group.ok_or_else(unknown)?;
    // A namespace's own object is below `namespaces` too.
    let namespace = (parts.first() == Some(&"namespaces") && parts.len() > 2)
        .then(|| parts.drain(..2).nth(1).map(str::to_owned))
        .flatten();
    let plural = *parts.first().ok_or_else(unknown)?;
    let resource = store::resource(&group, plural).ok_or_else(unknown)?;
    let status = parts.get(2) == Some(&"status");
    if parts.len() > 2 && !(status && resource.has_status && parts.len() == 3) {
        return Err(unknown());
    }
    Ok(Target {
        resource,
        namespace,
        name: parts.get(1).map(|n| (*n).to_owned()),
        status,
    })
}
