//! The set-up of a new sprite: slices that run inside, one after another, whether or not anybody watches.
//!
//! One runner inside works through the slices and leaves files below `$HOME/.agentpool/setup`: `<n>.sh`, `<n>.log`,
//! `<n>.exit` and, at its end, `result`. A lock keeps a second runner away, because two runs of one slice destroy each
//! other. It is started by a command that outlives its connection, and looked at by short ones: neither a restart of
//! the operator nor a connection that drops loses what was built.

use std::time::Duration;

use crate::domain::template::Template;
use crate::provider::{Facts, Inputs, Outcome, Seen};

use super::classify::{Failure, Kind};
use super::client::Session;
use super::exec::{self, Command};
use super::files::{at, git_ref};
use super::inside::{self, SHORT};
use super::operation;

/// The script where the pool has none of its own.
pub const BUILT_IN: &str = include_str!("setup.sh");
/// A line that begins so begins a slice; its name follows.
const SLICE: &str = "# agentpool:slice";
const FOLDER: &str = ".agentpool/setup";
/// How long the runner goes on by itself: no slice of a pool's `stuckTimeoutSeconds` is cut.
const OUTLIVES: &str = "24h0m0s";
const POLL: Duration = Duration::from_secs(3);
/// How much of a slice's output is told.
const TOLD: usize = 400;

const STATE: &str = r#"d="$HOME/.agentpool/setup"
r=$(cat "$d/result" 2>/dev/null)
if [ "$r" = ok ]; then echo done
elif [ -e "$d/lock" ] && ! flock -n "$d/lock" true; then echo running
elif [ -n "$r" ]; then echo "$r"; set -- $r; tail -c 2000 "$d/$2.log" 2>/dev/null
else echo none; fi"#;

const RUNNER: &str = r#"cd "$HOME" || exit 1
d="$HOME/.agentpool/setup"
exec 9>"$d/lock"
flock -n 9 || { echo "another set-up is at it"; exit 0; }
rm -f "$d/result"
for n in $(seq "$slices"); do
  [ "$(cat "$d/$n.exit" 2>/dev/null)" = 0 ] && continue
  for try in 1 2 3; do
    [ "$try" = 1 ] || sleep 3
    echo "slice $n of $slices, try $try"
    # Without output it would be paused; a task keeps it awake when nobody looks.
    sprite-env curl -X PUT /v1/tasks/agentpool-setup -d '{"expire":"30m"}' >/dev/null 2>&1 || true
    bash "$d/$n.sh" >"$d/$n.log" 2>&1 </dev/null
    code=$?
    echo "$code" >"$d/$n.exit.new" && mv "$d/$n.exit.new" "$d/$n.exit"
    [ "$code" = 0 ] && break
  done
  [ "$code" = 0 ] || { echo "failed $n $code" >"$d/result"; exit 1; }
done
echo ok >"$d/result"
sprite-env curl -X DELETE /v1/tasks/agentpool-setup >/dev/null 2>&1 || true
"#;

/// A script cut into its slices, each with what stands before the first one. Without marks it is one slice.
pub fn slices(script: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in script.lines() {
        if line.starts_with(SLICE) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let common = parts.remove(0);
    if parts.is_empty() {
        return vec![common];
    }
    parts.into_iter().map(|p| format!("{common}{p}")).collect()
}

fn runner(slices: usize, git_ref: &str) -> String {
    let git_ref = git_ref.replace('\'', "'\\''");
    format!("#!/bin/bash\nexport OPENCLAW_GIT_REF='{git_ref}'\nslices={slices}\n{RUNNER}")
}

/// How far the set-up is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Done,
    Running,
    Failed(String),
    /// It was never begun, or its runner is gone.
    None,
}

fn parse(output: &str) -> State {
    let (first, rest) = output.split_once('\n').unwrap_or((output, ""));
    let mut words = first.split_whitespace();
    match words.next() {
        Some("done") => State::Done,
        Some("running") => State::Running,
        Some("failed") => {
            let slice = words.next().unwrap_or("?");
            let code = words.next().unwrap_or("?");
            let rest = rest.trim();
            let skipped = rest.chars().count().saturating_sub(TOLD);
            let end: String = rest.chars().skip(skipped).collect();
            State::Failed(format!(
                "slice {slice} ended with {code} three times; the end of its output: {end}"
            ))
        }
        _ => State::None,
    }
}

