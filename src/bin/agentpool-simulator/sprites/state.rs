//! `/__sim/v1/sprites/state`: what exists, what is seeded, what is forced.

use crate::calls::mask;
use crate::clock::{Clock, Ms};
use crate::sprites::control_plane;
use crate::sprites::gateway;
use crate::sprites::inside;
use crate::sprites::life::{Life, Status};
use crate::sprites::machine::{Machine, send};
use crate::sprites::model::{Sprite, Sprites, Token, Trouble};
use crate::sprites::power;
use crate::world::{Sim, World};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Everything at one moment.
pub fn to_json(sprites: &Sprites, clock: &Clock, now: Ms) -> Value {
    let tokens: Vec<Value> = sprites
        .tokens
        .iter()
        .map(|t| json!({"token": mask(&t.token), "organization": t.organization, "revoked": t.revoked}))
        .collect();
    let all: Vec<Value> = sprites
        .all
        .values()
        .map(|s| sprite_json(s, clock, now))
        .collect();
    json!({"tokens": tokens, "knobs": sprites.knobs.to_json(), "sprites": all})
}

fn sprite_json(s: &Sprite, clock: &Clock, now: Ms) -> Value {
    let mut shown = s.to_json(clock);
    let services: Map<String, Value> = s
        .services
        .iter()
        .map(|(name, v)| {
            let about = json!({"status": v.status, "pid": v.pid, "restarts": v.restarts, "wanted": v.wanted, "error": v.error, "definition": v.definition});
            (name.clone(), about)
        })
        .collect();
    let checkpoints: Vec<Value> = s
        .checkpoints
        .iter()
        .map(|c| json!({"id": c.id, "comment": c.comment, "create_time": clock.stamp(c.created)}))
        .collect();
    let tasks: Vec<&String> = s
        .life
        .tasks
        .iter()
        .filter(|(_, t)| t.expires > now)
        .map(|(n, _)| n)
        .collect();
    shown["host"] = json!(s.host);
    shown["services"] = json!(services);
    shown["checkpoints"] = json!(checkpoints);
    shown["tasks"] = json!(tasks);
    shown["holds"] = json!(s.life.holds);
    shown["restores"] = json!(s.restores);
    shown["dead"] = json!(s.trouble == Some(Trouble::ForEver));
    shown["restoring"] = json!(s.is_troubled(now) && s.trouble != Some(Trouble::ForEver));
    shown["gatewayPid"] = json!(s.gateway);
    shown["account"] = json!(s.account());
    shown
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Put {
    tokens: Vec<PutToken>,
    knobs: Map<String, Value>,
    sprites: Vec<Seed>,
    force: Vec<Map<String, Value>>,
    advance_seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutToken {
    token: String,
    organization: String,
    #[serde(default)]
    revoked: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seed {
    name: String,
    #[serde(default = "quickstart")]
    organization: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    url_auth: Option<String>,
}

fn quickstart() -> String {
    crate::sprites::model::ORGANIZATION.to_owned()
}

/// `PUT`: seeds and forces, in the order of the body's documentation.
pub fn put(sim: &Arc<Sim>, body: &Value) -> Result<(), String> {
    let put = Put::deserialize(body).map_err(|e| e.to_string())?;
    let now = sim.clock.now();
    {
        let mut guard = sim.world();
        let World {
            sprites,
            rng,
            ledger,
            ..
        } = &mut *guard;
        sprites.knobs.set(&put.knobs)?;
        for token in put.tokens {
            sprites.tokens.retain(|t| t.token != token.token);
            sprites.tokens.push(Token {
                token: token.token,
                organization: token.organization,
                revoked: token.revoked,
            });
        }
        for seed in put.sprites {
            if sprites.named(&seed.organization, &seed.name).is_some() {
                return Err(format!("sprite {:?} exists", seed.name));
            }
            let sprite = sprites.make(&seed.organization, &seed.name, rng, now);
            sprite.labels = seed.labels;
            sprite.public = seed.url_auth.as_deref() == Some("public");
            ledger.sprite_created(sprite, "control port", now);
        }
        let by = (put.advance_seconds * 1000.0) as Ms;
        for sprite in sprites.all.values_mut().filter(|_| by != 0) {
            let life = &mut sprite.life;
            for at in [&mut life.since, &mut life.ready_at, &mut life.last_activity] {
                *at -= by;
            }
            for task in life.tasks.values_mut() {
                task.expires -= by;
            }
            if let Some(Trouble::Until(at)) = &mut sprite.trouble {
                *at -= by;
            }
        }
    }
    if put.advance_seconds != 0.0 {
        power::tick(sim);
    }
    put.force
        .iter()
        .try_for_each(|wishes| force_all(sim, wishes))
}

fn force_all(sim: &Arc<Sim>, wishes: &Map<String, Value>) -> Result<(), String> {
    let name = wishes
        .get("sprite")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let id = {
        let world = sim.world();
        let mut all = world.sprites.all.values();
        all.find(|s| s.id == name || s.name == name)
            .map(|s| s.id.clone())
    };
    let id = id.ok_or_else(|| format!("no sprite {name:?}"))?;
    let rest = wishes.iter().filter(|(key, _)| *key != "sprite");
    rest.into_iter()
        .try_for_each(|(wish, value)| force(sim, &id, (wish, value)))
}

fn force(sim: &Arc<Sim>, id: &str, (wish, value): (&str, &Value)) -> Result<(), String> {
    let machine = Machine::of(sim, id).map_err(|e| e.to_string())?;
    machine.prepare().map_err(|e| e.to_string())?;
    let odd = || format!("{wish:?} cannot be {value}");
    match (wish, value) {
        ("state", Value::String(state)) => {
            let states = [Status::Cold, Status::Warm, Status::Running];
            let state = states
                .into_iter()
                .find(|s| s.name() == state)
                .ok_or_else(odd)?;
            power::force(sim, id, state);
        }
        ("delete", Value::Bool(true)) => control_plane::remove(sim, id),
        ("killGateway", Value::Bool(true)) => {
            let pid = sim.world().sprites.all.get(id).and_then(|s| s.gateway);
            send(
                "KILL",
                &pid.map(|p| p.to_string()).into_iter().collect::<Vec<_>>(),
            );
            gateway::sync(sim, id);
        }
        ("writeFile", Value::Object(file)) => {
            let path = file.get("path").and_then(Value::as_str).ok_or_else(odd)?;
            let place = machine.place(path);
            let parent = place.parent().ok_or_else(odd)?;
            std::fs::create_dir_all(parent).map_err(|e| e.to_string())?;
            let content = file
                .get("content")
                .and_then(Value::as_str)
                .unwrap_or_default();
            std::fs::write(place, content).map_err(|e| e.to_string())?;
        }
        ("joinRequests", Value::Number(n)) => {
            // Whole or not at all: somebody may be reading.
            let (fresh, place) = ("join-requests.new", "join-requests");
            std::fs::write(machine.run().join(fresh), n.to_string())
                .and_then(|()| {
                    std::fs::rename(machine.run().join(fresh), machine.run().join(place))
                })
                .map_err(|e| e.to_string())?;
        }
        // The same name with another generation behind it.
        ("newId", Value::Bool(true)) => {
            let mut guard = sim.world();
            let World { sprites, rng, .. } = &mut *guard;
            let mut sprite = sprites.all.remove(id).ok_or_else(odd)?;
            sprite.id = format!("sprite-{}", rng.uuid());
            sprite.life = Life::new(sim.clock.now());
            sprites.all.insert(sprite.id.clone(), sprite);
            drop(guard);
            power::erase(sim, id);
        }
        ("deleteCheckpoint", Value::String(checkpoint)) => {
            inside::delete_checkpoint(sim, id, checkpoint);
        }
        _ => return force_field(sim, id, (wish, value)),
    }
    Ok(())
}

fn force_field(sim: &Sim, id: &str, (wish, value): (&str, &Value)) -> Result<(), String> {
    let now = sim.clock.now();
    let mut guard = sim.world();
    let sprite = guard.sprites.all.get_mut(id).ok_or("no sprite")?;
    match (wish, value) {
        ("dead", Value::Bool(dead)) => sprite.trouble = dead.then_some(Trouble::ForEver),
        ("labels", Value::Array(labels)) => {
            sprite.labels = labels
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
        }
        ("urlAuth", Value::String(auth)) => sprite.public = auth == "public",
        // Somebody inside removed a checkpoint and made another under the same id.
        ("replaceCheckpoint", Value::String(checkpoint)) => {
            let found = sprite.checkpoints.iter_mut().find(|c| c.id == *checkpoint);
            let found = found.ok_or_else(|| format!("no checkpoint {checkpoint:?}"))?;
            found.created = now.max(found.created + 1000);
        }
        _ => {
            let known = "state, delete, dead, labels, urlAuth, writeFile, killGateway, joinRequests, deleteCheckpoint, replaceCheckpoint, newId";
            return Err(format!("{wish:?} cannot be {value}; known: {known}"));
        }
    }
    Ok(())
}

/// Back to the start; what existed is deleted, so that the ledger stays true.
pub fn reset(sim: &Arc<Sim>) {
    let ids: Vec<String> = sim.world().sprites.all.keys().cloned().collect();
    for id in ids {
        control_plane::remove(sim, &id);
    }
    sim.world().sprites = Sprites::seeded();
}
