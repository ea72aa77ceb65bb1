//! What exists at the simulated Sprites API: organisations, tokens, sprites. No I/O and no clock.

use crate::clock::{Clock, Ms};
use crate::rng::Random;
use crate::sprites::faults::Rules;
use crate::sprites::knobs::Knobs;
use crate::sprites::life::{Life, Status, Times};
use crate::sprites::supervisor::Service;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// The organisation of the quick start.
pub const ORGANIZATION: &str = "quickstart";
/// Its token.
pub const TOKEN: &str = "quickstart/5eed00c1/5eed00c2/5eed0000-0000-4000-8000-0000000000c3";
/// The token of a second organisation, `other`.
pub const OTHER_TOKEN: &str = "other/5eed00d1/5eed00d2/5eed0000-0000-4000-8000-0000000000d3";

/// A token of an organisation.
pub struct Token {
    /// The whole of it.
    pub token: String,
    /// The organisation's slug.
    pub organization: String,
    /// Answers 401.
    pub revoked: bool,
}

/// A snapshot of a sprite's disk.
#[derive(Clone)]
pub struct Checkpoint {
    /// `v1`, `v2`, …
    pub id: String,
    /// As its maker gave it.
    pub comment: Option<String>,
    /// When it was made.
    pub created: Ms,
    /// The checkpoint last restored before it.
    pub source: Option<String>,
}

/// What keeps the runtime of a sprite from answering.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// A restore is at work or settling, until then.
    Until(Ms),
    /// It will never answer again.
    ForEver,
}

/// One sprite.
pub struct Sprite {
    /// `sprite-<uuid>`, for its whole life.
    pub id: String,
    /// Chosen by the caller, unique in the organisation.
    pub name: String,
    /// The organisation's slug.
    pub organization: String,
    /// The host of its URL.
    pub host: String,
    /// The URL asks nobody for a token.
    pub public: bool,
    /// `admins` or `org_users`.
    pub private_access: String,
    /// Flat strings.
    pub labels: Vec<String>,
    /// When it was made.
    pub created: Ms,
    /// When its settings last changed.
    pub updated: Ms,
    /// Cold, warm, running.
    pub life: Life,
    /// Snapshots, oldest first.
    pub checkpoints: Vec<Checkpoint>,
    /// How many there ever were.
    pub checkpoints_made: u32,
    /// The checkpoint last restored.
    pub restored_from: Option<String>,
    /// Restores completed.
    pub restores: u32,
    /// Services by name, as read from its disk at the last boot.
    pub services: BTreeMap<String, Service>,
    /// Counts boots: what belongs to an older one is dead.
    pub boot: u64,
    /// Rules of the network policy.
    pub policy: Value,
    /// The runtime does not answer.
    pub trouble: Option<Trouble>,
    /// The process that serves as the gateway, as last seen.
    pub gateway: Option<u32>,
}

impl Sprite {
    /// Where the ledger of agents keeps what the present life did: a restore begins a new one.
    pub fn account(&self) -> String {
        match self.restores {
            0 => self.id.clone(),
            n => format!("{}/restore-{n}", self.id),
        }
    }

    /// Whether the runtime fails at that moment.
    pub fn is_troubled(&self, now: Ms) -> bool {
        match self.trouble {
            Some(Trouble::Until(at)) => now < at,
            Some(Trouble::ForEver) => true,
            None => false,
        }
    }

    /// The object of the API.
    pub fn to_json(&self, clock: &Clock) -> Value {
        let auth = if self.public { "public" } else { "sprite" };
        json!({
            "id": self.id, "name": self.name, "organization": self.organization,
            "url": format!("https://{}", self.host),
            "url_settings": {"auth": auth, "private_access": self.private_access},
            "status": self.life.status.name(), "labels": self.labels, "version": "0.0.1-rc48",
            "environment_version": "simulated", "created_at": clock.stamp(self.created),
            "updated_at": clock.stamp(self.updated),
            "last_running_at": self.life.last_running.map(|at| clock.stamp(at)),
            "last_warming_at": self.life.last_warming.map(|at| clock.stamp(at)),
        })
    }
}

/// Everything of the simulated Sprites API.
#[derive(Default)]
pub struct Sprites {
    /// Known tokens.
    pub tokens: Vec<Token>,
    /// Existing sprites by id.
    pub all: BTreeMap<String, Sprite>,
    /// Deleted ones with the moment of it, for listings that lag.
    pub ghosts: Vec<(Ms, Sprite)>,
    /// Times, limits, switches.
    pub knobs: Knobs,
    /// Armed faults.
    pub rules: Rules,
    /// When sprites were made, by organisation, within the window of the limit.
    pub creations: BTreeMap<String, VecDeque<Ms>>,
}

