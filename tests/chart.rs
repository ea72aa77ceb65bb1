//! The chart: what is rendered is what is in the repository, values are checked, pods are hardened, rights are few.
//! What a real API server says to it, and helm on a real cluster: tests/k8s/chart.rs and tests/cluster.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MATRIX: [&str; 4] = ["minimal", "ha", "everything", "namespaced"];
const ENVIRONMENTS: [&str; 3] = ["dev", "staging", "production"];

fn helm(arguments: &[&str]) -> Output {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    let helm = HELM.get_or_init(|| {
        let out = Command::new(format!("{ROOT}/deploy/local/tools"))
            .arg("helm")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).trim().into()
    });
    Command::new(helm).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn chart() -> String {
    format!("{ROOT}/charts/agentpool")
}

fn documents(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("{ROOT}/{path}")).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|d| Value::deserialize(d).unwrap())
        .filter(|d| !d.is_null())
        .collect()
}

fn rendered(name: &str) -> Vec<Value> {
    documents(&format!("tests/chart/{name}.yaml"))
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|d| d["kind"] == kind).collect()
}

/// The pod specs of every workload, with a title.
fn pods(all: &[Value]) -> Vec<(String, &Value)> {
    all.iter()
        .filter_map(|d| {
            let spec = match d["kind"].as_str().unwrap() {
                "Deployment" | "Job" => &d["spec"]["template"]["spec"],
                "Pod" => &d["spec"],
                _ => return None,
            };
            Some((format!("{} {}", d["kind"], d["metadata"]["name"]), spec))
        })
        .collect()
}

fn list<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    value[key].as_array().into_iter().flatten().collect()
}

#[test]
fn what_is_rendered_is_what_is_here() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rendered");
    let _ = fs::remove_dir_all(&folder);
    let out = Command::new(format!("{ROOT}/charts/render"))
        .arg(&folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let mut paths = vec![
        "deploy/kubernetes/crds.yaml".to_owned(),
        "deploy/kubernetes/agentpool.yaml".to_owned(),
        "docs/values.md".to_owned(),
    ];
    paths.extend(MATRIX.map(|name| format!("tests/chart/{name}.yaml")));
    for path in &paths {
        let new = fs::read_to_string(folder.join(path)).unwrap();
        let old = fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_default();
        let differs = new.lines().zip(old.lines()).find(|(n, o)| n != o);
        assert!(
            new == old,
            "{path} is not what the chart renders (first difference: {differs:?}): run `make gen` and look at the difference"
        );
    }
    let snapshots: BTreeSet<_> = fs::read_dir(format!("{ROOT}/tests/chart"))
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter_map(|f| f.strip_suffix(".values.yaml").map(str::to_owned))
        .collect();
    assert_eq!(snapshots, MATRIX.map(str::to_owned).into());
}

#[test]
fn lint_finds_nothing() {
    let mut files: Vec<_> = MATRIX
        .iter()
        .map(|name| format!("{ROOT}/tests/chart/{name}.values.yaml"))
        .collect();
    files.extend(ENVIRONMENTS.map(|name| format!("{}/values-{name}.yaml", chart())));
    for file in files {
        let out = helm(&[
            "lint",
            "--strict",
            &chart(),
            "-f",
            &file,
            "--set",
            "clusterId=x",
        ]);
        assert!(out.status.success(), "{file}: {}", text(&out.stdout));
    }
}

/// Without the cluster nobody knows its id, so a release without rights on the cluster has to be told.
#[test]
fn a_namespaced_release_without_the_clusters_id_is_refused_with_the_remedy() {
    let out = helm(&["template", "x", &chart(), "--set", "watchNamespace=agents"]);
    assert!(!out.status.success());
    let said = text(&out.stderr);
    assert!(
        said.contains("kubectl get namespace kube-system -o jsonpath={.metadata.uid}"),
        "{said}"
    );
}

