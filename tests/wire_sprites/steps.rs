//! The steps of a creation and of a recycle.

use super::*;

const GOLDEN: [(&str, &str); 2] = [
    ("checkpointId", "v1"),
    ("checkpointTime", "2026-09-01T10:00:00Z"),
];

#[tokio::test]
async fn a_whole_creation_and_its_secrets_stay_out_of_addresses() {
    let started = ndjson(&[
        json!({"type": "started", "timestamp": 1}),
        json!({"type": "complete", "timestamp": 2}),
    ]);
    let up = running_service(json!({"cmd": "/bin/bash", "args": []}));
    let missing = json!("service not found");
    let server = Script::default()
        .json("POST /v1/sprites", 201, ours())
        .json(&of("GET", ""), 200, ours())
        .exec("/home/sprite", 0) // access: the home directory
        .exec("none\n", 0) // setup: never begun
        .exec("slice 1 of 6, try 1\n", 0) // setup: the runner
        .exec("done\n", 0) // setup: a look
        .exec("", 0) // checkpoint: clean
        .text(&of("PUT", "/fs/write"), 200, "{}")
        .json(&of("GET", "/services/gateway"), 404, missing.clone())
        .json(&of("GET", "/services/gateway"), 200, up.clone())
        .text(&of("PUT", "/services/gateway"), 200, &started)
        .json(&of("GET", "/services/hold"), 404, missing)
        .json(&of("GET", "/services/hold"), 200, up)
        .text(&of("PUT", "/services/hold"), 200, &started)
        .json(&of("GET", "/checkpoints"), 200, json!([]))
        .text(&of("POST", "/checkpoint"), 200, &taken())
        .json(&of("GET", "/checkpoints/v1"), 200, checkpoint("v1"))
        .start()
        .await;
    let provider = server.provider();
    let mut facts = Facts::new();
    for spec in provider.plan(Operation::Create, &template()) {
        let Step::Provider(step) = spec.step else {
            continue;
        };
        match perform(&provider, &facts, step).await.unwrap() {
            Outcome::Done(made) => facts.extend(made),
            Outcome::Running { .. } => {
                assert_eq!(step, SETUP);
                let seen = provider.look(&key(), &facts, step).await.unwrap();
                assert_eq!(seen, Seen::Done(Facts::new()));
            }
            failed => panic!("{step}: {failed:?}"),
        }
    }
    let mut want = recorded();
    want.remove("id");
    want.insert("spriteId".to_owned(), "sprite-1".to_owned());
    assert_eq!(facts, want);

    let sent = server.sent();
    for request in &sent {
        let line = request.uri.to_string();
        for secret in [TOKEN, GATEWAY_TOKEN, KEY] {
            assert!(!line.contains(secret), "{line}");
        }
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
    }
    let create = sent[0].json();
    assert_eq!(
        create,
        json!({"name": NAME, "url_settings": {"auth": "public"}, "labels": our_labels()})
    );
    let files: std::collections::BTreeMap<_, _> = sent
        .iter()
        .filter(|s| s.line.ends_with("/fs/write"))
        .map(|s| {
            assert_eq!(
                (s.query("mode"), s.query("mkdirParents")),
                (vec!["0600".to_owned()], vec!["true".to_owned()])
            );
            (
                s.query("path").remove(0),
                String::from_utf8(s.body.to_vec()).unwrap(),
            )
        })
        .collect();
    assert_eq!(
        files["/home/sprite/.openclaw/.env"],
        format!("ANTHROPIC_API_KEY={KEY}\n")
    );
    let config: Value =
        serde_json::from_str(&files["/home/sprite/.openclaw/openclaw.json"]).unwrap();
    assert_eq!(config["gateway"]["auth"]["token"], GATEWAY_TOKEN);
    assert_eq!(
        config["channels"]["convos"],
        json!({"enabled": true, "env": "dev", "poolApiKey": GATEWAY_TOKEN})
    );
    assert!(
        files["/home/sprite/.agentpool/setup/run.sh"].contains("export OPENCLAW_GIT_REF='staging'")
    );
    assert!(files["/home/sprite/.agentpool/setup/3.sh"].contains("git clone"));
    assert_eq!(files.len(), 9);
    let gateway = sent
        .iter()
        .find(|s| s.line == of("PUT", "/services/gateway"))
        .unwrap()
        .json();
    assert_eq!(
        (gateway["cmd"].as_str(), gateway["http_port"].as_i64()),
        (Some("/bin/bash"), Some(8080))
    );
    assert!(
        gateway["args"][1]
            .as_str()
            .unwrap()
            .starts_with("set -a; . \"$HOME/.openclaw/.env\"; exec ")
    );
    let comment = sent
        .iter()
        .find(|s| s.line == of("POST", "/checkpoint"))
        .unwrap()
        .json();
    assert_eq!(comment, json!({"comment": "golden/7f3a9c21k4mz/1"}));
    let runner = sent
        .iter()
        .find(|s| s.query("max_run_after_disconnect") == ["24h0m0s"]);
    assert!(runner.is_some(), "the runner outlives its connection");
}

