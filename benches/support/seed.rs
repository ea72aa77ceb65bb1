//! Agents and their objects in bulk, exactly as an operator leaves them, without an operator that makes them.
//!
//! A thousand that are made one by one take minutes; what is measured here begins when they are there.

use agentpool::api::agent_instance::{
    AgentInstance, AgentInstanceStatus, ClaimStatus, ProviderStatus, RuntimeStatus,
};
use agentpool::api::condition::{ConditionType, Reason, Truth, set_condition};
use agentpool::api::{INSTANCE_FINALIZER, LABEL_POOL, names};
use agentpool::domain::instance::outcome::Outcome;
use agentpool::domain::instance::phase::Phase;
use agentpool::domain::instance::status;
use agentpool::domain::token::{Purpose, RootKey};
use agentpool::k8s::secret::ROOT_CURRENT;
use futures::stream::{self, TryStreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::LONG;
use super::operator::Operator;
use super::simulator::{ENVIRONMENT, PROJECT};
use super::wait::until;
use super::world::{POOL, World};

const IMAGE: &str = "ghcr.io/xmtplabs/convos-runtime:0.3.4";
/// As many writes at a time as an operator sends.
const WRITES: usize = 32;
/// Services per request to the simulator, whose bodies are bounded.
const CHUNK: usize = 2_000;

/// Seeds agents of the world's pool.
pub struct Seeder {
    cluster_id: String,
    hash: String,
    root: RootKey,
}

impl Seeder {
    /// Creates the pool with `spec`, lets an operator freeze its template, and stops that operator.
    pub async fn new(world: &World, spec: Value) -> Self {
        let root = vec![7; 32];
        let secret = Secret {
            metadata: kube::api::ObjectMeta {
                name: Some("agentpool-root-key".to_owned()),
                ..Default::default()
            },
            data: Some([(ROOT_CURRENT.to_owned(), ByteString(root.clone()))].into()),
            ..Default::default()
        };
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
        let post = PostParams::default();
        secrets.create(&post, &secret).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let system = namespaces.get("kube-system").await.unwrap();
        let open = json!({"limits": {"perHour": 100_000_000, "perSecond": 1_000_000}});
        world.sim.set("railway", open).await;
        let at_once = json!({"boot": 0, "convosLoad": 0, "status": 0, "create": 0, "join": 0});
        world.sim.set("agents", json!({"defaults": at_once})).await;
        Self {
            cluster_id: system.metadata.uid.unwrap(),
            hash: frozen(world, spec).await,
            root: RootKey::new(root, None),
        }
    }

    /// `count` agents in stock, or claimed with instructions of 500 bytes.
    pub async fn seed(&self, world: &World, first: usize, count: usize, is_claimed: bool) {
        let ids: Vec<String> = (first..first + count).map(id).collect();
        for chunk in ids.chunks(CHUNK) {
            let services: Vec<Value> = chunk.iter().map(|id| self.service(world, id)).collect();
            let services = json!({"services": services});
            world.sim.set("railway", services).await;
        }
        let services = deployed(world, &ids).await;
        if is_claimed {
            bind(world, &ids, &services).await;
        }
        let api = world.instances();
        stream::iter(ids.iter().map(Ok::<_, kube::Error>))
            .try_for_each_concurrent(WRITES, |id| {
                let (api, service) = (api.clone(), &services[&service_name(id)]);
                async move {
                    let mut object = self.object(id);
                    if is_claimed {
                        claim(&mut object);
                    }
                    let mut object = api.create(&PostParams::default(), &object).await?;
                    object.status = Some(self.idle(&object, service));
                    let status = if is_claimed {
                        status::claimed(&object, bound(id), "in use", now())
                    } else {
                        object.status.clone().unwrap_or_default()
                    };
                    let forget = json!({"metadata": {"managedFields": [{}]}});
                    let params = PatchParams::default();
                    if is_claimed {
                        // As a claim leaves it.
                        api.patch(id, &params, &Patch::Merge(forget)).await?;
                    }
                    let patch = Patch::Merge(json!({"status": status}));
                    api.patch_status(id, &params, &patch).await.map(drop)
                }
            })
            .await
            .unwrap();
    }

    fn service(&self, world: &World, id: &str) -> Value {
        let token = self.root.token(Purpose::Gateway, id, 1, None).unwrap();
        json!({"name": service_name(id), "projectId": PROJECT, "image": IMAGE, "deploy": true, "domain": true,
            "variables": {"AGENTPOOL_OWNER": names::owner_mark(&self.cluster_id, &world.namespace, id),
                "GATEWAY_TOKEN": token.expose_secret(), "OPENROUTER_API_KEY": "sk-simulated"}})
    }

    fn object(&self, id: &str) -> AgentInstance {
        let object = json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
            "metadata": {"name": id, "finalizers": [INSTANCE_FINALIZER], "labels": {LABEL_POOL: POOL}},
            "spec": {"id": id, "poolRef": {"name": POOL}, "providerName": service_name(id), "turn": 1,
                "template": {"revision": format!("{POOL}-{}", self.hash), "hash": self.hash},
                "provider": {"kind": "Railway", "tokenSecretRef": {"name": "railway", "key": "token"},
                    "tokenKind": "Bearer", "projectId": PROJECT, "environmentId": ENVIRONMENT}}});
        serde_json::from_value(object).unwrap()
    }

    fn idle(&self, object: &AgentInstance, service: &Value) -> AgentInstanceStatus {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let deployment = &service["instances"][0]["deployments"][0];
        let mut status = AgentInstanceStatus {
            observed_generation: object.metadata.generation,
            phase: Some(Phase::Idle.as_str().to_owned()),
            turn: Some(1),
            url: host(service).map(|host| format!("https://{host}")),
            token_seq: Some(1),
            token_key: Some(self.root.fingerprint()),
            provider: Some(ProviderStatus {
                id: text(&service["id"]),
                service_id: text(&service["id"]),
                deployment_id: text(&deployment["id"]),
                state: Some("Running".to_owned()),
                deploy_status: text(&deployment["status"]),
                image: Some(IMAGE.to_owned()),
                ..ProviderStatus::default()
            }),
            runtime: Some(RuntimeStatus {
                dialect: Some("PoolServer".to_owned()),
                kind: Some("openclaw".to_owned()),
                version: Some("0.3.4".to_owned()),
            }),
            ..AgentInstanceStatus::default()
        };
        let mut say = |kind, reason, message: &str, generation| {
            let (all, message) = (&mut status.conditions, message.to_owned());
            set_condition(all, kind, Truth::True, reason, message, generation, now());
        };
        let generation = object.metadata.generation;
        say(
            ConditionType::Ready,
            Reason::Idle,
            "ready, unbound and clean",
            generation,
        );
        say(ConditionType::Reachable, Reason::Answering, "", None);
        status
    }
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000).unwrap()
}

