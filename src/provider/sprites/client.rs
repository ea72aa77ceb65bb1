//! The HTTP transport: authentication, limits in time, waits, repeats of what may be repeated.
//!
//! One [`Transport`] per process; [`Session`]s are its users, one per token. After a 429 no request of that token goes
//! out until the time is over, except where only creations are limited. Redirects are not followed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use crate::clock::{Clock, Monotonic};
use crate::outbound::{Fault, Outbound, Url};
use crate::provider::account;
use crate::provider::transport::{PerToken, SetupError, Token, connections, lock, words};

use super::classify::{Effect, Failure, Kind, of_answer};

const PROVIDER: &str = "Sprites";
/// A page of 50 sprites is some 40 KB; a file that we read is smaller.
const ANSWER_MAX: usize = 8 << 20;

/// How long requests may take as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Reads and changes of sprites, services, checkpoints.
    pub call: Duration,
    /// A creation.
    pub create: Duration,
    /// A file.
    pub file: Duration,
    /// Taking a checkpoint, to its `complete`.
    pub checkpoint: Duration,
    /// A restore, as long as one call waits for its `complete`; it goes on by itself.
    pub restore: Duration,
    /// A WebSocket's handshake, with the wake of a cold sprite.
    pub handshake: Duration,
    /// Between two pings of a silent WebSocket.
    pub ping: Duration,
    /// A WebSocket without any frame for this long is broken.
    pub silence: Duration,
    /// The pause before the second try; the third waits twice as long, and so on.
    pub backoff: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            call: s(25),
            create: s(80),
            file: s(10),
            checkpoint: s(60),
            restore: s(60),
            handshake: s(30),
            ping: s(15),
            silence: s(45),
            backoff: Duration::from_millis(400),
        }
    }
}

/// Connections and waits. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    out: Arc<dyn Outbound>,
    url: Url,
    clock: Clock,
    timeouts: Timeouts,
    waits: PerToken<Mutex<Monotonic>>,
}

/// The transport with one token.
#[derive(Clone)]
pub struct Session {
    transport: Transport,
    token: Token,
    /// No request goes out before.
    blocked_until: Arc<Mutex<Monotonic>>,
}

/// One request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// The segments below `/v1`.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Payload<'a>,
    pub(super) effect: Effect,
    pub(super) limit: Duration,
    /// How often it is tried; more than once only what is [`Effect::Repeatable`].
    pub(super) tries: u32,
}

/// What a request carries.
pub(super) enum Payload<'a> {
    None,
    Json(serde_json::Value),
    Raw(&'a [u8]),
}

impl Transport {
    /// For the interface at that origin, such as `https://api.sprites.dev`.
    pub fn new(base_url: &str, clock: Clock) -> Result<Self, SetupError> {
        Self::with_timeouts(base_url, clock, Timeouts::default())
    }

    /// The same with other limits, for tests.
    pub fn with_timeouts(
        base_url: &str,
        clock: Clock,
        timeouts: Timeouts,
    ) -> Result<Self, SetupError> {
        let out = connections(timeouts.call, ANSWER_MAX)?;
        let url: Url = base_url.parse().map_err(|_| SetupError::Url(PROVIDER))?;
        if !matches!(url.scheme(), "http" | "https")
            || url.host_str().is_none()
            || url.path() != "/"
        {
            return Err(SetupError::Url(PROVIDER));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                out: Arc::new(out),
                url,
                clock,
                timeouts,
                waits: PerToken::default(),
            }),
        })
    }

    /// The transport with a token. Sessions of one token share its waits.
    pub fn session(&self, token: SecretString) -> Result<Session, SetupError> {
        let token = Token::new(PROVIDER, "Bearer ", token)?;
        let blocked_until = self.inner.waits.of(&token);
        Ok(Session {
            transport: self.clone(),
            token,
            blocked_until,
        })
    }
}

impl Session {
    pub(super) fn timeouts(&self) -> Timeouts {
        self.transport.inner.timeouts
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.transport.inner.clock
    }

    pub(super) fn authorization(&self) -> &HeaderValue {
        self.token.value()
    }

    /// An address below `/v1`; the segments are encoded.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.transport.inner.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().push("v1").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Sends it and reads the whole body of a success.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Bytes, Failure> {
        let mut tried = 1;
        loop {
            let failure = match self.once(call).await {
                Ok(body) => return Ok(body),
                Err(failure) => self.redacted(failure),
            };
            let passing = matches!(failure.kind, Kind::Unknown | Kind::NotSent);
            if tried >= call.tries || !passing || call.effect == Effect::Once {
                return Err(failure);
            }
            tracing::debug!(tried, error = %failure.message, "sprites: once more");
            self.clock().sleep(self.timeouts().backoff * tried).await;
            tried += 1;
        }
    }

    /// The same, with the body read as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Failure> {
        let body = self.send(call).await?;
        serde_json::from_slice(&body).map_err(Failure::unreadable)
    }

    async fn once(&self, call: &Call<'_>) -> Result<Bytes, Failure> {
        self.admit()?;
        let url = self.url(call.path, call.query);
        let request = Request::builder()
            .method(&call.method)
            .uri(url.as_str())
            .header(AUTHORIZATION, self.authorization().clone());
        let request = match &call.body {
            Payload::None => request.body(Bytes::new()),
            Payload::Json(json) => request
                .header(CONTENT_TYPE, "application/json")
                .body(Bytes::from(json.to_string())),
            Payload::Raw(bytes) => request
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(Bytes::copy_from_slice(bytes)),
        };
        let request =
            request.map_err(|_| Failure::new(Kind::Refused, "the request could not be built"))?;
        let answer = self.transport.inner.out.send(request, call.limit).await;
        let answer = answer.map_err(no_answer)?;
        let body = answer.body;
        let shown = body.as_deref().unwrap_or_default();
        if let Some(failure) = of_answer(answer.status, &answer.headers, shown) {
            return Err(self.noted(failure));
        }
        body.map_err(no_answer)
    }

    /// Refuses while a wait lasts; else counts the request.
    pub(super) fn admit(&self) -> Result<(), Failure> {
        let until = *lock(&self.blocked_until);
        let left = until.saturating_sub(self.clock().monotonic());
        if left.is_zero() {
            account::sent();
            return Ok(());
        }
        Err(Failure {
            kind: Kind::RateLimited,
            message: "Sprites asked to wait, and the time is not over; nothing was sent".to_owned(),
            retry_after: Some(left),
        })
    }

    /// Starts the wait that a failure asks for. A limit of creations holds back no other request.
    pub(super) fn noted(&self, failure: Failure) -> Failure {
        let creations_only = failure.message.contains("creation");
        if let (Kind::RateLimited, Some(wait), false) =
            (failure.kind, failure.retry_after, creations_only)
        {
            let until = self.clock().monotonic() + wait;
            let mut blocked = lock(&self.blocked_until);
            *blocked = blocked.max(until);
        }
        failure
    }

    pub(super) fn redacted(&self, failure: Failure) -> Failure {
        Failure {
            message: failure.message.replace(self.token.bare(), "[token]"),
            ..failure
        }
    }
}

fn no_answer(fault: Fault) -> Failure {
    let kind = match fault {
        Fault::NotBuilt => Kind::Refused,
        Fault::NotConnected { .. } => Kind::NotSent,
        Fault::TimedOut | Fault::Broken | Fault::TooLarge => Kind::Unknown,
    };
    Failure::new(kind, words(fault))
}
