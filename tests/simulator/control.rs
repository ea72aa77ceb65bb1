//! The control port and the command line.

use super::process::{IMAGE, STAGING, Simulator};
use serde_json::{Value, json};

#[tokio::test]
async fn the_world_is_seeded_and_forgotten_over_the_control_port() {
    let sim = Simulator::start(20).await;
    let seeded = json!({
        "tokens": [{"token": "account-token-1234", "kind": "account"}],
        "services": [{"name": "foreign", "image": "nginx", "variables": {"A": "1"}, "deploy": true, "domain": true}],
    });
    sim.put("railway", seeded).await;
    let state = sim.control("GET", "railway/state", Value::Null).await.1;
    assert_eq!(state["services"][0]["name"], "foreign");
    assert_eq!(
        state["services"][0]["domains"],
        json!(["foreign-staging.up.railway.app"])
    );
    assert_eq!(state["services"][0]["variables"]["A"], "1");
    assert!(state["tokens"].to_string().contains("acco…1234"));
    let me = sim
        .send(
            ("Authorization", "account-token-1234"),
            "{ me { name } }",
            json!({}),
        )
        .await
        .expect("an answer");
    assert_eq!(me.data("me")["name"], "Simulated");
    let (status, body) = sim
        .control("PUT", "railway/state", json!({"timings": {"nap": 1}}))
        .await;
    assert_eq!(status, 400);
    assert!(body["error"].to_string().contains("app_boot"));
    sim.control("DELETE", "railway/state", Value::Null).await;
    let state = sim.control("GET", "railway/state", Value::Null).await.1;
    assert_eq!(state["services"], json!([]));
    assert_eq!(state["projects"].as_array().map(Vec::len), Some(2));
    assert_eq!(sim.ledger().await["resources"][0]["exists"], false);
}

#[tokio::test]
async fn calls_name_fields_tokens_and_classes() {
    let sim = Simulator::start(1).await;
    sim.create_service("w-1", IMAGE).await;
    sim.create_service("w-1", IMAGE).await;
    let calls = sim.control("GET", "railway/calls", Value::Null).await.1["calls"].clone();
    assert_eq!(calls[0]["fields"], json!(["serviceCreate"]));
    assert_eq!(calls[0]["operation"], "RwServiceCreate");
    assert_eq!(
        (&calls[0]["header"], &calls[0]["class"]),
        (&json!("bearer"), &json!("ok"))
    );
    assert_eq!(calls[0]["token"], "5eed…00b1");
    assert_eq!(calls[0]["variables"]["input"]["environmentId"], STAGING);
    assert!(
        calls[1]["class"]
            .as_str()
            .is_some_and(|c| c.starts_with("error:A service named"))
    );
}

#[tokio::test]
async fn peers_to_come_answer_404() {
    let sim = Simulator::start(1).await;
    assert_eq!(sim.get("127.0.0.1", "/openrouter/api/v1/keys").await.0, 404);
    assert_eq!(
        sim.control("GET", "openrouter/state", Value::Null).await.0,
        404
    );
}

#[test]
fn a_taken_port_is_named_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_agentpool-simulator"))
        .args(["serve", "--control", "127.0.0.1:0", "--listen", &address])
        .output()
        .expect("it runs");
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains(&address) && said.trim().lines().count() == 1,
        "{said}"
    );
    assert!(run.stdout.is_empty());
}
