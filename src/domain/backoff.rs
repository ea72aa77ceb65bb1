//! How long to wait: attempt and class give a duration. Pure; the jitter's random part is given by the caller.

use std::time::Duration;

use super::plan::{Class, Trouble};

/// `base` doubled `attempt` times, at most `cap`.
pub fn exponential(attempt: u32, base: Duration, cap: Duration) -> Duration {
    base.checked_mul(1u32 << attempt.min(20))
        .map_or(cap, |d| d.min(cap))
}

/// How long to wait after a call that failed, the `failures`-th in a row (from 0).
pub fn after(trouble: &Trouble, failures: u32) -> Duration {
    let slow = |from: u64, to: u64| {
        exponential(failures, Duration::from_secs(from), Duration::from_secs(to))
    };
    let own = match trouble.class {
        Class::Throttled => Duration::from_secs(60),
        Class::Transient => slow(1, 300),
        Class::Ambiguous => slow(1, 30),
        Class::Rejected => Duration::from_secs(600),
        Class::Capacity => slow(60, 600),
        Class::Unauthorized => Duration::from_secs(30),
        Class::Gone => slow(1, 60),
    };
    trouble.retry_after.unwrap_or(own)
}

/// Spreads a duration by up to 10 %, later only: whoever came before the time that it asked for would find a listing
/// of this tick still fresh, and the next one would be two ticks old. `fraction` is a random number in `0.0..1.0`.
pub fn jittered(duration: Duration, fraction: f64) -> Duration {
    duration.mul_f64(1.0 + 0.1 * fraction.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_has_a_cap_and_never_overflows() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(300));
        assert_eq!(exponential(0, base, cap), base);
        assert_eq!(exponential(3, base, cap), Duration::from_secs(8));
        assert_eq!(exponential(u32::MAX, base, cap), cap);
    }

    #[test]
    fn the_provider_s_own_time_wins() {
        let trouble = Trouble {
            class: Class::Throttled,
            reason: crate::api::condition::Reason::RateLimited,
            message: String::new(),
            retry_after: Some(Duration::from_secs(7)),
        };
        assert_eq!(after(&trouble, 9), Duration::from_secs(7));
    }

    #[test]
    fn jitter_stays_within_ten_percent_and_is_never_early() {
        let d = Duration::from_secs(10);
        assert_eq!(jittered(d, 0.0), Duration::from_secs(10));
        assert_eq!(jittered(d, 1.0), Duration::from_secs(11));
    }
}
