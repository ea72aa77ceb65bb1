//! The whole system in virtual time: the real reconcilers, claim service and clients on an in-process API server and
//! the simulator's own state machines, from one seed, without sockets.
//!
//! The simulator is a binary and shares nothing with the library, so its modules are compiled in here by path. They
//! stand at this crate's root because they name each other by `crate::…`. They are not made a library: the tests of
//! the product would then be one `use` away from asserting on the other side's types.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

macro_rules! simulator {
    ($($name:ident = $path:literal),* $(,)?) => {
        $(
            #[allow(dead_code, unused_imports, clippy::disallowed_methods, missing_docs, reason = "the simulator's, most of it used by its sockets only")]
            #[path = $path]
            mod $name;
        )*
    };
}

simulator! {
    agent = "../../src/bin/agentpool-simulator/agent/mod.rs",
    body = "../../src/bin/agentpool-simulator/body.rs",
    calls = "../../src/bin/agentpool-simulator/calls.rs",
    clock = "../../src/bin/agentpool-simulator/clock.rs",
    ghcr = "../../src/bin/agentpool-simulator/ghcr.rs",
    knobs = "../../src/bin/agentpool-simulator/knobs.rs",
    ledger = "../../src/bin/agentpool-simulator/ledger.rs",
    peers = "../../src/bin/agentpool-simulator/peers.rs",
    railway = "../../src/bin/agentpool-simulator/railway/mod.rs",
    rng = "../../src/bin/agentpool-simulator/rng.rs",
    rules = "../../src/bin/agentpool-simulator/rules.rs",
    sprites = "../../src/bin/agentpool-simulator/sprites/mod.rs",
    world = "../../src/bin/agentpool-simulator/world.rs",
}

mod answers;
mod api_server;
mod checks;
mod cosmos;
mod crash_points;
mod fill;
mod first;
mod long_runs;
mod operator;
mod process;
mod roads;
mod sample;
mod settlement;
mod traps;
