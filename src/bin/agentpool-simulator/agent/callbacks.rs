//! Calls from an instance to its pool (runtime.md 12): without an Authorization header, identified
//! by instance id and token in the body, 10 s at most.

use crate::clock::Ms;
use crate::world::Sim;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long a callback waits for its answer.
const REAL_LIMIT: Duration = Duration::from_secs(10);
/// The same where the way to the pool swallows it.
const LIMIT: Ms = 10_000;

struct Pool {
    url: String,
    instance: String,
    token: String,
    account: String,
}

fn pool_of(sim: &Sim, id: &str) -> Option<Pool> {
    let world = sim.world();
    let agent = world.agents.all.get(id)?;
    let var = |name: &str| agent.vars.get(name).filter(|v| !v.is_empty()).cloned();
    Some(Pool {
        url: var("POOL_URL")?,
        instance: var("INSTANCE_ID")?,
        token: agent.token()?.to_owned(),
        account: agent.account.clone(),
    })
}

/// Sends one callback: the answer's status; none if there was none.
async fn send(sim: &Sim, pool: &Pool, path: &str, extra: Map<String, Value>) -> Option<u16> {
    let mut body = extra;
    body.insert("instanceId".to_owned(), pool.instance.clone().into());
    body.insert("gatewayToken".to_owned(), pool.token.clone().into());
    let url = format!("{}{path}", pool.url.trim_end_matches('/'));
    // In real time: how fast the pool answers is not the simulator's to scale.
    let call = sim.http.post(url).json(&body).timeout(REAL_LIMIT).send();
    let status = call.await.ok().map(|answer| answer.status().as_u16());
    let sent = json!({"path": path, "status": status, "atMs": sim.clock.now()});
    sim.world()
        .ledger
        .account(&pool.account)
        .callbacks
        .push(sent);
    status
}

/// 12.2, after every bind of a managed runtime and before it answers.
pub async fn attest(sim: &Sim, id: &str, inbox: &str) {
    let now = sim.clock.now();
    let blackhole = {
        let mut world = sim.world();
        let world = &mut *world;
        world
            .agents
            .fault(id, "attestBlackhole", now, &mut world.rng)
            .is_some()
    };
    if blackhole {
        sim.clock.sleep(LIMIT).await;
        return;
    }
    let managed = {
        let world = sim.world();
        world
            .agents
            .all
            .get(id)
            .is_some_and(|a| a.dialect == crate::agent::model::Dialect::PoolServer)
    };
    if !managed {
        return;
    }
    if let Some(pool) = pool_of(sim, id) {
        let extra = Map::from_iter([("inboxId".to_owned(), inbox.into())]);
        send(sim, &pool, "/api/pool/attest", extra).await;
    }
}

/// 12.3: a pending join was accepted, or given up.
pub async fn pending(sim: &Sim, id: &str, conversation: Option<&str>) {
    let Some(pool) = pool_of(sim, id) else { return };
    let (path, error) = match conversation {
        Some(_) => ("/api/pool/pending-acceptance/complete", Value::Null),
        None => (
            "/api/pool/pending-acceptance/fail",
            "join was not accepted".into(),
        ),
    };
    let extra = Map::from_iter([
        ("conversationId".to_owned(), conversation.into()),
        ("error".to_owned(), error),
    ]);
    send(sim, &pool, path, extra).await;
}

/// 12.1, and what the wrapper answers to its runtime; the exit is the caller's.
pub async fn self_destruct(sim: &Sim, id: &str, wrong_token: bool) -> Value {
    let Some(mut pool) = pool_of(sim, id) else {
        return json!({"ok": false, "reason": "not a pool-managed instance"});
    };
    if wrong_token {
        pool.token = "0".repeat(64);
    }
    match send(sim, &pool, "/api/pool/self-destruct", Map::new()).await {
        Some(status) if (200..300).contains(&status) => json!({"ok": true}),
        Some(status) => json!({"ok": false, "error": format!("Pool manager returned {status}")}),
        None => json!({"ok": false, "error": "fetch failed"}),
    }
}
