//! A world for the API in process: watch caches, an API server that knows preconditions, a controller that answers
//! requests, and a claim service that does as told. No socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use agentpool::api::{ANNOTATION_REQUESTS, AgentInstance, AgentPool};
use agentpool::claim::{ClaimAnswer, ClaimError, ClaimRequest, DurableClaims, Terms};
use agentpool::clock::{Clock, Rng};
use agentpool::http::{ApiKeys, AppState, Callers, Readiness, Settings, router};
use agentpool::operations::Operations;
use agentpool::telemetry::Metrics;
use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use kube::runtime::reflector::{Store, store::Writer};
use kube::runtime::watcher::Event;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub const KEY: &str = "the-pool-key";
pub const TOKEN_MARK: &str = "canary-token-of-";

/// An answer of the API, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert_eq!(
            self.headers[header::CONTENT_TYPE],
            "application/json",
            "{}",
            self.text
        );
        serde_json::from_str(&self.text).unwrap()
    }

    pub fn is(&self, status: u16, body: Value) {
        assert_eq!((self.status.as_u16(), self.json()), (status, body));
    }

    pub fn fails(&self, status: u16, code: &str, error: &str) {
        let body = self.json();
        assert_eq!(
            (self.status.as_u16(), &body["code"], &body["error"]),
            (status, &json!(code), &json!(error))
        );
    }
}

type OnDelete = Box<dyn FnOnce(&mut Value) + Send>;
type Controller = Box<dyn Fn(&Value) -> Option<Value> + Send>;

/// The objects of the API server.
pub struct Cluster {
    pub instances: BTreeMap<String, Value>,
    pub pools: BTreeMap<String, Value>,
    /// Runs on the object just before a DELETE is judged, once each: what somebody else wrote meanwhile.
    pub before_delete: VecDeque<OnDelete>,
    /// How many pool patches are answered with a conflict first.
    pub conflicts: u32,
    /// Nothing is answered but an error.
    pub down: bool,
    /// Gives the answer to a request, if it answers at all.
    pub controller: Controller,
    pub deleted: Vec<String>,
    pub asked: Vec<Value>,
    pools_out: Writer<AgentPool>,
    instances_out: Writer<AgentInstance>,
    version: u64,
}