#[tokio::test]
async fn a_creation_is_sent_once_and_its_answer_has_a_class() {
    for (status, body, want) in [
        (
            401,
            r#"{"error":"authentication failed"}"#,
            Class::Unauthorized,
        ),
        (
            429,
            r#"{"error":"sprite_creation_rate_limited","retry_after_seconds":7}"#,
            Class::Throttled,
        ),
        (
            429,
            r#"{"error":"concurrent_sprite_limit_exceeded"}"#,
            Class::Capacity,
        ),
        (500, "", Class::Ambiguous),
        (502, "<html/>", Class::Ambiguous),
        (201, "{\"id\":\"sprite-1\",\"na", Class::Ambiguous),
        (201, "{}", Class::Ambiguous),
        (302, "", Class::Ambiguous),
    ] {
        let server = Script::default()
            .text("POST /v1/sprites", status, body)
            .start()
            .await;
        let got = perform(&server.provider(), &Facts::new(), SPRITE).await;
        assert_eq!(class(got).0, want, "{status} {body}");
        assert_eq!(server.lines(), ["POST /v1/sprites"]);
    }
    for answer in [
        Answer::Slow(Duration::from_secs(3)),
        Answer::Cut("{\"id\":".to_owned()),
    ] {
        let server = Script::default()
            .on("POST /v1/sprites", answer)
            .start()
            .await;
        let got = perform(&server.provider(), &Facts::new(), SPRITE).await;
        assert_eq!(class(got), (Class::Ambiguous, Reason::OutcomeUnknown));
        assert_eq!(server.lines().len(), 1);
    }
    let nobody = perform(&provider_at("http://127.0.0.1:1"), &Facts::new(), SPRITE).await;
    assert_eq!(class(nobody).0, Class::Transient, "nothing was sent");
}

#[tokio::test]
async fn a_name_that_is_taken_is_adopted_only_with_our_mark() {
    let taken = json!({"error": "sprite name already exists"});
    for status in [400, 409, 422] {
        let server = Script::default()
            .json("POST /v1/sprites", status, taken.clone())
            .json(&of("GET", ""), 200, ours())
            .start()
            .await;
        let done = perform(&server.provider(), &Facts::new(), SPRITE)
            .await
            .unwrap();
        let facts = known(&[("spriteId", "sprite-1"), ("url", "https://x.sprites.app")]);
        assert_eq!(done, Outcome::Done(facts.clone()));
        assert_eq!(
            server
                .provider()
                .look(&key(), &Facts::new(), SPRITE)
                .await
                .unwrap(),
            Seen::Done(facts)
        );

        let foreign = json!(["agentpool-cluster-other", "agentpool-owner-7f3a9c21k4mz"]);
        let server = Script::default()
            .json("POST /v1/sprites", status, taken.clone())
            .json(&of("GET", ""), 200, sprite(foreign))
            .start()
            .await;
        let outcome = perform(&server.provider(), &Facts::new(), SPRITE)
            .await
            .unwrap();
        assert_eq!(failed(outcome), ("ForeignResource", false));

        let server = Script::default()
            .json(
                "POST /v1/sprites",
                status,
                json!({"errors": ["invalid sprite name"]}),
            )
            .json(&of("GET", ""), 404, json!({"error": "sprite not found"}))
            .start()
            .await;
        assert_eq!(
            class(perform(&server.provider(), &Facts::new(), SPRITE).await).0,
            Class::Rejected
        );
        assert_eq!(
            server
                .provider()
                .look(&key(), &Facts::new(), SPRITE)
                .await
                .unwrap(),
            Seen::Absent
        );
    }
}

