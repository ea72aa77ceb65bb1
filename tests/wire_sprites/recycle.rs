//! The steps that only a recycle has.

use super::*;

#[tokio::test]
async fn only_our_own_checkpoint_is_restored() {
    let server = |found: Option<Value>| {
        let script = Script::default()
            .json(&of("GET", ""), 200, ours())
            .text(&of("PUT", "/fs/write"), 200, "{}")
            .exec("", 0);
        match found {
            Some(found) => script.json(&of("GET", "/checkpoints/v1"), 200, found),
            None => script.json(
                &of("GET", "/checkpoints/v1"),
                404,
                json!("no such checkpoint"),
            ),
        }
    };
    let same = server(Some(checkpoint("v1"))).start().await;
    let done = perform(&same.provider(), &recorded(), MARKER)
        .await
        .unwrap();
    assert_eq!(done, Outcome::Done(Facts::new()));
    let marker = same
        .sent()
        .into_iter()
        .find(|s| s.line.ends_with("/fs/write"))
        .unwrap();
    assert_eq!(marker.query("path"), ["/home/sprite/.agentpool/recycling"]);
    let mut later = checkpoint("v1");
    later["create_time"] = json!("2026-09-01T10:00:01Z");
    let mut renamed = checkpoint("v1");
    renamed["comment"] = json!("mine");
    for (found, want) in [
        (None, "NoCheckpoint"),
        (Some(later), "CheckpointChanged"),
        (Some(renamed), "CheckpointChanged"),
    ] {
        let server = server(found).start().await;
        let outcome = perform(&server.provider(), &recorded(), MARKER)
            .await
            .unwrap();
        assert_eq!(failed(outcome), (want, false));
        assert!(!server.lines().contains(&of("PUT", "/fs/write")));
    }
}

#[tokio::test]
async fn a_restore_has_happened_when_its_marker_is_gone_and_not_before() {
    let restored = ndjson(&[
        json!({"type": "info", "data": "Restoring filesystem..."}),
        json!({"type": "complete", "data": "Restored to v1"}),
    ]);
    let post = of("POST", "/checkpoints/v1/restore");
    let cut = restored.lines().next().unwrap().to_owned();
    for answer in [
        Answer::Http(200, vec![], restored),
        Answer::Http(200, vec![], cut.clone()),
        Answer::Http(200, vec![], String::new()),
        Answer::Cut(cut),
        Answer::Slow(Duration::from_secs(4)),
        Answer::Http(502, vec![], "<html/>".to_owned()),
    ] {
        let server = Script::default()
            .exec("", 0) // the marker is there
            .exec("", 0) // and still is
            .on(
                &exec_line(),
                Answer::Http(503, vec![], "restoring".to_owned()),
            )
            .on(&exec_line(), Answer::Exec(vec![], End::Close(1001)))
            .exec("", 1) // gone
            .on(&post, answer)
            .start()
            .await;
        let provider = server.provider();
        let begun = perform(&provider, &recorded(), RESTORE).await.unwrap();
        assert!(matches!(begun, Outcome::Running { .. }), "{begun:?}");
        for _ in 0..3 {
            assert_eq!(
                provider.look(&key(), &recorded(), RESTORE).await.unwrap(),
                Seen::Running
            );
        }
        assert_eq!(
            provider.look(&key(), &recorded(), RESTORE).await.unwrap(),
            Seen::Done(Facts::new())
        );
        // Sent again by a successor, it sees that there is nothing to do.
        let again = perform(&provider, &recorded(), RESTORE).await.unwrap();
        assert_eq!(again, Outcome::Done(Facts::new()));
        assert_eq!(server.lines().iter().filter(|l| **l == post).count(), 1);
    }
    let why = "Failed to restore checkpoint: failed to start overlay service tree";
    let server = Script::default()
        .exec("", 0)
        .text(
            &post,
            200,
            &ndjson(&[json!({"type": "error", "error": why})]),
        )
        .start()
        .await;
    assert_eq!(
        failed(
            perform(&server.provider(), &recorded(), RESTORE)
                .await
                .unwrap()
        ),
        ("RestoreFailed", false)
    );
}

#[tokio::test]
async fn a_recycle_starts_the_gateway_anew_on_old_runtimes_too() {
    let already = json!({"message": "Service already running with that command, use POST /v1/services/gateway/restart"});
    let stopped = ndjson(&[
        json!({"type": "stopping"}),
        json!({"type": "stopped", "exit_code": 143}),
        json!({"type": "complete"}),
    ]);
    let started = ndjson(&[json!({"type": "started"}), json!({"type": "complete"})]);
    let up = running_service(json!({"cmd": "x"}));
    let script = Script::default()
        .json(&of("GET", "/services/gateway"), 200, up.clone())
        .text(&of("DELETE", "/services/gateway"), 204, "")
        .json(&of("PUT", "/services/gateway"), 200, already)
        .json(&of("GET", "/services/hold"), 200, up)
        .text(&of("DELETE", "/services/hold"), 204, "")
        .text(&of("PUT", "/services/hold"), 200, &started);
    let server = script
        .text(
            &of("POST", "/services/gateway/restart"),
            404,
            "404 page not found",
        )
        .text(&of("POST", "/services/gateway/stop"), 200, &stopped)
        .text(&of("POST", "/services/gateway/start"), 200, &started)
        .start()
        .await;
    let done = perform(&server.provider(), &recorded(), RESTART)
        .await
        .unwrap();
    assert_eq!(done, Outcome::Done(Facts::new()));
    let lines = server.lines();
    let at = |line: String| lines.iter().position(|l| *l == line).unwrap();
    assert!(at(of("PUT", "/services/gateway")) < at(of("POST", "/services/gateway/stop")));
    assert!(at(of("POST", "/services/gateway/stop")) < at(of("POST", "/services/gateway/start")));
}
