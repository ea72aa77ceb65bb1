//! The join requests of a new conversation, processed from outside where the agent's own watcher misses them
//! (`provider.sprites.pollJoinRequests`): for a while after the claim, until one was processed.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio_util::task::TaskTracker;

use super::Providers;
use super::prepare::key_of;
use crate::api::AgentInstance;
use crate::clock::Clock;
use crate::domain::instance::status::facts_of;
use crate::provider::Conversation;

/// How often, and for how long, as the first generation did it.
const EVERY: Duration = Duration::from_secs(5);
const FOR: Duration = Duration::from_secs(300);

/// What polling works with.
pub(super) struct Joins {
    pub(super) providers: Arc<dyn Providers>,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    pub(super) instance: AgentInstance,
    pub(super) conversation: Conversation,
}

impl Joins {
    /// Polls until a request was processed, the time is over or the process stops. Best effort: nobody takes it over.
    pub(super) fn start(self) {
        let tasks = self.tasks.clone();
        tasks.spawn(async move { self.poll().await });
    }

    async fn poll(&self) {
        let began = self.clock.monotonic();
        let name = self.instance.name_any();
        while self.clock.monotonic().saturating_sub(began) < FOR && !self.tasks.is_closed() {
            match self.process().await {
                Ok(0) => {}
                Ok(processed) => {
                    tracing::info!(instance = %name, processed, "join requests processed");
                    return;
                }
                Err(error) => {
                    tracing::debug!(instance = %name, error, "join requests not processed; again")
                }
            }
            self.clock.sleep(EVERY).await;
        }
    }

    async fn process(&self) -> Result<u64, String> {
        let provider = self.providers.of(&self.instance).await;
        let provider = provider.map_err(|t| t.message)?;
        let facts = facts_of(self.instance.status.as_ref());
        let done = provider
            .process_joins(&key_of(&self.instance), &facts, &self.conversation)
            .await;
        done.map_err(|e| e.to_string())
    }
}
