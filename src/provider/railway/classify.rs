//! What an answer of Railway means: the table of its errors, first match wins.
//!
//! Pure. The HTTP status carries almost nothing (not-found, conflict and refusals are 200), so the message decides,
//! without regard to letter case; `extensions.code` comes second. Facts and exact messages: probes of the live
//! interface, September and October 2026.

use std::time::Duration;

use crate::api::condition::Reason;
use crate::provider::{Class, ProviderError};

use super::wire::GraphqlError;

/// Whether a request changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It does not: may be repeated.
    Read,
    /// It does: never repeated here.
    Write,
}

/// What an answer means, in the words of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No answer, or none that says anything: a write may have happened.
    Unknown,
    /// 429 of the interface: did not run.
    RateLimited,
    /// Held back by ourselves for what is more urgent: was not sent.
    Reserved,
    /// 429 or 403 of the edge, as a page: did not run; the whole host waits.
    EdgeBlocked,
    /// The token is refused.
    Auth,
    /// Our document is at fault.
    Bug,
    /// Too soon after the last one of its kind; did not run.
    Cooldown(Duration),
    /// The name is taken.
    Exists,
    /// The input is at fault.
    Invalid,
    /// It does not exist.
    NotFound,
    /// `Not Authorized`: refused, **or** the id does not exist (any more).
    Denied,
    /// Something else is under way there; did not run.
    Busy,
    /// Passing trouble inside; a write may have happened.
    Transient,
    /// The plan's limit.
    Quota,
    /// Not possible in the resource's state.
    State,
    /// There was nothing to change: success.
    NoChange,
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
        let retry_after = if let Kind::Cooldown(after) = kind {
            Some(after)
        } else {
            None
        };
        Self {
            kind,
            message: message.into(),
            retry_after,
        }
    }

    /// As an error of the provider.
    pub fn into_error(self, access: Access, doing: impl Into<String>) -> ProviderError {
        let (class, reason) = class(self.kind, access);
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
pub fn class(kind: Kind, access: Access) -> (Class, Reason) {
    match (kind, access) {
        (Kind::Unknown | Kind::Transient, Access::Read) => {
            (Class::Transient, Reason::ProviderUnavailable)
        }
        (Kind::Unknown | Kind::Transient, Access::Write) => {
            (Class::Ambiguous, Reason::OutcomeUnknown)
        }
        (Kind::Busy, _) => (Class::Transient, Reason::ProviderUnavailable),
        (Kind::RateLimited | Kind::EdgeBlocked, _) => (Class::Throttled, Reason::RateLimited),
        (Kind::Cooldown(_), _) => (Class::Throttled, Reason::CoolingDown),
        (Kind::Reserved, _) => (Class::Throttled, Reason::QuotaReserved),
        (Kind::Auth | Kind::Denied, _) => (Class::Unauthorized, Reason::CredentialsInvalid),
        (Kind::Quota, _) => (Class::Capacity, Reason::CapacityExceeded),
        (Kind::Bug, _) => (Class::Rejected, Reason::InternalError),
        (Kind::Invalid | Kind::Exists | Kind::State | Kind::NoChange, _) => {
            (Class::Rejected, Reason::Rejected)
        }
        (Kind::NotFound, _) => (Class::Gone, Reason::Gone),
    }
}

/// What of an answer is looked at before its JSON is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// The HTTP status.
    pub status: u16,
    /// The body is a JSON object.
    pub json: bool,
    /// A `Retry-After` is there.
    pub retry_after: bool,
    /// The body is a page: the edge, not the interface.
    pub html: bool,
}

/// Rows 2 to 5: what the transport says by itself; `None`: look into the JSON.
pub fn of_head(head: Head) -> Option<Kind> {
    match head.status {
        429 if head.json || head.retry_after => Some(Kind::RateLimited),
        429 => Some(Kind::EdgeBlocked),
        500.. => Some(Kind::Unknown),
        403 if head.html => Some(Kind::EdgeBlocked),
        401 | 403 => Some(Kind::Auth),
        _ if !head.json => Some(Kind::Unknown),
        _ => None,
    }
}

