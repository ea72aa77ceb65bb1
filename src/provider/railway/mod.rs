//! Railway services as agents: one service per agent in a shared project, or a project for each agent.
//!
//! [`client`] carries GraphQL and keeps the waits, [`classify`] says what an error means, [`operation`] holds one
//! function per document, [`wire`] the answers, [`map`] their meaning. This file is the trait's implementation;
//! `steps` looks and performs, `scope` resolves names, `removal` reads and removes, `report` diagnoses.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::api::agent_pool::TokenKind;
use crate::api::condition::Reason;
use crate::clock::Clock;
use crate::domain::template::Template;

use super::account::Purpose;
use super::{
    AgentProvider, Caps, Class, Deed, Facts, Hook, HookSettings, Inputs, Key, Listing, Operation,
    Outcome, Owner, Presence, ProviderError, Repeat, Report, Resource, Seen, Step, StepSpec,
};

pub mod classify;
pub mod client;
mod hooks;
pub mod map;
pub mod operation;
mod projects;
mod quota;
mod removal;
mod report;
mod scope;
mod settings;
mod steps;
mod volumes;
pub mod wire;

pub use super::transport::SetupError;
pub use client::{Budget, Timeouts, Transport};

use client::Session;
use scope::Scope;

/// Railway's public interface, unless the process is told otherwise.
pub const DEFAULT_URL: &str = "https://backboard.railway.com/graphql/v2";
/// The variable that holds the owner mark.
pub const OWNER_VARIABLE: &str = "AGENTPOOL_OWNER";
/// The port that an agent listens on.
pub const AGENT_PORT: u16 = 8080;

/// The step that makes the agent's own project, where it has one.
pub const PROJECT: &str = super::PROJECT_STEP;
/// The step that makes the service, with all its variables.
pub const SERVICE: &str = "service";
/// The step that makes its volume, where the pool wants one.
pub const VOLUME: &str = "volume";
/// The step that makes its domain.
pub const DOMAIN: &str = "domain";
/// The step that sets the rest and deploys; done when the deployment is up.
pub const DEPLOY: &str = "deploy";

/// The step that ends the deployments by push; done when Railway says so.
pub const AUTO_DEPLOY: &str = "autoDeployOff";

/// A listing was seen to lag up to this behind a create.
const LIST_LAG: Duration = Duration::from_secs(30);
const STEP_DEADLINE: Duration = Duration::from_secs(300);
const UP_DEADLINE: Duration = Duration::from_secs(900);

/// Which environment of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentRef {
    /// By its id.
    Id(String),
    /// By its name, in any letter case.
    Name(String),
    /// None: one project per agent in the workspace of this id, and its environment.
    Workspace(String),
}

/// What one pool says about Railway, with the token's value.
#[derive(Clone)]
pub struct RailwayConfig {
    /// The interface's address, [`DEFAULT_URL`] or `AGENTPOOL_RAILWAY_URL`.
    pub base_url: String,
    /// The token.
    pub token: SecretString,
    /// How it is sent.
    pub token_kind: TokenKind,
    /// The project, by its id; empty where each agent has its own.
    pub project_id: String,
    /// The environment in it.
    pub environment: EnvironmentRef,
    /// For waits and their ends.
    pub clock: Clock,
}

/// The provider Railway with one token and one environment.
pub struct RailwayProvider {
    session: Session,
    config: RailwayConfig,
    scope: Mutex<Option<Scope>>,
    hooks_at: Mutex<Option<hooks::Place>>,
}

/// What this version cannot do with a pool's template, in one sentence; asked before anything is created.
pub fn supports(template: &Template) -> Result<(), String> {
    match &template.provider.railway {
        Some(_) => Ok(()),
        None => Err("the pool's provider is not railway".to_owned()),
    }
}

fn wants_volume(template: &Template) -> bool {
    let railway = template.provider.railway.as_ref();
    railway.is_some_and(|r| r.volume.is_some())
}

impl RailwayProvider {
    /// With a transport of its own.
    pub fn new(config: RailwayConfig) -> Result<Self, SetupError> {
        let transport = Transport::new(&config.base_url, config.clock.clone())?;
        Self::with_transport(config, &transport)
    }

    /// With a shared transport: pools of one token then share its waits and its count. `base_url` and
    /// `clock` are the transport's then.
    pub fn with_transport(
        config: RailwayConfig,
        transport: &Transport,
    ) -> Result<Self, SetupError> {
        let session = transport.session(config.token.clone(), config.token_kind)?;
        Ok(Self {
            session,
            config,
            scope: Mutex::new(None),
            hooks_at: Mutex::new(None),
        })
    }

    /// What is left of the token's requests, by our own count, for metrics.
    pub fn budget(&self) -> Option<Budget> {
        self.session.budget()
    }

