//! What the provider has and the cluster does not know: whose it is, and what becomes of it. Pure.
//!
//! Only a name of our shape is looked at. Only our own mark, read just before, lets anything be done, and then only
//! after the grace time, after two listings, and after the API server itself said that no AgentInstance has the id. What
//! may be in use, or cannot be asked, is adopted and never removed. Everything else is reported and left alone.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::agent::Probe;
use super::instance::decide::TWICE_APART;
use super::resource::{Liveness, Owner, Resource};
use crate::api::condition::Reason;
use crate::api::names::{ID_ALPHABET, ID_LENGTH};

/// How long a stranger must have been seen before anything is done about it, unless the process is told otherwise:
/// longer than any watch lags, and than a leader that lost its lease may go on creating.
pub const GRACE: Duration = Duration::from_secs(600);
/// How much longer one is waited for that is on its way up.
pub const SETTLING: Duration = Duration::from_secs(900);
/// When what failed is tried again.
pub const RETRY: Duration = Duration::from_secs(15);
/// The claim's holder on an adopted instance.
pub const ADOPTED_BY: &str = "agentpool-sweep";
/// The most names in a message.
const NAMES_TOLD: usize = 5;

/// How a pool's resources are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// `spec.namePrefix`.
    pub prefix: String,
    /// The environment's code.
    pub code: String,
}

/// What a name of our shape says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id at its end.
    pub id: String,
    /// It is a name as we give it at creation; else one as given after a claim, which other people's names may look like.
    pub at_creation: bool,
}

impl Naming {
    /// The id in a name of our shape: `<prefix>-<code>-<id>` at creation, `<code>-<slug>-<id>` after a claim. The id is
    /// one as we generate them: the predecessor's own service `…-pool-manager` has no such ending.
    pub fn identify(&self, name: &str) -> Option<Identity> {
        let (head, id) = name.rsplit_once('-')?;
        if id.len() != ID_LENGTH || !id.bytes().all(|b| ID_ALPHABET.contains(&b)) {
            return None;
        }
        let at_creation = head
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('-'))
            == Some(&self.code);
        let renamed = head
            .strip_prefix(&self.code)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|slug| !slug.is_empty());
        (at_creation || renamed).then(|| Identity {
            id: id.to_owned(),
            at_creation,
        })
    }
}

/// What the cluster knows, in every namespace and pool.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Every instance's id, with the provider's id of its resource where that is recorded.
    pub instances: HashMap<String, Option<String>>,
    /// Ids that a pool is about to create.
    pub creating: HashSet<String>,
}

/// A resource of our shape that no instance is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// What its name says.
    pub identity: Identity,
    /// An instance has its id and another resource: a creation that was sent twice.
    pub duplicate: bool,
}

/// The strangers in a listing, by name.
pub fn strangers<'a>(
    listing: impl Iterator<Item = &'a Resource>,
    namings: &[Naming],
    known: &Known,
) -> Vec<Sighting<'a>> {
    let mut found: Vec<_> = listing
        .filter_map(|resource| {
            let identity = namings.iter().find_map(|n| n.identify(&resource.name))?;
            if known.creating.contains(&identity.id) {
                return None;
            }
            let duplicate = match known.instances.get(&identity.id) {
                None => false,
                Some(Some(recorded)) if *recorded != resource.id => true,
                Some(_) => return None,
            };
            Some(Sighting {
                resource,
                identity,
                duplicate,
            })
        })
        .collect();
    found.sort_by(|a, b| {
        (&a.resource.name, &a.resource.id).cmp(&(&b.resource.name, &b.resource.id))
    });
    found
}

/// Whose a stranger is, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// It carries the mark of another cluster, namespace or instance.
    Foreign,
    /// It carries none.
    Unmarked,
    /// It carries ours, and nothing was done about it yet.
    Ours,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Foreign, Self::Unmarked, Self::Ours];

    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Unmarked => "unmarked",
            Self::Ours => "ours",
        }
    }
}

/// A mark that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// Whose the resource is.
    pub owner: &'a Owner,
    /// It was read in this pass.
    pub just_read: bool,
}

/// Everything a decision about one stranger rests on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What was seen.
    pub sighting: &'a Sighting<'a>,
    /// The mark it has if it is ours.
    pub ours: &'a str,
    /// Its mark, where that was read.
    pub mark: Option<Mark<'a>>,
    /// Whether the API server, asked in this pass, knows an instance or a pool's `creating` with its id.
    pub registered: Option<bool>,
    /// What its agent answered in this pass.
    pub probe: Option<&'a Probe>,
    /// A call of this pass failed.
    pub troubled: bool,
    /// How long it has been a stranger, on this process's own clock.
    pub seen_for: Duration,
    /// How far the first and the latest listing that show it are apart.
    pub listings_apart: Duration,
    /// The grace time.
    pub grace: Duration,
}

/// What to do about a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, and nothing to tell.
    Nothing,
    /// Read its mark.
    ReadMark,
    /// Ask the API server for its id.
    ReadCluster,
    /// Ask its agent.
    Probe,
    /// Remove it at the provider.
    Remove,
    /// Make an instance of it.
    Adopt,
    /// Leave it alone and tell.
    Report(Kind),
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Why a deed is done, in words.
    pub message: &'static str,
    /// When to look again, if sooner than at the next sweep.
    pub recheck: Option<Duration>,
}

