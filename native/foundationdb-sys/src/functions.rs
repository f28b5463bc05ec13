//! The C API's functions: a table of pointers, and one forwarder for each.
//!
//! FoundationDB's C API manual documents the functions and their requirements.

use std::ffi::{c_char, c_double, c_int, c_void};

use crate::bind::table;
use crate::options::*;
use crate::types::*;

/// `api_version_unset`: the client library's own result for calls that come too early.
const NOT_BOUND: fdb_error_t = 2200;

const NOT_BOUND_TEXT: &std::ffi::CStr =
    c"The FoundationDB C API is not bound yet: call foundationdb_sys::bind first";

/// An object of the C API can't exist before the API is bound, so a caller that passes one has an invalid
/// pointer, and no result would be safe.
#[cold]
fn not_bound(function: &str) -> ! {
    panic!("{function} was called before foundationdb_sys::bind: the FoundationDB C API is not bound yet")
}

macro_rules! functions {
    ($(
        $(#[unbound = $unbound:expr])?
        fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;
    )*) => {
        /// The C API, resolved.
        pub(crate) struct Table {
            $($name: unsafe extern "C" fn($($ty),*) $(-> $ret)?,)*
        }

        impl Table {
            /// Resolves every function; returns the first name that `resolve` does not have as the error.
            ///
            /// # Safety
            ///
            /// `resolve` must return the function that `fdb_c.h` declares under the name, and the function must stay
            /// loaded forever.
            pub(crate) unsafe fn resolve(
                resolve: impl Fn(&'static str) -> Option<*const c_void>,
            ) -> Result<Self, &'static str> {
                Ok(Self {$(
                    $name: {
                        let pointer = resolve(stringify!($name)).ok_or(stringify!($name))?;
                        // SAFETY: the caller guarantees that this is the function of that name, and
                        // the type is its declaration in fdb_c.h.
                        unsafe {
                            std::mem::transmute::<
                                *const c_void,
                                unsafe extern "C" fn($($ty),*) $(-> $ret)?,
                            >(pointer)
                        }
                    },
                )*})
            }
        }

        $(
            #[doc = concat!("`", stringify!($name), "` of the C API.")]
            ///
            /// # Safety
            ///
            /// Pointers must be valid for the C API's use of them.
            #[allow(clippy::too_many_arguments)]
            #[inline]
            pub unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                match table() {
                    // SAFETY: the table has the function of that name; the caller guarantees that
                    // the arguments are valid.
                    Some(table) => unsafe { (table.$name)($($arg),*) },
                    None => functions!(@unbound $name $($unbound)?),
                }
            }
        )*
    };
    (@unbound $name:ident) => { not_bound(stringify!($name)) };
    (@unbound $name:ident $answer:expr) => { $answer };
}

