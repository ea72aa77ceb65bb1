//! What an agent asks for itself, by callback: its own end, and what came of its join.
//!
//! Who asks was checked before. Nothing here waits for a claim: callbacks come while one is in flight.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::{info, warn};

use super::{OperationError, Operations, namespace};
use crate::api::{AgentInstance, names};
use crate::domain::instance::phase::is_protected;
use crate::domain::instance::status::{self, Told};
use crate::k8s::error::K8sError;
use crate::k8s::patch;

/// How often a write that came second is judged anew.
const MAX_TRIES: u32 = 5;
/// How long the answer to an agent's own end waits for it to be recorded. The agent waits 10 s.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);
/// How long its record is tried after that. Nobody asks again: the agent ends once it is answered.
const TRIED_FOR: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(500);

impl Operations {
    /// The instance of that id, of whatever pool and namespace, by the watch cache.
    pub fn instance_of(&self, id: &str) -> Option<Arc<AgentInstance>> {
        let object = names::object_name(id);
        // By name where a pool is; one by one only in namespaces that have none any more.
        let mut namespaces: Vec<String> = self
            .pools
            .state()
            .iter()
            .map(|p| namespace(p).to_owned())
            .collect();
        namespaces.sort();
        namespaces.dedup();
        let named = namespaces
            .iter()
            .find_map(|n| self.instances.get(&ObjectRef::new(&object).within(n)));
        named
            .filter(|i| i.spec.id == id)
            .or_else(|| self.instances.find(|i| i.spec.id == id))
    }

    /// Ends the agent on its own word, unless it is protected. Returns when that is recorded, or soon after: it is then
    /// tried on in the background.
    pub async fn end_itself(&self, instance: Arc<AgentInstance>) {
        if instance.metadata.deletion_timestamp.is_some() {
            return;
        }
        if is_protected(&instance) {
            warn!(
                instance = instance.spec.id,
                "asked for its own end; kept, because it is protected"
            );
            return;
        }
        let operations = self.clone();
        let recorded = self
            .tasks
            .spawn(async move { operations.end_until_recorded(&instance).await });
        tokio::select! {
            _ = recorded => {}
            () = self.clock.sleep(RECORDED_WITHIN) => {}
        }
    }

    async fn end_until_recorded(&self, instance: &AgentInstance) {
        let (id, end) = (&instance.spec.id, self.clock.monotonic() + TRIED_FOR);
        loop {
            match self.destroy_exactly(instance).await {
                Ok(_) => {
                    info!(instance = id, "ends on its own word");
                    return;
                }
                Err(OperationError::Protected(_)) => {
                    warn!(
                        instance = id,
                        "asked for its own end; kept, because it is protected"
                    );
                    return;
                }
                Err(error) if self.clock.monotonic() < end => {
                    warn!(instance = id, %error, "its own end is not recorded yet; again");
                    self.clock.sleep(PAUSE).await;
                }
                Err(error) => {
                    warn!(instance = id, %error, "its own end is not recorded: it will show as crashed");
                    return;
                }
            }
        }
    }

    /// Records what an agent tells of its join; false where nothing was to be changed.
    pub async fn called_back(
        &self,
        known: &AgentInstance,
        told: Told<'_>,
    ) -> Result<bool, OperationError> {
        let (api, object) = (self.api_of(known), known.name_any());
        for _ in 0..MAX_TRIES {
            let Some(instance) = self.reread(known).await? else {
                return Ok(false);
            };
            let new = status::called_back(&instance, told, self.clock.now());
            let waiting = instance.status.as_ref().and_then(|s| s.claim.as_ref());
            let Some((new, waiting)) = new.zip(waiting) else {
                return Ok(false);
            };
            match patch::call_back(&api, &object, waiting, &new).await {
                Ok(()) => return Ok(true),
                Err(e) if e.is_gone() => return Ok(false),
                // Somebody told the same, or the claim is over: the next read says.
                Err(e) if e.is_invalid() || e.is_conflict() => {}
                Err(K8sError::Api { doing, source }) => {
                    return Err(OperationError::cluster(doing, *source));
                }
                Err(K8sError::Timeout { .. }) => return Err(OperationError::StillRunning),
            }
        }
        Err(OperationError::Contended(format!(
            "instance {}",
            known.spec.id
        )))
    }

    /// The instance as it is now, where it is still the same object.
    pub(super) async fn reread(
        &self,
        known: &AgentInstance,
    ) -> Result<Option<AgentInstance>, OperationError> {
        let found = self
            .api_of(known)
            .get_opt(&known.name_any())
            .await
            .map_err(|e| OperationError::cluster(format!("read instance {}", known.spec.id), e))?;
        Ok(found.filter(|i| i.metadata.uid == known.metadata.uid))
    }

    pub(super) fn api_of(&self, instance: &AgentInstance) -> Api<AgentInstance> {
        let namespace = instance.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }
}
