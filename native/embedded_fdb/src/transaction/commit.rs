//! Committing, which also arms watches.

use super::reads::Wait;
use super::*;
use crate::database::Refused;
use crate::faults::Outage;
use crate::watches::Watch;

/// How far a commit got immediately.
enum Begun {
    Done(Result<Output>),
    /// The committer of a file does the rest.
    Submit(Submit),
}

/// A commit for a file, with the prefix of the transaction's tenant.
struct Submit {
    request: CommitRequest,
    prefix: Key,
    /// What the client receives after a success.
    hidden: Option<Error>,
}

/// The API version from which on a committed transaction keeps its state.
const FORGETS_NO_COMMIT_SINCE: i32 = 700;

impl Transaction {
    pub(crate) fn commit(self: &Arc<Self>) -> Arc<Future> {
        self.with(|inner| {
            if let Err(error) = self.check_usable(inner) {
                return Future::ready(Err(error));
            }
            self.settle_all_watches(inner);
            self.arrive_all(inner);
            inner.commit_started = true;
            if inner.reads_under_way > 0 {
                let future = Future::pending();
                self.keep_pending(inner, &future);
                inner.waiting_commit = Some(future.clone());
                return future;
            }
            if let Some(outage) = self.silence_of_commit(inner) {
                let future = Future::pending();
                self.commit_after_outage(inner, outage, &future);
                return future;
            }
            match self.begin_commit(inner) {
                Begun::Done(result) => Future::answer(result, Trip::begin()),
                Begun::Submit(submit) => {
                    let future = Future::pending();
                    self.keep_pending(inner, &future);
                    self.submit(submit, &future);
                    future
                }
            }
        })
    }

    /// Begins the commit that waited for reads, once all of them are done.
    pub(super) fn commit_after_reads(self: &Arc<Self>, inner: &mut Inner) {
        if inner.reads_under_way > 0 {
            return;
        }
        let waiting = inner.waiting_commit.take();
        let Some(future) = waiting.filter(|future| !future.is_done()) else {
            return;
        };
        if let Some(outage) = self.silence_of_commit(inner) {
            return self.commit_after_outage(inner, outage, &future);
        }
        match self.begin_commit(inner) {
            Begun::Done(result) => inner.outbox.push((future, result)),
            Begun::Submit(submit) => self.submit(submit, &future),
        }
    }

    /// The outage that delays a commit. A commit without writes asks no server.
    fn silence_of_commit(&self, inner: &Inner) -> Option<Arc<Outage>> {
        let outage = self.handle.database.faults.silence()?;
        let writes = !inner.writes.is_empty()
            || !inner.mutations.is_empty()
            || !inner.plain_writes.is_empty()
            || !inner.special.is_empty();
        writes.then_some(outage)
    }

    fn commit_after_outage(
        self: &Arc<Self>,
        inner: &mut Inner,
        outage: Arc<Outage>,
        future: &Arc<Future>,
    ) {
        inner.waiting_commit = Some(future.clone());
        let wait = Wait::Outage(Some(outage));
        self.when(inner, wait, future, false, Self::commit_after_reads);
    }

    /// Commits, except for waiting for a file.
    fn begin_commit(&self, inner: &mut Inner) -> Begun {
        // A failure before the commit is sent leaves versionstamps and watches alone.
        let system = match self.edit_system_keys(inner) {
            Ok(system) => system,
            Err(error) => return Begun::Done(Err(error)),
        };
        if let Some(error) = inner.failed_read {
            return Begun::Done(Err(error));
        }
        // Only a client of an old API version gets here twice, after `on_error` has restarted the
        // transaction. It has kept everything that needed no server.
        if std::mem::replace(&mut inner.handed_over, true) {
            return Begun::Done(Err(Error::INTERNAL_ERROR));
        }
        let (request, prefix) = match self.request_commit(inner, system) {
            Ok(Some(request)) => request,
            Ok(None) => {
                self.end_old_commit(inner);
                return Begun::Done(Ok(Output::Unit));
            }
            Err(error) => {
                self.end_old_commit(inner);
                return Begun::Done(Err(inner.commit_failed(error)));
            }
        };
        let database = &self.handle.database;
        let hidden = match database.faults.commit() {
            Some(CommitFault::Refuse(error)) => {
                return Begun::Done(Err(inner.commit_failed(error)));
            }
            Some(CommitFault::Hide(error)) => Some(error),
            None => None,
        };
        if database.committer.is_some() {
            return Begun::Submit(Submit {
                request,
                prefix,
                hidden,
            });
        }
        let answer = database.commit(request);
        Begun::Done(self.take_answer(inner, answer, hidden, &prefix))
    }

