//! Many threads at once: transactions that conflict, and futures that are completed, cancelled and
//! destroyed at the same time.

mod common;

use std::ffi::{c_int, c_void, CString};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Barrier;
use std::thread;

use common::{begin, boot, database, put, stats};
use embedded_fdb::c_api::*;
use embedded_fdb::c_types::*;
use foundationdb::{Database, RangeOption};
use futures::executor::block_on;

const THREADS: usize = 4;
const ACCOUNTS: u8 = 5;

/// Moves one unit between two accounts.
fn transfer(database: &Database, from: u8, to: u8) {
    let moved = block_on(database.run(|transaction, _| async move {
        let read = |bytes: Option<foundationdb::future::FdbSlice>| bytes.map_or(0, |b| b[0]);
        let source = read(transaction.get(&[from], false).await?);
        let target = read(transaction.get(&[to], false).await?);
        if from != to && source > 0 {
            transaction.set(&[from], &[source - 1]);
            transaction.set(&[to], &[target + 1]);
        }
        Ok(())
    }));
    assert!(moved.is_ok());
}

#[test]
fn transfers_preserve_the_total() {
    let database = database("bank");
    (0..ACCOUNTS).for_each(|account| put(&database, &[account], &[20]));
    let all = RangeOption::from((&b""[..], &b"\xff"[..]));
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let database = &database;
            scope.spawn(move || {
                let mut n = seed;
                for _ in 0..300 {
                    n = (n * 1_103_515_245 + 12_345) % 2_147_483_648;
                    transfer(
                        database,
                        (n / 64) as u8 % ACCOUNTS,
                        (n / 8_192) as u8 % ACCOUNTS,
                    );
                }
            });
        }
        for _ in 0..200 {
            let rows = block_on(begin(&database).get_range(&all, 1, true)).expect("a fresh read");
            let total: u32 = rows.iter().map(|row| u32::from(row.value()[0])).sum();
            assert_eq!(total, 20 * u32::from(ACCOUNTS));
        }
    });
    assert_eq!(stats("bank").transactions, 0);
}

#[test]
fn increments_are_not_lost() {
    let database = database("increments");
    let stripes = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                stripes.wait();
                for _ in 0..100 {
                    let added = block_on(database.run(|transaction, _| async move {
                        let old = transaction.get(b"n", false).await?;
                        let old = old.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
                        transaction.set(b"n", &(old + 1).to_be_bytes());
                        Ok(())
                    }));
                    assert!(added.is_ok());
                }
            });
        }
    });
    let n = block_on(begin(&database).get(b"n", false)).ok().flatten();
    assert_eq!(
        n.map(|n| n.to_vec()),
        Some((THREADS as u32 * 100).to_be_bytes().to_vec())
    );
}

#[test]
fn no_change_is_missed_by_a_watch() {
    let database = database("relay");
    let rounds = 200u32;
    thread::scope(|scope| {
        // Each side waits until the other one has changed the number.
        for side in 0..2u32 {
            let database = &database;
            scope.spawn(move || loop {
                let transaction = begin(database);
                let n = block_on(transaction.get(b"n", false)).expect("a fresh read");
                let n = n.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
                if n >= rounds {
                    return;
                }
                if n % 2 == side {
                    put(database, b"n", &(n + 1).to_be_bytes());
                } else {
                    let watch = transaction.watch(b"n");
                    if block_on(transaction.commit()).is_ok() {
                        assert!(block_on(watch).is_ok());
                    }
                }
            });
        }
    });
    assert_eq!(stats("relay").pending_watches, 0);
}

/// A database handle for the C functions.
fn open(name: &str) -> *mut FDBDatabase {
    boot();
    let path = CString::new(format!("embedded:memory:{name}")).expect("no zero in a name");
    let mut database = std::ptr::null_mut();
    // SAFETY: both pointers are good.
    assert_eq!(
        unsafe { fdb_create_database(path.as_ptr(), &mut database) },
        0
    );
    database
}

