//! `/__sim/v1/agents/state`: what agents there are, their knobs, and what can be forced on them.

use crate::agent::knobs::Knobs;
use crate::agent::model::{Agent, Agents, Bound, Dialect, Override};
use crate::clock::{Clock, Ms};
use crate::world::World;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// All agents by host; those without a domain by deployment.
pub fn to_json(agents: &Agents, clock: &Clock, now: Ms) -> Value {
    let mut instances = Map::new();
    for agent in agents.all.values() {
        let shown = agent_json(agent, clock, now);
        // An older container of the same host is of interest only while no newer one lives.
        for host in agent
            .hosts
            .iter()
            .chain(agent.hosts.is_empty().then_some(&agent.id))
        {
            if agent.alive || !instances.contains_key(host) {
                instances.insert(host.clone(), shown.clone());
            }
        }
    }
    json!({
        "defaults": agents.knobs.to_json(), "defaultDialect": agents.default_dialect,
        "instances": instances,
        "overrides": agents.overrides.iter().map(|(host, o)| (host.clone(), json!({"dialect": o.dialect, "knobs": o.knobs.to_json(), "keepState": o.keep_state}))).collect::<Map<_, _>>(),
    })
}

fn agent_json(a: &Agent, clock: &Clock, now: Ms) -> Value {
    json!({
        "deployment": a.id, "serviceId": a.account, "hosts": a.hosts, "dialect": a.dialect, "kind": a.kind,
        "version": a.version, "phase": a.phase(now), "alive": a.alive, "down": a.down_since.is_some(), "exitCode": a.exit_code,
        "startedAt": clock.stamp(a.started), "processes": a.generation, "children": a.child, "retries": a.retries,
        "ready": a.alive && now >= a.convos_up(), "bound": a.bound.as_ref().map(|b| &b.id), "clean": a.is_clean(),
        "join": a.join, "working": a.working, "binds": a.binds, "variables": a.vars,
    })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Put {
    defaults: Map<String, Value>,
    default_dialect: Option<Dialect>,
    instances: BTreeMap<String, Map<String, Value>>,
}

/// `PUT`: knobs for all or for one host, and forced states of one host.
pub fn put(world: &mut World, body: &Value, now: Ms) -> Result<(), String> {
    let put = Put::deserialize(body).map_err(|e| e.to_string())?;
    world.agents.knobs.set(&put.defaults)?;
    if put.default_dialect.is_some() {
        world.agents.default_dialect = put.default_dialect;
    }
    // Looked up once: thousands of hosts may be named.
    let running = world.agents.all.values().filter(|a| a.alive);
    let ids: HashMap<String, String> = running
        .flat_map(|a| a.hosts.iter().map(|host| (host.clone(), a.id.clone())))
        .collect();
    for (host, wishes) in put.instances {
        put_host(world, (&host, ids.get(&host)), wishes, now)?;
    }
    Ok(())
}

fn put_host(
    world: &mut World,
    (host, id): (&str, Option<&String>),
    wishes: Map<String, Value>,
    now: Ms,
) -> Result<(), String> {
    let mut knobs = Map::new();
    for (wish, value) in wishes {
        match wish.as_str() {
            "dialect" => {
                let dialect = Dialect::deserialize(&value).map_err(|e| e.to_string())?;
                over(&mut world.agents, host).dialect = Some(dialect);
                if let Some(agent) = id.and_then(|id| world.agents.all.get_mut(id)) {
                    agent.dialect = dialect;
                }
            }
            "keepState" => over(&mut world.agents, host).keep_state = value.as_bool(),
            "bound" | "dirty" | "restart" | "die" | "version" => {
                let id = id.ok_or_else(|| format!("no agent is running behind {host:?}"))?;
                force(world, id, (&wish, &value), now)?;
            }
            _ => drop(knobs.insert(wish, value)),
        }
    }
    over(&mut world.agents, host)
        .knobs
        .set(&knobs)
        .map_err(|why| {
            format!("{why}, or one of: dialect, keepState, bound, dirty, restart, die, version")
        })
}

fn over<'a>(agents: &'a mut Agents, host: &str) -> &'a mut Override {
    agents
        .overrides
        .entry(host.to_owned())
        .or_insert_with(|| Override {
            knobs: Knobs::default(),
            ..Override::default()
        })
}

fn force(
    world: &mut World,
    id: &str,
    (wish, value): (&str, &Value),
    now: Ms,
) -> Result<(), String> {
    let World {
        agents,
        railway,
        ledger,
        rng,
        ..
    } = world;
    match wish {
        "restart" => agents.restart(rng, ledger, id, now),
        "die" => {
            let code = value["code"].as_i64().unwrap_or(1) as i32;
            agents.exit((railway, ledger, rng), id, code, now);
        }
        _ => {
            let Some(agent) = agents.all.get_mut(id) else {
                return Ok(());
            };
            match (wish, value) {
                ("bound", Value::Null) => agent.bound = None,
                ("bound", Value::String(conversation)) => {
                    agent.bound = Some(Bound {
                        id: conversation.clone(),
                        inbox: rng.hex(64),
                    });
                    agent.bound_at = now;
                }
                ("dirty", Value::Bool(dirty)) => agent.dirty = *dirty,
                ("version", Value::String(version)) => agent.version.clone_from(version),
                _ => return Err(format!("{wish:?} cannot be {value}")),
            }
        }
    }
    Ok(())
}
