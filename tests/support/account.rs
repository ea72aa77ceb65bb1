//! The accounts that operators of tests run under: exactly the chart's Roles, as rendered in tests/chart.
//!
//! Every operator of these tests has one: `controller` and `api` each its own, `run` both Roles, as a pod of both has.
//! Made where the operator's settings say, once per place; the client's token comes from the TokenRequest API.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Set to `Cluster` in an operator's variables: its rights in the watched namespace are a ClusterRole, as without
/// `watchNamespace`. A namespace that is deleted takes the Roles in it along. `Admin`: the test's own rights, for a
/// process that ends before it uses any.
pub const RIGHTS: &str = "AGENTPOOL_TEST_RIGHTS";
/// The release's namespace in the snapshot.
const SNAPSHOT_NAMESPACE: &str = "agents";

/// Where and for whom rights are needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    admin: PathBuf,
    watched: Option<String>,
    release_namespace: String,
    release: String,
    root_key: String,
    api_key: String,
    cluster_wide: bool,
    role: String,
}

impl Place {
    fn of(environment: &BTreeMap<String, String>, role: &str) -> Option<Self> {
        let given = |name: &str| environment.get(name).filter(|v| !v.is_empty()).cloned();
        let admin = PathBuf::from(given("KUBECONFIG")?);
        let known = ["controller", "api", "run"].contains(&role);
        if !known || !admin.exists() || given(RIGHTS).as_deref() == Some("Admin") {
            return None;
        }
        let watched = given("AGENTPOOL_NAMESPACE");
        let release = given("AGENTPOOL_RELEASE").unwrap_or_else(|| "agentpool".to_owned());
        let or_watched = || watched.clone().unwrap_or_else(|| "default".to_owned());
        Some(Self {
            admin,
            release_namespace: given("AGENTPOOL_RELEASE_NAMESPACE").unwrap_or_else(or_watched),
            root_key: given("AGENTPOOL_ROOT_KEY_SECRET")
                .unwrap_or_else(|| format!("{release}-root-key")),
            api_key: given("POOL_API_KEY_SECRET").unwrap_or_else(|| format!("{release}-api-key")),
            cluster_wide: watched.is_none() || given(RIGHTS).as_deref() == Some("Cluster"),
            role: role.to_owned(),
            watched,
            release,
        })
    }

    /// Names in the snapshot, and here.
    fn renamed(&self, name: &str) -> String {
        match name {
            "agentpool-root-key" => self.root_key.clone(),
            "agentpool-imported-tokens" => format!("{}-imported-tokens", self.release),
            "agentpool-api-key" => self.api_key.clone(),
            "agentpool-controller" => format!("{}-controller", self.release),
            other => other.to_owned(),
        }
    }
}

/// The kubeconfig of the account that an operator with these settings runs under; `None` where it has no cluster.
pub fn kubeconfig(environment: &BTreeMap<String, String>, role: &str) -> Option<PathBuf> {
    Place::of(environment, role).map(made_of)
}

fn made_of(place: Place) -> PathBuf {
    static MADE: LazyLock<Mutex<HashMap<Place, PathBuf>>> = LazyLock::new(Mutex::default);
    let mut made = MADE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let number = made.len();
    let path = made.entry(place.clone()).or_insert_with(|| {
        // Operators are started from synchronous code inside a runtime.
        let work = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(make(&place, number))
        });
        work.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    path.clone()
}

/// The kubeconfig of an account that has no Role at all.
pub fn without_rights(environment: &BTreeMap<String, String>, role: &str) -> PathBuf {
    let mut place = Place::of(environment, "run").expect("a cluster");
    place.role = role.to_owned();
    made_of(place)
}

/// The rules of a Role of the chart, as the snapshot has them.
pub fn rules(role: &str) -> Vec<PolicyRule> {
    rules_in("namespaced", "Role", role)
}

/// The rules of a Role or ClusterRole of one of the snapshots.
pub fn rules_in(snapshot: &str, kind: &str, role: &str) -> Vec<PolicyRule> {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/tests/chart/{snapshot}.yaml")).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|d| Value::deserialize(d).unwrap())
        .find(|d| d["kind"] == kind && d["metadata"]["name"] == role)
        .map(|d| serde_json::from_value(d["rules"].clone()).unwrap())
        .unwrap_or_else(|| panic!("the snapshot has no {kind} {role}"))
}

/// Which Roles of the chart a role of the binary has.
pub fn roles_of(role: &str) -> &'static [&'static str] {
    match role {
        "controller" => &["agentpool-controller", "agentpool-controller-release"],
        "api" => &["agentpool-api", "agentpool-api-release"],
        "nobody" => &[],
        "run" => &[
            "agentpool-controller",
            "agentpool-controller-release",
            "agentpool-api",
            "agentpool-api-release",
        ],
        other => panic!("no role is called {other}"),
    }
}

