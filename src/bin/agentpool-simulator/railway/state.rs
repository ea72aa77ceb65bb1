//! `GET /__sim/v1/railway/state`: everything that exists, as the control port shows it.

use crate::calls::mask;
use crate::clock::{Clock, Ms};
use crate::railway::model::{Deployment, Instance, Railway, Service, TokenKind};
use serde_json::{Value, json};

/// The whole of Railway at one moment.
pub fn to_json(railway: &Railway, clock: &Clock, now: Ms) -> Value {
    let tokens: Vec<Value> = railway.tokens.iter().map(|t| {
        let (kind, project) = match &t.kind {
            TokenKind::Account => ("account", None),
            TokenKind::Workspace(_) => ("workspace", None),
            TokenKind::Project { project, .. } => ("project", Some(project)),
        };
        json!({"token": mask(&t.token), "kind": kind, "projectId": project, "revoked": t.revoked})
    }).collect();
    let projects: Vec<Value> = railway.project_order.iter().filter_map(|id| railway.projects.get(id)).filter(|p| p.life.exists(now)).map(|p| {
        let environments: Vec<Value> = p.environments.iter().filter_map(|id| railway.environments.get(id)).map(|e| {
            json!({"id": e.id, "name": e.name, "isEphemeral": e.ephemeral, "variables": e.shared})
        }).collect();
        json!({"id": p.id, "name": p.name, "description": p.description, "workspaceId": p.workspace, "environments": environments})
    }).collect();
    let mut services: Vec<&Service> = railway
        .services
        .values()
        .filter(|s| s.life.exists(now))
        .collect();
    services.sort_by_key(|s| s.life.created);
    let services: Vec<Value> = services
        .into_iter()
        .map(|s| service(railway, s, clock, now))
        .collect();
    let volumes: Vec<Value> = railway.volumes.values().filter(|v| v.life.exists(now)).map(|v| {
        json!({"id": v.id, "name": v.name, "projectId": v.project, "environmentId": v.environment, "serviceId": v.service, "mountPath": v.mount_path})
    }).collect();
    json!({
        "now": clock.stamp(now), "simulatedMs": now, "speed": clock.speed(),
        "tokens": tokens, "projects": projects, "services": services, "volumes": volumes,
        "timings": railway.timings.to_json(), "switches": railway.switches.to_json(),
        "unresolvable": railway.unresolvable, "notifications": railway.notifications.to_json(clock),
    })
}

fn service(railway: &Railway, s: &Service, clock: &Clock, now: Ms) -> Value {
    let instances: Vec<Value> = railway
        .instances_of(&s.id)
        .filter(|i| i.life.exists(now))
        .map(|i| instance(railway, i, clock, now))
        .collect();
    // The first instance's parts stand beside the list: most services have one.
    let first = instances.first().cloned().unwrap_or_default();
    json!({
        "id": s.id, "name": s.name, "projectId": s.project, "createdAt": clock.stamp(s.life.created),
        "source": first["source"], "settings": first["settings"], "startCommand": first["startCommand"],
        "variables": first["variables"], "domains": first["domains"], "deployments": first["deployments"],
        "instances": instances,
    })
}

fn instance(railway: &Railway, i: &Instance, clock: &Clock, now: Ms) -> Value {
    let deployments: Vec<Value> = railway
        .deployments_of(i)
        .map(|d| deployment(d, clock, now))
        .collect();
    let domains: Vec<&str> = i.domains.iter().map(|d| d.domain.as_str()).collect();
    json!({
        "id": i.id, "environmentId": i.environment, "source": {"image": i.source.image, "repo": i.source.repo, "branch": i.source.branch},
        "settings": i.settings, "startCommand": i.settings.get("startCommand"), "variables": i.variables,
        "domains": domains, "limits": i.limits, "autoDeploy": i.autodeploy, "deployments": deployments,
    })
}

fn deployment(d: &Deployment, clock: &Clock, now: Ms) -> Value {
    let state = d.timeline.at(now);
    json!({
        "id": d.id, "status": state.status, "stopped": state.stopped, "container": state.container,
        "createdAt": clock.stamp(d.created),
        "statusUpdatedAt": d.timeline.status_updated_at(now).map(|at| clock.stamp(at)),
        "snapshot": {
            "image": d.snapshot.source.image, "repo": d.snapshot.source.repo, "settings": d.snapshot.settings,
            "startCommand": d.snapshot.settings.get("startCommand"), "variables": d.snapshot.variables,
            "commit": d.snapshot.commit,
        },
    })
}
