//! The real client in front of the simulator: the whole life of a sprite, with real commands in it.

use std::time::Duration;

use agentpool::clock::Clock;
use agentpool::provider::sprites::{SpritesProvider, Transport};

use super::*;
use simulator::Simulator;

#[allow(dead_code, reason = "shared with the tests on a real API server")]
#[path = "../support/simulator.rs"]
mod simulator;

const SPRITES_TOKEN: &str = "quickstart/5eed00c1/5eed00c2/5eed0000-0000-4000-8000-0000000000c3";
const SPEED: f64 = 50.0;
const PATIENCE: Duration = Duration::from_secs(60);

struct Life {
    sim: Simulator,
    provider: SpritesProvider,
    facts: Facts,
    inputs: agentpool::provider::Inputs,
}

impl Life {
    fn start() -> Self {
        let sim = Simulator::start(SPEED);
        let transport = Transport::new(&format!("http://{}", sim.peers), Clock::system()).unwrap();
        let provider = SpritesProvider::new(&transport, SPRITES_TOKEN.to_owned().into()).unwrap();
        Self {
            sim,
            provider,
            facts: Facts::new(),
            inputs: inputs(),
        }
    }

    async fn created() -> Self {
        let mut life = Self::start();
        life.go(Operation::Create).await;
        life
    }

    async fn go(&mut self, operation: Operation) {
        for spec in self.provider.plan(operation, &template()) {
            match spec.step {
                Step::Provider(step) => self.done(step).await,
                Step::Ready => self.ready(200).await,
                _ => assert_eq!(self.clean().await, None),
            }
        }
    }

    /// Does a step as the core does: sent, and looked at until it is done.
    async fn done(&mut self, step: &'static str) {
        let until = std::time::Instant::now() + PATIENCE;
        let mut outcome = self.perform(step).await;
        loop {
            let made = match outcome {
                Ok(Outcome::Done(made)) => made,
                Ok(Outcome::Running { .. }) => match self.look(step).await {
                    Seen::Done(made) => made,
                    Seen::Running | Seen::Unknown => {
                        assert!(std::time::Instant::now() < until, "{step} does not end");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                    other => panic!("{step}: {other:?}"),
                },
                Err(e) if e.class == Class::Transient && std::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    outcome = self.perform(step).await;
                    continue;
                }
                other => panic!("{step}: {other:?}"),
            };
            self.facts.extend(made);
            return;
        }
    }

    async fn perform(
        &self,
        step: &'static str,
    ) -> Result<Outcome, agentpool::provider::ProviderError> {
        self.provider
            .perform(&key(), &self.facts, step, &template(), &self.inputs)
            .await
    }

    async fn look(&self, step: &'static str) -> Seen {
        self.provider.look(&key(), &self.facts, step).await.unwrap()
    }

    async fn clean(&self) -> Option<String> {
        self.provider
            .verify_clean(&key(), &self.facts)
            .await
            .unwrap()
    }

    async fn status(&self, token: &str) -> u16 {
        let host = self.facts["url"].trim_start_matches("https://").to_owned();
        let request = reqwest::Client::new()
            .get(format!("http://{}/convos/status", self.sim.peers))
            .header("host", host)
            .bearer_auth(token)
            .timeout(Duration::from_secs(5));
        request.send().await.map_or(0, |a| a.status().as_u16())
    }