#[tokio::test]
async fn a_closed_address_and_lost_labels_are_set_again() {
    let mut drifted = sprite(json!(["team-a"]));
    drifted["url_settings"]["auth"] = json!("sprite");
    let server = Script::default()
        .json(&of("GET", ""), 200, drifted)
        .json(&of("PUT", ""), 200, ours())
        .exec("/home/sprite", 0)
        .start()
        .await;
    let done = perform(&server.provider(), &recorded(), "access")
        .await
        .unwrap();
    assert!(matches!(done, Outcome::Done(facts) if facts["home"] == "/home/sprite"));
    let mut labels = our_labels();
    labels.as_array_mut().unwrap().insert(0, json!("team-a"));
    assert_eq!(
        server.sent()[1].json(),
        json!({"url_settings": {"auth": "public"}, "labels": labels})
    );
}

#[tokio::test]
async fn a_checkpoint_is_recorded_as_it_reads_and_not_as_it_was_announced() {
    let with = |stream: String, list: Value| {
        Script::default()
            .exec("", 0)
            .json(&of("GET", "/checkpoints"), 200, json!([checkpoint("v1")]))
            .json(&of("GET", "/checkpoints"), 200, list)
            .text(&of("POST", "/checkpoint"), 200, &stream)
    };
    // The id is in the stream; what is recorded comes from reading that checkpoint.
    let mut second = checkpoint("v1");
    second["create_time"] = json!("2026-09-02T10:00:00Z");
    let server = with(taken(), json!([]))
        .json(&of("GET", "/checkpoints/v1"), 200, second)
        .start()
        .await;
    let done = perform(&server.provider(), &recorded(), CHECKPOINT)
        .await
        .unwrap();
    assert_eq!(
        done,
        Outcome::Done(known(&[
            ("checkpointId", "v1"),
            ("checkpointTime", "2026-09-02T10:00:00Z")
        ]))
    );
    // No id in it: found by its comment, which is a new one.
    let mut third = checkpoint("v3");
    third["comment"] = json!("golden/7f3a9c21k4mz/2");
    let mute = ndjson(&[json!({"type": "complete", "data": "done"})]);
    let server = with(
        mute,
        json!([checkpoint("v1"), third, {"id": "Current", "create_time": "x"}]),
    )
    .start()
    .await;
    let done = perform(&server.provider(), &recorded(), CHECKPOINT)
        .await
        .unwrap();
    assert!(matches!(done, Outcome::Done(facts) if facts["checkpointId"] == "v3"));
    // Announced, and not there.
    let gone = json!("checkpoint not found");
    let server = with(taken(), json!([]))
        .json(&of("GET", "/checkpoints/v1"), 404, gone)
        .start()
        .await;
    assert_eq!(
        class(perform(&server.provider(), &recorded(), CHECKPOINT).await).0,
        Class::Ambiguous
    );
}

#[tokio::test]
async fn a_checkpoint_s_stream_without_complete_is_unknown_and_a_look_tells() {
    let whole = taken();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for cut in 0..lines.len() {
        let body: String = lines[..cut].concat();
        for answer in [Answer::Http(200, vec![], body.clone()), Answer::Cut(body)] {
            let server = Script::default()
                .exec("", 0)
                .json(&of("GET", "/checkpoints"), 200, json!([]))
                .json(
                    &of("GET", "/checkpoints"),
                    200,
                    json!([{"id": "Current", "create_time": "x"}, checkpoint("v1")]),
                )
                .on(&of("POST", "/checkpoint"), answer)
                .json(&of("GET", "/checkpoints/v1"), 200, checkpoint("v1"))
                .start()
                .await;
            let provider = server.provider();
            let got = perform(&provider, &recorded(), CHECKPOINT).await;
            assert_eq!(
                class(got),
                (Class::Ambiguous, Reason::OutcomeUnknown),
                "cut after {cut}"
            );
            let seen = provider
                .look(&key(), &recorded(), CHECKPOINT)
                .await
                .unwrap();
            assert_eq!(seen, Seen::Done(known(&GOLDEN)));
        }
    }
    let error = ndjson(&[
        json!({"type": "info", "data": "x"}),
        json!({"type": "error", "error": "disk full"}),
    ]);
    let server = Script::default()
        .exec("", 0)
        .json(&of("GET", "/checkpoints"), 200, json!([]))
        .text(&of("POST", "/checkpoint"), 200, &error)
        .start()
        .await;
    let outcome = perform(&server.provider(), &recorded(), CHECKPOINT)
        .await
        .unwrap();
    assert_eq!(failed(outcome), ("CheckpointFailed", true));
    assert_eq!(
        server
            .provider()
            .look(&key(), &recorded(), CHECKPOINT)
            .await
            .unwrap(),
        Seen::Absent
    );
}

