//! Batches: whoever waits shares one transaction, and so one read version, obtained after the last
//! of them joined. In a storm of calls, a mass mount, one batch is read at a time, and waits for more
//! to join: it costs a few dozen reads instead of thousands.

use std::collections::hash_map;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foundationdb::options::TransactionOption;
use foundationdb::{FdbError, FdbResult, Transaction};
use futures::future::{join_all, BoxFuture};
use futures::FutureExt;
use rustler::types::atom;
use rustler::{Encoder, LocalPid, ResourceArc};
use smallvec::SmallVec;

use super::entry::{Entry, Read};
use super::events::Event;
use super::query::{self, MetadataVersion, Query};
use super::snapshot::Snapshot;
use super::subscription::{Part, Subscription};
use super::LiveQueries;
use crate::client;
use crate::database::Database;
use crate::error::Error;
use crate::reply::Reply;
use crate::stats::count;

mod atoms {
    rustler::atoms! { replan }
}

/// A pending watch of the database.
pub type WatchFuture = Pin<Box<dyn Future<Output = FdbResult<()>> + Send>>;

/// Batches that may be under way at the same time; whoever comes then waits and shares the next.
const MOST_BATCHES: usize = 4;
/// Queries after which a batch takes no further call. One that turns out too large is read in halves.
const MOST_QUERIES: usize = 10_000;
/// Calls of so many processes within this time are a storm, a mass mount.
const STORM: usize = 16;
const STORM_TIME: Duration = Duration::from_millis(50);
/// How long a batch waits in a storm for more to join.
const WINDOW: Duration = Duration::from_millis(32);
/// An attempt that is too old after this time was too slow: FoundationDB allows it 5 s.
const SLOW_ATTEMPT: Duration = Duration::from_secs(3);
/// How many attempts may be too slow before the batch is read in halves.
const MOST_TOO_SLOW: u32 = 3;
/// FoundationDB's `transaction_too_old`.
const TRANSACTION_TOO_OLD: i32 = 1007;

/// The longest time between two attempts.
pub const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How long to wait after so many failures in a row.
pub fn delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(10 << n.min(9)).min(LONGEST_DELAY),
    }
}

/// A call that waits for its subscriptions to stand.
pub struct Call {
    /// Each with what it wants.
    pub subscriptions: Vec<(ResourceArc<Subscription>, Vec<Wanted>)>,
    /// Who asked.
    pub caller: LocalPid,
    /// What the caller waits for.
    pub reply: Option<Reply>,
}

/// One of a subscription's live queries, before it stands.
pub enum Wanted {
    /// To be read with the next batch; a plan, under the metadata version at which it was made.
    Read(Arc<Query>, MetadataVersion),
    /// Taken over from an earlier subscription, with the data that the process has.
    Kept(Part),
}

impl Call {
    fn is_over(&self) -> bool {
        self.subscriptions
            .iter()
            .all(|(subscription, _)| subscription.is_over())
    }

    /// Whether it was planned under other indexes than those of this metadata version.
    fn is_outdated(&self, version: &MetadataVersion) -> bool {
        let mut wanted = self.subscriptions.iter().flat_map(|(_, wanted)| wanted);
        wanted.any(|wanted| match wanted {
            Wanted::Read(query, planned_at) => query.plan.is_some() && planned_at != version,
            Wanted::Kept(_) => false,
        })
    }

