//! What is put and asked inside.

use super::*;

#[tokio::test]
async fn a_set_up_is_told_by_its_files_and_never_begun_twice() {
    let seen = async |answer: Answer| {
        let server = Script::default().on(&exec_line(), answer).start().await;
        let seen = server.provider().look(&key(), &recorded(), SETUP).await;
        let outcome = perform(&server.provider(), &recorded(), SETUP).await;
        (seen, outcome, server.lines().len())
    };
    let says = |text| Answer::Exec(vec![Frame::Out(text)], End::Exit(0));
    let (look, outcome, requests) = seen(says("running\n")).await;
    assert_eq!(look.unwrap(), Seen::Running);
    assert!(matches!(outcome, Ok(Outcome::Running { .. })));
    assert_eq!(requests, 2, "neither files nor a second runner");
    let (look, outcome, _) = seen(says("done\n")).await;
    assert_eq!(look.unwrap(), Seen::Done(Facts::new()));
    assert_eq!(outcome.unwrap(), Outcome::Done(Facts::new()));
    let (look, _, _) = seen(says("failed 3 128\nfatal: Remote branch nope not found\n")).await;
    let Ok(Seen::Failed {
        reason,
        message,
        retry,
    }) = look
    else {
        panic!()
    };
    assert_eq!((reason, retry), ("SetupFailed", false));
    assert!(message.contains("slice 3 ended with 128") && message.contains("Remote branch nope"));
    let (look, _, _) = seen(says("none\n")).await;
    assert!(matches!(
        look,
        Ok(Seen::Failed {
            reason: "SetupInterrupted",
            retry: true,
            ..
        })
    ));
    let (look, _, _) = seen(Answer::Exec(vec![Frame::Out("done\n")], End::Close(1000))).await;
    assert_eq!(look.unwrap(), Seen::Unknown, "no exit frame, no word");
}

#[tokio::test]
async fn instructions_are_written_as_they_are_and_taken_back() {
    let text = "Don't say \"$HOME\" or `id`.\nEOF\n'EOF'\nZażółć gęślą jaźń 🦞\n";
    let server = Script::default()
        .text(&of("PUT", "/fs/write"), 502, "<html/>")
        .text(&of("PUT", "/fs/write"), 200, "{}")
        .text(
            &of("DELETE", "/fs/delete"),
            404,
            r#"{"error":"no such file","code":"ENOENT","path":"/x"}"#,
        )
        .start()
        .await;
    let provider = server.provider();
    provider
        .prepare_claim(&key(), &recorded(), text)
        .await
        .unwrap();
    provider.undo_prepare(&key(), &recorded()).await.unwrap();
    let sent = server.sent();
    assert_eq!(sent.len(), 3, "a cold sprite may stall: written again");
    assert_eq!(sent[1].body, text.as_bytes());
    for request in [&sent[1], &sent[2]] {
        assert_eq!(
            request.query("path"),
            ["/home/sprite/.openclaw/workspace/INSTRUCTIONS.md"]
        );
    }
    assert_eq!(
        class(provider.prepare_claim(&key(), &Facts::new(), text).await).0,
        Class::Rejected
    );
}

#[tokio::test]
async fn a_value_that_the_env_file_cannot_hold_is_refused_unprinted() {
    let server = Script::default()
        .text(&of("PUT", "/fs/write"), 200, "{}")
        .start()
        .await;
    let mut inputs = inputs();
    inputs
        .variables
        .insert("ANTHROPIC_API_KEY".to_owned(), "it's secret".to_owned());
    let outcome = server
        .provider()
        .perform(&key(), &recorded(), FILES, &template(), &inputs)
        .await
        .unwrap();
    let Outcome::Failed {
        reason,
        message,
        retry,
    } = outcome
    else {
        panic!()
    };
    assert_eq!((reason, retry), ("InvalidSpec", false));
    assert!(!message.contains("secret") && server.lines().is_empty());
}

#[tokio::test]
async fn a_report_has_every_probe_and_no_value() {
    let log = ndjson(&[
        json!({"type": "stdout", "data": format!("key {KEY} token {GATEWAY_TOKEN} up")}),
        json!({"type": "complete"}),
    ]);
    let config = json!({"gateway": {"auth": {"token": GATEWAY_TOKEN}}});
    let read = of("GET", "/fs/read");
    let up = running_service(json!({"cmd": "/bin/bash", "args": []}));
    let server = Script::default()
        .exec("true\nANTHROPIC_API_KEY\n", 0)
        .json(&of("GET", ""), 200, ours())
        .json(&of("GET", "/services"), 200, json!([up]))
        .text(&of("GET", "/services/gateway/logs"), 200, &log)
        .text(&read, 200, &config.to_string())
        .text(&read, 200, &format!("ANTHROPIC_API_KEY={KEY}\n"))
        .start()
        .await;
    let report = server.provider().diagnose(&key(), &recorded()).await;
    for field in [
        "processes",
        "localCheck",
        "listening",
        "apiStatus",
        "apiBody",
        "log",
    ] {
        assert!(report.contains_key(field), "{field}");
    }
    assert_eq!(report["apiStatus"], 200);
    assert_eq!(report["envExists"], true);
    assert_eq!(report["envNames"], json!(["ANTHROPIC_API_KEY"]));
    assert_eq!(report["services"]["gateway"]["status"], "running");
    let text = serde_json::to_string(&report).unwrap();
    for secret in [TOKEN, GATEWAY_TOKEN, KEY] {
        assert!(!text.contains(secret), "{text}");
    }
    let nothing = provider_at("http://127.0.0.1:1")
        .diagnose(&key(), &recorded())
        .await;
    assert!(
        nothing["processes"]
            .as_str()
            .unwrap()
            .starts_with("error: ")
    );
    assert!(nothing["apiInfo"].as_str().unwrap().starts_with("error: "));
}
