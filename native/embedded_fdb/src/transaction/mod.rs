//! A transaction, as the C API gives it to a client: reads, writes, commit, retry.
//!
//! Three earlier events decide how a call fails: an invalid write (`deferred`: the C functions for
//! writes return no error, so the next function that can returns it), the end of the transaction
//! (`cancelled`: by `cancel`, a timeout or use at the wrong time), and a commit that has begun
//! (`commit_started`).

mod commit;
mod conflicts;
mod estimates;
mod flight;
#[cfg(feature = "management")]
mod management;
mod mapped_range;
#[cfg(not(feature = "management"))]
mod no_management;
mod reads;
mod set_option;
mod special_keys;
mod watching;
mod writes;

#[cfg(feature = "management")]
pub(crate) use management::{
    parts::{Managed, MANAGED_PARTS},
    Edit,
};
#[cfg(not(feature = "management"))]
pub(crate) use no_management::{Managed, MANAGED_PARTS};

use flight::{Flight, Parked};
use watching::PendingWatch;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::api_version::ApiVersion;
use crate::database::{CommitRequest, Handle};
use crate::error::{Error, Result};
use crate::faults::{CommitFault, Fault};
use crate::future::Future;
use crate::keys::{
    clamp_boundary, key_after, max_key_size, max_write_key_size, stored_key_after, Key,
    KeySelector, Limits, Rows, Value, ALL_END, METADATA_VERSION, NORMAL_END, SPECIAL_END,
    VALUE_SIZE_LIMIT,
};
use crate::mutation::{place_versionstamp, versionstamp, versionstamp_position, Mutation, Op};
use crate::mvcc::Version;
use crate::network;
use crate::options::{self, transaction as option, TransactionOptions};
use crate::output::{KeyArray, KeyValues, MappedRows, Output, StringArray};
use crate::range_set::RangeSet;
use crate::resolver::{single_key, KeyRange};
use crate::round_trips::Trip;
use crate::space::Space;
use crate::special;
use crate::status;
use crate::storage::Answer;
use crate::sync::{lock, read, Mutex};
use crate::tenants::{self, Tenant};
use crate::view::View;
use crate::watches::{new_watch, Permit, WatchOwner};
use crate::write_map::WriteMap;

/// The size of FoundationDB's record of a key range, which counts towards a transaction's limit.
const RANGE_RECORD: usize = 24;
/// The same for a mutation.
const MUTATION_RECORD: usize = 44;
/// First back-off of `on_error`, doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Back-off after `transaction_too_old` and `future_version`.
const VERSION_BACKOFF: Duration = Duration::from_millis(10);
/// The API version from which on special keys are a separate space.
const SPECIAL_KEYS_SINCE: i32 = 630;
/// A read waits up to this many versions (about a second) for its read version to be reached.
const FUTURE_VERSION_PATIENCE: Version = 1_000_000;

/// The versionstamp of a transaction, once it is known.
#[derive(Clone, Copy)]
enum Stamp {
    Unknown,
    Known([u8; 10]),
    Never(Error),
}

/// The database at the read version, as far as the transaction may see it.
struct Sighted {
    version: Version,
    space: Space,
    /// The number of the transaction's tenant, or why it cannot be used.
    tenant: Result<Option<i64>>,
}

