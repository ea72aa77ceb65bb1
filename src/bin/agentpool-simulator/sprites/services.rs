//! The API of services (sprites.md 3.6).

use crate::clock::Ms;
use crate::sprites::answer::Answer;
use crate::sprites::ask::{Ask, duration};
use crate::sprites::machine::{Machine, send};
use crate::sprites::model::Sprite;
use crate::sprites::sessions::signal_name;
use crate::sprites::stream::Lines;
use crate::sprites::supervisor::{self, Service};
use crate::world::Sim;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast;

/// "No such time", as the runtime writes it.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

fn object(sim: &Sim, name: &str, service: &Service) -> Value {
    let mut object = service.definition.clone();
    let mut state = json!({"name": name, "status": service.status, "restart_count": service.restarts,
        "next_restart_at": service.next_restart.map_or(NO_TIME.to_owned(), |at| sim.clock.stamp(at))});
    if let Some(pid) = service.pid {
        state["pid"] = json!(pid);
    }
    if let Some(at) = service.started {
        state["started_at"] = json!(sim.clock.stamp(at));
    }
    if let Some(error) = &service.error {
        state["error"] = json!(error);
    }
    object["name"] = json!(name);
    object["state"] = state;
    object
}

/// `GET …/services`, which wakes nothing.
pub fn list(sim: &Sim, id: &str) -> Answer {
    let world = sim.world();
    let services = world.sprites.all.get(id).map(|s| &s.services);
    let all: Vec<Value> = services
        .into_iter()
        .flatten()
        .map(|(n, s)| object(sim, n, s))
        .collect();
    Answer::json(200, &json!(all))
}

/// Everything else about services.
pub async fn answer(sim: &Arc<Sim>, id: &str, ask: Ask) -> Answer {
    match ask.operation {
        "putService" => put(sim, id, &ask),
        "signalService" => signal(sim, id, &ask),
        _ if !known(sim, id, &ask.item) => {
            Answer::text(404, &format!("service not found: {}", ask.item))
        }
        "service" => one(sim, id, &ask.item),
        "startService" => start(sim, id, &ask),
        "stopService" => stop(sim, id, &ask),
        "restartService" => restart(sim, id, &ask),
        "serviceLogs" => logs(sim, id, &ask),
        _ => delete(sim, id, &ask.item).await,
    }
}

fn known(sim: &Sim, id: &str, name: &str) -> bool {
    with(sim, id, |sprite| sprite.services.contains_key(name)).unwrap_or(false)
}

fn with<T>(sim: &Sim, id: &str, work: impl FnOnce(&mut Sprite) -> T) -> Option<T> {
    sim.world().sprites.all.get_mut(id).map(work)
}

fn one(sim: &Sim, id: &str, name: &str) -> Answer {
    let shown = with(sim, id, |sprite| {
        sprite.services.get(name).map(|s| object(sim, name, s))
    });
    Answer::json(200, &shown.flatten().unwrap_or_default())
}

/// The fields of a definition; what is not known is ignored.
fn definition(body: &Value) -> Option<Value> {
    let cmd = body["cmd"].as_str().filter(|c| !c.is_empty())?;
    let mut kept = json!({"cmd": cmd, "args": body["args"], "needs": body["needs"].as_array().cloned().unwrap_or_default()});
    for key in ["env", "dir", "http_port"] {
        if !body[key].is_null() {
            kept[key] = body[key].clone();
        }
    }
    Some(kept)
}

fn put(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let name = &ask.item;
    let Some(definition) = definition(&ask.json()) else {
        return Answer::text(400, "cmd is required");
    };
    let outcome = with(sim, id, |sprite| {
        let has_port = |s: &Service| s.definition["http_port"].is_number();
        let taken = sprite
            .services
            .iter()
            .any(|(n, s)| n != name && has_port(s));
        if definition["http_port"].is_number() && taken {
            return Err(Answer::text(
                409,
                "another service already has an HTTP port configured",
            ));
        }
        let same = sprite
            .services
            .get(name)
            .filter(|s| s.definition == definition);
        if same.is_some_and(|s| s.status == "running") {
            let message = format!(
                "Service already running with that command, use POST /v1/services/{name}/restart if you want to restart it"
            );
            return Err(Answer::json(200, &json!({"message": message})));
        }
        let old = sprite.services.remove(name);
        let pid = old.as_ref().and_then(|s| s.pid);
        let service = Service::new(definition, true);
        let events = service.events.subscribe();
        sprite.services.insert(name.clone(), service);
        Ok((pid, events))
    });
    match outcome {
        None => Answer::text(404, "sprite not found"),
        Some(Err(answer)) => answer,
        Some(Ok((pid, events))) => {
            if let Some(pid) = pid {
                send("KILL", &[format!("-{pid}")]);
            }
            let (lines, answer) = Lines::new(sim, ask);
            supervisor::start(sim, id, name);
            watch(sim, ask, (lines, events), Vec::new());
            answer
        }
    }
}

