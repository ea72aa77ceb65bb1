//! Deployments: deploy, replay, stop, restart, cancel, remove, approve, read (railway.md 3.8, 3.10).

use crate::railway::context::Cx;
use crate::railway::deploy::Status;
use crate::railway::errors::{Answer, bad_input, fail, not_found};
use crate::railway::model::{Deployment, InstanceKey};
use crate::railway::objects::{Item, connection};
use crate::railway::queries::text;
use serde_json::{Value, json};

const BUSY: &str = "Cannot redeploy yet, please wait for the original deployment to finish building, then try again.";

fn key_of(d: &Deployment) -> InstanceKey {
    (d.service.clone(), d.environment.clone())
}

/// `deployment`
pub fn read(cx: &Cx, args: &Value) -> Answer {
    let deployment = cx.deployment(text(args, "id"))?;
    Ok(cx.deployment_json(&deployment))
}

/// `deployments`, newest first.
pub fn list(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    cx.scope()?;
    if let Some(environment) = input["environmentId"].as_str() {
        cx.environment(environment)?;
    } else if let Some(project) = input["projectId"].as_str() {
        cx.project(project)?;
    } else {
        cx.service(text(input, "serviceId"))?;
    }
    let names = |which: &str| input["status"][which].as_array().cloned();
    let (only, but) = (names("in"), names("notIn"));
    let mut found: Vec<Deployment> = {
        let world = cx.world.borrow();
        let all = world.railway.deployments.values();
        all.filter(|d| {
            let status = Value::from(d.timeline.at(cx.now).status.name());
            input["environmentId"]
                .as_str()
                .is_none_or(|e| e == d.environment)
                && input["projectId"].as_str().is_none_or(|p| p == d.project)
                && input["serviceId"].as_str().is_none_or(|s| s == d.service)
                && only.as_ref().is_none_or(|set| set.contains(&status))
                && but.as_ref().is_none_or(|set| !set.contains(&status))
        })
        .cloned()
        .collect()
    };
    found.sort_by_key(|d| std::cmp::Reverse(d.created));
    let items = found.iter().map(|d| Item {
        at: d.created,
        id: d.id.clone(),
        node: move || cx.deployment_json(d),
    });
    Ok(connection(items.collect(), args))
}

/// `deploymentEvents`: one per step so far.
pub fn events(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "id"))?;
    let past: Vec<_> = d.timeline.past(cx.now).cloned().collect();
    let items = past.iter().enumerate().map(|(i, step)| {
        let name = match step.status {
            Status::Building => "BUILD_IMAGE",
            Status::Initializing | Status::Queued => "SNAPSHOT_CODE",
            Status::Success => "HEALTHCHECK",
            Status::Removing | Status::Removed => "DRAIN_INSTANCES",
            _ => "CREATE_CONTAINER",
        };
        let failed = step.status == Status::Failed;
        let error = failed.then(|| d.shape.fail_at.clone().unwrap_or_else(|| "image could not be resolved".to_owned()));
        let ended = past.get(i + 1).map(|next| next.at);
        let lasted = ended.map(|at| at - step.at);
        let node = json!({
            "id": format!("{}-{i}", d.id), "step": name, "createdAt": cx.stamp(step.at),
            "completedAt": ended.map(|at| cx.stamp(at)),
            "payload": {"attempt": 1, "maxAttempts": 1, "durationMs": lasted, "error": error, "reason": null, "skipped": false, "detail": null},
        });
        Item { at: step.at, id: format!("{}-{i}", d.id), node: move || node }
    });
    Ok(connection(items.collect(), args))
}

/// `deploymentLogs`: boot lines of the container, oldest first, the last `limit` of them.
pub fn logs(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "deploymentId"))?;
    let mut lines: Vec<(i64, String)> = Vec::new();
    if let Some(at) = d.timeline.success_at().filter(|at| *at <= cx.now) {
        let image = d
            .snapshot
            .source
            .image
            .clone()
            .or(d.snapshot.source.repo.clone());
        lines.push((at - 2000, "Starting Container".to_owned()));
        lines.push((
            at - 500,
            format!("[simulated] {} starting", image.unwrap_or_default()),
        ));
        lines.push((at, "[simulated] listening on 8080".to_owned()));
    }
    if let Some(exit) = d
        .timeline
        .past(cx.now)
        .find(|s| s.status == Status::Crashed)
    {
        lines.push((exit.at, "[simulated] process exited with code 1".to_owned()));
    }
    Ok(log_rows(cx, &d, lines, args))
}

