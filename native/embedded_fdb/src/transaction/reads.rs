//! Reads: their view of the data, and the resulting conflict ranges.

use super::conflicts::{key_conflict, plain_range_conflict};
use super::flight::Read;
use super::*;
use crate::faults::Outage;
use crate::range_read::{get_range, resolve};
use crate::view::{Answer, Stop};

/// Which writes a read sees.
#[derive(Clone, Copy)]
pub(super) enum Sight {
    /// Read-your-writes is off.
    Plain,
    /// A snapshot read that does not see the transaction's writes.
    Snapshot,
    OwnWrites,
}

/// The reason why a read cannot continue yet.
pub(super) enum Wait {
    /// A time: until the version that the client set is reached, or because of a fault.
    Time(Duration),
    /// Servers that do not answer.
    Outage(Option<Arc<Outage>>),
}

/// One try of a read, which may have to wait before it can begin.
#[derive(Default)]
pub(super) struct Attempt {
    /// The future that the client already has, if this is not the first try.
    pub(super) future: Option<Arc<Future>>,
    /// It has waited for its version, which happens only once.
    pub(super) waited: bool,
    /// The injected delay of its answer.
    pub(super) delay: Option<Duration>,
}

impl Transaction {
    /// Sends a read: immediately, or when its read version is reached.
    ///
    /// `check` may refuse the read or answer it, as if there had been no read.
    fn issue(
        self: &Arc<Self>,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
        read: Read,
        snapshot: bool,
    ) -> Arc<Future> {
        self.with(|inner| {
            if let Some(answer) = self.answered(inner, check) {
                return answer;
            }
            if let Sight::Plain = inner.sees(snapshot) {
                return self.run(inner, move |inner, outage| {
                    inner.plain_read(&read, snapshot, outage)
                });
            }
            inner.has_read = true;
            // A cluster's read versions bring the metadata version with them: no request of its own.
            if !matches!(&read, Read::Value(key) if key[..] == *METADATA_VERSION) {
                self.count_request();
            }
            let attempt = match self.begin_attempt(inner) {
                Ok(attempt) => attempt,
                Err(answer) => return answer,
            };
            if inner.sighted.is_none() && inner.may_need_no_database(&read) {
                match inner.without_database(&read, snapshot) {
                    Ok(None) => {}
                    answer => return self.answer(inner, attempt, some(answer)),
                }
            }
            self.send_sighted(inner, read, snapshot, attempt)
        })
    }

    /// Sends a read once its read version is reached.
    fn send_sighted(
        self: &Arc<Self>,
        inner: &mut Inner,
        read: Read,
        snapshot: bool,
        mut attempt: Attempt,
    ) -> Arc<Future> {
        if let Some(wait) = self.wait_for_version(inner, attempt.waited) {
            return self.read_when(inner, wait, attempt, move |transaction, inner, attempt| {
                transaction.send_sighted(inner, read, snapshot, attempt);
            });
        }
        if let Err(error) = self.sight(inner) {
            return self.answer(inner, attempt, Err(error.into()));
        }
        let version_delay = inner.version_fault.delay.take();
        attempt.delay = add_delays(attempt.delay, version_delay);
        self.send(inner, read, snapshot, attempt)
    }

    /// Runs a read that neither uses nor adds to the transaction's knowledge.
    ///
    /// `f` is first called without the database.
    pub(super) fn read(
        self: &Arc<Self>,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
        f: impl FnMut(&mut Inner, Option<&Outage>) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        self.with(|inner| match self.answered(inner, check) {
            Some(answer) => answer,
            None => self.run(inner, f),
        })
    }

    fn run(
        self: &Arc<Self>,
        inner: &mut Inner,
        mut f: impl FnMut(&mut Inner, Option<&Outage>) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        inner.has_read = true;
        self.count_request();
        let attempt = match self.begin_attempt(inner) {
            Ok(attempt) => attempt,
            Err(answer) => return answer,
        };
        if inner.sighted.is_none() {
            match f(inner, None) {
                Err(Stop::NeedsDatabase) => {}
                answer => return self.answer(inner, attempt, answer),
            }
        }
        self.run_sighted(inner, attempt, f)
    }

