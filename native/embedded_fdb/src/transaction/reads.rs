//! Reads: what a transaction sees, and the conflict ranges that follow from it.

use super::conflicts::{key_conflict, plain_range_conflict, range_conflict};
use super::*;

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
    pub(super) fn read(
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
            let fault = self.handle.database.faults.read();
            if let Some(error) = fault.error {
                let result = self.run_read(inner, |_, _| Err(error));
                return self.answer_after(inner, fault.delay, result);
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

    pub(super) fn read_later(
        self: &Arc<Self>,
        inner: &mut Inner,
        versions: Version,
        f: impl FnOnce(&Self, &mut Inner) -> Result<Output> + Send + 'static,
    ) -> Arc<Future> {
        let delay = Duration::from_micros(versions.unsigned_abs());
        self.read_after(inner, delay, |transaction, inner| {
            transaction.run_read(inner, f)
        })
    }

    /// A read that is under way for a time; a commit waits for it.
    fn read_after(
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
                    if !waiting.is_ready() {
                        let result = f(&transaction, inner);
                        inner.outbox.push((waiting, result));
                    }
                    inner.reads_under_way -= 1;
                    transaction.commit_after_reads(inner);
                });
            }),
        );
        future
    }

    pub(crate) fn get_read_version(self: &Arc<Self>) -> Arc<Future> {
        self.with(|inner| {
            if let Err(error) = inner.check_deferred() {
                return Future::ready(Err(error));
            }
            inner.check_timeout();
            if let Err(error) = inner.check_cancelled() {
                return Future::ready(Err(error));
            }
            inner.settle_watches();
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

    pub(super) fn value(
        &self,
        inner: &mut Inner,
        key: &Key,
        snapshot: bool,
    ) -> Result<Option<Value>> {
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
}

impl Inner {
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

    pub(super) fn view<'a>(&'a self, writes: &'a WriteMap) -> Result<View<'a>> {
        Ok(View {
            space: &self.sighted()?.space,
            writes,
            max_key: self.max_read_key(),
            bypass_unreadable: self.options.bypass_unreadable,
        })
    }

    /// The rows between two selectors, and their conflict range.
    pub(super) fn range(
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
    pub(super) fn check_fresh(&self) -> Result<()> {
        if self.stale {
            Err(Error::TRANSACTION_TOO_OLD)
        } else {
            Ok(())
        }
    }

    /// Fails where a read of the range needs more than what was read while the version was good.
    pub(super) fn check_known(&self, begin: &[u8], end: &[u8]) -> Result<()> {
        let known =
            |key: &[u8], next: &[u8]| self.read_conflicts.covers(begin.max(key), end.min(next));
        let mut segments = self.writes.segments(begin, end);
        if self.stale && segments.any(|(key, s, next)| s.reads_database() && !known(key, next)) {
            return Err(Error::TRANSACTION_TOO_OLD);
        }
        Ok(())
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

    /// Adds a read conflict range that must not contain own writes.
    pub(super) fn add_unwritten_conflict(&mut self, begin: Key, end: Key) -> Result<()> {
        let mut segments = self.writes.segments(&begin, &end);
        if begin < end && segments.any(|(_, segment, _)| !segment.is_unmodified()) {
            return Err(Error::GET_MAPPED_RANGE_READS_YOUR_WRITES);
        }
        drop(segments);
        self.add_read_conflict(begin, end);
        Ok(())
    }

    /// A range read with read-your-writes off.
    pub(super) fn plain_range(
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
