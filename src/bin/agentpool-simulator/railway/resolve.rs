//! Which resolver answers which field: the routing table of the executor.

use crate::railway::context::Cx;
use crate::railway::errors::Answer;
use crate::railway::{
    deployments, domains, notifications, projects, queries, services, settings, variables, volumes,
};
use serde_json::{Map, Value};

/// The answer of a field that needs a look-up; `None`: it is part of its object, or not simulated.
pub fn field(
    cx: &Cx,
    ty: &str,
    object: &Map<String, Value>,
    name: &str,
    args: &Value,
) -> Option<Answer> {
    match ty {
        "Query" => query(cx, name, args),
        "Mutation" => mutation(cx, name, args),
        _ => queries::relation(cx, ty, object, name, args),
    }
}

fn query(cx: &Cx, name: &str, args: &Value) -> Option<Answer> {
    Some(match name {
        "apiToken" => queries::api_token(cx),
        "projectToken" => queries::project_token(cx),
        "me" => queries::me(cx),
        "workspace" => queries::workspace(cx, args),
        "projects" => queries::projects(cx, args),
        "project" => queries::project(cx, args),
        "projectsByIds" => queries::projects_by_ids(cx, args),
        "environments" => queries::environments(cx, args),
        "environment" => queries::environment(cx, args),
        "service" => queries::service(cx, args),
        "serviceInstance" => queries::service_instance(cx, args),
        "regions" => queries::regions(cx),
        "domains" => domains::list(cx, args),
        "variables" => variables::read(cx, args),
        "serviceInstanceLimits" => settings::limits(cx, args),
        "serviceInstanceLimitOverride" => settings::limit_override(cx, args),
        "serviceInstanceAutoDeployStatus" => settings::autodeploy_status(cx, args),
        "environmentPatches" => settings::patches(cx, args),
        "deployment" => deployments::read(cx, args),
        "deployments" => deployments::list(cx, args),
        "deploymentEvents" => deployments::events(cx, args),
        "deploymentLogs" => deployments::logs(cx, args),
        "buildLogs" => deployments::build_logs(cx, args),
        "volumeInstance" => volumes::read(cx, args),
        "notificationRules" => notifications::list(cx, args),
        "usage" => queries::usage(cx, args),
        "estimatedUsage" => queries::estimated_usage(cx, args),
        "metrics" => queries::metrics(cx, args),
        _ => return None,
    })
}

fn mutation(cx: &Cx, name: &str, args: &Value) -> Option<Answer> {
    Some(match name {
        "projectCreate" => projects::create(cx, args),
        "projectUpdate" => projects::update(cx, args),
        "projectDelete" => projects::delete(cx, args),
        "projectTokenCreate" => projects::token_create(cx, args),
        "serviceCreate" => services::create(cx, args),
        "serviceUpdate" => services::update(cx, args),
        "serviceDelete" => services::delete(cx, args),
        "serviceConnect" => services::connect(cx, args),
        "serviceDisconnect" => services::disconnect(cx, args),
        "serviceInstanceUpdate" => settings::update(cx, args),
        "serviceInstanceLimitsUpdate" => settings::limits_update(cx, args),
        "serviceInstanceAutoDeployUpdate" => settings::autodeploy_update(cx, args),
        "environmentPatchCommit" => settings::patch_commit(cx, args),
        "serviceDomainCreate" => domains::create(cx, args),
        "serviceDomainDelete" => domains::delete(cx, args),
        "variableUpsert" => variables::upsert(cx, args),
        "variableCollectionUpsert" => variables::collection_upsert(cx, args),
        "variableDelete" => variables::delete(cx, args),
        "serviceInstanceDeployV2" => deployments::deploy(cx, args),
        "serviceInstanceDeploy" => deployments::deploy(cx, args).map(|_| true.into()),
        "environmentTriggersDeploy" => deployments::deploy(cx, &args["input"]).map(|_| true.into()),
        "serviceInstanceRedeploy" => deployments::redeploy_instance(cx, args),
        "deploymentRedeploy" => deployments::redeploy(cx, args),
        "deploymentRollback" => deployments::rollback(cx, args),
        "deploymentStop" => deployments::stop(cx, args),
        "deploymentRestart" => deployments::restart(cx, args),
        "deploymentCancel" => deployments::cancel(cx, args),
        "deploymentRemove" => deployments::remove(cx, args),
        "deploymentApprove" => deployments::approve(cx, args),
        "notificationRuleCreate" => notifications::create(cx, args),
        "notificationRuleUpdate" => notifications::update(cx, args),
        "notificationRuleDelete" => notifications::delete(cx, args),
        "volumeCreate" => volumes::create(cx, args),
        "volumeDelete" => volumes::delete(cx, args),
        "volumeInstanceUpdate" => volumes::update(cx, args),
        _ => return None,
    })
}
