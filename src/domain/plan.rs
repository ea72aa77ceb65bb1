//! The vocabulary of recorded operations: steps, what was seen of them, what sending one came to, and how trouble
//! is classed. Providers answer in these words; decisions are made from them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::condition::Reason;

/// Ids and addresses of what exists at the provider: `serviceId`, `domainId`, `deploymentId`, `url`, …, under the
/// names of the fields of `status.provider` and `status.url`. Never a secret.
pub type Facts = BTreeMap<String, String>;
/// A fact for removals only: a step of the creation may have been sent and what it made is not recorded. Its name.
pub const UNSETTLED: &str = "unsettled";
/// Beside [`UNSETTLED`]: for how many seconds this process has been removing, so at the least it was not sent since.
pub const UNSETTLED_FOR: &str = "unsettledFor";

/// A fact for removals only: a step of the creation was accepted and is not over. Its name.
pub const UNDER_WAY: &str = "underWay";

/// What is done with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Build it.
    Create,
    /// Restore it for the next user.
    Recycle,
    /// Remove it with everything paid for it.
    Destroy,
}

impl Operation {
    /// The word in `status.operation.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::Recycle => "Recycle",
            Self::Destroy => "Destroy",
        }
    }
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Something at an instance service (a key, a mailbox): the core's, by the service's name.
    Service(&'static str),
    /// The provider's own, by its name.
    Provider(&'static str),
    /// The agent answers ready: the core's.
    Ready,
    /// The agent is verified unbound and clean: the core's.
    Clean,
}

impl Step {
    /// The step's name in `status.operation.steps`.
    pub fn name(self) -> String {
        match self {
            Self::Service(s) => format!("service/{s}"),
            Self::Provider(s) => s.to_owned(),
            Self::Ready => "ready".to_owned(),
            Self::Clean => "clean".to_owned(),
        }
    }
}

/// What to do with a step that may have been sent already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Sending it again ends in the same state.
    Safe,
    /// Only after its absence was proven twice, past the list's lag.
    LookFirst,
}

/// One step of a plan with its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepSpec {
    /// Which.
    pub step: Step,
    /// Whether it may be sent again blindly.
    pub repeat: Repeat,
    /// How long it may run before it counts as failed.
    pub deadline: Duration,
    /// How often it is tried.
    pub attempts: u8,
}

/// Whether a step has happened to our resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has not, as far as one look can tell.
    Absent,
    /// It is under way.
    Running,
    /// It has; with what it made.
    Done(Facts),
    /// It was accepted and failed.
    Failed {
        /// A word for it, PascalCase.
        reason: &'static str,
        /// In words, with the provider's own where there are any.
        message: String,
        /// Whether trying again may help.
        retry: bool,
    },
    /// Nobody knows: look again.
    Unknown,
}

/// What sending a step once came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; with what it made.
    Done(Facts),
    /// Accepted; look again after this time.
    Running {
        /// What is known already.
        facts: Facts,
        /// When to look again.
        poll: Duration,
    },
    /// Refused for good or for now.
    Failed {
        /// A word for it, PascalCase.
        reason: &'static str,
        /// In words.
        message: String,
        /// Whether trying again may help.
        retry: bool,
    },
}

/// What an error means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 429: did not run; the whole provider waits.
    Throttled,
    /// 5xx or time-out on a read, DNS: try again.
    Transient,
    /// Time-out or reset after a write was sent: look first.
    Ambiguous,
    /// The request itself is at fault: not before something changes.
    Rejected,
    /// Quota or plan limit: slowly.
    Capacity,
    /// 401, 403: not before the credential changes.
    Unauthorized,
    /// What we address does not exist.
    Gone,
}

impl Class {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Ambiguous => "ambiguous",
            Self::Rejected => "rejected",
            Self::Capacity => "capacity",
            Self::Unauthorized => "unauthorized",
            Self::Gone => "gone",
        }
    }
}

/// An error as decisions see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it means.
    pub class: Class,
    /// The word for conditions, events and metrics.
    pub reason: Reason,
    /// In words, redacted.
    pub message: String,
    /// When to come back, where somebody said so.
    pub retry_after: Option<Duration>,
}
