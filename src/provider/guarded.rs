//! A decorator for any provider: a limit in time for each call as a whole, a span, one debug line, one measurement.
//!
//! It neither repeats nor waits. A write that runs into the limit has an unknown outcome, like one that was dropped.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument;

use crate::api::condition::Reason;
use crate::clock::Clock;
use crate::domain::template::Template;

use super::account::{self, Purpose};
use super::{
    AgentProvider, Caps, Class, Conversation, Deed, Facts, Hook, HookSettings, Inputs, Key,
    Listing, Operation, Outcome, Owner, Presence, ProviderError, Report, Resource, Seen, StepSpec,
};

/// Told of every call to a provider.
pub trait CallObserver: Send + Sync {
    /// A call is over. `operation` is the method of the trait, `outcome` is `ok` or the error's class.
    fn observed(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        seconds: f64,
    );

    /// So many requests were sent for that purpose, whatever came of them. Default: nobody counts.
    fn requested(&self, _provider: &'static str, _purpose: Purpose, _requests: u32) {}
}

/// For where nobody measures.
impl CallObserver for () {
    fn observed(
        &self,
        _provider: &'static str,
        _operation: &'static str,
        _outcome: &'static str,
        _seconds: f64,
    ) {
    }
}

/// How long the calls may take as a whole. A provider has limits of its own for each request; these are for what it
/// makes of several.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `resolve`, `look`, `observe`, `owner`, `hooks`, `hold`, `verify_clean`: a few reads, each tried three times.
    pub read: Duration,
    /// `list`: many pages.
    pub list: Duration,
    /// `perform`, `prepare_claim`, `after_claim`, `set_hook`: one write.
    pub write: Duration,
    /// `destroy`: a write between reads.
    pub destroy: Duration,
    /// `diagnose`.
    pub diagnose: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            read: s(60),
            list: s(120),
            write: s(90),
            destroy: s(120),
            diagnose: s(15),
        }
    }
}

/// A provider with its calls bounded and observed.
pub struct Guarded<P> {
    inner: P,
    provider: &'static str,
    limits: Limits,
    clock: Clock,
    observer: Arc<dyn CallObserver>,
}

impl<P: AgentProvider> Guarded<P> {
    /// `provider` is the metrics' label: `railway`.
    pub fn new(
        inner: P,
        provider: &'static str,
        clock: Clock,
        observer: Arc<dyn CallObserver>,
    ) -> Self {
        Self {
            inner,
            provider,
            limits: Limits::default(),
            clock,
            observer,
        }
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What is inside.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    async fn guard<T>(
        &self,
        operation: &'static str,
        subject: &str,
        (limit, late): (Duration, Class),
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let span = tracing::debug_span!("provider", provider = self.provider, operation, subject);
        let started = self.clock.monotonic();
        let call = tokio::time::timeout(limit, call.instrument(span.clone()));
        let (answer, requests) = account::counted(call).await;
        let result = match answer {
            Ok(result) => result,
            Err(_) => Err(too_late(operation, subject, limit, late)),
        };
        let took = self.clock.monotonic().saturating_sub(started);
        let outcome = result.as_ref().map_or_else(|e| e.class.as_str(), |_| "ok");
        self.observer
            .observed(self.provider, operation, outcome, took.as_secs_f64());
        self.observer
            .requested(self.provider, account::purpose(), requests);
        span.in_scope(|| {
            let error = result.as_ref().err().map(tracing::field::display);
            tracing::debug!(
                outcome,
                seconds = took.as_secs_f64(),
                error,
                "provider call"
            );
        });
        result
    }
}

fn too_late(operation: &str, subject: &str, limit: Duration, class: Class) -> ProviderError {
    let reason = if class == Class::Ambiguous {
        Reason::OutcomeUnknown
    } else {
        Reason::ProviderUnavailable
    };
    let doing = format!("{operation} {subject}").trim_end().to_owned();
    let message = format!("not done within {} s", limit.as_secs());
    ProviderError {
        class,
        reason,
        doing,
        message,
        retry_after: None,
    }
}

#[async_trait]
impl<P: AgentProvider> AgentProvider for Guarded<P> {
    fn capabilities(&self) -> Caps {
        self.inner.capabilities()
    }

    fn plan(&self, operation: Operation, template: &Template) -> Vec<StepSpec> {
        self.inner.plan(operation, template)
    }

    async fn resolve(&self) -> Result<Facts, ProviderError> {
        self.guard(
            "resolve",
            "",
            (self.limits.read, Class::Transient),
            self.inner.resolve(),
        )
        .await
    }

    fn progress(&self, step: &'static str, known: &Facts, resource: &Resource) -> Seen {
        self.inner.progress(step, known, resource)
    }

    async fn look(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
    ) -> Result<Seen, ProviderError> {
        let call = self.inner.look(key, known, step);
        self.guard(
            "look",
            &key.name,
            (self.limits.read, Class::Transient),
            call,
        )
        .await
    }

