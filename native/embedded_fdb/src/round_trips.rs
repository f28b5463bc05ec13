//! When answers arrive.
//!
//! A cluster's client sends a request off and goes on; the answer arrives while the program waits for
//! one. Here most answers are known at once. What a program may notice of the difference (what its
//! transaction knows when the next read is issued) follows a clock: each request takes a number, and its
//! answer has arrived once somebody has waited for an answer with this number or a higher one.
//!
//! Each thread that sends requests has a clock of its own. A thread that waits for one transaction gives
//! the answers of its others the time to arrive; what other threads do does not matter, so that the
//! answers of a program do not depend on what else runs in the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Default, Debug)]
struct Clock {
    begun: AtomicU64,
    awaited: AtomicU64,
}

impl Clock {
    fn wait_for(&self, number: u64) {
        // Looked at first: the answers of one burst are waited for one after the other.
        if self.awaited.load(Ordering::Relaxed) < number {
            self.awaited.fetch_max(number, Ordering::Relaxed);
        }
    }
}

/// Clocks of threads that have ended, for threads to come: a clock is never freed.
static FREE: Mutex<Vec<&'static Clock>> = Mutex::new(Vec::new());

fn free() -> std::sync::MutexGuard<'static, Vec<&'static Clock>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of a running thread.
struct OwnClock(&'static Clock);

impl OwnClock {
    fn take() -> OwnClock {
        let ended = free().pop();
        OwnClock(ended.unwrap_or_else(|| Box::leak(Box::default())))
    }
}

impl Drop for OwnClock {
    fn drop(&mut self) {
        free().push(self.0);
    }
}

thread_local! {
    static CLOCK: OwnClock = OwnClock::take();
}

/// A request and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trip {
    clock: &'static Clock,
    number: u64,
}

impl Trip {
    /// A request is sent by this thread.
    pub(crate) fn begin() -> Trip {
        CLOCK.with(|OwnClock(clock)| Trip {
            clock,
            number: clock.begun.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }

    /// Somebody waits for the answer.
    pub(crate) fn wait(self) {
        self.clock.wait_for(self.number);
    }

    /// Whether the answer has arrived.
    pub(crate) fn is_over(self) -> bool {
        self.number <= self.clock.awaited.load(Ordering::Relaxed)
    }
}

/// This thread waits for something that takes longer than any answer.
pub(crate) fn wait_for_all() {
    CLOCK.with(|OwnClock(clock)| clock.wait_for(clock.begun.load(Ordering::Relaxed)));
}
