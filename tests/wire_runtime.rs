//! The agents' HTTP contract against local servers: which dialect, what is ready, and every class of a claim's
//! outcome. Real sockets: never under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests: a server lives as long as its test"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentpool::domain::agent::{AgentStatus, ClaimCall, ClaimOutcome, Dialect, Probe, Refusal};
use agentpool::runtime::{Agent, AgentRuntime, HttpRuntime};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const LIMIT: Duration = Duration::from_millis(1500);
const TOKEN: &str = "instance-token";
const SHARED: &str = "shared-key";

fn runtime() -> HttpRuntime {
    let _ = rustls::crypto::ring::default_provider().install_default();
    HttpRuntime::new(None).unwrap()
}

fn agent(url: &str) -> Agent {
    Agent {
        url: url.to_owned(),
        token: Some(TOKEN.to_owned().into()),
        shared_key: None,
    }
}

fn with_shared(url: &str) -> Agent {
    Agent {
        shared_key: Some(SHARED.to_owned().into()),
        ..agent(url)
    }
}

fn create() -> ClaimCall {
    ClaimCall {
        agent_name: "Tokyo Trip".to_owned(),
        instructions: "Plan the trip of Mrs. Smith".to_owned(),
        join_url: None,
        profile_image: None,
        metadata: None,
        passed_through: std::collections::BTreeMap::new(),
        xmtp_env: "dev".to_owned(),
    }
}

fn join() -> ClaimCall {
    ClaimCall {
        join_url: Some("https://dev.convos.org/v2?i=slug-123".to_owned()),
        ..create()
    }
}

fn json_of(status: u16, body: Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

fn html(status: u16) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw("<html>Control</html>", "text/html; charset=utf-8")
}

fn plain(status: u16) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw("not here", "text/plain")
}

async fn serve(routes: &[(&str, &str, ResponseTemplate)]) -> MockServer {
    let server = MockServer::start().await;
    for (verb, route, answer) in routes {
        Mock::given(method(*verb))
            .and(path(*route))
            .respond_with(answer.clone())
            .mount(&server)
            .await;
    }
    server
}

async fn paths(server: &MockServer) -> Vec<String> {
    server
        .received_requests()
        .await
        .unwrap()
        .iter()
        .map(|r| format!("{} {}", r.method, r.url.path()))
        .collect()
}

fn unbound_gateway() -> ResponseTemplate {
    json_of(
        200,
        json!({"ready": true, "conversation": null, "streaming": false}),
    )
}

fn clean_managed() -> ResponseTemplate {
    json_of(
        200,
        json!({"conversationId": null, "inboxId": null, "pending": false, "clean": true}),
    )
}

fn up() -> ResponseTemplate {
    json_of(
        200,
        json!({"ready": true, "version": "0.3.4", "runtime": "openclaw"}),
    )
}

fn word(probe: &Probe) -> &'static str {
    match probe {
        Probe::Unreachable(_) => "unreachable",
        Probe::NotReady(_) => "not ready",
        Probe::Unauthorized => "unauthorized",
        Probe::WrongRuntime(_) => "wrong",
        Probe::Answered {
            dialect: Dialect::Gateway,
            ..
        } => "gateway",
        Probe::Answered {
            dialect: Dialect::PoolServer,
            ..
        } => "pool server",
    }
}

