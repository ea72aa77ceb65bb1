//! The Railway client against a local server: what it sends, and what it makes of every kind of answer. Real sockets:
//! never under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests: a server lives as long as its test"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentpool::api::agent_pool::TokenKind;
use agentpool::api::condition::Reason;
use agentpool::clock::Clock;
use agentpool::provider::account::{self, Purpose};
use agentpool::provider::guarded::{CallObserver, Guarded, Limits};
use agentpool::provider::railway::{
    EnvironmentRef, RailwayProvider, Transport, operation, supports,
};
use agentpool::provider::{
    AgentProvider, Class, Facts, Liveness, Operation, Outcome, Presence, Seen, Step,
};
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

#[path = "wire_railway/hooks.rs"]
mod hooks;
#[path = "wire_railway/introspection.rs"]
mod introspection;
#[path = "wire_railway/projects.rs"]
mod projects;
#[path = "wire_railway/script.rs"]
mod script;
#[path = "wire_railway/take_over.rs"]
mod take_over;

use script::*;

#[test]
fn every_document_fits_the_schema() {
    let sdl = include_str!("data/railway-schema.graphql");
    let schema = apollo_compiler::Schema::parse_and_validate(sdl, "schema.graphql").unwrap();
    for document in operation::ALL {
        let parsed = apollo_compiler::ExecutableDocument::parse_and_validate(
            &schema,
            document.text,
            document.name,
        );
        let parsed = parsed.unwrap_or_else(|e| panic!("{}: {e}", document.name));
        let operation = parsed.operations.get(Some(document.name)).unwrap();
        let writes = document.access == agentpool::provider::railway::classify::Access::Write;
        assert_eq!(operation.is_mutation(), writes, "{}", document.name);
    }
    let wrong = "query X { project(id: \"p\") { nmae } }";
    assert!(apollo_compiler::ExecutableDocument::parse_and_validate(&schema, wrong, "x").is_err());
}

/// The whole schema, as an introspection of the API gives it, where somebody has put it beside the project.
#[test]
fn every_document_fits_an_introspection_where_there_is_one() {
    let beside = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/railway-schema.json"
    );
    let path = std::env::var("RAILWAY_SCHEMA_JSON").unwrap_or_else(|_| beside.to_owned());
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: there is no {path}; the schema in tests/data is checked in any case");
        return;
    };
    let sdl = introspection::sdl(&serde_json::from_str(&text).unwrap());
    let schema = apollo_compiler::Schema::parse_and_validate(sdl, "introspection.graphql");
    let schema = schema.unwrap_or_else(|e| panic!("{path}: {e}"));
    for document in operation::ALL {
        apollo_compiler::ExecutableDocument::parse_and_validate(
            &schema,
            document.text,
            document.name,
        )
        .unwrap_or_else(|e| panic!("{}: {e}", document.name));
    }
    let wrong = "query X { project(id: \"p\") { nmae } }";
    assert!(apollo_compiler::ExecutableDocument::parse_and_validate(&schema, wrong, "x").is_err());
}

#[tokio::test]
async fn an_instance_costs_six_requests_and_one_deployment() {
    let gone = "ServiceInstance not found";
    let server = Script::default()
        .data(
            "RwServiceCreate",
            json!({"serviceCreate": {"id": "S", "name": "n"}}),
        )
        .data(
            "RwDomainCreate",
            json!({"serviceDomainCreate": {"id": "D", "domain": "x.up.railway.app"}}),
        )
        .data(
            "RwConfigureAndDeploy",
            json!({"serviceInstanceUpdate": true, "serviceInstanceDeployV2": "dep"}),
        )
        .data("RwVariables", mark(MARK))
        .data("RwServiceDelete", json!({"serviceDelete": true}))
        .error("RwServiceInstance", gone)
        .start()
        .await;
    let provider = provider_at(&server.uri());
    let mut facts = Facts::new();
    for spec in provider.plan(Operation::Create, &template()) {
        let Step::Provider(step) = spec.step else {
            continue;
        };
        match provider
            .perform(&key(), &facts, step, &template(), &inputs())
            .await
            .unwrap()
        {
            Outcome::Done(made) | Outcome::Running { facts: made, .. } => facts.extend(made),
            failed @ Outcome::Failed { .. } => panic!("{failed:?}"),
        }
    }
    let want = [
        ("deploymentId", "dep"),
        ("domainId", "D"),
        ("serviceId", "S"),
        ("url", "https://x.up.railway.app"),
    ];
    assert_eq!(facts, known(&want));
    assert_eq!(
        provider.destroy(&key(), &facts).await.unwrap(),
        Presence::Gone
    );

    let sent = sent(&server).await;
    let names: Vec<&str> = sent.iter().map(|(n, _)| n.as_str()).collect();
    let want = [
        "RwServiceCreate",
        "RwDomainCreate",
        "RwConfigureAndDeploy",
        "RwVariables",
        "RwServiceDelete",
    ];
    assert_eq!(names[..5], want);
    assert_eq!(names[5..], ["RwServiceInstance"]);
    let create = &sent[0].1["input"];
    assert!(create["source"].is_null(), "nothing to deploy yet");
    assert_eq!(
        sent[2].1["input"]["source"],
        json!({"image": "registry.example.com/acme/agent@sha256:0"})
    );
    assert_eq!(
        create["variables"],
        json!({"AGENTPOOL_OWNER": MARK, "GATEWAY_TOKEN": "very-secret-token"})
    );
    assert_eq!(sent[1].1["input"]["targetPort"], 8080);
    assert_eq!(sent[2].1["input"]["startCommand"], "node server.js");
    assert_eq!(sent[2].1["input"]["numReplicas"], 1);
    assert_eq!(sent[4].1, json!({"id": "S"}));
    let first = &server.received_requests().await.unwrap()[0];
    assert_eq!(first.url.query(), Some("source=agentpool"));
    assert_eq!(first.headers["authorization"], format!("Bearer {TOKEN}"));
    assert!(
        first.headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("agentpool/")
    );
    assert!(create.get("registryCredentials").is_none() && !sent[2].1.to_string().contains("null"));
}

