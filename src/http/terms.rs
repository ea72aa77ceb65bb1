//! On which terms a claim is asked for: `Idempotency-Key`, `Prefer: wait=<seconds>` or `waitSeconds`. Pure.

use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::domain::agent_claim::WAIT_MAX;

const KEY: &str = "idempotency-key";
const MAX_KEY: usize = 255;

/// The key; an empty header is none.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut all = headers.get_all(KEY).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return if headers.contains_key(KEY) {
            Err(ApiError::bad_request(
                "Idempotency-Key must be sent once at most",
            ))
        } else {
            Ok(None)
        };
    };
    let refused =
        || ApiError::bad_request("Idempotency-Key must have 1 to 255 printable ASCII characters");
    let text = value.to_str().map_err(|_| refused())?.trim();
    if text.len() > MAX_KEY {
        return Err(refused());
    }
    Ok(Some(text.to_owned()).filter(|t| !t.is_empty()))
}

/// How long the caller waits for an agent while none is idle. The body is asked and must be right; the header is a
/// preference: of what cannot be followed, as much as can be is.
pub fn wait(headers: &HeaderMap, body: &Map<String, Value>) -> Result<Duration, ApiError> {
    match body.get("waitSeconds") {
        None | Some(Value::Null) => Ok(preferred(headers)),
        Some(value) => value
            .as_u64()
            .map(Duration::from_secs)
            .filter(|wait| *wait <= WAIT_MAX)
            .ok_or_else(|| {
                ApiError::bad_request("waitSeconds must be a whole number from 0 to 600")
            }),
    }
}

fn preferred(headers: &HeaderMap) -> Duration {
    let values = headers.get_all("prefer").iter();
    let preferences = values
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split([',', ';']));
    let waits = preferences.filter_map(|p| {
        let (name, value) = p.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        let seconds = value.trim().trim_matches('"').parse().ok()?;
        is_wait.then(|| Duration::from_secs(seconds))
    });
    // The first one counts (RFC 7240, section 2).
    waits
        .map(|w| w.min(WAIT_MAX))
        .next()
        .unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_key_is_one_short_printable_word_or_none() {
        let long = "x".repeat(255);
        for (value, kept) in [
            ("abc", Some("abc")),
            (" \"a b\" ", Some("\"a b\"")),
            (&long, Some(long.as_str())),
            ("", None),
        ] {
            let read = key(&headers(&[("idempotency-key", value)])).unwrap();
            assert_eq!(read.as_deref(), kept);
        }
        assert_eq!(key(&headers(&[])), Ok(None));
        let too_long = "x".repeat(256);
        assert!(key(&headers(&[("idempotency-key", &too_long)])).is_err());
        let two = headers(&[("idempotency-key", "a"), ("idempotency-key", "b")]);
        assert!(key(&two).is_err());
        let mut odd = HeaderMap::new();
        let bytes = axum::http::HeaderValue::from_bytes(b"caf\xe9").unwrap();
        odd.insert("idempotency-key", bytes);
        assert!(key(&odd).is_err());
    }

    #[test]
    fn the_body_is_strict_and_the_header_a_preference() {
        let none = Map::new();
        let of = |value: &str| {
            wait(&headers(&[("prefer", value)]), &none)
                .unwrap()
                .as_secs()
        };
        assert_eq!(of("wait=30"), 30);
        assert_eq!(of("respond-async, wait=30; foo"), 30);
        assert_eq!(of("WAIT=\"7\""), 7);
        assert_eq!(of("wait=5, wait=9"), 5);
        assert_eq!(of("wait=9999"), 600);
        assert_eq!(of("wait=soon"), 0);
        assert_eq!(of("waiting=5"), 0);
        let body = |value: Value| {
            let body = json!({"waitSeconds": value}).as_object().unwrap().clone();
            wait(&headers(&[("prefer", "wait=3")]), &body).map(|w| w.as_secs())
        };
        assert_eq!(body(json!(600)), Ok(600));
        assert_eq!(body(json!(0)), Ok(0), "the body wins");
        assert_eq!(body(Value::Null), Ok(3));
        for bad in [json!(601), json!(-1), json!("5"), json!(1.5), json!(true)] {
            assert!(body(bad.clone()).is_err(), "{bad}");
        }
    }
}
