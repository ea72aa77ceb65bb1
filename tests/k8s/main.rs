//! Tests against a real API server: see support/cluster.rs for where it comes from.

#[path = "../support/mod.rs"]
mod support;

mod control_plane;
