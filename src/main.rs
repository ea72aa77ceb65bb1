//! The `agentpool` binary: parse, set up, run one subcommand.

use std::process::ExitCode;

use agentpool::config::{Cli, Invocation};
use agentpool::{app, telemetry};
use anyhow::{Context, Result};
use clap::Parser;

fn main() -> ExitCode {
    // Before anything that speaks TLS: reqwest and kube take the process's default provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().validate(|name| std::env::var(name).ok()) {
        Err(error) => fail(&error),
        Ok(Invocation::Crds { kind }) => ended(print_crds(kind.as_deref())),
        Ok(Invocation::Apply(file)) => ended(started(app::apply(file))),
        Ok(Invocation::Claim(order)) => ended(started(app::claim(*order))),
        Ok(Invocation::Import(order)) => match started(app::import(*order)) {
            Ok(false) => ExitCode::from(app::NOT_ALL_IMPORTED),
            ended_well => ended(ended_well.map(drop)),
        },
        Ok(Invocation::Serve(config)) => ended(
            telemetry::logs::init(&config.log_level, config.log_format)
                .map_err(anyhow::Error::from)
                .and_then(|()| started(app::run(*config))),
        ),
    }
}

fn started<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = app::runtime().context("cannot start the runtime")?;
    runtime.block_on(work)
}

fn ended(outcome: Result<()>) -> ExitCode {
    outcome.map_or_else(|error| fail(&format!("{error:#}")), |()| ExitCode::SUCCESS)
}

fn print_crds(kind: Option<&str>) -> Result<()> {
    let all = agentpool::api::crds();
    let known: Vec<String> = all.iter().map(|c| c.spec.names.kind.clone()).collect();
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|c| kind.is_none_or(|k| c.spec.names.kind == k))
        .collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "--kind: there is no such kind; known: {}",
        known.join(", ")
    );
    for (index, crd) in chosen.iter().enumerate() {
        let separator = if index > 0 { "---\n" } else { "" };
        print!("{separator}{}", agentpool::api::to_yaml(crd)?);
    }
    Ok(())
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("agentpool: {error}");
    ExitCode::FAILURE
}
