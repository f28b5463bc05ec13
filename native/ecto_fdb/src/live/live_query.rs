//! A live query: its newest data, and the state machine that keeps them up to date.
//!
//! The machine's transitions run under a lock that is held for moments only. What they ask for is
//! carried out by the [`Home`] after the lock is released: nothing is sent, read or waited for under
//! it. Where a subscription's lock is held as well, it was taken first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foundationdb::FdbResult;
use live_state::{Effects, LiveQueryState, NewRead, Probe, Stage};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::basis::Basis;
use super::query::{Found, Query};
use super::shared_term;
use super::snapshot::Snapshot;
use crate::client;
use crate::database::Database;
use crate::error::Error;
use crate::stats::count;

/// How many subscribers are notified before another live query has its turn.
const FAN_OUT_TURN: usize = 256;
/// How often a read is compared with what other reads have installed meanwhile.
const MOST_COMPARISONS: u32 = 4;
/// How many subscribers move to another live query under one lock.
const MOVE_TURN: usize = 256;

/// What live queries belong to: it carries their effects out.
pub trait Home<S>: Send + Sync {
    /// The database.
    fn database(&self) -> &Arc<Database>;
    /// Whether the database does not answer.
    fn is_silent(&self) -> bool;
    /// Why its data cannot be confirmed.
    fn silence(&self) -> Error;
    /// After how long without a confirmation data are stale.
    fn stale_after(&self) -> Duration;
    /// Carries effects out.
    fn carry_out(&self, live_query: &Arc<LiveQuery<S>>, effects: Effects<WatchTask>);
    /// Notifies one subscriber, soon.
    fn notify(&self, subscriber: S);
    /// A watch of it has fired or failed.
    fn watch_completed(&self, result: &FdbResult<()>);
    /// Nobody waits for the call of this ticket any more.
    fn forget_call(&self, ticket: u64);
}

/// A pending watch of the database. Dropping it cancels the watch.
pub struct WatchTask {
    task: AbortHandle,
    database: Arc<Database>,
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        self.task.abort();
        let pending = &self.database.stats.pending_watches;
        pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A watch that a transaction has armed, or will with its commit.
pub type WatchFuture = futures::future::BoxFuture<'static, FdbResult<()>>;

/// What a batch has read of one query.
pub struct Read {
    /// The batch's read version.
    pub read_version: i64,
    /// How long it took, from the batch's beginning.
    pub took: Duration,
    /// The records and the watched key's value.
    pub found: Found,
    /// The watch that the batch's transaction armed, unless the pending one could be kept.
    pub armed: Option<WatchFuture>,
}

/// What a live query's plan was made from; none for a query that is read as it is.
pub type PlanBasis = Option<Arc<Basis>>;

type State<S> = LiveQueryState<S, WatchTask, PlanBasis, Error>;

/// A live query with subscribers.
pub struct LiveQuery<S> {
    /// What it reads.
    pub query: Arc<Query>,
    home: Arc<dyn Home<S>>,
    current: ArcSwap<Snapshot>,
    /// Whether its own data are stale; the database may be silent beside.
    is_stale: AtomicBool,
    /// How many microseconds its last read took.
    read_us: AtomicU64,
    /// Whether that was reported, so that its end is.
    stale_reported: AtomicBool,
    state: Mutex<State<S>>,
}

/// A subscriber's place in a live query. Dropping it gives the place up.
pub struct Attached<S: Clone + Send + 'static> {
    live_query: Arc<LiveQuery<S>>,
    slot: usize,
}

impl<S: Clone + Send + 'static> Attached<S> {
    /// The live query.
    pub fn live_query(&self) -> &Arc<LiveQuery<S>> {
        &self.live_query
    }
}

impl<S: Clone + Send + 'static> Drop for Attached<S> {
    fn drop(&mut self) {
        let slot = self.slot;
        let mut subscriber = None;
        self.live_query.transition(|state| {
            let (found, effects) = state.detach(slot);
            subscriber = found;
            effects
        });
    }
}

/// The live query has closed: it must be looked up again.
pub struct Closed;