#[tokio::test]
async fn a_listing_has_all_pages_and_survives_oddities() {
    let deleted =
        json!({"serviceId": "x", "serviceName": "x", "deletedAt": "2026-01-01T00:00:00Z"});
    let odd = json!({"id": "dep2", "status": "A_NEW_WORD", "createdAt": "2026-10-05T19:58:18Z"});
    let server = Script::default()
        .data(
            "RwFleet",
            fleet(&[service("a", "one", running()), deleted], Some("c1")),
        )
        .data(
            "RwFleet",
            fleet(
                &[service("b", "two", Value::Null), service("c", "three", odd)],
                None,
            ),
        )
        .start()
        .await;
    let listing = provider_at(&server.uri()).list().await.unwrap();
    let seen: Vec<_> = listing
        .resources
        .iter()
        .map(|r| (r.id.as_str(), r.name.as_str(), r.liveness))
        .collect();
    let want = [
        ("a", "one", Liveness::Running),
        ("b", "two", Liveness::Created),
        ("c", "three", Liveness::Starting),
    ];
    assert_eq!(seen, want);
    let one = &listing.resources[0];
    assert_eq!(one.facts["url"], "https://old.up.railway.app");
    assert_eq!(
        (
            one.facts["domainId"].as_str(),
            one.facts["deploymentId"].as_str()
        ),
        ("d-old", "dep")
    );
    assert_eq!(
        (
            one.native_state.as_deref(),
            listing.resources[1].native_state.as_deref()
        ),
        (Some("SUCCESS"), None)
    );
    let sent = sent(&server).await;
    assert_eq!(
        sent[0].1,
        json!({"environmentId": "E", "first": 500, "volumes": true})
    );
    assert_eq!(
        sent[1].1,
        json!({"environmentId": "E", "first": 500, "volumes": false, "after": "c1"})
    );
}

/// A listing brings the volumes along; those that are being deleted are none, and of two the older one is ours.
#[tokio::test]
async fn a_listing_knows_whose_volumes_are_whose() {
    let volume = |id: &str, service: Value, created: &str, pending: bool| json!({"node": {"volumeId": id, "serviceId": service, "createdAt": created, "deletedAt": null, "isPendingDeletion": pending}});
    let mut first = fleet(
        &[
            service("a", "one", running()),
            service("b", "two", running()),
        ],
        None,
    );
    let page = |edges: Value, next: Option<&str>| json!({"edges": edges, "pageInfo": {"hasNextPage": next.is_some(), "endCursor": next}});
    let newer = volume("newer", json!("a"), "2026-10-05T20:00:00Z", false);
    let gone = volume("gone", json!("b"), "2026-10-05T10:00:00Z", true);
    first["environment"]["volumeInstances"] = page(json!([newer, gone]), Some("v1"));
    let older = volume("older", json!("a"), "2026-10-05T19:00:00Z", false);
    let orphan = volume("orphan", Value::Null, "2026-10-05T19:00:00Z", false);
    let rest = json!({"environment": {"volumeInstances": page(json!([older, orphan]), None)}});
    let server = Script::default()
        .data("RwFleet", first)
        .data("RwVolumes", rest)
        .start()
        .await;
    let listing = provider_at(&server.uri()).list().await.unwrap();
    let volume_of = |i: usize| {
        let resource = &listing.resources[i];
        resource.facts.get("volumeId").map(String::as_str)
    };
    assert_eq!((volume_of(0), volume_of(1)), (Some("older"), None));
    assert_eq!(names(&server).await, ["RwFleet", "RwVolumes"]);
    assert_eq!(sent(&server).await[1].1["after"], "v1");
}

