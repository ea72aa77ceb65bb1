//! What the HTTP API shows, to whom, and whom it lets in.

use std::collections::BTreeMap;

use agentpool::api::AgentPool;
use agentpool::domain::instance::phase::Phase;
use agentpool::http::{Access, ROUTES};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use reqwest::Method;
use serde_json::{Value, json};

use super::http_calls::{
    account, bearer, call, claim, claim_at, delete, empty_pool, fails, ids, open, post, service_id,
    tally, text, wait_operator_ready, wait_served,
};
use crate::support::account;
use crate::support::cluster::Cluster;
use crate::support::operator::{KEY, Operator};
use crate::support::simulator::{Simulator, TOKEN};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, SPEED, World, install_crds, pool_spec};

const DENIED: &str = "Invalid or missing API key";

/// Everything that must never be shown without the key: the key, the provider's token, the root key in each spelling,
/// and every agent's token.
async fn secrets(world: &World) -> Vec<String> {
    let answer = world.get("/api/pool/status?include=secrets").await;
    let rows = answer.body["instances"].as_array().unwrap().clone();
    let tokens: Vec<String> = rows
        .iter()
        .filter_map(|row| row["gatewayToken"].as_str().map(str::to_owned))
        .collect();
    assert!(!tokens.is_empty(), "there are tokens to look for: {rows:?}");
    let api: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let root = api.get("agentpool-root-key").await.unwrap().data.unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let spelled = root
        .values()
        .flat_map(|v| [hex(&v.0), json!(v).as_str().unwrap().to_owned()]);
    [KEY.to_owned(), TOKEN.to_owned()]
        .into_iter()
        .chain(spelled)
        .chain(tokens)
        .collect()
}

fn shows_none(shown: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!shown.contains(secret.as_str()), "{secret} in {shown}");
    }
}

/// acceptance: D01, D03
#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_the_version_are_open_and_tell_no_secret() {
    let mut world = World::with_pool("http-page", json!({"minIdle": 1})).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    let secrets = secrets(&world).await;

    let page = open(&world, "/").await;
    assert_eq!(page.status, 200);
    let kind = page.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("text/html"), "{kind}");
    assert!(page.text.contains("<!doctype html>") && page.text.contains("</html>"));
    let mut shown = format!("{:?}{}", page.headers, page.text);
    for part in ["assets/page.js", "assets/page.css"] {
        assert!(page.text.contains(part), "the page names {part}");
        let part = open(&world, &format!("/{part}")).await;
        assert_eq!(part.status, 200);
        shown += &part.text;
    }
    shows_none(&shown, &secrets);

    let version = open(&world, "/version").await;
    assert_eq!(version.status, 200);
    assert!(!text(&version.body, "version").is_empty());
    assert_eq!(version.body["environment"], "staging", "the pool's");
    world.start_operator(&[("POOL_ENVIRONMENT", "elsewhere")]);
    let version = open(&world, "/version").await;
    assert_eq!(version.body["environment"], "elsewhere", "the API's own");
    assert!(!text(&version.body, "version").is_empty());
    world.finish().await;
}