    /// Runs a read once its read version is reached and its servers answer.
    fn run_sighted(
        self: &Arc<Self>,
        inner: &mut Inner,
        attempt: Attempt,
        mut f: impl FnMut(&mut Inner, Option<&Outage>) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        let wait = match self.wait_for_version(inner, attempt.waited) {
            Some(wait) => wait,
            None => {
                let outage = self.handle.database.faults.outage();
                let answer = match self.sight(inner) {
                    Ok(()) => f(inner, outage.as_deref()),
                    Err(error) => Err(error.into()),
                };
                if !matches!(answer, Err(Stop::Silent)) {
                    return self.answer(inner, attempt, answer);
                }
                Wait::Outage(outage)
            }
        };
        self.read_when(inner, wait, attempt, move |transaction, inner, attempt| {
            transaction.run_sighted(inner, attempt, f);
        })
    }

    fn count_request(&self) {
        let reads = &self.handle.database.counters.reads;
        reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The first try of a read; its answer, if a fault makes it fail.
    fn begin_attempt(
        self: &Arc<Self>,
        inner: &mut Inner,
    ) -> std::result::Result<Attempt, Arc<Future>> {
        let fault = self.handle.database.faults.read();
        let attempt = Attempt {
            delay: fault.delay,
            ..Attempt::default()
        };
        match fault.error {
            None => Ok(attempt),
            Some(error) => {
                // Errors of the read version come first.
                let error = self.sight(inner).err().unwrap_or(error);
                Err(self.answer(inner, attempt, Err(error.into())))
            }
        }
    }

    /// What a transaction has to wait for before it has its read version.
    fn wait_for_version(&self, inner: &Inner, waited: bool) -> Option<Wait> {
        if inner.sighted.is_some() {
            return None;
        }
        let database = &self.handle.database;
        if let Some(outage) = database.faults.silence() {
            return Some(Wait::Outage(Some(outage)));
        }
        let ahead = database.versions_until(inner.requested_version?);
        let wait = Duration::from_micros(ahead.min(FUTURE_VERSION_PATIENCE).unsigned_abs());
        (ahead > 0 && !waited).then_some(Wait::Time(wait))
    }

    /// Retries a read once its prerequisite has arrived. The read stays pending: a commit waits for it.
    fn read_when(
        self: &Arc<Self>,
        inner: &mut Inner,
        wait: Wait,
        attempt: Attempt,
        retry: impl FnOnce(&Arc<Self>, &mut Inner, Attempt) + Send + 'static,
    ) -> Arc<Future> {
        let future = attempt.future.unwrap_or_else(Future::pending);
        let attempt = Attempt {
            future: Some(future.clone()),
            waited: attempt.waited || matches!(wait, Wait::Time(_)),
            delay: attempt.delay,
        };
        inner.reads_under_way += 1;
        self.when(inner, wait, &future, true, |transaction, inner| {
            inner.reads_under_way -= 1;
            retry(transaction, inner, attempt);
            transaction.commit_after_reads(inner);
        });
        future
    }

    /// The answer of a read, after the injected delay, if any.
    pub(super) fn answer(
        self: &Arc<Self>,
        inner: &mut Inner,
        attempt: Attempt,
        answer: Answer<Output>,
    ) -> Arc<Future> {
        let result = inner.end_read(answer);
        self.answer_after(inner, attempt, result)
    }

    /// The result, if it requires no read.
    fn answered(
        self: &Arc<Self>,
        inner: &mut Inner,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
    ) -> Option<Arc<Future>> {
        if let Err(error) = self.check_usable(inner) {
            return Some(Future::ready(Err(error)));
        }
        self.catch_up(inner);
        check(inner).transpose().map(Future::ready)
    }

    /// Runs a read outside of the transaction's reads: no commit waits for it or fails with it, and it adds
    /// nothing to the transaction's knowledge. `check` is as in [`Transaction::issue`].
    pub(super) fn aside(
        self: &Arc<Self>,
        check: impl FnOnce(&Inner) -> Result<Option<Output>>,
        f: impl FnMut(&mut Inner, Option<&Outage>) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        self.with(|inner| {
            if let Some(answer) = self.answered(inner, check) {
                return answer;
            }
            self.count_request();
            let fault = self.handle.database.faults.read();
            let attempt = Attempt {
                delay: fault.delay,
                ..Attempt::default()
            };
            match fault.error {
                Some(error) => self.answer_after(inner, attempt, Err(error)),
                None => self.run_aside(inner, attempt, f),
            }
        })
    }

    fn run_aside(
        self: &Arc<Self>,
        inner: &mut Inner,
        attempt: Attempt,
        mut f: impl FnMut(&mut Inner, Option<&Outage>) -> Answer<Output> + Send + 'static,
    ) -> Arc<Future> {
        let wait = match self.wait_for_version(inner, attempt.waited) {
            Some(wait) => wait,
            None => {
                let outage = self.handle.database.faults.outage();
                let answer = match self.sight(inner) {
                    Ok(()) => f(inner, outage.as_deref()),
                    Err(error) => Err(error.into()),
                };
                match answer {
                    Err(Stop::Silent) => Wait::Outage(outage),
                    answer => {
                        return self.answer_after(inner, attempt, answer.map_err(Stop::error))
                    }
                }
            }
        };
        self.read_when(inner, wait, attempt, move |transaction, inner, attempt| {
            transaction.run_aside(inner, attempt, f);
        })
    }

    /// Returns a result to the client, after the injected delay.
    pub(super) fn answer_after(
        self: &Arc<Self>,
        inner: &mut Inner,
        attempt: Attempt,
        result: Result<Output>,
    ) -> Arc<Future> {
        let Attempt { future, delay, .. } = attempt;
        let version_delay = inner.version_fault.delay.take();
        let Some(delay) = add_delays(delay, version_delay) else {
            let Some(future) = future else {
                return Future::answer(result, Trip::begin());
            };
            inner.outbox.push((future.clone(), result));
            return future;
        };
        let future = future.unwrap_or_else(Future::pending);
        inner.reads_under_way += 1;
        let waiting = future.clone();
        self.when(
            inner,
            Wait::Time(delay),
            &future,
            true,
            |transaction, inner| {
                // A read that the client cancelled continues: a commit may be waiting for it.
                inner.outbox.push((waiting, result));
                inner.reads_under_way -= 1;
                transaction.commit_after_reads(inner);
            },
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
            self.catch_up(inner);
            self.run_read_version(inner, Attempt::default())
        })
    }

