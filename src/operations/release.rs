//! Kill, destroy and dismiss: an instance's end by its id. The finalizer does the work at the provider.

use kube::{Api, ResourceExt};
use tracing::info;

use super::drain::exactly;
use super::{OperationError, Operations, belongs_to, is_status, namespace};
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
            let read = self.find(pool, id).await?;
            if let Some(removal) = delete_as_judged(&api, read, &may).await? {
                return Ok(removal);
            }
        }
        Err(OperationError::Contended(format!("instance {id}")))
    }

    /// Destroys an instance that is known, as long as it is the same object, whatever pool it belongs to.
    pub(super) async fn destroy_exactly(
        &self,
        known: &AgentInstance,
    ) -> Result<Removal, OperationError> {
        let api = self.api_of(known);
        for _ in 0..MAX_TRIES {
            let read = self.reread(known).await?;
            if let Some(removal) = delete_as_judged(&api, read, |_| true).await? {
                return Ok(removal);
            }
        }
        Err(OperationError::Contended(format!(
            "instance {}",
            known.spec.id
        )))
    }

    /// The instance with that id, read from the API server.
    async fn find(
        &self,
        pool: &AgentPool,
        id: &str,
    ) -> Result<Option<AgentInstance>, OperationError> {
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
        belongs_to(instance, pool)
            || !self.pool_exists(namespace(pool), &instance.spec.pool_ref.name)
    }
}

/// Deletes an instance exactly as it was read and judged; `None`: somebody wrote since.
async fn delete_as_judged(
    api: &Api<AgentInstance>,
    read: Option<AgentInstance>,
    may: impl Fn(&AgentInstance) -> bool,
) -> Result<Option<Removal>, OperationError> {
    let Some(instance) = read else {
        return Ok(Some(Removal::AlreadyGone));
    };
    let id = &instance.spec.id;
    if is_protected(&instance) {
        return Err(OperationError::Protected(id.clone()));
    }
    if instance.metadata.deletion_timestamp.is_some() {
        return Ok(Some(Removal::AlreadyGone));
    }
    if !may(&instance) {
        return Err(OperationError::NotCrashed(id.clone()));
    }
    match api.delete(&instance.name_any(), &exactly(&instance)).await {
        Ok(_) => {
            info!(namespace = instance.namespace(), pool = instance.spec.pool_ref.name, instance = id, phase = %phase_of(&instance), "destroyed by request");
            Ok(Some(Removal::Destroyed))
        }
        Err(error) if is_status(&error, 404) => Ok(Some(Removal::AlreadyGone)),
        Err(error) if is_status(&error, 409) => Ok(None),
        Err(error) => Err(OperationError::cluster(
            format!("delete instance {id}"),
            error,
        )),
    }
}
