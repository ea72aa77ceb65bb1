//! Settings of service instances: update, limits, autodeploy, patches (railway.md 3.4).

use crate::railway::context::Cx;
use crate::railway::errors::{Answer, bad_input};
use crate::railway::model::{InstanceKey, Patch};
use crate::railway::objects::{Item, connection};
use crate::railway::queries::text;
use crate::railway::services::{keys_of, source_of};
use serde_json::{Map, Value, json};

fn check(input: &Map<String, Value>) -> Answer<()> {
    if input
        .get("numReplicas")
        .and_then(Value::as_i64)
        .is_some_and(|n| n < 1)
    {
        return Err(bad_input("Error in numReplicas - Invalid input"));
    }
    if input
        .get("preDeployCommand")
        .and_then(Value::as_array)
        .is_some_and(|c| c.len() > 1)
    {
        return Err(bad_input("Error in preDeployCommand - Invalid input"));
    }
    Ok(())
}

/// `serviceInstanceUpdate`: merges; takes effect at the next deployment.
pub fn update(cx: &Cx, args: &Value) -> Answer {
    let service = text(args, "serviceId");
    let keys = match args["environmentId"].as_str() {
        Some(environment) => {
            let instance = cx.instance(service, environment)?;
            vec![(instance.service, instance.environment)]
        }
        None => keys_of(cx, &cx.service(service)?.id),
    };
    let empty = Map::new();
    let input = args["input"].as_object().unwrap_or(&empty);
    check(input)?;
    for key in &keys {
        apply(cx, key, input);
    }
    let deploys = input.contains_key("source")
        && cx
            .world
            .borrow()
            .railway
            .switches
            .on("deploy_on_source_update");
    for key in keys.iter().filter(|_| deploys) {
        cx.with_hands("serviceInstanceUpdate", |hands| {
            hands.deploy(key, None, &cx.effects.shape)
        })?;
    }
    Ok(true.into())
}

fn apply(cx: &Cx, key: &InstanceKey, input: &Map<String, Value>) {
    let mut world = cx.world.borrow_mut();
    let reset = world.railway.switches.on("reset_replicas_on_update");
    let Some(instance) = world.railway.instances.get_mut(key) else {
        return;
    };
    instance.updated = cx.now;
    if reset && !input.contains_key("numReplicas") && instance.settings.contains_key("numReplicas")
    {
        instance.settings.insert("numReplicas".to_owned(), 1.into());
    }
    for (name, value) in input {
        match (name.as_str(), value) {
            // null leaves the start command as it is; "" clears it (railway.md 1.1).
            ("startCommand", Value::Null) => {}
            ("source", Value::Null) => {}
            ("source", source) => instance.source = source_of(source),
            (_, Value::Null) => {
                instance.settings.remove(name);
            }
            _ => {
                instance.settings.insert(name.clone(), value.clone());
            }
        }
    }
}

/// `serviceInstanceLimitsUpdate`
pub fn limits_update(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let instance = cx.instance(text(input, "serviceId"), text(input, "environmentId"))?;
    let cpu = input["vCPUs"].as_f64().unwrap_or(24.0);
    let memory = (input["memoryGB"].as_f64().unwrap_or(24.0) * 1e9) as i64;
    let limits = json!({"containers": {"cpu": cpu, "memoryBytes": memory}});
    let key = (instance.service, instance.environment);
    if let Some(instance) = cx.world.borrow_mut().railway.instances.get_mut(&key) {
        instance.limits = Some(limits);
    }
    Ok(true.into())
}

/// `serviceInstanceLimitOverride`
pub fn limit_override(cx: &Cx, args: &Value) -> Answer {
    let instance = cx.instance(text(args, "serviceId"), text(args, "environmentId"))?;
    Ok(instance.limits.unwrap_or_default())
}

/// `serviceInstanceLimits`: the override, else the plan's.
pub fn limits(cx: &Cx, args: &Value) -> Answer {
    let plan = json!({"containers": {"cpu": 24, "memoryBytes": 24_000_000_000_i64}});
    Ok(match limit_override(cx, args)? {
        Value::Null => plan,
        limits => limits,
    })
}

/// `serviceInstanceAutoDeployUpdate`
pub fn autodeploy_update(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let instance = cx.instance(text(input, "serviceId"), text(input, "environmentId"))?;
    let key = (instance.service, instance.environment);
    if let Some(instance) = cx.world.borrow_mut().railway.instances.get_mut(&key) {
        instance.autodeploy = input["enabled"].as_bool().unwrap_or(false);
    }
    Ok(json!({"enabled": input["enabled"]}))
}

