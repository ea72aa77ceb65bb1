//! The writes that follow from a decision: instances that are created, exactly those that the status lists, and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::{Api, ResourceExt};

use super::{REFUSED_FOR, SEEN_WITHIN};
use crate::api::agent_instance::{AgentInstance, AgentInstanceSpec, PoolRef, TemplateRef};
use crate::api::agent_pool::AgentPool;
use crate::api::{INSTANCE_FINALIZER, LABEL_POOL, names};
use crate::controllers::Ctx;
use crate::controllers::fleet::{self, Scope};
use crate::domain::drift;
use crate::domain::pool::decide::Decision;
use crate::domain::pool::view::View;
use crate::domain::template::{self, Template};
use crate::k8s::error::{K8sError, chain};
use crate::k8s::{apply, patch};

/// The ids to be listed as being created: those listed and not seen yet, and the new ones.
pub(super) fn creating(
    view: &View<'_>,
    key: &(String, String),
    decision: &Decision,
    ctx: &Ctx,
) -> Vec<String> {
    let now = ctx.clock.monotonic();
    let deleting = view.pool.metadata.deletion_timestamp.is_some();
    let mut ids = view.unseen();
    ctx.with_pool_memory(key, |m| {
        // A pool that goes creates nothing more: what was only listed is dropped.
        ids.retain(|id| !deleting || m.created.contains_key(id));
        // Created by us and not shown for long: it came and went.
        ids.retain(|id| {
            m.created
                .get(id)
                .is_none_or(|at| now.saturating_sub(*at) < SEEN_WITHIN)
        });
        m.created.retain(|id, _| ids.contains(id));
        // What was refused is forgotten when the status does not list it any more.
        let listed = view.pool.status.iter().flat_map(|s| &s.creating);
        let listed: Vec<&String> = listed.collect();
        m.refused.retain(|id, _| listed.contains(&id));
    });
    ids.extend(decision.create.iter().cloned());
    ids
}

/// What new instances are built from.
pub(in crate::controllers) struct Build<'a> {
    /// The name of the template's ControllerRevision.
    pub(in crate::controllers) revision: &'a str,
    /// The template.
    pub(in crate::controllers) template: &'a Template,
    /// Where they live.
    pub(in crate::controllers) scope: &'a Scope,
    /// The image, pinned where the pool wants that.
    pub(in crate::controllers) image: Option<&'a str>,
    /// The digests of the values of the Secrets that they get, the present root key's first.
    pub(in crate::controllers) secrets: Option<&'a str>,
}

/// Creates what is listed; whether anything was created.
pub(super) async fn create(
    pool: &AgentPool,
    key: &(String, String),
    creating: &[String],
    build: &Build<'_>,
    ctx: &Ctx,
) -> Result<bool, K8sError> {
    let api: Api<AgentInstance> = Api::namespaced(ctx.client.clone(), &key.0);
    let listed: Vec<&String> = pool
        .status
        .iter()
        .flat_map(|s| &s.creating)
        .filter(|id| creating.contains(id))
        .collect();
    let mut made = false;
    for id in listed {
        if !ctx.leadership.holds() {
            break;
        }
        if ctx.with_pool_memory(key, |m| {
            m.created.contains_key(id) || m.refused.contains_key(id)
        }) {
            continue;
        }
        let instance = new_instance(pool, id, build);
        let object = instance.name_any();
        ctx.memories.creating(&key.0, &object);
        let created = apply::create_instance(&api, &instance).await;
        let by_us = created.as_ref().ok().and_then(Option::as_ref);
        ctx.memories.created(&key.0, &object, by_us);
        let now = ctx.clock.monotonic();
        match created {
            Ok(_) => {}
            // For certain not made, and not by asking again: its id is given up, and nothing else waits for it.
            Err(error) if error.is_forbidden() || error.is_invalid() => {
                let why = chain(&error);
                tracing::warn!(pool = %key.1, instance = %id, "refused by the API server: {why}");
                ctx.with_pool_memory(key, |m| {
                    m.refused.insert(id.clone(), why.clone());
                    m.refusal = Some((why, now + REFUSED_FOR));
                });
                made = true;
                continue;
            }
            Err(error) => return Err(error),
        }
        ctx.with_pool_memory(key, |m| m.created.insert(id.clone(), now));
        tracing::info!(pool = %key.1, instance = %id, action = "create", "instance recorded");
        made = true;
    }
    Ok(made)
}

pub(in crate::controllers) fn new_instance(
    pool: &AgentPool,
    id: &str,
    build: &Build<'_>,
) -> AgentInstance {
    let code = template::environment_code(&pool.spec);
    let mut instance = AgentInstance::new(
        &names::object_name(id),
        AgentInstanceSpec {
            id: id.to_owned(),
            pool_ref: PoolRef {
                name: pool.name_any(),
            },
            provider_name: names::provider_name(&pool.spec.name_prefix, &code, id),
            template: TemplateRef {
                revision: build.revision.to_owned(),
                hash: build.template.hash(),
                image: build.image.map(str::to_owned),
                secrets: build.secrets.map(drift::recorded),
            },
            provider: Some(fleet::provider_ref(build.scope)),
            turn: 1,
            claim: None,
            release: None,
            restored: false,
        },
    );
    instance.metadata.namespace = pool.namespace();
    instance.metadata.finalizers = Some(vec![INSTANCE_FINALIZER.to_owned()]);
    // Only our own label: a GitOps tool's, copied from the pool, would make it prune claimed agents.
    instance.metadata.labels = Some(BTreeMap::from([(
        LABEL_POOL.to_owned(),
        names::label_value(&pool.name_any()),
    )]));
    instance
}

/// Notes on instances that a creation has answered their claim.
pub(super) async fn note_answered(
    judged: &[Arc<AgentInstance>],
    decision: &Decision,
    ctx: &Ctx,
) -> Result<(), K8sError> {
    let answered = |i: &&Arc<AgentInstance>| decision.answered.contains(&i.name_any());
    for instance in judged.iter().filter(answered) {
        let Some(claim) = &instance.spec.claim else {
            continue;
        };
        let namespace = instance.namespace().unwrap_or_default();
        let api: Api<AgentInstance> = Api::namespaced(ctx.client.clone(), &namespace);
        match patch::note_replaced(&api, &instance.name_any(), &claim.id).await {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Deletes the members that the decision names, each at the version at which it was judged.
pub(super) async fn delete(
    judged: &[Arc<AgentInstance>],
    decision: &Decision,
    ctx: &Ctx,
) -> Result<(), K8sError> {
    let goes = |i: &&Arc<AgentInstance>| decision.delete.contains(&i.name_any());
    for instance in judged.iter().filter(goes) {
        if !ctx.leadership.holds() {
            break;
        }
        let namespace = instance.namespace().unwrap_or_default();
        let api: Api<AgentInstance> = Api::namespaced(ctx.client.clone(), &namespace);
        match patch::delete_as_read(&api, instance).await {
            Ok(()) => {}
            // Claimed or changed meanwhile: judged anew in the next pass.
            Err(e) if e.is_conflict() || e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
