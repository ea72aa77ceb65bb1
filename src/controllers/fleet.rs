//! Providers by scope, with the one listing that everybody in a scope shares, and the frozen templates.
//!
//! A scope is a credential and a place (Railway: project and environment; Sprites: the credential's organisation).
//! Requests grow with the number of scopes, not of instances: see `listing`. The last good credential of a scope stays in
//! memory while an instance needs it: a namespace's deletion removes the Secret first.

mod holds;
mod listing;
mod snapshot;
mod templates;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::api::agent_instance::ProviderRef;
use crate::api::agent_pool::{AgentPool, SecretKeyRef, TokenKind};
use crate::api::condition::Reason;
use crate::clock::Clock;
use crate::domain::plan::{Class, Facts, Trouble};
use crate::domain::template::{self, Template};
use crate::k8s::secret::{self, SecretError};
use crate::provider::AgentProvider;
use crate::provider::account::{self, Purpose};
use holds::{Hold, SECRET_LOOK, UNREAD_LOOK};
use listing::{Cell, Known};
pub use snapshot::Snapshot;

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
    /// None: one project per agent in this workspace.
    Workspace(String),
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

/// Providers by scope.
pub struct Fleet {
    client: Client,
    clock: Clock,
    connect: Arc<dyn Connect>,
    cells: Mutex<HashMap<Scope, Arc<Cell>>>,
    holds: Mutex<HashMap<Scope, Hold>>,
    templates: Mutex<HashMap<(String, String), Arc<Template>>>,
    /// Digests of what was last read from Secrets whose rotation is told.
    read: Mutex<HashMap<(String, SecretKeyRef), [u8; 32]>>,
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
            read: Mutex::default(),
        }
    }

    /// What of a template this version cannot build.
    pub fn unsupported(&self, template: &Template) -> Option<String> {
        self.connect.unsupported(template)
    }

    fn cell(&self, scope: &Scope) -> Arc<Cell> {
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
        cell: &Cell,
        fresh: bool,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let known = || cell.known().connected(fresh, self.clock.monotonic());
        if let Some(answer) = known() {
            return answer;
        }
        let _reading = cell.reading.lock().await;
        // Whoever waited here finds what another has read.
        if let Some(answer) = known() {
            return answer;
        }
        let read = secret::value(&self.client, &scope.namespace, &scope.secret).await;
        let (answer, again) = match read {
            Ok(value) => (self.take(scope, cell, value), SECRET_LOOK),
            // The last good credential outlives its Secret.
            Err(error) => {
                let again = match &error {
                    SecretError::Missing(_) => SECRET_LOOK,
                    SecretError::Api(_) => UNREAD_LOOK,
                };
                let old = cell.known().provider();
                (old.ok_or_else(|| missing_credential(error)), again)
            }
        };
        if let Err(trouble) = &answer {
            let until = self.clock.monotonic() + again;
            cell.known().unconnected = Some((trouble.clone(), until));
        }
        answer
    }

    /// Takes a credential: what the last one met is forgotten.
    fn take(
        &self,
        scope: &Scope,
        cell: &Cell,
        value: SecretString,
    ) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let mut known = cell.known();
        if let Some((old, provider)) = &known.connection
            && old.expose_secret() == value.expose_secret()
        {
            return Ok(provider.clone());
        }
        let provider = self.connect.connect(scope, value.clone())?;
        let rotations = known.rotations + u32::from(known.connection.is_some());
        *known = Known {
            rotations,
            connection: Some((value, provider.clone())),
            snapshot: known.snapshot.take(),
            ..Known::default()
        };
        self.holds().remove(scope);
        Ok(provider)
    }

    /// How often the credential of a scope was replaced by another since this process began to use it.
    pub fn rotations(&self, scope: &Scope) -> u32 {
        self.cell(scope).known().rotations
    }

    /// Notes a value that was read from a Secret; whether it is another than was read there before. Of the value only a
    /// digest is kept.
    pub fn is_rotated(&self, namespace: &str, from: &SecretKeyRef, value: &SecretString) -> bool {
        let digest: [u8; 32] = Sha256::digest(value.expose_secret().as_bytes()).into();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let before = read.insert((namespace.to_owned(), from.clone()), digest);
        before.is_some_and(|before| before != digest)
    }

    /// The provider of a scope.
    pub async fn provider(&self, scope: &Scope) -> Result<Arc<dyn AgentProvider>, Trouble> {
        self.connection(scope, &self.cell(scope), false).await
    }

    /// Checks credential and names of a scope, once per credential; what it resolved to.
    pub async fn resolve(&self, scope: &Scope) -> Result<Facts, Trouble> {
        let cell = self.cell(scope);
        let known = || cell.known().resolved.clone();
        if let Some(facts) = known() {
            return Ok(facts);
        }
        let _asking = cell.asking.lock().await;
        if let Some(facts) = known() {
            return Ok(facts);
        }
        self.connection(scope, &cell, true).await?;
        self.may_ask(scope, &cell).await?;
        let provider = self.connection(scope, &cell, false).await?;
        let answer = account::shared(Purpose::Watch, provider.resolve()).await;
        let answer = answer.map_err(Trouble::from);
        self.learn(&cell, &provider, answer, |known, facts| {
            known.resolved = Some(facts.clone());
        })
    }
}

/// The remedy is a person's: the Secret is looked for again soon, which costs the provider nothing.
fn missing_credential(error: SecretError) -> Trouble {
    let reason = match &error {
        SecretError::Missing(_) => Reason::CredentialsMissing,
        SecretError::Api(_) => Reason::ProviderUnavailable,
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
    let (project_id, environment) = match (&railway.project, &railway.per_instance) {
        (Some(project), _) => {
            let environment = match &project.environment_id {
                Some(id) => Environment::Id(id.clone()),
                None => Environment::Name(project.environment_name.clone().unwrap_or_default()),
            };
            (project.project_id.clone(), environment)
        }
        (None, Some(own)) => {
            let workspace = Environment::Workspace(own.workspace_id.clone());
            (String::new(), workspace)
        }
        (None, None) => return None,
    };
    Some(Scope {
        namespace,
        kind,
        secret: railway.token_secret_ref.clone(),
        token_kind: railway.token_kind,
        project_id,
        environment,
    })
}

/// Whether what a scope's names were resolved to is among these.
pub fn is_resolved(scope: &Scope, facts: &Facts) -> bool {
    let resolved = match scope.environment {
        Environment::Id(ref id) if id.is_empty() => "organization",
        Environment::Workspace(_) => "workspaceId",
        Environment::Id(_) | Environment::Name(_) => "environmentId",
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
        // Sprites have one kind of token.
        token_kind: (scope.kind == "Railway").then_some(scope.token_kind),
        project_id: Some(scope.project_id.clone()).filter(|id| !id.is_empty()),
        environment_id: match &scope.environment {
            Environment::Id(id) => Some(id.clone()).filter(|id| !id.is_empty()),
            Environment::Name(_) | Environment::Workspace(_) => None,
        },
        workspace_id: match &scope.environment {
            Environment::Workspace(id) => Some(id.clone()),
            Environment::Id(_) | Environment::Name(_) => None,
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
        environment: match &provider.workspace_id {
            Some(id) => Environment::Workspace(id.clone()),
            None => Environment::Id(provider.environment_id.clone().unwrap_or_default()),
        },
    })
}
