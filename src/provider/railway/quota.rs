//! When a token's next request may go out: what Railway asked to wait for, its limits, and whose turn it is.
//!
//! What has to wait for long is refused at once, with the time: who asked has other things to do. Within the limit of
//! the second it waits here, the more urgent first.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::HeaderMap;

use crate::clock::{Clock, Monotonic};
use crate::domain::budget::{self, Limit, Meter, Purpose};

use super::classify::{Failure, Kind};

/// A second by the platform's clock is not ours, and requests overtake each other on the way: a little longer.
const SECOND: Duration = Duration::from_millis(1_050);
/// How far apart a user's creations of projects are; a second more than documented, for what is late on the way.
const PROJECT_EVERY: Duration = Duration::from_secs(31);
/// The longest wait for a turn within the second.
const TURN_MAX: Duration = Duration::from_secs(15);

/// What is left of a token's budget, by our own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests allowed in the window.
    pub quota: u32,
    /// The window.
    pub window: Duration,
    /// Requests left in it.
    pub remaining: u32,
}

/// The limits of one token. Times are points on the transport's clock.
#[derive(Default)]
pub(super) struct Quota {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocked_until: Monotonic,
    window: Meter,
    second: Meter,
    /// How many of each purpose wait for their turn.
    waiting: [u32; Purpose::ALL.len()],
    /// What each place's listing cost, and when it was last listed.
    listings: HashMap<String, (u32, Monotonic)>,
    /// When the token's user may create a project.
    projects_from: Monotonic,
}

impl Quota {
    /// Counts a request of that purpose, now or when it is its turn; or refuses it, and nothing is sent.
    pub async fn admit(&self, purpose: Purpose, clock: &Clock) -> Result<(), Failure> {
        let begun = clock.monotonic();
        let mut turn = Turn {
            quota: self,
            purpose,
            waits: false,
        };
        loop {
            let now = clock.monotonic();
            let wait = match self.decide(purpose, now)? {
                None => return Ok(()),
                Some(wait) => wait,
            };
            if now.saturating_sub(begun) + wait > TURN_MAX {
                return Err(Failure {
                    kind: Kind::Reserved,
                    message: "more urgent requests come first; nothing was sent".to_owned(),
                    retry_after: Some(wait.max(SECOND)),
                });
            }
            turn.wait();
            clock.sleep(wait).await;
        }
    }

    /// Counts it and says nothing, or says how long it waits for its turn.
    fn decide(&self, purpose: Purpose, now: Monotonic) -> Result<Option<Duration>, Failure> {
        let mut state = self.lock();
        let State {
            blocked_until,
            window,
            second,
            waiting,
            ..
        } = &mut *state;
        if *blocked_until > now {
            return Err(Failure {
                kind: Kind::RateLimited,
                message: "Railway asked to wait, and the time is not over; nothing was sent"
                    .to_owned(),
                retry_after: Some(*blocked_until - now),
            });
        }
        if let Err(wait) = window.admit(purpose, now) {
            return Err(reserved(purpose, window.limit(), wait));
        }
        let limit = window.limit();
        second.set_limit(Limit {
            quota: budget::per_second(limit),
            window: SECOND,
        });
        // Within the second nothing is kept: who is more urgent goes first.
        let others = waiting[..purpose as usize].iter().any(|n| *n > 0);
        match second.admit(Purpose::Claim, now) {
            Ok(()) if others => Ok(Some(SECOND / budget::per_second(limit))),
            Ok(()) => {
                second.sent(now);
                window.sent(now);
                Ok(None)
            }
            Err(wait) => Ok(Some(wait.max(Duration::from_millis(1)))),
        }
    }

    /// Whether one of that purpose could go out now, the limit of the second aside; nothing is counted.
    pub fn room_for(&self, purpose: Purpose, now: Monotonic) -> Result<(), Duration> {
        let mut state = self.lock();
        if state.blocked_until > now {
            return Err(state.blocked_until - now);
        }
        state.window.admit(purpose, now)
    }

    /// What is left; `None` before the first answer.
    pub fn budget(&self, now: Monotonic) -> Option<Budget> {
        let mut state = self.lock();
        let limit = state.window.limit()?;
        Some(Budget {
            quota: limit.quota,
            window: limit.window,
            remaining: state.window.remaining(now)?,
        })
    }

    /// Railway asks to wait.
    pub fn block(&self, until: Monotonic) {
        let mut state = self.lock();
        state.blocked_until = state.blocked_until.max(until);
    }

