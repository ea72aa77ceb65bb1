//! A world of one test: a namespace of the shared cluster, a simulator, an operator; and what a user does in it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentpool::api::{AgentInstance, AgentPool};
use agentpool::domain::instance::phase::{Phase, phase_of};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use reqwest::Method;
use serde_json::{Value, json};

use super::cluster::{Cluster, Namespace};
use super::operator::{KEY, Operator};
use super::simulator::{ENVIRONMENT, PROJECT, Simulator, TOKEN};
use super::wait::{LONG, progress, until};

/// How much faster than life the simulators of these tests are: an agent is up in well under a second.
pub const SPEED: f64 = 20.0;
/// The pool of a world.
pub const POOL: &str = "pool";

/// One test's world. Fields are dropped in this order: operator, simulator, namespace.
pub struct World {
    /// The operator, where one runs.
    pub operator: Option<Operator>,
    /// Railway and the agents.
    pub sim: Simulator,
    /// The test's namespace.
    pub namespace: Namespace,
    /// A client with all rights.
    pub client: Client,
    /// The cluster it is in.
    pub cluster: &'static Cluster,
    http: reqwest::Client,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null where it is none.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

/// The shared cluster with our CRDs installed.
pub fn cluster() -> &'static Cluster {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let cluster = Cluster::shared();
    INSTALLED.get_or_init(|| install_crds(cluster));
    cluster
}

/// Installs the CRDs of `crds/` as a user would, and waits until they are served.
pub fn install_crds(cluster: &Cluster) {
    install_crds_from(cluster, concat!(env!("CARGO_MANIFEST_DIR"), "/crds"));
}

