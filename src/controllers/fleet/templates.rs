//! The frozen templates: ControllerRevisions `<pool>-<hash>`, written once and never changed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use super::Fleet;
use crate::domain::template::Template;
use crate::k8s::CALL_LIMIT;
use crate::k8s::error::{K8sError, within};

impl Fleet {
    /// The frozen template of an instance; kept, because a revision never changes.
    pub async fn template(
        &self,
        namespace: &str,
        revision: &str,
    ) -> Result<Option<Arc<Template>>, K8sError> {
        let key = (namespace.to_owned(), revision.to_owned());
        if let Some(found) = self
            .templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Ok(Some(found.clone()));
        }
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let found = within(
            CALL_LIMIT,
            || format!("read ControllerRevision {revision}"),
            api.get_opt(revision),
        )
        .await?;
        let template = found
            .and_then(|r| r.data)
            .and_then(|d| serde_json::from_value::<Template>(d.0).ok())
            .map(Arc::new);
        if let Some(template) = &template {
            self.templates
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key, template.clone());
        }
        Ok(template)
    }

    /// Records a pool's present template as a ControllerRevision `<pool>-<hash>`; it exists already: done.
    pub async fn record_template(
        &self,
        namespace: &str,
        pool: &str,
        template: &Template,
    ) -> Result<String, K8sError> {
        let name = format!("{pool}-{}", template.hash());
        let key = (namespace.to_owned(), name.clone());
        if self
            .templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&key)
        {
            return Ok(name);
        }
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let revision = ControllerRevision {
            metadata: kube::api::ObjectMeta {
                name: Some(name.clone()),
                labels: Some(BTreeMap::from([(
                    crate::api::LABEL_POOL.to_owned(),
                    crate::api::names::label_value(pool),
                )])),
                ..Default::default()
            },
            data: Some(RawExtension(
                serde_json::to_value(template).unwrap_or_default(),
            )),
            revision: 1,
        };
        match within(
            CALL_LIMIT,
            || format!("create ControllerRevision {name}"),
            api.create(&PostParams::default(), &revision),
        )
        .await
        {
            Ok(_) => {}
            Err(e) if e.is_conflict() => {}
            Err(e) => return Err(e),
        }
        self.templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, Arc::new(template.clone()));
        Ok(name)
    }

    /// The names of every revision that was recorded for a pool.
    pub async fn list_templates(
        &self,
        namespace: &str,
        pool: &str,
    ) -> Result<Vec<String>, K8sError> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let label = crate::api::names::label_value(pool);
        let ours = ListParams::default().labels(&format!("{}={label}", crate::api::LABEL_POOL));
        let doing = || format!("list the ControllerRevisions of pool {pool}");
        let found = within(CALL_LIMIT, doing, api.list_metadata(&ours)).await?;
        let names = found.items.into_iter().filter_map(|r| r.metadata.name);
        Ok(names.collect())
    }

    /// Removes a revision that nobody names any more; one that is gone is removed.
    pub async fn forget_template(&self, namespace: &str, revision: &str) -> Result<(), K8sError> {
        // First, so that whoever needs it again records it again.
        self.templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(namespace.to_owned(), revision.to_owned()));
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let removed = within(
            CALL_LIMIT,
            || format!("delete ControllerRevision {revision}"),
            api.delete(revision, &DeleteParams::default()),
        )
        .await;
        match removed {
            Ok(_) => Ok(()),
            Err(e) if e.is_gone() => Ok(()),
            Err(e) => Err(e),
        }
    }
}
