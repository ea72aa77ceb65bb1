//! What a tag is deployed as: its digest at the registry, by the pool's policy.

use agentpool::api::AgentInstance;
use serde_json::{Value, json};

use super::{COMMAND, IMAGE, service};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};
use std::time::Duration;

const REPOSITORY: &str = "ghcr.io/xmtplabs/convos-runtime";

fn pinned(policy: Option<&str>) -> Value {
    json!({"minIdle": 1, "tickIntervalSeconds": 1,
        "provider": {"railway": {"source": {"image": {"digestPolicy": policy}}}}})
}

fn digest(c: char) -> String {
    format!("sha256:{}", c.to_string().repeat(64))
}

fn at(digest: &str) -> String {
    format!("{REPOSITORY}@{digest}")
}

/// Moves the tag of [`IMAGE`] to another digest; null: there is no such tag any more.
async fn moved(world: &World, to: Option<&str>) {
    world
        .sim
        .set(
            "ghcr",
            json!({"tags": {"xmtplabs/convos-runtime:0.3.4": to}}),
        )
        .await;
}

async fn source_of(world: &World, instance: &AgentInstance) -> Value {
    service(world, instance).await["source"]["image"].clone()
}

/// Why the pool creates nothing, once it says so.
async fn unresolved(world: &World) -> String {
    until(
        "the pool says that its image is not resolved",
        LONG,
        || async {
            let (status, reason, message) = world.pool_condition("Ready").await?;
            (status == "False" && reason == "DigestUnresolved").then_some(message)
        },
    )
    .await
}

/// The default policy. Everything about the image is in place before the one deployment.
///
/// acceptance: A05, E18, G14, K02
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_deployed_by_its_digest_and_shown_by_both() {
    let world = World::start("pinned").await;
    moved(&world, Some(&digest('a'))).await;
    world.create_pool(POOL, pinned(None)).await;
    let idle = world.wait_idle(1).await.remove(0);
    let image = at(&digest('a'));

    let service = service(&world, &idle).await;
    assert_eq!(service["source"]["image"], *image);
    assert_eq!(service["startCommand"], COMMAND);
    let deployments = service["deployments"].as_array().unwrap();
    assert_eq!(deployments.len(), 1, "{service}");
    assert_eq!(deployments[0]["snapshot"]["image"], *image);

    assert_eq!(idle.spec.template.image.as_deref(), Some(&*image));
    let provider = idle.status.as_ref().unwrap().provider.as_ref().unwrap();
    assert_eq!(provider.image.as_deref(), Some(IMAGE), "as asked for");
    assert_eq!(provider.image_digest.as_deref(), Some(&*digest('a')));
    let resolved = world.wait_ready().await.status.unwrap().resolved;
    assert_eq!(resolved["image"], image);
    let agents = world.get("/api/pool/agents").await;
    assert!(agents.text.contains(IMAGE), "{}", agents.text);
    assert!(!agents.text.contains("sha256:"), "{}", agents.text);
    world.finish().await;
}

/// One that does not exist is a failure under both policies, and no doomed agent is made of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_there_stops_creation_until_it_is() {
    for policy in [None, Some("PinOrTag")] {
        let world = World::start("no-tag").await;
        moved(&world, None).await;
        world.create_pool(POOL, pinned(policy)).await;
        let message = unresolved(&world).await;
        assert!(
            message.contains(IMAGE) && message.contains("no image"),
            "{message}"
        );
        holds(
            "nothing is created",
            Duration::from_millis(2500),
            || async {
                world.list().await.is_empty() && world.sim.services_ever().await.is_empty()
            },
        )
        .await;
        assert!(
            !world
                .pool()
                .await
                .status
                .unwrap()
                .resolved
                .contains_key("image")
        );

        moved(&world, Some(&digest('b'))).await;
        let idle = world.wait_idle(1).await.remove(0);
        assert_eq!(source_of(&world, &idle).await, at(&digest('b')));
        world.finish().await;
    }
}

