//! A claim renames the agent's service after it, so that a person recognises it; nothing depends on that.

use agentpool::domain::instance::phase::Phase;
use serde_json::{Value, json};

use crate::lifecycle::{host, ticks};
use crate::support::wait::{LONG, until};
use crate::support::world::World;

/// Railway's limit.
const NAME_MAX: usize = 32;

/// Once per claim, although listings go on showing the old name for a while.
///
/// acceptance: B23
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_agent_s_service_is_renamed_after_it_once() {
    let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1});
    for (agent, slug) in [
        ("Ada Lovelace", Some("ada-lovelace")),
        ("  Tokyo -- Trip Planner (draft)!", Some("tokyo-trip-pla")),
        ("日本", None),
    ] {
        let world = World::with_pool("renamed", spec.clone()).await;
        let answer = world.claim(agent).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap();
        let claimed = world.in_phase(Phase::Claimed).await.remove(0);
        let first = &claimed.spec.provider_name;
        let wanted = slug.map_or_else(|| first.clone(), |slug| format!("stg-{slug}-{id}"));
        assert!(wanted.len() <= NAME_MAX && wanted.ends_with(id), "{wanted}");
        until("the service is called after the agent", LONG, || async {
            world.sim.service(&wanted).await
        })
        .await;
        ticks(&world, 4).await;
        let renames = world.sim.railway_calls("RwServiceRename").await;
        assert_eq!(renames, usize::from(slug.is_some()), "{agent}");
        assert_eq!(world.in_phase(Phase::Claimed).await.len(), 1);
        // Its address is what it was.
        let url = format!("https://{}", host(&claimed));
        let status = world.agent(&url, "/pool/health", None).await;
        assert_eq!(status.status, 200);
        world.finish().await;
    }
}

/// A rename that Railway refuses is tried three times at most, and the claim stands; a pool that does not want it sends
/// none.
///
/// acceptance: B23
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_fails_does_not_hurt_the_claim() {
    let refused = json!({"kind": "gql_error", "message": "Problem processing request"});
    for (rename, least, most) in [(true, 1, 3), (false, 0, 0)] {
        let claims = json!({"renameOnClaim": rename});
        let spec = json!({"minIdle": 1, "tickIntervalSeconds": 1, "claim": claims});
        let mut world = World::with_pool("unrenamed", spec).await;
        let rule = json!({"match": {"field": "serviceUpdate"}, "fault": refused});
        world.sim.fault("railway", rule).await;
        let answer = world.claim("Ada Lovelace").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["instanceId"].as_str().unwrap();
        let name = format!("convos-agent-stg-{id}");
        let sent = || world.sim.railway_calls("RwServiceRename");
        until("it was tried", LONG, || async {
            (sent().await >= least).then_some(())
        })
        .await;
        ticks(&world, 6).await;
        let tries = sent().await;
        assert!((least..=most).contains(&tries), "{tries}");
        assert!(world.sim.service(&name).await.is_some(), "its first name");
        let claimed = world.in_phase(Phase::Claimed).await;
        assert_eq!(json!(claimed[0].spec.id), answer.body["instanceId"]);
        let row = world.get("/api/pool/status").await.body["instances"].clone();
        let mut rows = row.as_array().unwrap().iter();
        let row = rows.find(|r| r["id"] == id).unwrap();
        assert_eq!(
            (&row["status"], &row["conversationId"]),
            (&json!("claimed"), &answer.body["conversationId"])
        );
        assert_ne!(row["inviteUrl"], Value::Null);
        assert!(world.operator().runs());
        // Under its first name it is found and removed like any other.
        world.delete(id).await;
        world.wait_gone(id).await;
        assert!(world.sim.service(&name).await.is_none());
        world.finish().await;
    }
}
