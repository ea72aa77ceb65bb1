//! Settings of the process and of a pool: set, and the effect seen. Those of the provider: settings_railway.rs.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use agentpool::domain::instance::phase::Phase;
use kube::ResourceExt;
use kube::api::DeleteParams;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::operator::{KEY, Operator};
use crate::support::wait::{LONG, holds, until};
use crate::support::world::{POOL, World};

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// acceptance: E01
#[tokio::test(flavor = "multi_thread")]
async fn the_api_listens_on_port_and_on_3001_unless_set() {
    let world = World::bare("port").await;
    let port = free_port();
    let mut chosen = Operator::start("run", &world.environment(&[("PORT", &port.to_string())]));
    assert_eq!(chosen.api, format!("http://127.0.0.1:{port}"));
    let healthz = async |address: &str| {
        let answer = reqwest::get(format!("http://{address}/healthz")).await;
        answer.unwrap().text().await.unwrap()
    };
    let own = healthz(&format!("127.0.0.1:{port}")).await;
    assert_eq!(own, r#"{"ok":true}"#);
    assert!(chosen.stop().success());

    // An address of this test's own: somebody else's 3001 is not in the way.
    let listen = format!("127.{}.{}.1", port >> 8, port & 255);
    let unset = [("PORT", ""), ("AGENTPOOL_LISTEN", listen.as_str())];
    let _default = Operator::start("run", &world.environment(&unset));
    assert_eq!(healthz(&format!("{listen}:3001")).await, r#"{"ok":true}"#);
}

/// acceptance: E02
#[tokio::test(flavor = "multi_thread")]
async fn the_key_comes_from_a_secret_and_its_rotation_loses_no_agent() {
    let mut world = World::bare("api-key").await;
    let (first, second) = ("first-key-0123456789", "second-key-0123456789");
    world.secret("api-key", "POOL_API_KEY", first).await;
    world.start_operator(&[("POOL_API_KEY", ""), ("POOL_API_KEY_SECRET", "api-key")]);
    let pool = json!({"minIdle": 1, "tickIntervalSeconds": 1});
    world.create_pool(POOL, pool).await;
    world.wait_idle(1).await;
    let call = async |key: &str, method: Method, path: &str, body: Option<Value>| {
        let header = format!("Bearer {key}");
        let body = body.map(|b| b.to_string());
        world.call_with(method, path, Some(&header), body).await
    };
    let status = async |key: &str| {
        call(key, Method::GET, "/api/pool/status", None)
            .await
            .status
    };
    assert_eq!((status(first).await, status(second).await), (200, 401));
    assert_eq!(status(KEY).await, 401, "the variable is not set here");
    let claim = json!({"agentName": "Ada", "instructions": "Be kind."});
    let claimed = call(first, Method::POST, "/api/pool/claim", Some(claim)).await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    world.wait_idle(1).await;
    let uids = async || -> BTreeSet<_> {
        let all = world.list().await;
        all.iter()
            .map(|i| (i.uid(), i.metadata.generation))
            .collect()
    };
    let before = uids().await;

    world.secret("api-key", "POOL_API_KEY", second).await;
    until("the new key fits", LONG, || async {
        (status(second).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(first).await, 401, "the old key is out");
    assert_eq!(uids().await, before);
    assert_eq!(world.in_phase(Phase::Claimed).await.len(), 1);
    world.finish().await;
}

/// What follows the environment; the page's badge: environments.rs. The dashboard's confirmations come with the dashboard.
///
/// acceptance: E03
#[tokio::test(flavor = "multi_thread")]
async fn link_rule_network_and_version_follow_the_environment() {
    for (environment, network, good, bad) in [
        ("staging", "dev", "dev.convos.org", "popup.convos.org"),
        (
            "production",
            "production",
            "popup.convos.org",
            "dev.convos.org",
        ),
    ] {
        let spec = json!({"environment": environment, "minIdle": 1, "tickIntervalSeconds": 1});
        let world = World::with_pool("environment", spec).await;
        assert_eq!(world.get("/version").await.body["environment"], environment);
        let idle = world.wait_idle(1).await;
        let service = world
            .sim
            .service(&idle[0].spec.provider_name)
            .await
            .unwrap();
        assert_eq!(service["variables"]["XMTP_ENV"], network, "{service}");
        let resolved = world.pool().await.status.unwrap().resolved;
        assert_eq!(resolved["xmtpEnv"], network);

        let join = async |host: &str| {
            let link = format!("https://{host}/v2?i={}", "a".repeat(40));
            let body = json!({"agentName": "Ada", "instructions": "x", "joinUrl": link});
            world.call(Method::POST, "/api/pool/claim", body).await
        };
        let refused = join(bad).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        let text = format!("{bad} links cannot be used in the {environment} environment");
        assert_eq!(refused.body["error"], text);
        assert_eq!(world.in_phase(Phase::Claimed).await.len(), 0);
        let joined = join(good).await;
        assert_eq!(
            (joined.status, &joined.body["joined"]),
            (200, &json!(true)),
            "{}",
            joined.text
        );
        world.finish().await;
    }
    // The process's own setting wins, before there is any pool.
    let mut world = World::bare("environment-set").await;
    world.start_operator(&[("POOL_ENVIRONMENT", "qa")]);
    assert_eq!(world.get("/version").await.body["environment"], "qa");
}

/// acceptance: E07
#[tokio::test(flavor = "multi_thread")]
async fn three_stand_ready_unless_set_and_a_change_is_followed_while_running() {
    let world = World::start("min-idle").await;
    let unset = json!({"minIdle": null, "tickIntervalSeconds": 1});
    world.create_pool(POOL, unset).await;
    world.wait_idle(3).await;
    world.wait_ready().await;
    assert_eq!(world.sim.services_ever().await.len(), 3);

    world.patch_pool(json!({"minIdle": 5})).await;
    world.wait_idle(5).await;
    world.kubectl(&["scale", "agentpool/pool", "--replicas=6"]);
    world.wait_idle(6).await;

    // Less is followed too: nothing is taken away, and nothing replaces what is claimed.
    world.patch_pool(json!({"minIdle": 2})).await;
    until("the change is seen", LONG, || async {
        let pool = world.pool().await;
        (pool.status?.observed_generation == pool.metadata.generation).then_some(())
    })
    .await;
    assert_eq!(world.claim("Ada").await.status, 200);
    holds(
        "five stay, none is created",
        Duration::from_millis(2500),
        || async {
            let idle = world.in_phase(Phase::Idle).await.len();
            idle == 5 && world.sim.services_ever().await.len() == 6
        },
    )
    .await;
    world.finish().await;
}

/// acceptance: E08, C05
#[tokio::test(flavor = "multi_thread")]
async fn occupancy_stays_within_max_total() {
    let spec = json!({"minIdle": 2, "maxTotal": 3, "tickIntervalSeconds": 1});
    let world = World::with_pool("max-total", spec).await;
    let occupancy = async || {
        let all = world.list().await;
        let status = world.pool().await.status.unwrap_or_default();
        all.len().max(usize::try_from(status.occupancy).unwrap())
    };
    for name in ["Ada", "Bob"] {
        assert_eq!(world.claim(name).await.status, 200);
        assert!(occupancy().await <= 3);
    }
    until("the pool says it is full", LONG, || async {
        assert!(occupancy().await <= 3);
        let (status, reason, message) = world.pool_condition("AtCapacity").await?;
        let said =
            status == "True" && reason == "MaxTotalReached" && message == "maxTotal 3 is reached";
        said.then_some(())
    })
    .await;
    world.wait_idle(1).await;
    let asked = world
        .call(Method::POST, "/api/pool/replenish", json!({"count": 5}))
        .await;
    assert_eq!(asked.body["created"], 0, "{}", asked.text);
    let (ready, reason, _) = world.pool_condition("Ready").await.unwrap();
    assert_eq!(
        (ready.as_str(), reason.as_str()),
        ("False", "MaxTotalReached")
    );
    holds(
        "no more than three",
        Duration::from_millis(2500),
        || async { occupancy().await == 3 && world.sim.live_services().await.len() == 3 },
    )
    .await;

    world.patch_pool(json!({"maxTotal": 4})).await;
    world.wait_idle(2).await;
    assert_eq!(world.sim.live_services().await.len(), 4);
    world.finish().await;
}

/// acceptance: E13
#[tokio::test(flavor = "multi_thread")]
async fn the_tick_is_thirty_seconds_unless_set_and_a_change_is_seen_within_it() {
    let world = World::start("tick").await;
    let unset = world
        .create_pool("unset", json!({"tickIntervalSeconds": null, "minIdle": 0}))
        .await;
    assert_eq!(unset.spec.tick_interval_seconds, 30);
    world.kubectl(&["delete", "ap", "unset"]);

    world
        .create_pool(POOL, json!({"tickIntervalSeconds": 1, "minIdle": 1}))
        .await;
    let idle = world.wait_idle(1).await;
    for (tick, shortest, longest) in [(1, 0.8, 2.0), (3, 2.5, 4.5)] {
        world.patch_pool(json!({"tickIntervalSeconds": tick})).await;
        let begun = listings(&world).await.len();
        let times = until("three listings more", LONG, || async {
            let times = listings(&world).await;
            // The first two may still have the old distance.
            (times.len() >= begun + 4).then(|| times[begun + 1..].to_vec())
        })
        .await;
        // A busy machine makes some longer, and none shorter.
        let apart = times.windows(2).map(|pair| pair[1] - pair[0]);
        let least = apart.fold(f64::MAX, f64::min);
        assert!(
            (shortest..longest).contains(&least),
            "tick {tick}: {times:?}"
        );
    }

    world.patch_pool(json!({"tickIntervalSeconds": 1})).await;
    let name = &idle[0].spec.provider_name;
    let crashed = json!({"service": name, "deployment": {"status": "CRASHED"}});
    world.sim.force(crashed).await;
    let before = listings(&world).await.len();
    until("it is known to be dead", LONG, || async {
        (world.in_phase(Phase::Dead).await.len() == 1).then_some(())
    })
    .await;
    let looked = listings(&world).await.len() - before;
    assert!(looked <= 4, "after {looked} ticks");
    world.wait_idle(1).await;
    world.finish().await;
}

/// When the provider was listed, in seconds.
async fn listings(world: &World) -> Vec<f64> {
    let calls = world.sim.calls("railway").await;
    let listings = calls.iter().filter(|c| c["operation"] == "RwFleet");
    listings
        .map(|c| {
            let time: jiff::Timestamp = c["time"].as_str().unwrap().parse().unwrap();
            time.as_duration().as_secs_f64()
        })
        .collect()
}

/// acceptance: H01
#[tokio::test(flavor = "multi_thread")]
async fn dev_has_the_xmtp_network_dev_and_a_branch_of_its_own() {
    let branch = "ada/new-skill";
    let reference = json!({"name": "OPENCLAW_GIT_REF", "value": branch});
    let key = json!({"name": "OPENROUTER_API_KEY", "value": "sk-simulated"});
    let spec = json!({"environment": "dev", "minIdle": 1, "tickIntervalSeconds": 1,
        "runtime": {"env": [key, reference]}});
    let world = World::with_pool("dev", spec).await;
    let idle = world.wait_idle(1).await.remove(0);
    assert!(
        idle.spec.provider_name.contains("-dev-"),
        "{}",
        idle.spec.provider_name
    );
    let service = world.sim.service(&idle.spec.provider_name).await.unwrap();
    assert_eq!(service["variables"]["XMTP_ENV"], "dev", "{service}");
    assert_eq!(
        service["variables"]["OPENCLAW_GIT_REF"], branch,
        "{service}"
    );
    assert_eq!(
        world.pool().await.status.unwrap().resolved["xmtpEnv"],
        "dev"
    );
    let row = &world.get("/api/pool/status").await.body["instances"][0];
    assert_eq!(row["id"], idle.spec.id);
    // What the agent is told of the network when it is claimed, too.
    let answer = world.claim("Ada").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let ledger = world.sim.ledger().await;
    let made = &ledger["instances"][service["id"].as_str().unwrap()]["conversations"][0];
    assert_eq!(made["env"], "dev", "{made}");
    world.finish().await;
}

/// Two installations side by side, each with its namespace, at the same Railway project: what the one keeps, the other
/// does not see.
///
/// acceptance: H05
#[tokio::test(flavor = "multi_thread")]
async fn what_one_namespace_keeps_another_does_not_see() {
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1});
    let here = World::with_pool("here", spec.clone()).await;
    // With a simulator of its own, which nobody uses.
    let mut there = World::bare("there").await;
    let mut environment = here.environment(&[]);
    environment.insert("AGENTPOOL_NAMESPACE".into(), there.namespace.to_string());
    there.operator = Some(Operator::start("run", &environment));
    there.create_pool(POOL, spec).await;
    there.wait_idle(2).await;
    let known = async |world: &World| -> Vec<String> {
        let rows = world.get("/api/pool/status").await.body["instances"].clone();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(here.claim("Ada").await.status, 200);
    here.wait_idle(2).await;
    until("each API knows its own", LONG, || async {
        let (ours, theirs) = (known(&here).await, known(&there).await);
        assert!(
            theirs.iter().all(|id| !ours.contains(id)),
            "{ours:?} {theirs:?}"
        );
        (ours.len() == 3 && theirs.len() == 2).then_some(())
    })
    .await;
    assert_eq!(there.get("/api/pool/counts").await.body["claimed"], 0);
    let name = format!("/api/pool/counts?pool={}/{POOL}", &*here.namespace);
    assert_eq!(there.get(&name).await.status, 404, "not even by name");
    let id = known(&here).await.remove(0);
    let kill = there
        .call(
            Method::DELETE,
            &format!("/api/pool/instances/{id}/destroy"),
            json!({}),
        )
        .await;
    let before = here.list().await.len();
    // All of the other goes, and nothing of ours.
    there
        .pools()
        .delete(POOL, &DeleteParams::default())
        .await
        .unwrap();
    until("the other is gone", LONG, || async {
        there.list().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(here.list().await.len(), before, "{}", kill.text);
    assert_eq!(here.in_phase(Phase::Idle).await.len(), 2);
    assert_eq!(here.in_phase(Phase::Claimed).await.len(), 1);
    assert_eq!(here.sim.live_services().await.len(), 3);
    drop(there);
    here.finish().await;
}
