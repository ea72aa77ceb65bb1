//! Ids, object names, provider-side names and label values that are always legal.
//!
//! Rules of the design's section 2: an id is 12 of `0-9a-z`; the object is called like the id where that is a
//! legal name; the provider-side name is `<prefix>-<code>-<id>` and at most 32 characters, Railway's limit; the
//! owner mark is what proves that a resource is ours.

use sha2::{Digest, Sha256};

/// Length of the ids we generate.
pub const ID_LENGTH: usize = 12;
/// The characters of the ids we generate: legal at every provider and in Kubernetes.
pub const ID_ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// The longest provider-side name: Railway's limit for services and projects.
pub const PROVIDER_NAME_MAX: usize = 32;
/// The longest slug of an agent's name in a provider-side name.
pub const SLUG_MAX: usize = 14;
/// Prefix of provider-side names unless the pool says otherwise.
pub const DEFAULT_NAME_PREFIX: &str = "convos-agent";

/// Makes an id of [`ID_LENGTH`] characters out of random bytes; needs at least that many.
///
/// The bytes are reduced modulo 36; the slight bias is of no consequence for an id.
pub fn id_from_bytes(bytes: &[u8; ID_LENGTH]) -> String {
    bytes
        .iter()
        .map(|b| char::from(ID_ALPHABET[usize::from(*b) % ID_ALPHABET.len()]))
        .collect()
}

/// The id of the instance that answers a claim, where a pool wants one for each: the same for the same claim.
pub fn replacement_id(claim_id: &str) -> String {
    let digest = Sha256::digest(format!("replaces/{claim_id}").as_bytes());
    let mut bytes = [0; ID_LENGTH];
    bytes.copy_from_slice(&digest[..ID_LENGTH]);
    id_from_bytes(&bytes)
}

/// The name of the AgentInstance object for an id: the id itself where legal, else `i-` and 10 hex of its SHA-256.
///
/// Legal is a DNS-1123 label, so that the name may also serve as a label value and in host names.
pub fn object_name(id: &str) -> String {
    if is_dns_label(id) {
        id.to_owned()
    } else {
        format!("i-{}", &sha256_hex(id.as_bytes())[..10])
    }
}

/// The code of an environment in provider-side names; `None` where the environment has none of its own and
/// `spec.environmentCode` is required.
pub fn known_environment_code(environment: &str) -> Option<&'static str> {
    match environment {
        "dev" | "development" => Some("dev"),
        "staging" => Some("stg"),
        "production" => Some("prod"),
        _ => None,
    }
}

/// The provider-side name at creation: `<prefix>-<code>-<id>`.
pub fn provider_name(prefix: &str, code: &str, id: &str) -> String {
    format!("{prefix}-{code}-{id}")
}

/// The provider-side name after a claim: `<code>-<slug>-<id>`; `None` where nothing is left of the agent's name.
///
/// The slug is the agent's name in lower case, every run of other characters than `a-z0-9` as one `-`, cut to
/// [`SLUG_MAX`], without `-` at its ends.
pub fn claimed_provider_name(code: &str, agent_name: &str, id: &str) -> Option<String> {
    let mut slug = String::new();
    for c in agent_name.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(SLUG_MAX);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| format!("{code}-{slug}-{id}"))
}

/// The owner mark: `<cluster id>/<namespace>/<id>`.
pub fn owner_mark(cluster_id: &str, namespace: &str, id: &str) -> String {
    format!("{cluster_id}/{namespace}/{id}")
}

/// A label value for a name: the name itself where it is one, else 63 or fewer characters with a hash.
pub fn label_value(name: &str) -> String {
    let legal = name.len() <= 63
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && name
            .bytes()
            .last()
            .is_some_and(|b| b.is_ascii_alphanumeric());
    if legal {
        name.to_owned()
    } else {
        format!("h-{}", &sha256_hex(name.as_bytes())[..20])
    }
}

/// Lower-case hex of the SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            out.push(char::from(DIGITS[usize::from(b >> 4)]));
            out.push(char::from(DIGITS[usize::from(b & 15)]));
            out
        })
}

fn is_dns_label(s: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !s.is_empty()
        && s.len() <= 63
        && s.bytes().all(|b| edge(b) || b == b'-')
        && s.bytes().next().is_some_and(edge)
        && s.bytes().last().is_some_and(edge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_twelve_of_the_alphabet() {
        let id = id_from_bytes(&[0, 35, 36, 255, 7, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(id.len(), ID_LENGTH);
        assert!(id.bytes().all(|b| ID_ALPHABET.contains(&b)));
        assert_eq!(object_name(&id), id);
    }

    #[test]
    fn imported_ids_get_a_legal_object_name() {
        for id in ["rnM8UBQ_fZCz", "-abc", "ABC", "", "a.b"] {
            let name = object_name(id);
            assert!(is_dns_label(&name), "{id} -> {name}");
            assert_eq!(name.len(), 12);
        }
        assert_ne!(object_name("rnM8UBQ_fZCz"), object_name("rnm8UBQ_fZCz"));
    }

    #[test]
    fn the_longest_provider_name_is_railways_limit() {
        let name = provider_name(&"p".repeat(14), "prod", "0123456789ab");
        assert_eq!(name.len(), PROVIDER_NAME_MAX);
        let claimed = claimed_provider_name("prod", &"x".repeat(99), "0123456789ab").unwrap();
        assert!(claimed.len() <= PROVIDER_NAME_MAX);
        assert!(claimed.ends_with("-0123456789ab"));
    }

    #[test]
    fn slugs_are_cut_and_clean() {
        let slug = |s| claimed_provider_name("stg", s, "0123456789ab");
        assert_eq!(
            slug("Tokyo Trip Planner").unwrap(),
            "stg-tokyo-trip-pla-0123456789ab"
        );
        assert_eq!(
            slug("Tokyo  --  Trip").unwrap(),
            "stg-tokyo-trip-0123456789ab"
        );
        assert_eq!(
            slug("thirteenchars !").unwrap(),
            "stg-thirteenchars-0123456789ab"
        );
        assert_eq!(slug("…日本"), None);
        assert_eq!(slug(""), None);
    }

    #[test]
    fn label_values_are_always_legal() {
        assert_eq!(label_value("staging"), "staging");
        assert_eq!(label_value(&"a".repeat(64)).len(), 22);
        assert_eq!(label_value("").len(), 22);
    }

    #[test]
    fn hex_is_lower_case() {
        assert_eq!(hex(&[0, 15, 16, 255]), "000f10ff");
        assert_eq!(sha256_hex(b"").len(), 64);
    }
}