    /// Ends its subscriptions, and answers.
    fn refuse(&mut self, answer: impl FnOnce(Reply)) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        let Some(((last, _), others)) = self.subscriptions.split_last() else {
            return answer(reply);
        };
        for (subscription, _) in others {
            subscription.end();
        }
        last.refuse(|| answer(reply));
    }

    fn queries(&self) -> impl Iterator<Item = &Arc<Query>> {
        let wanted = self.subscriptions.iter().flat_map(|(_, wanted)| wanted);
        wanted.filter_map(|wanted| match wanted {
            Wanted::Read(query, _) => Some(query),
            Wanted::Kept(_) => None,
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Whatever became of the call: what it took over and did not hand on leaves its entry.
        let wanted = self.subscriptions.drain(..).flat_map(|(_, wanted)| wanted);
        for wanted in wanted {
            if let Wanted::Kept(part) = wanted {
                part.leave();
            }
        }
    }
}

/// What waits for a batch.
#[derive(Default)]
pub struct Queue {
    calls: VecDeque<Call>,
    refreshes: Vec<Arc<Entry>>,
    batches: usize,
    rate: Rate,
}

/// How many processes have called lately. One that calls again and again makes no storm: it waits for
/// each answer before its next call.
#[derive(Default)]
struct Rate {
    since: Option<Instant>,
    callers: Vec<LocalPid>,
    before: usize,
}

impl Rate {
    fn count(&mut self, caller: LocalPid) {
        self.roll();
        if self.callers.len() < STORM && !self.callers.contains(&caller) {
            self.callers.push(caller);
        }
    }

    fn is_storm(&mut self) -> bool {
        self.roll();
        self.callers.len().max(self.before) >= STORM
    }

    fn roll(&mut self) {
        let now = Instant::now();
        let elapsed = self.since.map_or(Duration::MAX, |since| now - since);
        if elapsed >= STORM_TIME {
            // Who came in a time that is long over counts no more.
            let lately = elapsed < STORM_TIME * 2;
            self.before = if lately { self.callers.len() } else { 0 };
            self.callers.clear();
            self.since = Some(now);
        }
    }
}

#[derive(Default)]
struct Batch {
    calls: Vec<Call>,
    refreshes: Vec<Arc<Entry>>,
}

impl LiveQueries {
    /// Queues a call for the next batch.
    pub fn subscribe(&self, database: &Arc<Database>, call: Call) {
        self.enqueue(database, |queue| {
            queue.rate.count(call.caller);
            queue.calls.push_back(call);
        });
    }

    /// Queues an entry's re-read for the next batch.
    pub fn refresh(&self, database: &Arc<Database>, entry: Arc<Entry>) {
        self.enqueue(database, |queue| queue.refreshes.push(entry));
    }

    fn enqueue(&self, database: &Arc<Database>, push: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue.lock();
        push(&mut queue);
        // In a storm whoever reads already takes all that come meanwhile.
        let most = if queue.rate.is_storm() {
            1
        } else {
            MOST_BATCHES
        };
        if queue.batches < most {
            queue.batches += 1;
            client::runtime().spawn(read_batches(Arc::clone(database)));
        }
    }

    /// Whether the reader that asks goes on, and how long it waits before.
    fn pace(&self) -> Option<Duration> {
        let mut queue = self.queue.lock();
        match queue.rate.is_storm() {
            false => Some(Duration::ZERO),
            true if queue.batches == 1 => Some(WINDOW),
            true => {
                queue.batches -= 1;
                None
            }
        }
    }

    fn next_batch(&self) -> Option<Batch> {
        let mut queue = self.queue.lock();
        let mut batch = Batch {
            calls: Vec::new(),
            refreshes: std::mem::take(&mut queue.refreshes),
        };
        let mut queries = batch.refreshes.len();
        while queries < MOST_QUERIES {
            let Some(call) = queue.calls.pop_front() else {
                break;
            };
            queries += call.queries().count();
            batch.calls.push(call);
        }
        if batch.calls.is_empty() && batch.refreshes.is_empty() {
            queue.batches -= 1;
            return None;
        }
        Some(batch)
    }
}

async fn read_batches(database: Arc<Database>) {
    while let Some(mut batch) = database.live.next_batch() {
        batch.refreshes.retain(|entry| entry.begin_refresh());
        // A task of its own: a panic in it must not take the reader's place in the queue along, nor
        // leave an entry behind that nobody reads any more.
        let refreshes = batch.refreshes.clone();
        if tokio::spawn(read(Arc::clone(&database), batch))
            .await
            .is_err()
        {
            let error =
                Error::Client("reading live queries panicked: a bug in ecto_fdb_sync".into());
            refreshes.iter().for_each(|entry| entry.failed(&error));
        }
        match database.live.pace() {
            Some(Duration::ZERO) => {}
            Some(window) => tokio::time::sleep(window).await,
            None => return,
        }
    }
}

fn read(database: Arc<Database>, mut batch: Batch) -> BoxFuture<'static, ()> {
    async move {
        batch.calls.retain(|call| !call.is_over());
        let queries = Queries::of(&batch);
        if queries.list.is_empty() {
            return begin(&database, batch, &queries, AtVersion::default());
        }
        match read_at_one_version(&database, &queries.list).await {
            Ok(reads) => begin(&database, batch, &queries, reads),
            Err(error) if error.code() == TRANSACTION_TOO_OLD && batch.len() > 1 => {
                let (one, other) = batch.halves();
                read(Arc::clone(&database), one).await;
                read(database, other).await;
            }
            Err(error) => fail(batch, &error),
        }
    }
    .boxed()
}

