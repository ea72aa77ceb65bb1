//! The ways out of a process: to the API server, to Railway, to the agents; each through [`Process::carry`].

use std::sync::Arc;
use std::time::Duration;

use agentpool::outbound::{Answer, Fault, Outbound};
use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Bytes;
use kube::client::Body as KubeBody;
use serde_json::Value;

use crate::api_server::{ApiServer, Refusal, Reins, json_response};
use crate::peers::{self, Connection, Reply};
use crate::process::{Call, Peer, Process};
use crate::railway::plans;
use crate::world::Sim;

/// The largest body of a request.
const BODY_MAX: usize = 8 << 20;
/// How long kube's own client waits for bytes that do not come.
const READ_LIMIT: Duration = Duration::from_secs(295);
/// How often and how soon kube's own client repeats a 429, 503 or 504.
const REPEATS: u32 = 15;

/// A client of the API server for one process, with the watches that it gets.
pub fn kubernetes(process: &Process, server: &ApiServer, reins: &Reins) -> kube::Client {
    let road = (process.clone(), server.clone(), reins.clone());
    let service = tower::service_fn(move |request: Request<KubeBody>| {
        let (process, server, reins) = road.clone();
        async move { repeated(&process, &server, &reins, request).await }
    });
    kube::Client::new(service, "default")
}

async fn repeated(
    process: &Process,
    server: &ApiServer,
    reins: &Reins,
    request: Request<KubeBody>,
) -> Result<Response<Body>, axum::Error> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), BODY_MAX).await?.to_vec();
    let mut tried = 0;
    loop {
        let request = Request::from_parts(parts.clone(), body.clone());
        let call = call_of(&request);
        let send = async { server.answer(&request, reins) };
        let refuse = |code| {
            let refusal = Refusal::new(code, reason(code), "the weather");
            json_response(code, &refusal.to_json())
        };
        let answer = process.carry(call, send, refuse);
        let answer = tokio::time::timeout(READ_LIMIT, answer)
            .await
            .map_err(axum::Error::new)?;
        if !matches!(answer.status().as_u16(), 429 | 503 | 504) || tried == REPEATS {
            return Ok(answer);
        }
        let wait = Duration::from_millis(500 << tried.min(4)).min(Duration::from_secs(5));
        tokio::time::sleep(wait).await;
        tried += 1;
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    }
}

fn call_of(request: &Request<Vec<u8>>) -> Call {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let watch = query.contains("watch=");
    let verb = if watch {
        "WATCH"
    } else {
        request.method().as_str()
    };
    // The names of events hold the machine's time: they would tell one run from another.
    let path = path.find("/events/").map_or(path, |at| &path[..at + 7]);
    Call {
        peer: Peer::Kubernetes,
        what: format!("{verb} {path}"),
        write: request.method() != "GET",
        watch,
    }
}

/// The way to Railway and to the agents, in the simulator's own code.
#[derive(Clone)]
pub struct Road {
    /// Whose.
    pub process: Process,
    /// The simulator.
    pub sim: Arc<Sim>,
}

#[async_trait]
impl Outbound for Road {
    async fn send(&self, request: hyper::Request<Bytes>, limit: Duration) -> Result<Answer, Fault> {
        let (parts, body) = request.into_parts();
        let host = parts.headers.get("host").and_then(|v| v.to_str().ok());
        let host = host.or(parts.uri.host()).unwrap_or_default().to_owned();
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |p| p.as_str())
            .to_owned();
        let call = outward(parts.method.as_str(), &target, &host, &body);
        let from = ([127, 0, 0, 1], 1).into();
        let request = peers::Request::new(
            (parts.method.as_str(), &target, &host),
            parts.headers,
            body.to_vec(),
            (from, Arc::new(Connection::default())),
        );
        let sim = self.sim.clone();
        let send = async move {
            plans::advance(&mut sim.world(), sim.clock.now());
            match peers::answer(&sim, request).await {
                Reply::Hang => std::future::pending().await,
                Reply::Reset => Err(Fault::Broken),
                Reply::Http {
                    status,
                    headers,
                    body,
                    half,
                } => Ok(Answer {
                    status,
                    headers: header_map(&headers),
                    body: if half {
                        Err(Fault::Broken)
                    } else {
                        Ok(body.into())
                    },
                }),
            }
        };
        let carried = self.process.carry(call, send, |_| Err(Fault::Broken));
        match tokio::time::timeout(limit, carried).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::TimedOut),
        }
    }
}

fn outward(method: &str, target: &str, host: &str, body: &[u8]) -> Call {
    if !target.starts_with("/graphql") {
        return Call {
            peer: Peer::Agent,
            what: format!("{method} {host}{target}"),
            write: method != "GET",
            watch: false,
        };
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = body["query"].as_str().unwrap_or_default();
    Call {
        peer: Peer::Railway,
        what: body["operationName"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        write: text.lines().any(|line| line.starts_with("mutation")),
        watch: false,
    }
}

fn header_map(pairs: &[(String, String)]) -> HeaderMap {
    let parsed = pairs.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    parsed.collect()
}
