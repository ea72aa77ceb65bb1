//! The operator's binary as a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::account;
use super::cluster::was_restarted;

/// The API key of the tests' operators, unless a test brings its own.
pub const KEY: &str = "test-key-0123456789";

/// A running operator; killed when dropped.
pub struct Operator {
    child: Child,
    log: PathBuf,
    cluster: Option<PathBuf>,
    /// Base address of the API; empty for the controller alone.
    pub api: String,
    /// Base address of the operations port.
    pub operations: String,
}

impl Operator {
    /// Starts a role with these variables on top of an empty environment, and waits until its ports are open.
    pub fn start(role: &str, environment: &BTreeMap<String, String>) -> Self {
        let (mut command, log, ports) = Self::command(role, environment);
        let mut child = command.spawn().expect("the operator starts");
        let started = Instant::now();
        let told = loop {
            if let Some(told) = std::fs::read(&ports)
                .ok()
                .and_then(|t| serde_json::from_slice::<Value>(&t).ok())
            {
                break told;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the operator ended with {status}: {}", read(&log));
            }
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "the operator does not listen: {}",
                read(&log)
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        let base = |key: &str| {
            told[key]
                .as_u64()
                .map(|p| format!("http://127.0.0.1:{p}"))
                .unwrap_or_default()
        };
        Self {
            child,
            log,
            cluster: environment.get("KUBECONFIG").map(PathBuf::from),
            api: base("api"),
            operations: base("operations"),
        }
    }

    /// Runs a role that is expected to end by itself; what it printed.
    pub fn run_to_end(role: &str, environment: &BTreeMap<String, String>) -> (ExitStatus, String) {
        let (mut command, log, _) = Self::command(role, environment);
        let status = command.status().expect("the operator starts");
        (status, read(&log))
    }

    fn command(role: &str, environment: &BTreeMap<String, String>) -> (Command, PathBuf, PathBuf) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (log, ports) = (
            folder.join(format!("operator-{name}.log")),
            folder.join(format!("ports-{name}.json")),
        );
        let _ = std::fs::remove_file(&ports);
        let file = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentpool"));
        command
            .args([role, "--ports-file", ports.to_str().unwrap()])
            .env_clear()
            .envs(environment)
            .envs(account::kubeconfig(environment, role).map(|path| ("KUBECONFIG", path)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        (command, log, ports)
    }

    /// SIGKILL, as a crash: nothing is finished, nothing is said.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.child.wait().unwrap()
    }

    /// SIGSTOP: it stands still, and does not know.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT, after a pause.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended by itself; `None`: it still runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.ended().is_none()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory now and at its peak, in MiB.
    pub fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let of = |key: &str| {
            let line = text.lines().find(|l| l.starts_with(key)).unwrap();
            let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            kib / 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Lines that tell of a right it does not have, best efforts included. None is expected: see account.rs.
    pub fn denied(&self) -> Vec<String> {
        let log = self.log();
        let denied =
            |l: &&str| l.contains("User \\\"system:serviceaccount:") && l.contains("cannot ");
        let plain = |l: &&str| l.contains("User \"system:serviceaccount:") && l.contains("cannot ");
        let lines = log.lines().filter(|l| denied(l) || plain(l));
        lines.map(str::to_owned).collect()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let restarted = self.cluster.as_deref().is_some_and(was_restarted);
        if !std::thread::panicking() && !restarted {
            let denied = self.denied();
            assert!(
                denied.is_empty(),
                "the chart's Roles lack a right: {denied:#?}"
            );
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the operator's last lines ---");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
