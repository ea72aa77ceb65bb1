//! Creations that cannot succeed: removed, told, counted.

use super::script::own_script;
use super::*;

/// acceptance: B10, J06
#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_left_is_never_put_into_a_checkpoint() {
    for (name, left) in [
        ("dirty-identity", ".convos/identities"),
        ("dirty-text", INSTRUCTIONS),
    ] {
        let world = start(name).await;
        let slice = format!("# agentpool:slice leak\nmkdir -p \"$HOME/{left}\"");
        let mut change = own_script(&world, &slice).await;
        let breaker = json!({"circuitBreaker": {"failures": 2, "backoffSeconds": 600}});
        merge(&mut change, &breaker);
        pool(&world, change).await;
        let why = until("the breaker opens", PATIENT, || async {
            let (_, reason, message) = world.pool_condition("Ready").await?;
            (reason == "CreationsFailing").then_some(message)
        })
        .await;
        let first = left.split('/').next().unwrap();
        assert!(why.contains("not clean") && why.contains(first), "{why}");
        until("nothing is left", PATIENT, || async {
            let left = world.list().await.len() + sprites_now(&world).await.len();
            (left == 0).then_some(())
        })
        .await;
        assert_eq!(sprites_ever(&world).await.len(), 2, "replaced, and no more");
        assert!(
            calls(&world, "checkpoint").await.is_empty(),
            "a checkpoint of a dirty agent"
        );
        assert_eq!(world.claim("Ada").await.status, 503);
        finish(world).await;
    }
}

/// acceptance: B24
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_leaves_nothing_says_why_and_opens_the_breaker() {
    let world = start("sprites-failing").await;
    let breaker = json!({"failures": 2, "backoffSeconds": 600});
    let git = json!({"git": {"ref": "missing-branch"}});
    pool(
        &world,
        json!({"circuitBreaker": breaker, "provider": {"sprites": {"source": git}}}),
    )
    .await;
    let why = until("the breaker opens", PATIENT, || async {
        let (_, reason, message) = world.pool_condition("Ready").await?;
        (reason == "CreationsFailing").then_some(message)
    })
    .await;
    assert!(why.contains("2 creations failed in a row"), "{why}");
    for told in [
        "slice 3 ended with 128 three times",
        "Remote branch missing-branch not found",
    ] {
        assert!(why.contains(told), "{why}");
    }
    until("nothing is left", PATIENT, || async {
        let left = world.list().await.len() + sprites_now(&world).await.len();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(sprites_ever(&world).await.len(), 2);
    assert!(calls(&world, "checkpoint").await.is_empty());
    holds("nothing new is tried", Duration::from_secs(4), || async {
        sprites_ever(&world).await.len() == 2 && world.list().await.is_empty()
    })
    .await;
    finish(world).await;
}

/// Asked every three seconds for two minutes, and then given up.
/// acceptance: J05
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_ready_within_two_minutes_of_its_start_is_given_up() {
    let world = start("sprites-never").await;
    // It answers, and is not ready.
    let load = |ms: u64| json!({"defaults": {"convosLoad": ms}});
    world.sim.set("agents", load(100_000_000)).await;
    pool(&world, json!({"maxTotal": 1, "cleanupAfterSeconds": 0})).await;
    wait_created(&world, 1).await;
    let name = world.list().await.remove(0).spec.provider_name;
    wait_created(&world, 2).await;
    world.sim.set("agents", load(500)).await;
    let all = world.sim.calls("agents").await;
    let mine = |c: &&Value| {
        c["host"].as_str().is_some_and(|h| h.starts_with(&name)) && c["path"] == "/convos/status"
    };
    let asked: Vec<f64> = all
        .iter()
        .filter(mine)
        .map(|c| {
            let time: jiff::Timestamp = c["time"].as_str().unwrap().parse().unwrap();
            time.as_millisecond() as f64 / 1000.0
        })
        .collect();
    let took = asked.last().unwrap() - asked[0];
    assert!((105.0..140.0).contains(&took), "for {took} s");
    let least = asked
        .windows(2)
        .map(|w| w[1] - w[0])
        .fold(f64::MAX, f64::min);
    assert!(
        least > 2.5 && asked.len() > 20,
        "{} times, {least} s apart",
        asked.len()
    );
    assert!(calls(&world, "checkpoint").await.is_empty());
    let idle = wait_idle(&world, 1).await.remove(0);
    assert_ne!(idle.spec.provider_name, name);
    finish(world).await;
}
