//! What an agent is: its process, what it is bound to, and what follows from that at a moment.
//! No I/O and no clock.

use crate::agent::faults::{Place, Rules};
use crate::agent::knobs::Knobs;
use crate::clock::{Ms, NEVER};
use crate::railway::model::Variables;
use crate::rng::Random;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The wrapper gives up after so many tries, one second apart.
pub const READY_TRIES: Ms = 120;

/// Who answers the public port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    Gateway,
    PoolServer,
}

/// The runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Openclaw,
    Hermes,
}

impl Kind {
    /// As `/pool/health` tells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Openclaw => "openclaw",
            Kind::Hermes => "hermes",
        }
    }
}

/// The conversation an agent is bound to.
#[derive(Clone, Debug)]
pub struct Bound {
    /// 32 hex.
    pub id: String,
    /// 64 hex.
    pub inbox: String,
}

/// A join that was not accepted in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    #[default]
    None,
    Pending,
    Failed,
}

/// What the control port forces upon one host.
#[derive(Clone, Debug, Default)]
pub struct Override {
    /// Dialect of the next process.
    pub dialect: Option<Dialect>,
    /// Latencies.
    pub knobs: Knobs,
    /// Whether state outlives a restart, whatever the volume.
    pub keep_state: Option<bool>,
}

/// One agent: the container of a deployment, or an agent alone.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The deployment's id.
    pub id: String,
    /// The service's id, or the host of one alone.
    pub account: String,
    /// Hosts that lead to it.
    pub hosts: Vec<String>,
    pub dialect: Dialect,
    pub kind: Kind,
    pub version: String,
    /// Its environment.
    pub vars: Variables,
    /// Neither behind Railway nor in a sprite.
    pub alone: bool,
    /// The gateway of a sprite, whose processes come and go with the sprite's.
    pub in_sprite: bool,
    /// INSTRUCTIONS.md as its disk has it.
    pub instructions_on_disk: Option<String>,
    /// The process is there from then on.
    pub started: Ms,
    /// Counts processes; a task that belongs to an older one is dead.
    pub generation: u64,
    pub alive: bool,
    /// Not running since then, by the provider's doing or by its own end without a restart.
    pub down_since: Option<Ms>,
    pub exit_code: Option<i32>,
    /// Restarts by the provider's policy.
    pub retries: u32,
    /// The wrapper's child.
    pub child_started: Ms,
    /// Counts children; work of an older one is dead.
    pub child: u64,
    pub boot: Ms,
    pub load: Ms,
    /// Latched per child by a health call.
    pub convos_ready: bool,
    /// Health goes on saying ready until then, during a restart.
    pub still_ready_until: Ms,
    pub bound: Option<Bound>,
    /// Something of an earlier claim is left.
    pub dirty: bool,
    pub join: Join,
    /// Claim calls at work.
    pub working: u32,
    /// Times it was bound.
    pub binds: u32,
    /// When it was last bound.
    pub bound_at: Ms,
    pub last_request: Ms,
    /// The answer of the next health call, under `flappingHealth`.
    pub flap: bool,
}

impl Agent {
    /// The token its routes want; none: open to all.
    pub fn token(&self) -> Option<&str> {
        let names: &[&str] = match self.dialect {
            Dialect::PoolServer => &["GATEWAY_TOKEN"],
            Dialect::Gateway => &["GATEWAY_AUTH_TOKEN", "GATEWAY_TOKEN"],
        };
        let set = names.iter().find_map(|name| self.vars.get(*name));
        set.map(String::as_str).filter(|token| !token.is_empty())
    }

    /// When the runtime behind the port is up, ignoring convos.
    pub fn runtime_up(&self) -> Ms {
        self.child_started.saturating_add(self.boot).min(NEVER)
    }

    /// When `/convos/*` answers.
    pub fn convos_up(&self) -> Ms {
        match self.dialect {
            Dialect::Gateway => self.runtime_up().saturating_add(self.load).min(NEVER),
            Dialect::PoolServer => self.seen_ready().saturating_add(self.load).min(NEVER),
        }
    }

    /// When the wrapper's poll, once a second, finds the runtime up.
    pub fn seen_ready(&self) -> Ms {
        let seconds = (self.boot + 999) / 1000;
        // Without a token runtime and wrapper do not understand each other (runtime.md 4.7).
        if seconds >= READY_TRIES || self.is_unset("GATEWAY_TOKEN") {
            NEVER
        } else {
            self.child_started + seconds * 1000
        }
    }

    /// When anything listens on the public port: the wrapper at once, a gateway when it is up.
    pub fn listens_from(&self) -> Ms {
        match self.dialect {
            Dialect::Gateway => self.runtime_up(),
            Dialect::PoolServer => self.started,
        }
    }

    /// When and how the process ends by itself, if it does (runtime.md 4.1, 19.1).
    pub fn ends_by_itself(&self) -> Option<(Ms, i32)> {
        if self.dialect == Dialect::Gateway {
            return None;
        }
        let kind = self
            .vars
            .get("RUNTIME_TYPE")
            .map_or("openclaw", String::as_str);
        if kind != "openclaw" && kind != "hermes" {
            return Some((self.started + 100, 1));
        }
        if self.is_unset("OPENROUTER_API_KEY") {
            return Some((self.started + 1000, 1));
        }
        let never = self.seen_ready() >= NEVER;
        never.then(|| (self.child_started + READY_TRIES * 1000, 1))
    }

    fn is_unset(&self, name: &str) -> bool {
        self.vars.get(name).is_none_or(String::is_empty)
    }