async fn state(session: &Session, sprite: &str) -> Result<State, Failure> {
    let output = inside::bash(session, sprite, STATE).await?;
    Ok(parse(&output.stdout))
}

/// Writes the slices and starts the runner, unless one is at it or was through.
pub(super) async fn perform(
    session: &Session,
    sprite: &str,
    home: &str,
    template: &Template,
    inputs: &Inputs,
) -> Result<Outcome, Failure> {
    match state(session, sprite).await? {
        State::Done => return Ok(Outcome::Done(Facts::new())),
        State::Running => return Ok(under_way()),
        State::Failed(_) | State::None => {}
    }
    let slices = slices(inputs.setup_script.as_deref().unwrap_or(BUILT_IN));
    let path = |file: String| at(home, &format!("{FOLDER}/{file}"));
    for (index, slice) in slices.iter().enumerate() {
        let file = path(format!("{}.sh", index + 1));
        operation::write_file(session, sprite, &file, slice.as_bytes()).await?;
    }
    let run = runner(slices.len(), git_ref(template));
    operation::write_file(session, sprite, &path("run.sh".to_owned()), run.as_bytes()).await?;
    let command = Command {
        argv: &[
            "bash",
            "-c",
            r#"rm -f "$HOME/.agentpool/setup/result"; exec bash "$HOME/.agentpool/setup/run.sh""#,
        ],
        outlives: Some(OUTLIVES),
        limit: SHORT,
    };
    exec::launch(session, sprite, &command).await?;
    Ok(under_way())
}

fn under_way() -> Outcome {
    Outcome::Running {
        facts: Facts::new(),
        poll: POLL,
    }
}

/// How far it is. A sprite that does not answer now is under way as before.
pub(super) async fn look(session: &Session, sprite: &str) -> Result<Seen, Failure> {
    Ok(match state(session, sprite).await {
        Ok(State::Done) => Seen::Done(Facts::new()),
        Ok(State::Running) => Seen::Running,
        Ok(State::Failed(message)) => Seen::Failed {
            reason: "SetupFailed",
            message,
            retry: false,
        },
        Ok(State::None) => Seen::Failed {
            reason: "SetupInterrupted",
            message: "the set-up is neither running nor through".to_owned(),
            retry: true,
        },
        Err(f) if matches!(f.kind, Kind::Unknown | Kind::NotSent | Kind::NoRoute) => Seen::Unknown,
        Err(f) => return Err(f),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_script_has_its_slices_in_order() {
        let slices = slices(BUILT_IN);
        let names: Vec<&str> = slices
            .iter()
            .filter_map(|s| s.lines().find_map(|l| l.strip_prefix(SLICE)))
            .map(str::trim)
            .collect();
        assert_eq!(
            names,
            ["packages", "tools", "source", "install", "build", "script"]
        );
        for slice in &slices {
            assert!(slice.contains("set -euo pipefail") && slice.contains("NPM_CONFIG_PREFIX"));
        }
        assert!(slices[2].contains(r#"--branch "$OPENCLAW_GIT_REF""#));
        assert!(slices[4].contains("pnpm build") && !slices[4].contains("apt-get"));
    }

    #[test]
    fn a_script_without_marks_is_one_slice() {
        assert_eq!(slices("echo a\necho b"), ["echo a\necho b\n"]);
        assert_eq!(
            slices("x\n# agentpool:slice one\na\n# agentpool:slice two\nb\n").len(),
            2
        );
    }

    #[test]
    fn the_runner_knows_the_ref_whatever_it_is_called() {
        let text = runner(6, "feat/it's");
        assert!(
            text.contains(r"export OPENCLAW_GIT_REF='feat/it'\''s'"),
            "{text}"
        );
        assert!(text.contains("slices=6"));
    }

    #[test]
    fn a_state_is_its_first_word() {
        assert_eq!(parse("done\n"), State::Done);
        assert_eq!(parse("running\n"), State::Running);
        assert_eq!(parse("none\n"), State::None);
        assert_eq!(parse(""), State::None);
        let State::Failed(why) = parse(&format!("failed 3 128\n{}the end\n", "x".repeat(900)))
        else {
            panic!()
        };
        assert!(why.starts_with("slice 3 ended with 128") && why.ends_with("the end"));
        assert!(why.len() < 500);
    }
}
