//! The GraphQL transport: authentication, limits, and errors inside a 200.
//!
//! One [`Transport`] per process is enough; [`Session`]s are its users, one per token. Each request is admitted by the
//! token's [`Quota`]; after a block by the edge nothing goes out at all. Reads are tried up to three times; writes go
//! out once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use hyper::{HeaderMap, Request};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::agent_pool::TokenKind;
use crate::clock::{Clock, Monotonic};
use crate::outbound::{Outbound, Url};
use crate::provider::account;
use crate::provider::transport::{PerToken, SetupError, Token, connections, lock, words};

use super::classify::{Access, Failure, Head, Kind, of_error, of_head};
use super::quota::{Quota, wait_of};
use super::wire::GraphqlError;

pub use super::quota::Budget;

/// Who we are, to the interface and in the query that keeps the edge from limiting us.
const SOURCE: &str = "agentpool";
const PROVIDER: &str = "Railway";
const READ_TRIES: u32 = 3;
/// A page of 500 services is about 1 MB.
const MAX_ANSWER: usize = 16 << 20;
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
const EDGE_WAIT: Duration = Duration::from_secs(60);
const EDGE_WAIT_MAX: Duration = Duration::from_secs(30 * 60);
/// What the interface says to wait is believed up to here.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a request may take as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A query.
    pub read: Duration,
    /// A mutation; a deletion alone was seen to take more than 15 s.
    pub write: Duration,
    /// The pause before a query's second try; the third waits twice as long.
    pub backoff: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(15),
            write: Duration::from_secs(90),
            backoff: Duration::from_millis(400),
        }
    }
}

/// One document with its name. The text stands in its own file beside this one.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// Its `operationName`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Whether it changes anything.
    pub access: Access,
}

/// Connections, waits and counts. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    out: Arc<dyn Outbound>,
    url: Url,
    clock: Clock,
    timeouts: Timeouts,
    tokens: PerToken<Quota>,
    edge: Mutex<EdgeState>,
}

#[derive(Default)]
struct EdgeState {
    blocked_until: Monotonic,
    episodes: u32,
}

/// The transport with one token.
#[derive(Clone)]
pub struct Session {
    transport: Transport,
    header: HeaderName,
    token: Token,
    quota: Arc<Quota>,
}

impl Transport {
    /// For the interface at that address, such as `https://backboard.railway.com/graphql/v2`.
    pub fn new(base_url: &str, clock: Clock) -> Result<Self, SetupError> {
        Self::with_timeouts(base_url, clock, Timeouts::default())
    }

    /// The same with other limits, for tests.
    pub fn with_timeouts(
        base_url: &str,
        clock: Clock,
        timeouts: Timeouts,
    ) -> Result<Self, SetupError> {
        let out = connections(timeouts.read, MAX_ANSWER)?;
        Self::over(base_url, clock, timeouts, Arc::new(out))
    }

    /// The same over another way out.
    pub fn over(
        base_url: &str,
        clock: Clock,
        timeouts: Timeouts,
        out: Arc<dyn Outbound>,
    ) -> Result<Self, SetupError> {
        let mut url: Url = base_url.parse().map_err(|_| SetupError::Url(PROVIDER))?;
        // The edge limits addresses without a query string to about 10 requests a second.
        url.query_pairs_mut().append_pair("source", SOURCE);
        let (tokens, edge) = (PerToken::default(), Mutex::default());
        Ok(Self {
            inner: Arc::new(Inner {
                out,
                url,
                clock,
                timeouts,
                tokens,
                edge,
            }),
        })
    }

    /// The transport with a token. Sessions of one token share its waits and its count.
    pub fn session(&self, token: SecretString, kind: TokenKind) -> Result<Session, SetupError> {
        let (header, scheme) = match kind {
            TokenKind::Bearer => (AUTHORIZATION, "Bearer "),
            TokenKind::Project => (HeaderName::from_static("project-access-token"), ""),
        };
        let token = Token::new(PROVIDER, scheme, token)?;
        let quota = self.inner.tokens.of(&token);
        Ok(Session {
            transport: self.clone(),
            header,
            token,
            quota,
        })
    }
}

impl Session {
    /// The same transport with another token, an account's or a workspace's.
    pub fn with_token(&self, token: SecretString) -> Result<Self, SetupError> {
        self.transport.session(token, TokenKind::Bearer)
    }

    /// Begins to create a project; Err: how long until the token's user may.
    pub fn begin_project(&self) -> Result<(), Duration> {
        self.quota
            .begin_project(self.transport.inner.clock.monotonic())
    }

