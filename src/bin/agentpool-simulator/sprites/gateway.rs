//! The gateway inside a sprite: an agent of this simulator behind a process of the sprite.
//!
//! `node …/entry.js gateway run` leaves its process id in `run/gateway.pid` and waits. While that
//! process lives, the agent of the same id answers. All its state is on the sprite's disk:
//! `openclaw.json` is read at each request, `.convos` is made by a create or join.

use crate::agent::model::{Agent, Bound, Dialect, Kind};
use crate::railway::model::Variables;
use crate::sprites::life::Status;
use crate::sprites::machine::{Machine, send};
use crate::world::{Sim, World};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

fn config_path(machine: &Machine) -> PathBuf {
    machine.home().join(".openclaw/openclaw.json")
}

fn config(machine: &Machine) -> Value {
    let text = fs::read(config_path(machine)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Where the claim's instructions lie.
fn instructions(machine: &Machine) -> PathBuf {
    machine.home().join(".openclaw/workspace/INSTRUCTIONS.md")
}

fn process(machine: &Machine) -> Option<u32> {
    let text = fs::read_to_string(machine.run().join("gateway.pid")).ok()?;
    let pid = text.trim().parse().ok()?;
    machine.owns(pid).then_some(pid)
}

/// The gateway's process has ended with all others.
pub fn gone(sim: &Sim, id: &str) {
    let now = sim.clock.now();
    let mut guard = sim.world();
    let World {
        sprites, agents, ..
    } = &mut *guard;
    if let Some(sprite) = sprites.all.get_mut(id) {
        sprite.gateway = None;
    }
    if let Some(agent) = agents.all.get_mut(id).filter(|a| a.alive) {
        agent.go_down(now);
    }
}

/// Brings agent, process and disk together: a new process is a new agent, an ended one ends it,
/// an agent that a fault has ended takes its process along, and what it did is on the disk.
pub fn sync(sim: &Sim, id: &str) {
    let Ok(machine) = Machine::of(sim, id) else {
        return;
    };
    let pid = process(&machine);
    let seen = {
        let world = sim.world();
        let Some(sprite) = world
            .sprites
            .all
            .get(id)
            .filter(|s| s.life.status == Status::Running)
        else {
            return;
        };
        sprite.gateway
    };
    match (seen, pid) {
        (None, None) => return,
        (Some(_), None) => return gone(sim, id),
        (seen, Some(pid)) if seen != Some(pid) => appear(sim, id, &machine, pid),
        _ => {}
    }
    let killed = {
        let world = sim.world();
        world.agents.all.get(id).is_some_and(|a| !a.alive)
    };
    if let Some(pid) = pid.filter(|_| killed) {
        send("KILL", &[pid.to_string()]);
        gone(sim, id);
        return;
    }
    write_back(sim, id, &machine);
}

/// A gateway has started: bound again if its configuration says so, else unbound.
fn appear(sim: &Sim, id: &str, machine: &Machine, pid: u32) {
    let now = sim.clock.now();
    let channel = config(machine)["channels"]["convos"].clone();
    let mut guard = sim.world();
    let World {
        sprites,
        agents,
        ledger,
        rng,
        ..
    } = &mut *guard;
    let Some(sprite) = sprites.all.get_mut(id) else {
        return;
    };
    sprite.gateway = Some(pid);
    let mut agent = Agent::new(Dialect::Gateway, Kind::Openclaw, Variables::new());
    agent.id = id.to_owned();
    agent.account = sprite.account();
    agent.hosts = vec![sprite.host.clone()];
    agent.in_sprite = true;
    agent.dirty = machine.home().join(".convos").exists();
    let text = |key: &str| {
        channel[key]
            .as_str()
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
    };
    agent.bound = text("ownerConversationId").map(|conversation| Bound {
        id: conversation,
        inbox: text("identityId").unwrap_or_default(),
    });
    let account = ledger.account(&agent.account);
    account.service.clone_from(&sprite.name);
    if !account.hosts.contains(&sprite.host) {
        account.hosts.push(sprite.host.clone());
    }
    if agents.all.insert(id.to_owned(), agent).is_some() {
        account.restarts += 1;
    }
    agents.begin(rng, id, now);
}

/// What the agent reads of its disk before a request.
pub fn read_in(sim: &Sim, id: &str) {
    let Ok(machine) = Machine::of(sim, id) else {
        return;
    };
    let key = config(&machine)["channels"]["convos"]["poolApiKey"]
        .as_str()
        .map(str::to_owned);
    let text = fs::read_to_string(instructions(&machine)).ok();
    if let Some(agent) = sim.world().agents.all.get_mut(id) {
        agent.vars.remove("GATEWAY_TOKEN");
        if let Some(key) = key {
            agent.vars.insert("GATEWAY_TOKEN".to_owned(), key);
        }
        agent.instructions_on_disk = text;
    }
}

/// What the agent leaves on its disk.
pub fn write_back(sim: &Sim, id: &str, machine: &Machine) {
    let (dirty, bound) = match sim.world().agents.all.get(id) {
        Some(agent) => (agent.dirty, agent.bound.clone()),
        None => return,
    };
    if dirty {
        let _ = fs::create_dir_all(machine.home().join(".convos/identities"));
    }
    let Some(bound) = bound.filter(|_| dirty) else {
        return;
    };
    let mut config = config(machine);
    let channel = &mut config["channels"]["convos"];
    if channel["ownerConversationId"] == json!(bound.id) || !config_path(machine).exists() {
        return;
    }
    channel["ownerConversationId"] = json!(bound.id);
    channel["identityId"] = json!(bound.inbox);
    channel["enabled"] = json!(true);
    let _ = fs::write(config_path(machine), config.to_string());
}
