//! The two commands: bind both sockets, say where, run until told to stop.

use crate::agent::model::{Agent, Dialect, Kind};
use crate::railway::model::Variables;
use crate::railway::plans::advance;
use crate::world::Sim;
use crate::{agent, control, peers, railway, sprites};
use anyhow::Context;
use clap::Args;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How often, in real time, the world moves when nobody asks.
const TICK: Duration = Duration::from_millis(20);

/// Options of both commands.
#[derive(Args, Clone)]
pub struct Common {
    /// The port for peers; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:9400")]
    listen: String,
    /// The control port
    #[arg(long, default_value = "127.0.0.1:9401")]
    control: String,
    /// Seed of everything that is left to chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Divides all times
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    speed: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err("must be above 0".to_owned())
    }
}

/// `serve`
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    common: Common,
}

/// `agent`
#[derive(Args)]
pub struct AgentArgs {
    #[command(flatten)]
    common: Common,
    /// Who answers the public port
    #[arg(long, value_enum, default_value = "gateway")]
    dialect: Dialect,
    /// The runtime behind it
    #[arg(long, value_enum, default_value = "openclaw")]
    kind: Kind,
    /// Its token; without one a gateway is open to all
    #[arg(long, env = "GATEWAY_TOKEN", hide_env_values = true)]
    agent_token: Option<String>,
    /// A variable of its environment, NAME=VALUE; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE")]
    vars: Vec<String>,
    /// The name under which the ledger and the control port know it
    #[arg(long, default_value = "alone")]
    host: String,
}

async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Serves all peers.
pub async fn serve(args: ServeArgs) -> anyhow::Result<u8> {
    let sim = Sim::new(args.common.seed, args.common.speed)?;
    run(sim, &args.common).await
}

/// Serves one agent alone; ends with its exit code when it ends.
pub async fn agent(args: AgentArgs) -> anyhow::Result<u8> {
    let sim = Sim::new(args.common.seed, args.common.speed)?;
    let mut vars = Variables::from([("OPENROUTER_API_KEY".to_owned(), "simulated".to_owned())]);
    for pair in &args.vars {
        let (name, value) = pair
            .split_once('=')
            .with_context(|| format!("--var {pair:?} is not NAME=VALUE"))?;
        vars.insert(name.to_owned(), value.to_owned());
    }
    if let Some(token) = args.agent_token {
        vars.insert("GATEWAY_TOKEN".to_owned(), token);
    }
    let agent = Agent {
        id: args.host.clone(),
        account: args.host.clone(),
        hosts: vec![args.host],
        alone: true,
        ..Agent::new(args.dialect, args.kind, vars)
    };
    {
        let now = sim.clock.now();
        let mut world = sim.world();
        let world = &mut *world;
        world.agents.add_alone(&mut world.rng, agent, now);
    }
    run(sim, &args.common).await
}

async fn run(sim: Arc<Sim>, common: &Common) -> anyhow::Result<u8> {
    let (for_peers, for_control) = (bind(&common.listen).await?, bind(&common.control).await?);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    announce(for_peers.local_addr()?, for_control.local_addr()?)?;
    tracing::info!(speed = common.speed, seed = common.seed, "simulating");
    let router = control::router(sim.clone());
    tokio::select! {
        () = peers::serve(sim.clone(), for_peers) => {}
        served = axum::serve(for_control, router) => served?,
        code = tick(sim.clone()) => return Ok(code),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(0)
}

fn announce(peers: SocketAddr, control: SocketAddr) -> anyhow::Result<()> {
    let line = serde_json::json!({"peers": peers.to_string(), "control": control.to_string()});
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Moves the world on; ends with the code of an agent alone that has ended.
async fn tick(sim: Arc<Sim>) -> u8 {
    loop {
        let now = sim.clock.now();
        let (ended, leaving) = {
            let mut world = sim.world();
            let world = &mut *world;
            advance(world, now);
            let alone = world.agents.all.values().find(|a| a.alone);
            let ended = alone.filter(|a| !a.alive).and_then(|a| a.exit_code);
            (ended, world.agents.self_destructing(&mut world.rng, now))
        };
        sprites::power::tick(&sim);
        railway::deliveries::tick(&sim);
        if let Some(code) = ended {
            tracing::info!(code, "the agent has ended");
            return u8::try_from(code).unwrap_or(1);
        }
        for (id, fault) in leaving {
            sim.spawn(agent::self_destruct_by_fault(sim.clone(), id, fault));
        }
        sim.clock.sleep_real(TICK).await;
    }
}
