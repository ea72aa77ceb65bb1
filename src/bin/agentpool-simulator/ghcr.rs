//! The image registry of `contracts/instance-services.md` 7: a token by scope, the head of a manifest, a table of tags.
//!
//! Every tag of every repository exists with a digest made of its name, but those whose repository's name contains
//! `missing`. A test moves a tag, takes it away, or makes a repository private.

use crate::calls::mask;
use crate::peers::{Reply, Request};
use crate::rng::Random;
use crate::rules::Trigger;
use crate::world::Sim;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The path below which it answers.
const PREFIX: &str = "/ghcr";
/// The kinds of manifest that it has.
const KINDS: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Who may pull from a private repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: String,
    password: String,
}

/// An armed fault.
#[derive(Clone, Debug, Serialize)]
struct Rule {
    #[serde(rename = "match")]
    matches: Match,
    fault: Fault,
    trigger: Trigger,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    #[serde(default, rename = "match")]
    matches: Match,
    #[serde(default)]
    count: Option<u64>,
    #[serde(default)]
    probability: Option<f64>,
    fault: Fault,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Match {
    /// `token` or `manifest`.
    route: Option<String>,
    /// `owner/name`.
    repository: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Fault {
    /// This status, with `Retry-After` where it is given.
    Status {
        status: u16,
        #[serde(default, rename = "retryAfter")]
        retry_after: Option<u64>,
    },
    /// No answer.
    Hang,
    /// The connection breaks.
    Reset,
    /// 200 without the header, and a token that is none.
    Garbage,
}

/// All of the registry.
#[derive(Default)]
pub struct Ghcr {
    /// `owner/name:tag` → digest; none: there is no such tag.
    tags: BTreeMap<String, Option<String>>,
    private: BTreeMap<String, Login>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Put {
    tags: BTreeMap<String, Option<String>>,
    private: BTreeMap<String, Option<Login>>,
}

fn sha256(text: &str) -> String {
    let bytes = Sha256::digest(text.as_bytes());
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

impl Ghcr {
    /// `PUT state`: tags that are moved or (null) taken away, repositories that become private or (null) public.
    pub fn put(&mut self, body: &Value) -> Result<(), String> {
        let put = Put::deserialize(body).map_err(|e| e.to_string())?;
        self.tags.extend(put.tags);
        for (repository, login) in put.private {
            match login {
                Some(login) => drop(self.private.insert(repository, login)),
                None => drop(self.private.remove(&repository)),
            }
        }
        Ok(())
    }

    /// What was changed, without passwords.
    pub fn to_json(&self) -> Value {
        let private: Vec<_> = self.private.keys().collect();
        json!({"tags": self.tags, "private": private})
    }

    /// Arms a fault.
    pub fn arm(&mut self, body: &Value) -> Result<Value, Value> {
        let arm = Arm::deserialize(body).map_err(
            |e| json!({"error": e.to_string(), "known": ["status", "hang", "reset", "garbage"]}),
        )?;
        let trigger = Trigger {
            count: arm.count,
            probability: arm.probability,
            ..Trigger::default()
        };
        let rule = Rule {
            matches: arm.matches,
            fault: arm.fault,
            trigger,
        };
        let shown = json!(rule);
        self.rules.push(rule);
        Ok(shown)
    }

    /// All armed faults.
    pub fn faults(&self) -> Value {
        json!({"rules": self.rules})
    }

    /// Disarms all.
    pub fn heal(&mut self) {
        self.rules.clear();
    }

    /// The digest of a tag now.
    pub fn digest(&self, repository: &str, tag: &str) -> Option<String> {
        let name = format!("{repository}:{tag}");
        match self.tags.get(&name) {
            Some(set) => set.clone(),
            None if repository.contains("missing") => None,
            None => Some(sha256(&name)),
        }
    }

    fn fault(&mut self, route: &str, repository: &str, rng: &mut Random) -> Option<Fault> {
        let mut about = self.rules.iter_mut().filter(|r| {
            r.matches.route.as_deref().is_none_or(|m| m == route)
                && r.matches
                    .repository
                    .as_deref()
                    .is_none_or(|m| m == repository)
        });
        about.find_map(|r| r.trigger.fires(rng).then(|| r.fault.clone()))
    }

    fn may_pull(&self, repository: &str, basic: Option<&str>) -> bool {
        self.private.get(repository).is_none_or(|login| {
            let pair = format!("{}:{}", login.username, login.password);
            basic == Some(&base64(pair.as_bytes()))
        })
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let part = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = part(0) << 16 | part(1) << 8 | part(2);
        for i in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { letter.into() } else { '=' });
        }
    }
    text
}

/// The token that a repository's pulls need: known from its name, and good for no other.
fn token_of(repository: &str) -> String {
    format!("ghcr-{}", &sha256(&format!("token {repository}"))[7..39])
}

fn error(status: u16, code: &str) -> Reply {
    Reply::json(
        status,
        &json!({"errors": [{"code": code, "message": code.to_lowercase()}]}),
    )
}

/// Whether a path is the registry's.
pub fn is_for(path: &str) -> bool {
    path == PREFIX || path.starts_with(&format!("{PREFIX}/"))
}

/// Answers one request to the registry.
pub fn answer(sim: &Sim, request: &Request) -> Reply {
    let now = sim.clock.now();
    let mut guard = sim.world();
    let world = &mut *guard;
    let path = request.path()[PREFIX.len()..].to_owned();
    let asked = route(&path, &request.target);
    let reply = match &asked {
        None => error(404, "NOT_FOUND"),
        Some((route, repository, rest)) => {
            match world.ghcr.fault(route, repository, &mut world.rng) {
                Some(fault) => broken(&fault, route),
                None if *route == "token" => token(&world.ghcr, repository, request),
                None => manifest(&world.ghcr, (repository, rest), request),
            }
        }
    };
    let authorization = request.header("authorization").map(mask);
    world.calls.push(
        "ghcr",
        json!({
            "time": sim.clock.stamp(now), "method": request.method, "path": request.target,
            "route": asked.as_ref().map(|a| a.0), "repository": asked.as_ref().map(|a| &a.1),
            "authorization": authorization, "accept": request.header("accept"), "status": reply.status(),
        }),
    );
    reply
}

/// The route, the repository, and for manifests the tag.
fn route(path: &str, target: &str) -> Option<(&'static str, String, String)> {
    if path == "/token" {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scope = query.split('&').find_map(|p| p.strip_prefix("scope="))?;
        let scope = scope.replace("%3A", ":").replace("%2F", "/");
        let repository = scope.strip_prefix("repository:")?.strip_suffix(":pull")?;
        return Some(("token", repository.to_owned(), String::new()));
    }
    let (repository, tag) = path.strip_prefix("/v2/")?.split_once("/manifests/")?;
    Some(("manifest", repository.to_owned(), tag.to_owned()))
}

fn broken(fault: &Fault, route: &str) -> Reply {
    match fault {
        Fault::Status {
            status,
            retry_after,
        } => {
            let reply = error(*status, "FAULT");
            match retry_after {
                Some(seconds) => reply.with("retry-after", &seconds.to_string()),
                None => reply,
            }
        }
        Fault::Hang => Reply::Hang,
        Fault::Reset => Reply::Reset,
        Fault::Garbage if route == "token" => Reply::html(200, "<html>hello</html>"),
        Fault::Garbage => Reply::json(200, &json!({})),
    }
}

fn token(ghcr: &Ghcr, repository: &str, request: &Request) -> Reply {
    let basic = request.header("authorization");
    let basic = basic.and_then(|v| v.strip_prefix("Basic "));
    if request.method != "GET" {
        return error(405, "UNSUPPORTED");
    }
    if !ghcr.may_pull(repository, basic) {
        return error(401, "UNAUTHORIZED");
    }
    Reply::json(200, &json!({"token": token_of(repository)}))
}

fn manifest(ghcr: &Ghcr, (repository, tag): (&str, &str), request: &Request) -> Reply {
    let expected = format!("Bearer {}", token_of(repository));
    if request.header("authorization") != Some(&expected) {
        return error(401, "UNAUTHORIZED");
    }
    let accept = request.header("accept").unwrap_or_default();
    let Some(kind) = KINDS.iter().find(|kind| accept.contains(*kind)) else {
        return error(404, "MANIFEST_UNKNOWN");
    };
    let Some(digest) = ghcr.digest(repository, tag) else {
        return error(404, "MANIFEST_UNKNOWN");
    };
    let body = json!({"schemaVersion": 2, "mediaType": kind, "manifests": []});
    match request.method.as_str() {
        "HEAD" => Reply::json(200, &Value::Null).with_body(""),
        "GET" => Reply::json(200, &body),
        _ => return error(405, "UNSUPPORTED"),
    }
    .with("docker-content-digest", &digest)
}

#[cfg(test)]
mod tests {
    use super::{base64, sha256, token_of};

    #[test]
    fn base64_is_what_it_is_elsewhere() {
        assert_eq!(base64(b"bot:PAT"), "Ym90OlBBVA==");
        assert_eq!(base64(b"abcdef"), "YWJjZGVm");
        assert_eq!(base64(b"abcde"), "YWJjZGU=");
    }

    #[test]
    fn a_token_is_good_for_one_repository() {
        assert_ne!(token_of("a/b"), token_of("a/c"));
        assert_eq!(sha256("").len(), 71);
    }
}
