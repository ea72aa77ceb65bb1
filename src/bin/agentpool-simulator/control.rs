//! The control port: state, faults, calls and ledger, in JSON (runtime.md 19, railway.md 7).

use crate::agent;
use crate::agent::model::Agents;
use crate::ghcr::Ghcr;
use crate::railway::lifecycle::Hands;
use crate::railway::plans::advance;
use crate::railway::{seed, state};
use crate::sprites;
use crate::world::{Sim, World};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;

type Shared = State<Arc<Sim>>;

/// The routes of the control port.
pub fn router(sim: Arc<Sim>) -> Router {
    Router::new()
        .route("/__sim/v1/ledger", get(ledger))
        .route(
            "/__sim/v1/{peer}/state",
            get(read_state).put(put_state).delete(reset_state),
        )
        .route(
            "/__sim/v1/{peer}/faults",
            get(faults).post(arm).delete(disarm),
        )
        .route("/__sim/v1/{peer}/calls", get(calls).delete(forget_calls))
        .with_state(sim)
}

/// The peers that are simulated.
#[derive(Clone, Copy, PartialEq)]
enum Peer {
    Railway,
    Sprites,
    Ghcr,
    Agents,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Railway => "railway",
            Peer::Sprites => "sprites",
            Peer::Ghcr => "ghcr",
            Peer::Agents => "agents",
        }
    }
}

