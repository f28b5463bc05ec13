//! One process's interest in the results of live queries.
//!
//! The subscription *is* the reference of its messages, `{subscription, :ready}`. At most one of
//! them is outstanding: until the process takes the data, further changes only replace what waits.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use live_state::{Phase, SubscriptionState};
use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};
use smallvec::SmallVec;

use super::live_query::{self, Home};
use super::query::Query;
use super::shared_term::SharedTerm;
use super::snapshot::{encode_list, Snapshot};
use super::value::SharedValue;
use crate::client;
use crate::error::Error;
use crate::reply::Reply;
use crate::stats::count;

/// What it costs to look at a live query, in the unit of `Snapshot::cost`.
const LOOK_COST: usize = 10;

/// A subscription to more live queries than this does not leave them on a scheduler.
const MANY: usize = 500;

mod atoms {
    rustler::atoms! { ready, rows, value, unchanged, stale, fresh, first, news }
}

/// A live query and its subscribers.
pub type LiveQuery = live_query::LiveQuery<Subscriber>;
/// A subscriber's place in a live query.
pub type Attached = live_query::Attached<Subscriber>;

/// A subscription, and which of its live queries this one is.
#[derive(Clone)]
pub struct Subscriber {
    /// The subscription.
    pub subscription: ResourceArc<Subscription>,
    /// The live query's place in it.
    pub place: u32,
}

/// How the process keeps what it takes.
pub enum Form {
    /// As records: a change names those that it has.
    Records,
    /// Not at all: a change has those that are gone, too.
    Stream {
        /// The first place that it shows.
        first: usize,
        /// The first take is a change of what the process has shown so far.
        earlier: Option<Shown>,
    },
}

/// What a process shows that keeps no records.
#[derive(Clone)]
pub struct Shown {
    snapshot: Arc<Snapshot>,
    first: usize,
}

impl Shown {
    fn is_in_order(&self) -> bool {
        self.snapshot.generation != 0 && !self.snapshot.irregular
    }
}

/// One of a subscription's live queries.
pub struct Subscribed {
    attached: Attached,
    /// What the process has, or gets with its next `take` if `first`.
    snapshot: Arc<Snapshot>,
    /// The first place that the process shows of them, where it keeps no records.
    first_place: usize,
    /// Whether the first result still waits to be taken.
    first: bool,
    /// The first result as a term, if many processes got it at once.
    shared: Option<Arc<SharedTerm>>,
    /// Whether the process was told that these data are stale.
    told_stale: bool,
}

/// Held by the subscriptions of a batch: gone when all of them have taken their first results.
pub type FirstResults = Arc<()>;

/// The call that a subscription waits for.
struct PendingCall {
    home: Arc<dyn Home<Subscriber>>,
    ticket: u64,
}

struct State {
    machine: SubscriptionState,
    queries: SmallVec<[Subscribed; 1]>,
    /// Until it stands.
    call: Option<Box<PendingCall>>,
    /// From when it stands until the first `take`.
    first_results: Option<FirstResults>,
}

