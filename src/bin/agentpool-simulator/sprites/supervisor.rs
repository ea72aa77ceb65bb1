//! Services of a sprite as processes: started in order, watched, restarted with growing pauses.
//!
//! Definitions lie on the sprite's disk, so that a checkpoint holds them.

use crate::clock::Ms;
use crate::sprites::faults::number;
use crate::sprites::life::Status;
use crate::sprites::machine::{Machine, send};
use crate::sprites::pump;
use crate::world::Sim;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use tokio::sync::broadcast;

/// The longest pause before a restart.
const LONGEST_PAUSE: Ms = 30_000;
/// A process that lasted so long is restarted as if for the first time.
const STEADY: Ms = 60_000;

/// One service.
pub struct Service {
    /// The definition as stored: cmd, args, env, dir, needs, http_port.
    pub definition: Value,
    /// Not stopped by anybody.
    pub wanted: bool,
    /// `stopped`, `starting`, `running`, `stopping`, `failed`.
    pub status: &'static str,
    /// Its last process.
    pub pid: Option<u32>,
    /// When that was started.
    pub started: Option<Ms>,
    /// Starts after the first, by the supervisor.
    pub restarts: u32,
    /// The pause before the next one.
    pause: Ms,
    /// When it is started again.
    pub next_restart: Option<Ms>,
    /// Why it is down.
    pub error: Option<String>,
    /// What it prints and how it ends, for streams.
    pub events: broadcast::Sender<Value>,
}

impl Service {
    /// A service that has not started.
    pub fn new(definition: Value, wanted: bool) -> Self {
        Self {
            definition,
            wanted,
            status: "stopped",
            pid: None,
            started: None,
            restarts: 0,
            pause: 1000,
            next_restart: None,
            error: None,
            events: broadcast::Sender::new(4096),
        }
    }

