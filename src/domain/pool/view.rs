//! What is known of one pool when it is decided about.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::AgentPool;
use crate::api::agent_pool::{Pausable, Replacement, Request};
use crate::api::condition::Reason;
use crate::domain::drift::Drift;
use crate::domain::image::Image;
use crate::domain::instance::phase::Phase;
use crate::domain::plan::Trouble;
use crate::domain::sweep::Strays;
use crate::domain::template;

/// The key in `status.resolved` of what a claim sets off.
pub const RESOLVED_REPLACEMENT: &str = "replacement";

/// A member, as the pool's decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `spec.id`.
    pub id: String,
    /// The object's name.
    pub object: String,
    /// Its phase.
    pub phase: Phase,
    /// Protected by label.
    pub protected: bool,
    /// Its creation failed: the reason in words.
    pub creation_failed: Option<String>,
    /// Why it is where it is: its Ready condition's reason.
    pub reason: Option<Reason>,
    /// It has a claim that no creation has answered yet: the one that does, where a pool wants one for each claim.
    pub owed: Option<Owed>,
    /// In what it is not what the pool would build now.
    pub drift: Option<Drift>,
    /// The time the API server created it, for order.
    pub created_at: Option<jiff::Timestamp>,
}

/// How many members are in each phase, those about to be created included in Provisioning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    by_phase: BTreeMap<Phase, i32>,
}

impl Counts {
    /// Counts members and ids that are to be created but have no object yet.
    pub fn of(members: &[Member], unseen: usize) -> Self {
        let mut counts = Self::default();
        for member in members {
            *counts.by_phase.entry(member.phase).or_default() += 1;
        }
        *counts.by_phase.entry(Phase::Provisioning).or_default() +=
            i32::try_from(unseen).unwrap_or(i32::MAX);
        counts
    }

    /// How many are in a phase.
    pub fn get(&self, phase: Phase) -> i32 {
        self.by_phase.get(&phase).copied().unwrap_or_default()
    }

    /// How many count towards `maxTotal`.
    pub fn occupancy(&self) -> i32 {
        self.by_phase
            .iter()
            .filter(|(p, _)| p.occupies())
            .map(|(_, n)| n)
            .sum()
    }
}

/// Whether the pool's provider can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderHealth {
    /// Not asked yet.
    Pending,
    /// It answers; names are resolved to these ids.
    Reachable(BTreeMap<String, String>),
    /// It does not, and nothing may be created.
    Trouble(Trouble),
    /// It does not at present, but credential and names were good when last asked.
    Degraded(BTreeMap<String, String>, Trouble),
}

/// How the subscription to the provider's events stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HookHealth {
    /// Not looked for yet.
    #[default]
    Pending,
    /// The provider tells us of events.
    Registered,
    /// It does not, and why. Events are seen at ticks only.
    Trouble(Reason, String),
}

impl HookHealth {
    /// Why it stands so.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Pending => Reason::Pending,
            Self::Registered => Reason::WebhookRegistered,
            Self::Trouble(reason, _) => *reason,
        }
    }
}

/// What the latest listing and sweep of a pool's scope say beside the members' own states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Members whose resource is recorded.
    pub recorded: usize,
    /// Those of them that the listing has; equal where there is none.
    pub listed: usize,
    /// What is called as the pool's and no instance is about.
    pub strays: Strays,
    /// How far apart listings are, where the request limit bears no more than one in so many ticks.
    pub stretched: Option<Duration>,
    /// The request limit has no room for a roll-out now.
    pub no_room: bool,
    /// Whether the provider tells us of events; `None`: it is not asked to.
    pub hook: Option<HookHealth>,
}

/// What this process knows of the requests under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestProgress {
    /// Requests whose work is over, with what they counted.
    pub finished: BTreeMap<String, Finished>,
}

/// What a finished request came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// A number, such as records cleaned.
    pub count: Option<i32>,
    /// Ids it concerned.
    pub ids: Vec<String>,
    /// What went wrong; empty: nothing.
    pub error: String,
}

