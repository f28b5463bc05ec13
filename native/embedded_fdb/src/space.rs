//! The keys that a transaction can access at its read version: all of them, or those of a tenant.

use std::ops::Bound::{Excluded, Included};

use crate::keys::{Key, Value, METADATA_VERSION};
use crate::mvcc::Map;

/// A snapshot seen through a prefix, which is empty outside of tenants.
///
/// Keys go in and come out without the prefix.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    map: Map,
    prefix: Key,
}

impl Space {
    pub(crate) fn new(map: Map, prefix: Key) -> Self {
        Space { map, prefix }
    }

    /// The prefix of a tenant's keys in the database: its number.
    pub(crate) fn tenant_prefix(id: i64) -> Key {
        id.to_be_bytes()[..].into()
    }

    /// Whether there is a prefix.
    pub(crate) fn is_tenant(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// The snapshot below the prefix and outside of it.
    pub(crate) fn everything(&self) -> &Map {
        &self.map
    }

    /// A key as stored in the database.
    pub(crate) fn outer(&self, key: &[u8]) -> Key {
        [&self.prefix[..], key].concat().into()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Value> {
        if self.prefix.is_empty() {
            self.map.get(key)
        } else {
            self.map.get(&self.outer(key)[..])
        }
    }

    /// As `get`; the metadata version is the same for all tenants.
    pub(crate) fn get_or_metadata_version(&self, key: &[u8]) -> Option<&Value> {
        if key == METADATA_VERSION {
            self.map.get(key)
        } else {
            self.get(key)
        }
    }

    /// The rows in a range, in the order of keys.
    pub(crate) fn range<'a>(
        &'a self,
        begin: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (Key, &'a Value)> {
        let cut = self.prefix.len();
        let rows = if cut == 0 {
            self.map
                .range::<_, [u8]>((Included(begin), Excluded(end.max(begin))))
        } else {
            let (begin, end) = (self.outer(begin), self.outer(end.max(begin)));
            self.map
                .range::<_, [u8]>((Included(&begin[..]), Excluded(&end[..])))
        };
        rows.map(move |(key, value)| {
            (
                if cut == 0 {
                    key.clone()
                } else {
                    key[cut..].into()
                },
                value,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_hides_everything_else() {
        let key = |s: &str| -> Key { s.as_bytes().into() };
        let map: Map = ["a", "p", "pa", "pb", "q"]
            .iter()
            .map(|k| (key(k), key(k)))
            .collect();
        let space = Space::new(map, key("p"));
        assert_eq!(space.get(b"a"), Some(&key("pa")));
        assert_eq!(space.get(b"q"), None);
        let keys: Vec<Key> = space.range(b"", b"\xff").map(|(key, _)| key).collect();
        assert_eq!(keys, [key(""), key("a"), key("b")]);
        assert_eq!(space.range(b"b", b"a").count(), 0);
    }
}
