//! An API server with somebody in between: every call goes through, until one of them is stopped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::response::Response;
use kube::Client;
use serde_json::json;

use super::wait::{LONG, until};

/// Which call is stopped: the first of its kind.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// `POST` or `PATCH`.
    pub method: &'static str,
    /// The resource's plural, as in the path.
    pub resource: &'static str,
    /// Of its status.
    pub status: bool,
    /// It takes effect, and its answer never comes; else it never gets there.
    pub applied: bool,
}

impl Stop {
    fn is(&self, method: &Method, path: &str) -> bool {
        let of = format!("/{}", self.resource);
        method.as_str() == self.method
            && (path.ends_with(&of) || path.contains(&format!("{of}/")))
            && path.ends_with("/status") == self.status
    }
}

#[derive(Default)]
struct Rules {
    stop: Option<Stop>,
    reached: bool,
}

#[derive(Clone)]
struct Way {
    client: Client,
    rules: Arc<Mutex<Rules>>,
}

/// The one in between; gone when dropped.
pub struct Proxy {
    kubeconfig: PathBuf,
    rules: Arc<Mutex<Rules>>,
    server: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of what `client` talks to, with its rights, on a port of its own.
    pub async fn start(client: Client) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rules: Arc<Mutex<Rules>> = Arc::default();
        let way = Way {
            client,
            rules: rules.clone(),
        };
        let app = Router::new().fallback(pass).with_state(way);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = format!("proxy-{}-{number}.json", std::process::id());
        let kubeconfig = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}]});
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        Self {
            kubeconfig,
            rules,
            server,
        }
    }

    /// The way through it.
    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().unwrap()
    }

    /// Stops the next call of that kind, for ever.
    pub fn stop_at(&self, stop: Stop) {
        *self.rules.lock().unwrap() = Rules {
            stop: Some(stop),
            reached: false,
        };
    }

    /// Waits until the call that is to be stopped was sent, and has taken effect where it should.
    pub async fn reached(&self) {
        until("the call that is stopped", LONG, || async {
            self.rules.lock().unwrap().reached.then_some(())
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

async fn pass(State(way): State<Way>, request: Request) -> Response {
    let stop = {
        let mut rules = way.rules.lock().unwrap();
        let (method, path) = (request.method(), request.uri().path());
        rules.stop.take_if(|stop| stop.is(method, path))
    };
    if stop.is_some_and(|stop| !stop.applied) {
        way.rules.lock().unwrap().reached = true;
        return std::future::pending().await;
    }
    let answer = forward(&way.client, request).await;
    if stop.is_some() {
        way.rules.lock().unwrap().reached = true;
        return std::future::pending().await;
    }
    answer
}

async fn forward(client: &Client, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    for own in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
        parts.headers.remove(own);
    }
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let request = http::Request::from_parts(parts, kube::client::Body::from(body));
    match client.send(request).await {
        // Watches come as they go.
        Ok(answer) => answer.map(Body::new),
        Err(error) => Response::builder()
            .status(502)
            .body(Body::from(error.to_string()))
            .unwrap(),
    }
}