/// acceptance: D02
#[tokio::test(flavor = "multi_thread")]
async fn healthz_answers_with_provider_and_api_server_down_and_when_started_so() {
    let cluster = Cluster::own("healthz");
    install_crds(&cluster);
    let sim = Simulator::start(SPEED);
    let variables = [
        ("KUBECONFIG", cluster.kubeconfig().to_str().unwrap()),
        ("AGENTPOOL_NAMESPACE", "default"),
        (
            "AGENTPOOL_RAILWAY_URL",
            &format!("http://{}/graphql/v2", sim.peers),
        ),
        ("AGENTPOOL_AGENT_CONNECT_TO", &sim.peers),
        ("AGENTPOOL_LISTEN", "127.0.0.1"),
        ("AGENTPOOL_OPERATIONS_PORT", "0"),
        ("PORT", "0"),
        ("POOL_API_KEY", KEY),
    ];
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let healthy = async |operator: &Operator| {
        let answer = call(&operator.api, Method::GET, "/healthz", None, None).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, r#"{"ok":true}"#)
        );
        assert_eq!(answer.headers["content-type"], "application/json");
    };
    let mut before = Operator::start("run", &variables);
    wait_operator_ready(&before).await;
    healthy(&before).await;

    // A pool in it, so that both the provider and the API server are in use when they go.
    let client = cluster.client().await;
    let token = json!({"metadata": {"name": "railway"}, "stringData": {"token": TOKEN}});
    let params = PostParams::default();
    let api: Api<Secret> = Api::namespaced(client.clone(), "default");
    api.create(&params, &serde_json::from_value(token).unwrap())
        .await
        .unwrap();
    let mut spec = pool_spec();
    spec["tickIntervalSeconds"] = json!(1);
    let pool = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool", "metadata": {"name": POOL}, "spec": spec});
    let api: Api<AgentPool> = Api::namespaced(client, "default");
    api.create(&params, &serde_json::from_value(pool).unwrap())
        .await
        .unwrap();
    until("the provider is called", LONG, || async {
        (!sim.services_ever().await.is_empty()).then_some(())
    })
    .await;

    drop(sim);
    healthy(&before).await;
    // Its account is there before, as that of a pod that starts again.
    account::kubeconfig(&variables, "api");
    cluster.stop_api_server();
    healthy(&before).await;
    let mut run = Operator::start("run", &variables);
    let mut api = Operator::start("api", &variables);
    for operator in [&run, &api, &before] {
        healthy(operator).await;
        let ready = format!("{}/livez", operator.operations);
        assert_eq!(reqwest::get(ready).await.unwrap().status(), 200);
    }
    assert!(before.runs() && run.runs() && api.runs());
    let ready = format!("{}/readyz", run.operations);
    assert_eq!(reqwest::get(ready).await.unwrap().status(), 503);

    cluster.start_api_server();
    for operator in [&run, &api, &before] {
        wait_operator_ready(operator).await;
        healthy(operator).await;
    }
    assert!(before.runs() && run.runs() && api.runs());
    assert!(before.stop().success());
    until("the one started meanwhile works", LONG, || async {
        run.log().contains("reconciling").then_some(())
    })
    .await;
    assert!(run.runs() && api.runs());
}

/// One agent in use, one crashed in use, one in stock and one being built.
async fn a_mixed_pool(name: &str) -> World {
    let world = World::with_pool(name, json!({"tickIntervalSeconds": 1})).await;
    let body = json!({"agentName": "Ada", "instructions": "Keep $HOME & \"quotes\"."});
    assert_eq!(claim(&world, body).await.status, 200);
    world.wait_idle(2).await;
    let slow = json!({"defaults": {"boot": 100_000_000}});
    world.sim.set("agents", slow).await;
    let body = json!({"agentName": "Bob", "instructions": "Be brief."});
    let bob = claim(&world, body).await;
    assert_eq!(bob.status, 200, "{}", bob.text);
    let id = text(&bob.body, "instanceId");
    let service = service_id(&world.instance(&id).await.unwrap());
    world
        .sim
        .force(json!({"service": service, "deployment": {"status": "CRASHED"}}))
        .await;
    let wanted = BTreeMap::from([("claimed", 1), ("crashed", 1), ("idle", 1), ("starting", 1)]);
    until("a mixed pool", LONG, || async {
        (tally(&world.list().await) == wanted).then_some(())
    })
    .await;
    // What the API shows comes from its watch, which may be a little behind.
    until("the API shows the mixed pool", LONG, || async {
        let counts = open(&world, "/api/pool/counts").await.body;
        wanted.iter().all(|(k, n)| counts[k] == *n).then_some(())
    })
    .await;
    world
}

