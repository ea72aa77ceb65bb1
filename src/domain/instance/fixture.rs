//! Instances, evidence and memories of every kind, for the tests of this module.

use std::time::Duration;

use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::outcome;
use super::view::{Beat, Evidence, Heartbeat, Limits, Listed, Memory, View};
use crate::api::AgentInstance;
use crate::api::condition::Reason;
use crate::domain::agent::{AgentStatus, Dialect, Probe};
use crate::domain::plan::{Class, Facts, Outcome, Repeat, Seen, Step, StepSpec, Trouble};
use crate::domain::resource::{Liveness, Presence, Resource};

pub const LIVENESS: [Liveness; 11] = [
    Liveness::Created,
    Liveness::Starting,
    Liveness::Blocked,
    Liveness::Running,
    Liveness::Stopped,
    Liveness::Sleeping,
    Liveness::Warm,
    Liveness::Cold,
    Liveness::Failed,
    Liveness::Crashed,
    Liveness::Removed,
];

/// The conversation that the fixtures' claims record.
pub const CONVERSATION: &str = "c1";

pub fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Everything of a view, owned.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub instance: AgentInstance,
    pub plan: Vec<StepSpec>,
    pub listed: Listed,
    pub progress: Option<Seen>,
    pub evidence: Evidence,
    pub memory: Memory,
    pub limits: Limits,
    pub now: jiff::Timestamp,
}

impl Case {
    pub fn view(&self) -> View<'_> {
        View {
            instance: &self.instance,
            plan: &self.plan,
            listed: self.listed.clone(),
            progress: self.progress.clone(),
            evidence: &self.evidence,
            memory: self.memory.clone(),
            limits: self.limits,
            now: self.now,
        }
    }

    pub fn decide(&self) -> Decision {
        decide(&self.view())
    }

    pub fn listed(mut self, liveness: Liveness) -> Self {
        self.listed = present(liveness);
        self
    }

    pub fn absent(mut self) -> Self {
        self.listed = Listed::Absent;
        self
    }

    pub fn probe(mut self, probe: Probe) -> Self {
        self.evidence.probe = Some(probe);
        self
    }

    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }

    pub fn memory(mut self, set: impl FnOnce(&mut Memory)) -> Self {
        set(&mut self.memory);
        self
    }

    pub fn protected(mut self) -> Self {
        let labels = self.instance.metadata.labels.get_or_insert_default();
        labels.insert(crate::api::LABEL_PROTECTED.into(), "true".into());
        self.name.push_str(" protected");
        self
    }

    pub fn deleted(mut self) -> Self {
        let now = jiff::Timestamp::UNIX_EPOCH;
        self.instance.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        self.name.push_str(" deleted");
        self
    }

    pub fn spec(mut self, key: &str, value: Value) -> Self {
        let mut spec = serde_json::to_value(&self.instance.spec).unwrap();
        spec[key] = value;
        self.instance.spec = serde_json::from_value(spec).unwrap();
        self
    }

    pub fn released(self, mode: &str) -> Self {
        let mut case = self.spec(
            "release",
            json!({"id": "r", "mode": mode, "requestedAt": "2026-01-01T00:00:00Z"}),
        );
        case.name.push_str(" released ");
        case.name.push_str(mode);
        case
    }

    pub fn judged(mut self, state: &str, reason: Reason) -> Self {
        let mut status = serde_json::to_value(&self.instance.status).unwrap();
        if status.is_null() {
            status = json!({});
        }
        status["verdict"] =
            json!({"state": state, "reason": reason.as_str(), "since": "2026-01-01T00:00:00Z"});
        self.instance.status = serde_json::from_value(status).unwrap();
        self.name.push_str(&format!(" {state}/{}", reason.as_str()));
        self
    }
}

pub fn case(name: &str, status: Value) -> Case {
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": "agent-i1", "namespace": "n", "uid": "u", "generation": 1,
            "finalizers": [crate::api::INSTANCE_FINALIZER]},
        "spec": {"id": "i1", "poolRef": {"name": "p"}, "providerName": "convos-agent-dev-i1", "turn": 1,
            "template": {"revision": "p-1", "hash": "1"}},
    });
    let mut instance: AgentInstance = serde_json::from_value(object).unwrap();
    instance.status = serde_json::from_value(status).unwrap();
    Case {
        name: name.to_owned(),
        instance,
        plan: plan(Repeat::LookFirst),
        listed: Listed::Unknown,
        progress: None,
        evidence: Evidence::default(),
        // Known for a tick: the moment of its first probe has come.
        memory: Memory {
            known_for: seconds(30),
            ..Memory::default()
        },
        limits: Limits::default(),
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
    }
}