#[test]
fn unknown_and_impossible_values_are_refused() {
    for (wrong, word) in [
        ("replica=2", "replica"),
        ("api.prot=3", "prot"),
        ("api.service.prot=3", "prot"),
        ("controller.serviceAccount.nam=x", "nam"),
        ("pools.a.spce.minIdle=1", "spce"),
        ("monitoring.serviceMonitor.enable=true", "enable"),
        ("api.mode=Both", "mode"),
        ("api.port=0", "port"),
        ("replicas=-1", "replicas"),
        ("rootKey.createdBy=Nobody", "createdBy"),
        ("image.digest=abc", "digest"),
        ("publicUrl=pool.example", "publicUrl"),
        ("api.defaultPool=staging", "defaultPool"),
    ] {
        let out = helm(&["template", "x", &chart(), "--set", wrong]);
        assert!(!out.status.success(), "{wrong} is accepted");
        let said = text(&out.stderr);
        assert!(said.contains(word), "{wrong}: {said}");
    }
}

/// Objects of a schema that list their properties, by path.
fn fixed(schema: &Value, path: &str, into: &mut Vec<(String, Value)>) {
    if let Some(properties) = schema["properties"].as_object() {
        into.push((path.to_owned(), schema.clone()));
        for (key, inner) in properties {
            fixed(inner, &format!("{path}/{key}"), into);
        }
    }
}

#[test]
fn the_schema_and_the_values_name_the_same() {
    let read = |path: &str| fs::read_to_string(format!("{}/{path}", chart())).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    let mut objects = vec![];
    fixed(&schema, "", &mut objects);
    assert!(objects.len() > 15);
    for (path, object) in objects {
        if path.ends_with("/items") || path.contains("resources") {
            continue;
        }
        assert_eq!(
            object["additionalProperties"], false,
            "{path} takes anything"
        );
        let known: BTreeSet<_> = object["properties"].as_object().unwrap().keys().collect();
        let given: BTreeSet<_> = values
            .pointer(&path)
            .and_then(Value::as_object)
            .unwrap_or_else(|| panic!("values.yaml has no {path}"))
            .keys()
            .collect();
        let known: BTreeSet<_> = known.into_iter().filter(|k| *k != "global").collect();
        assert_eq!(known, given, "{path}");
    }
}

