//! Reads that were sent and whose answers have not arrived yet.
//!
//! A cluster's client sends a read and continues. The transaction learns the result when the answer
//! arrives. So of two reads that are in flight together, neither knows the other's result, and each sees
//! the writes made before it was sent. The length of range pages, the conflict ranges and the size of the
//! transaction depend on that.
//!
//! Here most reads are answered immediately; only the transaction's knowledge of the result stays in
//! flight until the client waits for something (`round_trips`). A range read that may need more than one
//! request is in flight as a whole. Answers arrive in the order of requests, except that requests which
//! had to wait for the read version are sent in reverse order when it comes.

use super::conflicts::{key_conflict, range_conflict};
use super::reads::{some, Attempt, Sight, Wait};
use super::*;
use crate::faults::{Outage, OutageWaiter};
use crate::future::Owner;
use crate::view::{Answer, KeyWalk, Stop, Walk};

/// Keys that are folded into a set at a time, which is cheaper than inserting them one by one.
const FOLD: usize = 1_024;
/// A write map with more segments is not copied for reads in flight: while that much was written, their
/// answers had time to arrive.
const LARGE_WRITE_MAP: usize = 1_000;

/// The kind of a read.
#[derive(Clone)]
pub(super) enum Read {
    Value(Key),
    Key(KeySelector),
    Range {
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    },
}

/// A read, or the rest of one.
pub(super) struct Flight {
    trip: Trip,
    /// It was sent before the transaction had a read version.
    early: bool,
    load: Load,
}

impl Flight {
    /// The part that sends another request.
    fn again(trip: Trip, load: Load) -> Flight {
        let early = false;
        Flight { trip, early, load }
    }
}

enum Load {
    /// The value of a key, already returned. `noted` if the read depends on it.
    Value {
        key: Key,
        noted: bool,
    },
    /// The rows of a range, already returned.
    Rows {
        known: KeyRange,
        conflict: Option<KeyRange>,
    },
    Reading(Box<Reading>),
}

/// A read that has no answer yet.
pub(super) struct Reading {
    read: Read,
    snapshot: bool,
    /// The transaction's writes when the read was sent; `None` if the read does not see them.
    writes: Option<Arc<WriteMap>>,
    progress: Progress,
    future: Arc<Future>,
}

enum Progress {
    Value,
    Key(Box<KeyWalk>),
    Range(Box<Walk>),
}

type Resume = Box<dyn FnOnce(&Arc<Transaction>, &mut Inner) + Send>;

/// A call that waits until an outage ends.
pub(super) struct Parked {
    /// A read, which a commit waits for.
    is_read: bool,
    resume: Resume,
}

/// Delivers the answer of a read when the client waits for it.
struct ReadOwner {
    transaction: Weak<Transaction>,
    trip: Trip,
}

impl Owner for ReadOwner {
    fn awaited(&self) {
        self.trip.wait();
        if let Some(transaction) = self.transaction.upgrade() {
            transaction.with(|inner| transaction.arrive(inner));
        }
    }
}

