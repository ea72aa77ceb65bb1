//! Volumes: made before the service has a source, so that they deploy nothing, and removed before the service, because
//! a volume carries no mark of ours: without its service nobody could tell whose it is.

use serde_json::json;

use crate::domain::plan::{UNSETTLED, UNSETTLED_FOR};
use crate::domain::template::Template;
use crate::provider::{Facts, Key, Outcome, ProviderError, Seen};

use super::classify::{Access, Failure, Kind};
use super::removal::is_gone;
use super::wire::{Connection, ServiceInstance, VolumeInstance};
use super::{LIST_LAG, Reach, VOLUME, map, no_service_id, operation, steps};

/// More pages than a plan allows volumes.
const PAGES: usize = 20;

/// Every volume of the environment that is there; `first`: its first page, where a listing of services brought it.
pub(super) async fn all(
    reach: &Reach<'_>,
    first: Option<Connection<VolumeInstance>>,
) -> Result<Vec<VolumeInstance>, Failure> {
    let environment = &reach.scope.environment;
    let mut page = match first {
        Some(page) => page,
        None => operation::volumes(reach.session, environment, None).await?,
    };
    let mut all = Vec::new();
    for _ in 0..PAGES {
        let there = page.edges.into_iter().map(|e| e.node);
        all.extend(there.filter(is_there));
        match (page.page_info.has_next_page, page.page_info.end_cursor) {
            (false, _) => return Ok(all),
            (true, None) => break,
            (true, Some(next)) => {
                page = operation::volumes(reach.session, environment, Some(&next)).await?;
            }
        }
    }
    Err(Failure::new(
        Kind::Unknown,
        "the pages of the volumes do not end",
    ))
}

/// The ids of the volumes of a service, oldest first.
pub(super) async fn of_service(
    reach: &Reach<'_>,
    service: &str,
) -> Result<Vec<VolumeInstance>, Failure> {
    let all = all(reach, None).await?;
    let ours = all.into_iter();
    Ok(oldest_first(
        ours.filter(|v| v.service_id.as_deref() == Some(service)),
    ))
}

fn is_there(volume: &VolumeInstance) -> bool {
    volume.deleted_at.is_none() && !volume.is_pending_deletion
}

/// Gives each service its volumes.
pub(super) fn attach(services: &mut [ServiceInstance], volumes: &[VolumeInstance]) {
    for service in services {
        let ours = volumes
            .iter()
            .filter(|v| is_there(v) && v.service_id.as_ref() == Some(&service.service_id));
        service.volumes = oldest_first(ours.cloned());
    }
}

fn oldest_first(volumes: impl Iterator<Item = VolumeInstance>) -> Vec<VolumeInstance> {
    let mut volumes: Vec<_> = volumes.collect();
    volumes.sort_by(|a, b| (&a.created_at, &a.volume_id).cmp(&(&b.created_at, &b.volume_id)));
    volumes
}

/// Whether our service has its volume.
pub(super) async fn look(
    reach: &Reach<'_>,
    key: &Key,
    service: &str,
) -> Result<Seen, ProviderError> {
    let found = of_service(reach, service).await;
    let doing = || format!("look for the volume of service {}", key.name);
    let found = found.map_err(|f| f.into_error(Access::Read, doing()))?;
    Ok(match found.into_iter().next() {
        Some(volume) => Seen::Done(Facts::from([(map::VOLUME_ID.to_owned(), volume.volume_id)])),
        None => Seen::Absent,
    })
}

/// Makes the volume.
pub(super) async fn make(
    reach: &Reach<'_>,
    key: &Key,
    known: &Facts,
    template: &Template,
) -> Result<Outcome, ProviderError> {
    let doing = format!("create the volume of service {}", key.name);
    let railway = template.provider.railway.as_ref();
    let (Some(service), Some(volume)) = (
        known.get(map::SERVICE_ID),
        railway.and_then(|r| r.volume.as_ref()),
    ) else {
        return Err(no_service_id(doing));
    };
    let mut input = json!({
        "projectId": reach.scope.project,
        // Left out, or null, it would be made nowhere.
        "environmentId": reach.scope.environment,
        "serviceId": service,
        "mountPath": volume.mount_path,
    });
    if let Some(region) = railway.and_then(|r| r.region.as_ref()) {
        input["region"] = region.as_str().into();
    }
    match operation::volume_create(reach.session, input).await {
        Ok(made) => Ok(Outcome::Done(Facts::from([(
            map::VOLUME_ID.to_owned(),
            made.id,
        )]))),
        // It lasts seconds and is about volumes alone: this one waits, not everybody.
        Err(f) if matches!(f.kind, Kind::Cooldown(_)) => {
            Err(Failure::new(Kind::Busy, f.message).into_error(Access::Write, doing))
        }
        Err(f) => steps::refused(reach, f, doing).await,
    }
}

/// The volumes that are to go with a service of ours that is there, and was found under `hanging` where only its name
/// was known. `None`: the creation of one may still turn up.
pub(super) async fn to_remove(
    reach: &Reach<'_>,
    (service, known): (&str, &Facts),
    hanging: Option<Vec<VolumeInstance>>,
) -> Result<Option<Vec<String>>, Failure> {
    if let Some(recorded) = known.get(map::VOLUME_ID) {
        return Ok(Some(vec![recorded.clone()]));
    }
    let unsettled = known
        .get(UNSETTLED)
        .filter(|step| *step == VOLUME)
        .and_then(|_| known.get(UNSETTLED_FOR)?.parse::<u64>().ok());
    let found = match (hanging, unsettled) {
        (Some(hanging), _) => hanging,
        (None, None) => return Ok(Some(vec![])),
        (None, Some(_)) => of_service(reach, service).await?,
    };
    if found.is_empty() && unsettled.is_some_and(|s| s < LIST_LAG.as_secs()) {
        return Ok(None);
    }
    Ok(Some(found.into_iter().map(|v| v.volume_id).collect()))
}

/// Removes a volume; gone already is as good.
pub(super) async fn remove(reach: &Reach<'_>, volume: &str) -> Result<(), Failure> {
    match operation::volume_delete(reach.session, volume).await {
        Ok(()) => Ok(()),
        Err(f) if is_gone(reach, &f).await? => Ok(()),
        Err(f) => Err(f),
    }
}
