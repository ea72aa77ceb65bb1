//! What holds of every route: who may call it, how bodies are read, what unknown calls get.

use agentpool::http::{Access, OperationsState, PublicReads, ROUTES, operations_router};
use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{Answer, KEY, TOKEN_MARK, World, instance};

const UNAUTHORIZED: &str = "Invalid or missing API key";

fn request(method: &Method, path: &str, authorization: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Body::empty()).unwrap()
}

async fn post(world: &World, content_type: &str, body: impl Into<Body>) -> Answer {
    let request =
        Request::post("/api/pool/drain").header(header::AUTHORIZATION, format!("Bearer {KEY}"));
    world
        .send(
            request
                .header(header::CONTENT_TYPE, content_type)
                .body(body.into())
                .unwrap(),
        )
        .await
}

/// About: D29, D06
#[tokio::test(start_paused = true)]
async fn every_route_asks_for_its_key() {
    for reads in [PublicReads::Full, PublicReads::Redacted, PublicReads::Off] {
        let mut world = World::new();
        world.settings(|s| s.public_reads = reads);
        world.add([instance("a", "Idle", 1), instance("x", "Crashed", 1)]);
        world.cluster.lock().unwrap().controller =
            Box::new(|_| Some(json!({"state": "Done", "ids": []})));
        // Those of agents ask for another pair, those of Railway for another secret: `callbacks`, `webhooks`.
        let ours =
            |r: &&agentpool::http::Route| !matches!(r.access, Access::Instance | Access::Webhook);
        for route in ROUTES.iter().filter(ours) {
            let open = route.access == Access::Open
                || (route.access == Access::PublicRead && reads != PublicReads::Off);
            for prefix in ["", "/pools/agents/staging"] {
                let path = format!(
                    "{prefix}{}",
                    route.path.replace(
                        "{id}",
                        if route.path.contains("crashed") {
                            "x"
                        } else {
                            "a"
                        }
                    )
                );
                for bad in [
                    None,
                    Some("Bearer wrong"),
                    Some("Bearer"),
                    Some("Basic dGhlLXBvb2wta2V5"),
                ] {
                    let answer = world.send(request(&route.method, &path, bad)).await;
                    if open {
                        assert_eq!(
                            answer.status, 200,
                            "{} {path} {bad:?}: {}",
                            route.method, answer.text
                        );
                    } else {
                        answer.fails(401, "unauthorized", UNAUTHORIZED);
                    }
                }
                for good in [format!("Bearer {KEY}"), format!("bearer   {KEY}")] {
                    let answer = world.send(request(&route.method, &path, Some(&good))).await;
                    assert!(
                        ![401, 405].contains(&answer.status.as_u16()),
                        "{} {path}: {}",
                        route.method,
                        answer.text
                    );
                }
            }
        }
    }
}

/// The table of the contract, so that a route cannot go missing or open up.
#[test]
fn the_documented_routes_are_there() {
    let key = [
        "GET /api/pool/status",
        "GET /api/pool/debug/{id}",
        "POST /api/pool/claim",
        "POST /api/pool/replenish",
        "POST /api/pool/drain",
        "POST /api/pool/reconcile",
        "DELETE /api/pool/instances",
        "DELETE /api/pool/instances/{id}",
        "DELETE /api/pool/instances/{id}/destroy",
        "DELETE /api/pool/crashed/{id}",
    ];
    let line = |r: &agentpool::http::Route| format!("{} {}", r.method, r.path);
    let found: Vec<String> = ROUTES
        .iter()
        .filter(|r| r.access == Access::Key)
        .map(line)
        .collect();
    assert_eq!(found, key);
    let open: Vec<String> = ROUTES
        .iter()
        .filter(|r| r.access != Access::Key)
        .map(line)
        .collect();
    for wanted in [
        "GET /",
        "GET /healthz",
        "GET /version",
        "GET /api/pool/counts",
        "GET /api/pool/agents",
    ] {
        assert!(open.iter().any(|r| r == wanted), "{wanted}");
    }
}

