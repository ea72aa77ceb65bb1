//! The three steps of a creation: looked at, and sent once.
//!
//! Image, start command and variables are all in place before the one deployment: a predecessor that set them by
//! separate deploying calls left about one agent in ten without variables.

use std::time::Duration;

use serde_json::json;

use crate::api::agent_pool::RepositorySource;
use crate::domain::template::Template;
use crate::provider::{Facts, Inputs, Key, Outcome, ProviderError, Seen};

use super::classify::{Access, Failure, Kind};
use super::removal::{Mark, by_id, by_key, is_gone, mark};
use super::{
    AGENT_PORT, AUTO_DEPLOY, DEPLOY, DOMAIN, OWNER_VARIABLE, Reach, SERVICE, VOLUME, map,
    no_service_id, operation, settings, unknown_step, volumes,
};

const POLL: Duration = Duration::from_secs(5);
const FOREIGN: &str = "ForeignResource";

/// See [`crate::provider::AgentProvider::look`].
pub(super) async fn look(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
    step: &'static str,
) -> Result<Seen, ProviderError> {
    if step == AUTO_DEPLOY {
        // It is sent again in any case.
        return Ok(Seen::Absent);
    }
    if !matches!(step, SERVICE | VOLUME | DOMAIN | DEPLOY) {
        return Err(unknown_step(step));
    }
    let id = match known.get(map::SERVICE_ID) {
        Some(id) if step != SERVICE => id.clone(),
        recorded => match find_ours(reach, key, recorded).await? {
            Seen::Done(facts) if step != SERVICE => {
                facts.get(map::SERVICE_ID).cloned().unwrap_or_default()
            }
            seen => return Ok(seen),
        },
    };
    if step == VOLUME {
        return volumes::look(reach, key, &id).await;
    }
    let read = by_id(reach, &id).await;
    let read =
        read.map_err(|f| f.into_error(Access::Read, format!("look at service {}", key.name)))?;
    Ok(match read.as_ref().map(map::resource) {
        // Right after its creation a service is not yet there for every reader.
        None => Seen::Unknown,
        Some(resource) if step == DEPLOY && !resource.facts.contains_key(map::DEPLOYMENT_ID) => {
            Seen::Absent
        }
        Some(resource) => map::progress(step, known, &resource),
    })
}

/// Our service by its recorded id, or by our name; and in either case by our mark.
async fn find_ours(
    reach: &Reach<'_>,
    key: &Key,
    recorded: Option<&String>,
) -> Result<Seen, ProviderError> {
    let id = match recorded {
        Some(id) => id.clone(),
        None => match by_key(reach, key).await? {
            Some(service) => service.service_id,
            None => return Ok(Seen::Absent),
        },
    };
    let doing = || format!("read the owner mark of service {}", key.name);
    let found = mark(reach, &id, &key.mark)
        .await
        .map_err(|f| f.into_error(Access::Read, doing()))?;
    Ok(match found {
        Mark::Ours => Seen::Done(Facts::from([(map::SERVICE_ID.to_owned(), id)])),
        Mark::NoService => Seen::Absent,
        Mark::Foreign => Seen::Failed {
            reason: FOREIGN,
            message: foreign(key),
            retry: false,
        },
    })
}

/// Makes the service with all its variables, the owner mark among them, and without a source: so neither this nor a
/// volume deploys.
pub(super) async fn make_service(
    reach: &Reach<'_>,
    key: &Key,
    inputs: &Inputs,
) -> Result<Outcome, ProviderError> {
    let mut variables = inputs.variables.clone();
    variables.insert(OWNER_VARIABLE.to_owned(), key.mark.clone());
    let input = json!({
        "projectId": reach.scope.project,
        "environmentId": reach.scope.environment,
        "name": key.name,
        "variables": variables,
    });
    match operation::service_create(reach.session, input).await {
        Ok(created) => Ok(Outcome::Done(Facts::from([(
            map::SERVICE_ID.to_owned(),
            created.id,
        )]))),
        Err(f) if f.kind == Kind::Exists => match find_ours(reach, key, None).await? {
            Seen::Done(facts) => Ok(Outcome::Done(facts)),
            Seen::Failed {
                reason,
                message,
                retry,
            } => Ok(Outcome::Failed {
                reason,
                message,
                retry,
            }),
            // Taken by what no listing shows yet: only a later look can tell whose it is.
            _ => Err(Failure::new(
                Kind::Unknown,
                format!("{}; it is not listed yet", f.message),
            )
            .into_error(Access::Write, format!("create service {}", key.name))),
        },
        Err(f) => Err(f.into_error(Access::Write, format!("create service {}", key.name))),
    }
}

