//! `POST /graphql/v2`: authentication, budget, faults, execution, and the answer on the wire.

use crate::calls::{mask, masked};
use crate::clock::Ms;
use crate::peers::{Reply, Request};
use crate::railway::context::{Caller, Cx, Header};
use crate::railway::effects::Effects;
use crate::railway::errors::{BAD_INPUT, fail};
use crate::railway::executor::Prepared;
use crate::railway::faults::{Asked, Fault};
use crate::railway::limits::{HOUR, Quota};
use crate::railway::model::{Railway, TokenKind};
use crate::railway::{broken, plans};
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

/// What a request is measured by, whatever it asks.
struct Gate<'a> {
    caller: &'a Caller,
    now: Ms,
    workspace: Option<String>,
    quota: Quota,
}

fn respond(sim: &Sim, request: &Request, caller: &Caller, now: Ms, record: &mut Record) -> Outcome {
    let mut guard = sim.world();
    let world: &mut World = &mut guard;
    plans::happen_until(world, now);
    if now < world.railway.edge_blocked_until {
        record.class = "edge_blocked".to_owned();
        return Outcome {
            reply: broken::edge_block(false),
            until: now,
        };
    }
    let workspace = workspace_of(&world.railway, caller);
    let quota = workspace
        .as_deref()
        .map_or(Quota::of_plan("HOBBY"), |w| world.railway.quota_of(w));
    let gate = Gate {
        caller,
        now,
        workspace,
        quota,
    };
    let Outcome { reply, until } = admit(sim, world, request, &gate, record);
    if now < world.railway.edge_blocked_until {
        return Outcome { reply, until };
    }
    let window = sim.clock.real_seconds(HOUR).max(1);
    let policy = format!("\"default\";q={};w={window}", quota.per_hour);
    Outcome {
        reply: reply.with("RateLimit-Policy", &policy),
        until,
    }
}

fn admit(
    sim: &Sim,
    world: &mut World,
    request: &Request,
    gate: &Gate,
    record: &mut Record,
) -> Outcome {
    let at_once = |reply| Outcome {
        reply,
        until: gate.now,
    };
    if request.method != "POST" {
        record.class = "method".to_owned();
        return at_once(Reply::text(405, "Method Not Allowed"));
    }
    if let Some(workspace) = &gate.workspace {
        let verdict = world.railway.limits.count(workspace, gate.quota, gate.now);
        if !verdict.allowed {
            record.class = "rate_limited".to_owned();
            return at_once(broken::too_many(sim, gate.quota, verdict, gate.now, true));
        }
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let Some(query) = body["query"].as_str() else {
        record.class = BAD_INPUT.to_owned();
        let error = fail("Must provide query string").to_json(&world.rng.trace_id());
        return at_once(Reply::json(400, &json!({"errors": [error]})));
    };
    let variables = &body["variables"];
    record.variables = variables.clone();
    match sim
        .executor
        .prepare(query, body["operationName"].as_str(), variables)
    {
        Ok(prepared) => {
            record.operation.clone_from(&prepared.name);
            record.fields.clone_from(&prepared.fields);
            let ask = Ask {
                prepared: &prepared,
                variables,
                gate,
            };
            run(sim, world, &ask, record)
        }
        Err(refused) => {
            record.class = refused.code.to_owned();
            let status = world.railway.switches.number("validation_errors_status") as u16;
            let errors = traced(world, refused.errors);
            at_once(Reply::json(status, &json!({"errors": errors})))
        }
    }
}

/// A valid document to run.
struct Ask<'a> {
    prepared: &'a Prepared,
    variables: &'a Value,
    gate: &'a Gate<'a>,
}

fn run(sim: &Sim, world: &mut World, ask: &Ask, record: &mut Record) -> Outcome {
    let (caller, now) = (ask.gate.caller, ask.gate.now);
    let names = plans::service_names(&world.railway, ask.variables);
    let asked = Asked {
        fields: &ask.prepared.fields,
        token: &caller.token,
        names: &names,
    };
    let effects = world.railway.rules.effects(&asked, &mut world.rng);
    let mut caller = caller.clone();
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
    let mut until = ask.gate.now + world.railway.timings.ms(latency) + effects.slow;
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
        reply = Some(broken::answer(
            sim,
            world,
            (fault, field),
            ask.gate.quota,
            now,
        ));
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
        now: ask.gate.now,
        caller,
        effects,
        delay: Cell::new(0),
        touched: RefCell::default(),
    };
    let (data, errors) = sim.executor.execute(ask.prepared, &cx);
    let (takes, touched) = (cx.delay.get(), cx.touched.into_inner());
    let world = cx.world.into_inner();
    plans::plan_surprises(world, effects, &touched, ask.gate.now);
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
