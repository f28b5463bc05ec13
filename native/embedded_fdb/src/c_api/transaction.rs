//! Transactions.

use std::ffi::c_int;
use std::sync::Arc;

use super::arguments::{bytes, into_c, key, limits, option_value, put, selector, transaction};
use crate::c_types::{FDBBool, FDBError, FDBFuture, FDBTransaction};
use crate::error::Error;
use crate::transaction::Transaction;

c_functions! {
    for_each_transaction_function;

    /// Destroys a transaction; its pending futures get `transaction_cancelled`.
    fn fdb_transaction_destroy(tr: *mut FDBTransaction) -> () {
        if !tr.is_null() {
            Arc::from_raw(tr.cast::<Transaction>().cast_const()).destroyed();
        }
        Ok(())
    }

    /// Ends the transaction until its next reset.
    fn fdb_transaction_cancel(tr: *mut FDBTransaction) -> () {
        transaction(tr)?.cancel();
        Ok(())
    }

    /// Resets the transaction to a new one.
    fn fdb_transaction_reset(tr: *mut FDBTransaction) -> () {
        transaction(tr)?.reset();
        Ok(())
    }

    /// Sets an option of the transaction.
    fn fdb_transaction_set_option(tr: *mut FDBTransaction, option: c_int, value: *const u8, value_length: c_int) -> FDBError {
        transaction(tr)?.set_option(option, option_value(value, value_length)?).map(|()| 0)
    }

    /// Sets the version to read at.
    fn fdb_transaction_set_read_version(tr: *mut FDBTransaction, version: i64) -> () {
        transaction(tr)?.set_read_version(version);
        Ok(())
    }

    /// The version the transaction reads at.
    fn fdb_transaction_get_read_version(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_read_version()))
    }

    /// Reads a key.
    fn fdb_transaction_get(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, snapshot: FDBBool) -> *mut FDBFuture {
        let key = key(key_name, key_length)?;
        Ok(into_c(transaction(tr)?.get(key, snapshot != 0)))
    }

    /// Finds the key that a selector resolves to.
    fn fdb_transaction_get_key(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, or_equal: FDBBool, offset: c_int, snapshot: FDBBool) -> *mut FDBFuture {
        let selector = selector(key_name, key_length, or_equal, offset)?;
        Ok(into_c(transaction(tr)?.get_key(selector, snapshot != 0)))
    }

    /// The addresses of the servers that store a key: this process.
    fn fdb_transaction_get_addresses_for_key(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int) -> *mut FDBFuture {
        let key = bytes(key_name, key_length)?;
        Ok(into_c(transaction(tr)?.get_addresses_for_key(key)))
    }

    /// Reads a range.
    fn fdb_transaction_get_range(
        tr: *mut FDBTransaction,
        begin_key: *const u8,
        begin_length: c_int,
        begin_or_equal: FDBBool,
        begin_offset: c_int,
        end_key: *const u8,
        end_length: c_int,
        end_or_equal: FDBBool,
        end_offset: c_int,
        limit: c_int,
        target_bytes: c_int,
        mode: c_int,
        iteration: c_int,
        snapshot: FDBBool,
        reverse: FDBBool
    ) -> *mut FDBFuture {
        let limits = limits(limit, target_bytes, mode, iteration)?;
        let begin = selector(begin_key, begin_length, begin_or_equal, begin_offset)?;
        let end = selector(end_key, end_length, end_or_equal, end_offset)?;
        Ok(into_c(transaction(tr)?.get_range(begin, end, limits, snapshot != 0, reverse != 0)))
    }

    /// Reads a range of an index and the records its rows lead to.
    fn fdb_transaction_get_mapped_range(
        tr: *mut FDBTransaction,
        begin_key: *const u8,
        begin_length: c_int,
        begin_or_equal: FDBBool,
        begin_offset: c_int,
        end_key: *const u8,
        end_length: c_int,
        end_or_equal: FDBBool,
        end_offset: c_int,
        mapper: *const u8,
        mapper_length: c_int,
        limit: c_int,
        target_bytes: c_int,
        mode: c_int,
        iteration: c_int,
        snapshot: FDBBool,
        reverse: FDBBool
    ) -> *mut FDBFuture {
        let limits = limits(limit, target_bytes, mode, iteration)?;
        let begin = selector(begin_key, begin_length, begin_or_equal, begin_offset)?;
        let end = selector(end_key, end_length, end_or_equal, end_offset)?;
        let mapper = bytes(mapper, mapper_length)?.to_vec();
        let transaction = transaction(tr)?;
        Ok(into_c(transaction.get_mapped_range(begin, end, mapper, limits, snapshot != 0, reverse != 0)))
    }

    /// Writes a key.
    fn fdb_transaction_set(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, value: *const u8, value_length: c_int) -> () {
        let value = bytes(value, value_length)?;
        transaction(tr)?.set(key(key_name, key_length)?, value.into());
        Ok(())
    }

    /// Changes a value without reading it.
    fn fdb_transaction_atomic_op(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, param: *const u8, param_length: c_int, operation: c_int) -> () {
        let operand = bytes(param, param_length)?;
        transaction(tr)?.atomic_op(key(key_name, key_length)?, operand.into(), operation);
        Ok(())
    }

    /// Clears a key.
    fn fdb_transaction_clear(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int) -> () {
        transaction(tr)?.clear(key(key_name, key_length)?);
        Ok(())
    }

    /// Clears a range.
    fn fdb_transaction_clear_range(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int) -> () {
        transaction(tr)?.clear_range(key(begin_key, begin_length)?, key(end_key, end_length)?);
        Ok(())
    }

    /// A future that is ready when the key's value differs from the current one.
    fn fdb_transaction_watch(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.watch(key(key_name, key_length)?)))
    }

    /// Commits.
    fn fdb_transaction_commit(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.commit()))
    }

    /// The version of the commit; -1 before it, and for a transaction that wrote nothing.
    fn fdb_transaction_get_committed_version(tr: *mut FDBTransaction, out_version: *mut i64) -> FDBError {
        put(out_version, transaction(tr)?.committed_version()).map(|()| 0)
    }

    /// The versionstamp of the commit, ready after it.
    fn fdb_transaction_get_versionstamp(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_versionstamp()))
    }

    /// The size of the commit so far.
    fn fdb_transaction_get_approximate_size(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_approximate_size()))
    }

    /// Waits and resets the transaction if the error can be retried; otherwise returns the error.
    fn fdb_transaction_on_error(tr: *mut FDBTransaction, code: FDBError) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.on_error(Error(code))))
    }

    /// Adds a conflict range: 0 read, 1 write.
    fn fdb_transaction_add_conflict_range(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int, kind: c_int) -> FDBError {
        let (begin, end) = (key(begin_key, begin_length)?, key(end_key, end_length)?);
        let write = match kind {
            0 => false,
            1 => true,
            _ if begin > end => return Err(Error::INVERTED_RANGE),
            _ => return Err(Error::CLIENT_INVALID_OPERATION),
        };
        transaction(tr)?.add_conflict_range(begin, end, write).map(|()| 0)
    }

    /// The approximate size of a range in bytes, estimated from a sample of keys as a server does.
    fn fdb_transaction_get_estimated_range_size_bytes(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int) -> *mut FDBFuture {
        let (begin, end) = (key(begin_key, begin_length)?, key(end_key, end_length)?);
        Ok(into_c(transaction(tr)?.get_estimated_range_size_bytes(begin, end)))
    }

    /// Keys that split a range into parts of about `chunk_size` bytes.
    fn fdb_transaction_get_range_split_points(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int, chunk_size: i64) -> *mut FDBFuture {
        let (begin, end) = (key(begin_key, begin_length)?, key(end_key, end_length)?);
        Ok(into_c(transaction(tr)?.get_range_split_points(begin, end, chunk_size)))
    }

    /// Seconds the transaction was throttled by its tags: always 0.
    fn fdb_transaction_get_tag_throttled_duration(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_tag_throttled_duration()))
    }

    /// The cost of the transaction as tag throttling counts it.
    fn fdb_transaction_get_total_cost(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_total_cost()))
    }
}
