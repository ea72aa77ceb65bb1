//! Tolerant reading of what agents of every generation answer. Pure.
//!
//! Two shapes of status are in use: `{"ready", "conversation": {"id"}, "streaming"}` of the gateway's first plugin, and
//! `{"conversationId", "pending", "clean"}` of the managed runtimes. One parser reads both.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::domain::agent::{AgentStatus, ClaimCall, ClaimOutcome};

/// The longest text of an agent that is passed on.
pub const TEXT_MAX: usize = 1500;

/// What kind of thing a body is, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `application/json`.
    Json,
    /// `text/html`: the gateway's own pages, or a provider's edge.
    Html,
    /// `text/plain`.
    Text,
    /// Anything else, or nothing said.
    Other,
}

impl Content {
    /// By a `Content-Type`.
    pub fn of(content_type: Option<&str>) -> Self {
        let word = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match word.as_str() {
            "application/json" => Self::Json,
            "text/html" => Self::Html,
            "text/plain" => Self::Text,
            _ => Self::Other,
        }
    }
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What the body says it is.
    pub content: Content,
    /// The body, if content type and text both are JSON.
    pub json: Option<Value>,
}

impl Reply {
    /// 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// 401 or 403.
    pub fn is_refused(&self) -> bool {
        matches!(self.status, 401 | 403)
    }

    /// The body, if it is a JSON object.
    pub fn object(&self) -> Option<&serde_json::Map<String, Value>> {
        self.json.as_ref().and_then(Value::as_object)
    }

    /// What came, in a few words and without the body.
    pub fn summary(&self) -> String {
        let what = match (self.content, self.json.is_some()) {
            (Content::Json, true) => "JSON",
            (Content::Json, false) => "broken JSON",
            (Content::Html, _) => "HTML",
            (Content::Text, _) => "text",
            (Content::Other, _) => "no JSON",
        };
        format!("HTTP {} with {what}", self.status)
    }
}

/// What came of sending a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A complete answer.
    Reply(Reply),
    /// No byte of the request left: DNS, refused, no route, TLS.
    NotSent(String),
    /// It left, and no complete answer came: time-out, reset, too large.
    Broken(String),
}

/// An answer of `/pool/health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// 2xx, JSON, and `ready` is true. Older wrappers say 200 and false.
    pub ready: bool,
    /// `openclaw` or `hermes`.
    pub kind: Option<String>,
    /// The runtime's release.
    pub version: Option<String>,
}

/// Reads `/pool/health`: JSON with the key `ready`, whatever the status.
pub fn health(reply: &Reply) -> Option<Health> {
    let object = reply.object()?;
    let ready = object.get("ready")? == &Value::Bool(true) && reply.is_success();
    let version = text(object.get("version")).filter(|v| v != "unknown");
    Some(Health {
        ready,
        kind: text(object.get("runtime")),
        version,
    })
}

/// Reads `/convos/status`, whoever answered it. `None`: it is no status at all.
pub fn status(reply: &Reply) -> Option<AgentStatus> {
    let object = reply.object().filter(|_| reply.status == 200)?;
    let told = ["conversationId", "clean", "conversation"]
        .iter()
        .any(|k| object.contains_key(*k));
    let ready = match object.get("ready") {
        Some(ready) => ready == &Value::Bool(true),
        None if told => true,
        None => return None,
    };
    let bound = text(object.get("conversation").and_then(|c| c.get("id")))
        .or_else(|| text(object.get("conversationId")));
    let flag = |key: &str| object.get(key).and_then(Value::as_bool);
    Some(AgentStatus {
        ready,
        conversation: bound,
        pending: flag("pending") == Some(true),
        clean: flag("clean"),
        streaming: flag("streaming"),
    })
}

/// Whether a status is the gateway's own: only that has `ready`.
pub fn is_gateway_status(reply: &Reply) -> bool {
    reply.status == 200 && reply.object().is_some_and(|o| o.contains_key("ready"))
}