/// Streams what happens for `duration`, then `complete`.
fn watch(
    sim: &Arc<Sim>,
    ask: &Ask,
    (mut lines, mut events): (Lines, broadcast::Receiver<Value>),
    before: Vec<Value>,
) {
    let default = sim.world().sprites.knobs.ms("service_stream_s");
    let lasts = ask
        .query
        .get("duration")
        .and_then(duration)
        .unwrap_or(default);
    let (task_sim, name) = (sim.clone(), ask.item.clone());
    sim.spawn(async move {
        for event in before {
            lines.send(&event);
        }
        let until = task_sim.clock.now() + lasts;
        loop {
            let left = until - task_sim.clock.now();
            let event = match events.try_recv() {
                Ok(event) => Some(event),
                Err(_) if left <= 0 => None,
                Err(_) => task_sim
                    .clock
                    .timeout(left, events.recv())
                    .await
                    .and_then(Result::ok),
            };
            match event {
                Some(event) => lines.send(&stamped(&task_sim, event)),
                None => break,
            }
        }
        lines.send(&complete(&task_sim, &name));
    });
}

fn stamped(sim: &Sim, mut event: Value) -> Value {
    event["timestamp"] = json!(sim.clock.wall(sim.clock.now()).as_millisecond());
    event
}

fn complete(sim: &Sim, name: &str) -> Value {
    let log = format!("/.sprite/logs/services/{name}.log");
    let files = json!({"combined": log, "stdout": log, "stderr": log});
    stamped(sim, json!({"type": "complete", "log_files": files}))
}

fn subscribe(sim: &Sim, id: &str, name: &str) -> Option<(broadcast::Receiver<Value>, Option<u32>)> {
    with(sim, id, |sprite| {
        sprite
            .services
            .get(name)
            .map(|s| (s.events.subscribe(), s.pid))
    })
    .flatten()
}

fn start(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let Some((events, pid)) = subscribe(sim, id, &ask.item) else {
        return Answer::text(404, "service not found");
    };
    let (lines, answer) = Lines::new(sim, ask);
    let before = if pid.is_none() {
        supervisor::start(sim, id, &ask.item);
        Vec::new()
    } else {
        vec![stamped(sim, json!({"type": "started"}))]
    };
    watch(sim, ask, (lines, events), before);
    answer
}

/// Marks a service as unwanted; its process, if it has one.
fn unwant(sim: &Sim, id: &str, name: &str) -> Option<u32> {
    let machine = Machine::of(sim, id).ok()?;
    with(sim, id, |sprite| {
        let service = sprite.services.get_mut(name)?;
        service.wanted = false;
        service.next_restart = None;
        supervisor::save(&machine, name, service);
        if service.pid.is_some() {
            service.status = "stopping";
        }
        service.pid
    })
    .flatten()
}

/// Ends a process: TERM, then KILL. Waits until it is gone.
async fn end(sim: &Sim, (id, name): (&str, &str), pid: u32, timeout: Ms) {
    send("TERM", &[format!("-{pid}")]);
    let is_up = || {
        with(sim, id, |s| {
            s.services.get(name).is_some_and(|s| s.pid == Some(pid))
        })
        .unwrap_or(false)
    };
    let until = sim.clock.now() + timeout;
    let mut killed = false;
    while is_up() {
        if !killed && sim.clock.now() >= until {
            send("KILL", &[format!("-{pid}")]);
            killed = true;
        }
        sim.clock
            .sleep_real(std::time::Duration::from_millis(3))
            .await;
    }
}

