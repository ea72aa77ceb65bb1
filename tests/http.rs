//! The HTTP surface in process: routes, keys, listings, claims, changes. No cluster and no socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "http/callbacks.rs"]
mod callbacks;
#[path = "http/changes.rs"]
mod changes;
#[path = "http/claims.rs"]
mod claims;
#[path = "http/reads.rs"]
mod reads;
#[path = "http/surface.rs"]
mod surface;
#[path = "http/webhooks.rs"]
mod webhooks;
#[path = "http/world.rs"]
mod world;