/// Reads a 2xx of a claim. `joining`: a join was asked for.
pub fn claimed(reply: &Reply, joining: bool) -> ClaimOutcome {
    let Some(object) = reply.object() else {
        return ClaimOutcome::Unknown(reply.summary());
    };
    let word = object
        .get("status")
        .and_then(Value::as_str)
        .unwrap_or_default();
    // Before an id: an agent that waits may name the conversation it waits for.
    if matches!(word, "waiting_for_acceptance" | "pending_acceptance") {
        return ClaimOutcome::Pending;
    }
    let joined = object.get("joined").and_then(Value::as_bool);
    match text(object.get("conversationId")) {
        Some(conversation_id) => ClaimOutcome::Bound {
            conversation_id,
            invite_url: text(object.get("inviteUrl")),
            invite_slug: text(object.get("inviteSlug")),
            joined: joined.unwrap_or(joining),
        },
        // The first wrappers had no `status`.
        None if word.is_empty() && joined == Some(false) && joining => ClaimOutcome::Pending,
        None => ClaimOutcome::Unknown(format!("HTTP {} without a conversation's id", reply.status)),
    }
}

/// The error text of a runtime or wrapper: `{"error": text}`, or `{"detail": …}` of Hermes. `None`: another program's.
pub fn error_text(reply: &Reply) -> Option<String> {
    let object = reply.object()?;
    if let Some(error) = object.get("error") {
        return Some(
            error
                .as_str()
                .map_or_else(|| "an error without a text".to_owned(), str::to_owned),
        );
    }
    match object.get("detail")? {
        Value::String(detail) => Some(detail.clone()),
        // Each entry also quotes the input: only what is wrong and where.
        Value::Array(entries) => Some(
            entries
                .iter()
                .map(detail_text)
                .collect::<Vec<_>>()
                .join("; "),
        ),
        _ => Some("an error without a text".to_owned()),
    }
}

fn detail_text(entry: &Value) -> String {
    let place = entry
        .get("loc")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let place: Vec<String> = place
        .map(|p| p.as_str().map_or_else(|| p.to_string(), str::to_owned))
        .collect();
    format!(
        "{}: {}",
        place.join("."),
        entry.get("msg").and_then(Value::as_str).unwrap_or_default()
    )
}

