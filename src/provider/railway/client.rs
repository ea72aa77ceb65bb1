//! The GraphQL transport: authentication, limits, and errors inside a 200.
//!
//! One [`Transport`] per process is enough; [`Session`]s are its users, one per token. What has to be waited for is
//! kept here: after a 429 no request of that token goes out until the time is over, after a block by the edge none
//! at all. Reads are tried up to three times; writes go out once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Request};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::agent_pool::TokenKind;
use crate::clock::{Clock, Monotonic};
use crate::outbound::{self, Connections, Fault, Http, Outbound, Url};

use super::classify::{Access, Failure, Head, Kind, of_error, of_head};
use super::wire::GraphqlError;

/// Who we are, to the interface and in the query that keeps the edge from limiting us.
const SOURCE: &str = "agentpool";
const READ_TRIES: u32 = 3;
/// A page of 500 services is about 1 MB.
const MAX_ANSWER: usize = 16 << 20;
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
const EDGE_WAIT: Duration = Duration::from_secs(60);
const EDGE_WAIT_MAX: Duration = Duration::from_secs(30 * 60);
/// One part in so many of a token's requests is kept for writes.
const WRITE_SHARE: u32 = 20;
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

/// Why a transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is none.
    #[error("the address of the Railway interface is not a URL")]
    Url,
    /// The token is empty, or has characters that no header can carry.
    #[error(
        "the Railway token is empty or has characters that cannot be sent: is the Secret's value the bare token?"
    )]
    Token,
    /// TLS, proxies, …
    #[error("build the HTTP client")]
    Client(#[from] outbound::SetupError),
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

/// What is left of a token's budget, by our own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests allowed in the window.
    pub quota: u32,
    /// The window.
    pub window: Duration,
    /// Requests left in it.
    pub remaining: u32,
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
    tokens: Mutex<HashMap<[u8; 32], Arc<Mutex<TokenState>>>>,
    edge: Mutex<EdgeState>,
}

#[derive(Default)]
struct TokenState {
    blocked_until: Monotonic,
    policy: Option<(u32, Duration)>,
    sent: VecDeque<Monotonic>,
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
    header: (HeaderName, HeaderValue),
    token: SecretString,
    state: Arc<Mutex<TokenState>>,
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
        let out = Http::new(Connections {
            connect: Duration::from_secs(10).min(timeouts.read),
            idle: (usize::MAX, Duration::from_secs(30)),
            http1_only: false,
            direct: false,
            body_max: MAX_ANSWER,
        })?;
        Self::over(base_url, clock, timeouts, Arc::new(out))
    }

    /// The same over another way out.
    pub fn over(
        base_url: &str,
        clock: Clock,
        timeouts: Timeouts,
        out: Arc<dyn Outbound>,
    ) -> Result<Self, SetupError> {
        let mut url: Url = base_url.parse().map_err(|_| SetupError::Url)?;
        // The edge limits addresses without a query string to about 10 requests a second.
        url.query_pairs_mut().append_pair("source", SOURCE);
        let (tokens, edge) = (Mutex::default(), Mutex::default());
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
        let text = token.expose_secret().trim();
        if text.is_empty() {
            return Err(SetupError::Token);
        }
        let (name, value) = match kind {
            TokenKind::Bearer => (AUTHORIZATION, format!("Bearer {text}")),
            TokenKind::Project => (
                HeaderName::from_static("project-access-token"),
                text.to_owned(),
            ),
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| SetupError::Token)?;
        value.set_sensitive(true);
        let key: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let state = lock(&self.inner.tokens).entry(key).or_default().clone();
        Ok(Session {
            transport: self.clone(),
            header: (name, value),
            token,
            state,
        })
    }
}

impl Session {
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
            failure.message = redact(
                &failure.message,
                self.token.expose_secret().trim(),
                &body["variables"],
            );
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

    /// What is left of the token's budget; `None` before the first answer. For metrics.
    pub fn budget(&self) -> Option<Budget> {
        let now = self.transport.inner.clock.monotonic();
        let mut state = lock(&self.state);
        state.forget(now);
        let (quota, window) = state.policy?;
        let used = u32::try_from(state.sent.len()).unwrap_or(u32::MAX);
        Some(Budget {
            quota,
            window,
            remaining: quota.saturating_sub(used),
        })
    }

    async fn once(&self, document: &Document, body: &Value) -> Result<Value, Failure> {
        let inner = &self.transport.inner;
        self.admit(document.access)?;
        let limit = match document.access {
            Access::Read => inner.timeouts.read,
            Access::Write => inner.timeouts.write,
        };
        let request = Request::post(inner.url.as_str())
            .header(self.header.0.clone(), self.header.1.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body.to_string()))
            .map_err(|_| Failure::new(Kind::Unknown, "the request could not be built"))?;
        let answer = inner.out.send(request, limit).await;
        let answer = answer.map_err(|fault| Failure::new(Kind::Unknown, no_answer(fault)))?;
        let (status, headers) = (answer.status, answer.headers);
        self.note_policy(&headers);
        let text = answer.body.map_err(|fault| no_answer(fault).to_owned());
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