async fn make(place: &Place, number: usize) -> PathBuf {
    // Err: another test of this process was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(&place.admin).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options);
    let client = Client::try_from(config.await.unwrap()).unwrap();
    for namespace in [Some(&place.release_namespace), place.watched.as_ref()] {
        let Some(namespace) = namespace else { continue };
        create::<Namespace>(
            &client,
            &named(namespace, |metadata| Namespace {
                metadata,
                ..Namespace::default()
            }),
        )
        .await;
    }
    let account = format!("{}-{}", place.release, place.role);
    let own = Some(place.release_namespace.as_str());
    create_in::<ServiceAccount>(
        &client,
        &place.release_namespace,
        &named(&account, |metadata| ServiceAccount {
            metadata,
            ..ServiceAccount::default()
        }),
    )
    .await;
    for role in roles_of(&place.role) {
        let namespace = if role.ends_with("-release") {
            own
        } else if place.cluster_wide {
            None
        } else {
            place.watched.as_deref()
        };
        grant(&client, place, &account, role, namespace).await;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &place.release_namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(86_400),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let token = accounts
        .create_token_request(&account, &PostParams::default(), &request)
        .await
        .unwrap()
        .status
        .unwrap()
        .token;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("account-{}-{number}.json", std::process::id()));
    let mut text = serde_json::to_value(&kubeconfig).unwrap();
    for user in text["users"].as_array_mut().unwrap() {
        user["user"] = serde_json::json!({"token": token});
    }
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

/// Grants a Role of the chart, there or (without a namespace) everywhere, and waits until it counts.
async fn grant(client: &Client, place: &Place, account: &str, role: &str, there: Option<&str>) {
    let mut rules = rules(role);
    for rule in &mut rules {
        for name in rule.resource_names.iter_mut().flatten() {
            *name = place.renamed(name);
        }
    }
    // The controller reads the cluster's id in a release without watchNamespace; in the others it is told.
    if role == "agentpool-controller-release" {
        let id = rules_in("minimal", "ClusterRole", "agents-agentpool-cluster-id");
        grant_rules(client, place, account, "cluster-id", None, id).await;
    }
    grant_rules(client, place, account, role, there, rules).await;
}

async fn grant_rules(
    client: &Client,
    place: &Place,
    account: &str,
    role: &str,
    there: Option<&str>,
    rules: Vec<PolicyRule>,
) {
    let name = match there {
        Some(_) => format!("{account}-{role}"),
        // In the whole cluster's name space: places must not share one.
        None => format!("{}-{account}-{role}", place.release_namespace),
    };
    let subjects = Some(vec![Subject {
        kind: "ServiceAccount".to_owned(),
        name: account.to_owned(),
        namespace: Some(place.release_namespace.clone()),
        ..Subject::default()
    }]);
    let reference = |kind: &str| RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: name.clone(),
    };
    let probe = rules.last().cloned().unwrap();
    match there {
        Some(namespace) => {
            let role = named(&name, |metadata| Role {
                metadata,
                rules: Some(rules),
            });
            create_in(client, namespace, &role).await;
            let binding = named(&name, |metadata| RoleBinding {
                metadata,
                role_ref: reference("Role"),
                subjects,
            });
            create_in(client, namespace, &binding).await;
        }
        None => {
            let role = named(&name, |metadata| ClusterRole {
                metadata,
                rules: Some(rules),
                ..ClusterRole::default()
            });
            create(client, &role).await;
            let binding = named(&name, |metadata| ClusterRoleBinding {
                metadata,
                role_ref: reference("ClusterRole"),
                subjects,
            });
            create(client, &binding).await;
        }
    }
    counts(client, &subject(place, account), there, &probe).await;
}

fn subject(place: &Place, account: &str) -> String {
    format!(
        "system:serviceaccount:{}:{account}",
        place.release_namespace
    )
}

/// The authorizer hears of new rights by a watch of its own.
async fn counts(client: &Client, user: &str, there: Option<&str>, rule: &PolicyRule) {
    let first = |list: &Option<Vec<String>>| list.as_ref().and_then(|l| l.first()).cloned();
    let (resource, subresource) = match first(&rule.resources).unwrap().split_once('/') {
        Some((resource, sub)) => (resource.to_owned(), Some(sub.to_owned())),
        None => (first(&rule.resources).unwrap(), None),
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                group: first(&rule.api_groups),
                resource: Some(resource),
                subresource,
                verb: rule.verbs.last().cloned(),
                name: first(&rule.resource_names),
                namespace: there.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    super::wait::until("new rights count", super::wait::LONG, || async {
        let answer = api.create(&PostParams::default(), &review).await.unwrap();
        answer.status.is_some_and(|s| s.allowed).then_some(())
    })
    .await;
}

fn named<K>(name: &str, make: impl FnOnce(ObjectMeta) -> K) -> K {
    make(ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    })
}

async fn create<K>(client: &Client, object: &K)
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    made(
        Api::<K>::all(client.clone())
            .create(&PostParams::default(), object)
            .await,
    );
}

async fn create_in<K>(client: &Client, namespace: &str, object: &K)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    made(api.create(&PostParams::default(), object).await);
}

/// It exists already: by an earlier operator of the same place.
fn made<K>(result: Result<K, kube::Error>) {
    match result {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => panic!("an account of the tests: {error}"),
    }
}
