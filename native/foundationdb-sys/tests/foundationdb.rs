//! The published `foundationdb` crate, unchanged, on the embedded engine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

use foundationdb::api::NetworkAutoStop;
use foundationdb::directory::{Directory, DirectoryError, DirectoryLayer};
use foundationdb::tuple::{pack, unpack, Subspace, Versionstamp};
use foundationdb::{
    options::MutationType, Database, FdbBindingError, FdbError, KeySelector, RangeOption,
};
use foundationdb_sys::{bind, Library};
use futures::executor::block_on;
use futures::future::join_all;
use futures::TryStreamExt;

/// A separate database for each test, in memory.
fn database(name: &str) -> Database {
    // Never dropped: the engine's network does not need to stop before the process ends.
    static NETWORK: OnceLock<NetworkAutoStop> = OnceLock::new();
    NETWORK.get_or_init(|| {
        bind(&Library::Embedded).unwrap();
        // SAFETY: called once; see above for its end.
        unsafe { foundationdb::boot() }
    });
    Database::new(Some(&format!("embedded:memory:{name}"))).unwrap()
}

async fn set(db: &Database, key: &[u8], value: &[u8]) {
    db.run(|trx, _| async move {
        trx.set(key, value);
        Ok(())
    })
    .await
    .unwrap();
}

async fn get(db: &Database, key: &[u8]) -> Option<Vec<u8>> {
    db.run(|trx, _| async move { Ok(trx.get(key, false).await?.map(|value| value.to_vec())) })
        .await
        .unwrap()
}

#[test]
fn set_values_are_read_by_key_and_by_range() {
    let db = database("ranges");
    block_on(async {
        for i in 0..100_u8 {
            set(&db, &[b'k', i], &[i]).await;
        }
        set(&db, b"l", b"outside").await;
        assert_eq!(get(&db, &[b'k', 7]).await, Some(vec![7]));
        assert_eq!(get(&db, b"missing").await, None);

        let trx = db.create_trx().unwrap();
        let range = RangeOption::from((&b"k"[..], &b"l"[..]));
        let rows: Vec<_> = trx
            .get_ranges_keyvalues(range, false)
            .map_ok(|row| (row.key().to_vec(), row.value().to_vec()))
            .try_collect()
            .await
            .unwrap();
        let expected: Vec<_> = (0..100_u8).map(|i| (vec![b'k', i], vec![i])).collect();
        assert_eq!(rows, expected);

        let last = KeySelector::last_less_than(b"l".to_vec());
        assert_eq!(&trx.get_key(&last, false).await.unwrap()[..], [b'k', 99]);
    });
}

#[test]
fn run_retries_after_a_conflicting_transaction() {
    let db = database("conflicts");
    block_on(async {
        set(&db, b"counter", &0_u64.to_le_bytes()).await;
        let (db, attempts) = (&db, &AtomicUsize::new(0));
        let increments = (0..8).map(|_| async move {
            for _ in 0..25 {
                db.run(|trx, _| async move {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    let value = trx.get(b"counter", false).await?.expect("the counter");
                    // A different transaction gets the chance to come in between.
                    futures_yield().await;
                    let value = u64::from_le_bytes(value[..].try_into().expect("8 bytes"));
                    trx.set(b"counter", &(value + 1).to_le_bytes());
                    Ok(())
                })
                .await
                .unwrap();
            }
        });
        join_all(increments).await;
        assert_eq!(
            get(db, b"counter").await,
            Some(200_u64.to_le_bytes().into())
        );
        assert!(attempts.load(Ordering::Relaxed) > 200, "nothing conflicted");
    });
}

async fn futures_yield() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            std::task::Poll::Ready(())
        } else {
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        }
    })
    .await;
}

#[test]
fn of_two_transactions_that_conflict_one_commits() {
    let db = database("one-commits");
    block_on(async {
        set(&db, b"key", b"0").await;
        let (first, second) = (db.create_trx().unwrap(), db.create_trx().unwrap());
        first.get(b"key", false).await.unwrap();
        second.get(b"key", false).await.unwrap();
        first.set(b"key", b"1");
        second.set(b"key", b"2");
        first.commit().await.unwrap();
        let error = second.commit().await.unwrap_err();
        assert_eq!(error.code(), 1020);
        assert!(error.is_retryable() && error.is_retryable_not_committed());
        assert!(!error.is_maybe_committed());

        let again = error.on_error().await.unwrap();
        assert_eq!(&again.get(b"key", false).await.unwrap().unwrap()[..], b"1");
        again.set(b"key", b"2");
        again.commit().await.unwrap();
        assert_eq!(get(&db, b"key").await, Some(b"2".to_vec()));
    });
}

#[test]
fn an_error_of_the_application_leaves_nothing_behind() {
    let db = database("application-error");
    block_on(async {
        let result: Result<(), FdbBindingError> = db
            .run(|trx, _| async move {
                trx.set(b"key", b"value");
                Err(FdbBindingError::new_custom_error("no".into()))
            })
            .await;
        assert!(matches!(result, Err(FdbBindingError::CustomError(_))));
        assert_eq!(get(&db, b"key").await, None);
        assert_eq!(
            FdbError::from_code(1020).message(),
            "Transaction not committed due to conflict with another transaction"
        );
    });
}

