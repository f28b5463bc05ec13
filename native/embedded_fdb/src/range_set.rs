//! A set of keys as disjoint ranges that don't touch.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::keys::{Key, ALL_END};
use crate::resolver::KeyRange;

/// Ranges by begin, with their ends.
#[derive(Default, Debug)]
pub(crate) struct RangeSet(BTreeMap<Key, Key>);

impl RangeSet {
    /// Whether all keys of a range are in the set.
    pub(crate) fn covers(&self, begin: &[u8], end: &[u8]) -> bool {
        let around = self
            .0
            .range::<[u8], _>((Unbounded, Included(begin)))
            .next_back();
        begin >= end || around.is_some_and(|(_, last)| end <= &last[..])
    }

    /// The range of the set, or the gap between two ranges, that contains `key`, and whether it is in
    /// the set.
    pub(crate) fn around(&self, key: &[u8]) -> (bool, &[u8], &[u8]) {
        let before = self
            .0
            .range::<[u8], _>((Unbounded, Included(key)))
            .next_back();
        let begin: &[u8] = match before {
            Some((begin, end)) if key < &end[..] => return (true, begin, end),
            Some((_, end)) => end,
            None => &[],
        };
        let after = self.0.range::<[u8], _>((Excluded(key), Unbounded)).next();
        (false, begin, after.map_or(ALL_END, |(begin, _)| begin))
    }

    /// The begin of the range, or of the gap, that contains the keys right before `key`, and whether
    /// they are in the set.
    pub(crate) fn before(&self, key: &[u8]) -> (bool, &[u8]) {
        let before = self
            .0
            .range::<[u8], _>((Unbounded, Excluded(key)))
            .next_back();
        match before {
            Some((begin, end)) if key <= &end[..] => (true, begin),
            Some((_, end)) => (false, end),
            None => (false, &[]),
        }
    }

    /// Adds a range, merging it with the ranges it overlaps or touches.
    pub(crate) fn insert(&mut self, mut begin: Key, mut end: Key) {
        if begin >= end {
            return;
        }
        while let Some((b, e)) = self
            .0
            .range::<[u8], _>((Unbounded, Included(&end[..])))
            .next_back()
        {
            if *e < begin {
                break;
            }
            if *b <= begin && end <= *e {
                return;
            }
            let b = b.clone();
            if let Some(e) = self.0.remove(&b) {
                begin = begin.min(b);
                end = end.max(e);
            }
        }
        self.0.insert(begin, end);
    }

    /// The ranges in the order of keys.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.0
            .iter()
            .map(|(begin, end)| (begin.clone(), end.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined() {
        let mut set = RangeSet::default();
        let key = |s: &str| -> Key { s.as_bytes().into() };
        for (begin, end) in [
            ("b", "c"),
            ("e", "f"),
            ("c", "d"),
            ("x", "x"),
            ("z", "y"),
            ("d0", "e"),
        ] {
            set.insert(key(begin), key(end));
        }
        let expected = vec![(key("b"), key("d")), (key("d0"), key("f"))];
        assert_eq!(set.ranges().collect::<Vec<_>>(), expected);
        assert!(set.covers(b"b", b"c\0") && set.covers(b"x", b"x") && !set.covers(b"c", b"d0"));
        assert_eq!(set.around(b"c"), (true, &b"b"[..], &b"d"[..]));
        assert_eq!(set.around(b"d"), (false, &b"d"[..], &b"d0"[..]));
        assert_eq!(set.before(b"d"), (true, &b"b"[..]));
        assert_eq!(set.before(b"d0"), (false, &b"d"[..]));
        assert_eq!(set.before(b"b"), (false, &b""[..]));
        assert_eq!(set.around(b""), (false, &b""[..], &b"b"[..]));
        assert_eq!(set.around(b"f"), (false, &b"f"[..], ALL_END));
        set.insert(key("a"), key("g"));
        assert_eq!(set.ranges().collect::<Vec<_>>(), vec![(key("a"), key("g"))]);
    }
}
