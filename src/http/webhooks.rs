//! `POST /webhooks/railway`: Railway says that a deployment changed. Its word is never believed, it only makes the
//! controller look now at what the next tick would find. Deliveries are not signed; a secret of its own, in a header or in
//! the path, is all that tells them from anybody's.

use std::fmt;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::call::Call;
use super::error::{ApiError, Code};
use crate::api::{AgentInstance, WEBHOOK_SECRET_HEADER};

/// What may follow from these is worth a look.
const TYPES: [&str; 7] = [
    "deployed",
    "failed",
    "crashed",
    "oomkilled",
    "slept",
    "resumed",
    "removed",
];

/// The secret of the webhooks, as its digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WebhookSecret([u8; 32]);

impl WebhookSecret {
    /// Of the secret's text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether it is this one, in constant time.
    fn is(&self, given: &str) -> bool {
        self.0.ct_eq(&Self::new(given).0).into()
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// Answers at once, whatever follows: 404 without a secret in the configuration, 401 with another one, else 200.
pub fn railway(call: &Call) -> Result<Response, ApiError> {
    let Some(secret) = &call.state.settings.webhook_secret else {
        return Err(ApiError::not_found("Not found"));
    };
    let header = call
        .headers
        .get(WEBHOOK_SECRET_HEADER)
        .and_then(|v| v.to_str().ok());
    if !secret.is(header.unwrap_or(&call.id)) {
        let refused = ApiError::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, "Unauthorized");
        return Err(refused);
    }
    if let Some(event) = Event::read(&call.body) {
        let instances = call.state.instances.state();
        for instance in instances.iter().filter(|i| event.is_about(i)) {
            let asked = call.state.operations.hint(instance);
            tracing::debug!(instance = %instance.spec.id, event = event.kind, asked, "told by a webhook");
        }
    }
    Ok(Json(json!({"ok": true})).into_response())
}

/// What is read of a delivery: which service it is about, and that something happened. Its details contradict themselves.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    kind: String,
    service: String,
    environment: Option<String>,
}

impl Event {
    /// `None`: nothing that we look at.
    fn read(body: &Map<String, Value>) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (given, resource) = (body.get("type")?.as_str()?, body.get("resource"));
        let kind = match given.split_once('.') {
            Some((of, kind)) if of.eq_ignore_ascii_case("Deployment") => kind,
            // The form of former times has everything at the top.
            None if given.eq_ignore_ascii_case("DEPLOY") => "deployed",
            _ => return None,
        };
        let kind = kind.replace('_', "").to_ascii_lowercase();
        let part = |name: &str| {
            let of = resource.map_or_else(|| body.get(name), |r| r.get(name));
            of.and_then(|o| text(&o["id"]))
        };
        TYPES.contains(&kind.as_str()).then_some(())?;
        Some(Self {
            kind,
            service: part("service")?,
            environment: part("environment"),
        })
    }

    fn is_about(&self, instance: &AgentInstance) -> bool {
        let status = instance.status.as_ref().and_then(|s| s.provider.as_ref());
        let at = instance.spec.provider.as_ref();
        let here = at.and_then(|p| p.environment_id.as_ref());
        let elsewhere =
            self.environment.is_some() && here.is_some() && self.environment.as_ref() != here;
        status.and_then(|s| s.service_id.as_ref()) == Some(&self.service) && !elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Value) -> Option<Event> {
        Event::read(body.as_object().unwrap())
    }

    #[test]
    fn an_event_is_read_in_each_of_its_forms() {
        let of = |kind: &str| json!({"type": kind, "details": {}, "resource": {"service": {"id": "s"}, "environment": {"id": "e"}}});
        for kind in [
            "Deployment.crashed",
            "deployment.oom_killed",
            "Deployment.oomKilled",
            "Deployment.deployed",
        ] {
            let event = read(&of(kind)).unwrap();
            assert_eq!(
                (event.service.as_str(), event.environment.as_deref()),
                ("s", Some("e")),
                "{kind}"
            );
        }
        for kind in ["Deployment.queued", "VolumeAlert.triggered", "crashed", ""] {
            assert_eq!(read(&of(kind)), None, "{kind}");
        }
        let old = json!({"type": "DEPLOY", "status": "SUCCESS", "service": {"id": "s"}, "environment": {"id": "e"}});
        assert_eq!(read(&old).unwrap().service, "s");
        for none in [
            json!({}),
            json!({"type": 7}),
            json!({"type": "Deployment.crashed", "resource": {"service": {}}}),
        ] {
            assert_eq!(read(&none), None, "{none}");
        }
    }

    #[test]
    fn a_secret_is_compared_whole_and_never_printed() {
        let secret = WebhookSecret::new("a-secret-of-its-own");
        assert!(secret.is("a-secret-of-its-own"));
        for other in [
            "",
            "a-secret-of-its-ow",
            "a-secret-of-its-own ",
            "A-secret-of-its-own",
        ] {
            assert!(!secret.is(other), "{other:?}");
        }
        assert_eq!(format!("{secret:?}"), "[REDACTED]");
    }
}
