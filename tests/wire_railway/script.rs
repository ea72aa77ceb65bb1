//! A scripted Railway and what the tests share.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentpool::api::agent_pool::TokenKind;
use agentpool::api::condition::Reason;
use agentpool::clock::Clock;
use agentpool::domain::template::Template;
use agentpool::provider::railway::{
    EnvironmentRef, RailwayConfig, RailwayProvider, Timeouts, Transport,
};
use agentpool::provider::{Class, Facts, Inputs, Key, ProviderError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

pub const TOKEN: &str = "3f0c9a52-token";
pub const MARK: &str = "cluster-1/agents/7f3a9c21k4mz";

/// Answers by `operationName`, in turn; the last one again and again.
#[derive(Clone, Default)]
pub struct Script {
    answers: Arc<Mutex<HashMap<String, VecDeque<ResponseTemplate>>>>,
}

impl Script {
    pub fn on(self, name: &str, answer: ResponseTemplate) -> Self {
        self.answers
            .lock()
            .unwrap()
            .entry(name.to_owned())
            .or_default()
            .push_back(answer);
        self
    }

    pub fn data(self, name: &str, data: Value) -> Self {
        self.on(
            name,
            ResponseTemplate::new(200).set_body_json(json!({ "data": data })),
        )
    }

    pub fn error(self, name: &str, message: &str) -> Self {
        let error = json!({"message": message, "extensions": {"code": "INTERNAL_SERVER_ERROR"}, "traceId": "42"});
        self.on(
            name,
            ResponseTemplate::new(200).set_body_json(json!({ "errors": [error], "data": null })),
        )
    }

    pub async fn start(self) -> MockServer {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(self).mount(&server).await;
        server
    }
}

impl Respond for Script {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let name = request.body_json::<Value>().unwrap()["operationName"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut answers = self.answers.lock().unwrap();
        let queue = answers
            .get_mut(&name)
            .unwrap_or_else(|| panic!("unexpected {name}"));
        if queue.len() > 1 {
            queue.pop_front().unwrap()
        } else {
            queue[0].clone()
        }
    }
}

pub fn config(url: &str, kind: TokenKind, environment: EnvironmentRef) -> RailwayConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    RailwayConfig {
        base_url: format!("{url}/graphql/v2"),
        token: TOKEN.to_owned().into(),
        token_kind: kind,
        project_id: "P".to_owned(),
        environment,
        clock: Clock::system(),
    }
}

pub fn provider_at(url: &str) -> RailwayProvider {
    let config = config(url, TokenKind::Bearer, EnvironmentRef::Id("E".to_owned()));
    let timeouts = Timeouts {
        read: Duration::from_millis(1500),
        write: Duration::from_millis(1500),
        backoff: Duration::from_millis(20),
    };
    let transport =
        Transport::with_timeouts(&config.base_url, config.clock.clone(), timeouts).unwrap();
    RailwayProvider::with_transport(config, &transport).unwrap()
}

pub fn named(server: &MockServer, kind: TokenKind, environment: &str) -> RailwayProvider {
    RailwayProvider::new(config(
        &server.uri(),
        kind,
        EnvironmentRef::Name(environment.to_owned()),
    ))
    .unwrap()
}

pub fn template() -> Template {
    template_with(
        json!({"image": {"reference": "registry.example.com/acme/agent:1", "digestPolicy": "Off"}}),
    )
}

pub fn template_with(source: Value) -> Template {
    serde_json::from_value(json!({
        "environment": "staging", "environmentCode": "stg", "namePrefix": "convos-agent", "runtime": {},
        "provider": {"railway": {
            "tokenSecretRef": {"name": "railway", "key": "token"},
            "project": {"projectId": "P", "environmentName": "staging"},
            "source": source, "startCommand": "node server.js",
        }},
    }))
    .unwrap()
}

pub fn key() -> Key {
    let name = "convos-agent-stg-7f3a9c21k4mz".to_owned();
    Key {
        id: "7f3a9c21k4mz".to_owned(),
        name,
        mark: MARK.to_owned(),
    }
}

pub fn inputs() -> Inputs {
    let variables = [("GATEWAY_TOKEN".to_owned(), "very-secret-token".to_owned())].into();
    Inputs {
        variables,
        image: Some("registry.example.com/acme/agent@sha256:0".to_owned()),
        registry: None,
        setup_script: None,
        extra_tokens: vec![],
    }
}

pub fn known(pairs: &[(&str, &str)]) -> Facts {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub fn service(id: &str, name: &str, deployment: Value) -> Value {
    json!({
        "serviceId": id, "serviceName": name, "createdAt": "2026-10-05T19:58:15.735Z",
        "updatedAt": "2026-10-05T19:58:17.102Z", "deletedAt": null, "numReplicas": 1,
        "source": {"image": "nginx:alpine"},
        "domains": {"serviceDomains": [
            {"id": "d-new", "domain": "new.up.railway.app", "syncStatus": "ACTIVE", "createdAt": "2026-10-05T20:00:00Z"},
            {"id": "d-old", "domain": "old.up.railway.app", "syncStatus": "A_NEW_WORD", "createdAt": "2026-10-05T19:58:29Z"},
        ], "customDomains": []},
        "latestDeployment": deployment, "somethingNew": {"x": 1},
    })
}

pub fn running() -> Value {
    json!({"id": "dep", "status": "SUCCESS", "createdAt": "2026-10-05T19:58:18.458Z", "deploymentStopped": false,
           "instances": [{"status": "RUNNING"}]})
}

pub fn fleet(services: &[Value], next: Option<&str>) -> Value {
    let edges: Vec<Value> = services.iter().map(|s| json!({ "node": s })).collect();
    let page = json!({"hasNextPage": next.is_some(), "endCursor": next});
    let volumes = json!({"edges": [], "pageInfo": {"hasNextPage": false, "endCursor": null}});
    json!({"environment": {"serviceInstances": {"edges": edges, "pageInfo": page}, "volumeInstances": volumes}})
}

pub fn mark(value: &str) -> Value {
    json!({"variables": {"AGENTPOOL_OWNER": value, "SEALED": null, "GATEWAY_TOKEN": "very-secret-token"}})
}

pub async fn sent(server: &MockServer) -> Vec<(String, Value)> {
    let requests = server.received_requests().await.unwrap();
    let read = |r: &Request| {
        let body: Value = r.body_json().unwrap();
        (
            body["operationName"].as_str().unwrap().to_owned(),
            body["variables"].clone(),
        )
    };
    requests.iter().map(read).collect()
}

pub async fn names(server: &MockServer) -> Vec<String> {
    sent(server)
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

pub fn class<T: std::fmt::Debug>(result: Result<T, ProviderError>) -> (Class, Reason) {
    let error = result.unwrap_err();
    assert!(
        !error.to_string().contains(TOKEN) && !error.to_string().contains("very-secret"),
        "{error}"
    );
    (error.class, error.reason)
}

/// Reads a request, answers with these bytes (or resets), closes.
pub async fn raw_server(answer: Option<&'static str>) -> (String, Arc<Mutex<usize>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 65536];
            let _ = stream.read(&mut buffer).await.unwrap();
            *counted.lock().unwrap() += 1;
            match answer {
                Some(bytes) => stream.write_all(bytes.as_bytes()).await.unwrap(),
                None => stream.set_zero_linger().unwrap(),
            }
        }
    });
    (url, count)
}
