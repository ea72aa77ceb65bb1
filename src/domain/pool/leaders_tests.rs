//! Two processes that both believe they lead: same view, both decide, one write wins, nothing is created twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use proptest::prelude::*;
use serde_json::json;

use super::fixture::{World, world};
use crate::domain::instance::phase::Phase;

const MIN: usize = 4;
const MAX: usize = 9;

/// The API server: the pool with its version, and the objects.
struct Cluster {
    truth: World,
    version: u64,
}

/// A process: what its caches show, as of one moment.
struct Leader {
    cache: World,
    version: u64,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A process's caches catch up.
    Refresh(usize),
    /// It decides on what it sees, writes at the version it saw, and creates what is listed.
    Pass(usize),
    /// As above, but it dies after the write.
    Write(usize),
    /// The nth agent is proven.
    Ready(usize),
    /// The nth agent is claimed.
    Claim(usize),
}

impl Cluster {
    /// The conditional write of the status. Whether it was taken.
    fn write(&mut self, leader: &mut Leader) -> bool {
        leader.cache.pass();
        if leader.version != self.version {
            return false;
        }
        self.truth.pool.status = leader.cache.pool.status.clone();
        self.version += 1;
        leader.version = self.version;
        true
    }

    fn create(&mut self, leader: &Leader) {
        let listed = &leader.cache.pool.status.as_ref().unwrap().creating;
        for id in listed {
            // AlreadyExists is done.
            if !self.truth.members.iter().any(|m| &m.id == id) {
                self.truth
                    .members
                    .push(super::fixture::member(id, Phase::Provisioning));
            }
        }
    }

    fn apply(&mut self, event: Event, leaders: &mut [Leader; 2]) {
        match event {
            Event::Refresh(n) => {
                let drawn = leaders[n].cache.drawn;
                leaders[n].cache = self.truth.clone();
                leaders[n].cache.drawn = drawn;
                leaders[n].version = self.version;
            }
            Event::Write(n) => drop(self.write(&mut leaders[n])),
            Event::Pass(n) => {
                if self.write(&mut leaders[n]) {
                    self.create(&leaders[n]);
                }
            }
            Event::Ready(n) => self.turn(n, Phase::Provisioning, Phase::Idle),
            Event::Claim(n) => self.turn(n, Phase::Idle, Phase::Claimed),
        }
    }

    fn turn(&mut self, n: usize, from: Phase, to: Phase) {
        let all = &mut self.truth.members;
        if let Some(m) = all.get_mut(n).filter(|m| m.phase == from) {
            m.phase = to;
        }
    }

    /// Objects, and ids that will be.
    fn total(&self) -> usize {
        self.truth.members.len() + self.truth.view().unseen().len()
    }

    fn in_stock_or_coming(&self) -> usize {
        let claimed = self
            .truth
            .members
            .iter()
            .filter(|m| m.phase == Phase::Claimed)
            .count();
        self.total() - claimed
    }
}

fn start() -> (Cluster, [Leader; 2]) {
    let truth = world(json!({"minIdle": MIN, "maxTotal": MAX}));
    // Each process draws its own ids.
    let leaders = [0, 1_000_000].map(|drawn| Leader {
        cache: World {
            drawn,
            ..truth.clone()
        },
        version: 0,
    });
    (Cluster { truth, version: 0 }, leaders)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..2usize).prop_map(Event::Refresh),
        (0..2usize).prop_map(Event::Pass),
        (0..2usize).prop_map(Event::Write),
        (0..MAX).prop_map(Event::Ready),
        (0..MAX).prop_map(Event::Claim),
    ];
    proptest::collection::vec(event, 0..60)
}

#[test]
fn of_two_leaders_with_one_view_one_creates() {
    let (mut cluster, mut leaders) = start();
    cluster.apply(Event::Pass(0), &mut leaders);
    cluster.apply(Event::Pass(1), &mut leaders);
    assert_eq!(cluster.total(), MIN);
    // And the one that lost finds nothing left to do.
    cluster.apply(Event::Refresh(1), &mut leaders);
    cluster.apply(Event::Pass(1), &mut leaders);
    assert_eq!(cluster.total(), MIN);
}

#[test]
fn what_a_dead_leader_listed_is_created_by_the_next() {
    let (mut cluster, mut leaders) = start();
    cluster.apply(Event::Write(0), &mut leaders);
    assert_eq!(cluster.truth.members.len(), 0);
    cluster.apply(Event::Refresh(1), &mut leaders);
    cluster.apply(Event::Pass(1), &mut leaders);
    assert_eq!((cluster.truth.members.len(), cluster.total()), (MIN, MIN));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn two_leaders_never_create_too_many(events in events()) {
        let (mut cluster, mut leaders) = start();
        for event in events {
            cluster.apply(event, &mut leaders);
            prop_assert!(cluster.total() <= MAX, "{} of {MAX} after {event:?}", cluster.total());
            prop_assert!(cluster.in_stock_or_coming() <= MIN, "{} after {event:?}", cluster.in_stock_or_coming());
        }
    }
}