    /// The token's user may create no project for so long.
    pub fn rest_projects(&self, rest: Duration) {
        let now = self.transport.inner.clock.monotonic();
        self.quota.rest_projects(now + rest);
    }

    /// Sends a document and reads the whole of `data`. Reads are repeated on class Unknown and Transient.
    pub async fn send<T: DeserializeOwned>(
        &self,
        document: &Document,
        variables: Value,
    ) -> Result<T, Failure> {
        let body = serde_json::json!({ "query": document.text, "operationName": document.name, "variables": variables });
        let tries = if document.access == Access::Read {
            READ_TRIES
        } else {
            1
        };
        let mut tried = 1;
        loop {
            let answer = self.once(document, &body).await.and_then(|data| {
                let unreadable =
                    |e| Failure::new(Kind::Unknown, format!("the answer cannot be read: {e}"));
                serde_json::from_value(data).map_err(unreadable)
            });
            let Err(mut failure) = answer else {
                return answer;
            };
            failure.message = redact(&failure.message, self.token.bare(), &body["variables"]);
            if tried >= tries || !matches!(failure.kind, Kind::Unknown | Kind::Transient) {
                return Err(failure);
            }
            tracing::debug!(operation = document.name, tried, error = %failure.message, "railway: read again");
            self.transport
                .inner
                .clock
                .sleep(self.transport.inner.timeouts.backoff * tried)
                .await;
            tried += 1;
        }
    }

    /// What is left of the token's budget; `None` before the first answer.
    pub fn budget(&self) -> Option<Budget> {
        self.quota.budget(self.transport.inner.clock.monotonic())
    }

    /// Whether a request of that purpose could go out now; Err: how long until it could.
    pub fn room_for(&self, purpose: account::Purpose) -> Result<(), Duration> {
        let now = self.transport.inner.clock.monotonic();
        self.quota.room_for(purpose, now)
    }

    /// A place was listed by so many requests.
    pub fn listed(&self, place: &str, requests: u32) {
        let now = self.transport.inner.clock.monotonic();
        self.quota.listed(place, requests, now);
    }

    /// How long a listing has to rest before the next one.
    pub fn listing_interval(&self) -> Duration {
        self.quota.listing_interval()
    }

    async fn once(&self, document: &Document, body: &Value) -> Result<Value, Failure> {
        let inner = &self.transport.inner;
        self.admit().await?;
        let limit = match document.access {
            Access::Read => inner.timeouts.read,
            Access::Write => inner.timeouts.write,
        };
        let request = Request::post(inner.url.as_str())
            .header(&self.header, self.token.value())
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body.to_string()))
            .map_err(|_| Failure::new(Kind::Unknown, "the request could not be built"))?;
        let answer = inner.out.send(request, limit).await;
        let answer = answer.map_err(|fault| Failure::new(Kind::Unknown, words(fault)))?;
        let (status, headers) = (answer.status, answer.headers);
        let (now, wall) = (inner.clock.monotonic(), inner.clock.now());
        self.quota.note(&headers, now, wall);
        let text = answer.body.map_err(|fault| words(fault).to_owned());
        let json = text
            .as_ref()
            .ok()
            .and_then(|t| serde_json::from_slice::<Value>(t).ok())
            .filter(Value::is_object);
        let head = Head {
            status,
            json: json.is_some(),
            retry_after: headers.contains_key(RETRY_AFTER),
            html: is_page(&headers, text.as_deref().unwrap_or_default()),
        };
        if let Some(kind) = of_head(head) {
            return Err(self.refused(kind, status, &headers, text.err()));
        }
        lock(&inner.edge).episodes = 0;
        data_of(status, json.unwrap_or_default())
    }

    /// Refuses while the edge blocks us all, or where the token's quota says so; else counts the request.
    async fn admit(&self) -> Result<(), Failure> {
        let inner = &self.transport.inner;
        self.quota.admit(account::purpose(), &inner.clock).await?;
        let (edge, now) = (lock(&inner.edge).blocked_until, inner.clock.monotonic());
        if edge > now {
            return Err(Failure {
                kind: Kind::EdgeBlocked,
                message: "Railway's edge blocked us, and the time is not over; nothing was sent"
                    .to_owned(),
                retry_after: Some(edge - now),
            });
        }
        account::sent();
        Ok(())
    }

    /// An answer that is decided by its head; starts the wait where it asks for one.
    fn refused(
        &self,
        kind: Kind,
        status: u16,
        headers: &HeaderMap,
        broken: Option<String>,
    ) -> Failure {
        let inner = &self.transport.inner;
        let (now, wall) = (inner.clock.monotonic(), inner.clock.now());
        let retry_after = match kind {
            Kind::RateLimited => {
                let wait = wait_of(headers, wall).unwrap_or(DEFAULT_WAIT).min(WAIT_MAX);
                self.quota.block(now + wait);
                Some(wait)
            }
            Kind::EdgeBlocked => {
                let mut edge = lock(&inner.edge);
                let wait =
                    (EDGE_WAIT * 2u32.saturating_pow(edge.episodes.min(5))).min(EDGE_WAIT_MAX);
                edge.episodes += 1;
                edge.blocked_until = edge.blocked_until.max(now + wait);
                Some(wait)
            }
            _ => None,
        };
        let message = match (kind, broken) {
            (Kind::RateLimited, _) => {
                format!("HTTP {status}: the token's request limit is used up")
            }
            (Kind::EdgeBlocked, _) => format!("HTTP {status}: blocked by Railway's edge"),
            (Kind::Auth, _) => format!("HTTP {status}: the token is refused"),
            (_, Some(broken)) => format!("HTTP {status}: {broken}"),
            (_, None) => format!("HTTP {status} without a usable answer"),
        };
        Failure {
            kind,
            message,
            retry_after,
        }
    }
}

