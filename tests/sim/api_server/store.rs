//! Objects, their versions and their history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::patch::Patch;
use super::select::Query;
use super::{Refusal, rules, schema};

/// Changes kept for watches; whoever is further behind is told that its version has expired.
const HISTORY: usize = 4_000;

/// A kind of objects that the server knows.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) api_version: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) has_status: bool,
    /// Its `metadata.generation` counts.
    counted: bool,
}

const fn resource_of(
    api_version: &'static str,
    plural: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        api_version,
        plural,
        kind,
        has_status: false,
        counted: false,
    }
}

const fn custom(plural: &'static str, kind: &'static str) -> Resource {
    Resource {
        has_status: true,
        counted: true,
        ..resource_of("pool.convos.org/v1alpha1", plural, kind)
    }
}

static RESOURCES: &[Resource] = &[
    custom("agentpools", "AgentPool"),
    custom("agentinstances", "AgentInstance"),
    resource_of("v1", "secrets", "Secret"),
    resource_of("apps/v1", "controllerrevisions", "ControllerRevision"),
    resource_of("coordination.k8s.io/v1", "leases", "Lease"),
    resource_of("events.k8s.io/v1", "events", "Event"),
    resource_of("v1", "namespaces", "Namespace"),
];

pub(super) fn resource(api_version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|r| r.api_version == api_version && r.plural == plural)
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It came.
    Added,
    /// It changed.
    Modified,
    /// It went.
    Deleted,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// When.
    pub at: Instant,
    /// What happened.
    pub kind: Kind,
    /// Of which resource, by its plural.
    pub plural: &'static str,
    /// The object after it (deleted: as it was last).
    pub object: Arc<Value>,
    /// The object before it.
    pub before: Option<Arc<Value>>,
}

/// What a watch finds after its version.
pub(super) enum Seen {
    Change(Change),
    Nothing(u64),
    Gone,
}

type Key = (&'static str, String, String);
/// Where an object is: its resource, its namespace, its name.
pub(super) type Place<'a> = (&'static Resource, Option<&'a str>, &'a str);
type Observer = Box<dyn FnMut(&Change) + Send>;

/// All objects.
pub struct Store {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    /// Versions up to this one can no longer be watched from.
    expired: u64,
    made: u64,
    now: Box<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    observer: Option<Observer>,
}

impl Store {
    pub(super) fn new(now: Box<dyn Fn() -> jiff::Timestamp + Send + Sync>) -> Self {
        Self {
            version: 100,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            expired: 0,
            made: 0,
            now,
            observer: None,
        }
    }

    /// The latest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whoever is to hear of every change, at once and under the lock.
    pub fn observe(&mut self, observer: impl FnMut(&Change) + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// Forgets the history: open watches are told that their version has expired.
    pub fn expire(&mut self) {
        self.history.clear();
        self.expired = self.version;
    }

    /// All objects of a resource, by its plural.
    pub fn all(&self, plural: &str) -> Vec<Arc<Value>> {
        let found = self.objects.iter().filter(|((p, _, _), _)| *p == plural);
        found.map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn get(
        &self,
        of: &'static Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, Refusal> {
        let key = key((of, namespace, name));
        let found = self.objects.get(&key);
        found
            .map(|o| (**o).clone())
            .ok_or_else(|| not_found(of, name))
    }

    pub(super) fn list(
        &self,
        of: &'static Resource,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<Value, Refusal> {
        let after = query.after.as_deref();
        let mut found: Vec<(String, &Arc<Value>)> = self
            .objects
            .iter()
            .filter(|((plural, ns, _), o)| {
                *plural == of.plural && namespace.is_none_or(|n| n == ns) && query.fits(o)
            })
            .map(|((_, ns, name), o)| (format!("{ns}/{name}"), o))
            .filter(|(key, _)| after.is_none_or(|a| key.as_str() > a))
            .collect();
        let more = query.limit > 0 && found.len() > query.limit;
        if more {
            found.truncate(query.limit);
        }
        let next = found.last().filter(|_| more).map(|(key, _)| key.clone());
        let items: Vec<&Value> = found.iter().map(|(_, o)| &***o).collect();
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next.unwrap_or_default()});
        Ok(
            json!({"apiVersion": of.api_version, "kind": format!("{}List", of.kind), "metadata": metadata, "items": items}),
        )
    }

    pub(super) fn after(&self, of: &Resource, namespace: Option<&str>, position: u64) -> Seen {
        if position < self.expired {
            return Seen::Gone;
        }
        let begin = self.history.partition_point(|c| c.version <= position);
        let mine = |c: &&Change| {
            c.plural == of.plural
                && namespace.is_none_or(|n| c.object["metadata"]["namespace"] == n)
        };
        match self.history.range(begin..).find(mine) {
            Some(change) => Seen::Change(change.clone()),
            None => Seen::Nothing(self.version),
        }
    }