impl Cluster {
    fn bump(&mut self, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    pub fn put_instance(&mut self, mut object: Value) {
        self.bump(&mut object);
        self.instances_out.apply_watcher_event(&Event::Apply(
            serde_json::from_value(object.clone()).unwrap(),
        ));
        self.instances.insert(path(&object), object);
    }

    pub fn put_pool(&mut self, mut object: Value) {
        self.bump(&mut object);
        self.pools_out.apply_watcher_event(&Event::Apply(
            serde_json::from_value(object.clone()).unwrap(),
        ));
        self.pools.insert(path(&object), object);
    }

    fn serve(&mut self, method: &Method, uri: &str, body: &Value) -> (u16, Value) {
        if self.down {
            return failure(500, "down");
        }
        let parts: Vec<&str> = uri.split('?').next().unwrap().split('/').collect();
        let [
            _,
            "apis",
            "pool.convos.org",
            "v1alpha1",
            "namespaces",
            namespace,
            kind,
            name,
        ] = parts[..]
        else {
            return failure(400, "an address that the tests do not know");
        };
        let key = format!("{namespace}/{name}");
        match (method.as_str(), kind) {
            ("GET", "agentinstances") => self
                .instances
                .get(&key)
                .map_or(failure(404, "no"), |o| (200, o.clone())),
            ("GET", "agentpools") => self
                .pools
                .get(&key)
                .map_or(failure(404, "no"), |o| (200, o.clone())),
            ("DELETE", "agentinstances") => self.delete(&key, &body["preconditions"]),
            ("PATCH", "agentpools") => self.patch_pool(&key, body),
            _ => failure(405, "no"),
        }
    }

    fn delete(&mut self, key: &str, preconditions: &Value) -> (u16, Value) {
        if let (Some(change), Some(mut object)) = (
            self.before_delete.pop_front(),
            self.instances.get(key).cloned(),
        ) {
            change(&mut object);
            // The watch is behind: only the API server has it.
            self.bump(&mut object);
            self.instances.insert(key.to_owned(), object);
        }
        let Some(object) = self.instances.get(key).cloned() else {
            return failure(404, "no");
        };
        for field in ["resourceVersion", "uid"] {
            assert!(preconditions[field].is_string(), "a DELETE without {field}");
            if preconditions[field] != object["metadata"][field] {
                return failure(409, "Precondition failed");
            }
        }
        self.deleted
            .push(object["spec"]["id"].as_str().unwrap().to_owned());
        let mut object = object;
        object["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
        self.put_instance(object.clone());
        (200, object)
    }

    fn patch_pool(&mut self, key: &str, patch: &Value) -> (u16, Value) {
        let Some(mut object) = self.pools.get(key).cloned() else {
            return failure(404, "no");
        };
        assert!(
            patch["metadata"]["resourceVersion"].is_string(),
            "a patch without resourceVersion"
        );
        if self.conflicts > 0
            || patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"]
        {
            self.conflicts = self.conflicts.saturating_sub(1);
            return failure(409, "Conflict");
        }
        let list = &patch["metadata"]["annotations"][ANNOTATION_REQUESTS];
        object["metadata"]["annotations"] = json!({});
        if let Some(text) = list.as_str() {
            object["metadata"]["annotations"][ANNOTATION_REQUESTS] = json!(text);
            for entry in serde_json::from_str::<Vec<Value>>(text).unwrap() {
                if !self.asked.contains(&entry) {
                    self.asked.push(entry.clone());
                }
                if let Some(mut answer) = (self.controller)(&entry) {
                    answer["at"] = json!("2026-11-21T12:00:00Z");
                    object["status"]["requests"][entry["id"].as_str().unwrap()] = answer;
                }
            }
        }
        self.put_pool(object.clone());
        (200, object)
    }
}

fn path(object: &Value) -> String {
    format!(
        "{}/{}",
        object["metadata"]["namespace"].as_str().unwrap(),
        object["metadata"]["name"].as_str().unwrap()
    )
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "",
    };
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

/// What the claim service answers.
pub type Answering =
    Box<dyn Fn(&AgentPool, &ClaimRequest) -> Result<ClaimAnswer, ClaimError> + Send + Sync>;

/// A claim service that does as told, slowly if told.
pub struct FakeClaims {
    pub answer: Mutex<Answering>,
    pub seen: Mutex<Vec<(String, ClaimRequest)>>,
    pub terms: Mutex<Vec<Terms>>,
    pub finished: Mutex<u32>,
    pub takes: std::time::Duration,
}

#[async_trait]
impl DurableClaims for FakeClaims {
    async fn claim(
        &self,
        pool: &AgentPool,
        request: ClaimRequest,
        terms: Terms,
    ) -> Result<ClaimAnswer, ClaimError> {
        self.seen
            .lock()
            .unwrap()
            .push((pool.metadata.name.clone().unwrap(), request.clone()));
        self.terms.lock().unwrap().push(terms);
        tokio::time::sleep(self.takes).await;
        *self.finished.lock().unwrap() += 1;
        (self.answer.lock().unwrap())(pool, &request)
    }
}

pub fn bound(id: &str, request: &ClaimRequest) -> ClaimAnswer {
    ClaimAnswer {
        instance_id: id.to_owned(),
        agent_name: request.agent_name.clone(),
        conversation_id: Some("conv-1".to_owned()),
        invite_url: Some(
            request
                .join_url
                .clone()
                .unwrap_or_else(|| "https://dev.convos.org/v2?i=new".to_owned()),
        ),
        invite_slug: None,
        joined: request.join_url.is_some(),
        waiting_for_acceptance: false,
        gateway_token: Some(SecretString::from("f".repeat(64))),
        gateway_url: "https://agent.up.railway.app".to_owned(),
        agent_took: std::time::Duration::from_millis(12),
    }
}

/// The API and everything around it.
pub struct World {
    pub state: AppState,
    pub cluster: Arc<Mutex<Cluster>>,
    pub claims: Arc<FakeClaims>,
}

impl World {
    /// One pool `agents/staging` without instances.
    pub fn new() -> Self {
        let world = Self::empty();
        world
            .cluster
            .lock()
            .unwrap()
            .put_pool(pool("agents", "staging"));
        world
    }

    pub fn empty() -> Self {
        let (pools, pools_out) = store();
        let (instances, instances_out) = store();
        let cluster = Arc::new(Mutex::new(Cluster {
            instances: BTreeMap::new(),
            pools: BTreeMap::new(),
            before_delete: VecDeque::new(),
            conflicts: 0,
            down: false,
            controller: Box::new(|_| None),
            deleted: vec![],
            asked: vec![],
            pools_out,
            instances_out,
            version: 0,
        }));
        let claims = Arc::new(FakeClaims {
            answer: Mutex::new(Box::new(|_, request| Ok(bound("rnm8ubqafzcz", request)))),
            seen: Mutex::default(),
            terms: Mutex::default(),
            finished: Mutex::default(),
            takes: std::time::Duration::from_millis(20),
        });
        let (clock, tasks) = (Clock::system(), TaskTracker::new());
        let client = client(cluster.clone());
        let operations = Operations::new(
            client,
            pools.clone(),
            instances.clone(),
            clock.clone(),
            Rng::seeded(1),
            tasks.clone(),
        );
        let state = AppState {
            pools,
            instances,
            claims: claims.clone(),
            operations,
            tokens: Arc::new(|i| Some(SecretString::from(format!("{TOKEN_MARK}{}", i.spec.id)))),
            callers: Callers::new(Arc::new(|i, given| {
                (i.spec.id != "keyless").then(|| given == format!("{TOKEN_MARK}{}", i.spec.id))
            })),
            auth: ApiKeys::new(&KEY.into()),
            settings: Arc::new(Settings {
                cors_origins: vec!["https://site.example".to_owned()],
                ..Settings::default()
            }),
            ready: Readiness::new(),
            metrics: Metrics::new(),
            clock,
            tasks,
        };
        Self {
            state,
            cluster,
            claims,
        }
    }

    pub fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(Arc::get_mut(&mut self.state.settings).unwrap());
    }

    pub fn add(&self, objects: impl IntoIterator<Item = Value>) {
        objects
            .into_iter()
            .for_each(|o| self.cluster.lock().unwrap().put_instance(o));
    }

    /// A call with the key.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {KEY}"));
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(
            request
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(body))
                .unwrap(),
        )
        .await
    }

    /// A GET without a key.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = router(self.state.clone())
            .oneshot(request)
            .await
            .unwrap()
            .into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }
}

