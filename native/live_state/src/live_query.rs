//! One live query: its data's version, watch, plan, freshness and subscribers.

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, LONGEST_DELAY};
use crate::fan_out::FanOut;
use crate::freshness::{Freshness, Turn};
use crate::plan::{Plan, Stage};
use crate::reads::{Reads, Schedule};
use crate::watch::{Armed, Arming, Key, Places, Released, WatchSet, Watched};

/// What the caller of a transition has to do, once it has released its lock.
#[must_use = "effects are to be carried out"]
#[derive(Debug)]
pub struct Effects<H> {
    /// Drop these handles first: their watches were replaced or given up.
    pub released: Released<H>,
    /// Queue a read.
    pub read: Option<Schedule>,
    /// Start a round that notifies the subscribers.
    pub fan_out: bool,
    /// Ask the planner for a new plan.
    pub ask_planner: bool,
    /// Report that the data have turned stale or fresh.
    pub turn: Option<Turn>,
    /// The last subscriber has left: forget the live query.
    pub closed: bool,
}

impl<H> Effects<H> {
    /// Nothing to do.
    pub fn none() -> Self {
        Effects {
            released: Released::new(),
            read: None,
            fan_out: false,
            ask_planner: false,
            turn: None,
            closed: false,
        }
    }
}

/// What a read has found, as far as the machine needs to know.
#[derive(Debug)]
pub struct NewRead {
    /// The read version of its transaction.
    pub read_version: i64,
    /// The watched keys, in ascending order, and their values.
    pub watched: Vec<Watched>,
    /// Whether the records are others than those shown.
    pub changed: bool,
    /// Whether it took so long that the next one belongs in the side lane.
    pub slow: bool,
}

/// What a look at the watched keys has found.
#[derive(Debug)]
pub enum Probe<'a> {
    /// Their values at this read version.
    Values(i64, &'a [Watched]),
    /// No answer, since then.
    Unanswered(Instant),
}

/// `S` is a subscriber, `H` the handle of a watch, `B` the basis of a plan, `R` a reason for staleness.
///
/// After every installed read this holds: for each key that what is shown relies on, a watch is pending
/// that was armed with the key's value as of then, or another read is queued.
#[derive(Debug)]
pub struct LiveQueryState<S, H, B, R> {
    /// The read version of what is shown; -1 before the first read. An older read never replaces it.
    read_version: i64,
    /// The newest version at which the database is known to hold what is shown.
    confirmed_version: i64,
    /// The watched keys with their values at `read_version`, and their watches.
    watches: WatchSet<H>,
    /// Whether the keys and values are instead those of a later read that failed.
    watches_failure: bool,
    watch_failures: Backoff,
    reads: Reads,
    plan: Plan<B>,
    freshness: Freshness<R>,
    probed: Instant,
    fan_out: FanOut<S>,
    /// Set when the last subscriber leaves: a later one makes a new live query.
    closed: bool,
}

impl<S: Clone, H, B, R: Clone> LiveQueryState<S, H, B, R> {
    /// A live query that nobody has read yet.
    pub fn new(basis: B, now: Instant) -> Self {
        LiveQueryState {
            read_version: -1,
            confirmed_version: -1,
            watches: WatchSet::default(),
            watches_failure: false,
            watch_failures: Backoff::default(),
            reads: Reads::default(),
            plan: Plan::new(basis),
            freshness: Freshness::new(now),
            probed: now,
            fan_out: FanOut::default(),
            closed: false,
        }
    }

    /// A read was done while the plan held. `arms` are watches of the reading transaction for keys that
    /// had none to keep. Returns whether the read is newer than what was shown.
    pub fn installed<A: FnOnce() -> H>(
        &mut self,
        read: NewRead,
        arms: impl IntoIterator<Item = Arming<A>>,
        now: Instant,
    ) -> (bool, Effects<H>) {
        let mut effects = Effects::none();
        // A value that has come back (A, B, A) may have been confirmed after this read of the one between.
        let outdated =
            read.read_version < self.confirmed_version && !self.watches.shows(&read.watched);
        let newer = read.read_version > self.read_version && !outdated;
        if newer {
            self.read_version = read.read_version;
            self.confirmed_version = self.confirmed_version.max(read.read_version);
            effects.released = self.watches.show(read.watched.iter().cloned());
            self.watches_failure = false;
        }
        let replaced = self.arm(read.read_version, &read.watched, arms, now);
        effects.released.extend(replaced);
        self.reads.succeeded(read.slow);
        effects.turn = self.freshness.confirm(now);
        if self.reads.is_queued() {
            self.freshness.miss(now, None);
        }
        effects.fan_out =
            ((newer && read.changed) || effects.turn.is_some()) && self.fan_out.start();
        // Two batches that read at the same time may each have relied on a watch of the other's.
        if !self.watches.is_complete() {
            effects.read = self.want(now);
        }
        (newer, effects)
    }

