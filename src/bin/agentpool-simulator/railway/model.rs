//! What exists at Railway: data and look-ups, no transport and no clock.

use crate::clock::{Ms, NEVER};
use crate::railway::deploy::{Shape, Status, Timeline};
use crate::railway::errors::{Answer, bad_input};
use crate::railway::faults::Rules;
use crate::railway::knobs::{Switches, Timings};
use crate::railway::limits::{Limits, Quota};
use crate::railway::notifications::Notifications;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The default branch of every repository.
pub const DEFAULT_BRANCH: &str = "main";

/// Variables of a service or a container.
pub type Variables = BTreeMap<String, String>;

/// When a thing exists and when listings show it.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Made at.
    pub created: Ms,
    /// In listings from.
    pub listed_from: Ms,
    /// Gone from; [`NEVER`] while nobody deletes it.
    pub deleted: Ms,
    /// In listings until.
    pub listed_until: Ms,
}

impl Life {
    /// Begins now; listings lag by `lag`.
    pub fn begin(now: Ms, lag: Ms) -> Self {
        Self {
            created: now,
            listed_from: now + lag,
            deleted: NEVER,
            listed_until: NEVER,
        }
    }

    /// Ends at `at`; listings lag by `lag`.
    pub fn end(&mut self, at: Ms, lag: Ms) {
        self.deleted = self.deleted.min(at);
        self.listed_until = self.listed_until.min(at + lag);
    }

    /// Exists at `now`.
    pub fn exists(&self, now: Ms) -> bool {
        self.created <= now && now < self.deleted
    }

    /// Shown by listings at `now`.
    pub fn is_listed(&self, now: Ms) -> bool {
        self.listed_from <= now && now < self.listed_until
    }
}

/// A workspace.
#[derive(Clone, Debug)]
pub struct Workspace {
    pub id: String,
    pub name: String,
    /// `FREE`, `HOBBY` or `PRO`.
    pub plan: String,
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenKind {
    /// A user's: all workspaces.
    Account,
    /// One workspace.
    Workspace(String),
    /// One environment of one project.
    Project {
        project: String,
        environment: String,
    },
}

/// A token.
#[derive(Clone, Debug)]
pub struct Token {
    pub token: String,
    pub kind: TokenKind,
    pub revoked: bool,
}

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub workspace: String,
    pub updated: Ms,
    pub life: Life,
    pub environments: Vec<String>,
    pub services: Vec<String>,
    pub volumes: Vec<String>,
}

/// An environment.
#[derive(Clone, Debug)]
pub struct Environment {
    pub id: String,
    pub name: String,
    pub project: String,
    pub ephemeral: bool,
    pub life: Life,
    pub shared: Variables,
    /// A patch is being applied until then.
    pub patching_until: Ms,
}

/// Where a service's code comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    pub image: Option<String>,
    pub repo: Option<String>,
    /// Of the repository; none: its default branch.
    pub branch: Option<String>,
}

impl Source {
    /// Nothing to deploy.
    pub fn is_empty(&self) -> bool {
        self.image.is_none() && self.repo.is_none()
    }
}

/// A service, project-wide.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: String,
    pub name: String,
    pub project: String,
    pub icon: Option<String>,
    pub updated: Ms,
    pub life: Life,
    /// Until then its instances answer as if they were not there yet (fault `fresh_not_found`).
    pub fresh_until: Ms,
}

/// A service in an environment.
#[derive(Clone, Debug)]
pub struct Instance {
    pub id: String,
    pub service: String,
    pub environment: String,
    pub updated: Ms,
    pub life: Life,
    pub source: Source,
    /// Every setting of `ServiceInstanceUpdateInput` that was ever given, but the source.
    pub settings: Map<String, Value>,
    pub variables: Variables,
    pub domains: Vec<Domain>,
    /// Newest last.
    pub deployments: Vec<String>,
    pub limits: Option<Value>,
    pub autodeploy: bool,
}

