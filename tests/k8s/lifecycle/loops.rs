//! The tick: how often, what is listed and probed in it, and the limit that nothing exceeds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agentpool::domain::instance::phase::{Phase, phase_of};
use kube::api::ListParams;
use reqwest::Method;
use serde_json::{Value, json};

use super::{host, millis, ticks};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World, merge, pool_spec};

/// Milliseconds of a call's time.
pub fn at(call: &Value) -> i64 {
    let time: jiff::Timestamp = call["time"].as_str().unwrap().parse().unwrap();
    time.as_millisecond()
}

/// Times in milliseconds at which listings were asked for.
async fn listings(world: &World) -> Vec<i64> {
    let calls = world.sim.calls("railway").await;
    calls
        .iter()
        .filter(|c| c["operation"] == "RwFleet")
        .map(at)
        .collect()
}

/// acceptance: C01
#[tokio::test(flavor = "multi_thread")]
async fn the_tick_is_thirty_seconds_unless_set_and_a_change_is_seen_within_it() {
    let world = World::start("tick").await;
    // As a user writes it: without the field. The default is the API server's.
    let mut spec = pool_spec();
    merge(
        &mut spec,
        &json!({"minIdle": 1, "tickIntervalSeconds": null}),
    );
    let pool = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
        "metadata": {"name": POOL, "namespace": &*world.namespace}, "spec": spec});
    let file = std::env::temp_dir().join(format!("{}.json", &*world.namespace));
    std::fs::write(&file, pool.to_string()).unwrap();
    world.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let path = "jsonpath={.spec.tickIntervalSeconds}";
    assert_eq!(world.kubectl(&["get", "ap", POOL, "-o", path]), "30");

    let idle = world.wait_idle(1).await;
    let name = &idle[0].spec.provider_name;
    let crashed = json!({"service": name, "deployment": {"status": "CRASHED"}});
    let last = *listings(&world).await.last().unwrap();
    world.sim.force(crashed).await;
    // A tick is spread by up to a tenth, later only.
    let dead = Duration::from_secs(35);
    until("the crash is seen within a tick", dead, || async {
        let now = world.instance(&idle[0].spec.id).await.unwrap();
        (phase_of(&now) == Phase::Dead).then_some(())
    })
    .await;
    let next = listings(&world).await.into_iter().find(|t| *t > last);
    let gap = next.unwrap() - last;
    assert!((29_000..34_500).contains(&gap), "listed after {gap} ms");

    // Set to one second it is one second, and what changes is seen within that.
    world.patch_pool(json!({"tickIntervalSeconds": 1})).await;
    let idle = world.wait_idle(1).await;
    ticks(&world, 4).await;
    let times = listings(&world).await;
    // A busy machine makes some longer, and none shorter.
    let gaps = times[times.len() - 4..].windows(2).map(|p| p[1] - p[0]);
    let least = gaps.min().unwrap();
    assert!((900..2000).contains(&least), "{times:?}");
    let crashed =
        json!({"service": idle[0].spec.provider_name, "deployment": {"status": "CRASHED"}});
    world.sim.force(crashed).await;
    let dead = Duration::from_secs(3);
    until("the crash is seen within the new tick", dead, || async {
        let now = world.instance(&idle[0].spec.id).await.unwrap();
        (phase_of(&now) == Phase::Dead).then_some(())
    })
    .await;
    world.finish().await;
}

/// Probes of each host within the last so many milliseconds: when each began.
async fn probes(world: &World, since: i64) -> BTreeMap<String, Vec<i64>> {
    let mut by_host: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for call in world.sim.calls("agents").await {
        if call["path"] == "/pool/health" && at(&call) >= since {
            let host = call["host"].as_str().unwrap().to_owned();
            by_host.entry(host).or_default().push(at(&call));
        }
    }
    by_host
}

