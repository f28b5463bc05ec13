//! A transaction's watches before they are armed.
//!
//! For a cluster's client such a watch first reads its value, while the program continues. Until the
//! read is answered there is no conflict range, and a write to the key is remembered and compared with
//! the result. Here the value is known immediately. To match, the read counts as in flight until the
//! program has waited for something that a server does.

use super::reads::{Attempt, Wait};
use super::*;
use crate::faults::Outage;
use crate::view::{Answer, Stop};

/// The longest time a read takes. Programs that do not wait in between are much faster.
const READ_TIME: Duration = Duration::from_millis(10);

/// A watch whose transaction is not committed yet.
pub(super) struct PendingWatch {
    pub(super) key: Key,
    pub(super) value: Option<Value>,
    pub(super) future: Arc<Future>,
    pub(super) owner: Weak<WatchOwner>,
    /// The read of the value, until it is answered.
    pub(super) read: Option<ValueRead>,
    /// The try that made the watch is over: writes of this one don't affect it.
    pub(super) outlived: bool,
    pub(super) fault: Fault,
}

/// The read of a watch's value.
pub(super) struct ValueRead {
    begun: Instant,
    trip: Trip,
    /// The transaction's writes to the key since.
    written: Option<Option<Value>>,
}

impl Transaction {
    pub(crate) fn watch(self: &Arc<Self>, key: Key) -> Arc<Future> {
        self.with(|inner| {
            self.make_watch(inner, key)
                .unwrap_or_else(|e| Future::ready(Err(e)))
        })
    }

    fn make_watch(self: &Arc<Self>, inner: &mut Inner, key: Key) -> Result<Arc<Future>> {
        self.check_usable(inner)?;
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
        inner.has_read = true;
        let (mut value, mut asks) = inner.watched(&key);
        if let Some(outage) = self.outage_of_watch(inner, &key, &value, asks) {
            return self.watch_after_outage(inner, key, outage);
        }
        if value == Err(Stop::NeedsDatabase) {
            let ahead = inner
                .requested_version
                .map(|version| self.handle.database.versions_until(version));
            if let Some(ahead) = ahead.filter(|&ahead| ahead > 0) {
                let patience = ahead.min(FUTURE_VERSION_PATIENCE).unsigned_abs();
                let attempt = Attempt {
                    delay: Some(Duration::from_micros(patience)),
                    ..Attempt::default()
                };
                return Ok(self.answer_after(inner, attempt, Err(Error::FUTURE_VERSION)));
            }
            self.sight(inner)?;
            (value, asks) = inner.watched(&key);
            if let Some(outage) = self.outage_of_watch(inner, &key, &value, asks) {
                return self.watch_after_outage(inner, key, outage);
            }
        }
        let value = value.map_err(Stop::error)?;
        let permit = Permit::new(&self.handle.allowance, &self.handle.database.watches)?;
        let (future, owner) = new_watch(permit);
        self.add_watch(inner, key, value, asks, future.clone(), owner);
        Ok(future)
    }

    fn add_watch(
        &self,
        inner: &mut Inner,
        key: Key,
        value: Option<Value>,
        asks: bool,
        future: Arc<Future>,
        owner: Weak<WatchOwner>,
    ) {
        inner.watches_read |= asks;
        let read = asks.then(|| ValueRead {
            begun: Instant::now(),
            trip: Trip::begin(),
            written: None,
        });
        inner.watches.push(PendingWatch {
            key,
            value,
            future,
            owner,
            read,
            outlived: false,
            fault: self.handle.database.faults.watch(),
        });
    }

    /// The outage in which the value of a watched key cannot be read.
    fn outage_of_watch(
        &self,
        inner: &Inner,
        key: &Key,
        value: &Answer<Option<Value>>,
        asks: bool,
    ) -> Option<Arc<Outage>> {
        let outage = self.handle.database.faults.outage()?;
        let silent = match &inner.sighted {
            _ if *value == Err(Stop::NeedsDatabase) => outage.all,
            Some(Sighted { space, .. }) if asks => {
                outage.silences_read(&space.outer(key), &space.outer(&key_after(key)))
            }
            _ => false,
        };
        silent.then_some(outage)
    }

    /// A watch whose value is read when an outage ends. A commit waits for that.
    fn watch_after_outage(
        self: &Arc<Self>,
        inner: &mut Inner,
        key: Key,
        outage: Arc<Outage>,
    ) -> Result<Arc<Future>> {
        let permit = Permit::new(&self.handle.allowance, &self.handle.database.watches)?;
        let (future, owner) = new_watch(permit);
        self.park_watch(inner, key, outage, future.clone(), owner);
        Ok(future)
    }

