//! Probes, the status call and the one claim call over HTTP.
//!
//! A probe may use a pooled connection; a claim never does, because a pooled connection to an agent that restarted
//! breaks at first use, and for a claim "broken" means "nobody knows". Redirects are not followed, a request goes out
//! once, and only a 401 or 403 is answered by one more with the pool's shared key.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Request as Outgoing;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::clock::Clock;
use crate::domain::agent::{ClaimCall, ClaimOutcome, Dialect, Probe, Refusal};
use crate::outbound::{self, Connections, Fault, Http, Outbound, SetupError, Url};

use super::wire::{
    Answer, Content, Health, Reply, claimed, error_text, health, is_gateway_status, redacted,
    status,
};
use super::{Agent, AgentRuntime, gateway, pool_server};

const CONNECT: Duration = Duration::from_secs(5);
const BODY_MAX: usize = 1 << 20;

/// The agents' HTTP contract. Cheap to clone.
#[derive(Clone)]
pub struct HttpRuntime {
    probes: Arc<dyn Outbound>,
    claims: Arc<dyn Outbound>,
    connect_to: Option<String>,
    clock: Clock,
}

/// A request to an agent, without its authentication.
struct Request<'a> {
    path: &'a str,
    body: Option<&'a Value>,
    limit: Duration,
}

impl HttpRuntime {
    /// `connect_to`, `host:port`: dial that in plain HTTP for every agent, with the `Host` of the agent's address
    /// (`AGENTPOOL_AGENT_CONNECT_TO`; tests and the quick start).
    pub fn new(connect_to: Option<String>) -> Result<Self, SetupError> {
        let connections = |idle| Connections {
            connect: CONNECT,
            idle: (idle, Duration::from_secs(45)),
            http1_only: true,
            direct: connect_to.is_some(),
            body_max: BODY_MAX,
        };
        let (probes, claims) = (Http::new(connections(2))?, Http::new(connections(0))?);
        let clock = Clock::system();
        Ok(Self::over(
            Arc::new(probes),
            Arc::new(claims),
            connect_to,
            clock,
        ))
    }

    /// Over other ways out; `claims` has a fresh connection for every request.
    pub fn over(
        probes: Arc<dyn Outbound>,
        claims: Arc<dyn Outbound>,
        connect_to: Option<String>,
        clock: Clock,
    ) -> Self {
        Self {
            probes,
            claims,
            connect_to,
            clock,
        }
    }

    /// Sends with the agent's token and, where that is refused, once more with the shared key.
    async fn send(&self, out: &dyn Outbound, agent: &Agent, request: Request<'_>) -> Answer {
        let started = self.clock.monotonic();
        let first = self.once(out, agent, agent.token.as_ref(), &request).await;
        match (&first, &agent.shared_key) {
            (Answer::Reply(reply), Some(key))
                if reply.is_refused() && !same(agent.token.as_ref(), key) =>
            {
                let spent = self.clock.monotonic().saturating_sub(started);
                let rest = Request {
                    limit: request.limit.saturating_sub(spent),
                    ..request
                };
                if rest.limit.is_zero() {
                    return first;
                }
                let second = self.once(out, agent, Some(key), &rest).await;
                if matches!(&second, Answer::Reply(r) if !r.is_refused()) {
                    tracing::debug!(
                        path = request.path,
                        "the agent takes the pool's shared key, not its own token"
                    );
                }
                second
            }
            _ => first,
        }
    }

