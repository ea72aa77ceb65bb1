//! Who may still send when a provider's requests are counted: each purpose may use a share of the limit, so that what
//! is left for the more urgent ones is never eaten by the less urgent. Pure; time is given by the caller.

use std::collections::VecDeque;
use std::time::Duration;

/// What a request to a provider is for, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A claim, and an agent that is being claimed or in use.
    Claim,
    /// Removing an agent that somebody had.
    Release,
    /// The listing that everything is judged by, and the check of a credential.
    Watch,
    /// Going on with a creation that has begun: half an agent costs and serves nobody.
    Finish,
    /// Beginning a creation in a pool below its minimum.
    Refill,
    /// Beginning any other creation, and removing what nobody had.
    Create,
    /// Replacing what has drifted.
    Drift,
    /// Strangers found by the sweep, and webhooks.
    Sweep,
}

impl Purpose {
    /// All, the most urgent first.
    pub const ALL: [Self; 8] = [
        Self::Claim,
        Self::Release,
        Self::Watch,
        Self::Finish,
        Self::Refill,
        Self::Create,
        Self::Drift,
        Self::Sweep,
    ];

    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Release => "release",
            Self::Watch => "watch",
            Self::Finish => "finish",
            Self::Refill => "refill",
            Self::Create => "create",
            Self::Drift => "drift",
            Self::Sweep => "sweep",
        }
    }

    /// How much of a limit may be used up, its own requests included, when one of this purpose goes out; in percent.
    fn share(self) -> u32 {
        match self {
            Self::Claim => 100,
            Self::Release => 96,
            Self::Watch => 92,
            Self::Finish => 90,
            Self::Refill => 80,
            Self::Create => 75,
            Self::Drift => 60,
            Self::Sweep => 40,
        }
    }

    /// The same of a limit, in requests. What is above a share is kept for the more urgent: at least one request from
    /// step to step, as far as the limit reaches; the least urgent may have nothing of a small one.
    pub fn allowance(self, quota: u32) -> u32 {
        let of_quota = |p: &Self| u64::from(quota) * u64::from(p.share()) / 100;
        let more_urgent = Self::ALL[1..].iter().take_while(|p| **p <= self);
        more_urgent.fold(quota, |above, p| {
            let share = u32::try_from(of_quota(p)).unwrap_or(u32::MAX);
            share.min(above.saturating_sub(1))
        })
    }
}

/// So many requests in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Requests.
    pub quota: u32,
    /// In any stretch of this length.
    pub window: Duration,
}

/// How many requests a second a plan with that limit allows; documented, and in no header: 10 up to 1,000 an hour, 50
/// with Pro's 10,000, and what was agreed beyond that in proportion.
pub fn per_second(limit: Option<Limit>) -> u32 {
    let in_hour = |l: Limit| u64::from(l.quota) * 3600 / l.window.as_secs().max(1);
    let an_hour = limit.map_or(0, in_hour);
    u32::try_from(an_hour / 200).unwrap_or(u32::MAX).max(10)
}

/// The most of a limit that listings may use, in percent.
const LISTING_SHARE: u32 = 20;

/// How long a listing of so many requests has to rest, so that listings alone use no more than a fifth of the limit.
pub fn listing_interval(limit: Limit, requests: u32) -> Duration {
    let for_listings = (limit.quota * LISTING_SHARE).max(1);
    limit.window.saturating_mul(100 * requests) / for_listings
}

/// What was sent under a limit. Times are points on one monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    limit: Option<Limit>,
    sent: VecDeque<Duration>,
    elsewhere: Option<(u32, Duration)>,
}

impl Meter {
    /// With its limit.
    pub fn new(limit: Limit) -> Self {
        Self {
            limit: Some(limit),
            ..Self::default()
        }
    }

    /// The limit, once it is known.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// The provider says what the limit is.
    pub fn set_limit(&mut self, limit: Limit) {
        self.limit = Some(limit);
    }

    /// A request goes out.
    pub fn sent(&mut self, now: Duration) {
        self.forget(now);
        self.sent.push_back(now);
    }

    /// The provider says what is left until then: others who share the limit sent what we did not.
    pub fn correct(&mut self, remaining: u32, until: Duration, now: Duration) {
        self.forget(now);
        let Some(limit) = self.limit else { return };
        let used = limit.quota.saturating_sub(remaining);
        let elsewhere = used.saturating_sub(self.own());
        self.elsewhere = (elsewhere > 0).then_some((elsewhere, until));
    }

