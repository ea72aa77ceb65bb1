//! Sprites as objects: names, organisations, paging, settings, files.

use super::*;

#[tokio::test]
async fn a_token_is_needed_and_opens_its_own_organization_only() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let none = sim.sprites_as("nobody", "GET", "sprites", "").await;
    assert_eq!(
        (none.status, none.json()),
        (401, json!({"error": "authentication failed"}))
    );
    let other = sim.sprites_as(OTHER_TOKEN, "GET", "sprites/a-1", "").await;
    assert_eq!(
        (other.status, other.json()),
        (404, json!({"error": "sprite not found"}))
    );
    let listed = sim
        .sprites_as(OTHER_TOKEN, "GET", "sprites", "")
        .await
        .json();
    assert_eq!(listed["sprites"], json!([]));
    let handshake = sim
        .socket("sprites/nope/exec?cmd=true")
        .await
        .expect_err("no such sprite");
    let Error::Http(answer) = *handshake else {
        panic!("{handshake}")
    };
    assert_eq!(answer.status(), 404);
    let odd = sim.sprites("GET", "sprites/a-1/nope", "").await;
    assert_eq!((odd.status, odd.body.as_str()), (404, "404 page not found"));
    assert_eq!(odd.headers["sprite-version"], "0.0.1-rc48");
    assert_eq!(sim.sprites("GET", "nope", "").await.status, 404);
    // Secrets are masked where tests read.
    let calls = sim.control("GET", "sprites/calls", Value::Null).await.1;
    assert!(!calls.to_string().contains(SPRITES_TOKEN), "{calls}");
}