    fn park_watch(
        self: &Arc<Self>,
        inner: &mut Inner,
        key: Key,
        outage: Arc<Outage>,
        future: Arc<Future>,
        owner: Weak<WatchOwner>,
    ) {
        inner.reads_under_way += 1;
        let watch = future.clone();
        let wait = Wait::Outage(Some(outage));
        self.when(inner, wait, &watch, true, move |transaction, inner| {
            inner.reads_under_way -= 1;
            inner
                .pending
                .retain(|pending| !Arc::ptr_eq(pending, &future));
            let sighted = match transaction.handle.database.faults.silence() {
                Some(_) if inner.sighted.is_none() => Ok(()),
                _ => transaction.sight(inner),
            };
            let (value, asks) = inner.watched(&key);
            if let Some(outage) = transaction.outage_of_watch(inner, &key, &value, asks) {
                return transaction.park_watch(inner, key, outage, future, owner);
            }
            match sighted.and_then(|()| value.map_err(Stop::error)) {
                Ok(value) => transaction.add_watch(inner, key, value, asks, future, owner),
                Err(error) => inner.outbox.push((future, Err(error))),
            }
            transaction.commit_after_reads(inner);
        });
    }

    /// Ends the reads of watches that a server had time to answer.
    pub(super) fn settle_watches(&self, inner: &mut Inner) {
        if !inner.watches_read {
            return;
        }
        inner.settle_watches(|read| read.trip.is_over() || read.begun.elapsed() >= READ_TIME);
    }

    /// Waits for the reads of all watches.
    pub(super) fn settle_all_watches(&self, inner: &mut Inner) {
        if inner.watches_read {
            inner.settle_watches(|_| true);
        }
    }

    /// Ends the reads of watches even if the transaction gets no calls.
    pub(super) fn settle_watches_later(self: &Arc<Self>) {
        let transaction = Arc::downgrade(self);
        let settle = move || {
            if let Some(transaction) = transaction.upgrade() {
                transaction.with(|inner| transaction.settle_watches(inner));
            }
        };
        network::after(READ_TIME, Box::new(settle));
    }
}

impl Inner {
    /// The value of a key to be watched, and whether a client would have to request it.
    fn watched(&mut self, key: &Key) -> (Answer<Option<Value>>, bool) {
        let next = key_after(key);
        self.fold_known();
        let reads_database = self.writes.at(key).1.reads_database();
        let asks = reads_database && !self.known.covers(key, &next);
        let got = self.current_view(true).get(key);
        if got.is_ok() && reads_database && !asks {
            self.note_read(key);
        }
        (got.map(|got| got.value), asks)
    }

    /// Ends the reads of watches that are due: their results are noted, and compared with the writes made
    /// since.
    fn settle_watches(&mut self, is_due: impl Fn(&ValueRead) -> bool) {
        let mut fired = Vec::new();
        let mut read_keys = Vec::new();
        let mut reading = false;
        self.watches.retain_mut(|watch| {
            let Some(read) = watch.read.take_if(|read| is_due(read)) else {
                reading |= watch.read.is_some();
                return true;
            };
            if watch.future.is_done() {
                // The client cancelled the watch, and with it the read.
                return false;
            }
            read_keys.push(watch.key.clone());
            let unchanged = read.written.is_none_or(|written| written == watch.value);
            if !unchanged {
                fired.push(watch.future.clone());
            }
            unchanged
        });
        self.watches_read = reading;
        for key in read_keys {
            self.learn_key(&key);
            self.note_read(&key);
        }
        self.outbox
            .extend(fired.into_iter().map(|future| (future, Ok(Output::Unit))));
    }

    /// When a retry begins to wait, the next try arms the watches that are still being read, and they
    /// leave the others.
    pub(super) fn keep_watches_for_retry(&mut self) -> Vec<PendingWatch> {
        let (reading, waiting) = self.split_watches();
        for mut watch in reading {
            let written = watch.read.take().and_then(|read| read.written);
            if written.is_some_and(|written| written != watch.value) {
                self.outbox.push((watch.future, Ok(Output::Unit)));
            } else {
                watch.outlived = true;
                self.watches.push(watch);
            }
        }
        waiting
    }

    /// Informs the watches of this transaction of its own write to their keys. `value` is the new value,
    /// if known. Reads still in flight may decide whether the watch fires.
    pub(super) fn own_write(
        &mut self,
        begin: &Key,
        end: &Key,
        value: Option<Option<Value>>,
    ) -> bool {
        let mut undecided = false;
        let outbox = &mut self.outbox;
        self.watches.retain_mut(|watch| {
            if watch.outlived || watch.key < *begin || watch.key >= *end {
                return true;
            }
            let changed = match (&value, &mut watch.read) {
                (None, _) => true,
                (Some(value), None) => *value != watch.value,
                (Some(value), Some(ValueRead { written, .. })) => {
                    let before = written.replace(value.clone());
                    let changed = before.is_some_and(|before| before != *value);
                    undecided |= !changed;
                    changed
                }
            };
            if changed {
                outbox.push((watch.future.clone(), Ok(Output::Unit)));
            }
            !changed
        });
        undecided
    }

    /// Separates the watches whose values are still being read.
    pub(super) fn split_watches(&mut self) -> (Vec<PendingWatch>, Vec<PendingWatch>) {
        self.watches_read = false;
        std::mem::take(&mut self.watches)
            .into_iter()
            .partition(|watch| watch.read.is_some())
    }

    pub(super) fn fail_watches(&mut self, error: Error) {
        self.outbox.extend(
            self.watches
                .drain(..)
                .map(|watch| (watch.future, Err(error))),
        );
    }
}
