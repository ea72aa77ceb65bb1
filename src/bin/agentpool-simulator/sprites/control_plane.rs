//! Sprites themselves: create, get, list, update, delete, and what needs no running sprite.

use crate::sprites::answer::{Answer, no_sprite, too_many};
use crate::sprites::ask::Ask;
use crate::sprites::faults::number;
use crate::sprites::life::Status;
use crate::sprites::model::{Sprite, is_name};
use crate::sprites::power;
use crate::world::{Sim, World};
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /v1/sprites`
pub async fn create(sim: &Arc<Sim>, ask: &Ask) -> Answer {
    let body = ask.json();
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    let outcome = made(sim, ask, &body, &name);
    if outcome.is_ok() {
        let takes = sim.world().sprites.knobs.ms("create_ms");
        sim.clock.sleep(takes).await;
    }
    match outcome {
        Ok(object) => Answer::json(201, &object).with("sprite-version", "0.0.1-rc48"),
        Err(refusal) => refusal,
    }
}

fn made(sim: &Sim, ask: &Ask, body: &Value, name: &str) -> Result<Value, Answer> {
    if !is_name(name) {
        let why = json!({"error": "invalid sprite name", "errors": ["name: must be lower-case letters, digits and hyphens"]});
        return Err(Answer::json(400, &why));
    }
    let now = sim.clock.now();
    let mut guard = sim.world();
    let world: &mut World = &mut guard;
    let conflict = {
        let World { sprites, rng, .. } = &mut *world;
        sprites
            .rules
            .fires("create_conflict", ("create", name), rng)
    };
    if let Some(fault) = &conflict {
        // Somebody else was faster, or an answer of ours was lost.
        let labels = fault["labels"].as_array().map(|_| fault["labels"].clone());
        let labels = labels.unwrap_or_else(|| body["labels"].clone());
        if world.sprites.named(&ask.organization, name).is_none() {
            let World {
                sprites,
                rng,
                ledger,
                ..
            } = &mut *world;
            let sprite = sprites.make(&ask.organization, name, rng, now);
            let settings = json!({"labels": labels, "url_settings": body["url_settings"]});
            // What cannot be applied stays at its default: the sprite is another's.
            let _ = apply(sprite, &settings);
            ledger.sprite_created(sprite, "another caller", now);
        }
    }
    let World {
        sprites,
        rng,
        ledger,
        ..
    } = &mut *world;
    if sprites.named(&ask.organization, name).is_some() {
        let status = sprites.knobs.get("duplicate_status");
        let status = conflict.map_or(status, |fault| number(&fault, "status", status));
        return Err(Answer::error(status as u16, "sprite name already exists"));
    }
    if let Err(wait) = sprites.may_create(&ask.organization, now) {
        let limits = (
            sprites.knobs.get("create_limit"),
            sprites.knobs.get("create_window_s"),
        );
        let wait = sim.clock.real_seconds(wait);
        return Err(too_many("sprite_creation_rate_limited", limits, wait));
    }
    let sprite = sprites.make(&ask.organization, name, rng, now);
    if apply(sprite, body).is_err() {
        let id = sprite.id.clone();
        sprites.all.remove(&id);
        return Err(Answer::error(400, "invalid url_settings.auth"));
    }
    ledger.sprite_created(sprite, "create", now);
    Ok(sprite.to_json(&sim.clock))
}

/// Sets what the body names, nothing else.
pub fn apply(sprite: &mut Sprite, body: &Value) -> Result<(), ()> {
    let settings = &body["url_settings"];
    let public = match settings["auth"].as_str() {
        None if settings["auth"].is_null() => sprite.public,
        Some("public") => true,
        Some("sprite") => false,
        _ => return Err(()),
    };
    let access = match settings["private_access"].as_str() {
        None => sprite.private_access.clone(),
        Some(known @ ("admins" | "org_users")) => known.to_owned(),
        Some(_) => return Err(()),
    };
    sprite.public = public;
    sprite.private_access = access;
    if body["clear_labels"] == json!(true) {
        sprite.labels.clear();
    }
    if let Some(labels) = body["labels"].as_array() {
        sprite.labels = labels
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
    }
    Ok(())
}

/// `GET /v1/sprites/{n}`
pub fn get(sim: &Sim, id: &str) -> Answer {
    with(sim, id, |sprite| {
        Answer::json(200, &sprite.to_json(&sim.clock))
    })
}

fn with(sim: &Sim, id: &str, work: impl FnOnce(&mut Sprite) -> Answer) -> Answer {
    sim.world()
        .sprites
        .all
        .get_mut(id)
        .map_or_else(no_sprite, work)
}

/// `PUT /v1/sprites/{n}`
pub fn update(sim: &Sim, id: &str, ask: &Ask) -> Answer {
    let now = sim.clock.now();
    with(sim, id, |sprite| {
        if apply(sprite, &ask.json()).is_err() {
            return Answer::error(400, "invalid url_settings.auth");
        }
        sprite.updated = now;
        Answer::json(200, &sprite.to_json(&sim.clock))
    })
}

/// `DELETE /v1/sprites/{n}`
pub async fn delete(sim: &Arc<Sim>, id: &str) -> Answer {
    remove(sim, id);
    let takes = sim.world().sprites.knobs.ms("delete_ms");
    sim.clock.sleep(takes).await;
    Answer::empty(204)
}

/// Removes a sprite with its processes, disk, checkpoints and sockets.
pub fn remove(sim: &Arc<Sim>, id: &str) {
    let now = sim.clock.now();
    {
        let mut guard = sim.world();
        let World {
            sprites,
            ledger,
            agents,
            ..
        } = &mut *guard;
        let Some(mut sprite) = sprites.all.remove(id) else {
            return;
        };
        sprite.life.enter(Status::Cold, now);
        ledger.sprite_deleted(&sprite, now);
        agents.all.remove(id);
        sprites.ghosts.retain(|(at, _)| now - at < 600_000);
        sprites.ghosts.push((now, sprite));
    }
    power::erase(sim, id);
}

/// `GET /v1/sprites`
pub fn list(sim: &Sim, ask: &Ask) -> Answer {
    let now = sim.clock.now();
    let mut guard = sim.world();
    let World { sprites, rng, .. } = &mut *guard;
    let prefix = ask.query.get("prefix").unwrap_or_default();
    let after = match ask
        .query
        .get("continuation_token")
        .filter(|t| !t.is_empty())
    {
        None => String::new(),
        Some(token) => match last_of(token) {
            Some(last) => last,
            None => return Answer::error(400, "invalid continuation_token"),
        },
    };
    let (lag, ghost) = (
        sprites.knobs.ms("list_lag_create_ms"),
        sprites.knobs.ms("list_lag_delete_ms"),
    );
    let ghosts = sprites
        .ghosts
        .iter()
        .filter(|(at, _)| now - at < ghost)
        .map(|(_, s)| s);
    let fresh = sprites
        .all
        .values()
        .filter(|s| lag == 0 || now - s.created >= lag);
    let mut found: Vec<&Sprite> = fresh
        .chain(ghosts)
        .filter(|s| {
            s.organization == ask.organization && s.name.starts_with(prefix) && s.name > after
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let most = ask
        .query
        .get("max_results")
        .and_then(|n| n.parse::<i64>().ok());
    let most = most
        .unwrap_or(i64::MAX)
        .clamp(1, sprites.knobs.get("page_size_max").max(1)) as usize;
    let mut has_more = found.len() > most;
    found.truncate(most);
    if let Some(fault) = sprites.rules.fires("short_list", ("list", ""), rng) {
        found.truncate(number(&fault, "keep", 0) as usize);
        has_more = false;
    }
    let short = sprites.knobs.is_on("list_short");
    let items: Vec<Value> = found
        .iter()
        .map(|s| {
            let whole = s.to_json(&sim.clock);
            if short {
                json!({"name": s.name, "org_slug": s.organization, "updated_at": whole["updated_at"]})
            } else {
                whole
            }
        })
        .collect();
    let next = found.last().filter(|_| has_more).map(|s| token_of(&s.name));
    let count = |status| sprites.count(&ask.organization, status);
    let org = json!({
        "name": ask.organization, "running": count(Status::Running), "warm": count(Status::Warm),
        "cold": count(Status::Cold), "running_limit": sprites.knobs.get("running_limit"),
        "warm_limit": sprites.knobs.get("warm_limit"),
    });
    let mut body = org.clone();
    body["sprites"] = json!(items);
    body["has_more"] = json!(has_more);
    body["next_continuation_token"] = json!(next);
    body["org"] = org;
    Answer::json(200, &body)
}

/// Hex of the last name: opaque, and as good as base64.
fn token_of(name: &str) -> String {
    let bytes = json!({"last": name}).to_string();
    bytes.bytes().map(|b| format!("{b:02x}")).collect()
}

fn last_of(token: &str) -> Option<String> {
    let pairs = token.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = pairs.map(byte).collect::<Option<_>>()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    value["last"].as_str().map(str::to_owned)
}

/// `GET /v1/organization`
pub fn organization(sim: &Sim, ask: &Ask) -> Answer {
    let world = sim.world();
    let sprites = &world.sprites;
    let own = sprites
        .all
        .values()
        .filter(|s| s.organization == ask.organization);
    let active: Vec<&str> = own
        .filter(|s| s.life.status == Status::Running)
        .map(|s| s.name.as_str())
        .collect();
    let limit = sprites.knobs.get("running_limit");
    let body = json!({"organization": {"slug": ask.organization, "sprites_enabled": true,
        "active_sprites": active, "max_sprites": null, "active_sprite_limit": limit}});
    Answer::json(200, &body)
}

/// `POST …/restart`: the machine starts afresh at the next call.
pub fn restart(sim: &Arc<Sim>, id: &str) -> Answer {
    power::force(sim, id, Status::Cold);
    with(sim, id, |sprite| {
        let body =
            json!({"sprite_name": sprite.name, "machine_id": sprite.id, "message": "restarting"});
        Answer::json(202, &body)
    })
}

/// `GET …/check`
pub fn check(sim: &Sim, id: &str) -> Answer {
    let now = sim.clock.now();
    with(sim, id, |sprite| {
        let status = match sprite.life.status {
            _ if sprite.is_troubled(now) => "unhealthy",
            Status::Running => "healthy",
            _ => "hibernated",
        };
        let body = json!({"sprite_name": sprite.name, "sprite_id": sprite.id, "status": status,
            "reason": "", "checked_at": sim.clock.stamp(now), "elapsed": "1ms"});
        Answer::json(200, &body)
    })
}

/// `GET …/policy/network`
pub fn policy(sim: &Sim, id: &str) -> Answer {
    with(sim, id, |sprite| {
        Answer::json(200, &json!({"rules": sprite.policy}))
    })
}

/// `POST …/policy/network`
pub fn put_policy(sim: &Sim, id: &str, ask: &Ask) -> Answer {
    let body = ask.json();
    let rules = body["rules"].as_array().cloned().unwrap_or_default();
    let is_rule = |r: &Value| {
        let action = matches!(r["action"].as_str(), Some("allow" | "deny"));
        r["include"].is_string() || (r["domain"].is_string() && action)
    };
    if !body["rules"].is_array() || !rules.iter().all(is_rule) {
        return Answer::text(
            400,
            "invalid policy: a rule needs domain and action, or include",
        );
    }
    with(sim, id, |sprite| {
        sprite.policy = json!(rules);
        Answer::empty(204)
    })
}

#[cfg(test)]
mod tests {
    use super::{last_of, token_of};

    #[test]
    fn a_token_gives_its_name_back_and_anything_else_is_refused() {
        assert_eq!(last_of(&token_of("pool-a1")), Some("pool-a1".to_owned()));
        for bad in ["x", "zz", "7b7d", ""] {
            assert_eq!(last_of(bad), None, "{bad}");
        }
    }
}
