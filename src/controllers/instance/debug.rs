//! The diagnostic report of one instance, asked for through its pool: what provider and agent say of it now. It goes into
//! the pool's status, so it has no values of variables, no logs and nothing of a conversation but its id.

use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

use super::observe::Surroundings;
use super::send;
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::AgentPool;
use crate::controllers::Ctx;
use crate::domain::agent::Probe;
use crate::domain::backoff::Call;
use crate::domain::instance::status::{cut, facts_of};
use crate::domain::pool::view::Finished;
use crate::domain::resource::Liveness;
use crate::provider::Report;

/// What an answer may have, in bytes of JSON; less than the 4096 characters of the field.
const REPORT_MAX: usize = 3800;
/// The longest text in it: the first of these with which it fits.
const TEXT_MAX: [usize; 4] = [2000, 1000, 600, 300];
/// How long a report may take, all of it: the caller waits 15 s.
const WITHIN: Duration = Duration::from_secs(14);

/// Works on the request that asks for a report of this instance, where one does.
pub(super) async fn report_if_asked(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) {
    let Some(request) = ctx.memories.with(object, |m| m.diagnose.take()) else {
        return;
    };
    let key = (
        object.namespace().unwrap_or_default(),
        object.spec.pool_ref.name.clone(),
    );
    let finished = Finished {
        count: None,
        ids: vec![object.spec.id.clone()],
        error: fitted(report(object, around, ctx).await),
    };
    ctx.with_pool_memory(&key, |m| m.finish(&request, finished));
    ctx.pool_queue
        .push(ObjectRef::<AgentPool>::new(&key.1).within(&key.0));
}

/// Both at the same time; each says by itself what went wrong with it.
async fn report(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Value {
    let (provider, agent) = tokio::join!(
        limited(provider_report(object, around, ctx), ctx),
        limited(agent_report(object, around, ctx), ctx)
    );
    json!({"provider": provider, "agent": agent})
}

async fn limited(of: impl Future<Output = Value>, ctx: &Ctx) -> Value {
    tokio::select! {
        found = of => found,
        () = ctx.clock.sleep(WITHIN) => json!({"error": "no answer in time"}),
    }
}

async fn provider_report(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Value {
    let provider = match &around.provider {
        Ok(provider) => provider,
        Err(trouble) => return json!({"error": trouble.message}),
    };
    if let Some(scope) = &around.scope
        && let Err(trouble) = ctx.fleet.admit(scope, Call::Read).await
    {
        return json!({"error": trouble.message});
    }
    let known = facts_of(object.status.as_ref());
    let mut report: Report = provider.diagnose(&around.key, &known).await;
    // Agents print what they are told: their logs are read at the provider, by who may.
    report.remove("log");
    json!(report)
}

/// A sleeper is not asked: that would wake it.
async fn agent_report(object: &AgentInstance, around: &Surroundings, ctx: &Ctx) -> Value {
    let status = object.status.as_ref();
    let state = status
        .and_then(|s| s.provider.as_ref())
        .and_then(|p| p.state.as_deref());
    if state.is_some_and(|state| state != Liveness::Running.as_str()) {
        return json!({"error": format!("not asked: {}", state.unwrap_or_default())});
    }
    match send::probe(object, around, ctx).await {
        Probe::Answered {
            dialect,
            kind,
            version,
            status,
        } => json!({
            "dialect": dialect.as_str(), "kind": kind, "version": version, "ready": status.ready,
            "conversation": status.conversation, "pending": status.pending, "clean": status.clean,
        }),
        Probe::Unreachable(text) | Probe::NotReady(text) | Probe::WrongRuntime(text) => {
            json!({"error": text})
        }
        Probe::Unauthorized => json!({"error": "the agent refuses its token"}),
    }
}

/// As JSON that fits: texts are cut, the more of them the shorter, and of what is still too much the longest member goes.
fn fitted(report: Value) -> String {
    let mut left = Value::Null;
    for most in TEXT_MAX {
        left.clone_from(&report);
        shorten(&mut left, most);
        let text = left.to_string();
        if text.len() <= REPORT_MAX {
            return text;
        }
    }
    loop {
        let text = left.to_string();
        if text.len() <= REPORT_MAX {
            return text;
        }
        let Some(members) = left["provider"].as_object_mut() else {
            return json!({"error": "the report is too long"}).to_string();
        };
        let longest = members.iter().max_by_key(|(_, v)| v.to_string().len());
        let Some(longest) = longest.map(|(k, _)| k.clone()) else {
            return json!({"error": "the report is too long"}).to_string();
        };
        members.remove(&longest);
    }
}

fn shorten(value: &mut Value, most: usize) {
    match value {
        Value::String(text) if text.len() > most => *text = cut(text, most),
        Value::Array(all) => all.iter_mut().for_each(|v| shorten(v, most)),
        Value::Object(all) => all.values_mut().for_each(|v| shorten(v, most)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fits_into_its_field_and_stays_json() {
        let events: Vec<String> = (0..200)
            .map(|i| format!("{i}-{}", "é".repeat(500)))
            .collect();
        let text = fitted(
            json!({"provider": {"serviceId": "s", "deploymentEvents": events}, "agent": {"ready": true}}),
        );
        assert!(text.len() <= REPORT_MAX);
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&back["provider"]["serviceId"], &back["agent"]["ready"]),
            (&json!("s"), &json!(true))
        );
        // One long text is cut later than many.
        let one = "p".repeat(1500);
        let text = fitted(json!({"provider": {"processes": one}, "agent": {}}));
        assert!(text.contains(&one));
        let small = json!({"provider": {"a": 1}, "agent": {"error": "x"}});
        assert_eq!(fitted(small.clone()), small.to_string());
    }
}
