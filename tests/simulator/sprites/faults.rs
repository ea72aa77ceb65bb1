//! Every failure that the operator must survive can be brought about.

use super::*;

async fn arm(sim: &Simulator, operation: &str, fault: Value) {
    let rule = json!({"match": {"operation": operation}, "count": 1, "fault": fault});
    sim.arm("sprites", rule).await;
}

#[tokio::test]
async fn trouble_at_the_edge_with_tokens_routes_and_limits() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let status = |path: &'static str| {
        let sim = &sim;
        async move { sim.sprites("GET", path, "").await }
    };
    for (fault, expected, body) in [
        (
            json!({"kind": "token_revoked"}),
            401,
            r#"{"error":"unauthorized"}"#,
        ),
        (json!({"kind": "route_gone"}), 404, "404 page not found"),
        (
            json!({"kind": "http_5xx", "status": 503, "html": true}),
            503,
            "<html>",
        ),
        (
            json!({"kind": "rate_limit", "seconds": 200}),
            429,
            "retry_after_seconds\":2",
        ),
        (json!({"kind": "reset"}), 0, ""),
        (json!({"kind": "slow", "seconds": 1}), 200, "a-1"),
    ] {
        arm(&sim, "get", fault.clone()).await;
        let answer = status("sprites/a-1").await;
        assert_eq!(answer.status, expected, "{fault}");
        assert!(answer.body.contains(body), "{fault}: {answer:?}");
        assert_eq!(status("sprites/a-1").await.status, 200, "once");
    }
    sim.arm("sprites", json!({"fault": {"kind": "token_revoked"}}))
        .await;
    assert_eq!(status("sprites").await.status, 401);
    let handshake = sim
        .socket(&exec_path("a-1", "true", ""))
        .await
        .expect_err("revoked");
    assert!(
        matches!(*handshake, Error::Http(answer) if answer.status() == 401),
        "handshakes included"
    );
    sim.control("DELETE", "sprites/faults", Value::Null).await;
    arm(&sim, "get", json!({"kind": "gone"})).await;
    assert_eq!(status("sprites/a-1").await.status, 404);
    assert_eq!(status("sprites").await.json()["sprites"], json!([]));
}

#[tokio::test]
async fn creates_that_conflict_come_late_or_meet_a_limit() {
    let sim = Simulator::start(100).await;
    let create = |name: &'static str| {
        let sim = &sim;
        async move {
            sim.sprites(
                "POST",
                "sprites",
                json!({"name": name, "labels": ["ours"]}).to_string(),
            )
            .await
        }
    };
    arm(
        &sim,
        "create",
        json!({"kind": "create_conflict", "status": 422}),
    )
    .await;
    assert_eq!(create("a-1").await.status, 422);
    assert_eq!(
        sim.sprites("GET", "sprites/a-1", "").await.json()["labels"],
        json!(["ours"]),
        "an answer was lost"
    );
    arm(
        &sim,
        "create",
        json!({"kind": "create_conflict", "labels": ["theirs"]}),
    )
    .await;
    assert_eq!(create("a-2").await.status, 400);
    assert_eq!(
        sim.sprites("GET", "sprites/a-2", "").await.json()["labels"],
        json!(["theirs"])
    );
    arm(
        &sim,
        "create",
        json!({"kind": "timeout", "applied": true, "seconds": 1}),
    )
    .await;
    assert_eq!(create("a-3").await.status, 0);
    assert_eq!(
        sim.sprites("GET", "sprites/a-3", "").await.status,
        200,
        "it exists"
    );
    arm(&sim, "create", json!({"kind": "capacity"})).await;
    assert_eq!(
        create("a-4").await.json()["error"],
        "concurrent_sprite_limit_exceeded"
    );
    assert_eq!(sim.sprites("GET", "sprites/a-4", "").await.status, 404);
    arm(&sim, "wake", json!({"kind": "capacity"})).await;
    assert_eq!(
        sim.sprites("GET", "sprites/a-1/fs/list?path=/", "")
            .await
            .status,
        429
    );
    arm(&sim, "list", json!({"kind": "short_list", "keep": 1})).await;
    let short = sim.sprites("GET", "sprites", "").await.json();
    assert_eq!(
        (
            short["sprites"].as_array().map(Vec::len),
            &short["has_more"]
        ),
        (Some(1), &json!(false))
    );
}

