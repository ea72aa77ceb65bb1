//! Starting, stopping, and what is wrong around the process: each said once, none of them its end.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use reqwest::Method;
use serde_json::json;

use crate::support::account::RIGHTS;
use crate::support::operator::{KEY, Operator};
use crate::support::simulator::TOKEN;
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};

/// The pool's trouble with its provider, for this reason; the message.
async fn trouble(world: &World, reason: &str) -> String {
    until(reason, LONG, || async {
        let (status, found, message) = world.pool_condition("ProviderReachable").await?;
        (status == "False" && found == reason).then_some(message)
    })
    .await
}

fn pool() -> serde_json::Value {
    json!({"minIdle": 1, "tickIntervalSeconds": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_a_condition_and_heals_with_its_secret() {
    let mut world = World::start("wrong-token").await;
    let wrong = "5eed0000-0000-4000-8000-00000000dead";
    world.secret("railway", "token", wrong).await;
    world.create_pool(POOL, pool()).await;
    let message = trouble(&world, "CredentialsInvalid").await;
    assert!(
        message.contains("token is valid") && !message.contains(wrong),
        "{message}"
    );
    let described = world.kubectl(&["describe", "ap", POOL]);
    assert!(
        described.contains("CredentialsInvalid") && !described.contains(wrong),
        "{described}"
    );
    let asked = world.sim.calls("railway").await.len();
    holds(
        "no hammering, no end",
        Duration::from_millis(2500),
        || async { world.sim.calls("railway").await.len() <= asked + 2 },
    )
    .await;
    assert!(world.operator().runs() && world.sim.services_ever().await.is_empty());
    world.secret("railway", "token", TOKEN).await;
    world.wait_idle(1).await;
    world.wait_ready().await;
    let log = world.operator().log();
    assert!(
        !log.contains(wrong) && !log.contains(TOKEN),
        "a token in the log"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_or_key_is_a_condition_that_names_it() {
    let mut world = World::start("no-secret").await;
    let reference = json!({"name": "later", "key": "api"});
    let mut spec = pool();
    spec["provider"] = json!({"railway": {"tokenSecretRef": reference}});
    world.create_pool(POOL, spec).await;
    let name = format!("Secret {}/later", world.namespace.name());
    let message = trouble(&world, "CredentialsMissing").await;
    assert!(
        message.contains(&name) && message.contains("create it with the key api"),
        "{message}"
    );

    world.secret("later", "other", TOKEN).await;
    until("the key is missed", LONG, || async {
        let message = trouble(&world, "CredentialsMissing").await;
        message
            .contains(&format!("{name} has no key api: add it"))
            .then_some(())
    })
    .await;
    assert!(world.operator().runs());
    world.secret("later", "api", &format!("{TOKEN}\n")).await;
    world.wait_idle(1).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_project_is_a_condition_that_names_it() {
    let mut world = World::start("wrong-project").await;
    let wrong = "5eed0000-0000-4000-8000-00000000beef";
    let mut spec = pool();
    spec["provider"] = json!({"railway": {"project": {"projectId": wrong}}});
    world.create_pool(POOL, spec).await;
    let message = trouble(&world, "ProjectNotFound").await;
    assert!(
        message.contains("railway.project.projectId") && message.contains(wrong),
        "{message}"
    );
    assert!(world.operator().runs() && world.list().await.is_empty());
    let right = json!({"projectId": crate::support::simulator::PROJECT});
    world
        .patch_pool(json!({"provider": {"railway": {"project": right}}}))
        .await;
    world.wait_idle(1).await;
    world.finish().await;
}

/// What a process that refuses to start printed: one line, and it ended with 1.
fn refusal(environment: &BTreeMap<String, String>) -> String {
    let (status, text) = Operator::run_to_end("run", environment);
    assert_eq!(status.code(), Some(1), "{text}");
    let lines: Vec<_> = text.lines().filter(|l| !l.contains(" INFO ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_at_the_start_in_one_line_that_names_the_setting() {
    let world = World::bare("refusals").await;
    let with = |extra: &[(&str, &str)]| {
        let mut environment = world.environment(extra);
        environment.insert(RIGHTS.to_owned(), "Admin".to_owned());
        refusal(&environment)
    };
    let no_key = with(&[("POOL_API_KEY", "")]);
    assert!(
        no_key.contains("--api-key-secret, --api-key-file or POOL_API_KEY"),
        "{no_key}"
    );
    assert!(no_key.contains("there is no API key"), "{no_key}");
    let two_keys = with(&[("POOL_API_KEY_SECRET", "x")]);
    assert!(two_keys.contains("set exactly one of them"), "{two_keys}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let api = with(&[("PORT", &port)]);
    assert!(
        api.contains(&format!("127.0.0.1:{port}")) && api.contains("--port (PORT)"),
        "{api}"
    );
    let operations = with(&[("AGENTPOOL_OPERATIONS_PORT", &port)]);
    assert!(
        operations.contains(&port) && operations.contains("AGENTPOOL_OPERATIONS_PORT"),
        "{operations}"
    );

    let level = with(&[("LOG_LEVEL", "agentpool=loud")]);
    assert!(level.contains("--log-level (LOG_LEVEL)"), "{level}");
    let url = with(&[("AGENTPOOL_RAILWAY_URL", "backboard.railway.com")]);
    assert!(
        url.contains("--railway-url (AGENTPOOL_RAILWAY_URL)"),
        "{url}"
    );
    let config = with(&[("KUBECONFIG", "/nowhere/kubeconfig")]);
    assert!(config.contains("KUBECONFIG"), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_release_over_a_pool_stands_back_and_says_so() {
    let mut world = World::with_pool("two-releases", pool()).await;
    world.wait_ready().await;
    assert_eq!(
        world.pool().await.status.unwrap().release.as_deref(),
        Some("agentpool")
    );
    let second = world.environment(&[("AGENTPOOL_RELEASE", "second")]);
    let mut second = Operator::start("run", &second);
    let message = until("the second says so", LONG, || async {
        let (status, reason, message) = world.pool_condition("Contested").await?;
        (status == "True" && reason == "OtherRelease").then_some(message)
    })
    .await;
    for part in [
        "release second",
        "release agentpool",
        "--namespace",
        "--release",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // The owner alone works: what the pool says stays, and one agent is made for one claimed.
    assert_eq!(world.claim("Ada").await.status, 200);
    world.wait_idle(1).await;
    world.wait_ready().await;
    let before = world.pool().await;
    holds("nobody writes", Duration::from_millis(2500), || async {
        world.pool().await.resource_version() == before.resource_version()
    })
    .await;
    assert_eq!(world.sim.services_ever().await.len(), 2);
    assert!(second.runs());
    let said = second.log().matches("standing back").count();
    assert_eq!(said, 1, "{}", second.log());

    // Nor does it take over while the owner is away.
    world.operator().kill();
    let agent = world.list().await.pop().unwrap().name_any();
    world.delete(&agent).await;
    holds(
        "the second lets it be",
        Duration::from_millis(2500),
        || async { world.list().await.iter().any(|i| i.name_any() == agent) },
    )
    .await;
    assert!(second.stop().success());
    world.start_operator(&[]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_every_role_with_zero_at_once() {
    let mut world = World::with_pool("sigterm", pool()).await;
    let mut others: Vec<_> = ["api", "controller"]
        .map(|role| Operator::start(role, &world.environment(&[])))
        .into();
    others.push(world.operator.take().unwrap());
    for mut operator in others {
        let asked = Instant::now();
        let status = operator.stop();
        assert_eq!(status.code(), Some(0), "{}", operator.log());
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}",
            asked.elapsed()
        );
        assert!(operator.log().contains("stopping"), "{}", operator.log());
    }
    // Whatever it is doing when it is told, from the moment that it listens.
    for _ in 0..10 {
        let mut begun = Operator::start("run", &world.environment(&[]));
        assert_eq!(begun.stop().code(), Some(0), "{}", begun.log());
    }
    world.start_operator(&[]);
    world.finish().await;
}

/// acceptance: G17
#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_is_made_once_and_kept() {
    let mut world = World::bare("root-key").await;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    // Two at the same time, and then a third: one makes it, the others read it.
    let environment = world.environment(&[]);
    let mut first: Vec<_> = std::thread::scope(|scope| {
        let start = || Operator::start("run", &environment);
        let both = [scope.spawn(start), scope.spawn(start)];
        both.map(|t| t.join().unwrap()).into()
    });
    let made = until("the root key is there", LONG, || async {
        secrets.get_opt("agentpool-root-key").await.unwrap()
    })
    .await;
    let data = made.data.clone().unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["current"]);
    assert_eq!(data["current"].0.len(), 32);
    for operator in &mut first {
        let ready = format!("{}/readyz", operator.operations);
        until("ready with the key", LONG, || async {
            let answer = reqwest::get(&ready).await.unwrap();
            (answer.status() == 200).then_some(())
        })
        .await;
        assert!(operator.stop().success());
    }
    world.start_operator(&[]);
    world.create_pool(POOL, pool()).await;
    let idle = world.wait_idle(1).await;
    let again = secrets.get("agentpool-root-key").await.unwrap();
    assert_eq!((again.uid(), again.data), (made.uid(), made.data));

    // The same tokens after a restart.
    let token = async || {
        let rows = world.get("/api/pool/status?include=secrets").await.body;
        let all = rows["instances"].as_array().cloned().unwrap_or_default();
        let row = all
            .into_iter()
            .find(|r| r["id"] == idle[0].spec.id.as_str());
        row.and_then(|r| r["gatewayToken"].as_str().map(str::to_owned))
    };
    let before = token().await.unwrap();
    world.operator().kill();
    world.start_operator(&[]);
    let after = until("the token is told", LONG, || async {
        let header = format!("Bearer {KEY}");
        let path = "/api/pool/status?include=secrets";
        let rows = world
            .call_with(Method::GET, path, Some(&header), None)
            .await
            .body;
        rows["instances"][0]["gatewayToken"]
            .as_str()
            .map(str::to_owned)
    })
    .await;
    assert_eq!(before, after);
    world.finish().await;
}
