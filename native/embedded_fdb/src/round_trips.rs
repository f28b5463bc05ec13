//! When answers arrive.
//!
//! A cluster's client sends a request and continues; the answer arrives while the program waits for
//! one. Here most answers are known immediately. The difference that a program may notice (what its
//! transaction knows when the next read is issued) follows a clock: each request takes a number, and its
//! answer has arrived once the program has waited for an answer with this number or a higher one.
//!
//! Each thread that sends requests has its own clock. A thread that waits for one transaction also gives
//! the answers of its others time to arrive. Other threads don't matter, so that a program's results do
//! not depend on what else runs in the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Default, Debug)]
struct Clock {
    begun: AtomicU64,
    awaited: AtomicU64,
}

impl Clock {
    fn wait_for(&self, number: u64) {
        // Checked first, because the answers of one burst are awaited one after the other.
        if self.awaited.load(Ordering::Relaxed) < number {
            self.awaited.fetch_max(number, Ordering::Relaxed);
        }
    }
}

/// Clocks of ended threads, for reuse by new threads: a clock is never freed.
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
    /// This thread sends a request.
    pub(crate) fn begin() -> Trip {
        CLOCK.with(|OwnClock(clock)| Trip {
            clock,
            number: clock.begun.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }

    /// The program waits for the answer.
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
