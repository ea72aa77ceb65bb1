//! Wire to domain: every oddity of Railway's model in one place. Pure.

use crate::provider::{Facts, Liveness, Resource, Seen};

use super::wire::{Deployment, Domain, Domains, ServiceInstance};

/// The service's id; also [`Resource::id`].
pub const SERVICE_ID: &str = "serviceId";
/// The id of the agent's own project.
pub const PROJECT_ID: &str = "projectId";
/// The id of the environment in it.
pub const ENVIRONMENT_ID: &str = "environmentId";
/// The agent's base address.
pub const URL: &str = "url";
/// The id of the domain in it.
pub const DOMAIN_ID: &str = "domainId";
/// The id of the volume; absent in what does not tell of volumes.
pub const VOLUME_ID: &str = "volumeId";
/// The latest deployment's id.
pub const DEPLOYMENT_ID: &str = "deploymentId";
/// The image that is deployed.
pub const IMAGE: &str = "image";
/// The commit that was built, in a direct read.
pub const COMMIT: &str = "sourceCommit";
/// There, if the latest deployment was made before our settings were in place: not the one that our `deploy` step
/// made. A service made with an image was seen to deploy by itself in 2025, before it had its start command.
pub const DEPLOYMENT_PREDATES: &str = "deploymentPredatesSettings";

/// A service as a resource.
pub fn resource(service: &ServiceInstance) -> Resource {
    let mut facts = Facts::from([(SERVICE_ID.to_owned(), service.service_id.clone())]);
    if let Some(domain) = chosen_domain(&service.domains) {
        facts.insert(URL.to_owned(), url_of(&domain.domain));
        facts.insert(DOMAIN_ID.to_owned(), domain.id.clone());
    }
    if let Some(image) = service.source.as_ref().and_then(|s| s.image.clone()) {
        facts.insert(IMAGE.to_owned(), image);
    }
    if let Some(volume) = service.volumes.first() {
        facts.insert(VOLUME_ID.to_owned(), volume.volume_id.clone());
    }
    let latest = service.latest_deployment.as_ref();
    if let Some(deployment) = latest {
        facts.insert(DEPLOYMENT_ID.to_owned(), deployment.id.clone());
        let commit = deployment.meta.as_ref().map(|m| &m["commitHash"]);
        if let Some(commit) = commit.and_then(serde_json::Value::as_str) {
            facts.insert(COMMIT.to_owned(), commit.to_owned());
        }
        if predates_settings(service, deployment) {
            facts.insert(DEPLOYMENT_PREDATES.to_owned(), "true".to_owned());
        }
    }
    Resource {
        name: service.service_name.clone(),
        id: service.service_id.clone(),
        liveness: latest.map_or(Liveness::Created, liveness),
        native_state: latest.map(|d| d.status.clone()),
        facts,
        created_at: time(service.created_at.as_deref()),
    }
}

/// The agent's base address.
pub fn url_of(domain: &str) -> String {
    format!("https://{domain}")
}

/// How a deployment fares. The order matters, each short cut misleads: a starting one is already called stopped, and
/// a sleeping one has a running container.
pub fn liveness(deployment: &Deployment) -> Liveness {
    match deployment.status.as_str() {
        "SUCCESS" if deployment.deployment_stopped => Liveness::Stopped,
        // Without any container listed the status is all there is; with some, one has to run (else it restarts).
        "SUCCESS" if deployment.instances.is_empty() => Liveness::Running,
        "SUCCESS" if deployment.instances.iter().any(|i| i.status == "RUNNING") => {
            Liveness::Running
        }
        "SUCCESS" => Liveness::Starting,
        "SLEEPING" => Liveness::Sleeping,
        "CRASHED" => Liveness::Crashed,
        "FAILED" => Liveness::Failed,
        "SKIPPED" | "REMOVING" | "REMOVED" => Liveness::Removed,
        "NEEDS_APPROVAL" => Liveness::Blocked,
        _ => Liveness::Starting,
    }
}

/// Whether the latest deployment was made before our settings: `numReplicas` is null until our settings set it, and
/// `updatedAt` moves with settings, not with deployments.
fn predates_settings(service: &ServiceInstance, deployment: &Deployment) -> bool {
    let made = time(deployment.created_at.as_deref());
    let set = time(service.updated_at.as_deref());
    // Before its repository was connected it had no source, and so no deployment: the connection moves `updatedAt` too.
    let connected = service.source.as_ref().is_some_and(|s| s.repo.is_some());
    if connected {
        return service.num_replicas.is_none();
    }
    service.num_replicas.is_none() || matches!((made, set), (Some(made), Some(set)) if made < set)
}

