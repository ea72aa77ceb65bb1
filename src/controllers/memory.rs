//! What this process remembers of each instance, on its own monotonic clock. A `kill -9` takes all of it away, and
//! nothing becomes unsafe by that: times start anew, and a step that may have been sent is looked at first.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::agent_instance::AgentInstance;
use crate::clock::Monotonic;
use crate::domain::instance::outcome;
use crate::domain::instance::phase::{self, Phase};
use crate::domain::instance::view::Memory;
use crate::domain::plan::{Class, Trouble};
use crate::provider::account::Requests;

/// One instance, remembered.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// This process created the object.
    pub fresh: bool,
    first_seen: Monotonic,
    phase: Option<(Phase, Monotonic)>,
    claim: Option<(String, Monotonic)>,
    step: Option<(String, Monotonic)>,
    /// When the last probe was sent.
    pub probed: Option<Monotonic>,
    /// Probes in a row that were not answered as they should be.
    pub unanswered: u32,
    /// Somebody asked for a probe that was not sent yet.
    pub probe_asked: bool,
    /// The request that asks for a diagnostic report.
    pub diagnose: Option<String>,
    /// Since when the resource is missing.
    pub missing: Option<Monotonic>,
    /// Since when the present step is known not to have happened.
    pub absent: Option<Monotonic>,
    /// Since when a claimed agent does not show its conversation; one whose join waits, that it waits.
    pub unbound: Option<Monotonic>,
    /// Since when its removal is tried.
    pub removing: Option<Monotonic>,
    /// Since when a claimed agent is seen stopped, or one in stock without its volume.
    pub stopped: Option<Monotonic>,
    /// The step whose intent this process recorded and has not sent.
    pub permit: Option<String>,
    /// Troubles in a row.
    pub failures: u32,
    /// Heartbeats in a row without an answer, since the last restart.
    pub silent_beats: u32,
    /// Restarts since the last answer, and when the last one was.
    pub restarts: (u32, Option<Monotonic>),
    /// When its provider was last asked to keep it awake.
    pub held: Option<Monotonic>,
    /// The latest trouble of its own, in which state of the object, and until when nothing is asked because of it.
    trouble: Option<(String, Trouble, Monotonic)>,
    /// Until when a used-up request limit holds it up, as far as that is accounted for.
    held_up_until: Monotonic,
    /// Requests to the provider in its life.
    pub requests: Requests,
    /// When a step was last recorded: listings begun before cannot tell.
    pub recorded: Monotonic,
    /// Reason of the last event, so that an event is published per transition, not per pass.
    pub told: Option<String>,
    /// Renames tried for the present claim.
    pub renames: Renames,
}

/// The tries to rename a resource after its agent.
#[derive(Clone, Debug, Default)]
pub struct Renames {
    /// The claim they are for.
    pub claim: String,
    /// How many.
    pub tries: u8,
    /// When the last one began.
    pub last: Option<Monotonic>,
}

/// All instances, remembered by UID.
#[derive(Default)]
pub struct Memories {
    /// Boxed: a table that has grown is half empty, and these are large.
    all: Mutex<HashMap<String, Box<Remembered>>>,
    /// Objects that are being created by this process at this moment, by namespace and name.
    creating: Mutex<HashSet<(String, String)>>,
}

impl Memories {
    /// Works on what is remembered of an instance.
    pub fn with<T>(&self, instance: &AgentInstance, work: impl FnOnce(&mut Remembered) -> T) -> T {
        let uid = instance.metadata.uid.clone().unwrap_or_default();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        work(all.entry(uid).or_default())
    }

    /// Notes that this process is about to create an object: the watch may show it before the answer comes.
    pub fn creating(&self, namespace: &str, name: &str) {
        let mut creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        creating.insert((namespace.to_owned(), name.to_owned()));
    }

    /// Notes what came of it: the object that this process made, or `None` where another did or nobody knows.
    pub fn created(&self, namespace: &str, name: &str, made: Option<&AgentInstance>) {
        if let Some(made) = made {
            self.with(made, |m| m.fresh = true);
        }
        let mut creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        creating.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Whether the call that creates this object is not answered yet.
    pub fn is_being_created(&self, instance: &AgentInstance) -> bool {
        let key = (
            instance.metadata.namespace.clone().unwrap_or_default(),
            instance.metadata.name.clone().unwrap_or_default(),
        );
        self.creating
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&key)
    }

    /// Forgets an instance that is gone.
    pub fn forget(&self, instance: &AgentInstance) {
        let uid = instance.metadata.uid.clone().unwrap_or_default();
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&uid);
    }

    /// Forgets all but these: what went while nobody watched is not told by an event.
    pub fn keep_only(&self, instances: &[Arc<AgentInstance>]) {
        let uids: HashSet<&str> = instances
            .iter()
            .filter_map(|i| i.metadata.uid.as_deref())
            .collect();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|uid, _| uids.contains(uid.as_str()));
    }

    /// After a failed call: counts it, and asks nothing more until then while the object is in the same state.
    pub fn pause(&self, instance: &AgentInstance, trouble: &Trouble, until: Monotonic) {
        let state = state(instance);
        self.with(instance, |m| {
            m.failures = m.failures.saturating_add(1);
            m.trouble = Some((state, trouble.clone(), until));
        });
    }

    /// A used-up request limit holds it up: so long no time passes for it. Other troubles are its own.
    pub fn held_up(&self, instance: &AgentInstance, trouble: &Trouble, now: Monotonic) {
        if trouble.class != Class::Throttled {
            return;
        }
        let until = now + trouble.retry_after.unwrap_or_default();
        self.with(instance, |m| {
            let more = until.saturating_sub(m.held_up_until.max(now));
            m.held_up_until = m.held_up_until.max(until);
            let slots = [
                m.phase.as_mut().map(|p| &mut p.1),
                m.step.as_mut().map(|s| &mut s.1),
            ];
            for since in slots.into_iter().flatten() {
                *since += more;
            }
        });
    }

    /// The trouble because of which nothing is asked now, with what is left of its time.
    pub fn paused(&self, instance: &AgentInstance, now: Monotonic) -> Option<Trouble> {
        let state = state(instance);
        self.with(instance, |m| match &m.trouble {
            Some((of, trouble, until)) if *of == state && now < *until => Some(Trouble {
                retry_after: Some(*until - now),
                ..trouble.clone()
            }),
            _ => None,
        })
    }

    /// After a call that was answered.
    pub fn answered(&self, instance: &AgentInstance) {
        self.with(instance, |m| {
            m.failures = 0;
            m.trouble = None;
        });
    }

    /// Notes what the object shows now, and says what is known of it.
    pub fn notice(&self, instance: &AgentInstance, now: Monotonic) -> Memory {
        self.with(instance, |m| m.notice(instance, now))
    }
}

