//! What an answer of Sprites means. Pure.
//!
//! The status decides, and whether the body is the interface's own JSON; texts only where the vendor fixed them
//! (`404 page not found` is a route that is missing in an old runtime, never a sprite that is gone). Errors keep the
//! status and the beginning of the interface's own words.

use std::time::Duration;

use hyper::HeaderMap;

use crate::api::condition::Reason;
use crate::provider::{Class, ProviderError};

use super::wire::ErrorBody;

/// What a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, or the same when it is sent again: it may be repeated.
    Repeatable,
    /// Something each time: never repeated here, and unknown where no answer came.
    Once,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No connection: nothing was sent.
    NotSent,
    /// No answer, none that is whole, or one of the edge: it may have happened.
    Unknown,
    /// 429: did not run.
    RateLimited,
    /// 429 by the organisation's limit of sprites: did not run.
    Capacity,
    /// 401, 403.
    Auth,
    /// 404 of the interface: no such sprite, service, checkpoint, file.
    Missing,
    /// 404 of no interface's making: says nothing about the sprite.
    NoRoute,
    /// 409: the name is taken, or the state does not allow it.
    Conflict,
    /// 400, 413, 422 and their kind: the request is at fault, or the name is taken.
    Refused,
}

/// A request that did not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub kind: Kind,
    /// In words, redacted.
    pub message: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// One with a message and nothing else.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// An answer that is not what was agreed.
    pub fn unreadable(what: impl std::fmt::Display) -> Self {
        Self::new(Kind::Unknown, format!("the answer cannot be read: {what}"))
    }

    /// As an error of the provider.
    pub fn into_error(self, effect: Effect, doing: impl Into<String>) -> ProviderError {
        let (class, reason) = class(self.kind, effect);
        ProviderError {
            class,
            reason,
            doing: doing.into(),
            message: self.message,
            retry_after: self.retry_after,
        }
    }
}

/// The class that the core branches on.
pub fn class(kind: Kind, effect: Effect) -> (Class, Reason) {
    match (kind, effect) {
        (Kind::NotSent | Kind::NoRoute, _) | (Kind::Unknown, Effect::Repeatable) => {
            (Class::Transient, Reason::ProviderUnavailable)
        }
        (Kind::Unknown, Effect::Once) => (Class::Ambiguous, Reason::OutcomeUnknown),
        (Kind::RateLimited, _) => (Class::Throttled, Reason::RateLimited),
        (Kind::Capacity, _) => (Class::Capacity, Reason::CapacityExceeded),
        (Kind::Auth, _) => (Class::Unauthorized, Reason::CredentialsInvalid),
        (Kind::Missing, _) => (Class::Gone, Reason::Gone),
        (Kind::Conflict | Kind::Refused, _) => (Class::Rejected, Reason::Rejected),
    }
}

const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// What the interface says to wait is believed up to here.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// How much of a body is looked at.
const BODY_MAX: usize = 2048;
const WORDS_MAX: usize = 300;
/// What an old runtime answers for a route that it does not have.
const NO_ROUTE: &str = "404 page not found";

