//! Random numbers for back-off and names: good enough for that, and without a dependency.

use std::hash::{BuildHasher, RandomState};

/// A number in `0.0..1.0`.
pub(crate) fn unit() -> f64 {
    (number() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number of 64 bits.
pub(crate) fn number() -> u64 {
    // Every `RandomState` has its own keys, so even the hash of nothing is random.
    RandomState::new().hash_one(())
}
