//! Futures and their results.

use std::ffi::{c_char, c_double, c_int, c_void};
use std::sync::Arc;

use super::arguments::{count, future, put, wrong_kind};
use crate::c_types::{FDBBool, FDBError, FDBFuture, FDBKey, FDBKeyValue, FDBMappedKeyValue};
use crate::error::Error;
use crate::future::{Callback, Future};
use crate::output::Output;

/// `FDBCallback`
pub type FutureCallback = Option<unsafe extern "C" fn(*mut FDBFuture, *mut c_void)>;

c_functions! {
    for_each_future_function;

    /// Ends a pending future with `operation_cancelled`.
    fn fdb_future_cancel(f: *mut FDBFuture) -> () {
        future(f)?.cancel();
        Ok(())
    }

    /// Frees the memory of the result; the future stays.
    fn fdb_future_release_memory(f: *mut FDBFuture) -> () {
        future(f)?.release();
        Ok(())
    }

    /// Destroys a future, in any state.
    fn fdb_future_destroy(f: *mut FDBFuture) -> () {
        if !f.is_null() {
            Arc::from_raw(f.cast::<Future>().cast_const()).cancel();
        }
        Ok(())
    }

    /// Blocks the calling thread until the future is ready.
    fn fdb_future_block_until_ready(f: *mut FDBFuture) -> FDBError {
        future(f)?.wait().map(|()| 0)
    }

    /// Whether the future is ready.
    fn fdb_future_is_ready(f: *mut FDBFuture) -> FDBBool {
        Ok(FDBBool::from(future(f).is_ok_and(|f| f.is_ready())))
    }

    /// Calls `callback` once when the future is ready. If it is ready already, calls it before returning.
    fn fdb_future_set_callback(f: *mut FDBFuture, callback: FutureCallback, parameter: *mut c_void) -> FDBError {
        let function = callback.ok_or(Error::CLIENT_INVALID_OPERATION)?;
        future(f)?.on_ready(Callback { function, parameter });
        Ok(0)
    }

    /// The error of the future, or 0.
    fn fdb_future_get_error(f: *mut FDBFuture) -> FDBError {
        future(f)?.error().map(|()| 0)
    }

    /// The result of a future that returns a truth value: no future here does.
    fn fdb_future_get_bool(f: *mut FDBFuture, _out: *mut FDBBool) -> FDBError {
        future(f)?.get(|_| wrong_kind())
    }

    /// The result of a future that returns an integer.
    fn fdb_future_get_int64(f: *mut FDBFuture, out: *mut i64) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Int64(value) => put(out, *value).map(|()| 0),
            _ => wrong_kind(),
        })
    }

    /// The result of a future that returns an unsigned integer.
    fn fdb_future_get_uint64(f: *mut FDBFuture, out: *mut u64) -> FDBError {
        future(f)?.get(|output| match output {
            Output::UInt64(value) => put(out, *value).map(|()| 0),
            _ => wrong_kind(),
        })
    }

    /// The result of a future that returns a floating-point number.
    fn fdb_future_get_double(f: *mut FDBFuture, out: *mut c_double) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Double(value) => put(out, *value).map(|()| 0),
            _ => wrong_kind(),
        })
    }

    /// The result of a future that returns a key.
    fn fdb_future_get_key(f: *mut FDBFuture, out_key: *mut *const u8, out_length: *mut c_int) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Key(key) => {
                put(out_key, key.as_ptr())?;
                put(out_length, count(key.len())).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }

    /// The result of a future that returns a value, which may be absent.
    fn fdb_future_get_value(f: *mut FDBFuture, out_present: *mut FDBBool, out_value: *mut *const u8, out_length: *mut c_int) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Value(value) => {
                put(out_present, FDBBool::from(value.is_some()))?;
                if let Some(value) = value {
                    put(out_value, value.as_ptr())?;
                    put(out_length, count(value.len()))?;
                }
                Ok(0)
            }
            // Clients read `fdb_database_get_client_status` this way, and it works with a cluster's client.
            Output::Key(key) => {
                put(out_present, 1)?;
                put(out_value, key.as_ptr())?;
                put(out_length, count(key.len()))?;
                Ok(0)
            }
            _ => wrong_kind(),
        })
    }

    /// The result of a range read.
    fn fdb_future_get_keyvalue_array(f: *mut FDBFuture, out_kv: *mut *const FDBKeyValue, out_count: *mut c_int, out_more: *mut FDBBool) -> FDBError {
        future(f)?.get(|output| match output {
            Output::KeyValues(rows) => {
                put(out_kv, rows.array.as_ptr())?;
                put(out_count, count(rows.array.len()))?;
                put(out_more, FDBBool::from(rows.more)).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }

    /// The result of a mapped range read.
    fn fdb_future_get_mappedkeyvalue_array(f: *mut FDBFuture, out_kv: *mut *const FDBMappedKeyValue, out_count: *mut c_int, out_more: *mut FDBBool) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Mapped(rows) => {
                put(out_kv, rows.array.as_ptr())?;
                put(out_count, count(rows.array.len()))?;
                put(out_more, FDBBool::from(rows.more)).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }

    /// The result of a future that returns keys.
    fn fdb_future_get_key_array(f: *mut FDBFuture, out_keys: *mut *const FDBKey, out_count: *mut c_int) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Keys(keys) => {
                put(out_keys, keys.array.as_ptr())?;
                put(out_count, count(keys.array.len())).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }

    /// The result of a future that returns strings.
    fn fdb_future_get_string_array(f: *mut FDBFuture, out_strings: *mut *const *const c_char, out_count: *mut c_int) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Strings(strings) => {
                put(out_strings, strings.array.as_ptr())?;
                put(out_count, count(strings.array.len())).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }
}
