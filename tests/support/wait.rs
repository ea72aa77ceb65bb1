//! Waiting for a state, never for a duration.
//!
//! A machine that does other things beside makes everything slow, what is waited for as well as the looks at it. So a
//! limit is not a time on the wall: a look counts for no more than it takes on a machine at rest.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long a state may take at most before the test fails; far more than it should.
pub const LONG: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);
/// What a look with its pause counts at most.
const LOOK: Duration = Duration::from_millis(100);
/// By the clock on the wall no more than so many times the limit.
const AT_MOST: u32 = 5;
/// How long something may go on at all.
const ENDLESS: Duration = Duration::from_secs(1200);

/// What is left of a limit.
struct Patience {
    limit: Duration,
    spent: Duration,
    began: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            spent: Duration::ZERO,
            began: Instant::now(),
        }
    }

    /// Pauses after a look begun at `look`; whether it is over.
    async fn pause(&mut self, look: Instant) -> bool {
        tokio::time::sleep(PAUSE).await;
        self.spent += look.elapsed().min(LOOK);
        self.spent >= self.limit || self.began.elapsed() >= self.limit * AT_MOST
    }
}

/// Waits until `look` gives something. Panics, naming `what`, when it does not within `limit`.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let mut patience = Patience::new(limit);
    loop {
        let began = Instant::now();
        if let Some(found) = look().await {
            return found;
        }
        let over = patience.pause(began).await;
        assert!(
            !over,
            "waited {limit:?} ({:?} on the wall) for: {what}",
            patience.began.elapsed()
        );
    }
}

/// Waits until `look` gives something, however long that takes while what it shows meanwhile changes. Panics, naming
/// `what` and what stayed, when nothing changes for as long as [`LONG`].
pub async fn progress<T, S, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    S: PartialEq + Debug,
    F: Future<Output = Result<T, S>>,
{
    let begun = Instant::now();
    let mut patience = Patience::new(LONG);
    let mut last = None;
    loop {
        let began = Instant::now();
        let now = match look().await {
            Ok(found) => return found,
            Err(state) => Some(state),
        };
        let over = patience.pause(began).await;
        if now != last {
            patience = Patience::new(LONG);
            last = now;
            assert!(begun.elapsed() < ENDLESS, "no end of: {what}: {last:#?}");
        } else {
            assert!(!over, "nothing went on for {LONG:?} of: {what}: {last:#?}");
        }
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
        tokio::time::sleep(PAUSE).await;
    }
}
