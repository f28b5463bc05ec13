//! Wrong options and calls at the wrong time: when a client gets the error, as with FoundationDB 7.3.

mod common;

use std::time::Duration;

use common::{begin, code, database, put};
use foundationdb::options::{DatabaseOption, TransactionOption};
use foundationdb::{FdbError, KeySelector, RangeOption};
use futures::executor::block_on;
use futures::FutureExt;

#[test]
fn later_calls_report_a_wrong_database_option() {
    let database = database("wrong_option");
    let before = begin(&database);
    assert!(block_on(before.get(b"k", false)).is_ok());
    let wrong = DatabaseOption::MaxWatches(1_000_001);
    assert_eq!(code(database.set_option(wrong)), 0);
    assert_eq!(code(block_on(before.get(b"k", false))), 2006);
    assert_eq!(code(block_on(begin(&database).get(b"k", false))), 2006);
    assert_eq!(
        code(block_on(begin(&database).get_approximate_size())),
        2006
    );
    let again = database.set_option(DatabaseOption::MaxWatches(7));
    assert_eq!(code(again), 0);
    assert_eq!(code(block_on(begin(&database).get_read_version())), 2006);
}

#[test]
fn a_database_option_makes_snapshot_reads_ignore_own_writes() {
    let database = database("blind_snapshots");
    let sees = || {
        let transaction = begin(&database);
        transaction.set(b"k", b"own");
        let value = block_on(transaction.get(b"k", true)).ok().flatten();
        value.is_some()
    };
    assert!(sees());
    let disable = database.set_option(DatabaseOption::SnapshotRywDisable);
    assert_eq!(code(disable), 0);
    assert!(!sees());
    let enable = database.set_option(DatabaseOption::SnapshotRywEnable);
    assert_eq!(code(enable), 0);
    assert!(sees());
}

#[test]
fn a_new_database_has_nothing_to_read() {
    let transaction = begin(&database("initialize"));
    let option = TransactionOption::InitializeNewDatabase;
    assert_eq!(code(transaction.set_option(option)), 0);
    assert_eq!(code(block_on(transaction.get(b"k", false))), 2000);
}

#[test]
fn a_span_parent_has_a_known_protocol_version() {
    let database = database("span");
    let answer = |version: u64, length: usize| {
        let mut span = version.to_le_bytes().to_vec();
        span.resize(length, 0);
        let transaction = begin(&database);
        let option = TransactionOption::SpanParent(span);
        assert_eq!(code(transaction.set_option(option)), 0);
        code(block_on(transaction.get_approximate_size()))
    };
    assert_eq!(answer(0x0FDB_00B0_7300_0000, 33), 0);
    assert_eq!(answer(0x0FDB_00B0_7500_0000, 33), 2100);
    assert_eq!(answer(7, 33), 2100);
    assert_eq!(answer(0x0FDB_00B0_7300_0000, 32), 2006);
}

/// The write conflict ranges that the transaction itself reports.
fn write_conflicts(transaction: &foundationdb::Transaction) -> Result<usize, FdbError> {
    let range = RangeOption::from((
        &b"\xff\xff/transaction/write_conflict_range/"[..],
        &b"\xff\xff/transaction/write_conflict_range0"[..],
    ));
    block_on(transaction.get_range(&range, 1, false)).map(|rows| rows.len())
}

