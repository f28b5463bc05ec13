//! Backups of databases in use, and compaction of their files.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{begin, boot, put};
use embedded_fdb::admin::{self, BackupError, CompactError};
use foundationdb::{Database, RangeOption};
use futures::executor::block_on;

const ACCOUNTS: u64 = 20;
const MONEY: u64 = 100;

fn open(name: &str) -> (Database, admin::Database) {
    boot();
    let admin = admin::Database::open(name).expect("it opens");
    (Database::from_path(name).expect("it is open"), admin)
}

fn in_file(path: &Path) -> (Database, admin::Database) {
    open(&format!("embedded:file:{}", path.display()))
}

fn rows(database: &Database, begin_key: &str, end: &str) -> Vec<(String, u64)> {
    let option = RangeOption::from((begin_key.as_bytes().to_vec(), end.as_bytes().to_vec()));
    let rows = block_on(begin(database).get_range(&option, 1, true)).expect("rows");
    rows.iter()
        .map(|row| {
            let value = String::from_utf8_lossy(row.value()).parse();
            let key = String::from_utf8_lossy(row.key()).into_owned();
            (key, value.expect("a number"))
        })
        .collect()
}

/// Moves money from one account to another, and counts the transfer, all in one transaction.
fn transfer(database: &Database, thread: u64, number: u64) {
    let account = |i: u64| format!("account/{:02}", i % ACCOUNTS);
    let (from, to) = (account(number * 7 + thread), account(number * 3 + 1));
    let moved = block_on(database.run(|transaction, _| {
        let (from, to) = (from.clone(), to.clone());
        async move {
            let read = |key: String| {
                let transaction = &transaction;
                async move {
                    let value = transaction.get(key.as_bytes(), false).await?;
                    let text = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                    let number = text
                        .and_then(|text| text.parse::<u64>().ok())
                        .unwrap_or(MONEY);
                    Ok::<_, foundationdb::FdbError>(number)
                }
            };
            let left = read(from.clone()).await?;
            if left > 0 && from != to {
                let had = read(to.clone()).await?;
                transaction.set(from.as_bytes(), (left - 1).to_string().as_bytes());
                transaction.set(to.as_bytes(), (had + 1).to_string().as_bytes());
            }
            let done = format!("done/{thread}");
            transaction.set(done.as_bytes(), number.to_string().as_bytes());
            Ok(())
        }
    }));
    moved.expect("a transfer");
}

/// Backs up a database while four threads write to it: each copy has every commit that was acknowledged
/// before it, and never half a transfer.
fn back_up_under_load(database: &Database, admin: &admin::Database, directory: &Path) {
    for i in 0..ACCOUNTS {
        put(
            database,
            format!("account/{i:02}").as_bytes(),
            MONEY.to_string().as_bytes(),
        );
    }
    let stop = AtomicBool::new(false);
    let acknowledged: [AtomicU64; 4] = Default::default();
    std::thread::scope(|scope| {
        for (thread, acknowledged) in (0..).zip(&acknowledged) {
            let stop = &stop;
            scope.spawn(move || {
                for number in 1.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    transfer(database, thread, number);
                    acknowledged.store(number, Ordering::Release);
                }
            });
        }
        for copy in 0..4 {
            let before: Vec<u64> = acknowledged
                .iter()
                .map(|acknowledged| {
                    // Each has something to lose.
                    while acknowledged.load(Ordering::Acquire) < 5 * (copy + 1) {
                        std::thread::yield_now();
                    }
                    acknowledged.load(Ordering::Acquire)
                })
                .collect();
            let path = directory.join(format!("copy-{copy}"));
            let backup = admin.back_up(&path).expect("a backup");
            let length = std::fs::metadata(&path).expect("the file").len();
            assert_eq!(backup.bytes, length);
            let (copied, _) = in_file(&path);
            let accounts = rows(&copied, "account/", "account0");
            let sum: u64 = accounts.iter().map(|(_, money)| money).sum();
            assert_eq!((accounts.len() as u64, sum), (ACCOUNTS, ACCOUNTS * MONEY));
            let done = rows(&copied, "done/", "done0");
            for (thread, before) in before.iter().enumerate() {
                assert!(done[thread].1 >= *before, "{done:?} after {before:?}");
            }
            // The copy is a separate database.
            put(&copied, b"account/copy", b"1");
        }
        stop.store(true, Ordering::Release);
    });
    assert!(rows(database, "account/copy", "account/d").is_empty());
}

#[test]
fn a_backup_of_a_file_in_use_is_consistent() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, admin) = in_file(&directory.path().join("db"));
    back_up_under_load(&database, &admin, directory.path());
}

#[test]
fn a_database_in_memory_can_be_backed_up_to_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, admin) = open("embedded:memory:backed-up");
    back_up_under_load(&database, &admin, directory.path());
}

#[test]
fn versions_of_a_copy_are_above_those_of_the_original() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, admin) = open("embedded:memory:versions");
    put(&database, b"k", b"1");
    let path = directory.path().join("copy");
    admin.back_up(&path).expect("a backup");
    let version = |database| block_on(begin(database).get_read_version()).expect("a version");
    let before = version(&database);
    assert!(version(&in_file(&path).0) > before);
}

