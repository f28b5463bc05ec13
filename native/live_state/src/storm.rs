//! Storms: so many processes ask at once for what others have already that it pays to let their
//! calls gather. A deployment is one: every page mounts again.

use std::time::{Duration, Instant};

/// Calls of this many processes within `TIME` are a storm.
const CALLERS: usize = 8;
const TIME: Duration = Duration::from_millis(50);
/// When no call has come for this long, the calls that have gathered are read.
pub const LULL: Duration = Duration::from_millis(4);
/// Where calls keep coming they gather for this long to begin with, and longer while many join.
const SHORTEST_WINDOW: Duration = Duration::from_millis(32);
/// The longest time that calls gather. Callers of the last batch that take nothing for as long are
/// not waited for.
pub const LONGEST_WINDOW: Duration = Duration::from_millis(256);
/// The longest wait for the callers of the last batch, whatever they do.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The window grows when this many have joined in the last one.
const MANY: usize = 64;

/// How many processes have called lately. A process that calls again and again makes no storm: it
/// waits for each answer before its next call.
#[derive(Debug)]
pub struct Storm<P> {
    since: Option<Instant>,
    callers: Vec<P>,
    before: usize,
    window: Duration,
}

impl<P> Default for Storm<P> {
    fn default() -> Self {
        Storm {
            since: None,
            callers: Vec::new(),
            before: 0,
            window: SHORTEST_WINDOW,
        }
    }
}

impl<P: PartialEq> Storm<P> {
    /// Counts a caller.
    pub fn count(&mut self, caller: P, now: Instant) {
        self.roll(now);
        if self.callers.len() < CALLERS && !self.callers.contains(&caller) {
            self.callers.push(caller);
        }
    }

    /// Whether there is a storm.
    pub fn rages(&mut self, now: Instant) -> bool {
        self.roll(now);
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

    fn roll(&mut self, now: Instant) {
        let elapsed = self
            .since
            .map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if elapsed >= TIME {
            // Callers of an earlier time do not count.
            let lately = elapsed < TIME * 2;
            self.before = if lately { self.callers.len() } else { 0 };
            self.callers.clear();
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_processes_make_a_storm_and_one_does_not() {
        let begin = Instant::now();
        let mut storm = Storm::default();
        for _ in 0..100 {
            storm.count(1, begin);
        }
        assert!(!storm.rages(begin));
        for caller in 0..CALLERS {
            storm.count(caller, begin);
        }
        assert!(storm.rages(begin));
        assert!(storm.rages(begin + TIME), "the last time counts, too");
        assert!(!storm.rages(begin + TIME * 4));
    }

    #[test]
    fn the_window_grows_while_many_join() {
        let mut storm = Storm::<u32>::default();
        for _ in 0..10 {
            storm.gathered(MANY);
        }
        assert_eq!(storm.window(), LONGEST_WINDOW);
        for _ in 0..10 {
            storm.gathered(0);
        }
        assert_eq!(storm.window(), SHORTEST_WINDOW);
    }
}
