//! Reads: what a transaction sees, and the conflict ranges that follow from it.

use super::conflicts::{key_conflict, plain_range_conflict, range_conflict};
use super::*;
use std::sync::LazyLock;

use crate::range_read::{get_range, resolve};
use crate::view::{Answer, Stop};

/// Whose writes a read sees.
#[derive(Clone, Copy)]
pub(super) enum Sight {
    /// Read-your-writes is off.
    Plain,
    /// A snapshot read that does not see the transaction's writes.
    Snapshot,
    OwnWrites,
}

impl Transaction {
    /// Runs a read: at once, or once its read version has come.
    ///
    /// `check` may refuse the read, or answer it: that is as if there had been none. `f` is first asked
    /// without the database, which what was written or read before may make unnecessary.
    pub(super) fn read(
        self: &Arc<Self>,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
        mut f: impl FnMut(&Self, &mut Inner) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        self.with(|inner| {
            if let Some(answer) = self.answered(inner, check) {
                return answer;
            }
            inner.has_read = true;
            let reads = &self.handle.database.counters.reads;
            reads.fetch_add(1, Ordering::Relaxed);
            let fault = self.handle.database.faults.read();
            if let Some(error) = fault.error {
                let result = self.run_read(inner, |_, _| Err(error.into()));
                return self.answer_after(inner, fault.delay, result);
            }
            if inner.sighted.is_none() {
                match f(self, inner) {
                    Err(Stop::NeedsDatabase) => {}
                    answer => {
                        let result = inner.end_read(answer);
                        return self.answer_after(inner, fault.delay, result);
                    }
                }
            }
            if let (None, Some(version)) = (&inner.sighted, inner.requested_version) {
                let wait = self.handle.database.versions_until(version);
                if wait > 0 {
                    return self.read_later(inner, wait.min(FUTURE_VERSION_PATIENCE), f);
                }
            }
            let result = self.run_read(inner, f);
            self.answer_after(inner, fault.delay, result)
        })
    }

    /// The answer where nothing is to be read for it.
    fn answered(
        &self,
        inner: &mut Inner,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
    ) -> Option<Arc<Future>> {
        if let Err(error) = self.check_usable(inner) {
            return Some(Future::ready(Err(error)));
        }
        self.settle_watches(inner);
        check(inner).transpose().map(Future::ready)
    }

    /// Runs what reads beside the transaction's reads: no commit waits for it, and it makes nothing
    /// known. `check` is as in [`Transaction::read`].
    pub(super) fn aside(
        self: &Arc<Self>,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
        f: impl FnOnce(&Self, &mut Inner) -> Result<Output> + Send + 'static,
    ) -> Arc<Future> {
        self.with(|inner| {
            if let Some(answer) = self.answered(inner, check) {
                return answer;
            }
            let fault = self.handle.database.faults.read();
            if let Some(error) = fault.error {
                return self.answer_after(inner, fault.delay, Err(error));
            }
            let read = move |transaction: &Self, inner: &mut Inner| {
                transaction.sight(inner)?;
                f(transaction, inner)
            };
            if let (None, Some(version)) = (&inner.sighted, inner.requested_version) {
                let wait = self.handle.database.versions_until(version);
                if wait > 0 {
                    let delay = Duration::from_micros(wait.unsigned_abs());
                    return self.read_after(inner, delay, read);
                }
            }
            let result = read(self, inner);
            self.answer_after(inner, fault.delay, result)
        })
    }

    /// A future with the answer of a read, which waits on purpose where there is a delay, or was one
    /// of the read version.
    fn answer_after(
        self: &Arc<Self>,
        inner: &mut Inner,
        delay: Option<Duration>,
        result: Result<Output>,
    ) -> Arc<Future> {
        let delay = delay.into_iter().chain(inner.version_fault.delay.take());
        let Some(delay) = delay.reduce(|read, version| read + version) else {
            return Future::ready(result);
        };
        self.read_after(inner, delay, |_, _| result)
    }

