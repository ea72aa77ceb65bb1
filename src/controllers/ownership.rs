//! Which release a pool belongs to. Two over one pool would be two permanent leaders with different root keys: the
//! pool's status names its owner, and every other release stands back and says so in a condition of its own.

use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::Ctx;
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::AgentPool;
use crate::api::condition::{ConditionType, Reason, Truth, find, set_condition};
use crate::k8s::apply;
use crate::k8s::error::K8sError;

/// How often a release that stands back looks again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The release that a pool belongs to, where it is not ours.
pub fn other_owner<'a>(pool: &'a AgentPool, ours: &str) -> Option<&'a str> {
    let owner = pool.status.as_ref()?.release.as_deref()?;
    (owner != ours).then_some(owner)
}

/// The other release that an instance's pool belongs to.
pub fn other_owner_of(instance: &AgentInstance, ctx: &Ctx) -> Option<String> {
    let namespace = instance.namespace().unwrap_or_default();
    let pool = ctx
        .pools
        .get(&ObjectRef::new(&instance.spec.pool_ref.name).within(&namespace))?;
    other_owner(&pool, &ctx.release).map(str::to_owned)
}

/// Says once in the pool that we stand back; nothing else of it is written.
pub async fn stand_back(
    api: &Api<AgentPool>,
    pool: &AgentPool,
    owner: &str,
    ctx: &Ctx,
) -> Result<(), K8sError> {
    let mut status = pool.status.clone().unwrap_or_default();
    if find(&status.conditions, ConditionType::Contested).is_some() {
        return Ok(());
    }
    let ours = &ctx.release;
    let message = format!(
        "release {ours} watches this namespace too and leaves the pool to release {owner}: let each release watch \
         namespaces of its own (--namespace), or start both with the same --release"
    );
    tracing::warn!(pool = %pool.name_any(), owner, "standing back: {message}");
    set_condition(
        &mut status.conditions,
        ConditionType::Contested,
        Truth::True,
        Reason::OtherRelease,
        message,
        pool.metadata.generation,
        ctx.clock.now(),
    );
    apply::write_pool_status(api, pool, &status).await.map(drop)
}
