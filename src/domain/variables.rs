//! The variables of an agent: the pool's profile, the instance's own values, the pool's free ones. Pure.
//!
//! What goes in here leaves the cluster: never a provider token, a management key or another instance's secret.
//! An empty value is left out rather than sent as "".

use std::collections::BTreeMap;

use crate::api::agent_pool::{EnvProfile, RuntimeAuth, SecretKeyRef};
use crate::domain::template::{self, Template};

/// The variable that carries the owner mark on Railway.
pub const OWNER: &str = "AGENTPOOL_OWNER";
/// The port on which an agent serves.
pub const AGENT_PORT: u16 = 8080;

/// What an instance's variables are made of.
pub struct Material<'a> {
    /// The template it is built from.
    pub template: &'a Template,
    /// `spec.id`.
    pub id: &'a str,
    /// The owner mark.
    pub mark: &'a str,
    /// The agent's token; `None` where the pool has no auth.
    pub token: Option<&'a str>,
    /// The set-up password, 32 hex digits (profile Legacy).
    pub setup_password: &'a str,
    /// The wallet key, 64 hex digits (profile Legacy).
    pub wallet_key: &'a str,
    /// Base of the agents' callbacks; `None`: they make none.
    pub public_url: Option<&'a str>,
    /// The values that the pool's `runtime.env` refers to.
    pub secrets: &'a BTreeMap<SecretKey, String>,
}

/// Name and key of a Secret.
pub type SecretKey = (String, String);

/// The references whose values [`variables`] needs.
pub fn references(template: &Template) -> Vec<&SecretKeyRef> {
    template
        .runtime
        .env
        .iter()
        .filter_map(|e| e.value_from.as_ref())
        .map(|s| &s.secret_key_ref)
        .collect()
}

/// The references whose values reach an agent, the pool's shared key included.
pub fn reaching(template: &Template) -> Vec<&SecretKeyRef> {
    let runtime = &template.runtime;
    let shared = runtime.shared_key_secret_ref.as_ref();
    let shared = shared.filter(|_| runtime.auth == RuntimeAuth::Shared);
    references(template).into_iter().chain(shared).collect()
}

/// The agent's kind, by its image's name: Hermes where the name says so, else OpenClaw.
pub fn kind_of_image(reference: &str) -> &'static str {
    if reference.contains("convos-runtime-hermes") {
        "hermes"
    } else {
        "openclaw"
    }
}

