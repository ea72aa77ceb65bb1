//! The in-process API server of the simulation beside the real one: one script of requests, the same answers.
//!
//! Compared are status and reason, what is stored afterwards (versions as "changed" or "as before"), and what a watch
//! tells. The simulation is worth as much as this test.

#[allow(
    dead_code,
    unused_imports,
    reason = "its faults are for the simulation"
)]
#[path = "../sim/api_server/mod.rs"]
mod api_server;

use std::collections::BTreeMap;

use axum::body::to_bytes;
use kube::client::Body;
use serde_json::{Value, json};

use super::support::world::{cluster, pool_spec};
use api_server::{ApiServer, Reins};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const PATCH: &str = "application/json-patch+json";

/// One request. In its body `$RV` is the version of object `a` as last read, `$OLD` the one before.
struct Step(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Value,
);

/// One of the two servers.
enum Side {
    Real(kube::Client),
    Own(ApiServer),
}

impl Side {
    async fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> (u16, Vec<u8>) {
        let bytes = if body.is_null() {
            vec![]
        } else {
            body.to_string().into_bytes()
        };
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content);
        let request = request.body(bytes).unwrap();
        match self {
            Side::Real(client) => {
                let answer = client.send(request.map(Body::from)).await.unwrap();
                let code = answer.status().as_u16();
                let body = axum::body::Body::new(answer.into_body());
                (code, to_bytes(body, 16 << 20).await.unwrap().to_vec())
            }
            Side::Own(server) => {
                let answer = server.answer(&request, &Reins::default());
                let code = answer.status().as_u16();
                (
                    code,
                    to_bytes(answer.into_body(), 16 << 20)
                        .await
                        .unwrap()
                        .to_vec(),
                )
            }
        }
    }
}

fn instances(namespace: &str) -> String {
    format!("/apis/pool.convos.org/v1alpha1/namespaces/{namespace}/agentinstances")
}

fn instance(name: &str) -> Value {
    json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": name, "finalizers": ["pool.convos.org/instance"], "labels": {"pool.convos.org/pool": "p"}},
        "spec": {"id": name, "poolRef": {"name": "p"}, "providerName": format!("convos-agent-stg-{name}"),
            "template": {"revision": "p-1", "hash": "1"}, "unknown": 1},
        "status": {"phase": "Idle"},
    })
}

fn claim(id: &str) -> Value {
    json!({"id": id, "holder": "h", "deadline": "2031-01-01T00:00:00Z", "requestedAt": "2030-01-01T00:00:00Z", "agentName": "Ada"})
}

fn condition(status: &str) -> Value {
    json!([{"type": "Ready", "status": status, "reason": "Idle", "message": "", "lastTransitionTime": "2030-01-01T00:00:00Z"}])
}

