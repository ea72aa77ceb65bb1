//! One row after the other: recorded, marked, described, let go of.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use secrecy::SecretString;
use serde_json::json;

use super::place::Place;
use super::tally::End;
use crate::api::condition::Reason;
use crate::api::{ANNOTATION_IMPORTING, AgentInstance, MANAGER_IMPORT, names};
use crate::domain::import::objects::{self, Given, Import};
use crate::domain::import::row::Row;
use crate::domain::plan::{Class, Facts};
use crate::k8s::error::{K8sError, chain, within};
use crate::k8s::{CALL_LIMIT, patch, secret};
use crate::provider::{Key, Owner, Presence, ProviderError, Resource};

/// How often a call to the provider is tried that failed and may be tried again.
const TRIES: u32 = 5;
/// What the provider asks to wait is waited up to here.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// So many tokens are written at a time: a request must not be as large as the Secret.
const TOKENS_AT_A_TIME: usize = 500;

impl Place {
    /// The tokens first: an agent that is recorded can be called.
    pub(super) async fn keep_tokens(&self, rows: &[Row]) -> Result<()> {
        if self.dry {
            return Ok(());
        }
        let new = rows
            .iter()
            .filter(|row| match self.known.get(&names::object_name(&row.id)) {
                Some(known) => is_importing(known),
                None => true,
            });
        let tokens: Vec<(String, SecretString)> = new
            .filter_map(|row| Some((names::object_name(&row.id), row.token.clone()?)))
            .collect();
        let (namespace, name) = &self.tokens;
        for some in tokens.chunks(TOKENS_AT_A_TIME) {
            let values: BTreeMap<_, _> = some.iter().cloned().collect();
            secret::add_values(&self.client, namespace, name, &values).await?;
        }
        Ok(())
    }

    /// What becomes of a row. Err: nothing can be done for any.
    pub(super) async fn take(&self, row: &Row) -> Result<End> {
        let object = names::object_name(&row.id);
        let known = self.known.get(&object);
        if let Some(end) = self.standing(row, known) {
            return Ok(end);
        }
        let found = match self.find(row).await {
            Ok(found) => found,
            Err(e) if e.class == Class::Unauthorized => bail!("{e}"),
            Err(e) => return Ok(End::Failed(e.to_string())),
        };
        let given = Given {
            pool: &self.pool,
            template: self.template.clone(),
            provider: self.provider_ref.clone(),
            plan: &self.plan,
            now: self.clock.now(),
        };
        let Some(import) = objects::import(row, found.as_ref(), &given) else {
            return Ok(End::LeftOut(
                "the provider no longer has it, and nobody had it",
            ));
        };
        let phase = import.phase.as_str();
        if self.dry {
            return Ok(End::Taken(phase));
        }
        match self.record(row, found.as_ref(), import).await {
            Ok(None) => Ok(End::Taken(phase)),
            Ok(Some(end)) => Ok(end),
            Err(e) if e.is_forbidden() => bail!("{}", chain(&e)),
            Err(e) => Ok(End::Failed(chain(&e))),
        }
    }

    /// What can be said of a row by what the cluster has.
    fn standing(&self, row: &Row, known: Option<&AgentInstance>) -> Option<End> {
        if let Some(known) = known {
            if known.spec.id != row.id {
                let text = format!(
                    "AgentInstance {} has another id: {}",
                    known.name_any(),
                    known.spec.id
                );
                return Some(End::Refused(text));
            }
            if known.spec.pool_ref.name != self.pool {
                let text = format!(
                    "it is an agent of pool {} already",
                    known.spec.pool_ref.name
                );
                return Some(End::Refused(text));
            }
            if !is_importing(known) {
                return Some(End::There);
            }
            if known.metadata.deletion_timestamp.is_some() {
                return Some(End::Refused(
                    "its AgentInstance is being deleted".to_owned(),
                ));
            }
        }
        let object = names::object_name(&row.id);
        let same = self.known.values().find(|i| {
            let provider = i.status.as_ref().and_then(|s| s.provider.as_ref());
            i.name_any() != object && provider.and_then(|p| p.id.as_ref()) == Some(&row.provider_id)
        });
        if let Some(other) = same {
            let text = format!("its service is that of AgentInstance {}", other.name_any());
            return Some(End::Refused(text));
        }
        let (theirs, ours) = (
            row.environment_id.as_ref(),
            self.provider_ref.environment_id.as_ref(),
        );
        if theirs.is_some() && theirs != ours {
            let text = format!(
                "it lives in environment {}, and the pool's is {}: import it with --pool of a pool of that environment",
                theirs.map_or("", String::as_str),
                ours.map_or("", String::as_str)
            );
            return Some(End::Refused(text));
        }
        None
    }

    /// Its resource, by the listing or directly; `None`: the provider says that there is none.
    async fn find(&self, row: &Row) -> Result<Option<Resource>, ProviderError> {
        if let Some(resource) = self.listed.get(&row.provider_id) {
            return Ok(Some(resource.clone()));
        }
        let key = self.key(row, row.name.as_deref().unwrap_or(&row.id));
        let facts = Facts::from([("serviceId".to_owned(), row.provider_id.clone())]);
        let seen = self
            .patiently(|| self.provider.observe(&key, &facts))
            .await?;
        match seen {
            Presence::Present(resource) => Ok(Some(*resource)),
            Presence::Gone => Ok(None),
            Presence::Unknown => Err(ProviderError {
                class: Class::Ambiguous,
                reason: Reason::OutcomeUnknown,
                doing: format!("look for service {}", row.provider_id),
                message: "the provider cannot tell whether it is there".to_owned(),
                retry_after: None,
            }),
        }
    }

