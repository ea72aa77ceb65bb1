//! Code shared by the tests that talk to a real API server.
//!
//! Used as `#[path = "../support/mod.rs"] mod support;`.
#![allow(dead_code)] // every test binary uses a part of it
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed unwrap is a failed test; tests measure real time and wait for real processes"
)]

pub mod account;
pub mod cluster;
pub mod operator;
pub mod proxy;
pub mod simulator;
pub mod wait;
pub mod world;