fn peer(name: &str) -> Result<Peer, Box<Response>> {
    match name {
        "railway" => Ok(Peer::Railway),
        "sprites" => Ok(Peer::Sprites),
        "ghcr" => Ok(Peer::Ghcr),
        "agents" => Ok(Peer::Agents),
        other => {
            let why = format!("{other:?} is not simulated");
            let known = ["railway", "sprites", "ghcr", "agents"];
            let body = json!({"error": why, "known": known});
            Err(Box::new(json_response(StatusCode::NOT_FOUND, &body)))
        }
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let json = [("content-type", "application/json")];
    (status, json, body.to_string()).into_response()
}

fn ok(body: &Value) -> Response {
    json_response(StatusCode::OK, body)
}

fn parse(body: &Bytes) -> Result<Value, Box<Response>> {
    serde_json::from_slice(body).map_err(|e| {
        let why = format!("body is not JSON: {e}");
        Box::new(json_response(
            StatusCode::BAD_REQUEST,
            &json!({"error": why}),
        ))
    })
}

fn with_world<T>(sim: &Sim, work: impl FnOnce(&mut World, i64) -> T) -> T {
    let now = sim.clock.now();
    let mut world = sim.world();
    advance(&mut world, now);
    work(&mut world, now)
}

async fn ledger(State(sim): Shared) -> Response {
    ok(&with_world(&sim, |world, now| {
        let awake = |id: &str| world.sprites.all.get(id).map_or(0, |s| s.life.awake(now));
        let mut shown = world.ledger.to_json(&sim.clock, now);
        shown["sprites"] = world.ledger.sprites_json(awake);
        shown
    }))
}

async fn read_state(State(sim): Shared, Path(name): Path<String>) -> Response {
    let peer = match peer(&name) {
        Ok(peer) => peer,
        Err(refusal) => return *refusal,
    };
    ok(&with_world(&sim, |world, now| {
        state_of(&sim, world, peer, now)
    }))
}

fn state_of(sim: &Sim, world: &World, peer: Peer, now: i64) -> Value {
    match peer {
        Peer::Railway => state::to_json(&world.railway, &sim.clock, now),
        Peer::Sprites => sprites::state::to_json(&world.sprites, &sim.clock, now),
        Peer::Ghcr => world.ghcr.to_json(),
        Peer::Agents => agent::state::to_json(&world.agents, &sim.clock, now),
    }
}

async fn put_state(State(sim): Shared, Path(name): Path<String>, body: Bytes) -> Response {
    let (peer, body) = match peer(&name).and_then(|p| parse(&body).map(|b| (p, b))) {
        Ok(both) => both,
        Err(refusal) => return *refusal,
    };
    if peer == Peer::Sprites
        && let Err(why) = sprites::state::put(&sim, &body)
    {
        return json_response(StatusCode::BAD_REQUEST, &json!({"error": why}));
    }
    let outcome = with_world(&sim, |world, now| {
        match peer {
            Peer::Sprites => {}
            Peer::Railway => {
                let World {
                    railway,
                    rng,
                    ledger,
                    ..
                } = world;
                seed::put(
                    &mut Hands {
                        railway,
                        rng,
                        ledger,
                        now,
                        by: "control port",
                    },
                    &body,
                )?;
            }
            Peer::Ghcr => world.ghcr.put(&body)?,
            Peer::Agents => agent::state::put(world, &body, now)?,
        }
        advance(world, now);
        Ok::<Value, String>(state_of(&sim, world, peer, now))
    });
    match outcome {
        Ok(state) => ok(&state),
        Err(why) => json_response(StatusCode::BAD_REQUEST, &json!({"error": why})),
    }
}

async fn reset_state(State(sim): Shared, Path(name): Path<String>) -> Response {
    let peer = match peer(&name) {
        Ok(peer) => peer,
        Err(refusal) => return *refusal,
    };
    if peer == Peer::Sprites {
        sprites::state::reset(&sim);
    }
    with_world(&sim, |world, now| match peer {
        Peer::Sprites => {}
        Peer::Railway => {
            // What existed is deleted, so that the ledger stays true.
            let services: Vec<String> = world.railway.services.keys().cloned().collect();
            let volumes: Vec<String> = world.railway.volumes.keys().cloned().collect();
            let projects: Vec<String> = world.railway.projects.keys().cloned().collect();
            for id in services.iter().chain(&volumes).chain(&projects) {
                world.ledger.deleted(id, now);
            }
            world.railway = seed::default_world(now);
            world.agents.all.retain(|_, a| a.alone || a.in_sprite);
        }
        Peer::Ghcr => world.ghcr = Ghcr::default(),
        Peer::Agents => {
            let all = std::mem::take(&mut world.agents.all);
            world.agents = Agents {
                all,
                ..Agents::default()
            };
        }
    });
    ok(&json!({"ok": true}))
}

async fn faults(State(sim): Shared, Path(name): Path<String>) -> Response {
    match peer(&name) {
        Ok(Peer::Railway) => ok(&sim.world().railway.rules.to_json()),
        Ok(Peer::Sprites) => ok(&sim.world().sprites.rules.to_json()),
        Ok(Peer::Ghcr) => ok(&sim.world().ghcr.faults()),
        Ok(Peer::Agents) => ok(&sim.world().agents.rules.to_json()),
        Err(refusal) => *refusal,
    }
}

async fn arm(State(sim): Shared, Path(name): Path<String>, body: Bytes) -> Response {
    let (peer, body) = match peer(&name).and_then(|p| parse(&body).map(|b| (p, b))) {
        Ok(both) => both,
        Err(refusal) => return *refusal,
    };
    let armed = with_world(&sim, |world, _| {
        let World {
            railway,
            sprites,
            ghcr,
            agents,
            rng,
            ..
        } = world;
        match peer {
            Peer::Sprites => sprites.rules.arm(&body, rng).map(|rule| json!(rule)),
            Peer::Railway => railway.rules.arm(&body, rng).map(|rule| json!(rule)),
            Peer::Ghcr => ghcr.arm(&body),
            Peer::Agents => agents.rules.arm(&body, rng).map(|rule| json!(rule)),
        }
    });
    match armed {
        Ok(rule) => json_response(StatusCode::CREATED, &rule),
        Err(refusal) => json_response(StatusCode::BAD_REQUEST, &refusal),
    }
}

async fn disarm(State(sim): Shared, Path(name): Path<String>) -> Response {
    match peer(&name) {
        Ok(Peer::Railway) => {
            let mut world = sim.world();
            world.railway.rules.clear();
            world.railway.edge_blocked_until = 0;
        }
        Ok(Peer::Sprites) => sim.world().sprites.rules.clear(),
        Ok(Peer::Ghcr) => sim.world().ghcr.heal(),
        Ok(Peer::Agents) => sim.world().agents.rules.clear(),
        Err(refusal) => return *refusal,
    }
    ok(&json!({"ok": true}))
}

async fn calls(State(sim): Shared, Path(name): Path<String>) -> Response {
    match peer(&name) {
        Ok(peer) => ok(&json!({"calls": sim.world().calls.of(peer.name())})),
        Err(refusal) => *refusal,
    }
}

async fn forget_calls(State(sim): Shared, Path(name): Path<String>) -> Response {
    match peer(&name) {
        Ok(peer) => {
            sim.world().calls.clear(peer.name());
            ok(&json!({"ok": true}))
        }
        Err(refusal) => *refusal,
    }
}