    fn arm<A: FnOnce() -> H>(
        &mut self,
        read_version: i64,
        read: &[Watched],
        arms: impl IntoIterator<Item = Arming<A>>,
        since: Instant,
    ) -> Released<H> {
        let mut replaced = Released::new();
        for Arming { place, id, arm } in arms {
            let Watched { key, value } = &read[place];
            replaced.extend(self.watches.put(key, read_version, || Armed {
                id,
                read_version,
                value: value.clone(),
                since,
                handle: arm(),
            }));
        }
        replaced
    }

    /// A read at this version failed for this reason, after it had found these values. The data stay, and
    /// what the read relied on is watched: when that changes, the next read may succeed. One that was slow is
    /// done at the side next time.
    pub fn read_failed_with<A: FnOnce() -> H>(
        &mut self,
        reason: R,
        read_version: i64,
        read: &[Watched],
        arms: impl IntoIterator<Item = Arming<A>>,
        slow: bool,
        now: Instant,
    ) -> Effects<H> {
        let mut released = Released::new();
        if self.may_read() && read_version > self.confirmed_version {
            released = self.watches.show(read.iter().cloned());
            self.watches_failure = true;
            released.extend(self.arm(read_version, read, arms, now));
        }
        self.freshness.miss(now, Some(reason));
        Effects {
            released,
            ..self.retry(slow)
        }
    }

    /// The places of those keys for which no watch is pending that was armed with this value: a read that
    /// has found them needs to arm these.
    pub fn missing_watches(&self, read: &[Watched]) -> Places {
        self.watches.missing(read)
    }

    /// The watched keys, and their values as of what is shown.
    pub fn watched(&self) -> impl Iterator<Item = &Watched> {
        self.watches.shown()
    }

    /// The watched keys with their values, if what is shown follows from these: a look that finds the same
    /// confirms it. `None` where a watch has fired since, so that another look would be in vain.
    pub fn confirmable(&self) -> Option<Vec<Watched>> {
        let confirmable = self.may_read()
            && self.read_version >= 0
            && !self.watches_failure
            && self.watches.is_complete();
        confirmable.then(|| self.watches.shown().cloned().collect())
    }

    /// The watch of this id has fired, or failed for this reason: its key. `None` if it is not the current
    /// one of its key.
    pub fn watch_completed(
        &mut self,
        id: u64,
        result: Result<(), R>,
        now: Instant,
    ) -> Option<(Key, Effects<H>)> {
        let (key, watch) = self.watches.complete(id)?;
        let mut effects = Effects::none();
        match result {
            Ok(()) => {
                self.watch_failures.reset();
                effects.read = self.want(now);
            }
            Err(reason) => {
                // A watch that has lived for a while fails for a new reason.
                if now.saturating_duration_since(watch.since) > LONGEST_DELAY {
                    self.watch_failures.reset();
                }
                let delay = self.watch_failures.failed();
                if self.may_read() {
                    self.freshness.miss(now, Some(reason));
                    effects.read = self.reads.want_after(delay);
                }
            }
        }
        effects.released.push(watch.handle);
        Some((key, effects))
    }

    /// The query must be read again.
    pub fn wanted(&mut self, now: Instant) -> Effects<H> {
        Effects {
            read: self.want(now),
            ..Effects::none()
        }
    }

    fn want(&mut self, now: Instant) -> Option<Schedule> {
        if !self.may_read() {
            return None;
        }
        self.freshness.miss(now, None);
        self.reads.want()
    }

    fn may_read(&self) -> bool {
        !self.closed && self.plan.holds()
    }

