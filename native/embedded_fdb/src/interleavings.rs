//! Tests of threads that interact, in every possible order; run by `checks/loom/run`.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use loom::thread;

use crate::c_types::FDBFuture;
use crate::database::{CommitRequest, Database};
use crate::error::{Error, Result};
use crate::future::{Callback, Future, Owner};
use crate::keys::{Key, Value};
use crate::mutation::{Mutation, Op};
use crate::mvcc::{Map, Version, Versions};
use crate::network;
use crate::output::Output;
use crate::resolver::single_key;
use crate::sync::{lock, wait, Condvar, Mutex};
use crate::watches::{new_watch, Allowance, Permit, Watch};

/// Tries all orders in which the model's threads can take locks and change atomics.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let orders = Count::default();
    let counted = orders.clone();
    loom::model(move || {
        counted.add();
        model();
    });
    println!("{} orders", orders.get());
    assert!(orders.get() > 3, "threads that do not meet prove nothing");
}

/// Counts events; not part of what loom explores.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A callback that counts its calls. The count must outlive them.
    fn callback(&self) -> Callback {
        unsafe extern "C" fn called(_: *mut FDBFuture, count: *mut c_void) {
            // SAFETY: the count is alive.
            unsafe { &*count.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
        }
        Callback {
            function: called,
            parameter: Arc::as_ptr(&self.0).cast_mut().cast(),
        }
    }
}

/// An owner that counts the calls it gets, and its drop.
struct Counted {
    cancelled: Count,
    dropped: Count,
}

impl Owner for Counted {
    fn cancelled(&self) {
        self.cancelled.add();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.dropped.add();
    }
}

fn number(future: &Future) -> Result<i64> {
    future.get(|output| match output {
        Output::Int64(number) => Ok(*number),
        _ => Err(Error::INTERNAL_ERROR),
    })
}

