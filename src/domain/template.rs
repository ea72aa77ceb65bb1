//! The frozen result of a pool's spec: what an instance is built from, and its hash.
//!
//! The hash covers what reaches an agent, without the operator's version: a change of the operator alone never
//! makes an instance drift. References to Secrets count, their values do not.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::instance::view::{Beat, Heartbeat};
use crate::api::agent_pool::{
    AgentPoolSpec, KeepAwake, OnRelease, Provider, Replacement, Runtime, Services,
};
use crate::api::names;

/// What an instance is built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// The pool's environment.
    pub environment: String,
    /// The environment's code in names.
    pub environment_code: String,
    /// The first part of names.
    pub name_prefix: String,
    /// Where it runs.
    pub provider: Provider,
    /// The program inside.
    pub runtime: Runtime,
    /// What it owns elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
}

impl Template {
    /// The template of a pool.
    pub fn of(spec: &AgentPoolSpec) -> Self {
        Self {
            environment: spec.environment.clone(),
            environment_code: environment_code(spec),
            name_prefix: spec.name_prefix.clone(),
            provider: spec.provider.clone(),
            runtime: spec.runtime.clone(),
            services: spec.services.clone(),
        }
    }

    /// Ten hex digits of the SHA-256 of its canonical JSON (keys sorted).
    pub fn hash(&self) -> String {
        let value = serde_json::to_value(self).expect("a template is JSON");
        let canonical: BTreeMap<String, serde_json::Value> =
            serde_json::from_value(value).expect("a template is a JSON object");
        let text = serde_json::to_string(&canonical).expect("JSON prints");
        names::sha256_hex(text.as_bytes())[..10].to_owned()
    }

    /// The XMTP network of its agents: `runtime.env` wins, else production in production, else dev.
    pub fn xmtp_env(&self) -> String {
        self.runtime
            .env
            .iter()
            .find(|e| e.name == "XMTP_ENV")
            .and_then(|e| e.value.clone())
            .unwrap_or_else(|| default_xmtp_env(&self.environment).to_owned())
    }
}

impl Template {
    /// What has to be done with one of its agents before the claim call; `None`: nothing.
    pub fn preparation(&self) -> Option<Preparation> {
        let sprites = self.provider.sprites.as_ref()?;
        let seconds = u64::try_from(sprites.wake_timeout_seconds).unwrap_or(30);
        Some(Preparation {
            wake_within: Duration::from_secs(seconds),
            poll_joins: sprites.poll_join_requests,
        })
    }

    /// Who of its agents is asked how it fares, and how often, where they may sleep in stock.
    ///
    /// An idle agent that may sleep is never asked, not even while it runs: asked again and again it would not fall
    /// asleep, and what a listing called running a moment ago may be asleep by now.
    pub fn heartbeat(&self) -> Heartbeat {
        let sprites = self.provider.sprites.as_ref();
        let keep = sprites.map(|s| s.keep_awake).unwrap_or_default();
        let seconds = sprites.map_or(20, |s| s.heartbeat_seconds);
        let (idle, in_use) = match keep {
            KeepAwake::Always => (Beat::Always, Beat::Always),
            KeepAwake::Claimed => (Beat::Never, Beat::Always),
            KeepAwake::Never => (Beat::Never, Beat::WhileRunning),
        };
        Heartbeat {
            every: Duration::from_secs(u64::try_from(seconds).unwrap_or(20).max(1)),
            idle,
            in_use,
        }
    }
}

/// An agent's instructions are put into its machine, which wakes it, before it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// How long it may take to wake and to be ready (`wakeTimeoutSeconds`).
    pub wake_within: Duration,
    /// Join requests of a new conversation are processed from outside for a while (`pollJoinRequests`).
    pub poll_joins: bool,
}

/// The code of a pool's environment in names.
pub fn environment_code(spec: &AgentPoolSpec) -> String {
    names::known_environment_code(&spec.environment)
        .map(str::to_owned)
        .or_else(|| spec.environment_code.clone())
        .unwrap_or_default()
}

/// Whether an environment is production: the literal word and nothing else.
pub fn is_production(environment: &str) -> bool {
    environment == "production"
}

/// The XMTP network of an environment unless a variable says otherwise.
pub fn default_xmtp_env(environment: &str) -> &'static str {
    if is_production(environment) {
        "production"
    } else {
        "dev"
    }
}

/// The branch of OpenClaw that agents of an environment are built from, unless it is set.
pub fn default_git_ref(environment: &str) -> &'static str {
    if is_production(environment) {
        "main"
    } else {
        "staging"
    }
}

/// The provider of a pool, as `status.provider` and `spec.provider.kind` name it.
pub fn provider_kind(provider: &Provider) -> &'static str {
    if provider.sprites.is_some() {
        "Sprites"
    } else if provider.services_api.is_some() {
        "ServicesApi"
    } else {
        "Railway"
    }
}

/// What a claim sets off, the provider's default included.
pub fn replacement(spec: &AgentPoolSpec) -> Replacement {
    spec.replacement
        .unwrap_or(if spec.provider.sprites.is_some() {
            Replacement::OneForOne
        } else {
            Replacement::ToMinIdle
        })
}

/// What becomes of a released agent, the provider's default included.
pub fn on_release(spec: &AgentPoolSpec) -> OnRelease {
    spec.on_release
        .unwrap_or(if spec.provider.sprites.is_some() {
            OnRelease::Recycle
        } else {
            OnRelease::Destroy
        })
}
