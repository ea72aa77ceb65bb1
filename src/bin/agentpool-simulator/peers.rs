//! The one port for peers: HTTP/1.1 by hyper, with the hard faults a framework would not do.
//!
//! `/graphql/v2` is Railway and `/ghcr` the image registry, whatever the Host; `/v1/sprites` and `/v1/organization` are Sprites,
//! unless the Host is an agent's; every other path belongs to the agent behind the Host header.
//! Paths of peers that are not simulated yet answer 404.

use crate::agent::edge;
use crate::body::{self, Body, HalfBody};
use crate::ghcr;
use crate::railway;
use crate::sprites;
use crate::world::Sim;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Larger bodies are cut off with a 413.
const MAX_BODY: usize = 4 << 20;
/// A hanging answer hangs for so long (real time), then the connection is reset.
const HANG: Duration = Duration::from_secs(900);
/// First path segments of peers that have no simulation yet.
const LATER: &[&str] = &[
    "openrouter",
    "agentmail",
    "telnyx",
    "bankr",
    "exa",
    "services",
];

/// A request, read to its end.
#[derive(Clone)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path with query, as sent.
    pub target: String,
    /// Host without port, lower case.
    pub host: String,
    /// The body.
    pub body: Vec<u8>,
    /// The peer's address.
    pub from: SocketAddr,
    /// The connection's memory.
    pub connection: Arc<Connection>,
    headers: hyper::HeaderMap,
}

impl Request {
    /// A request whose body is read; `host` as in the header, with or without port.
    pub fn new(
        (method, target, host): (&str, &str, &str),
        headers: hyper::HeaderMap,
        body: Vec<u8>,
        (from, connection): (SocketAddr, Arc<Connection>),
    ) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: without_port(host),
            body,
            from,
            connection,
            headers,
        }
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The path without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// The name of a Host header, lower case.
fn without_port(host: &str) -> String {
    host.rsplit_once(':')
        .map_or(host, |(name, _)| name)
        .to_lowercase()
}

/// What a connection remembers between requests.
#[derive(Default)]
pub struct Connection {
    reset: AtomicBool,
    /// Which process answered last; 0: none yet.
    pub process: AtomicU64,
}

/// An answer, or the lack of one.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An ordinary answer.
    Http {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
        half: bool,
    },
    /// Nothing, until the other side gives up.
    Hang,
    /// RST.
    Reset,
}

impl Connection {
    /// Set: closing the connection sends RST instead of FIN.
    pub fn reset_flag(&self) -> &AtomicBool {
        &self.reset
    }
}

impl Reply {
    fn new(status: u16, content_type: &str, body: String) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self::Http {
            status,
            headers,
            body,
            half: false,
        }
    }

    /// JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// Plain text.
    pub fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    /// A page.
    pub fn html(status: u16, body: &str) -> Self {
        Self::new(status, "text/html; charset=utf-8", body.to_owned())
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Headers and half of the body, then the end.
    pub fn halved(mut self) -> Self {
        if let Self::Http { half, .. } = &mut self {
            *half = true;
        }
        self
    }

    /// The status, or what happens instead.
    pub fn status(&self) -> Value {
        match self {
            Self::Http { status, .. } => json!(status),
            Self::Hang => json!("hang"),
            Self::Reset => json!("reset"),
        }
    }

    /// The same answer with another body.
    pub fn with_body(mut self, text: &str) -> Self {
        if let Self::Http { body, .. } = &mut self {
            text.clone_into(body);
        }
        self
    }
}

/// Accepts connections until the task is dropped.
pub async fn serve(sim: Arc<Sim>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                let sim = sim.clone();
                sim.clone()
                    .spawn(async move { connection(sim, stream, from).await });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                sim.clock.sleep_real(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(sim: Arc<Sim>, stream: TcpStream, from: SocketAddr) {
    let memory = Arc::new(Connection::default());
    let io = TokioIo::new(Wire {
        stream,
        memory: memory.clone(),
    });
    let service = service_fn(move |request| {
        let (sim, memory) = (sim.clone(), memory.clone());
        async move { respond(sim, memory, from, request).await }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

async fn respond(
    sim: Arc<Sim>,
    memory: Arc<Connection>,
    from: SocketAddr,
    request: hyper::Request<Incoming>,
) -> io::Result<Response<Body>> {
    let host = request.headers().get(HOST).and_then(|h| h.to_str().ok());
    let host = request.uri().host().or(host).unwrap_or_default();
    let host = without_port(host);
    if sprites::front::is_for(&sim.world(), &host, request.uri().path()) {
        return sprites::front::respond(&sim, (memory, from), request).await;
    }
    let (parts, body) = request.into_parts();
    let Some(body) = body::read(body, MAX_BODY).await? else {
        return render(Reply::text(413, "too large"));
    };
    let host = parts
        .headers
        .get(HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    let host = parts.uri.host().unwrap_or(host);
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let line = (parts.method.as_str(), target, host);
    let request = Request::new(line, parts.headers.clone(), body, (from, memory.clone()));
    let reply = answer(&sim, request).await;
    tracing::debug!(status = %reply.status(), "answered");
    match reply {
        Reply::Hang => {
            sim.clock.sleep_real(HANG).await;
            memory.reset.store(true, Ordering::Relaxed);
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Reply::Reset => {
            memory.reset.store(true, Ordering::Relaxed);
            Err(io::ErrorKind::ConnectionReset.into())
        }
        reply => render(reply),
    }
}

/// The answer of whoever the request is for.
pub async fn answer(sim: &Arc<Sim>, request: Request) -> Reply {
    let first = request
        .path()
        .split('/')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    if request.path() == "/graphql/v2" {
        // Carried out to its end even if the caller hangs up.
        let task_sim = sim.clone();
        let work = sim.spawn(async move { railway::front::answer(&task_sim, &request).await });
        return work.await.unwrap_or(Reply::Reset);
    }
    if ghcr::is_for(request.path()) {
        return ghcr::answer(sim, &request);
    }
    if LATER.contains(&first.as_str()) {
        return Reply::json(404, &json!({"error": format!("/{first} is not simulated")}));
    }
    if let Some(reply) = sprites::url::answer(sim, &request).await {
        return reply;
    }
    edge::answer(sim, request).await
}

fn render(reply: Reply) -> io::Result<Response<Body>> {
    let Reply::Http {
        status,
        headers,
        body,
        half,
    } = reply
    else {
        return Err(io::ErrorKind::ConnectionReset.into());
    };
    let body = Body::Half(HalfBody::new(body.into_bytes(), half));
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .zip(HeaderValue::from_str(&value).ok());
        if let Some((name, value)) = parsed {
            response.headers_mut().insert(name, value);
        }
    }
    debug_assert!(
        response.headers().contains_key(CONTENT_TYPE),
        "every answer names its type"
    );
    Ok(response)
}

/// The socket; when the connection is to be reset, closing it sends RST instead of FIN.
struct Wire {
    stream: TcpStream,
    memory: Arc<Connection>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.memory.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.memory.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
