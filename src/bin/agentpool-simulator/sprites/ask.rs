//! A request to the Sprites API as its handlers read it: operation, path, query.

use crate::clock::Ms;
use crate::peers::Request;
use hyper::upgrade::OnUpgrade;

/// A query, in order, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands behind the question mark.
    pub fn parse(target: &str) -> Self {
        let text = target.split_once('?').map_or("", |(_, query)| query);
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// A flag; `1` is true as well.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| v == "true" || v == "1")
    }
}

/// Percent-decoding; in queries a plus is a space.
pub fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A duration of Go's form (`500ms`, `5s`, `1h0m0s`) or bare seconds, in milliseconds.
pub fn duration(text: &str) -> Option<Ms> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds >= 0.0).then_some((seconds * 1000.0) as Ms);
    }
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |n| n + end);
        total += number
            * match &rest[end..unit_end] {
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    Some(total as Ms)
}

/// A WebSocket handshake that came with a request.
pub struct Handshake {
    /// What the connection becomes.
    pub on: OnUpgrade,
    /// The client's key.
    pub key: String,
}

/// One request whose route is known.
pub struct Ask {
    /// Name of the operation, as faults and the log of calls have it.
    pub operation: &'static str,
    /// The organisation of the token.
    pub organization: String,
    /// The sprite's name, empty for routes about none.
    pub name: String,
    /// The id of a service, session or checkpoint, or the file operation.
    pub item: String,
    /// The query.
    pub query: Query,
    /// Method, headers, body.
    pub request: Request,
    /// Present on a WebSocket handshake.
    pub handshake: Option<Handshake>,
}

impl Ask {
    /// The body as JSON; anything else is an empty object.
    pub fn json(&self) -> serde_json::Value {
        let parsed = serde_json::from_slice(&self.request.body);
        parsed.unwrap_or_else(|_| serde_json::json!({}))
    }
}

/// Operation, sprite's name and item of a path; none: no such route.
pub fn route(method: &str, path: &str, upgrade: bool) -> Option<(&'static str, String, String)> {
    let parts: Vec<String> = path
        .trim_start_matches('/')
        .split('/')
        .map(|p| decode(p, false))
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let ["v1", rest @ ..] = parts.as_slice() else {
        return None;
    };
    let none = String::new();
    let (operation, name, item) = match (method, rest) {
        ("GET", ["organization"]) => ("organization", "", ""),
        ("POST", ["sprites"]) => ("create", "", ""),
        ("GET", ["sprites"]) => ("list", "", ""),
        ("GET", ["sprites", n]) => ("get", *n, ""),
        ("PUT", ["sprites", n]) => ("update", *n, ""),
        ("DELETE", ["sprites", n]) => ("delete", *n, ""),
        ("POST", ["sprites", n, "upgrade"]) => ("upgrade", *n, ""),
        ("POST", ["sprites", n, "restart"]) => ("restart", *n, ""),
        ("GET", ["sprites", n, "check"]) => ("check", *n, ""),
        ("GET", ["sprites", n, "control"]) => ("control", *n, ""),
        (_, ["sprites", n, inside @ ..]) => return runtime_route(method, n, inside, upgrade),
        _ => return None,
    };
    Some((
        operation,
        name.to_owned(),
        if item.is_empty() {
            none
        } else {
            item.to_owned()
        },
    ))
}

fn runtime_route(
    method: &str,
    name: &str,
    inside: &[&str],
    upgrade: bool,
) -> Option<(&'static str, String, String)> {
    let (operation, item) = match (method, inside) {
        ("GET", ["exec"]) if upgrade => ("exec", ""),
        ("GET", ["exec"]) => ("sessions", ""),
        ("HEAD", ["exec"]) => ("probe", ""),
        ("POST", ["exec"]) => ("execHttp", ""),
        ("GET", ["exec", id]) => ("attach", *id),
        ("POST", ["exec", id, "kill"]) => ("kill", *id),
        ("GET", ["services"]) => ("services", ""),
        ("POST", ["services", "signal"]) => ("signalService", ""),
        ("GET", ["services", s]) => ("service", *s),
        ("PUT", ["services", s]) => ("putService", *s),
        ("DELETE", ["services", s]) => ("deleteService", *s),
        ("POST", ["services", s, "start"]) => ("startService", *s),
        ("POST", ["services", s, "stop"]) => ("stopService", *s),
        ("POST", ["services", s, "restart"]) => ("restartService", *s),
        ("GET", ["services", s, "logs"]) => ("serviceLogs", *s),
        ("GET", ["fs", "read"]) => ("fsRead", ""),
        ("PUT", ["fs", "write"]) => ("fsWrite", ""),
        ("GET", ["fs", "list"]) => ("fsList", ""),
        ("DELETE", ["fs", "delete"]) => ("fsDelete", ""),
        ("POST", ["fs", "rename"]) => ("fsRename", ""),
        ("POST", ["fs", "copy"]) => ("fsCopy", ""),
        ("POST", ["fs", "chmod"]) => ("fsChmod", ""),
        ("POST", ["fs", "chown"]) => ("fsChown", ""),
        ("POST", ["checkpoint"]) => ("checkpoint", ""),
        ("GET", ["checkpoints"]) => ("checkpoints", ""),
        ("GET", ["checkpoints", id]) => ("checkpointGet", *id),
        ("POST", ["checkpoints", id, "restore"]) => ("restore", *id),
        ("GET", ["policy", "network"]) => ("policyGet", ""),
        ("POST", ["policy", "network"]) => ("policyPut", ""),
        ("GET", ["proxy"]) => ("proxy", ""),
        _ => return None,
    };
    Some((operation, name.to_owned(), item.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Query, duration, route};

    #[test]
    fn durations_are_go_s() {
        for (text, ms) in [
            ("500ms", 500),
            ("5s", 5000),
            ("10m", 600_000),
            ("1h0m0s", 3_600_000),
            ("0", 0),
            ("30", 30_000),
        ] {
            assert_eq!(duration(text), Some(ms), "{text}");
        }
        assert_eq!(duration("soon"), None);
        assert_eq!(duration("5x"), None);
    }

    #[test]
    fn repeated_keys_stay_in_order_and_are_decoded() {
        let query = Query::parse(
            "/v1/sprites/a/exec?cmd=bash&cmd=-c&cmd=echo+a%2Bb%0A&env=A=B%3DC&stdin=true",
        );
        assert_eq!(query.all("cmd"), ["bash", "-c", "echo a+b\n"]);
        assert_eq!(query.get("env"), Some("A=B=C"));
        assert_eq!(query.flag("stdin"), Some(true));
    }

    #[test]
    fn routes_are_exact() {
        let of = |method, path, upgrade| route(method, path, upgrade).map(|(o, _, _)| o);
        assert_eq!(of("GET", "/v1/sprites/a/exec", true), Some("exec"));
        assert_eq!(of("GET", "/v1/sprites/a/exec", false), Some("sessions"));
        assert_eq!(
            of("POST", "/v1/sprites/a/services/signal", false),
            Some("signalService")
        );
        assert_eq!(of("PATCH", "/v1/sprites/a", false), None);
        assert_eq!(of("GET", "/v1/sprites/a/nope", false), None);
        assert_eq!(of("GET", "/v2/sprites", false), None);
    }
}
