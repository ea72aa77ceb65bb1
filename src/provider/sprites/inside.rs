//! What is asked and done inside a sprite by short commands. All of it wakes the sprite, and can be done again.

use std::time::Duration;

use crate::provider::Conversation;

use super::classify::{Failure, Kind};
use super::client::Session;
use super::exec::{self, Command, Output};
use super::files::{INSTRUCTIONS, MARKER, hold_command};

/// The longest that a short command may take, a cold wake included.
pub const SHORT: Duration = Duration::from_secs(40);
/// The longest that the platform lets a task live.
const HOLD_MAX: Duration = Duration::from_secs(3600);

/// Runs a shell script.
pub(super) async fn bash(session: &Session, sprite: &str, script: &str) -> Result<Output, Failure> {
    let command = Command {
        argv: &["bash", "-c", script],
        outlives: None,
        limit: SHORT,
    };
    exec::run(session, sprite, &command).await
}

/// Runs a script whose codes 0 and 1 are its answer.
async fn ask(session: &Session, sprite: &str, script: &str) -> Result<(bool, String), Failure> {
    let output = bash(session, sprite, script).await?;
    match output.code {
        0 => Ok((true, output.stdout)),
        1 => Ok((false, output.stdout)),
        code => Err(Failure::new(
            Kind::Unknown,
            format!(
                "a question inside ended with {code}: {}",
                cut(&output.stderr)
            ),
        )),
    }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

/// The home directory.
pub(super) async fn home(session: &Session, sprite: &str) -> Result<String, Failure> {
    let output = bash(session, sprite, r#"printf %s "$HOME""#).await?;
    if output.code == 0 && output.stdout.starts_with('/') && !output.stdout.contains('\n') {
        return Ok(output.stdout);
    }
    Err(Failure::new(
        Kind::Unknown,
        "the sprite does not tell its home directory",
    ))
}

/// What an earlier user left; `None`: nothing.
pub(super) async fn dirt(session: &Session, sprite: &str) -> Result<Option<String>, Failure> {
    let script = format!(
        r#"r=0; for f in .convos {INSTRUCTIONS}; do if [ -e "$HOME/$f" ]; then echo "~/$f"; r=1; fi; done; exit $r"#
    );
    let (clean, found) = ask(session, sprite, &script).await?;
    if clean {
        return Ok(None);
    }
    let found: Vec<&str> = found.split_whitespace().collect();
    Ok(Some(format!(
        "{} is there, which a new agent does not have",
        found.join(" and ")
    )))
}

/// Whether the marker of a recycle is there. After a restore it is not.
pub(super) async fn is_marked(session: &Session, sprite: &str) -> Result<bool, Failure> {
    let script = format!(r#"[ -e "$HOME/{MARKER}" ]"#);
    ask(session, sprite, &script).await.map(|(there, _)| there)
}

/// Keeps it awake for that long.
pub(super) async fn hold(session: &Session, sprite: &str, until: Duration) -> Result<(), Failure> {
    let seconds = until.min(HOLD_MAX).as_secs().max(1);
    let output = bash(session, sprite, &hold_command(&format!("{seconds}s"))).await?;
    if output.code == 0 {
        return Ok(());
    }
    let why = format!(
        "sprite-env ended with {}: {}",
        output.code,
        cut(&output.stderr)
    );
    Err(Failure::new(Kind::Unknown, why))
}

/// Has the agent's command line process the join requests of a conversation; how many it processed.
pub(super) async fn process_joins(
    session: &Session,
    sprite: &str,
    conversation: &Conversation,
) -> Result<u64, Failure> {
    let command = Command {
        argv: &[
            "bash",
            "-c",
            PROCESS_JOINS,
            "bash",
            &conversation.id,
            &conversation.xmtp_env,
        ],
        outlives: None,
        limit: SHORT,
    };
    let output = exec::run(session, sprite, &command).await?;
    if output.code != 0 {
        let why = format!(
            "its CLI ended with {}: {}",
            output.code,
            cut(&output.stderr)
        );
        return Err(Failure::new(Kind::Unknown, why));
    }
    // The answer is the last JSON object on standard output.
    let processed = output.stdout.lines().rev().find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line.trim()).ok()?;
        value["processed"].as_u64()
    });
    processed.ok_or_else(|| Failure::new(Kind::Unknown, "its CLI does not tell how many"))
}

/// `convos` is not on the path.
const PROCESS_JOINS: &str = r#"export PATH="$(npm config get prefix 2>/dev/null)/bin:$HOME/.bun/bin:$PATH"
exec timeout 10 node "$HOME/openclaw/extensions/convos/node_modules/@convos/cli/bin/run.js" conversations process-join-requests --conversation "$1" --env "$2" --json"#;
