//! Cold, warm, running: what wakes, what holds awake, what is billed.

use super::*;

async fn wakes(sim: &Simulator, id: &Value) -> Vec<(String, String)> {
    let ledger = sim.ledger().await;
    let wakes = ledger["sprites"][id.as_str().unwrap()]["wakeUps"].clone();
    let wakes = wakes.as_array().cloned().unwrap_or_default();
    wakes
        .iter()
        .map(|w| (text(&w["cause"]), text(&w["from"])))
        .collect()
}

#[tokio::test]
async fn reads_of_the_api_wake_nothing_and_calls_into_the_sprite_do() {
    let sim = Simulator::start(100).await;
    // It stays awake for a real minute.
    sim.put("sprites", json!({"knobs": {"idle_to_warm_s": 6000}}))
        .await;
    let id = sim.sprite("a-1").await["id"].clone();
    for path in [
        "sprites/a-1",
        "sprites",
        "sprites/a-1/services",
        "sprites/a-1/check",
        "organization",
    ] {
        assert_eq!(sim.sprites("GET", path, "").await.status, 200, "{path}");
    }
    sim.sprites("PUT", "sprites/a-1", r#"{"labels":["l"]}"#)
        .await;
    assert_eq!(wakes(&sim, &id).await, []);
    assert_eq!(sim.status_of_sprite("a-1").await, "cold");
    sim.sprites("PUT", "sprites/a-1/fs/write?path=/home/sprite/f", "x")
        .await;
    assert_eq!(
        wakes(&sim, &id).await,
        [("fsWrite".to_owned(), "cold".to_owned())]
    );
    assert_eq!(sim.status_of_sprite("a-1").await, "running");
}

#[tokio::test]
async fn an_idle_sprite_is_frozen_and_later_loses_its_memory() {
    let sim = Simulator::start(100).await;
    let id = sim.sprite("a-1").await["id"].clone();
    let body = json!({"cmd": "/bin/bash", "args": ["-c", "echo $$ >pid; while :; do date +%s%N >beat; /bin/sleep 0.01; done"]});
    sim.sprites("PUT", "sprites/a-1/services/s?duration=0", body.to_string())
        .await;
    sim.bash(
        "a-1",
        "while [ ! -e pid ]; do /bin/sleep 0.01; done; touch $TMPDIR/scratch",
    )
    .await;
    let pid = sim.bash("a-1", "cat pid").await.stdout;
    until("it is warm", || async {
        sim.status_of_sprite("a-1").await == "warm"
    })
    .await;
    // A process on another core stands still a moment after it was told to.
    until("its process stands still", || async {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .expect("the process is there");
        state.contains(") T ")
    })
    .await;
    assert_eq!(
        sim.bash("a-1", "cat pid; ls $TMPDIR").await.stdout,
        format!("{pid}scratch\n"),
        "the same process after a warm wake"
    );
    sim.put("sprites", json!({"knobs": {"warm_to_cold_s": 1}}))
        .await;
    until("it is cold", || async {
        sim.status_of_sprite("a-1").await == "cold"
    })
    .await;
    let ran = sim
        .bash(
            "a-1",
            "ls $TMPDIR; while [ $(cat pid) = $0 ]; do /bin/sleep 0.01; done; cat pid",
        )
        .await;
    assert!(!ran.stdout.contains("scratch"), "/tmp is lost: {ran:?}");
    until("the service has started afresh", || async {
        sim.bash("a-1", "cat pid").await.stdout != pid
    })
    .await;
    let from: Vec<String> = wakes(&sim, &id)
        .await
        .into_iter()
        .map(|(_, from)| from)
        .collect();
    // A busy machine may let it fall asleep more often than that.
    assert_eq!(from[0], "cold");
    assert!(
        from.iter().any(|f| f == "warm") && from[1..].iter().any(|f| f == "cold"),
        "{from:?}"
    );
    let ledger = sim.ledger().await;
    assert!(
        ledger["sprites"][id.as_str().unwrap()]["awakeMs"].as_i64() > Some(30_000),
        "{ledger}"
    );
}

#[tokio::test]
async fn a_task_from_inside_holds_it_awake() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let put = sim
        .bash(
            "a-1",
            r#"sprite-env curl -X PUT /v1/tasks/agentpool -d '{"expire":"1h"}'"#,
        )
        .await;
    let task: Value = serde_json::from_str(&put.stdout).expect("the task");
    assert_eq!((put.exit, &task["name"]), (Some(0), &json!("agentpool")));
    until("nothing is in flight", || async {
        let state = sim.control("GET", "sprites/state", Value::Null).await.1;
        state["sprites"][0]["holds"] == 0
    })
    .await;
    sim.put("sprites", json!({"advanceSeconds": 1000})).await;
    assert_eq!(sim.status_of_sprite("a-1").await, "running");
    assert_eq!(
        sim.bash("a-1", "sprite-env curl -fsS -X DELETE /v1/tasks/agentpool")
            .await
            .exit,
        Some(0)
    );
    assert_eq!(
        sim.bash("a-1", "sprite-env curl -fsS /v1/tasks/agentpool")
            .await
            .exit,
        Some(22),
        "404"
    );
    sim.put("sprites", json!({"advanceSeconds": 31})).await;
    until("it sleeps", || async {
        sim.status_of_sprite("a-1").await == "warm"
    })
    .await;
}

#[tokio::test]
async fn more_than_may_run_are_refused_to_wake() {
    let sim = Simulator::start(100).await;
    sim.put(
        "sprites",
        json!({"knobs": {"running_limit": 1, "idle_to_warm_s": 6000}}),
    )
    .await;
    sim.sprite("a-1").await;
    sim.sprite("a-2").await;
    sim.put(
        "sprites",
        json!({"force": [{"sprite": "a-1", "state": "running"}]}),
    )
    .await;
    let refused = sim.sprites("GET", "sprites/a-2/fs/list?path=/", "").await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (429, &json!("concurrent_sprite_limit_exceeded"))
    );
}

#[tokio::test]
async fn nothing_of_a_sprite_outlives_the_simulator() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let body =
        json!({"cmd": "/bin/bash", "args": ["-c", "echo $$ >pid; exec setsid -w /bin/sleep 1000"]});
    sim.sprites("PUT", "sprites/a-1/services/s?duration=0", body.to_string())
        .await;
    let ran = sim
        .bash(
            "a-1",
            "while [ ! -s pid ]; do /bin/sleep 0.01; done; cat pid; echo $SIM_ROOT",
        )
        .await
        .stdout;
    let (pid, root) = ran.trim().split_once('\n').expect("two lines");
    drop(sim);
    until("the directory is gone", || async {
        !std::path::Path::new(root).exists()
    })
    .await;
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(cmdline.is_empty(), "its processes are gone");
}