pub fn plan(repeat: Repeat) -> Vec<StepSpec> {
    let step = |step, repeat| StepSpec {
        step,
        repeat,
        deadline: seconds(600),
        attempts: 3,
    };
    vec![
        step(Step::Provider("service"), repeat),
        step(Step::Provider("domain"), repeat),
        step(Step::Provider("deploy"), repeat),
        step(Step::Ready, Repeat::Safe),
        step(Step::Clean, Repeat::Safe),
    ]
}

const STEPS: [&str; 5] = ["service", "domain", "deploy", "ready", "clean"];

pub fn operation(index: usize, state: &str, attempt: i32) -> Value {
    let steps: Vec<Value> = STEPS[..=index]
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let state = if i == index { state } else { "Done" };
            json!({"name": name, "state": state, "attempt": attempt})
        })
        .collect();
    json!({"id": "op", "kind": "Create", "planHash": "h", "index": index, "steps": steps})
}

/// Under way at a step; the service's id is known from the second one on.
pub fn building(index: usize, state: &str) -> Case {
    let mut status = json!({"operation": operation(index, state, 1), "provider": {}});
    if index > 0 {
        status["provider"] = json!({"id": "s1", "state": "Running"});
    }
    case(&format!("{} {state}", STEPS[index]), status)
}

pub fn fresh() -> Case {
    case("new", Value::Null).memory(|m| m.fresh = true)
}

/// An object of unknown history: nobody knows what it has at the provider.
pub fn unknown() -> Case {
    case("unknown", Value::Null)
}

/// The same under way: every step is looked for.
pub fn adopting(index: usize, state: &str) -> Case {
    let mut case = building(index, state);
    let operation = case
        .instance
        .status
        .as_mut()
        .and_then(|s| s.operation.as_mut());
    operation.unwrap().kind = super::status::ADOPT.to_owned();
    case.name.push_str(" adopting");
    case
}

pub fn idle() -> Case {
    case(
        "idle",
        json!({"turn": 1, "provider": {"id": "s1", "state": "Running"}, "runtime": {"dialect": "PoolServer"}}),
    )
}

/// Back from a claim: a higher turn, not proven yet.
pub fn back() -> Case {
    let mut case = idle().spec("turn", json!(2));
    case.name = "back".into();
    case
}

pub fn asleep(mut case: Case) -> Case {
    let status = case.instance.status.get_or_insert_default();
    status.provider.get_or_insert_default().state = Some("Sleeping".into());
    case.name.push_str(" asleep");
    case
}

/// Woken by us, and silent since.
pub fn waking() -> Case {
    let mut case = idle();
    let provider = case.instance.status.get_or_insert_default();
    let provider = provider.provider.get_or_insert_default();
    provider.state = Some("Waking".into());
    provider.woken_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        jiff::Timestamp::UNIX_EPOCH,
    ));
    case.name = "waking".into();
    case
}

/// In stock again after it was woken once.
pub fn woken_before() -> Case {
    let mut case = waking();
    let status = case.instance.status.get_or_insert_default();
    status.provider.get_or_insert_default().state = Some("Running".into());
    case.name = "woken before".into();
    case
}

pub fn claiming() -> Case {
    let mut case = idle().spec(
        "claim",
        json!({"id": "k1", "holder": "h", "agentName": "A", "deadline": "2026-01-01T00:00:00Z",
            "requestedAt": "2026-01-01T00:00:00Z"}),
    );
    case.name = "claiming".into();
    case
}

fn with_outcome(outcome: &str, conversation: Option<&str>) -> Case {
    let mut case = claiming();
    let mut status = serde_json::to_value(&case.instance.status).unwrap();
    status["claim"] = json!({"id": "k1", "outcome": outcome, "joined": false});
    if let Some(c) = conversation {
        status["claim"]["conversationId"] = json!(c);
    }
    case.instance.status = serde_json::from_value(status).unwrap();
    case
}

pub fn claimed() -> Case {
    let mut case = with_outcome("Bound", Some(CONVERSATION));
    case.name = "claimed".into();
    case
}

