//! Measures the engine through the C functions: `cargo bench -p embedded_fdb --bench engine`.
//!
//! "8 threads" share a database and its keys. All times are of whole calls: a transaction is created,
//! used and destroyed, and every future is awaited.

mod client;

use std::ffi::c_void;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use client::Database;
use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use embedded_fdb::c_types::FDBFuture;
use imbl::OrdMap;

/// How many keys exist before the measurements.
const KEYS: u64 = 100_000;
const VALUE: [u8; 100] = [7; 100];
const THREADS: [u64; 2] = [1, 8];

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key/\0\0\0\0\0\0\0\0\0\0\0\0";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A sequence that visits all keys in scattered order.
fn scattered(number: u64) -> [u8; 16] {
    key(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS)
}

fn fill(database: &Database) {
    for chunk in 0..KEYS / 1_000 {
        let transaction = database.begin();
        for number in chunk * 1_000..(chunk + 1) * 1_000 {
            transaction.set(&key(number), &VALUE);
        }
        transaction.commit();
    }
}

/// In memory and in a file, both with all keys. The directory must outlive the databases.
fn databases(directory: &tempfile::TempDir) -> [(&'static str, Database); 2] {
    let file = directory.path().join("bench");
    let databases = [
        ("memory", Database::open("embedded:memory:bench")),
        (
            "file",
            Database::open(&format!("embedded:file:{}", file.display())),
        ),
    ];
    for (_, database) in &databases {
        fill(database);
    }
    databases
}

/// The time that `threads` need together for `times` calls of `work`, each with a different number.
fn on_threads(threads: u64, times: u64, work: impl Fn(u64) + Sync) -> Duration {
    let each = times.div_ceil(threads);
    let ready = Barrier::new(threads as usize + 1);
    let took = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (ready, work) = (&ready, &work);
                scope.spawn(move || {
                    ready.wait();
                    (0..each).for_each(|i| work(thread * each + i));
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        for worker in workers {
            worker.join().expect("no panic");
        }
        start.elapsed()
    });
    // As if exactly `times` had been requested.
    took.mul_f64(times as f64 / (each * threads) as f64)
}

fn reads(criterion: &mut Criterion, databases: &[(&str, Database)]) {
    // Reads are served from memory, also with a file.
    let (_, database) = databases[0];
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(1));
    for threads in THREADS {
        group.bench_function(format!("key, own transaction/{threads}"), |bencher| {
            bencher.iter_custom(|times| {
                on_threads(threads, times, |i| {
                    assert_eq!(database.begin().get(&scattered(i)), Some(VALUE.len()));
                })
            });
        });
    }
    for threads in THREADS {
        group.throughput(Throughput::Elements(100));
        group.bench_function(format!("100 keys in a transaction/{threads}"), |bencher| {
            bencher.iter_custom(|times| {
                on_threads(threads, times, |i| {
                    let transaction = database.begin();
                    for j in 0..100 {
                        black_box(transaction.get(&scattered(100 * i + j)));
                    }
                })
            });
        });
    }
    for threads in THREADS {
        group.throughput(Throughput::Elements(100));
        group.bench_function(format!("range of 100 rows/{threads}"), |bencher| {
            bencher.iter_custom(|times| {
                on_threads(threads, times, |i| {
                    let begin = key(i * 100 % (KEYS - 100));
                    assert_eq!(database.begin().get_range(&begin, b"l", 100), 100);
                })
            });
        });
    }
    group.finish();
}

fn commits(criterion: &mut Criterion, databases: &[(&str, Database)]) {
    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1));
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    for (place, database) in databases {
        for threads in THREADS {
            group.bench_function(format!("set a key, {place}/{threads}"), |bencher| {
                bencher.iter_custom(|times| {
                    on_threads(threads, times, |_| {
                        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                        database.put(&scattered(number), &VALUE);
                    })
                });
            });
        }
    }
    group.finish();
}

fn read_modify_write(criterion: &mut Criterion, databases: &[(&str, Database)]) {
    let mut group = criterion.benchmark_group("read-modify-write");
    group.throughput(Throughput::Elements(1));
    for (place, database) in databases {
        group.bench_function(format!("transaction, {place}"), |bencher| {
            let mut number = 0;
            bencher.iter(|| {
                number += 1;
                let transaction = database.begin();
                black_box(transaction.get(&scattered(number)));
                transaction.set(&scattered(number), &VALUE);
                transaction.commit();
            });
        });
    }
    // The baseline: the same map and keys, without transactions.
    let shared = |bytes: &[u8]| -> Arc<[u8]> { bytes.into() };
    let map: OrdMap<Arc<[u8]>, Arc<[u8]>> = (0..KEYS)
        .map(|number| (shared(&key(number)), shared(&VALUE)))
        .collect();
    let map = Mutex::new(map);
    group.bench_function("insert into the map under a mutex", |bencher| {
        let mut number = 0;
        bencher.iter(|| {
            number += 1;
            let mut map = map.lock().expect("no panic");
            map.insert(shared(&scattered(number)), shared(&VALUE));
        });
    });
    group.finish();
}

/// Sends the time of the call. The callback owns its sender, because the receiver may be gone before
/// this returns.
unsafe extern "C" fn fired(_: *mut FDBFuture, sender: *mut c_void) {
    // SAFETY: the parameter is a boxed sender, and a callback is called once.
    let sender = unsafe { Box::from_raw(sender.cast::<mpsc::Sender<Instant>>()) };
    let _nobody_waits = sender.send(Instant::now());
}

/// From the return of the commit that changes the value to the call of the watch's callback.
fn watches(criterion: &mut Criterion, databases: &[(&str, Database)]) {
    // Values never come back: criterion runs the function below many times.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut group = criterion.benchmark_group("watch");
    for (place, database) in databases {
        group.bench_function(
            format!("fires after the commit's return (p50), {place}"),
            |bencher| {
                bencher.iter_custom(|times| {
                    let mut latencies: Vec<Duration> = (0..times)
                        .map(|_| {
                            let (sender, receiver) = mpsc::channel::<Instant>();
                            let transaction = database.begin();
                            let watch = transaction.watch(b"watched");
                            transaction.commit();
                            let sender = Box::into_raw(Box::new(sender));
                            // SAFETY: the sender is given away, and may be used on any thread.
                            unsafe { watch.on_ready(fired, sender.cast()) };
                            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                            database.put(b"watched", &number.to_be_bytes());
                            let returned = Instant::now();
                            let fired = receiver.recv().expect("the callback is called");
                            fired.saturating_duration_since(returned)
                        })
                        .collect();
                    latencies.sort_unstable();
                    // The median, but not 0, which criterion reports as a mistake.
                    let median = latencies[latencies.len() / 2].max(Duration::from_nanos(1));
                    median * u32::try_from(times).unwrap_or(u32::MAX)
                });
            },
        );
    }
    group.finish();
}

fn engine(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let databases = databases(&directory);
    reads(criterion, &databases);
    commits(criterion, &databases);
    read_modify_write(criterion, &databases);
    watches(criterion, &databases);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = engine
}
criterion_main!(benches);
