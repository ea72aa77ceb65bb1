//! Webhooks: transitions of deployments, told over real HTTP to whom the rules name (railway.md 5).
//!
//! Best effort, as at Railway: unordered, without an id, up to three repetitions, and a suspension where too many fail.

use crate::clock::{Clock, Ms};
use crate::railway::deploy::Status;
use crate::railway::faults::Fault;
use crate::railway::model::Railway;
use crate::rng::Random;
use crate::world::Sim;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Tries of one delivery.
const TRIES: u32 = 4;
/// The pause before the second; it doubles.
const PAUSE: Ms = 1_000;
/// How long the receiver may take, in real time: how fast it answers is not the simulator's to scale.
const REAL_LIMIT: Duration = Duration::from_secs(10);
/// So many failures in so long suspend an address for so long.
const FAILURES: usize = 100;
const FAILURES_IN: Ms = 6 * 3_600_000;
const SUSPENDED: Ms = 24 * 3_600_000;
/// What is held back so that another overtakes it is delivered after this time in any case.
const HELD: Ms = 5_000;
/// Deliveries kept in the log.
const KEPT: usize = 2_000;
/// Ids of nothing that exists here.
const FOREIGN: &str = "5eed0000-0000-4000-8000-0000000f0e16";

/// What happened to a deployment.
#[derive(Clone, Debug)]
pub struct Event {
    kind: &'static str,
    severity: &'static str,
    at: Ms,
    deployment: String,
    service: (String, String),
    environment: (String, String),
    project: (String, String),
    workspace: String,
}

/// An event for one address.
#[derive(Clone, Debug)]
pub struct Delivery {
    event: Event,
    url: String,
    headers: Map<String, Value>,
    delay: Ms,
    faults: Vec<Fault>,
}

/// What a transition is called, and how bad it is; `None`: it is not told.
fn told(from: Status, to: Status) -> Option<(&'static str, &'static str)> {
    Some(match to {
        Status::Queued => ("queued", "INFO"),
        Status::Waiting => ("waiting", "INFO"),
        Status::NeedsApproval => ("needs_approval", "NOTICE"),
        Status::Building => ("building", "INFO"),
        Status::Deploying if from != Status::Deploying => ("deploying", "INFO"),
        Status::Success if from == Status::Sleeping => ("resumed", "INFO"),
        Status::Success if matches!(from, Status::Success | Status::Crashed) => {
            ("restarted", "INFO")
        }
        Status::Success => ("deployed", "INFO"),
        Status::Failed => ("failed", "WARNING"),
        Status::Crashed => ("crashed", "CRITICAL"),
        Status::Sleeping => ("slept", "INFO"),
        Status::Removed => ("removed", "INFO"),
        Status::Deploying | Status::Initializing | Status::Removing | Status::Skipped => {
            return None;
        }
    })
}

/// The transitions since the last look, oldest first. Who is told of none pays for no look.
fn events(railway: &mut Railway, now: Ms) -> Vec<Event> {
    let mut happened = vec![];
    for d in railway.deployments.values_mut() {
        let (mut at, mut from) = d.told;
        if from == Status::Removed {
            continue;
        }
        for step in d.timeline.past(now) {
            let is_new = step.at > at || (step.at == at && step.status != from);
            if !is_new || (step.status == from && !step.moves_clock) {
                continue;
            }
            if let Some((kind, severity)) = told(from, step.status) {
                happened.push((kind, severity, step.at, d.id.clone()));
            }
            (at, from) = (step.at, step.status);
        }
        d.told = (at, from);
    }
    happened.sort_by_key(|(_, _, at, _)| *at);
    let event = |(kind, severity, at, id): (_, _, _, String)| {
        let d = railway.deployments.get(&id)?;
        let service = railway.services.get(&d.service)?;
        let environment = railway.environments.get(&d.environment)?;
        let project = railway.projects.get(&d.project)?;
        Some(Event {
            kind,
            severity,
            at,
            deployment: id,
            service: (d.service.clone(), service.name.clone()),
            environment: (d.environment.clone(), environment.name.clone()),
            project: (d.project.clone(), project.name.clone()),
            workspace: project.workspace.clone(),
        })
    };
    happened.into_iter().filter_map(event).collect()
}

