//! Dialect `pool-server`: the wrapper, with its real loop of 30 attempts (runtime.md 4).

use crate::agent::edge::bad_gateway;
use crate::agent::gateway::is_authorized;
use crate::agent::model::Agent;
use crate::agent::{callbacks, managed, runtime};
use crate::clock::{Ms, NEVER};
use crate::peers::{Reply, Request};
use crate::world::Sim;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const CREATE_LIMIT: Ms = 10_000;
const JOIN_LIMIT: Ms = 65_000;
const PAUSE: Ms = 1_000;

/// Answers one request: the wrapper's own routes by exact path, all else forwarded.
pub async fn answer(sim: &Arc<Sim>, id: &str, request: &Request) -> Reply {
    let Some(agent) = sim.world().agents.all.get(id).cloned() else {
        return bad_gateway();
    };
    match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/pool/health") => health(sim, id),
        ("POST", "/pool/provision") => provision(sim, id, &agent, request).await,
        ("POST", "/pool/restart" | "/pool/restart-gateway") => {
            restart(sim, id, &agent, request).await
        }
        ("POST", "/pool/self-destruct") => self_destruct(sim, id, &agent, request).await,
        _ => forward(sim, id, &agent, request).await,
    }
}

async fn forward(sim: &Arc<Sim>, id: &str, agent: &Agent, request: &Request) -> Reply {
    if sim.clock.now() < agent.runtime_up() {
        return Reply::json(502, &json!({"error": "Runtime unavailable"}));
    }
    match managed::answer(sim, id, agent, request).await {
        // The runtime broke off before its headers; the wrapper itself may live on.
        Reply::Reset => Reply::json(502, &json!({"error": "Runtime unavailable"})),
        reply => reply,
    }
}

fn health(sim: &Sim, id: &str) -> Reply {
    let now = sim.clock.now();
    let mut world = sim.world();
    let world = &mut *world;
    let (agents, rng) = (&mut world.agents, &mut world.rng);
    let flapping = agents.fault(id, "flappingHealth", now, rng).is_some();
    let wrong_kind = agents.fault(id, "wrongKind", now, rng).is_some();
    let version = agents
        .fault(id, "versionChanges", now, rng)
        .map(|f| f["version"].as_str().unwrap_or("9.9.9").to_owned());
    let Some(agent) = agents.all.get_mut(id) else {
        return bad_gateway();
    };
    agent.convos_ready |= now >= agent.convos_up();
    agent.flap = !agent.flap;
    let up = now >= agent.seen_ready() || now < agent.still_ready_until;
    let ready = (agent.convos_ready || now < agent.still_ready_until) && !(flapping && agent.flap);
    if !up {
        return Reply::json(503, &json!({"ready": false}));
    }
    let kind = if wrong_kind && agent.kind.name() == "openclaw" {
        "hermes"
    } else if wrong_kind {
        "openclaw"
    } else {
        agent.kind.name()
    };
    let version = version.unwrap_or_else(|| agent.version.clone());
    Reply::json(
        if ready { 200 } else { 503 },
        &json!({"ready": ready, "version": version, "runtime": kind}),
    )
}

/// Any letter case of `Bearer`, any white space.
fn is_allowed(sim: &Sim, id: &str, agent: &Agent, request: &Request) -> bool {
    if is_authorized(sim, id, agent, request) && agent.token().is_some() {
        return true;
    }
    let header = request.header("authorization").unwrap_or_default().trim();
    let split = header.split_once(char::is_whitespace);
    let loose = split.is_some_and(|(scheme, token)| {
        scheme.eq_ignore_ascii_case("bearer") && Some(token.trim()) == agent.token()
    });
    // Under the fault `unauthorized` the loose form does not help either.
    loose && !header.starts_with("Bearer ")
}

fn bad_request(why: &str) -> Reply {
    Reply::json(400, &json!({"error": why}))
}

