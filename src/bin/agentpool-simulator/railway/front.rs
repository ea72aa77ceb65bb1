//! `POST /graphql/v2`: authentication, budget, faults, execution, and the answer on the wire.

use crate::calls::{mask, masked};
use crate::clock::Ms;
use crate::peers::{Reply, Request};
use crate::railway::context::{Caller, Cx, Header};
use crate::railway::errors::{BAD_INPUT, fail};
use crate::railway::executor::Prepared;
use crate::railway::faults::{Asked, Effects, Fault};
use crate::railway::limits::{Quota, Verdict};
use crate::railway::model::{Railway, TokenKind};
use crate::railway::plans;
use crate::world::{Sim, World};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};

/// What happened, for the log of calls.
#[derive(Default)]
struct Record {
    operation: String,
    fields: Vec<String>,
    variables: Value,
    class: String,
    fault: Option<String>,
}

/// An answer with the time it takes.
struct Outcome {
    reply: Reply,
    until: Ms,
}

/// Answers one request to Railway's endpoint.
pub async fn answer(sim: &Sim, request: &Request) -> Reply {
    let now = sim.clock.now();
    let mut record = Record::default();
    let caller = {
        let world = sim.world();
        who(&world.railway, request)
    };
    let outcome = respond(sim, request, &caller, now, &mut record);
    write_down(sim, request, &caller, now, &record, &outcome.reply);
    sim.clock.sleep_until(outcome.until).await;
    outcome.reply
}

fn write_down(
    sim: &Sim,
    request: &Request,
    caller: &Caller,
    now: Ms,
    record: &Record,
    reply: &Reply,
) {
    let call = json!({
        "time": sim.clock.stamp(now), "method": request.method, "path": request.target,
        "operation": record.operation, "fields": record.fields, "variables": masked(&record.variables),
        "header": caller.header.name(), "token": mask(&caller.token), "class": record.class,
        "fault": record.fault, "status": reply.status(), "userAgent": request.header("user-agent"),
    });
    sim.world().calls.push("railway", call);
}

/// Who asks, by header and token (railway.md 1.2).
fn who(railway: &Railway, request: &Request) -> Caller {
    let bearer = request
        .header("authorization")
        .and_then(|v| v.strip_prefix("Bearer "));
    let (header, token) = match (request.header("project-access-token"), bearer) {
        (Some(token), _) => (Header::Project, token),
        (None, Some(token)) => (Header::Bearer, token),
        (None, None) => (Header::None, ""),
    };
    let found = railway
        .tokens
        .iter()
        .find(|t| t.token == token && !t.revoked);
    let scope = found.map(|t| t.kind.clone()).filter(|kind| {
        let confined = matches!(kind, TokenKind::Project { .. });
        confined == (header == Header::Project)
    });
    Caller {
        header,
        token: token.to_owned(),
        scope,
    }
}

fn workspace_of(railway: &Railway, caller: &Caller) -> Option<String> {
    match caller.scope.as_ref()? {
        TokenKind::Account => railway.workspaces.keys().next().cloned(),
        TokenKind::Workspace(id) => Some(id.clone()),
        TokenKind::Project { project, .. } => {
            railway.projects.get(project).map(|p| p.workspace.clone())
        }
    }
}

