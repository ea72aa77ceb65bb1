//! Listing, reading and removing services.
//!
//! `Not Authorized` is Railway's answer for a deleted id too: it counts as "gone" only if the same token can read
//! something else at that moment. Nothing is removed whose owner mark was not read just before.

use serde_json::json;

use crate::api::agent_pool::TokenKind;
use crate::api::condition::Reason;
use crate::domain::plan::{UNDER_WAY, UNSETTLED};
use crate::provider::{Facts, Key, Liveness, Owner, Presence, ProviderError, Resource};

use super::classify::{Access, Failure, Kind};
use super::wire::ServiceInstance;
use super::{DEPLOY, OWNER_VARIABLE, Reach, map, operation, rejected, scope, volumes};

/// More pages than a plan allows services.
const PAGES: usize = 200;

/// Whose a service is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It carries our mark.
    Ours,
    /// It carries another, or none.
    Foreign,
    /// There is no such service.
    NoService,
}

/// Every service of the environment: all pages, or an error.
pub(super) async fn all_services(reach: &Reach<'_>) -> Result<Vec<ServiceInstance>, ProviderError> {
    let doing = || format!("list services of environment {}", reach.scope.environment);
    let failed = |f: Failure| f.into_error(Access::Read, doing());
    let mut all = Vec::new();
    let mut volumes = None;
    let mut cursor: Option<String> = None;
    for pages in 1..=PAGES {
        let fleet = operation::fleet(reach.session, &reach.scope.environment, cursor.as_deref())
            .await
            .map_err(failed)?;
        volumes = volumes.or(fleet.volume_instances);
        let page = fleet.service_instances;
        all.extend(
            page.edges
                .into_iter()
                .map(|e| e.node)
                .filter(|s| s.deleted_at.is_none()),
        );
        match (page.page_info.has_next_page, page.page_info.end_cursor) {
            (false, _) => {
                let volumes = volumes::all(reach, volumes).await.map_err(failed)?;
                volumes::attach(&mut all, &volumes);
                let pages = u32::try_from(pages).unwrap_or(u32::MAX);
                reach.session.listed(&reach.scope.environment, pages);
                return Ok(all);
            }
            (true, next @ Some(_)) if next != cursor => cursor = next,
            (true, _) => break,
        }
    }
    Err(failed(Failure::new(
        Kind::Unknown,
        "the pages of the listing do not end",
    )))
}

/// The service of an instance whose id at Railway is not known: by its name at creation, else by our id at the end of
/// a name, because a claim renames a service after its agent. Not proven ours by this: read the mark.
pub(super) async fn by_key(
    reach: &Reach<'_>,
    key: &Key,
) -> Result<Option<ServiceInstance>, ProviderError> {
    let suffix = format!("-{}", key.id);
    let mut all = all_services(reach).await?;
    let found = all
        .iter()
        .position(|s| s.service_name == key.name)
        .or_else(|| all.iter().position(|s| s.service_name.ends_with(&suffix)));
    Ok(found.map(|index| all.swap_remove(index)))
}

/// The service, directly; `None`: Railway says that there is none.
pub(super) async fn by_id(reach: &Reach<'_>, id: &str) -> Result<Option<ServiceInstance>, Failure> {
    match operation::service_instance(reach.session, &reach.scope.environment, id).await {
        Ok(service) => Ok(Some(service).filter(|s| s.deleted_at.is_none())),
        Err(f) if is_gone(reach, &f).await? => Ok(None),
        Err(f) => Err(f),
    }
}

/// Whether a failure about one id means that the id does not exist.
pub(super) async fn is_gone(reach: &Reach<'_>, failure: &Failure) -> Result<bool, Failure> {
    match failure.kind {
        Kind::NotFound => Ok(true),
        Kind::Denied => match &reach.workspace {
            Some(workspace) => scope::can_list(reach.session, workspace).await,
            None => scope::can_read(reach.session, reach.kind, &reach.scope.project).await,
        },
        _ => Ok(false),
    }
}

/// Reads a service's owner mark.
pub(super) async fn mark(reach: &Reach<'_>, id: &str, ours: &str) -> Result<Mark, Failure> {
    Ok(match read_mark(reach, id).await? {
        Owner::Marked(mark) if mark == ours => Mark::Ours,
        Owner::Gone => Mark::NoService,
        Owner::Marked(_) | Owner::Unmarked | Owner::Elsewhere => Mark::Foreign,
    })
}

