//! Simulated outages: nothing fails, nothing answers, and everything continues when they end.

mod common;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use common::{begin, code, database, put, stats};
use embedded_fdb::admin::{self, Outage};
use foundationdb::options::TransactionOption;
use foundationdb::{Database, FdbError, KeySelector, RangeOption};
use futures::executor::block_on;
use futures::future::{join3, Future, FutureExt};

fn admin(name: &str) -> admin::Database {
    admin::Database::open(&format!("embedded:memory:{name}")).expect("it is open")
}

fn outage(name: &str, outage: Outage) {
    admin(name).set_outage(outage);
}

fn ranges(ranges: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let owned = |(begin, end): &(&str, &str)| (begin.as_bytes().into(), end.as_bytes().into());
    ranges.iter().map(owned).collect()
}

fn reads(keys: &[(&str, &str)]) -> Outage {
    Outage {
        reads: ranges(keys),
        ..Outage::default()
    }
}

/// Whether a future has no answer. Checking asks for one, so that it would arrive if it could.
fn is_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(Pin::new(future).poll(&mut context), Poll::Pending)
}

/// Keys `a` to `e`, each with its own name.
fn letters(name: &str) -> Database {
    let database = database(name);
    for key in ["a", "b", "c", "d", "e"] {
        put(&database, key.as_bytes(), key.as_bytes());
    }
    database
}

fn range(begin: &str, end: &str) -> RangeOption<'static> {
    RangeOption::from((begin.as_bytes().to_vec(), end.as_bytes().to_vec()))
}

#[test]
fn reads_of_silent_keys_wait_and_all_others_continue() {
    let database = letters("silent-keys");
    outage("silent-keys", reads(&[("b", "c")]));
    let transaction = begin(&database);
    let mut get = transaction.get(b"b", false).boxed();
    let mut whole = transaction.get_range(&range("a", "f"), 1, false).boxed();
    let next = KeySelector::first_greater_than(&b"a"[..]);
    let mut key = transaction.get_key(&next, false).boxed();
    assert!(is_pending(&mut get) && is_pending(&mut whole) && is_pending(&mut key));
    // Other keys of the same transaction, and of others.
    let value = block_on(transaction.get(b"c", false)).expect("a value");
    assert_eq!(value.as_deref(), Some(&b"c"[..]));
    let rows = block_on(begin(&database).get_range(&range("c", "f"), 1, false)).expect("rows");
    assert_eq!(rows.len(), 3);
    // Commits continue, also those of the silent keys.
    put(&database, b"b", b"changed");
    assert!(block_on(begin(&database).get_read_version()).is_ok());
    // A read whose row limit ends before the silent keys does not ask their servers.
    let mut first = range("a", "f");
    first.limit = Some(1);
    let rows = block_on(begin(&database).get_range(&first, 1, false)).expect("a row");
    assert_eq!(rows.len(), 1);

    outage("silent-keys", Outage::default());
    let (value, rows, key) = block_on(join3(get, whole, key));
    // At the earlier read version.
    assert_eq!(value.expect("a value").as_deref(), Some(&b"b"[..]));
    assert_eq!(rows.expect("rows").len(), 5);
    assert_eq!(&key.expect("a key")[..], b"b");
}

#[test]
fn reads_without_read_your_writes_and_mapped_ranges_wait_too() {
    let database = letters("silent-plain");
    outage("silent-plain", reads(&[("b", "c")]));
    let transaction = begin(&database);
    let option = TransactionOption::ReadYourWritesDisable;
    assert!(transaction.set_option(option).is_ok());
    let mut get = transaction.get(b"b", false).boxed();
    let mut rows = transaction.get_range(&range("a", "f"), 1, true).boxed();
    let mapped = begin(&database);
    let mut mapped_rows = mapped
        .get_mapped_range(&range("a", "f"), b"\x01\x02{...}\0", 1, false)
        .boxed();
    assert!(is_pending(&mut get) && is_pending(&mut rows));
    // An unreadable index has no error of its own, either.
    assert!(is_pending(&mut mapped_rows));
    outage("silent-plain", Outage::default());
    assert!(block_on(get).is_ok_and(|value| value.is_some()));
    assert_eq!(block_on(rows).expect("rows").len(), 5);
    drop(mapped_rows);
}

