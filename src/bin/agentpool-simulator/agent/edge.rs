//! The provider's edge in front of the agents: which container answers for a host, and what the
//! edge itself says when none does (railway.md 3.7).

use crate::agent::answer;
use crate::clock::Ms;
use crate::peers::{Reply, Request};
use crate::railway::deploy::Status;
use crate::railway::plans::{advance, happen_until, set_sleeping};
use crate::world::{Sim, World};
use serde_json::json;
use std::sync::Arc;

enum Route {
    /// The edge answers.
    Edge(Reply),
    /// This agent answers, not before the moment given.
    Agent(String, Ms),
}

/// Answers a request to the host of an agent.
pub async fn answer(sim: &Arc<Sim>, request: Request) -> Reply {
    let now = sim.clock.now();
    let (route, account) = {
        let mut world = sim.world();
        happen_until(&mut world, now);
        let mut found = route(&mut world, &request.host, now);
        if matches!(found, Route::Edge(_)) {
            // Perhaps the container has come up since the last tick.
            advance(&mut world, now);
            found = route(&mut world, &request.host, now);
        }
        let route = found;
        let account = note(&mut world, &route, &request.host);
        (route, account)
    };
    let number = answer::write_down(sim, &request, &account, now);
    let reply = match route {
        Route::Edge(reply) => reply,
        Route::Agent(id, from) => {
            sim.clock.sleep_until(from).await;
            answer::answer(sim, &id, &request).await
        }
    };
    let status = reply.status();
    sim.world().calls.finish("agents", number, status);
    reply
}

fn note(world: &mut World, route: &Route, host: &str) -> String {
    let by_agent = match route {
        Route::Agent(id, _) => world.agents.all.get(id).map(|a| a.account.clone()),
        Route::Edge(_) => None,
    };
    let account = by_agent.or_else(|| {
        world
            .railway
            .hosts
            .get(host)
            .map(|(service, _)| service.clone())
    });
    let Some(account) = account else {
        return String::new();
    };
    world.ledger.account(&account).requests += 1;
    account
}

fn not_found() -> Reply {
    Reply::json(
        404,
        &json!({"status": "error", "code": 404, "message": "Application not found"}),
    )
}

/// The edge's answer while nothing listens.
pub fn bad_gateway() -> Reply {
    Reply::json(
        502,
        &json!({"status": "error", "code": 502, "message": "Application failed to respond"}),
    )
}

fn route(world: &mut World, host: &str, now: Ms) -> Route {
    if let Some(alone) = world.agents.all.values().find(|a| a.alone) {
        // Nothing listens before the process is up, nor after it has ended.
        let listens = alone.alive && alone.listens_from() <= now;
        let id = alone.id.clone();
        return if listens {
            Route::Agent(id, now)
        } else {
            Route::Edge(Reply::Reset)
        };
    }
    let railway = &world.railway;
    let instance = railway
        .hosts
        .get(host)
        .and_then(|key| railway.instances.get(key));
    let Some(instance) = instance.filter(|i| i.life.exists(now)) else {
        return Route::Edge(not_found());
    };
    let Some(serving) = railway.serving(instance, now) else {
        return Route::Edge(not_found());
    };
    let (id, step) = (serving.id.clone(), serving.timeline.at(now).clone());
    let down = world
        .agents
        .all
        .get(&id)
        .is_some_and(|a| !a.alive && a.down_since.is_some());
    match step.status {
        Status::Crashed => Route::Edge(bad_gateway()),
        Status::Sleeping => wake(world, &id, now),
        _ if step.stopped || down => Route::Edge(Reply::Hang),
        _ => match world
            .agents
            .all
            .get(&id)
            .filter(|a| a.alive && a.listens_from() <= now)
        {
            Some(_) => Route::Agent(id, now),
            None => Route::Edge(bad_gateway()),
        },
    }
}

fn wake(world: &mut World, id: &str, now: Ms) -> Route {
    let visible = now + world.railway.timings.ms("wake");
    set_sleeping(&mut world.railway, id, visible, false);
    let mut held = world.agents.latency(id, "wake", &mut world.rng);
    if let Some(fault) = world.agents.fault(id, "wakeSlow", now, &mut world.rng) {
        held = fault["ms"].as_i64().unwrap_or(30_000);
    }
    if let Some(agent) = world.agents.all.get_mut(id) {
        agent.last_request = now + held;
    }
    Route::Agent(id.to_owned(), now + held)
}