#[tokio::test]
async fn the_dialect_is_decided_by_the_table() {
    let refused = || json_of(401, json!({"error": "Unauthorized"}));
    let broken = ResponseTemplate::new(200).set_body_raw("{\"ready\": tr", "application/json");
    let lying = ResponseTemplate::new(200).set_body_raw("{\"ready\": true}", "text/plain");
    for (health, status, auto, pool_server) in [
        (up(), clean_managed(), "pool server", "pool server"),
        (
            json_of(503, json!({"ready": false})),
            clean_managed(),
            "not ready",
            "not ready",
        ),
        (
            json_of(200, json!({"ready": false})),
            clean_managed(),
            "not ready",
            "not ready",
        ),
        (
            up(),
            json_of(502, json!({"error": "Runtime unavailable"})),
            "unreachable",
            "unreachable",
        ),
        (up(), html(200), "not ready", "not ready"),
        (up(), refused(), "unauthorized", "unauthorized"),
        (html(200), unbound_gateway(), "gateway", "wrong"),
        (html(404), unbound_gateway(), "gateway", "wrong"),
        (plain(404), unbound_gateway(), "gateway", "wrong"),
        (plain(405), unbound_gateway(), "gateway", "wrong"),
        (plain(503), unbound_gateway(), "gateway", "wrong"),
        (html(404), html(404), "unreachable", "unreachable"),
        (html(200), html(200), "not ready", "not ready"),
        (html(200), refused(), "unauthorized", "unauthorized"),
        (html(200), clean_managed(), "not ready", "not ready"),
        (plain(404), html(200), "unreachable", "unreachable"),
        (refused(), unbound_gateway(), "unauthorized", "unauthorized"),
        (plain(502), unbound_gateway(), "unreachable", "unreachable"),
        (
            json_of(200, json!({"status": "ok"})),
            unbound_gateway(),
            "unreachable",
            "unreachable",
        ),
        (broken, unbound_gateway(), "unreachable", "unreachable"),
        (lying, unbound_gateway(), "unreachable", "unreachable"),
        (
            ResponseTemplate::new(302).insert_header("location", "/pool/health2"),
            up(),
            "unreachable",
            "unreachable",
        ),
        (
            up().set_delay(LIMIT * 3),
            clean_managed(),
            "unreachable",
            "unreachable",
        ),
    ] {
        let routes = [
            ("GET", "/pool/health", health.clone()),
            ("GET", "/convos/status", status),
        ];
        let server = serve(&routes).await;
        let probe = runtime().probe(&agent(&server.uri()), None, LIMIT).await;
        assert_eq!(word(&probe), auto, "{health:?}: {probe:?}");
        let probe = runtime()
            .probe(&agent(&server.uri()), Some(Dialect::PoolServer), LIMIT)
            .await;
        assert_eq!(word(&probe), pool_server, "{health:?}: {probe:?}");
        for request in server.received_requests().await.unwrap() {
            assert_eq!((request.url.query(), request.body.len()), (None, 0));
            assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
        }
    }
    let probe = runtime()
        .probe(&agent("http://127.0.0.1:1"), None, LIMIT)
        .await;
    assert_eq!(word(&probe), "unreachable");
    assert_eq!(
        word(&runtime().probe(&agent("not a url"), None, LIMIT).await),
        "unreachable"
    );
}

#[tokio::test]
async fn a_recorded_gateway_is_asked_for_its_status_alone() {
    for (status, health, want) in [
        (unbound_gateway(), up(), "gateway"),
        (clean_managed(), up(), "wrong"),
        (clean_managed(), html(200), "gateway"),
        (
            json_of(200, json!({"ready": false, "conversation": null})),
            html(200),
            "not ready",
        ),
        (html(200), html(200), "not ready"),
        (html(404), html(404), "unreachable"),
        (
            json_of(500, json!({"error": "x"})),
            html(200),
            "unreachable",
        ),
        (json_of(403, json!({})), html(200), "unauthorized"),
    ] {
        let routes = [
            ("GET", "/pool/health", health),
            ("GET", "/convos/status", status),
        ];
        let server = serve(&routes).await;
        let probe = runtime()
            .probe(&agent(&server.uri()), Some(Dialect::Gateway), LIMIT)
            .await;
        assert_eq!(word(&probe), want, "{probe:?}");
        if want == "gateway" {
            assert_eq!(paths(&server).await[0], "GET /convos/status");
        }
    }
}

