//! The three environments as their values files make them: helm installs the chart with values-<environment>.yaml, and
//! the binaries run with exactly the variables that the release's Deployments give their containers, under exactly the
//! accounts and Roles that the release made. With pods: tests/cluster.

use std::collections::BTreeMap;

use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::api::{ListParams, PostParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::chart::{ROOT, apply_pools, helm, kubeconfig_of, succeed, values};
use crate::lifecycle::service_id;
use crate::support::account::RIGHTS;
use crate::support::operator::{KEY, Operator};
use crate::support::simulator::SHARED_PROJECT;
use crate::support::wait::{LONG, until};
use crate::support::world::World;

/// What an environment is known by.
struct Row {
    environment: &'static str,
    /// In provider-side names.
    code: &'static str,
    /// Of XMTP.
    network: &'static str,
    /// Of OpenClaw, where agents are built from a repository.
    branch: &'static str,
    /// Where invites point to, and links come from.
    domain: &'static str,
    /// Whose links are refused.
    other: &'static str,
    /// The badge's background on the page.
    badge: &'static str,
}

/// acceptance: H01
#[tokio::test(flavor = "multi_thread")]
async fn the_values_of_dev_make_a_developers_environment() {
    shows(&Row {
        environment: "dev",
        code: "dev",
        network: "dev",
        branch: "staging",
        domain: "dev.convos.org",
        other: "popup.convos.org",
        badge: "#dbeafe",
    })
    .await;
}

/// acceptance: H02
#[tokio::test(flavor = "multi_thread")]
async fn the_values_of_staging_make_a_yellow_environment_on_the_dev_network() {
    shows(&Row {
        environment: "staging",
        code: "stg",
        network: "dev",
        branch: "staging",
        domain: "dev.convos.org",
        other: "popup.convos.org",
        badge: "#fef3c7",
    })
    .await;
}

/// acceptance: H03
#[tokio::test(flavor = "multi_thread")]
async fn the_values_of_production_make_a_red_environment_on_the_production_network() {
    shows(&Row {
        environment: "production",
        code: "prod",
        network: "production",
        branch: "main",
        domain: "popup.convos.org",
        other: "dev.convos.org",
        badge: "#fee2e2",
    })
    .await;
}

async fn shows(row: &Row) {
    let environment = row.environment;
    let (world, controller) = install(environment).await;
    let given = values(environment);
    let given = &given["pools"][environment]["spec"];
    let idle = usize::try_from(given["minIdle"].as_u64().unwrap()).unwrap();
    let instance = world.wait_idle(idle).await.remove(0);
    let pool = world.pools().get(environment).await.unwrap();
    let spec = serde_json::to_value(&pool.spec).unwrap();
    for field in ["environment", "minIdle", "maxTotal"] {
        assert_eq!(spec[field], given[field], "{field}");
    }

    let name = &instance.spec.provider_name;
    assert!(name.contains(&format!("-{}-", row.code)), "{name}");
    let service = world.sim.service(name).await.unwrap();
    let variables = &service["variables"];
    assert_eq!(variables["XMTP_ENV"], row.network, "{service}");
    let image = &given["provider"]["railway"]["source"]["image"]["reference"];
    assert_eq!(&variables["_RUNTIME_IMAGE"], image);
    let resolved = pool.status.as_ref().unwrap().resolved.clone();
    assert_eq!(resolved["xmtpEnv"], row.network);

    let version = world.get("/version").await;
    assert_eq!(version.body["environment"], environment);
    coloured(&world, row).await;
    linked(&world, row).await;
    built(&world, row, &spec).await;
    remove(world, controller).await;
}

/// The page names the environment, in its colour.
async fn coloured(world: &World, row: &Row) {
    let environment = row.environment;
    let page = world.get("/").await.text;
    let marked = format!("<body data-environment=\"{environment}\">");
    let badge = format!("<span id=\"badge\">{environment}</span>");
    assert!(page.contains(&marked) && page.contains(&badge), "{page}");
    let style = world.get("/assets/page.css").await.text;
    let selector = format!("body[data-environment=\"{environment}\"]");
    let rule = style.lines().find(|line| line.contains(&selector));
    let colour = format!("--badge: {};", row.badge);
    assert!(rule.is_some_and(|r| r.contains(&colour)), "{style}");
    assert!(style.contains("background: var(--badge)"), "{style}");
}

/// Invites are of the environment's domain, links of the other are refused, and the domain's pages may call.
async fn linked(world: &World, row: &Row) {
    let answer = world.claim("Ada").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let invite = answer.body["inviteUrl"].as_str().unwrap();
    let domain = format!("https://{}/", row.domain);
    assert!(invite.starts_with(&domain), "{invite}");
    let id = answer.body["instanceId"].as_str().unwrap();
    let claimed = world.instance(id).await.unwrap();
    let ledger = world.sim.ledger().await;
    let conversation = &ledger["instances"][service_id(&claimed)]["conversations"][0];
    assert_eq!(conversation["env"], row.network, "{conversation}");

    let link = format!("https://{}/v2?i={}", row.other, "a".repeat(40));
    let body = json!({"agentName": "Bob", "instructions": "x", "joinUrl": link});
    let refused = world.call(Method::POST, "/api/pool/claim", body).await;
    let text = format!(
        "{} links cannot be used in the {} environment",
        row.other, row.environment
    );
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (400, &json!(text))
    );

    let origins = values(row.environment)["api"]["corsOrigins"].clone();
    let origin = origins[0].as_str().unwrap();
    let url = format!("{}/version", world.operator.as_ref().unwrap().api);
    let asked = reqwest::Client::new().get(url).header("origin", origin);
    let allowed = asked.send().await.unwrap().headers()["access-control-allow-origin"].clone();
    assert_eq!(allowed, origin);
}

