//! Listing, reading, whose a sprite is, removing, waits.

use super::*;

fn page(sprites: &[Value], next: Option<&str>) -> Value {
    json!({"sprites": sprites, "has_more": next.is_some(), "next_continuation_token": next,
        "name": "acme", "running": 2, "org": {"name": "acme", "running": 2}})
}

#[tokio::test]
async fn a_listing_has_all_pages_and_survives_short_forms() {
    let mut second = sprite(json!([]));
    second["name"] = json!("other");
    second["id"] = json!("sprite-2");
    second["status"] = json!("running");
    let short = json!({"name": NAME, "org_slug": "acme", "updated_at": "2026-09-01T10:00:00Z"});
    let server = Script::default()
        .json("GET /v1/sprites", 200, page(&[short], Some("t1")))
        .json("GET /v1/sprites", 200, page(&[second], None))
        .json(&of("GET", ""), 200, ours())
        .start()
        .await;
    let listing = server.provider().list().await.unwrap();
    let seen: Vec<_> = listing
        .resources
        .iter()
        .map(|r| (r.name.as_str(), r.id.as_str(), r.liveness))
        .collect();
    assert_eq!(
        seen,
        [
            (NAME, "sprite-1", Liveness::Cold),
            ("other", "sprite-2", Liveness::Running)
        ]
    );
    assert_eq!(listing.resources[0].facts["url"], "https://x.sprites.app");
    let pages: Vec<_> = server
        .sent()
        .into_iter()
        .filter(|s| s.line == "GET /v1/sprites")
        .collect();
    assert_eq!(pages[0].query("max_results"), ["50"]);
    assert_eq!(pages[1].query("continuation_token"), ["t1"]);
    let resolved = server.provider().resolve().await.unwrap();
    assert_eq!(resolved, known(&[("organization", "acme")]));
}

#[tokio::test]
async fn an_incomplete_listing_is_an_error() {
    let more = json!({"sprites": [], "has_more": true, "next_continuation_token": null});
    let line = "GET /v1/sprites";
    for answer in [
        Answer::Http(200, vec![], more.to_string()),
        Answer::Http(200, vec![], page(&[], Some("again")).to_string()),
        Answer::Http(200, vec![], "{}".to_owned()),
        Answer::Http(200, vec![], "<html/>".to_owned()),
        Answer::Http(404, vec![], "404 page not found".to_owned()),
        Answer::Http(502, vec![], "<html/>".to_owned()),
        Answer::Cut(page(&[ours()], None).to_string()),
        Answer::Slow(Duration::from_secs(4)),
    ] {
        let server = Script::default().on(line, answer).start().await;
        assert_eq!(class(server.provider().list().await).0, Class::Transient);
    }
    let server = Script::default()
        .text(line, 503, "")
        .json(line, 200, page(&[], None))
        .start()
        .await;
    assert!(
        server.provider().list().await.unwrap().resources.is_empty(),
        "a read is repeated"
    );
}