/// `data` of a JSON answer, if nothing stands beside it in `errors`.
fn data_of(status: u16, mut answer: Value) -> Result<Value, Failure> {
    let errors: Vec<GraphqlError> = match answer.get_mut("errors").map(Value::take) {
        None | Some(Value::Null) => vec![],
        Some(errors) => {
            serde_json::from_value(errors).unwrap_or_else(|_| vec![GraphqlError::default()])
        }
    };
    if let Some(first) = errors.first() {
        let kind = of_error(status, first);
        let trace = first.trace_id.as_deref().or(first
            .extensions
            .as_ref()
            .and_then(|e| e.trace_id.as_deref()));
        let trace = trace.map(|t| format!(" (traceId {t})")).unwrap_or_default();
        return Err(Failure::new(
            kind,
            format!("Railway says: {}{trace}", first.message),
        ));
    }
    match answer.get_mut("data").map(Value::take) {
        Some(data) if data.is_object() => Ok(data),
        _ => Err(Failure::new(
            Kind::Unknown,
            format!("HTTP {status} with neither data nor errors"),
        )),
    }
}

fn is_page(headers: &HeaderMap, body: &[u8]) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    kind.to_ascii_lowercase().starts_with("text/html")
        || body.trim_ascii_start().first() == Some(&b'<')
}

/// A message of Railway without what must not be printed: the token, and the values of variables that were sent
/// (a GraphQL server quotes a wrong input in full).
fn redact(message: &str, token: &str, variables: &Value) -> String {
    let mut text = message.replace(token, "[token]");
    let sent = variables
        .pointer("/input/variables")
        .and_then(Value::as_object);
    let password = variables.pointer("/input/registryCredentials/password");
    let channels = variables.pointer("/input/channelConfigs");
    let channels = channels.and_then(Value::as_array).into_iter().flatten();
    let headers = channels.filter_map(|c| c["headers"].as_object()).flatten();
    let mut values: Vec<&str> = sent
        .into_iter()
        .flatten()
        .chain(headers)
        .map(|(_, v)| v)
        .chain(password)
        .filter_map(Value::as_str)
        .filter(|v| v.len() >= 4)
        .collect();
    values.sort_by_key(|v| std::cmp::Reverse(v.len()));
    for value in values {
        text = text.replace(value, "[value]");
    }
    match text.char_indices().nth(500) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_not_printed() {
        let sent = serde_json::json!({"input": {"name": "n", "variables": {"A": "secret-1", "B": "secret-12"}}});
        let text = redact("got tok-9 and {A: secret-1, B: secret-12}", "tok-9", &sent);
        assert_eq!(text, "got [token] and {A: [value], B: [value]}");
        let hook = serde_json::json!({"input": {"channelConfigs": [{"url": "u", "headers": {"X": "secret-of-hooks"}}]}});
        let text = redact("{headers: {X: secret-of-hooks}}", "tok-9", &hook);
        assert_eq!(text, "{headers: {X: [value]}}");
        assert_eq!(
            redact(&"ä".repeat(900), "tok", &Value::Null)
                .chars()
                .count(),
            501
        );
    }
}
