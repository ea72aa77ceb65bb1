//! Railway: the GraphQL API of `contracts/railway.md`, from memory.

mod broken;
pub mod context;
pub mod deploy;
mod deployments;
mod domains;
pub mod effects;
pub mod errors;
pub mod executor;
pub mod faults;
mod force;
pub mod front;
pub mod knobs;
pub mod lifecycle;
pub mod limits;
pub mod model;
mod objects;
pub mod plans;
mod projects;
mod queries;
mod resolve;
pub mod seed;
mod services;
mod settings;
pub mod state;
mod variables;
mod volumes;
