//! What both dialects share: making and joining conversations in a runtime process.
//!
//! A runtime checks that it is not bound, then works, then binds. It reserves nothing, and nobody
//! can call the work off but the end of its process.

use crate::agent::callbacks;
use crate::agent::faults::PENDING;
use crate::agent::model::{Bound, Dialect, Join, Kind};
use crate::clock::Ms;
use crate::world::{Sim, World};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Status and body; status 0: the process ended under the request.
pub type Answer = (u16, Value);

/// The answer of a process that is no more.
pub const GONE: Answer = (0, Value::Null);

/// A body as the runtimes read it.
pub enum Body {
    Object(Map<String, Value>),
    /// Not an object, with the answer that follows.
    Refused(u16, Value),
}

/// Reads a body: OpenClaw takes arrays and strings for objects without fields.
pub fn read_body(raw: &[u8], kind: Kind) -> Body {
    let raw = if raw.is_empty() { b"{}" } else { raw };
    let hermes = |kind: &str| {
        Body::Refused(
            422,
            json!({"detail": [{"type": kind, "loc": ["body"], "msg": "Input should be a valid dictionary", "input": null}]}),
        )
    };
    if kind == Kind::Openclaw && raw.len() > 1_048_576 {
        return Body::Refused(500, json!({"error": "request body too large"}));
    }
    match (serde_json::from_slice(raw), kind) {
        (Ok(Value::Object(fields)), _) => Body::Object(fields),
        (Ok(Value::Null), Kind::Openclaw) => Body::Refused(
            500,
            json!({"error": "Cannot read properties of null (reading 'name')"}),
        ),
        (Ok(_), Kind::Openclaw) => Body::Object(Map::new()),
        (Err(e), Kind::Openclaw) => Body::Refused(500, json!({"error": e.to_string()})),
        (Ok(_), Kind::Hermes) => hermes("dict_type"),
        (Err(_), Kind::Hermes) => hermes("json_invalid"),
    }
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    body.get(name)
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty())
}

/// The guard: refuses when bound, else counts the work in and names the process it belongs to.
fn enter(sim: &Sim, id: &str) -> Result<u64, Answer> {
    let now = sim.clock.now();
    let mut world = sim.world();
    let World {
        agents,
        rng,
        ledger,
        ..
    } = &mut *world;
    let bind_first = agents.fault(id, "boundInBetween", now, rng).is_some();
    let forced = agents.fault(id, "alreadyBound", now, rng).is_some();
    let Some(agent) = agents.all.get_mut(id).filter(|a| a.alive) else {
        return Err(GONE);
    };
    if (bind_first || forced) && agent.bound.is_none() {
        let bound = Bound {
            id: rng.hex(32),
            inbox: rng.hex(64),
        };
        ledger
            .account(&agent.account)
            .binds
            .push(json!({"id": bound.id, "by": "another caller", "atMs": now}));
        agent.bound = Some(bound);
    }
    if let Some(bound) = &agent.bound {
        let text = format!("Instance is already bound to conversation {}", bound.id);
        return Err((409, json!({"error": text})));
    }
    agent.working += 1;
    Ok(agent.child)
}

fn leave(sim: &Sim, id: &str, child: u64) {
    if let Some(agent) = sim
        .world()
        .agents
        .all
        .get_mut(id)
        .filter(|a| a.child == child)
    {
        agent.working = agent.working.saturating_sub(1);
    }
}

fn draw(sim: &Sim, id: &str, knob: &str) -> Ms {
    let mut world = sim.world();
    let world = &mut *world;
    world.agents.latency(id, knob, &mut world.rng)
}

fn fault(sim: &Sim, id: &str, kind: &str) -> Option<Value> {
    let now = sim.clock.now();
    let mut world = sim.world();
    let world = &mut *world;
    world.agents.fault(id, kind, now, &mut world.rng)
}

/// Ends the process with a code.
pub fn die(sim: &Sim, id: &str, code: i32) {
    let now = sim.clock.now();
    let mut world = sim.world();
    let World {
        agents,
        railway,
        ledger,
        rng,
        ..
    } = &mut *world;
    agents.exit((railway, ledger, rng), id, code, now);
}

fn still(sim: &Sim, id: &str, child: u64) -> bool {
    sim.world()
        .agents
        .all
        .get(id)
        .is_some_and(|a| a.alive && a.child == child)
}

/// `POST /convos/conversation`: guard, work, bind, answer.
pub async fn create(sim: &Arc<Sim>, id: &str, raw: &[u8]) -> Answer {
    let kind = kind_of(sim, id);
    let child = match enter(sim, id) {
        Ok(child) => child,
        Err(refusal) => return refusal,
    };
    let answer = match read_body(raw, kind) {
        Body::Refused(status, body) => (status, body),
        Body::Object(body) => create_work(sim, id, child, &body).await,
    };
    leave(sim, id, child);
    answer
}