    fn run_read_version(self: &Arc<Self>, inner: &mut Inner, attempt: Attempt) -> Arc<Future> {
        let silence = self.handle.database.faults.silence();
        let known = inner.requested_version.is_some() || inner.sighted.is_some();
        if let (Some(outage), false) = (silence, known) {
            let future = attempt.future.unwrap_or_else(Future::pending);
            let waiting = Some(future.clone());
            let wait = Wait::Outage(Some(outage));
            self.when(inner, wait, &future, false, move |transaction, inner| {
                let attempt = Attempt {
                    future: waiting,
                    ..attempt
                };
                transaction.run_read_version(inner, attempt);
            });
            return future;
        }
        let version = self.read_version(inner).map(Output::Int64);
        self.answer_after(inner, attempt, version)
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
        if self.api_version.is_at_least(SPECIAL_KEYS_SINCE) && special::is_special(&key) {
            return self.get_special(key);
        }
        if !self.api_version.is_at_least(SPECIAL_KEYS_SINCE) {
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
            // No key is that long.
            Ok((name.len() > max_key_size(&name)).then_some(Output::Value(None)))
        };
        self.issue(check, Read::Value(key), snapshot)
    }

    pub(crate) fn get_key(self: &Arc<Self>, selector: KeySelector, snapshot: bool) -> Arc<Future> {
        let name = selector.key.clone();
        let check = move |inner: &Inner| {
            if name[..] > *inner.max_read_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            Ok(None)
        };
        self.issue(check, Read::Key(selector), snapshot)
    }

    pub(crate) fn get_range(
        self: &Arc<Self>,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        snapshot: bool,
        reverse: bool,
    ) -> Arc<Future> {
        if self.api_version.is_at_least(SPECIAL_KEYS_SINCE)
            && special::is_special_range(&begin, &end)
        {
            return self.get_special_range(begin, end, limits, reverse);
        }
        let nothing = || Output::KeyValues(KeyValues::new(Vec::new(), false));
        if !self.api_version.is_at_least(SPECIAL_KEYS_SINCE)
            && begin.key[..] == *special::WORKER_INTERFACES
        {
            return Future::ready(
                self.with(|inner| self.check_deferred(inner).map(|()| nothing())),
            );
        }
        let check = check_range(&begin, &end, limits, nothing);
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        let read = Read::Range {
            begin,
            end,
            limits,
            reverse,
        };
        self.issue(check, read, snapshot)
    }

    /// A range read of an index, with the records that its rows lead to. It never sees own writes: it
    /// fails if it would have to. No commit waits for it, or fails with it.
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
        let is_special = self.api_version.is_at_least(SPECIAL_KEYS_SINCE)
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
            move |inner, outage| inner.mapped_range(&begin, &end, &mapper, limits, reverse, outage),
        )
    }
}

/// The checks before a range read. `nothing` makes the result without rows.
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