fn decision(action: Action, message: &'static str, recheck: Option<Duration>) -> Decision {
    Decision {
        action,
        message,
        recheck,
    }
}

fn now(action: Action) -> Decision {
    decision(action, "", None)
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    // A single listing may show what is gone already, or what the watch has not told of yet.
    if view.listings_apart < TWICE_APART {
        let again = TWICE_APART - view.listings_apart;
        return decision(Action::Nothing, "", Some(again));
    }
    let Some(mark) = view.mark else {
        return if view.troubled {
            decision(Action::Nothing, "", Some(RETRY))
        } else {
            now(Action::ReadMark)
        };
    };
    match mark.owner {
        Owner::Gone | Owner::Elsewhere => now(Action::Nothing),
        // Anybody's service may be called so: without a mark it is no business of ours.
        Owner::Unmarked if !view.sighting.identity.at_creation => now(Action::Nothing),
        Owner::Unmarked => now(Action::Report(Kind::Unmarked)),
        Owner::Marked(mark) if mark != view.ours => now(Action::Report(Kind::Foreign)),
        Owner::Marked(_) if view.sighting.duplicate => now(Action::Report(Kind::Ours)),
        Owner::Marked(_) => orphan(view, mark.just_read),
    }
}

/// Ours, and nobody's.
fn orphan(view: &View<'_>, just_read: bool) -> Decision {
    let waits = |again| decision(Action::Report(Kind::Ours), "", Some(again));
    if view.seen_for < view.grace {
        return waits(view.grace - view.seen_for);
    }
    let starting = view.sighting.resource.liveness == Liveness::Starting;
    if view.troubled || starting && view.seen_for < view.grace + SETTLING {
        return waits(RETRY);
    }
    if !just_read {
        return now(Action::ReadMark);
    }
    match view.registered {
        None => now(Action::ReadCluster),
        Some(true) => now(Action::Nothing),
        Some(false) => fate(view),
    }
}

/// Removed where it is known to be nobody's; else adopted.
fn fate(view: &View<'_>) -> Decision {
    let remove = |why| decision(Action::Remove, why, None);
    let adopt = |why| decision(Action::Adopt, why, None);
    let resource = view.sighting.resource;
    let reachable = resource.facts.contains_key("url");
    match resource.liveness {
        Liveness::Created => return remove("nothing ever ran in it"),
        Liveness::Failed | Liveness::Removed if !reachable => {
            return remove("it does not run and never had an address");
        }
        Liveness::Sleeping => return adopt("it sleeps, and asking would wake it"),
        _ if !reachable => return adopt("it has no address to be asked at"),
        _ => {}
    }
    match view.probe {
        None => now(Action::Probe),
        Some(Probe::Answered { status, .. }) if status.conversation.is_some() => {
            adopt("its agent has a conversation")
        }
        Some(Probe::Answered { status, .. }) if status.pending => {
            adopt("its agent waits for a join to be accepted")
        }
        Some(Probe::Answered { status, .. }) if !status.ready || status.clean == Some(false) => {
            adopt("its agent cannot be told from one that was in use")
        }
        Some(Probe::Answered { .. }) => remove("its agent has no conversation"),
        Some(_) => adopt("its agent does not answer what it is doing"),
    }
}

/// Names of what was found and left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    names: HashMap<Kind, Vec<String>>,
}

impl Strays {
    /// Adds one.
    pub fn add(&mut self, kind: Kind, name: &str) {
        let names = self.names.entry(kind).or_default();
        names.push(name.to_owned());
        names.sort_unstable();
    }

    /// How many of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.names.get(&kind).map_or(0, Vec::len)
    }

    /// The condition's reason and message; `None`: there are none.
    pub fn summary(&self) -> Option<(Reason, String)> {
        let told = [
            (
                Kind::Ours,
                Reason::OrphanedResources,
                "carry the mark of this pool's namespace and have no AgentInstance: they are removed or adopted once the grace time is over and the provider and the agent can be asked; one whose AgentInstance has another resource is left to you",
            ),
            (
                Kind::Unmarked,
                Reason::UnmarkedResources,
                "are called as this pool's agents are and carry no owner mark; they are never touched: remove or rename them at the provider if nobody needs them",
            ),
            (
                Kind::Foreign,
                Reason::ForeignResources,
                "carry the owner mark (AGENTPOOL_OWNER) of another cluster, namespace or agent; they are never touched: if they are this installation's after a restore, set --cluster-id to the id in their mark, else leave them to their owner",
            ),
        ];
        let mut reason = None;
        let mut parts = vec![];
        for (kind, why, text) in told {
            let names = self.names.get(&kind).map(Vec::as_slice).unwrap_or_default();
            if names.is_empty() {
                continue;
            }
            reason.get_or_insert(why);
            let shown = names[..names.len().min(NAMES_TOLD)].join(", ");
            let more = if names.len() > NAMES_TOLD {
                ", …"
            } else {
                ""
            };
            parts.push(format!("{} ({shown}{more}) {text}", names.len()));
        }
        reason.map(|reason| (reason, parts.join(". ")))
    }
}

/// Whether a listing lacks so much of what is recorded that the listing itself is doubtful: more than half at once.
pub fn is_suspicious(recorded: usize, listed: usize) -> bool {
    recorded.saturating_sub(listed) >= 2 && listed * 2 < recorded
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
