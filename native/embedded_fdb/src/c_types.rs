//! The structs of `fdb_c.h` (API version 730) in C layout.

use std::ffi::{c_char, c_int, c_void};

/// Handle of a future.
pub enum FDBFuture {}
/// Handle of an immediate result.
pub enum FDBResult {}
/// Handle of a database.
pub enum FDBDatabase {}
/// Handle of a tenant.
pub enum FDBTenant {}
/// Handle of a transaction.
pub enum FDBTransaction {}
/// Handle of a cluster (API versions before 610).
pub enum FDBCluster {}

/// `fdb_error_t`
pub type FDBError = c_int;
/// `fdb_bool_t`
pub type FDBBool = c_int;

/// `FDBKey`
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub struct FDBKey {
    /// First byte.
    pub key: *const u8,
    /// Number of bytes.
    pub key_length: c_int,
}

/// `FDBKeyValue`
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub struct FDBKeyValue {
    /// First byte of the key.
    pub key: *const u8,
    /// Number of bytes of the key.
    pub key_length: c_int,
    /// First byte of the value.
    pub value: *const u8,
    /// Number of bytes of the value.
    pub value_length: c_int,
}

/// `FDBKeyRange`
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub struct FDBKeyRange {
    /// First byte of the first key.
    pub begin_key: *const u8,
    /// Number of bytes of the first key.
    pub begin_key_length: c_int,
    /// First byte of the key after the last.
    pub end_key: *const u8,
    /// Number of bytes of the key after the last.
    pub end_key_length: c_int,
}

/// `FDBKeySelector`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FDBKeySelector {
    /// The key the selector starts from.
    pub key: FDBKey,
    /// Whether the key itself counts.
    pub or_equal: FDBBool,
    /// The number of keys to move.
    pub offset: c_int,
}

/// `FDBGetRangeReqAndResult`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FDBGetRangeReqAndResult {
    /// Begin of the range that was read.
    pub begin: FDBKeySelector,
    /// End of the range that was read.
    pub end: FDBKeySelector,
    /// The rows.
    pub data: *const FDBKeyValue,
    /// Number of rows.
    pub size: c_int,
    /// Number of rows there is memory for.
    pub capacity: c_int,
}

/// `FDBMappedKeyValue`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FDBMappedKeyValue {
    /// The key of the index entry.
    pub key: FDBKey,
    /// The value of the index entry.
    pub value: FDBKey,
    /// The records the entry leads to.
    pub get_range: FDBGetRangeReqAndResult,
    /// Space that the C header reserves.
    pub buffer: [u8; 32],
}

/// `FDBReadBlobGranuleContext`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FDBReadBlobGranuleContext {
    /// Passed to the functions.
    pub user_context: *mut c_void,
    /// Begins to load a part of a file.
    pub start_load:
        Option<unsafe extern "C" fn(*const c_char, c_int, i64, i64, i64, *mut c_void) -> i64>,
    /// The bytes of a load.
    pub get_load: Option<unsafe extern "C" fn(i64, *mut c_void) -> *mut u8>,
    /// Frees the bytes of a load.
    pub free_load: Option<unsafe extern "C" fn(i64, *mut c_void)>,
    /// Whether to leave the files unread.
    pub debug_no_materialize: FDBBool,
    /// How many granules to load at once.
    pub granule_parallelism: c_int,
}

const _: () = {
    assert!(size_of::<FDBKey>() == 12);
    assert!(size_of::<FDBKeyValue>() == 24);
    assert!(size_of::<FDBKeySelector>() == 20);
    assert!(size_of::<FDBGetRangeReqAndResult>() == 56);
    assert!(size_of::<FDBMappedKeyValue>() == 112);
};

/// Lengths of keys and values are far below the range of a C int.
fn length(bytes: &[u8]) -> c_int {
    c_int::try_from(bytes.len()).unwrap_or(c_int::MAX)
}

impl FDBKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        FDBKey {
            key: key.as_ptr(),
            key_length: length(key),
        }
    }
}

impl FDBKeyValue {
    pub(crate) fn new(key: &[u8], value: &[u8]) -> Self {
        FDBKeyValue {
            key: key.as_ptr(),
            key_length: length(key),
            value: value.as_ptr(),
            value_length: length(value),
        }
    }
}

impl FDBMappedKeyValue {
    pub(crate) fn new(
        key: &[u8],
        value: &[u8],
        begin: &[u8],
        end: &[u8],
        rows: &[FDBKeyValue],
    ) -> Self {
        let first_greater_or_equal = |key: &[u8]| FDBKeySelector {
            key: FDBKey::new(key),
            or_equal: 0,
            offset: 1,
        };
        let size = c_int::try_from(rows.len()).unwrap_or(c_int::MAX);
        FDBMappedKeyValue {
            key: FDBKey::new(key),
            value: FDBKey::new(value),
            get_range: FDBGetRangeReqAndResult {
                begin: first_greater_or_equal(begin),
                end: first_greater_or_equal(end),
                data: rows.as_ptr(),
                size,
                capacity: size,
            },
            buffer: [0; 32],
        }
    }
}