impl Batch {
    fn len(&self) -> usize {
        self.calls.len() + self.refreshes.len()
    }

    fn halves(mut self) -> (Batch, Batch) {
        let calls = self.calls.split_off(self.calls.len() / 2);
        let refreshes = self.refreshes.split_off(self.refreshes.len().div_ceil(2));
        (self, Batch { calls, refreshes })
    }
}

/// The union of a batch's queries.
struct Queries {
    list: Vec<Arc<Query>>,
    place: HashMap<Arc<Query>, usize>,
}

impl Queries {
    fn of(batch: &Batch) -> Queries {
        let mut queries = Queries {
            list: Vec::new(),
            place: HashMap::new(),
        };
        let refreshed = batch.refreshes.iter().map(|entry| &entry.query);
        for query in refreshed.chain(batch.calls.iter().flat_map(Call::queries)) {
            if let hash_map::Entry::Vacant(vacant) = queries.place.entry(Arc::clone(query)) {
                vacant.insert(queries.list.len());
                queries.list.push(Arc::clone(query));
            }
        }
        queries
    }
}

fn fail(batch: Batch, error: &Error) {
    for call in batch.calls {
        refuse(call, error);
    }
    for entry in batch.refreshes {
        entry.failed(error);
    }
}

fn refuse(mut call: Call, error: &Error) {
    call.refuse(|reply| reply.send(|env| (atom::error(), error).encode(env)));
}

/// Tells a call to plan anew.
fn replan(mut call: Call) {
    call.refuse(|reply| reply.send(|env| atoms::replan().encode(env)));
}

/// Installs what was read, and lets the calls' subscriptions begin. A query's own error fails only
/// the calls that asked for it.
fn begin(
    database: &Arc<Database>,
    batch: Batch,
    queries: &Queries,
    AtVersion { reads, metadata }: AtVersion,
) {
    let mut calls = Vec::with_capacity(batch.calls.len());
    for call in batch.calls {
        if call.is_outdated(&metadata) {
            replan(call);
            continue;
        }
        let error = call
            .queries()
            .find_map(|query| reads[queries.place[query]].as_ref().err());
        match error {
            Some(error) => refuse(call, error),
            None => calls.push(call),
        }
    }
    // Who attaches to which query: all of an entry's at once, under one lock.
    let mut attaching: Vec<Vec<ResourceArc<Subscription>>> = vec![Vec::new(); queries.list.len()];
    for (subscription, wanted) in calls.iter().flat_map(|call| &call.subscriptions) {
        for wanted in wanted {
            if let Wanted::Read(query, _) = wanted {
                attaching[queries.place[query]].push(subscription.clone());
            }
        }
    }
    let mut attached = Vec::with_capacity(reads.len());
    for ((query, read), subscriptions) in queries.list.iter().zip(reads).zip(&attaching) {
        let found = match read {
            Ok(read) => install(database, query, read, subscriptions, &metadata),
            Err(error) => {
                if let Some(entry) = database.live.find(query) {
                    entry.failed(&error);
                }
                None
            }
        };
        attached.push(found.map(|(entry, snapshot, slots)| (entry, snapshot, slots.into_iter())));
    }
    for mut call in calls {
        let mut left = call.subscriptions.len();
        for (subscription, wanted) in call.subscriptions.drain(..) {
            left -= 1;
            let parts: SmallVec<[Part; 1]> = wanted
                .into_iter()
                .filter_map(|wanted| match wanted {
                    Wanted::Kept(part) => Some(part),
                    Wanted::Read(query, _) => {
                        let (entry, snapshot, slots) = attached[queries.place[&query]].as_mut()?;
                        Some(Part {
                            entry: Arc::clone(entry),
                            slot: slots.next()?,
                            snapshot: Arc::clone(snapshot),
                            fresh: true,
                            told_stale: false,
                        })
                    }
                })
                .collect();
            // The last one of them answers for all.
            let reply = call.reply.take_if(|_| left == 0);
            Subscription::begin(&subscription, parts, reply);
        }
        if let Some(reply) = call.reply.take() {
            // It wanted nothing.
            reply.send(|env| atom::ok().encode(env));
        }
    }
}