/// A service domain.
#[derive(Clone, Debug)]
pub struct Domain {
    pub id: String,
    pub domain: String,
    pub target_port: Option<i64>,
    pub created: Ms,
}

/// What a deployment copied when it was made.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub id: String,
    pub source: Source,
    pub settings: Map<String, Value>,
    pub variables: Variables,
    pub commit: Option<String>,
}

/// A deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub id: String,
    pub service: String,
    pub environment: String,
    pub project: String,
    pub created: Ms,
    pub container: String,
    pub snapshot: Snapshot,
    pub shape: Shape,
    pub timeline: Timeline,
    /// Reads of `latestDeployment` show its predecessor until then.
    pub hidden_until: Ms,
    /// The image was resolved, so `meta.imageDigest` exists.
    pub resolved: bool,
    /// The last transition that webhooks were told of.
    pub told: (Ms, Status),
}

/// A volume with its one instance, if it has any.
#[derive(Clone, Debug)]
pub struct Volume {
    pub id: String,
    pub instance_id: String,
    pub name: String,
    pub project: String,
    pub environment: Option<String>,
    pub service: Option<String>,
    pub mount_path: String,
    pub region: Option<String>,
    pub life: Life,
    /// Deleted, restorable for a while.
    pub pending_deletion: Option<Ms>,
}

/// An applied or applying patch.
#[derive(Clone, Debug)]
pub struct Patch {
    pub id: String,
    pub environment: String,
    pub message: Option<String>,
    pub created: Ms,
    pub applied: Ms,
}

/// What will happen by itself.
#[derive(Clone, Debug)]
pub enum Planned {
    /// A deployment nobody asked for.
    Deploy {
        service: String,
        environment: String,
    },
    /// Deleted outside of the operator.
    DeleteService(String),
    /// Renamed outside of the operator.
    RenameService(String, String),
    /// A volume deleted outside of the operator.
    DeleteVolumeOf(String),
    /// All domains deleted outside of the operator.
    DeleteDomainsOf(String),
    /// The service's project deleted outside of the operator.
    DeleteProjectOf(String),
}

/// The key of an instance: service and environment.
pub type InstanceKey = (String, String);

/// All of Railway.
#[derive(Default)]
pub struct Railway {
    pub workspaces: BTreeMap<String, Workspace>,
    pub tokens: Vec<Token>,
    pub projects: BTreeMap<String, Project>,
    /// Projects in order of creation.
    pub project_order: Vec<String>,
    pub environments: BTreeMap<String, Environment>,
    pub services: BTreeMap<String, Service>,
    pub instances: BTreeMap<InstanceKey, Instance>,
    pub deployments: BTreeMap<String, Deployment>,
    pub volumes: BTreeMap<String, Volume>,
    pub patches: Vec<Patch>,
    /// Host name → instance.
    pub hosts: BTreeMap<String, InstanceKey>,
    /// Hosts that ever were somebody's.
    pub planned: Vec<(Ms, Planned)>,
    pub timings: Timings,
    pub switches: Switches,
    /// Overrides the plan's quota.
    pub quota: Option<Quota>,
    pub limits: Limits,
    pub rules: Rules,
    /// Who is told of what.
    pub notifications: Notifications,
    /// Statuses outside the schema that deployments show.
    pub unknown_statuses: BTreeSet<String>,
    /// Image repositories that cannot be pulled.
    pub unresolvable: Vec<String>,
    /// Commits that do not exist.
    pub unknown_commits: BTreeSet<String>,
    /// `owner/name#branch` → the commit at its head; one that is not here has a commit made of its name.
    pub heads: BTreeMap<String, String>,
    /// Last `projectCreate`, per user.
    pub project_cooldown: BTreeMap<String, Ms>,
    /// Last `volumeCreate`, per user.
    pub volume_cooldown: Ms,
    /// Everything is blocked at the edge until then.
    pub edge_blocked_until: Ms,
}