/// Nobody could tell afterwards whose a volume is: it goes before its service, and a volume that may still turn up is
/// waited for.
#[tokio::test]
async fn a_volume_goes_before_its_service_and_an_uncertain_one_is_waited_for() {
    let gone = "ServiceInstance not found";
    let server = Script::default()
        .data("RwVariables", mark(MARK))
        .data("RwVolumeDelete", json!({"volumeDelete": true}))
        .data("RwServiceDelete", json!({"serviceDelete": true}))
        .error("RwServiceInstance", gone)
        .start()
        .await;
    let provider = provider_at(&server.uri());
    let recorded = known(&[("serviceId", "S"), ("volumeId", "V")]);
    let presence = provider.destroy(&key(), &recorded).await.unwrap();
    assert_eq!(presence, Presence::Gone);
    let order = names(&server).await;
    let want = [
        "RwVariables",
        "RwVolumeDelete",
        "RwServiceDelete",
        "RwServiceInstance",
    ];
    assert_eq!(order, want);
    assert_eq!(sent(&server).await[1].1, json!({"volumeId": "V"}));

    let none = json!({"environment": {"volumeInstances": {"edges": [], "pageInfo": {"hasNextPage": false, "endCursor": null}}}});
    for (seconds, want) in [("29", Presence::Unknown), ("30", Presence::Gone)] {
        let server = Script::default()
            .data("RwVariables", mark(MARK))
            .data("RwVolumes", none.clone())
            .data("RwServiceDelete", json!({"serviceDelete": true}))
            .error("RwServiceInstance", gone)
            .start()
            .await;
        let uncertain = [
            ("serviceId", "S"),
            ("unsettled", "volume"),
            ("unsettledFor", seconds),
        ];
        let provider = provider_at(&server.uri());
        let presence = provider.destroy(&key(), &known(&uncertain)).await.unwrap();
        assert_eq!(presence, want, "{seconds}");
        let deleted = names(&server).await.contains(&"RwServiceDelete".to_owned());
        assert_eq!(deleted, want == Presence::Gone, "{seconds}");
    }
}

#[tokio::test]
async fn an_incomplete_listing_is_an_error() {
    let page = fleet(&[service("a", "one", running())], None);
    let partial = json!({"data": page, "errors": [{"message": "Problem processing request"}]});
    let no_page_info = json!({"data": {"environment": {"serviceInstances": {"edges": []}}}});
    let html = |status| {
        ResponseTemplate::new(status).set_body_raw("<html>Bad Gateway</html>", "text/html")
    };
    for answer in [
        ResponseTemplate::new(200).set_body_json(partial),
        ResponseTemplate::new(200).set_body_json(no_page_info),
        ResponseTemplate::new(200).set_body_json(json!({"data": null})),
        ResponseTemplate::new(200).set_body_json(json!({})),
        ResponseTemplate::new(200).set_body_json(json!([1])),
        ResponseTemplate::new(200).set_body_string("garbage"),
        ResponseTemplate::new(524).set_body_string("error code: 524"),
        html(200),
        html(502),
        ResponseTemplate::new(200)
            .set_body_json(json!({ "data": page }))
            .set_delay(Duration::from_secs(4)),
    ] {
        let server = Script::default().on("RwFleet", answer).start().await;
        let got = provider_at(&server.uri()).list().await;
        assert_eq!(class(got), (Class::Transient, Reason::ProviderUnavailable));
        assert_eq!(names(&server).await.len(), 3, "a read is tried three times");
    }
    let again = fleet(&[], Some("c1"));
    let server = Script::default().data("RwFleet", again).start().await;
    assert_eq!(
        class(provider_at(&server.uri()).list().await).0,
        Class::Transient,
        "a cursor that stands still"
    );
}

#[tokio::test]
async fn a_read_that_works_the_second_time_is_a_success() {
    let server = Script::default()
        .on("RwFleet", ResponseTemplate::new(503))
        .data("RwFleet", fleet(&[], None))
        .start()
        .await;
    assert!(
        provider_at(&server.uri())
            .list()
            .await
            .unwrap()
            .resources
            .is_empty()
    );
}

#[tokio::test]
async fn errors_in_a_200_have_their_class_and_a_write_is_sent_once() {
    for (message, want) in [
        ("Not Authorized", Class::Unauthorized),
        ("Project Token not found", Class::Unauthorized),
        ("Project not found", Class::Gone),
        ("Error in numReplicas - Invalid input", Class::Rejected),
        ("Whoa there pal! 1 project per 30 seconds", Class::Throttled),
        (
            "Free plan resource provision limit exceeded. Please upgrade to provision more resources!",
            Class::Capacity,
        ),
        ("Problem processing request", Class::Ambiguous),
        ("An operation is already in progress", Class::Transient),
        ("what is this? very-secret-token", Class::Ambiguous),
    ] {
        let server = Script::default()
            .error("RwServiceCreate", message)
            .start()
            .await;
        let provider = provider_at(&server.uri());
        let error = provider
            .perform(&key(), &Facts::new(), "service", &template(), &inputs())
            .await
            .unwrap_err();
        assert!(
            error.message.contains("traceId 42") && !error.message.contains("very-secret"),
            "{error}"
        );
        assert_eq!(error.class, want, "{message}");
        assert_eq!(names(&server).await, ["RwServiceCreate"]);
    }
}

