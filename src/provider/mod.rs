//! The outside world behind one trait.
//!
//! A provider says by `plan` which steps an operation has; the core records each step before it is sent, sends it
//! once, and looks before it sends it again. Provider steps and the core's own steps (an agent ready, an agent
//! clean, a key at a service) interleave in one plan, because on Sprites a checkpoint comes after ready and clean.
//! A provider never loops, sleeps or chooses; the core drives. Its trait is object-safe.
//!
//! Beside the sketch of the design stand two things. `progress` is pure: it judges a step by what a listing already
//! said, so that waiting for a deployment costs no request per instance. `Seen::Failed` exists, because a step that
//! was accepted may still fail later.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::api::condition::Reason;
use crate::domain::template::Template;

pub mod account;
pub mod error;
pub mod guarded;
pub mod railway;
pub mod sprites;
mod transport;

pub use crate::domain::hook::{Deed, Hook};
pub use crate::domain::plan::{Class, Facts, Operation, Outcome, Repeat, Seen, Step, StepSpec};
pub use crate::domain::resource::{Listing, Liveness, Owner, Presence, Resource};
pub use error::ProviderError;

/// The name of the step that runs a set-up script: the only one that needs [`Inputs::setup_script`].
pub const STEP_SETUP: &str = "setup";

/// Which resource is meant, and how it is proven to be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `spec.id`.
    pub id: String,
    /// `spec.providerName`.
    pub name: String,
    /// The owner mark, `<cluster id>/<namespace>/<id>`.
    pub mark: String,
}

/// A conversation that an agent made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// The XMTP network that it is on.
    pub xmtp_env: String,
}

/// The step that makes a project for the one agent: it may be done with any of several credentials.
pub const PROJECT_STEP: &str = "project";

/// What a step needs beside the plan: the finished variables of the agent.
#[derive(Clone, Default)]
pub struct Inputs {
    /// Every variable of the agent, the owner mark included. Secrets among them: never printed.
    pub variables: BTreeMap<String, String>,
    /// The image to deploy, pinned where the pool wants that.
    pub image: Option<String>,
    /// User and password of the image's registry, where it is private.
    pub registry: Option<(String, SecretString)>,
    /// The pool's own set-up script (Sprites, `setup.scriptConfigMapRef`); `None`: the built-in one.
    pub setup_script: Option<String>,
    /// Further credentials for the step [`PROJECT_STEP`], used in turn.
    pub extra_tokens: Vec<SecretString>,
}

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs")
            .field("variables", &self.variables.keys())
            .field("image", &self.image)
            .field("own_setup_script", &self.setup_script.is_some())
            .finish()
    }
}

/// What a provider can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// How long a listing may lag behind a create: absence sooner than this proves nothing.
    pub list_lag: Duration,
    /// It can restore an instance for the next user.
    pub recycle: bool,
    /// It can rename a resource after its agent.
    pub rename: bool,
    /// A sleeping resource is in stock.
    pub sleep_is_idle: bool,
    /// It can tell us of events.
    pub hooks: bool,
}

/// Where a provider is to tell us of events, and how we know it by that.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// The address, reached from outside.
    pub url: String,
    /// What every delivery brings.
    pub secret: SecretString,
}

/// A diagnostic report, without values of variables.
pub type Report = BTreeMap<String, serde_json::Value>;

