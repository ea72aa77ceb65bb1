//! A claim over HTTP that is an object: created, or met.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;

use super::record::{self, Ending};
use super::{Inner, cluster, deadline_of};
use crate::api::agent_claim::{AgentClaim, AgentClaimSpec};
use crate::api::agent_pool::{AgentPool, DedupeJoinUrl};
use crate::api::names;
use crate::claim::{ClaimAnswer, ClaimError, ClaimRequest, Terms};
use crate::domain::agent_claim::{self as judgement, STILL_MARGIN};
use crate::domain::token::Arbiter;
use crate::k8s::agent_claim as objects;

/// How often a claim that somebody else serves is read, where the watch does not tell of it before.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The names of an arbiter: now, and before the last rotation of the root key.
pub(super) type Names = (String, Option<String>);

/// What one try to open a claim came to.
enum Opened {
    Answer(Box<Result<ClaimAnswer, ClaimError>>),
    /// Somebody else's object was there and is gone: it is tried anew.
    Again,
}

impl Opened {
    fn with(answer: Result<ClaimAnswer, ClaimError>) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// What a caller asks for, on which terms.
struct Asked {
    request: ClaimRequest,
    terms: Terms,
    key: Option<Names>,
    link: Option<Names>,
}

impl Inner {
    /// Serves a claim with a key, a deduplicated link or a wish to wait.
    pub(super) async fn serve(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
        terms: Terms,
    ) -> Result<ClaimAnswer, ClaimError> {
        let Some(keys) = self.parts.root_keys.get() else {
            return Err(ClaimError::Cluster("the root key is not read yet".into()));
        };
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let of = |arbiter, value: &str| keys.claim_names(arbiter, (&namespace, &name), value);
        let joins = pool.spec.claim.dedupe_join_url != DedupeJoinUrl::Off;
        let link = request.join_url.as_deref().filter(|_| joins);
        let asked = Asked {
            key: terms.key.as_deref().map(|key| of(Arbiter::Key, key)),
            link: link.map(|url| of(Arbiter::JoinUrl, url)),
            request,
            terms,
        };
        let limit = asked.terms.wait + deadline_of(Some(pool)) + STILL_MARGIN;
        let end = self.parts.clock.monotonic() + 2 * limit;
        while self.parts.clock.monotonic() < end {
            match self.open(pool, &asked).await? {
                Opened::Answer(answer) => return *answer,
                Opened::Again => {}
            }
        }
        Err(ClaimError::StillRunning)
    }

    async fn open(&self, pool: &AgentPool, asked: &Asked) -> Result<Opened, ClaimError> {
        let namespace = pool.namespace().unwrap_or_default();
        let api = self.claims_in(&namespace);
        let random = || format!("w-{}", names::id_from_bytes(&self.parts.rng.bytes()));
        let (name, previous) = match asked.key.as_ref().or(asked.link.as_ref()) {
            Some((name, previous)) => (name.clone(), previous.as_ref()),
            None => (random(), None),
        };
        let mut met = None;
        if let Some(previous) = previous {
            met = objects::read(&api, previous)
                .await
                .map_err(|e| cluster(&e))?;
        }
        if met.is_none() {
            let spec = record::spec_of(
                &pool.name_any(),
                &asked.request,
                asked.terms.wait,
                &self.parts.holder,
                self.stamp(),
            );
            let new = object(&namespace, &name, spec);
            match self.create(&new).await? {
                Ok(claim) => return Ok(Opened::with(self.own(pool, claim, asked).await)),
                Err(theirs) => met = theirs,
            }
        }
        match met {
            None => Ok(Opened::Again),
            Some(theirs) if asked.key.is_some() => self.meet(pool, theirs, asked).await,
            Some(theirs) => match self.held(pool, &theirs).await? {
                Some(duplicate) => Ok(Opened::with(Err(duplicate))),
                None => {
                    self.forget(&theirs).await;
                    Ok(Opened::Again)
                }
            },
        }
    }

    /// Creates an object; Err: what is there under its name, if it still is.
    pub(super) async fn create(
        &self,
        new: &AgentClaim,
    ) -> Result<Result<AgentClaim, Option<AgentClaim>>, ClaimError> {
        let api = self.claims_in(&new.namespace().unwrap_or_default());
        if let Some(made) = objects::create(&api, new).await.map_err(|e| cluster(&e))? {
            return Ok(Ok(made));
        }
        let there = objects::read(&api, &new.name_any())
            .await
            .map_err(|e| cluster(&e))?;
        Ok(match there {
            // The client repeats a 504 by itself: our own success can come back as "exists". No two of a process have
            // the same place in the queue.
            Some(there)
                if new.spec.driver.is_some()
                    && there.spec.driver == new.spec.driver
                    && there.spec.enqueued_at == new.spec.enqueued_at =>
            {
                Ok(there)
            }
            other => Err(other),
        })
    }

