//! Optimistic concurrency: at which version each key was last written.
//!
//! A transaction may commit if none of the data it read was written after its read version.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::keys::{key_after, Key};
use crate::mvcc::Version;

/// A range of keys, begin included, end excluded.
pub(crate) type KeyRange = (Key, Key);

/// The version of the last write of every key, as steps: a key has the version of the nearest boundary
/// at or before it.
pub(crate) struct Resolver {
    steps: BTreeMap<Key, Version>,
    /// Where the sweep for obsolete boundaries continues.
    swept: Key,
    /// Steps not swept yet.
    owed: usize,
}

/// Steps swept at a time.
const BATCH: usize = 256;

impl Default for Resolver {
    fn default() -> Self {
        let empty: Key = [][..].into();
        Resolver {
            steps: BTreeMap::from([(empty.clone(), 0)]),
            swept: empty,
            owed: 0,
        }
    }
}

impl Resolver {
    /// Whether any key of the range was written after `version`.
    pub(crate) fn written_after(&self, range: &KeyRange, version: Version) -> bool {
        let (begin, end) = range;
        if begin >= end {
            return false;
        }
        let up_to_end = (Unbounded, Excluded(&end[..]));
        for (key, &written) in self.steps.range::<[u8], _>(up_to_end).rev() {
            if written > version {
                return true;
            }
            if key <= begin {
                break;
            }
        }
        false
    }

    /// Records a write of the range at `version`, the highest so far.
    pub(crate) fn record(&mut self, range: &KeyRange, version: Version) {
        let (begin, end) = range;
        if begin >= end {
            return;
        }
        let (mut at_begin, mut at_end) = (false, false);
        // The version of the keys from `end` on.
        let mut after = None;
        let mut inside = Vec::new();
        let bounds = (Included(&begin[..]), Included(&end[..]));
        for (key, written) in self.steps.range_mut::<[u8], _>(bounds) {
            if key == end {
                at_end = true;
                break;
            }
            after = Some(*written);
            if key == begin {
                at_begin = true;
                *written = version;
            } else {
                inside.push(key.clone());
            }
        }
        if !at_end {
            let after = after.unwrap_or_else(|| self.version_before(begin));
            self.steps.insert(end.clone(), after);
        }
        for key in &inside {
            self.steps.remove(key);
        }
        if !at_begin {
            self.steps.insert(begin.clone(), version);
        }
    }

    /// The version of the keys up to `key`.
    fn version_before(&self, key: &[u8]) -> Version {
        let up_to_key = (Unbounded, Excluded(key));
        let before = self.steps.range::<[u8], _>(up_to_key).next_back();
        before.map_or(0, |(_, &written)| written)
    }

    /// Merges a few steps older than `oldest`, which no read version can tell apart.
    ///
    /// Called once per commit, it keeps up with the boundaries that commits add. Calls first accumulate
    /// [`BATCH`] steps, because finding the place costs more than continuing from it.
    pub(crate) fn sweep(&mut self, oldest: Version, budget: usize) {
        self.owed += budget;
        if self.owed < BATCH {
            return;
        }
        let budget = std::mem::take(&mut self.owed);
        let mut old_before = self.version_before(&self.swept) < oldest;
        let mut useless = Vec::new();
        let from_swept = (Included(&self.swept[..]), Unbounded);
        let mut steps = self.steps.range::<[u8], _>(from_swept);
        for (key, &written) in steps.by_ref().take(budget) {
            let old = written < oldest;
            // The first step has no predecessor to merge with.
            if old && old_before && !key.is_empty() {
                useless.push(key.clone());
            }
            old_before = old;
        }
        let next = steps.next().map(|(key, _)| key.clone());
        for key in &useless {
            self.steps.remove(key);
        }
        self.swept = next.unwrap_or_else(|| [][..].into());
    }
}

/// The range of exactly one key.
pub(crate) fn single_key(key: &Key) -> KeyRange {
    (key.clone(), key_after(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(begin: &str, end: &str) -> KeyRange {
        (begin.as_bytes().into(), end.as_bytes().into())
    }

    #[test]
    fn a_range_remembers_the_last_write_of_each_part() {
        let mut resolver = Resolver::default();
        resolver.record(&range("b", "f"), 10);
        resolver.record(&range("c", "d"), 20);
        assert!(!resolver.written_after(&range("a", "b"), 5));
        assert!(resolver.written_after(&range("a", "b\0"), 5));
        assert!(!resolver.written_after(&range("b", "c"), 10));
        assert!(resolver.written_after(&range("b", "c\0"), 10));
        assert!(resolver.written_after(&range("d", "e"), 9));
        assert!(!resolver.written_after(&range("f", "z"), 5));
        assert!(!resolver.written_after(&range("z", "a"), 0));
    }

    #[test]
    fn it_knows_what_a_list_of_all_writes_knows() {
        let mut resolver = Resolver::default();
        let mut writes: Vec<(KeyRange, Version)> = Vec::new();
        let mut random = 1u64;
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        for version in 1..3_000 {
            let mut bound = || -> Key { [b'a' + draw(12) as u8][..].into() };
            let written = (bound(), bound());
            let read = (bound(), bound());
            let since = version - 1 - draw(60) as Version;
            let meets = |(range, at): &(KeyRange, Version)| {
                let (begin, end) = ((&range.0).max(&read.0), (&range.1).min(&read.1));
                *at > since && range.0 < range.1 && read.0 < read.1 && begin < end
            };
            let expected = writes.iter().any(meets);
            assert_eq!(
                resolver.written_after(&read, since),
                expected,
                "{read:?} since {since}"
            );
            resolver.record(&written, version);
            writes.push((written, version));
            resolver.sweep(version - 70, 20);
        }
    }

    #[test]
    fn sweeping_forgets_only_what_is_old() {
        let mut resolver = Resolver::default();
        for i in 0..100u8 {
            resolver.record(&single_key(&[i][..].into()), 10 + i64::from(i % 2) * 90);
        }
        for _ in 0..100 {
            resolver.sweep(50, 7);
        }
        for i in 0..100u8 {
            assert_eq!(
                resolver.written_after(&single_key(&[i][..].into()), 60),
                i % 2 == 1
            );
        }
        for _ in 0..100 {
            resolver.sweep(1000, 7);
        }
        assert_eq!(resolver.steps.len(), 1);
    }
}