impl Remembered {
    fn notice(&mut self, instance: &AgentInstance, now: Monotonic) -> Memory {
        if self.phase.is_none() {
            self.first_seen = now;
        }
        let phase = phase::phase_of(instance);
        if self.phase.as_ref().is_some_and(|(old, _)| *old != phase) {
            // What was missed in another phase is something else.
            self.unbound = None;
            self.answered_a_beat();
            self.held = None;
        }
        let phase_since = since(&mut self.phase, phase, now);
        let step = signature(instance);
        if self.step.as_ref().is_none_or(|(old, _)| *old != step) {
            self.absent = None;
        }
        let step_since = since(&mut self.step, step, now);
        let claim_known_for = match &instance.spec.claim {
            Some(claim) => now.saturating_sub(since(&mut self.claim, claim.id.clone(), now)),
            None => {
                self.claim = None;
                Default::default()
            }
        };
        let ago = |at: Option<Monotonic>| at.map(|t| now.saturating_sub(t));
        Memory {
            known_for: now.saturating_sub(self.first_seen),
            phase_for: now.saturating_sub(phase_since),
            claim_known_for,
            step_known_for: now.saturating_sub(step_since),
            probed: ago(self.probed),
            unanswered: self.unanswered,
            probe_asked: self.probe_asked,
            missing_for: ago(self.missing),
            absent_for: ago(self.absent),
            unbound_for: ago(self.unbound),
            stopped_for: ago(self.stopped),
            fresh: self.fresh,
            permit: self.permit.is_some() && self.permit == intent(instance),
            failures: self.failures,
            silent_beats: self.silent_beats,
            restarts: self.restarts.0,
            restarted: ago(self.restarts.1),
            held: ago(self.held),
        }
    }

    /// A heartbeat was answered: what was missed before does not count any more.
    pub fn answered_a_beat(&mut self) {
        self.silent_beats = 0;
        self.restarts = (0, None);
    }

    /// A restart was asked for: its own beats are counted from here.
    pub fn was_restarted(&mut self, now: Monotonic) {
        self.silent_beats = 0;
        self.restarts = (self.restarts.0.saturating_add(1), Some(now));
    }
}

/// Since when a value is what it is.
fn since<T: PartialEq>(slot: &mut Option<(T, Monotonic)>, value: T, now: Monotonic) -> Monotonic {
    match slot {
        Some((old, at)) if *old == value => *at,
        _ => {
            *slot = Some((value, now));
            now
        }
    }
}

/// What a trouble belongs to: the present step or verdict, and whether the object is being deleted.
fn state(instance: &AgentInstance) -> String {
    let deleted = instance.metadata.deletion_timestamp.is_some();
    format!("{deleted}/{}", signature(instance))
}

/// What the present step or verdict is, as text: a change of it starts its time anew.
fn signature(instance: &AgentInstance) -> String {
    let Some(status) = &instance.status else {
        return String::new();
    };
    if let Some(verdict) = &status.verdict {
        return format!("{}/{}", verdict.state, verdict.reason);
    }
    if let Some(wake) = wake(instance) {
        return wake;
    }
    let Some(operation) = &status.operation else {
        // Of a claim that ended without a user: since when it is settled.
        let outcome = outcome::of(instance).filter(|o| !o.is_handed_out());
        return outcome.map(|o| o.as_str().to_owned()).unwrap_or_default();
    };
    let step = usize::try_from(operation.index)
        .ok()
        .and_then(|i| operation.steps.get(i));
    let (state, attempt) = step
        .map(|s| (s.state.as_str(), s.attempt))
        .unwrap_or_default();
    format!("{}/{}/{state}/{attempt}", operation.id, operation.index)
}

/// The wake under way.
fn wake(instance: &AgentInstance) -> Option<String> {
    let provider = instance.status.as_ref()?.provider.as_ref()?;
    let at = provider.woken_at.as_ref()?;
    (provider.state.as_deref() == Some(phase::STATE_WAKING)).then(|| format!("wake/{}", at.0))
}

/// The intent that the object records now; `None` where neither a step is Intended nor a wake under way.
pub fn intent(instance: &AgentInstance) -> Option<String> {
    if let Some(wake) = wake(instance) {
        return Some(wake);
    }
    let operation = instance.status.as_ref()?.operation.as_ref()?;
    let step = operation
        .steps
        .get(usize::try_from(operation.index).ok()?)?;
    (step.state == "Intended")
        .then(|| format!("{}/{}/{}", operation.id, operation.index, step.attempt))
}
