//! The binary under test: start, talk, stop; and the few calls most tests need.

use serde_json::{Value, json};
use std::future::Future;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub const BEARER: &str = "5eed0000-0000-4000-8000-0000000000b1";
pub const PROJECT_TOKEN: &str = "5eed0000-0000-4000-8000-0000000000b2";
pub const PROJECT: &str = "5eed0000-0000-4000-8000-000000000001";
pub const STAGING: &str = "5eed0000-0000-4000-8000-000000000011";
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const IMAGE: &str = "ghcr.io/acme/convos-runtime:1";

/// A running simulator; the process ends with this value.
pub struct Simulator {
    _child: Child,
    pub peers: String,
    pub control: String,
    http: reqwest::Client,
}

/// An answer of Railway.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The first error's message.
    pub fn message(&self) -> &str {
        self.body["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
    }

    /// The first error's code.
    pub fn code(&self) -> &str {
        self.body["errors"][0]["extensions"]["code"]
            .as_str()
            .unwrap_or_default()
    }

    /// A field of `data`.
    pub fn data(&self, field: &str) -> &Value {
        assert!(self.body["errors"].is_null(), "{}", self.body);
        &self.body["data"][field]
    }
}

/// The text of one of the contract's documents.
pub fn document(name: &str) -> String {
    let path = format!(
        "{}/tests/data/railway/{name}.graphql",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

impl Simulator {
    pub async fn start(speed: u32) -> Self {
        Self::start_with(&["serve", "--speed", &speed.to_string()]).await
    }

    pub async fn start_with(args: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut child = Command::new(env!("CARGO_BIN_EXE_agentpool-simulator"))
            .args(args)
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .env_remove("GATEWAY_TOKEN")
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the simulator starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let line = lines
            .next_line()
            .await
            .expect("stdout is readable")
            .expect("one line comes");
        let ports: Value = serde_json::from_str(&line).expect("the line is JSON");
        let port = |name: &str| ports[name].as_str().expect("an address").to_owned();
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client");
        Self {
            _child: child,
            peers: port("peers"),
            control: port("control"),
            http,
        }
    }

    /// Sends one query with a header and a token.
    pub async fn send(
        &self,
        (header, token): (&str, &str),
        query: &str,
        variables: Value,
    ) -> reqwest::Result<Answer> {
        let value = if header == "Authorization" {
            format!("Bearer {token}")
        } else {
            token.to_owned()
        };
        let body = json!({"query": query, "variables": variables});
        let url = format!("http://{}/graphql/v2?source=test", self.peers);
        let answer = self
            .http
            .post(url)
            .header(header, value)
            .json(&body)
            .send()
            .await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// Sends one of the contract's documents with the quick start's token.
    pub async fn gql(&self, name: &str, variables: Value) -> Answer {
        let sent = self
            .send(("Authorization", BEARER), &document(name), variables)
            .await;
        sent.expect("Railway answers")
    }

    pub async fn create_service(&self, name: &str, image: &str) -> Answer {
        let variables = json!({
            "AGENTPOOL_OWNER": format!("test/{name}"), "GATEWAY_TOKEN": TOKEN, "GATEWAY_AUTH_TOKEN": TOKEN,
            "OPENROUTER_API_KEY": "k", "XMTP_ENV": "dev", "INSTANCE_ID": name,
        });
        let input = json!({"projectId": PROJECT, "environmentId": STAGING, "name": name,
            "source": {"image": image}, "variables": variables});
        self.gql("RwServiceCreate", json!({"input": input})).await
    }

    /// A deployed service with a domain: (service, deployment, host).
    pub async fn launch(&self, name: &str, image: &str) -> (String, String, String) {
        let service = text(&self.create_service(name, image).await.data("serviceCreate")["id"]);
        let input = json!({"environmentId": STAGING, "serviceId": service, "targetPort": 8080});
        let domain = self.gql("RwDomainCreate", json!({"input": input})).await;
        let host = text(&domain.data("serviceDomainCreate")["domain"]);
        let deploy = self
            .gql(
                "RwDeploy",
                json!({"serviceId": service, "environmentId": STAGING}),
            )
            .await;
        let deployment = text(deploy.data("serviceInstanceDeployV2"));
        (service, deployment, host)
    }

    /// A launched agent that is ready: (service, deployment, host).
    pub async fn ready_agent(&self, name: &str) -> (String, String, String) {
        let launched = self.launch(name, IMAGE).await;
        self.until_ready(&launched.2).await;
        launched
    }

    pub async fn until_ready(&self, host: &str) {
        until("the agent is ready", || async {
            self.get(host, "/pool/health").await.0 == 200
        })
        .await;
    }

    pub async fn status_of(&self, deployment: &str) -> Value {
        let answer = self.gql("RwDeployment", json!({"id": deployment})).await;
        answer.data("deployment")["status"].clone()
    }

    pub async fn until_status(&self, deployment: &str, status: &str) {
        until(status, || async {
            self.status_of(deployment).await == status
        })
        .await;
    }

    fn agent_request(
        &self,
        method: reqwest::Method,
        host: &str,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.peers);
        let request = self
            .http
            .request(method, url)
            .timeout(Duration::from_secs(20));
        request
            .header("host", host)
            .header("authorization", format!("Bearer {TOKEN}"))
    }

    pub async fn get(&self, host: &str, path: &str) -> (u16, Value) {
        answer_of(
            self.agent_request(reqwest::Method::GET, host, path)
                .send()
                .await,
        )
        .await
    }

    pub async fn post(&self, host: &str, path: &str, body: Value) -> (u16, Value) {
        self.post_raw(host, path, body.to_string()).await
    }

    /// Status 0: no answer came.
    pub async fn post_raw(&self, host: &str, path: &str, body: String) -> (u16, Value) {
        let request = self.agent_request(reqwest::Method::POST, host, path);
        answer_of(
            request
                .header("content-type", "application/json")
                .body(body)
                .send()
                .await,
        )
        .await
    }

    pub async fn post_for(&self, limit: Duration, host: &str, path: &str, body: Value) -> bool {
        let request = self.agent_request(reqwest::Method::POST, host, path);
        request.timeout(limit).json(&body).send().await.is_ok()
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let url = format!("http://{}/__sim/v1/{path}", self.control);
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, url);
        if !body.is_null() {
            request = request.json(&body);
        }
        answer_of(request.send().await).await
    }

    pub async fn arm(&self, peer: &str, rule: Value) {
        let (status, body) = self.control("POST", &format!("{peer}/faults"), rule).await;
        assert_eq!(status, 201, "{body}");
        assert!(body["id"].is_string());
    }

    pub async fn put(&self, peer: &str, state: Value) {
        let (status, body) = self.control("PUT", &format!("{peer}/state"), state).await;
        assert_eq!(status, 200, "{body}");
    }

    pub async fn ledger(&self) -> Value {
        self.control("GET", "ledger", Value::Null).await.1
    }

    pub async fn account(&self, service: &str) -> Value {
        self.ledger().await["instances"][service].clone()
    }
}

async fn answer_of(sent: reqwest::Result<reqwest::Response>) -> (u16, Value) {
    let Ok(answer) = sent else {
        return (0, Value::Null);
    };
    let status = answer.status().as_u16();
    match answer.text().await {
        Ok(text) => (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ),
        Err(_) => (0, Value::Null),
    }
}

pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}

/// Asks until it is so; fails after 20 real seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