/// What the controllers, the claim service and people do to an instance, rightly and wrongly.
fn life_of_an_instance() -> Vec<Step> {
    let version =
        |v: &str| json!({"op": "replace", "path": "/metadata/resourceVersion", "value": v});
    vec![
        Step("create", "POST", "", JSON, instance("a")),
        Step("create again", "POST", "", JSON, instance("a")),
        Step("create without a name", "POST", "", JSON, {
            let mut object = instance("b");
            object["metadata"] = json!({});
            object
        }),
        Step(
            "create without a kind",
            "POST",
            "",
            JSON,
            json!({"metadata": {"name": "b"}, "spec": {"id": "b"}}),
        ),
        Step("create without what is required", "POST", "", JSON, {
            let mut object = instance("b");
            object["spec"] = json!({"id": "b"});
            object
        }),
        Step("create with a claim", "POST", "", JSON, {
            let mut object = instance("c");
            object["spec"]["claim"] = claim("x");
            object
        }),
        Step("read", "GET", "/a", JSON, Value::Null),
        Step("read what is not there", "GET", "/zz", JSON, Value::Null),
        Step(
            "patch what is not there",
            "PATCH",
            "/zz",
            MERGE,
            json!({"spec": {"turn": 2}}),
        ),
        Step(
            "reserve too early",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"claim": claim("x")}}),
        ),
        Step(
            "record before there is a status",
            "PATCH",
            "/a/status",
            PATCH,
            json!([{"op": "add", "path": "/status/phase", "value": "Idle"}]),
        ),
        Step(
            "first status, with the version",
            "PATCH",
            "/a/status",
            PATCH,
            json!([version("$RV"),
            {"op": "add", "path": "/status", "value": {"phase": "Provisioning", "conditions": condition("False")}}]),
        ),
        Step(
            "the same, out of date",
            "PATCH",
            "/a/status",
            PATCH,
            json!([version("$OLD"), {"op": "replace", "path": "/status/phase", "value": "Dead"}]),
        ),
        Step(
            "a status ahead of its turn",
            "PATCH",
            "/a/status",
            PATCH,
            json!([{"op": "add", "path": "/status/turn", "value": 2}]),
        ),
        Step(
            "proven",
            "PATCH",
            "/a/status",
            PATCH,
            json!([version("$RV"), {"op": "add", "path": "/status/turn", "value": 1},
            {"op": "replace", "path": "/status/phase", "value": "Idle"}]),
        ),
        Step(
            "proven again: nothing changes",
            "PATCH",
            "/a/status",
            PATCH,
            json!([{"op": "add", "path": "/status/turn", "value": 1}]),
        ),
        Step(
            "a status by way of the object",
            "PATCH",
            "/a",
            MERGE,
            json!({"status": {"phase": "Dead"}}),
        ),
        Step(
            "a spec by way of the status",
            "PATCH",
            "/a/status",
            MERGE,
            json!({"spec": {"turn": 7}}),
        ),
        Step(
            "a status of the wrong type",
            "PATCH",
            "/a/status",
            MERGE,
            json!({"status": {"turn": "one"}}),
        ),
        Step(
            "another id",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"id": "other"}}),
        ),
        Step(
            "another template",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"template": {"hash": "2"}}}),
        ),
        Step(
            "two turns at once",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"turn": 3}}),
        ),
        Step(
            "reserve, out of date",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"resourceVersion": "$OLD"}, "spec": {"claim": claim("x")}}),
        ),
        Step(
            "reserve",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"resourceVersion": "$RV"}, "spec": {"claim": claim("x")}}),
        ),
        Step(
            "reserve, the second",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"claim": claim("y")}}),
        ),
        Step(
            "record for another claim",
            "PATCH",
            "/a/status",
            PATCH,
            json!([{"op": "test", "path": "/spec/claim/id", "value": "y"},
            {"op": "replace", "path": "/status/phase", "value": "Claimed"}]),
        ),
        Step(
            "record",
            "PATCH",
            "/a/status",
            PATCH,
            json!([{"op": "test", "path": "/spec/claim/id", "value": "x"},
            {"op": "add", "path": "/status/claim", "value": {"id": "x", "outcome": "Bound"}}, {"op": "replace", "path": "/status/phase", "value": "Claimed"},
            {"op": "add", "path": "/status/conditions", "value": condition("True")}]),
        ),
        Step(
            "clear without a turn",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"claim": null}}),
        ),
        Step(
            "a turn with the claim on it",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"turn": 2}}),
        ),
        Step(
            "clear",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"resourceVersion": "$RV"}, "spec": {"claim": null, "release": null, "turn": 2}}),
        ),
        Step(
            "a label only",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"labels": {"x": "y"}}}),
        ),
        Step(
            "a patch that finds nothing",
            "PATCH",
            "/a",
            PATCH,
            json!([{"op": "remove", "path": "/spec/claim"}]),
        ),
        Step(
            "delete another version",
            "DELETE",
            "/a",
            JSON,
            json!({"preconditions": {"resourceVersion": "$OLD"}}),
        ),
        Step(
            "delete another object",
            "DELETE",
            "/a",
            JSON,
            json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}),
        ),
        Step(
            "delete",
            "DELETE",
            "/a",
            JSON,
            json!({"preconditions": {"resourceVersion": "$RV"}}),
        ),
        Step("delete again", "DELETE", "/a", JSON, Value::Null),
        Step(
            "a finalizer too late",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"finalizers": ["pool.convos.org/instance", "late/one"]}}),
        ),
        Step(
            "a status on the way out",
            "PATCH",
            "/a/status",
            MERGE,
            json!({"status": {"phase": "Terminating"}}),
        ),
        Step(
            "let go, out of date",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"resourceVersion": "$OLD", "finalizers": []}}),
        ),
        Step(
            "let go",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"resourceVersion": "$RV", "finalizers": []}}),
        ),
        Step("read what is gone", "GET", "/a", JSON, Value::Null),
        Step("create without finalizers", "POST", "", JSON, {
            let mut object = instance("d");
            object["metadata"]["finalizers"] = Value::Null;
            object["spec"]["claim"] = claim("x");
            object["spec"]["restored"] = true.into();
            object
        }),
        Step("delete at once", "DELETE", "/d", JSON, Value::Null),
    ]
}

