//! A pool with its members, owned, for the tests of this module.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::status::status;
use super::view::{Listing, Member, ProviderHealth, Refused, RequestProgress, View};
use crate::api::AgentPool;
use crate::api::agent_pool::{AgentPoolStatus, Request};
use crate::domain::image::Image;
use crate::domain::instance::phase::Phase;

#[derive(Clone, Debug)]
pub struct World {
    pub pool: AgentPool,
    pub members: Vec<Member>,
    pub waiting: i32,
    pub provider: ProviderHealth,
    pub listing: Listing,
    pub image: Image,
    pub unsupported: Option<String>,
    pub revision: Option<String>,
    pub requests: Vec<Request>,
    pub progress: RequestProgress,
    pub refused: Refused,
    /// Rises with every view, so that ids are never drawn twice.
    pub drawn: usize,
    pub now: jiff::Timestamp,
    pub fresh: Vec<String>,
}

pub fn world(spec: Value) -> World {
    let mut full = json!({
        "environment": "staging", "environmentCode": "stg", "minIdle": 3,
        "provider": {"railway": {"tokenSecretRef": {"name": "t"}, "project": {"projectId": "p", "environmentId": "e"},
            "source": {"image": {"reference": "i:1"}}}},
        "runtime": {},
    });
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    let object = json!({
        "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": full,
    });
    let mut world = World {
        pool: serde_json::from_value(object).unwrap(),
        members: vec![],
        waiting: 0,
        provider: ProviderHealth::Reachable(BTreeMap::new()),
        listing: Listing::default(),
        image: Image::None,
        unsupported: None,
        revision: Some("p-1".into()),
        requests: vec![],
        progress: RequestProgress::default(),
        refused: Refused::default(),
        drawn: 0,
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
        fresh: vec![],
    };
    world.draw();
    world
}

pub fn member(id: &str, phase: Phase) -> Member {
    Member {
        id: id.to_owned(),
        object: format!("agent-{id}"),
        phase,
        protected: false,
        creation_failed: None,
        reason: None,
        owed: None,
        drift: None,
        created_at: None,
    }
}

impl World {
    pub fn draw(&mut self) {
        self.drawn += 1;
        self.fresh = (0..50).map(|i| format!("f{}-{i}", self.drawn)).collect();
    }

    pub fn with(mut self, phase: Phase, n: usize) -> Self {
        for i in 0..n {
            let id = format!("{}{i}", phase.as_str().to_lowercase());
            self.members.push(member(&id, phase));
        }
        self
    }

    pub fn view(&self) -> View<'_> {
        View {
            pool: &self.pool,
            members: &self.members,
            waiting: self.waiting,
            provider: self.provider.clone(),
            listing: self.listing.clone(),
            image: self.image.clone(),
            secrets: None,
            unsupported: self.unsupported.clone(),
            revision: self.revision.clone(),
            requests: &self.requests,
            progress: &self.progress,
            refused: &self.refused,
            fresh_ids: &self.fresh,
            now: self.now,
            tick: Duration::from_secs(30),
            release: "ours",
        }
    }

    pub fn decide(&self) -> Decision {
        decide(&self.view())
    }

    pub fn status(&mut self) -> &mut AgentPoolStatus {
        self.pool.status.get_or_insert_default()
    }

    /// Decides and records, as the controller does.
    pub fn pass(&mut self) -> Decision {
        self.draw();
        let decision = self.decide();
        let view = self.view();
        let mut creating = view.unseen();
        creating.extend(decision.create.iter().cloned());
        self.pool.status = Some(status(&view, &decision, creating));
        decision
    }

    /// Every listed id gets its object.
    pub fn create(&mut self) {
        for id in self.status().creating.clone() {
            if !self.members.iter().any(|m| m.id == id) {
                self.members.push(member(&id, Phase::Provisioning));
            }
        }
    }

    pub fn request(mut self, id: &str, kind: &str, count: Option<i32>) -> Self {
        let request = json!({"id": id, "kind": kind, "count": count});
        self.requests.push(serde_json::from_value(request).unwrap());
        self
    }

    pub fn deleted(mut self) -> Self {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now);
        self.pool.metadata.deletion_timestamp = Some(now);
        self
    }

    pub fn later(&mut self, seconds: i64) {
        self.now = self
            .now
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .unwrap();
    }
}
