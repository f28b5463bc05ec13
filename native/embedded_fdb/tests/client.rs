//! The published `foundationdb` client on the engine: the usual operations of applications.

mod common;

use common::{begin, code, database, put, stats};
use foundationdb::directory::{Directory, DirectoryLayer};
use foundationdb::options::{ConflictRangeType, DatabaseOption, MutationType, TransactionOption};
use foundationdb::tuple::{pack, Subspace};
use foundationdb::{FdbBindingError, FdbError, RangeOption};
use futures::executor::block_on;
use futures::FutureExt;

#[test]
fn a_closure_is_retried_until_it_commits() {
    let database = database("closure");
    for _ in 0..10 {
        let result = block_on(database.run(|transaction, _| async move {
            let count = transaction.get(b"count", false).await?;
            let count = count.map_or(0, |bytes| bytes[0]);
            transaction.set(b"count", &[count + 1]);
            Ok(())
        }));
        assert!(result.is_ok());
    }
    let value = block_on(begin(&database).get(b"count", false));
    assert_eq!(
        value.ok().flatten().map(|value| value.to_vec()),
        Some(vec![10])
    );
}

#[test]
fn a_watch_fires_when_the_value_changes() {
    let database = database("watch");
    put(&database, b"k", b"1");
    let transaction = begin(&database);
    let mut watch = transaction.watch(b"k");
    assert!(block_on(transaction.commit()).is_ok());
    put(&database, b"k", b"1");
    assert!(
        (&mut watch).now_or_never().is_none(),
        "the value is the same"
    );
    put(&database, b"other", b"2");
    assert!((&mut watch).now_or_never().is_none(), "another key");
    assert_eq!(stats("watch").pending_watches, 1);
    put(&database, b"k", b"2");
    assert_eq!(code(block_on(watch)), 0);
    assert_eq!(stats("watch").pending_watches, 0);
}

#[test]
fn a_watch_on_an_absent_key_fires_when_it_is_set() {
    let database = database("absent");
    let transaction = begin(&database);
    let watch = transaction.watch(b"k");
    assert!(block_on(transaction.commit()).is_ok());
    put(&database, b"k", b"");
    assert_eq!(code(block_on(watch)), 0);
}

#[test]
fn a_dropped_watch_is_removed_immediately() {
    let database = database("dropped");
    let transaction = begin(&database);
    let watches: Vec<_> = (0..100u8).map(|i| transaction.watch(&[i])).collect();
    assert_eq!(stats("dropped").pending_watches, 100);
    assert!(block_on(transaction.commit()).is_ok());
    assert_eq!(stats("dropped").pending_watches, 100);
    drop(watches);
    assert_eq!(stats("dropped").pending_watches, 0);
    let uncommitted = begin(&database);
    let watch = uncommitted.watch(b"k");
    drop(watch);
    assert_eq!(stats("dropped").pending_watches, 0);
}

#[test]
fn a_watch_of_a_transaction_that_ends_fails() {
    let database = database("ended");
    let transaction = begin(&database);
    let watch = transaction.watch(b"k");
    drop(transaction);
    assert_eq!(code(block_on(watch)), 1025);
}

#[test]
fn a_watch_that_still_reads_its_value_continues_in_the_next_try() {
    let database = database("next-try");
    let fires = || {
        let transaction = begin(&database);
        let mut watch = transaction.watch(b"k");
        let retried = block_on(transaction.on_error(FdbError::from_code(1020)));
        assert_eq!(
            code(block_on(retried.expect("a retry").commit()).map_err(Into::into)),
            0
        );
        (&mut watch).now_or_never().is_none()
    };
    // A machine that is busy may be too slow once.
    assert!((0..20).any(|_| fires()));
}

#[test]
fn a_span_has_a_protocol_version() {
    let database = database("span");
    let read_with = |span: Vec<u8>| {
        let transaction = begin(&database);
        transaction
            .set_option(TransactionOption::SpanParent(span))
            .expect("told later");
        code(block_on(transaction.get(b"k", false)))
    };
    let span = |version: u64| [&version.to_le_bytes()[..], &[0; 25]].concat();
    assert_eq!(read_with(vec![0; 32]), 2006);
    assert_eq!(read_with(span(0)), 2100);
    assert_eq!(read_with(span(0x0fdb_00b0_7300_0000)), 0);
}

#[test]
fn an_invalid_database_option_makes_later_calls_fail() {
    let database = database("spoiled");
    let transaction = begin(&database);
    let option = DatabaseOption::MaxWatches(-1);
    assert_eq!(code(database.set_option(option)), 0);
    assert_eq!(code(block_on(transaction.get(b"k", false))), 2006);
    let option = DatabaseOption::MaxWatches(1);
    assert_eq!(code(database.set_option(option)), 0);
    assert_eq!(code(block_on(begin(&database).get(b"k", false))), 2006);
    let transaction = begin(&self::database("spoiled"));
    assert_eq!(
        code(block_on(transaction.get(b"k", false))),
        0,
        "another handle"
    );
}