    /// Hands a commit to the committer of a file.
    fn submit(self: &Arc<Self>, submit: Submit, future: &Arc<Future>) {
        let Submit {
            request,
            prefix,
            hidden,
        } = submit;
        let (transaction, waiting) = (self.clone(), future.clone());
        let done = move |answer| {
            let result = transaction.with(|inner| {
                // A reset in the meantime has already ended the future.
                let answered = waiting.is_done();
                (!answered).then(|| transaction.take_answer(inner, answer, hidden, &prefix))
            });
            // Before the result is visible, so that a program which then counts transactions misses it.
            drop(transaction);
            if let Some(result) = result {
                waiting.complete(result);
            }
        };
        if let Some(committer) = &self.handle.database.committer {
            committer.submit(request, Box::new(done));
        }
    }

    /// Old clients forget the read version with the commit.
    fn end_old_commit(&self, inner: &mut Inner) {
        if !self.api_version.is_at_least(FORGETS_NO_COMMIT_SINCE) {
            inner.sighted = None;
            inner.requested_version = None;
            inner.committing = false;
        }
    }

    /// Takes over the result of a commit. `hidden` is what the client receives after a success.
    fn take_answer(
        &self,
        inner: &mut Inner,
        answer: Answer,
        hidden: Option<Error>,
        prefix: &Key,
    ) -> Result<Output> {
        let answer = answer.and_then(|committed| match hidden {
            Some(error) => Err(Refused::with(error)),
            None => Ok(committed),
        });
        match answer {
            Ok(committed) => {
                self.end_old_commit(inner);
                inner.handed_over &= self.api_version.is_at_least(FORGETS_NO_COMMIT_SINCE);
                inner.committed_version = committed.version;
                inner.set_stamp(Stamp::Known(committed.stamp));
                self.arm_watches_below(inner, prefix);
                Ok(Output::Unit)
            }
            Err(refused) => {
                self.end_old_commit(inner);
                inner.handed_over &= self.api_version.is_at_least(FORGETS_NO_COMMIT_SINCE);
                inner.conflicts = RangeSet::default();
                if inner.options.report_conflicting_keys {
                    for (begin, end) in refused.conflicts {
                        let cut = prefix.len().min(begin.len()).min(end.len());
                        inner
                            .conflicts
                            .insert(begin[cut..].into(), end[cut..].into());
                    }
                }
                Err(inner.commit_failed(refused.error))
            }
        }
    }

    /// The request to the committer, and the prefix of the transaction's tenant; `None` if the transaction
    /// wrote nothing.
    fn request_commit(
        &self,
        inner: &mut Inner,
        system: CommitRequest,
    ) -> Result<Option<(CommitRequest, Key)>> {
        let (mutations, writes) = inner.writes.collect(&[], ALL_END);
        let mut request = CommitRequest {
            read_version: None,
            tenant: None,
            reads: std::mem::take(&mut inner.plain_reads),
            writes: std::mem::take(&mut inner.plain_writes),
            mutations: std::mem::take(&mut inner.mutations),
            causal_write_risky: inner.options.causal_write_risky,
            lock_aware: inner.options.lock_aware,
        };
        inner.fold_reads();
        request.reads.extend(inner.read_conflicts.ranges());
        request.writes.extend(writes);
        request.mutations.extend(mutations);
        request.reads.extend(system.reads);
        request.writes.extend(system.writes);
        request.mutations.extend(system.mutations);
        let plain = std::mem::take(&mut inner.plain_range_reads);
        if inner.options.read_your_writes_disabled {
            let reads = request.reads.iter().chain(&plain).cloned();
            inner.committed_conflicts = (reads.collect(), request.writes.clone());
        }
        if request.writes.is_empty() && request.mutations.is_empty() {
            inner.committed_version = -1;
            inner.set_stamp(Stamp::Never(Error::NO_COMMIT_VERSION));
            self.arm_watches(inner)?;
            return Ok(None);
        }
        if inner.options.read_only {
            return Err(Error::TRANSACTION_READ_ONLY);
        }
        inner.version_fault.error.map_or(Ok(()), Err)?;
        if commit_size(&request) > inner.options.size_limit {
            return Err(Error::TRANSACTION_TOO_LARGE);
        }
        request.reads.extend(plain);
        inner.committing = true;
        let tenant = match &self.tenant {
            Some(tenant) => {
                self.sight(inner)?;
                Some(tenant.id()?)
            }
            None => None,
        };
        // The snapshot is dropped before the commit, which would otherwise have to copy what it changes.
        if let Some(sighted) = inner.sighted.take() {
            inner.requested_version = Some(sighted.version);
        }
        request.read_version = inner.requested_version;
        let prefix = tenant.map_or_else(|| [][..].into(), Space::tenant_prefix);
        if let Some(id) = tenant {
            request.move_below(&prefix);
            request.tenant = Some(id);
        }
        Ok(Some((request, prefix)))
    }

