//! The default world and what the control port adds to it or forces upon it.

use crate::clock::Ms;
use crate::railway::deploy::Shape;
use crate::railway::force::{self, Force};
use crate::railway::lifecycle::{Hands, NewService};
use crate::railway::limits::Quota;
use crate::railway::model::{
    Environment, Life, Project, Railway, Token, TokenKind, Variables, Workspace,
};
use crate::railway::services::{source_of, variables_of};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The workspace of the quick start.
pub const WORKSPACE: &str = "5eed0000-0000-4000-8000-0000000000aa";
const BEARER: &str = "5eed0000-0000-4000-8000-0000000000b1";
const PROJECT_TOKEN: &str = "5eed0000-0000-4000-8000-0000000000b2";
const PREFIX: &str = "5eed0000-0000-4000-8000-00000000";

/// The world before anybody touched it.
pub fn default_world(now: Ms) -> Railway {
    let mut railway = Railway::default();
    let workspace = Workspace {
        id: WORKSPACE.to_owned(),
        name: "quickstart".to_owned(),
        plan: "PRO".to_owned(),
    };
    railway.workspaces.insert(workspace.id.clone(), workspace);
    let id = |n: &str| format!("{PREFIX}{n}");
    let add = &mut railway;
    add_project(
        add,
        (&id("0001"), "quickstart"),
        WORKSPACE,
        &[(&id("0011"), "staging")],
        now,
    );
    let shared = [("0021", "dev"), ("0022", "staging"), ("0023", "production")];
    let shared: Vec<(String, &str)> = shared.iter().map(|(n, name)| (id(n), *name)).collect();
    let shared: Vec<(&str, &str)> = shared
        .iter()
        .map(|(id, name)| (id.as_str(), *name))
        .collect();
    add_project(add, (&id("0002"), "shared"), WORKSPACE, &shared, now);
    let confined = TokenKind::Project {
        project: id("0001"),
        environment: id("0011"),
    };
    for (token, kind) in [
        (BEARER, TokenKind::Workspace(WORKSPACE.to_owned())),
        (PROJECT_TOKEN, confined),
    ] {
        railway.tokens.push(Token {
            token: token.to_owned(),
            kind,
            revoked: false,
        });
    }
    railway
}

