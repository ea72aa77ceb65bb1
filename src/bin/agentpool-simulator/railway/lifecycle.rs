//! What the operations do to the model: create, deploy, delete. Pure but for ids from the seed and
//! the ledger; the time is a parameter.

use crate::clock::Ms;
use crate::ledger::Ledger;
use crate::railway::deploy::{Shape, Status, Timeline};
use crate::railway::errors::{Answer, fail};
use crate::railway::model::{
    Deployment, Instance, InstanceKey, Life, Railway, Service, Snapshot, Source, Variables,
};
use crate::rng::Random;
use serde_json::Map;

/// The variable that names the owner of a service.
pub const OWNER: &str = "AGENTPOOL_OWNER";

/// The model with what changing it needs.
pub struct Hands<'a> {
    /// The model.
    pub railway: &'a mut Railway,
    /// Ids.
    pub rng: &'a mut Random,
    /// What exists and existed.
    pub ledger: &'a mut Ledger,
    /// The moment of the operation.
    pub now: Ms,
    /// The operation's root field, for the ledger.
    pub by: &'a str,
}

/// What a new service is made of.
pub struct NewService {
    /// Its id; empty: a new one.
    pub id: String,
    /// Its project.
    pub project: String,
    /// Its name, already checked.
    pub name: String,
    /// In which environments.
    pub environments: Vec<String>,
    /// Image or repository.
    pub source: Source,
    /// Variables of every instance.
    pub variables: Variables,
}

