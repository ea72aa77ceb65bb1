//! Tokens derived from the release's root key: no read per claim, no Secret per instance.
//!
//! `HMAC-SHA256(root key, purpose ‖ 0 ‖ id ‖ 0 ‖ n)`; n rises with each recycle and locks the last user out.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::api::names;

/// `status.tokenKey` of an agent that brought its token along: it is derived from nothing.
pub const IMPORTED: &str = "imported";
/// `status.tokenKey` of an agent that was imported without a token: it is called without one.
pub const NO_TOKEN: &str = "none";

/// The release's root keys, and the tokens of imported agents.
pub struct RootKey {
    current: SecretBox<[u8]>,
    previous: Option<SecretBox<[u8]>>,
    imported: BTreeMap<String, SecretString>,
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
            imported: BTreeMap::new(),
        }
    }

    /// The same with the tokens that imported agents brought along, by the name of their AgentInstance.
    #[must_use]
    pub fn with_imported(mut self, tokens: BTreeMap<String, SecretString>) -> Self {
        self.imported = tokens;
        self
    }

    /// The token that an agent brought along; no later one of it, and none for another purpose.
    fn imported(&self, purpose: Purpose, id: &str, n: i64) -> Option<SecretString> {
        let own = purpose == Purpose::Gateway && n == 1;
        own.then(|| self.imported.get(&names::object_name(id)).cloned())?
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
        if key == Some(IMPORTED) {
            return self.imported(purpose, id, n);
        }
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

    /// A digest of values of Secrets, each with its Secret's name and its key; after a space the same by the key before the
    /// last rotation, so that a rotation of the root key alone changes nothing that was recorded. Without the key nobody
    /// can try values against it.
    pub fn digests(&self, values: &[[&str; 3]]) -> String {
        let digest = |root: &SecretBox<[u8]>| {
            let mut mac = Hmac::<Sha256>::new_from_slice(root.expose_secret())
                .expect("HMAC takes keys of any length");
            for part in std::iter::once("secrets").chain(values.iter().copied().flatten()) {
                mac.update(part.as_bytes());
                mac.update(&[0]);
            }
            names::hex(&mac.finalize().into_bytes())[..12].to_owned()
        };
        let all = std::iter::once(&self.current).chain(self.previous.as_ref());
        all.map(digest).collect::<Vec<_>>().join(" ")
    }

    /// Whether `given` is the token number `n` of an instance. Takes the same time wherever they differ. Where no key is
    /// recorded with the instance (its status was lost), either may be the one.
    pub fn is_token(
        &self,
        purpose: Purpose,
        (id, n): (&str, i64),
        key: Option<&str>,
        given: &str,
    ) -> bool {
        let previous = self.previous.as_ref().map(fingerprint);
        let older = previous.filter(|_| key.is_none());
        let tokens = [
            self.token(purpose, id, n, key),
            older.and_then(|k| self.token(purpose, id, n, Some(&k))),
        ];
        let same = |token: &SecretString| token.expose_secret().as_bytes().ct_eq(given.as_bytes());
        tokens
            .iter()
            .flatten()
            .fold(Choice::from(0), |found, token| found | same(token))
            .into()
    }
}

/// What an AgentClaim's name is derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arbiter {
    /// An Idempotency-Key.
    Key,
    /// A join link.
    JoinUrl,
}

impl RootKey {
    /// The name of the AgentClaim that arbitrates a key or a link of a pool: whoever knows neither cannot guess it. The
    /// second is the name before the last rotation of the root key: what was created then is still found.
    pub fn claim_names(
        &self,
        arbiter: Arbiter,
        pool: (&str, &str),
        value: &str,
    ) -> (String, Option<String>) {
        let name = |root: &SecretBox<[u8]>| claim_name(root, arbiter, pool, value);
        (name(&self.current), self.previous.as_ref().map(name))
    }
}

fn claim_name(
    root: &SecretBox<[u8]>,
    arbiter: Arbiter,
    (namespace, pool): (&str, &str),
    value: &str,
) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(root.expose_secret())
        .expect("HMAC takes keys of any length");
    let (prefix, word) = match arbiter {
        Arbiter::Key => ('k', "idempotency-key"),
        Arbiter::JoinUrl => ('j', "join-url"),
    };
    for part in [word, namespace, pool, value] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    format!("{prefix}-{}", base32(&mac.finalize().into_bytes()))
}

