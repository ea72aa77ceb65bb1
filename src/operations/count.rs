//! The `count` of replenish and drain as the predecessor read it: leniently. Pure.

use serde_json::Value;

/// The most that one call creates or removes.
pub const MAX_COUNT: u32 = 20;

/// A drain count below zero; old builds removed all but so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("count must be a positive integer")]
pub struct NegativeCount;

/// How many to create; `None` (run a cycle instead) where it is missing, unparsable, zero or negative.
pub fn replenish(count: Option<&Value>) -> Option<u32> {
    whole(count).filter(|n| *n > 0.0).map(capped)
}

/// How many to drain: 1 where it is missing, unparsable or zero.
pub fn drain(count: Option<&Value>) -> Result<u32, NegativeCount> {
    match whole(count) {
        Some(n) if n < 0.0 => Err(NegativeCount),
        Some(n) if n > 0.0 => Ok(capped(n)),
        _ => Ok(1),
    }
}

/// A number or numeric string, truncated towards zero.
fn whole(count: Option<&Value>) -> Option<f64> {
    let number = match count? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| n.is_finite()).map(f64::trunc)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, whole and at most MAX_COUNT"
)]
fn capped(n: f64) -> u32 {
    n.min(f64::from(MAX_COUNT)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// About: N08, D22, D25
    #[test]
    fn counts_are_read_leniently() {
        let negative = Err(NegativeCount);
        for (given, created, drained) in [
            (json!("3"), Some(3), Ok(3)),
            (json!(" 7 "), Some(7), Ok(7)),
            (json!(2.9), Some(2), Ok(2)),
            (json!("2.9"), Some(2), Ok(2)),
            (json!(-1), None, negative),
            (json!("-4"), None, negative),
            (json!(-0.5), None, Ok(1)),
            (json!(0), None, Ok(1)),
            (json!(0.9), None, Ok(1)),
            (json!("x"), None, Ok(1)),
            (json!(""), None, Ok(1)),
            (json!("inf"), None, Ok(1)),
            (json!("NaN"), None, Ok(1)),
            (json!(null), None, Ok(1)),
            (json!(true), None, Ok(1)),
            (json!([3]), None, Ok(1)),
            (json!(20), Some(20), Ok(20)),
            (json!(21), Some(20), Ok(20)),
            (json!(1000), Some(20), Ok(20)),
            (json!(1e300), Some(20), Ok(20)),
        ] {
            assert_eq!(replenish(Some(&given)), created, "replenish {given}");
            assert_eq!(drain(Some(&given)), drained, "drain {given}");
        }
        assert_eq!((replenish(None), drain(None)), (None, Ok(1)));
    }
}