    /// A read failed for this reason. The data stay.
    pub fn read_failed(&mut self, reason: R, now: Instant) -> Effects<H> {
        self.freshness.miss(now, Some(reason));
        self.retry(false)
    }

    /// A read that began then got no answer. The data stay, and the next read goes to the side lane.
    pub fn read_unanswered(&mut self, since: Instant) -> Effects<H> {
        self.freshness.miss(since, None);
        self.retry(true)
    }

    fn retry(&mut self, unanswered: bool) -> Effects<H> {
        let read = self.reads.failed(unanswered);
        Effects {
            read: read.filter(|_| self.may_read()),
            ..Effects::none()
        }
    }

    /// The delay before a read has passed.
    pub fn delay_passed(&mut self, now: Instant) -> Effects<H> {
        self.reads.delay_passed();
        let settled = self.watches.is_complete() && !self.freshness.is_missing();
        Effects {
            read: if settled { None } else { self.want(now) },
            ..Effects::none()
        }
    }

    /// A batch takes the queued read up. False if there is nobody to read for, or no plan to read by.
    pub fn begin_read(&mut self) -> bool {
        self.reads.begun();
        self.may_read()
    }

    /// What the plan was made from has changed.
    pub fn basis_changed(&mut self, now: Instant) -> Effects<H> {
        if self.closed {
            return Effects::none();
        }
        let ask_planner = self.plan.basis_changed(now);
        self.freshness.miss(now, None);
        Effects {
            ask_planner,
            ..Effects::none()
        }
    }

    /// The plan holds on this basis; the query is read again, since an index may have been rebuilt,
    /// which no watch notices.
    pub fn planned(&mut self, basis: B, now: Instant) -> Effects<H> {
        self.plan.planned(basis);
        self.wanted(now)
    }

    /// A subscriber's call was planned on this basis, which was found right.
    pub fn basis_confirmed(&mut self, basis: B) {
        self.plan.planned(basis);
    }

    /// No plan can be made from this basis. The data stay, stale for this reason.
    pub fn plan_missing(&mut self, basis: B, reason: R, now: Instant) -> Effects<H> {
        self.plan.missing(basis);
        self.force_stale(reason, now, false)
    }

    /// The tenant is gone for good. The caller empties the data.
    pub fn tenant_gone(&mut self, reason: R, now: Instant) -> Effects<H> {
        if self.closed || self.plan.stage() == Stage::Gone {
            return Effects::none();
        }
        self.plan.gone();
        self.force_stale(reason, now, true)
    }

    fn force_stale(&mut self, reason: R, now: Instant, changed: bool) -> Effects<H> {
        if self.closed {
            return Effects::none();
        }
        let turn = self.freshness.force_stale(now, reason);
        Effects {
            released: self.watches.clear(),
            turn,
            fan_out: (turn.is_some() || changed) && self.fan_out.start(),
            ..Effects::none()
        }
    }

    /// What is shown was read from a database that is no more: the next read replaces it.
    pub fn database_replaced(&mut self, now: Instant) -> Effects<H> {
        self.read_version = -1;
        self.confirmed_version = -1;
        let released = self.watches.clear();
        Effects {
            released,
            ..self.wanted(now)
        }
    }

    /// Looks at the clock: data that were not confirmed for `limit` turn stale, and a planner that
    /// owes an answer is asked again. `reason` is called with how long, and whether the planner is
    /// the one that is waited for.
    pub fn check(
        &mut self,
        now: Instant,
        limit: Duration,
        reason: impl FnOnce(Duration, bool) -> R,
    ) -> Effects<H> {
        if self.closed {
            return Effects::none();
        }
        let unplanned = self.plan.unanswered(now);
        let turn = self
            .freshness
            .check(now, limit, |missing| reason(missing, unplanned.is_some()));
        Effects {
            turn,
            fan_out: turn.is_some() && self.fan_out.start(),
            ask_planner: unplanned.is_some() && self.plan.basis_changed(now),
            ..Effects::none()
        }
    }

    /// Whether the watched keys are due to be looked at. True at most once in `every`.
    pub fn probe_due(&mut self, now: Instant, every: Duration) -> bool {
        let last = self.freshness.confirmed().max(self.probed);
        let due = self.may_be_probed() && now.saturating_duration_since(last) >= every;
        if due {
            self.probed = now;
        }
        due
    }