    pub(super) fn create(
        &mut self,
        of: &'static Resource,
        namespace: Option<&str>,
        mut object: Value,
    ) -> Result<Value, Refusal> {
        if of.counted && (object["kind"] != of.kind || object["apiVersion"] != of.api_version) {
            let message = "the object does not say of which kind it is";
            return Err(Refusal::new(400, "BadRequest", message));
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|_, value| !value.is_null());
        }
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if name.is_empty() {
            return Err(invalid(
                of,
                &name,
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        if let Some(namespace) = namespace {
            self.open_namespace(namespace)?;
        }
        let key = key((of, namespace, &name));
        if self.objects.contains_key(&key) {
            let message = format!("{} \"{name}\" already exists", group_resource(of));
            return Err(Refusal::new(409, "AlreadyExists", message));
        }
        self.made += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.made);
        let stamp = self.stamp();
        let fields = object
            .as_object_mut()
            .ok_or_else(|| Refusal::new(400, "BadRequest", "not an object"))?;
        fields.insert("apiVersion".to_owned(), of.api_version.into());
        fields.insert("kind".to_owned(), of.kind.into());
        if of.has_status {
            fields.remove("status");
        }
        if of.plural == "secrets" {
            keep_strings(fields);
        }
        let metadata = &mut object["metadata"];
        for server_s in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
            "selfLink",
        ] {
            metadata.as_object_mut().and_then(|m| m.remove(server_s));
        }
        metadata["uid"] = uid.into();
        metadata["creationTimestamp"] = stamp.into();
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        if of.counted {
            metadata["generation"] = 1.into();
        }
        self.admit(of, None, &mut object)?;
        Ok(self.commit(of, key, None, object))
    }

