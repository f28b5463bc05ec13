//! Optimistic concurrency: at which version each key was last written.
//!
//! A transaction may commit if none of the data it read was written after its read version.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::keys::{key_after, Key};
use crate::mvcc::Version;

/// A range of keys, begin included, end excluded.
pub(crate) type KeyRange = (Key, Key);

/// The version of the last write of every key.
pub(crate) struct Resolver {
    /// Of keys that were written by themselves, as most are: one place to find for each.
    keys: Swept,
    /// Of ranges, as steps: a key has the version of the nearest boundary at or before it.
    steps: Swept,
    /// Versions that were not swept yet.
    owed: usize,
}

/// Versions by key, from which the old ones are taken bit by bit.
#[derive(Default)]
struct Swept {
    versions: BTreeMap<Key, Version>,
    /// Where the sweep goes on.
    from: Option<Key>,
}

/// Versions that are swept at a time.
const BATCH: usize = 256;

impl Default for Resolver {
    fn default() -> Self {
        let mut steps = Swept::default();
        steps.versions.insert([][..].into(), 0);
        Resolver {
            keys: Swept::default(),
            steps,
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
        let by_itself = if is_single_key(range) {
            let written = self.keys.versions.get(&begin[..]);
            written.is_some_and(|&written| written > version)
        } else {
            let bounds = (Included(&begin[..]), Excluded(&end[..]));
            let mut inside = self.keys.versions.range::<[u8], _>(bounds);
            inside.any(|(_, &written)| written > version)
        };
        by_itself || self.in_range_after(range, version)
    }

    /// Whether a range that meets this one was written after `version`.
    fn in_range_after(&self, (begin, end): &KeyRange, version: Version) -> bool {
        let up_to_end = (Unbounded, Excluded(&end[..]));
        for (key, &written) in self.steps.versions.range::<[u8], _>(up_to_end).rev() {
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
        if is_single_key(range) {
            self.keys.versions.insert(begin.clone(), version);
            return;
        }
        let steps = &mut self.steps.versions;
        let (mut at_begin, mut at_end) = (false, false);
        // The version of the keys from `end` on.
        let mut after = None;
        let mut inside = Vec::new();
        let bounds = (Included(&begin[..]), Included(&end[..]));
        for (key, written) in steps.range_mut::<[u8], _>(bounds) {
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
            let after = after.unwrap_or_else(|| version_before(steps, begin));
            steps.insert(end.clone(), after);
        }
        for key in &inside {
            steps.remove(key);
        }
        if !at_begin {
            steps.insert(begin.clone(), version);
        }
    }

    /// Forgets a few versions older than `oldest`: no read version can tell them apart.
    ///
    /// Called once for each commit, it keeps up with what commits add. Calls add up to [`BATCH`] first:
    /// finding the place costs more than going on from it.
    pub(crate) fn sweep(&mut self, oldest: Version, budget: usize) {
        self.owed += budget;
        if self.owed < BATCH {
            return;
        }
        let budget = std::mem::take(&mut self.owed);
        self.keys.sweep(budget, |_, written| written < oldest);
        let from = self.steps.from.as_deref().unwrap_or_default();
        let mut old_before = version_before(&self.steps.versions, from) < oldest;
        self.steps.sweep(budget, |key, written| {
            let old = written < oldest;
            // An old step joins an old one before it. The first has none.
            let useless = old && old_before && !key.is_empty();
            old_before = old;
            useless
        });
    }
}

/// The version of the keys up to `key`.
fn version_before(steps: &BTreeMap<Key, Version>, key: &[u8]) -> Version {
    let up_to_key = (Unbounded, Excluded(key));
    let before = steps.range::<[u8], _>(up_to_key).next_back();
    before.map_or(0, |(_, &written)| written)
}

impl Swept {
    /// Looks at the next few versions and takes away those that are useless.
    fn sweep(&mut self, budget: usize, mut useless: impl FnMut(&[u8], Version) -> bool) {
        let from = match &self.from {
            Some(key) => Included(&key[..]),
            None => Unbounded,
        };
        let mut rest = self.versions.range::<[u8], _>((from, Unbounded));
        let taken: Vec<Key> = rest
            .by_ref()
            .take(budget)
            .filter(|(key, &written)| useless(key, written))
            .map(|(key, _)| key.clone())
            .collect();
        self.from = rest.next().map(|(key, _)| key.clone());
        for key in &taken {
            self.versions.remove(key);
        }
    }
}

/// The range of exactly one key.
pub(crate) fn single_key(key: &Key) -> KeyRange {
    (key.clone(), key_after(key))
}

/// Whether a range has one key alone.
fn is_single_key((begin, end): &KeyRange) -> bool {
    end.len() == begin.len() + 1 && end.last() == Some(&0) && end.starts_with(begin)
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
            let (mut written, mut read) = ((bound(), bound()), (bound(), bound()));
            for range in [&mut written, &mut read] {
                if draw(2) == 0 {
                    *range = single_key(&range.0);
                }
            }
            let since = (version - 1 - draw(60) as Version).max(0);
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
        assert_eq!(resolver.keys.versions.len(), 0);
        for i in 0..100u8 {
            resolver.record(&([i][..].into(), [i + 1][..].into()), 2000);
        }
        assert_eq!(resolver.steps.versions.len(), 102);
        for _ in 0..100 {
            resolver.sweep(3000, 7);
        }
        assert_eq!(resolver.steps.versions.len(), 1);
    }
}
