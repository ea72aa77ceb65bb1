//! Condition types and reasons as enums, and the one function that sets a condition.
//!
//! A reason is part of the API: the same word is the condition's reason, the event's reason, the metric's label
//! and the log field.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The conditions of pools and instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// Sums up: the pool has what it should have; the instance is what its phase promises.
    Ready,
    /// Instance: the agent answers our probes.
    Reachable,
    /// Pool: the provider answers and accepts our credentials.
    ProviderReachable,
    /// Pool: `maxTotal` keeps it from creating what it needs.
    AtCapacity,
    /// Pool: the circuit breaker holds creations back.
    CircuitOpen,
    /// Pool: its idle agents are what it would build now.
    RolledOut,
    /// Pool: another release watches it too, and leaves it alone.
    Contested,
    /// Pool: the provider has resources called as the pool's are that no AgentInstance is about. Absent where there are none.
    StrayResources,
    /// Pool: the provider tells us of events. Absent where it is not asked to.
    WebhookRegistered,
    /// Claim: it has an agent.
    Bound,
}

impl ConditionType {
    /// The word in `conditions[].type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reachable => "Reachable",
            Self::ProviderReachable => "ProviderReachable",
            Self::AtCapacity => "AtCapacity",
            Self::CircuitOpen => "CircuitOpen",
            Self::RolledOut => "RolledOut",
            Self::Contested => "Contested",
            Self::StrayResources => "StrayResources",
            Self::WebhookRegistered => "WebhookRegistered",
            Self::Bound => "Bound",
        }
    }
}

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows (yet).
    Unknown,
}

