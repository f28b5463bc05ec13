//! Results of futures, laid out as C code reads them.

use std::ffi::CString;

use crate::c_types::{FDBKey, FDBKeyValue, FDBMappedKeyValue};
use crate::keys::{Key, Value};

/// The result of a future. It owns the memory that C code sees.
pub(crate) enum Output {
    Unit,
    Int64(i64),
    UInt64(u64),
    Double(f64),
    Key(Key),
    Value(Option<Value>),
    KeyValues(KeyValues),
    Mapped(MappedRows),
    Keys(KeyArray),
    Strings(StringArray),
    /// A cluster or a database, by its cluster file.
    #[cfg(feature = "old-api")]
    Cluster(String),
    #[cfg(feature = "old-api")]
    Database(String),
}

/// Rows with the array that C code reads.
pub(crate) struct KeyValues {
    pub(crate) array: Vec<FDBKeyValue>,
    pub(crate) more: bool,
    /// The memory that `array` points into.
    _rows: Vec<(Key, Value)>,
}

impl KeyValues {
    pub(crate) fn new(rows: Vec<(Key, Value)>, more: bool) -> Self {
        let array = rows
            .iter()
            .map(|(key, value)| FDBKeyValue::new(key, value))
            .collect();
        KeyValues {
            array,
            more,
            _rows: rows,
        }
    }
}

/// Keys with the array that C code reads.
pub(crate) struct KeyArray {
    pub(crate) array: Vec<FDBKey>,
    _keys: Vec<Key>,
}

impl KeyArray {
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        KeyArray {
            array: keys.iter().map(|key| FDBKey::new(key)).collect(),
            _keys: keys,
        }
    }
}

/// Strings with the array that C code reads.
pub(crate) struct StringArray {
    pub(crate) array: Vec<*const std::ffi::c_char>,
    _strings: Vec<CString>,
}

impl StringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        StringArray {
            array: strings.iter().map(|s| s.as_ptr()).collect(),
            _strings: strings,
        }
    }
}

/// One row of a mapped range, with the contents of its mapped key or range.
pub(crate) struct MappedRow {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) begin: Key,
    pub(crate) end: Key,
    pub(crate) rows: Vec<(Key, Value)>,
    /// There are more rows in the mapped range than a server returns.
    pub(crate) more: bool,
    /// Whether the row leads to a range.
    pub(crate) is_range: bool,
}

/// Rows of a mapped range with the arrays that C code reads.
pub(crate) struct MappedRows {
    pub(crate) array: Vec<FDBMappedKeyValue>,
    pub(crate) more: bool,
    _inner: Vec<KeyValues>,
    _keys: Vec<(Key, Value, Key, Key)>,
}

impl MappedRows {
    pub(crate) fn new(rows: Vec<MappedRow>, more: bool) -> Self {
        let mut mapped = MappedRows {
            array: Vec::new(),
            more,
            _inner: Vec::new(),
            _keys: Vec::new(),
        };
        for row in rows {
            let inner = KeyValues::new(row.rows, false);
            mapped.array.push(FDBMappedKeyValue::new(
                &row.key,
                &row.value,
                &row.begin,
                &row.end,
                &inner.array,
            ));
            mapped._inner.push(inner);
            mapped._keys.push((row.key, row.value, row.begin, row.end));
        }
        mapped
    }
}

// SAFETY: the raw pointers inside point into memory that the same value owns and never changes.
unsafe impl Send for Output {}
