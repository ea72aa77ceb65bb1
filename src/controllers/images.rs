//! What pools' images are deployed as: tags are resolved at the registry, each at most once in a while for everybody.
//!
//! Of those who ask at the same time one goes to the registry and all get its answer. A digest that was resolved once
//! stays good while the registry is in trouble; a tag that is gone is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use secrecy::ExposeSecret;

use crate::api::agent_pool::{ImageSource, SecretRef};
use crate::clock::{Clock, Monotonic};
use crate::domain::image::{self, Image, Refusal, Tagged, Written};
use crate::domain::template::Template;
use crate::k8s::secret;
use crate::services::registry::{Credential, Registry};

/// The registry is asked again after a refusal at the latest after this time.
const AFTER_REFUSAL: Duration = Duration::from_secs(15);
/// However long the registry asks to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// What nobody asked for in this time is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// The keys of a Secret of type kubernetes.io/basic-auth.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";

/// A tag as somebody sees it: what a credential shows is nobody else's.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    tag: Tagged,
    secret: Option<(String, String)>,
}

#[derive(Default)]
struct Cell {
    digest: Option<String>,
    refusal: Option<Refusal>,
    good_until: Option<Monotonic>,
    used: Monotonic,
}

/// The images of all pools.
pub struct Images {
    client: Client,
    clock: Clock,
    registry: Registry,
    kept: Duration,
    cells: Mutex<HashMap<Asked, Arc<tokio::sync::Mutex<Cell>>>>,
}

impl Images {
    /// None resolved yet; a digest is used for `kept` before the registry is asked again.
    pub fn new(client: Client, clock: Clock, registry: Registry, kept: Duration) -> Self {
        Self {
            client,
            clock,
            registry,
            kept,
            cells: Mutex::default(),
        }
    }

    /// What agents of that template are deployed from now.
    pub async fn of(&self, namespace: &str, template: &Template) -> Image {
        let Some(source) = image::of(template) else {
            return Image::None;
        };
        match image::read(source) {
            Written::Final(reference) => Image::As(reference),
            Written::Illegal(message) => Image::unresolved(message),
            Written::Tag(tag) => {
                let answer = self.digest(namespace, &tag, source).await;
                image::choose(source.digest_policy, &tag, answer)
            }
        }
    }

    async fn digest(
        &self,
        namespace: &str,
        tag: &Tagged,
        source: &ImageSource,
    ) -> Result<String, Refusal> {
        let secret = source.credentials_secret_ref.as_ref();
        let cell = self.cell(Asked {
            tag: tag.clone(),
            secret: secret.map(|s| (namespace.to_owned(), s.name.clone())),
        });
        // Whoever waits here while another asks finds its answer fresh enough.
        let mut cell = cell.lock().await;
        let now = self.clock.monotonic();
        cell.used = now;
        if cell.good_until.is_none_or(|until| until <= now) {
            self.ask(&mut cell, namespace, tag, secret).await;
        }
        match (&cell.digest, &cell.refusal) {
            (Some(digest), _) => Ok(digest.clone()),
            (None, Some(refusal)) => Err(refusal.clone()),
            (None, None) => Err(Refusal {
                missing: false,
                message: format!("{tag} was not looked up"),
            }),
        }
    }

    async fn ask(
        &self,
        cell: &mut Cell,
        namespace: &str,
        tag: &Tagged,
        secret: Option<&SecretRef>,
    ) {
        let (answer, wait) = self.look_up(namespace, tag, secret).await;
        match answer {
            Ok(digest) => {
                if cell.digest.as_ref() != Some(&digest) {
                    tracing::info!(image = %tag, digest, "the tag's digest");
                }
                cell.digest = Some(digest);
                cell.refusal = None;
            }
            Err(refusal) => {
                if cell.refusal.as_ref() != Some(&refusal) {
                    tracing::warn!(image = %tag, known = cell.digest, "{}", refusal.message);
                }
                if refusal.missing {
                    cell.digest = None;
                }
                cell.refusal = Some(refusal);
            }
        }
        cell.good_until = Some(self.clock.monotonic() + wait);
    }

    /// The registry's answer, and for how long it is good.
    async fn look_up(
        &self,
        namespace: &str,
        tag: &Tagged,
        secret: Option<&SecretRef>,
    ) -> (Result<String, Refusal>, Duration) {
        let soon = self.kept.min(AFTER_REFUSAL);
        let credential = match secret {
            Some(secret) => match credential(&self.client, namespace, secret).await {
                Ok(credential) => Some(credential),
                Err(error) => {
                    let refusal = Refusal {
                        missing: false,
                        message: format!("the digest of {tag} cannot be looked up: {error}"),
                    };
                    return (Err(refusal), soon);
                }
            },
            None => None,
        };
        match self.registry.digest(tag, credential.as_ref()).await {
            Ok(digest) => (Ok(digest), self.kept),
            Err(error) => {
                let wait = error.retry_after().unwrap_or(soon).max(soon);
                (Err(error.refusal()), wait.min(LONGEST_WAIT))
            }
        }
    }

    fn cell(&self, asked: Asked) -> Arc<tokio::sync::Mutex<Cell>> {
        let now = self.clock.monotonic();
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| {
            // One that is locked is in use.
            cell.try_lock()
                .map_or(true, |c| now.saturating_sub(c.used) < FORGOTTEN)
        });
        cells
            .entry(asked)
            .or_insert_with(|| {
                Arc::new(tokio::sync::Mutex::new(Cell {
                    used: now,
                    ..Cell::default()
                }))
            })
            .clone()
    }
}

/// The credential for private images, from a Secret of type kubernetes.io/basic-auth.
pub async fn credential(
    client: &Client,
    namespace: &str,
    secret: &SecretRef,
) -> Result<Credential, secret::SecretError> {
    let [username, password] =
        secret::values(client, namespace, &secret.name, [USERNAME, PASSWORD]).await?;
    Ok(Credential {
        username: username.expose_secret().to_owned(),
        password,
    })
}
