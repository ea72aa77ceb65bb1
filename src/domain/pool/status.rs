//! What a pool's status says after a decision: recomputed whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::decide::Decision;
use super::view::{Counts, HookHealth, ProviderHealth, RESOLVED_REPLACEMENT, View};
use crate::api::agent_pool::{AgentPoolStatus, BreakerStatus, RequestAnswer};
use crate::api::condition::{ConditionType, Reason, Truth, set_condition};
use crate::api::{LABEL_POOL, names};
use crate::domain::drift::RESOLVED_SECRETS;
use crate::domain::image;
use crate::domain::instance::phase::Phase;
use crate::domain::sweep::is_suspicious;
use crate::domain::template;

/// How long answers to requests are kept.
pub const ANSWER_KEPT: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// The status after a decision. `creating` are the ids that are to be listed as being created.
pub fn status(view: &View<'_>, decision: &Decision, creating: Vec<String>) -> AgentPoolStatus {
    let old = view.pool.status.clone().unwrap_or_default();
    let unseen = creating
        .iter()
        .filter(|id| !view.members.iter().any(|m| &m.id == *id))
        .count();
    let counts = Counts::of(view.members, unseen);
    let mut new = AgentPoolStatus {
        observed_generation: view.pool.metadata.generation,
        provider: Some(template::provider_kind(&view.pool.spec.provider).to_owned()),
        idle: counts.get(Phase::Idle),
        provisioning: counts.get(Phase::Provisioning),
        claiming: counts.get(Phase::Claiming),
        claimed: counts.get(Phase::Claimed),
        recycling: counts.get(Phase::Recycling),
        crashed: counts.get(Phase::Crashed),
        pending_acceptance: counts.get(Phase::PendingAcceptance),
        tainted: counts.get(Phase::Tainted),
        sleeping: counts.get(Phase::Sleeping),
        dead: counts.get(Phase::Dead),
        terminating: counts.get(Phase::Terminating),
        occupancy: counts.occupancy(),
        drifted: decision.rollout.drifted,
        selector: Some(format!(
            "{LABEL_POOL}={}",
            names::label_value(view.pool.metadata.name.as_deref().unwrap_or_default())
        )),
        revision: view.revision.clone().or(old.revision),
        release: old.release.or_else(|| Some(view.release.to_owned())),
        creating,
        breaker: breaker(decision),
        resolved: resolved(view, old.resolved),
        requests: old.requests,
        conditions: old.conditions,
    };
    answer(&mut new, view, decision);
    conditions(&mut new.conditions, view, decision);
    new
}

/// Whether a status must be written at once. The rest, counts and words, is written once a second.
pub fn is_urgent(old: Option<&AgentPoolStatus>, new: &AgentPoolStatus) -> bool {
    let Some(old) = old else { return true };
    let breaker = |s: &AgentPoolStatus| {
        let b = s.breaker.clone().unwrap_or_default();
        (b.failures, b.open_until)
    };
    // What is about to be created is fenced by it; an answer is waited for; a failure may be gone by the next pass.
    old.creating != new.creating
        || old.requests != new.requests
        || breaker(old) != breaker(new)
        || old.release != new.release
        || old.revision != new.revision
        || old.observed_generation != new.observed_generation
}

fn breaker(decision: &Decision) -> Option<BreakerStatus> {
    let b = &decision.breaker;
    (b.failures > 0 || !b.counted.is_empty()).then(|| BreakerStatus {
        failures: b.failures,
        open_until: b.open_until.map(Time),
        counted: b.counted.clone(),
        last_failure: b.last_failure.clone(),
    })
}

