//! The ControllerRevisions of a pool that no instance names any more: removed, late and by whoever leads.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::ResourceExt;

use super::instances_of;
use crate::api::agent_pool::AgentPool;
use crate::clock::Monotonic;
use crate::controllers::Ctx;
use crate::k8s::error::{K8sError, chain};

/// How long nobody must have named one: a restore from a backup brings revisions before the instances that name them.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// What this process knows of a pool's revisions.
#[derive(Default)]
pub(super) struct Known {
    /// They were listed, once.
    listed: bool,
    /// Each, and since when nobody names it.
    all: HashMap<String, Option<Monotonic>>,
}

/// Removes what nobody named for long; of a pool that is drained, whatever nobody names. Nothing depends on it: what
/// fails is tried again in a later pass.
pub(super) async fn forget_unnamed(
    pool: &AgentPool,
    key: &(String, String),
    present: Option<&str>,
    ctx: &Ctx,
) {
    if let Err(error) = work(pool, key, present, ctx).await {
        tracing::debug!(pool = %key.1, error = %chain(&error), "revisions that nobody names stay for now");
    }
}

async fn work(
    pool: &AgentPool,
    key: &(String, String),
    present: Option<&str>,
    ctx: &Ctx,
) -> Result<(), K8sError> {
    let deleting = pool.metadata.deletion_timestamp.is_some();
    if !ctx.with_pool_memory(key, |m| m.revisions.listed) {
        let found = ctx.fleet.list_templates(&key.0, &key.1).await?;
        ctx.with_pool_memory(key, |m| {
            m.revisions.listed = true;
            for name in found {
                m.revisions.all.entry(name).or_default();
            }
        });
    }
    let now = ctx.clock.monotonic();
    let unnamed = ctx.with_pool_memory(key, |m| {
        let status = pool.status.as_ref();
        let mut named: HashSet<String> = instances_of(pool, ctx)
            .iter()
            .map(|i| i.spec.template.revision.clone())
            .collect();
        if !deleting {
            named.extend(present.map(str::to_owned));
            named.extend(status.and_then(|s| s.revision.clone()));
        }
        // An instance that the watch does not show yet may name any of them.
        let unseen = !m.created.is_empty() || status.is_some_and(|s| !s.creating.is_empty());
        if let Some(present) = present {
            m.revisions.all.entry(present.to_owned()).or_default();
        }
        m.revisions.unnamed(&named, unseen, deleting, now)
    });
    for revision in unnamed {
        if !ctx.leadership.holds() {
            break;
        }
        ctx.fleet.forget_template(&key.0, &revision).await?;
        ctx.with_pool_memory(key, |m| m.revisions.all.remove(&revision));
        tracing::info!(pool = %pool.name_any(), %revision, action = "forget", "no instance names this revision any more");
    }
    Ok(())
}

impl Known {
    fn unnamed(
        &mut self,
        named: &HashSet<String>,
        unseen: bool,
        deleting: bool,
        now: Monotonic,
    ) -> Vec<String> {
        let mut over = vec![];
        for (name, since) in &mut self.all {
            if unseen || named.contains(name) {
                *since = None;
                continue;
            }
            let since = *since.get_or_insert(now);
            if deleting || now.saturating_sub(since) >= FORGOTTEN_AFTER {
                over.push(name.clone());
            }
        }
        // The map's own order is by hash.
        over.sort();
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_goes_when_nobody_named_it_for_an_hour() {
        let at = |s| Monotonic::default() + Duration::from_secs(s);
        let mut known = Known {
            all: HashMap::from([("p-1".into(), None), ("p-2".into(), None)]),
            ..Known::default()
        };
        let named = HashSet::from(["p-2".to_owned()]);
        assert!(known.unnamed(&named, false, false, at(0)).is_empty());
        assert!(known.unnamed(&named, false, false, at(3599)).is_empty());
        assert_eq!(known.unnamed(&named, false, false, at(3600)), ["p-1"]);
        // Named again, or perhaps by one that is not seen yet: its time begins anew.
        let both = HashSet::from(["p-1".to_owned(), "p-2".to_owned()]);
        for (named, unseen) in [(&both, false), (&named, true)] {
            assert!(known.unnamed(named, unseen, false, at(4000)).is_empty());
            let named = HashSet::from(["p-2".to_owned()]);
            assert!(known.unnamed(&named, false, false, at(7000)).is_empty());
        }
        // A drained pool takes with it what no orphan names.
        assert_eq!(known.unnamed(&named, false, true, at(7001)), ["p-1"]);
    }
}