#[test]
fn a_callback_is_called_once_however_the_future_ends() {
    explore(|| {
        let (called, cancelled, dropped) = (Count::default(), Count::default(), Count::default());
        let future = Future::pending();
        future.set_owner(Arc::new(Counted {
            cancelled: cancelled.clone(),
            dropped: dropped.clone(),
        }));
        let completing = thread::spawn({
            let future = future.clone();
            move || future.complete(Ok(Output::Int64(7)))
        });
        let cancelling = thread::spawn({
            let future = future.clone();
            move || future.cancel()
        });
        future.on_ready(called.callback());
        completing.join().unwrap();
        cancelling.join().unwrap();
        network::run_queued();
        assert_eq!((called.get(), dropped.get()), (1, 1));
        match number(&future) {
            Ok(7) => assert_eq!(cancelled.get(), 0),
            Err(Error::OPERATION_CANCELLED) => assert_eq!(cancelled.get(), 1),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn who_waits_is_woken_and_sees_the_result() {
    explore(|| {
        let future = Future::pending();
        let waiting = thread::spawn({
            let future = future.clone();
            move || {
                future.wait().unwrap();
                number(&future)
            }
        });
        // As `fdb_future_destroy` does: the last reference may be dropped while other threads use theirs.
        let destroying = thread::spawn({
            let future = future.clone();
            move || future.cancel()
        });
        future.complete(Ok(Output::Int64(7)));
        destroying.join().unwrap();
        let waited = waiting.join().unwrap();
        assert!(matches!(waited, Ok(7) | Err(Error::OPERATION_CANCELLED)));
        assert_eq!(waited, number(&future));
    });
}

#[test]
fn the_last_release_frees_the_result() {
    explore(|| {
        let text: Key = b"result"[..].into();
        let future = Future::ready(Ok(Output::Key(text.clone())));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let future = future.clone();
                thread::spawn(move || {
                    let got = future.get(|_| Ok(()));
                    if got.is_ok() {
                        // Still there: this use of it has not ended.
                        assert_eq!(future.error(), Ok(()));
                        future.release();
                    }
                    got
                })
            })
            .collect();
        for thread in threads {
            let got = thread.join().unwrap();
            assert!(matches!(got, Ok(()) | Err(Error::FUTURE_RELEASED)));
        }
        assert_eq!(future.error(), Err(Error::FUTURE_RELEASED));
        assert_eq!(Arc::strong_count(&text), 1);
    });
}

#[test]
fn the_network_thread_does_what_came_before_its_end() {
    explore(|| {
        network::set_up().unwrap();
        let running = thread::spawn(|| network::run().unwrap());
        let done = Arc::new((Mutex::new(0), Condvar::new()));
        let future = Future::pending();
        let called = Count::default();
        future.on_ready(called.callback());
        future.complete(Ok(Output::Unit));
        network::on_network_thread(Box::new({
            let done = done.clone();
            move || {
                *lock(&done.0) += 1;
                done.1.notify_one();
            }
        }));
        let mut times = lock(&done.0);
        while *times == 0 {
            times = wait(&done.1, times);
        }
        assert_eq!(*times, 1);
        drop(times);
        network::stop().unwrap();
        running.join().unwrap();
        assert_eq!(called.get(), 1, "tasks are done in their order");
    });
}

#[test]
fn the_network_ends_whenever_it_is_stopped() {
    explore(|| {
        network::set_up().unwrap();
        let ended = Count::default();
        network::at_end(Box::new({
            let ended = ended.clone();
            move || ended.add()
        }))
        .unwrap();
        let running = thread::spawn(|| network::run().unwrap());
        let done = Count::default();
        network::on_network_thread(Box::new({
            let done = done.clone();
            move || done.add()
        }));
        network::stop().unwrap();
        running.join().unwrap();
        assert_eq!(ended.get(), 1);
        assert!(done.get() <= 1);
    });
}

fn set(key: &Key, value: &[u8]) -> Mutation {
    Mutation::Single {
        op: Op::Set,
        key: key.clone(),
        operand: value.into(),
    }
}

fn write(key: &Key, value: &[u8]) -> CommitRequest {
    CommitRequest {
        tenant: None,
        lock_aware: false,
        writes: vec![single_key(key)],
        mutations: vec![set(key, value)],
        ..CommitRequest::default()
    }
}

/// Arms a watch of a key without a value while another thread does something.
fn arm_beside(
    other: impl FnOnce(&Database, &Key, &Arc<Future>) + Send + 'static,
) -> (Arc<Database>, Arc<Future>) {
    let database = Arc::new(Database::new());
    let key: Key = b"k"[..].into();
    let permit = Permit::new(&Arc::new(Allowance::default()), &database.watches).unwrap();
    let (future, owner) = new_watch(permit);
    let beside = thread::spawn({
        let (database, key, future) = (database.clone(), key.clone(), future.clone());
        move || other(&database, &key, &future)
    });
    let watch = Watch {
        key,
        value: None,
        future: future.clone(),
        owner,
    };
    let current = |key: &Key| database.newest(key);
    let watches = &database.watches;
    watches.arm(watch, Default::default(), None, current);
    beside.join().unwrap();
    network::run_queued();
    (database, future)
}

#[test]
fn a_watch_fires_whether_it_is_armed_before_or_after_the_commit() {
    explore(|| {
        let (database, future) = arm_beside(|database, key, _| {
            assert!(database.commit(write(key, b"v")).is_ok());
        });
        assert!(future.is_done(), "the change was missed");
        assert_eq!(
            (future.error(), database.watches.outstanding()),
            (Ok(()), 0)
        );
    });
}

#[test]
fn a_cancelled_watch_leaves_nothing_behind() {
    explore(|| {
        let (database, future) = arm_beside(|_, _, future| future.cancel());
        assert_eq!(future.error(), Err(Error::OPERATION_CANCELLED));
        assert!(database.watches.is_empty());
        assert_eq!(database.watches.outstanding(), 0);
    });
}

#[test]
fn of_two_transactions_that_read_what_the_other_writes_one_commits() {
    explore(|| {
        let database = Arc::new(Database::new());
        let keys: [Key; 2] = [b"a"[..].into(), b"b"[..].into()];
        // Both read before either commits.
        let version = database.snapshot().version;
        let threads: Vec<_> = (0..2)
            .map(|own| {
                let (database, keys) = (database.clone(), keys.clone());
                thread::spawn(move || {
                    let mut request = write(&keys[own], b"v");
                    request.read_version = Some(version);
                    request.reads.push(single_key(&keys[1 - own]));
                    database.commit(request).is_ok()
                })
            })
            .collect();
        let committed = threads.into_iter().map(|thread| thread.join().unwrap());
        assert_eq!(committed.filter(|&ok| ok).count(), 1);
    });
}

#[test]
fn a_draft_is_seen_by_all_read_versions_after_it_and_by_none_before() {
    explore(|| {
        let versions = Arc::new(Versions::new(1_000, Map::new()));
        let key: Key = b"k"[..].into();
        let committing = thread::spawn({
            let (versions, key) = (versions.clone(), key.clone());
            move || {
                let mut draft = versions.draft();
                draft.apply(&[set(&key, b"v")], &[0; 10]);
                let version = draft.version;
                draft.publish(Version::MAX);
                version
            }
        });
        let seen: Vec<(Version, Option<Value>)> = (0..2)
            .map(|_| {
                let snapshot = versions.snapshot();
                (snapshot.version, snapshot.map.get(&key).cloned())
            })
            .collect();
        let committed = committing.join().unwrap();
        for (version, value) in &seen {
            assert_eq!(value.is_some(), *version >= committed);
        }
        assert!(seen[0].0 <= seen[1].0);
    });
}
