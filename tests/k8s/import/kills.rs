//! An import that dies, exactly before or after each of its writes: the next run ends with each row once.

use std::process::Stdio;

use agentpool::api::{ANNOTATION_IMPORTING, names};
use agentpool::domain::instance::phase::{Phase, phase_of};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{command, deployments, file, mark_of, of_id, pool_of, predecessor, run};
use crate::lifecycle::ticks;
use crate::support::proxy::{Proxy, Stop};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

fn stop(method: &'static str, resource: &'static str, status: bool, applied: bool) -> Stop {
    Stop {
        method,
        resource,
        status,
        applied,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_killed_is_gone_on_with_by_the_next() {
    let world = World::start("import-kills").await;
    world
        .create_pool(POOL, json!({"minIdle": 0, "tickIntervalSeconds": 1}))
        .await;
    world.wait_ready().await;
    let proxy = Proxy::start(world.client.clone()).await;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let mut stops = vec![];
    for applied in [false, true] {
        stops.push(stop("POST", "secrets", false, applied));
        stops.push(stop("POST", "agentinstances", false, applied));
        stops.push(stop("PATCH", "agentinstances", true, applied));
        stops.push(stop("PATCH", "agentinstances", false, applied));
    }
    let pool = pool_of(&world);
    let mut everyone = vec![];
    for (round, stop) in stops.into_iter().enumerate() {
        let (used, stock) = (format!("used0000000{round}"), format!("idle0000000{round}"));
        let conversation = format!("{round:032x}");
        let old = predecessor(&world, &[(&used, Some(&conversation)), (&stock, None)]).await;
        let mut rows = vec![
            json!({"id": used, "service_id": old[0].service, "status": "claimed", "agent_name": "Ada",
                "conversation_id": conversation, "gateway_token": old[0].token}),
            json!({"id": stock, "service_id": old[1].service, "status": "idle", "gateway_token": old[1].token}),
        ];
        if stop.applied {
            // So it is the one in stock that is half there.
            rows.reverse();
        }
        let path = file(&world, &format!("{round}.json"), &json!(rows).to_string());
        let arguments = ["--file", path.to_str().unwrap(), "--pool", &pool];
        proxy.stop_at(stop);
        let mut dying = command(&world, &arguments)
            .env("KUBECONFIG", proxy.kubeconfig())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        proxy.reached().await;
        dying.kill().unwrap();
        dying.wait().unwrap();
        // The operator leaves what is half there alone: nobody is given it, nothing of it is removed or built.
        ticks(&world, 3).await;
        for (id, old) in [&used, &stock].into_iter().zip(&old) {
            if let Some(half) = world.instance(id).await {
                let is_half = half.annotations().contains_key(ANNOTATION_IMPORTING);
                assert!(!is_half || phase_of(&half) != Phase::Idle, "{stop:?} {id}");
                assert!(half.metadata.deletion_timestamp.is_none());
            } else {
                let mark = mark_of(&world, &old.service).await;
                assert_eq!(mark, None, "{stop:?} {id}: recorded before it is marked");
            }
        }

        let (code, said) = run(&world, &arguments);
        assert_eq!(code, Some(0), "{stop:?}: {said}");
        let all = world.list().await;
        for (id, old) in [&used, &stock].into_iter().zip(&old) {
            assert_eq!(
                all.iter().filter(|i| &i.spec.id == id).count(),
                1,
                "{stop:?} {id}"
            );
            let mark = mark_of(&world, &old.service).await.unwrap();
            assert!(mark.ends_with(&format!("/{id}")), "{mark}");
            everyone.push((names::object_name(id), old.token.clone()));
        }
        // Those of earlier runs too.
        let kept = secrets.get("agentpool-imported-tokens").await.unwrap();
        let kept = kept.data.unwrap();
        for (name, token) in &everyone {
            assert_eq!(kept[name].0, token.as_bytes(), "{stop:?} {name}");
        }
        let claimed = until("the one in use is so still", LONG, || async {
            let it = of_id(&world, &used).await;
            let ready = it
                .status
                .as_ref()?
                .conditions
                .iter()
                .find(|c| c.type_ == "Ready")?
                .clone();
            (phase_of(&it) == Phase::Claimed && ready.status == "True").then_some(it)
        })
        .await;
        let bound = claimed.status.as_ref().unwrap().claim.as_ref().unwrap();
        assert_eq!(
            bound.conversation_id.as_ref(),
            Some(&conversation),
            "{stop:?}"
        );
        until("the one in stock is proven", LONG, || async {
            (phase_of(&of_id(&world, &stock).await) == Phase::Idle).then_some(())
        })
        .await;
        for old in &old {
            assert_eq!(deployments(&world, &old.service).await, 1, "{stop:?}");
        }
        let (code, said) = run(&world, &arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("0 imported, 2 there already"),
            "{stop:?}: {said}"
        );
    }
    assert_eq!(world.sim.services_ever().await.len(), 16, "none was made");
    assert_eq!(world.list().await.len(), 16);
    assert_eq!(world.sim.live_services().await.len(), 16);
    world.finish().await;
}