    async fn once(
        &self,
        out: &dyn Outbound,
        agent: &Agent,
        token: Option<&SecretString>,
        request: &Request<'_>,
    ) -> Answer {
        let Some((url, host)) = self.address(&agent.url, request.path) else {
            return Answer::NotSent("the agent's address is not a URL".to_owned());
        };
        let (method, body) = match request.body {
            Some(body) => ("POST", body.to_string()),
            None => ("GET", String::new()),
        };
        let mut builder = Outgoing::builder().method(method).uri(url.as_str());
        if request.body.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        if let Some(host) = host {
            builder = builder.header(HOST, host);
        }
        if let Some(token) = token {
            let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            else {
                return Answer::NotSent("the token has characters that cannot be sent".to_owned());
            };
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        let Ok(outgoing) = builder.body(Bytes::from(body)) else {
            return Answer::NotSent(cause(Fault::NotBuilt).to_owned());
        };
        match out.send(outgoing, request.limit).await {
            Ok(answer) => read(answer),
            Err(fault @ (Fault::NotConnected { .. } | Fault::NotBuilt)) => {
                Answer::NotSent(cause(fault).to_owned())
            }
            Err(fault) => Answer::Broken(cause(fault).to_owned()),
        }
    }

    /// Where to send, and the `Host` to send where that differs.
    fn address(&self, base: &str, path: &str) -> Option<(Url, Option<String>)> {
        let base: Url = base.parse().ok()?;
        let host = base.host_str()?;
        let authority = base
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let (scheme, dial, host) = match &self.connect_to {
            Some(dial) => ("http", dial.clone(), Some(authority)),
            None => (base.scheme(), authority, None),
        };
        Some((format!("{scheme}://{dial}{path}").parse().ok()?, host))
    }

    async fn get(&self, agent: &Agent, path: &str, limit: Duration) -> Answer {
        self.send(
            self.probes.as_ref(),
            agent,
            Request {
                path,
                body: None,
                limit,
            },
        )
        .await
    }

    /// The wrapper, or what else answers in its place.
    async fn probe_pool_server(
        &self,
        agent: &Agent,
        recorded: Option<Dialect>,
        limit: Duration,
    ) -> Probe {
        let answer = self.get(agent, pool_server::HEALTH, limit).await;
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::NotSent(text) | Answer::Broken(text) => return Probe::Unreachable(text),
        };
        match health(&reply) {
            Some(Health {
                ready: true,
                kind,
                version,
            }) => self.behind_wrapper(agent, kind, version, limit).await,
            Some(_) => Probe::NotReady(format!(
                "the runtime is not up yet (health: HTTP {})",
                reply.status
            )),
            None if may_be_gateway(&reply) => {
                self.maybe_gateway(agent, recorded, &reply, limit).await
            }
            None => no_status(&reply, pool_server::HEALTH),
        }
    }

    async fn behind_wrapper(
        &self,
        agent: &Agent,
        kind: Option<String>,
        version: Option<String>,
        limit: Duration,
    ) -> Probe {
        match read_status(&self.get(agent, gateway::STATUS, limit).await) {
            // Health decides "up".
            Ok(mut status) => {
                status.ready = true;
                Probe::Answered {
                    dialect: Dialect::PoolServer,
                    kind,
                    version,
                    status,
                }
            }
            Err(probe) => probe,
        }
    }

    /// There is no `/pool/health`: a gateway, or nothing at all behind the provider's edge.
    async fn maybe_gateway(
        &self,
        agent: &Agent,
        recorded: Option<Dialect>,
        health: &Reply,
        limit: Duration,
    ) -> Probe {
        match self.get(agent, gateway::STATUS, limit).await {
            Answer::Reply(reply) if is_gateway_status(&reply) => match recorded {
                Some(Dialect::PoolServer) => {
                    Probe::WrongRuntime("a gateway answers, not a pool server".to_owned())
                }
                _ => gateway_probe(&Answer::Reply(reply)),
            },
            Answer::Reply(reply) if reply.is_refused() => Probe::Unauthorized,
            Answer::Reply(_) => no_status(health, pool_server::HEALTH),
            Answer::NotSent(text) | Answer::Broken(text) => Probe::Unreachable(text),
        }
    }

    async fn probe_gateway(&self, agent: &Agent, limit: Duration) -> Probe {
        let answer = self.get(agent, gateway::STATUS, limit).await;
        // Only a managed runtime's status has no `ready`, and such a runtime stands behind a wrapper.
        let odd =
            matches!(&answer, Answer::Reply(r) if status(r).is_some() && !is_gateway_status(r));
        if odd
            && let Answer::Reply(reply) = self.get(agent, pool_server::HEALTH, limit).await
            && health(&reply).is_some()
        {
            return Probe::WrongRuntime("a pool server answers, not a gateway".to_owned());
        }
        gateway_probe(&answer)
    }
}

#[async_trait]
impl AgentRuntime for HttpRuntime {
    async fn probe(&self, agent: &Agent, recorded: Option<Dialect>, limit: Duration) -> Probe {
        match recorded {
            Some(Dialect::Gateway) => self.probe_gateway(agent, limit).await,
            _ => self.probe_pool_server(agent, recorded, limit).await,
        }
    }

    async fn status(&self, agent: &Agent, dialect: Dialect, limit: Duration) -> Probe {
        let answer = self.get(agent, gateway::STATUS, limit).await;
        match (dialect, read_status(&answer)) {
            (Dialect::Gateway, _) => gateway_probe(&answer),
            (_, Ok(status)) => Probe::Answered {
                dialect,
                kind: None,
                version: None,
                status,
            },
            (_, Err(probe)) => probe,
        }
    }

