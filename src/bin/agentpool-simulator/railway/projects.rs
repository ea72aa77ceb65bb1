//! Projects: create, update, delete, tokens (railway.md 3.2).

use crate::railway::context::Cx;
use crate::railway::errors::{Answer, bad_input, fail, not_authorized};
use crate::railway::model::{Environment, Life, Project, Token, TokenKind, Variables};
use crate::railway::queries::text;
use serde_json::Value;

/// `projectCreate`: names are not unique; one per user in 30 s. Every token counts as another user's.
pub fn create(cx: &Cx, args: &Value) -> Answer {
    let scope = cx.unconfined()?;
    let input = &args["input"];
    let workspace = match (input["workspaceId"].as_str(), scope) {
        (Some(id), _) => id.to_owned(),
        (None, TokenKind::Workspace(id)) => id,
        (None, _) => cx
            .world
            .borrow()
            .railway
            .workspaces
            .keys()
            .next()
            .cloned()
            .unwrap_or_default(),
    };
    if !cx.sees_workspace(&workspace) {
        return Err(not_authorized());
    }
    let name = text(input, "name").to_owned();
    if name.is_empty() || name.chars().count() > 32 {
        return Err(bad_input("Invalid project name"));
    }
    let project = insert(cx, input, name, workspace)?;
    Ok(cx.project_json(&project))
}

fn insert(cx: &Cx, input: &Value, name: String, workspace: String) -> Answer<Project> {
    let mut world = cx.world.borrow_mut();
    let world = &mut **world;
    let user = cx.caller.token.clone();
    let from = world.railway.project_cooldown.get(&user);
    if from.is_some_and(|from| cx.now < *from) {
        return Err(fail("Only one project can be created per user every 30s"));
    }
    let next = cx.now + world.railway.timings.ms("project_cooldown");
    world.railway.project_cooldown.insert(user, next);
    let lag = world
        .railway
        .timings
        .ms("list_lag_create")
        .max(cx.effects.lag);
    let life = Life::begin(cx.now, lag);
    let description = input["description"].as_str().map(str::to_owned);
    let owner = description
        .as_deref()
        .and_then(|d| d.strip_prefix("AGENTPOOL_OWNER="));
    let (id, environment) = (world.rng.uuid(), world.rng.uuid());
    world.ledger.created(
        "project",
        (&id, &name),
        owner.map(str::to_owned),
        "projectCreate",
        cx.now,
    );
    let default = Environment {
        id: environment.clone(),
        name: input["defaultEnvironmentName"]
            .as_str()
            .unwrap_or("production")
            .to_owned(),
        project: id.clone(),
        ephemeral: false,
        life,
        shared: Variables::new(),
        patching_until: 0,
    };
    world
        .railway
        .environments
        .insert(environment.clone(), default);
    let project = Project {
        id: id.clone(),
        name,
        description,
        workspace,
        updated: cx.now,
        life,
        environments: vec![environment],
        services: Vec::new(),
        volumes: Vec::new(),
    };
    world.railway.project_order.push(id.clone());
    world.railway.projects.insert(id, project.clone());
    Ok(project)
}

/// `projectUpdate`
pub fn update(cx: &Cx, args: &Value) -> Answer {
    let mut project = cx.project(text(args, "id"))?;
    let input = &args["input"];
    if let Some(name) = input["name"].as_str() {
        project.name = name.to_owned();
    }
    if let Some(description) = input["description"].as_str() {
        project.description = Some(description.to_owned());
    }
    project.updated = cx.now;
    cx.world
        .borrow_mut()
        .railway
        .projects
        .insert(project.id.clone(), project.clone());
    Ok(cx.project_json(&project))
}

/// `projectDelete`: at once, with all that is in it.
pub fn delete(cx: &Cx, args: &Value) -> Answer {
    cx.unconfined()?;
    let project = cx.project(text(args, "id"))?;
    cx.with_hands("projectDelete", |hands| hands.delete_project(&project.id));
    Ok(true.into())
}

/// `projectTokenCreate`: shown once.
pub fn token_create(cx: &Cx, args: &Value) -> Answer {
    cx.unconfined()?;
    let input = &args["input"];
    let project = cx.project(text(input, "projectId"))?;
    let environment = cx.environment(text(input, "environmentId"))?;
    let mut world = cx.world.borrow_mut();
    let token = world.rng.uuid();
    let kind = TokenKind::Project {
        project: project.id,
        environment: environment.id,
    };
    world.railway.tokens.push(Token {
        token: token.clone(),
        kind,
        revoked: false,
    });
    Ok(token.into())
}