#[test]
fn write_conflict_ranges_of_an_ended_transaction_can_be_read() {
    let transaction = begin(&database("ended"));
    transaction.set(b"k", b"v");
    let timeout = transaction.set_option(TransactionOption::Timeout(1));
    assert_eq!(code(timeout), 0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(code(block_on(transaction.get(b"k", false))), 1031);
    assert_eq!(write_conflicts(&transaction).ok(), Some(2));
    let path = block_on(transaction.get(b"\xff\xff/cluster_file_path", false));
    assert_eq!(code(path), 0);
    let status = block_on(transaction.get(b"\xff\xff/status/json", false));
    assert_eq!(code(status), 1031);
}

#[test]
fn a_watch_compares_own_writes_once_its_value_was_read() {
    let database = database("own_writes");
    put(&database, b"k", b"1");
    // Two different values: at least one differs from the value that was read.
    let transaction = begin(&database);
    let mut watch = transaction.watch(b"k");
    transaction.set(b"k", b"2");
    transaction.set(b"k", b"1");
    assert_eq!((&mut watch).now_or_never().map(code), Some(0));
    // The read was not needed any more, so there is nothing to conflict with.
    put(&database, b"k", b"3");
    assert_eq!(
        code(block_on(transaction.commit()).map_err(FdbError::from)),
        0
    );

    // Its own write, which is compared with the value that was read before the commit.
    let transaction = begin(&database);
    let watch = transaction.watch(b"k");
    transaction.set(b"k", b"4");
    assert_eq!(
        code(block_on(transaction.commit()).map_err(FdbError::from)),
        0
    );
    assert_eq!(code(block_on(watch)), 0);

    // The same again, without anything that waits for the read.
    let transaction = begin(&database);
    let watch = transaction.watch(b"k");
    transaction.set(b"k", b"5");
    assert_eq!(code(block_on(watch)), 0);
}

#[test]
fn a_watch_cancelled_while_it_reads_leaves_no_conflict_range() {
    let database = database("given_up");
    let transaction = begin(&database);
    drop(transaction.watch(b"k"));
    transaction.set(b"other", b"1");
    put(&database, b"k", b"1");
    assert_eq!(
        code(block_on(transaction.commit()).map_err(FdbError::from)),
        0
    );
}

#[test]
fn a_watch_that_is_read_while_a_retry_waits_belongs_to_the_next_try() {
    let database = database("watch_retried");
    let transaction = begin(&database);
    let watch = transaction.watch(b"k");
    let retried = block_on(transaction.on_error(FdbError::from_code(1020)));
    let Ok(transaction) = retried else {
        panic!("1020 can be retried")
    };
    assert_eq!(
        code(block_on(transaction.commit()).map_err(FdbError::from)),
        0
    );
    put(&database, b"k", b"1");
    assert_eq!(code(block_on(watch)), 0);
}

#[test]
fn a_watch_at_a_future_version_waits_for_it() {
    let database = database("watch_ahead");
    let transaction = begin(&database);
    let version = block_on(transaction.get_read_version()).unwrap_or_default();
    let transaction = begin(&database);
    transaction.set_read_version(version + 100_000_000);
    let mut watch = transaction.watch(b"k");
    assert!((&mut watch).now_or_never().is_none());
    assert_eq!(code(block_on(watch)), 1009);
}

#[test]
fn an_empty_range_has_no_estimates() {
    let database = database("empty_range");
    let transaction = begin(&database);
    let size = transaction.get_estimated_range_size_bytes(b"a", b"a");
    assert_eq!(code(block_on(size)), 4100);
    let parts = transaction.get_range_split_points(b"a", b"a", 100);
    assert_eq!(code(block_on(parts)), 4100);
    let size = transaction.get_estimated_range_size_bytes(b"a", b"b");
    assert_eq!(code(block_on(size)), 0);
}

#[test]
fn keys_that_are_not_stored_have_no_addresses() {
    let transaction = begin(&database("addresses"));
    let addresses = |key: &[u8]| {
        let found = block_on(transaction.get_addresses_for_key(key));
        found.map(|addresses| addresses.iter().count()).ok()
    };
    assert_eq!(addresses(b"k"), Some(1));
    assert_eq!(addresses(b"\xff\xff/status/json"), Some(0));
}

#[test]
fn selector_keys_are_truncated_before_and_after_their_successor() {
    let transaction = begin(&database("long_selectors"));
    let long = vec![b'k'; 20_000];
    let range = RangeOption {
        begin: KeySelector::first_greater_or_equal(&b"a"[..]),
        end: KeySelector::first_greater_than(&long),
        ..RangeOption::default()
    };
    assert_eq!(code(block_on(transaction.get_range(&range, 1, false))), 0);
    let size = block_on(transaction.get_approximate_size()).ok();
    assert_eq!(size, Some(1 + 10_009 + 24));
    // The end of all keys has no successor.
    let transaction = begin(&database("long_selectors"));
    let option = TransactionOption::ReadSystemKeys;
    assert_eq!(code(transaction.set_option(option)), 0);
    let end = KeySelector::first_greater_or_equal(&b"\xff\xff"[..]);
    assert_eq!(code(block_on(transaction.get_key(&end, false))), 0);
    assert_eq!(block_on(transaction.get_approximate_size()).ok(), Some(0));
}

#[test]
fn a_timeout_counts_from_the_beginning_and_precedes_later_errors() {
    let database = database("late_timeout");
    let transaction = begin(&database);
    let stamp = transaction.get_versionstamp();
    std::thread::sleep(Duration::from_millis(20));
    let set = |milliseconds| {
        let option = TransactionOption::Timeout(milliseconds);
        assert_eq!(code(transaction.set_option(option)), 0);
    };
    set(10);
    set(100_000);
    assert_eq!(code(block_on(transaction.get(b"k", false))), 1031);
    assert_eq!(code(block_on(stamp)), 1031);

    // A timeout set while the stamp was awaited.
    let transaction = begin(&database);
    let stamp = transaction.get_versionstamp();
    let option = TransactionOption::Timeout(10);
    assert_eq!(code(transaction.set_option(option)), 0);
    assert_eq!(code(block_on(stamp)), 1031);
}

#[test]
fn selector_offsets_may_be_any_number() {
    let database = database("offsets");
    put(&database, b"k", b"1");
    let keys: [&[u8]; 4] = [b"", b"k", b"\xff", b"\xff\xff/management/tenant/map/"];
    let offsets = [i32::MIN, i32::MIN + 1, -1, 0, 1, 2, i32::MAX - 1, i32::MAX];
    let mut selectors = Vec::new();
    for key in keys {
        for offset in offsets {
            for or_equal in [false, true] {
                selectors.push(KeySelector::new(key.into(), or_equal, offset));
            }
        }
    }
    // Failures inside the engine are internal errors.
    let fails = |code: i32| [4000, 4100].contains(&code);
    for own_writes in [false, true] {
        for selector in &selectors {
            let transaction = begin(&database);
            if own_writes {
                transaction.set(b"j", b"");
                transaction.clear(b"k");
            }
            let code_of_key = code(block_on(transaction.get_key(selector, false)));
            assert!(!fails(code_of_key), "{selector:?}: {code_of_key}");
            for end in &selectors {
                for reverse in [false, true] {
                    let range = RangeOption {
                        begin: selector.clone(),
                        end: end.clone(),
                        limit: Some(2),
                        reverse,
                        ..RangeOption::default()
                    };
                    let code_of_range = code(block_on(transaction.get_range(&range, 1, false)));
                    assert!(!fails(code_of_range), "{range:?}: {code_of_range}");
                }
            }
        }
    }
}
