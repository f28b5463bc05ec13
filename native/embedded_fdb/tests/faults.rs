//! Injected faults: they are repeatable, and an application that follows FoundationDB's rules survives
//! all of them.

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{begin, code, database, put, stats};
use embedded_fdb::admin::{self, Faults, FaultsError};
use foundationdb::{Database, FdbBindingError, FdbError, RangeOption};
use futures::executor::block_on;
use futures::FutureExt;

fn set_faults(name: &str, faults: Option<&str>) {
    let admin = admin::Database::open(&format!("embedded:memory:{name}")).expect("it is open");
    let faults = faults.map(|text| text.parse::<Faults>().expect("faults"));
    admin.set_faults(faults).expect("faults that can be");
}

const ALL: &str = "not_committed=0.1,commit_unknown_result=0.2,transaction_too_old=0.05,\
     future_version=0.05,process_behind=0.05,slow_read=0.3,read_version_failure=0.1,\
     slow_read_version=0.2,read_delay_ms=0.2";

/// A long sequence of calls, and the code of each.
fn calls(database: &Database) -> Vec<i32> {
    let mut codes = Vec::new();
    for i in 0..200u8 {
        let transaction = begin(database);
        codes.push(code(block_on(transaction.get(&[i], false))));
        codes.push(code(block_on(transaction.get_range(
            &RangeOption::from((&[0][..], &[i][..])),
            1,
            true,
        ))));
        let transaction = begin(database);
        transaction.set(&[i], b"v");
        codes.push(
            block_on(transaction.commit())
                .err()
                .map_or(0, |error| error.code()),
        );
    }
    codes
}

#[test]
fn the_same_seed_and_calls_give_the_same_faults() {
    let run = |name: &str, seed: u64| {
        let database = database(name);
        set_faults(name, Some(&format!("seed={seed},{ALL}")));
        let codes = calls(&database);
        set_faults(name, None);
        let held: Vec<u8> = (0..200)
            .filter(|&i| {
                block_on(begin(&database).get(&[i], true))
                    .expect("a read")
                    .is_some()
            })
            .collect();
        assert!(calls(&database).iter().all(|&code| code == 0), "off is off");
        (codes, held)
    };
    let (codes, held) = run("seed-a", 1);
    assert_eq!((codes.clone(), held.clone()), run("seed-b", 1));
    assert_ne!(codes, run("seed-c", 2).0);
    for fault in [1007, 1009, 1020, 1021, 1037, 1051, 1078] {
        assert!(codes.contains(&fault), "{fault} does not happen");
    }
    // Of the commits with unknown results, some happened and some did not.
    let commits = (0u8..).zip(codes.chunks(3).map(|codes| codes[2]));
    let unknown: Vec<u8> = commits
        .clone()
        .filter(|c| c.1 == 1021)
        .map(|c| c.0)
        .collect();
    let there = unknown.iter().filter(|i| held.contains(i)).count();
    assert!(0 < there && there < unknown.len());
    for (i, code) in commits.filter(|c| c.1 != 1021) {
        assert_eq!(held.contains(&i), code == 0);
    }
}

fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, |bytes| {
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    })
}