/// About: E02
#[tokio::test]
async fn a_rotated_key_takes_effect_at_once() {
    let world = World::new();
    assert_eq!(
        world
            .call("GET", "/api/pool/status", Value::Null)
            .await
            .status,
        200
    );
    world.state.auth.replace(&["another".into()]);
    world
        .call("GET", "/api/pool/status", Value::Null)
        .await
        .fails(401, "unauthorized", UNAUTHORIZED);
    let answer = world
        .send(request(
            &Method::GET,
            "/api/pool/status",
            Some("Bearer another"),
        ))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_json() {
    let world = World::new();
    for path in [
        "/nothing",
        "/api/pool",
        "/api/pool/instances/a/b/c",
        "/pools/agents/staging/nothing",
        "/pools/agents",
        "/%ff",
    ] {
        world.get(path).await.fails(404, "not_found", "Not found");
    }
    for (method, path, allow) in [
        ("POST", "/api/pool/counts", "GET,HEAD"),
        ("GET", "/api/pool/claim", "POST"),
        ("GET", "/api/pool/instances/a", "DELETE"),
        ("PUT", "/pools/agents/staging/api/pool/drain", "POST"),
    ] {
        let answer = world.call(method, path, Value::Null).await;
        answer.fails(405, "method_not_allowed", "Method not allowed");
        assert_eq!(answer.headers[header::ALLOW], allow, "{method} {path}");
    }
    let unreadable = world
        .send(request(
            &Method::DELETE,
            "/api/pool/instances/%ff",
            Some(&format!("Bearer {KEY}")),
        ))
        .await;
    unreadable.fails(404, "not_found", "Not found");
}

#[tokio::test]
async fn options_and_cors() {
    let world = World::new();
    for (path, origin, allowed) in [
        ("/api/pool/claim", "https://site.example", true),
        ("/nothing", "https://site.example", true),
        ("/api/pool/claim", "https://site.example.evil.org", false),
        ("/api/pool/claim", "null", false),
    ] {
        let preflight = Request::options(path)
            .header(header::ORIGIN, origin)
            .body(Body::empty())
            .unwrap();
        let answer = world.send(preflight).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text.as_str()),
            (204, ""),
            "{path}"
        );
        assert_eq!(answer.headers[header::VARY], "Origin");
        let given = answer
            .headers
            .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            .map(|v| v.to_str().unwrap());
        assert_eq!(given, allowed.then_some(origin), "{path}");
        assert_eq!(
            answer
                .headers
                .contains_key(header::ACCESS_CONTROL_ALLOW_METHODS),
            allowed
        );
    }
    let refused = Request::get("/api/pool/status")
        .header(header::ORIGIN, "https://site.example")
        .body(Body::empty())
        .unwrap();
    let refused = world.send(refused).await;
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        "https://site.example",
        "a page must be able to read the error"
    );
}

/// About: N10
#[tokio::test(start_paused = true)]
async fn bodies_are_read_leniently_up_to_a_limit() {
    let world = World::new();
    for bad in ["{", "{\"count\":", "x"] {
        post(&world, "application/json; charset=utf-8", bad)
            .await
            .fails(400, "bad_request", "Invalid JSON body");
    }
    for (kind, empty) in [
        ("application/json", ""),
        ("application/json", "[1]"),
        ("application/json", "3"),
        ("application/json", "null"),
        ("text/plain", "{"),
        ("", "{"),
    ] {
        let answer = post(&world, kind, empty).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["drained"].clone()),
            (200, json!(0)),
            "{kind} {empty}"
        );
    }
    let fits = format!("{{\"x\":\"{}\"}}", "a".repeat(256 * 1024 - 8));
    assert_eq!(
        post(&world, "application/json", fits.clone()).await.status,
        200
    );
    post(&world, "application/json", format!("{fits} "))
        .await
        .fails(413, "bad_request", "Request body too large");
    let announced = Request::post("/api/pool/drain")
        .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
        .header(header::CONTENT_LENGTH, "262145");
    world
        .send(announced.body(Body::empty()).unwrap())
        .await
        .fails(413, "bad_request", "Request body too large");
    let stuck = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    post(&world, "application/json", stuck).await.fails(
        400,
        "bad_request",
        "The request body took too long",
    );
}