fn add_project(
    railway: &mut Railway,
    (id, name): (&str, &str),
    workspace: &str,
    environments: &[(&str, &str)],
    now: Ms,
) {
    let life = Life::begin(now, 0);
    for (environment, name) in environments {
        let environment = Environment {
            id: (*environment).to_owned(),
            name: (*name).to_owned(),
            project: id.to_owned(),
            ephemeral: false,
            life,
            shared: Variables::new(),
            patching_until: 0,
        };
        railway
            .environments
            .insert(environment.id.clone(), environment);
    }
    let project = Project {
        id: id.to_owned(),
        name: name.to_owned(),
        description: None,
        workspace: workspace.to_owned(),
        updated: now,
        life,
        environments: environments
            .iter()
            .map(|(id, _)| (*id).to_owned())
            .collect(),
        services: Vec::new(),
        volumes: Vec::new(),
    };
    railway.project_order.push(project.id.clone());
    railway.projects.insert(project.id.clone(), project);
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Put {
    workspaces: Vec<PutWorkspace>,
    tokens: Vec<PutToken>,
    projects: Vec<PutProject>,
    services: Vec<PutService>,
    notification_rules: Vec<PutRule>,
    force: Vec<Force>,
    timings: Map<String, Value>,
    switches: Map<String, Value>,
    limits: Option<PutLimits>,
    unresolvable: Option<Vec<String>>,
    unknown_commits: Option<Vec<String>>,
    heads: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutWorkspace {
    id: String,
    name: String,
    plan: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutToken {
    token: String,
    /// `account`, `workspace` or `project`.
    kind: String,
    workspace_id: Option<String>,
    project_id: Option<String>,
    environment_id: Option<String>,
    #[serde(default)]
    revoked: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutProject {
    id: Option<String>,
    name: String,
    description: Option<String>,
    workspace_id: Option<String>,
    environments: Vec<PutEnvironment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutEnvironment {
    id: Option<String>,
    name: String,
    #[serde(default)]
    is_ephemeral: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutService {
    id: Option<String>,
    project_id: Option<String>,
    name: String,
    image: Option<String>,
    repo: Option<String>,
    #[serde(default)]
    variables: Value,
    /// Deploy it in every environment.
    #[serde(default)]
    deploy: bool,
    /// Give it a domain in every environment.
    #[serde(default)]
    domain: bool,
}

/// A rule that a person made: of a project, or of the workspace.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutRule {
    workspace_id: Option<String>,
    project_id: Option<String>,
    channels: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutLimits {
    per_hour: u64,
    #[serde(default)]
    per_second: u64,
}

/// `PUT /__sim/v1/railway/state`. Refuses unknown keys; what came before the refused part stays.
pub fn put(hands: &mut Hands, body: &Value) -> Result<(), String> {
    let put = Put::deserialize(body).map_err(|e| e.to_string())?;
    hands.railway.timings.set(&put.timings)?;
    hands.railway.switches.set(&put.switches)?;
    if let Some(limits) = put.limits {
        hands.railway.quota = Some(Quota {
            per_hour: limits.per_hour,
            per_second: limits.per_second,
        });
        hands.railway.limits.clear();
    }
    if let Some(images) = put.unresolvable {
        hands.railway.unresolvable = images;
    }
    if let Some(commits) = put.unknown_commits {
        hands.railway.unknown_commits = commits.into_iter().collect();
    }
    hands.railway.heads.extend(put.heads);
    for w in put.workspaces {
        let workspace = Workspace {
            id: w.id.clone(),
            name: w.name,
            plan: w.plan,
        };
        hands.railway.workspaces.insert(w.id, workspace);
    }
    for project in put.projects {
        put_project(hands, project);
    }
    for token in put.tokens {
        put_token(hands.railway, token)?;
    }
    for service in put.services {
        put_service(hands, service)?;
    }
    for rule in put.notification_rules {
        let workspace = rule.workspace_id.unwrap_or_else(|| WORKSPACE.to_owned());
        let place = (workspace, rule.project_id);
        let notifications = &mut hands.railway.notifications;
        notifications.put(hands.rng, place, rule.channels, hands.now);
    }
    put.force
        .into_iter()
        .try_for_each(|force| force::apply(hands, force))
}

fn put_project(hands: &mut Hands, p: PutProject) {
    let id = p.id.unwrap_or_else(|| hands.rng.uuid());
    let mut named = Vec::new();
    for e in p.environments {
        named.push((
            e.id.unwrap_or_else(|| hands.rng.uuid()),
            e.name,
            e.is_ephemeral,
        ));
    }
    let pairs: Vec<(&str, &str)> = named
        .iter()
        .map(|(id, name, _)| (id.as_str(), name.as_str()))
        .collect();
    let workspace = p.workspace_id.unwrap_or_else(|| WORKSPACE.to_owned());
    hands.railway.project_order.retain(|x| *x != id);
    add_project(hands.railway, (&id, &p.name), &workspace, &pairs, hands.now);
    for (environment, _, ephemeral) in &named {
        if let Some(environment) = hands.railway.environments.get_mut(environment) {
            environment.ephemeral = *ephemeral;
        }
    }
    if let Some(project) = hands.railway.projects.get_mut(&id) {
        project.description = p.description;
    }
}

fn put_token(railway: &mut Railway, t: PutToken) -> Result<(), String> {
    let kind = match t.kind.as_str() {
        "account" => TokenKind::Account,
        "workspace" => TokenKind::Workspace(t.workspace_id.unwrap_or_else(|| WORKSPACE.to_owned())),
        "project" => TokenKind::Project {
            project: t.project_id.ok_or("a project token needs projectId")?,
            environment: t
                .environment_id
                .ok_or("a project token needs environmentId")?,
        },
        other => {
            return Err(format!(
                "unknown kind of token {other:?}; known: account, workspace, project"
            ));
        }
    };
    railway.tokens.retain(|known| known.token != t.token);
    railway.tokens.push(Token {
        token: t.token,
        kind,
        revoked: t.revoked,
    });
    Ok(())
}

fn put_service(hands: &mut Hands, s: PutService) -> Result<(), String> {
    let project = s.project_id.unwrap_or_else(|| format!("{PREFIX}0001"));
    let source = source_of(&serde_json::json!({"image": s.image, "repo": s.repo}));
    let new = NewService {
        id: s.id.unwrap_or_default(),
        environments: hands.railway.lasting_environments(&project, hands.now),
        project,
        name: s.name,
        source,
        variables: variables_of(&s.variables).map_err(|e| e.message)?,
    };
    let environments = new.environments.clone();
    let name = new.name.clone();
    let id = hands.create_service(new);
    for environment in environments {
        let key = (id.clone(), environment);
        if s.domain {
            hands.railway.add_domain(&key, &name, hands.rng, hands.now);
        }
        if s.deploy {
            hands
                .deploy(&key, None, &Shape::default())
                .map_err(|e| e.message)?;
        }
    }
    Ok(())
}
