//! What the database itself takes: the work of `bin/bench` in Rust, with the `foundationdb` crate alone.
//!
//!     bench_floor WORK SECONDS TASKS [CLUSTER_FILE [LIBRARY]]
//!
//! prints `operations seconds p50 p99 max`, the last three in microseconds. Without a cluster file the
//! embedded engine of this process does the work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foundationdb::{Database, FdbError, Transaction};
use foundationdb_sys::{bind, Library};

mod work;

use work::Work;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() {
    if let Err(error) = run(std::env::args().skip(1).collect()) {
        eprintln!("bench_floor: {error}");
        std::process::exit(1);
    }
}

fn run(arguments: Vec<String>) -> Result<(), Failure> {
    let [name, seconds, tasks, cluster @ ..] = &arguments[..] else {
        let usage = "expected WORK SECONDS TASKS [CLUSTER_FILE [LIBRARY]]";
        return Err(format!("{usage}, got {} arguments", arguments.len()).into());
    };
    let work = Work::named(name).ok_or_else(|| {
        let names: Vec<_> = Work::ALL.iter().map(|(name, _)| *name).collect();
        format!("expected one of {}, got {name:?}", names.join(", "))
    })?;
    let seconds = Duration::from_secs_f64(seconds.parse()?);
    let tasks: usize = tasks.parse()?;
    let (library, path) = match cluster {
        [] => (Library::Embedded, "embedded:memory:floor"),
        [file, library @ ..] => (
            Library::Cluster(library.first().map(Into::into)),
            file.as_str(),
        ),
    };
    bind(&library)?;
    // SAFETY: called once, and dropped before the process ends.
    let network = unsafe { foundationdb::boot() };
    let database = Arc::new(Database::new(Some(path))?);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // As the NIF does on up to 16 cores.
        .worker_threads(threads.clamp(2, 4))
        .enable_time()
        .build()?;
    let measured = runtime.block_on(measure(database, work, seconds, tasks));
    drop(runtime);
    drop(network);
    measured
}

async fn measure(
    database: Arc<Database>,
    work: Work,
    seconds: Duration,
    tasks: usize,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, work::prepare(&database))
        .await
        .map_err(|_| format!("the database does not answer within {limit:?}"))??;
    // Warm.
    on_tasks(&database, work, seconds / 5, tasks).await?;
    let start = Instant::now();
    let mut took = on_tasks(&database, work, seconds, tasks).await?;
    let all = start.elapsed();
    took.sort_unstable();
    let micros = |time: Duration| time.as_nanos() as f64 / 1_000.0;
    let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)];
    println!(
        "{} {:.6} {:.1} {:.1} {:.1}",
        took.len(),
        all.as_secs_f64(),
        micros(at(0.5)),
        micros(at(0.99)),
        micros(at(1.0))
    );
    Ok(())
}

/// What each operation took.
async fn on_tasks(
    database: &Arc<Database>,
    work: Work,
    seconds: Duration,
    tasks: usize,
) -> Result<Vec<Duration>, Failure> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let end = Instant::now() + seconds;
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let database = Arc::clone(database);
            tokio::spawn(async move {
                let mut took = Vec::new();
                while took.is_empty() || Instant::now() < end {
                    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                    took.push(once(&database, work, number).await?);
                }
                Ok::<_, Failure>(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in running {
        all.extend(task.await??);
    }
    Ok(all)
}

/// One operation, tried again as FoundationDB wants it.
async fn once(database: &Arc<Database>, work: Work, number: u64) -> Result<Duration, FdbError> {
    if work == Work::Latency {
        return work::latency(database, number).await;
    }
    let start = Instant::now();
    let mut transaction: Transaction = database.create_trx()?;
    loop {
        let error = match work.attempt(&transaction, number).await {
            Ok(()) if !work.writes() => break,
            Ok(()) => match transaction.commit().await {
                Ok(_committed) => break,
                Err(error) => {
                    transaction = error.on_error().await?;
                    continue;
                }
            },
            Err(error) => error,
        };
        transaction = transaction.on_error(error).await?;
    }
    Ok(start.elapsed())
}
