//! Kill, destroy and dismiss: an instance's end by its id. The finalizer does the work at the provider.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::info;

use super::drain::exactly;
use super::{LOOK_EVERY, OperationError, Operations, belongs_to, is_status, namespace};
use crate::api::agent_instance::{Release, ReleaseMode};
use crate::api::agent_pool::OnRelease;
use crate::api::{AgentInstance, AgentPool, names};
use crate::domain::instance::phase::{Phase, is_protected, phase_of};
use crate::domain::template;
use crate::k8s::patch;

/// How long the end of a recycling is waited for: its steps take about fifteen seconds, and each has its limit.
const RECYCLED_WITHIN: Duration = Duration::from_secs(300);
/// How often an instance that keeps changing is read again.
const MAX_TRIES: u32 = 10;

/// What became of a request to remove an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The deletion was accepted; the object stays in Terminating until everything paid is gone.
    Destroyed,
    /// It is restored for its next user, or is being restored where nobody waited for the end.
    Recycled,
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

    /// Gives the agent back: restored for its next user where its pool's `onRelease` says so, or `recycle` does, and its
    /// provider can; else destroyed, which is also what recycling falls back to. With `wait` it ends when that is done.
    ///
    /// Only what somebody has is restored; an idle, starting or crashed one is destroyed.
    pub async fn release(
        &self,
        pool: &AgentPool,
        id: &str,
        (recycle, wait): (bool, bool),
    ) -> Result<Removal, OperationError> {
        let wanted = recycle || template::on_release(&pool.spec) == OnRelease::Recycle;
        if !wanted || pool.spec.provider.sprites.is_none() {
            return self.destroy(pool, id).await;
        }
        for _ in 0..MAX_TRIES {
            let Some(read) = self.find(pool, id).await? else {
                return Ok(Removal::AlreadyGone);
            };
            if is_protected(&read) {
                return Err(OperationError::Protected(id.to_owned()));
            }
            if read.metadata.deletion_timestamp.is_some() {
                return Ok(Removal::AlreadyGone);
            }
            let asked = match phase_of(&read) {
                Phase::Recycling => true,
                Phase::Claiming | Phase::Claimed | Phase::PendingAcceptance | Phase::Sleeping
                    if read.spec.claim.is_some() =>
                {
                    self.ask_for_recycling(pool, &read).await?
                }
                _ => return self.destroy(pool, id).await,
            };
            if asked {
                return match wait {
                    true => self.recycled(pool, &read).await,
                    false => Ok(Removal::Recycled),
                };
            }
        }
        Err(OperationError::Contended(format!("instance {id}")))
    }

    /// The one conditional write that gives it back; false: somebody wrote since.
    async fn ask_for_recycling(
        &self,
        pool: &AgentPool,
        read: &AgentInstance,
    ) -> Result<bool, OperationError> {
        let release = Release {
            id: names::id_from_bytes(&self.rng.bytes()),
            mode: ReleaseMode::Recycle,
            requested_at: Time(self.clock.now()),
        };
        match patch::give_back(&self.instance_api(pool), read, &release).await {
            Ok(()) => {
                info!(namespace = read.namespace(), pool = read.spec.pool_ref.name, instance = read.spec.id, phase = %phase_of(read), "given back by request");
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_gone() => Ok(false),
            Err(error) => Err(OperationError::Failed(error.to_string())),
        }
    }

    /// Waits for the end of a recycling, whatever it is.
    async fn recycled(
        &self,
        pool: &AgentPool,
        begun: &AgentInstance,
    ) -> Result<Removal, OperationError> {
        let end = self.clock.monotonic() + RECYCLED_WITHIN;
        let at = ObjectRef::from_obj(begun);
        while self.clock.monotonic() < end {
            let same = |i: &AgentInstance| i.metadata.uid == begun.metadata.uid;
            let shown = self.instances.get(&at);
            let known = match shown.as_deref().filter(|i| same(i)) {
                Some(instance) => Some(instance.clone()),
                // The cache may be late in either direction.
                None => self.find(pool, &begun.spec.id).await?.filter(same),
            };
            match known {
                None => return Ok(Removal::Destroyed),
                Some(i) if i.metadata.deletion_timestamp.is_some() => {
                    return Ok(Removal::Destroyed);
                }
                Some(i) if i.spec.turn > begun.spec.turn => return Ok(Removal::Recycled),
                Some(_) => self.clock.sleep(LOOK_EVERY).await,
            }
        }
        Err(OperationError::StillRunning)
    }

    /// Destroys what is left of a crashed agent; any other phase, and an unknown id, is [`OperationError::NotCrashed`].
    pub async fn dismiss_crashed(&self, pool: &AgentPool, id: &str) -> Result<(), OperationError> {
        let crashed = |instance: &AgentInstance| phase_of(instance) == Phase::Crashed;
        match self.remove(pool, id, crashed).await? {
            Removal::Destroyed | Removal::Recycled => Ok(()),
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
