//! What the tests of the two schemas share: objects without types, and rules tried both ways.

use std::collections::BTreeSet;

use agentpool::api::GROUP;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, core::GroupVersionKind};
use serde_json::{Value, json};

use crate::support::cluster::Namespace;
use crate::support::world::{cluster, merge};

/// A rule, what it accepts and what it refuses, each merged over a base.
pub struct Case {
    /// How the rule's message begins.
    pub message: &'static str,
    /// The field that the refusal names.
    pub field: &'static str,
    /// The object as stored before; `None`: the rule is about creation.
    pub from: Option<Value>,
    /// The base with this is accepted.
    pub good: Value,
    /// The base with this is refused.
    pub bad: Value,
}

/// Objects of a kind in a namespace of the test's own, without types: tests send what the types cannot say.
pub struct Objects {
    api: Api<DynamicObject>,
    kind: &'static str,
    pub namespace: Namespace,
}

impl Objects {
    pub async fn new(kind: &'static str, plural: &str, prefix: &str) -> Self {
        let cluster = cluster();
        let namespace = cluster.namespace(prefix).await;
        let gvk = GroupVersionKind::gvk(GROUP, "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api = Api::namespaced_with(cluster.client().await, &namespace, &resource);
        Self {
            api,
            kind,
            namespace,
        }
    }

    /// Creates; what the API server made of it, or its refusal.
    pub async fn create(&self, name: &str, spec: &Value, stored: bool) -> Result<Value, String> {
        let object = json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": self.kind, "metadata": {"name": name}, "spec": spec});
        let params = PostParams {
            dry_run: !stored,
            ..PostParams::default()
        };
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        said(self.api.create(&params, &object).await)
    }

    /// Merges into the spec; without `stored` the answer only.
    pub async fn change(&self, name: &str, spec: &Value, stored: bool) -> Result<Value, String> {
        let params = PatchParams {
            dry_run: !stored,
            ..PatchParams::default()
        };
        said(
            self.api
                .patch(name, &params, &Patch::Merge(json!({"spec": spec})))
                .await,
        )
    }

    /// Merges into the status.
    pub async fn change_status(&self, name: &str, status: &Value) -> Result<Value, String> {
        let patch = Patch::Merge(json!({"status": status}));
        said(
            self.api
                .patch_status(name, &PatchParams::default(), &patch)
                .await,
        )
    }

    /// Names of the objects that a field selector finds.
    pub async fn select(&self, fields: &str) -> Result<Vec<String>, String> {
        let params = kube::api::ListParams::default().fields(fields);
        let list = self.api.list(&params).await.map_err(|e| e.to_string())?;
        Ok(list
            .items
            .into_iter()
            .filter_map(|o| o.metadata.name)
            .collect())
    }

    /// kubectl in the namespace; its output. Panics where it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut all = vec!["--namespace", &*self.namespace];
        all.extend_from_slice(arguments);
        let out = cluster().kubectl(all);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", text(out.stderr));
        text(out.stdout)
    }

    /// Tries a rule both ways.
    pub async fn try_rule(&self, number: usize, base: &Value, case: &Case) {
        let name = format!("case-{number}");
        let (accepted, refused) = match &case.from {
            None => (
                self.create(&name, &with(base, &case.good), false).await,
                self.create(&name, &with(base, &case.bad), false).await,
            ),
            Some(from) => {
                let stored = self.create(&name, &with(base, from), true).await;
                stored.unwrap_or_else(|e| panic!("{}: the object before: {e}", case.message));
                (
                    self.change(&name, &case.good, false).await,
                    self.change(&name, &case.bad, false).await,
                )
            }
        };
        if let Err(error) = accepted {
            panic!("{}: refused what it should accept: {error}", case.message);
        }
        let error = refused.expect_err(case.message);
        assert!(
            error.contains(case.message),
            "not {:?} but: {error}",
            case.message
        );
        assert!(
            error.contains(&format!("{}: Invalid value", case.field)),
            "{:?} is not named: {error}",
            case.field
        );
    }
}

fn said(result: kube::Result<DynamicObject>) -> Result<Value, String> {
    match result {
        Ok(object) => Ok(serde_json::to_value(object).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("no answer: {error}"),
    }
}

pub fn with(base: &Value, change: &Value) -> Value {
    let mut full = base.clone();
    merge(&mut full, change);
    full
}

/// The messages of all rules of a kind.
pub fn messages(index: usize) -> BTreeSet<String> {
    fn collect(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for rule in map
                    .get("x-kubernetes-validations")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    into.insert(rule["message"].as_str().unwrap().to_owned());
                }
                map.values().for_each(|v| collect(v, into));
            }
            Value::Array(items) => items.iter().for_each(|v| collect(v, into)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    collect(
        &serde_json::to_value(&agentpool::api::crds()[index]).unwrap(),
        &mut all,
    );
    all
}

/// Panics where a rule has no case.
pub fn all_tried(index: usize, cases: &[Case]) {
    let untried: Vec<_> = messages(index)
        .into_iter()
        .filter(|m| !cases.iter().any(|c| m.starts_with(c.message)))
        .collect();
    assert!(untried.is_empty(), "rules without a case: {untried:#?}");
}

pub fn case(message: &'static str, field: &'static str, good: Value, bad: Value) -> Case {
    Case {
        message,
        field,
        from: None,
        good,
        bad,
    }
}

pub fn change(
    message: &'static str,
    field: &'static str,
    from: Value,
    good: Value,
    bad: Value,
) -> Case {
    Case {
        message,
        field,
        from: Some(from),
        good,
        bad,
    }
}
