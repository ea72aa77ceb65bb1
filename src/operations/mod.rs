//! What HTTP and commands ask for besides claims: drain, kill, replenish and the requests to the controller.
//!
//! May use `api`, `domain` and `k8s`. Nothing here creates an instance: that is the pool controller's, which is asked
//! by an entry on the pool. Deleting is done here, always with the resourceVersion and uid that were judged.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::api::{AgentInstance, AgentPool};
use crate::clock::{Clock, Rng};

mod callbacks;
pub mod count;
pub mod counts;
pub mod drain;
pub mod release;
pub mod requests;

pub use counts::Counts;
pub use drain::{DrainReport, DrainScope};
pub use release::Removal;
pub use requests::{Cycled, Reconciled, Replenished};

/// How long an answer waits for the watch to show what was just done; the answer goes out then in any case.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How often a store is looked at while waiting for it. In memory, so cheap.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The instance carries the label that keeps it.
    #[error("Instance {0} is protected and cannot be killed")]
    Protected(String),
    /// There is no crashed instance of that id.
    #[error("Crashed instance {0} not found")]
    NotCrashed(String),
    /// The controller has not answered in time; the work goes on.
    #[error("still running")]
    StillRunning,
    /// The pool has as many unanswered requests as it may have.
    #[error("too many requests wait for the controller of pool {0}: try again later")]
    TooManyRequests(String),
    /// The controller answered that it failed.
    #[error("{0}")]
    Failed(String),
    /// Somebody else kept changing the object.
    #[error("{0} kept changing: try again")]
    Contended(String),
    /// The API server refused or did not answer.
    #[error("{doing}")]
    Cluster {
        /// What we were doing.
        doing: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
}

impl OperationError {
    fn cluster(doing: impl Into<String>, source: kube::Error) -> Self {
        Self::Cluster {
            doing: doing.into(),
            source: Box::new(source),
        }
    }
}

/// The operations over the pools of a process. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    client: Client,
    pools: Store<AgentPool>,
    instances: Store<AgentInstance>,
    clock: Clock,
    rng: Rng,
    tasks: TaskTracker,
    hints: Arc<Semaphore>,
}

impl Operations {
    /// Operations that read the given watch caches and write with the given client. What must end although its caller
    /// went away runs in `tasks`.
    pub fn new(
        client: Client,
        pools: Store<AgentPool>,
        instances: Store<AgentInstance>,
        clock: Clock,
        rng: Rng,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            client,
            pools,
            instances,
            clock,
            rng,
            tasks,
            hints: Arc::new(Semaphore::new(requests::HINTS_AT_A_TIME)),
        }
    }

    /// The pool's members by phase, from the watch cache.
    pub fn counts(&self, pool: &AgentPool) -> Counts {
        Counts::of(
            members(&self.instances, pool)
                .iter()
                .map(std::sync::Arc::as_ref),
        )
    }

    fn instance_api(&self, pool: &AgentPool) -> Api<AgentInstance> {
        Api::namespaced(self.client.clone(), namespace(pool))
    }

    fn pool_exists(&self, namespace: &str, name: &str) -> bool {
        self.pools
            .get(&ObjectRef::new(name).within(namespace))
            .is_some()
    }

    /// Waits until `seen` holds of the caches, or [`CATCH_UP`] has passed.
    async fn catch_up(&self, seen: impl Fn(&Store<AgentInstance>) -> bool) {
        let end = self.clock.monotonic() + CATCH_UP;
        while !seen(&self.instances) && self.clock.monotonic() < end {
            self.clock.sleep(LOOK_EVERY).await;
        }
    }
}

/// The instances of a pool in a cache, in no order.
pub fn members(
    instances: &Store<AgentInstance>,
    pool: &AgentPool,
) -> Vec<std::sync::Arc<AgentInstance>> {
    instances.state_filter(|i| belongs_to(i, pool))
}

/// Whether the instance names that pool, in the same namespace.
pub fn belongs_to(instance: &AgentInstance, pool: &AgentPool) -> bool {
    instance.metadata.namespace == pool.metadata.namespace
        && Some(instance.spec.pool_ref.name.as_str()) == pool.metadata.name.as_deref()
}

fn namespace(pool: &AgentPool) -> &str {
    pool.metadata.namespace.as_deref().unwrap_or("default")
}

fn name(pool: &AgentPool) -> &str {
    pool.metadata.name.as_deref().unwrap_or_default()
}

fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