/// What is to be delivered now.
fn due(railway: &mut Railway, rng: &mut Random, now: Ms) -> Vec<Delivery> {
    if railway.notifications.rules.is_empty() {
        railway.notifications.held.clear();
        return vec![];
    }
    let mut out = vec![];
    for event in events(railway, now) {
        let kind = format!("Deployment.{}", event.kind);
        let environment = railway.environments.get(&event.environment.0);
        let ephemeral = environment.is_some_and(|e| e.ephemeral);
        let rules = railway.notifications.rules.iter().filter(|r| {
            r.created < event.at
                && r.workspace == event.workspace
                && r.project.as_ref().is_none_or(|p| *p == event.project.0)
                && r.events.iter().any(|e| e.eq_ignore_ascii_case(&kind))
                && r.severities.iter().any(|s| s == event.severity)
                && (r.ephemeral || !ephemeral)
        });
        let channels = rules.flat_map(|r| &r.channels);
        let webhooks = channels.filter(|(_, c)| c.get("type").is_some_and(|t| t == "webhook"));
        let to: Vec<(String, Map<String, Value>)> = webhooks
            .filter_map(|(_, c)| {
                let headers = c.get("headers").and_then(Value::as_object).cloned();
                Some((
                    c.get("url")?.as_str()?.to_owned(),
                    headers.unwrap_or_default(),
                ))
            })
            .collect();
        for (url, headers) in to {
            let faults = railway.rules.of_delivery(&kind, &event.service.1, rng);
            if faults.iter().any(|f| matches!(f, Fault::WebhookDrop {})) {
                continue;
            }
            let (mut delay, mut times, mut held) = (0, 1, false);
            for fault in &faults {
                match fault {
                    Fault::WebhookDelay { seconds } => delay = (seconds * 1000.0) as Ms,
                    Fault::WebhookDuplicate { times: n } => times = *n,
                    Fault::WebhookReorder {} => held = true,
                    _ => {}
                }
            }
            let delivery = Delivery {
                event: event.clone(),
                url,
                headers,
                delay,
                faults,
            };
            if held {
                railway.notifications.held.push((now + HELD, delivery));
            } else {
                out.extend(std::iter::repeat_n(delivery, times as usize));
            }
        }
    }
    let overtaken = !out.is_empty();
    let held = std::mem::take(&mut railway.notifications.held);
    let (free, kept) = held
        .into_iter()
        .partition(|(until, _)| overtaken || *until <= now);
    railway.notifications.held = kept;
    let free: Vec<(Ms, Delivery)> = free;
    // Behind those that overtake it, in time too.
    out.extend(free.into_iter().map(|(_, d)| Delivery {
        delay: d.delay + 500,
        ..d
    }));
    out
}

impl Delivery {
    fn has(&self, fault: fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(fault)
    }

    fn body(&self, clock: &Clock) -> Value {
        let e = &self.event;
        let foreign = self.has(|f| matches!(f, Fault::WebhookForeign {}));
        let id = |id: &str| {
            if foreign {
                FOREIGN.to_owned()
            } else {
                id.to_owned()
            }
        };
        let named = |(i, name): &(String, String)| json!({"id": id(i), "name": name});
        let timestamp = clock.stamp(e.at);
        if self.has(|f| matches!(f, Fault::WebhookLegacy {})) {
            return json!({"type": "DEPLOY", "status": e.kind.to_uppercase(), "timestamp": timestamp,
                "project": named(&e.project), "environment": named(&e.environment), "service": named(&e.service),
                "deployment": {"id": id(&e.deployment)}});
        }
        let mut kind = e.kind.to_owned();
        if self.has(|f| matches!(f, Fault::WebhookCamelCase {})) {
            kind = camel(&kind);
        }
        let details = if self.has(|f| matches!(f, Fault::WebhookEmptyDetails {})) {
            json!({})
        } else {
            // What it says contradicts the type, as in Railway's own example.
            json!({"id": id(&e.deployment), "source": "Image", "status": "SUCCESS"})
        };
        json!({
            "type": format!("Deployment.{kind}"), "details": details,
            "resource": {
                "workspace": {"id": e.workspace, "name": "simulated"}, "project": named(&e.project),
                "environment": {"id": id(&e.environment.0), "name": e.environment.1, "isEphemeral": false},
                "service": named(&e.service), "deployment": {"id": id(&e.deployment)},
            },
            "severity": e.severity, "timestamp": timestamp,
        })
    }
}

