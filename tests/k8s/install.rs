//! Clusters of the test's own: from nothing to a pool, an API server that is away, upgrades of the CRDs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::chart::{documents, file, helm, succeed};
use crate::support::account;
use crate::support::cluster::Cluster;
use crate::support::operator::{KEY, Operator};
use crate::support::simulator::Simulator;
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{SPEED, install_crds, install_crds_from};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const CRDS: [&str; 2] = ["agentpools", "agentinstances"];

fn environment(cluster: &Cluster, sim: &Simulator) -> BTreeMap<String, String> {
    [
        (
            "KUBECONFIG",
            cluster.kubeconfig().to_str().unwrap().to_owned(),
        ),
        (
            "AGENTPOOL_RAILWAY_URL",
            format!("http://{}/graphql/v2", sim.peers),
        ),
        (
            "AGENTPOOL_REGISTRY_URL",
            format!("http://{}/ghcr", sim.peers),
        ),
        ("AGENTPOOL_AGENT_CONNECT_TO", sim.peers.clone()),
        ("AGENTPOOL_NAMESPACE", "agents".to_owned()),
        ("AGENTPOOL_LISTEN", "127.0.0.1".to_owned()),
        ("AGENTPOOL_OPERATIONS_PORT", "0".to_owned()),
        ("PORT", "0".to_owned()),
        ("POOL_API_KEY", KEY.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// kubectl; its output. Panics where it fails.
fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    let out = cluster.kubectl(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", text(out.stderr));
    text(out.stdout)
}

fn ready(cluster: &Cluster) -> Option<()> {
    let path = "-o=jsonpath={.status.conditions[?(@.type==\"Ready\")].status} {.status.idle}";
    let out = cluster.kubectl(["get", "ap", "quickstart", "-n", "agents", path]);
    (String::from_utf8(out.stdout).unwrap() == "True 3").then_some(())
}

/// Lines that are more than information.
fn complaints(operator: &Operator) -> Vec<String> {
    let log = operator.log();
    let bad = |l: &&str| l.contains("WARN") || l.contains("ERROR") || l.contains("panicked");
    log.lines().filter(bad).map(str::to_owned).collect()
}

async fn healthz(operator: &Operator) -> String {
    let answer = reqwest::get(format!("{}/healthz", operator.api)).await;
    answer.unwrap().text().await.unwrap()
}

/// The documented way: `kubectl apply` of crds/ and a manifest, and the binary with a kubeconfig and nothing else.
///
/// acceptance: F01, F04
#[tokio::test(flavor = "multi_thread")]
async fn from_a_clean_cluster_by_kubectl_apply_and_without_crds_it_waits() {
    let cluster = Cluster::own("clean");
    let sim = Simulator::start(SPEED);
    let mut operator = Operator::start("run", &environment(&cluster, &sim));
    let remedy = "agentpool crds | kubectl apply --server-side -f -";
    until("the remedy is told", LONG, || async {
        operator.log().contains(remedy).then_some(())
    })
    .await;
    assert_eq!(healthz(&operator).await, r#"{"ok":true}"#);
    let log = || complaints(&operator);
    holds("told once", Duration::from_secs(6), || async {
        log()
            .iter()
            .filter(|l| l.contains("is not installed"))
            .count()
            == 1
    })
    .await;
    let told = log();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(operator.runs());

    install_crds(&cluster);
    kubectl(
        &cluster,
        &["apply", "-f", &format!("{ROOT}/examples/quickstart.yaml")],
    );
    until("the pool of the example is ready", LONG, || async {
        ready(&cluster)
    })
    .await;
    let phases = "-o=jsonpath={.items[*].status.phase}";
    let phases = kubectl(&cluster, &["get", "ai", "-n", "agents", phases]);
    assert_eq!(phases, "Idle Idle Idle");
    assert!(operator.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_api_server_down_it_stays_up_says_so_once_and_goes_on_when_it_comes() {
    let cluster = Cluster::own("down");
    install_crds(&cluster);
    kubectl(
        &cluster,
        &["apply", "-f", &format!("{ROOT}/examples/quickstart.yaml")],
    );
    let sim = Simulator::start(SPEED);
    let settings = environment(&cluster, &sim);
    // Its account is there before, as that of a pod that starts again.
    account::kubeconfig(&settings, "run");
    cluster.stop_api_server();

    let mut operator = Operator::start("run", &settings);
    until("it is told", LONG, || async {
        operator
            .log()
            .contains("the API server does not answer")
            .then_some(())
    })
    .await;
    assert_eq!(healthz(&operator).await, r#"{"ok":true}"#);
    let readyz = reqwest::get(format!("{}/readyz", operator.operations))
        .await
        .unwrap();
    assert_eq!(readyz.status(), 503);
    let log = || complaints(&operator);
    holds("told once", Duration::from_secs(5), || async {
        log()
            .iter()
            .filter(|l| l.contains("the API server does not answer"))
            .count()
            == 1
    })
    .await;
    let told = log();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(operator.runs());

    cluster.start_api_server();
    until("the pool is ready", LONG, || async { ready(&cluster) }).await;
    assert!(operator.runs());
}

/// An older definition (fields and rules fewer), objects, then today's: nothing of them changes, and both are served.
///
/// acceptance: F03
#[tokio::test(flavor = "multi_thread")]
async fn the_definitions_install_and_upgrade_without_loss() {
    let cluster = Cluster::own("upgrade");
    let folder = format!(
        "{}/older-{}",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    std::fs::create_dir_all(&folder).unwrap();
    for name in CRDS {
        let text = std::fs::read_to_string(format!("{ROOT}/crds/{name}.yaml")).unwrap();
        let mut older: Value = serde_yaml::from_str(&text).unwrap();
        let version = &mut older["spec"]["versions"][0];
        let schema = &mut version["schema"]["openAPIV3Schema"];
        let spec = &mut schema["properties"]["spec"];
        if name == "agentpools" {
            for field in ["limits", "costs", "rollout"] {
                assert!(
                    spec["properties"]
                        .as_object_mut()
                        .unwrap()
                        .remove(field)
                        .is_some()
                );
            }
        } else {
            assert!(
                spec["properties"]
                    .as_object_mut()
                    .unwrap()
                    .remove("restored")
                    .is_some()
            );
            version["schema"]["openAPIV3Schema"]
                .as_object_mut()
                .unwrap()
                .remove("x-kubernetes-validations");
            let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            spec.as_object_mut()
                .unwrap()
                .remove("x-kubernetes-validations");
            version["selectableFields"].as_array_mut().unwrap().pop();
        }
        std::fs::write(format!("{folder}/{name}.json"), older.to_string()).unwrap();
    }
    let apply = |path: &str| install_crds_from(&cluster, path);
    apply(&folder);
    until("the older definitions are served", LONG, || async {
        cluster
            .kubectl(["get", "ap,ai"])
            .status
            .success()
            .then_some(())
    })
    .await;
    kubectl(
        &cluster,
        &["apply", "-f", &format!("{ROOT}/examples/quickstart.yaml")],
    );
    let instance = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": "a", "namespace": "agents"},
        "spec": {"id": "a", "poolRef": {"name": "quickstart"}, "providerName": "x", "template": {"revision": "r", "hash": "h"},
            "claim": {"id": "c", "holder": "h", "deadline": "2026-11-21T10:02:30Z", "requestedAt": "2026-11-21T10:00:00Z", "agentName": "Ada"}},
    });
    let file = format!("{folder}/instance.json");
    std::fs::write(&file, instance.to_string()).unwrap();
    kubectl(&cluster, &["create", "-f", &file]);
    std::fs::remove_file(&file).unwrap();
    let status = r#"--patch={"status":{"phase":"Claimed","turn":1}}"#;
    kubectl(
        &cluster,
        &[
            "patch",
            "ai",
            "a",
            "-n",
            "agents",
            "--subresource=status",
            "--type=merge",
            status,
        ],
    );
    let objects = || -> Value {
        let text = kubectl(&cluster, &["get", "ap,ai", "-n", "agents", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        list["items"].clone()
    };
    let before = objects();

    apply(&format!("{ROOT}/crds"));
    let explained = || cluster.kubectl(["explain", "agentpool.spec.rollout.strategy"]);
    until("the new field is known", LONG, || async {
        explained().status.success().then_some(())
    })
    .await;
    let mut after = objects();
    let rollout = &after[0]["spec"]["rollout"];
    assert_eq!(
        rollout["strategy"], "OnDrain",
        "the new field's default: {after}"
    );
    after[0]["spec"].as_object_mut().unwrap().remove("rollout");
    assert_eq!(before, after);

    // What was stored before can be written after, and the new rules hold for it.
    let label = ["label", "ap/quickstart", "ai/a", "-n", "agents", "x=y"];
    kubectl(&cluster, &label);
    let changed = r#"--patch={"spec":{"claim":{"agentName":"Bob"}}}"#;
    let refused = cluster.kubectl(["patch", "ai", "a", "-n", "agents", "--type=merge", changed]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(
        error.contains("a claim is never changed into another"),
        "{error}"
    );
    // And again: installing twice is nothing.
    apply(&format!("{ROOT}/crds"));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The chart with the previous version's definitions in it.
fn previous_chart() -> std::path::PathBuf {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let chart = folder.join(format!("previous-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&chart);
    let copied = std::process::Command::new("cp")
        .args(["-RL", &format!("{ROOT}/charts/agentpool")])
        .arg(&chart)
        .status()
        .unwrap();
    assert!(copied.success());
    for file in std::fs::read_dir(format!("{ROOT}/tests/data/crds-previous")).unwrap() {
        let file = file.unwrap().path();
        let to = chart.join("crd-files").join(file.file_name().unwrap());
        assert!(to.exists(), "{}", to.display());
        std::fs::copy(file, to).unwrap();
    }
    chart
}

/// Helm upgrades the definitions of the version before this one, with objects of every kind in them: nothing of the
/// objects changes; what a new rule would refuse stays until it is changed; what is new can be used.
///
/// acceptance: F03
#[tokio::test(flavor = "multi_thread")]
async fn helm_upgrades_the_previous_versions_definitions_under_their_objects() {
    let cluster = Cluster::own("previous");
    let previous = previous_chart();
    let release = |chart: &str, more: &[&str]| {
        let base = ["upgrade", "--install", "agentpool", chart, "-n", "agents"];
        let with = ["--create-namespace", "--no-hooks", "--set"];
        let set = ["watchNamespace=agents"];
        let all: Vec<_> = [&base[..], &with, &set, more].concat();
        succeed(helm(&cluster, &all))
    };
    release(previous.to_str().unwrap(), &[]);
    let volume = "agentpool.spec.provider.railway.volume";
    let explained = || cluster.kubectl(["explain", volume]).status.success();
    until("the previous definitions are served", LONG, || async {
        let out = cluster.kubectl(["get", "ap,ai,ac", "-n", "agents"]);
        out.status.success().then_some(())
    })
    .await;
    assert!(!explained(), "the previous version has no volumes");
    let apply = |file: &str| kubectl(&cluster, &["apply", "-f", &format!("{ROOT}/{file}")]);
    apply("examples/quickstart.yaml");
    apply("examples/agentclaim.yaml");
    let text = std::fs::read_to_string(format!("{ROOT}/examples/quickstart.yaml")).unwrap();
    let mut odd = documents(&text).pop().unwrap();
    odd["metadata"]["name"] = json!("odd");
    odd["spec"]["rollout"] = json!({"maxSurge": 0, "maxUnavailable": 0});
    let instance = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": "a", "namespace": "agents"},
        "spec": {"id": "a", "poolRef": {"name": "quickstart"}, "providerName": "x", "template": {"revision": "r", "hash": "h"}},
    });
    let path = file("previous-objects", &[odd.clone(), instance]);
    let path = path.to_str().unwrap();
    kubectl(&cluster, &["create", "-f", path]);
    let patch = |more: &[&str]| {
        let base = ["patch", "-n", "agents", "--type=merge"];
        let all: Vec<_> = base.iter().chain(more).copied().collect();
        cluster.kubectl(&all)
    };
    let idle = r#"{"status":{"phase":"Idle","turn":1,"provider":{"id":"s","serviceId":"s"}}}"#;
    succeed(patch(&["ai", "a", "--subresource=status", "-p", idle]));
    let claim = r#"{"spec":{"claim":{"id":"c","holder":"h","deadline":"2026-11-21T10:02:30Z","requestedAt":"2026-11-21T10:00:00Z","agentName":"Ada"}}}"#;
    succeed(patch(&["ai", "a", "-p", claim]));
    let bound = r#"{"status":{"phase":"Bound","instance":"a","inviteUrl":"https://dev.convos.org/v2?i=x"}}"#;
    let of_claim = ["ac", "trip-planner", "--subresource=status", "-p", bound];
    succeed(patch(&of_claim));
    let objects = || -> Value {
        let get = ["get", "ap,ai,ac", "-n", "agents", "-o", "json"];
        let list: Value = serde_json::from_str(&kubectl(&cluster, &get)).unwrap();
        list["items"].clone()
    };
    let before = objects();
    assert_eq!(before.as_array().unwrap().len(), 4, "{before}");

    release(&format!("{ROOT}/charts/agentpool"), &["--reuse-values"]);
    until("what is new is known", LONG, || async {
        explained().then_some(())
    })
    .await;
    assert_eq!(objects(), before);

    // Each can be written, the odd one too while that field stays as it is; the rule holds for what is new.
    for object in ["ap/quickstart", "ap/odd", "ai/a", "ac/trip-planner"] {
        kubectl(&cluster, &["label", object, "-n", "agents", "x=y"]);
    }
    succeed(patch(&["ap", "odd", "-p", r#"{"spec":{"minIdle":1}}"#]));
    let new = r#"{"spec":{"provider":{"railway":{"volume":{"mountPath":"/data"}}}}}"#;
    succeed(patch(&["ap", "quickstart", "-p", new]));
    odd["metadata"]["name"] = json!("odder");
    let refused = file("odder", &[odd]);
    let refused = cluster.kubectl(["create", "-f", refused.to_str().unwrap()]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("nothing could ever be replaced"), "{error}");
    let other = r#"{"spec":{"claim":{"agentName":"Bob"}}}"#;
    let refused = patch(&["ai", "a", "-p", other]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("never changed into another"), "{error}");

    // And back, as `helm rollback` does it: the older definitions do not know the field, and nobody is stopped by it.
    succeed(helm(
        &cluster,
        &["rollback", "agentpool", "1", "-n", "agents", "--no-hooks"],
    ));
    until("the previous definitions are back", LONG, || async {
        (!explained()).then_some(())
    })
    .await;
    for object in ["ap/quickstart", "ap/odd", "ai/a", "ac/trip-planner"] {
        kubectl(&cluster, &["label", object, "-n", "agents", "x-"]);
    }
    std::fs::remove_dir_all(previous).unwrap();
}
