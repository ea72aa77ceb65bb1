//! One pool: its members, how many to create or delete, what its status says.

pub mod decide;
pub mod status;
pub mod view;