fn respond(sim: &Sim, request: &Request, caller: &Caller, now: Ms, record: &mut Record) -> Outcome {
    let mut guard = sim.world();
    let world: &mut World = &mut guard;
    plans::happen_until(world, now);
    let at_once = |reply| Outcome { reply, until: now };
    if now < world.railway.edge_blocked_until {
        record.class = "edge_blocked".to_owned();
        return at_once(Reply::text(429, "error code: 1015"));
    }
    let workspace = workspace_of(&world.railway, caller);
    let quota = workspace
        .as_deref()
        .map_or(Quota::of_plan("HOBBY"), |w| world.railway.quota_of(w));
    let policy = format!("\"default\";q={};w=3600", quota.per_hour);
    let with_policy = |reply: Reply| reply.with("RateLimit-Policy", &policy);
    if request.method != "POST" {
        record.class = "method".to_owned();
        return at_once(with_policy(Reply::text(405, "Method Not Allowed")));
    }
    if let Some(workspace) = &workspace {
        let verdict = world.railway.limits.count(workspace, quota, now);
        if !verdict.allowed {
            record.class = "rate_limited".to_owned();
            return at_once(with_policy(too_many(sim, quota, verdict, now, true)));
        }
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let Some(query) = body["query"].as_str() else {
        record.class = BAD_INPUT.to_owned();
        let error = fail("Must provide query string").to_json(&world.rng.trace_id());
        return at_once(with_policy(Reply::json(400, &json!({"errors": [error]}))));
    };
    record.variables = body["variables"].clone();
    let prepared =
        match sim
            .executor
            .prepare(query, body["operationName"].as_str(), &body["variables"])
        {
            Ok(prepared) => prepared,
            Err(refused) => {
                record.class = refused.code.to_owned();
                let status = world.railway.switches.number("validation_errors_status") as u16;
                let errors = traced(world, refused.errors);
                return at_once(with_policy(Reply::json(status, &json!({"errors": errors}))));
            }
        };
    record.operation.clone_from(&prepared.name);
    record.fields.clone_from(&prepared.fields);
    let outcome = run(
        sim,
        world,
        &Ask {
            prepared: &prepared,
            caller,
            now,
            quota,
        },
        &body["variables"],
        record,
    );
    let until = outcome.until;
    let at_edge = world.railway.edge_blocked_until > now;
    let reply = if at_edge {
        outcome.reply
    } else {
        with_policy(outcome.reply)
    };
    Outcome { reply, until }
}

struct Ask<'a> {
    prepared: &'a Prepared,
    caller: &'a Caller,
    now: Ms,
    quota: Quota,
}

fn run(sim: &Sim, world: &mut World, ask: &Ask, variables: &Value, record: &mut Record) -> Outcome {
    let names = plans::service_names(&world.railway, variables);
    let asked = Asked {
        fields: &ask.prepared.fields,
        token: &ask.caller.token,
        names: &names,
    };
    let effects = world.railway.rules.effects(&asked, &mut world.rng);
    let mut caller = ask.caller.clone();
    if effects.revoke {
        world
            .railway
            .tokens
            .iter_mut()
            .filter(|t| t.token == caller.token)
            .for_each(|t| t.revoked = true);
        caller.scope = None;
    }
    let latency = if ask.prepared.mutation {
        "latency_mutation"
    } else {
        "latency_read"
    };
    let mut until = ask.now + world.railway.timings.ms(latency) + effects.slow;
    let mut reply = None;
    if effects.runs() {
        let (answer, takes) = execute(sim, world, ask, &caller, &effects);
        record.class = class_of(&answer);
        until += takes;
        reply = Some(Reply::json(200, &answer));
    }
    if let Some((fault, field)) = &effects.front {
        let kind = serde_json::to_value(fault).unwrap_or_default()["kind"]
            .as_str()
            .map(str::to_owned);
        record.class = format!("fault:{}", kind.as_deref().unwrap_or_default());
        record.fault = kind;
        if let Fault::Timeout { seconds, .. } = fault {
            until += (seconds * 1000.0) as Ms;
        }
        reply = Some(broken(sim, world, ask, fault, field));
    }
    Outcome {
        reply: reply.unwrap_or_else(|| Reply::text(500, "no answer")),
        until,
    }
}

fn execute(
    sim: &Sim,
    world: &mut World,
    ask: &Ask,
    caller: &Caller,
    effects: &Effects,
) -> (Value, Ms) {
    let cx = Cx {
        world: RefCell::new(world),
        clock: &sim.clock,
        now: ask.now,
        caller,
        effects,
        delay: Cell::new(0),
        touched: RefCell::default(),
    };
    let (data, errors) = sim.executor.execute(ask.prepared, &cx);
    let (takes, touched) = (cx.delay.get(), cx.touched.into_inner());
    let world = cx.world.into_inner();
    plans::plan_surprises(world, effects, &touched, ask.now);
    let errors = traced(world, errors);
    let answer = if errors.is_empty() {
        json!({"data": data})
    } else {
        json!({"errors": errors, "data": data})
    };
    (answer, takes)
}