/// Agents that the same environment builds from a repository: of its branch.
async fn built(world: &World, row: &Row, spec: &Value) {
    let change = json!({"minIdle": 1, "provider": {"railway": {"startCommand": null,
        "source": {"image": null, "repository": {"repo": "acme/agent"}}}}, "runtime": {"allowUnknownClean": true}});
    let mut spec = spec.clone();
    crate::support::world::merge(&mut spec, &change);
    let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool", "metadata": {"name": "built"}, "spec": spec});
    let pool = serde_json::from_value(object).unwrap();
    let created = world.pools().create(&PostParams::default(), &pool).await;
    created.unwrap();
    let instance = until("an agent is built", LONG, || async {
        let all = world.list().await.into_iter();
        let mut of_pool = all.filter(|i| i.spec.pool_ref.name == "built");
        of_pool.find(|i| phase_of(i) == Phase::Idle)
    })
    .await;
    let service = world.sim.service(&instance.spec.provider_name).await;
    let variables = service.unwrap()["variables"].clone();
    assert_eq!(variables["OPENCLAW_GIT_REF"], row.branch, "{variables}");
    assert_eq!(variables["XMTP_ENV"], row.network, "{variables}");
}

/// Installs the chart as the values file of that environment says, with what its head tells to prepare: the Secrets,
/// and the ids of a project. Set besides: the simulator's addresses, and what would only take time. The world's operator
/// is the API; the controller comes beside it.
async fn install(environment: &str) -> (World, Operator) {
    let mut world = World::bare(environment).await;
    world.secret("openrouter", "key", "sk-simulated").await;
    world.secret("pool-api-key", "POOL_API_KEY", KEY).await;
    let namespace = world.namespace.to_string();
    let chart = format!("{ROOT}/charts/agentpool");
    let file = format!("{chart}/values-{environment}.yaml");
    let peers = &world.sim.peers;
    let pool = format!("pools.{environment}.spec");
    let mut set = vec![
        format!("watchNamespace={namespace}"),
        format!("railwayUrl=http://{peers}/graphql/v2"),
        format!("registryUrl=http://{peers}/ghcr"),
        format!("agentConnectTo={peers}"),
        format!("{pool}.provider.railway.project.projectId={SHARED_PROJECT}"),
        format!("{pool}.tickIntervalSeconds=1"),
        // The definitions are here already, those of the Prometheus operator are not.
        "crds.enabled=false".to_owned(),
        "monitoring.serviceMonitor.enabled=false".to_owned(),
        "monitoring.prometheusRule.enabled=false".to_owned(),
    ];
    // A developer brings no key: helm makes one. The test's requests have this.
    if environment == "dev" {
        set.push("api.key.existingSecret=pool-api-key".to_owned());
    }
    let set = set.join(",");
    let release = ["install", "agentpool", &chart, "-n", &namespace];
    let with = ["--no-hooks", "-f", &file, "--set", &set];
    let all: Vec<_> = release.into_iter().chain(with).collect();
    succeed(helm(world.cluster, &all));
    apply_pools(world.cluster, &namespace);

    let mut started = BTreeMap::new();
    for (account, container) in containers(&world) {
        let role = container["args"][0].as_str().unwrap().to_owned();
        let variables = variables(&world, &account, &container).await;
        started.insert(role.clone(), Operator::start(&role, &variables));
    }
    assert_eq!(started.len(), 2, "{:?}", started.keys());
    world.operator = started.remove("api");
    (world, started.remove("controller").unwrap())
}

