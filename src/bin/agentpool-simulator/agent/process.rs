//! Processes of agents: how they come from deployments, end, and come back. No I/O and no clock.

use crate::agent::faults::Place;
use crate::agent::knobs;
use crate::agent::model::{Agent, Agents, Dialect, Join, Kind, kind_of_image};
use crate::clock::{Ms, NEVER};
use crate::ledger::Ledger;
use crate::railway::deploy::Status;
use crate::railway::model::{Deployment, Railway, Variables};
use crate::railway::plans::set_sleeping;
use crate::rng::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Agents {
    /// Brings all agents to `now`: new containers start, ended ones end, idle ones sleep.
    pub fn advance(
        &mut self,
        railway: &mut Railway,
        ledger: &mut Ledger,
        rng: &mut Random,
        now: Ms,
    ) {
        let containers = containers(railway, now);
        for (id, container) in &containers {
            self.follow((&*railway, ledger, rng), id, container, now);
        }
        // A container whose deployment no longer serves has ended, whatever it was doing.
        self.all
            .retain(|id, a| a.alone || containers.contains_key(id));
        let alive = self.all.values().filter(|a| a.alive);
        let ids: Vec<String> = alive.map(|a| a.id.clone()).collect();
        for id in ids {
            self.pass_time(railway, ledger, rng, &id, now);
        }
    }

    /// Makes an agent do what its deployment's state says.
    fn follow(
        &mut self,
        (railway, ledger, rng): (&Railway, &mut Ledger, &mut Random),
        id: &str,
        container: &Container,
        now: Ms,
    ) {
        let Some(agent) = self.all.get_mut(id) else {
            if let Some(since) = container.running_since {
                self.appear(railway, ledger, rng, (id, since));
                self.refresh_hosts(railway, ledger, id);
            }
            return;
        };
        match (container.running_since, agent.down_since) {
            (Some(since), Some(down)) if since > down => self.restart(rng, ledger, id, since),
            (None, None) if !container.asleep => agent.go_down(now),
            _ => {}
        }
        self.refresh_hosts(railway, ledger, id);
    }

    fn appear(
        &mut self,
        railway: &Railway,
        ledger: &mut Ledger,
        rng: &mut Random,
        (id, since): (&str, Ms),
    ) {
        let Some(deployment) = railway.deployments.get(id) else {
            return;
        };
        let mut agent = Agent::of_deployment(deployment);
        agent.hosts = hosts_of(railway, deployment);
        if let Some(dialect) = self
            .override_of(&agent.hosts)
            .and_then(|o| o.dialect)
            .or(self.default_dialect)
        {
            agent.dialect = dialect;
        }
        // A process begins so late that the defaults add up to `app_boot`.
        let own = knobs::default_of("boot") + knobs::default_of("convosLoad");
        let at = since + (railway.timings.ms("app_boot") - own).max(0);
        if agent.keeps_state(None)
            && let Some((bound, dirty)) = self.disks.get(&agent.account)
        {
            agent.bound.clone_from(bound);
            agent.dirty = *dirty;
        }
        let account = ledger.account(&agent.account);
        account.service = railway
            .services
            .get(&agent.account)
            .map(|s| s.name.clone())
            .unwrap_or_default();
        self.all.insert(id.to_owned(), agent);
        self.begin(rng, id, at);
    }

    /// Adds an agent that is not behind Railway.
    pub fn add_alone(&mut self, rng: &mut Random, agent: Agent, now: Ms) {
        let id = agent.id.clone();
        self.all.insert(id.clone(), agent);
        self.begin(rng, &id, now);
    }

    fn refresh_hosts(&mut self, railway: &Railway, ledger: &mut Ledger, id: &str) {
        let Some(agent) = self.all.get_mut(id) else {
            return;
        };
        let Some(deployment) = railway.deployments.get(id) else {
            return;
        };
        let key = (deployment.service.clone(), deployment.environment.clone());
        let domains = railway
            .instances
            .get(&key)
            .map(|i| i.domains.as_slice())
            .unwrap_or_default();
        if agent.hosts.iter().eq(domains.iter().map(|d| &d.domain)) {
            return;
        }
        agent.hosts = domains.iter().map(|d| d.domain.clone()).collect();
        let account = ledger.account(&deployment.service);
        for host in &agent.hosts {
            if !account.hosts.contains(host) {
                account.hosts.push(host.clone());
            }
        }
    }

    /// A new process at `at`, wrapper and child.
    pub fn begin(&mut self, rng: &mut Random, id: &str, at: Ms) {
        let (mut boot, load) = (
            self.latency(id, "boot", rng),
            self.latency(id, "convosLoad", rng),
        );
        if let Some(fault) = self.fault(id, "slowBoot", at, rng) {
            boot = fault["ms"].as_i64().unwrap_or(100_000);
        }
        if self.fault(id, "neverReady", at, rng).is_some() {
            boot = NEVER;
        }
        let Some(agent) = self.all.get_mut(id) else {
            return;
        };
        agent.generation += 1;
        agent.alive = true;
        agent.down_since = None;
        agent.exit_code = None;
        agent.started = at;
        agent.still_ready_until = 0;
        agent.begin_child(at, boot, load);
    }

    /// Stopped by the provider.
    pub fn halt(&mut self, id: &str, now: Ms) {
        if let Some(agent) = self.all.get_mut(id) {
            agent.go_down(now);
        }
    }

    /// Restarted by the provider or the control port; without a volume it forgets.
    pub fn restart(&mut self, rng: &mut Random, ledger: &mut Ledger, id: &str, at: Ms) {
        let Some(agent) = self.all.get(id) else {
            return;
        };
        ledger.account(&agent.account).restarts += 1;
        let keep = self.override_of(&agent.hosts).and_then(|o| o.keep_state);
        let mut keeps = agent.keeps_state(keep);
        keeps &= self.fault(id, "restartForgets", at, rng).is_none();
        if !keeps && let Some(agent) = self.all.get_mut(id) {
            agent.forget();
            let account = agent.account.clone();
            self.disks.remove(&account);
        }
        self.begin(rng, id, at);
    }

    /// The process ends with a code; the provider's policy does the rest.
    pub fn exit(
        &mut self,
        (railway, ledger, rng): (&mut Railway, &mut Ledger, &mut Random),
        id: &str,
        code: i32,
        now: Ms,
    ) {
        let Some(agent) = self.all.get_mut(id).filter(|a| a.alive) else {
            return;
        };
        agent.go_down(now);
        agent.exit_code = Some(code);
        let (retries, account) = (agent.retries, agent.account.clone());
        ledger
            .account(&account)
            .exits
            .push(json!({"code": code, "atMs": now}));
        let Some(deployment) = railway.deployments.get_mut(id) else {
            return;
        };
        let settings = &deployment.snapshot.settings;
        let policy = settings
            .get("restartPolicyType")
            .and_then(Value::as_str)
            .unwrap_or("ON_FAILURE");
        let most = settings
            .get("restartPolicyMaxRetries")
            .and_then(Value::as_i64)
            .unwrap_or(10);
        let again = policy == "ALWAYS" || (policy == "ON_FAILURE" && code != 0);
        if again && i64::from(retries) < most {
            let at = now + railway.timings.ms("crash_restart_backoff");
            self.restart(rng, ledger, id, at);
            if let Some(agent) = self.all.get_mut(id) {
                agent.retries = retries + 1;
            }
        } else if code == 0 {
            deployment.timeline.stop(now, now);
        } else {
            deployment
                .timeline
                .force(now, Status::Crashed, Some("CRASHED"), Some(true));
        }
    }

    fn pass_time(
        &mut self,
        railway: &mut Railway,
        ledger: &mut Ledger,
        rng: &mut Random,
        id: &str,
        now: Ms,
    ) {
        if let Some((at, code)) = self.all.get(id).and_then(Agent::ends_by_itself)
            && at <= now
        {
            self.exit((railway, ledger, rng), id, code, at);
            return;
        }
        if let Some(code) = self.dies_by_fault(rng, id, now) {
            self.exit((railway, ledger, rng), id, code, now);
            return;
        }
        if let Some(deployment) = railway.deployments.get(id)
            && deployment.timeline.at(now).status == Status::Success
            && self.falls_asleep(railway, deployment, rng, now)
        {
            set_sleeping(railway, id, now, true);
        }
    }

    fn dies_by_fault(&mut self, rng: &mut Random, id: &str, now: Ms) -> Option<i32> {
        let agent = self.all.get(id)?;
        let phase = agent.phase(now);
        let (hosts, who) = (agent.hosts.clone(), format!("{id}/{}", agent.generation));
        let place = Place {
            hosts: &hosts,
            phase,
        };
        let (own, since) = match phase {
            "idle" => ("dieIdle", agent.convos_up()),
            "claimed" => ("dieClaimed", agent.bound_at),
            _ => return None,
        };
        for (kind, code) in [(own, 1), ("oom", 137)] {
            let due = self.rules.falls_due(kind, &place, (&who, now - since), rng);
            if let Some(fault) = due {
                return Some(fault["code"].as_i64().unwrap_or(code) as i32);
            }
        }
        None
    }

    /// Agents whose fault `selfDestruct` is due, each once.
    pub fn self_destructing(&mut self, rng: &mut Random, now: Ms) -> Vec<(String, Value)> {
        let mut due = Vec::new();
        for agent in self.all.values().filter(|a| a.alive && a.bound.is_some()) {
            let place = Place {
                hosts: &agent.hosts,
                phase: agent.phase(now),
            };
            let who = format!("{}/{}", agent.id, agent.generation);
            let lasted = now - agent.bound_at;
            let fault = self
                .rules
                .falls_due("selfDestruct", &place, (&who, lasted), rng);
            due.extend(fault.map(|fault| (agent.id.clone(), fault)));
        }
        due
    }

    fn falls_asleep(
        &mut self,
        railway: &Railway,
        deployment: &Deployment,
        rng: &mut Random,
        now: Ms,
    ) -> bool {
        let Some(agent) = self.all.get(&deployment.id) else {
            return false;
        };
        let place = Place {
            hosts: &agent.hosts.clone(),
            phase: agent.phase(now),
        };
        let who = format!("{}/{}", deployment.id, agent.generation);
        let idle_since = agent.last_request.max(agent.convos_up());
        if place.phase != "booting"
            && self
                .rules
                .falls_due("sleep", &place, (&who, 0), rng)
                .is_some()
        {
            return true;
        }
        let may = deployment
            .snapshot
            .settings
            .get("sleepApplication")
            .and_then(Value::as_bool);
        may == Some(true) && now - idle_since >= railway.timings.ms("sleep_after_idle")
    }
}