    pub(super) fn run_read(
        &self,
        inner: &mut Inner,
        mut f: impl FnMut(&Self, &mut Inner) -> Answer<Output>,
    ) -> Result<Output> {
        let answer = match self.sight(inner) {
            Ok(()) => f(self, inner),
            Err(error) => Err(error.into()),
        };
        inner.end_read(answer)
    }

    pub(super) fn read_later(
        self: &Arc<Self>,
        inner: &mut Inner,
        versions: Version,
        f: impl FnMut(&Self, &mut Inner) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        let delay = Duration::from_micros(versions.unsigned_abs());
        self.read_after(inner, delay, |transaction, inner| {
            transaction.run_read(inner, f)
        })
    }

    /// A read that is under way for a time; a commit waits for it.
    pub(super) fn read_after(
        self: &Arc<Self>,
        inner: &mut Inner,
        delay: Duration,
        f: impl FnOnce(&Self, &mut Inner) -> Result<Output> + Send + 'static,
    ) -> Arc<Future> {
        let future = Future::pending();
        self.keep_pending(inner, &future);
        inner.reads_under_way += 1;
        let generation = inner.generation;
        let (transaction, waiting) = (Arc::downgrade(self), future.clone());
        network::after(
            delay,
            Box::new(move || {
                let Some(transaction) = transaction.upgrade() else {
                    return;
                };
                transaction.with(|inner| {
                    if inner.generation != generation {
                        return;
                    }
                    // A read that the client gave up goes on: a commit may be waiting for it.
                    let result = f(&transaction, inner);
                    inner.outbox.push((waiting, result));
                    inner.reads_under_way -= 1;
                    transaction.commit_after_reads(inner);
                });
            }),
        );
        future
    }

    pub(crate) fn get_read_version(self: &Arc<Self>) -> Arc<Future> {
        self.with(|inner| {
            if let Err(error) = self.check_deferred(inner) {
                return Future::ready(Err(error));
            }
            inner.check_timeout();
            if let Err(error) = inner.check_cancelled() {
                return Future::ready(Err(error));
            }
            self.settle_watches(inner);
            let version = self.read_version(inner).map(Output::Int64);
            self.answer_after(inner, None, version)
        })
    }

    pub(super) fn read_version(&self, inner: &mut Inner) -> Result<Version> {
        if let Some(version) = inner.requested_version {
            return Ok(version);
        }
        self.sight(inner)?;
        inner.sighted().map(|sighted| sighted.version)
    }

