//! The quick start, as somebody runs it who has just cloned.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// `make demo` in a state folder of its own, so that a demo of the developer's is left alone.
struct Demo {
    state: std::path::PathBuf,
}

impl Demo {
    fn new() -> Self {
        let state =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{}", std::process::id()));
        Self { state }
    }

    fn make(&self, target: &str) -> Output {
        Command::new("make")
            .current_dir(REPOSITORY)
            .arg(target)
            .env("AGENTPOOL_STATE_ROOT", &self.state)
            .env_remove("CLUSTER")
            .env_remove("KUBECONFIG")
            .env_remove("MAKEFLAGS")
            .output()
            .unwrap()
    }

    /// Processes that carry this demo's state folder in their environment.
    fn processes(&self) -> Vec<String> {
        let mark = self.state.to_str().unwrap().as_bytes().to_vec();
        let mut found = vec![];
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name
                .parse::<u32>()
                .is_ok_and(|pid| pid != std::process::id())
            {
                let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                if environment.windows(mark.len()).any(|w| w == mark) {
                    found.push(name);
                }
            }
        }
        found
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.make("demo-down");
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

/// acceptance: F02
#[tokio::test(flavor = "multi_thread")]
async fn make_demo_ends_with_a_claimed_agent_and_demo_down_leaves_nothing() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let demo = Demo::new();
    let up = demo.make("demo");
    let text = String::from_utf8_lossy(&up.stdout).into_owned();
    let progress = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(
        up.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&up.stderr)
    );
    assert!(
        text.contains("https://dev.convos.org/v2?i="),
        "the invite: {text}"
    );
    assert!(
        progress.contains("[7/7]") && text.contains("make demo-down"),
        "progress and what to try: {progress}{text}"
    );

    let api = text
        .lines()
        .find_map(|l| l.strip_prefix("The dashboard: "))
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let counts: Value = reqwest::get(format!("{api}/api/pool/counts"))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(counts["claimed"], 1);
    let refused = reqwest::Client::new()
        .post(format!("{api}/api/pool/claim"))
        .bearer_auth("wrong")
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 401);
    assert!(!demo.processes().is_empty());

    assert!(demo.make("demo-down").status.success());
    assert_eq!(
        demo.processes(),
        Vec::<String>::new(),
        "demo-down leaves nothing running"
    );
}

/// `make test` runs `tests/run`, which hands cargo every target: so nothing may be ignored or kept out of the default run.
///
/// acceptance: F05
#[test]
fn one_command_runs_every_test() {
    let text = |command: &mut Command| {
        let output = command.current_dir(REPOSITORY).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let commands = text(
        Command::new("make")
            .args(["-n", "--no-print-directory", "test"])
            // Of the make that runs this, if one does.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .env_remove("ARGS"),
    );
    assert_eq!(commands.trim(), "tests/run", "and no filter");
    let metadata =
        text(Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version=1"]));
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let package = &metadata["packages"][0];
    let default: Vec<&Value> = package["features"]["default"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    let mut targets = 0;
    for target in package["targets"].as_array().unwrap() {
        let needs = target["required-features"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert!(
            needs.iter().all(|f| default.contains(&f)),
            "not in a default run: {target}"
        );
        if target["kind"][0] == "test" {
            assert_eq!(target["test"], true, "kept out of the run: {target}");
            targets += 1;
        }
    }
    assert!(targets >= 8, "only {targets} test targets");
    let ignored = Command::new("git")
        .args(["grep", "-nE", r"^\s*#\[ignore", "--", "src", "tests"])
        .current_dir(REPOSITORY)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&ignored.stdout),
        "",
        "an ignored test does not run"
    );
}
