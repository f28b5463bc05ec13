//! A minimal client of the C functions, so that the benchmarks measure the engine.
#![allow(dead_code)]

use std::ffi::{c_int, c_void, CString};
use std::ptr;
use std::sync::Once;

use embedded_fdb::c_api::*;
use embedded_fdb::c_types::{FDBDatabase, FDBFuture, FDBTransaction};

/// The code of the database option.
const MAX_WATCHES: c_int = 20;
/// `FDB_STREAMING_MODE_WANT_ALL`
const WANT_ALL: c_int = -2;

fn length(bytes: &[u8]) -> c_int {
    bytes.len().try_into().expect("a short key or value")
}

fn ok(code: c_int) {
    assert_eq!(code, 0, "error {code}");
}

/// A handle; the benchmarks never destroy it.
#[derive(Clone, Copy)]
pub struct Database(*mut FDBDatabase);

// SAFETY: any number of threads may use a database.
unsafe impl Send for Database {}
// SAFETY: as above.
unsafe impl Sync for Database {}

impl Database {
    /// Opens a database by its name, such as `embedded:memory:NAME`; starts the network first.
    pub fn open(name: &str) -> Database {
        static NETWORK: Once = Once::new();
        NETWORK.call_once(|| {
            // SAFETY: the functions take no pointers.
            unsafe {
                ok(fdb_select_api_version_impl(730, 730));
                ok(fdb_setup_network());
                std::thread::spawn(|| fdb_run_network());
            }
        });
        let name = CString::new(name).expect("a name without zeros");
        let mut database = ptr::null_mut();
        // SAFETY: a C string, and a place for the result.
        unsafe { ok(fdb_create_database(name.as_ptr(), &mut database)) };
        Database(database)
    }

    pub fn set_max_watches(&self, watches: i64) {
        let value = watches.to_le_bytes();
        // SAFETY: the handle is never destroyed, and the length is that of the value.
        unsafe {
            ok(fdb_database_set_option(
                self.0,
                MAX_WATCHES,
                value.as_ptr(),
                length(&value),
            ));
        }
    }

    pub fn begin(&self) -> Transaction {
        let mut transaction = ptr::null_mut();
        // SAFETY: the handle is never destroyed; a place for the result.
        unsafe { ok(fdb_database_create_transaction(self.0, &mut transaction)) };
        Transaction(transaction)
    }

    /// Sets one key in a transaction.
    pub fn put(&self, key: &[u8], value: &[u8]) {
        let transaction = self.begin();
        transaction.set(key, value);
        transaction.commit();
    }
}

pub struct Transaction(*mut FDBTransaction);

impl Drop for Transaction {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { fdb_transaction_destroy(self.0) };
    }
}

impl Transaction {
    pub fn set(&self, key: &[u8], value: &[u8]) {
        let (key_length, value_length) = (length(key), length(value));
        // SAFETY: the transaction lives, and the lengths are right.
        unsafe {
            fdb_transaction_set(
                self.0,
                key.as_ptr(),
                key_length,
                value.as_ptr(),
                value_length,
            );
        }
    }

    /// Reads a key; returns the length of its value.
    pub fn get(&self, key: &[u8]) -> Option<usize> {
        // SAFETY: the transaction lives, and the length is right.
        let future = unsafe { Future(fdb_transaction_get(self.0, key.as_ptr(), length(key), 0)) };
        future.wait();
        let (mut present, mut value, mut value_length) = (0, ptr::null(), 0);
        // SAFETY: places for the results.
        unsafe {
            ok(fdb_future_get_value(
                future.0,
                &mut present,
                &mut value,
                &mut value_length,
            ));
        }
        (present != 0).then_some(usize::try_from(value_length).expect("a length"))
    }

    /// Reads the first rows of a range; returns their number.
    pub fn get_range(&self, begin: &[u8], end: &[u8], limit: c_int) -> usize {
        let (begin_length, end_length) = (length(begin), length(end));
        // SAFETY: the transaction lives, and the lengths are right.
        let future = unsafe {
            Future(fdb_transaction_get_range(
                self.0,
                begin.as_ptr(),
                begin_length,
                0,
                1,
                end.as_ptr(),
                end_length,
                0,
                1,
                limit,
                0,
                WANT_ALL,
                0,
                0,
                0,
            ))
        };
        future.wait();
        let (mut rows, mut count, mut more) = (ptr::null(), 0, 0);
        // SAFETY: places for the results.
        unsafe {
            ok(fdb_future_get_keyvalue_array(
                future.0, &mut rows, &mut count, &mut more,
            ));
        }
        usize::try_from(count).expect("a count")
    }

    pub fn watch(&self, key: &[u8]) -> Future {
        // SAFETY: the transaction lives, and the length is right.
        unsafe { Future(fdb_transaction_watch(self.0, key.as_ptr(), length(key))) }
    }

    pub fn commit(&self) {
        assert_eq!(self.try_commit(), 0);
    }

    /// Commits; returns the error code.
    pub fn try_commit(&self) -> c_int {
        // SAFETY: the transaction lives.
        let future = unsafe { Future(fdb_transaction_commit(self.0)) };
        future.block();
        future.error()
    }
}

pub struct Future(*mut FDBFuture);

// SAFETY: any thread may use a future.
unsafe impl Send for Future {}

impl Drop for Future {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { fdb_future_destroy(self.0) };
    }
}

impl Future {
    fn block(&self) {
        // SAFETY: the future lives.
        unsafe { ok(fdb_future_block_until_ready(self.0)) };
    }

    fn error(&self) -> c_int {
        // SAFETY: the future lives.
        unsafe { fdb_future_get_error(self.0) }
    }

    pub fn wait(&self) {
        self.block();
        ok(self.error());
    }

    /// Calls `function` with `parameter` when the future is ready.
    ///
    /// # Safety
    ///
    /// The function may be called with the parameter on any thread.
    pub unsafe fn on_ready(
        &self,
        function: unsafe extern "C" fn(*mut FDBFuture, *mut c_void),
        parameter: *mut c_void,
    ) {
        // SAFETY: the future lives; the caller guarantees the rest.
        unsafe { ok(fdb_future_set_callback(self.0, Some(function), parameter)) };
    }
}