/// `serviceInstanceAutoDeployStatus`
pub fn autodeploy_status(cx: &Cx, args: &Value) -> Answer {
    let instance = cx.instance(text(args, "serviceId"), text(args, "environmentId"))?;
    Ok(
        json!({"canEnable": instance.source.repo.is_some(), "enabled": instance.autodeploy, "reason": null}),
    )
}

/// `environmentPatchCommit`: merges and deploys once per service that really changed. The change
/// is made at once; domains of the environment cannot be made until it counts as applied.
pub fn patch_commit(cx: &Cx, args: &Value) -> Answer {
    let environment = cx.environment(text(args, "environmentId"))?;
    let empty = Map::new();
    let services = args["patch"]["services"].as_object().unwrap_or(&empty);
    let mut changed = Vec::new();
    for (service, patch) in services {
        let key = (service.clone(), environment.id.clone());
        cx.instance(&key.0, &key.1)?;
        if let Some(deploy) = patch["deploy"].as_object() {
            check(deploy)?;
        }
        if merge(cx, &key, patch)? {
            changed.push(key);
        }
    }
    let applied = cx.now + cx.world.borrow().railway.timings.ms("patch_apply");
    for key in &changed {
        let deployable = cx
            .world
            .borrow()
            .railway
            .instances
            .get(key)
            .is_some_and(|i| !i.source.is_empty());
        if deployable {
            let id = cx.with_hands("environmentPatchCommit", |hands| {
                hands.deploy(key, None, &cx.effects.shape)
            })?;
            // Applied in the background: the deployment is seen when the patch is done.
            if let Some(made) = cx.world.borrow_mut().railway.deployments.get_mut(&id) {
                made.hidden_until = applied;
            }
        }
    }
    let mut world = cx.world.borrow_mut();
    let id = world.rng.uuid();
    if let Some(environment) = world.railway.environments.get_mut(&environment.id) {
        environment.patching_until = applied;
    }
    let message = args["commitMessage"].as_str().map(str::to_owned);
    world.railway.patches.push(Patch {
        id: id.clone(),
        environment: environment.id,
        message,
        created: cx.now,
        applied,
    });
    Ok(id.into())
}

fn merge(cx: &Cx, key: &InstanceKey, patch: &Value) -> Answer<bool> {
    let mut world = cx.world.borrow_mut();
    let Some(instance) = world.railway.instances.get_mut(key) else {
        return Ok(false);
    };
    let before = (
        instance.source.clone(),
        instance.settings.clone(),
        instance.variables.clone(),
        instance.limits.clone(),
    );
    if patch["source"].is_object() {
        let source = source_of(&patch["source"]);
        if !source.is_empty() {
            instance.source = source;
        }
    }
    for part in ["deploy", "build"] {
        for (name, value) in patch[part].as_object().into_iter().flatten() {
            match value {
                Value::Null => drop(instance.settings.remove(name)),
                limits if name == "limitOverride" => instance.limits = Some(limits.clone()),
                value => drop(instance.settings.insert(name.clone(), value.clone())),
            }
        }
    }
    for (name, variable) in patch["variables"].as_object().into_iter().flatten() {
        match variable["value"].as_str() {
            Some(value) => drop(instance.variables.insert(name.clone(), value.to_owned())),
            None if variable.is_null() => drop(instance.variables.remove(name)),
            None => {
                return Err(bad_input(format!(
                    "Error in variables - {name} is not a valid string"
                )));
            }
        }
    }
    let after = (
        &instance.source,
        &instance.settings,
        &instance.variables,
        &instance.limits,
    );
    let changed = after != (&before.0, &before.1, &before.2, &before.3);
    if changed {
        instance.updated = cx.now;
    }
    Ok(changed)
}

/// `environmentPatches`, newest first.
pub fn patches(cx: &Cx, args: &Value) -> Answer {
    let environment = cx.environment(text(args, "environmentId"))?;
    let world = cx.world.borrow();
    let all = world
        .railway
        .patches
        .iter()
        .rev()
        .filter(|p| p.environment == environment.id);
    let items = all.map(|p| {
        let done = p.applied <= cx.now;
        let status = if done { "COMMITTED" } else { "APPLYING" };
        let node = json!({
            "id": p.id, "status": status, "message": p.message, "lastAppliedError": null,
            "createdAt": cx.stamp(p.created), "appliedAt": done.then(|| cx.stamp(p.applied)),
        });
        Item {
            at: p.created,
            id: p.id.clone(),
            node: move || node,
        }
    });
    Ok(connection(items.collect(), args))
}