/// `oom_killed` → `oomKilled`.
fn camel(kind: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in kind.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

/// Sends what is due.
pub fn tick(sim: &Arc<Sim>) {
    let now = sim.clock.now();
    let due = {
        let mut world = sim.world();
        let world = &mut *world;
        due(&mut world.railway, &mut world.rng, now)
    };
    for delivery in due {
        sim.spawn(deliver(sim.clone(), delivery));
    }
}

async fn deliver(sim: Arc<Sim>, delivery: Delivery) {
    sim.clock.sleep(delivery.delay).await;
    let body = delivery.body(&sim.clock);
    let wrong = delivery.has(|f| matches!(f, Fault::WebhookWrongSecret {}));
    for attempt in 1..=TRIES {
        let now = sim.clock.now();
        let until = sim
            .world()
            .railway
            .notifications
            .suspended
            .get(&delivery.url)
            .copied();
        if until.is_some_and(|until| now < until) {
            return;
        }
        let mut request = sim.http.post(&delivery.url).json(&body).timeout(REAL_LIMIT);
        for (name, value) in &delivery.headers {
            let value = if wrong {
                "wrong"
            } else {
                value.as_str().unwrap_or_default()
            };
            request = request.header(name, value);
        }
        let sent = request.send().await;
        let status = sent.ok().map(|answer| answer.status().as_u16());
        let done = status.is_some_and(|s| (200..400).contains(&s));
        note(&sim, &delivery, (attempt, status), done);
        if done {
            return;
        }
        sim.clock.sleep(PAUSE << attempt).await;
    }
}

/// Writes a try down; too many that failed suspend the address.
fn note(sim: &Sim, delivery: &Delivery, (attempt, status): (u32, Option<u16>), done: bool) {
    let now = sim.clock.now();
    let mut world = sim.world();
    let all = &mut world.railway.notifications;
    all.log.push_back(json!({
        "type": format!("Deployment.{}", delivery.event.kind), "serviceId": delivery.event.service.0,
        "url": delivery.url, "attempt": attempt, "status": status, "atMs": now,
    }));
    while all.log.len() > KEPT {
        all.log.pop_front();
    }
    if done {
        return;
    }
    let failures = all.failures.entry(delivery.url.clone()).or_default();
    failures.push_back(now);
    failures.retain(|at| *at > now - FAILURES_IN);
    if failures.len() >= FAILURES {
        all.suspended.insert(delivery.url.clone(), now + SUSPENDED);
    }
}

#[cfg(test)]
mod tests {
    use super::{camel, told};
    use crate::railway::deploy::Status;

    #[test]
    fn transitions_have_their_names() {
        use Status::{Crashed, Deploying, Removing, Sleeping, Success};
        let kind = |from, to| told(from, to).map(|(kind, _)| kind);
        assert_eq!(kind(Deploying, Success), Some("deployed"));
        assert_eq!(kind(Sleeping, Success), Some("resumed"));
        assert_eq!(kind(Crashed, Success), Some("restarted"));
        assert_eq!(kind(Success, Crashed), Some("crashed"));
        assert_eq!(kind(Success, Removing), None);
        assert_eq!(camel("oom_killed"), "oomKilled");
    }
}
