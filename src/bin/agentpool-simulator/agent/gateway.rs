//! Dialect `gateway`: the OpenClaw gateway with the first plugin answers itself (runtime.md 3).

use crate::agent::answer::control_ui;
use crate::agent::edge::bad_gateway;
use crate::agent::model::Agent;
use crate::agent::runtime;
use crate::peers::{Reply, Request};
use crate::world::Sim;
use serde_json::{Value, json};
use std::sync::Arc;

/// The plugin's routes with their methods.
const ROUTES: &[(&str, &str)] = &[
    ("/convos/status", "GET"),
    ("/convos/conversation", "POST"),
    ("/convos/join", "POST"),
    ("/convos/conversation/send", "POST"),
    ("/convos/rename", "POST"),
    ("/convos/lock", "POST"),
    ("/convos/explode", "POST"),
    ("/convos/setup", "POST"),
    ("/convos/setup/status", "GET"),
    ("/convos/setup/complete", "POST"),
    ("/convos/setup/cancel", "POST"),
    ("/convos/reset", "POST"),
];

/// Answers one request.
pub async fn answer(sim: &Arc<Sim>, id: &str, request: &Request) -> Reply {
    let now = sim.clock.now();
    let Some(agent) = sim.world().agents.all.get(id).cloned() else {
        return bad_gateway();
    };
    let route = ROUTES.iter().find(|(path, _)| *path == request.path());
    let Some((path, method)) = route.filter(|_| now >= agent.convos_up()) else {
        return unknown(&request.method);
    };
    if request.method != *method {
        return Reply::json(405, &json!({"error": "Method Not Allowed"}));
    }
    if !is_authorized(sim, id, &agent, request) {
        return Reply::json(401, &json!({"error": "Unauthorized"}));
    }
    match *path {
        "/convos/status" => status(sim, id).await,
        "/convos/conversation" => reply(runtime::create(sim, id, &request.body).await),
        "/convos/join" => reply(runtime::join(sim, id, &request.body).await),
        "/convos/reset" | "/convos/setup" => setup(sim, id).await,
        other => in_conversation(sim, id, other, &request.body),
    }
}

/// A runtime's answer on the wire.
pub fn reply((status, body): runtime::Answer) -> Reply {
    if status == 0 {
        Reply::Reset
    } else {
        Reply::json(status, &body)
    }
}

/// Anything that is no route: the Control UI, or 405.
pub fn unknown(method: &str) -> Reply {
    if method == "GET" || method == "HEAD" {
        control_ui()
    } else {
        Reply::text(405, "Method Not Allowed")
    }
}

/// The whole header, byte by byte; no token set: open to all.
pub fn is_authorized(sim: &Sim, id: &str, agent: &Agent, request: &Request) -> bool {
    let now = sim.clock.now();
    let given = request.header("authorization");
    let fault = {
        let mut world = sim.world();
        let world = &mut *world;
        world.agents.fault(id, "unauthorized", now, &mut world.rng)
    };
    let shared = fault
        .as_ref()
        .map(|f| f["sharedKey"].as_str().unwrap_or_default().to_owned());
    let wanted = match &shared {
        Some(key) if key.is_empty() => return false,
        Some(key) => Some(key.as_str()),
        None => agent.token(),
    };
    wanted.is_none_or(|token| given == Some(&format!("Bearer {token}")))
}

async fn status(sim: &Sim, id: &str) -> Reply {
    let now = sim.clock.now();
    let (body, takes) = {
        let mut world = sim.world();
        let world = &mut *world;
        let (agents, rng) = (&mut world.agents, &mut world.rng);
        let takes = agents.latency(id, "status", rng);
        let wrong = agents.fault(id, "wrongConversation", now, rng).is_some();
        let forced = agents.fault(id, "alreadyBound", now, rng).is_some();
        let down = agents.fault(id, "streamDown", now, rng).is_some();
        let bound = agents
            .all
            .get(id)
            .and_then(|a| a.bound.as_ref())
            .map(|b| b.id.clone());
        let shown = if wrong || (forced && bound.is_none()) {
            Some(rng.hex(32))
        } else {
            bound
        };
        let streaming = shown.is_some() && !down;
        (
            json!({"ready": true, "conversation": shown.map(|id| json!({"id": id})), "streaming": streaming}),
            takes,
        )
    };
    sim.clock.sleep(takes).await;
    Reply::json(200, &body)
}

/// `setup`, and `reset`, which is `setup` with force: one more conversation, and nothing is unbound.
async fn setup(sim: &Sim, id: &str) -> Reply {
    let takes = {
        let mut world = sim.world();
        let world = &mut *world;
        world.agents.latency(id, "create", &mut world.rng)
    };
    sim.clock.sleep(takes).await;
    let now = sim.clock.now();
    let mut world = sim.world();
    let (slug, conversation) = (world.rng.slug(), world.rng.hex(32));
    let Some(agent) = world.agents.all.get_mut(id) else {
        return bad_gateway();
    };
    agent.dirty = true;
    let account = agent.account.clone();
    let account = world.ledger.account(&account);
    account.resets += 1;
    account
        .conversations
        .push(json!({"id": conversation, "atMs": now, "by": "setup or reset"}));
    let body = json!({
        "inviteUrl": format!("https://dev.convos.org/v2?i={slug}"), "conversationId": conversation,
        "qrDataUrl": "data:image/png;base64,",
    });
    Reply::json(200, &body)
}

/// Routes that need a bound conversation.
pub fn in_conversation(sim: &Sim, id: &str, path: &str, raw: &[u8]) -> Reply {
    let body: Value = serde_json::from_slice(raw).unwrap_or_default();
    let mut world = sim.world();
    let message = world.rng.hex(64);
    let Some(agent) = world.agents.all.get_mut(id) else {
        return bad_gateway();
    };
    if path.starts_with("/convos/setup/") {
        return match path {
            "/convos/setup/status" => Reply::json(
                200,
                &json!({"active": false, "joined": false, "joinerInboxId": null}),
            ),
            _ => Reply::json(400, &json!({"error": "No setup active"})),
        };
    }
    let missing = match path {
        "/convos/conversation/send" => body["message"].as_str().is_none_or(str::is_empty),
        "/convos/rename" => body["name"].as_str().is_none_or(str::is_empty),
        _ => false,
    };
    if agent.bound.is_none() || missing {
        return Reply::json(
            400,
            &json!({"error": "No active conversation, or a field is missing"}),
        );
    }
    match path {
        "/convos/conversation/send" => {
            Reply::json(200, &json!({"success": true, "messageId": message}))
        }
        "/convos/rename" => Reply::json(200, &json!({"ok": true})),
        "/convos/lock" => Reply::json(
            200,
            &json!({"ok": true, "locked": body["unlock"] != json!(true)}),
        ),
        _ => {
            agent.bound = None;
            agent.dirty = true;
            Reply::json(200, &json!({"ok": true, "exploded": true}))
        }
    }
}
