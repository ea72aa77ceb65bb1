//! Volumes (railway.md 3.5).

use crate::railway::context::Cx;
use crate::railway::errors::{Answer, bad_input, fail, not_authorized, not_found};
use crate::railway::model::{Life, Volume};
use crate::railway::queries::text;
use serde_json::Value;

/// `volumeCreate`: without an environment the volume is nowhere; a service with a source deploys.
pub fn create(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let project = cx.project(text(input, "projectId"))?;
    let mount_path = text(input, "mountPath").to_owned();
    if !mount_path.starts_with('/') {
        return Err(bad_input("Error in mountPath - Invalid input"));
    }
    let environment = input["environmentId"].as_str().map(str::to_owned);
    let service = input["serviceId"].as_str().map(str::to_owned);
    let key = match (&service, &environment) {
        (Some(service), Some(environment)) => {
            let instance = cx.instance(service, environment)?;
            (!instance.source.is_empty()).then_some((instance.service, instance.environment))
        }
        _ => None,
    };
    check_limits(cx, &project.id, &project.workspace)?;
    let lag = cx
        .world
        .borrow()
        .railway
        .timings
        .ms("list_lag_create")
        .max(cx.effects.lag);
    let volume = {
        let mut world = cx.world.borrow_mut();
        let world = &mut **world;
        let id = world.rng.uuid();
        let volume = Volume {
            instance_id: world.rng.uuid(),
            name: format!("volume-{}", world.rng.hex(4)),
            project: project.id.clone(),
            environment,
            service,
            mount_path,
            region: input["region"].as_str().map(str::to_owned),
            life: Life::begin(cx.now, lag),
            pending_deletion: None,
            id: id.clone(),
        };
        world
            .ledger
            .created("volume", (&id, &volume.name), None, "volumeCreate", cx.now);
        if let Some(project) = world.railway.projects.get_mut(&project.id) {
            project.volumes.push(id.clone());
        }
        world.railway.volumes.insert(id, volume.clone());
        volume
    };
    if let Some(key) = key {
        cx.with_hands("volumeCreate", |hands| {
            hands.deploy(&key, None, &cx.effects.shape)
        })?;
    }
    Ok(cx.volume_json(&volume))
}

fn check_limits(cx: &Cx, project: &str, workspace: &str) -> Answer<()> {
    let mut world = cx.world.borrow_mut();
    let railway = &mut world.railway;
    if cx.now < railway.volume_cooldown {
        return Err(fail(
            "Whoa there pal! You are creating volumes too quickly. Try again in a sec",
        ));
    }
    let plan = railway
        .workspaces
        .get(workspace)
        .map_or("PRO", |w| w.plan.as_str());
    let cap = match plan {
        "FREE" => 1,
        "HOBBY" => 10,
        _ => 20,
    };
    let exist = railway
        .volumes
        .values()
        .filter(|v| v.project == project && v.life.exists(cx.now))
        .count();
    if exist >= cap {
        return Err(fail(
            "Free plan resource provision limit exceeded. Please upgrade to provision more resources!",
        ));
    }
    railway.volume_cooldown = cx.now + railway.timings.ms("volume_cooldown");
    Ok(())
}

fn find(cx: &Cx, id: &str) -> Answer<Volume> {
    cx.scope()?;
    let found = cx.world.borrow().railway.volumes.get(id).cloned();
    let volume = found
        .filter(|v| v.life.exists(cx.now))
        .ok_or_else(not_authorized)?;
    cx.project(&volume.project)?;
    Ok(volume)
}

/// `volumeDelete`: marked at once, out of the listing after the lag, restorable at Railway.
pub fn delete(cx: &Cx, args: &Value) -> Answer {
    let volume = find(cx, text(args, "volumeId"))?;
    let mut world = cx.world.borrow_mut();
    let lag = world
        .railway
        .timings
        .ms("list_lag_delete")
        .max(cx.effects.lag);
    if let Some(volume) = world.railway.volumes.get_mut(&volume.id) {
        volume.pending_deletion = Some(cx.now);
        volume.life.end(cx.now, lag);
    }
    world.ledger.deleted(&volume.id, cx.now);
    Ok(true.into())
}

/// `volumeInstanceUpdate`: attach, detach, mount elsewhere.
pub fn update(cx: &Cx, args: &Value) -> Answer {
    let mut volume = find(cx, text(args, "volumeId"))?;
    let input = args["input"].as_object().cloned().unwrap_or_default();
    if let Some(service) = input.get("serviceId") {
        volume.service = service.as_str().map(str::to_owned);
    }
    if let Some(path) = input.get("mountPath").and_then(Value::as_str) {
        volume.mount_path = path.to_owned();
    }
    cx.world
        .borrow_mut()
        .railway
        .volumes
        .insert(volume.id.clone(), volume);
    Ok(true.into())
}

/// `volumeInstance`, by the instance's id.
pub fn read(cx: &Cx, args: &Value) -> Answer {
    cx.scope()?;
    let id = text(args, "id");
    let found = {
        let world = cx.world.borrow();
        let mut all = world.railway.volumes.values();
        all.find(|v| v.instance_id == id && v.life.exists(cx.now) && v.environment.is_some())
            .cloned()
    };
    let volume = found.ok_or_else(|| not_found("VolumeInstance"))?;
    cx.project(&volume.project)?;
    Ok(cx.volume_instance_json(&volume))
}
