//! How long to wait, and who waits: attempt and class give a duration. Pure; the jitter's random part is given by the
//! caller.

use std::time::Duration;

use super::plan::{Class, Trouble};
use crate::api::condition::Reason;

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
        Class::Unauthorized => Duration::from_secs(300),
        Class::Gone => slow(1, 60),
    };
    trouble.retry_after.unwrap_or(own)
}

/// The shortest wait after a failure.
const SOONEST: Duration = Duration::from_millis(100);

/// The same with its jitter: full for what many objects would repeat at the same moments, none where somebody said when
/// to come. `fraction` is a random number in `0.0..1.0`.
pub fn wait(trouble: &Trouble, failures: u32, fraction: f64) -> Duration {
    let most = after(trouble, failures);
    let full = matches!(trouble.class, Class::Transient | Class::Ambiguous);
    if full && trouble.retry_after.is_none() {
        most.mul_f64(fraction.clamp(0.0, 1.0)).max(SOONEST)
    } else {
        most
    }
}

/// How long to wait after somebody else wrote first; `fraction` as above.
pub fn conflict(fraction: f64) -> Duration {
    Duration::from_millis(50) + Duration::from_millis(200).mul_f64(fraction.clamp(0.0, 1.0))
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// It changes nothing.
    Read,
    /// It makes something or starts it.
    Create,
    /// It removes something.
    Remove,
}

/// Whether a trouble of this class is everybody's in its scope, so that other calls wait too: a used-up rate limit for
/// all of them, a refused credential for those that change anything, a full plan for those that need more of it.
pub fn holds_back(class: Class, call: Call) -> bool {
    match class {
        Class::Throttled => true,
        Class::Unauthorized => call != Call::Read,
        Class::Capacity => call == Call::Create,
        Class::Transient | Class::Ambiguous | Class::Rejected | Class::Gone => false,
    }
}

/// Whether a trouble is its whole scope's, not only of the call that met it. What is kept for the more urgent is no
/// trouble of theirs, and what one kind of request has to wait for none of the others'.
pub fn is_shared(trouble: &Trouble) -> bool {
    let own = matches!(trouble.reason, Reason::QuotaReserved | Reason::CoolingDown);
    holds_back(trouble.class, Call::Create) && !own
}

/// Spreads a duration by up to 10 %, later only: whoever came before the time that it asked for would find a listing
/// of this tick still fresh, and the next one would be two ticks old. `fraction` is a random number in `0.0..1.0`.
pub fn jittered(duration: Duration, fraction: f64) -> Duration {
    duration.mul_f64(1.0 + 0.1 * fraction.clamp(0.0, 1.0))
}

/// How long a pool rests after a pass over all its instances: each change of an instance asks for another one.
///
/// Four times what the pass took, so that a large pool leaves the core to others; short enough that a claimed agent's
/// replacement begins within the second.
pub fn rest(took: Duration) -> Duration {
    (4 * took).clamp(Duration::from_millis(100), Duration::from_millis(500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_rests_longer_than_it_works_and_never_long() {
        let millis = Duration::from_millis;
        assert_eq!(rest(millis(0)), millis(100));
        assert_eq!(rest(millis(50)), millis(200));
        assert_eq!(rest(millis(5_000)), millis(500));
    }

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

    /// Style 2.6, column "requeue".
    #[test]
    fn each_class_waits_as_it_should() {
        let of = |class, retry_after| Trouble {
            class,
            reason: crate::api::condition::Reason::Pending,
            message: String::new(),
            retry_after,
        };
        let s = Duration::from_secs;
        for (class, first, many) in [
            (Class::Throttled, s(60), s(60)),
            (Class::Transient, s(1), s(300)),
            (Class::Ambiguous, s(1), s(30)),
            (Class::Rejected, s(600), s(600)),
            (Class::Capacity, s(60), s(600)),
            (Class::Unauthorized, s(300), s(300)),
            (Class::Gone, s(1), s(60)),
        ] {
            let trouble = of(class, None);
            assert_eq!(after(&trouble, 0), first, "{class:?}");
            assert_eq!(after(&trouble, 40), many, "{class:?}");
            // Full jitter: anywhere below, for what is repeated per object.
            let full = matches!(class, Class::Transient | Class::Ambiguous);
            let half = if full { many / 2 } else { many };
            assert_eq!(wait(&trouble, 40, 0.5), half, "{class:?}");
            let least = if full { SOONEST } else { many };
            assert_eq!(wait(&trouble, 40, 0.0), least, "{class:?}");
            // Nobody comes before the time that was asked for.
            assert_eq!(wait(&of(class, Some(s(7))), 3, 0.0), s(7), "{class:?}");
        }
        let doubling: Vec<_> = (0..4)
            .map(|n| after(&of(Class::Transient, None), n).as_secs())
            .collect();
        assert_eq!(doubling, [1, 2, 4, 8]);
        assert_eq!(conflict(0.0), Duration::from_millis(50));
        assert_eq!(conflict(1.0), Duration::from_millis(250));
    }

    #[test]
    fn a_trouble_of_all_holds_back_the_others_calls_and_never_a_deletion_for_want_of_room() {
        let held = |class| [Call::Read, Call::Create, Call::Remove].map(|c| holds_back(class, c));
        assert_eq!(held(Class::Throttled), [true, true, true]);
        assert_eq!(held(Class::Unauthorized), [false, true, true]);
        assert_eq!(held(Class::Capacity), [false, true, false]);
        for own in [
            Class::Transient,
            Class::Ambiguous,
            Class::Rejected,
            Class::Gone,
        ] {
            assert_eq!(held(own), [false; 3], "{own:?}");
        }
    }

    #[test]
    fn what_is_kept_for_others_holds_nobody_else_back() {
        let of = |class, reason| Trouble {
            class,
            reason,
            message: String::new(),
            retry_after: None,
        };
        assert!(is_shared(&of(Class::Throttled, Reason::RateLimited)));
        assert!(!is_shared(&of(Class::Throttled, Reason::QuotaReserved)));
        assert!(!is_shared(&of(Class::Throttled, Reason::CoolingDown)));
        assert!(is_shared(&of(Class::Capacity, Reason::CapacityExceeded)));
        assert!(!is_shared(&of(Class::Transient, Reason::RateLimited)));
    }

    #[test]
    fn jitter_stays_within_ten_percent_and_is_never_early() {
        let d = Duration::from_secs(10);
        assert_eq!(jittered(d, 0.0), Duration::from_secs(10));
        assert_eq!(jittered(d, 1.0), Duration::from_secs(11));
    }
}