/// The delay of an answer plus that of the read version it waits for.
fn add_delays(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter()
        .chain(other)
        .reduce(|one, other| one + other)
}

/// The result of a read that must have one.
pub(super) fn some(answer: Answer<Option<Output>>) -> Answer<Output> {
    answer.and_then(|output| output.ok_or(Stop::NeedsDatabase))
}

impl Inner {
    /// Whether a read may be answered without a read version. If not, it fails immediately.
    fn may_need_no_database(&self, read: &Read) -> bool {
        let nothing_written = self.writes.is_empty();
        match read {
            Read::Value(_) => !nothing_written,
            Read::Key(_) => true,
            Read::Range { begin, end, .. } => {
                let keys = begin.is_first_greater_or_equal() && end.is_first_greater_or_equal();
                let inside = begin.key[..] < *self.max_read_key() && !end.key.is_empty();
                !(nothing_written && keys && inside)
            }
        }
    }

    /// Notes how a read ended: a commit fails with the first read that failed.
    pub(super) fn end_read(&mut self, answer: Answer<Output>) -> Result<Output> {
        let result = answer.map_err(Stop::error);
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

    /// The database for reads without read-your-writes, all of which need it.
    pub(super) fn plain_space(&self) -> Answer<&Space> {
        let sighted = self.sighted.as_ref().ok_or(Stop::NeedsDatabase)?;
        self.failure().map_or(Ok(()), Err)?;
        Ok(&sighted.space)
    }

    /// Why the database cannot be read although there is a read version.
    pub(super) fn failure(&self) -> Option<Error> {
        let stale = self.stale.then_some(Error::TRANSACTION_TOO_OLD);
        stale.or(self.sighted.as_ref()?.tenant.err())
    }

    /// Answers a read with read-your-writes off.
    fn plain_read(
        &mut self,
        read: &Read,
        snapshot: bool,
        outage: Option<&Outage>,
    ) -> Answer<Output> {
        let space = self.plain_space()?;
        let answers = |begin: &[u8], end: &[u8]| {
            let silent = outage
                .is_some_and(|outage| outage.silences_read(&space.outer(begin), &space.outer(end)));
            if silent {
                Err(Stop::Silent)
            } else {
                Ok(())
            }
        };
        match read {
            Read::Value(key) => {
                let next = key_after(key);
                answers(key, &next)?;
                let value = space.get_or_metadata_version(key).cloned();
                if !snapshot {
                    self.plain_reads.push((key.clone(), next));
                }
                Ok(Output::Value(value))
            }
            Read::Key(selector) => {
                let key = resolve(space, selector).key;
                let (begin, end) = key_conflict(selector, &key);
                answers(&begin, &end)?;
                if !snapshot && begin < end {
                    self.plain_range_reads.push((begin, end));
                }
                Ok(Output::Key(key.min(self.max_read_key().into())))
            }
            Read::Range {
                begin,
                end,
                limits,
                reverse,
            } => {
                let (rows, conflicts) =
                    plain_range(space, self.max_read_key(), begin, end, *limits, *reverse)?;
                for (begin, end) in &conflicts {
                    answers(begin, end)?;
                }
                if !snapshot {
                    let ranges = conflicts.into_iter().filter(|(begin, end)| begin < end);
                    self.plain_range_reads.extend(ranges);
                }
                Ok(Output::KeyValues(KeyValues::new(rows.rows, rows.more)))
            }
        }
    }

    /// Adds a read conflict range, except for the parts where the read saw only `written` data.
    pub(super) fn add_read_conflict(&mut self, written: &WriteMap, begin: Key, end: Key) {
        if begin >= end {
            return;
        }
        for (key, segment, next) in written.segments(&begin, &end) {
            if segment.reads_database() {
                let from = begin.clone().max(key.clone());
                let to: Key = next.min(&end[..]).into();
                self.approximate_size += begin.len() + end.len() + RANGE_RECORD;
                self.read_conflicts.insert(from, to);
            }
        }
    }
}

/// A range read with read-your-writes off, and the keys it depends on.
fn plain_range(
    space: &Space,
    max_key: &'static [u8],
    begin: &KeySelector,
    end: &KeySelector,
    limits: Limits,
    reverse: bool,
) -> Result<(Rows, Vec<KeyRange>)> {
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
    if !reverse && rows.rows.last().is_some_and(|(key, _)| key[..] >= *max_key) {
        let keep = rows.rows.partition_point(|(key, _)| key[..] < *max_key);
        rows.rows.truncate(keep);
        rows.more = false;
    }
    Ok((rows, conflicts))
}
