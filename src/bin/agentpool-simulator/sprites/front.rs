//! The front of the Sprites API: who asks, what for, which fault comes in between, who answers.

use crate::body::{self, Body};
use crate::calls::{mask, masked};
use crate::clock::Ms;
use crate::peers::{Connection, Request};
use crate::sprites::answer::{Answer, no_route, no_sprite, render, too_many};
use crate::sprites::ask::{Ask, Handshake, Query, route};
use crate::sprites::faults::{number, seconds};
use crate::sprites::{checkpoints, control_plane, exec, files, power, services, sessions};
use crate::world::{Sim, World};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Response, http::request::Parts};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Larger bodies are refused with a 413.
const MAX_BODY: usize = 64 << 20;
/// A hanging answer hangs for so long (real time), then the connection is reset.
const HANG: Duration = Duration::from_secs(900);

/// Whether a request is for the Sprites API: by path, unless its host is an agent's.
pub fn is_for(world: &World, host: &str, path: &str) -> bool {
    let first = path
        .strip_prefix("/v1/")
        .and_then(|rest| rest.split('/').next());
    matches!(first, Some("sprites" | "organization" | "organizations"))
        && world.sprites.at_host(host).is_none()
        && !world.railway.hosts.contains_key(host)
}

/// Answers one request; an error resets the connection.
pub async fn respond(
    sim: &Arc<Sim>,
    (memory, from): (Arc<Connection>, SocketAddr),
    mut incoming: hyper::Request<Incoming>,
) -> std::io::Result<Response<Body>> {
    let key = incoming.headers().get("sec-websocket-key");
    let key = key.and_then(|k| k.to_str().ok()).map(str::to_owned);
    let handshake = key.map(|key| Handshake {
        on: hyper::upgrade::on(&mut incoming),
        key,
    });
    let (parts, body) = incoming.into_parts();
    let answer = match body::read(body, MAX_BODY).await? {
        None => Answer::text(413, "too large"),
        Some(body) => {
            let request = request_of(&parts, body, (from, memory.clone()));
            // Carried out to its end even if the caller hangs up.
            let task_sim = sim.clone();
            let work = sim.spawn(async move { answer(&task_sim, request, handshake).await });
            work.await.unwrap_or(Answer::Reset)
        }
    };
    if matches!(answer, Answer::Hang) {
        sim.clock.sleep_real(HANG).await;
    }
    render(answer).ok_or_else(|| {
        memory.reset();
        std::io::ErrorKind::ConnectionReset.into()
    })
}