#[test]
fn snapshot_reads_can_ignore_own_writes() {
    let database = database("database-snapshots");
    let option = DatabaseOption::SnapshotRywDisable;
    assert_eq!(code(database.set_option(option)), 0);
    let transaction = begin(&database);
    transaction.set(b"k", b"mine");
    let read = |snapshot| block_on(transaction.get(b"k", snapshot)).map(|value| value.is_some());
    assert_eq!(read(true).ok(), Some(false));
    assert_eq!(read(false).ok(), Some(true));
}

#[test]
fn held_watches_fire_when_they_are_released() {
    let database = database("held");
    let admin = embedded_fdb::admin::Database::find("embedded:memory:held");
    let Some(admin) = admin else {
        panic!("nobody opened the database")
    };
    let transaction = begin(&database);
    let mut watch = transaction.watch(b"k");
    assert!(block_on(transaction.commit()).is_ok());
    admin.hold_watches(true);
    put(&database, b"k", b"1");
    assert!((&mut watch).now_or_never().is_none());
    admin.hold_watches(false);
    assert_eq!(code(block_on(watch)), 0);
}

#[test]
fn there_is_a_limit_of_watches() {
    let database = database("limit");
    assert_eq!(code(database.set_option(DatabaseOption::MaxWatches(2))), 0);
    let transaction = begin(&database);
    let _first = transaction.watch(b"a");
    let _second = transaction.watch(b"b");
    assert_eq!(code(block_on(transaction.watch(b"c"))), 1032);
}

#[test]
fn versionstamps_order_keys_by_commit() {
    let database = database("stamps");
    let mut stamps = Vec::new();
    for i in 0..5u8 {
        let transaction = begin(&database);
        let mut key = b"log/".to_vec();
        key.extend([0; 10]);
        key.extend(4u32.to_le_bytes());
        transaction.atomic_op(&key, &[i], MutationType::SetVersionstampedKey);
        let stamp = transaction.get_versionstamp();
        assert!(block_on(transaction.commit()).is_ok());
        stamps.push(
            block_on(stamp)
                .map(|stamp| stamp.to_vec())
                .unwrap_or_default(),
        );
    }
    let all = RangeOption::from((&b"log/"[..], &b"log0"[..]));
    let rows = block_on(begin(&database).get_range(&all, 1, false));
    let rows: Vec<_> = rows
        .into_iter()
        .flatten()
        .map(|r| (r.key()[4..].to_vec(), r.value()[0]))
        .collect();
    let expected: Vec<_> = stamps.into_iter().zip(0u8..).collect();
    assert_eq!(rows, expected);
}

#[test]
fn conflicting_keys_are_reported() {
    let database = database("conflicts");
    let transaction = begin(&database);
    assert_eq!(
        code(transaction.set_option(TransactionOption::ReportConflictingKeys)),
        0
    );
    assert!(block_on(transaction.get(b"a", false)).is_ok());
    assert!(block_on(transaction.get(b"b", false)).is_ok());
    transaction.set(b"c", b"1");
    put(&database, b"b", b"1");
    let Err(error) = block_on(transaction.commit()) else {
        panic!("b was written")
    };
    assert_eq!(error.code(), 1020);
    let keys = block_on(error.conflicting_keys()).unwrap_or_default();
    let keys: Vec<_> = keys
        .iter()
        .map(|range| (range.begin(), range.end()))
        .collect();
    assert_eq!(keys, [(&b"b"[..], &b"b\0"[..])]);
}