/// A subscription. Its lock is held while its message is sent, which makes the check and the send
/// one step; no live query's lock is ever held then.
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
    /// A subscription of the calling process, which waits for the call of this ticket.
    pub fn new(
        env: Env<'_>,
        home: Arc<dyn Home<Subscriber>>,
        ticket: u64,
    ) -> ResourceArc<Subscription> {
        let subscription = ResourceArc::new(Subscription {
            owner: env.pid(),
            state: Mutex::new(State {
                machine: SubscriptionState::default(),
                queries: SmallVec::new(),
                call: Some(Box::new(PendingCall { home, ticket })),
                first_results: None,
            }),
        });
        // It exists before its monitor does: a process that is dying now finds it.
        if env.monitor(&subscription, &env.pid()).is_none() {
            subscription.end();
        }
        subscription
    }

    /// Whether nobody wants it any more.
    pub fn is_over(&self) -> bool {
        self.state.lock().machine.is_over()
    }

    /// Its first results are there: from now on it is notified. If it has ended meanwhile, it leaves
    /// the live queries again. `reply` is the answer to its call, which an ended one does not get.
    pub fn stand(
        this: &ResourceArc<Self>,
        queries: SmallVec<[Subscribed; 1]>,
        reply: Option<Reply>,
        first_results: &FirstResults,
    ) {
        let mut state = this.state.lock();
        if !state.machine.stand() {
            drop(state);
            return drop(queries);
        }
        state.queries = queries;
        let call = state.call.take();
        state.first_results = Some(Arc::clone(first_results));
        if let Some(home) = state.home() {
            count(&home.database().stats.subscriptions, 1);
        }
        if let Some(reply) = reply {
            reply.send(|env| atom::ok().encode(env));
        }
        // A live query that changed before this found a pending subscription.
        let State {
            machine, queries, ..
        } = &mut *state;
        for (place, subscribed) in (0..).zip(queries.iter()) {
            if subscribed.is_behind() {
                machine.mark(place);
            }
        }
        state.notify_if_marked(this);
        drop(state);
        drop(call);
    }

    /// Ends it before it stood, with an answer to its call, which an ended one does not get.
    pub fn refuse(&self, answer: impl FnOnce()) {
        let mut state = self.state.lock();
        if !state.machine.is_over() {
            state.machine.end();
            state.call = None;
            answer();
        }
    }

    /// Sends the message if there is something to take and none is outstanding. On a scheduler
    /// thread, in an environment that is no process's, it fails as if the process were dead.
    pub fn notify(subscriber: &Subscriber, env: Env<'_>) {
        let this = &subscriber.subscription;
        let mut state = this.state.lock();
        if state.machine.phase() == Phase::Pending || state.machine.is_over() {
            return;
        }
        let State {
            machine, queries, ..
        } = &mut *state;
        machine.mark(subscriber.place);
        if machine.phase() != Phase::Idle {
            return;
        }
        // What was taken meanwhile is no news.
        machine.retain(|place| queries[place as usize].is_behind());
        if !machine.may_send() {
            return;
        }
        match env.send(&this.owner, (this, atoms::ready())) {
            Ok(()) => {
                machine.sent();
                if let Some(home) = state.home() {
                    count(&home.database().stats.messages, 1);
                }
            }
            Err(_) => {
                drop(state);
                this.end();
            }
        }
    }

    /// What there is to take. The first time, as of the one read version, `{:first, [taken]}` with an
    /// element for each live query; later `{:news, [{place, taken}]}` of those that have changed.
    /// Nothing is taken, and there is no answer, if it would cost more than `most`.
    pub fn take<'a>(
        this: &ResourceArc<Self>,
        env: Env<'a>,
        most: usize,
        form: &Form,
    ) -> Option<Term<'a>> {
        let mut state = this.state.lock();
        if state.machine.is_first() {
            let cost = |subscribed: &Subscribed| subscribed.cost(form);
            if state.queries.iter().map(cost).sum::<usize>() > most {
                return None;
            }
            state.machine.take_first();
            let first_results = state.first_results.take();
            let take = |subscribed: &mut Subscribed| subscribed.take(form);
            let taken: SmallVec<[Taken; 1]> = state.queries.iter_mut().map(take).collect();
            // No thread that wants to notify it waits until the terms are made.
            drop(state);
            drop(first_results);
            let taken = encode_list(env, &taken, |taken| taken.encode(env));
            return Some((atoms::first(), taken).encode(env));
        }
        let State {
            machine, queries, ..
        } = &mut *state;
        let cost = |place: &u32| LOOK_COST + queries[*place as usize].cost(form);
        if machine.marked().iter().map(cost).sum::<usize>() > most {
            return None;
        }
        let mut news: SmallVec<[(u32, Taken); 1]> = SmallVec::new();
        for place in machine.take() {
            let subscribed = &mut queries[place as usize];
            news.push((place, subscribed.take(form)));
            // New data are taken first; that they are stale, or fresh again, is another message.
            if subscribed.is_behind() {
                machine.mark(place);
            }
        }
        state.notify_if_marked(this);
        drop(state);
        let news = encode_list(env, &news, |(place, taken)| {
            (place, taken.encode(env)).encode(env)
        });
        Some((atoms::news(), news).encode(env))
    }

    /// What the process has of its one live query, which it shows as a stream. Nothing, if what was taken
    /// got lost.
    pub fn shown(&self) -> Option<Shown> {
        let state = self.state.lock();
        let subscribed = state.queries.first()?;
        let is_known = !subscribed.first && subscribed.snapshot.generation != 0;
        is_known.then(|| Shown {
            snapshot: Arc::clone(&subscribed.snapshot),
            first: subscribed.first_place,
        })
    }

    /// What was taken got lost: the next `take` gives everything again. That makes no message.
    pub fn untake(&self) {
        let mut state = self.state.lock();
        let State {
            machine, queries, ..
        } = &mut *state;
        for (place, subscribed) in (0..).zip(queries.iter_mut()) {
            if !subscribed.first {
                subscribed.snapshot = Arc::new(Snapshot::nothing());
                machine.mark(place);
            }
        }
    }

    /// Moves it from one live query to another.
    pub fn move_to(subscriber: &Subscriber, from: &Arc<LiveQuery>, to: &Arc<LiveQuery>) {
        let mut state = subscriber.subscription.state.lock();
        let Some(subscribed) = state.queries.get_mut(subscriber.place as usize) else {
            return;
        };
        if !Arc::ptr_eq(subscribed.attached.live_query(), from) {
            return;
        }
        let Ok(attached) = to.attach(subscriber.clone()) else {
            return;
        };
        let before = std::mem::replace(&mut subscribed.attached, attached);
        state.machine.mark(subscriber.place);
        state.notify_if_marked(&subscriber.subscription);
        drop(state);
        drop(before);
    }

    /// Ends it, exactly: when this returns, no further message will be sent.
    pub fn end(&self) {
        let (queries, call) = {
            let mut state = self.state.lock();
            if state.machine.end() != Phase::Pending {
                // It was counted when it stood.
                if let Some(home) = state.home() {
                    let subscriptions = &home.database().stats.subscriptions;
                    subscriptions.fetch_sub(1, Ordering::Relaxed);
                }
            }
            state.first_results = None;
            (std::mem::take(&mut state.queries), state.call.take())
        };
        if let Some(call) = call {
            call.home.forget_call(call.ticket);
        }
        match queries.len() > MANY {
            // Nobody waits for them to have left.
            true => drop(client::runtime().spawn(async { drop(queries) })),
            false => drop(queries),
        }
    }

    /// What `this` can take over from an earlier subscription of the process: for each query that
    /// one's live query and data of an equal one. The earlier one keeps them, too.
    pub fn keep<'q>(
        this: &ResourceArc<Self>,
        earlier: &Subscription,
        queries: impl Iterator<Item = &'q Query>,
    ) -> Vec<Option<Subscribed>> {
        let state = earlier.state.lock();
        let subscribed: HashMap<&Query, &Subscribed> = state
            .queries
            .iter()
            .map(|subscribed| (&*subscribed.attached.live_query().query, subscribed))
            .collect();
        let keep = |(place, query)| {
            let found = *subscribed.get(query)?;
            let subscriber = Subscriber {
                subscription: this.clone(),
                place,
            };
            Some(Subscribed {
                attached: found.attached.live_query().attach(subscriber).ok()?,
                snapshot: Arc::clone(&found.snapshot),
                first_place: found.first_place,
                first: found.first,
                shared: found.shared.clone(),
                told_stale: found.told_stale,
            })
        };
        (0..).zip(queries).map(keep).collect()
    }
}