/// An own POST route's body: an object, or the reply. `null` kills the process.
fn own_body(sim: &Sim, id: &str, raw: &[u8]) -> Result<Map<String, Value>, Reply> {
    let raw = if raw.is_empty() { b"{}" } else { raw };
    match serde_json::from_slice::<Value>(raw) {
        Err(_) => Err(bad_request("Invalid JSON body")),
        Ok(Value::Null) => {
            runtime::die(sim, id, 1);
            Err(Reply::Reset)
        }
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Ok(Map::new()),
    }
}

async fn provision(sim: &Arc<Sim>, id: &str, agent: &Agent, request: &Request) -> Reply {
    if !is_allowed(sim, id, agent, request) {
        return Reply::json(401, &json!({"error": "Unauthorized"}));
    }
    let body = match own_body(sim, id, &request.body) {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    for field in ["agentName", "instructions"] {
        if body
            .get(field)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            return bad_request(&format!("{field} (string) is required"));
        }
    }
    if sim.clock.now() < agent.seen_ready() {
        return Reply::json(503, &json!({"error": "Runtime not ready yet"}));
    }
    attempts(sim, id, agent.generation, &body).await
}

/// The loop: it belongs to the wrapper's process, so neither hang-up nor reset nor restart of the
/// runtime ends it.
async fn attempts(sim: &Arc<Sim>, id: &str, generation: u64, body: &Map<String, Value>) -> Reply {
    let join_url = body
        .get("joinUrl")
        .and_then(Value::as_str)
        .filter(|u| !u.is_empty());
    let (what, limit) = if join_url.is_some() {
        ("join", JOIN_LIMIT)
    } else {
        ("invite", CREATE_LIMIT)
    };
    let inner = inner_body(body, join_url);
    let most = {
        let mut world = sim.world();
        let world = &mut *world;
        world.agents.latency(id, "attempts", &mut world.rng).max(1)
    };
    let mut last = String::new();
    for attempt in 1..=most {
        let same = sim
            .world()
            .agents
            .all
            .get(id)
            .is_some_and(|a| a.alive && a.generation == generation);
        if !same {
            return Reply::Reset;
        }
        match attempt_once(sim, id, &inner, join_url.is_some(), limit).await {
            Ok(answer) => return Reply::json(200, &outcome(&answer, join_url)),
            Err(why) => last = why,
        }
        if attempt < most {
            sim.clock.sleep(PAUSE).await;
        }
    }
    Reply::json(
        500,
        &json!({"error": format!("Convos {what} failed after {most} attempts: {last}")}),
    )
}

fn inner_body(body: &Map<String, Value>, join_url: Option<&str>) -> Vec<u8> {
    let mut inner = json!({
        "name": body.get("agentName"), "profileName": body.get("agentName"),
        "instructions": body.get("instructions"), "profileImage": body.get("profileImage"),
    });
    if let Some(url) = join_url {
        inner["inviteUrl"] = url.into();
        inner["metadata"] = body.get("metadata").cloned().unwrap_or_default();
    }
    inner.to_string().into_bytes()
}

async fn attempt_once(
    sim: &Arc<Sim>,
    id: &str,
    inner: &[u8],
    join: bool,
    limit: Ms,
) -> Result<Value, String> {
    let path = if join {
        "/convos/join"
    } else {
        "/convos/conversation"
    };
    let child = sim.world().agents.all.get(id).cloned();
    let up = child.is_some_and(|a| sim.clock.now() >= a.convos_up());
    if !up {
        return Err("fetch failed".to_owned());
    }
    // The runtime goes on when the wrapper has given up on it.
    let (task_sim, task_id, inner) = (sim.clone(), id.to_owned(), inner.to_vec());
    let work = sim.spawn(async move {
        if join {
            runtime::join(&task_sim, &task_id, &inner).await
        } else {
            runtime::create(&task_sim, &task_id, &inner).await
        }
    });
    match sim.clock.timeout(limit, work).await {
        None => Err("The operation was aborted due to timeout".to_owned()),
        Some(Ok((200, answer))) => Ok(answer),
        Some(Ok((0, _)) | Err(_)) => Err("fetch failed".to_owned()),
        Some(Ok((status, answer))) => Err(format!("{path} returned {status}: {answer}")),
    }
}

