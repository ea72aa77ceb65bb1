//! One instance: its phase, what was observed of it, what to do next, what its status says.

pub mod decide;
pub mod outcome;
pub mod phase;
pub mod status;
pub mod view;

#[cfg(test)]
pub(in crate::domain) mod fixture;