impl State {
    fn home(&self) -> Option<&Arc<dyn Home<Subscriber>>> {
        let first = self.queries.first()?;
        Some(first.attached.live_query().home())
    }

    /// Has the subscriber notified soon: sending is for another thread.
    fn notify_if_marked(&self, this: &ResourceArc<Subscription>) {
        if !self.machine.may_send() {
            return;
        }
        if let (Some(home), Some(place)) = (self.home(), self.machine.marked().first()) {
            home.notify(Subscriber {
                subscription: this.clone(),
                place: *place,
            });
        }
    }
}

impl Subscribed {
    /// A live query as a batch has read it.
    pub fn new(
        attached: Attached,
        snapshot: Arc<Snapshot>,
        shared: Option<Arc<SharedTerm>>,
    ) -> Self {
        Subscribed {
            attached,
            snapshot,
            first_place: 0,
            first: true,
            shared,
            told_stale: false,
        }
    }

    fn is_behind(&self) -> bool {
        let live_query = self.attached.live_query();
        live_query.generation() != self.snapshot.generation
            || live_query.is_stale() != self.told_stale
    }

    /// What it costs to take at most.
    fn cost(&self, form: &Form) -> usize {
        match (self.first, form) {
            (true, _) => self.snapshot.cost(),
            (false, Form::Records) => {
                LOOK_COST + self.attached.live_query().cost_since(&self.snapshot)
            }
            (false, Form::Stream { .. }) => {
                let current = self.attached.live_query().current();
                LOOK_COST
                    + match current.generation == self.snapshot.generation {
                        true => 0,
                        false if current.irregular => current.cost(),
                        false => current.cost_of_stream_change(&self.snapshot),
                    }
            }
        }
    }

