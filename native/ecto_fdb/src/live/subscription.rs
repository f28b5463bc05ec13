//! One process's interest in the results of live queries.
//!
//! The subscription *is* the reference of its messages, `{subscription, :ready}`. At most one of
//! them is outstanding: until the process takes the data, further changes only replace what waits.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term};
use smallvec::SmallVec;

use super::delivery::{self, Due};
use super::entry::Entry;
use super::query::Query;
use super::snapshot::Snapshot;
use crate::reply::Reply;
use crate::stats::{count, Stats};

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
    /// Whether the process was told that these data are stale.
    pub told_stale: bool,
}

struct State {
    phase: Phase,
    parts: SmallVec<[Part; 1]>,
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
    pub fn begin(this: &ResourceArc<Self>, parts: SmallVec<[Part; 1]>, reply: Option<Reply>) {
        let mut state = this.state.lock();
        if state.phase == Phase::Over {
            drop(state);
            return parts.into_iter().for_each(Part::leave);
        }
        state.phase = Phase::Idle;
        state.parts = parts;
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

    /// Sends the message where there is something to take and none is outstanding. Must not be
    /// called on a scheduler thread.
    pub fn wake(this: &ResourceArc<Self>, env: &mut OwnedEnv) {
        let mut state = this.state.lock();
        if state.phase != Phase::Idle || !state.is_behind() {
            return;
        }
        match env.send_and_clear(&this.owner, |env| (this, atoms::ready()).encode(env)) {
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
    /// read version.
    pub fn take<'a>(this: &ResourceArc<Self>, env: Env<'a>) -> Vec<Term<'a>> {
        let mut state = this.state.lock();
        let first = state.parts.iter().any(|part| part.fresh);
        let taken = state.parts.iter_mut().map(|part| part.take(env)).collect();
        // After the first time, a message sent meanwhile is still in the mailbox: outstanding.
        if !first && state.phase == Phase::Outstanding {
            state.phase = Phase::Idle;
            if state.is_behind() {
                delivery::queue(Due::Subscription(this.clone()));
            }
        }
        taken
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
        let parts = {
            let mut state = self.state.lock();
            state.phase = Phase::Over;
            // There are parts only from `begin` on, which counted it.
            if let Some(stats) = state.stats() {
                stats.subscriptions.fetch_sub(1, Ordering::Relaxed);
            }
            std::mem::take(&mut state.parts)
        };
        parts.into_iter().for_each(Part::leave);
    }

    /// What `this` can take over from an earlier subscription of the process: that one's entry and
    /// data of an equal query. The earlier one keeps them, too.
    pub fn keep(this: &ResourceArc<Self>, earlier: &Subscription, query: &Query) -> Option<Part> {
        let state = earlier.state.lock();
        let part = state
            .parts
            .iter()
            .find(|part| *part.entry.query == *query)?;
        let slot = part.entry.adopt(this).ok()?;
        Some(Part {
            entry: Arc::clone(&part.entry),
            slot,
            snapshot: Arc::clone(&part.snapshot),
            fresh: part.fresh,
            told_stale: part.told_stale,
        })
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

    fn take<'a>(&mut self, env: Env<'a>) -> Term<'a> {
        if self.fresh {
            self.fresh = false;
            return (atoms::rows(), self.snapshot.encode_all(env)).encode(env);
        }
        let current = self.entry.current();
        if current.generation != self.snapshot.generation {
            let change = current.encode_change(env, &self.snapshot);
            self.snapshot = current;
            // New data are fresh; should they be stale by now, that is another message.
            self.told_stale = false;
            return (atoms::rows(), change).encode(env);
        }
        match (self.told_stale, self.entry.is_stale()) {
            (false, true) => {
                self.told_stale = true;
                (atoms::stale(), self.entry.stale_reason()).encode(env)
            }
            (true, false) => {
                self.told_stale = false;
                atoms::fresh().encode(env)
            }
            _ => atoms::unchanged().encode(env),
        }
    }
}
