//! What an answer of Railway leads to: for each class of its errors, what is done next to make the one domain.

use agentpool::domain::instance::phase::{Phase, phase_of};
use serde_json::{Value, json};

use crate::lifecycle::{replenish_one, service_id};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, SPEED, World};

/// One answer to the first request for a domain.
struct Row {
    name: &'static str,
    fault: Value,
    /// How often the domain is asked for in all.
    sent: usize,
    /// It is looked for before anything else is done.
    looked: bool,
    /// The agent comes to stand in stock; else it is given up, and nothing is left of it.
    made: bool,
}

fn error(message: &str) -> Value {
    json!({"kind": "gql_error", "message": message})
}

fn applied(mut fault: Value) -> Value {
    fault["applied"] = true.into();
    fault
}

fn rows() -> Vec<Row> {
    let row = |name, fault, sent, looked, made| Row {
        name,
        fault,
        sent,
        looked,
        made,
    };
    let mut partial = error("An operation is already in progress");
    partial["data"] =
        json!({"serviceDomainCreate": {"id": "no-domain", "domain": "nowhere.up.railway.app"}});
    let mut invalid = error("Error in targetPort - Invalid input");
    invalid["code"] = "BAD_USER_INPUT".into();
    let mut document = error("Cannot query field");
    document["code"] = "GRAPHQL_VALIDATION_FAILED".into();
    let lost = json!({"kind": "http_5xx", "status": 502, "html": true});
    let late = json!({"kind": "timeout", "seconds": SPEED * 0.5});
    let limit = json!({"kind": "rate_limit", "seconds": SPEED * 2.0});
    let passing = error("Problem processing request");
    vec![
        // It may have happened: looked for, found, and not sent again.
        row("a page instead of an answer", applied(lost), 1, true, true),
        row(
            "a cut connection",
            applied(json!({"kind": "reset"})),
            1,
            true,
            true,
        ),
        row("no answer for a while", applied(late), 1, true, true),
        row(
            "neither data nor errors",
            applied(json!({"kind": "no_data"})),
            1,
            true,
            true,
        ),
        row("passing trouble inside", applied(passing), 1, true, true),
        // It did not happen, and that is certain: sent again, later.
        row("a used-up limit", limit, 2, false, true),
        row(
            "something else under way",
            error("Cannot redeploy yet, please wait"),
            2,
            false,
            true,
        ),
        row("errors beside data", partial, 2, false, true),
        row(
            "too soon to be known",
            error("ServiceInstance not found"),
            2,
            false,
            true,
        ),
        row(
            "not authorized for what is not there yet",
            error("Not Authorized"),
            2,
            false,
            true,
        ),
        row("an input that it does not take", invalid, 2, false, true),
        // No repetition helps.
        row(
            "a state that does not allow it",
            error("Deployment is not restartable"),
            1,
            false,
            false,
        ),
        row(
            "a document that it does not take",
            document,
            1,
            false,
            false,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_next_follows_from_the_class_of_the_answer() {
    let world = World::start("wire-classes").await;
    let breaker = json!({"failures": 50});
    let spec =
        json!({"minIdle": 0, "maxTotal": 30, "tickIntervalSeconds": 1, "circuitBreaker": breaker});
    // What is given up is still to be seen when it is looked for.
    let slow = json!({"timings": {"service_delete": 2.0 * SPEED}});
    world.sim.set("railway", slow).await;
    world.create_pool(POOL, spec).await;
    world.wait_ready().await;
    for row in rows() {
        let rule =
            json!({"match": {"field": "serviceDomainCreate"}, "count": 1, "fault": row.fault});
        world.sim.fault("railway", rule).await;
        let seen = world.sim.calls("railway").await.len();
        let id = replenish_one(&world).await;
        let settled = until(row.name, LONG, || async {
            match world.instance(&id).await {
                Some(i) if phase_of(&i) == Phase::Idle => Some(Some(i)),
                Some(_) => None,
                None => Some(None),
            }
        })
        .await;
        assert_eq!(settled.is_some(), row.made, "{}", row.name);
        let calls = world.sim.calls("railway").await.split_off(seen);
        let own: Vec<&str> = calls
            .iter()
            .map(|c| c["operation"].as_str().unwrap())
            .filter(|o| *o != "RwFleet")
            .collect();
        let asked: Vec<usize> = (0..own.len())
            .filter(|i| own[*i] == "RwDomainCreate")
            .collect();
        assert_eq!(asked.len(), row.sent, "{}: {own:?}", row.name);
        let next = own.get(asked[0] + 1).copied();
        let looked = next == Some("RwServiceInstance");
        assert_eq!(looked, row.looked, "{}: {own:?}", row.name);
        let Some(instance) = settled else {
            let live = world.sim.live_services().await;
            let left = live
                .iter()
                .any(|s| s["owner"].as_str().unwrap().ends_with(&id));
            assert!(!left, "{}: {live:?}", row.name);
            continue;
        };
        // One domain, the one that is recorded, and one deployment.
        let state = world.sim.state("railway").await;
        let services = state["services"].as_array().unwrap();
        let service = services.iter().find(|s| s["id"] == service_id(&instance));
        let domains = service.unwrap()["domains"].as_array().unwrap().clone();
        assert_eq!(domains.len(), 1, "{}: {domains:?}", row.name);
        let url = instance.status.unwrap().url.unwrap();
        assert_eq!(
            url,
            format!("https://{}", domains[0].as_str().unwrap()),
            "{}",
            row.name
        );
        assert_eq!(
            service.unwrap()["deployments"].as_array().unwrap().len(),
            1,
            "{}",
            row.name
        );
    }
    world.finish().await;
}