#[tokio::test]
async fn a_write_without_a_usable_answer_is_ambiguous() {
    for answer in [
        ResponseTemplate::new(502).set_body_raw("<html/>", "text/html"),
        ResponseTemplate::new(200).set_body_string("{\"data\": {\"serviceCr"),
        ResponseTemplate::new(200).set_body_json(json!({"data": {"serviceCreate": {}}})),
        ResponseTemplate::new(200).set_delay(Duration::from_secs(4)),
        ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/"),
    ] {
        let server = Script::default()
            .on("RwServiceCreate", answer)
            .start()
            .await;
        let provider = provider_at(&server.uri());
        let got = provider
            .perform(&key(), &Facts::new(), "service", &template(), &inputs())
            .await;
        assert_eq!(class(got), (Class::Ambiguous, Reason::OutcomeUnknown));
        assert_eq!(names(&server).await.len(), 1, "a write is never repeated");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_ambiguous_for_a_write_and_passing_for_a_read() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{\"data\":";
    for answer in [None, Some(half), Some("garbage\r\n\r\n")] {
        let (url, count) = raw_server(answer).await;
        let provider = provider_at(&url);
        let got = provider
            .perform(&key(), &Facts::new(), "service", &template(), &inputs())
            .await;
        assert_eq!(class(got).0, Class::Ambiguous);
        assert_eq!(*count.lock().unwrap(), 1);
        assert_eq!(class(provider.list().await).0, Class::Transient);
        assert_eq!(*count.lock().unwrap(), 4);
    }
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_the_time_is_over() {
    for (answer, wait) in [
        (
            ResponseTemplate::new(429).insert_header("retry-after", "7"),
            7,
        ),
        (
            ResponseTemplate::new(429)
                .set_body_json(json!({}))
                .insert_header("x-ratelimit-reset", "9"),
            9,
        ),
        (
            ResponseTemplate::new(429).set_body_json(json!({"errors": []})),
            60,
        ),
        (
            ResponseTemplate::new(429).set_body_raw("<html>error code: 1015</html>", "text/html"),
            60,
        ),
        (
            ResponseTemplate::new(429).set_body_string("error code: 1015"),
            60,
        ),
        (
            ResponseTemplate::new(403).set_body_raw("<html>blocked</html>", "text/html"),
            60,
        ),
    ] {
        let server = Script::default().on("RwFleet", answer).start().await;
        let config = config(
            &server.uri(),
            TokenKind::Bearer,
            EnvironmentRef::Id("E".to_owned()),
        );
        let transport = Transport::new(&config.base_url, config.clock.clone()).unwrap();
        let one = RailwayProvider::with_transport(config.clone(), &transport).unwrap();
        let other = RailwayProvider::with_transport(config, &transport).unwrap();
        let first = one.list().await.unwrap_err();
        assert_eq!(
            (first.class, first.reason),
            (Class::Throttled, Reason::RateLimited)
        );
        assert_eq!(first.retry_after, Some(Duration::from_secs(wait)));
        let second = other
            .perform(&key(), &Facts::new(), "service", &template(), &inputs())
            .await
            .unwrap_err();
        assert_eq!(second.class, Class::Throttled);
        let left = second.retry_after.unwrap();
        assert!(
            left <= Duration::from_secs(wait) && left > Duration::from_secs(wait - 2),
            "{left:?}"
        );
        assert_eq!(
            names(&server).await.len(),
            1,
            "one wait per token, for all its users"
        );
    }
}

#[tokio::test]
async fn the_wait_ends_and_requests_are_counted() {
    let policy = r#""default";q=100;w=3600"#;
    let ok = ResponseTemplate::new(200).set_body_json(json!({"data": fleet(&[], None)}));
    let server = Script::default()
        .on(
            "RwFleet",
            ResponseTemplate::new(429).insert_header("retry-after", "1"),
        )
        .on("RwFleet", ok.insert_header("ratelimit-policy", policy))
        .start()
        .await;
    let provider = provider_at(&server.uri());
    assert_eq!(class(provider.list().await).0, Class::Throttled);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    provider.list().await.unwrap();
    let budget = provider.budget().unwrap();
    assert_eq!((budget.quota, budget.remaining), (100, 98));
}

fn project(environments: Value) -> Value {
    let edges: Vec<Value> = environments
        .as_array()
        .unwrap()
        .iter()
        .map(|e| json!({ "node": e }))
        .collect();
    let page = json!({"endCursor": null, "hasNextPage": false});
    json!({"project": {"id": "P", "name": "p", "deletedAt": null, "environments": {"edges": edges, "pageInfo": page}}})
}

#[tokio::test]
async fn names_resolve_without_regard_to_letter_case() {
    let environments = json!([
        {"id": "E0", "name": "staging", "isEphemeral": true, "deletedAt": null},
        {"id": "E1", "name": "staging", "isEphemeral": false, "deletedAt": "2026-01-01T00:00:00Z"},
        {"id": "E2", "name": "Staging", "isEphemeral": false, "deletedAt": null},
    ]);
    let server = Script::default()
        .data("RwProject", project(environments))
        .data("RwFleet", fleet(&[], None))
        .start()
        .await;
    let provider = named(&server, TokenKind::Bearer, "sTaging");
    assert_eq!(
        provider.resolve().await.unwrap(),
        known(&[("environmentId", "E2"), ("projectId", "P")])
    );
    provider.list().await.unwrap();
    assert_eq!(
        names(&server).await,
        ["RwProject", "RwFleet"],
        "what was resolved is remembered"
    );
    let error = named(&server, TokenKind::Bearer, "prod")
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(
        (error.class, error.reason),
        (Class::Rejected, Reason::EnvironmentNotFound)
    );
    assert!(
        error.message.contains("Staging (E2)") && !error.message.contains("E1"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_less_urgent_leaves_a_share_of_the_requests_to_what_is_more() {
    let policy = r#""default";q=10;w=3600"#;
    let ok = ResponseTemplate::new(200).set_body_json(json!({"data": fleet(&[], None)}));
    let created = json!({"data": {"serviceCreate": {"id": "S", "name": "n"}}});
    let created = ResponseTemplate::new(200).set_body_json(created);
    let server = Script::default()
        .on("RwFleet", ok.insert_header("ratelimit-policy", policy))
        .on("RwServiceCreate", created)
        .data("RwVariables", mark(MARK))
        .start()
        .await;
    let provider = provider_at(&server.uri());
    provider.list().await.unwrap();
    let list = |purpose| account::shared(purpose, provider.list());
    // Sweeps may see 3 of 10 used up, claims all of them.
    list(Purpose::Sweep).await.unwrap();
    list(Purpose::Sweep).await.unwrap();
    let refused = list(Purpose::Sweep).await.unwrap_err();
    assert_eq!(
        (refused.class, refused.reason),
        (Class::Throttled, Reason::QuotaReserved)
    );
    let wait = refused.retry_after.unwrap();
    assert!(wait > Duration::from_secs(3500), "{refused:?}");
    let template = template();
    let (key, inputs, none) = (key(), inputs(), Facts::new());
    let make = |purpose| {
        let call = provider.perform(&key, &none, "service", &template, &inputs);
        account::shared(purpose, call)
    };
    for _ in 0..3 {
        make(Purpose::Refill).await.unwrap();
    }
    assert_eq!(
        make(Purpose::Refill).await.unwrap_err().reason,
        Reason::QuotaReserved
    );
    assert_eq!(names(&server).await.len(), 6, "what is refused is not sent");
    for _ in 0..4 {
        list(Purpose::Claim).await.unwrap();
    }
    let used_up = list(Purpose::Claim).await.unwrap_err();
    assert_eq!(used_up.reason, Reason::RateLimited);
    assert_eq!(names(&server).await.len(), 10);
    assert_eq!(provider.budget().unwrap().remaining, 0);
}

#[tokio::test]
async fn environments_have_pages_too() {
    let environment =
        |id: &str, name: &str| json!({"node": {"id": id, "name": name, "isEphemeral": false}});
    let page = |id: &str, name: &str, next: Option<&str>| json!({"edges": [environment(id, name)], "pageInfo": {"hasNextPage": next.is_some(), "endCursor": next}});
    let server = Script::default()
        .data(
            "RwProject",
            json!({"project": {"id": "P", "environments": page("E1", "dev", Some("c1"))}}),
        )
        .data(
            "RwEnvironments",
            json!({"environments": page("E2", "staging", None)}),
        )
        .start()
        .await;
    let facts = named(&server, TokenKind::Bearer, "staging")
        .resolve()
        .await
        .unwrap();
    assert_eq!(facts["environmentId"], "E2");
    assert_eq!(
        sent(&server).await[1].1,
        json!({"projectId": "P", "first": 100, "after": "c1"})
    );
}

#[tokio::test]
async fn what_cannot_be_resolved_says_what_to_do() {
    for (message, kind, class, reason, part) in [
        (
            "Project not found",
            TokenKind::Bearer,
            Class::Rejected,
            Reason::ProjectNotFound,
            "projectId (P)",
        ),
        (
            "Not Authorized",
            TokenKind::Bearer,
            Class::Unauthorized,
            Reason::CredentialsInvalid,
            "tokenKind",
        ),
        (
            "Project Token not found",
            TokenKind::Project,
            Class::Unauthorized,
            Reason::CredentialsInvalid,
            "tokenKind",
        ),
    ] {
        let server = Script::default()
            .error("RwProject", message)
            .error("RwProjectToken", message)
            .start()
            .await;
        let error = named(&server, kind, "staging").resolve().await.unwrap_err();
        assert_eq!((error.class, error.reason), (class, reason), "{message}");
        assert!(error.message.contains(part), "{error}");
    }
    let token = |project: &str| {
        let environment = json!({"id": "E", "name": "Staging"});
        json!({"projectToken": {"projectId": project, "environmentId": "E", "environment": environment}})
    };
    let server = Script::default()
        .data("RwProjectToken", token("P"))
        .start()
        .await;
    let provider = named(&server, TokenKind::Project, "staging");
    assert_eq!(provider.resolve().await.unwrap()["environmentId"], "E");
    assert_eq!(
        server.received_requests().await.unwrap()[0].headers["project-access-token"],
        TOKEN
    );
    let server = Script::default()
        .data("RwProjectToken", token("Q"))
        .start()
        .await;
    let error = named(&server, TokenKind::Project, "staging")
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::ProjectNotFound);
}

#[tokio::test]
async fn a_taken_name_is_adopted_only_with_our_mark() {
    let name = key().name;
    let taken = format!("A service named \"{name}\" already exists in this project");
    for (owner, want) in [
        (MARK, "Done"),
        ("other/agents/7f3a9c21k4mz", "ForeignResource"),
    ] {
        let server = Script::default()
            .error("RwServiceCreate", &taken)
            .data("RwFleet", fleet(&[service("S", &name, Value::Null)], None))
            .data("RwVariables", mark(owner))
            .start()
            .await;
        let provider = provider_at(&server.uri());
        let got = provider
            .perform(&key(), &Facts::new(), "service", &template(), &inputs())
            .await
            .unwrap();
        let seen = provider
            .look(&key(), &Facts::new(), "service")
            .await
            .unwrap();
        match (got, seen) {
            (Outcome::Done(made), Seen::Done(found)) => {
                assert_eq!(
                    (want, made, found.clone()),
                    ("Done", found, known(&[("serviceId", "S")]))
                );
            }
            (
                Outcome::Failed {
                    reason: a,
                    retry: false,
                    ..
                },
                Seen::Failed {
                    reason: b,
                    retry: false,
                    ..
                },
            ) => {
                assert_eq!((a, b), (want, want));
            }
            other => panic!("{other:?}"),
        }
    }
    let server = Script::default()
        .error("RwServiceCreate", &taken)
        .data("RwFleet", fleet(&[], None))
        .start()
        .await;
    let provider = provider_at(&server.uri());
    let got = provider
        .perform(&key(), &Facts::new(), "service", &template(), &inputs())
        .await;
    assert_eq!(class(got).0, Class::Ambiguous, "taken, and not listed yet");
    assert_eq!(
        provider
            .look(&key(), &Facts::new(), "service")
            .await
            .unwrap(),
        Seen::Absent
    );
}

#[tokio::test]
async fn steps_are_looked_at_directly() {
    let facts = known(&[("serviceId", "S")]);
    let early = json!({"id": "auto", "status": "SUCCESS", "createdAt": "2026-10-05T19:58:16Z", "deploymentStopped": false});
    for (found, want) in [
        (Value::Null, "absent"),
        (running(), "done"),
        (early, "absent"),
    ] {
        let data = json!({"serviceInstance": service("S", "n", found)});
        let server = Script::default()
            .data("RwServiceInstance", data)
            .start()
            .await;
        let provider = provider_at(&server.uri());
        let word = match provider.look(&key(), &facts, "deploy").await.unwrap() {
            Seen::Absent => "absent",
            Seen::Done(_) => "done",
            other => panic!("{other:?}"),
        };
        assert_eq!(word, want);
        assert!(
            matches!(provider.look(&key(), &facts, "domain").await.unwrap(), Seen::Done(f) if f["domainId"] == "d-old")
        );
    }
    let server = Script::default()
        .error("RwServiceInstance", "ServiceInstance not found")
        .start()
        .await;
    assert_eq!(
        provider_at(&server.uri())
            .look(&key(), &facts, "deploy")
            .await
            .unwrap(),
        Seen::Unknown
    );
}

#[tokio::test]
async fn right_after_the_creation_a_step_may_be_refused_and_tried_again() {
    let facts = known(&[("serviceId", "S")]);
    let server = Script::default()
        .error("RwConfigureAndDeploy", "ServiceInstance not found")
        .on(
            "RwDomainCreate",
            ResponseTemplate::new(200).set_body_json(
                json!({"errors": [{"message": "targetPort - Invalid input", "extensions": {"code": "BAD_USER_INPUT"}}]}),
            ),
        )
        .data("RwDomainCreate", json!({"serviceDomainCreate": {"id": "D", "domain": "x.up.railway.app"}}))
        .start()
        .await;
    let provider = provider_at(&server.uri());
    let got = provider
        .perform(&key(), &facts, "deploy", &template(), &inputs())
        .await;
    assert_eq!(class(got), (Class::Transient, Reason::ProviderUnavailable));
    let got = provider
        .perform(&key(), &facts, "domain", &template(), &inputs())
        .await
        .unwrap();
    assert!(matches!(got, Outcome::Done(_)), "{got:?}");
    assert!(
        sent(&server).await[2].1["input"]
            .get("targetPort")
            .is_none()
    );
}

#[tokio::test]
async fn not_authorized_means_gone_only_if_the_token_can_read_something_else() {
    let facts = known(&[("serviceId", "S")]);
    let visible = Script::default()
        .error("RwServiceInstance", "Not Authorized")
        .error("RwVariables", "Not Authorized")
        .data("RwProject", project(json!([])))
        .start()
        .await;
    assert_eq!(
        provider_at(&visible.uri())
            .observe(&key(), &facts)
            .await
            .unwrap(),
        Presence::Gone
    );
    assert_eq!(
        provider_at(&visible.uri())
            .destroy(&key(), &facts)
            .await
            .unwrap(),
        Presence::Gone
    );
    let blind = Script::default()
        .error("RwServiceInstance", "Not Authorized")
        .error("RwVariables", "Not Authorized")
        .error("RwProject", "Not Authorized")
        .start()
        .await;
    assert_eq!(
        class(provider_at(&blind.uri()).observe(&key(), &facts).await).0,
        Class::Unauthorized
    );
    assert_eq!(
        class(provider_at(&blind.uri()).destroy(&key(), &facts).await).0,
        Class::Unauthorized
    );
    let refused = Script::default()
        .on("RwServiceInstance", ResponseTemplate::new(401))
        .start()
        .await;
    assert_eq!(
        class(provider_at(&refused.uri()).observe(&key(), &facts).await).0,
        Class::Unauthorized
    );
}

#[tokio::test]
async fn nothing_is_removed_without_our_mark() {
    let facts = known(&[("serviceId", "S")]);
    for variables in [mark("other/agents/x"), json!({"variables": {}})] {
        let server = Script::default()
            .data("RwVariables", variables)
            .start()
            .await;
        assert_eq!(
            class(provider_at(&server.uri()).destroy(&key(), &facts).await),
            (Class::Rejected, Reason::Rejected)
        );
        assert_eq!(names(&server).await, ["RwVariables"]);
    }
    let server = Script::default()
        .on("RwVariables", ResponseTemplate::new(500))
        .start()
        .await;
    assert_eq!(
        class(provider_at(&server.uri()).destroy(&key(), &facts).await).0,
        Class::Transient
    );
}

#[tokio::test]
async fn a_deletion_is_over_when_a_direct_read_finds_nothing() {
    let facts = known(&[("serviceId", "S")]);
    let there = json!({"serviceInstance": service("S", "n", running())});
    let base = || Script::default().data("RwVariables", mark(MARK));
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(4));
    let server = base().on("RwServiceDelete", slow).start().await;
    // Not answered: unknown, and in the provider's or our words.
    assert_eq!(
        class(provider_at(&server.uri()).destroy(&key(), &facts).await).0,
        Class::Ambiguous
    );
    let server = base()
        .data("RwServiceDelete", json!({"serviceDelete": true}))
        .data("RwServiceInstance", there)
        .start()
        .await;
    let left = provider_at(&server.uri())
        .destroy(&key(), &facts)
        .await
        .unwrap();
    assert!(matches!(left, Presence::Present(_)), "{left:?}");
    let named = base()
        .data(
            "RwFleet",
            fleet(&[service("S", &key().name, running())], None),
        )
        .data("RwServiceDelete", json!({"serviceDelete": true}))
        .error("RwServiceInstance", "Service not found");
    let server = named.start().await;
    assert_eq!(
        provider_at(&server.uri())
            .destroy(&key(), &Facts::new())
            .await
            .unwrap(),
        Presence::Gone
    );
    let server = Script::default()
        .data("RwFleet", fleet(&[], None))
        .start()
        .await;
    let provider = provider_at(&server.uri());
    assert_eq!(
        provider.destroy(&key(), &Facts::new()).await.unwrap(),
        Presence::Gone
    );
    assert_eq!(
        provider.observe(&key(), &Facts::new()).await.unwrap(),
        Presence::Unknown
    );
}

#[tokio::test]
async fn a_project_token_names_its_environment_in_a_deletion() {
    let server = Script::default()
        .data("RwVariables", mark(MARK))
        .data("RwServiceDelete", json!({"serviceDelete": true}))
        .error("RwServiceInstance", "ServiceInstance not found")
        .start()
        .await;
    let config = config(
        &server.uri(),
        TokenKind::Project,
        EnvironmentRef::Id("E".to_owned()),
    );
    let gone = RailwayProvider::new(config)
        .unwrap()
        .destroy(&key(), &known(&[("serviceId", "S")]))
        .await;
    assert_eq!(gone.unwrap(), Presence::Gone);
    assert_eq!(
        sent(&server).await[1].1,
        json!({"id": "S", "environmentId": "E"})
    );
}

#[tokio::test]
async fn a_report_holds_no_value_of_a_variable() {
    let line = json!({"timestamp": "2026-10-05T20:00:00Z", "message": "token is very-secret-token", "severity": "info"});
    let step = json!({"step": "CREATE_CONTAINER", "createdAt": "2026-10-05T20:00:00Z", "payload": {"error": "no"}});
    let server = Script::default()
        .data(
            "RwServiceInstance",
            json!({"serviceInstance": service("S", "n", running())}),
        )
        .data("RwVariables", mark(MARK))
        .data(
            "RwDeploymentEvents",
            json!({"deploymentEvents": {"edges": [{ "node": step }]}}),
        )
        .data("RwDeployLogs", json!({"deploymentLogs": [line]}))
        .data(
            "RwServiceRename",
            json!({"serviceUpdate": {"id": "S", "name": "stg-tokyo-1"}}),
        )
        .start()
        .await;
    let provider = provider_at(&server.uri());
    let facts = known(&[("serviceId", "S")]);
    let report = provider.diagnose(&key(), &facts).await;
    assert_eq!(
        report["log"],
        json!(["2026-10-05T20:00:00Z token is [value]"])
    );
    assert_eq!(
        (report["status"].clone(), report["deployment"]["id"].clone()),
        (json!("Running"), json!("dep"))
    );
    assert_eq!(report["deploymentEvents"][0]["payload"]["error"], "no");
    assert!(!json!(report).to_string().contains("very-secret"));
    provider
        .after_claim(&key(), &facts, "stg-tokyo-1")
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_not_supported_is_said_before_anything_is_sent() {
    let mut own = template();
    let railway = own.provider.railway.as_mut().unwrap();
    railway.per_instance = Some(serde_json::from_value(json!({"workspaceId": "w"})).unwrap());
    railway.volume = Some(serde_json::from_value(json!({})).unwrap());
    assert!(supports(&template()).is_ok() && supports(&own).is_ok());
    let mut elsewhere = template();
    elsewhere.provider.railway = None;
    assert!(supports(&elsewhere).unwrap_err().contains("not railway"));
    let provider = provider_at("http://127.0.0.1:1");
    let got = provider
        .perform(&key(), &Facts::new(), "service", &elsewhere, &inputs())
        .await
        .unwrap();
    assert!(
        matches!(
            got,
            Outcome::Failed {
                reason: "NotSupported",
                retry: false,
                ..
            }
        ),
        "{got:?}"
    );
}

type Calls = Arc<Mutex<Vec<(&'static str, &'static str)>>>;
struct Observed(Calls);
impl CallObserver for Observed {
    fn observed(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        seconds: f64,
    ) {
        assert_eq!((provider, seconds >= 0.0), ("railway", true));
        self.0.lock().unwrap().push((operation, outcome));
    }
}

#[tokio::test]
async fn a_guarded_provider_is_bounded_and_observed() {
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(20));
    let ok = ResponseTemplate::new(200).set_body_json(json!({"data": fleet(&[], None)}));
    let server = Script::default()
        .on("RwFleet", ok)
        .on("RwFleet", slow.clone())
        .on("RwServiceCreate", slow)
        .start()
        .await;
    let config = config(
        &server.uri(),
        TokenKind::Bearer,
        EnvironmentRef::Id("E".to_owned()),
    );
    let calls = Calls::default();
    let limit = Duration::from_secs(1);
    let guarded = Guarded::new(
        RailwayProvider::new(config).unwrap(),
        "railway",
        Clock::system(),
        Arc::new(Observed(calls.clone())),
    )
    .with_limits(Limits {
        list: limit,
        write: limit,
        ..Limits::default()
    });
    guarded.list().await.unwrap();
    assert_eq!(class(guarded.list().await).0, Class::Transient);
    let got = guarded
        .perform(&key(), &Facts::new(), "service", &template(), &inputs())
        .await;
    assert_eq!(class(got), (Class::Ambiguous, Reason::OutcomeUnknown));
    assert_eq!(
        *calls.lock().unwrap(),
        [
            ("list", "ok"),
            ("list", "transient"),
            ("perform", "ambiguous")
        ]
    );
}
