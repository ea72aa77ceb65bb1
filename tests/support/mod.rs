//! Code shared by the tests that talk to a real API server.
//!
//! Used as `#[path = "../support/mod.rs"] mod support;`.
#![allow(dead_code)] // every test binary uses a part of it

pub mod cluster;