#[test]
fn timeouts_cancellation_and_reset_end_waiting_calls() {
    let database = letters("silent-ends");
    outage("silent-ends", reads(&[("b", "c")]));
    let transaction = begin(&database);
    let timeout = TransactionOption::Timeout(50);
    assert!(transaction.set_option(timeout).is_ok());
    assert_eq!(code(block_on(transaction.get(b"b", false))), 1031);
    drop(transaction);
    let mut transaction = begin(&database);
    let get = transaction.get(b"b", false);
    transaction.reset();
    assert_eq!(code(block_on(get)), 1025);
    let get = transaction.get(b"b", false);
    let cancelled = transaction.cancel();
    assert_eq!(code(block_on(get)), 1025);
    drop(cancelled);
    assert_eq!(stats("silent-ends").transactions, 0);
    // They are not asked again.
    let before = stats("silent-ends").reads;
    outage("silent-ends", Outage::default());
    assert_eq!(stats("silent-ends").reads, before);
}

#[test]
fn a_retry_drops_the_reads_of_the_last_try() {
    let database = letters("silent-retry");
    outage("silent-retry", reads(&[("b", "c")]));
    let transaction = begin(&database);
    assert!(block_on(transaction.get(b"a", false)).is_ok());
    let other = transaction.get_range(&range("c", "f"), 1, false);
    let mut get = transaction.get(b"b", false).boxed();
    assert!(is_pending(&mut get));
    let retry = transaction.on_error(FdbError::from_code(1020)).boxed();
    // The outage may end while the client waits to retry.
    outage("silent-retry", Outage::default());
    assert_eq!(code(block_on(get)), 1025);
    assert_eq!(block_on(other).expect("rows").len(), 3);
    let transaction = block_on(retry).expect("a retry");
    assert!(block_on(transaction.get(b"b", false)).is_ok());
}

#[test]
fn a_commit_waits_for_reads_of_silent_keys_of_its_own_transaction() {
    let database = letters("silent-commit");
    outage("silent-commit", reads(&[("b", "c")]));
    let transaction = begin(&database);
    let get = transaction.get(b"b", false);
    transaction.set(b"x", b"1");
    let mut commit = transaction.commit().boxed();
    assert!(is_pending(&mut commit));
    put(&database, b"b", b"changed");
    outage("silent-commit", Outage::default());
    // The read counts: it conflicts with the writes made meanwhile.
    assert_eq!(code(block_on(commit).map_err(FdbError::from)), 1020);
    assert!(block_on(get).is_ok());
}

#[test]
fn silent_watches_fire_for_earlier_changes_after_the_outage() {
    let database = letters("silent-watches");
    let watch = |key: &[u8]| {
        let transaction = begin(&database);
        let watch = transaction.watch(key);
        assert!(block_on(transaction.commit()).is_ok());
        watch.boxed()
    };
    let (mut changed, mut back, mut other) = (watch(b"a"), watch(b"b"), watch(b"c"));
    outage(
        "silent-watches",
        Outage {
            watches: ranges(&[("a", "c")]),
            ..Outage::default()
        },
    );
    // A watch that is set during the outage.
    let mut late = watch(b"a");
    put(&database, b"a", b"new");
    put(&database, b"b", b"new");
    put(&database, b"b", b"b");
    put(&database, b"c", b"new");
    assert!(block_on(&mut other).is_ok());
    assert!(is_pending(&mut changed) && is_pending(&mut late) && is_pending(&mut back));
    outage("silent-watches", Outage::default());
    assert!(block_on(changed).is_ok() && block_on(late).is_ok());
    // Its value is the same as before.
    assert!(is_pending(&mut back));
    put(&database, b"b", b"newer");
    assert!(block_on(back).is_ok());
    assert_eq!(stats("silent-watches").pending_watches, 0);
}

