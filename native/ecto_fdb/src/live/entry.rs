//! A live query that is alive: its newest data, its watch, and who subscribed.
//!
//! Locks are taken in this order: a subscription's, an entry's `state`, an entry's `current`. An
//! entry's are held for moments only, never across a send or an await; a subscription's is held
//! across its own message.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use foundationdb::FdbResult;
use parking_lot::{Mutex, RwLock};
use rustler::ResourceArc;
use slab::Slab;
use tokio::task::AbortHandle;

use super::delivery::{self, Due};
use super::events::Event;
use super::plan;
use super::query::{Found, MetadataVersion, Query};
use super::reader::{self, WatchFuture};
use super::shared_term;
use super::snapshot::Snapshot;
use super::subscription::Subscription;
use crate::client;
use crate::database::Database;
use crate::error::Error;
use crate::stats::{count, Stats};

/// How many subscriptions are woken before another entry has its turn.
const DELIVERY_TURN: usize = 256;

/// The database's watch that is pending for an entry.
struct ArmedWatch {
    /// A completion counts only if it is of the entry's current watch.
    id: u64,
    /// The read version of the transaction that armed it.
    read_version: i64,
    /// The value it was armed with: FoundationDB compares nothing else.
    value: Option<Box<[u8]>>,
    since: Instant,
    task: AbortHandle,
    database: Arc<Database>,
}

impl Drop for ArmedWatch {
    fn drop(&mut self) {
        self.task.abort();
        let pending = &self.database.stats.pending_watches;
        pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a batch read of one query.
pub struct Read {
    /// The batch's read version.
    pub read_version: i64,
    /// How long the batch took until it was read, in microseconds.
    pub duration: u64,
    /// The records and the watched key's value.
    pub found: Found,
    /// The watch that the batch's transaction armed, unless the pending one could be kept.
    pub armed: Option<WatchFuture>,
}

struct State {
    /// The read version of `current`: older reads never replace it.
    read_version: i64,
    /// The watched key's value at that version.
    watched: Option<Box<[u8]>>,
    watch: Option<ArmedWatch>,
    subscribers: Slab<ResourceArc<Subscription>>,
    /// Whether a re-read is queued and has not begun.
    refreshing: bool,
    /// Whether one will be queued after a delay.
    retrying: bool,
    /// The metadata version under which the query was planned, where it is a plan.
    planned_at: MetadataVersion,
    /// Since when the planner owes an answer.
    asked: Option<Instant>,
    /// Whether there is no plan: nothing is read until there is one.
    unplanned: bool,
    /// Failures in a row, of reads and of watches: they space out the next attempts.
    failures: u32,
    /// Since when no read has succeeded.
    failing_since: Option<Instant>,
    /// Set with the last subscriber's leaving: whoever comes later makes a new entry.
    closed: bool,
    /// Whom delivery wakes next, and whether it is queued.
    round: Round,
    delivering: bool,
}

impl State {
    fn attach(&mut self, subscription: ResourceArc<Subscription>) -> usize {
        let slot = self.subscribers.insert(subscription);
        self.round.resize(self.subscribers.capacity());
        slot
    }
}

/// A delivery's way through the subscribers' places. A change meanwhile starts no one over: the round
/// goes on from where it is, and the tail comes first.
#[derive(Default)]
struct Round {
    places: usize,
    cursor: usize,
    left: usize,
}

impl Round {
    /// Every place is visited from now on.
    fn begin(&mut self) {
        self.left = self.places;
    }

    /// With more places a round that is under way begins anew: the rest of it would be spent on the new
    /// places, and end before it has been at the old ones.
    fn resize(&mut self, places: usize) {
        if self.places != places {
            self.places = places;
            if self.left > 0 {
                self.begin();
            }
        }
    }

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        self.cursor = if self.cursor + 1 < self.places {
            self.cursor + 1
        } else {
            0
        };
        Some(self.cursor)
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }
}

/// A live query with subscribers.
pub struct Entry {
    /// What it reads.
    pub query: Arc<Query>,
    database: Arc<Database>,
    current: ArcSwap<Snapshot>,
    /// Why `current` may not be what the database holds.
    stale: RwLock<Option<Error>>,
    is_stale: AtomicBool,
    state: Mutex<State>,
}

/// The entry has closed: it must be looked up again.
pub struct Closed;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl Entry {
    /// An entry without data, watch and subscribers yet: `install` a read next.
    pub fn new(
        database: &Arc<Database>,
        query: &Arc<Query>,
        planned_at: MetadataVersion,
    ) -> Arc<Entry> {
        // No read has this snapshot's generation or read version -1: `install` replaces both.
        Entry::showing(database, query, planned_at, Arc::new(Snapshot::nothing()))
    }

