//! Which candidates a claim picks among. Pure.

/// How many further instances a claim may use after its first.
pub const FURTHER: usize = 2;

/// How many from the front a claim picks among: any of the oldest few, so that callers and replicas do not all fight
/// over one.
pub fn window(in_flight: usize) -> usize {
    (4 * in_flight).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_claims_in_flight() {
        assert_eq!((window(0), window(4), window(64)), (16, 16, 256));
    }
}