/// What two servers must agree on: versions and ids are each one's own.
fn essence(mut object: Value, versions: &mut BTreeMap<String, String>) -> Value {
    if object["kind"] == "Status" {
        // A success is told in several ways.
        return json!({"status": object["status"], "reason": object["reason"], "code": object["code"]});
    }
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let version = object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let changed = versions.get(&name) != Some(&version);
    versions.insert(name, version);
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return object;
    };
    for own in [
        "uid",
        "creationTimestamp",
        "managedFields",
        "resourceVersion",
        "namespace",
    ] {
        metadata.remove(own);
    }
    if let Some(at) = metadata.get_mut("deletionTimestamp") {
        *at = "set".into();
    }
    metadata.insert("changed".to_owned(), changed.into());
    object
}

async fn play(side: &Side, base: &str, steps: &[Step]) -> Vec<(String, Value)> {
    let (mut answers, mut versions) = (vec![], BTreeMap::new());
    let (mut latest, mut before) = (String::new(), String::new());
    for Step(name, method, path, content, body) in steps {
        let text = body
            .to_string()
            .replace("$RV", &latest)
            .replace("$OLD", &before);
        let body: Value = serde_json::from_str(&text).unwrap();
        let (code, bytes) = side
            .send(method, &format!("{base}{path}"), content, &body)
            .await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        let failed = code >= 400;
        answers.push((
            format!("{name}: {code}"),
            if failed {
                answer["reason"].clone()
            } else {
                essence(answer, &mut versions)
            },
        ));
        // What is stored after it, whatever was said.
        let (code, bytes) = side
            .send("GET", &format!("{base}/a"), JSON, &Value::Null)
            .await;
        if code == 200 {
            let stored: Value = serde_json::from_slice(&bytes).unwrap();
            let version = stored["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned();
            if version != latest {
                before = std::mem::replace(&mut latest, version);
            }
            answers.push((format!("after {name}"), essence(stored, &mut versions)));
        }
    }
    answers
}

/// The words and names of a watch from the first version on, for two seconds.
async fn watched(side: &Side, base: &str) -> Vec<String> {
    let (_, list) = side
        .send("GET", &format!("{base}?limit=500"), JSON, &Value::Null)
        .await;
    let list: Value = serde_json::from_slice(&list).unwrap();
    let from = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    play(side, base, &life_of_an_instance()).await;
    let path = format!(
        "{base}?watch=true&resourceVersion={from}&timeoutSeconds=2&allowWatchBookmarks=true"
    );
    let (_, bytes) = side.send("GET", &path, JSON, &Value::Null).await;
    let lines = String::from_utf8(bytes).unwrap();
    let events = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told = events.filter(|e| e["type"] != "BOOKMARK").map(|e| {
        format!(
            "{} {} {}",
            e["type"], e["object"]["metadata"]["name"], e["object"]["status"]["phase"]
        )
    });
    told.collect()
}

fn compare(real: &[(String, Value)], own: &[(String, Value)]) {
    let differ: Vec<String> = real
        .iter()
        .zip(own)
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("real {} {}\nown  {} {}", a.0, a.1, b.0, b.1))
        .collect();
    assert!(
        differ.is_empty(),
        "{} differences:\n{}",
        differ.len(),
        differ.join("\n")
    );
    assert_eq!(real.len(), own.len());
}

async fn both(name: &str) -> (Side, Side, String, super::support::cluster::Namespace) {
    let cluster = cluster();
    let namespace = cluster.namespace(name).await;
    let own = Side::Own(ApiServer::new(|| "2030-01-01T00:00:00Z".parse().unwrap()));
    own.send(
        "POST",
        "/api/v1/namespaces",
        JSON,
        &json!({"metadata": {"name": &*namespace}}),
    )
    .await;
    (
        Side::Real(cluster.client().await),
        own,
        namespace.to_string(),
        namespace,
    )
}

#[tokio::test]
async fn an_instance_s_life_is_answered_alike() {
    let (real, own, name, _namespace) = both("parity-life").await;
    let base = instances(&name);
    let steps = life_of_an_instance();
    compare(
        &play(&real, &base, &steps).await,
        &play(&own, &base, &steps).await,
    );
}