fn request_of(parts: &Parts, body: Vec<u8>, peer: (SocketAddr, Arc<Connection>)) -> Request {
    let host = parts
        .headers
        .get(HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    let host = parts.uri.host().unwrap_or(host);
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let line = (parts.method.as_str(), target, host);
    Request::new(line, parts.headers.clone(), body, peer)
}

async fn answer(sim: &Arc<Sim>, request: Request, handshake: Option<Handshake>) -> Answer {
    let now = sim.clock.now();
    let found = route(&request.method, request.path(), handshake.is_some());
    let bearer = request
        .header("authorization")
        .and_then(|v| v.strip_prefix("Bearer "));
    let organization = bearer.and_then(|token| {
        let world = sim.world();
        world.sprites.organization_of(token).map(str::to_owned)
    });
    let (operation, name, item) = found.clone().unwrap_or_default();
    let number = write_down(sim, &request, (operation, &name), now);
    let ask = Ask {
        operation,
        organization: organization.clone().unwrap_or_default(),
        item,
        query: Query::parse(&request.target),
        handshake,
        name,
        request,
    };
    let answer = if organization.is_none() {
        Answer::error(401, "authentication failed")
    } else if found.is_none() {
        unknown(sim, &ask)
    } else {
        admitted(sim, ask).await
    };
    sim.world().calls.finish("sprites", number, answer.status());
    answer
}

/// A path that is no route: about the sprite first, if it names one.
fn unknown(sim: &Sim, ask: &Ask) -> Answer {
    let name = ask
        .request
        .path()
        .strip_prefix("/v1/sprites/")
        .and_then(|p| p.split('/').next());
    match name {
        Some(name) if sim.world().sprites.named(&ask.organization, name).is_none() => no_sprite(),
        _ => no_route().with("sprite-version", "0.0.1-rc48"),
    }
}

fn write_down(sim: &Sim, request: &Request, (operation, name): (&str, &str), now: Ms) -> usize {
    let body: Value = match serde_json::from_slice(&request.body) {
        // What is written into a file may hold secrets and is nobody's business.
        _ if operation == "fsWrite" || operation == "execHttp" => json!(request.body.len()),
        Ok(body) => masked(&body),
        Err(_) => Value::Null,
    };
    let name = if operation == "create" {
        body["name"].as_str().unwrap_or_default()
    } else {
        name
    };
    let token = request
        .header("authorization")
        .and_then(|v| v.strip_prefix("Bearer "));
    let call = json!({
        "time": sim.clock.stamp(now), "atMs": now, "method": request.method, "path": request.target,
        "operation": operation, "sprite": name, "token": token.map(mask), "body": body,
        "status": null, "userAgent": request.header("user-agent"),
    });
    sim.world().calls.push("sprites", call)
}

/// What a fault says before and after the work.
enum Fault {
    None,
    Instead(Answer),
    /// The work is done, then this is answered.
    After(Answer),
    Slow(Ms),
    Timeout(Ms),
}

async fn admitted(sim: &Arc<Sim>, ask: Ask) -> Answer {
    let subject = if ask.operation == "create" {
        ask.json()["name"].as_str().unwrap_or_default().to_owned()
    } else {
        ask.name.clone()
    };
    let fault = fault(sim, &ask, &subject);
    match fault {
        Fault::None => dispatch(sim, ask).await,
        Fault::Instead(answer) => answer,
        Fault::After(answer) => {
            let _ = dispatch(sim, ask).await;
            answer
        }
        Fault::Slow(ms) => {
            sim.clock.sleep(ms).await;
            dispatch(sim, ask).await
        }
        Fault::Timeout(ms) => {
            let _ = dispatch(sim, ask).await;
            sim.clock.sleep(ms).await;
            Answer::Reset
        }
    }
}

fn fault(sim: &Arc<Sim>, ask: &Ask, subject: &str) -> Fault {
    let mut guard = sim.world();
    let World { sprites, rng, .. } = &mut *guard;
    let limits = (
        sprites.knobs.get("create_limit"),
        sprites.knobs.get("create_window_s"),
    );
    let running = sprites.knobs.get("running_limit");
    let mut fires = |kind: &str| sprites.rules.fires(kind, (ask.operation, subject), rng);
    if fires("token_revoked").is_some() {
        return Fault::Instead(Answer::error(401, "unauthorized"));
    }
    if fires("gone").is_some() {
        drop(guard);
        let id = sim
            .world()
            .sprites
            .named(&ask.organization, subject)
            .map(|s| s.id.clone());
        if let Some(id) = id {
            control_plane::remove(sim, &id);
        }
        return Fault::None;
    }
    if fires("route_gone").is_some() {
        return Fault::Instead(no_route());
    }
    if let Some(fault) = fires("rate_limit") {
        let wait = sim.clock.real_seconds(seconds(&fault, 30.0));
        return Fault::Instead(too_many("sprite_creation_rate_limited", limits, wait));
    }
    if fires("capacity").is_some() {
        let answer = too_many("concurrent_sprite_limit_exceeded", (running, 0), 10);
        return Fault::Instead(answer);
    }
    for (kind, answer) in [
        ("http_5xx", None),
        ("reset", Some(Answer::Reset)),
        ("timeout", Some(Answer::Hang)),
    ] {
        let Some(fault) = fires(kind) else { continue };
        let applied = fault["applied"].as_bool().unwrap_or(false);
        let lasts = seconds(&fault, 120.0);
        return match (answer.unwrap_or_else(|| broken(&fault)), applied) {
            (Answer::Hang, true) => Fault::Timeout(lasts),
            (answer, true) => Fault::After(answer),
            (answer, false) => Fault::Instead(answer),
        };
    }
    fires("slow").map_or(Fault::None, |fault| Fault::Slow(seconds(&fault, 5.0)))
}

/// Trouble at the edge.
fn broken(fault: &Value) -> Answer {
    let status = number(fault, "status", 502) as u16;
    if fault["html"].as_bool().unwrap_or(false) {
        return Answer::html(status, "<html><body><h1>Bad Gateway</h1></body></html>");
    }
    Answer::json(status, &json!({"error": "upstream unavailable"}))
}

async fn dispatch(sim: &Arc<Sim>, ask: Ask) -> Answer {
    match ask.operation {
        "create" => return control_plane::create(sim, &ask).await,
        "list" => return control_plane::list(sim, &ask),
        "organization" => return control_plane::organization(sim, &ask),
        _ => {}
    }
    let id = sim
        .world()
        .sprites
        .named(&ask.organization, &ask.name)
        .map(|s| s.id.clone());
    let Some(id) = id else {
        return no_sprite();
    };
    let answer = match ask.operation {
        "get" => control_plane::get(sim, &id),
        "update" => control_plane::update(sim, &id, &ask),
        "delete" => return control_plane::delete(sim, &id).await,
        "upgrade" => Answer::empty(204),
        "restart" => control_plane::restart(sim, &id),
        "check" => control_plane::check(sim, &id),
        "control" => no_route(),
        "policyGet" => control_plane::policy(sim, &id),
        "policyPut" => control_plane::put_policy(sim, &id, &ask),
        "probe" => Answer::empty(200),
        // A paused sprite answers with its frozen state.
        "services" => services::list(sim, &id),
        _ => runtime(sim, &id, ask).await,
    };
    answer.with("sprite-version", "0.0.1-rc48")
}

/// What needs the sprite awake.
async fn runtime(sim: &Arc<Sim>, id: &str, ask: Ask) -> Answer {
    let hold = match power::enter(sim, id, ask.operation).await {
        Ok(hold) => hold,
        Err(refusal) => return refusal,
    };
    match ask.operation {
        "exec" => exec::run_socket(sim, hold, ask).await,
        "execHttp" => exec::run_http(sim, hold, ask).await,
        "attach" => exec::attach(sim, hold, ask).await,
        "sessions" => sessions::list(sim, id),
        "kill" => sessions::kill(sim, id, &ask),
        "checkpoint" => checkpoints::create(sim, hold, &ask),
        "checkpoints" => checkpoints::list(sim, id),
        "checkpointGet" => checkpoints::get(sim, id, &ask.item),
        "restore" => checkpoints::restore(sim, id, &ask),
        "proxy" => no_route(),
        operation if operation.starts_with("fs") => files::answer(sim, id, &ask),
        _ => services::answer(sim, id, ask).await,
    }
}

impl Connection {
    /// Its end will be an RST.
    fn reset(&self) {
        self.reset_flag().store(true, Ordering::Relaxed);
    }
}
