//! The chart's Roles: each role of the binary under an account of its own, with a life that needs every right of it,
//! and what the API server's audit log says about it. Every other test's operators run under these Roles too
//! (support/account.rs) and fail where one is missing.

use std::collections::{BTreeMap, BTreeSet};

use agentpool::api::AgentClaim;
use agentpool::domain::instance::phase::Phase;
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use reqwest::Method;
use serde_json::{Value, json};

use crate::lifecycle::{replenish_one, service_id};
use crate::recycling::SPRITES_TOKEN;
use crate::support::account;
use crate::support::cluster::Cluster;
use crate::support::operator::Operator;
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World, install_crds};
use crate::sweep::{forget, removed_at};

/// One right: group, resource with its subresource, verb, and the object's name where rights are by name.
type Right = (String, String, String, String);

/// What Roles of the chart grant, one by one.
fn granted(roles: &[&str]) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| account::rules(role)) {
        let names = rule.resource_names.unwrap_or_else(|| vec![String::new()]);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    for name in &names {
                        let right = [group, resource, verb, name].map(|w| (*w).clone());
                        all.insert(right.into());
                    }
                }
            }
        }
    }
    all
}

/// What an account did, as rights: by name only where it is granted by name.
fn used(events: &[Value], user: &str, granted: &BTreeSet<Right>) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for event in events.iter().filter(|e| e["user"]["username"] == user) {
        let object = &event["objectRef"];
        // Discovery is everybody's.
        let Some(resource) = object["resource"].as_str() else {
            continue;
        };
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let sub = word(&object["subresource"]);
        let resource = if sub.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}/{sub}")
        };
        let (group, verb) = (word(&object["apiGroup"]), word(&event["verb"]));
        let by_name = (
            group.clone(),
            resource.clone(),
            verb.clone(),
            word(&object["name"]),
        );
        let any = (group, resource, verb, String::new());
        all.insert(if granted.contains(&by_name) {
            by_name
        } else {
            any
        });
    }
    all
}

/// The cluster's id, which support/account.rs grants besides.
fn ignored(right: &Right) -> bool {
    right.1 == "namespaces" && right.2 == "get"
}

async fn apply_claim(world: &World, name: &str, spec: Value) -> Api<AgentClaim> {
    let mut full =
        json!({"poolRef": {"name": POOL}, "agentName": "Eve", "instructions": "Be kind."});
    crate::support::world::merge(&mut full, &spec);
    let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentClaim", "metadata": {"name": name}, "spec": full});
    let api: Api<AgentClaim> = Api::namespaced(world.client.clone(), &world.namespace);
    let claim = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &claim).await.unwrap();
    api
}