fn outcome(answer: &Value, join_url: Option<&str>) -> Value {
    let id = &answer["conversationId"];
    match join_url {
        None => {
            json!({"ok": true, "inviteUrl": answer["inviteUrl"], "conversationId": id, "joined": false, "status": "created"})
        }
        Some(url) if id.is_string() => {
            json!({"ok": true, "inviteUrl": url, "conversationId": id, "joined": true, "status": "joined"})
        }
        Some(url) => {
            json!({"ok": true, "inviteUrl": url, "conversationId": null, "joined": false, "status": "pending_acceptance"})
        }
    }
}

/// Kills the runtime and starts another; health goes on saying ready for a while.
async fn restart(sim: &Arc<Sim>, id: &str, agent: &Agent, request: &Request) -> Reply {
    if !is_allowed(sim, id, agent, request) {
        return Reply::json(401, &json!({"error": "Unauthorized"}));
    }
    let body = match own_body(sim, id, &request.body) {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let now = sim.clock.now();
    let (child, ready) = {
        let mut world = sim.world();
        let world = &mut *world;
        let pause = world.agents.latency(id, "restart", &mut world.rng);
        let (boot, load) = {
            let (agents, rng) = (&world.agents, &mut world.rng);
            (
                agents.latency(id, "boot", rng),
                agents.latency(id, "convosLoad", rng),
            )
        };
        let Some(agent) = world.agents.all.get_mut(id) else {
            return bad_gateway();
        };
        if now < agent.child_started {
            // A second restart during the first is never answered.
            return Reply::Hang;
        }
        for (name, value) in body
            .get("env")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if let Some(value) = value.as_str().filter(|_| name != "GATEWAY_TOKEN") {
                agent.vars.insert(name.clone(), value.to_owned());
            }
        }
        let was_ready = agent.convos_ready;
        agent.begin_child(now + pause, boot, load);
        agent.still_ready_until = if was_ready { now + pause } else { 0 };
        world.ledger.account(&agent.account).restarts += 1;
        (agent.child, agent.seen_ready())
    };
    if ready >= NEVER {
        return Reply::Hang;
    }
    sim.clock.sleep_until(ready).await;
    let same = sim
        .world()
        .agents
        .all
        .get(id)
        .is_some_and(|a| a.alive && a.child == child);
    if same {
        Reply::json(200, &json!({"ok": true}))
    } else {
        Reply::Reset
    }
}

async fn self_destruct(sim: &Arc<Sim>, id: &str, agent: &Agent, request: &Request) -> Reply {
    if !(agent.alone && request.from.ip().is_loopback()) {
        return Reply::json(403, &json!({"error": "Forbidden"}));
    }
    let answer = callbacks::self_destruct(sim, id, false).await;
    if answer["ok"] == json!(true) {
        let (task_sim, id) = (sim.clone(), id.to_owned());
        sim.spawn(async move {
            task_sim.clock.sleep(1000).await;
            runtime::die(&task_sim, &id, 0);
        });
    }
    Reply::json(200, &answer)
}

/// The fault `selfDestruct`: the callback, then exit 0, as the runtime does when its group ends.
pub async fn self_destruct_by_fault(sim: Arc<Sim>, id: String, fault: Value) {
    let yes = |name: &str| fault[name].as_bool().unwrap_or(false);
    if !yes("lost") {
        for _ in 0..(1 + usize::from(yes("twice"))) {
            callbacks::self_destruct(&sim, &id, yes("wrongToken")).await;
        }
    }
    sim.clock.sleep(1000).await;
    runtime::die(&sim, &id, 0);
}