#[test]
fn the_chart_has_the_crates_version() {
    let chart: Value =
        serde_yaml::from_str(&fs::read_to_string(format!("{}/Chart.yaml", chart())).unwrap())
            .unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let rendered = rendered("minimal");
    let image =
        &of_kind(&rendered, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(
        image,
        concat!("ghcr.io/xmtplabs/agentpool:", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn every_pod_is_hardened_and_bounded() {
    let mut seen = 0;
    for name in MATRIX {
        for (title, pod) in pods(&rendered(name)) {
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{name} {title}");
            assert!(
                security["runAsUser"].as_i64().unwrap() > 0,
                "{name} {title}"
            );
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            for container in list(pod, "containers") {
                let title = format!("{name} {title} {}", container["name"]);
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{title}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{title}");
                assert_eq!(security["privileged"], false, "{title}");
                assert_eq!(
                    security["capabilities"],
                    serde_json::json!({"drop": ["ALL"]}),
                    "{title}"
                );
                let resources = &container["resources"];
                assert!(resources["requests"]["cpu"].is_string(), "{title}");
                assert!(resources["requests"]["memory"].is_string(), "{title}");
                assert!(resources["limits"]["memory"].is_string(), "{title}");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn what_serves_is_probed_and_spread_and_kept_available() {
    for name in MATRIX {
        let all = rendered(name);
        for deployment in of_kind(&all, "Deployment") {
            let pod = &deployment["spec"]["template"]["spec"];
            for container in list(pod, "containers") {
                assert!(container["readinessProbe"].is_object(), "{name}");
                if container["name"] != "simulator" {
                    assert!(container["livenessProbe"].is_object(), "{name}");
                }
            }
        }
    }
    let ha = rendered("ha");
    let names = |kind| {
        of_kind(&ha, kind)
            .iter()
            .map(|d| d["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("PodDisruptionBudget"), ["agentpool", "agentpool-api"]);
    assert_eq!(names("Deployment"), ["agentpool", "agentpool-api"]);
    for deployment in of_kind(&ha, "Deployment") {
        let spread = &deployment["spec"]["template"]["spec"]["topologySpreadConstraints"][0];
        assert_eq!(spread["labelSelector"], deployment["spec"]["selector"]);
        let account = &deployment["spec"]["template"]["spec"]["serviceAccountName"];
        assert_eq!(account, &deployment["metadata"]["name"]);
    }
    assert!(of_kind(&rendered("minimal"), "PodDisruptionBudget").is_empty());
}

fn words(rule: &Value, key: &str) -> BTreeSet<String> {
    list(rule, key)
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

/// Verb by verb; Secrets are never listed, and the API reads only those that are named.
#[test]
fn rights_are_listed_verb_by_verb() {
    for name in MATRIX {
        let all = rendered(name);
        let roles = of_kind(&all, "Role");
        let roles = roles.into_iter().chain(of_kind(&all, "ClusterRole"));
        for role in roles {
            let title = format!("{name} {}", role["metadata"]["name"]);
            for rule in list(role, "rules") {
                for key in ["apiGroups", "resources", "verbs"] {
                    let words = words(rule, key);
                    assert!(!words.is_empty() && !words.contains("*"), "{title}: {rule}");
                }
                if !words(rule, "resources").contains("secrets") {
                    continue;
                }
                let (verbs, named) = (
                    words(rule, "verbs"),
                    !list(rule, "resourceNames").is_empty(),
                );
                let looks = ["list", "watch"].iter().any(|v| verbs.contains(*v));
                assert!(named || !looks, "{title} lists Secrets");
                let api = role["metadata"]["name"].as_str().unwrap().contains("-api");
                assert!(named || !api || !verbs.contains("get"), "{title}: {rule}");
                assert!(
                    !verbs.contains("update") && !verbs.contains("patch"),
                    "{title}"
                );
            }
        }
    }
}

/// What the tests' operators run under (tests/support/account.rs) is what a release of the whole cluster has, too.
#[test]
fn rights_are_the_same_in_one_namespace_and_in_all() {
    let (one, all) = (rendered("namespaced"), rendered("minimal"));
    let rules = |from: &[Value], kind: &str, name: &str| -> Vec<Value> {
        let roles = of_kind(from, kind).into_iter();
        let mut named = roles.filter(|r| r["metadata"]["name"] == name);
        let role = named.next().unwrap_or_else(|| panic!("no {kind} {name}"));
        // What that snapshot's values name besides.
        let given = serde_json::json!(["shared-key"]);
        let all = list(role, "rules").into_iter().cloned();
        all.filter(|r| r["resourceNames"] != given).collect()
    };
    for role in ["controller", "api"] {
        let here = rules(&one, "Role", &format!("agentpool-{role}"));
        let there = rules(&all, "ClusterRole", &format!("agents-agentpool-{role}"));
        assert_eq!(here, there, "{role}");
        let release = format!("agentpool-{role}-release");
        let (here, there) = (rules(&one, "Role", &release), rules(&all, "Role", &release));
        assert_eq!(here, there, "{release}");
    }
}

#[test]
fn a_namespaced_release_has_nothing_of_the_clusters() {
    let all = rendered("namespaced");
    let kinds: BTreeSet<_> = all.iter().map(|d| d["kind"].as_str().unwrap()).collect();
    for kind in [
        "ClusterRole",
        "ClusterRoleBinding",
        "PriorityClass",
        "CustomResourceDefinition",
    ] {
        assert!(!kinds.contains(kind), "{kind}");
    }
    for object in &all {
        assert_eq!(object["metadata"]["namespace"], "agents", "{object}");
    }
}

/// In a pod of both the account has both Roles; apart each has its own.
#[test]
fn apart_each_role_has_an_account_of_its_own() {
    let bound = |name: &str| -> BTreeSet<(String, String)> {
        rendered(name)
            .iter()
            .filter(|d| d["kind"].as_str().unwrap().ends_with("Binding"))
            .map(|d| {
                let text = |v: &Value| v.as_str().unwrap().to_owned();
                (text(&d["roleRef"]["name"]), text(&d["subjects"][0]["name"]))
            })
            .collect()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let apart = bound("ha");
    assert!(apart.contains(&pair("agents-agentpool-controller", "agentpool")));
    assert!(apart.contains(&pair("agents-agentpool-api", "agentpool-api")));
    assert!(apart.contains(&pair("agentpool-api-release", "agentpool-api")));
    assert!(!apart.contains(&pair("agents-agentpool-controller", "agentpool-api")));
    let together = bound("minimal");
    assert!(together.iter().all(|(_, account)| account == "agentpool"));
}

/// The same but for how a number is written: 1 or 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|b| same(v, b)))
        }
        _ => a == b,
    }
}

/// Deleting a definition would delete every pool and claimed agent.
#[test]
fn definitions_are_kept_and_complete() {
    let all = documents("deploy/kubernetes/crds.yaml");
    let names: BTreeSet<_> = all
        .iter()
        .map(|d| d["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    let files = fs::read_dir(format!("{ROOT}/crds")).unwrap();
    let expected: BTreeSet<_> = files
        .map(|f| f.unwrap().path())
        .map(|p| {
            format!(
                "{}.pool.convos.org",
                p.file_stem().unwrap().to_str().unwrap()
            )
        })
        .collect();
    assert_eq!(names, expected);
    for definition in &all {
        let name = definition["metadata"]["name"].as_str().unwrap();
        assert_eq!(
            definition["metadata"]["annotations"]["helm.sh/resource-policy"],
            "keep"
        );
        let plural = name.split('.').next().unwrap();
        let own: Value = serde_yaml::from_str(
            &fs::read_to_string(format!("{ROOT}/crds/{plural}.yaml")).unwrap(),
        )
        .unwrap();
        assert!(same(&definition["spec"], &own["spec"]), "{name} differs");
    }
}

/// What the predecessor read from its environment: its port, its key and its environment are values of the chart, and
/// so reach the process; all that belongs to a pool is the pool's own.
#[test]
fn the_processes_settings_come_from_values() {
    let all = rendered("everything");
    let api = of_kind(&all, "Deployment")
        .into_iter()
        .find(|d| d["metadata"]["name"] == "pools-api")
        .unwrap();
    let container = &api["spec"]["template"]["spec"]["containers"][0];
    let set = |name: &str| {
        let all = list(container, "env");
        let found = all.into_iter().find(|v| v["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))["value"].clone()
    };
    assert_eq!(set("PORT"), "3002");
    assert_eq!(container["ports"][0]["containerPort"], 3002);
    assert_eq!(set("POOL_API_KEY_SECRET"), "my-api-key");
    assert_eq!(set("POOL_ENVIRONMENT"), "staging");
    assert_eq!(set("AGENTPOOL_PUBLIC_URL"), "https://pool.example");
    let policy = of_kind(&all, "NetworkPolicy")[0];
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], 3002);
}

/// An alert on a metric that nobody has would never fire.
#[test]
fn alerts_are_about_metrics_that_there_are() {
    let all = rendered("everything");
    let rule = of_kind(&all, "PrometheusRule")[0];
    let mut names = BTreeSet::new();
    for alert in list(&rule["spec"]["groups"][0], "rules") {
        let words = alert["expr"].as_str().unwrap();
        let words = words.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        names.extend(words.filter_map(|w| w.strip_prefix("agentpool_")));
    }
    let code = fs::read_to_string(format!("{ROOT}/src/telemetry/metrics.rs")).unwrap();
    for name in &names {
        let registered = format!("\"{}\",", name.trim_end_matches("_total"));
        assert!(code.contains(&registered), "no metric agentpool_{name}");
    }
    assert!(names.len() >= 5, "{names:?}");
}

/// Each environment has a values file, and the pools in them differ as the environments do.
#[test]
fn three_environments_have_values_of_their_own() {
    let mut pools = vec![];
    for name in ENVIRONMENTS {
        let file = format!("{}/values-{name}.yaml", chart());
        let values: Value = serde_yaml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(values["watchNamespace"], format!("agentpool-{name}"));
        let all = values["pools"].as_object().unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), [name]);
        pools.push(all[name]["spec"].clone());
    }
    let environments: Vec<_> = pools.iter().map(|p| p["environment"].clone()).collect();
    assert_eq!(environments, ENVIRONMENTS);
}

/// The try-out pool is the quick start's, but for the name of its Secret.
#[test]
fn the_simulators_pool_is_the_quick_start() {
    let file = fs::read_to_string(format!("{}/files/quickstart.yaml", chart())).unwrap();
    let mut mine: Value = serde_yaml::from_str(&file).unwrap();
    let example = documents("examples/quickstart.yaml");
    let pool = of_kind(&example, "AgentPool")[0];
    let secret = "/spec/provider/railway/tokenSecretRef/name";
    *mine.pointer_mut(secret).unwrap() = pool.pointer(secret).unwrap().clone();
    assert_eq!(mine["spec"], pool["spec"]);
}
