//! A transaction's writes to special keys, until it commits.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::keys::{key_after, Key, Value};

/// Cleared ranges and set keys, by their first keys: the end, and the value of a key that was set.
#[derive(Default, Debug)]
pub(crate) struct Writes(BTreeMap<Key, (Key, Option<Value>)>);

#[cfg_attr(
    not(feature = "management"),
    expect(dead_code, reason = "nothing that can be written is stored")
)]
impl Writes {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) {
        self.insert(key, &key_after(key), Some(value.into()));
    }

    pub(crate) fn clear(&mut self, begin: &[u8], end: &[u8]) {
        self.insert(begin, end, None);
    }

    fn insert(&mut self, begin: &[u8], end: &[u8], value: Option<Value>) {
        self.forget(begin, end);
        self.0.insert(begin.into(), (end.into(), value));
    }

    /// Reverts the writes in a range.
    pub(crate) fn forget(&mut self, begin: &[u8], end: &[u8]) {
        let before = self
            .0
            .range::<[u8], _>((Unbounded, Excluded(begin)))
            .next_back();
        let cut = before.map(|(key, (end, value))| (key.clone(), end.clone(), value.clone()));
        if let Some((key, last, value)) = cut.filter(|(_, last, _)| last[..] > *begin) {
            if last[..] > *end {
                self.0.insert(end.into(), (last, value.clone()));
            }
            self.0.insert(key, (begin.into(), value));
        }
        let covered: Vec<Key> = self
            .0
            .range::<[u8], _>((Included(begin), Excluded(end)))
            .map(|(key, _)| key.clone())
            .collect();
        for key in covered {
            if let Some((last, value)) = self.0.remove(&key) {
                if last[..] > *end {
                    self.0.insert(end.into(), (last, value));
                }
            }
        }
    }

    /// The write to a key: none, a value, or a clear.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&Value>> {
        let around = self
            .0
            .range::<[u8], _>((Unbounded, Included(key)))
            .next_back();
        let (_, (end, value)) = around?;
        (key < &end[..]).then_some(value.as_ref())
    }

    /// The writes whose first keys are in a range.
    pub(crate) fn within(
        &self,
        begin: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = (&Key, &Key, Option<&Value>)> {
        self.0
            .range::<[u8], _>((Included(begin), Excluded(end)))
            .map(|(key, (end, value))| (key, end, value.as_ref()))
    }

    /// Lays the writes over rows that were read from a range.
    pub(crate) fn lay_over(
        &self,
        rows: Vec<(Key, Value)>,
        begin: &[u8],
        end: &[u8],
    ) -> Vec<(Key, Value)> {
        let mut rows: BTreeMap<Key, Value> = rows.into_iter().collect();
        rows.retain(|key, _| self.get(key).is_none());
        for (key, _, value) in self.within(begin, end) {
            if let Some(value) = value {
                rows.insert(key.clone(), value.clone());
            }
        }
        rows.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_writes_cut_earlier_ones() {
        let mut writes = Writes::default();
        writes.clear(b"b", b"f");
        writes.set(b"c", b"1");
        writes.set(b"a", b"2");
        writes.forget(b"d", b"e");
        let value = |key: &[u8]| writes.get(key).map(|value| value.map(|v| v.to_vec()));
        assert_eq!(value(b"a"), Some(Some(b"2".to_vec())));
        assert_eq!(value(b"b"), Some(None));
        assert_eq!(value(b"c"), Some(Some(b"1".to_vec())));
        assert_eq!(value(b"c\0"), Some(None));
        assert_eq!(value(b"d"), None);
        assert_eq!(value(b"e"), Some(None));
        assert_eq!(value(b"f"), None);
        let row = |key: &str, value: &str| (key.as_bytes().into(), value.as_bytes().into());
        let read = vec![row("b", "x"), row("c", "y"), row("d", "z")];
        let expected = vec![row("c", "1"), row("d", "z")];
        assert_eq!(writes.lay_over(read, b"b", b"g"), expected);
    }
}