fn store<K>() -> (Store<K>, Writer<K>)
where
    K: kube::runtime::reflector::Lookup + Clone + 'static,
    K::DynamicType: std::hash::Hash + Eq + Clone + Default,
{
    kube::runtime::reflector::store()
}

fn client(cluster: Arc<Mutex<Cluster>>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let cluster = cluster.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = axum::body::to_bytes(Body::new(body), usize::MAX)
                .await
                .unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let (code, answer) =
                cluster
                    .lock()
                    .unwrap()
                    .serve(&parts.method, &parts.uri.to_string(), &body);
            let answer = kube::client::Body::from(answer.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(
                Response::builder().status(code).body(answer).unwrap(),
            )
        }
    });
    kube::Client::new(service, "default")
}

pub fn pool(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("pool-{namespace}-{name}")},
        "spec": {
            "environment": "staging",
            "provider": {"railway": {"tokenSecretRef": {"name": "t"}, "source": {"image": {"reference": "r"}}}},
            "runtime": {"envProfile": "Minimal"},
        },
    })
}

/// An instance of `agents/staging` in a phase, by the facts that make it so; `age` orders them, the larger the older.
pub fn instance(id: &str, phase: &str, age: u32) -> Value {
    let minutes = 59 - age;
    let mut object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {
            "namespace": "agents", "name": agentpool::api::names::object_name(id), "uid": format!("uid-{id}"), "resourceVersion": "0",
            "creationTimestamp": format!("2026-11-21T10:{minutes:02}:00Z"), "labels": {},
        },
        "spec": {"id": id, "poolRef": {"name": "staging"}, "providerName": format!("convos-agent-stg-{id}"), "template": {"revision": "staging-1", "hash": "1"}, "turn": 1},
        "status": {
            "turn": 1, "url": format!("https://{id}.up.railway.app"),
            "provider": {"serviceId": format!("svc-{id}"), "deployStatus": "SUCCESS", "image": "ghcr.io/x/y:1"},
            "runtime": {"kind": "hermes", "version": "1.2"},
            "services": {"openrouter": {"hash": "or-hash"}, "agentmail": {"inboxId": "am-inbox"}},
        },
    });
    match phase {
        "Idle" => {}
        "Provisioning" => object["status"] = json!({}),
        "Claiming" => claim(&mut object, minutes, None),
        "Claimed" => claim(&mut object, minutes, Some("Bound")),
        "PendingAcceptance" => claim(&mut object, minutes, Some("Pending")),
        "Crashed" => {
            claim(&mut object, minutes, Some("Bound"));
            verdict(&mut object, "Crashed");
        }
        "Tainted" | "Dead" => verdict(&mut object, phase),
        "Sleeping" => object["status"]["provider"]["state"] = json!("Sleeping"),
        "Recycling" => {
            claim(&mut object, minutes, Some("Bound"));
            object["spec"]["release"] =
                json!({"id": "r", "mode": "Recycle", "requestedAt": "2026-11-21T11:59:00Z"});
        }
        "Terminating" => object["metadata"]["deletionTimestamp"] = json!("2026-11-21T11:59:00Z"),
        other => panic!("no phase {other}"),
    }
    object
}

pub fn claim(object: &mut Value, minutes: u32, outcome: Option<&str>) {
    let id = object["spec"]["id"].as_str().unwrap().to_owned();
    object["spec"]["claim"] = json!({
        "id": format!("c-{id}"), "holder": "h", "deadline": "2026-11-21T11:30:00Z", "requestedAt": format!("2026-11-21T11:{minutes:02}:00Z"),
        "agentName": format!("Agent {id}"), "instructions": format!("be {id}"),
    });
    if let Some(outcome) = outcome {
        object["status"]["claim"] = json!({
            "id": format!("c-{id}"), "outcome": outcome, "conversationId": format!("conv-{id}"),
            "inviteUrl": format!("https://dev.convos.org/v2?i={id}"), "joined": false, "claimedAt": format!("2026-11-21T11:{minutes:02}:01Z"),
        });
    }
}

fn verdict(object: &mut Value, state: &str) {
    object["status"]["verdict"] =
        json!({"state": state, "reason": "Gone", "message": "", "since": "2026-11-21T11:59:30Z"});
}

pub fn protected(mut object: Value) -> Value {
    object["metadata"]["labels"]["pool.convos.org/protected"] = json!("true");
    object
}