impl Railway {
    /// The service of that name, if one exists.
    pub fn service_named(&self, project: &str, name: &str, now: Ms) -> Option<&Service> {
        let project = self.projects.get(project)?;
        project
            .services
            .iter()
            .filter_map(|id| self.services.get(id))
            .find(|s| s.name == name && s.life.exists(now))
    }

    /// Refuses a name that is taken by another service than `but`.
    pub fn check_service_name(&self, project: &str, name: &str, but: &str, now: Ms) -> Answer<()> {
        if name.is_empty() || name.chars().count() > 32 {
            return Err(bad_input("Error in name - Invalid input"));
        }
        match self.service_named(project, name, now) {
            Some(other) if other.id != but => Err(bad_input(format!(
                "A service named \"{name}\" already exists in this project"
            ))),
            _ => Ok(()),
        }
    }

    /// The environments of a project that are no forks.
    pub fn lasting_environments(&self, project: &str, now: Ms) -> Vec<String> {
        let ids = self
            .projects
            .get(project)
            .map(|p| p.environments.clone())
            .unwrap_or_default();
        ids.into_iter()
            .filter(|id| {
                let environment = self.environments.get(id);
                environment.is_some_and(|e| !e.ephemeral && e.life.exists(now))
            })
            .collect()
    }

    /// An instance that exists.
    pub fn instance(&self, service: &str, environment: &str, now: Ms) -> Option<&Instance> {
        let key = (service.to_owned(), environment.to_owned());
        self.instances.get(&key).filter(|i| i.life.exists(now))
    }

    /// All instances of a service.
    pub fn instances_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances
            .range((service.to_owned(), String::new())..)
            .take_while(move |((s, _), _)| s == service)
            .map(|(_, instance)| instance)
    }

    /// The deployments of an instance, newest first.
    pub fn deployments_of<'a>(
        &'a self,
        instance: &'a Instance,
    ) -> impl Iterator<Item = &'a Deployment> {
        instance
            .deployments
            .iter()
            .rev()
            .filter_map(|id| self.deployments.get(id))
    }

    /// `latestDeployment`: the newest that is not removed.
    pub fn latest_deployment<'a>(
        &'a self,
        instance: &'a Instance,
        now: Ms,
    ) -> Option<&'a Deployment> {
        self.deployments_of(instance)
            .filter(|d| d.hidden_until <= now)
            .find(|d| d.timeline.at(now).status != Status::Removed)
    }

    /// The deployment whose container answers for the instance.
    pub fn serving<'a>(&'a self, instance: &'a Instance, now: Ms) -> Option<&'a Deployment> {
        self.deployments_of(instance)
            .find(|d| d.timeline.at(now).status.is_live())
    }

    /// The volume attached to a service in an environment.
    pub fn volume_of(&self, service: &str, environment: &str, now: Ms) -> Vec<&Volume> {
        self.volumes
            .values()
            .filter(|v| {
                v.service.as_deref() == Some(service)
                    && v.environment.as_deref() == Some(environment)
                    && v.life.exists(now)
                    && v.pending_deletion.is_none()
            })
            .collect()
    }

    /// The quota of a workspace.
    pub fn quota_of(&self, workspace: &str) -> Quota {
        let plan = self
            .workspaces
            .get(workspace)
            .map_or("PRO", |w| w.plan.as_str());
        self.quota.unwrap_or_else(|| Quota::of_plan(plan))
    }

    /// The commit at the head of what a source names.
    pub fn head(&self, source: &Source) -> Option<String> {
        let repo = source.repo.as_ref()?;
        let branch = source.branch.as_deref().unwrap_or(DEFAULT_BRANCH);
        let name = format!("{repo}#{branch}");
        let made = || {
            let bytes = Sha256::digest(name.as_bytes());
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            hex[..40].to_owned()
        };
        Some(self.heads.get(&name).cloned().unwrap_or_else(made))
    }

    /// Whether an image reference can be pulled.
    pub fn resolves(&self, image: &str) -> bool {
        !image.contains("missing") && !self.unresolvable.iter().any(|repo| image.contains(repo))
    }
}
