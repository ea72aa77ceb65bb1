//! Railway's answers as they arrive: forgiving, private to this folder. Unknown fields and enum values survive.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One entry of `errors`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphqlError {
    /// The text; the only reliable thing to classify by.
    pub message: String,
    /// `code`, and in the documentation also `traceId`.
    pub extensions: Option<Extensions>,
    /// In live answers the trace id sits here.
    pub trace_id: Option<String>,
}

/// `errors[].extensions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Extensions {
    /// `BAD_USER_INPUT`, `INTERNAL_SERVER_ERROR`, …
    pub code: Option<String>,
    /// See [`GraphqlError::trace_id`].
    pub trace_id: Option<String>,
}

/// A page's end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageInfo {
    /// Where the next page begins.
    pub end_cursor: Option<String>,
    /// Whether there is one. Missing is an error of decoding: a listing must never look complete by accident.
    pub has_next_page: bool,
}

/// One element of a connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Edge<T> {
    /// The element.
    pub node: T,
}

/// A page of a connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection<T> {
    /// Its elements.
    pub edges: Vec<Edge<T>>,
    /// Its end.
    pub page_info: PageInfo,
}

/// `RwProject`.
#[derive(Debug, Deserialize)]
pub struct ProjectData {
    /// The project.
    pub project: Project,
}

/// A project with its environments.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its id.
    pub id: String,
    /// Set while the deletion is under way.
    #[serde(default)]
    pub deleted_at: Option<String>,
    /// Its environments, the first hundred.
    pub environments: Connection<Environment>,
}

/// `RwProject`, of which only the project itself is wanted.
#[derive(Debug, Deserialize)]
pub struct ProjectNodeData {
    /// The project.
    pub project: ProjectNode,
}

/// `RwProjects`.
#[derive(Debug, Deserialize)]
pub struct ProjectsData {
    /// A page of them.
    pub projects: Connection<ProjectNode>,
}

/// A project as a listing shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectNode {
    /// Its id.
    pub id: String,
    /// Its name, now; not unique.
    pub name: String,
    /// What it is about: our mark, in ours.
    #[serde(default)]
    pub description: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<String>,
    /// Set while the deletion is under way.
    #[serde(default)]
    pub deleted_at: Option<String>,
    /// Its workspace; not in listings.
    #[serde(default)]
    pub workspace_id: Option<String>,
}

/// The elements of a connection whose end is not asked for.
#[derive(Debug, Deserialize)]
pub struct Edges<T> {
    /// Its elements.
    pub edges: Vec<Edge<T>>,
}

/// `RwProjectsBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectsBatchData {
    /// Those that can be seen, in any order.
    pub projects_by_ids: Vec<BatchProject>,
}

/// A project with what is in it.
#[derive(Debug, Deserialize)]
pub struct BatchProject {
    /// Its id.
    pub id: String,
    /// Its environments.
    pub environments: Edges<BatchEnvironment>,
}

/// An environment with what is in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchEnvironment {
    /// Its id.
    pub id: String,
    /// Made for a pull request.
    #[serde(default)]
    pub is_ephemeral: bool,
    /// Its services.
    pub service_instances: Edges<ServiceInstance>,
    /// Their volumes. Missing is an error of decoding: an agent must never look by accident as if it had lost its own.
    pub volume_instances: Edges<VolumeInstance>,
}

/// `RwProjectCreate`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectCreateData {
    /// The new project.
    pub project_create: CreatedProject,
}

/// A new project.
#[derive(Debug, Deserialize)]
pub struct CreatedProject {
    /// Its id.
    pub id: String,
    /// Its environments: one, unless the answer is behind.
    #[serde(default = "nothing")]
    pub environments: Edges<Environment>,
}

fn nothing() -> Edges<Environment> {
    Edges { edges: vec![] }
}

/// `RwEnvironments`.
#[derive(Debug, Deserialize)]
pub struct EnvironmentsData {
    /// A page of them.
    pub environments: Connection<Environment>,
}

/// An environment.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// Its id.
    pub id: String,
    /// Its name, in the letter case it was made with.
    pub name: String,
    /// Made for a pull request.
    #[serde(default)]
    pub is_ephemeral: bool,
    /// Set while the deletion is under way.
    #[serde(default)]
    pub deleted_at: Option<String>,
}

/// `RwProjectToken`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectTokenData {
    /// What the token is for.
    pub project_token: ProjectToken,
}

/// A project token's scope.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectToken {
    /// The one project.
    pub project_id: String,
    /// The one environment.
    pub environment_id: String,
    /// The same with its name.
    pub environment: Environment,
}

/// `RwFleet`.
#[derive(Debug, Deserialize)]
pub struct FleetData {
    /// The environment.
    pub environment: Fleet,
}

/// An environment's services.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// A page of them.
    pub service_instances: Connection<ServiceInstance>,
    /// A page of its volumes, where it was asked for.
    #[serde(default)]
    pub volume_instances: Option<Connection<VolumeInstance>>,
}

/// `RwVolumes`.
#[derive(Debug, Deserialize)]
pub struct VolumesData {
    /// The environment.
    pub environment: Volumes,
}

/// An environment's volumes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volumes {
    /// A page of them.
    pub volume_instances: Connection<VolumeInstance>,
}

