//! Events of live queries, reported to one process; Elixir turns them into telemetry and logs.

use std::time::Duration;

use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::error::Error;

mod atoms {
    rustler::atoms! {
        event,
        watch_armed, watch_fired, watch_failed, refreshed, retry, stale, fresh,
        silent, answering, unanswered, locked, unlocked, watch_limit, watches,
        code, duration, records, subscribers, changed, queries, live_queries, reason,
    }
}

/// An event and its facts.
pub enum Event<'a> {
    /// A watch is pending.
    WatchArmed,
    /// A watch has fired.
    WatchFired,
    /// A watch has failed, with FoundationDB's code.
    WatchFailed(i32),
    /// A live query was read: how long its batch took in microseconds, how many records it has,
    /// how many subscribers see them, and whether they have changed.
    Refreshed {
        /// Microseconds.
        duration: u64,
        /// Records.
        records: usize,
        /// Subscribers.
        subscribers: usize,
        /// Whether the records differ from before.
        changed: bool,
    },
    /// A batch of this many queries is retried after FoundationDB's error code.
    Retry {
        /// FoundationDB's code.
        code: i32,
        /// Queries.
        queries: usize,
    },
    /// A live query with this many subscribers has turned stale, for this reason.
    Stale(usize, &'a Error),
    /// A live query with this many subscribers is fresh again.
    Fresh(usize),
    /// The database does not answer, for this reason: this many live queries are stale.
    Silent(usize, &'a Error),
    /// The database answers again after this many microseconds: this many live queries are fresh.
    Answering(usize, u64),
    /// This many queries of a batch got no answer, and are retried in the side lane.
    Unanswered(usize),
    /// The database accepts no further watches: this many are pending.
    WatchLimit(u64, &'a Error),
    /// A transaction has found the database locked, with this error.
    Locked(&'a Error),
    /// It is no longer locked, after this time.
    Unlocked(Duration),
}

impl Event<'_> {
    /// Whether operators must know of it; other events are for telemetry only.
    fn is_incident(&self) -> bool {
        !matches!(
            self,
            Event::WatchArmed
                | Event::WatchFired
                | Event::WatchFailed(_)
                | Event::Refreshed { .. }
                | Event::Retry { .. }
        )
    }
}

/// The process that receives events, and whether it wants all of them. None by default, at no cost.
#[derive(Default)]
pub struct Reporter(Mutex<Option<(LocalPid, bool)>>);

impl Reporter {
    /// Makes the calling process the receiver, of all events or only of incidents.
    pub fn set(&self, env: Env<'_>, all: bool) {
        *self.0.lock() = Some((env.pid(), all));
    }

    /// Sends it an event. Must not be called on a scheduler thread.
    pub fn report(&self, event: &Event<'_>) {
        let reporter = *self.0.lock();
        let Some((pid, all)) = reporter else { return };
        if !all && !event.is_incident() {
            return;
        }
        let sent = OwnedEnv::new().send_and_clear(&pid, |env| {
            use atoms as a;
            let number = |name: Atom, value: i64| (name, value.encode(env));
            let (name, measurements): (Atom, Vec<(Atom, Term<'_>)>) = match *event {
                Event::WatchArmed => (a::watch_armed(), vec![]),
                Event::WatchFired => (a::watch_fired(), vec![]),
                Event::WatchFailed(code) => {
                    (a::watch_failed(), vec![number(a::code(), code.into())])
                }
                Event::Refreshed {
                    duration,
                    records,
                    subscribers,
                    changed,
                } => (
                    a::refreshed(),
                    vec![
                        number(a::duration(), duration as i64),
                        number(a::records(), records as i64),
                        number(a::subscribers(), subscribers as i64),
                        number(a::changed(), changed.into()),
                    ],
                ),
                Event::Retry { code, queries } => (
                    a::retry(),
                    vec![
                        number(a::code(), code.into()),
                        number(a::queries(), queries as i64),
                    ],
                ),
                Event::Stale(n, reason) => (
                    a::stale(),
                    vec![
                        number(a::subscribers(), n as i64),
                        (a::reason(), reason.encode(env)),
                    ],
                ),
                Event::Fresh(n) => (a::fresh(), vec![number(a::subscribers(), n as i64)]),
                Event::Silent(n, reason) => (
                    a::silent(),
                    vec![
                        number(a::live_queries(), n as i64),
                        (a::reason(), reason.encode(env)),
                    ],
                ),
                Event::Answering(n, duration) => (
                    a::answering(),
                    vec![
                        number(a::live_queries(), n as i64),
                        number(a::duration(), duration as i64),
                    ],
                ),
                Event::Unanswered(n) => (a::unanswered(), vec![number(a::queries(), n as i64)]),
                Event::WatchLimit(pending, reason) => (
                    a::watch_limit(),
                    vec![
                        number(a::watches(), pending as i64),
                        (a::reason(), reason.encode(env)),
                    ],
                ),
                Event::Locked(reason) => (a::locked(), vec![(a::reason(), reason.encode(env))]),
                Event::Unlocked(after) => (
                    a::unlocked(),
                    vec![number(a::duration(), after.as_micros() as i64)],
                ),
            };
            (a::event(), name, measurements).encode(env)
        });
        if sent.is_err() {
            // It has died; a new one will register itself.
            let mut current = self.0.lock();
            if current.is_some_and(|(current, _)| current == pid) {
                *current = None;
            }
        }
    }
}
