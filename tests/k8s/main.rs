//! Tests against a real API server: see support/cluster.rs for where it comes from.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

#[path = "../support/mod.rs"]
mod support;

mod control_plane;