impl Agent {
    /// The container of a deployment, not started yet.
    fn of_deployment(deployment: &Deployment) -> Self {
        let source = &deployment.snapshot.source;
        let vars = deployment.snapshot.variables.clone();
        let dialect = if source.repo.is_some() {
            Dialect::Gateway
        } else {
            Dialect::PoolServer
        };
        let kind = match vars.get("RUNTIME_TYPE").map(String::as_str) {
            Some("hermes") => Kind::Hermes,
            Some("openclaw") => Kind::Openclaw,
            _ => kind_of_image(source.image.as_deref().unwrap_or_default()),
        };
        Self {
            id: deployment.id.clone(),
            account: deployment.service.clone(),
            ..Self::new(dialect, kind, vars)
        }
    }

    /// An agent that has not started.
    pub fn new(dialect: Dialect, kind: Kind, vars: Variables) -> Self {
        Self {
            id: String::new(),
            account: String::new(),
            hosts: Vec::new(),
            dialect,
            kind,
            version: "0.3.4".to_owned(),
            vars,
            alone: false,
            started: 0,
            generation: 0,
            alive: false,
            down_since: None,
            exit_code: None,
            retries: 0,
            child_started: 0,
            child: 0,
            boot: 0,
            load: 0,
            convos_ready: false,
            still_ready_until: 0,
            bound: None,
            dirty: false,
            join: Join::None,
            working: 0,
            binds: 0,
            bound_at: 0,
            last_request: 0,
            flap: false,
        }
    }

