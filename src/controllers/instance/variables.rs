//! What an agent is given: its variables, its token, the pool's shared key. Secrets stay in here and in what is sent.

use std::time::Duration;

use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};

use super::super::Ctx;
use super::super::images;
use super::deployed;
use super::observe::Surroundings;
use crate::api::agent_instance::AgentInstance;
use crate::api::agent_pool::RuntimeAuth;
use crate::api::condition::Reason;
use crate::domain::image;
use crate::domain::plan::{Class, Trouble};
use crate::domain::template::Template;
use crate::domain::token::{IMPORTED, NO_TOKEN, Purpose};
use crate::domain::variables::{self, Material};
use crate::k8s::{config_map, secret};
use crate::provider::{Inputs, PROJECT_STEP, STEP_SETUP};

/// The finished variables of an agent, its secrets included.
pub(super) async fn inputs(
    object: &AgentInstance,
    around: &Surroundings,
    step: &str,
    ctx: &Ctx,
) -> Result<Inputs, Trouble> {
    let Some(template) = &around.template else {
        return Ok(Inputs::default());
    };
    let namespace = object.namespace().unwrap_or_default();
    let rejected = |reason, message| Trouble {
        class: Class::Rejected,
        reason,
        message,
        retry_after: None,
    };
    let mut secrets = std::collections::BTreeMap::new();
    for reference in variables::references(template) {
        let value = secret::value(&ctx.client, &namespace, reference)
            .await
            .map_err(|e| missing(&e))?;
        secrets.insert(
            (reference.name.clone(), reference.key.clone()),
            value.expose_secret().to_owned(),
        );
    }
    let token = token(object, template, ctx).await?;
    let derived = |purpose| {
        ctx.root_keys
            .get()
            .and_then(|k| k.token(purpose, &object.spec.id, 1, None))
            .ok_or_else(|| rejected(Reason::InternalError, "no root key".to_owned()))
    };
    let (setup, wallet) = (derived(Purpose::Setup)?, derived(Purpose::Wallet)?);
    let variables = variables::variables(&Material {
        template,
        id: &object.spec.id,
        mark: &around.key.mark,
        token: token.as_ref().map(ExposeSecret::expose_secret),
        setup_password: &setup.expose_secret()[..32],
        wallet_key: wallet.expose_secret(),
        public_url: ctx.public_url.as_deref(),
        secrets: &secrets,
    })
    .map_err(|message| rejected(Reason::InvalidSpec, message))?;
    let private = image::of(template).and_then(|i| i.credentials_secret_ref.as_ref());
    let registry = match private {
        Some(secret) => {
            let read = images::credential(&ctx.client, &namespace, secret).await;
            let credential = read.map_err(|e| missing(&e))?;
            Some((credential.username, credential.password))
        }
        None => None,
    };
    Ok(Inputs {
        variables,
        image: deployed(object, around),
        registry,
        setup_script: if step == STEP_SETUP {
            setup_script(template, &namespace, ctx).await?
        } else {
            None
        },
        extra_tokens: if step == PROJECT_STEP {
            extra_tokens(template, &namespace, around, ctx).await?
        } else {
            vec![]
        },
    })
}

/// The further tokens for creating projects, one to a line of their Secret.
async fn extra_tokens(
    template: &Template,
    namespace: &str,
    around: &Surroundings,
    ctx: &Ctx,
) -> Result<Vec<SecretString>, Trouble> {
    let railway = template.provider.railway.as_ref();
    let Some(reference) = railway.and_then(|r| r.extra_tokens_secret_ref.as_ref()) else {
        return Ok(vec![]);
    };
    let all = secret::value(&ctx.client, namespace, reference)
        .await
        .map_err(|e| Trouble {
            class: Class::Transient,
            reason: Reason::CredentialsMissing,
            message: e.to_string(),
            retry_after: Some(Duration::from_secs(10)),
        })?;
    if let (true, Some(pool)) = (
        ctx.fleet.is_rotated(namespace, reference, &all),
        around.pool.as_ref(),
    ) {
        let name = &reference.name;
        let note = format!("Secret {name} has other tokens: they are used from now on");
        ctx.events
            .publish(pool.as_ref(), false, Reason::SecretRotated, "Rotate", &note)
            .await;
    }
    let lines = all.expose_secret().lines().map(str::trim);
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(|line| line.to_owned().into())
        .collect())
}

/// The pool's own set-up script, from its ConfigMap.
async fn setup_script(
    template: &Template,
    namespace: &str,
    ctx: &Ctx,
) -> Result<Option<String>, Trouble> {
    let Some(setup) = template
        .provider
        .sprites
        .as_ref()
        .and_then(|s| s.setup.as_ref())
    else {
        return Ok(None);
    };
    let script = config_map::value(&ctx.client, namespace, &setup.script_config_map_ref).await;
    script.map(Some).map_err(|e| Trouble {
        class: Class::Transient,
        reason: match e {
            config_map::ConfigMapError::Missing(_) => Reason::InvalidSpec,
            config_map::ConfigMapError::Api(_) => Reason::ProviderUnavailable,
        },
        message: e.to_string(),
        retry_after: Some(Duration::from_secs(10)),
    })
}

/// The agent's token by its template's auth.
pub(in crate::controllers) async fn token(
    object: &AgentInstance,
    template: &Template,
    ctx: &Ctx,
) -> Result<Option<SecretString>, Trouble> {
    match template.runtime.auth {
        RuntimeAuth::None => Ok(None),
        RuntimeAuth::Shared => shared_key(object, template, ctx).await,
        RuntimeAuth::Instance => {
            let status = object.status.as_ref();
            let n = status.and_then(|s| s.token_seq).unwrap_or(1);
            let key = status.and_then(|s| s.token_key.as_deref());
            if key == Some(NO_TOKEN) {
                return Ok(None);
            }
            let id = &object.spec.id;
            let token = ctx.root_keys.token(Purpose::Gateway, id, n, key).await;
            token.map(Some).ok_or_else(|| Trouble {
                class: Class::Unauthorized,
                reason: Reason::CredentialsMissing,
                message: if key == Some(IMPORTED) {
                    "the agent brought a token along that is no longer in the Secret of imported tokens: import its row again"
                } else {
                    "the root key that this agent's token derives from is no longer in the root key Secret: put it back as `previous`"
                }
                .to_owned(),
                retry_after: None,
            })
        }
    }
}

pub(in crate::controllers) async fn shared_key(
    object: &AgentInstance,
    template: &Template,
    ctx: &Ctx,
) -> Result<Option<SecretString>, Trouble> {
    let Some(reference) = &template.runtime.shared_key_secret_ref else {
        return Ok(None);
    };
    let namespace = object.namespace().unwrap_or_default();
    secret::value(&ctx.client, &namespace, reference)
        .await
        .map(Some)
        .map_err(|e| missing(&e))
}

/// A Secret cannot be read: a person puts it there, and it is looked for again.
fn missing(error: &secret::SecretError) -> Trouble {
    Trouble {
        class: Class::Unauthorized,
        reason: Reason::CredentialsMissing,
        message: error.to_string(),
        retry_after: Some(Duration::from_secs(10)),
    }
}
