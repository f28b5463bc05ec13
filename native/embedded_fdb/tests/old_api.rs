//! A client of an old API version, through the C functions. A process can only have one version.

mod common;

use std::ffi::{c_int, CStr};
use std::ptr::{null, null_mut};

use embedded_fdb::c_api::*;
use embedded_fdb::c_types::*;

use common::take;

const INCLUDE_PORT_IN_ADDRESS: c_int = 23;

/// A transaction that lives as long as the process.
#[derive(Clone, Copy)]
struct Transaction(*mut FDBTransaction);

// SAFETY of all methods: the handle lives forever, and slices give valid pointers.
impl Transaction {
    fn begin(database: *mut FDBDatabase) -> Self {
        let mut transaction = null_mut();
        // SAFETY: the database is live.
        let error = unsafe { fdb_database_create_transaction(database, &mut transaction) };
        assert_eq!(error, 0);
        Transaction(transaction)
    }

    fn set(self, key: &[u8]) {
        unsafe { fdb_transaction_set(self.0, key.as_ptr(), key.len() as c_int, null(), 0) };
    }

    fn commit(self) -> Result<(), c_int> {
        take(unsafe { fdb_transaction_commit(self.0) }, |_| ())
    }

    fn on_error(self, error: c_int) -> Result<(), c_int> {
        take(unsafe { fdb_transaction_on_error(self.0, error) }, |_| ())
    }

    /// Whether a key has a value.
    fn has(self, key: &[u8]) -> Result<bool, c_int> {
        let future = unsafe { fdb_transaction_get(self.0, key.as_ptr(), key.len() as c_int, 0) };
        take(future, |future| {
            let (mut present, mut pointer, mut length) = (0, null(), 0);
            unsafe { fdb_future_get_value(future, &mut present, &mut pointer, &mut length) };
            present != 0
        })
    }

    fn address(self) -> Result<String, c_int> {
        let future = unsafe { fdb_transaction_get_addresses_for_key(self.0, b"k".as_ptr(), 1) };
        take(future, |future| unsafe {
            let (mut strings, mut count) = (null(), 0);
            assert_eq!(
                fdb_future_get_string_array(future, &mut strings, &mut count),
                0
            );
            assert_eq!(count, 1);
            CStr::from_ptr(*strings).to_string_lossy().into_owned()
        })
    }
}

#[test]
fn old_api_versions_keep_their_behaviour() {
    let mut database = null_mut();
    // SAFETY: the calls of a client, in order, with valid pointers.
    unsafe {
        assert_eq!(fdb_select_api_version_impl(600, 730), 0);
        assert_eq!(fdb_setup_network(), 0);
        std::thread::spawn(|| fdb_run_network());
        let path = c"embedded:memory:old";
        assert_eq!(fdb_create_database(path.as_ptr(), &mut database), 0);
    }

    let transaction = Transaction::begin(database);
    // Before there were special keys, some keys had values.
    assert_eq!(transaction.has(b"\xff\xff/status/json"), Ok(true));
    assert_eq!(transaction.has(b"\xff\xff/cluster_file_path"), Ok(true));
    assert_eq!(transaction.has(b"\xff\xff/connection_string"), Ok(true));
    assert_eq!(transaction.has(b"\xff\xff/cluster_id"), Err(2004));
    // Addresses had no ports.
    assert_eq!(transaction.address().as_deref(), Ok("127.0.0.1"));
    let option = INCLUDE_PORT_IN_ADDRESS;
    // SAFETY: the transaction is live.
    let error = unsafe { fdb_transaction_set_option(transaction.0, option, null(), 0) };
    assert_eq!(error, 0);
    assert!(transaction
        .address()
        .is_ok_and(|a| a.starts_with("127.0.0.1:")));

    // An error that is not retryable resets a transaction, but not the part of a client that
    // commits.
    let transaction = Transaction::begin(database);
    assert_eq!(transaction.commit(), Ok(()));
    assert_eq!(transaction.on_error(2000), Err(2000));
    transaction.set(b"k");
    assert_eq!(transaction.commit(), Err(4100));
    assert_eq!(transaction.on_error(1020), Ok(()));
    transaction.set(b"k");
    assert_eq!(transaction.commit(), Ok(()));
    // The state sent to a server is forgotten with its answer, including the read version.
    assert_eq!(transaction.on_error(2000), Err(2000));
    transaction.set(b"k");
    assert_eq!(transaction.commit(), Ok(()));
    // SAFETY: the transaction is live.
    unsafe { fdb_transaction_set_read_version(transaction.0, 1) };
    assert_eq!(transaction.has(b"k"), Err(2017));
}
