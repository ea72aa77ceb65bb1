//! Waiting for a state, never for a duration.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a state may take at most before the test fails; far more than it should.
pub const LONG: Duration = Duration::from_secs(60);

/// Waits until `look` gives something. Panics, naming `what`, when it does not within `limit`.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// Asserts that something stays true for a while: for promises that something does not happen.
pub async fn holds<F>(what: &str, during: Duration, mut look: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let started = Instant::now();
    while started.elapsed() < during {
        assert!(look().await, "did not stay true: {what}");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}
