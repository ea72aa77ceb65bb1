//! The Sprites API as a client sees it.

use super::process::{Simulator, text, until};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};

mod agent;
mod exec;
mod faults;
mod life;
mod objects;
mod sdk;
mod services;

pub const SPRITES_TOKEN: &str = "quickstart/5eed00c1/5eed00c2/5eed0000-0000-4000-8000-0000000000c3";
pub const OTHER_TOKEN: &str = "other/5eed00d1/5eed00d2/5eed0000-0000-4000-8000-0000000000d3";

/// An answer with its body as text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The lines of a stream.
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .map(|l| serde_json::from_str(l).expect("a line is JSON"))
            .collect()
    }

    pub fn types(&self) -> Vec<String> {
        self.lines().iter().map(|l| text(&l["type"])).collect()
    }
}

/// What a command over WebSocket came to.
#[derive(Debug, Default)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    /// None: the connection ended without an exit frame.
    pub exit: Option<u8>,
    pub close: Option<u16>,
    pub info: Value,
}

pub type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

impl Simulator {
    /// One request with the quick start's token; status 0: none came.
    pub async fn sprites(
        &self,
        method: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.sprites_as(SPRITES_TOKEN, method, path, body).await
    }

    pub async fn sprites_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let url = format!("http://{}/v1/{path}", self.peers);
        let request = reqwest::Client::new().request(method.parse().unwrap(), url);
        let sent = request.bearer_auth(token).body(body).send().await;
        let Ok(answer) = sent else {
            return Answer {
                status: 0,
                headers: Default::default(),
                body: String::new(),
            };
        };
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.text().await.unwrap_or_default();
        Answer {
            status,
            headers,
            body,
        }
    }

    /// A new sprite with a public URL: its object.
    pub async fn sprite(&self, name: &str) -> Value {
        let body = json!({"name": name, "url_settings": {"auth": "public"}, "labels": ["agentpool-owner-x"]});
        let made = self.sprites("POST", "sprites", body.to_string()).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json()
    }

    pub async fn status_of_sprite(&self, name: &str) -> String {
        text(
            &self
                .sprites("GET", &format!("sprites/{name}"), "")
                .await
                .json()["status"],
        )
    }

    /// The host of a sprite's URL.
    pub async fn host_of(&self, name: &str) -> String {
        let sprite = self
            .sprites("GET", &format!("sprites/{name}"), "")
            .await
            .json();
        text(&sprite["url"])
            .trim_start_matches("https://")
            .to_owned()
    }

    /// A WebSocket below `/v1/`.
    pub async fn socket(&self, path: &str) -> Result<Socket, Box<Error>> {
        let url = format!("ws://{}/v1/{path}", self.peers);
        let mut request = url.into_client_request().unwrap();
        let bearer = format!("Bearer {SPRITES_TOKEN}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        tokio_tungstenite::connect_async(request)
            .await
            .map(|(socket, _)| socket)
            .map_err(Box::new)
    }

    /// Runs a shell script in a sprite, over WebSocket, without standard input.
    pub async fn bash(&self, name: &str, script: &str) -> Ran {
        let socket = self
            .socket(&exec_path(name, script, ""))
            .await
            .expect("a handshake");
        listen(socket).await
    }
}

pub fn exec_path(name: &str, script: &str, more: &str) -> String {
    let script: String = script.bytes().map(|b| format!("%{b:02X}")).collect();
    format!("sprites/{name}/exec?path=bash&cmd=bash&cmd=-c&cmd={script}{more}")
}

/// Listens until the exit frame or the end.
pub async fn listen(mut socket: Socket) -> Ran {
    let mut ran = Ran::default();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => {
                let value: Value = serde_json::from_str(text.as_str()).expect("text is JSON");
                match value["type"].as_str() {
                    Some("session_info") => ran.info = value,
                    Some("exit") => ran.exit = value["exit_code"].as_u64().map(|c| c as u8),
                    _ => {}
                }
            }
            Message::Binary(bytes) if ran.info["tty"] == true => {
                ran.stdout.push_str(&String::from_utf8_lossy(&bytes));
            }
            Message::Binary(bytes) => match bytes[0] {
                1 => ran.stdout.push_str(&String::from_utf8_lossy(&bytes[1..])),
                2 => ran.stderr.push_str(&String::from_utf8_lossy(&bytes[1..])),
                3 => {
                    assert_eq!(bytes.len(), 2, "the exit frame is one byte");
                    ran.exit = Some(bytes[1]);
                    break;
                }
                other => panic!("frame {other}"),
            },
            Message::Close(frame) => ran.close = frame.map(|f| f.code.into()),
            _ => {}
        }
    }
    let _ = socket.send(Message::Close(None)).await;
    ran
}