fn resolved(
    view: &View<'_>,
    old: std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    let spec = &view.pool.spec;
    let mut resolved = match &view.provider {
        ProviderHealth::Reachable(facts) | ProviderHealth::Degraded(facts, _) => facts.clone(),
        _ => old,
    };
    resolved.insert(
        "environmentCode".to_owned(),
        template::environment_code(spec),
    );
    resolved.insert(
        "xmtpEnv".to_owned(),
        template::Template::of(spec).xmtp_env(),
    );
    resolved.insert(
        "onRelease".to_owned(),
        format!("{:?}", template::on_release(spec)),
    );
    resolved.insert(
        RESOLVED_REPLACEMENT.to_owned(),
        format!("{:?}", template::replacement(spec)),
    );
    match &view.secrets {
        Some(digests) => resolved.insert(RESOLVED_SECRETS.to_owned(), digests.clone()),
        None => resolved.remove(RESOLVED_SECRETS),
    };
    match view.image.reference() {
        Some(image) => resolved.insert(image::RESOLVED.to_owned(), image.to_owned()),
        None => resolved.remove(image::RESOLVED),
    };
    resolved
}

fn answer(new: &mut AgentPoolStatus, view: &View<'_>, decision: &Decision) {
    let open = |id: &String| view.requests.iter().any(|r| &r.id == id);
    new.requests
        .retain(|id, a| open(id) || view.now.duration_since(a.at.0) < ANSWER_KEPT);
    for a in &decision.answers {
        let failed = !a.error.is_empty() && a.ids.is_empty();
        let waiting = !failed && a.ids.iter().any(|id| new.creating.contains(id));
        let state = if failed {
            "Failed"
        } else if waiting {
            "Running"
        } else {
            "Done"
        };
        new.requests.insert(
            a.id.clone(),
            RequestAnswer {
                state: state.to_owned(),
                at: Time(view.now),
                ids: a.ids.clone(),
                count: a.count,
                capped: a.capped,
                message: a.error.clone(),
            },
        );
    }
    // What the API server refused is not made: the answer says fewer.
    for a in new.requests.values_mut().filter(|a| a.state == "Running") {
        let refused: Vec<_> = a
            .ids
            .iter()
            .filter_map(|id| view.refused.ids.get(id))
            .collect();
        if let Some(why) = refused.first() {
            a.message = (*why).clone();
            a.ids.retain(|id| !view.refused.ids.contains_key(id));
            a.count = i32::try_from(a.ids.len()).ok();
        }
    }
    // A replenish is answered once the objects it asked for exist.
    for a in new.requests.values_mut().filter(|a| a.state == "Running") {
        if !a.ids.iter().any(|id| new.creating.contains(id)) {
            a.state = "Done".to_owned();
            a.at = Time(view.now);
        }
    }
}

fn conditions(list: &mut Vec<Condition>, view: &View<'_>, decision: &Decision) {
    let generation = view.pool.metadata.generation;
    let told = list
        .iter()
        .any(|c| c.type_ == ConditionType::WebhookRegistered.as_str());
    let unknown = |hook: &HookHealth| told && *hook == HookHealth::Pending;
    let mut set = |kind, truth, reason, message: String| {
        set_condition(list, kind, truth, reason, message, generation, view.now)
    };
    let truth = if decision.ready {
        Truth::True
    } else {
        Truth::False
    };
    set(
        ConditionType::Ready,
        truth,
        decision.reason.unwrap_or(Reason::Pending),
        decision.message.clone(),
    );
    let (truth, reason, message) = reachability(view);
    set(ConditionType::ProviderReachable, truth, reason, message);
    if decision.at_capacity {
        let max = view.pool.spec.max_total.unwrap_or_default();
        set(
            ConditionType::AtCapacity,
            Truth::True,
            Reason::MaxTotalReached,
            format!("maxTotal {max} is reached"),
        );
    } else {
        set(
            ConditionType::AtCapacity,
            Truth::False,
            Reason::BelowMaxTotal,
            String::new(),
        );
    }
    if decision.breaker.is_open(view.now) {
        set(
            ConditionType::CircuitOpen,
            Truth::True,
            Reason::CreationsFailing,
            decision.breaker.words(),
        );
    } else {
        set(
            ConditionType::CircuitOpen,
            Truth::False,
            Reason::Closed,
            String::new(),
        );
    }
    if let Some(reason) = decision.rollout.reason {
        let truth = if decision.rollout.drifted == 0 {
            Truth::True
        } else {
            Truth::False
        };
        let message = decision.rollout.message.clone();
        set(ConditionType::RolledOut, truth, reason, message);
    }
    // A process that has just begun does not know yet: what another one knew stands.
    if let Some(hook) = view.listing.hook.as_ref().filter(|h| !unknown(h)) {
        let (truth, message) = match hook {
            HookHealth::Pending => (Truth::Unknown, String::new()),
            HookHealth::Registered => (Truth::True, String::new()),
            HookHealth::Trouble(_, message) => (Truth::False, message.clone()),
        };
        let kind = ConditionType::WebhookRegistered;
        set(kind, truth, hook.reason(), message);
    }
    let strays = view.listing.strays.summary();
    if let Some((reason, message)) = &strays {
        let kind = ConditionType::StrayResources;
        set(kind, Truth::True, *reason, message.clone());
    }
    if view.listing.hook.is_none() {
        forget(list, ConditionType::WebhookRegistered);
    }
    if strays.is_none() {
        forget(list, ConditionType::StrayResources);
    }
}

