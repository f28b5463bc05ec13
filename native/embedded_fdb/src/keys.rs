//! Keys, key selectors and the limits of a range read.

use std::sync::Arc;

/// A key. Cheap to clone: snapshots, caches and results share one allocation.
pub(crate) type Key = Arc<[u8]>;
/// A value, shared like [`Key`].
pub(crate) type Value = Arc<[u8]>;

/// End of the applications' keys, and begin of the system keys.
pub(crate) const NORMAL_END: &[u8] = b"\xff";
/// End of all stored keys; the special keys begin here.
pub(crate) const ALL_END: &[u8] = b"\xff\xff";
/// End of the special keys.
pub(crate) const SPECIAL_END: &[u8] = b"\xff\xff\xff";
/// Layers versionstamp this key when their metadata change; readable without any option.
pub(crate) const METADATA_VERSION: &[u8] = b"\xff/metadataVersion";

pub(crate) const KEY_SIZE_LIMIT: usize = 10_000;
pub(crate) const SYSTEM_KEY_SIZE_LIMIT: usize = 30_000;
pub(crate) const VALUE_SIZE_LIMIT: usize = 100_000;
pub(crate) const TENANT_PREFIX_SIZE: usize = 8;

/// The smallest key greater than `key`.
pub(crate) fn key_after(key: &[u8]) -> Key {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The same among stored keys, of which there is none after the last.
pub(crate) fn stored_key_after(key: &[u8]) -> Key {
    if key == ALL_END {
        key.into()
    } else {
        key_after(key)
    }
}

/// Whether `next` is [`key_after`] of `key`.
pub(crate) fn is_key_after(next: &[u8], key: &[u8]) -> bool {
    next.len() == key.len() + 1 && next.last() == Some(&0) && next.starts_with(key)
}

/// The longest key that may be written; raw access leaves space for a tenant's prefix.
pub(crate) fn max_write_key_size(key: &[u8], raw_access: bool) -> usize {
    if key.starts_with(NORMAL_END) {
        SYSTEM_KEY_SIZE_LIMIT
    } else if raw_access {
        KEY_SIZE_LIMIT + TENANT_PREFIX_SIZE
    } else {
        KEY_SIZE_LIMIT
    }
}

/// The longest key that can exist.
pub(crate) fn max_key_size(key: &[u8]) -> usize {
    max_write_key_size(key, true)
}

/// Truncates a range's boundary that is longer than any possible key: the range stays the same.
pub(crate) fn clamp_boundary(key: &[u8]) -> &[u8] {
    let max = max_key_size(key);
    if key.len() > max {
        &key[..=max]
    } else {
        key
    }
}

/// Finds a key by position: take the last key below `key` (or up to `key` with `or_equal`),
/// then move `offset` keys to the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeySelector {
    pub(crate) key: Key,
    pub(crate) or_equal: bool,
    pub(crate) offset: i32,
}

impl KeySelector {
    pub(crate) fn first_greater_or_equal(key: impl Into<Key>) -> Self {
        KeySelector {
            key: key.into(),
            or_equal: false,
            offset: 1,
        }
    }

    /// The same selector without `or_equal`: offset 1 is then the first key at or after `key`. For a
    /// client, the end of the stored keys has no successor.
    pub(crate) fn without_or_equal(self) -> Self {
        if self.or_equal {
            KeySelector {
                key: clamp_boundary(&stored_key_after(&self.key)).into(),
                or_equal: false,
                offset: self.offset,
            }
        } else {
            self
        }
    }

    pub(crate) fn is_first_greater_or_equal(&self) -> bool {
        !self.or_equal && self.offset == 1
    }
}

/// How much one range read may return. It returns at least `min_rows` rows whatever the byte limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rows: Option<usize>,
    pub(crate) bytes: Option<usize>,
    pub(crate) min_rows: usize,
    /// The client passed meaningless numbers.
    pub(crate) valid: bool,
}

impl Limits {
    pub(crate) fn new(rows: Option<usize>, bytes: Option<usize>) -> Self {
        Limits {
            rows,
            bytes,
            min_rows: 1,
            valid: true,
        }
    }

    pub(crate) fn rows(rows: usize) -> Self {
        Limits::new(Some(rows), None)
    }

    pub(crate) fn reached(&self) -> bool {
        self.rows == Some(0) || (self.bytes == Some(0) && self.min_rows == 0)
    }

    /// Whether `min_rows` rows have been returned, so that a byte limit may end the read.
    pub(crate) fn has_satisfied_min_rows(&self) -> bool {
        self.bytes.is_some() && self.min_rows == 0
    }

    /// Subtracts one row from the limits; a client counts 8 bytes for each row beside its key and value.
    pub(crate) fn count(&mut self, key: &[u8], value: &[u8]) {
        self.min_rows = self.min_rows.saturating_sub(1);
        if let Some(rows) = &mut self.rows {
            *rows = rows.saturating_sub(1);
        }
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.saturating_sub(8 + key.len() + value.len());
        }
    }
}

/// The rows of a range read, and where it stopped.
#[derive(Debug)]
pub(crate) struct Rows<R = (Key, Value)> {
    pub(crate) rows: Vec<R>,
    /// There may be more rows in the range.
    pub(crate) more: bool,
    /// A selector ran off the beginning of the keys.
    pub(crate) read_to_begin: bool,
    /// A selector ran off the end of the keys.
    pub(crate) read_through_end: bool,
    /// How many requests to servers it took, one after the other.
    pub(crate) rounds: u32,
}

impl<R> Default for Rows<R> {
    fn default() -> Self {
        Rows {
            rows: Vec::new(),
            more: false,
            read_to_begin: false,
            read_through_end: false,
            rounds: 0,
        }
    }
}

impl<R> Rows<R> {
    /// Adds rows; doesn't copy if they are the first.
    pub(crate) fn append(&mut self, mut rows: Vec<R>) {
        if self.rows.is_empty() {
            self.rows = rows;
        } else {
            self.rows.append(&mut rows);
        }
    }
}