/// The same with those of another folder.
pub fn install_crds_from(cluster: &Cluster, folder: &str) {
    let applied = cluster.kubectl(["apply", "--server-side", "--force-conflicts", "-f", folder]);
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    let crds: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .map(|plural| format!("crd/{plural}.pool.convos.org"))
        .collect();
    // kubectl gives up at once on a definition that has no conditions yet.
    let begun = std::time::Instant::now();
    loop {
        let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
        let waited = cluster.kubectl(wait.into_iter().chain(crds.iter().map(String::as_str)));
        if waited.status.success() {
            return;
        }
        assert!(
            begun.elapsed() < LONG,
            "{}",
            String::from_utf8_lossy(&waited.stderr)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl World {
    /// A namespace and a simulator, with the Secret `railway`; no operator yet.
    pub async fn bare(name: &str) -> Self {
        Self::seeded(name, 1).await
    }

    /// The same with a simulator whose chances follow from `seed`.
    pub async fn seeded(name: &str, seed: u64) -> Self {
        Self::made(cluster(), name, seed).await
    }

    /// The same on another cluster, which has the CRDs.
    pub async fn on(cluster: &'static Cluster, name: &str) -> Self {
        Self::made(cluster, name, 1).await
    }

    async fn made(cluster: &'static Cluster, name: &str, seed: u64) -> Self {
        let namespace = cluster.namespace(name).await;
        let client = cluster.client().await;
        let sim = Simulator::seeded(SPEED, seed);
        let world = Self {
            operator: None,
            sim,
            namespace,
            client,
            cluster,
            http: reqwest::Client::new(),
        };
        world.secret("railway", "token", TOKEN).await;
        world
    }

    /// A world with a running operator (`agentpool run`) and no pool yet.
    pub async fn start(name: &str) -> Self {
        let mut world = Self::bare(name).await;
        world.start_operator(&[]);
        world
    }

    /// A world with a pool of `spec` on top of [`pool_spec`], filled to its minimum.
    pub async fn with_pool(name: &str, spec: Value) -> Self {
        let world = Self::start(name).await;
        let pool = world.create_pool(POOL, spec).await;
        world
            .wait_idle(usize::try_from(pool.spec.min_idle).unwrap())
            .await;
        world
    }

    /// The operator's variables: this world's namespace, simulator and key.
    pub fn environment(&self, extra: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([
            (
                "KUBECONFIG",
                self.cluster.kubeconfig().to_str().unwrap().to_owned(),
            ),
            ("AGENTPOOL_NAMESPACE", self.namespace.to_string()),
            (
                "AGENTPOOL_RAILWAY_URL",
                format!("http://{}/graphql/v2", self.sim.peers),
            ),
            (
                "AGENTPOOL_REGISTRY_URL",
                format!("http://{}/ghcr", self.sim.peers),
            ),
            // A moved tag is seen soon.
            ("AGENTPOOL_DIGEST_SECONDS", "1".to_owned()),
            (
                "AGENTPOOL_SPRITES_URL",
                format!("http://{}", self.sim.peers),
            ),
            ("AGENTPOOL_AGENT_CONNECT_TO", self.sim.peers.clone()),
            ("AGENTPOOL_LISTEN", "127.0.0.1".to_owned()),
            ("AGENTPOOL_OPERATIONS_PORT", "0".to_owned()),
            ("PORT", "0".to_owned()),
            ("POOL_API_KEY", KEY.to_owned()),
            // Whoever follows a killed operator waits a term.
            ("AGENTPOOL_LEASE_SECONDS", "5".to_owned()),
            ("LOG_LEVEL", "info,agentpool=debug".to_owned()),
        ])
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect::<BTreeMap<_, _>>();
        for (name, value) in extra {
            // An empty value takes the variable away.
            if value.is_empty() {
                all.remove(*name);
            } else {
                all.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        all
    }

    /// Starts `agentpool run` with these variables changed.
    pub fn start_operator(&mut self, extra: &[(&str, &str)]) {
        self.operator = Some(Operator::start("run", &self.environment(extra)));
    }

    /// The running operator.
    pub fn operator(&mut self) -> &mut Operator {
        self.operator.as_mut().expect("an operator runs")
    }

    // ---- objects ----------------------------------------------------------------------------------------------

    /// Creates or replaces a Secret with one value.
    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}});
        api.patch(
            name,
            &PatchParams::apply("test").force(),
            &Patch::Apply(patch),
        )
        .await
        .unwrap();
    }

    /// Rotates the Secret `railway` to another token of the same workspace.
    pub async fn fresh_token(&self) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let token = format!("5eed0000-0000-4000-8000-{number:012}");
        let workspace = "5eed0000-0000-4000-8000-0000000000aa";
        let new = json!({"token": token, "kind": "workspace", "workspaceId": workspace});
        self.sim.set("railway", json!({"tokens": [new]})).await;
        self.secret("railway", "token", &token).await;
    }

    /// The pools.
    pub fn pools(&self) -> Api<AgentPool> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The instances.
    pub fn instances(&self) -> Api<AgentInstance> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a pool: [`pool_spec`] with `spec` merged over it.
    pub async fn create_pool(&self, name: &str, spec: Value) -> AgentPool {
        let mut full = pool_spec();
        merge(&mut full, &spec);
        let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool", "metadata": {"name": name}, "spec": full});
        let pool: AgentPool = serde_json::from_value(object).unwrap();
        self.pools()
            .create(&PostParams::default(), &pool)
            .await
            .unwrap()
    }

    /// Changes the pool's spec.
    pub async fn patch_pool(&self, spec: Value) -> AgentPool {
        self.pools()
            .patch(
                POOL,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await
            .unwrap()
    }

    /// The pool, as it is now.
    pub async fn pool(&self) -> AgentPool {
        self.pools().get(POOL).await.unwrap()
    }

    /// A condition of the pool: (status, reason, message).
    pub async fn pool_condition(&self, kind: &str) -> Option<(String, String, String)> {
        let status = self.pools().get_opt(POOL).await.unwrap()?.status?;
        status
            .conditions
            .into_iter()
            .find(|c| c.type_ == kind)
            .map(|c| (c.status, c.reason, c.message))
    }

    /// All instances, by the API server.
    pub async fn list(&self) -> Vec<AgentInstance> {
        self.instances()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
    }

    /// The instances in a phase, as derived (never by `status.phase`), oldest first.
    pub async fn in_phase(&self, phase: Phase) -> Vec<AgentInstance> {
        let mut found: Vec<_> = self
            .list()
            .await
            .into_iter()
            .filter(|i| phase_of(i) == phase)
            .collect();
        found.sort_by_key(|i| {
            (
                i.metadata.creation_timestamp.as_ref().map(|t| t.0),
                i.name_any(),
            )
        });
        found
    }

    /// Waits for exactly so many idle instances, while anything goes on.
    pub async fn wait_idle(&self, count: usize) -> Vec<AgentInstance> {
        progress(&format!("{count} idle instances"), || async {
            let idle = self.in_phase(Phase::Idle).await;
            if idle.len() == count {
                return Ok(idle);
            }
            Err(standing(&self.list().await))
        })
        .await
    }

    /// Waits until the pool's own counts are what its objects say, and it is Ready.
    pub async fn wait_ready(&self) -> AgentPool {
        until("the pool is Ready", LONG, || async {
            let ready = self
                .pool_condition("Ready")
                .await
                .is_some_and(|c| c.0 == "True");
            if ready { Some(self.pool().await) } else { None }
        })
        .await
    }

    /// The instance of that id.
    pub async fn instance(&self, id: &str) -> Option<AgentInstance> {
        self.list().await.into_iter().find(|i| i.spec.id == id)
    }

    /// Waits until the object of that id is gone.
    pub async fn wait_gone(&self, id: &str) {
        until(&format!("instance {id} is gone"), LONG, || async {
            self.instance(id).await.is_none().then_some(())
        })
        .await;
    }

    /// Deletes an object of ours by name, as `kubectl delete --wait=false` does.
    pub async fn delete(&self, name: &str) {
        self.instances()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// kubectl in this namespace; its standard output. Panics where it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let (ok, text) = self.try_kubectl(arguments);
        assert!(ok, "kubectl {arguments:?}: {text}");
        text
    }

    /// kubectl in this namespace; whether it succeeded, and its output or error.
    pub fn try_kubectl(&self, arguments: &[&str]) -> (bool, String) {
        let mut all = vec!["--namespace", &*self.namespace];
        all.extend_from_slice(arguments);
        let output = self.cluster.kubectl(all);
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    // ---- the HTTP API -----------------------------------------------------------------------------------------

    /// A call with the key.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        self.call_with(
            method,
            path,
            Some(&format!("Bearer {KEY}")),
            Some(body.to_string()),
        )
        .await
    }

    /// A call with an Authorization header (or none) and a body (or none), both as given.
    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        body: Option<String>,
    ) -> Answer {
        let operator = self.operator.as_ref().expect("an operator runs");
        let mut request = self
            .http
            .request(method, format!("{}{path}", operator.api))
            .timeout(Duration::from_secs(170));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    /// GET with the key.
    pub async fn get(&self, path: &str) -> Answer {
        self.call_with(Method::GET, path, Some(&format!("Bearer {KEY}")), None)
            .await
    }

    /// Claims an agent in create mode.
    pub async fn claim(&self, agent: &str) -> Answer {
        self.call(
            Method::POST,
            "/api/pool/claim",
            json!({"agentName": agent, "instructions": "Be kind."}),
        )
        .await
    }

    /// Waits until the API's counts have this number under this key.
    pub async fn wait_count(&self, key: &str, count: i64) {
        until(&format!("counts.{key} is {count}"), LONG, || async {
            (self.get("/api/pool/counts").await.body[key] == count).then_some(())
        })
        .await;
    }

    // ---- the agents -------------------------------------------------------------------------------------------

    /// A request to an agent as `curl --connect-to` sends it: to the simulator, under the agent's own host name.
    pub async fn agent(&self, url: &str, path: &str, token: Option<&str>) -> Answer {
        let host = url.trim_start_matches("https://");
        let mut request = self
            .http
            .get(format!("http://{}{path}", self.sim.peers))
            .header("host", host);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    // ---- the end ----------------------------------------------------------------------------------------------

    /// Deletes the pool and everything in it, and proves that nothing paid is left and no rule was broken.
    pub async fn finish(self) {
        self.sim.heal("railway").await;
        self.sim.heal("agents").await;
        let _ = self
            .pools()
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await;
        let _ = self
            .instances()
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await;
        progress("every object is gone", || async {
            let mut left = standing(&self.list().await);
            let pools = self.pools().list(&ListParams::default()).await.unwrap();
            left.extend(pools.items.iter().map(|p| format!("pool {}", p.name_any())));
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        let ours: Vec<_> = self
            .sim
            .live_services()
            .await
            .into_iter()
            .filter(|s| !s["owner"].is_null())
            .chain(self.sim.live("volume").await)
            .collect();
        assert!(ours.is_empty(), "left at the provider: {ours:?}");
        self.sim.check_invariants().await;
    }
}

/// How far each instance is, as a line: it changes while something goes on.
pub fn standing(all: &[AgentInstance]) -> Vec<String> {
    let line = |i: &AgentInstance| {
        let status = i.status.as_ref();
        let operation = status.and_then(|s| s.operation.as_ref());
        let step = operation.and_then(|o| o.steps.get(usize::try_from(o.index).ok()?));
        let step = step.map(|s| format!(", step {} {} {}", s.name, s.state, s.attempt));
        let ready = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == "Ready"));
        let ready = ready.map(|c| format!(", {}: {}", c.reason, c.message));
        let parts = [step, ready].map(Option::unwrap_or_default).concat();
        format!("{} {}{parts}", i.name_any(), phase_of(i).as_str())
    };
    all.iter().map(line).collect()
}

/// The spec that tests start from: three agents on Railway, a tick of two seconds.
pub fn pool_spec() -> Value {
    json!({
        "environment": "staging",
        "minIdle": 2,
        "maxTotal": 10,
        "tickIntervalSeconds": 2,
        "provider": {"railway": {
            "tokenSecretRef": {"name": "railway", "key": "token"},
            "project": {"projectId": PROJECT, "environmentId": ENVIRONMENT},
            "source": {"image": {"reference": "ghcr.io/xmtplabs/convos-runtime:0.3.4", "digestPolicy": "Off"}},
            "startCommand": "node convos-platform/pool-server/dist/index.js",
        }},
        "runtime": {"envProfile": "Minimal", "env": [{"name": "OPENROUTER_API_KEY", "value": "sk-simulated"}]},
    })
}

/// Merges `change` into `value`, objects deeply; null removes.
pub fn merge(value: &mut Value, change: &Value) {
    match (value, change) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, change) in from {
                if change.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), change);
                }
            }
        }
        (value, change) => *value = change.clone(),
    }
}
