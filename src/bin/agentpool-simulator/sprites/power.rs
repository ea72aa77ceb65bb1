//! What the states of a sprite do to its processes: wake, freeze, lose, boot.

use crate::clock::Ms;
use crate::sprites::answer::{Answer, no_sprite, too_many};
use crate::sprites::life::Status;
use crate::sprites::machine::Machine;
use crate::sprites::model::Trouble;
use crate::sprites::{gateway, inside, supervisor};
use crate::world::{Sim, World};
use std::sync::{Arc, PoisonError};

/// Keeps a sprite awake while it lives.
pub struct Hold {
    sim: Arc<Sim>,
    /// The sprite's id.
    pub id: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let now = self.sim.clock.now();
        if let Some(sprite) = self.sim.world().sprites.all.get_mut(&self.id) {
            sprite.life.holds = sprite.life.holds.saturating_sub(1);
            sprite.life.last_activity = now;
        }
    }
}

/// Wakes a sprite if it sleeps, waits until it runs, and holds it awake. `cause` is the operation.
pub async fn enter(sim: &Arc<Sim>, id: &str, cause: &str) -> Result<Hold, Answer> {
    let (from, ready_at) = begin(sim, id, cause)?;
    let hold = Hold {
        sim: sim.clone(),
        id: id.to_owned(),
    };
    sim.clock.sleep_until(ready_at).await;
    match from {
        Some(Status::Warm) => thaw(sim, id),
        Some(_) => boot(sim, id),
        // Whoever woke it may still be at it.
        None => in_turn(sim, id, || ()),
    }
    let now = sim.clock.now();
    match sim.world().sprites.all.get(id) {
        None => Err(no_sprite()),
        Some(sprite) if sprite.is_troubled(now) => Err(unavailable()),
        Some(_) => Ok(hold),
    }
}

fn unavailable() -> Answer {
    Answer::error(503, "sprite is not available")
}

fn begin(sim: &Sim, id: &str, cause: &str) -> Result<(Option<Status>, Ms), Answer> {
    let now = sim.clock.now();
    let mut guard = sim.world();
    let World {
        sprites,
        ledger,
        rng,
        ..
    } = &mut *guard;
    let times = sprites.times();
    let limit = sprites.knobs.get("running_limit");
    let Some(sprite) = sprites.all.get(id) else {
        return Err(no_sprite());
    };
    if sprite.is_troubled(now) {
        return Err(unavailable());
    }
    if sprite.life.status != Status::Running {
        let name = sprite.name.clone();
        let full = sprites.count(&sprite.organization, Status::Running) as i64 >= limit;
        if full
            || sprites
                .rules
                .fires("capacity", ("wake", &name), rng)
                .is_some()
        {
            return Err(too_many("concurrent_sprite_limit_exceeded", (limit, 0), 10));
        }
    }
    let Some(sprite) = sprites.all.get_mut(id) else {
        return Err(no_sprite());
    };
    let from = sprite.life.wake(now, times);
    sprite.life.holds += 1;
    if let Some(from) = from {
        ledger.sprite_woke(id, cause, from.name(), now);
    }
    Ok((from, sprite.life.ready_at))
}