#[tokio::test]
async fn absence_is_believed_of_the_interface_alone() {
    let gone = json!({"error": "sprite not found"});
    let server = Script::default()
        .json(&of("GET", ""), 404, gone)
        .start()
        .await;
    let provider = server.provider();
    assert_eq!(
        provider.observe(&key(), &recorded()).await.unwrap(),
        Presence::Gone
    );
    assert_eq!(
        provider.observe(&key(), &Facts::new()).await.unwrap(),
        Presence::Unknown
    );
    for (status, body, want) in [
        (404, "404 page not found", Class::Transient),
        (404, "<html>no such app</html>", Class::Transient),
        (401, r#"{"error":"unauthorized"}"#, Class::Unauthorized),
        (403, "{}", Class::Unauthorized),
        (500, "", Class::Transient),
    ] {
        let server = Script::default()
            .text(&of("GET", ""), status, body)
            .start()
            .await;
        let provider = server.provider();
        assert_eq!(
            class(provider.observe(&key(), &recorded()).await).0,
            want,
            "{status} {body}"
        );
        assert_eq!(
            class(provider.destroy(&key(), &recorded()).await).0,
            want,
            "{status} {body}"
        );
        assert!(
            server.lines().iter().all(|l| l.starts_with("GET")),
            "nothing is removed"
        );
    }
    // A name that was taken again is not the sprite that we knew.
    let mut another = ours();
    another["id"] = json!("sprite-9");
    let server = Script::default()
        .json(&of("GET", ""), 200, another)
        .start()
        .await;
    assert_eq!(
        server
            .provider()
            .observe(&key(), &recorded())
            .await
            .unwrap(),
        Presence::Gone
    );
}

#[tokio::test]
async fn a_sprite_without_our_labels_is_never_removed() {
    for labels in [
        json!([]),
        json!([
            "agentpool-cluster-cluster-2",
            "agentpool-owner-7f3a9c21k4mz"
        ]),
        json!(["agentpool-cluster-cluster-1", "agentpool-owner-0000"]),
        json!([
            "agentpool-cluster-cluster-1",
            "agentpool-namespace-other",
            "agentpool-owner-7f3a9c21k4mz"
        ]),
        Value::Null,
    ] {
        let server = Script::default()
            .json(&of("GET", ""), 200, sprite(labels.clone()))
            .json(&of("DELETE", ""), 204, json!(null))
            .start()
            .await;
        let provider = server.provider();
        let gone = provider.destroy(&key(), &Facts::new()).await.unwrap();
        assert_eq!(gone, Presence::Gone, "ours never came to exist");
        assert_eq!(
            provider.observe(&key(), &Facts::new()).await.unwrap(),
            Presence::Unknown
        );
        let resource = match provider.observe(&key(), &recorded()).await.unwrap() {
            Presence::Present(resource) => resource,
            other => panic!("{other:?}"),
        };
        let owner = provider.owner(&resource).await.unwrap();
        assert_ne!(owner, Owner::Marked(MARK.to_owned()), "{labels}");
        assert!(
            server.lines().iter().all(|l| l.starts_with("GET")),
            "{labels}"
        );
    }
    // Somebody put another mark on ours: a person has to look.
    let other = json!(["agentpool-cluster-cluster-2", "agentpool-owner-x"]);
    let server = Script::default()
        .json(&of("GET", ""), 200, sprite(other))
        .start()
        .await;
    assert_eq!(
        class(server.provider().destroy(&key(), &recorded()).await).0,
        Class::Rejected
    );
}

#[tokio::test]
async fn ours_is_removed_and_read_again() {
    let gone = json!({"error": "sprite not found"});
    for (deleted, body) in [
        (204, ""),
        (200, "{}"),
        (404, r#"{"error":"sprite not found"}"#),
    ] {
        let server = Script::default()
            .json(&of("GET", ""), 200, ours())
            .json(&of("GET", ""), 404, gone.clone())
            .text(&of("DELETE", ""), deleted, body)
            .start()
            .await;
        assert_eq!(
            server
                .provider()
                .destroy(&key(), &recorded())
                .await
                .unwrap(),
            Presence::Gone
        );
        assert_eq!(server.lines().len(), 3);
    }
    // The recorded id proves it where all labels are gone.
    let server = Script::default()
        .json(&of("GET", ""), 200, sprite(json!([])))
        .text(&of("DELETE", ""), 204, "")
        .start()
        .await;
    let left = server
        .provider()
        .destroy(&key(), &recorded())
        .await
        .unwrap();
    assert!(matches!(left, Presence::Present(_)), "a deletion that lags");
    let missing = Script::default()
        .json(&of("GET", ""), 404, gone)
        .start()
        .await;
    assert_eq!(
        missing
            .provider()
            .destroy(&key(), &recorded())
            .await
            .unwrap(),
        Presence::Gone
    );
    assert_eq!(missing.lines().len(), 1, "what is not there is not removed");
    let cut = Script::default()
        .json(&of("GET", ""), 200, ours())
        .on(&of("DELETE", ""), Answer::Slow(Duration::from_secs(4)))
        .start()
        .await;
    assert_eq!(
        class(cut.provider().destroy(&key(), &recorded()).await).0,
        Class::Ambiguous
    );
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_the_time_is_over() {
    let body = r#"{"error":"rate limited","retry_after_seconds":7}"#;
    for answer in [
        Answer::Http(429, vec![("retry-after", "9".to_owned())], body.to_owned()),
        Answer::Http(
            429,
            vec![("retry-after", "7".to_owned())],
            "slow down".to_owned(),
        ),
    ] {
        let server = Script::default()
            .on(&of("GET", ""), answer)
            .exec("", 0)
            .start()
            .await;
        let provider = server.provider();
        let error = provider.observe(&key(), &recorded()).await.unwrap_err();
        assert_eq!(
            (error.class, error.retry_after),
            (Class::Throttled, Some(Duration::from_secs(7)))
        );
        assert_eq!(class(provider.list().await).0, Class::Throttled);
        assert_eq!(
            class(provider.verify_clean(&key(), &recorded()).await).0,
            Class::Throttled
        );
        assert_eq!(server.lines().len(), 1);
    }
    // A limit of creations, or of sprites, holds back nothing else.
    for code in [
        "sprite_creation_rate_limited",
        "concurrent_sprite_limit_exceeded",
    ] {
        let server = Script::default()
            .json("POST /v1/sprites", 429, json!({"error": code}))
            .json(&of("GET", ""), 200, ours())
            .start()
            .await;
        let provider = server.provider();
        class(perform(&provider, &Facts::new(), SPRITE).await);
        provider.observe(&key(), &recorded()).await.unwrap();
    }
}