    pub(crate) fn set_read_version(&self, version: Version) {
        self.write(|inner| {
            let taken = inner.sighted.is_some() || inner.requested_version.is_some();
            if taken || inner.committing {
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
        if self.api_version >= SPECIAL_KEYS_SINCE && special::is_special(&key) {
            return self.get_special(key);
        }
        if self.api_version < SPECIAL_KEYS_SINCE {
            if let Some(value) = self.fixed_key(&key) {
                return Future::ready(self.with(|inner| {
                    self.check_deferred(inner)?;
                    Ok(Output::Value(Some(value.into_bytes().into())))
                }));
            }
        }
        let name = key.clone();
        let check = move |inner: &Inner| {
            if name[..] >= *inner.max_read_key() && name[..] != *METADATA_VERSION {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            // No key is so long.
            Ok((name.len() > max_key_size(&name)).then_some(Output::Value(None)))
        };
        self.read(check, move |_, inner| {
            if inner.sighted.is_none() && inner.writes.is_empty() {
                // Said at once, because most reads are such.
                return Err(Stop::NeedsDatabase);
            }
            inner.value(&key, snapshot).map(Output::Value)
        })
    }

    pub(crate) fn get_key(self: &Arc<Self>, selector: KeySelector, snapshot: bool) -> Arc<Future> {
        let name = selector.key.clone();
        let check = move |inner: &Inner| {
            if name[..] > *inner.max_read_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            Ok(None)
        };
        self.read(check, move |_, inner| {
            let max_key = inner.max_read_key();
            let sight = inner.sees(snapshot);
            let key = match sight {
                Sight::Plain => resolve(inner.plain_space()?, &selector).key,
                Sight::Snapshot => inner.view(true).get_key(&selector)?,
                Sight::OwnWrites => inner.view(false).get_key(&selector)?,
            };
            let (begin, end) = key_conflict(&selector, &key);
            match sight {
                _ if snapshot => {}
                Sight::Plain if begin < end => inner.plain_range_reads.push((begin, end)),
                Sight::Plain | Sight::Snapshot => {}
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
        if self.api_version >= SPECIAL_KEYS_SINCE && special::is_special_range(&begin, &end) {
            return self.get_special_range(begin, end, limits, reverse);
        }
        let nothing = || Output::KeyValues(KeyValues::new(Vec::new(), false));
        if self.api_version < SPECIAL_KEYS_SINCE && begin.key[..] == *special::WORKER_INTERFACES {
            return Future::ready(
                self.with(|inner| self.check_deferred(inner).map(|()| nothing())),
            );
        }
        let check = check_range(&begin, &end, limits, nothing);
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        self.read(check, move |_, inner| {
            let rows = inner.range(&begin, &end, limits, snapshot, reverse)?;
            Ok(Output::KeyValues(KeyValues::new(rows.rows, rows.more)))
        })
    }

    /// A range read of an index, with what each row leads to. Never sees own writes: it fails
    /// where it would have to. No commit waits for it, or fails with it.
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
        let is_special = self.api_version >= SPECIAL_KEYS_SINCE
            && special::is_special_range(&begin, &end)
            || begin.key[..] == *special::WORKER_INTERFACES;
        let check = check_range(&begin, &end, limits, || {
            Output::Mapped(MappedRows::new(Vec::new(), false))
        });
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        self.aside(
            move |inner| {
                if is_special {
                    return Err(Error::CLIENT_INVALID_OPERATION);
                }
                let answer = check(inner)?;
                let unsupported = snapshot || inner.options.read_your_writes_disabled;
                if answer.is_none() && unsupported {
                    return Err(Error::UNSUPPORTED_OPERATION);
                }
                Ok(answer)
            },
            move |_, inner| inner.mapped_range(&begin, &end, &mapper, limits, reverse),
        )
    }
}

/// What is checked of a range read before it begins. `nothing` makes the answer without rows.
fn check_range(
    begin: &KeySelector,
    end: &KeySelector,
    limits: Limits,
    nothing: impl FnOnce() -> Output,
) -> impl FnOnce(&Inner) -> Result<Option<Output>> {
    let keys = (begin.key.clone(), end.key.clone());
    let inverted = begin.offset >= end.offset
        && begin.clone().without_or_equal().key >= end.clone().without_or_equal().key;
    move |inner| {
        let max_key = inner.max_read_key();
        if keys.0[..] > *max_key || keys.1[..] > *max_key {
            return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
        }
        if limits.reached() {
            return Ok(Some(nothing()));
        }
        if !limits.valid {
            return Err(Error::RANGE_LIMITS_INVALID);
        }
        Ok(inverted.then(nothing))
    }
}

/// For reads that do not see what their transaction wrote.
static NO_WRITES: LazyLock<WriteMap> = LazyLock::new(WriteMap::default);

impl Inner {
    /// Notes how a read ended: a commit fails as the first read that failed.
    fn end_read(&mut self, answer: Answer<Output>) -> Result<Output> {
        let result = answer.map_err(|stop| match stop {
            Stop::Failed(error) => error,
            Stop::NeedsDatabase => Error::INTERNAL_ERROR,
        });
        if let Err(error) = result {
            self.failed_read.get_or_insert(error);
        }
        result
    }

    pub(super) fn sees(&self, snapshot: bool) -> Sight {
        if self.options.read_your_writes_disabled {
            Sight::Plain
        } else if snapshot && self.options.snapshot_read_your_writes <= 0 {
            Sight::Snapshot
        } else {
            Sight::OwnWrites
        }
    }

    pub(super) fn sighted(&self) -> Result<&Sighted> {
        self.sighted.as_ref().ok_or(Error::INTERNAL_ERROR)
    }

    /// The database for reads without read-your-writes, which all need it.
    pub(super) fn plain_space(&self) -> Answer<&Space> {
        let sighted = self.sighted.as_ref().ok_or(Stop::NeedsDatabase)?;
        self.failure().map_or(Ok(()), Err)?;
        Ok(&sighted.space)
    }

    /// Why the database cannot be read, although there is a read version.
    pub(super) fn failure(&self) -> Option<Error> {
        let stale = self.stale.then_some(Error::TRANSACTION_TOO_OLD);
        stale.or(self.sighted.as_ref()?.tenant.err())
    }

    fn view(&mut self, without_writes: bool) -> View<'_> {
        let failure = self.failure();
        View {
            max_key: self.max_read_key(),
            bypass_unreadable: self.options.bypass_unreadable,
            space: self.sighted.as_ref().map(|sighted| &sighted.space),
            failure,
            writes: if without_writes {
                &NO_WRITES
            } else {
                &self.writes
            },
            known: &mut self.known,
        }
    }

    /// The value of a key, and its conflict range.
    pub(super) fn value(&mut self, key: &Key, snapshot: bool) -> Answer<Option<Value>> {
        let next = key_after(key);
        let sight = self.sees(snapshot);
        let value = match sight {
            Sight::Plain => {
                let space = self.plain_space()?;
                let value = space.get_or_metadata_version(key).cloned();
                if !snapshot {
                    self.plain_reads.push((key.clone(), next));
                }
                return Ok(value);
            }
            Sight::Snapshot => self.view(true).get(key, &next)?,
            Sight::OwnWrites => self.view(false).get(key, &next)?,
        };
        if !snapshot && self.writes.segment(key).1.reads_database() {
            self.note_read(key);
        }
        Ok(value)
    }

    /// The value of a key with the transaction's writes. What the read depends on is noted later.
    pub(super) fn unnoted_value(&mut self, key: &Key, next: &Key) -> Answer<Option<Value>> {
        self.view(false).get(key, next)
    }

    /// Notes that what was read of a key came from the database.
    pub(super) fn note_read(&mut self, key: &Key) {
        self.approximate_size += 2 * key.len() + 1 + RANGE_RECORD;
        self.read_conflicts.insert(key.clone(), key_after(key));
    }

    /// The rows between two selectors, and their conflict range.
    fn range(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Answer<Rows> {
        let without_writes = match self.sees(snapshot) {
            Sight::Plain => return self.plain_range(begin, end, limits, snapshot, reverse),
            Sight::Snapshot => true,
            Sight::OwnWrites => false,
        };
        let max_key = self.max_read_key();
        let rows = self
            .view(without_writes)
            .range(begin, end, limits, reverse)?;
        if !snapshot {
            let (from, to) = range_conflict(begin, end, &rows, reverse, max_key);
            self.add_read_conflict(from, to);
        }
        Ok(rows)
    }

    /// Adds a read conflict range, without the parts where only own writes were read.
    pub(super) fn add_read_conflict(&mut self, begin: Key, end: Key) {
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

    /// A range read with read-your-writes off.
    fn plain_range(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Answer<Rows> {
        let max_key = self.max_read_key();
        let space = self.plain_space()?;
        let mut conflicts = Vec::new();
        let mut end = end.clone();
        if reverse && end.offset > 1 {
            let key = resolve(space, &end).key;
            conflicts.push(key_conflict(&end, &key));
            end = KeySelector::first_greater_or_equal(key.min(max_key.into()));
        }
        let mut rows = Rows::default();
        if begin.offset < end.offset || begin.key < end.key {
            rows = get_range(space, begin, &end, limits, reverse)?;
            conflicts.push(plain_range_conflict(begin, &end, &rows, reverse));
        }
        if !snapshot {
            let ranges = conflicts.into_iter().filter(|(begin, end)| begin < end);
            self.plain_range_reads.extend(ranges);
        }
        if !reverse && rows.rows.last().is_some_and(|(key, _)| key[..] >= *max_key) {
            let keep = rows.rows.partition_point(|(key, _)| key[..] < *max_key);
            rows.rows.truncate(keep);
            rows.more = false;
        }
        Ok(rows)
    }
}