async fn create_work(sim: &Arc<Sim>, id: &str, child: u64, body: &Map<String, Value>) -> Answer {
    if fault(sim, id, "create500Before").is_some() {
        return (
            500,
            json!({"error": "simulated failure before the conversation was made"}),
        );
    }
    let mut takes = draw(sim, id, "create");
    if let Some(slow) = fault(sim, id, "createSlow") {
        takes = slow["ms"].as_i64().unwrap_or(12_000);
    }
    mark_dirty(sim, id);
    let dies = fault(sim, id, "dieClaiming");
    if let Some(death) = dies.as_ref().filter(|d| d["at"] != "after") {
        sim.clock.sleep(takes / 2).await;
        die(sim, id, death["code"].as_i64().unwrap_or(1) as i32);
        return GONE;
    }
    sim.clock.sleep(takes).await;
    if !still(sim, id, child) {
        return GONE;
    }
    let (bound, url, slug) = bind_new(sim, id, body);
    if let Some(death) = dies {
        die(sim, id, death["code"].as_i64().unwrap_or(1) as i32);
        return GONE;
    }
    callbacks::attest(sim, id, &bound.inbox).await;
    if !still(sim, id, child) {
        return GONE;
    }
    if fault(sim, id, "create500After").is_some() {
        return (
            500,
            json!({"error": "simulated failure after the conversation was made"}),
        );
    }
    (
        200,
        json!({"conversationId": bound.id, "inviteUrl": url, "inviteSlug": slug}),
    )
}

fn mark_dirty(sim: &Sim, id: &str) {
    if let Some(agent) = sim.world().agents.all.get_mut(id) {
        agent.dirty = true;
    }
}

fn kind_of(sim: &Sim, id: &str) -> Kind {
    sim.world()
        .agents
        .all
        .get(id)
        .map_or(Kind::Openclaw, |a| a.kind)
}

fn bind_new(sim: &Sim, id: &str, body: &Map<String, Value>) -> (Bound, String, String) {
    let now = sim.clock.now();
    let mut world = sim.world();
    let rng = &mut world.rng;
    let (slug, bound) = (
        rng.slug(),
        Bound {
            id: rng.hex(32),
            inbox: rng.hex(64),
        },
    );
    let asked = match world.agents.all.get(id) {
        Some(agent) if agent.dialect == Dialect::Gateway => text(body, "env"),
        _ => None,
    };
    let network = world
        .agents
        .all
        .get(id)
        .map(|a| a.network(asked))
        .unwrap_or_default();
    let domain = match network.as_str() {
        "production" => "popup.convos.org",
        "testnet" => "testnet.convos.org",
        _ => "dev.convos.org",
    };
    let on_disk = world
        .agents
        .all
        .get(id)
        .and_then(|a| a.instructions_on_disk.clone());
    let made = json!({
        "id": bound.id, "atMs": now, "env": network, "name": text(body, "name"),
        "profileName": text(body, "profileName"), "instructions": text(body, "instructions").map(str::to_owned).or(on_disk),
    });
    bind(&mut world, id, bound.clone(), "create", now);
    if let Some(account) = world.agents.all.get(id).map(|a| a.account.clone()) {
        world.ledger.account(&account).conversations.push(made);
    }
    // Percent-encoded once: of the slug's characters only the star would need it, and * is allowed.
    (bound, format!("https://{domain}/v2?i={slug}"), slug)
}

/// Binds the agent, over whatever it was bound to.
fn bind(world: &mut World, id: &str, bound: Bound, by: &str, now: Ms) {
    let Some(agent) = world.agents.all.get_mut(id) else {
        return;
    };
    let entry = json!({"id": bound.id, "by": by, "atMs": now});
    agent.bound = Some(bound);
    agent.dirty = true;
    agent.join = Join::None;
    agent.binds += 1;
    agent.bound_at = now;
    let account = agent.account.clone();
    let saved = (agent.bound.clone(), true);
    world.ledger.account(&account).binds.push(entry);
    world.agents.disks.insert(account, saved);
}

/// `POST /convos/join`: guard, wait for acceptance, bind, answer.
pub async fn join(sim: &Arc<Sim>, id: &str, raw: &[u8]) -> Answer {
    let kind = kind_of(sim, id);
    let child = match enter(sim, id) {
        Ok(child) => child,
        Err(refusal) => return refusal,
    };
    let answer = match read_body(raw, kind) {
        Body::Refused(status, body) => (status, body),
        Body::Object(body) => match text(&body, "inviteUrl") {
            Some(url) => join_work(sim, id, child, url).await,
            None if kind == Kind::Hermes => (
                422,
                json!({"detail": [{"type": "missing", "loc": ["body", "inviteUrl"], "msg": "Field required"}]}),
            ),
            None => (400, json!({"error": "inviteUrl (string) is required"})),
        },
    };
    leave(sim, id, child);
    answer
}

