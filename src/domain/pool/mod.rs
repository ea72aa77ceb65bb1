//! One pool: its members, how many to create or delete, what its status says.

pub mod decide;
pub mod rollout;
pub mod status;
pub mod view;
mod words;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod leaders_tests;
