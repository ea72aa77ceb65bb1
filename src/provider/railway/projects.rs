//! A project for each agent: made, found, listed and removed.
//!
//! Names of projects are not unique, so a project is ours by its name **and** by our mark, which is its description.
//! Inside, everything goes as in a shared project.

use serde_json::json;

use crate::api::condition::Reason;
use crate::provider::{
    Facts, Inputs, Key, Liveness, Outcome, Owner, Presence, ProviderError, Resource, Seen,
};

use super::classify::{Access, Failure, Kind};
use super::client::Session;
use super::wire::{BatchProject, ProjectNode, ServiceInstance};
use super::{OWNER_VARIABLE, Reach, map, operation, rejected, removal, scope, volumes};

/// More pages of projects than any workspace has.
const PAGES: usize = 200;
/// So many projects are asked for in detail at a time; what a query may cost is not published.
const BATCH: usize = 25;
/// The environment in each project.
const ENVIRONMENT_NAME: &str = "production";

/// What a description of ours says.
fn description(mark: &str) -> String {
    format!("{OWNER_VARIABLE}={mark}")
}

/// The owner mark in a project's description.
fn mark_of(project: &ProjectNode) -> Option<&str> {
    let text = project.description.as_deref()?;
    text.strip_prefix(OWNER_VARIABLE)?.strip_prefix('=')
}

/// Every project of the workspace, and how many requests that took: all pages, or an error.
async fn all(session: &Session, workspace: &str) -> Result<(Vec<ProjectNode>, u32), Failure> {
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    for pages in 1..=PAGES {
        let page = operation::projects(session, workspace, operation::PAGE, cursor.as_deref());
        let page = page.await?;
        let nodes = page.edges.into_iter().map(|e| e.node);
        all.extend(nodes.filter(|p| p.deleted_at.is_none()));
        match (page.page_info.has_next_page, page.page_info.end_cursor) {
            (false, _) => return Ok((all, u32::try_from(pages).unwrap_or(u32::MAX))),
            (true, next @ Some(_)) if next != cursor => cursor = next,
            (true, _) => break,
        }
    }
    let text = "the pages of the listing do not end";
    Err(Failure::new(Kind::Unknown, text))
}

/// Every project as a resource. Only those with a mark are looked into: the others are not ours, whatever they are
/// called.
pub(super) async fn list(
    session: &Session,
    workspace: &str,
) -> Result<Vec<Resource>, ProviderError> {
    let failed = |f: Failure| {
        f.into_error(
            Access::Read,
            format!("list projects of workspace {workspace}"),
        )
    };
    let (projects, mut requests) = all(session, workspace).await.map_err(failed)?;
    let marked: Vec<&str> = projects
        .iter()
        .filter(|p| mark_of(p).is_some())
        .map(|p| p.id.as_str())
        .collect();
    let mut details = std::collections::HashMap::new();
    for ids in marked.chunks(BATCH) {
        requests += 1;
        let batch = operation::projects_batch(session, ids)
            .await
            .map_err(failed)?;
        details.extend(batch.into_iter().map(|p| (p.id.clone(), p)));
    }
    session.listed(workspace, requests);
    let resource = |p: &ProjectNode| resource(p, details.remove(&p.id));
    Ok(projects.iter().map(resource).collect())
}

/// A project as a resource: its service's id, where it has one.
fn resource(project: &ProjectNode, detail: Option<BatchProject>) -> Resource {
    let suffix = project.name.rsplit_once('-').map_or("", |(_, id)| id);
    let mut environments = detail.into_iter().flat_map(|d| d.environments.edges);
    let environment = environments.find(|e| !e.node.is_ephemeral).map(|e| e.node);
    let environment_id = environment.as_ref().map(|e| e.id.clone());
    let (services, hanging) = environment
        .map(|e| (e.service_instances.edges, e.volume_instances.edges))
        .unwrap_or_default();
    let services = services.into_iter().map(|e| e.node);
    let mut services: Vec<ServiceInstance> = services.filter(|s| s.deleted_at.is_none()).collect();
    let hanging: Vec<_> = hanging.into_iter().map(|e| e.node).collect();
    volumes::attach(&mut services, &hanging);
    let ours = services
        .iter()
        .position(|s| s.service_name.ends_with(suffix));
    let service = match ours {
        Some(index) => Some(services.swap_remove(index)),
        None => services.pop(),
    };
    let mut resource = service
        .as_ref()
        .map_or_else(|| empty(project), map::resource);
    resource.name.clone_from(&project.name);
    let facts = &mut resource.facts;
    facts.insert(map::PROJECT_ID.to_owned(), project.id.clone());
    facts.extend(environment_id.map(|id| (map::ENVIRONMENT_ID.to_owned(), id)));
    resource
}

/// A project in which nothing is yet.
fn empty(project: &ProjectNode) -> Resource {
    Resource {
        name: project.name.clone(),
        id: project.id.clone(),
        liveness: Liveness::Created,
        native_state: None,
        facts: Facts::from([(map::PROJECT_ID.to_owned(), project.id.clone())]),
        created_at: project.created_at.as_deref().and_then(|t| t.parse().ok()),
    }
}

