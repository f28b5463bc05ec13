//! One process's interest in the results of live queries.
//!
//! The subscription *is* the reference of its messages, `{subscription, :ready}`. At most one of
//! them is outstanding: until the process takes the data, further changes only replace what waits.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};
use smallvec::SmallVec;

use super::delivery::{self, Due};
use super::entry::Entry;
use super::query::Query;
use super::shared_term::SharedTerm;
use super::snapshot::{encode_list, Snapshot};
use crate::client;
use crate::error::Error;
use crate::reply::Reply;
use crate::stats::{count, Stats};

/// What it costs to look at a query that has not changed, in the unit of `Snapshot::cost`.
const PART_COST: usize = 10;

/// More than these do not leave their entries on a scheduler.
const MANY_PARTS: usize = 500;

mod atoms {
    rustler::atoms! { ready, rows, unchanged, stale, fresh }
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// Its first read is under way.
    Pending,
    /// Nothing waits for it in the mailbox.
    Idle,
    /// `{subscription, :ready}` was sent and not yet taken.
    Outstanding,
    /// Cancelled, or its process died. For good.
    Over,
}

/// One of a subscription's live queries.
pub struct Part {
    /// The shared entry.
    pub entry: Arc<Entry>,
    /// The subscription's place in it.
    pub slot: usize,
    /// What the process has, or gets with its next `take` where `fresh`.
    pub snapshot: Arc<Snapshot>,
    /// Whether the first result still waits to be taken.
    pub fresh: bool,
    /// All of that result, where many got it at once.
    pub all: Option<Arc<SharedTerm>>,
    /// Whether the process was told that these data are stale.
    pub told_stale: bool,
}

/// Held by the subscriptions of a batch: gone when all of them have taken their first results.
pub type Untaken = Arc<()>;

struct State {
    phase: Phase,
    parts: SmallVec<[Part; 1]>,
    /// From `begin` until the first `take`.
    untaken: Option<Untaken>,
}

/// A subscription. Its lock is held while its message is sent, which makes the check and the send
/// one step; no entry's lock is ever held then.
pub struct Subscription {
    owner: LocalPid,
    state: Mutex<State>,
}

#[rustler::resource_impl]
impl Resource for Subscription {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.end();
    }
}

impl Subscription {
    /// A subscription of the calling process, pending.
    pub fn new(env: Env<'_>) -> ResourceArc<Subscription> {
        let subscription = ResourceArc::new(Subscription {
            owner: env.pid(),
            state: Mutex::new(State {
                phase: Phase::Pending,
                parts: SmallVec::new(),
                untaken: None,
            }),
        });
        // It exists before its monitor does: a process that is dying now finds it.
        if env.monitor(&subscription, &env.pid()).is_none() {
            subscription.end();
        }
        subscription
    }

    /// Whether anybody still wants it.
    pub fn is_over(&self) -> bool {
        self.state.lock().phase == Phase::Over
    }

    /// Its first results are there: from now on it is woken. Where it ended meanwhile, it leaves
    /// the entries again. `reply` is the answer to its call: who has ended it gets none any more.
    pub fn begin(
        this: &ResourceArc<Self>,
        parts: SmallVec<[Part; 1]>,
        reply: Option<Reply>,
        untaken: &Untaken,
    ) {
        let mut state = this.state.lock();
        if state.phase == Phase::Over {
            drop(state);
            return parts.into_iter().for_each(Part::leave);
        }
        state.phase = Phase::Idle;
        state.parts = parts;
        state.untaken = Some(Arc::clone(untaken));
        if let Some(stats) = state.stats() {
            count(&stats.subscriptions, 1);
        }
        if let Some(reply) = reply {
            reply.send(|env| atom::ok().encode(env));
        }
        // Whoever changed an entry before this saw a pending subscription and went on.
        if state.is_behind() {
            delivery::queue(Due::Subscription(this.clone()));
        }
    }

    /// Ends it before it stood, with an answer to its call: who has ended it gets none any more.
    pub fn refuse(&self, answer: impl FnOnce()) {
        let mut state = self.state.lock();
        if state.phase != Phase::Over {
            state.phase = Phase::Over;
            answer();
        }
    }

    /// Sends the message where there is something to take and none is outstanding. Not for scheduler
    /// threads with an environment that is no process's: there it fails, as if the process were dead.
    pub fn wake(this: &ResourceArc<Self>, env: Env<'_>) {
        let mut state = this.state.lock();
        if state.phase != Phase::Idle || !state.is_behind() {
            return;
        }
        match env.send(&this.owner, (this, atoms::ready())) {
            Ok(()) => {
                state.phase = Phase::Outstanding;
                if let Some(stats) = state.stats() {
                    count(&stats.messages, 1);
                }
            }
            Err(_) => {
                drop(state);
                this.end();
            }
        }
    }