    /// Project and environment by id: remembered, given, or looked up.
    async fn scope(&self) -> Result<Scope, ProviderError> {
        let remembered = self
            .scope
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match (remembered, &self.config.environment) {
            (Some(scope), _) => Ok(scope),
            (None, EnvironmentRef::Id(id)) => Ok(Scope {
                project: self.config.project_id.clone(),
                environment: id.clone(),
            }),
            (None, EnvironmentRef::Name(_) | EnvironmentRef::Workspace(_)) => {
                self.resolve_scope().await
            }
        }
    }

    async fn resolve_scope(&self) -> Result<Scope, ProviderError> {
        let scope = scope::resolve(&self.session, &self.config).await?;
        *self.scope.lock().unwrap_or_else(PoisonError::into_inner) = Some(scope.clone());
        Ok(scope)
    }
}

#[async_trait]
impl AgentProvider for RailwayProvider {
    fn capabilities(&self) -> Caps {
        Caps {
            list_lag: LIST_LAG,
            recycle: false,
            rename: true,
            sleep_is_idle: false,
            hooks: true,
        }
    }

    fn plan(&self, operation: Operation, template: &Template) -> Vec<StepSpec> {
        let once = |step, deadline, attempts| StepSpec {
            step,
            repeat: Repeat::LookFirst,
            deadline,
            attempts,
        };
        let safe = |step, deadline| StepSpec {
            step,
            repeat: Repeat::Safe,
            deadline,
            attempts: 1,
        };
        match operation {
            Operation::Create => {
                let railway = template.provider.railway.as_ref();
                let own = railway.is_some_and(|r| r.per_instance.is_some());
                let built = steps::repository(template).is_some();
                let volume = wants_volume(template);
                let steps = [
                    own.then(|| once(Step::Provider(PROJECT), STEP_DEADLINE, 3)),
                    Some(once(Step::Provider(SERVICE), STEP_DEADLINE, 3)),
                    volume.then(|| once(Step::Provider(VOLUME), STEP_DEADLINE, 5)),
                    Some(once(Step::Provider(DOMAIN), STEP_DEADLINE, 5)),
                    Some(once(Step::Provider(DEPLOY), UP_DEADLINE, 3)),
                    built.then(|| safe(Step::Provider(AUTO_DEPLOY), STEP_DEADLINE)),
                    Some(safe(Step::Ready, STEP_DEADLINE)),
                    Some(safe(Step::Clean, STEP_DEADLINE)),
                ];
                steps.into_iter().flatten().collect()
            }
            Operation::Recycle | Operation::Destroy => vec![],
        }
    }

    async fn resolve(&self) -> Result<Facts, ProviderError> {
        if let Some(workspace) = self.workspace() {
            scope::check_workspace(&self.session, &self.config, workspace).await?;
            let fact = ("workspaceId".to_owned(), workspace.to_owned());
            return Ok(Facts::from([fact]));
        }
        let scope = self.resolve_scope().await?;
        Ok(Facts::from([
            ("projectId".to_owned(), scope.project),
            ("environmentId".to_owned(), scope.environment),
        ]))
    }

    fn progress(&self, step: &'static str, known: &Facts, resource: &Resource) -> Seen {
        map::progress(step, known, resource)
    }

    async fn look(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
    ) -> Result<Seen, ProviderError> {
        if let (PROJECT, Some(workspace)) = (step, self.workspace()) {
            return projects::look(&self.session, workspace, key, known).await;
        }
        steps::look(&self.reach_for(key, known).await?, key, known, step).await
    }

    async fn perform(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
        template: &Template,
        inputs: &Inputs,
    ) -> Result<Outcome, ProviderError> {
        if let Err(message) = supports(template) {
            return Ok(Outcome::Failed {
                reason: Reason::NotSupported.as_str(),
                message,
                retry: false,
            });
        }
        if let (PROJECT, Some(workspace)) = (step, self.workspace()) {
            return projects::make(&self.session, workspace, key, inputs).await;
        }
        let reach = self.reach_for(key, known).await?;
        match step {
            SERVICE => steps::make_service(&reach, key, inputs).await,
            VOLUME => volumes::make(&reach, key, known, template).await,
            DOMAIN => steps::make_domain(&reach, key, known).await,
            DEPLOY => steps::deploy(&reach, key, known, template, inputs).await,
            AUTO_DEPLOY => steps::end_auto_deploy(&reach, key, known).await,
            _ => Err(unknown_step(step)),
        }
    }

    fn listing_interval(&self) -> Duration {
        self.session.listing_interval()
    }

    fn room_for(&self, purpose: Purpose) -> Result<(), Duration> {
        self.session.room_for(purpose)
    }

    async fn hooks(&self) -> Result<Vec<Hook>, ProviderError> {
        hooks::list(&self.session, &self.hooks_at().await?).await
    }