    async fn ready(&self, want: u16) {
        let until = std::time::Instant::now() + PATIENCE;
        let token = self.inputs.variables["GATEWAY_TOKEN"].clone();
        while self.status(&token).await != want {
            assert!(std::time::Instant::now() < until, "not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn force(&self, change: Value) {
        let mut all = json!({"sprite": NAME});
        all.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        self.sim.set("sprites", json!({"force": [all]})).await;
    }

    async fn sprite(&self) -> Value {
        let state = self.sim.state("sprites").await;
        state["sprites"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["name"] == NAME)
            .cloned()
            .unwrap_or_default()
    }
}

#[tokio::test]
async fn a_sprite_is_built_recycled_and_removed() {
    let mut life = Life::created().await;
    let built = life.sprite().await;
    assert_eq!(built["labels"], our_labels());
    let taken = built["checkpoints"].as_array().unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(
        taken[0]["id"].as_str(),
        Some(life.facts["checkpointId"].as_str())
    );
    assert!(taken[0]["comment"].as_str().unwrap().starts_with("golden"));
    let services: Vec<&String> = built["services"].as_object().unwrap().keys().collect();
    assert_eq!(services, ["gateway", "hold"]);

    // Used: instructions, and what an agent leaves.
    life.provider
        .prepare_claim(&key(), &life.facts, "Be kind.")
        .await
        .unwrap();
    life.force(
        json!({"writeFile": {"path": "/home/sprite/.convos/identities/one", "content": "x"}}),
    )
    .await;
    let left = life.clean().await.unwrap();
    assert!(
        left.contains(".convos") && left.contains("INSTRUCTIONS.md"),
        "{left}"
    );

    // Recycled with another token.
    let id = life.facts["spriteId"].clone();
    life.inputs
        .variables
        .insert("GATEWAY_TOKEN".to_owned(), "f".repeat(32));
    life.go(Operation::Recycle).await;
    assert_eq!(
        life.status(GATEWAY_TOKEN).await,
        401,
        "the last user is locked out"
    );
    assert_eq!(life.facts["spriteId"], id);
    assert_eq!(life.sprite().await["restores"], 1);

    let listing = life.provider.list().await.unwrap();
    assert_eq!(listing.resources.len(), 1);
    assert_eq!(
        life.provider.owner(&listing.resources[0]).await.unwrap(),
        Owner::Marked(MARK.to_owned())
    );
    life.sim
        .set("sprites", json!({"knobs": {"list_short": 1}}))
        .await;
    assert_eq!(
        life.provider.list().await.unwrap(),
        listing,
        "the short form tells as much"
    );

    let report = life.provider.diagnose(&key(), &life.facts).await;
    assert_eq!(report["envExists"], true);
    assert!(
        report["listening"].as_str().unwrap().contains("8080"),
        "{report:?}"
    );
    assert!(
        report["localCheck"].as_str().unwrap().contains("200"),
        "{report:?}"
    );
    let text = serde_json::to_string(&report).unwrap();
    assert!(
        !text.contains(KEY) && !text.contains(&"f".repeat(32)),
        "{text}"
    );

    assert_eq!(
        life.provider.destroy(&key(), &life.facts).await.unwrap(),
        Presence::Gone
    );
    assert_eq!(
        life.provider.observe(&key(), &life.facts).await.unwrap(),
        Presence::Gone
    );
    assert_eq!(
        life.provider.destroy(&key(), &life.facts).await.unwrap(),
        Presence::Gone
    );
}

#[tokio::test]
async fn nothing_wakes_a_sprite_but_what_must() {
    let life = Life::created().await;
    life.force(json!({"state": "cold"})).await;
    let resource = life.provider.list().await.unwrap().resources.remove(0);
    assert_eq!(resource.liveness, Liveness::Cold);
    life.provider.observe(&key(), &life.facts).await.unwrap();
    life.provider.owner(&resource).await.unwrap();
    assert_eq!(life.sprite().await["status"], "cold");
    life.provider
        .hold(&key(), &life.facts, Duration::from_secs(3600))
        .await
        .unwrap();
    let held = life.sprite().await;
    assert_eq!(
        (held["status"].as_str(), &held["tasks"]),
        (Some("running"), &json!(["agentpool"]))
    );
    assert_eq!(
        life.provider.destroy(&key(), &life.facts).await.unwrap(),
        Presence::Gone
    );
}

#[tokio::test]
async fn what_is_cut_is_looked_for() {
    let mut life = Life::created().await;
    let fault =
        |operation: &str, fault: Value| json!({"match": {"operation": operation}, "fault": fault});
    // A command without its exit frame is no answer.
    life.sim
        .fault("sprites", fault("exec", json!({"kind": "exec_cut"})))
        .await;
    assert_eq!(
        class(life.provider.verify_clean(&key(), &life.facts).await).0,
        Class::Transient
    );
    life.sim.heal("sprites").await;
    // A second checkpoint, whose stream is cut: nobody knows, and then it is found.
    life.sim
        .fault(
            "sprites",
            fault("checkpoint", json!({"kind": "stream_cut", "lines": 2})),
        )
        .await;
    assert_eq!(class(life.perform(CHECKPOINT).await).0, Class::Ambiguous);
    life.sim.heal("sprites").await;
    let Seen::Done(found) = life.look(CHECKPOINT).await else {
        panic!()
    };
    assert_ne!(
        found["checkpointId"], life.facts["checkpointId"],
        "the newest"
    );
    life.facts.extend(found);
    // A restore whose stream is cut goes on.
    life.sim
        .fault(
            "sprites",
            fault("restore", json!({"kind": "stream_cut", "lines": 1})),
        )
        .await;
    life.go(Operation::Recycle).await;
    life.sim.heal("sprites").await;
    // One that ends for good is a failure.
    life.sim
        .fault("sprites", fault("restore", json!({"kind": "restore_dead"})))
        .await;
    life.done(MARKER).await;
    let outcome = life.perform(RESTORE).await.unwrap();
    assert_eq!(failed(outcome), ("RestoreFailed", false));
    // A checkpoint that was replaced is not restored.
    life.sim.heal("sprites").await;
    life.force(json!({"dead": false})).await;
    let id = life.facts["checkpointId"].clone();
    life.force(json!({"replaceCheckpoint": id})).await;
    let outcome = life.perform(MARKER).await.unwrap();
    assert_eq!(failed(outcome), ("CheckpointChanged", false));
    assert_eq!(
        life.provider.destroy(&key(), &life.facts).await.unwrap(),
        Presence::Gone
    );
}

#[tokio::test]
async fn a_set_up_that_cannot_succeed_says_which_slice_and_why() {
    let mut life = Life::start();
    for step in ["sprite", "access"] {
        life.done(step).await;
    }
    life.inputs.setup_script = Some("# agentpool:slice one\necho fine\n# agentpool:slice two\necho \"cannot go on with $OPENCLAW_GIT_REF\"\nexit 7\n".to_owned());
    life.perform(SETUP).await.unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    let (reason, message) = loop {
        assert!(std::time::Instant::now() < until, "it does not end");
        match life.look(SETUP).await {
            Seen::Failed {
                reason,
                message,
                retry: false,
            } => break (reason, message),
            Seen::Running | Seen::Unknown => tokio::time::sleep(Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason, "SetupFailed");
    assert!(
        message.contains("slice 2 ended with 7 three times")
            && message.contains("cannot go on with staging"),
        "{message}"
    );
    assert_eq!(
        life.provider.destroy(&key(), &life.facts).await.unwrap(),
        Presence::Gone
    );
}
