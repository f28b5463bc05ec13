//! What happens to live queries, told to one process: telemetry runs in Elixir.

use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv};

mod atoms {
    rustler::atoms! {
        event,
        watch_armed, watch_fired, watch_failed, refreshed, retry, stale, fresh,
        code, duration, records, subscribers, changed, queries,
    }
}

/// An event and its measurements.
pub enum Event {
    /// A watch is pending.
    WatchArmed,
    /// A watch has fired.
    WatchFired,
    /// A watch has failed, with FoundationDB's code.
    WatchFailed(i32),
    /// A live query was read: how long its batch took in microseconds, how many records it has now,
    /// how many subscribers see them, and whether they have changed.
    Refreshed {
        /// Microseconds.
        duration: u64,
        /// Records.
        records: usize,
        /// Subscribers.
        subscribers: usize,
        /// Whether the records are others than before.
        changed: bool,
    },
    /// A batch of so many queries is tried again after FoundationDB's error code.
    Retry {
        /// FoundationDB's code.
        code: i32,
        /// Queries.
        queries: usize,
    },
    /// So many subscribers see stale data.
    Stale(usize),
    /// So many subscribers see fresh data again.
    Fresh(usize),
}

/// The process that hears of events; none by default, which costs nothing.
#[derive(Default)]
pub struct Reporter(Mutex<Option<LocalPid>>);

impl Reporter {
    /// Makes the calling process the one.
    pub fn set(&self, env: Env<'_>) {
        *self.0.lock() = Some(env.pid());
    }

    /// Tells it. Must not be called on a scheduler thread.
    pub fn tell(&self, event: &Event) {
        let reporter = *self.0.lock();
        let Some(pid) = reporter else { return };
        let sent = OwnedEnv::new().send_and_clear(&pid, |env| {
            use atoms as a;
            let (name, measurements): (Atom, Vec<(Atom, i64)>) = match *event {
                Event::WatchArmed => (a::watch_armed(), vec![]),
                Event::WatchFired => (a::watch_fired(), vec![]),
                Event::WatchFailed(code) => (a::watch_failed(), vec![(a::code(), code.into())]),
                Event::Refreshed {
                    duration,
                    records,
                    subscribers,
                    changed,
                } => (
                    a::refreshed(),
                    vec![
                        (a::duration(), duration as i64),
                        (a::records(), records as i64),
                        (a::subscribers(), subscribers as i64),
                        (a::changed(), changed.into()),
                    ],
                ),
                Event::Retry { code, queries } => (
                    a::retry(),
                    vec![(a::code(), code.into()), (a::queries(), queries as i64)],
                ),
                Event::Stale(n) => (a::stale(), vec![(a::subscribers(), n as i64)]),
                Event::Fresh(n) => (a::fresh(), vec![(a::subscribers(), n as i64)]),
            };
            (a::event(), name, measurements).encode(env)
        });
        if sent.is_err() {
            // It has died; a new one will set itself.
            let mut current = self.0.lock();
            if *current == Some(pid) {
                *current = None;
            }
        }
    }
}