/// The creation that answers a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Its id. It follows from the claim, so that whoever creates it, and however often, it is one.
    pub id: String,
    /// The agent was handed out. Until then the claim may come to nothing, and then nothing is owed for it.
    pub due: bool,
}

/// Creations that the API server refused: nothing was made, and the ids are not used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The ids, with what the API server said.
    pub ids: BTreeMap<String, String>,
    /// What it said, while that holds further creations back.
    pub holds: Option<String>,
}

/// Everything a decision about one pool rests on.
pub struct View<'a> {
    /// The object, as read last.
    pub pool: &'a AgentPool,
    /// Its members.
    pub members: &'a [Member],
    /// How many claims wait for an agent.
    pub waiting: i32,
    /// The provider.
    pub provider: ProviderHealth,
    /// What its latest listing says.
    pub listing: Listing,
    /// What its next agents are deployed from.
    pub image: Image,
    /// The digests of the values of the Secrets that they get.
    pub secrets: Option<String>,
    /// What cannot work in this version, in words; `None`: nothing.
    pub unsupported: Option<String>,
    /// The name of the present template's ControllerRevision, once it exists.
    pub revision: Option<String>,
    /// Open requests of the API, in order.
    pub requests: &'a [Request],
    /// How far they are.
    pub progress: &'a RequestProgress,
    /// What the API server refused to create.
    pub refused: &'a Refused,
    /// Fresh ids for new instances; as many as a decision may need.
    pub fresh_ids: &'a [String],
    /// Wall time.
    pub now: jiff::Timestamp,
    /// `tickIntervalSeconds`.
    pub tick: Duration,
    /// The release this process belongs to.
    pub release: &'a str,
}

/// What a pool that wants one creation for each claim owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debts {
    /// Ids still to be created.
    pub open: Vec<String>,
    /// Ids that will be owed if the claims under way succeed. Nothing is created for them, but what the pool is short of
    /// is created under these first: else the agent that a claim takes out of the stock would be made twice.
    pub coming: Vec<String>,
    /// Objects whose claim is answered: to be noted on them.
    pub answered: Vec<String>,
}

impl View<'_> {
    /// What is owed for claims (`replacement: OneForOne`).
    ///
    /// It is read off the objects: a claim that is not noted as answered, and whose replacement is neither listed as being
    /// created nor there. What was claimed before the pool came to want this is owed nothing.
    pub fn debts(&self) -> Debts {
        let mut debts = Debts::default();
        if template::replacement(&self.pool.spec) != Replacement::OneForOne {
            return debts;
        }
        let status = self.pool.status.as_ref();
        let wanted_before = status
            .and_then(|s| s.resolved.get(RESOLVED_REPLACEMENT))
            .is_some_and(|r| *r == format!("{:?}", Replacement::OneForOne));
        for member in self.members {
            let Some(Owed { id, due }) = &member.owed else {
                continue;
            };
            let made = self.members.iter().any(|m| &m.id == id);
            let listed = status.is_some_and(|s| s.creating.contains(id));
            match (made || !wanted_before, *due) {
                // What is under way is not written to: its claim is about to be recorded.
                (true, false) => {}
                (true, true) => debts.answered.push(member.object.clone()),
                (false, _) if listed => {}
                (false, true) => debts.open.push(id.clone()),
                (false, false) => debts.coming.push(id.clone()),
            }
        }
        debts
    }

    /// How many should be idle or on their way there: the minimum, and one for each claim that waits.
    pub fn wanted(&self) -> i32 {
        let served = !self.pool.spec.paused.contains(&Pausable::Claims);
        let waiting = if served { self.waiting } else { 0 };
        self.pool.spec.min_idle.saturating_add(waiting)
    }

    /// Ids that are to be created and have no object in the cache yet.
    pub fn unseen(&self) -> Vec<String> {
        let creating = self
            .pool
            .status
            .as_ref()
            .map(|s| s.creating.as_slice())
            .unwrap_or_default();
        creating
            .iter()
            .filter(|id| !self.members.iter().any(|m| &m.id == *id))
            .filter(|id| !self.refused.ids.contains_key(*id))
            .cloned()
            .collect()
    }
}