/// acceptance: D04, D05, D06
#[tokio::test(flavor = "multi_thread")]
async fn counts_agents_and_status_say_what_the_cluster_says() {
    let world = a_mixed_pool("http-mixed").await;
    let secrets = secrets(&world).await;
    let cluster = tally(&world.list().await);

    let counts = open(&world, "/api/pool/counts").await;
    assert_eq!(counts.status, 200);
    let map = counts.body.as_object().unwrap();
    assert!(map.values().all(Value::is_i64), "{}", counts.text);
    assert_eq!(map["provisioning"], map["starting"]);
    for (key, number) in map.iter().filter(|(key, _)| *key != "provisioning") {
        let own = cluster.get(key.as_str()).copied().unwrap_or_default();
        assert_eq!(number, own, "{key} in {}", counts.text);
    }
    let sum: i64 = map
        .iter()
        .filter(|(key, _)| *key != "provisioning")
        .map(|(_, n)| n.as_i64().unwrap())
        .sum();
    assert_eq!(sum, 4, "every object is counted once");

    let agents = open(&world, "/api/pool/agents").await;
    assert_eq!(agents.status, 200);
    shows_none(&agents.text, &secrets);
    for (key, name, instructions) in [
        ("claimed", "Ada", "Keep $HOME & \"quotes\"."),
        ("crashed", "Bob", "Be brief."),
    ] {
        let rows = agents.body[key].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{}", agents.text);
        let (row, instance) = (&rows[0], world.instance(&text(&rows[0], "id")).await);
        let done = instance.unwrap().status.unwrap().claim.unwrap();
        assert_eq!(row["agentName"], name);
        assert_eq!(row["agent_name"], name);
        assert_eq!(row["instructions"], instructions);
        assert_eq!(text(row, "inviteUrl"), done.invite_url.clone().unwrap());
        assert_eq!(row["invite_url"], row["inviteUrl"]);
        assert_eq!(text(row, "conversationId"), done.conversation_id.unwrap());
    }
    assert_eq!(agents.body["idle"].as_array().unwrap().len(), 1);
    assert_eq!(agents.body["starting"].as_array().unwrap().len(), 1);
    let list = open(&world, "/api/pool/agents?format=list").await;
    assert_eq!(
        list.body, agents.body["claimed"],
        "the form of the first generations"
    );

    let none = open(&world, "/api/pool/status").await;
    fails(&none, 401, DENIED, "unauthorized");
    let status = world.get("/api/pool/status").await;
    assert_eq!(status.status, 200);
    assert_eq!(status.body["counts"], counts.body);
    let rows = status.body["instances"].as_array().unwrap();
    let mut told: Vec<_> = rows.iter().map(|r| text(r, "id")).collect();
    told.sort();
    assert_eq!(told, ids(&world.list().await));
    let states: Vec<_> = rows.iter().map(|r| text(r, "status")).collect();
    for state in ["claimed", "crashed", "idle", "starting"] {
        assert!(states.iter().any(|s| s == state), "{states:?}");
    }
    shows_none(&status.text, &secrets);
    world.finish().await;
}

