//! Kill, destroy and dismiss: an instance's end by its id. The finalizer does the work at the provider.

use kube::ResourceExt;
use tracing::info;

use super::drain::exactly;
use super::{OperationError, Operations, belongs_to, is_status, name, namespace};
use crate::api::{AgentInstance, AgentPool, names};
use crate::domain::instance::phase::{Phase, is_protected, phase_of};

/// How often an instance that keeps changing is read again.
const MAX_TRIES: u32 = 10;

/// What became of a request to remove an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The deletion was accepted; the object stays in Terminating until everything paid is gone.
    Destroyed,
    /// There is no such instance, or its deletion was asked for before.
    AlreadyGone,
}

impl Operations {
    /// Destroys the instance in whatever phase it is, protected ones excepted.
    ///
    /// Looked up by id with a direct read, so that one just created is found. Instances of the pool's namespace whose
    /// own pool no longer exists are found through any pool there: somebody must be able to end them.
    pub async fn destroy(&self, pool: &AgentPool, id: &str) -> Result<Removal, OperationError> {
        self.remove(pool, id, |_| true).await
    }

    /// Gives the agent back as its pool's `onRelease` says. No provider of this version recycles, so that it is destroyed,
    /// which is also what recycling falls back to.
    pub async fn release(&self, pool: &AgentPool, id: &str) -> Result<Removal, OperationError> {
        self.destroy(pool, id).await
    }

    /// Destroys what is left of a crashed agent; any other phase, and an unknown id, is [`OperationError::NotCrashed`].
    pub async fn dismiss_crashed(&self, pool: &AgentPool, id: &str) -> Result<(), OperationError> {
        let crashed = |instance: &AgentInstance| phase_of(instance) == Phase::Crashed;
        match self.remove(pool, id, crashed).await? {
            Removal::Destroyed => Ok(()),
            Removal::AlreadyGone => Err(OperationError::NotCrashed(id.to_owned())),
        }
    }

    async fn remove(
        &self,
        pool: &AgentPool,
        id: &str,
        may: impl Fn(&AgentInstance) -> bool,
    ) -> Result<Removal, OperationError> {
        let api = self.instance_api(pool);
        for _ in 0..MAX_TRIES {
            let Some(instance) = self.find(pool, id).await? else { return Ok(Removal::AlreadyGone) };
            if is_protected(&instance) {
                return Err(OperationError::Protected(id.to_owned()));
            }
            if instance.metadata.deletion_timestamp.is_some() {
                return Ok(Removal::AlreadyGone);
            }
            if !may(&instance) {
                return Err(OperationError::NotCrashed(id.to_owned()));
            }
            match api.delete(&instance.name_any(), &exactly(&instance)).await {
                Ok(_) => {
                    info!(namespace = namespace(pool), pool = name(pool), instance = id, phase = %phase_of(&instance), "destroyed by request");
                    return Ok(Removal::Destroyed);
                }
                Err(error) if is_status(&error, 404) => return Ok(Removal::AlreadyGone),
                Err(error) if is_status(&error, 409) => {}
                Err(error) => return Err(OperationError::cluster(format!("delete instance {id}"), error)),
            }
        }
        Err(OperationError::Contended(format!("instance {id}")))
    }

    /// The instance with that id, read from the API server.
    async fn find(&self, pool: &AgentPool, id: &str) -> Result<Option<AgentInstance>, OperationError> {
        if id.is_empty() {
            return Ok(None);
        }
        let object = names::object_name(id);
        let found = self
            .instance_api(pool)
            .get_opt(&object)
            .await
            .map_err(|error| OperationError::cluster(format!("read instance {id}"), error))?;
        Ok(found.filter(|i| i.spec.id == id && self.reaches(pool, i)))
    }

    /// Whether the instance is addressed through that pool.
    fn reaches(&self, pool: &AgentPool, instance: &AgentInstance) -> bool {
        belongs_to(instance, pool) || !self.pool_exists(namespace(pool), &instance.spec.pool_ref.name)
    }
}
