//! The request budget of a workspace (railway.md 1.3): so many an hour, so many a second.

use crate::clock::Ms;
use std::collections::BTreeMap;

/// The longer window.
pub const HOUR: Ms = 3_600_000;
const SECOND: Ms = 1_000;

/// A quota.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Requests per hour.
    pub per_hour: u64,
    /// Requests per second; 0: without limit.
    pub per_second: u64,
}

impl Quota {
    /// What a plan allows.
    pub fn of_plan(plan: &str) -> Self {
        match plan {
            "FREE" => Self {
                per_hour: 100,
                per_second: 0,
            },
            "HOBBY" => Self {
                per_hour: 1_000,
                per_second: 10,
            },
            _ => Self {
                per_hour: 10_000,
                per_second: 50,
            },
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Window {
    from: Ms,
    used: u64,
}

/// One request's place in the budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Within the budget.
    pub allowed: bool,
    /// Left in the hour.
    pub remaining: u64,
    /// When the window that decided ends.
    pub resets: Ms,
}

/// Counts of all workspaces.
#[derive(Default)]
pub struct Limits(BTreeMap<String, (Window, Window)>);

impl Limits {
    /// Counts one request of `who`.
    pub fn count(&mut self, who: &str, quota: Quota, now: Ms) -> Verdict {
        let (hour, second) = self.0.entry(who.to_owned()).or_default();
        roll(hour, HOUR, now);
        roll(second, SECOND, now);
        let hour_full = hour.used >= quota.per_hour;
        let second_full = quota.per_second > 0 && second.used >= quota.per_second;
        if !hour_full && !second_full {
            hour.used += 1;
            second.used += 1;
        }
        Verdict {
            allowed: !hour_full && !second_full,
            remaining: quota.per_hour - hour.used.min(quota.per_hour),
            resets: if second_full && !hour_full {
                second.from + SECOND
            } else {
                hour.from + HOUR
            },
        }
    }

    /// What is left of the hour, without counting.
    pub fn remaining(&self, who: &str, quota: Quota, now: Ms) -> (u64, Ms) {
        match self.0.get(who) {
            Some((hour, _)) if now < hour.from + HOUR => {
                (quota.per_hour.saturating_sub(hour.used), hour.from + HOUR)
            }
            _ => (quota.per_hour, now + HOUR),
        }
    }

    /// Forgets all counts.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn roll(window: &mut Window, length: Ms, now: Ms) {
    if window.used == 0 || now >= window.from + length {
        *window = Window { from: now, used: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Quota};

    #[test]
    fn the_hour_and_the_second_are_counted_apart() {
        let quota = Quota {
            per_hour: 3,
            per_second: 2,
        };
        let mut limits = Limits::default();
        let mut allowed = |now| limits.count("w", quota, now).allowed;
        assert!(allowed(0) && allowed(10));
        assert!(!allowed(20), "third within the second");
        assert!(allowed(1_000));
        assert!(!allowed(5_000), "fourth within the hour");
        assert!(allowed(3_600_000));
    }

    #[test]
    fn the_verdict_names_the_window_that_refused() {
        let quota = Quota {
            per_hour: 10,
            per_second: 1,
        };
        let mut limits = Limits::default();
        assert_eq!(limits.count("w", quota, 5).remaining, 9);
        assert_eq!(limits.count("w", quota, 6).resets, 1_005);
        assert_eq!(limits.remaining("w", quota, 7), (9, 3_600_005));
    }
}
