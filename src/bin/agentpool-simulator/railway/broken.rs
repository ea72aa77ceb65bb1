//! What goes over the wire instead of an answer: refusals of the budget and armed faults.

use crate::clock::Ms;
use crate::peers::Reply;
use crate::railway::errors::{INTERNAL, fail};
use crate::railway::faults::Fault;
use crate::railway::limits::{Quota, Verdict};
use crate::world::{Sim, World};
use serde_json::{Value, json};

const TOO_QUICK_VOLUMES: &str =
    "Whoa there pal! You are creating volumes too quickly. Try again in a sec";
const TOO_QUICK_PROJECTS: &str = "Only one project can be created per user every 30s";
const NO_MORE: &str =
    "Free plan resource provision limit exceeded. Please upgrade to provision more resources!";

/// 429 of the API, with or without `Retry-After`.
pub fn too_many(sim: &Sim, quota: Quota, verdict: Verdict, now: Ms, says_when: bool) -> Reply {
    let error = fail("Rate limit exceeded");
    let errors =
        json!({"errors": [{"message": error.message, "extensions": {"code": error.code}}]});
    let resets = sim.clock.wall(verdict.resets).as_second();
    let reply = Reply::json(429, &errors)
        .with("X-RateLimit-Limit", &quota.per_hour.to_string())
        .with("X-RateLimit-Remaining", "0")
        .with("X-RateLimit-Reset", &resets.to_string());
    if !says_when {
        return reply;
    }
    let seconds = sim.clock.real_seconds(verdict.resets - now);
    reply.with("Retry-After", &seconds.to_string())
}

fn refused_until(resets: Ms) -> Verdict {
    Verdict {
        allowed: false,
        remaining: 0,
        resets,
    }
}

fn gql_error(world: &mut World, field: &str, (message, code): (&str, &str), data: &Value) -> Reply {
    let error = json!({
        "message": message, "locations": [{"line": 1, "column": 1}], "path": [field],
        "extensions": {"code": code}, "traceId": world.rng.trace_id(),
    });
    Reply::json(200, &json!({"errors": [error], "data": data}))
}

/// The answer under a fault that fired for a root field.
pub fn answer(
    sim: &Sim,
    world: &mut World,
    (fault, field): (&Fault, &str),
    quota: Quota,
    now: Ms,
) -> Reply {
    match fault {
        Fault::RateLimit { seconds } => {
            let resets = now + (seconds * 1000.0) as Ms;
            too_many(sim, quota, refused_until(resets), now, true)
        }
        Fault::RateLimitBare {} => too_many(sim, quota, refused_until(now + 60_000), now, false),
        Fault::EdgeBlock { seconds, html } => {
            world.railway.edge_blocked_until = now + (seconds * 1000.0) as Ms;
            edge_block(*html)
        }
        Fault::Http5xx {
            status, html: true, ..
        } => {
            let page = format!("<html><body><h1>{status} Bad Gateway</h1></body></html>");
            Reply::html(*status, &page)
        }
        Fault::Http5xx { status, .. } => Reply::text(*status, &format!("error code: {status}")),
        // A timeout was held so long already that the client has given up.
        Fault::Timeout { .. } | Fault::Reset { .. } => Reply::Reset,
        Fault::GqlError {
            message,
            code,
            data,
            ..
        } => gql_error(
            world,
            field,
            (message, code.as_deref().unwrap_or(INTERNAL)),
            data,
        ),
        Fault::NoData { .. } => Reply::json(200, &json!({})),
        Fault::Cooldown {} => {
            let volumes = field == "volumeCreate";
            let text = if volumes {
                TOO_QUICK_VOLUMES
            } else {
                TOO_QUICK_PROJECTS
            };
            gql_error(world, field, (text, INTERNAL), &Value::Null)
        }
        _ => gql_error(world, field, (NO_MORE, INTERNAL), &Value::Null),
    }
}

/// The CDN's refusal: none of the API's headers.
pub fn edge_block(html: bool) -> Reply {
    if html {
        Reply::html(
            403,
            "<html><body>Sorry, you have been blocked</body></html>",
        )
    } else {
        Reply::text(429, "error code: 1015")
    }
}
