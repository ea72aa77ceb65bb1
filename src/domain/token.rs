//! Tokens derived from the release's root key: no read per claim, no Secret per instance.
//!
//! `HMAC-SHA256(root key, purpose ‖ 0 ‖ id ‖ 0 ‖ n)`; n rises with each recycle and locks the last user out.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

use crate::api::names;

/// The release's root keys.
pub struct RootKey {
    current: SecretBox<[u8]>,
    previous: Option<SecretBox<[u8]>>,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The agent's own token.
    Gateway,
    /// The set-up password of the first pre-built images.
    Setup,
    /// The wallet key of the first pre-built images.
    Wallet,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Setup => "setup",
            Self::Wallet => "wallet",
        }
    }
}

impl RootKey {
    /// From the bytes of the Secret: the current key and, after a rotation, the previous one.
    pub fn new(current: Vec<u8>, previous: Option<Vec<u8>>) -> Self {
        Self {
            current: SecretBox::new(current.into_boxed_slice()),
            previous: previous.map(|p| SecretBox::new(p.into_boxed_slice())),
        }
    }

    /// The current key's fingerprint, for `status.tokenKey`.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.current)
    }

    /// The token number `n` of an instance, 64 lower-case hex digits. `key` is the fingerprint recorded with the
    /// instance; `None` where neither key has it (then nobody can know the token).
    pub fn token(
        &self,
        purpose: Purpose,
        id: &str,
        n: i64,
        key: Option<&str>,
    ) -> Option<SecretString> {
        let root = match key {
            None => &self.current,
            Some(key) if key == fingerprint(&self.current) => &self.current,
            Some(key) => self.previous.as_ref().filter(|p| key == fingerprint(p))?,
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(root.expose_secret())
            .expect("HMAC takes keys of any length");
        mac.update(purpose.word().as_bytes());
        mac.update(&[0]);
        mac.update(id.as_bytes());
        mac.update(&[0]);
        mac.update(n.to_string().as_bytes());
        Some(SecretString::from(names::hex(&mac.finalize().into_bytes())))
    }
}

fn fingerprint(key: &SecretBox<[u8]>) -> String {
    let mut tagged = b"agentpool root key\0".to_vec();
    tagged.extend_from_slice(key.expose_secret());
    names::sha256_hex(&tagged)[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(token: Option<SecretString>) -> String {
        token.unwrap().expose_secret().to_owned()
    }

    #[test]
    fn tokens_differ_by_everything_that_goes_in() {
        let key = RootKey::new(vec![1; 32], None);
        let a = text(key.token(Purpose::Gateway, "a", 1, None));
        assert_eq!(a.len(), 64);
        assert!(
            a.bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        );
        for other in [
            text(key.token(Purpose::Gateway, "a", 2, None)),
            text(key.token(Purpose::Gateway, "b", 1, None)),
            text(key.token(Purpose::Setup, "a", 1, None)),
            text(RootKey::new(vec![2; 32], None).token(Purpose::Gateway, "a", 1, None)),
        ] {
            assert_ne!(a, other);
        }
        assert_eq!(a, text(key.token(Purpose::Gateway, "a", 1, None)));
    }

    #[test]
    fn a_rotated_key_still_answers_for_its_instances() {
        let old = RootKey::new(vec![1; 32], None);
        let new = RootKey::new(vec![2; 32], Some(vec![1; 32]));
        let recorded = old.fingerprint();
        assert_eq!(
            text(old.token(Purpose::Gateway, "a", 1, None)),
            text(new.token(Purpose::Gateway, "a", 1, Some(&recorded)))
        );
        assert!(
            old.token(Purpose::Gateway, "a", 1, Some("unknown"))
                .is_none()
        );
    }
}
