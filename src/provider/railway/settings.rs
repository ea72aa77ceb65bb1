//! What a template says of a service, in Railway's fields. Pure.

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::api::agent_pool::{Railway, RailwayLimits, RepositorySource, RestartPolicy};
use crate::domain::template::Template;
use crate::provider::Inputs;

/// What a service is deployed from.
pub(super) fn source(template: &Template, inputs: &Inputs) -> Value {
    let railway = template.provider.railway.as_ref();
    let written = railway.and_then(|r| r.source.image.as_ref());
    let image = inputs.image.as_deref();
    json!({ "image": image.or(written.map(|i| i.reference.as_str())) })
}

/// Every setting that a deployment copies. Replicas, restarts and sleep are always sent: nothing is to depend on the
/// platform's defaults, and `numReplicas` tells later that the settings are ours.
pub(super) fn settings(template: &Template, inputs: &Inputs) -> Value {
    let mut input = json!({
        "numReplicas": 1,
        "restartPolicyType": "ON_FAILURE",
        "restartPolicyMaxRetries": 10,
        "sleepApplication": false,
    });
    if let Some(railway) = &template.provider.railway {
        of_pool(railway, &mut input);
    }
    // A repository is connected, not set.
    if super::steps::repository(template).is_none() {
        input["source"] = source(template, inputs);
    }
    if let Some((username, password)) = &inputs.registry {
        let password = password.expose_secret();
        input["registryCredentials"] = json!({ "username": username, "password": password });
    }
    input
}

fn of_pool(railway: &Railway, input: &mut Value) {
    input["sleepApplication"] = railway.sleep.into();
    input["restartPolicyType"] = match railway.restart_policy {
        RestartPolicy::OnFailure => "ON_FAILURE",
        RestartPolicy::Always => "ALWAYS",
        RestartPolicy::Never => "NEVER",
    }
    .into();
    input["restartPolicyMaxRetries"] = railway.restart_retries.into();
    if let Some(command) = &railway.start_command {
        input["startCommand"] = command.as_str().into();
    }
    if let Some(check) = &railway.health_check {
        input["healthcheckPath"] = check.path.as_str().into();
        input["healthcheckTimeout"] = check.timeout_seconds.into();
    }
    let repository = railway.source.repository.as_ref();
    if let Some(directory) = repository.and_then(|r| r.root_directory.as_ref()) {
        input["rootDirectory"] = directory.as_str().into();
    }
    // `region` alone has no effect.
    if let Some(region) = &railway.region {
        input["multiRegionConfig"] = json!({ region.as_str(): { "numReplicas": 1 } });
    }
}

/// The repository to be connected.
pub(super) fn repository(repository: &RepositorySource) -> Value {
    let mut input = json!({ "repo": repository.repo });
    if let Some(branch) = &repository.branch {
        input["branch"] = branch.as_str().into();
    }
    input
}

/// The limits of a service's container, where the pool has some.
pub(super) fn limits(template: &Template, environment: &str, service: &str) -> Option<Value> {
    let RailwayLimits {
        cpu_millis,
        memory_megabytes,
    } = template.provider.railway.as_ref()?.limits?;
    let mut input = json!({ "environmentId": environment, "serviceId": service });
    if let Some(cpu) = cpu_millis {
        input["vCPUs"] = (f64::from(cpu) / 1000.0).into();
    }
    if let Some(memory) = memory_megabytes {
        input["memoryGB"] = (f64::from(memory) / 1000.0).into();
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(railway: Value) -> Template {
        let mut all = json!({"tokenSecretRef": {"name": "t"}, "project": {"projectId": "p", "environmentId": "e"}});
        for (key, value) in railway.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let template = json!({"environment": "staging", "environmentCode": "stg", "namePrefix": "a", "runtime": {}, "provider": {"railway": all}});
        serde_json::from_value(template).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn without_settings_only_what_must_not_depend_on_defaults_is_sent() {
        let template = template(json!({"source": {"image": {"reference": "i:1"}}}));
        let want = json!({"source": {"image": "i:1"}, "numReplicas": 1, "restartPolicyType": "ON_FAILURE",
            "restartPolicyMaxRetries": 10, "sleepApplication": false});
        assert_eq!(settings(&template, &Inputs::default()), want);
        assert_eq!(limits(&template, "E", "S"), None);
    }

    #[test]
    fn every_setting_has_its_field() {
        let template = template(json!({
            "source": {"image": {"reference": "i:1"}}, "startCommand": "run", "sleep": true, "region": "us-west2",
            "restartPolicy": "Never", "restartRetries": 3, "healthCheck": {"path": "/pool/health", "timeoutSeconds": 60},
            "limits": {"cpuMillis": 500, "memoryMegabytes": 4000},
        }));
        let inputs = Inputs {
            image: Some("i@sha256:1".into()),
            registry: Some(("bot".into(), "PAT".to_owned().into())),
            ..Inputs::default()
        };
        let want = json!({"source": {"image": "i@sha256:1"}, "numReplicas": 1, "restartPolicyType": "NEVER",
            "restartPolicyMaxRetries": 3, "sleepApplication": true, "startCommand": "run",
            "healthcheckPath": "/pool/health", "healthcheckTimeout": 60,
            "multiRegionConfig": {"us-west2": {"numReplicas": 1}},
            "registryCredentials": {"username": "bot", "password": "PAT"}});
        assert_eq!(settings(&template, &inputs), want);
        let want = json!({"environmentId": "E", "serviceId": "S", "vCPUs": 0.5, "memoryGB": 4.0});
        assert_eq!(limits(&template, "E", "S"), Some(want));
    }

    #[test]
    fn a_repository_is_connected_and_not_set() {
        let source = json!({"repository": {"repo": "acme/agent", "branch": "next", "rootDirectory": "/runtime"}});
        let template = template(json!({ "source": source }));
        let input = settings(&template, &Inputs::default());
        assert!(input["source"].is_null(), "{input}");
        assert_eq!(input["rootDirectory"], "/runtime");
        let connected = super::super::steps::repository(&template).map(repository);
        assert_eq!(
            connected,
            Some(json!({"repo": "acme/agent", "branch": "next"}))
        );
    }
}
