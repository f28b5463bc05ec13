//! Batches: whoever waits shares one transaction, and so one read version, obtained after the last
//! of them joined. In a storm, a mass mount, calls for what others have already wait for more to join:
//! until the callers of the last batch have taken their results and nobody new has come for a while.
//! So thousands of mounts cost a few reads, and whoever asks for something else waits for none of it.

use std::collections::hash_map;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
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
use super::shared_term::MANY;
use super::snapshot::Snapshot;
use super::storm::{self, Storm};
use super::subscription::{Part, Subscription, Untaken};
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

    /// Whether others on this node have some of it already.
    fn joins(&self, live: &LiveQueries) -> bool {
        self.queries().any(|query| live.find(query).is_some())
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
    refreshes: Vec<Arc<Entry>>,
    calls: VecDeque<Call>,
    /// Calls for what others have already: in a storm they wait for more to join.
    joining: VecDeque<Call>,
    /// Whether they wait now; the reader of the last batch that took some ends it.
    gathering: bool,
    storm: Storm,
    batches: usize,
}

struct Batch {
    calls: Vec<Call>,
    refreshes: Vec<Arc<Entry>>,
    /// Held by every subscription of the calls until it has taken its results.
    untaken: Untaken,
    /// Whether calls gather from now on until its reader ends that.
    gathers: bool,
}

impl LiveQueries {
    /// Queues a call for the next batch.
    pub fn subscribe(&self, database: &Arc<Database>, call: Call) {
        let joins = call.joins(self);
        self.enqueue(database, |queue| {
            if joins {
                queue.storm.count(call.caller);
                queue.joining.push_back(call);
            } else {
                queue.calls.push_back(call);
            }
        });
    }

    /// Queues an entry's re-read for the next batch.
    pub fn refresh(&self, database: &Arc<Database>, entry: Arc<Entry>) {
        self.enqueue(database, |queue| queue.refreshes.push(entry));
    }

    fn enqueue(&self, database: &Arc<Database>, push: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue.lock();
        push(&mut queue);
        if queue.batches < MOST_BATCHES && queue.has_work() {
            queue.batches += 1;
            client::runtime().spawn(read_batches(Arc::clone(database)));
        }
    }

    fn next_batch(&self) -> Option<Batch> {
        let mut queue = self.queue.lock();
        if !queue.has_work() {
            queue.batches -= 1;
            return None;
        }
        let mut batch = Batch {
            calls: Vec::new(),
            refreshes: std::mem::take(&mut queue.refreshes),
            untaken: Untaken::default(),
            gathers: false,
        };
        let mut queries = batch.refreshes.len();
        while queries < MOST_QUERIES {
            let call = if let Some(call) = queue.calls.pop_front() {
                call
            } else if queue.gathering {
                break;
            } else if let Some(call) = queue.joining.pop_front() {
                batch.gathers = true;
                call
            } else {
                break;
            };
            queries += call.queries().count();
            batch.calls.push(call);
        }
        batch.gathers &= queue.storm.rages();
        queue.gathering |= batch.gathers;
        Some(batch)
    }

    /// Waits for more calls to join, after the batch whose results are `untaken` yet.
    async fn gather(&self, untaken: &Weak<()>) {
        let begun = Instant::now();
        let mut joined = self.queue.lock().joining.len();
        let mut left = (untaken.strong_count(), begun);
        loop {
            tokio::time::sleep(storm::LULL).await;
            let now = Instant::now();
            if untaken.strong_count() != left.0 {
                left = (untaken.strong_count(), now);
            }
            let mut queue = self.queue.lock();
            let before = std::mem::replace(&mut joined, queue.joining.len());
            let enough = joined == before || now - begun >= queue.storm.window();
            let stuck = now - left.1 >= storm::LONGEST_WINDOW;
            let ready = left.0 == 0 && enough;
            if ready || stuck || now - begun >= storm::LONGEST_WAIT {
                queue.gathering = false;
                queue.storm.gathered(joined);
                return;
            }
        }
    }
}

impl Queue {
    fn has_work(&self) -> bool {
        let joining = !self.gathering && !self.joining.is_empty();
        joining || !self.calls.is_empty() || !self.refreshes.is_empty()
    }
}

async fn read_batches(database: Arc<Database>) {
    while let Some(mut batch) = database.live.next_batch() {
        batch.refreshes.retain(|entry| entry.begin_refresh());
        let gathers = batch.gathers.then(|| Arc::downgrade(&batch.untaken));
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
        if let Some(untaken) = gathers {
            database.live.gather(&untaken).await;
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
        let other = Batch {
            calls: self.calls.split_off(self.calls.len() / 2),
            refreshes: self.refreshes.split_off(self.refreshes.len().div_ceil(2)),
            untaken: Arc::clone(&self.untaken),
            gathers: false,
        };
        (self, other)
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
    let untaken = batch.untaken;
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
        attached.push(found.map(|(entry, snapshot, slots)| {
            let all = (slots.len() >= MANY).then(|| Arc::new(snapshot.share()));
            (entry, snapshot, slots.into_iter(), all)
        }));
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
                        let (entry, snapshot, slots, all) =
                            attached[queries.place[&query]].as_mut()?;
                        Some(Part {
                            entry: Arc::clone(entry),
                            slot: slots.next()?,
                            snapshot: Arc::clone(snapshot),
                            fresh: true,
                            all: all.clone(),
                            told_stale: false,
                        })
                    }
                })
                .collect();
            // The last one of them answers for all.
            let reply = call.reply.take_if(|_| left == 0);
            Subscription::begin(&subscription, parts, reply, &untaken);
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