/// A text of an agent without what the call held, and cut: tokens, instructions, invite links.
pub fn redacted(message: &str, tokens: &[Option<&SecretString>], call: &ClaimCall) -> String {
    let link = call.join_url.as_deref().unwrap_or_default();
    let slug = link.split_once("i=").map_or("", |(_, rest)| {
        rest.split(['&', '#']).next().unwrap_or_default()
    });
    let path_slug = link.rsplit('/').next().unwrap_or_default();
    let mut secrets: Vec<&str> = tokens.iter().flatten().map(|t| t.expose_secret()).collect();
    secrets.extend([call.instructions.trim(), link, slug, path_slug]);
    secrets.extend(
        call.metadata
            .iter()
            .flatten()
            .map(|(_, value)| value.as_str()),
    );
    secrets.retain(|s| s.len() >= 4);
    secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    let text = secrets
        .into_iter()
        .fold(message.to_owned(), |text, secret| {
            text.replace(secret, "[redacted]")
        });
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => text[..at].to_owned(),
        None => text,
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    value
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(status: u16, body: Value) -> Reply {
        Reply {
            status,
            content: Content::Json,
            json: Some(body),
        }
    }

    fn call() -> ClaimCall {
        ClaimCall {
            agent_name: "Ada".to_owned(),
            instructions: "Be kind to strangers".to_owned(),
            join_url: Some("https://dev.convos.org/v2?i=slug-123".to_owned()),
            profile_image: None,
            metadata: None,
            passed_through: std::collections::BTreeMap::new(),
            xmtp_env: "dev".to_owned(),
        }
    }

    #[test]
    fn content_types() {
        assert_eq!(
            Content::of(Some("application/json; charset=utf-8")),
            Content::Json
        );
        assert_eq!(Content::of(Some("Text/HTML")), Content::Html);
        assert_eq!(
            Content::of(Some("application/problem+json")),
            Content::Other
        );
        assert_eq!(Content::of(None), Content::Other);
    }

    #[test]
    fn health_of_every_generation() {
        let read = |status, body| health(&reply(status, body));
        let up = read(
            200,
            json!({"ready": true, "version": "0.3.4", "runtime": "hermes"}),
        )
        .unwrap();
        assert_eq!(
            (up.ready, up.kind.as_deref(), up.version.as_deref()),
            (true, Some("hermes"), Some("0.3.4"))
        );
        assert!(!read(200, json!({"ready": false})).unwrap().ready);
        assert!(!read(503, json!({"ready": true})).unwrap().ready);
        assert!(!read(200, json!({"ready": "true"})).unwrap().ready);
        assert_eq!(
            read(200, json!({"ready": true, "version": "unknown"}))
                .unwrap()
                .version,
            None
        );
        assert_eq!(read(200, json!({"status": "ok"})), None);
        assert_eq!(
            health(&Reply {
                status: 200,
                content: Content::Html,
                json: None
            }),
            None
        );
    }

    #[test]
    fn status_of_every_generation() {
        let read = |body| status(&reply(200, body));
        let legacy =
            read(json!({"ready": true, "conversation": {"id": "c"}, "streaming": false})).unwrap();
        assert_eq!(
            (
                legacy.conversation.as_deref(),
                legacy.clean,
                legacy.streaming
            ),
            (Some("c"), None, Some(false))
        );
        let managed =
            read(json!({"conversationId": null, "inboxId": null, "pending": false, "clean": true}))
                .unwrap();
        assert_eq!(
            (managed.ready, managed.conversation, managed.clean),
            (true, None, Some(true))
        );
        let bound = read(json!({"conversationId": "c", "pending": true, "clean": false})).unwrap();
        assert_eq!(
            (bound.conversation.as_deref(), bound.pending, bound.clean),
            (Some("c"), true, Some(false))
        );
        let early = json!({"conversationId": "", "provisionState": "idle", "dirtyReasons": [], "clean": true});
        assert_eq!(read(early).unwrap().conversation, None);
        assert_eq!(
            read(json!({"conversation": {"id": 7}}))
                .unwrap()
                .conversation,
            None
        );
        assert_eq!(
            read(json!({"pending": "yes", "clean": "no", "conversation": null}))
                .unwrap()
                .clean,
            None
        );
        assert_eq!(read(json!({"ok": true})), None);
        assert_eq!(read(json!([1])), None);
        assert_eq!(status(&reply(202, json!({"ready": true}))), None);
    }

    #[test]
    fn claims_of_every_generation() {
        let read = |body, joining| claimed(&reply(200, body), joining);
        let bound = |url: Option<&str>, slug: Option<&str>, joined| ClaimOutcome::Bound {
            conversation_id: "c".to_owned(),
            invite_url: url.map(str::to_owned),
            invite_slug: slug.map(str::to_owned),
            joined,
        };
        let gateway = json!({"conversationId": "c", "inviteUrl": "u", "inviteSlug": "s"});
        assert_eq!(read(gateway, false), bound(Some("u"), Some("s"), false));
        assert_eq!(
            read(json!({"status": "joined", "conversationId": "c"}), true),
            bound(None, None, true)
        );
        let created = json!({"ok": true, "inviteUrl": "u", "conversationId": "c", "joined": false, "status": "created"});
        assert_eq!(read(created, false), bound(Some("u"), None, false));
        assert_eq!(
            read(json!({"conversationId": "c", "joined": true}), true),
            bound(None, None, true)
        );
        for pending in [
            json!({"status": "waiting_for_acceptance"}),
            json!({"status": "pending_acceptance", "conversationId": null, "joined": false}),
            json!({"status": "pending_acceptance", "conversationId": "c"}),
            json!({"ok": true, "joined": false}),
        ] {
            assert_eq!(read(pending, true), ClaimOutcome::Pending);
        }
        for unknown in [
            json!({"ok": true}),
            json!({"conversationId": ""}),
            json!({"conversationId": 5}),
            json!([]),
        ] {
            assert!(matches!(read(unknown, false), ClaimOutcome::Unknown(_)));
        }
        assert!(matches!(
            read(json!({"ok": true, "joined": false}), false),
            ClaimOutcome::Unknown(_)
        ));
    }

    #[test]
    fn texts_carry_no_secret() {
        let token = SecretString::from("token-1234");
        let message = "join https://dev.convos.org/v2?i=slug-123 (slug-123) with token-1234: Be kind to strangers!";
        assert_eq!(
            redacted(message, &[Some(&token), None], &call()),
            "join [redacted] ([redacted]) with [redacted]: [redacted]!"
        );
        assert_eq!(
            redacted(&"ö".repeat(4000), &[], &call()).chars().count(),
            TEXT_MAX
        );
        let hermes = json!({"detail": [{"loc": ["body", "name"], "msg": "bad", "input": "Be kind to strangers"}]});
        assert_eq!(error_text(&reply(422, hermes)).unwrap(), "body.name: bad");
        assert_eq!(
            error_text(&reply(500, json!({"status": "error", "code": 500}))),
            None
        );
    }
}
