//! The chart on a real API server without a node: every rendering is accepted, `kubectl apply -k` and helm install,
//! upgrade and remove it, and the binaries do their work under the accounts that they leave behind. With pods:
//! tests/cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use agentpool::domain::instance::phase::Phase;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::account;
use crate::support::cluster::Cluster;
use crate::support::operator::Operator;
use crate::support::simulator::SHARED_PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World, install_crds};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn succeed(out: Output) -> String {
    assert!(
        out.status.success(),
        "{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    text(&out.stdout)
}

pub fn helm(cluster: &Cluster, arguments: &[&str]) -> Output {
    let tool = Command::new(format!("{ROOT}/deploy/local/tools"))
        .arg("helm")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    Command::new(text(&tool.stdout).trim())
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(arguments)
        .output()
        .unwrap()
}

pub fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|d| Value::deserialize(d).unwrap())
        .filter(|d| !d.is_null())
        .collect()
}

/// Written to a file, for kubectl.
pub fn file(name: &str, documents: &[Value]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = path.join(format!("{name}-{}.json", std::process::id()));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    std::fs::write(&path, list.to_string()).unwrap();
    path
}

/// The pools that the chart's Job applies.
fn pools(documents: &[Value]) -> Vec<Value> {
    let maps = documents.iter().filter(|d| d["kind"] == "ConfigMap");
    maps.filter_map(|d| d["data"]["pools.yaml"].as_str())
        .flat_map(crate::chart::documents)
        .collect()
}

pub fn values(name: &str) -> Value {
    let path = format!("{ROOT}/charts/agentpool/values-{name}.yaml");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rendering_is_accepted_and_kustomize_installs_the_default() {
    let cluster = Cluster::own("chart");
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments);
    for namespace in [
        "agents",
        "agentpool",
        "agentpool-dev",
        "agentpool-staging",
        "agentpool-production",
    ] {
        succeed(kubectl(&["create", "namespace", namespace]));
    }
    let applied = succeed(kubectl(&[
        "apply",
        "--server-side",
        "-k",
        &format!("{ROOT}/deploy/kubernetes"),
    ]));
    assert!(
        applied.contains("deployment.apps/agentpool serverside-applied"),
        "{applied}"
    );
    let deployed = [
        "get",
        "deployment",
        "agentpool",
        "-n",
        "agentpool",
        "-o=name",
    ];
    succeed(kubectl(&deployed));
    for crd in ["agentpools", "agentinstances", "agentclaims"] {
        let crd = format!("crd/{crd}.pool.convos.org");
        succeed(kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            &crd,
        ]));
    }
    // Kinds of others, whose definitions are not here.
    let foreign = ["ServiceMonitor", "PrometheusRule", "HTTPRoute"];
    let mut seen = 0;
    for name in ["minimal", "ha", "everything", "namespaced"] {
        let rendered = std::fs::read_to_string(format!("{ROOT}/tests/chart/{name}.yaml")).unwrap();
        let mut all = documents(&rendered);
        let pools = pools(&all);
        assert_eq!(
            pools.len(),
            if name == "everything" { 2 } else { 0 },
            "{name}"
        );
        all.extend(pools);
        let before = all.len();
        all.retain(|d| !foreign.contains(&d["kind"].as_str().unwrap()));
        assert_eq!(before - all.len(), if name == "everything" { 3 } else { 0 });
        seen += all.len();
        let path = file(name, &all);
        let dry = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--force-conflicts",
            "-f",
        ];
        let said = cluster.kubectl(dry.iter().copied().chain([path.to_str().unwrap()]));
        succeed(said);
        std::fs::remove_file(path).unwrap();
    }
    assert!(seen > 60, "{seen}");
    for name in ["dev", "staging", "production"] {
        let values = values(name);
        let spec = &values["pools"][name]["spec"];
        let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool", "metadata": {"name": name, "namespace": values["watchNamespace"]}, "spec": spec});
        let path = file(name, &[object]);
        let dry = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "-f",
        ];
        succeed(cluster.kubectl(dry.iter().copied().chain([path.to_str().unwrap()])));
        std::fs::remove_file(path).unwrap();
    }
}