/// trap: the predecessor put the key into a public page
#[tokio::test(start_paused = true)]
async fn no_answer_holds_a_secret_that_was_not_asked_for() {
    let world = World::new();
    world.add([
        instance("a", "Idle", 1),
        instance("b", "Claimed", 2),
        instance("c", "Crashed", 3),
    ]);
    for route in ROUTES.iter().filter(|r| r.method == Method::GET) {
        for authorization in [None, Some(format!("Bearer {KEY}"))] {
            let answer = world
                .send(request(&route.method, route.path, authorization.as_deref()))
                .await;
            for canary in [KEY, TOKEN_MARK, "gatewayToken", "gateway_token"] {
                assert!(
                    !answer.text.contains(canary),
                    "{canary} in {}: {}",
                    route.path,
                    answer.text
                );
            }
            assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert!(
                !answer.headers.contains_key("x-powered-by")
                    && !answer.headers.contains_key(header::SERVER)
            );
        }
    }
}

/// About: D01
#[tokio::test]
async fn the_page_is_html_and_asks_nobody_else() {
    let world = World::empty();
    let page = world.get("/").await;
    assert_eq!(
        (page.status.as_u16(), &page.headers[header::CONTENT_TYPE]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    let policy = page.headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for text in [
        page.text.clone(),
        world.get("/assets/page.js").await.text,
        world.get("/assets/page.css").await.text,
    ] {
        assert!(!text.contains("//") || text.contains("// Shows"), "{text}");
        assert!(
            !text.contains("http:") && !text.contains("https:"),
            "{text}"
        );
    }
    assert_eq!(world.get("/pools/agents/staging/").await.text, page.text);
    assert_eq!(
        world.send(request(&Method::HEAD, "/", None)).await.status,
        200
    );
    assert!(page.text.contains("data-environment=\"unknown\""));

    // A name is text, whatever is in it.
    let mut world = World::new();
    world.settings(|s| s.environment = Some("\"><b>qa".to_owned()));
    let page = world.get("/").await.text;
    assert!(
        page.contains("data-environment=\"&quot;&gt;&lt;b&gt;qa\"") && !page.contains("<b>"),
        "{page}"
    );
}

#[tokio::test]
async fn the_operations_port_tells_live_ready_and_metrics() {
    let world = World::new();
    let cache = world.state.ready.part("caches");
    let state = OperationsState {
        ready: world.state.ready.clone(),
        metrics: world.state.metrics.clone(),
    };
    let (pools, instances) = (world.state.pools.clone(), world.state.instances.clone());
    world
        .state
        .metrics
        .set_pool_source(agentpool::operations::counts::pool_source(pools, instances));
    world.add([instance("a", "Idle", 1)]);
    world.get("/api/pool/counts?x=canary").await;
    world.get("/nothing/canary").await;
    let get = async |path: &str| {
        let answer = operations_router(state.clone())
            .oneshot(request(&Method::GET, path, None))
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (
            status,
            String::from_utf8(
                axum::body::to_bytes(answer.into_body(), usize::MAX)
                    .await
                    .unwrap()
                    .to_vec(),
            )
            .unwrap(),
        )
    };
    assert_eq!(get("/livez").await.0, 200);
    assert_eq!(
        get("/readyz").await,
        (503, "{\"ok\":false,\"waitingFor\":[\"caches\"]}".to_owned())
    );
    cache.set(true);
    assert_eq!(get("/readyz").await.0, 200);
    let (status, text) = get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "agentpool_instances{namespace=\"agents\",pool=\"staging\",phase=\"Idle\"} 1",
        "agentpool_pool_min_idle{namespace=\"agents\",pool=\"staging\"} 3",
        "agentpool_http_requests_total{method=\"GET\",route=\"/api/pool/counts\",status=\"200\"} 1",
        "agentpool_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("canary"));
}