type Installed = (Arc<Entry>, Arc<Snapshot>, Vec<usize>);

fn install(
    database: &Arc<Database>,
    query: &Arc<Query>,
    mut read: Read,
    subscriptions: &[ResourceArc<Subscription>],
    metadata: &MetadataVersion,
) -> Option<Installed> {
    loop {
        let entry = match database.live.find(query) {
            Some(entry) => entry,
            // The last subscriber of a re-read entry has left.
            None if subscriptions.is_empty() => return None,
            None => {
                let entry = Entry::new(database, query, metadata.clone());
                database.live.insert(database, entry)
            }
        };
        match subscriptions {
            // Nobody has planned it anew: what was read may be an index that is no more.
            [] if !entry.check_plan(metadata) => return None,
            [] => {}
            // The calls were planned under this very metadata version.
            _ => entry.confirm_plan(metadata),
        }
        match entry.install(read, subscriptions) {
            Ok((snapshot, slots)) => return Some((entry, snapshot, slots)),
            Err((_closed, back)) if !subscriptions.is_empty() => {
                database.live.forget(&entry);
                read = back;
            }
            Err(_) => return None,
        }
    }
}

/// What a batch has read.
#[derive(Default)]
struct AtVersion {
    /// By the queries' places.
    reads: Vec<Result<Read, Error>>,
    /// Read only where a query is a plan.
    metadata: MetadataVersion,
}

/// Reads all queries in one transaction and arms the watches that are needed. Retries what
/// FoundationDB calls retryable.
async fn read_at_one_version(
    database: &Database,
    queries: &[Arc<Query>],
) -> Result<AtVersion, Error> {
    let stats = &database.stats;
    let mut transaction = database.transaction()?;
    let mut too_slow = 0;
    loop {
        // A wait without end is right here: whoever waits for it has a timeout of his own.
        transaction.set_option(TransactionOption::Timeout(0))?;
        transaction.set_option(TransactionOption::RetryLimit(-1))?;
        let begun = Instant::now();
        count(&stats.batches, 1);
        count(&stats.reads, queries.len() as u64);
        let error = match attempt(database, &transaction, queries).await {
            Ok(read) if read.reads.iter().flatten().all(|read| read.armed.is_none()) => {
                return Ok(read)
            }
            // Watches are armed by the commit.
            Ok(read) => match transaction.commit().await {
                Ok(_) => return Ok(read),
                Err(error) => {
                    let code = FdbError::from_code(error.code());
                    drop(read);
                    transaction = error.reset();
                    code
                }
            },
            Err(error) => error,
        };
        if error.code() == TRANSACTION_TOO_OLD && begun.elapsed() > SLOW_ATTEMPT {
            too_slow += 1;
            if too_slow == MOST_TOO_SLOW {
                return Err(error.into());
            }
        }
        count(&stats.retries, 1);
        database.live.reporter.tell(&Event::Retry {
            code: error.code(),
            queries: queries.len(),
        });
        transaction = transaction.on_error(error).await?;
    }
}

/// One attempt: an error that may pass fails it, any other only the query concerned.
async fn attempt(
    database: &Database,
    transaction: &Transaction,
    queries: &[Arc<Query>],
) -> FdbResult<AtVersion> {
    let begun = Instant::now();
    let read_version = transaction.get_read_version().await?;
    let metadata = match queries.iter().any(|query| query.plan.is_some()) {
        true => query::metadata_version(transaction).await?,
        false => None,
    };
    let reads = queries
        .iter()
        .map(|query| read_query(database, transaction, query, read_version, begun));
    let reads = join_all(reads)
        .await
        .into_iter()
        .map(|read| match read {
            Err(error) if error.is_retryable() => Err(error),
            read => Ok(read.map_err(Error::from)),
        })
        .collect::<FdbResult<_>>()?;
    Ok(AtVersion { reads, metadata })
}

async fn read_query(
    database: &Database,
    transaction: &Transaction,
    query: &Arc<Query>,
    read_version: i64,
    begun: Instant,
) -> FdbResult<Read> {
    let found = query.read(transaction).await?;
    let kept = database
        .live
        .find(query)
        .is_some_and(|entry| entry.watches(found.watched.as_deref()));
    let armed = (!kept).then(|| -> WatchFuture { Box::pin(transaction.watch(&query.watch)) });
    Ok(Read {
        read_version,
        duration: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        found,
        armed,
    })
}
