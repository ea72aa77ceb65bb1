//! What an instance needs of others than its provider: one file per service.

pub mod registry;
