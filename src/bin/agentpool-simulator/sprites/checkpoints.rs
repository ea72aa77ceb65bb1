//! Checkpoints and restore (sprites.md 3.8). A restore goes on when its caller is gone.

use crate::clock::Ms;
use crate::sprites::answer::Answer;
use crate::sprites::ask::Ask;
use crate::sprites::life::Status;
use crate::sprites::machine::Machine;
use crate::sprites::model::{Checkpoint, Trouble};
use crate::sprites::power::{self, Hold};
use crate::sprites::stream::Lines;
use crate::world::{Sim, World};
use serde_json::{Value, json};
use std::sync::Arc;

/// As the live service words it when the sprite does not come back.
const DEAD: &str = "Failed to restore checkpoint: failed to start overlay service tree: failed to start container: process exited before initialization";

fn event(sim: &Sim, kind: &str, text: &str) -> Value {
    let field = if kind == "error" { "error" } else { "data" };
    json!({"type": kind, field: text, "time": sim.clock.stamp(sim.clock.now())})
}

/// `POST …/checkpoint`
pub fn create(sim: &Arc<Sim>, hold: Hold, ask: &Ask) -> Answer {
    let comment = ask.json()["comment"]
        .as_str()
        .filter(|c| !c.is_empty())
        .map(str::to_owned);
    let (mut lines, answer) = Lines::new(sim, ask);
    let (fault, takes) = {
        let mut guard = sim.world();
        let World { sprites, rng, .. } = &mut *guard;
        let fault = sprites
            .rules
            .fires("checkpoint_error", ("checkpoint", &ask.name), rng);
        (fault, sprites.knobs.ms("checkpoint_ms"))
    };
    let task_sim = sim.clone();
    sim.spawn(async move {
        let sim = &task_sim;
        lines.send(&event(sim, "info", "Creating checkpoint..."));
        sim.clock.sleep(takes).await;
        if let Some(fault) = fault {
            let why = fault["message"]
                .as_str()
                .unwrap_or("Checkpoint failed: disk full");
            lines.send(&event(sim, "error", why));
            return;
        }
        match take(sim, &hold.id, comment) {
            Ok((id, at)) => {
                let when = sim.clock.wall(at).strftime("%Y-%m-%d %H:%M:%S").to_string();
                for text in [
                    "Checkpoint created successfully".to_owned(),
                    "\nCheckpoint Details:".to_owned(),
                    format!("  ID: {id}"),
                    format!("  Created: {when}"),
                    format!("  Path: checkpoints/{id}"),
                ] {
                    lines.send(&event(sim, "info", &text));
                }
                let done = format!("Checkpoint {id} created successfully");
                lines.send(&event(sim, "complete", &done));
            }
            Err(why) => lines.send(&event(sim, "error", &why)),
        }
    });
    answer
}

/// Makes a checkpoint of the disk as it is: its id and its time.
pub fn take(sim: &Sim, id: &str, comment: Option<String>) -> Result<(String, Ms), String> {
    let now = sim.clock.now();
    let next = {
        let mut world = sim.world();
        let sprite = world.sprites.all.get_mut(id).ok_or("sprite not found")?;
        sprite.checkpoints_made += 1;
        format!("v{}", sprite.checkpoints_made)
    };
    let machine = Machine::of(sim, id).map_err(|e| e.to_string())?;
    machine
        .checkpoint(&next)
        .map_err(|e| format!("Checkpoint failed: {e}"))?;
    let mut guard = sim.world();
    let World {
        sprites, ledger, ..
    } = &mut *guard;
    let sprite = sprites.all.get_mut(id).ok_or("sprite not found")?;
    sprite.checkpoints.push(Checkpoint {
        id: next.clone(),
        comment,
        created: now,
        source: sprite.restored_from.clone(),
    });
    ledger.checkpoint_made(sprite, &next, now);
    Ok((next, now))
}

fn object(sim: &Sim, checkpoint: &Checkpoint) -> Value {
    let mut object = json!({"id": checkpoint.id, "create_time": sim.clock.stamp(checkpoint.created), "is_auto": false});
    if let Some(comment) = &checkpoint.comment {
        object["comment"] = json!(comment);
    }
    if let Some(source) = &checkpoint.source {
        object["source_id"] = json!(source);
    }
    object
}