    /// Requests left for the most urgent; `None` where no limit is known.
    pub fn remaining(&mut self, now: Duration) -> Option<u32> {
        self.forget(now);
        let (others, _) = self.elsewhere.unwrap_or_default();
        let used = self.own().saturating_add(others);
        Some(self.limit?.quota.saturating_sub(used))
    }

    /// Whether a request may go out now; if not, how long until it may. Where no limit is known nothing is held back.
    pub fn admit(&mut self, purpose: Purpose, now: Duration) -> Result<(), Duration> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        self.forget(now);
        let allowance = purpose.allowance(limit.quota);
        let (others, others_until) = self.elsewhere.unwrap_or_default();
        let used = self.own().saturating_add(others);
        if used < allowance {
            return Ok(());
        }
        if allowance == 0 {
            return Err(limit.window);
        }
        // So many have to be over before it is its turn.
        let over = used - allowance + 1;
        let own_over = |n: u32| match n.checked_sub(1) {
            None => Some(now),
            Some(i) => self.sent.get(i as usize).map(|at| *at + limit.window),
        };
        let by_own = own_over(over);
        let with_others = own_over(over.saturating_sub(others)).map(|at| at.max(others_until));
        let at = match (by_own, with_others) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b).unwrap_or(now + limit.window),
        };
        Err(at.saturating_sub(now))
    }

    fn own(&self) -> u32 {
        u32::try_from(self.sent.len()).unwrap_or(u32::MAX)
    }

    fn forget(&mut self, now: Duration) {
        let window = self.limit.map_or(Duration::from_secs(3600), |l| l.window);
        while self.sent.front().is_some_and(|at| *at + window <= now) {
            self.sent.pop_front();
        }
        self.elsewhere.take_if(|(_, until)| *until <= now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn limit(quota: u32) -> Limit {
        Limit {
            quota,
            window: HOUR,
        }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A meter of which so many were sent, one each second from 0 on.
    fn used(quota: u32, used: u32) -> Meter {
        let mut meter = Meter::new(limit(quota));
        (0..used).for_each(|n| meter.sent(s(u64::from(n))));
        meter
    }

    #[test]
    fn each_purpose_has_its_share_and_what_is_above_is_kept() {
        let row = |quota| Purpose::ALL.map(|p| p.allowance(quota));
        assert_eq!(row(1_000), [1_000, 960, 920, 900, 800, 750, 600, 400]);
        assert_eq!(row(10_000)[7], 4_000);
        assert_eq!(row(100), [100, 96, 92, 90, 80, 75, 60, 40]);
        assert_eq!(row(10), [10, 9, 8, 7, 6, 5, 4, 3]);
        assert_eq!(row(4), [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(row(0), [0; 8]);
    }

    #[test]
    fn who_may_send_at_which_use() {
        // Claim, release, watch, finish, refill, create, drift, sweep.
        for (sent, may) in [
            (0, "yyyyyyyy"),
            (399, "yyyyyyyy"),
            (400, "yyyyyyy-"),
            (600, "yyyyyy--"),
            (750, "yyyyy---"),
            (800, "yyyy----"),
            (900, "yyy-----"),
            (920, "yy------"),
            (960, "y-------"),
            (1_000, "--------"),
        ] {
            let mut meter = used(1_000, sent);
            let mut admits = |p| meter.admit(p, s(1_000)).is_ok();
            let found: String = Purpose::ALL
                .map(|p| if admits(p) { 'y' } else { '-' })
                .iter()
                .collect();
            assert_eq!(found, may, "{sent} used");
        }
    }

    #[test]
    fn the_wait_is_until_enough_is_over() {
        let now = s(1_000);
        // Sent at 0, 1, 2, …: over at 3600, 3601, …
        assert_eq!(used(1_000, 1_000).admit(Purpose::Claim, now), Err(s(2_600)));
        assert_eq!(used(1_000, 1_000).admit(Purpose::Sweep, now), Err(s(3_200)));
        let mut meter = used(1_000, 400);
        let wait = meter.admit(Purpose::Sweep, now).unwrap_err();
        assert!(meter.admit(Purpose::Sweep, now + wait - s(1)).is_err());
        assert_eq!(meter.admit(Purpose::Sweep, now + wait), Ok(()));
        assert_eq!(
            used(3, 1).admit(Purpose::Sweep, now),
            Err(HOUR),
            "it has none"
        );
    }

    #[test]
    fn what_others_sent_counts_until_the_window_ends() {
        let mut meter = used(100, 10);
        meter.correct(30, s(500), s(20));
        assert_eq!(meter.remaining(s(20)), Some(30));
        assert_eq!(meter.admit(Purpose::Sweep, s(20)), Err(s(480)));
        assert_eq!(meter.admit(Purpose::Claim, s(20)), Ok(()));
        assert_eq!(meter.remaining(s(500)), Some(90));
        assert_eq!(meter.admit(Purpose::Sweep, s(500)), Ok(()));
        // We sent more than the provider has counted yet: ours stands.
        meter.correct(99, s(900), s(600));
        assert_eq!(meter.remaining(s(600)), Some(90));
        // Nothing is left, and of ours nothing was sent: until the window ends.
        let mut fresh = Meter::new(limit(100));
        fresh.correct(0, s(700), s(1));
        assert_eq!(fresh.admit(Purpose::Claim, s(1)), Err(s(699)));
    }

    #[test]
    fn without_a_limit_nothing_is_held_back_and_all_is_counted() {
        let mut meter = Meter::default();
        for n in 0..50 {
            assert_eq!(meter.admit(Purpose::Sweep, s(n)), Ok(()));
            meter.sent(s(n));
        }
        assert_eq!(meter.remaining(s(50)), None);
        meter.set_limit(limit(60));
        assert_eq!(meter.remaining(s(50)), Some(10));
        assert!(meter.admit(Purpose::Sweep, s(50)).is_err());
    }

    #[test]
    fn listings_use_a_fifth() {
        for (quota, pages, want) in [
            (100, 1, s(180)),
            (1_000, 1, s(18)),
            (1_000, 3, s(54)),
            (10_000, 1, Duration::from_millis(1_800)),
        ] {
            assert_eq!(
                listing_interval(limit(quota), pages),
                want,
                "{quota} {pages}"
            );
        }
        assert_eq!(per_second(None), 10);
        assert_eq!(per_second(Some(limit(1_000))), 10);
        assert_eq!(per_second(Some(limit(10_000))), 50);
        assert_eq!(per_second(Some(limit(100_000))), 500);
    }

    fn any_purpose() -> impl Strategy<Value = Purpose> {
        (0..Purpose::ALL.len()).prop_map(|i| Purpose::ALL[i])
    }

    proptest! {
        /// Whatever the less urgent do for however long, there is always one left for each that is more urgent, and
        /// the limit is kept in every window.
        #[test]
        fn the_less_urgent_never_starve_the_more_urgent(
            quota in 8_u32..300,
            asks in prop::collection::vec((any_purpose(), 0_u64..60), 1..800),
            urgent in 0_usize..Purpose::ALL.len(),
        ) {
            let urgent = Purpose::ALL[urgent];
            let mut meter = Meter::new(limit(quota));
            let (mut now, mut sent) = (Duration::ZERO, vec![]);
            for (purpose, gap) in asks.into_iter().filter(|(p, _)| *p > urgent) {
                now += s(gap);
                match meter.admit(purpose, now) {
                    Ok(()) => {
                        meter.sent(now);
                        sent.push(now);
                    }
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        // Nobody else sent: then it is its turn, and not before.
                        let mut later = meter.clone();
                        if purpose.allowance(quota) > 0 {
                            prop_assert_eq!(later.admit(purpose, now + wait), Ok(()));
                        }
                    }
                }
                prop_assert_eq!(meter.admit(urgent, now), Ok(()));
                let within = sent.iter().filter(|at| **at + HOUR > now).count();
                prop_assert!(within < quota as usize);
            }
        }

        /// The more urgent is never refused where the less urgent is admitted.
        #[test]
        fn urgency_is_an_order(quota in 0_u32..2_000, used_up in 0_u32..2_000) {
            let mut meter = used(quota, used_up.min(quota));
            let may = Purpose::ALL.map(|p| meter.admit(p, s(2_000)).is_ok());
            prop_assert!(may.is_sorted_by(|a, b| a >= b), "{may:?}");
        }
    }
}