    /// The process and its child end.
    pub fn go_down(&mut self, now: Ms) {
        self.alive = false;
        self.down_since = Some(now);
        self.generation += 1;
        self.child += 1;
    }

    /// A new runtime process.
    pub fn begin_child(&mut self, at: Ms, boot: Ms, load: Ms) {
        self.child += 1;
        self.child_started = at;
        self.boot = boot;
        self.load = load;
        self.convos_ready = false;
        self.working = 0;
    }
}

/// What the agents need to know of a deployment that has a container.
struct Container {
    /// Since when it runs, if it does.
    running_since: Option<Ms>,
    /// Put to sleep by the provider.
    asleep: bool,
}

fn containers(railway: &Railway, now: Ms) -> BTreeMap<String, Container> {
    let mut found = BTreeMap::new();
    for instance in railway.instances.values().filter(|i| i.life.exists(now)) {
        let Some(deployment) = railway.serving(instance, now) else {
            continue;
        };
        let running_since = deployment.timeline.running_since(now);
        let asleep = deployment.timeline.at(now).status == Status::Sleeping;
        found.insert(
            deployment.id.clone(),
            Container {
                running_since,
                asleep,
            },
        );
    }
    found
}

fn hosts_of(railway: &Railway, deployment: &Deployment) -> Vec<String> {
    let key = (deployment.service.clone(), deployment.environment.clone());
    let instance = railway.instances.get(&key);
    instance
        .map(|i| i.domains.iter().map(|d| d.domain.clone()).collect())
        .unwrap_or_default()
}

#[cfg(test)]
pub mod tests {
    use super::{Agent, Dialect, Kind, Variables};

    /// An agent behind the wrapper that started at 0 with default latencies.
    pub fn agent() -> Agent {
        let vars = Variables::from([
            ("GATEWAY_TOKEN".to_owned(), "t".to_owned()),
            ("OPENROUTER_API_KEY".to_owned(), "k".to_owned()),
        ]);
        let mut agent = Agent::new(Dialect::PoolServer, Kind::Openclaw, vars);
        agent.alive = true;
        agent.begin_child(0, 3000, 500);
        agent
    }

    #[test]
    fn state_outlives_a_restart_only_on_a_volume() {
        let mut a = agent();
        assert!(!a.keeps_state(None));
        a.vars
            .insert("RAILWAY_VOLUME_MOUNT_PATH".to_owned(), "/data".to_owned());
        assert!(a.keeps_state(None));
        assert!(!a.keeps_state(Some(false)));
    }
}
