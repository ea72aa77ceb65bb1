//! Webhooks: a rule per project, or per workspace where each agent has a project of its own.
//!
//! Railway merges no duplicates and gives no header's value back; what is ours is known by its address alone, and
//! [`crate::domain::hook`] decides what becomes of it.

use std::sync::PoisonError;

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::api::WEBHOOK_SECRET_HEADER;
use crate::api::agent_pool::TokenKind;
use crate::api::condition::Reason;
use crate::domain::hook::{Deed, Hook};
use crate::provider::{HookSettings, ProviderError};

use super::classify::{Access, Failure, Kind};
use super::client::Session;
use super::wire::Rule;
use super::{RailwayProvider, operation, rejected};

/// What changes an agent's state.
const EVENTS: [&str; 7] = [
    "Deployment.deployed",
    "Deployment.failed",
    "Deployment.crashed",
    "Deployment.oom_killed",
    "Deployment.slept",
    "Deployment.resumed",
    "Deployment.removed",
];
/// All: an event is filtered by both.
const SEVERITIES: [&str; 4] = ["INFO", "NOTICE", "WARNING", "CRITICAL"];

/// What rules are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The workspace.
    pub workspace: String,
    /// The one project; `None`: every project of the workspace.
    pub project: Option<String>,
}

impl RailwayProvider {
    /// Where the webhooks are: remembered, given, or looked up.
    pub(super) async fn hooks_at(&self) -> Result<Place, ProviderError> {
        if let Some(workspace) = self.workspace() {
            return Ok(Place {
                workspace: workspace.to_owned(),
                project: None,
            });
        }
        let lock = || self.hooks_at.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = lock().clone();
        if let Some(place) = remembered {
            return Ok(place);
        }
        let project = &self.config.project_id;
        let place = of_project(&self.session, self.config.token_kind, project).await?;
        *lock() = Some(place.clone());
        Ok(place)
    }
}

/// Where the rules of a project are.
async fn of_project(
    session: &Session,
    kind: TokenKind,
    project: &str,
) -> Result<Place, ProviderError> {
    let doing = || format!("look for the webhooks of project {project}");
    if kind == TokenKind::Project {
        let text = "railway.tokenKind Project may not register webhooks: use a workspace's token, or register the \
                    webhook by hand (docs/webhooks.md)";
        return Err(rejected(Reason::NotSupported, doing(), text));
    }
    let read = operation::project_node(session, project).await;
    let read = read.map_err(|f| f.into_error(Access::Read, doing()))?;
    let workspace = read.workspace_id.ok_or_else(|| {
        let text = "Railway does not say in which workspace the project is";
        rejected(Reason::NotSupported, doing(), text)
    })?;
    Ok(Place {
        workspace,
        project: Some(project.to_owned()),
    })
}

/// The webhooks of a place.
pub(super) async fn list(session: &Session, place: &Place) -> Result<Vec<Hook>, ProviderError> {
    let read = operation::rules(session, &place.workspace, place.project.as_deref()).await;
    let doing = || format!("list the webhooks of workspace {}", place.workspace);
    let rules = read.map_err(|f| f.into_error(Access::Read, doing()))?;
    // A project's listing may show the workspace's rules too.
    let here = rules.into_iter().filter(|r| r.project_id == place.project);
    Ok(here.map(hook).collect())
}

fn hook(rule: Rule) -> Hook {
    let webhook = |config: &Value| {
        let kind = config["type"].as_str().unwrap_or_default();
        let url = config["url"].as_str().map(str::to_owned);
        url.filter(|_| kind.eq_ignore_ascii_case("webhook"))
    };
    Hook {
        id: rule.id,
        targets: rule.channels.iter().map(|c| webhook(&c.config)).collect(),
        created_at: rule.created_at.as_deref().and_then(|t| t.parse().ok()),
    }
}

/// Does one deed.
pub(super) async fn perform(
    session: &Session,
    place: &Place,
    deed: &Deed,
    settings: &HookSettings,
) -> Result<(), ProviderError> {
    let (sent, doing) = match deed {
        Deed::Make => {
            let mut input = rule(settings);
            input["workspaceId"] = place.workspace.as_str().into();
            if let Some(project) = &place.project {
                input["projectId"] = project.as_str().into();
            }
            let sent = operation::rule_create(session, input).await;
            (sent, format!("register the webhook {}", settings.url))
        }
        Deed::Renew(id) => {
            let sent = operation::rule_update(session, id, rule(settings)).await;
            (sent, format!("renew the webhook {}", settings.url))
        }
        Deed::Remove(id) => {
            let sent = operation::rule_delete(session, id).await;
            (
                gone_is_done(sent),
                format!("remove the webhook {}", settings.url),
            )
        }
    };
    sent.map_err(|f| f.into_error(Access::Write, doing))
}

/// The next listing tells whether it is.
fn gone_is_done(sent: Result<(), Failure>) -> Result<(), Failure> {
    match sent {
        Err(f) if f.kind == Kind::NotFound => Ok(()),
        other => other,
    }
}

/// A rule that tells us of everything that changes an agent's state.
fn rule(settings: &HookSettings) -> Value {
    json!({
        "eventTypes": EVENTS,
        "severities": SEVERITIES,
        "ephemeralEnvironments": false,
        "channelConfigs": [{
            "type": "webhook",
            "url": settings.url,
            "headers": { WEBHOOK_SECRET_HEADER: settings.secret.expose_secret() },
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_ours_by_the_address_of_its_one_webhook() {
        let read = |channels: Value| {
            let channels = channels.as_array().unwrap().iter();
            let channels: Vec<Value> = channels.map(|c| json!({ "config": c })).collect();
            let rule =
                json!({"id": "r", "createdAt": "2026-10-05T19:58:15.735Z", "channels": channels});
            hook(serde_json::from_value(rule).unwrap())
        };
        let ours =
            json!({"type": "webhook", "url": "u", "headers": {"x-pool-webhook-secret": null}});
        let found = read(json!([ours]));
        assert_eq!(found.targets, [Some("u".to_owned())]);
        assert!(found.created_at.is_some());
        let mail = json!({"type": "email", "url": "u"});
        assert_eq!(read(json!([mail])).targets, [None]);
        assert_eq!(read(json!([ours, mail, {}, null])).targets.len(), 4);
    }
}