/// A volume in one environment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeInstance {
    /// The volume's id: what it is removed by.
    pub volume_id: String,
    /// The service it hangs on; null once that is gone.
    #[serde(default)]
    pub service_id: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<String>,
    /// Set from its deletion on; it may be listed for a while.
    #[serde(default)]
    pub deleted_at: Option<String>,
    /// Deleted, and restorable for 48 hours.
    #[serde(default)]
    pub is_pending_deletion: bool,
}

/// `RwVolumeCreate`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeCreateData {
    /// The new volume.
    pub volume_create: Created,
}

/// `RwServiceInstance`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInstanceData {
    /// The service in one environment.
    pub service_instance: ServiceInstance,
}

/// A service in one environment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInstance {
    /// The service's id: what everything is addressed by.
    pub service_id: String,
    /// The service's name, now.
    pub service_name: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<String>,
    /// When a setting last changed; deployments and domains do not move it.
    #[serde(default)]
    pub updated_at: Option<String>,
    /// Set while the deletion is under way.
    #[serde(default)]
    pub deleted_at: Option<String>,
    /// Null until somebody sets it: our settings do.
    #[serde(default)]
    pub num_replicas: Option<i64>,
    /// What is deployed.
    #[serde(default)]
    pub source: Option<Source>,
    /// Where it is reached.
    #[serde(default)]
    pub domains: Domains,
    /// The newest deployment; null before the first and after the last was removed.
    #[serde(default)]
    pub latest_deployment: Option<Deployment>,
    /// Its volumes, oldest first; not in the answer itself.
    #[serde(skip)]
    pub volumes: Vec<VolumeInstance>,
}

/// A service's source.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Source {
    /// The image, by tag or digest.
    pub image: Option<String>,
    /// The repository, `owner/name`.
    pub repo: Option<String>,
}

/// A service's addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Domains {
    /// Railway's own, newest first.
    pub service_domains: Vec<Domain>,
    /// The customer's.
    pub custom_domains: Vec<Domain>,
}

/// One address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Domain {
    /// Its id.
    pub id: String,
    /// The bare host name.
    pub domain: String,
    /// `ACTIVE`, `DELETED`, …
    pub sync_status: Option<String>,
    /// When it was made.
    pub created_at: Option<String>,
}

/// A deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// One of 13 words, or one nobody knows yet.
    pub status: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<String>,
    /// True for stopped ones, and while one starts, and while one sleeps.
    #[serde(default)]
    pub deployment_stopped: bool,
    /// Its containers.
    #[serde(default)]
    pub instances: Vec<Container>,
    /// What it was made of, in a direct read; its form is Railway's own.
    #[serde(default)]
    pub meta: Option<serde_json::Value>,
}

/// A container of a deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    /// `RUNNING`, `EXITED`, …
    pub status: String,
}

/// `RwVariables`. Sealed variables are null.
#[derive(Deserialize)]
pub struct VariablesData {
    /// Name and value. Secrets among them: no `Debug` here.
    pub variables: BTreeMap<String, Option<serde_json::Value>>,
}

/// `RwServiceCreate`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCreateData {
    /// The new service.
    pub service_create: Created,
}

/// `RwDomainCreate`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainCreateData {
    /// The new domain.
    pub service_domain_create: Domain,
}

/// `RwConfigureAndDeploy`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployData {
    /// The new deployment's id.
    pub service_instance_deploy_v2: String,
}

/// `RwServiceRename`, `RwServiceDelete`: what matters is that no error stands beside it.
#[derive(Debug, Deserialize)]
pub struct Accepted {}

/// Something new.
#[derive(Debug, Deserialize)]
pub struct Created {
    /// Its id.
    pub id: String,
}

/// `RwDeploymentEvents`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventsData {
    /// The steps of a deployment.
    pub deployment_events: Events,
}

/// The steps of a deployment.
#[derive(Debug, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub edges: Vec<Edge<DeploymentStep>>,
}

/// One step of a deployment.
#[derive(Debug, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStep {
    /// `BUILD_IMAGE`, `CREATE_CONTAINER`, …
    pub step: String,
    /// When it began.
    pub created_at: Option<String>,
    /// When it ended.
    pub completed_at: Option<String>,
    /// How it went.
    pub payload: Option<StepPayload>,
}

/// How a step of a deployment went.
#[derive(Debug, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct StepPayload {
    /// What went wrong.
    pub error: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// `RwDeployLogs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsData {
    /// Oldest first; may be one more than asked for.
    pub deployment_logs: Vec<LogLine>,
}

/// A line of a log.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// When.
    pub timestamp: String,
    /// What.
    pub message: String,
    /// How bad.
    pub severity: Option<String>,
}

/// `RwRules`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RulesData {
    /// All of them.
    pub notification_rules: Vec<Rule>,
}

/// A notification rule.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// The one project; null: all of the workspace.
    #[serde(default)]
    pub project_id: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<String>,
    /// Where it delivers to.
    #[serde(default)]
    pub channels: Vec<Channel>,
}

/// Where a rule delivers to.
#[derive(Debug, Deserialize)]
pub struct Channel {
    /// Its form is Railway's own; values of headers are null.
    #[serde(default)]
    pub config: serde_json::Value,
}