    async fn perform(
        &self,
        key: &Key,
        known: &Facts,
        step: &'static str,
        template: &Template,
        inputs: &Inputs,
    ) -> Result<Outcome, ProviderError> {
        let call = self.inner.perform(key, known, step, template, inputs);
        self.guard(
            "perform",
            &key.name,
            (self.limits.write, Class::Ambiguous),
            call,
        )
        .await
    }

    async fn list(&self) -> Result<Listing, ProviderError> {
        self.guard(
            "list",
            "",
            (self.limits.list, Class::Transient),
            self.inner.list(),
        )
        .await
    }

    fn listing_interval(&self) -> Duration {
        self.inner.listing_interval()
    }

    fn room_for(&self, purpose: Purpose) -> Result<(), Duration> {
        self.inner.room_for(purpose)
    }

    async fn hooks(&self) -> Result<Vec<Hook>, ProviderError> {
        let call = self.inner.hooks();
        let limit = (self.limits.read, Class::Transient);
        self.guard("hooks", "", limit, call).await
    }

    async fn set_hook(&self, deed: &Deed, settings: &HookSettings) -> Result<(), ProviderError> {
        let call = self.inner.set_hook(deed, settings);
        let limit = (self.limits.write, Class::Ambiguous);
        self.guard("set_hook", "", limit, call).await
    }

    async fn observe(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError> {
        let call = self.inner.observe(key, known);
        self.guard(
            "observe",
            &key.name,
            (self.limits.read, Class::Transient),
            call,
        )
        .await
    }

    async fn owner(&self, resource: &Resource) -> Result<Owner, ProviderError> {
        let call = self.inner.owner(resource);
        self.guard(
            "owner",
            &resource.name,
            (self.limits.read, Class::Transient),
            call,
        )
        .await
    }

    async fn take_over(&self, key: &Key, resource: &Resource) -> Result<Owner, ProviderError> {
        let call = self.inner.take_over(key, resource);
        // Repeating it does no harm.
        let limit = (self.limits.write, Class::Transient);
        self.guard("take_over", &key.name, limit, call).await
    }

    async fn destroy(&self, key: &Key, known: &Facts) -> Result<Presence, ProviderError> {
        let call = self.inner.destroy(key, known);
        self.guard(
            "destroy",
            &key.name,
            (self.limits.destroy, Class::Ambiguous),
            call,
        )
        .await
    }

    async fn hold(&self, key: &Key, known: &Facts, until: Duration) -> Result<(), ProviderError> {
        let call = self.inner.hold(key, known, until);
        // Repeating it does no harm.
        let limit = (self.limits.read, Class::Transient);
        self.guard("hold", &key.name, limit, call).await
    }

    async fn verify_clean(
        &self,
        key: &Key,
        known: &Facts,
    ) -> Result<Option<String>, ProviderError> {
        let call = self.inner.verify_clean(key, known);
        let limit = (self.limits.read, Class::Transient);
        self.guard("verify_clean", &key.name, limit, call).await
    }

    async fn restart(&self, key: &Key, known: &Facts) -> Result<(), ProviderError> {
        let call = self.inner.restart(key, known);
        let limit = (self.limits.write, Class::Ambiguous);
        self.guard("restart", &key.name, limit, call).await
    }

    async fn prepare_claim(
        &self,
        key: &Key,
        known: &Facts,
        instructions: &str,
    ) -> Result<(), ProviderError> {
        let call = self.inner.prepare_claim(key, known, instructions);
        self.guard(
            "prepare_claim",
            &key.name,
            (self.limits.write, Class::Ambiguous),
            call,
        )
        .await
    }

    async fn process_joins(
        &self,
        key: &Key,
        known: &Facts,
        conversation: &Conversation,
    ) -> Result<u64, ProviderError> {
        let call = self.inner.process_joins(key, known, conversation);
        let limit = (self.limits.read, Class::Transient);
        self.guard("process_joins", &key.name, limit, call).await
    }

    async fn undo_prepare(&self, key: &Key, known: &Facts) -> Result<(), ProviderError> {
        let call = self.inner.undo_prepare(key, known);
        let limit = (self.limits.write, Class::Transient);
        self.guard("undo_prepare", &key.name, limit, call).await
    }

    async fn after_claim(
        &self,
        key: &Key,
        known: &Facts,
        new_name: &str,
    ) -> Result<(), ProviderError> {
        let call = self.inner.after_claim(key, known, new_name);
        self.guard(
            "after_claim",
            &key.name,
            (self.limits.write, Class::Ambiguous),
            call,
        )
        .await
    }

    async fn diagnose(&self, key: &Key, known: &Facts) -> Report {
        let call = async { Ok(self.inner.diagnose(key, known).await) };
        match self
            .guard(
                "diagnose",
                &key.name,
                (self.limits.diagnose, Class::Transient),
                call,
            )
            .await
        {
            Ok(report) => report,
            Err(error) => Report::from([("error".to_owned(), error.to_string().into())]),
        }
    }
}
