//! One request to an agent that listens: faults of the transport, then the dialect's routes.

use crate::agent::edge::bad_gateway;
use crate::agent::model::Dialect;
use crate::agent::{gateway, wrapper};
use crate::calls::{mask, masked};
use crate::clock::Ms;
use crate::peers::{Reply, Request};
use crate::world::{Sim, World};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Faults that decide before the work begins.
enum Before {
    Nothing,
    Answer(Reply),
    /// The work is done, and this is answered instead; `true`: without waiting for it.
    Instead(Reply, bool),
}

/// Statuses that refuse a claim call as such: nothing was done (runtime.md 7.1).
const REFUSED: [u64; 8] = [400, 401, 403, 404, 405, 413, 422, 503];

/// Answers one request, and keeps the books of refused claim calls.
pub async fn answer(sim: &Arc<Sim>, id: &str, request: &Request) -> Reply {
    let account = sim.world().agents.all.get(id).map(|a| a.account.clone());
    let reply = reply(sim, id, request).await;
    let refused = reply
        .status()
        .as_u64()
        .is_some_and(|s| REFUSED.contains(&s));
    if let Some(account) = account.filter(|_| refused && is_claim(request)) {
        sim.world().ledger.account(&account).claims_refused += 1;
    }
    reply
}

/// The work goes on when the caller hangs up.
async fn reply(sim: &Arc<Sim>, id: &str, request: &Request) -> Reply {
    let now = sim.clock.now();
    let path = request.path().to_owned();
    let (before, twice, generation) = {
        let mut world = sim.world();
        let world = &mut *world;
        let Some(agent) = world.agents.all.get_mut(id) else {
            return bad_gateway();
        };
        agent.last_request = agent.last_request.max(now);
        let generation = agent.generation;
        let twice = is_claim(request)
            && world
                .agents
                .fault(id, "duplicateRequest", now, &mut world.rng)
                .is_some();
        (before(world, id, request, now), twice, generation)
    };
    let (instead, at_once) = match before {
        Before::Answer(reply) => return reply,
        Before::Instead(reply, at_once) => (Some(reply), at_once),
        Before::Nothing => (None, false),
    };
    if twice {
        start(sim, id, request);
    }
    let work = start(sim, id, request);
    if at_once {
        sim.clock.sleep(500).await;
        return instead.unwrap_or(Reply::Reset);
    }
    let reply = work.await.unwrap_or(Reply::Reset);
    let mut world = sim.world();
    let world = &mut *world;
    let same = world
        .agents
        .all
        .get(id)
        .is_some_and(|a| a.alive && a.generation == generation);
    if !same {
        // The process ended under the request.
        let alone = world.agents.all.get(id).is_none_or(|a| a.alone);
        return if alone { Reply::Reset } else { bad_gateway() };
    }
    instead.unwrap_or_else(|| after(world, id, &path, reply, sim.clock.now()))
}

fn start(sim: &Arc<Sim>, id: &str, request: &Request) -> tokio::task::JoinHandle<Reply> {
    let (task_sim, id, request) = (sim.clone(), id.to_owned(), request.clone());
    sim.spawn(async move {
        let dialect = dialect_now(&task_sim, &id);
        match dialect {
            Dialect::Gateway => gateway::answer(&task_sim, &id, &request).await,
            Dialect::PoolServer => wrapper::answer(&task_sim, &id, &request).await,
        }
    })
}

fn dialect_now(sim: &Sim, id: &str) -> Dialect {
    let now = sim.clock.now();
    let mut world = sim.world();
    let world = &mut *world;
    let dialect = world
        .agents
        .all
        .get(id)
        .map_or(Dialect::Gateway, |a| a.dialect);
    match (
        world.agents.fault(id, "wrongDialect", now, &mut world.rng),
        dialect,
    ) {
        (None, dialect) => dialect,
        (Some(_), Dialect::Gateway) => Dialect::PoolServer,
        (Some(_), Dialect::PoolServer) => Dialect::Gateway,
    }
}

fn is_claim(request: &Request) -> bool {
    let claims = ["/pool/provision", "/convos/conversation", "/convos/join"];
    request.method == "POST" && claims.contains(&request.path())
}

fn before(world: &mut World, id: &str, request: &Request, now: Ms) -> Before {
    let World {
        agents,
        rng,
        ledger,
        ..
    } = world;
    let Some(agent) = agents.all.get(id) else {
        return Before::Answer(bad_gateway());
    };
    if is_claim(request) {
        ledger.account(&agent.account).claim_calls += 1;
    }
    let generation = agent.generation;
    let last = request
        .connection
        .process
        .swap(generation, Ordering::Relaxed);
    if last != 0
        && last != generation
        && agents
            .fault(id, "stalePooledConnection", now, rng)
            .is_some()
    {
        return Before::Answer(Reply::Reset);
    }
    let mut fires = |kind: &str| agents.fault_on(id, kind, request.path(), now, rng);
    if fires("hang").is_some() {
        return Before::Answer(Reply::Hang);
    }
    for (kind, reply) in [
        ("gateway502", bad_gateway()),
        ("504", Reply::text(504, "error code: 504")),
    ] {
        if let Some(fault) = fires(kind) {
            let applied = fault["applied"].as_bool().unwrap_or(false);
            return if applied {
                Before::Instead(reply, false)
            } else {
                Before::Answer(reply)
            };
        }
    }
    if let Some(fault) = fires("reset") {
        return match fault["at"].as_str().unwrap_or("before") {
            "middle" => Before::Instead(Reply::Reset, true),
            "after" => Before::Instead(Reply::Reset, false),
            _ => Before::Answer(Reply::Reset),
        };
    }
    Before::Nothing
}

fn after(world: &mut World, id: &str, path: &str, reply: Reply, now: Ms) -> Reply {
    let World { agents, rng, .. } = world;
    let mut fires = |kind: &str| agents.fault_on(id, kind, path, now, rng).is_some();
    if reply.status() != json!(200) {
        return reply;
    }
    if fires("halfAnswer") {
        reply.halved()
    } else if fires("badJson") {
        reply.with_body("{\"ready\": tru")
    } else if fires("emptyBody") {
        reply.with_body("")
    } else if fires("missingFields") {
        reply.with_body("{}")
    } else if path == "/convos/status" && fires("htmlStatus") {
        control_ui()
    } else {
        reply
    }
}

/// What a gateway answers to a GET of anything it does not know.
pub fn control_ui() -> Reply {
    Reply::html(
        200,
        "<!doctype html><html><head><title>Control</title></head><body></body></html>",
    )
}

/// Writes the call into the log as it comes in, with the claim's fields as they came.
pub fn write_down(sim: &Sim, request: &Request, account: &str, now: Ms) -> usize {
    let body: Value = match serde_json::from_slice(&request.body) {
        Ok(body) => masked(&body),
        Err(_) if request.body.is_empty() => Value::Null,
        Err(_) => String::from_utf8_lossy(&request.body).into(),
    };
    let token = request
        .header("authorization")
        .map(|value| match value.split_once(' ') {
            Some((scheme, token)) => format!("{scheme} {}", mask(token)),
            None => mask(value),
        });
    let mut world = sim.world();
    let service = world.railway.services.get(account).map(|s| s.name.clone());
    let service = service.or_else(|| world.sprites.at_host(&request.host).map(|s| s.name.clone()));
    let call = json!({
        "time": sim.clock.stamp(now), "host": request.host, "method": request.method, "path": request.target,
        "serviceId": account, "service": service, "authorization": token, "body": body, "status": null,
    });
    world.calls.push("agents", call)
}