impl Sprites {
    /// What is there at the start.
    pub fn seeded() -> Self {
        let token = |token: &str, organization: &str| Token {
            token: token.to_owned(),
            organization: organization.to_owned(),
            revoked: false,
        };
        Self {
            tokens: vec![token(TOKEN, ORGANIZATION), token(OTHER_TOKEN, "other")],
            ..Self::default()
        }
    }

    /// The organisation of a valid token.
    pub fn organization_of(&self, token: &str) -> Option<&str> {
        let known = self.tokens.iter().find(|t| t.token == token && !t.revoked);
        known.map(|t| t.organization.as_str())
    }

    /// A sprite by name.
    pub fn named(&self, organization: &str, name: &str) -> Option<&Sprite> {
        let mut all = self.all.values();
        all.find(|s| s.organization == organization && s.name == name)
    }

    /// A sprite by the host of its URL.
    pub fn at_host(&self, host: &str) -> Option<&Sprite> {
        self.all.values().find(|s| s.host == host)
    }

    /// The times of the wake model.
    pub fn times(&self) -> Times {
        Times {
            cold_wake: self.knobs.ms("cold_wake_ms"),
            warm_wake: self.knobs.ms("warm_wake_ms"),
            idle_to_warm: self.knobs.ms("idle_to_warm_s"),
            warm_to_cold: self.knobs.ms("warm_to_cold_s"),
        }
    }

    /// How many of an organisation's sprites are in a state.
    pub fn count(&self, organization: &str, status: Status) -> usize {
        let own = self.all.values().filter(|s| s.organization == organization);
        own.filter(|s| s.life.status == status).count()
    }

    /// Makes a sprite, cold; its name is free.
    pub fn make(
        &mut self,
        organization: &str,
        name: &str,
        rng: &mut Random,
        now: Ms,
    ) -> &mut Sprite {
        let id = format!("sprite-{}", rng.uuid());
        let sprite = Sprite {
            id: id.clone(),
            name: name.to_owned(),
            organization: organization.to_owned(),
            host: format!("{name}-{}.sprites.app", rng.hex(5)),
            public: false,
            private_access: "admins".to_owned(),
            labels: Vec::new(),
            created: now,
            updated: now,
            life: Life::new(now),
            checkpoints: Vec::new(),
            checkpoints_made: 0,
            restored_from: None,
            restores: 0,
            services: BTreeMap::new(),
            boot: 0,
            policy: json!([]),
            trouble: None,
            gateway: None,
        };
        self.all.entry(id).or_insert(sprite)
    }

    /// Counts a creation against the limit; the seconds to wait if it is over it.
    pub fn may_create(&mut self, organization: &str, now: Ms) -> Result<(), Ms> {
        let (most, window) = (
            self.knobs.get("create_limit"),
            self.knobs.ms("create_window_s"),
        );
        let recent = self.creations.entry(organization.to_owned()).or_default();
        while recent.front().is_some_and(|at| at + window <= now) {
            recent.pop_front();
        }
        if recent.len() as i64 >= most {
            return Err(recent.front().map_or(window, |at| at + window - now));
        }
        recent.push_back(now);
        Ok(())
    }
}

/// Names the simulator takes (sprites.md 1.4).
pub fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().last())
}

#[cfg(test)]
mod tests {
    use super::{OTHER_TOKEN, Sprites, TOKEN, is_name};
    use crate::rng::Random;

    #[test]
    fn names_are_labels() {
        for good in ["a", "pool-a1b2", "0-0", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn organizations_are_apart_and_a_name_used_again_has_another_id() {
        let (mut rng, mut sprites) = (Random::new(1), Sprites::seeded());
        let id = sprites.make("quickstart", "a", &mut rng, 0).id.clone();
        assert!(sprites.named("other", "a").is_none());
        assert_eq!(sprites.organization_of(TOKEN), Some("quickstart"));
        assert_eq!(sprites.organization_of(OTHER_TOKEN), Some("other"));
        sprites.all.remove(&id);
        assert_ne!(sprites.make("quickstart", "a", &mut rng, 1).id, id);
    }

    #[test]
    fn creations_are_limited_per_window() {
        let mut sprites = Sprites::seeded();
        for at in 0..10 {
            assert_eq!(sprites.may_create("quickstart", at * 100), Ok(()));
        }
        assert_eq!(sprites.may_create("quickstart", 1000), Err(59_000));
        assert_eq!(sprites.may_create("other", 1000), Ok(()));
        assert_eq!(sprites.may_create("quickstart", 60_000), Ok(()));
    }
}
