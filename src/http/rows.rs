//! One instance as the listings show it: every field in every spelling that a generation of clients reads. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use crate::api::agent_instance::ClaimStatus;
use crate::api::{ANNOTATION_CREATED, AgentInstance};
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
    let spec = &instance.spec;
    let kind = spec.provider.as_ref().map_or(provider, |p| &p.kind);
    let mut row = Row(Map::new());
    row.set(["id"], json!(spec.id));
    row.set(["name", "sprite_name"], json!(spec.provider_name));
    row.set(["pool"], json!(spec.pool_ref.name));
    row.set(["namespace"], json!(instance.metadata.namespace));
    row.set(["provider"], json!(kind));
    row.set(["status"], json!(phase_of(instance).wire()));
    row.set(["protected"], json!(is_protected(instance)));
    row.set(CREATED, created_at(instance));
    row.set(CLAIMED, time(claimed_at(instance).as_ref()));
    row.set(UPDATED, time(updated_at(instance)));
    conversation(&mut row, instance, shown);
    resource(&mut row, instance);
    if shown.key_only {
        let (hash, inbox) = (
            service(instance, "openrouter", "hash"),
            service(instance, "agentmail", "inboxId"),
        );
        row.set(["openrouterKeyHash", "openrouter_key_hash"], json!(hash));
        row.set(["agentmailInboxId", "agentmail_inbox_id"], json!(inbox));
    }
    Value::Object(row.0)
}

const CREATED: [&str; 2] = ["createdAt", "created_at"];
const CLAIMED: [&str; 2] = ["claimedAt", "claimed_at"];
const UPDATED: [&str; 2] = ["updatedAt", "updated_at"];
const URLS: [&str; 4] = ["url", "sprite_url", "railway_url", "gatewayUrl"];

/// Who has it and for what. What is recorded of another claim than the present one is not shown.
fn conversation(row: &mut Row, instance: &AgentInstance, shown: &Shown) {
    let claim = instance.spec.claim.as_ref();
    let bound = bound(instance);
    let private = |text: Option<&str>| json!(text.filter(|_| shown.conversation));
    row.set(
        ["agentName", "agent_name", "claimed_by"],
        json!(claim.map(|c| &c.agent_name)),
    );
    row.set(
        ["instructions"],
        private(claim.and_then(|c| c.instructions.as_deref())),
    );
    row.set(
        ["joinUrl", "join_url"],
        private(claim.and_then(|c| c.join_url.as_deref())),
    );
    row.set(
        ["inviteUrl", "invite_url"],
        private(bound.and_then(|b| b.invite_url.as_deref())),
    );
    row.set(
        ["conversationId", "conversation_id"],
        json!(bound.and_then(|b| b.conversation_id.as_deref())),
    );
    row.set(
        ["sourceBranch", "source_branch"],
        json!(bound.and_then(|b| b.source_branch.as_deref())),
    );
}

/// What the provider and the agent itself say.
fn resource(row: &mut Row, instance: &AgentInstance) {
    let status = instance.status.as_ref();
    let at = status.and_then(|s| s.provider.as_ref());
    let runtime = status.and_then(|s| s.runtime.as_ref());
    row.set(URLS, json!(status.and_then(|s| s.url.as_deref())));
    row.set(
        ["serviceId", "service_id", "railway_service_id"],
        json!(at.and_then(|p| p.service_id.as_deref())),
    );
    let place = instance.spec.provider.as_ref();
    let project = at.and_then(|p| p.project_id.as_deref());
    let project = project.or(place.and_then(|p| p.project_id.as_deref()));
    let environment = at.and_then(|p| p.environment_id.as_deref());
    let environment = environment.or(place.and_then(|p| p.environment_id.as_deref()));
    row.set(
        ["projectId", "project_id", "railway_project_id"],
        json!(project),
    );
    row.set(
        ["environmentId", "environment_id", "railway_environment_id"],
        json!(environment),
    );
    let service = at.and_then(|p| p.service_id.as_deref());
    row.set(
        ["providerUrl", "provider_url"],
        json!(railway_page(project, environment, service)),
    );
    row.set(
        ["deployStatus", "deploy_status"],
        json!(at.and_then(|p| p.deploy_status.as_deref())),
    );
    row.set(
        ["runtimeImage", "runtime_image"],
        json!(at.and_then(|p| p.image.as_deref())),
    );
    row.set(
        ["checkpointId", "checkpoint_id"],
        json!(at.and_then(|p| p.checkpoint_id.as_deref())),
    );
    row.set(
        ["runtimeVersion", "runtime_version"],
        json!(runtime.and_then(|r| r.version.as_deref())),
    );
    row.set(
        ["runtimeType", "runtime_type"],
        json!(runtime.and_then(|r| r.kind.as_deref())),
    );
}

/// The page of an agent's service in Railway's dashboard: in the agent's own project, where it has one. A sprite has no
/// page whose address could be told from its ids.
fn railway_page(
    project: Option<&str>,
    environment: Option<&str>,
    service: Option<&str>,
) -> Option<String> {
    let (project, environment, service) = (project?, environment?, service?);
    let page = format!("https://railway.com/project/{project}/service/{service}");
    Some(format!("{page}?environmentId={environment}"))
}

/// What came of the present claim.
fn bound(instance: &AgentInstance) -> Option<&ClaimStatus> {
    let claim = instance.spec.claim.as_ref()?;
    instance
        .status
        .as_ref()?
        .claim
        .as_ref()
        .filter(|b| b.id == claim.id)
}

/// Adds the gateway token to a row.
pub fn add_token(row: &mut Value, token: Option<&str>) {
    row["gatewayToken"] = json!(token);
    row["gateway_token"] = json!(token);
}

/// When the agent was bound. A claim whose status was lost has only the time it was asked for.
pub fn claimed_at(instance: &AgentInstance) -> Option<Time> {
    let claim = instance.spec.claim.as_ref()?;
    match bound(instance) {
        Some(bound) => bound
            .claimed_at
            .clone()
            .or_else(|| Some(claim.requested_at.clone())),
        None if phase_of(instance) == Phase::Claiming => None,
        None => Some(claim.requested_at.clone()),
    }
}

/// When the agent was created: before its object, where it was imported.
fn created_at(instance: &AgentInstance) -> Value {
    let annotations = instance.metadata.annotations.as_ref();
    match annotations.and_then(|a| a.get(ANNOTATION_CREATED)) {
        Some(told) => json!(told),
        None => time(instance.metadata.creation_timestamp.as_ref()),
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
        status
            .and_then(|s| s.claim.as_ref())
            .and_then(|c| c.claimed_at.as_ref()),
        status.and_then(|s| s.verdict.as_ref()).map(|v| &v.since),
    ];
    let conditions = status
        .into_iter()
        .flat_map(|s| s.conditions.iter().map(|c| &c.last_transition_time));
    known
        .into_iter()
        .flatten()
        .chain(conditions)
        .max_by_key(|t| t.0)
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
