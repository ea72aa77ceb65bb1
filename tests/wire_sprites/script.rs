//! A scripted Sprites and what the tests share.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentpool::api::condition::Reason;
use agentpool::clock::Clock;
use agentpool::domain::template::Template;
use agentpool::provider::sprites::{SpritesProvider, Timeouts, Transport};
use agentpool::provider::{AgentProvider, Class, Facts, Inputs, Key, Outcome, ProviderError};
use axum::body::{Body, Bytes};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub const TOKEN: &str = "acme/org-1/tok-1/very-secret-token";
pub const MARK: &str = "cluster-1/agents/7f3a9c21k4mz";
pub const NAME: &str = "convos-agent-stg-7f3a9c21k4mz";
pub const GATEWAY_TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub const KEY: &str = "sk-ant-very-secret";

/// One answer.
#[derive(Clone)]
pub enum Answer {
    Http(u16, Vec<(&'static str, String)>, String),
    /// These bytes of a body, and then the connection breaks.
    Cut(String),
    /// Nothing for this long.
    Slow(Duration),
    Exec(Vec<Frame>, End),
}

#[derive(Clone)]
pub enum Frame {
    Out(&'static str),
    Err(&'static str),
    Raw(Vec<u8>),
    Text(&'static str),
}

#[derive(Clone, Copy)]
pub enum End {
    /// The exit frame; then the socket stays open, as the real one does.
    Exit(u8),
    Close(u16),
    Drop,
    Hang,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Sent {
    pub line: String,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Sent {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn query(&self, name: &str) -> Vec<String> {
        let url = format!("http://x{}", self.uri);
        let url: agentpool::outbound::Url = url.parse().unwrap();
        let pairs = url.query_pairs().filter(|(k, _)| k == name);
        pairs.map(|(_, v)| v.into_owned()).collect()
    }
}

/// Answers by method and path, in turn; the last one again and again.
#[derive(Clone, Default)]
pub struct Script {
    answers: Arc<Mutex<HashMap<String, VecDeque<Answer>>>>,
    pub sent: Arc<Mutex<Vec<Sent>>>,
}

impl Script {
    pub fn on(self, line: &str, answer: Answer) -> Self {
        let mut answers = self.answers.lock().unwrap();
        answers
            .entry(line.to_owned())
            .or_default()
            .push_back(answer);
        drop(answers);
        self
    }

    pub fn json(self, line: &str, status: u16, body: Value) -> Self {
        self.on(line, Answer::Http(status, vec![], body.to_string()))
    }

    pub fn text(self, line: &str, status: u16, body: &str) -> Self {
        self.on(line, Answer::Http(status, vec![], body.to_owned()))
    }

    pub fn exec(self, output: &'static str, code: u8) -> Self {
        let answer = Answer::Exec(vec![Frame::Out(output)], End::Exit(code));
        self.on(&exec_line(), answer)
    }

    pub async fn start(self) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { url, script: self }
    }
}

pub struct Server {
    pub url: String,
    script: Script,
}

impl Server {
    pub fn sent(&self) -> Vec<Sent> {
        self.script.sent.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.sent().into_iter().map(|s| s.line).collect()
    }

    pub fn provider(&self) -> SpritesProvider {
        provider_at(&self.url)
    }
}

pub fn exec_line() -> String {
    format!("GET /v1/sprites/{NAME}/exec")
}

/// A line about our sprite: `GET`, or `PUT /services/gateway`.
pub fn of(method: &str, path: &str) -> String {
    format!("{method} /v1/sprites/{NAME}{path}")
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri.path());
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    script.sent.lock().unwrap().push(Sent {
        line: line.clone(),
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
        body,
    });
    let next = {
        let mut answers = script.answers.lock().unwrap();
        match answers.get_mut(&line) {
            Some(queue) if queue.len() > 1 => queue.pop_front(),
            Some(queue) => queue.front().cloned(),
            None => None,
        }
    };
    match next {
        None => (StatusCode::IM_A_TEAPOT, format!("unexpected {line}")).into_response(),
        Some(Answer::Http(status, headers, body)) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Some(Answer::Cut(body)) => {
            let parts = [Ok(Bytes::from(body)), Err(std::io::Error::other("cut"))];
            Body::from_stream(futures::stream::iter(parts)).into_response()
        }
        Some(Answer::Slow(time)) => {
            tokio::time::sleep(time).await;
            StatusCode::OK.into_response()
        }
        Some(Answer::Exec(frames, end)) => {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
            upgrade
                .unwrap()
                .on_upgrade(move |socket| play(socket, frames, end))
        }
    }
}

async fn play(mut socket: WebSocket, frames: Vec<Frame>, end: End) {
    let info = r#"{"type":"session_info","session_id":"20","command":"bash","created":1785904678,"tty":false}"#;
    let framed = |id: u8, text: &str| Message::Binary([&[id], text.as_bytes()].concat().into());
    let mut all = vec![Message::Text(info.into())];
    all.extend(frames.into_iter().map(|frame| match frame {
        Frame::Out(text) => framed(1, text),
        Frame::Err(text) => framed(2, text),
        Frame::Raw(bytes) => Message::Binary(bytes.into()),
        Frame::Text(text) => Message::Text(text.into()),
    }));
    for message in all {
        if socket.send(message).await.is_err() {
            return;
        }
    }
    match end {
        End::Exit(code) => {
            let _ = socket.send(Message::Binary(vec![3, code].into())).await;
            let _ = tokio::time::timeout(Duration::from_secs(5), socket.recv()).await;
        }
        End::Close(code) => {
            let frame = CloseFrame {
                code,
                reason: "".into(),
            };
            let _ = socket.send(Message::Close(Some(frame))).await;
        }
        End::Drop => {}
        // Not even pings are answered.
        End::Hang => tokio::time::sleep(Duration::from_secs(30)).await,
    }
}

pub fn provider_at(url: &str) -> SpritesProvider {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ms = Duration::from_millis;
    let timeouts = Timeouts {
        call: ms(1500),
        create: ms(800),
        file: ms(1500),
        checkpoint: ms(1500),
        restore: ms(1500),
        handshake: ms(1500),
        ping: ms(100),
        silence: ms(300),
        backoff: ms(10),
    };
    let transport = Transport::with_timeouts(url, Clock::system(), timeouts).unwrap();
    SpritesProvider::new(&transport, TOKEN.to_owned().into()).unwrap()
}

pub fn template() -> Template {
    serde_json::from_value(json!({
        "environment": "staging", "environmentCode": "stg", "namePrefix": "convos-agent",
        "runtime": {"env": [{"name": "ANTHROPIC_API_KEY", "value": KEY}]},
        "provider": {"sprites": {"tokenSecretRef": {"name": "sprites", "key": "token"}}},
    }))
    .unwrap()
}

pub fn key() -> Key {
    Key {
        id: "7f3a9c21k4mz".to_owned(),
        name: NAME.to_owned(),
        mark: MARK.to_owned(),
    }
}

pub fn inputs() -> Inputs {
    let pairs = [
        ("GATEWAY_TOKEN", GATEWAY_TOKEN),
        ("ANTHROPIC_API_KEY", KEY),
        ("XMTP_ENV", "dev"),
    ];
    let pairs = pairs.map(|(k, v)| (k.to_owned(), v.to_owned()));
    Inputs {
        variables: pairs.into(),
        ..Inputs::default()
    }
}

pub fn known(pairs: &[(&str, &str)]) -> Facts {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// What is recorded of an instance in stock.
pub fn recorded() -> Facts {
    known(&[
        ("id", "sprite-1"),
        ("url", "https://x.sprites.app"),
        ("home", "/home/sprite"),
        ("checkpointId", "v1"),
        ("checkpointTime", "2026-09-01T10:00:00Z"),
    ])
}

pub fn our_labels() -> Value {
    json!([
        "agentpool-cluster-cluster-1",
        "agentpool-namespace-agents",
        "agentpool-owner-7f3a9c21k4mz"
    ])
}

pub fn sprite(labels: Value) -> Value {
    json!({
        "id": "sprite-1", "name": NAME, "organization": "acme", "url": "https://x.sprites.app",
        "url_settings": {"auth": "public", "private_access": "admins"}, "status": "cold", "labels": labels,
        "created_at": "2026-09-01T10:00:00Z", "updated_at": "2026-09-01T10:00:00Z", "last_running_at": null, "novel": {},
    })
}

pub fn ours() -> Value {
    sprite(our_labels())
}

pub fn running_service(definition: Value) -> Value {
    let mut service = definition;
    service["name"] = json!("gateway");
    service["needs"] = Value::Null;
    service["state"] = json!({"name": "gateway", "status": "running", "pid": 7, "restart_count": 0, "next_restart_at": "0001-01-01T00:00:00Z"});
    service
}

pub fn checkpoint(id: &str) -> Value {
    json!({"id": id, "create_time": "2026-09-01T10:00:00Z", "comment": "golden/7f3a9c21k4mz/1", "is_auto": false})
}

pub fn ndjson(events: &[Value]) -> String {
    events.iter().map(|e| format!("{e}\n")).collect()
}

pub fn taken() -> String {
    ndjson(&[
        json!({"type": "info", "data": "Creating checkpoint...", "time": "x"}),
        json!({"type": "info", "data": "\nCheckpoint Details:", "time": "x"}),
        json!({"type": "info", "data": "  ID: v1", "time": "x"}),
        json!({"type": "complete", "data": "Checkpoint v1 created successfully", "time": "x"}),
    ])
}

pub async fn perform(
    provider: &SpritesProvider,
    facts: &Facts,
    step: &'static str,
) -> Result<Outcome, ProviderError> {
    provider
        .perform(&key(), facts, step, &template(), &inputs())
        .await
}

pub fn class<T: std::fmt::Debug>(result: Result<T, ProviderError>) -> (Class, Reason) {
    let error = result.unwrap_err();
    let text = error.to_string();
    for secret in [TOKEN, GATEWAY_TOKEN, KEY] {
        assert!(!text.contains(secret), "{text}");
    }
    (error.class, error.reason)
}

pub fn failed(outcome: Outcome) -> (&'static str, bool) {
    match outcome {
        Outcome::Failed { reason, retry, .. } => (reason, retry),
        other => panic!("{other:?}"),
    }
}
