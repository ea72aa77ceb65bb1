//! The Sprites client against a local server: what it sends, and what it makes of every kind of answer, of every
//! stream that is cut and of every way in which a command's connection ends. Real sockets: never under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests: a server lives as long as its test"
)]

use std::time::Duration;

use agentpool::api::condition::Reason;
use agentpool::provider::sprites::{
    CHECKPOINT, FILES, GATEWAY, MARK as MARKER, RESTART, RESTORE, SETUP, SPRITE,
};
use agentpool::provider::{
    AgentProvider, Class, Facts, Liveness, Operation, Outcome, Owner, Presence, Repeat, Seen, Step,
};
use serde_json::{Value, json};

#[path = "wire_sprites/script.rs"]
mod script;

#[path = "wire_sprites/commands.rs"]
mod commands;
#[path = "wire_sprites/conformance.rs"]
mod conformance;
#[path = "wire_sprites/fleet.rs"]
mod fleet;
#[path = "wire_sprites/inside.rs"]
mod inside;
#[path = "wire_sprites/recycle.rs"]
mod recycle;
#[path = "wire_sprites/steps.rs"]
mod steps;

use script::*;
