//! Databases and their status.

use std::ffi::{c_char, c_double, c_int};
use std::sync::Arc;

use super::arguments::{bytes, database, into_c, option_value, place, put, text};
use super::network::api_version;
use crate::c_types::{FDBBool, FDBDatabase, FDBError, FDBFuture, FDBTransaction};
use crate::database::Handle;
use crate::error::{Error, Result};
use crate::future::Future;
use crate::output::Output;
use crate::status::ADDRESS;
use crate::storage::OpenError;
use crate::transaction::Transaction;
use crate::{network, registry};

/// The protocol version of FoundationDB 7.3.
const PROTOCOL_VERSION: u64 = 0x0FDB_00B0_7300_0000;

/// The code for a database that cannot be opened; [`crate::admin::Database::open`] explains it.
fn open_error(error: &OpenError) -> Error {
    match error {
        OpenError::Name { .. } => Error::CONNECTION_STRING_INVALID,
        OpenError::Held { .. } => Error::LOCK_FILE_FAILURE,
        OpenError::Foreign { .. } | OpenError::Damaged { .. } | OpenError::Lost { .. } => {
            Error::FILE_CORRUPT
        }
        OpenError::Io { .. } => Error::IO_ERROR,
        OpenError::Faults(_) => Error::INVALID_OPTION_VALUE,
    }
}

pub(crate) fn open_database(path: String) -> Result<*mut FDBDatabase> {
    api_version()?;
    if !network::is_set_up() {
        return Err(Error::NETWORK_NOT_SETUP);
    }
    let database = registry::open(&path).map_err(|error| open_error(&error))?;
    let handle = Arc::new(Handle::new(database, path));
    Ok(Arc::into_raw(handle).cast_mut().cast())
}

c_functions! {
    for_each_database_function;

    /// Opens the database that a cluster file path names.
    fn fdb_create_database(cluster_file_path: *const c_char, out_database: *mut *mut FDBDatabase) -> FDBError {
        let out_database = place(out_database)?;
        let path = text(cluster_file_path)?;
        put(out_database, open_database(path)?).map(|()| 0)
    }

    /// Destroys a handle; the database stays open.
    fn fdb_database_destroy(d: *mut FDBDatabase) -> () {
        if !d.is_null() {
            drop(Arc::from_raw(d.cast::<Handle>().cast_const()));
        }
        Ok(())
    }

    /// Sets an option of a handle.
    fn fdb_database_set_option(d: *mut FDBDatabase, option: c_int, value: *const u8, value_length: c_int) -> FDBError {
        let handle = database(d)?;
        let value = option_value(value, value_length)?;
        handle.set_option(option, value).map(|()| 0)
    }

    /// Begins a transaction.
    fn fdb_database_create_transaction(d: *mut FDBDatabase, out_transaction: *mut *mut FDBTransaction) -> FDBError {
        let out_transaction = place(out_transaction)?;
        let transaction = Transaction::new(database(d)?, None, api_version()?);
        put(out_transaction, Arc::into_raw(transaction).cast_mut().cast()).map(|()| 0)
    }

    /// How busy the network thread is, from 0 to 1: it is idle.
    fn fdb_database_get_main_thread_busyness(d: *mut FDBDatabase) -> c_double {
        database(d).map(|_| 0.0)
    }

    /// The client's own status, as JSON.
    fn fdb_database_get_client_status(d: *mut FDBDatabase) -> *mut FDBFuture {
        let handle = database(d)?;
        Ok(into_c(Future::ready(handle.check().and_then(|()| handle.client_status()))))
    }

    /// The protocol version of the release whose API this is.
    fn fdb_database_get_server_protocol(d: *mut FDBDatabase, _expected_version: u64) -> *mut FDBFuture {
        database(d)?.check()?;
        Ok(into_c(Future::ready(Ok(Output::UInt64(PROTOCOL_VERSION)))))
    }

    /// Reboots the only worker: clients see a recovery. 1 if the address is this worker's, else 0.
    fn fdb_database_reboot_worker(d: *mut FDBDatabase, address: *const u8, address_length: c_int, _check: FDBBool, _duration: c_int) -> *mut FDBFuture {
        database(d)?.check()?;
        let found = bytes(address, address_length)? == ADDRESS.as_bytes();
        if found {
            database(d)?.database.recover();
        }
        Ok(into_c(Future::ready(Ok(Output::Int64(i64::from(found))))))
    }

    /// Simulates a recovery; no data are lost.
    fn fdb_database_force_recovery_with_data_loss(d: *mut FDBDatabase, dcid: *const u8, dcid_length: c_int) -> *mut FDBFuture {
        bytes(dcid, dcid_length)?;
        database(d)?.check()?;
        database(d)?.database.recover();
        Ok(into_c(Future::ready(Ok(Output::Unit))))
    }

    /// Runs a command that makes a snapshot of the disks. A cluster runs the commands that its
    /// configuration allows; this configuration allows none.
    fn fdb_database_create_snapshot(d: *mut FDBDatabase, uid: *const u8, uid_length: c_int, command: *const u8, command_length: c_int) -> *mut FDBFuture {
        database(d)?.check()?;
        bytes(command, command_length)?;
        let uid = bytes(uid, uid_length)?;
        let legal = uid.len() == 32 && uid.iter().all(u8::is_ascii_hexdigit);
        Err(if legal {
            Error::SNAP_PATH_NOT_WHITELISTED
        } else {
            Error::SNAP_INVALID_UID_STRING
        })
    }

    /// Opens a database by the contents of a cluster file; named databases as in `fdb_create_database`.
    fn fdb_create_database_from_connection_string(connection_string: *const c_char, out_database: *mut *mut FDBDatabase) -> FDBError {
        let out_database = place(out_database)?;
        let connection_string = text(connection_string)?;
        put(out_database, open_database(connection_string)?).map(|()| 0)
    }
}