    /// Names of the services that must start before it.
    pub fn needs(&self) -> Vec<&str> {
        let needs = self.definition["needs"].as_array();
        needs
            .map(|n| n.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
}

fn store(machine: &Machine) -> PathBuf {
    machine.disk().join(".sprite/services")
}

/// Writes a definition to the disk.
pub fn save(machine: &Machine, name: &str, service: &Service) {
    let _ = fs::create_dir_all(store(machine));
    let text = json!({"definition": service.definition, "wanted": service.wanted}).to_string();
    let _ = fs::write(store(machine).join(format!("{name}.json")), text);
}

/// Removes a definition from the disk.
pub fn forget(machine: &Machine, name: &str) {
    let _ = fs::remove_file(store(machine).join(format!("{name}.json")));
}

fn load(machine: &Machine) -> BTreeMap<String, Service> {
    let files = fs::read_dir(store(machine)).into_iter().flatten().flatten();
    let read = files.filter_map(|file| {
        let name = file.path().file_stem()?.to_str()?.to_owned();
        let value: Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
        let service = Service::new(value["definition"].clone(), value["wanted"] == json!(true));
        Some((name, service))
    });
    read.collect()
}

/// Reads the services from the disk and starts those that are wanted.
pub fn boot(sim: &Arc<Sim>, id: &str, machine: &Machine) {
    let services = load(machine);
    let order = order(&services);
    {
        let mut world = sim.world();
        let Some(sprite) = world.sprites.all.get_mut(id) else {
            return;
        };
        sprite.boot += 1;
        sprite.services = services;
    }
    for name in order {
        start(sim, id, &name);
    }
}

/// Names of the wanted services, what others need first.
fn order(services: &BTreeMap<String, Service>) -> Vec<String> {
    let mut sorted: Vec<String> = Vec::new();
    let mut rest: Vec<&String> = services
        .iter()
        .filter(|(_, s)| s.wanted)
        .map(|(n, _)| n)
        .collect();
    while !rest.is_empty() {
        let is_free = |name: &&&String| {
            let needs = services[**name].needs();
            needs
                .iter()
                .all(|n| sorted.iter().any(|s| s == n) || !rest.iter().any(|r| r == n))
        };
        // A circle is broken where it is entered.
        let next = rest.iter().find(is_free).copied().unwrap_or(rest[0]);
        sorted.push(next.clone());
        rest.retain(|name| *name != next);
    }
    sorted
}

/// Starts a service's process. Its death is noticed by a thread of its own.
pub fn start(sim: &Arc<Sim>, id: &str, name: &str) {
    let now = sim.clock.now();
    let Ok(machine) = Machine::of(sim, id) else {
        return;
    };
    let mut guard = sim.world();
    let world = &mut *guard;
    let Some(sprite) = world.sprites.all.get_mut(id) else {
        return;
    };
    let (boot, subject) = (sprite.boot, sprite.name.clone());
    let Some(service) = sprite.services.get_mut(name) else {
        return;
    };
    let flap =
        world
            .sprites
            .rules
            .fires("service_flap", ("serviceStart", &subject), &mut world.rng);
    service.wanted = true;
    service.next_restart = None;
    service.error = None;
    service.started = Some(now);
    save(&machine, name, service);
    let spawned = command(sim, &machine, &service.definition, flap.as_ref()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            service.status = "failed";
            service.error = Some(error.to_string());
            let _ = service
                .events
                .send(json!({"type": "error", "data": error.to_string()}));
            return;
        }
    };
    service.status = "running";
    service.pid = Some(child.id());
    let _ = service.events.send(json!({"type": "started"}));
    let events = service.events.clone();
    drop(guard);
    let log = machine
        .disk()
        .join(format!(".sprite/logs/services/{name}.log"));
    let readers = [
        child
            .stdout
            .take()
            .map(|out| pump::lines(sim, out, ("stdout", &log), events.clone())),
        child
            .stderr
            .take()
            .map(|err| pump::lines(sim, err, ("stderr", &log), events.clone())),
    ];
    let (sim, id, name, pid) = (sim.clone(), id.to_owned(), name.to_owned(), child.id());
    std::thread::spawn(move || {
        let code = pump::code(child.wait());
        send("KILL", &[format!("-{pid}")]);
        pump::join(readers.into_iter().flatten());
        ended(&sim, (&id, boot), &name, (pid, code));
    });
}

fn command(
    sim: &Sim,
    machine: &Machine,
    definition: &Value,
    flap: Option<&Value>,
) -> std::process::Command {
    let text = |key: &str| definition[key].as_str().unwrap_or_default();
    let mut command = match flap {
        Some(fault) => {
            let mut command = machine.command(sim, "/bin/sh");
            command.args(["-c", &format!("exit {}", number(fault, "code", 1))]);
            command
        }
        None => {
            let mut command = machine.command(sim, text("cmd"));
            let args = definition["args"].as_array().cloned().unwrap_or_default();
            command.args(args.iter().filter_map(Value::as_str));
            command
        }
    };
    for (key, value) in definition["env"].as_object().into_iter().flatten() {
        // The sprite's home is where the simulator put it, not where the contract says.
        let value = value.as_str().unwrap_or_default();
        let own = key != "HOME" || value != "/home/sprite";
        if own {
            command.env(key, value);
        }
    }
    if !text("dir").is_empty() {
        command.current_dir(machine.directory(text("dir")));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ended(sim: &Sim, (id, boot): (&str, u64), name: &str, (pid, code): (u32, i32)) {
    let now = sim.clock.now();
    let mut world = sim.world();
    let Some(sprite) = world.sprites.all.get_mut(id).filter(|s| s.boot == boot) else {
        return;
    };
    let Some(service) = sprite.services.get_mut(name).filter(|s| s.pid == Some(pid)) else {
        return;
    };
    service.pid = None;
    service.status = "failed";
    service.error = Some(format!("exited with code {code}"));
    let kind = if service.wanted { "exit" } else { "stopped" };
    let _ = service
        .events
        .send(json!({"type": kind, "exit_code": code}));
    if service.wanted {
        if service.started.is_some_and(|at| now - at >= STEADY) {
            service.pause = 1000;
        }
        service.next_restart = Some(now + service.pause);
        service.pause = (service.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Starts what has waited long enough after its death.
pub fn restart_due(sim: &Arc<Sim>, id: &str, now: Ms) {
    let due: Vec<String> = {
        let mut world = sim.world();
        let Some(sprite) = world.sprites.all.get_mut(id) else {
            return;
        };
        if sprite.life.status != Status::Running || sprite.life.ready_at > now {
            return;
        }
        let services = sprite.services.iter_mut();
        let due = services.filter(|(_, s)| s.wanted && s.next_restart.is_some_and(|at| at <= now));
        due.map(|(name, service)| {
            service.restarts += 1;
            name.clone()
        })
        .collect()
    };
    for name in due {
        start(sim, id, &name);
    }
}

#[cfg(test)]
mod tests {
    use super::{Service, order};
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn services_start_after_those_they_need_and_circles_do_not_hang() {
        let service =
            |needs: &[&str], wanted| Service::new(json!({"cmd": "x", "needs": needs}), wanted);
        let services = BTreeMap::from([
            ("a".to_owned(), service(&["c"], true)),
            ("b".to_owned(), service(&[], false)),
            ("c".to_owned(), service(&["d", "b"], true)),
            ("d".to_owned(), service(&[], true)),
        ]);
        assert_eq!(order(&services), ["d", "c", "a"]);
        let circle = BTreeMap::from([
            ("a".to_owned(), service(&["b"], true)),
            ("b".to_owned(), service(&["a"], true)),
        ]);
        assert_eq!(order(&circle).len(), 2);
    }
}
