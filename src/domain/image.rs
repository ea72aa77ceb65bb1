//! What a pool's image is deployed as: a tag is pinned to the digest that the registry has for it. Pure.
//!
//! Tags of `ghcr.io` are resolved. A reference by digest, or at another registry, is deployed as it is written.

use super::plan::{Class, Trouble};
use super::template::Template;
use crate::api::agent_pool::{DigestPolicy, ImageSource};
use crate::api::condition::Reason;

/// The registry whose tags are resolved.
pub const HOST: &str = "ghcr.io";
/// The key of `status.resolved` of a pool under which the image stands that its next agents get.
pub const RESOLVED: &str = "image";
/// Hex digits of a SHA-256.
const DIGEST_HEX: usize = 64;

/// A tag at [`HOST`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tagged {
    /// `owner/name`, lower case.
    pub repository: String,
    /// The tag; `latest` where none is written.
    pub tag: String,
}

impl Tagged {
    /// The reference by digest.
    pub fn at(&self, digest: &str) -> String {
        format!("{HOST}/{}@{digest}", self.repository)
    }
}

impl std::fmt::Display for Tagged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{HOST}/{}:{}", self.repository, self.tag)
    }
}

/// How an image is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Deployed like that: by digest, at another registry, or its policy is Off.
    Final(String),
    /// A tag that has to be resolved.
    Tag(Tagged),
    /// Nothing that the registry could have, in words.
    Illegal(String),
}

/// Reads a pool's image.
pub fn read(source: &ImageSource) -> Written {
    let written = source.reference.as_str();
    let bare = ["https://", "http://"]
        .iter()
        .find_map(|scheme| written.strip_prefix(scheme))
        .unwrap_or(written);
    let there = bare
        .strip_prefix(HOST)
        .and_then(|rest| rest.strip_prefix('/'));
    let (Some(path), false) = (there, bare.contains('@')) else {
        return Written::Final(bare.to_owned());
    };
    if source.digest_policy == DigestPolicy::Off {
        return Written::Final(bare.to_owned());
    }
    let (repository, tag) = path.rsplit_once(':').unwrap_or((path, "latest"));
    let part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
    let whole = repository.split('/').all(|part| !part.is_empty()) && repository.contains('/');
    let word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let named = !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(word);
    if !whole || !named || !repository.bytes().all(part) {
        return Written::Illegal(format!(
            "{written} is no image of {HOST}: write {HOST}/owner/name:tag in lower case"
        ));
    }
    Written::Tag(Tagged {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
    })
}

/// Whether a text is a digest as registries give it.
pub fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == DIGEST_HEX
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The digest in a reference, where there is one.
pub fn digest_of(reference: &str) -> Option<&str> {
    let (_, digest) = reference.split_once('@')?;
    is_digest(digest).then_some(digest)
}

/// Why a tag has no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The registry has no such tag: for certain, and whatever the policy.
    pub missing: bool,
    /// In words.
    pub message: String,
}

/// What an agent of a pool would be deployed from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// The pool has none.
    None,
    /// This: pinned where that is wanted and possible.
    As(String),
    /// Nothing may be created.
    Unresolved(Trouble),
}

impl Image {
    /// The reference to deploy.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::As(reference) => Some(reference),
            Self::None | Self::Unresolved(_) => None,
        }
    }

    /// Nothing may be created, for this reason.
    pub fn unresolved(message: String) -> Self {
        Self::Unresolved(Trouble {
            class: Class::Rejected,
            reason: Reason::DigestUnresolved,
            message,
            retry_after: None,
        })
    }
}

/// What is deployed of a tag, by the pool's policy and the registry's answer.
pub fn choose(policy: DigestPolicy, tag: &Tagged, answer: Result<String, Refusal>) -> Image {
    match answer {
        Ok(digest) => Image::As(tag.at(&digest)),
        Err(refusal) if policy == DigestPolicy::PinOrTag && !refusal.missing => {
            Image::As(tag.to_string())
        }
        Err(refusal) => Image::unresolved(refusal.message),
    }
}

/// The image of a template as it is written.
pub fn of(template: &Template) -> Option<&ImageSource> {
    template.provider.railway.as_ref()?.source.image.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(reference: &str, digest_policy: DigestPolicy) -> ImageSource {
        ImageSource {
            reference: reference.to_owned(),
            digest_policy,
            credentials_secret_ref: None,
        }
    }

    fn tag(repository: &str, tag: &str) -> Tagged {
        Tagged {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        }
    }

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    #[test]
    fn only_tags_of_the_one_registry_are_resolved() {
        let pinned = format!("ghcr.io/a/b@{}", digest('a'));
        for (written, want) in [
            ("ghcr.io/a/b:1.2", Written::Tag(tag("a/b", "1.2"))),
            ("ghcr.io/a/b", Written::Tag(tag("a/b", "latest"))),
            ("https://ghcr.io/a/b/c:x", Written::Tag(tag("a/b/c", "x"))),
            (&pinned, Written::Final(pinned.clone())),
            ("docker.io/a/b:1", Written::Final("docker.io/a/b:1".into())),
            (
                "http://r.test:5000/a/b:1",
                Written::Final("r.test:5000/a/b:1".into()),
            ),
            ("nginx:alpine", Written::Final("nginx:alpine".into())),
        ] {
            assert_eq!(
                read(&source(written, DigestPolicy::PinOrFail)),
                want,
                "{written}"
            );
        }
        let off = read(&source("ghcr.io/a/b:1", DigestPolicy::Off));
        assert_eq!(off, Written::Final("ghcr.io/a/b:1".into()));
        for illegal in [
            "ghcr.io/b:1",
            "ghcr.io/A/b:1",
            "ghcr.io/a//b",
            "ghcr.io/a/b:",
            "ghcr.io/a/b:x?y",
        ] {
            let read = read(&source(illegal, DigestPolicy::PinOrTag));
            assert!(matches!(read, Written::Illegal(_)), "{illegal}: {read:?}");
        }
    }

    #[test]
    fn the_policy_decides_about_trouble_and_a_missing_tag_is_never_deployed() {
        let tag = tag("a/b", "1");
        let refusal = |missing| Refusal {
            missing,
            message: "no".into(),
        };
        let (fail, or_tag) = (DigestPolicy::PinOrFail, DigestPolicy::PinOrTag);
        let pinned = Image::As(format!("ghcr.io/a/b@{}", digest('b')));
        for policy in [fail, or_tag] {
            assert_eq!(choose(policy, &tag, Ok(digest('b'))), pinned);
            let missing = choose(policy, &tag, Err(refusal(true)));
            assert!(matches!(missing, Image::Unresolved(_)), "{policy:?}");
        }
        let trouble = choose(fail, &tag, Err(refusal(false)));
        assert!(matches!(trouble, Image::Unresolved(_)), "{trouble:?}");
        let trouble = choose(or_tag, &tag, Err(refusal(false)));
        assert_eq!(trouble, Image::As("ghcr.io/a/b:1".into()));
    }

    #[test]
    fn a_digest_is_64_hex_digits_of_sha256() {
        assert!(is_digest(&digest('a')) && !is_digest("sha256:abc") && !is_digest(&digest('g')));
        let pinned = format!("ghcr.io/a/b@{}", digest('a'));
        assert_eq!(digest_of(&pinned), Some(&*digest('a')));
        assert_eq!(digest_of("ghcr.io/a/b:1"), None);
    }
}