impl Transaction {
    /// Sends a read that sees the transaction's own cache; the read version is known.
    pub(super) fn send(
        self: &Arc<Self>,
        inner: &mut Inner,
        read: Read,
        snapshot: bool,
        attempt: Attempt,
    ) -> Arc<Future> {
        let outage = self.handle.database.faults.outage();
        let trip = Trip::begin();
        if attempt.future.is_none() && attempt.delay.is_none() && outage.is_none() {
            match inner.answer_at_once(&read, snapshot, trip) {
                Ok(None) => {}
                answer => return Future::answer(inner.end_read(some(answer)), trip),
            }
        }
        let mut reading = Reading::new(inner, read, snapshot, outage.as_deref());
        match reading.go_on(inner, outage.as_deref()) {
            Ok(None) => {}
            answer => return self.answer(inner, attempt, some(answer)),
        }
        if let Some(error) = inner.failure() {
            return self.answer(inner, attempt, Err(error.into()));
        }
        let Attempt { future, delay, .. } = attempt;
        let asked_again = future.is_some();
        reading.future = future.unwrap_or_else(Future::pending);
        let future = reading.future.clone();
        future.set_owner(Arc::new(ReadOwner {
            transaction: Arc::downgrade(self),
            trip,
        }));
        inner.reads_under_way += 1;
        self.set_timer(inner);
        let load = Load::Reading(Box::new(reading));
        let early = inner.is_early();
        let flight = Flight { trip, early, load };
        if delay.is_none() && !asked_again {
            inner.flights.push_back(flight);
            return future;
        }
        // The client already waits, or does not know that it has to.
        let wait = Wait::Time(delay.unwrap_or_default());
        self.when(inner, wait, &future, true, move |transaction, inner| {
            inner.flights.push_back(flight);
            transaction.arrive_all(inner);
        });
        future
    }

    /// Delivers the answers that the client has waited for, and ends the reads of watches.
    pub(super) fn catch_up(self: &Arc<Self>, inner: &mut Inner) {
        self.settle_watches(inner);
        self.arrive(inner);
    }

    /// Delivers the answers that the client has waited for, and those in flight at the same time. A read
    /// that sends another request queues behind all others.
    fn arrive(self: &Arc<Self>, inner: &mut Inner) {
        while inner.flights.iter().any(|flight| flight.trip.is_over()) {
            self.arrive_once(inner);
        }
    }

    /// Delivers all answers.
    pub(super) fn arrive_all(self: &Arc<Self>, inner: &mut Inner) {
        while !inner.flights.is_empty() {
            self.arrive_once(inner);
        }
    }

    /// Delivers the answers of all requests sent so far.
    fn arrive_once(self: &Arc<Self>, inner: &mut Inner) {
        let early = inner.flights.iter().take_while(|flight| flight.early);
        let early = early.count();
        inner.flights.make_contiguous()[..early].reverse();
        for _ in 0..inner.flights.len() {
            if let Some(flight) = inner.flights.pop_front() {
                self.land(inner, flight);
            }
        }
    }

    fn land(self: &Arc<Self>, inner: &mut Inner, flight: Flight) {
        let Flight { trip, load, .. } = flight;
        let mut reading = match load {
            Load::Value { key, noted } => {
                inner.learn_key(&key);
                if noted {
                    inner.note_read(&key);
                }
                return;
            }
            Load::Rows { known, conflict } => {
                inner.known.insert(known.0, known.1);
                if let Some((begin, end)) = conflict {
                    inner.approximate_size += begin.len() + end.len() + RANGE_RECORD;
                    inner.read_conflicts.insert(begin, end);
                }
                return;
            }
            Load::Reading(reading) => reading,
        };
        let outage = self.handle.database.faults.outage();
        if let Some(Sighted { version, .. }) = inner.sighted {
            inner.stale = self.handle.database.check_age(version).is_err();
        }
        let answer = match reading.receive(inner, outage.as_deref()) {
            Ok(()) => reading.go_on(inner, outage.as_deref()),
            // The transaction is about to start again.
            Err(Stop::NeedsDatabase) => Err(Error::TRANSACTION_CANCELLED.into()),
            Err(stop) => Err(stop),
        };
        let answer = match answer {
            Err(Stop::Silent) => {
                let future = reading.future.clone();
                let load = Load::Reading(reading);
                let wait = Wait::Outage(outage);
                self.when(inner, wait, &future, true, move |transaction, inner| {
                    inner.flights.push_back(Flight::again(trip, load));
                    transaction.arrive_all(inner);
                });
                return;
            }
            Ok(None) => {
                let load = Load::Reading(reading);
                return inner.flights.push_back(Flight::again(trip, load));
            }
            Ok(Some(output)) => Ok(output),
            Err(stop) => Err(stop),
        };
        let result = inner.end_read(answer);
        inner.outbox.push((reading.future, result));
        inner.reads_under_way -= 1;
        self.commit_after_reads(inner);
    }

