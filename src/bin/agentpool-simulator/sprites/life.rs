//! Cold, warm, running: the states of a sprite, what holds it awake, and when it falls asleep
//! (sprites.md 2). No I/O and no clock.

use crate::clock::Ms;
use serde::Serialize;
use std::collections::BTreeMap;

/// The state as the API tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No memory; processes start afresh.
    Cold,
    /// Frozen.
    Warm,
    /// Live, and billed.
    Running,
}

impl Status {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Status::Cold => "cold",
            Status::Warm => "warm",
            Status::Running => "running",
        }
    }
}

/// How long the steps between states take.
#[derive(Clone, Copy)]
pub struct Times {
    /// From cold to running.
    pub cold_wake: Ms,
    /// From warm to running.
    pub warm_wake: Ms,
    /// Idle until it is frozen.
    pub idle_to_warm: Ms,
    /// Frozen until it loses its memory.
    pub warm_to_cold: Ms,
}

/// A task that holds the sprite awake (sprites.md 3.10).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// When it was first put.
    pub started: Ms,
    /// It holds until then.
    pub expires: Ms,
}

/// The life of one sprite.
#[derive(Clone, Debug)]
pub struct Life {
    /// Where it is.
    pub status: Status,
    /// Since when.
    pub since: Ms,
    /// A wake is complete from then on.
    pub ready_at: Ms,
    /// The last sign of activity.
    pub last_activity: Ms,
    /// Requests in flight, open connections and attached commands.
    pub holds: u32,
    /// Tasks by name.
    pub tasks: BTreeMap<String, Task>,
    /// When it last began to run.
    pub last_running: Option<Ms>,
    /// When it was last frozen.
    pub last_warming: Option<Ms>,
    /// Billed time of runs that are over.
    awake: Ms,
}

impl Life {
    /// A new sprite: cold.
    pub fn new(now: Ms) -> Self {
        Self {
            status: Status::Cold,
            since: now,
            ready_at: now,
            last_activity: now,
            holds: 0,
            tasks: BTreeMap::new(),
            last_running: None,
            last_warming: None,
            awake: 0,
        }
    }

    /// Something needs it running: tells which state it was woken from, if it slept.
    pub fn wake(&mut self, now: Ms, times: Times) -> Option<Status> {
        self.last_activity = self.last_activity.max(now);
        let takes = match self.status {
            Status::Running => return None,
            Status::Warm => times.warm_wake,
            Status::Cold => times.cold_wake,
        };
        let from = self.status;
        self.enter(Status::Running, now);
        self.ready_at = now + takes;
        Some(from)
    }

    /// Goes where it is told, at once.
    pub fn enter(&mut self, status: Status, at: Ms) {
        if self.status == Status::Running {
            self.awake += (at - self.since).max(0);
        }
        match status {
            Status::Running => self.last_running = Some(at),
            Status::Warm => self.last_warming = Some(at),
            Status::Cold => self.tasks.clear(),
        }
        self.ready_at = at;
        self.status = status;
        self.since = at;
    }

    /// Lets time pass: the states it has entered meanwhile, in order.
    pub fn advance(&mut self, now: Ms, times: Times) -> Vec<Status> {
        let mut entered = Vec::new();
        if let Some(at) = self.falls_asleep(times)
            && at <= now
        {
            self.enter(Status::Warm, at);
            entered.push(Status::Warm);
        }
        if self.status == Status::Warm && self.since + times.warm_to_cold <= now {
            self.enter(Status::Cold, self.since + times.warm_to_cold);
            entered.push(Status::Cold);
        }
        entered
    }

    fn falls_asleep(&self, times: Times) -> Option<Ms> {
        if self.status != Status::Running || self.holds > 0 {
            return None;
        }
        let idle = self.last_activity.max(self.ready_at) + times.idle_to_warm;
        let held = self.tasks.values().map(|t| t.expires).max();
        Some(idle.max(held.unwrap_or(idle)))
    }

    /// Milliseconds it has been billed for.
    pub fn awake(&self, now: Ms) -> Ms {
        let running = self.status == Status::Running;
        self.awake
            + if running {
                (now - self.since).max(0)
            } else {
                0
            }
    }
}

#[cfg(test)]
mod tests {
    use super::{Life, Status, Task, Times};

    const TIMES: Times = Times {
        cold_wake: 1500,
        warm_wake: 300,
        idle_to_warm: 30_000,
        warm_to_cold: 600_000,
    };

    #[test]
    fn it_wakes_on_request_and_sleeps_by_itself() {
        let mut life = Life::new(0);
        assert_eq!(life.wake(1000, TIMES), Some(Status::Cold));
        assert_eq!((life.status, life.ready_at), (Status::Running, 2500));
        assert_eq!(life.wake(3000, TIMES), None, "awake already");
        assert_eq!(life.advance(32_999, TIMES), []);
        assert_eq!(life.advance(33_000, TIMES), [Status::Warm]);
        assert_eq!(life.awake(40_000), 32_000, "billed while running only");
        assert_eq!(life.wake(40_000, TIMES), Some(Status::Warm));
        assert_eq!(life.ready_at, 40_300);
        assert_eq!(life.advance(1_000_000, TIMES), [Status::Warm, Status::Cold]);
        assert_eq!(life.awake(1_000_000), 32_000 + 30_300);
    }

    #[test]
    fn what_is_in_flight_and_tasks_hold_it_awake() {
        let mut life = Life::new(0);
        life.wake(0, TIMES);
        life.holds = 1;
        assert_eq!(life.advance(500_000, TIMES), []);
        life.holds = 0;
        life.last_activity = 500_000;
        let task = Task {
            started: 500_000,
            expires: 800_000,
        };
        life.tasks.insert("agentpool".to_owned(), task);
        assert_eq!(life.advance(799_999, TIMES), []);
        assert_eq!(
            life.advance(800_000, TIMES),
            [Status::Warm],
            "the task is over, and it is idle for long"
        );
        assert_eq!(life.since, 800_000);
    }
}
