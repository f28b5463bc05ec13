//! Storms: so many processes at once ask for what others have already that it pays to let them wait
//! for each other. A mass mount is one: all pages come again after a deployment.

use std::time::{Duration, Instant};

use rustler::LocalPid;

/// Calls of so many processes within `TIME` are a storm.
const CALLERS: usize = 8;
const TIME: Duration = Duration::from_millis(50);
/// After so long without a new call nobody is waited for.
pub const LULL: Duration = Duration::from_millis(4);
/// How long calls gather at most where they keep coming: longer with each time that many have joined.
const SHORTEST_WINDOW: Duration = Duration::from_millis(32);
/// However many come. Nor is a batch waited for of whose callers none has taken its results for so long.
pub const LONGEST_WINDOW: Duration = Duration::from_millis(256);
/// Whatever the callers of the last batch do: who waits has a timeout.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);
const MANY: usize = 64;

/// How many processes have called lately. One that calls again and again makes no storm: it waits for
/// each answer before its next call.
pub struct Storm {
    since: Option<Instant>,
    callers: Vec<LocalPid>,
    before: usize,
    window: Duration,
}

impl Default for Storm {
    fn default() -> Self {
        Storm {
            since: None,
            callers: Vec::new(),
            before: 0,
            window: SHORTEST_WINDOW,
        }
    }
}

impl Storm {
    /// Counts a caller.
    pub fn count(&mut self, caller: LocalPid) {
        self.roll();
        if self.callers.len() < CALLERS && !self.callers.contains(&caller) {
            self.callers.push(caller);
        }
    }

    /// Whether there is one.
    pub fn rages(&mut self) -> bool {
        self.roll();
        self.callers.len().max(self.before) >= CALLERS
    }

    /// How long calls gather where they keep coming.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// So many have joined in the last window.
    pub fn gathered(&mut self, joined: usize) {
        self.window = if joined >= MANY {
            LONGEST_WINDOW.min(self.window * 2)
        } else {
            SHORTEST_WINDOW.max(self.window / 2)
        };
    }

    fn roll(&mut self) {
        let now = Instant::now();
        let elapsed = self.since.map_or(Duration::MAX, |since| now - since);
        if elapsed >= TIME {
            // Who came in a time that is long over counts no more.
            let lately = elapsed < TIME * 2;
            self.before = if lately { self.callers.len() } else { 0 };
            self.callers.clear();
            self.since = Some(now);
        }
    }
}
