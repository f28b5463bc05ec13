//! The live queries of one database: finds each, and carries out their effects.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foundationdb::FdbResult;
use indexmap::IndexMap;
use live_state::{Effects, Lane, Pulse, Queue, Share, Turn, Turns};
use parking_lot::Mutex;
use rustler::LocalPid;

use super::basis::Basis;
use super::call::{Call, OpenCalls};
use super::evaluator::Evaluator;
use super::events::{Event, Reporter};
use super::live_query::{Home, WatchTask};
use super::notifier::{self, Due};
use super::planner::{Answer, Planner, Request};
use super::query::Query;
use super::subscription::{LiveQuery, Subscriber, Subscription};
use crate::client;
use crate::database::Database;
use crate::error::Error;
use crate::stats::count;

/// The default for how long the database may be silent, or a live query unconfirmed.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// How many live queries are visited under one lock.
const TURN: usize = 1_000;
/// FoundationDB's `too_many_watches`.
const TOO_MANY_WATCHES: i32 = 1032;
/// After a read got no answer, batches wait less for stalled reads for this long.
const INCIDENT: Duration = Duration::from_secs(15);

/// Carries out work that takes time. It imports this module, not the other way round.
#[derive(Clone, Copy)]
pub struct Workers {
    /// Starts a reader of a lane.
    pub read: fn(Arc<LiveQueries>, Lane),
    /// Starts the turns of a function.
    pub evaluate: fn(Arc<LiveQueries>, Arc<Query>),
    /// Starts the heartbeat.
    pub heartbeat: fn(Arc<LiveQueries>),
}

/// The live queries of one database.
pub struct LiveQueries {
    /// The database.
    pub database: Arc<Database>,
    me: Weak<LiveQueries>,
    workers: Workers,
    live_queries: Mutex<IndexMap<Arc<Query>, Arc<LiveQuery>>>,
    bases: Mutex<HashSet<Arc<Basis>>>,
    queue: Mutex<Queue<Call, Arc<LiveQuery>, LocalPid>>,
    /// What waits for a function's next evaluation.
    turns: Mutex<Turns<Arc<Query>, Call, Arc<LiveQuery>>>,
    /// Calls that have not been answered yet.
    pub calls: OpenCalls,
    moves_begun: AtomicU64,
    moves_ended: AtomicU64,
    /// The newest read version of shown data.
    newest: AtomicI64,
    pulse: Mutex<Pulse<Error>>,
    is_silent: AtomicBool,
    stale_after_ms: AtomicU64,
    heart_beats: AtomicBool,
    /// When a query last got no answer.
    incident: Mutex<Option<Instant>>,
    /// The planner.
    pub planner: Planner,
    /// Who has functions evaluated.
    pub evaluator: Evaluator,
    /// Who hears of events.
    pub reporter: Reporter,
}

impl LiveQueries {
    /// The live queries of a database.
    pub fn new(database: Database, workers: Workers) -> Arc<Self> {
        Arc::new_cyclic(|me| LiveQueries {
            database: Arc::new(database),
            me: me.clone(),
            workers,
            live_queries: Mutex::default(),
            bases: Mutex::default(),
            queue: Mutex::default(),
            turns: Mutex::default(),
            calls: OpenCalls::default(),
            moves_begun: AtomicU64::new(0),
            moves_ended: AtomicU64::new(0),
            newest: AtomicI64::new(0),
            pulse: Mutex::new(Pulse::new(Instant::now())),
            is_silent: AtomicBool::new(false),
            stale_after_ms: AtomicU64::new(STALE_AFTER.as_millis() as u64),
            heart_beats: AtomicBool::new(false),
            incident: Mutex::new(None),
            planner: Planner::default(),
            evaluator: Evaluator::default(),
            reporter: Reporter::default(),
        })
    }

    fn me(&self) -> Arc<LiveQueries> {
        // The caller of a method holds it.
        self.me.upgrade().expect("live queries in use")
    }

