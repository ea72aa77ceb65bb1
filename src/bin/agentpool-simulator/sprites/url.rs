//! A sprite's URL: the edge asks for a token or not, wakes the sprite, and leads to its gateway
//! (sprites.md 3.11).

use crate::agent::answer as agent;
use crate::peers::{Reply, Request};
use crate::sprites::answer::Answer;
use crate::sprites::faults::{number, seconds};
use crate::sprites::machine::Machine;
use crate::sprites::{gateway, power};
use crate::world::{Sim, World};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How often a request that waits for port 8080 looks again, in real time.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Answers a request to a sprite's host; none: it is no sprite's.
pub async fn answer(sim: &Arc<Sim>, request: &Request) -> Option<Reply> {
    let now = sim.clock.now();
    let (id, refused) = {
        let world = sim.world();
        let sprite = world.sprites.at_host(&request.host)?;
        let bearer = request
            .header("authorization")
            .and_then(|v| v.strip_prefix("Bearer "));
        let organization = bearer.and_then(|token| world.sprites.organization_of(token));
        let may = sprite.public || organization == Some(&sprite.organization);
        (sprite.id.clone(), !may)
    };
    let account = account(sim, &id);
    let number = agent::write_down(sim, request, &account, now);
    let task_sim = sim.clone();
    let request = request.clone();
    // Carried out to its end even if the caller hangs up.
    let work = sim.spawn(async move { through(&task_sim, &id, &request, refused).await });
    let reply = work.await.unwrap_or(Reply::Reset);
    sim.world().calls.finish("agents", number, reply.status());
    Some(reply)
}

fn account(sim: &Sim, id: &str) -> String {
    let mut world = sim.world();
    let account = world
        .sprites
        .all
        .get(id)
        .map(|s| s.account())
        .unwrap_or_default();
    world.ledger.account(&account).requests += 1;
    account
}

async fn through(sim: &Arc<Sim>, id: &str, request: &Request, refused: bool) -> Reply {
    match fault(sim, id, request) {
        Some(Fault::Refused) => return to_login(request),
        Some(Fault::Reply(reply)) => return reply,
        Some(Fault::Hangs) => return hang(sim).await,
        Some(Fault::Slow(ms)) => sim.clock.sleep(ms).await,
        None => {}
    }
    if refused {
        return to_login(request);
    }
    let cause = format!("url {} {}", request.method, request.path());
    let hold = match power::enter(sim, id, &cause).await {
        Ok(hold) => hold,
        Err(Answer::Whole {
            status: 429, body, ..
        }) => {
            return Reply::text(429, &String::from_utf8_lossy(&body));
        }
        Err(_) => return Reply::text(502, "bad gateway"),
    };
    let reply = forward(sim, id, request).await;
    drop(hold);
    reply
}

/// Hands the request to the gateway as soon as it listens.
pub async fn forward(sim: &Arc<Sim>, id: &str, request: &Request) -> Reply {
    let until = sim.clock.now() + sim.world().sprites.knobs.ms("url_hang_s");
    loop {
        gateway::sync(sim, id);
        let now = sim.clock.now();
        let listens = {
            let world = sim.world();
            world
                .agents
                .all
                .get(id)
                .is_some_and(|a| a.alive && a.listens_from() <= now)
        };
        if listens {
            gateway::read_in(sim, id);
            let reply = agent::answer(sim, id, request).await;
            if let Ok(machine) = Machine::of(sim, id) {
                gateway::write_back(sim, id, &machine);
            }
            return reply;
        }
        if now >= until
            || sim
                .world()
                .sprites
                .all
                .get(id)
                .is_none_or(|s| s.is_troubled(now))
        {
            return Reply::text(502, "bad gateway");
        }
        sim.clock.sleep_real(LOOK_AGAIN).await;
    }
}

fn to_login(request: &Request) -> Reply {
    let back = format!("https://{}{}", request.host, request.path());
    let to = format!("https://sprites.dev/auth/sprite?return_url={back}");
    Reply::html(302, "<a href=\"https://sprites.dev\">Found</a>").with("location", &to)
}

async fn hang(sim: &Sim) -> Reply {
    let lasts = sim.world().sprites.knobs.ms("url_hang_s");
    sim.clock.sleep(lasts).await;
    Reply::text(502, "bad gateway")
}

enum Fault {
    Refused,
    Hangs,
    Slow(i64),
    Reply(Reply),
}

fn fault(sim: &Sim, id: &str, request: &Request) -> Option<Fault> {
    let mut guard = sim.world();
    let World { sprites, rng, .. } = &mut *guard;
    let name = sprites.all.get(id)?.name.clone();
    let mut fires = |kind: &str| sprites.rules.fires(kind, ("url", &name), rng);
    if fires("url_refuses").is_some() {
        return Some(Fault::Refused);
    }
    if fires("url_hangs").is_some() {
        return Some(Fault::Hangs);
    }
    if fires("timeout").is_some() {
        return Some(Fault::Reply(Reply::Hang));
    }
    if fires("reset").is_some() {
        return Some(Fault::Reply(Reply::Reset));
    }
    if fires("token_revoked").is_some() && request.header("authorization").is_some() {
        return Some(Fault::Reply(Reply::json(
            401,
            &json!({"error": "unauthorized"}),
        )));
    }
    if let Some(fault) = fires("http_5xx") {
        let status = number(&fault, "status", 502) as u16;
        let page = "<html><body><h1>Bad Gateway</h1></body></html>";
        return Some(Fault::Reply(Reply::html(status, page)));
    }
    fires("slow").map(|fault| Fault::Slow(seconds(&fault, 5.0)))
}
