//! One function per query or mutation; the text of each stands in `operations/`.
//!
//! An instance costs six requests in its whole life: `service_create`, `domain_create`, `configure_and_deploy`, and at
//! its end `variables` (the owner mark), `service_delete`, `service_instance` (which finds nothing). A volume costs two
//! more: `volume_create`, `volume_delete`. Waiting is judged
//! from the listing that all instances share.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::classify::Access::{Read, Write};
use super::classify::Failure;
use super::client::{Document, Session};
use super::wire::{
    Accepted, Connection, Created, DeployData, DeploymentStep, Domain, DomainCreateData,
    Environment, EnvironmentsData, EventsData, Fleet, FleetData, LogLine, LogsData, Project,
    ProjectData, ProjectToken, ProjectTokenData, ServiceCreateData, ServiceInstance,
    ServiceInstanceData, VariablesData, VolumeCreateData, VolumeInstance, VolumesData,
};
use super::wire::{
    BatchProject, CreatedProject, ProjectCreateData, ProjectNode, ProjectNodeData,
    ProjectsBatchData, ProjectsData, Rule, RulesData,
};

/// The largest page that is known to be accepted.
pub const PAGE: u32 = 500;

macro_rules! documents {
    ($($constant:ident $access:ident $name:literal $file:literal;)+) => {
        $(#[doc = concat!("`", $name, "`.")]
        pub const $constant: Document =
            Document { name: $name, text: include_str!(concat!("operations/", $file)), access: $access };)+
        /// Every document there is, for the check against the schema.
        pub const ALL: &[Document] = &[$($constant),+];
    };
}

documents! {
    PROJECT Read "RwProject" "project.graphql";
    PROJECTS Read "RwProjects" "projects.graphql";
    PROJECTS_BATCH Read "RwProjectsBatch" "projects_batch.graphql";
    PROJECT_CREATE Write "RwProjectCreate" "project_create.graphql";
    PROJECT_RENAME Write "RwProjectRename" "project_rename.graphql";
    PROJECT_DELETE Write "RwProjectDelete" "project_delete.graphql";
    ENVIRONMENTS Read "RwEnvironments" "environments.graphql";
    PROJECT_TOKEN Read "RwProjectToken" "project_token.graphql";
    FLEET Read "RwFleet" "fleet.graphql";
    SERVICE_INSTANCE Read "RwServiceInstance" "service_instance.graphql";
    VOLUMES Read "RwVolumes" "volumes.graphql";
    VOLUME_CREATE Write "RwVolumeCreate" "volume_create.graphql";
    VOLUME_DELETE Write "RwVolumeDelete" "volume_delete.graphql";
    VARIABLES Read "RwVariables" "variables.graphql";
    VARIABLES_UPSERT Write "RwVariablesUpsert" "variables_upsert.graphql";
    SERVICE_CREATE Write "RwServiceCreate" "service_create.graphql";
    DOMAIN_CREATE Write "RwDomainCreate" "domain_create.graphql";
    CONFIGURE_AND_DEPLOY Write "RwConfigureAndDeploy" "configure_and_deploy.graphql";
    CONFIGURE_LIMIT_AND_DEPLOY Write "RwConfigureLimitAndDeploy" "configure_limit_and_deploy.graphql";
    CONFIGURE_AND_CONNECT Write "RwConfigureAndConnect" "configure_and_connect.graphql";
    LIMITS Write "RwLimits" "limits.graphql";
    AUTO_DEPLOY Write "RwAutoDeploy" "auto_deploy.graphql";
    SERVICE_RENAME Write "RwServiceRename" "service_rename.graphql";
    SERVICE_DELETE Write "RwServiceDelete" "service_delete.graphql";
    CANCEL Write "RwCancel" "deployment_cancel.graphql";
    RULES Read "RwRules" "rules.graphql";
    RULE_CREATE Write "RwRuleCreate" "rule_create.graphql";
    RULE_UPDATE Write "RwRuleUpdate" "rule_update.graphql";
    RULE_DELETE Write "RwRuleDelete" "rule_delete.graphql";
    DEPLOYMENT_EVENTS Read "RwDeploymentEvents" "deployment_events.graphql";
    DEPLOY_LOGS Read "RwDeployLogs" "deploy_logs.graphql";
}

/// A project with its first hundred environments.
pub async fn project(session: &Session, id: &str) -> Result<Project, Failure> {
    Ok(session
        .send::<ProjectData>(&PROJECT, json!({ "id": id }))
        .await?
        .project)
}

/// A project without its environments.
pub async fn project_node(session: &Session, id: &str) -> Result<ProjectNode, Failure> {
    let variables = json!({ "id": id });
    let data: ProjectNodeData = session.send(&PROJECT, variables).await?;
    Ok(data.project)
}

/// A page of a workspace's projects, the newest first.
pub async fn projects(
    session: &Session,
    workspace: &str,
    first: u32,
    after: Option<&str>,
) -> Result<Connection<ProjectNode>, Failure> {
    let mut variables = json!({ "workspaceId": workspace, "first": first });
    if let Some(after) = after {
        variables["after"] = after.into();
    }
    let data: ProjectsData = session.send(&PROJECTS, variables).await?;
    Ok(data.projects)
}

