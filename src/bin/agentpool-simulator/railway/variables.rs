//! Variables: read, upsert, delete (railway.md 3.6).

use crate::railway::context::Cx;
use crate::railway::errors::{Answer, not_found};
use crate::railway::model::{InstanceKey, Variables};
use crate::railway::queries::text;
use crate::railway::services::variables_of;
use serde_json::{Value, json};

/// Service variables, or without a service the environment's shared ones.
enum Place {
    Shared(String),
    Instance(InstanceKey),
}

fn place(cx: &Cx, args: &Value) -> Answer<Place> {
    cx.project(text(args, "projectId"))?;
    let environment = cx.environment(text(args, "environmentId"))?;
    let Some(service) = args["serviceId"].as_str() else {
        return Ok(Place::Shared(environment.id));
    };
    cx.service_or(service, not_found("Service"))?;
    let instance = cx.instance(service, &environment.id)?;
    Ok(Place::Instance((instance.service, instance.environment)))
}

/// `variables`: rendered unless asked otherwise.
pub fn read(cx: &Cx, args: &Value) -> Answer {
    let place = place(cx, args)?;
    let world = cx.world.borrow();
    let railway = &world.railway;
    Ok(match place {
        Place::Shared(id) => json!(railway.environments.get(&id).map(|e| &e.shared)),
        Place::Instance(key) => {
            let own = railway
                .instances
                .get(&key)
                .map(|i| i.variables.clone())
                .unwrap_or_default();
            if args["unrendered"].as_bool().unwrap_or(false) {
                json!(own)
            } else {
                json!(railway.rendered(&key, &own, cx.now))
            }
        }
    })
}

fn change(cx: &Cx, input: &Value, by: &str, work: impl FnOnce(&mut Variables)) -> Answer {
    let place = place(cx, input)?;
    let mut world = cx.world.borrow_mut();
    let (changed, keys) = match &place {
        Place::Shared(id) => {
            let Some(environment) = world.railway.environments.get_mut(id) else {
                return Err(not_found("Environment"));
            };
            let before = environment.shared.clone();
            work(&mut environment.shared);
            (before != environment.shared, Vec::new())
        }
        Place::Instance(key) => {
            let Some(instance) = world.railway.instances.get_mut(key) else {
                return Err(not_found("ServiceInstance"));
            };
            let before = instance.variables.clone();
            work(&mut instance.variables);
            instance.updated = cx.now;
            let deployed = !instance.deployments.is_empty();
            (
                before != instance.variables,
                if deployed {
                    vec![key.clone()]
                } else {
                    Vec::new()
                },
            )
        }
    };
    drop(world);
    let skip = input["skipDeploys"].as_bool().unwrap_or(false);
    for key in keys.iter().filter(|_| changed && !skip) {
        cx.with_hands(by, |hands| hands.deploy(key, None, &cx.effects.shape))?;
    }
    Ok(true.into())
}

/// `variableUpsert`
pub fn upsert(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let (name, value) = (
        text(input, "name").to_owned(),
        text(input, "value").to_owned(),
    );
    change(cx, input, "variableUpsert", |all| {
        all.insert(name, value);
    })
}

/// `variableCollectionUpsert`
pub fn collection_upsert(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let given = variables_of(&input["variables"])?;
    let replace = input["replace"].as_bool().unwrap_or(false);
    change(cx, input, "variableCollectionUpsert", |all| {
        if replace {
            all.clear();
        }
        all.extend(given);
    })
}

/// `variableDelete`: has no way to skip the deployment.
pub fn delete(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let name = text(input, "name").to_owned();
    change(cx, input, "variableDelete", |all| {
        all.remove(&name);
    })
}