    /// What has changed since the last time, one element for each query: `:unchanged`,
    /// `{:rows, records}`, `{:stale, error}`, `:fresh`. The first time: everything, as of the one
    /// read version. Nothing is taken, and there is no answer, where it would cost more than `most`.
    pub fn take<'a>(this: &ResourceArc<Self>, env: Env<'a>, most: usize) -> Option<Term<'a>> {
        let mut state = this.state.lock();
        if state.parts.iter().map(Part::cost).sum::<usize>() > most {
            return None;
        }
        // Gone when this returns.
        let untaken = state.untaken.take();
        let first = untaken.is_some();
        let taken: SmallVec<[Taken; 1]> = state.parts.iter_mut().map(Part::take).collect();
        // After the first time, a message sent meanwhile is still in the mailbox: outstanding.
        if !first && state.phase == Phase::Outstanding {
            state.phase = Phase::Idle;
            if state.is_behind() {
                delivery::queue(Due::Subscription(this.clone()));
            }
        }
        // Nobody who wants to wake it waits until the terms are made.
        drop(state);
        Some(encode_list(env, &taken, |taken| taken.encode(env)))
    }

    /// What was taken got lost: the next `take` gives everything again. That makes no message.
    pub fn untake(&self) {
        let mut state = self.state.lock();
        for part in state.parts.iter_mut().filter(|part| !part.fresh) {
            part.snapshot = Arc::new(Snapshot::nothing());
        }
    }

    /// Moves its part of one entry to another one.
    pub fn move_part(this: &ResourceArc<Self>, from: &Arc<Entry>, slot: usize, to: &Arc<Entry>) {
        let mut state = this.state.lock();
        let moving = |part: &&mut Part| Arc::ptr_eq(&part.entry, from) && part.slot == slot;
        let Some(part) = state.parts.iter_mut().find(moving) else {
            return;
        };
        let Ok(new_slot) = to.adopt(this) else { return };
        part.entry = Arc::clone(to);
        part.slot = new_slot;
        if state.is_behind() {
            delivery::queue(Due::Subscription(this.clone()));
        }
        drop(state);
        from.detach(slot);
    }

    /// Ends it, exactly: when this returns, no further message will be sent.
    pub fn end(&self) {
        let (parts, many) = {
            let mut state = self.state.lock();
            state.phase = Phase::Over;
            state.untaken = None;
            let many = state.parts.len() > MANY_PARTS;
            // There are parts only from `begin` on, which counted it.
            if let Some(stats) = state.stats() {
                stats.subscriptions.fetch_sub(1, Ordering::Relaxed);
            }
            (std::mem::take(&mut state.parts), many)
        };
        let leave = move || parts.into_iter().for_each(Part::leave);
        match many {
            // Nobody waits for them to have left.
            true => drop(client::runtime().spawn(async { leave() })),
            false => leave(),
        }
    }

    /// What `this` can take over from an earlier subscription of the process: for each query that
    /// one's entry and data of an equal one. The earlier one keeps them, too.
    pub fn keep<'q>(
        this: &ResourceArc<Self>,
        earlier: &Subscription,
        queries: impl Iterator<Item = &'q Query>,
    ) -> Vec<Option<Part>> {
        let state = earlier.state.lock();
        let parts: HashMap<&Query, &Part> = state
            .parts
            .iter()
            .map(|part| (&*part.entry.query, part))
            .collect();
        let keep = |query| {
            let part = *parts.get(query)?;
            let slot = part.entry.adopt(this).ok()?;
            Some(Part {
                entry: Arc::clone(&part.entry),
                slot,
                snapshot: Arc::clone(&part.snapshot),
                fresh: part.fresh,
                all: part.all.clone(),
                told_stale: part.told_stale,
            })
        };
        queries.map(keep).collect()
    }
}

impl State {
    fn stats(&self) -> Option<&Stats> {
        self.parts.first().map(|part| part.entry.stats())
    }

    fn is_behind(&self) -> bool {
        self.parts.iter().any(|part| {
            part.entry.generation() != part.snapshot.generation
                || part.entry.is_stale() != part.told_stale
        })
    }
}

impl Part {
    /// Gives it up.
    pub fn leave(self) {
        self.entry.detach(self.slot);
    }

    /// What it costs to take at most.
    fn cost(&self) -> usize {
        match self.fresh {
            true => self.snapshot.cost(),
            false => PART_COST + self.entry.cost_since(&self.snapshot),
        }
    }

    fn take(&mut self) -> Taken {
        if self.fresh {
            self.fresh = false;
            return match self.all.take() {
                Some(all) => Taken::Shared(all),
                None => Taken::All(Arc::clone(&self.snapshot)),
            };
        }
        let current = self.entry.current();
        if current.generation != self.snapshot.generation {
            // New data are fresh; should they be stale by now, that is another message.
            self.told_stale = false;
            let before = std::mem::replace(&mut self.snapshot, Arc::clone(&current));
            return Taken::Change { current, before };
        }
        match (self.told_stale, self.entry.is_stale()) {
            (false, true) => {
                self.told_stale = true;
                Taken::Stale(self.entry.stale_reason())
            }
            (true, false) => {
                self.told_stale = false;
                Taken::Fresh
            }
            _ => Taken::Unchanged,
        }
    }
}

/// What a part has for its process.
enum Taken {
    All(Arc<Snapshot>),
    Shared(Arc<SharedTerm>),
    Change {
        current: Arc<Snapshot>,
        before: Arc<Snapshot>,
    },
    Unchanged,
    Stale(Error),
    Fresh,
}

impl Encoder for Taken {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Taken::All(snapshot) => (atoms::rows(), snapshot.encode_all(env)).encode(env),
            Taken::Shared(all) => (atoms::rows(), all.copy(env)).encode(env),
            Taken::Change { current, before } => {
                (atoms::rows(), current.encode_change(env, before)).encode(env)
            }
            Taken::Unchanged => atoms::unchanged().encode(env),
            Taken::Stale(reason) => (atoms::stale(), reason).encode(env),
            Taken::Fresh => atoms::fresh().encode(env),
        }
    }
}
