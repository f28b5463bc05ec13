//! Random numbers for back-off and names: no quality is needed, and no dependency.

use std::hash::{BuildHasher, RandomState};

/// A number in `0.0..1.0`.
pub(crate) fn unit() -> f64 {
    (number() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number of 64 bits.
pub(crate) fn number() -> u64 {
    // Every `RandomState` has keys of its own, so that the hash of nothing is random.
    RandomState::new().hash_one(())
}