async fn read_mark(reach: &Reach<'_>, id: &str) -> Result<Owner, Failure> {
    let scope = &reach.scope;
    match operation::variables(reach.session, &scope.project, &scope.environment, id).await {
        Ok(mut variables) => Ok(variables
            .remove(OWNER_VARIABLE)
            .map_or(Owner::Unmarked, Owner::Marked)),
        Err(f) if is_gone(reach, &f).await? => Ok(Owner::Gone),
        Err(f) => Err(f),
    }
}

/// See [`crate::provider::AgentProvider::owner`].
pub(super) async fn owner(reach: &Reach<'_>, resource: &Resource) -> Result<Owner, ProviderError> {
    let read = async {
        match read_mark(reach, &resource.id).await? {
            Owner::Marked(_) if lives_elsewhere(reach, resource).await? => Ok(Owner::Elsewhere),
            owner => Ok(owner),
        }
    };
    let doing = || format!("read the owner mark of service {}", resource.name);
    read.await
        .map_err(|f: Failure| f.into_error(Access::Read, doing()))
}

/// See [`crate::provider::AgentProvider::take_over`].
pub(super) async fn take_over(
    reach: &Reach<'_>,
    key: &Key,
    resource: &Resource,
) -> Result<Owner, ProviderError> {
    let doing = || format!("put our mark on service {}", resource.name);
    let read = async {
        if lives_elsewhere(reach, resource).await? {
            return Ok(Owner::Elsewhere);
        }
        read_mark(reach, &resource.id).await
    };
    let owner = read
        .await
        .map_err(|f: Failure| f.into_error(Access::Read, doing()))?;
    if owner != Owner::Unmarked {
        return Ok(owner);
    }
    let scope = &reach.scope;
    // Not replaced, and deploying nothing: the agent in it must not notice.
    let input = json!({
        "projectId": scope.project,
        "environmentId": scope.environment,
        "serviceId": resource.id,
        "variables": {OWNER_VARIABLE: key.mark},
        "replace": false,
        "skipDeploys": true,
    });
    operation::variables_upsert(reach.session, input)
        .await
        .map_err(|f| f.into_error(Access::Write, doing()))?;
    Ok(Owner::Marked(key.mark.clone()))
}

/// Whether a service that has no deployment in our environment has one in another environment of the project: it is
/// shown in all, and removing it would remove it there. A project token sees its own only, and removes only there.
async fn lives_elsewhere(reach: &Reach<'_>, resource: &Resource) -> Result<bool, Failure> {
    if resource.facts.contains_key(map::DEPLOYMENT_ID) || reach.kind == TokenKind::Project {
        return Ok(false);
    }
    let environments = scope::by_project(reach.session, &reach.scope.project).await?;
    for other in environments
        .iter()
        .filter(|e| e.id != reach.scope.environment)
    {
        match operation::service_instance(reach.session, &other.id, &resource.id).await {
            Ok(service) if service.latest_deployment.is_some() => return Ok(true),
            Ok(_) => {}
            Err(f) if f.kind == Kind::NotFound => {}
            Err(f) => return Err(f),
        }
    }
    Ok(false)
}

/// See [`crate::provider::AgentProvider::observe`].
pub(super) async fn observe(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
) -> Result<Presence, ProviderError> {
    let present = |service: &ServiceInstance| Presence::Present(Box::new(map::resource(service)));
    match known.get(map::SERVICE_ID) {
        Some(id) => {
            let read = async {
                let mut service = by_id(reach, id).await?;
                // Of what has none the volumes are not asked for.
                if let Some(service) = service
                    .as_mut()
                    .filter(|_| known.contains_key(map::VOLUME_ID))
                {
                    service.volumes = volumes::of_service(reach, id).await?;
                }
                Ok(service)
            };
            let doing = || format!("read service {}", key.name);
            let read = read
                .await
                .map_err(|f: Failure| f.into_error(Access::Read, doing()))?;
            Ok(read.as_ref().map_or(Presence::Gone, present))
        }
        None => {
            let Some(service) = by_key(reach, key).await? else {
                return Ok(Presence::Unknown);
            };
            let found = mark(reach, &service.service_id, &key.mark).await;
            let doing = || format!("read the owner mark of service {}", key.name);
            match found.map_err(|f| f.into_error(Access::Read, doing()))? {
                Mark::Ours => Ok(present(&service)),
                Mark::Foreign | Mark::NoService => Ok(Presence::Unknown),
            }
        }
    }
}