async fn bound(api: &Api<AgentClaim>, name: &str) {
    until("the AgentClaim is bound", LONG, || async {
        let status = api.get(name).await.unwrap().status?;
        (status.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
}

async fn gone(api: &Api<AgentClaim>, name: &str) {
    until("the AgentClaim is gone", LONG, || async {
        api.get_opt(name).await.unwrap().is_none().then_some(())
    })
    .await;
}

/// Claims of every kind, their ends, and what people do through the API.
async fn live(world: &World) {
    let long = "Be kind. ".repeat(600);
    let claim = json!({"agentName": "Ada", "instructions": long});
    // An agent that is not ready is put back, and its instructions are taken away again.
    let fault = json!({"fault": {"kind": "gateway502", "route": "/convos/status"}});
    world.sim.fault("agents", fault).await;
    let refused = world
        .call(Method::POST, "/api/pool/claim", claim.clone())
        .await;
    assert_eq!(refused.status, 500, "{}", refused.text);
    world.sim.heal("agents").await;
    world.wait_idle(3).await;
    let taken = world.call(Method::POST, "/api/pool/claim", claim).await;
    assert_eq!(taken.status, 200, "{}", taken.text);

    let kept = json!({"agentName": "Ada", "instructions": "Be kind.", "joinUrl": "https://dev.convos.org/v2?i=abcdefghijklmnopqrstuvwxyz"});
    for _ in 0..2 {
        let answer = keyed(world, "k", &kept).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
    }
    let claims = apply_claim(world, "eve", json!({})).await;
    bound(&claims, "eve").await;
    claims
        .delete("eve", &DeleteParams::default())
        .await
        .unwrap();
    gone(&claims, "eve").await;
    apply_claim(world, "bob", json!({"ttlSecondsAfterFinished": 1})).await;
    gone(&claims, "bob").await;

    replenish_one(world).await;
    let drained = world
        .call(Method::POST, "/api/pool/drain", json!({"count": 1}))
        .await;
    assert_eq!(drained.status, 200, "{}", drained.text);
    let id = world.in_phase(Phase::Claimed).await[0].spec.id.clone();
    let path = format!("/api/pool/instances/{id}");
    assert_eq!(
        world.call(Method::DELETE, &path, json!({})).await.status,
        200
    );
    world.wait_gone(&id).await;

    // A key is forgotten where nothing is there to claim.
    let none = json!({"minIdle": 0, "environment": "dev"});
    world.create_pool("empty", none).await;
    let pool = format!("{}/empty", &*world.namespace);
    let of_empty = json!({"agentName": "Ada", "instructions": "Be kind.", "pool": pool});
    until(
        "the empty pool is known, and has no agent",
        LONG,
        || async { (keyed(world, "e", &of_empty).await.0 == 503).then_some(()) },
    )
    .await;
}

/// What happens now and then: an orphan is removed, a pool goes with its templates, and one on Sprites wants a set-up
/// script of its own, whose ConfigMap is not there.
async fn now_and_then(world: &World) {
    let one = world.wait_idle(3).await.remove(0);
    forget(world, &one).await;
    removed_at(world, &service_id(&one)).await;
    let parameters = DeleteParams::default();
    world.pools().delete("empty", &parameters).await.unwrap();
    world.secret("sprites", "token", SPRITES_TOKEN).await;
    let own = json!({"setup": {"scriptConfigMapRef": {"name": "own"}}});
    let spec = crate::recycling::spec(own, json!({}));
    world.create_pool("sprites", spec).await;
}

async fn keyed(world: &World, key: &str, body: &Value) -> (u16, String) {
    let operator = world.operator.as_ref().unwrap();
    let answer = reqwest::Client::new()
        .post(format!("{}/api/pool/claim", operator.api))
        .bearer_auth(crate::support::operator::KEY)
        .header("idempotency-key", key)
        .json(body)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A life under the two accounts uses each right that the chart grants, and asks for no other. So whoever takes one
/// away takes a call away that was made here.
#[tokio::test(flavor = "multi_thread")]
async fn each_role_uses_every_right_it_has_and_needs_no_other() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::with_audit("rights")));
    install_crds(cluster);
    let mut world = World::on(cluster, "rights").await;
    // As the chart does: both wait for the Secret, and the API follows it.
    let key = crate::support::operator::KEY;
    world.secret("agentpool-api-key", "POOL_API_KEY", key).await;
    world
        .secret("shared-key", "key", "a-shared-key-of-all")
        .await;
    let settings = world.environment(&[
        ("POOL_API_KEY", ""),
        ("POOL_API_KEY_SECRET", "agentpool-api-key"),
        ("AGENTPOOL_SWEEP_GRACE_SECONDS", "1"),
    ]);
    let mut controller = Operator::start("controller", &settings);
    world.operator = Some(Operator::start("api", &settings));
    world
        .create_pool(
            POOL,
            json!({
                "minIdle": 3,
                "tickIntervalSeconds": 1,
                "reconcileIntervalSeconds": 1,
                "runtime": {"sharedKeySecretRef": {"name": "shared-key", "key": "key"}},
            }),
        )
        .await;
    world.wait_idle(3).await;
    live(&world).await;
    now_and_then(&world).await;
    // Another process takes over what the first began, and knows nothing of it.
    world.wait_idle(3).await;
    controller.stop();
    let denied = controller.denied();
    assert!(denied.is_empty(), "{denied:#?}");
    let _controller = Operator::start("controller", &settings);
    world.patch_pool(json!({"minIdle": 4})).await;
    world.wait_idle(4).await;

    let rights = |role: &str| {
        let granted = granted(account::roles_of(role));
        let user = format!(
            "system:serviceaccount:{}:agentpool-{role}",
            &*world.namespace
        );
        (user, granted)
    };
    for role in ["controller", "api"] {
        let (user, granted) = rights(role);
        until("every right was used", LONG, || async {
            let used = used(&cluster.audited(), &user, &granted);
            let idle: BTreeSet<_> = granted.difference(&used).collect();
            eprintln!("{role} has not used yet: {idle:?}");
            idle.is_empty().then_some(())
        })
        .await;
        let used = used(&cluster.audited(), &user, &granted);
        let more: Vec<_> = used.difference(&granted).filter(|r| !ignored(r)).collect();
        assert!(more.is_empty(), "{role} asks for more: {more:?}");
    }
    world.finish().await;
}

/// What the API server says that an account may do in a namespace, without what everybody may.
async fn listed(kubeconfig: &std::path::Path, namespace: &str) -> BTreeSet<Right> {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(read, &options)
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let api: Api<SelfSubjectRulesReview> = Api::all(client);
    let answer = api.create(&PostParams::default(), &review).await.unwrap();
    let mut all = BTreeSet::new();
    for rule in answer.status.unwrap().resource_rules {
        let names = rule.resource_names.unwrap_or_else(|| vec![String::new()]);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    for name in &names {
                        all.insert([group, resource, verb, name].map(|w| (*w).clone()).into());
                    }
                }
            }
        }
    }
    all
}

