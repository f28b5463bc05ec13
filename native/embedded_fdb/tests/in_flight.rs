//! Reads of one transaction that are in flight together: none knows the results of the others.

mod common;

use std::ffi::c_int;

use common::{begin, code, database, put};
use foundationdb::options::{ConflictRangeType, StreamingMode};
use foundationdb::{Database, KeySelector, RangeOption, Transaction};
use futures::executor::block_on;
use futures::future::{join, join_all, Future};

/// Three rows, `p0` to `p2`.
fn rows(name: &str) -> Database {
    let database = database(name);
    for i in 0..3 {
        put(&database, format!("p{i}").as_bytes(), b"v");
    }
    database
}

type Page = Result<(usize, bool), c_int>;

/// A page of all three rows, with a limit of bytes: 1 makes it one row.
fn page(
    transaction: &Transaction,
    bytes: usize,
    reverse: bool,
) -> impl Future<Output = Page> + Send + Sync + Unpin + use<> {
    page_from(transaction, b"p", bytes, reverse)
}

fn page_from(
    transaction: &Transaction,
    begin: &[u8],
    bytes: usize,
    reverse: bool,
) -> impl Future<Output = Page> + Send + Sync + Unpin + use<> {
    let options = RangeOption {
        begin: KeySelector::first_greater_or_equal(begin),
        end: KeySelector::first_greater_or_equal(&b"q"[..]),
        target_bytes: bytes,
        mode: StreamingMode::WantAll,
        reverse,
        ..RangeOption::default()
    };
    let reply = transaction.get_range(&options, 1, false);
    Box::pin(async move {
        let reply = reply.await;
        reply
            .map(|rows| (rows.len(), rows.more()))
            .map_err(foundationdb::FdbError::code)
    })
}

fn size(transaction: &Transaction) -> i64 {
    block_on(transaction.get_approximate_size()).unwrap_or(-1)
}

#[test]
fn a_page_does_not_stop_where_the_page_of_another_read_in_flight_does() {
    let database = rows("pages");
    for reverse in [false, true] {
        let transaction = begin(&database);
        let (one, all) = (
            page(&transaction, 1, reverse),
            page(&transaction, 0, reverse),
        );
        assert_eq!(block_on(join(one, all)), (Ok((1, true)), Ok((3, false))));
        // If awaited first, it does.
        let transaction = begin(&database);
        assert_eq!(block_on(page(&transaction, 1, reverse)), Ok((1, true)));
        assert_eq!(block_on(page(&transaction, 0, reverse)), Ok((1, true)));
    }
}

#[test]
fn a_range_does_not_know_the_keys_of_reads_in_flight() {
    let database = rows("keys");
    let transaction = begin(&database);
    let key = transaction.get(b"p0", false);
    let range = page_from(&transaction, b"p0", 0, false);
    let (key, range) = block_on(join(key, range));
    assert!(key.is_ok_and(|value| value.is_some()));
    assert_eq!(range, Ok((3, false)));

    let transaction = begin(&database);
    assert!(block_on(transaction.get(b"p0", false)).is_ok());
    // "p0" is known now: the page ends where the database has to be asked.
    let range = page_from(&transaction, b"p0", 0, false);
    assert_eq!(block_on(range), Ok((1, true)));
}

#[test]
fn waiting_for_another_transaction_lets_answers_arrive() {
    let database = rows("others");
    let (one, other) = (begin(&database), begin(&database));
    let first = page(&one, 1, false);
    assert!(block_on(other.get(b"p0", false)).is_ok());
    let second = page(&one, 0, false);
    assert_eq!(
        block_on(join(first, second)),
        (Ok((1, true)), Ok((1, true)))
    );
}

#[test]
fn a_read_in_flight_does_not_see_what_is_written_after_it() {
    let database = rows("writes");
    let transaction = begin(&database);
    transaction.set(b"p1", b"before");
    // Two requests: before "p1" and after it.
    let range = page(&transaction, 10_000, false);
    transaction.clear_range(b"p", b"q");
    transaction.set(b"p9", b"after");
    assert_eq!(block_on(range), Ok((3, false)));
    assert_eq!(block_on(page(&transaction, 10_000, false)), Ok((1, false)));
}

#[test]
fn all_of_many_writes_beside_reads_in_flight_are_kept() {
    let database = rows("many");
    let transaction = begin(&database);
    transaction.set(b"p1", b"own");
    let mut pages = Vec::new();
    for i in 0..3_000 {
        pages.push(page(&transaction, 10_000, i % 2 == 0));
        transaction.set(format!("q{i:04}").as_bytes(), b"own");
    }
    let pages = block_on(join_all(pages));
    assert_eq!(pages.len(), 3_000);
    assert!(pages.iter().all(|page| *page == Ok((3, false))));
    assert!(block_on(transaction.commit()).is_ok());
    let written = block_on(begin(&database).get(b"q2999", false));
    assert!(written.is_ok_and(|value| value.is_some()));
}

#[test]
fn conflict_ranges_of_a_read_count_when_its_answer_arrives() {
    let database = rows("sizes");
    let transaction = begin(&database);
    let get = transaction.get(b"p0", false);
    let range = page(&transaction, 0, false);
    assert_eq!(size(&transaction), 0);
    assert!(block_on(get).is_ok());
    assert!(block_on(range).is_ok());
    // A key and its successor, and the ends of the range, with 24 bytes each.
    assert_eq!(size(&transaction), (2 + 3 + 24) + (1 + 1 + 24));
}

#[test]
fn reads_in_flight_end_with_the_transaction() {
    let database = rows("ends");
    let mut transaction = begin(&database);
    transaction.set(b"p1", b"own");
    let range = page(&transaction, 10_000, false);
    transaction.reset();
    assert_eq!(block_on(range), Err(1025));
    transaction.set(b"p1", b"own");
    let range = page(&transaction, 10_000, false);
    let cancelled = transaction.cancel();
    assert_eq!(block_on(range), Err(1025));
    let transaction = cancelled.reset();
    assert_eq!(block_on(page(&transaction, 10_000, false)), Ok((3, false)));
}

#[test]
fn a_commit_waits_for_reads_in_flight() {
    let database = rows("commit");
    let transaction = begin(&database);
    transaction.set(b"p1", b"own");
    // Nothing waits for this one, but it counts.
    drop(page(&transaction, 10_000, false));
    put(&database, b"p2", b"other");
    transaction.set(b"x", b"own");
    assert_eq!(
        code(block_on(transaction.commit()).map_err(Into::into)),
        1020
    );

    let transaction = begin(&database);
    let added = transaction.add_conflict_range(b"y", b"z", ConflictRangeType::Write);
    assert!(added.is_ok());
    let range = page(&transaction, 10_000, false);
    let commit = transaction.commit();
    let (range, commit) = block_on(join(range, commit));
    assert_eq!(range, Ok((3, false)));
    assert!(commit.is_ok());
}
