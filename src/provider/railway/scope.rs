//! Project and environment: names to ids, and whether the token may see them.

use crate::api::agent_pool::TokenKind;
use crate::api::condition::Reason;
use crate::provider::ProviderError;

use super::classify::{Access, Failure, Kind};
use super::client::Session;
use super::wire::Environment;
use super::{EnvironmentRef, RailwayConfig, operation, rejected};

/// More pages of environments than any project has.
const PAGES: usize = 20;

/// Where everything happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The project's id.
    pub project: String,
    /// The environment's id.
    pub environment: String,
}

/// Asks Railway for the project and its environments.
pub(super) async fn resolve(
    session: &Session,
    config: &RailwayConfig,
) -> Result<Scope, ProviderError> {
    let doing = || format!("resolve Railway project {}", config.project_id);
    let found = match config.token_kind {
        TokenKind::Bearer => by_project(session, &config.project_id).await,
        TokenKind::Project => by_token(session, &config.project_id).await,
    };
    let environments = found.map_err(|f| explain(f, config, doing()))?;
    let wanted = |e: &&Environment| match &config.environment {
        EnvironmentRef::Id(id) => e.id == *id,
        EnvironmentRef::Name(name) => e.name.to_lowercase() == name.to_lowercase(),
        EnvironmentRef::Workspace(_) => false,
    };
    match environments.iter().find(wanted) {
        Some(e) => Ok(Scope {
            project: config.project_id.clone(),
            environment: e.id.clone(),
        }),
        None => Err(no_environment(config, &environments, doing())),
    }
}

/// Whether the token can read anything at this moment: then a `Not Authorized` elsewhere means that the id is gone.
pub(super) async fn can_read(
    session: &Session,
    kind: TokenKind,
    project: &str,
) -> Result<bool, Failure> {
    let read = match kind {
        TokenKind::Bearer => operation::project(session, project).await.map(drop),
        TokenKind::Project => operation::project_token(session).await.map(drop),
    };
    match read {
        Ok(()) => Ok(true),
        Err(f) if matches!(f.kind, Kind::Denied | Kind::Auth | Kind::NotFound) => Ok(false),
        Err(f) => Err(f),
    }
}

/// Whether the token can list the workspace's projects at this moment.
pub(super) async fn can_list(session: &Session, workspace: &str) -> Result<bool, Failure> {
    match operation::projects(session, workspace, 1, None).await {
        Ok(_) => Ok(true),
        Err(f) if matches!(f.kind, Kind::Denied | Kind::Auth | Kind::NotFound) => Ok(false),
        Err(f) => Err(f),
    }
}

/// Asks Railway whether the token may see the workspace.
pub(super) async fn check_workspace(
    session: &Session,
    config: &RailwayConfig,
    workspace: &str,
) -> Result<(), ProviderError> {
    let doing = format!("look at Railway workspace {workspace}");
    match operation::projects(session, workspace, 1, None).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(explain(failure, config, doing)),
    }
}

/// The lasting environments of a project.
pub(super) async fn by_project(session: &Session, id: &str) -> Result<Vec<Environment>, Failure> {
    let project = operation::project(session, id).await?;
    if project.deleted_at.is_some() {
        return Err(Failure::new(Kind::NotFound, "the project is deleted"));
    }
    let mut page = project.environments;
    let mut all = Vec::new();
    for _ in 0..PAGES {
        all.extend(page.edges.into_iter().map(|e| e.node));
        match page
            .page_info
            .end_cursor
            .filter(|_| page.page_info.has_next_page)
        {
            Some(cursor) => page = operation::environments(session, id, &cursor).await?,
            None => break,
        }
    }
    all.retain(|e| !e.is_ephemeral && e.deleted_at.is_none());
    Ok(all)
}

async fn by_token(session: &Session, project: &str) -> Result<Vec<Environment>, Failure> {
    let token = operation::project_token(session).await?;
    if token.project_id != project {
        let message = format!(
            "the token belongs to project {}, not to {project}",
            token.project_id
        );
        return Err(Failure::new(Kind::NotFound, message));
    }
    Ok(vec![Environment {
        id: token.environment_id,
        ..token.environment
    }])
}

fn explain(failure: Failure, config: &RailwayConfig, doing: String) -> ProviderError {
    let project = &config.project_id;
    let field = match &config.environment {
        EnvironmentRef::Workspace(id) => format!("railway.perInstance.workspaceId ({id})"),
        EnvironmentRef::Id(_) | EnvironmentRef::Name(_) => {
            format!("railway.project.projectId ({project})")
        }
    };
    let place = match &config.environment {
        EnvironmentRef::Workspace(id) => format!("workspaceId {id}"),
        EnvironmentRef::Id(_) | EnvironmentRef::Name(_) => format!("projectId {project}"),
    };
    let message = failure.message.clone();
    let mut error = failure.clone().into_error(Access::Read, doing.clone());
    match failure.kind {
        Kind::Denied | Kind::Auth => {
            let kind = match config.token_kind {
                TokenKind::Bearer => "Bearer, for account and workspace tokens",
                TokenKind::Project => "Project, for project tokens",
            };
            error.message = format!(
                "{message}: check that the token is valid, that railway.tokenKind fits it (now {kind}), and that it \
                 may see {place}"
            );
        }
        Kind::NotFound => {
            let text = format!("{message}: check {field} and the token's workspace");
            error = rejected(Reason::ProjectNotFound, doing, text);
        }
        _ => {}
    }
    error
}

fn no_environment(config: &RailwayConfig, known: &[Environment], doing: String) -> ProviderError {
    let names: Vec<String> = known
        .iter()
        .map(|e| format!("{} ({})", e.name, e.id))
        .collect();
    let wanted = match &config.environment {
        EnvironmentRef::Id(id) => format!("environmentId {id}"),
        EnvironmentRef::Name(name) => format!("environmentName {name}"),
        EnvironmentRef::Workspace(id) => format!("workspaceId {id}"),
    };
    let known = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    rejected(
        Reason::EnvironmentNotFound,
        doing,
        format!("no such environment: {wanted}; the token sees {known}"),
    )
}
