//! The image registry: which digest a tag has now (instance-services.md 7).
//!
//! A token first, anonymous or by the pool's credential, then the head of the manifest. Each answers within 5 s or not
//! at all; nothing is repeated here. What is kept and for how long is the caller's.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request};
use k8s_openapi::ByteString;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::domain::image::{HOST, Refusal, Tagged, is_digest};
use crate::outbound::{Answer, Connections, Fault, Http, Outbound, SetupError};

/// For each of the two requests.
const LIMIT: Duration = Duration::from_secs(5);
/// A token is a few kilobytes.
const MAX_ANSWER: usize = 64 << 10;
/// Every kind of manifest: an index over platforms, and single ones.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// Who asks, for private images.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The user's name; this registry takes any.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

/// Why there is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The repository is there and the tag is not.
    #[error(
        "the registry has no image {0}: push it, or correct provider.railway.source.image.reference"
    )]
    NoSuchTag(Tagged),
    /// The registry does not let us look; it says the same of a repository that does not exist.
    #[error(
        "the registry refuses to show {image} ({status}): it is private or does not exist; {remedy}"
    )]
    Denied {
        /// What was asked for.
        image: Tagged,
        /// The HTTP status.
        status: u16,
        /// What to do.
        remedy: &'static str,
    },
    /// 429.
    #[error("the registry asks to wait before {image} is looked up again")]
    Throttled {
        /// What was asked for.
        image: Tagged,
        /// How long, where it says so.
        retry_after: Option<Duration>,
    },
    /// It does not answer, or not as a registry does.
    #[error("the digest of {image} cannot be looked up: {why}")]
    Unavailable {
        /// What was asked for.
        image: Tagged,
        /// In words.
        why: String,
    },
}

impl RegistryError {
    /// As decisions see it.
    pub fn refusal(&self) -> Refusal {
        Refusal {
            missing: matches!(self, Self::NoSuchTag(_)),
            message: self.to_string(),
        }
    }

    /// How long the registry asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The registry's client.
#[derive(Clone)]
pub struct Registry {
    out: Arc<dyn Outbound>,
    base: String,
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: SecretString,
}

impl Registry {
    /// The registry at that address: `https://ghcr.io`, unless `AGENTPOOL_REGISTRY_URL` says otherwise.
    pub fn new(base: &str) -> Result<Self, SetupError> {
        let out = Http::new(Connections {
            connect: LIMIT,
            idle: (1, Duration::from_secs(30)),
            http1_only: false,
            direct: false,
            body_max: MAX_ANSWER,
        })?;
        Ok(Self::over(base, Arc::new(out)))
    }

    /// The same over another way out.
    pub fn over(base: &str, out: Arc<dyn Outbound>) -> Self {
        Self {
            out,
            base: base.trim_end_matches('/').to_owned(),
        }
    }

    /// The digest that a tag has now. Two reads; may be dropped at any await.
    pub async fn digest(
        &self,
        image: &Tagged,
        credential: Option<&Credential>,
    ) -> Result<String, RegistryError> {
        let token = self.token(image, credential).await?;
        let url = format!(
            "{}/v2/{}/manifests/{}",
            self.base, image.repository, image.tag
        );
        let request = Request::builder()
            .method(Method::HEAD)
            .uri(url)
            .header(ACCEPT, MANIFESTS)
            .header(AUTHORIZATION, bearer(&token, image)?);
        let answer = self.send(request, image).await?;
        match answer.status {
            200 => header(&answer.headers, "docker-content-digest")
                .filter(|digest| is_digest(digest))
                .map(str::to_owned)
                .ok_or_else(|| unavailable(image, "the answer names no sha256 digest")),
            404 => Err(RegistryError::NoSuchTag(image.clone())),
            _ => Err(refused(image, &answer, credential.is_some())),
        }
    }

    async fn token(
        &self,
        image: &Tagged,
        credential: Option<&Credential>,
    ) -> Result<SecretString, RegistryError> {
        let repository = &image.repository;
        let url = format!(
            "{}/token?service={HOST}&scope=repository:{repository}:pull",
            self.base
        );
        let mut request = Request::builder().method(Method::GET).uri(url);
        if let Some(credential) = credential {
            request = request.header(AUTHORIZATION, basic(credential, image)?);
        }
        let answer = self.send(request, image).await?;
        if answer.status != 200 {
            return Err(refused(image, &answer, credential.is_some()));
        }
        let body = answer.body.map_err(|f| unavailable(image, words(f)))?;
        serde_json::from_slice::<Token>(&body)
            .map(|t| t.token)
            .map_err(|_| unavailable(image, "the answer is no token"))
    }

    async fn send(
        &self,
        request: hyper::http::request::Builder,
        image: &Tagged,
    ) -> Result<Answer, RegistryError> {
        let request = request
            .body(Bytes::new())
            .map_err(|_| unavailable(image, words(Fault::NotBuilt)))?;
        let answer = self.out.send(request, LIMIT).await;
        answer.map_err(|fault| unavailable(image, words(fault)))
    }
}

fn bearer(token: &SecretString, image: &Tagged) -> Result<HeaderValue, RegistryError> {
    secret_header(format!("Bearer {}", token.expose_secret()), image)
}

fn basic(credential: &Credential, image: &Tagged) -> Result<HeaderValue, RegistryError> {
    let pair = format!(
        "{}:{}",
        credential.username,
        credential.password.expose_secret()
    );
    // A ByteString's JSON is its base64.
    let encoded = serde_json::to_value(ByteString(pair.into_bytes())).unwrap_or_default();
    let encoded = encoded.as_str().unwrap_or_default();
    secret_header(format!("Basic {encoded}"), image)
}

fn secret_header(text: String, image: &Tagged) -> Result<HeaderValue, RegistryError> {
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| unavailable(image, words(Fault::NotBuilt)))?;
    value.set_sensitive(true);
    Ok(value)
}

fn refused(image: &Tagged, answer: &Answer, with_credential: bool) -> RegistryError {
    let image = image.clone();
    match answer.status {
        status @ (401 | 403) => RegistryError::Denied {
            image,
            status,
            remedy: if with_credential {
                "the Secret of source.image.credentialsSecretRef may not read it"
            } else {
                "set source.image.credentialsSecretRef"
            },
        },
        429 => RegistryError::Throttled {
            image,
            retry_after: header(&answer.headers, RETRY_AFTER.as_str())
                .and_then(|v| v.parse().ok())
                .map(Duration::from_secs),
        },
        status => unavailable(&image, &format!("it answers HTTP {status}")),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn unavailable(image: &Tagged, why: &str) -> RegistryError {
    RegistryError::Unavailable {
        image: image.clone(),
        why: why.to_owned(),
    }
}

fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::NotBuilt => "the request could not be built",
        Fault::NotConnected { .. } => "the registry cannot be reached",
        Fault::TimedOut => "the registry did not answer in time",
        Fault::Broken => "the connection broke",
        Fault::TooLarge => "the answer is too large",
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
