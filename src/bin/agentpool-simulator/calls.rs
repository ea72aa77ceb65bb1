//! The log of calls per peer, and the masking of secrets in it.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};

/// Oldest calls fall out beyond this many per peer.
const KEPT: usize = 20_000;

/// Every request of every peer, newest last.
#[derive(Default)]
pub struct Calls(BTreeMap<&'static str, VecDeque<Value>>);

impl Calls {
    /// Writes one call down.
    pub fn push(&mut self, peer: &'static str, call: Value) {
        let log = self.0.entry(peer).or_default();
        log.push_back(call);
        if log.len() > KEPT {
            log.pop_front();
        }
    }

    /// The calls of one peer, oldest first.
    pub fn of(&self, peer: &str) -> Vec<Value> {
        self.0
            .get(peer)
            .map(|log| log.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Forgets the calls of one peer.
    pub fn clear(&mut self, peer: &str) {
        if let Some(log) = self.0.get_mut(peer) {
            log.clear();
        }
    }
}

/// A token as logs may show it: its first four and last four characters.
pub fn mask(token: &str) -> String {
    if token.is_ascii() && token.len() > 12 {
        format!("{}…{}", &token[..4], &token[token.len() - 4..])
    } else {
        "…".to_owned()
    }
}

/// Masks every string below a key that names a secret.
pub fn masked(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, v)| match v {
                    Value::String(text) if is_secret(key) => (key.clone(), mask(text).into()),
                    _ => (key.clone(), masked(v)),
                })
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.iter().map(masked).collect(),
        other => other.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "password", "secret", "api_key", "apikey"]
        .iter()
        .any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::{mask, masked};
    use serde_json::json;

    #[test]
    fn tokens_are_masked_and_instructions_are_not() {
        assert_eq!(mask("0123456789abcdef"), "0123…cdef");
        let body = json!({"gatewayToken": "0123456789abcdef", "instructions": "be kind"});
        let seen = masked(&body);
        assert_eq!(seen["gatewayToken"], "0123…cdef");
        assert_eq!(seen["instructions"], "be kind");
    }
}