pub fn pending() -> Case {
    let mut case = with_outcome("Pending", None);
    case.name = "pending".into();
    case
}

/// A claim that was to join a conversation.
pub fn joining() -> Case {
    let mut case = claiming();
    let claim = case.instance.spec.claim.as_mut().unwrap();
    claim.join_url = Some("https://dev.convos.org/v2?i=x".into());
    case.name = "joining".into();
    case
}

/// Of which a claim recorded that it was not handed out, and why.
pub fn rejected(outcome: outcome::Outcome) -> Case {
    let mut case = with_outcome(outcome.as_str(), None);
    case.name = outcome.as_str().into();
    case
}

/// Its agent is of the kind that watches for its acceptance.
pub fn hermes(mut case: Case) -> Case {
    let status = case.instance.status.get_or_insert_default();
    status.runtime.get_or_insert_default().kind = Some("hermes".into());
    case.name.push_str(" hermes");
    case
}

/// Recorded as bound so long ago.
pub fn bound(mut case: Case, ago: Duration) -> Case {
    let at = case.now - ago;
    let status = case.instance.status.get_or_insert_default();
    if let Some(claim) = &mut status.claim {
        claim.claimed_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
    }
    case
}

pub fn status_lost() -> Case {
    let mut case = claimed();
    case.instance.status = None;
    case.name = "status lost".into();
    case
}

/// What the sweep makes of an orphan, before anything was looked at.
pub fn adopted() -> Case {
    let mut case = status_lost();
    case.instance.spec.restored = true;
    if let Some(claim) = &mut case.instance.spec.claim {
        claim.holder = crate::domain::sweep::ADOPTED_BY.into();
    }
    case.name = "adopted".into();
    case
}

pub fn resource(liveness: Liveness) -> Resource {
    Resource {
        name: "convos-agent-dev-i1".into(),
        id: "s1".into(),
        liveness,
        native_state: None,
        facts: Facts::new(),
        created_at: None,
    }
}

pub fn present(liveness: Liveness) -> Listed {
    Listed::Present(Box::new(resource(liveness)))
}

pub fn read(liveness: Liveness) -> Presence {
    Presence::Present(Box::new(resource(liveness)))
}

/// Ready, unbound, clean.
pub fn good() -> AgentStatus {
    AgentStatus {
        ready: true,
        clean: Some(true),
        ..AgentStatus::default()
    }
}

pub fn answer(dialect: Dialect, status: AgentStatus) -> Probe {
    Probe::Answered {
        dialect,
        kind: None,
        version: None,
        status,
    }
}

pub fn says(status: AgentStatus) -> Probe {
    answer(Dialect::PoolServer, status)
}

pub fn bound_to(conversation: Option<&str>) -> Probe {
    says(AgentStatus {
        conversation: conversation.map(str::to_owned),
        ..good()
    })
}

pub fn trouble(class: Class, retry_after: Option<u64>) -> Trouble {
    Trouble {
        class,
        reason: Reason::ProviderUnavailable,
        message: "m".into(),
        retry_after: retry_after.map(seconds),
    }
}

pub const CLASSES: [Class; 7] = [
    Class::Throttled,
    Class::Transient,
    Class::Ambiguous,
    Class::Rejected,
    Class::Capacity,
    Class::Unauthorized,
    Class::Gone,
];

/// Every answer that an agent can give.
pub fn answers() -> Vec<Probe> {
    let mut all = vec![];
    for bits in 0..72 {
        let (dialect, ready, pending) = (bits & 1, bits >> 1 & 1, bits >> 2 & 1);
        let (conversation, clean) = (bits / 8 % 3, bits / 24);
        let status = AgentStatus {
            ready: ready == 1,
            conversation: [None, Some(CONVERSATION), Some("c2")][conversation].map(str::to_owned),
            pending: pending == 1,
            clean: [None, Some(true), Some(false)][clean],
            streaming: None,
        };
        let dialect = [Dialect::PoolServer, Dialect::Gateway][dialect];
        all.push(answer(dialect, status));
    }
    all
}

pub fn silences() -> Vec<Probe> {
    vec![
        Probe::Unreachable("x".into()),
        Probe::NotReady("x".into()),
        Probe::Unauthorized,
        Probe::WrongRuntime("x".into()),
    ]
}