async fn join_work(sim: &Arc<Sim>, id: &str, child: u64, url: &str) -> Answer {
    for (kind, why) in [
        ("join500", "simulated failure of the join"),
        ("joinBadInvite", "invite is invalid or expired"),
    ] {
        if fault(sim, id, kind).is_some() {
            mark_dirty(sim, id);
            return (500, json!({"error": why}));
        }
    }
    let pending = PENDING.iter().find_map(|kind| fault(sim, id, kind));
    let (takes, wait) = (draw(sim, id, "join"), draw(sim, id, "joinWait"));
    mark_dirty(sim, id);
    let dies = fault(sim, id, "dieClaiming");
    if let Some(death) = dies.as_ref().filter(|d| d["at"] != "after") {
        sim.clock.sleep(takes / 2).await;
        die(sim, id, death["code"].as_i64().unwrap_or(1) as i32);
        return GONE;
    }
    sim.clock.sleep(takes.min(wait)).await;
    if pending.is_none() && takes <= wait {
        if !still(sim, id, child) {
            return GONE;
        }
        let bound = accept(sim, id, url);
        if let Some(death) = dies {
            die(sim, id, death["code"].as_i64().unwrap_or(1) as i32);
            return GONE;
        }
        callbacks::attest(sim, id, &bound.inbox).await;
        return if still(sim, id, child) {
            (200, json!({"status": "joined", "conversationId": bound.id}))
        } else {
            GONE
        };
    }
    sim.clock.sleep(wait - takes.min(wait)).await;
    if !still(sim, id, child) {
        return GONE;
    }
    let dialect = set_join(sim, id, Join::Pending);
    if let Some(fault) = pending {
        let (task_sim, id) = (sim.clone(), id.to_owned());
        let url = url.to_owned();
        sim.spawn(async move { after_pending(&task_sim, &id, child, &fault, &url).await });
    }
    let status = if dialect == Dialect::Gateway {
        "waiting_for_acceptance"
    } else {
        "pending_acceptance"
    };
    (200, json!({"status": status}))
}

fn set_join(sim: &Sim, id: &str, join: Join) -> Dialect {
    let mut world = sim.world();
    let Some(agent) = world.agents.all.get_mut(id) else {
        return Dialect::PoolServer;
    };
    agent.join = join;
    agent.dialect
}

fn accept(sim: &Sim, id: &str, url: &str) -> Bound {
    use sha2::{Digest, Sha256};
    let now = sim.clock.now();
    let mut world = sim.world();
    // One invite leads into one conversation, whoever joins.
    let digest: String = Sha256::digest(url.as_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let bound = Bound {
        id: digest[..32].to_owned(),
        inbox: world.rng.hex(64),
    };
    bind(&mut world, id, bound.clone(), "join", now);
    bound
}

/// Only managed Hermes watches for the acceptance, and tells of it (runtime.md 9).
fn watches(sim: &Sim, id: &str) -> bool {
    let world = sim.world();
    let agent = world.agents.all.get(id);
    agent.is_some_and(|a| a.kind == Kind::Hermes && a.dialect == Dialect::PoolServer)
}

async fn after_pending(sim: &Arc<Sim>, id: &str, child: u64, fault: &Value, url: &str) {
    let kind = fault["kind"].as_str().unwrap_or_default();
    if kind == "pending" || kind == "pendingForever" {
        return;
    }
    let seconds = fault["seconds"].as_f64().unwrap_or(30.0);
    sim.clock.sleep((seconds * 1000.0) as Ms).await;
    let waits = sim
        .world()
        .agents
        .all
        .get(id)
        .is_some_and(|a| a.alive && a.child == child && a.join == Join::Pending);
    if !waits {
        return;
    }
    let watches = watches(sim, id);
    if kind == "pendingThenFailed" {
        set_join(sim, id, Join::Failed);
        if watches {
            callbacks::pending(sim, id, None).await;
        }
        return;
    }
    let conversation = if kind == "callbackWithoutState" {
        sim.world().rng.hex(32)
    } else {
        let bound = accept(sim, id, url);
        callbacks::attest(sim, id, &bound.inbox).await;
        bound.id
    };
    let times = match kind {
        _ if !watches => 0,
        "acceptedWithoutCallback" => 0,
        "callbackTwice" => 2,
        _ => 1,
    };
    for _ in 0..times {
        callbacks::pending(sim, id, Some(&conversation)).await;
    }
}