    /// Runs an action once its prerequisite has arrived, unless the transaction has ended or restarted
    /// by then. `future` ends with the transaction. `is_read` if a commit waits for it.
    pub(super) fn when(
        self: &Arc<Self>,
        inner: &mut Inner,
        wait: Wait,
        future: &Arc<Future>,
        is_read: bool,
        resume: impl FnOnce(&Arc<Transaction>, &mut Inner) + Send + 'static,
    ) {
        self.keep_pending(inner, future);
        let outage = match wait {
            Wait::Time(delay) => return self.later(inner, delay, resume),
            Wait::Outage(outage) => outage,
        };
        let resume = Box::new(resume);
        inner.parked.push(Parked { is_read, resume });
        let waiter = Arc::downgrade(self);
        if !self.handle.database.faults.wait_for_end(outage, waiter) {
            // It has ended in the meantime.
            self.later(inner, Duration::ZERO, |transaction, inner| {
                transaction.resume(inner);
            });
        }
    }

    /// Runs an action after a delay, unless the transaction restarts before.
    fn later(
        self: &Arc<Self>,
        inner: &Inner,
        delay: Duration,
        resume: impl FnOnce(&Arc<Transaction>, &mut Inner) + Send + 'static,
    ) {
        let generation = inner.generation;
        let transaction = Arc::downgrade(self);
        let resume = move || {
            let Some(transaction) = transaction.upgrade() else {
                return;
            };
            transaction.with(|inner| {
                if inner.generation == generation {
                    resume(&transaction, inner);
                }
            });
        };
        network::after(delay, Box::new(resume));
    }

    fn resume(self: &Arc<Self>, inner: &mut Inner) {
        for parked in std::mem::take(&mut inner.parked) {
            (parked.resume)(self, inner);
        }
    }

    /// The writes so far, to add more. Reads in flight keep seeing the earlier ones.
    pub(super) fn writes_of<'a>(self: &Arc<Self>, inner: &'a mut Inner) -> &'a mut WriteMap {
        let shared = Arc::get_mut(&mut inner.writes).is_none();
        if shared && inner.writes.len() > LARGE_WRITE_MAP {
            self.arrive_all(inner);
        }
        Arc::make_mut(&mut inner.writes)
    }
}

impl OutageWaiter for Transaction {
    fn outage_changed(self: Arc<Self>) {
        self.with(|inner| self.resume(inner));
    }
}

impl Reading {
    fn new(inner: &mut Inner, read: Read, snapshot: bool, outage: Option<&Outage>) -> Reading {
        let sees_writes = matches!(inner.sees(snapshot), Sight::OwnWrites);
        let writes = sees_writes.then(|| inner.writes.clone());
        let view = inner.view(writes.as_deref(), outage);
        let progress = match &read {
            Read::Value(_) => Progress::Value,
            Read::Key(selector) => Progress::Key(Box::new(KeyWalk::new(&view, selector))),
            Read::Range {
                begin,
                end,
                limits,
                reverse,
            } => Progress::Range(Box::new(Walk::new(&view, begin, end, *limits, *reverse))),
        };
        Reading {
            read,
            snapshot,
            writes,
            progress,
            future: Future::pending(),
        }
    }

    /// Takes the database's answer.
    fn receive(&mut self, inner: &mut Inner, outage: Option<&Outage>) -> Answer<()> {
        let mut view = inner.view(self.writes.as_deref(), outage);
        match (&mut self.progress, &self.read) {
            (Progress::Key(walk), _) => walk.receive(&mut view),
            (Progress::Range(walk), _) => walk.receive(&mut view),
            (Progress::Value, Read::Value(key)) => {
                let next = key_after(key);
                if view.space.is_none() {
                    return Err(Stop::NeedsDatabase);
                }
                if view.is_silent(key, &next) {
                    return Err(Stop::Silent);
                }
                if view.failure.is_none() {
                    view.known.insert(key.clone(), next);
                }
                Ok(())
            }
            (Progress::Value, _) => Ok(()),
        }
    }