#[tokio::test]
async fn create_wants_a_good_free_name_and_honours_settings_and_labels() {
    let sim = Simulator::start(100).await;
    let made = sim.sprite("a-1").await;
    assert_eq!(made["status"], "cold");
    assert_eq!(made["organization"], "quickstart");
    assert_eq!(
        (&made["url_settings"]["auth"], &made["labels"]),
        (&json!("public"), &json!(["agentpool-owner-x"]))
    );
    let again = sim.sprites("POST", "sprites", r#"{"name":"a-1"}"#).await;
    assert_eq!(
        (again.status, again.json()),
        (400, json!({"error": "sprite name already exists"}))
    );
    sim.put("sprites", json!({"knobs": {"duplicate_status": 409}}))
        .await;
    assert_eq!(
        sim.sprites("POST", "sprites", r#"{"name":"a-1"}"#)
            .await
            .status,
        409
    );
    for bad in [
        r#"{"name":"A_1"}"#,
        "{}",
        r#"{"name":"b-1","url_settings":{"auth":"x"}}"#,
    ] {
        assert_eq!(
            sim.sprites("POST", "sprites", bad).await.status,
            400,
            "{bad}"
        );
    }
    let updated = sim
        .sprites(
            "PUT",
            "sprites/a-1",
            r#"{"url_settings":{"auth":"sprite"}}"#,
        )
        .await
        .json();
    assert_eq!(
        (&updated["url_settings"]["auth"], &updated["labels"]),
        (&json!("sprite"), &made["labels"])
    );
    assert_eq!(
        sim.sprites("PUT", "sprites/a-1", r#"{"url_settings":{"auth":"x"}}"#)
            .await
            .status,
        400
    );
    assert_eq!(sim.sprites("DELETE", "sprites/a-1", "").await.status, 204);
    assert_eq!(sim.sprites("DELETE", "sprites/a-1", "").await.status, 404);
    let new = sim.sprite("a-1").await;
    assert_ne!(new["id"], made["id"], "another generation");
    let ledger = sim.ledger().await;
    let exist: Vec<bool> = ledger["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["exists"] == true)
        .collect();
    assert_eq!(exist, [false, true]);
    assert_eq!(ledger["resources"][0]["owner"], "x");
}

#[tokio::test]
async fn creations_are_limited_and_say_how_long_to_wait() {
    let sim = Simulator::start(1).await;
    sim.put(
        "sprites",
        json!({"knobs": {"create_limit": 1, "create_ms": 0}}),
    )
    .await;
    sim.sprite("a-1").await;
    let refused = sim.sprites("POST", "sprites", r#"{"name":"a-2"}"#).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (429, &json!("sprite_creation_rate_limited"))
    );
    let wait: i64 = refused.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(refused.json()["retry_after_seconds"], wait);
}

#[tokio::test]
async fn a_listing_is_paged_sorted_and_selected_by_prefix() {
    let sim = Simulator::start(100).await;
    let seeds: Vec<Value> = (0..60)
        .map(|n| json!({"name": format!("p-{n:02}")}))
        .collect();
    sim.put("sprites", json!({"sprites": seeds})).await;
    sim.put(
        "sprites",
        json!({"sprites": [{"name": "q-1", "labels": ["foreign"]}]}),
    )
    .await;
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("sprites?prefix=p-&max_results=100&continuation_token={token}");
        let page = sim.sprites("GET", &path, "").await.json();
        let items = page["sprites"].as_array().unwrap();
        assert!(items.len() <= 50, "clamped");
        assert_eq!(
            (&page["cold"], &page["org"]["cold"]),
            (&json!(61), &json!(61)),
            "both layouts"
        );
        names.extend(items.iter().map(|s| text(&s["name"])));
        if page["has_more"] == false {
            assert!(page["next_continuation_token"].is_null());
            break;
        }
        token = text(&page["next_continuation_token"]);
    }
    let expected: Vec<String> = (0..60).map(|n| format!("p-{n:02}")).collect();
    assert_eq!(names, expected);
    assert_eq!(
        sim.sprites("GET", "sprites?continuation_token=nope", "")
            .await
            .status,
        400
    );
    sim.put(
        "sprites",
        json!({"knobs": {"list_short": 1, "list_lag_delete_ms": 3_600_000}}),
    )
    .await;
    let short = sim.sprites("GET", "sprites?prefix=q-", "").await.json()["sprites"][0].clone();
    assert_eq!(
        short.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["name", "org_slug", "updated_at"]
    );
    sim.sprites("DELETE", "sprites/q-1", "").await;
    let stale = sim.sprites("GET", "sprites?prefix=q-", "").await.json();
    assert_eq!(stale["sprites"][0]["name"], "q-1", "a listing that lags");
    assert_eq!(sim.sprites("GET", "sprites/q-1", "").await.status, 404);
}

#[tokio::test]
async fn files_are_written_read_listed_and_removed() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let written = sim
        .sprites(
            "PUT",
            "sprites/a-1/fs/write?path=/home/sprite/d/secret&mode=0600&mkdirParents=true",
            "pst",
        )
        .await;
    assert_eq!(
        (written.status, written.json()),
        (
            200,
            json!({"path": "/home/sprite/d/secret", "size": 3, "mode": "0600"})
        )
    );
    let read = sim
        .sprites(
            "GET",
            "sprites/a-1/fs/read?path=d/secret&workingDir=/home/sprite",
            "",
        )
        .await;
    assert_eq!((read.status, read.body.as_str()), (200, "pst"));
    let listed = sim
        .sprites("GET", "sprites/a-1/fs/list?path=/home/sprite/d", "")
        .await
        .json();
    assert_eq!(
        (
            &listed["count"],
            &listed["entries"][0]["mode"],
            &listed["entries"][0]["isDir"]
        ),
        (&json!(1), &json!("0600"), &json!(false))
    );
    let file = sim
        .sprites("GET", "sprites/a-1/fs/list?path=/home/sprite/d/secret", "")
        .await
        .json();
    assert_eq!(file["entries"][0]["name"], "secret", "the file itself");
    let home = sim.bash("a-1", "printf %s \"$HOME\"").await.stdout;
    let by_home = sim
        .sprites(
            "GET",
            &format!("sprites/a-1/fs/read?path={home}/d/secret"),
            "",
        )
        .await;
    assert_eq!(by_home.body, "pst", "the path a command tells is good too");
    let rename =
        json!({"source": "/home/sprite/d/secret", "dest": "/home/sprite/d/s2", "workingDir": "/"});
    assert_eq!(
        sim.sprites("POST", "sprites/a-1/fs/rename", rename.to_string())
            .await
            .status,
        200
    );
    assert_eq!(
        sim.bash("a-1", "cat d/s2; stat -c %a d/s2").await.stdout,
        "pst600\n"
    );
    let full = sim
        .sprites("DELETE", "sprites/a-1/fs/delete?path=/home/sprite/d", "")
        .await;
    assert_eq!(
        (full.status, &full.json()["code"]),
        (409, &json!("ENOTEMPTY"))
    );
    let body = json!({"path": "/home/sprite/d", "recursive": true});
    assert_eq!(
        sim.sprites("DELETE", "sprites/a-1/fs/delete", body.to_string())
            .await
            .status,
        200
    );
    let gone = sim
        .sprites("GET", "sprites/a-1/fs/read?path=/home/sprite/d/s2", "")
        .await;
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!("ENOENT")));
    let outside = sim
        .sprites(
            "GET",
            "sprites/a-1/fs/read?path=/../../../../../../etc/passwd",
            "",
        )
        .await;
    assert_eq!(outside.status, 404, "no way out of the disk");
    let calls = sim.control("GET", "sprites/calls", Value::Null).await.1;
    let write = calls["calls"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["operation"] == "fsWrite")
        .unwrap();
    assert_eq!(write["body"], 3, "content is not kept");
}

#[tokio::test]
async fn a_policy_is_stored_and_bad_rules_are_refused() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let path = "sprites/a-1/policy/network";
    let rules = json!({"rules": [{"domain": "api.example.com", "action": "allow"}, {"include": "defaults"}]});
    assert_eq!(
        sim.sprites("POST", path, rules.to_string()).await.status,
        204
    );
    assert_eq!(sim.sprites("GET", path, "").await.json(), rules);
    assert_eq!(
        sim.sprites("POST", path, r#"{"rules":[{"action":"allow"}]}"#)
            .await
            .status,
        400
    );
    assert_eq!(
        sim.status_of_sprite("a-1").await,
        "cold",
        "policies wake nothing"
    );
}
