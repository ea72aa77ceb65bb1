//! Processes of agents: how they come from deployments, end, and come back. No I/O and no clock.

use crate::agent::faults::Place;
use crate::agent::model::{Agent, Agents, Dialect, Join, Kind};
use crate::clock::{Ms, NEVER};
use crate::ledger::Ledger;
use crate::railway::deploy::Status;
use crate::railway::model::{Deployment, Railway, Variables};
use crate::railway::plans::set_sleeping;
use crate::rng::Random;
use serde_json::{Value, json};

impl Agents {
    /// Adds an agent that is not behind Railway.
    pub fn add_alone(&mut self, rng: &mut Random, agent: Agent, now: Ms) {
        let id = agent.id.clone();
        self.all.insert(id.clone(), agent);
        self.begin(rng, &id, now);
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

    /// What happens to one agent by itself: it ends, a fault ends it, it falls asleep.
    pub fn pass_time(
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
        // Asked many times a second, about thousands of agents.
        if self.rules.is_empty() {
            return due;
        }
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
            in_sprite: false,
            instructions_on_disk: None,
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
