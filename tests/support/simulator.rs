//! The simulator's binary as a process of its own, and its control port.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// The workspace token that every simulator knows.
pub const TOKEN: &str = "5eed0000-0000-4000-8000-0000000000b1";
/// The project token of [`PROJECT`].
pub const PROJECT_TOKEN: &str = "5eed0000-0000-4000-8000-0000000000b2";
/// A project with one environment.
pub const PROJECT: &str = "5eed0000-0000-4000-8000-000000000001";
/// That environment, called `staging`.
pub const ENVIRONMENT: &str = "5eed0000-0000-4000-8000-000000000011";
/// A project with three environments: dev, staging, production.
pub const SHARED_PROJECT: &str = "5eed0000-0000-4000-8000-000000000002";

/// A running simulator; ended when dropped.
pub struct Simulator {
    child: Child,
    /// `host:port` for peers and agents.
    pub peers: String,
    control: String,
    http: reqwest::Client,
}

impl Simulator {
    /// Starts one on free ports; `speed` divides all its times.
    pub fn start(speed: f64) -> Self {
        Self::seeded(speed, 1)
    }

    /// The same, where what it does by chance follows from `seed`.
    pub fn seeded(speed: f64, seed: u64) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_agentpool-simulator"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--control",
                "127.0.0.1:0",
            ])
            .args(["--speed", &speed.to_string()])
            .args(["--seed", &seed.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the simulator starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .expect("the simulator tells its ports");
        let ports: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("one line of JSON, not {line:?}"));
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            child,
            peers: ports["peers"].as_str().unwrap().to_owned(),
            control: ports["control"].as_str().unwrap().to_owned(),
            http: reqwest::Client::new(),
        }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/__sim/v1/{path}", self.control)
    }

    async fn get(&self, path: &str) -> Value {
        self.http
            .get(self.url(path))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    /// The ledger over all peers.
    pub async fn ledger(&self) -> Value {
        self.get("ledger").await
    }

    /// Every request to a peer (`railway`, `agents`), oldest first.
    pub async fn calls(&self, peer: &str) -> Vec<Value> {
        self.get(&format!("{peer}/calls")).await["calls"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// What a peer has.
    pub async fn state(&self, peer: &str) -> Value {
        self.get(&format!("{peer}/state")).await
    }

    /// Seeds or forces a peer's state.
    pub async fn set(&self, peer: &str, state: Value) {
        let answer = self
            .http
            .put(self.url(&format!("{peer}/state")))
            .json(&state)
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }

    /// Arms a fault.
    pub async fn fault(&self, peer: &str, rule: Value) {
        let answer = self
            .http
            .post(self.url(&format!("{peer}/faults")))
            .json(&rule)
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }

    /// Disarms all faults of a peer.
    pub async fn heal(&self, peer: &str) {
        let answer = self
            .http
            .delete(self.url(&format!("{peer}/faults")))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success());
    }

    /// The services that exist, by the ledger.
    pub async fn live_services(&self) -> Vec<Value> {
        self.live("service").await
    }

    /// What exists of a kind, by the ledger.
    pub async fn live(&self, kind: &str) -> Vec<Value> {
        let ledger = self.ledger().await;
        let all = ledger["resources"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|r| r["kind"] == kind && r["exists"] == true)
            .collect()
    }

    /// All services that ever existed, by the ledger.
    pub async fn services_ever(&self) -> Vec<Value> {
        let ledger = self.ledger().await;
        let all = ledger["resources"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|r| r["kind"] == "service").collect()
    }

    /// How many Railway requests had this operation's name.
    pub async fn railway_calls(&self, operation: &str) -> usize {
        self.calls("railway")
            .await
            .iter()
            .filter(|c| c["operation"] == operation)
            .count()
    }

    /// Railway's record of the service of that name: source, start command, variables, deployments.
    pub async fn service(&self, name: &str) -> Option<Value> {
        let state = self.state("railway").await;
        state["services"]
            .as_array()?
            .iter()
            .find(|s| s["name"] == name)
            .cloned()
    }

    /// Forces a deployment's state, a removal or a rename of a service, as if from outside.
    pub async fn force(&self, change: Value) {
        self.set("railway", json!({"force": [change]})).await;
    }

    /// What must hold of any run: no instance was called twice but after a refusal, and none was reset.
    pub async fn check_invariants(&self) {
        self.check_calls().await;
        let ledger = self.ledger().await;
        for (id, instance) in ledger["instances"].as_object().unwrap() {
            assert_eq!(instance["resets"], 0, "instance {id} was reset: {instance}");
        }
    }

    /// The same where the pool wants agents of failed claims reset.
    pub async fn check_calls(&self) {
        let ledger = self.ledger().await;
        for (id, instance) in ledger["instances"].as_object().unwrap() {
            let number = |key: &str| instance[key].as_i64().unwrap();
            assert!(
                number("claimCalls") - number("claimsRefused") <= 1,
                "instance {id} saw two claim calls: {instance}"
            );
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