impl Hands<'_> {
    /// Makes a service with its instances. Deploys nothing.
    pub fn create_service(&mut self, new: NewService) -> String {
        let id = if new.id.is_empty() {
            self.rng.uuid()
        } else {
            new.id
        };
        let lag = self.railway.timings.ms("list_lag_create");
        let life = Life::begin(self.now, lag);
        for environment in &new.environments {
            let instance = Instance {
                id: self.rng.uuid(),
                service: id.clone(),
                environment: environment.clone(),
                updated: self.now,
                life,
                source: new.source.clone(),
                settings: Map::new(),
                variables: new.variables.clone(),
                domains: Vec::new(),
                deployments: Vec::new(),
                limits: None,
                autodeploy: new.source.repo.is_some(),
            };
            self.railway
                .instances
                .insert((id.clone(), environment.clone()), instance);
        }
        let owner = new.variables.get(OWNER).cloned();
        self.ledger
            .created("service", (&id, &new.name), owner, self.by, self.now);
        if let Some(project) = self.railway.projects.get_mut(&new.project) {
            project.services.push(id.clone());
        }
        let service = Service {
            id: id.clone(),
            name: new.name,
            project: new.project,
            icon: None,
            updated: self.now,
            life,
            fresh_until: 0,
        };
        self.railway.services.insert(id.clone(), service);
        id
    }

    /// Makes a deployment from the instance's present source, settings and variables.
    pub fn deploy(
        &mut self,
        key: &InstanceKey,
        commit: Option<String>,
        shape: &Shape,
    ) -> Answer<String> {
        let Some(instance) = self.railway.instances.get(key) else {
            return Err(fail("ServiceInstance not found"));
        };
        if instance.source.is_empty() {
            return Err(fail("Problem processing request"));
        }
        let snapshot = Snapshot {
            id: String::new(),
            source: instance.source.clone(),
            settings: instance.settings.clone(),
            variables: instance.variables.clone(),
            commit: commit.or_else(|| self.railway.head(&instance.source)),
        };
        self.deploy_snapshot(key, snapshot, shape)
    }

    /// Makes a deployment from a given snapshot; the platform's own variables are filled in anew.
    pub fn deploy_snapshot(
        &mut self,
        key: &InstanceKey,
        mut snapshot: Snapshot,
        shape: &Shape,
    ) -> Answer<String> {
        let id = self.rng.uuid();
        snapshot.id = self.rng.uuid();
        snapshot.variables = self.railway.rendered(key, &snapshot.variables, self.now);
        let region = snapshot
            .settings
            .get("region")
            .and_then(|r| r.as_str())
            .unwrap_or("us-west2");
        for (name, value) in [
            ("RAILWAY_DEPLOYMENT_ID", id.clone()),
            ("RAILWAY_SNAPSHOT_ID", snapshot.id.clone()),
            ("RAILWAY_REPLICA_ID", self.rng.uuid()),
            ("RAILWAY_REPLICA_REGION", region.to_owned()),
        ] {
            snapshot.variables.insert(name.to_owned(), value);
        }
        let shape = self.shape_of(key, &snapshot, shape);
        let timeline = Timeline::plan(self.now, &shape, &self.railway.timings);
        let project = self
            .railway
            .services
            .get(&key.0)
            .map(|s| s.project.clone())
            .unwrap_or_default();
        let deployment = Deployment {
            id: id.clone(),
            service: key.0.clone(),
            environment: key.1.clone(),
            project,
            created: self.now,
            container: self.rng.uuid(),
            resolved: !shape.unresolvable && shape.fail_at.as_deref() != Some("pull"),
            snapshot,
            shape,
            timeline,
            hidden_until: 0,
            told: (self.now, Status::Initializing),
        };
        self.railway.deployments.insert(id.clone(), deployment);
        if let Some(instance) = self.railway.instances.get_mut(key) {
            instance.deployments.push(id.clone());
        }
        self.ledger.deployed(&key.0, &id);
        self.railway.supersede(key, &id, self.now);
        Ok(id)
    }

    fn shape_of(&self, key: &InstanceKey, snapshot: &Snapshot, given: &Shape) -> Shape {
        let image = snapshot.source.image.as_deref();
        let volumes = self.railway.volume_of(&key.0, &key.1, self.now).len();
        let mut shape = given.clone();
        shape.repo = snapshot.source.repo.is_some();
        shape.unresolvable |= image.is_some_and(|image| !self.railway.resolves(image));
        let path = snapshot
            .settings
            .get("healthcheckPath")
            .and_then(|p| p.as_str());
        shape.healthcheck = path.is_some_and(|p| !p.is_empty());
        if volumes > 1 && shape.fail_at.is_none() {
            // Two volumes on one service break its deploys (railway.md 1.5).
            shape.fail_at = Some("start".to_owned());
        }
        shape
    }

    /// Deletes a service: it is gone after `takes`, its name is free then.
    pub fn delete_service(&mut self, id: &str, takes: Ms) {
        let at = self.now + takes;
        let lag = self.railway.timings.ms("list_lag_delete");
        let Some(service) = self.railway.services.get_mut(id) else {
            return;
        };
        service.life.end(at, lag);
        let keys: Vec<InstanceKey> = self
            .railway
            .instances_of(id)
            .map(|i| (i.service.clone(), i.environment.clone()))
            .collect();
        for key in &keys {
            self.delete_instance(key, at, lag);
        }
        for volume in self.railway.volumes.values_mut() {
            if volume.service.as_deref() == Some(id) {
                volume.service = None;
            }
        }
        self.ledger.deleted(id, at);
    }

    /// Deletes one instance of a service.
    pub fn delete_instance(&mut self, key: &InstanceKey, at: Ms, lag: Ms) {
        let Some(instance) = self.railway.instances.get_mut(key) else {
            return;
        };
        instance.life.end(at, lag);
        for id in &instance.deployments {
            if let Some(deployment) = self.railway.deployments.get_mut(id) {
                deployment.timeline.end(at);
            }
        }
    }

    /// Deletes a project with all that is in it.
    pub fn delete_project(&mut self, id: &str) {
        let lag = self.railway.timings.ms("list_lag_delete");
        let Some(project) = self.railway.projects.get_mut(id) else {
            return;
        };
        project.life.end(self.now, lag);
        let (services, volumes) = (project.services.clone(), project.volumes.clone());
        for environment in project.environments.clone() {
            if let Some(environment) = self.railway.environments.get_mut(&environment) {
                environment.life.end(self.now, lag);
            }
        }
        for service in services {
            self.delete_service(&service, 0);
        }
        for volume in volumes {
            if let Some(volume) = self.railway.volumes.get_mut(&volume) {
                volume.life.end(self.now, lag);
            }
            self.ledger.deleted(&volume, self.now);
        }
        self.ledger.deleted(id, self.now);
    }
}

