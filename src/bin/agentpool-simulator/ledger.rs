//! The ledger: every paid resource that ever existed and, per instance, what it did. Append-only;
//! nothing in it is forgotten when a service is deleted. Tests assert on it.

use crate::clock::{Clock, Ms};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One paid resource.
pub struct Resource {
    peer: &'static str,
    /// `service`, `volume`, …
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// Its name when it was made.
    pub name: String,
    /// The owner mark it was made with.
    pub owner: Option<String>,
    created_by: String,
    created: Ms,
    deleted: Option<Ms>,
}

impl Resource {
    /// Whether it exists at that moment.
    pub fn exists(&self, now: Ms) -> bool {
        self.deleted.is_none_or(|at| at > now)
    }
}

/// What one instance did, by service id (an agent alone: its host).
#[derive(Default)]
pub struct Account {
    /// The service's name when the instance first appeared.
    pub service: String,
    /// Hosts under which it was reached.
    pub hosts: Vec<String>,
    /// Requests of any kind.
    pub requests: u64,
    /// Claim calls that came in (create, join, provision).
    pub claim_calls: u64,
    /// Those of them that were refused as such: nothing was done.
    pub claims_refused: u64,
    /// Conversations it made.
    pub conversations: Vec<Value>,
    /// Every time it was bound to a conversation.
    pub binds: Vec<Value>,
    /// Calls of `/convos/reset`.
    pub resets: u64,
    /// Process starts after the first.
    pub restarts: u64,
    /// Exits of the process, with code.
    pub exits: Vec<Value>,
    /// Callbacks sent to the pool, with the answer's status.
    pub callbacks: Vec<Value>,
}

/// The ledger of all peers.
#[derive(Default)]
pub struct Ledger {
    /// All that ever existed, oldest first.
    pub resources: Vec<Resource>,
    /// What instances did, by service id.
    pub accounts: BTreeMap<String, Account>,
    deployments: BTreeMap<String, Vec<String>>,
}

impl Ledger {
    /// A paid resource came into being.
    pub fn created(
        &mut self,
        kind: &'static str,
        (id, name): (&str, &str),
        owner: Option<String>,
        created_by: &str,
        now: Ms,
    ) {
        self.resources.push(Resource {
            peer: "railway",
            kind,
            id: id.to_owned(),
            name: name.to_owned(),
            owner,
            created_by: created_by.to_owned(),
            created: now,
            deleted: None,
        });
    }

    /// A paid resource ends at `at`, which may lie a little ahead.
    pub fn deleted(&mut self, id: &str, at: Ms) {
        for resource in self.resources.iter_mut().filter(|r| r.id == id) {
            resource.deleted.get_or_insert(at);
        }
    }

    /// A deployment was made of a service.
    pub fn deployed(&mut self, service: &str, deployment: &str) {
        self.deployments
            .entry(service.to_owned())
            .or_default()
            .push(deployment.to_owned());
    }

    /// The account of an instance.
    pub fn account(&mut self, key: &str) -> &mut Account {
        self.accounts.entry(key.to_owned()).or_default()
    }

    /// The whole ledger, as the control port shows it.
    pub fn to_json(&self, clock: &Clock, now: Ms) -> Value {
        let resources: Vec<Value> = self
            .resources
            .iter()
            .map(|r| {
                json!({
                    "peer": r.peer, "kind": r.kind, "id": r.id, "name": r.name, "owner": r.owner,
                    "createdBy": r.created_by, "createdAt": clock.stamp(r.created),
                    "deletedAt": r.deleted.filter(|at| *at <= now).map(|at| clock.stamp(at)),
                    "exists": r.exists(now),
                })
            })
            .collect();
        let instances: BTreeMap<&String, Value> = self
            .accounts
            .iter()
            .map(|(key, a)| (key, account_json(a)))
            .collect();
        json!({"resources": resources, "instances": instances, "deploymentsByService": self.deployments})
    }
}

fn account_json(a: &Account) -> Value {
    json!({
        "service": a.service, "hosts": a.hosts, "requests": a.requests, "claimCalls": a.claim_calls,
        "claimsRefused": a.claims_refused,
        "conversationsMade": a.conversations.len(), "conversations": a.conversations,
        "binds": a.binds, "resets": a.resets, "restarts": a.restarts, "exits": a.exits,
        "callbacks": a.callbacks,
    })
}