#[tokio::test]
async fn a_watch_tells_the_same() {
    let (real, own, name, _namespace) = both("parity-watch").await;
    let base = instances(&name);
    let (real, own) = (watched(&real, &base).await, watched(&own, &base).await);
    assert!(real.len() > 10, "{real:?}");
    assert_eq!(real, own);
}

#[tokio::test]
async fn pools_secrets_and_lists_are_answered_alike() {
    let (real, own, name, _namespace) = both("parity-rest").await;
    let pools = format!("/apis/pool.convos.org/v1alpha1/namespaces/{name}/agentpools");
    let steps = [
        Step(
            "create",
            "POST",
            "",
            JSON,
            json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
            "metadata": {"name": "a"}, "spec": pool_spec()}),
        ),
        Step(
            "a finalizer",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"resourceVersion": "$RV", "finalizers": ["pool.convos.org/pool"]}}),
        ),
        Step(
            "another environment",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"environment": "dev"}}),
        ),
        Step(
            "a maximum below the minimum",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"maxTotal": 1}}),
        ),
        Step(
            "scaled",
            "PATCH",
            "/a",
            MERGE,
            json!({"spec": {"minIdle": 4}}),
        ),
        Step(
            "status",
            "PATCH",
            "/a/status",
            PATCH,
            json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "$RV"},
            {"op": "add", "path": "/status", "value": {"creating": ["x"], "idle": 1}}]),
        ),
        Step("delete", "DELETE", "/a", JSON, Value::Null),
        Step(
            "gone",
            "PATCH",
            "/a",
            MERGE,
            json!({"metadata": {"finalizers": []}}),
        ),
    ];
    compare(
        &play(&real, &pools, &steps).await,
        &play(&own, &pools, &steps).await,
    );
    let secrets = format!("/api/v1/namespaces/{name}/secrets");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "immutable": true, "stringData": {"k": "v"}});
    let revisions = format!("/apis/apps/v1/namespaces/{name}/controllerrevisions");
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "a"}, "data": {"x": 1}, "revision": 1});
    for side in [&real, &own] {
        let (code, bytes) = side.send("POST", &secrets, JSON, &secret).await;
        let made: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((code, &made["data"]["k"]), (201, &json!("dg==")));
        let (code, _) = side
            .send(
                "PATCH",
                &format!("{secrets}/a"),
                MERGE,
                &json!({"data": {"k": "eA=="}}),
            )
            .await;
        assert_eq!(code, 422);
        let (code, _) = side.send("POST", &revisions, JSON, &revision).await;
        assert_eq!(code, 201);
        let (code, _) = side
            .send(
                "PATCH",
                &format!("{revisions}/a"),
                MERGE,
                &json!({"data": {"x": 2}}),
            )
            .await;
        assert_eq!(code, 422);
        let (code, _) = side
            .send("POST", &secrets.replace(&name, "nowhere"), JSON, &secret)
            .await;
        assert_eq!(code, 404);
    }
    // The claim service's own list.
    let base = instances(&name);
    let mut lists = vec![];
    for side in [&real, &own] {
        for n in ["i1", "i2", "i3"] {
            side.send("POST", &base, JSON, &instance(n)).await;
            side.send(
                "PATCH",
                &format!("{base}/{n}/status"),
                MERGE,
                &json!({"status": {"phase": if n == "i2" { "Dead" } else { "Idle" }, "turn": 1}}),
            )
            .await;
        }
        side.send(
            "PATCH",
            &format!("{base}/i3"),
            MERGE,
            &json!({"metadata": {"labels": {"pool.convos.org/protected": "true"}}}),
        )
        .await;
        let query = "labelSelector=%21pool.convos.org%2Fprotected&fieldSelector=spec.poolRef.name%3Dp%2Cstatus.phase%3DIdle%2Cspec.claim.id%3D&limit=10";
        let (code, bytes) = side
            .send("GET", &format!("{base}?{query}"), JSON, &Value::Null)
            .await;
        let list: Value = serde_json::from_slice(&bytes).unwrap();
        let names: Vec<Value> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].clone())
            .collect();
        lists.push((code, names));
        for n in ["i1", "i2", "i3"] {
            side.send(
                "PATCH",
                &format!("{base}/{n}"),
                MERGE,
                &json!({"metadata": {"finalizers": []}}),
            )
            .await;
        }
    }
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0], (200, vec![json!("i1")]));
}
