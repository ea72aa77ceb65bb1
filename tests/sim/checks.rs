//! What must hold at every moment, whatever is lost, late, twice or dead. Heard under the server's lock, told later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentpool::api::AgentInstance;
use agentpool::claim::ClaimAnswer;
use agentpool::domain::instance::phase::{self, Phase};
use serde_json::Value;

use crate::api_server::{Change, Kind};
use crate::world::Sim;

#[derive(Default)]
struct State {
    problems: Vec<String>,
    /// Conversations of answered claims, by `spec.id`.
    promised: BTreeMap<String, Option<String>>,
    /// The latest state of each instance, by `spec.id`.
    instances: BTreeMap<String, Arc<Value>>,
    /// Objects that the user gave back or deleted.
    excused: BTreeSet<String>,
    /// Services that were seen alive, by id, with the instance's id.
    alive: BTreeMap<String, String>,
    /// The agents that nobody uses, by `spec.id`.
    unused: BTreeSet<String>,
    /// The most of them at a time.
    most_unused: usize,
    /// Changes of objects that are not leases or events.
    writes: u64,
    /// Services go by themselves.
    removals: bool,
}

/// The checks of a world. Cheap to clone.
#[derive(Clone)]
pub struct Checks {
    state: Arc<Mutex<State>>,
    sim: Arc<Sim>,
}

