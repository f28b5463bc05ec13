//! Optimistic concurrency: which keys were written at which version.
//!
//! A transaction may commit if nothing it read was written after its read version.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::keys::{key_after, Key};
use crate::mvcc::Version;

/// A range of keys, begin included, end excluded.
pub(crate) type KeyRange = (Key, Key);

/// The version of the last write of every key, as steps: a key has the version of the nearest
/// boundary at or before it.
pub(crate) struct Resolver {
    steps: BTreeMap<Key, Version>,
    /// Where the sweep for boundaries nobody needs any more goes on.
    swept: Key,
}

impl Default for Resolver {
    fn default() -> Self {
        let empty: Key = [][..].into();
        Resolver {
            steps: BTreeMap::from([(empty.clone(), 0)]),
            swept: empty,
        }
    }
}

impl Resolver {
    /// Whether a key of the range was written after `version`.
    pub(crate) fn written_after(&self, range: &KeyRange, version: Version) -> bool {
        let (begin, end) = range;
        if begin >= end {
            return false;
        }
        let at_begin = self
            .steps
            .range::<[u8], _>((Unbounded, Included(&begin[..])))
            .next_back();
        at_begin.is_some_and(|(_, &written)| written > version)
            || self
                .steps
                .range::<[u8], _>((Excluded(&begin[..]), Excluded(&end[..])))
                .any(|(_, &written)| written > version)
    }

    /// Records that the range was written at `version`, the highest so far.
    pub(crate) fn record(&mut self, range: &KeyRange, version: Version) {
        let (begin, end) = range;
        if begin >= end {
            return;
        }
        let after = self
            .steps
            .range::<[u8], _>((Unbounded, Included(&end[..])))
            .next_back()
            .map_or(0, |(_, &written)| written);
        let inside: Vec<Key> = self
            .steps
            .range::<[u8], _>((Included(&begin[..]), Excluded(&end[..])))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &inside {
            self.steps.remove(key);
        }
        self.steps.insert(begin.clone(), version);
        self.steps.entry(end.clone()).or_insert(after);
    }

    /// Joins a few steps older than `oldest`: no read version can tell them apart.
    ///
    /// Called once for each commit, it keeps up with the boundaries that commits add.
    pub(crate) fn sweep(&mut self, oldest: Version, budget: usize) {
        let before = self
            .steps
            .range::<[u8], _>((Unbounded, Included(&self.swept[..])))
            .next_back()
            .map_or(0, |(_, &written)| written);
        let mut old_before = before < oldest;
        let mut visited = 0;
        let mut useless = Vec::new();
        let mut next = [][..].into();
        for (key, &written) in self
            .steps
            .range::<[u8], _>((Excluded(&self.swept[..]), Unbounded))
            .take(budget)
        {
            let old = written < oldest;
            if old && old_before {
                useless.push(key.clone());
            }
            old_before = old;
            visited += 1;
            next = key.clone();
        }
        for key in &useless {
            self.steps.remove(key);
        }
        self.swept = if visited == budget {
            next
        } else {
            [][..].into()
        };
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
