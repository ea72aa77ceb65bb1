//! What a decision costs: they run for every instance at every tick, and for a pool with all its members.
//!
//! `cargo bench --bench decide`

#![allow(
    missing_docs,
    reason = "criterion's macros make functions without documentation"
)]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use std::hint::black_box;
use std::time::Duration;

use agentpool::api::{AgentInstance, AgentPool};
use agentpool::domain::instance::decide::decide;
use agentpool::domain::instance::phase::Phase;
use agentpool::domain::instance::status::{Given, status};
use agentpool::domain::instance::view::{Evidence, Limits, Listed, Memory, View};
use agentpool::domain::pool;
use agentpool::domain::pool::view::{Member, ProviderHealth, RequestProgress};
use agentpool::domain::resource::{Liveness, Resource};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;

const MEMBERS: usize = 10_000;

fn idle() -> AgentInstance {
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"id": "i", "poolRef": {"name": "p"}, "providerName": "n", "turn": 1,
            "template": {"revision": "r", "hash": "h"}},
        "status": {"turn": 1, "url": "https://a", "provider": {"id": "s1", "state": "Running"},
            "runtime": {"dialect": "PoolServer"}},
    });
    serde_json::from_value(object).unwrap()
}

fn steady<'a>(instance: &'a AgentInstance, evidence: &'a Evidence) -> View<'a> {
    let resource = Resource {
        name: "n".into(),
        id: "s1".into(),
        liveness: Liveness::Running,
        native_state: None,
        facts: Default::default(),
        created_at: None,
    };
    View {
        instance,
        plan: &[],
        listed: Listed::Present(Box::new(resource)),
        progress: None,
        evidence,
        memory: Memory {
            probed: Some(Duration::from_secs(1)),
            ..Memory::default()
        },
        limits: Limits::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn instance(c: &mut Criterion) {
    let (mut object, evidence) = (idle(), Evidence::default());
    let given = Given {
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
        operation_id: "op".into(),
        token_key: None,
        image: None,
        image_digest: None,
        source_branch: None,
        secrets: None,
    };
    let first = decide(&steady(&object, &evidence));
    object.status = Some(status(&steady(&object, &evidence), &first, &given));
    let view = steady(&object, &evidence);
    let decision = decide(&view);
    assert_eq!(object.status, Some(status(&view, &decision, &given)));
    c.bench_function("instance/decide idle, steady", |b| {
        b.iter(|| decide(black_box(&view)));
    });
    c.bench_function("instance/status idle, steady", |b| {
        b.iter(|| status(black_box(&view), black_box(&decision), &given));
    });
}

fn pool(c: &mut Criterion) {
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"environment": "staging", "minIdle": 1000, "maxTotal": 10000,
            "provider": {"railway": {"tokenSecretRef": {"name": "t"}, "source": {"image": {"reference": "i:1"}},
                "project": {"projectId": "p", "environmentId": "e"}}}, "runtime": {}},
        "status": {"creating": (0..50).map(|i| format!("m{}", i * 199)).collect::<Vec<_>>()},
    });
    let object: AgentPool = serde_json::from_value(object).unwrap();
    let member = |i: usize| Member {
        id: format!("m{i}"),
        object: format!("agent-m{i}"),
        phase: [Phase::Claimed, Phase::Idle, Phase::Claimed][i % 3],
        protected: false,
        creation_failed: None,
        owed: None,
        reason: None,
        drift: None,
        created_at: None,
    };
    let members: Vec<Member> = (0..MEMBERS).map(member).collect();
    let fresh_ids: Vec<String> = (0..50).map(|i| format!("f{i}")).collect();
    let progress = RequestProgress::default();
    let refused = pool::view::Refused::default();
    let view = pool::view::View {
        pool: &object,
        members: &members,
        waiting: 0,
        provider: ProviderHealth::Reachable(Default::default()),
        listing: Default::default(),
        image: agentpool::domain::image::Image::None,
        unsupported: None,
        secrets: None,
        revision: Some("p-1".into()),
        requests: &[],
        progress: &progress,
        refused: &refused,
        fresh_ids: &fresh_ids,
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
        tick: Duration::from_secs(30),
        release: "r",
    };
    c.bench_function("pool/decide 10,000 members", |b| {
        b.iter(|| pool::decide::decide(black_box(&view)));
    });
    let decision = pool::decide::decide(&view);
    c.bench_function("pool/status 10,000 members", |b| {
        b.iter(|| pool::status::status(black_box(&view), black_box(&decision), vec![]));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = instance, pool
}
criterion_main!(benches);
