//! Every answer that Railway was seen to give, at every step of a creation and a removal, with and without the
//! operator's death at that step. Whatever it was, in the end there is one agent, and then none.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cosmos::{Cosmos, POOL, simulate};
use crate::process::At;
use crate::sample::{each, stride};

/// What changes something, with the operation that sends it.
const WRITES: &[(&str, &str)] = &[
    ("serviceCreate", "RwServiceCreate"),
    ("serviceDomainCreate", "RwDomainCreate"),
    ("serviceInstanceUpdate", "RwConfigureAndDeploy"),
    ("serviceDelete", "RwServiceDelete"),
];
const READS: &[(&str, &str)] = &[
    ("environment", "RwFleet"),
    ("serviceInstance", "RwServiceInstance"),
    ("variables", "RwVariables"),
    ("project", "RwProject"),
];

/// Faults of any request; those that may take effect in both forms.
fn of_any() -> Vec<Value> {
    let mut all = vec![
        json!({"kind": "rate_limit", "seconds": 30}),
        json!({"kind": "rate_limit_bare"}),
        json!({"kind": "edge_block", "html": true}),
        json!({"kind": "slow", "seconds": 12}),
        json!({"kind": "gql_error", "message": "Not Authorized"}),
    ];
    for applied in [false, true] {
        all.extend([
            json!({"kind": "http_5xx", "status": 503, "applied": applied}),
            json!({"kind": "http_5xx", "html": true, "applied": applied}),
            json!({"kind": "timeout", "applied": applied}),
            json!({"kind": "reset", "applied": applied}),
            json!({"kind": "no_data", "applied": applied}),
            json!({"kind": "gql_error", "message": "Problem processing request", "applied": applied}),
        ]);
    }
    all
}

/// Faults of one field only.
fn of_field(field: &str) -> Vec<Value> {
    match field {
        "serviceCreate" => vec![
            json!({"kind": "quota"}),
            json!({"kind": "lag", "seconds": 20}),
            json!({"kind": "fresh_not_found", "seconds": 10}),
            json!({"kind": "removed_externally", "seconds": 60}),
        ],
        "serviceInstanceUpdate" => vec![
            json!({"kind": "fail_at", "at": "build"}),
            json!({"kind": "fail_at", "at": "pull"}),
            json!({"kind": "fail_at", "at": "start"}),
            json!({"kind": "fail_at", "at": "healthcheck"}),
            json!({"kind": "stuck"}),
            json!({"kind": "crash_after", "seconds": 20}),
            json!({"kind": "needs_approval"}),
            json!({"kind": "skipped"}),
            json!({"kind": "unprompted_deploy", "seconds": 30}),
        ],
        "serviceDelete" => vec![json!({"kind": "lag", "seconds": 20})],
        _ => vec![],
    }
}

struct Case {
    field: &'static str,
    operation: &'static str,
    fault: Value,
    dies: Option<At>,
}

async fn life(case: &Case) {
    let mut world = Cosmos::new(5);
    world.checks.removals_happen();
    let quick = json!({"building": 2.0, "deploying": 1.0, "app_boot": 1.0});
    world.timings(&quick);
    // What deploys is more than one field in one document.
    let about = match case.fault["kind"].as_str() {
        Some(
            "fail_at" | "stuck" | "crash_after" | "needs_approval" | "skipped"
            | "unprompted_deploy",
        ) => json!({}),
        _ => json!({"field": case.field}),
    };
    world.railway_fault(&json!({"match": about, "count": 1, "fault": case.fault}));
    world.operator_with(|process| {
        if let Some(at) = case.dies {
            process.dies_on(case.operation, at);
        }
    });
    world.create_pool(POOL, &json!({"minIdle": 1, "deletionPolicy": "Destroy"}));
    world.until_settled(1).await;
    let first = world
        .instances()
        .remove(0)
        .metadata
        .name
        .unwrap_or_default();
    world.delete(&first).expect("deleted");
    let limit = Duration::from_secs(7200);
    world
        .until("the first is gone", limit, |w| {
            w.instances().iter().all(|i| i.spec.id != first)
        })
        .await;
    world.until_settled(1).await;
    world.delete_pool(POOL);
    world.until_empty().await;
    world
        .until("the pool is gone", limit, |w| w.pool(POOL).is_none())
        .await;
}

fn run(cases: &[Case]) {
    let name = |c: &Case| {
        format!(
            "{} answers {} and the operator dies: {:?}",
            c.field, c.fault, c.dies
        )
    };
    each(cases, name, |case| simulate(life(case)));
    println!("{} answers", cases.len());
}

fn cases(fields: &[(&'static str, &'static str)], deaths: &[Option<At>]) -> Vec<Case> {
    let mut all = vec![];
    for (field, operation) in fields {
        for fault in of_any().into_iter().chain(of_field(field)) {
            for dies in deaths {
                all.push(Case {
                    field,
                    operation,
                    fault: fault.clone(),
                    dies: *dies,
                });
            }
        }
    }
    all
}

#[test]
fn every_answer_to_every_write() {
    let stride = usize::try_from(stride()).unwrap();
    run(&cases(WRITES, &[None])
        .into_iter()
        .step_by(stride)
        .collect::<Vec<_>>());
}

#[test]
fn every_answer_to_every_write_and_then_death() {
    let all = cases(WRITES, &[Some(At::AfterEffect)]);
    let stride = usize::try_from(stride()).unwrap();
    run(&all.into_iter().step_by(stride).collect::<Vec<_>>());
}

#[test]
fn every_answer_to_every_read() {
    let stride = usize::try_from(stride()).unwrap();
    run(&cases(READS, &[None])
        .into_iter()
        .step_by(stride)
        .collect::<Vec<_>>());
}