#[tokio::test]
async fn no_checkpoint_is_taken_of_what_an_agent_left() {
    let server = Script::default()
        .exec("~/.convos\n", 1)
        .json(&of("GET", "/checkpoints"), 200, json!([]))
        .text(&of("POST", "/checkpoint"), 200, &taken())
        .start()
        .await;
    let outcome = perform(&server.provider(), &recorded(), CHECKPOINT)
        .await
        .unwrap();
    assert_eq!(failed(outcome), ("NotClean", false));
    assert!(!server.lines().contains(&of("POST", "/checkpoint")));
    // And none before it is known.
    let server = Script::default()
        .on(&exec_line(), Answer::Exec(vec![], End::Close(1000)))
        .json(&of("GET", "/checkpoints"), 200, json!([]))
        .start()
        .await;
    assert_eq!(
        class(perform(&server.provider(), &recorded(), CHECKPOINT).await).0,
        Class::Transient
    );
}

#[tokio::test]
async fn a_service_that_ends_at_once_is_no_service() {
    let definition = json!({"cmd": "/bin/bash", "args": ["-c", "old"]});
    let died = ndjson(&[
        json!({"type": "started"}),
        json!({"type": "exit", "exit_code": 1}),
        json!({"type": "complete"}),
    ]);
    let script = |stream: &str, state: &str| {
        let mut service = running_service(definition.clone());
        service["state"]["status"] = json!(state);
        Script::default()
            .json(&of("GET", "/services/gateway"), 200, service)
            .text(&of("DELETE", "/services/gateway"), 204, "")
            .text(&of("PUT", "/services/gateway"), 200, stream)
    };
    let server = script(&died, "running").start().await;
    let outcome = perform(&server.provider(), &recorded(), GATEWAY)
        .await
        .unwrap();
    assert_eq!(failed(outcome), ("ServiceFailed", true));
    let lines = server.lines();
    assert_eq!(
        lines[1],
        of("DELETE", "/services/gateway"),
        "another definition goes first"
    );
    // Complete, and failed a moment later; or no stream at all but a line that says it ran.
    let fine = ndjson(&[json!({"type": "started"}), json!({"type": "complete"})]);
    let server = script(&fine, "failed").start().await;
    assert_eq!(
        failed(
            perform(&server.provider(), &recorded(), GATEWAY)
                .await
                .unwrap()
        ),
        ("ServiceFailed", true)
    );
}

#[test]
fn the_plans_are_those_of_the_contract() {
    let provider = provider_at("http://127.0.0.1:1");
    let plan = |operation| {
        let plan = provider.plan(operation, &template());
        plan.iter().map(|s| s.step.name()).collect::<Vec<_>>()
    };
    let create = [
        "sprite",
        "access",
        "setup",
        "files",
        "gateway",
        "ready",
        "clean",
        "checkpoint",
    ];
    assert_eq!(plan(Operation::Create), create);
    assert_eq!(
        plan(Operation::Recycle),
        [
            "mark", "restore", "files", "restart", "access", "ready", "clean"
        ]
    );
    assert!(plan(Operation::Destroy).is_empty());
    let once: Vec<String> = provider
        .plan(Operation::Create, &template())
        .iter()
        .filter(|s| s.repeat == Repeat::LookFirst)
        .map(|s| s.step.name())
        .collect();
    assert_eq!(
        once,
        ["sprite", "checkpoint"],
        "what makes something new each time"
    );
    for (operation, limit) in [(Operation::Create, 120), (Operation::Recycle, 60)] {
        let plan = provider.plan(operation, &template());
        let ready = plan.iter().find(|s| s.step == Step::Ready).unwrap();
        assert_eq!(ready.deadline, Duration::from_secs(limit));
    }
}
