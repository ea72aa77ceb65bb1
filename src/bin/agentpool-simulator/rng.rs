//! Chance, from one seed: ids, suffixes, slugs, probabilities, latencies.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// The simulator's only source of randomness.
pub struct Random(StdRng);

impl Random {
    /// The same seed gives the same ids in the same order.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `n` lower-case hex digits.
    pub fn hex(&mut self, n: usize) -> String {
        (0..n)
            .map(|_| char::from_digit(self.below(16) as u32, 16).unwrap_or('0'))
            .collect()
    }

    /// A UUID of version 4.
    pub fn uuid(&mut self) -> String {
        let h = self.hex(31);
        let variant = ['8', '9', 'a', 'b'][self.below(4) as usize];
        format!(
            "{}-{}-4{}-{variant}{}-{}",
            &h[0..8],
            &h[8..12],
            &h[12..15],
            &h[15..18],
            &h[18..30]
        )
    }

    /// A decimal string of 18 digits, as Railway's trace ids.
    pub fn trace_id(&mut self) -> String {
        (100_000_000_000_000_000 + self.below(899_999_999_999_999_999)).to_string()
    }

    /// Evenly in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.0.next_u64() % n }
    }

    /// Evenly in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        if high <= low {
            low
        } else {
            low + self.below((high - low + 1) as u64) as i64
        }
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// An invite slug: base64url of some hundred characters, a `*` after every 300.
    pub fn slug(&mut self) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let length = self.between(320, 440);
        let mut slug = String::new();
        for i in 0..length {
            if i > 0 && i % 300 == 0 {
                slug.push('*');
            }
            slug.push(ALPHABET[self.below(64) as usize] as char);
        }
        slug
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        let id = a.uuid();
        assert_eq!(id, b.uuid());
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert_ne!(id, a.uuid());
    }

    #[test]
    fn a_slug_has_a_star_after_300_characters() {
        let slug = Random::new(1).slug();
        assert_eq!(slug.as_bytes()[300], b'*');
        assert!(slug.len() > 320);
    }
}