/// Some projects with what is in them. What is gone or not ours to see is left out.
pub async fn projects_batch(session: &Session, ids: &[&str]) -> Result<Vec<BatchProject>, Failure> {
    let variables = json!({ "ids": ids });
    let data: ProjectsBatchData = session.send(&PROJECTS_BATCH, variables).await?;
    Ok(data.projects_by_ids)
}

/// Makes a project. A second call makes a second one.
pub async fn project_create(session: &Session, input: Value) -> Result<CreatedProject, Failure> {
    let variables = json!({ "input": input });
    let data: ProjectCreateData = session.send(&PROJECT_CREATE, variables).await?;
    Ok(data.project_create)
}

/// Renames a project.
pub async fn project_rename(session: &Session, project: &str, name: &str) -> Result<(), Failure> {
    let variables = json!({ "id": project, "input": { "name": name } });
    let sent = session.send::<Accepted>(&PROJECT_RENAME, variables);
    sent.await.map(drop)
}

/// Removes a project with all that is in it.
pub async fn project_delete(session: &Session, project: &str) -> Result<(), Failure> {
    let variables = json!({ "id": project });
    let sent = session.send::<Accepted>(&PROJECT_DELETE, variables);
    sent.await.map(drop)
}

/// A page of a project's environments.
pub async fn environments(
    session: &Session,
    project: &str,
    after: &str,
) -> Result<Connection<Environment>, Failure> {
    let variables = json!({ "projectId": project, "first": 100, "after": after });
    Ok(session
        .send::<EnvironmentsData>(&ENVIRONMENTS, variables)
        .await?
        .environments)
}

/// What a project token is for.
pub async fn project_token(session: &Session) -> Result<ProjectToken, Failure> {
    Ok(session
        .send::<ProjectTokenData>(&PROJECT_TOKEN, json!({}))
        .await?
        .project_token)
}

/// A page of an environment's services; the first one with a page of its volumes.
pub async fn fleet(
    session: &Session,
    environment: &str,
    after: Option<&str>,
) -> Result<Fleet, Failure> {
    let volumes = after.is_none();
    let mut variables = json!({ "environmentId": environment, "first": PAGE, "volumes": volumes });
    if let Some(after) = after {
        variables["after"] = after.into();
    }
    Ok(session
        .send::<FleetData>(&FLEET, variables)
        .await?
        .environment)
}

/// A page of an environment's volumes.
pub async fn volumes(
    session: &Session,
    environment: &str,
    after: Option<&str>,
) -> Result<Connection<VolumeInstance>, Failure> {
    let mut variables = json!({ "environmentId": environment, "first": PAGE });
    if let Some(after) = after {
        variables["after"] = after.into();
    }
    let data: VolumesData = session.send(&VOLUMES, variables).await?;
    Ok(data.environment.volume_instances)
}

/// Makes a volume. A second call makes a second one, and two on one service break its deployments.
pub async fn volume_create(session: &Session, input: Value) -> Result<Created, Failure> {
    Ok(session
        .send::<VolumeCreateData>(&VOLUME_CREATE, json!({ "input": input }))
        .await?
        .volume_create)
}

/// Removes a volume; Railway can restore it for 48 hours.
pub async fn volume_delete(session: &Session, volume: &str) -> Result<(), Failure> {
    session
        .send::<Accepted>(&VOLUME_DELETE, json!({ "volumeId": volume }))
        .await
        .map(drop)
}

/// One service, directly.
pub async fn service_instance(
    session: &Session,
    environment: &str,
    service: &str,
) -> Result<ServiceInstance, Failure> {
    let variables = json!({ "environmentId": environment, "serviceId": service });
    Ok(session
        .send::<ServiceInstanceData>(&SERVICE_INSTANCE, variables)
        .await?
        .service_instance)
}

/// A service's variables, those that the platform sets included; sealed ones are missing. Secrets among them.
pub async fn variables(
    session: &Session,
    project: &str,
    environment: &str,
    service: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    let variables =
        json!({ "projectId": project, "environmentId": environment, "serviceId": service });
    let data: VariablesData = session.send(&VARIABLES, variables).await?;
    let text = |value: Value| value.as_str().map(str::to_owned);
    Ok(data
        .variables
        .into_iter()
        .filter_map(|(k, v)| Some((k, text(v?)?)))
        .collect())
}

/// Makes a service with all its variables. Safe to repeat in effect: the second one finds the name taken.
pub async fn service_create(session: &Session, input: Value) -> Result<Created, Failure> {
    Ok(session
        .send::<ServiceCreateData>(&SERVICE_CREATE, json!({ "input": input }))
        .await?
        .service_create)
}

/// Makes a domain. A second call makes a second one.
pub async fn domain_create(session: &Session, input: Value) -> Result<Domain, Failure> {
    Ok(session
        .send::<DomainCreateData>(&DOMAIN_CREATE, json!({ "input": input }))
        .await?
        .service_domain_create)
}