/// The operator's containers as the release's Deployments have them, each with its pod's account.
fn containers(world: &World) -> Vec<(String, Value)> {
    let text = world.kubectl(&["get", "deployments", "-o=json"]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut found = vec![];
    for deployment in all["items"].as_array().unwrap() {
        let pod = &deployment["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"].as_str().unwrap();
        for container in pod["containers"].as_array().unwrap() {
            found.push((account.to_owned(), container.clone()));
        }
    }
    found
}

/// A container's variables as the kubelet would set them, and what a process outside of a pod needs besides.
async fn variables(world: &World, account: &str, container: &Value) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for variable in container["env"].as_array().unwrap() {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.name") => format!("{account}-0"),
            Some("metadata.namespace") => world.namespace.to_string(),
            Some(other) => panic!("{other}"),
            None => variable["value"].as_str().unwrap().to_owned(),
        };
        all.insert(variable["name"].as_str().unwrap().to_owned(), value);
    }
    if container["name"] == "api" {
        assert_eq!(all["PORT"], "3001");
    }
    allowed(world, account, container["name"].as_str().unwrap()).await;
    let kubeconfig = kubeconfig_of(world.cluster, &world.namespace, account);
    for (name, value) in [
        ("KUBECONFIG", kubeconfig.to_str().unwrap()),
        // The rights are the release's own.
        (RIGHTS, "Admin"),
        ("AGENTPOOL_LISTEN", "127.0.0.1"),
        ("AGENTPOOL_OPERATIONS_PORT", "0"),
        ("PORT", "0"),
    ] {
        all.insert(name.to_owned(), value.to_owned());
    }
    all
}

/// Waits until the API server knows of every Role of an account.
async fn allowed(world: &World, account: &str, role: &str) {
    let user = format!("--as=system:serviceaccount:{}:{account}", &*world.namespace);
    let rights: &[&[&str]] = match role {
        "controller" => &[
            &["create", "agentinstances.pool.convos.org"],
            &["update", "leases.coordination.k8s.io/agentpool-controller"],
        ],
        _ => &[
            &["create", "agentclaims.pool.convos.org"],
            &["list", "secrets/pool-api-key"],
        ],
    };
    for right in rights {
        let question: Vec<_> = ["auth", "can-i", user.as_str()]
            .into_iter()
            .chain(right.iter().copied())
            .collect();
        until(&format!("{account} may {right:?}"), LONG, || async {
            world.try_kubectl(&question).0.then_some(())
        })
        .await;
    }
}

/// The end of a release, in the order that docs/install.md gives: pools first.
async fn remove(mut world: World, controller: Operator) {
    world.kubectl(&[
        "delete",
        "agentpools,agentinstances",
        "--all",
        "--wait=false",
    ]);
    until("every agent is gone", LONG, || async {
        let pools = world.pools().list(&ListParams::default()).await.unwrap();
        (world.list().await.is_empty() && pools.items.is_empty()).then_some(())
    })
    .await;
    drop(world.operator.take());
    drop(controller);
    let namespace = world.namespace.to_string();
    let uninstall = ["uninstall", "agentpool", "--no-hooks", "-n", &namespace];
    succeed(helm(world.cluster, &uninstall));
    assert!(world.sim.live_services().await.is_empty());
    world.sim.check_invariants().await;
}
