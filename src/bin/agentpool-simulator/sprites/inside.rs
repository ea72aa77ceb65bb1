//! The API inside a sprite, on a socket of its own (sprites.md 3.10): tasks, services, checkpoints.
//!
//! The played `curl` sends requests to `localhost:8080` here too, below `/__8080`.

use crate::body::{self, HalfBody};
use crate::clock::Ms;
use crate::peers::{Connection, Reply, Request};
use crate::sprites::answer::Answer;
use crate::sprites::ask::duration;
use crate::sprites::life::Task;
use crate::sprites::machine::Machine;
use crate::sprites::model::Sprite;
use crate::sprites::{checkpoints, services, url};
use crate::world::Sim;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UnixListener;

/// The longest a task may hold.
const LONGEST: Ms = 3_600_000;

/// Serves the socket of a sprite's machine; nothing happens if it is served already.
pub fn serve(sim: &Arc<Sim>, id: &str, machine: &Machine) {
    let path = machine.socket();
    if path.exists() {
        return;
    }
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "no API inside the sprite");
            return;
        }
    };
    let (task_sim, id) = (sim.clone(), id.to_owned());
    sim.spawn(async move {
        // Ends with its sprite: the next request finds none, and the file is gone.
        while let Ok((stream, _)) = listener.accept().await {
            if !task_sim.world().sprites.all.contains_key(&id) {
                break;
            }
            let (sim, id) = (task_sim.clone(), id.clone());
            task_sim.spawn(async move {
                let service = service_fn(move |request| respond(sim.clone(), id.clone(), request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

async fn respond(
    sim: Arc<Sim>,
    id: String,
    request: hyper::Request<Incoming>,
) -> io::Result<Response<HalfBody>> {
    let (parts, incoming) = request.into_parts();
    let body = body::read(incoming, 1 << 20).await?.unwrap_or_default();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_owned();
    let method = parts.method.as_str();
    let (status, text) = if let Some(path) = target.strip_prefix("/__8080") {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let peer = (nowhere, Arc::new(Connection::default()));
        let asked = Request::new(
            (method, path, "localhost"),
            parts.headers.clone(),
            body,
            peer,
        );
        whole(port_8080(&sim, &id, &asked).await)
    } else {
        whole_answer(answer(&sim, &id, (method, &target), &body))
    };
    let mut response = Response::new(HalfBody::new(text, false));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    Ok(response)
}

/// From inside nothing waits for a gateway: what does not listen refuses.
async fn port_8080(sim: &Arc<Sim>, id: &str, request: &Request) -> Reply {
    let now = sim.clock.now();
    crate::sprites::gateway::sync(sim, id);
    let listens = {
        let world = sim.world();
        world
            .agents
            .all
            .get(id)
            .is_some_and(|a| a.alive && a.listens_from() <= now)
    };
    if listens {
        url::forward(sim, id, request).await
    } else {
        Reply::Reset
    }
}

/// Status 0: the connection is refused.
fn whole(reply: Reply) -> (u16, Vec<u8>) {
    match reply {
        Reply::Http { status, body, .. } => (status, body.into_bytes()),
        Reply::Hang | Reply::Reset => (599, Vec::new()),
    }
}

fn whole_answer(answer: Answer) -> (u16, Vec<u8>) {
    match answer {
        Answer::Whole { status, body, .. } => (status, body.to_vec()),
        _ => (500, Vec::new()),
    }
}

fn answer(sim: &Arc<Sim>, id: &str, (method, target): (&str, &str), body: &[u8]) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["info"]) => with(sim, id, |s, _| {
            Answer::json(
                200,
                &json!({"version": "0.0.1-rc48", "sprite_name": s.name,
            "sprite_url": format!("https://{}", s.host), "sprite_id": s.id, "org": s.organization}),
            )
        }),
        ("GET", ["v1", "tasks"]) => with(sim, id, |s, _| {
            let all: Vec<Value> = s
                .life
                .tasks
                .iter()
                .map(|(name, t)| task(sim, name, *t))
                .collect();
            Answer::json(200, &json!({"tasks": all}))
        }),
        ("POST", ["v1", "tasks"]) => put_task(
            sim,
            id,
            body["name"].as_str().unwrap_or_default(),
            (&body, true),
        ),
        ("PUT", ["v1", "tasks", name]) => put_task(sim, id, name, (&body, false)),
        ("GET", ["v1", "tasks", name]) => with(sim, id, |s, _| match s.life.tasks.get(*name) {
            Some(found) => Answer::json(200, &task(sim, name, *found)),
            None => Answer::text(404, "task not found"),
        }),
        ("DELETE", ["v1", "tasks", name]) => {
            with(sim, id, |s, _| match s.life.tasks.remove(*name) {
                Some(_) => Answer::empty(204),
                None => Answer::text(404, "task not found"),
            })
        }
        ("GET", ["v1", "services"]) => services::list(sim, id),
        ("GET", ["v1", "checkpoints"]) => checkpoints::list(sim, id),
        ("POST", ["v1", "checkpoint" | "checkpoints"]) => {
            match checkpoints::take(sim, id, body["comment"].as_str().map(str::to_owned)) {
                Ok((made, _)) => Answer::json(200, &json!({"id": made})),
                Err(why) => Answer::text(500, &why),
            }
        }
        ("DELETE", ["v1", "checkpoints", checkpoint]) => delete_checkpoint(sim, id, checkpoint),
        ("GET", ["policy", "network"]) => with(sim, id, |s, _| {
            Answer::json(200, &json!({"rules": s.policy}))
        }),
        _ => Answer::text(404, "404 page not found"),
    }
}

fn with(sim: &Sim, id: &str, work: impl FnOnce(&mut Sprite, Ms) -> Answer) -> Answer {
    let now = sim.clock.now();
    let mut world = sim.world();
    let Some(sprite) = world.sprites.all.get_mut(id) else {
        return Answer::text(404, "sprite not found");
    };
    // What is over is over.
    sprite.life.tasks.retain(|_, task| task.expires > now);
    work(sprite, now)
}

fn task(sim: &Sim, name: &str, task: Task) -> Value {
    json!({"name": name, "started_at": sim.clock.stamp(task.started), "expires_at": sim.clock.stamp(task.expires)})
}

fn put_task(sim: &Sim, id: &str, name: &str, (body, new): (&Value, bool)) -> Answer {
    let lasts = match &body["expire"] {
        Value::Number(seconds) => seconds.as_f64().map(|s| (s * 1000.0) as Ms),
        Value::String(text) => duration(text),
        _ => None,
    };
    let Some(lasts) = lasts.filter(|ms| *ms > 0 && *ms <= LONGEST && !name.is_empty()) else {
        return Answer::text(400, "a task needs a name and expire, at most 1h");
    };
    with(sim, id, |sprite, now| {
        let known = sprite.life.tasks.get(name).copied();
        if new && known.is_some() {
            return Answer::text(409, "task already exists");
        }
        let put = Task {
            started: known.map_or(now, |t| t.started),
            expires: now + lasts,
        };
        sprite.life.tasks.insert(name.to_owned(), put);
        Answer::json(if new { 201 } else { 200 }, &task(sim, name, put))
    })
}

/// Removes a checkpoint, as only somebody inside can.
pub fn delete_checkpoint(sim: &Sim, id: &str, checkpoint: &str) -> Answer {
    let now = sim.clock.now();
    let mut guard = sim.world();
    let world = &mut *guard;
    let Some(sprite) = world.sprites.all.get_mut(id) else {
        return Answer::text(404, "sprite not found");
    };
    let before = sprite.checkpoints.len();
    sprite.checkpoints.retain(|c| c.id != checkpoint);
    if sprite.checkpoints.len() == before {
        return Answer::text(404, "checkpoint not found");
    }
    world.ledger.deleted(&format!("{id}/{checkpoint}"), now);
    drop(guard);
    if let Ok(machine) = Machine::of(sim, id) {
        machine.forget(checkpoint);
    }
    Answer::empty(204)
}
