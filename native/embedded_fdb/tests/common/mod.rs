//! The published `foundationdb` client on the embedded engine.
#![allow(dead_code)]

use std::ffi::c_int;
use std::sync::OnceLock;

use embedded_fdb::c_api::{fdb_future_block_until_ready, fdb_future_destroy, fdb_future_get_error};
use embedded_fdb::c_types::FDBFuture;
use foundationdb::api::NetworkAutoStop;
use foundationdb::{Database, FdbError, Transaction};
use foundationdb_sys::{bind, Library};

/// Starts the client once in the process.
pub fn boot() {
    static NETWORK: OnceLock<NetworkAutoStop> = OnceLock::new();
    NETWORK.get_or_init(|| {
        if let Err(error) = bind(&Library::Embedded) {
            panic!("the engine lacks a function: {error}");
        }
        // SAFETY: the network runs until the process ends.
        unsafe { foundationdb::boot() }
    });
}

/// A database of this name, initially empty.
pub fn database(name: &str) -> Database {
    boot();
    match Database::from_path(&format!("embedded:memory:{name}")) {
        Ok(database) => database,
        Err(error) => panic!("no database: {error}"),
    }
}

/// The counters of a database.
pub fn stats(name: &str) -> embedded_fdb::admin::Stats {
    match embedded_fdb::admin::Database::find(&format!("embedded:memory:{name}")) {
        Some(database) => database.stats(),
        None => panic!("nobody opened {name}"),
    }
}

pub fn begin(database: &Database) -> Transaction {
    match database.create_trx() {
        Ok(transaction) => transaction,
        Err(error) => panic!("no transaction: {error}"),
    }
}

/// Sets one key, retrying until it succeeds.
pub fn put(database: &Database, key: &[u8], value: &[u8]) {
    loop {
        let transaction = begin(database);
        transaction.set(key, value);
        if futures::executor::block_on(transaction.commit()).is_ok() {
            return;
        }
    }
}

/// The code of an error, or 0.
pub fn code<T>(result: Result<T, FdbError>) -> i32 {
    result.err().map_or(0, foundationdb::FdbError::code)
}

/// Takes a future's result and destroys the future.
pub fn take<T>(future: *mut FDBFuture, get: impl FnOnce(*mut FDBFuture) -> T) -> Result<T, c_int> {
    // SAFETY: the future comes from a call just made, and only this destroys it.
    unsafe {
        assert_eq!(fdb_future_block_until_ready(future), 0);
        let result = match fdb_future_get_error(future) {
            0 => Ok(get(future)),
            error => Err(error),
        };
        fdb_future_destroy(future);
        result
    }
}