    fn take(&mut self, form: &Form) -> Taken {
        if let Form::Stream { first, .. } = form {
            self.first_place = *first;
        }
        if self.first {
            self.first = false;
            return self.take_first(form);
        }
        let live_query = self.attached.live_query();
        let current = live_query.current();
        if current.generation != self.snapshot.generation {
            let before = std::mem::replace(&mut self.snapshot, Arc::clone(&current));
            return match form {
                Form::Records => Taken::Change { current, before },
                Form::Stream { first, .. } => {
                    let before = Shown {
                        snapshot: before,
                        first: *first,
                    };
                    Taken::streamed(current, *first, Some(before))
                }
            };
        }
        match (self.told_stale, live_query.is_stale()) {
            (false, true) => {
                self.told_stale = true;
                Taken::Stale(live_query.stale_reason())
            }
            (true, false) => {
                self.told_stale = false;
                Taken::Fresh
            }
            _ => Taken::Unchanged,
        }
    }

    fn take_first(&mut self, form: &Form) -> Taken {
        let current = Arc::clone(&self.snapshot);
        match (self.shared.take(), form) {
            (
                Some(shared),
                Form::Records
                | Form::Stream {
                    first: 0,
                    earlier: None,
                },
            ) => Taken::Shared(shared),
            (_, Form::Records) => Taken::All(current),
            (_, Form::Stream { first, earlier }) => {
                Taken::streamed(current, *first, earlier.clone())
            }
        }
    }
}

/// What a live query has for a process.
enum Taken {
    All(Arc<Snapshot>),
    Shared(Arc<SharedTerm>),
    Change {
        current: Arc<Snapshot>,
        before: Arc<Snapshot>,
    },
    /// For a stream: all from a place on.
    From {
        current: Arc<Snapshot>,
        first: usize,
    },
    /// For a stream: what has changed from a place on.
    StreamChange {
        current: Arc<Snapshot>,
        first: usize,
        before: Shown,
    },
    Unchanged,
    Stale(Error),
    Fresh,
}

impl Taken {
    /// What a stream shows now: everything where nothing is known to have been shown before, and where
    /// the process has to find out the records' order.
    fn streamed(current: Arc<Snapshot>, first: usize, before: Option<Shown>) -> Self {
        match before {
            Some(before) if before.is_in_order() && !current.irregular => Taken::StreamChange {
                current,
                first,
                before,
            },
            _ => Taken::From { current, first },
        }
    }

    /// What a function gave, if it is that.
    fn value(&self) -> Option<&SharedValue> {
        match self {
            Taken::All(snapshot)
            | Taken::Change {
                current: snapshot, ..
            } => snapshot.value(),
            _ => None,
        }
    }
}

impl Encoder for Taken {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        if let Some(value) = self.value() {
            return (atoms::value(), value.encode(env)).encode(env);
        }
        match self {
            Taken::All(snapshot) => (atoms::rows(), snapshot.encode_all(env)).encode(env),
            Taken::Shared(all) => (atoms::rows(), all.copy(env)).encode(env),
            Taken::Change { current, before } => {
                (atoms::rows(), current.encode_change(env, before)).encode(env)
            }
            Taken::From { current, first } => {
                (atoms::rows(), current.encode_from(env, *first)).encode(env)
            }
            Taken::StreamChange {
                current,
                first,
                before,
            } => current.encode_stream_change(env, *first, &before.snapshot, before.first),
            Taken::Unchanged => atoms::unchanged().encode(env),
            Taken::Stale(reason) => (atoms::stale(), reason).encode(env),
            Taken::Fresh => atoms::fresh().encode(env),
        }
    }
}