/// The address to use: the customer's own, else Railway's oldest, since a repeated create only adds newer ones.
pub fn chosen_domain(domains: &Domains) -> Option<&Domain> {
    let usable = |d: &&Domain| {
        !d.domain.is_empty() && !matches!(d.sync_status.as_deref(), Some("DELETED" | "DELETING"))
    };
    // Newest first, so the last of equals is the oldest; one without a date counts as new.
    let age = |d: &&Domain| time(d.created_at.as_deref()).unwrap_or(jiff::Timestamp::MAX);
    let own = || {
        domains
            .service_domains
            .iter()
            .rev()
            .filter(usable)
            .min_by_key(age)
    };
    domains.custom_domains.iter().find(usable).or_else(own)
}

/// Judges one of our steps by what is seen.
pub fn progress(step: &str, known: &Facts, resource: &Resource) -> Seen {
    match step {
        super::SERVICE => Seen::Done(pick(&resource.facts, &[SERVICE_ID])),
        super::DOMAIN if resource.facts.contains_key(URL) => {
            Seen::Done(pick(&resource.facts, &[URL, DOMAIN_ID]))
        }
        super::DOMAIN => Seen::Absent,
        super::VOLUME if resource.facts.contains_key(VOLUME_ID) => {
            Seen::Done(pick(&resource.facts, &[VOLUME_ID]))
        }
        super::DEPLOY => deploy_progress(known, resource),
        _ => Seen::Unknown,
    }
}

fn deploy_progress(known: &Facts, resource: &Resource) -> Seen {
    let Some(shown) = resource.facts.get(DEPLOYMENT_ID) else {
        // We started one and a listing shows none: it lags, or somebody removed it. A direct read tells.
        return if known.contains_key(DEPLOYMENT_ID) {
            Seen::Unknown
        } else {
            Seen::Absent
        };
    };
    match known.get(DEPLOYMENT_ID) {
        Some(ours) if ours == shown => {}
        // Another one than we started: an older one in a listing that lags, or a newer one.
        _ if resource.facts.contains_key(DEPLOYMENT_PREDATES) => {
            return if known.contains_key(DEPLOYMENT_ID) {
                Seen::Running
            } else {
                Seen::Absent
            };
        }
        _ => {}
    }
    judge(resource)
}

fn judge(resource: &Resource) -> Seen {
    let native = resource.native_state.as_deref().unwrap_or_default();
    let failed = |reason, message: &str| Seen::Failed {
        reason,
        message: message.to_owned(),
        retry: false,
    };
    match resource.liveness {
        Liveness::Running | Liveness::Sleeping | Liveness::Warm | Liveness::Cold => {
            Seen::Done(pick(&resource.facts, &[DEPLOYMENT_ID, URL, DOMAIN_ID]))
        }
        Liveness::Starting | Liveness::Blocked => Seen::Running,
        Liveness::Created => Seen::Absent,
        Liveness::Stopped => failed(
            "Stopped",
            "the deployment went up and stopped: did the program exit?",
        ),
        Liveness::Failed => failed(
            "DeploymentFailed",
            "Railway says FAILED: the image cannot be pulled, or the program does not start",
        ),
        Liveness::Crashed => failed(
            "DeploymentCrashed",
            "Railway says CRASHED: the program keeps exiting",
        ),
        Liveness::Removed => Seen::Failed {
            reason: "DeploymentRemoved",
            message: format!("Railway says {native}: the deployment was removed or skipped"),
            retry: false,
        },
    }
}

