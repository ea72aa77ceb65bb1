//! Providers by scope, with the one listing that everybody in a scope shares, and the frozen templates.
//!
//! A scope is a credential and a place (Railway: project and environment; Sprites: the credential's organisation). Whoever needs a listing asks for one that
//! is not older than it can use; of those who ask at the same time one goes to the provider and all get its answer.
//! So requests grow with the number of projects, not of instances. The last good credential of a scope stays in
//! memory while an instance needs it: a namespace's deletion removes the Secret first.

mod holds;
mod templates;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use secrecy::{ExposeSecret, SecretString};

use crate::api::agent_instance::ProviderRef;
use crate::api::agent_pool::{AgentPool, SecretKeyRef, TokenKind};
use crate::api::condition::Reason;
use crate::clock::{Clock, Monotonic};
use crate::domain::backoff::{self, Call};
use crate::domain::plan::{Class, Facts, Trouble};
use crate::domain::resource::Resource;
use crate::domain::template::{self, Template};
use crate::k8s::secret;
use crate::provider::AgentProvider;
use holds::{Hold, SECRET_LOOK};

/// Where and with which credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The namespace of the Secret.
    pub namespace: String,
    /// The provider, as `spec.provider.kind` names it.
    pub kind: String,
    /// The Secret with the credential.
    pub secret: SecretKeyRef,
    /// How the credential is sent.
    pub token_kind: TokenKind,
    /// Railway: the project; elsewhere empty.
    pub project_id: String,
    /// Railway: the environment; elsewhere an empty id, because the credential alone says where.
    pub environment: Environment,
}

/// A Railway environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Environment {
    /// By its id.
    Id(String),
    /// By its name, to be resolved.
    Name(String),
}

/// Makes a provider for a scope. `app` brings the real ones.
pub trait Connect: Send + Sync {
    /// A provider that works in a scope with a credential.
    fn connect(
        &self,
        scope: &Scope,
        credential: SecretString,
    ) -> Result<Arc<dyn AgentProvider>, Trouble>;
    /// What of a template this version cannot build, in words; `None`: nothing.
    fn unsupported(&self, template: &Template) -> Option<String>;
}

/// A listing, by the ids in it.
pub struct Snapshot {
    /// When it was begun: what is newer it cannot tell.
    pub begun: Monotonic,
    /// By the provider's id.
    pub by_id: HashMap<String, Resource>,
}

#[derive(Default)]
struct Cell {
    connection: Option<(SecretString, Arc<dyn AgentProvider>)>,
    resolved: Option<Facts>,
    snapshot: Option<Arc<Snapshot>>,
    failures: u32,
    trouble: Option<(Trouble, Monotonic)>,
}

/// Providers by scope.
pub struct Fleet {
    client: Client,
    clock: Clock,
    connect: Arc<dyn Connect>,
    cells: Mutex<HashMap<Scope, Arc<tokio::sync::Mutex<Cell>>>>,
    holds: Mutex<HashMap<Scope, Hold>>,
    templates: Mutex<HashMap<(String, String), Arc<Template>>>,
}

impl Fleet {
    /// An empty fleet.
    pub fn new(client: Client, clock: Clock, connect: Arc<dyn Connect>) -> Self {
        Self {
            client,
            clock,
            connect,
            cells: Mutex::default(),
            holds: Mutex::default(),
            templates: Mutex::default(),
        }
    }

    /// What of a template this version cannot build.
    pub fn unsupported(&self, template: &Template) -> Option<String> {
        self.connect.unsupported(template)
    }

    fn cell(&self, scope: &Scope) -> Arc<tokio::sync::Mutex<Cell>> {
        self.cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(scope.clone())
            .or_default()
            .clone()
    }