    async fn set_hook(&self, deed: &Deed, settings: &HookSettings) -> Result<(), ProviderError> {
        let place = self.hooks_at().await?;
        hooks::perform(&self.session, &place, deed, settings).await
    }

    async fn list(&self) -> Result<Listing, ProviderError> {
        if let Some(workspace) = self.workspace() {
            let resources = projects::list(&self.session, workspace).await?;
            return Ok(Listing { resources });
        }
        let services = removal::all_services(&self.reach().await?).await?;
        // Each is dropped as soon as it is read: there may be thousands.
        let resources = services.into_iter().map(|s| map::resource(&s));
        Ok(Listing {
            resources: resources.collect(),
        })
    }

    async fn observe(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError> {
        match self.workspace() {
            Some(workspace) if !known.contains_key(map::SERVICE_ID) => {
                projects::observe(&self.session, workspace, key, known).await
            }
            _ => removal::observe(&self.reach_for(key, known).await?, key, known).await,
        }
    }

    async fn owner(&self, resource: &Resource) -> Result<Owner, ProviderError> {
        if let Some(workspace) = self.workspace() {
            return projects::owner(&self.session, workspace, resource).await;
        }
        removal::owner(&self.reach().await?, resource).await
    }

    async fn take_over(&self, key: &Key, resource: &Resource) -> Result<Owner, ProviderError> {
        if self.workspace().is_some() {
            let doing = format!("take over project {}", resource.name);
            let words = "projects of agents cannot be taken over in this version";
            return Err(rejected(Reason::NotSupported, doing, words));
        }
        removal::take_over(&self.reach().await?, key, resource).await
    }

    async fn destroy(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError> {
        if let Some(workspace) = self.workspace() {
            return projects::destroy(&self.session, workspace, key, known).await;
        }
        removal::destroy(&self.reach().await?, key, known).await
    }

    async fn prepare_claim(
        &self,
        _key: &Key,
        _known: &Facts,
        _instructions: &str,
    ) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn after_claim(
        &self,
        key: &Key,
        known: &Facts,
        new_name: &str,
    ) -> Result<(), ProviderError> {
        if let (Some(_), Some(project)) = (self.workspace(), known.get(map::PROJECT_ID)) {
            let doing = format!("rename project {} to {new_name}", key.name);
            let renamed = projects::rename(&self.session, project, new_name).await;
            return renamed.map_err(|f| f.into_error(classify::Access::Write, doing));
        }
        let doing = format!("rename service {} to {new_name}", key.name);
        let Some(service) = known.get(map::SERVICE_ID) else {
            return Err(no_service_id(doing));
        };
        let renamed = operation::service_rename(&self.session, service, new_name).await;
        renamed.map_err(|f| f.into_error(classify::Access::Write, doing))
    }

    async fn diagnose(&self, key: &Key, known: &Facts) -> Report {
        match self.reach_for(key, known).await {
            Ok(reach) => report::diagnose(&reach, key, known).await,
            Err(error) => Report::from([("error".to_owned(), error.to_string().into())]),
        }
    }
}

/// A session with its scope: what the steps work with.
struct Reach<'a> {
    session: &'a Session,
    kind: TokenKind,
    scope: Scope,
    /// The workspace, where each agent has a project of its own.
    workspace: Option<String>,
}

impl RailwayProvider {
    async fn reach(&self) -> Result<Reach<'_>, ProviderError> {
        Ok(Reach {
            session: &self.session,
            kind: self.config.token_kind,
            scope: self.scope().await?,
            workspace: None,
        })
    }

    /// The same for one agent: in its own project, where it has one.
    async fn reach_for(&self, key: &Key, known: &Facts) -> Result<Reach<'_>, ProviderError> {
        let Some(workspace) = self.workspace() else {
            return self.reach().await;
        };
        let reach = projects::reach(&self.session, workspace, known).await?;
        reach.ok_or_else(|| {
            let doing = format!("reach the project of {}", key.name);
            rejected(
                Reason::InternalError,
                doing,
                "the project's id is not recorded",
            )
        })
    }

    /// The workspace, where each agent has a project of its own.
    fn workspace(&self) -> Option<&str> {
        match &self.config.environment {
            EnvironmentRef::Workspace(id) => Some(id),
            EnvironmentRef::Id(_) | EnvironmentRef::Name(_) => None,
        }
    }
}

fn unknown_step(step: &str) -> ProviderError {
    rejected(
        Reason::InternalError,
        format!("step {step}"),
        "Railway has no such step",
    )
}

fn no_service_id(doing: String) -> ProviderError {
    rejected(
        Reason::InternalError,
        doing,
        "the service's id is not recorded",
    )
}

fn rejected(reason: Reason, doing: String, message: impl Into<String>) -> ProviderError {
    ProviderError {
        class: Class::Rejected,
        reason,
        doing,
        message: message.into(),
        retry_after: None,
    }
}
