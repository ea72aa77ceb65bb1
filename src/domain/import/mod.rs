//! Taking over the agents of the predecessor: rows of its table become AgentInstances. Pure.
//!
//! `table` reads a file, whatever its form; `row` understands the columns of every generation; `objects` says what a
//! row becomes, by what the provider shows of its resource. A row that cannot be taken says where it stands and why;
//! no text of this module ever holds a token.

pub mod objects;
pub mod row;
pub mod table;

/// The claim's holder on an imported instance.
pub const IMPORTED_BY: &str = "agentpool-import";

/// A row that is not taken: where it stands, which agent it is about where that can be told, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the file.
    pub place: String,
    /// Its id; empty where it cannot be told.
    pub id: String,
    /// Why, and what would be right.
    pub why: String,
}