/// `buildLogs`: empty for images.
pub fn build_logs(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "deploymentId"))?;
    let built =
        d.snapshot.source.repo.is_some() && d.timeline.at(cx.now).status != Status::Initializing;
    let lines = if built {
        vec![(d.created + 1000, "[simulated] build started".to_owned())]
    } else {
        Vec::new()
    };
    Ok(log_rows(cx, &d, lines, args))
}

fn log_rows(cx: &Cx, d: &Deployment, lines: Vec<(i64, String)>, args: &Value) -> Value {
    let quirk = usize::from(cx.world.borrow().railway.switches.on("logs_limit_plus_one"));
    let limit = args["limit"].as_u64().unwrap_or(100).min(5000) as usize + quirk;
    let filter = args["filter"].as_str().unwrap_or_default();
    let rows: Vec<Value> = lines
        .into_iter()
        .filter(|(_, message)| message.contains(filter))
        .map(|(at, message)| {
            json!({
                "timestamp": cx.clock.stamp_nanos(at), "message": message, "severity": "info",
                "attributes": [{"key": "level", "value": "\"info\""}],
                "tags": {"deploymentId": d.id, "deploymentInstanceId": d.container, "serviceId": d.service,
                         "environmentId": d.environment, "projectId": d.project, "snapshotId": d.snapshot.id},
            })
        })
        .collect();
    let skip = rows.len().saturating_sub(limit);
    rows.into_iter().skip(skip).collect()
}

fn made(cx: &Cx, key: &InstanceKey, id: &str) {
    let mut world = cx.world.borrow_mut();
    if let Some(status) = &cx.effects.shape.unknown_status {
        world.railway.unknown_statuses.insert(status.clone());
    }
    if let Some(deployment) = world.railway.deployments.get_mut(id) {
        deployment.hidden_until = cx.now + cx.effects.lag;
    }
    drop(world);
    cx.touched.borrow_mut().push(key.0.clone());
}

/// `serviceInstanceDeployV2`: from the present source and settings; answers the deployment's id.
pub fn deploy(cx: &Cx, args: &Value) -> Answer {
    let instance = cx.instance(text(args, "serviceId"), text(args, "environmentId"))?;
    let commit = args["commitSha"].as_str().map(str::to_owned);
    if commit
        .as_ref()
        .is_some_and(|c| cx.world.borrow().railway.unknown_commits.contains(c))
    {
        return Err(fail("Commit not found"));
    }
    let key = (instance.service, instance.environment);
    let id = cx.with_hands("serviceInstanceDeployV2", |h| {
        h.deploy(&key, commit, &cx.effects.shape)
    })?;
    made(cx, &key, &id);
    Ok(id.into())
}

fn replay(cx: &Cx, from: &Deployment) -> Answer<String> {
    let key = key_of(from);
    let state = from.timeline.at(cx.now).status;
    if state == Status::Skipped {
        return Err(fail("Cannot redeploy without a snapshot"));
    }
    let detached = cx
        .world
        .borrow()
        .railway
        .instances
        .get(&key)
        .is_some_and(|i| i.source.is_empty());
    if detached && from.snapshot.source.repo.is_some() {
        return Err(fail("Cannot redeploy without a snapshot"));
    }
    if matches!(
        state,
        Status::Initializing | Status::Queued | Status::Building | Status::Removing
    ) {
        return Err(fail(BUSY));
    }
    let snapshot = from.snapshot.clone();
    let id = cx.with_hands("deploymentRedeploy", |h| {
        h.deploy_snapshot(&key, snapshot, &cx.effects.shape)
    })?;
    made(cx, &key, &id);
    Ok(id)
}

