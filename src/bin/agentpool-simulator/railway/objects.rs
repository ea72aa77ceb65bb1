//! Objects of the schema as JSON: what a thing looks like from outside at one moment.

use crate::clock::{Ms, NEVER};
use crate::railway::context::Cx;
use crate::railway::deploy::Status;
use crate::railway::model::{
    DEFAULT_BRANCH, Deployment, Domain, Environment, Instance, Life, Project, Service, Volume,
};
use serde_json::{Map, Value, json};

/// The largest page.
const MAX_PAGE: usize = 500;
/// The page when nobody says how large; unverified at Railway, so smaller than any fleet.
const DEFAULT_PAGE: usize = 50;

impl Cx<'_> {
    fn deleted_at(&self, life: &Life) -> Value {
        // While a listing lags, it shows the thing as it was.
        if life.deleted < NEVER && life.deleted <= self.now && !life.is_listed(self.now) {
            self.stamp(life.deleted).into()
        } else {
            Value::Null
        }
    }

    /// `Workspace`.
    pub fn workspace_json(&self, id: &str) -> Value {
        let world = self.world.borrow();
        let Some(workspace) = world.railway.workspaces.get(id) else {
            return Value::Null;
        };
        let count = world
            .railway
            .projects
            .values()
            .filter(|p| p.workspace == id && p.life.exists(self.now))
            .count();
        json!({
            "id": workspace.id, "name": workspace.name, "plan": workspace.plan,
            "preferredRegion": "us-west2", "projectCount": count,
            "subscriptionPlanLimit": plan_limit(&workspace.plan),
            "apiTokenRateLimit": self.rate_limit_of(&world.railway, id),
        })
    }

    fn rate_limit_of(&self, railway: &crate::railway::model::Railway, workspace: &str) -> Value {
        let quota = railway.quota_of(workspace);
        let (left, resets) = railway.limits.remaining(workspace, quota, self.now);
        json!({"remainingPoints": left, "resetsAt": self.stamp(resets)})
    }

    /// `Project`; its connections are resolved apart.
    pub fn project_json(&self, p: &Project) -> Value {
        let world = self.world.borrow();
        let plan = world
            .railway
            .workspaces
            .get(&p.workspace)
            .map_or("PRO", |w| w.plan.as_str());
        json!({
            "id": p.id, "name": p.name, "description": p.description, "workspaceId": p.workspace,
            "createdAt": self.stamp(p.life.created), "updatedAt": self.stamp(p.updated),
            "deletedAt": self.deleted_at(&p.life), "primaryEnvironmentId": p.environments.first(),
            "subscriptionType": plan.to_lowercase(), "subscriptionPlanLimit": plan_limit(plan),
        })
    }

    /// `Environment`; its connections are resolved apart.
    pub fn environment_json(&self, e: &Environment) -> Value {
        json!({
            "id": e.id, "name": e.name, "projectId": e.project, "isEphemeral": e.ephemeral,
            "createdAt": self.stamp(e.life.created), "deletedAt": self.deleted_at(&e.life),
        })
    }

    /// `Service`.
    pub fn service_json(&self, s: &Service) -> Value {
        json!({
            "id": s.id, "name": s.name, "projectId": s.project, "icon": s.icon,
            "createdAt": self.stamp(s.life.created), "updatedAt": self.stamp(s.updated),
            "deletedAt": self.deleted_at(&s.life),
        })
    }

    /// `ServiceInstance`; its deployments are resolved apart.
    pub fn instance_json(&self, i: &Instance) -> Value {
        let world = self.world.borrow();
        let name = world
            .railway
            .services
            .get(&i.service)
            .map_or("", |s| s.name.as_str());
        let text = |key: &str| match i.settings.get(key) {
            Some(Value::String(s)) if s.is_empty() => Value::Null,
            Some(value) => value.clone(),
            None => Value::Null,
        };
        let or = |key: &str, default: Value| match text(key) {
            Value::Null => default,
            value => value,
        };
        let source =
            (!i.source.is_empty()).then(|| json!({"image": i.source.image, "repo": i.source.repo}));
        let mut fields = json!({
            "id": i.id, "serviceId": i.service, "environmentId": i.environment, "serviceName": name,
            // Milliseconds after the service's own (railway.md 3.9).
            "createdAt": self.stamp(i.life.created + 2), "updatedAt": self.stamp(i.updated),
            "deletedAt": self.deleted_at(&i.life), "isUpdatable": false, "source": source,
            "builder": or("builder", "RAILPACK".into()), "restartPolicyType": or("restartPolicyType", "ON_FAILURE".into()),
            "restartPolicyMaxRetries": or("restartPolicyMaxRetries", 10.into()), "region": Value::Null,
            "sleepApplication": or("sleepApplication", false.into()), "watchPatterns": or("watchPatterns", json!([])),
            "upstreamUrl": Value::Null,
            "domains": {"customDomains": [], "serviceDomains": self.domains_json(&i.domains)},
        });
        for key in [
            "rootDirectory",
            "startCommand",
            "buildCommand",
            "dockerfilePath",
            "preDeployCommand",
            "railwayConfigFile",
            "healthcheckPath",
            "healthcheckTimeout",
            "numReplicas",
            "cronSchedule",
            "overlapSeconds",
            "drainingSeconds",
        ] {
            fields[key] = text(key);
        }
        fields
    }

    /// Service domains, newest first.
    pub fn domains_json(&self, domains: &[Domain]) -> Vec<Value> {
        domains.iter().rev().map(|d| self.domain_json(d)).collect()
    }

    /// `ServiceDomain`.
    pub fn domain_json(&self, d: &Domain) -> Value {
        json!({
            "id": d.id, "domain": d.domain, "targetPort": d.target_port, "syncStatus": "ACTIVE",
            "createdAt": self.stamp(d.created), "deletedAt": Value::Null,
        })
    }

    /// `Deployment`.
    pub fn deployment_json(&self, d: &Deployment) -> Value {
        let world = self.world.borrow();
        let state = d.timeline.at(self.now);
        let key = (d.service.clone(), d.environment.clone());
        let host = world
            .railway
            .instances
            .get(&key)
            .and_then(|i| i.domains.last())
            .map(|x| x.domain.clone());
        let status = d
            .shape
            .unknown_status
            .as_deref()
            .unwrap_or(state.status.name());
        let instances: Vec<Value> = state
            .container
            .iter()
            .map(|c| json!({"id": d.container, "status": c}))
            .collect();
        let updated = d.timeline.status_updated_at(self.now);
        let settled = !state.status.in_progress();
        json!({
            "id": d.id, "status": status, "statusUpdatedAt": updated.map(|at| self.stamp(at)),
            "createdAt": self.stamp(d.created), "updatedAt": self.stamp(updated.unwrap_or(d.created)),
            "serviceId": d.service, "environmentId": d.environment, "projectId": d.project,
            "deploymentStopped": state.stopped, "canRedeploy": settled && state.status != Status::Skipped,
            "canRollback": d.timeline.success_at().is_some_and(|at| at <= self.now),
            "snapshotId": (state.status != Status::Skipped).then_some(&d.snapshot.id), "url": Value::Null,
            "suggestAddServiceDomain": host.is_none(), "staticUrl": host, "meta": meta(d),
            "diagnosis": Value::Null, "instances": instances,
        })
    }

    /// `VolumeInstance`.
    pub fn volume_instance_json(&self, v: &Volume) -> Value {
        json!({
            "id": v.instance_id, "volumeId": v.id, "serviceId": v.service, "environmentId": v.environment,
            "mountPath": v.mount_path, "state": "READY", "region": v.region, "sizeMB": 50_000, "currentSizeMB": 12.0,
            "createdAt": self.stamp(v.life.created), "deletedAt": v.pending_deletion.map(|at| self.stamp(at)),
            "isPendingDeletion": v.pending_deletion.is_some(), "volume": self.volume_json(v),
        })
    }

    /// `Volume`.
    pub fn volume_json(&self, v: &Volume) -> Value {
        json!({"id": v.id, "name": v.name, "projectId": v.project, "createdAt": self.stamp(v.life.created)})
    }
}

