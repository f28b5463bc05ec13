//! Readers: each takes batches from its lane of the queue and reads them, one transaction each.
//!
//! A call waits for the next batch, whose read version is obtained after the last of its calls joined.
//! In a storm, a mass mount, calls for queries that others already have gather until the callers of the
//! last batch have taken their results and no call has come for a while.
//!
//! A read that gets no answer affects only its callers. When nothing of a batch has arrived for
//! [`PATIENCE`], the part that has arrived is installed, and the rest moves to the side lane. There it may
//! take FoundationDB's five seconds, beside everything else that hangs, and is retried after a pause.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foundationdb::options::TransactionOption;
use foundationdb::{FdbError, FdbResult, Transaction};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use live_state::{Lane, Watched, LONGEST_WAIT, LONGEST_WINDOW, LULL};
use tokio::sync::Semaphore;

use super::basis::{self, MetadataVersion, Verdict};
use super::batch::{self, Batch, ReadPlan, Refresh, Results};
use super::evaluation;
use super::events::Event;
use super::live_query::{Arms, FailedRead, Read};
use super::query::Query;
use super::registry::LiveQueries;
use super::subscription::{FirstResults, LiveQuery};
use crate::client;
use crate::error::Error;
use crate::stats::count;

/// How long a batch waits while nothing arrives, before the rest of it moves to the side lane.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same while some keys are known to give no answer.
const PATIENCE_IN_INCIDENT: Duration = Duration::from_millis(25);
/// In the side lane, results are installed when nothing else has arrived for this long.
const SIDE_PATIENCE: Duration = Duration::from_millis(100);
/// How long a batch in the side lane may take: FoundationDB's five seconds, and some time for the error
/// after them, which distinguishes a read that is too long from one that gets no answer.
const SIDE_LIMIT: Duration = Duration::from_secs(6);
/// How long a batch waits for its read version before its calls go back to the queue.
const READ_VERSION_PATIENCE: Duration = Duration::from_secs(1);
/// How long a batch is retried after transient errors, before its calls go back to the queue.
const RETRIES_LIMIT: Duration = Duration::from_secs(5);
/// An attempt that is too old after this time was too slow: FoundationDB allows 5 s.
const SLOW_ATTEMPT: Duration = Duration::from_secs(3);
/// How many attempts may be too slow before the batch is split in halves.
const MOST_TOO_SLOW: u32 = 3;
/// FoundationDB's `transaction_too_old`.
const TRANSACTION_TOO_OLD: i32 = 1007;

/// Starts a reader of a lane. It ends when nothing is left in the lane.
pub fn start(live: Arc<LiveQueries>, lane: Lane) {
    client::runtime().spawn(run(live, lane));
}

async fn run(live: Arc<LiveQueries>, lane: Lane) {
    while let Some(next) = live.look_at_queue(|queue| queue.next(lane, Instant::now())) {
        let first_results = FirstResults::default();
        let gathers = next.gathers.then(|| Arc::downgrade(&first_results));
        let refreshes: Vec<_> = next
            .refreshes
            .into_iter()
            .filter(|live_query| live_query.begin_read())
            .collect();
        let batch = Batch {
            calls: next.calls,
            refreshes: refreshes.iter().cloned().map(Refresh::new).collect(),
            first_results,
            evaluations: 1,
        };
        read_guarded(&live, batch, lane, &refreshes).await;
        drop(refreshes);
        if let Some(first_results) = gathers {
            gather(&live, &first_results).await;
        }
    }
}

/// Reads a batch, with these live queries, in a task of its own: a panic in it must not take the reader's
/// place in its lane along, nor leave a live query behind that is never read again. Calls that it drops are
/// answered.
pub async fn read_guarded(
    live: &Arc<LiveQueries>,
    batch: Batch,
    lane: Lane,
    refreshes: &[Arc<LiveQuery>],
) {
    let reading = tokio::spawn(read_portions(Arc::clone(live), batch, lane));
    if reading.await.is_err() {
        let error = Error::Client("reading live queries panicked: a bug in ecto_fdb_sync".into());
        for live_query in refreshes {
            live_query.read_failed(&error);
        }
    }
}

/// Waits for more calls to join, after a batch whose first results are not all taken.
async fn gather(live: &LiveQueries, first_results: &Weak<()>) {
    let begun = Instant::now();
    let mut joined = live.look_at_queue(|queue| queue.joined());
    let mut left = (first_results.strong_count(), begun);
    loop {
        tokio::time::sleep(LULL).await;
        let now = Instant::now();
        if first_results.strong_count() != left.0 {
            left = (first_results.strong_count(), now);
        }
        let over = live.with_queue(Lane::Calls, |queue| {
            let before = std::mem::replace(&mut joined, queue.joined());
            let enough = joined == before || now - begun >= queue.window();
            let stuck = now - left.1 >= LONGEST_WINDOW;
            let over = (left.0 == 0 && enough) || stuck || now - begun >= LONGEST_WAIT;
            if over {
                queue.gathered(joined);
            }
            over
        });
        if over {
            return;
        }
    }
}