fn traced(world: &mut World, mut errors: Vec<Value>) -> Vec<Value> {
    for error in &mut errors {
        error["traceId"] = world.rng.trace_id().into();
    }
    errors
}

fn class_of(answer: &Value) -> String {
    match answer["errors"][0]["message"].as_str() {
        None => "ok".to_owned(),
        Some(message) => format!("error:{message}"),
    }
}

fn too_many(sim: &Sim, quota: Quota, verdict: Verdict, now: Ms, bare_not: bool) -> Reply {
    let seconds = sim.clock.real_seconds(verdict.resets - now);
    let error =
        json!({"message": "Rate limit exceeded", "extensions": {"code": "INTERNAL_SERVER_ERROR"}});
    let reply = Reply::json(429, &json!({"errors": [error]}))
        .with("X-RateLimit-Limit", &quota.per_hour.to_string())
        .with("X-RateLimit-Remaining", "0")
        .with(
            "X-RateLimit-Reset",
            &sim.clock.wall(verdict.resets).as_second().to_string(),
        );
    if bare_not {
        reply.with("Retry-After", &seconds.to_string())
    } else {
        reply
    }
}

fn broken(sim: &Sim, world: &mut World, ask: &Ask, fault: &Fault, field: &str) -> Reply {
    let error = |world: &mut World, message: &str, code: &str, data: &Value| {
        let trace = world.rng.trace_id();
        Reply::json(
            200,
            &json!({"errors": [{
            "message": message, "locations": [{"line": 1, "column": 1}], "path": [field],
            "extensions": {"code": code}, "traceId": trace}], "data": data}),
        )
    };
    let internal = crate::railway::errors::INTERNAL;
    match fault {
        Fault::RateLimit { seconds } => {
            let resets = ask.now + (seconds * 1000.0) as Ms;
            let verdict = Verdict {
                allowed: false,
                remaining: 0,
                resets,
            };
            too_many(sim, ask.quota, verdict, ask.now, true)
        }
        Fault::RateLimitBare {} => {
            let verdict = Verdict {
                allowed: false,
                remaining: 0,
                resets: ask.now + 60_000,
            };
            too_many(sim, ask.quota, verdict, ask.now, false)
        }
        Fault::EdgeBlock { seconds, html } => {
            world.railway.edge_blocked_until = ask.now + (seconds * 1000.0) as Ms;
            if *html {
                Reply::html(
                    403,
                    "<html><body>Sorry, you have been blocked</body></html>",
                )
            } else {
                Reply::text(429, "error code: 1015")
            }
        }
        Fault::Http5xx {
            status, html: true, ..
        } => Reply::html(
            *status,
            &format!("<html><body><h1>{status} Bad Gateway</h1></body></html>"),
        ),
        Fault::Http5xx { status, .. } => Reply::text(*status, &format!("error code: {status}")),
        // Held so long already that the client has given up.
        Fault::Timeout { .. } => Reply::Reset,
        Fault::Reset { .. } => Reply::Reset,
        Fault::GqlError {
            message,
            code,
            data,
            ..
        } => error(world, message, code.as_deref().unwrap_or(internal), data),
        Fault::NoData { .. } => Reply::json(200, &json!({})),
        Fault::Cooldown {} if field == "volumeCreate" => {
            let text = "Whoa there pal! You are creating volumes too quickly. Try again in a sec";
            error(world, text, internal, &Value::Null)
        }
        Fault::Cooldown {} => error(
            world,
            "Only one project can be created per user every 30s",
            internal,
            &Value::Null,
        ),
        _ => {
            let text = "Free plan resource provision limit exceeded. Please upgrade to provision more resources!";
            error(world, text, internal, &Value::Null)
        }
    }
}