#[tokio::test]
async fn a_probe_tells_kind_version_and_status() {
    let bound = json!({"conversationId": "c1", "pending": false, "clean": false});
    let routes = [
        ("GET", "/pool/health", up()),
        ("GET", "/convos/status", json_of(200, bound)),
    ];
    let server = serve(&routes).await;
    let probe = runtime().probe(&agent(&server.uri()), None, LIMIT).await;
    let status = AgentStatus {
        ready: true,
        conversation: Some("c1".to_owned()),
        pending: false,
        clean: Some(false),
        streaming: None,
    };
    let want = Probe::Answered {
        dialect: Dialect::PoolServer,
        kind: Some("openclaw".to_owned()),
        version: Some("0.3.4".to_owned()),
        status: status.clone(),
    };
    assert_eq!(probe, want);
    let before = paths(&server).await.len();
    let probe = runtime()
        .status(&agent(&server.uri()), Dialect::PoolServer, LIMIT)
        .await;
    assert_eq!(
        probe,
        Probe::Answered {
            dialect: Dialect::PoolServer,
            kind: None,
            version: None,
            status
        }
    );
    assert_eq!(paths(&server).await[before..], ["GET /convos/status"]);
}

#[tokio::test]
async fn the_shared_key_is_tried_once() {
    let server = MockServer::start().await;
    let shared = format!("Bearer {SHARED}");
    Mock::given(header("authorization", shared.as_str()))
        .and(path("/pool/provision"))
        .respond_with(json_of(
            200,
            json!({"conversationId": "c", "joined": false}),
        ))
        .mount(&server)
        .await;
    Mock::given(header("authorization", shared.as_str()))
        .and(path("/pool/health"))
        .respond_with(json_of(200, json!({"ready": false})))
        .mount(&server)
        .await;
    let no = json_of(403, json!({"error": "Unauthorized"}));
    Mock::given(header("authorization", format!("Bearer {TOKEN}").as_str()))
        .respond_with(no)
        .mount(&server)
        .await;
    let (runtime, both) = (runtime(), with_shared(&server.uri()));
    let got = runtime
        .claim(&both, Dialect::PoolServer, &create(), LIMIT)
        .await;
    assert!(matches!(got, ClaimOutcome::Bound { .. }), "{got:?}");
    assert_eq!(word(&runtime.probe(&both, None, LIMIT).await), "not ready");
    assert_eq!(paths(&server).await.len(), 4);
    let got = runtime
        .claim(&agent(&server.uri()), Dialect::PoolServer, &create(), LIMIT)
        .await;
    assert_eq!(got, ClaimOutcome::Refused(Refusal::Unauthorized));
    assert_eq!(
        paths(&server).await.len(),
        5,
        "without a shared key nothing is repeated"
    );

    let closed = serve(&[("POST", "/pool/provision", json_of(401, json!({})))]).await;
    let got = runtime
        .claim(
            &with_shared(&closed.uri()),
            Dialect::PoolServer,
            &create(),
            LIMIT,
        )
        .await;
    assert_eq!(got, ClaimOutcome::Refused(Refusal::Unauthorized));
    assert_eq!(paths(&closed).await.len(), 2, "exactly one repetition");
    let same = Agent {
        token: Some(SHARED.to_owned().into()),
        ..with_shared(&closed.uri())
    };
    runtime
        .claim(&same, Dialect::PoolServer, &create(), LIMIT)
        .await;
    assert_eq!(
        paths(&closed).await.len(),
        3,
        "the same key is not tried twice"
    );
}

fn bound(url: Option<&str>, slug: Option<&str>, joined: bool) -> ClaimOutcome {
    ClaimOutcome::Bound {
        conversation_id: "c".to_owned(),
        invite_url: url.map(str::to_owned),
        invite_slug: slug.map(str::to_owned),
        joined,
    }
}