/// 503, 429, an answer that is none, no answer to the token: by the policy. And what was resolved before stays good.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_the_registry_follows_the_policy() {
    let world = World::start("registry-trouble").await;
    let trouble =
        json!({"match": {"route": "manifest"}, "fault": {"kind": "status", "status": 503}});
    world.sim.fault("ghcr", trouble).await;
    world.create_pool(POOL, pinned(None)).await;
    let message = unresolved(&world).await;
    assert!(
        message.contains("503") && message.contains(IMAGE),
        "{message}"
    );
    assert!(world.sim.services_ever().await.is_empty());

    world.patch_pool(pinned(Some("PinOrTag"))).await;
    let first = world.wait_idle(1).await.remove(0);
    assert_eq!(source_of(&world, &first).await, IMAGE);
    let provider = first.status.as_ref().unwrap().provider.as_ref().unwrap();
    assert_eq!(provider.image_digest, None);

    // The registry comes back, and goes: what it said stays good.
    world.sim.heal("ghcr").await;
    until("the tag is resolved", LONG, || async {
        let resolved = world.pool().await.status?.resolved;
        resolved.get("image")?.contains("@sha256:").then_some(())
    })
    .await;
    let trouble = json!({"fault": {"kind": "garbage"}});
    world.sim.fault("ghcr", trouble).await;
    world.sim.set("ghcr", json!({"tags": {}})).await;
    world.patch_pool(json!({"minIdle": 2, "provider": {"railway": {"source": {"image": {"digestPolicy": "PinOrFail"}}}}})).await;
    let idle = world.wait_idle(2).await;
    let mut pinned = 0;
    for instance in &idle {
        let source = source_of(&world, instance).await;
        pinned += usize::from(source.as_str().unwrap().contains("@sha256:"));
    }
    assert_eq!(pinned, 1, "the second is pinned: {idle:?}");
    world.sim.heal("ghcr").await;
    world.finish().await;
}

/// acceptance: M04
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_taken_by_the_next_agent_without_touching_the_pool() {
    let world = World::start("moved-tag").await;
    moved(&world, Some(&digest('a'))).await;
    world.create_pool(POOL, pinned(None)).await;
    let old = world.wait_idle(1).await.remove(0);
    let generation = world.pool().await.metadata.generation;

    moved(&world, Some(&digest('b'))).await;
    until("the pool sees it", LONG, || async {
        let resolved = world.pool().await.status?.resolved;
        (resolved["image"] == at(&digest('b'))).then_some(())
    })
    .await;
    assert_eq!(source_of(&world, &old).await, at(&digest('a')), "untouched");
    assert_eq!(world.claim("Old").await.status, 200);
    let new = world.wait_idle(1).await.remove(0);
    assert_eq!(source_of(&world, &new).await, at(&digest('b')));
    assert_eq!(world.pool().await.metadata.generation, generation);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_needs_its_credential_and_railway_gets_it() {
    let world = World::start("private-image").await;
    let login = json!({"username": "bot", "password": "PAT-12345678"});
    world
        .sim
        .set(
            "ghcr",
            json!({"private": {"xmtplabs/convos-runtime": login}}),
        )
        .await;
    world.create_pool(POOL, pinned(None)).await;
    let message = unresolved(&world).await;
    assert!(message.contains("credentialsSecretRef"), "{message}");

    let image = json!({"credentialsSecretRef": {"name": "pull"}});
    world
        .patch_pool(json!({"provider": {"railway": {"source": {"image": image}}}}))
        .await;
    until("the missing Secret is named", LONG, || async {
        let message = world.pool_condition("Ready").await?.2;
        message.contains("/pull does not exist").then_some(())
    })
    .await;
    world.kubectl(&[
        "create",
        "secret",
        "generic",
        "pull",
        "--type=kubernetes.io/basic-auth",
        "--from-literal=username=bot",
        "--from-literal=password=PAT-12345678",
    ]);
    let idle = world.wait_idle(1).await.remove(0);
    assert!(
        source_of(&world, &idle)
            .await
            .as_str()
            .unwrap()
            .contains("@sha256:")
    );
    let calls = world.sim.calls("railway").await;
    let input = |operation: &str| {
        let call = calls.iter().find(|c| c["operation"] == operation).unwrap();
        call["variables"]["input"].clone()
    };
    assert_eq!(
        input("RwConfigureAndDeploy")["registryCredentials"]["username"],
        "bot"
    );
    for text in [
        world.kubectl(&["get", "ap,ai,events", "-o", "yaml"]),
        calls.iter().map(Value::to_string).collect(),
    ] {
        assert!(!text.contains("PAT-12345678"), "a password: {text}");
    }
    world.finish().await;
}