/// Rows 6 to 18 and 20: what an entry of `errors` means.
pub fn of_error(status: u16, error: &GraphqlError) -> Kind {
    let code = error
        .extensions
        .as_ref()
        .and_then(|e| e.code.as_deref())
        .unwrap_or_default();
    if matches!(code, "GRAPHQL_PARSE_FAILED" | "GRAPHQL_VALIDATION_FAILED") {
        return Kind::Bug;
    }
    let by_message = of_message(error.message.trim(), code);
    match by_message {
        Some(kind) => kind,
        None if status == 400 => Kind::Bug,
        None => Kind::Transient,
    }
}

fn of_message(message: &str, code: &str) -> Option<Kind> {
    let text = message.to_lowercase();
    let has = |needle: &str| text.contains(needle);
    let end = text.trim_end_matches(['.', '!', ' ']);
    if has("too quickly")
        || has("every 30s")
        || has("per 30 seconds")
        || cooldown_seconds(&text).is_some()
    {
        let seconds = cooldown_seconds(&text).unwrap_or(30);
        return Some(Kind::Cooldown(Duration::from_secs(seconds)));
    }
    let kind = if has("already exists in this project") || has("already in use") {
        Kind::Exists
    } else if has("project token not found") {
        Kind::Auth
    } else if has("commit not found") {
        Kind::Invalid
    } else if end.ends_with("not found") || has("could not find ") {
        Kind::NotFound
    } else if has("not authorized") {
        Kind::Denied
    } else if has("cannot redeploy yet") || has("operation is already in progress") {
        Kind::Busy
    } else if has("problem processing request")
        || has("failed to create service domain, please try again")
        || has("failed to create deployment")
    {
        Kind::Transient
    } else if has("provision limit exceeded") || has("please upgrade") {
        Kind::Quota
    } else if has("not stoppable") || has("not restartable") || has("without a snapshot") {
        Kind::State
    } else if has("no patch to apply") || has("no patch to commit") {
        Kind::NoChange
    } else if code == "BAD_USER_INPUT"
        || has("invalid input")
        || has("is not a valid")
        || has("invalid project name")
    {
        Kind::Invalid
    } else if has("two factor authentication required") {
        Kind::Auth
    } else {
        return None;
    };
    Some(kind)
}