/// `serviceInstanceRedeploy`: replays the newest deployment's snapshot.
pub fn redeploy_instance(cx: &Cx, args: &Value) -> Answer {
    let instance = cx.instance(text(args, "serviceId"), text(args, "environmentId"))?;
    let newest = instance
        .deployments
        .last()
        .and_then(|id| cx.deployment(id).ok());
    replay(
        cx,
        &newest.ok_or_else(|| fail("Cannot redeploy without a snapshot"))?,
    )?;
    Ok(true.into())
}

/// `deploymentRedeploy`: replays that deployment's snapshot.
pub fn redeploy(cx: &Cx, args: &Value) -> Answer {
    let from = cx.deployment(text(args, "id"))?;
    let id = replay(cx, &from)?;
    Ok(cx.deployment_json(&cx.deployment(&id)?))
}

/// `deploymentRollback`: only to one that was live.
pub fn rollback(cx: &Cx, args: &Value) -> Answer {
    let from = cx.deployment(text(args, "id"))?;
    if from.timeline.success_at().is_none_or(|at| at > cx.now) {
        return Err(bad_input("Deployment cannot be rolled back to"));
    }
    replay(cx, &from).map(|_| true.into())
}

fn change(cx: &Cx, id: &str, work: impl FnOnce(&mut Deployment)) -> Answer {
    let mut world = cx.world.borrow_mut();
    let found = world.railway.deployments.get_mut(id);
    work(found.ok_or_else(|| not_found("Deployment"))?);
    Ok(true.into())
}

/// `deploymentStop`: status and its time do not move; repeating is harmless.
pub fn stop(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "id"))?;
    if d.timeline.at(cx.now).status != Status::Success {
        return Err(bad_input("Deployment is not stoppable"));
    }
    let visible = cx.now + cx.world.borrow().railway.timings.ms("stop_visible");
    cx.world.borrow_mut().agents.halt(&d.id, cx.now);
    if cx.effects.stop_unreported || d.timeline.at(cx.now).stopped {
        return Ok(true.into());
    }
    change(cx, &d.id, |d| d.timeline.stop(cx.now, visible))
}

/// `deploymentRestart`: the same deployment, a new process.
pub fn restart(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "id"))?;
    if !matches!(
        d.timeline.at(cx.now).status,
        Status::Success | Status::Crashed
    ) {
        return Err(bad_input("Deployment is not restartable"));
    }
    let (visible, takes) = {
        let timings = &cx.world.borrow().railway.timings;
        (timings.ms("restart_visible"), timings.ms("restart"))
    };
    cx.takes(takes);
    let up = cx.now + visible;
    {
        let mut world = cx.world.borrow_mut();
        let world = &mut **world;
        world
            .agents
            .restart(&mut world.rng, &mut world.ledger, &d.id, up);
    }
    change(cx, &d.id, |d| d.timeline.restart(cx.now, up))
}

/// `deploymentCancel`: those in progress only.
pub fn cancel(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "id"))?;
    if !d.timeline.at(cx.now).status.in_progress() {
        return Err(bad_input("Deployment is not cancellable"));
    }
    take_down(cx, &d)
}

/// `deploymentRemove`: settled ones.
pub fn remove(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "id"))?;
    take_down(cx, &d)
}

fn take_down(cx: &Cx, d: &Deployment) -> Answer {
    let lasts = cx.world.borrow().railway.timings.ms("removed");
    change(cx, &d.id, |d| d.timeline.remove(cx.now, lasts))?;
    cx.world
        .borrow_mut()
        .railway
        .take_back(&key_of(d), &d.id, cx.now);
    Ok(true.into())
}

/// `deploymentApprove`
pub fn approve(cx: &Cx, args: &Value) -> Answer {
    let d = cx.deployment(text(args, "id"))?;
    if d.timeline.at(cx.now).status != Status::NeedsApproval {
        return Err(bad_input("Deployment does not need approval"));
    }
    let timings = cx.world.borrow().railway.timings.clone();
    change(cx, &d.id, |d| {
        let shape = d.shape.clone();
        d.timeline.approve(cx.now, &shape, &timings);
    })?;
    cx.world
        .borrow_mut()
        .railway
        .supersede(&key_of(&d), &d.id, cx.now);
    Ok(true.into())
}
