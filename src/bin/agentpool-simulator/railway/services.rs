//! Services: create, rename, delete, connect, disconnect (railway.md 3.3).

use crate::railway::context::Cx;
use crate::railway::errors::{Answer, bad_input, fail, not_authorized, not_found};
use crate::railway::lifecycle::NewService;
use crate::railway::model::{InstanceKey, Service, Source, Variables};
use crate::railway::queries::text;
use serde_json::Value;

/// `{image}` or `{repo}` of an input.
pub fn source_of(input: &Value) -> Source {
    let part = |name: &str| {
        input[name]
            .as_str()
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
    };
    Source {
        image: part("image"),
        repo: part("repo"),
        // Of a new service it is ignored: its first deployment is of the default branch.
        branch: part("branch"),
    }
}

/// A map of strings.
pub fn variables_of(input: &Value) -> Answer<Variables> {
    let Some(map) = input.as_object() else {
        return Ok(Variables::new());
    };
    map.iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name.clone(), text.clone())),
            Value::Number(number) => Ok((name.clone(), number.to_string())),
            Value::Bool(flag) => Ok((name.clone(), flag.to_string())),
            _ => Err(bad_input(format!(
                "Error in variables - {name} is not a valid string"
            ))),
        })
        .collect()
}

/// The keys of all instances of a service.
pub fn keys_of(cx: &Cx, service: &str) -> Vec<InstanceKey> {
    let world = cx.world.borrow();
    let all = world
        .railway
        .instances_of(service)
        .filter(|i| i.life.exists(cx.now));
    all.map(|i| (i.service.clone(), i.environment.clone()))
        .collect()
}

/// `serviceCreate`: exactly one of two simultaneous creates of a name wins.
pub fn create(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let project = cx.project(text(input, "projectId"))?;
    let fork = match input["environmentId"].as_str() {
        Some(id) => cx.environment(id)?.ephemeral.then(|| id.to_owned()),
        None => None,
    };
    let (source, variables) = (
        source_of(&input["source"]),
        variables_of(&input["variables"])?,
    );
    let name = match input["name"].as_str() {
        Some(name) => name.to_owned(),
        None => format!("simulated-{}", cx.world.borrow_mut().rng.hex(6)),
    };
    let environments = {
        let world = cx.world.borrow();
        world
            .railway
            .check_service_name(&project.id, &name, "", cx.now)?;
        match fork {
            Some(id) => vec![id],
            None => world.railway.lasting_environments(&project.id, cx.now),
        }
    };
    let new = NewService {
        id: String::new(),
        project: project.id,
        name,
        environments,
        source: source.clone(),
        variables,
    };
    let id = cx.with_hands("serviceCreate", |hands| hands.create_service(new));
    settle_new(cx, &id);
    let deploy_images = cx
        .world
        .borrow()
        .railway
        .switches
        .on("deploy_on_image_create");
    if source.repo.is_some() || (source.image.is_some() && deploy_images) {
        deploy_all(cx, &id, "serviceCreate")?;
    }
    read_back(cx, &id)
}

fn settle_new(cx: &Cx, id: &str) {
    let mut world = cx.world.borrow_mut();
    let lag = world
        .railway
        .timings
        .ms("list_lag_create")
        .max(cx.effects.lag);
    for key in world
        .railway
        .instances_of(id)
        .map(|i| (i.service.clone(), i.environment.clone()))
        .collect::<Vec<_>>()
    {
        if let Some(instance) = world.railway.instances.get_mut(&key) {
            instance.life.listed_from = cx.now + lag;
        }
    }
    if let Some(service) = world.railway.services.get_mut(id) {
        service.life.listed_from = cx.now + lag;
        service.fresh_until = cx.now + cx.effects.fresh;
    }
    drop(world);
    cx.touched.borrow_mut().push(id.to_owned());
}

fn deploy_all(cx: &Cx, service: &str, by: &str) -> Answer<()> {
    for key in keys_of(cx, service) {
        cx.with_hands(by, |hands| hands.deploy(&key, None, &cx.effects.shape))?;
    }
    Ok(())
}

