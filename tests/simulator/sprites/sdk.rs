//! The official JavaScript SDK, installed at test time, drives the simulator.

use super::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sprites-sdk");

fn run(what: &str, command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| {
        panic!(
            "the official SDK needs {what} on PATH (Debian: apt-get install nodejs npm): {error}"
        )
    })
}

/// Installs the pinned version once per target directory.
fn installed() -> PathBuf {
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sprites-sdk");
    let lock = std::fs::read(format!("{DATA}/package-lock.json")).expect("the lock file");
    let done = into.join("installed");
    if std::fs::read(&done).ok().as_ref() == Some(&lock) {
        return into;
    }
    std::fs::create_dir_all(&into).expect("a directory");
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(format!("{DATA}/{file}"), into.join(file)).expect("copied");
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(&into);
    let output = run("npm", &mut npm);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "npm cannot install the official SDK: {why}"
    );
    std::fs::write(done, lock).expect("noted");
    into
}

/// Before version 22 Node has its WebSocket behind a flag, which later versions refuse or ignore.
fn flags() -> Vec<&'static str> {
    let version = run("node", Command::new("node").arg("--version"));
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|n| n.parse::<u32>().ok());
    let major = major.unwrap_or_else(|| panic!("node tells no version: {version:?}"));
    assert!(
        major >= 20,
        "the official SDK needs Node 20 or newer, this is {version}"
    );
    if major < 22 {
        vec!["--experimental-websocket"]
    } else {
        Vec::new()
    }
}

#[tokio::test]
async fn the_official_sdk_does_all_it_can_after_a_change_of_address() {
    let sim = Simulator::start(50).await;
    let (peers, installed) = (sim.peers.clone(), installed());
    let driven = tokio::task::spawn_blocking(move || {
        let mut node = Command::new("node");
        node.args(flags())
            .arg(format!("{DATA}/drive.mjs"))
            .args([&peers, SPRITES_TOKEN])
            .arg(installed);
        run("node", &mut node)
    });
    let output = driven.await.expect("it ran");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    let done: Vec<&str> = out
        .lines()
        .filter_map(|l| l.strip_prefix("done "))
        .collect();
    assert_eq!(
        done,
        [
            "create",
            "list",
            "get",
            "exec",
            "execOverHttp",
            "sessions",
            "files",
            "url",
            "services",
            "checkpointAndRestore",
            "delete"
        ]
    );
    let ledger = sim.ledger().await;
    let left = ledger["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["exists"] == true)
        .count();
    assert_eq!(left, 0, "nothing is left: {ledger}");
}