    fn showing(
        database: &Arc<Database>,
        query: &Arc<Query>,
        planned_at: MetadataVersion,
        snapshot: Arc<Snapshot>,
    ) -> Arc<Entry> {
        Arc::new(Entry {
            query: Arc::clone(query),
            database: Arc::clone(database),
            current: ArcSwap::new(snapshot),
            stale: RwLock::new(None),
            is_stale: AtomicBool::new(false),
            state: Mutex::new(State {
                read_version: -1,
                watched: None,
                watch: None,
                subscribers: Slab::new(),
                refreshing: false,
                retrying: false,
                planned_at,
                asked: None,
                unplanned: false,
                failures: 0,
                failing_since: None,
                closed: false,
                round: Round::default(),
                delivering: false,
            }),
        })
    }

    /// The counters of its database.
    pub fn stats(&self) -> &Stats {
        &self.database.stats
    }

    fn report(&self, event: &Event) {
        self.database.live.reporter.tell(event);
    }

    /// The newest data.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// What it costs to take the newest data where these are had; nothing where they are the newest.
    pub fn cost_since(&self, before: &Snapshot) -> usize {
        let current = self.current.load();
        match current.generation == before.generation {
            true => 0,
            false => current.cost_of_change(before),
        }
    }

    /// The newest data's generation.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Whether the newest data may not be what the database holds.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire) || self.database.live.heartbeat.is_silent()
    }

    /// Why that is so.
    pub fn stale_reason(&self) -> Error {
        let own = self.stale.read().clone();
        own.unwrap_or_else(|| self.database.live.heartbeat.reason())
    }

    fn set_stale(self: &Arc<Self>, state: &mut State, reason: Option<Error>) {
        if state.closed {
            return;
        }
        let stale = reason.is_some();
        *self.stale.write() = reason;
        if self.is_stale.swap(stale, Ordering::AcqRel) != stale {
            let subscribers = state.subscribers.len();
            let event = if stale {
                count(&self.stats().stale, 1);
                Event::Stale(subscribers)
            } else {
                self.stats().stale.fetch_sub(1, Ordering::Relaxed);
                Event::Fresh(subscribers)
            };
            self.report(&event);
            self.deliver(state);
        }
    }

    /// Wakes whoever has older data, or was told otherwise about their staleness.
    pub fn tell(self: &Arc<Self>) {
        self.deliver(&mut self.state.lock());
    }

    /// Whether the pending watch was armed with this value, and so need not be replaced.
    pub fn watches(&self, value: Option<&[u8]>) -> bool {
        let state = self.state.lock();
        state
            .watch
            .as_ref()
            .is_some_and(|watch| watch.value.as_deref() == value)
    }

    /// Whether the query may be installed as read under this metadata version. If it may not, the
    /// planner is asked.
    pub fn check_plan(self: &Arc<Self>, version: &MetadataVersion) -> bool {
        if self.query.plan.is_none() {
            return true;
        }
        let mut state = self.state.lock();
        if state.planned_at == *version {
            return !state.unplanned;
        }
        if state.closed {
            return false;
        }
        // A planner that has crashed, or is being restarted, may have lost the question.
        if let Some(asked) = state.asked {
            if asked.elapsed() < reader::LONGEST_DELAY {
                return false;
            }
            let since = *state.failing_since.get_or_insert(asked);
            if since.elapsed() >= self.database.live.heartbeat.stale_after() {
                self.set_stale(&mut state, Some(plan::unanswered()));
            }
        }
        state.asked = Some(Instant::now());
        self.database.live.planner.ask(self);
        false
    }

    /// A subscriber has planned it under this metadata version.
    pub fn confirm_plan(&self, version: &MetadataVersion) {
        if self.query.plan.is_some() {
            let mut state = self.state.lock();
            state.planned_at.clone_from(version);
            state.asked = None;
            state.unplanned = false;
        }
    }

    /// The plan is the same as before.
    pub fn planned(self: &Arc<Self>, version: MetadataVersion) {
        let mut state = self.state.lock();
        state.planned_at = version;
        state.asked = None;
        state.unplanned = false;
        // A re-read may have been refused meanwhile, and an index may have been rebuilt, which no watch
        // notices.
        self.refresh(&mut state);
    }