fn plan_limit(plan: &str) -> Value {
    let (volumes, cpu) = match plan {
        "FREE" => (1, 2),
        "HOBBY" => (10, 8),
        _ => (20, 24),
    };
    json!({"containers": {"cpu": cpu, "memoryBytes": i64::from(cpu) * 1_000_000_000}, "volumes": {"maxCount": volumes}})
}

fn meta(d: &Deployment) -> Value {
    let source = &d.snapshot.source;
    let mut meta = Map::new();
    if let Some(image) = &source.image {
        meta.insert("image".to_owned(), image.clone().into());
        if d.resolved {
            let digest = image
                .split_once('@')
                .map_or_else(|| digest_of(image), |(_, d)| d.to_owned());
            meta.insert("imageDigest".to_owned(), digest.into());
        }
    }
    if let Some(repo) = &source.repo {
        meta.insert("repo".to_owned(), repo.clone().into());
        let branch = source.branch.as_deref().unwrap_or(DEFAULT_BRANCH);
        meta.insert("branch".to_owned(), branch.into());
        let commit = d.snapshot.commit.clone().unwrap_or_else(|| "0".repeat(40));
        meta.insert("commitHash".to_owned(), commit.into());
    }
    let deploy: Map<String, Value> = d.snapshot.settings.clone();
    meta.insert(
        "serviceManifest".to_owned(),
        json!({"build": {}, "deploy": deploy}),
    );
    meta.insert("logsV2".to_owned(), true.into());
    Value::Object(meta)
}

