//! Reads of workspaces, projects, environments and services, and the connections between them.

use crate::clock::Ms;
use crate::railway::context::{Cx, Header};
use crate::railway::errors::{Answer, fail, not_authorized};
use crate::railway::model::{InstanceKey, TokenKind};
use crate::railway::objects::{Item, connection};
use serde_json::{Map, Value, json};

/// A string argument.
pub fn text<'a>(args: &'a Value, name: &str) -> &'a str {
    args[name].as_str().unwrap_or_default()
}

/// Fields of objects that need a look-up of their own.
pub fn relation(
    cx: &Cx,
    ty: &str,
    object: &Map<String, Value>,
    name: &str,
    args: &Value,
) -> Option<Answer> {
    let id = |key: &str| {
        object
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Some(Ok(match (ty, name) {
        ("Project", "environments") => environments_of(cx, &id("id"), args),
        ("Project", "services") => services_of(cx, &id("id"), args),
        ("Project", "volumes") => volumes_of_project(cx, &id("id"), args),
        ("Environment", "serviceInstances") => instances_of(cx, &id("id"), args),
        ("Environment", "volumeInstances") => volumes_of_environment(cx, &id("id"), args),
        ("ServiceInstance", "latestDeployment") => {
            latest(cx, &id("serviceId"), &id("environmentId"))
        }
        ("ServiceInstance", "activeDeployments") => {
            active(cx, &id("serviceId"), &id("environmentId"))
        }
        ("User", "workspaces") => return Some(workspaces(cx)),
        _ => return None,
    }))
}

/// `apiToken`
pub fn api_token(cx: &Cx) -> Answer {
    cx.unconfined()?;
    let workspaces = workspaces(cx)?;
    Ok(json!({"workspaces": workspaces}))
}

fn workspaces(cx: &Cx) -> Answer {
    let ids: Vec<String> = {
        let world = cx.world.borrow();
        world
            .railway
            .workspaces
            .keys()
            .filter(|id| cx.sees_workspace(id))
            .cloned()
            .collect()
    };
    Ok(ids.iter().map(|id| cx.workspace_json(id)).collect())
}

/// `projectToken`
pub fn project_token(cx: &Cx) -> Answer {
    let Some(TokenKind::Project {
        project,
        environment,
    }) = &cx.caller.scope
    else {
        return Err(match cx.caller.header {
            Header::Bearer => fail("Project Token not found"),
            _ => not_authorized(),
        });
    };
    let (project, environment) = (cx.project(project)?, cx.environment(environment)?);
    Ok(json!({
        "id": format!("{}-token", environment.id), "name": "simulated",
        "projectId": project.id, "environmentId": environment.id,
        "project": cx.project_json(&project), "environment": cx.environment_json(&environment),
    }))
}

/// `me`: for account tokens only.
pub fn me(cx: &Cx) -> Answer {
    if cx.scope()? != TokenKind::Account {
        return Err(not_authorized());
    }
    let workspaces = workspaces(cx)?;
    Ok(json!({
        "id": "5eed0000-0000-4000-8000-0000000000c0", "name": "Simulated", "email": "simulated@example.com",
        "apiTokenRateLimit": workspaces[0]["apiTokenRateLimit"],
    }))
}

/// `workspace`
pub fn workspace(cx: &Cx, args: &Value) -> Answer {
    cx.unconfined()?;
    let id = text(args, "workspaceId");
    if !cx.sees_workspace(id) {
        return Err(not_authorized());
    }
    match cx.workspace_json(id) {
        Value::Null => Err(not_authorized()),
        found => Ok(found),
    }
}

/// `projects`, newest first unless asked otherwise.
pub fn projects(cx: &Cx, args: &Value) -> Answer {
    cx.unconfined()?;
    let deleted_too = args["includeDeleted"].as_bool().unwrap_or(false);
    let wanted = args["workspaceId"].as_str();
    let mut found: Vec<_> = {
        let world = cx.world.borrow();
        let order = world.railway.project_order.iter().rev();
        order
            .filter_map(|id| world.railway.projects.get(id))
            .filter(|p| deleted_too || p.life.is_listed(cx.now))
            .filter(|p| cx.sees_project(p) && wanted.is_none_or(|w| w == p.workspace))
            .cloned()
            .collect()
    };
    match args["orderBy"].as_str() {
        Some("NAME_ASC") => found.sort_by(|a, b| a.name.cmp(&b.name)),
        Some("UPDATED_AT_DESC") => found.sort_by_key(|p| std::cmp::Reverse(p.updated)),
        _ => {}
    }
    let items = found.iter().map(|p| Item {
        at: p.life.created,
        id: p.id.clone(),
        node: move || cx.project_json(p),
    });
    Ok(connection(items.collect(), args))
}

/// `project`
pub fn project(cx: &Cx, args: &Value) -> Answer {
    let project = cx.project(text(args, "id"))?;
    Ok(cx.project_json(&project))
}

/// `projectsByIds`: what is missing or foreign is skipped.
pub fn projects_by_ids(cx: &Cx, args: &Value) -> Answer {
    cx.scope()?;
    let ids = args["ids"].as_array().cloned().unwrap_or_default();
    let found = ids.iter().filter_map(|id| cx.project(id.as_str()?).ok());
    Ok(found.map(|p| cx.project_json(&p)).collect())
}

/// `environments`
pub fn environments(cx: &Cx, args: &Value) -> Answer {
    let project = cx.project(text(args, "projectId"))?;
    Ok(environments_of(cx, &project.id, args))
}

/// `environment`
pub fn environment(cx: &Cx, args: &Value) -> Answer {
    let environment = cx.environment(text(args, "id"))?;
    Ok(cx.environment_json(&environment))
}

/// `service`
pub fn service(cx: &Cx, args: &Value) -> Answer {
    let service = cx.service(text(args, "id"))?;
    Ok(cx.service_json(&service))
}

/// `serviceInstance`
pub fn service_instance(cx: &Cx, args: &Value) -> Answer {
    let instance = cx.instance(text(args, "serviceId"), text(args, "environmentId"))?;
    Ok(cx.instance_json(&instance))
}

fn environments_of(cx: &Cx, project: &str, args: &Value) -> Value {
    let ephemeral = args["isEphemeral"].as_bool();
    let found: Vec<_> = {
        let world = cx.world.borrow();
        let ids = world
            .railway
            .projects
            .get(project)
            .map(|p| p.environments.clone())
            .unwrap_or_default();
        ids.iter()
            .filter_map(|id| world.railway.environments.get(id))
            .filter(|e| e.life.is_listed(cx.now) && ephemeral.is_none_or(|x| x == e.ephemeral))
            .cloned()
            .collect()
    };
    let visible = found.iter().filter(|e| cx.environment(&e.id).is_ok());
    let items = visible.map(|e| Item {
        at: e.life.created,
        id: e.id.clone(),
        node: move || cx.environment_json(e),
    });
    connection(items.collect(), args)
}

fn services_of(cx: &Cx, project: &str, args: &Value) -> Value {
    let found: Vec<(Ms, String)> = {
        let world = cx.world.borrow();
        let railway = &world.railway;
        let ids = railway.projects.get(project).map(|p| p.services.as_slice());
        let listed = ids.unwrap_or_default().iter();
        let listed = listed.filter_map(|id| railway.services.get(id));
        let listed = listed.filter(|s| s.life.is_listed(cx.now));
        listed.map(|s| (s.life.created, s.id.clone())).collect()
    };
    let node = &|id: &str| {
        let world = cx.world.borrow();
        let service = world.railway.services.get(id);
        service.map(|s| cx.service_json(s)).unwrap_or_default()
    };
    let items = found.iter().map(|(at, id)| Item {
        at: *at,
        id: id.clone(),
        node: move || node(id),
    });
    connection(items.collect(), args)
}

fn instances_of(cx: &Cx, environment: &str, args: &Value) -> Value {
    let found: Vec<(Ms, String, InstanceKey)> = {
        let world = cx.world.borrow();
        let railway = &world.railway;
        let project = railway
            .environments
            .get(environment)
            .and_then(|e| railway.projects.get(&e.project));
        let ids = project.map(|p| p.services.as_slice()).unwrap_or_default();
        let keys = ids.iter().map(|id| (id.clone(), environment.to_owned()));
        let listed = |key| {
            let instance = railway.instances.get(&key);
            let listed = instance.filter(|i| i.life.is_listed(cx.now));
            listed.map(|i| (i.life.created, i.id.clone(), key))
        };
        keys.filter_map(listed).collect()
    };
    let node = &|key: &InstanceKey| {
        let world = cx.world.borrow();
        let instance = world.railway.instances.get(key);
        instance.map(|i| cx.instance_json(i)).unwrap_or_default()
    };
    let items = found.iter().map(|(at, id, key)| Item {
        at: *at,
        id: id.clone(),
        node: move || node(key),
    });
    let shown = cx.effects.short_list.unwrap_or(usize::MAX);
    connection(items.take(shown).collect(), args)
}

fn volumes_of_project(cx: &Cx, project: &str, args: &Value) -> Value {
    let found: Vec<_> = {
        let world = cx.world.borrow();
        let all = world.railway.volumes.values();
        all.filter(|v| v.project == project && v.life.is_listed(cx.now))
            .cloned()
            .collect()
    };
    let items = found.iter().map(|v| Item {
        at: v.life.created,
        id: v.id.clone(),
        node: move || cx.volume_json(v),
    });
    connection(items.collect(), args)
}

fn volumes_of_environment(cx: &Cx, environment: &str, args: &Value) -> Value {
    let found: Vec<_> = {
        let world = cx.world.borrow();
        let all = world.railway.volumes.values();
        all.filter(|v| v.environment.as_deref() == Some(environment) && v.life.is_listed(cx.now))
            .cloned()
            .collect()
    };
    let items = found.iter().map(|v| Item {
        at: v.life.created,
        id: v.id.clone(),
        node: move || cx.volume_instance_json(v),
    });
    connection(items.collect(), args)
}

fn latest(cx: &Cx, service: &str, environment: &str) -> Value {
    let found = {
        let world = cx.world.borrow();
        let key = (service.to_owned(), environment.to_owned());
        let instance = world.railway.instances.get(&key);
        instance
            .and_then(|i| world.railway.latest_deployment(i, cx.now))
            .cloned()
    };
    found.map(|d| cx.deployment_json(&d)).unwrap_or_default()
}

fn active(cx: &Cx, service: &str, environment: &str) -> Value {
    let found: Vec<_> = {
        let world = cx.world.borrow();
        let key = (service.to_owned(), environment.to_owned());
        let instance = world.railway.instances.get(&key);
        let all = instance.map(|i| world.railway.deployments_of(i).cloned().collect::<Vec<_>>());
        all.unwrap_or_default()
            .into_iter()
            .filter(|d| d.timeline.at(cx.now).status.is_live())
            .collect()
    };
    found.iter().map(|d| cx.deployment_json(d)).collect()
}

/// `regions`
pub fn regions(cx: &Cx) -> Answer {
    cx.scope()?;
    Ok(json!([
        {"name": "us-west2", "location": "California", "country": "USA"},
        {"name": "us-east4-eqdc4a", "location": "Virginia", "country": "USA"},
        {"name": "europe-west4-drams3a", "location": "Amsterdam", "country": "Netherlands"},
        {"name": "asia-southeast1-eqsg3a", "location": "Singapore", "country": "Singapore"},
    ]))
}

fn measurements(args: &Value) -> Vec<Value> {
    args["measurements"].as_array().cloned().unwrap_or_default()
}

fn check_usage_scope(cx: &Cx, args: &Value) -> Answer<()> {
    match args["projectId"].as_str() {
        Some(id) => cx.project(id).map(|_| ()),
        None => cx.unconfined().map(|_| ()),
    }
}

/// `usage`: plausible constants.
pub fn usage(cx: &Cx, args: &Value) -> Answer {
    check_usage_scope(cx, args)?;
    let one = |m: &Value| json!({"measurement": m, "value": 12.5, "tags": {"projectId": args["projectId"], "environmentId": null, "serviceId": null}});
    Ok(measurements(args).iter().map(one).collect())
}

/// `estimatedUsage`: plausible constants.
pub fn estimated_usage(cx: &Cx, args: &Value) -> Answer {
    check_usage_scope(cx, args)?;
    let project = args["projectId"].as_str().unwrap_or("all");
    let one = |m: &Value| json!({"measurement": m, "estimatedValue": 100.0, "projectId": project});
    Ok(measurements(args).iter().map(one).collect())
}

/// `metrics`: one plausible sample.
pub fn metrics(cx: &Cx, args: &Value) -> Answer {
    cx.scope()?;
    if let Some(environment) = args["environmentId"].as_str() {
        cx.environment(environment)?;
    }
    let ts = cx.clock.wall(cx.now).as_second();
    let tags = json!({"projectId": args["projectId"], "environmentId": args["environmentId"], "serviceId": args["serviceId"]});
    let one =
        |m: &Value| json!({"measurement": m, "tags": tags, "values": [{"ts": ts, "value": 0.25}]});
    Ok(measurements(args).iter().map(one).collect())
}
