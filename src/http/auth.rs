//! The API key: a bearer check in constant time over fixed-length digests, with keys that change at run time.

use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The keys that are accepted. Cheap to clone; clones see the same keys.
#[derive(Clone)]
pub struct ApiKeys {
    mode: Arc<Mode>,
}

enum Mode {
    /// Digests of the accepted keys.
    Keys(RwLock<Vec<[u8; 32]>>),
    /// Everybody may do everything: for development only.
    Insecure,
}

impl ApiKeys {
    /// Accepts one key. White space around it is not part of it, because Secrets are often made with a line's end; an
    /// empty key is never accepted.
    pub fn new(key: &SecretString) -> Self {
        let keys = Self {
            mode: Arc::new(Mode::Keys(RwLock::new(vec![]))),
        };
        keys.replace(std::slice::from_ref(key));
        keys
    }

    /// Accepts every call, with any key or none.
    pub fn insecure() -> Self {
        Self {
            mode: Arc::new(Mode::Insecure),
        }
    }

    /// Accepts these keys from now on, and no others. Does nothing where every call is accepted.
    pub fn replace(&self, keys: &[SecretString]) {
        if let Mode::Keys(held) = &*self.mode {
            let digests = keys
                .iter()
                .map(|k| k.expose_secret().trim())
                .filter(|k| !k.is_empty())
                .map(digest)
                .collect();
            *held.write().unwrap_or_else(PoisonError::into_inner) = digests;
        }
    }

    /// Whether the request carries an accepted key. Every key is compared, whichever matches.
    pub fn accepts(&self, headers: &HeaderMap) -> bool {
        let Mode::Keys(held) = &*self.mode else {
            return true;
        };
        let Some(given) = bearer(headers) else {
            return false;
        };
        let given = digest(given);
        let held = held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&given))
            .into()
    }
}

/// The credential of `Authorization: Bearer`, the scheme in any case, any run of spaces after it.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.trim_start().split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    /// About: D16, N09
    #[test]
    fn the_header_is_read_leniently_and_the_key_exactly() {
        let keys = ApiKeys::new(&"s3cret\n".into());
        for good in [
            "Bearer s3cret",
            "bearer s3cret",
            "BEARER    s3cret",
            "Bearer \t s3cret",
            "Bearer s3cret ",
        ] {
            assert!(keys.accepts(&with(good)), "{good:?}");
        }
        for bad in [
            "",
            "s3cret",
            "Bearer",
            "Bearer ",
            "Bearers3cret",
            "Basic s3cret",
            "Bearer s3cre",
            "Bearer s3cret2",
            "Bearer S3CRET",
            "Bearer s3cret s3cret",
        ] {
            assert!(!keys.accepts(&with(bad)), "{bad:?}");
        }
        assert!(!keys.accepts(&HeaderMap::new()));
    }

    /// About: E02
    #[test]
    fn keys_rotate_in_every_clone() {
        let keys = ApiKeys::new(&"old".into());
        let clone = keys.clone();
        keys.replace(&["new".into(), "old".into()]);
        assert!(clone.accepts(&with("Bearer old")) && clone.accepts(&with("Bearer new")));
        keys.replace(&["new".into()]);
        assert!(!clone.accepts(&with("Bearer old")) && clone.accepts(&with("Bearer new")));
    }

    #[test]
    fn an_empty_key_opens_nothing() {
        for key in ["", "  \n"] {
            assert!(
                !ApiKeys::new(&key.into()).accepts(&with("Bearer ")),
                "{key:?}"
            );
        }
        assert!(ApiKeys::insecure().accepts(&HeaderMap::new()));
    }
}