/// The state of a transaction, from one `reset` to the next.
struct Inner {
    options: TransactionOptions,
    /// Options that a retry preserves.
    persistent: Vec<(i32, Option<Vec<u8>>)>,
    created: Instant,
    /// The view that reads use, from the first read on.
    sighted: Option<Sighted>,
    /// When a client asks for the read version, unless it sets one.
    version_trip: Option<Trip>,
    /// A read version set by the client, or the version of a commit.
    requested_version: Option<Version>,
    /// A commit was sent, for which a client gets a read version if it had none.
    committing: bool,
    /// The part of a client that talks to the cluster has begun a commit. It does so only once.
    handed_over: bool,
    /// The injected fault of the read version.
    version_fault: Fault,
    /// The read version has left the window: only data that were read before can be read again.
    stale: bool,
    /// Shared with the reads in flight, which see the writes made before them.
    writes: Arc<WriteMap>,
    /// The keys whose values a client would have cached, and keys still to be added.
    known: RangeSet,
    known_keys: Vec<Key>,
    read_conflicts: RangeSet,
    read_keys: Vec<Key>,
    /// Requests whose answers have not arrived, in order.
    flights: VecDeque<Flight>,
    /// Calls that wait for the end of an outage.
    parked: Vec<Parked>,
    /// Mutations made without read-your-writes, or before an unreadable range.
    mutations: Vec<Mutation>,
    /// Conflict ranges made without read-your-writes.
    plain_reads: Vec<KeyRange>,
    /// Conflict ranges of selectors and ranges, which do not count towards the transaction's size.
    plain_range_reads: Vec<KeyRange>,
    plain_writes: Vec<KeyRange>,
    versionstamped_keys: Vec<Key>,
    approximate_size: usize,
    /// The transaction has read, so read-your-writes cannot be switched off any more.
    has_read: bool,
    /// The first error of a read: a commit waits for all reads, and fails with it.
    failed_read: Option<Error>,
    deferred: Option<Error>,
    cancelled: Option<Error>,
    commit_started: bool,
    /// Reads that have no answer yet.
    reads_under_way: usize,
    /// The commit that waits for them.
    waiting_commit: Option<Arc<Future>>,
    committed_version: Version,
    stamp: Stamp,
    stamp_futures: Vec<Arc<Future>>,
    watches: Vec<PendingWatch>,
    /// Some of them are still reading their values.
    watches_read: bool,
    /// Futures that end with the transaction.
    pending: Vec<Arc<Future>>,
    /// The timeout that the network thread already watches.
    timer: Option<Instant>,
    conflicts: RangeSet,
    /// The read and write conflict ranges of the last commit without read-your-writes. With
    /// read-your-writes they are still in their usual place.
    committed_conflicts: (Vec<KeyRange>, Vec<KeyRange>),
    /// Writes to special keys.
    special: special::Writes,
    error_message: Option<String>,
    /// Generated on demand.
    trace: Option<special::Trace>,
    /// Tracing was changed too late, so the commit fails.
    late_tracing: bool,
    retries: i64,
    backoff: Duration,
    /// Futures to complete after the lock is released, so that callbacks can use the transaction.
    outbox: Vec<(Arc<Future>, Result<Output>)>,
    /// Grows with each reset: a timer set before does nothing.
    generation: u64,
}

/// One `FDBTransaction`.
pub(crate) struct Transaction {
    handle: Arc<Handle>,
    tenant: Option<Arc<Tenant>>,
    api_version: ApiVersion,
    inner: Mutex<Inner>,
}

impl Transaction {
    pub(crate) fn new(
        handle: Arc<Handle>,
        tenant: Option<Arc<Tenant>>,
        api_version: ApiVersion,
    ) -> Arc<Transaction> {
        handle
            .database
            .counters
            .transactions
            .fetch_add(1, Ordering::Relaxed);
        let inner = Inner {
            options: TransactionOptions::new(0),
            persistent: Vec::new(),
            created: Instant::now(),
            sighted: None,
            version_trip: None,
            requested_version: None,
            committing: false,
            handed_over: false,
            version_fault: Fault::default(),
            stale: false,
            writes: Arc::default(),
            known: RangeSet::default(),
            known_keys: Vec::new(),
            read_conflicts: RangeSet::default(),
            read_keys: Vec::new(),
            flights: VecDeque::new(),
            parked: Vec::new(),
            timer: None,
            mutations: Vec::new(),
            plain_reads: Vec::new(),
            plain_range_reads: Vec::new(),
            plain_writes: Vec::new(),
            versionstamped_keys: Vec::new(),
            approximate_size: 0,
            has_read: false,
            failed_read: None,
            deferred: None,
            cancelled: None,
            commit_started: false,
            reads_under_way: 0,
            waiting_commit: None,
            committed_version: -1,
            stamp: Stamp::Unknown,
            stamp_futures: Vec::new(),
            watches: Vec::new(),
            watches_read: false,
            pending: Vec::new(),
            conflicts: RangeSet::default(),
            committed_conflicts: Default::default(),
            special: special::Writes::default(),
            error_message: None,
            trace: None,
            late_tracing: false,
            retries: 0,
            backoff: FIRST_BACKOFF,
            outbox: Vec::new(),
            generation: 0,
        };
        let inner = Mutex::new(inner);
        let transaction = Arc::new(Transaction {
            handle,
            tenant,
            api_version,
            inner,
        });
        transaction.with(|inner| transaction.apply_defaults(inner));
        transaction
    }