#[tokio::test]
async fn a_command_fails_is_cut_falls_silent_or_is_paused() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    arm(
        &sim,
        "exec",
        json!({"kind": "exec_fails", "code": 9, "stderr": "disk full"}),
    )
    .await;
    let failed = sim.bash("a-1", "touch ran").await;
    assert_eq!(
        (failed.exit, failed.stderr.as_str()),
        (Some(9), "disk full")
    );
    for code in [1000, 1001, 1006] {
        arm(&sim, "exec", json!({"kind": "exec_cut", "code": code})).await;
        let cut = sim
            .bash("a-1", &format!("test ! -e ran && echo {code} >>did"))
            .await;
        assert_eq!(
            (cut.exit, cut.close),
            (None, (code != 1006).then_some(code)),
            "no exit frame"
        );
    }
    until("the commands did their work", || async {
        sim.bash("a-1", "wc -l <did").await.stdout.trim() == "3"
    })
    .await;
    arm(
        &sim,
        "exec",
        json!({"kind": "exec_cut", "frames": 1, "kill": true}),
    )
    .await;
    let cut = sim
        .bash("a-1", "echo first; /bin/sleep 0.3; touch late")
        .await;
    assert_eq!((cut.stdout.as_str(), cut.exit), ("first\n", None));
    arm(&sim, "exec", json!({"kind": "exec_cut", "frames": 100})).await;
    let at_the_end = sim.bash("a-1", "echo all").await;
    let heard = (at_the_end.stdout.as_str(), at_the_end.exit);
    assert_eq!(heard, ("all\n", None), "cut instead of the exit frame");
    arm(&sim, "exec", json!({"kind": "exec_silent", "seconds": 30})).await;
    assert_eq!(
        sim.bash("a-1", "echo late").await.stdout,
        "late\n",
        "when the silence is over"
    );
    arm(&sim, "exec", json!({"kind": "pause"})).await;
    let paused = sim.bash("a-1", "exec /bin/sleep 100").await;
    assert_eq!((paused.exit, paused.close), (None, Some(1001)));
    assert_eq!(sim.status_of_sprite("a-1").await, "warm");
    assert_eq!(
        sim.bash("a-1", "test -e late").await.exit,
        Some(1),
        "it was killed"
    );
}

#[tokio::test]
async fn streams_are_cut_and_checkpoints_and_restores_fail() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let checkpoint = || sim.sprites("POST", "sprites/a-1/checkpoint", r#"{"comment":"golden"}"#);
    arm(
        &sim,
        "checkpoint",
        json!({"kind": "stream_cut", "lines": 1}),
    )
    .await;
    assert_eq!(checkpoint().await.types(), ["info"]);
    let listed = || async {
        sim.sprites("GET", "sprites/a-1/checkpoints", "")
            .await
            .json()
    };
    until("it was made all the same", || async {
        listed().await[0]["comment"] == "golden"
    })
    .await;
    arm(&sim, "checkpoint", json!({"kind": "checkpoint_error"})).await;
    assert_eq!(checkpoint().await.types(), ["info", "error"]);
    assert_eq!(listed().await.as_array().map(Vec::len), Some(1));
    sim.bash("a-1", "touch marker").await;
    arm(&sim, "restore", json!({"kind": "stream_cut", "lines": 0})).await;
    let restore = || sim.sprites("POST", "sprites/a-1/checkpoints/v1/restore", "");
    assert_eq!(restore().await.body, "");
    until("it was restored all the same", || async {
        sim.sprites("GET", "sprites/a-1/fs/list?path=/home/sprite/marker", "")
            .await
            .status
            == 404
    })
    .await;
    arm(&sim, "restore", json!({"kind": "restore_dead"})).await;
    let dead = restore().await;
    assert_eq!(
        dead.types().last().map(String::as_str),
        Some("error"),
        "{dead:?}"
    );
    assert_eq!(sim.sprites("GET", "sprites/a-1/exec", "").await.status, 503);
    assert_eq!(
        sim.sprites("GET", "sprites/a-1", "").await.status,
        200,
        "the object is there"
    );
    sim.put("sprites", json!({"advanceSeconds": 100_000})).await;
    assert_eq!(
        sim.sprites("GET", "sprites/a-1/exec", "").await.status,
        503,
        "for ever"
    );
    assert_eq!(sim.sprites("DELETE", "sprites/a-1", "").await.status, 204);
}