    /// The watched keys were looked at.
    pub fn probed(&mut self, probe: Probe<'_>, now: Instant) -> Effects<H> {
        match probe {
            Probe::Unanswered(since) => {
                self.freshness.miss(since, None);
                Effects::none()
            }
            // The read that is coming tells more.
            Probe::Values(..) if self.reads.is_pending() || !self.may_read() => Effects::none(),
            Probe::Values(..) if self.watches_failure => Effects::none(),
            Probe::Values(read_version, values) if self.watches.shows(values) => {
                if !self.watches.is_complete() {
                    return self.wanted(now);
                }
                if read_version >= self.read_version {
                    self.confirmed_version = self.confirmed_version.max(read_version);
                }
                let turn = self.freshness.confirm(now);
                Effects {
                    turn,
                    fan_out: turn.is_some() && self.fan_out.start(),
                    ..Effects::none()
                }
            }
            // Of other keys, which a newer read has come upon, a look says nothing.
            Probe::Values(read_version, values)
                if read_version > self.read_version && self.watches.has_keys_of(values) =>
            {
                self.wanted(now)
            }
            Probe::Values(..) => Effects::none(),
        }
    }

    /// Adds a subscriber; `None` if the live query has closed.
    pub fn attach(&mut self, subscriber: S) -> Option<usize> {
        if self.closed {
            return None;
        }
        Some(self.fan_out.attach(subscriber))
    }

    /// Removes a subscriber. The last one closes the live query.
    pub fn detach(&mut self, slot: usize) -> (Option<S>, Effects<H>) {
        let subscriber = self.fan_out.detach(slot);
        (subscriber, self.close_if_empty())
    }

    /// Closes the live query if nobody is subscribed to it.
    pub fn close_if_empty(&mut self) -> Effects<H> {
        if self.closed || !self.fan_out.is_empty() {
            return Effects::none();
        }
        self.closed = true;
        Effects {
            released: self.watches.clear(),
            turn: self.freshness.stale().map(|_| Turn::Fresh),
            closed: true,
            ..Effects::none()
        }
    }

    /// Every subscriber must be notified. True if the caller has to start the round.
    pub fn start_fan_out(&mut self) -> bool {
        self.fan_out.start()
    }

    /// The subscribers.
    pub fn fan_out(&mut self) -> &mut FanOut<S> {
        &mut self.fan_out
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<B> {
        &self.plan
    }

    /// Why the data are stale, if they are.
    pub fn stale(&self) -> Option<&R> {
        self.freshness.stale()
    }

    /// Whether the next read belongs in the side lane.
    pub fn is_side(&self) -> bool {
        self.reads.is_side()
    }

    /// Whether it has closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The read version of what is shown.
    pub fn read_version(&self) -> i64 {
        self.read_version
    }

    /// The newest version at which the database is known to hold what is shown: that of a read, or of a
    /// look at the watched keys; -1 before the first read.
    pub fn confirmed_version(&self) -> i64 {
        self.confirmed_version
    }

    /// Whether the subscribers have been visited who are to be notified of what is shown at this version or
    /// a later one. Nobody waits for a live query that has closed, or whose tenant is gone for good.
    pub fn is_settled(&self, version: i64) -> bool {
        if self.closed {
            return true;
        }
        let knows = match self.plan.stage() {
            Stage::Gone => true,
            Stage::Holds => self.confirmed_version >= version,
            Stage::Asked(_) | Stage::Missing => false,
        };
        knows && !self.fan_out_is_running()
    }

    /// Whether subscribers are being visited.
    pub fn fan_out_is_running(&self) -> bool {
        self.fan_out.is_running()
    }

    /// Whether a look at the watched keys could confirm what is shown.
    pub fn may_be_probed(&self) -> bool {
        self.may_read()
            && self.read_version >= 0
            && !self.watches_failure
            && !self.reads.is_pending()
    }

    /// Whether watches are pending for what is shown, or a read on its way.
    pub fn is_followed(&self) -> bool {
        self.watches.is_complete() || self.reads.is_pending()
    }
}
