//! How often each may call: a bucket per caller and kind of call, in bounded memory. Pure but for its lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Monotonic;

/// How many calls at once.
const BURST: u32 = 10;
/// How long until one more is allowed.
const REFILL: Duration = Duration::from_secs(2);
/// How many buckets are kept; those that are full again go first.
const KEPT: usize = 20_000;

/// Who, and what is called.
type Key = (String, &'static str);

/// Buckets. A bucket is known by when it will be full again: what is left in it follows.
#[derive(Default)]
pub struct Throttle {
    full_at: Mutex<HashMap<Key, Monotonic>>,
}

impl Throttle {
    /// Counts a call, or says after how many seconds one is allowed.
    pub fn admit(&self, key: Key, now: Monotonic) -> Result<(), u32> {
        let mut all = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT && !all.contains_key(&key) {
            all.retain(|_, full_at| *full_at > now);
            if all.len() >= KEPT {
                all.clear();
            }
        }
        let full_at = all.entry(key).or_default();
        let next = (*full_at).max(now) + REFILL;
        let most = now + REFILL * BURST;
        if next > most {
            let wait = (next - most).as_secs_f64().ceil();
            return Err(wait as u32);
        }
        *full_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(who: usize) -> Key {
        (who.to_string(), "call")
    }

    #[test]
    fn a_burst_is_admitted_and_then_one_now_and_then() {
        let (throttle, now) = (Throttle::default(), Duration::from_secs(7));
        for n in 0..BURST {
            assert_eq!(throttle.admit(key(1), now), Ok(()), "{n}");
        }
        assert_eq!(throttle.admit(key(1), now), Err(2));
        let soon = now + Duration::from_millis(500);
        assert_eq!(throttle.admit(key(1), soon), Err(2));
        assert_eq!(throttle.admit(key(1), now + REFILL), Ok(()));
        assert_eq!(throttle.admit(key(1), now + REFILL), Err(2), "only one");
        assert_eq!(throttle.admit(key(2), now), Ok(()), "another's own");
        let other = ("1".to_owned(), "other call");
        assert_eq!(throttle.admit(other, now), Ok(()), "each call by itself");
        let later = now + REFILL * 100;
        for n in 0..BURST {
            assert_eq!(throttle.admit(key(1), later), Ok(()), "{n}");
        }
        assert!(throttle.admit(key(1), later).is_err(), "no more than that");
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let kept = || throttle.full_at.lock().unwrap().len();
        for who in 0..KEPT + 10 {
            assert_eq!(throttle.admit(key(who), Duration::ZERO), Ok(()));
            assert!(kept() <= KEPT);
        }
        for who in 0..KEPT {
            assert_eq!(throttle.admit(key(who), Duration::ZERO), Ok(()));
        }
        // Who used up a share is not forgotten because others come and go.
        let later = Duration::from_secs(3600);
        while throttle.admit(key(5), later).is_ok() {}
        for who in KEPT..KEPT + 100 {
            assert_eq!(throttle.admit(key(who), later), Ok(()));
        }
        assert!(throttle.admit(key(5), later).is_err());
    }
}