#[test]
fn a_counter_counts_each_unknown_result_once_or_twice() {
    let database = database("counter");
    set_faults("counter", Some(&format!("seed=5,{ALL}")));
    const TIMES: u64 = 300;
    let (tries, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
    for _ in 0..TIMES {
        let done = block_on(database.run(|transaction, maybe_committed| {
            tries.fetch_add(1, Ordering::Relaxed);
            unknown.fetch_add(u64::from(bool::from(maybe_committed)), Ordering::Relaxed);
            async move {
                let count = number(transaction.get(b"count", false).await?.as_deref());
                transaction.set(b"count", &(count + 1).to_le_bytes());
                Ok(())
            }
        }));
        assert!(done.is_ok());
    }
    set_faults("counter", None);
    let value = block_on(begin(&database).get(b"count", true)).expect("a read");
    let count = number(value.as_deref());
    let (tries, unknown) = (tries.into_inner(), unknown.into_inner());
    // Each increment happened at least once, and at most once more for each unknown result.
    assert!(
        (TIMES..=TIMES + unknown).contains(&count),
        "{count}, {unknown} unknown"
    );
    assert!(count > TIMES, "some that were unknown were done");
    assert!(
        count < TIMES + unknown,
        "some that were unknown were not done"
    );
    assert!(tries > TIMES + unknown, "there were other faults");
}

#[test]
fn an_idempotency_key_makes_transfers_exact_despite_faults() {
    const ACCOUNTS: u8 = 5;
    const TRANSFERS: u8 = 100;
    const THREADS: u8 = 4;
    let database = database("bank");
    (0..ACCOUNTS).for_each(|account| put(&database, &[account], &1_000u64.to_le_bytes()));
    set_faults("bank", Some(&format!("seed=9,{ALL}")));
    let transfer = |thread: u8, number_of: u8| {
        let id = [100, thread, number_of];
        let from = number_of % ACCOUNTS;
        let to = (number_of + 1 + thread % 4) % ACCOUNTS;
        let done: Result<(), FdbBindingError> =
            block_on(database.run(|transaction, _| async move {
                if transaction.get(&id, false).await?.is_some() {
                    return Ok(());
                }
                let source = number(transaction.get(&[from], false).await?.as_deref());
                let target = number(transaction.get(&[to], false).await?.as_deref());
                transaction.set(&[from], &(source - 1).to_le_bytes());
                transaction.set(&[to], &(target + 1).to_le_bytes());
                transaction.set(&id, b"");
                Ok(())
            }));
        assert!(done.is_ok());
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || (0..TRANSFERS).for_each(|number| transfer(thread, number)));
        }
    });
    set_faults("bank", None);
    let mut expected = [1_000u64; ACCOUNTS as usize];
    for thread in 0..THREADS {
        for number in 0..TRANSFERS {
            expected[usize::from(number % ACCOUNTS)] -= 1;
            expected[usize::from((number + 1 + thread % 4) % ACCOUNTS)] += 1;
        }
    }
    let balance = |account| {
        let value = block_on(begin(&database).get(&[account], true)).expect("a read");
        number(value.as_deref())
    };
    let found: Vec<u64> = (0..ACCOUNTS).map(balance).collect();
    assert_eq!(found, expected);
    assert_eq!(stats("bank").transactions, 0);
}

/// Sets a watch on `k`, in a transaction that commits.
fn watch(database: &Database) -> impl std::future::Future<Output = Result<(), FdbError>> {
    loop {
        let transaction = begin(database);
        let watch = transaction.watch(b"k");
        if block_on(transaction.commit()).is_ok() {
            return watch;
        }
    }
}

#[test]
fn a_watch_that_fails_can_be_set_again() {
    let database = database("watch-failure");
    put(&database, b"k", b"1");
    set_faults(
        "watch-failure",
        Some("seed=1,watch_failure=1,watch_delay_ms=2"),
    );
    // SAFETY: the function only inspects its arguments.
    let retryable = |code| unsafe { embedded_fdb::c_api::fdb_error_predicate(50_000, code) } != 0;
    for _ in 0..10 {
        let code = code(block_on(watch(&database)));
        assert!(code == 1009 && retryable(code), "{code}");
    }
    assert_eq!(stats("watch-failure").pending_watches, 0);
    set_faults("watch-failure", None);
    let mut again = Box::pin(watch(&database));
    assert!((&mut again).now_or_never().is_none());
    put(&database, b"k", b"2");
    assert_eq!(code(block_on(again)), 0);
}

#[test]
fn a_late_watch_still_fires() {
    let database = database("watch-delay");
    set_faults("watch-delay", Some("seed=1,slow_watch=1,watch_delay_ms=3"));
    for i in 0..20u8 {
        let watch = watch(&database);
        put(&database, b"k", &[i]);
        assert_eq!(code(block_on(watch)), 0);
    }
    assert_eq!(stats("watch-delay").pending_watches, 0);
    // After an hour: long enough to see that it does not fire immediately, and may be cancelled.
    set_faults(
        "watch-delay",
        Some("seed=1,slow_watch=1,watch_delay_ms=3600000"),
    );
    let mut late = Box::pin(watch(&database));
    put(&database, b"k", b"new");
    assert!((&mut late).now_or_never().is_none());
    drop(late);
    assert_eq!(stats("watch-delay").pending_watches, 0);
}

#[test]
fn a_slow_read_returns_the_data_of_its_read_version() {
    let database = database("slow");
    put(&database, b"k", b"before");
    set_faults("slow", Some("seed=1,slow_read=1,read_delay_ms=5"));
    let transaction = begin(&database);
    let mut slow = Box::pin(transaction.get(b"k", false));
    transaction.set(b"k", b"after");
    let value = block_on(&mut slow).expect("a read").expect("a value");
    assert_eq!(&value[..], b"before");

    set_faults("slow", Some("seed=1,slow_read=1,read_delay_ms=3600000"));
    let transaction = begin(&database);
    let mut never = Box::pin(transaction.get(b"k", false));
    assert!((&mut never).now_or_never().is_none());
    transaction.cancel();
    assert_eq!(code(block_on(never)), 1025);
    set_faults("slow", None);
}