unsafe extern "C" fn count(_: *mut FDBFuture, counter: *mut c_void) {
    // SAFETY: every caller passes an `AtomicUsize` that outlives its futures.
    unsafe { &*counter.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
}

/// A handle that threads may share, as the C API allows.
struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the C API's handles may be used from any thread.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

#[test]
fn a_callback_runs_exactly_once_however_the_future_ends() {
    let handle = open("callbacks");
    let called: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let rounds = 300;
    for round in 0..rounds {
        let key = [b'k', round as u8];
        // SAFETY: the handles are live, and each is destroyed once, after its last use.
        unsafe {
            let mut transaction = std::ptr::null_mut();
            assert_eq!(fdb_database_create_transaction(handle, &mut transaction), 0);
            let watch = Shared(fdb_transaction_watch(transaction, key.as_ptr(), 2));
            let commit = fdb_transaction_commit(transaction);
            assert_eq!(fdb_future_get_error(commit), 0);
            fdb_future_destroy(commit);
            fdb_transaction_destroy(transaction);
            let counter = Shared(std::ptr::from_ref(called).cast_mut().cast::<c_void>());
            thread::scope(|scope| {
                scope.spawn(move || {
                    let (watch, counter) = (watch, counter);
                    assert_eq!(fdb_future_set_callback(watch.0, Some(count), counter.0), 0);
                });
                scope.spawn(move || {
                    let watch = watch;
                    fdb_future_cancel(watch.0);
                });
                let writer = Shared(handle);
                scope.spawn(move || {
                    let writer = writer;
                    let mut transaction = std::ptr::null_mut();
                    assert_eq!(
                        fdb_database_create_transaction(writer.0, &mut transaction),
                        0
                    );
                    fdb_transaction_set(transaction, key.as_ptr(), 2, key.as_ptr(), 2);
                    fdb_future_destroy(fdb_transaction_commit(transaction));
                    fdb_transaction_destroy(transaction);
                });
            });
            assert_eq!(fdb_future_block_until_ready(watch.0), 0);
            let end = fdb_future_get_error(watch.0);
            assert!(end == 0 || end == 1101, "{end}");
            fdb_future_destroy(watch.0);
        }
    }
    while called.load(Ordering::SeqCst) < rounds {
        thread::yield_now();
    }
    // SAFETY: the handle is not used any more.
    unsafe { fdb_database_destroy(handle) };
    assert_eq!(called.load(Ordering::SeqCst), rounds);
    assert_eq!(stats("callbacks").pending_watches, 0);
}

#[test]
fn invalid_arguments_return_errors() {
    let database = open("bad");
    use std::ptr::{null, null_mut};
    // SAFETY: that is what is tested: forbidden pointers that can be detected.
    unsafe {
        assert_eq!(fdb_select_api_version_impl(730, 730), 2201);
        assert_eq!(fdb_setup_network(), 2009);
        assert_eq!(fdb_create_database(null(), null_mut()), 2000);
        assert_eq!(
            fdb_database_create_transaction(null_mut(), null_mut()),
            2000
        );
        assert_eq!(fdb_database_set_option(database, 4711, null(), 0), 2007);
        assert_eq!(fdb_network_set_option(4711, null(), 0), 2007);
        fdb_future_destroy(null_mut());
        fdb_transaction_destroy(null_mut());
        assert_eq!(fdb_future_block_until_ready(null_mut()), 2000);
        let mut transaction = null_mut();
        assert_eq!(
            fdb_database_create_transaction(database, &mut transaction),
            0
        );
        let answer = |future: *mut FDBFuture| {
            let error = fdb_future_get_error(future);
            fdb_future_destroy(future);
            error
        };
        assert_eq!(answer(fdb_transaction_get(null_mut(), null(), 0, 0)), 2000);
        assert_eq!(answer(fdb_transaction_get(transaction, null(), 5, 0)), 2000);
        assert_eq!(
            answer(fdb_transaction_get(transaction, null(), -5, 0)),
            2000
        );
        assert_eq!(answer(fdb_transaction_get(transaction, null(), 0, 0)), 0);
        assert_eq!(
            fdb_transaction_set_option(transaction, 4711, null(), 0),
            2007
        );
        assert_eq!(
            fdb_transaction_add_conflict_range(
                transaction,
                c"b".as_ptr().cast(),
                1,
                c"a".as_ptr().cast(),
                1,
                0
            ),
            2005
        );
        assert_eq!(
            fdb_transaction_add_conflict_range(
                transaction,
                c"a".as_ptr().cast(),
                1,
                c"b".as_ptr().cast(),
                1,
                7
            ),
            2000
        );
        let range = |limit: c_int, bytes: c_int, mode: c_int, iteration: c_int| {
            answer(fdb_transaction_get_range(
                transaction,
                null(),
                0,
                0,
                1,
                c"z".as_ptr().cast(),
                1,
                0,
                1,
                limit,
                bytes,
                mode,
                iteration,
                0,
                0,
            ))
        };
        assert_eq!(range(0, 0, 0, 1), 2210, "exact needs a limit");
        assert_eq!(range(0, 0, -1, 0), 2000, "iterations begin at 1");
        assert_eq!(range(0, 0, 99, 1), 2000, "no such mode");
        assert_eq!(range(-7, 0, -2, 1), 2012, "no such limit");
        assert_eq!(range(1, 0, 0, 1), 0);
        let future = fdb_transaction_get_read_version(transaction);
        let mut length = 0;
        let mut pointer = null();
        assert_eq!(
            fdb_future_get_key(future, &mut pointer, &mut length),
            2000,
            "not a key"
        );
        let mut version = 0;
        assert_eq!(fdb_future_get_int64(future, &mut version), 0);
        assert_eq!(fdb_future_get_int64(future, &mut version), 0);
        fdb_future_release_memory(future);
        assert_eq!(fdb_future_get_error(future), 0, "got twice, released once");
        fdb_future_release_memory(future);
        assert_eq!(fdb_future_get_error(future), 1102);
        assert_eq!(fdb_future_get_int64(future, &mut version), 1102);
        fdb_future_destroy(future);
        // An error stays.
        let future = fdb_transaction_get(transaction, null(), 5, 0);
        fdb_future_release_memory(future);
        assert_eq!(fdb_future_get_error(future), 2000);
        fdb_future_destroy(future);
        fdb_transaction_atomic_op(transaction, c"k".as_ptr().cast(), 1, null(), 0, 4711);
        assert_eq!(answer(fdb_transaction_commit(transaction)), 2018);
        fdb_transaction_destroy(transaction);
        fdb_database_destroy(database);
    }
}

#[test]
fn clients_of_old_versions_open_a_cluster_first() {
    boot();
    let null = std::ptr::null_mut::<FDBCluster>;
    // SAFETY: the handles are live, and each is destroyed once, after its last use.
    unsafe {
        let future = fdb_create_cluster(c"embedded:memory:old".as_ptr());
        let mut cluster = null();
        assert_eq!(fdb_future_get_cluster(future, &mut cluster), 0);
        fdb_future_destroy(future);
        let wrong = fdb_cluster_create_database(cluster, c"XY".as_ptr().cast(), 2);
        assert_eq!(fdb_future_get_error(wrong), 2013);
        fdb_future_destroy(wrong);
        let future = fdb_cluster_create_database(cluster, c"DB".as_ptr().cast(), 2);
        fdb_cluster_destroy(cluster);
        let mut database = std::ptr::null_mut();
        assert_eq!(fdb_future_get_database(future, &mut database), 0);
        fdb_future_destroy(future);
        let mut transaction = std::ptr::null_mut();
        assert_eq!(
            fdb_database_create_transaction(database, &mut transaction),
            0
        );
        let future = fdb_transaction_get_read_version(transaction);
        let mut version = 0;
        assert_eq!(fdb_future_get_version(future, &mut version), 0);
        assert!(version > 0);
        fdb_future_destroy(future);
        fdb_transaction_destroy(transaction);
        fdb_database_destroy(database);
    }
}
