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

impl Agents {
    /// Brings all agents to `now`: new containers start, ended ones end, idle ones sleep.
    pub fn advance(
        &mut self,
        railway: &mut Railway,
        ledger: &mut Ledger,
        rng: &mut Random,
        now: Ms,
    ) {
        let mut live: Vec<(String, Status, Ms)> = Vec::new();
        for instance in railway.instances.values().filter(|i| i.life.exists(now)) {
            let Some(deployment) = railway.serving(instance, now) else {
                continue;
            };
            let step = deployment.timeline.at(now);
            let since = deployment.timeline.running_since(now).unwrap_or(step.at);
            live.push((deployment.id.clone(), step.status, since));
        }
        for (id, status, since) in &live {
            if *status == Status::Success && !self.all.contains_key(id) {
                self.appear(railway, ledger, rng, (id, *since));
            }
            self.refresh_hosts(railway, ledger, id);
        }
        // A container whose deployment no longer serves has ended, whatever it was doing.
        for agent in self.all.values_mut().filter(|a| !a.alone && a.alive) {
            if !live.iter().any(|(id, ..)| *id == agent.id) {
                agent.alive = false;
                agent.generation += 1;
                agent.child += 1;
            }
        }
        let ids: Vec<String> = self
            .all
            .values()
            .filter(|a| a.alive)
            .map(|a| a.id.clone())
            .collect();
        for id in ids {
            self.pass_time(railway, ledger, rng, &id, now);
        }
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
        let Some(deployment) = railway.deployments.get(id) else {
            return;
        };
        let hosts = hosts_of(railway, deployment);
        if let Some(agent) = self.all.get_mut(id).filter(|a| a.hosts != hosts) {
            agent.hosts.clone_from(&hosts);
        }
        let account = ledger.account(&deployment.service);
        for host in hosts {
            if !account.hosts.contains(&host) {
                account.hosts.push(host);
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
        agent.halted = false;
        agent.exit_code = None;
        agent.started = at;
        agent.still_ready_until = 0;
        agent.begin_child(at, boot, load);
    }

    /// Stopped by the provider.
    pub fn halt(&mut self, id: &str) {
        if let Some(agent) = self.all.get_mut(id) {
            agent.alive = false;
            agent.halted = true;
            agent.generation += 1;
            agent.child += 1;
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
        agent.alive = false;
        agent.generation += 1;
        agent.child += 1;
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
            if let Some(agent) = self.all.get_mut(id) {
                agent.halted = true;
            }
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
        let candidates: &[(&str, Ms, i32)] = match phase {
            "idle" => &[
                ("dieIdle", agent.convos_up(), 1),
                ("oom", agent.convos_up(), 137),
            ],
            "claimed" => &[
                ("dieClaimed", agent.bound_at, 1),
                ("oom", agent.bound_at, 137),
            ],
            _ => return None,
        };
        for (kind, since, code) in candidates.to_vec() {
            let Some(fault) = self.rules.armed(kind, &place) else {
                continue;
            };
            let after = (fault["seconds"].as_f64().unwrap_or(0.0) * 1000.0) as Ms;
            if now >= since + after && self.rules.fires_once(kind, &place, &who, rng).is_some() {
                return Some(fault["code"].as_i64().unwrap_or(code.into()) as i32);
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
            let Some(fault) = self.rules.armed("selfDestruct", &place) else {
                continue;
            };
            let after = (fault["seconds"].as_f64().unwrap_or(0.0) * 1000.0) as Ms;
            let who = format!("{}/{}", agent.id, agent.generation);
            if now >= agent.bound_at + after
                && self
                    .rules
                    .fires_once("selfDestruct", &place, &who, rng)
                    .is_some()
            {
                due.push((agent.id.clone(), fault));
            }
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
        if place.phase != "booting" && self.rules.fires_once("sleep", &place, &who, rng).is_some() {
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
            halted: false,
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