    fn key(&self, row: &Row, name: &str) -> Key {
        Key {
            id: row.id.clone(),
            name: name.to_owned(),
            mark: names::owner_mark(&self.cluster_id, &self.namespace, &row.id),
        }
    }

    /// Recorded, marked, described, let go of. `Some`: it came to something else.
    async fn record(
        &self,
        row: &Row,
        found: Option<&Resource>,
        import: Import,
    ) -> Result<Option<End>, K8sError> {
        let object = self.recorded(&import).await?;
        if !is_importing(&object) {
            // Another import was faster.
            return Ok(Some(End::There));
        }
        let claim = import.instance.spec.claim.as_ref();
        let reference = claim.and_then(|c| c.instructions_secret_ref.as_ref());
        if let (Some(reference), Some(text)) = (reference, &import.instructions) {
            secret::create_owned(&self.client, &self.namespace, reference, text, &object).await?;
        }
        if let Some(resource) = found {
            let key = self.key(row, &resource.name);
            let owner = self
                .patiently(|| self.provider.take_over(&key, resource))
                .await;
            match owner {
                Ok(Owner::Marked(mark)) if mark == key.mark => {}
                Ok(Owner::Gone) => {
                    let text = "its service went while it was imported";
                    return Ok(Some(End::Failed(text.to_owned())));
                }
                Ok(other) => {
                    self.forget(&object).await?;
                    return Ok(Some(End::Refused(somebody_else_s(&other))));
                }
                Err(error) => return Ok(Some(End::Failed(error.to_string()))),
            }
        }
        let object = match patch::write_status(&self.api, &object, &import.status).await? {
            Some(written) => written,
            None => object,
        };
        let metadata = json!({
            "resourceVersion": object.metadata.resource_version,
            "annotations": {ANNOTATION_IMPORTING: null},
        });
        let doing = || format!("finish {}", object.name_any());
        let (name, done) = (
            object.name_any(),
            Patch::Merge(json!({"metadata": metadata})),
        );
        let params = PatchParams {
            field_manager: Some(MANAGER_IMPORT.to_owned()),
            ..PatchParams::default()
        };
        within(CALL_LIMIT, doing, self.api.patch(&name, &params, &done)).await?;
        Ok(None)
    }

    /// The object: made now, or by a run that ended.
    async fn recorded(&self, import: &Import) -> Result<AgentInstance, K8sError> {
        let name = import.instance.name_any();
        let read = || {
            let doing = || format!("read instance {name}");
            within(CALL_LIMIT, doing, self.api.get(&name))
        };
        if self.known.contains_key(&name) {
            return read().await;
        }
        let post = PostParams {
            field_manager: Some(MANAGER_IMPORT.to_owned()),
            ..PostParams::default()
        };
        let doing = || format!("create instance {name}");
        match within(CALL_LIMIT, doing, self.api.create(&post, &import.instance)).await {
            // The client repeats a 504 by itself: it may be ours.
            Err(e) if e.is_conflict() => read().await,
            other => other,
        }
    }

    /// Nothing at the provider is ours: the object goes as it came.
    async fn forget(&self, object: &AgentInstance) -> Result<(), K8sError> {
        patch::remove_finalizer(&self.api, object).await?;
        let doing = || format!("read instance {}", object.name_any());
        let now = within(CALL_LIMIT, doing, self.api.get_opt(&object.name_any())).await?;
        match now {
            Some(now) if now.metadata.uid == object.metadata.uid => {
                patch::delete_as_read(&self.api, &now).await
            }
            _ => Ok(()),
        }
    }

    /// A call that is safe to repeat, repeated where that may help.
    pub(super) async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let mut tries = 1;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let passing = matches!(
                error.class,
                Class::Throttled | Class::Transient | Class::Ambiguous
            );
            let wait = error.retry_after.unwrap_or(Duration::from_secs(2) * tries);
            if !passing || tries >= TRIES || wait > WAIT_MAX {
                return Err(error);
            }
            eprintln!("waiting {} s: {error}", wait.as_secs());
            self.clock.sleep(wait).await;
            tries += 1;
        }
    }
}

fn is_importing(instance: &AgentInstance) -> bool {
    let annotations = instance.metadata.annotations.as_ref();
    annotations.is_some_and(|a| a.contains_key(ANNOTATION_IMPORTING))
}

fn somebody_else_s(owner: &Owner) -> String {
    match owner {
        Owner::Marked(mark) => format!(
            "its service carries the owner mark {mark} of another cluster, namespace or agent: is --cluster-id right, and was it imported elsewhere?"
        ),
        Owner::Elsewhere => "its service is deployed in another environment than the pool's: import it with --pool of a pool of that environment".to_owned(),
        Owner::Unmarked | Owner::Gone => "its service cannot be marked as ours".to_owned(),
    }
}
