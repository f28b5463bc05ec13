//! Single replies of range reads: where they end, and what they say about the rows that follow.

mod common;

use common::{begin, code, database, put};
use foundationdb::options::{MutationType, StreamingMode, TransactionOption};
use foundationdb::{Database, KeySelector, RangeOption, Transaction};
use futures::executor::block_on;

/// A hundred rows `k00` to `k99`, each of 3 and 20 bytes.
fn rows(name: &str) -> Database {
    let database = database(name);
    for i in 0..100 {
        put(&database, format!("k{i:02}").as_bytes(), &[b'v'; 20]);
    }
    database
}

#[derive(Clone, Copy)]
struct Ask {
    mode: StreamingMode,
    iteration: usize,
    limit: Option<usize>,
    reverse: bool,
}

const ALL: Ask = Ask {
    mode: StreamingMode::WantAll,
    iteration: 1,
    limit: None,
    reverse: false,
};

/// How many rows a reply has, and whether there may be more.
fn reply(
    transaction: &Transaction,
    begin: &str,
    end: &str,
    ask: Ask,
) -> Result<(usize, bool), i32> {
    let options = RangeOption {
        begin: KeySelector::first_greater_or_equal(begin.as_bytes()),
        end: KeySelector::first_greater_or_equal(end.as_bytes()),
        limit: ask.limit,
        reverse: ask.reverse,
        mode: ask.mode,
        ..RangeOption::default()
    };
    match block_on(transaction.get_range(&options, ask.iteration, false)) {
        Ok(rows) => Ok((rows.len(), rows.more())),
        Err(error) => Err(error.code()),
    }
}

#[test]
fn a_server_counts_24_bytes_for_each_row_beside_key_and_value() {
    let database = rows("counts");
    let read = |mode, iteration| {
        let ask = Ask {
            mode,
            iteration,
            ..ALL
        };
        reply(&begin(&database), "k", "l", ask)
    };
    // 47 bytes per row: the last row is the first that reaches the limit.
    assert_eq!(read(StreamingMode::Small, 1), Ok((6, true)));
    assert_eq!(read(StreamingMode::Medium, 1), Ok((22, true)));
    assert_eq!(read(StreamingMode::Large, 1), Ok((88, true)));
    assert_eq!(read(StreamingMode::Iterator, 1), Ok((88, true)));
    assert_eq!(read(StreamingMode::Iterator, 2), Ok((100, false)));
    assert_eq!(read(StreamingMode::Serial, 1), Ok((100, false)));
    let backward = Ask {
        mode: StreamingMode::Small,
        reverse: true,
        ..ALL
    };
    assert_eq!(reply(&begin(&database), "k", "l", backward), Ok((6, true)));
}

#[test]
fn known_data_need_no_request() {
    let database = rows("known");
    let transaction = begin(&database);
    let small = || Ask {
        mode: StreamingMode::Small,
        ..ALL
    };
    assert_eq!(reply(&transaction, "k", "l", small()), Ok((6, true)));
    // From the six known rows, a client takes the requested number of bytes, by its own count of 31 for
    // each; and that is not enough.
    assert_eq!(reply(&transaction, "k", "l", small()), Ok((6, true)));
    assert_eq!(reply(&transaction, "k", "k40", ALL), Ok((6, true)));
    assert_eq!(reply(&transaction, "k05\0", "l", ALL), Ok((94, false)));
    assert_eq!(reply(&transaction, "k", "l", ALL), Ok((100, false)));
    assert_eq!(reply(&transaction, "k", "l", small()), Ok((9, true)));
}

#[test]
fn a_reply_ends_where_own_writes_end_the_known_part() {
    let database = rows("writes");
    let transaction = begin(&database);
    // A request covers one written key, but not a range.
    transaction.set(b"k30", b"mine");
    transaction.clear_range(b"k50", b"k52");
    assert_eq!(reply(&transaction, "k", "l", ALL), Ok((50, true)));
    let exact = Ask {
        mode: StreamingMode::Exact,
        limit: Some(80),
        ..ALL
    };
    assert_eq!(reply(&transaction, "k", "l", exact), Ok((80, true)));
}

#[test]
fn written_or_read_data_are_read_again_without_the_database() {
    let database = rows("without");
    let transaction = begin(&database);
    transaction.set(b"k50", b"mine");
    assert!(block_on(transaction.get(b"k50", false)).is_ok());
    assert_eq!(reply(&transaction, "k50", "k50\0", ALL), Ok((1, false)));
    // No read version was needed so far, so it can still be set, even to a much too old one.
    transaction.set_read_version(1);
    assert!(block_on(transaction.get(b"k50", false)).is_ok());
    assert_eq!(
        code(block_on(transaction.get(b"k51", false)).map(|_| ())),
        1007
    );
    assert_eq!(
        code(block_on(transaction.commit()).map_err(Into::into)),
        1007
    );
}

#[test]
fn only_the_read_of_one_key_bypasses_unreadable_keys() {
    let database = rows("bypass");
    let transaction = begin(&database);
    transaction
        .set_option(TransactionOption::BypassUnreadable)
        .expect("an option");
    let operand = [&[0xff; 10][..], &[0; 4]].concat();
    transaction.atomic_op(b"k50", &operand, MutationType::SetVersionstampedValue);
    let value = block_on(transaction.get(b"k50", false)).expect("bypassed");
    assert_eq!(value.as_deref(), Some(&operand[..]));
    assert_eq!(reply(&transaction, "k", "l", ALL), Err(1036));
}

#[test]
fn there_is_no_more_if_the_last_row_ends_the_range() {
    let database = rows("last-row");
    let forward = Ask {
        mode: StreamingMode::Small,
        ..ALL
    };
    let backward = Ask {
        reverse: true,
        ..forward
    };
    // The server stops at its limit, but the client knows the rest without asking again.
    let read = |begin_key, end, ask| reply(&begin(&database), begin_key, end, ask);
    assert_eq!(read("k10", "k15\0", forward), Ok((6, false)));
    assert_eq!(read("k10", "k15\0", backward), Ok((6, false)));
    assert_eq!(read("k10", "k15\0\0", forward), Ok((6, true)));
    assert_eq!(read("k09\0", "k16", backward), Ok((6, true)));
}

#[test]
fn a_selector_at_the_edge_needs_no_read_version() {
    let database = rows("edge");
    let transaction = begin(&database);
    let edge = KeySelector::new(b"\xff"[..].into(), true, 1);
    let key = block_on(transaction.get_key(&edge, false)).expect("the end");
    assert_eq!(&key[..], b"\xff");
    put(&database, b"k50", b"new");
    let value = block_on(transaction.get(b"k50", false)).expect("read");
    assert_eq!(value.as_deref(), Some(&b"new"[..]));
}