    /// Its phase, for faults and for people.
    pub fn phase(&self, now: Ms) -> &'static str {
        if !self.alive {
            "dead"
        } else if now < self.convos_up() {
            "booting"
        } else if self.working > 0 {
            "claiming"
        } else if self.bound.is_some() {
            "claimed"
        } else if self.join == Join::Pending {
            "pending"
        } else {
            "idle"
        }
    }

    /// Nothing of any earlier conversation is left.
    pub fn is_clean(&self) -> bool {
        self.bound.is_none() && !self.dirty && self.join == Join::None
    }

    /// Whether a restart finds the old state: on a volume, and never in a gateway image, which
    /// writes its configuration anew at every start (runtime.md 16.1).
    pub fn keeps_state(&self, forced: Option<bool>) -> bool {
        let on_volume = self.vars.contains_key("RAILWAY_VOLUME_MOUNT_PATH");
        let kept = self.alone || (on_volume && self.dialect == Dialect::PoolServer);
        forced.unwrap_or(kept)
    }

    /// Forgets everything a conversation left.
    pub fn forget(&mut self) {
        self.bound = None;
        self.dirty = false;
        self.join = Join::None;
    }

    /// The network its conversations are on.
    pub fn network(&self, asked: Option<&str>) -> String {
        let asked = asked.filter(|env| *env == "dev" || *env == "production");
        let own = self.vars.get("XMTP_ENV").map(String::as_str);
        let default = if self.kind == Kind::Hermes {
            "dev"
        } else {
            "production"
        };
        asked.or(own).unwrap_or(default).to_owned()
    }
}

/// Kind from an image's name (runtime.md 18).
pub fn kind_of_image(image: &str) -> Kind {
    if image.contains("convos-runtime-hermes") {
        Kind::Hermes
    } else {
        Kind::Openclaw
    }
}

/// All agents.
#[derive(Default)]
pub struct Agents {
    /// By deployment.
    pub all: BTreeMap<String, Agent>,
    /// Knobs of all.
    pub knobs: Knobs,
    /// Dialect of new ones, whatever their source.
    pub default_dialect: Option<Dialect>,
    /// Per host.
    pub overrides: BTreeMap<String, Override>,
    /// What is on the volumes, by account: the bound conversation.
    pub disks: BTreeMap<String, (Option<Bound>, bool)>,
    pub rules: Rules,
}

impl Agents {
    /// The override of any of the agent's hosts.
    pub fn override_of(&self, hosts: &[String]) -> Option<&Override> {
        hosts.iter().find_map(|host| self.overrides.get(host))
    }

    /// A latency for an agent, drawn now.
    pub fn latency(&self, id: &str, name: &str, rng: &mut Random) -> Ms {
        let hosts = self
            .all
            .get(id)
            .map(|a| a.hosts.as_slice())
            .unwrap_or_default();
        let own = self
            .override_of(hosts)
            .map(|o| o.knobs.clone())
            .unwrap_or_default();
        own.draw(&self.knobs, name, rng)
    }

    /// A fault of this kind that fires for the agent now.
    pub fn fault(&mut self, id: &str, kind: &str, now: Ms, rng: &mut Random) -> Option<Value> {
        let agent = self.all.get(id)?;
        let place = Place {
            hosts: &agent.hosts,
            phase: agent.phase(now),
        };
        self.rules.fires(kind, &place, rng)
    }

    /// The same, for a request to a route.
    pub fn fault_on(
        &mut self,
        id: &str,
        kind: &str,
        route: &str,
        now: Ms,
        rng: &mut Random,
    ) -> Option<Value> {
        let agent = self.all.get(id)?;
        let place = Place {
            hosts: &agent.hosts,
            phase: agent.phase(now),
        };
        self.rules.fires_on(kind, &place, route, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind_of_image};
    use crate::agent::process::tests::agent;
    use crate::clock::NEVER;

    #[test]
    fn the_kind_follows_from_the_image() {
        assert_eq!(
            kind_of_image("ghcr.io/acme/convos-runtime-hermes:1"),
            Kind::Hermes
        );
        assert_eq!(
            kind_of_image("ghcr.io/acme/convos-runtime:1"),
            Kind::Openclaw
        );
        assert_eq!(kind_of_image("nginx"), Kind::Openclaw);
    }

    #[test]
    fn the_wrapper_polls_once_a_second_and_gives_up_after_120_tries() {
        let mut a = agent();
        a.boot = 3001;
        assert_eq!(a.seen_ready(), 4000);
        assert_eq!(a.convos_up(), 4500);
        assert_eq!(a.ends_by_itself(), None);
        a.boot = NEVER;
        assert_eq!(a.ends_by_itself(), Some((120_000, 1)));
    }

    #[test]
    fn missing_variables_end_the_process() {
        let mut a = agent();
        a.vars.remove("GATEWAY_TOKEN");
        assert_eq!(a.ends_by_itself(), Some((120_000, 1)));
        a.vars.remove("OPENROUTER_API_KEY");
        assert_eq!(a.ends_by_itself(), Some((1000, 1)));
        a.vars.insert("RUNTIME_TYPE".to_owned(), "other".to_owned());
        assert_eq!(a.ends_by_itself(), Some((100, 1)));
    }

    #[test]
    fn phases_follow_the_state() {
        let mut a = agent();
        assert_eq!(a.phase(0), "booting");
        assert_eq!(a.phase(5000), "idle");
        a.working = 1;
        assert_eq!(a.phase(5000), "claiming");
        a.alive = false;
        assert_eq!(a.phase(5000), "dead");
    }
}
