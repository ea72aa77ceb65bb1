//! Claims that outlive a process: with an Idempotency-Key, with a join link that nobody joins twice, with a caller who
//! waits, or made with kubectl. Each is an AgentClaim.
//!
//! Creating the object arbitrates between replicas and callers; the claim itself is the same as any other and names the
//! object in `spec.claim.ref`; the answer is in the object's status before anybody is told. If the process dies in
//! between, any other takes the object over when its driver has stood still, and first looks which agents name it.
//!
//! | name | what it is | ends |
//! | --- | --- | --- |
//! | `k-…` | a key: HMAC of pool and key | a day after its answer; at once where nothing was done |
//! | `j-…` | a join link: HMAC of pool and link; with a key it only holds the link (`spec.for`) | with its agent |
//! | `w-…` | a caller who waits | with its answer |
//! | any other | a manifest | when it is deleted, and its agent with it |

pub mod keeper;
mod link;
mod manifest;
pub mod queue;
pub mod record;
mod request;
mod settle;
mod turn;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::stock::Stock;
use super::{ClaimAnswer, ClaimError, ClaimRequest, Claims, DurableClaims, Terms};
use crate::api::agent_claim::AgentClaim;
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::{AgentPool, DedupeJoinUrl, RuntimeAuth};
use crate::clock::{Clock, Rng};
use crate::domain::token::Purpose;
use crate::k8s::error::K8sError;
use crate::k8s::secret::{self, RootKeys};
use queue::Queue;

/// How long a claim waits for a process that has just started to read its root key.
const ROOTED_WITHIN: Duration = Duration::from_secs(10);

/// What durable claims are made of.
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// Serves the claim itself.
    pub claims: Arc<dyn Claims>,
    /// The pools, as the watch knows them.
    pub pools: Store<AgentPool>,
    /// The instances, as the watch knows them.
    pub instances: Store<AgentInstance>,
    /// The unfinished AgentClaims, as the watch knows them.
    pub unfinished: Store<AgentClaim>,
    /// Who waits, kept by the same watch.
    pub queue: Arc<Queue>,
    /// What is claimable, kept by the watch of the instances.
    pub stock: Arc<Stock>,
    /// The release's root keys.
    pub root_keys: RootKeys,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// This process: replica name and a random part per process start.
    pub holder: String,
    /// Waited for at shutdown.
    pub tasks: TaskTracker,
}

/// Durable claims of this replica. Cheap to clone.
#[derive(Clone)]
pub struct Durable {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    /// The latest place in a queue that this process gave: no two are alike.
    stamped: Mutex<jiff::Timestamp>,
    keeper: keeper::Memory,
}

impl Durable {
    /// Durable claims out of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                stamped: Mutex::default(),
                keeper: keeper::Memory::default(),
            }),
        }
    }
}

#[async_trait]
impl DurableClaims for Durable {
    async fn claim(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
        terms: Terms,
    ) -> Result<ClaimAnswer, ClaimError> {
        self.inner.rooted().await?;
        let joins =
            request.join_url.is_some() && pool.spec.claim.dedupe_join_url != DedupeJoinUrl::Off;
        if terms.key.is_none() && terms.wait.is_zero() && !joins {
            return self.inner.parts.claims.claim(pool, request).await;
        }
        self.inner.serve(pool, request, terms).await
    }
}

impl Inner {
    /// Tokens and names come from the root key: a process that has just started waits until it has read it.
    async fn rooted(&self) -> Result<(), ClaimError> {
        tokio::select! {
            _ = self.parts.root_keys.read() => Ok(()),
            () = self.parts.clock.sleep(ROOTED_WITHIN) => {
                Err(ClaimError::Cluster("the root key is not read yet".into()))
            }
        }
    }

    fn claims_in(&self, namespace: &str) -> Api<AgentClaim> {
        Api::namespaced(self.parts.client.clone(), namespace)
    }

    fn instances_in(&self, namespace: &str) -> Api<AgentInstance> {
        Api::namespaced(self.parts.client.clone(), namespace)
    }

    /// The pool that a claim names, as the watch knows it.
    fn pool_of(&self, claim: &AgentClaim) -> Option<Arc<AgentPool>> {
        let namespace = claim.namespace().unwrap_or_default();
        let name = &claim.spec.pool_ref.name;
        self.parts
            .pools
            .get(&ObjectRef::new(name).within(&namespace))
    }

    /// A time to stand in a queue with, to the microsecond: later than any that this process gave before.
    fn stamp(&self) -> jiff::Timestamp {
        let mut last = self.stamped.lock().unwrap_or_else(PoisonError::into_inner);
        let micro = jiff::SignedDuration::from_micros(1);
        let now = self.parts.clock.now().as_microsecond();
        let now = jiff::Timestamp::from_microsecond(now).unwrap_or_default();
        *last = now.max(last.checked_add(micro).unwrap_or(now));
        *last
    }

    /// The token of an agent, derived anew for an answer: it is stored nowhere.
    async fn token(&self, pool: &AgentPool, instance: &AgentInstance) -> Option<SecretString> {
        match pool.spec.runtime.auth {
            RuntimeAuth::None => None,
            RuntimeAuth::Shared => {
                let reference = pool.spec.runtime.shared_key_secret_ref.as_ref()?;
                let namespace = pool.namespace().unwrap_or_default();
                secret::value(&self.parts.client, &namespace, reference)
                    .await
                    .ok()
            }
            RuntimeAuth::Instance => {
                let status = instance.status.as_ref()?;
                let (n, key) = (status.token_seq.unwrap_or(1), status.token_key.as_deref());
                let id = &instance.spec.id;
                self.parts
                    .root_keys
                    .token(Purpose::Gateway, id, n, key)
                    .await
            }
        }
    }
}

/// How long a whole claim of a pool may take.
fn deadline_of(pool: Option<&AgentPool>) -> Duration {
    let seconds = pool.map_or(150, |p| p.spec.claim.deadline_seconds);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(150))
}

fn cluster(error: &K8sError) -> ClaimError {
    ClaimError::Cluster(error.to_string())
}
