//! Random numbers for back-off: no quality is needed, and no dependency.

use std::hash::{BuildHasher, RandomState};

/// A number in `0.0..1.0`.
pub(crate) fn unit() -> f64 {
    // Every `RandomState` has keys of its own, so that the hash of nothing is random.
    (RandomState::new().hash_one(()) >> 11) as f64 / (1u64 << 53) as f64
}