impl Checks {
    /// For a world with that simulator.
    pub fn new(sim: Arc<Sim>) -> Self {
        Self {
            state: Arc::default(),
            sim,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user ended this object's life.
    pub fn excuse(&self, name: &str) {
        self.state().excused.insert(name.to_owned());
    }

    /// A claim was answered: from now on it must stay as it was told.
    pub fn answered(&self, answer: &ClaimAnswer) {
        let mut state = self.state();
        let id = &answer.instance_id;
        let taken = state.promised.contains_key(id);
        let stands = state.instances.get(id).is_some_and(|i| {
            i["status"]["claim"]["conversationId"].as_str() == answer.conversation_id.as_deref()
                && i["spec"]["claim"]["id"] == i["status"]["claim"]["id"]
                && i["spec"]["claim"]["agentName"] == answer.agent_name.as_str()
        });
        if taken {
            state.problems.push(format!("{id} was handed out twice"));
        }
        let excused = state.excused.iter().any(|n| n.ends_with(id.as_str()));
        if !stands && !excused {
            let now = state.instances.get(id).cloned();
            state
                .problems
                .push(format!("answered and not recorded: {answer:?}, {now:?}"));
        }
        state
            .promised
            .insert(id.clone(), answer.conversation_id.clone());
    }

    /// Somebody holds this agent by this conversation, whoever said so.
    pub fn promise(&self, id: &str, conversation: &str) {
        self.state()
            .promised
            .insert(id.to_owned(), Some(conversation.to_owned()));
    }

    /// How many claims were answered.
    pub fn answers(&self) -> usize {
        self.state().promised.len()
    }

    /// The ids of agents that were handed out and not given back.
    pub fn handed_out(&self) -> Vec<String> {
        let state = self.state();
        let kept = state
            .promised
            .keys()
            .filter(|id| state.instances.contains_key(*id));
        kept.cloned().collect()
    }

    /// The most agents at a time that nobody used, since the last time this was asked.
    pub fn most_unused(&self) -> usize {
        std::mem::take(&mut self.state().most_unused)
    }

    /// Changes so far, events and leases apart.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Hears of every change of the cluster.
    pub fn changed(&self, change: &Change) {
        if matches!(change.plural, "events" | "leases") {
            return;
        }
        let mut state = self.state();
        state.writes += 1;
        if change.plural != "agentinstances" {
            return;
        }
        let new = &change.object;
        let id = new["spec"]["id"].as_str().unwrap_or_default().to_owned();
        let name = new["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let excused = state.excused.contains(&name);
        if change.kind == Kind::Deleted {
            state.instances.remove(&id);
        } else {
            state.instances.insert(id.clone(), new.clone());
        }
        if let Some(promised) = state.promised.get(&id).cloned().filter(|_| !excused) {
            let ends =
                change.kind == Kind::Deleted || !new["metadata"]["deletionTimestamp"].is_null();
            let told = new["status"]["claim"]["conversationId"].as_str();
            let kept = !new["spec"]["claim"].is_null() && told == promised.as_deref();
            if ends || !kept {
                let before = change.before.as_deref().map(|b| b["status"].clone());
                state.problems.push(format!(
                    "a claimed agent was lost: {} after {before:?}",
                    change.object
                ));
            }
        }
        if change.kind != Kind::Deleted && is_unused(new) {
            state.unused.insert(id);
        } else {
            state.unused.remove(&id);
        }
        state.most_unused = state.most_unused.max(state.unused.len());
    }

    /// Looks at the provider too, and fails if anything was broken.
    pub fn assert(&self) {
        self.look();
        let state = self.state();
        assert!(
            state.problems.is_empty(),
            "broken:\n{}",
            state.problems.join("\n")
        );
    }

    /// No two resources or domains of one instance, none lost while its object stands, no agent with two users, no second call.
    fn look(&self) {
        let now = self.sim.clock.now();
        let world = self.sim.world();
        let mut state = self.state();
        let mut alive: BTreeMap<String, String> = BTreeMap::new();
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for r in world
            .ledger
            .resources
            .iter()
            .filter(|r| r.kind == "service" && r.exists(now))
        {
            let Some(owner) = r.owner.as_deref().and_then(|o| o.rsplit('/').next()) else {
                continue;
            };
            alive.insert(r.id.clone(), owner.to_owned());
            *owners.entry(owner.to_owned()).or_default() += 1;
        }
        for (owner, count) in owners.iter().filter(|(_, n)| **n > 1) {
            state
                .problems
                .push(format!("{count} services of instance {owner}"));
        }
        let gone: Vec<(String, String)> = state
            .alive
            .iter()
            .filter(|(id, _)| !alive.contains_key(*id))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect();
        for i in world.railway.instances.values() {
            let (service, domains) = (&i.service, i.domains.len());
            if alive.contains_key(service) && domains > 1 {
                state
                    .problems
                    .push(format!("{domains} domains of service {service}"));
            }
        }
        for (service, owner) in gone {
            let stands = state
                .instances
                .get(&owner)
                .is_some_and(|i| i["metadata"]["deletionTimestamp"].is_null());
            if stands && !state.removals {
                state.problems.push(format!(
                    "service {service} was removed while instance {owner} stands"
                ));
            }
        }
        state.alive = alive;
        for (service, account) in &world.ledger.accounts {
            // The wrapper of an agent repeats a slow creation by itself: one call, one name, several conversations.
            let names: BTreeSet<&str> = account
                .conversations
                .iter()
                .filter_map(|c| c["name"].as_str())
                .collect();
            if names.len() > 1 {
                state
                    .problems
                    .push(format!("agent {service} works for {names:?}"));
            }
            let owner = state.alive.get(service);
            let instance = owner.and_then(|id| state.instances.get(id));
            let turns = instance.and_then(|i| i["spec"]["turn"].as_u64());
            if turns.is_some_and(|turns| account.claim_calls > turns) {
                let calls = account.claim_calls;
                state.problems.push(format!(
                    "agent {service} got {calls} claim calls in {turns:?} turns"
                ));
            }
        }
    }

    /// From now on services may go by themselves: the provider takes them away.
    pub fn removals_happen(&self) {
        self.state().removals = true;
    }
}

/// Whether nobody uses it and it is not on its way out.
fn is_unused(object: &Value) -> bool {
    let instance: AgentInstance = serde_json::from_value(object.clone()).expect("an instance");
    matches!(
        phase::phase_of(&instance),
        Phase::Provisioning | Phase::Idle
    ) && instance.spec.claim.is_none()
}