/// Does something to a machine while nobody else does.
fn in_turn<T>(sim: &Sim, id: &str, work: impl FnOnce() -> T) -> T {
    let turn = sim.machines.turn(id);
    let _held = turn.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

fn is(sim: &Sim, id: &str, status: Status) -> bool {
    sim.world()
        .sprites
        .all
        .get(id)
        .is_some_and(|s| s.life.status == status)
}

/// Frozen processes go on.
fn thaw(sim: &Sim, id: &str) {
    in_turn(sim, id, || {
        if let Ok(machine) = Machine::of(sim, id) {
            machine.signal_all("CONT");
        }
    });
}

/// A cold boot: no process is left, `/tmp` is empty, services start afresh from the disk.
pub fn boot(sim: &Arc<Sim>, id: &str) {
    let prepared = in_turn(sim, id, || {
        let machine = Machine::of(sim, id)?;
        machine.kill_all();
        machine.clear_tmp();
        machine.prepare()?;
        Ok::<Machine, std::io::Error>(machine)
    });
    match prepared {
        Ok(machine) => {
            inside::serve(sim, id, &machine);
            supervisor::boot(sim, id, &machine);
        }
        Err(error) => tracing::error!(%error, "a sprite's machine cannot be made"),
    }
}

/// Goes into a state at once, whatever holds it.
pub fn force(sim: &Arc<Sim>, id: &str, status: Status) {
    let now = sim.clock.now();
    let before = {
        let mut world = sim.world();
        let Some(sprite) = world.sprites.all.get_mut(id) else {
            return;
        };
        let before = sprite.life.status;
        sprite.life.enter(status, now);
        before
    };
    match (before, status) {
        (Status::Cold, Status::Running) => boot(sim, id),
        (Status::Warm, Status::Running) => thaw(sim, id),
        (_, Status::Running) => {}
        (_, Status::Warm) => freeze(sim, id),
        (_, Status::Cold) => chill(sim, id),
    }
}

/// Freezes all processes and drops connections, unless it was woken meanwhile.
fn freeze(sim: &Sim, id: &str) {
    in_turn(sim, id, || {
        if is(sim, id, Status::Warm) {
            sim.sessions.cut(id);
            if let Ok(machine) = Machine::of(sim, id) {
                machine.signal_all("STOP");
            }
        }
    });
}

/// Goes cold, unless it was woken meanwhile: then the boot ends what is left.
fn chill(sim: &Sim, id: &str) {
    if is(sim, id, Status::Cold) {
        lose_memory(sim, id);
    }
}

/// Ends all processes and sessions; the services' last state stays as it was.
pub fn lose_memory(sim: &Sim, id: &str) {
    in_turn(sim, id, || {
        if let Some(sprite) = sim.world().sprites.all.get_mut(id) {
            sprite.boot += 1;
            sprite.life.tasks.clear();
            for service in sprite.services.values_mut() {
                service.next_restart = None;
            }
        }
        sim.sessions.forget(id);
        if let Ok(machine) = Machine::of(sim, id) {
            machine.kill_all();
        }
    });
    gateway::gone(sim, id);
}

/// Removes processes and disk of a sprite that is no more.
pub fn erase(sim: &Sim, id: &str) {
    in_turn(sim, id, || {
        sim.sessions.forget(id);
        if let Ok(machine) = Machine::of(sim, id) {
            machine.erase();
        }
    });
}

/// Brings all sprites to now: they fall asleep, services come back, gateways come and go.
pub fn tick(sim: &Arc<Sim>) {
    let now = sim.clock.now();
    let (mut changes, mut awake) = (Vec::new(), Vec::new());
    {
        let mut world = sim.world();
        let times = world.sprites.times();
        for sprite in world.sprites.all.values_mut() {
            if let Some(Trouble::Until(at)) = sprite.trouble
                && at <= now
            {
                sprite.trouble = None;
            }
            let entered = sprite.life.advance(now, times);
            changes.extend(entered.last().map(|last| (sprite.id.clone(), *last)));
            if sprite.life.status == Status::Running {
                awake.push(sprite.id.clone());
            }
        }
        changes.extend(over_limit(&mut world, now));
    }
    for (id, status) in changes {
        match status {
            Status::Warm => freeze(sim, &id),
            _ => chill(sim, &id),
        }
    }
    for id in awake {
        supervisor::restart_due(sim, &id, now);
        gateway::sync(sim, &id);
    }
}

/// Warm sprites beyond the limit go cold, the longest asleep first.
fn over_limit(world: &mut World, now: Ms) -> Vec<(String, Status)> {
    let most = world.sprites.knobs.get("warm_limit").max(0) as usize;
    let mut warm: Vec<(String, Ms, String)> = world
        .sprites
        .all
        .values()
        .filter(|s| s.life.status == Status::Warm)
        .map(|s| (s.organization.clone(), s.life.since, s.id.clone()))
        .collect();
    warm.sort();
    warm.reverse();
    let mut kept = std::collections::BTreeMap::<String, usize>::new();
    let mut cold = Vec::new();
    for (organization, _, id) in warm {
        let kept = kept.entry(organization).or_default();
        *kept += 1;
        if *kept > most
            && let Some(sprite) = world.sprites.all.get_mut(&id)
        {
            sprite.life.enter(Status::Cold, now);
            cold.push((id, Status::Cold));
        }
    }
    cold
}
