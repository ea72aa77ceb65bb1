//! One simulated world: a cluster, Railway with its agents, operators, a user; all from one seed, in virtual time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentpool::api::{AgentInstance, AgentPool};
use agentpool::claim::{ClaimAnswer, ClaimError, ClaimRequest};
use agentpool::clock::{Clock, Rng};
use agentpool::domain::instance::phase::{self, Phase};
use axum::http::Request;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::api_server::{ApiServer, Refusal, Reins};
use crate::checks::Checks;
use crate::operator::{Ground, Operator};
use crate::process::{Process, Trace};
use crate::railway::executor::Executor;
use crate::railway::limits::Quota;
use crate::railway::model::{Token, TokenKind};
use crate::railway::plans;
use crate::world::Sim;

/// The cluster's id.
pub const CLUSTER: &str = "sim-cluster";
/// The namespace of everything.
pub const NAMESPACE: &str = "agents";
/// The pool of most tests.
pub const POOL: &str = "pool";
const TOKEN: &str = "5eed0000-0000-4000-8000-0000000000b1";
const PROJECT: &str = "5eed0000-0000-4000-8000-000000000001";
const ENVIRONMENT: &str = "5eed0000-0000-4000-8000-000000000011";

/// A world.
pub struct Cosmos {
    /// Cluster, provider, time, chance.
    pub ground: Ground,
    /// The user's own chance.
    pub rng: Rng,
    /// What must hold.
    pub checks: Checks,
    /// Everything that runs beside.
    pub tasks: TaskTracker,
    /// The operators that run; the dead are replaced while anybody waits for anything.
    pub operators: Vec<Operator>,
    /// How many are to run.
    wanted: usize,
    begun: Instant,
    started: usize,
}

/// Runs a test's world on paused time.
pub fn simulate<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

fn shared() -> (Arc<Executor>, reqwest::Client) {
    static SHARED: OnceLock<(Arc<Executor>, reqwest::Client)> = OnceLock::new();
    let made = SHARED.get_or_init(|| {
        // Err: another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        (
            Arc::new(Executor::new().expect("the schema")),
            reqwest::Client::new(),
        )
    });
    made.clone()
}

impl Cosmos {
    /// A world with nothing in it but the credential.
    pub fn new(seed: u64) -> Self {
        let told = crate::sample::number("AGENTPOOL_SIM_TRACE", 0) > 0;
        let trace = if told {
            Trace::told()
        } else {
            Trace::default()
        };
        Self::traced(seed, trace)
    }

