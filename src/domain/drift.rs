//! Drift: whether an instance is what its pool would build now. Pure.
//!
//! Told by the template's hash, which covers neither the operator's version nor the values of Secrets, and by the image's
//! digest where both are known. A change never reaches a running agent by itself: it makes it drifted.

use crate::api::condition::Reason;
use crate::api::{AgentInstance, AgentPool};
use crate::domain::image;

/// In what an instance differs from what its pool would build now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drift {
    /// The pool's template was changed since.
    Template,
    /// The same template's image is another one now: its tag was moved.
    Image,
    /// Secrets that its variables come from have other values now.
    Secrets,
}

impl Drift {
    /// The Ready condition's reason of an idle agent that drifted.
    pub fn reason(self) -> Reason {
        match self {
            Self::Template => Reason::TemplateChanged,
            Self::Image => Reason::ImageChanged,
            Self::Secrets => Reason::SecretRotated,
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Template => "built from an earlier template of its pool",
            Self::Image => "built from an earlier image than its tag names now",
            Self::Secrets => "built with earlier values of its pool's Secrets",
        }
    }
}

/// What a pool would build now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present<'a> {
    /// The ControllerRevision of its present template.
    revision: &'a str,
    /// The digest of the image, where it is pinned.
    digest: Option<&'a str>,
    /// The digests of the Secrets' values, one for each root key that is known.
    secrets: Option<&'a str>,
}

/// The key in `status.resolved` of the digests of the Secrets' values.
pub const RESOLVED_SECRETS: &str = "secrets";

impl<'a> Present<'a> {
    /// Of a template's ControllerRevision, `<pool>-<hash>`, and the image that was resolved.
    pub fn new(revision: &'a str, image: Option<&'a str>) -> Self {
        Self {
            revision,
            digest: image.and_then(image::digest_of),
            secrets: None,
        }
    }

    /// With the digests of the values of its Secrets.
    #[must_use]
    pub fn with_secrets(self, secrets: Option<&'a str>) -> Self {
        Self { secrets, ..self }
    }

    /// As the pool's status records it; `None` where no template is recorded yet.
    pub fn of_pool(pool: &'a AgentPool) -> Option<Self> {
        let status = pool.status.as_ref()?;
        let resolved = |key| status.resolved.get(key).map(String::as_str);
        let present = Self::new(status.revision.as_deref()?, resolved(image::RESOLVED));
        Some(present.with_secrets(resolved(RESOLVED_SECRETS)))
    }
}

/// What an instance records of digests: the one by the present root key.
pub fn recorded(digests: &str) -> String {
    let (present, _) = digests.split_once(' ').unwrap_or((digests, ""));
    present.to_owned()
}

/// Whether an instance is not what its pool would build now.
pub fn drift(instance: &AgentInstance, present: &Present<'_>) -> Option<Drift> {
    // By the hash, not by the name: an instance may have come from another pool's revision.
    let hash = present.revision.rsplit_once('-').map(|(_, hash)| hash);
    if hash != Some(instance.spec.template.hash.as_str()) {
        return Some(Drift::Template);
    }
    match (deployed_digest(instance), present.digest) {
        (Some(deployed), Some(wanted)) if deployed != wanted => return Some(Drift::Image),
        _ => {}
    }
    match (secrets(instance), present.secrets) {
        (Some(built), Some(now)) if !now.split(' ').any(|d| d == built) => Some(Drift::Secrets),
        _ => None,
    }
}

/// Of the values it got last: when it was restored, else when it was built.
fn secrets(instance: &AgentInstance) -> Option<&str> {
    let provider = instance.status.as_ref().and_then(|s| s.provider.as_ref());
    let restored = provider.and_then(|p| p.secrets.as_deref());
    restored.or(instance.spec.template.secrets.as_deref())
}

/// As it was decided before the first step, else as it was recorded.
fn deployed_digest(instance: &AgentInstance) -> Option<&str> {
    let wanted = instance.spec.template.image.as_deref();
    wanted.and_then(image::digest_of).or_else(|| {
        let provider = instance.status.as_ref()?.provider.as_ref()?;
        let pinned = provider.image_digest.as_deref();
        pinned.or_else(|| image::digest_of(provider.image.as_deref()?))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(hash: &str, provider: serde_json::Value) -> AgentInstance {
        serde_json::from_value(json!({
            "apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance", "metadata": {"name": "a"},
            "spec": {"id": "a", "poolRef": {"name": "p-1"}, "providerName": "n", "turn": 1,
                "template": {"revision": format!("p-1-{hash}"), "hash": hash}},
            "status": {"provider": provider},
        }))
        .unwrap()
    }

    #[test]
    fn a_template_drifts_by_its_hash_and_an_image_by_its_digest() {
        let none = json!({});
        let of = |hash, provider: &serde_json::Value, image: Option<&str>| {
            drift(
                &instance(hash, provider.clone()),
                &Present::new("p-1-aa", image),
            )
        };
        let [one, two] = ["1", "2"].map(|d| format!("sha256:{}", d.repeat(64)));
        let (at_one, at_two) = (format!("i@{one}"), format!("i@{two}"));
        assert_eq!(of("aa", &none, None), None);
        assert_eq!(of("bb", &none, None), Some(Drift::Template));
        assert_eq!(of("bb", &none, Some(&at_one)), Some(Drift::Template));
        let pinned = json!({"image": "i:1", "imageDigest": one});
        let written = json!({"image": at_one});
        for provider in [&pinned, &written] {
            assert_eq!(of("aa", provider, Some(&at_one)), None);
            assert_eq!(of("aa", provider, Some(&at_two)), Some(Drift::Image));
        }
        // What is not known drifts from nothing.
        let tag = json!({"image": "i:1"});
        for (provider, image) in [
            (&tag, Some("i@sha256:2")),
            (&pinned, None),
            (&pinned, Some("i:1")),
        ] {
            assert_eq!(of("aa", provider, image), None, "{provider} {image:?}");
        }
    }

    #[test]
    fn rotated_values_drift_and_a_rotated_root_key_does_not() {
        let of = |built: Option<&str>, now: Option<&str>| {
            let mut instance = instance("aa", json!({}));
            instance.spec.template.secrets = built.map(str::to_owned);
            drift(&instance, &Present::new("p-1-aa", None).with_secrets(now))
        };
        assert_eq!(of(Some("one"), Some("one")), None);
        assert_eq!(of(Some("one"), Some("two")), Some(Drift::Secrets));
        assert_eq!(of(Some("one"), Some("by-the-new-key one")), None);
        assert_eq!(
            of(Some("one"), Some("two by-the-old-key")),
            Some(Drift::Secrets)
        );
        // What was restored got the values of then.
        let restored = |values: &str, now| {
            let mut instance = instance("aa", json!({"secrets": values}));
            instance.spec.template.secrets = Some("one".to_owned());
            drift(
                &instance,
                &Present::new("p-1-aa", None).with_secrets(Some(now)),
            )
        };
        assert_eq!(restored("two", "two"), None);
        assert_eq!(restored("two", "three"), Some(Drift::Secrets));
        for (built, now) in [(None, Some("two")), (Some("one"), None), (None, None)] {
            assert_eq!(
                of(built, now),
                None,
                "what is not known drifts from nothing"
            );
        }
    }
}
