//! How much of it runs: all by `make sim`, a part in every `cargo test`, as much as one likes by `make soak`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(default)
}

/// One case in so many runs; 1: all.
pub fn stride() -> u64 {
    number("AGENTPOOL_SIM_STRIDE", 8).max(1)
}

/// Runs every case, two at a time; the first that fail are told, each with what replays it.
pub fn each<T: Sync>(cases: &[T], name: impl Fn(&T) -> String + Sync, run: impl Fn(&T) + Sync) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(|| run(case)));
                    if outcome.is_err() {
                        let mut failed = failed.lock().unwrap();
                        println!("FAILED: {}", name(case));
                        failed.push(name(case));
                        // Enough to see a pattern.
                        if failed.len() >= 5 {
                            next.store(cases.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}