fn pick(facts: &Facts, names: &[&str]) -> Facts {
    names
        .iter()
        .filter_map(|n| facts.get_key_value(*n))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn time(text: Option<&str>) -> Option<jiff::Timestamp> {
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::railway::wire::Container;

    fn deployment(status: &str, stopped: bool, containers: &[&str]) -> Deployment {
        Deployment {
            id: "d".to_owned(),
            status: status.to_owned(),
            created_at: Some("2026-10-05T19:58:18.458Z".to_owned()),
            deployment_stopped: stopped,
            meta: None,
            instances: containers
                .iter()
                .map(|s| Container {
                    status: (*s).to_owned(),
                })
                .collect(),
        }
    }

    fn service(latest: Option<Deployment>) -> ServiceInstance {
        ServiceInstance {
            service_id: "s".to_owned(),
            service_name: "n".to_owned(),
            updated_at: Some("2026-10-05T19:58:17.102Z".to_owned()),
            num_replicas: Some(1),
            latest_deployment: latest,
            ..ServiceInstance::default()
        }
    }

    fn domain(name: &str, created: Option<&str>) -> Domain {
        Domain {
            id: format!("id-{name}"),
            domain: name.to_owned(),
            created_at: created.map(str::to_owned),
            ..Domain::default()
        }
    }

    #[test]
    fn liveness_and_progress_of_every_status() {
        let known = Facts::from([(DEPLOYMENT_ID.to_owned(), "d".to_owned())]);
        for (status, stopped, containers, want, seen) in [
            ("INITIALIZING", true, &[][..], Liveness::Starting, "running"),
            ("QUEUED", true, &[], Liveness::Starting, "running"),
            ("WAITING", true, &[], Liveness::Starting, "running"),
            ("BUILDING", true, &[], Liveness::Starting, "running"),
            (
                "DEPLOYING",
                true,
                &["RUNNING"],
                Liveness::Starting,
                "running",
            ),
            ("NEEDS_APPROVAL", true, &[], Liveness::Blocked, "running"),
            ("A_NEW_WORD", false, &[], Liveness::Starting, "running"),
            (
                "SUCCESS",
                false,
                &["EXITED", "RUNNING"],
                Liveness::Running,
                "done",
            ),
            ("SUCCESS", false, &[], Liveness::Running, "done"),
            (
                "SUCCESS",
                false,
                &["RESTARTING"],
                Liveness::Starting,
                "running",
            ),
            ("SUCCESS", true, &["EXITED"], Liveness::Stopped, "Stopped"),
            ("SUCCESS", true, &[], Liveness::Stopped, "Stopped"),
            ("SLEEPING", true, &["RUNNING"], Liveness::Sleeping, "done"),
            (
                "CRASHED",
                true,
                &["CRASHED"],
                Liveness::Crashed,
                "DeploymentCrashed",
            ),
            ("FAILED", true, &[], Liveness::Failed, "DeploymentFailed"),
            ("SKIPPED", true, &[], Liveness::Removed, "DeploymentRemoved"),
            (
                "REMOVING",
                true,
                &[],
                Liveness::Removed,
                "DeploymentRemoved",
            ),
            ("REMOVED", true, &[], Liveness::Removed, "DeploymentRemoved"),
        ] {
            let found = resource(&service(Some(deployment(status, stopped, containers))));
            assert_eq!(found.liveness, want, "{status} {stopped}");
            assert_eq!(found.native_state.as_deref(), Some(status));
            let word = match progress("deploy", &known, &found) {
                Seen::Running => "running",
                Seen::Done(facts) => {
                    assert_eq!(facts[DEPLOYMENT_ID], "d");
                    "done"
                }
                Seen::Failed {
                    reason,
                    retry: false,
                    ..
                } => reason,
                other => panic!("{status}: {other:?}"),
            };
            assert_eq!(word, seen, "{status} {stopped}");
        }
    }

    #[test]
    fn nothing_deployed() {
        let found = resource(&service(None));
        assert_eq!(
            (found.liveness, found.native_state.clone()),
            (Liveness::Created, None)
        );
        assert_eq!(progress("deploy", &Facts::new(), &found), Seen::Absent);
        let started = Facts::from([(DEPLOYMENT_ID.to_owned(), "d".to_owned())]);
        assert_eq!(progress("deploy", &started, &found), Seen::Unknown);
        assert_eq!(progress("domain", &Facts::new(), &found), Seen::Absent);
        assert!(
            matches!(progress("service", &Facts::new(), &found), Seen::Done(f) if f[SERVICE_ID] == "s")
        );
    }

    #[test]
    fn a_deployment_from_before_our_settings_is_not_ours() {
        let running = || deployment("SUCCESS", false, &["RUNNING"]);
        let early = ServiceInstance {
            num_replicas: None,
            ..service(Some(running()))
        };
        let late = ServiceInstance {
            updated_at: Some("2026-10-05T19:59:00Z".to_owned()),
            ..service(Some(running()))
        };
        let other = Facts::from([(DEPLOYMENT_ID.to_owned(), "d2".to_owned())]);
        let same = Facts::from([(DEPLOYMENT_ID.to_owned(), "d".to_owned())]);
        for found in [resource(&early), resource(&late)] {
            assert_eq!(progress("deploy", &Facts::new(), &found), Seen::Absent);
            assert_eq!(progress("deploy", &other, &found), Seen::Running);
            assert!(matches!(progress("deploy", &same, &found), Seen::Done(_)));
        }
        assert!(matches!(
            progress(
                "deploy",
                &Facts::new(),
                &resource(&service(Some(running())))
            ),
            Seen::Done(_)
        ));
    }

    #[test]
    fn the_oldest_domain_is_chosen_and_a_customers_own_before_it() {
        let newest_first = vec![
            domain("new", Some("2026-10-06T00:00:00Z")),
            domain("old", Some("2026-10-05T00:00:00Z")),
            domain("undated", None),
        ];
        let mut domains = Domains {
            service_domains: newest_first,
            custom_domains: vec![],
        };
        assert_eq!(chosen_domain(&domains).unwrap().domain, "old");
        domains.service_domains[1].sync_status = Some("DELETED".to_owned());
        assert_eq!(chosen_domain(&domains).unwrap().domain, "new");
        domains.custom_domains = vec![domain("own.example.org", None)];
        assert_eq!(chosen_domain(&domains).unwrap().domain, "own.example.org");
        let undated = Domains {
            service_domains: vec![domain("b", None), domain("a", None)],
            custom_domains: vec![],
        };
        assert_eq!(chosen_domain(&undated).unwrap().domain, "a");
    }
}