impl Railway {
    /// Lets the newest deployment replace the others: those in progress go at once, the one that
    /// serves goes when its successor is up.
    pub fn supersede(&mut self, key: &InstanceKey, newest: &str, now: Ms) {
        let Some(success) = self
            .deployments
            .get(newest)
            .map(|d| d.timeline.success_at())
        else {
            return;
        };
        let ids = self
            .instances
            .get(key)
            .map(|i| i.deployments.clone())
            .unwrap_or_default();
        for id in ids.iter().filter(|id| *id != newest) {
            let Some(old) = self.deployments.get_mut(id) else {
                continue;
            };
            if old.timeline.at(now).status.in_progress() {
                old.timeline.remove(now, self.timings.ms("removed"));
                self.take_back(key, id, now);
            }
        }
        let Some(success) = success else { return };
        for id in ids.iter().filter(|id| *id != newest) {
            let Some(old) = self.deployments.get_mut(id) else {
                continue;
            };
            if old.timeline.at(now).status.is_live() {
                old.timeline.supersede(now, success, newest, &self.timings);
            }
        }
    }

    /// A deployment will not reach SUCCESS after all: the older one stays.
    pub fn take_back(&mut self, key: &InstanceKey, cause: &str, now: Ms) {
        let ids = self
            .instances
            .get(key)
            .map(|i| i.deployments.clone())
            .unwrap_or_default();
        for id in ids {
            if let Some(deployment) = self.deployments.get_mut(&id) {
                deployment.timeline.take_back(now, cause);
            }
        }
    }

    /// Own variables with references resolved, and those the platform provides.
    pub fn rendered(&self, key: &InstanceKey, own: &Variables, now: Ms) -> Variables {
        let empty = Variables::new();
        let shared = self.environments.get(&key.1).map_or(&empty, |e| &e.shared);
        let mut all: Variables = own
            .iter()
            .map(|(name, value)| (name.clone(), resolve(value, own, shared)))
            .collect();
        all.extend(self.provided(key, now));
        all
    }

    fn provided(&self, key: &InstanceKey, now: Ms) -> Variables {
        let mut vars = Variables::new();
        let mut put = |name: &str, value: &str| vars.insert(name.to_owned(), value.to_owned());
        if let Some(service) = self.services.get(&key.0) {
            put("RAILWAY_SERVICE_ID", &service.id);
            put("RAILWAY_SERVICE_NAME", &service.name);
            put(
                "RAILWAY_PRIVATE_DOMAIN",
                &format!("{}.railway.internal", service.name),
            );
            put("RAILWAY_PROJECT_ID", &service.project);
            if let Some(project) = self.projects.get(&service.project) {
                put("RAILWAY_PROJECT_NAME", &project.name);
            }
        }
        if let Some(environment) = self.environments.get(&key.1) {
            put("RAILWAY_ENVIRONMENT_ID", &environment.id);
            put("RAILWAY_ENVIRONMENT_NAME", &environment.name);
            put("RAILWAY_ENVIRONMENT", &environment.name);
        }
        if let Some(domain) = self.instances.get(key).and_then(|i| i.domains.last()) {
            put("RAILWAY_PUBLIC_DOMAIN", &domain.domain);
        }
        if let Some(volume) = self.volume_of(&key.0, &key.1, now).first() {
            put("RAILWAY_VOLUME_NAME", &volume.name);
            put("RAILWAY_VOLUME_MOUNT_PATH", &volume.mount_path);
        }
        vars
    }
}

/// Resolves `${{KEY}}` and `${{shared.KEY}}`; anything else becomes empty.
fn resolve(value: &str, own: &Variables, shared: &Variables) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${{") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once("}}") else {
            out.push_str("${{");
            rest = after;
            continue;
        };
        let name = name.trim();
        let found = match name.strip_prefix("shared.") {
            Some(key) => shared.get(key),
            None => own.get(name),
        };
        out.push_str(found.map_or("", String::as_str));
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{Variables, resolve};

    #[test]
    fn references_are_resolved_at_deploy() {
        let own = Variables::from([("A".into(), "1".into())]);
        let shared = Variables::from([("B".into(), "2".into())]);
        assert_eq!(
            resolve("x${{A}}-${{ shared.B }}-${{Other.C}}.", &own, &shared),
            "x1-2-."
        );
        assert_eq!(resolve("open ${{A", &own, &shared), "open ${{A");
    }
}
