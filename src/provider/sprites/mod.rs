//! Fly.io Sprites as agents: one sprite per agent in the organisation of the token.
//!
//! [`client`] carries HTTP and keeps the waits, [`exec`] runs commands over a WebSocket, `stream` reads events to their
//! end, [`classify`] says what an error means, [`operation`] holds one function per request, [`wire`] the objects,
//! [`map`] their meaning. `setup`, `files`, `services` and `inside` are what is put and asked inside; `steps` looks and
//! performs, `removal` lists, reads and removes, `report` diagnoses. This file is the trait's implementation.
//!
//! A sprite that nobody calls is paused and costs nothing: [`AgentProvider::list`], `observe`, `owner` and `destroy`
//! wake none.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::api::agent_pool::DialectChoice;
use crate::api::condition::Reason;
use crate::domain::template::Template;

use super::{
    AgentProvider, Caps, Class, Conversation, Facts, Inputs, Key, Listing, Operation, Outcome,
    Owner, Presence, ProviderError, Repeat, Report, Resource, Seen, Step, StepSpec,
};

pub mod classify;
pub mod client;
pub mod exec;
mod files;
mod inside;
pub mod map;
pub mod operation;
mod removal;
mod report;
mod services;
mod setup;
mod steps;
pub mod stream;
pub mod wire;

pub use super::transport::SetupError;
pub use client::{Session, Timeouts, Transport};

use classify::{Effect, Failure};

/// The public interface, unless the process is told otherwise.
pub const DEFAULT_URL: &str = "https://api.sprites.dev";
/// The port that an agent listens on, and that a sprite's address leads to.
pub const AGENT_PORT: u16 = 8080;

/// The step that makes the sprite, with its mark and its open address.
pub const SPRITE: &str = "sprite";
/// The step that checks mark and address and learns the home directory.
pub const ACCESS: &str = "access";
/// The step that builds the agent's program inside.
pub const SETUP: &str = super::STEP_SETUP;
/// The step that writes the agent's configuration and variables.
pub const FILES: &str = "files";
/// The step that defines and starts the agent.
pub const GATEWAY: &str = "gateway";
/// The step that takes the golden checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// The step that checks the checkpoint and leaves a marker that only a restore removes.
pub const MARK: &str = "mark";
/// The step that restores the checkpoint.
pub const RESTORE: &str = "restore";
/// The step that defines the agent again and starts it anew.
pub const RESTART: &str = "restart";

/// A new sprite may be missing in a listing for this long; nothing longer was seen.
const LIST_LAG: Duration = Duration::from_secs(10);
const STEP_DEADLINE: Duration = Duration::from_secs(300);
/// The whole creation has a limit of its own.
const SETUP_DEADLINE: Duration = Duration::from_secs(3600);
const READY_AFTER_START: Duration = Duration::from_secs(120);
const READY_AFTER_RESTORE: Duration = Duration::from_secs(60);

/// The provider Sprites with one token.
pub struct SpritesProvider {
    session: Session,
}

/// What this version cannot do with a pool's template, in one sentence; asked before anything is created.
pub fn supports(template: &Template) -> Result<(), String> {
    if template.provider.sprites.is_none() {
        return Err("the pool's provider is not sprites".to_owned());
    }
    if template.runtime.dialect == DialectChoice::PoolServer {
        return Err(
            "agents on Sprites speak the dialect Gateway: set runtime.dialect to Auto or Gateway"
                .to_owned(),
        );
    }
    Ok(())
}

impl SpritesProvider {
    /// With a shared transport: pools of one token then share its waits.
    pub fn new(transport: &Transport, token: SecretString) -> Result<Self, SetupError> {
        Ok(Self {
            session: transport.session(token)?,
        })
    }
}

fn create_plan() -> Vec<StepSpec> {
    vec![
        once(Step::Provider(SPRITE), STEP_DEADLINE, 3),
        safe(Step::Provider(ACCESS), STEP_DEADLINE, 3),
        safe(Step::Provider(SETUP), SETUP_DEADLINE, 3),
        safe(Step::Provider(FILES), STEP_DEADLINE, 3),
        safe(Step::Provider(GATEWAY), STEP_DEADLINE, 3),
        safe(Step::Ready, READY_AFTER_START, 1),
        safe(Step::Clean, READY_AFTER_START, 1),
        once(Step::Provider(CHECKPOINT), STEP_DEADLINE, 2),
    ]
}

/// A restore is safe to repeat, because it is looked for before it is sent: without the marker it has happened.
fn recycle_plan() -> Vec<StepSpec> {
    vec![
        safe(Step::Provider(MARK), STEP_DEADLINE, 1),
        safe(Step::Provider(RESTORE), STEP_DEADLINE, 1),
        safe(Step::Provider(FILES), STEP_DEADLINE, 3),
        safe(Step::Provider(RESTART), STEP_DEADLINE, 3),
        safe(Step::Provider(ACCESS), STEP_DEADLINE, 3),
        safe(Step::Ready, READY_AFTER_RESTORE, 1),
        safe(Step::Clean, READY_AFTER_RESTORE, 1),
    ]
}

