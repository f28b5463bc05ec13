//! Growing pauses between attempts.

use std::time::Duration;

/// The longest pause between two attempts.
pub const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Counts failures in a row. The first retry is immediate, the next ones wait 20 ms, 40 ms, … 5 s.
#[derive(Debug, Default, Clone)]
pub struct Backoff(u32);

impl Backoff {
    /// Another failure: how long to wait before the next attempt.
    pub fn failed(&mut self) -> Duration {
        let delay = match self.0 {
            0 => Duration::ZERO,
            failures => Duration::from_millis(10 << failures.min(9)).min(LONGEST_DELAY),
        };
        self.0 = self.0.saturating_add(1);
        delay
    }

    /// A success ends the row.
    pub fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.failed()).collect();
        assert_eq!(pauses[0], Duration::ZERO);
        assert_eq!(pauses[1], Duration::from_millis(20));
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses[11], LONGEST_DELAY);
        backoff.reset();
        assert_eq!(backoff.failed(), Duration::ZERO);
    }
}
