//! The ledger: every paid resource that ever existed and, per instance, what it did. Append-only;
//! nothing in it is forgotten when a service is deleted. Tests assert on it.

use crate::clock::{Clock, Ms};
use crate::sprites::model::Sprite;
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
    /// What sprites did, by id.
    sprites: BTreeMap<String, SpriteAccount>,
}

/// What one sprite did.
#[derive(Default)]
struct SpriteAccount {
    name: String,
    organization: String,
    wakes: Vec<Value>,
    restores: Vec<Value>,
    /// Billed until it was deleted.
    awake: Option<Ms>,
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
            peer: match kind {
                "sprite" | "checkpoint" => "sprites",
                _ => "railway",
            },
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

    /// A sprite came into being; its owner mark is the label that says so.
    pub fn sprite_created(&mut self, sprite: &Sprite, by: &str, now: Ms) {
        let owner = sprite
            .labels
            .iter()
            .find_map(|l| l.strip_prefix("agentpool-owner-"));
        let owner = owner.map(str::to_owned);
        self.created("sprite", (&sprite.id, &sprite.name), owner, by, now);
        let account = self.sprites.entry(sprite.id.clone()).or_default();
        account.name.clone_from(&sprite.name);
        account.organization.clone_from(&sprite.organization);
    }

    /// A sprite is gone, and its checkpoints with it.
    pub fn sprite_deleted(&mut self, sprite: &Sprite, now: Ms) {
        self.deleted(&sprite.id, now);
        for checkpoint in &sprite.checkpoints {
            self.deleted(&format!("{}/{}", sprite.id, checkpoint.id), now);
        }
        let account = self.sprites.entry(sprite.id.clone()).or_default();
        account.awake = Some(sprite.life.awake(now));
    }

    /// A checkpoint was made.
    pub fn checkpoint_made(&mut self, sprite: &Sprite, checkpoint: &str, now: Ms) {
        let id = format!("{}/{checkpoint}", sprite.id);
        self.created("checkpoint", (&id, &sprite.name), None, "checkpoint", now);
    }

    /// A sprite was woken: by what, and from which state.
    pub fn sprite_woke(&mut self, id: &str, cause: &str, from: &str, now: Ms) {
        let wakes = &mut self.sprites.entry(id.to_owned()).or_default().wakes;
        wakes.push(json!({"cause": cause, "from": from, "atMs": now}));
    }

    /// A sprite is back at a checkpoint.
    pub fn sprite_restored(&mut self, id: &str, checkpoint: &str, now: Ms) {
        let restores = &mut self.sprites.entry(id.to_owned()).or_default().restores;
        restores.push(json!({"checkpoint": checkpoint, "atMs": now}));
    }

    /// Sprites with what they did; `awake` tells the billed time of those that exist.
    pub fn sprites_json(&self, awake: impl Fn(&str) -> Ms) -> Value {
        let shown = self.sprites.iter().map(|(id, a)| {
            let mut causes = BTreeMap::<&str, u64>::new();
            for wake in &a.wakes {
                let cause = wake["cause"].as_str().and_then(|c| c.split(' ').next());
                *causes.entry(cause.unwrap_or_default()).or_default() += 1;
            }
            let about = json!({
                "name": a.name, "organization": a.organization, "wakeUps": a.wakes, "wakeUpsByCause": causes,
                "restores": a.restores, "awakeMs": a.awake.unwrap_or_else(|| awake(id)),
            });
            (id.clone(), about)
        });
        Value::Object(shown.collect())
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