    /// The provider of a scope; its Secret is read again where `fresh`.
    async fn connection(
        &self,
        scope: &Scope,
        cell: &mut Cell,
        fresh: bool,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        if let Some((_, provider)) = cell.connection.as_ref().filter(|_| !fresh) {
            return Ok(provider.clone());
        }
        match secret::value(&self.client, &scope.namespace, &scope.secret).await {
            Ok(value) => {
                if let Some((old, provider)) = &cell.connection
                    && old.expose_secret() == value.expose_secret()
                {
                    return Ok(provider.clone());
                }
                let provider = self.connect.connect(scope, value.clone())?;
                cell.connection = Some((value, provider.clone()));
                self.holds().remove(scope);
                cell.resolved = None;
                cell.trouble = None;
                cell.failures = 0;
                Ok(provider)
            }
            // The last good credential outlives its Secret.
            Err(error) => match &cell.connection {
                Some((_, provider)) => Ok(provider.clone()),
                None => Err(missing_credential(error)),
            },
        }
    }

    /// The provider of a scope.
    pub async fn provider(&self, scope: &Scope) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let cell = self.cell(scope);
        let mut cell = cell.lock().await;
        self.connection(scope, &mut cell, false).await
    }

    /// Checks credential and names of a scope, once per credential; what it resolved to.
    pub async fn resolve(&self, scope: &Scope) -> Result<Facts, Trouble> {
        let cell = self.cell(scope);
        let mut cell = cell.lock().await;
        let unresolved = cell.resolved.is_none();
        self.connection(scope, &mut cell, unresolved).await?;
        if let Some(facts) = &cell.resolved {
            return Ok(facts.clone());
        }
        self.may_ask(scope, &mut cell).await?;
        let provider = self.connection(scope, &mut cell, false).await?;
        match provider.resolve().await {
            Ok(facts) => {
                cell.resolved = Some(facts.clone());
                cell.trouble = None;
                cell.failures = 0;
                Ok(facts)
            }
            Err(error) => Err(self.note(&mut cell, error.into())),
        }
    }

    /// A listing of the scope that is not older than `max_age`, or the latest trouble.
    pub async fn snapshot(
        &self,
        scope: &Scope,
        max_age: Duration,
    ) -> Result<Arc<Snapshot>, Trouble> {
        let cell = self.cell(scope);
        // Whoever waits here while another lists finds its answer fresh enough.
        let mut cell = cell.lock().await;
        let now = self.clock.monotonic();
        if let Some(snapshot) = cell
            .snapshot
            .as_ref()
            .filter(|s| now.saturating_sub(s.begun) < max_age)
        {
            return Ok(snapshot.clone());
        }
        self.may_ask(scope, &mut cell).await?;
        let provider = self.connection(scope, &mut cell, true).await?;
        let begun = self.clock.monotonic();
        match provider.list().await {
            Ok(listing) => {
                let by_id = listing.resources.into_iter();
                let by_id = by_id.map(|r| (r.id.clone(), r)).collect();
                let snapshot = Arc::new(Snapshot { begun, by_id });
                cell.snapshot = Some(snapshot.clone());
                cell.trouble = None;
                cell.failures = 0;
                Ok(snapshot)
            }
            Err(error) => Err(self.note(&mut cell, error.into())),
        }
    }

    /// The latest listing, however old.
    pub async fn latest(&self, scope: &Scope) -> Option<Arc<Snapshot>> {
        self.cell(scope).lock().await.snapshot.clone()
    }

    /// Whether listing or resolving may be tried now. A refused credential is compared with its Secret first.
    async fn may_ask(&self, scope: &Scope, cell: &mut Cell) -> Result<(), Trouble> {
        if let Some(throttled) = self.held(scope, Call::Read) {
            return Err(throttled);
        }
        match self.not_yet(cell) {
            Err(trouble) if trouble.class == Class::Unauthorized => {
                self.connection(scope, cell, true).await?;
                self.not_yet(cell)
            }
            other => other,
        }
    }

    /// After a failure the whole scope waits, not one object.
    fn not_yet(&self, cell: &Cell) -> Result<(), Trouble> {
        match &cell.trouble {
            Some((trouble, until)) if self.clock.monotonic() < *until => Err(trouble.clone()),
            _ => Ok(()),
        }
    }

    fn note(&self, cell: &mut Cell, trouble: Trouble) -> Trouble {
        let wait = backoff::after(&trouble, cell.failures);
        cell.failures = cell.failures.saturating_add(1);
        cell.trouble = Some((trouble.clone(), self.clock.monotonic() + wait));
        trouble
    }
}