fn digest_of(image: &str) -> String {
    use sha2::{Digest, Sha256};
    let bytes = Sha256::digest(image.as_bytes());
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// One item of a connection: its moment and id make the cursor. Its node is made for the page that shows it.
pub struct Item<N> {
    /// When it was made; the order of a listing.
    pub at: Ms,
    /// Its id.
    pub id: String,
    /// Makes the node.
    pub node: N,
}

/// A page of a Relay connection: `items` in listing order.
pub fn connection<N: FnOnce() -> Value>(items: Vec<Item<N>>, args: &Value) -> Value {
    let position = |name: &str| {
        args[name].as_str().map(|cursor| {
            let wanted = decoded(cursor);
            let is = |i: &Item<N>| {
                wanted
                    .as_ref()
                    .is_some_and(|(at, id)| i.at == *at && i.id == *id)
            };
            items.iter().position(is)
        })
    };
    // A cursor whose item has gone meanwhile: go on behind everything that is older than it.
    let start = match position("after") {
        Some(Some(i)) => i + 1,
        Some(None) => after_lost(&items, args["after"].as_str().unwrap_or_default()),
        None => 0,
    };
    let end = match position("before") {
        Some(Some(i)) => i,
        _ => items.len(),
    };
    let size = |name: &str| args[name].as_u64().map(|n| (n as usize).min(MAX_PAGE));
    let (mut from, mut to) = (start.min(items.len()), end.max(start.min(items.len())));
    match (size("first"), size("last")) {
        (Some(first), _) => to = to.min(from + first),
        (None, Some(last)) => from = from.max(to.saturating_sub(last)),
        (None, None) => to = to.min(from + DEFAULT_PAGE),
    }
    let total = items.len();
    let edges: Vec<Value> = items
        .into_iter()
        .take(to)
        .skip(from)
        .map(|item| json!({"cursor": cursor(item.at, &item.id), "node": (item.node)()}))
        .collect();
    let ends = |edge: Option<&Value>| edge.map(|e| e["cursor"].clone()).unwrap_or_default();
    let info = json!({
        "startCursor": ends(edges.first()), "endCursor": ends(edges.last()),
        "hasNextPage": to < total, "hasPreviousPage": from > 0,
    });
    json!({"edges": edges, "pageInfo": info})
}

fn cursor(at: Ms, id: &str) -> String {
    format!("{at}:{id}")
        .bytes()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn decoded(cursor: &str) -> Option<(Ms, String)> {
    let byte = |i: usize| u8::from_str_radix(cursor.get(2 * i..2 * i + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..cursor.len() / 2).map(byte).collect();
    let text = String::from_utf8(bytes?).ok()?;
    let (at, id) = text.split_once(':')?;
    Some((at.parse().ok()?, id.to_owned()))
}

fn after_lost<N>(items: &[Item<N>], cursor: &str) -> usize {
    let at = decoded(cursor).map_or(Ms::MIN, |(at, _)| at);
    let descending = items.len() > 1 && items[0].at > items[items.len() - 1].at;
    let is_before = |i: &&Item<N>| if descending { i.at >= at } else { i.at <= at };
    items.iter().take_while(is_before).count()
}

#[cfg(test)]
mod tests {
    use super::{Item, connection};
    use serde_json::{Value, json};

    fn items(n: i64) -> Vec<Item<impl FnOnce() -> Value>> {
        let item = |i| Item {
            at: i,
            id: format!("id{i}"),
            node: move || json!({"n": i}),
        };
        (0..n).map(item).collect()
    }

    fn numbers(page: &Value) -> Vec<i64> {
        page["edges"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e["node"]["n"].as_i64())
            .collect()
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let first = connection(items(5), &json!({"first": 2}));
        assert_eq!(numbers(&first), [0, 1]);
        let second = connection(
            items(5),
            &json!({"first": 2, "after": first["pageInfo"]["endCursor"]}),
        );
        assert_eq!(numbers(&second), [2, 3]);
        assert_eq!(second["pageInfo"]["hasPreviousPage"], true);
        let third = connection(
            items(5),
            &json!({"first": 2, "after": second["pageInfo"]["endCursor"]}),
        );
        assert_eq!(numbers(&third), [4]);
        assert_eq!(third["pageInfo"]["hasNextPage"], false);
    }

    #[test]
    fn only_the_nodes_of_the_page_are_made() {
        let made = std::cell::Cell::new(0);
        let item = |at| Item {
            at,
            id: String::new(),
            node: || {
                made.set(made.get() + 1);
                json!({})
            },
        };
        connection((0..1000).map(item).collect(), &json!({"first": 10}));
        assert_eq!(made.get(), 10);
    }

    #[test]
    fn a_lost_cursor_does_not_start_over_and_zero_is_an_empty_page() {
        let page = connection(items(5), &json!({"first": 2}));
        let mut rest = items(5);
        rest.remove(1);
        assert_eq!(
            numbers(&connection(
                rest,
                &json!({"after": page["pageInfo"]["endCursor"]})
            )),
            [2, 3, 4]
        );
        assert!(numbers(&connection(items(5), &json!({"first": 0}))).is_empty());
        assert_eq!(numbers(&connection(items(5), &json!({"last": 2}))), [3, 4]);
    }
}