pub fn looks() -> Vec<Seen> {
    let failed = |retry| Seen::Failed {
        reason: "Why",
        message: "m".into(),
        retry,
    };
    vec![
        Seen::Absent,
        Seen::Running,
        Seen::Done(Facts::new()),
        failed(true),
        failed(false),
        Seen::Unknown,
    ]
}

pub fn outcomes() -> Vec<Outcome> {
    let failed = |retry| Outcome::Failed {
        reason: "Why",
        message: "m".into(),
        retry,
    };
    let running = Outcome::Running {
        facts: Facts::new(),
        poll: seconds(1),
    };
    vec![
        Outcome::Done(Facts::new()),
        running,
        failed(true),
        failed(false),
    ]
}

pub fn listings() -> Vec<Listed> {
    let mut all = vec![Listed::Unknown, Listed::Absent];
    all.extend(LIVENESS.map(present));
    all
}

// ---- a provider that restores, and whose machines sleep in stock ------------------------------------------------

/// `keepAwake`: Always, Claimed, Never.
pub const KEPT: [(Beat, Beat); 3] = [
    (Beat::Always, Beat::Always),
    (Beat::Never, Beat::Always),
    (Beat::Never, Beat::WhileRunning),
];

pub const RECYCLE_STEPS: [&str; 5] = ["checkpoint", "restore", "files", "ready", "clean"];

/// The same at such a provider, with a checkpoint where it has ids.
pub fn billed(mut case: Case, (idle, in_use): (Beat, Beat)) -> Case {
    case.limits.recycles = true;
    case.limits.heartbeat = Some(Heartbeat {
        every: seconds(20),
        idle,
        in_use,
    });
    if let Some(status) = &mut case.instance.status {
        if let Some(provider) = &mut status.provider {
            provider.checkpoint_id = Some("v1".into());
        }
        if let Some(runtime) = &mut status.runtime {
            runtime.dialect = Some("Gateway".into());
        }
        status.token_seq = Some(1);
    }
    if case.instance.spec.release.is_some() {
        case.plan = recycle_plan();
    }
    case.name.push_str(&format!(" {idle:?}/{in_use:?}"));
    case
}

pub fn recycle_plan() -> Vec<StepSpec> {
    let step = |step| StepSpec {
        step,
        repeat: Repeat::Safe,
        deadline: seconds(60),
        attempts: 2,
    };
    let [checkpoint, restore, files, ..] = RECYCLE_STEPS;
    let mut plan: Vec<_> = [checkpoint, restore, files]
        .into_iter()
        .map(|s| step(Step::Provider(s)))
        .collect();
    plan.extend([step(Step::Ready), step(Step::Clean)]);
    plan
}

/// Given back by its user, nothing done yet.
pub fn given_back() -> Case {
    let mut case = billed(claimed(), KEPT[1]).released("Recycle");
    case.plan = recycle_plan();
    case
}

/// Being restored, at this step.
pub fn recycling(index: usize, state: &str) -> Case {
    let mut case = given_back();
    let steps: Vec<Value> = RECYCLE_STEPS[..=index]
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let state = if i == index { state } else { "Done" };
            json!({"name": name, "state": state, "attempt": 1})
        })
        .collect();
    let operation =
        json!({"id": "op", "kind": "Recycle", "planHash": "h", "index": index, "steps": steps});
    let status = case.instance.status.get_or_insert_default();
    status.operation = serde_json::from_value(operation).unwrap();
    status.token_seq = Some(2);
    case.name = format!("recycling {} {state}", RECYCLE_STEPS[index]);
    case
}

/// Restored, its claim cleared and the turn raised, and not proven yet.
pub fn restored() -> Case {
    let mut case = recycling(4, "Intended");
    case.instance.spec.claim = None;
    case.instance.spec.release = None;
    case.instance.spec.turn = 2;
    case.name = "restored".into();
    case
}

/// Built by a plan whose last step is a checkpoint, and every step of it done.
pub fn checkpointed() -> Case {
    let mut case = building(4, "Done");
    case.plan.push(StepSpec {
        step: Step::Provider("golden"),
        repeat: Repeat::Safe,
        deadline: seconds(60),
        attempts: 2,
    });
    let status = case.instance.status.get_or_insert_default();
    let operation = status.operation.as_mut().unwrap();
    let mut last = operation.steps[4].clone();
    last.name = "golden".into();
    operation.steps.push(last);
    operation.index = 6;
    case.name = "checkpointed".into();
    case
}
