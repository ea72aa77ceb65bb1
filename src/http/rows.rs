//! One instance as the listings show it: every field in every spelling that a generation of clients reads. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use crate::api::AgentInstance;
use crate::domain::instance::phase::{Phase, is_protected, phase_of};

/// What a row may show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The ids of keys and mailboxes: only to callers with a key.
    pub key_only: bool,
    /// Instructions and invite links.
    pub conversation: bool,
}

/// The row of an instance. The gateway token is never in it, see [`add_token`].
pub fn row(instance: &AgentInstance, provider: &str, shown: &Shown) -> Value {
    let phase = phase_of(instance);
    let (spec, status) = (&instance.spec, instance.status.as_ref());
    let claim = spec.claim.as_ref();
    let bound = status.and_then(|s| s.claim.as_ref()).filter(|b| claim.is_some_and(|c| c.id == b.id));
    let at = status.and_then(|s| s.provider.as_ref());
    let runtime = status.and_then(|s| s.runtime.as_ref());
    let url = json!(status.and_then(|s| s.url.as_deref()));
    let private = |text: Option<&str>| if shown.conversation { json!(text) } else { Value::Null };
    let mut row = Row(Map::new());
    row.set(["id"], json!(spec.id));
    row.set(["name"], json!(spec.provider_name));
    row.set(["pool"], json!(spec.pool_ref.name));
    row.set(["namespace"], json!(instance.metadata.namespace));
    row.set(["provider"], json!(spec.provider.as_ref().map_or(provider, |p| p.kind.as_str())));
    row.set(["serviceId", "service_id", "railway_service_id"], json!(at.and_then(|p| p.service_id.as_deref())));
    row.set(["url", "sprite_url", "railway_url", "gatewayUrl"], url);
    row.set(["sprite_name"], json!(spec.provider_name));
    row.set(["status"], json!(phase.wire()));
    row.set(["deployStatus", "deploy_status"], json!(at.and_then(|p| p.deploy_status.as_deref())));
    row.set(["agentName", "agent_name", "claimed_by"], json!(claim.map(|c| c.agent_name.as_str())));
    row.set(["conversationId", "conversation_id"], json!(bound.and_then(|b| b.conversation_id.as_deref())));
    row.set(["inviteUrl", "invite_url"], private(bound.and_then(|b| b.invite_url.as_deref())));
    row.set(["joinUrl", "join_url"], private(claim.and_then(|c| c.join_url.as_deref())));
    row.set(["instructions"], private(claim.and_then(|c| c.instructions.as_deref())));
    row.set(["createdAt", "created_at"], time(instance.metadata.creation_timestamp.as_ref()));
    row.set(["claimedAt", "claimed_at"], time(claimed_at(instance).as_ref()));
    row.set(["updatedAt", "updated_at"], time(updated_at(instance)));
    row.set(["sourceBranch", "source_branch"], json!(bound.and_then(|b| b.source_branch.as_deref())));
    row.set(["runtimeImage", "runtime_image"], json!(at.and_then(|p| p.image.as_deref())));
    row.set(["runtimeVersion", "runtime_version"], json!(runtime.and_then(|r| r.version.as_deref())));
    row.set(["runtimeType", "runtime_type"], json!(runtime.and_then(|r| r.kind.as_deref())));
    row.set(["checkpointId", "checkpoint_id"], json!(at.and_then(|p| p.checkpoint_id.as_deref())));
    row.set(["protected"], json!(is_protected(instance)));
    if shown.key_only {
        row.set(["openrouterKeyHash", "openrouter_key_hash"], json!(service(instance, "openrouter", "hash")));
        row.set(["agentmailInboxId", "agentmail_inbox_id"], json!(service(instance, "agentmail", "inboxId")));
    }
    Value::Object(row.0)
}

/// Adds the gateway token to a row.
pub fn add_token(row: &mut Value, token: Option<&str>) {
    row["gatewayToken"] = json!(token);
    row["gateway_token"] = json!(token);
}

/// When the agent was bound. A claim whose status was lost has only the time it was asked for.
pub fn claimed_at(instance: &AgentInstance) -> Option<Time> {
    let claim = instance.spec.claim.as_ref()?;
    let bound = instance.status.as_ref().and_then(|s| s.claim.as_ref()).filter(|b| b.id == claim.id);
    match bound {
        Some(bound) => bound.claimed_at.clone().or_else(|| Some(claim.requested_at.clone())),
        None if phase_of(instance) == Phase::Claiming => None,
        None => Some(claim.requested_at.clone()),
    }
}

/// The latest time that the object knows of.
fn updated_at(instance: &AgentInstance) -> Option<&Time> {
    let (claim, status) = (instance.spec.claim.as_ref(), instance.status.as_ref());
    let known = [
        instance.metadata.creation_timestamp.as_ref(),
        instance.metadata.deletion_timestamp.as_ref(),
        claim.map(|c| &c.requested_at),
        instance.spec.release.as_ref().map(|r| &r.requested_at),
        status.and_then(|s| s.claim.as_ref()).and_then(|c| c.claimed_at.as_ref()),
        status.and_then(|s| s.verdict.as_ref()).map(|v| &v.since),
    ];
    let conditions = status.into_iter().flat_map(|s| s.conditions.iter().map(|c| &c.last_transition_time));
    known.into_iter().flatten().chain(conditions).max_by_key(|t| t.0)
}

fn service<'a>(instance: &'a AgentInstance, name: &str, id: &str) -> Option<&'a str> {
    let services = instance.status.as_ref()?.services.as_ref()?;
    services.get(name)?.get(id).map(String::as_str)
}

fn time(time: Option<&Time>) -> Value {
    json!(time.map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

struct Row(Map<String, Value>);

impl Row {
    fn set<const N: usize>(&mut self, spellings: [&str; N], value: Value) {
        for spelling in spellings {
            self.0.insert(spelling.to_owned(), value.clone());
        }
    }
}
