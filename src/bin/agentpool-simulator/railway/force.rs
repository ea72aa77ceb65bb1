//! What the control port forces upon a service that exists: states, deletions, renames from outside.

use crate::clock::{Ms, NEVER};
use crate::railway::deploy::{Shape, Status};
use crate::railway::lifecycle::Hands;
use crate::railway::model::{Planned, Railway};
use serde::Deserialize;

/// One entry of `force`: the service by id or name, and what happens to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Force {
    service: String,
    deployment: Option<ForceDeployment>,
    #[serde(default)]
    delete: bool,
    rename: Option<String>,
    #[serde(default)]
    deploy: bool,
    #[serde(default, rename = "deleteDomains")]
    delete_domains: bool,
    #[serde(default, rename = "deleteVolumes")]
    delete_volumes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForceDeployment {
    status: Option<Status>,
    stopped: Option<bool>,
}

/// Forces one service.
pub fn apply(hands: &mut Hands, force: Force) -> Result<(), String> {
    let now = hands.now;
    let found = hands.railway.services.values();
    let id = found
        .filter(|s| s.life.exists(now) && (s.id == force.service || s.name == force.service))
        .map(|s| s.id.clone())
        .next()
        .ok_or_else(|| format!("no service is called {:?}", force.service))?;
    if let Some(name) = force.rename
        && let Some(service) = hands.railway.services.get_mut(&id)
    {
        service.name = name;
    }
    let keys: Vec<_> = hands
        .railway
        .instances_of(&id)
        .filter(|i| !i.deployments.is_empty())
        .map(|i| (i.service.clone(), i.environment.clone()))
        .collect();
    if let Some(forced) = &force.deployment {
        for key in &keys {
            force_deployment(hands.railway, key, forced, now)?;
        }
    }
    if force.deploy {
        for key in &keys {
            hands
                .deploy(key, None, &Shape::default())
                .map_err(|e| e.message)?;
        }
    }
    if force.delete_domains {
        hands
            .railway
            .planned
            .push((now, Planned::DeleteDomainsOf(id.clone())));
    }
    if force.delete_volumes {
        hands
            .railway
            .planned
            .push((now, Planned::DeleteVolumeOf(id.clone())));
    }
    if force.delete {
        hands.delete_service(&id, 0);
    }
    Ok(())
}

fn force_deployment(
    railway: &mut Railway,
    key: &(String, String),
    forced: &ForceDeployment,
    now: Ms,
) -> Result<(), String> {
    let newest = railway
        .instances
        .get(key)
        .and_then(|i| i.deployments.last())
        .cloned();
    let newest = newest.ok_or("the service was never deployed")?;
    let Some(deployment) = railway.deployments.get_mut(&newest) else {
        return Ok(());
    };
    let present = deployment.timeline.at(now).clone();
    let status = forced.status.unwrap_or(present.status);
    let stopped = forced.stopped.unwrap_or(status != Status::Success);
    let container = match status {
        Status::Success if stopped => Some("EXITED"),
        Status::Success | Status::Sleeping => Some("RUNNING"),
        Status::Crashed => Some("CRASHED"),
        Status::Deploying => Some("CREATED"),
        _ => None,
    };
    deployment
        .timeline
        .force(now, status, container, Some(stopped));
    debug_assert!(
        deployment.timeline.at(NEVER - 1).status == status,
        "a forced status stays"
    );
    railway.take_back(key, &newest, now);
    Ok(())
}