fn timeout_of(sim: &Sim, ask: &Ask) -> Ms {
    let default = sim.world().sprites.knobs.ms("service_stop_timeout_s");
    ask.query
        .get("timeout")
        .and_then(duration)
        .unwrap_or(default)
}

fn stop(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let Some((mut events, _)) = subscribe(sim, id, &ask.item) else {
        return Answer::text(404, "service not found");
    };
    let timeout = timeout_of(sim, ask);
    let Some(pid) = unwant(sim, id, &ask.item) else {
        return Answer::text(409, "service is not running");
    };
    let (mut lines, answer) = Lines::new(sim, ask);
    let (task_sim, id, name) = (sim.clone(), id.to_owned(), ask.item.clone());
    sim.spawn(async move {
        lines.send(&stamped(&task_sim, json!({"type": "stopping"})));
        end(&task_sim, (&id, &name), pid, timeout).await;
        while let Ok(event) = events.try_recv() {
            lines.send(&stamped(&task_sim, event));
        }
        lines.send(&complete(&task_sim, &name));
    });
    answer
}

fn restart(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let Some((events, _)) = subscribe(sim, id, &ask.item) else {
        return Answer::text(404, "service not found");
    };
    let (timeout, pid) = (timeout_of(sim, ask), unwant(sim, id, &ask.item));
    let (lines, answer) = Lines::new(sim, ask);
    let (task_sim, id) = (sim.clone(), id.to_owned());
    let again = Ask {
        operation: ask.operation,
        organization: ask.organization.clone(),
        name: ask.name.clone(),
        item: ask.item.clone(),
        query: ask.query.clone(),
        request: ask.request.clone(),
        handshake: None,
    };
    sim.spawn(async move {
        let mut before = Vec::new();
        if let Some(pid) = pid {
            before.push(stamped(&task_sim, json!({"type": "stopping"})));
            end(&task_sim, (&id, &again.item), pid, timeout).await;
        }
        supervisor::start(&task_sim, &id, &again.item);
        watch(&task_sim, &again, (lines, events), before);
    });
    answer
}

fn logs(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let Some((events, _)) = subscribe(sim, id, &ask.item) else {
        return Answer::text(404, "service not found");
    };
    let most = ask
        .query
        .get("lines")
        .and_then(|n| n.parse().ok())
        .unwrap_or(100);
    let text = Machine::of(sim, id).map(|m| {
        m.disk()
            .join(format!(".sprite/logs/services/{}.log", ask.item))
    });
    let text = text.and_then(std::fs::read_to_string).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let before = all[all.len().saturating_sub(most)..].iter().map(|line| {
        let stream = if line.contains(" [stderr] ") {
            "stderr"
        } else {
            "stdout"
        };
        stamped(sim, json!({"type": stream, "data": format!("{line}\n")}))
    });
    let before: Vec<Value> = before.collect();
    let (lines, answer) = Lines::new(sim, ask);
    watch(sim, ask, (lines, events), before);
    answer
}

fn signal(sim: &Sim, id: &str, ask: &Ask) -> Answer {
    let body = ask.json();
    let name = body["name"].as_str().unwrap_or_default();
    if !known(sim, id, name) {
        return Answer::text(404, "service not found");
    }
    let Some(signal) = body["signal"].as_str().and_then(signal_name) else {
        return Answer::text(400, "unknown signal");
    };
    let Some(pid) = subscribe(sim, id, name).and_then(|(_, pid)| pid) else {
        return Answer::text(409, "service is not running");
    };
    send(signal, &[format!("-{pid}")]);
    Answer::empty(204)
}

async fn delete(sim: &Sim, id: &str, name: &str) -> Answer {
    let needed = with(sim, id, |sprite| {
        sprite
            .services
            .iter()
            .any(|(n, s)| n != name && s.needs().contains(&name))
    });
    if needed == Some(true) {
        return Answer::text(409, "another service needs it");
    }
    let timeout = sim.world().sprites.knobs.ms("service_stop_timeout_s");
    if let Some(pid) = unwant(sim, id, name) {
        end(sim, (id, name), pid, timeout).await;
    }
    if let Ok(machine) = Machine::of(sim, id) {
        supervisor::forget(&machine, name);
    }
    with(sim, id, |sprite| sprite.services.remove(name));
    Answer::empty(204)
}