    /// The system keys that the writes to special keys change.
    fn edit_system_keys(&self, inner: &mut Inner) -> Result<CommitRequest> {
        if !inner.options.special_keys_writable {
            return Ok(CommitRequest::default());
        }
        if inner.late_tracing {
            return Err(Error::SPECIAL_KEYS_API_FAILURE);
        }
        if inner.special.is_empty() {
            return Ok(CommitRequest::default());
        }
        self.edit_managed(inner)
    }

    /// Arms the watches of a transaction that wrote nothing.
    pub(super) fn arm_watches(&self, inner: &mut Inner) -> Result<()> {
        if inner.watches.is_empty() {
            return Ok(());
        }
        let mut prefix = [][..].into();
        if self.tenant.is_some() {
            self.sight(inner)?;
            prefix = inner
                .sighted()?
                .tenant?
                .map_or(prefix, Space::tenant_prefix);
        }
        self.arm_watches_below(inner, &prefix);
        Ok(())
    }

    pub(super) fn arm_watches_below(&self, inner: &mut Inner, prefix: &Key) {
        let database = &self.handle.database;
        let outage = database.faults.outage();
        for pending in inner.watches.drain(..) {
            let key: Key = match &pending.key[..] {
                METADATA_VERSION => pending.key,
                _ if prefix.is_empty() => pending.key,
                key => [prefix, key].concat().into(),
            };
            let watch = Watch {
                key,
                value: pending.value,
                future: pending.future,
                owner: pending.owner,
            };
            let current = |key: &Key| database.newest(key);
            let watches = &database.watches;
            watches.arm(watch, pending.fault, outage.as_deref(), current);
        }
    }

    pub(crate) fn committed_version(&self) -> Version {
        self.with(|inner| inner.committed_version)
    }

    pub(crate) fn get_versionstamp(self: &Arc<Self>) -> Arc<Future> {
        self.with(|inner| {
            if let Err(error) = self
                .check_deferred(inner)
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

    pub(crate) fn get_approximate_size(self: &Arc<Self>) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            self.check_deferred(inner)?;
            self.catch_up(inner);
            inner.count_known_flights();
            Ok(Output::Int64(
                i64::try_from(inner.approximate_size).unwrap_or(i64::MAX),
            ))
        }))
    }

    pub(crate) fn get_tag_throttled_duration(&self) -> Arc<Future> {
        Future::ready(self.with(|inner| self.check_deferred(inner).map(|()| Output::Double(0.0))))
    }

    /// Tag throttling counts pages of 4 KB; without it, the cost is the bytes written so far.
    pub(crate) fn get_total_cost(self: &Arc<Self>) -> Arc<Future> {
        self.get_approximate_size()
    }
}

impl Inner {
    /// Ends everything that depends on the failed commit.
    fn commit_failed(&mut self, error: Error) -> Error {
        self.fail_watches(error);
        self.set_stamp(Stamp::Never(Error::TRANSACTION_INVALID_VERSION));
        error
    }
}

/// The bytes that count towards a transaction's size limit.
fn commit_size(request: &CommitRequest) -> usize {
    let range = |(begin, end): &KeyRange| RANGE_RECORD + begin.len() + end.len();
    request.mutations.iter().map(Mutation::size).sum::<usize>()
        + request.reads.iter().map(range).sum::<usize>()
        + request.writes.iter().map(range).sum::<usize>()
}
