//! The C API's types in C layout.

use std::os::raw::{c_int, c_uchar, c_void};

/// An error's number; 0 is success.
pub type fdb_error_t = c_int;
/// 0 is false, everything else is true.
pub type fdb_bool_t = c_int;
/// The callback that [`fdb_future_set_callback`](crate::fdb_future_set_callback) calls when a future is ready.
pub type FDBCallback =
    Option<unsafe extern "C" fn(future: *mut FDBFuture, callback_parameter: *mut c_void)>;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident = $alias:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name {
            _private: [u8; 0],
        }
        $(#[$doc])*
        pub type $alias = $name;
    )*};
}

opaque! {
    /// A future result.
    FDB_future = FDBFuture;
    /// An open database.
    FDB_database = FDBDatabase;
    /// A named part of the keys.
    FDB_tenant = FDBTenant;
    /// A transaction.
    FDB_transaction = FDBTransaction;
}

/// A key that belongs to the future that returned it.
#[repr(C, packed(4))]
#[derive(Debug, Clone, Copy)]
pub struct FDBKey {
    /// The first byte.
    pub key: *const u8,
    /// The length in bytes.
    pub key_length: c_int,
}

/// A row that belongs to the future that returned it.
#[repr(C, packed(4))]
#[derive(Debug, Clone, Copy)]
pub struct FDBKeyValue {
    /// The key's first byte.
    pub key: *const u8,
    /// The key's length in bytes.
    pub key_length: c_int,
    /// The value's first byte.
    pub value: *const u8,
    /// The value's length in bytes.
    pub value_length: c_int,
}

/// A key selector: the key at `offset` from the last one less than (or equal to) `key`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FDBKeySelector {
    /// Where to start.
    pub key: FDBKey,
    /// Whether `key` itself counts.
    pub orEqual: fdb_bool_t,
    /// The number of keys to move.
    pub offset: c_int,
}

/// A range read of a mapped range, with its rows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FDBGetRangeReqAndResult {
    /// The first key.
    pub begin: FDBKeySelector,
    /// The key after the last.
    pub end: FDBKeySelector,
    /// The rows.
    pub data: *mut FDBKeyValue,
    /// The number of rows in `data`.
    pub m_size: c_int,
    /// The capacity of `data`.
    pub m_capacity: c_int,
}

/// A row of a mapped range: an index entry and what it refers to.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FDBMappedKeyValue {
    /// The index entry's key.
    pub key: FDBKey,
    /// The index entry's value.
    pub value: FDBKey,
    /// What it refers to.
    pub getRange: FDBGetRangeReqAndResult,
    /// For the client library's internal use.
    pub buffer: [c_uchar; 32],
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_are_those_of_the_c_header() {
        assert_eq!((size_of::<FDBKey>(), align_of::<FDBKey>()), (12, 4));
        assert_eq!(
            (size_of::<FDBKeyValue>(), align_of::<FDBKeyValue>()),
            (24, 4)
        );
        assert_eq!(offset_of!(FDBKeyValue, value), 12);
        assert_eq!(size_of::<FDBKeySelector>(), 20);
        assert_eq!(size_of::<FDBGetRangeReqAndResult>(), 56);
        assert_eq!(offset_of!(FDBGetRangeReqAndResult, data), 40);
        assert_eq!(size_of::<FDBMappedKeyValue>(), 112);
        assert_eq!(offset_of!(FDBMappedKeyValue, getRange), 24);
        assert_eq!(offset_of!(FDBMappedKeyValue, buffer), 80);
    }
}