    /// This registry, as the home of live queries and subscriptions.
    pub fn home(&self) -> Arc<dyn Home<Subscriber>> {
        self.me()
    }

    // Finding live queries

    /// The live query of a query, if there is one.
    pub fn find(&self, query: &Query) -> Option<Arc<LiveQuery>> {
        self.live_queries.lock().get(query).cloned()
    }

    /// The live query of a query; a new one if there is none, or it has closed.
    pub fn find_or_insert(
        &self,
        query: &Arc<Query>,
        new: impl FnOnce() -> Arc<LiveQuery>,
    ) -> Arc<LiveQuery> {
        if let Some(found) = self.find(query).filter(|found| !found.is_closed()) {
            return found;
        }
        let new = new();
        let live_query = {
            let mut live_queries = self.live_queries.lock();
            match live_queries.get(query) {
                Some(found) if !found.is_closed() => Arc::clone(found),
                _ => {
                    let before = live_queries.insert(Arc::clone(query), Arc::clone(&new));
                    if before.is_none() {
                        count(&self.database.stats.live_queries, 1);
                    }
                    new
                }
            }
        };
        self.start_heartbeat();
        live_query
    }

    fn forget(&self, live_query: &Arc<LiveQuery>) {
        let mut live_queries = self.live_queries.lock();
        let found = live_queries.get(&live_query.query);
        if found.is_some_and(|found| Arc::ptr_eq(found, live_query)) {
            live_queries.swap_remove(&live_query.query);
            let stats = &self.database.stats;
            stats.live_queries.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.live_queries.lock().len()
    }

    /// Calls this for every live query, some at a time. It may miss one that is added meanwhile, and visit
    /// others twice.
    pub fn each(&self, mut each: impl FnMut(&Arc<LiveQuery>)) {
        // From the end: the last live query takes the place of a removed one, and was visited or is next.
        let mut place = usize::MAX;
        while place > 0 {
            let turn: Vec<_> = {
                let live_queries = self.live_queries.lock();
                let end = place.min(live_queries.len());
                place = end.saturating_sub(TURN);
                let turn = live_queries.get_range(place..end);
                turn.map_or_else(Vec::new, |turn| turn.values().cloned().collect())
            };
            turn.iter().for_each(&mut each);
        }
    }

    /// The basis that equals this one, shared by all live queries that rely on it.
    pub fn share(&self, basis: Basis) -> Arc<Basis> {
        let mut bases = self.bases.lock();
        if let Some(found) = bases.get(&basis).cloned() {
            drop(bases);
            found.learn_from(&basis);
            return found;
        }
        let basis = Arc::new(basis);
        bases.insert(Arc::clone(&basis));
        basis
    }

    // Reading

    /// Queues a call for the next batch. A full queue refuses it.
    pub fn subscribe(&self, call: Call) {
        let ticket = call.open.ticket;
        let call = match self.wait_for_turn(ticket, call) {
            Ok(()) => return,
            Err(call) => call,
        };
        let joins = call
            .queries()
            .any(|query| self.find(query).is_some_and(|found| !found.is_side()));
        let size = call.size();
        let subscription = call.witness();
        let caller = call.caller;
        let pushed = self.with_queue(Lane::Calls, |queue| {
            let joins = joins.then_some(caller);
            queue.push_call(ticket, call, size, joins, Instant::now())
        });
        if let Err((full, call)) = pushed {
            let error = Error::Client(format!(
                "{} reads of live queries wait for the database already, which is as many as may wait. \
                 It does not answer, or not fast enough: try again later",
                full.waiting
            ));
            // It sends a message, so not on a scheduler.
            client::runtime().spawn(async move { call.refuse(&error) });
        } else if subscription.is_some_and(|subscription| subscription.is_over()) {
            // The process died before its call could be found there.
            self.forget_call(ticket);
        }
    }

    /// Puts back a call that a batch could not answer.
    pub fn put_back(&self, ticket: u64, call: Call, side: bool) {
        let call = match self.wait_for_turn(ticket, call) {
            Ok(()) => return,
            Err(call) => call,
        };
        let size = call.size();
        let lane = if side { Lane::Side } else { Lane::Calls };
        let subscription = call.witness();
        self.with_queue(lane, |queue| {
            queue.put_back(ticket, call, size, side, Instant::now());
        });
        if subscription.is_some_and(|subscription| subscription.is_over()) {
            self.forget_call(ticket);
        }
    }

    /// Queues a call that wants a function for the function's next evaluation; gives any other call back.
    fn wait_for_turn(&self, ticket: u64, call: Call) -> Result<(), Call> {
        let functions = call.queries().filter(|query| query.function().is_some());
        for query in functions {
            if let (Some(later), Some(found)) = (query.function(), self.find(query)) {
                found.adopt(later);
            }
        }
        let function = call.queries().find(|query| query.function().is_some());
        let Some(function) = function.cloned() else {
            return Err(call);
        };
        let subscription = call.witness();
        let start = self.turns.lock().push_call(&function, ticket, call);
        if start {
            (self.workers.evaluate)(self.me(), function);
        }
        if subscription.is_some_and(|subscription| subscription.is_over()) {
            // The process died before its call was there to be found.
            self.forget_call(ticket);
        }
        Ok(())
    }

    /// Queues a function's live query for its next evaluation.
    fn evaluate(&self, live_query: Arc<LiveQuery>) {
        let function = Arc::clone(&live_query.query);
        let start = self.turns.lock().push_refresh(&function, live_query);
        if start {
            (self.workers.evaluate)(self.me(), function);
        }
    }

    /// What a function's next turn is for; `None` ends its turns.
    pub fn next_turn(&self, function: &Arc<Query>) -> Option<Share<Call, Arc<LiveQuery>>> {
        self.turns.lock().next(function)
    }

    /// How many calls and live queries wait for an evaluation.
    pub fn waiting_for_turns(&self) -> usize {
        self.turns.lock().len()
    }

    /// Works on the queue, and starts a reader of this lane if it needs one.
    pub fn with_queue<R>(
        &self,
        lane: Lane,
        work: impl FnOnce(&mut Queue<Call, Arc<LiveQuery>, LocalPid>) -> R,
    ) -> R {
        let mut queue = self.queue.lock();
        let result = work(&mut queue);
        let start = queue.start_reader(lane);
        drop(queue);
        if start {
            (self.workers.read)(self.me(), lane);
        }
        result
    }

    /// The queue, for inspection.
    pub fn look_at_queue<R>(
        &self,
        look: impl FnOnce(&mut Queue<Call, Arc<LiveQuery>, LocalPid>) -> R,
    ) -> R {
        look(&mut self.queue.lock())
    }

    /// Data of this version were read, and are shown.
    pub fn shows(&self, version: i64) {
        self.newest.fetch_max(version, Ordering::AcqRel);
    }

    /// The newest read version of shown data.
    pub fn newest(&self) -> i64 {
        self.newest.load(Ordering::Acquire)
    }

    /// A new database has replaced the one that was read: everything is read again.
    pub fn database_replaced(&self) {
        self.newest.store(0, Ordering::Release);
        self.bases.lock().iter().for_each(|basis| basis.forget());
        self.each(LiveQuery::database_replaced);
    }

    // Whether the database answers

    fn start_heartbeat(&self) {
        if !self.heart_beats.swap(true, Ordering::AcqRel) {
            self.pulse.lock().listen(Instant::now());
            (self.workers.heartbeat)(self.me());
        }
    }

    /// Whether the heartbeat may stop, because there is nothing to keep up to date. Drops bases that no
    /// live query relies on any more.
    pub fn stop_heartbeat(&self) -> bool {
        self.bases
            .lock()
            .retain(|basis| Arc::strong_count(basis) > 1);
        if self.len() > 0 {
            return false;
        }
        self.heart_beats.store(false, Ordering::Release);
        // A live query may have been added since, and found the heartbeat running.
        self.len() == 0 || self.heart_beats.swap(true, Ordering::AcqRel)
    }

    /// The database has answered, which ends any silence.
    pub fn answered(&self) {
        let silent_since = self.pulse.lock().answered(Instant::now());
        let Some(since) = silent_since else { return };
        self.is_silent.store(false, Ordering::Release);
        let duration = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.reporter
            .report(&Event::Answering(self.len(), duration));
        self.each(LiveQuery::notify_all);
    }

    /// The database has answered with this error.
    pub fn refused(&self, error: &Error) {
        self.pulse.lock().refused(error.clone());
        self.transaction_failed(error);
    }

    /// A transaction that began at this time has got an answer.
    pub fn transaction_answered(&self, begun: Instant) {
        if let Some(locked) = self.database.health.answered(begun) {
            self.reporter.report(&Event::Unlocked(locked));
        }
    }

    /// A transaction has got an error.
    pub fn transaction_failed(&self, error: &Error) {
        if self.database.health.failed(error) {
            self.reporter.report(&Event::Locked(error));
        }
    }

    /// Checks the clock: the database may have been silent for too long.
    pub fn check_pulse(&self, now: Instant) {
        if !self.pulse.lock().check(now, self.stale_after()) {
            return;
        }
        self.is_silent.store(true, Ordering::Release);
        self.reporter
            .report(&Event::Silent(self.len(), &self.silence()));
        self.each(LiveQuery::notify_all);
    }

    /// Since when the database has been silent, if it is; how long ago it last answered; and the last
    /// error since.
    pub fn pulse(&self) -> (Option<Duration>, Duration, Option<Error>) {
        let pulse = self.pulse.lock();
        (
            pulse.silent_since().map(|since| since.elapsed()),
            pulse.last_answer().elapsed(),
            pulse.last_error().cloned(),
        )
    }

    /// How long the database may be silent, or a live query unconfirmed, before subscribers are notified.
    pub fn stale_after(&self) -> Duration {
        Duration::from_millis(self.stale_after_ms.load(Ordering::Relaxed))
    }

    /// Sets that time.
    pub fn set_stale_after(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.stale_after_ms.store(time, Ordering::Relaxed);
    }

    /// This many queries of a batch got no answer.
    pub fn unanswered(&self, queries: usize) {
        *self.incident.lock() = Some(Instant::now());
        self.reporter.report(&Event::Unanswered(queries));
    }

    /// Whether some keys gave no answer lately.
    pub fn in_incident(&self) -> bool {
        let incident = *self.incident.lock();
        incident.is_some_and(|since| since.elapsed() < INCIDENT)
    }

    // Plans

    /// The planner's answer to a request. There may be many subscribers to move, so not on a scheduler.
    pub fn planned(&self, request: &Request, answer: Answer) {
        let Some(live_query) = request.live_query() else {
            return;
        };
        match answer {
            Answer::Missing(reason, basis) => {
                live_query.plan_missing(basis, Error::Client(reason));
            }
            Answer::Plan(query, basis) if query == *live_query.query => live_query.planned(basis),
            Answer::Plan(query, basis) => self.replace(&live_query, Arc::new(query), basis),
        }
    }

    /// A different query replaces this one: its subscribers move there.
    fn replace(&self, old: &Arc<LiveQuery>, query: Arc<Query>, basis: Option<Arc<Basis>>) {
        self.moves_begun.fetch_add(1, Ordering::SeqCst);
        let new = self.find_or_insert(&query, || old.successor(&query, basis));
        old.replaced();
        old.each_subscriber(|_slot, subscriber| Subscription::move_to(&subscriber, old, &new));
        // They may all have left in the meantime.
        new.close_if_empty();
        new.wanted();
        self.moves_ended.fetch_add(1, Ordering::SeqCst);
    }

    /// How often subscribers have moved to a different live query; `None` while some are moving.
    pub fn moves(&self) -> Option<u64> {
        let ended = self.moves_ended.load(Ordering::SeqCst);
        let begun = self.moves_begun.load(Ordering::SeqCst);
        (begun == ended).then_some(ended)
    }
}

impl Home<Subscriber> for LiveQueries {
    fn database(&self) -> &Arc<Database> {
        &self.database
    }

    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Acquire)
    }

    fn silence(&self) -> Error {
        let (_, silent, error) = self.pulse();
        let silent = silent.as_millis();
        match error {
            None => Error::Client(format!("the database has not answered for {silent} ms")),
            Some(error) => Error::Explained(
                error.code(),
                format!("the database has answered only with errors for {silent} ms: {error}"),
            ),
        }
    }

    fn stale_after(&self) -> Duration {
        LiveQueries::stale_after(self)
    }

    fn carry_out(&self, live_query: &Arc<LiveQuery>, effects: Effects<WatchTask>) {
        drop(effects.released);
        let stale = &self.database.stats.stale;
        match effects.turn {
            Some(Turn::Stale) => {
                count(stale, 1);
                // While the database is silent, this was reported for all of them.
                if !self.is_silent.load(Ordering::Acquire) {
                    live_query.report_stale(true);
                    let reason = live_query.stale_reason();
                    self.reporter
                        .report(&Event::Stale(live_query.subscribers(), &reason));
                }
            }
            Some(Turn::Fresh) => {
                stale.fetch_sub(1, Ordering::Relaxed);
                // Its last subscriber leaves it on a scheduler.
                if live_query.report_stale(false) && !effects.closed {
                    self.reporter
                        .report(&Event::Fresh(live_query.subscribers()));
                }
            }
            None => {}
        }
        if effects.closed {
            self.forget(live_query);
        }
        if effects.fan_out {
            notifier::queue(Due::Round(Arc::clone(live_query)));
        }
        let function = live_query.query.function().is_some();
        if effects.ask_planner {
            match function {
                // Its next evaluation plans what it reads.
                true => live_query.planned(live_query.basis()),
                false => self.planner.ask(live_query),
            }
        }
        if let Some(read) = effects.read {
            let live_query = Arc::clone(live_query);
            if function && read.after.is_zero() {
                match live_query.evaluated_too_lately() {
                    None => self.evaluate(live_query),
                    Some(left) => {
                        let live = self.me();
                        client::runtime().spawn(async move {
                            tokio::time::sleep(left).await;
                            live.evaluate(live_query);
                        });
                    }
                }
            } else if read.after.is_zero() {
                let lane = if read.side {
                    Lane::Side
                } else {
                    Lane::Refreshes
                };
                self.with_queue(lane, |queue| queue.push_refresh(live_query, read.side));
            } else {
                client::runtime().spawn(async move {
                    tokio::time::sleep(read.after).await;
                    live_query.delay_passed();
                });
            }
        }
    }

    fn notify(&self, subscriber: Subscriber) {
        notifier::queue(Due::One(subscriber));
    }

    fn watch_completed(&self, result: &FdbResult<()>) {
        let stats = &self.database.stats;
        match result {
            Ok(()) => {
                count(&stats.watches_fired, 1);
                self.reporter.report(&Event::WatchFired);
            }
            Err(error) => {
                count(&stats.watches_failed, 1);
                self.reporter.report(&Event::WatchFailed(error.code()));
                if error.code() == TOO_MANY_WATCHES {
                    let pending = stats.pending_watches.load(Ordering::Relaxed);
                    self.reporter
                        .report(&Event::WatchLimit(pending, &Error::from(*error)));
                }
            }
        }
    }

    fn forget_call(&self, ticket: u64) {
        let queued = self.queue.lock().forget_if(ticket, Call::is_over);
        let call = queued.or_else(|| self.turns.lock().forget_if(ticket, Call::is_over));
        // It may be large, and this a scheduler.
        if let Some(call) = call {
            client::runtime().spawn(async move { drop(call) });
        }
    }
}
