//! A transaction, as the C API gives it to a client: reads, writes, commit, retry.
//!
//! Three things can have gone wrong before a call, and each answers in its own way:
//! a write that was not possible (`deferred`: the C functions for writes cannot fail, so the next
//! function that can does), the end of the transaction (`cancelled`: by `cancel`, a timeout or a
//! use at the wrong time), and a commit that was begun (`commit_started`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::database::{CommitRequest, Handle};
use crate::error::{Error, Result};
use crate::future::{Future, KeyArray, KeyValues, MappedRow, MappedRows, Output, StringArray};
use crate::keys::{
    clamp_boundary, is_key_after, key_after, max_key_size, max_write_key_size, Key, KeySelector,
    Limits, Rows, Value, ALL_END, METADATA_VERSION, NORMAL_END, SPECIAL_END, VALUE_SIZE_LIMIT,
};
use crate::mapped::{prefix_end, Mapper};
use crate::mutation::{place_versionstamp, versionstamp, versionstamp_position, Mutation, Op};
use crate::mvcc::Version;
use crate::network;
use crate::options::{self, transaction as option, TransactionOptions};
use crate::range_set::RangeSet;
use crate::resolver::{single_key, KeyRange};
use crate::space::Space;
use crate::special;
use crate::sync::{lock, read};
use crate::tenant::{self, Tenant};
use crate::view::{range_in_database, resolve_in_database, View};
use crate::watches::{new_watch, Permit, WatchOwner};
use crate::write_map::{Segment, WriteMap};

/// The size of FoundationDB's record of a key range, which counts against a transaction's limit.
const RANGE_RECORD: usize = 24;
/// The same for a mutation.
const MUTATION_RECORD: usize = 44;
/// First back-off of `on_error`, doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Back-off after `transaction_too_old` and `future_version`.
const VERSION_BACKOFF: Duration = Duration::from_millis(10);
/// A read waits this many versions (about a second) for its read version to come.
const FUTURE_VERSION_PATIENCE: Version = 1_000_000;

/// A watch whose transaction is not committed yet.
struct PendingWatch {
    key: Key,
    value: Option<Value>,
    future: Arc<Future>,
    owner: Weak<WatchOwner>,
    /// Nothing has been waited for since: to a cluster's client the watch would still be reading
    /// its value, and end up in the next try of the transaction.
    fresh: bool,
}

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
    /// The number of the transaction's tenant.
    tenant: Option<i64>,
}

/// The state of a transaction, from one `reset` to the next.
struct Inner {
    options: TransactionOptions,
    /// Options that a retry keeps.
    persistent: Vec<(i32, Option<Vec<u8>>)>,
    created: Instant,
    /// What is read, from the first read on.
    sighted: Option<Sighted>,
    /// A read version set by the client, or that of a commit.
    requested_version: Option<Version>,
    /// The read version has left the window: only what was read before can be read again.
    stale: bool,
    writes: WriteMap,
    read_conflicts: RangeSet,
    /// Mutations made without read-your-writes, or before an unreadable range.
    mutations: Vec<Mutation>,
    /// Conflict ranges made without read-your-writes.
    plain_reads: Vec<KeyRange>,
    plain_writes: Vec<KeyRange>,
    versionstamped_keys: Vec<Key>,
    approximate_size: usize,
    /// Something was read: read-your-writes cannot be switched off any more.
    has_read: bool,
    /// The first error of a read: a commit waits for all reads, and fails as they do.
    failed_read: Option<Error>,
    deferred: Option<Error>,
    cancelled: Option<Error>,
    commit_started: bool,
    committed_version: Version,
    stamp: Stamp,
    stamp_futures: Vec<Arc<Future>>,
    watches: Vec<PendingWatch>,
    /// Futures that end with the transaction.
    pending: Vec<Arc<Future>>,
    conflicts: RangeSet,
    /// The read and write conflict ranges that the last commit had.
    committed_conflicts: (Vec<KeyRange>, Vec<KeyRange>),
    /// Changes made through special keys.
    special: Vec<special::Change>,
    error_message: Option<String>,
    retries: i64,
    backoff: Duration,
    /// Futures to complete when the lock is released, so that callbacks can use the transaction.
    outbox: Vec<(Arc<Future>, Result<Output>)>,
    /// Grows with each reset: a timer set before does nothing.
    generation: u64,
}

/// One `FDBTransaction`.
pub(crate) struct Transaction {
    handle: Arc<Handle>,
    tenant: Option<Arc<Tenant>>,
    api_version: i32,
    inner: Mutex<Inner>,
}

