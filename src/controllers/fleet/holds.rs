//! What one object's call met and all of its scope have to heed: a used-up rate limit, a full plan, a refused credential.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Fleet, Scope, scope_of_instance};
use crate::api::AgentInstance;
use crate::api::condition::Reason;
use crate::claim::Providers;
use crate::clock::Monotonic;
use crate::domain::backoff::{self, Call};
use crate::domain::plan::{Class, Trouble};
use crate::provider::AgentProvider;

/// What one object's call came to and all of its scope have to heed.
pub(super) struct Hold {
    trouble: Trouble,
    until: Monotonic,
    /// How often it came, without a creation that worked in between.
    times: u32,
}

/// How often a refused credential is compared with its Secret: the remedy is a person's, and a person waits.
pub(super) const SECRET_LOOK: Duration = Duration::from_secs(15);
/// The same of one that the API server did not give.
pub(super) const UNREAD_LOOK: Duration = Duration::from_secs(1);

impl Fleet {
    pub(super) fn holds(&self) -> MutexGuard<'_, HashMap<Scope, Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object's call met a trouble that is everybody's: calls of the scope wait. `used` is what it was sent with: a
    /// refusal of a credential that was replaced meanwhile says nothing.
    pub fn report(&self, scope: &Scope, used: &Arc<dyn AgentProvider>, trouble: &Trouble) {
        if !backoff::is_shared(trouble) {
            return;
        }
        let present = self.cell(scope).known().provider();
        if !present.is_some_and(|p| Arc::ptr_eq(&p, used)) {
            return;
        }
        let now = self.clock.monotonic();
        let mut holds = self.holds();
        let before = holds
            .get(scope)
            .filter(|h| h.trouble.class == trouble.class);
        // Of those that were on their way at the same time one counts.
        let times = before.map_or(0, |h| h.times + u32::from(h.until <= now));
        let until = (now + backoff::after(trouble, times)).max(before.map_or(now, |h| h.until));
        let trouble = trouble.clone();
        let hold = Hold {
            trouble,
            until,
            times,
        };
        holds.insert(scope.clone(), hold);
    }

    /// A creation worked: what held them back is over.
    pub fn worked(&self, scope: &Scope) {
        self.holds().remove(scope);
    }

    /// What holds back such calls of the scope now, with what is left of its time.
    pub fn held(&self, scope: &Scope, call: Call) -> Option<Trouble> {
        let now = self.clock.monotonic();
        let holds = self.holds();
        let hold = holds
            .get(scope)
            .filter(|h| now < h.until && backoff::holds_back(h.trouble.class, call))?;
        Some(Trouble {
            retry_after: Some(hold.until - now),
            ..hold.trouble.clone()
        })
    }

    /// Whether such a call may be sent now. A refused credential is compared with its Secret first.
    pub async fn admit(&self, scope: &Scope, call: Call) -> Result<(), Trouble> {
        let Some(mut trouble) = self.held(scope, call) else {
            return Ok(());
        };
        if trouble.class == Class::Unauthorized {
            self.connection(scope, &self.cell(scope), true).await?;
            // Whoever asks was given the old credential: it comes again at once where there is a new one.
            let changed = self.held(scope, call).is_none();
            let soon = if changed { Duration::ZERO } else { SECRET_LOOK };
            trouble.retry_after = trouble.retry_after.map(|left| left.min(soon));
        }
        Err(trouble)
    }

    /// A person changed something: what was refused is asked again.
    pub fn ask_again(&self, scope: &Scope) {
        let lasting = |t: &Trouble| matches!(t.class, Class::Rejected | Class::Unauthorized);
        let cell = self.cell(scope);
        cell.known().trouble.take_if(|(t, _)| lasting(t));
        cell.known().unconnected = None;
        self.holds()
            .retain(|s, h| s != scope || !lasting(&h.trouble));
    }
}

/// For claims, which prepare an agent inside its machine: with what the scope's other calls met.
#[async_trait::async_trait]
impl Providers for Fleet {
    async fn of(&self, instance: &AgentInstance) -> Result<Arc<dyn AgentProvider>, Trouble> {
        let scope = scope_of(instance)?;
        self.admit(&scope, Call::Create).await?;
        self.provider(&scope).await
    }

    async fn failed(
        &self,
        instance: &AgentInstance,
        used: &Arc<dyn AgentProvider>,
        trouble: &Trouble,
    ) {
        if let Ok(scope) = scope_of(instance) {
            self.report(&scope, used, trouble);
        }
    }
}

fn scope_of(instance: &AgentInstance) -> Result<Scope, Trouble> {
    let namespace = instance.metadata.namespace.clone().unwrap_or_default();
    let provider = instance.spec.provider.as_ref();
    let scope = provider.and_then(|p| scope_of_instance(&namespace, p));
    scope.ok_or_else(|| Trouble {
        class: Class::Rejected,
        reason: Reason::InvalidSpec,
        message: "spec.provider is missing: nobody knows where the agent is".to_owned(),
        retry_after: None,
    })
}
