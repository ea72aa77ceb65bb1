//! What happens by itself: planned surprises, idle sleep, and which services a request is about.

use crate::clock::Ms;
use crate::railway::deploy::{Shape, Status};
use crate::railway::effects::Effects;
use crate::railway::faults::Target;
use crate::railway::lifecycle::Hands;
use crate::railway::model::{InstanceKey, Planned, Railway};
use crate::world::World;
use serde_json::Value;

/// Brings the world to `now`: surprises have happened, processes have come, gone and slept. Never back: whoever waited
/// for the world may come with an older moment, at which what runs by now did not exist yet.
pub fn advance(world: &mut World, now: Ms) {
    let now = now.max(world.moment);
    world.moment = now;
    happen_until(world, now);
    world
        .agents
        .advance(&mut world.railway, &mut world.ledger, &mut world.rng, now);
}

/// Whatever was planned until `now` has happened. Cheap; deployments need nothing more.
pub fn happen_until(world: &mut World, now: Ms) {
    let due: Vec<(Ms, Planned)> = {
        let planned = std::mem::take(&mut world.railway.planned);
        let (due, later) = planned.into_iter().partition(|(at, _)| *at <= now);
        world.railway.planned = later;
        due
    };
    for (at, plan) in due {
        happen(world, plan, at);
    }
}

fn happen(world: &mut World, plan: Planned, now: Ms) {
    let mut hands = Hands {
        railway: &mut world.railway,
        rng: &mut world.rng,
        ledger: &mut world.ledger,
        now,
        by: "railway itself",
    };
    match plan {
        Planned::Deploy {
            service,
            environment,
        } => {
            let key = (service, environment);
            // A refusal means the service has gone meanwhile.
            let _ = hands.deploy(&key, None, &Shape::default());
        }
        Planned::DeleteService(id) => hands.delete_service(&id, 0),
        Planned::RenameService(id, name) => {
            if let Some(service) = hands.railway.services.get_mut(&id) {
                service.name = name;
                service.updated = now;
            }
        }
        Planned::DeleteVolumeOf(service) => {
            let volumes = hands.railway.volumes.values_mut();
            for volume in volumes.filter(|v| v.service.as_deref() == Some(service.as_str())) {
                volume.life.end(now, 0);
                hands.ledger.deleted(&volume.id, now);
            }
        }
        Planned::DeleteDomainsOf(service) => delete_domains(hands.railway, &service),
        Planned::DeleteProjectOf(service) => {
            let project = hands
                .railway
                .services
                .get(&service)
                .map(|s| s.project.clone());
            if let Some(project) = project {
                hands.delete_project(&project);
            }
        }
    }
}

fn delete_domains(railway: &mut Railway, service: &str) {
    let keys: Vec<InstanceKey> = railway
        .instances_of(service)
        .map(|i| (i.service.clone(), i.environment.clone()))
        .collect();
    for key in keys {
        let Some(instance) = railway.instances.get_mut(&key) else {
            continue;
        };
        for domain in std::mem::take(&mut instance.domains) {
            railway.hosts.remove(&domain.domain);
        }
    }
}

/// Plans what the faults of a request bring about later.
pub fn plan_surprises(world: &mut World, effects: &Effects, touched: &[String], now: Ms) {
    for service in touched {
        if let Some(after) = effects.unprompted {
            let environments: Vec<String> = world
                .railway
                .instances_of(service)
                .filter(|i| !i.deployments.is_empty())
                .map(|i| i.environment.clone())
                .collect();
            for environment in environments {
                let plan = Planned::Deploy {
                    service: service.clone(),
                    environment,
                };
                world.railway.planned.push((now + after, plan));
            }
        }
        if let Some((what, after, rename)) = &effects.removed {
            let service = service.clone();
            let plan = match (what, rename) {
                (_, Some(name)) => Planned::RenameService(service, name.clone()),
                (Target::Volume, None) => Planned::DeleteVolumeOf(service),
                (Target::Domain, None) => Planned::DeleteDomainsOf(service),
                (Target::Project, None) => Planned::DeleteProjectOf(service),
                (Target::Service, None) => Planned::DeleteService(service),
            };
            world.railway.planned.push((now + after, plan));
        }
    }
}

/// Names of the services a request's variables are about: by name, by id, by deployment.
pub fn service_names(railway: &Railway, variables: &Value) -> Vec<String> {
    let mut names = Vec::new();
    collect(railway, variables, &mut names);
    names
}

fn collect(railway: &Railway, value: &Value, names: &mut Vec<String>) {
    let Some(fields) = value.as_object() else {
        return;
    };
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("name", Value::String(name)) => names.push(name.clone()),
            ("serviceId" | "id", Value::String(id)) => {
                let by_deployment = railway.deployments.get(id).map(|d| d.service.as_str());
                let service = railway.services.get(by_deployment.unwrap_or(id));
                names.extend(service.map(|s| s.name.clone()));
            }
            ("input", inner) => collect(railway, inner, names),
            _ => {}
        }
    }
}

/// Puts a sleeper to sleep, or wakes it: the steps of one deployment.
pub fn set_sleeping(railway: &mut Railway, deployment: &str, now: Ms, asleep: bool) {
    if let Some(deployment) = railway.deployments.get_mut(deployment) {
        let status = if asleep {
            Status::Sleeping
        } else {
            Status::Success
        };
        deployment.timeline.shift(now, status);
    }
}

#[cfg(test)]
mod tests {
    use super::advance;
    use crate::agent::model::Bound;
    use crate::railway::lifecycle::Hands;
    use crate::railway::seed;
    use crate::world::Sim;
    use serde_json::json;

    #[test]
    fn an_agent_outlives_whoever_comes_with_an_older_moment() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sim = Sim::new(1, 1.0).unwrap();
        let mut guard = sim.world();
        let world = &mut *guard;
        let mut hands = Hands {
            railway: &mut world.railway,
            rng: &mut world.rng,
            ledger: &mut world.ledger,
            now: 10_000,
            by: "test",
        };
        let service = json!({"name": "agent", "projectId": "5eed0000-0000-4000-8000-000000000001", "image": "runtime:1", "deploy": true,
            "variables": {"GATEWAY_TOKEN": "t", "OPENROUTER_API_KEY": "k"}});
        seed::put(&mut hands, &json!({"services": [service]})).unwrap();
        advance(world, 100_000);
        let bound = Bound {
            id: "conversation".to_owned(),
            inbox: "inbox".to_owned(),
        };
        let agent = world.agents.all.values_mut().next().unwrap();
        agent.bound = Some(bound);
        advance(world, 9_000);
        advance(world, 100_001);
        let agent = world.agents.all.values().next().unwrap();
        assert!(agent.bound.is_some() && agent.alive);
    }
}