    /// What an answer's headers say of the limit. `wall` is the same moment as `now`.
    pub fn note(&self, headers: &HeaderMap, now: Monotonic, wall: jiff::Timestamp) {
        let mut state = self.lock();
        if let Some(limit) = text(headers, "ratelimit-policy").and_then(limit_of) {
            state.window.set_limit(limit);
        }
        let remaining = text(headers, "x-ratelimit-remaining").and_then(|t| t.parse().ok());
        let reset = text(headers, "x-ratelimit-reset").and_then(|t| until_reset(t, wall));
        if let (Some(remaining), Some(reset)) = (remaining, reset)
            // Of the second, that is; it is over before anybody could heed it.
            && reset > SECOND
        {
            state.window.correct(remaining, now + reset, now);
        }
    }

    /// Begins to create a project, and the rest after it; Err: how long until the token's user may.
    pub fn begin_project(&self, now: Monotonic) -> Result<(), Duration> {
        let mut state = self.lock();
        if state.projects_from > now {
            return Err(state.projects_from - now);
        }
        state.projects_from = now + PROJECT_EVERY;
        Ok(())
    }

    /// No project before.
    pub fn rest_projects(&self, until: Monotonic) {
        let mut state = self.lock();
        state.projects_from = state.projects_from.max(until);
    }

    /// A place was listed by so many requests.
    pub fn listed(&self, place: &str, requests: u32, now: Monotonic) {
        let mut state = self.lock();
        let window = state.window.limit().map_or(SECOND, |l| l.window);
        state
            .listings
            .retain(|_, (_, at)| now.saturating_sub(*at) < window);
        state.listings.insert(place.to_owned(), (requests, now));
    }

