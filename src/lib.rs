//! agentpool: warm pools of AI agents outside the cluster.
//!
//! ```text
//!              kubectl / GitOps            HTTP clients, dashboard
//!                    │                              │
//!              AgentPool ◄──── counts ─────── http (every replica)
//!                    │                              │  claim: reserve, call once, record
//!                    ▼                              ▼
//!   controllers/pool ──creates/deletes──► AgentInstance ◄── controllers/instance ──► provider ──► Railway
//!      (domain/pool decides how many)                                └─────────────► runtime  ──► the agent
//! ```
//!
//! Imports point one way: `api ← domain ← {provider, runtime, services} ← k8s ← {claim, operations} ← controllers ←
//! http ← app ← main`. `tests/layering.rs` keeps this true. `clock`, `outbound` and `telemetry` are leaves.

pub mod api;
pub mod app;
pub mod claim;
pub mod clock;
pub mod config;
pub mod controllers;
pub mod domain;
pub mod http;
pub mod k8s;
pub mod operations;
pub mod outbound;
pub mod provider;
pub mod runtime;
pub mod services;
pub mod telemetry;