async fn read_portions(live: Arc<LiveQueries>, batch: Batch, lane: Lane) {
    for portion in batch.portions() {
        read(&live, portion, lane).await;
    }
}

/// How an attempt at a batch has ended.
enum Attempt {
    /// All reads are in the results.
    Complete(Results),
    /// Some reads got no answer; the others are in the results.
    Stalled(Results),
    /// The database gave no read version.
    NoReadVersion,
}

/// Reads a batch in one transaction, and retries after errors that FoundationDB calls retryable.
fn read(live: &Arc<LiveQueries>, mut batch: Batch, lane: Lane) -> BoxFuture<'_, ()> {
    async move {
        let stats = &live.database.stats;
        let begun = Instant::now();
        let mut too_slow = 0;
        let mut transaction = match live.database.transaction() {
            Ok(transaction) => transaction,
            Err(error) => return batch::fail(batch, &error),
        };
        loop {
            batch.drop_dead();
            if batch.is_empty() {
                return;
            }
            let plan = batch.plan();
            if plan.queries.is_empty() && plan.bases.is_empty() {
                let mut results = Results::new(&plan);
                return batch::settle(live, &mut batch, &plan, &mut results);
            }
            let attempt_begun = Instant::now();
            count(&stats.batches, 1);
            count(&stats.reads, plan.queries.len() as u64);
            let attempted = attempt(live, &transaction, &mut batch, &plan, lane).await;
            let error = match attempted {
                Ok(Attempt::Complete(mut results)) => {
                    // The commit arms the watches.
                    let committed = match results.armed() {
                        true => transaction.commit().await.map(drop),
                        false => Ok(()),
                    };
                    match committed {
                        Ok(()) => {
                            live.answered();
                            return batch::settle(live, &mut batch, &plan, &mut results);
                        }
                        Err(error) => {
                            let code = FdbError::from_code(error.code());
                            drop(results);
                            transaction = error.reset();
                            code
                        }
                    }
                }
                Ok(Attempt::Stalled(mut results)) => {
                    live.answered();
                    results.disarm(transaction);
                    batch::settle(live, &mut batch, &plan, &mut results);
                    return put_aside(live, batch, attempt_begun);
                }
                Ok(Attempt::NoReadVersion) => {
                    put_back(live, batch);
                    return wait_for_read_version(live, &transaction).await;
                }
                Err(error) => error,
            };
            if error.code() == TRANSACTION_TOO_OLD && attempt_begun.elapsed() > SLOW_ATTEMPT {
                too_slow += 1;
                if plan.has_functions() {
                    return batch::fail(batch, &evaluation::too_long(error));
                }
                if too_slow == MOST_TOO_SLOW {
                    if batch.len() < 2 {
                        return batch::fail(batch, &error.into());
                    }
                    let (one, other) = batch.halves();
                    read(live, one, lane).await;
                    return read(live, other, lane).await;
                }
            }
            count(&stats.retries, 1);
            live.reporter.report(&Event::Retry {
                code: error.code(),
                queries: plan.queries.len(),
            });
            live.refused(&error.into());
            if begun.elapsed() > RETRIES_LIMIT && too_slow == 0 {
                return give_up(live, batch, &error.into());
            }
            transaction = match transaction.on_error(error).await {
                Ok(transaction) => transaction,
                Err(error) => return batch::fail(batch, &error.into()),
            };
        }
    }
    .boxed()
}

/// Retries unanswered reads in the side lane. Calls move there as they are; a live query moves with its
/// next read.
fn put_aside(live: &LiveQueries, batch: Batch, since: Instant) {
    live.unanswered(batch.len());
    for (ticket, call) in batch.calls {
        live.put_back(ticket, call, true);
    }
    for refresh in batch.refreshes {
        refresh.live_query.read_unanswered(since);
    }
}

/// Puts the unread part back where it came from.
fn put_back(live: &LiveQueries, batch: Batch) {
    for (ticket, call) in batch.calls {
        live.put_back(ticket, call, false);
    }
    for refresh in batch.refreshes {
        refresh.live_query.wanted();
    }
}

/// The database has refused for so long that this is reported; calls continue to wait.
fn give_up(live: &LiveQueries, batch: Batch, error: &Error) {
    for (ticket, call) in batch.calls {
        live.put_back(ticket, call, false);
    }
    for refresh in batch.refreshes {
        refresh.live_query.read_failed(error);
    }
}

/// The database gives no read versions: the reader waits for one. No call waits inside it meanwhile, so
/// calls that time out leave nothing behind.
async fn wait_for_read_version(live: &LiveQueries, transaction: &Transaction) {
    match transaction.get_read_version().await {
        Ok(_) => live.answered(),
        Err(error) => live.refused(&error.into()),
    }
}

/// The results that arrive while a batch is read.
enum Arrival {
    Read(usize, Result<Read, Refused>),
    Verdict(usize, FdbResult<Verdict>),
}

/// Why a read gave nothing.
pub enum Refused {
    /// An error of the database. The whole batch is tried again if it may pass.
    Fdb(FdbError),
    /// It failed for a reason of its own.
    Failed(Box<FailedRead>),
}