    /// The object is ours: the link first, then the claim, then the record, then the answer.
    async fn own(
        &self,
        pool: &AgentPool,
        claim: AgentClaim,
        asked: &Asked,
    ) -> Result<ClaimAnswer, ClaimError> {
        let keyed = asked.key.is_some();
        let link = asked.link.as_ref().filter(|_| keyed);
        let held = match link {
            Some(names) => self.hold(pool, names, &claim).await.map(Some),
            None => Ok(None),
        };
        let (outcome, held) = match held {
            Ok(held) => (self.run(pool, &claim, asked).await, held),
            Err(error) => (Err(error), None),
        };
        let answer = match record::ending(&outcome, keyed, asked.link.is_some()) {
            Ending::Keep => self.record(pool, claim, outcome).await,
            Ending::Forget => {
                self.forget(&claim).await;
                outcome
            }
            Ending::Open => outcome,
        };
        // The link is free again where nothing came of it; where that is not known, it is found out by who meets it.
        if let (Some(held), Err(error)) = (held, &answer)
            && !matches!(error, ClaimError::Cluster(_))
        {
            self.forget(&held).await;
        }
        answer
    }

    async fn run(
        &self,
        pool: &AgentPool,
        claim: &AgentClaim,
        asked: &Asked,
    ) -> Result<ClaimAnswer, ClaimError> {
        let mut request = asked.request.clone();
        request.reference = Some(claim.name_any());
        if asked.terms.wait.is_zero() {
            return self.parts.claims.claim(pool, request).await;
        }
        let end = self.parts.clock.monotonic() + asked.terms.wait;
        let mut waiter = self.waiter(claim, Some(end), asked.terms.gone.clone());
        while self.my_turn(&mut waiter).await {
            // As the pool is now: it may have been paused or changed meanwhile.
            let pool = self
                .pool_of(claim)
                .unwrap_or_else(|| Arc::new(pool.clone()));
            match self.parts.claims.claim(&pool, request.clone()).await {
                Err(ClaimError::NoIdle) => {}
                other => return other,
            }
        }
        Err(self.waited_out(&waiter))
    }

    /// Nothing was done for it, so nothing is kept. If somebody took it over, it is theirs.
    pub(super) async fn forget(&self, claim: &AgentClaim) {
        let api = self.claims_in(&claim.namespace().unwrap_or_default());
        let meta = &claim.metadata;
        let version = (meta.uid.clone(), meta.resource_version.clone());
        if let Err(error) = objects::delete_as_read(&api, &claim.name_any(), version).await {
            tracing::debug!(claim = %claim.name_any(), %error, "not forgotten; it is found later");
        }
    }

    /// The key was used before: the same answer for the same request, now or when it is there.
    async fn meet(
        &self,
        pool: &AgentPool,
        theirs: AgentClaim,
        asked: &Asked,
    ) -> Result<Opened, ClaimError> {
        if theirs.spec.request_hash != Some(record::request_hash(&asked.request)) {
            return Ok(Opened::with(Err(ClaimError::KeyReused)));
        }
        // Both its own patience and this caller's: whoever drives it may have died, and be followed.
        let patience = judgement::patience(&theirs).unwrap_or_default();
        let limit = patience.max(asked.terms.wait) + deadline_of(Some(pool)) + STILL_MARGIN;
        let end = self.parts.clock.monotonic() + 2 * limit;
        let Some(finished) = self.finished(theirs, end).await? else {
            return Ok(Opened::Again);
        };
        if !judgement::is_done(&finished) {
            return Ok(Opened::with(Err(ClaimError::StillRunning)));
        }
        Ok(Opened::with(self.recorded(pool, &finished).await?))
    }

    /// Waits until a claim of somebody else is finished, at most until `end`; `None`: it is gone.
    pub(super) async fn finished(
        &self,
        mut claim: AgentClaim,
        end: Duration,
    ) -> Result<Option<AgentClaim>, ClaimError> {
        let api = self.claims_in(&claim.namespace().unwrap_or_default());
        let name = claim.name_any();
        let mut changes = self.parts.queue.hear_claims();
        while !judgement::is_done(&claim) && self.parts.clock.monotonic() < end {
            let again = self.parts.clock.monotonic() + LOOK_EVERY;
            while self.is_cached(&claim) && self.parts.clock.monotonic() < again {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = self.parts.clock.sleep(LOOK_EVERY) => {}
                }
            }
            if !self.is_cached(&claim) {
                // Not in the cache yet, or not any more: the next change tells, or the direct read.
                let soon = Duration::from_millis(50);
                tokio::select! {
                    _ = changes.changed() => {}
                    () = self.parts.clock.sleep(soon) => {}
                }
            }
            match objects::read(&api, &name).await.map_err(|e| cluster(&e))? {
                Some(now) if now.metadata.uid == claim.metadata.uid => claim = now,
                _ => return Ok(None),
            }
        }
        Ok(Some(claim))
    }

    /// Whether the cache shows exactly this version.
    fn is_cached(&self, claim: &AgentClaim) -> bool {
        let cached = self.parts.unfinished.get(&ObjectRef::from_obj(claim));
        cached.is_some_and(|c| c.metadata.resource_version == claim.metadata.resource_version)
    }
}

/// An AgentClaim of ours.
pub(super) fn object(namespace: &str, name: &str, spec: AgentClaimSpec) -> AgentClaim {
    AgentClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}