fn once(step: Step, deadline: Duration, attempts: u8) -> StepSpec {
    StepSpec {
        step,
        repeat: Repeat::LookFirst,
        deadline,
        attempts,
    }
}

fn safe(step: Step, deadline: Duration, attempts: u8) -> StepSpec {
    StepSpec {
        repeat: Repeat::Safe,
        ..once(step, deadline, attempts)
    }
}

#[async_trait]
impl AgentProvider for SpritesProvider {
    fn capabilities(&self) -> Caps {
        Caps {
            list_lag: LIST_LAG,
            recycle: true,
            rename: false,
            sleep_is_idle: true,
            hooks: false,
        }
    }

    fn plan(&self, operation: Operation, _template: &Template) -> Vec<StepSpec> {
        match operation {
            Operation::Create => create_plan(),
            Operation::Recycle => recycle_plan(),
            Operation::Destroy => vec![],
        }
    }

    async fn resolve(&self) -> Result<Facts, ProviderError> {
        let page = operation::page(&self.session, "", "1", None).await;
        let page = page.map_err(|f| f.into_error(Effect::Repeatable, "read the organisation"))?;
        let name = page.name.or_else(|| page.org.and_then(|o| o.name));
        let name = name.unwrap_or_default();
        Ok(Facts::from([("organization".to_owned(), name)]))
    }

    fn progress(&self, step: &'static str, _known: &Facts, resource: &Resource) -> Seen {
        match step {
            SPRITE => Seen::Done(resource.facts.clone()),
            _ => Seen::Unknown,
        }
    }

    async fn look(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
    ) -> Result<Seen, ProviderError> {
        steps::look(&self.session, key, known, step).await
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
        steps::perform(&self.session, key, known, step, (template, inputs)).await
    }

    async fn list(&self) -> Result<Listing, ProviderError> {
        removal::list(&self.session).await
    }

    async fn observe(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError> {
        removal::observe(&self.session, key, known).await
    }

    async fn owner(&self, resource: &Resource) -> Result<Owner, ProviderError> {
        removal::owner(&self.session, resource).await
    }

    async fn destroy(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError> {
        removal::destroy(&self.session, key, known).await
    }

    async fn hold(&self, key: &Key, _known: &Facts, until: Duration) -> Result<(), ProviderError> {
        let held = inside::hold(&self.session, &key.name, until).await;
        held.map_err(repeatable("hold", key))
    }

    async fn verify_clean(
        &self,
        key: &Key,
        _known: &Facts,
    ) -> Result<Option<String>, ProviderError> {
        let dirt = inside::dirt(&self.session, &key.name).await;
        dirt.map_err(repeatable("look into", key))
    }

    async fn restart(&self, key: &Key, _known: &Facts) -> Result<(), ProviderError> {
        let begun = services::begin_anew(&self.session, &key.name, files::GATEWAY).await;
        match begun.map_err(repeatable("restart the gateway of", key))? {
            None => Ok(()),
            Some(why) => Err(rejected(
                Reason::Rejected,
                format!("restart the gateway of sprite {}", key.name),
                why,
            )),
        }
    }

    async fn prepare_claim(
        &self,
        key: &Key,
        known: &Facts,
        instructions: &str,
    ) -> Result<(), ProviderError> {
        let path = instructions_of(key, known)?;
        let written =
            operation::write_file(&self.session, &key.name, &path, instructions.as_bytes()).await;
        written.map_err(repeatable("write the instructions of", key))
    }

    async fn undo_prepare(&self, key: &Key, known: &Facts) -> Result<(), ProviderError> {
        let path = instructions_of(key, known)?;
        let removed = operation::delete_file(&self.session, &key.name, &path).await;
        removed.map_err(repeatable("remove the instructions of", key))
    }

    async fn process_joins(
        &self,
        key: &Key,
        _known: &Facts,
        conversation: &Conversation,
    ) -> Result<u64, ProviderError> {
        let processed = inside::process_joins(&self.session, &key.name, conversation).await;
        processed.map_err(repeatable("process the join requests of", key))
    }

    /// No call renames a sprite.
    async fn after_claim(
        &self,
        _key: &Key,
        _known: &Facts,
        _new_name: &str,
    ) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn diagnose(&self, key: &Key, known: &Facts) -> Report {
        report::diagnose(&self.session, key, known).await
    }
}

fn instructions_of(key: &Key, known: &Facts) -> Result<String, ProviderError> {
    match known.get(map::HOME) {
        Some(home) => Ok(files::at(home, files::INSTRUCTIONS)),
        None => Err(rejected(
            Reason::InternalError,
            format!("find the instructions of sprite {}", key.name),
            "its home directory is not recorded",
        )),
    }
}

fn repeatable(doing: &str, key: &Key) -> impl FnOnce(Failure) -> ProviderError {
    let doing = format!("{doing} sprite {}", key.name);
    move |f| f.into_error(Effect::Repeatable, doing)
}

fn unknown_step(step: &str) -> ProviderError {
    rejected(
        Reason::InternalError,
        format!("step {step}"),
        "Sprites has no such step",
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
