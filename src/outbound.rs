//! One HTTP request out: the port under the clients of Railway and of agents.
//!
//! The clients say what is sent and judge what came back; this only carries it. So tests can run the real clients
//! without sockets, in virtual time. Nothing here repeats, follows or interprets: an error says how far the request
//! got, in kinds, never in the library's words, which hold the address.

use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
pub use reqwest::Url;

/// What came back: the head, and the body or why there is none.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Result<Bytes, Fault>,
}

/// Why there is no answer, or no whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request could not be built; nothing was sent.
    NotBuilt,
    /// No connection; nothing was sent.
    NotConnected {
        /// Nobody answered in time, rather than somebody refused.
        timed_out: bool,
    },
    /// It was sent, and there was no complete answer in time.
    TimedOut,
    /// It was sent, and the connection broke before the answer was complete.
    Broken,
    /// The body is larger than the limit.
    TooLarge,
}

/// Sends requests.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Sends once; `limit` bounds the exchange as a whole, connecting and reading the body included.
    async fn send(&self, request: Request<Bytes>, limit: Duration) -> Result<Answer, Fault>;
}

/// How connections are made and kept.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// The longest that connecting may take.
    pub connect: Duration,
    /// Idle connections kept per host, and for how long; 0: every request has a fresh one.
    pub idle: (usize, Duration),
    /// HTTP/1.1 only.
    pub http1_only: bool,
    /// The proxies of the environment are not used.
    pub direct: bool,
    /// The largest body that is read.
    pub body_max: usize,
}

/// The client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("set up TLS, proxies and connections")]
pub struct SetupError(#[from] reqwest::Error);

/// The real one. Redirects are not followed and nothing is sent twice.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    body_max: usize,
}

impl Http {
    /// With connections of its own.
    pub fn new(connections: Connections) -> Result<Self, SetupError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("agentpool/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(connections.connect)
            .pool_max_idle_per_host(connections.idle.0)
            .pool_idle_timeout(connections.idle.1);
        if connections.http1_only {
            builder = builder.http1_only();
        }
        if connections.direct {
            builder = builder.no_proxy();
        }
        Ok(Self {
            client: builder.build()?,
            body_max: connections.body_max,
        })
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, Fault> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= self.body_max => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => return Err(Fault::TooLarge),
                Ok(None) => return Ok(body.into()),
                Err(error) => return Err(fault(&error)),
            }
        }
    }
}

#[async_trait]
impl Outbound for Http {
    async fn send(&self, request: Request<Bytes>, limit: Duration) -> Result<Answer, Fault> {
        let mut request =
            reqwest::Request::try_from(request.map(reqwest::Body::from)).map_err(|e| fault(&e))?;
        *request.timeout_mut() = Some(limit);
        let mut response = self.client.execute(request).await.map_err(|e| fault(&e))?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: std::mem::take(response.headers_mut()),
            body: self.body(response).await,
        })
    }
}

fn fault(error: &reqwest::Error) -> Fault {
    if error.is_builder() {
        Fault::NotBuilt
    } else if error.is_connect() {
        let timed_out = error.is_timeout();
        Fault::NotConnected { timed_out }
    } else if error.is_timeout() {
        Fault::TimedOut
    } else {
        Fault::Broken
    }
}
