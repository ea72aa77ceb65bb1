//! Ports, named tasks, and the way down.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{GRACE, Process};

pub(super) async fn listen(process: &Process, port: u16, flag: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(process.config.listen, port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another with {flag}"))
}

pub(super) fn write_ports(
    path: Option<&Path>,
    api: Option<&TcpListener>,
    operations: &TcpListener,
) -> Result<()> {
    let port = |l: &TcpListener| l.local_addr().map(|a| a.port());
    let api = api.map(port).transpose()?;
    let operations = port(operations)?;
    tracing::info!(api, operations, "listening");
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::json!({"api": api, "operations": operations}).to_string();
    // By way of a second name: whoever waits for the file never reads half of it.
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

pub(super) fn serve(
    process: &Arc<Process>,
    name: &'static str,
    listener: TcpListener,
    router: Router,
) {
    let stop = process.shutdown.clone();
    task(process, name, async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(name, %error, "server ended");
        }
    });
}

/// Spawns a named task; one that ends before shutdown ends the process, which is then started anew.
pub(super) fn task(
    process: &Arc<Process>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let shared = process.clone();
    process.tasks.spawn(async move {
        work.await;
        if !shared.shutdown.is_cancelled() {
            tracing::error!(task = name, "a task ended early: the process stops");
            shared.failed.store(true, Ordering::SeqCst);
            shared.shutdown.cancel();
        }
    });
}

/// The signals by which a process is told to stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// To be called before anything is served: a signal that comes earlier ends the process on the spot.
    pub(super) fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

pub(super) async fn until_told(process: &Arc<Process>, mut signals: StopSignals) {
    tokio::select! {
        _ = signals.terminate.recv() => {}
        _ = signals.interrupt.recv() => {}
        () = process.shutdown.cancelled() => {}
    }
    tracing::info!("stopping: finishing what is in hand");
    process.shutdown.cancel();
    process.tasks.close();
    if tokio::time::timeout(GRACE, process.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("stopped with work in hand; whoever comes next resumes it");
    }
}