    /// Continues until the database has to be asked (`None`), or the result is known.
    fn go_on(&mut self, inner: &mut Inner, outage: Option<&Outage>) -> Answer<Option<Output>> {
        let max_key = inner.max_read_key();
        let view = inner.view(self.writes.as_deref(), outage);
        match (&mut self.progress, &self.read) {
            (
                Progress::Range(walk),
                Read::Range {
                    begin,
                    end,
                    reverse,
                    ..
                },
            ) => {
                let Some(rows) = walk.go_on(&view)? else {
                    return Ok(None);
                };
                let conflict = range_conflict(begin, end, &rows, *reverse, max_key);
                self.add_conflict(inner, conflict);
                Ok(Some(Output::KeyValues(KeyValues::new(
                    rows.rows, rows.more,
                ))))
            }
            (Progress::Key(walk), Read::Key(selector)) => {
                let Some(key) = walk.go_on(&view)? else {
                    return Ok(None);
                };
                self.add_conflict(inner, key_conflict(selector, &key));
                Ok(Some(Output::Key(key.min(max_key.into()))))
            }
            (_, Read::Value(key)) => {
                let next = key_after(key);
                let got = match view.get(key) {
                    Err(Stop::NeedsDatabase) => return Ok(None),
                    got => got?,
                };
                if got.asked && !view.known.covers(key, &next) {
                    return Ok(None);
                }
                let noted = !self.snapshot && inner.writes.at(key).1.reads_database();
                if noted {
                    inner.note_read(key);
                }
                Ok(Some(Output::Value(got.value)))
            }
            _ => Err(Error::INTERNAL_ERROR.into()),
        }
    }

    fn add_conflict(&self, inner: &mut Inner, (begin, end): KeyRange) {
        if let (Some(writes), false) = (&self.writes, self.snapshot) {
            inner.add_read_conflict(writes, begin, end);
        }
    }
}

impl Inner {
    /// The result of a read that needs no database, if it needs none.
    pub(super) fn without_database(
        &mut self,
        read: &Read,
        snapshot: bool,
    ) -> Answer<Option<Output>> {
        Reading::new(self, read.clone(), snapshot, None).go_on(self, None)
    }

    /// The result of a read that takes one request, whatever else arrives meanwhile, or none. The
    /// knowledge gained from it stays in flight.
    fn answer_at_once(
        &mut self,
        read: &Read,
        snapshot: bool,
        trip: Trip,
    ) -> Answer<Option<Output>> {
        let own_writes = matches!(self.sees(snapshot), Sight::OwnWrites);
        let (output, load) = match read {
            Read::Value(key) => {
                // Only where the database cannot be read does it matter what is known.
                if self.failure().is_some() {
                    self.fold_known();
                }
                let got = self.current_view(own_writes).get(key)?;
                let noted = !snapshot && self.writes.at(key).1.reads_database();
                let output = Output::Value(got.value);
                if !got.asked {
                    if noted {
                        self.note_read(key);
                    }
                    return Ok(Some(output));
                }
                let key = key.clone();
                (output, Load::Value { key, noted })
            }
            Read::Key(_) => return Ok(None),
            Read::Range {
                begin,
                end,
                limits,
                reverse,
            } => {
                self.fold_known();
                let max_key = self.max_read_key();
                let view = self.current_view(own_writes);
                let Some(at_once) = view.range_at_once(begin, end, *limits, *reverse)? else {
                    return Ok(None);
                };
                let (rows, known) = (at_once.rows, at_once.known);
                let conflict = range_conflict(begin, end, &rows, *reverse, max_key);
                // None of it was written, so all of it depends on the database.
                let conflict = (!snapshot && conflict.0 < conflict.1).then_some(conflict);
                let output = Output::KeyValues(KeyValues::new(rows.rows, rows.more));
                (output, Load::Rows { known, conflict })
            }
        };
        let early = self.is_early();
        self.flights.push_back(Flight { trip, early, load });
        Ok(Some(output))
    }