/// Sets source, settings and, where there are any, limits, and starts the one deployment; gives its id. One request.
pub async fn configure_and_deploy(
    session: &Session,
    environment: &str,
    service: &str,
    (input, limits): (Value, Option<Value>),
) -> Result<String, Failure> {
    let mut variables =
        json!({ "serviceId": service, "environmentId": environment, "input": input });
    let document = match limits {
        Some(limits) => {
            variables["limits"] = limits;
            &CONFIGURE_LIMIT_AND_DEPLOY
        }
        None => &CONFIGURE_AND_DEPLOY,
    };
    Ok(session
        .send::<DeployData>(document, variables)
        .await?
        .service_instance_deploy_v2)
}

/// Sets the settings and connects a repository, which starts the one deployment; its id is not told.
pub async fn configure_and_connect(
    session: &Session,
    environment: &str,
    service: &str,
    (input, repository): (Value, Value),
) -> Result<(), Failure> {
    let variables = json!({ "serviceId": service, "environmentId": environment, "input": input, "repository": repository });
    session
        .send::<Accepted>(&CONFIGURE_AND_CONNECT, variables)
        .await
        .map(drop)
}

/// Sets a service's limits; they count from its next deployment on.
pub async fn limits(session: &Session, input: Value) -> Result<(), Failure> {
    session
        .send::<Accepted>(&LIMITS, json!({ "input": input }))
        .await
        .map(drop)
}

/// Says that pushes to the repository deploy nothing.
pub async fn no_auto_deploy(session: &Session, input: Value) -> Result<(), Failure> {
    session
        .send::<Accepted>(&AUTO_DEPLOY, json!({ "input": input }))
        .await
        .map(drop)
}

/// Sets variables of a service, beside those that it has.
pub async fn variables_upsert(session: &Session, input: Value) -> Result<(), Failure> {
    session
        .send::<Accepted>(&VARIABLES_UPSERT, json!({ "input": input }))
        .await
        .map(drop)
}

/// Renames a service. Frees the old name.
pub async fn service_rename(session: &Session, service: &str, name: &str) -> Result<(), Failure> {
    let variables = json!({ "id": service, "input": { "name": name } });
    session
        .send::<Accepted>(&SERVICE_RENAME, variables)
        .await
        .map(drop)
}

/// Removes a service, in the one environment where that is given.
pub async fn service_delete(
    session: &Session,
    service: &str,
    environment: Option<&str>,
) -> Result<(), Failure> {
    let mut variables = json!({ "id": service });
    if let Some(environment) = environment {
        variables["environmentId"] = environment.into();
    }
    session
        .send::<Accepted>(&SERVICE_DELETE, variables)
        .await
        .map(drop)
}

/// Ends a deployment that is on its way.
pub async fn deployment_cancel(session: &Session, deployment: &str) -> Result<(), Failure> {
    let sent = session.send::<Accepted>(&CANCEL, json!({ "id": deployment }));
    sent.await.map(drop)
}

/// The notification rules of a project, or of a workspace.
pub async fn rules(
    session: &Session,
    workspace: &str,
    project: Option<&str>,
) -> Result<Vec<Rule>, Failure> {
    let mut variables = json!({ "workspaceId": workspace });
    if let Some(project) = project {
        variables["projectId"] = project.into();
    }
    let data: RulesData = session.send(&RULES, variables).await?;
    Ok(data.notification_rules)
}

/// Makes a notification rule. A second call makes a second one.
pub async fn rule_create(session: &Session, input: Value) -> Result<(), Failure> {
    let sent = session.send::<Accepted>(&RULE_CREATE, json!({ "input": input }));
    sent.await.map(drop)
}

/// Gives a notification rule these events and channels.
pub async fn rule_update(session: &Session, rule: &str, input: Value) -> Result<(), Failure> {
    let sent = session.send::<Accepted>(&RULE_UPDATE, json!({ "id": rule, "input": input }));
    sent.await.map(drop)
}

/// Removes a notification rule.
pub async fn rule_delete(session: &Session, rule: &str) -> Result<(), Failure> {
    let sent = session.send::<Accepted>(&RULE_DELETE, json!({ "id": rule }));
    sent.await.map(drop)
}

/// The steps of a deployment, as they come.
pub async fn deployment_events(
    session: &Session,
    deployment: &str,
) -> Result<Vec<DeploymentStep>, Failure> {
    let data: EventsData = session
        .send(&DEPLOYMENT_EVENTS, json!({ "id": deployment }))
        .await?;
    Ok(data
        .deployment_events
        .edges
        .into_iter()
        .map(|e| e.node)
        .collect())
}

/// The last lines of a deployment's log.
pub async fn deploy_logs(
    session: &Session,
    deployment: &str,
    lines: usize,
) -> Result<Vec<LogLine>, Failure> {
    let data: LogsData = session
        .send(
            &DEPLOY_LOGS,
            json!({ "deploymentId": deployment, "limit": lines }),
        )
        .await?;
    let mut log = data.deployment_logs;
    Ok(log.split_off(log.len().saturating_sub(lines)))
}