fn read_back(cx: &Cx, id: &str) -> Answer {
    let service: Option<Service> = cx.world.borrow().railway.services.get(id).cloned();
    service
        .map(|s| cx.service_json(&s))
        .ok_or_else(|| not_found("Service"))
}

/// `serviceUpdate`: renames; domains keep their labels.
pub fn update(cx: &Cx, args: &Value) -> Answer {
    let service = cx.service(text(args, "id"))?;
    let input = &args["input"];
    {
        let mut world = cx.world.borrow_mut();
        if let Some(name) = input["name"].as_str() {
            world
                .railway
                .check_service_name(&service.project, name, &service.id, cx.now)?;
        }
        if let Some(found) = world.railway.services.get_mut(&service.id) {
            found.updated = cx.now;
            found.name = input["name"].as_str().unwrap_or(&found.name).to_owned();
            found.icon = input["icon"]
                .as_str()
                .map(str::to_owned)
                .or(found.icon.take());
        }
    }
    cx.touched.borrow_mut().push(service.id.clone());
    read_back(cx, &service.id)
}

/// `serviceDelete`: slow, and goes on when nobody waits for it.
pub fn delete(cx: &Cx, args: &Value) -> Answer {
    let service = cx.service_or(text(args, "id"), not_authorized())?;
    if let Some(environment) = args["environmentId"].as_str() {
        cx.environment(environment)?;
    }
    let takes = cx.world.borrow().railway.timings.ms("service_delete");
    let only = args["environmentId"]
        .as_str()
        .map(|e| (service.id.clone(), e.to_owned()));
    let instances = keys_of(cx, &service.id);
    let lag = cx
        .world
        .borrow()
        .railway
        .timings
        .ms("list_lag_delete")
        .max(cx.effects.lag);
    cx.with_hands("serviceDelete", |hands| match only {
        Some(key) if instances.len() > 1 && instances.contains(&key) => {
            hands.delete_instance(&key, cx.now + takes, lag);
        }
        _ => {
            hands.delete_service(&service.id, takes);
            if let Some(gone) = hands.railway.services.get_mut(&service.id) {
                gone.life.listed_until = gone.life.deleted + lag;
            }
            for key in &instances {
                if let Some(gone) = hands.railway.instances.get_mut(key) {
                    gone.life.listed_until = gone.life.deleted + lag;
                }
            }
        }
    });
    // A repeated delete waits for the rest only.
    let until = cx
        .world
        .borrow()
        .railway
        .services
        .get(&service.id)
        .map_or(cx.now, |s| s.life.deleted);
    cx.takes((until - cx.now).clamp(0, takes));
    cx.touched.borrow_mut().push(service.id);
    Ok(true.into())
}

/// `serviceConnect`: sets the source everywhere and deploys.
pub fn connect(cx: &Cx, args: &Value) -> Answer {
    let service = cx.service(text(args, "id"))?;
    let source = source_of(&args["input"]);
    if source.is_empty() {
        return Err(fail("Problem processing request"));
    }
    set_source(cx, &service.id, &source, true);
    deploy_all(cx, &service.id, "serviceConnect")?;
    read_back(cx, &service.id)
}

/// `serviceDisconnect`: takes the repository away; nothing is deployed.
pub fn disconnect(cx: &Cx, args: &Value) -> Answer {
    let service = cx.service(text(args, "id"))?;
    set_source(cx, &service.id, &Source::default(), false);
    read_back(cx, &service.id)
}

fn set_source(cx: &Cx, service: &str, source: &Source, autodeploy: bool) {
    let keys = keys_of(cx, service);
    let mut world = cx.world.borrow_mut();
    for key in keys {
        if let Some(instance) = world.railway.instances.get_mut(&key) {
            instance.source = source.clone();
            instance.autodeploy = autodeploy && source.repo.is_some();
            instance.updated = cx.now;
        }
    }
}