    /// Whether a client would still be waiting for the read version.
    fn is_early(&self) -> bool {
        self.version_trip.is_some_and(|trip| !trip.is_over())
    }

    /// The view of a read that is sent now. Keys that were read one by one may be missing from the known
    /// keys.
    pub(super) fn current_view(&mut self, own_writes: bool) -> View<'_> {
        let failure = self.failure();
        let max_key = self.max_read_key();
        View {
            max_key,
            bypass_unreadable: self.options.bypass_unreadable,
            space: self.sighted.as_ref().map(|sighted| &sighted.space),
            failure,
            outage: None,
            writes: if own_writes { &self.writes } else { &NO_WRITES },
            known: &mut self.known,
        }
    }

    /// The transaction's view; only the database if there are no `writes`.
    pub(super) fn view<'a>(
        &'a mut self,
        writes: Option<&'a WriteMap>,
        outage: Option<&'a Outage>,
    ) -> View<'a> {
        let failure = self.failure();
        self.fold_known();
        View {
            max_key: self.max_read_key(),
            bypass_unreadable: self.options.bypass_unreadable,
            space: self.sighted.as_ref().map(|sighted| &sighted.space),
            failure,
            outage,
            writes: writes.unwrap_or(&NO_WRITES),
            known: &mut self.known,
        }
    }

    /// Notes that a client has cached the value of a key.
    pub(super) fn learn_key(&mut self, key: &Key) {
        self.known_keys.push(key.clone());
        if self.known_keys.len() >= FOLD {
            self.fold_known();
        }
    }

    pub(super) fn fold_known(&mut self) {
        fold(&mut self.known_keys, &mut self.known);
    }

    /// Notes which part of a key's read came from the database.
    pub(super) fn note_read(&mut self, key: &Key) {
        self.approximate_size += 2 * key.len() + 1 + RANGE_RECORD;
        self.read_keys.push(key.clone());
        if self.read_keys.len() >= FOLD {
            self.fold_reads();
        }
    }

    pub(super) fn fold_reads(&mut self) {
        fold(&mut self.read_keys, &mut self.read_conflicts);
    }

    /// Ends everything in flight or parked; nothing else will.
    pub(super) fn end_flights(&mut self, error: Error) {
        for flight in self.flights.drain(..) {
            if let Load::Reading(reading) = flight.load {
                self.reads_under_way -= 1;
                self.outbox.push((reading.future, Err(error)));
            }
        }
        let reads = self.parked.drain(..).filter(|parked| parked.is_read);
        self.reads_under_way -= reads.count();
    }

    /// Counts the reads that a client serves from its cache, although the client has not waited for them.
    pub(super) fn count_known_flights(&mut self) {
        self.fold_known();
        let flights = std::mem::take(&mut self.flights);
        for flight in flights {
            match &flight.load {
                Load::Value { key, noted } if self.known.covers(key, &key_after(key)) => {
                    if *noted {
                        self.note_read(key);
                    }
                }
                _ => self.flights.push_back(flight),
            }
        }
    }
}

/// For reads that do not see their transaction's writes.
static NO_WRITES: std::sync::LazyLock<WriteMap> = std::sync::LazyLock::new(WriteMap::default);

/// Adds single keys to a set.
fn fold(keys: &mut Vec<Key>, set: &mut RangeSet) {
    for key in keys.drain(..) {
        let next = key_after(&key);
        set.insert(key, next);
    }
}