/// What an answer other than a success means. `None` for a success.
pub fn of_answer(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Failure> {
    if (200..300).contains(&status) {
        return None;
    }
    let body = &body[..body.len().min(BODY_MAX)];
    let json: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let text = std::str::from_utf8(body).unwrap_or_default().trim();
    // Some runtime routes answer plain text: only a page is the edge's.
    let page = text.starts_with('<');
    let kind = match status {
        429 if json.as_ref().is_some_and(ErrorBody::is_capacity) => Kind::Capacity,
        429 => Kind::RateLimited,
        401 | 403 if page => Kind::Unknown,
        401 | 403 => Kind::Auth,
        404 if page || text.is_empty() || text == NO_ROUTE => Kind::NoRoute,
        404 => Kind::Missing,
        409 => Kind::Conflict,
        410 => Kind::Missing,
        408 | 425 => Kind::Unknown,
        400..500 => Kind::Refused,
        _ => Kind::Unknown,
    };
    let words = match &json {
        Some(body) => body.words(),
        None if page => "a page, not the interface's answer".to_owned(),
        None => text.to_owned(),
    };
    let words: String = words.chars().take(WORDS_MAX).collect();
    let message = match words.is_empty() {
        true => format!("HTTP {status}"),
        false => format!("HTTP {status}: {words}"),
    };
    let retry_after = match kind {
        Kind::RateLimited | Kind::Capacity => Some(wait(json.as_ref(), headers)),
        _ => None,
    };
    Some(Failure {
        kind,
        message,
        retry_after,
    })
}

/// The body's own word wins over the header.
fn wait(json: Option<&ErrorBody>, headers: &HeaderMap) -> Duration {
    let header = || {
        let value = headers.get(hyper::header::RETRY_AFTER)?.to_str().ok()?;
        value.trim().parse().ok()
    };
    let seconds = json.and_then(ErrorBody::retry_after).or_else(header);
    seconds.map_or(DEFAULT_WAIT, |s| {
        Duration::try_from_secs_f64(s).map_or(WAIT_MAX, |w| w.min(WAIT_MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, body: &str) -> Kind {
        of_answer(status, &HeaderMap::new(), body.as_bytes())
            .unwrap()
            .kind
    }

    #[test]
    fn every_status_has_its_kind() {
        let gone = r#"{"error":"sprite not found"}"#;
        for (status, body, want) in [
            (401, r#"{"error":"authentication failed"}"#, Kind::Auth),
            (403, r#"{"error":"forbidden"}"#, Kind::Auth),
            (403, "<html>blocked</html>", Kind::Unknown),
            (404, gone, Kind::Missing),
            (404, "session not found: 7", Kind::Missing),
            (404, "404 page not found\n", Kind::NoRoute),
            (404, "<html/>", Kind::NoRoute),
            (404, "", Kind::NoRoute),
            (400, r#"{"errors":["name is invalid"]}"#, Kind::Refused),
            (
                409,
                "another service already has an HTTP port configured",
                Kind::Conflict,
            ),
            (410, "", Kind::Missing),
            (422, r#"{"error":"taken"}"#, Kind::Refused),
            (
                429,
                r#"{"error":"sprite_creation_rate_limited"}"#,
                Kind::RateLimited,
            ),
            (
                429,
                r#"{"error":"concurrent_sprite_limit_exceeded"}"#,
                Kind::Capacity,
            ),
            (
                429,
                r#"{"error":"x","message":"max sprites per org exceeded"}"#,
                Kind::Capacity,
            ),
            (429, "<html/>", Kind::RateLimited),
            (302, "", Kind::Unknown),
            (500, "oops", Kind::Unknown),
            (502, "<html>Bad Gateway</html>", Kind::Unknown),
            (503, "", Kind::Unknown),
        ] {
            assert_eq!(kind(status, body), want, "{status} {body}");
        }
        assert!(of_answer(204, &HeaderMap::new(), b"").is_none());
    }

    #[test]
    fn the_body_s_wait_wins_over_the_header_s() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "9".parse().unwrap());
        let wait = |headers: &HeaderMap, body: &str| {
            of_answer(429, headers, body.as_bytes())
                .unwrap()
                .retry_after
        };
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(
            wait(&headers, r#"{"error":"x","retry_after_seconds":7}"#),
            seconds(7)
        );
        assert_eq!(wait(&headers, "{}"), seconds(9));
        assert_eq!(wait(&HeaderMap::new(), "soon"), seconds(60));
        assert_eq!(
            wait(&headers, r#"{"retry_after_seconds":1e300}"#),
            seconds(3600)
        );
    }

    #[test]
    fn words_are_kept_short() {
        let long = format!("{{\"error\":\"{}\"}}", "ä".repeat(900));
        let failure = of_answer(400, &HeaderMap::new(), long.as_bytes()).unwrap();
        assert!(failure.message.chars().count() <= 320);
    }
}