/// The remedy is a person's: the Secret is looked for again soon, which costs the provider nothing.
fn missing_credential(error: secret::SecretError) -> Trouble {
    let reason = match &error {
        secret::SecretError::Missing(_) => Reason::CredentialsMissing,
        secret::SecretError::Api(_) => Reason::ProviderUnavailable,
    };
    Trouble {
        class: Class::Unauthorized,
        reason,
        message: error.to_string(),
        retry_after: Some(SECRET_LOOK),
    }
}

/// The scope of a pool, by what its spec says.
pub fn scope_of_pool(pool: &AgentPool) -> Option<Scope> {
    let namespace = pool.metadata.namespace.clone().unwrap_or_default();
    let kind = template::provider_kind(&pool.spec.provider).to_owned();
    if let Some(sprites) = &pool.spec.provider.sprites {
        return Some(Scope {
            namespace,
            kind,
            secret: sprites.token_secret_ref.clone(),
            token_kind: TokenKind::default(),
            project_id: String::new(),
            environment: Environment::Id(String::new()),
        });
    }
    let railway = pool.spec.provider.railway.as_ref()?;
    let project = railway.project.as_ref()?;
    Some(Scope {
        namespace,
        kind,
        secret: railway.token_secret_ref.clone(),
        token_kind: railway.token_kind,
        project_id: project.project_id.clone(),
        environment: match &project.environment_id {
            Some(id) => Environment::Id(id.clone()),
            None => Environment::Name(project.environment_name.clone().unwrap_or_default()),
        },
    })
}

/// Whether what a scope's names were resolved to is among these.
pub fn is_resolved(scope: &Scope, facts: &Facts) -> bool {
    let resolved = match scope.environment {
        Environment::Id(ref id) if id.is_empty() => "organization",
        _ => "environmentId",
    };
    facts.contains_key(resolved)
}

/// The same scope with the environment's id, once it is known: what instances record and share.
pub fn resolved_scope(scope: &Scope, facts: &Facts) -> Scope {
    let environment = facts.get("environmentId").cloned().map(Environment::Id);
    Scope {
        environment: environment.unwrap_or_else(|| scope.environment.clone()),
        ..scope.clone()
    }
}

/// What an instance of a scope records for its own destruction.
pub fn provider_ref(scope: &Scope) -> ProviderRef {
    ProviderRef {
        kind: scope.kind.clone(),
        token_secret_ref: Some(scope.secret.clone()),
        token_kind: (!scope.project_id.is_empty()).then_some(scope.token_kind),
        project_id: Some(scope.project_id.clone()).filter(|id| !id.is_empty()),
        environment_id: match &scope.environment {
            Environment::Id(id) => Some(id.clone()).filter(|id| !id.is_empty()),
            Environment::Name(_) => None,
        },
    }
}

/// The scope of an instance, by what it records.
pub fn scope_of_instance(namespace: &str, provider: &ProviderRef) -> Option<Scope> {
    Some(Scope {
        namespace: namespace.to_owned(),
        kind: provider.kind.clone(),
        secret: provider.token_secret_ref.clone()?,
        token_kind: provider.token_kind.unwrap_or_default(),
        project_id: provider.project_id.clone().unwrap_or_default(),
        environment: Environment::Id(provider.environment_id.clone().unwrap_or_default()),
    })
}
