//! Functions that need a cluster, or blob granules. They return `unsupported_operation`.

use std::ffi::{c_int, c_void};

use super::arguments::{future, wrong_kind};
use crate::c_types::{
    FDBBool, FDBDatabase, FDBError, FDBFuture, FDBKeyRange, FDBKeyValue, FDBReadBlobGranuleContext,
    FDBResult, FDBTenant, FDBTransaction,
};
use crate::error::Error;

/// The error in a result; see [`super::Failure`].
///
/// # Safety
///
/// `result` is null or was made by this library and not destroyed.
unsafe fn result_error(result: *mut FDBResult) -> Error {
    // SAFETY: by the contract above; every result is a boxed error.
    unsafe { result.cast::<Error>().as_ref() }
        .copied()
        .unwrap_or(Error::CLIENT_INVALID_OPERATION)
}

/// Defines functions that only return an error, among others.
macro_rules! unsupported {
    (
        $(fn $name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)*
        others { $($others:tt)* }
    ) => {
        c_functions! {
            for_each_unsupported_function;

            $(
                /// Needs a cluster: `unsupported_operation`.
                fn $name($($arg: $type),*) -> $ret {
                    Err(Error::UNSUPPORTED_OPERATION)
                }
            )*
            $($others)*
        }
    };
}

unsupported! {
    fn fdb_database_purge_blob_granules(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _purge_version: i64, _force: FDBBool) -> *mut FDBFuture;
    fn fdb_database_wait_purge_granules_complete(_database: *mut FDBDatabase, _purge_key: *const u8, _purge_key_length: c_int) -> *mut FDBFuture;
    fn fdb_database_blobbify_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture;
    fn fdb_database_blobbify_range_blocking(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture;
    fn fdb_database_unblobbify_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture;
    fn fdb_database_list_blobbified_ranges(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _limit: c_int) -> *mut FDBFuture;
    fn fdb_database_verify_blob_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _version: i64) -> *mut FDBFuture;
    fn fdb_database_flush_blob_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _compact: FDBBool, _version: i64) -> *mut FDBFuture;
    fn fdb_tenant_purge_blob_granules(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _purge_version: i64, _force: FDBBool) -> *mut FDBFuture;
    fn fdb_tenant_wait_purge_granules_complete(_tenant: *mut FDBTenant, _purge_key: *const u8, _purge_key_length: c_int) -> *mut FDBFuture;
    fn fdb_tenant_blobbify_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture;
    fn fdb_tenant_blobbify_range_blocking(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture;
    fn fdb_tenant_unblobbify_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture;
    fn fdb_tenant_list_blobbified_ranges(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _limit: c_int) -> *mut FDBFuture;
    fn fdb_tenant_verify_blob_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _version: i64) -> *mut FDBFuture;
    fn fdb_tenant_flush_blob_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _compact: FDBBool, _version: i64) -> *mut FDBFuture;
    fn fdb_transaction_get_blob_granule_ranges(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _limit: c_int) -> *mut FDBFuture;
    fn fdb_transaction_summarize_blob_granules(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _version: i64, _limit: c_int) -> *mut FDBFuture;
    fn fdb_transaction_read_blob_granules_description(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _begin_version: i64, _read_version: i64, _read_version_out: *mut i64) -> *mut FDBFuture;
    fn fdb_transaction_read_blob_granules(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _begin_version: i64, _read_version: i64, _context: FDBReadBlobGranuleContext) -> *mut FDBResult;
    fn fdb_readbg_parse_snapshot_file(_data: *const u8, _length: c_int, _tenant_prefix: *const c_void, _encryption: *const c_void) -> *mut FDBResult;
    fn fdb_readbg_parse_delta_file(_data: *const u8, _length: c_int, _tenant_prefix: *const c_void, _encryption: *const c_void) -> *mut FDBResult;

    others {
        /// The result of a future that returns key ranges: no future here does.
        fn fdb_future_get_keyrange_array(f: *mut FDBFuture, _out_ranges: *mut *const FDBKeyRange, _out_count: *mut c_int) -> FDBError {
            future(f)?.get(|_| wrong_kind())
        }

        /// The result of a future that returns granule summaries: no future here does.
        fn fdb_future_get_granule_summary_array(f: *mut FDBFuture, _out_summaries: *mut *const c_void, _out_count: *mut c_int) -> FDBError {
            future(f)?.get(|_| wrong_kind())
        }

        /// The result of a future that returns file descriptions: no future here does.
        fn fdb_future_readbg_get_descriptions(f: *mut FDBFuture, _out: *mut *mut c_void, _out_count: *mut c_int) -> FDBError {
            future(f)?.get(|_| wrong_kind())
        }

        /// Destroys a result.
        fn fdb_result_destroy(r: *mut FDBResult) -> () {
            if !r.is_null() {
                drop(Box::from_raw(r.cast::<Error>()));
            }
            Ok(())
        }

        /// The rows of a result: every result here is an error.
        fn fdb_result_get_keyvalue_array(r: *mut FDBResult, _out_kv: *mut *const FDBKeyValue, _out_count: *mut c_int, _out_more: *mut FDBBool) -> FDBError {
            Err(result_error(r))
        }

        /// The mutations of a result: every result here is an error.
        fn fdb_result_get_bg_mutations_array(r: *mut FDBResult, _out_mutations: *mut *const c_void, _out_count: *mut c_int) -> FDBError {
            Err(result_error(r))
        }
    }
}