/// `kubectl auth can-i --list` of each account is the chart's list, and not a line more.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_lists_what_the_chart_lists() {
    let world = World::bare("can-i").await;
    let settings = world.environment(&[]);
    // An account without rights shows what everybody may.
    let nobody = account::without_rights(&settings, "nobody");
    let everybody = listed(&nobody, &world.namespace).await;
    let mut told = BTreeMap::new();
    for role in ["controller", "api", "run"] {
        let path = account::kubeconfig(&settings, role).unwrap();
        let mut mine = listed(&path, &world.namespace).await;
        mine.retain(|right| !everybody.contains(right) && !ignored(right));
        assert_eq!(mine, granted(account::roles_of(role)), "{role}");
        told.insert(role, mine);
    }
    let both: BTreeSet<_> = told["controller"].union(&told["api"]).cloned().collect();
    assert_eq!(told["run"], both);
}

/// What the cluster's own roles say of our objects, one line each: resource and verbs.
fn of_people(cluster: &Cluster, user: &str, namespace: &str) -> BTreeSet<String> {
    let user = format!("--as={user}");
    let out = cluster.kubectl(["auth", "can-i", "--list", &user, "-n", namespace]);
    let text = String::from_utf8(out.stdout).unwrap();
    let ours = |line: &str| -> Option<String> {
        let (resource, rest) = line.split_once(".pool.convos.org")?;
        let sub = rest.split_whitespace().next().unwrap();
        let sub = if sub.starts_with('/') { sub } else { "" };
        let (_, verbs) = line.rsplit_once('[')?;
        let mut verbs: Vec<_> = verbs.trim_end_matches(']').split(' ').collect();
        verbs.sort_unstable();
        Some(format!("{resource}{sub} {}", verbs.join(" ")))
    };
    text.lines().filter_map(ours).collect()
}

/// Whoever may view, edit or administer a namespace may so with our objects, verb by verb: the cluster's own roles take
/// the chart's up. Instances are not to be viewed: their status holds invites.
#[tokio::test(flavor = "multi_thread")]
async fn viewers_and_editors_have_what_the_chart_adds_for_them() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::own("people")));
    install_crds(cluster);
    let world = World::on(cluster, "people").await;
    let view = account::rules_in("minimal", "ClusterRole", "agents-agentpool-view");
    let edit = account::rules_in("minimal", "ClusterRole", "agents-agentpool-edit");
    for (name, aggregate, rules) in [
        ("view", &["view"][..], view),
        ("edit", &["edit", "admin"][..], edit),
    ] {
        let label = |to: &&str| {
            let key = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
            (key, json!("true"))
        };
        let labels: serde_json::Map<_, _> = aggregate.iter().map(label).collect();
        let name = format!("agentpool-{name}");
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        let role: k8s_openapi::api::rbac::v1::ClusterRole = serde_json::from_value(role).unwrap();
        let api = Api::all(world.client.clone());
        api.create(&PostParams::default(), &role).await.unwrap();
    }
    for user in ["view", "edit", "admin"] {
        let (role, user) = (
            format!("--clusterrole={user}"),
            format!("--user=a-user-of-{user}"),
        );
        let name = role.trim_start_matches("--clusterrole=");
        world.kubectl(&["create", "rolebinding", name, &role, &user]);
    }
    let edits = [
        "agentpools create delete get list patch update watch",
        "agentclaims create delete get list patch update watch",
        "agentpools/scale get patch update",
        "agentinstances delete get list patch watch",
    ];
    for (user, expected) in [
        ("view", &["agentpools get list watch"][..]),
        ("edit", &edits[..]),
        ("admin", &edits[..]),
    ] {
        let expected: BTreeSet<_> = expected.iter().map(|l| (*l).to_owned()).collect();
        let user = format!("a-user-of-{user}");
        let found = until(&format!("{user} has rights"), LONG, || async {
            let found = of_people(cluster, &user, &world.namespace);
            (found.len() >= expected.len()).then_some(found)
        })
        .await;
        assert_eq!(found, expected, "{user}");
    }
}
