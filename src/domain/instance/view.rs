//! What is known of one instance when it is decided about, Unknown included.
//!
//! Three sources: the object itself (spec and recorded status), fresh evidence of this pass, and what this process
//! remembers. Nothing that is remembered may be needed for safety: a `kill -9` takes it away. Elapsed times are on
//! this process's own monotonic clock, counted from when it first saw the thing.

use std::time::Duration;

use super::phase::{self, Phase};
use super::status::is_recycling;
use crate::api::AgentInstance;
use crate::api::agent_instance::ReleaseMode;
use crate::domain::agent::Probe;
use crate::domain::drift::Drift;
use crate::domain::plan::{Operation, Outcome, Seen, StepSpec, Trouble};
use crate::domain::resource::{Presence, Resource};

/// What the latest usable listing says of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// There is no listing that can tell: none yet, it failed, or it is older than what we know.
    #[default]
    Unknown,
    /// A complete listing, begun after the instance's last recorded change, does not have it.
    Absent,
    /// It has it.
    Present(Box<Resource>),
}

/// Evidence gathered in this pass, on request of an earlier decision of the same pass.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What looking for the present step showed.
    pub look: Option<Seen>,
    /// What sending the present step came to.
    pub outcome: Option<Outcome>,
    /// What the agent answered.
    pub probe: Option<Probe>,
    /// What a direct read showed.
    pub presence: Option<Presence>,
    /// What asking for removal came to.
    pub removal: Option<Presence>,
    /// Whether the agent says that it was reset.
    pub reset: Option<bool>,
    /// What looking inside the machine showed of what is left of a user.
    pub inside: Option<Inside>,
    /// The call that failed in this pass, if one did.
    pub trouble: Option<Trouble>,
}

/// What is left of a user inside a machine, by its provider's look at the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Nothing.
    Clean,
    /// Something; what, in words.
    Dirty(String),
}

/// Who is asked how it fares, where the machine sleeps when nobody calls and is billed while it is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// At every beat, asleep or not: it is kept awake.
    Always,
    /// Only while the listing calls it running, and so rarely that it can fall asleep in between.
    WhileRunning,
    /// Never: the listing says enough, and wakes nothing.
    Never,
}

/// How the agents of a provider whose sleepers stay in stock are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often who is asked is asked.
    pub every: Duration,
    /// Those in stock.
    pub idle: Beat,
    /// Those in use, or waiting for a person.
    pub in_use: Beat,
}

/// What this process remembers of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// How long this process has known the instance.
    pub known_for: Duration,
    /// How long it has known the instance in its present phase.
    pub phase_for: Duration,
    /// How long it has known the present claim.
    pub claim_known_for: Duration,
    /// How long it has known the present step in its present state, or the present verdict.
    pub step_known_for: Duration,
    /// How long ago the last probe was sent; `None`: never.
    pub probed: Option<Duration>,
    /// Probes in a row that were not answered as they should be, up to the last one.
    pub unanswered: u32,
    /// Somebody asked for a probe that was not sent yet.
    pub probe_asked: bool,
    /// How long ago the resource was first found missing without having been seen since.
    pub missing_for: Option<Duration>,
    /// How long ago looking first found that the present step has not happened, in its present state and since it was
    /// last sent by this process.
    pub absent_for: Option<Duration>,
    /// How long ago a claimed agent was first seen without its conversation, without having been seen with it since;
    /// of one whose join waits, without saying that it waits.
    pub unbound_for: Option<Duration>,
    /// How long ago a claimed agent was first seen stopped, without having been seen running since.
    pub stopped_for: Option<Duration>,
    /// This process created the object itself: nothing was ever sent for it. Any other object without a status may have
    /// lost it (restored from a backup), and what it is to have may be there already.
    pub fresh: bool,
    /// This process recorded the present step's (or the wake's) intent and has not sent it: it may be sent without
    /// looking.
    pub permit: bool,
    /// Troubles in a row.
    pub failures: u32,
    /// Heartbeats in a row without an answer, since it was last restarted.
    pub silent_beats: u32,
    /// How often it was restarted since it last answered.
    pub restarts: u32,
    /// How long ago it was last restarted.
    pub restarted: Option<Duration>,
    /// How long ago its provider was last asked to keep it awake.
    pub held: Option<Duration>,
}

/// The limits that apply, from the pool or, where it is gone, their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `tickIntervalSeconds`.
    pub tick: Duration,
    /// `stuckTimeoutSeconds`.
    pub stuck: Duration,
    /// `cleanupAfterSeconds`.
    pub cleanup: Duration,
    /// `claim.deadlineSeconds`.
    pub claim_deadline: Duration,
    /// `claim.pendingTimeoutSeconds`.
    pub pending_timeout: Duration,
    /// `claim.maxLifetimeSeconds`; `None`: for ever.
    pub max_lifetime: Option<Duration>,
    /// `runtime.allowUnknownClean`.
    pub allow_unknown_clean: bool,
    /// How long a listing may lag behind a create.
    pub list_lag: Duration,
    /// It may sleep: its template lets it, or cannot be read now.
    pub may_sleep: bool,
    /// Its provider can restore it for the next user, and look inside it.
    pub recycles: bool,
    /// Its provider's sleepers are in stock, and this is how they are looked after; `None`: a sleeper is out of stock.
    pub heartbeat: Option<Heartbeat>,
    /// In what it is not what its pool would build now.
    pub drift: Option<Drift>,
    /// Its pool has counted it as a failed creation, or is not there to count.
    pub counted: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(30),
            stuck: Duration::from_secs(900),
            cleanup: Duration::from_secs(600),
            claim_deadline: Duration::from_secs(150),
            pending_timeout: Duration::from_secs(4500),
            max_lifetime: None,
            allow_unknown_clean: false,
            list_lag: Duration::from_secs(30),
            may_sleep: false,
            recycles: false,
            heartbeat: None,
            drift: None,
            counted: true,
        }
    }
}

/// Everything a decision about one instance rests on.
pub struct View<'a> {
    /// The object, as read last.
    pub instance: &'a AgentInstance,
    /// The plan of the operation that it is in or begins: of its recycling where [`operation_of`] says so, else of its creation.
    pub plan: &'a [StepSpec],
    /// What the latest listing says.
    pub listed: Listed,
    /// What the listing says of the present step; `None` where there is no listing or no such step.
    pub progress: Option<Seen>,
    /// Evidence of this pass.
    pub evidence: &'a Evidence,
    /// What this process remembers.
    pub memory: Memory,
    /// The limits that apply.
    pub limits: Limits,
    /// Wall time: for what is counted in days, and for nothing else.
    pub now: jiff::Timestamp,
}

impl View<'_> {
    /// The instance's phase.
    pub fn phase(&self) -> Phase {
        phase::phase_of(self.instance)
    }
}

/// Which operation an instance is in or begins next, its destruction aside.
pub fn operation_of(instance: &AgentInstance) -> Operation {
    let release = instance.spec.release.as_ref();
    let given_back = release.is_some_and(|r| r.mode == ReleaseMode::Recycle);
    if given_back || is_recycling(instance.status.as_ref()) {
        Operation::Recycle
    } else {
        Operation::Create
    }
}