/// The first 130 bits in the 26 characters of a legal name.
fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |n: usize| (bytes[n / 8] >> (7 - n % 8)) & 1;
    (0..26)
        .map(|digit| (0..5).fold(0, |value, i| value << 1 | bit(digit * 5 + i)))
        .map(|value| char::from(DIGITS[usize::from(value)]))
        .collect()
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
    fn a_digest_tells_of_each_value_and_survives_a_rotation_of_the_root_key() {
        let (old, new) = (
            RootKey::new(vec![1; 32], None),
            RootKey::new(vec![2; 32], Some(vec![1; 32])),
        );
        let values = [["s", "k", "v"], ["s", "l", "w"]];
        let was = old.digests(&values);
        assert_eq!(was.len(), 12);
        assert!(new.digests(&values).ends_with(&format!(" {was}")));
        for other in [
            [["s", "k", "x"], ["s", "l", "w"]],
            [["s", "k", "v"], ["t", "l", "w"]],
            [["s", "kv", ""], ["s", "l", "w"]],
        ] {
            assert_ne!(old.digests(&other), was);
        }
    }

    #[test]
    fn a_token_is_known_by_the_key_that_is_recorded_with_its_instance() {
        let (old, new) = (
            RootKey::new(vec![1; 32], None),
            RootKey::new(vec![2; 32], Some(vec![1; 32])),
        );
        let (older, newer) = (old.fingerprint(), new.fingerprint());
        let of = |key: &RootKey, id: &str, n| text(key.token(Purpose::Gateway, id, n, None));
        let (was, is) = (of(&old, "a", 1), of(&new, "a", 1));
        let knows =
            |key: Option<&str>, given: &str| new.is_token(Purpose::Gateway, ("a", 1), key, given);
        assert!(knows(Some(&older), &was) && knows(Some(&newer), &is));
        assert!(!knows(Some(&older), &is) && !knows(Some(&newer), &was));
        assert!(knows(None, &was) && knows(None, &is), "the status was lost");
        for bad in [
            "",
            &is[..63],
            &is.to_uppercase(),
            &of(&new, "b", 1),
            &of(&new, "a", 2),
            &format!("{is}0"),
        ] {
            for key in [None, Some(older.as_str()), Some(newer.as_str()), Some("x")] {
                assert!(!knows(key, bad), "{bad}");
            }
        }
        assert!(!knows(Some("rotated away"), &was));
    }

    #[test]
    fn an_imported_agent_has_the_token_it_brought_and_no_other() {
        let key = || RootKey::new(vec![1; 32], None);
        let object = names::object_name("rnM8UBQ_fZCz");
        let brought = BTreeMap::from([(object, SecretString::from("brought along"))]);
        let with = key().with_imported(brought);
        let of = |id, n, key| with.token(Purpose::Gateway, id, n, Some(key));
        assert_eq!(text(of("rnM8UBQ_fZCz", 1, IMPORTED)), "brought along");
        assert!(of("another", 1, IMPORTED).is_none());
        assert!(of("rnM8UBQ_fZCz", 2, IMPORTED).is_none(), "recycled since");
        assert!(of("rnM8UBQ_fZCz", 1, NO_TOKEN).is_none());
        let setup = with.token(Purpose::Setup, "rnM8UBQ_fZCz", 1, Some(IMPORTED));
        assert!(setup.is_none());
        let whose = ("rnM8UBQ_fZCz", 1);
        let knows = |given| with.is_token(Purpose::Gateway, whose, Some(IMPORTED), given);
        assert!(knows("brought along"));
        let derived = text(with.token(Purpose::Gateway, "rnM8UBQ_fZCz", 1, None));
        assert!(!knows(&derived), "one that we would have given it");
        assert!(!with.is_token(Purpose::Gateway, whose, Some(NO_TOKEN), ""));
        assert!(
            key()
                .token(Purpose::Gateway, "a", 1, Some(IMPORTED))
                .is_none()
        );
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

    #[test]
    fn a_claim_s_name_is_legal_and_differs_by_everything_that_goes_in() {
        let key = RootKey::new(vec![1; 32], None);
        let name = |arbiter, pool, value| key.claim_names(arbiter, pool, value).0;
        let a = name(Arbiter::Key, ("n", "p"), "v");
        assert_eq!(a, name(Arbiter::Key, ("n", "p"), "v"));
        assert_eq!((a.len(), &a[..2]), (28, "k-"));
        let legal = |b: u8| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b);
        assert!(a[2..].bytes().all(legal), "{a}");
        for other in [
            name(Arbiter::JoinUrl, ("n", "p"), "v"),
            name(Arbiter::Key, ("m", "p"), "v"),
            name(Arbiter::Key, ("n", "q"), "v"),
            name(Arbiter::Key, ("n", "p"), "w"),
            name(Arbiter::Key, ("np", ""), "v"),
            RootKey::new(vec![2; 32], None)
                .claim_names(Arbiter::Key, ("n", "p"), "v")
                .0,
        ] {
            assert_ne!(a[2..], other[2..], "{other}");
        }
        let rotated = RootKey::new(vec![2; 32], Some(vec![1; 32]));
        let names = rotated.claim_names(Arbiter::Key, ("n", "p"), "v");
        assert_eq!(names.1, Some(a));
    }

    #[test]
    fn base32_takes_the_leading_bits() {
        assert_eq!(base32(&[0; 17]), "a".repeat(26));
        assert_eq!(base32(&[0xff; 17]), "7".repeat(26));
        assert_eq!(&base32(&[0b0000_1000; 17])[..2], "ba");
    }
}
