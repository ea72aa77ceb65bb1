//! Dialect PoolServer: a wrapper with `/pool/*` in front of the runtime.

use serde_json::{Map, Value, json};

use crate::domain::agent::ClaimCall;

use super::wire::{Reply, error_text};

/// Up or not. Exactly this: with a query it goes to the runtime instead.
pub const HEALTH: &str = "/pool/health";
/// Creates or joins, with up to 30 attempts of its own.
pub const PROVISION: &str = "/pool/provision";
/// Forgets the conversation and what belongs to it; answered by the runtime behind the wrapper.
pub const RESET: &str = "/convos/reset";

/// Path and body of a claim. The network is not among it: the runtime's own variable rules.
pub fn claim(call: &ClaimCall) -> (&'static str, Value) {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("agentName", call.agent_name.as_str().into());
    put("instructions", call.instructions.as_str().into());
    if let Some(url) = &call.join_url {
        put("joinUrl", url.as_str().into());
    }
    if let Some(image) = &call.profile_image {
        put("profileImage", image.as_str().into());
    }
    if let Some(metadata) = &call.metadata {
        put("metadata", json!(metadata));
    }
    super::pass_through(&mut body, call);
    (PROVISION, json!(body))
}

/// Whether a 503 is the wrapper's own `{"error": "Runtime not ready yet"}`, so that nothing was done. A proxy's 503
/// says nothing of the kind and leaves everything open.
pub fn is_not_ready(reply: &Reply) -> bool {
    let ready = |text: String| text.to_lowercase().contains("not ready");
    reply.status == 503 && error_text(reply).is_some_and(ready)
}