/// acceptance: D16, N09, N10
#[tokio::test(flavor = "multi_thread")]
async fn the_header_is_read_leniently_the_key_exactly_and_a_bad_body_is_told() {
    let world = World::with_pool("http-key", json!({"minIdle": 1})).await;
    let before = ids(&world.list().await);
    let body = json!({"agentName": "Ada", "instructions": "Be kind."}).to_string();
    let with = async |header: Option<&str>, body: &str| {
        let path = "/api/pool/claim";
        let body = Some(body.to_owned());
        world.call_with(Method::POST, path, header, body).await
    };
    let (cut, longer) = (&KEY[..KEY.len() - 1], format!("{KEY}x"));
    let upper = KEY.to_uppercase();
    for bad in [
        None,
        Some(String::new()),
        Some(KEY.to_owned()),
        Some("Bearer".to_owned()),
        Some("Bearer nonsense".to_owned()),
        Some(format!("Bearer {cut}")),
        Some(format!("Bearer {longer}")),
        Some(format!("Bearer {upper}")),
        Some(format!("Basic {KEY}")),
        Some(format!("Bearer {KEY} {KEY}")),
    ] {
        let answer = with(bad.as_deref(), &body).await;
        fails(&answer, 401, DENIED, "unauthorized");
        // What a person sees who types the documented curl line with a wrong key.
        assert_eq!(
            answer.text,
            r#"{"code":"unauthorized","error":"Invalid or missing API key"}"#
        );
    }
    let claimed = world.in_phase(Phase::Claimed).await;
    assert!(claimed.is_empty(), "nothing was done without the key");

    for good in [
        format!("bearer {KEY}"),
        format!("BEARER {KEY}"),
        format!("Bearer    {KEY}"),
        format!("bEaReR  {KEY} "),
    ] {
        let answer = with(Some(&good), "{}").await;
        fails(
            &answer,
            400,
            "instructions (string) is required",
            "bad_request",
        );
        let path = "/api/pool/status";
        let answer = world.call_with(Method::GET, path, Some(&good), None).await;
        assert_eq!(answer.status, 200, "{good:?}");
    }
    for bad in ["{", "not json", "{\"agentName\":}", "{\"a\":1}x"] {
        let answer = with(Some(&bearer()), bad).await;
        fails(&answer, 400, "Invalid JSON body", "bad_request");
    }
    assert_eq!(ids(&world.in_phase(Phase::Idle).await), before);
    let answer = with(Some(&format!("bearer {KEY}")), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    world.finish().await;
}

/// What everybody may call, by the contract. Not read from the program: that is what is tested.
const OPEN: [&str; 7] = [
    "/",
    "/assets/page.js",
    "/assets/page.css",
    "/healthz",
    "/version",
    "/api/pool/counts",
    "/api/pool/agents",
];

/// acceptance: D29
#[tokio::test(flavor = "multi_thread")]
async fn every_other_route_needs_the_key() {
    let world = World::with_pool("http-routes", json!({"minIdle": 1})).await;
    wait_served(&world).await;
    let instance = world.list().await.remove(0);
    let body = json!({"agentName": "Ada", "instructions": "Be kind.", "count": 1}).to_string();
    let prefix = format!("/pools/{}/{POOL}", &*world.namespace);
    let ask = async |method: &Method, path: &str, header: Option<&str>, prefix: &str| {
        let path = format!("{prefix}{}", path.replace("{id}", &instance.spec.id));
        let body = (*method != Method::GET).then(|| body.clone());
        world.call_with(method.clone(), &path, header, body).await
    };

    // What agents and Railway call has a secret of its own (`callbacks`, `looks`).
    let keyed = |r: &&agentpool::http::Route| {
        !OPEN.contains(&r.path) && !matches!(r.access, Access::Instance | Access::Webhook)
    };
    let guarded: Vec<_> = ROUTES.iter().filter(keyed).collect();
    for promised in [
        "GET /api/pool/status",
        "POST /api/pool/claim",
        "POST /api/pool/replenish",
        "POST /api/pool/drain",
        "POST /api/pool/reconcile",
        "DELETE /api/pool/instances",
        "DELETE /api/pool/instances/{id}",
        "DELETE /api/pool/instances/{id}/destroy",
    ] {
        let is = |r: &&&agentpool::http::Route| format!("{} {}", r.method, r.path) == promised;
        assert!(guarded.iter().any(|r| is(&r)), "{promised} is served");
    }
    for path in OPEN {
        for header in [None, Some("Bearer wrong"), Some(bearer().as_str())] {
            let answer = ask(&Method::GET, path, header, "").await;
            assert_eq!(answer.status, 200, "{path} with {header:?}");
        }
    }
    for route in &guarded {
        for header in [None, Some("Bearer wrong"), Some("Bearer"), Some(KEY)] {
            for prefix in ["", prefix.as_str()] {
                let answer = ask(&route.method, route.path, header, prefix).await;
                fails(&answer, 401, DENIED, "unauthorized");
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
        }
    }
    let now = world.list().await;
    assert_eq!(
        ids(&now),
        std::slice::from_ref(&instance.spec.id),
        "none came, none went"
    );
    assert_eq!(now[0].spec, instance.spec, "none was claimed");
    assert!(now[0].metadata.deletion_timestamp.is_none());
    assert_eq!(account(&world, &instance).await["claimCalls"], 0);
    let asked = world.pool().await.metadata.annotations.unwrap_or_default();
    assert!(
        asked.is_empty(),
        "nothing was asked of the controller: {asked:?}"
    );

    for route in &guarded {
        let answer = ask(&route.method, route.path, Some(&bearer()), "").await;
        if route.path == "/api/pool/crashed/{id}" {
            let why = format!("Crashed instance {} not found", instance.spec.id);
            fails(&answer, 404, &why, "not_found");
        } else {
            assert_eq!(
                answer.status, 200,
                "{} {}: {}",
                route.method, route.path, answer.text
            );
        }
    }
    fails(
        &world.get("/api/pool/nothing").await,
        404,
        "Not found",
        "not_found",
    );
    let wrong = delete(&world, "/api/pool/claim").await;
    fails(&wrong, 405, "Method not allowed", "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST");
    world.finish().await;
}

/// acceptance: E02
#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_a_secret_is_changed_without_a_restart_and_without_losing_an_agent() {
    let mut world = World::bare("http-rotation").await;
    world.secret("api-key", "POOL_API_KEY", "first-key\n").await;
    world.start_operator(&[("POOL_API_KEY", ""), ("POOL_API_KEY_SECRET", "api-key")]);
    world.create_pool(POOL, json!({})).await;
    world.wait_idle(2).await;
    let with = async |key: &str| {
        let header = format!("Bearer {key}");
        let path = "/api/pool/status";
        let answer = world
            .call_with(Method::GET, path, Some(&header), None)
            .await;
        answer.status
    };
    until("the first key is read", LONG, || async {
        (with("first-key").await == 200).then_some(())
    })
    .await;
    assert_eq!(with("second-key").await, 401);
    let api = world.operator.as_ref().unwrap().api.clone();
    let body = json!({"agentName": "Ada", "instructions": "Be kind."});
    let path = "/api/pool/claim";
    let header = Some("Bearer first-key");
    let claimed = call(&api, Method::POST, path, header, Some(body.to_string())).await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    world.wait_idle(2).await;
    let before = world.list().await;
    let made = world.sim.services_ever().await;

    world.secret("api-key", "POOL_API_KEY", "second-key").await;
    until("the second key is read", LONG, || async {
        (with("second-key").await == 200).then_some(())
    })
    .await;
    assert_eq!(
        with("first-key").await,
        401,
        "the old key is of no use any more"
    );
    assert_eq!(claim_at(&api, body).await.status, 401, "nor is any other");
    // A Secret that loses its key takes nobody in: the last key that was read goes on.
    world.secret("api-key", "POOL_API_KEY", "").await;
    let log = || world.operator.as_ref().unwrap().log();
    until("the loss is noticed", LONG, || async {
        log().contains("lacks POOL_API_KEY").then_some(())
    })
    .await;
    assert_eq!((with("second-key").await, with("").await), (200, 401));

    let uids = |list: &[agentpool::api::AgentInstance]| -> Vec<_> {
        let mut all: Vec<_> = list.iter().map(|i| i.metadata.uid.clone()).collect();
        all.sort();
        all
    };
    let after = world.list().await;
    assert_eq!(uids(&after), uids(&before), "the same agents");
    assert_eq!(tally(&after), tally(&before));
    assert_eq!(
        world.sim.services_ever().await,
        made,
        "nothing was made or removed"
    );
    assert!(world.operator().runs());
    world.finish().await;
}

/// acceptance: F12
#[tokio::test(flavor = "multi_thread")]
async fn the_address_in_status_answers() {
    let world = World::with_pool("http-address", json!({"minIdle": 1})).await;
    let path = "-o=jsonpath={.items[0].status.url}";
    let url = world.kubectl(&["get", "agentinstances", path]);
    assert!(url.starts_with("https://"), "{url}");
    let row = world.get("/api/pool/status?include=secrets").await.body["instances"][0].clone();
    assert_eq!(text(&row, "url"), url, "the API tells the same");
    let token = text(&row, "gatewayToken");
    let answer = world.agent(&url, "/convos/status", Some(&token)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.body["conversationId"],
        Value::Null,
        "{}",
        answer.text
    );

    let claimed = world.claim("Ada").await;
    let answer = world.agent(&url, "/convos/status", Some(&token)).await;
    let bound = &answer.body["conversationId"];
    assert_eq!(bound, &claimed.body["conversationId"], "{}", answer.text);
    world.finish().await;
}

/// Several pools behind one API: named in every way, and never mixed up.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_named_by_query_body_or_path() {
    let world = empty_pool("http-pools", json!({})).await;
    world.create_pool("other", json!({"minIdle": 1})).await;
    world.wait_idle(1).await;
    until("the API knows both pools", LONG, || async {
        let path = "/api/pool/counts?pool=other";
        (open(&world, path).await.body["idle"] == 1).then_some(())
    })
    .await;
    let several = open(&world, "/api/pool/counts").await;
    assert_eq!(
        (several.status, &several.body["code"]),
        (404, &json!("not_found"))
    );
    let own = open(&world, "/api/pool/counts?pool=pool").await;
    assert_eq!(own.body["idle"], 0);
    let nobody = post(&world, "/api/pool/drain", json!({"pool": "nobody"})).await;
    fails(&nobody, 404, "Pool nobody not found", "not_found");

    let mut body = json!({"agentName": "Ada", "instructions": "Be kind.", "pool": "pool"});
    assert_eq!(claim(&world, body.clone()).await.status, 503);
    body["pool"] = json!("other");
    assert_eq!(claim(&world, body).await.status, 200);
    let path = format!("/pools/{}/other/api/pool/counts", &*world.namespace);
    until("the claim is counted", LONG, || async {
        (open(&world, &path).await.body["claimed"] == 1).then_some(())
    })
    .await;
    world.finish().await;
}
