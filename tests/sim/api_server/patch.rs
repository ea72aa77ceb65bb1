//! The forms of a patch, and what each does to an object.

use serde_json::Value;

use super::Refusal;

/// A change of an object.
#[derive(Debug)]
pub(super) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// A PUT.
    Whole(Value),
}

impl Patch {
    pub(super) fn parse(content: &str, body: &[u8]) -> Result<Self, Refusal> {
        let bad = |e: serde_json::Error| {
            Refusal::new(400, "BadRequest", format!("the patch cannot be read: {e}"))
        };
        match content {
            "application/json-patch+json" => {
                serde_json::from_slice(body).map(Self::Json).map_err(bad)
            }
            "application/merge-patch+json" => {
                serde_json::from_slice(body).map(Self::Merge).map_err(bad)
            }
            other => Err(Refusal::new(
                415,
                "UnsupportedMediaType",
                format!("{other} is not simulated: nothing of ours sends it"),
            )),
        }
    }

    /// The object as the patch would have it.
    pub(super) fn applied(&self, old: &Value) -> Result<Value, Refusal> {
        let mut new = old.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut new, patch).map_err(|_| {
                Refusal::new(
                    422,
                    "Invalid",
                    "the server rejected our request due to an error in our request",
                )
            })?,
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Whole(value) => new = value.clone(),
        }
        Ok(new)
    }
}
