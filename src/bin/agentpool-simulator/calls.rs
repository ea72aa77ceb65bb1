//! The log of calls per peer, and the masking of secrets in it.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};

/// Oldest calls fall out beyond this many per peer.
const KEPT: usize = 20_000;

/// Every request of every peer, newest last.
#[derive(Default)]
pub struct Calls(BTreeMap<&'static str, Log>);

#[derive(Default)]
struct Log {
    calls: VecDeque<Value>,
    /// How many have fallen out.
    dropped: usize,
}

impl Calls {
    /// Writes one call down; the number is for [`Calls::finish`].
    pub fn push(&mut self, peer: &'static str, call: Value) -> usize {
        let log = self.0.entry(peer).or_default();
        log.calls.push_back(call);
        if log.calls.len() > KEPT {
            log.calls.pop_front();
            log.dropped += 1;
        }
        log.dropped + log.calls.len() - 1
    }

    /// Adds the status once it is known; a caller that hung up leaves it null.
    pub fn finish(&mut self, peer: &'static str, number: usize, status: Value) {
        let log = self.0.entry(peer).or_default();
        let index = number.checked_sub(log.dropped);
        if let Some(call) = index.and_then(|i| log.calls.get_mut(i)) {
            call["status"] = status;
        }
    }

    /// The calls of one peer, oldest first.
    pub fn of(&self, peer: &str) -> Vec<Value> {
        self.0
            .get(peer)
            .map(|log| log.calls.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Forgets the calls of one peer.
    pub fn clear(&mut self, peer: &str) {
        if let Some(log) = self.0.get_mut(peer) {
            log.dropped += log.calls.len();
            log.calls.clear();
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
