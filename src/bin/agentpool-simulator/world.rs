//! The simulated world and the handle that everything shares.

use crate::agent::model::Agents;
use crate::calls::Calls;
use crate::clock::{Clock, Ms};
use crate::ghcr::Ghcr;
use crate::ledger::Ledger;
use crate::railway::executor::Executor;
use crate::railway::model::Railway;
use crate::railway::seed;
use crate::rng::Random;
use crate::sprites::machine::Machines;
use crate::sprites::model::Sprites;
use crate::sprites::sessions::Sessions;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Everything that exists, behind one lock that is never held across an await.
pub struct World {
    /// Railway.
    pub railway: Railway,
    /// Fly.io Sprites.
    pub sprites: Sprites,
    /// The image registry.
    pub ghcr: Ghcr,
    /// The agents behind their domains, or one alone.
    pub agents: Agents,
    /// What exists and existed.
    pub ledger: Ledger,
    /// What was asked.
    pub calls: Calls,
    /// Chance.
    pub rng: Random,
    /// The latest moment that it was brought to.
    pub moment: Ms,
}

/// The simulator: world, clock and what tasks need.
pub struct Sim {
    /// Time.
    pub clock: Clock,
    /// Railway's schema.
    pub executor: Arc<Executor>,
    /// For callbacks of agents.
    pub http: reqwest::Client,
    /// Work that goes on when its caller has hung up.
    pub tasks: TaskTracker,
    /// Directories and processes of sprites.
    pub machines: Machines,
    /// Commands that run in sprites.
    pub sessions: Sessions,
    world: Mutex<World>,
}

impl Sim {
    /// A fresh world with the default seed in it.
    pub fn new(seed: u64, speed: f64) -> anyhow::Result<Arc<Self>> {
        let executor = Arc::new(Executor::new()?);
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self::with(seed, Clock::start(speed), executor, http))
    }

    /// The same on another clock, with parts that many worlds can share.
    pub fn with(
        seed: u64,
        clock: Clock,
        executor: Arc<Executor>,
        http: reqwest::Client,
    ) -> Arc<Self> {
        let world = World {
            railway: seed::default_world(0),
            sprites: Sprites::seeded(),
            ghcr: Ghcr::default(),
            agents: Agents::default(),
            ledger: Ledger::default(),
            calls: Calls::default(),
            rng: Random::new(seed),
            moment: 0,
        };
        Arc::new(Self {
            clock,
            executor,
            http,
            tasks: TaskTracker::new(),
            machines: Machines::default(),
            sessions: Sessions::default(),
            world: Mutex::new(world),
        })
    }

    /// Locks the world. A panic elsewhere does not end the simulation.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts work that outlives whoever asked for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(work)
    }
}