/// The projects of an instance by its name, or its id at the end of a name, and its mark; the oldest first.
async fn of_key(
    session: &Session,
    workspace: &str,
    key: &Key,
) -> Result<Vec<ProjectNode>, Failure> {
    let suffix = format!("-{}", key.id);
    let (mut found, _) = all(session, workspace).await?;
    found.retain(|p| p.name == key.name || p.name.ends_with(&suffix));
    found.retain(|p| mark_of(p) == Some(key.mark.as_str()));
    found.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
    Ok(found)
}

/// Whether the project was made.
pub(super) async fn look(
    session: &Session,
    workspace: &str,
    key: &Key,
    known: &Facts,
) -> Result<Seen, ProviderError> {
    if let Some(id) = known.get(map::PROJECT_ID) {
        return Ok(Seen::Done(facts(id, known.get(map::ENVIRONMENT_ID))));
    }
    let found = of_key(session, workspace, key).await;
    let found =
        found.map_err(|f| f.into_error(Access::Read, format!("look for project {}", key.name)))?;
    // A second one is a creation that was sent twice: the sweep removes it.
    Ok(found
        .first()
        .map_or(Seen::Absent, |p| Seen::Done(facts(&p.id, None))))
}

fn facts(project: &str, environment: Option<&String>) -> Facts {
    let mut facts = Facts::from([(map::PROJECT_ID.to_owned(), project.to_owned())]);
    facts.extend(environment.map(|e| (map::ENVIRONMENT_ID.to_owned(), e.clone())));
    facts
}

/// Makes the project with the first token whose turn it is: a user may make one in 30 s.
pub(super) async fn make(
    session: &Session,
    workspace: &str,
    key: &Key,
    inputs: &Inputs,
) -> Result<Outcome, ProviderError> {
    let doing = || format!("create project {}", key.name);
    let extra = inputs.extra_tokens.iter();
    let sessions: Vec<Session> = std::iter::once(Ok(session.clone()))
        .chain(extra.map(|token| session.with_token(token.clone())))
        .collect::<Result<_, _>>()
        .map_err(|e| {
            rejected(
                Reason::CredentialsInvalid,
                doing(),
                format!("extraTokensSecretRef: {e}"),
            )
        })?;
    let mut soonest = None;
    for (index, session) in sessions.iter().enumerate() {
        match session.begin_project() {
            Ok(()) => return send(session, index, workspace, key).await,
            Err(wait) => soonest = Some(soonest.map_or(wait, |s: std::time::Duration| s.min(wait))),
        }
    }
    let wait = soonest.unwrap_or_default();
    let text = "a user may create one project in 30 s; nothing was sent";
    let mut failure = Failure::new(Kind::Cooldown(wait), text);
    failure.retry_after = Some(wait);
    Err(failure.into_error(Access::Write, doing()))
}

async fn send(
    session: &Session,
    index: usize,
    workspace: &str,
    key: &Key,
) -> Result<Outcome, ProviderError> {
    let input = json!({
        "name": key.name,
        "description": description(&key.mark),
        "workspaceId": workspace,
        "defaultEnvironmentName": ENVIRONMENT_NAME,
        "isPublic": false,
        "prDeploys": false,
    });
    match operation::project_create(session, input).await {
        Ok(made) => {
            let environment = made.environments.edges.first().map(|e| e.node.id.clone());
            Ok(Outcome::Done(facts(&made.id, environment.as_ref())))
        }
        Err(failure) => {
            let doing = format!("create project {}", key.name);
            match failure.kind {
                Kind::Cooldown(wait) => session.rest_projects(wait),
                // One of several: the others go on, and this one is tried again later.
                Kind::Auth | Kind::Denied if index > 0 => {
                    session.rest_projects(std::time::Duration::from_secs(300));
                    let text = format!("extraTokensSecretRef, token {index}: {}", failure.message);
                    return Err(Failure::new(Kind::Busy, text).into_error(Access::Write, doing));
                }
                _ => {}
            }
            Err(failure.into_error(Access::Write, doing))
        }
    }
}

/// The environment in a project, where the creation did not say.
pub(super) async fn environment(session: &Session, project: &str) -> Result<String, ProviderError> {
    let doing = || format!("read the environments of project {project}");
    let found = scope::by_project(session, project).await;
    let found = found.map_err(|f| f.into_error(Access::Read, doing()))?;
    let first = found.into_iter().next().map(|e| e.id);
    first.ok_or_else(|| {
        let text = "the project shows no environment yet";
        Failure::new(Kind::Busy, text).into_error(Access::Read, doing())
    })
}

