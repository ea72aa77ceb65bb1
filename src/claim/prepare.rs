//! What is done inside an agent's machine before its claim call, where its provider wants that: the instructions are
//! written into it, which wakes it, and it is waited for until it is ready. If it goes back into stock, they are taken
//! out again first: that it is clean is proven by their absence.

use std::time::Duration;

use kube::ResourceExt;

use super::joins::Joins;
use super::service::{Inner, Run};
use crate::api::AgentInstance;
use crate::domain::agent::Probe;
use crate::domain::instance::status::facts_of;
use crate::domain::plan::Trouble;
use crate::domain::settlement::Kept;
use crate::provider::{Conversation, Key};

/// How often a machine that wakes is asked whether its agent is ready.
pub(super) const WAKING_POLL: Duration = Duration::from_millis(500);

/// The key for what is done inside. Its mark stays empty: the machine is the one that is recorded, and its name is never
/// used again.
pub(super) fn key_of(instance: &AgentInstance) -> Key {
    Key {
        id: instance.spec.id.clone(),
        name: instance.spec.provider_name.clone(),
        mark: String::new(),
    }
}

/// What is done with the instructions inside.
#[derive(Clone, Copy)]
enum Deed<'a> {
    Write(&'a str),
    Remove,
}

impl Inner {
    /// Writes the instructions into the machine; why that did not work. It may have been done all the same.
    pub(super) async fn prepare(
        &self,
        run: &mut Run<'_>,
        instance: &AgentInstance,
    ) -> Result<(), String> {
        let Some(preparation) = run.preparation else {
            return Ok(());
        };
        let began = self.clock.monotonic();
        let limit = preparation.wake_within.min(self.left(run));
        let work = self.inside(instance, Deed::Write(&run.request.instructions));
        let done = tokio::time::timeout(limit, work).await;
        run.agent_took += self.clock.monotonic().saturating_sub(began);
        done.unwrap_or_else(|_| Err(format!("not awake within {} s", limit.as_secs())))
    }

    /// Takes them out again, for an agent that goes back. Best effort: what is left is found before it is in stock.
    pub(super) async fn undo_prepare(&self, run: &Run<'_>, instance: &AgentInstance) {
        let Some(preparation) = run.preparation else {
            return;
        };
        let work = self.inside(instance, Deed::Remove);
        let done = tokio::time::timeout(preparation.wake_within, work).await;
        let error = match done {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => "no answer".to_owned(),
        };
        tracing::warn!(instance = %instance.name_any(), claim = %run.id, error, "its instructions are left in it: it is not put into stock with them");
    }

    /// After a create, where the pool wants that join requests are processed from outside.
    pub(super) fn poll_joins(&self, run: &Run<'_>, instance: &AgentInstance, kept: &Kept) {
        let wanted = run.preparation.is_some_and(|p| p.poll_joins);
        let (Some(providers), Some(id)) = (&self.providers, &kept.conversation_id) else {
            return;
        };
        if !wanted || run.request.join_url.is_some() {
            return;
        }
        let joins = Joins {
            providers: providers.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            instance: instance.clone(),
            conversation: Conversation {
                id: id.clone(),
                xmtp_env: run.template.xmtp_env(),
            },
        };
        joins.start();
    }

    async fn inside(&self, instance: &AgentInstance, deed: Deed<'_>) -> Result<(), String> {
        let Some(providers) = &self.providers else {
            return Err("this process knows no providers".to_owned());
        };
        let provider = providers.of(instance).await.map_err(|t| t.message)?;
        let (key, facts) = (key_of(instance), facts_of(instance.status.as_ref()));
        let done = match deed {
            Deed::Write(text) => provider.prepare_claim(&key, &facts, text).await,
            Deed::Remove => provider.undo_prepare(&key, &facts).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => {
                let trouble = Trouble::from(error);
                providers.failed(instance, &provider, &trouble).await;
                Err(trouble.message)
            }
        }
    }
}

/// Whether an agent that answers so may still be on its way up.
pub(super) fn is_waking(answer: &Probe) -> bool {
    match answer {
        Probe::Unreachable(_) | Probe::NotReady(_) => true,
        Probe::Answered { status, .. } => !status.ready,
        Probe::Unauthorized | Probe::WrongRuntime(_) => false,
    }
}