fn secret(cluster: &Cluster, name: &str) -> Value {
    let get = ["get", "secret", name, "-n", "agents", "-o=json"];
    let secret: Value = serde_json::from_str(&succeed(cluster.kubectl(get))).unwrap();
    secret["data"].clone()
}

/// Installed, changed, removed and installed again: the keys stay the same, and so do definitions and pools.
///
/// acceptance: F01
#[tokio::test(flavor = "multi_thread")]
async fn helm_installs_upgrades_and_removes_without_losing_a_key_or_a_pool() {
    let cluster = Cluster::own("helm");
    let chart = format!("{ROOT}/charts/agentpool");
    // No node, so no Job would end: its deeds are done by hand below.
    let install = |more: &[&str]| {
        let base = [
            "upgrade",
            "--install",
            "agentpool",
            &chart,
            "-n",
            "agents",
            "--create-namespace",
            "--no-hooks",
            "--set",
            "watchNamespace=agents",
        ];
        let all: Vec<_> = base.iter().chain(more).copied().collect();
        succeed(helm(&cluster, &all))
    };
    let notes = install(&["--set", "simulator.enabled=true"]);
    assert!(
        notes.contains("kubectl port-forward -n agents service/agentpool"),
        "{notes}"
    );
    let keys = || {
        (
            secret(&cluster, "agentpool-root-key"),
            secret(&cluster, "agentpool-api-key"),
        )
    };
    let first = keys();
    assert_eq!(first.0["current"].as_str().unwrap().len(), 44, "32 bytes");
    // The release was told the cluster's id, because it may not read it.
    let uid = succeed(cluster.kubectl([
        "get",
        "namespace",
        "kube-system",
        "-o=jsonpath={.metadata.uid}",
    ]));
    let deployment =
        succeed(cluster.kubectl(["get", "deployment", "agentpool", "-n", "agents", "-o=json"]));
    assert!(deployment.contains(&uid), "{uid}");

    install(&["--reuse-values", "--set", "replicas=2"]);
    assert_eq!(keys(), first);
    apply_pools(&cluster, "agents");
    let idle = [
        "get",
        "agentpools",
        "quickstart",
        "-n",
        "agents",
        "-o=jsonpath={.spec.minIdle}",
    ];
    assert_eq!(succeed(cluster.kubectl(idle)), "3");

    succeed(helm(&cluster, &["uninstall", "agentpool", "-n", "agents"]));
    assert_eq!(keys(), first);
    assert_eq!(
        succeed(cluster.kubectl(idle)),
        "3",
        "the pool is gone with the release"
    );
    let left = succeed(cluster.kubectl(["get", "deployments,roles", "-n", "agents", "-o=name"]));
    assert_eq!(
        left, "role.rbac.authorization.k8s.io/agentpool-pools\n",
        "made by hand below"
    );

    install(&["--set", "simulator.enabled=true"]);
    assert_eq!(keys(), first);
}

/// What the chart's Job does, under its account: the file and the rights are the release's own.
pub fn apply_pools(cluster: &Cluster, namespace: &str) {
    let hooks = documents(&succeed(helm(
        cluster,
        &["get", "hooks", "agentpool", "-n", namespace],
    )));
    let text = pools(&hooks);
    assert!(!text.is_empty());
    let rights: Vec<_> = hooks
        .iter()
        .filter(|d| {
            ["ServiceAccount", "Role", "RoleBinding"].contains(&d["kind"].as_str().unwrap())
        })
        .cloned()
        .collect();
    let path = file(&format!("hooks-{namespace}"), &rights);
    succeed(cluster.kubectl(["apply", "-n", namespace, "-f", path.to_str().unwrap()]));
    let kubeconfig = kubeconfig_of(cluster, namespace, "agentpool-pools");
    let yaml: Vec<_> = text
        .iter()
        .map(|d| serde_yaml::to_string(d).unwrap())
        .collect();
    let pools = path.with_extension("yaml");
    std::fs::write(&pools, yaml.join("---\n")).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_agentpool"))
        .arg("apply")
        .arg(&pools)
        .env_clear()
        .env("KUBECONFIG", &kubeconfig)
        .output()
        .unwrap();
    let said = succeed(out);
    assert!(said.contains("applied"), "{said}");
}