#[tokio::test]
async fn each_dialect_has_its_own_call() {
    let created = json_of(
        200,
        json!({"conversationId": "c", "inviteUrl": "u", "inviteSlug": "s"}),
    );
    let joined = json_of(200, json!({"status": "joined", "conversationId": "c"}));
    let provisioned = json!({"ok": true, "inviteUrl": "u", "conversationId": "c", "joined": false, "status": "created"});
    let server = serve(&[
        ("POST", "/convos/conversation", created),
        ("POST", "/convos/join", joined),
        ("POST", "/pool/provision", json_of(200, provisioned)),
    ])
    .await;
    let (runtime, agent) = (runtime(), agent(&server.uri()));
    let full = ClaimCall {
        profile_image: Some("https://example.org/a.png".to_owned()),
        metadata: Some([("team".to_owned(), "a".to_owned())].into()),
        // What is ours is never taken over, whatever a pool lists.
        passed_through: [
            ("theme".to_owned(), json!({"dark": [1, null, "two"]})),
            ("metadata".to_owned(), json!({"team": "a"})),
            ("env".to_owned(), json!("production")),
            ("agentName".to_owned(), json!("Mallory")),
        ]
        .into(),
        ..join()
    };
    assert_eq!(
        runtime
            .claim(&agent, Dialect::Gateway, &create(), LIMIT)
            .await,
        bound(Some("u"), Some("s"), false)
    );
    assert_eq!(
        runtime
            .claim(&agent, Dialect::Gateway, &join(), LIMIT)
            .await,
        bound(None, None, true)
    );
    assert_eq!(
        runtime
            .claim(&agent, Dialect::PoolServer, &create(), LIMIT)
            .await,
        bound(Some("u"), None, false)
    );
    runtime
        .claim(&agent, Dialect::PoolServer, &full, LIMIT)
        .await;
    runtime.claim(&agent, Dialect::Gateway, &full, LIMIT).await;
    let requests = server.received_requests().await.unwrap();
    let bodies: Vec<Value> = requests.iter().map(|r| r.body_json().unwrap()).collect();
    let (name, text) = ("Tokyo Trip", "Plan the trip of Mrs. Smith");
    let link = "https://dev.convos.org/v2?i=slug-123";
    assert_eq!(
        bodies,
        [
            json!({"name": name, "profileName": name, "instructions": text, "env": "dev"}),
            json!({"inviteUrl": link, "profileName": name, "instructions": text, "env": "dev"}),
            json!({"agentName": name, "instructions": text}),
            json!({"agentName": name, "instructions": text, "joinUrl": link,
                   "profileImage": "https://example.org/a.png", "metadata": {"team": "a"},
                   "theme": {"dark": [1, null, "two"]}, "env": "production"}),
            json!({"inviteUrl": link, "profileName": name, "instructions": text, "env": "dev",
                   "metadata": {"team": "a"}, "theme": {"dark": [1, null, "two"]}, "agentName": "Mallory"}),
        ],
        "always an object, never a null"
    );
    for request in requests {
        assert_eq!(request.headers["content-type"], "application/json");
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
    }
}

