//! Agents follow the deployments of Railway: each container is one agent. No I/O and no clock.

use crate::agent::knobs;
use crate::agent::model::{Agent, Agents, Dialect, Kind, kind_of_image};
use crate::clock::Ms;
use crate::ledger::Ledger;
use crate::railway::deploy::Status;
use crate::railway::model::{Deployment, Railway};
use crate::rng::Random;
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
            .retain(|id, a| a.alone || a.in_sprite || containers.contains_key(id));
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