impl Transaction {
    pub(crate) fn new(
        handle: Arc<Handle>,
        tenant: Option<Arc<Tenant>>,
        api_version: i32,
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
            requested_version: None,
            stale: false,
            writes: WriteMap::default(),
            read_conflicts: RangeSet::default(),
            mutations: Vec::new(),
            plain_reads: Vec::new(),
            plain_writes: Vec::new(),
            versionstamped_keys: Vec::new(),
            approximate_size: 0,
            has_read: false,
            failed_read: None,
            deferred: None,
            cancelled: None,
            commit_started: false,
            committed_version: -1,
            stamp: Stamp::Unknown,
            stamp_futures: Vec::new(),
            watches: Vec::new(),
            pending: Vec::new(),
            conflicts: RangeSet::default(),
            committed_conflicts: Default::default(),
            special: Vec::new(),
            error_message: None,
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

    /// Runs `f` on the state, then completes the futures it decided on.
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

    /// Takes the read version, unless that was done before, and sees whether it is still good.
    fn sight(&self, inner: &mut Inner) -> Result<()> {
        let database = &self.handle.database;
        if inner.sighted.is_none() {
            let snapshot = match inner.requested_version {
                Some(version) => database.snapshot_at(version)?,
                None => database.snapshot(),
            };
            let tenant = self
                .tenant
                .as_ref()
                .map(|tenant| tenant.id(&snapshot.map))
                .transpose()?;
            let prefix = tenant.map_or_else(|| [][..].into(), tenant::prefix);
            let space = Space::new(snapshot.map, prefix);
            inner.sighted = Some(Sighted {
                version: snapshot.version,
                space,
                tenant,
            });
        }
        inner.stale = database.check_age(inner.sighted()?.version).is_err();
        Ok(())
    }

    // ---- reads

    /// Runs a read: at once, or once its read version has come.
    fn read(
        self: &Arc<Self>,
        f: impl FnOnce(&Self, &mut Inner) -> Result<Output> + Send + 'static,
    ) -> Arc<Future> {
        self.handle
            .database
            .counters
            .reads
            .fetch_add(1, Ordering::Relaxed);
        self.with(|inner| {
            if let Err(error) = inner.check_usable() {
                return Future::ready(Err(error));
            }
            inner.settle_watches();
            if let (None, Some(version)) = (&inner.sighted, inner.requested_version) {
                let wait = self.handle.database.versions_until(version);
                if wait > 0 && wait <= FUTURE_VERSION_PATIENCE {
                    return self.read_later(inner, wait, f);
                }
            }
            Future::ready(self.run_read(inner, f))
        })
    }

    fn run_read(
        &self,
        inner: &mut Inner,
        f: impl FnOnce(&Self, &mut Inner) -> Result<Output>,
    ) -> Result<Output> {
        let result = self.sight(inner).and_then(|()| {
            inner.has_read = true;
            f(self, inner)
        });
        if let Err(error) = result {
            inner.failed_read.get_or_insert(error);
        }
        result
    }

    fn read_later(
        self: &Arc<Self>,
        inner: &mut Inner,
        versions: Version,
        f: impl FnOnce(&Self, &mut Inner) -> Result<Output> + Send + 'static,
    ) -> Arc<Future> {
        let future = Future::pending();
        self.keep_pending(inner, &future);
        let (transaction, waiting) = (Arc::downgrade(self), future.clone());
        let delay = Duration::from_micros(versions.unsigned_abs());
        network::after(
            delay,
            Box::new(move || {
                let Some(transaction) = transaction.upgrade() else {
                    return;
                };
                if !waiting.is_ready() {
                    let result = transaction.with(|inner| transaction.run_read(inner, f));
                    waiting.complete(result);
                }
            }),
        );
        future
    }

    /// Adds a future that ends with the transaction, at its timeout at the latest.
    fn keep_pending(self: &Arc<Self>, inner: &mut Inner, future: &Arc<Future>) {
        inner.pending.retain(|pending| !pending.is_ready());
        inner.pending.push(future.clone());
        self.set_timer(inner);
    }

    /// Makes the timeout happen even if nobody calls the transaction.
    fn set_timer(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(deadline) = inner.deadline() {
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

    pub(crate) fn get_read_version(self: &Arc<Self>) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            inner.check_deferred()?;
            inner.check_timeout();
            inner.check_cancelled()?;
            inner.settle_watches();
            self.read_version(inner).map(Output::Int64)
        }))
    }

    fn read_version(&self, inner: &mut Inner) -> Result<Version> {
        if let Some(version) = inner.requested_version {
            return Ok(version);
        }
        self.sight(inner)?;
        inner.sighted().map(|sighted| sighted.version)
    }

    pub(crate) fn set_read_version(&self, version: Version) {
        self.write(|inner| {
            if inner.sighted.is_some() || inner.requested_version.is_some() {
                return Err(Error::READ_VERSION_ALREADY_SET);
            }
            if version <= 0 {
                return Err(Error::VERSION_INVALID);
            }
            inner.requested_version = Some(version);
            Ok(())
        });
    }

    pub(crate) fn get(self: &Arc<Self>, key: Key, snapshot: bool) -> Arc<Future> {
        if special::is_special(&key) {
            return self.get_special(key);
        }
        self.read(move |transaction, inner| {
            if key[..] >= *inner.max_read_key() && key[..] != *METADATA_VERSION {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            if key.len() > max_key_size(&key) {
                return Ok(Output::Value(None));
            }
            transaction.value(inner, &key, snapshot).map(Output::Value)
        })
    }

    fn value(&self, inner: &mut Inner, key: &Key, snapshot: bool) -> Result<Option<Value>> {
        let next = key_after(key);
        let sight = inner.sees(snapshot);
        let space = &inner.sighted()?.space;
        let stored = || match &key[..] {
            // There is one for all tenants.
            METADATA_VERSION => space.everything().get(METADATA_VERSION).cloned(),
            key => space.get(key).cloned(),
        };
        let value = match sight {
            Sight::Plain | Sight::Snapshot => stored(),
            Sight::OwnWrites if inner.writes.segment(key).1 == &Segment::default() => stored(),
            Sight::OwnWrites => inner.view(&inner.writes)?.get(key)?,
        };
        inner.check_known(key, &next)?;
        match sight {
            _ if snapshot => {}
            Sight::Plain => inner.plain_reads.push((key.clone(), next)),
            Sight::Snapshot => {}
            Sight::OwnWrites => {
                if inner.writes.segment(key).1.reads_database() {
                    inner.approximate_size += 2 * key.len() + 1 + RANGE_RECORD;
                    inner.read_conflicts.insert(key.clone(), next);
                }
            }
        }
        Ok(value)
    }

    pub(crate) fn get_key(self: &Arc<Self>, selector: KeySelector, snapshot: bool) -> Arc<Future> {
        self.read(move |_, inner| {
            let max_key = inner.max_read_key();
            if selector.key[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let sight = inner.sees(snapshot);
            let key = match sight {
                Sight::Plain => resolve_in_database(&inner.sighted()?.space, &selector).key,
                Sight::Snapshot => inner.view(&WriteMap::default())?.get_key(&selector)?,
                Sight::OwnWrites => inner.view(&inner.writes)?.get_key(&selector)?,
            };
            let (begin, end) = key_conflict(&selector, &key);
            inner.check_known(&begin, &end)?;
            match sight {
                _ if snapshot => {}
                Sight::Plain => inner.plain_reads.push((begin, end)),
                Sight::Snapshot => {}
                Sight::OwnWrites => inner.add_read_conflict(begin, end),
            }
            Ok(Output::Key(key.min(max_key.into())))
        })
    }

    pub(crate) fn get_range(
        self: &Arc<Self>,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Arc<Future> {
        if special::is_special_range(&begin, &end) {
            return self.get_special_range(begin, end, limits, reverse);
        }
        self.read(move |_, inner| {
            let rows = inner.range(begin, end, limits, snapshot, reverse)?;
            Ok(Output::KeyValues(KeyValues::new(rows.rows, rows.more)))
        })
    }

    // ---- special keys

    fn get_special(self: &Arc<Self>, key: Key) -> Arc<Future> {
        let begin = KeySelector::first_greater_or_equal(key.clone());
        let end = KeySelector::first_greater_or_equal(key_after(&key));
        Future::ready(self.with(|inner| {
            let rows = self.special_rows(inner, begin, end, Limits::new(None, None), false)?;
            Ok(Output::Value(
                rows.rows.into_iter().next().map(|(_, value)| value),
            ))
        }))
    }

    fn get_special_range(
        self: &Arc<Self>,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            let rows = self.special_rows(inner, begin, end, limits, reverse)?;
            Ok(Output::KeyValues(KeyValues::new(rows.rows, rows.more)))
        }))
    }

    /// Special keys can be read after a commit: that is when conflicting keys are known.
    fn special_rows(
        &self,
        inner: &mut Inner,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Result<Rows> {
        inner.check_deferred()?;
        inner.check_timeout();
        inner.check_cancelled()?;
        inner.settle_watches();
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        if limits.reached() || (begin.offset >= end.offset && begin.key >= end.key) {
            return Ok(Rows::default());
        }
        let relaxed = inner.options.special_keys_relaxed;
        let boundary = special::boundary(&begin.key, &end.key, relaxed, self.tenant.is_some())?;
        let mut rows = Vec::new();
        let in_boundary = |key: &[u8]| boundary.0 <= key && key < boundary.1;
        let mut single = |key: &[u8], value: Option<String>| {
            if let (true, Some(value)) = (in_boundary(key), value) {
                rows.push((Key::from(key), Value::from(value.into_bytes())));
            }
        };
        let cluster_file = &self.handle.cluster_file;
        single(special::CLUSTER_FILE_PATH, Some(cluster_file.clone()));
        single(
            special::CONNECTION_STRING,
            Some(crate::status::CONNECTION_STRING.to_owned()),
        );
        single(special::ERROR_MESSAGE, inner.error_message.clone());
        if in_boundary(special::STATUS_JSON) {
            let version = self.handle.database.newest_version();
            single(special::STATUS_JSON, Some(crate::status::json(version)));
        }
        if in_boundary(special::TENANT_MAP) {
            self.sight(inner)?;
            let tenants = tenant::list(inner.sighted()?.space.everything());
            rows.extend(
                tenants
                    .into_iter()
                    .map(|(name, value)| ([special::TENANT_MAP, &name].concat().into(), value)),
            );
        }
        if in_boundary(special::READ_CONFLICTS) {
            rows.extend(special::boundaries(
                special::CONFLICTING_KEYS,
                &inner.conflicts,
            ));
            rows.extend(special::boundaries(
                special::READ_CONFLICTS,
                &inner.all_read_conflicts(),
            ));
            rows.extend(special::boundaries(
                special::WRITE_CONFLICTS,
                &inner.all_write_conflicts(),
            ));
        }
        rows.sort();
        Ok(special::select(rows, boundary, begin, end, limits, reverse))
    }

    /// Writes to special keys; `Ok(false)` where the key is not one of them.
    fn write_special(
        &self,
        inner: &mut Inner,
        key: &[u8],
        change: impl FnOnce() -> Result<Option<special::Change>>,
    ) -> Result<bool> {
        if !special::is_special(key) {
            return Ok(false);
        }
        if !inner.options.special_keys_writable {
            return Err(Error::SPECIAL_KEYS_WRITE_DISABLED);
        }
        if self.tenant.is_some() {
            return Err(Error::ILLEGAL_TENANT_ACCESS);
        }
        inner.special.extend(change()?);
        Ok(true)
    }

    /// A range read of an index, with what each row leads to. Never sees own writes: it fails
    /// where it would have to.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn get_mapped_range(
        self: &Arc<Self>,
        begin: KeySelector,
        end: KeySelector,
        mapper: Vec<u8>,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Arc<Future> {
        self.read(move |_, inner| {
            let max_key = inner.max_read_key();
            if begin.key[..] > *max_key || end.key[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
            if limits.reached() || (begin.offset >= end.offset && begin.key >= end.key) {
                return Ok(Output::Mapped(MappedRows::new(Vec::new(), false)));
            }
            if snapshot || inner.options.read_your_writes_disabled {
                return Err(Error::UNSUPPORTED_OPERATION);
            }
            let mapper = Mapper::parse(&mapper)?;
            inner.check_fresh()?;
            let space = inner.sighted()?.space.clone();
            let rows = range_in_database(&space, &begin, &end, limits, reverse);
            let (from, to) = range_conflict(&begin, &end, &rows, reverse, max_key);
            inner.add_unwritten_conflict(from, to)?;
            let mut mapped = Vec::with_capacity(rows.rows.len());
            for (key, value) in rows.rows {
                let begin = mapper.map(&key, &value)?;
                let (end, rows) = if mapper.range {
                    let end = prefix_end(&begin).unwrap_or_else(|| ALL_END.into());
                    let run = space.range(&begin, &end);
                    let rows = run.map(|(key, value)| (key, value.clone())).collect();
                    (end, rows)
                } else {
                    let row = space
                        .get(&begin)
                        .map(|value| (begin.clone(), value.clone()));
                    (key_after(&begin), row.into_iter().collect())
                };
                inner.add_unwritten_conflict(begin.clone(), end.clone())?;
                mapped.push(MappedRow {
                    key,
                    value,
                    begin,
                    end,
                    rows,
                });
            }
            Ok(Output::Mapped(MappedRows::new(mapped, rows.more)))
        })
    }

    // ---- writes

    /// Runs a write: its error, if any, is the answer of the next call that can fail.
    fn write(&self, f: impl FnOnce(&mut Inner) -> Result<()>) {
        self.with(|inner| {
            if let Err(error) = f(inner) {
                inner.deferred.get_or_insert(error);
            }
        });
    }

    pub(crate) fn set(&self, key: Key, value: Value) {
        self.write(|inner| {
            if key[..] == *METADATA_VERSION {
                return Err(Error::CLIENT_INVALID_OPERATION);
            }
            if self.write_special(inner, &key, || special::set(&key, &value).map(Some))? {
                return Ok(());
            }
            let conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            if key[..] >= *inner.max_write_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            inner.count_write(key.len() + value.len(), 2 * key.len() + 1, conflict);
            inner.check_sizes(&key, &value)?;
            if inner.options.read_your_writes_disabled {
                inner.plain_write(Op::Set, key, value, conflict);
            } else {
                inner.writes.mutate(&key, Op::Set, value.clone(), conflict);
                inner.own_write(&key, &key_after(&key), Some(Some(value)));
            }
            Ok(())
        });
    }

    pub(crate) fn atomic_op(&self, key: Key, operand: Value, code: i32) {
        self.write(|inner| {
            let mut conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            let op = Op::from_code(code, self.api_version);
            if key[..] == *METADATA_VERSION {
                let stamp = operand.len() == 14 && operand.iter().all(|&byte| byte == 0);
                if op != Ok(Op::SetVersionstampedValue) || !stamp {
                    return Err(Error::CLIENT_INVALID_OPERATION);
                }
            } else if key[..] >= *inner.max_write_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let op = op?;
            inner.check_sizes(&key, &operand)?;
            let (mut key, operand) = self.with_long_positions(op, key, operand);
            if op == Op::SetVersionstampedKey {
                let known = inner.sighted.as_ref().map(|sighted| sighted.version);
                let lowest = versionstamp(known.or(inner.requested_version).unwrap_or(0), 0);
                let position = versionstamp_position(&key)?.0;
                let mut stamped = key.to_vec();
                stamped[position..position + 10].copy_from_slice(&lowest);
                key = stamped.into();
                let (begin, end) = stamp_range(&key)?;
                inner.versionstamped_keys.push(key.clone());
                conflict = false;
                if !inner.options.read_your_writes_disabled {
                    let end = end.min(inner.max_read_key().into());
                    inner.flush(&begin, &end);
                    inner.writes.make_unreadable(&begin, &end);
                }
            }
            if op == Op::SetVersionstampedValue {
                versionstamp_position(&operand)?;
            }
            inner.count_write(key.len() + operand.len(), 2 * key.len() + 1, conflict);
            if inner.options.read_your_writes_disabled {
                inner.plain_write(op, key, operand, conflict);
            } else {
                inner.writes.mutate(&key, op, operand, conflict);
                inner.own_write(&key, &key_after(&key), None);
            }
            Ok(())
        });
    }

    /// Before API version 520 the position of a versionstamp had two bytes in a key, and none in a
    /// value.
    fn with_long_positions(&self, op: Op, key: Key, operand: Value) -> (Key, Value) {
        match op {
            Op::SetVersionstampedKey if self.api_version < 520 => {
                ([&key[..], &[0, 0]].concat().into(), operand)
            }
            Op::SetVersionstampedValue if self.api_version < 520 => {
                (key, [&operand[..], &[0, 0, 0, 0]].concat().into())
            }
            _ => (key, operand),
        }
    }

    pub(crate) fn clear(&self, key: Key) {
        self.write(|inner| {
            let conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            if self.write_special(inner, &key, || special::clear(&key, &key_after(&key)))? {
                return Ok(());
            }
            if key[..] >= *inner.max_write_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            if key.len() > max_key_size(&key) {
                return Ok(());
            }
            let end = key_after(&key);
            if inner.options.read_your_writes_disabled {
                inner.plain_clear(key, end, conflict);
                return Ok(());
            }
            inner.approximate_size += key.len() + end.len() + RANGE_RECORD;
            if conflict {
                inner.approximate_size += key.len() + end.len() + RANGE_RECORD;
            }
            inner.writes.clear(&key, &end, conflict);
            inner.own_write(&key, &end, Some(None));
            Ok(())
        });
    }

    pub(crate) fn clear_range(&self, begin: Key, end: Key) {
        self.write(|inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            let conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            let special = end[..] <= *SPECIAL_END
                && self.write_special(inner, &begin, || special::clear(&begin, &end))?;
            if special {
                return Ok(());
            }
            let max_key = inner.max_write_key();
            if begin[..] > *max_key || end[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let size = begin.len() + end.len();
            inner.count_write(size, size, conflict);
            let begin: Key = clamp_boundary(&begin).into();
            let end: Key = clamp_boundary(&end).into();
            if begin >= end {
                return Ok(());
            }
            if inner.options.read_your_writes_disabled {
                inner.plain_clear(begin, end, conflict);
            } else {
                inner.writes.clear(&begin, &end, conflict);
                inner.own_write(&begin, &end, Some(None));
            }
            Ok(())
        });
    }

    /// `fdb_transaction_add_conflict_range`; `write` tells the type.
    pub(crate) fn add_conflict_range(&self, begin: Key, end: Key, write: bool) -> Result<()> {
        if begin > end {
            return Err(Error::INVERTED_RANGE);
        }
        self.write(|inner| {
            inner.check_not_committing()?;
            let max_key = if write {
                inner.max_write_key()
            } else {
                inner.max_read_key()
            };
            let metadata_version =
                !write && begin[..] == *METADATA_VERSION && end == key_after(METADATA_VERSION);
            if (begin[..] > *max_key || end[..] > *max_key) && !metadata_version {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let begin: Key = clamp_boundary(&begin).into();
            let end: Key = clamp_boundary(&end).into();
            if begin >= end {
                return Ok(());
            }
            let size = begin.len() + end.len() + RANGE_RECORD;
            match (write, inner.options.read_your_writes_disabled) {
                (true, disabled) => {
                    inner.approximate_size += size;
                    if disabled {
                        inner.plain_writes.push((begin, end));
                    } else {
                        inner.writes.add_conflict(&begin, &end);
                    }
                }
                (false, true) => {
                    inner.approximate_size += size;
                    inner.plain_reads.push((begin, end));
                }
                (false, false) => inner.add_read_conflict(begin, end),
            }
            Ok(())
        });
        Ok(())
    }

    // ---- watches

    pub(crate) fn watch(self: &Arc<Self>, key: Key) -> Arc<Future> {
        self.with(|inner| {
            self.make_watch(inner, key)
                .unwrap_or_else(|e| Future::ready(Err(e)))
        })
    }

    fn make_watch(&self, inner: &mut Inner, key: Key) -> Result<Arc<Future>> {
        inner.check_usable()?;
        if inner.options.read_your_writes_disabled {
            return Err(Error::WATCHES_DISABLED);
        }
        let legal = key[..] < *inner.max_read_key() || key[..] == *METADATA_VERSION;
        if key[..] >= *ALL_END || !legal {
            return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
        }
        if key.len() > max_write_key_size(&key, inner.options.raw_access) {
            return Err(Error::KEY_TOO_LARGE);
        }
        self.sight(inner)?;
        inner.has_read = true;
        let value = self.value(inner, &key, false)?;
        let permit = Permit::new(&self.handle.allowance, &self.handle.database.watches)?;
        let (future, owner) = new_watch(permit);
        let waiting = future.clone();
        inner.watches.push(PendingWatch {
            key,
            value,
            future,
            owner,
            fresh: true,
        });
        Ok(waiting)
    }

    // ---- commit

    pub(crate) fn commit(self: &Arc<Self>) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            inner.check_usable()?;
            inner.commit_started = true;
            if let Some(error) = inner.failed_read {
                return Err(error);
            }
            let result = self.commit_now(inner);
            if let Err(error) = result {
                inner.fail_watches(error);
                inner.set_stamp(Stamp::Never(Error::TRANSACTION_INVALID_VERSION));
            }
            result.map(|()| Output::Unit)
        }))
    }

    fn commit_now(&self, inner: &mut Inner) -> Result<()> {
        let tenants = self.edit_tenants(inner)?;
        let (mutations, writes) = inner.writes.collect(&[], ALL_END);
        let mut request = CommitRequest {
            read_version: None,
            reads: std::mem::take(&mut inner.plain_reads),
            writes: std::mem::take(&mut inner.plain_writes),
            mutations: std::mem::take(&mut inner.mutations),
            causal_write_risky: inner.options.causal_write_risky,
        };
        request.reads.extend(inner.read_conflicts.ranges());
        request.writes.extend(writes);
        request.mutations.extend(mutations);
        if let Some(edited) = tenants {
            request.reads.extend(edited.reads);
            request.writes.extend(edited.writes);
            request.mutations.extend(edited.mutations);
        }
        inner.committed_conflicts = (request.reads.clone(), request.writes.clone());
        if request.writes.is_empty() && request.mutations.is_empty() {
            inner.committed_version = -1;
            inner.set_stamp(Stamp::Never(Error::NO_COMMIT_VERSION));
            self.arm_watches(inner)?;
            return Ok(());
        }
        if inner.options.read_only {
            return Err(Error::TRANSACTION_READ_ONLY);
        }
        if commit_size(&request) > inner.options.size_limit {
            return Err(Error::TRANSACTION_TOO_LARGE);
        }
        let tenant = match &self.tenant {
            Some(_) => {
                self.sight(inner)?;
                inner.sighted()?.tenant
            }
            None => None,
        };
        // The snapshot goes before the commit, which would else have to copy what it changes.
        if let Some(sighted) = inner.sighted.take() {
            inner.requested_version = Some(sighted.version);
        }
        request.read_version = inner.requested_version;
        if let Some(version) = inner.requested_version {
            if self.handle.database.versions_until(version) > 0 {
                return Err(Error::FUTURE_VERSION);
            }
        }
        let prefix = tenant.map_or_else(|| [][..].into(), tenant::prefix);
        if let Some(id) = tenant {
            request.move_below(&prefix);
            request.reads.push(single_key(&tenant::id_key(id)));
        }
        match self.handle.database.commit(request) {
            Ok(committed) => {
                inner.committed_version = committed.version;
                inner.set_stamp(Stamp::Known(committed.stamp));
                self.arm_watches_below(inner, &prefix);
                Ok(())
            }
            Err(refused) => {
                inner.conflicts = RangeSet::default();
                if inner.options.report_conflicting_keys {
                    for (begin, end) in refused.conflicts {
                        let cut = prefix.len().min(begin.len()).min(end.len());
                        inner
                            .conflicts
                            .insert(begin[cut..].into(), end[cut..].into());
                    }
                }
                Err(refused.error)
            }
        }
    }

    /// What the changes made through special keys come to.
    fn edit_tenants(&self, inner: &mut Inner) -> Result<Option<tenant::Edited>> {
        if inner.special.is_empty() {
            return Ok(None);
        }
        self.sight(inner)?;
        let mut edit = tenant::Edit::new(inner.sighted()?.space.everything());
        for change in &inner.special {
            match change {
                special::Change::CreateTenant(name) => edit.create(name)?,
                special::Change::DeleteTenants(begin, end) if is_key_after(end, begin) => {
                    edit.delete(begin)?;
                }
                special::Change::DeleteTenants(begin, end) => edit.delete_range(begin, end)?,
                special::Change::RenameTenant(from, to) => edit.rename(from, to)?,
            }
        }
        Ok(Some(edit.finish()))
    }

    /// Arms the watches of a transaction that wrote nothing.
    fn arm_watches(&self, inner: &mut Inner) -> Result<()> {
        if !inner.watches.is_empty() {
            let tenant = inner.sighted()?.tenant;
            let prefix = tenant.map_or_else(|| [][..].into(), tenant::prefix);
            self.arm_watches_below(inner, &prefix);
        }
        Ok(())
    }

    fn arm_watches_below(&self, inner: &mut Inner, prefix: &Key) {
        let database = &self.handle.database;
        for watch in inner.watches.drain(..) {
            let key: Key = match &watch.key[..] {
                METADATA_VERSION => watch.key,
                _ if prefix.is_empty() => watch.key,
                key => [prefix, key].concat().into(),
            };
            let current = || database.newest(&key);
            database
                .watches
                .arm(&key, watch.value, &watch.future, &watch.owner, current);
        }
    }

    pub(crate) fn committed_version(&self) -> Version {
        self.with(|inner| inner.committed_version)
    }

    pub(crate) fn get_versionstamp(self: &Arc<Self>) -> Arc<Future> {
        self.with(|inner| {
            if let Err(error) = inner
                .check_deferred()
                .and_then(|()| inner.check_not_committing())
            {
                return Future::ready(Err(error));
            }
            if let Some(error) = inner.cancelled {
                return Future::ready(Err(error));
            }
            let future = Future::pending();
            inner.stamp_futures.push(future.clone());
            self.set_timer(inner);
            future
        })
    }

    pub(crate) fn get_approximate_size(&self) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            inner.check_deferred()?;
            Ok(Output::Int64(
                i64::try_from(inner.approximate_size).unwrap_or(i64::MAX),
            ))
        }))
    }

    pub(crate) fn get_tag_throttled_duration(&self) -> Arc<Future> {
        Future::ready(self.with(|inner| inner.check_deferred().map(|()| Output::Double(0.0))))
    }

    /// Tag throttling counts pages of 4 KB; without it, the cost is what was written so far.
    pub(crate) fn get_total_cost(&self) -> Arc<Future> {
        self.get_approximate_size()
    }

    // ---- the life of a transaction

    /// `fdb_transaction_on_error`: waits and starts again, or gives the error back.
    pub(crate) fn on_error(self: &Arc<Self>, error: Error) -> Arc<Future> {
        self.with(|inner| {
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
                inner.cancel_with(Error::TRANSACTION_CANCELLED);
                let error = if error.0 == 0 {
                    Error::CLIENT_INVALID_OPERATION
                } else {
                    error
                };
                return Future::ready(Err(error));
            };
            inner.forget_for_retry();
            let future = Future::pending();
            self.keep_pending(inner, &future);
            let (transaction, waiting) = (self.clone(), future.clone());
            let generation = inner.generation;
            network::after(
                backoff,
                Box::new(move || {
                    transaction.with(|inner| {
                        if inner.generation == generation && !waiting.is_ready() {
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

    /// What is the same for a retry and a reset: everything but retries, age and back-off.
    fn restart(&self, inner: &mut Inner) {
        inner.end_pending(Error::TRANSACTION_CANCELLED);
        inner.generation += 1;
        inner.writes = WriteMap::default();
        inner.read_conflicts = RangeSet::default();
        inner.approximate_size = 0;
        inner.has_read = false;
        inner.failed_read = None;
        inner.deferred = None;
        inner.cancelled = None;
        inner.commit_started = false;
        inner.special.clear();
        inner.error_message = None;
        self.apply_persistent(inner);
    }

    fn apply_persistent(&self, inner: &mut Inner) {
        let enabled = read(&self.handle.defaults).snapshot_read_your_writes;
        inner.options = TransactionOptions::new(enabled);
        for (code, value) in inner.persistent.clone() {
            if let Err(error) = self.apply_option(inner, code, value.as_deref()) {
                inner.deferred.get_or_insert(error);
            }
        }
    }

    fn apply_defaults(&self, inner: &mut Inner) {
        inner.persistent = read(&self.handle.defaults).options.clone();
        self.apply_persistent(inner);
    }

    pub(crate) fn reset(&self) {
        self.with(|inner| {
            inner.fail_watches(Error::TRANSACTION_CANCELLED);
            inner.forget_for_retry();
            inner.committed_version = -1;
            inner.retries = 0;
            inner.backoff = FIRST_BACKOFF;
            inner.created = Instant::now();
            inner.persistent.clear();
            self.restart(inner);
            self.apply_defaults(inner);
        });
    }

    pub(crate) fn cancel(&self) {
        self.with(|inner| inner.cancel_with(Error::TRANSACTION_CANCELLED));
    }

    /// The client destroyed its handle: whatever is pending ends.
    pub(crate) fn destroyed(&self) {
        self.with(|inner| {
            inner.fail_watches(Error::TRANSACTION_CANCELLED);
            inner.set_stamp(Stamp::Never(Error::TRANSACTION_CANCELLED));
            inner.cancel_with(Error::TRANSACTION_CANCELLED);
        });
    }

    // ---- options

    /// `fdb_transaction_set_option`: only an unknown code is an error at once.
    pub(crate) fn set_option(self: &Arc<Self>, code: i32, value: Option<&[u8]>) -> Result<()> {
        if !option::exists(code) {
            return Err(Error::INVALID_OPTION);
        }
        self.with(|inner| match self.apply_option(inner, code, value) {
            Ok(()) => {
                if option::is_persistent(code) {
                    inner.persistent.push((code, value.map(<[u8]>::to_vec)));
                }
                if code == option::TIMEOUT && !inner.pending.is_empty() {
                    self.set_timer(inner);
                }
            }
            Err(error) => {
                inner.deferred.get_or_insert(error);
            }
        });
        Ok(())
    }

    fn apply_option(&self, inner: &mut Inner, code: i32, value: Option<&[u8]>) -> Result<()> {
        const MAX: i64 = i32::MAX as i64;
        let cluster_wide = matches!(
            code,
            option::ACCESS_SYSTEM_KEYS
                | option::READ_SYSTEM_KEYS
                | option::RAW_ACCESS
                | option::USE_PROVISIONAL_PROXIES
        );
        if cluster_wide && self.tenant.is_some() {
            return Err(Error::INVALID_OPTION);
        }
        let fresh = !inner.has_read && inner.writes.is_empty();
        let options = &mut inner.options;
        let flag = |field: &mut bool| options::no_value(value).map(|()| *field = true);
        match code {
            option::CAUSAL_WRITE_RISKY => flag(&mut options.causal_write_risky),
            option::NEXT_WRITE_NO_WRITE_CONFLICT_RANGE => flag(&mut options.next_write_no_conflict),
            option::READ_YOUR_WRITES_DISABLE => {
                options::no_value(value)?;
                if !fresh {
                    return Err(Error::CLIENT_INVALID_OPERATION);
                }
                options.read_your_writes_disabled = true;
                Ok(())
            }
            option::INITIALIZE_NEW_DATABASE => {
                options::no_value(value)?;
                if inner.sighted.is_some() || inner.requested_version.is_some() {
                    return Err(Error::READ_VERSION_ALREADY_SET);
                }
                options.causal_write_risky = true;
                Ok(())
            }
            option::ACCESS_SYSTEM_KEYS => {
                options::no_value(value)?;
                options.read_system_keys = true;
                options.write_system_keys = true;
                options.raw_access = true;
                Ok(())
            }
            option::READ_SYSTEM_KEYS => {
                options::no_value(value)?;
                options.read_system_keys = true;
                options.raw_access = true;
                Ok(())
            }
            option::RAW_ACCESS => flag(&mut options.raw_access),
            option::TRANSACTION_LOGGING_ENABLE | option::DEBUG_TRANSACTION_IDENTIFIER => {
                options.identify(options::some_value(value)?)
            }
            option::LOG_TRANSACTION => {
                options::no_value(value)?;
                let identified = options.identifier.is_some();
                identified
                    .then_some(())
                    .ok_or(Error::CLIENT_INVALID_OPERATION)
            }
            option::TRANSACTION_LOGGING_MAX_FIELD_LENGTH => {
                let length = options::integer(value, -1, MAX)?;
                (length != 0)
                    .then_some(())
                    .ok_or(Error::INVALID_OPTION_VALUE)
            }
            option::TIMEOUT => {
                options.timeout_ms = options::integer(value, 0, MAX)?;
                Ok(())
            }
            option::RETRY_LIMIT => {
                options.retry_limit = options::integer(value, -1, MAX)?;
                Ok(())
            }
            option::MAX_RETRY_DELAY => {
                options.max_retry_delay_ms = options::integer(value, 0, MAX)?;
                Ok(())
            }
            option::SIZE_LIMIT => {
                let limit = options::integer(value, 32, options::TRANSACTION_SIZE_LIMIT)?;
                options.size_limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(())
            }
            option::IDEMPOTENCY_ID => {
                let id = options::some_value(value)?;
                (16..256)
                    .contains(&id.len())
                    .then_some(())
                    .ok_or(Error::INVALID_OPTION)
            }
            option::SNAPSHOT_RYW_ENABLE | option::SNAPSHOT_RYW_DISABLE => {
                options::no_value(value)?;
                options.snapshot_read_your_writes += if code == option::SNAPSHOT_RYW_ENABLE {
                    1
                } else {
                    -1
                };
                Ok(())
            }
            option::LOCK_AWARE => {
                options::no_value(value)?;
                options.lock_aware = true;
                options.read_only = false;
                Ok(())
            }
            option::READ_LOCK_AWARE => {
                options::no_value(value)?;
                if !options.lock_aware {
                    options.lock_aware = true;
                    options.read_only = true;
                }
                Ok(())
            }
            option::USED_DURING_COMMIT_PROTECTION_DISABLE => {
                flag(&mut options.used_during_commit_allowed)
            }
            option::REPORT_CONFLICTING_KEYS => flag(&mut options.report_conflicting_keys),
            option::SPECIAL_KEY_SPACE_RELAXED => flag(&mut options.special_keys_relaxed),
            option::SPECIAL_KEY_SPACE_ENABLE_WRITES => flag(&mut options.special_keys_writable),
            option::TAG | option::AUTO_THROTTLE_TAG => {
                let tag = options::some_value(value)?;
                if options.tags >= 5 {
                    return Err(Error::TOO_MANY_TAGS);
                }
                if tag.len() > 255 {
                    return Err(Error::TAG_TOO_LONG);
                }
                options.tags += 1;
                Ok(())
            }
            option::SPAN_PARENT => {
                let length = options::some_value(value)?.len();
                (length == 33)
                    .then_some(())
                    .ok_or(Error::INVALID_OPTION_VALUE)
            }
            option::BYPASS_UNREADABLE => flag(&mut options.bypass_unreadable),
            option::AUTOMATIC_IDEMPOTENCY | option::USE_PROVISIONAL_PROXIES => {
                options::no_value(value)
            }
            code if option::FLAGS_FOR_A_CLUSTER.contains(&code) => options::no_value(value),
            _ => Ok(()),
        }
    }

    // ---- what only a cluster has more to say about

    pub(crate) fn get_addresses_for_key(self: &Arc<Self>) -> Arc<Future> {
        self.read(|_, _| {
            let address = std::ffi::CString::new("127.0.0.1:4500");
            let addresses = vec![address.map_err(|_| Error::INTERNAL_ERROR)?];
            Ok(Output::Strings(StringArray::new(addresses)))
        })
    }

    pub(crate) fn get_estimated_range_size_bytes(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
    ) -> Arc<Future> {
        self.read(move |_, inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            inner.check_fresh()?;
            let space = &inner.sighted()?.space;
            let size: usize = bytes_in(space, &begin, &end).map(|(_, size)| size).sum();
            Ok(Output::Int64(i64::try_from(size).unwrap_or(i64::MAX)))
        })
    }

    /// Keys that divide a range into parts of about `chunk` bytes, its ends included.
    pub(crate) fn get_range_split_points(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
        chunk: i64,
    ) -> Arc<Future> {
        self.read(move |_, inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            let max_key = inner.max_read_key();
            if begin[..] > *max_key || end[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let chunk = usize::try_from(chunk).ok().filter(|&chunk| chunk > 0);
            let chunk = chunk.ok_or(Error::CLIENT_INVALID_OPERATION)?;
            inner.check_fresh()?;
            let space = &inner.sighted()?.space;
            let mut points = vec![begin.clone()];
            let mut size = 0;
            for (key, bytes) in bytes_in(space, &begin, &end) {
                if size >= chunk {
                    points.push(key.clone());
                    size = 0;
                }
                size += bytes;
            }
            points.push(end);
            Ok(Output::Keys(KeyArray::new(points)))
        })
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

/// Keys in a range with the bytes of key and value.
fn bytes_in<'a>(
    space: &'a Space,
    begin: &Key,
    end: &Key,
) -> impl Iterator<Item = (Key, usize)> + use<'a> {
    space.range(begin, end).map(|(key, value)| {
        let size = key.len() + value.len();
        (key, size)
    })
}

/// The bytes that count against a transaction's size limit.
fn commit_size(request: &CommitRequest) -> usize {
    let range = |(begin, end): &KeyRange| RANGE_RECORD + begin.len() + end.len();
    request.mutations.iter().map(Mutation::size).sum::<usize>()
        + request.reads.iter().map(range).sum::<usize>()
        + request.writes.iter().map(range).sum::<usize>()
}

/// The keys that a versionstamped key, filled with its lowest stamp, may become.
fn stamp_range(key: &[u8]) -> Result<KeyRange> {
    let (position, body) = versionstamp_position(key)?;
    let mut end = key_after(&key[..body]).to_vec();
    end[position..position + 10].fill(0xff);
    Ok((key[..body].into(), end.into()))
}

/// The keys whose change could change where a selector lands.
fn key_conflict(selector: &KeySelector, key: &Key) -> KeyRange {
    let from = if selector.or_equal {
        key_after(&selector.key)
    } else {
        selector.key.clone()
    };
    if selector.offset <= 0 {
        (key.clone(), from)
    } else {
        (from, key_after(key))
    }
}

/// The keys whose change could change the rows of a range read. The selectors have no `or_equal`.
fn range_conflict(
    begin: &KeySelector,
    end: &KeySelector,
    rows: &Rows,
    reverse: bool,
    max_key: &[u8],
) -> KeyRange {
    let (mut from, mut to) = if begin.key < end.key {
        // What a limit cut off at the far end cannot change the rows: only what was returned
        // counts, which is added below.
        if !reverse && end.offset > 0 && rows.more {
            (begin.key.clone(), begin.key.clone())
        } else if reverse && begin.offset <= 1 && rows.more {
            (end.key.clone(), end.key.clone())
        } else {
            (begin.key.clone(), end.key.clone())
        }
    } else {
        (end.key.clone(), begin.key.clone())
    };
    if rows.read_to_begin && begin.offset <= 0 {
        from = [][..].into();
    }
    if rows.read_through_end && end.offset > 0 {
        to = max_key.into();
    }
    if let (Some((first, _)), Some((last, _))) = (rows.rows.first(), rows.rows.last()) {
        let (lowest, highest) = if reverse {
            (last, first)
        } else {
            (first, last)
        };
        if reverse || begin.offset <= 0 {
            from = from.min(lowest.clone());
        }
        if (!reverse || end.offset > 0) && to <= *highest {
            to = key_after(highest);
        }
    }
    (from, to)
}

/// Whose writes a read sees.
enum Sight {
    /// Read-your-writes is off.
    Plain,
    /// A snapshot read that does not see the transaction's writes.
    Snapshot,
    OwnWrites,
}

impl Inner {
    fn sees(&self, snapshot: bool) -> Sight {
        if self.options.read_your_writes_disabled {
            Sight::Plain
        } else if snapshot && self.options.snapshot_read_your_writes <= 0 {
            Sight::Snapshot
        } else {
            Sight::OwnWrites
        }
    }

    fn sighted(&self) -> Result<&Sighted> {
        self.sighted.as_ref().ok_or(Error::INTERNAL_ERROR)
    }

    fn view<'a>(&'a self, writes: &'a WriteMap) -> Result<View<'a>> {
        Ok(View {
            space: &self.sighted()?.space,
            writes,
            max_key: self.max_read_key(),
            bypass_unreadable: self.options.bypass_unreadable,
        })
    }

    /// The rows between two selectors, and their conflict range.
    fn range(
        &mut self,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Result<Rows> {
        let max_key = self.max_read_key();
        if begin.key[..] > *max_key || end.key[..] > *max_key {
            return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
        }
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        if limits.reached() || (begin.offset >= end.offset && begin.key >= end.key) {
            return Ok(Rows::default());
        }
        let sight = self.sees(snapshot);
        let (from, to) = (begin.clone(), end.clone());
        let rows = match sight {
            Sight::Plain => return self.plain_range(begin, end, limits, snapshot, reverse),
            Sight::Snapshot => self
                .view(&WriteMap::default())?
                .range(from, to, limits, reverse)?,
            Sight::OwnWrites => self.view(&self.writes)?.range(from, to, limits, reverse)?,
        };
        let (from, to) = range_conflict(&begin, &end, &rows, reverse, max_key);
        self.check_known(&from, &to)?;
        if !snapshot {
            self.add_read_conflict(from, to);
        }
        Ok(rows)
    }

    /// Fails where a read needs the database, whose version at hand is too old.
    fn check_fresh(&self) -> Result<()> {
        if self.stale {
            Err(Error::TRANSACTION_TOO_OLD)
        } else {
            Ok(())
        }
    }

    /// Fails where a read of the range needs more than what was read while the version was good.
    fn check_known(&self, begin: &[u8], end: &[u8]) -> Result<()> {
        let known =
            |key: &[u8], next: &[u8]| self.read_conflicts.covers(begin.max(key), end.min(next));
        let mut segments = self.writes.segments(begin, end);
        if self.stale && segments.any(|(key, s, next)| s.reads_database() && !known(key, next)) {
            return Err(Error::TRANSACTION_TOO_OLD);
        }
        Ok(())
    }

    /// The read conflict ranges so far, or of the last commit.
    fn all_read_conflicts(&self) -> RangeSet {
        let mut all = RangeSet::default();
        let committed = self
            .committed_conflicts
            .0
            .iter()
            .chain(&self.plain_reads)
            .cloned();
        for (begin, end) in committed.chain(self.read_conflicts.ranges()) {
            all.insert(begin, end);
        }
        all
    }

    /// The write conflict ranges so far, or of the last commit.
    fn all_write_conflicts(&self) -> RangeSet {
        let mut all = RangeSet::default();
        let written = self.writes.collect(&[], ALL_END).1;
        let committed = self
            .committed_conflicts
            .1
            .iter()
            .chain(&self.plain_writes)
            .cloned();
        for (begin, end) in committed.chain(written).chain(self.stamped_keys()) {
            all.insert(begin, end);
        }
        all
    }

    /// Where versionstamped keys may come to lie, or have come to lie.
    fn stamped_keys(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.versionstamped_keys
            .iter()
            .filter_map(|key| match self.stamp {
                Stamp::Known(stamp) => Some(single_key(&place_versionstamp(key, &stamp))),
                _ => stamp_range(key).ok(),
            })
    }

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

    // ---- checks

    /// All that must be well before a read, a watch or a commit.
    fn check_usable(&mut self) -> Result<()> {
        self.check_deferred()?;
        self.check_not_committing()?;
        self.check_timeout();
        self.check_cancelled()
    }

    fn check_deferred(&self) -> Result<()> {
        self.deferred.map_or(Ok(()), Err)
    }

    fn check_cancelled(&self) -> Result<()> {
        self.cancelled.map_or(Ok(()), Err)
    }

    /// Using a transaction while or after it commits is an error, and ends the transaction.
    fn check_not_committing(&mut self) -> Result<()> {
        if !self.commit_started {
            return Ok(());
        }
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

    // ---- ends

    /// Ends the transaction until its next reset, unless it has ended already.
    fn cancel_with(&mut self, error: Error) {
        if self.cancelled.is_none() {
            self.cancelled = Some(error);
            let (fresh, waiting) = std::mem::take(&mut self.watches)
                .into_iter()
                .partition(|watch| watch.fresh);
            self.watches = waiting;
            let fresh: Vec<PendingWatch> = fresh;
            self.outbox
                .extend(fresh.into_iter().map(|watch| (watch.future, Err(error))));
            self.end_pending(error);
        }
    }

    fn end_pending(&mut self, error: Error) {
        let ended = self.pending.drain(..).chain(self.stamp_futures.drain(..));
        self.outbox.extend(ended.map(|future| (future, Err(error))));
    }

    fn fail_watches(&mut self, error: Error) {
        self.outbox.extend(
            self.watches
                .drain(..)
                .map(|watch| (watch.future, Err(error))),
        );
    }

    fn settle_watches(&mut self) {
        for watch in &mut self.watches {
            watch.fresh = false;
        }
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

    /// Forgets what the committer knew of this try.
    fn forget_for_retry(&mut self) {
        let (fresh, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.watches)
            .into_iter()
            .partition(|watch| watch.fresh);
        self.watches = fresh;
        let cancelled = old.into_iter().map(|watch| watch.future);
        self.outbox
            .extend(cancelled.map(|future| (future, Err(Error::TRANSACTION_CANCELLED))));
        self.sighted = None;
        self.requested_version = None;
        self.stale = false;
        self.conflicts = RangeSet::default();
        self.committed_conflicts = Default::default();
        self.mutations.clear();
        self.plain_reads.clear();
        self.plain_writes.clear();
        self.versionstamped_keys.clear();
        self.committed_version = -1;
        self.set_stamp(Stamp::Never(Error::TRANSACTION_CANCELLED));
        self.stamp = Stamp::Unknown;
    }

    /// How long to wait before a retry; `None` where a retry is no use.
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

    // ---- conflict ranges and writes

    /// Adds a read conflict range, without the parts where only own writes were read.
    fn add_read_conflict(&mut self, begin: Key, end: Key) {
        if begin >= end {
            return;
        }
        for (key, segment, next) in self.writes.segments(&begin, &end) {
            if segment.reads_database() {
                let from = begin.clone().max(key.clone());
                let to: Key = next.min(&end[..]).into();
                self.approximate_size += begin.len() + end.len() + RANGE_RECORD;
                self.read_conflicts.insert(from, to);
            }
        }
    }

    /// Adds a read conflict range that must not contain own writes.
    fn add_unwritten_conflict(&mut self, begin: Key, end: Key) -> Result<()> {
        let mut segments = self.writes.segments(&begin, &end);
        if begin < end && segments.any(|(_, segment, _)| !segment.is_unmodified()) {
            return Err(Error::GET_MAPPED_RANGE_READS_YOUR_WRITES);
        }
        drop(segments);
        self.add_read_conflict(begin, end);
        Ok(())
    }

    fn count_write(&mut self, bytes: usize, conflict_bytes: usize, conflict: bool) {
        self.approximate_size += bytes + MUTATION_RECORD;
        if conflict {
            self.approximate_size += conflict_bytes + RANGE_RECORD;
        }
    }

    fn plain_write(&mut self, op: Op, key: Key, operand: Value, conflict: bool) {
        if conflict {
            self.plain_writes.push((key.clone(), key_after(&key)));
        }
        self.mutations.push(Mutation::Single { op, key, operand });
    }

    fn plain_clear(&mut self, begin: Key, end: Key, conflict: bool) {
        if conflict {
            self.plain_writes.push((begin.clone(), end.clone()));
        }
        self.mutations.push(Mutation::ClearRange { begin, end });
    }

    /// Moves what was written in a range out of the write map, before the range is made unreadable.
    fn flush(&mut self, begin: &Key, end: &Key) {
        let (mutations, writes) = self.writes.collect(begin, end);
        self.mutations.extend(mutations);
        self.plain_writes.extend(writes);
    }

    /// Tells the watches of this transaction that it wrote to their keys itself. `value` is the new
    /// value where it is known.
    fn own_write(&mut self, begin: &Key, end: &Key, value: Option<Option<Value>>) {
        let outbox = &mut self.outbox;
        self.watches.retain(|watch| {
            let written = watch.key >= *begin && watch.key < *end;
            let changed = written && value.as_ref().is_none_or(|value| *value != watch.value);
            if changed {
                outbox.push((watch.future.clone(), Ok(Output::Unit)));
            }
            !changed
        });
    }

    /// A range read with read-your-writes off.
    fn plain_range(
        &mut self,
        begin: KeySelector,
        mut end: KeySelector,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Result<Rows> {
        self.check_fresh()?;
        let max_key = self.max_read_key();
        let space = &self.sighted()?.space;
        let mut conflicts = Vec::new();
        if reverse && end.offset > 1 {
            let key = resolve_in_database(space, &end).key;
            conflicts.push(key_conflict(&end, &key));
            end = KeySelector::first_greater_or_equal(key.min(max_key.into()));
        }
        let mut rows = Rows::default();
        if begin.offset < end.offset || begin.key < end.key {
            rows = range_in_database(space, &begin, &end, limits, reverse);
            conflicts.push(plain_range_conflict(&begin, &end, &rows, reverse));
        }
        if !snapshot {
            self.plain_reads
                .extend(conflicts.into_iter().filter(|(begin, end)| begin < end));
        }
        if !reverse && rows.rows.last().is_some_and(|(key, _)| key[..] >= *max_key) {
            let keep = rows.rows.partition_point(|(key, _)| key[..] < *max_key);
            rows.rows.truncate(keep);
            rows.more = false;
        }
        Ok(rows)
    }
}

/// As [`range_conflict`], for a read of the database alone.
fn plain_range_conflict(
    begin: &KeySelector,
    end: &KeySelector,
    rows: &Rows,
    reverse: bool,
) -> KeyRange {
    let lowest_and_highest = match (rows.rows.first(), rows.rows.last()) {
        (Some((first, _)), Some((last, _))) if reverse => Some((last, first)),
        (Some((first, _)), Some((last, _))) => Some((first, last)),
        _ => None,
    };
    let whole_begin = (!reverse || !rows.more || begin.offset > 1) && begin.offset > 0;
    let mut from = match lowest_and_highest {
        _ if rows.read_to_begin => [][..].into(),
        Some((lowest, _)) if !whole_begin => lowest.clone(),
        _ => begin.key.clone(),
    };
    if end.offset > begin.offset && end.key < from {
        from = end.key.clone();
    }
    let whole_end = (reverse || !rows.more || end.offset <= 0) && end.offset <= 1;
    let mut to = match lowest_and_highest {
        _ if rows.read_through_end => ALL_END.into(),
        Some((_, highest)) if !whole_end => key_after(highest),
        _ => end.key.clone(),
    };
    if begin.offset < end.offset && begin.key > to {
        to = begin.key.clone();
    }
    (from, to)
}

impl TransactionOptions {
    fn identify(&mut self, name: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > 100 {
            return Err(Error::INVALID_OPTION_VALUE);
        }
        match &self.identifier {
            Some(before) if before[..] != *name => Err(Error::CLIENT_INVALID_OPERATION),
            _ => {
                self.identifier = Some(name.to_vec());
                Ok(())
            }
        }
    }
}
