//! What goes wrong, as the API says it: a status and `{"error","code"}`, with `instanceId` where it applies.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::claim::ClaimError;
use crate::operations::OperationError;

/// The longest text that is passed on from elsewhere.
const MAX_TEXT: usize = 1500;
/// Seconds after which a claim that found no idle agent may be repeated.
const RETRY_NO_IDLE: u32 = 30;

/// The stable word of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No agent is idle.
    NoIdle,
    /// The request is at fault.
    BadRequest,
    /// The key is missing or wrong.
    Unauthorized,
    /// The agents refused or failed.
    ProvisionFailed,
    /// Another claim has the same join link.
    DuplicateJoin,
    /// The Idempotency-Key came before with another request.
    KeyReused,
    /// There is no such thing.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The instance carries the label that keeps it.
    Protected,
    /// A limit of ours or of the provider is reached.
    Capacity,
    /// The pool serves no claims now.
    Paused,
    /// It called too often.
    RateLimited,
    /// This version does not do it, or it is not set up.
    NotSupported,
    /// The provider or the cluster failed.
    Upstream,
    /// It goes on without an answer.
    StillRunning,
    /// The process has only just begun.
    Starting,
    /// A fault of ours.
    Internal,
}

impl Code {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoIdle => "no_idle",
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::ProvisionFailed => "provision_failed",
            Self::DuplicateJoin => "duplicate_join",
            Self::KeyReused => "key_reused",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Protected => "protected",
            Self::Capacity => "capacity",
            Self::Paused => "paused",
            Self::RateLimited => "rate_limited",
            Self::NotSupported => "not_supported",
            Self::Upstream => "upstream",
            Self::StillRunning => "still_running",
            Self::Starting => "starting",
            Self::Internal => "internal",
        }
    }
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable word.
    pub code: Code,
    /// The sentence for a person; no secret, no stack.
    pub message: String,
    /// The instance it is about.
    pub instance_id: Option<String>,
    /// Seconds after which a repeat makes sense.
    pub retry_after: Option<u32>,
    /// The place of one who waited in vain, from 1, and the seconds after which an agent for it can be expected.
    pub queue: Option<(usize, u32)>,
}

impl ApiError {
    /// An error of that status, word and sentence.
    pub fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: cut(message.into()),
            instance_id: None,
            retry_after: None,
            queue: None,
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, message)
    }

    /// 401 in the predecessor's words.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Code::Unauthorized,
            "Invalid or missing API key",
        )
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, message)
    }

    /// 503: a process that does not know the pools yet cannot say that one is not there.
    pub fn starting() -> Self {
        let text = "The API is starting. Try again in a few seconds.";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Starting, text);
        Self {
            retry_after: Some(2),
            ..error
        }
    }

    /// 413 in the predecessor's words.
    pub fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::BadRequest,
            "Request body too large",
        )
    }

    /// 429 until so many seconds later.
    pub fn rate_limited(seconds: u32) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            Code::RateLimited,
            "Too many calls: try again later",
        )
        .retry_after(seconds)
    }

    /// 500 for work that goes on.
    pub fn still_running() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::StillRunning,
            "still running",
        )
    }

    /// 500 that says nothing of the inside.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "Internal error",
        )
    }

    fn on(mut self, instance_id: String) -> Self {
        self.instance_id = Some(instance_id);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error": self.message, "code": self.code.as_str()});
        if let Some(id) = self.instance_id {
            body["instanceId"] = id.into();
        }
        if let Some((position, expected)) = self.queue {
            body["position"] = position.into();
            body["expectedSeconds"] = expected.into();
        }
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ClaimError> for ApiError {
    fn from(error: ClaimError) -> Self {
        let text = error.to_string();
        let failed = StatusCode::INTERNAL_SERVER_ERROR;
        match error {
            ClaimError::NoIdle => Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::NoIdle, text)
                .retry_after(RETRY_NO_IDLE),
            ClaimError::Paused(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Paused, text)
                .retry_after(RETRY_NO_IDLE),
            ClaimError::ProvisionFailed { instance_id, .. }
            | ClaimError::Invalid { instance_id, .. } => {
                Self::new(failed, Code::ProvisionFailed, text).on(instance_id)
            }
            ClaimError::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::KeyReused, text)
            }
            ClaimError::DuplicateJoin {
                instance_id,
                status,
            } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CONFLICT);
                let mut error = Self::new(status, Code::DuplicateJoin, text);
                error.instance_id = instance_id;
                error
            }
            ClaimError::WaitedOut { position, expected } => {
                let seconds = u32::try_from(expected.as_secs()).unwrap_or(RETRY_NO_IDLE);
                let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::NoIdle, text)
                    .retry_after(seconds);
                error.queue = Some((position, seconds));
                error
            }
            ClaimError::StillRunning => Self::still_running(),
            ClaimError::Cluster(_) => Self::new(
                failed,
                Code::Upstream,
                "The claim could not be recorded in the cluster",
            ),
        }
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        let text = error.to_string();
        match error {
            OperationError::Protected(id) => {
                Self::new(StatusCode::FORBIDDEN, Code::Protected, text).on(id)
            }
            OperationError::NotCrashed(id) => Self::not_found(text).on(id),
            OperationError::StillRunning => Self::still_running(),
            OperationError::TooManyRequests(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Capacity, text)
                    .retry_after(RETRY_NO_IDLE)
            }
            OperationError::Failed(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Upstream, text)
            }
            OperationError::Contended(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Upstream, text).retry_after(1)
            }
            OperationError::Cluster { doing, source } => {
                tracing::error!(doing, error = %source, "the cluster refused or did not answer");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Code::Upstream,
                    format!("Could not {doing}: the cluster refused or did not answer"),
                )
            }
        }
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let error = ApiError::bad_request("é".repeat(2000));
        assert_eq!(error.message.chars().count(), MAX_TEXT + 1);
        assert_eq!(ApiError::bad_request("short").message, "short");
    }

    #[test]
    fn what_the_cluster_says_does_not_leak() {
        let error = ApiError::from(ClaimError::Cluster("secret detail".into()));
        assert!(!error.message.contains("secret detail"));
        assert_eq!(error.code, Code::Upstream);
    }
}