    pub(super) fn patch(
        &mut self,
        place: Place<'_>,
        status: bool,
        patch: &Patch,
    ) -> Result<Value, Refusal> {
        let (of, _, name) = place;
        let key = key(place);
        let old = self
            .objects
            .get(&key)
            .cloned()
            .ok_or_else(|| not_found(of, name))?;
        let mut new = patch.applied(&old)?;
        // None are kept here, and a patch that empties them changes nothing.
        new["metadata"]
            .as_object_mut()
            .and_then(|m| m.remove("managedFields"));
        let version = &new["metadata"]["resourceVersion"];
        if !version.is_null() && version != "" && *version != old["metadata"]["resourceVersion"] {
            return Err(conflict(of, name));
        }
        if new["metadata"]["uid"] != old["metadata"]["uid"] && !new["metadata"]["uid"].is_null() {
            return Err(conflict(of, name));
        }
        new = if status {
            with_status(&old, &new)
        } else {
            with_main(of, &old, new)?
        };
        self.admit(of, Some(&old), &mut new)?;
        let body = |o: &Value| {
            let mut fields = o.as_object().cloned().unwrap_or_default();
            for apart in ["metadata", "status"] {
                fields.remove(apart);
            }
            fields
        };
        if of.counted && body(&old) != body(&new) {
            new["metadata"]["generation"] =
                (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        if new == *old {
            return Ok(new);
        }
        Ok(self.commit(of, key, Some(old), new))
    }

    pub(super) fn delete(&mut self, place: Place<'_>, options: &Value) -> Result<Value, Refusal> {
        let (of, _, name) = place;
        let key = key(place);
        let old = self
            .objects
            .get(&key)
            .cloned()
            .ok_or_else(|| not_found(of, name))?;
        for (field, wanted) in options["preconditions"].as_object().into_iter().flatten() {
            if !wanted.is_null() && old["metadata"][field] != *wanted {
                return Err(conflict(of, name));
            }
        }
        let held = old["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
        if !held {
            self.commit_removal(key, old);
            return Ok(
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
            );
        }
        if !old["metadata"]["deletionTimestamp"].is_null() {
            return Ok((*old).clone());
        }
        let mut new = (*old).clone();
        new["metadata"]["deletionTimestamp"] = self.stamp().into();
        new["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        if let Some(generation) = old["metadata"]["generation"].as_i64() {
            new["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(self.commit(of, key, Some(old), new))
    }

    fn open_namespace(&self, name: &str) -> Result<(), Refusal> {
        let found = self
            .objects
            .get(&("namespaces", String::new(), name.to_owned()));
        let found = found.ok_or_else(|| {
            Refusal::new(404, "NotFound", format!("namespaces \"{name}\" not found"))
        })?;
        if found["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let message = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        Err(Refusal::new(403, "Forbidden", message))
    }

    fn admit(&self, of: &Resource, old: Option<&Value>, new: &mut Value) -> Result<(), Refusal> {
        let name = new["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if let Some(schema) = schema::of(of.plural) {
            schema::shape(new, schema);
            if let Some(message) = schema::offence(new, schema) {
                return Err(invalid(of, &name, &message));
            }
        }
        if let Some(rule) = rules::broken(of.plural, old, new) {
            return Err(invalid(of, &name, rule));
        }
        let fixed =
            of.plural == "controllerrevisions" || old.is_some_and(|o| o["immutable"] == true);
        if fixed && old.is_some_and(|o| o["data"] != new["data"]) {
            return Err(invalid(
                of,
                &name,
                "data: Invalid value: field is immutable",
            ));
        }
        Ok(())
    }

    fn stamp(&self) -> String {
        (self.now)().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Stores a new state; one without finalizers that is being deleted goes.
    fn commit(
        &mut self,
        of: &'static Resource,
        key: Key,
        old: Option<Arc<Value>>,
        mut new: Value,
    ) -> Value {
        let metadata = &new["metadata"];
        let held = metadata["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
        let going = !metadata["deletionTimestamp"].is_null();
        if going && !held {
            // The answer still has the version before it.
            self.commit_removal(key, Arc::new(new.clone()));
            return new;
        }
        self.version += 1;
        new["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(new.clone());
        self.objects.insert(key, object.clone());
        let kind = if old.is_some() {
            Kind::Modified
        } else {
            Kind::Added
        };
        self.tell(of.plural, kind, object, old);
        new
    }

    fn commit_removal(&mut self, key: Key, last: Arc<Value>) {
        let before = self.objects.remove(&key);
        self.version += 1;
        let mut object = (*last).clone();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let uid = object["metadata"]["uid"].clone();
        self.tell(key.0, Kind::Deleted, Arc::new(object), before);
        // The garbage collector, at once.
        let owned = |o: &Value| {
            let owners = o["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|all| all.iter().any(|r| r["uid"] == uid))
        };
        let dependents: Vec<Key> = self
            .objects
            .iter()
            .filter(|(_, o)| owned(o))
            .map(|(k, _)| k.clone())
            .collect();
        for dependent in dependents {
            if let Some(object) = self.objects.get(&dependent).cloned() {
                self.commit_removal(dependent, object);
            }
        }
    }

    fn tell(
        &mut self,
        plural: &'static str,
        kind: Kind,
        object: Arc<Value>,
        before: Option<Arc<Value>>,
    ) {
        #[allow(
            clippy::disallowed_methods,
            reason = "virtual time is the subject here"
        )]
        let at = Instant::now();
        let change = Change {
            version: self.version,
            at,
            kind,
            plural,
            object,
            before,
        };
        if let Some(observer) = &mut self.observer {
            observer(&change);
        }
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(old) = self.history.pop_front()
        {
            self.expired = old.version;
        }
    }
}

fn key((of, namespace, name): Place<'_>) -> Key {
    (
        of.plural,
        namespace.unwrap_or_default().to_owned(),
        name.to_owned(),
    )
}

fn group_resource(of: &Resource) -> String {
    match of.api_version.split_once('/') {
        Some((group, _)) => format!("{}.{group}", of.plural),
        None => of.plural.to_owned(),
    }
}

fn not_found(of: &Resource, name: &str) -> Refusal {
    Refusal::new(
        404,
        "NotFound",
        format!("{} \"{name}\" not found", group_resource(of)),
    )
}

fn conflict(of: &Resource, name: &str) -> Refusal {
    let message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": the object has been modified",
        group_resource(of)
    );
    Refusal::new(409, "Conflict", message)
}

fn invalid(of: &Resource, name: &str, why: &str) -> Refusal {
    Refusal::new(
        422,
        "Invalid",
        format!("{} \"{name}\" is invalid: {why}", of.kind),
    )
}

/// Only the status of a change counts.
fn with_status(old: &Value, new: &Value) -> Value {
    let mut kept = old.clone();
    match new.get("status").filter(|s| !s.is_null()) {
        Some(status) => kept["status"] = status.clone(),
        None => {
            kept.as_object_mut().and_then(|o| o.remove("status"));
        }
    }
    kept
}

/// All but the status of a change counts, and what only the server writes stays.
fn with_main(of: &Resource, old: &Value, mut new: Value) -> Result<Value, Refusal> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    if of.has_status {
        match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => {
                new.as_object_mut().and_then(|o| o.remove("status"));
            }
        }
    }
    for fixed in ["apiVersion", "kind"] {
        new[fixed] = old[fixed].clone();
    }
    for fixed in [
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "name",
        "namespace",
    ] {
        match old["metadata"].get(fixed) {
            Some(value) => new["metadata"][fixed] = value.clone(),
            None => {
                new["metadata"]
                    .as_object_mut()
                    .and_then(|m| m.remove(fixed));
            }
        }
    }
    let none = new["metadata"]["finalizers"]
        .as_array()
        .is_some_and(Vec::is_empty);
    if none || new["metadata"]["finalizers"].is_null() {
        new["metadata"]
            .as_object_mut()
            .and_then(|m| m.remove("finalizers"));
    }
    let held = |o: &Value| {
        o["metadata"]["finalizers"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let before = held(old);
    if !old["metadata"]["deletionTimestamp"].is_null()
        && held(&new).iter().any(|f| !before.contains(f))
    {
        return Err(invalid(
            of,
            name,
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted",
        ));
    }
    Ok(new)
}

/// `stringData` becomes `data`.
fn keep_strings(fields: &mut Map<String, Value>) {
    let Some(Value::Object(strings)) = fields.remove("stringData") else {
        return;
    };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    for (key, text) in strings {
        let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
        data[key] = serde_json::to_value(bytes).unwrap_or_default();
    }
}
