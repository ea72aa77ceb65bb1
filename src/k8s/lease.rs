//! Leadership by a Lease: one process at a time runs the reconcilers.
//!
//! A lease is believed by what changes in it, never by the times written in it: clocks differ by minutes. A holder is
//! alive as long as the record changed within its term, counted on our own monotonic clock from when we saw the
//! change. A leader believes in itself only for two thirds of a term after its last successful write was *begun*, so
//! that it has stopped before anybody else can take over; a process that was paused finds its own term over.
//! Every write carries the resourceVersion that it was judged on, so of two candidates one wins.
//!
//! Leadership only saves work: what must not happen twice is fenced by the API server, not by this. Own code, because
//! what is on offer either writes without a precondition or is bound to another version of kube.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::error::{K8sError, within};
use crate::clock::{Clock, Monotonic};

/// The lease, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// Who holds it; empty: nobody.
    holder: String,
    /// Changes with every write.
    version: String,
    /// How often it changed hands.
    transitions: i32,
}

/// What to do after one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none: create it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// Its holder let go or is silent for a whole term: take it.
    Take,
    /// Somebody holds it.
    Wait,
}

/// Judges one look. `unchanged` is how long we have seen the record at this version.
fn judge(record: Option<&Record>, unchanged: Duration, me: &str, term: Duration) -> Step {
    match record {
        None => Step::Create,
        Some(r) if r.holder == me => Step::Renew,
        Some(r) if r.holder.is_empty() || unchanged >= term => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// Until when a leader believes in itself after a write that was begun at `begun`.
fn valid_until(begun: Duration, term: Duration) -> Duration {
    begun + term * 2 / 3
}

/// How often a leader renews and a candidate looks.
fn every(term: Duration) -> Duration {
    term / 5
}

/// Whether this process leads, by its own clock. Cheap to clone; clones see the same.
#[derive(Clone)]
pub struct Leadership {
    until: Arc<AtomicU64>,
    clock: Clock,
}

impl Leadership {
    /// Leads never, until told otherwise.
    pub fn new(clock: Clock) -> Self {
        Self {
            until: Arc::default(),
            clock,
        }
    }

    /// Leads always: for tests and tools that are alone.
    pub fn always(clock: Clock) -> Self {
        Self {
            until: Arc::new(AtomicU64::new(u64::MAX)),
            clock,
        }
    }

    /// Whether it leads now. To be asked right before whatever only a leader may do: a process that was paused has
    /// lost its term without noticing.
    pub fn holds(&self) -> bool {
        millis(self.clock.monotonic()) < self.until.load(Ordering::SeqCst)
    }

    fn set(&self, until: Monotonic) {
        self.until.store(millis(until), Ordering::SeqCst);
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A candidate for one lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    me: String,
    term: Duration,
    clock: Clock,
    leadership: Leadership,
    seen: Option<(Record, Monotonic)>,
}

impl Candidate {
    /// A candidate called `me` for the lease `name`.
    pub fn new(
        api: Api<Lease>,
        name: &str,
        me: &str,
        term: Duration,
        leadership: Leadership,
    ) -> Self {
        let clock = leadership.clock.clone();
        Self {
            api,
            name: name.to_owned(),
            me: me.to_owned(),
            term,
            clock,
            leadership,
            seen: None,
        }
    }

    /// How often to take a step.
    pub fn every(&self) -> Duration {
        every(self.term)
    }

    /// Who holds the lease, as last seen; `None`: nobody, or it was never seen.
    pub fn holder(&self) -> Option<&str> {
        let (record, _) = self.seen.as_ref()?;
        (!record.holder.is_empty()).then_some(record.holder.as_str())
    }

    /// One look and what follows from it; whether this process leads now.
    pub async fn step(&mut self) -> Result<bool, K8sError> {
        let limit = every(self.term);
        let read = within(
            limit,
            || format!("read Lease {}", self.name),
            self.api.get_opt(&self.name),
        )
        .await?;
        let now = self.clock.monotonic();
        let record = read.as_ref().map(record_of);
        let unchanged = self.unchanged(record.as_ref(), now);
        let begun = self.clock.monotonic();
        let written = match judge(record.as_ref(), unchanged, &self.me, self.term) {
            Step::Wait => return Ok(false),
            Step::Create => {
                let new = self.lease(None, 0);
                within(
                    limit,
                    || format!("create Lease {}", self.name),
                    self.api.create(&PostParams::default(), &new),
                )
                .await
            }
            step @ (Step::Renew | Step::Take) => {
                let transitions =
                    record.as_ref().map_or(0, |r| r.transitions) + i32::from(step == Step::Take);
                let new = self.lease(read, transitions);
                within(
                    limit,
                    || format!("write Lease {}", self.name),
                    self.api.replace(&self.name, &PostParams::default(), &new),
                )
                .await
            }
        };
        match written {
            Ok(lease) => {
                self.seen = Some((record_of(&lease), begun));
                self.leadership.set(valid_until(begun, self.term));
                Ok(true)
            }
            // Somebody else wrote: looked at again the next time.
            Err(e) if e.is_conflict() => Ok(self.leadership.holds()),
            Err(e) => Err(e),
        }
    }

    /// How long the record is as it is, by our own observation.
    fn unchanged(&mut self, record: Option<&Record>, now: Monotonic) -> Duration {
        match (record, &self.seen) {
            (Some(r), Some((old, since))) if r == old => now.saturating_sub(*since),
            (Some(r), _) => {
                self.seen = Some((r.clone(), now));
                Duration::ZERO
            }
            (None, _) => Duration::ZERO,
        }
    }

    fn lease(&self, read: Option<Lease>, transitions: i32) -> Lease {
        let now = Some(MicroTime(self.clock.now()));
        let old = read
            .as_ref()
            .and_then(|l| l.spec.clone())
            .unwrap_or_default();
        let mine = old.holder_identity.as_deref() == Some(self.me.as_str());
        Lease {
            metadata: read.map_or_else(
                || ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                |l| l.metadata,
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(self.term.as_secs()).ok(),
                acquire_time: if mine { old.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets go, so that the next one need not wait. Best effort.
    pub async fn release(&mut self) {
        self.leadership.set(Duration::ZERO);
        let limit = every(self.term);
        let Ok(Some(mut lease)) = within(
            limit,
            || "read the lease".to_owned(),
            self.api.get_opt(&self.name),
        )
        .await
        else {
            return;
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|s| s.holder_identity.as_deref() == Some(self.me.as_str()))
        else {
            return;
        };
        spec.holder_identity = Some(String::new());
        if let Err(error) = within(
            limit,
            || "release the lease".to_owned(),
            self.api.replace(&self.name, &PostParams::default(), &lease),
        )
        .await
        {
            tracing::debug!(%error, "lease not released; its term ends by itself");
        }
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    fn held(by: &str) -> Record {
        Record {
            holder: by.to_owned(),
            version: "1".to_owned(),
            transitions: 0,
        }
    }

    #[test]
    fn a_silent_holder_is_replaced_after_a_whole_term_and_no_sooner() {
        let almost = TERM - Duration::from_millis(1);
        assert_eq!(judge(Some(&held("a")), almost, "b", TERM), Step::Wait);
        assert_eq!(judge(Some(&held("a")), TERM, "b", TERM), Step::Take);
        assert_eq!(
            judge(Some(&held("")), Duration::ZERO, "b", TERM),
            Step::Take
        );
        assert_eq!(
            judge(Some(&held("b")), Duration::ZERO, "b", TERM),
            Step::Renew
        );
        assert_eq!(judge(None, Duration::ZERO, "b", TERM), Step::Create);
    }

    /// The leader's belief ends before a candidate, who saw the write at the earliest when it was begun, may take over.
    #[test]
    fn belief_ends_before_the_next_leader_may_begin() {
        let begun = Duration::from_secs(100);
        assert!(valid_until(begun, TERM) < begun + TERM);
        assert!(every(TERM) * 3 < TERM * 2 / 3 + every(TERM));
    }
}