    /// There is no plan under this metadata version.
    pub fn unplanned(self: &Arc<Self>, reason: Error, version: MetadataVersion) {
        let mut state = self.state.lock();
        state.planned_at = version;
        state.asked = None;
        state.unplanned = true;
        state.watch = None;
        self.set_stale(&mut state, Some(reason));
    }

    /// Another query has taken this one's place: all subscribers move there.
    pub fn replace(self: &Arc<Self>, query: Query, version: MetadataVersion) {
        let query = Arc::new(query);
        let live = &self.database.live;
        // Whoever attaches here meanwhile is asked for anew.
        self.state.lock().asked = None;
        let new = loop {
            let entry = live.find(&query).unwrap_or_else(|| {
                // Until it has read something it shows what this one does.
                let shown = self.current();
                let entry = Entry::showing(&self.database, &query, version.clone(), shown);
                live.insert(&self.database, entry)
            });
            if !entry.state.lock().closed {
                break entry;
            }
            live.forget(&entry);
        };
        let subscribers: Vec<_> = {
            let state = self.state.lock();
            let all = state.subscribers.iter();
            all.map(|(slot, subscription)| (slot, subscription.clone()))
                .collect()
        };
        for (slot, subscription) in subscribers {
            Subscription::move_part(&subscription, self, slot, &new);
        }
        let mut state = new.state.lock();
        if state.subscribers.is_empty() && !state.closed {
            // They have all left meanwhile.
            drop(state);
            return new.close_if_empty();
        }
        new.refresh(&mut state);
    }

    /// Takes over what a batch has read and the watch it armed, and attaches subscriptions to the
    /// data of that batch. Returns those data, and each subscription's slot.
    pub fn install(
        self: &Arc<Self>,
        read: Read,
        subscriptions: &[ResourceArc<Subscription>],
    ) -> Result<(Arc<Snapshot>, Vec<usize>), (Closed, Read)> {
        // The comparison is done outside of the lock, against what will most likely still be there.
        let before = self.current();
        let (records, mut change) = before.reuse(read.found.records);
        if !before.is_same(&change) && self.state.lock().subscribers.len() >= shared_term::MANY {
            change.share(&records);
        }
        let found = Found {
            records,
            ..read.found
        };
        let read = Read { found, ..read };

        let mut state = self.state.lock();
        if state.closed || (state.subscribers.is_empty() && subscriptions.is_empty()) {
            return Err((Closed, read));
        }
        let current = self.current();
        let newer = read.read_version > state.read_version;
        let equal = before.is_same(&change)
            && before.generation == current.generation
            && current.generation != 0;
        let snapshot = if equal {
            current
        } else {
            Arc::new(Snapshot::new(next_id(), read.found.records, Some(change)))
        };
        if let Some(fires) = read.armed {
            let older = |watch: &ArmedWatch| watch.read_version <= read.read_version;
            if state.watch.as_ref().is_none_or(older) {
                let value = read.found.watched.clone();
                state.watch = None;
                state.watch = Some(self.arm(fires, value, read.read_version));
            }
        }
        if newer {
            self.database.live.shows(read.read_version);
            state.read_version = read.read_version;
            state.watched = read.found.watched;
            if !equal {
                self.current.store(Arc::clone(&snapshot));
                self.deliver(&mut state);
            }
        }
        state.failing_since = None;
        if self.is_stale.load(Ordering::Acquire) {
            self.set_stale(&mut state, None);
        }
        let slots = subscriptions
            .iter()
            .map(|subscription| state.attach(subscription.clone()))
            .collect();
        self.report(&Event::Refreshed {
            duration: read.duration,
            records: snapshot.len(),
            subscribers: state.subscribers.len(),
            changed: !equal,
        });
        // Two batches that read at the same time may each have relied on a watch of the other's.
        // What must hold in the end: a watch is pending that was armed with what is shown.
        let armed_with_it = |watch: &ArmedWatch| watch.value == state.watched;
        if !state.watch.as_ref().is_some_and(armed_with_it) {
            self.refresh(&mut state);
        }
        Ok((snapshot, slots))
    }