#[test]
fn conflict_ranges_can_be_read_back() {
    let database = database("ranges");
    let transaction = begin(&database);
    assert!(block_on(transaction.get(b"r", false)).is_ok());
    transaction.set(b"w", b"1");
    assert_eq!(
        code(transaction.add_conflict_range(b"x", b"y", ConflictRangeType::Write)),
        0
    );
    for (prefix, expected) in [
        (
            &b"\xff\xff/transaction/read_conflict_range/"[..],
            vec!["r", "r\0"],
        ),
        (
            &b"\xff\xff/transaction/write_conflict_range/"[..],
            vec!["w", "w\0", "x", "y"],
        ),
    ] {
        let end = [prefix, b"\xff"].concat();
        let range = RangeOption::from((prefix, &end[..]));
        let rows = block_on(transaction.get_range(&range, 1, false));
        let rows: Vec<_> = rows
            .into_iter()
            .flatten()
            .map(|r| r.key()[prefix.len()..].to_vec())
            .collect();
        assert_eq!(
            rows,
            expected
                .iter()
                .map(|key| key.as_bytes().to_vec())
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_status_is_json() {
    let database = database("status");
    let transaction = begin(&database);
    let status = block_on(transaction.get(b"\xff\xff/status/json", false))
        .ok()
        .flatten();
    let status: Option<serde_json::Value> = status.and_then(|s| serde_json::from_slice(&s).ok());
    let available = status.map(|status| status["client"]["database_status"]["available"].clone());
    assert_eq!(available, Some(serde_json::Value::Bool(true)));
    let path = block_on(transaction.get(b"\xff\xff/cluster_file_path", false))
        .ok()
        .flatten();
    assert_eq!(
        path.map(|path| path.to_vec()),
        Some(b"embedded:memory:status".to_vec())
    );
    assert_eq!(
        code(block_on(transaction.get(b"\xff\xff/nothing", false))),
        2113
    );
    let crossing = RangeOption::from((&b"\xff\xff/status/json"[..], &b"\xff\xff/tracing/"[..]));
    assert_eq!(
        code(block_on(transaction.get_range(&crossing, 1, false))),
        2112
    );
    transaction.set(b"\xff\xff/management/tenant/map/x", b"");
    assert_eq!(code(block_on(transaction.get(b"k", false))), 2114);
}

#[test]
fn a_mapped_range_follows_an_index() {
    let database = database("mapped");
    let setup = begin(&database);
    for i in 0..3i64 {
        setup.set(&pack(&("index", i, "id", 10 - i)), b"");
        setup.set(
            &pack(&("record", 10 - i, "name")),
            format!("n{i}").as_bytes(),
        );
        setup.set(
            &pack(&("record", 10 - i, "size")),
            format!("s{i}").as_bytes(),
        );
    }
    assert!(block_on(setup.commit()).is_ok());
    let transaction = begin(&database);
    let index = Subspace::from_bytes(pack(&("index",)));
    let range = RangeOption::from(&index);
    let mapper = pack(&("record", "{K[3]}", "{...}"));
    let rows = block_on(transaction.get_mapped_range(&range, &mapper, 1, false));
    let Ok(rows) = rows else { panic!("no rows") };
    let names: Vec<Vec<u8>> = rows
        .iter()
        .flat_map(|row| {
            row.key_values()
                .iter()
                .map(|kv| kv.value().to_vec())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(names, [b"n0", b"s0", b"n1", b"s1", b"n2", b"s2"]);
    transaction.set(&pack(&("record", 9i64, "name")), b"x");
    let own = block_on(transaction.get_mapped_range(&range, &mapper, 1, false));
    assert_eq!(code(own), 2039);
    let bad = pack(&("record", "{K[9]}"));
    assert_eq!(
        code(block_on(
            begin(&database).get_mapped_range(&range, &bad, 1, false)
        )),
        2030
    );
}

#[test]
fn directories_work() {
    let database = database("directories");
    let layer = DirectoryLayer::default();
    let path = vec!["app".to_owned(), "users".to_owned()];
    let transaction = begin(&database);
    let created = block_on(layer.create_or_open(&transaction, &path, None, None));
    assert!(created.is_ok());
    assert!(block_on(transaction.commit()).is_ok());
    let transaction = begin(&database);
    let listed = block_on(layer.list(&transaction, &["app".to_owned()])).ok();
    assert_eq!(listed, Some(vec!["users".to_owned()]));
}

#[test]
fn limits_of_a_transaction_hold() {
    let database = database("limits");
    let transaction = begin(&database);
    assert_eq!(
        code(transaction.set_option(TransactionOption::Timeout(1))),
        0
    );
    let stamp = transaction.get_versionstamp();
    assert_eq!(
        code(block_on(stamp)),
        1031,
        "a timeout ends what is pending"
    );
    assert_eq!(code(block_on(transaction.get(b"k", false))), 1031);

    // An expired timeout can't be taken back, whether or not anything was pending.
    let transaction = begin(&database);
    assert_eq!(
        code(transaction.set_option(TransactionOption::Timeout(1))),
        0
    );
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_eq!(
        code(transaction.set_option(TransactionOption::Timeout(0))),
        0
    );
    assert_eq!(code(block_on(transaction.get(b"k", false))), 1031);

    let transaction = begin(&database);
    transaction.set(b"k", &vec![0; 100_001]);
    assert_eq!(code(block_on(transaction.get(b"k", false))), 2103);
    assert_eq!(
        block_on(transaction.commit()).err().map(|e| e.code()),
        Some(2103)
    );

    let result = block_on(database.run(|transaction, _| async move {
        transaction.set_option(TransactionOption::RetryLimit(2))?;
        let conflict = foundationdb::FdbError::from_code(1020);
        Err::<(), FdbBindingError>(FdbBindingError::from(conflict))
    }));
    assert!(result.is_err());
}

#[test]
fn a_read_version_can_be_set() {
    let database = database("versions");
    put(&database, b"k", b"1");
    let before = block_on(begin(&database).get_read_version()).unwrap_or_default();
    put(&database, b"k", b"2");
    let transaction = begin(&database);
    transaction.set_read_version(before);
    let value = block_on(transaction.get(b"k", false)).ok().flatten();
    assert_eq!(value.map(|value| value.to_vec()), Some(b"1".to_vec()));
    let transaction = begin(&database);
    transaction.set_read_version(before + 200_000);
    let soon = block_on(transaction.get(b"k", false)).ok().flatten();
    assert_eq!(soon.map(|value| value.to_vec()), Some(b"2".to_vec()));
    for (version, expected) in [(before + 100_000_000, 1009), (before - 100_000_000, 1007)] {
        let transaction = begin(&database);
        transaction.set_read_version(version);
        assert_eq!(code(block_on(transaction.get(b"k", false))), expected);
    }
}

#[test]
fn a_commit_waits_for_reads_and_fails_with_them() {
    let database = database("reads_before_commit");
    let version = block_on(begin(&database).get_read_version()).unwrap_or_default();
    for (ahead, expected) in [(200_000, 0), (100_000_000, 1009)] {
        let transaction = begin(&database);
        transaction.set_read_version(version + ahead);
        transaction.set(b"k", b"v");
        let read = transaction.get(b"k2", false);
        assert!(read.now_or_never().is_none(), "the version is to come");
        let committed = block_on(transaction.commit());
        assert_eq!(committed.err().map_or(0, |error| error.code()), expected);
    }
}

#[test]
fn sizes_are_estimated_like_a_server_does() {
    let database = database("estimates");
    let transaction = begin(&database);
    for i in 0..2_000 {
        transaction.set(format!("{i:08}").as_bytes(), &[0; 92]);
    }
    assert!(block_on(transaction.commit()).is_ok());
    put(&database, b"x", b"a small row is seldom in the sample");
    put(&database, b"y", &[0; 60_000]);
    let transaction = begin(&database);
    let estimate =
        |begin, end| block_on(transaction.get_estimated_range_size_bytes(begin, end)).ok();
    assert_eq!(estimate(b"x", b"y"), Some(0));
    assert_eq!(estimate(b"y", b"z"), Some(60_001));
    let rows = estimate(b"0", b"1").unwrap_or_default();
    assert!((100_000..300_000).contains(&rows), "{rows}");
    let points = block_on(transaction.get_range_split_points(b"0", b"1", 50_000));
    let points: Vec<Vec<u8>> = points
        .map(|points| points.iter().map(|point| point.key().to_vec()).collect())
        .unwrap_or_default();
    assert!((3..10).contains(&points.len()), "{points:?}");
    assert_eq!(points.first().map(Vec::as_slice), Some(&b"0"[..]));
    assert_eq!(points.last().map(Vec::as_slice), Some(&b"1"[..]));
    assert!(points.is_sorted());
}

#[test]
fn special_keys_show_tracing_and_settings() {
    let database = database("tracing");
    let transaction = begin(&database);
    let read = |key: &'static [u8]| {
        let value = block_on(transaction.get(key, false)).ok().flatten();
        String::from_utf8(value.map(|value| value.to_vec()).unwrap_or_default()).unwrap_or_default()
    };
    let (id, token) = (
        b"\xff\xff/tracing/transaction_id",
        b"\xff\xff/tracing/token",
    );
    assert_eq!(read(id).len(), 32);
    assert_eq!(read(id), read(id));
    let mode = read(b"\xff\xff/management/data_distribution/mode");
    assert_eq!(mode, "-1");
    assert_eq!(
        code(transaction.set_option(TransactionOption::SpecialKeySpaceEnableWrites)),
        0
    );
    let named = "00112233445566778899aabbccddeeff";
    transaction.set(id, named.as_bytes());
    transaction.set(token, b"false");
    assert_eq!(read(id), named);
    assert_eq!(read(token), "0");
    transaction.set(b"k", b"v");
    transaction.set(token, b"true");
    assert_eq!(read(token), "0", "too late");
    assert!(read(b"\xff\xff/error_message").contains("must be set first"));
    let refused = block_on(transaction.commit());
    assert_eq!(refused.err().map(|error| error.code()), Some(2117));
}