#[test]
fn versionstamps_follow_the_order_of_commits() {
    let db = database("versionstamps");
    block_on(async {
        let log = Subspace::from("log");
        let mut stamps = Vec::new();
        for i in 0..5_i64 {
            let trx = db.create_trx().unwrap();
            let key = log.pack_with_versionstamp(&Versionstamp::incomplete(0));
            trx.atomic_op(&key, &pack(&i), MutationType::SetVersionstampedKey);
            let stamp = trx.get_versionstamp();
            trx.commit().await.unwrap();
            stamps.push(stamp.await.unwrap().to_vec());
        }
        let trx = db.create_trx().unwrap();
        let rows = trx
            .get_range(&RangeOption::from(&log), 1, false)
            .await
            .unwrap();
        assert_eq!(rows.len(), 5);
        for (i, row) in rows.iter().enumerate() {
            let (stamp,): (Versionstamp,) = log.unpack(row.key()).unwrap();
            assert_eq!(stamp.transaction_version(), &stamps[i][..]);
            assert_eq!(unpack::<i64>(row.value()).unwrap(), i as i64);
        }
    });
}

#[test]
fn mapped_ranges_return_index_entries_with_their_records() {
    let db = database("mapped-ranges");
    block_on(async {
        for (name, id) in [("Ada", "u2"), ("Bea", "u1")] {
            set(&db, &pack(&("record", id)), name.as_bytes()).await;
            set(&db, &pack(&("index", name, id)), b"").await;
        }
        let trx = db.create_trx().unwrap();
        let range = RangeOption::from(&Subspace::from("index"));
        let mapper = pack(&("record", "{K[2]}", "{...}"));
        let rows = trx
            .get_mapped_range(&range, &mapper, 1, false)
            .await
            .unwrap();
        let found: Vec<(String, Vec<Vec<u8>>)> = rows
            .iter()
            .map(|row| {
                let (_index, name, _id): (String, String, String) =
                    unpack(row.parent_key()).unwrap();
                let records = row.key_values().iter();
                (
                    name,
                    records.map(|record| record.value().to_vec()).collect(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("Ada".to_string(), vec![b"Ada".to_vec()]),
                ("Bea".to_string(), vec![b"Bea".to_vec()]),
            ]
        );
    });
}

#[test]
fn the_directory_layer_works() {
    let db = database("directories");
    block_on(async {
        let layer = DirectoryLayer::default();
        let path = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();

        let trx = db.create_trx().unwrap();
        let users = layer
            .create_or_open(&trx, &path(&["app", "users"]), None, None)
            .await
            .unwrap();
        layer
            .create(&trx, &path(&["app", "posts"]), None, None)
            .await
            .unwrap();
        trx.set(&users.pack(&"u1").unwrap(), b"Alice");
        trx.commit().await.unwrap();

        let trx = db.create_trx().unwrap();
        let again = layer
            .open(&trx, &path(&["app", "users"]), None)
            .await
            .unwrap();
        assert_eq!(again.bytes().unwrap(), users.bytes().unwrap());
        let value = trx.get(&again.pack(&"u1").unwrap(), false).await.unwrap();
        assert_eq!(&value.unwrap()[..], b"Alice");
        let error = layer
            .create(&trx, &path(&["app", "users"]), None, None)
            .await;
        assert!(matches!(error, Err(DirectoryError::DirAlreadyExists)));
        let mut names = layer.list(&trx, &path(&["app"])).await.unwrap();
        names.sort();
        assert_eq!(names, ["posts", "users"]);

        let moved = layer
            .move_to(&trx, &path(&["app", "users"]), &path(&["app", "people"]))
            .await
            .unwrap();
        assert_eq!(moved.bytes().unwrap(), users.bytes().unwrap());
        layer.remove(&trx, &path(&["app", "posts"])).await.unwrap();
        trx.commit().await.unwrap();

        let trx = db.create_trx().unwrap();
        assert_eq!(layer.list(&trx, &path(&["app"])).await.unwrap(), ["people"]);
        assert!(!layer.exists(&trx, &path(&["app", "users"])).await.unwrap());
    });
}

#[test]
fn watches_fire_when_the_value_changes_and_only_then() {
    let db = database("watches");
    block_on(async {
        set(&db, b"watched", b"1").await;

        let trx = db.create_trx().unwrap();
        let changed = trx.watch(b"watched");
        let created = trx.watch(b"created");
        let other = trx.watch(b"other");
        trx.commit().await.unwrap();

        // An equal value is not a change, and neither is a different key's; that key's watch has fired, so
        // this one would have, too.
        set(&db, b"watched", b"1").await;
        set(&db, b"other", b"1").await;
        other.await.unwrap();
        let mut changed = Box::pin(changed);
        assert!(futures::poll!(changed.as_mut()).is_pending());

        set(&db, b"watched", b"2").await;
        changed.await.unwrap();
        set(&db, b"created", b"").await;
        created.await.unwrap();
    });
}

#[test]
fn a_watch_of_a_dropped_transaction_fails() {
    let db = database("dropped-watches");
    block_on(async {
        let trx = db.create_trx().unwrap();
        let watch = trx.watch(b"key");
        drop(trx);
        assert_eq!(watch.await.unwrap_err().code(), 1025);
    });
}
