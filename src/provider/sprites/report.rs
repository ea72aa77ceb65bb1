//! The diagnostic report of one sprite: what runs inside, what listens, what the interface says; no value of a variable.

use std::time::Duration;

use serde_json::{Value, json};

use crate::provider::{Facts, Key, Report};

use super::classify::Failure;
use super::client::Session;
use super::exec::{self, Command};
use super::files::{CONFIG, ENV, GATEWAY, at};
use super::wire::Service;
use super::{map, operation};

/// Each probe by itself.
const PROBE: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 50;
const LINE_MAX: usize = 500;
/// Shorter values are words like `dev`: masking them would only garble the log.
const VALUE_MIN: usize = 8;

/// Names of programs only: an argument may hold a secret.
const PROCESSES: &str = "ps -eo pid,ppid,stat,etime,comm";
const LISTENING: &str = "ss -ltnH 2>/dev/null || ss -ltn";
/// The gateway's own answer, with its own token, which does not leave the sprite.
/// The agent rewrites the file, in lines or in one, whenever it is bound.
const LOCAL: &str = r#"t=$(sed -n 's/.*"poolApiKey"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$HOME/.openclaw/openclaw.json" 2>/dev/null)
printf 'Authorization: Bearer %s\n' "$t" | curl -sS -m 4 -H @- -w '\nHTTP %{http_code}\n' http://localhost:8080/convos/status"#;
/// Whether the file of variables is there, and what they are called.
const VARIABLES: &str = r#"f="$HOME/.openclaw/.env"; [ -e "$f" ] || { echo false; exit 0; }
echo true; sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' "$f""#;
const COMMIT: &str = r#"cat "$HOME/.agentpool/commit" 2>/dev/null"#;

/// See [`crate::provider::AgentProvider::diagnose`].
pub(super) async fn diagnose(session: &Session, key: &Key, known: &Facts) -> Report {
    let name = key.name.as_str();
    let home = known.get(map::HOME).map(String::as_str).unwrap_or_default();
    // Each is independent, and all wait together.
    let (processes, listening, local, variables, commit, services, api, logs) = tokio::join!(
        inside(session, name, PROCESSES),
        inside(session, name, LISTENING),
        inside(session, name, LOCAL),
        inside(session, name, VARIABLES),
        inside(session, name, COMMIT),
        limited(operation::services(session, name)),
        limited(operation::get(session, name)),
        limited(log(session, name, home)),
    );
    let text = |probe: Result<String, String>| probe.unwrap_or_else(error);
    let (exists, names) = match &variables {
        Ok(said) => {
            let mut lines = said.lines();
            (
                json!(lines.next() == Some("true")),
                json!(lines.collect::<Vec<_>>()),
            )
        }
        Err(e) => (json!(error(e)), Value::Null),
    };
    let mut report = Report::from([
        ("providerName".to_owned(), json!(name)),
        ("processes".to_owned(), json!(text(processes))),
        ("listening".to_owned(), json!(text(listening))),
        ("localCheck".to_owned(), json!(text(local))),
        ("envExists".to_owned(), exists),
        ("envNames".to_owned(), names),
        ("commit".to_owned(), json!(text(commit).trim())),
        (
            "services".to_owned(),
            services.map_or_else(|e| json!(error(e)), |all| states(&all)),
        ),
        (
            "log".to_owned(),
            logs.map_or_else(|e| json!(error(e)), |l| json!(l)),
        ),
    ]);
    let checkpoint = known.get(map::CHECKPOINT_ID);
    report.insert("checkpointId".to_owned(), json!(checkpoint));
    match api {
        Ok(Some(sprite)) => {
            report.insert("apiStatus".to_owned(), json!(200));
            let body = json!({
                "id": sprite.id, "name": sprite.name, "status": sprite.status, "url": sprite.url,
                "url_settings": sprite.url_settings, "labels": sprite.labels, "created_at": sprite.created_at,
            });
            report.insert("apiBody".to_owned(), body);
        }
        Ok(None) => {
            report.insert("apiStatus".to_owned(), json!(404));
            report.insert("apiBody".to_owned(), Value::Null);
        }
        Err(e) => {
            report.insert("apiInfo".to_owned(), json!(error(e)));
        }
    }
    report
}

fn error(why: impl std::fmt::Display) -> String {
    format!("error: {why}")
}

/// How each service fares.
fn states(services: &[Service]) -> Value {
    let all = services.iter().map(|s| {
        let state = json!({"status": s.state.status, "restarts": s.state.restart_count, "error": s.state.error});
        (s.name.clone(), state)
    });
    Value::Object(all.collect())
}

async fn limited<T>(probe: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
    match tokio::time::timeout(PROBE, probe).await {
        Ok(result) => result.map_err(|f| f.message),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn inside(session: &Session, name: &str, script: &str) -> Result<String, String> {
    let command = Command {
        argv: &["bash", "-c", script],
        outlives: None,
        limit: PROBE,
    };
    let output = limited(exec::run(session, name, &command)).await?;
    match (output.stdout.trim().is_empty(), output.code) {
        (true, code) if code != 0 => Err(format!("code {code}: {}", output.stderr.trim())),
        _ => Ok(output.stdout),
    }
}

/// The end of the gateway's log, without the values that it was given: without knowing them no line is shown.
async fn log(session: &Session, name: &str, home: &str) -> Result<Vec<String>, Failure> {
    let lines = operation::service_log(session, name, GATEWAY).await?;
    let text = async |path: &str| {
        let file = operation::read_file(session, name, &at(home, path)).await?;
        Ok(file.map(|f| String::from_utf8_lossy(&f).into_owned()))
    };
    let (config, env) = (text(CONFIG).await?, text(ENV).await?);
    let unknown = || Failure::unreadable("left out, the values to mask are not known");
    let secrets = secrets(&config.ok_or_else(unknown)?, &env.unwrap_or_default());
    let secrets = secrets.ok_or_else(unknown)?;
    let skipped = lines.len().saturating_sub(LOG_LINES);
    let shown = lines.into_iter().skip(skipped);
    Ok(shown.map(|l| masked(&l, &secrets)).collect())
}

/// The values in both files; `None`: the configuration does not have its token where it should.
fn secrets(config: &str, env: &str) -> Option<Vec<String>> {
    let config = serde_json::from_str::<Value>(config).ok()?;
    let token = config.pointer("/gateway/auth/token")?.as_str()?;
    let values = env
        .lines()
        .filter_map(|l| l.split_once('=').map(|(_, v)| v.trim_matches('\'')));
    let all = values.chain([token]).filter(|v| v.len() >= VALUE_MIN);
    let mut all: Vec<String> = all.map(str::to_owned).collect();
    all.sort_by_key(|v| std::cmp::Reverse(v.len()));
    Some(all)
}

fn masked(line: &str, secrets: &[String]) -> String {
    let line = secrets
        .iter()
        .fold(line.to_owned(), |l, s| l.replace(s.as_str(), "[value]"));
    line.trim_end().chars().take(LINE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_file_is_shown() {
        let config = r#"{"gateway":{"auth":{"token":"0123456789abcdef"}}}"#;
        let secrets = secrets(config, "ANTHROPIC_API_KEY='sk-ant $ecret'\nMODE=dev\n").unwrap();
        let line = "dev 0123456789abcdef sk-ant $ecret";
        assert_eq!(masked(line, &secrets), "dev [value] [value]");
        assert_eq!(super::secrets("{}", ""), None);
    }
}