#[tokio::test]
async fn every_class_of_a_claims_outcome() {
    use ClaimOutcome as O;
    let error = |status| {
        json_of(
            status,
            json!({"error": "it is so, instance-token: Plan the trip of Mrs. Smith"}),
        )
    };
    let not_ready = json_of(503, json!({"error": "Runtime not ready yet"}));
    let pending = json!({"ok": true, "conversationId": null, "joined": false, "status": "pending_acceptance"});
    let invalid = O::Refused(Refusal::Invalid(
        "it is so, [redacted]: [redacted]".to_owned(),
    ));
    let failed = O::Failed("it is so, [redacted]: [redacted]".to_owned());
    let unknown = O::Unknown(String::new());
    let edge = json!({"status": "error", "code": 502, "message": "Application failed to respond"});
    for (answer, pool_server, gateway) in [
        (
            json_of(200, json!({"conversationId": "c"})),
            bound(None, None, true),
            bound(None, None, true),
        ),
        (json_of(200, pending), O::Pending, O::Pending),
        (
            json_of(200, json!({"status": "waiting_for_acceptance"})),
            O::Pending,
            O::Pending,
        ),
        (error(400), invalid.clone(), invalid.clone()),
        (error(413), invalid.clone(), invalid.clone()),
        (error(422), invalid.clone(), invalid),
        (
            error(401),
            O::Refused(Refusal::Unauthorized),
            O::Refused(Refusal::Unauthorized),
        ),
        (
            html(403),
            O::Refused(Refusal::Unauthorized),
            O::Refused(Refusal::Unauthorized),
        ),
        (
            html(404),
            O::Refused(Refusal::NotReady),
            O::Refused(Refusal::NotReady),
        ),
        (
            plain(405),
            O::Refused(Refusal::WrongRuntime),
            O::Refused(Refusal::WrongRuntime),
        ),
        (not_ready, O::Refused(Refusal::NotReady), unknown.clone()),
        (error(409), O::Busy, O::Busy),
        (error(500), failed.clone(), failed),
        (html(500), unknown.clone(), unknown.clone()),
        (json_of(500, edge.clone()), unknown.clone(), unknown.clone()),
        (error(502), unknown.clone(), unknown.clone()),
        (json_of(503, edge), unknown.clone(), unknown.clone()),
        (plain(503), unknown.clone(), unknown.clone()),
        (error(503), unknown.clone(), unknown.clone()),
        (plain(504), unknown.clone(), unknown.clone()),
        (error(429), unknown.clone(), unknown.clone()),
        (ResponseTemplate::new(204), unknown.clone(), unknown.clone()),
        (html(200), unknown.clone(), unknown.clone()),
        (
            json_of(200, json!({"ok": true})),
            unknown.clone(),
            unknown.clone(),
        ),
        (
            ResponseTemplate::new(307).insert_header("location", "/elsewhere"),
            unknown.clone(),
            unknown.clone(),
        ),
        (
            json_of(200, json!({"conversationId": "c"})).set_delay(LIMIT * 3),
            unknown.clone(),
            unknown,
        ),
    ] {
        let routes = [
            ("POST", "/pool/provision", answer.clone()),
            ("POST", "/convos/join", answer.clone()),
        ];
        let server = serve(&routes).await;
        for (dialect, want) in [
            (Dialect::PoolServer, pool_server),
            (Dialect::Gateway, gateway),
        ] {
            let got = runtime()
                .claim(&agent(&server.uri()), dialect, &join(), LIMIT)
                .await;
            let got = if matches!(got, O::Unknown(_)) {
                O::Unknown(String::new())
            } else {
                got
            };
            assert_eq!(got, want, "{dialect} {answer:?}");
        }
        assert_eq!(paths(&server).await.len(), 2, "each claim is one request");
    }
}

#[tokio::test]
async fn nothing_sent_is_told_from_nobody_knows() {
    let runtime = runtime();
    let claim = async |url: &str| {
        runtime
            .claim(&agent(url), Dialect::PoolServer, &create(), LIMIT)
            .await
    };
    assert_eq!(
        claim("http://127.0.0.1:1").await,
        ClaimOutcome::Refused(Refusal::NotSent)
    );
    assert_eq!(
        claim("http://no-such-host.invalid").await,
        ClaimOutcome::Refused(Refusal::NotSent)
    );
    assert_eq!(
        claim("nonsense").await,
        ClaimOutcome::Refused(Refusal::NotSent)
    );
    let (plain_port, _) = raw_server(Behaviour::Answer("HTTP/1.1 200 OK\r\n\r\n")).await;
    let tls = plain_port.replace("http://", "https://");
    assert_eq!(
        claim(&tls).await,
        ClaimOutcome::Refused(Refusal::NotSent),
        "TLS fails before the request leaves"
    );
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"conversationId\":";
    for behaviour in [
        Behaviour::Reset,
        Behaviour::Hang,
        Behaviour::Answer(half),
        Behaviour::Answer("garbage\r\n\r\n"),
        Behaviour::Answer(""),
    ] {
        let (url, seen) = raw_server(behaviour).await;
        let got = claim(&url).await;
        assert!(
            matches!(got, ClaimOutcome::Unknown(_)),
            "{behaviour:?}: {got:?}"
        );
        assert_eq!(seen.lock().unwrap().len(), 1, "{behaviour:?}: sent once");
    }
    let (url, seen) = raw_server(Behaviour::Hang).await;
    let got = runtime
        .claim(&agent(&url), Dialect::Gateway, &create(), Duration::ZERO)
        .await;
    assert_eq!(
        (got, seen.lock().unwrap().len()),
        (ClaimOutcome::Refused(Refusal::NotSent), 0)
    );
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    let server = serve(&[(
        "POST",
        "/pool/provision",
        json_of(200, json!("x".repeat(2 << 20))),
    )])
    .await;
    let limit = Duration::from_secs(5);
    let got = runtime()
        .claim(&agent(&server.uri()), Dialect::PoolServer, &create(), limit)
        .await;
    assert!(
        matches!(&got, ClaimOutcome::Unknown(text) if text.contains("1 MiB")),
        "{got:?}"
    );
}

