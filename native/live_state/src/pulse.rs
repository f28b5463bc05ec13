//! Whether the database answers at all.

use std::time::{Duration, Instant};

/// `R` is an error of the database.
#[derive(Debug)]
pub struct Pulse<R> {
    last_answer: Instant,
    silent_since: Option<Instant>,
    last_error: Option<R>,
}

impl<R: Clone> Pulse<R> {
    /// It counts as answering to begin with.
    pub fn new(now: Instant) -> Self {
        Pulse {
            last_answer: now,
            silent_since: None,
            last_error: None,
        }
    }

    /// Somebody listens from now on. Time in which nobody asked is no silence.
    pub fn listen(&mut self, now: Instant) {
        if self.silent_since.is_none() {
            self.last_answer = now;
        }
    }

    /// It has answered. Returns since when it had been silent, if it had.
    pub fn answered(&mut self, now: Instant) -> Option<Instant> {
        self.last_answer = now;
        self.last_error = None;
        self.silent_since.take()
    }

    /// It has refused.
    pub fn refused(&mut self, error: R) {
        self.last_error = Some(error);
    }

    /// True if it turns silent: it has not answered for `limit`.
    pub fn check(&mut self, now: Instant, limit: Duration) -> bool {
        let silent = now.saturating_duration_since(self.last_answer) >= limit;
        if silent && self.silent_since.is_none() {
            self.silent_since = Some(self.last_answer);
            return true;
        }
        false
    }

    /// When it last answered.
    pub fn last_answer(&self) -> Instant {
        self.last_answer
    }

    /// Since when it has been silent, if it is.
    pub fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// The last error since it last answered.
    pub fn last_error(&self) -> Option<&R> {
        self.last_error.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_answer_ends_the_silence_at_once() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let limit = Duration::from_secs(10);
        let mut pulse = Pulse::new(begin);
        assert!(!pulse.check(at(9), limit));
        pulse.refused("locked");
        assert!(pulse.check(at(10), limit));
        assert!(!pulse.check(at(11), limit), "it turns silent once");
        assert_eq!(pulse.last_error(), Some(&"locked"));
        assert_eq!(pulse.answered(at(12)), Some(begin));
        assert_eq!(pulse.last_error(), None);
        assert!(!pulse.check(at(21), limit));
        // Nobody asked for a minute.
        pulse.listen(at(80));
        assert!(!pulse.check(at(81), limit));
    }
}
