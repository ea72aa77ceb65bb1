//! The interface's objects as they are sent. Forgiving on input: unknown fields and words survive, and what a listing's
//! short form leaves out may be missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A sprite.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Sprite {
    /// Its id, for life; missing in a listing's short form.
    pub id: Option<String>,
    /// Its name, unique in the organisation.
    pub name: String,
    /// Its public address.
    pub url: Option<String>,
    /// Who may call that.
    pub url_settings: Option<UrlSettings>,
    /// `cold`, `warm`, `running`.
    pub status: Option<String>,
    /// Flat strings; missing in a listing's short form.
    pub labels: Option<Vec<String>>,
    /// RFC 3339.
    pub created_at: Option<String>,
}

/// Who may call a sprite's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlSettings {
    /// `sprite`: who has the organisation's token; `public`: everybody.
    #[serde(default)]
    pub auth: String,
}

impl UrlSettings {
    /// Open to everybody: the agent has a token of its own.
    pub fn public() -> Self {
        Self {
            auth: "public".to_owned(),
        }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    /// The sprites. Required: a page without them is no page.
    pub sprites: Vec<Sprite>,
    /// Whether there is another page.
    #[serde(default)]
    pub has_more: bool,
    /// What leads to it.
    pub next_continuation_token: Option<String>,
    /// The organisation's name.
    pub name: Option<String>,
    /// The organisation with its counters, in the other place where they appear.
    pub org: Option<Org>,
}

/// The organisation of a listing.
#[derive(Clone, Debug, Deserialize)]
pub struct Org {
    /// Its name.
    pub name: Option<String>,
}

/// A new sprite.
#[derive(Clone, Debug, Serialize)]
pub struct NewSprite {
    /// Its name.
    pub name: String,
    /// Who may call it.
    pub url_settings: UrlSettings,
    /// Its owner mark.
    pub labels: Vec<String>,
}

/// A change of a sprite.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Who may call it.
    pub url_settings: UrlSettings,
    /// All its labels.
    pub labels: Vec<String>,
}

/// An error's body, in all its forms.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ErrorBody {
    error: Option<serde_json::Value>,
    message: Option<String>,
    #[serde(default)]
    errors: Vec<serde_json::Value>,
    code: Option<String>,
    retry_after_seconds: Option<f64>,
}

impl ErrorBody {
    /// The organisation has as many sprites as it may.
    pub fn is_capacity(&self) -> bool {
        let words = self.words().to_ascii_lowercase();
        words.contains("concurrent_sprite_limit_exceeded") || words.contains("max sprites per org")
    }

    /// When to come back, in seconds.
    pub fn retry_after(&self) -> Option<f64> {
        self.retry_after_seconds
    }

    /// What it says.
    pub fn words(&self) -> String {
        let text = |v: &serde_json::Value| v.as_str().map(str::to_owned);
        let parts = [
            self.error.as_ref().and_then(text),
            self.message.clone(),
            self.code.clone(),
        ];
        let parts = parts.into_iter().flatten();
        let parts: Vec<String> = parts.chain(self.errors.iter().filter_map(text)).collect();
        parts.join(": ")
    }
}

/// A service's definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The executable.
    #[serde(default)]
    pub cmd: String,
    /// Its arguments.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Its variables.
    #[serde(default, deserialize_with = "or_default")]
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    #[serde(default, deserialize_with = "or_default")]
    pub dir: String,
    /// The services it needs.
    #[serde(default, deserialize_with = "or_default")]
    pub needs: Vec<String>,
    /// The port that the sprite's address leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_port: Option<u16>,
}

/// A service with its state.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// What it runs.
    #[serde(flatten)]
    pub definition: Definition,
    /// How it fares.
    #[serde(default, deserialize_with = "or_default")]
    pub state: ServiceState,
}

/// A list of services, in either form that was seen.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Services {
    /// An array.
    Bare(Vec<Service>),
    /// An array in an object.
    Wrapped {
        /// The array.
        services: Vec<Service>,
    },
}

/// How a service fares.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServiceState {
    /// `stopped`, `starting`, `running`, `stopping`, `failed`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// How often it died and was started again.
    #[serde(default, deserialize_with = "or_default")]
    pub restart_count: i64,
    /// Why it failed.
    #[serde(default, deserialize_with = "or_default")]
    pub error: String,
}

/// A checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Checkpoint {
    /// `v1`, `v2`, …; also `Current`, `v0` and `auto-…`, which are none of ours.
    pub id: String,
    /// RFC 3339.
    #[serde(default, deserialize_with = "or_default")]
    pub create_time: String,
    /// Ours says whose it is; not unique.
    #[serde(default, deserialize_with = "or_default")]
    pub comment: String,
    /// Taken by the platform.
    #[serde(default, deserialize_with = "or_default")]
    pub is_auto: bool,
}

/// One event of a stream.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Event {
    /// `info`, `error`, `complete`; of services also `started`, `stdout`, `stderr`, `exit`, …
    #[serde(default, rename = "type")]
    pub kind: String,
    /// In words.
    #[serde(default, deserialize_with = "or_default")]
    pub data: String,
    /// What failed.
    #[serde(default, deserialize_with = "or_default")]
    pub error: String,
    /// What a process ended with.
    pub exit_code: Option<i64>,
    /// Instead of a type: the service ran already.
    pub message: Option<String>,
}

/// Null counts as missing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