/// A claim after probes on a kept connection opens a new one.
#[tokio::test]
async fn a_claim_has_a_connection_of_its_own() {
    let body = r#"{"conversationId":"c"}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (url, seen) = raw_server(Behaviour::Keep(answer.leak())).await;
    let runtime = runtime();
    for _ in 0..2 {
        runtime
            .status(&agent(&url), Dialect::PoolServer, LIMIT)
            .await;
    }
    for _ in 0..2 {
        let got = runtime
            .claim(&agent(&url), Dialect::PoolServer, &create(), LIMIT)
            .await;
        assert!(matches!(got, ClaimOutcome::Bound { .. }), "{got:?}");
    }
    let connections: Vec<usize> = seen.lock().unwrap().iter().map(|(n, _)| *n).collect();
    assert_eq!(connections, [0, 0, 1, 2]);
}

#[tokio::test]
async fn connect_to_dials_there_and_names_the_agent() {
    let body = r#"{"conversationId":"c","clean":true}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (url, seen) = raw_server(Behaviour::Keep(answer.leak())).await;
    let runtime = HttpRuntime::new(Some(url.replace("http://", ""))).unwrap();
    let remote = agent("https://convos-agent-stg-1.up.railway.app");
    runtime.status(&remote, Dialect::PoolServer, LIMIT).await;
    let got = runtime
        .claim(&remote, Dialect::PoolServer, &create(), LIMIT)
        .await;
    assert!(matches!(got, ClaimOutcome::Bound { .. }), "{got:?}");
    runtime
        .status(&agent("http://agent.local:8080/"), Dialect::Gateway, LIMIT)
        .await;
    let seen = seen.lock().unwrap();
    for (line, host, (_, request)) in [
        (
            "GET /convos/status HTTP/1.1",
            "host: convos-agent-stg-1.up.railway.app\r\n",
            &seen[0],
        ),
        (
            "POST /pool/provision HTTP/1.1",
            "host: convos-agent-stg-1.up.railway.app\r\n",
            &seen[1],
        ),
        (
            "GET /convos/status HTTP/1.1",
            "host: agent.local:8080\r\n",
            &seen[2],
        ),
    ] {
        assert!(
            request.starts_with(line) && request.contains(host),
            "{request}"
        );
        assert_eq!(request.matches("\r\nhost:").count(), 1, "{request}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Reset,
    Hang,
    Answer(&'static str),
    Keep(&'static str),
}

type Seen = Arc<Mutex<Vec<(usize, String)>>>;

/// A server on a bare socket; says which connection each request came by.
async fn raw_server(behaviour: Behaviour) -> (String, Seen) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let record = seen.clone();
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(talk(stream, connection, behaviour, record.clone()));
        }
    });
    (url, seen)
}

async fn talk(
    mut stream: tokio::net::TcpStream,
    connection: usize,
    behaviour: Behaviour,
    seen: Seen,
) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push((connection, request));
        match behaviour {
            Behaviour::Reset => return stream.set_zero_linger().unwrap(),
            Behaviour::Hang => tokio::time::sleep(Duration::from_secs(30)).await,
            Behaviour::Answer(bytes) => return stream.write_all(bytes.as_bytes()).await.unwrap(),
            Behaviour::Keep(bytes) => stream.write_all(bytes.as_bytes()).await.unwrap(),
        }
    }
}

/// A whole request, header names in lower case; `None` at the end, or for what is not HTTP.
async fn read_request(stream: &mut tokio::net::TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        text.push_str(std::str::from_utf8(&buffer[..n]).ok()?);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|l| {
            l.to_lowercase()
                .strip_prefix("content-length: ")?
                .parse::<usize>()
                .ok()
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}