/// Makes the domain.
pub(super) async fn make_domain(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
) -> Result<Outcome, ProviderError> {
    let doing = format!("create the domain of service {}", key.name);
    let Some(service) = known.get(map::SERVICE_ID) else {
        return Err(no_service_id(doing));
    };
    let mut input = json!({ "environmentId": reach.scope.environment, "serviceId": service, "targetPort": AGENT_PORT });
    let mut made = operation::domain_create(reach.session, input.clone()).await;
    if made.as_ref().is_err_and(|f| f.kind == Kind::Invalid) {
        // In 2025 a port was refused where a variable PORT existed. Refused is not done, so this is no repetition.
        if let Some(fields) = input.as_object_mut() {
            fields.remove("targetPort");
        }
        made = operation::domain_create(reach.session, input).await;
    }
    match made {
        Ok(domain) => Ok(Outcome::Done(Facts::from([
            (map::URL.to_owned(), map::url_of(&domain.domain)),
            (map::DOMAIN_ID.to_owned(), domain.id),
        ]))),
        Err(f) => refused(reach, f, doing).await,
    }
}

/// Sets source and settings and starts the one deployment. Always a new one: what Railway may have deployed by itself
/// has no start command.
pub(super) async fn deploy(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
    template: &Template,
    inputs: &Inputs,
) -> Result<Outcome, ProviderError> {
    let doing = format!("configure and deploy service {}", key.name);
    let Some(service) = known.get(map::SERVICE_ID) else {
        return Err(no_service_id(doing));
    };
    let environment = &reach.scope.environment;
    if let Some(repository) = repository(template) {
        return connect(reach, (service, doing), template, (repository, inputs)).await;
    }
    let sent = (
        settings::settings(template, inputs),
        settings::limits(template, environment, service),
    );
    match operation::configure_and_deploy(reach.session, environment, service, sent).await {
        Ok(deployment) => {
            let facts = Facts::from([(map::DEPLOYMENT_ID.to_owned(), deployment)]);
            Ok(Outcome::Running { facts, poll: POLL })
        }
        Err(f) => refused(reach, f, doing).await,
    }
}

/// The repository of a template, where it is built from one.
pub(super) fn repository(template: &Template) -> Option<&RepositorySource> {
    let railway = template.provider.railway.as_ref()?;
    railway.source.repository.as_ref()
}

/// Sets the settings and connects the repository. A service made with a repository would deploy its default branch at
/// once, without settings; one that had no source until now deploys once, what was connected.
async fn connect(
    reach: &Reach<'_>,
    (service, doing): (&str, String),
    template: &Template,
    (repository, inputs): (&RepositorySource, &Inputs),
) -> Result<Outcome, ProviderError> {
    let environment = &reach.scope.environment;
    if let Some(limits) = settings::limits(template, environment, service)
        && let Err(f) = operation::limits(reach.session, limits).await
    {
        if f.kind != Kind::Unknown {
            return refused(reach, f, doing).await;
        }
        // Nothing is deployed yet, and limits may be set twice: the step is sent again without a look.
        return Err(Failure::new(Kind::Busy, f.message).into_error(Access::Write, doing));
    }
    let sent = (
        settings::settings(template, inputs),
        settings::repository(repository),
    );
    match operation::configure_and_connect(reach.session, environment, service, sent).await {
        Ok(()) => Ok(Outcome::Running {
            facts: Facts::new(),
            poll: POLL,
        }),
        Err(f) => refused(reach, f, doing).await,
    }
}

/// Pushes are not to deploy: an agent in use would be restarted. The repository stays connected. And what was built is
/// read.
pub(super) async fn end_auto_deploy(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
) -> Result<Outcome, ProviderError> {
    let doing = format!("end the deployments by push of service {}", key.name);
    let Some(service) = known.get(map::SERVICE_ID) else {
        return Err(no_service_id(doing));
    };
    let input = json!({
        "projectId": reach.scope.project,
        "environmentId": reach.scope.environment,
        "serviceId": service,
        "enabled": false,
    });
    if let Err(f) = operation::no_auto_deploy(reach.session, input).await {
        return refused(reach, f, doing).await;
    }
    let read = by_id(reach, service).await;
    let read = read.map_err(|f| f.into_error(Access::Read, doing))?;
    let mut facts = read.map(|s| map::resource(&s).facts).unwrap_or_default();
    facts.retain(|name, _| name == map::COMMIT);
    Ok(Outcome::Done(facts))
}

/// A step of a service that we made was refused. Right after the creation Railway may not know it yet everywhere: the
/// step did not run, and later it may.
pub(super) async fn refused(
    reach: &Reach<'_>,
    failure: Failure,
    doing: String,
) -> Result<Outcome, ProviderError> {
    let gone = is_gone(reach, &failure)
        .await
        .map_err(|f| f.into_error(Access::Read, doing.clone()))?;
    if !gone {
        return Err(failure.into_error(Access::Write, doing));
    }
    let message = format!(
        "{}: Railway does not know the service (yet)",
        failure.message
    );
    Err(Failure::new(Kind::Busy, message).into_error(Access::Write, doing))
}

fn foreign(key: &Key) -> String {
    format!(
        "a service named {} exists and its {OWNER_VARIABLE} is not {}: it is not ours",
        key.name, key.mark
    )
}