    /// The same with its history kept.
    pub fn traced(seed: u64, trace: Trace) -> Self {
        // kube's watches draw their back-off from here.
        fastrand::seed(seed);
        let wall: jiff::Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let (executor, http) = shared();
        let sim = Sim::with(
            seed,
            crate::clock::Clock::start_at(wall, 1.0),
            executor,
            http,
        );
        let clock = Clock::virtual_from(wall);
        let of_server = clock.clone();
        let server = ApiServer::new(move || of_server.now());
        let rng = Rng::seeded(seed);
        let checks = Checks::new(sim.clone());
        let (of_checks, of_trace) = (checks.clone(), trace.clone());
        server.store().observe(move |change| {
            if change.plural != "events" {
                of_trace.note(|| {
                    let object = &change.object;
                    let says = match object["status"]["conditions"].as_array() {
                        Some(all) => all
                            .iter()
                            .map(|c| format!(" {}: {}", c["reason"], c["message"]))
                            .collect(),
                        None => String::new(),
                    };
                    let name = &object["metadata"]["name"];
                    format!("{} {:?} {name}{says}", change.version, change.kind)
                });
            }
            of_checks.changed(change);
        });
        #[allow(
            clippy::disallowed_methods,
            reason = "virtual time is the subject here"
        )]
        let begun = Instant::now();
        let world = Self {
            ground: Ground {
                server,
                sim,
                clock,
                rng: rng.clone(),
                trace,
            },
            rng: Rng::seeded(seed ^ 0x5eed),
            checks,
            tasks: TaskTracker::new(),
            operators: vec![],
            wanted: 0,
            begun,
            started: 0,
        };
        for name in ["kube-system", NAMESPACE] {
            world.must(
                "POST",
                "/api/v1/namespaces",
                json!({"metadata": {"name": name}}),
            );
        }
        let secret = json!({"metadata": {"name": "railway"}, "stringData": {"token": TOKEN}});
        world.must(
            "POST",
            &format!("/api/v1/namespaces/{NAMESPACE}/secrets"),
            secret,
        );
        let timings = json!({"building": 20.0, "latency_read": 0.15, "latency_mutation": 0.4});
        world.timings(&timings);
        world
    }

    /// How long it exists, in virtual time.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    // ---- the provider -----------------------------------------------------------------------------------------

    /// Sets Railway's timings, in seconds by name.
    pub fn timings(&self, timings: &Value) {
        let mut world = self.ground.sim.world();
        let given = timings.as_object().expect("an object");
        world.railway.timings.set(given).expect("known timings");
    }

    /// Sets the plan of Railway's workspace.
    pub fn plan(&self, plan: &str) {
        let mut world = self.ground.sim.world();
        let workspaces = world.railway.workspaces.values_mut();
        workspaces.for_each(|w| w.plan = plan.to_owned());
    }

    /// A token of another user of the workspace.
    pub fn token(&self, n: usize) -> String {
        let token = format!("5eed0000-0000-4000-8000-0000000000e{n}");
        let workspace = crate::railway::seed::WORKSPACE.to_owned();
        self.ground.sim.world().railway.tokens.push(Token {
            token: token.clone(),
            kind: TokenKind::Workspace(workspace),
            revoked: false,
        });
        token
    }

    /// Creates a Secret.
    pub fn secret(&self, name: &str, key: &str, value: &str) {
        let secret = json!({"metadata": {"name": name}, "stringData": {key: value}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
        self.must("POST", &path, secret);
    }

    /// Somebody else used so many requests of the workspace's hour.
    pub fn spend(&self, requests: usize) {
        let now = self.ground.sim.clock.now();
        let mut world = self.ground.sim.world();
        let railway = &mut world.railway;
        let whose: Vec<String> = railway.workspaces.keys().cloned().collect();
        for workspace in whose {
            let quota = Quota {
                per_second: 0,
                ..railway.quota_of(&workspace)
            };
            for _ in 0..requests {
                railway.limits.count(&workspace, quota, now);
            }
        }
    }

    /// What was asked of Railway, oldest first.
    pub fn railway_calls(&self) -> Vec<Value> {
        self.ground.sim.world().calls.of("railway")
    }

    /// Arms a fault of Railway.
    pub fn railway_fault(&self, rule: &Value) {
        let mut world = self.ground.sim.world();
        let world = &mut *world;
        world
            .railway
            .rules
            .arm(rule, &mut world.rng)
            .expect("a known fault");
    }

    /// Arms a fault of agents.
    pub fn agent_fault(&self, rule: &Value) {
        let mut world = self.ground.sim.world();
        let world = &mut *world;
        world
            .agents
            .rules
            .arm(rule, &mut world.rng)
            .expect("a known fault");
    }

    /// Ends all faults of Railway and of agents.
    pub fn heal(&self) {
        let mut world = self.ground.sim.world();
        world.railway.rules.clear();
        world.railway.edge_blocked_until = 0;
        world.agents.rules.clear();
    }

    /// Services that exist and carry our mark: (id, name at creation, id of the instance).
    pub fn services(&self) -> Vec<(String, String, String)> {
        let now = self.ground.sim.clock.now();
        let mut world = self.ground.sim.world();
        plans::advance(&mut world, now);
        let services = world
            .ledger
            .resources
            .iter()
            .filter(|r| r.kind == "service" && r.exists(now));
        services
            .filter_map(|r| {
                let owner = r.owner.as_deref()?.rsplit('/').next()?.to_owned();
                Some((r.id.clone(), r.name.clone(), owner))
            })
            .collect()
    }

    // ---- operators --------------------------------------------------------------------------------------------

    /// Starts an operator that leads.
    pub fn operator(&mut self) -> Operator {
        self.operator_with(|_| {})
    }

    /// The same with something laid on its way before it begins.
    pub fn operator_with(&mut self, prepare: impl FnOnce(&Process)) -> Operator {
        self.wanted += 1;
        self.begin(prepare)
    }

    /// One more that leads for so long and is gone again, as when a lease changes hands.
    pub fn passing_operator(&mut self, lasts: Duration) {
        let process = self.begin(|_| {}).process;
        self.tasks.spawn(async move {
            tokio::time::sleep(lasts).await;
            process.kill();
        });
    }

    fn begin(&mut self, prepare: impl FnOnce(&Process)) -> Operator {
        self.started += 1;
        let draw = || Rng::seeded(u64::from_le_bytes(self.ground.rng.bytes()));
        let (ways, own) = (draw(), draw());
        let process = Process::new(
            &format!("op-{}", self.started),
            ways,
            self.ground.trace.clone(),
        );
        prepare(&process);
        let operator = Operator::start(&self.ground, &self.tasks, (process, own));
        self.operators.push(operator.clone());
        operator
    }

    /// Starts a new operator for each one that died.
    pub fn revive(&mut self) {
        let failed = self.operators.iter().find(|o| o.process.has_failed());
        assert!(failed.is_none(), "an operator panicked, see above");
        self.operators.retain(|o| !o.process.is_dead());
        for _ in self.operators.len()..self.wanted {
            self.begin(|_| {});
        }
    }

    // ---- the user ---------------------------------------------------------------------------------------------

    /// A request of the user's, at once: the status and the answer.
    pub fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, Refusal> {
        let content = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = if body.is_null() {
            vec![]
        } else {
            body.to_string().into_bytes()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body);
        let answer = self
            .ground
            .server
            .decide(&request.expect("a request"), &Reins::default())?;
        Ok(answer)
    }

    /// The same; it is not refused.
    pub fn must(&self, method: &str, path: &str, body: Value) -> Value {
        self.ask(method, path, body)
            .unwrap_or_else(|r| panic!("{method} {path}: {r:?}"))
    }

    /// Creates a pool: the usual spec with `change` merged over it.
    pub fn create_pool(&self, name: &str, change: &Value) {
        let mut spec = pool_spec();
        json_patch::merge(&mut spec, change);
        self.must(
            "POST",
            &pools(),
            json!({
                "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
                "metadata": {"name": name}, "spec": spec,
            }),
        );
    }

    /// Changes a pool's spec.
    pub fn change_pool(&self, name: &str, change: &Value) {
        self.must(
            "PATCH",
            &format!("{}/{name}", pools()),
            json!({"spec": change}),
        );
    }

    /// Deletes a pool.
    pub fn delete_pool(&self, name: &str) {
        self.must("DELETE", &format!("{}/{name}", pools()), Value::Null);
    }

    /// Gives an agent back, as `POST /api/pool/…/release` does.
    pub fn release(&self, name: &str) -> Result<Value, Refusal> {
        self.checks.excuse(name);
        let release = json!({"id": "r-1", "mode": "Destroy", "requestedAt": self.ground.clock.now().to_string()});
        self.ask(
            "PATCH",
            &format!("{}/{name}", instance_path()),
            json!({"spec": {"release": release}}),
        )
    }

    /// Deletes an instance, as kubectl does.
    pub fn delete(&self, name: &str) -> Result<Value, Refusal> {
        self.checks.excuse(name);
        self.ask(
            "DELETE",
            &format!("{}/{name}", instance_path()),
            Value::Null,
        )
    }

    /// A pool, as stored.
    pub fn pool(&self, name: &str) -> Option<AgentPool> {
        let all = self.ground.server.store().all("agentpools");
        let found = all.iter().find(|p| p["metadata"]["name"] == name)?;
        Some(serde_json::from_value((**found).clone()).expect("a pool"))
    }

    /// All instances, as stored.
    pub fn instances(&self) -> Vec<AgentInstance> {
        let all = self.ground.server.store().all("agentinstances");
        let parsed = all.iter().map(|i| serde_json::from_value((**i).clone()));
        parsed.map(|i| i.expect("an instance")).collect()
    }

    /// The instances in a phase.
    pub fn in_phase(&self, phase: Phase) -> Vec<AgentInstance> {
        let all = self.instances().into_iter();
        all.filter(|i| phase::phase_of(i) == phase).collect()
    }

    /// Claims an agent through an operator; what is answered is remembered and must stay true.
    pub async fn claim(
        &self,
        operator: &Operator,
        pool: &str,
        agent: &str,
    ) -> Option<Result<ClaimAnswer, ClaimError>> {
        claim(
            operator.clone(),
            self.checks.clone(),
            (pool.to_owned(), agent.to_owned()),
        )
        .await
    }

    /// Claims until somebody answers, as a patient user would.
    pub async fn claim_surely(&mut self, pool: &str, agent: &str) -> ClaimAnswer {
        for n in 0..3600 {
            self.revive();
            self.checks.assert();
            let operator = self.operators[0].clone();
            if let Some(Ok(answer)) = self.claim(&operator, pool, &format!("{agent} {n}")).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("no claim was answered\n{}", self.describe());
    }

    /// Waits until exactly so many agents are idle, what was handed out is claimed, and nothing else is anywhere.
    pub async fn until_settled(&mut self, idle: usize) {
        let limit = Duration::from_secs(2 * 3600);
        self.until(&format!("{idle} idle and nothing else"), limit, |w| {
            w.is_settled(idle)
        })
        .await;
    }

    /// A claim may be recorded whose answer was lost with its process: that agent is in use, and its user finds it in
    /// the listing. There is one such at most.
    fn is_settled(&self, idle: usize) -> bool {
        let (all, told) = (self.instances(), self.checks.handed_out().len());
        let claimed = self.in_phase(Phase::Claimed).len();
        self.in_phase(Phase::Idle).len() == idle
            && (told..=told + 1).contains(&claimed)
            && all.len() == idle + claimed
            && self.services().len() == all.len()
    }

    /// The same beside everything else.
    pub fn claim_beside(&self, operator: &Operator, pool: &str, agent: &str) {
        let work = claim(
            operator.clone(),
            self.checks.clone(),
            (pool.to_owned(), agent.to_owned()),
        );
        self.tasks.spawn(async move { drop(work.await) });
    }

    // ---- waiting ----------------------------------------------------------------------------------------------

    /// Waits for a state, at most so long in virtual time.
    pub async fn until(&mut self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let begun = self.age();
        // What is judged changes with the cluster, or else slowly.
        let (mut seen, mut next) = (None, begun);
        loop {
            let version = self.ground.server.store().version();
            if seen != Some(version) || self.age() >= next {
                (seen, next) = (Some(version), self.age() + Duration::from_secs(10));
                self.checks.assert();
                if holds(self) {
                    return;
                }
            }
            self.revive();
            assert!(
                self.age() - begun < limit,
                "not within {limit:?}: {what}\n{}",
                self.describe()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Waits until so many are idle.
    pub async fn until_idle(&mut self, count: usize) {
        let limit = Duration::from_secs(1800);
        self.until(&format!("{count} idle"), limit, |w| {
            w.in_phase(Phase::Idle).len() == count
        })
        .await;
    }

    /// Waits until cluster and provider agree that nothing is left.
    pub async fn until_empty(&mut self) {
        let limit = Duration::from_secs(3600);
        self.until("nothing is left", limit, |w| {
            w.instances().is_empty() && w.services().is_empty()
        })
        .await;
    }

    /// Everything that helps to see why.
    pub fn describe(&self) -> String {
        let mut text = format!("at {:?}\n", self.age());
        for pool in self.ground.server.store().all("agentpools") {
            text += &format!("pool {} {}\n", pool["metadata"], pool["status"]);
        }
        for i in self.ground.server.store().all("agentinstances") {
            text += &format!(
                "instance {} del={} turn={} claim={} rel={} {}\n",
                i["metadata"]["name"],
                i["metadata"]["deletionTimestamp"],
                i["spec"]["turn"],
                i["spec"]["claim"]["id"],
                i["spec"]["release"],
                i["status"]
            );
        }
        text + &format!("services {:?}\n", self.services())
    }
}

async fn claim(
    operator: Operator,
    checks: Checks,
    (pool, agent): (String, String),
) -> Option<Result<ClaimAnswer, ClaimError>> {
    let request = ClaimRequest {
        agent_name: agent,
        instructions: "Be kind.".to_owned(),
        join_url: None,
        profile_image: None,
        metadata: None,
        passed_through: std::collections::BTreeMap::new(),
        source: "api".to_owned(),
        runtime: None,
        reference: None,
    };
    let answer = operator.claim(&pool, request).await?;
    if let Ok(answer) = &answer {
        checks.answered(answer);
    }
    Some(answer)
}

fn pools() -> String {
    format!("/apis/pool.convos.org/v1alpha1/namespaces/{NAMESPACE}/agentpools")
}

/// The path of all instances.
pub fn instance_path() -> String {
    format!("/apis/pool.convos.org/v1alpha1/namespaces/{NAMESPACE}/agentinstances")
}

/// Three agents on Railway, the default tick.
pub fn pool_spec() -> Value {
    json!({
        "environment": "staging",
        "minIdle": 3,
        "maxTotal": 20,
        "provider": {"railway": {
            "tokenSecretRef": {"name": "railway", "key": "token"},
            "project": {"projectId": PROJECT, "environmentId": ENVIRONMENT},
            "source": {"image": {"reference": "ghcr.io/xmtplabs/convos-runtime:0.3.4", "digestPolicy": "Off"}},
            "startCommand": "node convos-platform/pool-server/dist/index.js",
        }},
        "runtime": {"envProfile": "Minimal", "env": [{"name": "OPENROUTER_API_KEY", "value": "sk-simulated"}]},
    })
}
