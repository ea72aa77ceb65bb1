//! Fly.io Sprites as agents: one sprite per agent in the organisation of the token.

/// The step that builds the agent's program inside.
pub const SETUP: &str = "setup";
