//! Fly.io Sprites, from memory, directories and real processes (sprites.md, runtime.md 17).
//!
//! State machines without I/O: `life` (cold, warm, running), `model`, `faults`, `knobs`. Around
//! them `front` (who asks what), `power` (what states do to processes), `machine` (directories and
//! processes), `supervisor` (services), `exec` with `sessions` and `socket` (commands), and
//! `gateway` with `url` (the agent inside, and the way to it).

pub mod answer;
pub mod ask;
pub mod checkpoints;
pub mod control_plane;
pub mod exec;
pub mod faults;
pub mod files;
pub mod front;
pub mod gateway;
pub mod inside;
pub mod knobs;
pub mod life;
pub mod machine;
pub mod model;
pub mod power;
pub mod pump;
pub mod services;
pub mod sessions;
pub mod shims;
pub mod socket;
pub mod state;
pub mod stream;
pub mod supervisor;
pub mod url;