/// One provider with one credential and one scope (Railway: project and environment).
///
/// Every call is bounded in time by itself and may be dropped at any await; a dropped write has an unknown outcome.
/// 401 and 403 are errors, never [`Presence::Gone`].
#[async_trait]
pub trait AgentProvider: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Caps;

    /// The steps of an operation. Pure; its hash is recorded with the operation.
    fn plan(&self, operation: Operation, template: &Template) -> Vec<StepSpec>;

    /// Checks credential and scope and resolves names to ids, for `status.resolved` and `spec.provider`
    /// (Railway: `projectId`, `environmentId`). Called when pool or credential changed, never per instance.
    async fn resolve(&self) -> Result<Facts, ProviderError>;

    /// Judges a step by what a listing or direct read shows of our resource. Pure; costs nothing. A resource of our
    /// name is not proven ours by this: [`AgentProvider::look`] reads the mark. Unknown for a step that no listing
    /// shows: one of those that is under way and safe to repeat is looked at directly.
    fn progress(&self, step: &'static str, known: &Facts, resource: &Resource) -> Seen;

    /// Reads: has this step happened to our resource, that is our name **and** our mark? Done carries the facts.
    async fn look(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
    ) -> Result<Seen, ProviderError>;

    /// Sends a step once. At most 90 s; an error of class Ambiguous means nobody knows whether it happened.
    async fn perform(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
        template: &Template,
        inputs: &Inputs,
    ) -> Result<Outcome, ProviderError>;

    /// The subscriptions to events of where it works (Railway: the project, or the workspace where each agent has a
    /// project of its own), other people's among them.
    async fn hooks(&self) -> Result<Vec<Hook>, ProviderError> {
        Ok(vec![])
    }

    /// Does one deed about subscriptions. To make one is not safe to repeat: after an error of class Ambiguous they are
    /// listed first. What is removed may be gone already.
    async fn set_hook(&self, _deed: &Deed, _settings: &HookSettings) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Whether its request limit has room for something of that purpose now; Err: how long until it has, at the soonest.
    fn room_for(&self, _purpose: account::Purpose) -> Result<(), Duration> {
        Ok(())
    }

    /// How long a listing has to rest before the next one, by what its requests cost of the limit. Default: not at all.
    fn listing_interval(&self) -> Duration {
        Duration::ZERO
    }

    /// Everything in the scope: all pages, or an error. Wakes nothing.
    async fn list(&self) -> Result<Listing, ProviderError>;

    /// Reads one resource directly by its recorded ids. Without ids: by name and owner mark, and absence is then
    /// Unknown.
    async fn observe(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError>;

    /// Reads directly whose a listed resource is. Says Elsewhere where the scope only shows it.
    async fn owner(&self, resource: &Resource) -> Result<Owner, ProviderError>;

    /// Puts our mark on a resource that carries none, so that it is ours from now on, and says whose it is then. Changes
    /// nothing else: whatever runs in it goes on. One with another mark, or that lives elsewhere, is left as it is.
    /// Safe to repeat. Not available at every provider.
    async fn take_over(&self, key: &Key, resource: &Resource) -> Result<Owner, ProviderError> {
        Err(ProviderError {
            class: Class::Rejected,
            reason: Reason::NotSupported,
            doing: format!("take over {} as {}", resource.name, key.id),
            message: "this provider's resources cannot be taken over in this version".to_owned(),
            retry_after: None,
        })
    }

    /// Removes our resource, after reading its mark, and says whether it is gone; to be repeated until Gone.
    /// Works without ids: then by name, and Gone means that one look found nothing (the core looks twice, past the lag).
    async fn destroy(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError>;

    /// Keeps an instance awake for this long from now, from inside, so that it needs no further call; an earlier
    /// hold is replaced. Wakes it. A provider whose instances do not sleep by themselves has nothing to do.
    async fn hold(
        &self,
        _key: &Key,
        _known: &Facts,
        _until: Duration,
    ) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Looks inside for what an earlier user left: `None` where there is nothing as far as the provider can see, else
    /// what was found, in words. Wakes it. A provider that cannot look inside finds nothing.
    async fn verify_clean(
        &self,
        _key: &Key,
        _known: &Facts,
    ) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    /// Takes back what [`AgentProvider::prepare_claim`] did, for an agent that goes back into stock; doing it again,
    /// or where nothing was done, changes nothing.
    async fn undo_prepare(&self, _key: &Key, _known: &Facts) -> Result<(), ProviderError> {
        Ok(())
    }

    /// What has to be done to an agent before the claim call (Sprites: write the instructions). Railway: nothing.
    async fn prepare_claim(
        &self,
        key: &Key,
        known: &Facts,
        instructions: &str,
    ) -> Result<(), ProviderError>;

    /// Has the agent's own tool process the join requests of a conversation; how many it processed. Safe to repeat.
    async fn process_joins(
        &self,
        _key: &Key,
        _known: &Facts,
        _conversation: &Conversation,
    ) -> Result<u64, ProviderError> {
        Ok(0)
    }

    /// Wakes the machine and starts the agent in it anew, because it does not answer. Its files stay.
    async fn restart(&self, _key: &Key, _known: &Facts) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Renames the resource after the agent; best effort.
    async fn after_claim(
        &self,
        key: &Key,
        known: &Facts,
        new_name: &str,
    ) -> Result<(), ProviderError>;

    /// A diagnostic report, in at most 15 s.
    async fn diagnose(&self, key: &Key, known: &Facts) -> Report;
}