impl Truth {
    /// The word in `conditions[].status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Why a condition is what it is; also the reason of events, the label of metrics, the field of logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name),+ }
        impl Reason {
            /// The PascalCase word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
            /// Reads a word back, as it stands in a status.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $(stringify!($name) => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// Not looked at yet.
    Pending,
    /// Steps of the creation are under way.
    Creating,
    /// The provider started the agent; it does not answer ready yet.
    Booting,
    /// Ready, unbound and clean: may be handed out.
    Idle,
    /// Reserved by a claim in flight.
    Claiming,
    /// Bound to a conversation.
    Claimed,
    /// Joined, waiting for a person to accept.
    PendingAcceptance,
    /// Nobody accepted the join: not in time, or the agent gave it up.
    NotAccepted,
    /// Claimed for longer than its pool allows (`claim.maxLifetimeSeconds`).
    Expired,
    /// Claimed, but the status was lost (restored from a backup); left alone.
    StatusLost,
    /// Found at the provider with our mark and without an AgentInstance, and perhaps in use: kept for a person.
    Adopted,
    /// Its state is the one that it had in the table it was imported from.
    Imported,
    /// Found at the provider with our mark and without an AgentInstance, and not in use: removed.
    OrphanRemoved,
    /// Resources with our mark have no AgentInstance yet or any more.
    OrphanedResources,
    /// Resources that are called as ours are carry somebody else's mark.
    ForeignResources,
    /// Resources that are called as ours are carry no mark.
    UnmarkedResources,
    /// The provider's latest listing lacks more than half of what is recorded.
    ListingSuspicious,
    /// The agent answers probes.
    Answering,
    /// The agent does not answer.
    Unreachable,
    /// The agent answers, but is not ready.
    NotReady,
    /// The agent refuses its token.
    BadToken,
    /// The agent speaks another dialect or is of another kind than recorded.
    WrongRuntime,
    /// The agent has a conversation that nobody recorded.
    UnknownConversation,
    /// The agent is not clean: something of an earlier conversation is left.
    NotClean,
    /// A claimed agent lost its conversation.
    ConversationLost,
    /// The agent answered a claim as already bound.
    Busy,
    /// The claim failed; the agent is replaced.
    ClaimFailed,
    /// The claim failed; the agent is reset and watched before it goes back.
    Settling,
    /// A claim's process died; the agent is replaced.
    ClaimInterrupted,
    /// A step of the creation failed for good.
    CreateFailed,
    /// Never became ready within the stuck timeout.
    Stuck,
    /// The provider says the deployment failed.
    DeploymentFailed,
    /// The provider says the process crashed.
    DeploymentCrashed,
    /// The provider removed or skipped the deployment.
    DeploymentRemoved,
    /// The deployment stopped.
    Stopped,
    /// The provider put the agent to sleep.
    Sleeping,
    /// The provider waits for a person's approval of the deployment.
    NeedsApproval,
    /// The provider no longer has its volume: a listing and a direct read say so.
    VolumeMissing,
    /// The provider no longer has it: a listing and a direct read say so.
    Gone,
    /// Deletion is under way.
    Terminating,
    /// Claim data is being removed for the next user.
    Recycling,
    /// Its checkpoint could not be restored: the agent is destroyed and replaced.
    RecycleFailed,
    /// Let go by request; what it owns at the provider is left behind.
    Abandoned,
    /// Deletion waits for the provider.
    DeletionPending,
    /// No credential to delete with.
    CredentialsMissing,
    /// The provider refuses the credential.
    CredentialsInvalid,
    /// The provider asks to wait.
    RateLimited,
    /// What is left of the provider's request limit is kept for what is more urgent.
    QuotaReserved,
    /// The provider takes one such request in so long, and the last one was not long ago.
    CoolingDown,
    /// The provider does not answer.
    ProviderUnavailable,
    /// What did not work, works again.
    Recovered,
    /// A write's outcome is unknown; looked at before anything else is done.
    OutcomeUnknown,
    /// The provider refuses the request as such.
    Rejected,
    /// The provider's plan or quota is used up.
    CapacityExceeded,
    /// The named project does not exist or is not visible.
    ProjectNotFound,
    /// The named environment does not exist.
    EnvironmentNotFound,
    /// A tag cannot be resolved to a digest.
    DigestUnresolved,
    /// The feature is not available in this version.
    NotSupported,
    /// The provider answers.
    Reachable,
    /// The provider tells us of events.
    WebhookRegistered,
    /// A pool went, and its webhook could not be removed.
    WebhookLeft,
    /// A Secret has another content: it is used from now on.
    SecretRotated,
    /// The pool has its minimum.
    MinimumMet,
    /// The pool is being filled.
    Filling,
    /// The pool is short and cannot grow: `maxTotal` is reached.
    MaxTotalReached,
    /// There is room.
    BelowMaxTotal,
    /// Creations failed in a row; none until the back-off is over.
    CreationsFailing,
    /// Creations work.
    Closed,
    /// `spec.paused` holds it.
    Paused,
    /// Every idle agent is what the pool would build now.
    UpToDate,
    /// Idle agents are not what the pool would build now, and stay until they are drained or claimed.
    Drifted,
    /// Idle agents that drifted are being replaced.
    RollingOut,
    /// In stock, but built from an earlier template of the pool.
    TemplateChanged,
    /// In stock, but built from an earlier image: the tag was moved since.
    ImageChanged,
    /// The pool belongs to another release than the one that says so.
    OtherRelease,
    /// The pool is being deleted.
    Draining,
    /// An instance was created.
    InstanceCreated,
    /// An instance is deleted.
    InstanceDeleted,
    /// A pool's or claim's spec cannot work.
    InvalidSpec,
    /// A claim waits, because no agent is idle.
    NoIdle,
    /// A claim names a pool that does not exist.
    PoolNotFound,
    /// Another claim has the same join link.
    DuplicateJoin,
    /// A claim was deleted: its agent was released.
    Released,
    /// A bug of ours.
    InternalError,
}

/// Sets a condition in a list. Pure: `lastTransitionTime` moves only when the status does.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    truth: Truth,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: jiff::Timestamp,
) {
    let new = Condition {
        type_: kind.as_str().to_owned(),
        status: truth.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            let kept = if old.status == new.status {
                old.last_transition_time.clone()
            } else {
                new.last_transition_time.clone()
            };
            *old = Condition {
                last_transition_time: kept,
                ..new
            };
        }
        None => conditions.push(new),
    }
}

/// The condition of that type, if it is there.
pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let (t0, t1) = (
            jiff::Timestamp::from_second(10).unwrap(),
            jiff::Timestamp::from_second(20).unwrap(),
        );
        let mut list = vec![];
        set_condition(
            &mut list,
            ConditionType::Ready,
            Truth::False,
            Reason::Creating,
            "a",
            Some(1),
            t0,
        );
        set_condition(
            &mut list,
            ConditionType::Ready,
            Truth::False,
            Reason::Booting,
            "b",
            Some(2),
            t1,
        );
        let ready = find(&list, ConditionType::Ready).unwrap();
        assert_eq!(
            (
                ready.last_transition_time.0,
                ready.reason.as_str(),
                ready.observed_generation
            ),
            (t0, "Booting", Some(2))
        );
        set_condition(
            &mut list,
            ConditionType::Ready,
            Truth::True,
            Reason::Idle,
            "",
            Some(2),
            t1,
        );
        assert_eq!(
            find(&list, ConditionType::Ready)
                .unwrap()
                .last_transition_time
                .0,
            t1
        );
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn reasons_read_back() {
        assert_eq!(
            Reason::parse(Reason::StatusLost.as_str()),
            Some(Reason::StatusLost)
        );
        assert_eq!(Reason::parse("nonsense"), None);
    }
}