#[test]
fn a_watch_is_armed_once_its_value_can_be_read() {
    let database = letters("silent-arming");
    outage("silent-arming", reads(&[("a", "b")]));
    let transaction = begin(&database);
    let mut watch = transaction.watch(b"a").boxed();
    let mut commit = transaction.commit().boxed();
    assert!(is_pending(&mut commit));
    put(&database, b"a", b"new");
    outage("silent-arming", Outage::default());
    assert!(block_on(commit).is_ok());
    // It has the value at its read version, which has changed.
    assert!(block_on(&mut watch).is_ok());
    assert_eq!(stats("silent-arming").pending_watches, 0);
}

#[test]
fn a_locked_database_refuses_transactions_that_are_not_lock_aware() {
    let database = letters("locked");
    let lock = |locked| {
        let outage = Outage {
            locked,
            ..Outage::default()
        };
        admin("locked").set_outage(outage);
    };
    let written = begin(&database);
    assert!(block_on(written.get(b"a", false)).is_ok());
    written.set(b"a", b"new");
    lock(true);
    assert_eq!(code(block_on(begin(&database).get(b"a", false))), 1038);
    assert_eq!(code(block_on(begin(&database).get_read_version())), 1038);
    let error = block_on(written.commit()).map(|_| ()).expect_err("locked");
    assert_eq!(error.code(), 1038);
    let aware = begin(&database);
    assert!(aware.set_option(TransactionOption::LockAware).is_ok());
    assert!(block_on(aware.get(b"a", false)).is_ok());
    aware.set(b"b", b"new");
    assert!(block_on(aware.commit()).is_ok());
    // A client that calls on_error is told to retry.
    let again = block_on(error.on_error()).expect("it can be retried");
    assert_eq!(code(block_on(again.get(b"a", false))), 1038);
    lock(false);
    let error = block_on(begin(&database).get(b"a", false));
    assert!(error.is_ok());
}

#[test]
fn a_silent_database_answers_after_the_outage() {
    let database = letters("silent");
    let known = begin(&database);
    assert!(block_on(known.get(b"a", false)).is_ok());
    let watched = begin(&database);
    let mut watch = watched.watch(b"a").boxed();
    assert!(block_on(watched.commit()).is_ok());
    let all = Outage {
        all: true,
        ..Outage::default()
    };
    outage("silent", all.clone());
    let (one, two, three, four) = (
        begin(&database),
        begin(&database),
        begin(&database),
        begin(&database),
    );
    let mut version = one.get_read_version().boxed();
    let mut get = two.get(b"a", false).boxed();
    // Known and written data need no server.
    assert!(block_on(known.get(b"a", false)).is_ok());
    let mut unknown = known.get(b"b", false).boxed();
    three.set(b"a", b"new");
    assert!(block_on(three.get(b"a", false)).is_ok());
    let mut commit = three.commit().boxed();
    let mut new_watch = four.watch(b"a").boxed();
    let mut armed = four.commit().boxed();
    assert!(
        block_on(begin(&database).commit()).is_ok(),
        "it asks nobody"
    );
    assert!(is_pending(&mut version) && is_pending(&mut get) && is_pending(&mut unknown));
    assert!(is_pending(&mut commit) && is_pending(&mut watch) && is_pending(&mut armed));
    // One outage after another is still one.
    outage("silent", all);
    assert!(is_pending(&mut version) && is_pending(&mut commit));
    outage("silent", Outage::default());
    assert!(block_on(version).is_ok() && block_on(get).is_ok() && block_on(unknown).is_ok());
    assert!(block_on(commit).is_ok() && block_on(armed).is_ok());
    assert!(block_on(watch).is_ok());
    // In either order, it is armed with the value before or after.
    let _ = is_pending(&mut new_watch);
    put(&database, b"a", b"newest");
    assert!(block_on(new_watch).is_ok());
}

#[test]
fn transactions_abandoned_during_an_outage_leave_nothing() {
    let database = letters("silent-many");
    let all = Outage {
        all: true,
        ..Outage::default()
    };
    outage("silent-many", all);
    for _ in 0..2_000 {
        let transaction = begin(&database);
        let mut get = transaction.get(b"a", false).boxed();
        assert!(is_pending(&mut get));
    }
    assert_eq!(stats("silent-many").transactions, 0);
    outage("silent-many", Outage::default());
    assert!(block_on(begin(&database).get(b"a", false)).is_ok());
}
