//! Dialect Gateway: the gateway itself answers. This file knows its three routes and no other: the gateway's own way
//! to "reset" makes one more conversation.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::domain::agent::ClaimCall;

/// What an agent is bound to.
pub const STATUS: &str = "/convos/status";
/// Makes a conversation.
pub const CREATE: &str = "/convos/conversation";
/// Joins one.
pub const JOIN: &str = "/convos/join";

/// A creation takes a few seconds; it waits for a program and has no limit of its own.
const CREATE_LIMIT: Duration = Duration::from_secs(30);

/// Path, body and time limit of a claim.
pub fn claim(call: &ClaimCall, limit: Duration) -> (&'static str, Value, Duration) {
    let mut body = Map::new();
    let mut put = |key: &str, value: &str| body.insert(key.to_owned(), value.into());
    put("profileName", &call.agent_name);
    if !call.instructions.is_empty() {
        put("instructions", &call.instructions);
    }
    // Without it the gateway takes production.
    put("env", &call.xmtp_env);
    let (path, limit) = match &call.join_url {
        Some(url) => {
            put("inviteUrl", url);
            (JOIN, limit)
        }
        None => {
            put("name", &call.agent_name);
            (CREATE, limit.min(CREATE_LIMIT))
        }
    };
    super::pass_through(&mut body, call);
    (path, json!(body), limit)
}
