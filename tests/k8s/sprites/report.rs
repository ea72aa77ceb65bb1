//! Looking into one agent: what runs, what listens, what both sides say; and no value.

use super::*;
use crate::recycling::token_of;

/// acceptance: D27
#[tokio::test(flavor = "multi_thread")]
async fn a_report_tells_what_is_inside_and_no_value() {
    let world = start("sprites-debug").await;
    pool(&world, json!({})).await;
    let idle = wait_idle(&world, 1).await.remove(0);
    let path = format!("/api/pool/debug/{}", idle.spec.id);
    let status = idle.status.clone().unwrap();
    assert_eq!(world.claim("Ada").await.status, 200);
    let token = token_of(&world, &idle.spec.id).await;
    until("it is known to be awake", PATIENT, || async {
        let claimed = world.instance(&idle.spec.id).await?;
        let state = claimed.status?.provider?.state;
        (state.as_deref() == Some("Running")).then_some(())
    })
    .await;

    let answer = world.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = &answer.body;
    assert_eq!(
        (&body["id"], &body["name"], &body["status"], &body["url"]),
        (
            &json!(idle.spec.id),
            &json!(idle.spec.provider_name),
            &json!("claimed"),
            &json!(status.url)
        ),
    );
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    assert!(text("processes").contains("openclaw-gateway"), "{body}");
    assert!(text("listening").contains("8080"), "{body}");
    // Asked inside with the agent's own token, and at its address.
    assert!(text("localCheck").contains("HTTP 200"), "{body}");
    assert!(text("localCheck").contains("conversation"), "{body}");
    assert!(text("urlCheck").contains("\"ready\":true"), "{body}");
    assert_eq!(
        (&body["envExists"], &body["envNames"]),
        (&json!(true), &json!(["ANTHROPIC_API_KEY"]))
    );
    for service in ["gateway", "hold"] {
        assert_eq!(body["services"][service]["status"], "running", "{body}");
    }
    assert_eq!(text("commit").len(), 40, "{body}");
    assert_eq!(
        body["checkpointId"],
        json!(status.provider.unwrap().checkpoint_id)
    );
    assert_eq!(
        (&body["apiStatus"], &body["apiBody"]["status"]),
        (&json!(200), &json!("running"))
    );
    assert!(
        body["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready")
    );
    let objects = world.kubectl(&["get", "agentpools,agentinstances", "-o", "yaml"]);
    for secret in [SPRITES_TOKEN, KEY, &token] {
        assert!(
            !answer.text.contains(secret) && !objects.contains(secret),
            "{secret}"
        );
    }
    let none = world.get("/api/pool/debug/nobody").await;
    assert_eq!(
        (none.status, &none.body["error"]),
        (404, &json!("not found"))
    );

    // Each part by itself.
    fault(
        &world,
        json!({"operation": "exec"}),
        json!({"kind": "exec_cut"}),
    )
    .await;
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for key in ["processes", "listening", "localCheck", "envExists"] {
        let text = answer.body[key].as_str().unwrap_or_default();
        assert!(text.starts_with("error: "), "{key}: {}", answer.text);
    }
    assert_eq!(answer.body["apiStatus"], 200);
    world.sim.heal("sprites").await;
    let broken = json!({"kind": "http_5xx", "status": 503});
    fault(&world, json!({"operation": "get"}), broken).await;
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let told = answer.body["apiInfo"].as_str().unwrap_or_default();
    assert!(told.starts_with("error: "), "{}", answer.text);
    assert!(
        answer.body["listening"].as_str().unwrap().contains("8080"),
        "{}",
        answer.text
    );
    finish(world).await;
}
