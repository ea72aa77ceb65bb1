//! The diagnostic report of one service: what Railway says, without the value of any variable.

use std::time::Duration;

use serde_json::json;

use crate::provider::{Facts, Key, Report};

use super::removal::by_id;
use super::{Reach, map, operation};

const LIMIT: Duration = Duration::from_secs(14);
const LOG_LINES: usize = 50;
const LINE_MAX: usize = 500;
/// Shorter values are words like `dev` or `8080`: masking them would only garble the log.
const VALUE_MIN: usize = 8;

/// See [`crate::provider::AgentProvider::diagnose`].
pub(super) async fn diagnose(reach: &Reach<'_>, key: &Key, known: &Facts) -> Report {
    let mut report = Report::from([
        ("providerName".to_owned(), key.name.as_str().into()),
        ("projectId".to_owned(), reach.scope.project.as_str().into()),
        (
            "environmentId".to_owned(),
            reach.scope.environment.as_str().into(),
        ),
    ]);
    let Some(id) = known.get(map::SERVICE_ID) else {
        report.insert(
            "error".to_owned(),
            "the service's id is not recorded".into(),
        );
        return report;
    };
    // Filled as far as the time reaches.
    if tokio::time::timeout(LIMIT, fill(reach, id, &mut report))
        .await
        .is_err()
    {
        report.insert(
            "error".to_owned(),
            "Railway did not answer everything in time".into(),
        );
    }
    report
}

async fn fill(reach: &Reach<'_>, id: &str, report: &mut Report) {
    report.insert("serviceId".to_owned(), id.into());
    let service = match by_id(reach, id).await {
        Ok(Some(service)) => service,
        Ok(None) => {
            report.insert("status".to_owned(), "Gone".into());
            return;
        }
        Err(f) => {
            report.insert("error".to_owned(), f.message.into());
            return;
        }
    };
    let resource = map::resource(&service);
    report.insert("serviceName".to_owned(), resource.name.into());
    report.insert("status".to_owned(), resource.liveness.as_str().into());
    report.insert(
        "image".to_owned(),
        resource.facts.get(map::IMAGE).cloned().into(),
    );
    let domains = service
        .domains
        .custom_domains
        .iter()
        .chain(&service.domains.service_domains);
    report.insert(
        "domains".to_owned(),
        domains.map(|d| d.domain.clone()).collect::<Vec<_>>().into(),
    );
    let Some(deployment) = service.latest_deployment else {
        return;
    };
    let containers: Vec<&str> = deployment
        .instances
        .iter()
        .map(|i| i.status.as_str())
        .collect();
    let summary = json!({
        "id": deployment.id,
        "status": deployment.status,
        "createdAt": deployment.created_at,
        "stopped": deployment.deployment_stopped,
        "containers": containers,
    });
    report.insert("deployment".to_owned(), summary);
    let scope = &reach.scope;
    // Agents print their environment at times: without knowing the values no line is shown.
    let secrets =
        match operation::variables(reach.session, &scope.project, &scope.environment, id).await {
            Ok(variables) => {
                report.insert("variables".to_owned(), variables.len().into());
                masked_values(variables)
            }
            Err(f) => {
                report.insert(
                    "log".to_owned(),
                    format!(
                        "left out, the variables to mask cannot be read: {}",
                        f.message
                    )
                    .into(),
                );
                return;
            }
        };
    let events = match operation::deployment_events(reach.session, &deployment.id).await {
        Ok(steps) => mask(&json!(steps).to_string(), &secrets)
            .parse()
            .unwrap_or_default(),
        Err(f) => f.message.into(),
    };
    report.insert("deploymentEvents".to_owned(), events);
    let log = match operation::deploy_logs(reach.session, &deployment.id, LOG_LINES).await {
        Ok(lines) => lines
            .iter()
            .map(|l| format!("{} {}", l.timestamp, cut(&mask(&l.message, &secrets))))
            .collect(),
        Err(f) => vec![f.message],
    };
    report.insert("log".to_owned(), log.into());
}

fn masked_values(variables: std::collections::BTreeMap<String, String>) -> Vec<String> {
    let public = |name: &str| name.starts_with("RAILWAY_");
    let values = variables
        .into_iter()
        .filter(|(k, v)| !public(k) && v.len() >= VALUE_MIN);
    let mut values: Vec<String> = values.map(|(_, v)| v).collect();
    values.sort_by_key(|v| std::cmp::Reverse(v.len()));
    values
}

fn mask(text: &str, values: &[String]) -> String {
    values.iter().fold(text.to_owned(), |text, value| {
        text.replace(value, "[value]")
    })
}

fn cut(line: &str) -> String {
    line.chars().take(LINE_MAX).collect()
}
