//! When a live query is read again.

use std::time::Duration;

use crate::backoff::Backoff;

/// A read to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How long to wait before.
    pub after: Duration,
    /// Whether it belongs in the side lane, where it keeps nobody else waiting.
    pub side: bool,
}

/// At most one read of a live query is queued, and at most one waits for its delay to pass.
#[derive(Debug, Default)]
pub struct Reads {
    /// A read is queued, and no batch has taken it up yet.
    queued: bool,
    /// A read will be queued when a delay has passed.
    delayed: bool,
    /// The last read took too long or got no answer: the next one must not hold others up.
    side: bool,
    failures: Backoff,
}

impl Reads {
    /// The query must be read as soon as possible.
    pub fn want(&mut self) -> Option<Schedule> {
        if self.queued {
            return None;
        }
        self.queued = true;
        Some(self.after(Duration::ZERO))
    }

    /// The query must be read, but not before this delay has passed.
    pub fn want_after(&mut self, delay: Duration) -> Option<Schedule> {
        if delay.is_zero() {
            return self.want();
        }
        if self.queued || self.delayed {
            return None;
        }
        self.delayed = true;
        Some(self.after(delay))
    }

    /// The read failed, or got no answer: when to try again.
    pub fn failed(&mut self, unanswered: bool) -> Option<Schedule> {
        self.side |= unanswered;
        let delay = self.failures.failed();
        self.want_after(delay)
    }

    /// A delay has passed.
    pub fn delay_passed(&mut self) {
        self.delayed = false;
    }

    /// A batch takes the queued read up. A change from now on queues another.
    pub fn begun(&mut self) {
        self.queued = false;
    }

    /// A read succeeded; `slow` if it belongs in the side lane all the same.
    pub fn succeeded(&mut self, slow: bool) {
        self.failures.reset();
        self.side = slow;
    }

    /// Whether a read is queued.
    pub fn is_queued(&self) -> bool {
        self.queued
    }

    /// Whether a read is queued or will be.
    pub fn is_pending(&self) -> bool {
        self.queued || self.delayed
    }

    /// Whether the next read belongs in the side lane.
    pub fn is_side(&self) -> bool {
        self.side
    }

    fn after(&self, after: Duration) -> Schedule {
        Schedule {
            after,
            side: self.side,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_is_queued_however_often_it_is_wanted() {
        let mut reads = Reads::default();
        assert!(reads.want().is_some());
        assert!(reads.want().is_none());
        reads.begun();
        assert!(reads.want().is_some());
    }

    #[test]
    fn a_read_that_got_no_answer_goes_to_the_side_until_one_succeeds() {
        let mut reads = Reads::default();
        let schedule = reads.failed(true).expect("a first retry");
        assert!(schedule.side && schedule.after.is_zero());
        reads.begun();
        let schedule = reads.failed(true).expect("a second retry");
        assert!(schedule.side && !schedule.after.is_zero());
        assert!(reads.failed(true).is_none(), "one delay at a time");
        reads.delay_passed();
        reads.succeeded(false);
        assert!(!reads.want().expect("a read").side);
    }
}
