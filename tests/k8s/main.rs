//! The whole system on a real API server, with the simulator's binary as the outside world. See support/world.rs.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed unwrap is a failed test; tests measure real time and wait for real processes"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent_claims;
mod awake;
mod callbacks;
mod chaos;
mod chart;
mod columns;
mod control_plane;
mod crd_claim;
mod crd_instance;
mod crd_pool;
mod crd_pool_rules;
mod demo;
mod door;
mod environments;
mod expiry;
mod http_calls;
mod http_changes;
mod http_claim;
mod http_races;
mod http_reads;
mod import;
mod install;
mod keys;
mod leadership;
mod lifecycle;
mod looks;
mod one_for_one;
mod parity;
mod pass_through;
mod pending;
mod quiet;
mod race;
mod railway;
mod recycling;
mod rights;
mod rollout;
mod schema;
mod settings;
mod settings_railway;
mod settlement;
mod spine;
mod sprites;
mod start;
mod states;
mod sweep;
mod trouble;
mod waiting;
mod writes;