/// See [`crate::provider::AgentProvider::destroy`].
pub(super) async fn destroy(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
) -> Result<Presence, ProviderError> {
    let (id, hanging) = match known.get(map::SERVICE_ID) {
        Some(id) => (id.clone(), None),
        None => match by_key(reach, key).await? {
            Some(service) => (service.service_id, Some(service.volumes)),
            None => return Ok(Presence::Gone),
        },
    };
    let doing = || format!("delete service {}", key.name);
    let found = mark(reach, &id, &key.mark)
        .await
        .map_err(|f| f.into_error(Access::Read, doing()))?;
    match found {
        // Only the name led here, and the one service of that name is somebody else's: ours never came to exist.
        Mark::Foreign if !known.contains_key(map::SERVICE_ID) => return Ok(Presence::Gone),
        Mark::Foreign => {
            let message = format!(
                "its {OWNER_VARIABLE} is not {}: it is not ours and stays",
                key.mark
            );
            return Err(rejected(Reason::Rejected, doing(), message));
        }
        // What we recorded as ours may be left all the same.
        Mark::NoService => {
            if let Some(volume) = known.get(map::VOLUME_ID) {
                let removed = volumes::remove(reach, volume).await;
                removed.map_err(|f| f.into_error(Access::Write, doing()))?;
            }
        }
        Mark::Ours => {
            let cancelled = cancel_unfinished(reach, &id, known).await;
            cancelled.map_err(|f| f.into_error(Access::Write, doing()))?;
            let volumes = volumes::to_remove(reach, (&id, known), hanging).await;
            let volumes = volumes.map_err(|f| f.into_error(Access::Read, doing()))?;
            let Some(volumes) = volumes else {
                return Ok(Presence::Unknown);
            };
            for volume in volumes {
                let removed = volumes::remove(reach, &volume).await;
                removed.map_err(|f| f.into_error(Access::Write, doing()))?;
            }
            let environment =
                (reach.kind == TokenKind::Project).then_some(reach.scope.environment.as_str());
            match operation::service_delete(reach.session, &id, environment).await {
                Ok(()) => {}
                // The direct read below decides.
                Err(f) if matches!(f.kind, Kind::NotFound | Kind::Denied | Kind::NoChange) => {}
                Err(f) => return Err(f.into_error(Access::Write, doing())),
            }
        }
    }
    let left = by_id(reach, &id)
        .await
        .map_err(|f| f.into_error(Access::Read, doing()))?;
    Ok(left.map_or(Presence::Gone, |service| {
        Presence::Present(Box::new(map::resource(&service)))
    }))
}

/// Whether its creation was deploying when it ended.
pub(super) fn may_deploy(known: &Facts) -> bool {
    let step = known.get(UNDER_WAY).or_else(|| known.get(UNSETTLED));
    step.is_some_and(|step| step == DEPLOY)
}

/// Ends a deployment of ours that is still on its way, before its service goes: a build that hangs would go on without it.
/// Only where one may be, because it costs two requests; and what Railway says to it keeps nothing from being removed.
pub(super) async fn cancel_unfinished(
    reach: &Reach<'_>,
    service: &str,
    known: &Facts,
) -> Result<(), Failure> {
    if !may_deploy(known) {
        return Ok(());
    }
    let read = by_id(reach, service).await?;
    let Some(latest) = read.and_then(|s| s.latest_deployment) else {
        return Ok(());
    };
    if !matches!(
        map::liveness(&latest),
        Liveness::Starting | Liveness::Blocked
    ) {
        return Ok(());
    }
    match operation::deployment_cancel(reach.session, &latest.id).await {
        // Not answered, or not sent: it comes again with the next try.
        Err(f)
            if matches!(
                f.kind,
                Kind::Unknown | Kind::RateLimited | Kind::Reserved | Kind::EdgeBlocked | Kind::Auth
            ) =>
        {
            Err(f)
        }
        Err(f) => {
            tracing::debug!(service, "not cancelled: {}", f.message);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