    async fn claim(
        &self,
        agent: &Agent,
        dialect: Dialect,
        call: &ClaimCall,
        limit: Duration,
    ) -> ClaimOutcome {
        let (path, body, limit) = match dialect {
            Dialect::Gateway => gateway::claim(call, limit),
            Dialect::PoolServer => {
                let (path, body) = pool_server::claim(call);
                (path, body, limit)
            }
        };
        if limit.is_zero() {
            return ClaimOutcome::Refused(Refusal::NotSent);
        }
        let answer = self
            .send(
                self.claims.as_ref(),
                agent,
                Request {
                    path,
                    body: Some(&body),
                    limit,
                },
            )
            .await;
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::NotSent(_) => return ClaimOutcome::Refused(Refusal::NotSent),
            Answer::Broken(text) => return ClaimOutcome::Unknown(text),
        };
        let text = || {
            let said = error_text(&reply).unwrap_or_else(|| reply.summary());
            redacted(
                &said,
                &[agent.token.as_ref(), agent.shared_key.as_ref()],
                call,
            )
        };
        outcome(&reply, dialect, call.join_url.is_some(), text)
    }

    async fn reset(&self, agent: &Agent, limit: Duration) -> bool {
        let request = Request {
            path: pool_server::RESET,
            body: Some(&Value::Object(serde_json::Map::new())),
            limit,
        };
        let answer = self.send(self.claims.as_ref(), agent, request).await;
        matches!(answer, Answer::Reply(reply) if reply.is_success())
    }
}

/// The classes of a claim's outcome. Pure.
fn outcome(
    reply: &Reply,
    dialect: Dialect,
    joining: bool,
    text: impl Fn() -> String,
) -> ClaimOutcome {
    match reply.status {
        200..300 => claimed(reply, joining),
        400 | 413 | 422 => ClaimOutcome::Refused(Refusal::Invalid(text())),
        401 | 403 => ClaimOutcome::Refused(Refusal::Unauthorized),
        404 => ClaimOutcome::Refused(Refusal::NotReady),
        405 => ClaimOutcome::Refused(Refusal::WrongRuntime),
        409 => ClaimOutcome::Busy,
        // Only the runtime's or the wrapper's own says that it has finished.
        500 if error_text(reply).is_some() => ClaimOutcome::Failed(text()),
        503 if dialect == Dialect::PoolServer && pool_server::is_not_ready(reply) => {
            ClaimOutcome::Refused(Refusal::NotReady)
        }
        _ => ClaimOutcome::Unknown(reply.summary()),
    }
}

/// What a gateway answers at a path it does not know: its page, or 503 text where the page is missing, or 405. And 404
/// is the edge of a provider.
fn may_be_gateway(reply: &Reply) -> bool {
    reply.content == Content::Html
        || matches!(
            (reply.status, reply.content),
            (404 | 405, _) | (503, Content::Text)
        )
}

fn gateway_probe(answer: &Answer) -> Probe {
    match read_status(answer) {
        Ok(status) if status.ready => Probe::Answered {
            dialect: Dialect::Gateway,
            kind: None,
            version: None,
            status,
        },
        Ok(_) => Probe::NotReady("the gateway says that it is not ready".to_owned()),
        Err(probe) => probe,
    }
}

/// The status in an answer, or what else a probe is to say.
fn read_status(answer: &Answer) -> Result<crate::domain::agent::AgentStatus, Probe> {
    match answer {
        Answer::Reply(reply) => status(reply).ok_or_else(|| no_status(reply, gateway::STATUS)),
        Answer::NotSent(text) | Answer::Broken(text) => Err(Probe::Unreachable(text.clone())),
    }
}

/// An answer that is none: who refuses, who is not ready, who is not there.
fn no_status(reply: &Reply, path: &str) -> Probe {
    let text = format!("{path}: {}", reply.summary());
    if reply.is_refused() {
        Probe::Unauthorized
    } else if reply.status == 200 && reply.content == Content::Html {
        // A gateway between listening and the loading of its plugin.
        Probe::NotReady(text)
    } else {
        Probe::Unreachable(text)
    }
}

fn read(answer: outbound::Answer) -> Answer {
    let content = answer
        .headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let content = Content::of(content);
    let body = match answer.body {
        Ok(body) => body,
        Err(fault) => return Answer::Broken(cause(fault).to_owned()),
    };
    let json = if content == Content::Json {
        serde_json::from_slice(&body).ok()
    } else {
        None
    };
    Answer::Reply(Reply {
        status: answer.status,
        content,
        json,
    })
}

fn cause(fault: Fault) -> &'static str {
    match fault {
        Fault::NotConnected { .. } => "no connection",
        Fault::NotBuilt => "the request could not be built",
        Fault::TimedOut => "no complete answer in time",
        Fault::Broken => "the connection broke before the answer was complete",
        Fault::TooLarge => "the answer is larger than 1 MiB",
    }
}

fn same(token: Option<&SecretString>, key: &SecretString) -> bool {
    token.is_some_and(|t| t.expose_secret() == key.expose_secret())
}