/// A kubeconfig with the token of an account that is there, from the TokenRequest API.
pub fn kubeconfig_of(cluster: &Cluster, namespace: &str, account: &str) -> PathBuf {
    let token = succeed(cluster.kubectl(["create", "token", account, "-n", namespace]));
    let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let mut own: Value = serde_yaml::from_str(&text).unwrap();
    own["users"][0]["user"] = json!({"token": token.trim()});
    let path = file(&format!("account-{namespace}-{account}"), &[]);
    std::fs::write(&path, own.to_string()).unwrap();
    path
}

/// A setting is changed by `helm upgrade --set`, and followed live: the pods are not even restarted.
///
/// acceptance: F11
#[tokio::test(flavor = "multi_thread")]
async fn helm_upgrade_changes_a_setting_of_a_pool_live() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::own("live")));
    install_crds(cluster);
    let world = World::on(cluster, "live").await;
    let namespace = &*world.namespace;
    let pool = json!({"pools": {POOL: {"spec": crate::support::world::pool_spec()}}});
    let path = file("pool-values", &[]);
    std::fs::write(&path, pool.to_string()).unwrap();
    let chart = format!("{ROOT}/charts/agentpool");
    let upgrade = |more: &[&str]| {
        let base = [
            "upgrade",
            "--install",
            "agentpool",
            &chart,
            "-n",
            namespace,
            "--no-hooks",
            "--set",
            "crds.enabled=false",
            "--set",
        ];
        let watch = format!("watchNamespace={namespace}");
        let values = path.to_str().unwrap();
        let all: Vec<_> = base
            .iter()
            .copied()
            .chain([watch.as_str(), "-f", values])
            .chain(more.iter().copied())
            .collect();
        succeed(helm(cluster, &all));
        apply_pools(cluster, namespace);
    };
    upgrade(&[]);
    let settings = world.environment(&[]);
    let _operator = Operator::start("run", &settings);
    world.wait_idle(2).await;
    let before = deployment(cluster, namespace);
    upgrade(&["--set", "pools.pool.spec.minIdle=4"]);
    world.wait_idle(4).await;
    assert_eq!(
        deployment(cluster, namespace),
        before,
        "the pods' template is the same"
    );
}

fn deployment(cluster: &Cluster, namespace: &str) -> String {
    succeed(cluster.kubectl([
        "get",
        "deployment",
        "agentpool",
        "-n",
        namespace,
        "-o=jsonpath={.spec.template}",
    ]))
}