/// `GET …/checkpoints`, newest first.
pub fn list(sim: &Sim, id: &str) -> Answer {
    let world = sim.world();
    let made = world
        .sprites
        .all
        .get(id)
        .map(|s| s.checkpoints.as_slice())
        .unwrap_or_default();
    let mut all: Vec<Value> = made.iter().rev().map(|c| object(sim, c)).collect();
    if world.sprites.knobs.is_on("list_current") {
        let current = json!({"id": "Current", "create_time": sim.clock.stamp(sim.clock.now())});
        all.insert(0, current);
    }
    Answer::json(200, &json!(all))
}

fn find(sim: &Sim, id: &str, checkpoint: &str) -> Option<Checkpoint> {
    let world = sim.world();
    let sprite = world.sprites.all.get(id)?;
    sprite
        .checkpoints
        .iter()
        .find(|c| c.id == checkpoint)
        .cloned()
}

/// `GET …/checkpoints/{id}`
pub fn get(sim: &Sim, id: &str, checkpoint: &str) -> Answer {
    match find(sim, id, checkpoint) {
        Some(found) => Answer::json(200, &object(sim, &found)),
        None => Answer::text(404, &format!("checkpoint not found: {checkpoint}")),
    }
}

/// `POST …/checkpoints/{id}/restore`
pub fn restore(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let checkpoint = ask.item.clone();
    if find(sim, id, &checkpoint).is_none() {
        return Answer::text(404, &format!("checkpoint not found: {checkpoint}"));
    }
    let (lines, answer) = Lines::new(sim, ask);
    let (dead, takes) = {
        let now = sim.clock.now();
        let mut guard = sim.world();
        let World { sprites, rng, .. } = &mut *guard;
        let dead = sprites
            .rules
            .fires("restore_dead", ("restore", &ask.name), rng);
        let (takes, settles) = (
            sprites.knobs.ms("restore_ms"),
            sprites.knobs.ms("restore_settle_ms"),
        );
        if let Some(sprite) = sprites.all.get_mut(id) {
            // Held awake by itself, and not answering.
            sprite.life.holds += 1;
            sprite.trouble = Some(Trouble::Until(now + takes + settles));
        }
        (dead, takes)
    };
    let (task_sim, id) = (sim.clone(), id.to_owned());
    sim.spawn(async move {
        let work = Work {
            checkpoint,
            takes,
            dead,
        };
        restore_work(&task_sim, &id, work, lines).await;
        if let Some(sprite) = task_sim.world().sprites.all.get_mut(&id) {
            sprite.life.holds = sprite.life.holds.saturating_sub(1);
            sprite.life.last_activity = task_sim.clock.now();
        }
    });
    answer
}

struct Work {
    checkpoint: String,
    takes: Ms,
    dead: Option<Value>,
}

async fn restore_work(sim: &Arc<Sim>, id: &str, work: Work, mut lines: Lines) {
    let checkpoint = &work.checkpoint;
    let text = format!("Restoring to checkpoint {checkpoint}...");
    lines.send(&event(sim, "info", &text));
    lines.send(&event(sim, "info", "Stopping services..."));
    power::lose_memory(sim, id);
    sim.clock.sleep(work.takes / 2).await;
    lines.send(&event(sim, "info", "Restoring filesystem..."));
    sim.clock.sleep(work.takes - work.takes / 2).await;
    let swapped = Machine::of(sim, id).and_then(|machine| machine.restore(checkpoint));
    let failed = match (&work.dead, swapped) {
        (Some(fault), _) => Some(fault["message"].as_str().unwrap_or(DEAD).to_owned()),
        (None, Err(error)) => Some(format!("Failed to restore checkpoint: {error}")),
        (None, Ok(())) => None,
    };
    if let Some(why) = failed {
        if let Some(sprite) = sim.world().sprites.all.get_mut(id) {
            sprite.trouble = Some(Trouble::ForEver);
            sprite.life.enter(Status::Cold, sim.clock.now());
        }
        lines.send(&event(sim, "error", &why));
        return;
    }
    {
        let mut guard = sim.world();
        let World {
            sprites, ledger, ..
        } = &mut *guard;
        let Some(sprite) = sprites.all.get_mut(id) else {
            return;
        };
        sprite.restores += 1;
        sprite.restored_from = Some(checkpoint.clone());
        ledger.sprite_restored(id, checkpoint, sim.clock.now());
    }
    power::boot(sim, id);
    let text = format!("Restored to {checkpoint}");
    lines.send(&event(sim, "complete", &text));
}
