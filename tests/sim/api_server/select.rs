//! Queries: selectors of labels and fields, pages, watches.

use std::time::Duration;

use serde_json::Value;

/// What a query string asks for.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) version: String,
    pub(super) timeout: Duration,
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    labels: Vec<String>,
    fields: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Self {
            timeout: Duration::from_secs(1800),
            ..Self::default()
        };
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match key {
                "watch" => query.watch = value == "true" || value == "1",
                "resourceVersion" => query.version = value,
                "timeoutSeconds" => {
                    query.timeout = Duration::from_secs(value.parse().unwrap_or(1800));
                }
                "limit" => query.limit = value.parse().unwrap_or_default(),
                "continue" => query.after = Some(value).filter(|v| !v.is_empty()),
                "labelSelector" => query.labels = terms(&value),
                "fieldSelector" => {
                    query.fields = terms(&value).iter().map(|t| equation(t)).collect()
                }
                _ => {}
            }
        }
        query
    }

    /// Whether labels and fields fit; an absent field is empty.
    pub(super) fn fits(&self, object: &Value) -> bool {
        let label = |key: &str| {
            object["metadata"]["labels"]
                .get(key)
                .and_then(Value::as_str)
        };
        let labels = self.labels.iter().all(|term| match term.strip_prefix('!') {
            Some(key) => label(key).is_none(),
            None => match term.split_once('=') {
                Some((key, value)) => {
                    label(key.trim_end_matches('=')) == Some(value.trim_start_matches('='))
                }
                None => label(term).is_some(),
            },
        });
        labels
            && self.fields.iter().all(|(path, wanted)| {
                let pointer = format!("/{}", path.replace('.', "/"));
                let found = object.pointer(&pointer);
                let text = found.and_then(Value::as_str).unwrap_or_default();
                text == wanted
            })
    }
}

fn terms(text: &str) -> Vec<String> {
    let terms = text.split(',').map(str::trim).filter(|t| !t.is_empty());
    terms.map(str::to_owned).collect()
}

fn equation(term: &str) -> (String, String) {
    let (path, value) = term.split_once('=').unwrap_or((term, ""));
    (path.to_owned(), value.trim_start_matches('=').to_owned())
}

/// `application/x-www-form-urlencoded`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (vec![], 0);
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