/// Controller and API apart, each under its account, replaced one after the other as a rollout does it, while people
/// claim: no agent is made, deployed or removed for it.
///
/// acceptance: A11, M02
#[tokio::test(flavor = "multi_thread")]
async fn rolling_the_operator_touches_no_agent() {
    let mut world = World::bare("roll").await;
    let settings = world.environment(&[]);
    let mut controller = Operator::start("controller", &settings);
    world.operator = Some(Operator::start("api", &settings));
    world
        .create_pool(POOL, json!({"minIdle": 5, "tickIntervalSeconds": 1}))
        .await;
    world.wait_idle(5).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    let services = world.sim.live_services().await;
    let before = changes(&world).await;
    assert!(before > 0, "the log knows what made the agents");
    let before_ids: Vec<_> = world.list().await.into_iter().map(|i| i.spec.id).collect();

    for agent in ["Bob", "Eve"] {
        // The new one is there before the old one goes.
        let next_controller = Operator::start("controller", &settings);
        let next_api = Operator::start("api", &settings);
        ready(&next_api).await;
        controller.stop();
        world.operator().stop();
        controller = next_controller;
        world.operator = Some(next_api);
        assert_eq!(world.claim(agent).await.status, 200);
        until("the new one leads", LONG, || async {
            let metrics = reqwest::get(format!("{}/metrics", controller.operations)).await;
            let metrics = metrics.unwrap().text().await.unwrap();
            metrics.contains("agentpool_leader 1").then_some(())
        })
        .await;
    }
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 3);
    let after_ids: Vec<_> = world.list().await.into_iter().map(|i| i.spec.id).collect();
    assert_eq!(after_ids, before_ids);
    // Names follow claims; nothing else was asked of the provider.
    assert_eq!(changes(&world).await, before);
    let now = world.sim.live_services().await;
    let ids = |all: &[Value]| all.iter().map(|s| s["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&now), ids(&services));
}

/// How often the provider was asked to make, deploy or remove something.
async fn changes(world: &World) -> usize {
    let mut all = 0;
    for operation in [
        "RwServiceCreate",
        "RwConfigureAndDeploy",
        "RwDomainCreate",
        "RwServiceDelete",
    ] {
        all += world.sim.railway_calls(operation).await;
    }
    all
}

async fn ready(operator: &Operator) {
    until("it is ready", LONG, || async {
        let answer = reqwest::get(format!("{}/readyz", operator.operations)).await;
        answer.ok()?.status().is_success().then_some(())
    })
    .await;
}

/// Three values files, three releases in namespaces of their own, one Railway project with three environments.
///
/// acceptance: H06
#[tokio::test(flavor = "multi_thread")]
async fn three_values_files_make_three_operators_that_keep_apart() {
    let worlds = [
        ("dev", World::bare("dev").await),
        ("staging", World::bare("staging").await),
        ("production", World::bare("production").await),
    ];
    // One provider for all three.
    let sim = &worlds[0].1.sim;
    let mut operators = vec![];
    for (name, world) in &worlds {
        let values = values(name);
        let mut spec = values["pools"][name]["spec"].clone();
        // Ids of the simulator, and what would only take time.
        spec["provider"]["railway"]["project"]["projectId"] = json!(SHARED_PROJECT);
        spec["minIdle"] = json!(1);
        spec["tickIntervalSeconds"] = json!(1);
        let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool", "metadata": {"name": name}, "spec": spec});
        let path = file(&format!("pool-{name}"), &[object]);
        world.secret("openrouter", "key", "sk-simulated").await;
        world.kubectl(&["apply", "-f", path.to_str().unwrap()]);
        let url = format!("http://{}/graphql/v2", sim.peers);
        let settings: BTreeMap<_, _> = world.environment(&[
            ("AGENTPOOL_RAILWAY_URL", &url),
            ("AGENTPOOL_AGENT_CONNECT_TO", &sim.peers),
        ]);
        assert!(account::kubeconfig(&settings, "run").is_some());
        operators.push(Operator::start("run", &settings));
    }
    let mut environments = std::collections::BTreeSet::new();
    for ((name, world), code) in worlds.iter().zip(["dev", "stg", "prod"]) {
        let idle = world.wait_idle(1).await.remove(0);
        let provider_name = &idle.spec.provider_name;
        assert!(
            provider_name.starts_with(&format!("convos-agent-{code}-")),
            "{provider_name}"
        );
        let service = sim.service(provider_name).await.unwrap();
        let network = if *name == "production" {
            "production"
        } else {
            "dev"
        };
        assert_eq!(service["variables"]["XMTP_ENV"], network, "{service}");
        let mut all = service["instances"].as_array().unwrap().iter();
        // A service shows up in each environment of its project; it is deployed in one.
        let own = all.find(|i| !i["deployments"].as_array().unwrap().is_empty());
        environments.insert(own.unwrap()["environmentId"].as_str().map(str::to_owned));
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
        let root = secrets.get("agentpool-root-key").await.unwrap();
        let key = root.data.unwrap().remove("current").unwrap();
        assert_eq!(key.0.len(), 32);
    }
    assert_eq!(sim.live_services().await.len(), 3);
    assert_eq!(environments.len(), 3, "{environments:?}");
}
