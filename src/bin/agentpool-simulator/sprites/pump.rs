//! Threads that read what processes print.

use crate::world::Sim;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::broadcast;

/// How long readers may go on after their process has ended: somebody else may hold the pipe.
const GRACE: Duration = Duration::from_millis(500);

/// The exit code as a shell would tell it: 128 + signal when killed.
pub fn code(status: std::io::Result<ExitStatus>) -> i32 {
    match status {
        Ok(status) => status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        Err(_) => 255,
    }
}

/// Reads a stream in pieces as they come.
pub fn pieces(
    mut from: impl Read + Send + 'static,
    mut each: impl FnMut(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        // With its id byte a frame is at most 16 KiB.
        let mut buffer = [0; 16 * 1024 - 1];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                break;
            }
            each(&buffer[..n]);
        }
    })
}

/// Reads a service's stream line by line, into its log and to whoever watches.
pub fn lines(
    sim: &Arc<Sim>,
    from: impl Read + Send + 'static,
    (stream, log): (&'static str, &Path),
    events: broadcast::Sender<Value>,
) -> JoinHandle<()> {
    let (sim, log) = (sim.clone(), log.to_owned());
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let stamp = sim.clock.stamp(sim.clock.now());
            if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(&log) {
                let _ = writeln!(file, "{stamp} [{stream}] {line}");
            }
            let _ = events.send(json!({"type": stream, "data": format!("{line}\n")}));
        }
    })
}

/// Waits for readers, but not for ever.
pub fn join(readers: impl Iterator<Item = JoinHandle<()>>) {
    const STEP: Duration = Duration::from_millis(2);
    let mut left = GRACE;
    for reader in readers {
        while !reader.is_finished() && !left.is_zero() {
            std::thread::sleep(STEP);
            left = left.saturating_sub(STEP);
        }
    }
}