#[tokio::test]
async fn a_service_flaps_and_a_url_refuses_or_hangs() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    sim.arm(
        "sprites",
        json!({"count": 3, "fault": {"kind": "service_flap", "code": 3}}),
    )
    .await;
    let body = json!({"cmd": "/bin/sleep", "args": ["1000"]});
    let put = sim
        .sprites(
            "PUT",
            "sprites/a-1/services/s?duration=300s",
            body.to_string(),
        )
        .await;
    assert!(
        put.lines()
            .iter()
            .any(|l| l["type"] == "exit" && l["exit_code"] == 3),
        "{put:?}"
    );
    until("it stays up at the fourth start", || async {
        let all = sim.sprites("GET", "sprites/a-1/services", "").await.json();
        all[0]["state"]["restart_count"] == 3 && all[0]["state"]["status"] == "running"
    })
    .await;
    let host = sim.host_of("a-1").await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let get = || {
        client
            .get(format!("http://{}/convos/status", sim.peers))
            .header("host", &host)
            .send()
    };
    arm(&sim, "url", json!({"kind": "url_refuses"})).await;
    assert_eq!(get().await.expect("an answer").status(), 302);
    arm(&sim, "url", json!({"kind": "url_hangs"})).await;
    assert_eq!(get().await.expect("an answer").status(), 502);
}

#[tokio::test]
async fn what_somebody_else_does_can_be_forced() {
    let sim = Simulator::start(100).await;
    let made = sim.sprite("a-1").await;
    sim.sprites("POST", "sprites/a-1/checkpoint", "{}").await;
    let before = sim
        .sprites("GET", "sprites/a-1/checkpoints/v1", "")
        .await
        .json();
    let force = |wish: Value| {
        let mut wish = wish;
        wish["sprite"] = json!("a-1");
        json!({"force": [wish]})
    };
    sim.put("sprites", force(json!({"replaceCheckpoint": "v1"})))
        .await;
    let after = sim
        .sprites("GET", "sprites/a-1/checkpoints/v1", "")
        .await
        .json();
    assert_ne!(after["create_time"], before["create_time"]);
    assert_eq!(
        sim.bash("a-1", "sprite-env curl -X DELETE /v1/checkpoints/v1")
            .await
            .exit,
        Some(0)
    );
    assert_eq!(
        sim.sprites("GET", "sprites/a-1/checkpoints/v1", "")
            .await
            .status,
        404
    );
    sim.put("sprites", force(json!({"labels": ["theirs"], "urlAuth": "sprite", "writeFile": {"path": "/home/sprite/.convos/x", "content": "y"}}))).await;
    let now = sim.sprites("GET", "sprites/a-1", "").await.json();
    assert_eq!(
        (&now["labels"], &now["url_settings"]["auth"]),
        (&json!(["theirs"]), &json!("sprite"))
    );
    assert_eq!(sim.bash("a-1", "cat .convos/x").await.stdout, "y");
    sim.put("sprites", force(json!({"newId": true}))).await;
    assert_ne!(
        sim.sprites("GET", "sprites/a-1", "").await.json()["id"],
        made["id"]
    );
    let (status, refusal) = sim
        .control("PUT", "sprites/state", force(json!({"nope": 1})))
        .await;
    assert_eq!(status, 400, "{refusal}");
    let (status, refusal) = sim
        .control("POST", "sprites/faults", json!({"fault": {"kind": "nope"}}))
        .await;
    assert_eq!((status, refusal["operations"].is_array()), (400, true));
}
