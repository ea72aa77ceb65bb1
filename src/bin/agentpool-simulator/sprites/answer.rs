//! Answers of the Sprites API, from JSON to a stream that goes on for minutes.

use crate::body::{Body, HalfBody};
use axum::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

/// What is answered.
pub enum Answer {
    /// A whole body.
    Whole {
        /// HTTP status.
        status: u16,
        /// Headers, the content type among them.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Status 200 and a body that comes piece by piece.
    Stream {
        /// Of the body.
        content_type: &'static str,
        /// Its pieces, each flushed.
        pieces: UnboundedReceiver<Bytes>,
    },
    /// 101 to a WebSocket handshake with this accept key.
    Switch(String),
    /// Nothing, until the other side gives up.
    Hang,
    /// RST.
    Reset,
}

impl Answer {
    fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self::Whole {
            status,
            headers,
            body: body.into(),
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

    /// Raw bytes.
    pub fn bytes(body: Vec<u8>) -> Self {
        Self::new(200, "application/octet-stream", body)
    }

    /// A status without a body.
    pub fn empty(status: u16) -> Self {
        Self::Whole {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// An error of the control plane.
    pub fn error(status: u16, text: &str) -> Self {
        Self::json(status, &json!({"error": text}))
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Whole { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The status, or what happens instead.
    pub fn status(&self) -> Value {
        match self {
            Self::Whole { status, .. } => json!(status),
            Self::Stream { .. } => json!(200),
            Self::Switch(_) => json!(101),
            Self::Hang => json!("hang"),
            Self::Reset => json!("reset"),
        }
    }
}

/// No sprite of that name.
pub fn no_sprite() -> Answer {
    Answer::error(404, "sprite not found")
}

/// No such route inside the runtime.
pub fn no_route() -> Answer {
    Answer::text(404, "404 page not found")
}

/// Over a limit, with body and headers of sprites.md 1.2; `seconds` are real.
pub fn too_many(code: &str, (limit, window): (i64, i64), seconds: i64) -> Answer {
    let body = json!({
        "error": code, "message": "rate or concurrency limit reached", "limit": limit, "window_seconds": window,
        "retry_after_seconds": seconds, "current_count": limit, "upgrade_available": true,
        "upgrade_url": "https://sprites.dev/billing",
    });
    Answer::json(429, &body)
        .with("retry-after", &seconds.to_string())
        .with("x-ratelimit-limit", &limit.to_string())
        .with("x-ratelimit-remaining", "0")
}

/// The answer as hyper sends it; none for those that are no answer.
pub fn render(answer: Answer) -> Option<Response<Body>> {
    let (status, headers, body) = match answer {
        Answer::Whole {
            status,
            headers,
            body,
        } => (
            status,
            headers,
            Body::Half(HalfBody::new(body.to_vec(), false)),
        ),
        Answer::Stream {
            content_type,
            pieces,
        } => {
            let headers = vec![("content-type".to_owned(), content_type.to_owned())];
            (200, headers, Body::Stream(pieces))
        }
        Answer::Switch(accept) => {
            let headers = vec![
                ("connection".to_owned(), "Upgrade".to_owned()),
                ("upgrade".to_owned(), "websocket".to_owned()),
                ("sec-websocket-accept".to_owned(), accept),
            ];
            (101, headers, Body::Half(HalfBody::new(Vec::new(), false)))
        }
        Answer::Hang | Answer::Reset => return None,
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
        if let Some((name, value)) = parsed.zip(HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    Some(response)
}
