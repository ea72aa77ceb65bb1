//! Time, entropy and waiting: the only file that reads a clock or a random source.
//!
//! `now` goes into objects and is what people read; `monotonic` measures. A deadline that another process set is
//! counted from when we first saw it, on `monotonic`, never from a timestamp in an object: clocks differ.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A point on a process's own monotonic clock: the time since the clock was made.
pub type Monotonic = Duration;

/// Reads time. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    origin: tokio::time::Instant,
    /// Wall time at the origin, where wall time follows the monotonic clock.
    wall: Option<jiff::Timestamp>,
}

impl Clock {
    /// The system's clocks. Under tokio's paused time `monotonic` and `sleep` are virtual.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the file that reads clocks"
    )]
    pub fn system() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
            wall: None,
        }
    }

    /// A clock whose wall time starts at `wall` and follows tokio's: under paused time both are virtual.
    pub fn virtual_from(wall: jiff::Timestamp) -> Self {
        Self {
            wall: Some(wall),
            ..Self::system()
        }
    }

    /// Wall time, for objects and people.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the file that reads clocks"
    )]
    pub fn now(&self) -> jiff::Timestamp {
        match self.wall {
            Some(wall) => wall.saturating_add(self.monotonic()).unwrap_or(wall),
            None => jiff::Timestamp::now(),
        }
    }

    /// Time since this clock was made; never falls.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the file that reads clocks"
    )]
    pub fn monotonic(&self) -> Monotonic {
        tokio::time::Instant::now().duration_since(self.origin)
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A source of randomness, seedable. Cheap to clone; clones draw from the same stream.
#[derive(Clone)]
pub struct Rng {
    inner: Arc<Mutex<StdRng>>,
}

impl Rng {
    /// Seeded from the system.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the file that reads entropy"
    )]
    pub fn system() -> Self {
        Self {
            inner: Arc::new(Mutex::new(StdRng::from_rng(&mut rand::rng()))),
        }
    }

    /// Seeded: the same numbers each time.
    pub fn seeded(seed: u64) -> Self {
        Self {
            inner: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.with(|rng| rng.random())
    }

    /// A number in `0..bound`; 0 where `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            self.with(|rng| rng.random_range(0..bound))
        }
    }

    /// A factor in `0.0..1.0`.
    pub fn fraction(&self) -> f64 {
        self.with(|rng| rng.random())
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        let mut rng = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        draw(&mut rng)
    }
}
