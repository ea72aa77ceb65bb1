//! The managed runtime behind the wrapper: `/convos/*` with `clean` (runtime.md 4.7, 8).

use crate::agent::edge::bad_gateway;
use crate::agent::gateway::{in_conversation, is_authorized, reply, unknown};
use crate::agent::model::{Agent, Join, Kind};
use crate::agent::runtime;
use crate::clock::Ms;
use crate::peers::{Reply, Request};
use crate::world::Sim;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers what the wrapper forwards.
pub async fn answer(sim: &Arc<Sim>, id: &str, agent: &Agent, request: &Request) -> Reply {
    let now = sim.clock.now();
    let hermes = agent.kind == Kind::Hermes;
    let method = match request.path() {
        "/convos/status" => "GET",
        "/convos/conversation"
        | "/convos/join"
        | "/convos/reset"
        | "/convos/conversation/send"
        | "/convos/rename"
        | "/convos/lock"
        | "/convos/explode"
        | "/convos/notify" => "POST",
        _ => "",
    };
    if method.is_empty() || now < agent.convos_up() {
        return if hermes {
            Reply::json(404, &json!({"detail": "Not Found"}))
        } else {
            unknown(&request.method)
        };
    }
    if request.method != method {
        let body = if hermes {
            json!({"detail": "Method Not Allowed"})
        } else {
            json!({"error": "Method Not Allowed"})
        };
        return Reply::json(405, &body);
    }
    if !is_authorized(sim, id, agent, request) {
        let body = if hermes {
            json!({"detail": "Unauthorized"})
        } else {
            json!({"error": "Unauthorized"})
        };
        return Reply::json(401, &body);
    }
    match request.path() {
        "/convos/status" => status(sim, id).await,
        "/convos/conversation" => reply(shaped(
            runtime::create(sim, id, &request.body).await,
            agent.kind,
        )),
        "/convos/join" => reply(shaped(
            runtime::join(sim, id, &request.body).await,
            agent.kind,
        )),
        "/convos/reset" => reset(sim, id).await,
        "/convos/notify" => Reply::json(200, &json!({"ok": true})),
        path => in_conversation(sim, id, path, &request.body),
    }
}

/// Hermes says `detail` where OpenClaw says `error`.
fn shaped((status, body): runtime::Answer, kind: Kind) -> runtime::Answer {
    match body.get("error") {
        Some(error) if kind == Kind::Hermes => (status, json!({"detail": error})),
        _ => (status, body),
    }
}

/// The body of `/convos/status`.
fn status_body(sim: &Sim, id: &str) -> Value {
    let now = sim.clock.now();
    let mut world = sim.world();
    let world = &mut *world;
    let (agents, rng) = (&mut world.agents, &mut world.rng);
    let wrong = agents.fault(id, "wrongConversation", now, rng).is_some();
    let forced = agents.fault(id, "alreadyBound", now, rng).is_some();
    let dirty = agents.fault(id, "dirty", now, rng).is_some();
    let Some(agent) = agents.all.get(id) else {
        return Value::Null;
    };
    let mut shown = agent.bound.clone().map(|b| (b.id, b.inbox));
    if wrong || (forced && shown.is_none()) {
        shown = Some((rng.hex(32), rng.hex(64)));
    }
    let pending = agent.join == Join::Pending && agent.kind == Kind::Hermes;
    let clean = agent.is_clean() && shown.is_none() && !dirty;
    let (conversation, inbox) = shown.unzip();
    json!({"conversationId": conversation, "inboxId": inbox, "pending": pending, "clean": clean})
}

async fn status(sim: &Sim, id: &str) -> Reply {
    let takes = latency(sim, id, "status");
    sim.clock.sleep(takes).await;
    Reply::json(200, &status_body(sim, id))
}

fn latency(sim: &Sim, id: &str, knob: &str) -> Ms {
    let mut world = sim.world();
    let world = &mut *world;
    world.agents.latency(id, knob, &mut world.rng)
}

fn fires(sim: &Sim, id: &str, kind: &str) -> Option<Value> {
    let now = sim.clock.now();
    let mut world = sim.world();
    let world = &mut *world;
    world.agents.fault(id, kind, now, &mut world.rng)
}

/// Wipes; does not end the process and does not call off a running create or join.
async fn reset(sim: &Arc<Sim>, id: &str) -> Reply {
    {
        let mut world = sim.world();
        let account = world.agents.all.get(id).map(|a| a.account.clone());
        if let Some(account) = account {
            world.ledger.account(&account).resets += 1;
        }
    }
    if fires(sim, id, "resetHang").is_some() {
        return Reply::Hang;
    }
    if fires(sim, id, "reset500").is_some() {
        return Reply::json(500, &json!({"error": "simulated failure of the reset"}));
    }
    let takes = latency(sim, id, "reset");
    sim.clock.sleep(takes).await;
    let stays_dirty = fires(sim, id, "dirtyAfterReset").is_some();
    {
        let mut world = sim.world();
        let Some(agent) = world.agents.all.get_mut(id) else {
            return bad_gateway();
        };
        agent.forget();
        agent.dirty = stays_dirty;
        let account = agent.account.clone();
        world.agents.disks.remove(&account);
    }
    if let Some(late) = fires(sim, id, "lateBind") {
        let (task_sim, id) = (sim.clone(), id.to_owned());
        let after = (late["seconds"].as_f64().unwrap_or(30.0) * 1000.0) as Ms;
        sim.spawn(async move {
            task_sim.clock.sleep(after).await;
            runtime::create(&task_sim, &id, b"{}").await
        });
    }
    Reply::json(
        200,
        &json!({"ok": true, "reset": true, "status": status_body(sim, id)}),
    )
}
