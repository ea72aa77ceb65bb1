//! Service domains (railway.md 3.7).

use crate::clock::Ms;
use crate::railway::context::Cx;
use crate::railway::errors::{Answer, fail, not_authorized};
use crate::railway::model::{Domain, InstanceKey, Railway};
use crate::railway::queries::text;
use crate::rng::Random;
use serde_json::{Value, json};

const SUFFIX: &str = ".up.railway.app";

/// `domains`
pub fn list(cx: &Cx, args: &Value) -> Answer {
    cx.project(text(args, "projectId"))?;
    let instance = cx.instance(text(args, "serviceId"), text(args, "environmentId"))?;
    Ok(json!({"serviceDomains": cx.domains_json(&instance.domains), "customDomains": []}))
}

/// `serviceDomainCreate`: a second call makes a second domain.
pub fn create(cx: &Cx, args: &Value) -> Answer {
    let input = &args["input"];
    let instance = cx.instance(text(input, "serviceId"), text(input, "environmentId"))?;
    let mut world = cx.world.borrow_mut();
    let world = &mut **world;
    let railway = &mut world.railway;
    let name = railway
        .services
        .get(&instance.service)
        .map(|s| s.name.clone())
        .unwrap_or_default();
    let racing = railway
        .environments
        .get(&instance.environment)
        .is_none_or(|e| cx.now < e.patching_until);
    let key = (instance.service, instance.environment);
    let made = if racing {
        None
    } else {
        railway.add_domain(&key, &name, &mut world.rng, cx.now)
    };
    let Some(mut domain) = made else {
        return Err(fail("Failed to create service domain, please try again"));
    };
    domain.target_port = input["targetPort"].as_i64();
    let last = railway
        .instances
        .get_mut(&key)
        .and_then(|i| i.domains.last_mut());
    if let Some(last) = last {
        last.target_port = domain.target_port;
    }
    cx.touched.borrow_mut().push(key.0);
    Ok(cx.domain_json(&domain))
}

impl Railway {
    /// Adds a domain named after service and environment; none if its label gets too long.
    pub fn add_domain(
        &mut self,
        key: &InstanceKey,
        name: &str,
        rng: &mut Random,
        now: Ms,
    ) -> Option<Domain> {
        let environment = self.environments.get(&key.1).map(|e| e.name.clone())?;
        let mut label = format!("{name}-{environment}").to_lowercase();
        let holder = self
            .hosts
            .get(&format!("{label}{SUFFIX}"))
            .and_then(|k| self.instances.get(k));
        if holder.is_some_and(|i| i.life.exists(now)) {
            label = format!("{label}-{}", rng.hex(4));
        }
        if label.len() > 63 {
            return None;
        }
        let domain = Domain {
            id: rng.uuid(),
            domain: format!("{label}{SUFFIX}"),
            target_port: None,
            created: now,
        };
        self.hosts.insert(domain.domain.clone(), key.clone());
        self.instances.get_mut(key)?.domains.push(domain.clone());
        Some(domain)
    }
}

/// `serviceDomainDelete`
pub fn delete(cx: &Cx, args: &Value) -> Answer {
    cx.scope()?;
    let id = text(args, "id");
    let found = {
        let world = cx.world.borrow();
        let mut all = world.railway.instances.values();
        all.find(|i| i.domains.iter().any(|d| d.id == id))
            .map(|i| (i.service.clone(), i.environment.clone()))
    };
    let key = found.ok_or_else(not_authorized)?;
    cx.instance(&key.0, &key.1)?;
    let mut world = cx.world.borrow_mut();
    let railway = &mut world.railway;
    if let Some(instance) = railway.instances.get_mut(&key) {
        for gone in instance.domains.iter().filter(|d| d.id == id) {
            railway.hosts.remove(&gone.domain);
        }
        instance.domains.retain(|d| d.id != id);
    }
    Ok(true.into())
}
