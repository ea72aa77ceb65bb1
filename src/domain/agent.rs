//! What an agent says of itself and what came of a claim call: the values that `runtime` observes and the
//! decisions are made from (contract of the agent runtimes, sections 5 to 7).

use std::fmt;

/// The kind that tells whether its join still waits.
pub const HERMES: &str = "hermes";

/// The HTTP dialect of an agent, decided once per instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// A wrapper with `/pool/*` in front of the runtime.
    PoolServer,
    /// The gateway itself.
    Gateway,
}

impl Dialect {
    /// The word in `status.runtime.dialect`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PoolServer => "PoolServer",
            Self::Gateway => "Gateway",
        }
    }

    /// Reads the word back.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "PoolServer" => Some(Self::PoolServer),
            "Gateway" => Some(Self::Gateway),
            _ => None,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An agent's answer to a status request, of whatever generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// It is up: health says so (PoolServer), or the status does (Gateway).
    pub ready: bool,
    /// The conversation it is bound to.
    pub conversation: Option<String>,
    /// A join waits for acceptance.
    pub pending: bool,
    /// Nothing of an earlier conversation is left; `None` where it cannot tell.
    pub clean: Option<bool>,
    /// Its message stream is alive; `None` where it cannot tell.
    pub streaming: Option<bool>,
}

/// The longest conversation id that can be recorded, in bytes.
pub const CONVERSATION_MAX: usize = 128;

impl AgentStatus {
    /// The conversation that it shows, if that can be recorded.
    pub fn recordable_conversation(&self) -> Option<&String> {
        let conversation = self.conversation.as_ref();
        conversation.filter(|c| c.len() <= CONVERSATION_MAX)
    }
}

/// What one probe of an agent found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// No usable answer: refused, timed out, reset, 5xx, not JSON, the provider's edge. The text says which, without
    /// secrets. By itself never a sign of death.
    Unreachable(String),
    /// It answers, but is not ready yet.
    NotReady(String),
    /// It refuses the token (and the shared key, where there is one).
    Unauthorized,
    /// Another dialect than the recorded one answers.
    WrongRuntime(String),
    /// It answered.
    Answered {
        /// The dialect that answered.
        dialect: Dialect,
        /// Its kind, `openclaw` or `hermes`, where it tells it.
        kind: Option<String>,
        /// Its release, where it tells it.
        version: Option<String>,
        /// Its status.
        status: AgentStatus,
    },
}

/// What a claim asks of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimCall {
    /// The agent's display name, conversation name and profile name; 1 to 200 characters.
    pub agent_name: String,
    /// Its instructions; empty where it has them already.
    pub instructions: String,
    /// The conversation to join; `None`: create one.
    pub join_url: Option<String>,
    /// Profile image, an https URL.
    pub profile_image: Option<String>,
    /// Profile metadata, strings only.
    pub metadata: Option<std::collections::BTreeMap<String, String>>,
    /// Further fields, sent as they are. None of them takes the place of a field above.
    pub passed_through: std::collections::BTreeMap<String, serde_json::Value>,
    /// The XMTP network, `dev` or `production`; sent in dialect Gateway only, whose own default is production.
    pub xmtp_env: String,
}

/// Why an agent refused a claim: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No byte of the request left: connect refused, no route, DNS, TLS.
    NotSent,
    /// 401 or 403, with the shared key too where there is one.
    Unauthorized,
    /// 405: another program than expected.
    WrongRuntime,
    /// 404, or the wrapper's 503: not ready.
    NotReady,
    /// 400, 413, 422: the request itself is at fault.
    Invalid(String),
}

/// What came of the one claim call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// Bound to a conversation.
    Bound {
        /// The conversation's id.
        conversation_id: String,
        /// Its invite link; in join mode the link that was joined, absent where the agent gives none.
        invite_url: Option<String>,
        /// The invite's slug.
        invite_slug: Option<String>,
        /// It joined a conversation that existed.
        joined: bool,
    },
    /// The join waits for a person.
    Pending,
    /// Nothing was done.
    Refused(Refusal),
    /// Bound by something else; nothing was done by us.
    Busy,
    /// The agent has finished and reports failure; it may have worked.
    Failed(String),
    /// Still running, done or not: nobody knows.
    Unknown(String),
}