functions! {
    #[unbound = NOT_BOUND_TEXT.as_ptr()]
    fn fdb_get_error(code: fdb_error_t) -> *const c_char;
    #[unbound = 0]
    fn fdb_error_predicate(predicate_test: c_int, code: fdb_error_t) -> fdb_bool_t;
    #[unbound = 0]
    fn fdb_get_max_api_version() -> c_int;
    #[unbound = NOT_BOUND_TEXT.as_ptr()]
    fn fdb_get_client_version() -> *const c_char;
    #[unbound = NOT_BOUND]
    fn fdb_select_api_version_impl(runtime_version: c_int, header_version: c_int) -> fdb_error_t;

    #[unbound = NOT_BOUND]
    fn fdb_network_set_option(option: FDBNetworkOption, value: *const u8, value_length: c_int) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_setup_network() -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_run_network() -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_stop_network() -> fdb_error_t;

    fn fdb_future_destroy(future: *mut FDBFuture);
    fn fdb_future_is_ready(future: *mut FDBFuture) -> fdb_bool_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_set_callback(future: *mut FDBFuture, callback: FDBCallback, callback_parameter: *mut c_void) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_error(future: *mut FDBFuture) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_int64(future: *mut FDBFuture, out: *mut i64) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_key(future: *mut FDBFuture, out_key: *mut *const u8, out_key_length: *mut c_int) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_value(
        future: *mut FDBFuture,
        out_present: *mut fdb_bool_t,
        out_value: *mut *const u8,
        out_value_length: *mut c_int,
    ) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_keyvalue_array(
        future: *mut FDBFuture,
        out_kv: *mut *const FDBKeyValue,
        out_count: *mut c_int,
        out_more: *mut fdb_bool_t,
    ) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_mappedkeyvalue_array(
        future: *mut FDBFuture,
        out_kv: *mut *const FDBMappedKeyValue,
        out_count: *mut c_int,
        out_more: *mut fdb_bool_t,
    ) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_key_array(future: *mut FDBFuture, out_keys: *mut *const FDBKey, out_count: *mut c_int) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_future_get_string_array(
        future: *mut FDBFuture,
        out_strings: *mut *mut *const c_char,
        out_count: *mut c_int,
    ) -> fdb_error_t;

    #[unbound = NOT_BOUND]
    fn fdb_create_database(cluster_file_path: *const c_char, out_database: *mut *mut FDBDatabase) -> fdb_error_t;
    fn fdb_database_destroy(database: *mut FDBDatabase);
    #[unbound = NOT_BOUND]
    fn fdb_database_set_option(
        database: *mut FDBDatabase,
        option: FDBDatabaseOption,
        value: *const u8,
        value_length: c_int,
    ) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_database_create_transaction(database: *mut FDBDatabase, out_transaction: *mut *mut FDBTransaction) -> fdb_error_t;
    fn fdb_database_get_main_thread_busyness(database: *mut FDBDatabase) -> c_double;
    fn fdb_database_get_client_status(database: *mut FDBDatabase) -> *mut FDBFuture;

    #[unbound = NOT_BOUND]
    fn fdb_database_open_tenant(
        database: *mut FDBDatabase,
        tenant_name: *const u8,
        tenant_name_length: c_int,
        out_tenant: *mut *mut FDBTenant,
    ) -> fdb_error_t;
    #[unbound = NOT_BOUND]
    fn fdb_tenant_create_transaction(tenant: *mut FDBTenant, out_transaction: *mut *mut FDBTransaction) -> fdb_error_t;
    fn fdb_tenant_destroy(tenant: *mut FDBTenant);

    fn fdb_transaction_destroy(transaction: *mut FDBTransaction);
    fn fdb_transaction_cancel(transaction: *mut FDBTransaction);
    fn fdb_transaction_reset(transaction: *mut FDBTransaction);
    #[unbound = NOT_BOUND]
    fn fdb_transaction_set_option(
        transaction: *mut FDBTransaction,
        option: FDBTransactionOption,
        value: *const u8,
        value_length: c_int,
    ) -> fdb_error_t;
    fn fdb_transaction_set_read_version(transaction: *mut FDBTransaction, version: i64);
    fn fdb_transaction_get_read_version(transaction: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_get(
        transaction: *mut FDBTransaction,
        key: *const u8,
        key_length: c_int,
        snapshot: fdb_bool_t,
    ) -> *mut FDBFuture;
    fn fdb_transaction_get_key(
        transaction: *mut FDBTransaction,
        key: *const u8,
        key_length: c_int,
        or_equal: fdb_bool_t,
        offset: c_int,
        snapshot: fdb_bool_t,
    ) -> *mut FDBFuture;
    fn fdb_transaction_get_addresses_for_key(transaction: *mut FDBTransaction, key: *const u8, key_length: c_int) -> *mut FDBFuture;
    fn fdb_transaction_get_range(
        transaction: *mut FDBTransaction,
        begin_key: *const u8,
        begin_key_length: c_int,
        begin_or_equal: fdb_bool_t,
        begin_offset: c_int,
        end_key: *const u8,
        end_key_length: c_int,
        end_or_equal: fdb_bool_t,
        end_offset: c_int,
        limit: c_int,
        target_bytes: c_int,
        mode: FDBStreamingMode,
        iteration: c_int,
        snapshot: fdb_bool_t,
        reverse: fdb_bool_t,
    ) -> *mut FDBFuture;
    fn fdb_transaction_get_mapped_range(
        transaction: *mut FDBTransaction,
        begin_key: *const u8,
        begin_key_length: c_int,
        begin_or_equal: fdb_bool_t,
        begin_offset: c_int,
        end_key: *const u8,
        end_key_length: c_int,
        end_or_equal: fdb_bool_t,
        end_offset: c_int,
        mapper: *const u8,
        mapper_length: c_int,
        limit: c_int,
        target_bytes: c_int,
        mode: FDBStreamingMode,
        iteration: c_int,
        snapshot: fdb_bool_t,
        reverse: fdb_bool_t,
    ) -> *mut FDBFuture;
    fn fdb_transaction_get_estimated_range_size_bytes(
        transaction: *mut FDBTransaction,
        begin_key: *const u8,
        begin_key_length: c_int,
        end_key: *const u8,
        end_key_length: c_int,
    ) -> *mut FDBFuture;
    fn fdb_transaction_get_range_split_points(
        transaction: *mut FDBTransaction,
        begin_key: *const u8,
        begin_key_length: c_int,
        end_key: *const u8,
        end_key_length: c_int,
        chunk_size: i64,
    ) -> *mut FDBFuture;
    fn fdb_transaction_set(
        transaction: *mut FDBTransaction,
        key: *const u8,
        key_length: c_int,
        value: *const u8,
        value_length: c_int,
    );
    fn fdb_transaction_atomic_op(
        transaction: *mut FDBTransaction,
        key: *const u8,
        key_length: c_int,
        param: *const u8,
        param_length: c_int,
        operation_type: FDBMutationType,
    );
    fn fdb_transaction_clear(transaction: *mut FDBTransaction, key: *const u8, key_length: c_int);
    fn fdb_transaction_clear_range(
        transaction: *mut FDBTransaction,
        begin_key: *const u8,
        begin_key_length: c_int,
        end_key: *const u8,
        end_key_length: c_int,
    );
    #[unbound = NOT_BOUND]
    fn fdb_transaction_add_conflict_range(
        transaction: *mut FDBTransaction,
        begin_key: *const u8,
        begin_key_length: c_int,
        end_key: *const u8,
        end_key_length: c_int,
        conflict_range_type: FDBConflictRangeType,
    ) -> fdb_error_t;
    fn fdb_transaction_watch(transaction: *mut FDBTransaction, key: *const u8, key_length: c_int) -> *mut FDBFuture;
    fn fdb_transaction_commit(transaction: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_on_error(transaction: *mut FDBTransaction, error: fdb_error_t) -> *mut FDBFuture;
    #[unbound = NOT_BOUND]
    fn fdb_transaction_get_committed_version(transaction: *mut FDBTransaction, out_version: *mut i64) -> fdb_error_t;
    fn fdb_transaction_get_approximate_size(transaction: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_get_versionstamp(transaction: *mut FDBTransaction) -> *mut FDBFuture;
}
