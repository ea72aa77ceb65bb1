//! Commands: frames, and every way in which their connection ends.

use super::*;

/// What a question inside makes of a command that ends so.
async fn asked(frames: Vec<Frame>, end: End) -> Result<Option<String>, (Class, Reason)> {
    let server = Script::default()
        .on(&exec_line(), Answer::Exec(frames, end))
        .start()
        .await;
    let found = server.provider().verify_clean(&key(), &recorded()).await;
    match found {
        Ok(found) => Ok(found),
        error => Err(class(error)),
    }
}

const UNKNOWN: Result<Option<String>, (Class, Reason)> =
    Err((Class::Transient, Reason::ProviderUnavailable));

#[tokio::test]
async fn an_exit_frame_is_the_end() {
    assert_eq!(asked(vec![], End::Exit(0)).await, Ok(None));
    let dirty = asked(
        vec![Frame::Out("~/.con"), Frame::Out("vos\n")],
        End::Exit(1),
    )
    .await;
    assert!(dirty.unwrap().unwrap().contains("~/.convos"));
    // Killed, or a shell that could not begin: no answer to the question.
    for code in [2, 126, 127, 137, 255] {
        assert_eq!(
            asked(vec![Frame::Err("no")], End::Exit(code)).await,
            UNKNOWN,
            "{code}"
        );
    }
    // Older and newer servers say it in text, and say more.
    let told = Frame::Text(r#"{"type":"exit","exit_code":0}"#);
    let notice = Frame::Text(r#"{"type":"port_opened","port":8080,"address":"10.0.0.1","pid":42}"#);
    assert_eq!(
        asked(vec![notice, Frame::Raw(vec![9, 9]), told], End::Hang).await,
        Ok(None)
    );
}

#[tokio::test]
async fn a_close_without_the_exit_frame_is_unknown() {
    for frames in [
        vec![],
        vec![Frame::Out("ok\n")],
        vec![Frame::Raw(vec![3])],
        vec![Frame::Raw(vec![3, 0, 0, 0])],
    ] {
        for end in [
            End::Close(1000),
            End::Close(1001),
            End::Close(1011),
            End::Drop,
        ] {
            assert_eq!(asked(frames.clone(), end).await, UNKNOWN);
        }
    }
}

#[tokio::test]
async fn a_silent_connection_is_broken_and_a_long_one_is_not() {
    let started = std::time::Instant::now();
    assert_eq!(asked(vec![], End::Hang).await, UNKNOWN);
    assert!(started.elapsed() < Duration::from_secs(5));
    let large = Frame::Raw([vec![1], vec![b'x'; 2 << 20]].concat());
    assert_eq!(asked(vec![large], End::Exit(0)).await, UNKNOWN);
}

#[tokio::test]
async fn a_refused_handshake_has_its_class() {
    for (status, body, want) in [
        (
            401,
            r#"{"error":"authentication failed"}"#,
            Class::Unauthorized,
        ),
        (404, r#"{"error":"sprite not found"}"#, Class::Gone),
        (404, "404 page not found", Class::Transient),
        (
            429,
            r#"{"error":"concurrent_sprite_limit_exceeded"}"#,
            Class::Capacity,
        ),
        (
            429,
            r#"{"error":"slow down","retry_after_seconds":7}"#,
            Class::Throttled,
        ),
        (502, "<html/>", Class::Transient),
        (503, "restoring", Class::Transient),
        (200, "{}", Class::Transient),
    ] {
        let server = Script::default()
            .text(&exec_line(), status, body)
            .start()
            .await;
        let found = server.provider().verify_clean(&key(), &recorded()).await;
        assert_eq!(class(found).0, want, "{status} {body}");
    }
    let nobody = provider_at("http://127.0.0.1:1")
        .verify_clean(&key(), &recorded())
        .await;
    assert_eq!(class(nobody).0, Class::Transient);
}

#[tokio::test]
async fn a_command_s_argv_and_settings_ride_in_the_query_and_the_token_in_a_header() {
    let server = Script::default().exec("", 0).start().await;
    server
        .provider()
        .hold(&key(), &recorded(), Duration::from_secs(90))
        .await
        .unwrap();
    server
        .provider()
        .hold(&key(), &recorded(), Duration::from_secs(90_000))
        .await
        .unwrap();
    let sent = server.sent();
    let argv = sent[0].query("cmd");
    assert_eq!(argv[..2], ["bash", "-c"]);
    assert!(
        argv[2].contains("/v1/tasks/agentpool") && argv[2].contains(r#"{"expire":"90s"}"#),
        "{argv:?}"
    );
    assert!(
        sent[1].query("cmd")[2].contains(r#"{"expire":"3600s"}"#),
        "an hour at most"
    );
    assert_eq!(sent[0].query("path"), ["bash"]);
    assert_eq!(sent[0].query("stdin"), ["false"]);
    assert!(sent[0].query("max_run_after_disconnect").is_empty());
    assert_eq!(sent[0].headers["authorization"], format!("Bearer {TOKEN}"));
}
