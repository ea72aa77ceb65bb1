//! What the product decides: pure functions over what was observed. No async, no I/O, no clock, no logging.
//!
//! May use `api`, std and jiff's types.

pub mod agent;
pub mod agent_claim;
pub mod backoff;
pub mod budget;
pub mod candidates;
pub mod claim;
pub mod drift;
pub mod hook;
pub mod image;
pub mod import;
pub mod instance;
pub mod invariant;
pub mod plan;
pub mod pool;
pub mod resource;
pub mod settlement;
pub mod sweep;
pub mod template;
pub mod token;
pub mod variables;