/// Numbers for data and watches. They are never used twice.
fn next_id() -> u64 {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl<S: Clone + Send + 'static> LiveQuery<S> {
    /// A live query without data, watch and subscribers: install a read next.
    pub fn new(home: Arc<dyn Home<S>>, query: &Arc<Query>, basis: PlanBasis) -> Arc<Self> {
        // No read has this snapshot's generation: the first one replaces it.
        Self::showing(home, query, basis, Arc::new(Snapshot::nothing()))
    }

    fn showing(
        home: Arc<dyn Home<S>>,
        query: &Arc<Query>,
        basis: PlanBasis,
        snapshot: Arc<Snapshot>,
    ) -> Arc<Self> {
        Arc::new(LiveQuery {
            query: Arc::clone(query),
            home,
            current: ArcSwap::new(snapshot),
            is_stale: AtomicBool::new(false),
            read_us: AtomicU64::new(0),
            stale_reported: AtomicBool::new(false),
            state: Mutex::new(LiveQueryState::new(basis, Instant::now())),
        })
    }

    /// What it belongs to.
    pub fn home(&self) -> &Arc<dyn Home<S>> {
        &self.home
    }

    /// The newest data.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The generation of the newest data.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// What it costs to take the newest data for a process that has these.
    pub fn cost_since(&self, before: &Snapshot) -> usize {
        let current = self.current.load();
        match current.generation == before.generation {
            true => 0,
            false => current.cost_of_change(before),
        }
    }

    /// Whether the newest data may not be what the database holds.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire) || self.home.is_silent()
    }

    /// Why that is so.
    pub fn stale_reason(&self) -> Error {
        let own = self.state.lock().stale().cloned();
        own.unwrap_or_else(|| self.home.silence())
    }

    /// That it is stale is reported, or that it is fresh again. Returns whether it was reported as stale.
    pub fn report_stale(&self, stale: bool) -> bool {
        self.stale_reported.swap(stale, Ordering::AcqRel)
    }

    /// How long its last read took.
    pub fn read_time(&self) -> Duration {
        Duration::from_micros(self.read_us.load(Ordering::Relaxed))
    }

    /// Whether it is in the side lane: its last read took too long, or got no answer.
    pub fn is_side(&self) -> bool {
        self.state.lock().is_side()
    }

    /// What its plan was made from.
    pub fn basis(&self) -> PlanBasis {
        self.state.lock().plan().basis().clone()
    }

    /// Whether a read by another read's basis would serve: it is the same one.
    fn is_planned_on(state: &State<S>, basis: &PlanBasis) -> bool {
        match (state.plan().basis(), basis) {
            (Some(mine), Some(other)) => Arc::ptr_eq(mine, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// A transition of the machine, and what follows from it.
    fn transition(self: &Arc<Self>, change: impl FnOnce(&mut State<S>) -> Effects<WatchTask>) {
        let effects = {
            let mut state = self.state.lock();
            let effects = change(&mut state);
            self.mirror(&state);
            effects
        };
        self.home.carry_out(self, effects);
    }

    /// What is looked at without the lock.
    fn mirror(&self, state: &State<S>) {
        let stale = state.stale().is_some() && !state.is_closed();
        if self.is_stale.load(Ordering::Relaxed) != stale {
            self.is_stale.store(stale, Ordering::Release);
        }
    }

    /// Takes over what a batch has read and the watch it armed, and attaches subscribers to those
    /// data. The read was done on this basis, which was found right. Returns the data and the places.
    pub fn install(
        self: &Arc<Self>,
        read: Read,
        basis: &PlanBasis,
        subscribers: impl ExactSizeIterator<Item = S>,
    ) -> Result<Installed<S>, (Closed, Read)> {
        let attaching = subscribers.len() > 0;
        let read_us = read.took.as_micros() as u64;
        self.read_us.store(read_us, Ordering::Relaxed);
        let mut read = read;
        let mut tries = 0;
        // Compared outside of the lock, with what will most likely still be there. If another read was
        // installed meanwhile, the comparison is done again: equal data must keep their generation.
        let (before, change, mut state) = loop {
            let before = self.current();
            let records = std::mem::take(&mut read.found.records);
            let (records, mut change) = before.reuse(records);
            if !before.is_same(&change) && self.subscribers() >= shared_term::MANY {
                change.share(&records);
            }
            read.found.records = records;
            let state = self.state.lock();
            tries += 1;
            if self.generation() == before.generation || tries == MOST_COMPARISONS {
                break (before, change, state);
            }
        };
        if state.is_closed() || (state.fan_out().is_empty() && !attaching) {
            return Err((Closed, read));
        }
        if !Self::is_planned_on(&state, basis) || !state.plan().holds() {
            // A call was planned on it.
            state.basis_confirmed(basis.clone());
        }
        let current = self.current();
        let equal = before.is_same(&change)
            && before.generation == current.generation
            && current.generation != 0;
        let snapshot = if equal {
            current
        } else {
            Arc::new(Snapshot::new(next_id(), read.found.records, Some(change)))
        };
        let new_read = NewRead {
            read_version: read.read_version,
            watched: read.found.watched,
            changed: !equal,
            slow: read.took >= SLOW,
        };
        let arm = read.armed.map(|fires| {
            let id = next_id();
            (id, move || self.watch(id, fires))
        });
        let (newer, effects) = state.installed(new_read, arm, Instant::now());
        if newer && !equal {
            self.current.store(Arc::clone(&snapshot));
        }
        self.mirror(&state);
        let attached = subscribers
            .map(|subscriber| Attached {
                live_query: Arc::clone(self),
                slot: state.fan_out().attach(subscriber),
            })
            .collect();
        let subscribers = state.fan_out().len();
        drop(state);
        self.home.carry_out(self, effects);
        Ok(Installed {
            snapshot,
            attached,
            changed: !equal,
            subscribers,
        })
    }

    /// Waits for a watch in the background.
    fn watch(self: &Arc<Self>, id: u64, fires: WatchFuture) -> WatchTask {
        let database = self.home.database();
        count(&database.stats.watches_armed, 1);
        count(&database.stats.pending_watches, 1);
        let live_query = Arc::clone(self);
        let task = client::runtime().spawn(async move {
            let result = fires.await;
            live_query.watch_completed(id, result);
        });
        WatchTask {
            task: task.abort_handle(),
            database: Arc::clone(database),
        }
    }

    fn watch_completed(self: &Arc<Self>, id: u64, result: FdbResult<()>) {
        let mut current = true;
        let completed = result.map_err(Error::from);
        self.transition(|state| {
            let effects = state.watch_completed(id, completed, Instant::now());
            current = effects.is_some();
            effects.unwrap_or_else(Effects::none)
        });
        if current {
            self.home.watch_completed(&result);
        }
    }

    /// Whether the pending watch was armed with this value, so that a read that found it needs to
    /// arm no other.
    pub fn is_watched_with(&self, value: Option<&[u8]>) -> bool {
        self.state.lock().is_watched_with(value)
    }

    /// A batch takes the queued read up. False if there is nobody to read for, or no plan to read by.
    pub fn begin_read(&self) -> bool {
        self.state.lock().begin_read()
    }

    /// It must be read again.
    pub fn wanted(self: &Arc<Self>) {
        self.transition(|state| state.wanted(Instant::now()));
    }

    /// A read of it failed. The data stay, and it is read again after a delay.
    pub fn read_failed(self: &Arc<Self>, error: &Error) {
        self.transition(|state| state.read_failed(error.clone(), Instant::now()));
    }

    /// A read of it that began then got no answer.
    pub fn read_unanswered(self: &Arc<Self>, since: Instant) {
        self.transition(|state| state.read_unanswered(since));
    }

    /// The delay before its next read has passed.
    pub fn delay_passed(self: &Arc<Self>) {
        self.transition(|state| state.delay_passed(Instant::now()));
    }

    /// What is shown was read from a database that is no more.
    pub fn database_replaced(self: &Arc<Self>) {
        self.transition(|state| state.database_replaced(Instant::now()));
    }

    /// What its plan was made from has changed. This is said of a basis: it may have another by now.
    pub fn basis_changed(self: &Arc<Self>, basis: &PlanBasis) {
        self.transition(|state| match Self::is_planned_on(state, basis) {
            true => state.basis_changed(Instant::now()),
            false => Effects::none(),
        });
    }

    /// Its tenant is gone: its data are empty, and stale for this reason.
    pub fn tenant_gone(self: &Arc<Self>, reason: Error) {
        self.transition(|state| {
            self.current
                .store(Arc::new(Snapshot::new(next_id(), Vec::new(), None)));
            state.tenant_gone(reason, Instant::now())
        });
    }

    /// Its plan is the same as before, on this basis.
    pub fn planned(self: &Arc<Self>, basis: PlanBasis) {
        self.transition(|state| state.planned(basis, Instant::now()));
    }

    /// No plan can be made from this basis. The data stay, stale for this reason.
    pub fn plan_missing(self: &Arc<Self>, basis: PlanBasis, reason: Error) {
        self.transition(|state| state.plan_missing(basis, reason, Instant::now()));
    }

    /// A live query that shows what this one does until it has read something itself.
    pub fn successor(&self, query: &Arc<Query>, basis: PlanBasis) -> Arc<Self> {
        Self::showing(Arc::clone(&self.home), query, basis, self.current())
    }

    /// Calls this for its subscribers, some at a time, without the lock.
    pub fn each_subscriber(&self, mut each: impl FnMut(usize, S)) {
        let mut place = 0;
        loop {
            let page = self.state.lock().fan_out().page(place, MOVE_TURN);
            let Some((subscribers, next)) = page else {
                return;
            };
            place = next;
            for (slot, subscriber) in subscribers {
                each(slot, subscriber);
            }
        }
    }

    /// Another live query has taken its place: it owes nobody a plan.
    pub fn replaced(&self) {
        let mut state = self.state.lock();
        let basis = state.plan().basis().clone();
        state.basis_confirmed(basis);
    }

    /// Closes it if nobody is subscribed.
    pub fn close_if_empty(self: &Arc<Self>) {
        self.transition(State::close_if_empty);
    }

    /// Looks at the clock: data that were not confirmed for `stale_after` turn stale.
    pub fn check(self: &Arc<Self>, now: Instant) {
        let limit = self.home.stale_after();
        let reason = |missing, unplanned| match self.home.is_silent() {
            true => self.home.silence(),
            false => unconfirmed(missing, unplanned),
        };
        self.transition(|state| state.check(now, limit, reason));
    }

    /// Whether its watched key is due to be looked at.
    pub fn probe_due(&self, now: Instant) -> bool {
        self.state.lock().probe_due(now, self.home.stale_after())
    }

    /// What its plan was made from, while anybody relies on that.
    pub fn relies_on(&self) -> PlanBasis {
        let state = self.state.lock();
        let relied_on = !state.is_closed() && state.plan().stage() != Stage::Gone;
        relied_on.then(|| state.plan().basis().clone()).flatten()
    }

    /// Why it is not settled, for a message.
    pub fn hindrance(&self) -> String {
        let state = self.state.lock();
        match (state.stale(), state.plan().stage()) {
            (Some(reason), _) => reason.to_string(),
            (None, Stage::Asked(_)) => "a query plan for other indexes is awaited".into(),
            (None, _) if state.fan_out_is_running() => "its subscribers are being notified".into(),
            (None, _) => "the keys give no answer yet".into(),
        }
    }

    /// Whether its subscribers have been told of all that was committed up to this version.
    pub fn is_settled(&self, version: i64) -> bool {
        self.state.lock().is_settled(version)
    }

    /// Whether a look at its watched key may confirm it at this version, which nothing has done yet.
    pub fn wants_probe(&self, version: i64) -> bool {
        let state = self.state.lock();
        state.may_be_probed() && state.confirmed_version() < version
    }

    /// Its watched key was looked at.
    pub fn probed(self: &Arc<Self>, probe: Probe<'_>) {
        self.transition(|state| state.probed(probe, Instant::now()));
    }

    /// Notifies every subscriber of what has changed beside its data.
    pub fn notify_all(self: &Arc<Self>) {
        self.transition(|state| Effects {
            fan_out: state.start_fan_out(),
            ..Effects::none()
        });
    }

    /// The next few subscribers to notify; whether more are left.
    pub fn fan_out_turn(&self, due: &mut Vec<S>) -> bool {
        self.state.lock().fan_out().turn(FAN_OUT_TURN, due)
    }

    /// Attaches a subscriber that takes over what another subscription has of it.
    pub fn attach(self: &Arc<Self>, subscriber: S) -> Result<Attached<S>, Closed> {
        let slot = self.state.lock().attach(subscriber).ok_or(Closed)?;
        Ok(Attached {
            live_query: Arc::clone(self),
            slot,
        })
    }

    /// How many subscribers it has.
    pub fn subscribers(&self) -> usize {
        self.state.lock().fan_out().len()
    }

    /// Whether it has closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed()
    }
}

/// A read that took longer than this is done at the side next time, where it holds nobody up.
pub const SLOW: Duration = Duration::from_millis(500);

/// What `install` has done.
pub struct Installed<S: Clone + Send + 'static> {
    /// The batch's data.
    pub snapshot: Arc<Snapshot>,
    /// The subscribers' places, in their order.
    pub attached: Vec<Attached<S>>,
    /// Whether the data are others than before.
    pub changed: bool,
    /// How many subscribers there are now.
    pub subscribers: usize,
}

fn unconfirmed(missing: Duration, unplanned: bool) -> Error {
    let missing = missing.as_millis();
    Error::Client(match unplanned {
        true => format!(
            "the indexes of this list have changed, and no new query plan arrived from the Repo for \
             {missing} ms. Check that the Repo is running"
        ),
        false => format!(
            "the database answers, but not for the keys of this query: no answer for {missing} ms. \
             Check the storage servers (fdbcli: status details)"
        ),
    })
}