impl From<FdbError> for Refused {
    fn from(error: FdbError) -> Self {
        Refused::Fdb(error)
    }
}

/// One attempt. An error that may pass fails it, any other only the query concerned.
async fn attempt(
    live: &Arc<LiveQueries>,
    transaction: &Transaction,
    batch: &mut Batch,
    plan: &ReadPlan,
    lane: Lane,
) -> FdbResult<Attempt> {
    // Waits end here, not in the client, and `on_error` ends none of the retries.
    transaction.set_option(TransactionOption::Timeout(0))?;
    transaction.set_option(TransactionOption::RetryLimit(-1))?;
    let begun = Instant::now();
    let versions = async {
        let read_version = transaction.get_read_version().await?;
        // It has come with the read version.
        let metadata = match plan.bases.is_empty() && !plan.has_functions() {
            true => None,
            false => basis::metadata_version(transaction).await?,
        };
        FdbResult::<(i64, MetadataVersion)>::Ok((read_version, metadata))
    };
    let Ok(versions) = tokio::time::timeout(READ_VERSION_PATIENCE, versions).await else {
        return Ok(Attempt::NoReadVersion);
    };
    let (read_version, metadata) = versions?;
    let mut results = Results::new(plan);
    let at = At {
        live,
        transaction,
        read_version,
        metadata: &metadata,
        begun,
        evaluations: Semaphore::new(batch.evaluations),
    };
    let at = &at;
    let arrivals = FuturesUnordered::new();
    for (place, basis) in plan.bases.iter().enumerate() {
        if basis.is_verified(&metadata) {
            results.verdicts[place] = Some(Verdict::Right);
        } else {
            count(&live.database.stats.basis_checks, 1);
            let check = async move { Arrival::Verdict(place, basis.check(transaction).await) };
            arrivals.push(check.boxed());
        }
    }
    for (place, query) in plan.queries.iter().enumerate() {
        let read = async move {
            let read = match query.function() {
                Some(function) => evaluation::read(at, query, function).await,
                None => read_query(at, query).await.map_err(Refused::from),
            };
            Arrival::Read(place, read)
        };
        arrivals.push(read.boxed());
    }
    let mut arrivals = arrivals;
    let patience = match lane {
        Lane::Side => SIDE_PATIENCE,
        _ if live.in_incident() => PATIENCE_IN_INCIDENT,
        _ => PATIENCE,
    };
    let mut unsettled = false;
    loop {
        match tokio::time::timeout(patience, arrivals.next()).await {
            Ok(None) => return Ok(Attempt::Complete(results)),
            Ok(Some(Arrival::Verdict(place, verdict))) => {
                let verdict = verdict?;
                if verdict == Verdict::Right {
                    plan.bases[place].verify(&metadata);
                }
                results.verdicts[place] = Some(verdict);
                unsettled = true;
            }
            Ok(Some(Arrival::Read(place, read))) => {
                results.reads[place] = Some(match read {
                    Err(Refused::Fdb(error)) if error.is_retryable() => return Err(error),
                    Err(Refused::Fdb(error)) => Err(Box::new(Error::from(error).into())),
                    Err(Refused::Failed(failed)) => Err(failed),
                    Ok(read) => Ok(read),
                });
                unsettled = true;
            }
            Err(_stalled) if lane != Lane::Side || begun.elapsed() >= SIDE_LIMIT => {
                return Ok(Attempt::Stalled(results));
            }
            Err(_stalled) if unsettled => {
                // No caller waits for hanging reads of others. The next read arms the watches.
                unsettled = false;
                results.drop_watches();
                batch.drop_dead();
                batch::settle(live, batch, plan, &mut results);
            }
            Err(_stalled) => batch.drop_dead(),
        }
    }
}

/// What an attempt reads with.
pub struct At<'a> {
    /// The live queries of the database.
    pub live: &'a LiveQueries,
    /// The transaction.
    pub transaction: &'a Transaction,
    /// Its read version.
    pub read_version: i64,
    /// The metadata version that came along; `None` if nobody needed it.
    pub metadata: &'a MetadataVersion,
    /// When the attempt began.
    pub begun: Instant,
    /// How many functions it may evaluate at the same time.
    pub evaluations: Semaphore,
}

impl At<'_> {
    /// Arms watches where the query's live query has none to keep. The commit makes them pending.
    pub fn arm(&self, query: &Query, watched: &[Watched]) -> Arms {
        let places = match self.live.find(query) {
            Some(live_query) => live_query.missing_watches(watched),
            None => (0..watched.len()).collect(),
        };
        let arm = |place: usize| (place, self.transaction.watch(&watched[place].key).boxed());
        places.into_iter().map(arm).collect()
    }
}

async fn read_query(at: &At<'_>, query: &Query) -> FdbResult<Read> {
    let found = query.read(at.transaction).await?;
    Ok(Read {
        read_version: at.read_version,
        took: at.begun.elapsed(),
        armed: at.arm(query, &found.watched),
        found,
        basis: None,
    })
}
