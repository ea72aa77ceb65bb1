//! Simulated time: real monotonic time since the start, multiplied by `speed`.
//!
//! The only file that reads time or sleeps. Everything else counts in [`Ms`], simulated
//! milliseconds since the start, handed in as a parameter. Timestamps on the wire are wall-clock
//! times of the *real* moment, so that a client on an ordinary clock is never told of the future.

use jiff::{SignedDuration, Timestamp};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Simulated milliseconds since the start of the process.
pub type Ms = i64;

/// A time that never comes.
pub const NEVER: Ms = i64::MAX / 4;

/// The simulator's clock.
pub struct Clock {
    started: Instant,
    wall: Timestamp,
    speed: f64,
}

impl Clock {
    /// Starts at zero now; `speed` 10 makes ten simulated seconds of each real one.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one file of the simulator that reads clocks"
    )]
    pub fn start(speed: f64) -> Self {
        Self::start_at(Timestamp::now(), speed)
    }

    /// The same from another wall-clock time. Under tokio's paused time all of it is virtual.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one file of the simulator that reads clocks"
    )]
    pub fn start_at(wall: Timestamp, speed: f64) -> Self {
        Self {
            started: Instant::now(),
            wall,
            speed,
        }
    }

    /// Simulated milliseconds since the start.
    pub fn now(&self) -> Ms {
        (self.started.elapsed().as_secs_f64() * 1000.0 * self.speed) as Ms
    }

    /// How many times faster than real this clock runs.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// The real duration of a simulated one.
    pub fn real(&self, simulated: Ms) -> Duration {
        Duration::from_secs_f64((simulated.max(0) as f64) / 1000.0 / self.speed)
    }

    /// Real whole seconds of a simulated duration, rounded up, at least one.
    pub fn real_seconds(&self, simulated: Ms) -> i64 {
        (self.real(simulated).as_secs_f64().ceil() as i64).max(1)
    }

    /// The wall-clock time of a simulated moment.
    pub fn wall(&self, at: Ms) -> Timestamp {
        let millis = (at as f64 / self.speed) as i64;
        self.wall
            .checked_add(SignedDuration::from_millis(millis))
            .unwrap_or(self.wall)
    }

    /// RFC 3339 with milliseconds, as Railway writes it.
    pub fn stamp(&self, at: Ms) -> String {
        self.wall(at).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
    }

    /// RFC 3339 with nanoseconds, as Railway's logs have it.
    pub fn stamp_nanos(&self, at: Ms) -> String {
        self.wall(at).strftime("%Y-%m-%dT%H:%M:%S%.9fZ").to_string()
    }

    /// Sleeps a simulated duration.
    pub async fn sleep(&self, simulated: Ms) {
        if simulated > 0 {
            tokio::time::sleep(self.real(simulated)).await;
        }
    }

    /// Sleeps until a simulated moment.
    pub async fn sleep_until(&self, at: Ms) {
        while self.now() < at {
            self.sleep(at - self.now()).await;
        }
    }

    /// Waits for `work`, at most a simulated duration.
    pub async fn timeout<T>(&self, simulated: Ms, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.real(simulated), work).await.ok()
    }

    /// Sleeps a real duration, whatever the speed (housekeeping only).
    pub async fn sleep_real(&self, real: Duration) {
        tokio::time::sleep(real).await;
    }
}