    /// Runs `f` on the state, then completes the futures that it has decided on.
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = lock(&self.inner);
        let result = f(&mut inner);
        let outbox = std::mem::take(&mut inner.outbox);
        drop(inner);
        for (future, result) in outbox {
            future.complete(result);
        }
        result
    }

    /// The checks before a read, a watch or a commit.
    fn check_usable(&self, inner: &mut Inner) -> Result<()> {
        self.check_deferred(inner)?;
        inner.check_not_committing()?;
        inner.check_timeout();
        inner.check_cancelled()
    }

    /// Whether all earlier calls that return no error succeeded.
    fn check_deferred(&self, inner: &Inner) -> Result<()> {
        self.handle.check()?;
        inner.deferred.map_or(Ok(()), Err)
    }

    /// Takes the read version, unless that happened before, and checks that it is still valid.
    fn sight(&self, inner: &mut Inner) -> Result<()> {
        let database = &self.handle.database;
        if inner.sighted.is_none() {
            let snapshot = match inner.requested_version {
                // The version of a new database, which has nothing to read.
                Some(0) => return Err(Error::CLIENT_INVALID_OPERATION),
                Some(version) => database.snapshot_at(version)?,
                None => {
                    if inner.version_fault.error.is_none() {
                        inner.version_fault = database.faults.read_version();
                    }
                    inner.version_fault.error.map_or(Ok(()), Err)?;
                    let snapshot = database.snapshot();
                    inner.version_trip = Some(Trip::begin());
                    if !inner.options.lock_aware && database.is_locked(&snapshot.map) {
                        return Err(Error::DATABASE_LOCKED);
                    }
                    snapshot
                }
            };
            let tenant = self.tenant.as_ref();
            let tenant = tenant.map(|tenant| tenant.id_at(&snapshot.map)).transpose();
            let prefix = tenant.ok().flatten().map(Space::tenant_prefix);
            let space = Space::new(snapshot.map, prefix.unwrap_or_default());
            inner.sighted = Some(Sighted {
                version: snapshot.version,
                space,
                tenant,
            });
        }
        inner.stale = database.check_age(inner.sighted()?.version).is_err();
        Ok(())
    }

    /// Adds a future that ends with the transaction, at its timeout at the latest.
    fn keep_pending(self: &Arc<Self>, inner: &mut Inner, future: &Arc<Future>) {
        inner.pending.retain(|pending| !pending.is_done());
        inner.pending.push(future.clone());
        self.set_timer(inner);
    }

    /// Makes the timeout happen even if nobody calls the transaction.
    fn set_timer(self: &Arc<Self>, inner: &mut Inner) {
        let deadline = inner.deadline().filter(|_| inner.timer != inner.deadline());
        if let Some(deadline) = deadline {
            inner.timer = Some(deadline);
            let transaction = Arc::downgrade(self);
            network::after(
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1),
                Box::new(move || {
                    if let Some(transaction) = Weak::upgrade(&transaction) {
                        transaction.with(Inner::check_timeout);
                    }
                }),
            );
        }
    }

    /// `fdb_transaction_on_error`: waits and restarts, or returns the error.
    pub(crate) fn on_error(self: &Arc<Self>, error: Error) -> Arc<Future> {
        self.with(|inner| {
            self.catch_up(inner);
            inner.check_timeout();
            if let Some(error) = inner.cancelled {
                return Future::ready(Err(error));
            }
            let limit = inner.options.retry_limit;
            let exhausted = limit != -1 && inner.retries >= limit;
            inner.retries = inner.retries.saturating_add(1);
            let backoff = if exhausted {
                None
            } else {
                inner.backoff_after(error)
            };
            let Some(backoff) = backoff else {
                if self.api_version.is_at_least(610) {
                    inner.cancel_with(Error::TRANSACTION_CANCELLED);
                } else {
                    self.restart(inner);
                }
                let error = match error.0 {
                    0 => Error::CLIENT_INVALID_OPERATION,
                    // Numbers that no release can use.
                    i32::MIN..0 | 30_001.. => Error::UNKNOWN_ERROR,
                    _ => error,
                };
                return Future::ready(Err(error));
            };
            // The client waits, so the reads of this try are answered.
            self.arrive_all(inner);
            inner.forget_for_retry();
            let future = Future::pending();
            self.keep_pending(inner, &future);
            let (transaction, waiting) = (self.clone(), future.clone());
            let generation = inner.generation;
            network::after(
                backoff,
                Box::new(move || {
                    transaction.with(|inner| {
                        if inner.generation == generation && !waiting.is_done() {
                            inner
                                .pending
                                .retain(|pending| !Arc::ptr_eq(pending, &waiting));
                            transaction.restart(inner);
                            inner.outbox.push((waiting, Ok(Output::Unit)));
                        }
                    });
                }),
            );
            future
        })
    }

    /// The common part of a retry and a reset: everything except retries, age and back-off.
    fn restart(&self, inner: &mut Inner) {
        inner.end_pending(Error::TRANSACTION_CANCELLED);
        inner.generation += 1;
        inner.writes = Arc::default();
        inner.known = RangeSet::default();
        inner.known_keys.clear();
        inner.read_conflicts = RangeSet::default();
        inner.read_keys.clear();
        inner.approximate_size = 0;
        inner.has_read = false;
        inner.failed_read = None;
        inner.deferred = None;
        inner.cancelled = None;
        inner.commit_started = false;
        inner.reads_under_way = 0;
        inner.waiting_commit = None;
        inner.special = special::Writes::default();
        inner.error_message = None;
        inner.trace = None;
        inner.late_tracing = false;
        self.apply_persistent(inner);
    }

    fn apply_persistent(&self, inner: &mut Inner) {
        let enabled = read(&self.handle.defaults).snapshot_read_your_writes;
        inner.options = TransactionOptions::new(enabled);
        // Only the last timeout counts; one without a value means none.
        let (timeouts, others): (Vec<_>, Vec<_>) = inner
            .persistent
            .iter()
            .cloned()
            .partition(|(code, _)| *code == option::TIMEOUT);
        let timeout = timeouts.into_iter().next_back();
        let timeout = timeout.filter(|(_, value)| value.is_some());
        for (code, value) in others.into_iter().chain(timeout) {
            if let Err(error) = self.apply_option(inner, code, value.as_deref()) {
                inner.deferred.get_or_insert(error);
            }
        }
    }

    fn apply_defaults(&self, inner: &mut Inner) {
        inner
            .persistent
            .clone_from(&read(&self.handle.defaults).options);
        self.apply_persistent(inner);
    }

    pub(crate) fn reset(self: &Arc<Self>) {
        self.with(|inner| {
            self.catch_up(inner);
            inner.fail_watches(Error::TRANSACTION_CANCELLED);
            inner.forget_for_retry();
            inner.retries = 0;
            inner.backoff = FIRST_BACKOFF;
            inner.created = Instant::now();
            inner.persistent.clear();
            self.restart(inner);
            self.apply_defaults(inner);
        });
    }

    pub(crate) fn cancel(self: &Arc<Self>) {
        self.with(|inner| {
            self.catch_up(inner);
            inner.cancel_with(Error::TRANSACTION_CANCELLED);
        });
    }

    /// The client destroyed its handle: everything pending ends.
    pub(crate) fn destroyed(self: &Arc<Self>) {
        self.with(|inner| {
            self.catch_up(inner);
            inner.fail_watches(Error::TRANSACTION_CANCELLED);
            inner.set_stamp(Stamp::Never(Error::TRANSACTION_CANCELLED));
            inner.cancel_with(Error::TRANSACTION_CANCELLED);
        });
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.handle
            .database
            .counters
            .transactions
            .fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn max_read_key(&self) -> &'static [u8] {
        if self.options.read_system_keys {
            ALL_END
        } else {
            NORMAL_END
        }
    }

    fn max_write_key(&self) -> &'static [u8] {
        if self.options.write_system_keys {
            ALL_END
        } else {
            NORMAL_END
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        self.cancelled.map_or(Ok(()), Err)
    }

    /// Using a transaction while or after it commits is an error, and ends the transaction.
    fn check_not_committing(&mut self) -> Result<()> {
        if !self.commit_started {
            return Ok(());
        }
        self.check_timeout();
        if self.cancelled.is_none() && !self.options.used_during_commit_allowed {
            self.cancel_with(Error::USED_DURING_COMMIT);
        }
        Err(Error::USED_DURING_COMMIT)
    }

    fn deadline(&self) -> Option<Instant> {
        let timeout = u64::try_from(self.options.timeout_ms)
            .ok()
            .filter(|&ms| ms > 0)?;
        self.created.checked_add(Duration::from_millis(timeout))
    }

    fn check_timeout(&mut self) {
        if self
            .deadline()
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            self.cancel_with(Error::TRANSACTION_TIMED_OUT);
        }
    }

    fn check_sizes(&self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.len() > max_write_key_size(key, self.options.raw_access) {
            Err(Error::KEY_TOO_LARGE)
        } else if value.len() > VALUE_SIZE_LIMIT {
            Err(Error::VALUE_TOO_LARGE)
        } else {
            Ok(())
        }
    }

    /// Ends the transaction until its next reset, unless it has ended already.
    fn cancel_with(&mut self, error: Error) {
        if self.cancelled.is_none() {
            self.cancelled = Some(error);
            let (reading, waiting) = self.split_watches();
            self.watches = waiting;
            let reading = reading.into_iter().map(|watch| (watch.future, Err(error)));
            self.outbox.extend(reading);
            self.end_pending(error);
        }
    }

    fn end_pending(&mut self, error: Error) {
        self.end_flights(error);
        let ended = self.pending.drain(..).chain(self.stamp_futures.drain(..));
        self.outbox.extend(ended.map(|future| (future, Err(error))));
    }

    fn set_stamp(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        let result = || match stamp {
            Stamp::Known(stamp) => Ok(Output::Key(stamp[..].into())),
            Stamp::Never(error) => Err(error),
            Stamp::Unknown => Err(Error::TRANSACTION_INVALID_VERSION),
        };
        self.outbox.extend(
            self.stamp_futures
                .drain(..)
                .map(|future| (future, result())),
        );
    }

    /// Forgets the committer's results of this try.
    fn forget_for_retry(&mut self) {
        let waiting = self.keep_watches_for_retry();
        let cancelled = waiting.into_iter().map(|watch| watch.future);
        self.outbox
            .extend(cancelled.map(|future| (future, Err(Error::TRANSACTION_CANCELLED))));
        self.sighted = None;
        self.version_trip = None;
        self.requested_version = None;
        self.committing = false;
        self.handed_over = false;
        self.version_fault = Fault::default();
        self.stale = false;
        self.committed_conflicts = Default::default();
        self.mutations.clear();
        self.plain_reads.clear();
        self.plain_range_reads.clear();
        self.plain_writes.clear();
        self.versionstamped_keys.clear();
        self.set_stamp(Stamp::Never(Error::BROKEN_PROMISE));
        self.stamp = Stamp::Unknown;
    }

    /// How long to wait before a retry; `None` if a retry is useless.
    fn backoff_after(&mut self, error: Error) -> Option<Duration> {
        let max = Duration::from_millis(self.options.max_retry_delay_ms.unsigned_abs());
        match error {
            Error::TRANSACTION_TOO_OLD | Error::FUTURE_VERSION => Some(VERSION_BACKOFF.min(max)),
            Error::NOT_COMMITTED
            | Error::COMMIT_UNKNOWN_RESULT
            | Error::DATABASE_LOCKED
            | Error::COMMIT_PROXY_MEMORY_LIMIT_EXCEEDED
            | Error::GRV_PROXY_MEMORY_LIMIT_EXCEEDED
            | Error::PROCESS_BEHIND
            | Error::BATCH_TRANSACTION_THROTTLED
            | Error::TAG_THROTTLED
            | Error::BLOB_GRANULE_REQUEST_FAILED
            | Error::PROXY_TAG_THROTTLED => {
                let backoff = self.backoff.mul_f64(crate::random::unit());
                let resources = matches!(
                    error,
                    Error::COMMIT_PROXY_MEMORY_LIMIT_EXCEEDED
                        | Error::GRV_PROXY_MEMORY_LIMIT_EXCEEDED
                );
                let max = if resources {
                    Duration::from_secs(30)
                } else {
                    max
                };
                self.backoff = (self.backoff * 2).min(max);
                Some(backoff)
            }
            _ => None,
        }
    }
}
