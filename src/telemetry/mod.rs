//! What the process tells of itself: logs and metrics. A leaf: uses no other module of ours.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
