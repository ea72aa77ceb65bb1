//! Services and checkpoints.

use super::*;

async fn put_service(sim: &Simulator, sprite: &str, name: &str, script: &str) -> Answer {
    let body = json!({"cmd": "/bin/bash", "args": ["-c", script], "dir": "/home/sprite"});
    sim.sprites(
        "PUT",
        &format!("sprites/{sprite}/services/{name}?duration=0"),
        body.to_string(),
    )
    .await
}

async fn service(sim: &Simulator, sprite: &str, name: &str) -> Value {
    let all = sim
        .sprites("GET", &format!("sprites/{sprite}/services"), "")
        .await
        .json();
    let all = all.as_array().expect("a bare array").clone();
    all.into_iter()
        .find(|s| s["name"] == name)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_service_is_started_watched_restarted_and_stopped() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let script = "echo hello; echo $$ >>pids; exec /bin/sleep 1000";
    let body = json!({"cmd": "/bin/bash", "args": ["-c", script], "http_port": 8080});
    let put = sim
        .sprites(
            "PUT",
            "sprites/a-1/services/s?duration=300s",
            body.to_string(),
        )
        .await;
    assert_eq!(put.types(), ["started", "stdout", "complete"], "{put:?}");
    assert_eq!(
        put.lines()[2]["log_files"]["combined"],
        "/.sprite/logs/services/s.log"
    );
    let again = sim
        .sprites("PUT", "sprites/a-1/services/s", body.to_string())
        .await;
    assert!(
        text(&again.json()["message"]).starts_with("Service already running"),
        "{again:?}"
    );
    let second = sim
        .sprites("PUT", "sprites/a-1/services/t", body.to_string())
        .await;
    assert_eq!(second.status, 409, "one HTTP port per sprite");
    assert_eq!(
        sim.bash("a-1", "kill -9 $(tail -n 1 pids)").await.exit,
        Some(0)
    );
    until("it is restarted", || async {
        let s = service(&sim, "a-1", "s").await;
        s["state"]["restart_count"] == 1 && s["state"]["status"] == "running"
    })
    .await;
    let stop = sim.sprites("POST", "sprites/a-1/services/s/stop", "").await;
    assert_eq!(stop.types(), ["stopping", "stopped", "complete"]);
    assert_eq!(
        sim.sprites("POST", "sprites/a-1/services/s/stop", "")
            .await
            .status,
        409
    );
    let s = service(&sim, "a-1", "s").await;
    assert_eq!(
        (&s["state"]["status"], &s["state"]["error"]),
        (&json!("failed"), &json!("exited with code 143"))
    );
    let logs = sim
        .sprites("GET", "sprites/a-1/services/s/logs?lines=10&duration=0", "")
        .await;
    assert!(
        text(&logs.lines()[0]["data"]).contains("[stdout] hello"),
        "{logs:?}"
    );
    assert_eq!(
        sim.sprites("DELETE", "sprites/a-1/services/s", "")
            .await
            .status,
        204
    );
    assert_eq!(
        sim.sprites("DELETE", "sprites/a-1/services/s", "")
            .await
            .status,
        404
    );
    assert_eq!(
        sim.sprites("PUT", "sprites/a-1/services/s", "{}")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_restore_brings_back_files_and_services_and_nothing_else() {
    let sim = Simulator::start(100).await;
    let made = sim.sprite("a-1").await;
    put_service(&sim, "a-1", "s", "date +%N >started; exec /bin/sleep 1000").await;
    assert_eq!(
        sim.bash(
            "a-1",
            "echo golden >file; mkdir -p d; ln -s ../file d/link; chmod 600 file"
        )
        .await
        .exit,
        Some(0)
    );
    let created = sim
        .sprites(
            "POST",
            "sprites/a-1/checkpoint",
            r#"{"comment":"golden/x/1"}"#,
        )
        .await;
    assert_eq!(created.types().last().map(String::as_str), Some("complete"));
    assert!(
        created.lines().iter().any(|l| l["data"] == "  ID: v1"),
        "{created:?}"
    );
    let one = sim
        .sprites("GET", "sprites/a-1/checkpoints/v1", "")
        .await
        .json();
    assert_eq!(one["comment"], "golden/x/1");
    let before = service(&sim, "a-1", "s").await;
    put_service(&sim, "a-1", "extra", "exec /bin/sleep 1000").await;
    assert_eq!(
        sim.bash(
            "a-1",
            "echo changed >file; touch marker; rm -r d; (setsid /bin/sleep 900 &)"
        )
        .await
        .exit,
        Some(0)
    );
    assert_eq!(
        sim.sprites("POST", "sprites/a-1/checkpoints/v9/restore", "")
            .await
            .status,
        404
    );
    sim.put(
        "sprites",
        json!({"knobs": {"restore_settle_ms": 10_000_000}}),
    )
    .await;
    let restored = sim
        .sprites("POST", "sprites/a-1/checkpoints/v1/restore", "")
        .await;
    assert_eq!(
        restored.types(),
        ["info", "info", "info", "complete"],
        "{restored:?}"
    );
    assert_eq!(
        sim.sprites("GET", "sprites/a-1/exec", "").await.status,
        503,
        "it settles"
    );
    sim.put("sprites", json!({"advanceSeconds": 10_000})).await;
    until("it answers", || async {
        sim.sprites("GET", "sprites/a-1/exec", "").await.status == 200
    })
    .await;
    let ran = sim
        .bash(
            "a-1",
            "cat d/link; stat -c %a file; test -e marker; echo $?; ps",
        )
        .await;
    assert!(ran.stdout.starts_with("golden\n600\n1\n"), "{ran:?}");
    assert!(
        !ran.stdout.contains("sleep 900"),
        "no process is left: {ran:?}"
    );
    let after = service(&sim, "a-1", "s").await;
    assert_eq!(after["state"]["status"], "running", "{after}");
    assert_ne!(after["state"]["pid"], before["state"]["pid"]);
    assert_eq!(service(&sim, "a-1", "extra").await, Value::Null);
    let now = sim.sprites("GET", "sprites/a-1", "").await.json();
    assert_eq!(now["id"], made["id"]);
    assert_eq!(
        sim.sprites("GET", "sprites/a-1/checkpoints", "")
            .await
            .json()
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn services_and_checkpoints_go_with_their_sprite() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    put_service(&sim, "a-1", "s", "echo $$ >pid; exec /bin/sleep 1000").await;
    until("it has started", || async {
        sim.bash("a-1", "cat pid").await.exit == Some(0)
    })
    .await;
    let pid = sim.bash("a-1", "cat pid; echo $HOME").await.stdout;
    let (pid, home) = pid.trim().split_once('\n').expect("two lines");
    sim.sprites("POST", "sprites/a-1/checkpoint", "{}").await;
    assert_eq!(sim.sprites("DELETE", "sprites/a-1", "").await.status, 204);
    assert!(!std::path::Path::new(home).exists(), "the disk is gone");
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(cmdline.is_empty(), "the process is gone");
    let ledger = sim.ledger().await;
    let left = ledger["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["exists"] == true)
        .count();
    assert_eq!(
        (left, ledger["resources"].as_array().unwrap().len()),
        (0, 2),
        "{ledger}"
    );
}
