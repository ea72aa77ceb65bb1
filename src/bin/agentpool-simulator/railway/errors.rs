//! Railway's errors: texts and codes (railway.md 1.4).

use serde_json::{Value, json};

/// The catch-all code.
pub const INTERNAL: &str = "INTERNAL_SERVER_ERROR";
/// The code of refused input.
pub const BAD_INPUT: &str = "BAD_USER_INPUT";

/// A field error of a resolver.
#[derive(Clone, Debug, PartialEq)]
pub struct Fail {
    /// `message`.
    pub message: String,
    /// `extensions.code`.
    pub code: String,
}

/// What a resolver gives.
pub type Answer<T = Value> = Result<T, Fail>;

/// An error with the catch-all code.
pub fn fail(message: impl Into<String>) -> Fail {
    Fail {
        message: message.into(),
        code: INTERNAL.to_owned(),
    }
}

/// An error about the input.
pub fn bad_input(message: impl Into<String>) -> Fail {
    Fail {
        message: message.into(),
        code: BAD_INPUT.to_owned(),
    }
}

/// Denied, and what most missing ids get.
pub fn not_authorized() -> Fail {
    fail("Not Authorized")
}

/// `<what> not found`.
pub fn not_found(what: &str) -> Fail {
    fail(format!("{what} not found"))
}

/// Fields this simulator has in its schema but not in its world.
pub fn not_simulated(field: &str) -> Fail {
    fail(format!("{field} is not simulated"))
}

const SEPARATOR: char = '\u{1f}';

impl Fail {
    /// Both parts in one text: an executor's error has room for a message only.
    pub fn pack(&self) -> String {
        format!("{}{SEPARATOR}{}", self.code, self.message)
    }

    /// The reverse of [`Fail::pack`]; what was not packed is the executor's own.
    pub fn unpack(text: &str) -> Self {
        let text = text.strip_prefix("resolver error: ").unwrap_or(text);
        match text.split_once(SEPARATOR) {
            Some((code, message)) => Self {
                message: message.to_owned(),
                code: code.to_owned(),
            },
            None => fail(text),
        }
    }

    /// An error object without a place in a document.
    pub fn to_json(&self, trace_id: &str) -> Value {
        json!({"message": self.message, "extensions": {"code": self.code}, "traceId": trace_id})
    }
}

#[cfg(test)]
mod tests {
    use super::{Fail, bad_input, fail};

    #[test]
    fn a_packed_error_comes_out_whole() {
        let error = bad_input("A service named \"a\" already exists in this project");
        assert_eq!(
            Fail::unpack(&format!("resolver error: {}", error.pack())),
            error
        );
        assert_eq!(Fail::unpack("non-null field"), fail("non-null field"));
    }
}