#[test]
fn a_refused_read_version_stays_refused_until_the_next_try() {
    let database = database("refused");
    put(&database, b"k", b"v");
    set_faults("refused", Some("seed=3,read_version_failure=1"));
    let transaction = begin(&database);
    let error = block_on(transaction.get_read_version()).expect_err("it is refused");
    assert!([1051, 1078].contains(&error.code()) && error.is_retryable_not_committed());
    set_faults("refused", None);
    assert_eq!(code(block_on(transaction.get_read_version())), error.code());
    assert_eq!(code(block_on(transaction.get(b"k", false))), error.code());
    let again = block_on(transaction.on_error(error)).expect("it can be retried");
    let value = block_on(again.get(b"k", false)).expect("a read");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));

    set_faults("refused", Some("read_version_failure=1"));
    let transaction = begin(&database);
    let read = code(block_on(transaction.get(b"k", false)));
    assert!([1051, 1078].contains(&read));
    transaction.set(b"k", b"lost");
    assert_eq!(
        block_on(transaction.commit()).err().map(|e| e.code()),
        Some(read)
    );
    // Calls that need no read version are not affected.
    put(&database, b"k", b"w");
    set_faults("refused", None);
}

#[test]
fn a_slow_read_version_delays_the_call_that_asks_for_it() {
    let database = database("slow-version");
    set_faults(
        "slow-version",
        Some("slow_read_version=1,read_delay_ms=3600000"),
    );
    let transaction = begin(&database);
    let version = transaction.get_read_version();
    let mut version = std::pin::pin!(version);
    assert!(version.as_mut().now_or_never().is_none());
    // It has been requested: the next call does not wait for it.
    assert!(transaction.get(b"k", false).now_or_never().is_some());
    set_faults("slow-version", None);
    // A time limit ends the wait, as on a cluster.
    let limit = foundationdb::options::TransactionOption::Timeout(1);
    transaction.set_option(limit).expect("an option");
    assert_eq!(code(block_on(version)), 1031);
}

#[test]
fn commits_that_write_nothing_never_fail() {
    let database = database("read-only");
    set_faults("read-only", Some("seed=1,not_committed=1"));
    for _ in 0..10 {
        let transaction = begin(&database);
        assert_eq!(code(block_on(transaction.get(b"k", false))), 0);
        assert!(block_on(transaction.commit()).is_ok());
    }
    let transaction = begin(&database);
    transaction.set(b"k", b"v");
    assert!(block_on(transaction.commit()).is_err());
}

#[test]
fn invalid_faults_are_refused() {
    let _opened = database("refused");
    let admin = admin::Database::open("embedded:memory:refused").expect("it is open");
    let impossible = Faults {
        not_committed: 1.5,
        ..Faults::default()
    };
    let error = admin
        .set_faults(Some(impossible))
        .expect_err("more than certain");
    assert!(matches!(error, FaultsError::Value { .. }), "{error}");
}

const VARIABLE: &str = "EMBEDDED_FDB_FAULTS";

#[test]
#[ignore = "another test runs it in a separate process"]
fn open_with_faults_from_the_environment() {
    let variable = std::env::var(VARIABLE).expect("the variable");
    common::boot();
    let opened = Database::from_path("embedded:memory:environment");
    if variable.contains("wrong") {
        assert_eq!(code(opened), 2006);
        let error = admin::Database::open("embedded:memory:environment").err();
        let error = error.expect("an error").to_string();
        assert!(
            error.contains(VARIABLE) && error.contains("not_committed"),
            "{error}"
        );
    } else {
        let transaction = begin(&opened.expect("a database"));
        transaction.set(b"k", b"v");
        let refused = block_on(transaction.commit()).err();
        assert_eq!(refused.map(|error| error.code()), Some(1020));
    }
}

#[test]
fn faults_can_be_set_in_the_environment() {
    for faults in ["seed=1,not_committed=1", "wrong=1"] {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--ignored",
                "--exact",
                "open_with_faults_from_the_environment",
            ])
            .env(VARIABLE, faults)
            .output()
            .expect("a process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
    }
}
