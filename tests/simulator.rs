//! The simulator as others meet it: a built binary on sockets.
//!
//! Every test owns its process and its ports, waits for states and never for durations, and runs
//! the simulator faster than real where the contract's times are long.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed unwrap is a failed test; real time"
)]

mod simulator {
    mod agents;
    mod control;
    mod documents;
    mod faults;
    mod process;
    mod railway;
    mod sprites;
    mod webhooks;
}
