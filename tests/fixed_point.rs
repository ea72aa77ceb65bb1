//! One instance from any crash point to stock, or to nothing left: decisions, records and memories as the controller
//! has them, against a small model of a provider that loses answers and lists late.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use agentpool::api::AgentInstance;
use agentpool::api::condition::Reason;
use agentpool::controllers::memory::{Memories, intent};
use agentpool::domain::agent::{AgentStatus, Dialect, Probe};
use agentpool::domain::instance::decide::{Action, Change, Decision, current, decide};
use agentpool::domain::instance::phase::{Phase, phase_of};
use agentpool::domain::instance::status::{Given, status};
use agentpool::domain::instance::view::{Evidence, Limits, Listed, View};
use agentpool::domain::invariant::broken;
use agentpool::domain::plan::{Class, Facts, Outcome, Repeat, Seen, Step, StepSpec, Trouble};
use agentpool::domain::resource::{Liveness, Presence, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

/// More decisions than any of these creations needs.
const DECISIONS: usize = 600;
const CALL: Duration = Duration::from_secs(30);
const BOOT: Duration = Duration::from_secs(20);

/// What becomes of one call that changes something.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Done and answered.
    Done,
    /// Done; the answer is lost.
    Lost,
    /// Nothing happened, and nobody knows.
    Nothing,
    /// Refused for now: nothing happened, and that is certain.
    Throttled,
}

/// What the controller's process does at one of its actions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    No,
    Before,
    After,
}

/// One thing at the provider: made at, and shown by reads from.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Duration,
    shown: Duration,
}

/// The provider, the agent behind it, and the cluster's one object.
struct World {
    instance: AgentInstance,
    plan: Vec<StepSpec>,
    limits: Limits,
    now: Duration,
    /// Service, domain, deployment; each as often as it was made.
    made: [Vec<Made>; 3],
    gone: bool,
    fates: Vec<Fate>,
    lags: Vec<u64>,
    crashes: Vec<Crash>,
    memories: Memories,
    let_go: bool,
}

const STEPS: [&str; 3] = ["service", "domain", "deploy"];

