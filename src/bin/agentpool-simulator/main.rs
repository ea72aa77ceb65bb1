//! `agentpool-simulator`: the other side of the contract. It answers like Railway, like Fly.io
//! Sprites and like the agents behind both, under one seed and on a clock that can run fast.
//!
//! It shares no type with the library `agentpool`: what it knows comes from the contracts alone.
//! State machines (`railway::deploy`, `sprites::life`, `agent::model`) do no I/O and take the time as a parameter;
//! `clock` is the only file that reads time, `rng` the only source of chance, `peers` and
//! `control` the only sockets.

mod agent;
mod body;
mod calls;
mod clock;
mod control;
mod ghcr;
mod inside;
mod knobs;
mod ledger;
mod peers;
mod railway;
mod rng;
mod rules;
mod serve;
mod sprites;
mod world;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    name = "agentpool-simulator",
    version,
    about = "Railway, Fly.io Sprites and their agents, on one machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve all peers on one port and the control port beside it
    Serve(serve::ServeArgs),
    /// Serve a single agent alone, whatever the Host header
    Agent(serve::AgentArgs),
    /// What the played programs in a simulated sprite run to reach its API
    #[command(hide = true)]
    Inside(inside::InsideArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .compact()
        .init();
    // Callbacks may go to an https POOL_URL; reqwest was built without a default provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::serve(args).await,
        Command::Agent(args) => serve::agent(args).await,
        Command::Inside(args) => inside::run(args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("agentpool-simulator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