/// acceptance: C03
#[tokio::test(flavor = "multi_thread")]
async fn every_running_agent_is_probed_each_tick_side_by_side() {
    let tick = 2;
    let world =
        World::with_pool("probes", json!({"minIdle": 5, "tickIntervalSeconds": tick})).await;
    assert_eq!(world.claim("Tokyo Trip").await.status, 200);
    let idle = world.wait_idle(5).await;
    let claimed = world.in_phase(Phase::Claimed).await;
    let mut hosts: Vec<String> = idle.iter().chain(&claimed).map(host).collect();
    assert_eq!(hosts.len(), 6);
    // One hangs for good: it costs its own probe 5 s and the others nothing.
    let hung = hosts.remove(0);
    let hang = json!({"match": {"host": hung}, "fault": {"kind": "hang", "route": "/pool/health"}});
    world.sim.fault("agents", hang).await;
    // Each of the others takes a second to answer: five in a row would not fit into a tick.
    let slow = json!({"defaults": {"status": millis(1000)}});
    world.sim.set("agents", slow).await;
    let since = jiff::Timestamp::now().as_millisecond();
    let seen = until("four probes of each", LONG, || async {
        let seen = probes(&world, since).await;
        let often = |host: &String, n| seen.get(host).is_some_and(|p| p.len() >= n);
        let all = hosts.iter().all(|h| often(h, 4)) && often(&hung, 2);
        all.then_some(seen)
    })
    .await;
    for host in &hosts {
        for pair in seen[host].windows(2) {
            let gap = pair[1] - pair[0];
            // The tick, and the second that the answer takes.
            assert!((1500..4500).contains(&gap), "{host}: {gap} ms");
        }
    }
    let gap = seen[&hung][1] - seen[&hung][0];
    assert!((4800..9000).contains(&gap), "given up after 5 s: {gap} ms");
    let unreachable = until("it shows", LONG, || async {
        let all = world.in_phase(Phase::Idle).await;
        let of_host = all.into_iter().find(|i| host(i) == hung)?;
        super::condition(&of_host, "Reachable").filter(|c| c.0 == "False")
    })
    .await;
    assert_eq!(unreachable.0, "False");

    // While it is being claimed an agent is left alone.
    world.sim.heal("agents").await;
    // A join may take long; the wrapper itself gives up a creation after 10 s, which are short here.
    let join = json!({"defaults": {"status": 0, "join": millis(2800)}});
    world.sim.set("agents", join).await;
    world.patch_pool(json!({"tickIntervalSeconds": 1})).await;
    ticks(&world, 4).await;
    let link = "https://dev.convos.org/v2?i=abc";
    let body = json!({"agentName": "Ada", "instructions": "Be kind.", "joinUrl": link});
    let claim = world.call(Method::POST, "/api/pool/claim", body);
    let watch = async {
        let claiming = until("claiming", LONG, || async {
            world.in_phase(Phase::Claiming).await.into_iter().next()
        })
        .await;
        let called = until("the call is out", LONG, || async {
            let calls = world.sim.calls("agents").await;
            let call = calls.into_iter().find(|c| {
                c["host"] == host(&claiming)
                    && c["path"] == "/pool/provision"
                    && c["status"].is_null()
            })?;
            Some(at(&call))
        })
        .await;
        let left_alone = host(&claiming);
        let during = until("the others are probed", LONG, || async {
            let seen = probes(&world, called + 1).await;
            let mut others = hosts.iter().chain([&hung]).filter(|h| **h != left_alone);
            others.all(|h| seen.contains_key(h)).then_some(seen)
        })
        .await;
        let still = world.instance(&claiming.spec.id).await.unwrap();
        assert_eq!(phase_of(&still), Phase::Claiming, "all that while");
        assert_eq!(during.get(&left_alone), None, "not while claiming");
    };
    let (answer, ()) = tokio::join!(claim, watch);
    assert_eq!(answer.status, 200, "{}", answer.text);
    world.finish().await;
}

/// acceptance: C05
#[tokio::test(flavor = "multi_thread")]
async fn the_maximum_is_never_exceeded() {
    let world = World::start("maximum").await;
    let most = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let sampler = tokio::spawn({
        let (api, most, over) = (world.instances(), most.clone(), over.clone());
        async move {
            let mut samples = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let all = api.list(&ListParams::default()).await.unwrap();
                let now = all.iter().filter(|i| phase_of(i).occupies()).count();
                most.fetch_max(now, Ordering::Relaxed);
                samples += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            samples
        }
    });
    world
        .create_pool(
            POOL,
            json!({"minIdle": 3, "maxTotal": 4, "tickIntervalSeconds": 1}),
        )
        .await;
    world.wait_idle(3).await;
    // Beyond the minimum, at the same time as claims: one fits.
    let more = || world.call(Method::POST, "/api/pool/replenish", json!({"count": 5}));
    let (one, two, ada, bob) = tokio::join!(more(), more(), world.claim("Ada"), world.claim("Bob"));
    assert_eq!((ada.status, bob.status), (200, 200));
    let created = |a: &Value| a["created"].as_i64().unwrap();
    assert!(
        created(&one.body) + created(&two.body) <= 1,
        "{} {}",
        one.text,
        two.text
    );
    world.wait_idle(2).await;
    let condition = world.pool_condition("AtCapacity").await;
    assert_eq!(condition.map(|c| c.0), Some("True".to_owned()));
    for name in ["Cleo", "Dan"] {
        assert_eq!(world.claim(name).await.status, 200);
    }
    // Four in use: the pool is short and may not create.
    let ready = until("it says so", LONG, || async {
        world
            .pool_condition("Ready")
            .await
            .filter(|c| c.1 == "MaxTotalReached")
    })
    .await;
    assert_eq!(ready.0, "False");
    ticks(&world, 3).await;
    assert_eq!(world.sim.services_ever().await.len(), 4);
    // As one goes, one may come.
    let gone = world.in_phase(Phase::Claimed).await.remove(0).spec.id;
    world.delete(&gone).await;
    world.wait_gone(&gone).await;
    world.wait_idle(1).await;
    ticks(&world, 2).await;
    assert_eq!(world.sim.services_ever().await.len(), 5);
    over.store(true, Ordering::Relaxed);
    let samples = sampler.await.unwrap();
    assert!(samples > 100, "sampled all along: {samples}");
    assert_eq!(most.load(Ordering::Relaxed), 4);
    world.finish().await;
}
