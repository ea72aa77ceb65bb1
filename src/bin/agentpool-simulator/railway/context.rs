//! One request's view of the world: who asks, what they may see, and look-ups that answer with
//! Railway's errors.

use crate::clock::{Clock, Ms};
use crate::railway::effects::Effects;
use crate::railway::errors::{Answer, Fail, fail, not_authorized, not_found};
use crate::railway::lifecycle::Hands;
use crate::railway::model::{Deployment, Environment, Instance, Project, Service, TokenKind};
use crate::world::World;
use std::cell::{Cell, RefCell};

/// Which header carried the token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Header {
    None,
    Bearer,
    Project,
}

impl Header {
    /// For the log.
    pub fn name(self) -> &'static str {
        match self {
            Header::None => "none",
            Header::Bearer => "bearer",
            Header::Project => "project",
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The header used.
    pub header: Header,
    /// The token as sent.
    pub token: String,
    /// What the token opens under this header; none: nothing.
    pub scope: Option<TokenKind>,
}

/// The context of one execution. The world is locked for its whole duration.
pub struct Cx<'w> {
    /// The world.
    pub world: RefCell<&'w mut World>,
    /// For timestamps.
    pub clock: &'w Clock,
    /// The one moment of this execution.
    pub now: Ms,
    /// Who asks.
    pub caller: &'w Caller,
    /// Faults that fired.
    pub effects: &'w Effects,
    /// How long the answer takes, from what was done.
    pub delay: Cell<Ms>,
    /// Services made or changed by this request.
    pub touched: RefCell<Vec<String>>,
}

impl Cx<'_> {
    /// RFC 3339.
    pub fn stamp(&self, at: Ms) -> String {
        self.clock.stamp(at)
    }

    /// Runs `work` with the model and what changing it needs.
    pub fn with_hands<T>(&self, by: &str, work: impl FnOnce(&mut Hands) -> T) -> T {
        let mut world = self.world.borrow_mut();
        let world: &mut World = &mut world;
        work(&mut Hands {
            railway: &mut world.railway,
            rng: &mut world.rng,
            ledger: &mut world.ledger,
            now: self.now,
            by,
        })
    }

    /// Takes `takes` of the caller's time.
    pub fn takes(&self, takes: Ms) {
        self.delay.set(self.delay.get() + takes);
    }

    /// The scope, or Not Authorized.
    pub fn scope(&self) -> Answer<TokenKind> {
        self.caller.scope.clone().ok_or_else(not_authorized)
    }

    /// Only tokens that are not confined to a project.
    pub fn unconfined(&self) -> Answer<TokenKind> {
        match self.scope()? {
            TokenKind::Project { .. } => Err(not_authorized()),
            scope => Ok(scope),
        }
    }

    /// Whether the token sees a workspace.
    pub fn sees_workspace(&self, workspace: &str) -> bool {
        match &self.caller.scope {
            Some(TokenKind::Account) => true,
            Some(TokenKind::Workspace(own)) => own == workspace,
            _ => false,
        }
    }

    /// Whether the token sees a project.
    pub fn sees_project(&self, project: &Project) -> bool {
        match &self.caller.scope {
            Some(TokenKind::Project { project: own, .. }) => *own == project.id,
            _ => self.sees_workspace(&project.workspace),
        }
    }

    fn sees_environment(&self, id: &str) -> bool {
        match &self.caller.scope {
            Some(TokenKind::Project { environment, .. }) => environment == id,
            _ => true,
        }
    }

    /// A project that exists and may be seen.
    pub fn project(&self, id: &str) -> Answer<Project> {
        self.scope()?;
        let world = self.world.borrow();
        let project = world
            .railway
            .projects
            .get(id)
            .ok_or_else(|| not_found("Project"))?;
        if !self.sees_project(project) {
            return Err(not_authorized());
        }
        if !project.life.exists(self.now) {
            return Err(not_found("Project"));
        }
        Ok(project.clone())
    }

    /// An environment that exists and may be seen.
    pub fn environment(&self, id: &str) -> Answer<Environment> {
        self.scope()?;
        let found = self.world.borrow().railway.environments.get(id).cloned();
        let environment = found.ok_or_else(|| not_found("Environment"))?;
        self.project(&environment.project)?;
        if !self.sees_environment(id) {
            return Err(not_authorized());
        }
        if !environment.life.exists(self.now) {
            return Err(not_found("Environment"));
        }
        Ok(environment)
    }

    /// A service that exists and may be seen; `missing` is the answer when there is none.
    pub fn service_or(&self, id: &str, missing: Fail) -> Answer<Service> {
        self.scope()?;
        let found = self.world.borrow().railway.services.get(id).cloned();
        let Some(service) = found.filter(|s| s.life.exists(self.now)) else {
            return Err(missing);
        };
        self.project(&service.project)?;
        Ok(service)
    }

    /// A service that exists and may be seen.
    pub fn service(&self, id: &str) -> Answer<Service> {
        self.service_or(id, not_found("Service"))
    }

    /// An instance that exists, may be seen and is not hidden by `fresh_not_found`.
    pub fn instance(&self, service: &str, environment: &str) -> Answer<Instance> {
        self.environment(environment)?;
        let found = self.service_or(service, not_found("ServiceInstance"))?;
        if self.now < found.fresh_until {
            let odd = self.world.borrow_mut().rng.chance(0.5);
            return Err(if odd {
                not_found("ServiceInstance")
            } else {
                fail("Problem processing request")
            });
        }
        let world = self.world.borrow();
        let instance = world.railway.instance(service, environment, self.now);
        instance
            .cloned()
            .ok_or_else(|| not_found("ServiceInstance"))
    }

    /// A deployment whose service still exists and that may be seen.
    pub fn deployment(&self, id: &str) -> Answer<Deployment> {
        self.scope()?;
        let found = self.world.borrow().railway.deployments.get(id).cloned();
        let deployment = found.ok_or_else(|| not_found("Deployment"))?;
        self.project(&deployment.project)?;
        if !self.sees_environment(&deployment.environment) {
            return Err(not_authorized());
        }
        Ok(deployment)
    }
}