/// A project, directly; `None`: Railway says that there is none.
async fn by_id(
    session: &Session,
    workspace: &str,
    id: &str,
) -> Result<Option<ProjectNode>, Failure> {
    match operation::project_node(session, id).await {
        Ok(project) => Ok(Some(project).filter(|p| p.deleted_at.is_none())),
        Err(f) if is_gone(session, workspace, &f).await? => Ok(None),
        Err(f) => Err(f),
    }
}

/// Whether a failure about one id means that the id does not exist: `Not Authorized` does only if the token can read
/// something else of the workspace at that moment.
async fn is_gone(session: &Session, workspace: &str, failure: &Failure) -> Result<bool, Failure> {
    match failure.kind {
        Kind::NotFound => Ok(true),
        Kind::Denied => scope::can_list(session, workspace).await,
        _ => Ok(false),
    }
}

/// Whose a listed project is.
pub(super) async fn owner(
    session: &Session,
    workspace: &str,
    resource: &Resource,
) -> Result<Owner, ProviderError> {
    let id = resource.facts.get(map::PROJECT_ID).unwrap_or(&resource.id);
    let read = by_id(session, workspace, id).await;
    let doing = || format!("read the owner mark of project {}", resource.name);
    let read = read.map_err(|f| f.into_error(Access::Read, doing()))?;
    Ok(match read {
        None => Owner::Gone,
        Some(project) => mark_of(&project).map_or(Owner::Unmarked, |m| Owner::Marked(m.to_owned())),
    })
}

/// An instance's project without a service; with one the service is read.
pub(super) async fn observe(
    session: &Session,
    workspace: &str,
    key: &Key,
    known: &Facts,
) -> Result<Presence, ProviderError> {
    let read = async {
        let found = match known.get(map::PROJECT_ID) {
            Some(id) => by_id(session, workspace, id).await?,
            None => of_key(session, workspace, key).await?.into_iter().next(),
        };
        Ok::<_, Failure>(found)
    };
    let doing = || format!("read project {}", key.name);
    let found = read
        .await
        .map_err(|f| f.into_error(Access::Read, doing()))?;
    Ok(match found {
        Some(project) => Presence::Present(Box::new(empty(&project))),
        None if known.contains_key(map::PROJECT_ID) => Presence::Gone,
        None => Presence::Unknown,
    })
}

/// Removes the instance's projects with all that is in them, each after reading its mark.
pub(super) async fn destroy(
    session: &Session,
    workspace: &str,
    key: &Key,
    known: &Facts,
) -> Result<Presence, ProviderError> {
    let doing = || format!("delete project {}", key.name);
    let failed = |f: Failure| f.into_error(Access::Write, doing());
    let ids: Vec<String> = match known.get(map::PROJECT_ID) {
        Some(id) => vec![id.clone()],
        None => {
            let found = of_key(session, workspace, key).await;
            let found = found.map_err(|f| f.into_error(Access::Read, doing()))?;
            found.into_iter().map(|p| p.id).collect()
        }
    };
    for id in ids {
        let read = by_id(session, workspace, &id).await;
        let Some(project) = read.map_err(|f| f.into_error(Access::Read, doing()))? else {
            continue;
        };
        if mark_of(&project) != Some(key.mark.as_str()) {
            let message = format!(
                "its description is not {}: it is not ours and stays",
                description(&key.mark)
            );
            return Err(rejected(Reason::Rejected, doing(), message));
        }
        if let (true, Some(service)) = (removal::may_deploy(known), known.get(map::SERVICE_ID))
            && let Some(in_it) = reach(session, workspace, known).await?
        {
            let cancelled = removal::cancel_unfinished(&in_it, service, known).await;
            cancelled.map_err(failed)?;
        }
        match operation::project_delete(session, &id).await {
            Ok(()) => {}
            // The direct read below decides.
            Err(f) if matches!(f.kind, Kind::NotFound | Kind::Denied | Kind::NoChange) => {}
            Err(f) => return Err(failed(f)),
        }
        let left = by_id(session, workspace, &id).await;
        if let Some(left) = left.map_err(|f| f.into_error(Access::Read, doing()))? {
            return Ok(Presence::Present(Box::new(empty(&left))));
        }
    }
    Ok(Presence::Gone)
}

/// Renames a project after its agent.
pub(super) async fn rename(session: &Session, project: &str, name: &str) -> Result<(), Failure> {
    operation::project_rename(session, project, name).await
}

/// A session with the project and the environment in it: the rest goes as in a shared project.
pub(super) async fn reach<'a>(
    session: &'a Session,
    workspace: &str,
    known: &Facts,
) -> Result<Option<Reach<'a>>, ProviderError> {
    let Some(project) = known.get(map::PROJECT_ID) else {
        return Ok(None);
    };
    let environment = match known.get(map::ENVIRONMENT_ID) {
        Some(id) => id.clone(),
        None => environment(session, project).await?,
    };
    Ok(Some(Reach {
        session,
        kind: crate::api::agent_pool::TokenKind::Bearer,
        scope: scope::Scope {
            project: project.clone(),
            environment,
        },
        workspace: Some(workspace.to_owned()),
    }))
}