impl World {
    fn new(fates: Vec<Fate>, lags: Vec<u64>, crashes: Vec<Crash>) -> Self {
        let step = |step, repeat| StepSpec {
            step,
            repeat,
            deadline: Duration::from_secs(900),
            attempts: 3,
        };
        let mut plan: Vec<StepSpec> = STEPS
            .map(|s| step(Step::Provider(s), Repeat::LookFirst))
            .into();
        plan.extend([
            step(Step::Ready, Repeat::Safe),
            step(Step::Clean, Repeat::Safe),
        ]);
        let instance = serde_json::from_value(json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1,
                "finalizers": [agentpool::api::INSTANCE_FINALIZER]},
            "spec": {"id": "i", "poolRef": {"name": "p"}, "providerName": "n", "turn": 1,
                "template": {"revision": "r", "hash": "h"}},
        }));
        Self {
            instance: instance.unwrap(),
            plan,
            limits: Limits {
                stuck: Duration::from_secs(86_400),
                ..Limits::default()
            },
            now: Duration::from_secs(1),
            made: [vec![], vec![], vec![]],
            gone: false,
            fates,
            lags,
            crashes,
            memories: Memories::default(),
            let_go: false,
        }
    }

    fn shown(&self, step: usize) -> bool {
        !self.gone && self.made[step].iter().any(|m| m.shown <= self.now)
    }

    fn alive(&self) -> bool {
        !self.gone && !self.made[0].is_empty()
    }

    fn up(&self) -> bool {
        !self.gone && self.made[2].iter().any(|m| m.at + BOOT <= self.now)
    }

    fn facts(step: usize) -> Facts {
        let (key, value) = [
            ("serviceId", "s1"),
            ("url", "https://a"),
            ("deploymentId", "d1"),
        ][step];
        Facts::from([(key.to_owned(), value.to_owned())])
    }

    fn resource(&self) -> Resource {
        let liveness = match (self.made[2].is_empty(), self.up()) {
            (true, _) => Liveness::Created,
            (_, false) => Liveness::Starting,
            (_, true) => Liveness::Running,
        };
        let (name, id) = ("n".to_owned(), "s1".to_owned());
        Resource {
            name,
            id,
            liveness,
            native_state: None,
            facts: Facts::new(),
            created_at: None,
        }
    }

    fn listed(&self) -> Listed {
        let status = self.instance.status.as_ref();
        let id = status
            .and_then(|s| s.provider.as_ref())
            .and_then(|p| p.id.as_ref());
        let deleted = self.instance.metadata.deletion_timestamp.is_some();
        match id {
            Some(_) if self.shown(0) && !deleted => Listed::Present(Box::new(self.resource())),
            // Absent only past the lag: the fleet sees to that.
            _ => Listed::Unknown,
        }
    }

    fn view<'a>(&'a self, evidence: &'a Evidence) -> View<'a> {
        let listed = self.listed();
        if matches!(listed, Listed::Present(_)) {
            self.memories.with(&self.instance, |m| m.missing = None);
        }
        let operation = self
            .instance
            .status
            .as_ref()
            .and_then(|s| s.operation.as_ref());
        let at = operation
            .and_then(|o| current(&self.plan, o))
            .map(|(i, _, _)| i);
        let progress = match (&listed, at) {
            (Listed::Present(_), Some(2)) if self.up() => Some(Seen::Done(Facts::new())),
            (Listed::Present(_), Some(2)) => Some(Seen::Running),
            _ => None,
        };
        View {
            instance: &self.instance,
            plan: &self.plan,
            listed,
            progress,
            evidence,
            memory: self.memories.notice(&self.instance, self.now),
            limits: self.limits,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// Decides, and holds the decision against every rule.
    fn decide(&self, evidence: &Evidence) -> Decision {
        let view = self.view(evidence);
        let decision = decide(&view);
        assert_eq!(
            broken(&view, &decision),
            Vec::<&str>::new(),
            "{decision:?}\n{evidence:?}"
        );
        decision
    }

    fn record(&mut self, evidence: &Evidence, decision: &Decision) {
        let given = Given {
            now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
            operation_id: "op".into(),
            token_key: None,
            image: None,
            image_digest: None,
            source_branch: None,
            secrets: None,
        };
        let new = status(&self.view(evidence), decision, &given);
        if self.instance.status.as_ref() == Some(&new) {
            return;
        }
        self.instance.status = Some(new);
        let grants = matches!(
            decision.action,
            Action::Record(Change::Begin | Change::Done(_) | Change::Again)
        );
        let permit = intent(&self.instance);
        self.memories.with(&self.instance, |m| {
            m.failures = 0;
            m.permit = if grants { permit } else { m.permit.take() };
        });
    }

    fn trouble(&self, evidence: &mut Evidence, class: Class) {
        self.memories.with(&self.instance, |m| m.failures += 1);
        evidence.trouble = Some(Trouble {
            class,
            reason: Reason::ProviderUnavailable,
            message: "m".into(),
            retry_after: None,
        });
    }

    fn perform(&mut self, step: usize, evidence: &mut Evidence) {
        let permit = self.memories.with(&self.instance, |m| {
            m.absent = None;
            m.permit.take()
        });
        let fate = self.fates.pop().unwrap_or(Fate::Done);
        if !matches!(fate, Fate::Throttled) {
            // An answer that never comes is waited for; the deed may be done at the very end.
            self.now += if matches!(fate, Fate::Done) {
                Duration::from_secs(1)
            } else {
                CALL
            };
        }
        if matches!(fate, Fate::Done | Fate::Lost) {
            let lag = Duration::from_millis(self.lags.pop().unwrap_or_default());
            let shown = self.now + lag;
            self.made[step].push(Made {
                at: self.now,
                shown,
            });
            assert_eq!(self.made[step].len(), 1, "{} made twice", STEPS[step]);
        }
        match fate {
            Fate::Done if step == 2 => {
                let (facts, poll) = (Self::facts(2), Duration::from_secs(5));
                evidence.outcome = Some(Outcome::Running { facts, poll });
            }
            Fate::Done => evidence.outcome = Some(Outcome::Done(Self::facts(step))),
            Fate::Lost | Fate::Nothing => self.trouble(evidence, Class::Ambiguous),
            Fate::Throttled => {
                self.memories.with(&self.instance, |m| m.permit = permit);
                self.trouble(evidence, Class::Throttled);
            }
        }
    }

    fn look(&mut self, step: usize, evidence: &mut Evidence) {
        let seen = match (self.shown(step), step) {
            (false, _) => Seen::Absent,
            (true, 2) if !self.up() => Seen::Running,
            (true, _) => Seen::Done(Self::facts(step)),
        };
        let now = self.now;
        self.memories.with(&self.instance, |m| match seen {
            Seen::Absent => drop(m.absent.get_or_insert(now)),
            _ => m.absent = None,
        });
        evidence.look = Some(seen);
    }

    fn destroy(&mut self, evidence: &mut Evidence) {
        let now = self.now;
        let status = self.instance.status.as_ref();
        let known = status
            .and_then(|s| s.provider.as_ref())
            .is_some_and(|p| p.id.is_some());
        // By its id it is found at once, by its name when the list has it.
        let presence = if self.shown(0) || (known && self.alive()) {
            self.gone = true;
            Presence::Unknown
        } else {
            Presence::Gone
        };
        self.memories.with(&self.instance, |m| match presence {
            Presence::Gone => drop(m.missing.get_or_insert(now)),
            _ => m.missing = None,
        });
        evidence.removal = Some(presence);
    }

    fn probe(&mut self, evidence: &mut Evidence) {
        let now = self.now;
        self.memories.with(&self.instance, |m| m.probed = Some(now));
        let status = AgentStatus {
            ready: true,
            clean: Some(true),
            ..AgentStatus::default()
        };
        evidence.probe = Some(if self.up() {
            Probe::Answered {
                dialect: Dialect::PoolServer,
                kind: None,
                version: None,
                status,
            }
        } else {
            Probe::Unreachable("no".into())
        });
    }

    /// One action, as the shell does it; whether the pass goes on.
    fn act(&mut self, evidence: &mut Evidence, decision: &Decision) -> bool {
        match &decision.action {
            Action::Wait => {
                self.record(evidence, decision);
                self.now += decision.recheck;
                return false;
            }
            Action::Record(_) => {
                self.record(evidence, decision);
                *evidence = Evidence {
                    probe: evidence.probe.take(),
                    ..Evidence::default()
                };
            }
            Action::Look(step) => self.look(*step, evidence),
            Action::Perform(step) => self.perform(*step, evidence),
            Action::Probe => self.probe(evidence),
            Action::Destroy => self.destroy(evidence),
            Action::RemoveFinalizer => {
                self.let_go = true;
                return false;
            }
            Action::Delete
            | Action::Observe
            | Action::Reset
            | Action::PutBack
            | Action::LookInside
            | Action::Restart
            | Action::Hold => {
                panic!("not in this world: {decision:?}")
            }
        }
        true
    }

    /// Passes until `over`; the number of decisions it took, or `None`.
    fn run(&mut self, limit: usize, over: impl Fn(&Self) -> bool) -> Option<usize> {
        let mut evidence = Evidence::default();
        for n in 0..limit {
            if over(self) {
                return Some(n);
            }
            let decision = self.decide(&evidence);
            let crash = self.crashes.pop().unwrap_or(Crash::No);
            let goes_on = crash != Crash::Before && self.act(&mut evidence, &decision);
            if crash != Crash::No {
                self.memories = Memories::default();
                self.now += Duration::from_millis(100);
            }
            if crash != Crash::No || !goes_on {
                evidence = Evidence::default();
            }
        }
        over(self).then_some(limit)
    }

    fn delete(&mut self) {
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        self.instance.metadata.deletion_timestamp = Some(Time(now));
    }
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        Just(Fate::Done),
        Just(Fate::Lost),
        Just(Fate::Nothing),
        Just(Fate::Throttled)
    ];
    proptest::collection::vec(fate, 0..8)
}

