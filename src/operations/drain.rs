//! Drain: removes unclaimed instances, oldest first. The pool refills by itself, so this also rolls agents to new code.
//!
//! What is removed was judged unclaimed in exactly the version that is deleted: the DELETE carries resourceVersion and
//! uid. After a conflict the instance is read again and judged again.

use std::sync::Arc;

use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use serde::Serialize;
use tracing::{info, warn};

use super::{OperationError, Operations, is_status, members, name, namespace};
use crate::api::{AgentInstance, AgentPool};
use crate::domain::instance::phase::{Phase, is_protected, phase_of};

/// How often an instance that keeps changing is judged again.
const MAX_TRIES: u32 = 5;

/// Which instances a drain may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainScope {
    /// Idle ones.
    #[default]
    Idle,
    /// Idle ones, then those starting or dead.
    Unclaimed,
}

impl DrainScope {
    /// Reads the word of the API; anything else than `unclaimed` is the default.
    pub fn parse(word: Option<&str>) -> Self {
        if word == Some("unclaimed") { Self::Unclaimed } else { Self::Idle }
    }

    /// Where the phase stands in the order of removal; `None`: it is not taken.
    fn rank(self, phase: Phase) -> Option<u8> {
        match (self, phase) {
            (_, Phase::Idle) => Some(0),
            (Self::Unclaimed, Phase::Provisioning | Phase::Dead) => Some(1),
            _ => None,
        }
    }
}

/// What a drain did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainReport {
    /// How many deletions were accepted.
    pub drained: usize,
    /// Their ids.
    pub drained_ids: Vec<String>,
    /// How many could not be deleted.
    pub failed: usize,
}

/// Whether a drain may take the instance as it is here.
pub fn is_drainable(instance: &AgentInstance, scope: DrainScope) -> bool {
    rank(instance, scope).is_some()
}

/// The instances that a drain may take, in the order in which it takes them: by scope, then oldest first.
pub fn candidates(instances: Vec<Arc<AgentInstance>>, scope: DrainScope) -> Vec<Arc<AgentInstance>> {
    let mut ranked: Vec<_> = instances.into_iter().filter_map(|i| rank(&i, scope).map(|r| (r, i))).collect();
    ranked.sort_by(|(a, x), (b, y)| (a, created(x), &x.spec.id).cmp(&(b, created(y), &y.spec.id)));
    ranked.into_iter().map(|(_, instance)| instance).collect()
}

fn rank(instance: &AgentInstance, scope: DrainScope) -> Option<u8> {
    let phase = phase_of(instance);
    if is_protected(instance) || phase.is_untouchable() || instance.spec.claim.is_some() {
        return None;
    }
    scope.rank(phase)
}

fn created(instance: &AgentInstance) -> Option<jiff::Timestamp> {
    instance.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

impl Operations {
    /// Removes up to `count` instances of the pool. Single failures are counted and logged, not returned.
    pub async fn drain(&self, pool: &AgentPool, count: u32, scope: DrainScope) -> DrainReport {
        let api = self.instance_api(pool);
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let mut report = DrainReport::default();
        for candidate in candidates(members(&self.instances, pool), scope) {
            if report.drained + report.failed >= wanted {
                break;
            }
            match remove_if(&api, &candidate, |fresh| is_drainable(fresh, scope)).await {
                Ok(true) => report.drained_ids.push(candidate.spec.id.clone()),
                Ok(false) => {}
                Err(error) => {
                    report.failed += 1;
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(pool = name(pool), instance = candidate.spec.id, %error, source, "drain failed");
                }
            }
            report.drained = report.drained_ids.len();
        }
        info!(namespace = namespace(pool), pool = name(pool), drained = report.drained, failed = report.failed, "drained");
        let gone = report.drained_ids.clone();
        self.catch_up(|store| store.find(|i| gone.contains(&i.spec.id) && phase_of(i) != Phase::Terminating).is_none()).await;
        report
    }
}

/// Deletes the instance if `may` holds of exactly the version that is deleted; false where it does not, or it is gone.
async fn remove_if(
    api: &Api<AgentInstance>,
    judged: &Arc<AgentInstance>,
    may: impl Fn(&AgentInstance) -> bool,
) -> Result<bool, OperationError> {
    let object = judged.name_any();
    let mut judged = judged.clone();
    for _ in 0..MAX_TRIES {
        match api.delete(&object, &exactly(&judged)).await {
            Ok(_) => return Ok(true),
            Err(error) if is_status(&error, 404) => return Ok(false),
            Err(error) if is_status(&error, 409) => {}
            Err(error) => return Err(OperationError::cluster(format!("delete instance {object}"), error)),
        }
        let uid = judged.metadata.uid.clone();
        match api.get_opt(&object).await.map_err(|e| OperationError::cluster(format!("read instance {object}"), e))? {
            Some(fresh) if fresh.metadata.uid == uid && may(&fresh) => judged = Arc::new(fresh),
            _ => return Ok(false),
        }
    }
    Err(OperationError::Contended(format!("instance {object}")))
}

/// The precondition that the object is deleted only as it was read.
pub(super) fn exactly(instance: &AgentInstance) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions {
        resource_version: instance.metadata.resource_version.clone(),
        uid: instance.metadata.uid.clone(),
    })
}