    /// How long a listing has to rest: all the token's places together use their fifth of the limit and no more.
    pub fn listing_interval(&self) -> Duration {
        let state = self.lock();
        let requests: u32 = state.listings.values().map(|(n, _)| n).sum();
        let limit = state.window.limit();
        limit.map_or(Duration::ZERO, |l| budget::listing_interval(l, requests))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue of the second; given up when dropped.
struct Turn<'a> {
    quota: &'a Quota,
    purpose: Purpose,
    waits: bool,
}

impl Turn<'_> {
    fn wait(&mut self) {
        if !self.waits {
            self.waits = true;
            self.quota.lock().waiting[self.purpose as usize] += 1;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.waits {
            self.quota.lock().waiting[self.purpose as usize] -= 1;
        }
    }
}

fn reserved(purpose: Purpose, limit: Option<Limit>, wait: Duration) -> Failure {
    let limit = limit.map_or_else(String::new, |l| {
        format!(" {} requests in {} s", l.quota, l.window.as_secs())
    });
    let (kind, message) = if purpose == Purpose::Claim {
        let text = format!("the token's{limit} are used up; nothing was sent");
        (Kind::RateLimited, text)
    } else {
        let text = format!(
            "what is left of the token's{limit} is kept for what is more urgent; nothing was sent"
        );
        (Kind::Reserved, text)
    };
    Failure {
        kind,
        message,
        retry_after: Some(wait),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim())
}

/// `Retry-After`, else the end of the window.
pub(super) fn wait_of(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let seconds = text(headers, "retry-after").and_then(|t| t.parse().ok());
    let reset = || text(headers, "x-ratelimit-reset").and_then(|t| until_reset(t, now));
    seconds.map(Duration::from_secs).or_else(reset)
}

/// The format is not documented: epoch seconds, seconds from now, or RFC 3339.
fn until_reset(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    let at = match text.parse::<i64>() {
        Ok(delta @ 0..1_000_000_000) => return u64::try_from(delta).ok().map(Duration::from_secs),
        Ok(epoch) => epoch,
        Err(_) => text.parse::<jiff::Timestamp>().ok()?.as_second(),
    };
    u64::try_from(at - now.as_second())
        .ok()
        .map(Duration::from_secs)
}

/// `"default";q=1000;w=3600`.
fn limit_of(text: &str) -> Option<Limit> {
    let field = |name: &str| {
        text.split([';', ','])
            .find_map(|part| part.trim().strip_prefix(name)?.parse::<u32>().ok())
    };
    Some(Limit {
        quota: field("q=")?,
        window: Duration::from_secs(u64::from(field("w=")?.max(1))),
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn wall() -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn the_limit_is_read_from_the_policy() {
        let hour = Duration::from_secs(3600);
        let limit = limit_of(r#""default";q=1000;w=3600"#).unwrap();
        assert_eq!((limit.quota, limit.window), (1000, hour));
        assert_eq!(limit_of("nonsense"), None);
    }

    #[test]
    fn a_reset_has_three_formats() {
        for text in ["90", "1800000090", "2027-01-15T08:01:30Z"] {
            assert_eq!(
                until_reset(text, wall()),
                Some(Duration::from_secs(90)),
                "{text}"
            );
        }
        assert_eq!(until_reset("1700000000", wall()), None);
        assert_eq!(until_reset("soon", wall()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn headers_correct_our_count() {
        let (quota, clock) = (Quota::default(), Clock::system());
        let policy = ("ratelimit-policy", r#""default";q=100;w=3600"#);
        let now = clock.monotonic();
        quota.note(&headers(&[policy]), now, wall());
        assert_eq!(quota.budget(now).unwrap().remaining, 100);
        let told = [
            policy,
            ("x-ratelimit-remaining", "30"),
            ("x-ratelimit-reset", "90"),
        ];
        quota.note(&headers(&told), now, wall());
        assert_eq!(quota.budget(now).unwrap().remaining, 30);
        let refused = quota.admit(Purpose::Sweep, &clock).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Reserved);
        assert_eq!(refused.retry_after, Some(Duration::from_secs(90)));
        assert_eq!(
            quota.room_for(Purpose::Drift, now),
            Err(Duration::from_secs(90)),
            "a roll-out is told so before it begins"
        );
        assert_eq!(quota.room_for(Purpose::Refill, now), Ok(()));
        quota.admit(Purpose::Claim, &clock).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn within_the_second_the_more_urgent_goes_first() {
        let (quota, clock) = (std::sync::Arc::new(Quota::default()), Clock::system());
        for _ in 0..10 {
            quota.admit(Purpose::Refill, &clock).await.unwrap();
        }
        assert_eq!(clock.monotonic(), Duration::ZERO, "the first ten at once");
        let order = std::sync::Arc::new(Mutex::new(vec![]));
        let mut waits = tokio::task::JoinSet::new();
        let asks = [
            [Purpose::Sweep; 6],
            [Purpose::Refill; 6],
            [Purpose::Claim; 6],
        ];
        for purpose in asks.into_iter().flatten() {
            let (quota, clock, order) = (quota.clone(), clock.clone(), order.clone());
            waits.spawn(async move {
                quota.admit(purpose, &clock).await.unwrap();
                order.lock().unwrap().push((purpose, clock.monotonic()));
            });
        }
        waits.join_all().await;
        let order = order.lock().unwrap();
        let purposes: Vec<_> = order.iter().map(|o| o.0).collect();
        assert!(purposes.is_sorted(), "{purposes:?}");
        for (n, (_, at)) in order.iter().enumerate() {
            let second = if n < 10 { SECOND } else { 2 * SECOND };
            assert!(*at >= second && *at < second + SECOND / 2, "{n}: {at:?}");
        }
        let free = quota.lock().waiting;
        assert_eq!(free, [0; 8], "nobody waits for the served");
    }

    #[test]
    fn a_user_creates_one_project_at_a_time() {
        let quota = Quota::default();
        assert_eq!(quota.begin_project(Duration::ZERO), Ok(()));
        let s = Duration::from_secs;
        assert_eq!(quota.begin_project(s(1)), Err(s(30)));
        assert_eq!(quota.begin_project(s(31)), Ok(()));
        quota.rest_projects(s(100));
        quota.rest_projects(s(70));
        assert_eq!(quota.begin_project(s(62)), Err(s(38)));
        assert_eq!(quota.begin_project(s(100)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn listings_of_all_places_share_their_fifth() {
        let (quota, clock) = (Quota::default(), Clock::system());
        assert_eq!(quota.listing_interval(), Duration::ZERO, "nothing is known");
        let policy = ("ratelimit-policy", r#""default";q=1000;w=3600"#);
        let now = clock.monotonic();
        quota.note(&headers(&[policy]), now, wall());
        quota.listed("a", 1, now);
        assert_eq!(quota.listing_interval(), Duration::from_secs(18));
        quota.listed("b", 3, now);
        assert_eq!(quota.listing_interval(), Duration::from_secs(72));
        quota.listed("b", 1, now + Duration::from_secs(3600));
        assert_eq!(
            quota.listing_interval(),
            Duration::from_secs(18),
            "a is not listed any more"
        );
    }
}
