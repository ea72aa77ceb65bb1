//! Agents: one process behind each deployment, in both dialects (`contracts/runtime.md`).

pub mod answer;
mod callbacks;
mod container;
pub mod edge;
pub mod faults;
mod gateway;
pub mod knobs;
mod managed;
pub mod model;
mod process;
mod runtime;
pub mod state;
mod wrapper;

pub use wrapper::self_destruct_by_fault;