fn forget(list: &mut Vec<Condition>, kind: ConditionType) {
    list.retain(|c| c.type_ != kind.as_str());
}

/// Whether the provider answers, with what can be believed.
fn reachability(view: &View<'_>) -> (Truth, Reason, String) {
    let (recorded, listed) = (view.listing.recorded, view.listing.listed);
    match &view.provider {
        ProviderHealth::Pending => (Truth::Unknown, Reason::Pending, "not asked yet".to_owned()),
        ProviderHealth::Reachable(_) if is_suspicious(recorded, listed) => (
            Truth::Unknown,
            Reason::ListingSuspicious,
            format!(
                "the latest listing has {listed} of the {recorded} agents that are recorded: none counts as gone before \
                 a direct read of its own says so"
            ),
        ),
        ProviderHealth::Reachable(_) => (Truth::True, Reason::Reachable, stretched(view)),
        ProviderHealth::Trouble(t) | ProviderHealth::Degraded(_, t) => {
            let lasting = matches!(
                t.reason,
                Reason::CredentialsInvalid
                    | Reason::CredentialsMissing
                    | Reason::ProjectNotFound
                    | Reason::EnvironmentNotFound
                    | Reason::Rejected
                    | Reason::CapacityExceeded
            );
            let truth = if lasting {
                Truth::False
            } else {
                Truth::Unknown
            };
            (truth, t.reason, t.message.clone())
        }
    }
}

/// That listings are rarer than ticks, in words; empty: they are not.
fn stretched(view: &View<'_>) -> String {
    let Some(interval) = view.listing.stretched else {
        return String::new();
    };
    format!(
        "listed every {:.0} s instead of every {} s: oftener would take more than a fifth of the credential's requests",
        interval.as_secs_f64().ceil(),
        view.tick.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::world;
    use super::*;

    #[test]
    fn what_fences_or_answers_is_written_at_once_and_counts_are_not() {
        let base = world(json!({})).status().clone();
        let urgent = |change: fn(&mut AgentPoolStatus)| {
            let mut new = base.clone();
            change(&mut new);
            is_urgent(Some(&base), &new)
        };
        assert!(is_urgent(None, &base));
        assert!(!urgent(|_| ()));
        assert!(!urgent(|s| s.idle = 3));
        assert!(!urgent(|s| s.conditions.clear()));
        assert!(urgent(|s| s.creating = vec!["a".into()]));
        assert!(urgent(|s| s.observed_generation = Some(9)));
        assert!(urgent(|s| s.breaker = Some(BreakerStatus {
            failures: 1,
            ..BreakerStatus::default()
        })));
        // That a failed one has gone is nothing new.
        assert!(!urgent(|s| s.breaker = Some(BreakerStatus {
            counted: vec!["a".into()],
            ..BreakerStatus::default()
        })));
        assert!(urgent(|s| {
            let answer = json!({"state": "Done", "at": "2026-01-01T00:00:00Z"});
            let answer = serde_json::from_value(answer).unwrap();
            s.requests.insert("r".into(), answer);
        }));
    }
}