    /// Attaches a subscription that takes over what another one has of this entry.
    pub fn adopt(&self, subscription: &ResourceArc<Subscription>) -> Result<usize, Closed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        Ok(state.attach(subscription.clone()))
    }

    fn arm(
        self: &Arc<Self>,
        fires: WatchFuture,
        value: Option<Box<[u8]>>,
        read_version: i64,
    ) -> ArmedWatch {
        let id = next_id();
        let entry = Arc::clone(self);
        count(&self.stats().watches_armed, 1);
        self.report(&Event::WatchArmed);
        count(&self.stats().pending_watches, 1);
        let task = client::runtime().spawn(async move { entry.watch_done(id, fires.await) });
        ArmedWatch {
            id,
            read_version,
            value,
            since: Instant::now(),
            task: task.abort_handle(),
            database: Arc::clone(&self.database),
        }
    }

    fn watch_done(self: &Arc<Self>, id: u64, result: FdbResult<()>) {
        let mut state = self.state.lock();
        let Some(watch) = state.watch.take_if(|watch| watch.id == id) else {
            return;
        };
        match result {
            Ok(()) => {
                count(&self.stats().watches_fired, 1);
                self.report(&Event::WatchFired);
                state.failures = 0;
                self.refresh(&mut state);
            }
            Err(error) => {
                count(&self.stats().watches_failed, 1);
                self.report(&Event::WatchFailed(error.code()));
                // Without a watch it is read again and again, less and less often.
                if watch.since.elapsed() > reader::LONGEST_DELAY {
                    state.failures = 0;
                }
                self.refresh_later(&mut state);
            }
        }
    }

    /// Its read failed for now. The data stay, and it is read again after a delay; if that goes on,
    /// subscribers are told that the data are stale.
    pub fn failed(self: &Arc<Self>, error: &Error) {
        let mut state = self.state.lock();
        let since = *state.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.database.live.heartbeat.stale_after() {
            self.set_stale(&mut state, Some(error.clone()));
        }
        self.refresh_later(&mut state);
    }

    fn refresh(self: &Arc<Self>, state: &mut State) {
        if !state.refreshing && !state.closed && !state.unplanned {
            state.refreshing = true;
            self.database.live.refresh(&self.database, Arc::clone(self));
        }
    }

    fn refresh_later(self: &Arc<Self>, state: &mut State) {
        let delay = reader::delay(state.failures);
        state.failures = state.failures.saturating_add(1);
        if delay.is_zero() {
            return self.refresh(state);
        }
        if !state.retrying && !state.closed {
            state.retrying = true;
            let entry = Arc::clone(self);
            client::runtime().spawn(async move {
                tokio::time::sleep(delay).await;
                let mut state = entry.state.lock();
                state.retrying = false;
                entry.refresh(&mut state);
            });
        }
    }

    /// What is shown was read from a database that is no more: whatever is read next replaces it.
    pub fn begin_anew(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.read_version = -1;
        state.watch = None;
        self.refresh(&mut state);
    }

    /// A batch takes up the queued re-read. False where nobody is left to read for.
    pub fn begin_refresh(&self) -> bool {
        let mut state = self.state.lock();
        state.refreshing = false;
        !state.closed && !state.unplanned
    }

    fn deliver(self: &Arc<Self>, state: &mut State) {
        state.round.begin();
        if !state.delivering {
            state.delivering = true;
            delivery::queue(Due::Entry(Arc::clone(self)));
        }
    }

    /// The next few subscriptions to wake; whether more are left.
    pub fn delivery_turn(&self, due: &mut Vec<ResourceArc<Subscription>>) -> bool {
        let mut state = self.state.lock();
        for _ in 0..DELIVERY_TURN {
            let Some(place) = state.round.next() else {
                break;
            };
            due.extend(state.subscribers.get(place).cloned());
        }
        state.delivering = !state.round.is_over();
        state.delivering
    }

    /// A subscription leaves. The last one closes the entry and drops its watch.
    pub fn detach(self: &Arc<Self>, slot: usize) {
        let subscription = self.state.lock().subscribers.try_remove(slot);
        self.close_if_empty();
        drop(subscription);
    }

    fn close_if_empty(self: &Arc<Self>) {
        let watch = {
            let mut state = self.state.lock();
            if !state.subscribers.is_empty() || state.closed {
                return;
            }
            state.closed = true;
            state.watch.take()
        };
        if self.is_stale.swap(false, Ordering::AcqRel) {
            self.stats().stale.fetch_sub(1, Ordering::Relaxed);
        }
        self.database.live.forget(self);
        drop(watch);
    }
}