#[test]
fn a_backup_error_names_the_obstacle_and_leaves_it_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, admin) = open("embedded:memory:not-backed-up");
    put(&database, b"k", &[b'1'; 50_000]);
    let path = directory.path().join("there");
    std::fs::write(&path, "precious").expect("a file");
    let error = admin.back_up(&path).expect_err("it is there");
    assert!(matches!(error, BackupError::Exists { .. }));
    assert!(error.to_string().contains(&path.display().to_string()));
    assert_eq!(std::fs::read_to_string(&path).expect("it"), "precious");
    let error = admin.back_up(&directory.path().join("no/such/copy"));
    let error = error.expect_err("no directory").to_string();
    assert!(
        error.contains("no/such") && error.contains("No such file"),
        "{error}"
    );
}

/// A file system of this size in memory, if the system allows it.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(path: &'a Path, options: &str) -> Option<Disk<'a>> {
        std::fs::create_dir_all(path).expect("a directory");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        let mounted = mount
            .arg(path)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("this user may not mount a file system");
        }
        mounted.then_some(Disk(path))
    }

    fn set(&self, options: &str) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", options]).arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_backup_to_a_full_or_read_only_disk_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("disk");
    let Some(disk) = Disk::new(&path, "size=200k") else {
        return;
    };
    let (database, admin) = open("embedded:memory:no-room");
    for i in 0..20 {
        put(&database, &[i], &[1; 50_000]);
    }
    let error = admin.back_up(&path.join("copy")).expect_err("it is full");
    let error = error.to_string();
    assert!(
        error.contains("copy") && error.contains("No space left"),
        "{error}"
    );
    let left = std::fs::read_dir(&path).expect("the disk").count();
    assert_eq!(left, 0);
    disk.set("remount,ro");
    let error = admin
        .back_up(&path.join("copy"))
        .expect_err("it is read-only");
    assert!(
        error.to_string().contains("Read-only file system"),
        "{error}"
    );
}

/// Sets one key, and returns the error code.
fn set(database: &Database, key: &[u8], value: &[u8]) -> i32 {
    let transaction = begin(database);
    transaction.set(key, value);
    let result = block_on(transaction.commit());
    result.err().map_or(0, |error| error.code())
}

#[test]
fn after_a_disk_is_removed_the_error_names_it_and_data_can_be_saved() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("disk");
    let Some(disk) = Disk::new(&path, "size=4m") else {
        return;
    };
    let (database, admin) = in_file(&path.join("db"));
    assert_eq!(set(&database, b"k", b"1"), 0);
    assert_eq!(admin.last_storage_failure(), None);
    drop(disk);
    assert_eq!(set(&database, b"k", b"2"), 1510);
    let failure = admin.last_storage_failure().expect("a failure");
    let file = path.join("db").display().to_string();
    assert!(
        failure.contains(&file) && failure.contains("was removed"),
        "{failure}"
    );
    // Reads continue, and the data in memory can be saved.
    assert_eq!(rows(&database, "k", "l"), [("k".to_owned(), 1)]);
    let copy = directory.path().join("copy");
    admin.back_up(&copy).expect("a backup");
    assert_eq!(rows(&in_file(&copy).0, "k", "l"), [("k".to_owned(), 1)]);
}

#[test]
fn the_error_names_a_removed_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("deeper");
    std::fs::create_dir(&path).expect("a directory");
    let (database, admin) = in_file(&path.join("db"));
    assert_eq!(set(&database, b"k", b"1"), 0);
    std::fs::remove_dir_all(&path).expect("it goes");
    assert_eq!(set(&database, b"k", b"2"), 1510);
    let failure = admin.last_storage_failure().expect("a failure");
    let gone = format!("{} was removed or moved away", path.display());
    assert!(failure.contains(&gone), "{failure}");
}

#[test]
fn compacting_returns_unused_space() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let (database, admin) = in_file(&path);
    for i in 0..40u8 {
        assert_eq!(set(&database, &[b'x', i], &[i; 90_000]), 0);
    }
    for i in 0..39u8 {
        assert_eq!(set(&database, &[b'x', i], b"1"), 0);
    }
    let stop = AtomicBool::new(false);
    let compaction = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // Commits wait, and succeed.
            let mut done = 0;
            while !stop.load(Ordering::Acquire) {
                done += 1;
                assert_eq!(set(&database, b"count", done.to_string().as_bytes()), 0);
            }
            done
        });
        let first = admin.compact().expect("a compaction");
        let second = admin.compact().expect("a compaction");
        stop.store(true, Ordering::Release);
        let done = writer.join().expect("a writer");
        assert_eq!(rows(&database, "count", "d"), [("count".to_owned(), done)]);
        assert!(second.after <= first.after + 1_000_000);
        first
    });
    assert!(compaction.after < compaction.before / 2, "{compaction:?}");
    // The file still contains everything: a copy of it opens.
    assert_eq!(set(&database, b"last", b"7"), 0);
    let backup = directory.path().join("backup");
    admin.back_up(&backup).expect("a backup");
    // The record of the last commit is written a moment later.
    let file = directory.path().join("file");
    assert!(admin.compact().is_ok());
    std::fs::copy(&path, &file).expect("a copy");
    for copy in [in_file(&backup).0, in_file(&file).0, database] {
        assert_eq!(rows(&copy, "last", "m"), [("last".to_owned(), 7)]);
        let big = block_on(begin(&copy).get(&[b'x', 39], true)).expect("a value");
        assert_eq!(big.map(|value| value.len()), Some(90_000));
    }
    let (_, memory) = open("embedded:memory:not-compacted");
    assert!(matches!(memory.compact(), Err(CompactError::InMemory)));
}