/// Creates the pool and waits for the revision with its template; the template's hash.
async fn frozen(world: &World, spec: Value) -> String {
    let controller = Operator::start("controller", &world.environment(&[]));
    world.create_pool(POOL, spec).await;
    let api: Api<ControllerRevision> = Api::namespaced(world.client.clone(), &world.namespace);
    let name = until("the template is frozen", LONG, || async {
        let all = api.list(&Default::default()).await.unwrap();
        all.items.into_iter().next()?.metadata.name
    })
    .await;
    drop(controller);
    name.trim_start_matches(&format!("{POOL}-")).to_owned()
}

/// The id of the agent of that number.
pub fn id(number: usize) -> String {
    format!("bench{number:07}")
}

fn service_name(id: &str) -> String {
    format!("convos-agent-stg-{id}")
}

fn host(service: &Value) -> Option<String> {
    service["domains"][0].as_str().map(str::to_owned)
}

fn conversation(id: &str) -> String {
    names::sha256_hex(id.as_bytes())[..32].to_owned()
}

/// The services of these agents by name, once all of them run.
async fn deployed(world: &World, ids: &[String]) -> Map<String, Value> {
    until("all are deployed", LONG, || async {
        let state = world.sim.state("railway").await;
        let known = state["services"].as_array()?.iter();
        let running = known.filter(|s| s["instances"][0]["deployments"][0]["status"] == "SUCCESS");
        let running: Map<String, Value> = running
            .map(|s| (s["name"].as_str().unwrap_or_default().to_owned(), s.clone()))
            .collect();
        ids.iter()
            .all(|id| running.contains_key(&service_name(id)))
            .then_some(running)
    })
    .await
}

/// The agents know the conversations that the objects record.
async fn bind(world: &World, ids: &[String], services: &Map<String, Value>) {
    for chunk in ids.chunks(CHUNK) {
        let bound = |id: &String| {
            let host = host(&services[&service_name(id)]).unwrap();
            (host, json!({"bound": conversation(id)}))
        };
        let instances: Map<String, Value> = chunk.iter().map(bound).collect();
        let instances = json!({"instances": instances});
        world.sim.set("agents", instances).await;
    }
}

fn claim(object: &mut AgentInstance) {
    let id = &object.spec.id;
    let claim = json!({"id": format!("claim-{id}"), "holder": "bench-0", "deadline": now().to_string(),
        "requestedAt": now().to_string(), "agentName": format!("Agent {id}"), "instructions": "x".repeat(500),
        "source": "api"});
    object.spec.claim = Some(serde_json::from_value(claim).unwrap());
    object.spec.restored = true;
}

fn bound(id: &str) -> ClaimStatus {
    ClaimStatus {
        id: format!("claim-{id}"),
        outcome: Outcome::Bound.as_str().to_owned(),
        conversation_id: Some(conversation(id)),
        invite_url: Some(format!(
            "https://popup.convos.org/v2?i={}",
            conversation(id)
        )),
        invite_slug: None,
        joined: false,
        claimed_at: Some(Time(now())),
        source_branch: None,
    }
}