fn crashes() -> impl Strategy<Value = Vec<Crash>> {
    let crash =
        prop_oneof![6 => Just(Crash::No), 1 => Just(Crash::Before), 1 => Just(Crash::After)];
    proptest::collection::vec(crash, 0..60)
}

/// Times after which a lost create is shown: up to the lag that the provider promises.
fn lags() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(prop_oneof![0..30_000u64, Just(29_999)], 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn from_any_crash_to_stock_with_one_of_each(fates in fates(), lags in lags(), crashes in crashes()) {
        let mut world = World::new(fates, lags, crashes);
        let took = world.run(DECISIONS, |w| phase_of(&w.instance) == Phase::Idle);
        prop_assert!(took.is_some(), "not in stock: {:?}", world.instance.status);
        prop_assert!(world.made.iter().all(|m| m.len() == 1), "{:?}", world.made);
        prop_assert!(world.instance.status.as_ref().unwrap().operation.is_none());
    }

    #[test]
    fn deleted_at_any_point_leaves_nothing_behind(fates in fates(), lags in lags(), crashes in crashes(), after in 0usize..60) {
        let mut world = World::new(fates, lags, crashes);
        world.run(after, |w| phase_of(&w.instance) == Phase::Idle);
        world.delete();
        let took = world.run(DECISIONS, |w| w.let_go);
        prop_assert!(took.is_some(), "never let go: {:?}", world.instance.status);
        prop_assert!(!world.alive(), "left behind: {:?}", world.made);
    }
}

#[test]
fn an_untroubled_creation_takes_few_decisions() {
    let mut world = World::new(vec![], vec![], vec![]);
    let took = world.run(DECISIONS, |w| phase_of(&w.instance) == Phase::Idle);
    // Three steps sent and recorded, a deployment waited for, one probe for two proofs.
    assert!(took.unwrap() < 40, "{took:?}");
}

#[test]
fn a_lost_create_that_shows_at_the_last_moment_is_found_and_not_repeated() {
    for step in 0..3 {
        let mut fates = vec![Fate::Lost];
        fates.extend(vec![Fate::Done; step]);
        let mut world = World::new(fates, vec![29_999; 4], vec![]);
        let took = world.run(DECISIONS, |w| phase_of(&w.instance) == Phase::Idle);
        assert!(took.is_some(), "{:?}", world.instance.status);
    }
}

#[test]
fn a_step_that_did_not_happen_is_done_again_after_a_crash() {
    for step in 0..3 {
        let mut fates = vec![Fate::Nothing];
        fates.extend(vec![Fate::Done; step]);
        let mut world = World::new(fates, vec![], vec![]);
        let took = world.run(DECISIONS, |w| phase_of(&w.instance) == Phase::Idle);
        assert!(took.is_some(), "step {step}: {:?}", world.instance.status);
    }
}