/// Every variable of an agent, by name. Err: which of the pool's values cannot be used and why.
pub fn variables(m: &Material<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if !value.is_empty() {
            all.insert(name.to_owned(), value.to_owned());
        }
    };
    set(
        "XMTP_ENV",
        template::default_xmtp_env(&m.template.environment),
    );
    set("PORT", &AGENT_PORT.to_string());
    set("INSTANCE_ID", m.id);
    // With a shared token or none it could not be told from any other: its calls would only be refused.
    if m.template.runtime.auth == RuntimeAuth::Instance {
        set("POOL_URL", m.public_url.unwrap_or_default());
    }
    for name in ["GATEWAY_TOKEN", "OPENCLAW_GATEWAY_TOKEN"] {
        set(name, m.token.unwrap_or_default());
    }
    let railway = m.template.provider.railway.as_ref();
    if railway.is_some_and(|r| r.source.repository.is_some()) {
        set("GATEWAY_AUTH_TOKEN", m.token.unwrap_or_default());
        let git_ref = template::default_git_ref(&m.template.environment);
        set("OPENCLAW_GIT_REF", git_ref);
    }
    let image = railway
        .and_then(|r| r.source.image.as_ref())
        .map(|i| i.reference.as_str())
        .unwrap_or_default();
    match m.template.runtime.env_profile {
        Some(EnvProfile::Legacy) => {
            set("OPENCLAW_STATE_DIR", "/app");
            set("CHROMIUM_PATH", "/usr/bin/chromium");
            set("POOL_API_KEY", m.token.unwrap_or_default());
            set("SETUP_PASSWORD", m.setup_password);
            set("PRIVATE_WALLET_KEY", &format!("0x{}", m.wallet_key));
        }
        Some(EnvProfile::Minimal) | None => {
            set("POOL_ENVIRONMENT", &m.template.environment);
            set("DEFAULT_AGENT_NAME", "Assistant");
            set("_RUNTIME_IMAGE", image);
            set(
                "RUNTIME_TYPE",
                if image.is_empty() {
                    ""
                } else {
                    kind_of_image(image)
                },
            );
        }
    }
    for entry in &m.template.runtime.env {
        let value = match (&entry.value, &entry.value_from) {
            (Some(value), _) => value.as_str(),
            (None, Some(source)) => {
                let reference = &source.secret_key_ref;
                m.secrets
                    .get(&(reference.name.clone(), reference.key.clone()))
                    .ok_or_else(|| {
                        format!(
                            "runtime.env {}: Secret {} has no value for {}",
                            entry.name, reference.name, reference.key
                        )
                    })?
            }
            (None, None) => "",
        };
        if value.contains("${{") {
            return Err(format!(
                "runtime.env {}: the value contains ${{{{, which Railway would interpolate: remove it",
                entry.name
            ));
        }
        set(&entry.name, value);
    }
    // Last: nothing the pool says may change whose agent this is.
    set(OWNER, m.mark);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(env: serde_json::Value, profile: &str) -> Template {
        serde_json::from_value(serde_json::json!({
            "environment": "staging", "environmentCode": "stg", "namePrefix": "convos-agent",
            "provider": {"railway": {"tokenSecretRef": {"name": "t"}, "project": {"projectId": "p", "environmentId": "e"},
                "source": {"image": {"reference": "ghcr.io/xmtplabs/convos-runtime-hermes:1"}}}},
            "runtime": {"envProfile": profile, "env": env},
        }))
        .unwrap()
    }

    fn made(
        template: &Template,
        secrets: &BTreeMap<SecretKey, String>,
    ) -> Result<BTreeMap<String, String>, String> {
        variables(&Material {
            template,
            id: "abc",
            mark: "c/n/abc",
            token: Some("tok"),
            setup_password: "pw",
            wallet_key: "77",
            public_url: None,
            secrets,
        })
    }

    #[test]
    fn minimal_has_exactly_these() {
        let all = made(
            &template(serde_json::json!([]), "Minimal"),
            &BTreeMap::new(),
        )
        .unwrap();
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "AGENTPOOL_OWNER",
                "DEFAULT_AGENT_NAME",
                "GATEWAY_TOKEN",
                "INSTANCE_ID",
                "OPENCLAW_GATEWAY_TOKEN",
                "POOL_ENVIRONMENT",
                "PORT",
                "RUNTIME_TYPE",
                "XMTP_ENV",
                "_RUNTIME_IMAGE"
            ]
        );
        assert_eq!(all["RUNTIME_TYPE"], "hermes");
        assert_eq!(all["XMTP_ENV"], "dev");
    }

    #[test]
    fn legacy_has_exactly_these() {
        let all = made(&template(serde_json::json!([]), "Legacy"), &BTreeMap::new()).unwrap();
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "AGENTPOOL_OWNER",
                "CHROMIUM_PATH",
                "GATEWAY_TOKEN",
                "INSTANCE_ID",
                "OPENCLAW_GATEWAY_TOKEN",
                "OPENCLAW_STATE_DIR",
                "POOL_API_KEY",
                "PORT",
                "PRIVATE_WALLET_KEY",
                "SETUP_PASSWORD",
                "XMTP_ENV"
            ]
        );
        assert_eq!(all["PRIVATE_WALLET_KEY"], "0x77");
    }

    #[test]
    fn only_an_agent_with_a_token_of_its_own_is_told_whom_to_call() {
        let of = |auth: &str, public_url| {
            let mut template = template(serde_json::json!([]), "Minimal");
            template.runtime.auth = serde_json::from_value(serde_json::json!(auth)).unwrap();
            let all = variables(&Material {
                template: &template,
                id: "abc",
                mark: "c/n/abc",
                token: Some("tok"),
                setup_password: "pw",
                wallet_key: "77",
                public_url,
                secrets: &BTreeMap::new(),
            });
            all.unwrap().remove("POOL_URL")
        };
        let url = Some("https://pool.example");
        assert_eq!(of("Instance", url).as_deref(), url);
        assert_eq!(of("Instance", None), None);
        assert_eq!((of("Shared", url), of("None", url)), (None, None));
    }

    #[test]
    fn the_pool_s_values_win_but_never_over_the_mark() {
        let env = serde_json::json!([{"name": "XMTP_ENV", "value": "production"}, {"name": "EMPTY", "value": ""},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
        let secrets = BTreeMap::from([(("s".to_owned(), "k".to_owned()), "hidden".to_owned())]);
        let all = made(&template(env.clone(), "Minimal"), &secrets).unwrap();
        assert_eq!(
            (
                all["XMTP_ENV"].as_str(),
                all["KEY"].as_str(),
                all[OWNER].as_str()
            ),
            ("production", "hidden", "c/n/abc")
        );
        assert!(!all.contains_key("EMPTY"));
        assert!(
            made(&template(env, "Minimal"), &BTreeMap::new())
                .unwrap_err()
                .contains("Secret s")
        );
    }

    #[test]
    fn what_is_built_from_a_repository_builds_openclaw_of_its_environment() {
        let of = |environment: &str, source: serde_json::Value, env: serde_json::Value| {
            let mut template = template(env, "Minimal");
            template.environment = environment.to_owned();
            template.provider.railway.as_mut().unwrap().source =
                serde_json::from_value(source).unwrap();
            made(&template, &BTreeMap::new()).unwrap()
        };
        let repository = || serde_json::json!({"repository": {"repo": "acme/agent"}});
        let none = || serde_json::json!([]);
        assert_eq!(
            of("production", repository(), none())["OPENCLAW_GIT_REF"],
            "main"
        );
        assert_eq!(
            of("dev", repository(), none())["OPENCLAW_GIT_REF"],
            "staging"
        );
        assert_eq!(of("dev", repository(), none())["GATEWAY_AUTH_TOKEN"], "tok");
        let set = serde_json::json!([{"name": "OPENCLAW_GIT_REF", "value": "v2"}]);
        assert_eq!(of("dev", repository(), set)["OPENCLAW_GIT_REF"], "v2");
        let image = serde_json::json!({"image": {"reference": "i:1"}});
        assert!(!of("dev", image, none()).contains_key("OPENCLAW_GIT_REF"));
    }

    #[test]
    fn interpolation_is_refused() {
        let env = serde_json::json!([{"name": "X", "value": "${{shared.SECRET}}"}]);
        assert!(
            made(&template(env, "Minimal"), &BTreeMap::new())
                .unwrap_err()
                .contains("interpolate")
        );
    }
}