/// `N` of `every Ns` and `per N seconds`.
fn cooldown_seconds(text: &str) -> Option<u64> {
    let number = |after: &str, unit: &str| {
        text.match_indices(after).find_map(|(at, _)| {
            let rest = &text[at + after.len()..];
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            rest[digits..]
                .starts_with(unit)
                .then(|| rest[..digits].parse().ok())
                .flatten()
        })
    };
    number("every ", "s").or_else(|| number("per ", " seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::railway::wire::Extensions;

    fn error(message: &str, code: &str) -> GraphqlError {
        let extensions = Some(Extensions {
            code: Some(code.to_owned()),
            trace_id: None,
        });
        GraphqlError {
            message: message.to_owned(),
            extensions,
            trace_id: None,
        }
    }

    /// Every message that was seen on the live interface, and the letter-case and prefix variants.
    #[test]
    fn known_messages() {
        let s = |n| Kind::Cooldown(Duration::from_secs(n));
        let internal = "INTERNAL_SERVER_ERROR";
        for (message, code, want) in [
            ("Not Authorized", internal, Kind::Denied),
            ("not authorized", "", Kind::Denied),
            ("Project Token not found", internal, Kind::Auth),
            ("Project not found", internal, Kind::NotFound),
            ("Environment not found", internal, Kind::NotFound),
            ("Service not found", internal, Kind::NotFound),
            ("ServiceInstance not found", internal, Kind::NotFound),
            ("Deployment not found", internal, Kind::NotFound),
            ("VolumeInstance not found", internal, Kind::NotFound),
            ("NotificationRule not found", internal, Kind::NotFound),
            ("Could not find volume", internal, Kind::NotFound),
            (
                "input:3: serviceDelete Service not found",
                internal,
                Kind::NotFound,
            ),
            (
                r#"A service named "w-1" already exists in this project"#,
                "BAD_USER_INPUT",
                Kind::Exists,
            ),
            (
                r#"input:3: serviceCreate A service named "a" already exists in this project"#,
                internal,
                Kind::Exists,
            ),
            ("Domain is already in use", internal, Kind::Exists),
            (
                "Error in numReplicas - Invalid input",
                "BAD_USER_INPUT",
                Kind::Invalid,
            ),
            (
                "Error in numReplicas - Invalid input",
                internal,
                Kind::Invalid,
            ),
            (
                "Error in preDeployCommand - Invalid input",
                internal,
                Kind::Invalid,
            ),
            ("x is not a valid y", internal, Kind::Invalid),
            ("Deployment is not stoppable", "BAD_USER_INPUT", Kind::State),
            (
                "Deployment is not restartable",
                "BAD_USER_INPUT",
                Kind::State,
            ),
            (
                "Cannot redeploy yet, please wait for the original deployment to finish building, then try again.",
                internal,
                Kind::Busy,
            ),
            ("An operation is already in progress", internal, Kind::Busy),
            ("Cannot redeploy without a snapshot", internal, Kind::State),
            ("Commit not found", internal, Kind::Invalid),
            (
                "Only one project can be created per user every 30s",
                internal,
                s(30),
            ),
            (
                "Whoa there pal! You are creating projects too quickly",
                internal,
                s(30),
            ),
            ("Whoa there pal! 1 project per 30 seconds", internal, s(30)),
            ("Only one per user every 45s", internal, s(45)),
            (
                "Whoa there pal! You are creating volumes too quickly. Try again in a sec",
                internal,
                s(30),
            ),
            (
                "Free plan resource provision limit exceeded. Please upgrade to provision more resources!",
                internal,
                Kind::Quota,
            ),
            (
                "Failed to create service domain, please try again",
                internal,
                Kind::Transient,
            ),
            ("Failed to create deployment", internal, Kind::Transient),
            ("Problem processing request", internal, Kind::Transient),
            ("Invalid project name", internal, Kind::Invalid),
            ("Two Factor Authentication Required", internal, Kind::Auth),
            ("No patch to apply", "BAD_USER_INPUT", Kind::NoChange),
            ("No patch to commit", internal, Kind::NoChange),
            (
                r#"Cannot query field "x" on type "Query"."#,
                "GRAPHQL_VALIDATION_FAILED",
                Kind::Bug,
            ),
            ("Syntax Error", "GRAPHQL_PARSE_FAILED", Kind::Bug),
            ("Something nobody has seen", internal, Kind::Transient),
            ("anything", "BAD_USER_INPUT", Kind::Invalid),
        ] {
            assert_eq!(of_error(200, &error(message, code)), want, "{message}");
        }
        assert_eq!(of_error(400, &error("no idea", "")), Kind::Bug);
        assert_eq!(of_error(400, &error("Not Authorized", "")), Kind::Denied);
    }

    #[test]
    fn heads() {
        let head = |status, json, retry_after, html| {
            of_head(Head {
                status,
                json,
                retry_after,
                html,
            })
        };
        assert_eq!(head(200, true, false, false), None);
        assert_eq!(head(400, true, false, false), None);
        assert_eq!(head(200, false, false, true), Some(Kind::Unknown));
        assert_eq!(head(429, true, false, false), Some(Kind::RateLimited));
        assert_eq!(head(429, false, true, false), Some(Kind::RateLimited));
        assert_eq!(head(429, false, false, true), Some(Kind::EdgeBlocked));
        assert_eq!(head(429, false, false, false), Some(Kind::EdgeBlocked));
        assert_eq!(head(502, false, false, true), Some(Kind::Unknown));
        assert_eq!(head(524, true, false, false), Some(Kind::Unknown));
        assert_eq!(head(401, true, false, false), Some(Kind::Auth));
        assert_eq!(head(403, true, false, false), Some(Kind::Auth));
        assert_eq!(head(403, false, false, true), Some(Kind::EdgeBlocked));
        assert_eq!(head(404, false, false, true), Some(Kind::Unknown));
        assert_eq!(head(301, false, false, false), Some(Kind::Unknown));
    }

    #[test]
    fn a_write_without_an_answer_is_ambiguous_and_a_read_is_not() {
        for kind in [Kind::Unknown, Kind::Transient] {
            assert_eq!(class(kind, Access::Write).0, Class::Ambiguous);
            assert_eq!(class(kind, Access::Read).0, Class::Transient);
        }
        assert_eq!(class(Kind::RateLimited, Access::Write).0, Class::Throttled);
        assert_eq!(class(Kind::Busy, Access::Write).0, Class::Transient);
        assert_eq!(class(Kind::NotFound, Access::Read).0, Class::Gone);
    }
}