    /// Refuses while a wait lasts, and a read that would eat into the share of the writes; else counts the request.
    fn admit(&self, access: Access) -> Result<(), Failure> {
        let now = self.transport.inner.clock.monotonic();
        let edge = lock(&self.transport.inner.edge).blocked_until;
        let mut state = lock(&self.state);
        let until = edge.max(state.blocked_until);
        let refused = |kind, message: &str, until: Monotonic| {
            Err(Failure {
                kind,
                message: message.to_owned(),
                retry_after: Some(until.saturating_sub(now)),
            })
        };
        if until > now {
            let kind = if edge > now {
                Kind::EdgeBlocked
            } else {
                Kind::RateLimited
            };
            return refused(
                kind,
                "Railway asked to wait, and the time is not over; nothing was sent",
                until,
            );
        }
        state.forget(now);
        if let (Access::Read, Some(free)) = (access, state.free_for_reads(now)) {
            return refused(
                Kind::RateLimited,
                "what is left of the token's requests is kept for writes",
                free,
            );
        }
        state.sent.push_back(now);
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
                let mut state = lock(&self.state);
                state.blocked_until = state.blocked_until.max(now + wait);
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

    fn note_policy(&self, headers: &HeaderMap) {
        if let Some(policy) = headers
            .get("ratelimit-policy")
            .and_then(|v| v.to_str().ok())
            .and_then(policy_of)
        {
            lock(&self.state).policy = Some(policy);
        }
    }
}

impl TokenState {
    /// When the next read may go out; `None`: now.
    fn free_for_reads(&self, now: Monotonic) -> Option<Monotonic> {
        let (quota, window) = self.policy?;
        let for_reads = quota.saturating_sub((quota / WRITE_SHARE).max(1));
        let used = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        (used >= for_reads).then(|| self.sent.front().map_or(now, |oldest| *oldest + window))
    }

    fn forget(&mut self, now: Monotonic) {
        let window = self.policy.map_or(Duration::from_secs(3600), |(_, w)| w);
        while self.sent.front().is_some_and(|at| *at + window <= now) {
            self.sent.pop_front();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

fn no_answer(fault: Fault) -> &'static str {
    match fault {
        Fault::TimedOut | Fault::NotConnected { timed_out: true } => "no answer in time",
        Fault::NotConnected { timed_out: false } => "no connection",
        Fault::NotBuilt | Fault::Broken => "the connection broke before the answer was complete",
        Fault::TooLarge => "the answer is too large",
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

/// `Retry-After`, else the end of the window.
fn wait_of(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::trim)
    };
    let seconds = text("retry-after").and_then(|t| t.parse().ok());
    let reset = || text("x-ratelimit-reset").and_then(|t| until_reset(t, now));
    seconds.map(Duration::from_secs).or_else(reset)
}

/// The format is not documented: epoch seconds, seconds from now, or RFC 3339.
fn until_reset(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    let at = match text.parse::<i64>() {
        Ok(delta @ 0..1_000_000_000) => return u64::try_from(delta).ok().map(Duration::from_secs),
        Ok(epoch) => epoch,
        Err(_) => text.parse::<jiff::Timestamp>().ok()?.as_second(),
    };
    u64::try_from(at - now.as_second())
        .ok()
        .map(Duration::from_secs)
}

/// `"default";q=1000;w=3600`.
fn policy_of(text: &str) -> Option<(u32, Duration)> {
    let field = |name: &str| {
        text.split([';', ','])
            .find_map(|part| part.trim().strip_prefix(name)?.parse::<u32>().ok())
    };
    Some((field("q=")?, Duration::from_secs(u64::from(field("w=")?))))
}

/// A message of Railway without what must not be printed: the token, and the values of variables that were sent
/// (a GraphQL server quotes a wrong input in full).
fn redact(message: &str, token: &str, variables: &Value) -> String {
    let mut text = message.replace(token, "[token]");
    let sent = variables
        .pointer("/input/variables")
        .and_then(Value::as_object);
    let password = variables.pointer("/input/registryCredentials/password");
    let mut values: Vec<&str> = sent
        .into_iter()
        .flatten()
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
    fn the_limit_is_read_from_the_policy() {
        assert_eq!(
            policy_of(r#""default";q=1000;w=3600"#),
            Some((1000, Duration::from_secs(3600)))
        );
        assert_eq!(policy_of("nonsense"), None);
    }

    #[test]
    fn a_reset_has_three_formats() {
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        for text in ["90", "1800000090", "2027-01-15T08:01:30Z"] {
            assert_eq!(
                until_reset(text, now),
                Some(Duration::from_secs(90)),
                "{text}"
            );
        }
        assert_eq!(until_reset("1700000000", now), None);
        assert_eq!(until_reset("soon", now), None);
    }

    #[test]
    fn values_of_variables_are_not_printed() {
        let sent = serde_json::json!({"input": {"name": "n", "variables": {"A": "secret-1", "B": "secret-12"}}});
        let text = redact("got tok-9 and {A: secret-1, B: secret-12}", "tok-9", &sent);
        assert_eq!(text, "got [token] and {A: [value], B: [value]}");
        assert_eq!(
            redact(&"ä".repeat(900), "tok", &Value::Null)
                .chars()
                .count(),
            501
        );
    }
}
