//! Random numbers for jitter and sampling. None of them is secret.

use std::hash::{BuildHasher, RandomState};

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Maps numbers to bits of which the highest are spread evenly, also over consecutive numbers (Fibonacci hashing).
/// Deterministic.
pub(crate) fn spread(number: u64) -> u64 {
    number.wrapping_mul(GOLDEN)
}

/// A random number, seeded by the operating system.
pub(crate) fn random() -> u64 {
    // The only random source of the standard library. Each `RandomState` of a thread has other keys than the one
    // before.
    RandomState::new().hash_one(())
}

/// A random number in `0.0..1.0`.
pub(crate) fn random_fraction() -> f64 {
    // An `f64` holds 53 bits exactly.
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A xorshift generator for sampling, repeatable from its seed.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The seed must not be 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(spread(seed))
    }

    /// A number in `0..bound`. The bound must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_fractions_differ_and_are_below_one() {
        let fractions: Vec<f64> = (0..100).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|fraction| (0.0..1.0).contains(fraction)), "{fractions:?}");
        assert!(fractions.iter().any(|fraction| *fraction != fractions[0]), "{fractions:?}");
    }

    #[test]
    fn sampling_reaches_every_index() {
        let mut rng = Rng::new(1);
        let mut seen = [false; 16];
        for _ in 0..1_000 {
            seen[rng.below(16)] = true;
        }
        assert_eq!(seen, [true; 16]);
    }
}
