//! What a pool's status says after a decision: recomputed whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::decide::Decision;
use super::view::{Counts, ProviderHealth, View};
use crate::api::agent_pool::{AgentPoolStatus, BreakerStatus, RequestAnswer};
use crate::api::condition::{ConditionType, Reason, Truth, set_condition};
use crate::api::{LABEL_POOL, names};
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
        "replacement".to_owned(),
        format!("{:?}", template::replacement(spec)),
    );
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
            decision.message.clone(),
        );
    } else {
        set(
            ConditionType::CircuitOpen,
            Truth::False,
            Reason::Closed,
            String::new(),
        );
    }
    match view.listing.strays.summary() {
        Some((reason, message)) => set(ConditionType::StrayResources, Truth::True, reason, message),
        None => list.retain(|c| c.type_ != ConditionType::StrayResources.as_str()),
    }
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
        ProviderHealth::Reachable(_) => (Truth::True, Reason::Reachable, String::new()),
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
